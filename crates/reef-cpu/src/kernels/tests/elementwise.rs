//! Element-wise programs, copies and casts.

use reef_base::AlignedBytes;
use reef_graph::scalar::Element;
use reef_graph::{Binary, DType, Unary};
use reef_plan::{ElemInput, ElemOp, ElementwiseSpec, FaultKind, KernelSpec};

use super::{Bench, BlockEnd, Case, Operand, check, isas, random};

fn input(dtype: DType, offset: usize, strides: &[isize]) -> ElemInput {
    ElemInput { dtype, offset, strides: strides.to_vec() }
}

/// A case over `dims` with a dense output; `value` gets the loop's indices.
fn case(
    name: &str,
    dims: &[usize],
    (inputs, program): (Vec<ElemInput>, Vec<ElemOp>),
    out_dtype: DType,
    value: impl Fn(&[usize]) -> f64,
) -> Case {
    let mut out_strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        out_strides[axis - 1] = out_strides[axis] * dims[axis];
    }
    strided(name, dims, (inputs, program), (out_dtype, out_strides), value)
}

fn strided(
    name: &str,
    dims: &[usize],
    (inputs, program): (Vec<ElemInput>, Vec<ElemOp>),
    (out_dtype, out_strides): (DType, Vec<usize>),
    value: impl Fn(&[usize]) -> f64,
) -> Case {
    let elements: usize = dims.iter().product();
    let mut expected = vec![];
    for flat in 0..elements {
        let mut index = vec![0; dims.len()];
        let mut rest = flat;
        for axis in (0..dims.len()).rev() {
            index[axis] = rest % dims[axis];
            rest /= dims[axis];
        }
        let at = index.iter().zip(&out_strides).map(|(i, stride)| i * stride).sum();
        expected.push((at, value(&index)));
    }
    let out_elements = expected.iter().map(|(at, _)| at + 1).max().unwrap();
    let spec = ElementwiseSpec { dims: dims.to_vec(), inputs, program, out_dtype, out_strides, tile: 0 };
    let cut = |tile: usize| {
        let spec = ElementwiseSpec { tile, ..spec.clone() };
        move |_| KernelSpec::Elementwise(spec.clone())
    };
    let mut case = Case::f32(name, cut(1000)).cut(cut(97)).cut(cut(elements));
    case.out_dtype = out_dtype;
    case.expects(out_elements, expected)
}

fn bytes<T: bytemuck::Pod>(values: &[T]) -> Operand {
    Operand::Input(AlignedBytes::copy_from(bytemuck::cast_slice(values)))
}

#[test]
fn scale_shift_and_relu_by_channel() {
    let (x, scale, shift) = (random(1, 3000), random(2, 60), random(3, 60));
    let program = vec![
        ElemOp::Load(0),
        ElemOp::Load(1),
        ElemOp::Binary(Binary::Mul, 0, 1),
        ElemOp::Load(2),
        ElemOp::Binary(Binary::Add, 2, 3),
        ElemOp::Unary(Unary::Relu, 4),
    ];
    let inputs =
        || vec![input(DType::F32, 0, &[60, 1]), input(DType::F32, 0, &[0, 1]), input(DType::F32, 0, &[0, 1])];
    let value = |i: &[usize]| f64::from((x[i[0] * 60 + i[1]] * scale[i[1]] + shift[i[1]]).max(0.0));
    let dense = case("nhwc", &[50, 60], (inputs(), program.clone()), DType::F32, value);
    check(&dense.input(&x).input(&scale).input(&shift));
    let gaps = strided("gaps", &[50, 60], (inputs(), program.clone()), (DType::F32, vec![64, 1]), value);
    check(&gaps.input(&x).input(&scale).input(&shift));
    // Channels outermost.
    let inputs =
        vec![input(DType::F32, 0, &[50, 1]), input(DType::F32, 0, &[1, 0]), input(DType::F32, 0, &[1, 0])];
    let planes = case("nchw", &[60, 50], (inputs, program), DType::F32, |i| {
        f64::from((x[i[0] * 50 + i[1]] * scale[i[0]] + shift[i[0]]).max(0.0))
    });
    check(&planes.input(&x).input(&scale).input(&shift));
}

#[test]
fn copies_transpositions_and_reversals() {
    let x = random(1, 2 * 3 * 41 * 37);
    let load = vec![ElemOp::Load(0)];
    let plane = 41 * 37;
    let f32s = |strides: &[isize], offset| (vec![input(DType::F32, offset, strides)], load.clone());
    let at = |index: usize| f64::from(x[index]);
    let strides = [3 * plane as isize, 37, 1, plane as isize];
    let to_nhwc = case("nchw to nhwc", &[2, 41, 37, 3], f32s(&strides, 0), DType::F32, |i| {
        at((i[0] * 3 + i[3]) * plane + i[1] * 37 + i[2])
    });
    check(&to_nhwc.input(&x));
    let strides = [3 * plane as isize, 1, 37 * 3, 3];
    let to_nchw = case("nhwc to nchw", &[2, 3, 41, 37], f32s(&strides, 0), DType::F32, |i| {
        at((i[0] * plane + i[2] * 37 + i[3]) * 3 + i[1])
    });
    check(&to_nchw.input(&x));
    let wide =
        case("a wide transposition", &[5, 1517], f32s(&[1, 5], 0), DType::F32, |i| at(i[1] * 5 + i[0]));
    check(&wide.input(&x));
    let back =
        case("backwards", &[4, 300], f32s(&[-300, -1], 1199), DType::F32, |i| at(1199 - i[0] * 300 - i[1]));
    check(&back.input(&x));
    let broadcast = case("one everywhere", &[7, 200], f32s(&[0, 0], 5), DType::F32, |_| at(5));
    check(&broadcast.input(&x));
    let column = strided("into a column", &[60, 20], f32s(&[20, 1], 0), (DType::F32, vec![48, 1]), |i| {
        at(i[0] * 20 + i[1])
    });
    check(&column.input(&x));
    let scalar = case("a scalar", &[1, 1], f32s(&[3, 4], 2), DType::F32, |_| at(2));
    check(&scalar.input(&x));
    let small: Vec<u8> = (0..=255).collect();
    let program = (vec![input(DType::U8, 0, &[1, 16])], load.clone());
    let mut tile = case("bytes", &[16, 16], program, DType::U8, |i| (i[1] * 16 + i[0]) as f64);
    tile.operands.push(bytes(&small));
    check(&tile);
}

#[test]
fn casts() {
    let values = [-1.5f32, 2.5, 0.0, 300.7, -129.2, 1e6, -0.25, 65504.0, 7.0];
    let wrap = |x: f64, low: f64, size: f64| ((x.trunc() - low).rem_euclid(size)) + low;
    let cast = |to: DType, value: &dyn Fn(f64) -> f64| {
        let program = vec![ElemOp::Load(0), ElemOp::ToInt(0, to)];
        let inputs = vec![input(DType::F32, 0, &[1])];
        let case =
            case(&format!("f32 to {to}"), &[9], (inputs, program), to, |i| value(f64::from(values[i[0]])));
        check(&case.input(&values));
    };
    cast(DType::I64, &f64::trunc);
    cast(DType::I32, &f64::trunc);
    cast(DType::I8, &|x| wrap(x, -128.0, 256.0));
    cast(DType::U8, &|x| wrap(x, 0.0, 256.0));
    cast(DType::I16, &|x| wrap(x, -32768.0, 65536.0));
    cast(DType::U32, &|x| wrap(x, 0.0, 4294967296.0));
    cast(DType::Bool, &|x| f64::from(u8::from(x != 0.0)));
    // Half precision by its bits.
    let program = || (vec![input(DType::F32, 0, &[1])], vec![ElemOp::Load(0)]);
    let halves = [0xbe00, 0x4100, 0, 0x5cb3, 0xd80a, 0x7c00, 0xb400, 0x7bff, 0x4700];
    let to_f16 = case("f32 to f16", &[9], program(), DType::F16, |i| f64::from(halves[i[0]]));
    check(&to_f16.input(&values));
    let to_bf16 = case("f32 to bf16", &[9], program(), DType::BF16, |i| {
        f64::from([0xbfc0, 0x4020, 0, 0x4396, 0xc301, 0x4974, 0xbe80, 0x4780, 0x40e0][i[0]])
    });
    check(&to_bf16.input(&values));
    let brains = [0xbfc0, 0x4020, 0, 0x4396, 0xc301, 0x4974, 0xbe80, 0x4780, 0x40e0];
    for (dtype, bits) in [(DType::F16, halves), (DType::BF16, brains)] {
        let program = vec![ElemOp::Load(0), ElemOp::Narrow(0, dtype)];
        let program = (vec![input(DType::F32, 0, &[1])], program);
        let name = format!("f32 rounded to {dtype}");
        let rounded = case(&name, &[9], program, DType::F32, |i| {
            Element::read(dtype, &(bits[i[0]] as u16).to_le_bytes()).float()
        });
        check(&rounded.input(&values));
    }
    let program = (vec![input(DType::F16, 0, &[1])], vec![ElemOp::Load(0)]);
    let mut from_f16 = case("f16 to f32", &[3], program, DType::F32, |i| [-1.5, 2.5, 65504.0][i[0]]);
    from_f16.operands.push(bytes(&[0xbe00u16, 0x4100, 0x7bff]));
    check(&from_f16);
    // An image of bytes, to floats and normalised.
    let image: Vec<u8> = (0..3 * 400).map(|at| (at * 7 % 256) as u8).collect();
    let program = vec![
        ElemOp::Load(0),
        ElemOp::ToF32(0),
        ElemOp::ConstF32(1.0 / 128.0),
        ElemOp::Binary(Binary::Mul, 1, 2),
        ElemOp::ConstF32(1.0),
        ElemOp::Binary(Binary::Sub, 3, 4),
    ];
    let inputs = vec![input(DType::U8, 0, &[1, 400])];
    let mut case = case("image", &[400, 3], (inputs, program), DType::F32, |i| {
        f64::from(image[i[1] * 400 + i[0]]) / 128.0 - 1.0
    });
    case.operands.push(bytes(&image));
    check(&case);
}

#[test]
fn floats_and_integers_mix() {
    let (x, y) = (random(1, 700), random(2, 700));
    let program = vec![
        ElemOp::Load(0),
        ElemOp::Load(1),
        ElemOp::Binary(Binary::Less, 0, 1),
        ElemOp::ConstF32(2.0),
        ElemOp::Binary(Binary::Pow, 0, 3),
        ElemOp::Binary(Binary::Div, 1, 3),
        ElemOp::Where(2, 4, 5),
    ];
    let inputs = || vec![input(DType::F32, 0, &[1]), input(DType::F32, 0, &[1])];
    let choose = case("where", &[700], (inputs(), program), DType::F32, |i| {
        let (x, y) = (f64::from(x[i[0]]), f64::from(y[i[0]]));
        if x < y { x * x } else { y / 2.0 }
    });
    check(&choose.input(&x).input(&y));
    let program = vec![
        ElemOp::Load(0),
        ElemOp::Load(1),
        ElemOp::Binary(Binary::GreaterEqual, 0, 1),
        ElemOp::ConstF32(0.5),
        ElemOp::Binary(Binary::Less, 0, 3),
        ElemOp::Binary(Binary::And, 2, 4),
        ElemOp::Unary(Unary::Not, 5),
    ];
    let logic = case("logic", &[700], (inputs(), program), DType::Bool, |i| {
        f64::from(u8::from(!(x[i[0]] >= y[i[0]] && x[i[0]] < 0.5)))
    });
    check(&logic.input(&x).input(&y));
    let numbers: Vec<i64> = (-300..300).collect();
    let program = vec![
        ElemOp::Load(0),
        ElemOp::ConstI64(7),
        ElemOp::Binary(Binary::Div, 0, 1),
        ElemOp::Binary(Binary::Mul, 2, 0),
        ElemOp::ConstI64(0),
        ElemOp::Binary(Binary::Max, 3, 4),
        ElemOp::ConstI64(-1),
        ElemOp::Binary(Binary::Div, 5, 6),
        ElemOp::Binary(Binary::Sub, 5, 7),
        ElemOp::Binary(Binary::Div, 8, 1),
    ];
    let inputs = vec![input(DType::I64, 0, &[1])];
    let mut integers = case("integers", &[600], (inputs, program), DType::I64, |i| {
        let x = i[0] as i64 - 300;
        ((x / 7 * x) * 2 / 7) as f64
    });
    integers.operands.push(bytes(&numbers));
    check(&integers);
}

/// Registers of three kinds, pieces that slow functions keep short, and results that are stored as they lie.
#[test]
fn doubles() {
    let x: Vec<f64> = random(1, 1300).into_iter().map(f64::from).collect();
    let small = random(2, 1300);
    let program = vec![
        ElemOp::Load(0),
        ElemOp::Load(1),
        ElemOp::ToF64(1),
        ElemOp::Unary(Unary::Erf, 0),
        ElemOp::Binary(Binary::Rem, 3, 2),
        ElemOp::ConstF64(1.0 / 3.0),
        ElemOp::Binary(Binary::Less, 0, 5),
        ElemOp::Where(6, 4, 2),
        ElemOp::Binary(Binary::Div, 7, 5),
    ];
    let inputs = || vec![input(DType::F64, 0, &[65, 1]), input(DType::F32, 0, &[65, 1])];
    let value = |at: usize| {
        let (x, y) = (x[at], f64::from(small[at]));
        let chosen = if x < 1.0 / 3.0 { reef_graph::scalar::unary(Unary::Erf, x) % y } else { y };
        chosen * 3.0
    };
    let mut dense =
        case("doubles", &[20, 65], (inputs(), program.clone()), DType::F64, |i| value(i[0] * 65 + i[1]));
    dense.operands.extend([bytes(&x), bytes(&small)]);
    check(&dense);
    let narrow = [program.clone(), vec![ElemOp::ToF32(8)]].concat();
    let mut narrow = strided("narrowed", &[20, 65], (inputs(), narrow), (DType::F32, vec![80, 1]), |i| {
        f64::from(value(i[0] * 65 + i[1]) as f32)
    });
    narrow.operands.extend([bytes(&x), bytes(&small)]);
    check(&narrow);
    let whole = [program, vec![ElemOp::ToInt(8, DType::I16)]].concat();
    let mut whole = case(
        "truncated",
        &[1300],
        (vec![input(DType::F64, 0, &[1]), input(DType::F32, 0, &[1])], whole),
        DType::I16,
        |i| value(i[0]).trunc(),
    );
    whole.operands.extend([bytes(&x), bytes(&small)]);
    check(&whole);
}

/// In any lane of any piece, and only where integers are divided.
#[test]
fn integers_divided_by_zero_are_the_inputs_fault() {
    let program = vec![ElemOp::Load(0), ElemOp::Load(1), ElemOp::Binary(Binary::Div, 0, 1)];
    let inputs = || vec![input(DType::I64, 0, &[1]), input(DType::I64, 0, &[1])];
    for zero in [Some(0), Some(299), Some(511), Some(512), Some(1299), None] {
        let divisor: Vec<i64> = (0..1300).map(|at| if Some(at) == zero { 0 } else { at + 1 }).collect();
        let mut case = case("quotient", &[1300], (inputs(), program.clone()), DType::I64, |_| 0.0);
        case.operands.extend([bytes(&divisor), bytes(&divisor)]);
        for isa in isas() {
            let mut bench = Bench::new(&case, case.specs[0](isa), isa);
            let ends: Vec<BlockEnd> = (0..bench.blocks()).map(|block| bench.run(block, None).0).collect();
            let failed = ends.iter().find_map(|end| match end {
                BlockEnd::Failed(fault) => {
                    let told = fault.clone().told();
                    Some((told.kind, told.to_string()))
                }
                _ => None,
            });
            let reason = "kernel quotient: Div: an integer is divided by 0; \
                          every element of the divisor must be another number";
            assert_eq!(failed, zero.map(|_| (FaultKind::Input, reason.into())), "a zero at {zero:?}");
        }
    }
    let floats = vec![input(DType::F32, 0, &[1]), input(DType::F32, 0, &[1])];
    let case = case("floats", &[4], (floats, program), DType::F32, |_| f64::INFINITY);
    check(&case.input(&[1.0; 4]).input(&[0.0; 4]));
}

#[test]
fn nan_passes_through_max_and_min() {
    let (x, y) = ([f32::NAN, 1.0, f32::NAN, 3.0], [1.0, f32::NAN, f32::NAN, 2.0]);
    for (op, last) in [(Binary::Max, 3.0), (Binary::Min, 2.0)] {
        let program = vec![ElemOp::Load(0), ElemOp::Load(1), ElemOp::Binary(op, 0, 1)];
        let inputs = vec![input(DType::F32, 0, &[1]), input(DType::F32, 0, &[1])];
        let case =
            case("nan", &[4], (inputs, program), DType::F32, |i| [f64::NAN, f64::NAN, f64::NAN, last][i[0]]);
        check(&case.input(&x).input(&y));
    }
}
