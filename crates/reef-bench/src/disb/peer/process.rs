//! The program of an adapter: lines to it, lines from it, its last words and its end. Knows no protocol.
//!
//! However the benchmark ends, by a signal that nobody can catch even, the program ends with it: a *warden*,
//! a process whose input only the benchmark holds open, kills the program's group a moment after that ends.
//!
//! Three threads serve its pipes, so that neither a program that does not read nor one that does not end its
//! lines can hold up the benchmark. They end with the pipes, and are not waited for: a process that the
//! program left behind may keep those open.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// The longest line of an answer: some million requests.
const LINE_BYTES_MAX: u64 = 256 << 20;
/// Lines of standard error that are kept.
const LAST_WORDS_MAX: usize = 8;
/// The longest of these; more of it makes another line.
const WORDS_BYTES_MAX: u64 = 400;
/// How long a program that closed its output has to end, and its last words have to arrive.
const ENDING: Duration = Duration::from_secs(1);

/// Waits until its input ends, and for a moment in which the program may end by itself.
const WARDEN: &str = "read -r _; sleep 1; kill -9 \"-$1\"";

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Problem {
    /// It closed its output, and ended like this or not at all.
    Ended(Option<ExitStatus>),
    /// It did not answer in time.
    Silent(Duration),
    /// What it writes cannot be read.
    Unreadable(io::Error),
}

/// A running program; the leader of a process group.
#[derive(Debug)]
pub(super) struct Adapter {
    child: Child,
    /// Ends the program where nobody else does.
    warden: Child,
    /// Its input is closed without.
    requests: Option<Sender<String>>,
    answers: Receiver<io::Result<String>>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    /// Disconnected when standard error has ended.
    stderr: Receiver<()>,
    /// It has been waited for.
    status: Option<ExitStatus>,
}

impl Adapter {
    /// Starts a command line of `sh`.
    pub(super) fn start(command: &str) -> io::Result<Adapter> {
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(command).process_group(0);
        let mut child = sh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let warden = match warden(&child) {
            Ok(warden) => warden,
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(error);
            }
        };
        let piped = "it was asked for";
        let (stdin, stdout) = (child.stdin.take().expect(piped), child.stdout.take().expect(piped));
        let stderr = child.stderr.take().expect(piped);
        let (requests, to_write) = mpsc::channel();
        let (answered, answers) = mpsc::sync_channel(1);
        let (open, ended) = mpsc::sync_channel(1);
        let last_words = Arc::new(Mutex::new(VecDeque::with_capacity(LAST_WORDS_MAX)));
        let kept = last_words.clone();
        thread::spawn(move || write_lines(stdin, &to_write));
        thread::spawn(move || read_lines(stdout, &answered));
        thread::spawn(move || keep_last_lines(stderr, &kept, open));
        let requests = Some(requests);
        Ok(Adapter { child, warden, requests, answers, last_words, stderr: ended, status: None })
    }

    /// Sends a line and waits for one.
    pub(super) fn ask(&mut self, line: String, limit: Duration) -> Result<String, Problem> {
        self.send(line);
        match self.answers.recv_timeout(limit) {
            Ok(answer) => answer.map_err(Problem::Unreadable),
            Err(RecvTimeoutError::Timeout) => Err(Problem::Silent(limit)),
            Err(RecvTimeoutError::Disconnected) => {
                let by_itself = self.await_end();
                self.kill();
                Err(Problem::Ended(self.status.filter(|_| by_itself)))
            }
        }
    }

    /// Sends a last line, closes the input and waits until the output is closed too.
    pub(super) fn finish(&mut self, line: String, limit: Duration) {
        self.send(line);
        self.requests = None;
        let given_up = Instant::now() + limit;
        while self.answers.recv_timeout(given_up.saturating_duration_since(Instant::now())).is_ok() {}
    }

    fn send(&self, line: String) {
        // Fails if the program has closed its input; then either it has ended, or it will be silent.
        let _ = self.requests.as_ref().map(|requests| requests.send(line));
    }

    /// The last lines that it wrote to standard error; all there will be, if it has been killed.
    pub(super) fn last_words(&self) -> Vec<String> {
        self.last_words.lock().expect("keeping a line does not panic").iter().cloned().collect()
    }

    /// Ends it and what it started, at once.
    pub(super) fn kill(&mut self) {
        // Once it has been waited for, the number of its group may be another's.
        if self.status.is_some() {
            return;
        }
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.status = self.child.wait().ok();
        // It must not act any more: the number may soon be another's.
        let _ = self.warden.kill().and_then(|()| self.warden.wait());
        let _ = self.stderr.recv_timeout(ENDING);
    }

    /// Gives a program that closed its output a moment to end, for its exit status; leaves it to be taken.
    fn await_end(&self) -> bool {
        if self.status.is_some() {
            return true;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let given_up = Instant::now() + ENDING;
        while Instant::now() < given_up {
            if let Ok(Some(_)) = waitid(WaitId::Pid(Pid::from_child(&self.child)), options) {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Ended(Some(status)) => write!(f, "ended instead of answering: {status}"),
            Problem::Ended(None) => f.write_str("closed its output instead of answering"),
            Problem::Silent(limit) => write!(f, "did not answer within {limit:?}"),
            Problem::Unreadable(error) => write!(f, "gave an answer that cannot be read: {error}"),
        }
    }
}

/// In a group of its own, which no signal to the benchmark's or the program's reaches.
fn warden(child: &Child) -> io::Result<Child> {
    let mut sh = Command::new("sh");
    sh.args(["-c", WARDEN, "warden", &child.id().to_string()]).process_group(0);
    sh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Until the sender is dropped, which closes the pipe.
fn write_lines(mut stdin: ChildStdin, lines: &Receiver<String>) {
    for line in lines {
        let written = stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
        if written.and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

fn read_lines(stdout: ChildStdout, lines: &SyncSender<io::Result<String>>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let line = match read_line(&mut stdout, LINE_BYTES_MAX) {
            Ok(None) => return,
            Ok(Some(line)) if line.len() as u64 == LINE_BYTES_MAX => {
                Err(io::Error::other(format!("a line is longer than {LINE_BYTES_MAX} bytes")))
            }
            Ok(Some(line)) => Ok(line),
            Err(error) => Err(error),
        };
        let last = line.is_err();
        if lines.send(line).is_err() || last {
            return;
        }
    }
}

/// Drops `_open` at the end.
fn keep_last_lines(stderr: ChildStderr, kept: &Mutex<VecDeque<String>>, _open: SyncSender<()>) {
    let mut stderr = BufReader::new(stderr);
    while let Ok(Some(line)) = read_line(&mut stderr, WORDS_BYTES_MAX) {
        let mut kept = kept.lock().expect("keeping a line does not panic");
        if kept.len() == LAST_WORDS_MAX {
            kept.pop_front();
        }
        kept.push_back(line);
    }
}

/// A line without its end, or its first `bytes_max` bytes; `None` at the end.
fn read_line(from: &mut impl BufRead, bytes_max: u64) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.take(bytes_max).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}
