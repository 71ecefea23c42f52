//! How weights lie in the memory of the device.

use half::{bf16, f16};
use reef_plan::{At, Layout, Matrices, OwnLayout, Precision};

/// Rows of a group's matrix one after the other, in f32, each as long as a multiple of four elements. Not
/// rounded.
#[derive(Debug)]
pub(crate) struct Rows;

/// Elements that the length of a row is a multiple of.
const ROW_GRAIN: usize = 4;

impl Rows {
    /// Elements from one row to the next.
    pub(crate) fn stride(of: Matrices) -> usize {
        of.outputs.next_multiple_of(ROW_GRAIN)
    }

    fn range(of: Matrices, at: At) -> std::ops::Range<usize> {
        let start = ((at.group * of.depth + at.k) * Self::stride(of) + at.output) * size_of::<f32>();
        start..start + size_of::<f32>()
    }
}

impl Layout for Rows {
    fn name(&self) -> &'static str {
        "cuda rows f32"
    }

    fn bytes(&self, of: Matrices) -> usize {
        of.groups * of.depth * Self::stride(of) * size_of::<f32>()
    }

    fn pack(&self, of: Matrices, at: &dyn Fn(At) -> f32, into: &mut [u8]) {
        each(of, |place| into[Self::range(of, place)].copy_from_slice(&at(place).to_le_bytes()));
    }

    fn read(&self, of: Matrices, packed: &[u8], at: At) -> f32 {
        f32::from_le_bytes(packed[Self::range(of, at)].try_into().expect("an element's bytes"))
    }
}

/// As `kernels/precision.cuh` takes them for tensor cores: of each group chunks of 16 rows, of a chunk one
/// column after the other, of a column its 16 neighbours along k. Rounded to the nearest; rows and columns
/// that fill a chunk up are zero.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chunks {
    Tf32,
    F16,
    Bf16,
}

/// Rows of a chunk.
pub(crate) const CHUNK: usize = 16;
/// Columns that a chunk has a multiple of.
const COLUMN_GRAIN: usize = 8;

impl Chunks {
    /// Columns of a chunk.
    pub(crate) fn columns(of: Matrices) -> usize {
        of.outputs.next_multiple_of(COLUMN_GRAIN)
    }

    /// Chunks of a group.
    pub(crate) fn count(of: Matrices) -> usize {
        of.depth.div_ceil(CHUNK)
    }

    fn element_bytes(&self) -> usize {
        match self {
            Chunks::Tf32 => 4,
            Chunks::F16 | Chunks::Bf16 => 2,
        }
    }

    fn start(&self, of: Matrices, at: At) -> usize {
        let chunk = at.group * Self::count(of) + at.k / CHUNK;
        ((chunk * Self::columns(of) + at.output) * CHUNK + at.k % CHUNK) * self.element_bytes()
    }
}

impl Layout for Chunks {
    fn name(&self) -> &'static str {
        match self {
            Chunks::Tf32 => "cuda chunks tf32",
            Chunks::F16 => "cuda chunks f16",
            Chunks::Bf16 => "cuda chunks bf16",
        }
    }

    fn bytes(&self, of: Matrices) -> usize {
        of.groups * Self::count(of) * Self::columns(of) * CHUNK * self.element_bytes()
    }

    fn pack(&self, of: Matrices, at: &dyn Fn(At) -> f32, into: &mut [u8]) {
        each(of, |place| {
            let (start, value) = (self.start(of, place), at(place));
            let into = &mut into[start..start + self.element_bytes()];
            match self {
                Chunks::Tf32 => into.copy_from_slice(&to_tf32(value).to_le_bytes()),
                Chunks::F16 => into.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                Chunks::Bf16 => into.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            }
        });
    }

    fn read(&self, of: Matrices, packed: &[u8], at: At) -> f32 {
        let start = self.start(of, at);
        let four = || packed[start..start + 4].try_into().expect("four bytes");
        let two = || packed[start..start + 2].try_into().expect("two bytes");
        match self {
            Chunks::Tf32 => f32::from_le_bytes(four()),
            Chunks::F16 => f16::from_le_bytes(two()).to_f32(),
            Chunks::Bf16 => bf16::from_le_bytes(two()).to_f32(),
        }
    }
}

/// Rounded to 10 bits behind the point, to the nearest, away from zero between two: as the device does it.
fn to_tf32(value: f32) -> f32 {
    const DROPPED: u32 = 23 - 10;
    if !value.is_finite() {
        return value;
    }
    f32::from_bits((value.to_bits() + (1 << (DROPPED - 1))) & !((1 << DROPPED) - 1))
}

/// The layout for products of a precision.
pub(crate) fn layout(precision: Precision) -> OwnLayout {
    OwnLayout(match precision {
        Precision::F32 => &Rows,
        Precision::Tf32 => &Chunks::Tf32,
        Precision::F16 => &Chunks::F16,
        Precision::Bf16 => &Chunks::Bf16,
    })
}

/// Calls with every element of the matrices, columns of a row one after the other.
fn each(of: Matrices, mut with: impl FnMut(At)) {
    for group in 0..of.groups {
        for (k, output) in (0..of.depth).flat_map(|k| (0..of.outputs).map(move |output| (k, output))) {
            with(At { group, output, k });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_back() {
        let of = Matrices { groups: 2, outputs: 5, depth: 19 };
        // Of few bits: exact in every precision.
        let value = |at: At| (at.group * 100 + at.k * 8 + at.output) as f32;
        for (precision, bytes) in Precision::ALL.into_iter().zip([
            2 * 19 * 8 * 4,
            2 * 2 * 8 * 16 * 4,
            2 * 2 * 8 * 16 * 2,
            2 * 2 * 8 * 16 * 2,
        ]) {
            let OwnLayout(layout) = layout(precision);
            let mut packed = vec![0; layout.bytes(of)];
            assert_eq!(packed.len(), bytes, "{precision}");
            layout.pack(of, &value, &mut packed);
            each(of, |at| assert_eq!(layout.read(of, &packed, at), value(at), "{precision} {at:?}"));
        }
    }

    #[test]
    fn tf32_is_the_nearest() {
        let step = 2f32.powi(-10);
        for (value, rounded) in [
            (1.0, 1.0),
            (1.0 + step * 0.49, 1.0),
            (1.0 + step * 0.5, 1.0 + step),
            (-1.0 - step * 0.5, -1.0 - step),
            (1.0 + step * 1.49, 1.0 + step),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
            (0.0, 0.0),
        ] {
            assert_eq!(to_tf32(value), rounded, "{value}");
        }
        assert!(to_tf32(f32::NAN).is_nan());
    }
}
