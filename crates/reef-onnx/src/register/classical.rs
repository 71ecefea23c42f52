//! Classical models: what of them is not computed, as far as their nodes tell.

use tract_onnx::pb::NodeProto;

use crate::names::CLASSICAL;

/// The newest operator set of `ai.onnx.ml` whose operators have been compared with the list.
pub(crate) const CLASSICAL_SET_MAX: i64 = 5;

/// Why a node of this operator set of `ai.onnx.ml` is not computed.
pub(super) fn refusal(node: &NodeProto) -> Option<String> {
    let strings = |name: &str| node.attribute.iter().any(|a| a.name == name && !a.strings.is_empty());
    let operator = node.op_type.strip_prefix(CLASSICAL)?;
    if operator == "ZipMap" {
        let reason = "maps are not computed: export the model with the option zipmap=False, or \
                      zipmap='columns'";
        return Some(reason.into());
    }
    let of_strings = ["keys_strings", "values_strings", "classes_strings", "cats_strings"];
    let name = of_strings.into_iter().find(|name| strings(name))?;
    Some(format!("attribute `{name}`: strings are not computed; what is encoded as integers before works"))
}
