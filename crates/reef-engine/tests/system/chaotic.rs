//! A simulated device that hands completions over late and in another order, refuses tasks although it has
//! room, fails those of picky models whose rows are bad, and keeps what it did and what it was given.

use std::fmt;
use std::sync::{Arc, Mutex};

use reef_base::{Buffer, Clock, Nanos, Rng, TaskId, TaskKey, VirtualClock};
use reef_device::dummy::{DummyDevice, DummyOptions};
use reef_device::{Completion, Event, Io, LoadedPlan, Outcome, RejectReason, Rejected, Route, TaskCounters};
use reef_engine::*;
use reef_plan::HostFault;

use super::doubles::rows::{BAD, PICKY, ROW};
use super::watch::History;

/// What a device does to whoever uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos {
    /// Completions come up to so much later.
    pub late_max: Nanos,
    /// One of so many submissions is refused; none for 0.
    pub refuses: u64,
}

/// A request's own bytes in its input: in each of its rows, for who sees the row to know whose it is.
const MARK: [u8; 4] = *b"reef";

/// Marks the rows of an input as those of the request with this number.
pub fn mark(input: &mut [u8], number: u32) {
    for row in input.chunks_mut(ROW) {
        row[8..12].copy_from_slice(&MARK);
        row[12..16].copy_from_slice(&number.to_le_bytes());
    }
}

/// Whose rows a task has: numbers of requests, and how many rows of each, in their order. Nobody's, where it
/// goes on with what another task has made.
fn marks(io: &Io) -> Vec<(u32, usize)> {
    let rows = io.inputs.first().map_or(&[][..], Buffer::as_slice).chunks_exact(ROW);
    let own = rows.filter(|row| row[8..12] == MARK);
    let numbers = own.map(|row| u32::from_le_bytes(row[12..16].try_into().expect("it has four bytes")));
    let mut marks: Vec<(u32, usize)> = Vec::new();
    for number in numbers {
        match marks.last_mut() {
            Some((last, rows)) if *last == number => *rows += 1,
            _ => marks.push((number, 1)),
        }
    }
    marks
}

/// What passed between a device and the engine.
#[derive(Clone, Debug)]
pub enum Note {
    /// The device has a task, with these rows.
    Taken { task: TaskId, key: TaskKey, marks: Vec<(u32, usize)> },
    /// It did not take one.
    Refused,
    /// The engine has heard of a task's end, and that it took so much of the units.
    Ended { task: TaskId, used: Nanos },
}

pub struct Chaotic {
    inner: DummyDevice,
    clock: VirtualClock,
    chaos: Chaos,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    /// Completions that are not handed over yet, and when they are.
    held: Vec<(Nanos, Completion)>,
    history: History,
    notes: Vec<(Nanos, Note)>,
}

impl Chaotic {
    pub fn new(options: DummyOptions, chaos: Chaos, seed: u64) -> Chaotic {
        let clock = options.clock.clone();
        let history = History {
            cus: options.cus,
            reset_latency: options.reset_latency,
            events: Vec::new(),
            plans: Vec::new(),
            schemes: vec![(clock.now(), options.scheme)],
            jumps: Vec::new(),
        };
        let inner = DummyDevice::new(options);
        inner.record_events(true);
        let state = State { rng: Rng::new(seed), held: Vec::new(), history, notes: Vec::new() };
        Chaotic { inner, clock, chaos, state: Mutex::new(state) }
    }

    /// What has gone wrong with it since it is there. For when nothing is left to do.
    pub fn complaints(&self) -> Vec<String> {
        let mut state = self.state.lock().unwrap();
        self.inner.drain_events(&mut state.history.events);
        state.history.complaints(self.inner.counters())
    }

    /// What passed since this was asked last.
    pub fn notes(&self) -> Vec<(Nanos, Note)> {
        std::mem::take(&mut self.state.lock().unwrap().notes)
    }

    /// The clock has gone on, and nobody could do anything meanwhile.
    pub fn jumped(&self, from: Nanos) {
        self.state.lock().unwrap().history.jumps.push((from, self.clock.now()));
    }

    /// Takes what has ended from the device, to be handed over when it is time.
    fn collect(&self) {
        let mut state = self.state.lock().unwrap();
        while let Some(mut completion) = self.inner.try_complete() {
            let late = Nanos(state.rng.below(self.chaos.late_max.0 + 1));
            let at = self.clock.now() + late;
            state.taste(&mut completion);
            state.held.push((at, completion));
        }
    }

    fn noted(
        &self,
        marks: Vec<(u32, usize)>,
        key: TaskKey,
        taken: Result<TaskId, Rejected>,
    ) -> Result<TaskId, Rejected> {
        let note = match &taken {
            Ok(task) => Note::Taken { task: *task, key, marks },
            Err(_) => Note::Refused,
        };
        self.state.lock().unwrap().notes.push((self.clock.now(), note));
        taken
    }

    fn refuses(&self) -> bool {
        self.chaos.refuses > 0 && self.state.lock().unwrap().rng.below(self.chaos.refuses) == 0
    }
}

impl State {
    /// A task of a picky model fails whose rows are not all good.
    fn taste(&self, completion: &mut Completion) {
        let picky = self.history.plans[completion.plan.index()].name().starts_with(PICKY);
        let bad = || completion.io.inputs[0].as_slice().chunks(ROW).position(|row| row[0] == BAD);
        if picky
            && completion.outcome == Outcome::Done
            && let Some(row) = bad()
        {
            completion.outcome = Outcome::Failed(HostFault::of_input("picky", format!("row {row} is bad")));
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
        block_times
    );

    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        let loaded = self.inner.load(plan.clone())?;
        let plans = &mut self.state.lock().unwrap().history.plans;
        assert_eq!(plans.len(), loaded.index(), "numbers of plans are not used again");
        plans.push(plan);
        Ok(loaded)
    }

    fn set_scheme(&self, scheme: Scheme) {
        self.state.lock().unwrap().history.schemes.push((self.clock.now(), scheme));
        self.inner.set_scheme(scheme);
    }

    /// They are recorded as long as it is there, for itself.
    fn record_events(&self, _on: bool) {}

    fn drain_events(&self, _events: &mut Vec<Event>) -> u64 {
        0
    }

    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected> {
        let marks = marks(&io);
        let taken = match self.refuses() {
            true => Err(Rejected { io, why: RejectReason::BoardFull }),
            false => self.inner.submit(plan, key, io, token),
        };
        self.noted(marks, key, taken)
    }

    fn submit_along(
        &self,
        plan: LoadedPlan,
        key: TaskKey,
        io: Io,
        token: u64,
        route: Arc<dyn Route>,
    ) -> Result<TaskId, Rejected> {
        let marks = marks(&io);
        let taken = match self.refuses() {
            true => Err(Rejected { io, why: RejectReason::BoardFull }),
            false => self.inner.submit_along(plan, key, io, token, route),
        };
        self.noted(marks, key, taken)
    }

    fn try_complete(&self) -> Option<Completion> {
        self.collect();
        let mut state = self.state.lock().unwrap();
        let now = self.clock.now();
        let due = state.held.iter().enumerate().filter(|(_, (at, _))| *at <= now);
        let first = due.min_by_key(|(_, (at, _))| *at).map(|(index, _)| index)?;
        let completion = state.held.remove(first).1;
        let TaskCounters { cu_time, wasted_time, .. } = completion.counters;
        let thrown_away = if completion.outcome == Outcome::Done { Nanos::ZERO } else { wasted_time };
        let note = Note::Ended { task: completion.task, used: cu_time + thrown_away };
        state.notes.push((now, note));
        Some(completion)
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
