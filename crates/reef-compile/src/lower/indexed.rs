//! Kernels that take what indices name, put something there, or tell where the largest of a window is: dense
//! operands on all sides.

use reef_graph::{DType, Node, Picks, Putting, Windows};
use reef_plan::{KernelSpec, MaxPoolSpec, PutSpec, TakeSpec};

use super::{Lowering, streams};
use crate::error::CompileError;
use crate::layout::Need;
use crate::view::View;

/// Operations of an element, or a slice, that lies anywhere.
const ANYWHERE: f64 = 2.0;

impl Lowering<'_> {
    pub(super) fn take(&mut self, node: &Node, picks: Picks) -> Result<(), CompileError> {
        let [data, indices] = [0, 1].map(|operand| self.dense_operand(node, operand));
        self.check_indices(node, &data, &indices)?;
        let indexing = picks.indexing(&data.dims, &indices.dims);
        let moves = if indexing.by_element { indexing.moved() } else { indexing.batch * indexing.rows };
        let y = self.place(node.outputs[0], Need::Dense, None);
        let spec = TakeSpec { dtype: data.dtype, index_dtype: indices.dtype, indexing, tile: 1 };
        let spec = KernelSpec::Take(spec).whole();
        let bytes = 2 * y.elements() * y.dtype.bytes() + indices.elements() * indices.dtype.bytes();
        let reads = [&data, &indices].map(|view| self.operand(view)).to_vec();
        let writes = vec![self.operand(&y)];
        self.emit(self.label(), streams(ANYWHERE * moves as f64, bytes as f64), spec, reads, writes);
        Ok(())
    }

    pub(super) fn put(&mut self, node: &Node, picks: Picks, putting: Putting) -> Result<(), CompileError> {
        let [data, indices, updates] = [0, 1, 2].map(|operand| self.dense_operand(node, operand));
        self.check_indices(node, &data, &indices)?;
        let indexing = picks.indexing(&data.dims, &indices.dims);
        let moves = match (indexing.by_element, putting) {
            (false, Putting::Replace) => indexing.batch * indexing.rows,
            _ => indexing.moved(),
        };
        let y = self.place(node.outputs[0], Need::Dense, None);
        let (dtype, index_dtype) = (data.dtype, indices.dtype);
        let spec = PutSpec { dtype, index_dtype, indexing, putting, tile: [1; 3] };
        let spec = KernelSpec::Put(spec).whole();
        let elements = 2 * (y.elements() + updates.elements());
        let bytes = elements * dtype.bytes() + indices.elements() * index_dtype.bytes();
        let reads = [&data, &indices, &updates].map(|view| self.operand(view)).to_vec();
        let writes = vec![self.operand(&y)];
        self.emit(self.label(), streams(ANYWHERE * moves as f64, bytes as f64), spec, reads, writes);
        Ok(())
    }

    pub(super) fn max_pool(&mut self, node: &Node, windows: &Windows) -> Result<(), CompileError> {
        let x = self.dense_operand(node, 0);
        let [batch, channels, extents @ ..] = &x.dims[..] else {
            unreachable!("validated graphs have five axes")
        };
        let extents = <[usize; 3]>::try_from(extents).expect("validated graphs have five axes");
        let (planes, windows) = (batch * channels, *windows);
        let spec = KernelSpec::MaxPool(MaxPoolSpec { dtype: x.dtype, planes, extents, windows, tile: 1 });
        let spec = spec.whole();
        let reads = vec![self.operand(&x)];
        let views: Vec<View> = node.outputs.iter().map(|&id| self.place(id, Need::Dense, None)).collect();
        let writes: Vec<_> = views.iter().map(|view| self.operand(view)).collect();
        let bytes: usize = reads.iter().chain(&writes).map(|operand| operand.bytes).sum();
        let taps = (planes * windows.count()) as f64 * windows.window() as f64;
        self.emit(self.label(), streams(taps, bytes as f64), spec, reads, writes);
        Ok(())
    }

    fn dense_operand(&mut self, node: &Node, operand: usize) -> View {
        let view = self.view(node.inputs[operand]);
        self.dense(view)
    }

    fn check_indices(&self, node: &Node, data: &View, indices: &View) -> Result<(), CompileError> {
        if !matches!(indices.dtype, DType::I64 | DType::I32) {
            return Err(CompileError::unsupported(node, format!("indices are {}", indices.dtype)));
        }
        if data.elements() == 0 {
            return Err(CompileError::unsupported(node, "takes from or puts into what has no elements"));
        }
        Ok(())
    }
}
