//! One inference: from the message to the engine and back to an answer.
//!
//! Invariant: dropping [`answer`]'s future, which is what happens when the RPC is cancelled, its time is over
//! or its connection is gone, drops the engine's future, and that cancels the request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reef_engine::{InferResponse, Nanos};
use tonic::Status;

use crate::core::access::Client;
use crate::core::answer::{self, Data, Parameter, Tensor};
use crate::core::budget::Share;
use crate::core::note::{Known, Ran, wanted};
use crate::core::parameter::quoted;
use crate::core::problem::Problem;
use crate::core::question::{self, Output};
use crate::core::regions::Shared;
use crate::core::requests::shown;
use crate::core::state::State;
use crate::grpc::pb::infer_parameter::ParameterChoice;
use crate::grpc::pb::model_infer_response::InferOutputTensor;
use crate::grpc::pb::{InferParameter, ModelInferRequest, ModelInferResponse};
use crate::grpc::question::read;
use crate::grpc::receive::Messages;
use crate::grpc::reply::{Answer, Form, frame_answer};
use crate::grpc::status::status;
use crate::net::connection::Connection;
use crate::net::outgoing::{Room, counted};

/// When an RPC began, and how long its client waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) arrival: Nanos,
    pub(crate) limit: Option<Duration>,
}

/// Answers the RPC for one inference with a frame.
pub(crate) async fn infer(
    state: &Arc<State>,
    connection: &Arc<Connection>,
    client: &Client,
    messages: Messages<ModelInferRequest>,
    timing: Timing,
    known: &mut Known,
) -> Result<Vec<Bytes>, Status> {
    state.check_loaded().map_err(status)?;
    let (message, share) = messages.only().await?;
    known.learn(state, &message);
    let answer = answer(state, client, message, share, timing).await.map_err(status)?;
    known.ran = Some(answer.ran.clone());
    let room = Room::new(state, connection, answer.class);
    let frame = frame_answer(answer, Form::Alone)?;
    counted(state, room, frame).await.map_err(status)
}

impl Known {
    /// Takes in what a message says of itself, as far as it is short.
    pub(crate) fn learn(&mut self, state: &State, message: &ModelInferRequest) {
        self.id = shown(&message.id).map(String::from);
        if wanted(state) {
            self.model = Some(quoted(&message.model_name));
        }
    }
}

/// Has the engine do what a client's message asks; `share` is the message's part of the budget.
pub(crate) async fn answer(
    state: &Arc<State>,
    client: &Client,
    mut message: ModelInferRequest,
    share: Option<Share>,
    timing: Timing,
) -> Result<Answer, Problem> {
    state.check_loaded()?;
    let id = std::mem::take(&mut message.id);
    let question = read(message, timing.arrival, timing.limit)?;
    let (running, wanted) = question::ask_soon(state, client, question, share).await?;
    let response = running.await?;
    if answer::is_long(&response, &wanted) {
        let server = state.clone();
        let lane = state.lanes.of(response.class);
        return lane.run(move || write(&server, response, &wanted, id)).await?;
    }
    write(state, response, &wanted, id)
}

fn write(state: &State, response: InferResponse, wanted: &[Output], id: String) -> Result<Answer, Problem> {
    let response = Arc::new(response);
    let tensors = answer::tensors(state, &response, wanted)?;
    let head = ModelInferResponse {
        model_name: response.model.name.clone(),
        model_version: response.model.version.clone(),
        id,
        parameters: parameters(&response),
        outputs: tensors.iter().map(output).collect(),
        raw_output_contents: Vec::new(),
    };
    let (class, ran) = (response.class, Ran::of(&response));
    Ok(Answer { class, ran, head, raw: tensors.into_iter().map(Tensor::into_bytes).collect() })
}

fn output(tensor: &Tensor<'_>) -> InferOutputTensor {
    InferOutputTensor {
        name: tensor.name.into(),
        datatype: tensor.datatype().into(),
        // A shape of a tensor in memory.
        shape: tensor.shape.iter().map(|&extent| extent as i64).collect(),
        parameters: match &tensor.data {
            Data::Shared { region, .. } => whereabouts(region),
            Data::Elements(..) | Data::Texts(_) => HashMap::new(),
        },
        contents: None,
    }
}

/// Where an output is that is in shared memory.
fn whereabouts(shared: &Shared) -> HashMap<String, InferParameter> {
    let number = |number| ParameterChoice::Int64Param(i64::try_from(number).unwrap_or(i64::MAX));
    let parameters = [
        ("shared_memory_region", ParameterChoice::StringParam(shared.region.clone())),
        ("shared_memory_offset", number(shared.offset)),
        ("shared_memory_byte_size", number(shared.byte_size)),
    ];
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    parameters.into_iter().map(|(name, choice)| (name.to_string(), parameter(choice))).collect()
}

/// What the answer says about how it was made.
fn parameters(response: &InferResponse) -> HashMap<String, InferParameter> {
    let choice = |parameter| match parameter {
        Parameter::Text(text) => ParameterChoice::StringParam(text.into()),
        Parameter::Whole(number) => ParameterChoice::Int64Param(i64::try_from(number).unwrap_or(i64::MAX)),
        Parameter::Real(number) => ParameterChoice::DoubleParam(number),
        Parameter::Flag(flag) => ParameterChoice::BoolParam(flag),
    };
    let parameters = answer::parameters(response).into_iter();
    parameters
        .map(|(name, parameter)| {
            (name.to_string(), InferParameter { parameter_choice: Some(choice(parameter)) })
        })
        .collect()
}
