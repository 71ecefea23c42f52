//! Operators of vision models. Images lie with their channels last where that is worth it, all else dense.

use reef_graph::{Node, Shape, Vision};
use reef_plan::{KernelSpec, VisionSpec};

use super::{BufKind, Lowering, streams};
use crate::error::CompileError;
use crate::layout::Need;
use crate::view::View;

/// Fewer channels do not fill a vector.
const CHANNELS_MIN: usize = 8;

impl Lowering<'_> {
    pub(super) fn vision(&mut self, node: &Node, vision: &Vision) -> Result<(), CompileError> {
        let inputs: Vec<Shape> = node.inputs.iter().map(|&id| self.graph.value(id).shape.clone()).collect();
        vision.shape(&inputs).map_err(|reason| CompileError::unsupported(node, reason))?;
        let channels_last = self.channels_last(node, vision);
        let order = |rank: usize| -> Vec<usize> {
            match channels_last {
                true => [0].into_iter().chain(2..rank).chain([1]).collect(),
                false => (0..rank).collect(),
            }
        };
        let mut reads = vec![];
        for (operand, &id) in node.inputs.iter().enumerate() {
            let view = self.view(id);
            let own = if operand == 0 { order(view.rank()) } else { (0..view.rank()).collect() };
            let view = self.with_layout(view, &own, |view| view.is_ordered(&own));
            reads.push(self.operand(&view));
        }
        let rank = self.graph.value(node.outputs[0]).shape.rank();
        let own = order(rank);
        let y = self.place(node.outputs[0], Need::Solid, Some(own.clone()));
        let made = match y.is_ordered(&own) {
            true => y.clone(),
            false => {
                let mut made = View::ordered(0, y.dtype, &y.dims, &own);
                made.buf = self.buffer(BufKind::Arena, y.elements() * y.dtype.bytes());
                made
            }
        };
        let writes = vec![self.operand(&made)];
        let bytes: usize = reads.iter().chain(&writes).map(|operand| operand.bytes).sum();
        let work = streams(operations(vision, &inputs, y.elements()), bytes as f64);
        let spec = VisionSpec { vision: vision.clone(), inputs, channels_last, tile: 1 };
        let spec = KernelSpec::Vision(spec).whole();
        self.emit(self.label(), work, spec, reads, writes);
        if made != y {
            self.copy(&made, &y, format!("{}: layout", self.label()));
        }
        Ok(())
    }

    /// Whether the kernel takes images with their channels last: where x lies so already, or the readers of
    /// the output want it.
    fn channels_last(&mut self, node: &Node, vision: &Vision) -> bool {
        match vision {
            Vision::RoiAlign(_) => true,
            Vision::GridSample(_) => {
                let x = self.view(node.inputs[0]);
                let last = |rank: usize| [0].into_iter().chain(2..rank).chain([1]).collect::<Vec<usize>>();
                let order = last(x.rank());
                let wanted = self.layouts.orders[node.outputs[0].index()].as_ref() == Some(&order);
                x.dims[1] >= CHANNELS_MIN && (wanted || x.is_ordered(&order) && !x.is_dense())
            }
            Vision::Col2Im(_) | Vision::Det => false,
        }
    }
}

/// Simple operations, roughly.
fn operations(vision: &Vision, inputs: &[Shape], outputs: usize) -> f64 {
    match vision {
        Vision::GridSample(sample) => {
            let axes = inputs[0].rank() - 2;
            let taps = sample.interpolation.taps().pow(axes as u32);
            (2 * taps * outputs + 10 * inputs[1].elements()) as f64
        }
        Vision::RoiAlign(align) => 2.0 * (4 * align.samples.clamp(2, 1 << 16).pow(2) * outputs) as f64,
        Vision::Col2Im(_) => inputs[0].elements() as f64,
        Vision::Det => inputs[0].elements() as f64 * inputs[0][inputs[0].rank() - 1] as f64 * 2.0 / 3.0,
    }
}
