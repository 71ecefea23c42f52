//! `LSTM`, `GRU` and `RNN` with all their attributes and optional inputs.

use reef_graph::{Cell, DType, Direction, GateFunction, Op, RecurrentAttrs, Shape, ValueId};
use tract_onnx::pb::AttributeProto;

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};

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
    let weights = [Some(w), Some(r), bias, peepholes];
    if weights.into_iter().flatten().any(|weights| b.known(weights).is_none()) {
        return Err("its weights are computed".into());
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
    let functions = functions(&names, list("activation_alpha"), list("activation_beta"))?;
    let sides = functions.chunks(defaults.len()).zip(reverse);
    Ok(sides.map(|(functions, &reverse)| Direction { reverse, functions: functions.to_vec() }).collect())
}

/// The functions called `names`. Those with parameters take them from the front of `alphas` and `betas`, and
/// defaults once a list is used up. Where ONNX Runtime takes others than the specification (or this says
/// nothing) there are none, and such functions are refused.
fn functions(names: &[String], alphas: &[f32], betas: &[f32]) -> Result<Vec<GateFunction>, Reject> {
    let (mut alphas, mut betas) = (alphas.iter().copied(), betas.iter().copied());
    let mut found = vec![];
    for name in names {
        let missing = |what: &str| Reject::Wrong(format!("the activation function `{name}` needs an {what}"));
        let mut alpha =
            |default: Option<f32>| alphas.next().or(default).ok_or_else(|| missing("activation_alpha"));
        let mut beta =
            |default: Option<f32>| betas.next().or(default).ok_or_else(|| missing("activation_beta"));
        found.push(match name.to_ascii_lowercase().as_str() {
            "sigmoid" => GateFunction::Sigmoid,
            "tanh" => GateFunction::Tanh,
            "relu" => GateFunction::Relu,
            "softsign" => GateFunction::Softsign,
            "softplus" => GateFunction::Softplus,
            "affine" => GateFunction::Affine { alpha: alpha(None)?, beta: beta(None)? },
            "leakyrelu" => GateFunction::LeakyRelu { alpha: alpha(Some(0.01))? },
            "thresholdedrelu" => GateFunction::ThresholdedRelu { alpha: alpha(None)? },
            "scaledtanh" => GateFunction::ScaledTanh { alpha: alpha(None)?, beta: beta(None)? },
            "hardsigmoid" => GateFunction::HardSigmoid { alpha: alpha(Some(0.2))?, beta: beta(Some(0.5))? },
            "elu" => GateFunction::Elu { alpha: alpha(Some(1.0))? },
            _ => {
                return wrong(format!("the activation function `{name}` is not one of the specification's"));
            }
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_in_order_by_those_that_have_them() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let parsed = functions(&names(&["Tanh", "ELU", "hardSigmoid", "LeakyRelu"]), &[2.0, 0.3], &[]);
        let hard = GateFunction::HardSigmoid { alpha: 0.3, beta: 0.5 };
        let leaky = GateFunction::LeakyRelu { alpha: 0.01 };
        let expected = vec![GateFunction::Tanh, GateFunction::Elu { alpha: 2.0 }, hard, leaky];
        assert_eq!(parsed.expect("they are the specification's"), expected);
        let refused = |name: &str| match functions(&names(&[name]), &[], &[]) {
            Err(Reject::Wrong(reason)) => reason,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(refused("Sine"), "the activation function `Sine` is not one of the specification's");
        assert_eq!(refused("Affine"), "the activation function `Affine` needs an activation_alpha");
    }
}
