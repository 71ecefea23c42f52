//! Which kernel is queued next: the tasks on the device as a state machine that knows neither driver nor
//! clock.
//!
//! A task's kernels are queued one after the other on a stream of its own, at most so many ahead of the last
//! one that has ended ([`OUTSTANDING_MAX`]). Which task queues next is for the policy that all devices share.
//! Every launch is told of once, in the order of the stream ([`Board::ended`]).
//!
//! An urgent task *evicts* a less urgent one: blocks of what that has queued do not start any more. What
//! runs, runs to its end. A kernel of which a block was skipped is queued again, with all its blocks, and so
//! is all behind it, where nothing has run; nothing before it is: what has ended stays ended. So a plan needs
//! no restart window. The mark behind a task's outputs counts as a block: if it is skipped, the outputs may
//! be rubbish.
//!
//! | state of a task | what is queued | what ends it |
//! |---|---|---|
//! | open | kernels, then a mark behind its outputs | the mark |
//! | evicted | what was queued before | its turn, when all of that was told of: it is open again |
//! | closed (cancelled, failed, device fault) | what was queued before | the last launch of it |

use std::collections::VecDeque;

use reef_base::limits::MODELS_MAX;
use reef_base::{Nanos, Share, TaskId, TaskKey};
use reef_device::policy::{self, Ask, NO_LIMIT, Rules, Seen, Snapshot, Stage, share};
use reef_device::{
    Completion, DeviceCounters, Io, LoadedPlan, Outcome, Padding, RejectReason, Scheme, TaskCounters,
};
use reef_plan::HostFault;

/// Launches of a task that have not ended, at most: what is waited for where they cannot be evicted.
const OUTSTANDING: usize = 4;
/// The same of a real-time task that can be evicted: fewer leave the device idle between short kernels.
pub(crate) const OUTSTANDING_MAX: usize = 32;

/// Tasks at a time.
pub(crate) const SLOTS: usize = reef_base::limits::BOARD_SLOTS_DEFAULT;
/// Of them only for real-time tasks.
pub(crate) const SLOTS_REAL_TIME: usize = reef_base::limits::REAL_TIME_SLOTS_RESERVED;

/// Bits of a task's id that hold its slot.
const SLOT_BITS: u32 = 6;

/// What is to be done with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Keep blocks of the task in this slot from starting.
    Evict(usize),
    /// Let them start.
    Allow(usize),
    /// Queue a kernel; the `first` time of a task, let its blocks start, and queue the copies of its inputs
    /// before it.
    Launch { slot: usize, kernel: usize, number: u32, first: bool },
    /// Queue the copies of a task's outputs, and a mark behind them.
    Finish { slot: usize, number: u32 },
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

/// A task to come.
pub(crate) struct Submission<P> {
    pub(crate) plan: LoadedPlan,
    /// What whoever does the actions needs of the plan.
    pub(crate) payload: P,
    /// Blocks of each kernel.
    pub(crate) blocks: std::sync::Arc<[u32]>,
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
    /// Whether the mark is queued.
    finishing: bool,
    outstanding: VecDeque<Outstanding>,
    evicted: bool,
    closed: Option<Outcome>,
    first_block: Option<Nanos>,
    counters: TaskCounters,
}

#[derive(Clone, Copy)]
struct Outstanding {
    number: u32,
    /// `None` is the mark.
    kernel: Option<usize>,
}

impl<P> Task<P> {
    fn is_real_time(&self) -> bool {
        self.submission.key.class().is_real_time()
    }

    fn may_queue(&self, scheme: Scheme) -> bool {
        let most = if self.is_real_time() && scheme.kills() { OUTSTANDING_MAX } else { OUTSTANDING };
        let settled = !self.evicted || self.outstanding.is_empty();
        self.closed.is_none() && !self.finishing && settled && self.outstanding.len() < most
    }
}

/// The tasks.
pub(crate) struct Board<P> {
    pub(crate) scheme: Scheme,
    padding: Padding,
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
    /// Of tasks that are over.
    retired: Vec<P>,
    pub(crate) counters: DeviceCounters,
}

impl<P> Board<P> {
    pub(crate) fn new(scheme: Scheme, padding: Padding, units: usize) -> Board<P> {
        Board {
            scheme,
            padding,
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

    /// Takes a task that is not refused.
    pub(crate) fn submit(&mut self, submission: Submission<P>, now: Nanos) -> TaskId {
        let slot = self.tasks.iter().position(Option::is_none).expect("who submits asks for a refusal first");
        self.generation += 1;
        let id = TaskId(self.generation << SLOT_BITS | slot as u64);
        let key = submission.key;
        if !key.class().is_real_time() {
            self.join(key.share());
        }
        let lesser = |task: &Task<P>| !task.outstanding.is_empty() && key.preempts(task.submission.key);
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
            finishing: false,
            outstanding: VecDeque::with_capacity(OUTSTANDING_MAX),
            evicted: false,
            closed: None,
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

    /// As [`Board::poison`], where the device tells of nothing any more.
    pub(crate) fn abandon(&mut self, reason: &str, now: Nanos) {
        self.poison(reason, now);
        for slot in 0..SLOTS {
            if let Some(task) = &mut self.tasks[slot] {
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
        let slot = self.choose()?;
        self.turn = slot;
        let number = self.number.wrapping_add(1);
        let task = self.task_mut(slot);
        if task.evicted {
            task.evicted = false;
            return Some(Action::Allow(slot));
        }
        let kernel = Some(task.next).filter(|&kernel| kernel < task.submission.blocks.len());
        task.outstanding.push_back(Outstanding { number, kernel });
        let action = match kernel {
            Some(kernel) => {
                task.next += 1;
                let first = !std::mem::replace(&mut task.begun, true);
                Action::Launch { slot, kernel, number, first }
            }
            None => {
                task.finishing = true;
                Action::Finish { slot, number }
            }
        };
        self.number = number;
        Some(action)
    }

    /// A task whose blocks are not to start any more, and still may.
    fn to_evict(&self) -> Option<usize> {
        let open = |task: &&Task<P>| task.closed.is_none();
        let keys = self.tasks.iter().flatten().filter(open).map(|task| task.submission.key);
        let urgent = keys.min().filter(|_| self.scheme.kills());
        let unwanted = |task: &Task<P>| {
            task.closed.is_some() || urgent.is_some_and(|urgent| urgent.preempts(task.submission.key))
        };
        let evictable = |task: &Task<P>| !task.evicted && !task.outstanding.is_empty() && unwanted(task);
        self.tasks.iter().position(|task| task.as_ref().is_some_and(evictable))
    }

    fn choose(&mut self) -> Option<usize> {
        let seen = |(slot, task): (usize, &Option<Task<P>>)| {
            let task = task.as_ref()?;
            let (key, owner) = (task.submission.key, share::index_of(task.submission.key.share()));
            Some(Seen {
                slot,
                key: key.get(),
                claimable: task.may_queue(self.scheme),
                closed: task.closed.is_some(),
                stage: Stage::default(),
                owner,
                pass: self.passes[owner],
            })
        };
        let tasks: Vec<Seen> = self.tasks.iter().enumerate().filter_map(seen).collect();
        // Queues, not units, are filled here, so the policy sees none: nothing pads an urgent task.
        let board = Snapshot { tasks: &tasks, units: &[], holder: self.holder, now: Nanos::ZERO };
        let holder = self.holder.or_else(|| policy::elect(&board).map(|task| task.slot));
        let rules = Rules { scheme: self.scheme, padding: self.padding };
        let ask = Ask { cu: None, limit: NO_LIMIT, turn: self.turn };
        let choice = policy::choose(&Snapshot { holder, ..board }, rules, ask);
        self.holder = holder.filter(|_| self.scheme == Scheme::Sequential);
        choice.map(|choice| choice.task.slot)
    }

    /// The oldest launch of each task that has not ended: the next to be told of.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = (usize, u32)> {
        let front = |(slot, task): (usize, &Option<Task<P>>)| {
            Some((slot, task.as_ref()?.outstanding.front()?.number))
        };
        self.tasks.iter().enumerate().filter_map(front)
    }

    /// The kernel of the oldest launch of a task, if it is one.
    pub(crate) fn awaited_kernel(&self, slot: usize) -> Option<usize> {
        self.tasks[slot].as_ref()?.outstanding.front()?.kernel
    }

    /// The oldest launch of a task has ended. Returns the kernel, if it was one.
    pub(crate) fn ended(&mut self, slot: usize, ended: Ended, now: Nanos) -> Option<usize> {
        let units = self.units as u64;
        let task = self.task_mut(slot);
        let launch = task.outstanding.pop_front().expect("what ends was queued");
        let Some(kernel) = launch.kernel else {
            task.finishing = false;
            // Who is done is not cancelled any more; a kernel that failed made no outputs.
            let over = match &task.closed {
                None | Some(Outcome::Cancelled) if ended.skipped == 0 => Some(Outcome::Done),
                closed => closed.clone(),
            };
            if let Some(outcome) = over {
                self.complete(slot, outcome, now);
            }
            return None;
        };
        let blocks = task.submission.blocks[kernel];
        let ran = u64::from(blocks - ended.skipped);
        let span = Nanos((ended.ended - ended.begun).0 * units.min(ran));
        if ran > 0 {
            task.first_block.get_or_insert(ended.begun.max(task.submitted));
            task.counters.blocks_done += ran;
            task.counters.cu_time += span;
        }
        let again = if ended.skipped > 0 { ran } else { 0 };
        task.counters.blocks_rerun += again;
        if ended.skipped > 0 {
            task.next = task.next.min(kernel);
        }
        if let Some(fault) = ended.fault
            && matches!(task.closed, None | Some(Outcome::Cancelled))
        {
            // Not cancelled any more: the mark would make it done.
            task.closed = Some(Outcome::Failed(fault));
        }
        let (key, closed) = (task.submission.key, task.closed.clone());
        let over = closed.filter(|_| task.outstanding.is_empty());
        self.counters.blocks_done += ran;
        self.counters.blocks_rerun += again;
        self.counters.busy += span;
        if !key.class().is_real_time() {
            let pass = &mut self.passes[share::index_of(key.share())];
            *pass = pass.wrapping_add(share::cost(span, key.share().weight));
        }
        if let Some(outcome) = over {
            self.complete(slot, outcome, now);
        }
        (ended.skipped == 0).then_some(kernel)
    }

    /// Whether anything is queued.
    pub(crate) fn is_busy(&self) -> bool {
        self.tasks.iter().flatten().any(|task| !task.outstanding.is_empty())
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
        let task = self.tasks[slot].take().expect("a task completes once");
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
