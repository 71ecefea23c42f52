//! What a node may make: every reader's operator behind a check of its numbers and of its results' sizes,
//! before anything of that size is computed.
//!
//! tract evaluates a node of constants as soon as it has analysed it, and a few numbers in a file can ask for
//! more than any machine has. Memory that is not there ends the process, so it must not be asked for.

use std::collections::HashMap;
use std::sync::OnceLock;

use reef_base::limits::{FOLDED_ELEMENTS_MAX, TENSOR_ELEMENTS_MAX};
use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{
    Factoid, InferenceFact, InferenceModel, InferenceModelPatch, InferenceNode, InferenceOp,
};

use super::own::{Builder, Built, Refused, name_of, refused};
use super::window::{self, Window};

/// An operator with the name that an error gives.
#[derive(Clone, Debug)]
struct Bounded {
    node: String,
    operator: String,
    window: Option<Window>,
    /// A scatter that combines what it finds with what it brings.
    reduces: bool,
    parts: Option<Parts>,
    inner: Box<dyn InferenceOp>,
}

/// What a `Split` says of its parts; some say it as an input.
#[derive(Clone, Debug)]
struct Parts {
    axis: i64,
    sizes: Option<Vec<i64>>,
    /// How many there are.
    count: i64,
    /// The last may be smaller than the others.
    uneven: bool,
}

impl Parts {
    fn of(node: &NodeProto) -> TractResult<Option<Parts>> {
        if node.op_type != "Split" {
            return Ok(None);
        }
        let (axis, sizes) = (node.get_attr_opt("axis")?.unwrap_or(0), node.get_attr_opt_vec::<i64>("split")?);
        let uneven = node.get_attr_opt::<i64>("num_outputs")?.is_some();
        Ok(Some(Parts { axis, sizes, count: node.output.len() as i64, uneven }))
    }

    /// Why an axis cannot be split so, if so.
    fn fault(&self, inputs: &[&InferenceFact]) -> Option<String> {
        let extents = inputs[0].shape.concretize()?;
        let axis = if self.axis < 0 { self.axis + extents.len() as i64 } else { self.axis };
        let extent = extents.get(usize::try_from(axis).ok()?)?.to_i64().ok()?;
        let given = || {
            let value = inputs.get(1)?.value.concretize()?.cast_to::<i64>().ok()?.into_owned();
            Some(value.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.to_vec())
        };
        let sizes = match self.sizes.clone().or_else(given) {
            Some(sizes) => sizes,
            None if inputs.len() > 1 => return None,
            None if extent % self.count == 0 => return None,
            None if self.uneven && (extent + self.count - 1) / self.count * (self.count - 1) <= extent => {
                return None;
            }
            None => return Some(format!("an axis of {extent} cannot be split into {} parts", self.count)),
        };
        let sum = sizes.iter().try_fold(0i64, |sum, &size| sum.checked_add(size).filter(|_| size >= 0));
        (sum != Some(extent)).then(|| format!("an axis of {extent} cannot be split into {sizes:?}"))
    }
}

/// Puts every operator of `onnx` behind the check.
pub(super) fn register(onnx: &mut Onnx) {
    READERS.get_or_init(|| onnx.op_register.0.clone());
    onnx.op_register.0.values_mut().for_each(|reader| *reader = read);
}

/// What is behind it.
static READERS: OnceLock<HashMap<String, Builder>> = OnceLock::new();

fn read(context: &ParsingContext, node: &NodeProto) -> Built {
    if let Some(reason) = window::refusal(node) {
        return refused(node, reason);
    }
    let window = Window::of(node);
    let reduction: String = node.get_attr_opt("reduction")?.unwrap_or_else(|| "none".into());
    let reduces = matches!(node.op_type.as_str(), "ScatterND" | "ScatterElements") && reduction != "none";
    let reader = READERS.get().and_then(|readers| readers.get(&node.op_type));
    let (inner, closures) = reader.context("an operator that is not registered")?(context, node)?;
    let (parts, node, operator) = (Parts::of(node)?, name_of(node), node.op_type.clone());
    Ok((Box::new(Bounded { node, operator, window, reduces, parts, inner }), closures))
}

/// Elements of a tensor of which all extents are known.
fn elements(fact: &InferenceFact) -> Option<usize> {
    let extents = fact.shape.concretize()?;
    let mut product = 1usize;
    for extent in extents.iter() {
        product = product.saturating_mul(extent.to_usize().ok()?);
    }
    Some(product)
}

/// The first extent that `operator` is given as a value and that no tensor has: tract would cut it to 32
/// bits.
fn absurd_extent(operator: &str, inputs: &[&InferenceFact]) -> Option<i64> {
    let input = match operator {
        "ConstantOfShape" => 0,
        "Expand" | "Reshape" | "Tile" | "TopK" => 1,
        _ => return None,
    };
    let value = inputs.get(input)?.value.concretize()?;
    let value = (value.datum_type() == DatumType::I64).then_some(value)?;
    let absurd = |extent: &i64| usize::try_from(*extent).is_ok_and(|extent| extent > TENSOR_ELEMENTS_MAX);
    value.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.iter().copied().find(absurd)
}

/// Why results of these types and shapes are not made, if so.
fn fault(inputs: &[InferenceFact], outputs: &[InferenceFact]) -> Option<String> {
    let folded = !inputs.is_empty() && inputs.iter().all(|fact| fact.value.concretize().is_some());
    let given = inputs.iter().filter_map(elements).max().unwrap_or(0);
    let (limit, kind) = match folded {
        true => (FOLDED_ELEMENTS_MAX.max(given).min(TENSOR_ELEMENTS_MAX), "a constant made of smaller ones"),
        false => (TENSOR_ELEMENTS_MAX, "a tensor"),
    };
    let large = outputs.iter().find(|fact| elements(fact).is_some_and(|elements| elements > limit))?;
    let extents: Vec<String> = large.shape.concretize()?.iter().map(ToString::to_string).collect();
    Some(format!("a result of shape [{}]: {kind} has at most {limit} elements", extents.join(",")))
}

impl Bounded {
    fn refuse<T>(&self, reason: String) -> TractResult<T> {
        let (node, operator) = (self.node.clone(), self.operator.clone());
        Err(TractError::new(Refused { node, operator, reason }))
    }
}

impl PartialEq for Bounded {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Bounded {}

impl Op for Bounded {
    fn name(&self) -> StaticName {
        self.inner.name()
    }

    fn validation(&self) -> Validation {
        self.inner.validation()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        self.inner.info()
    }

    fn mints_runtime_symbols(&self) -> bool {
        self.inner.mints_runtime_symbols()
    }

    fn required_bound_symbols(&self, inputs: &[&TypedFact]) -> TVec<Symbol> {
        self.inner.required_bound_symbols(inputs)
    }

    not_a_typed_op!();
}

impl EvalOp for Bounded {
    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.inner.eval(context, inputs)
    }

    fn forwards_input(&self) -> Option<usize> {
        self.inner.forwards_input()
    }

    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        self.inner.eval_out_of_plan(inputs)
    }

    fn state(&self, context: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        self.inner.state(context)
    }

    fn drop_session(&self, session: SessionId, node_id: usize) {
        self.inner.drop_session(session, node_id);
    }
}

impl InferenceOp for Bounded {
    fn observe_outlets(&self, model: &InferenceModel, node: &InferenceNode) -> TractResult<Vec<OutletId>> {
        self.inner.observe_outlets(model, node)
    }

    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        if let Some(extent) = absurd_extent(&self.operator, &inputs) {
            let reason = format!("an axis of {extent} elements: a tensor has at most {TENSOR_ELEMENTS_MAX}");
            return self.refuse(reason);
        }
        if self.reduces && inputs[0].datum_type.concretize() == Some(DatumType::Bool) {
            return self.refuse("a reduction of booleans is not supported".into());
        }
        if let Some(reason) = self.window.as_ref().and_then(|window| window.fault(&inputs)) {
            return self.refuse(reason);
        }
        if let Some(reason) = self.parts.as_ref().and_then(|parts| parts.fault(&inputs)) {
            return self.refuse(reason);
        }
        let (inputs, outputs, observed) = self.inner.infer_facts(inputs, outputs, observed)?;
        match fault(&inputs, &outputs) {
            None => Ok((inputs, outputs, observed)),
            Some(reason) => self.refuse(reason),
        }
    }

    fn incorporate(
        &self,
        model: &InferenceModel,
        node: &InferenceNode,
    ) -> TractResult<Option<InferenceModelPatch>> {
        self.inner.incorporate(model, node)
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.inner.nboutputs()
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        self.inner.to_typed(source, node, target, mapping)
    }

    /// What looks for an operator of a kind finds the one behind the check.
    fn as_op(&self) -> &dyn Op {
        self.inner.as_op()
    }

    fn as_op_mut(&mut self) -> &mut dyn Op {
        self.inner.as_op_mut()
    }
}
