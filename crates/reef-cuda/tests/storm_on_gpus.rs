//! A storm on the emulated driver's GPUs: two threads submit, cancel and fetch tasks of many plans, one
//! loads and unloads the plans, one changes the scheme and stops the device now and then. Whatever
//! happens, every task ends once, what is done has the bytes that the same plan gives alone, and the
//! books of memory balance at the end.
//!
//! `REEF_STORM_SECONDS` is how long it lasts on each GPU, `REEF_STORM_SEED` makes it another one. Time
//! decides only when to stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reef_base::{Level, Nanos, Rng, Share, TaskId, TaskKey};
use reef_compile::samples;
use reef_cuda::{CudaDevice, CudaOptions, survey};
use reef_device::{Completion, Device, DeviceError, Io, LoadedPlan, Outcome, RejectReason, Scheme};
use reef_graph::{DType, Tensor};
use reef_plan::{Plan, Precision, SyntheticStage, synthetic_output, synthetic_plan};

/// Storms on each GPU at most.
const ROUNDS: usize = 10;
/// How long a device may do nothing.
const PATIENCE: Duration = Duration::from_secs(120);
/// What outputs hold before a task.
const STALE: u8 = 0x5A;
/// Made-up plans.
const SYNTHETIC: u64 = 12;
/// Inputs of each plan.
const VARIANTS: usize = 3;

/// A plan, and what it gives for some inputs.
struct Subject {
    name: String,
    plan: Arc<Plan>,
    variants: Vec<Variant>,
}

struct Variant {
    inputs: Vec<Vec<u8>>,
    /// What comes out; `None` if the inputs mean nothing to the plan.
    outputs: Option<Vec<Vec<u8>>>,
}

/// A task that was submitted.
struct Waiting {
    subject: usize,
    variant: usize,
    task: Option<TaskId>,
    cancelled: bool,
}

#[derive(Debug, Default)]
struct Tally {
    accepted: AtomicU64,
    done: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    reruns: AtomicU64,
    padding: AtomicU64,
    refused: AtomicU64,
    loads: AtomicU64,
    schemes: AtomicU64,
    stops: AtomicU64,
}

struct Storm<'a> {
    device: &'a CudaDevice,
    subjects: &'a [Subject],
    /// The plan of each subject while it is loaded.
    loaded: Vec<Mutex<Option<LoadedPlan>>>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    tokens: AtomicU64,
    /// Nothing is submitted any more.
    ending: AtomicBool,
    tally: Tally,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a whole number"))
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn outputs_survive_a_storm_on_every_gpu() {
    let seconds = Duration::from_secs(number("REEF_STORM_SECONDS", 10));
    let seed = number("REEF_STORM_SEED", 1);
    let gpus = survey().gpus;
    assert!(!gpus.is_empty(), "there is a GPU");
    let mut seen = [0; 7];
    // Once on each; short storms may miss something, then there are more.
    for (round, gpu) in gpus.iter().cycle().enumerate().take(gpus.len() * ROUNDS) {
        if round >= gpus.len() && seen.iter().all(|&count| count > 0) {
            break;
        }
        let device = CudaDevice::start(CudaOptions { number: gpu.number, ..CudaOptions::default() });
        let device = device.expect("the device starts");
        let tally = storm(&device, seconds, seed + round as u64);
        println!("{} SMs, seed {seed}: {tally:?}", gpu.sms);
        let counters =
            [&tally.done, &tally.cancelled, &tally.failed, &tally.reruns, &tally.padding, &tally.loads];
        let counters = counters.into_iter().chain([&tally.stops]);
        seen.iter_mut().zip(counters).for_each(|(seen, counter)| *seen += counter.load(Ordering::Relaxed));
    }
    let what = ["done", "cancelled", "failed", "run again", "padding", "loaded", "stopped"];
    for (what, count) in what.into_iter().zip(seen) {
        assert!(count > 0, "nothing was {what}");
    }
}

/// A storm from a seed on a fresh device.
fn storm(device: &CudaDevice, time: Duration, seed: u64) -> Tally {
    let mut subjects = subjects(device, seed);
    let before = device.counters();
    for subject in &mut subjects {
        alone(device, subject);
    }
    let started = device.counters();
    let tasks_alone = started.submitted - before.submitted;
    let working = working_bytes(device);
    let storm = Storm {
        device,
        subjects: &subjects,
        loaded: subjects.iter().map(|_| Mutex::new(None)).collect(),
        waiting: Mutex::default(),
        tokens: AtomicU64::new(0),
        ending: AtomicBool::new(false),
        tally: Tally::default(),
    };
    let until = Instant::now() + time;
    std::thread::scope(|scope| {
        let storm = &storm;
        let mut threads = vec![
            scope.spawn(move || storm.load_and_unload(until, Rng::new(seed ^ 0x10AD))),
            scope.spawn(move || storm.govern(until, Rng::new(seed ^ 0x60BE))),
        ];
        for submitter in 0..2 {
            let rng = Rng::new(seed ^ (0x5EED + submitter));
            threads.push(scope.spawn(move || storm.submit_and_fetch(until, rng)));
        }
        // The first that fails ends the others.
        let mut failed = None;
        while !threads.is_empty() && failed.is_none() {
            for at in (0..threads.len()).rev().filter(|&at| threads[at].is_finished()).collect::<Vec<_>>() {
                failed = threads.swap_remove(at).join().err().or(failed);
            }
            std::thread::yield_now();
        }
        if let Some(why) = failed {
            storm.ending.store(true, Ordering::Release);
            std::panic::resume_unwind(why);
        }
    });
    storm.end(working, started.submitted);
    assert!(tasks_alone > 0);
    storm.tally
}

impl Storm<'_> {
    fn is_over(&self, until: Instant) -> bool {
        self.ending.load(Ordering::Acquire) || Instant::now() >= until
    }

    fn submit_and_fetch(&self, until: Instant, mut rng: Rng) {
        while !self.is_over(until) {
            for _ in 0..=rng.below(4) {
                if !self.submit(&mut rng) {
                    // The board is full, or stands.
                    std::thread::sleep(Duration::from_micros(50));
                    break;
                }
            }
            self.cancel_one(&mut rng);
            let most = rng.below(30) as usize;
            let since = Instant::now();
            while self.waiting.lock().unwrap().len() > most && !self.is_over(until) {
                match self.device.try_complete() {
                    Some(completion) => self.check(completion),
                    None => std::thread::yield_now(),
                }
                assert!(since.elapsed() < PATIENCE, "the device is stuck: {:?}", self.device.counters());
            }
        }
    }

    /// False if the device did not take a task.
    fn submit(&self, rng: &mut Rng) -> bool {
        let subject = rng.below(self.subjects.len() as u64) as usize;
        let variant = rng.below(VARIANTS as u64) as usize;
        let Some(plan) = *self.loaded[subject].lock().unwrap() else { return true };
        let Some(mut io) = self.device.alloc_io(plan) else {
            assert_ne!(*self.loaded[subject].lock().unwrap(), Some(plan), "a loaded plan has buffers");
            return true;
        };
        let inputs = &self.subjects[subject].variants[variant].inputs;
        for (buffer, bytes) in io.inputs.iter_mut().zip(inputs) {
            buffer.as_mut_slice().copy_from_slice(bytes);
        }
        io.outputs.iter_mut().for_each(|buffer| buffer.as_mut_slice().fill(STALE));
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { subject, variant, task: None, cancelled: false };
        assert!(self.waiting.lock().unwrap().insert(token, waiting).is_none());
        match self.device.submit(plan, random_key(rng, token), io, token) {
            Ok(task) => {
                count(&self.tally.accepted);
                let mut waiting = self.waiting.lock().unwrap();
                // The other thread may have fetched it already.
                if let Some(one) = waiting.get_mut(&token) {
                    one.task = Some(task);
                }
                true
            }
            Err(rejected) => {
                count(&self.tally.refused);
                self.waiting.lock().unwrap().remove(&token).expect("nobody else had it");
                let given: Vec<&[u8]> = rejected.io.inputs.iter().map(|buffer| buffer.as_slice()).collect();
                assert_eq!(given, *inputs, "a refused task gives its buffers back");
                let is_loaded = *self.loaded[subject].lock().unwrap() == Some(plan);
                match rejected.why {
                    RejectReason::UnknownPlan => assert!(!is_loaded, "the plan is loaded"),
                    RejectReason::WrongBuffers => panic!("buffers of the plan itself do not fit it"),
                    RejectReason::BoardFull | RejectReason::SchemeRefuses | RejectReason::Closed => {}
                }
                false
            }
        }
    }

    /// Cancels some task now and then.
    fn cancel_one(&self, rng: &mut Rng) {
        if rng.below(6) != 0 {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap();
        let some = rng.below(waiting.len().max(1) as u64) as usize;
        let Some(one) = waiting.values_mut().nth(some) else { return };
        if let Some(task) = one.task {
            one.cancelled = true;
            drop(waiting);
            self.device.cancel(task);
        }
    }

    fn check(&self, completion: Completion) {
        let waiting = self.waiting.lock().unwrap().remove(&completion.token);
        let waiting = waiting.unwrap_or_else(|| panic!("task {} ended twice", completion.task));
        assert!(waiting.task.is_none_or(|task| task == completion.task));
        let subject = &self.subjects[waiting.subject];
        let (name, variant) = (&subject.name, &subject.variants[waiting.variant]);
        assert!(bytes(&completion.io.inputs) == variant.inputs, "{name}: other inputs than were given");
        self.tally.reruns.fetch_add(completion.counters.blocks_rerun, Ordering::Relaxed);
        self.tally.padding.fetch_add(completion.counters.blocks_padding, Ordering::Relaxed);
        match (completion.outcome, &variant.outputs) {
            (Outcome::Done, Some(expected)) => {
                let made = bytes(&completion.io.outputs);
                assert!(made == *expected, "{name}, variant {}: other bytes than alone", waiting.variant);
                let counters = completion.counters;
                assert_eq!(counters.blocks_done, subject.plan.blocks() + counters.blocks_rerun, "{name}");
                count(&self.tally.done);
            }
            (Outcome::Failed(_), None) => count(&self.tally.failed),
            (Outcome::Cancelled, _) if waiting.cancelled => count(&self.tally.cancelled),
            (outcome, _) => panic!("{name}, variant {}: {outcome:?}", waiting.variant),
        }
    }

    fn load_and_unload(&self, until: Instant, mut rng: Rng) {
        while !self.is_over(until) {
            let subject = rng.below(self.subjects.len() as u64) as usize;
            let held = self.loaded[subject].lock().unwrap().take();
            match held {
                // Most are loaded at a time.
                Some(plan) if rng.below(4) == 0 => self.device.unload(plan),
                Some(plan) => *self.loaded[subject].lock().unwrap() = Some(plan),
                None => {
                    let loaded = self.device.load(self.subjects[subject].plan.clone());
                    *self.loaded[subject].lock().unwrap() = Some(loaded.expect("there is memory"));
                    count(&self.tally.loads);
                }
            }
            std::thread::sleep(Duration::from_micros(rng.below(3_000)));
        }
    }

    fn govern(&self, until: Instant, mut rng: Rng) {
        while !self.is_over(until) {
            let scheme = Scheme::ALL[rng.below(Scheme::ALL.len() as u64) as usize];
            // Mostly the one that evicts, and the one that launches graphs.
            let common = [Scheme::Reset, Scheme::Reset, Scheme::Concurrent, scheme];
            self.device.set_scheme(common[rng.below(common.len() as u64) as usize]);
            count(&self.tally.schemes);
            std::thread::sleep(Duration::from_micros(rng.below(20_000)));
            if rng.below(4) != 0 {
                continue;
            }
            let patience = [0, 1, 1_000][rng.below(3) as usize];
            if self.device.quiesce(Duration::from_millis(patience)) {
                let before = self.device.counters().blocks_done;
                std::thread::sleep(Duration::from_millis(1));
                assert_eq!(
                    self.device.counters().blocks_done,
                    before,
                    "nothing runs on a device that stands"
                );
                count(&self.tally.stops);
                self.device.resume();
            }
        }
        self.device.set_scheme(Scheme::Reset);
    }

    /// Fetches what is left, unloads everything and looks at the books.
    fn end(&self, working: u64, submitted_before: u64) {
        let since = Instant::now();
        while !self.waiting.lock().unwrap().is_empty() {
            match self.device.try_complete() {
                Some(completion) => self.check(completion),
                None => std::thread::yield_now(),
            }
            assert!(since.elapsed() < PATIENCE, "tasks do not end: {:?}", self.device.counters());
        }
        assert!(self.device.try_complete().is_none());
        let counters = self.device.counters();
        assert_eq!(counters.submitted - submitted_before, self.tally.accepted.load(Ordering::Relaxed));
        assert_eq!(counters.completed, counters.submitted);
        for loaded in &self.loaded {
            if let Some(plan) = loaded.lock().unwrap().take() {
                self.device.unload(plan);
            }
        }
        assert_eq!(working_bytes(self.device), working, "as much memory as before the storm");
        assert_eq!(self.device.fault(), None);
    }
}

/// Bytes that the device has taken while no plan is loaded: weights must be none.
fn working_bytes(device: &CudaDevice) -> u64 {
    let since = Instant::now();
    loop {
        let memory = device.memory();
        // The thread of the device lets go of a plan a little after its last task is over.
        if memory[0].weights == 0 || since.elapsed() > PATIENCE {
            assert_eq!(memory[0].weights, 0, "weights of plans that are not loaded");
            return memory[0].working;
        }
        std::thread::yield_now();
    }
}

fn random_key(rng: &mut Rng, token: u64) -> TaskKey {
    if rng.below(2) == 0 {
        let share = Share { owner: rng.below(3) as u16, weight: 1 + rng.below(4) as u32 };
        return TaskKey::best_effort(token).on(share);
    }
    let level = Level::new(rng.below(3) as u8).expect("a level");
    let deadline = (rng.below(2) == 0).then(|| Nanos(rng.below(1 << 40)));
    TaskKey::real_time(level, deadline, Nanos(token))
}

fn bytes(buffers: &[reef_base::Buffer]) -> Vec<Vec<u8>> {
    buffers.iter().map(|buffer| buffer.as_slice().to_vec()).collect()
}

/// Made-up plans, and every sample that the device has code for.
fn subjects(device: &CudaDevice, seed: u64) -> Vec<Subject> {
    let mut rng = Rng::new(seed);
    let mut subjects: Vec<Subject> = (0..SYNTHETIC).map(|index| synthetic(device, index, &mut rng)).collect();
    let cutter = device.cutter(Some(Precision::F32));
    for sample in samples::all() {
        let plan = Arc::new(sample.plan(cutter.as_ref()).expect("samples compile"));
        match device.load(plan.clone()) {
            Ok(loaded) => device.unload(loaded),
            Err(DeviceError::Unsupported { .. }) => continue,
            Err(error) => panic!("{}: {error}", sample.name),
        }
        let variants = (0..VARIANTS).map(|variant| {
            let inputs = sample.inputs.iter().map(|input| varied(input, variant)).collect();
            Variant { inputs, outputs: None }
        });
        subjects.push(Subject { name: sample.name.into(), plan, variants: variants.collect() });
    }
    subjects
}

fn synthetic(device: &CudaDevice, index: u64, rng: &mut Rng) -> Subject {
    let stages: Vec<SyntheticStage> = (0..1 + rng.below(6))
        .map(|_| SyntheticStage {
            blocks: 1 + rng.below(12) as usize,
            polls: rng.below(4) as u32,
            poll_ns: rng.below(20_000) as u32,
        })
        .collect();
    let name = format!("synthetic {index}");
    let target = device.capabilities().target;
    let plan = Arc::new(synthetic_plan(&name, target, index * 1_000, &stages).expect("a valid plan"));
    let variants = (0..VARIANTS).map(|_| {
        let input: Vec<u8> = (0..plan.inputs()[0].bytes()).map(|_| rng.below(256) as u8).collect();
        Variant { inputs: vec![input], outputs: None }
    });
    let variants = variants.collect();
    Subject { name, plan, variants }
}

/// An input as it is, or another one: floats are smaller, indices are off.
fn varied(input: &Tensor, variant: usize) -> Vec<u8> {
    let bytes = input.bytes().as_slice();
    let words = |width: usize| bytes.chunks_exact(width);
    match input.dtype() {
        DType::F32 => {
            let factor = [1.0f32, 0.5, -0.25][variant];
            let float = |word: &[u8]| f32::from_le_bytes(word.try_into().expect("four bytes")) * factor;
            words(4).flat_map(|word| float(word).to_le_bytes()).collect()
        }
        DType::I64 if variant == VARIANTS - 1 => words(8).flat_map(|_| (1i64 << 40).to_le_bytes()).collect(),
        _ => bytes.to_vec(),
    }
}

/// Runs every variant with the device to itself, which says what they give.
fn alone(device: &CudaDevice, subject: &mut Subject) {
    let loaded = device.load(subject.plan.clone()).expect("there is memory");
    let is_synthetic = subject.name.starts_with("synthetic");
    for (index, variant) in subject.variants.iter_mut().enumerate() {
        let mut io: Io = device.alloc_io(loaded).expect("the plan is loaded");
        for (buffer, bytes) in io.inputs.iter_mut().zip(&variant.inputs) {
            buffer.as_mut_slice().copy_from_slice(bytes);
        }
        device.submit(loaded, TaskKey::best_effort(0), io, 0).expect("the board is empty");
        let since = Instant::now();
        let completion = loop {
            match device.try_complete() {
                Some(completion) => break completion,
                None => std::thread::yield_now(),
            }
            assert!(since.elapsed() < PATIENCE, "{} does not end", subject.name);
        };
        match completion.outcome {
            Outcome::Done => variant.outputs = Some(bytes(&completion.io.outputs)),
            Outcome::Failed(_) if index == VARIANTS - 1 => {}
            outcome => panic!("{}: {outcome:?}", subject.name),
        }
        if is_synthetic {
            let expected = synthetic_output(&subject.plan, &variant.inputs[0]);
            assert_eq!(variant.outputs.as_deref(), Some(&[expected][..]), "{}", subject.name);
        }
    }
    device.unload(loaded);
}
