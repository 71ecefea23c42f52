//! Every kernel against a plain reference, on every instruction set of this machine.
//!
//! [`check`] runs a kernel's blocks in random order on poisoned outputs and scratch: each output element
//! must be what the reference says and every other byte untouched. Then it runs blocks twice, kills them at
//! every poll, and cuts the kernel into other tiles: the bits must not change.

use std::cell::Cell;
use std::sync::Arc;

use reef_base::{AlignedBytes, Rng};
use reef_graph::{DType, Shape, Tensor};
use reef_plan::{
    Cost, HostKernel, IoSpec, Isa, Kernel, KernelSpec, Packing, Place, Plan, PlanParts, Region, Restart,
    Target, WeightStore,
};

use super::{BlockKernel, best, prepare};
use crate::context::{Bases, BlockContext, BlockEnd, Demand, Poll};
use crate::cut::CpuCutter;
use crate::sync::AtomicU64;

mod along;
mod attention;
mod conv;
mod elementwise;
mod indexed;
mod integer;
mod math;
mod packed;
mod quantised;
mod recurrent;
mod resample;
mod rest;
mod selection;
mod trees;
mod vision;

/// What untouched bytes of an output hold.
const POISON: u8 = 0xAA;

/// Bytes before the output's region.
const LEAD: usize = 64;

/// Where an operand is.
enum Operand {
    /// A request's input.
    Input(AlignedBytes),
    /// A constant; its packing may depend on the instruction set.
    Weight(Tensor, Box<dyn Fn(Isa) -> Packing>),
}

/// A kernel, its operands, and what it must compute.
struct Case {
    name: String,
    /// The kernel, cut in several ways.
    specs: Vec<Box<dyn Fn(Isa) -> KernelSpec>>,
    operands: Vec<Operand>,
    /// Bytes of the output's region.
    out_bytes: usize,
    /// Bytes of the further outputs' regions; they lie behind the first, as far apart as they have to be.
    more_bytes: Vec<usize>,
    out_dtype: DType,
    /// Element index in the output's region, and its value.
    expected: Vec<(usize, f64)>,
    /// Error allowed, relative to the value's magnitude or 1, whichever is larger.
    tolerance: f64,
    host: Option<Arc<dyn HostKernel>>,
}

impl Case {
    fn f32(name: impl Into<String>, spec: impl Fn(Isa) -> KernelSpec + 'static) -> Case {
        Case {
            name: name.into(),
            specs: vec![Box::new(spec)],
            operands: vec![],
            out_bytes: 0,
            more_bytes: vec![],
            out_dtype: DType::F32,
            expected: vec![],
            tolerance: 1e-5,
            host: None,
        }
    }

    fn cut(mut self, spec: impl Fn(Isa) -> KernelSpec + 'static) -> Case {
        self.specs.push(Box::new(spec));
        self
    }

    fn input(mut self, values: &[f32]) -> Case {
        self.operands.push(Operand::Input(AlignedBytes::copy_from(bytemuck::cast_slice(values))));
        self
    }

    fn bytes(mut self, values: &[u8]) -> Case {
        self.operands.push(Operand::Input(AlignedBytes::copy_from(values)));
        self
    }

    fn weight(mut self, tensor: Tensor, packing: impl Fn(Isa) -> Packing + 'static) -> Case {
        self.operands.push(Operand::Weight(tensor, Box::new(packing)));
        self
    }

    /// Where the outputs lie in the buffer.
    fn regions(&self) -> Vec<Region> {
        let mut end = 0;
        let all = [self.out_bytes].into_iter().chain(self.more_bytes.iter().copied());
        let place = |bytes: usize| {
            let begin = end + LEAD;
            end = (begin + bytes).next_multiple_of(64);
            Region::dense(Place::Output(0), begin, bytes)
        };
        all.map(place).collect()
    }

    fn expects(mut self, out_elements: usize, expected: Vec<(usize, f64)>) -> Case {
        self.out_bytes = out_elements * self.out_dtype.bytes();
        self.expected = expected;
        self
    }
}

/// Seeded random numbers in −1..1.
fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| (rng.unit_f64() * 2.0 - 1.0) as f32).collect()
}

/// Seeded random pixels of `channels` numbers; NaN between the channels and the next pixel.
fn pixels(seed: u64, count: usize, channels: usize, stride: usize) -> Vec<f32> {
    let mut values = random(seed, count * stride);
    for (at, value) in values.iter_mut().enumerate() {
        if at % stride >= channels {
            *value = f32::NAN;
        }
    }
    values
}

fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| *isa <= best())
}

fn check(case: &Case) {
    for isa in isas() {
        let mut first = None;
        for (index, spec) in case.specs.iter().enumerate() {
            let spec = spec(isa);
            let name = format!("{} on {isa}, cut {index}", case.name);
            let mut bench = Bench::new(case, spec, isa);
            let output = bench.run_all(7 + index as u64);
            compare(case, &output, &name);
            bench.check_rerun(&output, &name);
            bench.check_kills(&output, &name);
            let same = first.get_or_insert_with(|| output.clone());
            assert!(*same == output, "{name}: other bits than cut 0");
        }
    }
}

/// Compares an output with the reference, and everything around it with the poison.
fn compare(case: &Case, output: &[u8], name: &str) {
    let size = case.out_dtype.bytes();
    let mut touched = vec![false; output.len()];
    for &(element, expected) in &case.expected {
        let at = LEAD + element * size;
        touched[at..at + size].fill(true);
        let value = decode(case.out_dtype, &output[at..at + size]);
        let error = (value - expected).abs() / expected.abs().max(1.0);
        let fine = error <= case.tolerance || value == expected || (value.is_nan() && expected.is_nan());
        assert!(fine, "{name}: element {element} is {value}, not {expected}");
    }
    for (at, byte) in output.iter().enumerate() {
        assert!(touched[at] || *byte == POISON, "{name}: byte {at} outside the output was written");
    }
}

fn decode(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F32 => f64::from(bytemuck::pod_read_unaligned::<f32>(bytes)),
        DType::F64 => bytemuck::pod_read_unaligned(bytes),
        DType::I64 => bytemuck::pod_read_unaligned::<i64>(bytes) as f64,
        DType::U64 => bytemuck::pod_read_unaligned::<u64>(bytes) as f64,
        DType::I32 => f64::from(bytemuck::pod_read_unaligned::<i32>(bytes)),
        DType::U32 => f64::from(bytemuck::pod_read_unaligned::<u32>(bytes)),
        DType::I16 => f64::from(bytemuck::pod_read_unaligned::<i16>(bytes)),
        DType::U16 => f64::from(bytemuck::pod_read_unaligned::<u16>(bytes)),
        DType::I8 => f64::from(bytes[0] as i8),
        DType::U8 | DType::Bool => f64::from(bytes[0]),
        // As bits: tests give them so.
        DType::F16 | DType::BF16 => f64::from(bytemuck::pod_read_unaligned::<u16>(bytes)),
    }
}

/// Says stop at the poll with this number.
struct KillAt {
    polls: Cell<u32>,
    at: Option<u32>,
}

impl Demand for KillAt {
    fn take(&self) -> bool {
        let poll = self.polls.get();
        self.polls.set(poll + 1);
        self.at == Some(poll)
    }
}

/// A prepared kernel with its buffers.
struct Bench {
    plan: Plan,
    kernel: Box<dyn BlockKernel>,
    inputs: Vec<AlignedBytes>,
    weights: Vec<Arc<AlignedBytes>>,
    output: AlignedBytes,
    scratch: AlignedBytes,
    host: Option<crate::context::HostCell>,
}

/// Bytes behind scratch that must stay as they are.
const GUARD: usize = 256;

impl Bench {
    fn new(case: &Case, spec: KernelSpec, isa: Isa) -> Bench {
        let store = Arc::new(WeightStore::new());
        let (mut inputs, mut weights, mut reads) = (vec![], vec![], vec![]);
        for operand in &case.operands {
            reads.push(match operand {
                Operand::Input(bytes) => {
                    inputs.push(bytes.clone());
                    Region::dense(Place::Input(inputs.len() as u16 - 1), 0, bytes.len())
                }
                Operand::Weight(tensor, packing) => {
                    let weight = store.insert(tensor, packing(isa));
                    weights.push(weight.clone());
                    Region::dense(Place::Weight(weights.len() as u32 - 1), 0, weight.bytes)
                }
            });
        }
        let io = |bytes: usize| IoSpec { name: "t".into(), dtype: DType::U8, shape: Shape::from([bytes]) };
        let writes = case.regions();
        let total = writes.last().expect("there is an output").end() + LEAD;
        let kernel = Kernel {
            name: case.name.clone(),
            spec,
            reads,
            writes,
            restart: Restart::Safe,
            cost: Cost::default(),
        };
        let parts = PlanParts {
            name: case.name.clone(),
            target: Target::cpu(isa, 1),
            inputs: inputs.iter().map(|bytes| io(bytes.len())).collect(),
            outputs: vec![io(total)],
            weights,
            store: store.clone(),
            host_kernels: case.host.iter().cloned().collect(),
            stages: vec![vec![kernel]],
            arena_bytes: 0,
        };
        let plan = Plan::cut_by(&CpuCutter::new(parts.target), parts).unwrap();
        let weights = plan.weights().iter().map(|w| store.get(w.key, w.packing).unwrap()).collect();
        Bench {
            kernel: prepare(&plan.kernels()[0], &plan, isa),
            inputs,
            weights,
            output: AlignedBytes::zeroed(total),
            scratch: AlignedBytes::zeroed(plan.scratch_bytes().next_multiple_of(64) + GUARD),
            host: case.host.as_ref().map(|host| std::cell::UnsafeCell::new(Some(host.new_state().unwrap()))),
            plan,
        }
    }

    /// Runs a block with poisoned scratch, to be killed at a poll or not; the end, and the polls it made.
    fn run(&mut self, block: u32, at: Option<u32>) -> (BlockEnd, u32) {
        self.scratch.as_mut_slice().fill(0xFF);
        let inputs: Vec<*const u8> = self.inputs.iter().map(|bytes| bytes.as_ptr()).collect();
        let weights: Vec<*const u8> = self.weights.iter().map(|bytes| bytes.as_ptr()).collect();
        let outputs = [self.output.as_mut_ptr()];
        let (word, cancel) = (AtomicU64::new(0), AtomicU64::new(0));
        let demand = KillAt { polls: Cell::new(0), at };
        let context = BlockContext {
            bases: Bases { inputs: &inputs, outputs: &outputs, arena: std::ptr::null_mut() },
            weights: &weights,
            scratch: self.scratch.as_mut_ptr(),
            poll: Poll { word: &word, threshold: 1, cancel: &cancel, demand: &demand },
            host: self.host.as_ref(),
        };
        // SAFETY: the buffers have the plan's sizes, and only this thread uses them.
        let end = unsafe { self.kernel.run(&context, block) };
        let guard = &self.scratch.as_slice()[self.scratch.len() - GUARD..];
        assert!(guard.iter().all(|byte| *byte == 0xFF), "the block wrote past its scratch");
        (end, demand.polls.get())
    }

    fn blocks(&self) -> u32 {
        self.plan.blocks() as u32
    }

    /// Runs every block once, in an order drawn from `seed`, on a poisoned output.
    fn run_all(&mut self, seed: u64) -> Vec<u8> {
        self.output.as_mut_slice().fill(POISON);
        let mut order: Vec<u32> = (0..self.blocks()).collect();
        let mut rng = Rng::new(seed);
        for at in (1..order.len()).rev() {
            order.swap(at, rng.below(at as u64 + 1) as usize);
        }
        for block in order {
            assert_eq!(self.run(block, None).0, BlockEnd::Done);
        }
        self.output.as_slice().to_vec()
    }

    /// Every block again: the same bits.
    fn check_rerun(&mut self, output: &[u8], name: &str) {
        for block in 0..self.blocks() {
            assert_eq!(self.run(block, None).0, BlockEnd::Done);
        }
        assert!(self.output.as_slice() == output, "{name}: a second run gives other bits");
    }

    /// The first, a middle and the last block, killed at each of their first polls and run again.
    fn check_kills(&mut self, output: &[u8], name: &str) {
        if cfg!(feature = "no-polls") {
            return;
        }
        let last = self.blocks() - 1;
        for block in [0, last / 2, last] {
            for at in 0..24 {
                let (end, polls) = self.run(block, Some(at));
                if polls <= at {
                    break;
                }
                assert_eq!((end, polls), (BlockEnd::Killed, at + 1), "{name}: block {block}");
                assert_eq!(self.run(block, None).0, BlockEnd::Done);
                assert!(self.output.as_slice() == output, "{name}: killed at poll {at}, other bits");
            }
        }
    }
}
