//! KServe's first protocol: an inference in rows.
//!
//! A request has `instances`, a list of rows, or `inputs`, whole tensors. A row is an object with a value for
//! each input of the model, and so are whole tensors; of a model with one input the value may stand there
//! itself. A value is an element or nested arrays of them: their nesting is its shape, and its element type
//! is that of the model's input. `parameters` are those of requests of the second protocol, and other members
//! are ignored. The answer has `predictions`, rows again: objects where there are several outputs.
//!
//! Invariant: what is read has no more elements than the JSON has characters.

use std::fmt;

use bytes::Bytes;
use reef_base::limits::TENSOR_RANK_MAX;
use reef_engine::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::core::answer::{self, Tensor};
use crate::core::parameter::quoted;
use crate::core::problem::Problem;
use crate::core::question::{self, Data, Input, Schedule};
use crate::http::protocol::elements::{self, Nested};
use crate::http::protocol::json;
use crate::http::protocol::request::{Parameters, not_json, schedule};

#[derive(Debug, serde::Deserialize)]
#[serde(expecting = "a prediction request, an object")]
struct RequestJson<'a> {
    #[serde(borrow, default)]
    parameters: Option<Parameters<'a>>,
    #[serde(borrow, default)]
    instances: Option<&'a RawValue>,
    #[serde(borrow, default)]
    inputs: Option<&'a RawValue>,
}

/// Reads a request to a model with these inputs.
pub(crate) fn read(body: &[u8], model: &[TensorInfo]) -> Result<(Schedule, Vec<Input>), Problem> {
    let request: RequestJson<'_> = json::object(body).map_err(|error| not_json(body, &error))?;
    let mut columns: Vec<Column<'_>> = model.iter().map(Column::new).collect();
    let rows = match (request.instances, request.inputs) {
        (Some(instances), None) => {
            let rows =
                serde_json::Deserializer::from_str(instances.get()).deserialize_seq(Rows(&mut columns));
            let rows = rows.map_err(|error| Problem::invalid(format!("instances: {error}")))?;
            Some(rows).filter(|&rows| rows > 0).ok_or_else(|| Problem::invalid("instances: there is none"))?
        }
        (None, Some(inputs)) => {
            add_row(&mut columns, inputs).map_err(|error| Problem::invalid(format!("inputs: {error}")))?;
            // Of a column itself, not of rows in it.
            0
        }
        (None, None) => return Err(json::wrong("neither instances nor inputs")),
        (Some(_), Some(_)) => return Err(json::wrong("both instances and inputs")),
    };
    let inputs = columns.into_iter().map(|column| column.finish(rows)).collect::<Result<_, _>>()?;
    Ok((schedule(request.parameters.as_ref())?, inputs))
}

/// An input while its rows are read.
struct Column<'a> {
    input: &'a TensorInfo,
    /// Of a row; that of the first.
    shape: Vec<usize>,
    rows: usize,
    bytes: Vec<u8>,
}

impl<'a> Column<'a> {
    fn new(input: &'a TensorInfo) -> Column<'a> {
        Column { input, shape: Vec::new(), rows: 0, bytes: Vec::new() }
    }

    fn add(&mut self, value: &RawValue) -> Result<(), String> {
        let name = &self.input.name;
        let dtype = self.input.dtype;
        if !self.input.texts && !elements::has_json_form(dtype) {
            let datatype = dtype.protocol_name();
            return Err(format!(
                "input '{name}': {datatype} has no JSON form, send it over /v2 as a binary tensor"
            ));
        }
        let wrong = |error: String| format!("input '{name}': {error}");
        let shape = shape_of(value).map_err(wrong)?;
        if self.rows == 0 {
            self.shape = shape;
        } else if self.shape != shape {
            return Err(wrong(format!("shape {shape:?}, that of the first row is {:?}", self.shape)));
        }
        let count = question::elements(name, &self.shape).map_err(|problem| problem.message)?;
        if count > value.get().len() {
            return Err(wrong("its lists are not of the same length".into()));
        }
        self.rows += 1;
        let listed;
        let value = match self.shape[..] {
            [] => {
                listed = RawValue::from_string(format!("[{value}]")).expect("a value is one in a list");
                &listed
            }
            _ => value,
        };
        if self.input.texts {
            let texts = elements::read_texts(value, &self.shape, count).map_err(wrong)?;
            self.bytes.extend(texts);
            return Ok(());
        }
        let start = self.bytes.len();
        self.bytes.resize(start + count * dtype.bytes(), 0);
        elements::read(value, dtype, &self.shape, &mut self.bytes[start..]).map_err(wrong)
    }

    /// The tensor of so many rows; 0 if what was read is no row of it but the whole.
    fn finish(mut self, rows: usize) -> Result<Input, Problem> {
        if rows > 0 {
            self.shape.insert(0, rows);
        }
        let name = self.input.name.clone();
        question::check_rank(&name, self.shape.len())?;
        let _ = question::elements(&name, &self.shape)?;
        let data = Data::Here(Bytes::from(self.bytes));
        let dtype = Some(self.input.dtype).filter(|_| !self.input.texts);
        Ok(Input { name, dtype, shape: self.shape, data })
    }
}

/// Reads a row, or whole tensors: an object with a value for each input, or that of the only one.
fn add_row(columns: &mut [Column<'_>], row: &RawValue) -> Result<(), String> {
    if row.get().starts_with('{') {
        let mut json = serde_json::Deserializer::from_str(row.get());
        return json.deserialize_map(Row(columns)).map_err(|error| error.to_string());
    }
    match columns {
        [only] => only.add(row),
        _ => Err(format!(
            "the model has {} inputs: an object with a value for each is expected",
            columns.len()
        )),
    }
}

/// Reads rows one by one, so that none is kept.
struct Rows<'a, 'm>(&'a mut [Column<'m>]);

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of instances")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some(row) = rows.next_element::<&RawValue>()? {
            add_row(self.0, row).map_err(|error| A::Error::custom(format!("row {count}: {error}")))?;
            count += 1;
        }
        Ok(count)
    }
}

/// Reads the object that a row is.
struct Row<'a, 'm>(&'a mut [Column<'m>]);

impl<'de> Visitor<'de> for Row<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a value for each input")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let rows = self.0.iter().map(|column| column.rows).min().unwrap_or(0);
        let mut given = 0;
        while let Some(name) = values.next_key::<String>()? {
            let unknown = || A::Error::custom(format!("the model has no input '{}'", quoted(&name)));
            let column = self.0.iter_mut().find(|column| column.input.name == name).ok_or_else(unknown)?;
            if column.rows > rows {
                return Err(A::Error::custom(format!("input '{name}' is there twice")));
            }
            column.add(values.next_value()?).map_err(A::Error::custom)?;
            given += 1;
        }
        match self.0.iter().find(|column| column.rows == rows) {
            Some(column) if given < self.0.len() => {
                Err(A::Error::custom(format!("there is no value for input '{}'", column.input.name)))
            }
            _ => Ok(()),
        }
    }
}

/// The shape of nested lists, if the first of each list is like the others.
fn shape_of(value: &RawValue) -> Result<Vec<usize>, String> {
    let (mut shape, mut value) = (Vec::new(), value);
    while value.get().starts_with('[') {
        if shape.len() == TENSOR_RANK_MAX {
            return Err(format!("more than {TENSOR_RANK_MAX} dimensions"));
        }
        let mut json = serde_json::Deserializer::from_str(value.get());
        let Listed { first, count } = Listed::deserialize(&mut json).map_err(|error| error.to_string())?;
        shape.push(count);
        let Some(first) = first else { break };
        value = first;
    }
    Ok(shape)
}

/// What a list begins with, and how long it is.
struct Listed<'a> {
    first: Option<&'a RawValue>,
    count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Listed<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = Listed<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Listed<'de>, A::Error> {
                let first = items.next_element()?;
                let mut count = usize::from(first.is_some());
                while items.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Listed { first, count })
            }
        }
        deserializer.deserialize_seq(First)
    }
}

#[derive(serde::Serialize)]
struct AnswerJson<T> {
    predictions: T,
}

/// Writes the answer. Fails, with a message for the client, on outputs that have no rows, or no JSON form.
pub(crate) fn write(outputs: &[Tensor<'_>]) -> Result<Vec<u8>, String> {
    let tensors = outputs.iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
    let counts = || tensors.iter().map(|(_, tensor)| tensor.shape()[0]);
    if counts().max() != counts().min() {
        let shapes = outputs.iter().map(|output| format!("'{}' {:?}", output.name, output.shape));
        let shapes = shapes.collect::<Vec<_>>().join(", ");
        return Err(format!("the outputs have no common rows ({shapes}): ask for them over /v2"));
    }
    let written = match &tensors[..] {
        [(_, only)] => serde_json::to_vec(&AnswerJson { predictions: only }),
        several => serde_json::to_vec(&AnswerJson { predictions: Predictions(several) }),
    };
    written.map_err(|error| error.to_string())
}

fn tensor<'a>(output: &'a Tensor<'_>) -> Result<(&'a str, Values<'a>), String> {
    let name = output.name;
    let shape = &output.shape[..];
    let no_form = |what: &str| format!("output '{name}': {what}, ask for it over /v2 as binary data");
    let values = match &output.data {
        answer::Data::Elements(dtype, _) if !elements::has_json_form(*dtype) => {
            return Err(no_form(&format!("{} has no JSON form", dtype.protocol_name())));
        }
        answer::Data::Elements(dtype, bytes) => Values::Elements(Nested { dtype: *dtype, shape, bytes }),
        answer::Data::Texts(texts) if texts.iter().any(|text| std::str::from_utf8(text).is_err()) => {
            return Err(no_form("its bytes are not all UTF-8"));
        }
        answer::Data::Texts(texts) => Values::Texts { shape, texts },
        answer::Data::Shared { .. } => return Err(format!("output '{name}' has no rows")),
    };
    if shape.is_empty() {
        return Err(format!("output '{name}' is a scalar and has no rows: ask for it over /v2"));
    }
    Ok((name, values))
}

/// A tensor, written as nested lists.
enum Values<'a> {
    Elements(Nested<'a>),
    Texts { shape: &'a [usize], texts: &'a [Vec<u8>] },
}

impl<'a> Values<'a> {
    fn shape(&self) -> &'a [usize] {
        match self {
            Values::Elements(elements) => elements.shape,
            Values::Texts { shape, .. } => shape,
        }
    }

    /// A row along the first axis, of which there must be one.
    fn row(&self, index: usize) -> Values<'a> {
        match self {
            Values::Elements(elements) => Values::Elements(elements.row(index)),
            Values::Texts { shape, texts } => {
                let count = texts.len() / shape[0];
                Values::Texts { shape: &shape[1..], texts: &texts[index * count..][..count] }
            }
        }
    }
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Values::Elements(elements) => elements.serialize(serializer),
            Values::Texts { shape: [], texts } => String::from_utf8_lossy(&texts[0]).serialize(serializer),
            Values::Texts { shape, .. } => serializer.collect_seq((0..shape[0]).map(|index| self.row(index))),
        }
    }
}

/// Rows of several outputs.
struct Predictions<'a>(&'a [(&'a str, Values<'a>)]);

/// One of them.
struct Prediction<'a>(&'a [(&'a str, Values<'a>)], usize);

impl Serialize for Predictions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = self.0.first().map_or(0, |(_, tensor)| tensor.shape()[0]);
        serializer.collect_seq((0..rows).map(|row| Prediction(self.0, row)))
    }
}

impl Serialize for Prediction<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, tensor)| (*name, tensor.row(self.1))))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use reef_engine::DType;

    use super::*;
    use crate::core::problem::Kind;

    fn model(inputs: &[(&str, DType)]) -> Vec<TensorInfo> {
        let info = |&(name, dtype): &(&str, DType)| TensorInfo {
            name: name.into(),
            dtype,
            texts: false,
            dims: vec![-1],
        };
        inputs.iter().map(info).collect()
    }

    type Inputs<'a> = &'a [(&'a str, DType)];
    type ShapeAndBytes = (Vec<usize>, Vec<u8>);

    /// Shape and bytes of each input.
    fn tensors(json: &str, inputs: Inputs<'_>) -> Result<Vec<ShapeAndBytes>, String> {
        let read = read(json.as_bytes(), &model(inputs)).map_err(|problem| {
            assert_eq!(problem.kind, Kind::Invalid, "{problem:?}");
            problem.message
        })?;
        let tensor = |input: Input| match input.data {
            Data::Here(bytes) => (input.shape, bytes.to_vec()),
            Data::Shared(_) => panic!("nothing is in shared memory"),
        };
        Ok(read.1.into_iter().map(tensor).collect())
    }

    const ONE: &[(&str, DType)] = &[("x", DType::U8)];
    const TWO: &[(&str, DType)] = &[("x", DType::U8), ("n", DType::I16)];

    #[test]
    fn rows_and_columns_become_the_same_tensors() {
        let matrix = (vec![2, 3], vec![1, 2, 3, 4, 5, 6]);
        for json in [
            r#"{"instances":[[1,2,3],[4,5,6]]}"#,
            r#"{"instances":[{"x":[1,2,3]},{"x":[4,5,6]}],"signature_name":"s"}"#,
            r#"{"instances":[[1,2,3],{"x":[4,5,6]}],"inputs":null}"#,
            r#"{"inputs":[[1,2,3],[4,5,6]]}"#,
            r#"{"inputs":{"x":[[1,2,3],[4,5,6]]}}"#,
        ] {
            assert_eq!(tensors(json, ONE).unwrap(), std::slice::from_ref(&matrix), "{json}");
        }
        let two = [(vec![2], vec![7, 8]), (vec![2, 1], vec![1, 0, 255, 255])];
        for json in [
            r#"{"instances":[{"x":7,"n":[1]},{"n":[-1],"x":8}]}"#,
            r#"{"inputs":{"n":[[1],[-1]],"x":[7,8]}}"#,
        ] {
            assert_eq!(tensors(json, TWO).unwrap(), two, "{json}");
        }
        let table: [(&str, &[usize], &[u8]); 6] = [
            (r#"{"instances":[7]}"#, &[1], &[7]),
            (r#"{"inputs":7}"#, &[], &[7]),
            (r#"{"instances":[[],[]]}"#, &[2, 0], &[]),
            (r#"{"inputs":[]}"#, &[0], &[]),
            (r#"{"instances":[ [ [1] , [2] ] ]}"#, &[1, 2, 1], &[1, 2]),
            (r#"{"inputs":[[[[[[[[9]]]]]]]]}"#, &[1; 8], &[9]),
        ];
        for (json, shape, bytes) in table {
            assert_eq!(tensors(json, ONE).unwrap(), [(shape.to_vec(), bytes.to_vec())], "{json}");
        }
    }

    #[test]
    fn texts_are_rows_like_others() {
        let info = TensorInfo { name: "x".into(), dtype: DType::I32, texts: true, dims: vec![-1] };
        let read = |json: &str| read(json.as_bytes(), std::slice::from_ref(&info));
        let (_, inputs) = read(r#"{"instances":["a","bc"]}"#).unwrap();
        let [Input { dtype: None, shape, data: Data::Here(bytes), .. }] = &inputs[..] else {
            panic!("{inputs:?}");
        };
        assert_eq!((&shape[..], &bytes[..]), (&[2][..], &b"\x01\0\0\0a\x02\0\0\0bc"[..]));
        assert!(read(r#"{"instances":["a",1]}"#).unwrap_err().message.contains("texts are strings"));
        let texts = |shape: &[usize], texts: &[&[u8]]| {
            let data = answer::Data::Texts(texts.iter().map(|text| text.to_vec()).collect());
            let written = write(&[Tensor { name: "y", shape: Cow::Owned(shape.to_vec()), data }]);
            written.map(|json| String::from_utf8(json).expect("it is JSON"))
        };
        assert_eq!(texts(&[2, 1], &[b"a", b"\"b"]).unwrap(), r#"{"predictions":[["a"],["\"b"]]}"#);
        assert_eq!(texts(&[0], &[]).unwrap(), r#"{"predictions":[]}"#);
        assert!(texts(&[1], &[b"\xff"]).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn parameters_are_those_of_the_second_protocol() {
        let json = br#"{"instances":[1],"parameters":{"class":"best-effort","deadline_us":7}}"#;
        let schedule = read(json, &model(ONE)).unwrap().0;
        assert_eq!((schedule.real_time, schedule.deadline_us), (Some(false), Some(7)));
        let wrong = br#"{"instances":[1],"parameters":{"class":"fast"}}"#;
        assert!(read(wrong, &model(ONE)).unwrap_err().message.contains("parameter 'class'"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let deep = format!(r#"{{"inputs":{}1{}}}"#, "[".repeat(9), "]".repeat(9));
        let deeper = format!(r#"{{"instances":{}"#, "[".repeat(100_000));
        let table: [(&str, Inputs<'_>, &str); 25] = [
            ("", ONE, "EOF while parsing"),
            ("[[1]]", ONE, "expected a prediction request, an object"),
            ("{}", ONE, "neither instances nor inputs"),
            (r#"{"instances":[1],"inputs":[1]}"#, ONE, "both instances and inputs"),
            (r#"{"instances":[]}"#, ONE, "instances: there is none"),
            (r#"{"instances":{"x":[1]}}"#, ONE, "instances: invalid type: map, expected a list of instances"),
            (r#"{"instances":"abc"}"#, ONE, "expected a list of instances"),
            (
                r#"{"instances":[[1],[1,2]]}"#,
                ONE,
                "row 1: input 'x': shape [2], that of the first row is [1]",
            ),
            (r#"{"instances":[[[1],[2]],[1,2]]}"#, ONE, "row 1: input 'x': shape [2], that of the first"),
            (r#"{"instances":[[[1,2],[3]]]}"#, ONE, "row 0: input 'x': an array of 1 at depth 1, the shape"),
            (r#"{"instances":[[[1,2],3]]}"#, ONE, "row 0: input 'x': an element where an array is expected"),
            (r#"{"instances":[[256]]}"#, ONE, "256 does not fit UINT8"),
            (r#"{"instances":[["a"]]}"#, ONE, "a string is not of type UINT8"),
            (r#"{"instances":[null]}"#, ONE, "expected an element of type UINT8"),
            (r#"{"instances":[{"b64":"AA=="}]}"#, ONE, "row 0: the model has no input 'b64'"),
            (r#"{"instances":[{"x":1,"x":2}]}"#, ONE, "input 'x' is there twice"),
            (r#"{"instances":[{"x":1},{}]}"#, ONE, "row 1: there is no value for input 'x'"),
            (r#"{"instances":[{"x":1}]}"#, TWO, "row 0: there is no value for input 'n'"),
            (r#"{"instances":[1]}"#, TWO, "the model has 2 inputs: an object with a value for each"),
            (r#"{"inputs":{"x":{"y":1}}}"#, ONE, "expected an element of type UINT8"),
            (r#"{"instances":[NaN]}"#, &[("x", DType::F32)], "NaN is no JSON number: write the string"),
            (r#"{"instances":[1]}"#, &[("x", DType::F16)], "FP16 has no JSON form, send it over /v2"),
            (r#"{"instances":[[[1,1,1,1,1,1,1,1],[],[],[],[]]]}"#, ONE, "not of the same length"),
            (&deep, ONE, "more than 8 dimensions"),
            (&deeper, ONE, "while parsing a"),
        ];
        for (json, inputs, message) in table {
            let error = tensors(json, inputs).unwrap_err();
            assert!(error.contains(message), "{}: {error}", &json[..json.len().min(60)]);
        }
        let eight = format!(r#"{{"instances":[{}1{}]}}"#, "[".repeat(8), "]".repeat(8));
        assert!(tensors(&eight, ONE).unwrap_err().contains("9 dimensions, at most 8"));
    }

    #[test]
    fn a_flood_of_rows_takes_no_more_memory_than_elements_do() {
        let rows = vec!["{\"x\":1}"; 100_000].join(",");
        let read = tensors(&format!(r#"{{"instances":[{rows}]}}"#), ONE).unwrap();
        assert_eq!(read, [(vec![100_000], vec![1; 100_000])]);
    }

    fn output<'a>(name: &'a str, dtype: DType, shape: &'a [usize], bytes: &[u8]) -> Tensor<'a> {
        let data = answer::Data::Elements(dtype, Bytes::copy_from_slice(bytes));
        Tensor { name, shape: Cow::Borrowed(shape), data }
    }

    #[test]
    fn predictions_are_rows() {
        let written = |outputs: &[Tensor<'_>]| write(outputs).map(|json| String::from_utf8(json).unwrap());
        let scores = output("s", DType::U8, &[2, 2], &[1, 2, 3, 4]);
        assert_eq!(written(std::slice::from_ref(&scores)).unwrap(), r#"{"predictions":[[1,2],[3,4]]}"#);
        let labels = output("l", DType::F32, &[2], &[0, 0, 128, 63, 0, 0, 192, 127]);
        let both = r#"{"predictions":[{"s":[1,2],"l":1.0},{"s":[3,4],"l":"NaN"}]}"#;
        assert_eq!(written(&[scores.clone(), labels.clone()]).unwrap(), both);
        let none = [output("s", DType::U8, &[0, 2], &[]), output("l", DType::U8, &[0], &[])];
        assert_eq!(written(&none).unwrap(), r#"{"predictions":[]}"#);
        let table = [
            (
                vec![scores.clone(), output("t", DType::U8, &[3], &[1, 2, 3])],
                "no common rows ('s' [2, 2], 't' [3])",
            ),
            (vec![output("t", DType::U8, &[], &[1])], "output 't' is a scalar"),
            (vec![scores, output("h", DType::F16, &[2], &[0; 4])], "output 'h': FP16 has no JSON form"),
        ];
        for (outputs, message) in table {
            let error = written(&outputs).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
