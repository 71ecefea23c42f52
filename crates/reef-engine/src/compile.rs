//! Requests whose shapes have no plan yet: a bounded queue and the thread that compiles for them.
//!
//! Their inputs are kept as given; when the plan is there they go the way of every other request. A cancelled
//! one is not compiled for. The compile thread never holds a lock while it compiles.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use reef_base::{AlignedBytes, Class, Nanos};
use reef_graph::Shape;

use crate::core::Job;
use crate::error::InferError;
use crate::plans::PlanFailure;
use crate::pool::Model;
use crate::shared::Shared;
use crate::ticket::{Finished, Ticket};

/// A checked request without a plan.
pub(crate) struct ColdJob {
    pub(crate) model: Arc<Model>,
    pub(crate) shapes: Vec<Shape>,
    pub(crate) inputs: Vec<AlignedBytes>,
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) class: Class,
    pub(crate) arrival: Nanos,
    pub(crate) deadline: Option<Nanos>,
    pub(crate) queue_until: Option<Nanos>,
}

pub(crate) struct CompileQueue {
    inner: Mutex<Inner>,
    ready: Condvar,
    len_max: usize,
}

struct Inner {
    jobs: VecDeque<ColdJob>,
    stopped: bool,
}

impl CompileQueue {
    pub(crate) fn new(len_max: usize) -> Self {
        let inner = Inner { jobs: VecDeque::new(), stopped: false };
        CompileQueue { inner: Mutex::new(inner), ready: Condvar::new(), len_max }
    }

    /// Queues a job for the compile thread; gives it back when the queue is full or closed.
    pub(crate) fn push(&self, job: ColdJob) -> Result<(), InferError> {
        let mut inner = self.lock();
        if inner.stopped {
            return Err(InferError::ShuttingDown);
        }
        if inner.jobs.len() >= self.len_max {
            return Err(InferError::CompileQueueFull);
        }
        inner.jobs.push_back(job);
        drop(inner);
        self.ready.notify_one();
        Ok(())
    }

    /// Takes no more jobs; the thread ends after the one it is at, the others end here.
    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.stopped = true;
        let jobs = std::mem::take(&mut inner.jobs);
        drop(inner);
        self.ready.notify_all();
        for job in jobs {
            job.ticket.finish(Finished { buffers: None, result: Err(InferError::ShuttingDown) });
        }
    }

    /// The compile thread.
    pub(crate) fn run(&self, shared: &Shared) {
        while let Some(job) = self.next() {
            run_cold(shared, job);
        }
    }

    fn next(&self) -> Option<ColdJob> {
        let mut inner = self.lock();
        loop {
            if inner.stopped {
                return None;
            }
            if let Some(job) = inner.jobs.pop_front() {
                return Some(job);
            }
            inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compiles for a job if need be and queues it; every way out ends or queues it exactly once.
pub(crate) fn run_cold(shared: &Shared, job: ColdJob) {
    let ticket = job.ticket.clone();
    let (model, class) = (job.model.clone(), job.class);
    if let Err((error, counted)) = try_cold(shared, job) {
        if !counted {
            shared.core().count_refusal(model.id(), &model.key, class, &error);
        }
        ticket.finish(Finished { buffers: None, result: Err(error) });
    }
}

fn try_cold(shared: &Shared, job: ColdJob) -> Result<(), (InferError, bool)> {
    if job.ticket.is_cancelled() {
        return Err((InferError::Cancelled, false));
    }
    let plan = job.model.plan(shared, &job.shapes).map_err(|failure| (plan_error(failure), false))?;
    let mut buffers = plan.buffers().ok_or((InferError::DeviceFault, false))?;
    for (buffer, input) in buffers.io.inputs.iter_mut().zip(&job.inputs) {
        buffer.as_mut_slice().copy_from_slice(input.as_slice());
    }
    let ColdJob { model, ticket, class, arrival, deadline, queue_until, .. } = job;
    let (key, model) = (model.key.clone(), model.id());
    let job = Job { model, key, plan, ticket, buffers, class, arrival, deadline, queue_until };
    shared.submit(job).map_err(|(error, _)| (error, true))
}

/// What a request is told when its shapes get no plan.
pub(crate) fn plan_error(failure: PlanFailure) -> InferError {
    match failure {
        PlanFailure::Compile(reason) => InferError::Shapes(reason),
        PlanFailure::Device(reef_device::DeviceError::Poisoned(_)) => InferError::DeviceFault,
        PlanFailure::Device(error) => InferError::Shapes(error.to_string()),
    }
}
