//! Kernels that are loop nests.

use reef_graph::{AllowedIndices, DType, Reduce, axis_index};
use reef_plan::program;
use reef_plan::spec::elements;
use reef_plan::{
    AlongSpec, ElemOp, ElementwiseSpec, GatherSpec, LayerNormSpec, LoopDim, ReduceSpec, ResampleSpec,
    SoftmaxSpec, TreesSpec, VisionSpec,
};

use super::{Access, part};
use reef_graph::reference::vision::of_unit;
use reef_graph::scalar::{Element, larger, smaller};
use reef_graph::trees::{LEAF, MISSING, NODE_WORDS, Test};

/// The index of every axis at flat position `flat`.
fn indices(extents: impl DoubleEndedIterator<Item = usize>, mut flat: usize) -> Vec<usize> {
    let mut index: Vec<usize> = extents
        .rev()
        .map(|extent| {
            let at = flat % extent;
            flat /= extent;
            at
        })
        .collect();
    index.reverse();
    index
}

/// Input and output offsets of flat position `flat` of a nest.
fn offsets(dims: &[LoopDim], flat: usize) -> (usize, usize) {
    let index = indices(dims.iter().map(|dim| dim.extent), flat);
    dims.iter()
        .zip(index)
        .fold((0, 0), |(input, output), (dim, at)| (input + at * dim.in_stride, output + at * dim.out_stride))
}

pub(super) fn elementwise(
    spec: &ElementwiseSpec,
    access: &mut Access<'_, '_>,
    block: usize,
) -> Result<(), String> {
    let kinds = spec.kinds()?;
    for flat in part(block, spec.tile, spec.elements()) {
        let index = indices(spec.dims.iter().copied(), flat);
        let mut registers: Vec<Element> = Vec::with_capacity(spec.program.len());
        for (op, &kind) in spec.program.iter().zip(&kinds) {
            let value = match *op {
                ElemOp::Load(operand) => {
                    let input = &spec.inputs[operand];
                    let steps = index.iter().zip(&input.strides);
                    let at = steps.fold(input.offset as isize, |at, (&i, &stride)| at + i as isize * stride);
                    let at = usize::try_from(at)
                        .map_err(|_| format!("operand {operand} starts before its region"))?;
                    access.load(operand, input.dtype, at)
                }
                op => program::run(op, kind, &registers)?,
            };
            registers.push(value);
        }
        let at = index.iter().zip(&spec.out_strides).map(|(i, stride)| i * stride).sum();
        let value = *registers.last().ok_or("a program without instructions")?;
        if matches!(value, Element::Float(_)) != spec.out_dtype.is_float() {
            return Err(format!("stores {value:?} as {}", spec.out_dtype));
        }
        access.store(spec.out_dtype, at, value);
    }
    Ok(())
}

pub(super) fn reduce(spec: &ReduceSpec, access: &mut Access<'_, '_>, block: usize) {
    let count = elements(&spec.reduced);
    for flat in part(block, spec.tile, elements(&spec.kept)) {
        let (input, output) = offsets(&spec.kept, flat);
        let values: Vec<f64> =
            (0..count).map(|inner| access.load_f32(0, input + offsets(&spec.reduced, inner).0)).collect();
        let values = values.into_iter();
        let result = match spec.reduce {
            Reduce::Sum => values.sum(),
            Reduce::Mean => values.sum::<f64>() / count as f64,
            Reduce::Max => values.fold(f64::NEG_INFINITY, larger),
            Reduce::Min => values.fold(f64::INFINITY, smaller),
            Reduce::Prod => values.product(),
            Reduce::SumSquare => values.map(|value| value * value).sum(),
        };
        access.store_f32(output, result);
    }
}

pub(super) fn softmax(spec: &SoftmaxSpec, access: &mut Access<'_, '_>, block: usize) {
    for row in part(block, spec.tile, elements(&spec.rows)) {
        let (input, output) = offsets(&spec.rows, row);
        let line: Vec<f64> =
            (0..spec.axis.extent).map(|at| access.load_f32(0, input + at * spec.axis.in_stride)).collect();
        let largest = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = line.iter().map(|value| (value - largest).exp()).sum();
        for (at, value) in line.iter().enumerate() {
            let shifted = value - largest;
            let result = if spec.log { shifted - sum.ln() } else { shifted.exp() / sum };
            access.store_f32(output + at * spec.axis.out_stride, result);
        }
    }
}

pub(super) fn layer_norm(spec: &LayerNormSpec, access: &mut Access<'_, '_>, block: usize) {
    let residual = 2 + usize::from(spec.shift);
    for row in part(block, spec.tile, spec.rows) {
        let line: Vec<f64> = (row * spec.len..(row + 1) * spec.len)
            .map(|at| {
                let other = if spec.residual { access.load_f32(residual, at) } else { 0.0 };
                access.load_f32(0, at) + other
            })
            .collect();
        let mean = line.iter().sum::<f64>() / spec.len as f64;
        let variance = line.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / spec.len as f64;
        for (at, value) in line.iter().enumerate() {
            let shift = if spec.shift { access.load_f32(2, at) } else { 0.0 };
            let scaled =
                (value - mean) / (variance + f64::from(spec.epsilon)).sqrt() * access.load_f32(1, at);
            access.store_f32(row * spec.len + at, scaled + shift);
        }
    }
}

pub(super) fn resample(spec: &ResampleSpec, access: &mut Access<'_, '_>, block: usize) {
    let (outputs, extent) = (spec.taps.outputs(), spec.taps.extent());
    let (rows, columns) = spec.tile(block);
    for row in rows {
        let (from, weights) = spec.taps.of(row % outputs);
        for column in columns.clone() {
            let mut sum = 0.0;
            for (&from, &weight) in from.iter().zip(weights) {
                let value = match usize::try_from(from) {
                    Ok(from) => access.load_f32(0, (row / outputs * extent + from) * spec.inner + column),
                    Err(_) => f64::from(spec.taps.outside()),
                };
                sum += f64::from(weight) * value;
            }
            access.store_f32(row * spec.inner + column, sum);
        }
    }
}

pub(super) fn gather(spec: &GatherSpec, access: &mut Access<'_, '_>, block: usize) -> Result<(), String> {
    // Elements are moved as they are, in integers of their size.
    let dtype = match spec.dtype.bytes() {
        8 => DType::I64,
        4 => DType::I32,
        2 => DType::I16,
        _ => DType::I8,
    };
    for slice in part(block, spec.tile, spec.outer * spec.picks) {
        let (outer, pick) = (slice / spec.picks, slice % spec.picks);
        let index = access.load(1, spec.index_dtype, pick).int();
        let index = axis_index(index, spec.extent)
            .ok_or_else(|| format!("index {index}, {}", AllowedIndices(spec.extent)))?;
        for inner in 0..spec.inner {
            let value = access.load(0, dtype, (outer * spec.extent + index) * spec.inner + inner);
            access.store(dtype, slice * spec.inner + inner, value);
        }
    }
    Ok(())
}

pub(super) fn along(spec: &AlongSpec, access: &mut Access<'_, '_>, block: usize) {
    let outputs = spec.outputs();
    for row in part(block, spec.tile, spec.rows()) {
        let elements: Vec<Element> = (0..spec.extent)
            .map(|place| access.load(0, spec.dtype, spec.position(row, spec.extent, place)))
            .collect();
        for (output, made) in spec.of_row(&elements).into_iter().enumerate() {
            let extent = made.len();
            for (place, result) in made.into_iter().enumerate() {
                access.store_to(output, outputs[output].0, spec.position(row, extent, place), result);
            }
        }
    }
}

pub(super) fn vision(spec: &VisionSpec, access: &mut Access<'_, '_>, block: usize) -> Result<(), String> {
    let dtypes = spec.vision.dtypes();
    for unit in spec.part(block) {
        let mut load = |input: usize, at: usize| access.load(input, dtypes[input], at).float();
        let made = of_unit(&spec.vision, &spec.inputs, spec.channels_last, unit, &mut load)?;
        made.into_iter().for_each(|(at, value)| access.store_f32(at, value));
    }
    Ok(())
}

pub(super) fn trees(spec: &TreesSpec, access: &mut Access<'_, '_>, block: usize) -> Result<(), String> {
    let place = |access: &mut Access<'_, '_>, operand: usize, at: usize| {
        usize::try_from(access.load(operand, DType::I32, at).int()).map_err(|_| "a negative place".to_owned())
    };
    for row in part(block, spec.tile, spec.rows) {
        let mut made = vec![spec.aggregate.start(); spec.targets];
        for tree in 0..spec.trees {
            let mut node = place(access, 2, tree)? * NODE_WORDS;
            loop {
                let test = place(access, 1, node)? as i32;
                if test == LEAF {
                    break;
                }
                let feature = place(access, 1, node + 1)?;
                let x = access.load_f32(0, row * spec.features + feature);
                let value = f32::from_bits(access.load(1, DType::I32, node + 2).int() as u32);
                let missing = test & MISSING != 0 && x.is_nan();
                let passes = missing || Test::ALL[(test & !MISSING) as usize].passes(x as f32, value);
                node = place(access, 1, node + if passes { 3 } else { 4 })? * NODE_WORDS;
            }
            let first = place(access, 1, node + 3)?;
            for vote in first..first + place(access, 1, node + 4)? {
                let target = place(access, 3, vote)?;
                made[target] = spec.aggregate.with(made[target], access.load_f32(4, vote) as f32);
            }
        }
        for (target, value) in made.into_iter().enumerate() {
            let value = spec.aggregate.end(value, spec.trees);
            access.store_f32(row * spec.targets + target, value.into());
        }
    }
    Ok(())
}
