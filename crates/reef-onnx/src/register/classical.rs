//! Classical models: what of them is not computed, as far as their nodes tell.

use tract_onnx::pb::{AttributeProto, NodeProto};

use crate::names::CLASSICAL;

/// The newest operator set of `ai.onnx.ml` whose operators have been compared with the list.
pub(crate) const CLASSICAL_SET_MAX: i64 = 5;

/// Why a node of this operator set of `ai.onnx.ml` is not computed.
pub(super) fn refusal(node: &NodeProto) -> Option<String> {
    let operator = node.op_type.strip_prefix(CLASSICAL)?;
    let classes = |a: &AttributeProto| a.name == "classes_strings" && !a.strings.is_empty();
    (operator == "LabelEncoder" && node.attribute.iter().any(classes))
        .then(|| "attribute `classes_strings` is of operator set 1: 2 or a newer one is needed".into())
}
