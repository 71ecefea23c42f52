//! Sums of products of 8-bit integers, and what follows them before the store.
//!
//! Sums are i32 and wrap, so they are the same in any order. What follows them is f32, each step rounded by
//! itself; whoever computes it has the same bits up to the activation.

use reef_graph::{DType, Unary};

use crate::layout::{At, Matrices};

/// How many elements an operand has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// One for all.
    Tensor,
    /// One for each: row for the left operand's zero points, else output channel (column).
    Each,
}

impl Per {
    /// Elements, where there are `each`.
    pub fn count(self, each: usize) -> usize {
        match self {
            Per::Tensor => 1,
            Per::Each => each,
        }
    }

    /// The element for `index`.
    pub fn at(self, index: usize) -> usize {
        match self {
            Per::Tensor => 0,
            Per::Each => index,
        }
    }
}

/// What happens to a sum before it is stored: `+ bias[channel]` (i32, wrapped), and then perhaps more.
/// Without more the i32 is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IntegerEpilogue {
    /// An i32 by output channel is an operand.
    pub bias: bool,
    /// What happens to it as an f32.
    pub scaled: Option<Scaled>,
}

/// What happens to an integer as an f32: `· factor`, `+ shift[channel]`, rounding as an integer of 8 bits,
/// `+ residual[same place]`, activation, and perhaps back to an integer. Without the last the f32 is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scaled {
    /// Factors (f32) are an operand.
    pub factors: Option<Per>,
    /// An f32 by output channel is an operand, which is added.
    pub shift: bool,
    /// It becomes an integer of 8 bits, and that is read as an f32.
    pub rounding: Option<Rounding>,
    /// A residual is an operand, which is added.
    pub residual: Option<Residual>,
    /// Applied next.
    pub activation: Option<Unary>,
    /// Applied last.
    pub requantize: Option<Requantize>,
}

/// An operand of the output's shape that is added to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Residual {
    /// Elements between its pixels (rows).
    pub pixel_stride: usize,
    /// What its elements stand for, where they are integers of 8 bits; else they are f32.
    pub of: Option<Dequantize>,
}

impl Residual {
    /// Type of its elements.
    pub fn dtype(&self) -> DType {
        self.of.map_or(DType::F32, |of| of.from)
    }
}

/// An f32 as an integer of 8 bits, and that as an f32 again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// How it becomes an integer.
    pub to: Requantize,
    /// What that stands for.
    pub back: Dequantize,
}

impl Rounding {
    /// What becomes of `x`.
    pub fn apply(&self, x: f32) -> f32 {
        self.back.apply(self.to.apply(x))
    }

    fn flaw(&self) -> Option<&'static str> {
        let same = self.to.to == self.back.from;
        self.to
            .flaw()
            .or_else(|| self.back.flaw())
            .or((!same).then_some("reads integers of another type than it made"))
    }
}

/// `(x − zero) · scale`, each step rounded to f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dequantize {
    /// U8 or I8.
    pub from: DType,
    /// Factor.
    pub scale: f32,
    /// Zero point, of 8 bits as well.
    pub zero: i32,
}

impl Dequantize {
    /// What the integer stands for.
    pub fn apply(&self, x: i32) -> f32 {
        (x as f32 - self.zero as f32) * self.scale
    }

    fn flaw(&self) -> Option<&'static str> {
        let small = matches!(self.from, DType::U8 | DType::I8) && (-128..=255).contains(&self.zero);
        (!small).then_some("reads other integers than u8 and i8")
    }
}

/// `x / scale`, rounded half to even, plus `zero`, kept within `low` and `high`; what is no number is `low`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Requantize {
    /// U8 or I8.
    pub to: DType,
    /// Divisor.
    pub scale: f32,
    /// Zero point.
    pub zero: i32,
    /// Least integer.
    pub low: i32,
    /// Greatest integer.
    pub high: i32,
}

impl Requantize {
    /// The integer that stands for `x`.
    pub fn apply(&self, x: f32) -> i32 {
        let steps = (x / self.scale).round_ties_even();
        if steps.is_nan() {
            return self.low;
        }
        (f64::from(steps) + f64::from(self.zero)).clamp(f64::from(self.low), f64::from(self.high)) as i32
    }

    pub(crate) fn flaw(&self) -> Option<&'static str> {
        let (low, high) = match self.to {
            DType::U8 => (0, 255),
            DType::I8 => (-128, 127),
            _ => return Some("makes other integers than u8 and i8"),
        };
        let inside = low <= self.low && self.low <= self.high && self.high <= high;
        let zero = (self.low..=self.high).contains(&self.zero);
        (!inside || !zero).then_some("makes integers outside their type")
    }
}

impl IntegerEpilogue {
    /// What is wrong with it.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        let scaled = self.scaled?;
        let rounding = scaled.rounding.and_then(|rounding| rounding.flaw());
        let residual = || scaled.residual?.of?.flaw();
        rounding.or_else(residual).or_else(|| scaled.requantize?.flaw())
    }

    /// Element type of the output.
    pub fn output(&self) -> DType {
        match self.scaled {
            None => DType::I32,
            Some(Scaled { requantize: None, .. }) => DType::F32,
            Some(Scaled { requantize: Some(requantize), .. }) => requantize.to,
        }
    }
}

/// Types and zero points of the factors of an integer product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factors {
    /// Types of both: U8 or I8.
    pub types: [DType; 2],
    /// Zero points of both (of their types), where they are operands; 0 where not.
    pub zeros: [Option<Per>; 2],
}

impl Factors {
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        let small = |dtype: &DType| matches!(dtype, DType::U8 | DType::I8);
        (!self.types.iter().all(small)).then_some("multiplies other integers than u8 and i8")
    }
}

/// Where things are in [`crate::Packing::IntegerPanels`]: `[group][panel]`, a panel being `[⌈K/4⌉][width][4]`
/// i8 (four rows of a column side by side; zeros where there are no more), and then the sums of its columns,
/// `[width]` i32. Weights of type u8 are there as they are less 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntegerPanels {
    /// What the weights are.
    pub of: Matrices,
    /// Columns of a panel.
    pub width: usize,
}

impl IntegerPanels {
    /// Groups of four rows.
    pub fn steps(&self) -> usize {
        self.of.depth.div_ceil(4)
    }

    /// Bytes of a panel.
    pub fn panel_bytes(&self) -> usize {
        (self.steps() + 1) * self.width * 4
    }

    /// Bytes of all panels.
    pub fn bytes(&self) -> usize {
        self.of.groups * self.of.outputs.div_ceil(self.width.max(1)) * self.panel_bytes()
    }

    /// First byte of the panel that `output` of `group` is in.
    pub fn panel(&self, group: usize, output: usize) -> usize {
        (group * self.of.outputs.div_ceil(self.width) + output / self.width) * self.panel_bytes()
    }

    /// The byte of a weight.
    pub fn place(&self, At { group, output, k }: At) -> usize {
        self.panel(group, output) + (k / 4 * self.width + output % self.width) * 4 + k % 4
    }

    /// Packs what `at` gives, less `offset`, into as many zeros as [`IntegerPanels::bytes`].
    pub(crate) fn pack(&self, at: impl Fn(At) -> i32, offset: i32, into: &mut [u8]) {
        for group in 0..self.of.groups {
            for output in 0..self.of.outputs {
                let mut sum = 0i32;
                for k in 0..self.of.depth {
                    let at_k = At { group, output, k };
                    let value = at(at_k) - offset;
                    into[self.place(at_k)] = value as i8 as u8;
                    sum = sum.wrapping_add(value);
                }
                let end = self.panel(group, output) + (self.steps() * self.width + output % self.width) * 4;
                into[end..end + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

/// What is taken off 8-bit weights of this type when they are packed as i8.
pub fn packed_offset(dtype: DType) -> i32 {
    if dtype == DType::U8 { 128 } else { 0 }
}
