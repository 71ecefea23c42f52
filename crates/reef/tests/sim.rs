//! `reef sim run`, `plan`, `disb` and `ideas` end to end: what they refuse, and that they answer.

mod harness;

use harness::{Scratch, misused, refused, succeeds, text};
use serde_json::Value;

const SCENARIO: &str = r#"
name = "parking <b>"
length_s = 20.0
[[device]]
kind = "mi50"
[model.detector]
time_ms = 4.0
[model.tracker]
profile = "tracker.json"
[[client]]
model = "detector"
class = "real-time"
arrivals = { kind = "poisson", rate_hz = 30.0 }
deadline_ms = 30.0
[[client]]
model = "tracker"
class = "best-effort"
arrivals = { kind = "closed-loop" }
"#;

const PROFILE: &str = r#"{"model": "m.onnx", "latency_ns": {"min": 9000000, "p50": 10000000, "p90": 10000000,
    "p99": 10000000, "max": 10000000, "count": 100}, "memory_bytes": 104857600, "kernels": []}"#;

/// Two models, each asked 25 times per second at the same moments.
const LOAD: &str = r#"
name = "frames"
[[client]]
model = "front"
class = "real-time"
arrivals = { kind = "periodic", rate_hz = 25.0 }
[[client]]
model = "back"
class = "real-time"
arrivals = { kind = "periodic", rate_hz = 25.0 }
"#;

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args)).unwrap()
}

#[test]
fn what_cannot_be_simulated_says_why() {
    let dir = Scratch::new("sim-wrong");
    refused(&["sim", "run", "/nonexistent.toml"], &["/nonexistent.toml"]);
    let scenario = dir.file("mine.toml", SCENARIO);
    refused(&["sim", "run", text(&scenario)], &["mine.toml", "model.tracker", "tracker.json"]);
    dir.file("tracker.json", PROFILE);
    refused(&["sim", "run", text(&scenario), "--page", "/proc/nowhere"], &["/proc/nowhere"]);
    let other = dir.file("other.toml", SCENARIO.replace("time_ms", "time_us"));
    refused(&["sim", "run", text(&other)], &["other.toml", "time_us"]);
    misused(&["sim", "run", text(&scenario), "--seed", "few"], "--seed");

    let (load, profiles) = (dir.file("load.toml", LOAD), dir.path("profiles"));
    let with = |more: &[&str], expected: &[&str]| {
        let usual = ["sim", "plan", "--profiles", text(&profiles), "--load", text(&load)];
        refused(&[&usual[..], more].concat(), expected);
    };
    with(&["--target", "p99<=20"], &["front", "front.json"]);
    dir.file("profiles/front.json", PROFILE);
    dir.file("profiles/back.json", PROFILE.replace("\"min\": 9000000", "\"min\": -9"));
    with(&["--target", "p99<=20"], &["back.json", "-9"]);
    dir.file("profiles/back.json", PROFILE.replace("\"memory_bytes\"", "\"memory\""));
    with(&["--target", "p99<=20", "--memory", "1000"], &["back.json", "memory_bytes"]);
    with(&["--target", "p99<20"], &["target", "p99<20"]);
    with(&["--target", "p99<=20", "--devices", "4..2"], &["devices", "4..2"]);
    with(&["--target", "p99<=20", "--kind", "mi51"], &["mi51", "ideal, mi50"]);
    with(&["--target", "p99<=9"], &["model front", "time alone", "target"]);
    with(&["--target", "p99<=11", "--devices", "1"], &["one device is too little"]);
    dir.file("profiles/back.json", PROFILE);
    with(&["--target", "p99<=20", "--memory", "99"], &["model front", "100.0 MiB", "99 MiB"]);
    misused(&["sim", "plan", "--load", text(&load), "--target", "p99<=9"], "--profiles");
}

#[test]
fn a_scenario_is_played_again_to_the_byte_and_has_a_page() {
    let dir = Scratch::new("sim-run");
    let scenario = dir.file("mine.toml", SCENARIO);
    dir.file("tracker.json", PROFILE);
    let page = dir.path("page.html");
    let args = ["sim", "run", text(&scenario), "--json", "--page", text(&page)];
    let first = succeeds(&args);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("parking &lt;b&gt;") && html.contains("tracker") && !html.contains("<b>detector"));
    assert!(!html.contains("http://") && !html.contains("https://"), "self-contained");
    assert_eq!(first, succeeds(&args));
    assert_eq!(html, std::fs::read_to_string(&page).unwrap());
    let result: Value = serde_json::from_str(&first).unwrap();
    let detector = &result["clients"][0];
    assert!((500..700).contains(&detector["arrived"].as_u64().unwrap()), "{detector}");
    assert!(detector["latency_ns"]["p50"].as_u64().unwrap() >= 4_040_000, "{detector}");
    let used = result["devices"][0]["utilisation"].as_f64().unwrap();
    assert!(used > 0.99, "a closed loop takes what is left: {used}");
    assert_ne!(json(&["sim", "run", text(&scenario), "--json", "--seed", "2"])["clients"], result["clients"]);
    let printed = succeeds(&["sim", "run", text(&scenario)]);
    assert!(printed.contains("p99 ms") && printed.contains("mi50:0"), "{printed}");
}

#[test]
fn a_plan_says_how_many_devices_and_why_not_one_less() {
    let dir = Scratch::new("sim-plan");
    let load = dir.file("load.toml", LOAD);
    dir.file("profiles/front.json", PROFILE);
    dir.file("profiles/back.json", PROFILE);
    let profiles = dir.path("profiles");
    let usual = ["sim", "plan", "--profiles", text(&profiles), "--load", text(&load), "--kind", "ideal"];
    let plan = |more: &[&str]| json(&[&usual[..], more, &["--json"]].concat());
    let two = plan(&["--target", "p99<=15"]);
    assert_eq!((&two["devices"], &two["answer"]["meets"]), (&2.into(), &true.into()), "{two}");
    assert_eq!(two["minus_one"]["meets"], false);
    // The second of two frames of 10 ms ends after 20, but for the two models' shorter runs.
    let late = two["minus_one"]["clients"].as_array().unwrap();
    let late = late.iter().find(|client| client["meets"] == false).unwrap();
    assert!(late["latency_ns"]["max"].as_u64().unwrap() > 18_000_000, "{late}");
    let one = plan(&["--target", "p99<=20"]);
    assert_eq!((&one["devices"], &one["minus_one"]), (&1.into(), &Value::Null));
    let memory = plan(&["--target", "p99<=20", "--memory", "150"]);
    assert_eq!((&memory["devices"], &memory["minus_one"]["fits"]), (&2.into(), &false.into()));
    assert!(memory["binding"].as_str().unwrap().starts_with("memory"), "{memory}");
    let printed = succeeds(&[&usual[..], &["--target", "p99<=15"]].concat());
    assert!(printed.contains("2 devices will do") && printed.contains("1 device will not do"), "{printed}");
}

#[test]
fn what_profile_prints_is_what_plan_reads() {
    let dir = Scratch::new("sim-profile");
    let model = dir.zoo("resnet18", "m.onnx");
    let profile = succeeds(&["profile", text(&model), "--repeat", "50", "--json"]);
    let read: Value = serde_json::from_str(&profile).unwrap();
    let of = |key: &str| read["latency_ns"][key].as_u64().unwrap();
    let rising = [of("min"), of("p50"), of("p90"), of("p99"), of("max")];
    assert!(rising.is_sorted() && rising[0] > 0, "{rising:?}");
    let bytes = read["memory_bytes"].as_u64().unwrap();
    assert!(bytes > 0);
    dir.file("profiles/front.json", &profile);
    dir.file("profiles/back.json", &profile);
    let (load, profiles) = (dir.file("load.toml", LOAD), dir.path("profiles"));
    let target = format!("p99<={}", 30 * of("max") as u128 / 1_000_000 + 1);
    let usual = ["sim", "plan", "--profiles", text(&profiles), "--load", text(&load), "--target", &target];
    let memory = (2 * bytes).div_ceil(1 << 20).to_string();
    let plan = json(&[&usual[..], &["--memory", &memory, "--json"]].concat());
    assert_eq!(plan["answer"]["meets"], true, "{plan}");
}

/// A profile of two stages on two units.
const BLOCKS: &str = r#"{"latency_ns": {"p50": 400000}, "kernels": [
    {"stage": 0, "blocks": 4, "block_ns": 60000}, {"stage": 1, "blocks": 2, "block_ns": 100000}]}"#;

#[test]
fn workloads_are_played_on_simulated_devices() {
    let dir = Scratch::new("sim-disb");
    let (out, profiles, load) = (dir.path("out"), dir.path("profiles"), dir.file("load.toml", LOAD));
    let play = |device, more: &[&str], expected: &[&str]| {
        let usual = ["sim", "disb", "--device", device, "--out", text(&out)];
        refused(&[&usual[..], more].concat(), expected);
    };
    play("mi60", &[], &["mi60", "v100", "cpu2"]);
    play("cpu2", &["--workload", "Z"], &["'Z'", "REAL"]);
    play("cpu2", &["--workload", text(&load)], &["front", "vgg19"]);
    play("h100", &["--workload", "A"], &["vgg19", "none"]);
    play("mi50", &["--profiles", text(&profiles)], &["--profiles", "queues"]);
    play("h100", &["--profiles", text(&profiles), "--workload", text(&load)], &["front", "front.json"]);

    dir.file("profiles/front.json", BLOCKS);
    dir.file("profiles/back.json", BLOCKS);
    let length = ["--duration", "2", "--repeat", "1", "--out", text(&out)];
    let mine = ["sim", "disb", "--device", "cpu2", "--profiles", text(&profiles), "--workload", text(&load)];
    let printed = succeeds(&[&mine[..], &length].concat());
    assert!(printed.contains("CPU, 2 units") && printed.contains("sequential"), "{printed}");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let results: Value = serde_json::from_str(&read("results.json")).unwrap();
    assert_eq!((&results["finished"], &results["setup"]["via"]), (&true.into(), &"simulated".into()));
    assert!(read("report.html").contains("virtual time"));

    let rows = json(&["sim", "ideas", "--length", "1", "--json"])["rows"].as_array().unwrap().len();
    assert_eq!(rows, 36, "six ideas on six workloads");
}
