//! An inference request, from headers and bytes to names, shapes and where the data is.
//!
//! Knows the protocol's JSON, the binary tensor extension and the request parameters; does not know models,
//! so nothing here is compared with what a model takes. Source: Open Inference Protocol v2 (REST) and
//! Triton's extensions `binary_tensor_data`, `schedule_policy` and `parameters`.

use std::fmt;

use bytes::Bytes;
use reef_base::limits::MODEL_TENSORS_MAX;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::core::parameter::{self, Value};
use crate::core::problem::Problem;
use crate::core::question::{self, Output, PARAMETERS, Schedule};
use crate::core::regions::Shared;
use crate::http::protocol::body::Body;
use crate::http::protocol::elements::SPECIAL;
use crate::http::protocol::json::{self, Object};
use crate::http::protocol::list::AtMost;

/// Dimensions that are read at all; how many are allowed is said with the input's name.
const DIMENSIONS_MAX: usize = 64;

/// Parameters of a request, a tensor or a requested output, each as it stands in the JSON.
#[derive(Debug, Default)]
pub(crate) struct Parameters<'a>(Vec<(&'static str, &'a RawValue)>);

/// The JSON part of an inference request. Unknown members are ignored, as the protocol demands.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an inference request, an object")]
pub(crate) struct RequestJson<'a> {
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<Parameters<'a>>,
    #[serde(borrow)]
    pub(crate) inputs: AtMost<Object<InputJson<'a>>, MODEL_TENSORS_MAX>,
    #[serde(borrow, default)]
    pub(crate) outputs: Option<AtMost<Object<OutputJson<'a>>, MODEL_TENSORS_MAX>>,
}

/// An input tensor in JSON.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an input tensor, an object")]
pub(crate) struct InputJson<'a> {
    pub(crate) name: String,
    pub(crate) shape: AtMost<usize, DIMENSIONS_MAX>,
    pub(crate) datatype: String,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<Parameters<'a>>,
    #[serde(borrow, default)]
    pub(crate) data: Option<&'a RawValue>,
}

/// A requested output in JSON.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a requested output, an object")]
pub(crate) struct OutputJson<'a> {
    pub(crate) name: String,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<Parameters<'a>>,
}

/// Where an input's elements are.
#[derive(Clone, Debug)]
pub(crate) enum InputData<'a> {
    /// In the JSON part.
    Json(&'a RawValue),
    /// The next so many bytes of the body.
    Binary(usize),
    /// In a region of shared memory.
    Shared(Shared),
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
    let request: RequestJson<'_> = json::object(json).map_err(|error| not_json(json, &error))?;
    let mut binary_sum = 0usize;
    for Object(input) in request.inputs.iter() {
        if let InputData::Binary(bytes) = input.source()? {
            binary_sum = binary_sum.saturating_add(bytes);
        }
        question::check_rank(&input.name, input.shape.len())?;
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
pub(crate) fn not_json(json: &[u8], error: &serde_json::Error) -> Problem {
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
    json::wrong(&format!("{error}{advice}"))
}

impl<'a> Parameters<'a> {
    fn get(&self, name: &str) -> Option<Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|&(_, value)| value_of(value))
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
    /// Where the elements are: exactly one of `data` and the parameters `binary_data_size` and
    /// `shared_memory_region` must be there.
    pub(crate) fn source(&self) -> Result<InputData<'a>, Problem> {
        let place = format!("input '{}'", self.name);
        let get = |name: &str| get(self.parameters.as_ref(), name);
        let shared = question::shared(get, &place)?;
        let binary = parameter::unsigned(get("binary_data_size"), "binary_data_size", &place)?;
        let both = |with: &str| Err(Problem::invalid(format!("{place}: both {with}")));
        match (self.data, binary, shared) {
            (Some(data), None, None) => Ok(InputData::Json(data)),
            (None, Some(bytes), None) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Ok(InputData::Binary(bytes))
            }
            (None, None, Some(shared)) => Ok(InputData::Shared(shared)),
            (None, None, None) => {
                Err(Problem::invalid(format!("{place}: neither data nor binary_data_size")))
            }
            (Some(_), Some(_), _) => both("data and binary_data_size"),
            (Some(_), _, Some(_)) => both("data and shared_memory_region"),
            (_, Some(_), Some(_)) => both("binary_data_size and shared_memory_region"),
        }
    }
}

/// Which outputs a request wants, and how each is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Empty for all.
    pub(crate) outputs: Vec<Output>,
    /// Whether each of `outputs` is to be sent in binary.
    binary: Vec<bool>,
    /// Whether outputs are binary when nothing else is said.
    default: bool,
}

impl Wanted {
    /// Every output, in binary: what a raw request gets.
    pub(crate) fn all_binary() -> Wanted {
        Wanted { outputs: Vec::new(), binary: Vec::new(), default: true }
    }

    /// Every output, in JSON.
    pub(crate) fn all_json() -> Wanted {
        Wanted { outputs: Vec::new(), binary: Vec::new(), default: false }
    }

    /// What `request` asks for.
    pub(crate) fn from_json(request: &RequestJson<'_>) -> Result<Wanted, Problem> {
        let get = |name| get(request.parameters.as_ref(), name);
        let default = parameter::flag(get("binary_data_output"), "binary_data_output", "request")?;
        let mut wanted =
            Wanted { outputs: Vec::new(), binary: Vec::new(), default: default.unwrap_or(false) };
        for Object(output) in request.outputs.iter().flat_map(|outputs| outputs.iter()) {
            let place = format!("output '{}'", output.name);
            let get = |name: &str| self::get(output.parameters.as_ref(), name);
            question::want(&mut wanted.outputs, &output.name, get)?;
            let binary = parameter::flag(get("binary_data"), "binary_data", &place)?;
            wanted.binary.push(binary.unwrap_or(wanted.default));
        }
        Ok(wanted)
    }

    /// Whether output `index` of the answer is to be sent in binary.
    pub(crate) fn is_binary(&self, index: usize) -> bool {
        self.binary.get(index).copied().unwrap_or(self.default)
    }
}

/// What the request's parameters ask of the scheduler.
pub(crate) fn schedule(parameters: Option<&Parameters<'_>>) -> Result<Schedule, Problem> {
    Schedule::read(|name| get(parameters, name))
}

fn get(parameters: Option<&Parameters<'_>>, name: &str) -> Option<Value> {
    parameters.and_then(|all| all.get(name))
}

/// What a parameter's JSON says.
fn value_of(raw: &RawValue) -> Value {
    let text = raw.get();
    let other = || Value::Other(text.into());
    match text.as_bytes().first() {
        Some(b't' | b'f') => Value::Flag(text == "true"),
        Some(b'"') => json::text(text).map_or_else(other, Value::Text),
        Some(b'-' | b'0'..=b'9') => match text.parse() {
            Ok(number) => Value::Whole(number),
            Err(_) => text.parse().map_or_else(|_| other(), Value::Real),
        },
        _ => other(),
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
            ("[]".to_string(), 0, "expected an inference request, an object"),
            (r#"["7",{},[]]"#.to_string(), 0, "expected an inference request, an object"),
            (r#"{"inputs":[["x",[2],"FP32",{},[1,2]]]}"#.to_string(), 0, "expected an input tensor"),
            (r#"{"inputs":[],"outputs":[["y",{}]]}"#.to_string(), 0, "expected a requested output"),
            (r#"{"inputs":[],"parameters":[["class","real-time"]]}"#.into(), 0, "an object of parameters"),
            ("{}".to_string(), 0, "missing field `inputs`"),
            (r#"{"inputs":7}"#.to_string(), 0, "expected a sequence"),
            (r#"{"inputs":[{"name":"x"}]}"#.to_string(), 0, "missing field `shape`"),
            (r#"{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32"}]}"#.into(), 0, "integer `-1`"),
            (tensor(""), 0, "input 'x': neither data nor binary_data_size"),
            (tensor(r#","data":[1],"parameters":{"binary_data_size":8}"#), 8, "input 'x': both data"),
            (tensor(r#","parameters":{"binary_data_size":-8}"#), 8, "'binary_data_size' of input 'x': -8"),
            (tensor(r#","parameters":{"binary_data_size":"8x"}"#), 8, "is not an unsigned integer"),
            (tensor(r#","parameters":{"binary_data_size":8}"#), 9, "add up to 8 bytes, 9 follow"),
            (tensor(r#","parameters":{"binary_data_size":8}"#), 7, "add up to 8 bytes, 7 follow"),
            (tensor(r#","data":[1,2]"#), 5, "add up to 0 bytes, 5 follow"),
            (
                tensor(
                    r#","data":[1],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":8}"#,
                ),
                0,
                "input 'x': both data and shared_memory_region",
            ),
            (tensor(r#","parameters":{"shared_memory_region":"r"}"#), 0, "without shared_memory_byte_size"),
            (tensor(r#","parameters":{"shared_memory_region":7}"#), 0, "of input 'x': 7 is not a name"),
            (
                tensor(r#","parameters":{"shared_memory_region":"r","shared_memory_byte_size":-1}"#),
                0,
                "'shared_memory_byte_size' of input 'x': -1 is not an unsigned",
            ),
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
        assert!(parse_error(&outputs(MODEL_TENSORS_MAX + 1), 0).contains("a list of more than 1024 at"));
        let input = r#"{"name":"x","shape":[],"datatype":"FP32","data":[0]}"#;
        let inputs = format!(r#"{{"inputs":[{}]}}"#, listed(input, MODEL_TENSORS_MAX + 1));
        assert!(parse_error(&inputs, 0).contains("a list of more than 1024 at"));
        let shape = |rank| {
            format!(r#"{{"inputs":[{{"name":"x","shape":[{}],"datatype":"FP32"}}]}}"#, listed("1", rank))
        };
        assert!(parse_error(&shape(64), 0).contains("neither data nor binary_data_size"));
        assert!(parse_error(&shape(65), 0).contains("a list of more than 64 at"));
    }

    #[test]
    fn only_parameters_with_a_meaning_are_kept() {
        let others: Vec<String> = (0..1000).map(|index| format!(r#""p{index}":[[{index}]]"#)).collect();
        let json = format!(r#"{{"priority":1,{},"priority":2}}"#, others.join(","));
        let parameters: Parameters<'_> = json::object(json.as_bytes()).unwrap();
        assert_eq!(parameters.0.len(), 1);
        assert_eq!(super::schedule(Some(&parameters)).unwrap().priority, 2);
        let long = format!(r#"{{"priority":"{}"}}"#, "é".repeat(1000));
        let parameters = json::object(long.as_bytes()).unwrap();
        let error = super::schedule(Some(&parameters)).unwrap_err().message;
        assert!(error.contains("é…\" is not an unsigned integer") && error.len() < 300, "{error}");
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
        assert!(!all.is_binary(0));
        let all = wanted(r#"{"inputs":[],"parameters":{"binary_data_output":true}}"#).unwrap();
        assert!(all.is_binary(0));
        let some = wanted(
            r#"{"inputs":[],"parameters":{"binary_data_output":true},
               "outputs":[{"name":"y","parameters":{"binary_data":false}},{"name":"z"}]}"#,
        )
        .unwrap();
        assert_eq!((some.is_binary(0), some.is_binary(1)), (false, true));
        let twice = wanted(r#"{"inputs":[],"outputs":[{"name":"y"},{"name":"y"}]}"#).unwrap_err();
        assert!(twice.message.contains("requested twice"));
        let classes = r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":3}}]}"#;
        let three = Output { name: "y".into(), classes: Some(3), shared: None };
        assert_eq!(wanted(classes).unwrap().outputs, [three]);
        let none = wanted(&classes.replace('3', "0")).unwrap();
        assert_eq!(none.outputs[0].classes, None);
        let wrong = wanted(&classes.replace('3', "-3")).unwrap_err().message;
        assert!(wrong.contains("parameter 'classification' of output 'y': -3"), "{wrong}");
        let shared = wanted(
            r#"{"inputs":[],"outputs":[{"name":"y","parameters":
               {"shared_memory_region":"r","shared_memory_offset":4,"shared_memory_byte_size":8}}]}"#,
        )
        .unwrap();
        let expected = Shared { region: "r".into(), offset: 4, byte_size: 8 };
        assert_eq!(shared.outputs[0].shared, Some(expected));
    }

    #[test]
    fn schedule_parameters_have_one_polarity() {
        let schedule = |json: &str| {
            let parameters: Parameters<'_> = json::object(json.as_bytes()).unwrap();
            super::schedule(Some(&parameters))
        };
        assert_eq!(schedule("{}").unwrap(), Schedule::default());
        assert_eq!(schedule(r#"{"priority":0,"timeout":0}"#).unwrap(), Schedule::default());
        let expected = Schedule {
            real_time: Some(true),
            priority: 1,
            timeout_us: Some(5),
            deadline_us: Some(7),
            limit: None,
        };
        for full in [
            r#"{"class":"real-time","priority":1,"timeout":5,"deadline_us":7}"#,
            r#"{"class":"real-time","priority":"1","timeout":"5","deadline_us":"7"}"#,
        ] {
            assert_eq!(schedule(full), Ok(expected));
        }
        assert_eq!(schedule(r#"{"deadline_us":0}"#).unwrap().deadline_us, Some(0), "one that has passed");
        let ignored = r#"{"class":"best-effort","sequence_id":0,"sequence_start":false,"mine":[1]}"#;
        assert_eq!(schedule(ignored).unwrap().real_time, Some(false));
        let table = [
            (r#"{"class":"fast"}"#, "parameter 'class' of the request"),
            (r#"{"class":1}"#, "neither"),
            (r#"{"priority":-1}"#, "parameter 'priority' of request: -1"),
            (r#"{"timeout":1.5}"#, "is not an unsigned integer"),
            (r#"{"deadline_us":"7 s"}"#, "is not an unsigned integer"),
            (r#"{"deadline_us":null}"#, "null is not an unsigned integer"),
            (r#"{"sequence_id":9}"#, "sequences are not supported"),
        ];
        for (json, message) in table {
            let error = schedule(json).unwrap_err();
            assert!(error.message.contains(message), "{json}: {}", error.message);
        }
    }
}
