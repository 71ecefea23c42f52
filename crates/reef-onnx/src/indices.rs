//! Values that a host operator takes for granted: indices inside of their axes, divisors other than 0.
//!
//! tract panics where they are not, or computes something else. So such an operand goes through an operator
//! of ours first ([`Checked`]), whose error says operator, operand, value and what is allowed: it is the
//! fault of who gave the value. Negative indices count from the end, as ONNX has it; what comes out counts
//! from the start, because not all of tract's operators know the other.

use reef_graph::{AllowedIndices, axis_index};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::{
    Gather, GatherElements, GatherNd, ScatterElements, ScatterNd, Topk,
};
use tract_onnx::tract_core::ops::binary::TypedBinOp;

/// A value that the operator does not take; for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadValue {
    /// The ONNX operator.
    pub operator: String,
    /// The value, and what is allowed.
    pub what: String,
}

impl std::fmt::Display for BadValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.operator, self.what)
    }
}

impl std::error::Error for BadValue {}

impl BadValue {
    /// The bad value that `error` is about, if it is about one.
    pub fn of(error: &TractError) -> Option<&BadValue> {
        error.chain().find_map(|cause| cause.downcast_ref())
    }
}

/// What the elements of an operand must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// Indices; the last axis of the operand counts through the axes that they index, or they all index the
    /// one that is given.
    Indices(Vec<usize>),
    /// A number of elements along an axis of this extent.
    Count(usize),
    /// Not 0.
    Divisor,
}

/// The operand of `op` that has a rule, and the rule. `inputs` are the facts of its operands.
pub(crate) fn rule_of(op: &dyn TypedOp, inputs: &[&TypedFact]) -> Option<(usize, Rule)> {
    let data = || inputs.first()?.shape.as_concrete();
    let along = |axis: usize| Some((1, Rule::Indices(vec![*data()?.get(axis)?])));
    let tuples = |first: usize| {
        let count = *inputs.get(1)?.shape.as_concrete()?.last()?;
        Some((1, Rule::Indices(data()?.get(first..first.checked_add(count)?)?.to_vec())))
    };
    if let Some(op) = op.downcast_ref::<Gather>() {
        return along(op.axis);
    }
    if let Some(op) = op.downcast_ref::<GatherElements>() {
        return along(op.axis);
    }
    if let Some(op) = op.downcast_ref::<ScatterElements>() {
        return along(op.axis);
    }
    if let Some(op) = op.downcast_ref::<Topk>() {
        return Some((1, Rule::Count(*data()?.get(op.axis)?)));
    }
    if let Some(op) = op.downcast_ref::<GatherNd>() {
        return tuples(op.batch_dims);
    }
    if op.is::<ScatterNd>() {
        return tuples(0);
    }
    let divides = |op: &TypedBinOp| matches!(op.0.name(), "Div" | "Rem");
    let integers = |fact: &&&TypedFact| fact.datum_type.is_integer();
    if op.downcast_ref::<TypedBinOp>().is_some_and(divides) && inputs.get(1).filter(integers).is_some() {
        return Some((1, Rule::Divisor));
    }
    None
}

/// Passes its input on if all elements follow the rule; indices then count from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The ONNX operator that takes them, for people.
    pub operator: String,
    pub rule: Rule,
}

impl Checked {
    /// `tensor` as the operator takes it.
    pub fn check(&self, tensor: &Tensor) -> TractResult<Tensor> {
        match &self.rule {
            Rule::Divisor => {
                let zero = Tensor::zero_scalar_dt(tensor.datum_type())?;
                let one = zero.try_as_plain_ram()?.as_bytes().len();
                let plain = tensor.try_as_plain_ram()?;
                let found =
                    plain.as_bytes().chunks_exact(one.max(1)).any(|value| value.iter().all(|b| *b == 0));
                match found {
                    true => Err(self.bad(
                        "an integer is divided by 0; every element of the divisor must be \
                                          another number",
                    )),
                    false => Ok(tensor.clone()),
                }
            }
            Rule::Indices(extents) => self.indices(tensor, extents),
            Rule::Count(extent) => {
                let counts = tensor.cast_to::<i64>()?;
                let counts = counts.try_as_plain_ram()?;
                let fits = |count: &&i64| usize::try_from(**count).is_ok_and(|count| count <= *extent);
                match counts.as_slice::<i64>()?.iter().find(|count| !fits(count)) {
                    Some(count) => {
                        Err(self.bad(&format!("{count} elements asked for, the axis has {extent}")))
                    }
                    None => Ok(tensor.clone()),
                }
            }
        }
    }

    fn indices(&self, tensor: &Tensor, extents: &[usize]) -> TractResult<Tensor> {
        let shape = tensor.shape().to_vec();
        let mut indices = tensor.cast_to::<i64>()?.into_owned();
        if extents.is_empty() {
            return Ok(tensor.clone());
        }
        {
            let mut plain = indices.try_as_plain_ram_mut()?;
            for (at, index) in plain.as_slice_mut::<i64>()?.iter_mut().enumerate() {
                let extent = extents[at % extents.len()];
                let place = axis_index(*index, extent).ok_or_else(|| {
                    let allowed = AllowedIndices(extent);
                    let place = place_of(at, &shape);
                    let place =
                        if place.is_empty() { "its index".into() } else { format!("indices{place:?}") };
                    self.bad(&format!("{place} is {index}, {allowed}"))
                })?;
                *index = place as i64;
            }
        }
        Ok(indices.cast_to_dt(tensor.datum_type())?.into_owned())
    }

    fn bad(&self, what: &str) -> TractError {
        TractError::new(BadValue { operator: self.operator.clone(), what: what.to_owned() })
    }
}

/// The coordinates of element `at`.
fn place_of(at: usize, shape: &[usize]) -> Vec<usize> {
    let mut place = vec![0; shape.len()];
    let mut rest = at;
    for (coordinate, &extent) in place.iter_mut().zip(shape).rev() {
        *coordinate = rest % extent.max(1);
        rest /= extent.max(1);
    }
    place
}

impl Op for Checked {
    fn name(&self) -> StaticName {
        "Checked".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Checked {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.check(&inputs[0])?.into_tvalue()))
    }
}

impl TypedOp for Checked {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: Rule, tensor: &Tensor) -> Result<Tensor, String> {
        let checked = Checked { operator: "GatherND".into(), rule };
        checked
            .check(tensor)
            .map_err(|error| BadValue::of(&error.context("running")).expect("it is bad").to_string())
    }

    #[test]
    fn indices_count_from_the_start_or_are_named() {
        let pairs = |indices: [i64; 4]| {
            check(Rule::Indices(vec![3, 5]), &tensor2(&[[indices[0], indices[1]], [indices[2], indices[3]]]))
        };
        assert_eq!(pairs([0, -1, -3, 4]), Ok(tensor2(&[[0i64, 4], [0, 4]])));
        assert_eq!(pairs([0, 0, 3, 0]), Err("GatherND: indices[1, 0] is 3, allowed are -3 to 2".into()));
        assert_eq!(pairs([0, -6, 0, 0]), Err("GatherND: indices[0, 1] is -6, allowed are -5 to 4".into()));
        let narrow = check(Rule::Indices(vec![3]), &tensor1(&[-1i32]));
        assert_eq!(narrow, Ok(tensor1(&[2i32])));
        let empty = check(Rule::Indices(vec![0]), &tensor1(&[0i64]));
        assert_eq!(empty, Err("GatherND: indices[0] is 0, and the axis has no elements".into()));
        assert_eq!(check(Rule::Indices(vec![0]), &tensor1::<i64>(&[])), Ok(tensor1::<i64>(&[])));
    }

    #[test]
    fn divisors_are_not_zero() {
        assert_eq!(check(Rule::Divisor, &tensor1(&[256i32, -1])), Ok(tensor1(&[256i32, -1])));
        let error = check(Rule::Divisor, &tensor1(&[1i64, 0])).unwrap_err();
        assert!(error.contains("is divided by 0"), "{error}");
    }
}
