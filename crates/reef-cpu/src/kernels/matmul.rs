//! Matrix products of two computed operands: b is packed into panels in scratch, then as a 1×1 convolution.
//!
//! a is read in place when its rows are contiguous, else packed too, a few rows at a time. A block polls
//! while it packs and before every chunk of a micro-tile.

use std::ops::Range;

use reef_plan::{Isa, Kernel, MatMulSpec, Region, Tile};

use super::epilogue::{self, Store};
use super::micro::{self, Chunk, PANEL_VECTORS};
use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd, Poll};

/// Makes a matrix product ready.
pub(super) fn prepare(spec: &MatMulSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let [a, b, c] = [kernel.reads[0], kernel.reads[1], kernel.writes[0]];
    bind(MatMul { spec: spec.clone(), a, b, c }, isa)
}

struct MatMul {
    spec: MatMulSpec,
    a: Region,
    b: Region,
    c: Region,
}

/// Where the operands' batch entries and the parts of scratch are.
struct Operands {
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    acc: *mut f32,
    table: *mut *const f32,
    panels: *mut f32,
    rows: *mut f32,
}

impl VectorKernel for MatMul {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let tile = self.spec.tile(block);
        // SAFETY: the tile is one of the spec's, and scratch is as large as the spec says.
        let done = unsafe {
            let operands = self.operands::<V>(context, &tile);
            self.pack_b::<V>(context, &operands, &tile) && self.product::<V>(context, &operands, &tile)
        };
        if done { BlockEnd::Done } else { BlockEnd::Killed }
    }
}

impl MatMul {
    unsafe fn operands<V: Vector>(&self, context: &BlockContext<'_>, tile: &Tile) -> Operands {
        let offsets = self.spec.plane_offsets(tile.plane);
        let width = PANEL_VECTORS * V::LANES;
        // SAFETY: the offsets are a batch entry's; scratch holds all four parts
        // (`Cutter::scratch_bytes`).
        unsafe {
            let panels = context.scratch.add(4 << 10).cast::<f32>();
            Operands {
                a: context.read_ptr(&self.a).cast::<f32>().add(offsets[0]),
                b: context.read_ptr(&self.b).cast::<f32>().add(offsets[1]),
                c: context.write_ptr(&self.c).cast::<f32>().add(offsets[2]),
                acc: context.scratch.cast(),
                table: context.scratch.add(micro::ACC_BYTES).cast(),
                panels,
                rows: panels.add(tile.columns.next_multiple_of(width) * self.spec.k),
            }
        }
    }

    /// Copies the tile's columns of b into panels. False when the poll said stop.
    unsafe fn pack_b<V: Vector>(&self, context: &BlockContext<'_>, operands: &Operands, tile: &Tile) -> bool {
        let strides = self.spec.b_strides;
        // SAFETY: the columns are b's; the panels hold the tile's columns.
        unsafe {
            let from = operands.b.add(tile.column * strides[1]);
            pack::<V>(&context.poll, (from, strides), (tile.columns, self.spec.k), operands.panels)
        }
    }

    unsafe fn product<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        tile: &Tile,
    ) -> bool {
        let groups = tile.rows.div_ceil(V::ROWS);
        let (size, larger) = (tile.rows / groups, tile.rows % groups);
        let mut row = tile.row;
        for group in 0..groups {
            let rows = size + usize::from(group < larger);
            // SAFETY: the rows are the tile's.
            let go_on = unsafe {
                self.addresses(context, operands, (row, rows))
                    && self.row_group::<V>(context, operands, tile, (row, rows))
            };
            if !go_on {
                return false;
            }
            row += rows;
        }
        true
    }

    /// Fills the address table for some rows of a, which it packs if they are not contiguous.
    unsafe fn addresses(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        (row, rows): (usize, usize),
    ) -> bool {
        let [m_stride, k_stride] = self.spec.a_strides;
        for at in 0..rows {
            // SAFETY: the rows are a's; scratch has room for as many.
            unsafe {
                let from = operands.a.add((row + at) * m_stride);
                if k_stride == 1 || self.spec.k == 1 {
                    operands.table.add(at).write(from);
                    continue;
                }
                if context.poll.stop() {
                    return false;
                }
                let to = operands.rows.add(at * self.spec.k);
                for step in 0..self.spec.k {
                    to.add(step).write(*from.add(step * k_stride));
                }
                operands.table.add(at).write(to);
            }
        }
        true
    }

    unsafe fn row_group<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        tile: &Tile,
        (row, rows): (usize, usize),
    ) -> bool {
        let (k, width) = (self.spec.k, PANEL_VECTORS * V::LANES);
        let mut column = 0;
        while column < tile.columns {
            let vectors = micro::vectors_at_once::<V>(rows, tile.columns - column);
            let steps = micro::steps_at_once::<V>(vectors);
            for offset in (0..k).step_by(steps) {
                if context.poll.stop() {
                    return false;
                }
                // SAFETY: the chunk lies inside the rows and the packed panels.
                unsafe {
                    let chunk = Chunk {
                        addresses: operands.table,
                        segments: 1,
                        offset,
                        len: steps.min(k - offset),
                        weights: operands.panels.add(column * k + offset * width),
                        panel_stride: k * width,
                        acc: operands.acc,
                        first: offset == 0,
                        apart: false,
                    };
                    micro::run::<V>(rows, vectors, &chunk);
                }
            }
            // SAFETY: rows and columns are the tile's.
            unsafe {
                let place = row * self.spec.c_row_stride + tile.column + column;
                epilogue::store::<V>(&Store {
                    acc: operands.acc,
                    acc_stride: vectors * V::LANES,
                    rows,
                    columns: (vectors * V::LANES).min(tile.columns - column),
                    bias: std::ptr::null(),
                    residual: std::ptr::null(),
                    residual_stride: 0,
                    to: operands.c.add(place),
                    to_stride: self.spec.c_row_stride,
                    alpha: self.spec.alpha,
                    activation: None,
                });
            }
            column += vectors * V::LANES;
        }
        true
    }
}

/// Steps along k that are packed between polls.
const STEPS: usize = 128;

/// Copies columns of a matrix `[steps, columns]` with these strides into panels. False when the poll said
/// stop.
///
/// # Safety
/// The matrix is readable, and `to` has room for whole panels.
pub(super) unsafe fn pack<V: Vector>(
    poll: &Poll<'_>,
    (from, [k_stride, n_stride]): (*const f32, [usize; 2]),
    (columns, steps): (usize, usize),
    to: *mut f32,
) -> bool {
    let width = PANEL_VECTORS * V::LANES;
    for column in (0..columns).step_by(width) {
        for first in (0..steps).step_by(STEPS) {
            if poll.stop() {
                return false;
            }
            // SAFETY: passed on from the caller.
            unsafe {
                V::enter(Pack {
                    from: from.add(column * n_stride + first * k_stride),
                    k_stride,
                    n_stride,
                    columns: width.min(columns - column),
                    steps: STEPS.min(steps - first),
                    to: to.add(column * steps + first * width),
                });
            }
        }
    }
    true
}

/// Copies some steps of a panel: `to[step][column]`.
struct Pack {
    from: *const f32,
    k_stride: usize,
    n_stride: usize,
    columns: usize,
    steps: usize,
    to: *mut f32,
}

/// Rows and columns that are turned at once.
const SQUARE: usize = 8;

impl Leaf for Pack {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let width = PANEL_VECTORS * V::LANES;
        // SAFETY: the caller vouches for steps and columns on both sides; a step of the panel has `width`
        // floats.
        unsafe {
            if self.n_stride == 1 {
                for step in 0..self.steps {
                    for vector in 0..PANEL_VECTORS {
                        let at = vector * V::LANES;
                        let count = self.columns.saturating_sub(at).min(V::LANES);
                        let from = self.from.wrapping_add(step * self.k_stride + at);
                        V::load_part(from, count).store(self.to.add(step * width + at));
                    }
                }
                return;
            }
            let (mut turned, steps) = (0, self.steps - self.steps % SQUARE);
            while self.k_stride == 1 && turned + SQUARE <= self.columns {
                for step in (0..steps).step_by(SQUARE) {
                    let from = self.from.add(turned * self.n_stride + step);
                    V::transpose_8(from, self.n_stride, self.to.add(step * width + turned), width);
                }
                self.columns(turned..turned + SQUARE, steps..self.steps, width);
                turned += SQUARE;
            }
            self.columns(turned..width, 0..self.steps, width);
        }
    }
}

impl Pack {
    /// Copies elements one by one; zeros stand where there is no column.
    #[inline(always)]
    unsafe fn columns(&self, columns: Range<usize>, steps: Range<usize>, width: usize) {
        for column in columns {
            let from = self.from.wrapping_add(column * self.n_stride);
            for step in steps.clone() {
                // SAFETY: passed on from the caller.
                unsafe {
                    let inside = column < self.columns;
                    let value = if inside { *from.add(step * self.k_stride) } else { 0.0 };
                    self.to.add(step * width + column).write(value);
                }
            }
        }
    }
}
