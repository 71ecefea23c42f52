//! Kernels of vision models that no loop nest describes: their specification, and how a host computes them
//! over bytes for devices that have no code of their own for them.

use reef_graph::reference::vision::of_unit;
use reef_graph::{DType, Shape, Vision};

/// What [`Vision`] means, over dense operands.
///
/// Reads what the operator reads, writes its output. With `channels_last` images (x and the output) are
/// `[N, spatial…, C]`. Block b makes units `b · tile ..` of the operator's work. Sums are in single
/// precision, of determinants in double; their order does not depend on the tile. Blocks may write before
/// their last poll: one that runs again writes all of its units.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionSpec {
    /// What is computed.
    pub vision: Vision,
    /// Shapes of the inputs, as the operator has them.
    pub inputs: Vec<Shape>,
    /// How images lie.
    pub channels_last: bool,
    /// Units of a block.
    pub tile: usize,
}

impl VisionSpec {
    /// The kind of kernel, for dumps.
    pub fn name(&self) -> &'static str {
        match self.vision {
            Vision::GridSample(_) => "grid-sample",
            Vision::RoiAlign(_) => "roi-align",
            Vision::Col2Im(_) => "col2im",
            Vision::Det => "det",
        }
    }

    /// Units of the whole kernel.
    pub fn units(&self) -> usize {
        self.vision.units(&self.inputs)
    }

    /// Units that a block makes.
    pub fn part(&self, block: usize) -> std::ops::Range<usize> {
        let units = self.units();
        (block * self.tile).min(units)..((block + 1) * self.tile).min(units)
    }

    /// Types and numbers of elements of what is read.
    pub fn reads(&self) -> Vec<(DType, usize)> {
        let counts = self.inputs.iter().map(|shape| shape.elements());
        self.vision.dtypes().iter().copied().zip(counts).collect()
    }

    /// Elements of what is written, or what is wrong with the specification itself.
    pub fn writes(&self) -> Result<usize, &'static str> {
        let images = matches!(self.vision, Vision::GridSample(_) | Vision::RoiAlign(_));
        if self.channels_last && !images || !self.channels_last && matches!(self.vision, Vision::RoiAlign(_))
        {
            return Err("has images that lie otherwise");
        }
        match self.vision.shape(&self.inputs) {
            Ok(shape) => Ok(shape.elements()),
            Err(_) => Err("has inputs that do not fit"),
        }
    }

    /// Writes all of the output; operands are dense, little endian, and as long as the specification says.
    /// The error says what is wrong with the inputs.
    pub fn compute(&self, inputs: &[&[u8]], output: &mut [u8]) -> Result<(), String> {
        let dtypes = self.vision.dtypes();
        let mut load = |input: usize, at: usize| {
            let size = dtypes[input].bytes();
            reef_graph::scalar::Element::read(dtypes[input], &inputs[input][at * size..][..size]).float()
        };
        for unit in 0..self.units() {
            for (at, value) in of_unit(&self.vision, &self.inputs, self.channels_last, unit, &mut load)? {
                output[at * 4..][..4].copy_from_slice(&(value as f32).to_le_bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_takes_determinants() {
        let spec = VisionSpec {
            vision: Vision::Det,
            inputs: vec![Shape::from([2, 2, 2])],
            channels_last: false,
            tile: 2,
        };
        let x: Vec<u8> =
            [1.0f32, 2.0, 3.0, 4.0, 0.0, 2.0, 5.0, 7.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut y = vec![0xFF; 8];
        spec.compute(&[&x], &mut y).unwrap();
        let made: Vec<f32> = y.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert!((made[0] + 2.0).abs() < 1e-6 && (made[1] + 10.0).abs() < 1e-6, "{made:?}");
        assert_eq!((spec.writes(), spec.units(), spec.reads()), (Ok(2), 2, vec![(DType::F32, 8)]));
        let odd = VisionSpec { channels_last: true, ..spec };
        assert!(odd.writes().is_err());
    }
}
