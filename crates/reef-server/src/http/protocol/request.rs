//! An inference request, from headers and bytes to names, shapes and where the data is.
//!
//! Knows the protocol's JSON, the binary tensor extension and the request parameters; does not know models,
//! so nothing here is compared with what a model takes. Source: Open Inference Protocol v2 (REST) and
//! Triton's extensions `binary_tensor_data`, `schedule_policy` and `parameters`.

use std::fmt;

use bytes::Bytes;
use reef_base::limits::{MODEL_TENSORS_MAX, TENSOR_RANK_MAX};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::core::problem::Problem;
use crate::core::question::Schedule;
use crate::http::protocol::body::Body;
use crate::http::protocol::elements::{QUOTE_LEN_MAX, SPECIAL};

/// The parameters that have a meaning here. All others are skipped: however many a client sends and however
/// large they are, none is built in memory.
const PARAMETERS: [&str; 12] = [
    "binary_data",
    "binary_data_output",
    "binary_data_size",
    "class",
    "classification",
    "deadline_us",
    "priority",
    "sequence_end",
    "sequence_id",
    "sequence_start",
    "shared_memory_region",
    "timeout",
];

/// Parameters of a request, a tensor or a requested output, each as it stands in the JSON.
#[derive(Debug, Default)]
pub(crate) struct Parameters<'a>(Vec<(&'static str, &'a RawValue)>);

/// The JSON part of an inference request. Unknown members are ignored, as the protocol demands.
#[derive(Debug, Deserialize)]
pub(crate) struct RequestJson<'a> {
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<Parameters<'a>>,
    #[serde(borrow)]
    pub(crate) inputs: Vec<InputJson<'a>>,
    #[serde(borrow, default)]
    pub(crate) outputs: Option<Vec<OutputJson<'a>>>,
}

/// An input tensor in JSON.
#[derive(Debug, Deserialize)]
pub(crate) struct InputJson<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) datatype: String,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<Parameters<'a>>,
    #[serde(borrow, default)]
    pub(crate) data: Option<&'a RawValue>,
}

/// A requested output in JSON.
#[derive(Debug, Deserialize)]
pub(crate) struct OutputJson<'a> {
    pub(crate) name: String,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<Parameters<'a>>,
}

/// Where an input's elements are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InputData<'a> {
    /// In the JSON part.
    Json(&'a RawValue),
    /// The next so many bytes of the body.
    Binary(usize),
}

/// A body cut into its JSON part and, by the binary tensor extension, the bytes that follow it.
pub(crate) enum Parts {
    /// JSON, then `Body` with the binary tensors, possibly empty.
    Json(Bytes, Body),
    /// A raw request: the body is the only input's bytes.
    Raw(Body),
}

/// Cuts a body at the length that the header `Inference-Header-Content-Length` states.
pub(crate) fn split(mut body: Body, header: Option<&str>) -> Result<Parts, Problem> {
    let Some(header) = header else {
        let json = body.take(body.len());
        return Ok(Parts::Json(json, body));
    };
    let len = header.trim();
    let digits = !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_digit());
    let len = len.parse::<usize>().ok().filter(|_| digits);
    let Some(len) = len else {
        return Err(Problem::invalid(format!(
            "header Inference-Header-Content-Length: '{header}' is not a byte count"
        )));
    };
    if len > body.len() {
        let have = body.len();
        return Err(Problem::invalid(format!(
            "header Inference-Header-Content-Length says {len} bytes, the body has {have}"
        )));
    }
    if len == 0 {
        return Ok(Parts::Raw(body));
    }
    let json = body.take(len);
    Ok(Parts::Json(json, body))
}

/// Reads the JSON part and checks what can be checked without the model: `binary_len` is what follows it.
pub(crate) fn parse(json: &[u8], binary_len: usize) -> Result<RequestJson<'_>, Problem> {
    let request: RequestJson<'_> = serde_json::from_slice(json).map_err(|error| not_json(json, &error))?;
    let outputs = request.outputs.as_ref().map_or(0, Vec::len);
    for (count, what) in [(request.inputs.len(), "inputs"), (outputs, "outputs")] {
        if count > MODEL_TENSORS_MAX {
            return Err(Problem::invalid(format!("{count} {what}, at most {MODEL_TENSORS_MAX} are allowed")));
        }
    }
    let mut binary_sum = 0usize;
    for input in &request.inputs {
        if let InputData::Binary(bytes) = input.source()? {
            binary_sum = binary_sum.saturating_add(bytes);
        }
        if input.shape.len() > TENSOR_RANK_MAX {
            let (name, rank) = (&input.name, input.shape.len());
            return Err(Problem::invalid(format!(
                "input '{name}': {rank} dimensions, at most {TENSOR_RANK_MAX} are allowed"
            )));
        }
    }
    if binary_sum != binary_len {
        return Err(Problem::invalid(format!(
            "the inputs' binary_data_size add up to {binary_sum} bytes, {binary_len} follow the JSON part"
        )));
    }
    Ok(request)
}

/// What is wrong with a request that could not be read. Python's `json` writes NaN and infinities without
/// quotes.
fn not_json(json: &[u8], error: &serde_json::Error) -> Problem {
    let lines = json.split(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    let at = lines.map(|line| line.len() + 1).sum::<usize>() + error.column();
    // The error is at the token's first character, or just behind it.
    let bare = |name: &&str| {
        let starts = |at: usize| json.get(at..).is_some_and(|rest| rest.starts_with(name.as_bytes()));
        (at.saturating_sub(3)..=at).any(starts)
    };
    let advice = SPECIAL.iter().map(|(name, _)| *name).rev().find(bare).map_or(String::new(), |name| {
        format!("; {name} is no JSON number: write the string \"{name}\", or send the tensor as binary data")
    });
    Problem::invalid(format!("the request is not as the protocol says: {error}{advice}"))
}

impl<'a> Parameters<'a> {
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Parameters<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ParametersVisitor)
    }
}

struct ParametersVisitor;

impl<'de> Visitor<'de> for ParametersVisitor {
    type Value = Parameters<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters<'de>, A::Error> {
        let mut found: Vec<(&'static str, &'de RawValue)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let Some(&known) = PARAMETERS.iter().find(|known| **known == name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value()?;
            // Of two with one name the last one counts, as with JSON objects everywhere.
            found.retain(|(other, _)| *other != known);
            found.push((known, value));
        }
        Ok(Parameters(found))
    }
}

impl<'a> InputJson<'a> {
    /// Where the elements are: exactly one of `data` and the parameter `binary_data_size` must be there.
    pub(crate) fn source(&self) -> Result<InputData<'a>, Problem> {
        let place = format!("input '{}'", self.name);
        refuse_shared_memory(self.parameters.as_ref(), &place)?;
        let binary = unsigned(self.parameters.as_ref(), "binary_data_size", &place)?;
        match (self.data, binary) {
            (Some(data), None) => Ok(InputData::Json(data)),
            (None, Some(bytes)) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Ok(InputData::Binary(bytes))
            }
            (None, None) => Err(Problem::invalid(format!("{place}: neither data nor binary_data_size"))),
            (Some(_), Some(_)) => Err(Problem::invalid(format!("{place}: both data and binary_data_size"))),
        }
    }
}

/// Which outputs a request wants, and how each is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Names with "as binary"; empty for all outputs.
    pub(crate) named: Vec<(String, bool)>,
    /// Whether outputs are binary when nothing else is said.
    pub(crate) binary: bool,
}

impl Wanted {
    /// Every output, in binary: what a raw request gets.
    pub(crate) fn all_binary() -> Wanted {
        Wanted { named: Vec::new(), binary: true }
    }

    /// What `request` asks for.
    pub(crate) fn from_json(request: &RequestJson<'_>) -> Result<Wanted, Problem> {
        let default = boolean(request.parameters.as_ref(), "binary_data_output", "request")?.unwrap_or(false);
        let mut named: Vec<(String, bool)> = Vec::new();
        for output in request.outputs.iter().flatten() {
            let place = format!("output '{}'", output.name);
            let parameters = output.parameters.as_ref();
            refuse_shared_memory(parameters, &place)?;
            if unsigned(parameters, "classification", &place)?.is_some_and(|classes| classes > 0) {
                return Err(Problem::unsupported(format!("{place}: classification is not supported")));
            }
            if named.iter().any(|(name, _)| *name == output.name) {
                return Err(Problem::invalid(format!("{place} is requested twice")));
            }
            let binary = boolean(parameters, "binary_data", &place)?.unwrap_or(default);
            named.push((output.name.clone(), binary));
        }
        Ok(Wanted { named, binary: default })
    }

    /// Whether the output `name` is to be sent in binary.
    pub(crate) fn is_binary(&self, name: &str) -> bool {
        self.named.iter().find(|(wanted, _)| wanted == name).map_or(self.binary, |&(_, binary)| binary)
    }
}

/// What the parameters `class`, `priority`, `timeout` and `deadline_us` ask of the scheduler.
pub(crate) fn schedule(parameters: Option<&Parameters<'_>>) -> Result<Schedule, Problem> {
    let number = |name| unsigned(parameters, name, "request");
    if let Some(name) = ["sequence_id", "sequence_start", "sequence_end"]
        .into_iter()
        .find(|name| parameters.and_then(|all| all.get(name)).is_some_and(is_set))
    {
        return Err(Problem::unsupported(format!("parameter '{name}': sequences are not supported")));
    }
    let real_time = parameters.and_then(|all| all.get("class")).map(is_real_time).transpose()?;
    Ok(Schedule {
        real_time,
        priority: u32::try_from(number("priority")?.unwrap_or(0)).unwrap_or(u32::MAX),
        timeout_us: number("timeout")?.filter(|&timeout| timeout > 0),
        // Zero has passed; no deadline is no parameter.
        deadline_us: number("deadline_us")?,
    })
}

/// Whether a parameter holds something other than the value that stands for "not used".
fn is_set(value: &RawValue) -> bool {
    !["null", "false", "0", "\"\""].contains(&value.get())
}

fn is_real_time(class: &RawValue) -> Result<bool, Problem> {
    match read::<String>(class).as_deref() {
        Some("real-time") => Ok(true),
        Some("best-effort") => Ok(false),
        _ => Err(Problem::invalid(format!(
            "parameter 'class' of the request: {} is neither \"real-time\" nor \"best-effort\"",
            quote(class)
        ))),
    }
}

fn refuse_shared_memory(parameters: Option<&Parameters<'_>>, place: &str) -> Result<(), Problem> {
    match parameters.and_then(|all| all.get("shared_memory_region")) {
        None => Ok(()),
        Some(_) => Err(Problem::unsupported(format!("{place}: shared memory is not supported"))),
    }
}

fn unsigned(parameters: Option<&Parameters<'_>>, name: &str, place: &str) -> Result<Option<u64>, Problem> {
    let Some(value) = parameters.and_then(|all| all.get(name)) else { return Ok(None) };
    read(value).map(Some).ok_or_else(|| {
        let value = quote(value);
        Problem::invalid(format!("parameter '{name}' of {place}: {value} is not an unsigned integer"))
    })
}

fn boolean(parameters: Option<&Parameters<'_>>, name: &str, place: &str) -> Result<Option<bool>, Problem> {
    let Some(value) = parameters.and_then(|all| all.get(name)) else { return Ok(None) };
    read(value).map(Some).ok_or_else(|| {
        let value = quote(value);
        Problem::invalid(format!("parameter '{name}' of {place}: {value} is not a boolean"))
    })
}

fn read<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

/// The value for an error's text.
fn quote(value: &RawValue) -> String {
    let text = value.get();
    match text.char_indices().nth(QUOTE_LEN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::problem::Kind;

    fn split_error(body: &str, header: &str) -> Problem {
        split(Body::from(body.as_bytes().to_vec()), Some(header)).err().unwrap()
    }

    #[test]
    fn a_body_is_cut_where_the_header_says() {
        let Ok(Parts::Json(json, rest)) = split(Body::from(b"{}abc".to_vec()), Some(" 2 ")) else { panic!() };
        assert_eq!((&json[..], rest.len()), (&b"{}"[..], 3));
        let Ok(Parts::Json(json, rest)) = split(Body::from(b"{}abc".to_vec()), None) else { panic!() };
        assert_eq!((&json[..], rest.len()), (&b"{}abc"[..], 0));
        let Ok(Parts::Raw(rest)) = split(Body::from(b"abc".to_vec()), Some("0")) else { panic!() };
        assert_eq!(rest.len(), 3);
    }

    #[test]
    fn bad_binary_headers_are_named() {
        for header in ["", "x", "-1", "+1", "1.0", "0x2", "99999999999999999999999"] {
            let error = split_error("{}", header);
            assert_eq!(error.kind, Kind::Invalid);
            assert!(error.message.contains("is not a byte count"), "{header}: {}", error.message);
        }
        assert!(split_error("{}", "3").message.contains("says 3 bytes, the body has 2"));
    }

    fn parse_error(json: &str, binary_len: usize) -> String {
        let error = parse(json.as_bytes(), binary_len).unwrap_err();
        assert_eq!(error.kind, Kind::Invalid, "{json}");
        error.message
    }

    #[test]
    fn malformed_requests_are_named() {
        let tensor =
            |rest: &str| format!(r#"{{"inputs":[{{"name":"x","shape":[2],"datatype":"FP32"{rest}}}]}}"#);
        let table = [
            (String::new(), 0, "EOF while parsing"),
            ("nonsense".to_string(), 0, "expected ident at line 1"),
            ("[]".to_string(), 0, "invalid length"),
            ("{}".to_string(), 0, "missing field `inputs`"),
            (r#"{"inputs":7}"#.to_string(), 0, "expected a sequence"),
            (r#"{"inputs":[{"name":"x"}]}"#.to_string(), 0, "missing field `shape`"),
            (r#"{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32"}]}"#.into(), 0, "integer `-1`"),
            (tensor(""), 0, "input 'x': neither data nor binary_data_size"),
            (tensor(r#","data":[1],"parameters":{"binary_data_size":8}"#), 8, "input 'x': both data"),
            (tensor(r#","parameters":{"binary_data_size":-8}"#), 8, "'binary_data_size' of input 'x': -8"),
            (tensor(r#","parameters":{"binary_data_size":"8"}"#), 8, "is not an unsigned integer"),
            (tensor(r#","parameters":{"binary_data_size":8}"#), 9, "add up to 8 bytes, 9 follow"),
            (tensor(r#","parameters":{"binary_data_size":8}"#), 7, "add up to 8 bytes, 7 follow"),
            (tensor(r#","data":[1,2]"#), 5, "add up to 0 bytes, 5 follow"),
            (tensor(r#","data":[1,2]"#) + "x", 0, "trailing characters"),
        ];
        for (json, binary_len, message) in table {
            let error = parse_error(&json, binary_len);
            assert!(error.contains(message), "{json}: {error}");
        }
    }

    #[test]
    fn lists_longer_than_any_model_has_are_refused() {
        let listed = |item: &str, count: usize| vec![item; count].join(",");
        let outputs = |count| format!(r#"{{"inputs":[],"outputs":[{}]}}"#, listed(r#"{"name":"y"}"#, count));
        assert!(parse(outputs(MODEL_TENSORS_MAX).as_bytes(), 0).is_ok());
        assert!(parse_error(&outputs(MODEL_TENSORS_MAX + 1), 0).contains("1025 outputs, at most 1024"));
        let input = r#"{"name":"x","shape":[],"datatype":"FP32","data":[0]}"#;
        let inputs = format!(r#"{{"inputs":[{}]}}"#, listed(input, MODEL_TENSORS_MAX + 1));
        assert!(parse_error(&inputs, 0).contains("1025 inputs, at most 1024"));
    }

    #[test]
    fn only_parameters_with_a_meaning_are_kept() {
        let others: Vec<String> = (0..1000).map(|index| format!(r#""p{index}":[[{index}]]"#)).collect();
        let json = format!(r#"{{"priority":1,{},"priority":2}}"#, others.join(","));
        let parameters: Parameters<'_> = serde_json::from_str(&json).unwrap();
        assert_eq!(parameters.0.len(), 1);
        assert_eq!(unsigned(Some(&parameters), "priority", "request"), Ok(Some(2)));
        let long = format!(r#"{{"priority":"{}"}}"#, "é".repeat(1000));
        let parameters = serde_json::from_str(&long).unwrap();
        let error = unsigned(Some(&parameters), "priority", "request").unwrap_err().message;
        assert!(error.contains("é… is not an unsigned integer") && error.len() < 300, "{error}");
    }

    #[test]
    fn sizes_near_the_end_of_the_numbers_do_not_wrap() {
        let tensor = |size: u64| {
            format!(
                r#"{{"name":"x","shape":[2],"datatype":"FP32","parameters":{{"binary_data_size":{size}}}}}"#
            )
        };
        let json = format!(r#"{{"inputs":[{},{}]}}"#, tensor(u64::MAX), tensor(9));
        assert!(parse_error(&json, 8).contains("add up to"));
    }

    #[test]
    fn outputs_are_chosen_by_name_and_form() {
        let wanted = |json: &str| Wanted::from_json(&parse(json.as_bytes(), 0).unwrap());
        let all = wanted(r#"{"inputs":[]}"#).unwrap();
        assert!(!all.is_binary("y"));
        let all = wanted(r#"{"inputs":[],"parameters":{"binary_data_output":true}}"#).unwrap();
        assert!(all.is_binary("y"));
        let some = wanted(
            r#"{"inputs":[],"parameters":{"binary_data_output":true},
               "outputs":[{"name":"y","parameters":{"binary_data":false}},{"name":"z"}]}"#,
        )
        .unwrap();
        assert_eq!((some.is_binary("y"), some.is_binary("z")), (false, true));
        let twice = wanted(r#"{"inputs":[],"outputs":[{"name":"y"},{"name":"y"}]}"#).unwrap_err();
        assert!(twice.message.contains("requested twice"));
        let classes = r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":3}}]}"#;
        assert_eq!(wanted(classes).unwrap_err().kind, Kind::Unsupported);
        let shared = r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r"}}]}"#;
        assert_eq!(wanted(shared).unwrap_err().kind, Kind::Unsupported);
    }

    #[test]
    fn schedule_parameters_have_one_polarity() {
        let schedule = |json: &str| {
            let parameters: Parameters<'_> = serde_json::from_str(json).unwrap();
            super::schedule(Some(&parameters))
        };
        assert_eq!(schedule("{}").unwrap(), Schedule::default());
        assert_eq!(schedule(r#"{"priority":0,"timeout":0}"#).unwrap(), Schedule::default());
        let full = schedule(r#"{"class":"real-time","priority":1,"timeout":5,"deadline_us":7}"#).unwrap();
        let expected =
            Schedule { real_time: Some(true), priority: 1, timeout_us: Some(5), deadline_us: Some(7) };
        assert_eq!(full, expected);
        let passed = schedule(r#"{"deadline_us":0}"#).unwrap();
        assert_eq!(passed.deadline_us, Some(0), "it has passed; it is not none");
        let ignored = r#"{"class":"best-effort","sequence_id":0,"sequence_start":false,"mine":[1]}"#;
        assert_eq!(schedule(ignored).unwrap().real_time, Some(false));
        let table = [
            (r#"{"class":"fast"}"#, "parameter 'class' of the request"),
            (r#"{"class":1}"#, "neither"),
            (r#"{"priority":-1}"#, "parameter 'priority' of request: -1"),
            (r#"{"timeout":1.5}"#, "is not an unsigned integer"),
            (r#"{"deadline_us":"7"}"#, "is not an unsigned integer"),
            (r#"{"sequence_id":9}"#, "sequences are not supported"),
        ];
        for (json, message) in table {
            let error = schedule(json).unwrap_err();
            assert!(error.message.contains(message), "{json}: {}", error.message);
        }
    }
}
