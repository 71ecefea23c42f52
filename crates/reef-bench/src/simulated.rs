//! An engine over simulated devices, as what a run in virtual time asks: the code that serves requests, in no
//! more time than it takes to compute, and with the same result each time.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use reef_base::{Nanos, Rng};
use reef_engine::{DType, Engine, InferError, InferFuture, InferRequest, InferResponse, InputTensor, Shape};
use reef_load::{Answered, Asked, Reply, Run, RunClient, Served, WorkloadError};

use crate::callers::{self, class_request};
use crate::error::BenchError;
use crate::inputs;

/// An engine whose devices have a virtual clock, asked by the clients of one run. The run begins when this is
/// made; nobody else is to ask the engine or to move its clock until it is over.
pub struct SimulatedEngine {
    engine: Engine,
    /// The engine's time at zero of the run.
    start: Nanos,
    /// One per client of the run.
    clients: Vec<Asking>,
    /// By client and caller.
    under_way: BTreeMap<(usize, usize), UnderWay>,
    /// Answers that were not fetched yet.
    answers: Vec<Answered>,
}

/// What a client asks for.
struct Asking {
    client: RunClient,
    inputs: Vec<Input>,
}

struct Input {
    name: String,
    dtype: DType,
    shape: Shape,
    data: Vec<u8>,
}

struct UnderWay {
    sent: Nanos,
    future: InferFuture,
}

impl SimulatedEngine {
    /// `engine` for the clients of `run`, whose models it has: each asks for its class and level, with its
    /// enforced deadline from the scheduled arrival, and with inputs that `seed` chooses. Fails if the engine
    /// runs in real time, a model is not there or one of its inputs has a symbolic extent.
    pub fn new(engine: &Engine, run: &Run, seed: u64) -> Result<SimulatedEngine, BenchError> {
        if engine.device().virtual_clock().is_none() {
            return Err(BenchError::RealTime);
        }
        let clients = run.clients.iter().zip(seed..).map(|(client, seed)| asking(engine, client, seed));
        Ok(SimulatedEngine {
            engine: engine.clone(),
            start: engine.now(),
            clients: clients.collect::<Result<_, _>>()?,
            under_way: BTreeMap::new(),
            answers: Vec::new(),
        })
    }

    /// The engine's time, from the start of the run.
    fn now(&self) -> Nanos {
        self.engine.now() - self.start
    }

    /// Takes the answers that are there now.
    fn collect(&mut self) {
        let (now, start) = (self.now(), self.start);
        for (&(client, caller), request) in &mut self.under_way {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(result) = Pin::new(&mut request.future).poll(&mut context) {
                let model = &self.clients[client].client.model;
                let reply = |response: InferResponse| reply(&response, start + request.sent);
                let answer = result.map(reply).map_err(|error| BenchError::infer(model)(error).into());
                self.answers.push(Answered { client, caller, at: now, answer });
            }
        }
        let (under_way, answers) = (&mut self.under_way, &self.answers);
        answers.iter().for_each(|answered| drop(under_way.remove(&(answered.client, answered.caller))));
    }
}

impl Served for SimulatedEngine {
    fn send(&mut self, asked: Asked) {
        let Asked { client, caller, due, sent } = asked;
        let submitted = self.clients[client].submit(&self.engine, self.start + due);
        match submitted {
            Ok(future) => {
                self.under_way.insert((client, caller), UnderWay { sent, future });
                self.collect();
            }
            Err(error) => {
                let model = &self.clients[client].client.model;
                let answer = Err(BenchError::infer(model)(error).into());
                self.answers.push(Answered { client, caller, at: sent, answer });
            }
        }
    }

    fn next_event(&mut self) -> Option<Nanos> {
        match self.answers.is_empty() {
            true => self.engine.next_event().map(|at| at - self.start),
            false => Some(self.now()),
        }
    }

    fn run_until(&mut self, until: Nanos) -> Vec<Answered> {
        let until = self.start + until;
        while let Some(at) = self.engine.next_event().filter(|&at| at <= until) {
            self.engine.run_until(at);
            self.collect();
        }
        // Also where nothing happened: to hear of what was done to a device meanwhile.
        self.engine.run_until(until);
        self.collect();
        std::mem::take(&mut self.answers)
    }
}

impl Input {
    fn tensor(&self) -> InputTensor<'_> {
        let Input { name, dtype, shape, data } = self;
        InputTensor { name, dtype: *dtype, shape: shape.clone(), data }
    }
}

impl Asking {
    fn submit(&self, engine: &Engine, due: Nanos) -> Result<InferFuture, InferError> {
        engine.submit(&InferRequest {
            class: Some(class_request(self.client.class)),
            priority: self.client.priority(),
            deadline: self.client.enforced_deadline.map(Nanos::from),
            arrival: Some(due),
            ..InferRequest::new(&self.client.model, self.inputs.iter().map(Input::tensor).collect())
        })
    }
}

fn asking(engine: &Engine, client: &RunClient, seed: u64) -> Result<Asking, BenchError> {
    let unknown = || BenchError::infer(&client.model)(InferError::UnknownModel(client.model.clone()));
    let model = engine.model(&client.model, None).ok_or_else(unknown)?;
    let mut rng = Rng::new(seed);
    let mut made = Vec::new();
    for info in model.inputs {
        let shape = info.fixed_shape().ok_or_else(|| WorkloadError::Unusable {
            name: client.name.clone(),
            problem: format!("input '{}' of model {} has no fixed size", info.name, client.model),
        })?;
        let mut data = vec![0; shape.elements() * info.dtype.bytes()];
        inputs::fill(info.dtype.protocol_name(), &mut data, &mut rng);
        made.push(Input { name: info.name, dtype: info.dtype, shape, data });
    }
    Ok(Asking { client: client.clone(), inputs: made })
}

fn reply(response: &InferResponse, sent: Nanos) -> Reply {
    let first_block = Some(response.first_block);
    Reply { first_block, preempted: response.preempted, ..callers::reply(&response.timings, sent) }
}
