//! What happens to a micro-tile's integer sums: zero points, bias, and the way to f32 and back.

use reef_graph::DType;
use reef_plan::{Dequantize, Per, Requantize, Rounding};

use super::super::vector::{Leaf, Vector};
use crate::cut::integer::INTEGER_COLUMNS as COLUMNS;

/// Takes zero points off the sums and adds the bias.
///
/// Of sums of bytes as they are stored, `Σ(a − za)(b − zb) = Σab − za·Σb − zb·(Σa − K·za)`.
#[derive(Clone, Copy)]
pub(in super::super) struct Correct {
    /// The sums, `[row][column]`.
    pub(in super::super) acc: *mut i32,
    pub(in super::super) acc_stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    /// The column sums of the first panel.
    pub(in super::super) column_sums: *const i32,
    pub(in super::super) panel_bytes: usize,
    /// For every row its zero point, and what its sum is without that.
    pub(in super::super) left: *const i32,
    pub(in super::super) row_sums: *const i32,
    /// For every column its zero point.
    pub(in super::super) right: *const i32,
    /// The first column's bias, or null.
    pub(in super::super) bias: *const i32,
}

impl Leaf for Correct {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            for panel in 0..self.columns.div_ceil(COLUMNS) {
                let count = COLUMNS.min(self.columns - panel * COLUMNS);
                // SAFETY: the caller vouches for rows and columns of every operand.
                unsafe {
                    let (left, row_sum) = (*self.left.add(row), *self.row_sums.add(row));
                    let acc = self.acc.add(row * self.acc_stride + panel * COLUMNS);
                    let sums = self.column_sums.cast::<u8>().add(panel * self.panel_bytes).cast::<i32>();
                    let right = self.right.add(panel * COLUMNS);
                    for at in 0..COLUMNS {
                        let off = left
                            .wrapping_mul(*sums.add(at))
                            .wrapping_add(row_sum.wrapping_mul(*right.add(at)));
                        *acc.add(at) = (*acc.add(at)).wrapping_sub(off);
                    }
                    if !self.bias.is_null() {
                        let bias = self.bias.add(panel * COLUMNS);
                        for at in 0..count {
                            *acc.add(at) = (*acc.add(at)).wrapping_add(*bias.add(at));
                        }
                    }
                }
            }
        }
    }
}

/// Turns sums into f32, times a factor, where they are.
pub(in super::super) struct Scale {
    pub(in super::super) acc: *mut i32,
    pub(in super::super) acc_stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    /// The first column's factor.
    pub(in super::super) factors: Option<(*const f32, Per)>,
}

impl Leaf for Scale {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns.
            unsafe {
                let from = self.acc.add(row * self.acc_stride);
                let to = from.cast::<f32>();
                match self.factors {
                    None => {
                        for at in 0..self.columns {
                            to.add(at).write(*from.add(at) as f32);
                        }
                    }
                    Some((factor, Per::Tensor)) => {
                        let factor = *factor;
                        for at in 0..self.columns {
                            to.add(at).write(*from.add(at) as f32 * factor);
                        }
                    }
                    Some((factors, Per::Each)) => {
                        for at in 0..self.columns {
                            to.add(at).write(*from.add(at) as f32 * *factors.add(at));
                        }
                    }
                }
            }
        }
    }
}

/// Stores rows of f32 as integers of 8 bits.
pub(in super::super) struct Quantize {
    pub(in super::super) from: *const f32,
    pub(in super::super) from_stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    pub(in super::super) how: Requantize,
    pub(in super::super) to: *mut u8,
    pub(in super::super) to_stride: usize,
}

impl Leaf for Quantize {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Requantize { scale, zero, low, high, .. } = self.how;
        let (zero, low, high) = (zero as f32, low as f32, high as f32);
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns on both sides.
            unsafe {
                let from = self.from.add(row * self.from_stride);
                let to = self.to.add(row * self.to_stride);
                if scale == 1.0 {
                    for at in 0..self.columns {
                        to.add(at).write(to_byte((*from.add(at)).round_ties_even() + zero, low, high));
                    }
                } else {
                    for at in 0..self.columns {
                        let steps = (*from.add(at) / scale).round_ties_even();
                        to.add(at).write(to_byte(steps + zero, low, high));
                    }
                }
            }
        }
    }
}

/// An integral number, kept between two bounds, as a byte of either sign; what is no number is the lower.
#[inline(always)]
fn to_byte(x: f32, low: f32, high: f32) -> u8 {
    // SAFETY: between the bounds, which are those of u8 or i8.
    (unsafe { to_steps(x, low, high).to_int_unchecked::<i32>() }) as u8
}

/// An integral number, kept between two bounds; what is no number is the lower.
#[inline(always)]
fn to_steps(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// Numbers as integers of 8 bits, and these as numbers again, where they are.
pub(in super::super) struct Rounded {
    pub(in super::super) at: *mut f32,
    pub(in super::super) stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    pub(in super::super) by: Rounding,
}

impl Leaf for Rounded {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let by = Steps::new(&self.by);
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns.
            unsafe {
                let at = self.at.add(row * self.stride);
                for column in 0..self.columns {
                    *at.add(column) = by.apply(*at.add(column));
                }
            }
        }
    }
}

/// A [`Rounding`] as floats.
#[derive(Clone, Copy)]
struct Steps {
    scale: f32,
    zero: f32,
    low: f32,
    high: f32,
    back: Numbers,
}

impl Steps {
    #[inline(always)]
    fn new(by: &Rounding) -> Steps {
        let Requantize { scale, zero, low, high, .. } = by.to;
        let (zero, low, high) = (zero as f32, low as f32, high as f32);
        Steps { scale, zero, low, high, back: Numbers { zero: by.back.zero as f32, scale: by.back.scale } }
    }

    #[inline(always)]
    fn apply(&self, x: f32) -> f32 {
        self.back.apply(to_steps((x / self.scale).round_ties_even() + self.zero, self.low, self.high))
    }
}

/// What integers of 8 bits stand for, as floats.
#[derive(Clone, Copy)]
struct Numbers {
    zero: f32,
    scale: f32,
}

impl Numbers {
    /// Of bytes that [`Numbers::flip`] has made u8.
    #[inline(always)]
    fn of_bytes(of: &Dequantize) -> Numbers {
        Numbers { zero: (of.zero + i32::from(Numbers::flip(of))) as f32, scale: of.scale }
    }

    /// What turns bytes into u8 that are 128 more than the integers.
    #[inline(always)]
    fn flip(of: &Dequantize) -> u8 {
        if of.from == DType::I8 { 128 } else { 0 }
    }

    #[inline(always)]
    fn apply(&self, x: f32) -> f32 {
        (x - self.zero) * self.scale
    }
}

/// Adds a residual of bytes to numbers where they are.
pub(in super::super) struct Added {
    pub(in super::super) at: *mut f32,
    pub(in super::super) stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    pub(in super::super) of: Dequantize,
    pub(in super::super) from: *const u8,
    pub(in super::super) from_stride: usize,
}

impl Leaf for Added {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (numbers, flip) = (Numbers::of_bytes(&self.of), Numbers::flip(&self.of));
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns on both sides.
            unsafe {
                let (at, from) = (self.at.add(row * self.stride), self.from.add(row * self.from_stride));
                for column in 0..self.columns {
                    *at.add(column) += numbers.apply(f32::from(*from.add(column) ^ flip));
                }
            }
        }
    }
}

/// All of [`Correct`], [`Scale`], a shift, perhaps rounding and a residual of bytes, perhaps a ReLU, and
/// [`Quantize`] in one pass over the sums.
pub(in super::super) struct Requantized {
    pub(in super::super) terms: Terms,
    pub(in super::super) rounding: Option<Rounding>,
    /// The first row's and column's byte, those of a row, and what they stand for.
    pub(in super::super) residual: Option<(*const u8, usize, Dequantize)>,
    pub(in super::super) relu: bool,
    pub(in super::super) how: Requantize,
    pub(in super::super) to: *mut u8,
    pub(in super::super) to_stride: usize,
}

/// What sums become numbers with.
#[derive(Clone, Copy)]
pub(in super::super) struct Terms {
    pub(in super::super) correct: Correct,
    /// The zero point of all rows, where they have the same one and columns have none: columns account for
    /// it.
    pub(in super::super) same: Option<i32>,
    pub(in super::super) factors: Option<(*const f32, Per)>,
    /// The first column's shift, or null.
    pub(in super::super) shift: *const f32,
}

/// In the place of what is not there.
const NO_BYTES: Dequantize = Dequantize { from: DType::U8, scale: 1.0, zero: 0 };
const NO_STEPS: Steps =
    Steps { scale: 1.0, zero: 0.0, low: 0.0, high: 0.0, back: Numbers { zero: 0.0, scale: 1.0 } };

/// What a panel's columns are finished with.
struct Columns {
    sums: [i32; COLUMNS],
    zeros: [i32; COLUMNS],
    bias: [i32; COLUMNS],
    factors: [f32; COLUMNS],
    shift: [f32; COLUMNS],
}

/// Sums that are finished panel by panel.
trait Panels {
    /// Finishes the panels one after the other, each with the loop that is made for it.
    ///
    /// # Safety
    /// Every operand has the rows and columns that the terms say.
    #[inline(always)]
    unsafe fn panels(&self, terms: &Terms, relu: bool) {
        for panel in 0..terms.correct.columns.div_ceil(COLUMNS) {
            // SAFETY: the caller vouches for rows and columns of every operand.
            unsafe {
                // Whole panels have loops of their own: what may be shorter is copied by calls.
                let full = (panel + 1) * COLUMNS <= terms.correct.columns;
                let terms = Terms { same: terms.same.filter(|_| full), ..*terms };
                let columns = Columns::of(&terms, panel);
                match (relu, terms.same.is_some(), full) {
                    (false, _, false) => self.panel_with::<false, false, false>(panel, &columns),
                    (false, false, true) => self.panel_with::<false, false, true>(panel, &columns),
                    (false, true, true) => self.panel_with::<false, true, true>(panel, &columns),
                    (true, _, false) => self.panel_with::<true, false, false>(panel, &columns),
                    (true, false, true) => self.panel_with::<true, false, true>(panel, &columns),
                    (true, true, true) => self.panel_with::<true, true, true>(panel, &columns),
                }
            }
        }
    }

    /// Finishes one panel: with a ReLU, where columns account for the rows' zero point, and all of whose
    /// columns are there.
    ///
    /// # Safety
    /// As [`Panels::panels`].
    unsafe fn panel_with<const RELU: bool, const SAME: bool, const FULL: bool>(
        &self,
        panel: usize,
        columns: &Columns,
    );
}

impl Leaf for Requantized {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: passed on from the caller.
        unsafe { self.panels(&self.terms, self.relu) }
    }
}

/// A panel's values, of which `count` are there.
#[inline(always)]
unsafe fn some<T: Copy>(from: *const T, count: usize, rest: T) -> [T; COLUMNS] {
    let mut values = [rest; COLUMNS];
    // SAFETY: the caller vouches for so many.
    unsafe {
        if count == COLUMNS {
            return from.cast::<[T; COLUMNS]>().read_unaligned();
        }
        for (at, value) in values[..count].iter_mut().enumerate() {
            *value = *from.add(at);
        }
    }
    values
}

impl Columns {
    /// Of a panel.
    #[inline(always)]
    unsafe fn of(terms: &Terms, panel: usize) -> Columns {
        let Terms { correct, same, factors, shift } = *terms;
        let mut columns = Columns {
            sums: [0; COLUMNS],
            zeros: [0; COLUMNS],
            bias: [0; COLUMNS],
            factors: [1.0; COLUMNS],
            shift: [0.0; COLUMNS],
        };
        let first = panel * COLUMNS;
        let count = COLUMNS.min(correct.columns - first);
        // SAFETY: the caller vouches for the columns of every operand.
        unsafe {
            let sums = correct.column_sums.cast::<u8>().add(panel * correct.panel_bytes);
            columns.sums = sums.cast::<[i32; COLUMNS]>().read_unaligned();
            columns.zeros = correct.right.add(first).cast::<[i32; COLUMNS]>().read_unaligned();
            if !correct.bias.is_null() {
                columns.bias = some(correct.bias.add(first), count, 0);
            }
            match factors {
                None => {}
                Some((factor, Per::Tensor)) => columns.factors = [*factor; COLUMNS],
                Some((factors, Per::Each)) => columns.factors = some(factors.add(first), count, 1.0),
            }
            if !shift.is_null() {
                columns.shift = some(shift.add(first), count, 0.0);
            }
        }
        if let Some(left) = same {
            for at in 0..COLUMNS {
                columns.bias[at] = columns.bias[at].wrapping_sub(left.wrapping_mul(columns.sums[at]));
            }
        }
        columns
    }

    /// What the sum of a row and column stands for.
    #[inline(always)]
    fn number<const SAME: bool>(&self, at: usize, mut sum: i32, [left, row_sum]: [i32; 2]) -> f32 {
        if !SAME {
            let off = left.wrapping_mul(self.sums[at]).wrapping_add(row_sum.wrapping_mul(self.zeros[at]));
            sum = sum.wrapping_sub(off);
        }
        let sum = sum.wrapping_add(self.bias[at]);
        sum as f32 * self.factors[at] + self.shift[at]
    }
}

impl Panels for Requantized {
    #[inline(always)]
    unsafe fn panel_with<const RELU: bool, const SAME: bool, const FULL: bool>(
        &self,
        panel: usize,
        columns: &Columns,
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            match (self.rounding.is_some(), self.residual.is_some()) {
                (false, false) if self.how.scale == 1.0 => {
                    self.panel::<RELU, SAME, FULL, true, false, false>(panel, columns);
                }
                (false, false) => self.panel::<RELU, SAME, FULL, false, false, false>(panel, columns),
                (false, true) => self.panel::<RELU, SAME, FULL, false, false, true>(panel, columns),
                (true, false) => self.panel::<RELU, SAME, FULL, false, true, false>(panel, columns),
                (true, true) => self.panel::<RELU, SAME, FULL, false, true, true>(panel, columns),
            }
        }
    }
}

impl Requantized {
    #[inline(always)]
    unsafe fn panel<
        const RELU: bool,
        const SAME: bool,
        const FULL: bool,
        const UNIT: bool,
        const ROUNDS: bool,
        const ADDS: bool,
    >(
        &self,
        panel: usize,
        columns: &Columns,
    ) {
        let correct = &self.terms.correct;
        let Requantize { scale, zero, low, high, .. } = self.how;
        let (zero, low, high) = (zero as f32, low as f32, high as f32);
        let by = self.rounding.as_ref().map_or(NO_STEPS, Steps::new);
        let (residual, stride, of) = self.residual.unwrap_or((std::ptr::null(), 0, NO_BYTES));
        let (numbers, flip) = (Numbers::of_bytes(&of), Numbers::flip(&of));
        let first = panel * COLUMNS;
        let count = if FULL { COLUMNS } else { correct.columns - first };
        for row in 0..correct.rows {
            // SAFETY: the caller vouches for rows and columns.
            unsafe {
                let terms = [*correct.left.add(row), *correct.row_sums.add(row)];
                let acc = correct.acc.add(row * correct.acc_stride + first);
                let acc = acc.cast::<[i32; COLUMNS]>().read_unaligned();
                let mut bytes = [0u8; COLUMNS];
                let mut added = [0u8; COLUMNS];
                if ADDS {
                    added = some(residual.add(row * stride + first), count, 0);
                }
                for at in 0..COLUMNS {
                    let mut x = columns.number::<SAME>(at, acc[at], terms);
                    if ROUNDS {
                        x = by.apply(x);
                    }
                    if ADDS {
                        x += numbers.apply(f32::from(added[at] ^ flip));
                    }
                    if RELU {
                        x = if x < 0.0 { 0.0 } else { x };
                    }
                    let steps = if UNIT { x } else { x / scale };
                    bytes[at] = to_byte(steps.round_ties_even() + zero, low, high);
                }
                let to = self.to.add(row * self.to_stride + first);
                if FULL {
                    to.cast::<[u8; COLUMNS]>().write_unaligned(bytes);
                } else {
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count);
                }
            }
        }
    }
}

/// All of [`Correct`], [`Scale`], a shift, perhaps a residual, and perhaps a ReLU in one pass over the sums.
pub(in super::super) struct Floats {
    pub(in super::super) terms: Terms,
    /// The first row's and column's residual, and the elements from row to row.
    pub(in super::super) residual: Option<(*const f32, usize)>,
    pub(in super::super) relu: bool,
    /// The output, or where the sums are.
    pub(in super::super) to: *mut f32,
    pub(in super::super) to_stride: usize,
}

impl Leaf for Floats {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: passed on from the caller.
        unsafe { self.panels(&self.terms, self.relu) }
    }
}

impl Panels for Floats {
    #[inline(always)]
    unsafe fn panel_with<const RELU: bool, const SAME: bool, const FULL: bool>(
        &self,
        panel: usize,
        columns: &Columns,
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            match self.residual.is_some() {
                false => self.panel::<RELU, SAME, FULL, false>(panel, columns),
                true => self.panel::<RELU, SAME, FULL, true>(panel, columns),
            }
        }
    }
}

impl Floats {
    #[inline(always)]
    unsafe fn panel<const RELU: bool, const SAME: bool, const FULL: bool, const ADDS: bool>(
        &self,
        panel: usize,
        columns: &Columns,
    ) {
        let correct = &self.terms.correct;
        let (residual, stride) = self.residual.unwrap_or((std::ptr::null(), 0));
        let first = panel * COLUMNS;
        let count = if FULL { COLUMNS } else { correct.columns - first };
        for row in 0..correct.rows {
            // SAFETY: the caller vouches for rows and columns.
            unsafe {
                let terms = [*correct.left.add(row), *correct.row_sums.add(row)];
                let acc = correct.acc.add(row * correct.acc_stride + first);
                let acc = acc.cast::<[i32; COLUMNS]>().read_unaligned();
                let mut added = [0.0; COLUMNS];
                if ADDS {
                    added = some(residual.add(row * stride + first), count, 0.0);
                }
                let mut made = [0.0f32; COLUMNS];
                for at in 0..COLUMNS {
                    let mut x = columns.number::<SAME>(at, acc[at], terms);
                    if ADDS {
                        x += added[at];
                    }
                    if RELU {
                        x = if x < 0.0 { 0.0 } else { x };
                    }
                    made[at] = x;
                }
                let to = self.to.add(row * self.to_stride + first);
                if FULL {
                    to.cast::<[f32; COLUMNS]>().write_unaligned(made);
                } else {
                    std::ptr::copy_nonoverlapping(made.as_ptr(), to, count);
                }
            }
        }
    }
}

/// Stores rows of i32.
pub(in super::super) struct Plain {
    pub(in super::super) from: *const i32,
    pub(in super::super) from_stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    pub(in super::super) to: *mut i32,
    pub(in super::super) to_stride: usize,
}

impl Leaf for Plain {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns on both sides.
            unsafe {
                let from = self.from.add(row * self.from_stride);
                std::ptr::copy_nonoverlapping(from, self.to.add(row * self.to_stride), self.columns);
            }
        }
    }
}

/// Copies bytes as u8: those of i8 plus 128, which is their highest bit turned around.
pub(in super::super) struct Bytes {
    pub(in super::super) from: *const u8,
    pub(in super::super) step: usize,
    pub(in super::super) count: usize,
    /// 0 or 128.
    pub(in super::super) flip: u8,
    pub(in super::super) to: *mut u8,
}

impl Leaf for Bytes {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller vouches for the bytes on both sides.
        unsafe {
            if self.step == 1 {
                for at in 0..self.count {
                    self.to.add(at).write(*self.from.add(at) ^ self.flip);
                }
            } else {
                for at in 0..self.count {
                    self.to.add(at).write(*self.from.add(at * self.step) ^ self.flip);
                }
            }
        }
    }
}

/// Copies a few bytes and turns the highest bit of each around where `flip` says so (0 or 128), as [`Bytes`]
/// does; for code that has entered.
#[inline(always)]
pub(in super::super) unsafe fn copy_few(from: *const u8, count: usize, flip: u8, to: *mut u8) {
    let flip = u64::from_ne_bytes([flip; 8]);
    // SAFETY: the caller vouches for the bytes on both sides; parts overlap inside them.
    unsafe {
        let wide = |at: usize| {
            let part = from.add(at).cast::<[u64; 2]>().read_unaligned();
            to.add(at).cast::<[u64; 2]>().write_unaligned([part[0] ^ flip, part[1] ^ flip]);
        };
        let eight = |at: usize| {
            to.add(at).cast::<u64>().write_unaligned(from.add(at).cast::<u64>().read_unaligned() ^ flip);
        };
        let four = |at: usize| {
            let part = from.add(at).cast::<u32>().read_unaligned() ^ flip as u32;
            to.add(at).cast::<u32>().write_unaligned(part);
        };
        match count {
            16.. => {
                let mut at = 0;
                while at + 16 < count {
                    wide(at);
                    at += 16;
                }
                wide(count - 16);
            }
            8.. => {
                eight(0);
                eight(count - 8);
            }
            4.. => {
                four(0);
                four(count - 4);
            }
            _ => {
                for at in 0..count {
                    to.add(at).write(*from.add(at) ^ flip as u8);
                }
            }
        }
    }
}

/// Writes a few equal bytes; for code that has entered.
#[inline(always)]
pub(in super::super) unsafe fn fill_few(to: *mut u8, count: usize, byte: u8) {
    // SAFETY: the caller vouches for the bytes; parts overlap inside them.
    unsafe {
        match count {
            64.. => to.write_bytes(byte, count),
            8.. => {
                let eight = u64::from_ne_bytes([byte; 8]);
                let mut at = 0;
                while at + 8 < count {
                    to.add(at).cast::<u64>().write_unaligned(eight);
                    at += 8;
                }
                to.add(count - 8).cast::<u64>().write_unaligned(eight);
            }
            _ => {
                for at in 0..count {
                    to.add(at).write(byte);
                }
            }
        }
    }
}

/// The sum of some bytes.
pub(in super::super) struct Sum {
    pub(in super::super) from: *const u8,
    pub(in super::super) count: usize,
}

impl Leaf for Sum {
    type Out = i32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> i32 {
        let mut sum = 0u32;
        for at in 0..self.count {
            // SAFETY: the caller vouches for the bytes.
            sum = sum.wrapping_add(u32::from(unsafe { *self.from.add(at) }));
        }
        sum as i32
    }
}

/// A zero point as it is for bytes that are stored as u8 (`as_u8`) or as i8.
#[inline(always)]
pub(in super::super) fn stored_zero(byte: u8, dtype: DType, as_u8: bool) -> i32 {
    match (dtype == DType::I8, as_u8) {
        (true, true) => i32::from(byte as i8) + 128,
        (true, false) => i32::from(byte as i8),
        (false, true) => i32::from(byte),
        (false, false) => i32::from(byte) - 128,
    }
}

/// What turns bytes of `dtype` into those that are stored.
pub(in super::super) fn flip(dtype: DType, as_u8: bool) -> u8 {
    if (dtype == DType::U8) == as_u8 { 0 } else { 128 }
}
