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
use reef_engine::{Class, DType, InferFuture, InferRequest, InferResponse, InputTensor, Nanos, Shape};
use serde_json::{Map, Value, json};

use crate::core::answer::{self, Parameter};
use crate::core::budget::Share;
use crate::core::problem::Problem;
use crate::core::question;
use crate::core::regions::Shared;
use crate::core::state::State;
use crate::http::encoding::{self, Coding};
use crate::http::error::ApiError;
use crate::http::protocol::body::Body;
use crate::http::protocol::elements;
use crate::http::protocol::request::{self, InputData, Parts, RequestJson, Wanted};
use crate::http::protocol::response::{self, Form, Head, Output};
use crate::http::receive::{Allowance, receive, refuse};
use crate::http::reply::{Reply, reply};
use crate::http::route::ModelPath;

/// Where the JSON part of a body ends; tensors follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Bodies from this size on are large: their model is looked up before they are read, and they count in the
/// budget of all bodies. JSON from this size on is read and written in the lanes.
const LARGE_BYTES_MIN: usize = 64 << 10;

/// Bytes in shared memory from which on they are copied in the lanes: about 0.1 ms.
const REGION_BYTES_LONG: u64 = 1 << 20;

/// Binary outputs that add up to less are copied behind the JSON part, so that the answer is one piece and
/// the engine has its buffers back at once.
const JOIN_BYTES_MAX: usize = 16 << 10;

/// Answers an inference request.
pub(crate) async fn infer(
    state: &Arc<State>,
    model: ModelPath<'_>,
    headers: &HeaderMap,
    incoming: Incoming,
) -> Result<Reply, ApiError> {
    let arrival = state.engine.now();
    let expects_continue = headers.contains_key(EXPECT);
    let bytes_max = state.body_bytes_max;
    let Known { json_length, coding, class } = match examine(state, &model, headers, &incoming) {
        Ok(known) => known,
        Err(error) => {
            refuse(incoming, bytes_max, expects_continue);
            return Err(error);
        }
    };
    let mut share = class.map(|class| state.bodies.share(class));
    let allowance = Allowance { bytes_max, share: share.as_mut(), expects_continue };
    let mut body = receive(incoming, allowance).await?;
    if let Some(coding) = coding {
        let class = class.unwrap_or(Class::BestEffort);
        (body, share) = encoding::decoded(state, class, coding, body, bytes_max, share).await?;
    }
    let envelope = Envelope {
        model: model.name.into_owned(),
        version: model.version.map(|version| version.into_owned()),
        arrival,
        json_length,
    };
    let large = class.filter(|_| envelope.json_bytes(body.len()) >= LARGE_BYTES_MIN);
    let server = state.clone();
    let (answer, manner) = match large {
        Some(class) => {
            let submit = move || submit(&server, &envelope, envelope.split(body)?, share);
            state.lanes.of(class).run(submit).await??
        }
        None => {
            let parts = envelope.split(body)?;
            let in_regions = class_in_regions(state, &envelope, &parts)?;
            let submit = move || submit(&server, &envelope, parts, share);
            match in_regions {
                Some(class) => state.lanes.of(class).run(submit).await??,
                None => submit()?,
            }
        }
    };
    let response = answer.await.map_err(Problem::from)?;
    let server = state.clone();
    if is_long_to_write(&response, &manner) {
        return Ok(state.lanes.of(response.class).run(move || write(&server, response, &manner)).await??);
    }
    Ok(write(&server, response, &manner)?)
}

/// The class of a request whose tensors in shared memory take a while to read.
fn class_in_regions(state: &State, envelope: &Envelope, parts: &Parts) -> Result<Option<Class>, Problem> {
    let (Some(_), Parts::Json(json, binary)) = (&state.regions, parts) else { return Ok(None) };
    let mut sum = 0u64;
    for input in &request::parse(json, binary.len())?.inputs {
        if let InputData::Shared(shared) = input.source()? {
            sum = sum.saturating_add(shared.byte_size);
        }
    }
    if sum < REGION_BYTES_LONG {
        return Ok(None);
    }
    Ok(Some(state.find_ready(&envelope.model, envelope.version.as_deref())?.settings.class))
}

/// What is known before the body.
struct Known {
    /// Where its JSON ends, once it is decompressed.
    json_length: Option<String>,
    coding: Option<Coding>,
    /// Of the model, if the body may be large.
    class: Option<Class>,
}

fn examine(
    state: &State,
    model: &ModelPath<'_>,
    headers: &HeaderMap,
    incoming: &Incoming,
) -> Result<Known, ApiError> {
    state.check_loaded()?;
    let coding = encoding::of_request(headers)?;
    let json_length = json_length(headers)?;
    let upper = incoming.size_hint().upper().filter(|_| coding.is_none());
    let large = upper.is_none_or(|bytes| bytes >= LARGE_BYTES_MIN as u64);
    let class = match large {
        true => Some(state.find_ready(&model.name, model.version.as_deref())?.settings.class),
        false => None,
    };
    Ok(Known { json_length, coding, class })
}

/// What the request line and the headers say.
struct Envelope {
    model: String,
    version: Option<String>,
    arrival: Nanos,
    json_length: Option<String>,
}

impl Envelope {
    /// Bytes of JSON in a body of `body_bytes`, if the header is right.
    fn json_bytes(&self, body_bytes: usize) -> usize {
        let stated = self.json_length.as_ref().and_then(|length| length.trim().parse().ok());
        stated.unwrap_or(body_bytes).min(body_bytes)
    }

    /// The JSON part of `body` and what follows.
    fn split(&self, body: Body) -> Result<Parts, Problem> {
        request::split(body, self.json_length.as_deref())
    }
}

/// How the answer is to be written.
struct Manner {
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

/// Reads the tensors and hands the request to the engine, which copies them: then `share` is given back.
fn submit(
    state: &State,
    envelope: &Envelope,
    parts: Parts,
    share: Option<Share>,
) -> Result<(InferFuture, Manner), Problem> {
    match parts {
        Parts::Json(json, binary) => submit_json(state, envelope, &json, binary, share),
        Parts::Raw(body) => submit_raw(state, envelope, body),
    }
}

fn submit_json(
    state: &State,
    envelope: &Envelope,
    json: &[u8],
    mut binary: Body,
    share: Option<Share>,
) -> Result<(InferFuture, Manner), Problem> {
    let parsed = request::parse(json, binary.len())?;
    let schedule = request::schedule(parsed.parameters.as_ref())?;
    let wanted = Wanted::from_json(&parsed)?;
    for (_, shared) in &wanted.shared {
        state.regions()?.check(shared)?;
    }
    let bytes_left = state.body_bytes_max.saturating_sub(json.len() + binary.len());
    let mut memory = SharedMemory { state, envelope, share, bytes_left };
    let tensors = tensors(&parsed, &mut binary, |shared, expected| memory.read(shared, expected))?;
    let inputs = parsed
        .inputs
        .iter()
        .zip(&tensors)
        .map(|(input, (dtype, data))| InputTensor {
            name: &input.name,
            dtype: *dtype,
            shape: Shape::new(&input.shape),
            data,
        })
        .collect();
    let mut request = base_request(envelope, inputs);
    if !wanted.named.is_empty() {
        request.outputs = Some(wanted.named.iter().map(|(name, _)| name.as_str()).collect());
    }
    schedule.apply(&mut request);
    let future = question::submit(state, &request)?;
    drop(request);
    Ok((future, Manner { id: parsed.id, wanted }))
}

/// Where tensors in shared memory are read, and what they may take.
struct SharedMemory<'a> {
    state: &'a State,
    envelope: &'a Envelope,
    share: Option<Share>,
    /// With the body they have no more bytes than a body may.
    bytes_left: usize,
}

impl SharedMemory<'_> {
    /// The bytes of an input, of which its shape has `expected`.
    fn read(&mut self, shared: &Shared, expected: usize) -> Result<Bytes, Problem> {
        let state = self.state;
        let regions = state.regions()?;
        let Shared { region, offset, byte_size } = shared;
        if *byte_size != expected as u64 {
            let problem = format!("shared_memory_byte_size is {byte_size}, its shape has {expected} bytes");
            return Err(Problem::invalid(problem));
        }
        regions.check(shared)?;
        self.bytes_left = self.bytes_left.checked_sub(expected).ok_or_else(|| {
            let bytes_max = state.body_bytes_max;
            Problem::invalid(format!("body and shared memory have more than the allowed {bytes_max} bytes"))
        })?;
        let share = match &mut self.share {
            Some(share) => share,
            none => {
                let model = state.find_ready(&self.envelope.model, self.envelope.version.as_deref())?;
                none.insert(state.bodies.share(model.settings.class))
            }
        };
        share.grow(expected)?;
        regions.read(region, *offset, *byte_size)
    }
}

/// Type and bytes of every input; `read_shared` gives those of an expected length in shared memory.
fn tensors(
    parsed: &RequestJson<'_>,
    binary: &mut Body,
    mut read_shared: impl FnMut(&Shared, usize) -> Result<Bytes, Problem>,
) -> Result<Vec<(DType, Bytes)>, Problem> {
    let mut tensors = Vec::with_capacity(parsed.inputs.len());
    for input in &parsed.inputs {
        let dtype = question::dtype(&input.name, &input.datatype)?;
        let data = match input.source()? {
            InputData::Binary(bytes) => {
                let _ = question::elements(&input.name, &input.shape)?;
                binary.take(bytes)
            }
            InputData::Shared(shared) => {
                let count = question::elements(&input.name, &input.shape)?;
                let read = read_shared(&shared, count.saturating_mul(dtype.bytes()));
                read.map_err(|problem| Problem {
                    message: format!("input '{}': {}", input.name, problem.message),
                    ..problem
                })?
            }
            InputData::Json(raw) => {
                let place = |problem: String| Problem::invalid(format!("input '{}': {problem}", input.name));
                if !elements::has_json_form(dtype) {
                    let problem = format!("{} has no JSON form, send it as a binary tensor", input.datatype);
                    return Err(place(problem));
                }
                let count = question::elements(&input.name, &input.shape)?;
                if count > raw.get().len() {
                    return Err(place(format!("data is too short for the {count} elements of its shape")));
                }
                let mut bytes = vec![0; count * dtype.bytes()];
                elements::read(raw, dtype, &input.shape, &mut bytes)
                    .map_err(|problem| place(format!("data: {problem}")))?;
                Bytes::from(bytes)
            }
        };
        tensors.push((dtype, data));
    }
    Ok(tensors)
}

fn submit_raw(state: &State, envelope: &Envelope, mut body: Body) -> Result<(InferFuture, Manner), Problem> {
    let model = state.find_ready(&envelope.model, envelope.version.as_deref())?;
    let data = body.take(body.len());
    let [input] = &model.inputs[..] else {
        let count = model.inputs.len();
        return Err(Problem::invalid(format!("a raw request needs a model with one input, it has {count}")));
    };
    let shape = raw_shape(&input.dims, input.dtype, data.len())
        .map_err(|problem| Problem::invalid(format!("input '{}': {problem}", input.name)))?;
    let input = InputTensor { name: &input.name, dtype: input.dtype, shape: Shape::new(&shape), data: &data };
    let future = question::submit(state, &base_request(envelope, vec![input]))?;
    Ok((future, Manner { id: None, wanted: Wanted::all_binary() }))
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

fn base_request<'a>(envelope: &'a Envelope, inputs: Vec<InputTensor<'a>>) -> InferRequest<'a> {
    let mut request = InferRequest::new(&envelope.model, inputs);
    request.version = envelope.version.as_deref();
    request.arrival = Some(envelope.arrival);
    request
}

/// Whether writing the answer would hold up others.
fn is_long_to_write(response: &InferResponse, manner: &Manner) -> bool {
    let (mut json, mut shared) = (0, 0);
    for output in response.outputs() {
        match manner.wanted.form(output.name) {
            Form::Json => json += output.data.len(),
            Form::Binary => {}
            Form::Shared(_) => shared += output.data.len() as u64,
        }
    }
    // Elements take more in JSON than in bytes.
    json >= LARGE_BYTES_MIN || shared >= REGION_BYTES_LONG
}

/// Moves the outputs that go to shared memory there; those after one that fails stay as they were.
fn write_regions(state: &State, response: &InferResponse, manner: &Manner) -> Result<(), Problem> {
    for (name, shared) in &manner.wanted.shared {
        let Some(output) = response.output(name) else { continue };
        let (bytes, byte_size) = (output.data.len(), shared.byte_size);
        if bytes as u64 > byte_size {
            let problem =
                format!("output '{name}' has {bytes} bytes, shared_memory_byte_size is {byte_size}");
            return Err(Problem::invalid(problem));
        }
        state.regions()?.write(&shared.region, shared.offset, output.data)?;
    }
    Ok(())
}

/// Writes the answer.
fn write(state: &State, response: InferResponse, manner: &Manner) -> Result<Reply, Problem> {
    write_regions(state, &response, manner)?;
    let response = Arc::new(response);
    let sum: usize = response.outputs().map(|output| output.data.len()).sum();
    let outputs = response.outputs().enumerate().map(|(index, output)| Output {
        name: output.name,
        dtype: output.dtype,
        shape: output.shape,
        bytes: answer::output_bytes(&response, index),
        form: manner.wanted.form(output.name),
    });
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
    reply.extensions_mut().insert(response.class);
    Ok(reply)
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
pub(crate) fn read(bytes: Vec<u8>, header: Option<&str>) -> Result<Vec<(DType, Bytes)>, Problem> {
    let Parts::Json(json, mut binary) = request::split(Body::from(bytes), header)? else {
        return Ok(Vec::new());
    };
    let parsed = request::parse(&json, binary.len())?;
    request::schedule(parsed.parameters.as_ref())?;
    Wanted::from_json(&parsed)?;
    tensors(&parsed, &mut binary, |_, _| Err(Problem::unsupported("shared memory is off")))
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
        assert_eq!(tensors, [(DType::F32, Bytes::from(a)), (DType::U8, Bytes::from_static(&[1, 2, 3]))]);
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
