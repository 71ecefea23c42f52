//! Kernels that fold or normalise along axes.

use reef_graph::{DType, Node, Op, Reduce, ValueId};
use reef_plan::{KernelSpec, LayerNormSpec, LoopDim, ReduceSpec, SoftmaxSpec};

use super::nest::{Axis, nest};
use super::{BufKind, Lowering, streams, words};
use crate::error::CompileError;
use crate::layout::Need;
use crate::view::View;

/// Axes of an input (operand 1) and an output (operand 0) as a kernel writes them; at least one.
fn loop_dims(axes: &[Axis], reduced: bool) -> Vec<LoopDim> {
    if axes.is_empty() {
        return vec![LoopDim { extent: 1, in_stride: 0, out_stride: 0 }];
    }
    axes.iter()
        .map(|axis| LoopDim {
            extent: axis.extent,
            in_stride: axis.strides[1].unsigned_abs(),
            out_stride: if reduced { 0 } else { axis.strides[0].unsigned_abs() },
        })
        .collect()
}

/// Elements of a part that is folded by itself, at least, and the most parts.
const PART_MIN: usize = 1024;
const PARTS_MAX: usize = 64;

/// How many equal parts so many elements are folded in.
fn parts(elements: usize) -> usize {
    let most = (elements / PART_MIN).clamp(1, PARTS_MAX);
    (1..=most).rev().find(|&parts| elements.is_multiple_of(parts)).unwrap_or(1)
}

impl Lowering<'_> {
    pub(super) fn reduce(&mut self, node: &Node, reduce: Reduce, axes: &[usize]) -> Result<(), CompileError> {
        self.require_f32(node, &node.inputs)?;
        let x = self.forward(node.inputs[0]);
        let kept: Vec<usize> = (0..x.rank()).filter(|axis| !axes.contains(axis)).collect();
        let y = self.place(node.outputs[0], Need::Any, None);
        if x.elements() == 0 {
            let empty = match reduce {
                Reduce::Sum | Reduce::SumSquare => 0.0,
                Reduce::Prod => 1.0,
                Reduce::Mean => f32::NAN,
                Reduce::Max => f32::NEG_INFINITY,
                Reduce::Min => f32::INFINITY,
            };
            self.fill(&y, DType::F32, empty, self.label());
            return Ok(());
        }
        if kept.is_empty() && matches!(reduce, Reduce::Min | Reduce::Max) {
            self.extreme(reduce, &x, &y);
            return Ok(());
        }
        // The output with the input's extents: folded axes get stride 0.
        let mut wide = View { dims: x.dims.clone(), strides: vec![0; x.rank()], ..y.clone() };
        for (index, &axis) in kept.iter().enumerate() {
            wide.strides[axis] = y.strides[if y.rank() == x.rank() { axis } else { index }];
        }
        let ordered = |axes: &[usize], view: &View| -> Vec<usize> {
            view.order().into_iter().filter(|axis| axes.contains(axis)).collect()
        };
        let kept_axes = nest(&[&wide, &x], &ordered(&kept, &wide));
        let reduced_axes = nest(&[&wide, &x], &ordered(axes, &x));
        let flops = x.elements() as f64;
        let work = streams(flops, words(x.elements() + y.elements()));
        let spec = ReduceSpec {
            reduce,
            kept: loop_dims(&kept_axes, false),
            reduced: loop_dims(&reduced_axes, true),
            tile: y.elements().max(1),
        };
        let (reads, writes) = (vec![self.operand(&x)], vec![self.operand(&y)]);
        self.emit(self.label(), work, KernelSpec::Reduce(spec), reads, writes);
        Ok(())
    }

    /// The least or the largest of all elements: of parts of memory first, which are blocks of their own,
    /// since the order makes no difference.
    fn extreme(&mut self, reduce: Reduce, x: &View, y: &View) {
        let mut axes: Vec<LoopDim> = nest(&[x], &x.order())
            .iter()
            .map(|axis| LoopDim {
                extent: axis.extent,
                in_stride: axis.strides[0].unsigned_abs(),
                out_stride: 0,
            })
            .collect();
        if let [axis] = axes[..] {
            let parts = parts(axis.extent);
            let extent = axis.extent / parts;
            axes = vec![
                LoopDim { extent: parts, in_stride: extent * axis.in_stride, out_stride: 0 },
                LoopDim { extent, ..axis },
            ];
        }
        let whole = LoopDim { extent: 1, in_stride: 0, out_stride: 0 };
        let mut from = self.operand(x);
        if axes.len() > 1 && axes[0].extent > 1 {
            let kept = LoopDim { out_stride: 1, ..axes.remove(0) };
            let buf = self.buffer(BufKind::Arena, kept.extent * DType::F32.bytes());
            let made = View::dense(buf, DType::F32, &[kept.extent]);
            let spec = ReduceSpec { reduce, kept: vec![kept], reduced: axes, tile: kept.extent };
            let work = streams(x.elements() as f64, words(x.elements()));
            let to = self.operand(&made);
            let label = format!("{}: parts", self.label());
            self.emit(label, work, KernelSpec::Reduce(spec), vec![from], vec![to]);
            (from, axes) = (to, vec![LoopDim { extent: kept.extent, in_stride: 1, out_stride: 0 }]);
        }
        if axes.is_empty() {
            axes.push(whole);
        }
        let count: usize = axes.iter().map(|axis| axis.extent).product();
        let spec = ReduceSpec { reduce, kept: vec![whole], reduced: axes, tile: 1 };
        let (label, to) = (self.label(), self.operand(y));
        self.emit(label, streams(count as f64, words(count)), KernelSpec::Reduce(spec), vec![from], vec![to]);
    }

    pub(super) fn softmax(&mut self, node: &Node, axis: usize, log: bool) -> Result<(), CompileError> {
        self.require_f32(node, &node.inputs)?;
        let x = self.forward(node.inputs[0]);
        let y = self.place(node.outputs[0], Need::Any, Some(x.order()));
        let rows: Vec<usize> = y.order().into_iter().filter(|&other| other != axis).collect();
        let row_axes = nest(&[&y, &x], &rows);
        let along = loop_dims(&nest(&[&y, &x], &[axis]), false);
        let count = y.elements() / y.dims[axis].max(1);
        let flops = 20.0 * x.elements() as f64;
        let work = streams(flops, words(x.elements() + y.elements()));
        let spec = SoftmaxSpec { rows: loop_dims(&row_axes, false), axis: along[0], log, tile: count.max(1) };
        let (reads, writes) = (vec![self.operand(&x)], vec![self.operand(&y)]);
        self.emit(self.label(), work, KernelSpec::Softmax(spec), reads, writes);
        Ok(())
    }

    pub(super) fn layer_norm(&mut self, node: &Node, sum: Option<[ValueId; 2]>) -> Result<(), CompileError> {
        let Op::LayerNorm { axis, epsilon } = node.op else {
            unreachable!("the group ends with a layer norm")
        };
        self.require_f32(node, &node.inputs)?;
        let [x, residual] = sum.map_or([node.inputs[0], node.inputs[0]], |sum| sum);
        let mut reads = Vec::new();
        for id in [x].into_iter().chain(node.inputs[1..].iter().copied()).chain(sum.map(|_| residual)) {
            let view = self.view(id);
            let view = self.dense(view);
            reads.push(self.operand(&view));
        }
        let y = self.place(node.outputs[0], Need::Dense, None);
        let (rows, len) =
            (y.dims[..axis].iter().product::<usize>(), y.dims[axis..].iter().product::<usize>());
        let flops = 8.0 * y.elements() as f64;
        let work = streams(flops, words(y.elements()) * reads.len() as f64);
        let spec = LayerNormSpec {
            rows,
            len,
            epsilon,
            shift: node.inputs.len() > 2,
            residual: sum.is_some(),
            tile: rows.max(1),
        };
        let writes = vec![self.operand(&y)];
        self.emit(self.label(), work, KernelSpec::LayerNorm(spec), reads, writes);
        Ok(())
    }
}
