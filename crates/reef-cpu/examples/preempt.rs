//! How fast a real-time task gets its compute units from a saturating best-effort one. Synthetic plans only.
//!
//! Run: `cargo run --release -p reef-cpu --example preempt [samples [nice]]`. Prints, per case, submit →
//! first block, submit → last unit, the opening of a stage (end of a stage's last block → start of the next
//! stage's first block), and submit → end.

use std::sync::Arc;

use reef_base::{Level, MonotonicClock, Nanos, TaskKey};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Completion, Device, Event, EventKind, LoadedPlan, Scheme, Wake};
use reef_plan::{SyntheticStage, synthetic_plan};

const BEST_EFFORT: u64 = 1;
const REAL_TIME: u64 = 2;

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

fn main() {
    let argument = |index| std::env::args().nth(index).and_then(|text| text.parse::<i32>().ok());
    let samples = argument(1).unwrap_or(5_000).unsigned_abs() as usize;
    let nice = argument(2).unwrap_or(19);
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    // Units take the first cores; this thread the last one.
    let mut last = rustix::thread::CpuSet::new();
    last.set(cores - 1);
    rustix::thread::sched_setaffinity(None, &last).expect("the last core is allowed");
    println!("case                          what             min     p50     p99     max  count   (µs)");
    for scheme in [Scheme::Reset, Scheme::Wait] {
        measure(&format!("{scheme}, 1 unit beside submitter"), 1, scheme, nice, samples);
        measure(&format!("{scheme}, a unit on every core"), cores, scheme, nice, samples);
    }
}

fn measure(name: &str, cus: usize, scheme: Scheme, nice: i32, samples: usize) {
    let options = CpuOptions {
        cus: Some(cus),
        cores: Some((0..cus).collect()),
        scheme,
        nice,
        events: 1 << 16,
        ..CpuOptions::default()
    };
    let device = CpuDevice::start(options).expect("the device starts");
    device.set_waker(Arc::new(Unpark(std::thread::current())));
    let load = |seed, stage| {
        let plan = synthetic_plan("bench", device.capabilities().target, seed, &[stage; 8]).expect("valid");
        device.load(Arc::new(plan)).expect("the plan loads")
    };
    // Best-effort blocks of 100 µs that poll every microsecond, real-time ones of 10 µs.
    let best_effort = load(1, SyntheticStage { blocks: 64, polls: 100, poll_ns: 1_000 });
    let real_time = load(2, SyntheticStage { blocks: 2 * cus, polls: 10, poll_ns: 1_000 });
    let mut rows: [Vec<f64>; 4] = Default::default();
    let mut events = Vec::new();
    submit(&device, best_effort, TaskKey::best_effort(0), BEST_EFFORT);
    submit(&device, best_effort, TaskKey::best_effort(1), BEST_EFFORT);
    for sample in 0..samples {
        pause(&device, best_effort, Nanos(150_000 + sample as u64 * 977 % 100_000), cus);
        device.drain_events(&mut events);
        events.clear();
        device.record_events(sample % 10 == 0);
        let key = TaskKey::real_time(Level::TOP, None, MonotonicClock::read());
        submit(&device, real_time, key, REAL_TIME);
        let done = wait(&device, best_effort);
        rows[0].extend(done.first_block.map(|at| (at - done.submitted).as_micros_f64()));
        rows[1].extend(done.all_cus.map(|at| (at - done.submitted).as_micros_f64()));
        rows[3].push((done.finished - done.submitted).as_micros_f64());
        device.drain_events(&mut events);
        rows[2].extend(openings(&events));
    }
    for (what, values) in ["first block", "last unit", "stage opening", "end"].iter().zip(&mut rows) {
        print_row(name, what, values);
    }
    let counters = device.counters();
    println!("{name:32}killed {}, padded {}", counters.blocks_killed, counters.blocks_padding);
}

/// Lets best-effort work run for a while: asleep, as a server waits for requests, when this core has a unit
/// too.
fn pause(device: &CpuDevice, best_effort: LoadedPlan, span: Nanos, cus: usize) {
    let until = MonotonicClock::read() + span;
    while MonotonicClock::read() < until {
        while let Some(done) = device.try_complete() {
            resubmit(device, best_effort, done);
        }
        if cus > 1 {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
}

fn wait(device: &CpuDevice, best_effort: LoadedPlan) -> Completion {
    let one_core_each = device.capabilities().cus == 1;
    loop {
        match device.try_complete() {
            Some(done) if done.token == REAL_TIME => return done,
            Some(done) => resubmit(device, best_effort, done),
            None if one_core_each => std::hint::spin_loop(),
            None => std::thread::park(),
        }
    }
}

fn submit(device: &CpuDevice, plan: LoadedPlan, key: TaskKey, token: u64) {
    let io = device.alloc_io(plan).expect("the plan is loaded");
    device.submit(plan, key, io, token).expect("the board has room");
}

fn resubmit(device: &CpuDevice, plan: LoadedPlan, done: Completion) {
    device.submit(plan, done.key, done.io, BEST_EFFORT).expect("the board has room");
}

/// From the end of each stage of the real-time task to the first start in the next one.
fn openings(events: &[Event]) -> Vec<f64> {
    let mut spans: Vec<(Nanos, Nanos)> = Vec::new();
    for event in events.iter().filter(|event| event.token == REAL_TIME) {
        if let EventKind::Block { stage, .. } = event.kind {
            let stage = stage as usize;
            spans.resize(spans.len().max(stage + 1), (Nanos::MAX, Nanos::ZERO));
            spans[stage] = (spans[stage].0.min(event.at), spans[stage].1.max(event.at + event.span));
        }
    }
    spans.windows(2).map(|pair| (pair[1].0 - pair[0].1).as_micros_f64()).collect()
}

fn print_row(name: &str, what: &str, values: &mut [f64]) {
    if values.is_empty() {
        return;
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
    let (min, p50, p99, max) = (at(0.0), at(0.5), at(0.99), at(1.0));
    println!("{name:32}{what:14}{min:7.2} {p50:7.2} {p99:7.2} {max:7.1} {:6}", values.len());
}
