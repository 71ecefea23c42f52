//! Block kernels: the code that runs one block of each kernel specification.
//!
//! [`prepare`] binds a kernel to an instruction set: the arithmetic is written once over [`vector::Vector`]
//! and compiled for each. Results depend on the plan and the instruction set, never on which blocks ran
//! where, how often, or how large they are. Nothing here allocates while it runs, but host kernels.
#![allow(unsafe_code)]
// Register arrays are walked by index: counted loops of constant length are what the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use reef_plan::{Isa, Kernel, KernelSpec, Plan};

use crate::context::{BlockContext, BlockEnd};
use vector::{Leaf, Vector};

/// An expression with `$vector` being the vector type of an instruction set.
macro_rules! with_vector {
    ($isa:expr, $vector:ident => $value:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            reef_plan::Isa::Avx512 => {
                type $vector = $crate::kernels::vector::avx512::F32x16;
                $value
            }
            #[cfg(target_arch = "x86_64")]
            reef_plan::Isa::Avx2 => {
                type $vector = $crate::kernels::vector::avx2::F32x8;
                $value
            }
            _ => {
                type $vector = $crate::kernels::vector::portable::F32x4;
                $value
            }
        }
    };
}

mod along;
mod attention;
mod byte_pool;
mod conv;
mod depthwise;
mod elementwise;
mod epilogue;
mod indexed;
mod integer;
mod layernorm;
mod math;
mod matmul;
mod max_pool;
mod micro;
mod nest;
mod pace;
mod packed;
mod plain;
mod pool;
mod recurrent;
mod reduce;
mod resample;
mod selection;
mod softmax;
mod taps;
#[cfg(test)]
mod tests;
mod trees;
mod vector;
mod vision;

/// A kernel made ready for this machine: everything that does not change from task to task.
pub(crate) trait BlockKernel: Send + Sync {
    /// Runs block `block`: writes its tile of the outputs, or stops when the context's poll says so.
    ///
    /// # Safety
    /// The context's addresses must be valid for the plan that the kernel was prepared from, and no other
    /// thread may write what the block reads or touch what it writes while it runs.
    unsafe fn run(&self, context: &BlockContext<'_>, block: u32) -> BlockEnd;
}

/// Makes `kernel` of a plan ready for `isa`, which the machine must have. Convolutions must have been
/// compiled for it: their weights are packed for one panel width.
pub(crate) fn prepare(kernel: &Kernel, _plan: &Plan, isa: Isa) -> Box<dyn BlockKernel> {
    match &kernel.spec {
        KernelSpec::Conv(spec) => conv::prepare(spec, kernel, isa),
        KernelSpec::Depthwise(spec) => depthwise::prepare(spec, kernel, isa),
        KernelSpec::MatMul(spec) => matmul::prepare(spec, kernel, isa),
        KernelSpec::IntegerConv(spec) => integer::conv::prepare(spec, kernel, isa),
        KernelSpec::IntegerMatMul(spec) => integer::matmul::prepare(spec, kernel, isa),
        KernelSpec::Attention(spec) => attention::prepare(spec, kernel, isa),
        KernelSpec::Elementwise(spec) => elementwise::prepare(spec, kernel, isa),
        KernelSpec::Pool(spec) => pool::prepare(spec, kernel, isa),
        KernelSpec::Reduce(spec) => reduce::prepare(spec, kernel, isa),
        KernelSpec::Softmax(spec) => softmax::prepare(spec, kernel, isa),
        KernelSpec::LayerNorm(spec) => layernorm::prepare(spec, kernel, isa),
        KernelSpec::Gather(spec) => Box::new(plain::Gather::new(spec, kernel)),
        KernelSpec::Take(spec) => indexed::take(spec, kernel),
        KernelSpec::Put(spec) => indexed::put(spec, kernel, isa),
        KernelSpec::MaxPool(spec) => max_pool::prepare(spec, kernel, isa),
        KernelSpec::Resample(spec) => resample::prepare(spec, kernel, isa),
        KernelSpec::Recurrent(spec) => recurrent::prepare(spec, kernel, isa),
        KernelSpec::Along(spec) => along::prepare(spec, kernel, isa),
        KernelSpec::Packed(spec) => packed::prepare(spec, kernel, isa),
        KernelSpec::Trees(spec) => Box::new(trees::Trees::new(spec, kernel)),
        KernelSpec::Vision(spec) => vision::prepare(spec, kernel, isa),
        KernelSpec::Selection(spec) => selection::prepare(spec, kernel),
        KernelSpec::Host(_) => Box::new(plain::Host::new(kernel)),
        KernelSpec::Synthetic(spec) => Box::new(plain::Synthetic::new(spec, kernel)),
    }
}

/// The best instruction set of this machine, or a lower one that the variable `REEF_ISA` (`portable`, `avx2`,
/// `avx512`) asks for.
pub(crate) fn detect() -> Result<Isa, String> {
    let best = best();
    let asked = match std::env::var("REEF_ISA") {
        Err(_) => return Ok(best),
        Ok(name) => match name.as_str() {
            "portable" => Isa::Portable,
            "avx2" => Isa::Avx2,
            "avx512" => Isa::Avx512,
            _ => return Err(format!("REEF_ISA={name}: not one of portable, avx2, avx512")),
        },
    };
    if asked <= best { Ok(asked) } else { Err(format!("REEF_ISA={asked}: this machine has only {best}")) }
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn best() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) => Isa::Avx512,
        (true, false) => Isa::Avx2,
        _ => Isa::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn best() -> Isa {
    Isa::Portable
}

/// A block kernel that is written over any vector.
trait VectorKernel: Send + Sync + 'static {
    /// As [`BlockKernel::run`]; to be marked `inline(always)`.
    ///
    /// # Safety
    /// As [`BlockKernel::run`], inside `V::enter`.
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd;
}

/// Compiles `kernel` for `isa`.
fn bind<K: VectorKernel>(kernel: K, isa: Isa) -> Box<dyn BlockKernel> {
    assert!(isa <= best(), "a kernel for {isa} on a machine without it");
    with_vector!(isa, V => Box::new(On::<V, K>(kernel, PhantomData)))
}

/// Compiles `kernel` for every machine at once.
fn bind_plain<K: VectorKernel>(kernel: K) -> Box<dyn BlockKernel> {
    Box::new(On::<vector::portable::F32x4, K>(kernel, PhantomData))
}

struct On<V, K>(K, PhantomData<fn() -> V>);

impl<V: Vector, K: VectorKernel> BlockKernel for On<V, K> {
    unsafe fn run(&self, context: &BlockContext<'_>, block: u32) -> BlockEnd {
        // SAFETY: `bind` checked the machine; the rest is passed on from the caller.
        unsafe { V::enter(Block { kernel: &self.0, context, block: block as usize }) }
    }
}

struct Block<'a, 'b, K> {
    kernel: &'a K,
    context: &'a BlockContext<'b>,
    block: usize,
}

impl<K: VectorKernel> Leaf for Block<'_, '_, K> {
    type Out = BlockEnd;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> BlockEnd {
        // SAFETY: passed on from the caller.
        unsafe { self.kernel.run_block::<V>(self.context, self.block) }
    }
}
