//! Memory for request bodies, and for answers: budgets that all connections share.
//!
//! A large body counts from the arrival of each of its bytes until the engine has copied its tensors. Small
//! bodies need no permission: the bound on connections bounds them. An answer counts until its last byte is
//! handed to the operating system.
//!
//! Invariants: the sum stays within the budget; a body of the largest allowed size fits when there is no
//! other, and an answer of any size does; best-effort requests cannot take the last quarter, so they do not
//! shut real-time ones out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reef_engine::Class;

use crate::core::problem::Problem;

/// The budget.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    bytes_max: usize,
    of: Of,
}

/// What a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Bodies,
    Answers,
}

/// What one body has of the budget; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    /// Of the whole budget, not of this share.
    bytes_max: usize,
    bytes: usize,
}

impl Budget {
    /// `bytes_max` for all bodies, or more where one of `body_bytes_max` would not fit otherwise.
    pub(crate) fn new(bytes_max: usize, body_bytes_max: usize) -> Budget {
        let least = body_bytes_max.saturating_add(body_bytes_max.div_ceil(3));
        Budget { used: AtomicUsize::new(0), bytes_max: bytes_max.max(least), of: Of::Bodies }
    }

    /// `bytes_max` for all answers, or one that is larger.
    pub(crate) fn of_answers(bytes_max: usize) -> Budget {
        Budget { used: AtomicUsize::new(0), bytes_max, of: Of::Answers }
    }

    /// Bytes at most.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// An empty share for a body of this class.
    pub(crate) fn share(self: &Arc<Self>, class: Class) -> Share {
        let bytes_max = match class {
            Class::RealTime(_) => self.bytes_max,
            Class::BestEffort => self.bytes_max - self.bytes_max / 4,
        };
        Share { budget: self.clone(), bytes_max, bytes: 0 }
    }
}

impl Share {
    /// Whether `bytes` more would fit now; takes nothing.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), Problem> {
        let used = self.budget.used.load(Ordering::Relaxed);
        match usize::try_from(bytes).ok().and_then(|bytes| self.sum(used, bytes)) {
            Some(_) => Ok(()),
            None => Err(self.exhausted(used)),
        }
    }

    /// Takes `bytes` more, or nothing.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        // A counter of bytes orders nothing.
        let grown =
            self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| self.sum(used, bytes));
        grown.map_err(|used| self.exhausted(used))?;
        self.bytes += bytes;
        Ok(())
    }

    /// How much it has.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives `bytes` back that it has.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn sum(&self, used: usize, bytes: usize) -> Option<usize> {
        // The only answer may be of any size: its model's outputs are what they are.
        let alone = self.budget.of == Of::Answers && used == self.bytes;
        used.checked_add(bytes).filter(|&sum| sum <= self.bytes_max || alone)
    }

    fn exhausted(&self, used: usize) -> Problem {
        let bytes_max = self.bytes_max;
        let (one, all) = match self.budget.of {
            Of::Bodies => ("body", "the bodies of requests"),
            Of::Answers => ("answer", "answers that clients have not read yet"),
        };
        Problem::unavailable(format!(
            "no memory for the {one}: {used} of {bytes_max} bytes for {all} are taken, try again later"
        ))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::problem::Kind;

    #[test]
    fn shares_add_up_and_come_back() {
        let budget = Arc::new(Budget::new(400, 100));
        let (mut first, mut second) = (budget.share(Class::BestEffort), budget.share(Class::BestEffort));
        assert!(first.grow(200).is_ok() && second.check(100).is_ok() && second.grow(100).is_ok());
        let error = second.grow(1).unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        assert!(error.message.contains("300 of 300 bytes"), "{}", error.message);
        assert!(second.check(1).is_err() && second.check(u64::MAX).is_err());
        let mut urgent = budget.share(Class::real_time(0));
        assert!(urgent.grow(100).is_ok() && urgent.grow(1).is_err() && urgent.grow(usize::MAX).is_err());
        urgent.shrink(30);
        assert!(urgent.grow(31).is_err() && urgent.grow(30).is_ok());
        drop(first);
        assert!(second.grow(101).is_err() && second.grow(100).is_ok());
        assert!(urgent.grow(100).is_ok() && urgent.grow(1).is_err());
        drop((second, urgent));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_answer_of_any_size_fits_and_others_do_not_beside_it() {
        let budget = Arc::new(Budget::of_answers(400));
        let mut large = budget.share(Class::BestEffort);
        assert!(large.grow(500).is_ok() && large.grow(500).is_ok());
        let mut other = budget.share(Class::real_time(0));
        let refused = other.grow(1).unwrap_err();
        assert!(refused.message.contains("no memory for the answer: 1000 of 400"), "{}", refused.message);
        drop(large);
        assert!(other.grow(400).is_ok() && budget.share(Class::BestEffort).grow(1).is_err());
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_largest_body_fits_whatever_the_budget() {
        for body_bytes_max in [0, 1, 2, 3, 100, 101, usize::MAX] {
            let budget = Arc::new(Budget::new(0, body_bytes_max));
            let grown = budget.share(Class::BestEffort).grow(body_bytes_max);
            // Three quarters of what can be counted are the most that best-effort can have.
            assert!(grown.is_ok() || body_bytes_max == usize::MAX, "{body_bytes_max}");
        }
    }
}
