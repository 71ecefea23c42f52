//! Specifications of the kernels that select: what [`reef_graph::Selection`] means, over dense operands.
//!
//! One block makes all of every output, also what lies behind the part that is meant (zeros): whatever was
//! in the buffers, the outputs are the same to the bit. So a killed block may have written anything.

use reef_graph::DType;

/// The indices of elements other than 0.
///
/// Reads x; writes indices (as many as axes times elements; meant: `[axes, count]`), count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonZeroSpec {
    /// Element type of x.
    pub dtype: DType,
    /// Extents of x, at least one.
    pub dims: Vec<usize>,
}

/// Slices for which a condition holds.
///
/// Reads x `[outer, extent, inner]`, conditions; writes y (as many elements as x; meant: `[outer, count,
/// inner]`), count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressSpec {
    /// Element type of x and y.
    pub dtype: DType,
    /// Extent of all axes before the slices'.
    pub outer: usize,
    /// Slices.
    pub extent: usize,
    /// Extent of all axes behind it.
    pub inner: usize,
    /// Conditions; the slices behind them are left out.
    pub conditions: usize,
}

/// Distinct slices.
///
/// Reads x `[outer, extent, inner]`; writes y (as many elements as x; meant: `[outer, count, inner]`), first
/// indices, inverse indices, counts (`extent` each; meant: count, all, count) and count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueSpec {
    /// Element type of x and y.
    pub dtype: DType,
    /// Extent of all axes before the slices'.
    pub outer: usize,
    /// Slices.
    pub extent: usize,
    /// Extent of all axes behind it.
    pub inner: usize,
    /// In ascending order; else in that of first occurrence.
    pub sorted: bool,
}

/// Boxes with large scores that do not overlap much.
///
/// Reads boxes `[batches, boxes, 4]`, scores `[batches, classes, boxes]`, the most boxes of a class, the
/// threshold of overlap (the task fails unless it is in 0 to 1), `[threshold of scores]`; writes the selected
/// (`[rows, 3]`; meant: `[count, 3]`), count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonMaxSuppressionSpec {
    /// Batches.
    pub batches: usize,
    /// Classes.
    pub classes: usize,
    /// Boxes of a batch.
    pub boxes: usize,
    /// Most boxes of a class, at most `boxes`.
    pub per_class: usize,
    /// Boxes are centres and sizes.
    pub center_point_box: bool,
    /// Whether a threshold of scores is an operand.
    pub score_threshold: bool,
}

/// What is selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectionSpec {
    /// See [`NonZeroSpec`].
    NonZero(NonZeroSpec),
    /// See [`CompressSpec`].
    Compress(CompressSpec),
    /// See [`UniqueSpec`].
    Unique(UniqueSpec),
    /// See [`NonMaxSuppressionSpec`].
    NonMaxSuppression(NonMaxSuppressionSpec),
}

/// Type and number of elements of a dense operand.
pub type Dense = (DType, usize);

impl SelectionSpec {
    /// The kind of kernel, for dumps.
    pub fn name(&self) -> &'static str {
        match self {
            SelectionSpec::NonZero(_) => "nonzero",
            SelectionSpec::Compress(_) => "compress",
            SelectionSpec::Unique(_) => "unique",
            SelectionSpec::NonMaxSuppression(_) => "nms",
        }
    }

    /// What is read.
    pub fn inputs(&self) -> Vec<Dense> {
        match self {
            SelectionSpec::NonZero(spec) => vec![(spec.dtype, spec.dims.iter().product())],
            SelectionSpec::Compress(spec) => {
                let x = spec.outer * spec.extent * spec.inner;
                vec![(spec.dtype, x), (DType::Bool, spec.conditions)]
            }
            SelectionSpec::Unique(spec) => vec![(spec.dtype, spec.outer * spec.extent * spec.inner)],
            SelectionSpec::NonMaxSuppression(spec) => {
                let boxes = spec.batches * spec.boxes;
                let mut inputs = vec![(DType::F32, boxes * 4), (DType::F32, boxes * spec.classes)];
                inputs.extend([(DType::I64, 1), (DType::F32, 1)]);
                inputs.extend(spec.score_threshold.then_some((DType::F32, 1)));
                inputs
            }
        }
    }

    /// What is written.
    pub fn outputs(&self) -> Vec<Dense> {
        let mut outputs = match self {
            SelectionSpec::NonZero(spec) => {
                vec![(DType::I64, spec.dims.len() * spec.dims.iter().product::<usize>())]
            }
            SelectionSpec::Compress(spec) => vec![(spec.dtype, spec.outer * spec.extent * spec.inner)],
            SelectionSpec::Unique(spec) => {
                let list = (DType::I64, spec.extent);
                vec![(spec.dtype, spec.outer * spec.extent * spec.inner), list, list, list]
            }
            SelectionSpec::NonMaxSuppression(spec) => {
                vec![(DType::I64, spec.batches * spec.classes * spec.per_class * 3)]
            }
        };
        outputs.push((DType::I64, 1));
        outputs
    }

    /// What is wrong with the specification itself, if something is: places are kept in 32 bits, and lists of
    /// selected boxes are as long as the spec says.
    pub fn flaw(&self) -> Option<&'static str> {
        let (extent, per_class) = match self {
            SelectionSpec::NonZero(spec) if spec.dims.is_empty() => return Some("has no axis"),
            SelectionSpec::NonZero(_) => return None,
            SelectionSpec::Compress(spec) => (spec.extent, spec.conditions),
            SelectionSpec::Unique(spec) => (spec.extent, 0),
            SelectionSpec::NonMaxSuppression(spec) => (spec.boxes, spec.per_class),
        };
        if per_class > extent {
            return Some("selects among more than there is");
        }
        u32::try_from(extent).is_err().then_some("has more places than 32 bits can count")
    }
}
