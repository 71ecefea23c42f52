//! Whole runs of an engine over simulated devices: what clients see, to the nanosecond, and the same each
//! time.

use std::sync::Arc;
use std::time::Duration;

use reef_base::{ClassName, Level, ModelKey, Nanos, Rng};
use reef_bench::error::BenchError;
use reef_bench::simulated::SimulatedEngine;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Device, DummyDevice, DummyOptions};
use reef_engine::{Engine, EngineOptions, ModelSettings, Placement, PoolDevice};
use reef_load::{Arrivals, PlayedClient, Record, Run, RunClient, play_virtual, poisson};
use reef_plan::{SyntheticStage, synthetic_plan};

const fn us(us: u64) -> Nanos {
    Nanos::from_micros(us)
}

/// An engine over so many devices of two units.
fn simulated(devices: usize) -> Engine {
    let options = DummyOptions::default();
    let device = |index| PoolDevice {
        name: format!("d:{index}"),
        device: Arc::new(DummyDevice::new(options.clone())) as Arc<dyn Device>,
    };
    Engine::over((0..devices).map(device).collect(), EngineOptions::default()).unwrap()
}

/// A model of so many stages of two blocks; on the dummy it takes its stages and a nanosecond for its output.
fn load(engine: &Engine, name: &str, block: Nanos, stages: usize) {
    let stage = SyntheticStage { blocks: 2, polls: (block.0 / 1_000) as u32, poll_ns: 1_000 };
    let plan = synthetic_plan(name, engine.capabilities().target, 1, &vec![stage; stages]).unwrap();
    let placement = Placement::Replicate;
    let settings = ModelSettings { placement, ..ModelSettings::real_time(Level::TOP) };
    let key = ModelKey { name: name.into(), version: "1".into() };
    engine.load_plan(key, settings, Arc::new(plan)).unwrap();
}

fn open(model: &str, times: Vec<Nanos>, in_flight: usize) -> RunClient {
    let arrivals = Arrivals::Open { times, newest_only: false };
    RunClient::new(model, ClassName::RealTime, arrivals, in_flight)
}

fn back_to_back(model: &str) -> RunClient {
    RunClient::new(model, ClassName::BestEffort, Arrivals::BACK_TO_BACK, 1)
}

/// Without warm-up and without an end of what is late.
fn run(clients: Vec<RunClient>, measured: Nanos) -> Run {
    let (warm_up, late) = (Duration::ZERO, Duration::from_secs(60));
    Run { clients, warm_up, measured: measured.into(), cool_down: late, grace: late }
}

fn play(engine: &Engine, run: &Run) -> Vec<PlayedClient> {
    play_virtual(run, &mut SimulatedEngine::new(engine, run, 7).unwrap())
}

#[test]
fn one_request_at_a_time_takes_what_its_blocks_take() {
    let engine = simulated(1);
    load(&engine, "m", us(10), 2);
    // The run begins when it is played, not when the engine did.
    engine.run_until(us(777));
    let run = run(vec![back_to_back("m")], us(1_000));
    let played = &play(&engine, &run)[0];
    let takes = 2 * 10_000 + 1;
    let record = |index: u64| Record {
        due: Nanos(index * takes),
        sent: Nanos(index * takes),
        done: Nanos((index + 1) * takes),
        on_device: Some((Nanos(index * takes), Nanos((index + 1) * takes))),
        preempt: None,
    };
    // The last one is asked for before the end and answered after it.
    assert_eq!(played.records, (0..50).map(record).collect::<Vec<_>>());
    assert_eq!(engine.now(), us(777) + Nanos(50 * takes));
    let per_s = run.per_s(0, played);
    assert!((per_s - 1e9 / takes as f64).abs() < 1e-6, "{per_s}");
    let latencies = run.latencies_us(0, played);
    assert!(latencies.len() == 49 && latencies.as_slice().iter().all(|&us| us == 20.001), "{latencies:?}");
}

#[test]
fn a_request_that_comes_later_changes_when_earlier_ones_are_answered() {
    let engine = simulated(1);
    load(&engine, "rt", us(10), 2);
    load(&engine, "be", us(1_000), 1);
    let clients = vec![open("rt", vec![us(400), us(1_900)], 1), back_to_back("be")];
    let run = run(clients, us(2_000));
    let played = play(&engine, &run);
    // It kills what runs; the reset and its own blocks follow.
    let (reset, takes) = (us(35), Nanos(2 * 10_000 + 1));
    let urgent = |due: Nanos| Record {
        due,
        sent: due,
        done: due + reset + takes,
        on_device: Some((due + reset, due + reset + takes)),
        preempt: Some(reset),
    };
    assert_eq!(played[0].records, [urgent(us(400)), urgent(us(1_900))]);
    // Alone the first would be answered after a millisecond. It begins again when the units are free, and so
    // does the second.
    let first = us(400) + reset + takes + us(1_000) + Nanos(1);
    let second = us(1_900) + reset + takes + us(1_000) + Nanos(1);
    assert_eq!(played[1].records.iter().map(|record| record.done).collect::<Vec<_>>(), [first, second]);
    assert_eq!(played[1].records[1].due, first);
    assert_eq!(engine.stats().device.blocks_killed, 4);
}

#[test]
fn deadlines_count_from_the_scheduled_arrival_and_pass_at_their_time() {
    let engine = simulated(1);
    load(&engine, "m", us(100), 1);
    let deadline = Some(Duration::from_micros(150));
    let client = RunClient { enforced_deadline: deadline, ..open("m", vec![us(0), us(10), us(20)], 3) };
    let played = &play(&engine, &run(vec![client], us(1_000)))[0];
    assert_eq!(played.records.iter().map(|record| record.done).collect::<Vec<_>>(), [us(100) + Nanos(1)]);
    // One after the other they are stopped on the device, in the middle of their blocks.
    assert_eq!(played.failed, [us(10), us(20)]);
    assert_eq!(played.first_error.as_deref(), Some("model m: the deadline passed"));
    assert_eq!((engine.now(), engine.next_event()), (us(170), None));
    assert_eq!(engine.stats().device.wasted, Nanos(2 * (59_999 + 10_000)));
}

/// A Poisson client with deadlines beside one that always asks, on two devices.
fn whole(seed: u64) -> (Vec<PlayedClient>, String) {
    let engine = simulated(2);
    load(&engine, "rt", us(50), 3);
    load(&engine, "be", us(40), 4);
    let times = poisson(9_000.0, &mut Rng::new(seed), Nanos::from_millis(200));
    let deadline = Some(Duration::from_micros(400));
    let urgent = RunClient { enforced_deadline: deadline, ..open("rt", times, 8) };
    let clients = vec![urgent, RunClient { in_flight: 3, ..back_to_back("be") }];
    let run = run(clients, Nanos::from_millis(200));
    let played = play(&engine, &run);
    (played, format!("{:?}", engine.stats()))
}

#[test]
fn a_whole_run_is_the_same_each_time() {
    let (played, stats) = whole(1);
    assert!((&played, &stats) == (&whole(1).0, &whole(1).1), "two runs differ");
    assert!(played != whole(2).0, "the seed makes no difference");
    // It is not trivial: some are late, most are not, some preempt, and both devices had their part.
    let [urgent, rest] = &played[..] else { panic!("two clients") };
    let answered = (urgent.records.len(), rest.records.len());
    assert!(answered.0 > 1_000 && answered.1 > 50, "{answered:?}");
    let late = urgent.failed.len();
    assert!(late > 10 && late * 4 < urgent.records.len(), "{late} of {}", urgent.records.len());
    assert!(urgent.records.iter().any(|record| record.preempt.is_some()));
    assert!(urgent.records.iter().all(|record| record.done - record.due <= us(400)));
    assert!(urgent.unsent.is_empty() && rest.failed.is_empty());
}

#[test]
fn what_cannot_be_simulated_is_an_error() {
    let cpu = CpuDevice::start(CpuOptions { cus: Some(1), ..CpuOptions::default() }).unwrap();
    let real = Engine::new(Arc::new(cpu), EngineOptions::default()).unwrap();
    let run = run(vec![back_to_back("m")], us(10));
    let refused = |engine: &Engine| SimulatedEngine::new(engine, &run, 7).map(drop).unwrap_err();
    assert!(matches!(refused(&real), BenchError::RealTime));
    assert_eq!(refused(&simulated(1)).to_string(), "model m: there is no model m");
}
