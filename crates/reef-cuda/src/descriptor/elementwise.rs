//! Element-wise programs and copies.

use bytemuck::{Pod, Zeroable};
use reef_graph::{Binary, DType};
use reef_plan::{ElemOp, ElementwiseSpec};

use super::{Described, Operand, Operands, RANK_MAX, described};
use crate::scalar::Function;

const INPUTS_MAX: usize = 8;
const STEPS_MAX: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Step {
    kind: u32,
    a: u32,
    b: u32,
    function: Function,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Input {
    operand: Operand,
    strides: [i64; RANK_MAX],
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ElementwiseDescriptor {
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

pub(super) fn describe(operands: Operands<'_>, spec: &ElementwiseSpec) -> Result<Described, String> {
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
        y: operands.write(),
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
        descriptor.inputs[index].operand = operands.read_from(index, skipped);
        for (axis, &stride) in input.strides.iter().enumerate() {
            descriptor.inputs[index].strides[axis] = stride as i64;
        }
    }
    for (index, op) in spec.program.iter().enumerate().filter(|_| !copied) {
        descriptor.steps[index] = step(op)?;
    }
    Ok(described("reef_queue_elementwise", &descriptor, 0))
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
