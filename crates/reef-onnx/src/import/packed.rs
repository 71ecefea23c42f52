//! Products with weights of few bits, which stay packed: `MatMulNBits` of `com.microsoft`, and `MatMul` by a
//! constant that `DequantizeLinear` makes of such integers, block by block.

use reef_graph::{Binary, DType, Op, PackedWeights, Shape, Tensor, ValueId};

use super::attributes::Node;
use super::graph::Dequantized;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    (node.operator() == "com.microsoft.MatMulNBits").then(|| product(b, node).map(|value| vec![value]))
}

/// Extents of the weights, and how they are packed.
#[derive(Clone, Copy)]
struct Extents {
    k: usize,
    n: usize,
    weights: PackedWeights,
}

impl Extents {
    fn of(node: &Node) -> Result<Extents, Reject> {
        let size = |name: &str| match usize::try_from(node.int(name, 0)) {
            Ok(size) if size > 0 => Ok(size),
            _ => wrong(format!("{name} is {}", node.int(name, 0))),
        };
        let (k, n, block) = (size("K")?, size("N")?, size("block_size")?);
        let weights = PackedWeights { bits: node.int("bits", 4) as u32, block };
        match weights.is_known() {
            true => Ok(Extents { k, n, weights }),
            false => wrong(format!("weights of {} bits in blocks of {block}", weights.bits)),
        }
    }

    /// An operand with a number for each block.
    fn by_block(self, b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId, Reject> {
        let (x, _) = b.computable(name, x)?;
        self.filled(b, name, x, self.weights.blocks(self.k))
    }

    /// An operand of `columns` for each row of the weights.
    fn filled(self, b: &mut Builder, name: &str, x: ValueId, columns: usize) -> Result<ValueId, Reject> {
        let shape = b.shape(x);
        if shape.elements() != self.n * columns {
            return wrong(format!("an operand of shape {shape} for {} rows of {columns}", self.n));
        }
        b.reshape(name, x, Shape::from([self.n, columns]))
    }
}

/// Inputs A, weights, scales, zero points, one that is refused, bias.
fn product(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, extents) = (node.name(), Extents::of(node)?);
    let (x, back) = b.computable(name, node.input(0)?)?;
    let shape = b.shape(x);
    let Some((&k, rows)) = shape.split_last().filter(|(k, _)| **k == extents.k) else {
        return wrong(format!("an input of shape {shape} for K of {}", extents.k));
    };
    let given: usize = rows.iter().product();
    let weights = node.input(1)?;
    if b.dtype(weights) != DType::U8 {
        return wrong(format!("weights of {}", b.dtype(weights)));
    }
    let x = b.reshape(name, x, Shape::from([given, k]))?;
    let weights = extents.filled(b, name, weights, extents.weights.row_bytes(k))?;
    let scales = extents.by_block(b, name, node.input(2)?)?;
    let mut operands = vec![x, weights, scales];
    if let Some(zeros) = node.optional(3) {
        let zeros = zero_points(b, name, zeros, extents)?;
        operands.push(b.binary(name, Binary::Mul, zeros, scales)?);
    }
    let op = Op::MatMulPacked(extents.weights);
    let mut made = b.add(name, op, &operands, DType::F32, Shape::from([given, extents.n]))?;
    if let Some(bias) = node.optional(5) {
        let (bias, _) = b.computable(name, bias)?;
        if b.shape(bias)[..] != [extents.n] {
            return wrong(format!("a bias of shape {} for {} columns", b.shape(bias), extents.n));
        }
        made = b.binary(name, Binary::Add, made, bias)?;
    }
    let made = b.reshape(name, made, rows.iter().copied().chain([extents.n]).collect())?;
    b.cast(name, made, back)
}

/// The product of `x` and a constant matrix that was made of integers of few bits in blocks along its first
/// axis; `None` where `y` is none.
pub(super) fn of_dequantized(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    y: ValueId,
) -> Result<Option<ValueId>, Reject> {
    let Some(Dequantized { by, operands }) = b.dequantized(y) else { return Ok(None) };
    let (shape, weights) = (b.shape(x), PackedWeights { bits: by.bits, block: by.block });
    let Some((&last, rows)) = shape.split_last() else { return Ok(None) };
    let [k, n] = b.shape(y)[..] else { return Ok(None) };
    let fits = by.axis == 0 && weights.is_known() && last == k && shape.elements() > 0;
    let Some(integers) = b.known(operands[0]).filter(|_| fits && !b.is_known(x)).cloned() else {
        return Ok(None);
    };
    let made = b.made_of(format!("packed by column, {weights:?}"), &integers, move |integers| {
        packed_columns(integers, weights, [k, n])
    });
    let (packed, (scales, _)) = (b.constant(name, made), b.computable(name, operands[1])?);
    let mut factors = vec![packed, b.transpose(name, scales, vec![1, 0])?];
    if let Some(&zeros) = operands.get(2) {
        let middle = if b.dtype(zeros) == DType::U8 { f64::from(1 << (by.bits - 1)) } else { 0.0 };
        let (zeros, middle) = (b.cast(name, zeros, DType::F32)?, b.scalar(DType::F32, middle));
        let zeros = b.binary(name, Binary::Sub, zeros, middle)?;
        let shifts = b.binary(name, Binary::Mul, zeros, scales)?;
        factors.push(b.transpose(name, shifts, vec![1, 0])?);
    } else if integers.dtype() == DType::U8 {
        // No zero point is 0, which is not the middle of the codes.
        let middle = b.scalar(DType::F32, -f64::from(1 << (by.bits - 1)));
        factors.push(b.binary(name, Binary::Mul, factors[1], middle)?);
    }
    let (x, back) = b.computable(name, x)?;
    let given = rows.iter().product();
    let x = b.reshape(name, x, Shape::from([given, k]))?;
    let operands: Vec<ValueId> = [x].into_iter().chain(factors).collect();
    let made = b.add(name, Op::MatMulPacked(weights), &operands, DType::F32, Shape::from([given, n]))?;
    let made = b.reshape(name, made, rows.iter().copied().chain([n]).collect())?;
    b.cast(name, made, back).map(Some)
}

/// The columns of integers `[k, n]`, a byte each, as rows of codes.
fn packed_columns(integers: &Tensor, weights: PackedWeights, [k, n]: [usize; 2]) -> Tensor {
    let (bytes, bits) = (weights.row_bytes(k), weights.bits as usize);
    let lift = if integers.dtype() == DType::I8 { 1u8 << (bits - 1) } else { 0 };
    let (from, mut to) = (integers.bytes().as_slice(), vec![0u8; n * bytes]);
    for (at, row) in from.chunks_exact(n).enumerate() {
        for (column, &value) in row.iter().enumerate() {
            let code = value.wrapping_add(lift) & ((1u16 << bits) - 1) as u8;
            to[column * bytes + at * bits / 8] |= code << (at * bits % 8);
        }
    }
    Tensor::from_slice(DType::U8, Shape::from([n, bytes]), &to)
}

/// Zero points as numbers `[n, blocks]`, less the middle of the codes.
fn zero_points(b: &mut Builder, name: &str, zeros: ValueId, extents: Extents) -> Result<ValueId, Reject> {
    let Extents { k, n, weights } = extents;
    let blocks = weights.blocks(k);
    if b.dtype(zeros) != DType::U8 {
        let zeros = extents.by_block(b, name, zeros)?;
        let middle = b.scalar(DType::F32, f64::from(1 << (weights.bits - 1)));
        return b.binary(name, Binary::Sub, zeros, middle);
    }
    let bytes = (blocks * weights.bits as usize).div_ceil(8);
    let zeros = extents.filled(b, name, zeros, bytes)?;
    let packed = b.known(zeros).ok_or_else(|| Reject::Foreign("its zero points are computed".into()))?;
    let packed = packed.clone();
    let unpacked =
        b.made_of(format!("zero points of {blocks} blocks, {weights:?}"), &packed, move |packed| {
            let rows = packed.bytes().as_slice().chunks_exact(bytes);
            let row = |row| (0..blocks).map(move |block| weights.element(row, block) as f32);
            Tensor::f32([n, blocks], &rows.flat_map(row).collect::<Vec<f32>>())
        });
    Ok(b.constant(name, unpacked))
}
