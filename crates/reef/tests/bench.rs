//! `reef bench` end to end: what it refuses, how it ends, and that it leaves nothing behind.

mod harness;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::{PATIENCE, Scratch, command, misused, reef, refused, succeeds, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args)).unwrap()
}

#[test]
fn benchmarks_that_cannot_be_run_say_why() {
    let dir = Scratch::new("bench");
    let out = dir.path("out");
    let out = text(&out);
    let disb = |more: &[&str], expected: &[&str]| {
        refused(&[&["bench", "disb", "--out", out][..], more].concat(), expected);
    };
    disb(&["--workload", "A,F"], &["'F'", "A, B, C, D, E, REAL"]);
    disb(&["--models", "/nonexistent"], &["vgg19", "/nonexistent/vgg19.onnx"]);
    disb(&["--url", "http://127.0.0.1:9"], &["127.0.0.1:9"]);
    disb(&["--rate", "nobody=5"], &["--rate", "nobody", "vgg19"]);
    disb(&["--deadline", "nobody=5"], &["--deadline", "nobody"]);
    disb(&["--peer", "exit 3"], &["exit 3"]);
    disb(&["--workload", "A,a"], &["two of this name"]);
    disb(&["--rate", "paper", "--rate", "scaled"], &["paper", "scaled"]);
    refused(&["bench", "disb", "--out", "/proc/nowhere"], &["/proc/nowhere"]);
    for (option, value) in [
        ("--rate", "fast"),
        ("--rate", "vgg19=0"),
        ("--rate", "vgg19=inf"),
        ("--deadline", "vgg19=-1"),
        ("--deadline", "vgg19"),
        ("--schemes", "fifo"),
        ("--duration", "0"),
        ("--repeat", "0"),
        ("--via", "grpc"),
    ] {
        misused(&["bench", "disb", "--out", out, option, value], option);
    }
    let workload = dir.file("own.toml", "name = \"own\"\n[[client]]\nmodel = \"m\"\n");
    refused(&["bench", "run", text(&workload), "--out", out], &["own.toml", "class"]);
    refused(&["bench", "run", "/nonexistent.toml", "--out", out], &["/nonexistent.toml"]);
    let results = dir.file("results.json", "{}");
    refused(&["bench", "compare", text(&results), text(&results)], &["results.json", "not a result"]);
    refused(&["bench", "compare", "/nonexistent.json", text(&results)], &["/nonexistent.json"]);
    refused(&["bench", "report", "/nonexistent"], &["/nonexistent/results.json"]);
}

#[test]
fn a_workload_of_ones_own_is_played_reported_and_compared() {
    let dir = Scratch::new("bench-run");
    dir.zoo("control", "models/control.onnx");
    dir.zoo("resnet18", "models/resnet18.onnx");
    let client = |model: &str, class: &str, arrivals: &str| {
        format!("[[client]]\nmodel = \"{model}\"\nclass = \"{class}\"\narrivals = {{ {arrivals} }}\n")
    };
    let workload = [
        "name = \"own <b>\"\n".to_string(),
        client("control", "real-time", "kind = \"periodic\", rate_hz = 200"),
        client("resnet18", "best-effort", "kind = \"closed-loop\""),
    ];
    let workload = dir.file("own.toml", workload.concat());
    let (models, out) = (dir.path("models"), dir.path("out"));
    let printed = succeeds(&[
        "bench",
        "run",
        text(&workload),
        "--models",
        text(&models),
        "--out",
        text(&out),
        "--schemes",
        "reset",
        "--duration",
        "0.3",
        "--warmup",
        "0.05",
        "--repeat",
        "2",
        "--cus",
        "2",
    ]);
    assert!(printed.contains("report.html") && printed.contains("own <b>"), "{printed}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("own &lt;b&gt;") && !page.contains("own <b>"));
    let results = out.join("results.json");
    let compared = json(&["bench", "compare", text(&results), text(&results), "--json"]);
    assert_eq!(compared["changed"].as_array().map(Vec::len), Some(0), "{compared}");
    comparisons_end_as_they_say(&dir, &results);
}

/// A result becomes another one by a change of its numbers; the exit status says what that is.
fn comparisons_end_as_they_say(dir: &Scratch, results: &Path) {
    let before: Value = serde_json::from_str(&std::fs::read_to_string(results).unwrap()).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut after = before.clone();
        change(&mut after);
        dir.file("after.json", after.to_string())
    };
    let compared = |before: &Path, after: &Path, status: i32, expected: &str| {
        let output = reef(&["bench", "compare", text(before), text(after)]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(expected), "{said}");
    };
    const MEMORY: &str = "/workloads/0/systems/0/conditions/0/memory_bytes";
    let more = |after: &mut Value| {
        let memory = after.pointer_mut(MEMORY).unwrap();
        *memory = (memory.as_u64().unwrap() * 1000).into();
    };
    let larger = changed(&more);
    compared(results, &larger, 3, "worse");
    compared(&larger, results, 0, "better");
    let once = changed(&|after| {
        more(after);
        after["setup"]["repeats"] = 1.into();
    });
    compared(results, &once, 4, "not judged");
    let less = changed(&|after| after["workloads"] = json!([]));
    compared(results, &less, 4, "only in the first");
}

/// A report is judged when it is read: targets missed, targets not shown, peers that failed.
#[test]
fn reports_end_as_they_say() {
    let dir = Scratch::new("bench-status");
    let machine = json!({"cpu": null, "cores": 2, "kernel": null, "governor": null, "load_average": null,
        "device": "d", "rustc": "", "profile": "", "command": "", "unix_time_s": 0});
    let mut report = json!({"format": "reef-disb/1", "machine": machine, "models": [], "workloads": [],
        "setup": {"small": false, "via": "engine", "seed": 0, "repeats": 2, "warm_up_s": 1.0, "rate": [],
            "cus": 2},
        "others_cpu": null, "checks": [], "notes": [], "sweeps": [], "timeline": null, "finished": true});
    let ends = |report: &Value, status: i32, expected: &str| {
        dir.file("results.json", report.to_string());
        let output = reef(&["bench", "report", text(&dir.path(""))]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{errors}");
        assert!(errors.contains(expected), "{errors}");
    };
    ends(&report, 0, "");
    report["failed_systems"] = json!(["onnxruntime 1.31"]);
    ends(&report, 4, "onnxruntime 1.31 failed");
    report["failed_systems"] = json!([]);
    report["finished"] = false.into();
    ends(&report, 4, "not finished");
}

/// A server that takes connections and never says a word, or says that it lives and then nothing.
#[test]
fn a_server_that_never_answers_does_not_hold_up_a_benchmark() {
    let dir = Scratch::new("bench-silent");
    let client = "[[client]]\nmodel = \"m\"\nclass = \"real-time\"\n\
                  arrivals = { kind = \"closed-loop\" }\n";
    let workload = dir.file("own.toml", format!("name = \"own\"\n{client}"));
    for lives in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut begin = [0; 20];
                let _ = stream.read(&mut begin);
                if lives && begin.starts_with(b"GET /v2/health/live") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
                held.push(stream);
            }
        });
        let url = format!("http://{address}");
        let out = dir.path("out");
        let args = ["bench", "run", text(&workload), "--url", &url, "--answer-limit", "0.3", "--out"];
        refused(&[&args[..], &[text(&out)]].concat(), &["no answer within 300ms", &address.to_string()]);
    }
}

/// An adapter that ends neither with its input nor by a signal that it can ignore.
#[test]
fn a_peer_does_not_outlive_the_benchmark() {
    let dir = Scratch::new("bench-peer");
    dir.zoo("control", "models/control.onnx");
    let workload = dir.file(
        "own.toml",
        "name = \"own\"\n[[client]]\nmodel = \"control\"\nclass = \"real-time\"\n\
         arrivals = { kind = \"closed-loop\" }\n",
    );
    let hello =
        r#"{"id":1,"name":"deaf","version":"1","conditions":[{"name":"a","title":"","best_effort":false}]}"#;
    let peer = format!(
        "trap '' INT TERM HUP PIPE; read -r hello; echo '{hello}'; read -r load; echo $$ > {0}.part; \
         mv {0}.part {0}; while :; do sleep 0.05; done",
        text(&dir.path("pid"))
    );
    // Who is started in the background of a shell ignores interrupts, and so does what it starts.
    let interrupts = if ignores_interrupts() { None } else { Some(Signal::INT) };
    for signal in interrupts.into_iter().chain([Signal::TERM, Signal::KILL]) {
        let _ = std::fs::remove_file(dir.path("pid"));
        let (models, out) = (dir.path("models"), dir.path("out"));
        let args = ["bench", "run", text(&workload), "--models", text(&models), "--out", text(&out)];
        let mut bench = command(&[&args[..], &["--duration", "0.1", "--peer", &peer]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the peer is asked to load", || dir.path("pid").exists());
        let pid = std::fs::read_to_string(dir.path("pid")).unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        assert!(runs(pid));
        kill_process(Pid::from_child(&bench), signal).unwrap();
        bench.wait().unwrap();
        until("the peer has ended", || !runs(pid));
    }
}

fn ignores_interrupts() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() >> (Signal::INT.as_raw() - 1) & 1 != 0
}

/// Whether a process is there and has not ended; who is to take its status may be slow.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Asks again and again.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
