//! Inputs and outputs as a model declares them.

use reef_graph::DType;

/// The extent of one axis as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this.
    Fixed(usize),
    /// Given by the caller; the same wherever the name appears.
    Symbol(String),
}

/// An input or output as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDecl {
    /// Name, as clients write it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extent of every axis, outermost first.
    pub dims: Vec<Dim>,
    /// Whether elements stand for texts: they are numbers of the model's, then, or higher ones for others.
    pub texts: bool,
}
