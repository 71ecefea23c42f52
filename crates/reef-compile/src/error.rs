//! Why a graph could not be compiled. Every message names the node, its operator and the reason.

use reef_graph::{GraphError, Node};
use reef_plan::PlanError;

/// A graph could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The graph breaks an invariant of graphs.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// No kernel computes this node.
    #[error("node {node} ({op}): {reason}")]
    Unsupported {
        /// The node's name.
        node: String,
        /// The operator's name.
        op: &'static str,
        /// What is not supported.
        reason: String,
    },
    /// An input or output of the model cannot be one.
    #[error("{what}")]
    Io {
        /// What is wrong.
        what: String,
    },
    /// The plan that was made does not validate: a defect of the compiler.
    #[error("the plan is not valid: {0}")]
    Plan(#[from] PlanError),
}

impl CompileError {
    /// Node `node` is not supported because of `reason`.
    pub(crate) fn unsupported(node: &Node, reason: impl Into<String>) -> CompileError {
        CompileError::Unsupported { node: node.name.clone(), op: node.op.name(), reason: reason.into() }
    }
}
