//! Nodes without a native form: each a host kernel that tract computes, or a constant if it reads nothing
//! else.
//!
//! tract gets a model of the one node, with constants for operands that are constants: it knows then every
//! shape that it needs.

use std::collections::HashMap;
use std::sync::Arc;

use reef_graph::{DType, Shape, Tensor, ValueId};
use reef_plan::TensorSpec;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::TractErrorContext;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx::tract_hir::infer::InferenceFact;

use super::attributes::Node;
use super::{Builder, Shared, is_constant};
use crate::consts::{self, datum_of, dtype_of};
use crate::dry;
use crate::guard::{attempt, text};
use crate::host::{Plan, TractKernel};
use crate::indices::{self, BadValue, Checked};
use crate::register::{self, Refused};
use crate::{proto, tensors};

/// A node's form on the host.
pub(crate) struct Foreign<'m> {
    pub shared: Shared<'m>,
}

/// A node as tract sees it.
struct Analysed {
    typed: TypedModel,
    /// The operands that are not constants, in the order of the model's inputs.
    inputs: Vec<ValueId>,
    outputs: Vec<(DType, Shape)>,
}

/// What to say of an error of tract's.
fn reason_of(error: &TractError) -> String {
    if let Some(Refused { reason, .. }) = error.chain().find_map(|cause| cause.downcast_ref::<Refused>()) {
        return reason.clone();
    }
    match BadValue::of(error) {
        Some(bad) => bad.what.clone(),
        None => text(error),
    }
}

impl Foreign<'_> {
    /// The values that the node makes.
    pub fn read(self, b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, String> {
        check_axes(b, node)?;
        let analysed = attempt(|| analyse(b, node)).map_err(|error| reason_of(&error))?;
        for (_, shape) in &analysed.outputs {
            super::graph::fitting(shape).map_err(|reject| match reject {
                super::Reject::Foreign(reason) | super::Reject::Wrong(reason) => reason,
            })?;
        }
        let operator = node.operator();
        let random = operator.starts_with("Random") || matches!(operator, "Bernoulli" | "Multinomial");
        if analysed.inputs.is_empty() && !node.inputs.is_empty() && !random {
            let made = attempt(|| evaluate(&analysed, operator)).map_err(|error| reason_of(&error))?;
            return Ok(made.into_iter().map(|tensor| b.constant(node.name(), tensor)).collect());
        }
        let spec = |dtype: DType, shape: &Shape| TensorSpec { dtype, shape: shape.clone() };
        let inputs: Vec<TensorSpec> =
            analysed.inputs.iter().map(|&id| spec(b.dtype(id), &b.shape(id))).collect();
        let outputs: Vec<TensorSpec> =
            analysed.outputs.iter().map(|(dtype, shape)| spec(*dtype, shape)).collect();
        let plan = match outputs.iter().all(|spec| spec.bytes() == 0) {
            true => None,
            false => Some(attempt(|| plan(&analysed, operator)).map_err(|error| reason_of(&error))?),
        };
        if let Some(plan) = plan.as_ref().filter(|_| !self.shared.tried.knows(operator, &inputs)) {
            dry::check(plan, &inputs)?;
            self.shared.tried.note(operator, &inputs);
        }
        let kernel = Arc::new(TractKernel::new(operator, inputs, outputs, plan));
        Ok(b.host(node.name(), kernel, &analysed.inputs))
    }
}

/// An error for axes that are none, whatever the operator: tract counts up to some of them. What makes new
/// axes may say places between and behind those of its operands.
fn check_axes(b: &Builder, node: &Node) -> Result<(), String> {
    let rank = node.inputs.iter().flatten().map(|&id| b.rank(id)).max().unwrap_or(0);
    let one = node.attribute("axis").map(|attribute| attribute.i);
    let several = node.ints("axes").unwrap_or_default();
    let places = (rank + several.len().max(1)) as i64;
    let wrong = |axis: &&i64| !(-places..=places).contains(*axis);
    match one.iter().chain(several).find(wrong) {
        Some(axis) => Err(format!("axis {axis} of a tensor with {rank} axes")),
        None => Ok(()),
    }
}

/// The model of one node, for operands as they are.
fn analyse(b: &Builder, node: &Node) -> TractResult<Analysed> {
    let (model, inputs) = model(b, node)?;
    let mut parsed = register::onnx().parse(&model, None)?.model;
    for (index, &id) in inputs.iter().enumerate() {
        let datum = datum_of(b.dtype(id)).with_context(|| format!("elements of type {}", b.dtype(id)))?;
        parsed.set_input_fact(index, InferenceFact::dt_shape(datum, &b.shape(id)[..]))?;
    }
    let mut typed = parsed.into_typed()?;
    let concrete = |typed: &TypedModel| -> TractResult<Option<Vec<(DType, Shape)>>> {
        let facts = typed.output_outlets()?.iter().map(|&outlet| typed.outlet_fact(outlet));
        let facts = facts.collect::<TractResult<Vec<_>>>()?;
        let mut found = vec![];
        for fact in facts {
            let dtype = dtype_of(fact.datum_type).filter(|_| !fact.is_exotic());
            let dtype = dtype.with_context(|| format!("elements of type {:?}", fact.datum_type))?;
            match fact.shape.as_concrete() {
                Some(dims) => found.push((dtype, Shape::new(dims))),
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    };
    // Tells shapes that the first look did not, and makes constants of what depends on nothing else.
    typed.prop_consts()?;
    let outputs = concrete(&typed)?.context("the shape of its output depends on data")?;
    Ok(Analysed { typed, inputs, outputs })
}

fn model(b: &Builder, node: &Node) -> TractResult<(ModelProto, Vec<ValueId>)> {
    let mut proto = node.proto.clone();
    let mut graph = GraphProto { name: "node".into(), ..GraphProto::default() };
    let (mut names, mut inputs): (HashMap<ValueId, String>, Vec<ValueId>) = (HashMap::new(), vec![]);
    for (name, id) in proto.input.iter_mut().zip(&node.inputs) {
        let Some(id) = *id else { continue };
        if let Some(known) = names.get(&id) {
            name.clone_from(known);
            continue;
        }
        let own = format!("operand.{}", names.len());
        let value = b.graph.value(id);
        datum_of(value.dtype).with_context(|| format!("elements of type {}", value.dtype))?;
        if let Some(tensor) = b.known(id).filter(|_| is_constant(value)) {
            graph.initializer.push(tensors::write(&own, tensor));
        } else {
            graph.input.push(proto::declaration(&own, value.dtype, &value.shape));
            inputs.push(id);
        }
        names.insert(id, own.clone());
        *name = own;
    }
    proto.output.iter_mut().enumerate().for_each(|(slot, name)| *name = format!("made.{slot}"));
    let outlet = |name: &String| ValueInfoProto { name: name.clone(), ..Default::default() };
    graph.output = proto.output.iter().map(outlet).collect();
    graph.node = vec![NodeProto { name: node.name().to_owned(), ..proto }];
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: node.opset }];
    Ok((ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() }, inputs))
}

/// What the node makes of constants.
fn evaluate(analysed: &Analysed, operator: &str) -> TractResult<Vec<Tensor>> {
    let made = plan(analysed, operator)?.run(tvec!())?;
    let own = |tensor: &TValue| {
        consts::convert(tensor).with_context(|| format!("elements of type {:?}", tensor.datum_type()))
    };
    made.iter().map(own).collect()
}

/// The node as a model that is ready to run: operands that must follow a rule are checked.
fn plan(analysed: &Analysed, operator: &str) -> TractResult<Arc<Plan>> {
    let typed = &analysed.typed;
    let mut model = TypedModel { symbols: typed.symbols.clone(), ..TypedModel::default() };
    let mut wires: HashMap<OutletId, OutletId> = HashMap::new();
    for (index, &outlet) in typed.input_outlets()?.iter().enumerate() {
        let fact = typed.outlet_fact(outlet)?.without_value();
        wires.insert(outlet, model.add_source(format!("input.{index}"), fact)?);
    }
    for id in typed.eval_order()? {
        let node = typed.node(id);
        if node.op_is::<TypedSource>() {
            continue;
        }
        if let Some(constant) = node.op_as::<Const>() {
            let wire = model.add_const(format!("constant.{id}"), constant.val().clone())?;
            wires.insert(OutletId::new(id, 0), wire);
            continue;
        }
        let facts: TVec<&TypedFact> = typed.node_input_facts(id)?;
        let rule = indices::rule_of(&*node.op, &facts);
        let mut inputs: TVec<OutletId> = tvec!();
        for (index, outlet) in node.inputs.iter().enumerate() {
            let wire = wires[outlet];
            let rule = rule.as_ref().filter(|(operand, _)| *operand == index).map(|(_, rule)| rule.clone());
            let Some(rule) = rule else {
                inputs.push(wire);
                continue;
            };
            let checked = Checked { operator: operator.to_owned(), rule };
            let name = format!("checked.{id}.{index}");
            inputs.push(match model.outlet_fact(wire)?.konst.clone() {
                Some(tensor) => model.add_const(name, checked.check(&tensor)?)?,
                None => model.wire_node(name, checked, &[wire])?[0],
            });
        }
        let made = model.wire_node(format!("{}.{id}", node.name), node.op.clone(), &inputs)?;
        for (slot, wire) in made.into_iter().enumerate() {
            wires.insert(OutletId::new(id, slot), wire);
        }
    }
    let mut outputs = vec![];
    for (index, outlet) in typed.output_outlets()?.iter().enumerate() {
        let datum = datum_of(analysed.outputs[index].0).context("a type that tract lacks")?;
        outputs.push(model.wire_node(format!("output.{index}"), cast(datum), &[wires[outlet]])?[0]);
    }
    model.select_output_outlets(&outputs)?;
    // tract moves axes into the bodies of its loops, and then they do not fit what they are given.
    if !matches!(operator, "LSTM" | "GRU" | "RNN") {
        model.declutter()?;
    }
    model.optimize()?;
    Plan::new(model)
}
