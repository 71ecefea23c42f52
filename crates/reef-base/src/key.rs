//! Classes, levels and the one number by which executors compare tasks.
//!
//! Bits of a [`TaskKey`], from the top: 4 bits of rank (0..=14 a real-time level, 15 best-effort),
//! then 60 bits of order inside the rank. Real-time order: tasks with a deadline first, by deadline
//! in nanoseconds, then those without, by arrival. Best-effort order is the scheduler's.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Nanos;
use crate::limits::REAL_TIME_LEVELS;

const RANK_SHIFT: u32 = 60;
const ORDER_MASK: u64 = (1 << RANK_SHIFT) - 1;
const NO_DEADLINE: u64 = 1 << 59;
const BEST_EFFORT_RANK: u8 = REAL_TIME_LEVELS;

/// A real-time level: 0 is the most urgent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// The most urgent level.
    pub const TOP: Level = Level(0);

    /// Level `level`, or `None` when there is no such level.
    pub const fn new(level: u8) -> Option<Level> {
        if level < REAL_TIME_LEVELS { Some(Level(level)) } else { None }
    }

    /// The level as a number, 0 the most urgent.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// How urgent a task is; ordered, the more urgent the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Must be as fast as on a device of its own.
    RealTime(Level),
    /// Takes what real-time tasks leave.
    BestEffort,
}

impl Class {
    /// Real-time at `level`; panics when there is no such level, so for constants and tests.
    pub fn real_time(level: u8) -> Class {
        Class::RealTime(Level::new(level).expect("a level below the limit"))
    }

    /// Whether the class is real-time, at any level.
    pub fn is_real_time(self) -> bool {
        matches!(self, Class::RealTime(_))
    }

    /// `real-time` or `best-effort`, as request parameters and metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Class::RealTime(_) => ClassName::RealTime.name(),
            Class::BestEffort => ClassName::BestEffort.name(),
        }
    }
}

/// A class without its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassName {
    /// Must answer in time.
    RealTime,
    /// Takes what is left.
    BestEffort,
}

impl ClassName {
    /// As reports, metrics and request parameters write it.
    pub fn name(self) -> &'static str {
        match self {
            ClassName::RealTime => "real-time",
            ClassName::BestEffort => "best-effort",
        }
    }
}

impl fmt::Display for ClassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose use of the device a best-effort task counts as, and how much of it they are due. What has the same
/// owner shares one account and goes in the order of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    /// Below [`crate::limits::MODELS_MAX`]; a larger one is taken modulo that.
    pub owner: u16,
    /// Compute unit time that it gets, relative to other owners; 0 counts as 1.
    pub weight: u32,
}

impl Default for Share {
    /// Owner 0, weight 1: who names no owner has one with all others that do not.
    fn default() -> Self {
        Share { owner: 0, weight: 1 }
    }
}

/// The urgency of a task as one number: smaller is more urgent. All that executors compare, but for
/// best-effort tasks of different owners: these take turns by their [`Share`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    bits: u64,
    share: Share,
}

impl TaskKey {
    /// The key of a real-time task that arrived at `arrival`.
    pub fn real_time(level: Level, deadline: Option<Nanos>, arrival: Nanos) -> TaskKey {
        let order = match deadline {
            Some(deadline) => deadline.0.min(NO_DEADLINE - 1),
            None => NO_DEADLINE | arrival.0.min(NO_DEADLINE - 1),
        };
        TaskKey::from_bits(u64::from(level.get()) << RANK_SHIFT | order)
    }

    /// The key of a best-effort task; `order` is the scheduler's, smaller first.
    pub fn best_effort(order: u64) -> TaskKey {
        TaskKey::from_bits(u64::from(BEST_EFFORT_RANK) << RANK_SHIFT | order.min(ORDER_MASK))
    }

    /// The same key on another share.
    pub fn on(self, share: Share) -> TaskKey {
        TaskKey { share, ..self }
    }

    /// Whose use of the device the task counts as, if it is a best-effort one.
    pub fn share(self) -> Share {
        self.share
    }

    /// 0..=14 for a real-time level, 15 for best-effort. Preemption happens between ranks only;
    /// inside a rank keys decide which task's block starts next.
    pub fn rank(self) -> u8 {
        (self.bits >> RANK_SHIFT) as u8
    }

    /// The class that the key encodes.
    pub fn class(self) -> Class {
        match Level::new(self.rank()) {
            Some(level) => Class::RealTime(level),
            None => Class::BestEffort,
        }
    }

    /// Whether a task with this key may preempt running blocks of `other`.
    pub fn preempts(self, other: TaskKey) -> bool {
        self.rank() < other.rank()
    }

    /// The key as a number.
    pub const fn get(self) -> u64 {
        self.bits
    }

    /// The least number that a key of `rank` may be: smaller ones are more urgent than all of the rank.
    pub const fn first_of_rank(rank: u8) -> u64 {
        (rank as u64) << RANK_SHIFT
    }

    /// The key that [`TaskKey::get`] gave, but for its share.
    pub const fn from_bits(bits: u64) -> TaskKey {
        TaskKey { bits, share: Share { owner: 0, weight: 1 } }
    }
}

impl std::fmt::Debug for TaskKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskKey({:?}, {})", self.class(), self.bits & ORDER_MASK)
    }
}

const _: () = assert!(BEST_EFFORT_RANK < 16, "the rank has 4 bits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_class_level_deadline_arrival() {
        let level = |n| Level::new(n).unwrap();
        let keys = [
            TaskKey::real_time(level(0), Some(Nanos(10)), Nanos(9)),
            TaskKey::real_time(level(0), Some(Nanos(20)), Nanos(1)),
            TaskKey::real_time(level(0), None, Nanos(1)),
            TaskKey::real_time(level(0), None, Nanos(2)),
            TaskKey::real_time(level(1), Some(Nanos(1)), Nanos(0)),
            TaskKey::best_effort(0),
            TaskKey::best_effort(u64::MAX),
        ];
        assert!(keys.is_sorted());
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn preemption_is_between_ranks_only() {
        let urgent = TaskKey::real_time(Level::TOP, Some(Nanos(1)), Nanos(0));
        let later = TaskKey::real_time(Level::TOP, Some(Nanos(2)), Nanos(0));
        assert!(!urgent.preempts(later));
        assert!(urgent.preempts(TaskKey::best_effort(0)));
        assert_eq!(TaskKey::best_effort(3).class(), Class::BestEffort);
        assert_eq!(urgent.class(), Class::RealTime(Level::TOP));
        let share = Share { owner: 3, weight: 7 };
        let key = TaskKey::best_effort(3).on(share);
        assert_eq!((key.get(), key.share()), (TaskKey::best_effort(3).get(), share));
    }

    #[test]
    fn levels_are_bounded() {
        assert!(Level::new(REAL_TIME_LEVELS).is_none());
        assert_eq!(Level::new(REAL_TIME_LEVELS - 1).unwrap().get(), REAL_TIME_LEVELS - 1);
    }
}
