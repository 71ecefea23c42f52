//! A snapshot of the engine's statistics: what the cores and the queue of those without a plan count, put
//! together.

use std::sync::Arc;

use reef_base::Nanos;

use crate::core::Times;
use crate::distribution::ClassDistributions;
use crate::lane::Lane;
use crate::pool::{Group, Model};
use crate::shared::Shared;
use crate::stats::{ClassStats, DeviceStats, EngineStats, ModelDistributions, ModelOnDevice, ModelStats};

/// All statistics, models by name, newest version first. Each device is asked once, so that what is said of
/// it is of one moment.
pub(crate) fn take(shared: &Shared) -> EngineStats {
    let groups = shared.registry.live();
    let mut counted: Vec<Vec<ModelOnDevice>> = groups.iter().map(|_| Vec::new()).collect();
    let (mut at, mut scheme) = (Nanos::ZERO, None);
    for (index, lane) in shared.lanes.iter().enumerate() {
        let core = lane.core();
        for (group, counted) in groups.iter().zip(&mut counted) {
            let known = match group.on(index) {
                Some(model) => core.stats(model.id(), &model.key),
                None => core.departed_stats(&group.key),
            };
            counted.extend(known.map(|[real_time, best_effort]| {
                let device = lane.name.to_string();
                ModelOnDevice { device, real_time, best_effort }
            }));
        }
        (at, scheme) = (shared.clock.now(), scheme.or(Some(core.scheme())));
    }
    let counted = groups.iter().zip(counted).filter(|(_, devices)| !devices.is_empty());
    let models = counted.map(|(group, devices)| model_stats(shared, group, devices)).collect();
    let devices: Vec<DeviceStats> = shared.lanes.iter().map(device_stats).collect();
    let device = devices.iter().fold(Default::default(), |sum, device| sum + device.counters);
    EngineStats { at, scheme: scheme.unwrap_or_default(), models, device, devices }
}

/// How the times of every model are spread, in the order of [`take`]. Locks are held for no more than to find
/// where they are counted.
pub(crate) fn distributions(shared: &Shared) -> Vec<ModelDistributions> {
    let groups = shared.registry.live();
    let mut found: Vec<Vec<[Arc<Times>; 2]>> = groups.iter().map(|_| Vec::new()).collect();
    for (index, lane) in shared.lanes.iter().enumerate() {
        let core = lane.core();
        for (group, found) in groups.iter().zip(&mut found) {
            found.extend(match group.on(index) {
                Some(model) => core.times(model.id(), &model.key),
                None => core.departed_times(&group.key),
            });
        }
    }
    let known = groups.iter().zip(found).filter(|(_, found)| !found.is_empty());
    known.map(|(group, found)| model_distributions(group, &found)).collect()
}

fn model_distributions(group: &Group, found: &[[Arc<Times>; 2]]) -> ModelDistributions {
    let of = |class: usize| {
        let mut sum = ClassDistributions::default();
        for times in found.iter().map(|classes| &classes[class]) {
            sum.total.merge(&times.total.read());
            sum.preempt.merge(&times.preempt.read());
        }
        sum
    };
    ModelDistributions { key: (*group.key).clone(), real_time: of(0), best_effort: of(1) }
}

fn model_stats(shared: &Shared, group: &Group, mut devices: Vec<ModelOnDevice>) -> ModelStats {
    for model in &group.replicas {
        let name = &*shared.names[model.lane];
        if let Some(device) = devices.iter_mut().find(|device| device.device == name) {
            let [urgent, other] = shared.cold.waiting(model);
            device.real_time.queued += urgent;
            device.best_effort.queued += other;
        }
    }
    let (mut real_time, mut best_effort) = (ClassStats::default(), ClassStats::default());
    for device in &devices {
        real_time.merge(&device.real_time);
        best_effort.merge(&device.best_effort);
    }
    // What one replica made, the others may only have loaded.
    let compiled = |model: &Arc<Model>| model.plans.compiled();
    let plans_compiled = group.replicas.iter().map(compiled).max().unwrap_or(0);
    ModelStats { key: (*group.key).clone(), real_time, best_effort, plans_compiled, devices }
}

fn device_stats(lane: &Lane) -> DeviceStats {
    let capabilities = lane.device.capabilities();
    let (description, cus) = (capabilities.name.clone(), capabilities.cus);
    let (name, counters, fault) = (lane.name.to_string(), lane.device.counters(), lane.device.fault());
    DeviceStats { name, description, cus, counters, memory: lane.device.memory(), fault }
}
