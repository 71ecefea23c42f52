//! `reef run`: one model, once or many times.

use std::path::Path;

use anyhow::{Context, Result};
use reef_base::{Class, Level};
use reef_device::Scheme;
use reef_engine::{ModelSettings, Session, SessionOptions};
use serde_json::json;

use crate::cli::RunArgs;
use crate::inputs::{self, InputSource, NamedTensor};
use crate::output::say;
use crate::{device, loader, npy};

/// Runs the model on the inputs given, writes its outputs, and reports latencies when repeated.
pub fn run(args: &RunArgs) -> Result<()> {
    if let Some(dir) = &args.output_dir {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the directory {}", dir.display()))?;
    }
    let declared = loader::read(&args.model)?;
    declared.check_dims(&args.dims)?;
    let source = InputSource { files: &args.inputs, seed: args.random, dims: &args.dims };
    let tensors = inputs::gather(&declared.inputs, &declared.symbols, &source)?;
    // Read anew by the engine; two copies of a large model's constants are not needed.
    drop(declared);
    let settings = ModelSettings { class: Class::RealTime(Level::TOP), ..ModelSettings::default() };
    let (engine, info) =
        loader::engine_with(device::start(&args.device, Scheme::Reset)?, &args.model, settings)?;
    let mut session = open(&engine, &info.key.name, &tensors)?;
    let mut latencies: Vec<u64> = Vec::with_capacity(args.repeat as usize);
    for _ in 0..args.repeat {
        latencies.push(session.run()?.timings.total.0);
    }
    if let Some(dir) = &args.output_dir {
        write_outputs(&session, dir)?;
    }
    report(args, latencies);
    Ok(())
}

fn open(engine: &reef_engine::Engine, model: &str, tensors: &[NamedTensor]) -> Result<Session> {
    // A request checks names, types and shapes with errors that name them; the session then only repeats it.
    let request = reef_engine::InferRequest::new(
        model,
        tensors
            .iter()
            .map(|tensor| reef_engine::InputTensor {
                name: &tensor.name,
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                data: tensor.data.as_slice(),
            })
            .collect(),
    );
    engine.infer(&request)?;
    let shapes = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.clone())).collect();
    let mut session = engine.session(model, &SessionOptions { shapes, ..SessionOptions::default() })?;
    let names: Vec<String> = session.inputs().iter().map(|spec| spec.name.clone()).collect();
    for (index, name) in names.iter().enumerate() {
        let tensor =
            tensors.iter().find(|tensor| tensor.name == *name).context("an input without a tensor")?;
        session.input_mut(index).copy_from_slice(tensor.data.as_slice());
    }
    Ok(session)
}

fn write_outputs(session: &Session, dir: &Path) -> Result<()> {
    for index in 0..session.output_count() {
        let output = session.output(index);
        // Names may hold characters that file names may not.
        let path = dir.join(format!("{}.npy", output.name.replace(['/', '\\', ':'], "_")));
        npy::write(&path, output.dtype, output.shape, &reef_base::AlignedBytes::copy_from(output.data))?;
    }
    Ok(())
}

fn report(args: &RunArgs, mut latencies: Vec<u64>) {
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share).round() as usize];
    if args.json {
        let latency = json!({
            "min": at(0.0),
            "p50": at(0.5),
            "p95": at(0.95),
            "p99": at(0.99),
            "max": at(1.0),
            "count": latencies.len(),
        });
        say!("{}", json!({ "model": args.model, "latency_ns": latency }));
        return;
    }
    let ms = |nanos: u64| nanos as f64 / 1e6;
    if args.repeat > 1 {
        say!(
            "latency ms: min {:.3}  p50 {:.3}  p95 {:.3}  p99 {:.3}  max {:.3}  ({} runs)",
            ms(at(0.0)),
            ms(at(0.5)),
            ms(at(0.95)),
            ms(at(0.99)),
            ms(at(1.0)),
            latencies.len()
        );
    } else {
        say!("{:.3} ms", ms(at(0.5)));
    }
    if let Some(dir) = &args.output_dir {
        say!("outputs are in {}", dir.display());
    }
}
