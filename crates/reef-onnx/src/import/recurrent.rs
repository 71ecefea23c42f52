//! `LSTM`, `GRU` and `RNN` with all their attributes and optional inputs.

use reef_graph::{Cell, DType, Direction, Op, RecurrentAttrs, Shape, ValueId};
use tract_onnx::pb::AttributeProto;

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};
use crate::register::gate_functions;

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    match node.operator() {
        "LSTM" | "GRU" | "RNN" => Some(recurrent(b, node)),
        _ => None,
    }
}

fn recurrent(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    let turned = node.flag("layout");
    let [x, w, r] = [node.input(0)?, node.input(1)?, node.input(2)?];
    let declared = node.attribute("hidden_size").map(|size| size.i);
    let hidden = b.shape(r).last().copied().unwrap_or(0);
    if let Some(size) = declared.filter(|&size| size != hidden as i64) {
        return wrong(format!("hidden_size is {size}, the recurrent weights have {hidden}"));
    }
    let is_lstm = node.operator() == "LSTM";
    let optional = [node.optional(3), node.optional(4), node.optional(5), node.optional(6), node.optional(7)];
    let [bias, lengths, initial_h, initial_c, peepholes] = optional;
    let lengths = lengths.filter(|&lengths| !whole_sequences(b, lengths, x, turned));
    let attrs = RecurrentAttrs {
        cell: cell(node)?,
        directions: directions(node)?,
        hidden,
        clip: clip(node)?,
        bias: bias.is_some(),
        lengths: lengths.is_some(),
        initial_h: initial_h.is_some(),
        initial_c: initial_c.is_some(),
        peepholes: peepholes.is_some(),
        integers: false,
    };
    let (x, back) = b.computable(name, x)?;
    let mut operands = vec![steps_first(b, name, x, turned)?];
    for weights in [Some(w), Some(r), bias].into_iter().flatten() {
        operands.push(b.computable(name, weights)?.0);
    }
    operands.extend(lengths);
    for state in [initial_h, initial_c].into_iter().flatten() {
        let (state, _) = b.computable(name, state)?;
        operands.push(steps_first(b, name, state, turned)?);
    }
    if let Some(peepholes) = peepholes {
        operands.push(b.computable(name, peepholes)?.0);
    }
    let facts: Vec<(DType, Shape)> = operands.iter().map(|&id| (b.dtype(id), b.shape(id))).collect();
    let outputs = attrs.outputs(&facts).map_err(Reject::Wrong)?;
    if facts.iter().any(|(_, shape)| shape.elements() == 0) {
        return Err("of no elements".into());
    }
    for (_, shape) in &outputs {
        super::graph::fitting(shape)?;
    }
    let made = b.graph.add_node_multi(name, Op::Recurrent(attrs), &operands, outputs);
    let mut results = vec![];
    for (slot, value) in made.into_iter().enumerate().take(if is_lstm { 3 } else { 2 }) {
        let value = match (turned, slot) {
            (false, _) => value,
            // [steps, directions, batch, hidden] as [batch, steps, directions, hidden].
            (true, 0) => b.transpose(name, value, vec![2, 0, 1, 3])?,
            (true, _) => b.transpose(name, value, vec![1, 0, 2])?,
        };
        results.push(b.cast(name, value, back)?);
    }
    Ok(results)
}

/// The first two axes exchanged where the batch is first.
fn steps_first(b: &mut Builder, name: &str, x: ValueId, turned: bool) -> Result<ValueId, Reject> {
    match turned && b.rank(x) == 3 {
        true => b.transpose(name, x, vec![1, 0, 2]),
        false => Ok(x),
    }
}

/// Whether constant lengths are all those of the whole input.
pub(super) fn whole_sequences(b: &Builder, lengths: ValueId, x: ValueId, turned: bool) -> bool {
    let steps = b.shape(x).get(usize::from(turned)).copied().unwrap_or(0);
    let known = b.known(lengths).and_then(crate::consts::integers);
    known.is_some_and(|known| known.iter().all(|&length| length == steps as i64))
}

pub(super) fn cell(node: &Node) -> Result<Cell, Reject> {
    let flag = |name: &str| match node.int(name, 0) {
        flag @ (0 | 1) => Ok(flag == 1),
        other => wrong(format!("{name} is {other}, not 0 or 1")),
    };
    Ok(match node.operator() {
        "LSTM" | "com.microsoft.DynamicQuantizeLSTM" => Cell::Lstm { input_forget: flag("input_forget")? },
        "GRU" => Cell::Gru { linear_before_reset: node.flag("linear_before_reset") },
        _ => Cell::Rnn,
    })
}

pub(super) fn clip(node: &Node) -> Result<Option<f32>, Reject> {
    match node.attribute("clip").map(|clip| clip.f) {
        Some(clip) if clip.is_nan() || clip < 0.0 => wrong("clip is negative"),
        clip => Ok(clip),
    }
}

pub(super) fn directions(node: &Node) -> Result<Vec<Direction>, Reject> {
    let reverse: &[bool] = match node.text("direction").unwrap_or("forward") {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return wrong(format!("direction `{other}` is not forward, reverse or bidirectional")),
    };
    let defaults: &[&str] = match node.operator() {
        "LSTM" | "com.microsoft.DynamicQuantizeLSTM" => &["Sigmoid", "Tanh", "Tanh"],
        "GRU" => &["Sigmoid", "Tanh"],
        _ => &["Tanh"],
    };
    let wanted = defaults.len() * reverse.len();
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let names: Vec<String> = match node.attribute("activations") {
        Some(given) => given.strings.iter().map(text).collect(),
        None => defaults.iter().copied().cycle().take(wanted).map(str::to_owned).collect(),
    };
    if names.len() != wanted {
        return wrong(format!("{} activations for {wanted} places", names.len()));
    }
    let list = |name: &str| node.attribute(name).map_or(&[][..], |given: &AttributeProto| &given.floats);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let functions = gate_functions(&names, list("activation_alpha"), list("activation_beta"));
    let functions = functions.map_err(Reject::Wrong)?;
    let sides = functions.chunks(defaults.len()).zip(reverse);
    Ok(sides.map(|(functions, &reverse)| Direction { reverse, functions: functions.to_vec() }).collect())
}
