//! What is run of a model before anybody finds it, as best-effort work: its warm-ups, and where its inputs
//! have known shapes one request of zeros.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use reef_base::limits::TENSOR_ELEMENTS_MAX;
use reef_engine::{ClassRequest, DType, InferError, ModelInfo, Nanos, Prepared, SessionOptions, Shape};
use reef_repository::config::{ModelConfig, Warmup, WarmupData, WarmupInput};
use reef_repository::{Declared, Found};

/// Elements of an input that nobody asked to be run.
const ZEROS_MAX: usize = 1 << 26;

/// How long it may take: some models have loops that do not end on zeros.
const ZEROS_TIME_MAX: Nanos = Nanos::from_millis(10_000);

/// Inputs of one run: name, shape, elements.
type Inputs = Vec<(String, Shape, Vec<u8>)>;

/// Inputs or outputs in the words of configurations.
pub fn declared(tensors: &[reef_engine::TensorInfo]) -> Vec<Declared> {
    let declared = |info: &reef_engine::TensorInfo| Declared {
        name: info.name.clone(),
        datatype: info.datatype().into(),
        dims: info.dims.clone(),
    };
    tensors.iter().map(declared).collect()
}

/// Runs what the configuration asks for; a fault in that is one of the model. What else is run to have been
/// run is nobody's wish, and its faults are nobody's.
pub fn warm(prepared: &Prepared, found: &Found) -> Result<()> {
    let info = prepared.info();
    let config = found.config.clone().unwrap_or_default();
    for warmup in &config.warmups {
        let name = if warmup.name.is_empty() { "model_warmup" } else { &warmup.name };
        let run = || -> Result<()> {
            let inputs = inputs(warmup, &config, &info, found.dir.as_deref())?;
            run(prepared, &inputs, warmup.count, None)
        };
        run().or_else(unserved).with_context(|| format!("model_warmup '{name}'"))?;
    }
    for inputs in of_zeros(&config, &info) {
        if let Err(error) = run(prepared, &inputs, 1, Some(ZEROS_TIME_MAX)) {
            tracing::debug!("{}: a request of zeros: {}", info.key, crate::message(&error));
        }
    }
    Ok(())
}

/// The scheme in force runs no best-effort work, and nothing else is to be run.
fn unserved(error: anyhow::Error) -> Result<()> {
    match error.downcast_ref::<InferError>() {
        Some(InferError::NotServed { .. }) => Ok(()),
        _ => Err(error),
    }
}

fn run(prepared: &Prepared, inputs: &Inputs, count: u32, time_max: Option<Nanos>) -> Result<()> {
    let options = SessionOptions {
        shapes: inputs.iter().map(|(name, shape, _)| (&**name, shape.clone())).collect(),
        values: inputs.iter().map(|(name, _, data)| (&**name, &**data)).collect(),
        class: Some(ClassRequest::BestEffort),
        deadline: time_max,
        ..SessionOptions::default()
    };
    let mut session = prepared.session(&options)?;
    for _ in 0..count {
        let names: Vec<String> = session.inputs().iter().map(|spec| spec.name.clone()).collect();
        for (index, name) in names.iter().enumerate() {
            let data = inputs.iter().find(|(given, ..)| given == name).map(|(.., data)| data);
            let data = data.with_context(|| format!("input '{name}' is missing"))?;
            let place = session.input_mut(index);
            ensure!(
                place.len() == data.len(),
                "input '{name}' has {} bytes, not {}",
                place.len(),
                data.len()
            );
            place.copy_from_slice(data);
        }
        session.run()?;
    }
    Ok(())
}

fn inputs(warmup: &Warmup, config: &ModelConfig, info: &ModelInfo, dir: Option<&Path>) -> Result<Inputs> {
    if let Some(missing) = info.inputs.iter().find(|info| warmup.inputs.iter().all(|it| it.name != info.name))
    {
        bail!("input '{}' is missing", missing.name);
    }
    let each = warmup.inputs.iter().map(|input| {
        let one = one_input(input, warmup, config, info, dir);
        one.with_context(|| format!("input '{}'", input.name))
    });
    each.collect()
}

fn one_input(
    input: &WarmupInput,
    warmup: &Warmup,
    config: &ModelConfig,
    info: &ModelInfo,
    dir: Option<&Path>,
) -> Result<(String, Shape, Vec<u8>)> {
    let known = info.inputs.iter().find(|known| known.name == input.name);
    let known = known.context("the model has none of that name")?;
    let datatype = known.datatype();
    ensure!(datatype == input.datatype, "data_type is {}, the model has {datatype}", input.datatype);
    let rows = (config.max_batch_size > 0).then_some(warmup.batch_size.max(1) as usize);
    let dims = input.dims.iter().map(|&extent| usize::try_from(extent).unwrap_or(usize::MAX));
    let extents: Vec<usize> = rows.into_iter().chain(dims).collect();
    let elements = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    let elements = elements.filter(|&count| count <= TENSOR_ELEMENTS_MAX).context("it is too large")?;
    let shape = Shape::from(extents);
    ensure!(known.takes(&shape), "its shape is {shape}, the model takes {:?}", known.dims);
    let bytes = elements * known.dtype.bytes();
    let data = match &input.data {
        WarmupData::Zero => vec![0; bytes],
        WarmupData::Random => random(known.dtype, elements),
        WarmupData::File(_) if known.texts => bail!("texts are not read from a file here"),
        WarmupData::File(file) => {
            let path = dir.context("there is no directory")?.join("warmup").join(file);
            let len = std::fs::metadata(&path).with_context(|| path.display().to_string())?.len();
            ensure!(len == bytes as u64, "{} has {len} bytes, not {bytes}", path.display());
            std::fs::read(&path).with_context(|| path.display().to_string())?
        }
    };
    Ok((input.name.clone(), shape, data))
}

/// Elements from 0 to 1, or small integers; the same each time.
fn random(dtype: DType, elements: usize) -> Vec<u8> {
    let mut rng = reef_base::Rng::new(0);
    let mut data = Vec::with_capacity(elements * dtype.bytes());
    for _ in 0..elements {
        let value = rng.next_u64() >> 40;
        let fraction = value as f32 / (1u32 << 24) as f32;
        match dtype {
            DType::F32 => data.extend(fraction.to_le_bytes()),
            DType::F64 => data.extend(f64::from(fraction).to_le_bytes()),
            DType::F16 => data.extend(half::f16::from_f32(fraction).to_le_bytes()),
            DType::BF16 => data.extend(half::bf16::from_f32(fraction).to_le_bytes()),
            DType::Bool => data.push((value & 1) as u8),
            _ => data.extend(&(value & 0x7f).to_le_bytes()[..dtype.bytes()]),
        }
    }
    data
}

/// What can be asked for without knowing more. Of a model whose inputs' values select a plan nothing: zeros
/// would have one made that nobody asks for.
fn of_zeros(config: &ModelConfig, info: &ModelInfo) -> Vec<Inputs> {
    if !info.settings.values.is_empty() {
        return Vec::new();
    }
    let fixed: Option<Vec<(String, Shape)>> =
        info.inputs.iter().map(|input| Some((input.name.clone(), input.fixed_shape()?))).collect();
    let sets: Vec<Vec<(String, Shape)>> = match fixed {
        Some(_) if info.plans.is_empty() => Vec::new(),
        Some(fixed) => vec![fixed],
        None => {
            let sets = config.shapes(&declared(&info.inputs)).into_iter();
            sets.map(|set| set.into_iter().map(|(name, shape)| (name, Shape::from(shape))).collect())
                .collect()
        }
    };
    let zeros = |(name, shape): (String, Shape)| {
        let dtype =
            info.inputs.iter().find(|input| input.name == name).map_or(0, |input| input.dtype.bytes());
        let bytes = shape.elements() * dtype;
        (name, shape, vec![0; bytes])
    };
    let small = |set: &Vec<(String, Shape)>| set.iter().all(|(_, shape)| shape.elements() <= ZEROS_MAX);
    sets.into_iter().filter(small).map(|set| set.into_iter().map(zeros).collect()).collect()
}
