//! Requests: what is refused and why, what comes back, and that outputs are exact whatever else runs.

mod doubles;

use std::sync::Arc;

use doubles::*;
use reef_engine::*;
use reef_plan::{SyntheticStage, synthetic_plan};

fn wrong(error: InferError) -> (String, WrongInput) {
    match error {
        InferError::WrongInput { name, problem } => (name, problem),
        other => panic!("not about an input: {other}"),
    }
}

#[test]
fn a_request_gets_exact_outputs_and_its_times_add_up() {
    let engine = stepped();
    let plan = load(&engine, "m", ModelSettings::default(), 3);
    let input = [7u8; 64];
    let response = engine.infer(&InferRequest { id: Some("42".into()), ..request("m", &input) }).unwrap();
    assert_exact(&plan, &input, &response);
    assert_eq!(response.id.as_deref(), Some("42"));
    assert_eq!(response.class, Class::BestEffort);
    assert_eq!(*response.model, key("m"));
    let t = response.timings;
    assert_eq!(t.compute_input + t.queue + t.compute + t.compute_output, t.total);
    assert!(t.compute > Nanos::ZERO);
    assert_eq!(response.counters.blocks_done, plan.blocks());
}

#[test]
fn every_way_to_get_an_input_wrong_is_named() {
    let engine = stepped();
    load(&engine, "m", ModelSettings::default(), 1);
    let (data, short) = ([0u8; 64], [0u8; 63]);
    let good = || InputTensor { name: "x", dtype: DType::U8, shape: Shape::from([64]), data: &data };
    let table: Vec<(Vec<InputTensor<'_>>, &str, WrongInput)> = vec![
        (vec![], "x", WrongInput::Missing),
        (vec![good(), good()], "x", WrongInput::Duplicate),
        (vec![good(), InputTensor { name: "z", ..good() }], "z", WrongInput::Unknown { known: "x".into() }),
        (
            vec![InputTensor { dtype: DType::I8, ..good() }],
            "x",
            WrongInput::DType { expected: DType::U8, got: DType::I8 },
        ),
        (
            vec![InputTensor { shape: Shape::from([63]), data: &short, ..good() }],
            "x",
            WrongInput::Shape { expected: "[64]".into(), got: Shape::from([63]) },
        ),
        (
            vec![InputTensor { shape: Shape::from([8, 8]), ..good() }],
            "x",
            WrongInput::Shape { expected: "[64]".into(), got: Shape::from([8, 8]) },
        ),
        (vec![InputTensor { data: &short, ..good() }], "x", WrongInput::Bytes { expected: 64, got: 63 }),
    ];
    for (inputs, name, problem) in table {
        let error = engine.submit(&InferRequest::new("m", inputs)).unwrap_err();
        assert_eq!(wrong(error), (name.to_string(), problem));
    }
    let stats = &engine.stats().models[0];
    assert_eq!(stats.best_effort.failures, [0; 6], "a caller's mistakes are not counted");
}

#[test]
fn models_versions_outputs_and_classes_are_checked() {
    let engine = stepped();
    load(&engine, "be", ModelSettings::default(), 1);
    load(&engine, "rt", real_time(1), 1);
    let data = [0u8; 64];
    let error = |request: InferRequest<'_>| engine.submit(&request).unwrap_err();
    assert_eq!(error(request("no", &data)), InferError::UnknownModel("no".into()));
    let version = InferRequest { version: Some("9"), ..request("be", &data) };
    assert_eq!(error(version), InferError::UnknownModel("be/9".into()));
    let output = InferRequest { outputs: Some(vec!["y", "q"]), ..request("be", &data) };
    assert_eq!(error(output), InferError::UnknownOutput { name: "q".into(), known: "y".into() });
    for asked in [
        InferRequest { class: Some(ClassRequest::RealTime), ..request("be", &data) },
        InferRequest { priority: 1, ..request("be", &data) },
        InferRequest { priority: 1, ..request("rt", &data) },
        InferRequest { priority: 99, ..request("rt", &data) },
    ] {
        assert!(matches!(error(asked), InferError::NotAllowed { .. }));
    }
    let down = InferRequest { class: Some(ClassRequest::BestEffort), ..request("rt", &data) };
    assert_eq!(engine.infer(&down).unwrap().class, Class::BestEffort);
    let lower = InferRequest { priority: 4, ..request("rt", &data) };
    assert_eq!(engine.infer(&lower).unwrap().class, Class::real_time(3));
}

#[test]
fn without_a_version_the_newest_by_number_answers() {
    let engine = stepped();
    for version in ["2", "beta", "10", "9"] {
        let key = ModelKey { name: "m".into(), version: version.into() };
        engine.load_plan(key, ModelSettings::default(), plan(&engine, "m", 1, 1)).unwrap();
    }
    let response = engine.infer(&request("m", &[0; 64])).unwrap();
    assert_eq!(response.model.version, "10");
    let versions: Vec<String> = engine.models().into_iter().map(|info| info.key.version).collect();
    assert_eq!(versions, ["10", "9", "2", "beta"]);
    let again = engine.load_plan(key("m"), ModelSettings::default(), plan(&engine, "m", 1, 1));
    assert!(again.is_ok());
    let again = engine.load_plan(key("m"), ModelSettings::default(), plan(&engine, "m", 1, 1));
    assert!(matches!(again, Err(LoadError::AlreadyLoaded(_))));
}

#[test]
fn a_full_queue_refuses_and_loses_nothing() {
    let engine = stepped();
    let settings = ModelSettings { queue_len: 3, ..ModelSettings::default() };
    let plan = load(&engine, "m", settings, 2);
    let inputs: Vec<[u8; 64]> = (0..8).map(|n| [n; 64]).collect();
    let submitted: Vec<_> = inputs.iter().map(|input| engine.submit(&request("m", input))).collect();
    // Two on the board, three in the queue.
    let refused: Vec<_> = submitted.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(refused.len(), 3);
    assert!(matches!(refused[0], InferError::QueueFull { len: 3, .. }));
    for (future, input) in submitted.into_iter().zip(&inputs).filter_map(|(r, i)| r.ok().map(|f| (f, i))) {
        assert_exact(&plan, input, &future.wait().unwrap());
    }
    let stats = engine.stats().models[0].best_effort.clone();
    assert_eq!((stats.success, stats.failed(FailureReason::Rejected), stats.pending()), (5, 3, 0));
}

#[test]
fn deadlines_and_timeouts_end_requests_in_the_queue_and_on_the_device() {
    let engine = stepped();
    load(&engine, "m", ModelSettings { in_flight_max: Some(1), ..real_time(0) }, 50);
    let data = [0u8; 64];
    let us = Nanos::from_micros;
    let late = InferRequest { deadline: Some(Nanos::ZERO), ..request("m", &data) };
    assert_eq!(engine.submit(&late).unwrap_err(), InferError::DeadlinePassed);
    // Each takes 50 stages of 20 µs on the dummy's two units.
    let runs = engine.submit(&InferRequest { deadline: Some(us(500)), ..request("m", &data) }).unwrap();
    let waits = engine.submit(&InferRequest { timeout: Some(us(100)), ..request("m", &data) }).unwrap();
    let hurries = engine.submit(&InferRequest { deadline: Some(us(300)), ..request("m", &data) }).unwrap();
    let patient = engine.submit(&request("m", &data)).unwrap();
    assert_eq!(waits.wait().unwrap_err(), InferError::Timeout);
    assert_eq!(hurries.wait().unwrap_err(), InferError::DeadlinePassed);
    assert_eq!(runs.wait().unwrap_err(), InferError::DeadlinePassed);
    patient.wait().unwrap();
    let stats = engine.stats().models[0].real_time.clone();
    assert_eq!(stats.deadline_misses, 3);
    assert_eq!((stats.failed(FailureReason::Deadline), stats.failed(FailureReason::Timeout)), (3, 1));
    assert_eq!((stats.success, stats.executions), (1, 1));
}

#[test]
fn dropping_the_future_cancels_queued_and_running_requests() {
    let engine = stepped();
    load(&engine, "m", ModelSettings::default(), 100);
    let data = [0u8; 64];
    let runs = engine.submit(&request("m", &data)).unwrap();
    let queued: Vec<_> = (0..3).map(|_| engine.submit(&request("m", &data)).unwrap()).collect();
    engine.step();
    drop(runs);
    drop(queued);
    while engine.step() {}
    let stats = engine.stats().models[0].best_effort.clone();
    assert_eq!((stats.failed(FailureReason::Cancelled), stats.pending(), stats.success), (4, 0, 0));
    assert!(engine.stats().device.blocks_done < 50, "a running task stops early");
}

#[test]
fn real_time_preempts_and_best_effort_stays_exact() {
    let engine = stepped();
    let slow = load(&engine, "slow", ModelSettings::default(), 40);
    let fast = load(&engine, "fast", real_time(0), 2);
    let (a, b) = ([1u8; 64], [2u8; 64]);
    let best_effort = engine.submit(&request("slow", &a)).unwrap();
    for _ in 0..5 {
        engine.step();
        assert_exact(&fast, &b, &engine.infer(&request("fast", &b)).unwrap());
    }
    assert_exact(&slow, &a, &best_effort.wait().unwrap());
    let stats = engine.stats();
    let find = |name: &str| stats.models.iter().find(|model| model.key.name == name).unwrap();
    assert!(find("fast").real_time.preemptions() > 0);
    assert!(find("slow").best_effort.blocks_killed > 0);
}

#[test]
fn rt_only_refuses_best_effort_until_the_scheme_changes() {
    let engine = stepped();
    load(&engine, "m", ModelSettings::default(), 1);
    engine.set_scheme(Scheme::RtOnly);
    let refused = engine.submit(&request("m", &[0; 64])).unwrap_err();
    assert_eq!(refused, InferError::NotServed { scheme: Scheme::RtOnly, class: Class::BestEffort });
    for scheme in [Scheme::Sequential, Scheme::Concurrent, Scheme::Wait, Scheme::Reset] {
        engine.set_scheme(scheme);
        assert_eq!(engine.scheme(), scheme);
        engine.infer(&request("m", &[0; 64])).unwrap();
    }
}

#[test]
fn a_poisoned_device_fails_requests_and_readiness() {
    let engine = stepped();
    load(&engine, "m", ModelSettings::default(), 5);
    let future = engine.submit(&request("m", &[0; 64])).unwrap();
    assert!(engine.is_ready());
    engine.device().poison("test");
    assert_eq!(future.wait().unwrap_err(), InferError::DeviceFault);
    assert!(!engine.is_ready());
    assert_eq!(engine.infer(&request("m", &[0; 64])).unwrap_err(), InferError::DeviceFault);
    assert_eq!(engine.stats().models[0].best_effort.failed(FailureReason::Backend), 2);
}

#[test]
fn sessions_reuse_their_buffers() {
    let engine = stepped();
    let plan = load(&engine, "m", real_time(0), 2);
    let mut session = engine.session("m", &SessionOptions::default()).unwrap();
    for fill in 0..5u8 {
        session.input_mut(0).fill(fill);
        session.run().unwrap();
        assert_eq!(session.output(0).data, reef_plan::synthetic_output(&plan, &[fill; 64]));
    }
    assert_eq!(session.inputs()[0].name, "x");
    let wrong = SessionOptions { shapes: vec![("x", Shape::from([3]))], ..SessionOptions::default() };
    assert!(matches!(engine.session("m", &wrong), Err(InferError::WrongInput { .. })));
    engine.unload("m", None, Queued::Finish).unwrap();
    assert!(matches!(session.run(), Err(InferError::Unloading(_))));
}

#[test]
fn a_session_that_lost_its_buffers_says_so() {
    let device = LiveDummy::stuck();
    let options = EngineOptions { clock: device.clock(), ..EngineOptions::default() };
    let engine = Engine::new(device, options).unwrap();
    load(&engine, "m", real_time(0), 2);
    let mut session = engine.session("m", &SessionOptions::default()).unwrap();
    assert_eq!(session.run().unwrap_err(), InferError::Cancelled, "time stands still");
    session.input_mut(0).fill(1);
    assert_eq!(session.run().unwrap_err(), InferError::NoMemory);
    assert_eq!(session.output(0).data.len(), session.plan().outputs()[0].bytes());
}

#[test]
fn a_plan_that_is_always_stopped_at_its_deadline_is_refused_then() {
    let engine = stepped();
    load(&engine, "m", real_time(0), 200);
    let data = [0u8; 64];
    let hurried = InferRequest { deadline: Some(Nanos::from_micros(200)), ..request("m", &data) };
    for _ in 0..8 {
        assert_eq!(engine.infer(&hurried).unwrap_err(), InferError::DeadlinePassed);
    }
    let refused = engine.infer(&hurried).unwrap_err();
    assert!(matches!(refused, InferError::DeadlineUnreachable { .. }), "{refused}");
}

/// Time that a task threw away is charged to its model, though it never came to its end: the more of it, the
/// more of others' tasks start before its next one.
#[test]
fn a_model_whose_tasks_are_killed_pays_for_their_time() {
    let others_before = |others: u64| {
        let engine = stepped();
        load(&engine, "urgent", real_time(0), 1);
        let settings = ModelSettings { queue_len: 2000, weight: 10, ..ModelSettings::default() };
        load(&engine, "small", settings, 2);
        let block = SyntheticStage { blocks: 1, polls: 2000, poll_ns: 10_000 };
        let plan = synthetic_plan("long", engine.capabilities().target, 1, &[block]).unwrap();
        engine.load_plan(key("long"), ModelSettings::default(), Arc::new(plan)).unwrap();
        let data = [0u8; 64];
        let mut waiting = Vec::new();
        let mut fill = || {
            while let Ok(future) = engine.submit(&request("small", &data)) {
                waiting.push(future);
            }
        };
        let of = |name: &str| {
            let stats = engine.stats();
            stats.models.into_iter().find(|model| model.key.name == name).unwrap().best_effort
        };
        fill();
        let long = engine.submit(&request("long", &data)).unwrap();
        while of("small").success < others {
            engine.step();
        }
        // Takes every unit, and then nobody wants the long task any more.
        engine.infer(&request("urgent", &data)).unwrap();
        drop(long);
        while of("long").pending() > 0 {
            engine.step();
        }
        assert!(of("long").wasted > Nanos::ZERO && of("long").success == 0);
        fill();
        let before = of("small").success;
        engine.infer(&request("long", &data)).unwrap();
        of("small").success - before
    };
    let (little, much) = (others_before(5), others_before(105));
    assert!(much > little + 50, "{much} and {little}");
}

/// A model that is unloaded and loaded again still owes what it used: as often as others start before it.
#[test]
fn loading_a_model_again_pays_no_debts() {
    let others_before = |again: &str| {
        let engine = stepped();
        load(&engine, "large", ModelSettings::default(), 200);
        load(&engine, "small", ModelSettings::default(), 2);
        let data = [0u8; 64];
        let mut waiting = Vec::new();
        let mut fill = || {
            while let Ok(future) = engine.submit(&request("small", &data)) {
                waiting.push(future);
            }
        };
        fill();
        engine.infer(&request("large", &data)).unwrap();
        engine.unload("large", None, Queued::Finish).unwrap();
        load(&engine, again, ModelSettings::default(), 1);
        fill();
        let done = || {
            let stats = engine.stats();
            let small = stats.models.iter().find(|model| model.key.name == "small");
            small.map(|model| model.best_effort.success).unwrap()
        };
        let before = done();
        engine.infer(&request(again, &data)).unwrap();
        done() - before
    };
    let (stranger, same) = (others_before("other"), others_before("large"));
    // It owes what it was ahead: the small ones had their turns meanwhile.
    assert!(stranger <= 4 && same >= stranger + 12, "{stranger} and {same}");
}
