//! A plain interpreter of plans: what every kernel specification means, element by element.
//!
//! It runs blocks one after the other, in whatever pieces a kernel was cut, and checks every access against
//! the region that the kernel declared. [`run`] does so on poisoned memory: a plan that reads what nobody
//! wrote, or touches what it did not declare, shows. Sums are in double precision. Far too slow to serve
//! anything; as [`Blocks`] it stands in for the kernels of a device that has none.

mod dense;
mod indexed;
mod integer;
mod loops;
mod recurrent;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use reef_base::{AlignedBytes, Buffer};
use reef_graph::{DType, Tensor};
use reef_plan::{
    FaultKind, HostFault, Interpreter, Kernel, KernelSpec, Packing, Place, Plan, Region, SelectionSpec,
    TaskMemory,
};

use crate::select;
use reef_graph::scalar::Element;

/// What memory holds before it is written: a NaN in every float type.
const POISON: u8 = 0xFF;
/// What a block leaves behind that was killed.
const RUBBISH: u8 = 0xAA;

/// A plan could not be interpreted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel {kernel}: {reason}")]
pub struct InterpretError {
    /// The kernel's name.
    pub kernel: String,
    /// What is wrong.
    pub reason: String,
}

/// Runs `plan` on `inputs`, which have the types and shapes that it declares; gives its outputs in order.
pub fn run(plan: &Plan, inputs: &[Tensor]) -> Result<Vec<Tensor>, InterpretError> {
    let inputs: Vec<Buffer> =
        inputs.iter().map(|tensor| Buffer::copy_from(tensor.bytes().as_slice())).collect();
    let poisoned = |bytes: usize| {
        let mut buffer = AlignedBytes::zeroed(bytes);
        buffer.as_mut_slice().fill(POISON);
        buffer
    };
    let mut outputs: Vec<Buffer> =
        plan.outputs().iter().map(|spec| Buffer::from(poisoned(spec.bytes()))).collect();
    let mut arena = poisoned(plan.arena_bytes());
    for stage in plan.stages() {
        // Kernels of a stage may run in any order; the last first is as good as any.
        for index in stage.kernels.clone().rev() {
            let kernel = &plan.kernels()[index as usize];
            let task = TaskMemory { inputs: &inputs, outputs: &mut outputs, arena: &mut arena };
            let mut memory = Memory::new(plan, kernel, task);
            for block in 0..kernel.spec.blocks() {
                run_block(plan, kernel, block, &mut memory)
                    .map_err(|reason| InterpretError { kernel: kernel.name.clone(), reason })?;
            }
        }
    }
    let specs = plan.outputs().iter().zip(outputs);
    let tensor = |(spec, bytes): (&reef_plan::IoSpec, Buffer)| {
        let bytes = AlignedBytes::copy_from(bytes.as_slice());
        Tensor::new(spec.dtype, spec.shape.clone(), Arc::new(bytes))
    };
    Ok(specs.map(tensor).collect())
}

/// The interpreter, block by block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blocks;

impl Interpreter for Blocks {
    fn run_block(
        &self,
        plan: &Plan,
        kernel: usize,
        block: u32,
        memory: TaskMemory<'_>,
    ) -> Result<(), HostFault> {
        let kernel = &plan.kernels()[kernel];
        run_block(plan, kernel, block as usize, &mut Memory::new(plan, kernel, memory))
            .map_err(|reason| HostFault { kind: FaultKind::Input, kernel: kernel.name.clone(), reason })
    }

    fn spoil_block(&self, plan: &Plan, kernel: usize, block: u32, memory: TaskMemory<'_>) {
        let kernel = &plan.kernels()[kernel];
        let mut memory = Memory { rubbish: true, ..Memory::new(plan, kernel, memory) };
        // It may fail like the block itself: what it would have written before is spoilt.
        let _ = run_block(plan, kernel, block as usize, &mut memory);
    }
}

fn run_block<'a>(
    plan: &Plan,
    kernel: &'a Kernel,
    block: usize,
    memory: &mut Memory<'a>,
) -> Result<(), String> {
    let mut access = Access { memory, reads: &kernel.reads, writes: &kernel.writes };
    match &kernel.spec {
        KernelSpec::Conv(spec) => dense::conv(spec, &mut access, packing_of(plan, kernel)?, block),
        KernelSpec::Depthwise(spec) => dense::depthwise(spec, &mut access, packing_of(plan, kernel)?, block),
        KernelSpec::MatMul(spec) => dense::matmul(spec, &mut access, block),
        KernelSpec::IntegerConv(spec) => {
            integer::conv(spec, &mut access, packing_of(plan, kernel)?, block)?;
        }
        KernelSpec::IntegerMatMul(spec) => integer::matmul(spec, &mut access, block),
        KernelSpec::Attention(spec) => dense::attention(spec, &mut access, block),
        KernelSpec::Pool(spec) => dense::pool(spec, &mut access, block),
        KernelSpec::Elementwise(spec) => loops::elementwise(spec, &mut access, block)?,
        KernelSpec::Reduce(spec) => loops::reduce(spec, &mut access, block),
        KernelSpec::Softmax(spec) => loops::softmax(spec, &mut access, block),
        KernelSpec::LayerNorm(spec) => loops::layer_norm(spec, &mut access, block),
        KernelSpec::Gather(spec) => loops::gather(spec, &mut access, block)?,
        KernelSpec::Take(spec) => indexed::take(spec, &mut access, block)?,
        KernelSpec::Put(spec) => indexed::put(spec, &mut access, block)?,
        KernelSpec::MaxPool(spec) => indexed::max_pool(spec, &mut access, block),
        KernelSpec::Resample(spec) => loops::resample(spec, &mut access, block),
        KernelSpec::Recurrent(spec) => {
            let packing = match spec.computed {
                true => recurrent::computed(spec),
                false => packing_of(plan, kernel)?,
            };
            recurrent::recurrent(spec, &mut access, packing, block)?;
        }
        KernelSpec::Along(spec) => loops::along(spec, &mut access, block),
        KernelSpec::Packed(spec) => dense::packed(spec, &mut access, block),
        KernelSpec::Trees(spec) => loops::trees(spec, &mut access, block)?,
        KernelSpec::Vision(spec) => loops::vision(spec, &mut access, block)?,
        KernelSpec::Selection(spec) => run_selection(spec, &mut access)?,
        KernelSpec::Host(index) => run_host(plan, *index, &mut access)?,
        KernelSpec::Synthetic(_) => return Err("synthetic kernels are not interpreted".into()),
    }
    memory.fault.take().map_or(Ok(()), Err)
}

fn packing_of(plan: &Plan, kernel: &Kernel) -> Result<Packing, String> {
    match kernel.reads[1].place {
        Place::Weight(index) => Ok(plan.weights()[index as usize].packing),
        _ => Err("the weights are not a packed constant".into()),
    }
}

fn run_selection(spec: &SelectionSpec, access: &mut Access<'_, '_>) -> Result<(), String> {
    let mut inputs = vec![];
    for (operand, (dtype, count)) in spec.inputs().into_iter().enumerate() {
        inputs.push((0..count).map(|index| access.load(operand, dtype, index)).collect());
    }
    let made = select::select(spec, &inputs)?;
    for (operand, (elements, (dtype, _))) in made.into_iter().zip(spec.outputs()).enumerate() {
        for (index, element) in elements.into_iter().enumerate() {
            access.store_to(operand, dtype, index, element);
        }
    }
    Ok(())
}

fn run_host(plan: &Plan, index: usize, access: &mut Access<'_, '_>) -> Result<(), String> {
    let fault = |fault: reef_plan::HostFault| fault.to_string();
    let mut state = plan.host_kernels()[index].new_state().map_err(fault)?;
    let inputs: Vec<AlignedBytes> = access
        .reads
        .iter()
        .map(|region| {
            AlignedBytes::copy_from(&access.memory.bytes(region.place)[region.offset..region.end()])
        })
        .collect();
    let mut outputs: Vec<AlignedBytes> =
        access.writes.iter().map(|region| AlignedBytes::zeroed(region.bytes)).collect();
    let input_slices: Vec<&[u8]> = inputs.iter().map(AlignedBytes::as_slice).collect();
    let mut output_slices: Vec<&mut [u8]> = outputs.iter_mut().map(AlignedBytes::as_mut_slice).collect();
    state.run(&input_slices, &mut output_slices).map_err(fault)?;
    for (region, bytes) in access.writes.iter().zip(&outputs) {
        let rubbish = access.memory.rubbish;
        let target = access.memory.bytes_mut(region.place).ok_or("a host kernel writes a constant")?;
        let target = &mut target[region.offset..region.end()];
        if rubbish {
            target.fill(RUBBISH);
        } else {
            target.copy_from_slice(bytes.as_slice());
        }
    }
    Ok(())
}

/// Every address space that a running kernel uses.
struct Memory<'a> {
    task: TaskMemory<'a>,
    /// The kernel's own.
    weights: HashMap<u32, Arc<AlignedBytes>>,
    /// Rubbish is written in place of results.
    rubbish: bool,
    /// The first access outside a region.
    fault: Option<String>,
}

impl<'a> Memory<'a> {
    fn new(plan: &Plan, kernel: &Kernel, task: TaskMemory<'a>) -> Memory<'a> {
        let weight = |region: &Region| {
            let Place::Weight(index) = region.place else { return None };
            let weight = &plan.weights()[index as usize];
            let bytes = plan.store().get(weight.key, weight.packing);
            Some((index, bytes.expect("validated plans have packed weights")))
        };
        let weights = kernel.reads.iter().filter_map(weight).collect();
        Memory { task, weights, rubbish: false, fault: None }
    }

    fn bytes(&self, place: Place) -> &[u8] {
        match place {
            Place::Input(index) => self.task.inputs[index as usize].as_slice(),
            Place::Output(index) => self.task.outputs[index as usize].as_slice(),
            Place::Arena => self.task.arena.as_slice(),
            Place::Weight(index) => self.weights[&index].as_slice(),
        }
    }

    fn bytes_mut(&mut self, place: Place) -> Option<&mut [u8]> {
        match place {
            Place::Output(index) => Some(self.task.outputs[index as usize].as_mut_slice()),
            Place::Arena => Some(self.task.arena.as_mut_slice()),
            Place::Input(_) | Place::Weight(_) => None,
        }
    }
}

/// The operands of one kernel.
struct Access<'a, 'm> {
    memory: &'m mut Memory<'a>,
    reads: &'a [Region],
    writes: &'a [Region],
}

impl Access<'_, '_> {
    /// Element `index` of operand `operand`.
    fn load(&mut self, operand: usize, dtype: DType, index: usize) -> Element {
        let Some(region) = self.reads.get(operand).copied() else {
            self.memory.fault.get_or_insert(format!("operand {operand} is missing"));
            return Element::Int(0);
        };
        match position(&region, dtype, index) {
            Some(at) => Element::read(dtype, &self.memory.bytes(region.place)[at..at + dtype.bytes()]),
            None => {
                self.memory.fault.get_or_insert(format!("reads element {index} outside {region}"));
                Element::Int(0)
            }
        }
    }

    fn load_f32(&mut self, operand: usize, index: usize) -> f64 {
        self.load(operand, DType::F32, index).float()
    }

    fn load_bool(&mut self, operand: usize, index: usize) -> bool {
        self.load(operand, DType::Bool, index).int() != 0
    }

    /// Stores element `index` of the first output.
    fn store(&mut self, dtype: DType, index: usize, value: Element) {
        self.store_to(0, dtype, index, value);
    }

    /// Stores element `index` of output `operand`.
    fn store_to(&mut self, operand: usize, dtype: DType, index: usize, value: Element) {
        let region = self.writes[operand];
        let at = position(&region, dtype, index);
        let rubbish = self.memory.rubbish;
        match (at, self.memory.bytes_mut(region.place)) {
            (Some(at), Some(bytes)) if rubbish => bytes[at..at + dtype.bytes()].fill(RUBBISH),
            (Some(at), Some(bytes)) => value.write(dtype, &mut bytes[at..at + dtype.bytes()]),
            _ => {
                self.memory.fault.get_or_insert(format!("writes element {index} outside {region}"));
            }
        }
    }

    fn store_f32(&mut self, index: usize, value: f64) {
        self.store(DType::F32, index, Element::Float(value));
    }
}

/// Units that a block of `size` of `all` units makes.
fn part(block: usize, size: usize, all: usize) -> Range<usize> {
    (block * size).min(all)..((block + 1) * size).min(all)
}

/// First byte of an element, if it lies inside the region and its column.
fn position(region: &Region, dtype: DType, index: usize) -> Option<usize> {
    let at = index * dtype.bytes();
    let in_lane = region.lane.is_none_or(|lane| at % lane.stride + dtype.bytes() <= lane.width);
    (at + dtype.bytes() <= region.bytes && in_lane).then_some(region.offset + at)
}
