//! Requests that wait for a plan: they can be cancelled and expire, they are counted, and compiling for them
//! takes no core from urgent work.

mod doubles;

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::scope;
use std::time::Duration;

use doubles::*;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_engine::*;
use reef_plan::Cutter;

/// A length for which the compiler panics.
const PANICS: usize = 64 * 13;

/// Compiles while its gate is open.
#[derive(Debug)]
struct Gated {
    inner: Arc<AnyLength>,
    open: Mutex<bool>,
    changed: Condvar,
    started: AtomicUsize,
    nice: AtomicI32,
}

impl Gated {
    fn new(open: bool) -> Arc<Gated> {
        let (inner, changed) = (AnyLength::new(), Condvar::new());
        let (started, nice) = (AtomicUsize::new(0), AtomicI32::new(0));
        Arc::new(Gated { inner, open: Mutex::new(open), changed, started, nice })
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    fn wait_for_start(&self) {
        while self.started() == 0 {
            std::thread::yield_now();
        }
    }
}

impl PlanSource for Gated {
    fn inputs(&self) -> &[TensorInfo] {
        self.inner.inputs()
    }
    fn outputs(&self) -> &[TensorInfo] {
        self.inner.outputs()
    }
    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        let nice = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        self.nice.store(nice, Ordering::SeqCst);
        self.started.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_while(open, |open| !*open).unwrap());
        assert_ne!(shapes[0][0], PANICS, "on purpose");
        self.inner.compile(shapes, cutter)
    }
}

/// An engine that queues at most `waiting` requests for compilation, and a model behind a gate.
fn gated(waiting: usize, open: bool) -> (Engine, Arc<Gated>) {
    let device = CpuDevice::start(CpuOptions { cus: Some(2), ..CpuOptions::default() }).unwrap();
    let options = EngineOptions { compile_queue_len: waiting, ..EngineOptions::default() };
    let engine = Engine::new(Arc::new(device), options).unwrap();
    let source = Gated::new(open);
    engine.load_source(key("any"), ModelSettings::default(), source.clone()).unwrap();
    (engine, source)
}

fn counts(engine: &Engine) -> ClassStats {
    engine.stats().models[0].best_effort.clone()
}

#[test]
fn plans_are_compiled_at_low_priority() {
    let (engine, source) = gated(4, true);
    engine.infer(&request("any", &[1; 64])).unwrap();
    assert_eq!(source.nice.load(Ordering::SeqCst), 19);
}

#[test]
fn requests_expire_while_they_wait_for_a_plan() {
    let (engine, source) = gated(4, false);
    let soon = Some(Nanos::from_millis(2));
    let patient = engine.submit(&request("any", &[1; 64])).unwrap();
    let hurries = engine.submit(&InferRequest { deadline: soon, ..request("any", &[1; 64]) }).unwrap();
    let waits = engine.submit(&InferRequest { timeout: soon, ..request("any", &[1; 128]) }).unwrap();
    assert_eq!(hurries.wait().unwrap_err(), InferError::DeadlinePassed);
    assert_eq!(waits.wait().unwrap_err(), InferError::Timeout);
    let counts = counts(&engine);
    assert_eq!((counts.failed(FailureReason::Deadline), counts.failed(FailureReason::Timeout)), (1, 1));
    assert_eq!((counts.deadline_misses, counts.pending()), (1, 1));
    source.open();
    patient.wait().unwrap();
    assert_eq!(source.started(), 1, "nobody waits for the other shape");
}

#[test]
fn a_cancelled_request_frees_its_place() {
    let (engine, source) = gated(2, false);
    let (first, second, third) = ([1u8; 64], [1u8; 128], [1u8; 192]);
    let kept = engine.submit(&request("any", &first)).unwrap();
    source.wait_for_start();
    let dropped = engine.submit(&request("any", &second)).unwrap();
    assert_eq!(engine.submit(&request("any", &third)).unwrap_err(), InferError::CompileQueueFull);
    drop(dropped);
    let last = engine.submit(&request("any", &third)).unwrap();
    assert_eq!(counts(&engine).pending(), 2);
    // One that is being compiled for can be cancelled, too.
    kept.cancel();
    assert_eq!(kept.wait().unwrap_err(), InferError::Cancelled);
    source.open();
    last.wait().unwrap();
    let counts = counts(&engine);
    assert_eq!((counts.failed(FailureReason::Cancelled), counts.failed(FailureReason::Rejected)), (2, 1));
    assert_eq!((counts.pending(), source.started()), (0, 2));
}

#[test]
fn waiting_for_a_plan_is_time_in_the_queue() {
    let (engine, source) = gated(4, false);
    let wait = Nanos::from_millis(5);
    let future = engine.submit(&request("any", &[1; 64])).unwrap();
    let begin = engine.now();
    while engine.now() - begin < wait {
        std::thread::yield_now();
    }
    source.open();
    let timings = future.wait().unwrap().timings;
    assert!(timings.queue >= wait, "{timings:?}");
    let sum = timings.compute_input + timings.queue + timings.compute + timings.compute_output;
    assert_eq!(sum, timings.total);
}

#[test]
fn unload_and_shutdown_end_what_waits_for_a_plan() {
    let (engine, source) = gated(4, false);
    let waits = engine.submit(&request("any", &[1; 64])).unwrap();
    source.wait_for_start();
    engine.unload("any", None, Queued::Finish).unwrap();
    assert_eq!(waits.wait().unwrap_err(), InferError::Unloading(key("any")));
    let other = Gated::new(true);
    engine.load_source(key("any"), ModelSettings::default(), other.clone()).unwrap();
    let waits = engine.submit(&request("any", &[1; 64])).unwrap();
    scope(|scope| {
        scope.spawn(|| engine.shutdown(Duration::ZERO));
        assert_eq!(waits.wait().unwrap_err(), InferError::ShuttingDown);
        source.open();
    });
    assert_eq!(counts(&engine).failed(FailureReason::Rejected), 1);
    assert_eq!(other.started(), 0);
}

#[test]
fn a_deadline_of_nothing_has_passed_with_and_without_a_plan() {
    let (engine, source) = gated(4, true);
    let asked = InferRequest { deadline: Some(Nanos::ZERO), ..request("any", &[1; 64]) };
    assert_eq!(engine.submit(&asked).unwrap_err(), InferError::DeadlinePassed);
    assert_eq!(source.started(), 0, "nothing is made for it");
    engine.infer(&request("any", &[1; 64])).unwrap();
    assert_eq!(engine.submit(&asked).unwrap_err(), InferError::DeadlinePassed);
    let counts = counts(&engine);
    assert_eq!((counts.failed(FailureReason::Deadline), counts.deadline_misses), (2, 2));
    let options = SessionOptions { deadline: Some(Nanos::ZERO), ..SessionOptions::default() };
    let options = SessionOptions { shapes: vec![("x", Shape::from([64]))], ..options };
    let mut session = engine.session("any", &options).unwrap();
    assert_eq!(session.run().unwrap_err(), InferError::DeadlinePassed);
}

#[test]
fn a_fault_of_ours_is_not_the_clients_mistake() {
    let (engine, source) = gated(4, true);
    for _ in 0..2 {
        let error = engine.infer(&request("any", &[1; PANICS])).unwrap_err();
        let InferError::NoPlan(why) = &error else { panic!("{error}") };
        assert!(why.contains("the compiler panicked") && why.contains("on purpose"), "{why}");
    }
    assert_eq!(source.started(), 1, "the failure is remembered");
    let error = engine.infer(&request("any", &[1; 13])).unwrap_err();
    assert!(matches!(error, InferError::Shapes(_)), "{error}");
    assert_eq!(counts(&engine).failures.iter().sum::<u64>(), 2);
    assert_eq!(counts(&engine).failed(FailureReason::Backend), 2);
}
