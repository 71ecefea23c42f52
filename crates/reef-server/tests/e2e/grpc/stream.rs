//! Many requests on one stream.

use std::collections::BTreeSet;
use std::time::Duration;

use reef_engine::{ClassStats, DType, Level, ModelSettings};
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status, Streaming};

use super::client::pb::{ModelInferRequest, ModelStreamInferResponse};
use super::client::{Grpc, floats, good, raw_request, tensor};
use crate::fixture::{Fixture, expected, x, y};

/// An open stream.
pub struct Open {
    requests: Option<mpsc::UnboundedSender<ModelInferRequest>>,
    answers: Streaming<ModelStreamInferResponse>,
    /// What its answer began with.
    pub metadata: MetadataMap,
}

fn open(client: &Grpc) -> Open {
    open_as(client, None)
}

/// With this token.
pub fn open_as(client: &Grpc, token: Option<&str>) -> Open {
    open_request(client, |metadata| {
        if let Some(token) = token {
            metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
    })
}

/// With this metadata.
pub fn open_request(client: &Grpc, metadata: impl FnOnce(&mut MetadataMap)) -> Open {
    try_open(client, metadata).unwrap()
}

fn try_open(client: &Grpc, metadata: impl FnOnce(&mut MetadataMap)) -> Result<Open, Status> {
    let (requests, queue) = mpsc::unbounded_channel();
    let queued =
        futures_util::stream::unfold(queue, |mut queue| async move { Some((queue.recv().await?, queue)) });
    let mut request = Request::new(queued);
    metadata(request.metadata_mut());
    let mut stub = client.client.clone();
    let answer = client.block_on(async { stub.model_stream_infer(request).await })?;
    let metadata = answer.metadata().clone();
    Ok(Open { requests: Some(requests), answers: answer.into_inner(), metadata })
}

impl Open {
    pub fn send(&self, request: ModelInferRequest) {
        self.requests.as_ref().expect("not closed yet").send(request).unwrap();
    }

    fn close(&mut self) {
        self.requests = None;
    }

    pub fn next(&mut self, client: &Grpc) -> Result<Option<ModelStreamInferResponse>, Status> {
        client.block_on(self.answers.message())
    }
}

fn with_id(id: usize) -> ModelInferRequest {
    ModelInferRequest { id: id.to_string(), ..good("m") }
}

#[test]
fn every_request_is_answered_once() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    let mut stream = open(&client);
    // More than are in flight at once.
    (0..200).for_each(|id| stream.send(with_id(id)));
    stream.close();
    let mut ids = BTreeSet::new();
    while let Some(answer) = stream.next(&client).unwrap() {
        assert_eq!(answer.error_message, "");
        let answer = answer.infer_response.unwrap();
        assert_eq!(answer.raw_output_contents, [expected(0, &[&floats(&[1.0, 2.0, 3.0, 4.0])], 16)]);
        assert!(ids.insert(answer.id.parse::<usize>().unwrap()));
    }
    assert_eq!(ids, (0..200).collect());
}

#[test]
fn an_error_is_its_requests_alone() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    let mut stream = open(&client);
    let answer = |stream: &mut Open, request| {
        stream.send(request);
        let answer = stream.next(&client).unwrap().unwrap();
        (answer.error_message, answer.infer_response.unwrap().id)
    };
    // Before there are buffers that are used again.
    fixture.gate.plant("alloc_io");
    let (error, id) = answer(&mut stream, with_id(4));
    assert!(id == "4" && error.contains("please report it: planted"), "{id}: {error}");
    assert_eq!(answer(&mut stream, with_id(1)), (String::new(), "1".into()));
    let (error, id) = answer(&mut stream, ModelInferRequest { model_name: "none".into(), ..with_id(2) });
    assert!(id == "2" && error.contains("no model 'none'"), "{id}: {error}");
    let (error, id) = answer(&mut stream, ModelInferRequest { raw_input_contents: vec![], ..with_id(3) });
    assert!(id == "3" && error.contains("neither raw_input_contents"), "{id}: {error}");
    assert_eq!(answer(&mut stream, with_id(5)), (String::new(), "5".into()));
    stream.close();
    assert!(stream.next(&client).unwrap().is_none());
}

#[test]
fn answers_come_as_they_end() {
    let fixture = Fixture::with_m();
    fixture.model("rt", &[x()], &[y()], ModelSettings::real_time(Level::TOP));
    fixture.gate.freeze();
    let client = fixture.grpc();
    let mut stream = open(&client);
    stream.send(with_id(1));
    fixture.wait_for("m", ClassStats::pending, 1);
    stream.send(ModelInferRequest { model_name: "rt".into(), ..with_id(2) });
    fixture.wait_for("rt", ClassStats::pending, 1);
    fixture.gate.flow();
    let mut next = || stream.next(&client).unwrap().unwrap().infer_response.unwrap().id;
    assert_eq!([next(), next()], ["2", "1"], "the urgent one first");
}

#[test]
fn only_so_many_are_in_flight() {
    let fixture = Fixture::with_m();
    fixture.gate.freeze();
    let client = fixture.grpc();
    let mut stream = open(&client);
    (0..100).for_each(|id| stream.send(with_id(id)));
    fixture.wait_for("m", ClassStats::pending, 64);
    // What another client sends afterwards is there, what the stream has sent before is not.
    let other = client.send(good("m"));
    fixture.wait_for("m", ClassStats::pending, 65);
    fixture.gate.flow();
    assert!(client.block_on(other).unwrap().is_ok());
    stream.close();
    let mut count = 0;
    while stream.next(&client).unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 100);
}

#[test]
fn a_stream_that_ends_early_cancels_its_tasks() {
    let fixture = Fixture::with_m();
    let mut cancels = 0;
    let leave: [fn(Open, Grpc); 2] = [
        |stream, client| drop((stream, client)),
        |stream, client| {
            client.cut_off();
            drop(stream);
        },
    ];
    for leave in leave {
        fixture.gate.freeze();
        let client = fixture.grpc();
        let stream = open(&client);
        // As many as the device has at a time.
        (0..2).for_each(|id| stream.send(with_id(id)));
        fixture.wait_for("m", ClassStats::pending, 2);
        leave(stream, client);
        cancels += 2;
        fixture.gate.wait_for_cancels(cancels);
        fixture.gate.flow();
        fixture.wait_for("m", ClassStats::pending, 0);
    }
}

#[test]
fn the_end_of_a_streams_time_cancels_its_tasks() {
    let fixture = Fixture::with_m();
    fixture.gate.freeze();
    let client = fixture.grpc();
    let mut time = Duration::from_millis(200);
    // On a busy machine the time may be over before the device has the task: then it gets more.
    while fixture.gate.submits() == 0 {
        let opened = try_open(&client, |metadata| {
            metadata.insert("grpc-timeout", format!("{}m", time.as_millis()).parse().unwrap());
        });
        time *= 2;
        let Ok(mut stream) = opened else { continue };
        stream.send(with_id(1));
        let ended = loop {
            match stream.next(&client) {
                // The engine's clock stands still, ours ends the stream.
                Ok(Some(answer)) => assert!(answer.error_message.contains("deadline"), "{answer:?}"),
                Ok(None) => panic!("the stream ended well"),
                Err(status) => break status,
            }
        };
        assert_eq!(ended.code(), Code::DeadlineExceeded);
    }
    fixture.gate.wait_for_cancels(fixture.gate.submits());
    fixture.gate.flow();
    fixture.wait_for("m", ClassStats::pending, 0);
}

#[test]
fn a_message_that_is_too_large_ends_the_stream() {
    let fixture = Fixture::new();
    fixture.model("m", &[("x", DType::U8, &[-1])], &[y()], ModelSettings::default());
    let client = fixture.grpc();
    let mut stream = open(&client);
    let bytes = 2 << 20;
    stream.send(raw_request("m", vec![tensor("x", "UINT8", &[bytes])], vec![vec![0; bytes as usize].into()]));
    let ended = stream.next(&client).unwrap_err();
    assert_eq!(ended.code(), Code::ResourceExhausted, "{ended:?}");
    // Other RPCs on the connection go on.
    let small = raw_request("m", vec![tensor("x", "UINT8", &[1])], vec![vec![0].into()]);
    assert!(client.infer(small).is_ok());
}

#[test]
fn an_open_stream_does_not_hold_up_the_end() {
    let mut fixture = Fixture::with_m();
    let client = fixture.grpc();
    let mut stream = open(&client);
    stream.send(with_id(1));
    assert!(stream.next(&client).unwrap().is_some());
    assert!(fixture.shut_down(Duration::ZERO).join().unwrap(), "no connection is cut off");
    assert_eq!(stream.next(&client).unwrap_err().code(), Code::Unavailable);
}
