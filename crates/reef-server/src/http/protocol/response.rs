//! An inference answer: a JSON part, then the binary outputs without a copy.

use bytes::Bytes;
use reef_engine::DType;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::http::protocol::elements::{Flat, has_json_form};

/// One output of a finished request.
pub(crate) struct Output<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: Bytes,
    /// Whether it is sent after the JSON part.
    pub(crate) binary: bool,
}

/// What an answer says besides its outputs.
#[derive(Serialize)]
pub(crate) struct Head<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    pub(crate) model_name: &'a str,
    pub(crate) model_version: &'a str,
    pub(crate) parameters: Map<String, Value>,
}

/// A written answer.
pub(crate) struct Written {
    /// The JSON part's length, if binary tensors follow it.
    pub(crate) json_len: Option<usize>,
    /// The JSON part, then each binary output.
    pub(crate) chunks: Vec<Bytes>,
}

#[derive(Serialize)]
struct ResponseJson<'a> {
    #[serde(flatten)]
    head: &'a Head<'a>,
    outputs: Vec<OutputJson<'a>>,
}

#[derive(Serialize)]
struct OutputJson<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Flat<'a>>,
}

#[derive(Serialize)]
struct BinaryParameters {
    binary_data_size: usize,
}

/// Writes an answer. Fails, with a message for the client, on an output that has no JSON form and was not
/// asked for in binary.
pub(crate) fn write(head: &Head<'_>, outputs: Vec<Output<'_>>) -> Result<Written, String> {
    if let Some(output) = outputs.iter().find(|output| !output.binary && !has_json_form(output.dtype)) {
        let (name, datatype) = (output.name, output.dtype.protocol_name());
        return Err(format!("output '{name}': {datatype} has no JSON form, request it with binary_data"));
    }
    let json = ResponseJson { head, outputs: outputs.iter().map(output_json).collect() };
    let json = serde_json::to_vec(&json).map_err(|error| error.to_string())?;
    let binary: Vec<Bytes> =
        outputs.into_iter().filter(|output| output.binary).map(|output| output.bytes).collect();
    let json_len = (!binary.is_empty()).then_some(json.len());
    let mut chunks = vec![Bytes::from(json)];
    chunks.extend(binary);
    Ok(Written { json_len, chunks })
}

fn output_json<'a>(output: &'a Output<'a>) -> OutputJson<'a> {
    let size = output.bytes.len();
    OutputJson {
        name: output.name,
        datatype: output.dtype.protocol_name(),
        shape: output.shape,
        parameters: output.binary.then_some(BinaryParameters { binary_data_size: size }),
        data: (!output.binary).then_some(Flat { dtype: output.dtype, bytes: &output.bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(dtype: DType, binary: bool) -> Output<'static> {
        let bytes = Bytes::from_static(&[0, 0, 128, 63, 0, 0, 0, 64]);
        Output { name: "y", dtype, shape: &[2], bytes, binary }
    }

    fn head() -> Head<'static> {
        Head { id: Some("7"), model_name: "m", model_version: "1", parameters: Map::new() }
    }

    #[test]
    fn json_outputs_stand_in_the_json_part() {
        let written = write(&head(), vec![output(DType::F32, false)]).unwrap();
        assert_eq!(written.json_len, None);
        assert_eq!(
            written.chunks,
            [concat!(
                r#"{"id":"7","model_name":"m","model_version":"1","parameters":{},"#,
                r#""outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1.0,2.0]}]}"#
            )]
        );
    }

    #[test]
    fn binary_outputs_follow_in_order() {
        let written = write(
            &head(),
            vec![output(DType::F32, true), output(DType::F32, false), output(DType::F32, true)],
        )
        .unwrap();
        let json = std::str::from_utf8(&written.chunks[0]).unwrap();
        assert_eq!(written.json_len, Some(json.len()));
        assert!(json.contains(r#""shape":[2],"parameters":{"binary_data_size":8}}"#), "{json}");
        assert_eq!(written.chunks[1..].iter().map(Bytes::len).collect::<Vec<_>>(), [8, 8]);
    }

    #[test]
    fn half_precision_must_be_asked_for_in_binary() {
        let Err(error) = write(&head(), vec![output(DType::F16, false)]) else { panic!() };
        assert!(error.contains("output 'y': FP16 has no JSON form"));
        assert!(write(&head(), vec![output(DType::BF16, true)]).is_ok());
    }
}
