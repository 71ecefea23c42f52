//! The log's lines about requests, over every protocol.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use reef_client::{OpenModel, Options, Terms};
use reef_engine::ModelSettings;
use serde_json::Value;
use tonic::{Code, Request};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::access::{BEST_EFFORT, REAL_TIME, clients};
use crate::client::Client;
use crate::fixture::{Fixture, until, x, y};
use crate::grpc::client::{Grpc, good, refused};
use crate::grpc::stream::open_request;
use crate::ring::Folder;

/// What this process has logged of requests, since somebody first asked.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// The log, from now on if nobody has asked before.
    pub fn read() -> &'static Lines {
        static LINES: OnceLock<Lines> = OnceLock::new();
        LINES.get_or_init(|| {
            let lines = Lines::default();
            let log = tracing_subscriber::fmt()
                .json()
                .flatten_event(true)
                .with_env_filter(EnvFilter::new("off,reef_server::core::note=debug"))
                .with_writer(lines.clone());
            log.init();
            lines
        })
    }

    /// The line about the request that this id is of; waits for it.
    fn of(&self, id: &str) -> Value {
        let mut found = None;
        until(|| {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let lines = text.lines().filter(|line| line.contains(id));
            let mut lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
            found = lines.find(|line| line["id"] == id);
            found.is_some()
        });
        let line = found.expect("it was found");
        assert_eq!(line["message"], "request", "{line}");
        line
    }

    /// The same, with these values in it.
    fn check(&self, id: &str, wanted: &[(&str, Value)]) -> Value {
        let line = self.of(id);
        for (field, value) in wanted {
            assert_eq!(line[*field], *value, "{field} of {line}");
        }
        let fields = line.as_object().unwrap();
        for field in ["protocol", "method", "path", "status", "peer", "time_us"] {
            assert!(fields.contains_key(field), "{field}: {line}");
        }
        for field in ["class", "queue_us", "compute_us"] {
            assert_eq!(fields.contains_key(field), line["status"] == 200 || line["status"] == 0, "{line}");
        }
        line
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// A server with clients, of which the best-effort one may send two requests, and the model `m`.
fn limited(ring: Option<&Path>) -> Fixture {
    let fixture = Fixture::with(|options| {
        clients(options);
        let best_effort = &mut options.access.clients[0];
        (best_effort.requests_per_s, best_effort.burst) = (Some(0.001), Some(1));
        options.ring = ring.map(reef_server::RingOptions::new);
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture
}

#[test]
fn requests_over_http_have_a_line_each() {
    let lines = Lines::read();
    let fixture = limited(None);
    let mut client = fixture.client();
    let infer = |client: &mut Client, id: &str, token: &str| {
        let json = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;
        let headers = [("x-request-id", id), ("x-api-key", token)];
        client.request("POST", "/v2/models/m/infer", &headers, json.as_bytes()).status
    };
    assert_eq!(infer(&mut client, "http-good", BEST_EFFORT), 200);
    assert_eq!(infer(&mut client, "http-limited", BEST_EFFORT), 429);
    assert_eq!(infer(&mut client, "http-unknown", "token-of-nobody-known"), 401);
    let about = [("protocol", "http"), ("method", "POST"), ("path", "/v2/models/m/infer")];
    let about = about.map(|(field, value)| (field, Value::from(value)));
    let with = |more: &[(&'static str, Value)]| [&about[..], more].concat();
    let good = [("status", 200.into()), ("client", "be".into()), ("model", "m/1".into())];
    lines.check("http-good", &with(&good));
    lines.check("http-limited", &with(&[("status", 429.into()), ("client", "be".into())]));
    lines.check("http-unknown", &with(&[("status", 401.into()), ("client", Value::Null)]));
}

fn send(client: &Grpc, id: &str, token: &str, model: &str) -> Result<(), tonic::Status> {
    let mut request = Request::new(good(model));
    for (name, value) in [("x-request-id", id), ("x-api-key", token)] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    client.block_on(client.send(request)).unwrap().map(drop)
}

#[test]
fn rpcs_have_a_line_each_and_so_have_requests_of_streams() {
    let lines = Lines::read();
    let fixture = limited(None);
    let client = fixture.grpc();
    send(&client, "grpc-good", BEST_EFFORT, "m").unwrap();
    refused(send(&client, "grpc-limited", BEST_EFFORT, "m"), Code::ResourceExhausted, "more often");
    refused(send(&client, "grpc-none", REAL_TIME, "none"), Code::NotFound, "no model");
    refused(send(&client, "grpc-unknown", "token-of-nobody-known", "m"), Code::Unauthenticated, "nobody");
    let rpc = |name: &str| Value::from(format!("/inference.GRPCInferenceService/{name}"));
    let (protocol, method) = (("protocol", Value::from("grpc")), ("method", Value::from("POST")));
    let check = |id: &str, path: &str, more: &[(&'static str, Value)]| {
        let about = [protocol.clone(), method.clone(), ("path", rpc(path))];
        lines.check(id, &[&about[..], more].concat());
    };
    let [be, rt] = ["be", "rt"].map(|name| ("client", Value::from(name)));
    let status = |code: i32| ("status", Value::from(code));
    check("grpc-good", "ModelInfer", &[status(0), be.clone(), ("model", "m/1".into())]);
    check("grpc-limited", "ModelInfer", &[status(8), be.clone()]);
    check("grpc-none", "ModelInfer", &[status(5), rt.clone(), ("model", "none".into())]);
    check("grpc-unknown", "ModelInfer", &[status(16), ("client", Value::Null)]);
    let mut stream = open_request(&client, |metadata| {
        metadata.insert("x-request-id", "stream".parse().unwrap());
        metadata.insert("x-api-key", REAL_TIME.parse().unwrap());
    });
    let with_id = |id: &str, model: &str| {
        let mut request = good(model);
        request.id = id.into();
        request
    };
    for request in [with_id("", "m"), with_id("of its own", "none"), with_id("stream-own", "m")] {
        stream.send(request);
        assert!(stream.next(&client).unwrap().is_some());
    }
    let streamed = "ModelStreamInfer";
    check("stream-0", streamed, &[status(0), rt.clone(), ("model", "m/1".into())]);
    // An id that cannot be shown is none.
    check("stream-1", streamed, &[status(5), rt.clone(), ("model", "none".into())]);
    check("stream-own", streamed, &[status(0), rt]);
}

#[test]
fn requests_through_the_ring_have_a_line_each() {
    let lines = Lines::read();
    let folder = Folder::new();
    let fixture = limited(Some(&folder.socket()));
    let options = Options { tensor_bytes: 1 << 16, token: Some(BEST_EFFORT.into()), ..Options::default() };
    let mut client = reef_client::Client::connect(folder.socket(), &options).unwrap();
    let model = client.open(&OpenModel::new("m").input("x", "FP32", &[2, 2])).unwrap();
    assert!(client.infer(model, &[&[1; 16]], &Terms::default(), |_, _| ()).is_ok());
    assert!(client.infer(model, &[&[1; 16]], &Terms::default(), |_, _| ()).is_err());
    let about = [("protocol", "ring"), ("method", "infer"), ("path", "m"), ("client", "be")];
    let about = about.map(|(field, value)| (field, Value::from(value)));
    let with = |more: &[(&'static str, Value)]| [&about[..], more].concat();
    let good = lines.check(
        &client.request_id(0),
        &with(&[("status", 0.into()), ("model", "m/1".into()), ("class", "best-effort".into())]),
    );
    assert!(good["peer"].as_str().unwrap().contains(&format!("pid={},", std::process::id())), "{good}");
    let limited = reef_client::Status::Limited as u32;
    lines.check(&client.request_id(1), &with(&[("status", limited.into()), ("model", "m".into())]));
    drop(fixture);
}
