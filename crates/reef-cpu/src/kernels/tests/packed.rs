//! Products with packed weights: of every number of bits, with blocks smaller and larger than a vector of
//! words, ends inside a block, and rows that do not go at once.

use reef_base::Rng;
use reef_graph::{DType, PackedWeights, Shape, Tensor};
use reef_plan::{Isa, KernelSpec, PackedSpec, Packing};

use super::{Case, check, random};

fn case([bits, block]: [usize; 2], [m, k, n]: [usize; 3], shifts: bool) -> Case {
    let weights = PackedWeights { bits: bits as u32, block };
    let whole = PackedSpec { weights, m, k, n, shifts, tile: n };
    let (blocks, bytes) = (whole.blocks_of_row(), whole.row_bytes());
    let mut rng = Rng::new(3);
    let packed: Vec<u8> = (0..n * bytes).map(|_| rng.next_u64() as u8).collect();
    let x = random(5, m * k);
    let scales: Vec<f32> = random(6, n * blocks).iter().map(|x| x / 64.0).collect();
    let moved: Vec<f32> = random(7, n * blocks).iter().map(|x| x / 8.0).collect();
    let mut expected = vec![];
    for row in 0..m {
        for column in 0..n {
            let value = whole.element(
                |at| x[row * k + at].into(),
                &packed[column * bytes..][..bytes],
                |block| scales[column * blocks + block].into(),
                |block| moved[column * blocks + block].into(),
            );
            expected.push((row * n + column, value));
        }
    }
    let name = format!("{bits} bits, blocks of {block}, {m}x{k}x{n}, shifts: {shifts}");
    let cut = |tile: usize| {
        let spec = PackedSpec { tile, ..whole.clone() };
        move |_: Isa| KernelSpec::Packed(spec.clone())
    };
    let raw = |tensor: Tensor, case: Case| case.weight(tensor, |_| Packing::Raw);
    let case = Case::f32(name, cut(n)).cut(cut(1)).cut(cut(5)).input(&x);
    let case = raw(Tensor::from_slice(DType::U8, Shape::from([n, bytes]), &packed), case);
    let mut case = raw(Tensor::f32([n, blocks], &scales), case);
    if shifts {
        case = raw(Tensor::f32([n, blocks], &moved), case);
    }
    case.expects(m * n, expected)
}

#[test]
fn weights_are_unpacked() {
    for bits in [2, 4, 8] {
        for (block, k) in [(16, 16), (16, 200), (32, 96), (32, 261), (64, 130), (128, 512), (256, 700)] {
            for shifts in [false, true] {
                check(&case([bits, block], [1, k, 9], shifts));
            }
        }
    }
}

#[test]
fn rows_and_sums_may_be_long() {
    // More rows than are copied at once, and more words than lie between polls.
    check(&case([4, 32], [11, 90, 6], true));
    check(&case([4, 64], [2, 17_000, 5], true));
    check(&case([8, 32], [1, 9_000, 5], false));
}
