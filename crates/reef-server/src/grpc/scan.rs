//! Looks through a message before it is built in memory.
//!
//! An entry of a list may have no byte of its own on the wire and many in memory, so that a message within
//! its limit could take a hundred times as much. What may be how often is a table here; nothing is allocated.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use reef_base::limits::MODEL_TENSORS_MAX;

use crate::core::problem::Problem;

/// Parameters of a request, a tensor or a requested output at most.
const PARAMETERS_MAX: usize = 256;

/// Dimensions that are read at all; how many are allowed is said later, with the input's name.
const DIMENSIONS_MAX: usize = 64;

/// Bytes of the longest integer on the wire.
const VARINT_LEN_MAX: usize = 10;

/// Texts in an input; there are no models that take any.
const TEXTS_MAX: usize = 1024;

/// Files and settings of a model to load.
const FILES_MAX: usize = 4096;

/// How often a field may be in its message, and what is in it.
#[derive(Debug)]
pub(crate) struct Rule {
    field: u32,
    what: &'static str,
    count_max: usize,
    /// Of one occurrence: a packed list.
    bytes_max: usize,
    inside: &'static [Rule],
}

const fn rule(field: u32, what: &'static str, count_max: usize) -> Rule {
    Rule { field, what, count_max, bytes_max: usize::MAX, inside: &[] }
}

const fn message(field: u32, what: &'static str, count_max: usize, inside: &'static [Rule]) -> Rule {
    Rule { field, what, count_max, bytes_max: usize::MAX, inside }
}

static CONTENTS: [Rule; 1] = [rule(8, "bytes_contents", TEXTS_MAX)];

static INPUT: [Rule; 3] = [
    Rule {
        field: 3,
        what: "dimensions",
        count_max: DIMENSIONS_MAX,
        bytes_max: DIMENSIONS_MAX * VARINT_LEN_MAX,
        inside: &[],
    },
    rule(4, "parameters of an input", PARAMETERS_MAX),
    message(5, "contents of an input", 1, &CONTENTS),
];

static OUTPUT: [Rule; 1] = [rule(2, "parameters of an output", PARAMETERS_MAX)];

/// Of `ModelInferRequest`.
pub(crate) static INFER: [Rule; 4] = [
    rule(4, "parameters", PARAMETERS_MAX),
    message(5, "inputs", MODEL_TENSORS_MAX, &INPUT),
    message(6, "outputs", MODEL_TENSORS_MAX, &OUTPUT),
    rule(7, "raw_input_contents", MODEL_TENSORS_MAX),
];

/// Of `RepositoryModelLoadRequest`.
pub(crate) static LOAD: [Rule; 1] = [rule(3, "parameters", FILES_MAX)];

/// An error for a message that breaks `rules`, or is none.
pub(crate) fn check(mut bytes: &[u8], rules: &'static [Rule]) -> Result<(), Problem> {
    let mut counts = [0usize; 4];
    let broken = |error: prost::DecodeError| Problem::invalid(format!("the message cannot be read: {error}"));
    while !bytes.is_empty() {
        let (field, wire) = decode_key(&mut bytes).map_err(broken)?;
        let known = rules.iter().position(|rule| rule.field == field);
        let Some(index) = known else {
            skip_field(wire, field, &mut bytes, DecodeContext::default()).map_err(broken)?;
            continue;
        };
        let rule = &rules[index];
        counts[index] += 1;
        if counts[index] > rule.count_max {
            let (what, count_max) = (rule.what, rule.count_max);
            return Err(Problem::invalid(format!("more than {count_max} {what}")));
        }
        if wire != WireType::LengthDelimited {
            skip_field(wire, field, &mut bytes, DecodeContext::default()).map_err(broken)?;
            continue;
        }
        let len = decode_varint(&mut bytes).map_err(broken)?;
        let inner = usize::try_from(len).ok().and_then(|len| bytes.split_at_checked(len));
        let Some((inner, rest)) = inner else {
            return Err(Problem::invalid("the message cannot be read: it ends inside a field"));
        };
        if inner.len() > rule.bytes_max {
            return Err(Problem::invalid(format!("more than {DIMENSIONS_MAX} {}", rule.what)));
        }
        // What has no rules need not be a message.
        if !rule.inside.is_empty() {
            check(inner, rule.inside)?;
        }
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::grpc::pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
    use crate::grpc::pb::{InferParameter, InferTensorContents, ModelInferRequest};

    fn error(request: &ModelInferRequest) -> String {
        check(&request.encode_to_vec(), &INFER).unwrap_err().message
    }

    #[test]
    fn lists_that_cost_nothing_on_the_wire_are_bounded() {
        let many = MODEL_TENSORS_MAX + 1;
        let inputs = vec![InferInputTensor::default(); many];
        let mut request = ModelInferRequest { inputs, ..Default::default() };
        assert!(error(&request).contains("more than 1024 inputs"));
        request.inputs.pop();
        assert_eq!(check(&request.encode_to_vec(), &INFER), Ok(()));
        request.outputs = vec![InferRequestedOutputTensor::default(); many];
        assert!(error(&request).contains("more than 1024 outputs"));
        let raw_input_contents = vec![bytes::Bytes::new(); many];
        assert!(error(&ModelInferRequest { raw_input_contents, ..Default::default() }).contains("raw_input"));
        let parameters = (0..=PARAMETERS_MAX).map(|n| (n.to_string(), InferParameter::default())).collect();
        assert!(error(&ModelInferRequest { parameters, ..Default::default() }).contains("parameters"));
        let long = InferInputTensor { shape: vec![1; 1 << 20], ..Default::default() };
        assert!(
            error(&ModelInferRequest { inputs: vec![long], ..Default::default() }).contains("dimensions")
        );
        let bytes_contents = vec![bytes::Bytes::new(); TEXTS_MAX + 1];
        let contents = Some(InferTensorContents { bytes_contents, ..Default::default() });
        let texts = InferInputTensor { contents, ..Default::default() };
        assert!(
            error(&ModelInferRequest { inputs: vec![texts], ..Default::default() }).contains("bytes_cont")
        );
        // One number after the other, without packing.
        let unpacked = [[0x18, 1]; DIMENSIONS_MAX + 1].concat();
        let message = [&[0x2A, 0x82, 1][..], &unpacked].concat();
        assert!(check(&message, &INFER).unwrap_err().message.contains("more than 64 dimensions"));
    }

    #[test]
    fn what_passes_can_be_built_and_what_is_damaged_is_refused() {
        let mut rng = reef_base::Rng::new(7);
        let shape = vec![2, 3];
        let input = InferInputTensor { name: "x".into(), shape, ..Default::default() };
        let sample = ModelInferRequest {
            model_name: "m".into(),
            inputs: vec![input.clone(), input],
            raw_input_contents: vec![vec![7; 24].into()],
            ..Default::default()
        }
        .encode_to_vec();
        let (mut passed, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut bytes = sample.clone();
            for _ in 0..=rng.below(3) {
                let at = rng.below(bytes.len() as u64) as usize;
                match rng.below(3) {
                    0 => bytes[at] = rng.next_u64() as u8,
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, rng.next_u64() as u8),
                }
            }
            match check(&bytes, &INFER) {
                Ok(()) => passed += 1,
                Err(_) => refused += 1,
            }
            // Ends of groups that nobody began are refused here alone.
            let stray = |error: Problem| error.message.contains("unexpected end group tag");
            if let Ok(request) = ModelInferRequest::decode(&*bytes) {
                assert!(
                    check(&bytes, &INFER).is_ok() || check(&bytes, &INFER).is_err_and(stray),
                    "{request:?}"
                );
            }
        }
        assert!(passed > 1_000 && refused > 1_000, "{passed} {refused}");
    }
}
