//! An inference answer: a JSON part, then the binary outputs without a copy.

use bytes::Bytes;
use reef_engine::DType;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::core::regions::Shared;
use crate::http::protocol::elements::{Flat, has_json_form};

/// One output of a finished request.
pub(crate) struct Output<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: Bytes,
    /// How it reaches the client.
    pub(crate) form: Form<'a>,
}

/// How an output reaches the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form<'a> {
    /// In the JSON part.
    Json,
    /// After the JSON part.
    Binary,
    /// It lies in a region of shared memory already.
    Shared(&'a Shared),
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
    parameters: Option<OutputParameters<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Flat<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum OutputParameters<'a> {
    Binary { binary_data_size: usize },
    Shared { shared_memory_region: &'a str, shared_memory_offset: u64, shared_memory_byte_size: usize },
}

/// Writes an answer. Fails, with a message for the client, on an output that has no JSON form and was not
/// asked for in binary.
pub(crate) fn write(head: &Head<'_>, outputs: Vec<Output<'_>>) -> Result<Written, String> {
    if let Some(output) =
        outputs.iter().find(|output| output.form == Form::Json && !has_json_form(output.dtype))
    {
        let (name, datatype) = (output.name, output.dtype.protocol_name());
        return Err(format!("output '{name}': {datatype} has no JSON form, request it with binary_data"));
    }
    let json = ResponseJson { head, outputs: outputs.iter().map(output_json).collect() };
    let json = serde_json::to_vec(&json).map_err(|error| error.to_string())?;
    let binary: Vec<Bytes> =
        outputs.into_iter().filter(|output| output.form == Form::Binary).map(|output| output.bytes).collect();
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
        parameters: match output.form {
            Form::Json => None,
            Form::Binary => Some(OutputParameters::Binary { binary_data_size: size }),
            Form::Shared(shared) => Some(OutputParameters::Shared {
                shared_memory_region: &shared.region,
                shared_memory_offset: shared.offset,
                shared_memory_byte_size: size,
            }),
        },
        data: (output.form == Form::Json).then_some(Flat { dtype: output.dtype, bytes: &output.bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(dtype: DType, form: Form<'_>) -> Output<'_> {
        let bytes = Bytes::from_static(&[0, 0, 128, 63, 0, 0, 0, 64]);
        Output { name: "y", dtype, shape: &[2], bytes, form }
    }

    fn head() -> Head<'static> {
        Head { id: Some("7"), model_name: "m", model_version: "1", parameters: Map::new() }
    }

    #[test]
    fn json_outputs_stand_in_the_json_part() {
        let written = write(&head(), vec![output(DType::F32, Form::Json)]).unwrap();
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
        let [binary, json] = [Form::Binary, Form::Json].map(|form| move || output(DType::F32, form));
        let written = write(&head(), vec![binary(), json(), binary()]).unwrap();
        let json = std::str::from_utf8(&written.chunks[0]).unwrap();
        assert_eq!(written.json_len, Some(json.len()));
        assert!(json.contains(r#""shape":[2],"parameters":{"binary_data_size":8}}"#), "{json}");
        assert_eq!(written.chunks[1..].iter().map(Bytes::len).collect::<Vec<_>>(), [8, 8]);
    }

    #[test]
    fn outputs_in_shared_memory_are_named_and_not_sent() {
        let shared = Shared { region: "r".into(), offset: 16, byte_size: 64 };
        let written = write(&head(), vec![output(DType::F16, Form::Shared(&shared))]).unwrap();
        let json = std::str::from_utf8(&written.chunks[0]).unwrap();
        let expected = concat!(
            r#""shape":[2],"parameters":{"shared_memory_region":"r","shared_memory_offset":16,"#,
            r#""shared_memory_byte_size":8}}]}"#
        );
        assert!(json.ends_with(expected), "{json}");
        assert_eq!((written.json_len, written.chunks.len()), (None, 1));
    }

    #[test]
    fn half_precision_must_be_asked_for_in_binary() {
        let Err(error) = write(&head(), vec![output(DType::F16, Form::Json)]) else { panic!() };
        assert!(error.contains("output 'y': FP16 has no JSON form"));
        assert!(write(&head(), vec![output(DType::BF16, Form::Binary)]).is_ok());
    }
}
