//! What is asked: one inference, in the form that every protocol decodes into. What is checked of it without
//! its bytes on the wire is checked here, so that it is the same whichever way it came.

use std::sync::Arc;

use bytes::Bytes;
use reef_base::limits::{MODEL_TENSORS_MAX, TENSOR_ELEMENTS_MAX, TENSOR_RANK_MAX};
use reef_engine::{
    Class, ClassRequest, DType, InferError, InferFuture, InferRequest, InputTensor, Nanos, Shape, TextTensor,
};

use crate::core::access::Client;
use crate::core::budget::Share;
use crate::core::parameter::{self, Value};
use crate::core::problem::Problem;
use crate::core::regions::Shared;
use crate::core::state::State;

/// Bytes in shared memory from which on they are copied in the lanes: about 0.1 ms.
pub(crate) const REGION_BYTES_LONG: u64 = 1 << 20;

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
    /// `None` for texts.
    pub(crate) dtype: Option<DType>,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data,
}

/// The elements of an input: dense, row major, little endian; texts each after its length.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    /// In the request.
    Here(Bytes),
    /// In a region of shared memory.
    Shared(Shared),
}

/// A requested output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) name: String,
    /// So many largest elements instead of the tensor, if any.
    pub(crate) classes: Option<usize>,
    /// Where it goes, if not into the answer.
    pub(crate) shared: Option<Shared>,
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

    /// Asks it for `request`.
    pub(crate) fn apply(self, state: &State, request: &mut InferRequest<'_>) {
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

/// As [`ask`], in a lane if what is in shared memory takes a while to read.
pub(crate) async fn ask_soon(
    state: &Arc<State>,
    client: &Client,
    question: Question,
    share: Option<Share>,
) -> Result<(InferFuture, Vec<Output>), Problem> {
    client.check_model(&question.model)?;
    match class_in_regions(state, client, &question)? {
        None => ask(state, client, question, share),
        Some(class) => {
            let (server, client) = (state.clone(), client.clone());
            state.lanes.of(class).run(move || ask(&server, &client, question, share)).await?
        }
    }
}

/// The class of a request whose tensors in shared memory take a while to read.
fn class_in_regions(state: &State, client: &Client, question: &Question) -> Result<Option<Class>, Problem> {
    let shared = question.inputs.iter().map(|input| match &input.data {
        Data::Here(_) => 0,
        Data::Shared(shared) => shared.byte_size,
    });
    if state.regions.is_none() || shared.fold(0, u64::saturating_add) < REGION_BYTES_LONG {
        return Ok(None);
    }
    let model = state.find_ready(&question.model, question.version.as_deref())?;
    Ok(Some(client.class(model.settings.class)))
}

/// Hands a client's question to the engine, which copies its tensors: then they are dropped, and `share`,
/// their part of the budget, is given back. Gives what the answer is to hold.
pub(crate) fn ask(
    state: &State,
    client: &Client,
    question: Question,
    share: Option<Share>,
) -> Result<(InferFuture, Vec<Output>), Problem> {
    client.check_model(&question.model)?;
    check_count(question.inputs.len(), "inputs")?;
    check_count(question.outputs.len(), "outputs")?;
    for output in &question.outputs {
        output.shared.as_ref().map_or(Ok(()), |shared| state.regions()?.check(shared))?;
    }
    let mut memory = SharedMemory::of(state, client, &question, share);
    let mut tensors = Vec::with_capacity(question.inputs.len());
    for input in &question.inputs {
        check_rank(&input.name, input.shape.len())?;
        let count = elements(&input.name, &input.shape)?;
        tensors.push(match &input.data {
            Data::Here(bytes) => bytes.clone(),
            Data::Shared(shared) => {
                let expected = input.dtype.map(|dtype| count.saturating_mul(dtype.bytes()));
                let read = memory.read(shared, expected);
                read.map_err(|problem| Problem {
                    message: format!("input '{}': {}", input.name, problem.message),
                    ..problem
                })?
            }
        });
    }
    let mut request = InferRequest::new(&question.model, Vec::with_capacity(tensors.len()));
    for (input, data) in question.inputs.iter().zip(&tensors) {
        let (name, shape) = (&*input.name, Shape::new(&input.shape));
        match input.dtype {
            Some(dtype) => request.inputs.push(InputTensor { name, dtype, shape, data }),
            None => request.texts.push(TextTensor { name, shape, data }),
        }
    }
    request.version = question.version.as_deref();
    request.arrival = Some(question.arrival);
    if !question.outputs.is_empty() {
        request.outputs = Some(question.outputs.iter().map(|output| &*output.name).collect());
    }
    question.schedule.apply(state, &mut request);
    let running = submit(state, client, request, Some(PATIENCE))?;
    drop(memory);
    Ok((running, question.outputs))
}

/// Where tensors in shared memory are read, and what they may take.
struct SharedMemory<'a> {
    state: &'a State,
    client: &'a Client,
    question: &'a Question,
    share: Option<Share>,
    /// With what the request carries they have no more bytes than a body may.
    bytes_left: usize,
}

impl<'a> SharedMemory<'a> {
    fn of(
        state: &'a State,
        client: &'a Client,
        question: &'a Question,
        share: Option<Share>,
    ) -> SharedMemory<'a> {
        let here = question.inputs.iter().map(|input| match &input.data {
            Data::Here(bytes) => bytes.len(),
            Data::Shared(_) => 0,
        });
        let bytes_left = state.body_bytes_max.saturating_sub(here.sum());
        SharedMemory { state, client, question, share, bytes_left }
    }

    /// The bytes of an input, of which its shape has `expected`, if it says that.
    fn read(&mut self, shared: &Shared, expected: Option<usize>) -> Result<Bytes, Problem> {
        let state = self.state;
        let regions = state.regions()?;
        let Shared { region, offset, byte_size } = shared;
        if let Some(expected) = expected.filter(|&expected| *byte_size != expected as u64) {
            let problem = format!("shared_memory_byte_size is {byte_size}, its shape has {expected} bytes");
            return Err(Problem::invalid(problem));
        }
        let expected = usize::try_from(*byte_size).unwrap_or(usize::MAX);
        regions.check(shared)?;
        self.bytes_left = self.bytes_left.checked_sub(expected).ok_or_else(|| {
            let bytes_max = state.body_bytes_max;
            Problem::invalid(format!("body and shared memory have more than the allowed {bytes_max} bytes"))
        })?;
        let share = match &mut self.share {
            Some(share) => share,
            none => {
                let model = state.find_ready(&self.question.model, self.question.version.as_deref())?;
                none.insert(state.bodies.share(self.client.class(model.settings.class)))
            }
        };
        share.grow(expected)?;
        regions.read(region, *offset, *byte_size)
    }
}

/// How long a thread that serves many connections works for the device itself: about what a change of threads
/// takes, which it saves.
const PATIENCE: Nanos = Nanos(50_000);

/// Hands a client's request to the engine, which copies its tensors, and may have work for a thread that
/// has patience.
pub(crate) fn submit(
    state: &State,
    client: &Client,
    mut request: InferRequest<'_>,
    patience: Option<Nanos>,
) -> Result<InferFuture, Problem> {
    client.check_model(request.model)?;
    if client.is_known()
        && let Some(model) = state.engine.model(request.model, request.version)
    {
        client.limit(&mut request, model.settings.class)?;
    }
    let submitted = match patience {
        Some(patience) => state.engine.submit_with_patience(&request, patience),
        None => state.engine.submit(&request),
    };
    submitted.map_err(|error| match error {
        InferError::UnknownModel(_) => state.missing(request.model, request.version),
        error => error.into(),
    })
}

/// The element type that an input's `datatype` names; `None` for texts.
pub(crate) fn dtype(input: &str, datatype: &str) -> Result<Option<DType>, Problem> {
    match DType::from_protocol_name(datatype) {
        None if datatype == "BYTES" => Ok(None),
        Some(dtype) => Ok(Some(dtype)),
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

/// Appends a requested output; `get` gives the value of one of its parameters.
pub(crate) fn want(
    outputs: &mut Vec<Output>,
    name: &str,
    get: impl Fn(&str) -> Option<Value>,
) -> Result<(), Problem> {
    let place = format!("output '{name}'");
    let classes = parameter::unsigned(get("classification"), "classification", &place)?;
    let classes = classes.filter(|&classes| classes > 0);
    if outputs.iter().any(|output| output.name == name) {
        return Err(Problem::invalid(format!("{place} is requested twice")));
    }
    let classes = classes.map(|classes| usize::try_from(classes).unwrap_or(usize::MAX));
    outputs.push(Output { name: name.into(), classes, shared: shared(get, &place)? });
    Ok(())
}

/// What the parameters `shared_memory_region`, `shared_memory_offset` and `shared_memory_byte_size` of
/// `place` name.
pub(crate) fn shared(get: impl Fn(&str) -> Option<Value>, place: &str) -> Result<Option<Shared>, Problem> {
    let Some(region) = get("shared_memory_region") else { return Ok(None) };
    let Value::Text(region) = region else {
        return Err(Problem::invalid(format!(
            "parameter 'shared_memory_region' of {place}: {region} is not a name"
        )));
    };
    let number = |name| parameter::unsigned(get(name), name, place);
    let offset = number("shared_memory_offset")?.unwrap_or(0);
    let byte_size = number("shared_memory_byte_size")?.ok_or_else(|| {
        Problem::invalid(format!("{place}: shared_memory_region without shared_memory_byte_size"))
    })?;
    Ok(Some(Shared { region, offset, byte_size }))
}
