//! A simulated device that hands completions over late and in another order, refuses tasks although it has
//! room, and looks at how long real-time tasks wait for their first block.

use std::fmt;
use std::sync::{Arc, Mutex};

use reef_base::{Clock, Nanos, Rng, TaskId, TaskKey, VirtualClock};
use reef_device::dummy::{DummyDevice, DummyOptions};
use reef_device::{Completion, Io, LoadedPlan, Outcome, RejectReason, Rejected, Route};
use reef_engine::*;

/// What a device does to whoever uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos {
    /// Completions come up to so much later.
    pub late_max: Nanos,
    /// One of so many submissions is refused; none for 0.
    pub refuses: u64,
}

pub struct Chaotic {
    inner: DummyDevice,
    clock: VirtualClock,
    chaos: Chaos,
    reset_latency: Nanos,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    /// Completions that are not handed over yet, and when they are.
    held: Vec<(Nanos, Completion)>,
    /// Real-time tasks on the board: since when, and whether anything as urgent was there with it.
    urgent: Vec<Urgent>,
    /// When the scheme was last changed.
    scheme_since: Nanos,
    /// What a task waited too long for.
    complaints: Vec<String>,
}

struct Urgent {
    task: TaskId,
    since: Nanos,
    alone: bool,
}

impl Chaotic {
    pub fn new(options: DummyOptions, chaos: Chaos, seed: u64) -> Chaotic {
        let (clock, reset_latency) = (options.clock.clone(), options.reset_latency);
        let state = State {
            rng: Rng::new(seed),
            held: Vec::new(),
            urgent: Vec::new(),
            scheme_since: Nanos::ZERO,
            complaints: Vec::new(),
        };
        Chaotic { inner: DummyDevice::new(options), clock, chaos, reset_latency, state: Mutex::new(state) }
    }

    /// What has gone wrong with it.
    pub fn complaints(&self) -> Vec<String> {
        self.state.lock().unwrap().complaints.clone()
    }

    /// Takes what has ended from the device, to be handed over when it is time.
    fn collect(&self) {
        let mut state = self.state.lock().unwrap();
        while let Some(completion) = self.inner.try_complete() {
            let late = Nanos(state.rng.below(self.chaos.late_max.0 + 1));
            let at = self.clock.now() + late;
            state.ended(&completion, self.inner.scheme(), self.reset_latency);
            state.held.push((at, completion));
        }
    }

    fn took(&self, task: TaskId, key: TaskKey) {
        if !key.class().is_real_time() {
            return;
        }
        let mut state = self.state.lock().unwrap();
        state.urgent.iter_mut().for_each(|other| other.alone = false);
        let alone = state.urgent.is_empty();
        state.urgent.push(Urgent { task, since: self.clock.now(), alone });
    }

    fn refuses(&self) -> bool {
        self.chaos.refuses > 0 && self.state.lock().unwrap().rng.below(self.chaos.refuses) == 0
    }
}

impl State {
    /// A real-time task that had no other beside it got its first block within the time that a reset takes.
    fn ended(&mut self, completion: &Completion, scheme: Scheme, bound: Nanos) {
        let Some(at) = self.urgent.iter().position(|urgent| urgent.task == completion.task) else { return };
        let urgent = self.urgent.swap_remove(at);
        let kept = scheme == Scheme::Reset && self.scheme_since < urgent.since;
        let Some(first) = completion.first_block.filter(|_| urgent.alone && kept) else { return };
        if completion.outcome == Outcome::Done && first.since(urgent.since) > bound {
            let waited = first.since(urgent.since);
            self.complaints.push(format!("task {} waited {waited} for its first block", completion.task));
        }
    }
}

impl fmt::Debug for Chaotic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chaotic")
    }
}

impl Device for Chaotic {
    forward!(
        capabilities,
        cutter,
        scheme,
        load,
        unload,
        alloc_io,
        cancel,
        set_waker,
        quiesce,
        resume,
        poison,
        fault,
        memory,
        counters,
        block_times,
        record_events,
        drain_events
    );

    fn set_scheme(&self, scheme: Scheme) {
        self.state.lock().unwrap().scheme_since = self.clock.now();
        self.inner.set_scheme(scheme);
    }

    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected> {
        if self.refuses() {
            return Err(Rejected { io, why: RejectReason::BoardFull });
        }
        let task = self.inner.submit(plan, key, io, token)?;
        self.took(task, key);
        Ok(task)
    }

    fn submit_along(
        &self,
        plan: LoadedPlan,
        key: TaskKey,
        io: Io,
        token: u64,
        route: Arc<dyn Route>,
    ) -> Result<TaskId, Rejected> {
        if self.refuses() {
            return Err(Rejected { io, why: RejectReason::BoardFull });
        }
        let task = self.inner.submit_along(plan, key, io, token, route)?;
        self.took(task, key);
        Ok(task)
    }

    fn try_complete(&self) -> Option<Completion> {
        self.collect();
        let mut state = self.state.lock().unwrap();
        let now = self.clock.now();
        let due = state.held.iter().enumerate().filter(|(_, (at, _))| *at <= now);
        let first = due.min_by_key(|(_, (at, _))| *at).map(|(index, _)| index)?;
        Some(state.held.remove(first).1)
    }

    fn virtual_clock(&self) -> Option<&VirtualClock> {
        Some(&self.clock)
    }

    fn next_event(&self) -> Option<Nanos> {
        let inner = self.inner.next_event();
        self.collect();
        let held = self.state.lock().unwrap().held.iter().map(|(at, _)| *at).min();
        inner.into_iter().chain(held).min()
    }

    fn advance(&self) -> bool {
        let Some(next) = Device::next_event(self) else { return false };
        if self.inner.next_event().is_some_and(|inner| inner <= next) {
            self.inner.advance()
        } else {
            self.clock.advance_to(next);
            true
        }
    }
}
