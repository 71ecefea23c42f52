//! Selections computed in one go on a host, over bytes: for devices that have no code of their own for them.

use std::cmp::Ordering;

use reef_graph::DType;

use crate::selection::{CompressSpec, NonMaxSuppressionSpec, NonZeroSpec, SelectionSpec, UniqueSpec};

/// Writes all of every output of `spec`; operands are dense, little endian, and as long as it says. The error
/// says what of the inputs' values means nothing.
pub fn select(spec: &SelectionSpec, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), String> {
    outputs.iter_mut().for_each(|output| output.fill(0));
    let (count, lists) = outputs.split_last_mut().expect("a selection has a count");
    let found = match spec {
        SelectionSpec::NonZero(spec) => non_zero(spec, inputs[0], lists[0]),
        SelectionSpec::Compress(spec) => {
            let held = (0..spec.conditions).filter(|&at| inputs[1][at] != 0);
            compress(spec, inputs[0], &held.collect::<Vec<_>>(), lists[0])
        }
        SelectionSpec::Unique(spec) => unique(spec, inputs[0], lists),
        SelectionSpec::NonMaxSuppression(spec) => suppress(spec, inputs, lists[0])?,
    };
    store(count, 0, found);
    Ok(())
}

/// Element `at` of a list of i64.
fn store(list: &mut [u8], at: usize, value: usize) {
    list[at * 8..][..8].copy_from_slice(&(value as i64).to_le_bytes());
}

/// The bits of element `at`.
fn bits(dtype: DType, bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    let size = dtype.bytes();
    word[..size].copy_from_slice(&bytes[at * size..][..size]);
    u64::from_le_bytes(word)
}

fn float(bytes: &[u8], at: usize) -> f32 {
    f32::from_bits(bits(DType::F32, bytes, at) as u32)
}

fn non_zero(spec: &NonZeroSpec, x: &[u8], indices: &mut [u8]) -> usize {
    let sign = u64::from(spec.dtype.is_float()) << (8 * spec.dtype.bytes() - 1);
    let elements: usize = spec.dims.iter().product();
    let found: Vec<usize> = (0..elements).filter(|&at| bits(spec.dtype, x, at) & !sign != 0).collect();
    let mut inner = elements.max(1);
    for (axis, &extent) in spec.dims.iter().enumerate() {
        inner /= extent.max(1);
        for (made, &at) in found.iter().enumerate() {
            store(indices, axis * found.len() + made, at / inner % extent);
        }
    }
    found.len()
}

/// Copies the slices `picks` of x, `[outer, extent, inner]` with `slice` bytes in the last axis.
fn pick(x: &[u8], [outer, extent, slice]: [usize; 3], picks: &[usize], y: &mut [u8]) {
    let from = (0..outer).flat_map(|plane| picks.iter().map(move |&pick| (plane * extent + pick) * slice));
    for (made, from) in from.enumerate() {
        y[made * slice..][..slice].copy_from_slice(&x[from..][..slice]);
    }
}

fn compress(spec: &CompressSpec, x: &[u8], held: &[usize], y: &mut [u8]) -> usize {
    pick(x, [spec.outer, spec.extent, spec.inner * spec.dtype.bytes()], held, y);
    held.len()
}

/// Integers in the order of the elements: both zeros are one, and so are all NaN, behind the numbers.
fn order(dtype: DType, x: &[u8], at: usize) -> i64 {
    let bits = bits(dtype, x, at);
    let float = |sign: u32, infinity: u64| {
        let magnitude = bits & ((1 << sign) - 1);
        match bits >> sign {
            _ if magnitude > infinity => i64::MAX,
            0 => magnitude as i64,
            _ => -(magnitude as i64),
        }
    };
    match dtype {
        DType::F64 => float(63, f64::INFINITY.to_bits()),
        DType::F32 => float(31, f32::INFINITY.to_bits().into()),
        DType::F16 => float(15, 0x7C00),
        DType::BF16 => float(15, 0x7F80),
        DType::I64 => bits as i64,
        DType::I32 => i64::from(bits as u32 as i32),
        DType::I16 => i64::from(bits as u16 as i16),
        DType::I8 => i64::from(bits as u8 as i8),
        DType::U64 => (bits ^ 1 << 63) as i64,
        DType::U32 | DType::U16 | DType::U8 | DType::Bool => bits as i64,
    }
}

fn unique(spec: &UniqueSpec, x: &[u8], lists: &mut [&mut [u8]]) -> usize {
    let UniqueSpec { dtype, outer, extent, inner, sorted } = *spec;
    let compare = |a: usize, b: usize| {
        let places = (0..outer).flat_map(|plane| (0..inner).map(move |at| (plane * extent * inner) + at));
        let mut each =
            places.map(|place| order(dtype, x, place + a * inner).cmp(&order(dtype, x, place + b * inner)));
        each.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    };
    let mut ranked: Vec<usize> = (0..extent).collect();
    // Stable: of equal slices the first comes first.
    ranked.sort_by(|&a, &b| compare(a, b));
    let mut groups: Vec<Vec<usize>> = vec![];
    for at in ranked {
        match groups.last_mut() {
            Some(group) if compare(group[0], at).is_eq() => group.push(at),
            _ => groups.push(vec![at]),
        }
    }
    if !sorted {
        groups.sort_by_key(|group| group[0]);
    }
    let [y, firsts, inverse, counts] = lists else { unreachable!("the validator counts operands") };
    for (number, group) in groups.iter().enumerate() {
        store(firsts, number, group[0]);
        store(counts, number, group.len());
        group.iter().for_each(|&at| store(inverse, at, number));
    }
    let picks: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    pick(x, [outer, extent, inner * dtype.bytes()], &picks, y);
    groups.len()
}

/// A box: least and greatest x, then y.
type Box2 = [[f32; 2]; 2];

fn suppress(spec: &NonMaxSuppressionSpec, inputs: &[&[u8]], rows: &mut [u8]) -> Result<usize, String> {
    let most = bits(DType::I64, inputs[2], 0) as i64;
    let most = usize::try_from(most).unwrap_or(0).min(spec.per_class);
    let overlap = float(inputs[3], 0);
    if !(0.0..=1.0).contains(&overlap) {
        return Err(format!("NonMaxSuppression: iou_threshold is {overlap}, allowed are 0 to 1"));
    }
    let least = spec.score_threshold.then(|| float(inputs[4], 0));
    let mut made = 0;
    for class in 0..spec.batches * spec.classes {
        let (batch, class_of_batch) = (class / spec.classes, class % spec.classes);
        let score = |at: usize| float(inputs[1], class * spec.boxes + at);
        let boxed = |at: usize| {
            let side = |side| float(inputs[0], (batch * spec.boxes + at) * 4 + side);
            corners(spec.center_point_box, [0, 1, 2, 3].map(side))
        };
        let enough = |at: &usize| least.is_none_or(|least| score(*at) > least);
        let mut ranked: Vec<usize> = (0..spec.boxes).filter(enough).collect();
        // Stable: those of equal scores stay in their order.
        ranked.sort_by(|&a, &b| {
            let (a, b) = (score(a), score(b));
            b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        });
        let mut selected: Vec<Box2> = vec![];
        for at in ranked {
            if selected.len() == most {
                break;
            }
            let own = boxed(at);
            if selected.iter().all(|other| !overlaps(own, *other, overlap)) {
                selected.push(own);
                let row = [batch, class_of_batch, at];
                row.iter().enumerate().for_each(|(column, &value)| store(rows, made * 3 + column, value));
                made += 1;
            }
        }
    }
    Ok(made)
}

fn corners(center_point_box: bool, [a, b, c, d]: [f32; 4]) -> Box2 {
    if center_point_box {
        [[a - c / 2.0, a + c / 2.0], [b - d / 2.0, b + d / 2.0]]
    } else {
        [[b, d], [a, c]].map(|[a, b]| if a >= b { [b, a] } else { [a, b] })
    }
}

/// Whether the common part of two boxes is more than `threshold` of both together.
fn overlaps(a: Box2, b: Box2, threshold: f32) -> bool {
    let area = |[x, y]: Box2| (x[1] - x[0]) * (y[1] - y[0]);
    let common = [0, 1].map(|axis| [a[axis][0].max(b[axis][0]), a[axis][1].min(b[axis][1])]);
    if common.iter().any(|[low, high]| high <= low) {
        return false;
    }
    let (shared, both) = (area(common), area(a) + area(b) - area(common));
    let flat = [shared, area(a), area(b), both].iter().any(|&area| area <= 0.0);
    !flat && shared / both > threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<T: Copy, const N: usize>(values: &[T], each: fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|&value| each(value)).collect()
    }

    /// The outputs as numbers, where the first one has elements of `dtype`.
    fn run(spec: SelectionSpec, inputs: &[Vec<u8>]) -> Result<Vec<Vec<i64>>, String> {
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let specs = spec.outputs();
        // Whatever was there before.
        let mut outputs: Vec<Vec<u8>> =
            specs.iter().map(|(dtype, count)| vec![0x5A; dtype.bytes() * count]).collect();
        let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        select(&spec, &inputs, &mut slices)?;
        let numbers = |(&(dtype, count), bytes): (&(DType, usize), &Vec<u8>)| {
            (0..count).map(|at| bits(dtype, bytes, at) as i64).collect()
        };
        Ok(specs.iter().zip(&outputs).map(numbers).collect())
    }

    #[test]
    fn indices_of_what_is_not_zero() {
        let x = bytes(&[0.0, -0.0, 1.5, f32::NAN, 0.0, -2.0], f32::to_le_bytes);
        let spec = SelectionSpec::NonZero(NonZeroSpec { dtype: DType::F32, dims: vec![2, 3] });
        let meant = vec![vec![0, 1, 1, 2, 0, 2, 0, 0, 0, 0, 0, 0], vec![3]];
        assert_eq!(run(spec, &[x]), Ok(meant));
    }

    #[test]
    fn slices_whose_condition_holds() {
        let spec = CompressSpec { dtype: DType::U8, outer: 2, extent: 3, inner: 2, conditions: 3 };
        let x: Vec<u8> = (1..=12).collect();
        let meant = vec![vec![1, 2, 5, 6, 7, 8, 11, 12, 0, 0, 0, 0], vec![2]];
        assert_eq!(run(SelectionSpec::Compress(spec), &[x, vec![1, 0, 7]]), Ok(meant));
    }

    #[test]
    fn distinct_slices() {
        let spec = |dtype, sorted| UniqueSpec { dtype, outer: 1, extent: 5, inner: 1, sorted };
        let x = bytes(&[3, -1, 3, -1, 2], i32::to_le_bytes);
        let made = run(SelectionSpec::Unique(spec(DType::I32, false)), std::slice::from_ref(&x)).unwrap();
        assert_eq!(made[1..], [vec![0, 1, 4, 0, 0], vec![0, 1, 0, 1, 2], vec![2, 2, 1, 0, 0], vec![3]]);
        let made = run(SelectionSpec::Unique(spec(DType::I32, true)), &[x]).unwrap();
        let one = i64::from(u32::MAX);
        assert_eq!(
            made,
            [vec![one, 2, 3, 0, 0], vec![1, 4, 0, 0, 0], vec![2, 0, 2, 0, 1], vec![2, 1, 2, 0, 0], vec![3]]
        );
        // A NaN equals a NaN and is the largest, whatever its sign; zeros are equal.
        let x = bytes(&[f32::NAN, 0.0, -f32::NAN, -0.0, f32::INFINITY], f32::to_le_bytes);
        let made = run(SelectionSpec::Unique(spec(DType::F32, true)), &[x]).unwrap();
        assert_eq!(made[1..], [vec![1, 4, 0, 0, 0], vec![2, 0, 2, 0, 1], vec![2, 1, 2, 0, 0], vec![3]]);
    }

    #[test]
    fn boxes_that_do_not_overlap_much() {
        let corners = [[0., 0., 1., 1.], [0., 0.1, 1., 1.1], [0., 10., 1., 11.]];
        let boxes = bytes(corners.as_flattened(), f32::to_le_bytes);
        let scores = bytes(&[0.5, 0.9, 0.7], f32::to_le_bytes);
        let spec = || {
            SelectionSpec::NonMaxSuppression(NonMaxSuppressionSpec {
                batches: 1,
                classes: 1,
                boxes: 3,
                per_class: 3,
                center_point_box: false,
                score_threshold: true,
            })
        };
        let with = |most: i64, overlap: f32, least: f32| {
            let single = |value: f32| value.to_le_bytes().to_vec();
            let most = most.to_le_bytes().to_vec();
            run(spec(), &[boxes.clone(), scores.clone(), most, single(overlap), single(least)])
        };
        assert_eq!(with(3, 0.5, 0.0), Ok(vec![vec![0, 0, 1, 0, 0, 2, 0, 0, 0], vec![2]]));
        assert_eq!(with(3, 0.9, 0.0).unwrap()[1], [3]);
        assert_eq!(with(1, 0.9, 0.0), Ok(vec![vec![0, 0, 1, 0, 0, 0, 0, 0, 0], vec![1]]));
        assert_eq!(with(3, 0.9, 0.6).unwrap()[1], [2]);
        assert_eq!(with(-1, 0.5, 0.0).unwrap()[1], [0]);
        assert!(with(3, 1.5, 0.0).unwrap_err().contains("iou_threshold is 1.5, allowed are 0 to 1"));
    }
}
