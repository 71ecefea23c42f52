//! What the tests of the binary share: scratch directories, the command, tiny models and tensors as files.
//!
//! ONNX and NumPy files are encoded here by hand, so that models can be written that no exporter would.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod onnx;
pub mod serving;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Bounds every wait: far above what a loaded machine takes, reached only by a hang.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A directory of one test, empty at the start and removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("reef-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file with this content; makes the directories on the way.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A tiny model of the zoo.
    pub fn zoo(&self, model: &str, name: &str) -> PathBuf {
        self.file(name, tiny(model, &reef_zoo::Variant::tiny()))
    }

    /// A tiny model with symbolic dimensions.
    pub fn zoo_dynamic(&self, model: &str, name: &str) -> PathBuf {
        self.file(name, tiny(model, &reef_zoo::Variant::tiny().dynamic()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tiny(model: &str, variant: &reef_zoo::Variant) -> Vec<u8> {
    reef_zoo::build(model.parse().unwrap(), variant).unwrap()
}

/// The command, with its log on standard error.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reef"));
    command.args(args).env("REEF_LOG", "info").stdin(Stdio::null());
    command
}

/// Runs the command to its end; kills it and fails where it has none.
pub fn reef(args: &[&str]) -> Output {
    let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = drained(child.stdout.take().unwrap());
    let stderr = drained(child.stderr.take().unwrap());
    let ended = stdout.recv_timeout(PATIENCE).and_then(|out| Ok((out, stderr.recv_timeout(PATIENCE)?)));
    let Ok((stdout, stderr)) = ended else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{args:?} does not end");
    };
    Output { status: child.wait().unwrap(), stdout, stderr }
}

/// All that a stream gives, once it ends.
fn drained(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, whole) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let _ = sender.send(bytes);
    });
    whole
}

/// Standard output of a command that succeeds.
pub fn succeeds(args: &[&str]) -> String {
    let output = reef(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A command line that cannot be meant: status 2, and a message that says `expected`.
pub fn misused(args: &[&str], expected: &str) {
    let output = reef(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
    assert!(errors.contains(expected), "{args:?}: {errors}");
}

/// A command that ends with status 1, no result and one message, which says all of `expected`.
pub fn refused(args: &[&str], expected: &[&str]) {
    let output = reef(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
    assert!(output.stdout.is_empty(), "{args:?} prints a result");
    for text in expected {
        assert!(errors.contains(text), "{args:?}: '{text}' is not in: {errors}");
    }
    for noise in ["panicked", "backtrace", "\x1b"] {
        assert!(!errors.contains(noise), "{args:?}: {errors}");
    }
    let messages = errors.lines().filter(|line| line.starts_with("reef: ")).count();
    assert_eq!(messages, 1, "{args:?}: {errors}");
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A NumPy file; `descr` such as `<f4`, `shape` such as `(1, 3)`.
pub fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    file
}
