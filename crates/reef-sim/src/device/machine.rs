//! Who is on the GPU, and how tasks come off it.
//!
//! | a task is | event | next |
//! |---|---|---|
//! | held | it is its turn, and nothing leaves that it waits for | launched |
//! | launched | it is not its turn any more, or it is to end early | leaving |
//! | launched | its last kernel has run | – (completed), or held, with the plan that follows |
//! | leaving | nothing of it is queued or runs | held, or completed |
//!
//! Whose turn it is depends on the scheme and on who is there ([`QueuedGpu::on_turn`]), and is looked at
//! again after everything that happens ([`QueuedGpu::settle`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use reef_base::{Clock, Nanos, Rng, TaskId};
use reef_device::simulated::{Books, Machine, Task};
use reef_device::{EventKind, LoadedPlan, Outcome, Scheme};
use reef_plan::Plan;

use super::GpuOptions;
use crate::profile::Kernel;
use crate::queued::{End, Ended, Gpu, Kernels, Launch, Pad, Running, StreamId, StreamSpec};

/// What the device does.
pub struct QueuedGpu {
    options: GpuOptions,
    books: Books,
    gpu: Gpu<Streams>,
    times: Times,
    entries: BTreeMap<TaskId, Entry>,
    /// Which task is in a slot.
    in_slot: Vec<Option<TaskId>>,
    /// Kernels of the plans that have run.
    kernels: BTreeMap<usize, Arc<[Kernel]>>,
    /// Under `sequential`, the task that has the device.
    holder: Option<TaskId>,
    ended: Vec<Ended>,
    /// Something has happened that the clock had passed already.
    late: bool,
}

struct Entry {
    task: Task,
    kernels: Arc<[Kernel]>,
    place: Place,
    /// Where it goes on when it is launched again.
    next: usize,
    /// Whether it was launched before, with this plan.
    again: bool,
    /// What runs, since it was seen.
    runs: Option<Running>,
    /// Stages that have ended at least once.
    finished: Vec<bool>,
    /// Who has it killed.
    killed_for: Option<TaskId>,
    /// How it will end, if that is decided.
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Held,
    Launched,
    Leaving,
}

/// How tasks are taken off the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    /// What is queued, on the host and the device, and what runs, where that can be.
    Kill,
    /// What is queued on the host and the device.
    Queues,
    /// What comes first in a device queue, until none is left.
    Flag,
}

/// What each stream is to run.
struct Streams(Vec<Arc<[Kernel]>>);

impl Kernels for Streams {
    fn of(&self, slot: usize) -> &[Kernel] {
        &self.0[slot]
    }
}

/// How long kernels take when they are launched.
struct Times {
    alone: Vec<Arc<[Kernel]>>,
    rng: Rng,
    jitter: f64,
}

impl Pad for Times {
    fn pad(&mut self, launch: Launch) -> (Nanos, Nanos) {
        let alone = self.alone[launch.model][launch.kernel].alone;
        if self.jitter == 0.0 {
            return (Nanos::ZERO, alone);
        }
        const STEPS: u64 = 1 << 20;
        let part = (self.rng.below(STEPS) as f64 / STEPS as f64 * 2.0 - 1.0) * self.jitter;
        (Nanos::ZERO, Nanos((alone.0 as f64 * (1.0 + part)).round() as u64).max(Nanos(1)))
    }
}

impl fmt::Debug for QueuedGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuedGpu").field("books", &self.books).finish_non_exhaustive()
    }
}

impl Machine for QueuedGpu {
    fn books(&self) -> &Books {
        &self.books
    }

    fn books_mut(&mut self) -> &mut Books {
        &mut self.books
    }

    fn has(&self, _scheme: Scheme) -> bool {
        true
    }

    /// The GPU goes on by itself, whether or not anybody looks.
    fn reach(&mut self, now: Nanos) {
        while let Some(next) = self.gpu.next_event().filter(|&next| next < now) {
            self.books.now = next;
            self.pass(next);
            self.late = true;
        }
        self.books.now = now;
        self.gpu.idle_until(now);
    }

    fn block_times(&self, plan: &Plan) -> Vec<u64> {
        let cus = self.options.constants.cus;
        let kernels = self.options.costs.kernels(plan, cus);
        let each = |(stage, kernel): (&reef_plan::Stage, &Kernel)| {
            let block = kernel.alone.0 / u64::from(stage.blocks().div_ceil(cus).max(1));
            stage.kernels.clone().map(move |_| block)
        };
        plan.stages().iter().zip(&kernels).flat_map(each).collect()
    }

    fn submit(&mut self, mut task: Task) {
        let lesser = |entry: &Entry| entry.place != Place::Held && task.key.preempts(entry.task.key);
        task.preempted = self.books.scheme.is_prioritised() && self.entries.values().any(lesser);
        self.books.counters.preemptions += u64::from(task.preempted);
        let kernels = self.kernels_of(task.loaded, &task.plan);
        self.in_slot[task.slot] = Some(task.id);
        let entry = Entry {
            finished: vec![false; kernels.len()],
            kernels,
            place: Place::Held,
            next: 0,
            again: false,
            runs: None,
            killed_for: None,
            outcome: None,
            task,
        };
        self.entries.insert(entry.task.id, entry);
        self.settle();
    }

    fn cancel(&mut self, task: TaskId) {
        self.end_early(task, Outcome::Cancelled);
        self.settle();
    }

    fn poison(&mut self) {
        for (_, mut entry) in std::mem::take(&mut self.entries) {
            if let Some(runs) = entry.runs.take() {
                self.waste(&mut entry, runs);
            }
            self.books.complete(entry.task, Outcome::DeviceFault);
        }
        self.in_slot.fill(None);
        self.gpu.clear();
    }

    fn unloaded(&mut self, plan: LoadedPlan) {
        self.kernels.remove(&plan.index());
    }

    fn changed(&mut self) {
        self.settle();
    }

    fn runs_anything(&self) -> bool {
        self.entries.values().any(|entry| entry.place != Place::Held)
    }

    fn next_event(&mut self) -> Option<Nanos> {
        if self.late { Some(self.books.now) } else { self.gpu.next_event() }
    }

    fn step(&mut self) -> bool {
        let Some(next) = self.next_event() else { return false };
        self.late = false;
        self.options.clock.advance_to(next);
        self.books.now = self.options.clock.now();
        self.pass(next);
        true
    }
}

impl QueuedGpu {
    pub(super) fn new(options: GpuOptions) -> QueuedGpu {
        let capacity = options.constants.queues.capacity;
        // Their times are asked for one by one.
        let stream = StreamSpec { capacity, evictable: true, padded: true };
        let nothing: Arc<[Kernel]> = Arc::new([]);
        let none = vec![nothing; options.slots];
        let mut gpu = Gpu::over(&options.constants, Streams(none.clone()), &vec![stream; options.slots]);
        gpu.idle_until(options.clock.now());
        QueuedGpu {
            books: Books::new(options.books()),
            gpu,
            times: Times { alone: none, rng: Rng::new(options.seed), jitter: options.jitter },
            entries: BTreeMap::new(),
            in_slot: vec![None; options.slots],
            kernels: BTreeMap::new(),
            holder: None,
            ended: Vec::new(),
            late: false,
            options,
        }
    }

    fn kernels_of(&mut self, loaded: LoadedPlan, plan: &Plan) -> Arc<[Kernel]> {
        let options = &self.options;
        let made = || options.costs.kernels(plan, options.constants.cus).into();
        self.kernels.entry(loaded.index()).or_insert_with(made).clone()
    }

    /// Does what is due at a time, which is no later than the next event.
    fn pass(&mut self, to: Nanos) {
        let mut ended = std::mem::take(&mut self.ended);
        self.gpu.advance(to, &mut self.times, &mut ended);
        for ended in ended.drain(..) {
            self.has_ended(ended);
        }
        self.ended = ended;
        self.see_starts();
        self.settle();
    }

    /// Kernels that have begun to run.
    fn see_starts(&mut self) {
        let cus = self.options.constants.cus;
        for entry in self.entries.values_mut() {
            let runs = self.gpu.running(StreamId(entry.task.slot));
            let Some(running) = runs.filter(|_| entry.runs != runs) else { continue };
            entry.runs = runs;
            let (stage, task) = (running.launch.kernel, &mut entry.task);
            task.first_block.get_or_insert(running.since);
            if stage == 0 {
                // All blocks that fit start at once.
                task.all_units.get_or_insert(running.since);
            }
            let blocks = task.plan.stages()[stage].blocks();
            (0..blocks.min(cus)).for_each(|block| task.start_meter(stage, block));
        }
    }

    fn has_ended(&mut self, Ended { stream, launch, end }: Ended) {
        let id = self.in_slot[stream.0].expect("whose kernel was there is there");
        let mut entry = self.entries.remove(&id).expect("who is in a slot is on the board");
        match (end, entry.runs.take()) {
            (End::Evicted, runs) => {
                entry.runs = runs;
                // Where host queues are not emptied the first kernel that has not run is known.
                entry.next = entry.next.min(launch.kernel);
            }
            (End::Killed, runs) => self.killed(&mut entry, runs.expect("what is killed was running")),
            (End::Done, runs) => {
                let runs = runs.expect("what has run was running");
                if self.stage_is_done(&mut entry, runs) {
                    self.in_slot[entry.task.slot] = None;
                    self.gpu.readmit(stream);
                    return self.books.complete(entry.task, Outcome::Done);
                }
            }
        }
        self.entries.insert(id, entry);
    }

    /// A kernel has run; whether that was the end of its task.
    fn stage_is_done(&mut self, entry: &mut Entry, runs: Running) -> bool {
        if entry.outcome.is_some() {
            self.waste(entry, runs);
            return false;
        }
        let (stage, task) = (runs.launch.kernel, &mut entry.task);
        let blocks = task.plan.stages()[stage].blocks();
        for block in 0..blocks {
            if let Err(fault) = self.books.compute(task, stage, block) {
                self.waste(entry, runs);
                self.take_back(entry, Taking::Kill, self.books.now);
                entry.outcome = Some(Outcome::Failed(fault));
                return false;
            }
        }
        self.count(entry, runs, blocks);
        let is_last = stage + 1 == entry.kernels.len();
        is_last && !self.go_on(entry)
    }

    fn count(&mut self, entry: &mut Entry, runs: Running, blocks: u32) {
        let (stage, now, cus) = (runs.launch.kernel, self.books.now, self.options.constants.cus);
        let time = busy(runs.takes, blocks, cus);
        let done = u64::from(blocks);
        let rerun = if std::mem::replace(&mut entry.finished[stage], true) { done } else { 0 };
        let task = &mut entry.task;
        task.counters.blocks_done += done;
        task.counters.blocks_rerun += rerun;
        task.counters.cu_time += time;
        let counters = &mut self.books.counters;
        counters.blocks_done += done;
        counters.blocks_rerun += rerun;
        counters.busy += time;
        (cus..blocks).for_each(|block| task.start_meter(stage, block));
        for block in 0..blocks {
            task.meter(stage, block, task.block_time(stage, block));
            let kind = EventKind::Block { stage: stage as u32, block, padding: false };
            self.books.event(task, Some((block % cus) as usize), (runs.since, now), kind);
        }
    }

    /// Goes on with the plan that follows a task's present one, if one does.
    fn go_on(&mut self, entry: &mut Entry) -> bool {
        if !self.books.go_on(&mut entry.task) {
            return false;
        }
        entry.kernels = self.kernels_of(entry.task.loaded, &entry.task.plan);
        entry.finished = vec![false; entry.kernels.len()];
        (entry.next, entry.again) = (0, false);
        // Its stream is empty.
        entry.place = Place::Held;
        self.gpu.readmit(StreamId(entry.task.slot));
        true
    }

    /// What a killed kernel has written is rubbish.
    fn killed(&mut self, entry: &mut Entry, runs: Running) {
        let stage = runs.launch.kernel;
        let cus = self.options.constants.cus;
        let blocks = entry.task.plan.stages()[stage].blocks();
        (0..blocks).for_each(|block| self.books.spoil(&mut entry.task, stage, block));
        let killed = u64::from(blocks.min(cus));
        entry.task.counters.blocks_killed += killed;
        self.books.counters.blocks_killed += killed;
        if let Some(urgent) = entry.killed_for.and_then(|id| self.entries.get_mut(&id)) {
            urgent.task.counters.kills_caused += killed;
        }
        let now = self.books.now;
        let kind = |block| EventKind::Killed { stage: stage as u32, block };
        for block in 0..blocks.min(cus) {
            entry.task.meter(stage, block, now - runs.since);
            self.books.event(&entry.task, Some(block as usize), (runs.since, now), kind(block));
        }
        self.waste(entry, runs);
    }

    /// What has run, or has run so far, was for nothing.
    fn waste(&mut self, entry: &mut Entry, runs: Running) {
        let blocks = entry.task.plan.stages()[runs.launch.kernel].blocks();
        let ran = runs.takes.min(self.books.now - runs.since);
        let time = busy(ran, blocks, self.options.constants.cus);
        entry.task.counters.wasted_time += time;
        self.books.counters.wasted += time;
    }

    fn end_early(&mut self, id: TaskId, outcome: Outcome) {
        let Some(mut entry) = self.entries.remove(&id) else { return };
        if entry.outcome.is_none() {
            entry.outcome = Some(outcome);
            self.take_back(&mut entry, Taking::Kill, self.books.now);
        }
        self.entries.insert(id, entry);
    }

    /// After anything that may have changed whose turn it is.
    fn settle(&mut self) {
        self.free_empty();
        let turn = self.on_turn();
        self.clear_for(&turn);
        self.free_empty();
        let leaving: Vec<bool> = self
            .entries
            .values()
            .filter(|entry| entry.place == Place::Leaving)
            .map(|entry| entry.outcome.is_some())
            .collect();
        for id in turn {
            let entry = &self.entries[&id];
            // Who was cancelled is only in the way of real-time tasks.
            let real_time = entry.task.key.class().is_real_time();
            let waits = leaving.iter().any(|&ends| real_time || !ends);
            if entry.place == Place::Held && !waits {
                self.launch(id);
            }
        }
    }

    /// Tasks of which nothing is queued or runs any more.
    fn free_empty(&mut self) {
        let is_off = |gpu: &Gpu<Streams>, entry: &Entry| {
            entry.place == Place::Held
                || entry.place == Place::Leaving && gpu.is_empty(StreamId(entry.task.slot))
        };
        let off: Vec<TaskId> =
            self.entries.iter().filter(|(_, entry)| is_off(&self.gpu, entry)).map(|(&id, _)| id).collect();
        for id in off {
            let entry = self.entries.get_mut(&id).expect("it was there a moment ago");
            if entry.place == Place::Leaving {
                self.gpu.readmit(StreamId(entry.task.slot));
                entry.place = Place::Held;
                entry.killed_for = None;
            }
            if let Some(outcome) = entry.outcome.clone() {
                let entry = self.entries.remove(&id).expect("it is there");
                self.in_slot[entry.task.slot] = None;
                self.books.complete(entry.task, outcome);
            }
        }
    }

    /// Who may have kernels on the GPU now.
    fn on_turn(&mut self) -> BTreeSet<TaskId> {
        if self.books.closed {
            return BTreeSet::new();
        }
        let open = self.entries.iter().filter(|(_, entry)| entry.outcome.is_none());
        match self.books.scheme {
            Scheme::Concurrent => open.map(|(&id, _)| id).collect(),
            Scheme::Sequential => {
                if !self.holder.is_some_and(|id| open.clone().any(|(&other, _)| other == id)) {
                    self.holder = open.min_by_key(|(_, entry)| entry.task.key).map(|(&id, _)| id);
                }
                self.holder.into_iter().collect()
            }
            Scheme::RtOnly => self.urgent().into_iter().collect(),
            Scheme::Wait | Scheme::Reset => match self.urgent() {
                Some(urgent) => BTreeSet::from([urgent]),
                None => self.first_of_owners(),
            },
        }
    }

    /// The real-time task that has the device: the one that has it now, if none preempts it.
    fn urgent(&self) -> Option<TaskId> {
        let open = |entry: &Entry| entry.outcome.is_none() && entry.task.key.class().is_real_time();
        let tasks = self.entries.iter().filter(|(_, entry)| open(entry));
        let best = tasks.clone().min_by_key(|(_, entry)| entry.task.key)?;
        let present = tasks.filter(|(_, entry)| entry.place == Place::Launched);
        let present = present.min_by_key(|(_, entry)| entry.task.key);
        let stays = present.filter(|(_, present)| !best.1.task.key.preempts(present.task.key));
        Some(*stays.unwrap_or(best).0)
    }

    /// Of each owner the best-effort task that it has on the GPU, or else the first one.
    fn first_of_owners(&self) -> BTreeSet<TaskId> {
        let mut first: BTreeMap<u16, (bool, &Entry)> = BTreeMap::new();
        for entry in self.entries.values().filter(|entry| entry.outcome.is_none()) {
            let rank = (entry.place != Place::Launched, entry);
            let kept = first.entry(entry.task.key.share().owner).or_insert(rank);
            if (rank.0, entry.task.key) < (kept.0, kept.1.task.key) {
                *kept = rank;
            }
        }
        first.values().map(|(_, entry)| entry.task.id).collect()
    }

    /// Whoever is on the GPU out of turn is taken off it.
    fn clear_for(&mut self, turn: &BTreeSet<TaskId>) {
        let urgent = turn.iter().find(|id| self.entries[id].task.key.class().is_real_time()).copied();
        let out = |(id, entry): &(&TaskId, &Entry)| entry.place == Place::Launched && !turn.contains(id);
        let victims: Vec<TaskId> = self.entries.iter().filter(out).map(|(&id, _)| id).collect();
        let taking = match self.books.scheme {
            Scheme::Reset | Scheme::RtOnly if urgent.is_some() => Taking::Kill,
            Scheme::Wait if urgent.is_some() => Taking::Flag,
            _ => Taking::Queues,
        };
        // All host queues are emptied before anything else is done.
        let mut from = self.books.now;
        let mut taken = Vec::new();
        for id in victims {
            let mut entry = self.entries.remove(&id).expect("it was there a moment ago");
            from = self.empty_host(&mut entry, taking, from);
            entry.killed_for = urgent;
            taken.push(entry);
        }
        for mut entry in taken {
            self.evict(&mut entry, taking, from);
            self.entries.insert(entry.task.id, entry);
        }
    }

    fn take_back(&mut self, entry: &mut Entry, taking: Taking, from: Nanos) {
        if entry.place != Place::Held {
            let from = self.empty_host(entry, taking, from);
            self.evict(entry, taking, from);
        }
    }

    /// Empties the host queue of a task, from a time on: when that is done. It is to go on as many kernels
    /// back as a device queue holds, but never before those that it went on with the last time: what they
    /// read may be overwritten since.
    fn empty_host(&mut self, entry: &mut Entry, taking: Taking, from: Nanos) -> Nanos {
        if taking == Taking::Flag {
            entry.next = usize::MAX;
            return from;
        }
        let (costs, queues) = (self.options.constants.preemption, self.options.constants.queues);
        let in_host = self.gpu.reset_host(StreamId(entry.task.slot));
        if entry.place == Place::Launched {
            let left = entry.kernels.len() - in_host;
            entry.next = entry.next.max(left.saturating_sub(queues.capacity as usize));
        }
        let reclaim = if self.options.asynchronous { 0 } else { costs.reclaim_us.nanos().0 * in_host as u64 };
        from + costs.reset_host_us.nanos() + Nanos(reclaim)
    }

    fn evict(&mut self, entry: &mut Entry, taking: Taking, from: Nanos) {
        let costs = self.options.constants.preemption;
        let kill = costs.kill_us.filter(|_| taking == Taking::Kill).map(|takes| from + takes.nanos());
        self.gpu.evict(StreamId(entry.task.slot), from + costs.flag_us.nanos(), kill);
        entry.place = Place::Leaving;
    }

    fn launch(&mut self, id: TaskId) {
        let entry = self.entries.get_mut(&id).expect("whose turn it is, is there");
        let slot = entry.task.slot;
        let again = std::mem::replace(&mut entry.again, true);
        let relaunch = self.options.constants.preemption.relaunch_us.nanos();
        let takes = if again { relaunch } else { Nanos::ZERO };
        entry.place = Place::Launched;
        self.gpu.kernels_mut().0[slot] = entry.kernels.clone();
        self.times.alone[slot] = entry.kernels.clone();
        self.gpu.launch(StreamId(slot), slot, entry.next, takes, &mut self.times);
    }
}

/// Time of compute units of a kernel that takes, or has taken, so long of the device alone.
fn busy(takes: Nanos, blocks: u32, cus: u32) -> Nanos {
    Nanos(takes.0 * u64::from(blocks.min(cus)))
}
