//! What goes along an axis: as the plain code says, to the bit, on every instruction set, however it is cut,
//! in any order of blocks, and whichever poll killed an earlier run.

use reef_graph::{Along, DType, Reduce};
use reef_plan::{AlongSpec, KernelSpec, RowFunction};

use super::selection::{Data, alphabet};
use super::{Bench, BlockEnd, Case, POISON, isas};

/// `[outer, extent, inner]`.
type Extents = [usize; 3];

fn spec(function: RowFunction, dtype: DType, [outer, extent, inner]: Extents) -> AlongSpec {
    AlongSpec { function, dtype, outer, extent, inner, tile: 1 }
}

/// The outputs' bytes as the plain code has them.
fn expected(spec: &AlongSpec, data: &Data) -> Vec<Vec<u8>> {
    let bytes = |(dtype, count): (DType, usize)| vec![0; count * dtype.bytes()];
    let mut made: Vec<Vec<u8>> = spec.outputs().into_iter().map(bytes).collect();
    let mut views: Vec<&mut [u8]> = made.iter_mut().map(|made| &mut made[..]).collect();
    spec.compute(&data.bytes.concat(), &mut views);
    if let RowFunction::Along(Along::TopK { k, .. }) = spec.function {
        // The elements themselves, also those bits of a NaN that mean nothing.
        let size = spec.dtype.bytes();
        for (row, place) in (0..spec.rows()).flat_map(|row| (0..k).map(move |place| (row, place))) {
            let at = spec.position(row, k, place);
            let from = i64::from_le_bytes(made[1][at * 8..][..8].try_into().unwrap()) as usize;
            let element = data.bytes[spec.position(row, spec.extent, from)].clone();
            made[0][at * size..][..size].copy_from_slice(&element);
        }
    }
    made
}

fn check(spec: &AlongSpec, data: &Data) {
    let name = format!("{spec:?}");
    let meant = expected(spec, data);
    let sizes: Vec<usize> = meant.iter().map(Vec::len).collect();
    let case = Case {
        operands: vec![data.operand()],
        out_bytes: sizes[0],
        more_bytes: sizes[1..].to_vec(),
        ..Case::f32(name.as_str(), |_| unreachable!())
    };
    let rows = spec.rows();
    for isa in isas() {
        for (seed, tile) in [rows, rows.div_ceil(3), 1].into_iter().enumerate() {
            if tile == 1 && rows > 40 {
                continue;
            }
            let mut bench = Bench::new(&case, KernelSpec::Along(AlongSpec { tile, ..spec.clone() }), isa);
            let output = bench.run_all(seed as u64);
            let mut whole = vec![POISON; output.len()];
            for (region, meant) in case.regions().iter().zip(&meant) {
                whole[region.offset..region.end()].copy_from_slice(meant);
            }
            let mut made = output.clone();
            if let (RowFunction::Fold(_), DType::F64) = (spec.function, spec.dtype) {
                // Which of two NaNs a sum takes after is open.
                let results = case.regions()[0];
                [&mut made, &mut whole].into_iter().for_each(|bytes| same_nan(&mut bytes[results.offset..]));
            }
            let wrong = made.iter().zip(&whole).position(|(a, b)| a != b);
            assert!(wrong.is_none(), "{name} on {isa}, tile {tile}: byte {wrong:?} differs");
            bench.check_rerun(&output, &name);
            kill(&mut bench, &output, &name);
        }
    }
}

/// Makes every NaN among doubles the same one.
fn same_nan(doubles: &mut [u8]) {
    for double in doubles.chunks_exact_mut(8) {
        if f64::from_le_bytes(double.try_into().unwrap()).is_nan() {
            double.copy_from_slice(&f64::NAN.to_le_bytes());
        }
    }
}

/// Every block killed at every poll, and run again on what that left behind.
pub(super) fn kill(bench: &mut Bench, output: &[u8], name: &str) {
    if cfg!(feature = "no-polls") {
        return;
    }
    let blocks = bench.blocks();
    for block in (0..blocks).filter(|block| blocks < 4 || *block == 0 || *block == blocks - 1) {
        for at in 0.. {
            let (end, polls) = bench.run(block, Some(at));
            if polls <= at {
                assert!(polls > 0, "{name}: it never polls");
                break;
            }
            assert_eq!((end, polls), (BlockEnd::Killed, at + 1), "{name}: block {block}");
            assert_eq!(bench.run(block, None).0, BlockEnd::Done);
            assert!(bench.output.as_slice() == output, "{name}: killed at poll {at}, other bits");
        }
    }
}

/// Small numbers of a type: sums of floats are exact.
fn small(dtype: DType, count: usize, seed: u64) -> Data {
    let mut rng = reef_base::Rng::new(seed);
    let element = |value: i64| {
        let mut bytes = vec![0; dtype.bytes()];
        reef_graph::scalar::Element::Int(value).write(dtype, &mut bytes);
        (0, bytes)
    };
    let low =
        i64::from(dtype.is_float() || matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64));
    Data::of(&(0..count).map(|_| element(rng.below(4) as i64 - low)).collect::<Vec<_>>())
}

const EXTENTS: [Extents; 9] = [
    [1, 1, 1],
    [3, 7, 1],
    [1, 64, 1],
    [2, 150, 1],
    [1, 5, 3],
    [3, 4, 130],
    [2, 33, 5],
    [1, 2, 257],
    [1, 4500, 1],
];

#[test]
fn places_of_extremes() {
    for (seed, extents) in EXTENTS.into_iter().enumerate() {
        for dtype in DType::ALL {
            for (largest, last) in [(true, false), (true, true), (false, false), (false, true)] {
                let function = RowFunction::Along(Along::ArgExtreme { largest, last });
                let spec = spec(function, dtype, extents);
                let count = extents.iter().product();
                check(&spec, &Data::random(dtype, count, seed as u64));
                // Few NaNs, and none in the first place.
                let mut data = Data::random(dtype, count, seed as u64 + 50);
                let number = alphabet(dtype)[1].1.clone();
                let nan = data.ranks.iter().enumerate().filter(|(at, rank)| **rank == 4 && at % 11 != 3);
                let nan: Vec<usize> = nan.map(|(at, _)| at).collect();
                nan.into_iter().for_each(|at| data.bytes[at] = number.clone());
                check(&spec, &data);
            }
        }
    }
}

#[test]
fn the_largest_and_the_smallest() {
    for (seed, extents) in EXTENTS.into_iter().enumerate() {
        let count = extents.iter().product();
        for dtype in DType::ALL {
            let data = Data::random(dtype, count, seed as u64 + 9);
            let ks = [1, 2, extents[1] / 7, extents[1] / 4 + 1, extents[1]];
            for k in ks.into_iter().filter(|k| *k > 0 && *k <= extents[1] && k * count < 40_000) {
                for largest in [true, false] {
                    check(&spec(RowFunction::Along(Along::TopK { k, largest }), dtype, extents), &data);
                }
            }
        }
    }
}

/// Rows in order, the worst case of a heap, and rows of one value.
#[test]
fn the_largest_of_ordered_rows() {
    let ordered: Vec<f32> = (0..3000).map(|at| at as f32).collect();
    let backwards: Vec<f32> = ordered.iter().rev().copied().collect();
    for row in [ordered, backwards, vec![2.0; 3000], vec![f32::NAN; 3000]] {
        let picks: Vec<_> = row.iter().map(|x| (0, x.to_le_bytes().to_vec())).collect();
        let data = Data::of(&picks);
        for k in [1, 10, 100, 2999] {
            for largest in [true, false] {
                check(&spec(RowFunction::Along(Along::TopK { k, largest }), DType::F32, [1, 3000, 1]), &data);
            }
        }
    }
}

#[test]
fn running_sums_and_products() {
    let types = DType::ALL.into_iter().filter(|dtype| *dtype != DType::Bool);
    for (dtype, (seed, extents)) in
        types.flat_map(|dtype| EXTENTS.into_iter().enumerate().map(move |e| (dtype, e)))
    {
        let count = extents.iter().product();
        for bits in 0..8 {
            let (product, exclusive, reverse) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            // Long products, and long sums of few bits, are not exact.
            let bf16 = dtype == DType::BF16 && extents[1] > 100;
            if dtype.is_float() && product && extents[1] > 8 || bf16 {
                continue;
            }
            let function = RowFunction::Along(Along::Scan { product, exclusive, reverse });
            check(&spec(function, dtype, extents), &small(dtype, count, seed as u64));
        }
    }
}

#[test]
fn folded_integers_and_doubles() {
    let ways = [Reduce::Sum, Reduce::Mean, Reduce::Max, Reduce::Min, Reduce::Prod, Reduce::SumSquare];
    let others = [DType::F32, DType::F16, DType::BF16, DType::Bool];
    for dtype in DType::ALL.into_iter().filter(|dtype| !others.contains(dtype)) {
        for (seed, extents) in EXTENTS.into_iter().enumerate() {
            for reduce in ways {
                let count = extents.iter().product();
                let spec = spec(RowFunction::Fold(reduce), dtype, extents);
                check(&spec, &small(dtype, count, seed as u64));
                // The least and the largest there are: they wrap.
                check(&spec, &Data::random(dtype, count, seed as u64));
            }
        }
    }
}
