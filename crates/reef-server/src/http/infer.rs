//! One inference: from the body to the engine and back to an answer.
//!
//! Invariant: nothing here outlives the connection's interest. Dropping [`infer`]'s future, which is what
//! hyper does when the client goes away, drops the engine's future, and that cancels the request.

use std::sync::Arc;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{EXPECT, HeaderName, HeaderValue};
use reef_engine::{Class, DType, InferFuture, InferResponse, Nanos};
use serde_json::{Map, Value, json};

use crate::core::access::{Client, Permit};
use crate::core::answer::{self, Parameter};
use crate::core::budget::Share;
use crate::core::note::{Known as Noted, Ran};
use crate::core::pace::LARGE_BYTES_MIN;
use crate::core::problem::Problem;
use crate::core::question::{self, Data, Input, Question, Schedule};
use crate::core::requests::shown;
use crate::core::state::State;
use crate::http::encoding::{self, Coding};
use crate::http::error::ApiError;
use crate::http::protocol::body::Body;
use crate::http::protocol::elements;
use crate::http::protocol::json::Object;
use crate::http::protocol::predict;
use crate::http::protocol::request::{self, InputData, InputJson, Parts, RequestJson, Wanted};
use crate::http::protocol::response::{self, Head, Output};
use crate::http::receive::{Allowance, receive, refuse};
use crate::http::reply::{Reply, reply};
use crate::http::route::ModelPath;
use crate::net::connection::Busy;

/// Where the JSON part of a body ends; tensors follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Binary outputs that add up to less are copied behind the JSON part, so that the answer is one piece and
/// the engine has its buffers back at once.
const JOIN_BYTES_MAX: usize = 16 << 10;

/// In whose words an inference is asked and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The protocol's.
    V2,
    /// Those of KServe's first one.
    V1,
}

/// Answers an inference request.
pub(crate) async fn infer(
    state: &Arc<State>,
    caller: Caller<'_>,
    form: Form,
    model: ModelPath<'_>,
    headers: &HeaderMap,
    incoming: Incoming,
) -> Result<Reply, ApiError> {
    let arrival = state.engine.now();
    let expects_continue = headers.contains_key(EXPECT);
    let bytes_max = state.body_bytes_max;
    let Caller { client, busy, noted } = caller;
    let known = match examine(state, &client, form, &model, headers, &incoming) {
        Ok(known) => known,
        Err(error) => {
            refuse(incoming, bytes_max, expects_continue);
            return Err(error);
        }
    };
    let Known { json_length, coding, class, permit } = known;
    let mut share = class.map(|class| state.bodies.share(class));
    let allowance = Allowance { bytes_max, share: share.as_mut(), expects_continue, busy };
    let mut body = receive(incoming, allowance).await?;
    if let Some(coding) = coding {
        let class = class.unwrap_or(Class::BestEffort);
        (body, share) = encoding::decoded(state, class, coding, body, bytes_max, share).await?;
    }
    let envelope = Envelope {
        form,
        model: model.name.into_owned(),
        version: model.version.map(|version| version.into_owned()),
        arrival,
        json_length,
        client,
    };
    let large = class.filter(|_| envelope.json_bytes(body.len()) >= LARGE_BYTES_MIN);
    let server = state.clone();
    let (answer, manner) = match large {
        Some(class) => {
            let submit = move || submit(&server, &envelope, body, share);
            let (id, submitted) = state.lanes.of(class).run(submit).await?;
            noted.id = id;
            submitted?
        }
        None => {
            let (question, manner) = read_body(state, &envelope, body)?;
            noted.id = shown_id(&manner);
            (question::ask_soon(state, &envelope.client, question, share).await?.0, manner)
        }
    };
    let response = answer.await.map_err(Problem::from)?;
    drop(permit);
    noted.ran = Some(Ran::of(&response));
    if is_long_to_write(&response, &manner) {
        let server = state.clone();
        let lane = state.lanes.of(response.class);
        return Ok(lane.run(move || write(&server, response, &manner)).await??);
    }
    Ok(write(state, response, &manner)?)
}

/// What is known before the body.
struct Known {
    /// Where its JSON ends, once it is decompressed.
    json_length: Option<String>,
    coding: Option<Coding>,
    /// Of the model's requests, if the body may be large.
    class: Option<Class>,
    /// Leave to be served.
    permit: Permit,
}

/// Who asks, over what.
pub(crate) struct Caller<'a> {
    pub(crate) client: Client,
    /// Of its connection.
    pub(crate) busy: &'a Busy,
    /// What becomes known of the request.
    pub(crate) noted: &'a mut Noted,
}

fn examine(
    state: &State,
    client: &Client,
    form: Form,
    model: &ModelPath<'_>,
    headers: &HeaderMap,
    incoming: &Incoming,
) -> Result<Known, ApiError> {
    client.check_model(&model.name)?;
    state.check_loaded()?;
    let coding = encoding::of_request(headers)?;
    let json_length = json_length(headers)?;
    if form == Form::V1 && json_length.is_some() {
        let problem = "header Inference-Header-Content-Length: binary tensors are sent over /v2, not /v1";
        return Err(Problem::invalid(problem).into());
    }
    let upper = incoming.size_hint().upper().filter(|_| coding.is_none());
    let large = upper.is_none_or(|bytes| bytes >= LARGE_BYTES_MIN as u64);
    let class = match large {
        true => {
            let model = state.find_ready(&model.name, model.version.as_deref())?;
            Some(client.class(model.settings.class))
        }
        false => None,
    };
    let permit = client.admit(state.engine.now())?;
    Ok(Known { json_length, coding, class, permit })
}

/// What the request line and the headers say.
struct Envelope {
    form: Form,
    model: String,
    version: Option<String>,
    arrival: Nanos,
    json_length: Option<String>,
    client: Client,
}

impl Envelope {
    fn question(&self, schedule: Schedule, inputs: Vec<Input>, outputs: Vec<question::Output>) -> Question {
        let (model, version) = (self.model.clone(), self.version.clone());
        Question { model, version, arrival: self.arrival, schedule, inputs, outputs }
    }

    /// Bytes of JSON in a body of `body_bytes`, if the header is right.
    fn json_bytes(&self, body_bytes: usize) -> usize {
        let stated = self.json_length.as_ref().and_then(|length| length.trim().parse().ok());
        stated.unwrap_or(body_bytes).min(body_bytes)
    }
}

/// How the answer is to be written.
struct Manner {
    form: Form,
    id: Option<String>,
    wanted: Wanted,
}

fn json_length(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(&JSON_LENGTH) else { return Ok(None) };
    match value.to_str() {
        Ok(value) => Ok(Some(value.to_string())),
        Err(_) => Err(Problem::invalid(format!(
            "header Inference-Header-Content-Length: {value:?} is not a byte count"
        ))),
    }
}

/// Reads the body and hands the request to the engine; `share` is the body's part of the budget. Besides, the
/// id that the body has.
fn submit(
    state: &State,
    envelope: &Envelope,
    body: Body,
    share: Option<Share>,
) -> (Option<String>, Result<(InferFuture, Manner), Problem>) {
    match read_body(state, envelope, body) {
        Err(problem) => (None, Err(problem)),
        Ok((question, manner)) => {
            let asked = question::ask(state, &envelope.client, question, share);
            (shown_id(&manner), asked.map(|(future, _)| (future, manner)))
        }
    }
}

/// The id of the body, if it can be shown.
fn shown_id(manner: &Manner) -> Option<String> {
    manner.id.as_deref().and_then(shown).map(String::from)
}

fn read_body(state: &State, envelope: &Envelope, body: Body) -> Result<(Question, Manner), Problem> {
    match request::split(body, envelope.json_length.as_deref())? {
        Parts::Json(json, _) if envelope.form == Form::V1 => read_rows(state, envelope, &json),
        Parts::Json(json, binary) => read_json(envelope, &json, binary),
        Parts::Raw(body) => read_raw(state, envelope, body),
    }
}

fn read_json(envelope: &Envelope, json: &[u8], mut binary: Body) -> Result<(Question, Manner), Problem> {
    let parsed = request::parse(json, binary.len())?;
    let schedule = request::schedule(parsed.parameters.as_ref())?;
    let wanted = Wanted::from_json(&parsed)?;
    let inputs = inputs(&parsed, &mut binary)?;
    let question = envelope.question(schedule, inputs, wanted.outputs.clone());
    Ok((question, Manner { form: Form::V2, id: parsed.id, wanted }))
}

fn read_rows(state: &State, envelope: &Envelope, json: &[u8]) -> Result<(Question, Manner), Problem> {
    let model = state.find_ready(&envelope.model, envelope.version.as_deref())?;
    let (schedule, inputs) = predict::read(json, &model.inputs)?;
    let question = envelope.question(schedule, inputs, Vec::new());
    Ok((question, Manner { form: Form::V1, id: None, wanted: Wanted::all_json() }))
}

fn inputs(parsed: &RequestJson<'_>, binary: &mut Body) -> Result<Vec<Input>, Problem> {
    parsed.inputs.iter().map(|Object(input)| read_input(input, binary)).collect()
}

fn read_input(input: &InputJson<'_>, binary: &mut Body) -> Result<Input, Problem> {
    let dtype = question::dtype(&input.name, &input.datatype)?;
    let source = input.source()?;
    let place = |problem: String| Problem::invalid(format!("input '{}': {problem}", input.name));
    let data = match source {
        InputData::Binary(bytes) => {
            let _ = question::elements(&input.name, &input.shape)?;
            Data::Here(binary.take(bytes))
        }
        InputData::Shared(shared) => Data::Shared(shared),
        InputData::Json(_) if dtype.is_some_and(|dtype| !elements::has_json_form(dtype)) => {
            let datatype = &input.datatype;
            return Err(place(format!("{datatype} has no JSON form, send it as a binary tensor")));
        }
        InputData::Json(raw) => {
            let count = question::elements(&input.name, &input.shape)?;
            if count > raw.get().len() {
                return Err(place(format!("data is too short for the {count} elements of its shape")));
            }
            let read = match dtype {
                None => elements::read_texts(raw, &input.shape, count),
                Some(dtype) => {
                    let mut bytes = vec![0; count * dtype.bytes()];
                    elements::read(raw, dtype, &input.shape, &mut bytes).map(|()| bytes)
                }
            };
            Data::Here(Bytes::from(read.map_err(|problem| place(format!("data: {problem}")))?))
        }
    };
    Ok(Input { name: input.name.clone(), dtype, shape: input.shape.to_vec(), data })
}

fn read_raw(state: &State, envelope: &Envelope, mut body: Body) -> Result<(Question, Manner), Problem> {
    let model = state.find_ready(&envelope.model, envelope.version.as_deref())?;
    let data = body.take(body.len());
    let [input] = &model.inputs[..] else {
        let count = model.inputs.len();
        return Err(Problem::invalid(format!("a raw request needs a model with one input, it has {count}")));
    };
    if input.texts {
        let name = &input.name;
        return Err(Problem::invalid(format!("input '{name}': a raw request has bytes, and no texts")));
    }
    let shape = raw_shape(&input.dims, input.dtype, data.len())
        .map_err(|problem| Problem::invalid(format!("input '{}': {problem}", input.name)))?;
    let input = Input { name: input.name.clone(), dtype: Some(input.dtype), shape, data: Data::Here(data) };
    let question = envelope.question(Schedule::default(), vec![input], Vec::new());
    Ok((question, Manner { form: Form::V2, id: None, wanted: Wanted::all_binary() }))
}

/// The shape of a raw request's tensor: one extent may be open, the byte count gives it.
fn raw_shape(dims: &[i64], dtype: DType, bytes: usize) -> Result<Vec<usize>, String> {
    let open = dims.iter().filter(|&&dim| dim < 0).count();
    if open > 1 {
        return Err(format!("shape {dims:?} has {open} open dimensions, a raw request may leave one open"));
    }
    let fixed: usize = dims.iter().filter_map(|&dim| usize::try_from(dim).ok()).product();
    let unit = fixed * dtype.bytes();
    let fill = if open == 1 && unit > 0 { bytes / unit } else { 1 };
    if fill * unit != bytes {
        return Err(format!("{bytes} bytes do not fill shape {dims:?} of {}", dtype.protocol_name()));
    }
    Ok(dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(fill)).collect())
}

/// Whether writing the answer would hold up others: elements take more in JSON than in bytes.
fn is_long_to_write(response: &InferResponse, manner: &Manner) -> bool {
    let wanted = &manner.wanted;
    let in_json = |index: usize| {
        let shared = wanted.outputs.get(index).is_some_and(|output| output.shared.is_some());
        !shared && !wanted.is_binary(index)
    };
    let outputs = response.outputs().enumerate().filter(|(index, _)| in_json(*index));
    let json: usize = outputs.map(|(_, output)| output.data.len()).sum();
    json >= LARGE_BYTES_MIN || answer::is_long(response, &wanted.outputs)
}

/// Writes the answer.
fn write(state: &State, response: InferResponse, manner: &Manner) -> Result<Reply, Problem> {
    let response = Arc::new(response);
    let sum: usize = response.outputs().map(|output| output.data.len()).sum();
    let tensors = answer::tensors(state, &response, &manner.wanted.outputs)?;
    if manner.form == Form::V1 {
        let json = predict::write(&tensors).map_err(Problem::invalid)?;
        return Ok(of_class(&response, reply(StatusCode::OK, "application/json", vec![json.into()])));
    }
    let outputs = tensors
        .into_iter()
        .enumerate()
        .map(|(index, tensor)| Output::new(tensor, manner.wanted.is_binary(index)));
    let head = Head {
        id: manner.id.as_deref(),
        model_name: &response.model.name,
        model_version: &response.model.version,
        parameters: parameters(&response),
    };
    let mut written = response::write(&head, outputs.collect()).map_err(Problem::invalid)?;
    if sum <= JOIN_BYTES_MAX && written.chunks.len() > 1 {
        written.chunks = vec![Bytes::from(written.chunks.concat())];
    }
    let kind = if written.json_len.is_some() { "application/octet-stream" } else { "application/json" };
    let mut reply = reply(StatusCode::OK, kind, written.chunks);
    if let Some(json_len) = written.json_len {
        reply.headers_mut().insert(JSON_LENGTH, HeaderValue::from(json_len));
    }
    Ok(of_class(&response, reply))
}

/// Marks an answer with the class that its request had.
fn of_class(response: &InferResponse, mut reply: Reply) -> Reply {
    reply.extensions_mut().insert(response.class);
    reply
}

/// What the answer says about how it was made.
fn parameters(response: &InferResponse) -> Map<String, Value> {
    let value = |parameter| match parameter {
        Parameter::Text(text) => json!(text),
        Parameter::Whole(number) => json!(number),
        Parameter::Real(number) => json!(number),
        Parameter::Flag(flag) => json!(flag),
    };
    let parameters = answer::parameters(response).into_iter();
    parameters.map(|(name, parameter)| (name.to_string(), value(parameter))).collect()
}

/// Everything that is done to a body before the engine sees it: type and bytes of each tensor.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read(bytes: Vec<u8>, header: Option<&str>) -> Result<Vec<(Option<DType>, Bytes)>, Problem> {
    let Parts::Json(json, mut binary) = request::split(Body::from(bytes), header)? else {
        return Ok(Vec::new());
    };
    let parsed = request::parse(&json, binary.len())?;
    request::schedule(parsed.parameters.as_ref())?;
    Wanted::from_json(&parsed)?;
    let bytes = |input: Input| match input.data {
        Data::Here(bytes) => Ok((input.dtype, bytes)),
        Data::Shared(_) => Err(Problem::unsupported("shared memory is off")),
    };
    inputs(&parsed, &mut binary)?.into_iter().map(bytes).collect()
}

#[cfg(test)]
mod tests {
    use reef_base::Rng;

    use super::*;
    use crate::core::problem::Kind;

    /// A request with a tensor of each kind, and what its header says.
    fn sample() -> (Vec<u8>, usize) {
        let json = concat!(
            r#"{"id":"7","parameters":{"class":"real-time","priority":1,"binary_data_output":true},"#,
            r#""inputs":["#,
            r#"{"name":"a","shape":[2,2],"datatype":"FP32","data":[[1,2.5e0],[-3,4]]},"#,
            r#"{"name":"b","shape":[3],"datatype":"UINT8","parameters":{"binary_data_size":3}}],"#,
            r#""outputs":[{"name":"y","parameters":{"binary_data":false}}]}"#
        );
        ([json.as_bytes(), &[1, 2, 3]].concat(), json.len())
    }

    #[test]
    fn tensors_of_both_kinds_are_read() {
        let (bytes, len) = sample();
        let tensors = read(bytes, Some(&len.to_string())).unwrap();
        let a: Vec<u8> = [1f32, 2.5, -3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let b = (Some(DType::U8), Bytes::from_static(&[1, 2, 3]));
        assert_eq!(tensors, [(Some(DType::F32), Bytes::from(a)), b]);
    }

    #[test]
    fn damaged_requests_are_read_or_refused_as_the_clients_fault() {
        let mut rng = Rng::new(7);
        let pieces = [&b"[[[["[..], b"99999999999999999999", b"-1", b"\"", b"{", b"null", b"1e999", b"\xff"];
        let mut refused = 0;
        for _ in 0..20_000 {
            let (mut bytes, mut len) = sample();
            for _ in 0..=rng.below(3) {
                let at = rng.below(bytes.len() as u64) as usize;
                let piece = pieces[rng.below(pieces.len() as u64) as usize];
                match rng.below(4) {
                    0 => bytes[at] = rng.next_u64() as u8,
                    1 => bytes.truncate(at.max(1)),
                    2 => drop(bytes.splice(at..at, piece.iter().copied())),
                    _ => len = len.wrapping_add_signed(rng.below(9) as isize - 4),
                }
            }
            if let Err(error) = read(bytes, Some(&len.to_string())) {
                refused += 1;
                assert!([Kind::Invalid, Kind::Unsupported].contains(&error.kind), "{error:?}");
            }
        }
        assert!(refused > 10_000, "{refused}");
    }

    #[test]
    fn the_byte_count_gives_the_open_dimension() {
        assert_eq!(raw_shape(&[2, 3], DType::F32, 24), Ok(vec![2, 3]));
        assert_eq!(raw_shape(&[-1, 3], DType::F32, 36), Ok(vec![3, 3]));
        assert_eq!(raw_shape(&[], DType::I64, 8), Ok(vec![]));
        assert!(raw_shape(&[2, 3], DType::F32, 23).unwrap_err().contains("23 bytes do not fill"));
        assert!(raw_shape(&[-1, 3], DType::F32, 13).unwrap_err().contains("13 bytes do not fill"));
        assert!(raw_shape(&[-1, -1], DType::F32, 16).unwrap_err().contains("2 open dimensions"));
    }
}
