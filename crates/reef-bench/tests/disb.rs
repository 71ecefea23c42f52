//! DISB from end to end on the CPU device with tiny models: everything is played, counted, written and read
//! back. How good the numbers are is not asked here.

mod local;

use std::path::{Path, PathBuf};
use std::time::Duration;

use local::{Local, serve};
use reef_base::{Level, ModelKey};
use reef_bench::disb::drive;
use reef_bench::disb::options::{DisbOptions, Rate, Via};
use reef_bench::micro::{DeviceRequest, MicroEnvironment};
use reef_bench::{BenchError, Progress};
use reef_device::Scheme;
use reef_engine::{Engine, EngineOptions, ModelSettings, ModelSource, ModelSpec};
use reef_load::Workload;
use reef_report::disb::results::{ConditionResult, DisbReport};
use reef_zoo::{Model, Variant};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("reef-bench-disb-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("models")).unwrap();
        for model in [Model::Control, Model::Resnet18] {
            let file = path.join("models").join(format!("{model}.onnx"));
            reef_zoo::write(model, &Variant::tiny(), &file).unwrap();
        }
        Folder(path)
    }

    fn workload(&self) -> Workload {
        let file = self.0.join("mine.toml");
        std::fs::write(&file, WORKLOAD).unwrap();
        Workload::read(&file).unwrap()
    }

    fn options(&self) -> DisbOptions {
        DisbOptions {
            workloads: vec![self.workload()],
            schemes: vec![Scheme::Wait, Scheme::Reset],
            duration: Some(Duration::from_millis(400)),
            warm_up: Some(Duration::from_millis(50)),
            repeats: Some(2),
            seed: 3,
            rates: vec![Rate::Paper],
            deadlines: Vec::new(),
            small: true,
            via: Via::Engine,
            answer_limit: Duration::from_secs(60),
            models: None,
            out: self.0.join("out"),
            samples: true,
            peers: Vec::new(),
            sweeps: false,
            cus: 2,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Every kind of arrival.
const WORKLOAD: &str = r#"
    name = "mine"
    title = "a test"

    [models]
    control = "models/control.onnx"
    resnet18 = "models/resnet18.onnx"

    [[client]]
    name = "steady"
    model = "control"
    class = "real-time"
    arrivals = { kind = "periodic", rate_hz = 100 }
    deadline_ms = 3000

    [[client]]
    name = "random"
    model = "control"
    class = "real-time"
    level = 1
    arrivals = { kind = "poisson", rate_hz = 50 }
    keep = "newest"
    in_flight = 1

    [[client]]
    name = "second"
    model = "resnet18"
    class = "real-time"
    level = 1
    arrivals = { kind = "after", client = "steady" }
    in_flight = 2

    [[client]]
    model = "resnet18"
    class = "best-effort"
    arrivals = { kind = "closed-loop" }
"#;

fn run(options: &DisbOptions) -> Result<DisbReport, BenchError> {
    drive::run(options, Vec::new(), &Local, &Progress::hidden())
}

fn names(conditions: &[ConditionResult]) -> Vec<(&str, bool)> {
    conditions.iter().map(|condition| (condition.name.as_str(), condition.again)).collect()
}

/// What every report of the workload has, however it was asked for.
fn check(report: &DisbReport, conditions: &[(&str, bool)], out: &Path) {
    let workload = &report.workloads[0];
    let ours = &workload.systems[0].conditions;
    assert_eq!(names(ours), conditions);
    for condition in ours {
        let best_effort = condition.best_effort.is_some();
        assert_eq!(best_effort, condition.name != "rt-only", "{}", condition.name);
        for (client, facts) in condition.clients.iter().zip(&workload.clients) {
            let plays = best_effort || facts.name != "resnet18";
            assert_eq!(client.latency_us.is_some(), plays, "{} {}", condition.name, client.name);
            assert_eq!((client.failed, &client.first_error), (0, &None), "{}", client.name);
            if let Some(quantile) = client.quantiles_ms.first() {
                assert_eq!(client.quantiles_ms.len(), 101);
                assert!((quantile - client.latency_us.unwrap().min / 1e3).abs() < 1e-3);
            }
        }
        assert!(condition.clients[2].latency_us.is_some_and(|latency| latency.count > 0), "{condition:?}");
    }
    let written = DisbReport::read(&out.join("results.json")).unwrap();
    assert_eq!(written.to_json(), report.to_json());
    let page = out.join("report.html");
    std::fs::remove_file(&page).unwrap();
    assert_eq!(drive::redraw(out).unwrap().to_json(), report.to_json());
    assert!(std::fs::read_to_string(&page).unwrap().contains("mine"));
    assert!(report.to_string().contains("mine: a test"), "{report}");
}

#[test]
fn a_workload_is_played_under_every_scheme_and_written_down() {
    let folder = Folder::new("engine");
    let options = folder.options();
    let report = run(&options).unwrap();
    let expected =
        [("rt-only", false), ("wait", false), ("reset", false), ("rt-only", true), ("reset", true)];
    check(&report, &expected, &options.out);
    let ours = &report.workloads[0].systems[0].conditions;
    assert!(ours.iter().all(|condition| condition.device.is_some() && condition.memory_bytes.is_some()));
    // Under rt-only the more urgent real-time client kills blocks of the other; under wait nobody does.
    assert_eq!(ours[1].device.as_ref().unwrap().blocks_killed, 0);
    assert!(report.checks.is_empty(), "only built-in workloads have targets");
    let samples = std::fs::read_to_string(options.out.join("samples.csv")).unwrap();
    let mut lines = samples.lines();
    let columns = lines.next().unwrap().split(',').count();
    // 100/s for 0.45 s, five conditions, two repetitions, of one client alone.
    let steady: Vec<&str> = lines.filter(|line| line.contains(",steady,")).collect();
    assert_eq!(steady.len(), 45 * 5 * 2);
    assert!(steady.iter().all(|line| line.split(',').count() == columns));
}

#[test]
fn over_http_and_at_a_url_the_same_is_measured() {
    let folder = Folder::new("http");
    let mut options = folder.options();
    options.via = Via::Http;
    options.schemes = vec![Scheme::Reset];
    let expected = [("rt-only", false), ("reset", false), ("rt-only", true), ("reset", true)];
    check(&run(&options).unwrap(), &expected, &options.out);

    let request = DeviceRequest::new(2, Scheme::Reset);
    let engine = Engine::new(Local.device(request).unwrap(), EngineOptions::default()).unwrap();
    // A third one, which only a best-effort client asks and the server has as such.
    std::fs::copy(folder.0.join("models/resnet18.onnx"), folder.0.join("models/rest.onnx")).unwrap();
    options.workloads[0].clients[3].model = "rest".to_string();
    for name in ["control", "resnet18", "rest"] {
        let key = ModelKey { name: name.to_string(), version: "1".to_string() };
        let source = ModelSource::Path(folder.0.join("models").join(format!("{name}.onnx")));
        let settings = match name {
            "rest" => ModelSettings::default(),
            _ => ModelSettings::real_time(Level::TOP),
        };
        engine.load(ModelSpec { key, source, settings }).unwrap();
    }
    let server = serve(&engine).unwrap();
    options.via = Via::Url(format!("http://{}/", server.http_addr()));
    let expected = [("rt-only", false), ("all", false), ("rt-only", true), ("all", true)];
    let report = run(&options).unwrap();
    check(&report, &expected, &options.out);
    assert!(report.workloads[0].systems[0].conditions[0].device.is_none());
    server.shutdown(Duration::from_secs(10));
}

#[test]
fn more_than_the_machine_holds_is_said_to_be_so() {
    let folder = Folder::new("saturated");
    let mut options = folder.options();
    options.schemes = vec![Scheme::Reset];
    // Without the client that follows each of the answers.
    options.workloads[0].clients.remove(2);
    options.duration = Some(Duration::from_millis(200));
    options.repeats = Some(1);
    options.rates.push(Rate::Of { name: "steady".to_string(), hz: 200_000.0 });
    let report = run(&options).unwrap();
    let client = &report.workloads[0].systems[0].conditions[0].clients[0];
    assert!(client.saturated, "{client:?}");
    assert!(report.to_string().contains("SATURATED"), "{report}");
    // Nothing is lost: every arrival of the window is an answer or was never sent.
    let answered = client.latency_us.unwrap().count - client.unsent;
    // Played twice.
    assert_eq!(answered + client.unsent, 2 * 40_000);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_played() {
    let folder = Folder::new("wrong");
    let refused = |change: &dyn Fn(&mut DisbOptions), expected: &str| {
        let mut options = folder.options();
        change(&mut options);
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&|options| options.out = "/proc/reef".into(), "/proc/reef");
    let earlier = folder.options().out.join("results.json");
    std::fs::create_dir_all(folder.options().out).unwrap();
    std::fs::write(&earlier, "earlier").unwrap();
    refused(&|options| options.via = Via::Url("http://127.0.0.1:9".into()), "127.0.0.1:9");
    refused(&|options| options.via = Via::Url("https://localhost".into()), "only http://");
    refused(&|options| options.deadlines = vec![("ghost".into(), Duration::from_millis(1))], "'ghost'");
    std::fs::remove_file(folder.0.join("models/resnet18.onnx")).unwrap();
    refused(&|_| (), "resnet18");
    assert_eq!(std::fs::read_to_string(&earlier).unwrap(), "earlier", "a mistake costs no results");
}
