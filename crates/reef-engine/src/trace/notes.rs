//! What the core notes for the timeline between two collections: which task runs which plan, and how each
//! request went. Knows neither the core nor who collects.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reef_base::{Class, ModelKey, Nanos};
use reef_device::LoadedPlan;
use reef_plan::Plan;

use crate::fault::Foreign;

/// Entries of the ring: far more than the requests between two collections.
const RING_LEN: usize = 1 << 14;

/// How one request went.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) token: u64,
    pub(crate) model: Arc<ModelKey>,
    pub(crate) class: Class,
    pub(crate) arrival: Nanos,
    pub(crate) queued: Nanos,
    pub(crate) submitted: Option<Nanos>,
    pub(crate) first_block: Option<Nanos>,
    pub(crate) finished: Option<Nanos>,
    pub(crate) end: Nanos,
    pub(crate) error: Option<String>,
}

/// A plan that a task runs, or may go on with.
#[derive(Debug)]
pub(super) struct Label {
    pub(super) token: u64,
    pub(super) loaded: LoadedPlan,
    pub(super) model: Arc<ModelKey>,
    pub(super) plan: Foreign<Arc<Plan>>,
}

/// The ring that the core writes and the trace empties; there is none while no trace is on.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Whether there is a ring, to be seen without the lock.
    on: AtomicBool,
    ring: Mutex<Option<Ring>>,
}

impl Notes {
    /// Notes what a task that starts runs, or may go on with.
    pub(crate) fn label(&self, token: u64, model: &Arc<ModelKey>, loaded: LoadedPlan, plan: &Arc<Plan>) {
        let (model, plan) = (model.clone(), plan.clone().into());
        self.note(|ring| ring.label(Label { token, loaded, model, plan }));
    }

    /// Whether anything is noted.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Notes how a request went. Off, `span` is not made.
    pub(crate) fn span(&self, span: impl FnOnce() -> Span) {
        self.note(|ring| ring.span(span()));
    }

    /// From now on things are noted.
    pub(super) fn begin(&self) {
        let ring = Ring::new();
        *self.lock() = Some(ring);
        self.on.store(true, Ordering::Release);
    }

    /// Nothing is noted any more; what was noted since the last collection is lost.
    pub(super) fn end(&self) {
        self.on.store(false, Ordering::Release);
        let ring = self.lock().take();
        drop(ring);
    }

    /// Swaps `empty` for what was noted, so that nothing is freed under the lock.
    pub(super) fn swap(&self, empty: &mut Ring) {
        if let Some(ring) = self.lock().as_mut() {
            std::mem::swap(ring, empty);
        }
    }

    fn note(&self, note: impl FnOnce(&mut Ring)) {
        if self.is_on()
            && let Some(ring) = self.lock().as_mut()
        {
            note(ring);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Ring>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was noted; bounded, the newest stay.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) labels: VecDeque<Label>,
    pub(super) spans: VecDeque<Span>,
    pub(super) dropped: u64,
}

impl Ring {
    pub(super) fn new() -> Self {
        Ring {
            labels: VecDeque::with_capacity(RING_LEN),
            spans: VecDeque::with_capacity(RING_LEN),
            dropped: 0,
        }
    }

    fn label(&mut self, label: Label) {
        self.dropped += u64::from(push_bounded(&mut self.labels, label, RING_LEN));
    }

    fn span(&mut self, span: Span) {
        self.dropped += u64::from(push_bounded(&mut self.spans, span, RING_LEN));
    }
}

/// Adds to the end of a ring; whether the oldest had to go.
pub(super) fn push_bounded<T>(ring: &mut VecDeque<T>, item: T, max: usize) -> bool {
    let full = ring.len() >= max.max(1);
    if full {
        ring.pop_front();
    }
    ring.push_back(item);
    full
}
