//! Functions of numbers, as ONNX defines them: what [`super::pointwise`] applies to each element.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// The error function, to the last bits of double precision: its series near 0, the continued fraction of its
/// complement elsewhere.
pub(super) fn erf(x: f64) -> f64 {
    let size = x.abs();
    if x.is_nan() || size > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    if size < 2.0 {
        let (mut term, mut sum) = (x, x);
        let mut n = 0.0;
        while term.abs() > sum.abs() * 1e-17 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return sum * 2.0 / PI.sqrt();
    }
    let mut fraction = size;
    for k in (1..=120).rev() {
        fraction = size + f64::from(k) * 0.5 / fraction;
    }
    x.signum() * (1.0 - (-size * size).exp() / (fraction * PI.sqrt()))
}

/// Half of it times the probability of a smaller normal number.
pub(super) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// [`gelu`] by its approximation with a hyperbolic tangent.
pub(super) fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
}

/// `1 / (1 + e⁻ˣ)`.
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + eˣ)` without overflow.
pub(super) fn softplus(x: f64) -> f64 {
    if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() }
}

/// −1, 0 or 1; NaN stays.
pub(super) fn sign(x: f64) -> f64 {
    if x == 0.0 || x.is_nan() { x } else { x.signum() }
}

/// The larger of both, NaN if one is.
pub(super) fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// The smaller of both, NaN if one is.
pub(super) fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

/// The remainder that has the divisor's sign.
pub(super) fn modulo(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if (rest < 0.0 && b > 0.0) || (rest > 0.0 && b < 0.0) { rest + b } else { rest }
}

/// The remainder that has the divisor's sign; `None` of a division by zero.
pub(super) fn modulo_whole(a: i128, b: i128) -> Option<i128> {
    let rest = a.checked_rem(b)?;
    Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
}

/// A power of integers, in wrapping arithmetic; a negative exponent truncates, as the quotient of 1 does.
pub(super) fn power_whole(base: i128, exponent: i128) -> Option<i128> {
    match (base, exponent) {
        (1, _) => return Some(1),
        (-1, n) => return Some(1 - 2 * (n & 1)),
        (0, n) if n < 0 => return None,
        (_, n) if n < 0 => return Some(0),
        _ => {}
    }
    let (mut power, mut factor, mut rest) = (1i128, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            power = power.wrapping_mul(factor);
        }
        factor = factor.wrapping_mul(factor);
        rest >>= 1;
    }
    Some(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_exact_in_double_precision() {
        // From tables of 20 digits.
        let known = [
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (1.9, 0.992_790_429_235_257_5),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
            (1e-10, 1.128_379_167_095_512_6e-10),
        ];
        for (x, expected) in known {
            assert!((erf(x) - expected).abs() <= 3e-16 * expected, "erf({x}) is {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!(erf(f64::NAN).is_nan());
        assert_eq!(erf(f64::INFINITY), 1.0);
    }

    #[test]
    fn softplus_neither_overflows_nor_loses_odd_values() {
        assert_eq!(softplus(1000.0), 1000.0);
        assert!((softplus(-40.0) - (-40f64).exp()).abs() < 1e-30);
    }

    #[test]
    fn powers_of_integers_wrap_and_truncate() {
        assert_eq!(power_whole(3, 33), Some(5_559_060_566_555_523));
        assert_eq!(power_whole(2, -1), Some(0));
        assert_eq!(power_whole(-1, -3), Some(-1));
        assert_eq!(power_whole(0, -1), None);
        assert_eq!(power_whole(2, 64), Some(1 << 64));
    }
}
