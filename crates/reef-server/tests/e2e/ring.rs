//! The shared-memory fast path, with the client that people use.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reef_client::{Class, Client, Error, Model, OpenModel, Options, Slot, Status, Terms};
use reef_engine::{ClassStats, DType, Engine, EngineOptions, FailureReason, ModelSettings};
use reef_server::{RingOptions, Server, ServerError, ServerOptions};

use crate::fixture::{Fixture, expected, x, y};
use crate::gate::Gate;

/// A folder for a socket, gone with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("reef-ring-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("reef.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A hang is a failure, not an endless test.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

fn connect(path: &Path) -> Client {
    let options = Options { tensor_bytes: 1 << 20, ..Options::default() };
    Client::connect(path, &options).unwrap()
}

fn m(slots: usize) -> OpenModel {
    OpenModel::new("m").input("x", "FP32", &[2, 2]).slots(slots)
}

pub fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> (Status, String) {
    match result.unwrap_err() {
        Error::Refused { status, message } => (status, message),
        other => panic!("{other}"),
    }
}

/// One request with these bytes; the bytes of its output.
fn ask(client: &mut Client, model: Model, data: &[u8]) -> Result<Vec<u8>, Error> {
    client.infer(model, &[data], &Terms::default(), |client, slot| {
        let output = client.output(slot, 0).unwrap();
        assert_eq!(output.shape(), [2, 2]);
        output.data.to_vec()
    })
}

pub fn good(client: &mut Client) {
    let model = client.open(&m(1)).unwrap();
    assert_eq!(ask(client, model, &[3; 16]).unwrap(), expected(0, &[&[3; 16]], 16));
}

#[test]
fn outputs_are_those_of_other_ways() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    let mut client = connect(&folder.socket());
    let model = client.open(&m(1)).unwrap();
    assert_eq!(client.model(model).outputs[0].name, "y");
    // More requests than the rings have entries.
    for number in 0..200u8 {
        let data = [number; 16];
        assert_eq!(ask(&mut client, model, &data).unwrap(), expected(0, &[&data], 16), "{number}");
    }
    fixture.wait_for("m", |class| class.success, 200);
}

#[test]
fn many_requests_are_in_flight_and_each_is_answered_once() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    let options = Options { depth: 8, tensor_bytes: 1 << 20, ..Options::default() };
    let mut client = Client::connect(folder.socket(), &options).unwrap();
    let model = client.open(&m(8)).unwrap();
    let fill = |client: &mut Client, slot: Slot, value: u8| {
        client.input_mut(slot, 0).unwrap().fill(value);
        client.submit(slot, &Terms::default()).unwrap()
    };
    let mut tags = Vec::new();
    for value in 0..8u8 {
        let slot = client.acquire(model).unwrap();
        tags.push(fill(&mut client, slot, value));
    }
    assert_eq!(client.acquire(model), None);
    for value in 8..100u8 {
        let ended = client.wait(PATIENCE).unwrap().unwrap();
        assert_eq!(ended.status, Status::Done, "{}", ended.message);
        let at = tags.iter().position(|&tag| tag == ended.tag).expect("each is answered once");
        tags.swap_remove(at);
        let output = client.output(ended.slot, 0).unwrap().data.to_vec();
        assert_eq!(output, expected(0, &[&[ended.tag as u8; 16]], 16));
        tags.push(fill(&mut client, ended.slot, value));
    }
    while !tags.is_empty() {
        let ended = client.wait(PATIENCE).unwrap().unwrap();
        tags.retain(|&tag| tag != ended.tag);
    }
    assert_eq!(client.wait(Some(Duration::ZERO)).unwrap(), None);
    fixture.wait_for("m", |class| class.success, 100);
}

/// Bytes of another type are no answer, though there are as many.
#[test]
fn a_model_that_came_in_the_place_of_an_open_one_is_not_taken_for_it() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    let mut client = connect(&folder.socket());
    let model = client.open(&m(1)).unwrap();
    let data = [5; 16];
    ask(&mut client, model, &data).unwrap();
    fixture.engine.unload("m", None, reef_engine::Queued::Finish).unwrap();
    fixture.model("m", &[x()], &[("y", DType::I32, &[2, 2])], ModelSettings::default());
    let (status, message) = refusal(ask(&mut client, model, &data));
    assert_eq!(status, Status::Invalid);
    assert!(message.contains("'y' is INT32, and was FP32: open the model again"), "{message}");
    let model = client.open(&m(1)).unwrap();
    assert_eq!(client.model(model).outputs[0].datatype, "INT32");
    assert_eq!(ask(&mut client, model, &data).unwrap(), expected(0, &[&data], 16));
}

#[test]
fn models_that_cannot_be_opened_are_named() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    let open = [("z", DType::F32, &[-1, 2][..])];
    fixture.model("open", &[("x", DType::F32, &[-1, 2])], &open, ModelSettings::default());
    let loading = fixture.loading("slow");
    let mut client = connect(&folder.socket());
    let new = OpenModel::new;
    let x = |name: &str| OpenModel::new(name).input("x", "FP32", &[2, 2]);
    let mut versioned = m(1);
    versioned.version = Some("9".into());
    let table = [
        (new("none"), Status::NotFound, "no model 'none'"),
        (versioned, Status::NotFound, "version 9"),
        (x("slow"), Status::Unavailable, "not ready"),
        (new("m"), Status::Invalid, "input 'x' is missing"),
        (m(1).input("z", "FP32", &[1]), Status::Invalid, "input 'z': the model has no such input"),
        (m(1).input("x", "FP32", &[2, 2]), Status::Invalid, "input 'x' is there twice"),
        (new("m").input("x", "FP64", &[2, 2]), Status::Invalid, "expected FP32, got FP64"),
        (new("m").input("x", "BYTES", &[2, 2]), Status::Invalid, "expected FP32, got BYTES"),
        (new("m").input("x", "FP32", &[2, 3]), Status::Invalid, "expected shape [2, 2], got [2, 3]"),
        (new("m").input("x", "FP32", &[2, 2, 1]), Status::Invalid, "expected shape"),
        (new("open").input("x", "FP32", &[usize::MAX, 2]), Status::Invalid, "elements"),
        (m(1).output("none", None), Status::Invalid, "output 'none': the model has no such output"),
        (m(1).output("y", None).output("y", None), Status::Invalid, "output 'y' is there twice"),
        (x("open"), Status::Invalid, "output 'z' has the open shape [-1, 2]: say how many bytes"),
        (x("open").output("z", Some(usize::MAX)), Status::Invalid, "larger than any memory"),
        (x("open").output("z", Some(2 << 20)), Status::Invalid, "connect with more room"),
        (m(0), Status::Invalid, "0 slots"),
        (m(65), Status::Invalid, "65 slots for a model, 64 of the connection's are left"),
        (m(usize::MAX), Status::Invalid, "slots"),
    ];
    for (wanted, status, words) in table {
        let (got, message) = refusal(client.open(&wanted));
        assert_eq!(got, status, "{wanted:?}: {message}");
        assert!(message.contains(words), "{wanted:?}: {message}");
    }
    good(&mut client);
    loading.finish();
}

#[test]
fn open_shapes_have_the_room_that_was_asked_for() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    let (input, output) = ([("x", DType::F32, &[-1][..])], [("z", DType::F32, &[-1][..])]);
    fixture.model("open", &input, &output, ModelSettings::default());
    let mut client = connect(&folder.socket());
    let open = |bytes| OpenModel::new("open").input("x", "FP32", &[3]).output("z", Some(bytes));
    let wide = client.open(&open(100)).unwrap();
    let narrow = client.open(&open(8)).unwrap();
    let data = [5; 12];
    let read = |client: &Client, slot| {
        let output = client.output(slot, 0).unwrap();
        (output.shape().to_vec(), output.data.to_vec())
    };
    let answer = client.infer(wide, &[&data], &Terms::default(), read).unwrap();
    assert_eq!(answer, (vec![3], expected(0, &[&data], 12)));
    let (status, message) = refusal(client.infer(narrow, &[&data], &Terms::default(), read));
    assert_eq!(status, Status::Invalid);
    assert!(message.contains("output 'z' has 12 bytes, the slot has room for 8"), "{message}");
    assert!(client.infer(wide, &[&data], &Terms::default(), read).is_ok());
}

#[test]
fn requests_that_are_refused_say_why_and_the_next_one_is_served() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    let mut client = connect(&folder.socket());
    let model = client.open(&m(1)).unwrap();
    let terms = Terms { class: Class::RealTime, ..Terms::default() };
    let (status, message) = refusal(client.infer(model, &[&[1; 16]], &terms, |_, _| ()));
    assert!(status == Status::Invalid && message.contains("real-time"), "{status:?} {message}");
    let terms = Terms { deadline_us: Some(1), ..Terms::default() };
    fixture.gate.freeze();
    let slot = client.acquire(model).unwrap();
    client.submit(slot, &terms).unwrap();
    fixture.gate.flow();
    let ended = client.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(ended.status, Status::Late, "{}", ended.message);
    assert!(ended.message.contains("deadline"), "{}", ended.message);
    client.release(slot).unwrap();
    good(&mut client);
}

#[test]
fn calls_at_the_wrong_time_are_refused_here() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    let mut client = connect(&folder.socket());
    let model = client.open(&m(1)).unwrap();
    let slot = client.acquire(model).unwrap();
    fixture.gate.freeze();
    client.submit(slot, &Terms::default()).unwrap();
    let misuse = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Misuse(_))), "{result:?}");
    misuse(client.submit(slot, &Terms::default()).map(drop));
    misuse(client.input_mut(slot, 0).map(drop));
    misuse(client.output(slot, 0).map(drop));
    misuse(client.release(slot));
    misuse(ask(&mut client, model, &[0; 16]).map(drop));
    fixture.gate.flow();
    assert!(client.wait(PATIENCE).unwrap().is_some());
    misuse(client.input_mut(slot, 1).map(drop));
    misuse(client.output(slot, 1).map(drop));
    misuse(client.input_mut(Slot::from_number(7), 0).map(drop));
    client.release(slot).unwrap();
    misuse(client.submit(slot, &Terms::default()).map(drop));
    misuse(ask(&mut client, model, &[0; 15]).map(drop));
    assert_eq!(client.acquire(Model::from_number(9)), None);
    good(&mut client);
}

#[test]
fn a_request_is_cancelled_while_it_runs() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    let mut client = connect(&folder.socket());
    let model = client.open(&m(1)).unwrap();
    let slot = client.acquire(model).unwrap();
    fixture.gate.freeze();
    client.submit(slot, &Terms::default()).unwrap();
    fixture.wait_for("m", ClassStats::pending, 1);
    client.cancel(slot).unwrap();
    fixture.gate.wait_for_cancels(1);
    fixture.gate.flow();
    let ended = client.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(ended.status, Status::Cancelled, "{}", ended.message);
    // One that has ended cannot be cancelled, and the next one in its slot is another one.
    client.cancel(slot).unwrap();
    client.submit(slot, &Terms::default()).unwrap();
    assert_eq!(client.wait(PATIENCE).unwrap().unwrap().status, Status::Done);
}

#[test]
fn a_client_that_goes_away_cancels_its_requests() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    fixture.gate.freeze();
    let mut client = connect(&folder.socket());
    let model = client.open(&m(2)).unwrap();
    // As many as the device has at a time.
    for _ in 0..2 {
        let slot = client.acquire(model).unwrap();
        client.submit(slot, &Terms::default()).unwrap();
    }
    fixture.wait_for("m", ClassStats::pending, 2);
    drop(client);
    fixture.gate.wait_for_cancels(2);
    fixture.gate.flow();
    fixture.wait_for("m", |class| class.failed(FailureReason::Cancelled), 2);
    fixture.wait_for("m", ClassStats::pending, 0);
    good(&mut connect(&folder.socket()));
}

#[test]
fn a_server_that_goes_away_is_an_error_and_no_hang() {
    let folder = Folder::new();
    let mut fixture = Fixture::with_ring(&folder.socket());
    let mut client = connect(&folder.socket());
    let model = client.open(&m(1)).unwrap();
    let slot = client.acquire(model).unwrap();
    fixture.gate.freeze();
    client.submit(slot, &Terms::default()).unwrap();
    fixture.wait_for("m", ClassStats::pending, 1);
    fixture.cut_off();
    let gone = client.wait(PATIENCE);
    assert!(matches!(gone, Err(Error::Gone(_))), "{gone:?}");
    assert!(matches!(client.open(&m(1)), Err(Error::Gone(_))));
    assert!(matches!(client.poll(), Err(Error::Gone(_))));
    fixture.gate.flow();
    fixture.wait_for("m", |class| class.failed(FailureReason::Cancelled), 1);
    assert!(matches!(Client::connect(folder.socket(), &Options::default()), Err(Error::Connect { .. })));
}

#[test]
fn a_shutdown_answers_what_is_in_flight() {
    let folder = Folder::new();
    let mut fixture = Fixture::with_ring(&folder.socket());
    let mut client = connect(&folder.socket());
    let model = client.open(&m(1)).unwrap();
    let slot = client.acquire(model).unwrap();
    fixture.gate.freeze();
    client.submit(slot, &Terms::default()).unwrap();
    fixture.wait_for("m", ClassStats::pending, 1);
    let shutdown = fixture.shut_down(Duration::from_secs(60));
    fixture.gate.flow();
    let ended = client.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(ended.status, Status::Done, "{}", ended.message);
    assert!(shutdown.join().unwrap(), "all connections have ended");
    client.release(slot).unwrap();
    let late = client.wait(PATIENCE);
    assert!(matches!(late, Err(Error::Gone(_))), "{late:?}");
    assert!(!folder.socket().exists(), "its socket is removed");
}

fn bound(options: RingOptions) -> Result<Server, ServerError> {
    let http = "127.0.0.1:0".parse().unwrap();
    Server::bind(ServerOptions { http, metrics: None, ring: Some(options), ..ServerOptions::default() })
}

#[test]
fn the_socket_is_for_whom_it_should_be_and_replaces_only_dead_ones() {
    let folder = Folder::new();
    let path = folder.socket();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let first = bound(RingOptions::new(&path)).unwrap();
    assert_eq!(mode(), 0o600);
    let error = bound(RingOptions::new(&path)).unwrap_err().to_string();
    assert!(error.contains("for the ring") && error.contains("in use"), "{error}");
    drop(first);
    assert!(!path.exists());
    let other = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    assert!(bound(RingOptions::new(&path)).is_err(), "a socket of another kind stays");
    drop(other);
    std::fs::remove_file(&path).unwrap();
    // One that nobody listens at any more.
    let left = reef_client::socket::Socket::unbound().unwrap();
    rustix::net::bind(&left, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    drop(left);
    let second = bound(RingOptions { mode: 0o660, ..RingOptions::new(&path) }).unwrap();
    assert_eq!(mode(), 0o660);
    drop(second);
    std::fs::write(&path, "mine").unwrap();
    assert!(bound(RingOptions::new(&path)).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert!(bound(RingOptions::new("/none/such.sock")).is_err());
    assert!(bound(RingOptions::new("x".repeat(300))).is_err());
}

#[test]
fn a_server_that_loads_takes_no_requests_yet() {
    let folder = Folder::new();
    let engine = Engine::new(Gate::new(), EngineOptions::default()).unwrap();
    let running = bound(RingOptions::new(folder.socket())).unwrap().open(engine).unwrap();
    let mut client = connect(&folder.socket());
    let (status, message) = refusal(client.open(&m(1)));
    assert!(status == Status::Unavailable && message.contains("loading"), "{message}");
    running.set_ready();
    assert_eq!(refusal(client.open(&m(1))).0, Status::NotFound);
    assert!(running.shutdown(Duration::ZERO));
}

/// Runs `examples/infer.c`, which is compiled by gcc against `include/reef.h` and the library that cargo has
/// built, with these arguments and a token.
pub struct Example {
    program: PathBuf,
    socket: PathBuf,
}

impl Example {
    pub fn new(folder: &Folder) -> Example {
        let program = folder.0.join("infer");
        Self::compile(&program);
        Example { program, socket: folder.socket() }
    }

    /// Its exit code and what it said.
    pub fn run(&self, arguments: &[&str], token: Option<&str>) -> (Option<i32>, String) {
        let mut command = Command::new(&self.program);
        command.arg(&self.socket).args(arguments).env_remove("REEF_TOKEN");
        if let Some(token) = token {
            command.env("REEF_TOKEN", token);
        }
        let output = command.output().unwrap();
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    fn compile(program: &Path) {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reef-client");
        let libraries = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
        let built = Command::new("gcc")
            .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(program)
            .arg(crates.join("examples/infer.c"))
            .arg("-I")
            .arg(crates.join("include"))
            .arg("-L")
            .arg(&libraries)
            .arg(format!("-Wl,-rpath,{}", libraries.display()))
            .arg("-lreef_client")
            .output()
            .expect("gcc is there: other crates need a C compiler too");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
}

#[test]
fn the_example_in_c_gets_the_same_bytes() {
    let folder = Folder::new();
    let fixture = Fixture::with_ring(&folder.socket());
    fixture.model("wide", &[("x", DType::F32, &[2, 3])], &[y()], ModelSettings::default());
    let example = Example::new(&folder);
    let run = |arguments: &[&str]| example.run(arguments, None);
    let data: Vec<u8> = (0..6).flat_map(|index| (index as f32).to_le_bytes()).collect();
    let hex: String = expected(0, &[&data], 16).iter().map(|byte| format!(" {byte:02x}")).collect();
    let wanted = format!("output 0 shape 2 2 bytes 16:{hex}\n");
    assert_eq!(run(&["wide", "x", "2", "3"]), (Some(0), wanted));
    let (code, text) = run(&["none", "x", "2"]);
    assert!(code == Some(1) && text.contains("open (2): there is no model 'none'"), "{code:?} {text}");
    let (code, text) = run(&["wide", "x", "2", "4"]);
    assert!(code == Some(1) && text.contains("expected shape [2, 3]"), "{code:?} {text}");
}
