//! Requests as they are counted and named, whichever protocol carried them.
//!
//! Invariant: a connection of the ring counts in a row of its own, so that none waits for another's cache
//! line.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use strum::{EnumCount, EnumIter, IntoEnumIterator, IntoStaticStr};

use crate::core::problem::{Kind, Problem};

/// Letters of a client's id at most; a longer one is replaced by ours.
const ID_LEN_MAX: usize = 128;

/// How a request ended, in the same words for every protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Outcome {
    Success,
    Invalid,
    NotFound,
    Unsupported,
    Unavailable,
    Late,
    Cancelled,
    Internal,
    Unauthenticated,
    Forbidden,
    Limited,
}

impl Outcome {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }

    /// Of a request that had this problem.
    pub(crate) fn of(problem: &Problem) -> Outcome {
        match problem.kind {
            Kind::Invalid => Outcome::Invalid,
            Kind::NotFound => Outcome::NotFound,
            Kind::Unsupported => Outcome::Unsupported,
            Kind::Unavailable => Outcome::Unavailable,
            Kind::Late => Outcome::Late,
            Kind::Internal => Outcome::Internal,
            Kind::Unauthenticated => Outcome::Unauthenticated,
            Kind::Forbidden => Outcome::Forbidden,
            Kind::Limited { .. } => Outcome::Limited,
        }
    }
}

/// Requests by how they ended.
#[derive(Debug, Default)]
pub(crate) struct Tally([AtomicU64; Outcome::COUNT]);

impl Tally {
    /// One more; from any thread.
    pub(crate) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// One more; from the only thread that counts here, for which this is a store.
    pub(crate) fn count_alone(&self, outcome: Outcome) {
        let cell = &self.0[outcome as usize];
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn add(&self, other: &Tally) {
        for (sum, cell) in self.0.iter().zip(&other.0) {
            sum.fetch_add(cell.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn counts(&self) -> Counts {
        std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed))
    }
}

/// A number for each outcome.
pub(crate) type Counts = [u64; Outcome::COUNT];

/// Every outcome with its number.
pub(crate) fn named(counts: Counts) -> impl Iterator<Item = (&'static str, u64)> {
    Outcome::iter().map(Outcome::name).zip(counts)
}

/// Requests for inference, by the protocol that they came over.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) http: Tally,
    pub(crate) grpc: Tally,
    pub(crate) rings: Rings,
    pub(crate) ids: Ids,
}

/// Connections of the ring and their requests.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    /// Connections that there are.
    pub(crate) open: AtomicUsize,
    /// All that were served, since the start.
    pub(crate) served: AtomicU64,
    /// All that were turned away.
    pub(crate) refused: AtomicU64,
    /// Of connections that have ended.
    past: Tally,
    /// Of those that there are.
    tallies: Mutex<Vec<Arc<Tally>>>,
}

impl Rings {
    /// Where one more connection counts.
    pub(crate) fn tally(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        self.retire(&mut tallies);
        tallies.push(tally.clone());
        tally
    }

    /// The requests of all connections that there are and were.
    pub(crate) fn counts(&self) -> Counts {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        self.retire(&mut tallies);
        let sum = Tally::default();
        sum.add(&self.past);
        tallies.iter().for_each(|tally| sum.add(tally));
        sum.counts()
    }

    /// Adds up those that nobody counts in any more.
    fn retire(&self, tallies: &mut Vec<Arc<Tally>>) {
        tallies.retain_mut(|tally| {
            // With this, what was counted is seen, too.
            let gone = Arc::get_mut(tally);
            gone.inspect(|tally| self.past.add(tally)).is_none()
        });
    }
}

impl Requests {
    /// Counts by protocol.
    pub(crate) fn counts(&self) -> [(&'static str, Counts); 3] {
        [("http", self.http.counts()), ("grpc", self.grpc.counts()), ("ring", self.rings.counts())]
    }
}

/// Ids of requests that bring none: different in every process, and one after the other in it.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    random: RandomState,
    count: AtomicU64,
}

impl Ids {
    /// The next one, in 16 digits.
    pub(crate) fn next(&self) -> String {
        format!("{:016x}", self.number())
    }

    /// The number of the next one.
    pub(crate) fn number(&self) -> u64 {
        self.random.hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}

/// An id that a client gave, if it can be shown: what is written to logs and heads has nothing but letters
/// that show.
pub(crate) fn shown(id: &str) -> Option<&str> {
    let fits = (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_clients_if_it_can_be_shown() {
        assert_eq!(shown("abc-7"), Some("abc-7"));
        let long = "x".repeat(ID_LEN_MAX + 1);
        assert!(shown(&long[1..]).is_some());
        for wrong in ["", "a b", "a\tb", "é", &*long] {
            assert_eq!(shown(wrong), None, "{wrong:?}");
        }
        let ids = Ids::default();
        let (one, two) = (ids.next(), ids.next());
        assert!(one != two && one.len() == 16, "{one} {two}");
    }

    #[test]
    fn what_ended_connections_counted_stays() {
        let rings = Rings::default();
        let (one, two) = (rings.tally(), rings.tally());
        one.count_alone(Outcome::Success);
        one.count_alone(Outcome::Success);
        two.count_alone(Outcome::Limited);
        let of = |outcome: Outcome| rings.counts()[outcome as usize];
        assert_eq!((of(Outcome::Success), of(Outcome::Limited)), (2, 1));
        drop(one);
        for _ in 0..2 {
            assert_eq!((of(Outcome::Success), of(Outcome::Limited)), (2, 1));
        }
        assert_eq!(rings.tallies.lock().unwrap().len(), 1);
        drop(two);
        let _ = rings.tally();
        assert_eq!((of(Outcome::Success), of(Outcome::Limited)), (2, 1));
    }

    #[test]
    fn each_outcome_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = named(Counts::default()).map(|(name, _)| name).collect();
        assert_eq!(names.len(), Outcome::COUNT);
        assert!(names.contains("not_found"), "{names:?}");
    }
}
