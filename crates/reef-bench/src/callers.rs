//! Callers of a load: over HTTP and in-process, so that one load generator drives both.

use std::sync::Arc;

use reef_base::{ClassName, MonotonicClock, Nanos, Rng};
use reef_engine::{ClassRequest, Engine, Session, SessionOptions, Timings};
use reef_load::{CallError, Caller, Reply};

use crate::error::BenchError;
use crate::http::{Client, InferParameters, ModelMetadata, Prepared, Tensor};
use crate::inputs;

/// What an engine's timings say of a request that was sent at `sent` on its clock.
pub(crate) fn reply(timings: &Timings, sent: Nanos) -> Reply {
    let Timings { arrival, compute_input, queue, compute, .. } = *timings;
    let first_block = arrival + compute_input + queue;
    Reply { queue: Some(first_block.since(sent)), compute: Some(compute), ..Reply::default() }
}

/// A client's class as an engine is asked for it.
pub(crate) fn class_request(class: ClassName) -> ClassRequest {
    match class {
        ClassName::RealTime => ClassRequest::RealTime,
        ClassName::BestEffort => ClassRequest::BestEffort,
    }
}

/// A caller with a connection of its own.
#[derive(Debug)]
pub struct HttpCaller {
    client: Client,
    request: Arc<Prepared>,
}

impl HttpCaller {
    /// Sends `request` with `client`.
    pub fn new(client: Client, request: Arc<Prepared>) -> HttpCaller {
        HttpCaller { client, request }
    }
}

/// Response parameters that are read, where a server sends them: `compute_us`, and `preempt_us`, the time
/// from the task's submission to its first block, there only if the task displaced less urgent work.
impl Caller for HttpCaller {
    fn call(&mut self) -> Result<Reply, CallError> {
        let answer = self.client.infer(&self.request)?;
        let time = |name| answer.number(name).map(|us: f64| Nanos((us * 1e3) as u64));
        Ok(Reply {
            // The way to the server is not part of what it says.
            queue: None,
            compute: time("compute_us"),
            first_block: time("preempt_us"),
            all_cus: None,
            preempted: answer.parameters.contains_key("preempt_us"),
        })
    }
}

/// A request with seeded inputs for a model without symbolic extents.
pub fn random_request(
    metadata: &ModelMetadata,
    parameters: InferParameters,
    seed: u64,
) -> Result<Prepared, BenchError> {
    let mut rng = Rng::new(seed);
    let mut tensors = Vec::new();
    for input in &metadata.inputs {
        let shape: Option<Vec<usize>> = input.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let sized = shape.zip(inputs::element_bytes(&input.datatype));
        let (shape, element) = sized.ok_or_else(|| BenchError::Protocol {
            what: format!("the metadata of {}", metadata.name),
            problem: format!("input '{}' has no fixed size", input.name),
        })?;
        let mut data = vec![0; shape.iter().product::<usize>() * element];
        inputs::fill(&input.datatype, &mut data, &mut rng);
        tensors.push((input, shape, data));
    }
    let tensors: Vec<Tensor<'_>> = tensors
        .iter()
        .map(|(input, shape, data)| Tensor { name: &input.name, datatype: &input.datatype, shape, data })
        .collect();
    Ok(Prepared::infer(&metadata.name, &tensors, parameters))
}

/// An in-process caller with buffers of its own.
#[derive(Debug)]
pub struct SessionCaller {
    model: String,
    session: Session,
}

impl SessionCaller {
    /// A session of `model` with its own settings and seeded inputs.
    pub fn new(engine: &Engine, model: &str, seed: u64) -> Result<SessionCaller, BenchError> {
        SessionCaller::with(engine, model, &SessionOptions::default(), seed)
    }

    /// A session of `model` as `options` say, with seeded inputs.
    pub fn with(
        engine: &Engine,
        model: &str,
        options: &SessionOptions<'_>,
        seed: u64,
    ) -> Result<SessionCaller, BenchError> {
        let session = engine.session(model, options).map_err(BenchError::infer(model))?;
        let mut caller = SessionCaller { model: model.to_string(), session };
        let mut rng = Rng::new(seed);
        for index in 0..caller.session.inputs().len() {
            let datatype = caller.session.inputs()[index].dtype.protocol_name();
            inputs::fill(datatype, caller.session.input_mut(index), &mut rng);
        }
        Ok(caller)
    }

    /// `count` sessions of `model`, for one load.
    pub fn several(engine: &Engine, model: &str, count: usize) -> Result<Vec<Box<dyn Caller>>, BenchError> {
        let one = |seed| Ok(Box::new(SessionCaller::new(engine, model, seed)?) as Box<dyn Caller>);
        (0..count as u64).map(one).collect()
    }
}

impl Caller for SessionCaller {
    fn call(&mut self) -> Result<Reply, CallError> {
        self.call_at(MonotonicClock::read())
    }

    fn call_at(&mut self, due: Nanos) -> Result<Reply, CallError> {
        let called = MonotonicClock::read();
        let info = self.session.run_from(due).map_err(BenchError::infer(&self.model))?;
        Ok(Reply {
            first_block: Some(info.first_block),
            all_cus: info.all_cus,
            preempted: info.preempted,
            ..reply(&info.timings, called)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::tests::{fake_server, infer_answer};

    #[test]
    fn preemptions_and_failures_are_told_apart() {
        let address = fake_server(move |number, _| match number {
            0 => Some(infer_answer(&[1], json!({"preempt_us": 7, "compute_us": 3}))),
            1 => Some(infer_answer(&[1], json!({"queue_us": 90}))),
            _ => Some(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_vec()),
        });
        let request = Arc::new(Prepared::infer("m", &[], InferParameters::default()));
        let mut caller = HttpCaller::new(Client::new(address), request);
        let preempted = Reply {
            compute: Some(Nanos(3_000)),
            first_block: Some(Nanos(7_000)),
            preempted: true,
            ..Reply::default()
        };
        assert_eq!(caller.call().unwrap(), preempted);
        assert_eq!(caller.call().unwrap(), Reply::default());
        assert!(caller.call().is_err());
    }
}
