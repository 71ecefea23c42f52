//! A storm over two devices: every tiny model, some on one device, some on both and some cut over both, asked
//! by several clients at random and cancelled now and then. Every request ends once: with the bytes of an
//! undisturbed run, with its cancellation, or with the device's fault where its model was on the device that
//! was poisoned in the middle. `REEF_STORM_SECONDS` makes it last longer. Time decides only when to stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reef_base::Rng;
use reef_cpu::{CpuDevice, CpuOptions, allowed_cores};
use reef_engine::{
    Class, DType, Engine, EngineOptions, FailureReason, InferError, InferRequest, InputTensor, Level,
    ModelKey, ModelSettings, ModelSource, ModelSpec, Placement, PoolDevice, Queued, TensorInfo,
};
use reef_zoo::{Model, Variant};

/// Different inputs of every model.
const INPUTS: u64 = 3;
const CLIENTS: u64 = 4;
/// Requests of every client in each part, at least.
const ROUNDS_MIN: u64 = 50;

/// One model: what it is asked with, and the exact answers.
struct Subject {
    name: &'static str,
    inputs: Vec<TensorInfo>,
    data: Vec<Vec<Vec<u8>>>,
    answers: Vec<Vec<Vec<u8>>>,
}

#[derive(Default)]
struct Tally {
    done: AtomicU64,
    cancelled: AtomicU64,
    faults: AtomicU64,
}

#[test]
fn every_request_ends_once_on_two_devices() {
    let seconds = std::env::var("REEF_STORM_SECONDS").ok().map(|text| text.parse().expect("whole seconds"));
    let part = Duration::from_secs(seconds.unwrap_or(6)) / 2;
    let subjects = subjects();
    let engine = engine(2);
    // Each placement with each class.
    let placement = |index: usize| Placement::ALL[(index + index / 3) % 3];
    let place = |(index, subject): (usize, &Subject)| {
        let on = load(&engine, index, subject.name, placement(index));
        (subject.name, (placement(index), on))
    };
    let placed: HashMap<&str, (Placement, Vec<String>)> = subjects.iter().enumerate().map(place).collect();
    let (tally, poisoned) = (Tally::default(), AtomicBool::new(false));
    storm(&engine, &subjects, part, &tally, &|_, _| panic!("no device has failed yet"));
    let before = tally.done.load(Ordering::SeqCst);
    let stats = engine.stats();
    assert!(stats.devices.iter().all(|device| device.counters.completed > 0), "both have worked");
    // A fault is an answer for who was on the device: a replicated model that is asked later is elsewhere.
    let faults = |name: &str, late: bool| {
        assert!(poisoned.load(Ordering::SeqCst), "{name}: a fault of a device that had none");
        let (placement, on) = &placed[name];
        let elsewhere = late && *placement == Placement::Replicate;
        assert!(on.contains(&"d:1".to_string()) && !elsewhere, "{name}: {placement:?} on {on:?}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begin = tally.done.load(Ordering::SeqCst);
            while tally.done.load(Ordering::SeqCst) < begin + 20 {
                std::thread::yield_now();
            }
            poisoned.store(true, Ordering::SeqCst);
            engine.device_named("d:1").expect("it is there").poison("planted");
        });
        storm(&engine, &subjects, part, &tally, &faults);
    });
    assert!(engine.is_ready() && engine.fault().is_none());
    let (done, cancelled) = (tally.done.load(Ordering::SeqCst), tally.cancelled.load(Ordering::SeqCst));
    let faults = tally.faults.load(Ordering::SeqCst);
    println!("{done} done ({before} before the fault), {cancelled} cancelled, {faults} faults");
    assert!(done > before && cancelled > 0 && faults > 0);
    let stats = engine.stats();
    let sum = |of: &dyn Fn(&reef_engine::ClassStats) -> u64| -> u64 {
        stats.models.iter().map(|model| of(&model.real_time) + of(&model.best_effort)).sum()
    };
    assert_eq!(sum(&|class| class.success), done);
    assert_eq!(sum(&|class| class.failed(FailureReason::Cancelled)), cancelled);
    assert_eq!(sum(&|class| class.failed(FailureReason::Backend)), faults);
    for subject in &subjects {
        engine.unload(subject.name, None, Queued::Finish).expect("it is loaded");
    }
    engine.shutdown(Duration::from_secs(60));
    assert!(engine.is_idle());
}

/// Clients that ask at random; `on_fault` is told the model of a request that ended with the device's fault,
/// and whether it was asked after the fault.
fn storm(
    engine: &Engine,
    subjects: &[Subject],
    time: Duration,
    tally: &Tally,
    on_fault: &(dyn Fn(&str, bool) + Sync),
) {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut rng = Rng::new(client + 1);
                let mut rounds = 0;
                while rounds < ROUNDS_MIN || started.elapsed() < time {
                    rounds += 1;
                    ask(
                        engine,
                        &subjects[rng.below(subjects.len() as u64) as usize],
                        &mut rng,
                        tally,
                        on_fault,
                    );
                }
            });
        }
    });
}

fn ask(
    engine: &Engine,
    subject: &Subject,
    rng: &mut Rng,
    tally: &Tally,
    on_fault: &(dyn Fn(&str, bool) + Sync),
) {
    let (input, cancels) = (rng.below(INPUTS) as usize, rng.below(8) == 0);
    let late = engine.devices().iter().any(|device| device.fault.is_some());
    let request = request(subject, input);
    let ended = match engine.submit(&request) {
        Ok(future) => {
            if cancels {
                future.cancel();
            }
            future.wait()
        }
        Err(error) => Err(error),
    };
    match ended {
        Ok(response) => {
            let answer = response.outputs().map(|output| output.data.to_vec()).collect::<Vec<_>>();
            assert!(answer == subject.answers[input], "{}: other bytes on {}", subject.name, response.device);
            tally.done.fetch_add(1, Ordering::SeqCst);
        }
        Err(InferError::Cancelled) => {
            assert!(cancels, "{}: cancelled by nobody", subject.name);
            tally.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        Err(InferError::DeviceFault) => {
            on_fault(subject.name, late);
            tally.faults.fetch_add(1, Ordering::SeqCst);
        }
        Err(error) => panic!("{}: {error}", subject.name),
    }
}

/// An engine over devices of one compute unit each.
fn engine(count: usize) -> Engine {
    let cores = allowed_cores();
    let device = |index: usize| {
        let cores = Some(vec![cores[index % cores.len()]]);
        let options = CpuOptions { cus: Some(1), cores, nice: 0, ..CpuOptions::default() };
        let device = CpuDevice::start(options).expect("the threads start");
        PoolDevice { name: format!("d:{index}"), device: Arc::new(device) }
    };
    Engine::over((0..count).map(device).collect(), EngineOptions::default()).expect("the engine starts")
}

/// Loads a model as one of three classes; says which devices it is on.
fn load(engine: &Engine, index: usize, name: &str, placement: Placement) -> Vec<String> {
    let class = match index % 3 {
        0 => Class::RealTime(Level::TOP),
        1 => Class::real_time(1),
        _ => Class::BestEffort,
    };
    let model: Model = name.parse().expect("a model of the zoo");
    let onnx = reef_zoo::build(model, &Variant::tiny()).expect("the model is built");
    let settings = ModelSettings { class, placement, ..ModelSettings::default() };
    let key = ModelKey { name: name.into(), version: "1".into() };
    let spec = ModelSpec { key, source: ModelSource::Bytes(onnx), settings };
    engine.load(spec).expect("the model loads").devices
}

/// Every tiny model, with the answers of a device that does nothing else.
fn subjects() -> Vec<Subject> {
    let engine = engine(1);
    let subject = |model: Model| {
        load(&engine, 2, model.name(), Placement::One);
        let inputs = engine.model(model.name(), None).expect("it is loaded").inputs;
        let data =
            (0..INPUTS).map(|seed| inputs.iter().map(|info| tensor(info, seed + 1)).collect()).collect();
        let mut subject = Subject { name: model.name(), inputs, data, answers: Vec::new() };
        for input in 0..INPUTS as usize {
            let response = engine.infer(&request(&subject, input)).expect("it runs");
            subject.answers.push(response.outputs().map(|output| output.data.to_vec()).collect());
        }
        let distinct = subject.answers.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(distinct, "{model}: different inputs give different outputs");
        subject
    };
    Model::ALL.into_iter().map(subject).collect()
}

fn request(subject: &Subject, input: usize) -> InferRequest<'_> {
    let tensors = subject.inputs.iter().zip(&subject.data[input]);
    let tensors = tensors.map(|(info, data)| InputTensor {
        name: &info.name,
        dtype: info.dtype,
        shape: info.fixed_shape().expect("no extent is symbolic"),
        data,
    });
    InferRequest::new(subject.name, tensors.collect())
}

/// Normal floats; zeros and ones for integers, which are token ids and masks.
fn tensor(info: &TensorInfo, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let elements = info.fixed_shape().expect("no extent is symbolic").elements();
    let mut element = |_| match info.dtype {
        DType::F32 => rng.normal_f32().to_le_bytes().to_vec(),
        DType::I64 => ((rng.next_u64() >> 63) as i64).to_le_bytes().to_vec(),
        other => panic!("no model takes {other:?}"),
    };
    (0..elements).flat_map(&mut element).collect()
}
