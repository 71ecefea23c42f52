//! Which kernel is queued next: the tasks on the device as a state machine that knows neither driver nor
//! clock.
//!
//! A task's kernels are queued one after the other on a stream of its own, ahead of the last one that has
//! ended by so much that the device does not wait for the host: as long as its round trip takes, by what is
//! known of the kernels' times (`Board::ahead`), and by a number ([`OUTSTANDING_MAX`]). Which task queues
//! next is for the policy that all devices share. Every launch is told of once, in the order of the stream
//! ([`Board::ended`]).
//!
//! An urgent task *evicts* a less urgent one: blocks of what that has queued do not start any more. What
//! runs, runs to its end. A kernel of which a block was skipped is queued again, with all its blocks, and so
//! is all behind it, where nothing has run; nothing before it is: what has ended stays ended. So a plan needs
//! no restart window. The mark behind a task's outputs counts as a block: if it is skipped, the outputs may
//! be rubbish.
//!
//! A kernel that the device has no code for is a *host step*. It begins when all before it was told of: its
//! operands are fetched, then a thread of the host runs it, then its results are stored on the device; each
//! of the three is told of before the next one begins. A task in a host step is not evicted: nothing of it
//! would be skipped. While the host runs it, the task is not in the way of less urgent ones (but under
//! `sequential`), and whatever ends the task waits for the host.
//!
//! Kernels of an urgent task that leave multiprocessors idle are *padded* with blocks of a less urgent one
//! (the paper's dynamic kernel padding): both go into one launch, the urgent ones first. The rules are the
//! paper's: a padding block takes no longer than the other kernel's, by what was measured, and no fewer of
//! them fit a multiprocessor; and there are no more than what the last wave of the other kernel leaves. So a
//! task may have run the first blocks of a kernel when its turn comes. While its blocks pad, nothing else of
//! it is queued but more padding behind the same task, and it is evicted by what evicts that one.
//!
//! Under `concurrent` the kernels between two host steps are one launch, a *graph*, as others launch them on
//! a GPU. It is told of when all of it has ended. Blocks of it are skipped only where its task is over
//! anyway: a graph would begin anew with its first kernel, whose operands may be overwritten.
//!
//! | state of a task | what is queued | what ends it |
//! |---|---|---|
//! | open | kernels, then a mark behind its outputs | the mark |
//! | in a host step | copies and a mark behind them, or nothing while the host runs it | its last part |
//! | evicted | what was queued before | its turn, when all of that was told of: it is open again |
//! | closed (cancelled, failed, device fault) | what was queued before | the last launch of it, or the host |

mod fit;
mod padding;

use std::collections::VecDeque;

use reef_base::limits::MODELS_MAX;
use reef_base::{Nanos, Share, TaskId, TaskKey};
use reef_device::policy::{self, Ask, NO_LIMIT, Rules, Seen, Snapshot, Stage, share};
use reef_device::{
    Completion, DeviceCounters, Io, LoadedPlan, Outcome, Padding, RejectReason, Scheme, TaskCounters,
};
use reef_plan::HostFault;

pub(crate) use self::fit::{Fit, Kernels};

/// Launches of a task that have not ended, at most: what is waited for where they cannot be evicted.
const OUTSTANDING: usize = 4;
/// The same of a real-time task that can be evicted.
pub(crate) const OUTSTANDING_MAX: usize = 32;
/// Launches that are always queued: one runs, the next one follows it at once.
const OUTSTANDING_MIN: usize = 2;

/// How far a task's queue reaches beyond what runs, at least.
pub(crate) const AHEAD_MIN: Nanos = Nanos::from_micros(20);

/// Tasks at a time.
pub(crate) const SLOTS: usize = reef_base::limits::BOARD_SLOTS_DEFAULT;
/// Of them only for real-time tasks.
pub(crate) const SLOTS_REAL_TIME: usize = reef_base::limits::REAL_TIME_SLOTS_RESERVED;

/// Reports at a time, each in the place that its launch's number says: more than launches that are under way.
pub(crate) const REPORTS: usize = (SLOTS * (OUTSTANDING_MAX + 1)).next_power_of_two();

/// Bits of a task's id that hold its slot.
const SLOT_BITS: u32 = 6;

/// What is to be done with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Keep blocks of the task in this slot from starting.
    Evict(usize),
    /// Let them start.
    Allow(usize),
    /// Queue a kernel's blocks `from` on, with padding if there is some; the `first` time of a task, let its
    /// blocks start, and queue the copies of its inputs before it.
    Launch { slot: usize, kernel: usize, from: u32, number: u32, first: bool, padding: Option<Pads> },
    /// Queue the graph that begins with a kernel; `first` as above.
    Graph { slot: usize, kernel: usize, number: u32, first: bool },
    /// Queue the copies of a host step's operands to the host, and a mark behind them; `first` as above.
    Fetch { slot: usize, kernel: usize, number: u32, first: bool },
    /// Have a thread of the host run a host step.
    Run { slot: usize, kernel: usize },
    /// Queue the copies of a host step's results to the device, and a mark behind them.
    Store { slot: usize, kernel: usize, number: u32 },
    /// Queue the copies of a task's outputs, and a mark behind them.
    Finish { slot: usize, number: u32 },
}

/// Blocks that pad a launch of another task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pads {
    pub(crate) slot: usize,
    pub(crate) kernel: usize,
    pub(crate) from: u32,
    pub(crate) blocks: u32,
    pub(crate) number: u32,
}

/// A launch that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Blocks that did not start.
    pub(crate) skipped: u32,
    /// Why the kernel could not compute its outputs, if it could not.
    pub(crate) fault: Option<HostFault>,
    pub(crate) begun: Nanos,
    pub(crate) ended: Nanos,
}

/// A kernel of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many blocks on the device.
    Device(u32),
    /// One block on the host.
    Host,
}

impl Step {
    pub(crate) fn blocks(self) -> u32 {
        match self {
            Step::Device(blocks) => blocks,
            Step::Host => 1,
        }
    }
}

/// A task to come.
pub(crate) struct Submission<P> {
    pub(crate) plan: LoadedPlan,
    /// What whoever does the actions needs of the plan.
    pub(crate) payload: P,
    /// Its kernels.
    pub(crate) steps: std::sync::Arc<[Step]>,
    pub(crate) key: TaskKey,
    pub(crate) io: Io,
    pub(crate) token: u64,
}

struct Task<P> {
    id: TaskId,
    submission: Submission<P>,
    submitted: Nanos,
    preempted: bool,
    begun: bool,
    /// The kernel to queue next; one behind the last is the mark.
    next: usize,
    /// Blocks of it that have run already.
    from: u32,
    /// The part of it to begin next, if it is a host step.
    part: Part,
    /// Whether the mark is queued.
    finishing: bool,
    outstanding: VecDeque<Outstanding>,
    evicted: bool,
    closed: Option<Outcome>,
    /// Whether a kernel of it could not compute its outputs, also where that is not how it ends.
    failed: bool,
    first_block: Option<Nanos>,
    counters: TaskCounters,
}

/// A part of a host step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Fetch,
    Run,
    Store,
}

#[derive(Clone, Copy)]
struct Outstanding {
    /// The launch that is told of; none of a part that the host runs.
    number: Option<u32>,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Kernel(Blocks),
    Graph(Several),
    Part(Part),
    Mark,
}

/// So many kernels in a launch, and blocks of all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Several {
    kernels: u64,
    blocks: u32,
}

/// Blocks of a kernel in a launch.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Blocks {
    kernel: usize,
    from: u32,
    count: u32,
    /// The slot and the key of the task whose launch they pad.
    pads: Option<(usize, TaskKey)>,
    /// Others pad them.
    padded: bool,
}

impl<P: Kernels> Task<P> {
    /// Whether what is queued behind the launch that runs takes so long already.
    fn is_ahead(&self, by: Nanos, units: usize) -> bool {
        let behind = self.outstanding.iter().skip(1);
        let time = |queued: &Outstanding| match queued.what {
            What::Kernel(blocks) => self.submission.payload.fit(blocks.kernel, units).whole,
            What::Graph(_) | What::Part(_) | What::Mark => None,
        };
        self.outstanding.len() >= OUTSTANDING_MIN
            && behind.filter_map(time).map(|time| time.0).sum::<u64>() >= by.0
    }
}

impl<P> Task<P> {
    fn is_real_time(&self) -> bool {
        self.submission.key.class().is_real_time()
    }

    fn may_queue(&self, scheme: Scheme, most: usize) -> bool {
        let most = if self.is_real_time() && scheme.kills() { OUTSTANDING_MAX } else { most };
        let alone = self.evicted || self.next_step() == Some(Step::Host) || self.padded_task().is_some();
        let settled = !alone || self.outstanding.is_empty();
        self.closed.is_none() && !self.finishing && settled && self.outstanding.len() < most
    }

    fn next_step(&self) -> Option<Step> {
        self.submission.steps.get(self.next).copied()
    }

    /// The slot and the key of the task whose launches its blocks pad, if they do.
    fn padded_task(&self) -> Option<(usize, TaskKey)> {
        match self.outstanding.front()?.what {
            What::Kernel(blocks) => blocks.pads,
            What::Graph(_) | What::Part(_) | What::Mark => None,
        }
    }

    /// Whether blocks of it may pad the next launch of the task in slot `of`, for what it has queued.
    fn may_pad(&self, of: usize) -> bool {
        let free = self.outstanding.is_empty() || self.padded_task().is_some_and(|(slot, _)| slot == of);
        let settled = !self.evicted || self.outstanding.is_empty();
        let open = self.begun && self.closed.is_none() && settled;
        open && free && self.outstanding.len() < OUTSTANDING
    }

    /// Whether a graph of it is queued.
    fn is_in_graph(&self) -> bool {
        self.outstanding.front().is_some_and(|queued| matches!(queued.what, What::Graph(_)))
    }

    /// Whether nothing but the mark behind its outputs is queued.
    fn only_finishes(&self) -> bool {
        self.finishing && self.outstanding.len() == 1
    }

    /// The part of a host step that is under way.
    fn part_under_way(&self) -> Option<Part> {
        match self.outstanding.front()?.what {
            What::Part(part) => Some(part),
            What::Kernel(_) | What::Graph(_) | What::Mark => None,
        }
    }

    /// Whether the device has nothing to do for it until the host is through.
    fn is_on_host(&self) -> bool {
        self.part_under_way() == Some(Part::Run)
    }
}

/// How far a task's queue may reach.
struct Bounds {
    outstanding: Option<usize>,
    ahead: Nanos,
    units: usize,
}

impl Bounds {
    fn let_queue<P: Kernels>(&self, task: &Task<P>, scheme: Scheme) -> bool {
        match self.outstanding.filter(|_| !task.is_real_time()) {
            Some(most) => task.may_queue(scheme, most),
            None => task.may_queue(scheme, OUTSTANDING) && !task.is_ahead(self.ahead, self.units),
        }
    }
}

/// The tasks.
pub(crate) struct Board<P> {
    pub(crate) scheme: Scheme,
    /// How far a task's queue reaches beyond what runs, in time.
    pub(crate) ahead: Nanos,
    padding: Padding,
    /// Launches of a best-effort task that are queued, if somebody says how many. Otherwise as many as the
    /// device needs to go on.
    pub(crate) outstanding: Option<usize>,
    units: usize,
    tasks: Vec<Option<Task<P>>>,
    /// Under `sequential`, the slot of the task that has the device.
    holder: Option<usize>,
    turn: usize,
    passes: Vec<u64>,
    last_pass: u64,
    /// Queues nothing.
    pub(crate) paused: bool,
    /// Why it takes nothing any more.
    pub(crate) fault: Option<String>,
    generation: u64,
    number: u32,
    completions: VecDeque<Completion>,
    /// Queues of the tasks to come, one for each free slot.
    queues: Vec<VecDeque<Outstanding>>,
    /// What is seen of the tasks when one is chosen.
    seen: Vec<Seen>,
    /// Of tasks that are over.
    retired: Vec<P>,
    pub(crate) counters: DeviceCounters,
}

impl<P: Kernels> Board<P> {
    pub(crate) fn new(scheme: Scheme, padding: Padding, units: usize) -> Board<P> {
        Board {
            scheme,
            ahead: AHEAD_MIN,
            padding,
            outstanding: None,
            units,
            tasks: (0..SLOTS).map(|_| None).collect(),
            holder: None,
            turn: 0,
            passes: vec![0; MODELS_MAX],
            last_pass: 0,
            paused: false,
            fault: None,
            generation: 0,
            number: 0,
            completions: VecDeque::with_capacity(SLOTS),
            queues: (0..SLOTS).map(|_| VecDeque::with_capacity(OUTSTANDING_MAX)).collect(),
            seen: Vec::with_capacity(SLOTS),
            retired: Vec::with_capacity(SLOTS),
            counters: DeviceCounters::default(),
        }
    }

    /// Why a task would not be taken, if it would not.
    pub(crate) fn refusal(&self, key: TaskKey) -> Option<RejectReason> {
        // A task whose completion was not fetched yet still holds its place.
        let taken = self.tasks.iter().flatten().count() + self.completions.len();
        let real_time = key.class().is_real_time();
        let free = SLOTS.saturating_sub(taken);
        match () {
            () if self.paused || self.fault.is_some() => Some(RejectReason::Closed),
            () if !real_time && self.scheme == Scheme::RtOnly => Some(RejectReason::SchemeRefuses),
            () if free == 0 || (!real_time && free <= SLOTS_REAL_TIME) => Some(RejectReason::BoardFull),
            () => None,
        }
    }

    /// Takes a task that is not refused; allocates nothing.
    pub(crate) fn submit(&mut self, submission: Submission<P>, now: Nanos) -> TaskId {
        let slot = self.tasks.iter().position(Option::is_none).expect("who submits asks for a refusal first");
        self.generation += 1;
        let id = TaskId(self.generation << SLOT_BITS | slot as u64);
        let key = submission.key;
        if !key.class().is_real_time() {
            self.join(key.share());
        }
        let queued = |task: &Task<P>| !task.outstanding.is_empty() && !task.is_on_host();
        let lesser = |task: &Task<P>| queued(task) && key.preempts(task.submission.key);
        let preempted = self.scheme.is_prioritised() && self.tasks.iter().flatten().any(lesser);
        self.counters.submitted += 1;
        self.counters.preemptions += u64::from(preempted);
        self.tasks[slot] = Some(Task {
            id,
            submission,
            submitted: now,
            preempted,
            begun: false,
            next: 0,
            from: 0,
            part: Part::Fetch,
            finishing: false,
            outstanding: self.queues.pop().expect("there is one for each free slot"),
            evicted: false,
            closed: None,
            failed: false,
            first_block: None,
            counters: TaskCounters::default(),
        });
        id
    }

    /// Ends a task early, if it is there.
    pub(crate) fn cancel(&mut self, id: TaskId, now: Nanos) {
        let slot = (id.0 & ((1 << SLOT_BITS) - 1)) as usize;
        if self.tasks.get(slot).and_then(Option::as_ref).is_some_and(|task| task.id == id) {
            self.close(slot, Outcome::Cancelled, now);
        }
    }

    /// Ends every task; takes none any more. The device still tells of what is queued.
    pub(crate) fn poison(&mut self, reason: &str, now: Nanos) {
        self.fault.get_or_insert_with(|| reason.to_string());
        for slot in 0..SLOTS {
            self.close(slot, Outcome::DeviceFault, now);
        }
    }

    /// As [`Board::poison`], where the device tells of nothing any more. The host still does.
    pub(crate) fn abandon(&mut self, reason: &str, now: Nanos) {
        self.poison(reason, now);
        for slot in 0..SLOTS {
            if let Some(task) = self.tasks[slot].as_mut().filter(|task| !task.is_on_host()) {
                task.outstanding.clear();
                self.complete(slot, Outcome::DeviceFault, now);
            }
        }
    }

    fn close(&mut self, slot: usize, outcome: Outcome, now: Nanos) {
        let Some(task) = &mut self.tasks[slot] else { return };
        task.closed.get_or_insert(outcome);
        if task.outstanding.is_empty() {
            let outcome = task.closed.clone().expect("it was closed above");
            self.complete(slot, outcome, now);
        }
    }

    /// What to do next with the device; to be asked again until there is nothing.
    pub(crate) fn next(&mut self) -> Option<Action> {
        if let Some(slot) = self.to_evict() {
            self.task_mut(slot).evicted = true;
            return Some(Action::Evict(slot));
        }
        if self.paused || self.fault.is_some() {
            return None;
        }
        // What only has its outputs copied is in nobody's way.
        let slot = self.to_finish().or_else(|| self.choose())?;
        self.turn = slot;
        let padding = self.padding_of(slot);
        if let Some(slot) = [Some(slot), padding.map(|pads| pads.slot)].into_iter().flatten().find(|&slot| {
            let task = self.task_mut(slot);
            std::mem::replace(&mut task.evicted, false)
        }) {
            return Some(Action::Allow(slot));
        }
        let padding = padding.map(|pads| self.pad(slot, pads));
        let number = self.next_number();
        let graph = self.graph_of(slot);
        let task = self.task_mut(slot);
        let (kernel, from, part) = (task.next, task.from, task.part);
        let first = !task.begun;
        let (what, action) = match task.next_step() {
            Some(Step::Device(_)) if let Some((end, several)) = graph => {
                task.next = end;
                (What::Graph(several), Action::Graph { slot, kernel, number, first })
            }
            Some(Step::Device(blocks)) => {
                (task.next, task.from) = (kernel + 1, 0);
                let (count, padded) = (blocks - from, padding.is_some());
                (
                    What::Kernel(Blocks { kernel, from, count, pads: None, padded }),
                    Action::Launch { slot, kernel, from, number, first, padding },
                )
            }
            Some(Step::Host) => (
                What::Part(part),
                match part {
                    Part::Fetch => Action::Fetch { slot, kernel, number, first },
                    Part::Run => Action::Run { slot, kernel },
                    Part::Store => Action::Store { slot, kernel, number },
                },
            ),
            None => {
                task.finishing = true;
                (What::Mark, Action::Finish { slot, number })
            }
        };
        task.begun = true;
        let told_of = what != What::Part(Part::Run);
        task.outstanding.push_back(Outstanding { number: told_of.then_some(number), what });
        Some(action)
    }

    /// The graph that a task is to be queued as next, if it is: the kernel behind it, and what it has.
    fn graph_of(&self, slot: usize) -> Option<(usize, Several)> {
        let task = self.tasks[slot].as_ref().filter(|_| self.scheme == Scheme::Concurrent)?;
        let end = task.submission.payload.graph_end(task.next).filter(|_| task.from == 0)?;
        let steps = &task.submission.steps[task.next..end];
        let blocks = steps.iter().map(|step| step.blocks()).sum();
        Some((end, Several { kernels: steps.len() as u64, blocks }))
    }

    /// The number of the next launch. No other that is under way reports in the same place: one that waits
    /// long for its turn keeps its own.
    fn next_number(&mut self) -> u32 {
        let place = |number: u32| number as usize % REPORTS;
        let queued = || self.tasks.iter().flatten().flat_map(|task| &task.outstanding);
        let taken =
            |number| queued().filter_map(|other| other.number).any(|other| place(other) == place(number));
        let mut number = self.number.wrapping_add(1);
        while taken(number) {
            number = number.wrapping_add(1);
        }
        self.number = number;
        number
    }

    /// A task of which only the outputs are left to copy.
    fn to_finish(&self) -> Option<usize> {
        let over = |task: &Task<P>| {
            task.next_step().is_none() && task.outstanding.is_empty() && task.closed.is_none()
        };
        let sequential = self.scheme == Scheme::Sequential;
        self.tasks.iter().position(|task| !sequential && task.as_ref().is_some_and(over))
    }

    /// A task whose blocks are not to start any more, and still may.
    fn to_evict(&self) -> Option<usize> {
        let open = |task: &&Task<P>| task.closed.is_none() && !task.is_on_host();
        let keys = self.tasks.iter().flatten().filter(open).map(|task| task.submission.key);
        let urgent = keys.min().filter(|_| self.scheme.kills());
        let unwanted = |task: &Task<P>| {
            // Padding is as urgent as what it pads.
            let key = task.padded_task().map_or(task.submission.key, |(_, key)| key);
            task.closed.is_some() || urgent.is_some_and(|urgent| urgent.preempts(key))
        };
        let stays = |task: &Task<P>| task.only_finishes() || task.is_in_graph();
        let unwanted = |task: &Task<P>| unwanted(task) && (task.closed.is_some() || !stays(task));
        let queued = |task: &Task<P>| !task.outstanding.is_empty() && task.part_under_way().is_none();
        let evictable = |task: &Task<P>| !task.evicted && queued(task) && unwanted(task);
        self.tasks.iter().position(|task| task.as_ref().is_some_and(evictable))
    }

    fn choose(&mut self) -> Option<usize> {
        let bounds = Bounds { outstanding: self.outstanding, ahead: self.ahead, units: self.units };
        let seen = |(slot, task): (usize, &Option<Task<P>>)| {
            let task = task.as_ref()?;
            if task.is_on_host() && self.scheme != Scheme::Sequential {
                return None;
            }
            let (key, owner) = (task.submission.key, share::index_of(task.submission.key.share()));
            Some(Seen {
                slot,
                key: key.get(),
                claimable: bounds.let_queue(task, self.scheme),
                closed: task.closed.is_some(),
                stage: Stage::default(),
                owner,
                pass: self.passes[owner],
            })
        };
        let mut tasks = std::mem::take(&mut self.seen);
        tasks.clear();
        tasks.extend(self.tasks.iter().enumerate().filter_map(seen));
        // Queues, not units, are filled here, so the policy sees none: nothing pads an urgent task.
        let board = Snapshot { tasks: &tasks, units: &[], holder: self.holder, now: Nanos::ZERO };
        let holder = self.holder.or_else(|| policy::elect(&board).map(|task| task.slot));
        let rules = Rules { scheme: self.scheme, padding: self.padding };
        let ask = Ask { cu: None, limit: NO_LIMIT, turn: self.turn };
        let choice = policy::choose(&Snapshot { holder, ..board }, rules, ask);
        self.holder = holder.filter(|_| self.scheme == Scheme::Sequential);
        let slot = choice.map(|choice| choice.task.slot);
        self.seen = tasks;
        slot
    }

    /// The oldest launch of each task that has not ended: the next to be told of.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = (usize, u32)> {
        let front = |(slot, task): (usize, &Option<Task<P>>)| {
            Some((slot, task.as_ref()?.outstanding.front()?.number?))
        };
        self.tasks.iter().enumerate().filter_map(front)
    }

    /// The oldest launch of a task has ended, or what the host runs of it. Returns the kernel if one of the
    /// device ran whole, with the device for itself as far as the task goes.
    pub(crate) fn ended(&mut self, slot: usize, ended: Ended, now: Nanos) -> Option<usize> {
        let task = self.task_mut(slot);
        let launch = task.outstanding.pop_front().expect("what ends was queued");
        if let Some(fault) = ended.fault.clone() {
            task.failed = true;
            task.closed.get_or_insert(Outcome::Failed(fault));
        }
        let whole = match launch.what {
            What::Kernel(blocks) => {
                let all = task.submission.steps[blocks.kernel].blocks();
                let alone = blocks.pads.is_none() && !blocks.padded && blocks.count == all;
                self.blocks_ended(slot, blocks, &ended);
                (alone && ended.skipped == 0).then_some(blocks.kernel)
            }
            What::Graph(several) => {
                self.graph_ended(slot, several, &ended);
                None
            }
            What::Part(part) => {
                self.part_ended(slot, part, &ended);
                None
            }
            What::Mark => {
                task.finishing = false;
                // Who is done is not cancelled any more; a kernel that failed made no outputs.
                let is_open = matches!(task.closed, None | Some(Outcome::Cancelled));
                if ended.skipped == 0 && is_open && !task.failed {
                    self.complete(slot, Outcome::Done, now);
                    return None;
                }
                None
            }
        };
        let task = self.task_mut(slot);
        if task.outstanding.is_empty()
            && let Some(outcome) = task.closed.clone()
        {
            self.complete(slot, outcome, now);
        }
        whole
    }

    fn blocks_ended(&mut self, slot: usize, blocks: Blocks, ended: &Ended) {
        let units = self.units as u64;
        let task = self.task_mut(slot);
        let ran = u64::from(blocks.count - ended.skipped);
        let again = if ended.skipped > 0 { ran } else { 0 };
        if ended.skipped > 0 {
            (task.next, task.from) = (task.next, task.from).min((blocks.kernel, blocks.from));
        }
        let span = Nanos((ended.ended - ended.begun).0 * units.min(ran));
        task.counters.blocks_rerun += again;
        if blocks.pads.is_some() {
            task.counters.blocks_padding += ran;
            task.counters.padding_time += span;
            self.counters.blocks_padding += ran;
            self.counters.padding += span;
        }
        self.counters.blocks_rerun += again;
        self.count(slot, ran, ended.begun, span);
    }

    fn graph_ended(&mut self, slot: usize, several: Several, ended: &Ended) {
        let is_over = self.task_mut(slot).closed.is_some();
        assert!(ended.skipped == 0 || is_over, "a graph is evicted with its task only");
        let ran = u64::from(several.blocks - ended.skipped);
        // How wide it is by and by nobody tells: as wide as its kernels are on average.
        let wide = (self.units as u64).min(ran.div_ceil(several.kernels));
        self.count(slot, ran, ended.begun, Nanos((ended.ended - ended.begun).0 * wide));
    }

    fn part_ended(&mut self, slot: usize, part: Part, ended: &Ended) {
        assert_eq!(ended.skipped, 0, "what is in a host step is not evicted");
        let task = self.task_mut(slot);
        match part {
            Part::Fetch => task.part = Part::Run,
            Part::Run => {
                task.part = Part::Store;
                let ran = u64::from(ended.fault.is_none());
                // It takes no unit of the device.
                self.count(slot, ran, ended.begun, Nanos::ZERO);
            }
            Part::Store => {
                task.part = Part::Fetch;
                task.next += 1;
            }
        }
    }

    /// Blocks of a task ran, the first one since `begun`, for `span` of compute-unit time together.
    fn count(&mut self, slot: usize, ran: u64, begun: Nanos, span: Nanos) {
        let task = self.task_mut(slot);
        if ran > 0 {
            task.first_block.get_or_insert(begun.max(task.submitted));
            task.counters.blocks_done += ran;
            task.counters.cu_time += span;
        }
        let key = task.submission.key;
        self.counters.blocks_done += ran;
        self.counters.busy += span;
        if !key.class().is_real_time() {
            let pass = &mut self.passes[share::index_of(key.share())];
            *pass = pass.wrapping_add(share::cost(span, key.share().weight));
        }
    }

    /// Whether anything is queued, or run by the host.
    pub(crate) fn is_busy(&self) -> bool {
        self.tasks.iter().flatten().any(|task| !task.outstanding.is_empty())
    }

    /// Whether something is queued for a real-time task.
    pub(crate) fn has_real_time(&self) -> bool {
        self.tasks.iter().flatten().any(|task| task.is_real_time() && !task.outstanding.is_empty())
    }

    /// The next completion.
    pub(crate) fn take_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Payloads of tasks that are over: to be dropped where that may take time.
    pub(crate) fn take_retired(&mut self) -> impl Iterator<Item = P> + use<'_, P> {
        self.retired.drain(..)
    }

    /// Whether a completion waits to be fetched.
    pub(crate) fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    /// What is needed of the plan of the task in a slot, and its buffers.
    pub(crate) fn at_work(&mut self, slot: usize) -> (&P, &mut Io) {
        let submission = &mut self.task_mut(slot).submission;
        (&submission.payload, &mut submission.io)
    }

    /// Whether there is a task in a slot that uses its memory.
    pub(crate) fn has_begun(&self, slot: usize) -> bool {
        self.tasks[slot].as_ref().is_some_and(|task| task.begun)
    }

    /// Whether the task in a slot is a real-time one.
    pub(crate) fn is_real_time(&self, slot: usize) -> bool {
        self.tasks[slot].as_ref().is_some_and(Task::is_real_time)
    }

    fn task_mut(&mut self, slot: usize) -> &mut Task<P> {
        self.tasks[slot].as_mut().expect("there is a task in the slot")
    }

    fn join(&mut self, share: Share) {
        let others = self.tasks.iter().flatten().filter(|task| !task.is_real_time());
        let pass = |task: &Task<P>| self.passes[share::index_of(task.submission.key.share())];
        let floor = others.map(pass).reduce(share::least).unwrap_or(self.last_pass);
        let own = &mut self.passes[share::index_of(share)];
        *own = share::joined(*own, floor);
    }

    fn complete(&mut self, slot: usize, outcome: Outcome, now: Nanos) {
        let mut task = self.tasks[slot].take().expect("a task completes once");
        assert!(task.outstanding.is_empty(), "what is queued is told of first");
        self.queues.push(std::mem::take(&mut task.outstanding));
        if self.holder == Some(slot) {
            self.holder = None;
        }
        let Submission { plan, payload, key, io, token, .. } = task.submission;
        self.retired.push(payload);
        if !key.class().is_real_time() {
            let pass = self.passes[share::index_of(key.share())];
            if share::is_before(self.last_pass, pass) {
                self.last_pass = pass;
            }
        }
        self.counters.completed += 1;
        self.completions.push_back(Completion {
            task: task.id,
            token,
            key,
            plan,
            io,
            outcome,
            submitted: task.submitted,
            first_block: task.first_block,
            all_cus: None,
            preempted: task.preempted,
            finished: now,
            counters: task.counters,
        });
    }
}

#[cfg(test)]
mod tests;
