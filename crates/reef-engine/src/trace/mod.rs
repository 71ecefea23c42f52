//! The timeline: block events of the device and spans of requests, as Chrome/Perfetto JSON.
//!
//! While a trace is on, the core notes which task belongs to which plan and how each request went in a small
//! ring (`Ring`); a thread of the trace moves those and the device's events into a larger one and keeps the
//! newest. Off, it costs one test of an `Option` per request, and what the device states per block. The file
//! is written when the trace stops, beside its place, then renamed. A bug of the trace ends the trace and
//! nothing else.

mod recording;
mod writer;

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use reef_base::{Class, ModelKey, Nanos};
use reef_plan::Plan;

use crate::fault::{self, Foreign};
use crate::shared::Shared;
use recording::Recording;

/// How often the rings of device and core are emptied.
const COLLECT_EVERY: Duration = Duration::from_millis(20);

/// Entries of the core's ring: far more than the requests of one such period.
const RING_LEN: usize = 1 << 14;

/// Where and how much to trace.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The JSON file, written when the trace is stopped; replaced atomically.
    pub path: PathBuf,
    /// Newest events that are kept; older ones are dropped.
    pub events_max: usize,
}

impl TraceOptions {
    /// A trace of the last million events.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        TraceOptions { path: path.into(), events_max: 1 << 20 }
    }
}

/// What a trace file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSummary {
    /// The file.
    pub path: PathBuf,
    /// Events written.
    pub events: u64,
    /// Events that were dropped because the ring or the device's buffers were full.
    pub dropped: u64,
}

/// The trace could not be started or written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be written.
    #[error("cannot write the trace {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A trace is being recorded already, or none is.
    #[error("{0}")]
    State(&'static str),
    /// A bug of the trace showed; there is no file. What was traced goes on.
    #[error("the trace has failed, please report it: {0}")]
    Failed(String),
}

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

/// Which plan a task runs.
#[derive(Debug)]
pub(crate) struct Label {
    pub(crate) token: u64,
    pub(crate) model: Arc<ModelKey>,
    pub(crate) plan: Foreign<Arc<Plan>>,
}

/// What the core notes between two collections; bounded, the newest stay.
#[derive(Debug)]
pub(crate) struct Ring {
    labels: VecDeque<Label>,
    spans: VecDeque<Span>,
    dropped: u64,
}

impl Ring {
    fn new() -> Self {
        Ring {
            labels: VecDeque::with_capacity(RING_LEN),
            spans: VecDeque::with_capacity(RING_LEN),
            dropped: 0,
        }
    }

    /// Notes what a task that starts runs.
    pub(crate) fn label(&mut self, token: u64, model: &Arc<ModelKey>, plan: &Arc<Plan>) {
        let label = Label { token, model: model.clone(), plan: plan.clone().into() };
        self.dropped += u64::from(push_bounded(&mut self.labels, label, RING_LEN));
    }

    /// Notes how a request went.
    pub(crate) fn span(&mut self, span: Span) {
        self.dropped += u64::from(push_bounded(&mut self.spans, span, RING_LEN));
    }
}

/// Adds to the end of a ring; whether the oldest had to go.
fn push_bounded<T>(ring: &mut VecDeque<T>, item: T, max: usize) -> bool {
    let full = ring.len() >= max.max(1);
    if full {
        ring.pop_front();
    }
    ring.push_back(item);
    full
}

/// The trace that is being recorded, if any.
#[derive(Default)]
pub(crate) struct Tracing {
    active: Mutex<Option<Active>>,
}

struct Active {
    recording: Arc<Mutex<Recording>>,
    options: TraceOptions,
    /// The file under its temporary name.
    file: File,
    temporary: PathBuf,
    stop: Arc<AtomicBool>,
    /// Ends with what a panic said.
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Tracing {
    pub(crate) fn start(&self, shared: &Arc<Shared>, options: TraceOptions) -> Result<(), TraceError> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.is_some() {
            return Err(TraceError::State("a trace is being recorded already"));
        }
        let fail = |source| TraceError::Write { path: options.path.clone(), source };
        let temporary = writer::temporary(&options.path);
        // Now, so that a path that cannot be written is known before the run and not after it.
        let file = File::create(&temporary).map_err(fail)?;
        let recording = Arc::new(Mutex::new(Recording::new(options.events_max)));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = match shared.stepped {
            true => None,
            false => {
                let (own, recording, stop) = (shared.clone(), recording.clone(), stop.clone());
                let collect = move || fault::contain(|| collect_until(&own, &recording, &stop));
                let builder = std::thread::Builder::new().name("reef-trace".into());
                Some(builder.spawn(collect).inspect_err(|_| discard(&temporary)).map_err(fail)?)
            }
        };
        shared.core().trace = Some(Ring::new());
        shared.device.record_events(true);
        *active = Some(Active { recording, options, file, temporary, stop, thread });
        Ok(())
    }

    pub(crate) fn stop(&self, shared: &Shared) -> Result<TraceSummary, TraceError> {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut active) = active else { return Err(TraceError::State("no trace is being recorded")) };
        shared.device.record_events(false);
        active.stop.store(true, Ordering::Release);
        let ended = active.thread.take().map_or(Ok(()), |thread| {
            thread.thread().unpark();
            thread.join().unwrap_or_else(|panic| Err(fault::message_of(panic)))
        });
        let collected = ended.and_then(|()| fault::contain(|| collect(shared, &active.recording)));
        let ring = shared.core().trace.take();
        drop(ring);
        if let Err(panic) = collected {
            discard(&active.temporary);
            return Err(TraceError::Failed(panic));
        }
        let path = active.options.path;
        let recording = active.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || -> std::io::Result<u64> {
            let events = writer::write(&recording, shared.device.capabilities(), &active.file)?;
            active.file.sync_all()?;
            std::fs::rename(&active.temporary, &path)?;
            Ok(events)
        };
        let events = write().map_err(|source| {
            discard(&active.temporary);
            TraceError::Write { path: path.clone(), source }
        })?;
        let dropped = recording.dropped();
        drop(recording);
        Ok(TraceSummary { path, events, dropped })
    }

    /// Empties the rings, where no thread does it.
    pub(crate) fn collect(&self, shared: &Shared) {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(active) = active.as_ref() {
            collect(shared, &active.recording);
        }
    }
}

/// Removes a file that will not be finished.
fn discard(temporary: &Path) {
    if let Err(error) = std::fs::remove_file(temporary) {
        fault::log(|| tracing::warn!(%error, path = %temporary.display(), "the unfinished trace stays"));
    }
}

fn collect_until(shared: &Shared, recording: &Mutex<Recording>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        std::thread::park_timeout(COLLECT_EVERY);
        collect(shared, recording);
    }
}

fn collect(shared: &Shared, recording: &Mutex<Recording>) {
    let mut recording = recording.lock().unwrap_or_else(PoisonError::into_inner);
    // The device first: the core has labelled every task whose events are there.
    recording.take_events(shared.device.as_ref());
    // The ring is swapped out, so that nothing is freed under the core's lock.
    let mut core = shared.core();
    let Some(ring) = core.trace.as_mut() else { return };
    recording.swap(ring);
    drop(core);
    recording.resolve();
}
