//! Functions of one element: values against f64 references, special values, NaN.

use reef_graph::Unary;

use super::super::math::Map;
use super::super::vector::Vector;
use super::{Case, isas};

const ALL: [Unary; 36] = [
    Unary::Relu,
    Unary::LeakyRelu(0.1),
    Unary::Elu(1.5),
    Unary::Clip(-0.5, 2.0),
    Unary::Sigmoid,
    Unary::HardSigmoid(0.2, 0.5),
    Unary::Silu,
    Unary::HardSwish,
    Unary::Tanh,
    Unary::Gelu,
    Unary::GeluTanh,
    Unary::Erf,
    Unary::Softplus,
    Unary::Exp,
    Unary::Log,
    Unary::Sqrt,
    Unary::Rsqrt,
    Unary::Recip,
    Unary::Square,
    Unary::Abs,
    Unary::Neg,
    Unary::Sign,
    Unary::Floor,
    Unary::Ceil,
    Unary::Round,
    Unary::Sin,
    Unary::Cos,
    Unary::Tan,
    Unary::Asin,
    Unary::Acos,
    Unary::Atan,
    Unary::Sinh,
    Unary::Cosh,
    Unary::Asinh,
    Unary::Acosh,
    Unary::Atanh,
];

/// The function in f64.
pub(super) fn reference(function: Unary, x: f64) -> f64 {
    let hard = |x: f64, alpha: f32, beta: f32| (x * f64::from(alpha) + f64::from(beta)).clamp(0.0, 1.0);
    match function {
        _ if x.is_nan() => x,
        Unary::Relu => x.max(0.0),
        Unary::LeakyRelu(alpha) => {
            if x < 0.0 {
                x * f64::from(alpha)
            } else {
                x
            }
        }
        Unary::Elu(alpha) => {
            if x < 0.0 {
                x.exp_m1() * f64::from(alpha)
            } else {
                x
            }
        }
        Unary::Clip(low, high) => x.max(f64::from(low)).min(f64::from(high)),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::HardSigmoid(alpha, beta) => hard(x, alpha, beta),
        Unary::Silu => x / (1.0 + (-x).exp()),
        Unary::HardSwish => x * hard(x, 1.0 / 6.0, 0.5),
        Unary::Tanh => x.tanh(),
        Unary::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Unary::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Unary::Erf => erf(x),
        Unary::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Square => x * x,
        Unary::Abs => x.abs(),
        Unary::Neg => -x,
        Unary::Sign => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tan => x.sin() / x.cos(),
        Unary::Asin => x.atan2((1.0 - x * x).sqrt()),
        Unary::Acos => (1.0 - x * x).sqrt().atan2(x),
        Unary::Atan => x.atan2(1.0),
        Unary::Sinh => x.sinh(),
        Unary::Cosh => x.cosh(),
        Unary::Asinh => x.asinh(),
        Unary::Acosh => x.acosh(),
        Unary::Atanh => x.atanh(),
        Unary::BitNot => unreachable!("floats have no bits to turn"),
        Unary::Not => f64::from(u8::from(x == 0.0)),
        Unary::Encode(encoding) => f64::from(encoding.encode(x as f32)),
        Unary::Decode(format) => f64::from(format.decode(x as u8)),
    }
}

/// The error function by the series whose terms are all positive.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

fn map<V: Vector>(function: Unary, values: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    // SAFETY: the caller asks only for instruction sets that the machine has.
    unsafe {
        V::enter(Map { function, from: values.as_ptr(), to: out.as_mut_ptr(), count: values.len() });
    }
    out
}

fn each(mut test: impl FnMut(&str, Unary, &dyn Fn(&[f32]) -> Vec<f32>)) {
    for isa in isas() {
        for function in ALL {
            let name = format!("{function:?} on {isa}");
            with_vector!(isa, V => test(&name, function, &|values| map::<V>(function, values)));
        }
    }
}

#[test]
fn functions_agree_with_double_precision() {
    let inputs: Vec<f32> = (-4003..4003).map(|at| at as f32 * 0.0041).collect();
    each(|name, function, map| {
        for (x, value) in inputs.iter().zip(map(&inputs)) {
            let expected = reference(function, f64::from(*x));
            // Where 1 + erf or 1 + tanh cancel, the error is relative to x.
            let scale = match function {
                Unary::Gelu | Unary::GeluTanh => expected.abs().max(f64::from(x.abs())),
                Unary::Sin | Unary::Cos | Unary::HardSigmoid(..) | Unary::HardSwish => 1.0,
                _ => expected.abs().max(1e-30),
            };
            let same = f64::from(value) == expected;
            let fine = same || (f64::from(value) - expected).abs() <= 4e-7 * scale;
            assert!(fine || (value.is_nan() && expected.is_nan()), "{name}({x}): {value}, not {expected}");
        }
    });
}

#[test]
fn small_and_large_arguments() {
    let mut inputs: Vec<f32> = (-38..38).flat_map(|e| [10f32.powi(e), -(10f32.powi(e))]).collect();
    inputs.extend([0.0, 88.0, 88.7, -87.3, -100.0, 1e-40, f32::MAX, f32::MIN_POSITIVE]);
    each(|name, function, map| {
        if matches!(function, Unary::Sin | Unary::Cos | Unary::Tan) {
            return;
        }
        for (x, value) in inputs.iter().zip(map(&inputs)) {
            let expected = reference(function, f64::from(*x)) as f32;
            let error = (f64::from(value) - f64::from(expected)).abs();
            let tail = matches!(function, Unary::Gelu | Unary::GeluTanh) && *x < 0.0;
            // Subnormal results may lose bits; those of a vanishing tail are as good as 0.
            let scale = f64::from(expected.abs()).max(if tail { f64::from(x.abs()) } else { 0.0 });
            let fine = error <= 4e-7 * scale + 2e-38
                || value == expected
                || (value.is_nan() && expected.is_nan())
                || (function == Unary::GeluTanh && x.abs() > 1e12);
            assert!(fine, "{name}({x:e}): {value:e}, not {expected:e}");
        }
    });
}

#[test]
fn codes_of_small_formats_are_those_of_their_meaning() {
    use reef_graph::{Encoding, Rounding, SmallFloat};
    let mut numbers: Vec<f32> = (-300..300).map(|at| at as f32 * 1.7).collect();
    numbers.extend([0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, 1e6, -1e6, 0.75, 464.0]);
    let codes: Vec<f32> = (0..=255u8).map(f32::from).collect();
    for isa in isas() {
        for format in SmallFloat::ALL {
            let decode = Unary::Decode(format);
            let values = with_vector!(isa, V => map::<V>(decode, &codes));
            for (code, value) in (0..=255u8).zip(values) {
                assert_eq!(value.to_bits(), format.decode(code).to_bits(), "{format:?} {code} on {isa}");
            }
            for (saturate, rounding) in [(true, Rounding::Up), (false, Rounding::Nearest)] {
                let encoding = Encoding { format, saturate, rounding };
                let encode = Unary::Encode(encoding);
                let made = with_vector!(isa, V => map::<V>(encode, &numbers));
                for (x, code) in numbers.iter().zip(made) {
                    assert_eq!(code, f32::from(encoding.encode(*x)), "{encoding:?} {x} on {isa}");
                }
            }
        }
    }
}

#[test]
fn infinities_and_nan() {
    each(|name, function, map| {
        let values = map(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        assert!(values[0].is_nan(), "{name}(NaN) is {}", values[0]);
        let (high, low) = match function {
            Unary::Sigmoid | Unary::HardSigmoid(..) => (1.0, 0.0),
            Unary::Tanh | Unary::Erf | Unary::Sign => (1.0, -1.0),
            Unary::Atan => (std::f32::consts::FRAC_PI_2, -std::f32::consts::FRAC_PI_2),
            Unary::Sinh | Unary::Asinh => (f32::INFINITY, f32::NEG_INFINITY),
            Unary::Cosh => (f32::INFINITY, f32::INFINITY),
            Unary::Exp | Unary::Relu | Unary::Softplus => (f32::INFINITY, 0.0),
            Unary::Clip(low, high) => (high, low),
            Unary::Elu(alpha) => (f32::INFINITY, -alpha),
            _ => return,
        };
        assert_eq!(values[1..], [high, low], "{name}");
    });
}

#[test]
#[should_panic(expected = "byte 0 outside")]
fn a_byte_outside_the_output_is_noticed() {
    let case = Case::f32("none", |_| unreachable!("not run")).expects(1, vec![(0, 1.0)]);
    let mut output = vec![super::POISON; 2 * super::LEAD + 4];
    output[super::LEAD..super::LEAD + 4].copy_from_slice(&1f32.to_le_bytes());
    super::compare(&case, &output, "right");
    output[0] = 0;
    super::compare(&case, &output, "touched");
}
