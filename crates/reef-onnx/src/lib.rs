//! `reef-onnx`: ONNX models as normalised graphs, and the host kernels for what no native kernel computes.
//!
//! The only crate that knows tract. Nothing of tract leaves it: callers see [`reef_graph::Graph`] and
//! [`reef_plan::HostKernel`]. A model is parsed once ([`OnnxModel`]) and specialised for concrete input
//! shapes as often as needed ([`OnnxModel::specialise`]); constants are shared between specialisations. Large
//! ones stay in their file ([`skim`], [`origin`]) until somebody looks at them.
//!
//! Path of a model: protobuf ([`proto`] checks it, [`plain`] writes it in one way) → our operators, node by
//! node ([`import`]), with host operators for the rest ([`host`]), which tract computes → normalisation
//! ([`passes`]). The result depends on what the model computes, not on how its exporter wrote it. Must not
//! know plans' stages, devices or scheduling. A broken file is an [`ImportError`], never a panic.

mod build;
mod consts;
mod coupling;
mod decl;
mod dry;
mod error;
mod external;
mod flow;
mod functions;
mod guard;
mod host;
mod import;
mod indices;
mod model;
mod names;
mod narrow;
mod origin;
mod passes;
mod plain;
mod proto;
mod register;
mod rewrite;
mod rows;
mod scope;
mod skim;
mod straight;
mod tensors;
#[cfg(test)]
mod tests;
mod texts;

pub use decl::{Dim, TensorDecl};
pub use error::ImportError;
pub use flow::{Given, Rest, Row, Source, Step, Take, Then};
pub use model::OnnxModel;
pub use straight::Specialised;
