//! Sequences and optional values. They are none when a model runs: a sequence is a list of tensors, known
//! while a step is made, and an operator on it picks, joins or lists names.

use reef_base::limits::SEQUENCE_LEN_MAX;
use reef_graph::{DType, Shape, Tensor};
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::attribute_proto::AttributeType;

use super::nodes::{attribute_of, int, standard, unsupported};
use super::step::{Evaluation, Thing};
use crate::error::ImportError;

impl Evaluation<'_> {
    /// Does what `node` says if it is about sequences or optional values; false if it computes.
    pub(super) fn visit_sequence(&mut self, node: &NodeProto) -> Result<bool, ImportError> {
        match node.op_type.as_str() {
            "SequenceEmpty" => self.set(&node.output[0], Thing::List(vec![])),
            "SequenceConstruct" => self.set(&node.output[0], Thing::List(node.input.clone())),
            "SequenceInsert" => self.insert(node)?,
            "SequenceAt" => {
                let Some(at) = self.position(node, 1, 0)? else { return Ok(true) };
                let elements = self.list(node)?;
                self.alias(&node.output[0], &elements[at]);
            }
            "SequenceErase" => {
                let Some(at) = self.position(node, 1, 0)? else { return Ok(true) };
                let mut elements = self.list(node)?;
                elements.remove(at);
                self.set(&node.output[0], Thing::List(elements));
            }
            "SequenceLength" => {
                let length = self.list(node)?.len() as i64;
                self.set_const(&node.output[0], Tensor::i64([], &[length]));
            }
            "SplitToSequence" => self.split(node)?,
            "ConcatFromSequence" => self.join(node)?,
            "Optional" => {
                let value = node.input.first().filter(|name| !name.is_empty()).cloned();
                self.set(&node.output[0], Thing::Optional(value));
            }
            "OptionalHasElement" => {
                let given = node.input.first().filter(|name| !name.is_empty());
                let has = match given.map(|name| self.thing(name)).transpose()? {
                    None | Some(Thing::Optional(None)) => 0,
                    Some(_) => 1u8,
                };
                self.set_const(&node.output[0], Tensor::from_slice(DType::Bool, Shape::default(), &[has]));
            }
            "OptionalGetElement" => match self.thing(&node.input[0])? {
                Thing::Optional(Some(value)) => self.alias(&node.output[0], &value),
                Thing::Optional(None) => return Err(unsupported(node, "its optional value is not there")),
                _ => self.alias(&node.output[0], &node.input[0]),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn list(&self, node: &NodeProto) -> Result<Vec<String>, ImportError> {
        match self.thing(&node.input[0])? {
            Thing::List(elements) => Ok(elements),
            _ => Err(unsupported(node, "its first input is not a sequence")),
        }
    }

    /// The place in a sequence that an operand says, the last one without; there are `more` places than
    /// elements. `None` if that depends on data: then the node was left.
    fn position(
        &mut self,
        node: &NodeProto,
        operand: usize,
        more: usize,
    ) -> Result<Option<usize>, ImportError> {
        let length = self.list(node)?.len() + more;
        let Some(name) = node.input.get(operand).filter(|name| !name.is_empty()) else {
            let none = || unsupported(node, "its sequence has no elements");
            return length.checked_sub(1).map(Some).ok_or_else(none);
        };
        let Some(value) = self.decided(name)? else {
            self.want(node, name)?;
            self.leave(node.clone());
            return Ok(None);
        };
        let given = value.first().copied().unwrap_or(0);
        let elements = (length - more) as i64;
        let place = if given < 0 { given + elements } else { given };
        match usize::try_from(place).ok().filter(|&place| place < length) {
            Some(place) => Ok(Some(place)),
            None => Err(unsupported(node, format!("a sequence of {elements} elements has none at {given}"))),
        }
    }

    fn insert(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let Some(at) = self.position(node, 2, 1)? else { return Ok(()) };
        let mut elements = self.list(node)?;
        elements.insert(at, node.input[1].clone());
        self.set(&node.output[0], Thing::List(elements));
        Ok(())
    }

    fn split(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let name = &node.input[0];
        let Some(shape) = self.fact(name)?.map(|fact| fact.shape) else {
            return Err(unsupported(node, "the shape of what it splits is not known"));
        };
        let axis = int(node, "axis").unwrap_or(0);
        let axis = if axis < 0 { axis + shape.rank() as i64 } else { axis };
        let Some(&extent) = usize::try_from(axis).ok().and_then(|axis| shape.get(axis)) else {
            return Err(unsupported(node, format!("its input has no axis {axis}")));
        };
        let split = node.input.get(1).filter(|name| !name.is_empty());
        let (sizes, keeps_axis) = match split {
            None => (vec![1; extent], int(node, "keepdims") != Some(0)),
            Some(split) => {
                let Some(values) = self.decided(split)? else {
                    self.want(node, split)?;
                    self.leave(node.clone());
                    return Ok(());
                };
                let scalar = self.fact(split)?.map(|fact| fact.shape).is_some_and(|shape| shape.rank() == 0);
                (sizes(&values, scalar, extent).map_err(|reason| unsupported(node, reason))?, true)
            }
        };
        if sizes.len() > SEQUENCE_LEN_MAX {
            let reason = format!("{} parts, at most {SEQUENCE_LEN_MAX} are supported", sizes.len());
            return Err(unsupported(node, reason));
        }
        let (mut elements, mut begin) = (vec![], 0);
        for size in sizes {
            let element = self.fresh(&node.output[0]);
            if keeps_axis {
                self.slice_axis(name, axis, [begin, begin + size as i64], &element);
            } else {
                let at = self.integers(&[], &[begin]);
                let axis = attribute_of("axis", AttributeType::Int, |attribute| attribute.i = axis);
                self.emit(standard("Gather", vec![name.clone(), at], &element, vec![axis]), true);
            }
            begin += size as i64;
            elements.push(element);
        }
        self.set(&node.output[0], Thing::List(elements));
        Ok(())
    }

    fn join(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let mut elements = self.list(node)?;
        if elements.is_empty() {
            return Err(unsupported(node, "its sequence has no elements"));
        }
        let axis = int(node, "axis").unwrap_or(0);
        if int(node, "new_axis") == Some(1) {
            elements = elements.iter().map(|element| self.with_axis(element, axis)).collect();
        }
        let axis = attribute_of("axis", AttributeType::Int, |attribute| attribute.i = axis);
        self.emit(standard("Concat", elements, &node.output[0], vec![axis]), true);
        Ok(())
    }
}

/// The parts of an axis: as many as given, or parts of one size and what remains.
fn sizes(values: &[i64], scalar: bool, extent: usize) -> Result<Vec<usize>, String> {
    let wrong = || format!("an axis of {extent} cannot be split into {values:?}");
    let whole: Option<Vec<usize>> = values.iter().map(|&size| usize::try_from(size).ok()).collect();
    let whole = whole.ok_or_else(wrong)?;
    if !scalar {
        let sum = whole.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        return if sum == Some(extent) { Ok(whole) } else { Err(wrong()) };
    }
    let size = whole.first().copied().filter(|&size| size > 0).ok_or_else(wrong)?;
    let mut sizes = vec![size; extent / size];
    if !extent.is_multiple_of(size) {
        sizes.push(extent % size);
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_their_axis() {
        assert_eq!(sizes(&[2, 0, 3], false, 5), Ok(vec![2, 0, 3]));
        assert_eq!(sizes(&[2], true, 5), Ok(vec![2, 2, 1]));
        assert_eq!(
            sizes(&[1 << 62; 4], false, 0),
            Err(format!("an axis of 0 cannot be split into {:?}", [1i64 << 62; 4]))
        );
        assert!(sizes(&[6, -1], false, 5).is_err());
        assert!(sizes(&[0], true, 5).is_err());
    }
}
