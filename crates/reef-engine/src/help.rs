//! A caller that works for the device while it waits for its request.

use reef_base::TaskKey;
use reef_device::{Device, Seat};

use crate::effect::Helper;
use crate::lane::Lane;

/// A seat that a device gave to the calling thread. It works there once, or gives it back with the drop.
pub(crate) struct Helping<'a> {
    device: &'a dyn Device,
    key: TaskKey,
    seat: Option<Seat>,
}

impl<'a> Helping<'a> {
    /// What came of an offer to help.
    pub(crate) fn of(lanes: &'a [Lane], helper: Helper) -> Option<Helping<'a>> {
        match helper {
            Helper::No | Helper::Offers(_) => None,
            Helper::Has(lane, seat, key) => {
                Some(Helping { device: &*lanes[lane].device, key, seat: Some(seat) })
            }
        }
    }

    /// Works until `done` says so, or there is nothing to do for this thread.
    pub(crate) fn work(mut self, done: &dyn Fn() -> bool) {
        if let Some(seat) = self.seat.take() {
            self.device.help(seat, self.key, done);
        }
    }
}

impl Drop for Helping<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.device.help(seat, self.key, &|| true);
        }
    }
}
