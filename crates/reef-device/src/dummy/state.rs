//! The dummy's state machine: tasks, queues, compute units and their events in virtual time.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use reef_base::{AlignedBytes, Clock, CuId, Domain, Nanos, Share, TaskId, TaskKey};
use reef_plan::Plan;

use super::blocks::{self, Block};
use super::{DummyOptions, refusal};
use crate::contract::{
    Completion, DeviceCounters, DeviceError, Io, Outcome, RejectReason, Route, TaskCounters,
};
use crate::event::{Event, EventKind};
use crate::ids::LoadedPlan;
use crate::memory::{Admission, Budget, OverBudget};
use crate::policy::{self, Ask, Choice, NO_LIMIT, Outlook, Rules, Seen, SeenUnit, Snapshot, Stage, share};
use crate::scheme::Scheme;

pub(super) struct State {
    options: DummyOptions,
    /// The clock's time, which stands still while something is done here.
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
    /// Where `concurrent` goes on.
    turn: usize,
    /// What best-effort owners have used, by owner, and the greatest at the end of a task.
    passes: BTreeMap<usize, u64>,
    last_pass: u64,
    pub(super) completions: VecDeque<Completion>,
    pub(super) counters: DeviceCounters,
    pub(super) record: bool,
    pub(super) events: Vec<Event>,
}

struct Task {
    /// Its number among those on the board.
    slot: usize,
    plan: Arc<Plan>,
    outlooks: Vec<Outlook>,
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
    padding: bool,
}

impl State {
    pub(super) fn new(options: DummyOptions) -> State {
        State {
            now: options.clock.now(),
            scheme: options.scheme,
            closed: false,
            poisoned: None,
            plans: Vec::new(),
            budget: Budget::new(Domain::Pinned, options.memory_bytes),
            next_task: 0,
            tasks: BTreeMap::new(),
            holder: None,
            units: vec![None; options.cus],
            turn: 0,
            passes: BTreeMap::new(),
            last_pass: 0,
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
        let taken = |slot: &usize| self.tasks.values().any(|task| task.slot == *slot);
        let task = Task {
            slot: (0..self.options.slots).find(|slot| !taken(slot)).expect("who admits counts the slots"),
            outlooks: outlooks(&plan, self.units.len()),
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
        if !key.class().is_real_time() {
            self.join(key.share());
        }
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

    /// A task of the owner's comes.
    fn join(&mut self, share: Share) {
        let present = self.tasks.values().filter(|task| !task.key.class().is_real_time());
        let floor = present.map(|task| self.pass_of(task.key)).reduce(share::least);
        let own = self.passes.entry(share::index_of(share)).or_default();
        *own = share::joined(*own, floor.unwrap_or(self.last_pass));
    }

    fn pass_of(&self, key: TaskKey) -> u64 {
        self.passes.get(&share::index_of(key.share())).copied().unwrap_or_default()
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
            block.meter(wasted);
            blocks::spoil(&self.options.interpreter, block, &mut task.io, &mut task.arena);
            task.counters.blocks_killed += 1;
            task.counters.wasted_time += wasted;
            charge(&mut self.passes, task.key, wasted);
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

    /// Starts what can start, then moves the clock to the next event. False when there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(next) = self.next_event() else { return false };
        self.options.clock.advance_to(next);
        self.now = self.options.clock.now();
        for cu in 0..self.units.len() {
            if let Some(run) = self.units[cu].filter(|run| run.end <= self.now) {
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
        self.elect();
        loop {
            self.launch();
            self.fill_units();
            let Some(urgent) = self.in_need() else { return };
            self.reset_for(urgent);
        }
    }

    /// Under `sequential`, gives the device to a task if none has it.
    fn elect(&mut self) {
        if self.scheme == Scheme::Sequential && !self.holder.is_some_and(|id| self.tasks.contains_key(&id)) {
            let first = self.look(|board| policy::elect(board).map(|task| task.slot));
            self.holder = first.map(|slot| self.task_in(slot));
        }
    }

    /// Fills the device queues of the tasks that may start blocks.
    fn launch(&mut self) {
        let ids: Vec<TaskId> = self.tasks.keys().copied().filter(|&id| !self.is_held_back(id)).collect();
        for id in ids {
            let task = self.tasks.get_mut(&id).expect("it was on the board a moment ago");
            while task.device_queue.len() < self.options.queue_stages
                && task.next_launch < task.plan.stages().len()
            {
                task.device_queue.push_back(Launched { stage: task.next_launch, next_block: 0, done: 0 });
                task.next_launch += 1;
            }
        }
    }

    /// Whether a task may start nothing now: a reset is under way for it or for a more urgent one, or the
    /// scheme keeps it off the device.
    fn is_held_back(&self, id: TaskId) -> bool {
        let key = self.tasks[&id].key;
        match self.scheme {
            Scheme::RtOnly if !key.class().is_real_time() => true,
            Scheme::Sequential if self.holder != Some(id) => true,
            _ => self.tasks.values().any(|task| task.not_before > self.now && task.key <= key),
        }
    }

    fn fill_units(&mut self) {
        for cu in 0..self.units.len() {
            if self.units[cu].is_none()
                && let Some(Choice { task: Seen { slot, .. }, padding }) = self.choose(cu)
            {
                self.turn = slot;
                let id = self.task_in(slot);
                self.units[cu] = Some(self.start_block(id, padding));
            }
        }
    }

    /// The real-time task that has blocks to start and no unit for them, while less urgent ones run: padding
    /// that was thought not to be in its way.
    fn in_need(&self) -> Option<TaskId> {
        if !self.scheme.kills() || self.units.iter().any(Option::is_none) {
            return None;
        }
        let lesser =
            |key: TaskKey| self.units.iter().flatten().any(|run| key.preempts(self.tasks[&run.task].key));
        let needs = |(id, task): &(&TaskId, &Task)| self.next_block(**id).is_some() && lesser(task.key);
        self.tasks.iter().filter(needs).min_by_key(|(_, task)| task.key).map(|(&id, _)| id)
    }

    fn choose(&self, cu: usize) -> Option<Choice<Seen>> {
        let rules = Rules { scheme: self.scheme, padding: self.options.padding };
        let ask = Ask { cu: Some(cu), limit: NO_LIMIT, turn: self.turn };
        self.look(|board| policy::choose(board, rules, ask))
    }

    /// What `ask` makes of the device as a policy sees it.
    fn look<R>(&self, ask: impl FnOnce(&Snapshot<'_>) -> R) -> R {
        let mut tasks: Vec<Seen> = self.tasks.iter().map(|(&id, task)| self.seen(id, task)).collect();
        tasks.sort_by_key(|task| task.slot);
        let unit = |run: &Option<Running>| {
            let running = run.map(|run| {
                let Task { slot, key, .. } = self.tasks[&run.task];
                policy::Running { slot, rank: key.rank(), end: run.end }
            });
            SeenUnit { running, since: run.map(|run| run.start), asleep: false }
        };
        let units: Vec<SeenUnit> = self.units.iter().map(unit).collect();
        let holder = self.holder.and_then(|id| self.tasks.get(&id)).map(|task| task.slot);
        ask(&Snapshot { tasks: &tasks, units: &units, holder, now: self.now })
    }

    fn seen(&self, id: TaskId, task: &Task) -> Seen {
        let front = task.device_queue.front();
        let stage = front.map_or(Stage::default(), |front| Stage {
            block: stage_block_time(&task.plan, front.stage),
            killable: true,
            outlook: task.outlooks[front.stage],
        });
        let claimable = self.next_block(id).is_some();
        let (owner, pass) = (share::index_of(task.key.share()), self.pass_of(task.key));
        Seen { slot: task.slot, key: task.key.get(), claimable, closed: false, stage, owner, pass }
    }

    /// Stage and block that a task starts next, if it may start one.
    fn next_block(&self, id: TaskId) -> Option<(usize, u32)> {
        let task = &self.tasks[&id];
        let front = task.device_queue.front().filter(|_| !self.is_held_back(id))?;
        (front.next_block < task.plan.stages()[front.stage].blocks())
            .then_some((front.stage, front.next_block))
    }

    fn task_in(&self, slot: usize) -> TaskId {
        let found = self.tasks.iter().find(|(_, task)| task.slot == slot);
        *found.expect("a policy chooses among the tasks that it was shown").0
    }

    fn start_block(&mut self, id: TaskId, padding: bool) -> Running {
        let (now, units) = (self.now, self.units.len());
        let running = self.units.iter().flatten().filter(|run| run.task == id).count();
        let (stage, block) = self.next_block(id).expect("a policy chooses a task that has one");
        let task = self.tasks.get_mut(&id).expect("it is on the board");
        task.device_queue.front_mut().expect("its stage is launched").next_block += 1;
        task.first_block.get_or_insert(now);
        Block { plan: &task.plan, stage, block }.start_meter();
        if running + 1 >= units.min(task.plan.stages()[0].blocks() as usize) {
            task.all_units.get_or_insert(now);
        }
        let time = Block { plan: &task.plan, stage, block }.time();
        let end = now + Nanos(time.0.max(1));
        Running { task: id, stage, block, start: now, end, padding }
    }

    fn finish_block(&mut self, cu: usize, run: Running) {
        let span = run.end - run.start;
        let task = self.tasks.get_mut(&run.task).expect("a running task is on the board");
        let block = Block { plan: &task.plan, stage: run.stage, block: run.block };
        block.meter(span);
        if let Err(fault) = blocks::compute(&self.options.interpreter, block, &mut task.io, &mut task.arena) {
            task.counters.wasted_time += span;
            self.counters.wasted += span;
            charge(&mut self.passes, task.key, span);
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
        if run.padding {
            task.counters.blocks_padding += 1;
            task.counters.padding_time += span;
            self.counters.blocks_padding += 1;
            self.counters.padding += span;
        }
        charge(&mut self.passes, task.key, span);
        let front = task.device_queue.front_mut().expect("the running stage is launched");
        front.done += 1;
        let stage_done = front.done == task.plan.stages()[run.stage].blocks();
        if stage_done {
            task.device_queue.pop_front();
        }
        let task_done =
            stage_done && task.device_queue.is_empty() && task.next_launch == task.plan.stages().len();
        let kind = EventKind::Block { stage: run.stage as u32, block: run.block, padding: run.padding };
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
        task.outlooks = outlooks(&plan, self.options.cus);
        (task.loaded, task.plan, task.next_launch) = (next, plan, 0);
        task.finished.clear();
        true
    }

    fn complete(&mut self, id: TaskId, outcome: Outcome) {
        self.event(id, None, self.now, self.now, EventKind::Completed);
        let task = self.tasks.remove(&id).expect("a task completes once");
        self.counters.completed += 1;
        let pass = self.pass_of(task.key);
        if !task.key.class().is_real_time() && share::is_before(self.last_pass, pass) {
            self.last_pass = pass;
        }
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

/// A block of a task with `key` had a unit for `span`.
fn charge(passes: &mut BTreeMap<usize, u64>, key: TaskKey, span: Nanos) {
    if !key.class().is_real_time() {
        let own = passes.entry(share::index_of(key.share())).or_default();
        *own = own.wrapping_add(share::cost(span, key.share().weight));
    }
}

/// Virtual time of the longest block of a stage: some passes.
fn stage_block_time(plan: &Plan, stage: usize) -> Nanos {
    let kernels = &plan.stages()[stage].kernels;
    let kernels = &plan.kernels()[kernels.start as usize..kernels.end as usize];
    kernels.iter().map(blocks::time).max().unwrap_or_default().max(Nanos(1))
}

fn outlooks(plan: &Plan, cus: usize) -> Vec<Outlook> {
    policy::outlooks(plan.stages().iter().map(|stage| stage.blocks()), cus as u32)
}
