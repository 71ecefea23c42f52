//! What would go before a request that the scheduler does not have. Changes nothing.

use reef_base::{Nanos, TaskKey};

use crate::heap::Order;
use crate::scheduler::{RANKS, Scheduler, rank, real_time_key};
use crate::types::{Forecast, Request};

impl Scheduler {
    /// What would go before `request` if it were queued at `now`. `measured` is false where its plan is not
    /// there yet: its number says nothing then.
    pub fn forecast(&mut self, now: Nanos, request: &Request, measured: bool) -> Forecast {
        let key = real_time_key(request).unwrap_or(TaskKey::best_effort(u64::MAX));
        let order = (real_time_key(request).map_or(0, TaskKey::get), u64::MAX);
        let model = self.model(request.model);
        let room = !self.closed
            && model.drain.is_none()
            && model.queue(request.class).len() < model.options.queue_len;
        let service = match measured {
            true => model.service(request.plan).get(),
            false => Nanos::ZERO,
        };
        let mut forecast = Forecast { service, room, ..Forecast::default() };
        for (other, slot) in self.board.tasks() {
            self.count(&mut forecast, slot, other <= key);
        }
        let own = rank(request.class);
        for item in self.models.iter().flatten().flat_map(|model| model.real_time.items()) {
            self.count(&mut forecast, item.slot, own == RANKS - 1 || item.order < order);
        }
        for item in self.models.iter().flatten().flat_map(|model| model.best_effort.items()) {
            self.count(&mut forecast, item.slot, own == RANKS - 1);
        }
        forecast.before = self.measured_before(now, request, order);
        forecast
    }

    fn count(&self, forecast: &mut Forecast, slot: u32, goes_before: bool) {
        match goes_before {
            true => {
                forecast.ahead += 1;
                forecast.unmeasured += usize::from(self.table.get(slot).expected == 0);
            }
            false => forecast.behind += 1,
        }
    }

    /// Best-effort requests take turns with each other: all of them may go before it.
    fn measured_before(&mut self, now: Nanos, request: &Request, order: Order) -> Nanos {
        let own = rank(request.class);
        let urgent: u128 = self.queued_ns[..own].iter().sum();
        let same = match own == RANKS - 1 {
            true => self.queued_ns[own],
            false => self.queued_before(request, order),
        };
        let sum = urgent + same + self.left_on_board(now, request);
        Nanos(u64::try_from(sum).unwrap_or(u64::MAX))
    }
}
