//! From tract's typed model to our graph, node by node: constants are computed, what [`crate::translate`]
//! knows becomes our operators, and anything else a host operator of its own (joined later by
//! [`crate::host`]).

use std::collections::HashMap;
use std::sync::Arc;

use reef_base::limits::{TENSOR_ELEMENTS_MAX, TENSOR_RANK_MAX};
use reef_graph::{DType, Graph, HostOp, Op, Shape, ValueId};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::source::TypedSource;

use crate::consts::{ConstPool, dtype_of};
use crate::error::ImportError;
use crate::guard::guarded;
use crate::translate;

/// Results of constant folding stay below this many elements or twice those of their operands.
const FOLDED_ELEMENTS_MAX: usize = 1 << 16;

/// A value of the typed model in our terms.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    /// Known now.
    Const(Arc<Tensor>),
    /// A value of the graph.
    Value(ValueId),
}

/// The graph, and where each of tract's values is in it.
pub(crate) struct Walked {
    pub graph: Graph,
    pub outlets: HashMap<OutletId, Operand>,
}

/// The state of a walk.
pub(crate) struct Walk<'a> {
    pub typed: &'a TypedModel,
    pub consts: &'a ConstPool,
    operators: &'a HashMap<String, String>,
    pub graph: Graph,
    outlets: HashMap<OutletId, Operand>,
    const_values: HashMap<usize, ValueId>,
}

/// The error that names the first node whose output shape is not known before it runs.
pub(crate) fn data_dependent(typed: &TypedModel, operators: &HashMap<String, String>) -> Option<ImportError> {
    let order = typed.eval_order().ok()?;
    let open = |fact: &TypedFact| fact.konst.is_none() && fact.shape.as_concrete().is_none();
    let node = order
        .into_iter()
        .map(|id| typed.node(id))
        .find(|node| node.outputs.iter().any(|output| open(&output.fact)))?;
    Some(unsupported(node, operators, "the shape of its output depends on data".into()))
}

/// The ONNX operator that `node` is part of; parts are named after the whole, with suffixes.
pub(crate) fn operator_of(node: &TypedNode, operators: &HashMap<String, String>) -> String {
    let mut name = node.name.as_str();
    loop {
        if let Some(operator) = operators.get(name) {
            return operator.clone();
        }
        match name.rfind('.') {
            Some(at) => name = &name[..at],
            None => return node.op.name().into_owned(),
        }
    }
}

/// Translates a model whose shapes are all concrete.
pub(crate) fn walk(
    typed: &TypedModel,
    consts: &ConstPool,
    operators: &HashMap<String, String>,
    inputs: &[String],
    outputs: &[String],
) -> Result<Walked, ImportError> {
    let analysis = |error: TractError| ImportError::Analysis { reason: format!("{error:#}") };
    let mut walk = Walk {
        typed,
        consts,
        operators,
        graph: Graph::default(),
        outlets: HashMap::new(),
        const_values: HashMap::new(),
    };
    for (&outlet, name) in typed.input_outlets().map_err(analysis)?.iter().zip(inputs) {
        let node = typed.node(outlet.node);
        let (dtype, shape) = walk.fact(outlet).map_err(|reason| unsupported(node, operators, reason))?;
        let value = walk.graph.add_input(name.as_str(), dtype, shape);
        walk.outlets.insert(outlet, Operand::Value(value));
    }
    for id in typed.eval_order().map_err(analysis)? {
        walk.visit(typed.node(id))?;
    }
    for (&outlet, name) in typed.output_outlets().map_err(analysis)?.iter().zip(outputs) {
        let node = typed.node(outlet.node);
        let value = walk.value(outlet).map_err(|reason| unsupported(node, operators, reason))?;
        walk.graph.add_output(name.as_str(), value);
    }
    Ok(Walked { graph: walk.graph, outlets: walk.outlets })
}

fn unsupported(node: &TypedNode, operators: &HashMap<String, String>, reason: String) -> ImportError {
    ImportError::Unsupported { node: node.name.clone(), operator: operator_of(node, operators), reason }
}

impl Walk<'_> {
    /// What `outlet` is.
    pub fn operand(&self, outlet: OutletId) -> Operand {
        self.outlets[&outlet].clone()
    }

    /// The constant that `outlet` is, if it is one.
    pub fn constant(&self, outlet: OutletId) -> Option<Arc<Tensor>> {
        match &self.outlets[&outlet] {
            Operand::Const(tensor) => Some(tensor.clone()),
            Operand::Value(_) => None,
        }
    }

    /// `outlet` as a value of the graph; constants are added to it on first use.
    pub fn value(&mut self, outlet: OutletId) -> Result<ValueId, String> {
        match self.operand(outlet) {
            Operand::Value(value) => Ok(value),
            Operand::Const(tensor) => {
                let key = Arc::as_ptr(&tensor) as usize;
                if let Some(&known) = self.const_values.get(&key) {
                    return Ok(known);
                }
                let converted = self.consts.convert(&tensor);
                let converted = converted
                    .ok_or_else(|| format!("{:?} constants are not supported", tensor.datum_type()))?;
                let value = self.graph.add_const(self.typed.node(outlet.node).name.clone(), converted);
                // The operand table keeps the tensor alive, so its address stays its own.
                self.const_values.insert(key, value);
                Ok(value)
            }
        }
    }

    /// Type and shape of `outlet`.
    pub fn fact(&self, outlet: OutletId) -> Result<(DType, Shape), String> {
        let fact = self.typed.outlet_fact(outlet).map_err(|error| format!("{error:#}"))?;
        let dtype = dtype_of(fact.datum_type)
            .filter(|_| !fact.is_exotic())
            .ok_or_else(|| format!("element type {:?} is not supported", fact.datum_type))?;
        let dims = fact.shape.as_concrete().ok_or("its shape depends on data")?;
        let elements = dims.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        if dims.len() > TENSOR_RANK_MAX || elements.is_none_or(|count| count > TENSOR_ELEMENTS_MAX) {
            return Err(format!("shape {dims:?} is too large"));
        }
        Ok((dtype, Shape::new(dims)))
    }

    fn visit(&mut self, node: &TypedNode) -> Result<(), ImportError> {
        if node.op_is::<TypedSource>() {
            let known = self.outlets.contains_key(&OutletId::new(node.id, 0));
            return if known {
                Ok(())
            } else {
                Err(unsupported(node, self.operators, "it is not an input".into()))
            };
        }
        if self.visit_constant(node) {
            return Ok(());
        }
        let operands = match translate::translate(self, node) {
            Ok(operands) => operands,
            Err(reason) => self.host(node).map_err(|why| {
                let reason = format!("no native kernel ({reason}), and not on the host either: {why}");
                unsupported(node, self.operators, reason)
            })?,
        };
        for (slot, operand) in operands.into_iter().enumerate() {
            self.outlets.insert(OutletId::new(node.id, slot), operand);
        }
        Ok(())
    }

    /// Whether the node's outputs are known now, and then they are noted.
    fn visit_constant(&mut self, node: &TypedNode) -> bool {
        let known = if let Some(op) = node.op_as::<Const>() {
            Some(vec![op.val().clone()])
        } else {
            let facts: Option<Vec<_>> = node.outputs.iter().map(|output| output.fact.konst.clone()).collect();
            facts.or_else(|| self.folded(node))
        };
        let Some(known) = known else { return false };
        for (slot, tensor) in known.into_iter().enumerate() {
            self.outlets.insert(OutletId::new(node.id, slot), Operand::Const(tensor));
        }
        true
    }

    fn folded(&self, node: &TypedNode) -> Option<Vec<Arc<Tensor>>> {
        let inputs: Vec<Arc<Tensor>> =
            node.inputs.iter().map(|&input| self.constant(input)).collect::<Option<_>>()?;
        let read: usize = inputs.iter().map(|tensor| tensor.len()).sum();
        let made = node.outputs.iter().map(|output| {
            let dims = output.fact.shape.as_concrete()?;
            dims.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent))
        });
        let made = made.collect::<Option<Vec<usize>>>()?.iter().sum::<usize>();
        if node.inputs.is_empty() || made > FOLDED_ELEMENTS_MAX.max(read.saturating_mul(2)) {
            return None;
        }
        let values = inputs.into_iter().map(IntoTValue::into_tvalue).collect();
        let outputs = guarded(|| node.op.eval_out_of_plan(values)).ok()??;
        Some(outputs.into_iter().map(IntoArcTensor::into_arc_tensor).collect())
    }

    /// A host operator of its own for `node`.
    fn host(&mut self, node: &TypedNode) -> Result<Vec<Operand>, String> {
        let mut inputs = vec![];
        for &input in &node.inputs {
            if let Operand::Value(value) = self.operand(input)
                && !inputs.contains(&value)
            {
                inputs.push(value);
            }
        }
        self.check_symbolic(node)?;
        let facts: Vec<(DType, Shape)> = (0..node.outputs.len())
            .map(|slot| self.fact(OutletId::new(node.id, slot)))
            .collect::<Result<_, _>>()?;
        let op = Op::Host(HostOp { index: node.id, operators: operator_of(node, self.operators) });
        let values = self.graph.add_node_multi(node.name.clone(), op, &inputs, facts);
        Ok(values.into_iter().map(Operand::Value).collect())
    }
    /// tract's symbolic integers are made of 32 bits when they come from data.
    fn check_symbolic(&self, node: &TypedNode) -> Result<(), String> {
        for &outlet in &node.inputs {
            let datum = self.typed.outlet_fact(outlet).map_err(|error| format!("{error:#}"))?.datum_type;
            if datum == DatumType::TDim && self.constant(outlet).is_none() {
                return Err("it computes shapes, and its input depends on data".into());
            }
        }
        Ok(())
    }
}
