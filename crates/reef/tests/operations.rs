//! What operators rely on: settings, credentials, limits, signals, logs, commands for a running server.

mod harness;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Output, Stdio};

use harness::serving::{Serving, request};
use harness::{PATIENCE, Scratch, command, refused, text};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};
use serde_json::Value;

const TOKEN: &str = "token-of-an-operator";

fn models(name: &str) -> Scratch {
    let dir = Scratch::new(name);
    dir.zoo("control", "models/control.onnx");
    dir
}

/// The command and what it says, whatever its status.
fn ends(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output: Output = command(args).envs(variables.iter().copied()).output().unwrap();
    let utf8 = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), utf8(output.stdout), utf8(output.stderr))
}

#[test]
fn a_check_says_where_every_value_comes_from_and_what_is_wrong() {
    let dir = models("check");
    let models = dir.path("models");
    dir.file("models/reef.toml", "http_port = 0\nmetrics_port = 7\n[model.control]\nweight = 2\n");
    let good = ["serve", text(&models), "--check", "--metrics-port", "0"];
    let (status, out, _) = ends(&good, &[("REEF_IO_THREADS", "3")]);
    assert_eq!(status, Some(0), "{out}");
    let file = models.join("reef.toml");
    for line in [
        &format!("http_port = 0  # {}:1", file.display()),
        "metrics_port = 0  # --metrics-port",
        "io_threads = 3  # REEF_IO_THREADS",
        "address = \"127.0.0.1\"  # default",
        "# all is well",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    // What it prints is a file of the same settings.
    let printed = dir.file("printed.toml", &out);
    assert_eq!(ends(&["serve", "--check", "--config", text(&printed)], &[]).0, Some(0));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    dir.file(
        "models/reef.toml",
        "tls_certificate = \"none.pem\"\ntls_key = \"none.key\"\n[model.control]\nweight = 0",
    );
    let (status, out, _) = ends(&["serve", text(&models), "--check", "--http-port", &port], &[]);
    assert_eq!(status, Some(1), "{out}");
    for wrong in ["weight = 0", "none.pem", &format!("cannot listen on 127.0.0.1:{port}")] {
        assert!(out.contains(wrong), "{wrong}: {out}");
    }
    dir.file("models/reef.toml", "htp_port = 1");
    refused(
        &["serve", text(&models)],
        &["reef.toml:1: there is no key 'htp_port'; did you mean 'http_port'?"],
    );
}

#[test]
fn a_service_manager_is_told_and_signals_mean_what_they_should() {
    let dir = models("notify");
    let socket = dir.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut text = [0; 200];
        let len = manager.recv(&mut text).unwrap();
        String::from_utf8(text[..len].to_vec()).unwrap()
    };
    let variables = [("NOTIFY_SOCKET", text(&socket)), ("WATCHDOG_USEC", "100000")];
    let serving = Serving::start_with(&variables, &[text(&dir.path("models")), "--cus", "1"]);
    let mut said = Vec::new();
    while !said.iter().any(|said: &String| said.starts_with("READY=1")) {
        said.push(told());
    }
    assert!(said[0].starts_with("STATUS=loading 1 models"), "{said:?}");
    // It is alive as long as somebody looks.
    while told() != "WATCHDOG=1" {}
    let pid = Pid::from_child(&serving.child);
    kill_process(pid, Signal::HUP).unwrap();
    assert_eq!(serving.get("/v2/health/ready").0, 200, "a hangup is no end");
    let (status, log) = serving.stop();
    assert_eq!(status, Some(0), "{log:#?}");
    while told() != "STOPPING=1\nSTATUS=draining" {}
}

/// A certificate for localhost, signed by itself, and its key.
fn certificate(dir: &Scratch) -> (String, String) {
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let certificate = dir.file("server.pem", signed.cert.pem());
    let key = dir.file("server.key", signed.signing_key.serialize_pem());
    (text(&certificate).into(), text(&key).into())
}

#[test]
fn commands_ask_a_server_over_tls_with_a_token() {
    let dir = models("remote");
    let (certificate, key) = certificate(&dir);
    dir.file("token", TOKEN);
    let settings = format!(
        "tls_certificate = {certificate:?}\ntls_key = {key:?}\nmodels = \"models\"\ncus = 1\n\
         [client.operator]\ntoken_file = \"token\"\nallow = [\"infer\", \"admin\", \"metrics\"]\n"
    );
    let settings = dir.file("reef.toml", settings);
    let serving = Serving::start(&["--config", text(&settings)]);
    let url = format!("https://localhost:{}", serving.http.port());
    let ask = |args: &[&str], token: &str| {
        let to = ["--url", &url, "--ca", &certificate];
        ends(&[args, &to].concat(), &[("REEF_TOKEN", token)])
    };
    let (status, out, errors) = ask(&["models"], TOKEN);
    assert_eq!(status, Some(0), "{errors}");
    assert!(out.contains("control") && out.contains("READY"), "{out}");
    let (_, json, _) = ask(&["models", "--json"], TOKEN);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()[0]["name"], "control");
    let (status, out, _) = ask(&["stats", "control"], TOKEN);
    assert!(status == Some(0) && out.starts_with("MODEL") && out.contains("control"), "{out}");
    let (status, out, errors) = ask(&["top", "--once", "--interval", "0.01"], TOKEN);
    assert!(status == Some(0) && out.contains("control/1"), "{out} {errors}");
    let (status, _, errors) = ask(&["stats", "no/ne"], TOKEN);
    assert!(status == Some(1) && errors.contains("refused (404)") && errors.contains("'no/ne'"), "{errors}");
    let (status, _, errors) = ask(&["models"], "token-of-nobody-known");
    assert!(status == Some(77) && errors.contains("refused (401)"), "{errors}");
    assert!(!errors.contains("token-of-nobody-known"), "{errors}");
    // A certificate that nobody vouches for, and nobody there.
    let (status, _, errors) = ends(&["models", "--url", &url], &[("REEF_TOKEN", TOKEN)]);
    assert!(status == Some(69) && errors.contains("cannot ask the server"), "{errors}");
    let (status, ..) = ends(&["models", "--url", "http://127.0.0.1:1"], &[]);
    assert_eq!(status, Some(69));
    let (status, log) = serving.stop();
    assert_eq!(status, Some(0));
    assert!(!log.iter().any(|line| line.contains(TOKEN)), "{log:#?}");
}

/// Answers one request; what it was.
fn one_request(listener: TcpListener, answer: &'static str) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0);
        }
        let len = head.to_ascii_lowercase();
        let len = len
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        let mut body = vec![0; len];
        reader.read_exact(&mut body).unwrap();
        reader.into_inner().write_all(answer.as_bytes()).unwrap();
        head + &String::from_utf8(body).unwrap()
    })
}

#[test]
fn load_and_unload_are_asked_as_the_protocol_has_them() {
    const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let dir = Scratch::new("load");
    let config = dir.file("config.json", r#"{"max_batch_size":4}"#);
    let cases: [(&[&str], &str, &str); 2] = [
        (
            &["load", "a b", "--config", text(&config)],
            "POST /v2/repository/models/a%20b/load ",
            "\\\"max_batch_size\\\":4",
        ),
        (
            &["unload", "m", "--dependents"],
            "POST /v2/repository/models/m/unload ",
            "\"unload_dependents\":true",
        ),
    ];
    for (args, line, body) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = one_request(listener, DONE);
        let (status, out, errors) = ends(&[args, &["--url", &url, "--token", TOKEN]].concat(), &[]);
        assert!(status == Some(0) && out.contains("loaded"), "{errors}");
        let asked = asked.join().unwrap();
        assert!(asked.starts_with(line) && asked.contains(body), "{asked}");
        assert!(asked.to_ascii_lowercase().contains(&format!("authorization: bearer {TOKEN}")), "{asked}");
    }
    let broken = dir.file("broken.json", "{");
    refused(&["load", "m", "--config", text(&broken), "--url", "http://127.0.0.1:1"], &["is not JSON"]);
    // A token goes nowhere else.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = one_request(
        listener,
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    );
    let (status, _, errors) = ends(&["unload", "m", "--url", &url, "--token", TOKEN], &[]);
    asked.join().unwrap();
    assert!([Some(1), Some(69)].contains(&status), "{errors}");
}

/// Another soft limit for the file descriptors of a process.
fn descriptors(child: &Child, soft: u64) {
    let limit = Rlimit { current: Some(soft), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(Pid::from_child(child)), Resource::Nofile, limit).unwrap();
}

fn open_descriptors(child: &Child) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count() as u64
}

fn ready(address: SocketAddr) -> u16 {
    request(address, "GET", "/v2/health/ready", "").0
}

#[test]
fn a_server_without_file_descriptors_goes_on() {
    let dir = models("descriptors");
    let mut serving = Serving::start(&[text(&dir.path("models")), "--cus", "1"]);
    descriptors(&serving.child, open_descriptors(&serving.child) + 8);
    let held: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(serving.http).unwrap()).collect();
    // Those without a request make room for one with it, again and again.
    for _ in 0..20 {
        assert_eq!(ready(serving.http), 200);
    }
    let complaint = serving.read_until("cannot accept a connection");
    assert!(complaint.contains("os error 24"), "{complaint}");
    drop(held);
    for _ in 0..20 {
        assert_eq!((ready(serving.http), ready(serving.metrics)), (200, 200));
    }
    let (status, log) = serving.stop();
    assert_eq!(status, Some(0));
    let complaints = log.iter().filter(|line| line.contains("cannot accept a connection")).count();
    assert!(complaints < 50, "it is not said for every one: {complaints}");
}

#[test]
fn ten_thousand_half_open_connections_hold_nobody_up() {
    let dir = models("half-open");
    let serving = Serving::start(&[text(&dir.path("models")), "--cus", "1"]);
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(20_000).min(20_000);
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).unwrap();
    let count = 10_000.min(wanted as usize - 500);
    let mut held = Vec::new();
    for index in 0..count {
        let mut stream = TcpStream::connect(serving.http).unwrap();
        if index % 2 == 0 {
            let _ = stream.write_all(b"POST /v2/models/control/infer HTTP/1.1\r\nhost: t\r\n");
        }
        held.push(stream);
        if index % 1_000 == 999 {
            assert_eq!(ready(serving.http), 200, "{index}");
        }
    }
    assert_eq!(ready(serving.http), 200);
    assert!(open_descriptors(&serving.child) < 3_000, "those that were closed are gone");
    drop(held);
    assert_eq!(serving.stop().0, Some(0));
}

#[test]
fn a_log_in_json_has_an_object_per_line_and_one_per_request() {
    let dir = models("json");
    let mut child = command(&["serve", text(&dir.path("models")), "--http-port", "0", "--metrics-port", "0"])
        .args(["--cus", "1", "--log-format", "json", "--log", "debug"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let http: SocketAddr = harness::serving::address(&said, "http=");
    let mut stream = TcpStream::connect(http).unwrap();
    stream
        .write_all(b"GET /v2 HTTP/1.1\r\nhost: t\r\nx-request-id: seven\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("x-request-id: seven"), "{answer}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let log: Vec<Value> =
        log.map(|line| serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert!(child.wait().unwrap().success());
    let requests: Vec<&Value> = log.iter().filter(|line| line["message"] == "request").collect();
    let [request] = &requests[..] else { panic!("{log:#?}") };
    assert_eq!((&request["id"], &request["path"]), (&Value::from("seven"), &Value::from("/v2")));
    assert_eq!((&request["status"], &request["level"]), (&Value::from(200), &Value::from("DEBUG")));
    assert!(log.iter().any(|line| line["message"] == "serving"), "{log:#?}");
}
