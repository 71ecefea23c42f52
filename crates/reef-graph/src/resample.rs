//! Resampling along an axis: which elements every output element is made of, and with what weights.

use std::fmt;
use std::sync::Arc;

use crate::dtype::DType;
use crate::tensor::{Shape, Tensor};

/// What the elements along an axis are made of: each is a sum of elements of the input's axis (its *taps*),
/// weighted. Beside those of the axis there is one more that may be a tap, the same everywhere.
#[derive(Clone, PartialEq)]
pub struct Taps(Arc<Table>);

#[derive(PartialEq)]
struct Table {
    extent: usize,
    /// Bits of the element that is not of the axis.
    outside: u32,
    /// For every output and behind the last, the place of its first tap: i32.
    begins: Tensor,
    /// For every tap, its index along the axis, −1 for the element outside: i32.
    from: Tensor,
    /// For every tap, its weight: f32.
    weights: Tensor,
}

impl Taps {
    /// The taps of every output for an axis of `extent` elements: index (`None` for `outside`) and weight.
    /// An index that is not of the axis, and more taps than an i32 counts, are an error.
    pub fn new(extent: usize, outside: f32, outputs: &[Vec<(Option<usize>, f32)>]) -> Result<Taps, String> {
        let (mut begins, mut from, mut weights) = (vec![0i32], vec![], vec![]);
        for taps in outputs {
            for &(index, weight) in taps {
                if index.is_some_and(|index| index >= extent) {
                    return Err(format!("element {index:?} of an axis of {extent}"));
                }
                from.push(index.map_or(Ok(-1), i32::try_from).map_err(|_| "an axis too long".to_owned())?);
                weights.push(weight);
            }
            begins.push(i32::try_from(from.len()).map_err(|_| "too many taps".to_owned())?);
        }
        let integers = |values: &[i32]| Tensor::from_slice(DType::I32, Shape::from([values.len()]), values);
        Ok(Taps(Arc::new(Table {
            extent,
            outside: outside.to_bits(),
            begins: integers(&begins),
            from: integers(&from),
            weights: Tensor::f32([weights.len()], &weights),
        })))
    }

    /// Elements of the input's axis.
    pub fn extent(&self) -> usize {
        self.0.extent
    }

    /// Elements of the output's axis.
    pub fn outputs(&self) -> usize {
        self.0.begins.shape().elements() - 1
    }

    /// Taps of all outputs.
    pub fn count(&self) -> usize {
        self.0.from.shape().elements()
    }

    /// The most taps that an output has.
    pub fn most(&self) -> usize {
        self.0.begins.values::<i32>().windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
    }

    /// The element that is not of the axis.
    pub fn outside(&self) -> f32 {
        f32::from_bits(self.0.outside)
    }

    /// The taps of an output: indices along the axis, −1 for the element outside, and weights, as many.
    #[inline]
    pub fn of(&self, output: usize) -> (&[i32], &[f32]) {
        let begins = self.0.begins.values::<i32>();
        let taps = begins[output] as usize..begins[output + 1] as usize;
        (&self.0.from.values::<i32>()[taps.clone()], &self.0.weights.values::<f32>()[taps])
    }
}

/// Extents, and a name of the content for which equal taps have equal ones.
impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = [&self.0.begins, &self.0.from, &self.0.weights].map(|tensor| tensor.key().0);
        let content = Tensor::from_slice(DType::U8, Shape::from([48]), bytemuck::bytes_of(&keys)).key().0;
        let (extent, outputs, outside) = (self.extent(), self.outputs(), self.outside());
        write!(f, "Taps({extent} to {outputs}, outside {outside:?}, {content:032x})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_are_what_was_given() {
        let outputs = [vec![(Some(2), 0.5), (None, 0.25)], vec![], vec![(Some(0), 1.0)]];
        let taps = Taps::new(3, 7.0, &outputs).unwrap();
        assert_eq!((taps.extent(), taps.outputs(), taps.count(), taps.most()), (3, 3, 3, 2));
        assert_eq!(taps.of(0), (&[2, -1][..], &[0.5, 0.25][..]));
        assert_eq!(taps.of(1), (&[][..], &[][..]));
        assert_eq!(taps.of(2), (&[0][..], &[1.0][..]));
        assert!(Taps::new(2, 7.0, &outputs).is_err());
    }

    #[test]
    fn other_taps_print_otherwise() {
        let printed = |extent, outside, taps: &[(Option<usize>, f32)]| {
            format!("{:?}", Taps::new(extent, outside, &[taps.to_vec(), vec![]]).unwrap())
        };
        let first = printed(3, 0.0, &[(Some(1), 0.5)]);
        assert_eq!(first, printed(3, 0.0, &[(Some(1), 0.5)]));
        for other in [
            printed(4, 0.0, &[(Some(1), 0.5)]),
            printed(3, 1.0, &[(Some(1), 0.5)]),
            printed(3, 0.0, &[(Some(2), 0.5)]),
            printed(3, 0.0, &[(Some(1), 0.25)]),
            printed(3, 0.0, &[]),
        ] {
            assert_ne!(first, other);
        }
    }
}
