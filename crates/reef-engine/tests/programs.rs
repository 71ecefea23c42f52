//! Requests that run several segments: which ones depends on what they compute.

mod doubles;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doubles::foreign::Gate;
use doubles::wheel::Wheel;
use doubles::{cpu, key, live, load, real_time, request, stepped};
use reef_engine::*;
use reef_plan::Cutter;

fn wheel(engine: &Engine, ends: u8, settings: ModelSettings) -> Arc<Wheel> {
    let wheel = Arc::new(Wheel::new(engine.capabilities().target, ends));
    engine.load_source(key("wheel"), settings, wheel.clone()).expect("it loads");
    wheel
}

fn input(seed: u8) -> Vec<u8> {
    (0..64).map(|at: u8| at.wrapping_mul(7).wrapping_add(seed)).collect()
}

#[test]
fn answers_and_counters_are_those_of_the_whole_way() {
    let engines = [stepped(), live().0, cpu()];
    for engine in &engines {
        let wheel = wheel(engine, 4, ModelSettings::default());
        for round in 0..3 {
            for seed in 0..12 {
                let input = input(seed);
                let (answer, blocks) = wheel.answer(&input);
                let response = engine.infer(&request("wheel", &input)).expect("it is answered");
                assert_eq!(response.output("y").unwrap().data, answer, "round {round}, input {seed}");
                let counters = response.counters;
                assert_eq!(counters.blocks_done, blocks + counters.blocks_rerun, "input {seed}");
            }
        }
        let stats = &engine.stats().models[0].best_effort;
        assert_eq!(stats.success, 36, "one request, one count");
        engine.shutdown(Duration::ZERO);
    }
}

/// A wheel whose second spoke is not made before its gate opens.
#[derive(Debug)]
struct Slow {
    wheel: Wheel,
    gate: Arc<Gate>,
}

impl PlanSource for Slow {
    fn inputs(&self) -> &[TensorInfo] {
        self.wheel.inputs()
    }
    fn outputs(&self) -> &[TensorInfo] {
        self.wheel.outputs()
    }
    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        self.wheel.compile(shapes, cutter)
    }
    fn segment(&self, key: &SegmentKey, cutter: &dyn Cutter) -> Result<Segment, String> {
        if key.part.is_some() {
            (self.gate.hook())();
        }
        self.wheel.segment(key, cutter)
    }
}

/// What is on its way to a plan that takes for ever is answered when the drain is over, whatever its class.
#[test]
fn a_shutdown_does_not_wait_for_a_plan() {
    for settings in [real_time(0), ModelSettings::default()] {
        let engine = cpu();
        let gate = Gate::shut();
        let wheel = Wheel::new(engine.capabilities().target, 4);
        let source = Slow { wheel, gate: gate.clone() };
        engine.load_source(key("wheel"), settings, Arc::new(source)).expect("it loads");
        let input = input(1);
        let waits = engine.submit(&request("wheel", &input)).unwrap();
        gate.wait_for_one();
        // Ends although nobody opens the gate.
        engine.shutdown(Duration::from_millis(10));
        assert_eq!(waits.wait().unwrap_err(), InferError::ShuttingDown);
        assert!(!engine.is_idle(), "the plan is still being made");
        gate.open();
    }
}

#[test]
fn a_known_way_is_gone_without_the_engine() {
    let engine = cpu();
    let wheel = wheel(&engine, 4, ModelSettings::default());
    let input = input(1);
    let tasks = || engine.device().counters().submitted;
    let run = || {
        let before = tasks();
        let response = engine.infer(&request("wheel", &input)).expect("it is answered");
        assert_eq!(response.output("y").unwrap().data, wheel.answer(&input).0);
        tasks() - before
    };
    assert!(run() > 1, "the first request finds the way");
    let made = wheel.made.load(Ordering::SeqCst);
    assert_eq!((run(), run()), (1, 1), "later ones know it");
    assert_eq!(wheel.made.load(Ordering::SeqCst), made);
}

#[test]
fn other_values_go_another_way() {
    let engine = cpu();
    let wheel = wheel(&engine, 2, ModelSettings::default());
    for seed in [1, 2, 1, 3, 2, 1] {
        let input = input(seed);
        let response = engine.infer(&request("wheel", &input)).expect("it is answered");
        assert_eq!(response.output("y").unwrap().data, wheel.answer(&input).0, "input {seed}");
    }
}

#[test]
fn who_is_on_the_way_is_cancelled_late_or_unloaded_like_any() {
    for engine in [live().0, cpu()] {
        // It never ends by itself.
        wheel(&engine, 0, ModelSettings::default());
        let other = load(&engine, "other", doubles::real_time(0), 2);
        let endless = input(5);
        for _ in 0..5 {
            let future = engine.submit(&request("wheel", &endless)).expect("it is taken");
            let urgent = engine.infer(&request("other", &endless)).expect("urgent work is served");
            doubles::assert_exact(&other, &endless, &urgent);
            std::thread::sleep(Duration::from_millis(2));
            future.cancel();
            assert!(matches!(future.wait(), Err(InferError::Cancelled)));
            let mut late = request("wheel", &endless);
            late.deadline = Some(Nanos::from_millis(3));
            // On a machine that is busy otherwise, estimates rise until it is refused at once.
            let ended = engine.infer(&late).map(drop).expect_err("it never ends by itself");
            let late = matches!(ended, InferError::DeadlinePassed | InferError::DeadlineUnreachable { .. });
            assert!(late, "{ended}");
        }
        let future = engine.submit(&request("wheel", &endless)).expect("it is taken");
        std::thread::sleep(Duration::from_millis(2));
        drop(future);
        engine.unload("wheel", None, Queued::Finish).expect("its last request has gone");
        assert!(engine.infer(&request("other", &endless)).is_ok());
        engine.shutdown(Duration::ZERO);
        assert!(engine.is_idle());
    }
}

#[test]
fn a_shutdown_ends_what_is_on_its_way() {
    for engine in [live().0, cpu()] {
        wheel(&engine, 0, ModelSettings::default());
        let endless = input(5);
        let future = engine.submit(&request("wheel", &endless)).expect("it is taken");
        std::thread::sleep(Duration::from_millis(3));
        engine.shutdown(Duration::from_millis(1));
        assert!(matches!(future.wait(), Err(InferError::ShuttingDown)));
        assert!(engine.is_idle());
    }
}

#[test]
fn a_segment_without_a_plan_ends_its_request_alone() {
    for engine in [stepped(), live().0, cpu()] {
        let wheel = Wheel::new(engine.capabilities().target, 4);
        let broken = Arc::new(Wheel { broken: Some(2), ..wheel });
        engine.load_source(key("wheel"), ModelSettings::default(), broken.clone()).expect("it loads");
        let (mut failed, mut answered) = (0, 0);
        for seed in 0..12 {
            let input = input(seed);
            match engine.infer(&request("wheel", &input)) {
                Ok(response) => {
                    assert_eq!(response.output("y").unwrap().data, broken.answer(&input).0);
                    answered += 1;
                }
                Err(InferError::Shapes(reason)) => {
                    assert_eq!(reason, "this spoke is broken");
                    failed += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(failed > 0 && answered > 0, "{failed} failed, {answered} were answered");
        assert!(engine.fault().is_none());
        engine.shutdown(Duration::ZERO);
    }
}

#[test]
fn sessions_run_programs() {
    let engine = cpu();
    let wheel = wheel(&engine, 4, ModelSettings::default());
    let mut session = engine.session("wheel", &SessionOptions::default()).expect("a session");
    for seed in [3, 4, 3] {
        session.input_mut(0).copy_from_slice(&input(seed));
        session.run().expect("it runs");
        assert_eq!(session.output(0).data, wheel.answer(&input(seed)).0);
        session.run().expect("its inputs stay");
        assert_eq!(session.output(0).data, wheel.answer(&input(seed)).0);
    }
}
