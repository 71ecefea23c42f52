//! What each way to the server adds to a call in-process at a tiny model, and what the server holds.
//!
//! `cargo run --release --workspace --example overhead [-- --quick]`. The first table has latencies in
//! microseconds, with one connection and with eight that all ask at once, idle and beside best-effort work
//! in-process that takes every unit of the device; `added` is the median less that in-process. `pause` is
//! between two requests: 500 µs, in which threads fall asleep, or none, in which they stay awake. The second
//! has eight connections that ask a best-effort model as fast as they get answers, and a real-time one that
//! asks every 10 ms meanwhile, beside what it gets alone.
//!
//! Clients are as lean as their protocols let them be, so what is added is the server's and the system's:
//! frames of HTTP/2 made by hand for `gRPC`, beside the same through tonic's client, as users have it.
//! Clients and server share the process and the machine's cores. Ways take turns in short bursts, so that
//! what disturbs the machine disturbs all of them.

mod frames;
mod ways;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::scope;
use std::time::{Duration, Instant};

use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::Device;
use reef_engine::{Engine, EngineOptions, Level, ModelKey, ModelSettings};
use reef_plan::{SyntheticStage, synthetic_plan};
use reef_server::{RingOptions, Server, ServerOptions};
use ways::{Server as Places, WAYS, Way};

/// Requests of one way after another; the first finds its threads asleep whatever the pause, and does not
/// count.
const BURST: usize = 50;
const PROBE_PERIOD: Duration = Duration::from_millis(10);
const MANY: usize = 8;

struct Lengths {
    /// Requests for a row of the first table.
    requests: usize,
    /// Of one burst of the second table, of each way.
    saturated: Duration,
    rounds: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let lengths = match quick {
        true => Lengths { requests: 400, saturated: Duration::from_millis(200), rounds: 1 },
        false => Lengths { requests: 8_000, saturated: Duration::from_secs(2), rounds: 5 },
    };
    let device = Arc::new(CpuDevice::start(CpuOptions::default())?);
    let target = device.capabilities().target;
    let engine = Engine::new(device, EngineOptions::default())?;
    let key = |name: &str| ModelKey { name: name.into(), version: "1".into() };
    let stage = |blocks, polls| SyntheticStage { blocks, polls, poll_ns: 5_000 };
    let tiny = Arc::new(synthetic_plan("tiny", target, 1, &[])?);
    let large = Arc::new(synthetic_plan("large", target, 2, &[stage(8, 20); 50])?);
    engine.load_plan(key(URGENT), ModelSettings::real_time(Level::TOP), tiny.clone())?;
    engine.load_plan(key(BATCH), ModelSettings::default(), tiny)?;
    engine.load_plan(key(LARGE), ModelSettings::default(), large)?;
    let any = "127.0.0.1:0".parse()?;
    let socket = std::env::temp_dir().join(format!("reef-overhead-{}.sock", std::process::id()));
    let ring = Some(RingOptions::new(&socket));
    let options = ServerOptions { http: any, grpc: Some(any), metrics: None, ring, ..Default::default() };
    let running = Server::bind(options)?.start(engine.clone())?;
    let grpc = running.grpc_addr().expect("it was asked for");
    let places = Places { engine, http: running.http_addr(), grpc, socket };

    println!(
        "{:<12}{:>6}{:>10}{:>12}{:>10}{:>10}{:>10}",
        "", "conns", "pause µs", "beside", "p50", "p99", "added"
    );
    for (connections, pause) in [(1, Duration::from_micros(500)), (1, Duration::ZERO), (MANY, Duration::ZERO)]
    {
        for busy in [false, true] {
            latencies(&places, &lengths, connections, pause, busy);
        }
    }
    println!(
        "\n{:<12}{:>14}{:>12}{:>12}{:>12}{:>12}",
        "", "requests/s", "rt p50", "rt p99", "alone p50", "alone p99"
    );
    saturation(&places, &lengths);
    running.shutdown(Duration::ZERO);
    Ok(())
}

/// The same plan, real-time and best-effort, and one that keeps every unit busy.
const URGENT: &str = "urgent";
const BATCH: &str = "batch";
const LARGE: &str = "large";

/// Prints a row for each way.
fn latencies(places: &Places, lengths: &Lengths, connections: usize, pause: Duration, busy: bool) {
    let stop = AtomicBool::new(!busy);
    let barrier = Barrier::new(connections);
    let work = || {
        let mut calls = WAYS.map(|way| ways::open(way, places, URGENT));
        let mut times = WAYS.map(|_| Vec::new());
        for _ in 0..lengths.requests.div_ceil(BURST * connections) {
            for (call, times) in calls.iter_mut().zip(&mut times) {
                barrier.wait();
                burst(pause, times, call);
            }
        }
        times
    };
    let mut all = WAYS.map(|_| Vec::new());
    scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut call = ways::open(Way::InProcess, places, LARGE);
                while !stop.load(Ordering::SeqCst) {
                    call();
                }
            });
        }
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let times = thread.join().expect("every request has an answer");
            all.iter_mut().zip(times).for_each(|(all, times)| all.extend(times));
        }
        stop.store(true, Ordering::SeqCst);
    });
    let beside = if busy { "best-effort" } else { "nothing" };
    let own = at(&mut all[0], 0.5);
    for (way, times) in WAYS.iter().zip(&mut all) {
        let (p50, p99) = (at(times, 0.5), at(times, 0.99));
        let (name, pause) = (way.name(), pause.as_micros());
        let added = p50 - own;
        println!("{name:<12}{connections:>6}{pause:>10}{beside:>12}{p50:>10.1}{p99:>10.1}{added:>10.1}");
    }
}

fn burst(pause: Duration, times: &mut Vec<Duration>, call: &mut ways::Call) {
    call();
    for _ in 0..BURST {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let start = Instant::now();
        call();
        times.push(start.elapsed());
    }
}

/// Prints a row for each way.
fn saturation(places: &Places, lengths: &Lengths) {
    let mut alone = WAYS.map(|_| Vec::new());
    let mut beside = WAYS.map(|_| Vec::new());
    let mut rates = WAYS.map(|_| Vec::new());
    for _ in 0..lengths.rounds {
        for (i, way) in WAYS.into_iter().enumerate() {
            alone[i].extend(saturate(places, way, 0, lengths.saturated).1);
            let (rate, times) = saturate(places, way, MANY, lengths.saturated);
            rates[i].push(rate);
            beside[i].extend(times);
        }
    }
    for (i, way) in WAYS.into_iter().enumerate() {
        rates[i].sort_by(f64::total_cmp);
        let rate = rates[i][rates[i].len() / 2];
        let [p50, p99] = [0.5, 0.99].map(|part| at(&mut beside[i], part));
        let [alone_p50, alone_p99] = [0.5, 0.99].map(|part| at(&mut alone[i], part));
        println!("{:<12}{rate:>14.0}{p50:>12.1}{p99:>12.1}{alone_p50:>12.1}{alone_p99:>12.1}", way.name());
    }
}

/// Best-effort answers per second over so many connections, and the times of a real-time one meanwhile.
fn saturate(places: &Places, way: Way, connections: usize, during: Duration) -> (f64, Vec<Duration>) {
    let count = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let barrier = Barrier::new(connections + 1);
    scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut call = ways::open(way, places, BATCH);
                call();
                barrier.wait();
                while !stop.load(Ordering::SeqCst) {
                    call();
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut call = ways::open(way, places, URGENT);
        call();
        barrier.wait();
        let start = Instant::now();
        let mut times = Vec::new();
        while start.elapsed() < during {
            std::thread::sleep(PROBE_PERIOD);
            let asked = Instant::now();
            call();
            times.push(asked.elapsed());
        }
        let rate = count.load(Ordering::SeqCst) as f64 / start.elapsed().as_secs_f64();
        stop.store(true, Ordering::SeqCst);
        (rate, times)
    })
}

/// A quantile in microseconds.
fn at(times: &mut [Duration], part: f64) -> f64 {
    times.sort();
    times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6
}
