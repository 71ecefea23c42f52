//! Functions of elements, by number: the numbers are those of `kernels/scalar.cuh`.

use bytemuck::{Pod, Zeroable};
use reef_graph::{Encoding, Rounding, Unary};

/// A function with its parameters, as kernels have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Function {
    pub(crate) which: u32,
    pub(crate) a: f32,
    pub(crate) b: f32,
}

impl Function {
    /// What gives what it is given.
    pub(crate) const NONE: Function = Function { which: 0, a: 0.0, b: 0.0 };

    pub(crate) fn of(function: Unary) -> Function {
        let plain = |which| Function { which, ..Function::NONE };
        match function {
            Unary::Relu => plain(1),
            Unary::LeakyRelu(a) => Function { which: 2, a, b: 0.0 },
            Unary::Elu(a) => Function { which: 3, a, b: 0.0 },
            Unary::Clip(a, b) => Function { which: 4, a, b },
            Unary::Sigmoid => plain(5),
            Unary::HardSigmoid(a, b) => Function { which: 6, a, b },
            Unary::Silu => plain(7),
            Unary::HardSwish => plain(8),
            Unary::Tanh => plain(9),
            Unary::Gelu => plain(10),
            Unary::GeluTanh => plain(11),
            Unary::Erf => plain(12),
            Unary::Softplus => plain(13),
            Unary::Exp => plain(14),
            Unary::Log => plain(15),
            Unary::Sqrt => plain(16),
            Unary::Rsqrt => plain(17),
            Unary::Recip => plain(18),
            Unary::Square => plain(19),
            Unary::Abs => plain(20),
            Unary::Neg => plain(21),
            Unary::Sign => plain(22),
            Unary::Floor => plain(23),
            Unary::Ceil => plain(24),
            Unary::Round => plain(25),
            Unary::Sin => plain(26),
            Unary::Cos => plain(27),
            Unary::Not => plain(28),
            Unary::Tan => plain(29),
            Unary::Asin => plain(30),
            Unary::Acos => plain(31),
            Unary::Atan => plain(32),
            Unary::Sinh => plain(33),
            Unary::Cosh => plain(34),
            Unary::Asinh => plain(35),
            Unary::Acosh => plain(36),
            Unary::Atanh => plain(37),
            Unary::BitNot => plain(38),
            Unary::Encode(encoding) => Function { which: 39, a: number(encoding), b: 0.0 },
            Unary::Decode(format) => Function { which: 40, a: format as u8 as f32, b: 0.0 },
        }
    }
}

/// How numbers become codes, as a number: format, whether they saturate, how powers of two are rounded.
fn number(encoding: Encoding) -> f32 {
    let rounding = match encoding.rounding {
        Rounding::Up => 0,
        Rounding::Down => 1,
        Rounding::Nearest => 2,
    };
    (encoding.format as u8 + 8 * u8::from(encoding.saturate) + 16 * rounding) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use reef_graph::SmallFloat;

    const CODE: Encoding = Encoding { format: SmallFloat::E5M2, saturate: true, rounding: Rounding::Nearest };

    /// The kernels' own names and numbers.
    fn numbers() -> Vec<String> {
        let text = include_str!("kernels/scalar.cuh");
        let list = text.split("enum Unary : unsigned {").nth(1).expect("the list is there");
        let list = list.split('}').next().expect("it ends");
        list.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect()
    }

    #[test]
    fn numbers_are_the_kernels() {
        let numbers = numbers();
        let named = |function: Unary| numbers[Function::of(function).which as usize].as_str();
        assert_eq!(numbers[Function::NONE.which as usize], "UNARY_NONE");
        let expected = [
            (Unary::Relu, "UNARY_RELU"),
            (Unary::LeakyRelu(0.1), "UNARY_LEAKY_RELU"),
            (Unary::Elu(1.0), "UNARY_ELU"),
            (Unary::Clip(0.0, 6.0), "UNARY_CLIP"),
            (Unary::Sigmoid, "UNARY_SIGMOID"),
            (Unary::HardSigmoid(0.2, 0.5), "UNARY_HARD_SIGMOID"),
            (Unary::Silu, "UNARY_SILU"),
            (Unary::HardSwish, "UNARY_HARD_SWISH"),
            (Unary::Tanh, "UNARY_TANH"),
            (Unary::Gelu, "UNARY_GELU"),
            (Unary::GeluTanh, "UNARY_GELU_TANH"),
            (Unary::Erf, "UNARY_ERF"),
            (Unary::Softplus, "UNARY_SOFTPLUS"),
            (Unary::Exp, "UNARY_EXP"),
            (Unary::Log, "UNARY_LOG"),
            (Unary::Sqrt, "UNARY_SQRT"),
            (Unary::Rsqrt, "UNARY_RSQRT"),
            (Unary::Recip, "UNARY_RECIP"),
            (Unary::Square, "UNARY_SQUARE"),
            (Unary::Abs, "UNARY_ABS"),
            (Unary::Neg, "UNARY_NEG"),
            (Unary::Sign, "UNARY_SIGN"),
            (Unary::Floor, "UNARY_FLOOR"),
            (Unary::Ceil, "UNARY_CEIL"),
            (Unary::Round, "UNARY_ROUND"),
            (Unary::Sin, "UNARY_SIN"),
            (Unary::Cos, "UNARY_COS"),
            (Unary::Not, "UNARY_NOT"),
            (Unary::Tan, "UNARY_TAN"),
            (Unary::Asin, "UNARY_ASIN"),
            (Unary::Acos, "UNARY_ACOS"),
            (Unary::Atan, "UNARY_ATAN"),
            (Unary::Sinh, "UNARY_SINH"),
            (Unary::Cosh, "UNARY_COSH"),
            (Unary::Asinh, "UNARY_ASINH"),
            (Unary::Acosh, "UNARY_ACOSH"),
            (Unary::Atanh, "UNARY_ATANH"),
            (Unary::BitNot, "UNARY_BIT_NOT"),
            (Unary::Encode(CODE), "UNARY_ENCODE"),
            (Unary::Decode(SmallFloat::E2M1), "UNARY_DECODE"),
        ];
        assert_eq!(numbers.len(), expected.len() + 1);
        expected.into_iter().for_each(|(function, name)| assert_eq!(named(function), name));
        let formats =
            include_str!("kernels/scalar.cuh").split("enum SmallFloat : unsigned {").nth(1).unwrap();
        let formats: Vec<&str> = formats.split('}').next().unwrap().split(',').map(str::trim).collect();
        for format in SmallFloat::ALL {
            let name = format!("SMALL_{format:?}").to_uppercase();
            assert_eq!(formats[format as usize], name);
        }
        assert_eq!(number(CODE), 2.0 + 8.0 + 32.0);
    }
}
