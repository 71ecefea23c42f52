//! Rates and scratch of kernels of vision models.

use reef_graph::Vision;
use reef_plan::{Isa, VisionSpec};

use super::tile::stream_ns;

/// Points of a block of a grid are a multiple of this.
const POINTS: usize = 64;
/// Points whose taps are in scratch at a time, and taps of all of them.
const RUN_MAX: usize = 256;
const RUN_TAPS: usize = 2048;
/// Bytes of an element along an axis, and what samples of a region say of it.
const TAP_BYTES: usize = 24;
/// Nanoseconds that a coordinate of a point takes, an element at a computed place alone, a bin of a region.
const COORDINATE_NS: f64 = 4.0;
const PLACE_NS: f64 = 0.6;
const BIN_NS: f64 = 60.0;
/// Elements of the image that a bin is made of along an axis, where regions decide.
const BIN_TAPS: usize = 4;

/// Units that blocks are cut at multiples of.
pub(super) fn granule(spec: &VisionSpec) -> usize {
    match spec.vision {
        Vision::GridSample(_) => POINTS,
        _ => 1,
    }
}

/// What is not streaming.
pub(super) fn units_ns(isa: Isa, spec: &VisionSpec) -> f64 {
    let (units, x) = (spec.units() as f64, &spec.inputs[0]);
    let operations = |count: f64| stream_ns(isa, 0.0, count);
    match &spec.vision {
        Vision::GridSample(sample) => {
            let axes = x.rank() - 2;
            let sums = sample.interpolation.taps().pow(axes as u32) as f64 * x[1] as f64;
            let sums = if spec.channels_last { operations(sums / 2.0) } else { sums * PLACE_NS };
            units * (axes as f64 * COORDINATE_NS * sample.interpolation.taps() as f64 + sums)
        }
        Vision::RoiAlign(align) => {
            let taps = if align.samples == 0 { BIN_TAPS } else { (2 * align.samples).min(x[2].max(x[3])) };
            let bins = units * align.bins[1] as f64;
            bins * (BIN_NS + operations((taps * taps * x[1]) as f64 / 2.0))
        }
        Vision::Col2Im(_) => operations(2.0 * x.elements() as f64),
        Vision::Det => {
            let size = x[x.rank() - 1] as f64;
            units * (20.0 + size * size + operations(size * size * size))
        }
    }
}

/// Bytes of scratch of one block.
pub(super) fn scratch(spec: &VisionSpec) -> usize {
    let x = &spec.inputs[0];
    match &spec.vision {
        // Places and weights of all taps, and those of every axis.
        Vision::GridSample(sample) => {
            let (axes, per_axis) = (x.rank() - 2, sample.interpolation.taps());
            let taps = per_axis.pow(axes as u32);
            run_of(taps) * (taps + axes * per_axis) * 8
        }
        // Lines and columns of the image.
        Vision::RoiAlign(_) => (x[2] + x[3]) * TAP_BYTES,
        Vision::Col2Im(_) => 0,
        // A matrix in double precision.
        Vision::Det => x[x.rank() - 1].pow(2) * 8,
    }
}

/// Points whose taps are found at a time, where each has so many.
pub(crate) const fn run_of(taps: usize) -> usize {
    let points = RUN_TAPS / taps;
    if points > RUN_MAX { RUN_MAX } else { points }
}
