//! What kernels are given: plain data, as the kernels declare it. Sizes are checked where they are compiled.

mod along;
mod attention;
mod contract;
mod elementwise;
mod integer;
mod recurrent;
mod rest;
mod rows;
mod window;

use bytemuck::{Pod, Zeroable};
pub(crate) use elementwise::STEPS_MAX;
use reef_base::limits;
use reef_plan::spec::elements;
use reef_plan::{Kernel, KernelSpec, Place, Precision, Region};

pub(crate) use self::contract::parts_bytes;

use crate::cut::{self, SPLIT_BLOCKS};
use crate::driver::Grid;

/// Sizes of what the host and the kernels both declare, by the names that the kernels check them under.
pub(crate) const SIZES: [(&str, usize); 22] = [
    ("ALONG_DESCRIPTOR_BYTES", size_of::<along::AlongDescriptor>()),
    ("RESAMPLE_DESCRIPTOR_BYTES", size_of::<along::ResampleDescriptor>()),
    ("ATTENTION_DESCRIPTOR_BYTES", size_of::<attention::AttentionDescriptor>()),
    ("ATTENTION_BYTES", attention::SHARED_BYTES),
    ("ATTENTION_WIDE_BYTES", attention::WIDE_SHARED_BYTES),
    ("ATTENTION_WIDEST_BYTES", attention::WIDEST_SHARED_BYTES),
    ("CONV_DESCRIPTOR_BYTES", size_of::<contract::ConvDescriptor>()),
    ("MATMUL_DESCRIPTOR_BYTES", size_of::<contract::MatMulDescriptor>()),
    ("WINDOW_DESCRIPTOR_BYTES", size_of::<window::WindowDescriptor>()),
    ("ELEMENTWISE_DESCRIPTOR_BYTES", size_of::<elementwise::ElementwiseDescriptor>()),
    ("REDUCE_DESCRIPTOR_BYTES", size_of::<rows::ReduceDescriptor>()),
    ("SOFTMAX_DESCRIPTOR_BYTES", size_of::<rows::SoftmaxDescriptor>()),
    ("LAYER_NORM_DESCRIPTOR_BYTES", size_of::<rows::LayerNormDescriptor>()),
    ("GATHER_DESCRIPTOR_BYTES", size_of::<rest::GatherDescriptor>()),
    ("SYNTHETIC_DESCRIPTOR_BYTES", size_of::<rest::SyntheticDescriptor>()),
    ("INTEGER_CONV_DESCRIPTOR_BYTES", size_of::<integer::IntegerConvDescriptor>()),
    ("INTEGER_MATMUL_DESCRIPTOR_BYTES", size_of::<integer::IntegerMatMulDescriptor>()),
    ("INTEGER_SHARED_BYTES", integer::SHARED_BYTES),
    ("RECURRENT_DESCRIPTOR_BYTES", size_of::<recurrent::RecurrentDescriptor>()),
    ("ARRIVED_BYTES", SPLIT_BLOCKS * size_of::<u64>()),
    ("LAUNCH_BYTES", size_of::<Launch>()),
    ("REPORT_BYTES", size_of::<Report>()),
];

/// Threads that compute in a block.
pub(crate) const THREADS: u32 = cut::THREADS as u32;
/// Bytes of shared memory that belong to the executor.
const CONTROL_BYTES: u32 = 128;

/// Axes of a loop at most.
const RANK_MAX: usize = 8;

/// Descriptors begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 16;

/// A launch of a kernel by the queued executor.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Launch {
    /// Address of the descriptor; of a graph's last node, that of the reports, of which there are `blocks`.
    pub(crate) descriptor: u64,
    /// Address of the task's memory.
    pub(crate) base: u64,
    /// Address of the last epoch whose blocks do not start any more; behind it the epoch of the slot's graph
    /// and the number of its launch.
    pub(crate) evicted: u64,
    /// Address of the count of blocks that are through, and of the words behind it that tell which parts of
    /// tiles are there.
    pub(crate) arrivals: u64,
    /// Address of the report.
    pub(crate) report: u64,
    pub(crate) number: u32,
    /// The first of the kernel's blocks, and how many.
    pub(crate) first: u32,
    pub(crate) blocks: u32,
    /// The tile function's number.
    pub(crate) function: u32,
    /// When it was queued; later ones have larger numbers, around the end of numbers too.
    pub(crate) epoch: u32,
    /// The kernel's index in its plan.
    pub(crate) kernel: u32,
    /// What it is of a graph: one of the numbers `PART_…`.
    pub(crate) part: u32,
    pub(crate) reserved: u32,
    /// Never the same for two launches with the same words, never 0.
    pub(crate) run: u64,
}

/// How a launch ended.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Report {
    /// On the device's clock.
    pub(crate) begun_ns: u64,
    pub(crate) ended_ns: u64,
    /// The value that a kernel could do nothing with, if `failed` is not zero, which is its index and 1.
    pub(crate) failed_value: i64,
    pub(crate) failed: u32,
    /// Blocks that did not start.
    pub(crate) skipped: u32,
    pub(crate) reserved: u32,
    /// The launch that this is about; written last.
    pub(crate) number: u32,
}

/// Where an operand lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Operand {
    at: u64,
    is_address: u32,
    reserved: u32,
}

/// Where the places of a plan are for its tasks.
pub(crate) trait Placing {
    /// Bytes from the start of a task's memory to a place; `None` for weights.
    fn offset(&self, place: Place) -> Option<u64>;
    /// The address of a weight.
    fn weight(&self, index: u32) -> u64;
    /// Bytes from the start of a task's memory to that for the parts of tiles that blocks share.
    fn parts(&self) -> u64;
}

fn operand(placing: &dyn Placing, region: &Region, byte: u64) -> Operand {
    let more = region.offset as u64 + byte;
    match (placing.offset(region.place), region.place) {
        (Some(offset), _) => Operand { at: offset + more, is_address: 0, reserved: 0 },
        (None, Place::Weight(index)) => {
            Operand { at: placing.weight(index) + more, is_address: 1, reserved: 0 }
        }
        (None, place) => unreachable!("{place:?} is in the task's memory"),
    }
}

/// A kernel as the device runs it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Described {
    /// The function.
    pub(crate) function: &'static str,
    /// Its descriptor's bytes.
    pub(crate) descriptor: Vec<u8>,
    /// Bytes of shared memory of a block.
    pub(crate) shared_bytes: u32,
}

impl Described {
    /// The shape of a launch of `blocks` blocks.
    pub(crate) fn grid(&self, blocks: u32) -> Grid {
        Grid { blocks, threads: THREADS, shared_bytes: self.shared_bytes }
    }
}

/// Two launches in one: `padding` fills what `kernel` leaves.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Padded {
    pub(crate) kernel: Launch,
    pub(crate) padding: Launch,
}

/// The function that only reports.
pub(crate) const MARK: &str = "reef_queue_mark";
/// The one that reports at the end of a graph.
pub(crate) const GRAPH_END: &str = "reef_queue_graph_end";

/// A launch that is no part of a graph, and tells the host how it ended.
pub(crate) const PART_OWN: u32 = 0;
/// The first kernel of a graph.
pub(crate) const PART_FIRST: u32 = 1;
/// A kernel behind it.
pub(crate) const PART_REST: u32 = 2;

/// Tile functions by number, each as a kernel of its own that [`describe`] names, and how many of its blocks
/// a multiprocessor has registers for: as in `kernels/queue.cuh`.
pub(crate) const FUNCTIONS: [(&str, u32); 39] = [
    ("reef_queue_attention_bf16", 2),
    ("reef_queue_attention_f16", 2),
    ("reef_queue_attention_tf32", 2),
    ("reef_queue_conv", 2),
    ("reef_queue_conv_bf16", 2),
    ("reef_queue_conv_bf16_narrow", 2),
    ("reef_queue_conv_bf16_narrow_normed", 2),
    ("reef_queue_conv_bf16_normed", 2),
    ("reef_queue_conv_f16", 2),
    ("reef_queue_conv_f16_narrow", 2),
    ("reef_queue_conv_f16_narrow_normed", 2),
    ("reef_queue_conv_f16_normed", 2),
    ("reef_queue_conv_normed", 2),
    ("reef_queue_conv_tf32", 2),
    ("reef_queue_conv_tf32_narrow", 2),
    ("reef_queue_conv_tf32_narrow_normed", 2),
    ("reef_queue_conv_tf32_normed", 2),
    ("reef_queue_elementwise", 4),
    ("reef_queue_gather", 4),
    ("reef_queue_layer_norm", 4),
    ("reef_queue_matmul", 2),
    ("reef_queue_matmul_bf16", 2),
    ("reef_queue_matmul_f16", 2),
    ("reef_queue_matmul_tf32", 2),
    ("reef_queue_reduce", 4),
    ("reef_queue_softmax", 4),
    ("reef_queue_synthetic", 4),
    ("reef_queue_window", 4),
    ("reef_queue_integer_conv", 2),
    ("reef_queue_integer_matmul", 2),
    ("reef_queue_recurrent", 2),
    ("reef_queue_attention_bf16_wide", 2),
    ("reef_queue_attention_bf16_widest", 2),
    ("reef_queue_attention_f16_wide", 2),
    ("reef_queue_attention_f16_widest", 2),
    ("reef_queue_attention_tf32_wide", 2),
    ("reef_queue_attention_tf32_widest", 2),
    ("reef_queue_along", 4),
    ("reef_queue_resample", 4),
];

/// Functions that run any two tile functions of which a multiprocessor has registers for so many blocks.
pub(crate) const PROXIES: [(&str, u32); 2] = [("reef_queue_padded_4", 4), ("reef_queue_padded_2", 2)];

/// Describes a kernel; the error says what the device has no code for.
pub(crate) fn describe(
    kernel: &Kernel,
    precision: Precision,
    placing: &dyn Placing,
) -> Result<Described, String> {
    if positions(&kernel.spec) > limits::TENSOR_ELEMENTS_MAX {
        return Err(format!("{} positions, the device counts to 2^31", positions(&kernel.spec)));
    }
    let operands = Operands { kernel, precision, placing };
    Ok(match &kernel.spec {
        KernelSpec::Conv(spec) => contract::conv(operands, spec),
        KernelSpec::Attention(spec) => return attention::attention(operands, spec),
        KernelSpec::MatMul(spec) => contract::matmul(operands, spec),
        KernelSpec::IntegerConv(spec) => integer::conv(operands, spec),
        KernelSpec::IntegerMatMul(spec) => integer::matmul(operands, spec),
        KernelSpec::Depthwise(spec) => window::depthwise(operands, spec),
        KernelSpec::Pool(spec) => window::pool(operands, spec),
        KernelSpec::Elementwise(spec) => return elementwise::describe(operands, spec),
        KernelSpec::Reduce(spec) => rows::reduce(operands, spec),
        KernelSpec::Softmax(spec) => rows::softmax(operands, spec),
        KernelSpec::LayerNorm(spec) => rows::layer_norm(operands, spec),
        KernelSpec::Gather(spec) => rest::gather(operands, spec),
        KernelSpec::Recurrent(spec) => recurrent::recurrent(operands, spec),
        KernelSpec::Along(spec) => along::along(operands, spec),
        KernelSpec::Resample(spec) => along::resample(operands, spec),
        KernelSpec::Synthetic(spec) => return rest::synthetic(operands, spec),
        other => return Err(format!("the device has no {} kernel yet", other.name())),
    })
}

/// Positions of the loops that the device's kernels count in 32 bits.
fn positions(spec: &KernelSpec) -> usize {
    match spec {
        KernelSpec::Elementwise(spec) => spec.elements(),
        KernelSpec::Reduce(spec) => elements(&spec.kept).max(elements(&spec.reduced)),
        KernelSpec::Softmax(spec) => elements(&spec.rows),
        KernelSpec::LayerNorm(spec) => spec.rows,
        KernelSpec::Along(spec) => spec.rows().max(spec.extent),
        KernelSpec::Resample(spec) => spec.rows(),
        KernelSpec::Depthwise(spec) => spec.batch * spec.out_hw[0] * spec.out_hw[1] * spec.channels,
        KernelSpec::Pool(spec) => spec.batch * spec.out_hw[0] * spec.out_hw[1] * spec.channels,
        _ => 0,
    }
}

/// The operands of a kernel, by position.
#[derive(Clone, Copy)]
struct Operands<'a> {
    kernel: &'a Kernel,
    precision: Precision,
    placing: &'a dyn Placing,
}

impl Operands<'_> {
    fn read(&self, index: usize) -> Operand {
        operand(self.placing, &self.kernel.reads[index], 0)
    }

    /// The operand from some byte on.
    fn read_from(&self, index: usize, byte: u64) -> Operand {
        operand(self.placing, &self.kernel.reads[index], byte)
    }

    /// The operand if it is there, and the position of the next one.
    fn read_if(&self, there: bool, index: &mut usize) -> Operand {
        if !there {
            return Operand::default();
        }
        *index += 1;
        self.read(*index - 1)
    }

    /// A place in the task's memory.
    fn in_task(&self, at: u64) -> Operand {
        Operand { at, is_address: 0, reserved: 0 }
    }

    /// Whether an operand begins where 16 bytes may be read at once: places do.
    fn is_aligned(&self, index: usize) -> bool {
        self.kernel.reads[index].offset.is_multiple_of(16)
    }

    fn write(&self) -> Operand {
        self.write_at(0)
    }

    fn write_at(&self, index: usize) -> Operand {
        operand(self.placing, &self.kernel.writes[index], 0)
    }
}

/// Numbers of kernels fit 32 bits: tensors have no more elements.
fn number(value: usize) -> u32 {
    value as u32
}

fn pair(values: [usize; 2]) -> [u32; 2] {
    values.map(number)
}

fn described(function: &'static str, descriptor: &impl Pod, shared_bytes: usize) -> Described {
    let descriptor = bytemuck::bytes_of(descriptor).to_vec();
    Described { function, descriptor, shared_bytes: CONTROL_BYTES + number(shared_bytes) }
}
