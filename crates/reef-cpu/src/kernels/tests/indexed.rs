//! What indices name, taken or put, and the largest of windows: as the plain code says, to the bit, on every
//! instruction set, however the kernel is cut, in any order of blocks, and whichever poll killed an earlier
//! run.

use reef_base::{AlignedBytes, Rng};
use reef_graph::{DType, Indexing, Putting, Windows};
use reef_plan::{HostFault, KernelSpec, MaxPoolSpec, PutSpec, TakeSpec};

use super::along::kill;
use super::selection::Data;
use super::{Bench, BlockEnd, Case, Operand, POISON, isas};

/// Runs a kernel cut in all of these ways; its outputs must be the `meant` ones.
fn check(name: &str, specs: &[KernelSpec], operands: Vec<Operand>, meant: &[Vec<u8>]) {
    let sizes: Vec<usize> = meant.iter().map(Vec::len).collect();
    let (out_bytes, more_bytes) = (sizes[0], sizes[1..].to_vec());
    let case = Case { operands, out_bytes, more_bytes, ..Case::f32(name, |_| unreachable!()) };
    for isa in isas() {
        for (seed, spec) in specs.iter().enumerate() {
            let mut bench = Bench::new(&case, spec.clone(), isa);
            let output = bench.run_all(seed as u64);
            let mut whole = vec![POISON; output.len()];
            for (region, meant) in case.regions().iter().zip(meant) {
                whole[region.offset..region.end()].copy_from_slice(meant);
            }
            let wrong = output.iter().zip(&whole).position(|(a, b)| a != b);
            assert!(wrong.is_none(), "{name} on {isa}, cut {seed}: byte {wrong:?} differs");
            bench.check_rerun(&output, name);
            kill(&mut bench, &output, name);
        }
    }
}

/// Random indices of these shapes, negative ones among them, and their bytes.
fn indices(dtype: DType, indexing: &Indexing, rng: &mut Rng) -> (Vec<i64>, Vec<u8>) {
    let draw = |at: usize| {
        let extent = indexing.extents[at % indexing.extents.len()] as u64;
        rng.below(2 * extent) as i64 - extent as i64
    };
    let drawn: Vec<i64> = (0..indexing.indices()).map(draw).collect();
    let bytes = drawn.iter().flat_map(|index| index.to_le_bytes()[..dtype.bytes()].to_vec());
    let bytes = bytes.collect();
    (drawn, bytes)
}

/// Where every element of what is taken or put belongs, by its coordinates.
fn places(indexing: &Indexing, drawn: &[i64]) -> Vec<usize> {
    let Indexing { batch, rows, inner, ref extents, by_element } = *indexing;
    let mut made = vec![];
    for (plane, row) in (0..batch).flat_map(|plane| (0..rows).map(move |row| (plane, row))) {
        for column in 0..inner {
            let row = plane * rows + row;
            let mut place = 0;
            for (axis, &extent) in extents.iter().enumerate() {
                let at = if by_element { row * inner + column } else { row * extents.len() + axis };
                place = place * extent + drawn[at].rem_euclid(extent as i64) as usize;
            }
            made.push((plane * extents.iter().product::<usize>() + place) * inner + column);
        }
    }
    made
}

fn shapes() -> Vec<Indexing> {
    let elements = |batch: usize, extent: usize, rows: usize, inner: usize| Indexing {
        batch,
        extents: vec![extent],
        rows,
        inner,
        by_element: true,
    };
    let slices = |batch: usize, extents: &[usize], rows: usize, inner: usize| Indexing {
        batch,
        extents: extents.to_vec(),
        rows,
        inner,
        by_element: false,
    };
    vec![
        elements(1, 1, 1, 1),
        elements(1, 9, 200, 1),
        elements(1, 700, 300, 1),
        elements(3, 5, 7, 1),
        elements(2, 6, 3, 70),
        elements(1, 3, 40, 5),
        slices(1, &[7], 4, 1),
        slices(1, &[3, 4], 30, 1),
        slices(2, &[5], 3, 9),
        slices(3, &[2, 3, 2], 6, 70),
        slices(1, &[4], 2, 9000),
    ]
}

#[test]
fn what_is_taken() {
    for (seed, indexing) in shapes().into_iter().enumerate() {
        for (turn, dtype) in DType::ALL.into_iter().enumerate() {
            let mut rng = Rng::new(seed as u64 * 50 + turn as u64);
            let index_dtype = [DType::I64, DType::I32][(seed + turn) % 2];
            let data = Data::random(dtype, indexing.data(), seed as u64);
            let (drawn, bytes) = indices(index_dtype, &indexing, &mut rng);
            let taken = places(&indexing, &drawn).into_iter().map(|place| data.bytes[place].clone());
            let meant = vec![taken.collect::<Vec<_>>().concat()];
            let all = indexing.moved();
            let cut = |tile: usize| {
                KernelSpec::Take(TakeSpec { dtype, index_dtype, indexing: indexing.clone(), tile })
            };
            let specs = [cut(all), cut(all.div_ceil(3)), cut(all.div_ceil(20))];
            let operands = vec![data.operand(), Operand::Input(AlignedBytes::copy_from(&bytes))];
            check(&format!("take {dtype} {indexing:?}"), &specs, operands, &meant);
        }
    }
}

/// Elements joined one after the other, by plain code that keeps the bits of the one that is chosen.
fn joined(putting: Putting, dtype: DType, there: &[u8], put: &[u8]) -> Vec<u8> {
    use reef_graph::scalar::Element;
    let (a, b) = (Element::read(dtype, there), Element::read(dtype, put));
    if matches!(putting, Putting::Smaller | Putting::Larger) {
        let unsigned = |element: Element| i128::from(element.int() as u64);
        let beyond = match (a, b) {
            (Element::Float(a), Element::Float(b)) => {
                b.is_nan() || if putting == Putting::Larger { b > a } else { b < a }
            }
            _ => {
                let (a, b) = match dtype {
                    DType::U64 => (unsigned(a), unsigned(b)),
                    _ => (i128::from(a.int()), i128::from(b.int())),
                };
                if putting == Putting::Larger { b > a } else { b < a }
            }
        };
        return if beyond { put.to_vec() } else { there.to_vec() };
    }
    let value = match (putting, a, b) {
        (Putting::Replace, ..) => return put.to_vec(),
        (Putting::Add, Element::Int(a), Element::Int(b)) => Element::Int(a.wrapping_add(b)),
        (_, Element::Int(a), Element::Int(b)) => Element::Int(a.wrapping_mul(b)),
        (Putting::Add, a, b) => Element::Float(a.float() + b.float()),
        (_, a, b) => Element::Float(a.float() * b.float()),
    };
    let mut bytes = vec![0; dtype.bytes()];
    value.write(dtype, &mut bytes);
    bytes
}

/// Small numbers, where sums are made: of a NaN the bits are nobody's.
fn numbers(dtype: DType, count: usize, rng: &mut Rng) -> Data {
    let element = |_| {
        let mut bytes = vec![0; dtype.bytes()];
        let value = rng.below(9) as f64 / 4.0 - 1.0;
        let whole = rng.below(100) as i64;
        match dtype.is_float() {
            true => reef_graph::scalar::Element::Float(value).write(dtype, &mut bytes),
            false => reef_graph::scalar::Element::Int(whole).write(dtype, &mut bytes),
        }
        (0, bytes)
    };
    Data::of(&(0..count).map(element).collect::<Vec<_>>())
}

#[test]
fn what_is_put() {
    use Putting::{Add, Larger, Multiply, Replace, Smaller};
    for (seed, indexing) in shapes().into_iter().enumerate() {
        for (turn, dtype) in DType::ALL.into_iter().enumerate() {
            for putting in [Replace, Add, Multiply, Smaller, Larger] {
                if putting.flaw(dtype).is_some() {
                    continue;
                }
                let mut rng = Rng::new(seed as u64 * 50 + turn as u64);
                let index_dtype = [DType::I64, DType::I32][(seed + turn) % 2];
                let (all, some) = (indexing.data(), indexing.moved());
                let [data, updates] = match putting {
                    Add | Multiply => [all, some].map(|count| numbers(dtype, count, &mut rng)),
                    _ => [(all, 1), (some, 2)]
                        .map(|(count, more)| Data::random(dtype, count, seed as u64 + more)),
                };
                let (drawn, bytes) = indices(index_dtype, &indexing, &mut rng);
                let mut meant = data.bytes.clone();
                for (place, update) in places(&indexing, &drawn).into_iter().zip(&updates.bytes) {
                    meant[place] = joined(putting, dtype, &meant[place], update);
                }
                let extents = [indexing.batch, indexing.places(), indexing.inner];
                let cut = |parts: [usize; 3]| {
                    let tile = [0, 1, 2].map(|axis| extents[axis].div_ceil(parts[axis]));
                    let indexing = indexing.clone();
                    KernelSpec::Put(PutSpec { dtype, index_dtype, indexing, putting, tile })
                };
                let specs = [cut([1, 1, 1]), cut([2, 3, 1]), cut([1, 2, 3])];
                let operands =
                    vec![data.operand(), Operand::Input(AlignedBytes::copy_from(&bytes)), updates.operand()];
                let name = format!("{putting:?} {dtype} {indexing:?}");
                check(&name, &specs, operands, &[meant.concat()]);
            }
        }
    }
}

/// Every block says so that meets it, also where it owns none of what is put.
#[test]
fn indices_outside_their_axis_are_the_inputs_fault() {
    let slices = Indexing { batch: 2, extents: vec![4, 5], rows: 3, inner: 2, by_element: false };
    let elements = Indexing { batch: 1, extents: vec![5], rows: 200, inner: 1, by_element: true };
    for (indexing, pick) in [(slices, 9), (elements, 70)] {
        for index in [5i64, -6, i64::MAX, i64::MIN] {
            let mut picks = vec![0i64; indexing.indices()];
            picks[pick] = index;
            let (dtype, index_dtype) = (DType::U16, DType::I64);
            let take = TakeSpec { dtype, index_dtype, indexing: indexing.clone(), tile: 10_000 };
            let tile = [indexing.batch, 1, indexing.inner];
            let indexing = indexing.clone();
            let put = PutSpec { dtype, index_dtype, indexing: indexing.clone(), putting: Putting::Add, tile };
            let names = if indexing.by_element {
                ["GatherElements", "ScatterElements"]
            } else {
                ["GatherND", "ScatterND"]
            };
            let specs = [(KernelSpec::Take(take), indexing.moved()), (KernelSpec::Put(put), indexing.data())];
            for ((spec, made), name) in specs.into_iter().zip(names) {
                let puts = matches!(spec, KernelSpec::Put(_));
                let mut case = Case::f32("embedding", |_| unreachable!());
                let operand = |count: usize| Operand::Input(AlignedBytes::zeroed(2 * count));
                case.operands = vec![
                    operand(indexing.data()),
                    Operand::Input(AlignedBytes::copy_from(bytemuck::cast_slice(&picks))),
                ];
                case.operands.extend(puts.then(|| operand(indexing.moved())));
                case.out_bytes = 2 * made;
                for isa in isas() {
                    let mut bench = Bench::new(&case, spec.clone(), isa);
                    for block in 0..bench.blocks() {
                        let BlockEnd::Failed(fault) = bench.run(block, None).0 else {
                            panic!("{name}: block {block} does not tell")
                        };
                        let reason = format!("{name}: indices[{pick}] is {index}, allowed are -5 to 4");
                        assert_eq!(fault.told(), HostFault::of_input("embedding", reason));
                    }
                }
            }
        }
    }
}

#[test]
fn the_largest_of_windows() {
    let plain = Windows {
        kernel: [1; 3],
        strides: [1; 3],
        pads: [0; 3],
        dilations: [1; 3],
        output: [1; 3],
        columns: false,
    };
    let cases = [
        ([1, 1, 9], Windows { kernel: [1, 1, 3], strides: [1, 1, 2], output: [1, 1, 4], ..plain }),
        (
            [1, 7, 9],
            Windows { kernel: [1, 2, 3], pads: [0, 1, 2], output: [1, 8, 11], columns: true, ..plain },
        ),
        ([1, 9, 9], Windows { kernel: [1, 3, 2], dilations: [1, 2, 3], output: [1, 5, 6], ..plain }),
        (
            [4, 5, 6],
            Windows { kernel: [2, 3, 2], strides: [2, 1, 3], pads: [1, 1, 0], output: [3, 5, 2], ..plain },
        ),
        ([3, 4, 5], Windows { kernel: [3, 4, 5], columns: true, ..plain }),
        // Lines of more taps than go between two polls.
        ([1, 2, 5000], Windows { kernel: [1, 2, 2600], output: [1, 1, 3], ..plain }),
    ];
    for (seed, (extents, windows)) in cases.into_iter().enumerate() {
        for dtype in DType::ALL {
            let planes = if seed == 5 { 1 } else { 3 };
            let spec = MaxPoolSpec { dtype, planes, extents, windows, tile: 1 };
            let data = Data::random(dtype, planes * spec.plane(), seed as u64);
            let x = data.bytes.concat();
            let mut meant = vec![vec![0; spec.count() * dtype.bytes()], vec![0; spec.count() * 8]];
            let mut views: Vec<&mut [u8]> = meant.iter_mut().map(|made| &mut made[..]).collect();
            spec.compute(&x, &mut views);
            for number in 0..spec.count() {
                // The element itself, with all bits of a NaN; its rank is that of the largest.
                let place = i64::from_le_bytes(meant[1][number * 8..][..8].try_into().unwrap()) as usize;
                let plane = place / spec.plane();
                let inside = place % spec.plane();
                let [_, h, w] = extents;
                let [d, h0, w0] = match windows.columns {
                    true => {
                        let [d, h, _] = extents;
                        [inside % d, inside / d % h, inside / d / h]
                    }
                    false => [inside / (h * w), inside / w % h, inside % w],
                };
                let at = plane * spec.plane() + (d * h + h0) * w + w0;
                meant[0][number * dtype.bytes()..][..dtype.bytes()].copy_from_slice(&data.bytes[at]);
            }
            let cut = |tile: usize| KernelSpec::MaxPool(MaxPoolSpec { tile, ..spec.clone() });
            let all = spec.count();
            let name = format!("{spec:?}");
            let specs = [cut(all), cut(all.div_ceil(3)), cut(1 + all / 40)];
            check(&name, &specs, vec![data.operand()], &meant);
        }
    }
}
