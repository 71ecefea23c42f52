//! Sequences turned around, each up to its length.

use reef_graph::{Binary, DType, Op, Shape, Tensor, ValueId};

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    match node.operator() {
        "ReverseSequence" => Some(reversed(b, node).map(|value| vec![value])),
        _ => None,
    }
}

/// The first elements of every sequence in the opposite order, as many as its length says.
fn reversed(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, lengths) = (node.name(), node.input(0)?, node.input(1)?);
    let rank = b.rank(x);
    let axes = (node.int("batch_axis", 1), node.int("time_axis", 0));
    let perm: Vec<usize> = match axes {
        _ if rank < 2 => return wrong(format!("an input of shape {}", b.shape(x))),
        (0, 1) => (0..rank).collect(),
        (1, 0) => [1, 0].into_iter().chain(2..rank).collect(),
        (batch, time) => return wrong(format!("batch_axis {batch} and time_axis {time}")),
    };
    let turned = b.transpose(name, x, perm.clone())?;
    let shape = b.shape(turned);
    let (batch, time) = (shape[0], shape[1]);
    if b.shape(lengths)[..] != [batch] || b.dtype(lengths) != DType::I64 {
        return wrong(format!("lengths {}{} of {batch} sequences", b.dtype(lengths), b.shape(lengths)));
    }
    if let Some(known) = b.known(lengths).and_then(crate::consts::integers)
        && let Some(length) = known.iter().find(|&&length| !(0..=time as i64).contains(&length))
    {
        return wrong(format!("a length of {length}: allowed are 0 to {time}"));
    }
    if shape.elements() == 0 {
        return Ok(x);
    }
    let place = places(b, name, lengths, batch, time)?;
    let width: usize = shape[2..].iter().product();
    let rows = b.reshape(name, turned, Shape::from([batch * time, width]))?;
    let made =
        b.add(name, Op::Gather { axis: 0 }, &[rows, place], b.dtype(x), Shape::from([batch * time, width]))?;
    let made = b.reshape(name, made, shape)?;
    b.transpose(name, made, perm)
}

/// Of every row of the result the row of the input; no row of it for a length that there is none of.
fn places(
    b: &mut Builder,
    name: &str,
    lengths: ValueId,
    batch: usize,
    time: usize,
) -> Result<ValueId, Reject> {
    let count = |extent: usize, step: i64| (0..extent as i64).map(|at| at * step).collect::<Vec<i64>>();
    let steps = b.constant("", Tensor::i64([1, time], &count(time, 1)));
    let starts = b.constant("", Tensor::i64([batch, 1], &count(batch, time as i64)));
    let number = |b: &mut Builder, value: i64| b.constant("", Tensor::i64([], &[value]));
    let lengths = b.reshape(name, lengths, Shape::from([batch, 1]))?;
    let (one, none, most) = (number(b, 1), number(b, 0), number(b, time as i64));
    let last = b.binary(name, Binary::Sub, lengths, one)?;
    let back = b.binary(name, Binary::Sub, last, steps)?;
    let inside = b.binary(name, Binary::Less, steps, lengths)?;
    let place = b.choose(name, inside, back, steps)?;
    let place = b.binary(name, Binary::Add, place, starts)?;
    let (low, high) = (
        b.binary(name, Binary::GreaterEqual, lengths, none)?,
        b.binary(name, Binary::LessEqual, lengths, most)?,
    );
    let allowed = b.binary(name, Binary::And, low, high)?;
    let outside = number(b, (batch * time) as i64);
    let place = b.choose(name, allowed, place, outside)?;
    b.reshape(name, place, Shape::from([batch * time]))
}
