//! Convolutions, and matrix products with constant weights, as implicit matrix products.
//!
//! No input is copied: for every tap of the window and every pixel of a micro-tile a table holds the
//! address of the input's channels there (or of zeros), and the micro-kernel reads through it. A block goes
//! through its pixels in groups of up to [`Vector::ROWS`]; for each it fills the table once and walks over
//! its panels. It polls before every chunk of a micro-tile.

use reef_plan::{ConvSpec, Isa, Kernel, Region};

use super::epilogue::{self, Store};
use super::micro::{self, Chunk};
use super::taps::{Segments, Taps};
use super::vector::Vector;
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd};
use crate::cut::panel_width;

/// Products from which on a sum of a 1×1 convolution is added up in parts.
pub(super) const LONG_SUM: usize = 2048;

/// Products of one of these parts.
pub(super) const PART_OF_LONG_SUM: usize = 256;

/// Makes a convolution ready.
pub(super) fn prepare(spec: &ConvSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    assert_eq!(spec.panel_width, panel_width(isa), "panels of {} for {isa}", kernel.name);
    assert_eq!(spec.tile_columns % spec.panel_width, 0, "a tile of whole panels in {}", kernel.name);
    let mut reads = kernel.reads.iter().copied();
    let mut next = |present: bool| present.then(|| reads.next().expect("the spec counts the operands"));
    let (x, weights) = (next(true).expect("asked for"), next(true).expect("asked for"));
    let (bias, residual) = (next(spec.epilogue.bias), next(spec.epilogue.residual_pixel_stride.is_some()));
    let taps = Taps::new(spec);
    bind(Conv { spec: spec.clone(), taps, x, weights, bias, residual, y: kernel.writes[0] }, isa)
}

struct Conv {
    spec: ConvSpec,
    taps: Taps,
    x: Region,
    weights: Region,
    bias: Option<Region>,
    residual: Option<Region>,
    y: Region,
}

/// Addresses of a block's operands, at its group.
struct Operands {
    x: *const f32,
    weights: *const f32,
    bias: *const f32,
    residual: *const f32,
    y: *mut f32,
    acc: *mut f32,
    table: *mut *const f32,
}

impl VectorKernel for Conv {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let tile = self.spec.tile(block);
        // SAFETY: the group is one of the convolution's.
        let operands = unsafe { self.operands(context, tile.plane) };
        // Groups of nearly equal size: a last group of one row would read all weights for little work.
        let groups = tile.rows.div_ceil(V::ROWS);
        let (size, larger) = (tile.rows / groups, tile.rows % groups);
        let mut row = tile.row;
        for group in 0..groups {
            let rows = size + usize::from(group < larger);
            // SAFETY: the rows are the tile's; the table has room for every tap of ROWS_MAX rows.
            let done = unsafe {
                let segments = self.taps.fill(operands.x, row, rows, operands.table);
                self.row_group::<V>(context, &operands, segments, (row, rows), (tile.column, tile.columns))
            };
            if !done {
                return BlockEnd::Killed;
            }
            row += rows;
        }
        BlockEnd::Done
    }
}

impl Conv {
    #[inline(always)]
    unsafe fn operands(&self, context: &BlockContext<'_>, group: usize) -> Operands {
        let spec = &self.spec;
        let outputs = spec.out_c / spec.groups;
        let panels = outputs.div_ceil(spec.panel_width);
        let pointer = |region: &Option<Region>| {
            region.as_ref().map_or(std::ptr::null(), |region| context.read_ptr(region).cast::<f32>())
        };
        let at_group = |pointer: *const f32| match pointer.is_null() {
            true => pointer,
            // SAFETY: bias and residual have as many channels as the output.
            false => unsafe { pointer.add(group * outputs) },
        };
        // SAFETY: the validator checked the regions' sizes; the group is one of the spec's. Scratch is as
        // large as the spec says.
        unsafe {
            Operands {
                x: context.read_ptr(&self.x).cast::<f32>().add(group * (spec.in_c / spec.groups)),
                weights: context
                    .read_ptr(&self.weights)
                    .cast::<f32>()
                    .add(group * panels * spec.depth() * spec.panel_width),
                bias: at_group(pointer(&self.bias)),
                residual: at_group(pointer(&self.residual)),
                y: context.write_ptr(&self.y).cast::<f32>().add(group * outputs),
                acc: context.scratch.cast(),
                table: context.scratch.add(micro::ACC_BYTES).cast(),
            }
        }
    }

    /// Makes `rows` rows of all the tile's columns. False when the poll said stop.
    #[inline(always)]
    unsafe fn row_group<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        segments: Segments,
        (row, rows): (usize, usize),
        (first_column, columns): (usize, usize),
    ) -> bool {
        let mut column = first_column;
        let end = first_column + columns;
        while column < end {
            let vectors = micro::vectors_at_once::<V>(rows, end - column);
            // SAFETY: a column tile starts at a panel, and steps are whole panels but for the last; the
            // rest is passed on from the caller.
            unsafe {
                let weights = operands.weights.add(column * self.spec.depth());
                if !self.sums::<V>(context, operands, segments, (rows, vectors), weights) {
                    return false;
                }
                let width = (vectors * V::LANES).min(end - column);
                self.store::<V>(operands, (row, rows), (column, width), vectors * V::LANES);
            }
            column += vectors * V::LANES;
        }
        true
    }

    /// Sums a micro-tile chunk by chunk. False when the poll said stop.
    #[inline(always)]
    unsafe fn sums<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        segments: Segments,
        (rows, vectors): (usize, usize),
        weights: *const f32,
    ) -> bool {
        let width = self.spec.panel_width;
        // A very long sum of a single run is cut at fixed places and added up part by part.
        let apart = self.spec.kernel == [1, 1] && segments.len >= LONG_SUM;
        let steps = if apart { PART_OF_LONG_SUM } else { micro::steps_at_once::<V>(vectors) };
        let mut chunk = Chunk {
            addresses: operands.table,
            segments: (steps / segments.len).clamp(1, segments.count),
            offset: 0,
            len: segments.len,
            weights,
            panel_stride: self.spec.depth() * width,
            acc: operands.acc,
            first: true,
            apart,
        };
        // Long runs are cut into equal parts, short ones taken several at a time.
        let parts = segments.len.div_ceil(steps).max(1);
        let part = if apart { steps } else { segments.len.div_ceil(parts) };
        let mut segment = 0;
        while segment < segments.count {
            chunk.segments = chunk.segments.min(segments.count - segment);
            let mut offset = 0;
            while offset < segments.len {
                if context.poll.stop() {
                    return false;
                }
                chunk.offset = offset;
                chunk.len = part.min(segments.len - offset);
                // SAFETY: the chunk lies inside the table's segments and the panel.
                unsafe {
                    chunk.addresses = operands.table.add(segment * rows);
                    chunk.weights = weights.add((segment * segments.len + offset) * width);
                    micro::run::<V>(rows, vectors, &chunk);
                }
                chunk.first = false;
                offset += part;
            }
            segment += chunk.segments;
        }
        true
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(
        &self,
        operands: &Operands,
        (row, rows): (usize, usize),
        (column, columns): (usize, usize),
        acc_stride: usize,
    ) {
        let residual_stride = self.spec.epilogue.residual_pixel_stride.unwrap_or(0);
        let at = |pointer: *const f32, offset: usize| match pointer.is_null() {
            true => pointer,
            // SAFETY: the offset is that of an output channel or pixel.
            false => unsafe { pointer.add(offset) },
        };
        // SAFETY: rows and columns are the output's; the sums are those that `sums` left.
        unsafe {
            epilogue::store::<V>(&Store {
                acc: operands.acc,
                acc_stride,
                rows,
                columns,
                bias: at(operands.bias, column),
                residual: at(operands.residual, row * residual_stride + column),
                residual_stride,
                to: operands.y.add(row * self.spec.out_pixel_stride + column),
                to_stride: self.spec.out_pixel_stride,
                alpha: 1.0,
                activation: self.spec.epilogue.activation,
            });
        }
    }
}
