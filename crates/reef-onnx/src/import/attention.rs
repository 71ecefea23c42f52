//! `Attention`: two products with a mask and a softmax between them, in the form that the compiler makes one
//! kernel of where nothing else reads the scores.
//!
//! Queries' heads that share one of keys and values are an axis of their own, along which the latter
//! broadcast: operands are then `[N, heads of keys, sharers, rows, columns]`, and `[N, heads, rows, columns]`
//! where there is one sharer.

use reef_graph::{Binary, DType, Op, Reduce, Shape, Tensor, Unary, ValueId};

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    (node.operator() == "Attention").then(|| attention(b, node))
}

/// The number of the type that a softmax is in double precision by.
const DOUBLE: i64 = 11;

/// The extents of one attention.
struct Extents {
    batch: usize,
    heads: usize,
    /// Heads of keys and values.
    shared: usize,
    queries: usize,
    /// Keys, those of the past among them.
    keys: usize,
    past: usize,
}

/// Which keys count for a query.
#[derive(Default)]
struct Mask {
    /// Where they do, of booleans.
    allowed: Option<ValueId>,
    /// What is added to the scores, −∞ where `allowed` says no.
    bias: Option<ValueId>,
    /// Whether every query may have a key, as far as is known.
    leaves_some: bool,
}

fn attention(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    let (q, k, v) = (by_heads(b, node, 0)?, by_heads(b, node, 1)?, by_heads(b, node, 2)?);
    let (k, v) = (with_past(b, node, k, 4)?, with_past(b, node, v, 5)?);
    let extents = Extents::new(b, node, [q, k, v])?;
    let mask = Mask::new(b, node, &extents)?;
    let (queries, back) = b.computable(name, q)?;
    let (keys, values) = (b.computable(name, k)?.0, b.computable(name, v)?.0);
    let queries = extents.apart(b, name, queries)?;
    let (keys, values) = (extents.apart(b, name, keys)?, extents.apart(b, name, values)?);
    let mode = if node.has_output(3) { node.int("qk_matmul_output_mode", 0) } else { -1 };
    let mut stages = vec![];
    let scores = b.matmul(name, (queries, false), (keys, true))?;
    let scores = scaled(b, node, scores, b.shape(q)[3])?;
    stages.push(scores);
    let scores = capped(b, name, scores, node.float("softcap", 0.0))?;
    stages.push(scores);
    let scores = mask.applied(b, name, scores)?;
    stages.push(scores);
    let (shape, axis) = (b.shape(scores), b.rank(scores) - 1);
    let weights = match node.int("softmax_precision", 1) {
        DOUBLE if shape.elements() > 0 => {
            let scores = b.cast(name, scores, DType::F64)?;
            let weights = super::norm::wide_softmax(b, name, scores, axis, false)?;
            b.cast(name, weights, DType::F32)?
        }
        _ => b.add(name, Op::Softmax { axis }, &[scores], DType::F32, shape)?,
    };
    let made = b.matmul(name, (weights, false), (values, false))?;
    // Without a key a row is zero: after the product, so that it stays next to the softmax.
    let dead = mask.dead(b, name)?;
    let made = without(b, name, made, dead)?;
    if mode == 3 {
        stages.push(without(b, name, weights, dead)?);
    }
    let Extents { batch, heads, queries, keys, .. } = extents;
    let width = b.shape(v)[3];
    let made = match (b.rank(node.input(0)?), b.rank(made)) {
        (3, rank) => {
            let order = [0, rank - 2].into_iter().chain(1..rank - 2).chain([rank - 1]).collect();
            let made = b.transpose(name, made, order)?;
            b.reshape(name, made, Shape::from([batch, queries, heads * width]))?
        }
        _ => b.reshape(name, made, Shape::from([batch, heads, queries, width]))?,
    };
    let mut outputs = vec![b.cast(name, made, back)?, k, v];
    if let Ok(stage) = usize::try_from(mode) {
        let stage = b.reshape(name, stages[stage], Shape::from([batch, heads, queries, keys]))?;
        outputs.push(b.cast(name, stage, back)?);
    }
    Ok(outputs)
}

/// An operand as `[N, heads, rows, columns]`.
fn by_heads(b: &mut Builder, node: &Node, index: usize) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(index)?);
    let (shape, what) = (b.shape(x), if index == 0 { "q_num_heads" } else { "kv_num_heads" });
    let heads = match node.attribute(what) {
        Some(heads) => match usize::try_from(heads.i) {
            Ok(heads) if heads > 0 => Some(heads),
            _ => return wrong(format!("{what} is {}", heads.i)),
        },
        None => None,
    };
    if shape.rank() != b.rank(node.input(0)?) {
        return wrong(format!("its input {index} has shape {shape}, its first {}", b.shape(node.input(0)?)));
    }
    match (shape[..].len(), heads) {
        (4, Some(heads)) if heads != shape[1] => wrong(format!("{what} is {heads}, its shape {shape}")),
        (4, _) => Ok(x),
        (3, Some(heads)) if shape[2].is_multiple_of(heads) => {
            let apart = Shape::from([shape[0], shape[1], heads, shape[2] / heads]);
            let x = b.reshape(name, x, apart)?;
            b.transpose(name, x, vec![0, 2, 1, 3])
        }
        (3, Some(heads)) => wrong(format!("{heads} heads of an input of shape {shape}")),
        (3, None) => wrong(format!("{what} is missing, its inputs have three axes")),
        _ => wrong(format!("an input of shape {shape}")),
    }
}

/// Keys or values behind those of the past.
fn with_past(b: &mut Builder, node: &Node, x: ValueId, index: usize) -> Result<ValueId, Reject> {
    let Some(past) = node.optional(index) else { return Ok(x) };
    let (old, new) = (b.shape(past), b.shape(x));
    let fits = old.rank() == 4 && [0, 1, 3].iter().all(|&axis| old[axis] == new[axis]);
    if !fits || b.dtype(past) != b.dtype(x) {
        return wrong(format!("a past of {}{old} before {}{new}", b.dtype(past), b.dtype(x)));
    }
    b.concat(node.name(), &[past, x], 2)
}

fn scaled(b: &mut Builder, node: &Node, scores: ValueId, depth: usize) -> Result<ValueId, Reject> {
    let scale = match node.attribute("scale").map(|scale| scale.f) {
        Some(scale) if scale >= 0.0 => f64::from(scale),
        Some(scale) => return wrong(format!("scale is {scale}")),
        None => 1.0 / (depth as f64).sqrt(),
    };
    if scale == 1.0 {
        return Ok(scores);
    }
    let scale = b.scalar(DType::F32, scale);
    b.binary(node.name(), Binary::Mul, scores, scale)
}

/// Scores bent to stay between `-cap` and `cap`.
fn capped(b: &mut Builder, name: &str, scores: ValueId, cap: f32) -> Result<ValueId, Reject> {
    if cap <= 0.0 {
        return Ok(scores);
    }
    let cap = b.scalar(DType::F32, cap.into());
    let scores = b.binary(name, Binary::Div, scores, cap)?;
    let scores = b.unary(name, Unary::Tanh, scores)?;
    b.binary(name, Binary::Mul, scores, cap)
}

/// `x` with zeros in the rows that are `dead`.
fn without(b: &mut Builder, name: &str, x: ValueId, dead: Option<ValueId>) -> Result<ValueId, Reject> {
    let Some(dead) = dead else { return Ok(x) };
    let zero = b.scalar(DType::F32, 0.0);
    b.choose(name, dead, zero, x)
}

impl Extents {
    /// Of queries, keys and values by heads.
    fn new(b: &Builder, node: &Node, operands: [ValueId; 3]) -> Result<Extents, Reject> {
        let [q, k, v] = operands.map(|id| b.shape(id));
        let fits = q[0] == k[0] && k[..3] == v[..3] && q[3] == k[3] && k[1] > 0 && q[3] > 0;
        if !fits || !q[1].is_multiple_of(k[1]) {
            return wrong(format!("queries, keys and values of shapes {q}, {k} and {v}"));
        }
        if b.dtype(operands[0]) != b.dtype(operands[1]) {
            let [q, k] = [0, 1].map(|at: usize| b.dtype(operands[at]));
            return wrong(format!("queries of {q} and keys of {k}"));
        }
        let past = node.optional(4).map_or(0, |past| b.shape(past)[2]);
        if node.optional(4).is_some() != node.optional(5).is_some() {
            return wrong("past keys and past values go together");
        }
        if node.optional(4).is_some() && node.optional(6).is_some() {
            return wrong("nonpad_kv_seqlen is given beside a past");
        }
        Ok(Extents { batch: q[0], heads: q[1], shared: k[1], queries: q[2], keys: k[2], past })
    }

    fn sharers(&self) -> usize {
        self.heads / self.shared
    }

    /// `x`, which broadcasts to `[N, heads, …]` or has the heads of keys, with an axis of sharers.
    fn apart(&self, b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId, Reject> {
        let shape = b.shape(x);
        if self.sharers() == 1 || shape.rank() < 3 {
            return Ok(x);
        }
        let [batch @ .., heads, rows, columns] = &shape[..] else { unreachable!("it has three axes") };
        let heads = match *heads {
            1 => [1, 1],
            heads if heads == self.heads => [self.shared, self.sharers()],
            heads => [heads, 1],
        };
        let apart: Shape = batch.iter().copied().chain(heads).chain([*rows, *columns]).collect();
        b.reshape(name, x, apart)
    }
}

impl Mask {
    fn new(b: &mut Builder, node: &Node, extents: &Extents) -> Result<Mask, Reject> {
        let mut mask = Mask::places(b, node, extents)?;
        let Some(given) = node.optional(3) else { return Ok(mask) };
        let name = node.name();
        let given = completed(b, name, given, extents)?;
        let given = extents.apart(b, name, given)?;
        mask.leaves_some = false;
        match b.dtype(given) {
            DType::Bool => mask.allow(b, name, given)?,
            _ => {
                let (bias, _) = b.computable(name, given)?;
                mask.bias = Some(match mask.allowed.take() {
                    Some(allowed) => {
                        let never = b.scalar(DType::F32, f64::NEG_INFINITY);
                        b.choose(name, allowed, bias, never)?
                    }
                    None => bias,
                });
            }
        }
        Ok(mask)
    }

    /// What places allow: the order of queries and keys, windows, and where the keys end.
    fn places(b: &mut Builder, node: &Node, extents: &Extents) -> Result<Mask, Reject> {
        let name = node.name();
        let window = |name: &str| match node.int(name, -1) {
            -1 => Ok(None),
            size @ 0.. => Ok(Some(size)),
            size => wrong(format!("{name} is {size}")),
        };
        let (left, mut right) = (window("left_window_size")?, window("right_window_size")?);
        if node.flag("is_causal") {
            right = Some(0);
        }
        let mut mask = Mask { leaves_some: true, ..Mask::default() };
        let columns: Vec<i64> = (0..extents.keys as i64).collect();
        let columns = b.constant("", Tensor::i64([extents.keys], &columns));
        let length = node.optional(6).map(|length| lengths(b, name, length, extents)).transpose()?;
        if left.is_some() || right.is_some() {
            let first = extents.past as i64 - if length.is_some() { extents.queries as i64 } else { 0 };
            let rows: Vec<i64> = (first..first + extents.queries as i64).collect();
            mask.leaves_some = [rows.first(), rows.last()].into_iter().flatten().all(|&row| {
                let last = extents.keys as i64 - 1;
                let low = left.map_or(0, |left| row.saturating_sub(left).max(0));
                low <= right.map_or(last, |right| row.saturating_add(right).min(last))
            });
            let mut rows = b.constant("", Tensor::i64([extents.queries, 1], &rows));
            if let Some(length) = length {
                rows = b.binary(name, Binary::Add, rows, length)?;
            }
            for (size, sign, op) in [(left, -1, Binary::GreaterEqual), (right, 1, Binary::LessEqual)] {
                let Some(size) = size else { continue };
                let size = b.constant("", Tensor::i64([], &[size.min(i64::MAX / 4) * sign]));
                let bound = b.binary(name, Binary::Add, rows, size)?;
                let inside = b.binary(name, op, columns, bound)?;
                let inside = extents.apart(b, name, inside)?;
                mask.allow(b, name, inside)?;
            }
        }
        if let Some(length) = length {
            mask.leaves_some = false;
            let real = b.binary(name, Binary::Less, columns, length)?;
            let real = extents.apart(b, name, real)?;
            mask.allow(b, name, real)?;
        }
        Ok(mask)
    }

    /// Allows only what `also` does.
    fn allow(&mut self, b: &mut Builder, name: &str, also: ValueId) -> Result<(), Reject> {
        self.allowed = Some(match self.allowed {
            Some(allowed) => b.binary(name, Binary::And, allowed, also)?,
            None => also,
        });
        Ok(())
    }

    /// Scores with −∞ where a key does not count.
    fn applied(&self, b: &mut Builder, name: &str, scores: ValueId) -> Result<ValueId, Reject> {
        let shape = b.shape(scores);
        let of = self.bias.or(self.allowed).map(|mask| b.shape(mask));
        if let Some(of) = of.filter(|of| of.broadcast(&shape).as_ref() != Some(&shape)) {
            return wrong(format!("a mask of shape {of} for scores of shape {shape}"));
        }
        match (self.bias, self.allowed) {
            (Some(bias), _) => b.binary(name, Binary::Add, scores, bias),
            (None, Some(allowed)) => {
                let never = b.scalar(DType::F32, f64::NEG_INFINITY);
                b.choose(name, allowed, scores, never)
            }
            (None, None) => Ok(scores),
        }
    }

    /// The rows without any key, unless it is known that there are none.
    fn dead(&self, b: &mut Builder, name: &str) -> Result<Option<ValueId>, Reject> {
        let (mask, least) = match (self.bias, self.allowed) {
            _ if self.leaves_some => return Ok(None),
            (Some(bias), _) => (bias, f64::NEG_INFINITY),
            (None, Some(allowed)) => (b.cast(name, allowed, DType::F32)?, 0.0),
            (None, None) => return Ok(None),
        };
        if b.shape(mask).elements() == 0 {
            return Ok(None);
        }
        let axis = b.rank(mask) - 1;
        let most = b.reduce(name, Reduce::Max, &[axis], mask)?;
        let least = b.scalar(DType::F32, least);
        let dead = b.binary(name, Binary::Equal, most, least)?;
        let none = b.known(dead).is_some_and(|dead| dead.bytes().as_slice().iter().all(|&byte| byte == 0));
        Ok((!none).then_some(dead))
    }
}

/// A mask whose last axis goes to the last key: keys behind its end do not count.
fn completed(b: &mut Builder, name: &str, mask: ValueId, extents: &Extents) -> Result<ValueId, Reject> {
    let (dtype, shape) = (b.dtype(mask), b.shape(mask));
    let Some(&last) = shape.last().filter(|_| shape.rank() <= 4) else {
        return wrong(format!("a mask of shape {shape}"));
    };
    let heads = shape.len().checked_sub(3).map_or(1, |axis| shape[axis]);
    if last > extents.keys || (heads != 1 && heads != extents.heads) {
        let Extents { heads, keys, .. } = extents;
        return wrong(format!("a mask of shape {shape} for {heads} heads and {keys} keys"));
    }
    if last == extents.keys {
        return Ok(mask);
    }
    let mut pads = vec![(0, 0); shape.rank()];
    pads[shape.rank() - 1] = (0, extents.keys - last);
    let value = if dtype == DType::Bool { 0.0 } else { f32::NEG_INFINITY };
    let dims: Shape = shape[..shape.rank() - 1].iter().copied().chain([extents.keys]).collect();
    b.add(name, Op::Pad { pads, value }, &[mask], dtype, dims)
}

/// How many keys count, as `[N, 1, 1, 1]`.
fn lengths(b: &mut Builder, name: &str, x: ValueId, extents: &Extents) -> Result<ValueId, Reject> {
    if b.shape(x)[..] != [extents.batch] || b.dtype(x) != DType::I64 {
        return wrong(format!("nonpad_kv_seqlen is {}{}", b.dtype(x), b.shape(x)));
    }
    b.reshape(name, x, Shape::from([extents.batch, 1, 1, 1]))
}
