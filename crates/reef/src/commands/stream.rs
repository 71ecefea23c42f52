//! `reef run` over a stream: some inputs are others in each run, and outputs of one run are inputs of the
//! next.

use anyhow::{Result, bail};
use reef_base::{AlignedBytes, MonotonicClock};
use reef_engine::{Engine, InferResponse, ModelInfo};
use reef_graph::{DType, Shape};

use crate::inputs::{NamedTensor, request};
use crate::npy;

/// Which inputs differ from run to run, and where they come from.
#[derive(Debug, Default)]
pub struct Stream {
    /// Inputs whose first axis counts the runs, by their place in the model.
    each: Vec<(usize, NamedTensor)>,
    /// An output's place, and that of the input which it is in the next run.
    carry: Vec<(usize, usize)>,
    runs: Option<usize>,
}

/// What an output was.
#[derive(Debug)]
pub struct Output {
    /// As the model calls it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Its shape, with an axis of runs before it if inputs have one.
    pub shape: Shape,
    /// Dense row-major bytes.
    pub data: Vec<u8>,
}

impl Stream {
    /// Checks the names `each`, whose tensors become those of the first run, and the pairs `carry` of an
    /// output and an input.
    pub fn new(
        each: &[&str],
        carry: &[(String, String)],
        info: &ModelInfo,
        tensors: &mut [NamedTensor],
    ) -> Result<Stream> {
        if info.inputs.iter().chain(&info.outputs).any(|tensor| tensor.texts) {
            bail!("--each and --carry are for models of numbers, and this one has texts");
        }
        let mut stream = Stream::default();
        for (output, input) in carry {
            let Some(from) = info.outputs.iter().position(|known| known.name == *output) else {
                bail!("--carry: the model has no output '{output}'");
            };
            let Some(to) = info.inputs.iter().position(|known| known.name == *input) else {
                bail!("--carry: the model has no input '{input}'");
            };
            if stream.carry.iter().any(|&(_, other)| other == to) || each.contains(&input.as_str()) {
                bail!("input '{input}' is given twice for each run");
            }
            let dtypes = (info.outputs[from].dtype, info.inputs[to].dtype);
            if dtypes.0 != dtypes.1 {
                bail!("--carry: output '{output}' is {}, input '{input}' {}", dtypes.0, dtypes.1);
            }
            stream.carry.push((from, to));
        }
        for (index, tensor) in tensors.iter_mut().enumerate() {
            if !each.contains(&tensor.name.as_str()) {
                continue;
            }
            let runs = tensor.shape.first().copied().unwrap_or(0);
            if runs == 0 {
                bail!("--each: input '{}' is {}: its first axis counts the runs", tensor.name, tensor.shape);
            }
            if let Some(other) = stream.runs.filter(|&other| other != runs) {
                bail!("--each: input '{}' is for {runs} runs, another one for {other}", tensor.name);
            }
            stream.runs = Some(runs);
            let first = NamedTensor { shape: tensor.shape[1..].iter().copied().collect(), ..tensor.clone() };
            let all = std::mem::replace(tensor, first);
            tensor.data = part(&all, 0);
            stream.each.push((index, all));
        }
        Ok(stream)
    }

    /// Runs the model `repeat` times, or as often as inputs with an axis of runs say; gives latencies in
    /// nanoseconds, in order, and the outputs: of all runs if inputs have such an axis, otherwise of the last
    /// one.
    pub fn run(
        &self,
        engine: &Engine,
        model: &str,
        mut tensors: Vec<NamedTensor>,
        repeat: u64,
    ) -> Result<(Vec<u64>, Vec<Output>)> {
        // Compiled before the first run is measured; nothing is carried over from here.
        engine.infer(&request(model, &tensors))?;
        let runs = self.runs.map_or(repeat, |runs| runs as u64);
        let (mut latencies, mut outputs) = (vec![], vec![]);
        for run in 0..runs {
            for (index, all) in &self.each {
                tensors[*index].data = part(all, run as usize);
            }
            let begin = MonotonicClock::read();
            let response = engine.infer(&request(model, &tensors))?;
            latencies.push(MonotonicClock::read().since(begin).0);
            self.collect(&mut outputs, &response, run)?;
            for &(from, to) in &self.carry {
                let output = response.output_at(from);
                tensors[to].shape = output.shape.clone();
                tensors[to].data = AlignedBytes::copy_from(output.data);
            }
        }
        Ok((latencies, outputs))
    }

    fn collect(&self, outputs: &mut Vec<Output>, response: &InferResponse, run: u64) -> Result<()> {
        if self.runs.is_none() || run == 0 {
            let axis = self.runs.into_iter();
            let output = |output: reef_engine::OutputTensor<'_>| Output {
                name: output.name.to_string(),
                dtype: output.dtype,
                shape: axis.clone().chain(output.shape.iter().copied()).collect(),
                data: output.data.to_vec(),
            };
            *outputs = response.outputs().map(output).collect();
            let too_large = |output: &&Output| npy::tensor_bytes(&output.shape, output.dtype).is_none();
            return match outputs.iter().find(too_large) {
                Some(output) => bail!("output '{}' of all runs is too large: {}", output.name, output.shape),
                None => Ok(()),
            };
        }
        for (all, output) in outputs.iter_mut().zip(response.outputs()) {
            if all.shape[1..] != output.shape[..] {
                let (name, shape) = (&all.name, Shape::from(all.shape[1..].to_vec()));
                bail!("output '{name}' is {shape} at first and {} in run {run}: no stack", output.shape);
            }
            all.data.extend_from_slice(output.data);
        }
        Ok(())
    }
}

/// What is for run `run` of a tensor for all runs.
fn part(all: &NamedTensor, run: usize) -> AlignedBytes {
    let bytes = all.data.len() / all.shape[0];
    AlignedBytes::copy_from(&all.data.as_slice()[run * bytes..][..bytes])
}
