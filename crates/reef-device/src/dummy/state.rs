//! The dummy's state machine: tasks, queues, compute units and their events in virtual time.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;

use reef_base::{Clock, Nanos, Share, TaskId, TaskKey};
use reef_plan::Plan;

use super::DummyOptions;
use crate::contract::Outcome;
use crate::event::EventKind;
use crate::ids::LoadedPlan;
use crate::policy::{self, Ask, Choice, NO_LIMIT, Outlook, Rules, Seen, SeenUnit, Snapshot, Stage, share};
use crate::scheme::Scheme;
use crate::simulated::{self, Books, Machine, block_time};

/// What the dummy does.
pub struct Dummy {
    options: DummyOptions,
    books: Books,
    tasks: BTreeMap<TaskId, Task>,
    /// Under `sequential`, the task that has the device.
    holder: Option<TaskId>,
    units: Vec<Option<Running>>,
    /// Where `concurrent` goes on.
    turn: usize,
    /// What best-effort owners have used, by owner, and the greatest at the end of a task.
    passes: BTreeMap<usize, u64>,
    last_pass: u64,
}

impl fmt::Debug for Dummy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dummy").field("books", &self.books).finish_non_exhaustive()
    }
}

struct Task {
    of: simulated::Task,
    outlooks: Vec<Outlook>,
    not_before: Nanos,
    /// First stage of the host queue.
    next_launch: usize,
    device_queue: VecDeque<Launched>,
    /// Blocks that have ended at least once.
    finished: HashSet<(usize, u32)>,
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

impl Machine for Dummy {
    fn books(&self) -> &Books {
        &self.books
    }

    fn books_mut(&mut self) -> &mut Books {
        &mut self.books
    }

    fn has(&self, scheme: Scheme) -> bool {
        self.options.schemes.contains(&scheme)
    }

    fn reach(&mut self, now: Nanos) {
        self.books.now = now;
    }

    fn block_times(&self, plan: &Plan) -> Vec<u64> {
        plan.kernels().iter().map(|kernel| block_time(kernel).0).collect()
    }

    fn submit(&mut self, mut of: simulated::Task) {
        let (id, key) = (of.id, of.key);
        of.preempted = self.books.scheme.is_prioritised()
            && self.units.iter().flatten().any(|run| key.preempts(self.tasks[&run.task].of.key));
        self.books.counters.preemptions += u64::from(of.preempted);
        let task = Task {
            outlooks: outlooks(&of.plan, self.units.len()),
            of,
            not_before: self.books.now,
            next_launch: 0,
            device_queue: VecDeque::new(),
            finished: HashSet::new(),
        };
        if !key.class().is_real_time() {
            self.join(key.share());
        }
        self.tasks.insert(id, task);
        if self.books.scheme.kills() {
            self.reset_for(id);
        }
        self.dispatch();
    }

    fn cancel(&mut self, task: TaskId) {
        if self.tasks.contains_key(&task) {
            self.kill_blocks(task);
            self.complete(task, Outcome::Cancelled);
        }
    }

    fn poison(&mut self) {
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        for id in ids {
            self.kill_blocks(id);
            self.complete(id, Outcome::DeviceFault);
        }
    }

    fn unloaded(&mut self, _plan: LoadedPlan) {}

    fn changed(&mut self) {}

    fn runs_anything(&self) -> bool {
        self.units.iter().any(Option::is_some)
    }

    fn next_event(&mut self) -> Option<Nanos> {
        let (now, closed) = (self.books.now, self.books.closed);
        if !closed {
            self.dispatch();
        }
        let ends = self.units.iter().flatten().map(|run| run.end);
        let starts = self.tasks.values().map(|task| task.not_before).filter(|&at| at > now && !closed);
        ends.chain(starts).min()
    }

    fn step(&mut self) -> bool {
        let Some(next) = self.next_event() else { return false };
        self.options.clock.advance_to(next);
        self.books.now = self.options.clock.now();
        for cu in 0..self.units.len() {
            if let Some(run) = self.units[cu].filter(|run| run.end <= self.books.now) {
                self.units[cu] = None;
                self.finish_block(cu, run);
            }
        }
        if !self.books.closed {
            self.dispatch();
        }
        true
    }
}

impl Dummy {
    pub(super) fn new(options: DummyOptions) -> Dummy {
        Dummy {
            books: Books::new(options.books()),
            tasks: BTreeMap::new(),
            holder: None,
            units: vec![None; options.cus],
            turn: 0,
            passes: BTreeMap::new(),
            last_pass: 0,
            options,
        }
    }

    /// A task of the owner's comes.
    fn join(&mut self, share: Share) {
        let present = self.tasks.values().filter(|task| !task.of.key.class().is_real_time());
        let floor = present.map(|task| self.pass_of(task.of.key)).reduce(share::least);
        let own = self.passes.entry(share::index_of(share)).or_default();
        *own = share::joined(*own, floor.unwrap_or(self.last_pass));
    }

    fn pass_of(&self, key: TaskKey) -> u64 {
        self.passes.get(&share::index_of(key.share())).copied().unwrap_or_default()
    }

    /// Empties the queues of every less urgent task and kills their running blocks.
    fn reset_for(&mut self, urgent: TaskId) {
        let key = self.tasks[&urgent].of.key;
        let victims: Vec<TaskId> =
            self.tasks.iter().filter(|(_, task)| key.preempts(task.of.key)).map(|(&id, _)| id).collect();
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
        task.of.counters.kills_caused += killed;
        if killed > 0 {
            task.not_before = self.books.now + latency;
        }
    }

    fn kill_blocks(&mut self, victim: TaskId) -> u64 {
        let mut killed = 0;
        for cu in 0..self.units.len() {
            let Some(run) = self.units[cu].filter(|run| run.task == victim) else { continue };
            self.units[cu] = None;
            let wasted = self.books.now - run.start;
            let task = self.tasks.get_mut(&victim).expect("a running task is on the board");
            // What a killed block had written is rubbish.
            task.of.meter(run.stage, run.block, wasted);
            self.books.spoil(&mut task.of, run.stage, run.block);
            task.of.counters.blocks_killed += 1;
            task.of.counters.wasted_time += wasted;
            charge(&mut self.passes, task.of.key, wasted);
            self.books.counters.blocks_killed += 1;
            self.books.counters.wasted += wasted;
            killed += 1;
            let kind = EventKind::Killed { stage: run.stage as u32, block: run.block };
            self.event(victim, cu, (run.start, self.books.now), kind);
        }
        killed
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
        if self.books.scheme == Scheme::Sequential
            && !self.holder.is_some_and(|id| self.tasks.contains_key(&id))
        {
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
                && task.next_launch < task.of.plan.stages().len()
            {
                task.device_queue.push_back(Launched { stage: task.next_launch, next_block: 0, done: 0 });
                task.next_launch += 1;
            }
        }
    }

    /// Whether a task may start nothing now: a reset is under way for it or for a more urgent one, or the
    /// scheme keeps it off the device.
    fn is_held_back(&self, id: TaskId) -> bool {
        let key = self.tasks[&id].of.key;
        match self.books.scheme {
            Scheme::RtOnly if !key.class().is_real_time() => true,
            Scheme::Sequential if self.holder != Some(id) => true,
            _ => self.tasks.values().any(|task| task.not_before > self.books.now && task.of.key <= key),
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
        if !self.books.scheme.kills() || self.units.iter().any(Option::is_none) {
            return None;
        }
        let lesser =
            |key: TaskKey| self.units.iter().flatten().any(|run| key.preempts(self.tasks[&run.task].of.key));
        let needs = |(id, task): &(&TaskId, &Task)| self.next_block(**id).is_some() && lesser(task.of.key);
        self.tasks.iter().filter(needs).min_by_key(|(_, task)| task.of.key).map(|(&id, _)| id)
    }

    fn choose(&self, cu: usize) -> Option<Choice<Seen>> {
        let rules = Rules { scheme: self.books.scheme, padding: self.options.padding };
        let ask = Ask { cu: Some(cu), limit: NO_LIMIT, turn: self.turn };
        self.look(|board| policy::choose(board, rules, ask))
    }

    /// What `ask` makes of the device as a policy sees it.
    fn look<R>(&self, ask: impl FnOnce(&Snapshot<'_>) -> R) -> R {
        let mut tasks: Vec<Seen> = self.tasks.iter().map(|(&id, task)| self.seen(id, task)).collect();
        tasks.sort_by_key(|task| task.slot);
        let unit = |run: &Option<Running>| {
            let running = run.map(|run| {
                let simulated::Task { slot, key, .. } = self.tasks[&run.task].of;
                policy::Running { slot, rank: key.rank(), end: run.end }
            });
            SeenUnit { running, since: run.map(|run| run.start), asleep: false }
        };
        let units: Vec<SeenUnit> = self.units.iter().map(unit).collect();
        let holder = self.holder.and_then(|id| self.tasks.get(&id)).map(|task| task.of.slot);
        ask(&Snapshot { tasks: &tasks, units: &units, holder, now: self.books.now })
    }

    fn seen(&self, id: TaskId, task: &Task) -> Seen {
        let front = task.device_queue.front();
        let stage = front.map_or(Stage::default(), |front| Stage {
            block: stage_block_time(&task.of.plan, front.stage),
            killable: true,
            outlook: task.outlooks[front.stage],
        });
        let claimable = self.next_block(id).is_some();
        let (owner, pass) = (share::index_of(task.of.key.share()), self.pass_of(task.of.key));
        Seen { slot: task.of.slot, key: task.of.key.get(), claimable, closed: false, stage, owner, pass }
    }

    /// Stage and block that a task starts next, if it may start one.
    fn next_block(&self, id: TaskId) -> Option<(usize, u32)> {
        let task = &self.tasks[&id];
        let front = task.device_queue.front().filter(|_| !self.is_held_back(id))?;
        (front.next_block < task.of.plan.stages()[front.stage].blocks())
            .then_some((front.stage, front.next_block))
    }

    fn task_in(&self, slot: usize) -> TaskId {
        let found = self.tasks.iter().find(|(_, task)| task.of.slot == slot);
        *found.expect("a policy chooses among the tasks that it was shown").0
    }

    fn start_block(&mut self, id: TaskId, padding: bool) -> Running {
        let (now, units) = (self.books.now, self.units.len());
        let running = self.units.iter().flatten().filter(|run| run.task == id).count();
        let (stage, block) = self.next_block(id).expect("a policy chooses a task that has one");
        let task = self.tasks.get_mut(&id).expect("it is on the board");
        task.device_queue.front_mut().expect("its stage is launched").next_block += 1;
        task.of.first_block.get_or_insert(now);
        task.of.start_meter(stage, block);
        if running + 1 >= units.min(task.of.plan.stages()[0].blocks() as usize) {
            task.of.all_units.get_or_insert(now);
        }
        let end = now + task.of.block_time(stage, block).max(Nanos(1));
        Running { task: id, stage, block, start: now, end, padding }
    }

    fn finish_block(&mut self, cu: usize, run: Running) {
        let span = run.end - run.start;
        let task = self.tasks.get_mut(&run.task).expect("a running task is on the board");
        task.of.meter(run.stage, run.block, span);
        if let Err(fault) = self.books.compute(&mut task.of, run.stage, run.block) {
            task.of.counters.wasted_time += span;
            self.books.counters.wasted += span;
            charge(&mut self.passes, task.of.key, span);
            self.kill_blocks(run.task);
            return self.complete(run.task, Outcome::Failed(fault));
        }
        let rerun = u64::from(!task.finished.insert((run.stage, run.block)));
        task.of.counters.blocks_done += 1;
        task.of.counters.blocks_rerun += rerun;
        task.of.counters.cu_time += span;
        self.books.counters.blocks_done += 1;
        self.books.counters.blocks_rerun += rerun;
        self.books.counters.busy += span;
        if run.padding {
            task.of.counters.blocks_padding += 1;
            task.of.counters.padding_time += span;
            self.books.counters.blocks_padding += 1;
            self.books.counters.padding += span;
        }
        charge(&mut self.passes, task.of.key, span);
        let front = task.device_queue.front_mut().expect("the running stage is launched");
        front.done += 1;
        let stage_done = front.done == task.of.plan.stages()[run.stage].blocks();
        if stage_done {
            task.device_queue.pop_front();
        }
        let task_done =
            stage_done && task.device_queue.is_empty() && task.next_launch == task.of.plan.stages().len();
        let kind = EventKind::Block { stage: run.stage as u32, block: run.block, padding: run.padding };
        self.event(run.task, cu, (run.start, run.end), kind);
        if task_done && !self.go_on(run.task) {
            self.complete(run.task, Outcome::Done);
        }
    }

    /// Goes on with the plan that follows a task's present one, if one does.
    fn go_on(&mut self, id: TaskId) -> bool {
        let task = self.tasks.get_mut(&id).expect("a task that ran is on the board");
        if !self.books.go_on(&mut task.of) {
            return false;
        }
        task.outlooks = outlooks(&task.of.plan, self.options.cus);
        task.next_launch = 0;
        task.finished.clear();
        true
    }

    fn complete(&mut self, id: TaskId, outcome: Outcome) {
        let task = self.tasks.remove(&id).expect("a task completes once").of;
        let pass = self.pass_of(task.key);
        if !task.key.class().is_real_time() && share::is_before(self.last_pass, pass) {
            self.last_pass = pass;
        }
        self.books.complete(task, outcome);
    }

    fn event(&mut self, id: TaskId, cu: usize, (start, end): (Nanos, Nanos), kind: EventKind) {
        self.books.event(&self.tasks[&id].of, Some(cu), (start, end), kind);
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
    kernels.iter().map(block_time).max().unwrap_or_default().max(Nanos(1))
}

fn outlooks(plan: &Plan, cus: usize) -> Vec<Outlook> {
    policy::outlooks(plan.stages().iter().map(|stage| stage.blocks()), cus as u32)
}
