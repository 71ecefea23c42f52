//! Traces of requests for OpenTelemetry: a span for each request, and within it what it waited and computed.
//!
//! Spans are made when the request has ended, of times that were measured anyway, and a thread sends them in
//! batches: JSON of OTLP over HTTP. So little is needed of the protocol that its own library (two dozen
//! crates) is not.
//! Invariants: nothing waits for the collector; the queue is bounded, and what it does not hold is
//! dropped and counted.

mod context;
mod wire;

pub(crate) use context::Parent;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

/// Requests that wait to be sent.
const QUEUE_LEN: usize = 4096;

/// Requests that are sent at once at most.
const BATCH_LEN: usize = 512;

/// How long the first of a batch waits for others.
const BATCH_TIME: Duration = Duration::from_secs(1);

/// How long the collector may take for a batch.
const COLLECTOR_TIME_MAX: Duration = Duration::from_secs(10);

/// Where traces go.
#[derive(Debug)]
pub(crate) struct Telemetry {
    queue: Mutex<Option<SyncSender<Ended>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    dropped: AtomicU64,
    random: RandomState,
    count: AtomicU64,
}

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What was asked, in few words: a method and a kind of path.
    pub(crate) name: String,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// Why it is an error, if it is one of ours.
    pub(crate) fault: Option<String>,
    /// Parts of it: name, start, end.
    pub(crate) parts: Vec<(&'static str, SystemTime, SystemTime)>,
    /// The span that asked, if it said so.
    pub(crate) parent: Option<Parent>,
}

impl Telemetry {
    /// Sends to a collector, such as `http://localhost:4318`.
    pub(crate) fn start(endpoint: &str) -> io::Result<Telemetry> {
        let (queue, waiting) = sync_channel(QUEUE_LEN);
        let random = RandomState::new();
        let collector = Collector::new(endpoint, random.clone());
        let thread =
            std::thread::Builder::new().name("reef-traces".into()).spawn(move || collector.run(&waiting))?;
        Ok(Telemetry {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            dropped: AtomicU64::new(0),
            random,
            count: AtomicU64::new(0),
        })
    }

    /// Takes note of a request, unless who asked does not want that.
    pub(crate) fn record(&self, mut ended: Ended) {
        if ended.parent.as_ref().is_some_and(|parent| !parent.sampled) {
            return;
        }
        let parent = ended.parent.take();
        ended.parent = Some(parent.unwrap_or_else(|| Parent::none(self.random(), self.random())));
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = queue.as_ref().is_some_and(|queue| queue.try_send(ended).is_ok());
        if !sent && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("the collector of traces is too slow, some are dropped");
        }
    }

    /// Sends what is left. Blocks for as long as a batch may take.
    pub(crate) fn shutdown(&self) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "traces that were not sent");
        }
    }

    fn random(&self) -> u64 {
        self.random.hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}

/// The thread that sends.
struct Collector {
    agent: ureq::Agent,
    url: String,
    random: RandomState,
    spans: u64,
    /// Whether it does not answer, which was said.
    silent: bool,
}

impl Collector {
    fn new(endpoint: &str, random: RandomState) -> Collector {
        let config = ureq::Agent::config_builder().timeout_global(Some(COLLECTOR_TIME_MAX)).build();
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        Collector { agent: config.into(), url, random, spans: 0, silent: false }
    }

    fn run(mut self, waiting: &Receiver<Ended>) {
        while let Ok(first) = waiting.recv() {
            let until = Instant::now() + BATCH_TIME;
            let mut batch = vec![first];
            while batch.len() < BATCH_LEN {
                match waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(next) => batch.push(next),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
            self.send(&batch);
        }
    }

    fn send(&mut self, batch: &[Ended]) {
        let mut id = || {
            self.spans += 1;
            // Apart from the numbers that traces have.
            self.random.hash_one(("span", self.spans))
        };
        let body = wire::request(batch, &mut id).to_string();
        let post = self.agent.post(&self.url).header("content-type", "application/json");
        match post.send(body) {
            Ok(_) => self.silent = false,
            Err(error) if !self.silent => {
                self.silent = true;
                tracing::warn!(%error, url = self.url, "the collector of traces fails; they are dropped");
            }
            Err(_) => {}
        }
    }
}
