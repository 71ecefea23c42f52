//! Attention in one kernel: rows that pack and few that do not, several chunks of keys, masks, scores of −∞.

use reef_base::AlignedBytes;
use reef_plan::{AttentionSpec, Isa, KernelSpec, Masking};

use super::{Case, Operand, check, random};

/// Batch of 2 × 3, k transposed: keys lie along their elements.
fn spec(m: usize, n: usize, depth: usize, width: usize) -> AttentionSpec {
    AttentionSpec {
        batch: vec![[2, 3 * m * depth, 3 * n * depth, 3 * n * width, 0, 3 * m * width], {
            [3, m * depth, n * depth, n * width, 0, m * width]
        }],
        m,
        n,
        depth,
        width,
        q_strides: [depth, 1],
        k_strides: [1, depth],
        v_strides: [width, 1],
        mask: None,
        y_row_stride: width,
        alpha: 0.5,
        tile_rows: m,
    }
}

/// What masks scores.
enum Given {
    Nothing,
    Floats(Vec<f32>),
    Bytes(Vec<u8>),
}

fn expected(spec: &AttentionSpec, operands: [&[f32]; 3], mask: &Given) -> Vec<(usize, f64)> {
    let [q, k, v] = operands;
    let mut expected = vec![];
    for plane in 0..spec.planes() {
        let [q_at, k_at, v_at, mask_at, y_at] = spec.plane_offsets(plane);
        for row in 0..spec.m {
            let score = |key: usize| {
                let product = |at: usize| {
                    let q = q[q_at + row * spec.q_strides[0] + at * spec.q_strides[1]];
                    f64::from(q) * f64::from(k[k_at + at * spec.k_strides[0] + key * spec.k_strides[1]])
                };
                let score = f64::from(spec.alpha) * (0..spec.depth).map(product).sum::<f64>();
                let Some((masking, strides)) = spec.mask else { return score };
                let at = mask_at + row * strides[0] + key * strides[1];
                match (masking, mask) {
                    (Masking::Add, Given::Floats(mask)) => score + f64::from(mask[at]),
                    (Masking::Replace { when, value }, Given::Bytes(mask)) => {
                        if (mask[at] != 0) == when {
                            f64::from(value)
                        } else {
                            score
                        }
                    }
                    _ => unreachable!("masks are as the specification says"),
                }
            };
            let scores: Vec<f64> = (0..spec.n).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for column in 0..spec.width {
                let value = |(key, weight): (usize, &f64)| {
                    weight * f64::from(v[v_at + key * spec.v_strides[0] + column * spec.v_strides[1]])
                };
                let value = weights.iter().enumerate().map(value).sum::<f64>() / total;
                expected.push((y_at + row * spec.y_row_stride + column, value));
            }
        }
    }
    expected
}

fn case(name: &str, spec: &AttentionSpec, mask: Given) -> Case {
    let planes = spec.planes();
    let sizes = [spec.m * spec.depth, spec.n * spec.depth, spec.n * spec.width].map(|size| planes * size);
    let [q, k, v] = [0, 1, 2].map(|seed| {
        let spread = if seed < 2 { 3.0 } else { 1.0 };
        random(seed as u64 + 7, sizes[seed]).iter().map(|x| x * spread).collect::<Vec<f32>>()
    });
    let expected = expected(spec, [&q, &k, &v], &mask);
    let cut = |tile_rows: usize| {
        let spec = spec.clone();
        move |_: Isa| KernelSpec::Attention(AttentionSpec { tile_rows, ..spec.clone() })
    };
    let mut case =
        Case::f32(name, cut(spec.m)).cut(cut(1)).cut(cut(spec.m.div_ceil(2))).cut(cut(13.min(spec.m)));
    case = case.input(&q).input(&k).input(&v);
    case.operands.extend(match mask {
        Given::Nothing => None,
        Given::Floats(mask) => Some(Operand::Input(AlignedBytes::copy_from(bytemuck::cast_slice(&mask)))),
        Given::Bytes(mask) => Some(Operand::Input(AlignedBytes::copy_from(&mask))),
    });
    case.expects(planes * spec.m * spec.y_row_stride, expected)
}

#[test]
fn rows_and_keys_of_any_number() {
    for m in [1, 2, 3, 4, 12, 13, 31] {
        for n in [1, 7, 128, 129, 300] {
            for (depth, width) in [(1, 1), (16, 32), (17, 100), (64, 64), (7, 200)] {
                let name = format!("{m} rows, {n} keys, {depth} deep, {width} wide");
                check(&case(&name, &spec(m, n, depth, width), Given::Nothing));
            }
        }
    }
}

#[test]
fn operands_of_any_strides() {
    let mut turned = spec(5, 140, 24, 40);
    turned.q_strides = [1, 5];
    turned.k_strides = [140, 1];
    turned.v_strides = [1, 140];
    check(&case("all turned", &turned, Given::Nothing));
    // All heads read the same keys and values; rows of y have room between them.
    for m in [2, 20] {
        let mut grouped = spec(m, 33, 8, 12);
        grouped.batch[0][2] = 33 * 8;
        (grouped.batch[1][2], grouped.batch[1][3]) = (0, 0);
        grouped.y_row_stride = 15;
        (grouped.batch[0][5], grouped.batch[1][5]) = (3 * m * 15, m * 15);
        check(&case(&format!("grouped heads, {m} rows"), &grouped, Given::Nothing));
    }
}

#[test]
fn masks_add_or_replace() {
    for (m, n) in [(2, 150), (14, 150), (14, 40)] {
        let mut added = spec(m, n, 16, 16);
        added.mask = Some((Masking::Add, [n, 1]));
        (added.batch[0][4], added.batch[1][4]) = (m * n, 0);
        // The first keys do not count at all, in the last rows none of the first chunk.
        let left_out = |at: usize| at % n < 5 || at / n % m >= m / 2 && at % n < 128.min(n - 3);
        let floats: Vec<f32> = random(3, 2 * m * n)
            .into_iter()
            .enumerate()
            .map(|(at, x)| if left_out(at) { f32::NEG_INFINITY } else { x })
            .collect();
        check(&case(&format!("{m} × {n}, added"), &added, Given::Floats(floats)));

        let mut by_key = added.clone();
        by_key.mask = Some((Masking::Add, [0, 2]));
        (by_key.batch[0][4], by_key.batch[1][4]) = (0, 0);
        check(&case(&format!("{m} × {n}, by key"), &by_key, Given::Floats(random(4, 2 * n))));

        let mut replaced = added.clone();
        replaced.mask = Some((Masking::Replace { when: false, value: -1e9 }, [n, 1]));
        let bytes: Vec<u8> = (0..2 * m * n).map(|at| u8::from(!left_out(at))).collect();
        check(&case(&format!("{m} × {n}, replaced"), &replaced, Given::Bytes(bytes)));
    }
}

#[test]
fn a_row_that_sees_no_key_is_no_number() {
    let mut none = spec(4, 20, 8, 8);
    none.mask = Some((Masking::Replace { when: true, value: f32::NEG_INFINITY }, [20, 1]));
    let bytes: Vec<u8> = (0..80).map(|at| u8::from(at / 20 == 1)).collect();
    check(&case("a row of nothing", &none, Given::Bytes(bytes)));
}
