//! A node with its operands and attributes. Their types and allowed values were checked when the file was
//! read ([`crate::register::attributes`]).

use reef_graph::ValueId;
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::Reject;
use crate::plain::UNREAD;

/// A node to be read.
pub(crate) struct Node<'a> {
    pub proto: &'a NodeProto,
    /// Its operands; those that are left out are `None`, or missing at the end.
    pub inputs: Vec<Option<ValueId>>,
    /// The version of ONNX's own operators.
    pub opset: i64,
}

impl<'a> Node<'a> {
    pub fn new(proto: &'a NodeProto, inputs: Vec<Option<ValueId>>, opset: i64) -> Node<'a> {
        Node { proto, inputs, opset }
    }

    /// The operator.
    pub fn operator(&self) -> &'a str {
        &self.proto.op_type
    }

    /// The node's name.
    pub fn name(&self) -> &'a str {
        &self.proto.name
    }

    /// An operand that may be left out.
    pub fn optional(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// An operand.
    pub fn input(&self, index: usize) -> Result<ValueId, Reject> {
        self.optional(index).ok_or_else(|| Reject::Wrong(format!("its input {index} is missing")))
    }

    /// All operands, none of which is left out.
    pub fn all(&self) -> Result<Vec<ValueId>, Reject> {
        (0..self.inputs.len()).map(|index| self.input(index)).collect()
    }

    /// Whether somebody may read an output.
    pub fn has_output(&self, slot: usize) -> bool {
        self.proto.output.get(slot).is_some_and(|name| !name.is_empty() && !name.starts_with(UNREAD))
    }

    pub fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.proto.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.int(name, 0) != 0
    }

    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.f)
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.attribute(name).and_then(|attribute| std::str::from_utf8(&attribute.s).ok())
    }

    pub fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|attribute| &attribute.ints[..])
    }

    /// Whole numbers of at least `least`, as many as `count`; `default` where the attribute is left out.
    pub fn sizes(
        &self,
        name: &str,
        count: usize,
        least: usize,
        default: usize,
    ) -> Result<Vec<usize>, Reject> {
        let Some(given) = self.ints(name) else { return Ok(vec![default; count]) };
        let sizes: Option<Vec<usize>> =
            given.iter().map(|&value| usize::try_from(value).ok().filter(|&value| value >= least)).collect();
        match sizes {
            Some(sizes) if sizes.len() == count => Ok(sizes),
            Some(sizes) => {
                Err(Reject::Wrong(format!("{name} has {} entries, {count} are needed", sizes.len())))
            }
            None => {
                Err(Reject::Wrong(format!("{name} is {given:?}, every entry has to be at least {least}")))
            }
        }
    }
}

/// The axis that `axis` means of a tensor with `rank` axes: negative ones count from the end.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Result<usize, Reject> {
    let place = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    match place.and_then(|place| usize::try_from(place).ok()).filter(|&place| place < rank) {
        Some(place) => Ok(place),
        None => Err(Reject::Wrong(format!("axis {axis} of a tensor with {rank} axes"))),
    }
}

/// The axes that these mean, ascending, each once.
pub(crate) fn axes_of(axes: &[i64], rank: usize) -> Result<Vec<usize>, Reject> {
    let mut found = axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?;
    found.sort_unstable();
    found.dedup();
    match found.len() == axes.len() {
        true => Ok(found),
        false => Err(Reject::Wrong(format!("axes {axes:?} name one twice"))),
    }
}
