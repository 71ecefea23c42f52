//! The state machine: events in, actions out. See the crate's documentation for the states.
//!
//! Who may touch what: events change requests, queues and timers and never start anything;
//! [`Scheduler::next_action`] alone moves requests to the board (in `dispatch`). Every live request is in
//! exactly one of: one model's queue (`Queued`), the board (`OnBoard`), a batch on the board (`Joined`).

use reef_base::{Class, Level, Nanos, TaskKey, limits};

use crate::board::Board;
use crate::gathering::Gathering;
use crate::heap::{ABSENT, Heap, Item, Order};
use crate::model::{Account, Model, lane};
use crate::table::{Entry, State, Table};
use crate::types::{
    CancelReason, Cancelled, Drain, Ended, ModelId, ModelOptions, Refusal, Request, RequestId, SchedOptions,
    Usage,
};

/// After a rejection with nothing of ours on the board, when to try again.
const RETRY_AFTER: Nanos = Nanos::from_micros(200);

pub(crate) const RANKS: usize = limits::REAL_TIME_LEVELS as usize + 1;

/// The task-level scheduler of one device.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) options: SchedOptions,
    /// As of now; `options` has the most it may be.
    pub(crate) best_effort_slots: usize,
    pub(crate) models: Vec<Option<Model>>,
    /// Where the search for the next model's owner begins.
    next_owner: usize,
    pub(crate) table: Table,
    pub(crate) timers: Heap,
    /// On the board whose end was asked for, to be told to the device.
    pub(crate) stopping: Vec<u32>,
    pub(crate) on_board: [usize; 2],
    pub(crate) board: Board,
    /// Expected service time of what is queued, by rank.
    pub(crate) queued_ns: [u128; RANKS],
    /// Bit per real-time level that some model has.
    pub(crate) levels: u16,
    /// Virtual time: the greatest pass of a best-effort model that something of was started.
    pub(crate) virtual_now: u128,
    /// The greatest pass of all.
    pass_max: u128,
    /// Best-effort requests that wait or run.
    best_effort_live: usize,
    /// The device gave a task of this lane back: nothing of it starts before this time or the next
    /// completion.
    pub(crate) retry_at: [Option<Nanos>; 2],
    pub(crate) closed: bool,
    pub(crate) best_effort_abandoned: bool,
    pub(crate) draining: usize,
    /// Models whose requests may be joined.
    pub(crate) batching: usize,
    pub(crate) gathering: Gathering,
    arrivals: u64,
    pub(crate) starts: u64,
    /// The largest capacity that there was: no request has a slot beyond.
    room: usize,
}

impl Scheduler {
    /// A scheduler without models. Panics unless the board has more slots than best-effort tasks may take.
    pub fn new(options: SchedOptions) -> Self {
        assert!(options.best_effort_slots < options.board_slots, "real-time tasks need a slot");
        assert!(options.board_slots <= limits::BOARD_SLOTS_MAX, "no board is larger");
        Scheduler {
            options,
            best_effort_slots: options.best_effort_slots,
            models: Vec::new(),
            next_owner: 0,
            table: Table::default(),
            timers: Heap::default(),
            stopping: Vec::with_capacity(options.board_slots),
            on_board: [0; 2],
            board: Board::with_capacity(options.board_slots),
            queued_ns: [0; RANKS],
            levels: 0,
            virtual_now: 0,
            pass_max: 0,
            best_effort_live: 0,
            retry_at: [None; 2],
            closed: false,
            best_effort_abandoned: false,
            draining: 0,
            batching: 0,
            gathering: Gathering::default(),
            arrivals: 0,
            starts: 0,
            room: 0,
        }
    }

    /// Adds a model; `None` when there are [`limits::MODELS_MAX`]. Allocates everything that it will need.
    pub fn add_model(&mut self, options: ModelOptions) -> Option<ModelId> {
        self.add_model_again(options, Account::default())
    }

    /// As [`Scheduler::add_model`], for a model that was there before and left this account.
    pub fn add_model_again(&mut self, options: ModelOptions, account: Account) -> Option<ModelId> {
        let free = self.models.iter().position(Option::is_none);
        let index = match free {
            Some(index) => index,
            None if self.models.len() < limits::MODELS_MAX => {
                self.models.push(None);
                self.models.len() - 1
            }
            None => return None,
        };
        let owner = self.free_owner();
        self.models[index] = Some(Model::new(options, owner, account, self.virtual_now));
        self.update_levels();
        if let Some(batching) = options.batching {
            self.batching += 1;
            self.gathering.reserve(batching.rows_max as usize);
            self.stopping.reserve(self.options.board_slots * (1 + batching.rows_max as usize));
        }
        let room = self.capacity();
        self.room = self.room.max(room);
        self.table.reserve(room - self.table.live().min(room));
        self.timers.reserve(room - self.timers.len().min(room));
        Some(ModelId(index as u32))
    }

    /// An owner for a new model's tasks. Not the one that was given back last: what that owes on the board is
    /// not the new model's.
    fn free_owner(&mut self) -> u16 {
        let taken =
            |owner: usize| self.models.iter().flatten().any(|model| usize::from(model.owner) == owner);
        let mut owners = (0..limits::MODELS_MAX).map(|step| (self.next_owner + step) % limits::MODELS_MAX);
        let owner = owners.find(|&owner| !taken(owner)).expect("there are fewer models than owners");
        self.next_owner = owner + 1;
        owner as u16
    }

    /// What a model owes; to be kept when it is removed and may come again, until [`Scheduler::is_settled`].
    pub fn account(&self, id: ModelId) -> Account {
        self.models.get(id.index()).and_then(Option::as_ref).map_or(Account::default(), Model::account)
    }

    /// Whether an account may be forgotten: nothing is left to pay.
    pub fn is_settled(&self, account: &Account) -> bool {
        account.is_settled(self.virtual_now)
    }

    /// Removes a model that has no requests left; false when it has.
    pub fn remove_model(&mut self, id: ModelId) -> bool {
        match self.models.get(id.index()) {
            Some(Some(model)) if model.is_idle() => {
                self.draining -= usize::from(model.drain.is_some());
                self.batching -= usize::from(model.options.batching.is_some());
                self.models[id.index()] = None;
                self.update_levels();
                true
            }
            Some(Some(_)) => false,
            _ => true,
        }
    }

    /// From now on the model takes no requests; what is queued ends as `drain` says.
    pub fn drain_model(&mut self, id: ModelId, drain: Drain) {
        if let Some(Some(model)) = self.models.get_mut(id.index()) {
            self.draining += usize::from(model.drain.is_none());
            model.drain = Some(drain);
            model.hold = [None; 2];
        }
    }

    /// From now on no request is taken; what is queued runs.
    pub fn close(&mut self) {
        self.closed = true;
        self.clear_holds(Nanos::MAX);
    }

    /// Gives up every best-effort request: queued ones are refused, running ones stopped.
    pub fn abandon_best_effort(&mut self) {
        self.best_effort_abandoned = true;
        self.stop_running(|request| !request.class.is_real_time());
    }

    /// How many best-effort tasks may be on the board from now on, at most as many as the options said.
    pub fn set_best_effort_slots(&mut self, slots: usize) {
        self.best_effort_slots = slots.min(self.options.best_effort_slots);
    }

    /// Queues a request. An error is the request's end.
    pub fn submit(&mut self, now: Nanos, request: Request) -> Result<RequestId, Refusal> {
        if self.closed {
            return Err(Refusal::ShuttingDown);
        }
        let model = self.model(request.model);
        if model.drain.is_some() {
            return Err(Refusal::Draining);
        }
        let full = model.queue(request.class).len() >= model.options.queue_len;
        // What came back from the device has places of others: those are left that batches may need.
        if full || self.table.live() + self.options.board_slots >= self.room {
            return Err(Refusal::QueueFull);
        }
        self.take(now, request)
    }

    /// Queues a request that has begun on another device, where it was admitted: as long as the model is
    /// there, nothing but its deadline refuses it. How many there are is the caller's to bound, by the length
    /// of the model's queue. An error is the request's end.
    pub fn submit_begun(&mut self, now: Nanos, request: Request) -> Result<RequestId, Refusal> {
        self.take(now, request)
    }

    fn take(&mut self, now: Nanos, request: Request) -> Result<RequestId, Refusal> {
        let order = self.next_order(&request);
        let admitted = self.admit(now, &request, order)?;
        let slot = self.table.insert(now, request, order, admitted);
        if !request.class.is_real_time() {
            self.best_effort_live += 1;
            self.wake(request.model);
        }
        self.enqueue(slot);
        let expiry = [request.deadline, request.queue_until].into_iter().flatten().min();
        self.set_timer(slot, expiry);
        Ok(self.table.id(slot))
    }

    /// Asks for a request's end.
    pub fn cancel(&mut self, id: RequestId) -> Cancelled {
        let Some(slot) = self.table.find(id) else { return Cancelled::Unknown };
        if self.table.get(slot).state == State::Queued {
            self.drop_queued(slot);
            return Cancelled::Dropped;
        }
        self.stop(slot, CancelReason::Requested);
        Cancelled::Stopping
    }

    /// Why the end of a task on the board was asked for, if it was.
    pub fn stop_reason(&self, id: RequestId) -> Option<CancelReason> {
        self.cancel_of(self.table.find(id)?)
    }

    /// The device did not take a started task now (a full board): it is queued again, at its old place. To be
    /// reported before any other event. Of a batch, each member is.
    pub fn on_rejected(&mut self, now: Nanos, id: RequestId) {
        let Some(slot) = self.table.find(id) else { return };
        let (lane, charged) = self.leave_board(now, slot);
        let request = self.table.get(slot).request;
        self.model_mut(request.model).refund(charged);
        self.retry_at[lane] = Some(now + RETRY_AFTER);
        if !self.table.get(slot).is_batch {
            return self.queue_again(slot);
        }
        loop {
            let member = self.table.get(slot).next;
            if member == ABSENT {
                break;
            }
            self.table.unlink(slot, member);
            self.queue_again(member);
        }
        self.stopping.retain(|&other| other != slot);
        self.table.remove(slot);
    }

    /// Queues a request that was not to stay on the board, at its old place.
    pub(crate) fn queue_again(&mut self, slot: u32) {
        self.stopping.retain(|&other| other != slot);
        let entry = self.table.get_mut(slot);
        entry.state = State::Queued;
        entry.cancel = None;
        let request = entry.request;
        self.enqueue(slot);
        let expiry = [request.deadline, request.queue_until].into_iter().flatten().min();
        self.set_timer(slot, expiry);
    }

    /// A task has ended, however. `None` if the id is not of a task on the board. A batch has no members any
    /// more by then.
    pub fn on_complete(&mut self, now: Nanos, id: RequestId, usage: Usage) -> Option<Ended> {
        let slot = self.table.find(id)?;
        if self.table.get(slot).state != State::OnBoard {
            return None;
        }
        let (lane, charged) = self.leave_board(now, slot);
        self.retry_at = [None; 2];
        self.stopping.retain(|&other| other != slot);
        self.set_timer(slot, None);
        let entry = self.table.remove(slot);
        assert_eq!(entry.next, ABSENT, "the members of a batch are taken off it first");
        let model = self.model_mut(entry.request.model);
        if lane == 1 {
            model.settle(charged, usage.cu_time, usage.service.is_some());
        }
        let measured = model.service_mut(entry.request.plan);
        if measured.epoch() == entry.epoch && Model::measures(entry.request.plan) {
            if entry.probe {
                measured.probe_ends(now, entry.request.deadline.unwrap_or(Nanos::MAX).since(entry.started));
            }
            match (usage.service, usage.stopped_after) {
                (Some(service), _) => measured.record(now, service),
                (None, Some(ran)) => measured.record_stopped(ran),
                (None, None) => {}
            }
        }
        let pass = model.pass();
        self.pass_max = self.pass_max.max(pass);
        if !entry.is_batch {
            self.ended(entry.request.class);
        }
        Some(Ended { request: entry.request, cancel: entry.cancel })
    }

    /// When [`Scheduler::next_action`] must be called again if nothing else happens before.
    pub fn next_wakeup(&self) -> Option<Nanos> {
        let timer = self.timers.peek().map(|item| Nanos(item.order.0));
        self.retry_at.iter().flatten().copied().chain(timer).chain(self.next_hold()).min()
    }

    /// Forgets what was measured for a plan; its number names another one in requests submitted from now on.
    /// Those submitted before keep what was expected of them, and measure nothing.
    pub fn reset_plan(&mut self, id: ModelId, plan: u16) {
        if let Some(Some(model)) = self.models.get_mut(id.index()) {
            model.service_mut(plan).reset();
        }
    }

    /// Requests of a model that wait, real-time or best-effort.
    pub fn queued(&self, id: ModelId, class: Class) -> usize {
        self.models.get(id.index()).and_then(Option::as_ref).map_or(0, |model| model.queue(class).len())
    }

    /// Tasks of a model on the board, real-time or best-effort.
    pub fn on_board(&self, id: ModelId, class: Class) -> usize {
        self.models.get(id.index()).and_then(Option::as_ref).map_or(0, |model| model.on_board[lane(class)])
    }

    /// What a plan takes from its first block to its last with nothing in the way, as far as that is learned:
    /// the estimate that deadlines are compared with, which leans low. Zero before it says anything.
    pub fn service_time(&self, id: ModelId, plan: u16) -> Nanos {
        let model = self.models.get(id.index()).and_then(Option::as_ref);
        model.map_or(Nanos::ZERO, |model| model.service(plan).get())
    }

    /// Whether a model has no request, waiting or running.
    pub fn is_model_idle(&self, id: ModelId) -> bool {
        self.models.get(id.index()).and_then(Option::as_ref).is_none_or(Model::is_idle)
    }

    /// Whether no request waits or runs.
    pub fn is_idle(&self) -> bool {
        self.table.live() == 0
    }

    /// Whether no real-time request waits or runs.
    pub fn is_real_time_idle(&self) -> bool {
        self.on_board[0] == 0 && self.models.iter().flatten().all(|model| model.real_time.len() == 0)
    }

    /// Requests that may be live at once: bounds [`RequestId::slot`].
    pub fn capacity(&self) -> usize {
        let models = || self.models.iter().flatten().map(|model| &model.options);
        let queues: usize = models().map(|options| 2 * options.queue_len).sum();
        let rows = models().filter_map(|options| options.batching).map(|batching| batching.rows_max);
        // What is on the board: a task each, and where that is a batch its members; and as many batches
        // again, of what came back from there.
        queues + self.options.board_slots * (2 + rows.max().unwrap_or(0) as usize)
    }
}

impl Scheduler {
    pub(crate) fn model(&self, id: ModelId) -> &Model {
        self.models[id.index()].as_ref().expect("the model was added and not removed")
    }

    pub(crate) fn model_mut(&mut self, id: ModelId) -> &mut Model {
        self.models[id.index()].as_mut().expect("the model was added and not removed")
    }

    /// Why the end of what is on the board was asked for: its own, or that of the batch that it is in.
    pub(crate) fn cancel_of(&self, slot: u32) -> Option<CancelReason> {
        let entry = self.table.get(slot);
        let batch = || self.table.get(entry.batch).cancel;
        entry.cancel.or_else(|| if entry.batch == ABSENT { None } else { batch() })
    }

    fn next_order(&mut self, request: &Request) -> Order {
        self.arrivals += 1;
        (real_time_key(request).map_or(0, TaskKey::get), self.arrivals)
    }

    /// Best-effort work comes to a model.
    fn wake(&mut self, id: ModelId) {
        let virtual_now = self.virtual_now;
        let model = self.model_mut(id);
        if model.best_effort.len() + model.on_board[1] == 0 {
            model.wake(virtual_now);
        }
    }

    /// A request has ended and left all books.
    pub(crate) fn ended(&mut self, class: Class) {
        if class.is_real_time() {
            return;
        }
        self.best_effort_live -= 1;
        if self.best_effort_live == 0 {
            self.virtual_now = self.virtual_now.max(self.pass_max);
        }
    }

    /// Puts a request into its model's queue and the backlog.
    fn enqueue(&mut self, slot: u32) {
        let entry = self.table.get(slot);
        let (request, order, expected) = (entry.request, entry.order, entry.expected);
        self.queued_ns[rank(request.class)] += u128::from(expected);
        let Self { models, table, .. } = self;
        let model = models[request.model.index()].as_mut().expect("checked above");
        model.hold[lane(request.class)] = None;
        let queue = model.queue_mut(request.class);
        queue.push(Item { order, slot }, &mut |slot, at| table.get_mut(slot).queue_at = at);
    }

    /// Takes a request out of its queue and the backlog.
    pub(crate) fn dequeue(&mut self, slot: u32) {
        let entry = self.table.get(slot);
        let (request, at, expected) = (entry.request, entry.queue_at, entry.expected);
        self.queued_ns[rank(request.class)] -= u128::from(expected);
        let Self { models, table, .. } = self;
        let model = models[request.model.index()].as_mut().expect("a queued request has a model");
        model.hold[lane(request.class)] = None;
        let queue = model.queue_mut(request.class);
        queue.remove(at, &mut |slot, at| table.get_mut(slot).queue_at = at);
    }

    /// Ends a queued request.
    pub(crate) fn drop_queued(&mut self, slot: u32) {
        self.dequeue(slot);
        self.set_timer(slot, None);
        let entry = self.table.remove(slot);
        if entry.probe {
            let measured = self.model_mut(entry.request.model).service_mut(entry.request.plan);
            if measured.epoch() == entry.epoch {
                measured.probe_dropped();
            }
        }
        self.ended(entry.request.class);
    }

    /// (Re)places or takes away a request's timer.
    pub(crate) fn set_timer(&mut self, slot: u32, at: Option<Nanos>) {
        let Self { timers, table, .. } = self;
        let (place, arrival) = (table.get(slot).timer_at, table.get(slot).order.1);
        let mut moved = |slot, at| table.get_mut(slot).timer_at = at;
        if place != ABSENT {
            timers.remove(place, &mut moved);
        }
        if let Some(at) = at {
            timers.push(Item { order: (at.0, arrival), slot }, &mut moved);
        }
    }

    /// Asks the device for a running task's end, once.
    pub(crate) fn stop(&mut self, slot: u32, reason: CancelReason) {
        let entry = self.table.get_mut(slot);
        if entry.cancel.is_none() {
            entry.cancel = Some(reason);
            let batch = entry.batch;
            self.stopping.push(slot);
            self.set_timer(slot, None);
            let waits = |slot: u32| self.table.get(slot).cancel.is_none();
            if batch != ABSENT && !self.table.members(batch).any(waits) {
                self.stop(batch, reason);
            }
        }
    }

    fn stop_running(&mut self, which: impl Fn(&Request) -> bool) {
        // At most one stop per task on the board, so the loop ends.
        let to_stop = |table: &Table| {
            let wanted = |entry: &Entry| entry.cancel.is_none() && which(&entry.request);
            table.on_board().find(|&slot| wanted(table.get(slot)))
        };
        while let Some(slot) = to_stop(&self.table) {
            self.stop(slot, CancelReason::ShuttingDown);
        }
    }

    /// Takes a task off the board's books; returns its lane and what it was charged.
    fn leave_board(&mut self, now: Nanos, slot: u32) -> (usize, u64) {
        let entry = self.table.get(slot);
        assert_eq!(entry.state, State::OnBoard, "only started tasks leave the board");
        let (request, charged) = (entry.request, entry.charged);
        let lane = lane(request.class);
        self.board.remove(now, slot);
        self.on_board[lane] -= 1;
        self.model_mut(request.model).on_board[lane] -= 1;
        (lane, charged)
    }

    fn update_levels(&mut self) {
        self.levels = 0;
        for model in self.models.iter().flatten() {
            if let Class::RealTime(level) = model.options.class {
                self.levels |= 1 << level.get();
            }
        }
    }
}

/// The key of a real-time request; `None` for best-effort.
pub(crate) fn real_time_key(request: &Request) -> Option<TaskKey> {
    match request.class {
        Class::RealTime(level) => Some(TaskKey::real_time(level, request.deadline, request.arrival)),
        Class::BestEffort => None,
    }
}

/// 0 the most urgent level, the last best-effort.
pub(crate) fn rank(class: Class) -> usize {
    match class {
        Class::RealTime(level) => usize::from(Level::get(level)),
        Class::BestEffort => RANKS - 1,
    }
}
