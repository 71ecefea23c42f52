//! Plans of synthetic kernels with several kernels per stage, their outputs computed one after the other, and
//! a device driven to the end of its tasks.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use reef_base::{Level, Nanos, TaskKey};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Completion, Device, Io, LoadedPlan, Scheme};
use reef_graph::{DType, Shape};
use reef_plan::{
    Cost, HostFault, HostKernel, HostState, IoSpec, Isa, Kernel, KernelSpec, Place, Plan, PlanParts, Region,
    Restart, SyntheticSpec, Target, TensorSpec, WeightStore,
};

/// A stuck device fails a test after this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// One kernel of a random plan.
#[derive(Clone, Copy, Debug)]
pub struct KernelShape {
    pub bytes: usize,
    pub tile_bytes: usize,
    pub polls: u32,
    pub poll_ns: u32,
    pub restart: bool,
    /// The same bytes from a host kernel, in one block.
    pub host: bool,
}

/// Region of the arena for kernel `kernel` of a stage; stages take turns between two halves.
const KERNEL_BYTES: usize = 1024;
const KERNELS_MAX: usize = 4;

/// A plan whose stages each read all that the stage before wrote. The last kernel writes the output.
pub fn plan(seed: u64, stages: &[Vec<KernelShape>]) -> Plan {
    let mut reads = vec![Region::dense(Place::Input(0), 0, 100)];
    let mut all = Vec::new();
    let mut hosts: Vec<Arc<dyn HostKernel>> = Vec::new();
    for (index, shapes) in stages.iter().enumerate() {
        assert!(shapes.len() <= KERNELS_MAX);
        let mut kernels = Vec::new();
        for (at, shape) in shapes.iter().enumerate() {
            let offset = (index % 2 * KERNELS_MAX + at) * KERNEL_BYTES;
            let write = Region::dense(Place::Arena, offset, shape.bytes);
            kernels.push(kernel(seed + (index * 16 + at) as u64, *shape, reads.clone(), write, &mut hosts));
        }
        reads = kernels.iter().map(|kernel| kernel.writes[0]).collect();
        all.push(kernels);
    }
    let last = KernelShape { bytes: 64, tile_bytes: 16, polls: 1, poll_ns: 100, restart: true, host: false };
    all.push(vec![kernel(seed, last, reads, Region::dense(Place::Output(0), 0, 64), &mut hosts)]);
    let io = |name: &str, bytes| IoSpec { name: name.into(), dtype: DType::U8, shape: Shape::from([bytes]) };
    Plan::new(PlanParts {
        name: format!("random {seed}"),
        target: Target::cpu(Isa::Portable, 1),
        inputs: vec![io("x", 100)],
        outputs: vec![io("y", 64)],
        weights: vec![],
        store: Arc::new(WeightStore::new()),
        host_kernels: hosts,
        stages: all,
        arena_bytes: 2 * KERNELS_MAX * KERNEL_BYTES,
    })
    .expect("the plan is valid")
}

fn kernel(
    seed: u64,
    shape: KernelShape,
    reads: Vec<Region>,
    write: Region,
    hosts: &mut Vec<Arc<dyn HostKernel>>,
) -> Kernel {
    let KernelShape { bytes, tile_bytes, polls, poll_ns, restart, host } = shape;
    if host {
        let of = |region: &Region| TensorSpec { dtype: DType::U8, shape: Shape::from([region.bytes]) };
        let spec = SyntheticSpec { seed, bytes, tile_bytes: bytes, polls, poll_ns, meter: None };
        let inputs = reads.iter().map(of).collect();
        hosts.push(Arc::new(Digest { spec, inputs, outputs: vec![of(&write)] }));
        return Kernel {
            name: format!("h{seed}"),
            spec: KernelSpec::Host(hosts.len() - 1),
            reads,
            writes: vec![write],
            restart: Restart::Never,
            cost: Cost::default(),
        };
    }
    Kernel {
        name: format!("k{seed}"),
        spec: KernelSpec::Synthetic(SyntheticSpec { seed, bytes, tile_bytes, polls, poll_ns, meter: None }),
        reads,
        writes: vec![write],
        restart: if restart { Restart::Safe } else { Restart::Never },
        cost: Cost::default(),
    }
}

/// Makes the bytes of a synthetic kernel with foreign means: allocations and a lock that all of them share.
#[derive(Clone, Debug)]
pub struct Digest {
    spec: SyntheticSpec,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
}

static SHARED: std::sync::Mutex<u64> = std::sync::Mutex::new(0);

impl HostKernel for Digest {
    fn name(&self) -> &str {
        "digest"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(self.clone()))
    }
}

impl HostState for Digest {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        for _ in 0..self.spec.polls {
            let start = Instant::now();
            let mut shared = SHARED.lock().unwrap();
            while start.elapsed() < Duration::from_nanos(u64::from(self.spec.poll_ns)) {
                *shared = shared.wrapping_add(vec![1u64; 100].iter().sum());
            }
        }
        let digest = self.spec.digest(inputs.iter().copied());
        let bytes: Vec<u8> = (0..self.spec.bytes).map(|index| SyntheticSpec::byte(digest, index)).collect();
        outputs[0].copy_from_slice(&bytes);
        Ok(())
    }
}

/// What a kernel computes.
fn spec_of(kernel: &Kernel) -> SyntheticSpec {
    match &kernel.spec {
        KernelSpec::Synthetic(spec) => spec.clone(),
        KernelSpec::Host(_) => {
            let seed = kernel.name[1..].parse().expect("the name holds the seed");
            let bytes = kernel.writes[0].bytes;
            SyntheticSpec { seed, bytes, tile_bytes: bytes, polls: 0, poll_ns: 0, meter: None }
        }
        other => unreachable!("a kernel of another kind: {}", other.name()),
    }
}

/// The plan's output, one kernel after the other.
pub fn evaluate(plan: &Plan, input: &[u8]) -> Vec<u8> {
    let (mut arena, mut output) = (vec![0u8; plan.arena_bytes()], vec![0u8; 64]);
    for kernel in plan.kernels() {
        let spec = spec_of(kernel);
        let operands: Vec<Vec<u8>> = kernel
            .reads
            .iter()
            .map(|region| match region.place {
                Place::Input(_) => input[region.offset..region.end()].to_vec(),
                _ => arena[region.offset..region.end()].to_vec(),
            })
            .collect();
        let digest = spec.digest(operands.iter().map(Vec::as_slice));
        let write = kernel.writes[0];
        let place = if write.place == Place::Arena { &mut arena } else { &mut output };
        for (index, byte) in place[write.offset..write.end()].iter_mut().enumerate() {
            *byte = SyntheticSpec::byte(digest, index);
        }
    }
    output
}

pub fn device(cus: usize, scheme: Scheme) -> CpuDevice {
    let options = CpuOptions { cus: Some(cus), scheme, nice: 0, ..CpuOptions::default() };
    CpuDevice::start(options).expect("the threads start")
}

pub fn filled(device: &CpuDevice, plan: LoadedPlan, fill: u8) -> Io {
    let mut io = device.alloc_io(plan).expect("the plan is loaded");
    io.inputs[0].as_mut_slice().fill(fill);
    io
}

pub fn real_time(level: u8, order: u64) -> TaskKey {
    TaskKey::real_time(Level::new(level).expect("a level"), None, Nanos(order))
}

/// The next completion; panics when the device is stuck.
pub fn wait(device: &CpuDevice) -> Completion {
    let start = Instant::now();
    loop {
        if let Some(completion) = device.try_complete() {
            return completion;
        }
        assert!(start.elapsed() < PATIENCE, "the device is stuck: {device:?}");
        std::thread::yield_now();
    }
}
