//! What happens next: admission by deadline, expiry, refusal of what is drained, and the choice of what
//! starts.

use reef_base::{Class, Nanos, Share, TaskKey};

use crate::batch::Turn;
use crate::board::Task;
use crate::heap::{Item, Order};
use crate::model::lane;
use crate::scheduler::{RANKS, Scheduler, rank, real_time_key};
use crate::table::{Admitted, State};
use crate::types::{Action, CancelReason, Drain, ModelId, Refusal, Request};

impl Scheduler {
    /// The next thing to do at `now`; call it after every event until it returns `None`.
    pub fn next_action(&mut self, now: Nanos) -> Option<Action> {
        if let Some(action) = self.next_stop() {
            return Some(action);
        }
        if let Some(action) = self.next_drained() {
            return Some(action);
        }
        if let Some(action) = self.next_expired(now) {
            return Some(action);
        }
        for retry_at in &mut self.retry_at {
            if retry_at.is_some_and(|at| at <= now) {
                *retry_at = None;
            }
        }
        self.next_start(now)
    }

    /// Refuses a request whose deadline has passed or, by what was measured, cannot be met behind the work
    /// that goes before it, unless it is to be a probe. `order` is its place in the queue.
    pub(crate) fn admit(&mut self, now: Nanos, request: &Request, order: Order) -> Result<Admitted, Refusal> {
        let model = self.model(request.model);
        let (expected, epoch) = (model.service(request.plan).get(), model.service(request.plan).epoch());
        let admitted = Admitted { expected: model.share(request), probe: false, epoch };
        let Some(deadline) = request.deadline else { return Ok(admitted) };
        if deadline <= now {
            return Err(Refusal::DeadlinePassed);
        }
        let left = deadline - now;
        let own = rank(request.class);
        let urgent: u128 = self.queued_ns[..own].iter().sum();
        let on_board = self.left_on_board(now, request);
        let before = |queued: u128| Nanos(u64::try_from(urgent + on_board + queued).unwrap_or(u64::MAX));
        // All of its level is more than what goes before it: mostly enough to know.
        if expected == Nanos::ZERO || before(self.queued_ns[own]) + expected <= left {
            return Ok(admitted);
        }
        let before = before(self.queued_before(request, order));
        if before + expected <= left {
            return Ok(admitted);
        }
        if self.begin_probe(now, request, left - before) {
            return Ok(Admitted { expected: Nanos::ZERO, probe: true, epoch });
        }
        Err(Refusal::DeadlineUnreachable { needed: before + expected, left })
    }

    /// Whether a request that the estimate of its plan refuses becomes a probe.
    fn begin_probe(&mut self, now: Nanos, request: &Request, left: Nanos) -> bool {
        let measured = self.model_mut(request.model).service_mut(request.plan);
        let probes = measured.may_probe(now, left);
        if probes {
            measured.probe_begins();
        }
        probes
    }

    /// What is left to do of the tasks on the board that end before a request, queued now, can: those that
    /// are as urgent, and if there is no place for it, what is done until there may be one.
    pub(crate) fn left_on_board(&mut self, now: Nanos, request: &Request) -> u128 {
        let key = real_time_key(request).unwrap_or(TaskKey::best_effort(u64::MAX));
        let (own, lane) = (rank(request.class), lane(request.class));
        let lane_of = |task: &Task| usize::from(!task.key.class().is_real_time());
        let first_of_lane = || self.board.first(|task| lane_of(task) == lane);
        let first_of_model = || self.board.first(|task| task.model == request.model && lane_of(task) <= lane);
        let place = if self.has_slot(own) { None } else { first_of_lane() };
        let turn = if self.model(request.model).may_start(lane) { None } else { first_of_model() };
        if !request.class.is_real_time() && place.is_none() && turn.is_none() {
            return self.left_beside(now, request);
        }
        let last = [place, turn].into_iter().flatten().fold(key, TaskKey::max);
        self.board.left(now, last)
    }

    /// What is done of the tasks on the board before a best-effort request beside them ends: other models get
    /// what their weights are due meanwhile.
    fn left_beside(&mut self, now: Nanos, request: &Request) -> u128 {
        let own = self.model(request.model);
        let (expected, weight) = (own.service(request.plan).get(), own.options.weight);
        let Self { models, board, .. } = self;
        board.left_beside(now, |task| {
            let model = models[task.model.index()].as_ref().expect("a model with tasks is there");
            let shares = !task.key.class().is_real_time() && task.model != request.model;
            let due = u128::from(expected.0) * u128::from(model.options.weight) / u128::from(weight.max(1));
            shares.then_some(due)
        })
    }

    /// Expected service time of queued requests of the same level that go before `order`. Among best-effort
    /// requests the order is not known beforehand: none.
    pub(crate) fn queued_before(&self, request: &Request, order: Order) -> u128 {
        if !request.class.is_real_time() {
            return 0;
        }
        let own = real_time_rank_of(order);
        let before = |item: &&Item| item.order < order && real_time_rank_of(item.order) == own;
        let items = self.models.iter().flatten().flat_map(|model| model.real_time.items());
        items.filter(before).map(|item| u128::from(self.table.get(item.slot).expected)).sum()
    }

    /// Somebody on the board whose end was asked for.
    fn next_stop(&mut self) -> Option<Action> {
        let slot = self.stopping.pop()?;
        let request = self.table.id(slot);
        Some(match self.table.get(slot).state {
            State::Joined => Action::Leave { request },
            _ => Action::CancelRunning { request },
        })
    }

    /// A queued request of a model that refuses, or one that was given up.
    fn next_drained(&mut self) -> Option<Action> {
        if self.draining == 0 && !self.best_effort_abandoned {
            return None;
        }
        let abandoned = self.best_effort_abandoned;
        let (slot, why) = self.models.iter().flatten().find_map(|model| {
            let first = |refused: bool, queue: &crate::heap::Heap| queue.peek().filter(|_| refused);
            let refuses = model.drain == Some(Drain::Refuse);
            first(refuses, &model.real_time)
                .or(first(refuses, &model.best_effort))
                .map(|item| (item.slot, Refusal::Draining))
                .or(first(abandoned, &model.best_effort).map(|item| (item.slot, Refusal::ShuttingDown)))
        })?;
        Some(self.refuse(slot, why))
    }

    fn next_expired(&mut self, now: Nanos) -> Option<Action> {
        let item = self.timers.peek().filter(|item| item.order.0 <= now.0)?;
        let entry = self.table.get(item.slot);
        if entry.state != State::Queued {
            // It is stopped once, and its timer goes then.
            self.stop(item.slot, CancelReason::Deadline);
            return self.next_stop();
        }
        let passed = entry.request.deadline.is_some_and(|deadline| deadline <= now);
        Some(self.refuse(item.slot, if passed { Refusal::DeadlinePassed } else { Refusal::Timeout }))
    }

    fn refuse(&mut self, slot: u32, why: Refusal) -> Action {
        let request = self.table.id(slot);
        self.drop_queued(slot);
        Action::Refuse { request, why }
    }

    fn next_start(&mut self, now: Nanos) -> Option<Action> {
        self.clear_holds(now);
        let turn = self.next_real_time(now).or_else(|| self.next_best_effort(now))?;
        let slot = match turn {
            Turn::Batch => return Some(self.start_batch(now)),
            Turn::Refuse(slot, why) => return Some(self.refuse(slot, why)),
            Turn::One(slot) => slot,
        };
        if let Some(why) = self.too_late(now, slot) {
            return Some(self.refuse(slot, why));
        }
        self.dequeue(slot);
        let key = self.put_on_board(now, slot);
        // Time in the queue is over; the deadline still counts.
        self.set_timer(slot, self.table.get(slot).request.deadline);
        Some(Action::Start { request: self.table.id(slot), key })
    }

    /// Why a request must not start, if so: by what is known now it would be stopped before its end.
    pub(crate) fn too_late(&mut self, now: Nanos, slot: u32) -> Option<Refusal> {
        let entry = self.table.get(slot);
        let left = entry.request.deadline?.since(now);
        let (request, epoch) = (entry.request, entry.epoch);
        let measured = self.model(request.model).service(request.plan);
        let needed = if measured.epoch() == epoch { measured.get() } else { Nanos(entry.expected) };
        if entry.probe || needed <= left {
            return None;
        }
        if measured.epoch() == epoch && self.begin_probe(now, &request, left) {
            self.table.get_mut(slot).probe = true;
            return None;
        }
        Some(Refusal::DeadlineUnreachable { needed, left })
    }

    /// Books a task that starts; its key.
    pub(crate) fn put_on_board(&mut self, now: Nanos, slot: u32) -> TaskKey {
        let request = self.table.get(slot).request;
        let lane = lane(request.class);
        self.on_board[lane] += 1;
        self.starts += 1;
        let own = self.model(request.model);
        let share = Share { owner: own.owner, weight: own.options.weight };
        let key = real_time_key(&request).unwrap_or(TaskKey::best_effort(self.starts).on(share));
        let (virtual_now, slots) = (self.virtual_now, self.options.best_effort_slots);
        let model = self.model_mut(request.model);
        model.on_board[lane] += 1;
        let mut charged = 0;
        if lane == 1 {
            charged = model.charge(virtual_now, slots);
            let pass = model.pass();
            self.virtual_now = virtual_now.max(pass);
        }
        let entry = self.table.get_mut(slot);
        entry.state = State::OnBoard;
        entry.started = now;
        entry.charged = charged;
        let left = Nanos(entry.expected);
        self.board.add(now, Task { key, slot, model: request.model, left });
        key
    }

    /// Whether the board has a place for a request of this rank. Real-time levels leave one for each more
    /// urgent level that some model has, as long as there are more places than such levels.
    pub(crate) fn has_slot(&self, rank: usize) -> bool {
        if rank == RANKS - 1 {
            return self.on_board[1] < self.best_effort_slots;
        }
        let slots = self.options.board_slots - self.options.best_effort_slots;
        let more_urgent = self.levels & ((1 << rank) - 1);
        let kept_free = (more_urgent.count_ones() as usize).min(slots - 1);
        self.on_board[0] + kept_free < slots
    }

    /// The most urgent real-time request that waits for nobody to join it, if there is a slot for its level.
    fn next_real_time(&mut self, now: Nanos) -> Option<Turn> {
        if self.retry_at[0].is_some() {
            return None;
        }
        loop {
            let models = self.models.iter().enumerate();
            let heads = models.filter_map(|(index, model)| {
                let model = model.as_ref().filter(|model| model.may_start(0) && model.hold[0].is_none())?;
                Some((index, model.real_time.peek()?))
            });
            let (index, first) = heads.min_by_key(|(_, item)| item.order)?;
            if !self.has_slot(usize::from(real_time_rank_of(first.order))) {
                return None;
            }
            if let Some(turn) = self.turn(now, index, 0, first) {
                return Some(turn);
            }
        }
    }

    /// The oldest request of the best-effort model that has used the least of its share, of those whose
    /// requests wait for nobody to join them.
    fn next_best_effort(&mut self, now: Nanos) -> Option<Turn> {
        if !self.has_slot(RANKS - 1) || self.retry_at[1].is_some() {
            return None;
        }
        loop {
            let models = self.models.iter().enumerate();
            let heads = models.filter_map(|(index, model)| {
                let model = model.as_ref().filter(|model| model.may_start(1) && model.hold[1].is_none())?;
                Some((index, model.tag(), model.best_effort.peek()?))
            });
            let (index, _, first) = heads.min_by_key(|(_, tag, item)| (*tag, item.order))?;
            if let Some(turn) = self.turn(now, index, 1, first) {
                return Some(turn);
            }
        }
    }

    /// What is kept in the books must agree with what is there. For tests: it is slow.
    #[doc(hidden)]
    pub fn check(&self) {
        let mut queued = [0; RANKS];
        let mut waiting = 0;
        for (index, model) in self.models.iter().enumerate() {
            let Some(model) = model else { continue };
            for item in model.real_time.items().iter().chain(model.best_effort.items()) {
                let entry = self.table.get(item.slot);
                assert_eq!((entry.state, entry.request.model), (State::Queued, ModelId(index as u32)));
                queued[rank(entry.request.class)] += u128::from(entry.expected);
                waiting += 1;
            }
            let rows = model.options.batching.map_or(1, |batching| batching.rows_max as usize);
            let returned = self.options.board_slots * rows;
            for class in [Class::real_time(0), Class::BestEffort] {
                assert!(model.queue(class).len() <= model.options.queue_len + returned);
            }
        }
        assert_eq!(queued, self.queued_ns);
        assert_eq!(self.board.len(), self.on_board[0] + self.on_board[1]);
        assert_eq!(self.table.on_board().count(), self.on_board[0] + self.on_board[1]);
        let joined: usize = self.table.on_board().map(|slot| self.check_members(slot)).sum();
        assert_eq!(self.table.live(), waiting + joined + self.on_board[0] + self.on_board[1]);
        let kept = self.options.board_slots - self.options.best_effort_slots;
        assert!(self.on_board[0] <= kept && self.on_board[1] <= self.options.best_effort_slots);
    }
}

/// The rank in the order of a real-time request.
fn real_time_rank_of(order: Order) -> u8 {
    TaskKey::from_bits(order.0).rank()
}
