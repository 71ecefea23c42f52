//! Floating-point formats of at most 8 bits. Graphs have no such element types: a value of such a type is
//! held as the number that its bits are (its *code*), and [`crate::Unary::Encode`] and
//! [`crate::Unary::Decode`] lead from f32 to codes and back.
//!
//! Sources: ONNX, "Float stored in 8 bits" and the tables of `Cast`; OCP Microscaling Formats 1.0.

/// A format. A code has the sign on top (but for [`SmallFloat::E8M0`]), then exponent and mantissa.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmallFloat {
    /// 4 bits of exponent and 3 of mantissa, no infinities.
    E4M3Fn,
    /// The same without a negative zero, whose code is the only NaN.
    E4M3Fnuz,
    /// 5 bits of exponent and 2 of mantissa: the upper half of an f16.
    E5M2,
    /// The same without infinities and negative zero, whose code is the only NaN.
    E5M2Fnuz,
    /// A power of two without a sign: nothing but 8 bits of exponent.
    E8M0,
    /// 2 bits of exponent and 1 of mantissa in 4 bits, neither infinities nor NaN.
    E2M1,
}

/// How numbers between two powers of two become [`SmallFloat::E8M0`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To the larger one.
    Up,
    /// To the smaller one.
    Down,
    /// To the nearer one; from the middle to the larger.
    Nearest,
}

/// How numbers become codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encoding {
    /// The format.
    pub format: SmallFloat,
    /// Whether numbers beyond the largest one, and infinities, become that; else they become infinite, or NaN
    /// where there are no infinities. [`SmallFloat::E2M1`] has neither and always saturates.
    pub saturate: bool,
    /// Of [`SmallFloat::E8M0`] alone: all others round to the nearest, ties to even.
    pub rounding: Rounding,
}

/// What tells apart the formats with a sign.
struct Layout {
    mantissa: u32,
    bias: i32,
    /// The code of the largest number.
    largest: i32,
    /// What is beyond it.
    beyond: u8,
    nan: u8,
    /// Whether −0 and the sign of NaN exist.
    signed: bool,
}

impl SmallFloat {
    /// Every format.
    pub const ALL: [SmallFloat; 6] = [
        SmallFloat::E4M3Fn,
        SmallFloat::E4M3Fnuz,
        SmallFloat::E5M2,
        SmallFloat::E5M2Fnuz,
        SmallFloat::E8M0,
        SmallFloat::E2M1,
    ];

    /// Bits of a code.
    pub fn bits(self) -> u32 {
        if self == SmallFloat::E2M1 { 4 } else { 8 }
    }

    /// The number that a code is; bits above those of the format do not count.
    #[inline]
    pub fn decode(self, code: u8) -> f32 {
        if self == SmallFloat::E8M0 {
            return match code {
                0 => f32::from_bits(1 << 22),
                255 => f32::NAN,
                code => f32::from_bits(u32::from(code) << 23),
            };
        }
        let layout = self.layout();
        let sign = 1u8 << (self.bits() - 1);
        let (magnitude, negative) = (i32::from(code & (sign - 1)), code & sign != 0);
        let special = match self {
            SmallFloat::E4M3Fn => (magnitude == 0x7F).then_some(f32::NAN),
            SmallFloat::E5M2 if magnitude > 0x7C => Some(f32::NAN),
            SmallFloat::E5M2 => (magnitude == 0x7C).then_some(f32::INFINITY),
            SmallFloat::E2M1 => None,
            _ if negative && magnitude == 0 => return f32::NAN,
            _ => None,
        };
        let (exponent, rest) = (magnitude >> layout.mantissa, magnitude & ((1 << layout.mantissa) - 1));
        let hidden = if exponent == 0 { 0 } else { 1 << layout.mantissa };
        let scale = power_of_two(exponent.max(1) - layout.bias - layout.mantissa as i32);
        let value = special.unwrap_or((hidden + rest) as f32 * scale);
        if negative { -value } else { value }
    }

    fn layout(self) -> Layout {
        let of = |mantissa, bias, largest, beyond, nan, signed| Layout {
            mantissa,
            bias,
            largest,
            beyond,
            nan,
            signed,
        };
        match self {
            SmallFloat::E4M3Fn => of(3, 7, 0x7E, 0x7F, 0x7F, true),
            SmallFloat::E4M3Fnuz => of(3, 8, 0x7F, 0x80, 0x80, false),
            SmallFloat::E5M2 => of(2, 15, 0x7B, 0x7C, 0x7E, true),
            SmallFloat::E5M2Fnuz => of(2, 16, 0x7F, 0x80, 0x80, false),
            // What is no number is −0, as in ONNX's reference.
            SmallFloat::E2M1 => of(1, 1, 0x7, 0x7, 0x8, true),
            SmallFloat::E8M0 => unreachable!("it has no sign"),
        }
    }
}

impl Encoding {
    /// The code of a number.
    #[inline]
    pub fn encode(self, x: f32) -> u8 {
        if self.format == SmallFloat::E8M0 {
            return self.power(x);
        }
        let layout = self.format.layout();
        let negative = if x.is_sign_negative() { 1u8 << (self.format.bits() - 1) } else { 0 };
        let sign = if layout.signed { negative } else { 0 };
        if x.is_nan() {
            return layout.nan | sign;
        }
        let (size, least) = (x.abs(), 1 - layout.bias);
        // No format goes as far as this, and steps of what is smaller are normal numbers.
        if size <= 65536.0 {
            let exponent = ((size.to_bits() >> 23) as i32 - 127).max(least);
            let steps = (size * power_of_two(layout.mantissa as i32 - exponent)).round_ties_even() as i32;
            let code = ((exponent - least) << layout.mantissa) + steps;
            if code <= layout.largest {
                return code as u8 | if code == 0 { sign } else { negative };
            }
        }
        match self.saturate || self.format == SmallFloat::E2M1 {
            true => layout.largest as u8 | negative,
            false => layout.beyond | sign,
        }
    }

    /// Of [`SmallFloat::E8M0`]; of a negative number that of its size, which ONNX leaves open.
    #[inline]
    fn power(self, x: f32) -> u8 {
        const LEAST: u32 = 1 << 22;
        let bits = x.abs().to_bits();
        let (exponent, mantissa) = (bits >> 23, bits & ((1 << 23) - 1));
        let outside = |limit: u8| if self.saturate { limit } else { 255 };
        match exponent {
            255 if mantissa != 0 => 255,
            255 => outside(254),
            0 if mantissa < LEAST => outside(0),
            _ => {
                // Below the least normal number, 2⁻¹²⁷ to 2⁻¹²⁶ are the upper half of the mantissas.
                let (rest, middle) =
                    if exponent == 0 { (mantissa - LEAST, LEAST / 2) } else { (mantissa, LEAST) };
                let up = match self.rounding {
                    Rounding::Up => rest > 0,
                    Rounding::Down => false,
                    Rounding::Nearest => rest >= middle,
                };
                match exponent + u32::from(up) {
                    255 => outside(254),
                    code => code as u8,
                }
            }
        }
    }
}

/// 2ⁿ for n in −126..=127.
#[inline]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(format: SmallFloat, saturate: bool) -> Encoding {
        Encoding { format, saturate, rounding: Rounding::Up }
    }

    #[test]
    fn every_code_survives_both_ways() {
        for format in SmallFloat::ALL {
            for code in 0..=((1u32 << format.bits()) - 1) as u8 {
                let value = format.decode(code);
                let back = encoding(format, false).encode(value);
                match value.is_nan() {
                    true => assert!(format.decode(back).is_nan(), "{format:?} {code:#x}"),
                    false => assert_eq!(back, code, "{format:?} {value}"),
                }
            }
        }
    }

    /// The nearest of all finite codes, by search; of two the even one.
    fn nearest(format: SmallFloat, x: f32) -> u8 {
        let half = 1u8 << (format.bits() - 1);
        let finite = |code: &u8| format.decode(*code).is_finite();
        let distance = |code: u8| (f64::from(format.decode(code)) - f64::from(x.abs())).abs();
        let codes = (0..half).filter(finite);
        let best = codes.min_by(|&a, &b| {
            let even = |code: u8| code & 1;
            distance(a).total_cmp(&distance(b)).then(even(a).cmp(&even(b)))
        });
        best.unwrap()
    }

    #[test]
    fn numbers_become_the_nearest_code() {
        let mut rng = reef_base::Rng::new(7);
        for format in SmallFloat::ALL.into_iter().filter(|&format| format != SmallFloat::E8M0) {
            let highest = format.decode(format.layout().largest as u8);
            let mut values: Vec<f32> = (0..4000)
                .map(|_| f32::from_bits(rng.next_u64() as u32))
                .filter(|x| x.is_finite() && x.abs() < 1e5)
                .collect();
            // The middles between neighbours, and what is next to them.
            for code in 0..format.layout().largest as u8 {
                let middle = (format.decode(code) + format.decode(code + 1)) / 2.0;
                values.extend([middle, middle.next_up(), middle.next_down(), -middle]);
            }
            for x in values {
                let code = encoding(format, true).encode(x);
                let size = code & ((1 << (format.bits() - 1)) - 1);
                assert_eq!(size, nearest(format, x.clamp(-highest, highest)), "{format:?} {x}");
                assert_eq!(format.decode(code) < 0.0, x < 0.0 && size != 0, "{format:?} {x}");
            }
        }
    }

    #[test]
    fn ends_are_those_of_the_tables() {
        use SmallFloat::*;
        let infinite = f32::INFINITY;
        for (format, x, saturated, plain) in [
            (E4M3Fn, infinite, 0x7E, 0x7F),
            (E4M3Fn, -1e6, 0xFE, 0xFF),
            (E4M3Fn, -0.0, 0x80, 0x80),
            (E4M3Fn, 464.0, 0x7E, 0x7E),
            (E4M3Fn, 465.0, 0x7E, 0x7F),
            (E4M3Fnuz, -infinite, 0xFF, 0x80),
            (E4M3Fnuz, -1e-9, 0, 0),
            (E4M3Fnuz, f32::NAN, 0x80, 0x80),
            (E5M2, 1e6, 0x7B, 0x7C),
            (E5M2, -infinite, 0xFB, 0xFC),
            (E5M2Fnuz, 1e6, 0x7F, 0x80),
            (E2M1, -9.0, 0xF, 0xF),
            (E2M1, 0.25, 0, 0),
            (E2M1, 0.75, 2, 2),
            (E8M0, 0.0, 0, 255),
            (E8M0, infinite, 254, 255),
            (E8M0, 1.1, 128, 128),
            (E8M0, f32::MAX, 254, 255),
            (E8M0, 1e-45, 0, 255),
        ] {
            assert_eq!(encoding(format, true).encode(x), saturated, "{format:?} {x}");
            assert_eq!(encoding(format, false).encode(x), plain, "{format:?} {x}");
        }
        let power = |x: f32, rounding| Encoding { format: E8M0, saturate: true, rounding }.encode(x);
        assert_eq!([1.5, 1.49, 2.0].map(|x| power(x, Rounding::Nearest)), [128, 127, 128]);
        assert_eq!([1.99, 2.0].map(|x| power(x, Rounding::Down)), [127, 128]);
        let low = f32::from_bits(1 << 22);
        assert_eq!([low, low * 1.5, low.next_up()].map(|x| power(x, Rounding::Nearest)), [0, 1, 0]);
        assert_eq!([low, low.next_up()].map(|x| power(x, Rounding::Up)), [0, 1]);
    }
}
