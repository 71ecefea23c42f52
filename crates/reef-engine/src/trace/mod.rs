//! The timeline: block events of the devices and spans of requests, as Chrome/Perfetto JSON, or what each
//! compute unit ran in the last second for who looks at it now.
//!
//! While one is recorded, the core notes which task belongs to which plan and how each request went in a
//! small ring (`Notes`); a thread moves those and the device's events into a larger one and keeps the newest.
//! Off, it costs two tests of a flag per request, and what the device states per block. A bug of the
//! recording ends the recording and nothing else. Nothing here knows the core or the engine.
//!
//! There is one recording, for a file, for who looks, or for both:
//!
//! | | begins | ends |
//! |---|---|---|
//! | file | `start` | `stop`, which writes it beside its place, then renames it |
//! | watch | `watch` | nobody has called `watch` for [`WATCHED_FOR`] |
//!
//! The recording begins with the first of them and ends with the last.

mod live;
mod notes;
mod recording;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use reef_base::{Clock, Nanos};
use reef_device::Device;

use crate::fault;
pub use live::{Stretch, WINDOW_MAX, Work};
pub(crate) use notes::{Notes, Span};
use recording::Recording;

/// How often the rings of device and core are emptied.
const COLLECT_EVERY: Duration = Duration::from_millis(20);

/// How long after the last call of [`Engine::timeline`](crate::Engine::timeline) its recording goes on.
pub const WATCHED_FOR: Nanos = Nanos::from_millis(5_000);

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

/// What the devices did of late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Its begin, on the engine's clock.
    pub from: Nanos,
    /// Its end: when it was asked for.
    pub until: Nanos,
    /// By device, in their order.
    pub devices: Vec<DeviceTimeline>,
}

/// What the compute units of one device did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTimeline {
    /// The device's name.
    pub device: String,
    /// Its compute units.
    pub cus: usize,
    /// From when on nothing is missing: the recording may have begun later than the timeline does, or its
    /// buffers may have been full.
    pub complete_from: Nanos,
    /// Gaps in a model's work up to this are not told.
    pub resolution: Nanos,
    /// Of each unit in the order in which they began, unit by unit. A stretch that goes over a gap in which
    /// other work ran overlaps that.
    pub stretches: Vec<Stretch>,
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
    /// The thread that records could not be started.
    #[error("cannot start the thread that records: {0}")]
    Thread(std::io::Error),
    /// A trace is being recorded already, or none is.
    #[error("{0}")]
    State(&'static str),
    /// A bug of the trace showed; there is no file. What was traced goes on.
    #[error("the trace has failed, please report it: {0}")]
    Failed(String),
}

/// What is recorded, if anything.
pub(crate) struct Tracing {
    inner: Arc<Inner>,
}

struct Inner {
    sources: Box<[Traced]>,
    clock: Arc<dyn Clock>,
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
    stop: Arc<AtomicBool>,
    /// Ends with what a panic said.
    thread: Option<JoinHandle<Result<(), String>>>,
    file: Option<TraceFile>,
    /// Until when it goes on for who looked last; zero if nobody has.
    watched_until: Nanos,
}

struct TraceFile {
    path: PathBuf,
    /// Under its temporary name.
    file: File,
    temporary: PathBuf,
}

impl Tracing {
    /// Nothing yet; a later recording has what comes from these devices, at least one.
    pub(crate) fn new(sources: Vec<Traced>, clock: Arc<dyn Clock>) -> Self {
        Tracing { inner: Arc::new(Inner { sources: sources.into(), clock, active: Mutex::default() }) }
    }

    pub(crate) fn start(&self, options: TraceOptions) -> Result<(), TraceError> {
        let inner = &self.inner;
        let mut active = inner.lock();
        if active.as_ref().is_some_and(|active| active.file.is_some()) {
            return Err(TraceError::State("a trace is being recorded already"));
        }
        let TraceOptions { path, events_max } = options;
        let temporary = writer::temporary(&path);
        // Now, so that a path that cannot be written is known before the run and not after it.
        let file =
            File::create(&temporary).map_err(|source| TraceError::Write { path: path.clone(), source })?;
        let begun = inner.begin(&mut active).inspect_err(|_| discard(&temporary))?;
        let each = (events_max / inner.sources.len()).max(1);
        begun.recordings.iter().for_each(|recording| locked(recording).keep(each));
        begun.file = Some(TraceFile { path, file, temporary });
        Ok(())
    }

    pub(crate) fn stop(&self) -> Result<TraceSummary, TraceError> {
        let none = TraceError::State("no trace is being recorded");
        let inner = &self.inner;
        let mut guard = inner.lock();
        let Some(active) = guard.as_mut() else { return Err(none) };
        let Some(TraceFile { path, file, temporary }) = active.file.take() else { return Err(none) };
        let recordings = active.recordings.clone();
        let watched = inner.clock.now() < active.watched_until;
        let collected = if watched {
            drop(guard);
            fault::contain(|| inner.collect(&recordings))
        } else {
            let ended = guard.take();
            drop(guard);
            ended.map_or(Ok(()), |active| inner.end(active))
        };
        if let Err(panic) = collected {
            discard(&temporary);
            return Err(TraceError::Failed(panic));
        }
        let write = || -> std::io::Result<u64> {
            let events = writer::write(&recordings, &inner.sources, &file)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            Ok(events)
        };
        let written = write();
        let dropped = recordings.iter().map(|recording| locked(recording).let_go()).sum();
        match written {
            Ok(events) => Ok(TraceSummary { path, events, dropped }),
            Err(source) => {
                discard(&temporary);
                Err(TraceError::Write { path, source })
            }
        }
    }

    /// What was done in the last `window`; begins to record, or goes on.
    pub(crate) fn watch(&self, window: Nanos) -> Result<Timeline, TraceError> {
        let inner = &self.inner;
        let recordings = {
            let mut active = inner.lock();
            let active = inner.begin(&mut active)?;
            active.watched_until = inner.clock.now() + WATCHED_FOR;
            active.recordings.clone()
        };
        fault::contain(|| inner.collect(&recordings)).map_err(TraceError::Failed)?;
        let until = inner.clock.now();
        let from = Nanos(until.0.saturating_sub(window.min(WINDOW_MAX).0));
        let device = |(source, recording): (&Traced, &Mutex<Recording>)| {
            let recording = locked(recording);
            let (stretches, resolution) = recording.live().since(from);
            let (device, cus) = (source.name.to_string(), source.device.capabilities().cus);
            let complete_from = recording.live().complete_from();
            DeviceTimeline { device, cus, complete_from, resolution, stretches }
        };
        let devices = inner.sources.iter().zip(&*recordings).map(device).collect();
        Ok(Timeline { from, until, devices })
    }

    /// Ends what is recorded for who looks.
    pub(crate) fn close(&self) {
        let ended = self.inner.lock().take_if(|active| active.file.is_none());
        if let Some(Err(panic)) = ended.map(|active| self.inner.end(active)) {
            fault::log(|| tracing::error!(panic, "the timeline has failed"));
        }
    }

    /// Empties the rings, where no thread does it.
    pub(crate) fn collect(&self) {
        let mut guard = self.inner.lock();
        let Some(active) = guard.as_mut() else { return };
        self.inner.collect(&active.recordings);
        if active.is_over(self.inner.clock.now()) {
            let ended = guard.take();
            drop(guard);
            let _ = ended.map(|active| self.inner.end(active));
        }
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Some(active) = self.inner.lock().as_ref() {
            active.stop.store(true, Ordering::Release);
        }
    }
}

impl Active {
    /// Whether it is for nobody any more.
    fn is_over(&self, now: Nanos) -> bool {
        self.file.is_none() && now >= self.watched_until
    }
}

impl Inner {
    /// What is being recorded, from now on if nothing was.
    fn begin<'a>(self: &Arc<Self>, active: &'a mut Option<Active>) -> Result<&'a mut Active, TraceError> {
        // One whose thread has failed is of no use to anybody.
        let failed = |active: &mut Active| active.file.is_none() && active.has_failed();
        if let Some(failed) = active.take_if(failed) {
            let _ = self.end(failed);
        }
        if active.is_none() {
            *active = Some(self.record()?);
        }
        Ok(active.as_mut().expect("it was there, or has begun"))
    }

    fn record(self: &Arc<Self>) -> Result<Active, TraceError> {
        let now = self.clock.now();
        let recordings: Recordings = self.sources.iter().map(|_| Mutex::new(Recording::new(now))).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = match self.sources[0].device.virtual_clock() {
            Some(_) => None,
            None => {
                let (inner, recordings, stop) = (self.clone(), recordings.clone(), stop.clone());
                let collect = move || fault::contain(|| inner.collect_until(&recordings, &stop));
                let builder = std::thread::Builder::new().name("reef-trace".into());
                Some(builder.spawn(collect).map_err(TraceError::Thread)?)
            }
        };
        for source in &self.sources {
            source.notes.begin();
            source.device.record_events(true);
        }
        Ok(Active { recordings, stop, thread, file: None, watched_until: Nanos::ZERO })
    }

    /// Nothing is recorded any more; what was is in the recordings.
    fn end(&self, mut active: Active) -> Result<(), String> {
        self.sources.iter().for_each(|source| source.device.record_events(false));
        active.stop.store(true, Ordering::Release);
        let ended = active.thread.take().map_or(Ok(()), |thread| {
            thread.thread().unpark();
            thread.join().unwrap_or_else(|panic| Err(fault::message_of(panic)))
        });
        let collected = ended.and_then(|()| fault::contain(|| self.collect(&active.recordings)));
        self.sources.iter().for_each(|source| source.notes.end());
        collected
    }

    fn collect_until(&self, recordings: &Recordings, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            std::thread::park_timeout(COLLECT_EVERY);
            self.collect(recordings);
            let over = |active: &mut Active| {
                Arc::ptr_eq(&active.recordings, recordings) && active.is_over(self.clock.now())
            };
            let mut guard = self.lock();
            if let Some(mut active) = guard.take_if(over) {
                // This thread, which ends: nobody is to wait for it. Under the lock, so that a recording that
                // begins anew does so afterwards.
                active.thread = None;
                let _ = self.end(active);
                return;
            }
        }
    }

    fn collect(&self, recordings: &Recordings) {
        for (source, recording) in self.sources.iter().zip(&**recordings) {
            let mut recording = locked(recording);
            // The device first: the core has labelled every task whose events are there.
            recording.take_events(source.device.as_ref());
            recording.take_notes(&source.notes);
            recording.resolve(self.clock.now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    fn has_failed(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

/// Removes a file that will not be finished.
fn discard(temporary: &Path) {
    if let Err(error) = std::fs::remove_file(temporary) {
        fault::log(|| tracing::warn!(%error, path = %temporary.display(), "the unfinished trace stays"));
    }
}

fn locked(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}
