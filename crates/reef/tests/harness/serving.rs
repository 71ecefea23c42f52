//! A server as a child process, and its clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use super::{PATIENCE, command};

/// A server that says where it listens; killed if a test fails.
pub struct Serving {
    pub child: Child,
    /// Of its log.
    pub lines: Receiver<String>,
    /// Of its standard output.
    pub said: Receiver<String>,
    pub log: Vec<String>,
    pub http: SocketAddr,
    pub metrics: SocketAddr,
}

impl Serving {
    /// Returns when all models are loaded.
    pub fn start(args: &[&str]) -> Serving {
        Serving::start_with(&[], args)
    }

    /// The same with these variables.
    pub fn start_with(variables: &[(&str, &str)], args: &[&str]) -> Serving {
        let mut serving = Serving::spawn_with(variables, args, "info");
        serving.listens_at(" serving ");
        serving
    }

    pub fn spawn(args: &[&str], log_level: &str) -> Serving {
        Serving::spawn_with(&[], args, log_level)
    }

    fn spawn_with(variables: &[(&str, &str)], args: &[&str], log_level: &str) -> Serving {
        let free = ["--http-port", "0", "--metrics-port", "0"];
        let mut child = command(&[&["serve"], args, &free].concat())
            .env("REEF_LOG", log_level)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, said) = (lines(child.stderr.take().unwrap()), lines(child.stdout.take().unwrap()));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Serving { child, lines, said, log: Vec::new(), http: nowhere, metrics: nowhere }
    }

    /// Reads the log up to the line with `what`, which has the addresses.
    pub fn listens_at(&mut self, what: &str) {
        let line = self.read_until(what);
        self.http = address(&line, "http=");
        self.metrics = address(&line, "metrics=");
    }

    pub fn read_until(&mut self, what: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no '{what}' in the log: {:#?}", self.log));
            self.log.push(line.clone());
            if line.contains(what) {
                return line;
            }
        }
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        parsed(request(self.http, "GET", path, ""))
    }

    pub fn infer(&self, model: &str, body: &str) -> (u16, Value) {
        parsed(request(self.http, "POST", &format!("/v2/models/{model}/infer"), body))
    }

    /// An error that says all of `expected`.
    pub fn refuses(&self, model: &str, body: &str, status: u16, expected: &[&str]) {
        let (code, answer) = self.infer(model, body);
        let message = answer["error"].as_str().unwrap_or_default();
        assert_eq!(code, status, "{body}: {answer}");
        for part in expected {
            assert!(message.contains(part), "{body}: {answer}");
        }
    }

    /// Asks to stop.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Asks to stop and waits; the log's rest.
    pub fn stop(mut self) -> (Option<i32>, Vec<String>) {
        self.terminate();
        // The log ends with the process; a hang is found by the bound on each line.
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.log.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("{error}: {:#?}", self.log),
            }
        }
        let status = self.child.wait().unwrap();
        (status.code(), std::mem::take(&mut self.log))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    let send =
        move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
    std::thread::spawn(send);
    lines
}

/// The address after `key` in a line of the log.
pub fn address(line: &str, key: &str) -> SocketAddr {
    let rest = line.split_once(key).unwrap_or_else(|| panic!("no {key} in {line}")).1;
    let word = rest.trim_start_matches('"').split([' ', '"']).next().unwrap();
    word.parse().unwrap_or_else(|_| panic!("{key}{word} in {line}"))
}

pub fn request(to: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let len = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_string())
}

pub fn parsed((status, body): (u16, String)) -> (u16, Value) {
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}
