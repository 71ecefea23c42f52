//! Which block a free compute unit (CU) takes next: the schemes, and the rule of padding, as one pure
//! function of how the board looks. Neither clock nor memory nor anything that changes: a device says what it
//! sees ([`Board`]) and does what is chosen. The view is a trait, so that a device reads only what a choice
//! asks for; [`Snapshot`] is one of plain values.
//!
//! `reset`, `wait` and `rt-only` go by key. While a real-time task has an open stage whose blocks are all
//! claimed, a CU may *pad* it with a block of another task. Two rules say which ([`Padding`]):
//!
//! - *Fitting*, the paper's rule 1 of section 5.2: a block that will end before the stage's running blocks
//!   do, by measured block times (occupancy, its rule 2, does not exist for CPU threads). All that `wait` can
//!   do.
//! - *Preemptible*: the best block there is, unless the urgent task will want the CU before it ends. The task
//!   does not want it while the stages that come (see [`Outlook`]) are no wider than the CUs that it has or
//!   that nobody uses. If that turns out wrong, the block is killed, which costs the task a poll period.
//!
//! A block of unknown time may try once if it can be killed, or if it is as urgent as the task: being killed
//! bounds its time from below. Best-effort tasks of different owners go by what each has used of its share
//! ([`share`]); those of one owner by key. `concurrent` takes turns among tasks. `sequential` runs one task
//! to its end.

mod outlook;
pub mod share;
mod snapshot;
#[cfg(test)]
mod tests;

use reef_base::{Nanos, TaskKey, limits};

use crate::scheme::{Padding, Scheme};

pub use outlook::{Outlook, outlooks};
pub use snapshot::{Seen, SeenUnit, Snapshot};

/// A limit that every key is below.
pub const NO_LIMIT: u64 = u64::MAX;

/// A task that is on the board.
pub trait Task: Copy {
    /// Where it is.
    fn slot(&self) -> usize;
    /// Its key's bits.
    fn key(&self) -> u64;
    /// Whether its open stage has blocks that nobody has claimed, or that must run again.
    fn is_claimable(&self) -> bool;
    /// Whether it takes no blocks any more: it was cancelled, or failed.
    fn is_closed(&self) -> bool;
}

/// What is known of the open stage of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// What a block takes; zero when not known.
    pub block: Nanos,
    /// Whether its blocks may be killed.
    pub killable: bool,
    /// What comes behind it.
    pub outlook: Outlook,
}

/// What a compute unit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Of which task.
    pub slot: usize,
    /// Its rank.
    pub rank: u8,
    /// When it will have ended; zero when not known.
    pub end: Nanos,
}

/// How a board looks. What a method says may be out of date the moment after: who acts on a choice finds out.
pub trait Board {
    /// A task, and what the device needs to claim a block of it.
    type Task: Task;
    /// The tasks on the board, by slot.
    fn tasks(&self) -> impl Iterator<Item = Self::Task>;
    /// Under `sequential`, the task that has the device.
    fn holder(&self) -> Option<Self::Task>;
    /// The open stage of the task in `slot`.
    fn stage(&self, slot: usize) -> Stage;
    /// Whose share the best-effort task in `slot` is on.
    fn owner(&self, slot: usize) -> usize;
    /// What an owner has used of its share.
    fn pass(&self, owner: usize) -> u64;
    /// Compute units.
    fn units(&self) -> usize;
    /// What a unit runs, `None` for nothing.
    fn running(&self, cu: usize) -> Option<Running>;
    /// Since when the block of a unit runs, if it can be killed.
    fn since(&self, cu: usize) -> Option<Nanos>;
    /// Whether a unit that runs nothing sleeps, so that it is not there at once.
    fn is_asleep(&self, cu: usize) -> bool;
    /// The time; asked for only where something may pad.
    fn now(&self) -> Nanos;
}

/// What is in force on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How classes share it.
    pub scheme: Scheme,
    /// Which blocks may pad.
    pub padding: Padding,
}

/// Who wants a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The unit; `None` asks whether any that is not there now would find something.
    pub cu: Option<usize>,
    /// Only tasks with smaller keys will do; [`NO_LIMIT`] for a unit that holds nothing.
    pub limit: u64,
    /// The slot that `concurrent` served last.
    pub turn: usize,
}

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<T> {
    /// The task to claim a block of.
    pub task: T,
    /// Whether it pads a more urgent stage.
    pub padding: bool,
}

/// The task whose block goes next on the unit that asks.
#[inline]
pub fn choose<B: Board>(board: &B, rules: Rules, ask: Ask) -> Option<Choice<B::Task>> {
    let plain = |task| Choice { task, padding: false };
    match rules.scheme {
        Scheme::Concurrent if ask.limit == NO_LIMIT => in_turn(board, ask.turn).map(plain),
        Scheme::Sequential if ask.limit == NO_LIMIT => board.holder().filter(Task::is_claimable).map(plain),
        Scheme::Concurrent | Scheme::Sequential => None,
        Scheme::RtOnly | Scheme::Wait | Scheme::Reset => by_key(board, rules, ask),
    }
}

/// The task that is to have the device under `sequential`, when none has.
pub fn elect<B: Board>(board: &B) -> Option<B::Task> {
    board.tasks().min_by_key(Task::key)
}

/// Units other than `cu` that would lose less than it, whose block runs since `since`, by running a block of
/// rank `urgent`: those that are awake and idle, and those whose block can be killed and started later.
pub fn better_placed<B: Board>(board: &B, cu: usize, urgent: u8, since: Nanos) -> usize {
    let better = |&other: &usize| match board.running(other) {
        None => !board.is_asleep(other),
        Some(running) => running.rank > urgent && board.since(other) > Some(since),
    };
    (0..board.units()).filter(|&other| other != cu).filter(better).count()
}

/// Keys below this one are more urgent than `rank`.
pub const fn limit_of(rank: u8) -> u64 {
    TaskKey::first_of_rank(rank)
}

/// Whether a key is of a real-time rank.
pub const fn is_real_time(key: u64) -> bool {
    key < limit_of(limits::REAL_TIME_LEVELS)
}

fn in_turn<B: Board>(board: &B, turn: usize) -> Option<B::Task> {
    let (mut next, mut first) = (None, None);
    for task in board.tasks().filter(Task::is_claimable) {
        if task.slot() > turn {
            next = next.or(Some(task));
        }
        first = first.or(Some(task));
    }
    next.or(first)
}

#[inline]
fn by_key<B: Board>(board: &B, rules: Rules, ask: Ask) -> Option<Choice<B::Task>> {
    let limit = match rules.scheme {
        Scheme::RtOnly => ask.limit.min(limit_of(limits::REAL_TIME_LEVELS)),
        _ => ask.limit,
    };
    let (mut best, mut waiting): (Option<B::Task>, Option<B::Task>) = (None, None);
    for task in board.tasks().filter(|task| task.key() < limit) {
        if task.is_claimable() {
            if best.is_none_or(|best| goes_before(board, task, best)) {
                best = Some(task);
            }
        } else if is_real_time(task.key())
            && !task.is_closed()
            && waiting.is_none_or(|waiting| task.key() < waiting.key())
        {
            waiting = Some(task);
        }
    }
    let best = best?;
    match waiting.filter(|waiting| waiting.key() < best.key()) {
        None => Some(Choice { task: best, padding: false }),
        Some(waiting) => {
            let task = padding(board, rules, ask.cu, waiting, limit)?;
            Some(Choice { task, padding: true })
        }
    }
}

/// Which of two tasks with blocks goes first: the more urgent, and of two best-effort ones the one whose
/// owner has used less of its share.
#[inline]
fn goes_before<B: Board>(board: &B, task: B::Task, other: B::Task) -> bool {
    let by_key = task.key() < other.key();
    if is_real_time(task.key().min(other.key())) {
        return by_key;
    }
    let (own, others) = (board.owner(task.slot()), board.owner(other.slot()));
    if own == others {
        return by_key;
    }
    let (own, others) = (board.pass(own), board.pass(others));
    if own == others { by_key } else { share::is_before(own, others) }
}

/// The first task whose next block may pad the open stage of `waiting`.
fn padding<B: Board>(
    board: &B,
    rules: Rules,
    cu: Option<usize>,
    waiting: B::Task,
    limit: u64,
) -> Option<B::Task> {
    let now = board.now();
    let kills = rules.scheme.kills();
    let preemptible = kills && rules.padding == Padding::Preemptible;
    let end = match preemptible {
        true => wanted_again(board, cu, waiting.slot())?,
        false => stage_end(board, waiting.slot())?,
    };
    let fits = |task: B::Task| {
        let stage = board.stage(task.slot());
        let preempts = preempts(waiting.key(), task.key());
        let may_try = kills && stage.killable && preempts;
        let equals = preemptible && !preempts;
        if stage.block == Nanos::ZERO { may_try || equals } else { now + stage.block <= end }
    };
    let mut best: Option<B::Task> = None;
    let keys = waiting.key() + 1..limit;
    for task in board.tasks().filter(|task| task.is_claimable() && keys.contains(&task.key())) {
        if fits(task) && best.is_none_or(|best| goes_before(board, task, best)) {
            best = Some(task);
        }
    }
    best
}

/// When the task in `slot`, whose blocks are all claimed, will want `cu` for a later stage; `None` if that is
/// not known.
fn wanted_again<B: Board>(board: &B, cu: Option<usize>, slot: usize) -> Option<Nanos> {
    let Stage { block, outlook, .. } = board.stage(slot);
    let has = |&other: &usize| match board.running(other) {
        Some(running) => running.slot == slot,
        None => !board.is_asleep(other),
    };
    let ready = (0..board.units()).filter(|&other| Some(other) != cu).filter(has).count();
    if ready < outlook.width as usize {
        return stage_end(board, slot);
    }
    if outlook.calm == Outlook::FOR_GOOD {
        return Some(Nanos::MAX);
    }
    // As if the stages until then were like this one.
    Some(stage_end(board, slot)? + Nanos(block.0.saturating_mul(u64::from(outlook.calm))))
}

/// When the blocks of the task in `slot` that run now will have ended; `None` if that is not known.
fn stage_end<B: Board>(board: &B, slot: usize) -> Option<Nanos> {
    let mut end = None;
    for running in
        (0..board.units()).filter_map(|cu| board.running(cu)).filter(|running| running.slot == slot)
    {
        if running.end == Nanos::ZERO {
            return None;
        }
        end = end.max(Some(running.end));
    }
    end
}

fn preempts(urgent: u64, other: u64) -> bool {
    TaskKey::from_bits(urgent).preempts(TaskKey::from_bits(other))
}
