//! A graph, the plan made of it, and how they are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use reef_base::Nanos;
use reef_compile::{CompileOptions, InspectReport};
use reef_graph::{Graph, Shape};
use reef_onnx::Specialised;
use reef_plan::{Cutter, DeviceKind, IoSpec, Kernel, KernelSpec, Plan, Restart, WeightStore};
use serde_json::{Value, json};

use crate::gpu;
use crate::output::say;

/// A graph and the plan made of it.
pub struct Compiled {
    /// The normalised graph.
    pub graph: Graph,
    /// The plan.
    pub plan: Plan,
    /// How it came about.
    pub report: InspectReport,
}

/// Compiles a graph.
pub fn segment(
    specialised: &Specialised,
    shapes: &[(String, Shape)],
    cutter: &dyn Cutter,
) -> Result<Compiled> {
    let Specialised { graph, host_kernels, .. } = specialised;
    let store = Arc::new(WeightStore::new());
    let shapes: Vec<String> = shapes.iter().map(|(name, shape)| format!("{name}{shape}")).collect();
    let options = CompileOptions { name: shapes.join(" ") };
    let compiled = reef_compile::compile_and_inspect(graph, host_kernels, &store, cutter, &options)
        .context("cannot compile the model")?;
    Ok(Compiled { graph: graph.clone(), plan: compiled.plan, report: compiled.report })
}

/// Prints it.
pub fn print(compiled: &Compiled, never_max: Nanos) {
    let plan = &compiled.plan;
    say!("plan {} for {}", plan.hash(), plan.target());
    for (kind, specs) in [("input", plan.inputs()), ("output", plan.outputs())] {
        for spec in specs {
            say!("{kind:<7} {} {}{}", spec.name, spec.dtype, spec.shape);
        }
    }
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    say!("{} parameters, {:.3} GFLOP", compiled.graph.parameter_count(), plan.cost().flops as f64 / 1e9);
    say!(
        "memory  persistent {:.2} MiB, ephemeral {:.2} MiB (largest live set {:.2}), \
         scratch {:.2} MiB per CU",
        mib(plan.weight_bytes()),
        mib(plan.arena_bytes()),
        mib(compiled.report.memory.largest_live_set_bytes),
        mib(plan.scratch_bytes())
    );
    say!(
        "{} stages, {} kernels, {} blocks; operators of the graph: {}",
        plan.stages().len(),
        plan.kernels().len(),
        plan.blocks(),
        operators(&compiled.graph)
            .iter()
            .map(|(name, n)| format!("{name} {n}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let mut host: Vec<&str> = plan.host_kernels().iter().map(|kernel| kernel.name()).collect();
    let of_gpu = plan.target().device == DeviceKind::Cuda;
    let hosted = |kernel: &&Kernel| gpu::runs_on_host(kernel) && !matches!(kernel.spec, KernelSpec::Host(_));
    let hosted = plan.kernels().iter().filter(hosted);
    host.extend(hosted.filter(|_| of_gpu).map(|kernel| kernel.spec.name()));
    match host.is_empty() {
        true => say!("every operator runs natively"),
        false if of_gpu => {
            say!("on the host (one block each; others have the GPU meanwhile): {}", host.join("; "));
        }
        false => say!(
            "host kernels (one block each; stopped for more urgent work, which waits {:.1} ms at most): {}",
            never_max.0 as f64 / 1e6,
            host.join("; ")
        ),
    }
    say!("{:>5} {:>12} {:>7} {:>8} {:>10}  computes", "stage", "kernel", "blocks", "restart", "MFLOP");
    for (index, stage) in plan.stages().iter().enumerate() {
        for kernel in &plan.kernels()[stage.kernels.start as usize..stage.kernels.end as usize] {
            let restart = if kernel.restart == Restart::Safe { "safe" } else { "never" };
            say!(
                "{index:>5} {:>12} {:>7} {restart:>8} {:>10.2}  {}",
                kernel.spec.name(),
                kernel.spec.blocks(),
                kernel.cost.flops as f64 / 1e6,
                kernel.name
            );
        }
    }
}

fn operators(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.nodes {
        *counts.entry(node.op.name()).or_insert(0) += 1;
    }
    counts
}

/// As JSON.
pub fn to_json(compiled: &Compiled) -> Value {
    let plan = &compiled.plan;
    let io = |specs: &[IoSpec]| -> Vec<Value> {
        specs
            .iter()
            .map(
                |spec| json!({ "name": spec.name, "dtype": spec.dtype.to_string(), "shape": spec.shape[..] }),
            )
            .collect()
    };
    let stages: Vec<Value> = plan
        .stages()
        .iter()
        .map(|stage| {
            let kernels = &plan.kernels()[stage.kernels.start as usize..stage.kernels.end as usize];
            let kernels: Vec<Value> = kernels
                .iter()
                .map(|kernel| {
                    json!({
                        "kind": kernel.spec.name(),
                        "computes": kernel.name,
                        "blocks": kernel.spec.blocks(),
                        "native": !matches!(kernel.spec, KernelSpec::Host(_)),
                        "restart_safe": kernel.restart == Restart::Safe,
                        "flops": kernel.cost.flops,
                        "bytes": kernel.cost.bytes,
                    })
                })
                .collect();
            json!({ "blocks": stage.blocks(), "kernels": kernels })
        })
        .collect();
    json!({
        "hash": plan.hash().to_string(),
        "target": plan.target().to_string(),
        "inputs": io(plan.inputs()),
        "outputs": io(plan.outputs()),
        "parameters": compiled.graph.parameter_count(),
        "flops": plan.cost().flops,
        "operators": operators(&compiled.graph),
        "host_kernels": plan.host_kernels().iter().map(|kernel| kernel.name()).collect::<Vec<_>>(),
        "memory": {
            "persistent_bytes": plan.weight_bytes(),
            "ephemeral_bytes": plan.arena_bytes(),
            "largest_live_set_bytes": compiled.report.memory.largest_live_set_bytes,
            "scratch_bytes": plan.scratch_bytes(),
        },
        "stages": stages,
    })
}
