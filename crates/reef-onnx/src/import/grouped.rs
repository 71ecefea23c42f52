//! `GroupQueryAttention` of `com.microsoft`: attention whose heads share keys, behind those of a past that
//! may lie in a larger buffer, of which every sequence has filled its own part.

use reef_graph::{Binary, DType, Op, Shape, Tensor, Unary, ValueId};

use super::attributes::Node;
use super::{Builder, Reading, Reject, rotary, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    (node.operator() == "com.microsoft.GroupQueryAttention").then(|| attention(b, node))
}

/// The extents of one attention.
#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    /// New words.
    steps: usize,
    /// Heads of keys and values, and how many heads of queries share one.
    heads: usize,
    sharers: usize,
    width: usize,
    /// Keys of the buffer of the past, all that count of the longest sequence, and of what is handed on.
    past: usize,
    total: usize,
    present: usize,
}

/// Where a sequence is: `[batch, 1]` and `[batch, steps]`, i64.
struct Places {
    /// Words of the past.
    begin: ValueId,
    /// Of every new word.
    words: ValueId,
}

fn attention(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    if b.dtype(node.input(5)?) != DType::I32 {
        return wrong(format!("seqlens_k of {}", b.dtype(node.input(5)?)));
    }
    let ([q, k, v], back, extents) = operands(b, node)?;
    let places = places(b, node, extents)?;
    let (q, k) = match node.flag("do_rotary") {
        true => (turned(b, node, q, &places, extents)?, turned(b, node, k, &places, extents)?),
        false => (q, k),
    };
    let mut handed_on = vec![];
    for (new, old) in [(k, 3), (v, 4)] {
        let new = b.transpose(name, new, vec![0, 2, 1, 3])?;
        let old = node.optional(old);
        handed_on.push(behind(b, name, new, old, &places, extents)?);
    }
    let Extents { batch, steps, heads, sharers, width, total, .. } = extents;
    let apart = Shape::from([batch, heads, sharers, steps, width]);
    let q = b.transpose(name, q, vec![0, 2, 1, 3])?;
    let q = b.reshape(name, q, apart)?;
    let mut rows = vec![];
    for &all in &handed_on {
        let counted = b.slice(name, all, 2, 0..total)?;
        rows.push(b.reshape(name, counted, Shape::from([batch, heads, 1, total, width]))?);
    }
    let weights = weights(b, node, [q, rows[0]], &places, extents)?;
    let made = b.matmul(name, (weights, false), (rows[1], false))?;
    let made = b.transpose(name, made, vec![0, 3, 1, 2, 4])?;
    let made = b.reshape(name, made, Shape::from([batch, steps, heads * sharers * width]))?;
    let mut outputs = vec![b.cast(name, made, back)?];
    for all in handed_on {
        outputs.push(b.cast(name, all, back)?);
    }
    Ok(outputs)
}

/// Queries, keys and values as `[batch, steps, heads, width]` in single precision, and their type.
fn operands(b: &mut Builder, node: &Node) -> Result<([ValueId; 3], DType, Extents), Reject> {
    let name = node.name();
    let count = |name: &str| match usize::try_from(node.int(name, 0)) {
        Ok(count) if count > 0 => Ok(count),
        _ => wrong(format!("{name} is {}", node.int(name, 0))),
    };
    let (all, heads) = (count("num_heads")?, count("kv_num_heads")?);
    let (q, back) = b.computable(name, node.input(0)?)?;
    let shape = b.shape(q);
    let [batch, steps, columns] = shape[..] else { return wrong(format!("queries of shape {shape}")) };
    let packed = node.optional(1).is_none();
    let parts = if packed { all + 2 * heads } else { all };
    if !all.is_multiple_of(heads) || !columns.is_multiple_of(parts) || batch * steps == 0 {
        return wrong(format!("queries of shape {shape} in {all} heads, keys in {heads}"));
    }
    let width = columns / parts;
    let [q, k, v] = match (node.optional(1), node.optional(2)) {
        (None, None) => {
            let ends = [all, all + heads, all + 2 * heads].map(|end| end * width);
            [
                b.slice(name, q, 2, 0..ends[0])?,
                b.slice(name, q, 2, ends[0]..ends[1])?,
                b.slice(name, q, 2, ends[1]..ends[2])?,
            ]
        }
        (Some(k), Some(v)) => [q, b.computable(name, k)?.0, b.computable(name, v)?.0],
        _ => return wrong("keys and values go together"),
    };
    let by_heads = |b: &mut Builder, x: ValueId, heads: usize| {
        let shape = b.shape(x);
        match shape[..] == [batch, steps, heads * width] {
            true => b.reshape(name, x, Shape::from([batch, steps, heads, width])),
            false => wrong(format!("keys or values of shape {shape} in {heads} heads of {width}")),
        }
    };
    let parts = [by_heads(b, q, all)?, by_heads(b, k, heads)?, by_heads(b, v, heads)?];
    let total = b.integers(node.input(6)?, "total_sequence_length")?;
    let past = match node.optional(3) {
        Some(past) if b.rank(past) == 4 => b.shape(past)[2],
        Some(past) => return wrong(format!("past keys of shape {}", b.shape(past))),
        None => 0,
    };
    let total = match total[..] {
        [total] if total >= steps as i64 && total <= (past + steps) as i64 => total as usize,
        _ => return wrong(format!("total_sequence_length is {total:?}, with {past} words and {steps} new")),
    };
    let sharers = all / heads;
    let present = total.max(past);
    Ok((parts, back, Extents { batch, steps, heads, sharers, width, past, total, present }))
}

/// The new words of a sequence are its last; of a first call they are its first, and what is behind its end
/// does not count.
fn places(b: &mut Builder, node: &Node, extents: Extents) -> Result<Places, Reject> {
    let (name, Extents { batch, steps, total, .. }) = (node.name(), extents);
    let begin = if total == steps {
        b.zeros(DType::I64, Shape::from([batch, 1]))?
    } else {
        let last = b.cast(name, node.input(5)?, DType::I64)?;
        if b.shape(last).elements() != batch {
            return wrong(format!("seqlens_k of shape {} for {batch} sequences", b.shape(last)));
        }
        let last = b.reshape(name, last, Shape::from([batch, 1]))?;
        let before = b.constant("", Tensor::i64([], &[1 - steps as i64]));
        let begin = b.binary(name, Binary::Add, last, before)?;
        within(b, name, begin, total - steps)?
    };
    let words: Vec<i64> = (0..steps as i64).collect();
    let words = b.constant("", Tensor::i64([1, steps], &words));
    let words = b.binary(name, Binary::Add, begin, words)?;
    Ok(Places { begin, words })
}

/// Places from 0 to `last`: others, which a model is not to give, lead nowhere else.
fn within(b: &mut Builder, name: &str, places: ValueId, last: usize) -> Result<ValueId, Reject> {
    let (first, last) =
        (b.constant("", Tensor::i64([], &[0])), b.constant("", Tensor::i64([], &[last as i64])));
    let places = b.binary(name, Binary::Max, places, first)?;
    b.binary(name, Binary::Min, places, last)
}

/// Queries or keys turned by the angles of their places.
fn turned(
    b: &mut Builder,
    node: &Node,
    x: ValueId,
    places: &Places,
    extents: Extents,
) -> Result<ValueId, Reject> {
    let (name, Extents { batch, steps, .. }) = (node.name(), extents);
    let (Some(cosines), Some(sines)) = (node.optional(7), node.optional(8)) else {
        return wrong("do_rotary without tables of cosines and sines");
    };
    let rows = b.shape(cosines).first().copied().unwrap_or(0);
    if rows < extents.total {
        return wrong(format!("angles of {rows} places for {} words", extents.total));
    }
    let words = match node.optional(9) {
        Some(given) if b.shape(given)[..] == [batch, steps] => b.cast(name, given, DType::I64)?,
        Some(given) => return wrong(format!("position_ids of shape {}", b.shape(given))),
        None => places.words,
    };
    // What is behind a sequence's end has a place, too.
    let words = within(b, name, words, rows.saturating_sub(1))?;
    rotary::turned(b, node, x, ([cosines, sines], words), node.flag("rotary_interleaved"))
}

/// New keys or values `[batch, heads, steps, width]` behind those of the past, in a buffer for both.
fn behind(
    b: &mut Builder,
    name: &str,
    new: ValueId,
    old: Option<ValueId>,
    places: &Places,
    extents: Extents,
) -> Result<ValueId, Reject> {
    let Extents { batch, steps, heads, width, past, present, .. } = extents;
    let Some(old) = old.filter(|_| past > 0) else { return Ok(new) };
    let (old, _) = b.computable(name, old)?;
    if b.shape(old)[..] != [batch, heads, past, width] {
        return wrong(format!("a past of shape {} for keys of {}", b.shape(old), b.shape(new)));
    }
    let all = b.concat(name, &[old, new], 2)?;
    let rows = past + steps;
    // What is handed on has the rows of the past up to its end, then new ones, then again some of the past.
    let numbers: Vec<i64> = (0..present as i64).collect();
    let numbers = b.constant("", Tensor::i64([1, present], &numbers));
    let beyond = b.binary(name, Binary::Sub, numbers, places.begin)?;
    let moved = b.constant("", Tensor::i64([], &[past as i64]));
    let moved = b.binary(name, Binary::Add, beyond, moved)?;
    let (zero, count) =
        (b.constant("", Tensor::i64([], &[0])), b.constant("", Tensor::i64([], &[steps as i64])));
    let starts = b.binary(name, Binary::GreaterEqual, beyond, zero)?;
    let ends = b.binary(name, Binary::Less, beyond, count)?;
    let is_new = b.binary(name, Binary::And, starts, ends)?;
    let numbers = within(b, name, numbers, past - 1)?;
    let rows_of = b.choose(name, is_new, moved, numbers)?;
    // Of all heads of all sequences.
    let rows_of = b.reshape(name, rows_of, Shape::from([batch, 1, present]))?;
    let firsts: Vec<i64> = (0..(batch * heads) as i64).map(|head| head * rows as i64).collect();
    let firsts = b.constant("", Tensor::i64([batch, heads, 1], &firsts));
    let picks = b.binary(name, Binary::Add, firsts, rows_of)?;
    let flat = b.reshape(name, all, Shape::from([batch * heads * rows, width]))?;
    let shape = Shape::from([batch, heads, present, width]);
    b.add(name, Op::Gather { axis: 0 }, &[flat, picks], DType::F32, shape)
}

/// Softmax of the scores of queries `[batch, heads, sharers, steps, width]` and keys.
fn weights(
    b: &mut Builder,
    node: &Node,
    [q, k]: [ValueId; 2],
    places: &Places,
    extents: Extents,
) -> Result<ValueId, Reject> {
    let (name, Extents { batch, steps, heads, sharers, width, total, .. }) = (node.name(), extents);
    let scale = match node.float("scale", 0.0) {
        0.0 => 1.0 / (width as f64).sqrt(),
        scale => f64::from(scale),
    };
    let scores = b.matmul(name, (q, false), (k, true))?;
    let scale = b.scalar(DType::F32, scale);
    let mut scores = b.binary(name, Binary::Mul, scores, scale)?;
    let cap = node.float("softcap", 0.0);
    if cap > 0.0 {
        let cap = b.scalar(DType::F32, cap.into());
        let bent = b.binary(name, Binary::Div, scores, cap)?;
        let bent = b.unary(name, Unary::Tanh, bent)?;
        scores = b.binary(name, Binary::Mul, bent, cap)?;
    }
    if let Some(bias) = node.optional(10) {
        let (bias, _) = b.computable(name, bias)?;
        let spread = match b.shape(bias)[..] {
            [n, 1, s, t] if (n == 1 || n == batch) && (s, t) == (steps, total) => [n, 1, 1, s, t],
            [n, h, s, t] if h == heads * sharers && (n == 1 || n == batch) && (s, t) == (steps, total) => {
                [n, heads, sharers, s, t]
            }
            _ => return wrong(format!("a bias of shape {}", b.shape(bias))),
        };
        let bias = b.reshape(name, bias, spread.into())?;
        scores = b.binary(name, Binary::Add, scores, bias)?;
    }
    let allowed = allowed(b, node, places, extents)?;
    let never = b.scalar(DType::F32, f64::NEG_INFINITY);
    let scores = b.choose(name, allowed, scores, never)?;
    let shape = b.shape(scores);
    b.add(name, Op::Softmax { axis: 4 }, &[scores], DType::F32, shape)
}

/// Which keys count for a word, `[batch, 1, 1, steps, total]`: those before it, as far as a window goes, and
/// its own.
fn allowed(b: &mut Builder, node: &Node, places: &Places, extents: Extents) -> Result<ValueId, Reject> {
    let (name, Extents { batch, steps, total, .. }) = (node.name(), extents);
    let lead = b.shape(places.words)[0];
    debug_assert!(lead == 1 || lead == batch, "places are of sequences");
    let words = b.reshape(name, places.words, Shape::from([lead, 1, 1, steps, 1]))?;
    let keys: Vec<i64> = (0..total as i64).collect();
    let keys = b.constant("", Tensor::i64([total], &keys));
    let allowed = b.binary(name, Binary::LessEqual, keys, words)?;
    match node.int("local_window_size", -1) {
        -1 => Ok(allowed),
        window @ 1.. => {
            let window = b.constant("", Tensor::i64([], &[-window]));
            let begin = b.binary(name, Binary::Add, words, window)?;
            let near = b.binary(name, Binary::Greater, keys, begin)?;
            b.binary(name, Binary::And, allowed, near)
        }
        window => wrong(format!("local_window_size is {window}")),
    }
}
