//! The board and the compute units of a resident executor, in virtual time.
//!
//! A task is a cursor: the stage it is in, its next block, blocks that were killed and run again. Units
//! that run blocks of one kernel from the same moment on are one *group*. A unit looks at the poll word every
//! poll period of its block; where a more urgent task has a block for it then, it leaves its own, which is
//! all that is lost.
//!
//! | state of a unit | event | next |
//! |---|---|---|
//! | idle | a task has a block for it | running |
//! | running | the block's time is over | idle (done) |
//! | running | a poll point, and a more urgent task has a block for it (`reset`) | idle (killed) |
//!
//! | state of a task | event | next |
//! |---|---|---|
//! | waiting | there is room for it on the board | on its way |
//! | on its way | its stage is visible | open |
//! | open | the last block of the stage is done, and another stage follows | on its way |
//! | open | the last block of the last stage is done | – (its answer is on its way) |
//!
//! Which block a free unit takes is what `reef-device`'s policy says: real-time tasks in order, best-effort
//! ones by what their clients have used; beside a real-time stage whose blocks are all claimed, by the rule
//! of padding. It knows no model's kernels but as blocks, and no clock but its own.

use std::collections::VecDeque;

use reef_base::{Class, Nanos};

use super::constants::ResidentConstants;
use super::model::{ResidentModel, Stage};
use super::shares::Shares;
use crate::server::Client;

/// How classes share the units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One task after the other, the most urgent one first.
    Sequential,
    /// Tasks take turns, block by block.
    Concurrent,
    /// The most urgent task first, at the ends of blocks.
    Wait,
    /// The same, and at poll points: blocks are killed.
    Reset,
}

/// What may run beside a real-time stage whose blocks are all claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Nothing.
    None,
    /// Blocks that end before the stage does: the paper's rule 1. All that can be done without kills.
    Fitting,
    /// Any block that ends before the real-time task is expected to want the unit again; killed otherwise.
    Preemptible,
}

/// What goes first, and what is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How classes share the units.
    pub sharing: Sharing,
    /// What runs beside real-time stages.
    pub padding: Padding,
}

impl Rules {
    /// Ours.
    pub const RESET: Rules = Rules { sharing: Sharing::Reset, padding: Padding::Preemptible };
    /// Without kills.
    pub const WAIT: Rules = Rules { sharing: Sharing::Wait, padding: Padding::Fitting };
}

/// A request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose.
    pub client: usize,
    /// When it came.
    pub arrived: Nanos,
    /// When its first block began.
    pub begun: Nanos,
    /// When its last block ended.
    pub done: Nanos,
    /// When it is answered.
    pub at: Nanos,
    /// Whether a unit left a block for it, or it waited for one to end.
    pub preempted: bool,
}

/// What the units have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Real-time tasks that displaced others, or waited for their blocks.
    pub preemptions: u64,
    /// Blocks that ended.
    pub blocks: u64,
    /// Blocks that were killed.
    pub killed: u64,
    /// Unit time of blocks that ended.
    pub busy: Nanos,
    /// Unit time of blocks that were killed.
    pub wasted: Nanos,
    /// Unit time of best-effort blocks that began beside a real-time task, and ended.
    pub padding: Nanos,
}

impl std::ops::Sub for Counters {
    type Output = Counters;

    /// What was done since `earlier`.
    fn sub(self, earlier: Counters) -> Counters {
        Counters {
            preemptions: self.preemptions - earlier.preemptions,
            blocks: self.blocks - earlier.blocks,
            killed: self.killed - earlier.killed,
            busy: self.busy - earlier.busy,
            wasted: self.wasted - earlier.wasted,
            padding: self.padding - earlier.padding,
        }
    }
}

/// Blocks of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    kernel: usize,
    count: u32,
}

#[derive(Debug)]
struct Task {
    id: u64,
    client: usize,
    arrived: Nanos,
    /// Of the open stage, or of the one that opens next: when idle units see it, and when running ones may.
    opens: Nanos,
    polled: Nanos,
    stage: usize,
    /// The next block that nobody has claimed.
    kernel: usize,
    next: u32,
    /// Blocks that were killed.
    redo: Vec<Claim>,
    /// Blocks that run.
    running: u32,
    begun: Option<Nanos>,
    preempted: bool,
    /// It waited for another real-time task.
    queued: bool,
}

impl Task {
    fn is_claimable(&self, stage: &Stage) -> bool {
        !self.redo.is_empty() || self.kernel < stage.kernels.len()
    }

    /// The next blocks, of one kernel, and none claimed yet.
    fn front(&self, stage: &Stage) -> Option<Claim> {
        self.redo.last().copied().or_else(|| {
            let kernel = stage.kernels.get(self.kernel)?;
            Some(Claim { kernel: self.kernel, count: kernel.count - self.next })
        })
    }

    /// Claims so many of the next blocks.
    fn claim(&mut self, stage: &Stage, count: u32) {
        if let Some(redo) = self.redo.last_mut() {
            redo.count -= count;
            if redo.count == 0 {
                self.redo.pop();
            }
        } else {
            self.next += count;
            if self.next == stage.kernels[self.kernel].count {
                (self.kernel, self.next) = (self.kernel + 1, 0);
            }
        }
        self.running += count;
    }
}

/// Units that run blocks of one kernel from the same moment on.
#[derive(Clone, Copy, Debug)]
struct Group {
    task: u64,
    client: usize,
    rank: u16,
    kernel: usize,
    units: u32,
    /// When the units took the blocks, and when these begin.
    taken: Nanos,
    begin: Nanos,
    /// Nanoseconds left at full speed, and how many of them pass in one.
    left: f64,
    rate: f64,
    /// Units that were busy when the block's time was measured.
    measured: u32,
    pads: bool,
}

impl Group {
    fn end(&self, now: Nanos) -> Nanos {
        now + Nanos((self.left / self.rate).ceil().max(0.0) as u64)
    }

    /// Its first poll point from a time on.
    fn poll(&self, from: Nanos, period: Nanos) -> Nanos {
        let periods = from.since(self.begin).0.div_ceil(period.0);
        self.begin + Nanos(periods * period.0)
    }
}

/// A device with a resident executor, and the tasks of its clients.
#[derive(Debug)]
pub struct Executor<'a> {
    constants: &'a ResidentConstants,
    models: &'a [ResidentModel],
    clients: &'a [Client],
    rules: Rules,
    now: Nanos,
    /// On the board, in the order in which they came.
    tasks: Vec<Task>,
    /// Best-effort requests for which there is no room, in order.
    waiting: VecDeque<(usize, Nanos)>,
    groups: Vec<Group>,
    /// Since when how many units are idle; the last ones are taken first.
    idle: Vec<(Nanos, u32)>,
    /// Answers on their way, in the order of their times.
    answers: VecDeque<Ended>,
    /// Unit time that each client has used, for turns among best-effort ones.
    used: Vec<f64>,
    /// Who among those that wait is next.
    shares: Shares,
    next_id: u64,
    /// Whose turn it was last, and who has the device under `sequential`.
    turn: u64,
    holder: Option<u64>,
    /// Best-effort blocks that would not end by then are held back.
    due: Nanos,
    counters: Counters,
}

const BEST_EFFORT: u16 = u16::MAX;

fn rank_of(class: Class) -> u16 {
    match class {
        Class::RealTime(level) => u16::from(level.get()),
        Class::BestEffort => BEST_EFFORT,
    }
}

impl<'a> Executor<'a> {
    /// A device with nothing to do, at time 0.
    pub fn new(
        constants: &'a ResidentConstants,
        models: &'a [ResidentModel],
        clients: &'a [Client],
        rules: Rules,
    ) -> Executor<'a> {
        Executor {
            constants,
            models,
            clients,
            rules,
            now: Nanos::ZERO,
            tasks: Vec::new(),
            waiting: VecDeque::new(),
            groups: Vec::new(),
            idle: vec![(Nanos::ZERO, constants.units)],
            answers: VecDeque::new(),
            used: vec![0.0; clients.len()],
            shares: Shares::new(models),
            next_id: 1,
            turn: 0,
            holder: None,
            due: Nanos::ZERO,
            counters: Counters::default(),
        }
    }

    /// What time it is.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// What the units have done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Units that run a block now, or take one.
    pub fn busy(&self) -> u32 {
        self.groups.iter().map(|group| group.units).sum()
    }

    /// Best-effort blocks that would not end by `due` are not begun until then.
    pub fn expect(&mut self, due: Nanos) {
        self.due = due;
        self.dispatch();
    }

    /// A request comes, now.
    pub fn submit(&mut self, client: usize) {
        if self.rank(client) == BEST_EFFORT {
            self.shares.comes(self.clients[client].model);
        }
        self.waiting.push_back((client, self.now));
        self.admit();
        self.dispatch();
    }

    /// When something happens next, if anything does.
    pub fn next_event(&self) -> Option<Nanos> {
        let later = |at: &Nanos| *at > self.now;
        let left = self.groups.iter().map(|group| group.left / group.rate).min_by(f64::total_cmp);
        let ends = left.map(|left| self.now + Nanos(left.ceil().max(0.0) as u64)).into_iter();
        let opens = self.tasks.iter().map(|task| task.opens).filter(later);
        let answers = self.answers.front().map(|answer| answer.at);
        let due = Some(self.due).filter(|at| later(at) && !self.idle.is_empty() && !self.tasks.is_empty());
        let next = ends.chain(opens).chain(answers).chain(due).chain(self.next_poll()).min();
        next.map(|at| at.max(self.now))
    }

    /// When a unit next leaves a block for a more urgent one.
    fn next_poll(&self) -> Option<Nanos> {
        let urgent = self.urgent()?;
        let (rank, from) = (self.rank(urgent.client), urgent.polled.max(urgent.opens).max(self.now));
        let period = self.constants.polling.period_us.nanos();
        let polls = self.groups.iter().filter(|group| group.rank > rank);
        polls.map(|group| group.poll(from, period)).min()
    }

    /// The most urgent real-time task with an open stage and blocks that nobody has claimed, where blocks are
    /// killed for it.
    fn urgent(&self) -> Option<&Task> {
        let kills = self.rules.sharing == Sharing::Reset;
        let wants = |task: &&Task| {
            kills && self.rank(task.client) < BEST_EFFORT && task.opens <= self.now && self.is_claimable(task)
        };
        self.tasks.iter().filter(wants).min_by_key(|task| (self.rank(task.client), task.id))
    }

    /// Moves the clock to `to`, which is no later than the next event, and does what is due then.
    pub fn advance(&mut self, to: Nanos, ended: &mut Vec<Ended>) {
        let passed = to.since(self.now).0 as f64;
        self.now = to;
        self.groups.iter_mut().for_each(|group| group.left -= passed * group.rate);
        while let Some(at) = self.groups.iter().position(|group| group.left < 0.5) {
            let group = self.groups.remove(at);
            self.is_done(group);
        }
        while self.answers.front().is_some_and(|answer| answer.at <= to) {
            ended.extend(self.answers.pop_front());
        }
        self.admit();
        self.dispatch();
    }

    fn rank(&self, client: usize) -> u16 {
        rank_of(self.clients[client].class)
    }

    fn stage(&self, task: &Task) -> &'a Stage {
        &self.models[self.clients[task.client].model].stages[task.stage]
    }

    fn is_claimable(&self, task: &Task) -> bool {
        task.is_claimable(self.stage(task))
    }

    fn position(&self, id: u64) -> usize {
        self.tasks.iter().position(|task| task.id == id).expect("whose blocks run is on the board")
    }

    /// Which of those that wait has room on the board: real-time ones always.
    fn next_to_admit(&self) -> Option<usize> {
        let waits = || self.waiting.iter().enumerate();
        if let Some((at, _)) = waits().find(|(_, (client, _))| self.rank(*client) < BEST_EFFORT) {
            return Some(at);
        }
        let others = self.tasks.iter().filter(|task| self.rank(task.client) == BEST_EFFORT);
        if others.count() >= self.constants.board.best_effort_tasks as usize {
            return None;
        }
        let pass = |client: usize| self.shares.passes[self.clients[client].model];
        let least = waits().min_by(|(_, one), (_, other)| pass(one.0).total_cmp(&pass(other.0)));
        least.map(|(at, _)| at)
    }

    /// Puts what waits on the board, as far as there is room.
    fn admit(&mut self) {
        while let Some(at) = self.next_to_admit() {
            let (client, arrived) = self.waiting.remove(at).expect("it waits");
            if self.rank(client) == BEST_EFFORT {
                self.shares.starts(self.clients[client].model);
                self.join(client);
            }
            let queued = self.queues(self.rank(client));
            let published = self.now + self.constants.requests.submit_us.nanos();
            let visible = published + self.constants.polling.visibility_us.nanos();
            self.tasks.push(Task {
                id: self.next_id,
                client,
                arrived,
                opens: visible,
                polled: visible,
                stage: 0,
                kernel: 0,
                next: 0,
                redo: Vec::new(),
                running: 0,
                begun: None,
                preempted: false,
                queued,
            });
            self.next_id += 1;
        }
    }

    /// A task of this rank comes: whether it waits for other real-time ones, as less urgent ones do for it.
    fn queues(&mut self, rank: u16) -> bool {
        let (clients, mut waits) = (self.clients, false);
        for task in &mut self.tasks {
            let other = rank_of(clients[task.client].class);
            waits |= other <= rank && other < BEST_EFFORT;
            task.queued |= rank < other && task.begun.is_none();
        }
        waits
    }

    /// Who comes has no more to its credit than those who are there.
    fn join(&mut self, client: usize) {
        let others = self.tasks.iter().filter(|task| self.rank(task.client) == BEST_EFFORT);
        let least = others.map(|task| self.used[task.client]).fold(f64::INFINITY, f64::min);
        if least.is_finite() {
            self.used[client] = self.used[client].max(least);
        }
    }

    /// Blocks are over.
    fn is_done(&mut self, group: Group) {
        let time = Nanos(self.now.since(group.taken).0 * u64::from(group.units));
        self.counters.blocks += u64::from(group.units);
        self.counters.busy += time;
        self.counters.padding += if group.pads { time } else { Nanos::ZERO };
        self.used[group.client] += time.0 as f64;
        self.idle.push((self.now, group.units));
        let at = self.position(group.task);
        let stages = &self.models[self.clients[group.client].model].stages;
        let task = &mut self.tasks[at];
        task.running -= group.units;
        if task.running > 0 || task.is_claimable(&stages[task.stage]) {
            return;
        }
        if task.stage + 1 < stages.len() {
            (task.stage, task.kernel, task.next) = (task.stage + 1, 0, 0);
            task.opens = self.now + self.constants.stages.barrier_us.nanos();
            task.polled = self.now + self.constants.polling.visibility_us.nanos();
            return;
        }
        let task = self.tasks.remove(at);
        self.holder = self.holder.filter(|&holder| holder != task.id);
        self.counters.preemptions += u64::from(task.preempted);
        if self.rank(task.client) == BEST_EFFORT {
            self.shares.ends(self.clients[task.client].model);
        }
        self.answers.push_back(Ended {
            client: task.client,
            arrived: task.arrived,
            begun: task.begun.expect("its blocks have run"),
            done: self.now,
            at: self.now + self.constants.requests.hand_over_us.nanos(),
            preempted: task.preempted,
        });
    }

    /// Free units take blocks, units at poll points leave theirs for more urgent ones.
    fn dispatch(&mut self) {
        loop {
            while !self.idle.is_empty() {
                let Some((at, units)) = self.choose() else { break };
                self.start(at, units, Nanos::ZERO);
            }
            if !self.leave_for_urgent() {
                break;
            }
        }
        self.share();
    }

    /// Has one group that is at a poll point leave for the most urgent task that needs units; whether it did.
    fn leave_for_urgent(&mut self) -> bool {
        let Some(urgent) = self.urgent().filter(|task| task.polled <= self.now) else { return false };
        let (rank, id) = (self.rank(urgent.client), urgent.id);
        let wanted = urgent.front(self.stage(urgent)).map_or(0, |front| front.count);
        let (now, period) = (self.now, self.constants.polling.period_us.nanos());
        let polls = |group: &Group| group.rank > rank && group.poll(now, period) == now;
        let Some(from) = self.groups.iter().position(polls) else { return false };
        let group = &mut self.groups[from];
        let units = group.units.min(wanted);
        group.units -= units;
        let killed = *group;
        if killed.units == 0 {
            self.groups.remove(from);
        }
        let lost = Nanos(now.since(killed.taken).0 * u64::from(units));
        self.counters.killed += u64::from(units);
        self.counters.wasted += lost;
        self.used[killed.client] += lost.0 as f64;
        let at = self.position(killed.task);
        self.tasks[at].running -= units;
        self.tasks[at].redo.push(Claim { kernel: killed.kernel, count: units });
        self.idle.push((now, units));
        let at = self.position(id);
        self.tasks[at].preempted |= self.tasks[at].begun.is_none() && !self.tasks[at].queued;
        self.start(at, units, self.constants.polling.drop_us.nanos());
        true
    }

    /// So many of the units that were idle for the shortest begin with blocks of a task, `later` than they
    /// would.
    fn start(&mut self, at: usize, units: u32, later: Nanos) {
        let task = &self.tasks[at];
        let stage = self.stage(task);
        let front = task.front(stage).expect("who is chosen has blocks");
        let (since, idle) = self.idle.last_mut().expect("there are idle units");
        let units = units.min(*idle).min(front.count);
        let sleep = self.constants.sleep;
        let asleep = self.now.since(*since) > sleep.after_us.nanos();
        let wake = if asleep { sleep.wake_us.nanos() } else { Nanos::ZERO };
        *idle -= units;
        if *idle == 0 {
            self.idle.pop();
        }
        let rank = self.rank(task.client);
        let pads = rank == BEST_EFFORT && self.tasks.iter().any(|task| self.rank(task.client) < BEST_EFFORT);
        let begin = self.now + later + wake + self.constants.stages.pull_us.nanos();
        let time = stage.kernels[front.kernel].time;
        let task = &mut self.tasks[at];
        task.claim(stage, units);
        let waited = task.opens < self.now && !task.queued;
        task.preempted |= task.begun.is_none() && rank < BEST_EFFORT && waited;
        task.begun.get_or_insert(begin);
        self.turn = task.id;
        self.groups.push(Group {
            task: task.id,
            client: task.client,
            rank,
            kernel: front.kernel,
            units,
            taken: self.now,
            begin,
            left: (begin.since(self.now) + time).0 as f64,
            rate: 1.0,
            measured: stage.blocks().min(self.constants.units),
            pads,
        });
    }

    /// The task whose blocks free units take next, and how many of them.
    fn choose(&mut self) -> Option<(usize, u32)> {
        let ready = |task: &Task| task.opens <= self.now && self.is_claimable(task);
        let by_rank = |at: &usize| (self.rank(self.tasks[*at].client), self.tasks[*at].id);
        let all = u32::MAX;
        match self.rules.sharing {
            Sharing::Sequential => {
                if self.holder.is_none() {
                    let first = (0..self.tasks.len()).min_by_key(by_rank);
                    self.holder = first.map(|at| self.tasks[at].id);
                }
                let at = self.position(self.holder?);
                (self.tasks[at].opens <= self.now && self.is_claimable(&self.tasks[at])).then_some((at, all))
            }
            Sharing::Concurrent => {
                let ready: Vec<usize> = (0..self.tasks.len()).filter(|&at| ready(&self.tasks[at])).collect();
                let next = ready.iter().find(|&&at| self.tasks[at].id > self.turn).or(ready.first());
                next.map(|&at| (at, 1))
            }
            Sharing::Wait | Sharing::Reset => {
                let real_time =
                    |at: &usize| self.rank(self.tasks[*at].client) < BEST_EFFORT && ready(&self.tasks[*at]);
                let first = (0..self.tasks.len()).filter(real_time).min_by_key(by_rank);
                first.map(|at| (at, all)).or_else(|| self.choose_best_effort())
            }
        }
    }

    /// The best-effort task that has used least, of those that may run now, and how many units may take it.
    fn choose_best_effort(&self) -> Option<(usize, u32)> {
        let until = self.wanted_again()?;
        let until = if self.due > self.now { until.min(self.due) } else { until };
        let pull = self.constants.stages.pull_us.nanos();
        let may_run = |at: &usize| {
            let task = &self.tasks[*at];
            if self.rank(task.client) < BEST_EFFORT || task.opens > self.now {
                return false;
            }
            let stage = self.stage(task);
            let front = task.front(stage);
            front.is_some_and(|front| self.now + pull + stage.kernels[front.kernel].time <= until)
        };
        let used = |at: &usize| self.used[self.tasks[*at].client];
        let least =
            (0..self.tasks.len()).filter(may_run).min_by(|one, other| used(one).total_cmp(&used(other)));
        // Few units take turns block by block; of many, one block does not matter.
        Some((least?, (self.constants.units / 8).max(1)))
    }

    /// Until when best-effort blocks may run beside the real-time tasks; `None` if they may not begin.
    fn wanted_again(&self) -> Option<Nanos> {
        let real_time = self.tasks.iter().filter(|task| self.rank(task.client) < BEST_EFFORT);
        let mut until = Nanos::MAX;
        for task in real_time.filter(|task| task.opens <= self.now || task.begun.is_some()) {
            let own = || self.groups.iter().filter(|group| group.task == task.id);
            let stage_end = own().map(|group| group.end(self.now)).max().unwrap_or(self.now);
            until = until.min(match self.rules.padding {
                Padding::None => return None,
                Padding::Fitting => stage_end,
                Padding::Preemptible => {
                    self.wider_stage(task, stage_end, own().map(|group| group.units).sum())
                }
            });
        }
        Some(until)
    }

    /// When a task will have a stage that wants more units than it has and than are idle beside one; as far
    /// as anybody may look.
    fn wider_stage(&self, task: &Task, stage_end: Nanos, has: u32) -> Nanos {
        const STAGES_AHEAD: usize = 64;
        let units = self.constants.units;
        let idle: u32 = self.idle.iter().map(|(_, count)| count).sum();
        let ready = has + idle.saturating_sub(1);
        let model = &self.models[self.clients[task.client].model];
        let mut at = stage_end;
        for (ahead, stage) in model.stages[task.stage + 1..].iter().enumerate() {
            let width = stage.blocks().min(units);
            if width > ready || ahead == STAGES_AHEAD {
                return at;
            }
            let longest = stage.kernels.iter().map(|kernel| kernel.time).max().unwrap_or(Nanos::ZERO);
            at += Nanos(longest.0 * u64::from(stage.blocks().div_ceil(width)));
        }
        Nanos::MAX
    }

    /// How fast each block runs beside the others.
    fn share(&mut self) {
        let busy = self.busy();
        for group in &mut self.groups {
            group.rate = 1.0 / self.constants.slowdown(busy, group.measured);
        }
    }
}
