//! Inputs and outputs of a configuration.

use super::Notice;
use super::read::once;
use crate::names;
use crate::text::{At, Fault, Field};

/// Extents of a tensor at most.
const RANK_MAX: usize = 64;

/// Element types: Triton's names and the protocol's.
const TYPES: [(&str, &str); 14] = [
    ("TYPE_BOOL", "BOOL"),
    ("TYPE_UINT8", "UINT8"),
    ("TYPE_UINT16", "UINT16"),
    ("TYPE_UINT32", "UINT32"),
    ("TYPE_UINT64", "UINT64"),
    ("TYPE_INT8", "INT8"),
    ("TYPE_INT16", "INT16"),
    ("TYPE_INT32", "INT32"),
    ("TYPE_INT64", "INT64"),
    ("TYPE_FP16", "FP16"),
    ("TYPE_FP32", "FP32"),
    ("TYPE_FP64", "FP64"),
    ("TYPE_STRING", "BYTES"),
    ("TYPE_BF16", "BF16"),
];

/// An input or output as a configuration describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorConfig {
    /// Its name.
    pub name: String,
    /// Its element type, in the protocol's words.
    pub datatype: Option<&'static str>,
    /// Its extents, without the axis of the batch; -1 for any.
    pub dims: Vec<i64>,
    /// What the model has instead of `dims`.
    pub reshape: Option<Vec<i64>>,
    /// A layout that it names.
    pub format: Option<String>,
    /// Whether a request may leave it out.
    pub optional: bool,
    /// A file of labels, one per line, for the classes of an output.
    pub label_file: Option<String>,
    /// Where it is described.
    pub at: Option<At>,
}

/// Triton's name of an element type that the protocol names.
pub(super) fn triton_name(datatype: &str) -> &'static str {
    TYPES.iter().find(|(_, protocol)| *protocol == datatype).map_or("TYPE_INVALID", |(name, _)| name)
}

/// An element type by Triton's name.
pub(super) fn datatype(field: &Field) -> Result<Option<&'static str>, Fault> {
    let word = field.word()?;
    if word == "TYPE_INVALID" {
        return Ok(None);
    }
    let known = TYPES.iter().find(|(name, _)| *name == word);
    known.map(|(_, datatype)| Some(*datatype)).ok_or_else(|| {
        field.fault(format!("there is no type {word}; there are TYPE_FP32, TYPE_INT64 and so on"))
    })
}

/// One more extent.
pub(super) fn extent(field: &Field, dims: &mut Vec<i64>) -> Result<(), Fault> {
    let extent = field.whole(-1, i64::MAX)?;
    if extent == 0 {
        return Err(field.fault("an extent is -1 or at least 1"));
    }
    if dims.len() >= RANK_MAX {
        return Err(field.fault(format!("more than {RANK_MAX} extents")));
    }
    dims.push(extent);
    Ok(())
}

impl TensorConfig {
    pub(super) fn read(field: &Field, input: bool, notices: &mut Vec<Notice>) -> Result<Self, Fault> {
        let mut tensor = TensorConfig { at: field.at, ..TensorConfig::default() };
        let (mut name, mut datatype_said) = (None, None);
        for part in &field.message()?.fields {
            let mut notice = |what: &str| {
                notices.push(Notice { at: part.at, what: format!("{}: {what}", part.name) });
            };
            match &*part.name {
                "name" => once(&mut name, part, part.text()?.to_string())?,
                "data_type" => once(&mut datatype_said, part, datatype(part)?)?,
                "dims" => extent(part, &mut tensor.dims)?,
                "reshape" => once(&mut tensor.reshape, part, reshape(part)?)?,
                "format" if input => {
                    once(&mut tensor.format, part, format(part)?)?;
                    if tensor.format.as_deref() != Some("FORMAT_NONE") {
                        notice("ignored: a tensor is as its model has it");
                    }
                }
                "optional" if input => {
                    tensor.optional = part.boolean()?;
                    if tensor.optional {
                        notice("ignored: a request without it is refused");
                    }
                }
                "label_filename" if !input => {
                    let file = part.text()?;
                    if !file.is_empty() && !names::is_inner_path(file) {
                        let what =
                            format!("'{}' is not a file in the model's directory", file.escape_debug());
                        return Err(part.fault(what));
                    }
                    once(&mut tensor.label_file, part, file.to_string())?;
                }
                "is_shape_tensor" | "is_non_linear_format_io" => {
                    if part.boolean()? {
                        notice("ignored: ONNX models have no such tensors");
                    }
                }
                "allow_ragged_batch" if input => {
                    if part.boolean()? {
                        return Err(part.fault("ragged batches are not served"));
                    }
                }
                _ => notice("there is no such field; ignored"),
            }
        }
        tensor.name =
            name.filter(|name: &String| !name.is_empty()).ok_or_else(|| field.fault("it has no name"))?;
        tensor.datatype = datatype_said.flatten();
        tensor.label_file = tensor.label_file.filter(|file| !file.is_empty());
        Ok(tensor)
    }
}

fn format(field: &Field) -> Result<String, Fault> {
    match field.word()? {
        known @ ("FORMAT_NONE" | "FORMAT_NHWC" | "FORMAT_NCHW") => Ok(known.into()),
        other => Err(field.fault(format!("there is no format {other}"))),
    }
}

fn reshape(field: &Field) -> Result<Vec<i64>, Fault> {
    let mut shape = Vec::new();
    for part in &field.message()?.fields {
        match &*part.name {
            "shape" => extent(part, &mut shape)?,
            _ => return Err(part.fault("a reshape has a shape")),
        }
    }
    Ok(shape)
}
