//! `GridSample` of images and volumes in double precision, which has no native reading: an own host operator,
//! since tract's ignores the padding mode in its cubic form. The rules are ONNX Runtime's.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::Expansion;

use super::expanded;

/// The coefficient of the cubic convolution function.
const CUBIC: f64 = -0.75;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// Reads `[N, C, spatial...]` at the coordinates `[N, outputs..., spatial axes]`, the last axis first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GridSample {
    mode: Mode,
    padding: Padding,
    align_corners: bool,
}

/// The reader.
pub(super) fn grid_sample(
    _: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    expanded(node, parse(node))
}

/// Why the operator cannot be computed, if so.
pub(super) fn refusal(node: &NodeProto) -> Option<String> {
    parse(node).err()
}

fn parse(node: &NodeProto) -> Result<GridSample, String> {
    let attribute = |error: TractError| format!("{error:#}");
    let text = |name: &str| node.get_attr_opt::<&str>(name).map_err(attribute);
    let mode = match text("mode")?.unwrap_or("linear") {
        "nearest" => Mode::Nearest,
        "linear" | "bilinear" => Mode::Linear,
        "cubic" | "bicubic" => Mode::Cubic,
        other => return Err(format!("mode `{other}`")),
    };
    let padding = match text("padding_mode")?.unwrap_or("zeros") {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => return Err(format!("padding_mode `{other}`")),
    };
    let align_corners = node.get_attr_opt::<i64>("align_corners").map_err(attribute)?.unwrap_or(0) != 0;
    Ok(GridSample { mode, padding, align_corners })
}

impl Expansion for GridSample {
    fn name(&self) -> StaticName {
        "GridSample".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let (x, grid, y) = (&inputs[0], &inputs[1], &outputs[0]);
        solver.equals(&x.datum_type, &y.datum_type)?;
        solver.equals(&x.rank, &grid.rank)?;
        solver.equals(&x.rank, &y.rank)?;
        solver.equals(&x.shape[0], &grid.shape[0])?;
        solver.equals(&x.shape[0], &y.shape[0])?;
        solver.equals(&x.shape[1], &y.shape[1])?;
        solver.given(&x.rank, move |solver, rank| {
            let rank = rank as usize;
            if !(3..=5).contains(&rank) {
                bail!("GridSample of {rank} axes is not supported");
            }
            for axis in 2..rank {
                solver.equals(&outputs[0].shape[axis], &inputs[1].shape[axis - 1])?;
            }
            solver.equals(&inputs[1].shape[rank - 1], (rank as i64 - 2).to_dim())
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        for &input in inputs {
            let datum = model.outlet_fact(input)?.datum_type;
            if !datum.is_float() {
                bail!("GridSample of {datum:?} is not supported");
            }
        }
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl GridSample {
    /// Where `x` in [-1, 1] lies on an axis: in single precision, so that the nearest element of a point in
    /// the middle is that of ONNX Runtime.
    fn place(&self, x: f32, extent: usize) -> f64 {
        let extent = extent as f32;
        f64::from(match self.align_corners {
            true => (x + 1.0) / 2.0 * (extent - 1.0),
            false => ((x + 1.0) * extent - 1.0) / 2.0,
        })
    }

    /// The first and the last coordinate of an axis.
    fn bounds(&self, extent: usize) -> (f64, f64) {
        match self.align_corners {
            true => (0.0, extent as f64 - 1.0),
            false => (-0.5, extent as f64 - 0.5),
        }
    }

    /// The element at `at`, or none where padding is zero.
    fn element(&self, at: f64, extent: usize) -> Option<usize> {
        let last = extent as f64 - 1.0;
        match self.padding {
            Padding::Zeros => (0.0..=last).contains(&at).then_some(at as usize),
            Padding::Border => Some(at.clamp(0.0, last) as usize),
            Padding::Reflection => Some(reflected(at, self.bounds(extent)).clamp(0.0, last) as usize),
        }
    }

    /// The elements of one axis that coordinate `x` reads, with their weights.
    fn taps(&self, x: f32, extent: usize, taps: &mut TVec<(usize, f64)>) {
        taps.clear();
        let mut at = self.place(x, extent);
        if self.mode == Mode::Nearest {
            at = at.round_ties_even();
        }
        let (low, high) = self.bounds(extent);
        if !(low..=high).contains(&at) {
            at = match self.padding {
                Padding::Zeros => at,
                // The elements are clamped, one by one: the curve goes on beyond the last of them.
                Padding::Border if self.mode == Mode::Cubic => at,
                Padding::Border => at.clamp(0.0, extent as f64 - 1.0),
                Padding::Reflection => reflected(at, (low, high)),
            };
        }
        let floor = at.floor();
        let share = at - floor;
        let mut tap = |at: f64, weight: f64| {
            if weight != 0.0
                && let Some(element) = self.element(at, extent)
            {
                taps.push((element, weight));
            }
        };
        match self.mode {
            Mode::Nearest => tap(at, 1.0),
            Mode::Linear => {
                tap(floor, 1.0 - share);
                tap(floor + 1.0, share);
            }
            Mode::Cubic => {
                for offset in -1..=2 {
                    let offset = f64::from(offset);
                    tap(floor + offset, cubic(offset - share));
                }
            }
        }
    }

    fn run(&self, image: &[f64], shape: &[usize], grid: &[f32], points: usize) -> Vec<f64> {
        let (spatial, channels) = (&shape[2..], shape[1]);
        let plane: usize = spatial.iter().product();
        let rank = spatial.len();
        let mut output = vec![0.0; shape[0] * channels * points];
        let mut per_axis: Vec<TVec<(usize, f64)>> = vec![tvec!(); rank];
        let (mut taps, mut spare) = (vec![], vec![]);
        for (at, point) in grid.chunks_exact(rank).enumerate() {
            for (axis, axis_taps) in per_axis.iter_mut().enumerate() {
                self.taps(point[rank - 1 - axis], spatial[axis], axis_taps);
            }
            combine(&per_axis, spatial, &mut taps, &mut spare);
            let (batch, point) = (at / points, at % points);
            for row in batch * channels..(batch + 1) * channels {
                let values = &image[row * plane..(row + 1) * plane];
                output[row * points + point] = taps.iter().map(|&(from, weight)| values[from] * weight).sum();
            }
        }
        output
    }
}

/// All combinations of the axes' taps, as offsets into an image.
fn combine(
    per_axis: &[TVec<(usize, f64)>],
    extents: &[usize],
    taps: &mut Vec<(usize, f64)>,
    outer: &mut Vec<(usize, f64)>,
) {
    taps.clear();
    taps.push((0, 1.0));
    for (axis_taps, extent) in per_axis.iter().zip(extents) {
        std::mem::swap(taps, outer);
        taps.clear();
        for &(offset, weight) in outer.iter() {
            taps.extend(axis_taps.iter().map(|&(at, share)| (offset * extent + at, weight * share)));
        }
    }
}

/// `x` mirrored at both bounds until it lies between them.
fn reflected(x: f64, (low, high): (f64, f64)) -> f64 {
    let range = high - low;
    if range <= 0.0 || !x.is_finite() {
        return low.max(0.0);
    }
    if (low..=high).contains(&x) {
        return x;
    }
    let beyond = if x < low { low - x } else { x - high };
    let (turns, rest) = ((beyond / range).floor(), beyond % range);
    let from_the_near_end = (turns % 2.0 == 0.0) == (x < low);
    if from_the_near_end { low + rest } else { high - rest }
}

/// The cubic convolution function.
fn cubic(s: f64) -> f64 {
    let s = s.abs();
    if s <= 1.0 {
        ((CUBIC + 2.0) * s - (CUBIC + 3.0)) * s * s + 1.0
    } else if s < 2.0 {
        ((CUBIC * s - 5.0 * CUBIC) * s + 8.0 * CUBIC) * s - 4.0 * CUBIC
    } else {
        0.0
    }
}

impl Op for GridSample {
    fn name(&self) -> StaticName {
        "GridSample".into()
    }

    op_as_typed_op!();
}

impl EvalOp for GridSample {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (image, grid) = args_2!(inputs);
        let datum = image.datum_type();
        let (wide, places) = (image.cast_to::<f64>()?, grid.cast_to::<f32>()?);
        let (wide, places) = (wide.try_as_plain_ram()?, places.try_as_plain_ram()?);
        let outputs = &grid.shape()[1..grid.rank() - 1];
        let shape: TVec<usize> = image.shape()[..2].iter().chain(outputs).copied().collect();
        if shape.iter().product::<usize>() == 0 {
            return Ok(tvec!(Tensor::zero_dt(datum, &shape)?.into_tvalue()));
        }
        let points = outputs.iter().product();
        let made = self.run(wide.as_slice()?, image.shape(), places.as_slice()?, points);
        let made = tensor1(&made).into_shape(&shape)?.cast_to_dt(datum)?.into_owned();
        Ok(tvec!(made.into_tvalue()))
    }
}

impl TypedOp for GridSample {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let (image, grid) = (inputs[0], inputs[1]);
        let outputs = grid.shape.iter().take(grid.rank() - 1).skip(1);
        let shape: TVec<TDim> = image.shape.iter().take(2).chain(outputs).cloned().collect();
        Ok(tvec!(image.datum_type.fact(&shape)))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflection_turns_at_both_ends() {
        let bounds = (-0.5, 3.5);
        let turned = |x: f64| reflected(x, bounds);
        assert_eq!([turned(-1.0), turned(4.0), turned(-5.0), turned(8.5)], [0.0, 3.0, 3.0, 0.5]);
        assert_eq!(reflected(7.0, (0.0, 0.0)), 0.0, "an axis of one element");
    }
}
