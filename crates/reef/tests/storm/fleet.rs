//! The tiny models as plans, their seeded inputs, and the outputs of undisturbed runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reef_base::{Rng, TaskKey};
use reef_compile::{CompileOptions, compile};
use reef_cpu::{CpuCutter, CpuDevice, CpuOptions};
use reef_device::{Completion, Device, Io, LoadedPlan, Outcome, Scheme};
use reef_graph::{DType, Shape};
use reef_onnx::{Dim, OnnxModel};
use reef_plan::{Plan, Target, WeightStore};
use reef_zoo::{Model, Variant};

/// Different inputs of every model.
pub const INPUTS: usize = 3;
/// Compute units of the largest device; the plans are cut for it and run on smaller ones too.
pub const CUS_MOST: usize = 4;
/// A device that gives no completion for so long is stuck.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// What output buffers hold before a run, so that bytes of an earlier run cannot pass for this one's.
const STALE: u8 = 0xA5;

/// One model: its plan, its inputs, and the exact outputs of each.
pub struct Subject {
    pub model: Model,
    pub plan: Arc<Plan>,
    inputs: Vec<Vec<Vec<u8>>>,
    outputs: Vec<Vec<Vec<u8>>>,
}

/// Every tiny model, with outputs from one compute unit that does nothing else.
pub fn subjects() -> Vec<Subject> {
    let device = device(1, Scheme::Reset);
    let target = Target { cus: CUS_MOST, ..device.capabilities().target };
    let mut subjects: Vec<Subject> = Model::ALL.map(|model| subject(model, &CpuCutter::new(target))).into();
    for subject in &mut subjects {
        let loaded = device.load(subject.plan.clone()).expect("the plan loads");
        subject.outputs = (0..INPUTS).map(|input| alone(&device, subject, loaded, input)).collect();
        let distinct = subject.outputs.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(distinct, "{}: different inputs give different outputs", subject.model);
        device.unload(loaded);
    }
    subjects
}

/// A device with `cus` compute units and room for every model beside real-time tasks.
pub fn device(cus: usize, scheme: Scheme) -> CpuDevice {
    let options = CpuOptions { cus: Some(cus), scheme, nice: 0, slots: 16, ..CpuOptions::default() };
    CpuDevice::start(options).expect("the threads start")
}

/// The outputs of one run with the device to itself.
pub fn alone(device: &CpuDevice, subject: &Subject, loaded: LoadedPlan, input: usize) -> Vec<Vec<u8>> {
    let mut io = device.alloc_io(loaded).expect("the plan is loaded");
    subject.fill(&mut io, input);
    device.submit(loaded, TaskKey::best_effort(0), io, 0).expect("the board is empty");
    let done = next(device);
    assert_eq!(done.outcome, Outcome::Done, "{}", subject.model);
    assert_eq!((done.counters.blocks_done, done.counters.blocks_killed), (subject.plan.blocks(), 0));
    done.io.outputs.iter().map(|bytes| bytes.as_slice().to_vec()).collect()
}

/// The next completion; panics when the device is stuck.
pub fn next(device: &CpuDevice) -> Completion {
    let started = Instant::now();
    loop {
        if let Some(completion) = device.try_complete() {
            return completion;
        }
        assert!(started.elapsed() < PATIENCE, "the device is stuck: {device:?}");
        std::thread::yield_now();
    }
}

impl Subject {
    /// Writes an input, and makes the outputs stale.
    pub fn fill(&self, io: &mut Io, input: usize) {
        for (buffer, bytes) in io.inputs.iter_mut().zip(&self.inputs[input]) {
            buffer.as_mut_slice().copy_from_slice(bytes);
        }
        io.outputs.iter_mut().for_each(|buffer| buffer.as_mut_slice().fill(STALE));
    }

    /// Compares a finished run with the undisturbed one, to the bit.
    pub fn check(&self, outputs: &[impl AsRef<[u8]>], input: usize, place: &str) {
        let expected = &self.outputs[input];
        assert_eq!(outputs.len(), expected.len());
        for (index, (output, expected)) in outputs.iter().zip(expected).enumerate() {
            let differs = output.as_ref().iter().zip(expected).position(|(have, want)| have != want);
            let model = self.model;
            assert_eq!(differs, None, "{model}, {place}: output {index} of input {input} differs there");
            assert_eq!(output.as_ref().len(), expected.len());
        }
    }
}

fn subject(model: Model, cutter: &CpuCutter) -> Subject {
    let bytes = reef_zoo::build(model, &Variant::tiny()).expect("the model is built");
    let read = OnnxModel::from_bytes(&bytes).expect("the model is read");
    let shapes: Vec<(&str, Shape)> =
        read.inputs().iter().map(|input| (&*input.name, fixed(&input.dims))).collect();
    let special = read.specialise(&shapes).expect("the shapes are the model's");
    let options = CompileOptions { name: model.name().into() };
    let store = Arc::new(WeightStore::new());
    let plan = compile(&special.graph, &special.host_kernels, &store, cutter, &options).expect("it compiles");
    let inputs = (0..INPUTS).map(|input| inputs(&plan, 1 + input as u64)).collect();
    Subject { model, plan: Arc::new(plan), inputs, outputs: Vec::new() }
}

fn fixed(dims: &[Dim]) -> Shape {
    let extent = |dim: &Dim| match dim {
        Dim::Fixed(extent) => *extent,
        Dim::Symbol(name) => panic!("'{name}' in a model of fixed shapes"),
    };
    Shape::from(dims.iter().map(extent).collect::<Vec<usize>>())
}

/// Normal floats; zeros and ones for integers, which are token ids and masks.
fn inputs(plan: &Plan, seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    let mut element = |dtype: DType| match dtype {
        DType::F32 => rng.normal_f32().to_le_bytes().to_vec(),
        DType::I64 => ((rng.next_u64() >> 63) as i64).to_le_bytes().to_vec(),
        other => panic!("no model takes {other:?}"),
    };
    let tensor =
        |spec: &reef_plan::IoSpec| (0..spec.shape.elements()).flat_map(|_| element(spec.dtype)).collect();
    plan.inputs().iter().map(tensor).collect()
}
