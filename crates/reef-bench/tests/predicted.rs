//! The simulated CPU beside the real one: the ratios of a run of the whole benchmark that was measured and is
//! kept in docs/results, each within 15 %.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reef_bench::Progress;
use reef_bench::disb::drive;
use reef_bench::disb::options::{DisbOptions, Via};
use reef_bench::disb::rig::RigSystem;
use reef_load::Workload;
use reef_load::workload::BUILT_IN;
use reef_report::disb::results::{ConditionResult, DisbReport};
use reef_sim::Rig;

/// Ratios to the reference by workload, scheme and what they are of. What is saturated has none of latencies:
/// they depend on how long it is played.
fn ratios(report: &DisbReport) -> BTreeMap<(String, String, &'static str), f64> {
    let mut all = BTreeMap::new();
    for workload in &report.workloads {
        for condition in workload.systems[0].conditions.iter().filter(|condition| !condition.again) {
            let ConditionResult { name, real_time, best_effort, overall, .. } = condition;
            let mut say = |what, value: Option<f64>| {
                all.extend(value.map(|value| ((workload.name.clone(), name.clone(), what), value)));
            };
            let latency = real_time.to_reference.filter(|_| !condition.saturated);
            say("mean", latency.map(|ratios| ratios.mean.value));
            say("p95", latency.map(|ratios| ratios.p95.value));
            say("best-effort", best_effort.as_ref().and_then(|all| all.of_bound).map(|share| share.value));
            say("overall", overall.to_reference.map(|ratio| ratio.value));
        }
    }
    all
}

fn simulated(device: &str, out: &Path) -> DisbReport {
    let workloads = BUILT_IN.iter().map(|name| Workload::built_in(name).unwrap()).collect();
    let options = DisbOptions {
        via: Via::Simulated,
        duration: Some(Duration::from_secs(10)),
        repeats: Some(4),
        ..DisbOptions::of(workloads, out.to_path_buf())
    };
    let rig = Rig::built_in(device).unwrap();
    let system = RigSystem::new(device, rig, &options.schemes);
    drive::simulate(&options, system, device, &Progress::hidden()).unwrap()
}

#[test]
fn the_simulated_cpu_predicts_what_was_measured() {
    let out = tempfile::tempdir().unwrap();
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/results");
    let measured = DisbReport::read(&kept.join("2026-11-21/disb-full/results.json")).unwrap();
    let (measured, predicted) = (ratios(&measured), ratios(&simulated("cpu2", out.path())));
    let both = measured.iter().filter_map(|(name, value)| Some((name, *value, *predicted.get(name)?)));
    assert!(measured.len() > 80 && both.clone().count() + 4 >= measured.len(), "{} ratios", measured.len());
    let mut different = Vec::new();
    for (name, measured, predicted) in both {
        if (predicted / measured - 1.0).abs() > 0.15 {
            different.push(format!("{name:?}: {predicted:.3}, measured {measured:.3}"));
        }
    }
    // What was measured has 0.85 and 0.89 for schemes that cannot be faster than the reference: on the 95th
    // percentile of A, 50 requests a run, its reference was disturbed.
    different.retain(|line| !line.starts_with("(\"A\"") || !line.contains("p95"));
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let play = || {
        let out = tempfile::tempdir().unwrap();
        let options = DisbOptions {
            via: Via::Simulated,
            duration: Some(Duration::from_secs(1)),
            repeats: Some(2),
            samples: true,
            ..DisbOptions::of(vec![Workload::built_in("E").unwrap()], out.path().to_path_buf())
        };
        let system = RigSystem::new("mi50", Rig::built_in("mi50").unwrap(), &options.schemes);
        drive::simulate(&options, system, "mi50", &Progress::hidden()).unwrap();
        ["results.json", "report.html", "samples.csv"]
            .map(|name| std::fs::read(out.path().join(name)).unwrap())
    };
    let (first, second) = (play(), play());
    assert!(first == second && first.iter().all(|file| file.len() > 1_000));
}
