//! Programs under a storm: models that loop and branch on data run as best-effort work, are preempted at
//! random moments by a real-time model, cancelled and given deadlines on their way, and unloaded and loaded
//! again. Each answer has the bytes of the undisturbed run, and every request ends once.
//! `REEF_STORM_SECONDS` makes it last longer; `REEF_STORM_PROGRAMS` names a folder with more models and
//! their inputs.

#[path = "programs/make.rs"]
mod make;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use make::Program;
use reef_base::Rng;
use reef_base::limits::MODELS_MAX;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_engine::{
    Engine, EngineOptions, InferError, InferRequest, InferResponse, InputTensor, Level, LoadError, ModelKey,
    ModelSettings, ModelSource, ModelSpec, Nanos, Queued,
};
use reef_zoo::{Model, Variant};

/// Answers of every program, at least.
const DONE_PER_PROGRAM: u64 = 3;
/// A storm that has not seen enough by then is stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// A program and its undisturbed answer.
struct Subject {
    program: Program,
    answer: Vec<Vec<u8>>,
    done: AtomicU64,
    ended_early: AtomicU64,
}

impl Subject {
    fn request(&self) -> InferRequest<'_> {
        let tensors = self.program.inputs.iter().map(|input| InputTensor {
            name: &input.name,
            dtype: input.dtype,
            shape: input.shape.clone(),
            data: &input.data,
        });
        InferRequest::new(&self.program.name, tensors.collect())
    }

    fn check(&self, response: &InferResponse) {
        let name = &self.program.name;
        assert_eq!(response.output_count(), self.answer.len(), "{name}");
        for (index, (output, expected)) in response.outputs().zip(&self.answer).enumerate() {
            let differs = output.data.iter().zip(expected).position(|(have, want)| have != want);
            assert_eq!(differs, None, "{name}: output {index} differs there");
            assert_eq!(output.data.len(), expected.len(), "{name}: output {index}");
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

fn engine(cus: usize) -> Engine {
    let options = CpuOptions { cus: Some(cus), nice: 0, slots: 16, ..CpuOptions::default() };
    let device = CpuDevice::start(options).expect("the device starts");
    let options = EngineOptions { board_slots: 16, best_effort_slots: 6, ..EngineOptions::default() };
    Engine::new(Arc::new(device), options).expect("an engine")
}

fn load(engine: &Engine, name: &str, onnx: &[u8], settings: ModelSettings) {
    try_load(engine, name, onnx, settings).expect("the model loads");
}

fn try_load(engine: &Engine, name: &str, onnx: &[u8], settings: ModelSettings) -> Result<(), LoadError> {
    let key = ModelKey { name: name.into(), version: "1".into() };
    let spec = ModelSpec { key, source: ModelSource::Bytes(onnx.to_vec()), settings };
    engine.load(spec).map(drop)
}

/// Our own programs first.
fn subjects() -> Vec<Subject> {
    let mut programs = make::programs();
    if let Some(folder) = std::env::var_os("REEF_STORM_PROGRAMS") {
        programs.extend(make::in_folder(&PathBuf::from(folder)));
    }
    let engine = engine(1);
    let mut subjects = vec![];
    for program in programs {
        // What reef refuses is another test's business.
        if try_load(&engine, &program.name, &program.onnx, ModelSettings::default()).is_err() {
            continue;
        }
        let mut subject =
            Subject { program, answer: vec![], done: AtomicU64::new(0), ended_early: AtomicU64::new(0) };
        let answered = engine.infer(&subject.request());
        engine.unload(&subject.program.name, None, Queued::Finish).expect("it was loaded");
        if let Ok(response) = answered {
            subject.answer = response.outputs().map(|output| output.data.to_vec()).collect();
            subjects.push(subject);
        }
    }
    assert!(subjects.len() >= make::programs().len(), "our own programs run");
    subjects
}

#[test]
fn programs_survive_a_storm() {
    let seconds = std::env::var("REEF_STORM_SECONDS").ok().map(|text| text.parse().expect("whole seconds"));
    let subjects = subjects();
    let (ours, others) = subjects.split_at(make::programs().len());
    // An engine has room for so many: one storm after the other, ours in each.
    let storms = others.len().div_ceil(MODELS_MAX / 2).max(1);
    let share = others.len().div_ceil(storms);
    let time = Duration::from_secs(seconds.unwrap_or(10)) / 2 / storms as u32;
    for at in 0..storms {
        let others = others.iter().skip(at * share).take(share);
        let subjects: Vec<&Subject> = ours.iter().chain(others).collect();
        for cus in [2, 1] {
            let kills = storm(&subjects, cus, time);
            assert!(kills > 0, "storm {at}, {cus} CUs: nothing was killed");
        }
    }
    println!("{} programs in {storms} storms", subjects.len());
    let early: u64 = subjects.iter().map(|subject| subject.ended_early.load(Ordering::Relaxed)).sum();
    assert!(early > 0, "nothing was cancelled or late");
}

/// Kills of best-effort blocks.
fn storm(subjects: &[&Subject], cus: usize, time: Duration) -> u64 {
    let engine = engine(cus);
    for subject in subjects {
        load(&engine, &subject.program.name, &subject.program.onnx, ModelSettings::default());
        subject.done.store(0, Ordering::Relaxed);
    }
    let control = reef_zoo::build(Model::Control, &Variant::tiny()).expect("the zoo builds it");
    load(&engine, "control", &control, ModelSettings::real_time(Level::TOP));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (engine, over) = (&engine, &over);
            scope.spawn(move || best_effort(engine, subjects, over, client));
        }
        scope.spawn(|| comes_and_goes(&engine, subjects[0], &over));
        let started = Instant::now();
        let enough =
            || subjects.iter().all(|subject| subject.done.load(Ordering::Relaxed) >= DONE_PER_PROGRAM);
        while started.elapsed() < time || !enough() {
            let patient = started.elapsed() < time + PATIENCE;
            if !patient {
                over.store(true, Ordering::Relaxed);
            }
            assert!(patient, "not every program was answered");
            real_time(&engine, started.elapsed().subsec_nanos().into());
        }
        over.store(true, Ordering::Relaxed);
    });
    let killed = engine.stats().models.iter().map(|model| model.best_effort.blocks_killed).sum();
    engine.shutdown(Duration::from_secs(1));
    assert!(engine.is_idle() && engine.fault().is_none());
    killed
}

/// One urgent request, and a random pause.
fn real_time(engine: &Engine, seed: u64) {
    let info = engine.model("control", None).expect("it is loaded");
    let shape = info.inputs[0].fixed_shape().expect("its shape is fixed");
    let data = vec![0; shape.elements() * info.inputs[0].dtype.bytes()];
    let tensor = InputTensor { name: &info.inputs[0].name, dtype: info.inputs[0].dtype, shape, data: &data };
    engine.infer(&InferRequest::new("control", vec![tensor])).expect("the urgent request is served");
    std::thread::sleep(Duration::from_micros(Rng::new(seed).below(800)));
}

/// Random programs, one in four ended early: by a deadline, or by going away.
fn best_effort(engine: &Engine, subjects: &[&Subject], over: &AtomicBool, client: u64) {
    let mut rng = Rng::new(100 + client);
    // Each client has its share first, so that every program is answered soon.
    let mut turn = client as usize;
    while !over.load(Ordering::Relaxed) {
        let subject = subjects[turn % subjects.len()];
        turn += if rng.below(2) == 0 { 1 } else { rng.below(subjects.len() as u64) as usize };
        let mut request = subject.request();
        let fate = rng.below(8);
        if fate == 0 {
            request.deadline = Some(Nanos(rng.below(2_000_000)));
        }
        let future = match engine.submit(&request) {
            Ok(future) => future,
            Err(error) => {
                subject.expect_early(&error);
                continue;
            }
        };
        if fate == 1 {
            std::thread::sleep(Duration::from_micros(rng.below(3000)));
            if rng.below(2) == 0 {
                drop(future);
                subject.ended_early.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            future.cancel();
        }
        match future.wait() {
            Ok(response) => subject.check(&response),
            Err(error) => subject.expect_early(&error),
        }
    }
}

impl Subject {
    /// Only what a client asked for, or a model that goes, ends a request without an answer.
    fn expect_early(&self, error: &InferError) {
        let early = matches!(
            error,
            InferError::Cancelled
                | InferError::DeadlinePassed
                | InferError::DeadlineUnreachable { .. }
                | InferError::Unloading(_)
                | InferError::UnknownModel(_)
                | InferError::NotReady(_)
        );
        assert!(early, "{}: {error}", self.program.name);
        self.ended_early.fetch_add(1, Ordering::Relaxed);
    }
}

/// Unloads a program now and then while it runs, and loads it again.
fn comes_and_goes(engine: &Engine, subject: &Subject, over: &AtomicBool) {
    let mut refuse = false;
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(300));
        let queued = if refuse { Queued::Refuse } else { Queued::Finish };
        refuse = !refuse;
        engine.unload(&subject.program.name, None, queued).expect("it is loaded");
        load(engine, &subject.program.name, &subject.program.onnx, ModelSettings::default());
    }
}
