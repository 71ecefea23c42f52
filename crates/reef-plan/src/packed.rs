//! Products with weights of few bits: their specification, and how a host computes them over bytes for
//! devices that have no code of their own for them.

use reef_graph::PackedWeights;

use crate::trees::floats;

/// A product with weights of few bits ([`reef_graph::Op::MatMulPacked`]); everything is dense.
///
/// Reads x `[m, k]`, the weights as the model has them (bytes `[n, row bytes]`), scales `[n, blocks]` and
/// perhaps shifts `[n, blocks]`, all but the weights f32; writes y `[m, n]`. Block b makes columns
/// `b · tile ..` of every row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedSpec {
    /// How the weights are packed.
    pub weights: PackedWeights,
    /// Rows of x and y.
    pub m: usize,
    /// Elements that are summed.
    pub k: usize,
    /// Columns of y, rows of the weights.
    pub n: usize,
    /// Whether there are shifts.
    pub shifts: bool,
    /// Columns of a block.
    pub tile: usize,
}

impl PackedSpec {
    /// Blocks of a row of the weights.
    pub fn blocks_of_row(&self) -> usize {
        self.weights.blocks(self.k)
    }

    /// Bytes of a row of the weights.
    pub fn row_bytes(&self) -> usize {
        self.weights.row_bytes(self.k)
    }

    /// An element of y: what `x`, `row`, `scales` and `shifts` give are the elements of a row of x, the bytes
    /// of a row of weights, and what belongs to its blocks.
    pub fn element(
        &self,
        x: impl Fn(usize) -> f64,
        row: &[u8],
        scales: impl Fn(usize) -> f64,
        shifts: impl Fn(usize) -> f64,
    ) -> f64 {
        let term = |at: usize| {
            let block = at / self.weights.block;
            let shift = if self.shifts { shifts(block) } else { 0.0 };
            x(at) * (f64::from(self.weights.element(row, at)) * scales(block) - shift)
        };
        (0..self.k).map(term).sum()
    }
}

/// Writes all of the output of `spec`; operands are as it says, little endian. Sums are in double precision.
pub fn packed(spec: &PackedSpec, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let (blocks, bytes) = (spec.blocks_of_row(), spec.row_bytes());
    let x = floats(inputs[0], spec.m * spec.k);
    let by_block = |at: usize| floats(inputs[at], spec.n * blocks);
    let (scales, shifts) = (by_block(2), if spec.shifts { by_block(3) } else { vec![] });
    for (at, to) in outputs[0].chunks_exact_mut(4).take(spec.m * spec.n).enumerate() {
        let (row, column) = (at / spec.n, at % spec.n);
        let own = &inputs[1][column * bytes..][..bytes];
        let value = spec.element(
            |at| x[row * spec.k + at].into(),
            own,
            |block| scales[column * blocks + block].into(),
            |block| shifts[column * blocks + block].into(),
        );
        to.copy_from_slice(&(value as f32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_multiplies_by_packed_weights() {
        let spec = PackedSpec {
            weights: PackedWeights { bits: 4, block: 16 },
            m: 2,
            k: 17,
            n: 1,
            shifts: true,
            tile: 1,
        };
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut x = vec![0.0; 34];
        (x[0], x[16], x[17]) = (2.0, 3.0, 1.0);
        // Codes 9 and 12 of two blocks: (9 − 8)·0.5 − 1 and (12 − 8)·2 − 3.
        let mut weights = [0u8; 16];
        (weights[0], weights[8]) = (9, 12);
        let (scales, shifts) = (bytes(&[0.5, 2.0]), bytes(&[1.0, 3.0]));
        let mut y = vec![0xFF; 8];
        packed(&spec, &[&bytes(&x), &weights, &scales, &shifts], &mut [&mut y]);
        assert_eq!(y, bytes(&[2.0 * -0.5 + 3.0 * 5.0, -0.5]));
    }
}
