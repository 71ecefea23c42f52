//! `reef profile`: what every kernel of a model costs on this device.
//!
//! Times of blocks are the device's own. On a GPU kernels are timed as a whole, from the first block's begin
//! to the last one's end, and a block's time is the kernel's by the rounds that its multiprocessors need for
//! it.

use anyhow::{Context, Result};
use reef_base::{AlignedBytes, Level, Nanos, Rng, TaskKey};
use reef_device::{Capabilities, Device, Outcome, Scheme};
use reef_graph::DType;
use reef_plan::{DeviceKind, IoSpec, Plan};
use serde_json::json;
use std::sync::Arc;

use crate::cli::ProfileArgs;
use crate::commands::inspect;
use crate::output::say;
use crate::{device, loader};

/// Runs of which the times of blocks are kept: the median of them counts.
const TIMED_RUNS_MAX: u64 = 1_000;

struct Row {
    stage: usize,
    name: String,
    kind: &'static str,
    blocks: u64,
    block_ns: u64,
    flops: u64,
    /// Of the whole kernel, where the device has one at a time.
    kernel_ns: Option<u64>,
    /// Longest between two polls, where that was asked for.
    poll_ns: Option<u64>,
}

impl Row {
    fn total_ns(&self) -> u64 {
        self.blocks * self.block_ns
    }

    /// What the kernel counts among others: its time where kernels have the device for themselves, else that
    /// of all compute units.
    fn weight_ns(&self) -> u64 {
        self.kernel_ns.unwrap_or(self.total_ns())
    }

    fn gflops(&self) -> f64 {
        self.flops as f64 / self.weight_ns().max(1) as f64
    }
}

/// Runs the model alone and prints the heaviest kernels.
pub fn run(args: &ProfileArgs) -> Result<()> {
    let device = device::start(&args.device, Scheme::Reset)?.device;
    let declared = loader::read(&args.model)?;
    let shapes = declared.shapes(&args.dims)?;
    let cutter = device.cutter(args.precision.precision);
    let compiled = inspect::compile(&declared, &shapes, cutter.as_ref());
    let plan = Arc::new(declared.advise(&args.dims, compiled)?.plan);
    drop(declared);
    let loaded = device.load(plan.clone())?;
    let (latencies, times) = measure(device.as_ref(), &plan, loaded, args.repeat)?;
    let polls = if args.polls { Some(poll_gaps(&plan, args.repeat)?) } else { None };
    let rows = rows(&plan, &times, polls.as_deref(), device.capabilities());
    if args.json {
        print_json(args, &plan, &rows, &latencies);
    } else {
        print_table(args, &rows, &latencies, device.capabilities().cus);
    }
    Ok(())
}

fn measure(
    device: &dyn Device,
    plan: &Plan,
    loaded: reef_device::LoadedPlan,
    repeat: u64,
) -> Result<(Vec<u64>, Vec<Option<u64>>)> {
    let mut io = device.alloc_io(loaded).context("the plan was just loaded")?;
    let mut rng = Rng::new(1);
    for (buffer, spec) in io.inputs.iter_mut().zip(plan.inputs()) {
        if spec.dtype == DType::F32 {
            noise(&mut rng, buffer.typed_mut());
        }
    }
    let mut latencies = Vec::new();
    let mut times = vec![Vec::new(); plan.kernels().len()];
    for run in 0..repeat {
        let key = TaskKey::real_time(Level::TOP, None, Nanos(run));
        device.submit(loaded, key, io, run).map_err(|rejected| anyhow::anyhow!("{}", rejected.why))?;
        let completion = loop {
            match device.try_complete() {
                Some(completion) => break completion,
                None => std::thread::yield_now(),
            }
        };
        anyhow::ensure!(completion.outcome == Outcome::Done, "a run ended as {:?}", completion.outcome);
        latencies.push((completion.finished - completion.submitted).0);
        io = completion.io;
        if run < TIMED_RUNS_MAX {
            let last = device.block_times(loaded);
            times.iter_mut().zip(last).for_each(|(times, last)| times.extend(last));
        }
    }
    latencies.sort_unstable();
    let median = |mut times: Vec<u64>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    };
    Ok((latencies, times.into_iter().map(median).collect()))
}

fn noise(rng: &mut Rng, values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = rng.normal_f32());
}

/// For each kernel the longest time between two polls.
fn poll_gaps(plan: &Arc<Plan>, runs: u64) -> Result<Vec<Nanos>> {
    let mut rng = Rng::new(1);
    let input = |spec: &IoSpec| {
        let mut bytes = AlignedBytes::zeroed(spec.bytes());
        if spec.dtype == DType::F32 {
            noise(&mut rng, bytes.typed_mut());
        }
        bytes
    };
    let inputs: Vec<AlignedBytes> = plan.inputs().iter().map(input).collect();
    reef_cpu::poll_gaps(plan, &inputs, runs as usize).context("--polls")
}

fn rows(plan: &Plan, times: &[Option<u64>], polls: Option<&[Nanos]>, device: &Capabilities) -> Vec<Row> {
    let whole = |blocks: usize, block_ns: u64| match device.target.device {
        DeviceKind::Cuda => Some(blocks.div_ceil(device.cus) as u64 * block_ns),
        DeviceKind::Cpu | DeviceKind::Dummy => None,
    };
    let mut rows = Vec::new();
    for (stage_index, stage) in plan.stages().iter().enumerate() {
        for index in stage.kernels.start as usize..stage.kernels.end as usize {
            let kernel = &plan.kernels()[index];
            let block_ns = times.get(index).copied().flatten().unwrap_or(0);
            rows.push(Row {
                stage: stage_index,
                name: kernel.name.clone(),
                kind: kernel.spec.name(),
                blocks: kernel.spec.blocks() as u64,
                block_ns,
                kernel_ns: whole(kernel.spec.blocks(), block_ns),
                flops: kernel.cost.flops,
                poll_ns: polls.map(|polls| polls[index].0),
            });
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.weight_ns()));
    rows
}

fn print_table(args: &ProfileArgs, rows: &[Row], latencies: &[u64], cus: usize) {
    let total: u64 = rows.iter().map(Row::weight_ns).sum();
    let whole = rows.iter().any(|row| row.kernel_ns.is_some());
    let timed = if whole { "kernel µs" } else { "block µs" };
    let polls = |text: String| if args.polls { format!("{text:>9} ") } else { String::new() };
    say!(
        "{:>5} {:>12} {:>7} {:>10} {:>7} {:>8} {} kernel",
        "stage",
        "kind",
        "blocks",
        timed,
        "share",
        "GFLOP/s",
        polls("polls µs".into())
    );
    for row in rows.iter().take(args.top) {
        say!(
            "{:>5} {:>12} {:>7} {:>10.1} {:>6.1}% {:>8.1} {} {}",
            row.stage,
            row.kind,
            row.blocks,
            row.kernel_ns.unwrap_or(row.block_ns) as f64 / 1e3,
            100.0 * row.weight_ns() as f64 / total.max(1) as f64,
            row.gflops(),
            polls(format!("{:.1}", row.poll_ns.unwrap_or(0) as f64 / 1e3)),
            row.name
        );
    }
    let ms = |nanos: u64| nanos as f64 / 1e6;
    let what = if whole { "one after the other" } else { "of compute-unit time" };
    say!(
        "{} kernels, {:.3} ms {what}; latency on {cus} units: min {:.3} ms, p50 {:.3} ms{}",
        rows.len(),
        ms(total),
        ms(latencies[0]),
        ms(latencies[latencies.len() / 2]),
        if whole { " (with copies, and gaps between kernels)" } else { "" }
    );
}

fn print_json(args: &ProfileArgs, plan: &Plan, rows: &[Row], latencies: &[u64]) {
    let kernels: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "stage": row.stage, "name": row.name, "kind": row.kind, "blocks": row.blocks,
                "block_ns": row.block_ns, "kernel_ns": row.kernel_ns, "flops": row.flops,
                "longest_between_polls_ns": row.poll_ns
            })
        })
        .collect();
    let of = |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)];
    let latency = json!({
        "min": of(0), "p50": of(50), "p90": of(90), "p99": of(99), "max": of(100), "count": latencies.len()
    });
    // Of one request at a time.
    let memory = plan.weight_bytes() + plan.arena_bytes();
    let profile = json!({
        "model": args.model, "latency_ns": latency, "memory_bytes": memory, "kernels": kernels
    });
    say!("{profile}");
}
