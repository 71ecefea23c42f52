//! Requests whose shapes have no plan yet: a bounded queue and the thread that compiles for them.
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
//! never held while something is compiled, nor while the core's lock is taken.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reef_base::{AlignedBytes, Class, ModelKey, Nanos};
use reef_device::DeviceError;
use reef_graph::Shape;

use crate::core::{Job, Refused};
use crate::error::InferError;
use crate::plans::{PlanEntry, PlanFailure};
use crate::pool::Model;
use crate::shared::Shared;
use crate::ticket::{Promise, Ticket};

/// A checked request without a plan.
pub(crate) struct ColdJob {
    pub(crate) model: Arc<Model>,
    pub(crate) shapes: Vec<Shape>,
    pub(crate) inputs: Vec<AlignedBytes>,
    pub(crate) promise: Promise,
    pub(crate) class: Class,
    pub(crate) arrival: Nanos,
    /// When it began to wait for its plan.
    pub(crate) queued: Nanos,
    pub(crate) deadline: Option<Nanos>,
    pub(crate) queue_until: Option<Nanos>,
}

impl ColdJob {
    fn expiry(&self) -> Nanos {
        [self.deadline, self.queue_until].into_iter().flatten().min().unwrap_or(Nanos::MAX)
    }

    /// Why it must not wait any longer.
    fn expired(&self, now: Nanos) -> Option<InferError> {
        let passed = |end: Option<Nanos>| end.is_some_and(|end| end <= now);
        match () {
            () if passed(self.deadline) => Some(InferError::DeadlinePassed),
            () if passed(self.queue_until) => Some(InferError::Timeout),
            () => None,
        }
    }

    /// Ends it without outputs.
    fn end(self, shared: &Shared, error: InferError) {
        shared.core().count_refusal(self.model.id(), &self.model.key, self.class, &error);
        self.promise.refuse(error);
    }
}

pub(crate) struct CompileQueue {
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
    /// Why it takes no more.
    stopped: Option<InferError>,
    /// Whether the thread makes a plan.
    busy: bool,
}

impl CompileQueue {
    pub(crate) fn new(len_max: usize) -> Self {
        let inner = Inner { jobs: VecDeque::new(), stopped: None, busy: false };
        let next_expiry = AtomicU64::new(u64::MAX);
        let (inner, ready, ended) = (Mutex::new(inner), Condvar::new(), Condvar::new());
        CompileQueue { inner, ready, ended, len_max, next_expiry }
    }

    /// Queues a job for the compile thread; refuses when the queue is full or closed.
    pub(crate) fn push(&self, shared: &Shared, job: ColdJob) -> Result<(), InferError> {
        let expiry = job.expiry();
        let mut inner = self.lock();
        let full = (inner.jobs.len() >= self.len_max).then_some(InferError::CompileQueueFull);
        if let Some(error) = inner.stopped.clone().or(full) {
            drop(inner);
            job.promise.release();
            return Err(error);
        }
        inner.jobs.push_back(job);
        self.note_expiry(&inner);
        drop(inner);
        self.ready.notify_one();
        shared.wake_by(expiry);
        Ok(())
    }

    /// When [`CompileQueue::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Nanos {
        Nanos(self.next_expiry.load(Ordering::Acquire))
    }

    /// Ends the jobs whose deadline or timeout has passed; says whether there were any.
    pub(crate) fn expire(&self, shared: &Shared, now: Nanos) -> bool {
        self.next_expiry() <= now && self.end_if(shared, |job| job.expired(now))
    }

    /// Ends the job of a cancelled ticket, if it is here.
    pub(crate) fn cancel(&self, shared: &Shared, ticket: &Ticket) {
        let own = |job: &ColdJob| std::ptr::eq(job.promise.ticket(), ticket);
        self.end_if(shared, |job| own(job).then_some(InferError::Cancelled));
    }

    /// Ends the jobs of a model that is being unloaded.
    pub(crate) fn refuse(&self, shared: &Shared, model: &Arc<Model>) {
        let own = |job: &ColdJob| Arc::ptr_eq(&job.model, model);
        self.end_if(shared, |job| own(job).then(|| InferError::Unloading((*model.key).clone())));
    }

    /// Takes no more jobs and ends those that wait; the thread ends after what it is compiling.
    pub(crate) fn stop(&self, shared: &Shared, why: InferError) {
        self.lock().stopped.get_or_insert_with(|| why.clone());
        self.ready.notify_all();
        self.end_if(shared, |_| Some(why.clone()));
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
            counts[usize::from(!job.class.is_real_time())] += 1;
        }
        counts
    }

    /// The compile thread.
    pub(crate) fn run(&self, shared: &Shared) {
        while let Some((model, shapes)) = self.next() {
            let plan = model.plan(shared, &shapes);
            let waits = |job: &ColdJob| Arc::ptr_eq(&job.model, &model) && job.shapes == shapes;
            for (job, ()) in self.take(|job| waits(job).then_some(())) {
                hand_over(shared, job, &plan);
            }
        }
    }

    /// What the first job waits for.
    fn next(&self) -> Option<(Arc<Model>, Vec<Shape>)> {
        let mut inner = self.lock();
        inner.busy = false;
        self.ended.notify_all();
        loop {
            if inner.stopped.is_some() {
                return None;
            }
            if let Some(job) = inner.jobs.front() {
                let found = (job.model.clone(), job.shapes.clone());
                inner.busy = true;
                return Some(found);
            }
            inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the jobs for which `why` has an error; says whether there were any.
    fn end_if(&self, shared: &Shared, why: impl Fn(&ColdJob) -> Option<InferError>) -> bool {
        let ended = self.take(why);
        let any = !ended.is_empty();
        ended.into_iter().for_each(|(job, error)| job.end(shared, error));
        any
    }

    /// Takes the jobs off the queue for which `pick` has a value; the others stay in their order.
    fn take<T>(&self, pick: impl Fn(&ColdJob) -> Option<T>) -> Vec<(ColdJob, T)> {
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

/// Compiles for a job on the caller's thread, and queues it or ends it.
pub(crate) fn run_here(shared: &Shared, job: ColdJob) {
    let plan = job.model.plan(shared, &job.shapes);
    hand_over(shared, job, &plan);
}

/// Queues a job with its plan, or ends it.
fn hand_over(shared: &Shared, job: ColdJob, plan: &Result<Arc<PlanEntry>, PlanFailure>) {
    let plan = match plan {
        Ok(plan) => plan.clone(),
        Err(failure) => {
            let error = plan_error(&job.model.key, failure.clone());
            return job.end(shared, error);
        }
    };
    let Some(mut buffers) = plan.buffers() else { return job.end(shared, InferError::DeviceFault) };
    for (buffer, input) in buffers.io.inputs.iter_mut().zip(&job.inputs) {
        buffer.as_mut_slice().copy_from_slice(input.as_slice());
    }
    let ColdJob { model, promise, class, arrival, queued, deadline, queue_until, .. } = job;
    let (key, model, waited_since) = (model.key.clone(), model.id(), Some(queued));
    let job = Job { model, key, plan, promise, buffers, class, arrival, waited_since, deadline, queue_until };
    if let Err(Refused { error, promise, .. }) = shared.submit(job) {
        promise.refuse(error);
    }
}

/// What a request is told when its shapes get no plan.
pub(crate) fn plan_error(model: &ModelKey, failure: PlanFailure) -> InferError {
    match failure {
        PlanFailure::Unloaded => InferError::Unloading(model.clone()),
        PlanFailure::Shapes(reason) => InferError::Shapes(reason),
        PlanFailure::Fault(reason) => InferError::NoPlan(reason),
        PlanFailure::Device(DeviceError::Poisoned(_)) => InferError::DeviceFault,
        // Arenas are shared by all plans, so it is these shapes alone that are too large.
        PlanFailure::Device(error @ DeviceError::OutOfMemory { .. }) => InferError::Shapes(error.to_string()),
        PlanFailure::Device(error) => InferError::NoPlan(error.to_string()),
    }
}
