//! A device that takes its time to take a task holds up nobody else, and whatever happens to the request
//! meanwhile happens once.

mod doubles;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use doubles::foreign::Gate;
use doubles::slow::{Hooks, Slow};
use doubles::wheel::Wheel;
use doubles::*;
use reef_device::RejectReason;
use reef_engine::*;
use reef_plan::{Plan, synthetic_output};

/// Submits a request on a thread of its own, which comes back once the device has taken it.
fn submit<'s>(
    scope: &'s std::thread::Scope<'s, '_>,
    engine: &'s Engine,
) -> std::thread::ScopedJoinHandle<'s, Result<InferFuture, InferError>> {
    scope.spawn(|| engine.submit(&request("m", &[1; 64])))
}

#[test]
fn others_go_on_while_a_task_is_handed_in() {
    let device = Slow::new();
    let engine = device.engine();
    let plan = load(&engine, "m", real_time(0), 3);
    let gate = Gate::shut();
    device.set(Hooks { before: gate.hook(), ..Hooks::new() });
    std::thread::scope(|scope| {
        let slow = submit(scope, &engine);
        gate.wait_for_one();
        device.set(Hooks::new());
        for _ in 0..10 {
            assert_exact(&plan, &[2; 64], &engine.infer(&request("m", &[2; 64])).unwrap());
        }
        assert_eq!(engine.stats().models[0].real_time.on_board, 1);
        engine.set_scheme(Scheme::Wait);
        gate.open();
        assert_exact(&plan, &[1; 64], &slow.join().unwrap().unwrap().wait().unwrap());
    });
    assert_eq!(engine.stats().models[0].real_time.success, 11);
}

/// A deadline passes, or the model is unloaded, while the task is on its way: who waits is answered at once,
/// and the device stops the task as soon as it has it.
#[test]
fn what_is_being_handed_in_can_be_stopped() {
    let device = Slow::new();
    let engine = device.engine();
    load(&engine, "m", ModelSettings::default(), 60_000);
    let gate = Gate::shut();
    device.set(Hooks { before: gate.hook(), ..Hooks::new() });
    std::thread::scope(|scope| {
        let late = scope.spawn(|| {
            let deadline = Some(Nanos::from_millis(30));
            let mut session =
                engine.session("m", &SessionOptions { deadline, ..Default::default() }).unwrap();
            session.run().unwrap_err()
        });
        gate.wait_for_one();
        while engine.stats().models[0].best_effort.failed(FailureReason::Deadline) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(engine.stats().models[0].best_effort.on_board, 1, "its place is not free yet");
        gate.open();
        assert_eq!(late.join().unwrap(), InferError::DeadlinePassed);
    });
    // It would run for seconds.
    engine.unload("m", None, Queued::Finish).unwrap();
    assert_eq!(device.counters().completed, 1);
    assert!(device.counters().blocks_done < 100_000, "it was stopped");
}

/// The device ends a task before it has said that it has it.
#[test]
fn a_task_may_end_before_its_submitter_knows_its_name() {
    let device = Slow::new();
    let engine = device.engine();
    let wheel = Arc::new(Wheel::new(engine.capabilities().target, 4));
    engine.load_source(key("wheel"), ModelSettings::default(), wheel.clone()).unwrap();
    let plan = load(&engine, "m", ModelSettings::default(), 2);
    let pause = Arc::new(|| std::thread::sleep(Duration::from_millis(2)));
    device.set(Hooks { after: pause, ..Hooks::new() });
    for n in 0..20 {
        assert_exact(&plan, &[n; 64], &engine.infer(&request("m", &[n; 64])).unwrap());
        let (answer, _) = wheel.answer(&[n; 64]);
        let response = engine.infer(&request("wheel", &[n; 64])).unwrap();
        assert_eq!(response.output("y").unwrap().data, answer);
    }
    engine.unload("wheel", None, Queued::Finish).unwrap();
    engine.shutdown(Duration::ZERO);
    assert!(engine.is_idle());
}

#[test]
fn what_the_device_does_not_take_is_tried_again_or_ends_once() {
    let device = Slow::new();
    let engine = device.engine();
    let plan = load(&engine, "m", ModelSettings::default(), 2);
    device.set(Hooks { rejects: Some(RejectReason::BoardFull), ..Hooks::new() });
    let full = engine.submit(&request("m", &[1; 64])).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    device.set(Hooks::new());
    assert_exact(&plan, &[1; 64], &full.wait().unwrap());
    device.set(Hooks { rejects: Some(RejectReason::SchemeRefuses), ..Hooks::new() });
    let refused = engine.infer(&request("m", &[1; 64])).unwrap_err();
    assert!(matches!(refused, InferError::NotServed { .. }), "{refused}");
    // Stopped while it is on its way to a device that does not take it.
    let gate = Gate::shut();
    device.set(Hooks { before: gate.hook(), rejects: Some(RejectReason::BoardFull), ..Hooks::new() });
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Some(Nanos::from_millis(20));
            let mut session =
                engine.session("m", &SessionOptions { deadline, ..Default::default() }).unwrap();
            assert_eq!(session.run().unwrap_err(), InferError::DeadlinePassed);
            ended.store(true, Ordering::SeqCst);
        });
        gate.wait_for_one();
        std::thread::sleep(Duration::from_millis(40));
        gate.open();
    });
    assert!(ended.load(Ordering::SeqCst));
    device.set(Hooks::new());
    assert_exact(&plan, &[3; 64], &engine.infer(&request("m", &[3; 64])).unwrap());
    let stats = engine.stats();
    let stats = &stats.models[0].best_effort;
    assert_eq!((stats.success, stats.failures.iter().sum::<u64>(), stats.pending()), (2, 2, 0));
    assert_eq!(synthetic_output(&plan, &[3; 64]).len(), 64);
}

#[test]
fn a_device_that_fails_meanwhile_takes_what_is_handed_in_along() {
    let device = Slow::new();
    let engine = device.engine();
    load(&engine, "m", ModelSettings::default(), 2);
    let gate = Gate::shut();
    device.set(Hooks { before: gate.hook(), ..Hooks::new() });
    std::thread::scope(|scope| {
        let lost = submit(scope, &engine);
        gate.wait_for_one();
        device.poison("planted");
        assert_eq!(engine.wait_for_fault(), Some(InferError::DeviceFault));
        gate.open();
        assert_eq!(lost.join().unwrap().unwrap().wait().unwrap_err(), InferError::DeviceFault);
    });
    engine.unload("m", None, Queued::Finish).unwrap();
    engine.shutdown(Duration::ZERO);
    assert!(engine.is_idle(), "its buffers came back");
}

/// Wakes by asking the engine, and waits for the answer.
struct Asks(Engine, Arc<Plan>, AtomicBool);

impl std::task::Wake for Asks {
    fn wake(self: Arc<Self>) {
        let answer = self.0.infer(&request("other", &[7; 64])).unwrap();
        assert_exact(&self.1, &[7; 64], &answer);
        self.2.store(true, Ordering::Release);
    }
}

/// Nobody but the completion thread is there to take what its waker waits for: not where the process is less
/// urgent than others, and not for best-effort requests.
#[test]
fn a_waker_that_waits_on_a_completion_thread_is_served() {
    for nice in [None, Some(19)] {
        for settings in [real_time(0), ModelSettings::default()] {
            // Threads begin as urgent as who starts them.
            let played = std::thread::spawn(move || {
                nice.into_iter().for_each(|nice| rustix::process::setpriority_process(None, nice).unwrap());
                let engine = cpu();
                let (plan, other) =
                    (load(&engine, "m", real_time(1), 3), load(&engine, "other", settings, 2));
                for round in 0..20u8 {
                    let asks = Arc::new(Asks(engine.clone(), other.clone(), AtomicBool::new(false)));
                    let mut future = Box::pin(engine.submit(&request("m", &[round; 64])).unwrap());
                    let waker = std::task::Waker::from(asks.clone());
                    let polled = future.as_mut().poll(&mut std::task::Context::from_waker(&waker));
                    if polled.is_ready() {
                        continue;
                    }
                    let end = std::time::Instant::now() + Duration::from_secs(20);
                    while !asks.2.load(Ordering::Acquire) {
                        assert!(std::time::Instant::now() < end, "round {round}: its waker waits for ever");
                        std::thread::sleep(Duration::from_micros(50));
                    }
                    assert_exact(&plan, &[round; 64], &std::pin::Pin::into_inner(future).wait().unwrap());
                }
            });
            played.join().unwrap();
        }
    }
}

/// Callers take each other's completions, and whoever does may be kept by what those call.
#[test]
fn who_waits_takes_the_completions_of_others() {
    let engine = cpu();
    let (plan, other) = (load(&engine, "m", real_time(1), 3), load(&engine, "other", real_time(0), 2));
    let lesser = load(&engine, "be", ModelSettings::default(), 40);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                assert_exact(&lesser, &[3; 64], &engine.infer(&request("be", &[3; 64])).unwrap());
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let callers: Vec<_> = (0..3u8)
            .map(|caller| {
                let (engine, plan, other) = (&engine, &plan, &other);
                scope.spawn(move || {
                    let mut session = engine.session("m", &SessionOptions::default()).unwrap();
                    for round in 0..100u32 {
                        let input = [caller ^ round as u8; 64];
                        session.input_mut(0).copy_from_slice(&input);
                        session.run().unwrap();
                        assert_eq!(session.output(0).data, synthetic_output(plan, &input));
                        let asks = Arc::new(Asks(engine.clone(), other.clone(), AtomicBool::new(false)));
                        let mut future = Box::pin(engine.submit(&request("m", &input)).unwrap());
                        let waker = std::task::Waker::from(asks.clone());
                        let polled = future.as_mut().poll(&mut std::task::Context::from_waker(&waker));
                        if let std::task::Poll::Ready(answer) = polled {
                            assert_exact(plan, &input, &answer.unwrap());
                            continue;
                        }
                        // Whoever takes the completion is kept by the waker until another request has ended.
                        assert_exact(plan, &input, &engine.infer(&request("m", &input)).unwrap());
                        while !asks.2.load(Ordering::Acquire) {
                            std::thread::yield_now();
                        }
                        assert_exact(plan, &input, &std::pin::Pin::into_inner(future).wait().unwrap());
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        ended.store(true, Ordering::Release);
        beside.join().unwrap();
    });
    let models = engine.stats().models;
    let failed: u64 = models.iter().map(|model| model.real_time.failed(FailureReason::Backend)).sum();
    assert_eq!(failed, 0);
}
