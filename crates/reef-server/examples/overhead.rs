//! Latency of a tiny model in-process, over the ring and over HTTP, idle and beside saturating best-effort
//! work.
//!
//! `cargo run --release -p reef-server --example overhead`: minimum, p50, p99, maximum in microseconds.
//! `pause` is between two requests: 500 µs, in which threads fall asleep, or none, in which they stay awake.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reef_client::{Client, OpenModel, Options, Terms};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::Device;
use reef_engine::{
    DType, Engine, EngineOptions, InferRequest, InputTensor, Level, ModelKey, ModelSettings, Shape,
};
use reef_plan::{SyntheticStage, synthetic_plan};
use reef_server::{RingOptions, Server, ServerOptions};

const COUNT: usize = 5_000;

/// Requests of one way after another; the first finds its threads asleep whatever the pause, and does not
/// count.
const BURST: usize = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Arc::new(CpuDevice::start(CpuOptions::default())?);
    let target = device.capabilities().target;
    let engine = Engine::new(device, EngineOptions::default())?;
    let key = |name: &str| ModelKey { name: name.into(), version: "1".into() };
    let stage = |blocks, polls| SyntheticStage { blocks, polls, poll_ns: 5_000 };
    let tiny = Arc::new(synthetic_plan("tiny", target, 1, &[])?);
    let large = Arc::new(synthetic_plan("large", target, 2, &[stage(8, 20); 50])?);
    engine.load_plan(key("tiny"), ModelSettings::real_time(Level::TOP), tiny)?;
    engine.load_plan(key("large"), ModelSettings::default(), large)?;
    let any = "127.0.0.1:0".parse()?;
    let socket = std::env::temp_dir().join(format!("reef-overhead-{}.sock", std::process::id()));
    let ring = Some(RingOptions::new(&socket));
    let options = ServerOptions { http: any, metrics: None, ring, ..ServerOptions::default() };
    let running = Server::bind(options)?.start(engine.clone())?;

    for busy in [false, true] {
        let stop = Arc::new(AtomicBool::new(!busy));
        let load: Vec<_> = (0..2).map(|_| best_effort(engine.clone(), stop.clone())).collect();
        let title = if busy { "beside best-effort" } else { "idle" };
        let mut stream = TcpStream::connect(running.http_addr())?;
        stream.set_nodelay(true)?;
        let mut client = Client::connect(&socket, &Options::default())?;
        let model = client.open(&OpenModel::new("tiny").input("x", "UINT8", &[64]))?;
        for pause in [Duration::from_micros(500), Duration::ZERO] {
            let (mut direct, mut ring, mut http) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..COUNT / BURST {
                // In turns, so that what disturbs the machine disturbs all three.
                burst(pause, &mut direct, || in_process(&engine, "tiny"));
                burst(pause, &mut ring, || over_ring(&mut client, model));
                burst(pause, &mut http, || over_http(&mut stream));
            }
            let title = format!("{title}, pause {} µs", pause.as_micros());
            report(&title, "in-process", &mut direct);
            report(&title, "ring", &mut ring);
            report(&title, "HTTP", &mut http);
        }
        stop.store(true, Ordering::SeqCst);
        load.into_iter().for_each(|thread| thread.join().expect("the load ends"));
    }
    running.shutdown(Duration::ZERO);
    Ok(())
}

fn best_effort(engine: Engine, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            in_process(&engine, "large");
        }
    })
}

fn burst(pause: Duration, times: &mut Vec<Duration>, mut work: impl FnMut()) {
    work();
    for _ in 0..BURST {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let start = Instant::now();
        work();
        times.push(start.elapsed());
    }
}

fn over_ring(client: &mut Client, model: reef_client::Model) {
    let read = |client: &Client, slot| client.output(slot, 0).map(|output| output.data.len());
    let answered = client.infer(model, &[&[1; 64]], &Terms::default(), read);
    assert_eq!(answered.expect("an answer").expect("an output"), 64);
}

fn in_process(engine: &Engine, model: &str) {
    let input = InputTensor { name: "x", dtype: DType::U8, shape: Shape::from([64]), data: &[1; 64] };
    let response = engine.infer(&InferRequest::new(model, vec![input])).expect("an answer");
    assert_eq!(response.outputs().next().expect("an output").data.len(), 64);
}

fn over_http(stream: &mut TcpStream) {
    let json = concat!(
        r#"{"inputs":[{"name":"x","shape":[64],"datatype":"UINT8","parameters":{"binary_data_size":64}}],"#,
        r#""parameters":{"binary_data_output":true}}"#
    );
    let mut request = format!(
        "POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\ninference-header-content-length: {}\r\n\
         content-length: {}\r\n\r\n{json}",
        json.len(),
        json.len() + 64
    )
    .into_bytes();
    request.extend_from_slice(&[1; 64]);
    stream.write_all(&request).expect("sent");
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).expect("received");
        answer.extend_from_slice(&chunk[..count]);
        let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&answer[..head]).expect("a head");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if answer.len() >= head + 4 + length.parse::<usize>().expect("a number") {
            return;
        }
    }
}

fn report(title: &str, what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    println!(
        "{title:38} {what:12} min {:8.1} p50 {:8.1} p99 {:8.1} max {:8.1} µs ({} requests)",
        at(0.0),
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    );
}
