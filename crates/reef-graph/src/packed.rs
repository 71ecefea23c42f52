//! Weights of few bits, several to a byte, with a scale for every block of a row.

use crate::dtype::DType;
use crate::tensor::Shape;

/// How the weights of a product are packed. A row of weights is one output's, of as many elements as are
/// summed, filled up to whole blocks. An element is an unsigned code of `bits` bits, the first of a byte
/// lowest.
///
/// A code c of a block with scale s and shift t stands for the number `(c − 2^(bits − 1))·s − t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackedWeights {
    /// Bits of an element: 2, 4 or 8.
    pub bits: u32,
    /// Elements of a block, a power of two, at least 16.
    pub block: usize,
}

impl PackedWeights {
    /// Whether bits and block are among those that there are.
    pub fn is_known(self) -> bool {
        matches!(self.bits, 2 | 4 | 8) && self.block >= 16 && self.block.is_power_of_two()
    }

    /// Blocks of a row of `depth` elements.
    pub fn blocks(self, depth: usize) -> usize {
        depth.div_ceil(self.block)
    }

    /// Bytes of a row of `depth` elements; words of 4 bytes each lie in one block.
    pub fn row_bytes(self, depth: usize) -> usize {
        self.blocks(depth) * (self.block * self.bits as usize / 8)
    }

    /// Element `at` of a row, less the middle of the codes.
    pub fn element(self, row: &[u8], at: usize) -> i32 {
        let each = 8 / self.bits as usize;
        let code = u32::from(row[at / each]) >> (at % each * self.bits as usize) & ((1 << self.bits) - 1);
        code as i32 - (1 << (self.bits - 1))
    }

    /// What is wrong with the operands and the output of [`crate::Op::MatMulPacked`], in a sentence without a
    /// subject; `None` if nothing is.
    pub fn flaw(self, operands: &[(DType, Shape)], output: &(DType, Shape)) -> Option<String> {
        if !self.is_known() {
            return Some(format!("has weights of {} bits in blocks of {}", self.bits, self.block));
        }
        let ([(DType::F32, x), (DType::U8, weights), rest @ ..], (DType::F32, y)) = (operands, output) else {
            return Some("has operands of other types than f32 and u8".into());
        };
        let ([rows, depth], [columns, bytes]) = (&x[..], &weights[..]) else {
            return Some(format!("multiplies {x} and {weights}"));
        };
        if *bytes != self.row_bytes(*depth) || y[..] != [*rows, *columns] {
            return Some(format!("makes {y} of {x} and rows of {bytes} bytes"));
        }
        let by_block = (DType::F32, Shape::from([*columns, self.blocks(*depth)]));
        match rest {
            [scales] if *scales == by_block => None,
            [scales, shifts] if *scales == by_block && *shifts == by_block => None,
            _ => Some(format!("has other scales or shifts than one f32 for each of {}", by_block.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_lie_in_bytes_from_below() {
        let of = |bits| PackedWeights { bits, block: 16 };
        let row = [0x4F, 0x80];
        assert_eq!([0, 1, 2, 3].map(|at| of(4).element(&row, at)), [7, -4, -8, 0]);
        assert_eq!([0, 1, 2, 3].map(|at| of(2).element(&row, at)), [1, 1, -2, -1]);
        assert_eq!([0, 1].map(|at| of(8).element(&row, at)), [0x4F - 128, 0]);
        assert_eq!((of(4).blocks(33), of(4).row_bytes(33), of(2).row_bytes(16)), (3, 24, 4));
    }

    #[test]
    fn operands_that_do_not_fit_are_named() {
        let f32s = |dims: &[usize]| (DType::F32, Shape::new(dims));
        let weights = (DType::U8, Shape::from([5, 24]));
        let flaw = |operands: &[(DType, Shape)], block| {
            PackedWeights { bits: 4, block }.flaw(operands, &f32s(&[2, 5]))
        };
        let (x, scales) = (f32s(&[2, 33]), f32s(&[5, 3]));
        assert_eq!(flaw(&[x.clone(), weights.clone(), scales.clone()], 16), None);
        assert_eq!(flaw(&[x.clone(), weights.clone(), scales.clone(), scales.clone()], 16), None);
        for (operands, block) in [
            (vec![x.clone(), weights.clone(), scales.clone()], 24),
            (vec![x.clone(), weights.clone(), scales.clone()], 32),
            (vec![x.clone(), weights.clone()], 16),
            (vec![x.clone(), x.clone(), scales.clone()], 16),
            (vec![x.clone(), weights.clone(), f32s(&[5, 2])], 16),
            (vec![x, weights, scales, f32s(&[5])], 16),
        ] {
            assert!(flaw(&operands, block).is_some(), "{operands:?} {block}");
        }
    }
}
