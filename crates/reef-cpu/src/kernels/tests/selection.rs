//! Selections: what is selected, zeros behind it, and the same to the bit when killed at any poll.

use reef_base::{AlignedBytes, Rng};
use reef_graph::DType;
use reef_plan::{
    CompressSpec, HostFault, KernelSpec, NonMaxSuppressionSpec, NonZeroSpec, SelectionSpec, UniqueSpec,
};

use super::{Bench, BlockEnd, Case, Operand, POISON, best};

/// Elements of a type, with ranks: equal ones have one rank, and that of 0 is 0.
pub(super) fn alphabet(dtype: DType) -> Vec<(i32, Vec<u8>)> {
    let bytes = |value: i128| value.to_le_bytes()[..dtype.bytes()].to_vec();
    let bits = 8 * dtype.bytes() as u32;
    if dtype.is_float() {
        let (infinity, one) = match dtype {
            DType::F16 => (0x7C00, 0x3C00),
            DType::BF16 => (0x7F80, 0x3F80),
            DType::F32 => (i128::from(f32::INFINITY.to_bits()), i128::from(1f32.to_bits())),
            _ => (i128::from(f64::INFINITY.to_bits()), i128::from(1f64.to_bits())),
        };
        let sign = 1 << (bits - 1);
        let (nan, other_nan) = (infinity + 1, sign + infinity + 5);
        let ranks = [-3, -2, -1, 0, 0, 1, 2, 3, 4, 4];
        let values = [sign + infinity, sign + one + 1, sign + one, sign, 0, one, one + 1, infinity];
        return ranks.into_iter().zip(values.into_iter().chain([nan, other_nan]).map(bytes)).collect();
    }
    let (min, max) = match dtype {
        DType::Bool => (0, 1),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => (0, (1 << bits) - 1),
        _ => (-1 << (bits - 1), (1 << (bits - 1)) - 1),
    };
    let mut values: Vec<i128> =
        [min, -1, 0, 1, 2, max / 2 + 1, max].into_iter().filter(|v| *v >= min).collect();
    values.retain(|value| *value <= max);
    values.sort_unstable();
    values.dedup();
    let zero = values.iter().position(|value| *value == 0).unwrap() as i32;
    values.into_iter().enumerate().map(|(at, value)| (at as i32 - zero, bytes(value))).collect()
}

/// Random elements of a type: ranks and bytes.
pub(super) struct Data {
    pub(super) ranks: Vec<i32>,
    pub(super) bytes: Vec<Vec<u8>>,
}

impl Data {
    pub(super) fn random(dtype: DType, count: usize, seed: u64) -> Data {
        let (letters, mut rng) = (alphabet(dtype), Rng::new(seed));
        let picks: Vec<_> =
            (0..count).map(|_| letters[rng.below(letters.len() as u64) as usize].clone()).collect();
        Data::of(&picks)
    }

    pub(super) fn of(picks: &[(i32, Vec<u8>)]) -> Data {
        let (ranks, bytes) = picks.iter().cloned().unzip();
        Data { ranks, bytes }
    }

    pub(super) fn operand(&self) -> Operand {
        Operand::Input(AlignedBytes::copy_from(&self.bytes.concat()))
    }
}

/// The bytes of integers.
fn list(values: impl IntoIterator<Item = usize>) -> Vec<u8> {
    values.into_iter().flat_map(|value| (value as i64).to_le_bytes()).collect()
}

/// Runs a selection: the part of every output that is meant is as expected, the rest zero, the bytes around
/// them as before, and all of it whichever poll killed an earlier run.
fn check(name: &str, spec: SelectionSpec, operands: Vec<Operand>, meant: &[Vec<u8>]) {
    let mut sizes = spec.outputs().into_iter().map(|(dtype, count)| count * dtype.bytes());
    let out_bytes = sizes.next().unwrap();
    let more_bytes = sizes.collect();
    let case = Case { operands, out_bytes, more_bytes, ..Case::f32(name, |_| unreachable!()) };
    let mut bench = Bench::new(&case, KernelSpec::Selection(spec), best());
    let output = bench.run_all(1);
    let mut expected = vec![POISON; output.len()];
    for (region, meant) in case.regions().iter().zip(meant) {
        expected[region.offset..region.end()].fill(0);
        expected[region.offset..region.offset + meant.len()].copy_from_slice(meant);
    }
    assert!(output == expected, "{name}: {output:?} is not {expected:?}");
    bench.check_rerun(&output, name);
    for at in (0..).take_while(|_| !cfg!(feature = "no-polls")) {
        let (end, polls) = bench.run(0, Some(at));
        if polls <= at {
            assert!(polls > 0 || out_bytes == 0, "{name}: it never polls");
            break;
        }
        assert_eq!((end, polls), (BlockEnd::Killed, at + 1), "{name}");
        assert_eq!(bench.run(0, None).0, BlockEnd::Done);
        assert!(bench.output.as_slice() == output, "{name}: killed at poll {at}, other bits");
    }
}

#[test]
fn indices_of_what_is_not_zero() {
    let shapes: [&[usize]; 8] =
        [&[1], &[7], &[3, 5], &[2, 1, 3, 4], &[0, 3], &[1, 2, 1, 2, 1, 2, 2, 2], &[30, 70], &[9000]];
    for (seed, dims) in shapes.into_iter().enumerate() {
        let count = dims.iter().product();
        for dtype in DType::ALL {
            let letters = alphabet(dtype);
            let zero: Vec<_> = letters.iter().filter(|letter| letter.0 == 0).cloned().collect();
            let other = letters.iter().find(|letter| letter.0 != 0).unwrap().clone();
            for data in [
                Data::random(dtype, count, seed as u64),
                Data::of(&(0..count).map(|at| zero[at % zero.len()].clone()).collect::<Vec<_>>()),
                Data::of(&vec![other.clone(); count]),
            ] {
                let found: Vec<usize> = (0..count).filter(|&at| data.ranks[at] != 0).collect();
                let index =
                    |axis: usize, at: usize| at / dims[axis + 1..].iter().product::<usize>() % dims[axis];
                let rows = (0..dims.len()).flat_map(|axis| found.iter().map(move |&at| (axis, at)));
                let rows = list(rows.map(|(axis, at)| index(axis, at)));
                let spec = SelectionSpec::NonZero(NonZeroSpec { dtype, dims: dims.to_vec() });
                let meant = [rows, list([found.len()])];
                check(&format!("non-zero of {dtype} {dims:?}"), spec, vec![data.operand()], &meant);
            }
        }
    }
}

/// The slices `picks` of data `[outer, extent, inner]`.
fn slices(data: &Data, [outer, extent, inner]: [usize; 3], picks: &[usize]) -> Vec<u8> {
    let mut bytes = vec![];
    for plane in 0..outer {
        for pick in picks {
            let first = (plane * extent + pick) * inner;
            bytes.extend(data.bytes[first..first + inner].concat());
        }
    }
    bytes
}

#[test]
fn slices_for_which_a_condition_holds() {
    let shapes = [
        [1, 9, 1],
        [1, 5, 70],
        [3, 4, 2],
        [2, 6, 1],
        [0, 3, 2],
        [2, 0, 2],
        [2, 3, 0],
        [1, 5000, 1],
        [2, 3, 20_000],
    ];
    for (seed, dims) in shapes.into_iter().enumerate() {
        let [outer, extent, inner] = dims;
        for dtype in [DType::F32, DType::F16, DType::I64, DType::Bool] {
            let data = Data::random(dtype, outer * extent * inner, seed as u64);
            let mut rng = Rng::new(seed as u64);
            for conditions in [extent, extent.saturating_sub(2), 0] {
                for some in [0, 1, 2] {
                    // None, all, or some of them.
                    let held: Vec<u8> =
                        (0..conditions).map(|_| if some == 2 { rng.below(2) as u8 } else { some }).collect();
                    let picks: Vec<usize> = (0..conditions).filter(|&at| held[at] != 0).collect();
                    let spec = CompressSpec { dtype, outer, extent, inner, conditions };
                    let meant = [slices(&data, dims, &picks), list([picks.len()])];
                    let operands = vec![data.operand(), Operand::Input(AlignedBytes::copy_from(&held))];
                    let name = format!("compress {dtype} {dims:?} by {conditions}");
                    check(&name, SelectionSpec::Compress(spec), operands, &meant);
                }
            }
        }
    }
}

#[test]
fn distinct_slices() {
    let shapes =
        [[1, 12, 1], [1, 200, 1], [1, 60, 2], [3, 40, 1], [2, 1, 3], [1, 0, 1], [2, 5, 0], [0, 5, 2]];
    for (seed, dims) in shapes.into_iter().chain([[1, 700, 1], [2, 6, 3000]]).enumerate() {
        let [outer, extent, inner] = dims;
        for dtype in DType::ALL {
            let mut data = Data::random(dtype, outer * extent * inner, seed as u64);
            if inner > 1000 {
                // Equal but for their last elements.
                let (all, last) = (data.bytes[0].clone(), data.ranks[0]);
                for at in (0..data.ranks.len()).filter(|at| at % inner + 1 < inner || *at < inner * extent) {
                    (data.bytes[at], data.ranks[at]) = (all.clone(), last);
                }
            }
            let slice = |at: usize| -> Vec<i32> {
                let planes = (0..outer).map(|plane| (plane * extent + at) * inner);
                planes.flat_map(|first| data.ranks[first..first + inner].to_vec()).collect()
            };
            for sorted in [true, false] {
                let mut firsts: Vec<usize> =
                    (0..extent).filter(|&at| (0..at).all(|other| slice(other) != slice(at))).collect();
                if sorted {
                    firsts.sort_by_key(|&at| slice(at));
                }
                let equal = |at: usize| firsts.iter().position(|&first| slice(first) == slice(at)).unwrap();
                let inverse: Vec<usize> = (0..extent).map(equal).collect();
                let counts = (0..firsts.len()).map(|own| inverse.iter().filter(|&&at| at == own).count());
                let meant = [
                    slices(&data, dims, &firsts),
                    list(firsts.iter().copied()),
                    list(inverse.iter().copied()),
                    list(counts),
                    list([firsts.len()]),
                ];
                let spec = UniqueSpec { dtype, outer, extent, inner, sorted };
                let name = format!("unique {dtype} {dims:?}, sorted {sorted}");
                check(&name, SelectionSpec::Unique(spec), vec![data.operand()], &meant);
            }
        }
    }
}

/// Numbers as an operand.
fn numbers(values: &[f32]) -> Operand {
    Operand::Input(AlignedBytes::copy_from(bytemuck::cast_slice(values)))
}

/// A suppression, its boxes and scores, and what is asked for.
struct Suppression {
    spec: NonMaxSuppressionSpec,
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    most: i64,
    overlap: f32,
    score: f32,
}

impl Suppression {
    /// One batch, one class, no threshold of scores.
    fn one(boxes: &[[f32; 4]], scores: &[f32]) -> Suppression {
        let spec = NonMaxSuppressionSpec {
            batches: 1,
            classes: 1,
            boxes: boxes.len(),
            per_class: boxes.len(),
            center_point_box: false,
            score_threshold: false,
        };
        let (boxes, scores) = (boxes.to_vec(), scores.to_vec());
        Suppression { spec, boxes, scores, most: 100, overlap: 0.5, score: 0.0 }
    }

    fn operands(&self) -> Vec<Operand> {
        let mut operands = vec![numbers(self.boxes.as_flattened()), numbers(&self.scores)];
        operands.push(Operand::Input(AlignedBytes::copy_from(&self.most.to_le_bytes())));
        operands.push(numbers(&[self.overlap]));
        operands.extend(self.spec.score_threshold.then(|| numbers(&[self.score])));
        operands
    }

    fn check(&self, name: &str, rows: &[[usize; 3]]) {
        let meant = [list(rows.as_flattened().iter().copied()), list([rows.len()])];
        check(name, SelectionSpec::NonMaxSuppression(self.spec.clone()), self.operands(), &meant);
    }

    /// The rows that there should be: the best box that is left, again and again.
    fn rows(&self) -> Vec<[usize; 3]> {
        let spec = &self.spec;
        let mut rows = vec![];
        for (batch, class) in (0..spec.batches).flat_map(|b| (0..spec.classes).map(move |c| (b, c))) {
            let score = |at: usize| self.scores[(batch * spec.classes + class) * spec.boxes + at];
            let enough = |at: &usize| !spec.score_threshold || score(*at) > self.score;
            let mut left: Vec<usize> = (0..spec.boxes).filter(enough).collect();
            let most = spec.per_class.min(self.most.max(0) as usize);
            for _ in 0..most {
                // The last of the largest by reference is the first: boxes are looked at backwards.
                let best = left.iter().copied().rev().max_by(|&a, &b| score(a).total_cmp(&score(b)));
                let Some(best) = best else { break };
                rows.push([batch, class, best]);
                let at = |place: usize| self.boxes[batch * spec.boxes + place];
                left.retain(|&other| other != best && !self.suppresses(at(best), at(other)));
            }
        }
        rows
    }

    fn suppresses(&self, a: [f32; 4], b: [f32; 4]) -> bool {
        let span = |a: f32, b: f32| {
            if self.spec.center_point_box { (a - b / 2.0, a + b / 2.0) } else { (a.min(b), a.max(b)) }
        };
        let spans = |[p, q, r, s]: [f32; 4]| [span(p, r), span(q, s)];
        let (a, b) = (spans(a), spans(b));
        let area = |spans: [(f32, f32); 2]| (spans[0].1 - spans[0].0) * (spans[1].1 - spans[1].0);
        let common = [0, 1].map(|axis| (a[axis].0.max(b[axis].0), a[axis].1.min(b[axis].1)));
        let met = common.iter().all(|span| span.1 > span.0) && area(a) > 0.0 && area(b) > 0.0;
        met && area(common) / (area(a) + area(b) - area(common)) > self.overlap
    }
}

#[test]
fn boxes_that_overlap_better_ones_are_suppressed() {
    let mut rng = Rng::new(3);
    for (batches, classes, boxes, per_class) in [
        (1, 1, 6, 6),
        (2, 3, 20, 20),
        (1, 2, 300, 40),
        (2, 2, 9, 2),
        (1, 0, 4, 4),
        (0, 2, 4, 4),
        (2, 2, 0, 0),
    ] {
        for kind in 0..8 {
            let (center_point_box, score_threshold) = (kind & 1 == 1, kind & 2 == 2);
            // Corners in any order, on a grid, so that boxes touch, coincide and have no area.
            let boxes_of = |rng: &mut Rng| [0; 4].map(|_| rng.below(6) as f32);
            let suppression = Suppression {
                spec: NonMaxSuppressionSpec {
                    batches,
                    classes,
                    boxes,
                    per_class,
                    center_point_box,
                    score_threshold,
                },
                boxes: (0..batches * boxes).map(|_| boxes_of(&mut rng)).collect(),
                scores: (0..batches * classes * boxes).map(|_| rng.below(9) as f32 / 8.0).collect(),
                most: [1000, 3][kind / 4],
                overlap: [0.0, 0.3, 0.5, 1.0][kind / 2],
                score: 0.5,
            };
            let name = format!("{batches} batches, {classes} classes, {boxes} boxes, kind {kind}");
            suppression.check(&name, &suppression.rows());
        }
    }
}

#[test]
fn ties_thresholds_and_odd_boxes() {
    let (square, far) = ([0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0]);
    // Equal scores: the first one. Of scores at the threshold none; NaN comes last.
    Suppression::one(&[far, square, square], &[0.5, 0.7, 0.7]).check("ties", &[[0, 0, 1], [0, 0, 0]]);
    let mut tied = Suppression::one(&[square, far], &[0.5, 0.75]);
    (tied.spec.score_threshold, tied.score) = (true, 0.5);
    tied.check("at the threshold", &[[0, 0, 1]]);
    Suppression::one(&[square, far], &[f32::NAN, -1.0]).check("NaN last", &[[0, 0, 1], [0, 0, 0]]);
    (tied.scores, tied.score) = (vec![f32::NAN, 1.0], -1.0);
    tied.check("NaN is not above a threshold", &[[0, 0, 1]]);
    // Half of a box is what overlaps: at the threshold, and above it.
    let mut half = Suppression::one(&[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]], &[1.0, 0.5]);
    half.check("at the threshold of overlap", &[[0, 0, 0], [0, 0, 1]]);
    half.overlap = 0.499;
    half.check("above the threshold of overlap", &[[0, 0, 0]]);
    // Corners in any order are the same box; boxes that touch or have no area suppress nothing.
    let turned = Suppression::one(&[square, [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]], &[0.9, 0.8, 0.7]);
    turned.check("turned", &[[0, 0, 0]]);
    let mut flat =
        Suppression::one(&[square, [1.0, 0.0, 2.0, 1.0], [0.5, 0.5, 0.5, 0.9], [0.5; 4]], &[0.9; 4]);
    flat.overlap = 0.0;
    flat.check("touching and flat", &[[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3]]);
    for most in [0, -1, i64::MIN] {
        let none = Suppression { most, ..Suppression::one(&[square], &[1.0]) };
        none.check("none asked for", &[]);
    }
    let mut few = Suppression { most: i64::MAX, ..Suppression::one(&[square, far], &[0.1, 0.2]) };
    few.spec.per_class = 1;
    few.check("no more than there is room for", &[[0, 0, 1]]);
}

/// However much there is to do, a poll is never far.
#[test]
#[cfg(not(feature = "no-polls"))]
fn selections_poll_all_the_time() {
    const COUNT: usize = 50_000;
    let x = || numbers(&super::random(1, COUNT));
    let held = || Operand::Input(AlignedBytes::copy_from(&vec![1; COUNT]));
    let (dtype, outer, extent, inner) = (DType::F32, 1, COUNT, 1);
    let (conditions, sorted) = (COUNT, false);
    let boxes = Suppression {
        most: 1,
        ..Suppression::one(&vec![[0.0, 0.0, 1.0, 1.0]; COUNT / 4], &super::random(2, COUNT / 4))
    };
    for (spec, operands) in [
        (SelectionSpec::NonZero(NonZeroSpec { dtype, dims: vec![COUNT] }), vec![x()]),
        (
            SelectionSpec::Compress(CompressSpec { dtype, outer, extent, inner, conditions }),
            vec![x(), held()],
        ),
        (SelectionSpec::Unique(UniqueSpec { dtype, outer, extent, inner, sorted }), vec![x()]),
        (SelectionSpec::NonMaxSuppression(boxes.spec.clone()), boxes.operands()),
    ] {
        let mut sizes = spec.outputs().into_iter().map(|(dtype, count)| count * dtype.bytes());
        let (out_bytes, more_bytes) = (sizes.next().unwrap(), sizes.collect());
        let case = Case { operands, out_bytes, more_bytes, ..Case::f32("all", |_| unreachable!()) };
        let mut bench = Bench::new(&case, KernelSpec::Selection(spec.clone()), best());
        let (end, polls) = bench.run(0, None);
        assert_eq!(end, BlockEnd::Done);
        assert!(polls as usize >= COUNT / 4096, "{}: {polls} polls", spec.name());
    }
}

#[test]
fn overlaps_are_shares() {
    for overlap in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        let bad = Suppression { overlap, ..Suppression::one(&[[0.0; 4]], &[1.0]) };
        let spec = KernelSpec::Selection(SelectionSpec::NonMaxSuppression(bad.spec.clone()));
        let operands = bad.operands();
        let case =
            Case { operands, out_bytes: 24, more_bytes: vec![8], ..Case::f32("nms", |_| unreachable!()) };
        let end = Bench::new(&case, spec, best()).run(0, None).0;
        let BlockEnd::Failed(fault) = end else { panic!("{end:?}") };
        let reason = format!("NonMaxSuppression: iou_threshold is {overlap}, allowed are 0 to 1");
        assert_eq!(fault.told(), HostFault::of_input("nms", reason));
    }
}
