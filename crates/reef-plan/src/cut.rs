//! The seam between what a kernel means and how a device runs it.
//!
//! What a kernel computes is the same everywhere; how it is cut into blocks, and how the constants lie that
//! it multiplies with, is the business of the device that runs it. Each device brings a [`Cutter`], and the
//! compiler asks it six things:
//! 1. how weights are packed: a layout that all devices know, or one of its own ([`crate::Layout`]);
//! 2. how a kernel, which comes in one piece, is cut. Only the numbers change that [`KernelSpec::whole`]
//!    sets, so the meaning stays; and as a specification fixes the order of sums, so do the results;
//! 3. what a kernel takes, in time and in scratch: to choose between cuts, to fill stages, for reports;
//! 4. whether it has kernels that others have not ([`Cutter::has_attention`], [`Cutter::has_integers`],
//!    [`Cutter::has_integer_pools`], [`Cutter::has_normed_conv`]);
//! 5. how many steps of a recurrent network are one kernel ([`Cutter::recurrent_steps`]);
//! 6. what it does all this for: a [`Target`]. Devices of one target have one and the same cutter, so plans
//!    are named, shared and compared by it.
//!
//! Results of one plan never depend on the cut: a tile whose sum several blocks share (`splits`) is split by
//! the kernel's shape alone. Two devices may differ in the last bits all the same: each has its own
//! arithmetic, and a packing may round the weights (its layout says so).

use std::fmt;

use reef_graph::Shape;

use crate::recurrent::RecurrentSpec;
use crate::spec::KernelSpec;
use crate::target::Target;
use crate::weights::Packing;

/// A constant that a kernel multiplies with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights<'a> {
    /// Of a convolution with so many groups of channels: `[O, I, kh, kw]`, I per group.
    Conv {
        /// Channel groups.
        groups: usize,
        /// Shape of the constant.
        shape: &'a Shape,
    },
    /// Of a depthwise convolution: `[C, 1, kh, kw]`.
    Depthwise {
        /// Shape of the constant.
        shape: &'a Shape,
    },
    /// Of a matrix product: `[K, N]`, or `[N, K]` when transposed.
    Matrix {
        /// The constant is stored `[N, K]`.
        transposed: bool,
        /// Shape of the constant.
        shape: &'a Shape,
    },
    /// Of a recurrent network's state: `[gates · hidden, hidden, 1, 1]`, so many gates.
    Recurrent {
        /// Gates, which are like groups of channels.
        gates: usize,
        /// Shape of the constant.
        shape: &'a Shape,
    },
    /// 8-bit integers of a convolution with so many groups of channels, `[O, I, kh, kw]`, or of a matrix
    /// product, `[K, N]`.
    Integers {
        /// Channel groups; 1 for a matrix.
        groups: usize,
        /// Shape of the constant.
        shape: &'a Shape,
    },
}

/// What a kernel does, counted without regard to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations, a multiply-add counted as two. Functions count as several.
    pub flops: f64,
    /// Bytes of the elements that are read and written, each operand counted once.
    pub bytes: f64,
    /// An operand is read across the order in which the output is written.
    pub scattered: bool,
}

/// How a device packs constants and cuts kernels into blocks. Deterministic: the same question has the same
/// answer, on every device of the same target.
pub trait Cutter: Send + Sync + fmt::Debug {
    /// What plans are made for.
    fn target(&self) -> Target;

    /// How a constant is to lie in memory for the kernel that multiplies with it.
    fn packing(&self, weights: Weights<'_>) -> Packing;

    /// `kernel`, which comes in one piece and has at least one element to make, cut into blocks: the same
    /// [whole](KernelSpec::whole).
    fn cut(&self, kernel: KernelSpec, work: &Work) -> KernelSpec;

    /// Estimated nanoseconds that one compute unit needs for `kernel`, cut as it is.
    fn kernel_ns(&self, kernel: &KernelSpec, work: &Work) -> f64;

    /// Bytes of scratch that one block of `kernel` needs. Scratch belongs to the compute unit, is 64-byte
    /// aligned and holds rubbish when a block starts.
    fn scratch_bytes(&self, kernel: &KernelSpec) -> usize;

    /// Whether attention over so many products and columns ([`crate::AttentionSpec`]'s depth and width) is
    /// one kernel here. Otherwise it is two products and a softmax.
    fn has_attention(&self, _depth: usize, _width: usize) -> bool {
        false
    }

    /// Steps of a recurrent network that one kernel takes, at least 1; `spec` takes all of them. More kernels
    /// are more work, and one that stops loses less.
    fn recurrent_steps(&self, spec: &RecurrentSpec, _work: &Work) -> usize {
        spec.steps.max(1)
    }

    /// Whether the host runs recurrent networks with states of so many elements for the device, multiplied as
    /// integers or not: then each output of a kernel is dense.
    fn hosts_recurrent(&self, _hidden: usize, _integers: bool) -> bool {
        false
    }

    /// Whether it has kernels for products of 8-bit integers: then what multiplies numbers that were such
    /// integers multiplies the integers.
    fn has_integers(&self) -> bool {
        false
    }

    /// Whether it has [`crate::KernelSpec::Pool`] for 8-bit integers.
    fn has_integer_pools(&self) -> bool {
        false
    }

    /// Whether a convolution may norm its input as it reads it ([`crate::ConvSpec`]'s `normed`). Otherwise
    /// that is a kernel before it.
    fn has_normed_conv(&self) -> bool {
        false
    }

    /// Blocks that fill a stage: kernels that could run at the same time share one up to so many.
    fn stage_blocks(&self) -> usize;
}
