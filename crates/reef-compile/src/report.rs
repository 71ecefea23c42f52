//! What the compiler made of a graph, for `inspect`.

use std::fmt;

use reef_graph::{Graph, ValueId};
use reef_plan::{IoSpec, Plan, Restart};

/// Memory of a plan in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Packed constants.
    pub persistent_bytes: usize,
    /// The arena of one task.
    pub ephemeral_bytes: usize,
    /// Scratch of one compute unit.
    pub scratch_bytes: usize,
    /// The most that is alive in one stage; no arena is smaller.
    pub largest_live_set_bytes: usize,
}

/// A kernel and the nodes of the graph that it computes.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedGroup {
    /// The kernel's name.
    pub kernel: String,
    /// What kind of kernel it is.
    pub kind: &'static str,
    /// The stage it runs in.
    pub stage: usize,
    /// Its blocks.
    pub blocks: usize,
    /// Whether its blocks may be killed.
    pub restart: Restart,
    /// Estimated time on one compute unit in nanoseconds.
    pub estimate_ns: u64,
    /// Names of the graph's nodes; none when it only copies an output.
    pub nodes: Vec<String>,
}

/// What became of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectReport {
    /// The plan's name.
    pub name: String,
    /// The model's inputs.
    pub inputs: Vec<IoSpec>,
    /// The model's outputs.
    pub outputs: Vec<IoSpec>,
    /// Floating-point constants, in elements.
    pub parameters: usize,
    /// Nodes of the graph as imported.
    pub operations: usize,
    /// Floating-point operations of one run.
    pub flops: u64,
    /// Stages.
    pub stages: usize,
    /// Kernels, in the order of the plan.
    pub groups: Vec<FusedGroup>,
    /// Memory.
    pub memory: MemoryReport,
}

/// Type and shape of the values that clients see.
pub(crate) fn io_specs<'a>(
    graph: &Graph,
    ids: &[ValueId],
    names: impl Iterator<Item = &'a str>,
) -> Vec<IoSpec> {
    let spec = |(name, &id): (&str, &ValueId)| {
        let value = graph.value(id);
        IoSpec { name: name.into(), dtype: value.dtype, shape: value.shape.clone() }
    };
    names.zip(ids).map(spec).collect()
}

impl InspectReport {
    pub(crate) fn new(graph: &Graph, plan: &Plan, origins: Vec<(Vec<String>, f64)>, live: usize) -> Self {
        let mut groups = Vec::new();
        for (stage, indices) in plan.stages().iter().enumerate() {
            for index in indices.kernels.clone() {
                let kernel = &plan.kernels()[index as usize];
                let (nodes, ns) = origins[index as usize].clone();
                groups.push(FusedGroup {
                    kernel: kernel.name.clone(),
                    kind: kernel.spec.name(),
                    stage,
                    blocks: kernel.spec.blocks(),
                    restart: kernel.restart,
                    estimate_ns: ns as u64,
                    nodes,
                });
            }
        }
        InspectReport {
            name: plan.name().into(),
            inputs: plan.inputs().to_vec(),
            outputs: plan.outputs().to_vec(),
            parameters: graph.parameter_count(),
            operations: graph.nodes.len(),
            flops: plan.cost().flops,
            stages: plan.stages().len(),
            groups,
            memory: MemoryReport {
                persistent_bytes: plan.weight_bytes(),
                ephemeral_bytes: plan.arena_bytes(),
                scratch_bytes: plan.scratch_bytes(),
                largest_live_set_bytes: live,
            },
        }
    }
}

impl fmt::Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        for (kind, specs) in [("input", &self.inputs), ("output", &self.outputs)] {
            for spec in specs {
                writeln!(f, "{kind} {} {}{}", spec.name, spec.dtype, spec.shape)?;
            }
        }
        let gflop = self.flops as f64 / 1e9;
        writeln!(f, "{} operations, {} parameters, {gflop:.3} GFLOP", self.operations, self.parameters)?;
        let MemoryReport { persistent_bytes, ephemeral_bytes, scratch_bytes, largest_live_set_bytes } =
            self.memory;
        writeln!(f, "persistent {persistent_bytes} bytes, scratch {scratch_bytes} bytes per compute unit")?;
        writeln!(f, "ephemeral {ephemeral_bytes} bytes, largest live set {largest_live_set_bytes} bytes")?;
        writeln!(f, "{} kernels in {} stages", self.groups.len(), self.stages)?;
        for group in &self.groups {
            let restart = if group.restart == Restart::Never { ", not restartable" } else { "" };
            let (stage, kind, blocks, us) = (group.stage, group.kind, group.blocks, group.estimate_ns / 1000);
            writeln!(f, "  {stage:4} {kind:11} {blocks:5} blocks {us:6} us  {}{restart}", group.kernel)?;
        }
        Ok(())
    }
}
