//! What padding goes by, and what the board asks of a plan.

use reef_base::Nanos;

/// What padding goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// Blocks that fit a multiprocessor together.
    pub(crate) together: u32,
    /// How long as many blocks as fit the device take, where the kernel has run.
    pub(crate) wave: Option<Nanos>,
    /// And how long the kernel takes.
    pub(crate) whole: Option<Nanos>,
    /// Successive blocks that share a tile: one launch has all of them.
    pub(crate) grain: u32,
}

/// What the board asks of a plan.
pub(crate) trait Kernels {
    /// Of a kernel of the device, which has so many multiprocessors.
    fn fit(&self, kernel: usize, units: usize) -> Fit;

    /// The kernel behind the graph that begins with a kernel, if there is one: what it has is of the device.
    fn graph_end(&self, kernel: usize) -> Option<usize>;
}
