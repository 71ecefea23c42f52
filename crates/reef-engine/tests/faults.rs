//! Faults of others and of our own: who is at fault ends with an error, everybody else goes on, and nobody
//! waits for ever.

mod doubles;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use doubles::faulty::*;
use doubles::foreign::*;
use doubles::*;
use reef_engine::*;
use reef_plan::{SyntheticStage, synthetic_plan};

const INPUT: [u8; 128] = [1; 128];

/// A model that is `foreign`, of any length.
fn load_foreign(engine: &Engine, name: &str, foreign: Foreign) {
    let source = Scripted::new(move |bytes, cutter| Ok(foreign.plan(cutter.target(), bytes)));
    engine.load_source(key(name), ModelSettings::default(), source).unwrap();
}

/// New shapes are still compiled for.
fn serves_new_shapes(engine: &Engine) {
    engine.load_source(key("fresh"), ModelSettings::default(), AnyLength::new()).unwrap();
    engine.infer(&request("fresh", &INPUT)).unwrap();
    engine.unload("fresh", None, Queued::Finish).unwrap();
}

#[test]
fn a_model_may_go_while_a_plan_of_it_is_made() {
    for at_load in [false, true] {
        let engine = cpu();
        let gate = Gate::shut();
        let (compile, make) = if at_load { (nothing(), gate.hook()) } else { (gate.hook(), nothing()) };
        let foreign = Foreign { make, ..Foreign::new() };
        let source = Scripted::new(move |bytes, cutter| {
            compile();
            Ok(foreign.plan(cutter.target(), bytes))
        });
        let alive = Arc::downgrade(&source);
        engine.load_source(key("m"), ModelSettings::default(), source).unwrap();
        let waits = engine.submit(&request("m", &INPUT)).unwrap();
        gate.wait_for_one();
        engine.unload("m", None, Queued::Finish).unwrap();
        assert_eq!(waits.wait().unwrap_err(), InferError::Unloading(key("m")));
        gate.open();
        serves_new_shapes(&engine);
        assert!(engine.is_ready());
        // What was made too late is let go.
        while alive.strong_count() > 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_session_of_a_model_that_goes_is_refused() {
    let engine = cpu();
    let gate = Gate::shut();
    load_foreign(&engine, "m", Foreign { make: gate.hook(), ..Foreign::new() });
    let options = SessionOptions { shapes: vec![("x", Shape::from([64]))], ..SessionOptions::default() };
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| engine.session("m", &options).map(drop));
        gate.wait_for_one();
        engine.unload("m", None, Queued::Finish).unwrap();
        gate.open();
        assert_eq!(opening.join().unwrap().unwrap_err(), InferError::Unloading(key("m")));
    });
}

/// A waker that panics, in all ways in which a request may end.
#[test]
fn a_waker_that_panics_harms_nobody_else() {
    let engine = cpu();
    load(&engine, "warm", ModelSettings::default(), 2);
    load_foreign(&engine, "cold", Foreign::new());
    let soon = Some(Nanos::from_millis(1));
    let bad = waker(panics());
    for round in 0..3 {
        for model in ["warm", "cold"] {
            let input = vec![1; if model == "warm" { 64 } else { 64 * (round + 1) }];
            let ask = InferRequest { deadline: soon.filter(|_| round == 1), ..request(model, &input) };
            let mut future = engine.submit(&ask).unwrap();
            let polled = std::pin::pin!(&mut future).poll(&mut Context::from_waker(&bad));
            match (polled.is_pending(), round) {
                // It calls the waker here, and must not harm the caller either.
                (true, 2) => drop(future),
                (true, _) => drop(future.wait()),
                (false, _) => {}
            }
            engine.infer(&request("warm", &[2; 64])).unwrap();
        }
    }
    serves_new_shapes(&engine);
    assert!(engine.is_ready() && engine.fault().is_none());
}

/// Code that cannot be stopped, in a host kernel and where a plan is made.
#[test]
fn a_shutdown_waits_a_while_for_code_that_does_not_end() {
    let engine = cpu();
    let (kernel, compile) = (Gate::shut(), Gate::shut());
    load_foreign(&engine, "runs", Foreign { run: kernel.hook(), ..Foreign::new() });
    load_foreign(&engine, "cold", Foreign { make: compile.hook(), ..Foreign::new() });
    let runs = engine.submit(&request("runs", &INPUT)).unwrap();
    kernel.wait_for_one();
    let cold = engine.submit(&request("cold", &INPUT)).unwrap();
    compile.wait_for_one();
    assert!(!engine.is_idle());
    engine.shutdown(Duration::ZERO);
    assert_eq!(runs.wait().unwrap_err(), InferError::ShuttingDown);
    assert_eq!(cold.wait().unwrap_err(), InferError::ShuttingDown);
    assert!(!engine.is_idle(), "the kernel runs, and a plan is being made");
    kernel.open();
    compile.open();
}

/// The device itself survives whoever it wakes.
#[test]
fn a_device_survives_the_waker_that_it_calls() {
    struct Spiteful(Arc<dyn reef_device::Wake>);
    impl reef_device::Wake for Spiteful {
        fn wake(&self) {
            self.0.wake();
            panic!("planted");
        }
    }
    let faulty = Faulty::new(|device, waker| device.set_waker(Arc::new(Spiteful(waker))));
    let engine = faulty.engine();
    let plan = load(&engine, "m", ModelSettings::default(), 20);
    for round in 0..20 {
        let input = [round; 64];
        assert_exact(&plan, &input, &engine.infer(&request("m", &input)).unwrap());
    }
    assert!(engine.is_ready());
}

#[test]
fn a_model_whose_code_panics_is_at_fault_alone() {
    let engine = cpu();
    let planted = |error: &dyn std::fmt::Display| assert!(error.to_string().contains("planted"), "{error}");
    // While a plan is compiled, its states are made, it runs, it goes.
    let compiles = Scripted::new(|_, _| panic!("planted"));
    engine.load_source(key("compiles"), ModelSettings::default(), compiles).unwrap();
    load_foreign(&engine, "makes", Foreign { make: panics(), ..Foreign::new() });
    load_foreign(&engine, "runs", Foreign { run: panics(), ..Foreign::new() });
    load_foreign(&engine, "goes", Foreign { drop: panics(), ..Foreign::new() });
    for _ in 0..2 {
        for model in ["compiles", "makes"] {
            let error = engine.infer(&request(model, &INPUT)).unwrap_err();
            assert!(matches!(error, InferError::NoPlan(_)), "{error}");
            planted(&error);
            let options = SessionOptions { shapes: vec![("x", Shape::from([64]))], ..Default::default() };
            planted(&engine.session(model, &options).unwrap_err());
        }
        let error = engine.infer(&request("runs", &INPUT)).unwrap_err();
        assert!(matches!(error, InferError::Failed(_)), "{error}");
        planted(&error);
        engine.infer(&request("goes", &INPUT)).unwrap();
        serves_new_shapes(&engine);
    }
    for model in ["compiles", "makes", "runs", "goes"] {
        engine.unload(model, None, Queued::Finish).unwrap();
    }
    serves_new_shapes(&engine);
    assert!(engine.is_ready() && engine.fault().is_none());
}

#[test]
fn a_model_that_panics_while_it_is_loaded_is_refused() {
    #[derive(Debug)]
    struct Rude(bool);
    impl PlanSource for Rude {
        fn inputs(&self) -> &[TensorInfo] {
            panic!("planted")
        }
        fn outputs(&self) -> &[TensorInfo] {
            panic!("planted")
        }
        fn compile(&self, _: &[Shape], _: &dyn reef_plan::Cutter) -> Result<Arc<Plan>, String> {
            panic!("planted")
        }
    }
    impl Drop for Rude {
        fn drop(&mut self) {
            assert!(!self.0, "planted");
        }
    }
    let engine = cpu();
    for rude in [false, true] {
        let error = engine.load_source(key("m"), ModelSettings::default(), Arc::new(Rude(rude))).unwrap_err();
        assert!(matches!(&error, LoadError::Panicked { what, .. } if what == "planted"), "{error}");
        assert!(engine.models().is_empty());
    }
    let shapes = vec![vec![("x".to_string(), Shape::from([64]))]];
    let ahead = ModelSettings { shapes, ..ModelSettings::default() };
    let source = Scripted::new(|_, _| panic!("planted"));
    let error = engine.load_source(key("m"), ahead, source).unwrap_err();
    assert!(error.to_string().contains("planted"), "{error}");
    serves_new_shapes(&engine);
}

/// The rule for bugs: nobody waits for ever, and nobody is served by an engine in doubt.
fn has_failed(engine: &Engine, waiting: Vec<InferFuture>, why: &str) {
    let fault = engine.wait_for_fault().expect("it has failed");
    assert!(fault.to_string().contains(why), "{fault}");
    assert_eq!(engine.fault(), Some(fault.clone()));
    assert!(!engine.is_ready());
    for future in waiting {
        assert_eq!(future.wait().unwrap_err(), fault);
    }
    for model in ["m", "any"] {
        assert_eq!(engine.infer(&request(model, &[1; 64])).unwrap_err(), fault);
    }
    let late = engine.load_source(key("late"), ModelSettings::default(), AnyLength::new());
    assert!(matches!(late, Err(LoadError::Failed(error)) if error == fault));
    assert!(engine.stats().models.iter().all(|model| model.best_effort.pending() == 0));
    engine.unload("m", None, Queued::Finish).unwrap();
    engine.shutdown(Duration::from_secs(1));
    assert_eq!(engine.wait_for_fault(), Some(fault), "a shutdown does not hide it");
}

/// An engine with requests that wait on the device, in a queue and for a plan.
fn with_requests(engine: &Engine, gate: &Arc<Gate>) -> Vec<InferFuture> {
    let foreign = Foreign { run: gate.hook(), ..Foreign::new() };
    engine
        .load_plan(key("m"), ModelSettings::default(), foreign.plan(engine.capabilities().target, 64))
        .unwrap();
    let (hook, compiling) = (gate.hook(), AnyLength::new());
    let slow = Scripted::new(move |bytes, cutter| {
        hook();
        compiling.compile(&[Shape::from([bytes])], cutter)
    });
    engine.load_source(key("any"), ModelSettings::default(), slow).unwrap();
    let mut waiting: Vec<_> = (0..6).map(|_| engine.submit(&request("m", &[1; 64])).unwrap()).collect();
    waiting.extend((1..4).map(|n| engine.submit(&request("any", &vec![1; 64 * n])).unwrap()));
    gate.wait_for_one();
    waiting
}

#[test]
fn a_bug_on_the_completion_thread_fails_the_engine_visibly() {
    let faulty = Faulty::new(|device, waker| device.set_waker(waker));
    let engine = faulty.engine();
    let gate = Gate::shut();
    let waiting = with_requests(&engine, &gate);
    faulty.plant(Place::TryComplete);
    // Somebody makes the thread look.
    drop(engine.submit(&InferRequest { deadline: Some(Nanos::from_millis(1)), ..request("any", &INPUT) }));
    has_failed(&engine, waiting, "completions thread panicked: planted");
}

#[test]
fn a_bug_on_the_compile_thread_fails_the_engine_visibly() {
    let faulty = Faulty::new(|device, waker| device.set_waker(waker));
    let engine = faulty.engine();
    let (running, compiling) = (Gate::shut(), AnyLength::new());
    let foreign = Foreign { run: running.hook(), ..Foreign::new() };
    let target = engine.capabilities().target;
    engine.load_plan(key("m"), ModelSettings::default(), foreign.plan(target, 64)).unwrap();
    engine.load_source(key("any"), ModelSettings::default(), compiling).unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| engine.submit(&request("m", &[1; 64])).unwrap()).collect();
    running.wait_for_one();
    faulty.plant(Place::AllocIo);
    // The request that the thread had in its hands was lost; it is answered, too.
    let lost = engine.submit(&request("any", &INPUT)).unwrap();
    assert!(matches!(lost.wait().unwrap_err(), InferError::EngineFailed(_)));
    has_failed(&engine, std::mem::take(&mut waiting), "compile thread panicked: planted");
}

#[test]
fn a_bug_in_the_books_fails_the_engine_visibly() {
    let faulty = Faulty::new(|device, waker| device.set_waker(waker));
    let engine = faulty.engine();
    let gate = Gate::shut();
    let waiting = with_requests(&engine, &gate);
    faulty.plant(Place::SetScheme);
    let change = AssertUnwindSafe(|| engine.set_scheme(Scheme::Wait));
    assert!(std::panic::catch_unwind(change).is_err(), "who finds a bug is told");
    has_failed(&engine, waiting, "planted");
}

#[test]
fn a_poisoned_device_fails_the_engine_visibly() {
    let engine = cpu();
    let gate = Gate::shut();
    let target = engine.capabilities().target;
    let foreign = Foreign { run: gate.hook(), ..Foreign::new() };
    let alone = ModelSettings { in_flight_max: Some(1), ..ModelSettings::default() };
    engine.load_plan(key("host"), alone, foreign.plan(target, 64)).unwrap();
    let stage = SyntheticStage { blocks: 4, polls: 10_000_000, poll_ns: 1000 };
    let long = Arc::new(synthetic_plan("m", target, 1, &[stage]).unwrap());
    engine.load_plan(key("m"), ModelSettings::default(), long).unwrap();
    engine.load_source(key("any"), ModelSettings::default(), AnyLength::new()).unwrap();
    let ask = |model| engine.submit(&request(model, &[1; 64])).unwrap();
    let mut waiting = vec![ask("host"), ask("host"), ask("m")];
    gate.wait_for_one();
    while engine.stats().models.iter().map(|model| model.best_effort.on_board).sum::<u64>() < 2 {
        std::thread::yield_now();
    }
    waiting.push(ask("m"));
    engine.device().poison("planted");
    has_failed(&engine, waiting, "the device has failed");
}

/// Nobody asks for anything: the engine learns of it all the same.
#[test]
fn a_device_that_is_poisoned_while_it_idles_fails_the_engine() {
    let engine = cpu();
    engine.device().poison("planted");
    engine.wait_for_fault();
    assert!(!engine.is_ready());
}

/// What is asked meanwhile waits, and is answered when the device goes on.
#[test]
fn a_device_that_is_quiesced_keeps_the_engine() {
    let engine = cpu();
    let plan = load(&engine, "m", ModelSettings::default(), 2);
    assert!(engine.device().quiesce(std::time::Duration::from_secs(60)));
    let future = engine.submit(&request("m", &[3; 64])).unwrap();
    assert!(engine.is_ready());
    engine.device().resume();
    assert_exact(&plan, &[3; 64], &future.wait().unwrap());
    assert!(engine.fault().is_none());
}

#[test]
fn a_bug_of_the_trace_ends_the_trace_alone() {
    let faulty = Faulty::new(|device, waker| device.set_waker(waker));
    let engine = faulty.engine();
    load(&engine, "m", ModelSettings::default(), 2);
    let path = std::env::temp_dir().join(format!("reef-faults-{}.json", std::process::id()));
    engine.start_trace(TraceOptions::new(&path)).unwrap();
    engine.infer(&request("m", &[1; 64])).unwrap();
    faulty.plant(Place::DrainEvents);
    let stopped = engine.stop_trace();
    assert!(matches!(&stopped, Err(TraceError::Failed(why)) if why == "planted"), "{stopped:?}");
    assert!(!path.exists());
    faulty.mend();
    engine.infer(&request("m", &[1; 64])).unwrap();
    engine.start_trace(TraceOptions::new(&path)).unwrap();
    engine.infer(&request("m", &[1; 64])).unwrap();
    assert!(engine.stop_trace().unwrap().events > 0);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn waiting_for_a_fault_ends_with_the_engine() {
    let engine = cpu();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| engine.wait_for_fault());
        engine.shutdown(Duration::ZERO);
        assert_eq!(waits.join().unwrap(), None);
    });
}

/// A host kernel cannot be stopped; who waits for it can go.
#[test]
fn callers_are_answered_while_a_host_kernel_goes_on() {
    let engine = cpu();
    let gate = Gate::shut();
    let foreign = Foreign { run: gate.hook(), ..Foreign::new() };
    engine.load_plan(key("m"), real_time(0), foreign.plan(engine.capabilities().target, 64)).unwrap();
    let cancelled = engine.submit(&request("m", &[1; 64])).unwrap();
    gate.wait_for_one();
    cancelled.cancel();
    assert_eq!(cancelled.wait().unwrap_err(), InferError::Cancelled);
    let counts = || engine.stats().models[0].real_time.clone();
    assert_eq!((counts().failed(FailureReason::Cancelled), counts().on_board), (1, 1), "it is still there");
    let soon = Some(Nanos::from_millis(2));
    let late = engine.submit(&InferRequest { deadline: soon, ..request("m", &[1; 64]) }).unwrap();
    assert_eq!(late.wait().unwrap_err(), InferError::DeadlinePassed);
    let mut session =
        engine.session("m", &SessionOptions { deadline: soon, ..SessionOptions::default() }).unwrap();
    for _ in 0..2 {
        session.input_mut(0).fill(3);
        assert_eq!(session.run().unwrap_err(), InferError::DeadlinePassed);
    }
    let before = counts();
    assert_eq!((before.failed(FailureReason::Deadline), before.cu_time), (3, Nanos::ZERO));
    gate.open();
    while counts().pending() > 0 {
        std::thread::yield_now();
    }
    let after = counts();
    assert!(after.cu_time + after.wasted > Nanos::ZERO, "what ran is counted when it has ended");
    assert_eq!(after.failures, before.failures, "every request is counted once");
    // Slots and buffers are there again, and the session's ticket is not confused.
    let mut session = engine.session("m", &SessionOptions::default()).unwrap();
    session.input_mut(0).fill(7);
    session.run().unwrap();
    assert_eq!(session.output(0).data, [7; 64]);
}

/// The same for requests that nobody cancelled.
#[test]
fn a_shutdown_answers_best_effort_callers_before_their_host_kernel_ends() {
    let engine = cpu();
    let gate = Gate::shut();
    let foreign = Foreign { run: gate.hook(), ..Foreign::new() };
    let target = engine.capabilities().target;
    engine.load_plan(key("m"), ModelSettings::default(), foreign.plan(target, 64)).unwrap();
    let waits: Vec<_> = (0..4).map(|_| engine.submit(&request("m", &[1; 64])).unwrap()).collect();
    gate.wait_for_one();
    std::thread::scope(|scope| {
        scope.spawn(|| engine.shutdown(Duration::ZERO));
        for future in waits {
            assert_eq!(future.wait().unwrap_err(), InferError::ShuttingDown);
        }
        gate.open();
    });
}
