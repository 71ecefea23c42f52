//! Operators whose result has as many elements as data say. The segment computes them into tensors with room
//! for all that there can be, and counts; what is meant of them is known in the next step.

use tract_onnx::pb::NodeProto;

use super::nodes::{int, number_attribute, unsupported};
use super::step::{Counted, Evaluation, Thing};
use crate::error::ImportError;

impl Evaluation<'_> {
    /// The node that computes `node` into tensors of known shapes, if `node` is such an operator.
    pub(super) fn found(&mut self, node: &NodeProto) -> Result<Option<NodeProto>, ImportError> {
        let operator = node.op_type.as_str();
        let results = match operator {
            "NonZero" | "Compress" | "NonMaxSuppression" => 1,
            "Unique" => 4,
            _ => return Ok(None),
        };
        let mut made = NodeProto { op_type: format!("reef.{operator}"), ..node.clone() };
        made.output = (0..=results).map(|_| self.fresh(operator)).collect();
        let axis = match operator {
            "NonZero" => 1,
            "NonMaxSuppression" => {
                if let Some(most) = node.input.get(2).filter(|name| !name.is_empty())
                    && let Some(most) = self.decided(most)?.and_then(|most| most.first().copied())
                {
                    made.attribute.push(number_attribute("per_class", most.max(0)));
                }
                0
            }
            _ => self.counted_axis(node)?,
        };
        let count = made.output[results].clone();
        for (index, output) in node.output.iter().enumerate() {
            let data = made.output[index].clone();
            // Of `Unique` all places of the input have their number among the results.
            let thing = match (operator, index) {
                ("Unique", 2) => Thing::Alias(data),
                ("Unique", 1 | 3) => Thing::Counted(Counted { data, count: count.clone(), axis: 0 }),
                _ => Thing::Counted(Counted { data, count: count.clone(), axis }),
            };
            self.set(output, thing);
        }
        Ok(Some(made))
    }

    /// The axis of the result that has as many entries as were found.
    fn counted_axis(&mut self, node: &NodeProto) -> Result<usize, ImportError> {
        let Some(axis) = int(node, "axis") else { return Ok(0) };
        let Some(shape) = self.fact(&node.input[0])?.map(|fact| fact.shape) else {
            return Err(unsupported(node, "the shape of its input is not known"));
        };
        let place = if axis < 0 { axis + shape.rank() as i64 } else { axis };
        match usize::try_from(place).ok().filter(|&axis| axis < shape.rank()) {
            Some(axis) => Ok(axis),
            None => Err(unsupported(node, format!("its input has no axis {axis}"))),
        }
    }
}
