//! Layouts of weights that a device defines for itself.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// What weights are, however they lie: for every group of channels a matrix of `depth` rows (the products
/// that are summed) and `outputs` columns.
///
/// Row k of a convolution is tap `k / inputs`, input channel `k % inputs` of the group. Depthwise weights
/// have a group for every channel, and one output each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// Channel groups.
    pub groups: usize,
    /// Output channels of a group.
    pub outputs: usize,
    /// Products summed for an output.
    pub depth: usize,
}

/// Where an element of [`Matrices`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Channel group.
    pub group: usize,
    /// Output channel inside the group.
    pub output: usize,
    /// Row.
    pub k: usize,
}

/// A way to lay weights out in memory. It may round them (to f16, say); results then differ from other
/// devices' by that, and by nothing that depends on the cut.
pub trait Layout: Send + Sync {
    /// Names it: layouts of one name are one and the same.
    fn name(&self) -> &'static str;

    /// Bytes of such weights, packed.
    fn bytes(&self, of: Matrices) -> usize;

    /// Packs what `at` gives into `into`, which has [`Layout::bytes`] zeros.
    fn pack(&self, of: Matrices, at: &dyn Fn(At) -> f32, into: &mut [u8]);

    /// An element of packed weights.
    fn read(&self, of: Matrices, packed: &[u8], at: At) -> f32;
}

/// A device's layout as a value that can be compared: by its name.
#[derive(Clone, Copy)]
pub struct OwnLayout(pub &'static dyn Layout);

impl fmt::Debug for OwnLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl PartialEq for OwnLayout {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for OwnLayout {}

impl PartialOrd for OwnLayout {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OwnLayout {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name().cmp(other.0.name())
    }
}

impl Hash for OwnLayout {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}
