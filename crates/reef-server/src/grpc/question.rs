//! An inference request's message into the question that it asks. Does not know models, so nothing here is
//! compared with what a model takes.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use reef_engine::Nanos;

use crate::core::parameter::Value;
use crate::core::problem::Problem;
use crate::core::question::{self, Data, Input, Output, PARAMETERS, Question, Schedule};
use crate::core::regions::Shared;
use crate::grpc::contents;
use crate::grpc::pb::infer_parameter::ParameterChoice;
use crate::grpc::pb::model_infer_request::InferInputTensor;
use crate::grpc::pb::{InferParameter, ModelInferRequest};

/// What a message asks that arrived at `arrival`, of a client that waits until `limit` after it.
pub(crate) fn read(
    message: ModelInferRequest,
    arrival: Nanos,
    limit: Option<Duration>,
) -> Result<Question, Problem> {
    let get = |name: &str| get(&message.parameters, name);
    let mut schedule = Schedule::read(get)?;
    schedule.limit = limit.map(|limit| Nanos(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)));
    let mut outputs: Vec<Output> = Vec::with_capacity(message.outputs.len());
    for output in &message.outputs {
        question::want(&mut outputs, &output.name, |name| self::get(&output.parameters, name))?;
    }
    Ok(Question {
        version: Some(message.model_version).filter(|version| !version.is_empty()),
        inputs: inputs(message.inputs, message.raw_input_contents)?,
        model: message.model_name,
        arrival,
        schedule,
        outputs,
    })
}

fn inputs(tensors: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Vec<Input>, Problem> {
    let mut inputs = Vec::with_capacity(tensors.len());
    let (given, raw_count) = (!raw.is_empty(), raw.len());
    let mut raw = raw.into_iter();
    let mut carried = 0;
    for tensor in tensors {
        let shared =
            question::shared(|name| get(&tensor.parameters, name), &format!("input '{}'", tensor.name))?;
        let source = match shared {
            Some(shared) => Source::Shared(shared),
            None => {
                carried += 1;
                // How many there are too few is told below, once it is known how many are needed.
                raw.next().map_or(Source::Contents, Source::Raw)
            }
        };
        inputs.push((tensor, source));
    }
    if given && raw_count != carried {
        return Err(Problem::invalid(format!("{raw_count} raw_input_contents for {carried} inputs")));
    }
    inputs.into_iter().map(|(tensor, source)| input(tensor, source)).collect()
}

/// Where a message has an input's elements.
enum Source {
    Raw(Bytes),
    Contents,
    Shared(Shared),
}

fn input(tensor: InferInputTensor, source: Source) -> Result<Input, Problem> {
    let place = |problem: String| Problem::invalid(format!("input '{}': {problem}", tensor.name));
    question::check_rank(&tensor.name, tensor.shape.len())?;
    let dtype = question::dtype(&tensor.name, &tensor.datatype)?;
    let extent = |&extent: &i64| {
        usize::try_from(extent).map_err(|_| place(format!("shape {:?} has a negative extent", tensor.shape)))
    };
    let shape = tensor.shape.iter().map(extent).collect::<Result<Vec<usize>, _>>()?;
    let count = question::elements(&tensor.name, &shape)?;
    let typed = tensor.contents.as_ref().filter(|contents| !contents::is_empty(contents));
    let data = match (source, typed) {
        (Source::Raw(_), Some(_)) => return Err(place("both raw_input_contents and contents".into())),
        (Source::Shared(_), Some(_)) => {
            return Err(place("both shared_memory_region and contents".into()));
        }
        (Source::Shared(shared), None) => Data::Shared(shared),
        (Source::Raw(raw), None) => Data::Here(raw),
        (Source::Contents, Some(typed)) => {
            let bytes = dtype
                .map_or_else(|| contents::texts(typed, count), |dtype| contents::bytes(typed, dtype, count));
            Data::Here(bytes.map_err(place)?)
        }
        (Source::Contents, None) if count == 0 => Data::Here(Bytes::new()),
        (Source::Contents, None) => {
            return Err(place("neither raw_input_contents nor contents".into()));
        }
    };
    if let (Data::Here(bytes), Some(dtype)) = (&data, dtype)
        && bytes.len() != count * dtype.bytes()
    {
        let (len, wanted, datatype) = (bytes.len(), count * dtype.bytes(), dtype.protocol_name());
        return Err(place(format!("{len} bytes, shape {shape:?} of {datatype} needs {wanted}")));
    }
    Ok(Input { name: tensor.name, dtype, shape, data })
}

/// The value of a parameter that has a meaning.
fn get(parameters: &HashMap<String, InferParameter>, name: &str) -> Option<Value> {
    debug_assert!(PARAMETERS.contains(&name), "'{name}' is in no list of parameters");
    let value = parameters.get(name)?.parameter_choice.as_ref();
    Some(match value {
        None => Value::Other("null".into()),
        Some(ParameterChoice::BoolParam(flag)) => Value::Flag(*flag),
        Some(ParameterChoice::Int64Param(number)) => Value::Whole((*number).into()),
        Some(ParameterChoice::Uint64Param(number)) => Value::Whole((*number).into()),
        Some(ParameterChoice::DoubleParam(number)) => Value::Real(*number),
        Some(ParameterChoice::StringParam(text)) => Value::Text(text.clone()),
    })
}

/// Everything that is done to a message before the engine sees it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_bytes(bytes: &[u8]) -> Result<Question, Problem> {
    use prost::Message;
    crate::grpc::scan::check(bytes, &crate::grpc::scan::INFER)?;
    let message = ModelInferRequest::decode(bytes)
        .map_err(|error| Problem::invalid(format!("the message cannot be read: {error}")))?;
    read(message, Nanos(0), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::problem::Kind;
    use crate::grpc::pb::InferTensorContents;

    fn tensor(datatype: &str, shape: &[i64]) -> InferInputTensor {
        let (name, datatype) = ("x".into(), datatype.into());
        InferInputTensor { name, datatype, shape: shape.to_vec(), ..Default::default() }
    }

    fn asked(inputs: Vec<InferInputTensor>, raw: &[usize]) -> Result<Question, Problem> {
        let raw_input_contents = raw.iter().map(|&len| Bytes::from(vec![0; len])).collect();
        let message = ModelInferRequest { inputs, raw_input_contents, ..Default::default() };
        read(message, Nanos(0), None)
    }

    #[test]
    fn malformed_requests_are_named() {
        let contents = Some(InferTensorContents { fp32_contents: vec![0.0; 4], ..Default::default() });
        let typed = InferInputTensor { contents, ..tensor("FP32", &[2, 2]) };
        let good = || tensor("FP32", &[2, 2]);
        assert!(asked(vec![good()], &[16]).is_ok() && asked(vec![typed.clone()], &[]).is_ok());
        assert!(asked(vec![tensor("FP32", &[0, 2])], &[]).is_ok(), "an empty tensor needs no bytes");
        let table = [
            (vec![good()], vec![15], "15 bytes, shape [2, 2] of FP32 needs 16"),
            (vec![good()], vec![], "neither raw_input_contents nor contents"),
            (vec![good(), good()], vec![16], "1 raw_input_contents for 2 inputs"),
            (vec![good()], vec![16, 16], "2 raw_input_contents for 1 inputs"),
            (vec![], vec![16], "1 raw_input_contents for 0 inputs"),
            (vec![typed.clone()], vec![16], "both raw_input_contents and contents"),
            (vec![tensor("FP31", &[2, 2])], vec![16], "no datatype 'FP31'"),
            (vec![tensor("", &[2, 2])], vec![16], "no datatype ''"),
            (vec![tensor("FP32", &[-1, 2])], vec![16], "shape [-1, 2] has a negative extent"),
            (vec![tensor("FP32", &[i64::MIN])], vec![16], "negative extent"),
            (vec![tensor("FP32", &[i64::MAX, i64::MAX])], vec![16], "more than"),
            (vec![tensor("FP32", &[1 << 62, 1 << 62, 0])], vec![], "more than"),
            (vec![tensor("FP32", &[1; 9])], vec![4], "9 dimensions"),
        ];
        for (inputs, raw, message) in table {
            let error = asked(inputs, &raw).unwrap_err();
            assert_eq!(error.kind, Kind::Invalid);
            assert!(error.message.contains(message), "{message}: {}", error.message);
        }
        let texts = asked(vec![tensor("BYTES", &[1])], &[5]).unwrap();
        assert_eq!(texts.inputs[0].dtype, None);
    }

    #[test]
    fn damaged_messages_are_read_or_refused_as_the_clients_fault() {
        use prost::Message;
        let contents = Some(InferTensorContents { fp32_contents: vec![0.5; 4], ..Default::default() });
        let sample = ModelInferRequest {
            model_name: "m".into(),
            inputs: vec![InferInputTensor { contents, ..tensor("FP32", &[2, 2]) }],
            ..Default::default()
        };
        let sample = sample.encode_to_vec();
        let mut rng = reef_base::Rng::new(7);
        let (mut read, mut refused) = (0, 0);
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
            match read_bytes(&bytes) {
                Ok(_) => read += 1,
                Err(error) => {
                    refused += 1;
                    assert!([Kind::Invalid, Kind::Unsupported].contains(&error.kind), "{error:?}");
                }
            }
        }
        assert!(read > 1_000 && refused > 1_000, "{read} {refused}");
    }

    #[test]
    fn parameters_of_every_kind_are_understood() {
        use ParameterChoice::{BoolParam, DoubleParam, Int64Param, StringParam, Uint64Param};
        let ask = |name: &str, choice: ParameterChoice| {
            let parameter = InferParameter { parameter_choice: Some(choice) };
            let parameters = HashMap::from([(name.to_string(), parameter)]);
            read(ModelInferRequest { parameters, ..Default::default() }, Nanos(0), None)
        };
        for value in [Int64Param(2), Uint64Param(2), StringParam("2".into())] {
            assert_eq!(ask("priority", value.clone()).unwrap().schedule.priority, 2);
            assert_eq!(ask("timeout", value.clone()).unwrap().schedule.timeout_us, Some(2));
            assert_eq!(ask("deadline_us", value).unwrap().schedule.deadline_us, Some(2));
        }
        let urgent = ask("class", StringParam("real-time".into())).unwrap();
        assert_eq!(urgent.schedule.real_time, Some(true));
        for value in [BoolParam(true), DoubleParam(2.0), Int64Param(-2), StringParam("two".into())] {
            let error = ask("priority", value).unwrap_err();
            assert!(error.message.contains("'priority' of request"), "{}", error.message);
        }
        assert_eq!(ask("sequence_id", Int64Param(0)).map(|_| ()), Ok(()));
        assert_eq!(ask("sequence_start", BoolParam(true)).unwrap_err().kind, Kind::Unsupported);
        assert_eq!(ask("mine", DoubleParam(7.0)).map(|_| ()), Ok(()), "others are nobody's business");
    }
}
