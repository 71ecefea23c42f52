//! How weights lie in the memory of the device.

use reef_plan::{At, Layout, Matrices};

/// Rows of a group's matrix one after the other, in f32, each as long as a multiple of four elements. Not
/// rounded.
#[derive(Debug)]
pub(crate) struct Rows;

/// Elements that the length of a row is a multiple of.
const GRAIN: usize = 4;

impl Rows {
    /// Elements from one row to the next.
    pub(crate) fn stride(of: Matrices) -> usize {
        of.outputs.next_multiple_of(GRAIN)
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
        for group in 0..of.groups {
            for (k, output) in (0..of.depth).flat_map(|k| (0..of.outputs).map(move |output| (k, output))) {
                let place = At { group, output, k };
                into[Self::range(of, place)].copy_from_slice(&at(place).to_le_bytes());
            }
        }
    }

    fn read(&self, of: Matrices, packed: &[u8], at: At) -> f32 {
        f32::from_le_bytes(packed[Self::range(of, at)].try_into().expect("an element's bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_back() {
        let of = Matrices { groups: 2, outputs: 5, depth: 3 };
        let value = |at: At| (at.group * 100 + at.k * 10 + at.output) as f32;
        let mut packed = vec![0; Rows.bytes(of)];
        assert_eq!(packed.len(), 2 * 3 * 8 * 4);
        Rows.pack(of, &value, &mut packed);
        for group in 0..2 {
            for (k, output) in [(0, 0), (2, 4), (1, 3)] {
                let at = At { group, output, k };
                assert_eq!(Rows.read(of, &packed, at), value(at));
            }
        }
    }
}
