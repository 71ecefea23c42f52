//! What the tests of the binary share: scratch directories, the command, tiny models and tensors as files.
//!
//! ONNX and NumPy files are encoded here by hand, so that models can be written that no exporter would.

#![allow(dead_code, reason = "each test binary uses a part")]

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

/// A model of one node `op` from `x`, f32 `[4]`, to `y`; `out_type` is ONNX's number of an element type.
pub fn one_node(op: &str, out_type: u8) -> Vec<u8> {
    nodes(&[(op, "y")], out_type)
}

/// A model of nodes `(op, output)`, each from `x`, f32 `[4]`.
pub fn nodes(nodes: &[(&str, &str)], out_type: u8) -> Vec<u8> {
    let tensor = |name: &str, elem_type: u8, dim: Vec<u8>| {
        let tensor = [vec![0x08, elem_type], message(2, &message(1, &dim))].concat();
        [message(1, name.as_bytes()), message(2, &message(1, &tensor))].concat()
    };
    let mut graph = Vec::new();
    for (index, (op, output)) in nodes.iter().enumerate() {
        let name = if index == 0 { "the_node".to_string() } else { format!("node {index}") };
        let node = [message(1, b"x"), message(2, output.as_bytes()), message(3, name.as_bytes())].concat();
        graph.extend(message(1, &[node, message(4, op.as_bytes())].concat()));
    }
    graph.extend(message(2, b"graph"));
    graph.extend(message(11, &tensor("x", 1, vec![0x08, 4])));
    for (_, output) in nodes {
        graph.extend(message(12, &tensor(output, out_type, message(2, b"n"))));
    }
    // IR version 8, operator set 17.
    [vec![0x08, 8], message(7, &graph), message(8, &[0x10, 17])].concat()
}

/// A length-delimited field of a protocol buffer.
fn message(field: u8, content: &[u8]) -> Vec<u8> {
    [vec![field << 3 | 2], varint(content.len()), content.to_vec()].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = vec![];
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A model of `count` convolutions with `width` channels on each side, of single elements of an image of
/// 2 × 2, whose results are scaled, each with weights of its own, as raw data.
pub fn convolutions(width: usize, count: usize) -> Vec<u8> {
    let number = |field: u8, value: usize| [vec![field << 3], varint(value)].concat();
    let floats = |name: &str, dims: &[usize], seed: usize| {
        let mut tensor: Vec<u8> = dims.iter().flat_map(|&extent| number(1, extent)).collect();
        let elements: usize = dims.iter().product();
        let value = |at: usize| ((at * 31 + seed * 17) % 1009) as f32 / 1e6;
        let raw: Vec<u8> = (0..elements).flat_map(|at| value(at).to_le_bytes()).collect();
        tensor.extend([number(2, 1), message(8, name.as_bytes()), message(9, &raw)].concat());
        message(5, &tensor)
    };
    let value = |name: &str| {
        let dims: Vec<u8> =
            [1, width, 2, 2].iter().flat_map(|&extent| message(1, &number(1, extent))).collect();
        let tensor = [number(1, 1), message(2, &dims)].concat();
        [message(1, name.as_bytes()), message(2, &message(1, &tensor))].concat()
    };
    let node = |operator: &str, inputs: [&str; 2], output: &str| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|input| message(1, input.as_bytes())).collect();
        message(1, &[inputs, message(2, output.as_bytes()), message(4, operator.as_bytes())].concat())
    };
    let mut graph = message(2, b"graph");
    for at in 0..count {
        let [x, conv, y] = [format!("x{at}"), format!("conv{at}"), format!("x{}", at + 1)];
        let [weights, scale] = [format!("weights{at}"), format!("scale{at}")];
        graph.extend(node("Conv", [&x, &weights], &conv));
        graph.extend(node("Mul", [&conv, &scale], &y));
        graph.extend(floats(&weights, &[width, width, 1, 1], at));
        graph.extend(floats(&scale, &[width, 1, 1], at));
    }
    graph.extend(message(11, &value("x0")));
    graph.extend(message(12, &value(&format!("x{count}"))));
    [vec![0x08, 8], message(7, &graph), message(8, &[0x10, 17])].concat()
}
