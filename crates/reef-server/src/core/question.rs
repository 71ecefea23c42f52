//! What is asked: one inference. The engine's request is its form; here is what protocols add to it.

use reef_base::limits::TENSOR_ELEMENTS_MAX;
use reef_engine::{ClassRequest, DType, InferError, InferFuture, InferRequest, Nanos};

use crate::core::access::Client;
use crate::core::problem::Problem;
use crate::core::state::State;

/// What a request asks of the scheduler; absent means the model's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// `class`: real-time or best-effort.
    pub(crate) real_time: Option<bool>,
    /// `priority`: 0 for the model's level, n for level n - 1.
    pub(crate) priority: u32,
    /// `timeout`: the longest wait in the queue, microseconds.
    pub(crate) timeout_us: Option<u64>,
    /// `deadline_us`: from arrival to the end of execution, microseconds.
    pub(crate) deadline_us: Option<u64>,
}

impl Schedule {
    /// Asks it for `request`.
    pub(crate) fn apply(self, request: &mut InferRequest<'_>) {
        request.class = self.real_time.map(|real_time| match real_time {
            true => ClassRequest::RealTime,
            false => ClassRequest::BestEffort,
        });
        request.priority = self.priority;
        request.timeout = self.timeout_us.map(Nanos::from_micros);
        request.deadline = self.deadline_us.map(Nanos::from_micros);
    }
}

/// Hands a client's request to the engine.
pub(crate) fn submit(
    state: &State,
    client: &Client,
    mut request: InferRequest<'_>,
) -> Result<InferFuture, Problem> {
    client.check_model(request.model)?;
    if client.is_known()
        && let Some(model) = state.engine.model(request.model, request.version)
    {
        client.limit(&mut request, model.settings.class)?;
    }
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
        None => Err(Problem::invalid(format!("input '{input}': there is no datatype '{datatype}'"))),
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
