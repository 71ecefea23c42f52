//! `Slice`, with bounds of any size clamped as the specification says.
//!
//! tract takes some numbers for "to the end" whatever the step's sign, cuts others to 32 bits, and does not
//! clamp all of them. It is asked where extents or bounds are not known yet.

use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::Slice as Part;
use tract_onnx::tract_core::ops::downsample::Downsample;
use tract_onnx::tract_core::ops::identity::Identity;

use super::own::{Built, Reading, axis_of, beside, integers};

/// Where the bounds come from.
#[derive(Clone, Debug)]
enum Bounds {
    /// Attributes, before operator set 10.
    Given { starts: Vec<i64>, ends: Vec<i64>, axes: Option<Vec<i64>> },
    /// Inputs 1 and 2, and those with axes and steps.
    Inputs { axes: Option<usize>, steps: Option<usize> },
}

#[derive(Clone, Debug)]
struct Slice {
    bounds: Bounds,
}

/// What stays of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    axis: usize,
    start: usize,
    step: i64,
    count: usize,
}

/// The elements from `start` to before `given_end`, of an axis of `extent`.
fn cut(axis: usize, extent: usize, start: i64, given_end: i64, step: i64) -> TractResult<Cut> {
    ensure!(step != 0, "a step is 0");
    let extent = extent as i64;
    let from_front = |bound: i64| if bound < 0 { bound.saturating_add(extent) } else { bound };
    let (start, end) = (from_front(start), from_front(given_end));
    let (start, end) = match step > 0 {
        true => (start.clamp(0, extent), end.clamp(0, extent)),
        false => (start.clamp(0, (extent - 1).max(0)), end.clamp(-1, extent - 1)),
    };
    // ONNX Runtime's way: backwards, these two are no numbers either.
    let to_front = step < 0 && [i64::from(i32::MAX), i64::MAX].contains(&given_end);
    let end = if to_front { -1 } else { end };
    let span = match step > 0 {
        _ if extent == 0 => 0,
        true => end - start,
        false => start - end,
    };
    let count = if span <= 0 { 0 } else { (span - 1) as u64 / step.unsigned_abs() + 1 };
    Ok(Cut { axis, start: start as usize, step, count: count as usize })
}

impl Slice {
    /// What stays of each axis that is cut; `None` while something is not known.
    fn cuts(&self, inputs: &[TypedFact]) -> TractResult<Option<Vec<Cut>>> {
        let known = |input: usize| -> TractResult<Option<Vec<i64>>> {
            let konst = inputs.get(input).and_then(|fact| fact.konst.as_ref());
            // Symbolic extents are not numbers yet.
            konst.filter(|konst| konst.datum_type() != DatumType::TDim).map(|k| integers(k)).transpose()
        };
        let Some(shape) = inputs[0].shape.as_concrete() else { return Ok(None) };
        let (starts, ends, axes, steps) = match &self.bounds {
            Bounds::Given { starts, ends, axes } => (starts.clone(), ends.clone(), axes.clone(), None),
            Bounds::Inputs { axes, steps } => {
                let (Some(starts), Some(ends)) = (known(1)?, known(2)?) else { return Ok(None) };
                let (given_axes, given_steps) = (axes.map(known), steps.map(known));
                let (axes, steps) = (given_axes.transpose()?, given_steps.transpose()?);
                if axes == Some(None) || steps == Some(None) {
                    return Ok(None);
                }
                (starts, ends, axes.flatten(), steps.flatten())
            }
        };
        let count = starts.len();
        let axes = axes.unwrap_or_else(|| (0..count as i64).collect());
        let steps = steps.unwrap_or_else(|| vec![1; count]);
        let lengths = [ends.len(), axes.len(), steps.len()];
        ensure!(lengths == [count; 3], "{count} starts, but {lengths:?} ends, axes and steps");
        let mut cuts: Vec<Cut> = vec![];
        for (at, axis) in axes.into_iter().enumerate() {
            let axis = axis_of(axis, shape.len())?;
            ensure!(cuts.iter().all(|cut| cut.axis != axis), "axis {axis} is given twice");
            cuts.push(cut(axis, shape[axis], starts[at], ends[at], steps[at])?);
        }
        Ok(Some(cuts))
    }
}

impl Reading for Slice {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        let Some(cuts) = self.cuts(inputs)? else { return Ok(None) };
        let mut shape = inputs[0].shape.to_tvec();
        cuts.iter().for_each(|cut| shape[cut.axis] = cut.count.to_dim());
        Ok(Some(tvec!(inputs[0].datum_type.fact(shape))))
    }

    fn tract_may_know(&self) -> bool {
        true
    }

    fn left_to_tract(&self, inputs: &[TypedFact]) -> bool {
        matches!(self.cuts(inputs), Ok(None))
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| model.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        let cuts = self.cuts(&facts)?.context("what it cuts depends on data")?;
        let mut wire = tvec!(inputs[0]);
        for Cut { axis, start, step, count } in cuts {
            let steps = step.unsigned_abs() as usize;
            let reach = count.saturating_sub(1).saturating_mul(steps);
            let (left, right) = match (count, step > 0) {
                (0, _) => (0, 0),
                (_, true) => (start, start + reach + 1),
                (_, false) => (start - reach, start + 1),
            };
            let part = Part::new(axis, left, right);
            wire = model.wire_node(format!("{name}.part.{axis}"), part, &wire)?;
            if count > 1 && step != 1 {
                let each = Downsample::new(axis, step as isize, 0);
                wire = model.wire_node(format!("{name}.each.{axis}"), each, &wire)?;
            }
        }
        model.wire_node(name, Identity, &wire)
    }
}

/// Reads a `Slice` node.
pub(super) fn slice(context: &ParsingContext, node: &NodeProto) -> Built {
    let bounds = match context.onnx_operator_set_version {
        ..10 => Bounds::Given {
            starts: node.get_attr_vec("starts")?,
            ends: node.get_attr_vec("ends")?,
            axes: node.get_attr_opt_vec("axes")?,
        },
        _ => {
            // The iterator does not end.
            let mut inputs = optional_inputs(node).skip(3);
            let mut input = || inputs.next().flatten();
            Bounds::Inputs { axes: input(), steps: input() }
        }
    };
    beside(context, node, super::tracts_readers()["Slice"], Slice { bounds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_clamped_as_the_specification_says() {
        let all = |start, end, step| cut(0, 10, start, end, step).map(|cut| (cut.start, cut.count)).unwrap();
        let wide = 1i64 << 32;
        assert_eq!(all(0, wide + 1, 1), (0, 10));
        assert_eq!(all(wide + 1, 2 * wide, 1).1, 0);
        assert_eq!(all(-wide - 3, wide, 1), (0, 10));
        assert_eq!(all(0, i64::MIN, 1).1, 0);
        assert_eq!(all(-1, i64::MAX, -1), (9, 10));
        assert_eq!(all(-1, 20, -1).1, 0);
        assert_eq!(all(-1, i64::MIN, -1), (9, 10));
        assert_eq!(all(i64::MAX, i64::MIN, -1), (9, 10));
        assert_eq!(all(1 << 31, 0, -1), (9, 9));
        assert_eq!(all(-20, i64::MIN, -1), (0, 1));
        assert_eq!(all(2, 9, 3), (2, 3));
        assert_eq!(all(9, 2, -3), (9, 3));
        assert_eq!(all(0, 10, i64::MAX), (0, 1));
        assert_eq!(all(9, i64::MIN, i64::MIN), (9, 1));
        assert_eq!(cut(0, 0, -1, i64::MIN, -1).unwrap().count, 0);
        assert_eq!(cut(0, 0, 0, i64::MAX, 1).unwrap().count, 0);
        assert!(cut(0, 10, 0, 10, 0).is_err());
    }
}
