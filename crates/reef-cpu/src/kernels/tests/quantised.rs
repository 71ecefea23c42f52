//! Element-wise programs through integers of 8 bits: what several instructions do in one pass is what they do
//! one by one.

use reef_base::{AlignedBytes, Rng};
use reef_graph::{Binary, DType, Unary};
use reef_plan::{ElemInput, ElemOp, ElementwiseSpec, KernelSpec};

use super::{Case, Operand, check, random};

const ROWS: usize = 11;
const COLUMNS: usize = 123;

/// A program in the making.
#[derive(Default)]
struct Program(Vec<ElemOp>);

impl Program {
    fn push(&mut self, op: ElemOp) -> usize {
        self.0.push(op);
        self.0.len() - 1
    }

    fn with(&mut self, function: Binary, a: usize, constant: f32) -> usize {
        let constant = self.push(ElemOp::ConstF32(constant));
        self.push(ElemOp::Binary(function, a, constant))
    }

    fn dequantize(&mut self, integers: usize, zero: f32, scale: f32) -> usize {
        let mut x = self.push(ElemOp::ToF32(integers));
        if zero != 0.0 {
            x = self.with(Binary::Sub, x, zero);
        }
        self.with(Binary::Mul, x, scale)
    }

    fn quantize(&mut self, x: usize, zero: f32, scale: f32, [low, high]: [i32; 2]) -> usize {
        let mut x = self.with(Binary::Div, x, scale);
        if zero != 0.0 {
            x = self.push(ElemOp::Unary(Unary::Round, x));
            x = self.with(Binary::Add, x, zero);
        }
        self.push(ElemOp::ToRange(x, low, high))
    }
}

/// What the interpreter of one element makes of the program, in single precision.
fn value(program: &[ElemOp], loads: &[f32]) -> f32 {
    let mut registers: Vec<f32> = vec![];
    for op in program {
        let value = match *op {
            ElemOp::Load(input) => loads[input],
            ElemOp::ConstF32(value) => value,
            ElemOp::ToF32(a) => registers[a],
            ElemOp::Unary(Unary::Round, a) => registers[a].round_ties_even(),
            ElemOp::Unary(Unary::Relu, a) => registers[a].max(0.0),
            ElemOp::Binary(Binary::Add, a, b) => registers[a] + registers[b],
            ElemOp::Binary(Binary::Sub, a, b) => registers[a] - registers[b],
            ElemOp::Binary(Binary::Mul, a, b) => registers[a] * registers[b],
            ElemOp::Binary(Binary::Div, a, b) => registers[a] / registers[b],
            ElemOp::ToRange(a, low, high) => registers[a].clamp(low as f32, high as f32).round_ties_even(),
            _ => unreachable!("the programs here have no such instruction"),
        };
        registers.push(value);
    }
    *registers.last().expect("a program has instructions")
}

/// Checks a program of two operands of bytes. The second one may be the same for all rows.
fn check_program(name: &str, program: Program, [a, b]: [DType; 2], out: DType, b_rows: bool) {
    let mut rng = Rng::new(5);
    let mut random = |count: usize| (0..count).map(|_| rng.below(256) as u8).collect::<Vec<u8>>();
    let (x, y) = (random(ROWS * COLUMNS), random(if b_rows { ROWS * COLUMNS } else { COLUMNS }));
    let number = |byte: u8, dtype: DType| match dtype {
        DType::I8 => f32::from(byte as i8),
        _ => f32::from(byte),
    };
    let stride = if b_rows { COLUMNS } else { 0 };
    let expected: Vec<(usize, f64)> = (0..ROWS * COLUMNS)
        .map(|at| {
            let other = y[at / COLUMNS * stride + at % COLUMNS];
            (at, f64::from(value(&program.0, &[number(x[at], a), number(other, b)])))
        })
        .collect();
    let spec = ElementwiseSpec {
        dims: vec![ROWS, COLUMNS],
        inputs: vec![
            ElemInput { dtype: a, offset: 0, strides: vec![COLUMNS as isize, 1] },
            ElemInput { dtype: b, offset: 0, strides: vec![stride as isize, 1] },
        ],
        program: program.0.clone(),
        out_dtype: out,
        out_strides: vec![COLUMNS, 1],
        tile: 0,
    };
    let cut = |tile: usize| {
        let spec = ElementwiseSpec { tile, ..spec.clone() };
        move |_| KernelSpec::Elementwise(spec.clone())
    };
    let mut case = Case::f32(name, cut(ROWS * COLUMNS)).cut(cut(97)).cut(cut(1000));
    case.out_dtype = out;
    case.tolerance = 0.0;
    let operands = [x, y].map(|bytes| Operand::Input(AlignedBytes::copy_from(&bytes)));
    case.operands.extend(operands);
    check(&case.expects(ROWS * COLUMNS, expected));
}

#[test]
fn sums_of_quantised_operands() {
    for types in [[DType::U8; 2], [DType::I8; 2], [DType::U8, DType::I8], [DType::I8, DType::U8]] {
        for out in [DType::U8, DType::I8, DType::F32] {
            for relu in [false, true] {
                for b_rows in [true, false] {
                    let mut program = Program::default();
                    let (a, b) = (program.push(ElemOp::Load(0)), program.push(ElemOp::Load(1)));
                    let a = program.dequantize(a, 100.0, 0.031);
                    let b = program.dequantize(b, 0.0, 0.017);
                    let mut x = program.push(ElemOp::Binary(Binary::Add, a, b));
                    if relu {
                        x = program.push(ElemOp::Unary(Unary::Relu, x));
                    }
                    let range = if out == DType::I8 { [-128, 127] } else { [0, 255] };
                    x = program.quantize(x, if out == DType::I8 { -3.0 } else { 0.0 }, 0.021, range);
                    if out == DType::F32 {
                        program.dequantize(x, 7.0, 0.021);
                    }
                    let name = format!("{types:?} to {out}, relu {relu}, rows {b_rows}");
                    check_program(&name, program, types, out, b_rows);
                }
            }
        }
    }
}

/// A number is added to one of the two, and the sum is rounded as it is.
#[test]
fn sums_of_scaled_operands() {
    for types in [[DType::U8; 2], [DType::I8, DType::U8]] {
        for out in [DType::U8, DType::F32] {
            for first in [false, true] {
                let mut program = Program::default();
                let (a, b) = (program.push(ElemOp::Load(0)), program.push(ElemOp::Load(1)));
                let a = program.dequantize(a, 0.0, 0.73);
                let b = program.dequantize(b, 0.0, 0.41);
                let raised = program.with(Binary::Add, a, 3.37);
                let [left, right] = if first { [raised, b] } else { [b, raised] };
                let x = program.push(ElemOp::Binary(Binary::Add, left, right));
                let x = program.push(ElemOp::ToRange(x, 0, 255));
                if out == DType::F32 {
                    program.dequantize(x, 7.0, 0.021);
                }
                check_program(&format!("{types:?} to {out}, {first}"), program, types, out, true);
            }
        }
    }
}

/// Scale and zero point are computed: the same for all.
#[test]
fn quantised_by_operands() {
    for (out, [low, high]) in [(DType::U8, [0, 255]), (DType::I8, [-128, 127])] {
        for with_zero in [false, true] {
            let mut program = Program::default();
            let (x, scale) = (program.push(ElemOp::Load(0)), program.push(ElemOp::Load(1)));
            let mut y = program.push(ElemOp::Binary(Binary::Div, x, scale));
            let mut operands = 2;
            if with_zero {
                let zero = program.push(ElemOp::Load(2));
                let zero = program.push(ElemOp::ToF32(zero));
                y = program.push(ElemOp::Unary(Unary::Round, y));
                y = program.push(ElemOp::Binary(Binary::Add, y, zero));
                operands = 3;
            }
            program.push(ElemOp::ToRange(y, low, high));
            let x: Vec<f32> = random(7, ROWS * COLUMNS).iter().map(|x| x * 40.0).collect();
            let loads = |at: usize| [x[at], 0.37, 5.0];
            let expected = (0..ROWS * COLUMNS).map(|at| (at, f64::from(value(&program.0, &loads(at)))));
            let single = |dtype| ElemInput { dtype, offset: 0, strides: vec![0, 0] };
            let mut inputs =
                vec![ElemInput { dtype: DType::F32, offset: 0, strides: vec![COLUMNS as isize, 1] }];
            inputs.extend([single(DType::F32), single(out)].into_iter().take(operands - 1));
            let spec = ElementwiseSpec {
                dims: vec![ROWS, COLUMNS],
                inputs,
                program: program.0.clone(),
                out_dtype: out,
                out_strides: vec![COLUMNS, 1],
                tile: 0,
            };
            let cut = |tile: usize| {
                let spec = ElementwiseSpec { tile, ..spec.clone() };
                move |_| KernelSpec::Elementwise(spec.clone())
            };
            let name = format!("to {out}, zero {with_zero}");
            let mut case = Case::f32(name, cut(ROWS * COLUMNS)).cut(cut(97)).cut(cut(1000));
            case.out_dtype = out;
            case.tolerance = 0.0;
            let floats = |values: &[f32]| {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Operand::Input(AlignedBytes::copy_from(&bytes))
            };
            case.operands.extend([floats(&x), floats(&[0.37])]);
            if with_zero {
                case.operands.push(Operand::Input(AlignedBytes::copy_from(&[5])));
            }
            check(&case.expects(ROWS * COLUMNS, expected.collect()));
        }
    }
}

#[test]
fn numbers_that_pass_through_integers() {
    for types in [[DType::U8; 2], [DType::I8; 2]] {
        let mut program = Program::default();
        let (a, b) = (program.push(ElemOp::Load(0)), program.push(ElemOp::Load(1)));
        let a = program.dequantize(a, 3.0, 0.5);
        let b = program.dequantize(b, 5.0, 0.25);
        let x = program.push(ElemOp::Binary(Binary::Mul, a, b));
        let x = program.quantize(x, 9.0, 1.5, [0, 255]);
        let x = program.dequantize(x, 9.0, 1.5);
        program.push(ElemOp::Binary(Binary::Add, x, a));
        check_program(&format!("{types:?} on the way"), program, types, DType::F32, true);
    }
}

/// An integer that others read as well stays one.
#[test]
fn integers_that_are_read_twice() {
    let mut program = Program::default();
    let (a, b) = (program.push(ElemOp::Load(0)), program.push(ElemOp::Load(1)));
    let a = program.dequantize(a, 3.0, 0.5);
    let b = program.dequantize(b, 5.0, 0.25);
    let x = program.push(ElemOp::Binary(Binary::Add, a, b));
    let integers = program.quantize(x, 9.0, 1.5, [0, 255]);
    let once = program.dequantize(integers, 9.0, 1.5);
    let again = program.dequantize(integers, 1.0, 0.5);
    program.push(ElemOp::Binary(Binary::Add, once, again));
    check_program("read twice", program, [DType::U8; 2], DType::F32, true);
}
