//! Scenarios: what is refused, by file and key, and what is read.

use std::path::Path;

use reef_base::{Class, Nanos};
use reef_sim::fleet::simulate;
use reef_sim::scenario::{Scenario, constants};

const GOOD: &str = r#"
name = "two cameras"
length_s = 10.0
[[device]]
kind = "mi50"
count = 2
memory_mib = 1000.0
[model.detector]
time_ms = 4.0
memory_mib = 400.0
[model.tracker]
profile = "tracker.json"
[[client]]
model = "detector"
class = "real-time"
arrivals = { kind = "periodic", rate_hz = 30.0 }
deadline_ms = 10.0
[[client]]
model = "tracker"
class = "best-effort"
arrivals = { kind = "closed-loop" }
"#;

fn parse(text: &str) -> Result<Scenario, String> {
    let file = |path: &Path| match path.to_str() {
        Some("tracker.json") => Ok(
            r#"{"model": "t", "latency_ns": {"min": 900000, "p50": 1000000, "p90": 1100000, "p99": 1200000,
                "max": 2000000, "count": 1000}, "memory_bytes": 104857600, "kernels": []}"#
                .to_string(),
        ),
        Some("bad.json") => Ok(r#"{"latency_ns": {"min": 9, "p50": 3, "max": 10}}"#.to_string()),
        Some("still.json") => Ok(r#"{"latency_ns": {"min": 0, "p50": 0, "max": 0}}"#.to_string()),
        Some("huge.json") => {
            let memory = "\"memory_bytes\": 18446744073709551615";
            Ok(format!("{{\"latency_ns\": {{\"min\": 9, \"p50\": 9, \"max\": 1000000}}, {memory}}}"))
        }
        Some("empty.json") => Ok("{}".to_string()),
        _ => Err(format!("{}: no such file", path.display())),
    };
    Scenario::parse(text, "mine.toml", &file).map_err(|error| error.to_string())
}

#[test]
fn what_cannot_be_played_is_refused_by_file_and_key() {
    let wrong: &[(&str, &str, &[&str])] = &[
        ("length_s = 10.0", "length_s = 0.0", &["length_s is 0"]),
        ("length_s = 10.0", "length_s = -1.0", &["length_s is -1"]),
        ("length_s = 10.0", "length_s = nan", &["length_s is NaN"]),
        ("length_s = 10.0", "length_s = 10.0\nspeed = 3", &["unknown field `speed`"]),
        ("length_s = 10.0", "length_s = 10.0\nengines = 0", &["engines is 0"]),
        ("length_s = 10.0", "length_s = 10.0\nload = \"A\"", &["both 'load' and clients"]),
        ("kind = \"mi50\"", "kind = \"mi51\"", &["device 1 (mi51)", "ideal, mi50", "preempt_us"]),
        ("count = 2", "count = 17", &["device 1", "count is 17"]),
        ("count = 2", "count = 0", &["count is 0"]),
        ("count = 2", "resume_us = -1.0", &["resume_us is -1"]),
        ("count = 2", "padding = 1.0", &["padding is 1"]),
        ("count = 2", "colour = \"red\"", &["unknown field `colour`"]),
        ("count = 2", "models = [\"nobody\"]", &["device 1", "'nobody'", "detector, tracker"]),
        ("count = 2", "models = [\"tracker\"]", &["client 'detector'", "on no device"]),
        ("memory_mib = 1000.0", "memory_mib = 499.0", &["device 1", "need 500 MiB", "memory_mib is 499"]),
        ("time_ms = 4.0", "time_ms = -4.0", &["model.detector", "time_ms is -4"]),
        ("time_ms = 4.0", "time_ms = 4.0\nweight = 0", &["model.detector", "weight is 0"]),
        ("time_ms = 4.0", "times_ms = { min = 2, p50 = 1, max = 3 }", &["model.detector", "times_ms"]),
        ("time_ms = 4.0", "", &["model.detector", "one of profile, time_ms and times_ms"]),
        ("\"tracker.json\"", "\"none.json\"", &["model.tracker", "profile", "none.json: no such file"]),
        ("\"tracker.json\"", "\"bad.json\"", &["model.tracker", "bad.json", "latency_ns"]),
        ("time_ms = 4.0", "time_ms = 1e-7", &["model.detector", "time_ms is 0.0000001"]),
        ("time_ms = 4.0", "time_ms = inf", &["model.detector", "time_ms is inf"]),
        ("\"tracker.json\"", "\"huge.json\"", &["model.tracker", "huge.json", "memory_bytes"]),
        ("\"tracker.json\"", "\"still.json\"", &["model.tracker", "still.json", "latency_ns.max is 0"]),
        ("\"tracker.json\"", "\"empty.json\"", &["empty.json", "latency_ns"]),
        ("model = \"tracker\"", "model = \"trackr\"", &["client 'trackr'", "'trackr'", "detector, tracker"]),
        ("rate_hz = 30.0", "rate_hz = -30.0", &["client 'detector'", "rate_hz is -30"]),
        ("deadline_ms = 10.0", "deadline_ms = -1.0", &["client 'detector'", "deadline_ms is -1"]),
        ("deadline_ms = 10.0", "deadlin_ms = 1.0", &["deadlin_ms"]),
    ];
    assert!(parse(GOOD).is_ok());
    for (from, to, expected) in wrong {
        assert!(GOOD.contains(from));
        let error = parse(&GOOD.replacen(from, to, 1)).expect_err(to);
        assert!(error.contains("scenario mine.toml"), "{error}");
        for text in *expected {
            assert!(error.contains(text), "{to}: '{text}' is not in: {error}");
        }
    }
    let other = GOOD.replace("[model.tracker]", "[model.idle]\ntime_ms = 1.0\n[model.tracker]");
    assert!(parse(&other).unwrap_err().contains("model.idle: no client asks it"));
    let many: String = (0..257).map(|at| format!("[model.m{at}]\ntime_ms = 1.0\n")).collect();
    assert!(
        parse(&GOOD.replace("[model.tracker]", &format!("{many}[model.tracker]")))
            .unwrap_err()
            .contains("259 models")
    );
    let load = GOOD.split("[[client]]").next().unwrap().replace("length_s", "load = \"none.toml\"\nlength_s");
    assert!(parse(&load).unwrap_err().contains("load: none.toml: no such file"));
    assert!(constants("mi51").unwrap_err().to_string().contains("ideal, mi50"));
}

#[test]
fn a_scenario_is_what_it_says_and_can_be_played() {
    let scenario = parse(GOOD).unwrap();
    assert_eq!((scenario.name.as_str(), scenario.length), ("two cameras", Nanos::from_millis(10_000)));
    let fleet = &scenario.fleet;
    assert_eq!((fleet.engines, fleet.devices.len(), fleet.devices[1].name.as_str()), (1, 2, "mi50:1"));
    assert_eq!(fleet.devices[0].constants, constants("mi50").unwrap());
    assert_eq!(fleet.models[1].memory_bytes, 100 << 20);
    assert_eq!(fleet.models[1].service.per_mille(990), Nanos(1_200_000));
    assert_eq!(fleet.clients[0].class, Class::real_time(0));
    assert_eq!(
        (fleet.clients[0].deadline, fleet.clients[0].enforced_deadline),
        (Some(Nanos(10_000_000)), None)
    );
    let report = simulate(fleet, scenario.length, 1);
    assert_eq!((report.clients[0].arrived, report.clients[0].missed), (300, 0));
    // Exact: 4 ms and 1 % more, at most a preemption later; two devices leave room beside each other.
    assert!(report.clients[0].latency.max() <= Nanos(4_040_000 + 38_000 + 1));
    assert!(report.clients[1].completed > 8000, "{}", report.clients[1].completed);
}

#[test]
fn the_benchmarks_own_workloads_are_loads() {
    let models: String = ["resnet152", "densenet201", "vgg19", "inceptionv3", "distilbert"]
        .map(|model| format!("[model.{model}]\ntime_ms = 2.0\n"))
        .concat();
    let text = format!(
        "name = \"x\"\nlength_s = 20.0\nengines = 3\nload = \"real\"\n[[device]]\nkind = \"ideal\"\n{models}"
    );
    let scenario = parse(&text).unwrap();
    let report = simulate(&scenario.fleet, scenario.length, 1);
    assert_eq!((scenario.fleet.clients.len(), report.used.len()), (10, 3));
    assert!(report.used.iter().all(|used| used.utilisation(report.length) > 0.999), "closed loops fill it");
}

#[test]
fn the_scenario_of_the_documentation_is_a_thousand_devices() {
    let text = include_str!("../../../docs/scenarios/fleet.toml");
    let mut scenario = parse(text).unwrap();
    assert_eq!((scenario.fleet.engines, scenario.length), (1000, Nanos::from_millis(3_600_000)));
    scenario.fleet.engines = 2;
    let report = simulate(&scenario.fleet, Nanos::from_millis(38_000), 1);
    // All of the trace, wherever an engine joins it.
    let real_time = |report: &reef_sim::fleet::Report| {
        let clients = scenario.fleet.clients.iter().zip(&report.clients);
        clients.filter(|(client, _)| client.class.is_real_time()).map(|(_, came)| came.arrived).sum::<u64>()
    };
    assert_eq!(real_time(&report), 2 * 1660);
}
