//! Adapters that are a few lines of `sh` or Python.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use reef_base::{ClassName, Nanos};
use reef_load::{Arrivals, PlayedClient, Record, RunClient};

use super::*;

const HELLO: &str = r#""name": "fake", "version": "1.2", "conditions": [
    {"name": "rt-only", "title": "t", "best_effort": false},
    {"name": "both", "title": "u", "best_effort": true}]"#;

/// Long enough for what answers, short for what does not.
const SHORT: TimeLimits = TimeLimits {
    hello: Duration::from_secs(60),
    load: Duration::from_millis(50),
    beyond_run: Duration::from_millis(50),
    quit: Duration::from_millis(50),
};

/// A program that answers its first requests with these fields and reads on without a word.
fn answering(answers: &[&str]) -> String {
    let mut script = String::new();
    for (index, answer) in answers.iter().enumerate() {
        let line = format!("{{\"id\": {}, {answer}}}", index + 1).replace('\n', " ");
        writeln!(script, "read -r request && printf '%s\\n' '{line}'").unwrap();
    }
    script + "echo so far so good >&2\ncat >/dev/null\n"
}

fn client(name: &str, class: ClassName, arrivals: Arrivals) -> RunClient {
    RunClient { name: name.to_string(), ..RunClient::new("m", class, arrivals, 1) }
}

/// Two clients: an open loop due at 0, 10 and 20 µs, and best-effort; measured from 5 to 25 µs.
fn run() -> Run {
    let times = vec![Nanos(0), Nanos(10_000), Nanos(20_000)];
    let open = Arrivals::Open { times, newest_only: true };
    let clients = vec![
        client("front", ClassName::RealTime, open),
        client("rest", ClassName::BestEffort, Arrivals::Closed { think: Duration::ZERO }),
    ];
    let (warm_up, measured) = (Duration::from_micros(5), Duration::from_micros(20));
    Run { clients, warm_up, measured, cool_down: Duration::ZERO, grace: Duration::ZERO }
}

fn message<T>(result: Result<T, BenchError>) -> String {
    result.err().expect("it fails").to_string()
}

/// What comes of [`run`] under condition `both` if the adapter answers so.
fn played(answer: &str) -> Result<Played, BenchError> {
    Peer::start(&answering(&[HELLO, answer]))?.play(1, &run())
}

#[track_caller]
fn refused(answer: &str, why: &str) {
    let said = message(played(answer));
    assert!(said.contains(why), "{said}\ndoes not say\n{why}");
    assert!(said.contains("the peer fake 1.2 (") && said.contains("play under 'both'"), "{said}");
}

const NONE: &str = r#"{"due_ns": [], "sent_ns": [], "done_ns": []}"#;

#[test]
fn an_adapter_says_its_name_and_conditions() {
    let peer = Peer::start(&answering(&[HELLO])).unwrap();
    assert_eq!(peer.name(), "fake 1.2");
    let [first, second] = peer.conditions() else { panic!("two conditions") };
    assert_eq!((&*first.name, &*first.title, first.best_effort), ("rt-only", "t", false));
    assert_eq!((&*second.name, second.best_effort), ("both", true));
}

/// The adapter checks the requests itself and fails with what it read if they are not as documented.
#[test]
fn requests_and_answers_are_as_documented() {
    let script = r#"
import json, sys
def check(asked, wanted):
    wanted["id"] = asked["id"]
    assert asked == wanted, asked
def answer(asked, **fields):
    print(json.dumps({"id": asked["id"], **fields}), flush=True)
requests = map(json.loads, sys.stdin)
asked = next(requests)
check(asked, {"do": "hello", "protocol": 1})
conditions = [{"name": n, "title": n, "best_effort": n == "b"} for n in "ab"]
answer(asked, name="py", version="3", conditions=conditions)
asked = next(requests)
check(asked, {"do": "load", "models": [{"name": "m", "path": "dir/m.onnx", "real_time": True}]})
answer(asked)
asked = next(requests)
common = {"model": "m", "level": 0, "in_flight": 1}
check(asked, {"do": "play", "condition": "b", "run": {
    "warm_up_ns": 5000, "measured_ns": 20000, "cool_down_ns": 0, "grace_ns": 0, "clients": [
        {"name": "front", "class": "real-time", "deadline_ns": 7000, **common,
         "arrivals": {"kind": "open", "times_ns": [0, 10000, 20000], "newest_only": True}},
        {"name": "rest", "class": "best-effort", "deadline_ns": None, **common,
         "arrivals": {"kind": "closed", "think_ns": 0}},
        {"name": "next", "class": "real-time", "deadline_ns": None, **common,
         "arrivals": {"kind": "after", "client": 0, "think_ns": 3000}}]}})
open_loop = {"due_ns": [0], "sent_ns": [1], "began_ns": [2], "done_ns": [9], "failed_ns": [10000],
             "unsent_ns": [], "dropped": 1, "first_error": "no luck"}
closed = {"due_ns": [8, 0], "sent_ns": [8, 0], "done_ns": [12, 8]}
after = {"due_ns": [], "sent_ns": [], "done_ns": [], "unsent_ns": [3009]}
answer(asked, clients=[open_loop, closed, after], cpu_ns=1500, memory_bytes=4096)
"#;
    let mut peer = Peer::start(&format!("exec python3 -c '{script}'")).unwrap();
    let path = PathBuf::from("dir/m.onnx");
    peer.load(&[ModelFile { name: "m".to_string(), path, real_time: true, zoo: false }]).unwrap();
    let mut run = run();
    run.clients[0].enforced_deadline = Some(Duration::from_micros(7));
    let after = Arrivals::After { client: 0, think: Duration::from_micros(3) };
    run.clients.push(client("next", ClassName::RealTime, after));
    let played = peer.play(1, &run).unwrap();
    let record = |due, sent, done, on_device| {
        let (due, sent, done) = (Nanos(due), Nanos(sent), Nanos(done));
        Record { due, sent, done, on_device, preempt: None }
    };
    let open = PlayedClient {
        records: vec![record(0, 1, 9, Some((Nanos(2), Nanos(9))))],
        failed: vec![Nanos(10_000)],
        unsent: vec![],
        dropped: 1,
        first_error: Some("no luck".to_string()),
    };
    let closed = vec![record(0, 0, 8, None), record(8, 8, 12, None)];
    let closed = PlayedClient { records: closed, ..PlayedClient::default() };
    let after = PlayedClient { unsent: vec![Nanos(3_009)], ..PlayedClient::default() };
    assert_eq!(played.clients, [open, closed, after]);
    assert_eq!((played.cpu, played.memory_bytes), (Some(Duration::from_nanos(1_500)), Some(4_096)));
}

#[test]
fn a_program_that_does_not_exist_or_ends_early_is_an_error_with_its_last_words() {
    let said = message(Peer::start("/no/such/adapter"));
    assert!(
        said.starts_with("the peer /no/such/adapter ended instead of answering: exit status: 127"),
        "{said}"
    );
    assert!(said.contains("; it wrote last:\n  ") && said.ends_with("not found"), "{said}");
    let said = message(Peer::start("for i in $(seq 20); do echo line $i >&2; done; exit 3"));
    let last: Vec<String> = (13..=20).map(|i| format!("line {i}")).collect();
    assert!(said.contains("exit status: 3"), "{said}");
    assert!(said.ends_with(&format!("it wrote last:\n  {}", last.join("\n  "))), "{said}");
    let script = answering(&[HELLO]).replace("cat >/dev/null", "read -r request; exit 4");
    let mut peer = Peer::start(&script).unwrap();
    let said = message(peer.load(&[]));
    assert!(
        said.contains("exit status: 4, when asked to load models") && said.ends_with("so far so good"),
        "{said}"
    );
    let said = message(peer.play(0, &run()));
    assert!(said.contains("was given up after an earlier failure"), "{said}");
}

#[test]
fn a_program_that_closes_its_output_or_never_ends_its_line_is_an_error() {
    let said = message(Peer::start("exec sh -c 'exec >&-; cat >/dev/null'"));
    assert!(said.contains("closed its output instead of answering"), "{said}");
    let hello = answering(&[HELLO]).replace("cat >/dev/null", "printf '{\"id\": 2'; cat >/dev/null");
    let said = message(Peer::start_within(&hello, SHORT).unwrap().load(&[]));
    assert!(said.contains("did not answer within 50ms"), "{said}");
}

#[test]
fn a_program_that_does_not_answer_in_time_is_given_up() {
    let mut peer = Peer::start_within(&answering(&[HELLO]), SHORT).unwrap();
    let said = message(peer.load(&[]));
    assert!(said.contains("did not answer within 50ms, when asked to load models"), "{said}");
    let mut peer = Peer::start_within(&answering(&[HELLO]), SHORT).unwrap();
    let said = message(peer.play(1, &run()));
    assert!(said.contains("did not answer within 50.025ms, when asked to play under 'both'"), "{said}");
    // A request that does not fit into the pipe of a program that does not read.
    let deaf = answering(&[HELLO]).replace("cat >/dev/null", "exec tail -f /dev/null");
    let model = ModelFile { name: "m".repeat(1 << 20), path: PathBuf::new(), real_time: true, zoo: false };
    let said = message(Peer::start_within(&deaf, SHORT).unwrap().load(&[model]));
    assert!(said.contains("did not answer within 50ms"), "{said}");
}

#[test]
fn rubbish_is_no_answer() {
    let refused = |answer: &str, why: &str| {
        let said = message(Peer::start(&format!("printf '%s\\n' '{answer}'; cat >/dev/null")));
        assert!(said.contains("did not answer as the protocol says when asked to say hello"), "{said}");
        assert!(said.contains(why), "{said}");
    };
    refused("Hello, world!", "no JSON object: 'Hello, world!'");
    refused(&"é".repeat(500), &format!("'{}…'", "é".repeat(120)));
    refused("[1]", "no JSON object: '[1]'");
    refused("{}", "its id is not 1: '{}'");
    refused(r#"{"id": 7}"#, "its id is not 1");
    refused(r#"{"id": 1, "name": "x"}"#, "missing field `version`");
    let hello =
        |conditions: &str| format!(r#"{{"id": 1, "name": "x", "version": "", "conditions": {conditions}}}"#);
    refused(&hello("[]"), "its first condition has to be one without best-effort");
    refused(&hello(r#"[{"name": "a", "title": "", "best_effort": true}]"#), "its first condition has to be");
    let twice = r#"{"name": "a", "title": "", "best_effort": false}"#;
    refused(&hello(&format!("[{twice}, {twice}]")), "condition 1 has no name of its own: 'a'");
}

#[test]
fn an_error_is_quoted_and_the_adapter_stays_in_use() {
    let error = r#""error": "not permitted""#;
    let answer = r#""clients": [CLIENT, CLIENT], "memory_bytes": null"#.replace("CLIENT", NONE);
    let answer = answer.replacen("[]}", r#"[], "dropped": 2}"#, 1);
    let mut peer = Peer::start(&answering(&[HELLO, error, &answer])).unwrap();
    let said = message(peer.play(1, &run()));
    assert!(
        said.contains("the peer fake 1.2 (") && said.contains("cannot play under 'both': not permitted"),
        "{said}"
    );
    let played = peer.play(1, &run()).unwrap();
    assert_eq!((played.clients[0].dropped, played.memory_bytes), (2, None));
}

/// The answer with these columns of the open loop, and nothing of the other client.
fn of_open_loop(columns: &str) -> String {
    format!(r#""clients": [{{{columns}}}, {NONE}], "cpu_ns": null, "memory_bytes": null"#)
}

#[test]
fn records_that_are_not_possible_are_refused() {
    refused(&format!(r#""clients": [{NONE}]"#), "2 clients were played, not 1");
    refused(
        &of_open_loop(r#""due_ns": [-5], "sent_ns": [1], "done_ns": [2]"#),
        "invalid value: integer `-5`",
    );
    refused(&of_open_loop(r#""due_ns": [0.5], "sent_ns": [1], "done_ns": [2]"#), "invalid type: floating");
    refused(
        &of_open_loop(r#""due_ns": [0], "sent_ns": [1], "done_ns": []"#),
        "columns have different lengths",
    );
    let began = r#""due_ns": [0], "sent_ns": [5], "done_ns": [9], "began_ns": "#;
    refused(&of_open_loop(&format!("{began}[]")), "columns have different lengths");
    refused(&of_open_loop(&format!("{began}[4]")), "due 0, sent 5, begun 4, done 9");
    refused(&of_open_loop(&format!("{began}[10]")), "client front: request 0 is not possible");
    let columns = |due: u64, sent: u64, done: u64| {
        of_open_loop(&format!(r#""due_ns": [{due}], "sent_ns": [{sent}], "done_ns": [{done}]"#))
    };
    refused(&columns(10_000, 9_999, 20_000), "request 0 is not possible");
    refused(&columns(0, 6, 5), "request 0 is not possible: due 0, sent 6");
    refused(&columns(0, 6, 3_600_000_000_000), "done 3600000000000");
    refused(&of_open_loop(r#""due_ns": [], "sent_ns": [], "done_ns": [], "unset_ns": []"#), "unset_ns");
}

#[test]
fn every_arrival_of_an_open_loop_is_accounted_for_once() {
    let columns = |more: &str| {
        of_open_loop(&format!(r#""due_ns": [10000], "sent_ns": [10001], "done_ns": [10002]{more}"#))
    };
    refused(
        &columns(""),
        "of 2 arrivals in the measured window 1 were answered, failed or unsent, and 0 dropped",
    );
    refused(&columns(r#", "failed_ns": [10000, 20000]"#), "due at 10000 ns that is not, or not so often");
    refused(&columns(r#", "unsent_ns": [20001]"#), "due at 20001 ns that is not");
    refused(&columns(r#", "unsent_ns": [20000], "dropped": 1"#), "and 1 dropped");
    played(&columns(r#", "unsent_ns": [20000]"#)).unwrap();
    played(&columns(r#", "dropped": 1"#)).unwrap();
    // What failed while it warmed up is not in the result.
    let failed = played(&columns(r#", "failed_ns": [0, 20000]"#)).unwrap().clients.swap_remove(0).failed;
    assert_eq!(failed, [Nanos(20_000)]);
}

#[test]
fn clients_that_a_condition_does_not_admit_have_no_entries() {
    let one = r#"{"due_ns": [0], "sent_ns": [0], "done_ns": [1]}"#;
    let answer =
        format!(r#""clients": [{{"due_ns": [], "sent_ns": [], "done_ns": [], "dropped": 2}}, {one}]"#);
    assert_eq!(played(&answer).unwrap().clients[1].records.len(), 1);
    let said = message(Peer::start(&answering(&[HELLO, &answer])).unwrap().play(0, &run()));
    assert!(said.contains("client rest: it takes no part in this condition"), "{said}");
}

#[test]
fn nothing_is_dropped_from_clients_that_want_every_answer() {
    let answer = of_open_loop(r#""due_ns": [], "sent_ns": [], "done_ns": [], "dropped": 2"#);
    let mut run = run();
    let Arrivals::Open { newest_only, .. } = &mut run.clients[0].arrivals else { panic!("it is open") };
    *newest_only = false;
    let said = message(Peer::start(&answering(&[HELLO, &answer])).unwrap().play(1, &run));
    assert!(said.contains("requests were dropped of which none may be"), "{said}");
}

#[test]
fn an_answer_before_the_end_of_the_run_is_none() {
    let answer = format!(r#""clients": [{NONE}, {NONE}]"#);
    let long = Run { measured: Duration::from_secs(3_600), ..run() };
    let said = message(Peer::start(&answering(&[HELLO, &answer])).unwrap().play(1, &long));
    assert!(said.contains("but the run takes 3600.0 s"), "{said}");
}

#[test]
fn an_adapter_may_end_by_itself() {
    let path = std::env::temp_dir().join(format!("reef-peer-{}", std::process::id()));
    let written = path.display();
    let script =
        answering(&[HELLO]).replace("cat >/dev/null", &format!("cat >{written}; echo end >>{written}"));
    let patient = TimeLimits { quit: Duration::from_secs(60), ..SHORT };
    drop(Peer::start_within(&script, patient).unwrap());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"id\":2,\"do\":\"quit\"}\nend\n");
    std::fs::remove_file(&path).unwrap();
}

/// The adapter and a process that it started, both of which would go on for ever, end with the peer.
#[test]
fn nothing_is_left_running() {
    let script = "tail -f /dev/null & ".to_string()
        + r#"read -r r; printf '{"id": 1, "name": "%s %s", "version": "", "conditions":'"#
        + r#"'[{"name": "a", "title": "", "best_effort": false}]}\n' $$ $!; exec tail -f /dev/null"#;
    let peer = Peer::start_within(&script, SHORT).unwrap();
    let pids: Vec<u32> = peer.name().split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|&pid| is_running(pid)), "{pids:?}");
    drop(peer);
    let given_up = Instant::now() + Duration::from_secs(60);
    while pids.iter().any(|&pid| is_running(pid)) {
        assert!(Instant::now() < given_up, "{pids:?}");
        std::thread::yield_now();
    }
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// A stand-in for ONNX Runtime's Python package: models without inputs that take 2 ms, or that only load.
struct FakeOnnxRuntime {
    folder: PathBuf,
}

impl FakeOnnxRuntime {
    fn write(test: &str) -> FakeOnnxRuntime {
        let folder = std::env::temp_dir().join(format!("reef-peer-{test}-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let file = folder.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("numpy.py", "");
        write(
            "onnxruntime-0.5.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: onnxruntime\nVersion: 0.5\n",
        );
        let module = "
import time
class SessionOptions:
    pass
class InferenceSession:
    def __init__(self, path, options, providers):
        assert options.intra_op_num_threads == 3 and providers == ['CPUExecutionProvider']
        self.left = 2 if 'broken' in path else 1_000_000
    def get_inputs(self):
        return []
    def run(self, names, feeds):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError('it broke')
        time.sleep(0.002)
";
        write("onnxruntime.py", module);
        FakeOnnxRuntime { folder }
    }

    fn peer(&self) -> Peer {
        let adapter = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/peers/ort.py");
        let python = "PYTHONDONTWRITEBYTECODE=1 exec python3";
        Peer::start(&format!("PYTHONPATH='{}' {python} '{adapter}' --threads 3", self.folder.display()))
            .unwrap()
    }
}

impl Drop for FakeOnnxRuntime {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// All kinds of arrivals; more than the models, at 2 ms each, can hold.
fn mixed_run() -> Run {
    let often = |newest_only| {
        let times = (0..40).map(|index| Nanos(index * 1_000_000)).collect();
        Arrivals::Open { times, newest_only }
    };
    let closed = |think| Arrivals::Closed { think: Duration::from_millis(think) };
    let after = Arrivals::After { client: 0, think: Duration::from_millis(1) };
    let clients = vec![
        client("all", ClassName::RealTime, often(false)),
        client("newest", ClassName::RealTime, often(true)),
        client("closed", ClassName::RealTime, closed(3)),
        client("after", ClassName::RealTime, after),
        client("broken", ClassName::RealTime, closed(0)),
        client("rest", ClassName::BestEffort, closed(0)),
        client("other", ClassName::BestEffort, closed(0)),
    ];
    let (warm_up, measured) = (Duration::from_millis(10), Duration::from_millis(30));
    let cool_down = Duration::ZERO;
    let mut run = Run { clients, warm_up, measured, cool_down, grace: Duration::from_secs(30) };
    run.clients[4].model = "broken".to_string();
    run
}

/// That every arrival is accounted for and that times are possible is checked by the peer itself.
#[test]
fn the_adapter_of_onnx_runtime_plays_all_kinds_of_clients_under_all_its_conditions() {
    let fake = FakeOnnxRuntime::write("kinds");
    let mut peer = fake.peer();
    let names: Vec<&str> = peer.conditions().iter().map(|condition| &*condition.name).collect();
    assert_eq!(names, ["rt-only", "priority queue", "two processes", "nice 19", "SCHED_IDLE"]);
    assert_eq!(peer.name(), "ONNX Runtime 0.5");
    let model = |name: &str, real_time| {
        let path = PathBuf::from(format!("{name}.onnx"));
        ModelFile { name: name.to_string(), path, real_time, zoo: false }
    };
    let run = mixed_run();
    assert!(
        message(peer.play(0, &run)).ends_with("cannot play under 'rt-only': model m has not been loaded")
    );
    peer.load(&[model("m", true), model("broken", true)]).unwrap();
    // The second round goes back from the lowest priority.
    for condition in (0..5).chain(0..3) {
        let played = peer.play(condition, &run).unwrap();
        let answered: Vec<usize> = played.clients.iter().map(|client| client.records.len()).collect();
        let rest = usize::from(condition > 0);
        assert_eq!((answered[0], answered[4]), (40, 0), "{condition}: {answered:?}");
        assert!(
            answered[1] > 0 && answered[1] < 40 && played.clients[1].dropped > 0,
            "{condition}: {answered:?}"
        );
        assert!(answered[2] > 0 && answered[5].min(1) == rest && answered[6].min(1) == rest, "{answered:?}");
        let broken = played.clients[4].first_error.as_deref();
        assert_eq!(broken, Some("RuntimeError: it broke"));
        let think = Nanos(1_000_000);
        let asked = played.clients[0].records.iter().map(|record| record.done + think);
        let wanted: Vec<Nanos> = asked.filter(|&due| due < run.end()).collect();
        let due: Vec<Nanos> = played.clients[3].records.iter().map(|record| record.due).collect();
        assert_eq!(due, wanted, "{condition}");
        assert!(played.clients[0].records.iter().all(|record| record.on_device.is_some()));
        assert!(played.cpu.is_some() && played.memory_bytes > Some(1 << 20));
    }
}

/// What is due but not begun when the grace is over stays unsent, in the adapter's queue as before it.
#[test]
fn the_adapter_of_onnx_runtime_gives_up_after_the_grace() {
    let fake = FakeOnnxRuntime::write("grace");
    let mut peer = fake.peer();
    peer.load(&[ModelFile { name: "m".to_string(), path: PathBuf::from("m"), real_time: true, zoo: false }])
        .unwrap();
    for in_flight in [1, 16] {
        let times = (0..200).map(|index| Nanos(index * 10_000)).collect();
        let mut all = client("all", ClassName::RealTime, Arrivals::Open { times, newest_only: false });
        all.in_flight = in_flight;
        let (warm_up, measured) = (Duration::ZERO, Duration::from_millis(2));
        let played = peer
            .play(
                0,
                &Run {
                    clients: vec![all],
                    warm_up,
                    measured,
                    cool_down: Duration::ZERO,
                    grace: Duration::ZERO,
                },
            )
            .unwrap();
        let (answered, unsent) = (played.clients[0].records.len(), played.clients[0].unsent.len());
        assert!(answered + unsent == 200 && unsent >= 198, "{answered} {unsent}");
    }
}
