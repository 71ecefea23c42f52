//! Operators that select: how large their result is, data decide.
//!
//! Shapes in a graph are concrete, so every output is as large as it can become. The last one, an i64 of one
//! element, is the *count* of what was selected, and says how much of the others is meant: their first
//! elements, dense in the shape that they have for this count. Behind these they hold zeros.

use crate::dtype::DType;
use crate::tensor::Shape;

/// What is selected. Semantics are ONNX's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Input x; outputs the indices of its elements other than 0, `[rank, count]`, in row-major order of the
    /// elements, and the count. A scalar has one axis.
    NonZero,
    /// Inputs x and a boolean condition of one axis, which may be shorter than what it is of; outputs the
    /// slices along `axis` for which the condition holds, and the count. Without an axis, elements of x as
    /// one row.
    Compress {
        /// The axis.
        axis: Option<usize>,
    },
    /// Input x; outputs its distinct slices along `axis`, the index of the first one equal to each, for every
    /// slice of x the index of its equal, how many are equal to each, and the count. Without an axis,
    /// elements of x as one row. A NaN equals a NaN and is larger than numbers; zeros are equal.
    Unique {
        /// The axis.
        axis: Option<usize>,
        /// In ascending order of the slices, compared element by element; else in that of first occurrence.
        sorted: bool,
    },
    /// Inputs boxes `[batches, boxes, 4]`, scores `[batches, classes, boxes]`, the most boxes of a class
    /// (an i64), the threshold of overlap and optionally that of scores (one f32 each); outputs the selected
    /// ones, `[count, 3]` of batch, class and box, and the count. Boxes of equal scores come in their order,
    /// those whose score is NaN last.
    NonMaxSuppression {
        /// Boxes are `[x centre, y centre, width, height]`, else `[y, x, y, x]` of opposite corners.
        center_point_box: bool,
        /// Most boxes of a class, whatever the input says.
        per_class: usize,
    },
}

impl Selection {
    /// The operator's name in ONNX.
    pub fn name(&self) -> &'static str {
        match self {
            Selection::NonZero => "NonZero",
            Selection::Compress { .. } => "Compress",
            Selection::Unique { .. } => "Unique",
            Selection::NonMaxSuppression { .. } => "NonMaxSuppression",
        }
    }

    /// Types and shapes of the outputs at their largest, or what is wrong with the inputs.
    pub fn outputs(&self, inputs: &[(DType, Shape)]) -> Result<Vec<(DType, Shape)>, String> {
        let list = |shapes: &[usize]| shapes.iter().map(|&n| (DType::I64, Shape::from([n]))).collect();
        let mut outputs: Vec<(DType, Shape)> = match (self, inputs) {
            (Selection::NonZero, [(_, x)]) => {
                vec![(DType::I64, Shape::from([x.rank().max(1), x.elements()]))]
            }
            (Selection::Compress { axis }, [(dtype, x), (condition, conditions)]) => {
                if *condition != DType::Bool || conditions.rank() != 1 {
                    return Err(format!("its condition is {condition}{conditions}, not a row of booleans"));
                }
                vec![(*dtype, along(x, *axis)?.0)]
            }
            (Selection::Unique { axis, .. }, [(dtype, x)]) => {
                let (shape, extent) = along(x, *axis)?;
                let mut outputs: Vec<(DType, Shape)> = list(&[extent; 3]);
                outputs.insert(0, (*dtype, shape));
                outputs
            }
            (Selection::NonMaxSuppression { per_class, .. }, [boxes, scores, limits @ ..]) => {
                list_of_boxes(boxes, scores, limits, *per_class)?
            }
            _ => return Err(format!("it has {} inputs", inputs.len())),
        };
        outputs.push((DType::I64, Shape::from([1])));
        Ok(outputs)
    }
}

/// The shape of all slices of `x` along `axis`, or of all elements as one row; and how many they are.
fn along(x: &Shape, axis: Option<usize>) -> Result<(Shape, usize), String> {
    match axis {
        None => Ok((Shape::from([x.elements()]), x.elements())),
        Some(axis) if axis < x.rank() => Ok((x.clone(), x[axis])),
        Some(axis) => Err(format!("axis {axis} of {x}")),
    }
}

/// The output of a non-maximum suppression.
fn list_of_boxes(
    boxes: &(DType, Shape),
    scores: &(DType, Shape),
    limits: &[(DType, Shape)],
    per_class: usize,
) -> Result<Vec<(DType, Shape)>, String> {
    let wanted = [DType::I64, DType::F32, DType::F32];
    let ([most, overlap] | [most, overlap, _]) = limits else {
        return Err(format!("it has {} inputs", limits.len() + 2));
    };
    let types = [boxes.0, scores.0] == [DType::F32; 2]
        && limits
            .iter()
            .zip(wanted)
            .all(|((dtype, shape), wanted)| *dtype == wanted && shape.elements() == 1);
    let (([batches, count, 4], [also_batches, classes, also_count]), true) =
        ((&boxes.1[..], &scores.1[..]), types)
    else {
        let (boxes, scores) = (format!("{}{}", boxes.0, boxes.1), format!("{}{}", scores.0, scores.1));
        return Err(format!("boxes {boxes}, scores {scores}, limits {most:?} and {overlap:?}"));
    };
    if (batches, count) != (also_batches, also_count) {
        return Err(format!("boxes {} do not fit scores {}", boxes.1, scores.1));
    }
    let rows = batches * classes * per_class.min(*count);
    Ok(vec![(DType::I64, Shape::from([rows, 3]))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(selection: Selection, inputs: &[(DType, &[usize])]) -> Result<String, String> {
        let inputs: Vec<_> = inputs.iter().map(|&(dtype, shape)| (dtype, Shape::new(shape))).collect();
        let outputs = selection.outputs(&inputs)?;
        Ok(outputs.iter().map(|(dtype, shape)| format!("{dtype}{shape}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn outputs_are_as_large_as_they_can_become() {
        use DType::{Bool, F32, I64, U8};
        let made = |selection, inputs: &[(DType, &[usize])]| shapes(selection, inputs).unwrap();
        assert_eq!(made(Selection::NonZero, &[(Bool, &[2, 3, 4])]), "i64[3,24] i64[1]");
        assert_eq!(made(Selection::NonZero, &[(F32, &[])]), "i64[1,1] i64[1]");
        assert_eq!(made(Selection::NonZero, &[(F32, &[2, 0])]), "i64[2,0] i64[1]");
        let compress = |axis| made(Selection::Compress { axis }, &[(U8, &[2, 3]), (Bool, &[2])]);
        assert_eq!((compress(None), compress(Some(1))), ("u8[6] i64[1]".into(), "u8[2,3] i64[1]".into()));
        let unique = |axis| made(Selection::Unique { axis, sorted: true }, &[(F32, &[2, 3])]);
        assert_eq!(unique(None), "f32[6] i64[6] i64[6] i64[6] i64[1]");
        assert_eq!(unique(Some(0)), "f32[2,3] i64[2] i64[2] i64[2] i64[1]");
        let suppression = |per_class| {
            let inputs: [(DType, &[usize]); 5] =
                [(F32, &[2, 7, 4]), (F32, &[2, 3, 7]), (I64, &[1]), (F32, &[1]), (F32, &[])];
            let suppression = || Selection::NonMaxSuppression { center_point_box: false, per_class };
            assert_eq!(made(suppression(), &inputs), made(suppression(), &inputs[..4]));
            made(suppression(), &inputs)
        };
        assert_eq!((suppression(5), suppression(9)), ("i64[30,3] i64[1]".into(), "i64[42,3] i64[1]".into()));
    }

    #[test]
    fn inputs_that_do_not_fit_are_named() {
        use DType::{Bool, F32, I64};
        let refused = |selection, inputs: &[(DType, &[usize])]| shapes(selection, inputs).unwrap_err();
        assert_eq!(refused(Selection::NonZero, &[]), "it has 0 inputs");
        let compress = |axis, condition| refused(Selection::Compress { axis }, &[(F32, &[2]), condition]);
        assert_eq!(compress(Some(1), (Bool, &[2])), "axis 1 of [2]");
        assert_eq!(compress(None, (I64, &[2])), "its condition is i64[2], not a row of booleans");
        assert_eq!(compress(None, (Bool, &[2, 1])), "its condition is bool[2,1], not a row of booleans");
        let boxes = |inputs: &[(DType, &[usize])]| {
            refused(Selection::NonMaxSuppression { center_point_box: true, per_class: 1 }, inputs)
        };
        assert_eq!(boxes(&[(F32, &[1, 2, 4]), (F32, &[1, 1, 2]), (I64, &[1])]), "it has 3 inputs");
        let other = [(F32, &[1, 2, 4][..]), (F32, &[1, 1, 3]), (I64, &[1]), (F32, &[1])];
        assert_eq!(boxes(&other), "boxes [1,2,4] do not fit scores [1,1,3]");
        for wrong in [(F32, &[1, 2, 5][..]), (DType::F16, &[1, 2, 4]), (F32, &[2, 4])] {
            let reason = boxes(&[wrong, (F32, &[1, 1, 2]), (I64, &[1]), (F32, &[1])]);
            assert!(reason.starts_with("boxes "), "{reason}");
        }
        let most = [(F32, &[1, 2, 4][..]), (F32, &[1, 1, 2]), (F32, &[1]), (F32, &[1])];
        assert!(boxes(&most).contains("limits"), "{}", boxes(&most));
    }
}
