//! Virtual time: one clock for devices and timers, on which everything happens at its own nanosecond.

mod doubles;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use doubles::*;
use reef_engine::*;
use reef_plan::{SyntheticStage, synthetic_plan};

const US: u64 = 1_000;

/// A model whose blocks take so long, as many per stage as the dummy has units. It takes its stages and a
/// nanosecond for its output.
fn load_blocks(engine: &Engine, name: &str, settings: ModelSettings, block_us: u32, stages: usize) {
    let stage = SyntheticStage { blocks: 2, polls: block_us, poll_ns: 1_000 };
    let plan = synthetic_plan(name, engine.capabilities().target, 1, &vec![stage; stages]).unwrap();
    engine.load_plan(key(name), settings, Arc::new(plan)).unwrap();
}

/// How a request has ended, if it has.
fn ended(future: &mut InferFuture) -> Option<Result<InferResponse, InferError>> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// The error with which a request ends at `at`, and not before.
fn fails_at(engine: &Engine, future: &mut InferFuture, at: u64) -> InferError {
    engine.run_until(Nanos(at - 1));
    assert!(ended(future).is_none(), "at {}", engine.now());
    assert_eq!(engine.next_event(), Some(Nanos(at)));
    engine.run_until(Nanos(at));
    assert_eq!(engine.now(), Nanos(at));
    ended(future).expect("it ends at its time").unwrap_err()
}

fn one_at_a_time() -> ModelSettings {
    ModelSettings { in_flight_max: Some(1), ..ModelSettings::default() }
}

#[test]
fn a_timeout_fires_at_its_nanosecond_on_a_busy_device() {
    let engine = stepped();
    load_blocks(&engine, "m", one_at_a_time(), 1_000, 3);
    let mut runs = engine.submit(&request("m", &[1; 64])).unwrap();
    let waits = InferRequest { timeout: Some(Nanos(123_457)), ..request("m", &[2; 64]) };
    let mut waits = engine.submit(&waits).unwrap();
    assert_eq!(fails_at(&engine, &mut waits, 123_457), InferError::Timeout);
    assert!(ended(&mut runs).is_none());
    engine.run_until(Nanos(3_000 * US + 1));
    assert_eq!(ended(&mut runs).unwrap().unwrap().timings.total, Nanos(3_000 * US + 1));
}

#[test]
fn a_timeout_fires_at_its_nanosecond_on_an_idle_device() {
    let engine = stepped();
    load_blocks(&engine, "m", one_at_a_time(), 10, 3);
    let held = engine.submit(&request("m", &[1; 64])).unwrap();
    let waits = InferRequest { timeout: Some(Nanos(123_457)), ..request("m", &[2; 64]) };
    let mut waits = engine.submit(&waits).unwrap();
    // The blocks that run end after 10 µs, and no more are started.
    engine.set_scheme(Scheme::RtOnly);
    assert_eq!(fails_at(&engine, &mut waits, 123_457), InferError::Timeout);
    assert_eq!((engine.next_event(), engine.step()), (None, false));
    drop(held);
}

#[test]
fn a_deadline_stops_a_task_in_the_middle_of_its_blocks() {
    let engine = stepped();
    load_blocks(&engine, "m", ModelSettings::default(), 1_000, 3);
    let hurried = InferRequest { deadline: Some(Nanos(1_333_333)), ..request("m", &[1; 64]) };
    let mut future = engine.submit(&hurried).unwrap();
    assert_eq!(fails_at(&engine, &mut future, 1_333_333), InferError::DeadlinePassed);
    let device = engine.stats().device;
    assert_eq!((device.blocks_done, device.blocks_killed), (2, 2));
    assert_eq!((device.busy, device.wasted), (Nanos(2_000 * US), Nanos(2 * 333_333)));
    assert_eq!(engine.next_event(), None);
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_at_once_with_the_estimate() {
    let engine = stepped();
    load_blocks(&engine, "m", ModelSettings { in_flight_max: Some(1), ..real_time(0) }, 10, 2);
    for _ in 0..8 {
        engine.infer(&request("m", &[1; 64])).unwrap();
    }
    let (now, takes) = (engine.now(), Nanos(20 * US + 1));
    let asked = |deadline| InferRequest { deadline: Some(Nanos(deadline)), ..request("m", &[1; 64]) };
    let refused = engine.submit(&asked(15 * US)).unwrap_err();
    assert_eq!(refused, InferError::DeadlineUnreachable { needed: takes, left: Nanos(15 * US) });
    assert!(refused.to_string().contains("20"), "{refused}");
    // Behind another one it takes twice as long.
    let first = engine.submit(&request("m", &[1; 64])).unwrap();
    let refused = engine.submit(&InferRequest { priority: 2, ..asked(30 * US) }).unwrap_err();
    assert_eq!(refused, InferError::DeadlineUnreachable { needed: takes + takes, left: Nanos(30 * US) });
    assert_eq!(engine.submit(&asked(0)).unwrap_err(), InferError::DeadlinePassed);
    assert_eq!(engine.now(), now, "at once");
    let stats = &engine.stats().models[0].real_time;
    assert_eq!((stats.failed(FailureReason::Deadline), stats.deadline_misses), (3, 3));
    drop(first);
}

/// What ends at a time comes before what passes at that time, and this before what starts.
#[test]
fn at_the_same_time_tasks_end_then_timers_fire_then_requests_start() {
    let alone = |deadline| {
        let engine = stepped();
        load_blocks(&engine, "m", ModelSettings::default(), 10, 2);
        let request = InferRequest { deadline: Some(Nanos(deadline)), ..request("m", &[1; 64]) };
        let answer = engine.infer(&request).map(|response| (response.timings.total, response.late));
        (answer, engine.now())
    };
    assert_eq!(alone(20 * US + 1), (Ok((Nanos(20 * US + 1), false)), Nanos(20 * US + 1)));
    assert_eq!(alone(20 * US), (Err(InferError::DeadlinePassed), Nanos(20 * US)));

    let behind = |timeout| {
        let engine = stepped();
        load_blocks(&engine, "m", one_at_a_time(), 10, 2);
        let _first = engine.submit(&request("m", &[1; 64])).unwrap();
        let second = InferRequest { timeout: Some(Nanos(timeout)), ..request("m", &[1; 64]) };
        let answer = engine.submit(&second).unwrap().wait().map(|response| response.timings.total);
        (answer, engine.now())
    };
    assert_eq!(behind(20 * US + 1), (Err(InferError::Timeout), Nanos(20 * US + 1)));
    assert_eq!(behind(20 * US + 2), (Ok(Nanos(40 * US + 2)), Nanos(40 * US + 2)));
}

#[test]
fn one_clock_sees_the_events_of_two_devices_in_their_order() {
    let engine = dummies(2);
    load_blocks(&engine, "slow", on("d:0", ModelSettings::default()), 10, 4);
    load_blocks(&engine, "fast", on("d:1", ModelSettings::default()), 7, 4);
    let waiting = ["slow", "fast"].map(|name| engine.submit(&request(name, &[1; 64])).unwrap());
    let devices = ["d:0", "d:1"].map(|name| engine.device_named(name).unwrap());
    devices.iter().for_each(|device| device.record_events(true));
    let mut seen = Vec::new();
    while engine.step() {
        for (index, device) in devices.iter().enumerate() {
            let mut events = Vec::new();
            device.drain_events(&mut events);
            assert!(events.iter().all(|event| event.at + event.span == engine.now()), "{events:?}");
            if !events.is_empty() {
                seen.push((engine.now().0, index));
            }
        }
    }
    let fast = [7_000, 14_000, 21_000, 28_000, 28_001].map(|at| (at, 1));
    let slow = [10_000, 20_000, 30_000, 40_000, 40_001].map(|at| (at, 0));
    let mut all = [fast, slow].concat();
    all.sort();
    assert_eq!(seen, all);
    let totals = waiting.map(|future| future.wait().unwrap().timings.total);
    assert_eq!(totals, [Nanos(40_001), Nanos(28_001)], "the time of one is not that of the other");
}

#[test]
fn events_of_the_same_time_are_one_step() {
    let engine = dummies(3);
    let settings = ModelSettings { placement: Placement::Replicate, ..ModelSettings::default() };
    load_blocks(&engine, "m", settings, 10, 1);
    let mut all = [1, 2, 3].map(|fill| engine.submit(&request("m", &[fill; 64])).unwrap());
    for (at, blocks) in [(10 * US, 2), (10 * US + 1, 3)] {
        assert!(engine.step());
        assert_eq!(engine.now(), Nanos(at));
        let done = engine.stats().devices.into_iter().map(|device| device.counters.blocks_done);
        assert_eq!(done.collect::<Vec<u64>>(), [blocks; 3]);
    }
    assert!(all.iter_mut().all(|future| ended(future).unwrap().is_ok()));
    assert!(!engine.step());
}

#[test]
fn the_clock_stays_where_it_was_left_and_requests_arrive_there() {
    let engine = stepped();
    load_blocks(&engine, "be", ModelSettings::default(), 10, 50);
    load_blocks(&engine, "rt", real_time(0), 10, 2);
    let best_effort = engine.submit(&request("be", &[1; 64])).unwrap();
    engine.run_until(Nanos(4_321));
    assert_eq!((engine.now(), engine.next_event()), (Nanos(4_321), Some(Nanos(10 * US))));
    // What has passed is not gone back to.
    engine.run_until(Nanos(1_000));
    assert_eq!(engine.now(), Nanos(4_321));
    let response = engine.submit(&request("rt", &[2; 64])).unwrap().wait().unwrap();
    let t = response.timings;
    assert_eq!((t.arrival, t.queue, t.compute), (Nanos(4_321), Nanos(35 * US), Nanos(20 * US + 1)));
    assert_eq!(engine.now(), Nanos(4_321 + 55 * US + 1));
    assert_eq!(best_effort.wait().unwrap().counters.wasted_time, Nanos(2 * 4_321));
    // To the end of all events, and no further.
    let end = engine.now();
    engine.run_until(Nanos::MAX);
    assert_eq!(engine.now(), end);
    engine.run_until(Nanos(7_000 * US));
    assert_eq!((engine.now(), engine.next_event()), (Nanos(7_000 * US), None));
}

/// Requests of all kinds on two devices, at times of their own, where time stops every `pause` in between:
/// how each one ended, and all statistics.
fn mixed(pause: Nanos) -> (Vec<Result<Timings, InferError>>, String) {
    let engine = dummies(2);
    let replicated = |settings| ModelSettings { placement: Placement::Replicate, ..settings };
    load_blocks(&engine, "rt", replicated(real_time(0)), 13, 3);
    load_blocks(&engine, "be", replicated(one_at_a_time()), 29, 5);
    let ask = |index: u64| {
        let data = [index as u8; 64];
        let (deadline, timeout) = match index % 4 {
            0 => (Some(Nanos(60_001 + 1_009 * index)), None),
            1 => (None, Some(Nanos(40_003 + 2_003 * index))),
            _ => (None, None),
        };
        let model = if index.is_multiple_of(3) { "be" } else { "rt" };
        engine.submit(&InferRequest { deadline, timeout, ..request(model, &data) })
    };
    let mut asked = Vec::new();
    for index in 0..60 {
        let at = Nanos(37_013 * index);
        while engine.now() < at {
            engine.run_until(at.min(engine.now() + pause));
        }
        asked.push(ask(index));
    }
    let end = |future: Result<InferFuture, _>| future.and_then(InferFuture::wait);
    let ends = asked.into_iter().map(|future| end(future).map(|response| response.timings)).collect();
    (ends, format!("{:?}", engine.stats()))
}

#[test]
fn what_happens_does_not_depend_on_where_time_stops() {
    let (ends, stats) = mixed(Nanos::MAX);
    let count = |error: &InferError| ends.iter().filter(|end| end.as_ref().err() == Some(error)).count();
    assert!(count(&InferError::Timeout) > 3 && count(&InferError::DeadlinePassed) > 3, "{ends:?}");
    assert!(ends.iter().filter(|end| end.is_ok()).count() > 30, "{ends:?}");
    for pause in [977, 5_003, 36_000] {
        assert_eq!(mixed(Nanos(pause)), (ends.clone(), stats.clone()), "stopped every {pause} ns");
    }
}

#[test]
fn what_is_due_is_done_before_time_passes() {
    let engine = dummies(2);
    load_blocks(&engine, "a", on("d:0", ModelSettings::default()), 10, 2);
    load_blocks(&engine, "b", on("d:1", ModelSettings::default()), 10, 2);
    let [mut fails, _runs] = ["a", "b"].map(|name| engine.submit(&request(name, &[1; 64])).unwrap());
    engine.run_until(Nanos(500));
    engine.device_named("d:0").unwrap().poison("planted");
    assert!(engine.step());
    assert_eq!(ended(&mut fails).expect("it is answered").unwrap_err(), InferError::DeviceFault);
    assert_eq!((engine.now(), engine.next_event()), (Nanos(500), Some(Nanos(10 * US))));
}

#[test]
fn a_shutdown_lets_exactly_its_drain_pass() {
    let shut_down = |drain| {
        let engine = dummies(2);
        load_blocks(&engine, "long", on("d:1", ModelSettings::default()), 1_000, 3);
        let mut future = engine.submit(&request("long", &[1; 64])).unwrap();
        engine.run_until(Nanos(500));
        engine.shutdown(Duration::from_nanos(drain));
        (ended(&mut future).expect("everybody is answered").is_ok(), engine.now().0)
    };
    assert_eq!(shut_down(1_234_567), (false, 1_235_067));
    assert_eq!(shut_down(0), (false, 500));
    assert_eq!(shut_down(60_000 * US), (true, 3_000 * US + 1));
}

#[test]
fn a_deadline_passes_although_the_device_is_stuck() {
    let engine = Engine::new(LiveDummy::stuck(), EngineOptions::default()).unwrap();
    load(&engine, "m", real_time(0), 2);
    let request = InferRequest { deadline: Some(Nanos(5_005)), ..request("m", &[1; 64]) };
    assert_eq!(engine.infer(&request).unwrap_err(), InferError::DeadlinePassed);
    assert_eq!(engine.now(), Nanos(5_005));
}

#[test]
fn real_time_is_left_alone() {
    let engine = cpu();
    load(&engine, "m", ModelSettings::default(), 2);
    let future = engine.submit(&request("m", &[1; 64])).unwrap();
    assert_eq!((engine.next_event(), engine.step()), (None, false));
    engine.run_until(Nanos::MAX);
    engine.run_until(Nanos(u64::MAX - 1));
    future.wait().unwrap();
}
