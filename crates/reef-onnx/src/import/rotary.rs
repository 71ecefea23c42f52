//! `RotaryEmbedding`, ONNX's and that of `com.microsoft`: the first columns of every head turned, as pairs,
//! by angles of the position.

use reef_graph::{Binary, DType, Op, Shape, ValueId};

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let places = match node.operator() {
        "RotaryEmbedding" => [1, 2, 3],
        "com.microsoft.RotaryEmbedding" => [2, 3, 1],
        _ => return None,
    };
    Some(rotary(b, node, places).map(|value| vec![value]))
}

/// Where the cosines, the sines and the positions are among the inputs.
type Places = [usize; 3];

/// The extents of what is turned: `[batch, steps, heads, columns]`, and pairs of columns that are.
#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    steps: usize,
    heads: usize,
    columns: usize,
    pairs: usize,
}

fn rotary(b: &mut Builder, node: &Node, [cosines, sines, positions]: Places) -> Result<ValueId, Reject> {
    let name = node.name();
    let (x, back) = b.computable(name, node.input(0)?)?;
    let (cosines, _) = b.computable(name, node.input(cosines)?)?;
    let (sines, _) = b.computable(name, node.input(sines)?)?;
    let positions = node.optional(positions);
    let shape = b.shape(x);
    let pairs = b.shape(cosines).last().copied().unwrap_or(0);
    let heads = by_heads(b, node, x, pairs)?;
    let [batch, steps, count, columns] = b.shape(heads)[..] else { unreachable!("it was just made so") };
    let turned = match usize::try_from(node.int("rotary_embedding_dim", 0)) {
        Ok(0) | Err(_) => columns,
        Ok(turned) => turned,
    };
    if turned != 2 * pairs || turned > columns {
        return wrong(format!("{turned} of {columns} columns are turned by {pairs} angles"));
    }
    let extents = Extents { batch, steps, heads: count, columns, pairs };
    let (cosines, sines) =
        (angles(b, name, cosines, positions, extents)?, angles(b, name, sines, positions, extents)?);
    let made = turn(b, name, heads, [cosines, sines], (extents, node.flag("interleaved")))?;
    let made = if shape.rank() == 4 { b.transpose(name, made, vec![0, 2, 1, 3])? } else { made };
    let made = b.reshape(name, made, shape)?;
    b.cast(name, made, back)
}

/// `x`, `[batch, steps, heads, columns]`, turned by the angles that positions `[batch or 1, steps]` have in
/// tables of cosines and sines.
pub(super) fn turned(
    b: &mut Builder,
    node: &Node,
    x: ValueId,
    (tables, positions): ([ValueId; 2], ValueId),
    interleaved: bool,
) -> Result<ValueId, Reject> {
    let (name, [cosines, sines]) = (node.name(), tables);
    let (cosines, _) = b.computable(name, cosines)?;
    let (sines, _) = b.computable(name, sines)?;
    let shape = b.shape(x);
    let [batch, steps, heads, columns] = shape[..] else {
        return wrong(format!("an input of shape {shape}"));
    };
    let pairs = b.shape(cosines).last().copied().unwrap_or(0);
    if b.shape(cosines) != b.shape(sines) || b.rank(cosines) != 2 || pairs == 0 || 2 * pairs > columns {
        let tables = [b.shape(cosines), b.shape(sines)];
        return wrong(format!(
            "tables of angles of shapes {} and {} for {columns} columns",
            tables[0], tables[1]
        ));
    }
    let positions = b.expand(name, positions, Shape::from([batch, steps]))?;
    let extents = Extents { batch, steps, heads, columns, pairs };
    let gathered = Shape::from([batch, steps, pairs]);
    let mut found = vec![];
    for table in [cosines, sines] {
        let rows = b.add(name, Op::Gather { axis: 0 }, &[table, positions], DType::F32, gathered.clone())?;
        found.push(b.reshape(name, rows, Shape::from([batch, steps, 1, pairs]))?);
    }
    turn(b, name, x, [found[0], found[1]], (extents, interleaved))
}

/// `x` as `[batch, steps, heads, columns]`.
fn by_heads(b: &mut Builder, node: &Node, x: ValueId, pairs: usize) -> Result<ValueId, Reject> {
    let (name, shape) = (node.name(), b.shape(x));
    let heads = usize::try_from(node.int("num_heads", 0)).unwrap_or(0);
    match shape[..] {
        [_, _, _, _] => b.transpose(name, x, vec![0, 2, 1, 3]),
        [n, s, columns] => {
            let width = if heads > 0 && columns.is_multiple_of(heads) { columns / heads } else { 2 * pairs };
            if width == 0 || !columns.is_multiple_of(width) {
                return wrong(format!("{columns} columns in heads of {width}"));
            }
            b.reshape(name, x, Shape::from([n, s, columns / width, width]))
        }
        _ => wrong(format!("an input of shape {shape}")),
    }
}

/// The angles of every position, `[batch or 1, steps, 1, pairs]`: of the rows of a table that positions name,
/// or of a table by position.
fn angles(
    b: &mut Builder,
    name: &str,
    table: ValueId,
    positions: Option<ValueId>,
    extents: Extents,
) -> Result<ValueId, Reject> {
    let Extents { batch, steps, pairs, .. } = extents;
    let shape = b.shape(table);
    let Some(positions) = positions else {
        return match shape[..] {
            [n, s, _] if (n == batch || n == 1) && s == steps => {
                b.reshape(name, table, Shape::from([n, s, 1, pairs]))
            }
            _ => wrong(format!("angles of shape {shape} for {batch} sequences of {steps}")),
        };
    };
    if shape.rank() != 2 {
        return wrong(format!("a table of angles of shape {shape}"));
    }
    let rows = match b.shape(positions).elements() {
        // The first position, before that of each sequence; the others follow it.
        1 if steps != 1 || batch != 1 => {
            let first = b.integers(positions, "first position")?[0];
            match usize::try_from(first).ok().and_then(|first| Some(first..first.checked_add(steps)?)) {
                Some(range) if range.end <= shape[0] => b.slice(name, table, 0, range)?,
                _ => return wrong(format!("position {first} of {}", shape[0])),
            }
        }
        count if count == batch * steps => {
            let positions = b.reshape(name, positions, Shape::from([batch, steps]))?;
            let gathered = Shape::from([batch, steps, pairs]);
            b.add(name, Op::Gather { axis: 0 }, &[table, positions], DType::F32, gathered)?
        }
        count => return wrong(format!("{count} positions for {batch} sequences of {steps}")),
    };
    let lead = if b.shape(rows).elements() == steps * pairs { 1 } else { batch };
    b.reshape(name, rows, Shape::from([lead, steps, 1, pairs]))
}

/// Pairs of columns, which are neighbours or in two halves, turned; the columns behind them stay.
fn turn(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    [cosines, sines]: [ValueId; 2],
    (extents, interleaved): (Extents, bool),
) -> Result<ValueId, Reject> {
    let Extents { batch, steps, heads, columns, pairs } = extents;
    let turned = b.slice(name, x, 3, 0..2 * pairs)?;
    let (first, second) = if interleaved {
        let apart = b.reshape(name, turned, Shape::from([batch, steps, heads, pairs, 2]))?;
        let part = |b: &mut Builder, at: usize| {
            let part = b.slice(name, apart, 4, at..at + 1)?;
            b.reshape(name, part, Shape::from([batch, steps, heads, pairs]))
        };
        (part(b, 0)?, part(b, 1)?)
    } else {
        (b.slice(name, turned, 3, 0..pairs)?, b.slice(name, turned, 3, pairs..2 * pairs)?)
    };
    let sum = |b: &mut Builder, op: Binary, p: ValueId, q: ValueId| -> Result<ValueId, Reject> {
        let left = b.binary(name, Binary::Mul, p, cosines)?;
        let right = b.binary(name, Binary::Mul, q, sines)?;
        b.binary(name, op, left, right)
    };
    let (real, imaginary) = (sum(b, Binary::Sub, first, second)?, sum(b, Binary::Add, second, first)?);
    let joined = if interleaved {
        let column = Shape::from([batch, steps, heads, pairs, 1]);
        let (real, imaginary) = (b.reshape(name, real, column.clone())?, b.reshape(name, imaginary, column)?);
        let joined = b.concat(name, &[real, imaginary], 4)?;
        b.reshape(name, joined, Shape::from([batch, steps, heads, 2 * pairs]))?
    } else {
        b.concat(name, &[real, imaginary], 3)?
    };
    if columns == 2 * pairs {
        return Ok(joined);
    }
    let rest = b.slice(name, x, 3, 2 * pairs..columns)?;
    b.concat(name, &[joined, rest], 3)
}
