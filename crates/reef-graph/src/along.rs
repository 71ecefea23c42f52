//! Operators along one axis that select, order or add up: places of extremes, the largest elements, running
//! sums. A tensor is `[outer, extent, inner]` to them, the axis in the middle.

use crate::dtype::DType;
use crate::tensor::Shape;

/// What is computed of every row along the axis. Semantics are ONNX's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// Output the place of the extreme element, an i64; the axis stays with extent 1. A NaN is neither larger
    /// nor smaller than anything, and the search begins at the first element, as in ONNX Runtime: so a first
    /// NaN is the extreme, others never are.
    ArgExtreme {
        /// Of the largest element, else of the smallest.
        largest: bool,
        /// The last of equal ones, else the first.
        last: bool,
    },
    /// Outputs the `k` largest or smallest elements, in that order, and their places (i64). Of equal ones the
    /// first come first; a NaN equals a NaN and is larger than numbers; zeros are equal.
    TopK {
        /// How many, at most the axis's extent.
        k: usize,
        /// The largest, else the smallest.
        largest: bool,
    },
    /// Output the running sums or products of x's type: integers wrap.
    Scan {
        /// Products, else sums.
        product: bool,
        /// Without the element itself.
        exclusive: bool,
        /// From the last element on.
        reverse: bool,
    },
}

impl Along {
    /// The operator's name in ONNX.
    pub fn name(&self) -> &'static str {
        match self {
            Along::ArgExtreme { largest: true, .. } => "ArgMax",
            Along::ArgExtreme { largest: false, .. } => "ArgMin",
            Along::TopK { .. } => "TopK",
            Along::Scan { product: false, .. } => "CumSum",
            Along::Scan { product: true, .. } => "CumProd",
        }
    }

    /// Elements that a row of `extent` gives, by output.
    pub fn extents(&self, extent: usize) -> Vec<usize> {
        match *self {
            Along::ArgExtreme { .. } => vec![1],
            Along::TopK { k, .. } => vec![k; 2],
            Along::Scan { .. } => vec![extent],
        }
    }

    /// Types of the outputs, for an input of this type.
    pub fn dtypes(&self, dtype: DType) -> Vec<DType> {
        match self {
            Along::ArgExtreme { .. } => vec![DType::I64],
            Along::TopK { .. } => vec![dtype, DType::I64],
            Along::Scan { .. } => vec![dtype],
        }
    }

    /// Why a row of so many elements of this type has no result, if so.
    pub fn flaw(&self, dtype: DType, extent: usize) -> Option<&'static str> {
        match *self {
            Along::ArgExtreme { .. } if extent == 0 => Some("looks for the extreme of no elements"),
            Along::TopK { k, .. } if k > extent => Some("takes more elements than there are"),
            Along::Scan { .. } if dtype == DType::Bool => Some("adds booleans"),
            _ => None,
        }
    }

    /// Types and shapes of the outputs for an input along `axis`, or what is wrong with it.
    pub fn outputs(&self, axis: usize, dtype: DType, x: &Shape) -> Result<Vec<(DType, Shape)>, String> {
        let extent = *x.get(axis).ok_or_else(|| format!("axis {axis} of {x}"))?;
        if let Some(flaw) = self.flaw(dtype, extent) {
            return Err(format!("it {flaw}: {self:?} of {dtype}{x} along axis {axis}"));
        }
        let shape = |extent: usize| {
            let mut dims = x.to_vec();
            dims[axis] = extent;
            Shape::from(dims)
        };
        Ok(self.dtypes(dtype).into_iter().zip(self.extents(extent).into_iter().map(shape)).collect())
    }
}

/// A shape as `[outer, extent, inner]`.
pub fn rows(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}
