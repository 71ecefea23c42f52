//! What own readings are made of: [`Reading`] says what an ONNX operator means, [`Reader`] takes it through
//! tract's analysis, [`Own`] computes it on the host.
//!
//! A reading may leave what tract does right, and what has a native kernel, to tract's own reading of the
//! operator; constants and all other types are its own. What it does not do is [`Refused`] by name.

use std::fmt::Debug;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::dyn_clone;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::infer::{Factoid, InferenceFact, InferenceNode, InferenceOp};

/// What the operator registry takes.
pub(super) type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// tract's reader of an operator.
pub(super) type Builder = fn(&ParsingContext, &NodeProto) -> Built;

/// A node whose meaning is understood but not computed.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refused {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// What is not supported.
    pub reason: String,
}

/// What the data of a request are at fault for, not the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DataFault(pub &'static str);

/// What an operator means.
pub(super) trait Reading: dyn_clone::DynClone + Debug + Send + Sync {
    /// Types and shapes of the outputs; `None` while a value that they depend on is not known.
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>>;

    /// Whether tract knows something of the outputs while this reading does not.
    fn tract_may_know(&self) -> bool {
        false
    }

    /// Whether tract's reading is right for these inputs.
    fn left_to_tract(&self, _inputs: &[TypedFact]) -> bool {
        false
    }

    /// Whether tract's reading has to work in single precision here, for its steps would lose too much of
    /// half-precision numbers.
    fn widened_for_tract(&self, _inputs: &[TypedFact]) -> bool {
        false
    }

    /// The operator in typed ones.
    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>>;
}

dyn_clone::clone_trait_object!(Reading);

/// A reading in tract's terms.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    node: String,
    operator: String,
    reading: Box<dyn Reading>,
    tract: Option<Box<dyn InferenceOp>>,
    outputs: usize,
}

/// The reading of `node`, without tract's.
pub(super) fn own(node: &NodeProto, reading: impl Reading + 'static) -> Built {
    built(node, Box::new(reading), None)
}

/// The reading of `node` beside tract's, whose reader is `tract`.
pub(super) fn beside(
    context: &ParsingContext,
    node: &NodeProto,
    tract: Builder,
    reading: impl Reading + 'static,
) -> Built {
    let (op, closures) = tract(context, node)?;
    ensure!(closures.is_empty(), "operators with bodies are not read here");
    built(node, Box::new(reading), Some(op))
}

/// What errors call a node: its name, or else its first output's.
pub(super) fn name_of(node: &NodeProto) -> String {
    let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
    name.cloned().unwrap_or_default()
}

/// The error that names `node`.
pub(super) fn refused<T>(node: &NodeProto, reason: impl Into<String>) -> TractResult<T> {
    let (node, operator) = (name_of(node), node.op_type.clone());
    Err(TractError::new(Refused { node, operator, reason: reason.into() }))
}

fn built(node: &NodeProto, reading: Box<dyn Reading>, tract: Option<Box<dyn InferenceOp>>) -> Built {
    let (name, operator) = (name_of(node), node.op_type.clone());
    let outputs = node.output.len();
    Ok((Box::new(Reader { node: name, operator, reading, tract, outputs }), vec![]))
}

impl Reader {
    fn named<T>(&self, result: TractResult<T>) -> TractResult<T> {
        result.map_err(|error| {
            // Extents that are still symbols are no refusal: they are known when the model is specialised.
            if error.root_cause().is::<tract_onnx::tract_core::tract_data::TooEarly>() {
                return error;
            }
            let (node, operator) = (self.node.clone(), self.operator.clone());
            TractError::new(Refused { node, operator, reason: format!("{error:#}") })
        })
    }

    /// Whether tract computes the node: its symbolic integers are its own business, and constants ours.
    fn tract_for(&self, inputs: &[TypedFact]) -> Option<&dyn InferenceOp> {
        let symbolic = inputs.iter().any(|fact| fact.datum_type == DatumType::TDim);
        let constant = inputs.iter().all(|fact| fact.konst.is_some());
        let tract = self.tract.as_deref()?;
        (symbolic || (!constant && self.reading.left_to_tract(inputs))).then_some(tract)
    }
}

impl PartialEq for Reader {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Reader {}

impl Op for Reader {
    fn name(&self) -> StaticName {
        self.operator.clone().into()
    }

    not_a_typed_op!();
}

impl EvalOp for Reader {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        Ok(Some(self.eval(&EvalContext::out_of_plan(), inputs)?))
    }

    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        if let Some(tract) = &self.tract
            && inputs.iter().any(|value| value.datum_type() == DatumType::TDim)
        {
            return tract.eval(context, inputs);
        }
        let mut model = TypedModel::default();
        let mut wires = tvec!();
        for (index, value) in inputs.iter().enumerate() {
            let fact = TypedFact::try_from(value.clone().into_arc_tensor())?;
            wires.push(model.add_source(format!("input.{index}"), fact)?);
        }
        let outputs = self.named(self.reading.wire(&self.node, &mut model, &wires))?;
        model.select_output_outlets(&outputs)?;
        TypedSimplePlan::new(model)?.run(inputs)
    }
}

impl InferenceOp for Reader {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let symbolic = |fact: &&&InferenceFact| fact.datum_type.concretize() == Some(DatumType::TDim);
        if let Some(tract) = &mut self.tract
            && inputs.iter().find(symbolic).is_some()
        {
            return tract.infer_facts(inputs, outputs, observed);
        }
        let copied = |facts: &[&InferenceFact]| facts.iter().map(|&fact| fact.clone()).collect();
        let known: TractResult<Vec<TypedFact>> =
            inputs.iter().map(|&fact| TypedFact::try_from(fact)).collect();
        let mut made: TVec<InferenceFact> = copied(&outputs);
        let facts = match known {
            Ok(known) => self.named(self.reading.facts(&known))?,
            Err(_) => None,
        };
        if facts.is_none()
            && self.reading.tract_may_know()
            && let Some(tract) = &mut self.tract
        {
            return tract.infer_facts(inputs, outputs, observed);
        }
        if let Some(facts) = facts {
            ensure!(made.len() <= facts.len(), "{} has {} outputs", self.operator, facts.len());
            for (made, fact) in made.iter_mut().zip(&facts) {
                made.unify_with(&InferenceFact::from(fact))?;
            }
        }
        Ok((copied(&inputs), made, copied(&observed)))
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let inputs: TVec<OutletId> = node.inputs.iter().map(|outlet| mapping[outlet]).collect();
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| target.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        let mut made = match self.tract_for(&facts) {
            Some(tract) if self.reading.widened_for_tract(&facts) => {
                widened(tract, source, node, target, &inputs)?
            }
            Some(tract) => tract.to_typed(source, node, target, mapping)?,
            None => self.named(self.reading.wire(&node.name, target, &inputs))?,
        };
        made.truncate(node.outputs.len());
        Ok(made)
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs)
    }

    as_op!();
}

/// tract's reading between conversions to single precision and back.
fn widened(
    tract: &dyn InferenceOp,
    source: &InferenceModel,
    node: &InferenceNode,
    target: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let datum = target.outlet_fact(inputs[0])?.datum_type;
    let mut mapping = HashMap::default();
    for (index, (&outlet, &input)) in node.inputs.iter().zip(inputs).enumerate() {
        let name = format!("{}.wide.{index}", node.name);
        mapping.insert(outlet, target.wire_node(name, cast(DatumType::F32), &[input])?[0]);
    }
    // The node says of its outputs what they are after the conversion back.
    let mut wide = node.clone();
    wide.outputs.iter_mut().for_each(|output| output.fact = InferenceFact::default());
    let made = tract.to_typed(source, &wide, target, &mapping)?;
    let narrow = made.iter().enumerate().map(|(slot, &made)| {
        Ok(target.wire_node(format!("{}.narrow.{slot}", node.name), cast(datum), &[made])?[0])
    });
    narrow.collect()
}

/// An operator that is evaluated on the host.
pub(crate) trait Kernel: Clone + Debug + Send + Sync + 'static {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Types and shapes of the outputs.
    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>>;

    /// The outputs.
    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>>;
}

/// A typed operator that a [`Kernel`] computes. No two of them are taken for the same.
#[derive(Clone, Debug)]
pub(crate) struct Own<K>(pub K);

impl<K> PartialEq for Own<K> {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl<K> Eq for Own<K> {}

impl<K: Kernel> Op for Own<K> {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    op_as_typed_op!();
}

impl<K: Kernel> EvalOp for Own<K> {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let tensors: Vec<&Tensor> = inputs.iter().map(|value| &**value).collect();
        Ok(self.0.eval(&tensors)?.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

impl<K: Kernel> TypedOp for Own<K> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.0.facts(inputs)
    }

    as_op!();
}

/// The outputs that `kernel` would have.
pub(super) fn facts_of(kernel: &impl Kernel, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
    kernel.facts(&inputs.iter().collect::<Vec<_>>()).map(Some)
}

/// Integers of a constant, whatever their type.
pub(super) fn integers(tensor: &Tensor) -> TractResult<Vec<i64>> {
    Ok(tensor.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
}

/// `axis` counted from the front.
pub(super) fn axis_of(axis: i64, rank: usize) -> TractResult<usize> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    ensure!((0..rank as i64).contains(&from_front), "axis {axis} of a tensor of rank {rank}");
    Ok(from_front as usize)
}
