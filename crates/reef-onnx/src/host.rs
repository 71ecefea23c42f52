//! Host kernels: regions of nodes without a native form, each a tract model optimised once.
//!
//! [`merge`] joins neighbouring host operators into convex regions (no path leaves one and comes back), so
//! that data crosses as seldom as possible. [`attach`] builds the kernels that are still needed after
//! normalisation. A host operator's index is a typed node's id after the walk, its region after `merge`, its
//! kernel after `attach`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use reef_graph::{Graph, HostOp, Op, ValueId, ValueKind};
use reef_plan::{HostFault, HostKernel, HostState, TensorSpec};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{SimplePlan, SimpleState, SpecialOps, TractErrorContext, TypedOp};
use tract_onnx::tract_core::ops::cast::cast;

use crate::consts::datum_of;
use crate::dry::{self, Tried};
use crate::error::ImportError;
use crate::guard::{attempt, guarded, text};
use crate::indices::{self, BadValue, Checked};
use crate::register::DataFault;
use crate::rewrite::Rewriter;
use crate::walk::{Operand, Walked, operator_of};

/// A model in tract's terms, ready to run.
pub(crate) type Plan = SimplePlan<TypedFact, Box<dyn TypedOp>>;
type State = SimpleState<TypedFact, Box<dyn TypedOp>>;

/// A tract model that computes one region.
#[derive(Debug)]
struct TractKernel {
    operators: String,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    /// None if all outputs are without elements: then there is nothing to compute.
    plan: Option<Arc<Plan>>,
}

impl HostKernel for TractKernel {
    fn name(&self) -> &str {
        &self.operators
    }

    fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(TractState {
            kernel: self.operators.clone(),
            inputs: self.inputs.clone(),
            plan: self.plan.clone(),
            state: None,
        }))
    }
}

struct TractState {
    kernel: String,
    inputs: Vec<TensorSpec>,
    plan: Option<Arc<Plan>>,
    /// Kept from call to call only when no operator carries anything over.
    state: Option<State>,
}

impl HostState for TractState {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let fault = |reason: String| HostFault::of_kernel(&*self.kernel, reason);
        let mut state = match self.state.take() {
            Some(state) => state,
            None => guarded(|| plan.spawn()).map_err(fault)?,
        };
        let specs = &self.inputs;
        let results = attempt(|| {
            let mut values = tvec!();
            for (spec, bytes) in specs.iter().zip(inputs) {
                let datum = datum_of(spec.dtype).expect("regions have tract's types");
                let mut tensor = Tensor::zero_dt(datum, &spec.shape)?;
                tensor.try_as_plain_ram_mut()?.as_bytes_mut().copy_from_slice(bytes);
                values.push(tensor.into_tvalue());
            }
            state.run(values)
        });
        let results = results.map_err(|error| match fault_of_data(&error) {
            Some(bad) => HostFault::of_input(&*self.kernel, bad),
            None => fault(text(&error)),
        });
        for (result, bytes) in results?.iter().zip(outputs.iter_mut()) {
            let plain = result.try_as_plain_ram().map_err(|error| fault(format!("{error:#}")))?;
            let made = plain.as_bytes();
            if made.len() != bytes.len() {
                return Err(fault(format!("made {} bytes, not {}", made.len(), bytes.len())));
            }
            bytes.copy_from_slice(made);
        }
        if state.op_states.iter().all(Option::is_none) {
            self.state = Some(state);
        }
        Ok(())
    }
}

/// What `error` says of a request's data, if they are at fault.
pub(crate) fn fault_of_data(error: &TractError) -> Option<String> {
    let data = || error.chain().find_map(|cause| cause.downcast_ref::<DataFault>()).map(ToString::to_string);
    BadValue::of(error).map(ToString::to_string).or_else(data)
}

/// A set of typed nodes that becomes one kernel. Values are those of the walked graph.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// Typed nodes, in execution order.
    nodes: Vec<usize>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

/// Joins host operators into regions; their indices become those of the regions.
pub(crate) fn merge(graph: &Graph) -> (Graph, Vec<Region>) {
    let mut groups: Vec<usize> = (0..graph.nodes.len()).collect();
    let is_host = |at: usize| matches!(graph.nodes[at].op, Op::Host(_));
    for (at, node) in graph.nodes.iter().enumerate().filter(|&(at, _)| is_host(at)) {
        for producer in node.inputs.iter().filter_map(|&input| producer(graph, input)) {
            let (group, joined) = (groups[producer], groups[at]);
            if is_host(producer) && group != joined && !detour(graph, &groups, group, joined) {
                groups.iter_mut().filter(|other| **other == joined).for_each(|other| *other = group);
            }
        }
    }
    Contraction::new(graph, groups).run()
}

fn producer(graph: &Graph, value: ValueId) -> Option<usize> {
    match graph.value(value).kind {
        ValueKind::Node(node) => Some(node.index()),
        _ => None,
    }
}

/// Whether a path leads from group `from` to group `to` through a third one.
fn detour(graph: &Graph, groups: &[usize], from: usize, to: usize) -> bool {
    let mut tainted: HashSet<usize> = HashSet::new();
    loop {
        let before = tainted.len();
        for (at, node) in graph.nodes.iter().enumerate() {
            let group = groups[at];
            if group == from || tainted.contains(&group) {
                continue;
            }
            let sources = node.inputs.iter().filter_map(|&input| producer(graph, input)).map(|p| groups[p]);
            let mut sources = sources.filter(|&source| source != group);
            let direct = group != to;
            if sources.any(|source| tainted.contains(&source) || (direct && source == from)) {
                tainted.insert(group);
            }
        }
        if tainted.contains(&to) || tainted.len() == before {
            return tainted.contains(&to);
        }
    }
}

/// Making every group one node, in an order that fits.
struct Contraction<'a> {
    graph: &'a Graph,
    groups: Vec<usize>,
    members: HashMap<usize, Vec<usize>>,
    placed: HashSet<usize>,
    rewriter: Rewriter<'a>,
    regions: Vec<Region>,
}

impl<'a> Contraction<'a> {
    fn new(graph: &'a Graph, groups: Vec<usize>) -> Self {
        let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
        for (at, &group) in groups.iter().enumerate() {
            members.entry(group).or_default().push(at);
        }
        let rewriter = Rewriter::new(graph);
        Self { graph, groups, members, placed: HashSet::new(), rewriter, regions: vec![] }
    }

    fn run(mut self) -> (Graph, Vec<Region>) {
        // Depth first without recursion: a group is placed once all groups that it reads are.
        let mut pending: Vec<usize> = self.groups.iter().rev().copied().collect();
        while let Some(&group) = pending.last() {
            let missing: Vec<usize> = match self.placed.contains(&group) {
                true => vec![],
                false => self.sources(group).filter(|source| !self.placed.contains(source)).collect(),
            };
            if missing.is_empty() {
                pending.pop();
                if self.placed.insert(group) {
                    self.place(group);
                }
            }
            pending.extend(missing);
        }
        (self.rewriter.finish(), self.regions)
    }

    fn sources(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        let inputs = self.members[&group].iter().flat_map(|&at| &self.graph.nodes[at].inputs);
        let groups = inputs.filter_map(|&input| producer(self.graph, input)).map(|at| self.groups[at]);
        groups.filter(move |&source| source != group)
    }

    fn place(&mut self, group: usize) {
        let nodes = self.members[&group].clone();
        let first = &self.graph.nodes[nodes[0]];
        if !matches!(first.op, Op::Host(_)) {
            return self.rewriter.copy(first);
        }
        let (mut ids, mut names): (Vec<usize>, Vec<&str>) = (vec![], vec![]);
        for &at in &nodes {
            let Op::Host(host) = &self.graph.nodes[at].op else {
                unreachable!("regions hold host operators")
            };
            ids.push(host.index);
            if !names.contains(&host.operators.as_str()) {
                names.push(&host.operators);
            }
        }
        let region = Region { nodes: ids, inputs: self.read(&nodes), outputs: self.written(&nodes, group) };
        let op = Op::Host(HostOp { index: self.regions.len(), operators: names.join(", ") });
        self.rewriter.emit(&first.name, op, &region.inputs, &region.outputs);
        self.regions.push(region);
    }

    /// Values from outside that the nodes read.
    fn read(&self, nodes: &[usize]) -> Vec<ValueId> {
        let mut inputs = vec![];
        for &input in nodes.iter().flat_map(|&at| &self.graph.nodes[at].inputs) {
            let inside = producer(self.graph, input).is_some_and(|at| nodes.contains(&at));
            if !inside && !inputs.contains(&input) {
                inputs.push(input);
            }
        }
        inputs
    }

    /// Values of the nodes that are read outside.
    fn written(&self, nodes: &[usize], group: usize) -> Vec<ValueId> {
        let outside = |value: &ValueId| {
            let mut others = self.graph.nodes.iter().zip(&self.groups).filter(|&(_, &other)| other != group);
            self.graph.outputs.contains(value) || others.any(|(node, _)| node.inputs.contains(value))
        };
        nodes.iter().flat_map(|&at| self.graph.nodes[at].outputs.iter().copied()).filter(outside).collect()
    }
}

/// Builds the kernels that the graph's host operators need, and numbers the operators after them.
pub(crate) fn attach(
    graph: &mut Graph,
    typed: &TypedModel,
    walked: &Walked,
    regions: &[Region],
    operators: &HashMap<String, String>,
    tried: &Tried,
) -> Result<Vec<Arc<dyn HostKernel>>, ImportError> {
    let mut kernels: Vec<Arc<dyn HostKernel>> = vec![];
    for node in &mut graph.nodes {
        let Op::Host(host) = &mut node.op else { continue };
        let region = &regions[host.index];
        let (inputs, outputs) = (specs(walked, &region.inputs), specs(walked, &region.outputs));
        let empty = outputs.iter().all(|spec| spec.bytes() == 0);
        let plan = match empty {
            true => None,
            false => Some(attempt(|| plan(typed, walked, region, operators)).map_err(|error| {
                let bad = BadValue::of(&error).map(|bad| bad.what.clone());
                let (node, operator) = (node.name.clone(), host.operators.clone());
                ImportError::Unsupported { node, operator, reason: bad.unwrap_or_else(|| text(&error)) }
            })?),
        };
        if let Some(plan) = plan.as_ref().filter(|_| !tried.knows(&host.operators, &inputs)) {
            if let Err(reason) = dry::check(plan, &inputs) {
                return Err(blame(typed, walked, region, &host.operators, operators, reason));
            }
            tried.note(&host.operators, &inputs);
        }
        host.index = kernels.len();
        let operators = host.operators.clone();
        kernels.push(Arc::new(TractKernel { operators, inputs, outputs, plan }));
    }
    Ok(kernels)
}

fn specs(walked: &Walked, values: &[ValueId]) -> Vec<TensorSpec> {
    let values = values.iter().map(|&id| walked.graph.value(id));
    values.map(|value| TensorSpec { dtype: value.dtype, shape: value.shape.clone() }).collect()
}

/// The error for a region that does not run: it names the first of its nodes that does not run alone.
fn blame(
    typed: &TypedModel,
    walked: &Walked,
    region: &Region,
    names: &str,
    operators: &HashMap<String, String>,
    reason: String,
) -> ImportError {
    for &id in &region.nodes {
        let node = typed.node(id);
        let values = |outlets: &mut dyn Iterator<Item = OutletId>| {
            let mut found: Vec<ValueId> = vec![];
            for outlet in outlets {
                if let Some(Operand::Value(value)) = walked.outlets.get(&outlet)
                    && !found.contains(value)
                {
                    found.push(*value);
                }
            }
            found
        };
        let inputs = values(&mut node.inputs.iter().copied());
        let outputs = values(&mut (0..node.outputs.len()).map(|slot| OutletId::new(id, slot)));
        let alone = Region { nodes: vec![id], inputs, outputs };
        let tried = guarded(|| plan(typed, walked, &alone, operators))
            .and_then(|plan| dry::check(&plan, &specs(walked, &alone.inputs)));
        if let Err(reason) = tried {
            let host = walked.graph.nodes.iter().find_map(|node| match &node.op {
                Op::Host(host) if host.index == id => Some(host.operators.clone()),
                _ => None,
            });
            let operator = host.unwrap_or_else(|| names.to_owned());
            return ImportError::Unsupported { node: node.name.clone(), operator, reason };
        }
    }
    let node = region.nodes.first().map_or(String::new(), |&id| typed.node(id).name.clone());
    ImportError::Unsupported { node, operator: names.to_owned(), reason }
}

/// The region as a model of its own, optimised.
fn plan(
    typed: &TypedModel,
    walked: &Walked,
    region: &Region,
    operators: &HashMap<String, String>,
) -> TractResult<Arc<Plan>> {
    let mut model = TypedModel { symbols: typed.symbols.clone(), ..TypedModel::default() };
    let mut wires: HashMap<ValueId, OutletId> = HashMap::new();
    for (index, &input) in region.inputs.iter().enumerate() {
        let value = walked.graph.value(input);
        let datum = datum_of(value.dtype).context("a type that tract lacks")?;
        let fact = datum.fact(&value.shape[..]);
        wires.insert(input, model.add_source(format!("input.{index}"), fact)?);
    }
    for &id in &region.nodes {
        let node = typed.node(id);
        let facts: TVec<&TypedFact> = typed.node_input_facts(id)?;
        let rule = indices::rule_of(&*node.op, &facts);
        let mut inputs: TVec<OutletId> = tvec!();
        for (index, outlet) in node.inputs.iter().enumerate() {
            let name = format!("{}.{id}.{index}", node.name);
            let rule = rule.as_ref().filter(|(operand, _)| *operand == index).map(|(_, rule)| rule.clone());
            let checked = rule.map(|rule| Checked { operator: operator_of(node, operators), rule });
            let wire = match (&walked.outlets[outlet], checked) {
                (Operand::Const(tensor), Some(checked)) => model.add_const(name, checked.check(tensor)?)?,
                (Operand::Const(tensor), None) => model.add_const(name, tensor.clone())?,
                (Operand::Value(value), checked) => {
                    let mut wire = wires[value];
                    let wanted = typed.outlet_fact(*outlet)?.datum_type;
                    if model.outlet_fact(wire)?.datum_type != wanted {
                        wire = model.wire_node(name.as_str(), cast(wanted), &[wire])?[0];
                    }
                    match checked {
                        Some(checked) => model.wire_node(format!("{name}.checked"), checked, &[wire])?[0],
                        None => wire,
                    }
                }
            };
            inputs.push(wire);
        }
        let made = model.wire_node(format!("{}.{id}", node.name), node.op.clone(), &inputs)?;
        for (slot, wire) in made.into_iter().enumerate() {
            if let Some(Operand::Value(value)) = walked.outlets.get(&OutletId::new(id, slot)) {
                wires.insert(*value, wire);
            }
        }
    }
    let mut outputs = vec![];
    for (index, value) in region.outputs.iter().enumerate() {
        let datum = datum_of(walked.graph.value(*value).dtype).context("a type that tract lacks")?;
        outputs.push(model.wire_node(format!("output.{index}"), cast(datum), &[wires[value]])?[0]);
    }
    model.select_output_outlets(&outputs)?;
    Plan::new(model.into_optimized()?)
}
