//! `reef-plan`: what a device executes.
//!
//! Owns the plan (stages of kernels, each a grid of blocks over named byte regions), the kernel
//! specifications, the compile target and the seam to a device's way of cutting kernels ([`Cutter`]), packed
//! weights, and the proof that a plan may be preempted by killing blocks. Knows nothing of ONNX, of how plans
//! are made, of threads or of any real device.

pub mod along;
mod attention;
pub mod cut;
pub mod host;
pub mod indexed;
pub mod integer;
pub mod interpreter;
pub mod layout;
pub mod meter;
pub mod packed;
pub mod plan;
pub mod program;
mod reach;
pub mod recur;
pub mod recurrent;
pub mod region;
pub mod resample;
pub mod select;
pub mod selection;
pub mod spec;
pub mod synthetic;
pub mod target;
pub mod trees;
mod trusted;
pub mod validate;
pub mod vision;
pub mod weights;
pub mod windows;

pub use along::{AlongSpec, RowFunction};
pub use attention::{AttentionSpec, Masking};
pub use cut::{Cutter, Weights, Work};
pub use host::{FaultKind, HostFault, HostKernel, HostState, TensorSpec};
pub use indexed::{PutSpec, TakeSpec};
pub use integer::{
    Dequantize, Factors, IntegerEpilogue, IntegerPanels, Per, Requantize, Residual, Rounding, Scaled,
};
pub use interpreter::{Interpreter, TaskMemory};
pub use layout::{At, Layout, Matrices, OwnLayout};
pub use meter::Meter;
pub use packed::{PackedSpec, packed};
pub use plan::{Cost, IoSpec, Kernel, Plan, PlanHash, PlanParts, Restart, Stage};
pub use program::RegisterKind;
pub use recur::recur;
pub use recurrent::RecurrentSpec;
pub use region::{Lane, Place, Region};
pub use resample::ResampleSpec;
pub use select::select;
pub use selection::{CompressSpec, NonMaxSuppressionSpec, NonZeroSpec, SelectionSpec, UniqueSpec};
pub use spec::{
    Activation, ConvSpec, DepthwiseSpec, ElemInput, ElemOp, ElementwiseSpec, Epilogue, GatherSpec,
    IntegerConvSpec, IntegerMatMulSpec, KernelSpec, LayerNormSpec, LoopDim, MatMulSpec, PoolSpec, ReduceSpec,
    SoftmaxSpec, SyntheticSpec, Tile,
};
pub use synthetic::{SyntheticStage, synthetic_output, synthetic_plan};
pub use target::{DeviceKind, Isa, Precision, Target};
pub use trees::{TreesSpec, trees};
pub use trusted::trees_flaw;
pub use validate::PlanError;
pub use vision::VisionSpec;
pub use weights::{ModelWeights, Packing, WeightRef, WeightStore};
pub use windows::MaxPoolSpec;
