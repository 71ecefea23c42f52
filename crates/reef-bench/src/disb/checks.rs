//! What a run has to reach. The noise that is added to a bound is that of A against A, the reference played
//! twice: half the width of the 95 % interval of that ratio, which would be 1 without noise.

use super::report::{Check, ConditionResult, Estimate, LatencyRatios, SystemResult, WorkloadResult};
use super::workload::{BUILT_IN, ClassName};

/// Mean real-time latency under `reset`, to `rt-only`.
const MEAN: f64 = 1.02;
/// The same where several real-time clients compete, with each other under `rt-only` too.
const MEAN_CONTENDED: f64 = 1.05;
const SLOWDOWN_P95: f64 = 1.05;
const P99_SMALL: f64 = 1.10;
/// Requests of a client from which its 99th percentile means something.
const P99_SAMPLES_MIN: u64 = 2_000;
const BEST_EFFORT: f64 = 0.93;

/// With more noise than this, a bound plus the noise would prove nothing.
pub const NOISE_MAX: f64 = 0.10;

/// The scheme that has to reach something.
const OURS: &str = "reset";
/// The condition of a peer that ours is compared with.
const PEER: &str = "SCHED_IDLE";

/// The checks of one workload. Workloads that are not built in have none.
pub fn of_workload(workload: &WorkloadResult, small: bool) -> Vec<Check> {
    let Some((ours, peers)) = workload.systems.split_first() else { return Vec::new() };
    let Some(reset) = condition(ours, OURS).filter(|_| BUILT_IN.contains(&workload.name.as_str())) else {
        return Vec::new();
    };
    let again = ours.conditions.iter().find(|condition| condition.again && condition.best_effort.is_none());
    let mut checks = Vec::new();
    let mut push = |what: String, value: f64, bound: f64, at_least: bool, noise: f64| {
        let reached = if at_least { value >= bound - noise } else { value <= bound + noise };
        let met = reached && noise <= NOISE_MAX;
        checks.push(Check { workload: workload.name.clone(), what, value, bound, at_least, noise, met });
    };
    let noise = |of: &dyn Fn(&ConditionResult) -> Option<Estimate>| {
        again.and_then(of).and_then(|estimate| estimate.half_width).unwrap_or(0.0)
    };
    let real_time = |condition: &ConditionResult| condition.real_time.to_reference;
    let mean = |condition: &ConditionResult| real_time(condition).map(|ratios| ratios.mean);
    if let Some(value) = mean(reset) {
        let contended = matches!(workload.name.as_str(), "D" | "E");
        let bound = if contended { MEAN_CONTENDED } else { MEAN };
        push("mean real-time latency to rt-only".to_string(), value.value, bound, false, noise(&mean));
    }
    let slowdown_p95 =
        |condition: &ConditionResult| condition.real_time.slowdown_to_reference.map(|ratios| ratios.p95);
    if let Some(value) = slowdown_p95(reset) {
        let what = "95th percentile of the slowdown to rt-only".to_string();
        push(what, value.value, SLOWDOWN_P95, false, noise(&slowdown_p95));
    }
    for (index, ratios, count) in clients(workload, reset).filter(|_| small) {
        if count >= P99_SAMPLES_MIN {
            let what = format!("99th percentile of {} to rt-only", reset.clients[index].name);
            push(what, ratios.p99.value, P99_SMALL, false, 0.0);
        }
    }
    let share = reset.best_effort.as_ref().and_then(|best_effort| best_effort.of_bound);
    if let Some(share) = share {
        push("best-effort share of its bound".to_string(), share.value, BEST_EFFORT, true, 0.0);
    }
    for peer in peers {
        let Some(other) = condition(peer, PEER) else { continue };
        if let Some((own, its)) = mean(reset).zip(mean(other)) {
            let what = format!("mean real-time latency to rt-only, beside {} {PEER}'s", peer.name);
            push(what, own.value, its.value, false, noise(&mean));
        }
        let its = other.best_effort.as_ref().and_then(|best_effort| best_effort.of_bound);
        if let Some((own, its)) = share.zip(its) {
            let what = format!("best-effort share of its bound, beside {} {PEER}'s", peer.name);
            push(what, own.value, its.value, true, 0.0);
        }
    }
    checks
}

fn condition<'a>(system: &'a SystemResult, name: &str) -> Option<&'a ConditionResult> {
    system.conditions.iter().find(|condition| condition.name == name && !condition.again)
}

/// Real-time clients with their ratios and number of requests.
fn clients<'a>(
    workload: &'a WorkloadResult,
    condition: &'a ConditionResult,
) -> impl Iterator<Item = (usize, LatencyRatios, u64)> + 'a {
    let all = workload.clients.iter().zip(&condition.clients).enumerate();
    all.filter(|(_, (facts, _))| facts.class == ClassName::RealTime)
        .filter_map(|(index, (_, client))| Some((index, client.to_reference?, client.latency_us?.count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, reset: f64, again: f64) -> WorkloadResult {
        let estimate =
            |value: f64, half_width: f64| serde_json::json!({"value": value, "half_width": half_width});
        let ratios = |value: f64, half: f64| {
            let one = estimate(value, half);
            serde_json::json!({"mean": one, "p50": one, "p95": one, "p99": one})
        };
        let summary = serde_json::json!({"count": 2500, "min": 1.0, "p50": 1.0, "p90": 1.0, "p95": 1.0,
            "p99": 1.0, "max": 1.0, "mean": 1.0});
        let condition = |name: &str, again: bool, ratio: serde_json::Value, share: Option<f64>| {
            let best_effort = share.map(|share| {
                serde_json::json!({"per_s": estimate(1.0, 0.0), "device_share": estimate(share, 0.0),
                    "bound": 1.0, "of_bound": estimate(share, 0.01)})
            });
            serde_json::json!({"name": name, "title": "", "again": again,
                "clients": [{"name": "c", "latency_us": summary, "to_reference": ratio,
                    "per_s": estimate(1.0, 0.0), "misses": 0, "failed": 0, "unsent": 0, "dropped": 0,
                    "saturated": false}],
                "real_time": {"to_reference": ratio, "slowdown_to_reference": ratio,
                    "per_s": estimate(1.0, 0.0), "busy": estimate(0.5, 0.0), "misses": 0},
                "best_effort": best_effort, "overall": {"per_s": estimate(1.0, 0.0)},
                "saturated": false})
        };
        let none = serde_json::Value::Null;
        let ours = serde_json::json!({"name": "reef", "conditions": [
            condition("rt-only", false, none.clone(), None),
            condition("reset", false, ratios(reset, 0.01), Some(0.95)),
            condition("rt-only", true, ratios(1.0, again), None),
            condition("reset", true, ratios(5.0, again), Some(0.5)),
        ]});
        let peer = serde_json::json!({"name": "peer", "conditions": [
            condition("alone", false, none, None),
            condition("SCHED_IDLE", false, ratios(1.04, 0.01), Some(0.9)),
        ]});
        let client = serde_json::json!({"name": "c", "model": "m", "class": "real-time", "level": 0,
            "arrivals": ""});
        let whole = serde_json::json!({"name": name, "title": "", "seconds": 1.0, "clients": [client],
            "systems": [ours, peer]});
        serde_json::from_value(whole).unwrap()
    }

    fn verdicts(workload: &WorkloadResult, small: bool) -> Vec<bool> {
        of_workload(workload, small).iter().map(|check| check.met).collect()
    }

    #[test]
    fn bounds_have_the_noise_of_a_against_a_added() {
        // Mean, slowdown, best-effort, and the two beside the peer, of which 1.04 is the latency.
        assert_eq!(verdicts(&report("A", 1.01, 0.0), false), [true; 5]);
        assert_eq!(verdicts(&report("A", 1.03, 0.0), false), [false, true, true, true, true]);
        assert_eq!(verdicts(&report("A", 1.03, 0.02), false), [true; 5]);
        assert_eq!(verdicts(&report("D", 1.045, 0.0), false), [true, true, true, false, true]);
        assert_eq!(verdicts(&report("A", 1.2, 0.0), true), [false, false, false, true, false, true]);
    }

    #[test]
    fn too_much_noise_proves_nothing_and_own_workloads_have_no_targets() {
        let noisy = verdicts(&report("A", 1.0, 0.5), false);
        assert_eq!(noisy, [false, false, true, false, true]);
        assert!(of_workload(&report("mine", 9.0, 0.0), false).is_empty());
    }
}
