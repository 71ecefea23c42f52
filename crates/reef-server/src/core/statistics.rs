//! What the statistics extension says of a model beyond its sums ([`Totals`]),
//! whichever protocol carries it.

use std::time::{SystemTime, UNIX_EPOCH};

use reef_base::Domain;
use reef_engine::{BatchStats, ModelStats, Nanos};

use crate::core::answer::{self, Totals};
use crate::core::state::State;

/// When the last inference ended, in milliseconds since 1970; 0 if there was none.
pub(crate) fn last_inference_ms(state: &State, totals: &Totals) -> u64 {
    if totals.last_success == Nanos::ZERO {
        return 0;
    }
    let ago = state.engine.now().since(totals.last_success);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(ago.into()).as_millis()).unwrap_or(u64::MAX)
}

/// Executions with batches of one size.
pub(crate) struct Batch {
    pub(crate) size: u64,
    pub(crate) count: u64,
    /// Sums over them.
    pub(crate) compute_input: Nanos,
    pub(crate) compute: Nanos,
    pub(crate) compute_output: Nanos,
}

/// By rising size: rows, where the model counts them; else what a client sends as one request is one, however
/// wide its tensors are.
pub(crate) fn batches(model: &ModelStats, totals: &Totals) -> Vec<Batch> {
    let rows = answer::batches(model);
    if !rows.is_empty() {
        let batch = |(rows, batches): (usize, BatchStats)| Batch {
            size: rows as u64,
            count: batches.count,
            compute_input: batches.compute_input,
            compute: batches.compute,
            compute_output: batches.compute_output,
        };
        return rows.into_iter().map(batch).collect();
    }
    let one = Batch {
        size: 1,
        count: totals.success,
        compute_input: totals.compute_input,
        compute: totals.compute,
        compute_output: totals.compute_output,
    };
    if one.count > 0 { vec![one] } else { Vec::new() }
}

/// What a model holds in the memory of one device.
pub(crate) struct Memory {
    /// In Triton's words.
    pub(crate) kind: &'static str,
    /// Number of the device.
    pub(crate) id: usize,
    pub(crate) bytes: u64,
}

/// The packed weights of a model, device by device. Its plans share what they can, so this is what the
/// largest of them has.
pub(crate) fn memory(state: &State, model: &ModelStats) -> Vec<Memory> {
    let Some(info) = state.engine.model(&model.key.name, Some(&model.key.version)) else { return Vec::new() };
    let mut held = Vec::new();
    for (id, device) in state.engine.devices().into_iter().enumerate() {
        let plans = info.plans.iter().filter(|plan| plan.device == device.name);
        let Some(bytes) = plans.map(|plan| plan.weight_bytes as u64).max() else { continue };
        let memory = state.engine.device_named(&device.name).map(|device| device.memory());
        let domains = memory.iter().flatten().map(|memory| memory.domain);
        held.push(Memory { kind: kind(domains), id, bytes });
    }
    held
}

/// Weights are in the device's own memory, if it has one.
fn kind(mut domains: impl Iterator<Item = Domain>) -> &'static str {
    if domains.any(|domain| domain == Domain::Device) { "GPU" } else { "CPU" }
}
