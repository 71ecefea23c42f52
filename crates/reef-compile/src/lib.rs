//! `reef-compile`: graphs become plans.
//!
//! The passes, in order: `moved` moves integers where numbers were moved that stand for them, `quantized`
//! makes products of integers of what was such, both where the device has them, `simplify` rewrites the
//! graph, `groups` decides what becomes one kernel, `layout` where values lie, `lower` makes kernels,
//! `schedule` puts them into stages, `memory` gives buffers addresses. The plan is validated when it is
//! built. Deterministic: the same graph and target give the same plan; names inside the graph have no
//! influence. Knows a device only by its [`Cutter`], which is asked how weights are packed, how a kernel is
//! cut into blocks, and how long it takes. [`divide`] cuts a plan into parts for several devices.

mod divide;
mod error;
mod groups;
pub mod interpret;
mod layout;
mod lower;
mod memory;
mod moved;
mod quantized;
pub mod reference;
mod report;
pub mod samples;
mod schedule;
mod select;
mod simplify;
mod view;

use std::sync::Arc;

use reef_base::limits;
use reef_graph::Graph;
use reef_plan::{Cutter, HostKernel, Kernel, Place, Plan, PlanParts, WeightStore};

pub use divide::{Division, DivisionInput, divide, divide_off};
pub use error::CompileError;
pub use report::{FusedGroup, InspectReport, MemoryReport};

use lower::{BufKind, Draft, Lowered};
use memory::Lifetime;
use view::Operand;

/// What the caller decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// The plan's name: the model and its input shapes.
    pub name: String,
}

/// A plan and how it came about.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The plan.
    pub plan: Plan,
    /// What became of the graph.
    pub report: InspectReport,
}

/// Compiles `graph` for the device with this cutter. Packed constants go to `store`, which all plans of a
/// model share.
pub fn compile(
    graph: &Graph,
    host_kernels: &[Arc<dyn HostKernel>],
    store: &Arc<WeightStore>,
    cutter: &dyn Cutter,
    options: &CompileOptions,
) -> Result<Plan, CompileError> {
    compile_and_inspect(graph, host_kernels, store, cutter, options).map(|compiled| compiled.plan)
}

/// [`compile`], with a report.
pub fn compile_and_inspect(
    graph: &Graph,
    host_kernels: &[Arc<dyn HostKernel>],
    store: &Arc<WeightStore>,
    cutter: &dyn Cutter,
    options: &CompileOptions,
) -> Result<Compiled, CompileError> {
    graph.validate()?;
    check_io(graph)?;
    let integers = cutter.has_integers().then(|| {
        let moved = moved::on_integers(graph, cutter.has_integer_pools());
        quantized::to_integers(&moved)
    });
    let simple = simplify::simplify(integers.as_ref().unwrap_or(graph));
    let joint = groups::Joint {
        attention: &|depth, width| cutter.has_attention(depth, width),
        normed_conv: cutter.has_normed_conv(),
    };
    let groups = groups::group(&simple, &joint);
    let attempt = |elide: bool| {
        let layouts = layout::Layouts::decide(&simple, &groups, elide);
        let lowered = lower::lower(&simple, &groups, layouts, host_kernels, store, cutter)?;
        assemble(graph, lowered, host_kernels, store, cutter, options)
    };
    // Parts of a concatenation that are made in place can meet in one kernel in ways that regions cannot tell
    // apart; then the parts are copied.
    match attempt(true) {
        Err(CompileError::Plan(_)) => attempt(false),
        other => other,
    }
}

fn check_io(graph: &Graph) -> Result<(), CompileError> {
    let values = graph.inputs.iter().chain(&graph.outputs).map(|&id| graph.value(id));
    for value in values {
        if value.shape.elements() > limits::TENSOR_ELEMENTS_MAX {
            let what = format!("{} has {} elements", value.name, value.shape.elements());
            return Err(CompileError::Io { what });
        }
    }
    let most = graph.inputs.len().max(graph.outputs.len());
    if most > limits::MODEL_TENSORS_MAX || graph.outputs.is_empty() {
        let (inputs, outputs) = (graph.inputs.len(), graph.outputs.len());
        return Err(CompileError::Io { what: format!("{inputs} inputs and {outputs} outputs") });
    }
    Ok(())
}

/// Schedules the kernels, places the buffers, builds and validates the plan.
fn assemble(
    graph: &Graph,
    lowered: Lowered,
    host_kernels: &[Arc<dyn HostKernel>],
    store: &Arc<WeightStore>,
    cutter: &dyn Cutter,
    options: &CompileOptions,
) -> Result<Compiled, CompileError> {
    let Lowered { drafts, buffers, weights } = lowered;
    let stages = schedule::schedule(&drafts, cutter.stage_blocks());
    let target = cutter.target();
    let (of_buffer, lifetimes) = lifetimes(&drafts, &buffers, &stages, target.window);
    let arena = memory::place(&lifetimes);
    let region = |operand: &Operand| {
        let (place, base) = match buffers[operand.buf].kind {
            BufKind::Input(index) => (Place::Input(index as u16), 0),
            BufKind::Output(index) => (Place::Output(index as u16), 0),
            BufKind::Weight(index) => (Place::Weight(index as u32), 0),
            BufKind::Arena => (Place::Arena, of_buffer[operand.buf].map_or(0, |index| arena.offsets[index])),
        };
        operand.region(place, base)
    };
    let kernel = |index: &usize| {
        let draft = &drafts[*index];
        Kernel {
            name: draft.name.clone(),
            spec: draft.spec.clone(),
            reads: draft.reads.iter().map(region).collect(),
            writes: draft.writes.iter().map(region).collect(),
            restart: draft.restart,
            cost: draft.cost,
        }
    };
    let kernels = stages.iter().map(|stage| stage.iter().map(kernel).collect()).collect();
    let input_names = graph.inputs.iter().map(|&id| graph.value(id).name.as_str());
    let parts = PlanParts {
        name: options.name.clone(),
        target,
        inputs: report::io_specs(graph, &graph.inputs, input_names),
        outputs: report::io_specs(graph, &graph.outputs, graph.output_names.iter().map(String::as_str)),
        weights,
        store: store.clone(),
        host_kernels: host_kernels.to_vec(),
        stages: kernels,
        arena_bytes: arena.bytes,
    };
    let plan = Plan::cut_by(cutter, parts)?;
    let origins =
        stages.iter().flatten().map(|&index| (drafts[index].nodes.clone(), drafts[index].ns)).collect();
    let report = InspectReport::new(graph, &plan, origins, memory::largest_live_set(&lifetimes));
    Ok(Compiled { plan, report })
}

/// For every buffer of the arena that is used its index among the lifetimes, and the lifetimes.
fn lifetimes(
    drafts: &[Draft],
    buffers: &[lower::Buffer],
    stages: &[Vec<usize>],
    window: usize,
) -> (Vec<Option<usize>>, Vec<Lifetime>) {
    let mut spans: Vec<Option<(usize, usize)>> = vec![None; buffers.len()];
    for (stage, kernels) in stages.iter().enumerate() {
        for &index in kernels {
            let writes = drafts[index].writes.iter().map(|operand| (operand.buf, stage));
            let reads = drafts[index].reads.iter().map(|operand| (operand.buf, stage + window));
            for (buf, last) in writes.chain(reads) {
                let span = spans[buf].get_or_insert((stage, last));
                span.1 = span.1.max(last);
            }
        }
    }
    let mut lifetimes = Vec::new();
    let mut of_buffer = vec![None; buffers.len()];
    for (buf, buffer) in buffers.iter().enumerate() {
        if let (BufKind::Arena, Some((first, last))) = (buffer.kind, spans[buf]) {
            of_buffer[buf] = Some(lifetimes.len());
            lifetimes.push(Lifetime::new(buffer.bytes, first, last));
        }
    }
    (of_buffer, lifetimes)
}
