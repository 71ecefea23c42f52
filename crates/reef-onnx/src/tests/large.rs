//! Large models: weights that stay in their files, files that change or are broken.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use prost::Message;
use reef_base::limits::WEIGHTS_KEPT_BYTES;
use reef_graph::{Graph, ValueKind};
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network, specialise};
use crate::skim;
use crate::{OnnxModel, Specialised};

/// A folder that is there until the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("reef-onnx-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("there is a place for it");
        Folder(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("it can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Floats as the file of a model has them, which differ by `seed`.
fn raw(count: usize, seed: u64) -> Vec<u8> {
    let mut rng = reef_base::Rng::new(seed);
    (0..count).flat_map(|_| ((rng.next_u64() >> 40) as f32 / 1e8 + 0.01).to_le_bytes()).collect()
}

fn weights(network: &mut Network, dims: &[i64], seed: u64) -> String {
    network.bytes_of(DataType::Float, dims, &raw(dims.iter().product::<i64>() as usize, seed))
}

/// A value attribute with a tensor.
fn value(dims: &[i64], seed: u64) -> pb::AttributeProto {
    let raw_data = raw(dims.iter().product::<i64>() as usize, seed);
    let data_type = DataType::Float as i32;
    let tensor = pb::TensorProto { dims: dims.to_vec(), data_type, raw_data, ..Default::default() };
    let r#type = AttributeType::Tensor as i32;
    pb::AttributeProto { name: "value".into(), r#type, t: Some(tensor), ..Default::default() }
}

/// Constants of every kind that stays in a file: convolutions whose scaling is folded in, a matrix that is
/// used as it is and turned, a `Constant`, a table, and a vector that stays in the message.
fn network(width: i64) -> Network {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["N", "16", "4", "4"]);
    let conv = weights(&mut network, &[width, 16, 3, 3], 1);
    let pads = ("pads", Attr::Ints(&[1, 1, 1, 1]));
    let y = network.node("Conv", &["x", &conv], &[pads]);
    let parameters = [2, 3, 4, 5].map(|seed| weights(&mut network, &[width], seed));
    let [scale, shift, mean, variance] = &parameters;
    let y = network.node("BatchNormalization", &[&y, scale, shift, mean, variance], &[]);
    let y = network.node("GlobalAveragePool", &[&y], &[]);
    let y = network.node("Flatten", &[&y], &[]);
    let square = weights(&mut network, &[width, width], 6);
    let y = network.node("MatMul", &[&y, &square], &[]);
    let turned = network.node("Transpose", &[&square], &[("perm", Attr::Ints(&[1, 0]))]);
    let y = network.node("MatMul", &[&y, &turned], &[]);
    let constant = network.node("Constant", &[], &[]);
    network.attributes(vec![value(&[width, 8], 7)]);
    let y = network.node("MatMul", &[&y, &constant], &[]);
    network.output(&y, DataType::Float, &["N", "8"]);
    network
}

/// As many channels as make a model whose weights are not kept.
const WIDE: i64 = 2048;

/// The message that was skimmed, with what it left in the file.
fn filled(message: &[u8], file: &[u8]) -> (pb::ModelProto, usize) {
    fn fill(tensor: &mut pb::TensorProto, file: &[u8]) -> usize {
        let Some((offset, length)) = skim::place(tensor) else { return 0 };
        tensor.raw_data = file[offset as usize..][..length as usize].to_vec();
        tensor.external_data.clear();
        tensor.data_location = None;
        1
    }
    fn graph(of: &mut pb::GraphProto, file: &[u8]) -> usize {
        let mut count: usize = of.initializer.iter_mut().map(|tensor| fill(tensor, file)).sum();
        for attribute in of.node.iter_mut().flat_map(|node| &mut node.attribute) {
            count += attribute.t.iter_mut().map(|tensor| fill(tensor, file)).sum::<usize>();
            count += attribute.g.iter_mut().map(|inner| graph(inner, file)).sum::<usize>();
        }
        count
    }
    let mut model = pb::ModelProto::decode(message).expect("it is a message");
    let count = graph(model.graph.as_mut().expect("it has a graph"), file);
    (model, count)
}

fn skimmed(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).expect("it is there");
    let length = file.metadata().expect("it is there").len();
    skim::skim(&file, length)
}

#[test]
fn what_is_skimmed_is_the_message_without_its_large_tensors() {
    let folder = Folder::new("skim");
    let mut inner = Network::default();
    let table = weights(&mut inner, &[64, 64], 8);
    inner.output(&table, DataType::Float, &["64", "64"]);
    let mut outer = network(64);
    let other = outer.node("Neg", &["x"], &[]);
    outer.attributes(vec![inner.body("body"), value(&[64, 64], 9)]);
    outer.output(&other, DataType::Float, &["N", "16", "4", "4"]);
    let bytes = outer.changed(|graph| {
        // What says more of its data, or says it twice, is left alone.
        let mut strange = graph.initializer[0].clone();
        strange.name = "strange".into();
        strange.data_location = Some(0);
        graph.initializer.push(strange);
    });
    let path = folder.file("model.onnx", &bytes);
    let message = skimmed(&path).expect("it is a message");
    let (model, left) = filled(&message, &bytes);
    assert_eq!(left, 3, "of a convolution, a matrix and the table of a body; a constant is small");
    assert!(model == pb::ModelProto::decode(&bytes[..]).expect("it is a message"));
    let large = 4 * (64 * 16 * 9 + 2 * 64 * 64);
    assert!(bytes.len() - message.len() > large - 1000, "{} of {}", message.len(), bytes.len());
}

#[test]
fn broken_files_are_refused_wherever_they_end() {
    let folder = Folder::new("broken");
    let bytes = network(64).bytes();
    let ends = (0..bytes.len()).step_by(97).chain(bytes.len() - 40..bytes.len());
    let mut whole = 0;
    for end in ends {
        let path = folder.file("model.onnx", &bytes[..end]);
        // What is cut between two fields may be a model still: of another operator set.
        match (OnnxModel::read(&path), OnnxModel::from_bytes(&bytes[..end])) {
            (Ok(_), Ok(_)) => whole += 1,
            (Err(error), Err(_)) => {
                let error = error.to_string();
                let said = error.contains("not a valid ONNX model") || error.contains("operator set");
                assert!(said, "{end}: {error}");
            }
            (read, known) => panic!("{end}: {:?}, not {:?}", read.err(), known.err()),
        }
    }
    assert!(whole <= 2, "{whole} of them are models");
    let mut rng = reef_base::Rng::new(3);
    for _ in 0..300 {
        let mut bytes = bytes.clone();
        for _ in 0..4 {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.next_u64() as u8;
        }
        // A header that is changed may be one still; whatever comes, it is what decoding all would say.
        let path = folder.file("model.onnx", &bytes);
        let whole = OnnxModel::from_bytes(&bytes).is_ok();
        assert_eq!(OnnxModel::read(&path).is_ok(), whole);
    }
    for (bytes, expected) in [
        (&[0x3a, 0x80][..], "it ends within a number at byte 1"),
        (&[0x3a, 5, 0], "the field at byte 0 is longer than what it is in"),
        (&[0x3b], "a field of wire type 3 at byte 0"),
        (&[0x38, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0], "a number without end"),
    ] {
        let error = skimmed(&folder.file("model.onnx", bytes)).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    }
}

/// Constants by their content, and how many of them are not in memory.
fn constants(graph: &Graph) -> (Vec<Vec<u8>>, usize) {
    let constants = graph.values.iter().filter_map(|value| match &value.kind {
        ValueKind::Const(tensor) => Some(tensor),
        _ => None,
    });
    let stored = constants.clone().filter(|tensor| tensor.is_stored()).count();
    (constants.map(|tensor| tensor.clone().bytes().as_slice().to_vec()).collect(), stored)
}

fn one(model: &OnnxModel) -> Specialised {
    specialise(model, &[&[1, 16, 4, 4]])
}

#[test]
fn constants_of_large_files_are_the_same_as_those_in_memory() {
    let folder = Folder::new("large");
    for (width, large) in [(64, false), (WIDE, true)] {
        let bytes = network(width).bytes();
        assert_eq!(bytes.len() > WEIGHTS_KEPT_BYTES, large);
        let read = OnnxModel::read(&folder.file("model.onnx", &bytes)).expect("it is a model");
        let held = OnnxModel::from_bytes(&bytes).expect("it is a model");
        for batch in [1, 3] {
            let [read, held] = [&read, &held].map(|model| specialise(model, &[&[batch, 16, 4, 4]]));
            assert_eq!(read.graph.to_string(), held.graph.to_string());
            let ((read, stored), (held, none)) = (constants(&read.graph), constants(&held.graph));
            assert!(read == held);
            assert_eq!(none, 0);
            // The convolution's, the matrix both ways and the constant, unless one stands for both.
            assert_eq!(stored >= 3, large, "{stored}");
        }
        read.release();
        assert!(constants(&one(&read).graph).0 == constants(&one(&held).graph).0);
        read.intact().expect("nothing has changed");
    }
}

#[test]
fn a_file_that_changes_is_noticed() {
    let folder = Folder::new("changing");
    let bytes = network(WIDE).bytes();
    type Change = fn(&Path, &[u8]);
    let changes: [(&str, Change); 3] = [
        ("has changed since the model was loaded: load it again", |path, bytes| {
            let file = OpenOptions::new().write(true).open(path).expect("it is there");
            file.write_all_at(&vec![7; bytes.len() - 4096], 2048).expect("it can be written");
        }),
        ("load it again", |path, bytes| {
            let file = OpenOptions::new().write(true).open(path).expect("it is there");
            file.set_len(bytes.len() as u64 / 2).expect("it can be cut off");
        }),
        ("", |path, _| {
            // Another file under its name is not the model's.
            std::fs::remove_file(path).expect("it is there");
            std::fs::write(path, b"no model").expect("it can be written");
        }),
    ];
    for (expected, change) in changes {
        let path = folder.file("model.onnx", &bytes);
        let model = OnnxModel::read(&path).expect("it is a model");
        let before = one(&model);
        let key = |graph: &Graph| constants(graph).0;
        let known = key(&before.graph);
        model.intact().expect("nothing has changed");
        change(&path, &bytes);
        let after = model.specialise(&[("x", [2, 16, 4, 4].into())]);
        match after {
            // What is made of the constants was known.
            Ok(after) => drop(key(&after.graph)),
            Err(error) => assert!(error.to_string().contains(expected), "{error}"),
        }
        match model.intact() {
            Ok(()) => assert!(expected.is_empty() && key(&before.graph) == known),
            Err(error) => {
                let error = error.to_string();
                assert!(!expected.is_empty() && error.contains(expected), "{error}");
                let error = model.specialise(&[("x", [3, 16, 4, 4].into())]).expect_err("it stays");
                assert!(error.to_string().contains("has changed since"), "{error}");
            }
        }
    }
}

#[test]
fn external_data_may_lie_beyond_two_gigabytes() {
    let folder = Folder::new("beyond");
    const AT: u64 = 3 << 30;
    let dims = [WIDE, WIDE];
    let data = raw((WIDE * WIDE) as usize, 1);
    let whole = {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["1", "2048"]);
        let weights = network.bytes_of(DataType::Float, &dims, &data);
        let y = network.node("MatMul", &["x", &weights], &[]);
        network.output(&y, DataType::Float, &["1", "2048"]);
        network
    };
    let entry = |key: &str, value: String| pb::StringStringEntryProto { key: key.into(), value };
    let bytes = whole.changed(|graph| {
        let tensor = &mut graph.initializer[0];
        tensor.raw_data.clear();
        tensor.data_location = Some(1);
        tensor.external_data = vec![entry("location", "data".into()), entry("offset", AT.to_string())];
        // A second one makes the model large.
        let mut other = tensor.clone();
        other.name = "other".into();
        graph.initializer.push(other);
    });
    let path = folder.file("model.onnx", &bytes);
    let file = File::create(folder.0.join("data")).expect("it can be written");
    file.write_all_at(&data, AT).expect("there is a place for it");
    let model = OnnxModel::read(&path).expect("it is a model");
    let special = specialise(&model, &[&[1, 2048]]);
    let (made, stored) = constants(&special.graph);
    let data_bytes = data.len();
    assert!(made == [data]);
    assert_eq!(stored, 1);
    // Half of it goes.
    file.set_len(AT + 4096).expect("it can be cut off");
    assert!(constants(&special.graph).0 == [vec![0; data_bytes]], "nothing wrong is handed out");
    let error = model.intact().expect_err("it is shorter").to_string();
    assert!(
        error.contains("has changed since the model was loaded (") && error.contains("load it"),
        "{error}"
    );
}
