//! The timeline: block events of the devices and spans of requests, as Chrome/Perfetto JSON.
//!
//! While a trace is on, the core notes which task belongs to which plan and how each request went in a small
//! ring (`Notes`); a thread of the trace moves those and the device's events into a larger one and keeps the
//! newest. Off, it costs two tests of a flag per request, and what the device states per block. The file is
//! written when the trace stops, beside its place, then renamed. A bug of the trace ends the trace and
//! nothing else. Nothing here knows the core or the engine.

mod notes;
mod recording;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use reef_device::Device;

use crate::fault;
pub(crate) use notes::{Notes, Span};
use recording::Recording;

/// How often the rings of device and core are emptied.
const COLLECT_EVERY: Duration = Duration::from_millis(20);

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

/// The trace that is being recorded, if any.
pub(crate) struct Tracing {
    sources: Arc<[Traced]>,
    active: Mutex<Option<Active>>,
}

/// A device whose events a trace has, and what the core beside it notes of its tasks.
pub(crate) struct Traced {
    pub(crate) name: Arc<str>,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) notes: Arc<Notes>,
}

/// One per device.
type Recordings = Arc<[Mutex<Recording>]>;

struct Active {
    recordings: Recordings,
    options: TraceOptions,
    /// The file under its temporary name.
    file: File,
    temporary: PathBuf,
    stop: Arc<AtomicBool>,
    /// Ends with what a panic said.
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Tracing {
    /// No trace yet; a later one has what comes from these devices, at least one.
    pub(crate) fn new(sources: Vec<Traced>) -> Self {
        Tracing { sources: sources.into(), active: Mutex::default() }
    }

    pub(crate) fn start(&self, options: TraceOptions) -> Result<(), TraceError> {
        let mut active = self.lock();
        if active.is_some() {
            return Err(TraceError::State("a trace is being recorded already"));
        }
        let fail = |source| TraceError::Write { path: options.path.clone(), source };
        let temporary = writer::temporary(&options.path);
        // Now, so that a path that cannot be written is known before the run and not after it.
        let file = File::create(&temporary).map_err(fail)?;
        let each = (options.events_max / self.sources.len()).max(1);
        let recordings: Recordings = self.sources.iter().map(|_| Mutex::new(Recording::new(each))).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = match self.sources[0].device.virtual_clock() {
            Some(_) => None,
            None => {
                let (sources, recordings, stop) = (self.sources.clone(), recordings.clone(), stop.clone());
                let collect = move || fault::contain(|| collect_until(&sources, &recordings, &stop));
                let builder = std::thread::Builder::new().name("reef-trace".into());
                Some(builder.spawn(collect).inspect_err(|_| discard(&temporary)).map_err(fail)?)
            }
        };
        for source in &*self.sources {
            source.notes.begin();
            source.device.record_events(true);
        }
        *active = Some(Active { recordings, options, file, temporary, stop, thread });
        Ok(())
    }

    pub(crate) fn stop(&self) -> Result<TraceSummary, TraceError> {
        let active = self.lock().take();
        let Some(mut active) = active else { return Err(TraceError::State("no trace is being recorded")) };
        self.sources.iter().for_each(|source| source.device.record_events(false));
        active.stop.store(true, Ordering::Release);
        let ended = active.thread.take().map_or(Ok(()), |thread| {
            thread.thread().unpark();
            thread.join().unwrap_or_else(|panic| Err(fault::message_of(panic)))
        });
        let collect = || collect(&self.sources, &active.recordings);
        let collected = ended.and_then(|()| fault::contain(collect));
        self.sources.iter().for_each(|source| source.notes.end());
        if let Err(panic) = collected {
            discard(&active.temporary);
            return Err(TraceError::Failed(panic));
        }
        let path = active.options.path;
        let write = || -> std::io::Result<u64> {
            let events = writer::write(&active.recordings, &self.sources, &active.file)?;
            active.file.sync_all()?;
            std::fs::rename(&active.temporary, &path)?;
            Ok(events)
        };
        let events = write().map_err(|source| {
            discard(&active.temporary);
            TraceError::Write { path: path.clone(), source }
        })?;
        let dropped = active.recordings.iter().map(|recording| locked(recording).dropped()).sum();
        Ok(TraceSummary { path, events, dropped })
    }

    /// Empties the rings, where no thread does it.
    pub(crate) fn collect(&self) {
        if let Some(active) = self.lock().as_ref() {
            collect(&self.sources, &active.recordings);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a file that will not be finished.
fn discard(temporary: &Path) {
    if let Err(error) = std::fs::remove_file(temporary) {
        fault::log(|| tracing::warn!(%error, path = %temporary.display(), "the unfinished trace stays"));
    }
}

fn collect_until(sources: &[Traced], recordings: &[Mutex<Recording>], stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        std::thread::park_timeout(COLLECT_EVERY);
        collect(sources, recordings);
    }
}

fn collect(sources: &[Traced], recordings: &[Mutex<Recording>]) {
    for (source, recording) in sources.iter().zip(recordings) {
        let mut recording = locked(recording);
        // The device first: the core has labelled every task whose events are there.
        recording.take_events(source.device.as_ref());
        recording.take_notes(&source.notes);
        recording.resolve();
    }
}

fn locked(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}
