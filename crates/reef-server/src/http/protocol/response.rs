//! An inference answer: a JSON part, then the binary outputs without a copy.

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::core::answer::{Data, Tensor};
use crate::http::protocol::elements::{Flat, has_json_form};

/// One output of a finished request.
pub(crate) enum Output<'a> {
    /// In the JSON part, or nowhere but in shared memory.
    Json(Tensor<'a>),
    /// After it: as a tensor of these bytes.
    Binary { name: &'a str, datatype: &'static str, shape: Vec<usize>, bytes: Bytes },
}

/// How many bytes behind the JSON are an output's.
#[derive(Serialize)]
struct OutputParameters {
    binary_data_size: usize,
}

impl<'a> Output<'a> {
    /// `tensor`, to be sent after the JSON part or in it.
    pub(crate) fn new(tensor: Tensor<'a>, binary: bool) -> Output<'a> {
        if !binary || matches!(tensor.data, Data::Shared { .. }) {
            return Output::Json(tensor);
        }
        let (name, datatype, shape) = (tensor.name, tensor.datatype(), tensor.shape.to_vec());
        Output::Binary { name, datatype, shape, bytes: tensor.into_bytes() }
    }
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
    parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<JsonData<'a>>,
}

/// The elements of a tensor as one flat array.
struct JsonData<'a>(&'a Data);

impl Serialize for JsonData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Data::Elements(dtype, bytes) => Flat { dtype: *dtype, bytes }.serialize(serializer),
            Data::Texts(texts) => {
                serializer.collect_seq(texts.iter().map(|text| String::from_utf8_lossy(text)))
            }
            Data::Shared { .. } => serializer.serialize_none(),
        }
    }
}

/// Writes an answer. Fails, with a message for the client, on an output that has no JSON form and was not
/// asked for in binary.
pub(crate) fn write(head: &Head<'_>, outputs: Vec<Output<'_>>) -> Result<Written, String> {
    for output in &outputs {
        if let Output::Json(Tensor { name, data: Data::Elements(dtype, _), .. }) = output
            && !has_json_form(*dtype)
        {
            let datatype = dtype.protocol_name();
            return Err(format!("output '{name}': {datatype} has no JSON form, request it with binary_data"));
        }
        if let Output::Json(Tensor { name, data: Data::Texts(texts), .. }) = output
            && texts.iter().any(|text| std::str::from_utf8(text).is_err())
        {
            return Err(format!("output '{name}': its bytes are not all UTF-8, request it with binary_data"));
        }
    }
    let json = ResponseJson { head, outputs: outputs.iter().map(output_json).collect() };
    let json = serde_json::to_vec(&json).map_err(|error| error.to_string())?;
    let binary = outputs.into_iter().filter_map(|output| match output {
        Output::Json(_) => None,
        Output::Binary { bytes, .. } => Some(bytes),
    });
    let binary: Vec<Bytes> = binary.collect();
    let json_len = (!binary.is_empty()).then_some(json.len());
    let mut chunks = vec![Bytes::from(json)];
    chunks.extend(binary);
    Ok(Written { json_len, chunks })
}

fn output_json<'a>(output: &'a Output<'a>) -> OutputJson<'a> {
    match output {
        Output::Json(tensor) => OutputJson {
            name: tensor.name,
            datatype: tensor.datatype(),
            shape: &tensor.shape,
            // Of one in shared memory the client knows where it is, and some take parameters for a size.
            parameters: None,
            data: Some(JsonData(&tensor.data)).filter(|JsonData(data)| !matches!(data, Data::Shared { .. })),
        },
        Output::Binary { name, datatype, shape, bytes } => OutputJson {
            name,
            datatype,
            shape,
            parameters: Some(OutputParameters { binary_data_size: bytes.len() }),
            data: None,
        },
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::borrow::Cow;

    use reef_engine::DType;

    use super::*;
    use crate::core::regions::Shared;

    fn output(dtype: DType, binary: bool) -> Output<'static> {
        let bytes = Bytes::from_static(&[0, 0, 128, 63, 0, 0, 0, 64]);
        let shape = Cow::Borrowed(&[2][..]);
        Output::new(Tensor { name: "y", shape, data: Data::Elements(dtype, bytes) }, binary)
    }

    #[test]
    fn texts_are_strings_or_their_lengths_and_bytes() {
        let texts = |binary| {
            let data = Data::Texts(vec!["1:0:\"a\"".into(), Vec::new()]);
            let tensor = Tensor { name: "y", shape: Cow::Borrowed(&[2]), data };
            write(&head(), vec![Output::new(tensor, binary)]).unwrap()
        };
        let json = texts(false).chunks.concat();
        let json: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["outputs"][0]["datatype"], "BYTES");
        assert_eq!(json["outputs"][0]["data"], serde_json::json!(["1:0:\"a\"", ""]));
        let binary = texts(true);
        assert_eq!(binary.chunks[1], b"\x07\0\0\x001:0:\"a\"\0\0\0\0"[..]);
    }

    fn head() -> Head<'static> {
        Head { id: Some("7"), model_name: "m", model_version: "1", parameters: Map::new() }
    }

    #[test]
    fn outputs_in_shared_memory_are_named_without_their_data() {
        let region = Shared { region: "r".into(), offset: 4, byte_size: 8 };
        let data = Data::Shared { datatype: "FP32", region };
        for binary in [false, true] {
            let tensor = Tensor { name: "y", shape: Cow::Borrowed(&[2]), data: data.clone() };
            let written = write(&head(), vec![Output::new(tensor, binary)]).unwrap();
            assert_eq!((written.json_len, written.chunks.len()), (None, 1));
            let json: Value = serde_json::from_slice(&written.chunks[0]).unwrap();
            let output = &json["outputs"][0];
            assert_eq!(
                (output.get("parameters"), &output["datatype"], output.get("data")),
                (None, &"FP32".into(), None)
            );
        }
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
