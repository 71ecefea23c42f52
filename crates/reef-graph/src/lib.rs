//! `reef-graph`: models as typed graphs with concrete shapes.
//!
//! Owns data types, shapes, constant tensors, the operator set with its meaning, and the graph. A graph is
//! what is left of a model file after import: normalised, so that the same network gives the same graph
//! however it was written. Knows nothing of ONNX, plans, devices or layouts: shapes are the model's own
//! (images NCHW).

pub mod along;
pub mod dtype;
pub mod dynamic;
pub mod graph;
pub mod indexed;
pub mod op;
pub mod packed;
pub mod quantized;
pub mod recurrent;
pub mod reference;
pub mod resample;
pub mod scalar;
pub mod selection;
pub mod small_float;
pub mod tensor;
pub mod texts;
pub mod trees;
pub mod vision;
pub mod windows;

pub use along::Along;
pub use dtype::DType;
pub use dynamic::dynamic_quantize;
pub use graph::{Graph, GraphError, Node, NodeId, Value, ValueId, ValueKind};
pub use indexed::{AllowedIndices, BadIndex, Indexing, Picks, Putting, axis_index};
pub use op::{Binary, ConvAttrs, HostOp, Op, PoolAttrs, PoolKind, Reduce, Unary};
pub use packed::PackedWeights;
pub use quantized::{Quantization, ZeroPoints};
pub use recurrent::{
    Cell, Direction, GateFunction, QuantizedState, RecurrentAttrs, RecurrentOperands, quantized_state,
};
pub use resample::Taps;
pub use selection::Selection;
pub use small_float::{Encoding, Rounding, SmallFloat};
pub use tensor::{ConstKey, KeyHasher, Shape, Stored, Tensor};
pub use texts::Texts;
pub use trees::{Aggregate, Forest};
pub use vision::Vision;
pub use windows::Windows;
