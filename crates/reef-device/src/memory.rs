//! What a memory holds, against what it may hold.
//!
//! There is one [`Budget`] for each memory: devices of one memory share it, so that what they share is
//! counted once (packed weights, by their address) and what one takes the others see. A plan is *admitted*
//! with all that it needs before any of it is made, and what is admitted goes out of the books when its
//! [`Admission`] is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reef_base::{AlignedBytes, Domain};

/// What memory is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Which memory.
    pub domain: Domain,
    /// What it may hold, if that is bounded.
    pub limit: Option<u64>,
    /// Bytes of packed weights of the plans that are loaded.
    pub weights: u64,
    /// Bytes of what tasks and compute units work in: arenas and scratch.
    pub working: u64,
}

/// The books of one memory.
#[derive(Debug)]
pub struct Budget {
    domain: Domain,
    limit: Option<u64>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// By address: how many admissions have them, and their bytes.
    weights: HashMap<usize, (usize, u64)>,
    weight_bytes: u64,
    working: u64,
}

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// Bytes that the memory would have to hold.
    pub needed: u64,
    /// Bytes that it may hold.
    pub available: u64,
}

impl Budget {
    /// Of a memory that may hold `limit` bytes.
    pub fn new(domain: Domain, limit: Option<u64>) -> Arc<Budget> {
        Arc::new(Budget { domain, limit, held: Mutex::default() })
    }

    /// What it may hold.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// What it holds now.
    pub fn usage(&self) -> MemoryUse {
        let held = self.lock();
        MemoryUse {
            domain: self.domain,
            limit: self.limit,
            weights: held.weight_bytes,
            working: held.working,
        }
    }

    /// Takes `weights` and `working` bytes into the books, if beside all that is there they leave room for
    /// `passing` bytes more: buffers of one request.
    pub fn admit(
        self: &Arc<Self>,
        weights: &[Arc<AlignedBytes>],
        working: u64,
        passing: u64,
    ) -> Result<Admission, OverBudget> {
        let mut held = self.lock();
        let mut added: HashMap<usize, u64> = HashMap::new();
        for bytes in weights {
            added.insert(address(bytes), bytes.len() as u64);
        }
        let new = |(at, bytes): (&usize, &u64)| if held.weights.contains_key(at) { 0 } else { *bytes };
        let new_weights: u64 = added.iter().map(new).sum();
        let sum = [held.weight_bytes, held.working, new_weights, working, passing];
        let needed = sum.into_iter().fold(0u64, u64::saturating_add);
        let available = self.limit.unwrap_or(u64::MAX);
        if needed > available {
            return Err(OverBudget { needed, available });
        }
        held.weight_bytes += new_weights;
        held.working += working;
        for (&at, &bytes) in &added {
            held.weights.entry(at).or_insert((0, bytes)).0 += 1;
        }
        Ok(Admission { budget: self.clone(), weights: added.into_keys().collect(), working })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(bytes: &Arc<AlignedBytes>) -> usize {
    Arc::as_ptr(bytes).addr()
}

/// What was admitted; out of the books when it is dropped. Weights are to be kept at least as long.
#[derive(Debug)]
pub struct Admission {
    budget: Arc<Budget>,
    weights: Vec<usize>,
    working: u64,
}

impl Admission {
    /// From now on the working bytes of `other` go out of the books with this one.
    pub fn take_working(&mut self, other: &mut Admission) {
        self.working += std::mem::take(&mut other.working);
    }

    /// So many of its working bytes are free again.
    pub fn give_back_working(&mut self, bytes: u64) {
        let bytes = bytes.min(self.working);
        self.working -= bytes;
        self.budget.lock().working -= bytes;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut held = self.budget.lock();
        held.working -= self.working;
        for at in &self.weights {
            let Some((count, bytes)) = held.weights.get_mut(at) else { continue };
            *count -= 1;
            if *count == 0 {
                let bytes = *bytes;
                held.weights.remove(at);
                held.weight_bytes -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(bytes: usize) -> Arc<AlignedBytes> {
        Arc::new(AlignedBytes::zeroed(bytes))
    }

    #[test]
    fn what_is_shared_is_counted_once_and_leaves_with_the_last() {
        let budget = Budget::new(Domain::Host, Some(1000));
        let (a, b) = (weight(400), weight(100));
        let first = budget.admit(&[a.clone(), b.clone()], 200, 0).unwrap();
        let second = budget.admit(&[a.clone(), a.clone()], 50, 250).unwrap();
        let usage = budget.usage();
        assert_eq!((usage.weights, usage.working, usage.limit), (500, 250, Some(1000)));
        drop(first);
        assert_eq!((budget.usage().weights, budget.usage().working), (400, 50));
        let mut second = second;
        second.give_back_working(20);
        assert_eq!(budget.usage().working, 30);
        second.give_back_working(1000);
        assert_eq!(budget.usage().working, 0, "no more than it has");
        drop(second);
        assert_eq!(budget.usage(), MemoryUse { limit: Some(1000), ..MemoryUse::default() });
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let budget = Budget::new(Domain::Host, Some(1000));
        let known = weight(600);
        let kept = budget.admit(std::slice::from_ref(&known), 100, 300).unwrap();
        let before = budget.usage();
        assert_eq!(
            budget.admit(&[weight(300)], 0, 1).unwrap_err(),
            OverBudget { needed: 1001, available: 1000 }
        );
        assert_eq!(budget.admit(&[], u64::MAX, 1).unwrap_err().needed, u64::MAX);
        assert_eq!(budget.usage(), before);
        drop(kept);
        assert!(Budget::new(Domain::Pinned, None).admit(&[], 1 << 50, 0).is_ok());
    }
}
