//! Operators with a state that a request hands on to the next: linear attention, which is written out step
//! by step, causal convolutions, and caches of keys and values.

use reef_graph::{Binary, ConvAttrs, DType, Op, Shape, Tensor, Unary, ValueId};

use super::attributes::{Node, axis_of};
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    match node.operator() {
        "LinearAttention" => Some(linear_attention(b, node)),
        "CausalConvWithState" => Some(causal_conv(b, node)),
        "TensorScatter" => Some(cached(b, node).map(|value| vec![value])),
        _ => None,
    }
}

/// Steps of linear attention that are written out.
const STEPS_MAX: usize = 256;
/// Elements of the window of a causal convolution with computed weights.
const TAPS_MAX: usize = 64;

/// The extents of linear attention.
struct Sizes {
    batch: usize,
    steps: usize,
    heads: usize,
    /// Heads of keys, values and states.
    shared: usize,
    depth: usize,
    width: usize,
}

/// Operands `[N, steps, …]` in single precision.
struct Operands {
    queries: ValueId,
    keys: ValueId,
    values: ValueId,
    /// What the state is multiplied with before a step.
    decay: Option<ValueId>,
    /// How much of the difference between a value and what the state has for its key is learnt.
    beta: Option<ValueId>,
}

fn linear_attention(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    let sizes = sizes(b, node)?;
    let operands = operands(b, node, &sizes)?;
    let back = b.dtype(node.input(0)?);
    let of_state = Shape::from([sizes.batch, sizes.shared, sizes.depth, sizes.width]);
    let (mut state, state_back) = match node.optional(3) {
        Some(state) if b.shape(state) == of_state => b.computable(name, state)?,
        Some(state) => return wrong(format!("a state of shape {}, not {of_state}", b.shape(state))),
        None => (b.zeros(DType::F32, of_state)?, back),
    };
    let mut rows = vec![];
    for step in 0..sizes.steps {
        let row = advance(b, name, &sizes, &operands, (&mut state, step))?;
        rows.push(b.reshape(name, row, Shape::from([sizes.batch, 1, sizes.heads * sizes.width]))?);
    }
    let made = match rows.is_empty() {
        true => b.zeros(DType::F32, Shape::from([sizes.batch, 0, sizes.heads * sizes.width]))?,
        false => b.concat(name, &rows, 1)?,
    };
    let scale = match node.float("scale", 0.0) {
        0.0 => 1.0 / (sizes.depth as f64).sqrt(),
        scale => scale.into(),
    };
    let scale = b.scalar(DType::F32, scale);
    let made = b.binary(name, Binary::Mul, made, scale)?;
    Ok(vec![b.cast(name, made, back)?, b.cast(name, state, state_back)?])
}

fn sizes(b: &Builder, node: &Node) -> Result<Sizes, Reject> {
    let count = |name: &str| usize::try_from(node.int(name, 0)).unwrap_or(0);
    let (heads, shared) = (count("q_num_heads"), count("kv_num_heads"));
    let [q, k, v] = [node.input(0)?, node.input(1)?, node.input(2)?].map(|id| b.shape(id));
    let fits = [&q, &k, &v].iter().all(|shape| shape.rank() == 3 && shape[..2] == q[..2]);
    if heads == 0 || shared == 0 || !fits || !heads.is_multiple_of(shared) {
        return wrong(format!("{heads} and {shared} heads of shapes {q}, {k} and {v}"));
    }
    let (depth, width) = (q[2] / heads, v[2] / shared);
    if [q[2], k[2], v[2]] != [heads * depth, shared * depth, shared * width] || depth * width == 0 {
        return wrong(format!("{heads} and {shared} heads of shapes {q}, {k} and {v}"));
    }
    if q[1] > STEPS_MAX {
        return wrong(format!("{} steps: {STEPS_MAX} are supported", q[1]));
    }
    Ok(Sizes { batch: q[0], steps: q[1], heads, shared, depth, width })
}

fn operands(b: &mut Builder, node: &Node, sizes: &Sizes) -> Result<Operands, Reject> {
    let name = node.name();
    let rule = node.text("update_rule").unwrap_or("gated_delta");
    let (gated, delta) = (rule.starts_with("gated"), rule.ends_with("delta"));
    let mut extra = [None; 2];
    let least = [sizes.shared, sizes.shared];
    let most = [sizes.shared * sizes.depth, 1];
    for (at, (index, wanted)) in [(4, gated), (5, delta)].into_iter().enumerate() {
        extra[at] = match node.optional(index) {
            None if !wanted => None,
            Some(x) if wanted => {
                let shape = b.shape(x);
                let lasts = [least[at], most[at]];
                if shape.rank() != 3 || shape[..2] != [sizes.batch, sizes.steps] || !lasts.contains(&shape[2])
                {
                    return wrong(format!("its input {index} has shape {shape}"));
                }
                Some(b.computable(name, x)?.0)
            }
            given => {
                let is = if given.is_some() { "given" } else { "missing" };
                return wrong(format!("update_rule is `{rule}`, and its input {index} is {is}"));
            }
        };
    }
    let mut all = vec![];
    for index in 0..3 {
        all.push(b.computable(name, node.input(index)?)?.0);
    }
    let decay = extra[0].map(|decay| b.unary(name, Unary::Exp, decay)).transpose()?;
    Ok(Operands { queries: all[0], keys: all[1], values: all[2], decay, beta: extra[1] })
}

/// One step: the state after it, and what the queries read from it.
fn advance(
    b: &mut Builder,
    name: &str,
    sizes: &Sizes,
    operands: &Operands,
    (state, step): (&mut ValueId, usize),
) -> Result<ValueId, Reject> {
    let Sizes { batch, heads, shared, depth, width, .. } = *sizes;
    let at = |b: &mut Builder, x: ValueId, dims: [usize; 3]| {
        let row = b.slice(name, x, 1, step..step + 1)?;
        b.reshape(name, row, Shape::from([batch, dims[0], dims[1], dims[2]]))
    };
    if let Some(decay) = operands.decay {
        let each = b.shape(decay)[2] / shared;
        let decay = at(b, decay, [shared, each, 1])?;
        *state = b.binary(name, Binary::Mul, *state, decay)?;
    }
    let mut value = at(b, operands.values, [shared, 1, width])?;
    if let Some(beta) = operands.beta {
        let key = at(b, operands.keys, [shared, 1, depth])?;
        let known = b.matmul(name, (key, false), (*state, false))?;
        let each = b.shape(beta)[2];
        let beta = at(b, beta, [each, 1, 1])?;
        let missing = b.binary(name, Binary::Sub, value, known)?;
        value = b.binary(name, Binary::Mul, missing, beta)?;
    }
    let key = at(b, operands.keys, [shared, depth, 1])?;
    let learnt = b.binary(name, Binary::Mul, key, value)?;
    *state = b.binary(name, Binary::Add, *state, learnt)?;
    let query = at(b, operands.queries, [shared, heads / shared, depth])?;
    b.matmul(name, (query, false), (*state, false))
}

/// By channel, over elements up to the one at hand; the state has those before the first.
fn causal_conv(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (name, x, weights) = (node.name(), node.input(0)?, node.input(1)?);
    let (shape, of) = (b.shape(x), b.shape(weights));
    let (&[batch, channels, length], &[own, 1, taps]) = (&shape[..], &of[..]) else {
        return wrong(format!("weights of shape {of} for an input of shape {shape}"));
    };
    if own != channels || taps == 0 {
        return wrong(format!("weights of shape {of} for {channels} channels"));
    }
    let of_state = Shape::from([batch, channels, taps - 1]);
    let past = match node.optional(3) {
        Some(past) if b.shape(past) == of_state && b.dtype(past) == b.dtype(x) => past,
        Some(past) => return wrong(format!("a state of {}{}", b.dtype(past), b.shape(past))),
        None => b.zeros(b.dtype(x), of_state)?,
    };
    let mut bias = node.optional(2);
    if let Some(bias) = bias.filter(|&bias| b.shape(bias)[..] != [channels]) {
        return wrong(format!("a bias of shape {} for {channels} channels", b.shape(bias)));
    }
    let padded = b.concat(name, &[past, x], 2)?;
    let present = b.slice(name, padded, 2, length..length + taps - 1)?;
    let (padded, back) = b.computable(name, padded)?;
    let (weights, _) = b.computable(name, weights)?;
    let mut made = match b.known(weights) {
        Some(_) => {
            let known = bias.take_if(|bias| b.known(*bias).is_some());
            let known = known.map(|bias| b.computable(name, bias)).transpose()?;
            convolved(b, name, padded, (weights, known.map(|(bias, _)| bias)))?
        }
        None => tapped(b, name, padded, weights, length)?,
    };
    if let Some(bias) = bias {
        let (bias, _) = b.computable(name, bias)?;
        let bias = b.reshape(name, bias, Shape::from([channels, 1]))?;
        made = b.binary(name, Binary::Add, made, bias)?;
    }
    if node.text("activation").unwrap_or("none") != "none" {
        made = b.unary(name, Unary::Silu, made)?;
    }
    Ok(vec![b.cast(name, made, back)?, present])
}

/// With weights and perhaps a bias that are constants.
fn convolved(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    (weights, bias): (ValueId, Option<ValueId>),
) -> Result<ValueId, Reject> {
    let (shape, taps) = (b.shape(x), b.shape(weights)[2]);
    let (batch, channels, length) = (shape[0], shape[1], shape[2] + 1 - taps);
    let x = b.reshape(name, x, Shape::from([batch, channels, 1, shape[2]]))?;
    let weights = b.reshape(name, weights, Shape::from([channels, 1, 1, taps]))?;
    let attrs =
        ConvAttrs { kernel: [1, taps], strides: [1; 2], pads: [0; 4], dilations: [1; 2], groups: channels };
    let image = Shape::from([batch, channels, 1, length]);
    let inputs: Vec<ValueId> = [x, weights].into_iter().chain(bias).collect();
    let made = b.add(name, Op::Conv(attrs), &inputs, DType::F32, image)?;
    b.reshape(name, made, Shape::from([batch, channels, length]))
}

/// A convolution with computed weights, element by element of its window.
fn tapped(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    weights: ValueId,
    length: usize,
) -> Result<ValueId, Reject> {
    let of = b.shape(weights);
    let (channels, taps) = (of[0], of[2]);
    if taps > TAPS_MAX {
        return wrong(format!("computed weights for {taps} elements: {TAPS_MAX} are supported"));
    }
    let weights = b.reshape(name, weights, Shape::from([channels, taps]))?;
    let mut sum = None;
    for tap in 0..taps {
        let (part, weight) =
            (b.slice(name, x, 2, tap..tap + length)?, b.slice(name, weights, 1, tap..tap + 1)?);
        let product = b.binary(name, Binary::Mul, part, weight)?;
        sum = Some(match sum {
            Some(sum) => b.binary(name, Binary::Add, sum, product)?,
            None => product,
        });
    }
    sum.ok_or_else(|| Reject::Wrong("its window is empty".into()))
}

/// A cache with an update at a place of one axis, which may be another one for each of a batch.
fn cached(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, past, update) = (node.name(), node.input(0)?, node.input(1)?);
    let (shape, of) = (b.shape(past), b.shape(update));
    let axis = axis_of(node.int("axis", -2), shape.rank())?;
    let fits = of.rank() == shape.rank()
        && (0..of.rank()).all(|at| if at == axis { of[at] <= shape[at] } else { of[at] == shape[at] });
    if !fits || axis == 0 || b.dtype(past) != b.dtype(update) {
        let [past, update] = [past, update].map(|id| format!("{}{}", b.dtype(id), b.shape(id)));
        return wrong(format!("{update} into {past} along axis {axis}"));
    }
    if of.elements() == 0 {
        return Ok(past);
    }
    let (batch, rows, more) = (shape[0], shape[axis], of[axis]);
    let starts = match node.optional(2) {
        Some(starts) if b.shape(starts)[..] == [batch] && b.dtype(starts) == DType::I64 => starts,
        Some(starts) => {
            return wrong(format!("write_indices {}{} of {batch}", b.dtype(starts), b.shape(starts)));
        }
        None => b.zeros(DType::I64, Shape::from([batch]))?,
    };
    let circular = node.text("mode") == Some("circular");
    let (place, inside) = places(b, name, starts, [batch, rows, more], circular)?;
    // The axis behind that of the batch, and the way back.
    let others = (1..shape.rank()).filter(|&at| at != axis);
    let perm: Vec<usize> = [0, axis].into_iter().chain(others).collect();
    let back = (0..perm.len()).map(|at| perm.iter().position(|&from| from == at).unwrap_or(at)).collect();
    let turned = b.transpose(name, update, perm.clone())?;
    let width = of.elements() / batch / more;
    let turned = b.reshape(name, turned, Shape::from([batch * more, width]))?;
    let dtype = b.dtype(past);
    let taken = Shape::from([batch * rows, width]);
    let new = b.add(name, Op::Gather { axis: 0 }, &[turned, place], dtype, taken)?;
    let new = b.reshape(name, new, perm.iter().map(|&at| shape[at]).collect())?;
    let new = b.transpose(name, new, back)?;
    let mut along = vec![1; shape.rank()];
    (along[0], along[axis]) = (batch, rows);
    let inside = b.reshape(name, inside, along.into())?;
    b.choose(name, inside, new, past)
}

/// For every row of every cache the row of the updates that it gets, and whether it gets one. A start that an
/// update does not fit behind means a row that there is none of.
fn places(
    b: &mut Builder,
    name: &str,
    starts: ValueId,
    [batch, rows, more]: [usize; 3],
    circular: bool,
) -> Result<(ValueId, ValueId), Reject> {
    let count = |extent: usize, step: i64| (0..extent as i64).map(|at| at * step).collect::<Vec<i64>>();
    let number = |b: &mut Builder, value: usize| b.constant("", Tensor::i64([], &[value as i64]));
    let all = b.constant("", Tensor::i64([1, rows], &count(rows, 1)));
    let offsets = b.constant("", Tensor::i64([batch, 1], &count(batch, more as i64)));
    let starts = b.reshape(name, starts, Shape::from([batch, 1]))?;
    let (none, size, length) = (number(b, 0), number(b, more), number(b, rows));
    let mut own = b.binary(name, Binary::Sub, all, starts)?;
    if circular {
        let before = b.binary(name, Binary::Less, own, none)?;
        let around = b.binary(name, Binary::Add, own, length)?;
        own = b.choose(name, before, around, own)?;
    }
    let (behind, within) =
        (b.binary(name, Binary::GreaterEqual, own, none)?, b.binary(name, Binary::Less, own, size)?);
    let inside = b.binary(name, Binary::And, behind, within)?;
    let place = b.choose(name, inside, own, none)?;
    let place = b.binary(name, Binary::Add, place, offsets)?;
    let last = number(b, if circular { rows - 1 } else { rows - more });
    let (low, high) = (
        b.binary(name, Binary::GreaterEqual, starts, none)?,
        b.binary(name, Binary::LessEqual, starts, last)?,
    );
    let allowed = b.binary(name, Binary::And, low, high)?;
    let outside = number(b, batch * more);
    let place = b.choose(name, allowed, place, outside)?;
    Ok((b.reshape(name, place, Shape::from([batch * rows]))?, inside))
}
