//! Element-wise programs and copies.

use bytemuck::{Pod, Zeroable};
use reef_graph::{Binary, DType};
use reef_plan::{ElemOp, ElementwiseSpec};

use super::{Described, Operand, Operands, RANK_MAX, described};
use crate::scalar::Function;

const INPUTS_MAX: usize = 8;
pub(crate) const STEPS_MAX: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Step {
    constant: i64,
    kind: u32,
    a: u32,
    b: u32,
    c: u32,
    type_of: u32,
    function: Function,
}

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Input {
    operand: Operand,
    strides: [i64; RANK_MAX],
    type_of: u32,
    reserved: u32,
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
    out_type: u32,
    reserved: u32,
    steps: [Step; STEPS_MAX],
}

pub(super) fn describe(operands: Operands<'_>, spec: &ElementwiseSpec) -> Result<Described, String> {
    let copied = spec.copies();
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
    if !copied {
        descriptor.out_type = type_of(spec.out_dtype)?;
        for (index, input) in spec.inputs.iter().enumerate() {
            descriptor.inputs[index].type_of = type_of(input.dtype)?;
        }
        let mut floats = Vec::with_capacity(spec.program.len());
        for (index, op) in spec.program.iter().enumerate() {
            let (made, is_float) = step(op, spec, &floats);
            descriptor.steps[index] = made;
            floats.push(is_float);
        }
    }
    Ok(described("reef_queue_elementwise", &descriptor, 0))
}

/// The kernel's number of a type.
fn type_of(dtype: DType) -> Result<u32, String> {
    Ok(match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        DType::I64 => 3,
        DType::I32 => 4,
        DType::I16 => 5,
        DType::I8 => 6,
        DType::U64 => 7,
        DType::U32 => 8,
        DType::U16 => 9,
        DType::U8 => 10,
        DType::Bool => 11,
        DType::F64 => return Err(format!("the device has no element-wise kernel for {dtype}")),
    })
}

/// Kinds of steps by the kernel's numbers, of floats and of integers.
const UNARY: [u32; 2] = [3, 18];
const FIRST_BINARY: [u32; 2] = [4, 19];
/// Of what there is of any kind.
const WHERE: u32 = 41;

/// An instruction as the kernel has it, and whether its result is a float; `floats` says so of those before.
fn step(op: &ElemOp, spec: &ElementwiseSpec, floats: &[bool]) -> (Step, bool) {
    let of = |kind, a: usize, b: usize| Step { kind, a: a as u32, b: b as u32, ..Step::default() };
    let kind = |x: usize, kinds: [u32; 2]| kinds[usize::from(!floats[x])];
    match *op {
        ElemOp::Load(input) => (of(0, input, 0), spec.inputs[input].dtype.is_float()),
        ElemOp::ConstF32(a) => (Step { function: Function { a, ..Function::NONE }, ..of(1, 0, 0) }, true),
        ElemOp::ConstI64(constant) => (Step { constant, ..of(2, 0, 0) }, false),
        ElemOp::Unary(function, x) => {
            (Step { function: Function::of(function), ..of(kind(x, UNARY), x, 0) }, floats[x])
        }
        ElemOp::Binary(function, a, b) => {
            let is_float = floats[a] && !function.is_comparison();
            (of(kind(a, FIRST_BINARY) + binary(function), a, b), is_float)
        }
        ElemOp::Where(condition, a, b) => (Step { c: b as u32, ..of(WHERE, condition, a) }, floats[a]),
        // A float stays what it is: the larger of it and itself.
        ElemOp::ToF32(x) if floats[x] => (of(FIRST_BINARY[0] + binary(Binary::Max), x, x), true),
        ElemOp::ToF32(x) => (of(WHERE + 1, x, 0), true),
        ElemOp::ConstF64(_) | ElemOp::ToF64(_) => unreachable!("the host computes doubles"),
        ElemOp::ToRange(x, low, high) => {
            let constant = i64::from(high) << 32 | i64::from(low as u32);
            (Step { constant, ..of(WHERE + 4, x, 0) }, false)
        }
        ElemOp::Narrow(x, dtype) => {
            let type_of = type_of(dtype).expect("floats of 16 bits have numbers");
            (Step { type_of, ..of(WHERE + 5, x, 0) }, true)
        }
        ElemOp::ToInt(x, dtype) => {
            let type_of = type_of(dtype).expect("integers have numbers");
            (Step { type_of, ..of(WHERE + if floats[x] { 2 } else { 3 }, x, 0) }, false)
        }
    }
}

/// The place of a function among the kernel's.
fn binary(function: Binary) -> u32 {
    match function {
        Binary::Add => 0,
        Binary::Sub => 1,
        Binary::Mul => 2,
        Binary::Div => 3,
        Binary::Max => 4,
        Binary::Min => 5,
        Binary::Pow => 6,
        Binary::Mod => 7,
        Binary::Rem => 8,
        Binary::Equal => 9,
        Binary::Less => 10,
        Binary::LessEqual => 11,
        Binary::Greater => 12,
        Binary::GreaterEqual => 13,
        // Of booleans, which are integers.
        Binary::And => 14,
        Binary::Or => 15,
        Binary::Xor => 16,
        Binary::BitAnd => 17,
        Binary::BitOr => 18,
        Binary::BitXor => 19,
        Binary::ShiftLeft => 20,
        Binary::ShiftRight => 21,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of a list of the kernel's.
    fn numbers(list: &str) -> Vec<String> {
        let text = include_str!("../kernels/elementwise.cuh");
        let list = text.split(&format!("enum {list} : unsigned {{")).nth(1).expect("the list is there");
        let list = list.split('}').next().expect("it ends");
        let name = |line: &str| line.trim().strip_suffix(',').map(str::to_string);
        list.lines().filter_map(name).collect()
    }

    #[test]
    fn numbers_are_the_kernels() {
        let (kinds, types) = (numbers("StepKind"), numbers("Type"));
        for (dtype, name) in
            [(DType::F32, "F32"), (DType::BF16, "BF16"), (DType::U64, "U64"), (DType::Bool, "BOOL")]
        {
            assert_eq!(types[type_of(dtype).unwrap() as usize], format!("TYPE_{name}"));
        }
        let binaries = [
            (Binary::Add, "ADD"),
            (Binary::Pow, "POW"),
            (Binary::Mod, "MOD"),
            (Binary::Rem, "REM"),
            (Binary::GreaterEqual, "GREATER_EQUAL"),
        ];
        for (function, name) in binaries {
            assert_eq!(kinds[(FIRST_BINARY[0] + binary(function)) as usize], format!("STEP_{name}"));
            assert_eq!(kinds[(FIRST_BINARY[1] + binary(function)) as usize], format!("STEP_INT_{name}"));
        }
        let of_integers = [
            (Binary::Xor, "XOR"),
            (Binary::BitAnd, "BIT_AND"),
            (Binary::BitOr, "BIT_OR"),
            (Binary::BitXor, "BIT_XOR"),
            (Binary::ShiftLeft, "SHIFT_LEFT"),
            (Binary::ShiftRight, "SHIFT_RIGHT"),
        ];
        for (function, name) in of_integers {
            assert_eq!(kinds[(FIRST_BINARY[1] + binary(function)) as usize], format!("STEP_INT_{name}"));
        }
        let named =
            [(UNARY[0], "UNARY"), (UNARY[1], "INT_UNARY"), (WHERE, "WHERE"), (WHERE + 1, "FLOAT_OF_INT")];
        named.iter().for_each(|(kind, name)| assert_eq!(kinds[*kind as usize], format!("STEP_{name}")));
        let named = [
            (WHERE + 2, "INT_OF_FLOAT"),
            (WHERE + 3, "WRAP"),
            (2, "CONSTANT_INT"),
            (0, "LOAD"),
            (WHERE + 4, "RANGE_OF_FLOAT"),
            (WHERE + 5, "NARROW"),
        ];
        named.iter().for_each(|(kind, name)| assert_eq!(kinds[*kind as usize], format!("STEP_{name}")));
        assert_eq!(kinds.len(), 47);
    }
}
