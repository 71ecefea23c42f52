//! A plain interpreter of plans: what every kernel specification means, element by element.
//!
//! It runs kernels one after the other on poisoned memory and checks every access against the region that the
//! kernel declared, so a plan that reads what nobody wrote, or touches what it did not declare, shows. Sums
//! are in double precision. Far too slow to serve anything.

mod dense;
mod loops;

use std::sync::Arc;

use reef_base::AlignedBytes;
use reef_graph::{DType, Tensor};
use reef_plan::{Kernel, KernelSpec, Place, Plan, Region, SelectionSpec};

use crate::scalar::Element;
use crate::select;

/// What memory holds before it is written: a NaN in every float type.
const POISON: u8 = 0xFF;

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
    let mut memory = Memory::new(plan, inputs);
    for stage in plan.stages() {
        // Kernels of a stage may run in any order; the last first is as good as any.
        for index in stage.kernels.clone().rev() {
            let kernel = &plan.kernels()[index as usize];
            let fail = |reason: String| InterpretError { kernel: kernel.name.clone(), reason };
            run_kernel(plan, kernel, &mut memory).map_err(fail)?;
            memory.fault.take().map_or(Ok(()), |reason| Err(fail(reason)))?;
        }
    }
    let specs = plan.outputs().iter().zip(memory.outputs);
    let tensor = |(spec, bytes): (&reef_plan::IoSpec, Vec<u8>)| {
        Tensor::new(spec.dtype, spec.shape.clone(), Arc::new(AlignedBytes::copy_from(&bytes)))
    };
    Ok(specs.map(tensor).collect())
}

fn run_kernel(plan: &Plan, kernel: &Kernel, memory: &mut Memory) -> Result<(), String> {
    let mut access = Access { memory, reads: &kernel.reads, writes: &kernel.writes };
    match &kernel.spec {
        KernelSpec::Conv(spec) => dense::conv(spec, &mut access, packing_of(plan, kernel)?),
        KernelSpec::Depthwise(spec) => dense::depthwise(spec, &mut access),
        KernelSpec::MatMul(spec) => dense::matmul(spec, &mut access),
        KernelSpec::Pool(spec) => dense::pool(spec, &mut access),
        KernelSpec::Elementwise(spec) => loops::elementwise(spec, &mut access)?,
        KernelSpec::Reduce(spec) => loops::reduce(spec, &mut access),
        KernelSpec::Softmax(spec) => loops::softmax(spec, &mut access),
        KernelSpec::LayerNorm(spec) => loops::layer_norm(spec, &mut access),
        KernelSpec::Gather(spec) => loops::gather(spec, &mut access)?,
        KernelSpec::Selection(spec) => run_selection(spec, &mut access)?,
        KernelSpec::Host(index) => run_host(plan, *index, &mut access)?,
        KernelSpec::Synthetic(_) => return Err("synthetic kernels are not interpreted".into()),
    }
    Ok(())
}

fn packing_of(plan: &Plan, kernel: &Kernel) -> Result<reef_plan::Packing, String> {
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
        let target = access.memory.bytes_mut(region.place).ok_or("a host kernel writes a constant")?;
        target[region.offset..region.end()].copy_from_slice(bytes.as_slice());
    }
    Ok(())
}

/// Every address space of a running plan.
struct Memory {
    inputs: Vec<Arc<AlignedBytes>>,
    outputs: Vec<Vec<u8>>,
    arena: Vec<u8>,
    weights: Vec<Arc<AlignedBytes>>,
    /// The first access outside a region.
    fault: Option<String>,
}

impl Memory {
    fn new(plan: &Plan, inputs: &[Tensor]) -> Memory {
        let weight = |weight: &reef_plan::WeightRef| {
            plan.store().get(weight.key, weight.packing).expect("validated plans have packed weights")
        };
        Memory {
            inputs: inputs.iter().map(|tensor| tensor.bytes().clone()).collect(),
            outputs: plan.outputs().iter().map(|spec| vec![POISON; spec.bytes()]).collect(),
            arena: vec![POISON; plan.arena_bytes()],
            weights: plan.weights().iter().map(weight).collect(),
            fault: None,
        }
    }

    fn bytes(&self, place: Place) -> &[u8] {
        match place {
            Place::Input(index) => self.inputs[index as usize].as_slice(),
            Place::Output(index) => &self.outputs[index as usize],
            Place::Arena => &self.arena,
            Place::Weight(index) => self.weights[index as usize].as_slice(),
        }
    }

    fn bytes_mut(&mut self, place: Place) -> Option<&mut [u8]> {
        match place {
            Place::Output(index) => Some(&mut self.outputs[index as usize]),
            Place::Arena => Some(&mut self.arena),
            Place::Input(_) | Place::Weight(_) => None,
        }
    }
}

/// The operands of one kernel.
struct Access<'a, 'm> {
    memory: &'m mut Memory,
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

    /// Stores element `index` of the first output.
    fn store(&mut self, dtype: DType, index: usize, value: Element) {
        self.store_to(0, dtype, index, value);
    }

    /// Stores element `index` of output `operand`.
    fn store_to(&mut self, operand: usize, dtype: DType, index: usize, value: Element) {
        let region = self.writes[operand];
        let at = position(&region, dtype, index);
        match (at, self.memory.bytes_mut(region.place)) {
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

/// First byte of an element, if it lies inside the region and its column.
fn position(region: &Region, dtype: DType, index: usize) -> Option<usize> {
    let at = index * dtype.bytes();
    let in_lane = region.lane.is_none_or(|lane| at % lane.stride + dtype.bytes() <= lane.width);
    (at + dtype.bytes() <= region.bytes && in_lane).then_some(region.offset + at)
}
