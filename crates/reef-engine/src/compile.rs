//! Makes plans: at load, for a session, and for the requests that wait for one.

use std::sync::Arc;

use reef_base::ModelKey;
use reef_device::DeviceError;
use reef_graph::Shape;

use crate::cold::ColdJob;
use crate::core::{Job, Refused};
use crate::error::InferError;
use crate::plans::{PlanEntry, PlanFailure};
use crate::pool::Model;
use crate::shared::Shared;

/// The compile thread.
pub(crate) fn run(shared: &Shared) {
    while let Some((model, shapes)) = shared.cold.next() {
        let made = plan(shared, &model, &shapes);
        let waits = |job: &ColdJob| Arc::ptr_eq(&job.model, &model) && job.shapes == shapes;
        for (job, ()) in shared.cold.take(|job| waits(job).then_some(())) {
            hand_over(shared, job, &made);
        }
    }
}

/// Compiles for a job on the caller's thread, and queues it or ends it.
pub(crate) fn run_here(shared: &Shared, job: ColdJob) {
    let made = plan(shared, &job.model, &job.shapes);
    hand_over(shared, job, &made);
}

/// A model's plan for these shapes; compiles and loads it if there is none. Slow: not for the hot path.
pub(crate) fn plan(shared: &Shared, model: &Model, shapes: &[Shape]) -> Result<Arc<PlanEntry>, PlanFailure> {
    model.plan(&shared.device, shapes, |id, index| shared.core().reset_plan(id, &model.key, index))
}

/// Queues a job with its plan, or ends it.
fn hand_over(shared: &Shared, job: ColdJob, plan: &Result<Arc<PlanEntry>, PlanFailure>) {
    let plan = match plan {
        Ok(plan) => plan.clone(),
        Err(failure) => {
            let error = plan_error(&job.model.key, failure.clone());
            return shared.refuse_cold(job, error);
        }
    };
    let Some(mut buffers) = plan.buffers() else { return shared.refuse_cold(job, InferError::DeviceFault) };
    for (buffer, input) in buffers.io.inputs.iter_mut().zip(&job.inputs) {
        buffer.as_mut_slice().copy_from_slice(input.as_slice());
    }
    let ColdJob { model, promise, urgency, queued, .. } = job;
    let (key, model, waited_since) = (model.key.clone(), model.id(), Some(queued));
    let job = Job { model, key, plan, promise, buffers, urgency, waited_since };
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
