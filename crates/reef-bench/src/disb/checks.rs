//! What a run has to reach. The noise that is added to a bound is that of A against A, the reference played
//! twice: half the width of the 95 % interval of that ratio, which would be 1 without noise.
//!
//! Where the noise is not known, or a condition is saturated or lost requests, nothing is shown, and nothing
//! is met. So it is where the noise is more than [`NOISE_MAX`], unless the value's own interval lies on the
//! right side of the bound as it is.
//!
//! Nothing is added to bounds of 99th percentiles and of shares. There the width of the value's own interval
//! takes the place of the noise.

use reef_base::ClassName;
use reef_report::disb::results::{
    Check, ConditionResult, DisbReport, LatencyRatios, SystemResult, WorkloadResult,
};
use reef_report::typical::Estimate;

/// Mean real-time latency under `reset`, to `rt-only`.
const MEAN: f64 = 1.02;
/// The same where several real-time clients compete, with each other under `rt-only` too.
const MEAN_CONTENDED: f64 = 1.05;
const SLOWDOWN_P95: f64 = 1.05;
const P99_SMALL: f64 = 1.10;
/// Requests of a client from which its 99th percentile means something.
const P99_SAMPLES_MIN: u64 = 2_000;
const BEST_EFFORT: f64 = 0.93;

/// With more noise than this, a bound plus the noise proves nothing.
const NOISE_MAX: f64 = 0.10;

/// The scheme that has to reach something.
const OURS: &str = "reset";
/// The condition of a peer that ours is compared with.
const PEER: &str = "SCHED_IDLE";

/// The checks of a report that was read back, as this version makes them. Workloads that had none get none.
pub fn of_report(report: &DisbReport) -> Vec<Check> {
    let judged = |workload: &&WorkloadResult| report.checks.iter().any(|c| c.workload == workload.name);
    let workloads = report.workloads.iter().filter(judged);
    workloads.flat_map(|workload| of_workload(workload, true, report.setup.small)).collect()
}

/// The checks of one workload. Workloads that are not built in have none.
pub fn of_workload(workload: &WorkloadResult, built_in: bool, small: bool) -> Vec<Check> {
    let Some((ours, peers)) = workload.systems.split_first() else { return Vec::new() };
    let Some(reset) = condition(ours, OURS).filter(|_| built_in) else { return Vec::new() };
    let judge = Judge::new(workload, ours, reset);
    let mut checks = Vec::new();
    let contended = matches!(workload.name.as_str(), "D" | "E");
    let bound = if contended { MEAN_CONTENDED } else { MEAN };
    checks.extend(judge.ratio("mean real-time latency to rt-only", mean, bound));
    checks.extend(judge.ratio("95th percentile of the slowdown to rt-only", slowdown_p95, SLOWDOWN_P95));
    for (name, ratios, count) in clients(workload, reset).filter(|_| small) {
        if count >= P99_SAMPLES_MIN {
            let what = format!("99th percentile of {name} to rt-only");
            checks.push(judge.plain(&what, ratios.p99, P99_SMALL, Side::AtMost));
        }
    }
    let share = share(reset);
    let what = "best-effort share of its bound";
    checks.extend(share.map(|share| judge.plain(what, share, BEST_EFFORT, Side::AtLeast)));
    for peer in peers {
        checks.extend(beside(&judge, peer));
    }
    checks
}

/// Beside the peer's best condition: real-time no worse, best-effort no less.
fn beside(judge: &Judge<'_>, peer: &SystemResult) -> Vec<Check> {
    let Some(other) = condition(peer, PEER) else { return Vec::new() };
    let lost = [peer.conditions.first(), Some(other)].into_iter().flatten().find_map(lost);
    let named = |what: &str| format!("{what}, beside {} {PEER}'s", peer.name);
    let mut checks = Vec::new();
    if let Some(its) = mean(other) {
        checks.extend(judge.ratio(&named("mean real-time latency to rt-only"), mean, its.value));
    }
    if let Some((own, its)) = share(judge.reset).zip(share(other)) {
        let what = named("best-effort share of its bound");
        checks.push(judge.plain(&what, own, its.value, Side::AtLeast));
    }
    for check in &mut checks {
        if let Some(lost) = &lost {
            check.met = false;
            check.not_shown = Some(format!("{}: {lost}", peer.name));
        }
    }
    checks
}

fn mean(condition: &ConditionResult) -> Option<Estimate> {
    condition.real_time.to_reference.map(|ratios| ratios.mean)
}

fn slowdown_p95(condition: &ConditionResult) -> Option<Estimate> {
    condition.real_time.slowdown_to_reference.map(|ratios| ratios.p95)
}

fn share(condition: &ConditionResult) -> Option<Estimate> {
    condition.best_effort.as_ref()?.of_bound
}

/// Why nothing that a condition gave can be compared.
fn lost(condition: &ConditionResult) -> Option<String> {
    if condition.saturated {
        return Some(format!("{} is saturated", condition.name));
    }
    let failed: u64 = condition.clients.iter().map(|client| client.failed).sum();
    (failed > 0).then(|| format!("{failed} requests failed under {}", condition.name))
}

/// On which side of its bound a value has to be.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    AtMost,
    AtLeast,
}

/// Makes checks of one workload.
struct Judge<'a> {
    workload: &'a str,
    reset: &'a ConditionResult,
    /// The reference, played again.
    again: Option<&'a ConditionResult>,
    lost: Option<String>,
}

impl<'a> Judge<'a> {
    fn new(workload: &'a WorkloadResult, ours: &'a SystemResult, reset: &'a ConditionResult) -> Judge<'a> {
        let again =
            ours.conditions.iter().find(|condition| condition.again && condition.best_effort.is_none());
        let lost = [ours.conditions.first(), Some(reset)].into_iter().flatten().find_map(lost);
        Judge { workload: &workload.name, reset, again, lost }
    }

    /// A ratio that may be `bound` at most, and the noise that A against A has in the same quantity.
    fn ratio(&self, what: &str, of: fn(&ConditionResult) -> Option<Estimate>, bound: f64) -> Option<Check> {
        let noise = self.again.and_then(of).and_then(|estimate| estimate.half_width);
        let own = of(self.reset)?;
        Some(self.check(what, own, bound, Side::AtMost, noise, noise))
    }

    /// A bound to which no noise is added; the value's own says whether it is shown.
    fn plain(&self, what: &str, own: Estimate, bound: f64, side: Side) -> Check {
        self.check(what, own, bound, side, Some(0.0), own.half_width)
    }

    /// `slack`: what is added to the bound; `noise`: what must not be too much. `None` where it is not known.
    fn check(
        &self,
        what: &str,
        own: Estimate,
        bound: f64,
        side: Side,
        slack: Option<f64>,
        noise: Option<f64>,
    ) -> Check {
        let Estimate { value, half_width } = own;
        let within = |slack: f64| match side {
            Side::AtMost => value <= bound + slack,
            Side::AtLeast => value >= bound - slack,
        };
        let certain = half_width.is_some_and(|half_width| within(-half_width));
        let not_shown = match (&self.lost, noise) {
            (Some(lost), _) => Some(lost.clone()),
            (None, None) => Some("one repetition does not tell the noise".to_string()),
            (None, Some(noise)) if noise > NOISE_MAX && !certain => Some("too much noise".to_string()),
            (None, Some(_)) => None,
        };
        let slack = slack.unwrap_or(0.0);
        Check {
            workload: self.workload.to_string(),
            what: what.to_string(),
            value,
            bound,
            at_least: side == Side::AtLeast,
            noise: slack,
            met: within(slack) && not_shown.is_none(),
            not_shown,
        }
    }
}

fn condition<'a>(system: &'a SystemResult, name: &str) -> Option<&'a ConditionResult> {
    system.conditions.iter().find(|condition| condition.name == name && !condition.again)
}

/// Real-time clients with their ratios and number of requests.
fn clients<'a>(
    workload: &'a WorkloadResult,
    condition: &'a ConditionResult,
) -> impl Iterator<Item = (&'a str, LatencyRatios, u64)> + 'a {
    let all = workload.clients.iter().zip(&condition.clients);
    all.filter(|(facts, _)| facts.class == ClassName::RealTime)
        .filter_map(|(_, client)| Some((&client.name[..], client.to_reference?, client.latency_us?.count)))
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
        of_workload(workload, true, small).iter().map(|check| check.met).collect()
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
        // Half the width of the value's own interval is 0.01: 1.015 may be above 1.02, but not above 1.05.
        let noisy = verdicts(&report("A", 1.015, 0.5), false);
        assert_eq!(noisy, [false, true, true, true, true]);
        let noisy = verdicts(&report("A", 1.045, 0.5), false);
        assert_eq!(noisy, [false, false, true, false, true]);
        assert!(of_workload(&report("mine", 9.0, 0.0), false, false).is_empty());
    }

    #[test]
    fn a_report_that_was_read_back_is_judged_anew() {
        let (known, mine) = (report("A", 1.0, 0.0), report("mine", 9.0, 0.0));
        let expected = of_workload(&known, true, false);
        let mut checks = expected.clone();
        checks.iter_mut().for_each(|check| check.met = false);
        let whole = serde_json::json!({"format": "", "machine": crate::machine::here("test"),
            "setup": {"small": false, "via": "", "seed": 0, "repeats": 8, "warm_up_s": 1.0, "rate": [],
                "cus": 2},
            "models": [], "workloads": [known, mine], "others_cpu": null, "checks": checks,
            "finished": true});
        assert_eq!(of_report(&serde_json::from_value(whole).unwrap()), expected);
    }

    #[test]
    fn what_is_saturated_or_failed_shows_nothing() {
        let spoilt = |spoil: &dyn Fn(&mut WorkloadResult)| {
            let mut workload = report("A", 1.0, 0.0);
            spoil(&mut workload);
            verdicts(&workload, false)
        };
        assert_eq!(spoilt(&|workload| workload.systems[0].conditions[0].saturated = true), [false; 5]);
        assert_eq!(spoilt(&|workload| workload.systems[0].conditions[1].clients[0].failed = 1), [false; 5]);
        let of_peer = spoilt(&|workload| workload.systems[1].conditions[0].saturated = true);
        assert_eq!(of_peer, [true, true, true, false, false]);
    }
}
