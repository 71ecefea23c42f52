//! `model_warmup`: what is run once after a model was loaded, before it is served.

use reef_base::limits::MODEL_TENSORS_MAX;

use super::read::{once, room};
use super::tensor::{datatype, extent};
use super::{Notice, tensor};
use crate::names;
use crate::text::{Fault, Field};

/// Runs of one warm-up at most.
const RUNS_MAX: u32 = 10_000;

/// A request that warms a model up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warmup {
    /// What it is called.
    pub name: String,
    /// Rows, if the model has a batch.
    pub batch_size: u32,
    /// How often it runs; at least once.
    pub count: u32,
    /// Its inputs.
    pub inputs: Vec<WarmupInput>,
}

/// An input of a warm-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmupInput {
    /// The model's input.
    pub name: String,
    /// Its element type, in the protocol's words.
    pub datatype: &'static str,
    /// Its extents, without the batch.
    pub dims: Vec<i64>,
    /// Its elements.
    pub data: WarmupData,
}

/// Elements of an input of a warm-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WarmupData {
    /// All zero.
    Zero,
    /// Random.
    Random,
    /// The bytes of this file in the model's directory `warmup`.
    File(String),
}

impl Warmup {
    pub(super) fn read(field: &Field, notices: &mut Vec<Notice>) -> Result<Warmup, Fault> {
        let mut warmup = Warmup { count: 1, batch_size: 1, ..Warmup::default() };
        for part in &field.message()?.fields {
            match &*part.name {
                "name" => warmup.name = part.text()?.to_string(),
                "batch_size" => warmup.batch_size = part.whole(0, i32::MAX)? as u32,
                "count" => warmup.count = part.whole(0, RUNS_MAX)?.max(1),
                "inputs" => {
                    room(&warmup.inputs, MODEL_TENSORS_MAX, part)?;
                    let input = input(part)?;
                    if warmup.inputs.iter().any(|other| other.name == input.name) {
                        return Err(part.fault(format!("'{}' is there twice", input.name)));
                    }
                    warmup.inputs.push(input);
                }
                _ => {
                    let what = format!("{}: there is no such field; ignored", part.name);
                    notices.push(Notice { at: part.at, what });
                }
            }
        }
        Ok(warmup)
    }
}

fn input(field: &Field) -> Result<WarmupInput, Fault> {
    let (mut name, mut described) = (None, None);
    for part in &field.message()?.fields {
        match &*part.name {
            "key" => once(&mut name, part, part.text()?.to_string())?,
            "value" => once(&mut described, part, part)?,
            _ => return Err(part.fault("an input of a warm-up has a key and a value")),
        }
    }
    let name = name.ok_or_else(|| field.fault("one has no key"))?;
    let described = described.ok_or_else(|| field.fault(format!("'{name}' has no value")))?;
    let (mut element, mut dims, mut data) = (None, Vec::new(), None);
    for part in &described.message()?.fields {
        let of = |data, part: &Field| match part.boolean()? {
            true => Ok(data),
            false => Err(part.fault("say true, or another source of the data")),
        };
        match &*part.name {
            "data_type" => element = datatype(part)?,
            "dims" => extent(part, &mut dims)?,
            "zero_data" => once(&mut data, part, of(WarmupData::Zero, part)?)?,
            "random_data" => once(&mut data, part, of(WarmupData::Random, part)?)?,
            "input_data_file" => {
                let file = part.text()?;
                if !names::is_inner_path(file) {
                    let what = format!("'{}' is not a file in the directory warmup", file.escape_debug());
                    return Err(part.fault(what));
                }
                once(&mut data, part, WarmupData::File(file.into()))?;
            }
            _ => return Err(part.fault("an input of a warm-up has no such field")),
        }
    }
    if let Some(extent) = dims.iter().find(|&&extent| extent < 1) {
        return Err(
            described.fault(format!("'{name}' has an extent of {extent}: it needs one that is known"))
        );
    }
    let datatype = element.ok_or_else(|| described.fault(format!("'{name}' has no data_type")))?;
    let data = data.ok_or_else(|| {
        described.fault(format!("'{name}' has no data: zero_data, random_data or input_data_file"))
    })?;
    Ok(WarmupInput { name, datatype, dims, data })
}

impl WarmupInput {
    /// Triton's name of its type.
    pub fn triton_type(&self) -> &'static str {
        tensor::triton_name(self.datatype)
    }
}
