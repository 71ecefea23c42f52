//! What kernels are given: plain data, as the kernels declare it. Sizes are checked where they are compiled.

use bytemuck::{Pod, Zeroable};
use reef_graph::{Binary, DType};
use reef_plan::{ConvSpec, ElemOp, ElementwiseSpec, Kernel, KernelSpec, Place, Region};

use crate::cut::{CONV_COLUMNS, CONV_ROWS};
use crate::driver::Grid;
use crate::pack::Rows;
use crate::scalar::Function;

/// Sizes of what the host and the kernels both declare, by the names that the kernels check them under.
pub(crate) const SIZES: [(&str, usize); 4] = [
    ("CONV_DESCRIPTOR_BYTES", size_of::<ConvDescriptor>()),
    ("ELEMENTWISE_DESCRIPTOR_BYTES", size_of::<ElementwiseDescriptor>()),
    ("LAUNCH_BYTES", size_of::<Launch>()),
    ("REPORT_BYTES", size_of::<Report>()),
];

/// Threads that compute in a block.
pub(crate) const THREADS: u32 = 256;
/// Bytes of shared memory that belong to the executor.
const CONTROL_BYTES: u32 = 128;
/// Products that a block of a convolution has in shared memory at a time, and what a column of pixels takes.
const CONV_DEPTH: usize = 16;
const CONV_PITCH: usize = CONV_ROWS + 4;

/// Descriptors begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 16;

const RANK_MAX: usize = 8;
const INPUTS_MAX: usize = 8;
const STEPS_MAX: usize = 32;

/// A launch of a kernel by the queued executor.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Launch {
    /// Address of the descriptor.
    pub(crate) descriptor: u64,
    /// Address of the task's memory.
    pub(crate) base: u64,
    /// Address of the word that keeps blocks from starting.
    pub(crate) evicted: u64,
    /// Address of the count of blocks that are through.
    pub(crate) arrivals: u64,
    /// Address of the report.
    pub(crate) report: u64,
    pub(crate) number: u32,
    pub(crate) blocks: u32,
}

/// How a launch ended.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Report {
    /// On the device's clock.
    pub(crate) begun_ns: u64,
    pub(crate) ended_ns: u64,
    /// Blocks that did not start.
    pub(crate) skipped: u32,
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

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct ConvDescriptor {
    x: Operand,
    weights: Operand,
    bias: Operand,
    residual: Operand,
    y: Operand,
    in_hw: [u32; 2],
    in_pixel_stride: u32,
    out_hw: [u32; 2],
    out_pixel_stride: u32,
    kernel: [u32; 2],
    strides: [u32; 2],
    pads: [u32; 2],
    dilations: [u32; 2],
    inputs: u32,
    outputs: u32,
    depth: u32,
    weight_stride: u32,
    rows: u32,
    row_tiles: u32,
    column_tiles: u32,
    has_bias: u32,
    residual_pixel_stride: u32,
    activation: Function,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Step {
    kind: u32,
    a: u32,
    b: u32,
    function: Function,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
struct Input {
    operand: Operand,
    strides: [i64; RANK_MAX],
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct ElementwiseDescriptor {
    y: Operand,
    inputs: [Input; INPUTS_MAX],
    out_strides: [i64; RANK_MAX],
    elements: u64,
    dims: [u32; RANK_MAX],
    rank: u32,
    tile: u32,
    copied_bytes: u32,
    step_count: u32,
    steps: [Step; STEPS_MAX],
}

/// Where the places of a plan are for its tasks.
pub(crate) trait Placing {
    /// Bytes from the start of a task's memory to a place; `None` for weights.
    fn offset(&self, place: Place) -> Option<u64>;
    /// The address of a weight.
    fn weight(&self, index: u32) -> u64;
}

fn operand(placing: &dyn Placing, region: &Region, elements: u64) -> Operand {
    let more = region.offset as u64 + elements;
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

/// Functions that [`describe`] names.
pub(crate) const FUNCTIONS: [&str; 2] = [CONV, ELEMENTWISE];
/// The function that only reports.
pub(crate) const MARK: &str = "reef_queue_mark";
const CONV: &str = "reef_queue_conv";
const ELEMENTWISE: &str = "reef_queue_elementwise";

/// Describes a kernel; the error says what the device has no code for.
pub(crate) fn describe(kernel: &Kernel, placing: &dyn Placing) -> Result<Described, String> {
    match &kernel.spec {
        KernelSpec::Conv(spec) => Ok(conv(kernel, spec, placing)),
        KernelSpec::Elementwise(spec) => elementwise(kernel, spec, placing),
        other => Err(format!("the device has no {} kernel yet", other.name())),
    }
}

fn conv(kernel: &Kernel, spec: &ConvSpec, placing: &dyn Placing) -> Described {
    let number = |value: usize| value as u32;
    let pair = |values: [usize; 2]| values.map(number);
    let at = |index: usize| operand(placing, &kernel.reads[index], 0);
    let Epilogue { bias, residual } = Epilogue::of(spec);
    let descriptor = ConvDescriptor {
        x: at(0),
        weights: at(1),
        bias: bias.map_or(Operand::default(), at),
        residual: residual.map_or(Operand::default(), at),
        y: operand(placing, &kernel.writes[0], 0),
        in_hw: pair(spec.in_hw),
        in_pixel_stride: number(spec.in_pixel_stride),
        out_hw: pair(spec.out_hw),
        out_pixel_stride: number(spec.out_pixel_stride),
        kernel: pair(spec.kernel),
        strides: pair(spec.strides),
        pads: pair(spec.pads),
        dilations: pair(spec.dilations),
        inputs: number(spec.in_c / spec.groups),
        outputs: number(spec.out_c / spec.groups),
        depth: number(spec.depth()),
        weight_stride: number(Rows::stride(spec.matrices())),
        rows: number(spec.rows()),
        row_tiles: number(spec.rows().div_ceil(CONV_ROWS)),
        column_tiles: number((spec.out_c / spec.groups).div_ceil(CONV_COLUMNS)),
        has_bias: u32::from(bias.is_some()),
        residual_pixel_stride: spec.epilogue.residual_pixel_stride.map_or(0, number),
        activation: spec.epilogue.activation.map_or(Function::NONE, Function::of),
    };
    let shared_bytes = CONTROL_BYTES + (CONV_DEPTH * (CONV_PITCH + CONV_COLUMNS) * size_of::<f32>()) as u32;
    Described { function: CONV, descriptor: bytemuck::bytes_of(&descriptor).to_vec(), shared_bytes }
}

/// Which operands an epilogue reads.
struct Epilogue {
    bias: Option<usize>,
    residual: Option<usize>,
}

impl Epilogue {
    fn of(spec: &ConvSpec) -> Epilogue {
        let bias = spec.epilogue.bias.then_some(2);
        let residual = spec.epilogue.residual_pixel_stride.map(|_| 2 + usize::from(bias.is_some()));
        Epilogue { bias, residual }
    }
}

fn elementwise(kernel: &Kernel, spec: &ElementwiseSpec, placing: &dyn Placing) -> Result<Described, String> {
    let copied = matches!(spec.program[..], [ElemOp::Load(0)] if spec.inputs[0].dtype == spec.out_dtype);
    let dtypes = spec.inputs.iter().map(|input| input.dtype).chain([spec.out_dtype]);
    if let Some(other) = dtypes.into_iter().find(|&dtype| dtype != DType::F32).filter(|_| !copied) {
        return Err(format!("the device has no element-wise kernel for {other} yet"));
    }
    let bounded = |what: &str, count: usize, most: usize| match count <= most {
        true => Ok(()),
        false => Err(format!("an element-wise kernel of {count} {what}, the device's has {most}")),
    };
    bounded("axes", spec.dims.len(), RANK_MAX)?;
    bounded("inputs", spec.inputs.len(), INPUTS_MAX)?;
    bounded("steps", spec.program.len(), STEPS_MAX)?;
    let mut descriptor = ElementwiseDescriptor {
        y: operand(placing, &kernel.writes[0], 0),
        elements: spec.elements() as u64,
        rank: spec.dims.len() as u32,
        tile: spec.tile as u32,
        copied_bytes: if copied { spec.out_dtype.bytes() as u32 } else { 0 },
        step_count: spec.program.len() as u32,
        ..ElementwiseDescriptor::zeroed()
    };
    for (axis, &extent) in spec.dims.iter().enumerate() {
        descriptor.dims[axis] = extent as u32;
        descriptor.out_strides[axis] = spec.out_strides[axis] as i64;
    }
    for (index, input) in spec.inputs.iter().enumerate() {
        let skipped = (input.offset * input.dtype.bytes()) as u64;
        descriptor.inputs[index].operand = operand(placing, &kernel.reads[index], skipped);
        for (axis, &stride) in input.strides.iter().enumerate() {
            descriptor.inputs[index].strides[axis] = stride as i64;
        }
    }
    for (index, op) in spec.program.iter().enumerate().filter(|_| !copied) {
        descriptor.steps[index] = step(op)?;
    }
    let descriptor = bytemuck::bytes_of(&descriptor).to_vec();
    Ok(Described { function: ELEMENTWISE, descriptor, shared_bytes: CONTROL_BYTES })
}

fn step(op: &ElemOp) -> Result<Step, String> {
    let of = |kind, a: usize, b: usize| Step { kind, a: a as u32, b: b as u32, function: Function::NONE };
    Ok(match *op {
        ElemOp::Load(input) => of(0, input, 0),
        ElemOp::ConstF32(a) => Step { function: Function { a, ..Function::NONE }, ..of(1, 0, 0) },
        ElemOp::Unary(function, x) => Step { function: Function::of(function), ..of(2, x, 0) },
        ElemOp::Binary(Binary::Add, a, b) => of(3, a, b),
        ElemOp::Binary(Binary::Sub, a, b) => of(4, a, b),
        ElemOp::Binary(Binary::Mul, a, b) => of(5, a, b),
        ElemOp::Binary(Binary::Div, a, b) => of(6, a, b),
        ElemOp::Binary(Binary::Max, a, b) => of(7, a, b),
        ElemOp::Binary(Binary::Min, a, b) => of(8, a, b),
        ElemOp::Binary(Binary::Pow, a, b) => of(9, a, b),
        ElemOp::Binary(..)
        | ElemOp::ConstI64(_)
        | ElemOp::Where(..)
        | ElemOp::ToF32(_)
        | ElemOp::ToInt(..) => return Err(format!("the device has no element-wise {op:?} yet")),
    })
}
