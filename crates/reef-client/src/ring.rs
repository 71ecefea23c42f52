//! Entries that pass from one side to the other through shared memory, and how a side sleeps.
//!
//! A ring has one producer and one consumer. It is a row of entries of 64 bytes, a power of two of them; an
//! entry is its *turn* and seven words. There is no index in shared memory: each side counts for itself how
//! far it is, so there is none that the other side could falsify.
//!
//! | word | written by | read by |
//! |---|---|---|
//! | words of an entry | the producer, relaxed, before its turn | the consumer, relaxed, after its turn |
//! | turn of an entry | the producer, release | the consumer, acquire |
//! | "asleep" of a side | that side; the other one when it wakes it; by swaps | the other side, relaxed |
//!
//! The turn of the entry at position `n` of a ring of `c` is `n / c + 1`, so a ring of zeroes is empty, and
//! an entry that was read is not read twice.
//!
//! *Nothing is overwritten that was not read*: each request has a slot of its own, there are no more slots
//! than entries, a slot has one request at a time, and each request has one entry in each ring. So when a
//! producer comes back to an entry, the request that it held has been answered. A client that breaks this
//! breaks its own requests: the server reads every word once, and judges what it read.
//!
//! *Nobody sleeps through an entry*: who wants to sleep sets its flag, then looks at the ring again; who
//! pushed an entry looks at the flag afterwards. Both have a sequentially consistent fence in between, so
//! one of the two sees the other's store: either the sleeper finds the entry or the producer finds the
//! sleeper, takes the flag back and wakes it, once, by a message on the socket.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Words of an entry; a word has 8 bytes.
pub const ENTRY_WORDS: usize = 8;

/// What an entry says.
pub type Entry = [u64; ENTRY_WORDS - 1];

/// Where a ring lies among the words of a segment, and how far one side of it is.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    start: usize,
    capacity: usize,
    position: u64,
}

impl Cursor {
    fn new(start: usize, capacity: usize) -> Cursor {
        assert!(capacity.is_power_of_two(), "a ring of {capacity} entries");
        Cursor { start, capacity, position: 0 }
    }

    fn entry<'a>(&self, words: &'a [AtomicU64]) -> &'a [AtomicU64] {
        let index = self.position as usize & (self.capacity - 1);
        &words[self.start + index * ENTRY_WORDS..][..ENTRY_WORDS]
    }

    fn turn(&self) -> u64 {
        self.position / self.capacity as u64 + 1
    }
}

/// The side that writes entries.
#[derive(Debug)]
pub struct Producer(Cursor);

impl Producer {
    /// Of a ring that begins at word `start`, and is all zeroes; `capacity` must be a power of two.
    pub fn new(start: usize, capacity: usize) -> Producer {
        Producer(Cursor::new(start, capacity))
    }

    /// Writes the next entry. What was written to `words` before is seen by whoever pops it.
    pub fn push(&mut self, words: &[AtomicU64], entry: &Entry) {
        let (turn, others) = self.0.entry(words).split_first().expect("an entry has words");
        for (word, value) in others.iter().zip(entry) {
            word.store(*value, Ordering::Relaxed);
        }
        turn.store(self.0.turn(), Ordering::Release);
        self.0.position += 1;
    }
}

/// The side that reads entries.
#[derive(Debug)]
pub struct Consumer(Cursor);

impl Consumer {
    /// As [`Producer::new`], for the other side.
    pub fn new(start: usize, capacity: usize) -> Consumer {
        Consumer(Cursor::new(start, capacity))
    }

    /// Whether there is an entry.
    pub fn is_ready(&self, words: &[AtomicU64]) -> bool {
        self.0.entry(words)[0].load(Ordering::Acquire) == self.0.turn()
    }

    /// The next entry, each word of it read once.
    pub fn pop(&mut self, words: &[AtomicU64]) -> Option<Entry> {
        if !self.is_ready(words) {
            return None;
        }
        let others = &self.0.entry(words)[1..];
        let entry = std::array::from_fn(|index| others[index].load(Ordering::Relaxed));
        self.0.position += 1;
        Some(entry)
    }
}

/// Says that this side is about to sleep. It must look at its ring after this, and at the flag's word no more
/// until it is awake.
pub fn announce_sleep(asleep: &AtomicU64) {
    asleep.swap(1, Ordering::AcqRel);
    fence(Ordering::SeqCst);
}

/// Says that this side is awake.
pub fn announce_awake(asleep: &AtomicU64) {
    asleep.swap(0, Ordering::AcqRel);
}

/// Whether the other side must be woken, after an entry was pushed for it. Of several that ask one is told
/// so.
pub fn must_wake(asleep: &AtomicU64) -> bool {
    fence(Ordering::SeqCst);
    asleep.load(Ordering::Relaxed) != 0 && asleep.swap(0, Ordering::AcqRel) != 0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn entries_come_out_in_order_and_once() {
        let words = words(4 * ENTRY_WORDS + 3);
        let (mut producer, mut consumer) = (Producer::new(3, 4), Consumer::new(3, 4));
        assert!(consumer.pop(&words).is_none());
        for round in 0..5u64 {
            for number in 0..4 {
                producer.push(&words, &[round * 4 + number; 7]);
            }
            for number in 0..4 {
                assert_eq!(consumer.pop(&words), Some([round * 4 + number; 7]));
            }
            assert!(consumer.pop(&words).is_none());
        }
    }

    #[test]
    fn words_that_the_other_side_invents_are_no_entries() {
        let words = words(2 * ENTRY_WORDS);
        let mut consumer = Consumer::new(0, 2);
        for turn in [2, 7, u64::MAX, u64::MAX - 1] {
            words[0].store(turn, Ordering::Relaxed);
            assert!(consumer.pop(&words).is_none(), "{turn}");
        }
        words[0].store(1, Ordering::Relaxed);
        assert!(consumer.pop(&words).is_some() && consumer.pop(&words).is_none());
    }

    #[test]
    fn one_of_those_who_push_wakes_the_sleeper() {
        let asleep = AtomicU64::new(0);
        assert!(!must_wake(&asleep));
        announce_sleep(&asleep);
        assert!(must_wake(&asleep) && !must_wake(&asleep));
        announce_sleep(&asleep);
        announce_awake(&asleep);
        assert!(!must_wake(&asleep));
    }
}

/// Under loom: `cargo xtask loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::{Arc, Notify};
    use loom::thread;

    use super::*;

    const CAPACITY: usize = 2;
    const TENSOR: usize = 0;
    const ASLEEP: [usize; 2] = [1, 2];
    const REQUESTS: usize = 3;
    const COMPLETIONS: usize = REQUESTS + CAPACITY * ENTRY_WORDS;

    struct Shared {
        words: Vec<AtomicU64>,
        /// The socket: wakes the server, and the client.
        bells: [Notify; 2],
    }

    fn shared() -> Arc<Shared> {
        let count = COMPLETIONS + CAPACITY * ENTRY_WORDS;
        let words = (0..count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Shared { words, bells: [Notify::new(), Notify::new()] })
    }

    impl Shared {
        fn push(&self, producer: &mut Producer, to: usize, value: u64) {
            producer.push(&self.words, &[value; 7]);
            if must_wake(&self.words[ASLEEP[to]]) {
                self.bells[to].notify();
            }
        }

        /// The next entry; sleeps until there is one.
        fn wait(&self, consumer: &mut Consumer, me: usize) -> u64 {
            loop {
                if let Some(entry) = consumer.pop(&self.words) {
                    assert!(entry.iter().all(|&word| word == entry[0]), "an entry is whole");
                    return entry[0];
                }
                announce_sleep(&self.words[ASLEEP[me]]);
                if !consumer.is_ready(&self.words) {
                    self.bells[me].wait();
                }
                announce_awake(&self.words[ASLEEP[me]]);
            }
        }
    }

    /// More requests than entries, one slot: what is written to it comes back, and nobody sleeps for ever.
    #[test]
    fn loom_requests_and_completions_pass_and_both_sides_wake() {
        loom::model(|| {
            let shared = shared();
            let server = shared.clone();
            let server = thread::spawn(move || {
                let mut requests = Consumer::new(REQUESTS, CAPACITY);
                let mut completions = Producer::new(COMPLETIONS, CAPACITY);
                for _ in 0..3 {
                    let request = server.wait(&mut requests, 0);
                    let tensor = server.words[TENSOR].load(Ordering::Relaxed);
                    assert_eq!(tensor, request, "the inputs were written before");
                    server.words[TENSOR].store(tensor + 10, Ordering::Relaxed);
                    server.push(&mut completions, 1, request);
                }
            });
            let mut requests = Producer::new(REQUESTS, CAPACITY);
            let mut completions = Consumer::new(COMPLETIONS, CAPACITY);
            for number in 1..4 {
                shared.words[TENSOR].store(number, Ordering::Relaxed);
                shared.push(&mut requests, 0, number);
                assert_eq!(shared.wait(&mut completions, 1), number);
                assert_eq!(shared.words[TENSOR].load(Ordering::Relaxed), number + 10);
            }
            server.join().unwrap();
        });
    }

    /// Two slots in flight at once.
    #[test]
    fn loom_two_requests_in_flight() {
        loom::model(|| {
            let shared = shared();
            let server = shared.clone();
            let server = thread::spawn(move || {
                let mut requests = Consumer::new(REQUESTS, CAPACITY);
                let mut completions = Producer::new(COMPLETIONS, CAPACITY);
                for _ in 0..2 {
                    let request = server.wait(&mut requests, 0);
                    server.push(&mut completions, 1, request);
                }
            });
            let mut requests = Producer::new(REQUESTS, CAPACITY);
            let mut completions = Consumer::new(COMPLETIONS, CAPACITY);
            shared.push(&mut requests, 0, 1);
            shared.push(&mut requests, 0, 2);
            assert_eq!((shared.wait(&mut completions, 1), shared.wait(&mut completions, 1)), (1, 2));
            server.join().unwrap();
        });
    }
}
