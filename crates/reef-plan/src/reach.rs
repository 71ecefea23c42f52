//! How far a kernel reaches into its operands, by its specification: what the validator holds against the
//! regions, so that kernels may trust their addresses.

use std::ops::Range;
use std::sync::Arc;

use reef_graph::DType;

use crate::along::AlongSpec;
use crate::attention::AttentionSpec;
use crate::host::{HostKernel, TensorSpec};
use crate::indexed::{PutSpec, TakeSpec};
use crate::integer::{Factors, IntegerEpilogue, IntegerPanels};
use crate::layout::Matrices;
use crate::packed::PackedSpec;
use crate::plan::{Kernel, Plan};
use crate::recurrent::RecurrentSpec;
use crate::region::{Place, Region};
use crate::resample::ResampleSpec;
use crate::spec::{
    ConvSpec, DepthwiseSpec, ElementwiseSpec, Epilogue, GatherSpec, IntegerConvSpec, IntegerMatMulSpec,
    KernelSpec, LayerNormSpec, LoopDim, MatMulSpec, PoolSpec,
};
use crate::weights::{Packing, WeightRef};
use crate::windows::MaxPoolSpec;

/// The elements of an operand that a kernel touches: a loop nest from the region's first byte on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Element on which the nest starts.
    first: usize,
    /// Extent and stride of every axis.
    axes: Vec<(usize, isize)>,
    /// Bytes of an element.
    size: usize,
}

const F32: usize = 4;

impl Reach {
    fn new(size: usize, axes: impl IntoIterator<Item = (usize, usize)>) -> Reach {
        let axes = axes.into_iter().map(|(extent, stride)| (extent, stride as isize)).collect();
        Reach { first: 0, axes, size }
    }

    /// `count` elements one after the other.
    fn dense(size: usize, count: usize) -> Reach {
        Reach::new(size, [(count, 1)])
    }

    /// Rows of pixels of `channels` f32.
    fn pixels(count: usize, stride: usize, channels: usize) -> Reach {
        Reach::pixels_of(F32, count, stride, channels)
    }

    /// The same of elements of another size.
    fn pixels_of(size: usize, count: usize, stride: usize, channels: usize) -> Reach {
        Reach::new(size, [(count, stride), (channels, 1)])
    }

    /// Why the kernel would leave `region`; `None` if it stays inside. A column of a weight or input may be
    /// read beside: only what is written must keep to it, because others own the rest.
    pub fn leaves(&self, region: &Region, writes: bool) -> Option<&'static str> {
        if self.axes.iter().any(|axis| axis.0 == 0) {
            return None;
        }
        let steps = |axis: &&(usize, isize)| (axis.0 - 1).checked_mul(axis.1.unsigned_abs());
        let sum = |backwards: bool| {
            let mut own = self.axes.iter().filter(|axis| (axis.1 < 0) == backwards);
            own.try_fold(0usize, |sum, axis| sum.checked_add(steps(&axis)?))
        };
        let (Some(forward), Some(backward)) = (sum(false), sum(true)) else {
            return Some("is smaller than what the kernel reaches");
        };
        if backward > self.first {
            return Some("begins behind what the kernel reaches");
        }
        let end =
            self.first.checked_add(forward).and_then(|last| last.checked_add(1)?.checked_mul(self.size));
        if end.is_none_or(|end| end > region.bytes) {
            return Some("is smaller than what the kernel reaches");
        }
        let lane = region.lane.filter(|_| writes)?;
        let inside: usize = self
            .axes
            .iter()
            .filter(|axis| !(axis.1.unsigned_abs() * self.size).is_multiple_of(lane.stride))
            .map(|axis| (axis.0 - 1) * axis.1.unsigned_abs() * self.size)
            .sum();
        (inside + self.size > lane.width).then_some("is narrower than what the kernel writes")
    }

    /// Calls `visit` for the bytes that the nest touches, from the region's first byte on, run by run. For
    /// what is written: no axis runs backwards.
    fn each_run(&self, mut visit: impl FnMut(Range<usize>)) {
        let mut axes: Vec<(usize, usize)> =
            self.axes.iter().map(|&(extent, stride)| (extent, stride.unsigned_abs() * self.size)).collect();
        if axes.iter().any(|axis| axis.0 == 0) {
            return;
        }
        axes.retain(|axis| axis.0 > 1);
        axes.sort_by_key(|axis| axis.1);
        let mut run = self.size;
        let dense = axes.iter().take_while(|axis| {
            let joins = axis.1 == run;
            run *= if joins { axis.0 } else { 1 };
            joins
        });
        let dense = dense.count();
        let mut index = vec![0; axes.len() - dense];
        loop {
            let outer = index.iter().zip(&axes[dense..]).map(|(at, axis)| at * axis.1);
            let begin = self.first * self.size + outer.sum::<usize>();
            visit(begin..begin + run);
            let Some(axis) = (0..index.len()).find(|&axis| index[axis] + 1 < axes[dense + axis].0) else {
                return;
            };
            index[..axis].fill(0);
            index[axis] += 1;
        }
    }
}

impl Plan {
    /// Calls `visit` for the bytes that a kernel of the plan writes: exactly those, where its regions may
    /// have some more. Ranges are of the region's place.
    pub fn each_written(&self, kernel: &Kernel, mut visit: impl FnMut(Place, Range<usize>)) {
        let packing = packing_of(kernel, self.weights());
        let (_, writes) = reaches(&kernel.spec, self.host_kernels(), packing).expect("the plan is valid");
        for (reach, region) in writes.iter().zip(&kernel.writes) {
            let offset = region.offset;
            reach.each_run(|run| visit(region.place, offset + run.start..offset + run.end));
        }
    }
}

/// How the weights of a kernel are packed, where it has some that are a packed constant.
pub(crate) fn packing_of(kernel: &Kernel, weights: &[WeightRef]) -> Option<Packing> {
    match kernel.reads.get(1)?.place {
        Place::Weight(index) => weights.get(index as usize).map(|weight| weight.packing),
        _ => None,
    }
}

/// What a kernel touches of its reads and its writes, in the order of the operands. A synthetic kernel reads
/// its regions as they are: none of its reads is listed. `packing` is that of the weights, where they are a
/// packed constant. An error says what is wrong with the specification itself.
pub(crate) fn reaches(
    spec: &KernelSpec,
    hosts: &[Arc<dyn HostKernel>],
    packing: Option<Packing>,
) -> Result<(Vec<Reach>, Vec<Reach>), &'static str> {
    Ok(match spec {
        KernelSpec::Conv(spec) => conv(spec, packing)?,
        KernelSpec::Depthwise(spec) => depthwise(spec, packing)?,
        KernelSpec::MatMul(spec) => matmul(spec, [F32; 3]),
        KernelSpec::IntegerConv(spec) => integer_conv(spec, packing)?,
        KernelSpec::IntegerMatMul(spec) => integer_matmul(spec)?,
        KernelSpec::Attention(spec) => attention(spec),
        KernelSpec::Elementwise(spec) => elementwise(spec)?,
        KernelSpec::Pool(spec) => pool(spec)?,
        KernelSpec::Reduce(spec) => {
            let all = || spec.kept.iter().chain(&spec.reduced);
            (vec![nest(all(), |dim| dim.in_stride)], vec![nest(spec.kept.iter(), |dim| dim.out_stride)])
        }
        KernelSpec::Softmax(spec) => {
            let all = || spec.rows.iter().chain([&spec.axis]);
            (vec![nest(all(), |dim| dim.in_stride)], vec![nest(all(), |dim| dim.out_stride)])
        }
        KernelSpec::LayerNorm(spec) => layer_norm(spec),
        KernelSpec::Gather(spec) => gather(spec),
        KernelSpec::Take(spec) => take(spec)?,
        KernelSpec::Put(spec) => put(spec)?,
        KernelSpec::MaxPool(spec) => max_pool(spec)?,
        KernelSpec::Resample(spec) => resample(spec),
        KernelSpec::Recurrent(spec) => recurrent(spec, packing)?,
        KernelSpec::Along(spec) => along(spec)?,
        KernelSpec::Packed(spec) => packed(spec)?,
        KernelSpec::Trees(spec) => {
            let reads = spec.reads().iter().map(|&count| Reach::dense(F32, count)).collect();
            (reads, vec![Reach::dense(F32, spec.rows * spec.targets)])
        }
        KernelSpec::Vision(spec) => {
            let output = Reach::dense(F32, spec.writes()?);
            let read = |(dtype, count): (DType, usize)| Reach::dense(dtype.bytes(), count);
            (spec.reads().into_iter().map(read).collect(), vec![output])
        }
        KernelSpec::Selection(spec) => {
            if let Some(flaw) = spec.flaw() {
                return Err(flaw);
            }
            let all = |operands: Vec<(DType, usize)>| -> Vec<Reach> {
                operands.iter().map(|&(dtype, count)| Reach::dense(dtype.bytes(), count)).collect()
            };
            (all(spec.inputs()), all(spec.outputs()))
        }
        KernelSpec::Host(index) => {
            let kernel = hosts.get(*index).ok_or("names a host kernel that the plan does not have")?;
            let all = |tensors: &[TensorSpec]| -> Vec<Reach> {
                let dense = |tensor: &TensorSpec| Reach::dense(tensor.dtype.bytes(), tensor.shape.elements());
                tensors.iter().map(dense).collect()
            };
            (all(kernel.inputs()), all(kernel.outputs()))
        }
        KernelSpec::Synthetic(spec) => (vec![], vec![Reach::dense(1, spec.bytes)]),
    })
}

fn along(spec: &AlongSpec) -> Result<Operands, &'static str> {
    if let Some(flaw) = spec.flaw() {
        return Err(flaw);
    }
    let dense = |(dtype, count): (DType, usize)| Reach::dense(dtype.bytes(), count);
    let x = dense((spec.dtype, spec.rows() * spec.extent));
    Ok((vec![x], spec.outputs().into_iter().map(dense).collect()))
}

fn packed(spec: &PackedSpec) -> Result<Operands, &'static str> {
    if !spec.weights.is_known() {
        return Err("has weights that are packed in no known way");
    }
    let by_block = Reach::dense(F32, spec.n * spec.blocks_of_row());
    let mut reads = vec![Reach::dense(F32, spec.m * spec.k), Reach::dense(1, spec.n * spec.row_bytes())];
    reads.extend([Some(by_block.clone()), spec.shifts.then_some(by_block)].into_iter().flatten());
    Ok((reads, vec![Reach::dense(F32, spec.m * spec.n)]))
}

fn nest<'a>(dims: impl Iterator<Item = &'a LoopDim>, stride: fn(&LoopDim) -> usize) -> Reach {
    Reach::new(F32, dims.map(|dim| (dim.extent, stride(dim))))
}

/// The operands behind the weights.
fn epilogue(epilogue: &Epilogue, rows: usize, channels: usize) -> Vec<Reach> {
    let bias = epilogue.bias.then(|| Reach::dense(F32, channels));
    let residual = epilogue.residual_pixel_stride.map(|stride| Reach::pixels(rows, stride, channels));
    bias.into_iter().chain(residual).collect()
}

type Operands = (Vec<Reach>, Vec<Reach>);

/// Weights in a layout that is not for them: what their bytes mean is unknown.
const OTHER_LAYOUT: &str = "has weights in a layout that it cannot read";

fn own(packing: Option<Packing>, of: Matrices) -> Option<Reach> {
    match packing {
        Some(Packing::Own { layout, .. }) => Some(Reach::dense(1, layout.0.bytes(of))),
        _ => None,
    }
}

/// Whether groups divide the channels.
fn has_groups(spec: &ConvSpec) -> bool {
    let divides = |channels: usize| channels.is_multiple_of(spec.groups.max(1));
    spec.in_c > 0 && spec.groups > 0 && divides(spec.in_c) && divides(spec.out_c)
}

const WRONG_GROUPS: &str = "has channels that its groups do not divide, or none";

fn conv(spec: &ConvSpec, packing: Option<Packing>) -> Result<Operands, &'static str> {
    if !has_groups(spec) {
        return Err(WRONG_GROUPS);
    }
    let pixels = spec.batch * spec.in_hw[0] * spec.in_hw[1];
    let panels = spec.groups * (spec.out_c / spec.groups).div_ceil(spec.panel_width.max(1));
    match packing {
        Some(Packing::Raw | Packing::Depthwise | Packing::IntegerPanels { .. }) => return Err(OTHER_LAYOUT),
        Some(Packing::ConvPanels { width, .. } | Packing::MatrixPanels { width, .. })
            if width as usize != spec.panel_width =>
        {
            return Err("has weights in panels of another width");
        }
        _ => {}
    }
    if spec.normed && !spec.is_pointwise() {
        return Err("norms the input of a window that has padding, several pixels or groups");
    }
    let panels = Reach::dense(F32, panels * spec.depth() * spec.panel_width);
    let weights = own(packing, spec.matrices()).unwrap_or(panels);
    let mut reads = vec![Reach::pixels(pixels, spec.in_pixel_stride, spec.in_c), weights];
    reads.extend(epilogue(&spec.epilogue, spec.rows(), spec.out_c));
    let by_channel = if spec.normed { 2 } else { 0 };
    reads.extend((0..by_channel).map(|_| Reach::dense(F32, spec.in_c)));
    Ok((reads, vec![Reach::pixels(spec.rows(), spec.out_pixel_stride, spec.out_c)]))
}

fn depthwise(spec: &DepthwiseSpec, packing: Option<Packing>) -> Result<Operands, &'static str> {
    if let Some(Packing::ConvPanels { .. } | Packing::MatrixPanels { .. } | Packing::IntegerPanels { .. }) =
        packing
    {
        return Err(OTHER_LAYOUT);
    }
    let pixels = spec.batch * spec.in_hw[0] * spec.in_hw[1];
    let rows = spec.batch * spec.out_hw[0] * spec.out_hw[1];
    let dense = Reach::dense(F32, spec.kernel[0] * spec.kernel[1] * spec.channels);
    let weights = own(packing, spec.matrices()).unwrap_or(dense);
    let mut reads = vec![Reach::pixels(pixels, spec.in_pixel_stride, spec.channels), weights];
    reads.extend(epilogue(&spec.epilogue, rows, spec.channels));
    Ok((reads, vec![Reach::pixels(rows, spec.out_pixel_stride, spec.channels)]))
}

/// What an integer product reads behind its factors: zero points of `rows` and `columns`, and the epilogue's
/// operands for `channels`.
fn behind_factors(
    factors: &Factors,
    epilogue: &IntegerEpilogue,
    [rows, columns, channels]: [usize; 3],
) -> Vec<Reach> {
    let [left, right] = factors.zeros;
    let scaled = epilogue.scaled.unwrap_or_default();
    let counts = [
        left.map(|per| (1, per.count(rows))),
        right.map(|per| (1, per.count(columns))),
        epilogue.bias.then_some((F32, channels)),
        scaled.factors.map(|per| (F32, per.count(channels))),
        scaled.shift.then_some((F32, channels)),
    ];
    counts.into_iter().flatten().map(|(size, count)| Reach::dense(size, count)).collect()
}

fn integer_conv(spec: &IntegerConvSpec, packing: Option<Packing>) -> Result<Operands, &'static str> {
    let conv = &spec.conv;
    if !has_groups(conv) {
        return Err(WRONG_GROUPS);
    }
    if let Some(flaw) = spec.flaw() {
        return Err(flaw);
    }
    let Some(Packing::IntegerPanels { width, .. }) = packing else { return Err(OTHER_LAYOUT) };
    if width as usize != conv.panel_width {
        return Err("has weights in panels of another width");
    }
    let panels = IntegerPanels { of: conv.matrices(), width: width as usize };
    let (pixels, rows) = (conv.batch * conv.in_hw[0] * conv.in_hw[1], conv.rows());
    let mut reads =
        vec![Reach::pixels_of(1, pixels, conv.in_pixel_stride, conv.in_c), Reach::dense(1, panels.bytes())];
    reads.extend(behind_factors(&spec.factors, &spec.epilogue, [rows, conv.out_c, conv.out_c]));
    let residual = spec.epilogue.scaled.and_then(|scaled| scaled.residual);
    reads.extend(
        residual.map(|residual| {
            Reach::pixels_of(residual.dtype().bytes(), rows, residual.pixel_stride, conv.out_c)
        }),
    );
    let size = spec.epilogue.output().bytes();
    Ok((reads, vec![Reach::pixels_of(size, rows, conv.out_pixel_stride, conv.out_c)]))
}

fn integer_matmul(spec: &IntegerMatMulSpec) -> Result<Operands, &'static str> {
    if let Some(flaw) = spec.flaw() {
        return Err(flaw);
    }
    let (product, planes) = (&spec.product, spec.product.planes());
    let (mut reads, writes) = matmul(product, [1, 1, spec.epilogue.output().bytes()]);
    let counts = [planes * product.m, planes * product.n, product.n];
    reads.extend(behind_factors(&spec.factors, &spec.epilogue, counts));
    Ok((reads, writes))
}

/// `sizes` are bytes of an element of a, b and c.
fn matmul(spec: &MatMulSpec, sizes: [usize; 3]) -> Operands {
    let operand = |index: usize, inner: [(usize, usize); 2]| {
        Reach::new(sizes[index - 1], spec.batch.iter().map(|axis| (axis[0], axis[index])).chain(inner))
    };
    let a = operand(1, [(spec.m, spec.a_strides[0]), (spec.k, spec.a_strides[1])]);
    let b = operand(2, [(spec.k, spec.b_strides[0]), (spec.n, spec.b_strides[1])]);
    (vec![a, b], vec![operand(3, [(spec.m, spec.c_row_stride), (spec.n, 1)])])
}

fn attention(spec: &AttentionSpec) -> Operands {
    let operand = |index: usize, inner: [(usize, usize); 2]| {
        Reach::new(F32, spec.batch.iter().map(|axis| (axis[0], axis[index])).chain(inner))
    };
    let (m, n, depth, width) = (spec.m, spec.n, spec.depth, spec.width);
    let mut reads = vec![
        operand(1, [(m, spec.q_strides[0]), (depth, spec.q_strides[1])]),
        operand(2, [(depth, spec.k_strides[0]), (n, spec.k_strides[1])]),
        operand(3, [(n, spec.v_strides[0]), (width, spec.v_strides[1])]),
    ];
    reads.extend(spec.mask.map(|(masking, strides)| Reach {
        size: masking.element_bytes(),
        ..operand(4, [(m, strides[0]), (n, strides[1])])
    }));
    (reads, vec![operand(5, [(m, spec.y_row_stride), (width, 1)])])
}

fn elementwise(spec: &ElementwiseSpec) -> Result<Operands, &'static str> {
    spec.kinds()?;
    let axes = spec.dims.len();
    if spec.out_strides.len() != axes || spec.inputs.iter().any(|input| input.strides.len() != axes) {
        return Err("has no program, or not one stride for every axis");
    }
    let reads = spec.inputs.iter().map(|input| Reach {
        first: input.offset,
        axes: spec.dims.iter().copied().zip(input.strides.iter().copied()).collect(),
        size: input.dtype.bytes(),
    });
    let y =
        Reach::new(spec.out_dtype.bytes(), spec.dims.iter().copied().zip(spec.out_strides.iter().copied()));
    Ok((reads.collect(), vec![y]))
}

fn pool(spec: &PoolSpec) -> Result<Operands, &'static str> {
    if let Some(flaw) = spec.flaw() {
        return Err(flaw);
    }
    let size = spec.dtype.bytes();
    let pixels = spec.batch * spec.in_hw[0] * spec.in_hw[1];
    let rows = spec.batch * spec.out_hw[0] * spec.out_hw[1];
    Ok((
        vec![Reach::pixels_of(size, pixels, spec.in_pixel_stride, spec.channels)],
        vec![Reach::pixels_of(size, rows, spec.out_pixel_stride, spec.channels)],
    ))
}

fn layer_norm(spec: &LayerNormSpec) -> Operands {
    let all = || Reach::dense(F32, spec.rows * spec.len);
    let mut reads = vec![all(), Reach::dense(F32, spec.len)];
    reads.extend(spec.shift.then(|| Reach::dense(F32, spec.len)));
    reads.extend(spec.residual.then(all));
    (reads, vec![all()])
}

fn gather(spec: &GatherSpec) -> Operands {
    let size = spec.dtype.bytes();
    let data = Reach::dense(size, spec.outer * spec.extent * spec.inner);
    let indices = Reach::dense(spec.index_dtype.bytes(), spec.picks);
    (vec![data, indices], vec![Reach::dense(size, spec.outer * spec.picks * spec.inner)])
}

fn take(spec: &TakeSpec) -> Result<Operands, &'static str> {
    if let Some(flaw) = spec.flaw() {
        return Err(flaw);
    }
    let (size, indexing) = (spec.dtype.bytes(), &spec.indexing);
    let indices = Reach::dense(spec.index_dtype.bytes(), indexing.indices());
    let reads = vec![Reach::dense(size, indexing.data()), indices];
    Ok((reads, vec![Reach::dense(size, indexing.moved())]))
}

fn put(spec: &PutSpec) -> Result<Operands, &'static str> {
    if let Some(flaw) = spec.flaw() {
        return Err(flaw);
    }
    let (size, indexing) = (spec.dtype.bytes(), &spec.indexing);
    let indices = Reach::dense(spec.index_dtype.bytes(), indexing.indices());
    let data = || Reach::dense(size, indexing.data());
    Ok((vec![data(), indices, Reach::dense(size, indexing.moved())], vec![data()]))
}

fn max_pool(spec: &MaxPoolSpec) -> Result<Operands, &'static str> {
    if let Some(flaw) = spec.windows.flaw(spec.extents) {
        return Err(flaw);
    }
    let x = Reach::dense(spec.dtype.bytes(), spec.planes * spec.plane());
    let made = |dtype: DType| Reach::dense(dtype.bytes(), spec.count());
    Ok((vec![x], vec![made(spec.dtype), made(DType::I64)]))
}

fn resample(spec: &ResampleSpec) -> Operands {
    let all = |extent: usize| vec![Reach::dense(F32, spec.outer * extent * spec.inner)];
    (all(spec.taps.extent()), all(spec.taps.outputs()))
}

fn recurrent(spec: &RecurrentSpec, packing: Option<Packing>) -> Result<Operands, &'static str> {
    if let Some(flaw) = spec.flaw() {
        return Err(flaw);
    }
    let (gates, hidden, width) = (spec.cell.gates(), spec.hidden, spec.panel_width);
    match packing {
        _ if spec.integers.is_some() => match packing {
            Some(Packing::IntegerPanels { groups, width: other })
                if (groups as usize, other as usize) == (gates, width) => {}
            _ => return Err(OTHER_LAYOUT),
        },
        _ if spec.computed && (packing.is_some() || width == 0) => return Err(OTHER_LAYOUT),
        _ if spec.computed => {}
        Some(Packing::MatrixPanels { .. } | Packing::Depthwise | Packing::IntegerPanels { .. }) => {
            return Err(OTHER_LAYOUT);
        }
        Some(Packing::Raw) if width != 0 => return Err(OTHER_LAYOUT),
        Some(Packing::ConvPanels { groups, width: other })
            if (groups as usize, other as usize) != (gates, width) =>
        {
            return Err("has weights in panels of another width");
        }
        _ => {}
    }
    let padded = hidden.next_multiple_of(width.max(1));
    let weights = match spec.integers {
        Some(_) => Reach::dense(1, IntegerPanels { of: spec.matrices(), width }.bytes()),
        None => own(packing, spec.matrices()).unwrap_or(Reach::dense(F32, gates * padded * hidden)),
    };
    let mut reads =
        vec![Reach::pixels(spec.steps * spec.batch, spec.sums_row_stride, gates * hidden), weights];
    if spec.integers.is_some() {
        reads.extend([F32, 1].map(|size| Reach::dense(size, gates * hidden)));
        reads.extend(spec.bias.then(|| Reach::dense(F32, gates * hidden)));
    }
    let state = || Reach::dense(F32, spec.batch * hidden);
    reads.extend(spec.reset_bias.then(|| Reach::dense(F32, hidden)));
    reads.extend(spec.peepholes.then(|| Reach::dense(F32, 3 * hidden)));
    reads.extend(spec.lengths.then(|| Reach::dense(DType::I32.bytes(), spec.batch)));
    reads.extend([spec.h_before, spec.c_before].into_iter().filter(|there| *there).map(|_| state()));
    let y = Reach::new(F32, [(spec.steps, spec.y_step_stride), (spec.batch * hidden, 1)]);
    let mut writes: Vec<Reach> = spec.y.then_some(y).into_iter().collect();
    writes.extend([spec.h_after, spec.c_after].into_iter().filter(|there| *there).map(|_| state()));
    Ok((reads, writes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_is_touched() {
        let runs = |reach: &Reach| {
            let mut runs = vec![];
            reach.each_run(|run| runs.push((run.start, run.end)));
            runs
        };
        assert_eq!(runs(&Reach::dense(4, 10)), [(0, 40)]);
        assert_eq!(runs(&Reach::pixels(3, 8, 2)), [(0, 8), (32, 40), (64, 72)]);
        assert_eq!(runs(&Reach::new(1, [(2, 12), (3, 4), (4, 1)])), [(0, 24)]);
        assert_eq!(runs(&Reach::new(2, [(2, 1), (3, 2)])), [(0, 12)], "in whichever order");
        assert_eq!(runs(&Reach::new(4, [(2, 10), (1, 7), (2, 4)])), [(0, 4), (16, 20), (40, 44), (56, 60)]);
        assert_eq!(runs(&Reach::new(4, [(2, 10), (0, 1)])), []);
        assert_eq!(runs(&Reach::new(4, [])), [(0, 4)]);
    }
}
