//! A model takes the place of another one while clients ask for it: every request is answered once, by the
//! one or the other, and what the old one held is free.

mod doubles;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::scope;
use std::time::Duration;

use doubles::*;
use reef_engine::*;
use reef_plan::Cutter;
use reef_zoo::{Model, Variant};

/// A synthetic model; outputs tell its generation.
#[derive(Debug)]
struct Generation {
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    number: u64,
    stages: usize,
}

impl Generation {
    fn new(number: u64, stages: usize) -> Arc<Generation> {
        let info = |name: &str| {
            vec![TensorInfo { name: name.into(), dtype: DType::U8, dims: vec![64], texts: false }]
        };
        Arc::new(Generation { inputs: info("x"), outputs: info("y"), number, stages })
    }
}

impl PlanSource for Generation {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }
    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }
    fn compile(&self, _shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        Ok(plan_for(cutter.target(), "m", self.number, self.stages))
    }
}

/// Loads or replaces `m`.
fn replace(engine: &Engine, settings: &ModelSettings, number: u64, stages: usize) -> Published {
    let source = Generation::new(number, stages);
    engine.prepare_source(key("m"), settings.clone(), source).unwrap().publish().unwrap()
}

/// The generation that gave this answer.
fn generation(
    engine: &Engine,
    input: &[u8],
    response: &InferResponse,
    among: std::ops::RangeInclusive<u64>,
) -> u64 {
    let given = response.output("y").unwrap().data;
    let made_by = |number: &u64| {
        let plan = plan(engine, "m", *number, 2);
        given == reef_plan::synthetic_output(&plan, input)
    };
    let among_text = format!("{among:?}");
    among.into_iter().find(made_by).unwrap_or_else(|| panic!("the answer is of none of {among_text}"))
}

fn hammered(engine: &Engine, settings: &ModelSettings, rounds: u64) {
    // What is published at least, and what may be published at most.
    let (least, most) = (AtomicU64::new(0), AtomicU64::new(0));
    let (done, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    replace(engine, settings, 0, 2);
    scope(|scope| {
        for client in 0..4u8 {
            let (least, most, done, answers) = (&least, &most, &done, &answers);
            scope.spawn(move || {
                let mut round = 0u8;
                while !done.load(Ordering::SeqCst) {
                    round = round.wrapping_add(1);
                    let input = [client.wrapping_mul(64).wrapping_add(round); 64];
                    let first = least.load(Ordering::SeqCst);
                    let response = engine.infer(&request("m", &input)).expect("nobody is refused");
                    let last = most.load(Ordering::SeqCst);
                    generation(engine, &input, &response, first..=last);
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for number in 1..=rounds {
            most.store(number, Ordering::SeqCst);
            let published = replace(engine, settings, number, 2);
            least.store(number, Ordering::SeqCst);
            let retired = published.retired.expect("there was one");
            // Every other one goes while the next one comes.
            if number % 2 == 0 {
                retired.wait()
            } else {
                std::mem::drop(retired)
            }
            let seen = answers.load(Ordering::SeqCst);
            while answers.load(Ordering::SeqCst) < seen + 2 {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    let stats = engine.stats();
    let [model] = &stats.models[..] else { panic!("{:?}", stats.models) };
    let sum = |of: &dyn Fn(&ClassStats) -> u64| of(&model.real_time) + of(&model.best_effort);
    let failed = sum(&|class| class.failures.iter().sum());
    let asked = answers.load(Ordering::SeqCst);
    assert_eq!((sum(&|c| c.success), sum(&|c| c.executions), sum(&|c| c.pending())), (asked, asked, 0));
    assert_eq!(failed, 0);
    let info = engine.model("m", None).unwrap();
    assert_eq!(engine.models().len(), 1);
    assert_eq!(info.plans.len(), info.devices.len());
    engine.unload("m", None, Queued::Finish).unwrap();
    for device in engine.stats().devices {
        assert!(device.memory.iter().all(|memory| memory.weights == 0), "{:?}", device.memory);
    }
}

#[test]
fn a_model_that_is_replaced_a_hundred_times_refuses_nobody() {
    let (engine, _device) = live();
    hammered(&engine, &real_time(0), 100);
    hammered(&engine, &ModelSettings::default(), 20);
}

#[test]
fn the_same_on_threads_on_several_devices_and_in_parts() {
    hammered(&cpu(), &real_time(0), 100);
    let engine = cpus(2);
    hammered(&engine, &ModelSettings { placement: Placement::Replicate, ..real_time(1) }, 50);
    hammered(&engine, &ModelSettings { placement: Placement::Split, ..ModelSettings::default() }, 20);
}

#[test]
fn several_replace_one_model_at_once() {
    let (engine, _device) = live();
    replace(&engine, &real_time(0), 0, 2);
    let (replaced, busy) = (AtomicUsize::new(0), AtomicUsize::new(0));
    scope(|scope| {
        for thread in 0..4u64 {
            let (engine, replaced, busy) = (engine.clone(), &replaced, &busy);
            scope.spawn(move || {
                for round in 0..25 {
                    let source = Generation::new(thread * 100 + round, 2);
                    match engine.prepare_source(key("m"), real_time(0), source) {
                        Ok(prepared) => {
                            drop(prepared.publish().unwrap());
                            replaced.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(LoadError::Busy(_)) => drop(busy.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => panic!("{error}"),
                    }
                    engine.infer(&request("m", &[1; 64])).unwrap();
                }
            });
        }
    });
    assert_eq!(replaced.into_inner() + busy.into_inner(), 100);
    assert_eq!(engine.stats().models[0].real_time.success, 100);
    assert_eq!(engine.models().len(), 1);
}

/// Of ONNX models with weights, as the memory's books have it.
#[test]
fn what_a_replaced_model_held_is_free() {
    let engine = cpu();
    let spec = |seed: u64| {
        let onnx = reef_zoo::build(Model::Control, &Variant { seed, ..Variant::tiny() }).unwrap();
        let settings = ModelSettings::real_time(Level::TOP);
        ModelSpec { key: key("control"), source: ModelSource::Bytes(onnx), settings }
    };
    let info = engine.load(spec(0)).unwrap();
    let data = vec![0; info.inputs[0].fixed_shape().unwrap().elements() * 4];
    let ask = || {
        let (input, shape) = (&info.inputs[0], info.inputs[0].fixed_shape().unwrap());
        let tensor = InputTensor { name: &input.name, dtype: input.dtype, shape, data: &data };
        engine.infer(&InferRequest::new("control", vec![tensor])).unwrap()
    };
    let of =
        |response: InferResponse| response.outputs().map(|output| output.data.to_vec()).collect::<Vec<_>>();
    let held = |engine: &Engine| -> Vec<u64> {
        engine.stats().devices.iter().flat_map(|device| &device.memory).map(|memory| memory.weights).collect()
    };
    let (first, before) = (of(ask()), held(&engine));
    assert!(before.iter().any(|&bytes| bytes > 0));
    for round in 1..=10 {
        engine.replace(spec(round % 3)).unwrap();
        assert_eq!(of(ask()) == first, round % 3 == 0, "round {round}");
        assert_eq!(held(&engine), before);
    }
}

#[test]
fn what_cannot_be_prepared_or_is_not_published_leaves_the_old_one() {
    let (engine, _device) = live();
    replace(&engine, &real_time(0), 7, 2);
    let input = [3; 64];
    let serves = |number: u64| {
        let response = engine.infer(&request("m", &input)).unwrap();
        generation(&engine, &input, &response, number..=number);
    };
    let broken = ModelSpec {
        key: key("m"),
        source: ModelSource::Bytes(b"no model".to_vec()),
        settings: ModelSettings::default(),
    };
    assert!(matches!(engine.replace(broken.clone()), Err(LoadError::Import { .. })));
    serves(7);
    let prepared = engine.prepare_source(key("m"), real_time(0), Generation::new(8, 2)).unwrap();
    assert!(prepared.replaces());
    serves(7);
    let second = engine.prepare_source(key("m"), real_time(0), Generation::new(9, 2)).unwrap_err();
    assert!(matches!(second, LoadError::Busy(_)), "{second}");
    assert!(matches!(engine.load(broken), Err(LoadError::AlreadyLoaded(_))));
    // It is run before anybody finds it.
    let mut session = prepared.session(&SessionOptions::default()).unwrap();
    session.input_mut(0).copy_from_slice(&input);
    session.run().unwrap();
    let expected = reef_plan::synthetic_output(&plan(&engine, "m", 8, 2), &input);
    assert_eq!(session.output(0).data, expected);
    drop(session);
    drop(prepared);
    serves(7);
    let published = replace(&engine, &real_time(0), 9, 2);
    serves(9);
    drop(published);
    let fresh = engine.prepare_source(key("other"), real_time(0), Generation::new(1, 2)).unwrap();
    assert!(!fresh.replaces());
    let found = engine.infer(&request("other", &input)).unwrap_err();
    assert_eq!(found, InferError::NotReady(key("other")), "nobody finds it");
    drop(fresh);
    assert_eq!(
        engine.infer(&request("other", &input)).unwrap_err(),
        InferError::UnknownModel("other".into())
    );
    assert_eq!(
        engine.stats().models[0].real_time.success,
        4,
        "counts go on, and what was not served has none"
    );
}

/// Compiles while its gate is open.
#[derive(Debug)]
struct Gated {
    inner: Arc<AnyLength>,
    open: Mutex<bool>,
    changed: Condvar,
    started: AtomicUsize,
}

impl PlanSource for Gated {
    fn inputs(&self) -> &[TensorInfo] {
        self.inner.inputs()
    }
    fn outputs(&self) -> &[TensorInfo] {
        self.inner.outputs()
    }
    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_while(open, |open| !*open).unwrap());
        self.inner.compile(shapes, cutter)
    }
}

#[test]
fn who_waits_for_a_plan_of_the_old_one_gets_it() {
    let (engine, _device) = live();
    let gated = Arc::new(Gated {
        inner: AnyLength::new(),
        open: Mutex::new(false),
        changed: Condvar::new(),
        started: AtomicUsize::new(0),
    });
    engine.load_source(key("any"), ModelSettings::default(), gated.clone()).unwrap();
    let waits = engine.submit(&request("any", &[1; 128])).unwrap();
    while gated.started.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let next = AnyLength::new();
    let settings =
        ModelSettings { shapes: vec![vec![("x".into(), Shape::from([64]))]], ..Default::default() };
    let published = engine.prepare_source(key("any"), settings, next.clone()).unwrap().publish().unwrap();
    let quick = engine.infer(&request("any", &[1; 64])).unwrap();
    assert_eq!(
        (quick.output("y").unwrap().shape, next.compiled.load(Ordering::SeqCst)),
        (&Shape::from([64]), 1)
    );
    assert_eq!(engine.stats().models[0].best_effort.success, 1);
    scope(|scope| {
        let retiring = scope.spawn(|| drop(published));
        assert!(!retiring.is_finished());
        *gated.open.lock().unwrap() = true;
        gated.changed.notify_all();
        assert_eq!(waits.wait().unwrap().output("y").unwrap().shape, &Shape::from([128]));
    });
    assert_eq!(gated.inner.compiled.load(Ordering::SeqCst), 1);
    assert_eq!(engine.stats().models[0].best_effort.success, 2);
}

/// Who names no version is served through the change from one to the next.
#[test]
fn a_new_version_takes_over_from_the_old_one() {
    let (engine, _device) = live();
    let version = |number: u64| ModelKey { name: "m".into(), version: number.to_string() };
    let load = |number: u64| {
        engine.load_source(version(number), real_time(0), Generation::new(number, 2)).unwrap();
    };
    load(1);
    let (done, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    scope(|scope| {
        for client in 0..4u8 {
            let (engine, done, answers) = (&engine, &done, &answers);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let input = [client; 64];
                    let response = engine.infer(&request("m", &input)).expect("there is always one");
                    generation(engine, &input, &response, 1..=60);
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for number in 2..=60 {
            load(number);
            let old = (number - 1).to_string();
            engine.unload("m", Some(&old), Queued::Finish).unwrap();
            let seen = answers.load(Ordering::SeqCst);
            while answers.load(Ordering::SeqCst) < seen + 2 {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(engine.models().len(), 1);
}

/// With virtual time nobody else lets it pass: whoever waits for the old one does.
#[test]
fn virtual_time_passes_until_the_old_one_has_gone() {
    let engine = stepped();
    replace(&engine, &ModelSettings::default(), 1, 40);
    let futures: Vec<_> = (0..6).map(|_| engine.submit(&request("m", &[2; 64])).unwrap()).collect();
    let published = replace(&engine, &ModelSettings::default(), 2, 2);
    let pending = |engine: &Engine| engine.stats().models[0].best_effort.pending();
    assert_eq!(pending(&engine), 6);
    drop(published);
    assert_eq!(pending(&engine), 0);
    let old = plan(&engine, "m", 1, 40);
    futures.into_iter().for_each(|future| assert_exact(&old, &[2; 64], &future.wait().unwrap()));
    let last = engine.submit(&request("m", &[2; 64])).unwrap();
    let published = replace(&engine, &ModelSettings::default(), 3, 2);
    engine.shutdown(Duration::ZERO);
    assert_eq!(last.wait().unwrap_err(), InferError::ShuttingDown);
    drop(published);
}
