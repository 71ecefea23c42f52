//! What is asked: one inference, in the form that every protocol decodes into. What is checked of it without
//! its bytes on the wire is checked here, so that it is the same whichever way it came.

use bytes::Bytes;
use reef_base::limits::{MODEL_TENSORS_MAX, TENSOR_ELEMENTS_MAX, TENSOR_RANK_MAX};
use reef_engine::{ClassRequest, DType, InferError, InferFuture, InferRequest, InputTensor, Nanos, Shape};

use crate::core::parameter::{self, Value};
use crate::core::problem::Problem;
use crate::core::state::State;

/// The parameters of a request, a tensor or a requested output that have a meaning here. Protocols skip all
/// others: however many a client sends and however large they are, none is kept.
pub(crate) const PARAMETERS: [&str; 14] = [
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
    "shared_memory_byte_size",
    "shared_memory_offset",
    "shared_memory_region",
    "timeout",
];

/// One inference.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    pub(crate) model: String,
    /// `None` for the newest.
    pub(crate) version: Option<String>,
    /// On the engine's clock.
    pub(crate) arrival: Nanos,
    pub(crate) schedule: Schedule,
    pub(crate) inputs: Vec<Input>,
    /// Empty for all.
    pub(crate) outputs: Vec<Output>,
}

/// An input tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    /// Dense, row major, little endian.
    pub(crate) data: Bytes,
}

/// A requested output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) name: String,
    /// So many largest elements instead of the tensor, if any.
    pub(crate) classes: Option<usize>,
}

/// What a request asks of the scheduler; absent means the model's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// `class`: real-time or best-effort.
    pub(crate) real_time: Option<bool>,
    /// `priority`: 0 for the model's level, n for level n - 1.
    pub(crate) priority: u32,
    /// `timeout`: the longest wait in the queue, microseconds.
    pub(crate) timeout_us: Option<u64>,
    /// `deadline_us`: from arrival to the end of execution, microseconds; 0 has passed.
    pub(crate) deadline_us: Option<u64>,
    /// How long the client waits for the answer, from arrival; it makes no deadline later.
    pub(crate) limit: Option<Nanos>,
}

impl Schedule {
    /// What a request's parameters say; `get` gives the value of one.
    pub(crate) fn read(get: impl Fn(&str) -> Option<Value>) -> Result<Schedule, Problem> {
        let number = |name| parameter::unsigned(get(name), name, "request");
        let sequences = ["sequence_id", "sequence_start", "sequence_end"];
        if let Some(name) = sequences.into_iter().find(|name| get(name).is_some_and(|value| value.is_set())) {
            return Err(Problem::unsupported(format!("parameter '{name}': sequences are not supported")));
        }
        Ok(Schedule {
            real_time: get("class").map(|class| is_real_time(&class)).transpose()?,
            priority: u32::try_from(number("priority")?.unwrap_or(0)).unwrap_or(u32::MAX),
            timeout_us: number("timeout")?.filter(|&timeout| timeout > 0),
            deadline_us: number("deadline_us")?,
            limit: None,
        })
    }

    fn apply(self, state: &State, request: &mut InferRequest<'_>) {
        request.class = self.real_time.map(|real_time| match real_time {
            true => ClassRequest::RealTime,
            false => ClassRequest::BestEffort,
        });
        request.priority = self.priority;
        request.timeout = self.timeout_us.map(micros);
        request.deadline = self.deadline_us.map(micros);
        if let Some(limit) = self.limit {
            let model = || state.engine.model(request.model, request.version);
            let deadline = request.deadline.or_else(|| model()?.settings.deadline);
            request.deadline = Some(deadline.map_or(limit, |deadline| deadline.min(limit)));
        }
    }
}

/// As long as can be counted, if it is longer.
fn micros(micros: u64) -> Nanos {
    Nanos(micros.saturating_mul(1_000))
}

fn is_real_time(class: &Value) -> Result<bool, Problem> {
    match class {
        Value::Text(class) if class == "real-time" => Ok(true),
        Value::Text(class) if class == "best-effort" => Ok(false),
        other => Err(Problem::invalid(format!(
            "parameter 'class' of the request: {other} is neither \"real-time\" nor \"best-effort\""
        ))),
    }
}

/// Hands a question to the engine, which copies its tensors.
pub(crate) fn submit(state: &State, question: &Question) -> Result<InferFuture, Problem> {
    let tensor = |input: &'_ Input| -> Result<(), Problem> {
        check_rank(&input.name, input.shape.len())?;
        elements(&input.name, &input.shape).map(|_| ())
    };
    check_count(question.inputs.len(), "inputs")?;
    check_count(question.outputs.len(), "outputs")?;
    question.inputs.iter().try_for_each(tensor)?;
    let inputs = question.inputs.iter().map(|input| InputTensor {
        name: &input.name,
        dtype: input.dtype,
        shape: Shape::new(&input.shape),
        data: &input.data,
    });
    let mut request = InferRequest::new(&question.model, inputs.collect());
    request.version = question.version.as_deref();
    request.arrival = Some(question.arrival);
    if !question.outputs.is_empty() {
        request.outputs = Some(question.outputs.iter().map(|output| &*output.name).collect());
    }
    question.schedule.apply(state, &mut request);
    state.engine.submit(&request).map_err(|error| match error {
        InferError::UnknownModel(_) => state.missing(request.model, request.version),
        error => error.into(),
    })
}

/// The element type that an input's `datatype` names.
pub(crate) fn dtype(input: &str, datatype: &str) -> Result<DType, Problem> {
    match DType::from_protocol_name(datatype) {
        Some(dtype) => Ok(dtype),
        None if datatype == "BYTES" => {
            Err(Problem::unsupported(format!("input '{input}': tensors of BYTES are not supported")))
        }
        None => {
            let datatype = parameter::quoted(datatype);
            Err(Problem::invalid(format!("input '{input}': there is no datatype '{datatype}'")))
        }
    }
}

/// Elements of an input's shape, if there are not too many.
pub(crate) fn elements(input: &str, shape: &[usize]) -> Result<usize, Problem> {
    let product = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    product.filter(|&count| count <= TENSOR_ELEMENTS_MAX).ok_or_else(|| {
        Problem::invalid(format!(
            "input '{input}': shape {shape:?} has more than {TENSOR_ELEMENTS_MAX} elements"
        ))
    })
}

/// An error for more dimensions than a tensor may have.
pub(crate) fn check_rank(input: &str, rank: usize) -> Result<(), Problem> {
    match rank <= TENSOR_RANK_MAX {
        true => Ok(()),
        false => Err(Problem::invalid(format!(
            "input '{input}': {rank} dimensions, at most {TENSOR_RANK_MAX} are allowed"
        ))),
    }
}

/// An error for more inputs or outputs than a model may have.
pub(crate) fn check_count(count: usize, what: &str) -> Result<(), Problem> {
    match count <= MODEL_TENSORS_MAX {
        true => Ok(()),
        false => Err(Problem::invalid(format!("{count} {what}, at most {MODEL_TENSORS_MAX} are allowed"))),
    }
}

/// Appends a requested output; `classes` is the value of its parameter `classification`.
pub(crate) fn want(outputs: &mut Vec<Output>, name: &str, classes: Option<Value>) -> Result<(), Problem> {
    let place = format!("output '{name}'");
    let classes = parameter::unsigned(classes, "classification", &place)?.filter(|&classes| classes > 0);
    if outputs.iter().any(|output| output.name == name) {
        return Err(Problem::invalid(format!("{place} is requested twice")));
    }
    let classes = classes.map(|classes| usize::try_from(classes).unwrap_or(usize::MAX));
    outputs.push(Output { name: name.into(), classes });
    Ok(())
}
