//! Where plans come from: the one place that joins the importer and the compiler.

use std::fmt;
use std::sync::Arc;

use reef_graph::Shape;
use reef_plan::{Plan, Target};

use crate::model::TensorInfo;

/// Makes plans of one model. The engine calls it off the hot path, never while it holds a lock of its own.
pub trait PlanSource: Send + Sync + fmt::Debug {
    /// The model's inputs, -1 for symbolic extents.
    fn inputs(&self) -> &[TensorInfo];

    /// The model's outputs, -1 for symbolic extents.
    fn outputs(&self) -> &[TensorInfo];

    /// A plan for these concrete shapes, one per input in order. The error says what is wrong, for people.
    fn compile(&self, shapes: &[Shape], target: Target) -> Result<Arc<Plan>, String>;
}
