//! The dummy's state machine: tasks, queues, compute units and virtual time.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use reef_base::{AlignedBytes, CuId, Domain, Nanos, TaskId, TaskKey};
use reef_plan::Plan;

use super::blocks::{self, Block};
use super::{DummyOptions, refusal};
use crate::contract::{
    Completion, DeviceCounters, DeviceError, Io, Outcome, RejectReason, Route, TaskCounters,
};
use crate::event::{Event, EventKind};
use crate::ids::LoadedPlan;
use crate::memory::{Admission, Budget, OverBudget};
use crate::scheme::Scheme;

pub(super) struct State {
    options: DummyOptions,
    pub(super) now: Nanos,
    pub(super) scheme: Scheme,
    pub(super) closed: bool,
    pub(super) poisoned: Option<String>,
    plans: Vec<Option<(Arc<Plan>, Admission)>>,
    pub(super) budget: Arc<Budget>,
    next_task: u64,
    tasks: BTreeMap<TaskId, Task>,
    /// Under `sequential`, the task that has the device.
    holder: Option<TaskId>,
    units: Vec<Option<Running>>,
    pub(super) completions: VecDeque<Completion>,
    pub(super) counters: DeviceCounters,
    pub(super) record: bool,
    pub(super) events: Vec<Event>,
}

struct Task {
    plan: Arc<Plan>,
    loaded: LoadedPlan,
    route: Option<Arc<dyn Route>>,
    key: TaskKey,
    io: Io,
    token: u64,
    arena: AlignedBytes,
    submitted: Nanos,
    not_before: Nanos,
    first_block: Option<Nanos>,
    all_units: Option<Nanos>,
    preempted: bool,
    /// First stage of the host queue.
    next_launch: usize,
    device_queue: VecDeque<Launched>,
    /// Blocks that have ended at least once.
    finished: HashSet<(usize, u32)>,
    counters: TaskCounters,
}

struct Launched {
    stage: usize,
    next_block: u32,
    done: u32,
}

#[derive(Clone, Copy)]
struct Running {
    task: TaskId,
    stage: usize,
    block: u32,
    start: Nanos,
    end: Nanos,
}

impl State {
    pub(super) fn new(options: DummyOptions) -> State {
        State {
            now: Nanos::ZERO,
            scheme: options.scheme,
            closed: false,
            poisoned: None,
            plans: Vec::new(),
            budget: Budget::new(Domain::Pinned, options.memory_bytes),
            next_task: 0,
            tasks: BTreeMap::new(),
            holder: None,
            units: vec![None; options.cus],
            completions: VecDeque::new(),
            counters: DeviceCounters::default(),
            record: false,
            events: Vec::new(),
            options,
        }
    }

    pub(super) fn load(&mut self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        if let Some(reason) = &self.poisoned {
            return Err(DeviceError::Poisoned(reason.clone()));
        }
        let weights: Vec<_> = plan
            .weights()
            .iter()
            .map(|weight| plan.store().get(weight.key, weight.packing).expect("the plan is valid"))
            .collect();
        let working = plan.arena_bytes() as u64;
        let admission = self.budget.admit(&weights, working, Io::bytes_for(&plan));
        let refused = |OverBudget { needed, available }| DeviceError::OutOfMemory {
            plan: plan.name().into(),
            needed,
            available,
        };
        let admission = admission.map_err(refused)?;
        self.plans.push(Some((plan, admission)));
        Ok(LoadedPlan(self.plans.len() as u32 - 1))
    }

    pub(super) fn unload(&mut self, plan: LoadedPlan) {
        if let Some(entry) = self.plans.get_mut(plan.index()) {
            *entry = None;
        }
    }

    pub(super) fn plan(&self, plan: LoadedPlan) -> Option<&Arc<Plan>> {
        self.plans.get(plan.index())?.as_ref().map(|(plan, _)| plan)
    }

    pub(super) fn admit(&self, plan: LoadedPlan, key: TaskKey, io: &Io) -> Result<Arc<Plan>, RejectReason> {
        let open = !self.closed && self.poisoned.is_none();
        // A task whose completion was not fetched yet still holds its slot.
        let free = self.options.slots - (self.tasks.len() + self.completions.len()).min(self.options.slots);
        if let Some(why) = refusal(open, free, self.options.slots_real_time, key, self.scheme) {
            return Err(why);
        }
        let plan = self.plan(plan).ok_or(RejectReason::UnknownPlan)?;
        if io.fits(plan) { Ok(plan.clone()) } else { Err(RejectReason::WrongBuffers) }
    }

    pub(super) fn submit(
        &mut self,
        (loaded, plan): (LoadedPlan, Arc<Plan>),
        key: TaskKey,
        io: Io,
        token: u64,
        route: Option<Arc<dyn Route>>,
    ) -> TaskId {
        let id = TaskId(self.next_task);
        self.next_task += 1;
        let task = Task {
            arena: AlignedBytes::zeroed(plan.arena_bytes()),
            plan,
            loaded,
            route,
            key,
            io,
            token,
            submitted: self.now,
            not_before: self.now,
            first_block: None,
            all_units: None,
            preempted: self.scheme.is_prioritised()
                && self.units.iter().flatten().any(|run| key.preempts(self.tasks[&run.task].key)),
            next_launch: 0,
            device_queue: VecDeque::new(),
            finished: HashSet::new(),
            counters: TaskCounters::default(),
        };
        self.counters.submitted += 1;
        self.counters.preemptions += u64::from(task.preempted);
        self.tasks.insert(id, task);
        self.event(id, None, self.now, self.now, EventKind::Submitted);
        if self.scheme.kills() {
            self.reset_for(id);
        }
        self.dispatch();
        id
    }

    /// Empties the queues of every less urgent task and kills their running blocks.
    fn reset_for(&mut self, urgent: TaskId) {
        let key = self.tasks[&urgent].key;
        let victims: Vec<TaskId> =
            self.tasks.iter().filter(|(_, task)| key.preempts(task.key)).map(|(&id, _)| id).collect();
        let mut killed = 0;
        for &victim in &victims {
            killed += self.kill_blocks(victim);
            let restart = self.options.queue_stages;
            let task = self.tasks.get_mut(&victim).expect("a victim is on the board");
            // A victim that was reset already and has launched nothing since stays where it is: going back
            // again would leave the window.
            if !task.device_queue.is_empty() {
                task.device_queue.clear();
                task.next_launch = task.next_launch.saturating_sub(restart);
            }
        }
        let latency = self.options.reset_latency;
        let task = self.tasks.get_mut(&urgent).expect("the urgent task is on the board");
        task.counters.kills_caused += killed;
        if killed > 0 {
            task.not_before = self.now + latency;
        }
    }

    fn kill_blocks(&mut self, victim: TaskId) -> u64 {
        let mut killed = 0;
        for cu in 0..self.units.len() {
            let Some(run) = self.units[cu].filter(|run| run.task == victim) else { continue };
            self.units[cu] = None;
            let wasted = self.now - run.start;
            let task = self.tasks.get_mut(&victim).expect("a running task is on the board");
            // What a killed block had written is rubbish.
            let block = Block { plan: &task.plan, stage: run.stage, block: run.block };
            blocks::spoil(&self.options.interpreter, block, &mut task.io, &mut task.arena);
            task.counters.blocks_killed += 1;
            task.counters.wasted_time += wasted;
            self.counters.blocks_killed += 1;
            self.counters.wasted += wasted;
            killed += 1;
            let kind = EventKind::Killed { stage: run.stage as u32, block: run.block };
            self.event(victim, Some(cu), run.start, self.now, kind);
        }
        killed
    }

    pub(super) fn cancel(&mut self, task: TaskId) {
        if self.tasks.contains_key(&task) {
            self.kill_blocks(task);
            self.complete(task, Outcome::Cancelled);
        }
    }

    pub(super) fn poison(&mut self, reason: &str) {
        self.poisoned = Some(reason.to_string());
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        for id in ids {
            self.kill_blocks(id);
            self.complete(id, Outcome::DeviceFault);
        }
    }

    pub(super) fn runs_anything(&self) -> bool {
        self.units.iter().any(Option::is_some)
    }

    /// Starts what can start, and says when the next event is.
    pub(super) fn next_event(&mut self) -> Option<Nanos> {
        if !self.closed {
            self.dispatch();
        }
        let ends = self.units.iter().flatten().map(|run| run.end);
        let starts =
            self.tasks.values().map(|task| task.not_before).filter(|&at| at > self.now && !self.closed);
        ends.chain(starts).min()
    }

    /// Starts what can start, then moves to the next event. False when there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(next) = self.next_event() else { return false };
        self.now = next;
        for cu in 0..self.units.len() {
            if let Some(run) = self.units[cu].filter(|run| run.end == next) {
                self.units[cu] = None;
                self.finish_block(cu, run);
            }
        }
        if !self.closed {
            self.dispatch();
        }
        true
    }

    fn dispatch(&mut self) {
        let order = self.eligible();
        for &id in &order {
            let capacity = self.options.queue_stages;
            let task = self.tasks.get_mut(&id).expect("an eligible task is on the board");
            while task.device_queue.len() < capacity && task.next_launch < task.plan.stages().len() {
                task.device_queue.push_back(Launched { stage: task.next_launch, next_block: 0, done: 0 });
                task.next_launch += 1;
            }
        }
        for cu in 0..self.units.len() {
            if self.units[cu].is_none()
                && let Some(run) = order.iter().find_map(|&id| self.start_block(id))
            {
                self.units[cu] = Some(run);
            }
        }
    }

    /// The tasks that may start blocks now, the most urgent first.
    fn eligible(&mut self) -> Vec<TaskId> {
        let mut order: Vec<TaskId> = self.tasks.keys().copied().collect();
        order.sort_by_key(|id| (self.tasks[id].key, *id));
        match self.scheme {
            Scheme::RtOnly => order.retain(|id| self.tasks[id].key.class().is_real_time()),
            Scheme::Sequential => {
                self.holder = self.holder.filter(|id| self.tasks.contains_key(id)).or(order.first().copied());
                order.retain(|id| Some(*id) == self.holder);
            }
            Scheme::Concurrent => order.sort_by_key(|id| self.tasks[id].counters.blocks_done),
            // Real-time mode: the most urgent real-time task has the device to itself.
            Scheme::Wait | Scheme::Reset => {
                if order.first().is_some_and(|id| self.tasks[id].key.class().is_real_time()) {
                    order.truncate(1);
                }
            }
        }
        order.retain(|id| self.tasks[id].not_before <= self.now);
        order
    }

    fn start_block(&mut self, id: TaskId) -> Option<Running> {
        let (now, units) = (self.now, self.units.len());
        let running = self.units.iter().flatten().filter(|run| run.task == id).count();
        let task = self.tasks.get_mut(&id)?;
        let front = task.device_queue.front_mut()?;
        let stage = &task.plan.stages()[front.stage];
        if front.next_block == stage.blocks() {
            return None;
        }
        let block = front.next_block;
        front.next_block += 1;
        task.first_block.get_or_insert(now);
        if running + 1 >= units.min(task.plan.stages()[0].blocks() as usize) {
            task.all_units.get_or_insert(now);
        }
        let time = Block { plan: &task.plan, stage: front.stage, block }.time();
        let end = now + Nanos(time.0.max(1));
        Some(Running { task: id, stage: front.stage, block, start: now, end })
    }

    fn finish_block(&mut self, cu: usize, run: Running) {
        let span = run.end - run.start;
        let task = self.tasks.get_mut(&run.task).expect("a running task is on the board");
        let block = Block { plan: &task.plan, stage: run.stage, block: run.block };
        if let Err(fault) = blocks::compute(&self.options.interpreter, block, &mut task.io, &mut task.arena) {
            task.counters.wasted_time += span;
            self.counters.wasted += span;
            self.kill_blocks(run.task);
            return self.complete(run.task, Outcome::Failed(fault));
        }
        let rerun = u64::from(!task.finished.insert((run.stage, run.block)));
        task.counters.blocks_done += 1;
        task.counters.blocks_rerun += rerun;
        task.counters.cu_time += span;
        self.counters.blocks_done += 1;
        self.counters.blocks_rerun += rerun;
        self.counters.busy += span;
        let front = task.device_queue.front_mut().expect("the running stage is launched");
        front.done += 1;
        let stage_done = front.done == task.plan.stages()[run.stage].blocks();
        if stage_done {
            task.device_queue.pop_front();
        }
        let task_done =
            stage_done && task.device_queue.is_empty() && task.next_launch == task.plan.stages().len();
        let kind = EventKind::Block { stage: run.stage as u32, block: run.block, padding: false };
        self.event(run.task, Some(cu), run.start, run.end, kind);
        if task_done && !self.go_on(run.task) {
            self.complete(run.task, Outcome::Done);
        }
    }

    /// Goes on with the plan that follows a task's present one, if one does.
    fn go_on(&mut self, id: TaskId) -> bool {
        let task = self.tasks.get_mut(&id).expect("a task that ran is on the board");
        let Some(next) = task.route.as_ref().and_then(|route| route.next(task.loaded, &mut task.io)) else {
            return false;
        };
        let plan = self.plans[next.index()].as_ref().expect("a route keeps its plans loaded").0.clone();
        task.arena = AlignedBytes::zeroed(plan.arena_bytes());
        (task.loaded, task.plan, task.next_launch) = (next, plan, 0);
        task.finished.clear();
        true
    }

    fn complete(&mut self, id: TaskId, outcome: Outcome) {
        self.event(id, None, self.now, self.now, EventKind::Completed);
        let task = self.tasks.remove(&id).expect("a task completes once");
        self.counters.completed += 1;
        self.completions.push_back(Completion {
            task: id,
            token: task.token,
            key: task.key,
            plan: task.loaded,
            io: task.io,
            outcome,
            submitted: task.submitted,
            first_block: task.first_block,
            all_cus: task.all_units,
            preempted: task.preempted,
            finished: self.now,
            counters: task.counters,
        });
    }

    fn event(&mut self, id: TaskId, cu: Option<usize>, start: Nanos, end: Nanos, kind: EventKind) {
        if self.record {
            let task = &self.tasks[&id];
            let cu = cu.map(|cu| CuId(cu as u16));
            let (key, token, plan) = (task.key, task.token, task.loaded);
            self.events.push(Event { at: start, span: end - start, cu, task: id, key, token, plan, kind });
        }
    }
}
