//! Operators that move elements: views where strides can say it, copies where not.

use std::ops::Range;

use reef_graph::{DType, Node, Op, Taps, axis_index};
use reef_plan::{ElemOp, GatherSpec, KernelSpec, RegisterKind, ResampleSpec};

use super::{Lowering, streams, words};
use crate::error::CompileError;
use crate::layout::Need;
use crate::view::View;

/// For every axis of `to`, the axes of `from` that it joins, if it is made of whole axes.
fn joins(from: &[usize], to: &[usize]) -> Option<Vec<Range<usize>>> {
    let (mut at, mut runs) = (0, vec![]);
    for &extent in to {
        let (first, mut product) = (at, 1);
        while let Some(next) = from.get(at).map(|next| product * next).filter(|&next| next <= extent) {
            (product, at) = (next, at + 1);
        }
        if product != extent {
            return None;
        }
        runs.push(first..at);
    }
    (at == from.len()).then_some(runs)
}

impl Lowering<'_> {
    /// Slices, transposes, broadcasts, reshapes, and the same bits as another type.
    pub(super) fn make_view(&mut self, node: &Node) {
        let x = self.view(node.inputs[0]);
        let dims = &self.graph.value(node.outputs[0]).shape;
        let view = match &node.op {
            Op::Slice { axis, begin, step, .. } => x.slice(*axis, *begin, dims[*axis], *step),
            Op::Transpose { perm } => x.permute(perm),
            Op::Expand => x.broadcast(dims),
            Op::BitCast { to } => View { dtype: *to, ..x },
            _ => match x.reshape(dims) {
                Some(view) => view,
                None => self.joined(&x, node).unwrap_or_else(|| {
                    let dense = self.dense(x);
                    dense.reshape(dims).expect("dense elements take any shape")
                }),
            },
        };
        self.views[node.outputs[0].index()] = Some(view);
    }

    /// A reshape that only joins axes, as a view of a copy that lies as the readers like it best.
    fn joined(&mut self, x: &View, node: &Node) -> Option<View> {
        let dims = &self.graph.value(node.outputs[0]).shape;
        let wanted = self.layouts.orders[node.outputs[0].index()].clone()?;
        let runs = joins(&x.dims, dims)?;
        let order: Vec<usize> = wanted.iter().flat_map(|&axis| runs[axis].clone()).collect();
        self.with_layout(x.clone(), &order, |_| false).reshape(dims)
    }

    /// Copies into the concatenation's buffer the parts that were not made there.
    pub(super) fn concat(&mut self, node: &Node) {
        let output = node.outputs[0];
        let run = self.layouts.runs[&output];
        let whole = self.root_view(run.root);
        let root = self.layouts.roots[run.root].clone();
        for part in run.first..run.first + run.count {
            let (source, target) = (self.view(root.leaves[part]), self.leaf_view(run.root, part));
            // A part that has a home here may lie elsewhere all the same: as a view of something else.
            let made_here = source == target;
            if made_here || self.copied_leaves.insert((run.root, part), ()).is_some() {
                continue;
            }
            self.copy(&source, &target, format!("{}: part {part}", node.name));
        }
        let extent = self.graph.value(output).shape[root.axis];
        let view = whole.slice(root.axis, root.begins.get(run.first).copied().unwrap_or(0), extent, 1);
        self.views[output.index()] = Some(view);
    }

    pub(super) fn pad(&mut self, node: &Node, pads: &[(usize, usize)], value: f32) {
        let x = self.view(node.inputs[0]);
        let y = self.place(node.outputs[0], Need::Any, None);
        self.fill(&y, y.dtype, value, format!("{}: fill", node.name));
        let mut inside = y;
        for (axis, pad) in pads.iter().enumerate() {
            inside = inside.slice(axis, pad.0, x.dims[axis], 1);
        }
        self.copy(&x, &inside, node.name.clone());
    }

    /// Writes one value everywhere.
    pub(super) fn fill(&mut self, y: &View, dtype: DType, value: f32, name: String) {
        let constant = match RegisterKind::of(dtype) {
            RegisterKind::Single => ElemOp::ConstF32(value),
            RegisterKind::Double => ElemOp::ConstF64(value.into()),
            RegisterKind::Integer => ElemOp::ConstI64(value as i64),
        };
        self.program(name, y, &[], vec![constant]);
    }

    /// Copies elements bit by bit.
    pub(super) fn copy(&mut self, from: &View, to: &View, name: String) {
        let bits = |view: &View| {
            let dtype = match view.dtype {
                DType::F64 | DType::U64 => DType::I64,
                DType::F16 | DType::BF16 => DType::I16,
                other => other,
            };
            View { dtype, ..view.clone() }
        };
        self.program(name, &bits(to), &[bits(from)], vec![ElemOp::Load(0)]);
    }

    pub(super) fn gather(&mut self, node: &Node, axis: usize) -> Result<(), CompileError> {
        let data = self.view(node.inputs[0]);
        if let Some(view) = self.pick_constant(node, &data, axis) {
            self.views[node.outputs[0].index()] = Some(view);
            return Ok(());
        }
        let indices = self.view(node.inputs[1]);
        if !matches!(indices.dtype, DType::I64 | DType::I32) {
            return Err(CompileError::unsupported(node, format!("indices are {}", indices.dtype)));
        }
        let (data, indices) = (self.dense(data), self.dense(indices));
        let y = self.place(node.outputs[0], Need::Dense, None);
        let (outer, inner) = (data.dims[..axis].iter().product(), data.dims[axis + 1..].iter().product());
        let picks = indices.elements();
        let bytes = (2 * y.elements() * y.dtype.bytes() + picks * indices.dtype.bytes()) as f64;
        let slices: usize = outer * picks;
        if data.dims[axis] == 0 {
            return Err(CompileError::unsupported(node, "picks from an axis without elements"));
        }
        let spec = GatherSpec {
            dtype: data.dtype,
            index_dtype: indices.dtype,
            outer,
            extent: data.dims[axis],
            inner,
            picks,
            tile: slices.max(1),
        };
        let (reads, writes) = (vec![self.operand(&data), self.operand(&indices)], vec![self.operand(&y)]);
        self.emit(self.label(), streams(0.0, bytes), KernelSpec::Gather(spec), reads, writes);
        Ok(())
    }

    /// In the order of axes that its readers like best: the resampled axis may be any.
    pub(super) fn resample(&mut self, node: &Node, axis: usize, taps: &Taps) -> Result<(), CompileError> {
        self.require_f32(node, &node.inputs)?;
        let x = self.view(node.inputs[0]);
        if x.dims[axis] != taps.extent() || self.graph.value(node.outputs[0]).shape[axis] != taps.outputs() {
            return Err(CompileError::unsupported(node, "its taps are of axes of other extents"));
        }
        let y = self.place(node.outputs[0], Need::Solid, Some(x.order()));
        let order = if y.is_ordered(&x.order()) { x.order() } else { y.order() };
        let x = self.with_layout(x, &order, |view| view.is_ordered(&order));
        let place = order.iter().position(|&other| other == axis).expect("orders have every axis");
        let extent = |axes: &[usize]| axes.iter().map(|&axis| y.dims[axis]).product::<usize>();
        let (outer, inner) = (extent(&order[..place]), extent(&order[place + 1..]));
        let flops = 2.0 * (taps.count() * outer * inner) as f64;
        let work = streams(flops, words(x.elements() + y.elements()));
        let spec = ResampleSpec { taps: taps.clone(), outer, inner, tile_rows: 1, tile_columns: 1 };
        let spec = KernelSpec::Resample(spec).whole();
        let (reads, writes) = (vec![self.operand(&x)], vec![self.operand(&y)]);
        self.emit(self.label(), work, spec, reads, writes);
        Ok(())
    }

    /// The view that picks constant indices when they are evenly spaced.
    fn pick_constant(&self, node: &Node, data: &View, axis: usize) -> Option<View> {
        let tensor = self.graph.constant(node.inputs[1])?;
        let indices: Vec<i64> = match tensor.dtype() {
            DType::I64 => tensor.values::<i64>().to_vec(),
            DType::I32 => tensor.values::<i32>().iter().map(|&index| i64::from(index)).collect(),
            _ => return None,
        };
        let place = |index| axis_index(index, data.dims[axis]).map(|place| place as i64);
        let indices: Vec<i64> = indices.into_iter().map(place).collect::<Option<_>>()?;
        let first = *indices.first()?;
        let step = indices.get(1).map_or(1, |second| second - first);
        let even = indices.iter().enumerate().all(|(i, &index)| index == first + i as i64 * step);
        if tensor.shape().rank() > 1 || !even || step == 0 {
            return None;
        }
        let view = data.slice(axis, first as usize, indices.len(), step as isize);
        view.reshape_axis(axis, tensor.shape())
    }

    pub(super) fn host(&mut self, node: &Node, index: usize) -> Result<(), CompileError> {
        let Some(kernel) = self.host_kernels.get(index).cloned() else {
            return Err(CompileError::unsupported(node, format!("there is no host kernel {index}")));
        };
        let expected = kernel.inputs().iter().chain(kernel.outputs());
        let given = node.inputs.iter().chain(&node.outputs).map(|&id| self.graph.value(id));
        let counts =
            (kernel.inputs().len(), kernel.outputs().len()) == (node.inputs.len(), node.outputs.len());
        let agree =
            expected.zip(given).all(|(spec, value)| spec.dtype == value.dtype && spec.shape == value.shape);
        if !counts || !agree {
            let reason = format!("host kernel {} has other operands than the node", kernel.name());
            return Err(CompileError::unsupported(node, reason));
        }
        let mut reads = Vec::new();
        for &id in &node.inputs {
            let view = self.view(id);
            let order: Vec<usize> = (0..view.rank()).collect();
            let aligned =
                |view: &View| view.is_dense() && (view.offset * view.dtype.bytes()).is_multiple_of(64);
            let view = self.with_layout(view, &order, aligned);
            reads.push(self.operand(&view));
        }
        let views: Vec<View> = node.outputs.iter().map(|&id| self.place(id, Need::Dense, None)).collect();
        let writes: Vec<_> = views.iter().map(|view| self.operand(view)).collect();
        let bytes: usize = reads.iter().chain(&writes).map(|operand| operand.bytes).sum();
        let name = format!("{} (host {})", node.name, kernel.name());
        self.emit(name, streams(0.0, bytes as f64), KernelSpec::Host(index), reads, writes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::joins;

    #[test]
    fn joined_axes_are_whole_and_neighbours() {
        assert_eq!(joins(&[2, 3, 4, 5], &[6, 20]), Some(vec![0..2, 2..4]));
        assert_eq!(joins(&[2, 1, 3, 1], &[2, 3]), Some(vec![0..2, 2..4]));
        assert_eq!(joins(&[2, 3], &[1, 2, 1, 3]), Some(vec![0..0, 0..1, 1..1, 1..2]));
        assert_eq!(joins(&[2, 6], &[4, 3]), None);
        assert_eq!(joins(&[12], &[3, 4]), None);
    }
}
