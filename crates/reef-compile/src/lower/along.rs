//! Kernels that go along an axis: dense rows on both sides.

use reef_graph::along::rows;
use reef_graph::{Along, Node, Reduce};
use reef_plan::{AlongSpec, KernelSpec, RowFunction};

use super::{Lowering, streams};
use crate::error::CompileError;
use crate::layout::Need;
use crate::view::View;

impl Lowering<'_> {
    pub(super) fn along(&mut self, node: &Node, along: Along, axis: usize) -> Result<(), CompileError> {
        let x = self.view(node.inputs[0]);
        let x = self.dense(x);
        let extents = rows(&x.dims, axis);
        self.rows_of(node, RowFunction::Along(along), &x, extents)
    }

    /// A reduction of integers or f64: folded axes are brought next to each other first.
    pub(super) fn fold(&mut self, node: &Node, reduce: Reduce, axes: &[usize]) -> Result<(), CompileError> {
        let x = self.view(node.inputs[0]);
        let neighbours = axes.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let kept: Vec<usize> = (0..x.rank()).filter(|axis| !axes.contains(axis)).collect();
        // Where the first of the folded axes is, among the others.
        let first = if neighbours { axes.first().copied().unwrap_or(x.rank()) } else { kept.len() };
        let order: Vec<usize> = kept[..first].iter().chain(axes).chain(&kept[first..]).copied().collect();
        let x = self.dense(x.permute(&order));
        let product = |dims: &[usize]| dims.iter().product::<usize>();
        let (outer, rest) = x.dims.split_at(first);
        let (folded, inner) = rest.split_at(axes.len());
        let extents = [product(outer), product(folded), product(inner)];
        self.rows_of(node, RowFunction::Fold(reduce), &x, extents)
    }

    fn rows_of(
        &mut self,
        node: &Node,
        function: RowFunction,
        x: &View,
        [outer, extent, inner]: [usize; 3],
    ) -> Result<(), CompileError> {
        let tile = (outer * inner).max(1);
        let spec = AlongSpec { function, dtype: x.dtype, outer, extent, inner, tile };
        if let Some(flaw) = spec.flaw() {
            return Err(CompileError::unsupported(node, flaw));
        }
        let reads = vec![self.operand(x)];
        let views: Vec<View> = node.outputs.iter().map(|&id| self.place(id, Need::Dense, None)).collect();
        let writes: Vec<_> = views.iter().map(|view| self.operand(view)).collect();
        let bytes: usize = reads.iter().chain(&writes).map(|operand| operand.bytes).sum();
        let flops = x.elements() as f64;
        self.emit(self.label(), streams(flops, bytes as f64), KernelSpec::Along(spec), reads, writes);
        Ok(())
    }
}
