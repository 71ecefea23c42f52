//! What no convolution or pooling can be: windows that do not fit their image, steps of 0. tract makes an
//! extent of 1 or a division by zero of them.

use reef_base::limits::TENSOR_ELEMENTS_MAX;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::infer::{Factoid, InferenceFact};

/// A node's window.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Of a pooling; a convolution's is in the shape of its weights.
    kernel: Option<Vec<i64>>,
    dilations: Option<Vec<i64>>,
    /// Before and behind each axis.
    pads: Option<Vec<i64>>,
    /// Of a pooling: how far the first window may reach beyond the image, at least 1.
    strides: Option<Vec<i64>>,
}

/// Attributes that count something of which there is one at least.
const COUNTS: &[&str] = &["strides", "dilations", "kernel_shape", "group", "blocksize", "num_groups"];

/// Attributes that no tensor is large enough for, beyond this bound.
const EXTENTS: &[&str] = &[
    "strides",
    "dilations",
    "kernel_shape",
    "blocksize",
    "pads",
    "output_padding",
    "output_shape",
    "axes",
    "axis",
];

/// Elements of a window: what is gathered for it is worked out one by one.
const WINDOW_MAX: i64 = 1 << 24;

/// Why the node's numbers mean nothing, if so.
pub(super) fn refusal(node: &NodeProto) -> Option<String> {
    let absurd = |number: i64| number.unsigned_abs() > TENSOR_ELEMENTS_MAX as u64;
    let extents = node.attribute.iter().filter(|attribute| EXTENTS.contains(&attribute.name.as_str()));
    let large = |attribute: &tract_onnx::pb::AttributeProto| {
        attribute.ints.iter().copied().chain([attribute.i]).find(|&number| absurd(number))
    };
    if let Some((name, number)) = extents.filter_map(|one| Some((&one.name, large(one)?))).next() {
        return Some(format!(
            "attribute `{name}` is {number}: a tensor has at most {TENSOR_ELEMENTS_MAX} elements"
        ));
    }
    let counts = node.attribute.iter().filter(|attribute| COUNTS.contains(&attribute.name.as_str()));
    let bad = |attribute: &&tract_onnx::pb::AttributeProto| {
        let single = attribute.ints.is_empty() && attribute.floats.is_empty() && attribute.i < 1;
        (single || attribute.ints.iter().any(|&number| number < 1)).then(|| attribute.name.clone())
    };
    let name = counts.filter_map(|attribute| bad(&attribute)).next()?;
    Some(format!("attribute `{name}` must be 1 at least"))
}

impl Window {
    /// The window of a convolution or a pooling whose padding is given.
    pub fn of(node: &NodeProto) -> Option<Window> {
        if !matches!(node.op_type.as_str(), "Conv" | "MaxPool" | "AveragePool" | "LpPool") {
            return None;
        }
        let auto: String = node.get_attr_opt("auto_pad").ok()?.unwrap_or_else(|| "NOTSET".into());
        let pads = match auto.as_str() {
            "NOTSET" => node.get_attr_opt_vec("pads").ok()?,
            "VALID" => None,
            _ => return None,
        };
        let ints = |name: &str| node.get_attr_opt_vec::<i64>(name).ok().flatten();
        let strides = if node.op_type == "Conv" { None } else { ints("strides") };
        Some(Window { kernel: ints("kernel_shape"), dilations: ints("dilations"), pads, strides })
    }

    /// Why it does not fit the image, if both are known and it does not.
    pub fn fault(&self, inputs: &[&InferenceFact]) -> Option<String> {
        let extents = |fact: &InferenceFact| -> Option<Vec<i64>> {
            fact.shape.concretize()?.iter().map(|extent| extent.to_i64().ok()).collect()
        };
        let image = extents(inputs.first()?)?;
        let kernel = match &self.kernel {
            Some(kernel) => kernel.clone(),
            None => extents(inputs.get(1)?)?.get(2..)?.to_vec(),
        };
        let window = kernel.iter().fold(1i64, |product, &extent| product.saturating_mul(extent));
        if window > WINDOW_MAX {
            return Some(format!("a window of {window} elements: {WINDOW_MAX} are supported"));
        }
        let axes = image.len().checked_sub(2).filter(|axes| *axes == kernel.len())?;
        for axis in 0..axes {
            let of = |list: &Option<Vec<i64>>, at: usize, missing: i64| {
                list.as_ref().and_then(|list| list.get(at)).copied().unwrap_or(missing)
            };
            let (before, behind) = (of(&self.pads, axis, 0), of(&self.pads, axis + axes, 0));
            let padded = image[2 + axis].saturating_add(before).saturating_add(behind);
            let reach = (kernel[axis] - 1).saturating_mul(of(&self.dilations, axis, 1)).saturating_add(1);
            // A pooling's first window may begin in the image and end outside of it, by less than a stride.
            if reach - padded >= of(&self.strides, axis, 1) && image[2 + axis] > 0 {
                return Some(format!(
                    "its window of {reach} elements does not fit axis {} of {padded}, padding included",
                    axis + 2
                ));
            }
        }
        None
    }
}
