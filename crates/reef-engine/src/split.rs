//! Models that are cut over several devices: how the parts of a segment are made, and made anew when what was
//! measured says that another cut is better. How a request gets from part to part stands in `shared`.
//!
//! A part knows the next one ([`Onward`]), so a request that began with the first part of a cut stays with
//! that cut, whatever is made meanwhile. The table of each device's model names the part there for the
//! scheduler; the first one is what requests find.

use std::sync::Arc;

use reef_plan::{Plan, Target};
use reef_program::SegmentKey;

use crate::divided::{Divided, PartPlan};
use crate::fault::{Foreign, log};
use crate::lane::Lane;
use crate::plans::{Made, Onward, PlanEntry, PlanFailure};
use crate::pool::{Group, Model};

/// The first part of a segment's plan; cuts it and loads the parts if they are not there. Slow.
pub(crate) fn plan(lanes: &[Lane], group: &Group, key: &SegmentKey) -> Result<Arc<PlanEntry>, PlanFailure> {
    let first = &group.replicas[0];
    let make = || {
        let divided = divide(lanes, group, key)?;
        load_behind(lanes, group, key, &Arc::new(divided))
    };
    let lane = &lanes[first.lane];
    let reset = |id, index| lane.core().reset_plan(id, &first.key, index);
    first.plan_by(&lane.device, key, make, reset)
}

/// Cuts a segment anew if that is better by what its parts' devices have measured.
pub(crate) fn look_again(lanes: &[Lane], group: &Group, key: &SegmentKey) {
    let first = &group.replicas[0];
    let Some(entry) = first.find(key) else { return };
    let Some(divided) = entry.onward.as_ref().and_then(|onward| onward.divided.clone()) else { return };
    let mut measured = Vec::with_capacity(divided.len());
    let (mut part, mut model) = (&entry, first);
    loop {
        measured.push(lanes[model.lane].device.block_times(part.loaded));
        let Some(onward) = &part.onward else { break };
        (part, model) = (&onward.entry, &group.replicas[onward.part]);
    }
    let Some(better) = divided.better(&measured) else { return };
    let made = load_behind(lanes, group, key, &Arc::new(better));
    let loaded = made.and_then(|made| load(lanes, first, key, made));
    if let Err(failure) = loaded.map(drop)
        && !matches!(failure, PlanFailure::Unloaded)
    {
        log(|| tracing::warn!(model = %group.key, ?failure, "a better cut could not be loaded"));
    }
}

fn divide(lanes: &[Lane], group: &Group, key: &SegmentKey) -> Result<Divided, PlanFailure> {
    let mut made: Vec<(Target, Arc<Plan>)> = vec![];
    let (mut wholes, mut cus, mut next) = (vec![], vec![], None);
    for model in &group.replicas {
        let device = &lanes[model.lane].device;
        let cutter = device.cutter(model.settings.precision);
        let target = cutter.target();
        let known = made.iter().find(|(other, _)| *other == target).map(|(_, plan)| plan.clone());
        let plan = match known {
            Some(plan) => plan,
            None => {
                let whole = model.make(cutter.as_ref(), key)?;
                next = next.or(whole.next);
                made.push((target, (*whole.plan).clone()));
                (*whole.plan).clone()
            }
        };
        wholes.push((plan, cutter));
        cus.push(device.capabilities().cus);
    }
    Divided::guess(wholes, next, cus).map_err(PlanFailure::Fault)
}

/// Loads all parts but the first, which is made.
fn load_behind(
    lanes: &[Lane],
    group: &Group,
    key: &SegmentKey,
    divided: &Arc<Divided>,
) -> Result<Made, PlanFailure> {
    let mut behind: Option<Arc<PlanEntry>> = None;
    let parts = divided.parts().map_err(PlanFailure::Fault)?;
    for (part, PartPlan { plan, transfer, next }) in parts.into_iter().enumerate().rev() {
        let divided = (part == 0).then(|| divided.clone());
        let onward = behind.take().zip(transfer);
        let onward = onward.map(|(entry, transfer)| Onward { transfer, entry, part: part + 1, divided });
        let made = Made { plan: Foreign::from(plan), next, onward };
        if part == 0 {
            return Ok(made);
        }
        behind = Some(load(lanes, &group.replicas[part], key, made)?);
    }
    Err(PlanFailure::Fault("a plan without stages".into()))
}

fn load(lanes: &[Lane], model: &Model, key: &SegmentKey, made: Made) -> Result<Arc<PlanEntry>, PlanFailure> {
    let lane = &lanes[model.lane];
    model.put(&lane.device, key, made, |id, index| lane.core().reset_plan(id, &model.key, index))
}
