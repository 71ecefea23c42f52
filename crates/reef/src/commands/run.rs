//! `reef run`: one model, once or many times.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use reef_base::{Class, Level, MonotonicClock, Nanos};
use reef_device::Scheme;
use reef_engine::{Engine, ModelInfo, ModelSettings, OutputTensor, Session, SessionOptions};
use serde_json::json;

use super::stream::Stream;
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
    let files = [&args.inputs[..], &args.each].concat();
    for (name, _) in &args.each {
        if files.iter().filter(|(other, _)| other == name).count() > 1 {
            bail!("input '{name}' is given twice");
        }
    }
    let source = InputSource { files: &files, seed: args.random, dims: &args.dims };
    let tensors = inputs::gather(&declared.inputs, &declared.symbols, &source)?;
    // Read anew by the engine; two copies of a large model's constants are not needed.
    let taken_as_one = args.random.is_some();
    let advice = if taken_as_one { declared.advice(&args.dims) } else { String::new() };
    drop(declared);
    let deadline = args.deadline.map(Nanos::from);
    let precision = args.precision.precision;
    let class = Class::RealTime(Level::TOP);
    let settings = ModelSettings { class, deadline, precision, ..ModelSettings::default() };
    let (engine, info) =
        loader::engine_with(device::start(&args.device, Scheme::Reset)?, &args.model, settings)?;
    if !args.each.is_empty() || !args.carry.is_empty() {
        return run_stream(args, &engine, &info, tensors);
    }
    if info.inputs.iter().chain(&info.outputs).any(|tensor| tensor.texts) {
        return run_texts(args, &engine, &info, &tensors);
    }
    let mut session = open(&engine, &info.key.name, &tensors).map_err(|error| match advice.as_str() {
        "" => error,
        advice => anyhow::anyhow!("{}{advice}", crate::message(&error)),
    })?;
    let latencies = measure(&mut session, args.repeat)?;
    let outputs = (0..session.output_count()).map(|index| session.output(index));
    let files = args.output_dir.as_deref().map(|dir| write_outputs(outputs, dir)).transpose()?;
    report(args, latencies, files);
    Ok(())
}

/// Runs a model that has texts: a session has their numbers alone.
fn run_texts(args: &RunArgs, engine: &Engine, info: &ModelInfo, tensors: &[NamedTensor]) -> Result<()> {
    let request = inputs::request(&info.key.name, tensors);
    let mut response = engine.infer(&request)?;
    let mut latencies = vec![];
    for _ in 0..args.repeat {
        let begin = MonotonicClock::read();
        response = engine.infer(&request)?;
        latencies.push(MonotonicClock::read().since(begin).0);
    }
    latencies.sort_unstable();
    let files = args.output_dir.as_deref().map(|dir| -> Result<BTreeMap<String, String>> {
        let names: Vec<&str> = response.outputs().map(|output| output.name).collect();
        let files = file_names(&names);
        for (index, (output, file)) in response.outputs().zip(&files).enumerate() {
            match response.texts_at(index) {
                Some(texts) => npy::write_texts(&dir.join(file), output.shape, &texts.collect::<Vec<_>>())?,
                None => write_output(&output, &dir.join(file))?,
            }
        }
        Ok(names.into_iter().map(str::to_string).zip(files).collect())
    });
    report(args, latencies, files.transpose()?);
    Ok(())
}

/// Runs the model on inputs that differ from run to run.
fn run_stream(
    args: &RunArgs,
    engine: &Engine,
    info: &ModelInfo,
    mut tensors: Vec<NamedTensor>,
) -> Result<()> {
    let each: Vec<&str> = args.each.iter().map(|(name, _)| name.as_str()).collect();
    let stream = Stream::new(&each, &args.carry, info, &mut tensors)?;
    let (mut latencies, outputs) = stream.run(engine, &info.key.name, tensors, args.repeat)?;
    latencies.sort_unstable();
    let outputs = outputs.iter().map(|output| OutputTensor {
        name: &output.name,
        dtype: output.dtype,
        shape: &output.shape,
        data: &output.data,
    });
    let files = args.output_dir.as_deref().map(|dir| write_outputs(outputs, dir)).transpose()?;
    report(args, latencies, files);
    Ok(())
}

/// What the caller waits for, in nanoseconds: inputs are in the device's buffers already, outputs are read
/// where the device wrote them.
fn measure(session: &mut Session, repeat: u64) -> Result<Vec<u64>> {
    let mut latencies = Vec::new();
    for _ in 0..repeat {
        let begin = MonotonicClock::read();
        session.run()?;
        latencies.push(MonotonicClock::read().since(begin).0);
    }
    latencies.sort_unstable();
    Ok(latencies)
}

fn open(engine: &Engine, model: &str, tensors: &[NamedTensor]) -> Result<Session> {
    // A request checks names, types and shapes with errors that name them; the session then only repeats it.
    engine.infer(&inputs::request(model, tensors))?;
    let shapes = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.clone())).collect();
    let values = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.data.as_slice())).collect();
    let options = SessionOptions { shapes, values, ..SessionOptions::default() };
    let mut session = engine.session(model, &options)?;
    let names: Vec<String> = session.inputs().iter().map(|spec| spec.name.clone()).collect();
    for (index, name) in names.iter().enumerate() {
        let tensor =
            tensors.iter().find(|tensor| tensor.name == *name).context("an input without a tensor")?;
        session.input_mut(index).copy_from_slice(tensor.data.as_slice());
    }
    Ok(session)
}

/// Writes one file per output; returns each output's file name in `dir`.
fn write_outputs<'a>(
    outputs: impl Iterator<Item = OutputTensor<'a>> + Clone,
    dir: &Path,
) -> Result<BTreeMap<String, String>> {
    let names: Vec<&str> = outputs.clone().map(|output| output.name).collect();
    let files = file_names(&names);
    for (output, file) in outputs.zip(&files) {
        write_output(&output, &dir.join(file))?;
    }
    Ok(names.into_iter().map(str::to_string).zip(files).collect())
}

fn write_output(output: &OutputTensor<'_>, path: &Path) -> Result<()> {
    let data = reef_base::AlignedBytes::copy_from(output.data);
    npy::write(path, output.dtype, output.shape, &data)
}

/// A file name of its own for each output. Names may hold characters that file names may not, and two names
/// may differ in those only: the later one of them gets a number. A name that is fit for a file keeps it.
fn file_names(names: &[&str]) -> Vec<String> {
    let unfit = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    let mut taken: BTreeSet<String> =
        names.iter().filter(|name| !name.contains(unfit)).map(|name| name.to_string()).collect();
    let mut fit = |name: &&str| {
        if !name.contains(unfit) {
            return format!("{name}.npy");
        }
        let base = name.replace(unfit, "_");
        let numbered = (2..).map(|number| format!("{base}_{number}"));
        let mut candidates = std::iter::once(base.clone()).chain(numbered);
        let free = candidates.find(|name| taken.insert(name.clone())).expect("numbers do not end");
        format!("{free}.npy")
    };
    names.iter().map(&mut fit).collect()
}

/// `latencies` are sorted; `files` says which output is in which file.
fn report(args: &RunArgs, latencies: Vec<u64>, files: Option<BTreeMap<String, String>>) {
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
        say!("{}", json!({ "model": args.model, "latency_ns": latency, "outputs": files }));
        return;
    }
    let ms = |nanos: u64| nanos as f64 / 1e6;
    if latencies.len() > 1 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_outputs_share_a_file() {
        assert_eq!(file_names(&["logits", "a/b"]), ["logits.npy", "a_b.npy"]);
        let clash = ["a/b", "a_b", "a:b", "a_b_2", "a\\b"];
        assert_eq!(file_names(&clash), ["a_b_3.npy", "a_b.npy", "a_b_4.npy", "a_b_2.npy", "a_b_5.npy"]);
    }
}
