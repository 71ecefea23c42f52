//! Many inferences on one stream: answers come as they end, each with its request's id.
//!
//! | event | what happens |
//! |---|---|
//! | a message, fewer than [`IN_FLIGHT_MAX`] are being answered | it is handed to the engine |
//! | that many are being answered | no message is read, so that the client has to wait |
//! | a message that its client may not send now | an `error_message`; the stream goes on |
//! | an inference ends | its answer goes out, or its `error_message`; the stream goes on |
//! | a message that cannot be read | what is being answered is cancelled; the stream ends with a status |
//! | the client has sent its last message | the stream ends with the last answer |
//! | its client's token counts no more | no message is read any more; the stream ends with the last answer |
//! | the server closes | no message is read any more; the stream ends with the last answer |
//! | the RPC is cancelled, its time is over, its connection is gone | what is being answered is cancelled |

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use reef_engine::Class;
use tonic::{Code, Status};

use crate::core::access::Client;
use crate::core::budget::Share;
use crate::core::fault::{bug, contained};
use crate::core::note::Known;
use crate::core::problem::Problem;
use crate::core::requests::Outcome;
use crate::core::state::{Phase, State};
use crate::grpc::infer::{self, Timing};
use crate::grpc::note::InStream;
use crate::grpc::pb::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use crate::grpc::receive::Messages;
use crate::grpc::reply::{Form, Frames, frame, frame_answer};
use crate::grpc::status::{self, closing};
use crate::net::connection::Connection;
use crate::net::outgoing::{Room, counted};

/// Inferences of one stream that are being answered at most.
const IN_FLIGHT_MAX: usize = 64;

type Received = Result<Option<(ModelInferRequest, Option<Share>)>, Status>;
type Reading = Pin<Box<dyn Future<Output = (Messages<ModelInferRequest>, Received)> + Send>>;
type Answering = Pin<Box<dyn Future<Output = Result<Vec<Bytes>, Status>> + Send>>;

/// Answers the messages of an RPC whose client waits for `limit` at most. Each of them counts as a request.
pub(crate) fn infer_all(
    state: &Arc<State>,
    connection: Arc<Connection>,
    client: Client,
    messages: Messages<ModelInferRequest>,
    limit: Option<Duration>,
    noted: InStream,
) -> Frames {
    let mut phase = state.phase.subscribe();
    let closes = async move {
        let _ = phase.wait_for(|&phase| phase >= Phase::Closing).await;
    };
    Box::pin(Answers {
        state: state.clone(),
        connection,
        revoked: Box::pin(revoked(state.clone(), client.clone())),
        client,
        noted: Arc::new(noted),
        count: 0,
        until: limit.map(|limit| Instant::now() + limit),
        reading: Some(next(messages)),
        answering: FuturesUnordered::new(),
        closes: Box::pin(closes),
        last: None,
    })
}

struct Answers {
    state: Arc<State>,
    connection: Arc<Connection>,
    client: Client,
    noted: Arc<InStream>,
    /// Messages so far.
    count: u64,
    until: Option<Instant>,
    /// `None` once no message is read any more.
    reading: Option<Reading>,
    answering: FuturesUnordered<Answering>,
    closes: Pin<Box<dyn Future<Output = ()> + Send>>,
    revoked: Pin<Box<dyn Future<Output = Status> + Send>>,
    /// What the stream ends with.
    last: Option<Status>,
}

impl Answers {
    /// Takes in what has arrived, as far as there is room.
    fn read(&mut self, context: &mut Context<'_>) {
        // First: what comes later is not taken.
        if self.reading.is_some()
            && let Poll::Ready(status) = self.revoked.as_mut().poll(context)
        {
            self.reading = None;
            self.last = Some(status);
        }
        while self.answering.len() < IN_FLIGHT_MAX
            && let Some(reading) = &mut self.reading
            && let Poll::Ready((messages, received)) = reading.as_mut().poll(context)
        {
            match received {
                Ok(Some((message, share))) => {
                    let answering = self.answer(message, share);
                    self.answering.push(answering);
                    self.reading = Some(next(messages));
                }
                Ok(None) => self.reading = None,
                Err(broken) => {
                    self.reading = None;
                    self.answering.clear();
                    self.note_broken(broken.code());
                    self.last = Some(broken);
                }
            }
        }
        if self.reading.is_some() && self.closes.as_mut().poll(context).is_ready() {
            self.reading = None;
            self.last = Some(closing());
        }
    }

    /// Notes a message that could not be read; a client that has left sent none.
    fn note_broken(&self, code: Code) {
        if code != Code::Cancelled {
            let known = Known { inference: true, client: Some(self.client.clone()), ..Known::default() };
            let ended = (code, status::outcome(code));
            self.noted.answered(&self.state, self.count, &known, ended, Instant::now());
        }
    }

    fn answer(&mut self, message: ModelInferRequest, share: Option<Share>) -> Answering {
        let (state, client) = (self.state.clone(), self.client.clone());
        let (noted, number, start) = (self.noted.clone(), self.count, Instant::now());
        self.count += 1;
        let limit = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        let timing = Timing { arrival: state.engine.now(), limit };
        let (model_name, id) = (message.model_name.clone(), message.id.clone());
        let connection = self.connection.clone();
        let mut known = Known { inference: true, client: Some(client.clone()), ..Known::default() };
        known.learn(&state, &message);
        Box::pin(async move {
            let answer = contained(async {
                let _permit = client.admit(timing.arrival)?;
                // Nobody looks at its answer while its client does not read: it has its room before.
                let room = reserve(&state, &connection, &client, &message)?;
                let answer = infer::answer(&state, &client, message, share, timing).await?;
                known.ran = Some(answer.ran.clone());
                let frame = frame_answer(answer, Form::InStream);
                let frame = frame.map_err(|error| Problem::internal(error.message().to_string()))?;
                counted(&state, room, frame).await
            });
            let answer = answer.await.unwrap_or_else(|panic| Err(bug(&panic)));
            let ended = match &answer {
                Ok(_) => (Code::Ok, Outcome::Success),
                Err(problem) => (status::code(problem.kind), Outcome::of(problem)),
            };
            noted.answered(&state, number, &known, ended, start);
            match answer {
                Ok(frame) => Ok(frame),
                Err(problem) => frame(&ModelStreamInferResponse {
                    error_message: problem.message,
                    infer_response: Some(ModelInferResponse { model_name, id, ..Default::default() }),
                }),
            }
        })
    }
}

impl Stream for Answers {
    type Item = Result<Vec<Bytes>, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.read(context);
        match Pin::new(&mut this.answering).poll_next(context) {
            Poll::Ready(Some(answer)) => Poll::Ready(Some(answer)),
            Poll::Ready(None) if this.reading.is_none() => Poll::Ready(this.last.take().map(Err)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Room for a message's answer, as far as its size is known before: of outputs with open extents there is
/// one element, or as many as there are rows in the message.
fn reserve(
    state: &State,
    connection: &Arc<Connection>,
    client: &Client,
    message: &ModelInferRequest,
) -> Result<Room, Problem> {
    let version = Some(&*message.model_version).filter(|version| !version.is_empty());
    let Ok(model) = state.find_ready(&message.model_name, version) else {
        // Whoever looks for it next says what is wrong.
        return Ok(Room::new(state, connection, Class::BestEffort));
    };
    let first = message.inputs.first().and_then(|input| input.shape.first());
    let rows = first.and_then(|&rows| usize::try_from(rows).ok()).unwrap_or(1);
    let mut bytes = 0usize;
    for output in &model.outputs {
        let extents = output.dims.iter().enumerate().map(|(axis, &dim)| match (usize::try_from(dim), axis) {
            (Ok(extent), _) => extent,
            (Err(_), 0) => rows,
            (Err(_), _) => 1,
        });
        bytes = bytes.saturating_add(extents.fold(output.dtype.bytes(), usize::saturating_mul));
    }
    let mut room = Room::new(state, connection, client.class(model.settings.class));
    // What shared memory takes needs none.
    if message.outputs.iter().all(|output| output.parameters.is_empty()) {
        room.resize(bytes)?;
    }
    Ok(room)
}

/// Waits until the token by which a client was known counts no more.
pub(crate) async fn revoked(state: Arc<State>, client: Client) -> Status {
    if !client.is_revocable() {
        return std::future::pending().await;
    }
    let mut changes = state.access.changes();
    loop {
        if let Err(problem) = state.access.check_current(&client) {
            return status::status(problem);
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Reads the next message.
fn next(mut messages: Messages<ModelInferRequest>) -> Reading {
    Box::pin(async move {
        let received = messages.next().await;
        (messages, received)
    })
}
