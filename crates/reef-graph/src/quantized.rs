//! Operators of quantised networks: sums of products of 8-bit integers, and the ways from numbers to such
//! integers and back.
//!
//! An integer q with a scale s and a zero point z stands for the number `(q − z)·s`.

use crate::dtype::DType;
use crate::tensor::Shape;

/// Which zero points a sum of products has as operands; one that it has not is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ZeroPoints {
    /// Of the left operand.
    pub left: bool,
    /// Of the right operand (the weights).
    pub right: bool,
}

impl ZeroPoints {
    /// Operands: the two factors and the zero points.
    pub fn operands(self) -> usize {
        2 + usize::from(self.left) + usize::from(self.right)
    }

    /// Positions of the zero points among the operands.
    pub fn places(self) -> [Option<usize>; 2] {
        [self.left.then_some(2), self.right.then_some(2 + usize::from(self.left))]
    }

    /// What is wrong with the operands of an integer product, in a sentence without a subject; `None` if
    /// nothing is.
    pub fn flaw_of_product(self, operands: &[(DType, Shape)]) -> Option<String> {
        if let Some(flaw) = self.flaw_of_types(operands) {
            return Some(flaw);
        }
        let (a, b) = (&operands[0].1, &operands[1].1);
        if a.rank() < 2 || b.rank() < 2 || a[a.rank() - 1] != b[b.rank() - 2] {
            return Some(format!("multiplies {a} and {b}"));
        }
        let column = |shape: &Shape| shape[..shape.rank() - 1].iter().copied().chain([1]).collect::<Shape>();
        let row = |shape: &Shape| {
            let (batch, last) = (&shape[..shape.rank() - 2], shape[shape.rank() - 1]);
            batch.iter().copied().chain([1, last]).collect::<Shape>()
        };
        let [left, right] = self.places();
        let fits = |at: Option<usize>, own: Shape| match at {
            Some(at) => operands[at].1.rank() <= own.rank() && operands[at].1.broadcast(&own) == Some(own),
            None => true,
        };
        if !fits(left, column(a)) {
            return Some(format!("has zero points {} for rows of {a}", operands[2].1));
        }
        (!fits(right, row(b)))
            .then(|| format!("has zero points {} for columns of {b}", operands[operands.len() - 1].1))
    }

    /// The same for a convolution of `groups` groups.
    pub fn flaw_of_conv(self, operands: &[(DType, Shape)], groups: usize) -> Option<String> {
        if let Some(flaw) = self.flaw_of_types(operands) {
            return Some(flaw);
        }
        let (x, weights) = (&operands[0].1, &operands[1].1);
        let fits = x.rank() == 4
            && weights.rank() == 4
            && groups > 0
            && x[1] == weights[1] * groups
            && weights[0].is_multiple_of(groups);
        if !fits {
            return Some(format!("has x {x} and weights {weights} in {groups} groups"));
        }
        let [left, right] = self.places();
        if let Some(at) = left.filter(|&at| operands[at].1.elements() != 1) {
            return Some(format!("has zero points {} of x, not one", operands[at].1));
        }
        let by_channel = |shape: &Shape| shape.elements() == 1 || shape[..] == [weights[0]];
        right
            .filter(|&at| !by_channel(&operands[at].1))
            .map(|at| format!("has zero points {} for {} output channels", operands[at].1, weights[0]))
    }

    fn flaw_of_types(self, operands: &[(DType, Shape)]) -> Option<String> {
        if operands.len() != self.operands() {
            return Some(format!("has {} operands, not {}", operands.len(), self.operands()));
        }
        let small = |dtype: DType| matches!(dtype, DType::U8 | DType::I8);
        if let Some((dtype, _)) = operands[..2].iter().find(|operand| !small(operand.0)) {
            return Some(format!("multiplies u8 and i8, not {dtype}"));
        }
        let own = self.places().into_iter().zip(&operands[..2]);
        let differs =
            |(at, factor): (Option<usize>, &(DType, Shape))| at.filter(|&at| operands[at].0 != factor.0);
        own.filter_map(differs).next().map(|at| format!("has a zero point of type {}", operands[at].0))
    }
}

/// Which scale and zero point belong to which element, and how many bits an integer has.
///
/// The scales are one for all (a tensor of one element, `block` 0), one for each index of `axis` (`[extent]`,
/// `block` 0), or one for every `block` elements along `axis` (the shape of x, but for the axis, which has
/// `⌈extent / block⌉`). Zero points have the shape of the scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantization {
    /// The axis. Of no meaning when there is one scale.
    pub axis: usize,
    /// Elements in a row along the axis that share a scale; 0: all along the other axes.
    pub block: usize,
    /// Bits of an integer, at most those of the type that holds it: 8 and 16 for those of ONNX; 4 when i8 and
    /// u8 hold unpacked i4 and u4.
    pub bits: u32,
}

impl Quantization {
    /// One scale for all elements, integers of `bits` bits.
    pub fn by_tensor(bits: u32) -> Quantization {
        Quantization { axis: 0, block: 0, bits }
    }

    /// Least and greatest integer, when `dtype` holds them; `None` for types that hold no quantised values.
    pub fn range(&self, dtype: DType) -> Option<(i32, i32)> {
        let fits = self.bits > 0 && self.bits as usize <= dtype.bytes() * 8;
        match dtype {
            DType::U8 | DType::U16 if fits => Some((0, (1 << self.bits) - 1)),
            DType::I8 | DType::I16 if fits => Some((-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)),
            _ => None,
        }
    }

    /// What is wrong with the operands of [`crate::Op::Quantize`] and its output's type, in a sentence
    /// without a subject; `None` if nothing is.
    pub fn flaw_of_quantize(&self, operands: &[(DType, Shape)], to: DType) -> Option<String> {
        let [(x, shape), (scale, scales), zeros @ ..] = operands else {
            return Some(format!("has {} operands", operands.len()));
        };
        if !matches!(x, DType::F32 | DType::F16 | DType::I32) {
            return Some(format!("quantises f32, f16 and i32, not {x}"));
        }
        if self.range(to).is_none() {
            return Some(format!("makes {to} of {} bits", self.bits));
        }
        self.flaw_of_scales(shape, (*scale, scales), zeros, to)
    }

    /// The same for [`crate::Op::Dequantize`].
    pub fn flaw_of_dequantize(&self, operands: &[(DType, Shape)], to: DType) -> Option<String> {
        let [(x, shape), (scale, scales), zeros @ ..] = operands else {
            return Some(format!("has {} operands", operands.len()));
        };
        if *x != DType::I32 && self.range(*x).is_none() {
            return Some(format!("reads {x} of {} bits", self.bits));
        }
        if !matches!(to, DType::F32 | DType::F16) {
            return Some(format!("makes f32 and f16, not {to}"));
        }
        self.flaw_of_scales(shape, (*scale, scales), zeros, *x)
    }

    fn flaw_of_scales(
        &self,
        x: &Shape,
        (scale, scales): (DType, &Shape),
        zeros: &[(DType, Shape)],
        quantised: DType,
    ) -> Option<String> {
        if !matches!(scale, DType::F32 | DType::F16) {
            return Some(format!("has scales of type {scale}"));
        }
        let alone = scales.elements() == 1 && self.block == 0;
        if !alone && (self.axis >= x.rank() || scales[..] != *self.scales(x)) {
            return Some(format!(
                "has scales {scales} for {x} by axis {}, blocks of {}",
                self.axis, self.block
            ));
        }
        match zeros {
            [] => None,
            [(dtype, shape)]
                if *dtype == quantised && (shape == scales || alone && shape.elements() == 1) =>
            {
                None
            }
            [(dtype, shape)] => Some(format!("has zero points {dtype}{shape}, not {quantised}{scales}")),
            _ => Some(format!("has {} operands", zeros.len() + 2)),
        }
    }

    /// The shape of the scales of `x` when there are several.
    pub fn scales(&self, x: &Shape) -> Shape {
        match self.block {
            0 => Shape::from([x[self.axis]]),
            block => (0..x.rank())
                .map(|axis| if axis == self.axis { x[axis].div_ceil(block) } else { x[axis] })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types and shapes of operands.
    type Facts<'a> = &'a [(DType, &'a [usize])];

    fn facts(operands: Facts<'_>) -> Vec<(DType, Shape)> {
        operands.iter().map(|&(dtype, shape)| (dtype, Shape::new(shape))).collect()
    }

    #[test]
    fn operands_of_products_that_do_not_fit_are_named() {
        use DType::{F32, I8, U8};
        let flaw =
            |zeros: ZeroPoints, operands: &[(DType, &[usize])]| zeros.flaw_of_product(&facts(operands));
        let none = ZeroPoints::default();
        let (left, both) = (ZeroPoints { left: true, right: false }, ZeroPoints { left: true, right: true });
        let fits: [(ZeroPoints, Facts<'_>); 4] = [
            (none, &[(U8, &[2, 3, 4]), (I8, &[4, 5])]),
            (left, &[(U8, &[2, 3, 4]), (U8, &[4, 5]), (U8, &[])]),
            (both, &[(I8, &[2, 3, 4]), (I8, &[4, 5]), (I8, &[2, 3, 1]), (I8, &[5])]),
            (both, &[(I8, &[3, 4]), (U8, &[4, 5]), (I8, &[3, 1]), (U8, &[1, 5])]),
        ];
        for (zeros, operands) in fits {
            assert_eq!(flaw(zeros, operands), None);
        }
        let wrong: [(ZeroPoints, Facts<'_>, &str); 6] = [
            (none, &[(F32, &[3, 4]), (I8, &[4, 5])], "multiplies u8 and i8, not f32"),
            (none, &[(U8, &[3, 4]), (I8, &[5, 4])], "multiplies [3,4] and [5,4]"),
            (left, &[(U8, &[3, 4]), (I8, &[4, 5])], "has 2 operands, not 3"),
            (left, &[(U8, &[3, 4]), (I8, &[4, 5]), (I8, &[])], "has a zero point of type i8"),
            (left, &[(U8, &[3, 4]), (I8, &[4, 5]), (U8, &[3])], "has zero points [3] for rows of [3,4]"),
            (
                both,
                &[(U8, &[3, 4]), (I8, &[4, 5]), (U8, &[]), (I8, &[4])],
                "has zero points [4] for columns of [4,5]",
            ),
        ];
        for (zeros, operands, reason) in wrong {
            assert_eq!(flaw(zeros, operands).as_deref(), Some(reason));
        }
        let conv = |operands: &[(DType, &[usize])]| both.flaw_of_conv(&facts(operands), 2);
        let (x, w) = ((U8, &[1, 4, 5, 5][..]), (I8, &[6, 2, 3, 3][..]));
        assert_eq!(conv(&[x, w, (U8, &[]), (I8, &[6])]), None);
        let reason = conv(&[x, w, (U8, &[4]), (I8, &[6])]);
        assert_eq!(reason.as_deref(), Some("has zero points [4] of x, not one"));
        assert!(conv(&[x, w, (U8, &[1]), (I8, &[4])]).is_some());
        assert!(conv(&[x, (I8, &[6, 4, 3, 3]), (U8, &[1]), (I8, &[1])]).is_some());
    }

    #[test]
    fn scales_that_do_not_fit_are_named() {
        use DType::{F16, F32, F64, I8, I16, I32, I64, U8};
        let of = |axis, block, bits| Quantization { axis, block, bits };
        assert_eq!(of(0, 0, 4).range(I8), Some((-8, 7)));
        assert_eq!(of(0, 0, 4).range(U8), Some((0, 15)));
        assert_eq!(of(0, 0, 16).range(DType::U16), Some((0, 65_535)));
        assert_eq!((of(0, 0, 16).range(U8), of(0, 0, 8).range(I32)), (None, None));
        let x = (F32, &[3, 10][..]);
        let flaw = |how: Quantization, operands: &[(DType, &[usize])], to| {
            how.flaw_of_quantize(&facts(operands), to)
        };
        assert_eq!(flaw(of(9, 0, 8), &[x, (F32, &[])], U8), None);
        assert_eq!(flaw(of(1, 0, 8), &[x, (F16, &[10]), (I8, &[10])], I8), None);
        assert_eq!(flaw(of(1, 4, 16), &[x, (F32, &[3, 3]), (I16, &[3, 3])], I16), None);
        for (how, operands, to) in [
            (of(0, 0, 8), &[(I64, &[3, 10][..]), (F32, &[])][..], U8),
            (of(0, 0, 8), &[x, (F64, &[])], U8),
            (of(0, 0, 8), &[x, (F32, &[])], I32),
            (of(0, 0, 8), &[x, (F32, &[10])], U8),
            (of(2, 0, 8), &[x, (F32, &[10])], U8),
            (of(1, 4, 8), &[x, (F32, &[3, 4])], U8),
            (of(0, 0, 8), &[x, (F32, &[]), (I8, &[])], U8),
            (of(0, 0, 8), &[x], U8),
        ] {
            assert!(flaw(how, operands, to).is_some(), "{how:?} {operands:?}");
        }
        let back = of(0, 0, 8).flaw_of_dequantize(&facts(&[(I64, &[3]), (F32, &[])]), F32);
        assert_eq!(back.as_deref(), Some("reads i64 of 8 bits"));
    }
}
