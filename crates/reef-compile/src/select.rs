//! What selections mean, element by element: for both interpreters.

use std::cmp::Ordering;

use reef_graph::DType;
use reef_plan::{CompressSpec, NonMaxSuppressionSpec, NonZeroSpec, SelectionSpec, UniqueSpec};

use reef_graph::scalar::Element;

/// The elements of every output of `spec`, whose inputs have these elements.
pub(crate) fn select(spec: &SelectionSpec, inputs: &[Vec<Element>]) -> Result<Vec<Vec<Element>>, String> {
    let mut made = match spec {
        SelectionSpec::NonZero(spec) => non_zero(spec, &inputs[0]),
        SelectionSpec::Compress(spec) => compress(spec, &inputs[0], &inputs[1]),
        SelectionSpec::Unique(spec) => unique(spec, &inputs[0]),
        SelectionSpec::NonMaxSuppression(spec) => suppress(spec, inputs)?,
    };
    for (elements, (dtype, count)) in made.iter_mut().zip(spec.outputs()) {
        elements.resize(count, if dtype.is_float() { Element::Float(0.0) } else { Element::Int(0) });
    }
    Ok(made)
}

fn int(value: usize) -> Element {
    Element::Int(value as i64)
}

fn non_zero(spec: &NonZeroSpec, x: &[Element]) -> Vec<Vec<Element>> {
    let found: Vec<usize> = (0..x.len()).filter(|&at| x[at].float() != 0.0).collect();
    let index =
        |at: usize, axis: usize| at / spec.dims[axis + 1..].iter().product::<usize>() % spec.dims[axis];
    let row = |axis| found.iter().map(move |&at| int(index(at, axis)));
    vec![(0..spec.dims.len()).flat_map(row).collect(), vec![int(found.len())]]
}

/// The slices `picks` of x, by plane.
fn slices(x: &[Element], [outer, extent, inner]: [usize; 3], picks: &[usize]) -> Vec<Element> {
    let begins = (0..outer).flat_map(|plane| picks.iter().map(move |&pick| (plane * extent + pick) * inner));
    begins.flat_map(|begin| x[begin..begin + inner].iter().copied()).collect()
}

fn compress(spec: &CompressSpec, x: &[Element], conditions: &[Element]) -> Vec<Vec<Element>> {
    let picks: Vec<usize> = (0..spec.conditions).filter(|&at| conditions[at].int() != 0).collect();
    vec![slices(x, [spec.outer, spec.extent, spec.inner], &picks), vec![int(picks.len())]]
}

fn unique(spec: &UniqueSpec, x: &[Element]) -> Vec<Vec<Element>> {
    let dims = [spec.outer, spec.extent, spec.inner];
    let parts: Vec<Vec<Element>> = (0..spec.extent).map(|at| slices(x, dims, &[at])).collect();
    let mut firsts: Vec<usize> = vec![];
    for at in 0..spec.extent {
        if firsts.iter().all(|&first| order(spec.dtype, &parts[first], &parts[at]) != Ordering::Equal) {
            firsts.push(at);
        }
    }
    if spec.sorted {
        firsts.sort_by(|&a, &b| order(spec.dtype, &parts[a], &parts[b]));
    }
    let equal = |at: usize| {
        let same = |&first: &usize| order(spec.dtype, &parts[first], &parts[at]) == Ordering::Equal;
        firsts.iter().position(same).expect("every slice has its equal")
    };
    let inverse: Vec<usize> = (0..spec.extent).map(equal).collect();
    let counts = (0..firsts.len()).map(|own| inverse.iter().filter(|&&other| other == own).count());
    vec![
        slices(x, dims, &firsts),
        firsts.iter().map(|&at| int(at)).collect(),
        inverse.iter().map(|&at| int(at)).collect(),
        counts.map(int).collect(),
        vec![int(firsts.len())],
    ]
}

/// The order of two slices of this type.
fn order(dtype: DType, a: &[Element], b: &[Element]) -> Ordering {
    let one = |(a, b): (&Element, &Element)| match (*a, *b) {
        (Element::Int(a), Element::Int(b)) if dtype == DType::U64 => (a as u64).cmp(&(b as u64)),
        (Element::Int(a), Element::Int(b)) => a.cmp(&b),
        (a, b) => {
            let (a, b) = (a.float(), b.float());
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
    };
    a.iter().zip(b).map(one).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn suppress(spec: &NonMaxSuppressionSpec, inputs: &[Vec<Element>]) -> Result<Vec<Vec<Element>>, String> {
    let number = |element: Element| element.float() as f32;
    let most = usize::try_from(inputs[2][0].int()).unwrap_or(0).min(spec.per_class);
    let overlap = number(inputs[3][0]);
    if !(0.0..=1.0).contains(&overlap) {
        return Err(format!("iou_threshold is {overlap}, allowed are 0 to 1"));
    }
    let threshold = spec.score_threshold.then(|| number(inputs[4][0]));
    let mut rows = vec![];
    for class in 0..spec.batches * spec.classes {
        let batch = class / spec.classes;
        let score = |at: usize| number(inputs[1][class * spec.boxes + at]);
        let corners = |at: usize| {
            let first = (batch * spec.boxes + at) * 4;
            corners(spec.center_point_box, [0, 1, 2, 3].map(|side| number(inputs[0][first + side])))
        };
        let enough = |at: &usize| threshold.is_none_or(|threshold| score(*at) > threshold);
        let mut order: Vec<usize> = (0..spec.boxes).filter(enough).collect();
        // Stable: those of equal scores stay in their order.
        order.sort_by(|&a, &b| {
            let (a, b) = (score(a), score(b));
            b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        });
        let mut selected: Vec<usize> = vec![];
        for at in order {
            let clear = |&other: &usize| !suppresses(corners(at), corners(other), overlap);
            if selected.len() < most && selected.iter().all(clear) {
                selected.push(at);
                rows.extend([int(batch), int(class % spec.classes), int(at)]);
            }
        }
    }
    let count = int(rows.len() / 3);
    Ok(vec![rows, vec![count]])
}

/// Least and greatest x, then y.
fn corners(center_point_box: bool, sides: [f32; 4]) -> [[f32; 2]; 2] {
    let [a, b, c, d] = sides;
    if center_point_box {
        [[a - c / 2.0, a + c / 2.0], [b - d / 2.0, b + d / 2.0]]
    } else {
        [[b, d], [a, c]].map(|[a, b]| if a >= b { [b, a] } else { [a, b] })
    }
}

fn suppresses(a: [[f32; 2]; 2], b: [[f32; 2]; 2], threshold: f32) -> bool {
    let area = |[x, y]: [[f32; 2]; 2]| (x[1] - x[0]) * (y[1] - y[0]);
    let common = [0, 1].map(|axis| [a[axis][0].max(b[axis][0]), a[axis][1].min(b[axis][1])]);
    let none = common.iter().any(|[low, high]| high <= low) || area(common) <= 0.0;
    let union = area(a) + area(b) - area(common);
    let flat = area(a) <= 0.0 || area(b) <= 0.0 || union <= 0.0;
    !none && !flat && area(common) / union > threshold
}

#[cfg(test)]
mod tests {
    use reef_base::Rng;

    use super::*;

    /// Bytes of which many are alike, among them both zeros and NaN of every float type.
    fn random(rng: &mut Rng, (dtype, count): (DType, usize)) -> Vec<u8> {
        let element = |rng: &mut Rng| -> Vec<u8> {
            let top = match rng.below(6) {
                0 => 0x80,
                1 => 0x7F,
                2 => 0xFF,
                3 => 1,
                _ => 0,
            };
            let mut bytes = vec![if top & 0x7F == 0x7F { 0xFF } else { 0 }; dtype.bytes()];
            *bytes.last_mut().unwrap() = if dtype == DType::Bool { top & 1 } else { top };
            bytes
        };
        (0..count).flat_map(|_| element(rng)).collect()
    }

    /// The elements of every output, as bytes.
    fn meant(spec: &SelectionSpec, inputs: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, String> {
        let elements = |(bytes, (dtype, _)): (&Vec<u8>, (DType, usize))| -> Vec<Element> {
            bytes.chunks(dtype.bytes()).map(|bytes| Element::read(dtype, bytes)).collect()
        };
        let inputs: Vec<Vec<Element>> = inputs.iter().zip(spec.inputs()).map(elements).collect();
        let made = select(spec, &inputs)?;
        let bytes = |(elements, (dtype, _)): (Vec<Element>, (DType, usize))| -> Vec<u8> {
            let mut bytes = vec![0; elements.len() * dtype.bytes()];
            let places = bytes.chunks_mut(dtype.bytes());
            places.zip(elements).for_each(|(place, element)| element.write(dtype, place));
            bytes
        };
        Ok(made.into_iter().zip(spec.outputs()).map(bytes).collect())
    }

    fn made(spec: &SelectionSpec, inputs: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, String> {
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let mut outputs: Vec<Vec<u8>> =
            spec.outputs().iter().map(|(dtype, count)| vec![0x5A; dtype.bytes() * count]).collect();
        let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        reef_plan::select(spec, &inputs, &mut slices)?;
        Ok(outputs)
    }

    #[test]
    fn selections_over_bytes_mean_the_same() {
        use DType::{BF16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        let mut rng = Rng::new(11);
        for dtype in [Bool, U8, I8, U16, I16, U32, I32, U64, I64, F16, BF16, F32, F64] {
            for _ in 0..20 {
                let mut number = |most| rng.below(most) as usize;
                let (outer, extent, inner) = (number(3), number(6), number(3));
                let conditions = number(extent as u64 + 1);
                let specs = [
                    SelectionSpec::NonZero(NonZeroSpec { dtype, dims: vec![outer, extent, inner] }),
                    SelectionSpec::Compress(CompressSpec { dtype, outer, extent, inner, conditions }),
                    SelectionSpec::Unique(UniqueSpec { dtype, outer, extent, inner, sorted: true }),
                    SelectionSpec::Unique(UniqueSpec { dtype, outer, extent, inner, sorted: false }),
                ];
                for spec in specs {
                    let inputs = spec.inputs().into_iter().map(|input| random(&mut rng, input));
                    let inputs: Vec<Vec<u8>> = inputs.collect();
                    let (made, meant) = (made(&spec, &inputs).unwrap(), meant(&spec, &inputs).unwrap());
                    // Which of equal slices comes into y is the first; NaN keep their bits only in copies.
                    let skip = usize::from(dtype.is_float());
                    assert_eq!(made[skip..], meant[skip..], "{spec:?} of {inputs:?}");
                }
            }
        }
    }

    #[test]
    fn suppression_over_bytes_means_the_same() {
        let mut rng = Rng::new(12);
        for round in 0..100 {
            let (batches, classes, boxes) = (rng.below(3) as usize, 1 + rng.below(2) as usize, 8);
            let (center_point_box, score_threshold) = (round % 2 == 0, round % 3 == 0);
            let spec = NonMaxSuppressionSpec {
                batches,
                classes,
                boxes,
                per_class: 5,
                center_point_box,
                score_threshold,
            };
            let spec = SelectionSpec::NonMaxSuppression(spec);
            let mut numbers = |count: usize| -> Vec<u8> {
                let mut number = |_| rng.below(9) as f32 / 4.0 - 0.25;
                (0..count).flat_map(|at| number(at).to_le_bytes()).collect()
            };
            let mut inputs = vec![numbers(batches * boxes * 4), numbers(batches * classes * boxes)];
            inputs.extend([(rng.below(8) as i64 - 1).to_le_bytes().to_vec()]);
            inputs.push((rng.below(6) as f32 / 4.0).to_le_bytes().to_vec());
            inputs.extend(score_threshold.then(|| 0.25f32.to_le_bytes().to_vec()));
            match (made(&spec, &inputs), meant(&spec, &inputs)) {
                (Err(made), Err(meant)) => assert!(made.ends_with(&meant), "{made}"),
                (made, meant) => assert_eq!(made, meant, "{spec:?} of {inputs:?}"),
            }
        }
    }
}
