//! Makes plans for the requests that wait for one.

use std::sync::Arc;

use reef_base::Nanos;
use reef_base::limits::TIDY_EVERY;

use crate::cold::{ColdJob, ColdTask, ColdWork};
use crate::core::{Job, Refused};
use crate::error::InferError;
use crate::plans::{PlanEntry, PlanFailure};
use crate::shared::Shared;

/// The compile thread.
pub(crate) fn run(shared: &Shared) {
    let tidy_every = TIDY_EVERY.min(Nanos(shared.plan_idle.0 / 4)).max(Nanos::from_millis(1));
    while let Some(task) = shared.cold.next(&*shared.clock, tidy_every) {
        let (model, key) = match task {
            ColdTask::Plan(model, key) => (model, key),
            ColdTask::LookAgain(model, key) => {
                shared.look_again(&model, &key);
                continue;
            }
            ColdTask::TidyUp => {
                shared.tidy_up();
                continue;
            }
        };
        let made = shared.plan(&model, &key);
        let waits = |job: &ColdJob| {
            Arc::ptr_eq(&job.model, &model) && job.key == key && !matches!(job.work, ColdWork::LookAgain)
        };
        let is_made = made.is_ok();
        let mut made = Some(made);
        let mut jobs = shared.cold.take(|job| waits(job).then_some(())).into_iter().peekable();
        while let Some((job, ())) = jobs.next() {
            // The last one gets this thread's own reference: who hears of its end, and unloads the model,
            // finds no plan of it left.
            let plan = if jobs.peek().is_some() { made.clone() } else { made.take() };
            hand_over(shared, job, plan.expect("the last one takes it"));
        }
        drop(made);
        if is_made && model.is_replicated() {
            // Later requests of these shapes are to have a choice; mostly it is only loaded.
            for sibling in model.siblings() {
                if !shared.lanes[sibling.lane].is_out() {
                    let _ = shared.plan(&sibling, &key);
                }
            }
        }
    }
}

/// Compiles for a job on the caller's thread, and queues it or ends it.
pub(crate) fn run_here(shared: &Shared, job: ColdJob) {
    let made = shared.plan(&job.model, &job.key);
    hand_over(shared, job, made);
}

/// Queues a job with its plan, or ends it.
fn hand_over(shared: &Shared, job: ColdJob, plan: Result<Arc<PlanEntry>, PlanFailure>) {
    let plan = match plan {
        Ok(plan) => plan,
        Err(failure) => {
            let error = failure.into_error(&job.model.key);
            return shared.refuse_cold(job, error);
        }
    };
    let (inputs, promise, urgency) = match job.work {
        ColdWork::Hop(hop) => return shared.go_on(hop, plan),
        ColdWork::Move(moved) => return shared.arrive(*moved, job.model, plan),
        ColdWork::LookAgain => return,
        ColdWork::Begin { inputs, promise, urgency } => (inputs, promise, urgency),
    };
    let (model, key, queued, visit) = (job.model, job.key, job.queued, job.visit);
    let (Ok(mut buffers), Some(kit)) = (plan.buffers(), model.kit(&plan)) else {
        let error = plan.no_buffers();
        shared.count_refusal(&model, &urgency, &error);
        return promise.refuse(error);
    };
    for (buffer, input) in buffers.io.inputs.iter_mut().zip(&inputs) {
        buffer.as_mut_slice().copy_from_slice(input.as_slice());
    }
    let (model_of, waited_since) = (model.clone(), Some(queued));
    let (before, passage, joins) = Default::default();
    let job =
        Job { model: model_of, plan, promise, buffers, kit, urgency, waited_since, before, passage, joins };
    if let Err(Refused { error, promise, .. }) = shared.submit(job) {
        if error == InferError::DeviceFault && model.is_replicated() {
            let work = ColdWork::Begin { inputs, promise, urgency };
            return shared.refuse_cold(ColdJob { model, key, work, queued, visit }, error);
        }
        promise.refuse(error);
    }
}
