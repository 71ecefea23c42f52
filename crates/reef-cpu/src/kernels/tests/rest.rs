//! Pooling, reductions, softmax, layer normalisation, gather, host and synthetic kernels.

use std::sync::Arc;

use reef_base::{AlignedBytes, Rng};
use reef_graph::{DType, PoolKind, Reduce, Shape, Tensor};
use reef_plan::{
    GatherSpec, HostFault, HostKernel, HostState, KernelSpec, LayerNormSpec, LoopDim, Packing, PoolSpec,
    ReduceSpec, SoftmaxSpec, SyntheticSpec, TensorSpec,
};

use super::super::nest::{Nest, Piece};
use super::{Bench, BlockEnd, Case, Operand, check, isas, pixels, random};

fn pool_expected(spec: &PoolSpec, x: impl Fn(usize) -> f64) -> Vec<(usize, f64)> {
    let [out_h, out_w] = spec.out_hw;
    let mut expected = vec![];
    for row in 0..spec.batch * out_h * out_w {
        let (image, y, column) = (row / (out_h * out_w), row / out_w % out_h, row % out_w);
        for channel in 0..spec.channels {
            let (mut sum, mut largest, mut inside, mut padded) = (0.0, f64::NEG_INFINITY, 0, 0);
            for tap in 0..spec.kernel[0] * spec.kernel[1] {
                let py = y * spec.strides[0] + tap / spec.kernel[1] * spec.dilations[0];
                let px = column * spec.strides[1] + tap % spec.kernel[1] * spec.dilations[1];
                let in_padded = py < spec.pads[0] + spec.in_hw[0] + spec.pads[2]
                    && px < spec.pads[1] + spec.in_hw[1] + spec.pads[3];
                padded += usize::from(in_padded);
                let (iy, ix) = (py.wrapping_sub(spec.pads[0]), px.wrapping_sub(spec.pads[1]));
                if iy < spec.in_hw[0] && ix < spec.in_hw[1] {
                    let pixel = (image * spec.in_hw[0] + iy) * spec.in_hw[1] + ix;
                    let value = x(pixel * spec.in_pixel_stride + channel);
                    (sum, largest, inside) = (sum + value, f64::max(largest, value), inside + 1);
                }
            }
            let value = match spec.kind {
                PoolKind::Max => largest,
                PoolKind::AvgExcludePad => sum / inside as f64,
                PoolKind::AvgIncludePad => sum / padded as f64,
            };
            expected.push((row * spec.out_pixel_stride + channel, value));
        }
    }
    expected
}

#[test]
fn pools() {
    let base = PoolSpec {
        kind: PoolKind::Max,
        dtype: DType::F32,
        batch: 2,
        channels: 19,
        in_hw: [7, 8],
        in_pixel_stride: 19,
        out_hw: [4, 4],
        out_pixel_stride: 19,
        kernel: [3, 3],
        strides: [2, 2],
        pads: [1, 1, 1, 1],
        dilations: [1, 1],
        tile_rows: 1,
    };
    for kind in [PoolKind::Max, PoolKind::AvgExcludePad, PoolKind::AvgIncludePad] {
        let shapes = [
            PoolSpec { kind, ..base.clone() },
            // The last windows reach past the padded image.
            PoolSpec { kind, out_hw: [4, 5], pads: [0, 1, 1, 0], in_pixel_stride: 24, ..base.clone() },
            PoolSpec { kind, dilations: [2, 1], out_hw: [3, 4], out_pixel_stride: 32, ..base.clone() },
            PoolSpec {
                kind,
                channels: 300,
                in_pixel_stride: 300,
                out_pixel_stride: 300,
                kernel: [7, 8],
                pads: [0; 4],
                out_hw: [1, 1],
                ..base.clone()
            },
            // Windows so large that they are polled inside, one with long lines.
            PoolSpec { kind, in_hw: [60, 70], kernel: [50, 60], out_hw: [5, 6], ..base.clone() },
            PoolSpec { kind, in_hw: [1, 4000], kernel: [1, 3900], out_hw: [2, 52], ..base.clone() },
        ];
        for spec in shapes {
            let x = pixels(1, 2 * spec.in_hw[0] * spec.in_hw[1], spec.channels, spec.in_pixel_stride);
            let expected = pool_expected(&spec, |at| f64::from(x[at]));
            let elements = expected.last().unwrap().0 + 1;
            let cut = |tile_rows| {
                let spec = PoolSpec { tile_rows, ..spec.clone() };
                move |_| KernelSpec::Pool(spec.clone())
            };
            let case = Case::f32(format!("{kind:?} {:?}", spec.out_hw), cut(1)).cut(cut(3)).cut(cut(100));
            check(&case.input(&x).expects(elements, expected));
            if kind == PoolKind::Max {
                pools_of_bytes(&spec);
            }
        }
    }
}

/// The same pooling of bytes of both types.
fn pools_of_bytes(spec: &PoolSpec) {
    let mut rng = Rng::new(3);
    let pixels = spec.batch * spec.in_hw[0] * spec.in_hw[1];
    let x: Vec<u8> = (0..pixels * spec.in_pixel_stride).map(|_| rng.below(256) as u8).collect();
    for dtype in [DType::U8, DType::I8] {
        let signed = dtype == DType::I8;
        let value = |at: usize| if signed { f64::from(x[at] as i8) } else { f64::from(x[at]) };
        let mut expected = pool_expected(spec, value);
        // Of nothing it is the least.
        let least = if signed { -128.0 } else { 0.0 };
        expected.iter_mut().for_each(|(_, value)| *value = value.max(least));
        let elements = expected.last().unwrap().0 + 1;
        let cut = |tile_rows| {
            let spec = PoolSpec { tile_rows, dtype, ..spec.clone() };
            move |_| KernelSpec::Pool(spec.clone())
        };
        let case = Case::f32(format!("{dtype} {:?}", spec.out_hw), cut(1)).cut(cut(3)).cut(cut(100));
        let case = Case { out_dtype: dtype, tolerance: 0.0, ..case.bytes(&x) };
        check(&case.expects(elements, expected));
    }
}

fn dim(extent: usize, in_stride: usize, out_stride: usize) -> LoopDim {
    LoopDim { extent, in_stride, out_stride }
}

/// Every index of a loop nest: offsets in input and output.
fn offsets(dims: &[LoopDim]) -> Vec<(usize, usize)> {
    dims.iter().fold(vec![(0, 0)], |all, dim| {
        let step = |(a, b): (usize, usize)| {
            (0..dim.extent).map(move |at| (a + at * dim.in_stride, b + at * dim.out_stride))
        };
        all.into_iter().flat_map(step).collect()
    })
}

#[test]
fn reductions() {
    let shapes = [
        ("columns", vec![dim(3, 490, 10), dim(10, 1, 1)], vec![dim(49, 10, 0)]),
        ("rows", vec![dim(5, 301, 1)], vec![dim(301, 1, 0)]),
        ("long rows", vec![dim(2, 9000, 1)], vec![dim(9000, 1, 0)]),
        ("outer and inner", vec![dim(6, 50, 1)], vec![dim(4, 300, 0), dim(50, 1, 0)]),
        ("every other", vec![dim(7, 2, 3)], vec![dim(9, 14, 0)]),
        ("wide columns", vec![dim(700, 1, 1)], vec![dim(3, 700, 0)]),
        ("all", vec![dim(1, 0, 0)], vec![dim(4, 5, 0), dim(5, 1, 0)]),
        ("none", vec![dim(20, 1, 1)], vec![dim(1, 1, 0)]),
    ];
    for (name, kept, reduced) in shapes {
        let inner = offsets(&reduced);
        let x = random(1, 18_000);
        use Reduce::*;
        for reduce in [Sum, Mean, Max, Min, Prod, SumSquare] {
            let fold = |from: usize| {
                let values = inner.iter().map(|(at, _)| f64::from(x[from + at]));
                match reduce {
                    Sum => values.sum(),
                    Mean => values.sum::<f64>() / inner.len() as f64,
                    Max => values.fold(f64::NEG_INFINITY, f64::max),
                    Min => values.fold(f64::INFINITY, f64::min),
                    Prod => values.product(),
                    SumSquare => values.map(|x| x * x).sum(),
                }
            };
            let expected: Vec<_> = offsets(&kept).iter().map(|&(from, to)| (to, fold(from))).collect();
            let spec = ReduceSpec { reduce, kept: kept.clone(), reduced: reduced.clone(), tile: 0 };
            let cut = |tile| {
                let spec = ReduceSpec { tile, ..spec.clone() };
                move |_| KernelSpec::Reduce(spec.clone())
            };
            let elements = expected.iter().map(|(to, _)| to + 1).max().unwrap();
            let case = Case::f32(format!("{reduce:?} {name}"), cut(1000)).cut(cut(7)).cut(cut(1));
            check(&case.input(&x).expects(elements, expected));
        }
    }
}

#[test]
fn softmaxes() {
    let shapes = [
        (vec![dim(13, 77, 77)], dim(77, 1, 1)),
        (vec![dim(2, 5000, 5000)], dim(5000, 1, 1)),
        (vec![dim(3, 200, 200), dim(20, 1, 1)], dim(10, 20, 20)),
        (vec![dim(1, 0, 0)], dim(1, 1, 1)),
        // Rows of x are apart from each other, elements of y are, and so are both, each in its way.
        (vec![dim(4, 9, 6)], dim(6, 1, 1)),
        (vec![dim(3, 40, 1), dim(5, 8, 3)], dim(7, 1, 15)),
        (vec![dim(3, 1, 17)], dim(17, 3, 1)),
        (vec![dim(2, 0, 4500)], dim(4500, 2, 1)),
    ];
    for (rows, axis) in shapes {
        let x: Vec<f32> = random(1, 10_000).iter().map(|x| x * 20.0).collect();
        for log in [false, true] {
            let mut expected = vec![];
            for (from, to) in offsets(&rows) {
                let line: Vec<f64> =
                    (0..axis.extent).map(|i| f64::from(x[from + i * axis.in_stride])).collect();
                let largest = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = line.iter().map(|x| (x - largest).exp()).sum();
                expected.extend(line.iter().enumerate().map(|(i, x)| {
                    let power = x - largest;
                    (to + i * axis.out_stride, if log { power - sum.ln() } else { power.exp() / sum })
                }));
            }
            let spec = SoftmaxSpec { rows: rows.clone(), axis, log, tile: 0 };
            let cut = |tile| {
                let spec = SoftmaxSpec { tile, ..spec.clone() };
                move |_| KernelSpec::Softmax(spec.clone())
            };
            let elements = expected.iter().map(|(at, _)| at + 1).max().unwrap();
            let case = Case::f32(format!("softmax {rows:?}, log {log}"), cut(1)).cut(cut(8));
            check(&case.input(&x).expects(elements, expected));
        }
    }
}

#[test]
fn layer_norms() {
    for (rows, len, shift, residual) in
        [(9, 77, true, true), (3, 384, false, true), (2, 5001, true, false), (1, 1, false, false)]
    {
        let (x, r) = (random(1, rows * len), random(2, rows * len));
        let (scale, bias) = (random(3, len), random(4, len));
        let epsilon = 1e-5f32;
        let mut expected = vec![];
        for row in 0..rows {
            let values: Vec<f64> = (row * len..row * len + len)
                .map(|at| f64::from(x[at]) + if residual { f64::from(r[at]) } else { 0.0 })
                .collect();
            let mean = values.iter().sum::<f64>() / len as f64;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / len as f64;
            for (at, value) in values.iter().enumerate() {
                let normal = (value - mean) / (variance + f64::from(epsilon)).sqrt();
                let shift = if shift { f64::from(bias[at]) } else { 0.0 };
                expected.push((row * len + at, normal * f64::from(scale[at]) + shift));
            }
        }
        let cut = |tile| {
            let spec = LayerNormSpec { rows, len, epsilon, shift, residual, tile };
            move |_| KernelSpec::LayerNorm(spec.clone())
        };
        let case = Case::f32(format!("layer norm {rows}x{len}"), cut(1)).cut(cut(4)).input(&x);
        let mut case = case.weight(Tensor::f32([len], &scale), |_| Packing::Raw);
        if shift {
            case = case.weight(Tensor::f32([len], &bias), |_| Packing::Raw);
        }
        if residual {
            case = case.input(&r);
        }
        check(&case.expects(rows * len, expected));
    }
}

#[test]
fn gathers() {
    let indices = [2i64, -1, 0, 3, -5, 4, 2];
    let (outer, extent, inner) = (3, 5, 70);
    let x = random(1, outer * extent * inner);
    for index_dtype in [DType::I64, DType::I32] {
        let mut expected = vec![];
        for slice in 0..outer * indices.len() {
            let index = indices[slice % indices.len()];
            let index = if index < 0 { index + extent as i64 } else { index };
            let from = (slice / indices.len() * extent + index as usize) * inner;
            expected.extend((0..inner).map(|at| (slice * inner + at, f64::from(x[from + at]))));
        }
        let cut = |tile| {
            let picks = indices.len();
            let spec = GatherSpec { dtype: DType::F32, index_dtype, outer, extent, inner, picks, tile };
            move |_| KernelSpec::Gather(spec.clone())
        };
        let mut case = Case::f32("gather", cut(4)).cut(cut(1)).input(&x);
        case.operands.push(Operand::Input(match index_dtype {
            DType::I64 => AlignedBytes::copy_from(bytemuck::cast_slice(&indices)),
            _ => AlignedBytes::copy_from(bytemuck::cast_slice(&indices.map(|index| index as i32))),
        }));
        check(&case.expects(outer * indices.len() * inner, expected));
    }
}

#[test]
fn indices_outside_their_axis_are_the_inputs_fault() {
    for index in [5i64, -6, i64::MAX, i64::MIN] {
        let spec = GatherSpec {
            dtype: DType::F32,
            index_dtype: DType::I64,
            outer: 2,
            extent: 5,
            inner: 3,
            picks: 2,
            tile: 4,
        };
        let mut case = Case::f32("embedding", move |_| KernelSpec::Gather(spec.clone()));
        case = case.input(&random(1, 30)).expects(12, vec![]);
        case.operands.push(Operand::Input(AlignedBytes::copy_from(bytemuck::cast_slice(&[4, index]))));
        for isa in isas() {
            let end = Bench::new(&case, case.specs[0](isa), isa).run(0, None).0;
            let reason = format!("Gather: indices[1] is {index}, allowed are -5 to 4");
            let BlockEnd::Failed(fault) = end else { panic!("{end:?}") };
            assert_eq!(fault.told(), HostFault::of_input("embedding", reason));
        }
    }
}

/// Adds its two inputs of bytes.
#[derive(Debug)]
struct AddBytes([TensorSpec; 2], [TensorSpec; 1]);

impl HostKernel for AddBytes {
    fn name(&self) -> &str {
        "AddBytes"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &self.0
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.1
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(AddBytesState))
    }
}

struct AddBytesState;

impl HostState for AddBytesState {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        for (at, byte) in outputs[0].iter_mut().enumerate() {
            *byte = inputs[0][at].wrapping_add(inputs[1][at]);
        }
        Ok(())
    }
}

#[test]
fn host_kernels_see_their_operands() {
    let spec = TensorSpec { dtype: DType::U8, shape: Shape::from([50]) };
    let mut case = Case::f32("host", |_| KernelSpec::Host(0));
    case.out_dtype = DType::U8;
    case.host = Some(Arc::new(AddBytes([spec.clone(), spec.clone()], [spec])));
    let a: Vec<u8> = (0..50).collect();
    let b: Vec<u8> = (0..50).map(|x| x * 5).collect();
    for bytes in [&a, &b] {
        case.operands.push(Operand::Input(AlignedBytes::copy_from(bytes)));
    }
    let expected = (0..50).map(|at| (at, f64::from(a[at].wrapping_add(b[at])))).collect();
    check(&case.expects(50, expected));
}

#[test]
fn synthetic_kernels_mix_seed_inputs_and_place() {
    let input: Vec<u8> = (0..100).collect();
    let cut = |tile_bytes, polls| {
        move |_| {
            KernelSpec::Synthetic(SyntheticSpec {
                seed: 9,
                bytes: 250,
                tile_bytes,
                polls,
                poll_ns: 50,
                meter: None,
            })
        }
    };
    let spec = SyntheticSpec { seed: 9, bytes: 250, tile_bytes: 64, polls: 0, poll_ns: 0, meter: None };
    let digest = spec.digest([input.as_slice()].into_iter());
    let expected = (0..250).map(|at| (at, f64::from(SyntheticSpec::byte(digest, at)))).collect();
    let mut case = Case::f32("synthetic", cut(64, 5)).cut(cut(250, 1)).cut(cut(7, 0));
    case.out_dtype = DType::U8;
    case.operands.push(Operand::Input(AlignedBytes::copy_from(&input)));
    check(&case.expects(250, expected));
}

#[test]
fn nests_join_axes_and_find_lines() {
    let nest = Nest::new(&[2, 3, 1, 4, 5], &[vec![60, 20, 7, 5, 1], vec![0, 0, 9, 5, 1]]);
    assert_eq!((nest.line(), nest.lines(), nest.plane_lines()), (20, 6, 6));
    assert_eq!([nest.step(0), nest.step(1), nest.line_stride(0), nest.line_stride(1)], [1, 1, 20, 0]);
    assert_eq!((nest.line_offset(0, 4), nest.line_offset(1, 4)), (80, 0));
    assert!(!nest.is_constant(1));
    let scalar = Nest::new(&[1, 1], &[vec![3, 4]]);
    assert_eq!((scalar.line(), scalar.lines(), scalar.step(0)), (1, 1, 1));
    // Whole lines where they start, else up to the line's end.
    let lines = Piece { line: 1, lines: 3, column: 0, columns: 20 };
    assert_eq!(Piece::next(&nest, 20, 119, 3, 64), lines);
    assert_eq!(Piece::next(&nest, 33, 119, 3, 64), Piece { line: 1, lines: 1, column: 13, columns: 7 });
    let columns: Vec<_> = lines.columns_by(12).map(|part| (part.column, part.columns, part.lines)).collect();
    assert_eq!(columns, [(0, 12, 3), (12, 8, 3)]);
    assert_eq!(Piece::next(&nest, 20, 30, 3, 64), Piece { line: 1, lines: 1, column: 0, columns: 10 });
}
