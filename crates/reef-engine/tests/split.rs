//! Models that are cut over several devices: outputs, books, and every way in which a request, a model or a
//! device can end while requests are between two devices.

mod doubles;

use std::sync::Arc;
use std::time::{Duration, Instant};

use doubles::foreign::{Foreign, Gate};
use doubles::wheel::Wheel;
use doubles::*;
use reef_engine::*;
use reef_plan::synthetic_output;

fn split(settings: ModelSettings) -> ModelSettings {
    ModelSettings { placement: Placement::Split, ..settings }
}

/// Per device what is counted for the first model.
fn counted<T>(engine: &Engine, what: impl Fn(&ClassStats) -> T) -> Vec<T> {
    engine.stats().models[0].devices.iter().map(|device| what(&device.best_effort)).collect()
}

/// No device keeps a part of a plan; the compile thread may just be looking at one.
fn let_go(plan: &Arc<Plan>) {
    let began = Instant::now();
    while Arc::strong_count(plan) > 1 {
        assert!(began.elapsed() < Duration::from_secs(60), "somebody keeps a part of it");
        std::thread::yield_now();
    }
}

#[test]
fn a_split_model_answers_as_on_one_device() {
    for devices in [2, 3] {
        let engine = cpus(devices);
        let plan = load(&engine, "m", split(ModelSettings::default()), 9);
        let info = engine.model("m", None).unwrap();
        assert_eq!(info.devices.len(), devices);
        let on: Vec<_> = info.plans.iter().map(|plan| plan.device.clone()).collect();
        assert_eq!(on, info.devices, "a part on each");
        let asked: Vec<_> = (0..40u8).map(|n| engine.submit(&request("m", &[n; 64])).unwrap()).collect();
        for (n, future) in asked.into_iter().enumerate() {
            let response = future.wait().unwrap();
            assert_exact(&plan, &[n as u8; 64], &response);
            assert!(response.counters.blocks_done >= plan.blocks(), "those of all parts");
            assert_eq!(*response.device, *info.devices[devices - 1]);
        }
        let stats = engine.stats();
        let sum = &stats.models[0].best_effort;
        assert_eq!((sum.success, sum.executions, sum.queued, sum.on_board), (40, 40, 0, 0));
        assert!(stats.devices.iter().all(|device| device.counters.completed == 40), "each did its part");
        assert!(counted(&engine, |stats| stats.cu_time).iter().all(|time| *time > Nanos::ZERO));
        let cu_time: Nanos =
            counted(&engine, |stats| stats.cu_time).into_iter().fold(Nanos::ZERO, |a, b| a + b);
        assert_eq!(sum.cu_time, cu_time, "no part is counted twice");
        engine.unload("m", None, Queued::Finish).unwrap();
        let_go(&plan);
    }
}

#[test]
fn a_model_of_fewer_stages_than_devices_is_on_as_many() {
    let engine = cpus(3);
    let plan = load(&engine, "m", split(ModelSettings::default()), 1);
    assert_eq!(plan.stages().len(), 2);
    assert_exact(&plan, &[7; 64], &engine.infer(&request("m", &[7; 64])).unwrap());
    assert_eq!(engine.model("m", None).unwrap().plans.len(), 2);
    let one = cpus(1);
    let plan = load(&one, "m", split(ModelSettings::default()), 4);
    assert_exact(&plan, &[7; 64], &one.infer(&request("m", &[7; 64])).unwrap());
    assert_eq!(one.model("m", None).unwrap().plans.len(), 1, "there is nothing to split over");
}

#[test]
fn sessions_of_split_models_run_all_parts() {
    let engine = cpus(2);
    let plan = load(&engine, "m", split(real_time(0)), 6);
    let mut session = engine.session("m", &SessionOptions::default()).unwrap();
    for n in 0..100 {
        session.input_mut(0).copy_from_slice(&[n; 64]);
        let info = session.run().unwrap();
        assert_eq!(session.output(0).data, synthetic_output(&plan, &[n; 64]));
        assert!(info.counters.blocks_done >= plan.blocks());
    }
    assert_eq!(engine.stats().models[0].real_time.success, 100);
}

#[test]
fn segments_of_split_models_follow_each_other_over_the_devices() {
    let engine = cpus(2);
    let wheel = Arc::new(Wheel::new(engine.capabilities().target, 4));
    engine.load_source(key("wheel"), split(ModelSettings::default()), wheel.clone()).unwrap();
    for round in 0..3 {
        let asked: Vec<_> = (0..20u8).map(|n| engine.submit(&request("wheel", &[n; 64])).unwrap()).collect();
        for (n, future) in asked.into_iter().enumerate() {
            let (answer, blocks) = wheel.answer(&[n as u8; 64]);
            let response = future.wait().unwrap();
            assert_eq!(response.output("y").unwrap().data, answer, "round {round}, input {n}");
            assert!(response.counters.blocks_done >= blocks);
        }
    }
    assert_eq!(engine.stats().models[0].best_effort.success, 60);
    let endless = Arc::new(Wheel::new(engine.capabilities().target, 0));
    let settings =
        ModelSettings { deadline: Some(Nanos::from_millis(50)), ..split(ModelSettings::default()) };
    engine.load_source(key("endless"), settings, endless).unwrap();
    let error = engine.infer(&request("endless", &[1; 64])).unwrap_err();
    assert_eq!(error, InferError::DeadlinePassed);
}

/// Its second half stands still until the gate is opened.
fn gated(engine: &Engine, gate: &Arc<Gate>, settings: ModelSettings) {
    let foreign = Foreign { run: gate.hook(), ..Foreign::new() };
    let plan = foreign.plan_behind(engine.capabilities().target, 64);
    engine.load_plan(key("m"), settings, plan).unwrap();
}

#[test]
fn requests_end_on_whichever_part_they_are() {
    let engine = cpus(2);
    let gate = Gate::shut();
    gated(&engine, &gate, split(ModelSettings::default()));
    let asked: Vec<_> = (0..20).map(|_| engine.submit(&request("m", &[1; 64])).unwrap()).collect();
    gate.wait_for_one();
    // The first part is done with all of them; they wait for the second.
    while counted(&engine, |stats| stats.pending()) != [0, 20] {
        std::thread::yield_now();
    }
    let late = InferRequest { deadline: Some(Nanos::from_millis(20)), ..request("m", &[1; 64]) };
    assert_eq!(engine.infer(&late).unwrap_err(), InferError::DeadlinePassed);
    for future in asked {
        future.cancel();
        assert_eq!(future.wait().unwrap_err(), InferError::Cancelled);
    }
    gate.open();
    engine.unload("m", None, Queued::Finish).unwrap();
    assert!(engine.is_idle());
}

#[test]
fn so_many_requests_are_on_their_way_and_no_more() {
    let engine = cpus(2);
    let gate = Gate::shut();
    let settings = ModelSettings { queue_len: 10, ..ModelSettings::default() };
    gated(&engine, &gate, split(settings));
    let mut asked = vec![];
    let refused = loop {
        match engine.submit(&request("m", &[asked.len() as u8; 64])) {
            Ok(future) => asked.push(future),
            Err(error) => {
                // The first part's own queue may be full for a moment.
                let first = counted(&engine, |stats| stats.pending())[0];
                if first == 0 {
                    break error;
                }
                std::thread::yield_now();
            }
        }
        assert!(asked.len() < 200, "nothing bounds them");
    };
    assert!(matches!(refused, InferError::QueueFull { .. }), "{refused}");
    assert!(asked.len() >= 10, "{}", asked.len());
    gate.open();
    asked.into_iter().for_each(|future| drop(future.wait().unwrap()));
    engine.infer(&request("m", &[1; 64])).unwrap();
}

#[test]
fn an_unload_and_a_shutdown_wait_for_every_part() {
    for queued in [Queued::Finish, Queued::Refuse] {
        let engine = cpus(2);
        let m = load(&engine, "m", split(ModelSettings::default()), 30);
        let n = load(&engine, "n", split(real_time(0)), 30);
        let ask =
            |name| (0..30).map(|_| engine.submit(&request(name, &[5; 64])).unwrap()).collect::<Vec<_>>();
        let (ms, ns) = (ask("m"), ask("n"));
        engine.unload("m", None, queued).unwrap();
        let mut done = 0;
        for future in ms {
            match future.wait() {
                Ok(response) => {
                    assert_exact(&m, &[5; 64], &response);
                    done += 1;
                }
                Err(error) => assert_eq!((error, queued), (InferError::Unloading(key("m")), Queued::Refuse)),
            }
        }
        assert!(queued == Queued::Refuse || done == 30);
        let_go(&m);
        engine.shutdown(Duration::ZERO);
        assert!(engine.is_idle());
        for future in ns {
            assert_exact(&n, &[5; 64], &future.wait().unwrap());
        }
    }
}

#[test]
fn what_has_begun_waits_while_best_effort_is_not_served() {
    let engine = cpus(2);
    let gate = Gate::shut();
    gated(&engine, &gate, split(ModelSettings::default()));
    let mut asked: Vec<_> = (0..6).map(|_| engine.submit(&request("m", &[1; 64])).unwrap()).collect();
    gate.wait_for_one();
    while counted(&engine, |stats| stats.pending()) != [0, 6] {
        std::thread::yield_now();
    }
    engine.set_scheme(Scheme::RtOnly);
    gate.open();
    std::thread::sleep(Duration::from_millis(20));
    let refused = engine.submit(&request("m", &[1; 64])).map(drop).unwrap_err();
    assert!(matches!(refused, InferError::NotServed { .. }), "{refused}");
    let last = asked.split_off(5);
    engine.set_scheme(Scheme::Reset);
    asked.into_iter().for_each(|future| drop(future.wait().unwrap()));
    drop(last);
    engine.set_scheme(Scheme::RtOnly);
    engine.unload("m", None, Queued::Finish).unwrap();
    engine.shutdown(Duration::ZERO);
}

#[test]
fn a_poisoned_device_takes_the_split_model_along_and_no_others() {
    for (lost, kept) in [("d:0", "d:1"), ("d:1", "d:0")] {
        let engine = cpus(2);
        let other = load(&engine, "other", on(kept, real_time(0)), 3);
        load(&engine, "m", split(ModelSettings::default()), 40);
        let asked: Vec<_> = (0..30).map(|_| engine.submit(&request("m", &[1; 64])).unwrap()).collect();
        poison(&engine, lost);
        for future in asked {
            let ended = future.wait().map(drop);
            assert!(matches!(ended, Ok(()) | Err(InferError::DeviceFault)), "{ended:?}");
        }
        assert_eq!(engine.infer(&request("m", &[1; 64])).unwrap_err(), InferError::DeviceFault);
        assert_exact(&other, &[2; 64], &engine.infer(&request("other", &[2; 64])).unwrap());
        engine.unload("m", None, Queued::Finish).unwrap();
        assert_exact(&other, &[2; 64], &engine.infer(&request("other", &[2; 64])).unwrap());
    }
}

#[test]
fn wrong_splits_are_refused() {
    let engine = cpus(2);
    let plan = plan(&engine, "m", 1, 2);
    let refused = |devices: &[&str]| {
        let devices = devices.iter().map(ToString::to_string).collect();
        let settings = ModelSettings { devices, ..split(ModelSettings::default()) };
        engine.load_plan(key("m"), settings, plan.clone()).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&["d:0", "d:7"]),
        "settings of model m/1: there is no device 'd:7'; there are d:0, d:1"
    );
    assert_eq!(refused(&["d:0", "d:0"]), "settings of model m/1: device 'd:0' is named twice");
    assert!(engine.models().is_empty());
}
