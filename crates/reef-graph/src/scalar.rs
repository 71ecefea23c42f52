//! Scalar functions in double precision, and elements of every type as `f64` or `i64`. Slow and plain: the
//! two interpreters and constant folding are made of them; of kernels only those of f64 are.

use crate::{Binary, DType, Tensor, Unary};
use half::{bf16, f16};

/// The error function, to about 1e-15.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 6.0 {
        return x.signum();
    }
    if x.abs() < 2.5 {
        // Maclaurin series.
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            let next = sum + term / f64::from(2 * n + 1);
            if next == sum {
                break;
            }
            sum = next;
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    // Continued fraction of erfc, from the inside.
    let a = x.abs();
    let fraction = (1..80).rev().fold(a, |inner, n| a + f64::from(n) / 2.0 / inner);
    (1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
}

/// A function of one float.
pub fn unary(function: Unary, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let hard_sigmoid = |x: f64, alpha: f64, beta: f64| (alpha * x + beta).clamp(0.0, 1.0);
    match function {
        Unary::Relu if x < 0.0 => 0.0,
        Unary::Relu => x,
        Unary::LeakyRelu(alpha) => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x
            }
        }
        Unary::Elu(alpha) => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x.exp_m1()
            }
        }
        Unary::Clip(lo, hi) => {
            let lifted = if x < f64::from(lo) { f64::from(lo) } else { x };
            if lifted > f64::from(hi) { f64::from(hi) } else { lifted }
        }
        Unary::Sigmoid => sigmoid(x),
        Unary::HardSigmoid(alpha, beta) => hard_sigmoid(x, f64::from(alpha), f64::from(beta)),
        Unary::Silu => x * sigmoid(x),
        Unary::HardSwish => x * hard_sigmoid(x, 1.0 / 6.0, 0.5),
        Unary::Tanh => x.tanh(),
        Unary::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Unary::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
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
        Unary::Sign if x == 0.0 || x.is_nan() => x,
        Unary::Sign => x.signum(),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tan => x.tan(),
        Unary::Asin => x.asin(),
        Unary::Acos => x.acos(),
        Unary::Atan => x.atan(),
        Unary::Sinh => x.sinh(),
        Unary::Cosh => x.cosh(),
        Unary::Asinh => asinh(x),
        Unary::Acosh => acosh(x),
        Unary::Atanh => atanh(x),
        Unary::BitNot => f64::NAN,
        Unary::Not => f64::from(x == 0.0),
        Unary::Encode(encoding) => f64::from(encoding.encode(x as f32)),
        Unary::Decode(format) => f64::from(format.decode(x as u8)),
    }
}

/// A function of one integer or boolean, for the functions that have a meaning there.
pub fn unary_int(function: Unary, x: i64) -> Option<i64> {
    Some(match function {
        Unary::Relu => x.max(0),
        Unary::Clip(lo, hi) => x.max(lo as i64).min(hi as i64),
        Unary::Square => x.wrapping_mul(x),
        Unary::Abs => x.wrapping_abs(),
        Unary::Neg => x.wrapping_neg(),
        Unary::Sign => x.signum(),
        Unary::Floor | Unary::Ceil | Unary::Round => x,
        Unary::Not => i64::from(x == 0),
        Unary::BitNot => !x,
        _ => return None,
    })
}

/// The same of an integer of this type; those of u64 are in the bits of an i64.
pub fn unary_of(function: Unary, dtype: DType, x: i64) -> Option<i64> {
    match function {
        Unary::Relu | Unary::Abs if dtype == DType::U64 => Some(x),
        Unary::Sign if dtype == DType::U64 => Some(i64::from(x != 0)),
        _ => unary_int(function, x).map(|value| wrap(value, dtype)),
    }
}

/// Without the loss that a sum of squares has where x is large or small.
fn asinh(x: f64) -> f64 {
    let a = x.abs();
    let value = match a {
        _ if a > 1e9 => a.ln() + std::f64::consts::LN_2,
        _ => (a + a * a / (1.0 + (a * a + 1.0).sqrt())).ln_1p(),
    };
    value.copysign(x)
}

fn acosh(x: f64) -> f64 {
    match x {
        _ if x < 1.0 => f64::NAN,
        _ if x > 1e9 => x.ln() + std::f64::consts::LN_2,
        _ => {
            let above = x - 1.0;
            (above + (above * (x + 1.0)).sqrt()).ln_1p()
        }
    }
}

fn atanh(x: f64) -> f64 {
    let a = x.abs();
    (0.5 * (2.0 * a / (1.0 - a)).ln_1p()).copysign(x)
}

/// What is left of a quotient rounded towards −∞.
fn floored(a: f64, b: f64) -> f64 {
    match a % b {
        rest if rest == 0.0 => rest.copysign(b),
        rest if (rest < 0.0) != (b < 0.0) => rest + b,
        rest => rest,
    }
}

/// A function of two floats; comparisons give 0 or 1. Functions of bits have no meaning, and give no number.
pub fn binary(function: Binary, a: f64, b: f64) -> f64 {
    match function {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => larger(a, b),
        Binary::Min => smaller(a, b),
        Binary::Pow => a.powf(b),
        Binary::Mod => floored(a, b),
        Binary::Rem => a % b,
        Binary::Equal => f64::from(a == b),
        Binary::Less => f64::from(a < b),
        Binary::LessEqual => f64::from(a <= b),
        Binary::Greater => f64::from(a > b),
        Binary::GreaterEqual => f64::from(a >= b),
        Binary::And => f64::from(a != 0.0 && b != 0.0),
        Binary::Or => f64::from(a != 0.0 || b != 0.0),
        Binary::Xor => f64::from((a != 0.0) != (b != 0.0)),
        Binary::BitAnd | Binary::BitOr | Binary::BitXor | Binary::ShiftLeft | Binary::ShiftRight => f64::NAN,
    }
}

/// A function of two integers or booleans; `None` for a quotient by zero.
pub fn binary_int(function: Binary, a: i64, b: i64) -> Option<i64> {
    Some(match function {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        _ if b == 0 && function.divides() => return None,
        Binary::Div => a.wrapping_div(b),
        Binary::Rem => a.wrapping_rem(b),
        Binary::Mod => {
            let rest = a.wrapping_rem(b);
            if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
        }
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::Pow => power(a, b),
        Binary::Equal => i64::from(a == b),
        Binary::Less => i64::from(a < b),
        Binary::LessEqual => i64::from(a <= b),
        Binary::Greater => i64::from(a > b),
        Binary::GreaterEqual => i64::from(a >= b),
        Binary::And => i64::from(a != 0 && b != 0),
        Binary::Or => i64::from(a != 0 || b != 0),
        Binary::Xor => i64::from((a != 0) != (b != 0)),
        Binary::BitAnd => a & b,
        Binary::BitOr => a | b,
        Binary::BitXor => a ^ b,
        Binary::ShiftLeft => shifted(b, |by| a << by),
        Binary::ShiftRight => shifted(b, |by| (a as u64 >> by) as i64),
    })
}

/// The same of two integers of this type, of which those of u64 are in the bits of an i64.
pub fn binary_of(function: Binary, dtype: DType, a: i64, b: i64) -> Option<i64> {
    let (x, y) = (a as u64, b as u64);
    Some(match function {
        _ if dtype != DType::U64 => return binary_int(function, a, b).map(|value| wrap(value, dtype)),
        _ if b == 0 && function.divides() => return None,
        Binary::Div => (x / y) as i64,
        Binary::Rem | Binary::Mod => (x % y) as i64,
        Binary::Max => x.max(y) as i64,
        Binary::Min => x.min(y) as i64,
        Binary::Less => i64::from(x < y),
        Binary::LessEqual => i64::from(x <= y),
        Binary::Greater => i64::from(x > y),
        Binary::GreaterEqual => i64::from(x >= y),
        _ => return binary_int(function, a, b),
    })
}

/// Moved by so many bits of 64.
fn shifted(by: i64, shift: impl FnOnce(u32) -> i64) -> i64 {
    if (0..64).contains(&by) { shift(by as u32) } else { 0 }
}

/// Wrapped; a negative exponent truncates, as the quotient of 1 does.
pub fn power(base: i64, exponent: i64) -> i64 {
    match (base, exponent) {
        (1, _) => 1,
        (-1, n) => 1 - 2 * (n & 1),
        (_, n) if n < 0 => 0,
        (base, n) => {
            let (mut made, mut base, mut rest) = (1i64, base, n);
            while rest > 0 {
                if rest & 1 == 1 {
                    made = made.wrapping_mul(base);
                }
                (base, rest) = (base.wrapping_mul(base), rest >> 1);
            }
            made
        }
    }
}

/// A float as a u64, truncated, in the bits of an i64. A negative one wraps, what is too large does not fit.
pub fn u64_of(x: f64) -> i64 {
    const HALF: f64 = 9_223_372_036_854_775_808.0;
    if x >= HALF { (x - HALF) as i64 ^ i64::MIN } else { x as i64 }
}

/// `value` wrapped to the width of `dtype`.
pub fn wrap(value: i64, dtype: DType) -> i64 {
    match dtype {
        DType::I32 => i64::from(value as i32),
        DType::I16 => i64::from(value as i16),
        DType::I8 => i64::from(value as i8),
        DType::U32 => i64::from(value as u32),
        DType::U16 => i64::from(value as u16),
        DType::U8 => i64::from(value as u8),
        DType::Bool => i64::from(value != 0),
        _ => value,
    }
}

/// One element: floats as `f64`, integers and booleans as `i64`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element {
    /// Of a floating-point type.
    Float(f64),
    /// Of an integer type or a boolean.
    Int(i64),
}

impl Element {
    /// The elements of a tensor, in row-major order.
    pub fn all(tensor: &Tensor) -> Vec<Element> {
        let dtype = tensor.dtype();
        tensor
            .bytes()
            .as_slice()
            .chunks_exact(dtype.bytes())
            .map(|bytes| Element::read(dtype, bytes))
            .collect()
    }

    /// As a float.
    pub fn float(self) -> f64 {
        match self {
            Element::Float(value) => value,
            Element::Int(value) => value as f64,
        }
    }

    /// As an integer, truncated.
    pub fn int(self) -> i64 {
        match self {
            Element::Float(value) => value as i64,
            Element::Int(value) => value,
        }
    }

    /// The element of type `dtype` in `bytes`.
    pub fn read(dtype: DType, bytes: &[u8]) -> Element {
        macro_rules! read {
            ($kind:ident, $t:ty, $wide:ty) => {
                Element::$kind(<$wide>::from(bytemuck::pod_read_unaligned::<$t>(bytes)))
            };
        }
        match dtype {
            DType::F32 => read!(Float, f32, f64),
            DType::F16 => read!(Float, f16, f64),
            DType::BF16 => read!(Float, bf16, f64),
            DType::F64 => read!(Float, f64, f64),
            DType::I64 => read!(Int, i64, i64),
            DType::I32 => read!(Int, i32, i64),
            DType::I16 => read!(Int, i16, i64),
            DType::I8 => read!(Int, i8, i64),
            DType::U64 => Element::Int(bytemuck::pod_read_unaligned::<u64>(bytes) as i64),
            DType::U32 => read!(Int, u32, i64),
            DType::U16 => read!(Int, u16, i64),
            DType::U8 | DType::Bool => read!(Int, u8, i64),
        }
    }

    /// Stores the element as `dtype`: floats rounded, integers wrapped, numbers converted.
    pub fn write(self, dtype: DType, bytes: &mut [u8]) {
        match dtype {
            DType::F32 => bytes.copy_from_slice(&(self.float() as f32).to_le_bytes()),
            DType::F16 => bytes.copy_from_slice(&f16::from_f32(self.float() as f32).to_le_bytes()),
            DType::BF16 => bytes.copy_from_slice(&bf16::from_f32(self.float() as f32).to_le_bytes()),
            DType::F64 => bytes.copy_from_slice(&self.float().to_le_bytes()),
            DType::Bool => bytes[0] = u8::from(self.float() != 0.0),
            _ => bytes.copy_from_slice(&self.int().to_le_bytes()[..dtype.bytes()]),
        }
    }
}

/// The larger one; a NaN wins.
pub fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// The smaller one; a NaN wins.
pub fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_agrees_with_tables() {
        for (x, expected) in [(0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (2.6, 0.9997639655834707)]
        {
            assert!((erf(x) - expected).abs() < 1e-12, "erf {x} = {}", erf(x));
            assert!((erf(-x) + expected).abs() < 1e-12);
        }
    }

    #[test]
    fn elements_survive_their_type() {
        let mut bytes = [0; 8];
        for dtype in DType::ALL {
            Element::Int(1).write(dtype, &mut bytes[..dtype.bytes()]);
            assert_eq!(Element::read(dtype, &bytes[..dtype.bytes()]).int(), 1, "{dtype}");
        }
        Element::Int(-1).write(DType::U8, &mut bytes[..1]);
        assert_eq!(Element::read(DType::U8, &bytes[..1]), Element::Int(wrap(-1, DType::U8)));
    }
}
