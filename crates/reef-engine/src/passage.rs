//! How many requests are on their way through a model that is cut over several devices: from the first
//! device, which queues them, to their answer, wherever they are. So many are there at most, and whoever
//! takes the model or the engine out of service waits until none is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reef_base::Class;

/// The count of one model.
#[derive(Debug)]
pub(crate) struct Passages {
    /// Real-time, best-effort.
    counts: [AtomicUsize; 2],
    /// Of each class.
    len_max: usize,
}

impl Passages {
    pub(crate) fn new(len_max: usize) -> Passages {
        Passages { counts: Default::default(), len_max }
    }

    /// A request begins; `None` when there are too many of its class.
    pub(crate) fn begin(self: &Arc<Self>, class: Class) -> Option<Passage> {
        let (of, count) = (self.clone(), usize::from(!class.is_real_time()));
        // Made before it is known whether it may be: its drop counts it out again.
        let before = self.counts[count].fetch_add(1, Ordering::AcqRel);
        let passage = Passage { of, count };
        (before < self.len_max).then_some(passage)
    }

    /// Requests of a class.
    pub(crate) fn len(&self, class: Class) -> usize {
        self.counts[usize::from(!class.is_real_time())].load(Ordering::Acquire)
    }

    /// Requests of both classes.
    pub(crate) fn total(&self) -> usize {
        self.counts.iter().map(|count| count.load(Ordering::Acquire)).sum()
    }
}

/// One request that is counted, as long as it is there.
#[derive(Debug)]
pub(crate) struct Passage {
    of: Arc<Passages>,
    count: usize,
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.of.counts[self.count].fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_on_their_way_and_no_more() {
        let passages = Arc::new(Passages::new(2));
        let (class, other) = (Class::real_time(0), Class::BestEffort);
        let first = passages.begin(class).unwrap();
        let second = passages.begin(class).unwrap();
        assert!(passages.begin(class).is_none());
        let third = passages.begin(other).unwrap();
        assert_eq!((passages.len(class), passages.len(other), passages.total()), (2, 1, 3));
        drop(first);
        assert!(passages.begin(class).is_some());
        drop((second, third));
        assert_eq!(passages.total(), 0);
    }
}
