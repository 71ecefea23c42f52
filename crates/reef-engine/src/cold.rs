//! Requests whose shapes have no plan yet: the bounded queue in which they wait for one. Knows neither how a
//! plan is made nor what becomes of a job that is taken off.
//!
//! Their inputs are kept as given; when the plan is there they go the way of every other request. A job stays
//! in the queue while the thread compiles for it, and nothing is compiled that no job waits for any more:
//!
//! | who | takes a job off the queue when |
//! |---|---|
//! | the compile thread | its plan is there, or cannot be made |
//! | the completion thread | its deadline or its timeout has passed |
//! | a caller | it cancels the request, unloads the model or shuts the engine down |
//!
//! Whoever takes a job off ends it or hands it to the scheduler, so this happens once. The queue's lock is
//! never held while something is compiled, nor while another lock is taken.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reef_base::{AlignedBytes, Clock, Nanos};
use reef_program::SegmentKey;

use crate::effect::{Hop, Move};
use crate::error::InferError;
use crate::pool::{Model, Visit};
use crate::request::Urgency;
use crate::ticket::{Promise, Ticket};

/// A request without a plan: for its beginning, or for where it is to go on. Or a plan that may be cut
/// better.
pub(crate) struct ColdJob {
    pub(crate) model: Arc<Model>,
    pub(crate) key: SegmentKey,
    pub(crate) work: ColdWork,
    /// When it began to wait for its plan.
    pub(crate) queued: Nanos,
    /// Of a request that has not begun: until it has its plan, its model waits for it.
    pub(crate) visit: Option<Visit>,
}

/// What a job is about.
pub(crate) enum ColdWork {
    /// A checked request that has not begun.
    Begin { inputs: Vec<AlignedBytes>, promise: Promise, urgency: Urgency },
    /// One that the scheduler has, between two segments. It has its own timers.
    Hop(Hop),
    /// One between two segments of a split model, which no scheduler has.
    Move(Box<Move>),
    /// No request: whether a split model's plan is cut well is to be looked at again.
    LookAgain,
}

/// What the compile thread is to do.
pub(crate) enum ColdTask {
    /// Make a plan.
    Plan(Arc<Model>, SegmentKey),
    /// Look again how one is cut.
    LookAgain(Arc<Model>, SegmentKey),
    /// Let go of what is not needed.
    TidyUp,
}

impl ColdJob {
    /// When it must not wait any longer.
    pub(crate) fn expiry(&self) -> Nanos {
        let Some(urgency) = self.urgency() else { return Nanos::MAX };
        [urgency.deadline, urgency.queue_until].into_iter().flatten().min().unwrap_or(Nanos::MAX)
    }

    /// Why it must not wait any longer.
    pub(crate) fn expired(&self, now: Nanos) -> Option<InferError> {
        let urgency = self.urgency()?;
        let passed = |end: Option<Nanos>| end.is_some_and(|end| end <= now);
        match () {
            () if passed(urgency.deadline) => Some(InferError::DeadlinePassed),
            () if passed(urgency.queue_until) => Some(InferError::Timeout),
            () => None,
        }
    }

    /// What bounds its time in the queue, if the scheduler does not.
    fn urgency(&self) -> Option<&Urgency> {
        match &self.work {
            ColdWork::Begin { urgency, .. } => Some(urgency),
            ColdWork::Move(moved) => Some(&moved.urgency),
            ColdWork::Hop(_) | ColdWork::LookAgain => None,
        }
    }

    /// Whether the request has not begun.
    pub(crate) fn begins(&self) -> bool {
        matches!(self.work, ColdWork::Begin { .. })
    }

    /// Whether no scheduler has it and `ticket` waits for it.
    pub(crate) fn is_of(&self, ticket: &Ticket) -> bool {
        match &self.work {
            ColdWork::Begin { promise, .. } => std::ptr::eq(promise.ticket(), ticket),
            ColdWork::Move(moved) => std::ptr::eq(moved.promise.ticket(), ticket),
            ColdWork::Hop(_) | ColdWork::LookAgain => false,
        }
    }
}

pub(crate) struct ColdQueue {
    inner: Mutex<Inner>,
    ready: Condvar,
    /// The thread has no plan in hand any more.
    ended: Condvar,
    len_max: usize,
    /// When the first job expires; written under the lock.
    next_expiry: AtomicU64,
}

struct Inner {
    jobs: VecDeque<ColdJob>,
    /// Why it takes no more requests that have not begun.
    stopped: Option<InferError>,
    /// It takes nothing any more, and the thread ends.
    closed: bool,
    /// Whether the thread makes a plan.
    busy: bool,
    /// When there is to be tidied up next.
    tidy_at: Nanos,
}

impl ColdQueue {
    pub(crate) fn new(len_max: usize) -> Self {
        let inner =
            Inner { jobs: VecDeque::new(), stopped: None, closed: false, busy: false, tidy_at: Nanos::ZERO };
        let next_expiry = AtomicU64::new(u64::MAX);
        let (inner, ready, ended) = (Mutex::new(inner), Condvar::new(), Condvar::new());
        ColdQueue { inner, ready, ended, len_max, next_expiry }
    }

    /// Queues a job for the compile thread; refuses when the queue is stopped, or full of requests that have
    /// not begun. Of others there are no more than tasks.
    #[allow(clippy::result_large_err, reason = "the job comes back as it was")]
    pub(crate) fn push(&self, job: ColdJob) -> Result<(), (InferError, ColdJob)> {
        self.push_bounded(job, self.len_max)
    }

    /// Queues a job again that was taken off: it has had its place.
    #[allow(clippy::result_large_err, reason = "the job comes back as it was")]
    pub(crate) fn push_again(&self, job: ColdJob) -> Result<(), (InferError, ColdJob)> {
        self.push_bounded(job, usize::MAX)
    }

    #[allow(clippy::result_large_err, reason = "the job comes back as it was")]
    fn push_bounded(&self, job: ColdJob, len_max: usize) -> Result<(), (InferError, ColdJob)> {
        let mut inner = self.lock();
        let full = inner.jobs.len() >= len_max;
        let refusal = match (job.begins(), inner.stopped.clone()) {
            (true, Some(why)) => Some(why),
            (true, None) => full.then_some(InferError::CompileQueueFull),
            (false, why) => inner.closed.then(|| why.unwrap_or(InferError::ShuttingDown)),
        };
        if let Some(error) = refusal {
            return Err((error, job));
        }
        inner.jobs.push_back(job);
        self.note_expiry(&inner);
        drop(inner);
        self.ready.notify_one();
        Ok(())
    }

    /// Takes no more requests that have not begun; those that wait are the caller's to take. Others go on.
    pub(crate) fn stop(&self, why: InferError) {
        self.lock().stopped.get_or_insert(why);
    }

    /// Takes nothing any more. The compile thread ends after what it is compiling.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// When the first job expires.
    pub(crate) fn next_expiry(&self) -> Nanos {
        Nanos(self.next_expiry.load(Ordering::Acquire))
    }

    /// Whether no plan is being made.
    pub(crate) fn is_idle(&self) -> bool {
        !self.lock().busy
    }

    /// Waits until no plan is being made, as long as `patience`; says whether it is so. Not for the thread
    /// itself.
    pub(crate) fn wait_until_idle(&self, patience: Duration) -> bool {
        let waited = self.ended.wait_timeout_while(self.lock(), patience, |inner| inner.busy);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !inner.busy
    }

    /// Jobs of a model that wait: real-time, best-effort.
    pub(crate) fn waiting(&self, model: &Arc<Model>) -> [u64; 2] {
        let mut counts = [0; 2];
        let inner = self.lock();
        for job in inner.jobs.iter().filter(|job| Arc::ptr_eq(&job.model, model)) {
            // The scheduler counts those that have begun.
            if let ColdWork::Begin { urgency, .. } = &job.work {
                counts[usize::from(!urgency.class.is_real_time())] += 1;
            }
        }
        counts
    }

    /// For the compile thread: blocks until a job waits, and says what for, or until it is time to tidy up,
    /// which is so every `tidy_every`; `None` when the queue was stopped. From then until the next call a
    /// plan is being made.
    pub(crate) fn next(&self, clock: &dyn Clock, tidy_every: Nanos) -> Option<ColdTask> {
        let mut inner = self.lock();
        inner.busy = false;
        self.ended.notify_all();
        loop {
            if inner.closed {
                return None;
            }
            let now = clock.now();
            if inner.tidy_at <= now {
                let first = inner.tidy_at == Nanos::ZERO;
                inner.tidy_at = now + tidy_every;
                if !first {
                    inner.busy = true;
                    return Some(ColdTask::TidyUp);
                }
            }
            // Requests first.
            let waits = |job: &&ColdJob| !matches!(job.work, ColdWork::LookAgain);
            if let Some(job) = inner.jobs.iter().find(waits) {
                let task = ColdTask::Plan(job.model.clone(), job.key.clone());
                inner.busy = true;
                return Some(task);
            }
            if let Some(ColdJob { model, key, .. }) = inner.jobs.pop_front() {
                inner.busy = true;
                return Some(ColdTask::LookAgain(model, key));
            }
            let patience = Duration::from(inner.tidy_at - now);
            let waited = self.ready.wait_timeout(inner, patience);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the jobs off the queue for which `pick` has a value; the others stay in their order.
    pub(crate) fn take<T>(&self, pick: impl Fn(&ColdJob) -> Option<T>) -> Vec<(ColdJob, T)> {
        let mut inner = self.lock();
        let mut taken = Vec::new();
        for job in std::mem::take(&mut inner.jobs) {
            match pick(&job) {
                Some(value) => taken.push((job, value)),
                None => inner.jobs.push_back(job),
            }
        }
        self.note_expiry(&inner);
        taken
    }

    fn note_expiry(&self, inner: &Inner) {
        let first = inner.jobs.iter().map(ColdJob::expiry).min().unwrap_or(Nanos::MAX);
        self.next_expiry.store(first.0, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
