//! Recording of block-level events: one bounded ring per compute unit, one for everybody else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use reef_device::Event;
use rtrb::{Consumer, Producer, RingBuffer};

/// The readers' ends, and the ring of submitters and cancellers.
pub(crate) struct Recorder {
    on: AtomicBool,
    lost: AtomicU64,
    outside: Mutex<Producer<Event>>,
    consumers: Mutex<Vec<Consumer<Event>>>,
}

impl Recorder {
    /// A recorder with rings of `capacity` events, and the compute units' ends.
    pub(crate) fn new(cus: usize, capacity: usize) -> (Recorder, Vec<Producer<Event>>) {
        let (outside, consumer) = RingBuffer::new(capacity);
        let mut consumers = vec![consumer];
        let mut producers = Vec::new();
        for _ in 0..cus {
            let (producer, consumer) = RingBuffer::new(capacity);
            producers.push(producer);
            consumers.push(consumer);
        }
        let recorder = Recorder {
            on: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            outside: Mutex::new(outside),
            consumers: Mutex::new(consumers),
        };
        (recorder, producers)
    }

    /// Whether events are recorded.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        !cfg!(feature = "no-trace") && self.on.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// An event of a compute unit.
    pub(crate) fn unit(&self, producer: &mut Producer<Event>, event: Event) {
        if producer.push(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An event of no compute unit. Lost, rather than waited for, when two threads come at the same moment.
    pub(crate) fn outside(&self, event: Event) {
        let pushed = self.outside.try_lock().is_ok_and(|mut producer| producer.push(event).is_ok());
        if !pushed {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Moves everything recorded into `events`; returns how many were lost since the last call.
    pub(crate) fn drain(&self, events: &mut Vec<Event>) -> u64 {
        for consumer in self.consumers.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            while let Ok(event) = consumer.pop() {
                events.push(event);
            }
        }
        self.lost.swap(0, Ordering::Relaxed)
    }
}
