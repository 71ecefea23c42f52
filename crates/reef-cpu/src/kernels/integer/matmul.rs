//! Products of two computed operands of integers.

use reef_plan::{IntegerMatMulSpec, Isa, Kernel, Region, Tile};

use super::super::vector::Vector;
use super::super::{BlockKernel, VectorKernel, bind};
use super::conv::{offset, pointer};
use super::dot::Dot;
use super::finish::{Bytes, flip};
use super::{Behind, Job, Rows, Scratch, Zeros, row_groups};
use crate::context::{BlockContext, BlockEnd};
use crate::cut::integer::{HEAD_BYTES, INTEGER_COLUMNS as COLUMNS, panel_bytes, panels_begin, row_bytes};

/// Makes an integer product ready.
pub(in super::super) fn prepare(spec: &IntegerMatMulSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    with_dot(spec, kernel, isa, Dot::best(isa))
}

/// The same on other micro-kernels than the best.
pub(super) fn with_dot(
    spec: &IntegerMatMulSpec,
    kernel: &Kernel,
    isa: Isa,
    dot: Dot,
) -> Box<dyn BlockKernel> {
    let product = IntegerMatMul {
        a: kernel.reads[0],
        b: kernel.reads[1],
        behind: Behind::of(kernel, &spec.factors, &spec.epilogue),
        c: kernel.writes[0],
        spec: spec.clone(),
        dot,
    };
    bind(product, isa)
}

struct IntegerMatMul {
    spec: IntegerMatMulSpec,
    a: Region,
    b: Region,
    behind: Behind,
    c: Region,
    dot: Dot,
}

/// Steps of four rows of b that are packed between polls.
const STEPS: usize = 64;

impl VectorKernel for IntegerMatMul {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let product = &self.spec.product;
        let tile = product.tile(block);
        let [a, b, c] = product.plane_offsets(tile.plane);
        let size = self.spec.epilogue.output().bytes();
        // SAFETY: the tile is one of the spec's; the validator checked the regions' sizes, and scratch is as
        // large as the cutter says.
        unsafe {
            let to = context.scratch.add(HEAD_BYTES);
            let panels = context.scratch.add(panels_begin(product.k));
            let [a, b] = [(&self.a, a), (&self.b, b)].map(|(region, at)| context.read_ptr(region).add(at));
            let b = b.add(tile.column * product.b_strides[1]);
            if !self.pack_panels(context, b, tile.columns, panels) {
                return BlockEnd::Killed;
            }
            let job = self.job(context, &tile, panels);
            let y = context.write_ptr(&self.c);
            let mut row = tile.row;
            for count in row_groups(tile.rows, self.dot.rows) {
                if !self.make_rows::<V>(context, a.add(row * product.a_strides[0]), count, to) {
                    return BlockEnd::Killed;
                }
                let rows = Rows {
                    a: to,
                    a_stride: row_bytes(product.k),
                    count,
                    first_left: tile.plane * product.m + row,
                    y: y.add((c + row * product.c_row_stride + tile.column) * size),
                    residual: std::ptr::null(),
                };
                if !job.rows::<V>(context, &rows) {
                    return BlockEnd::Killed;
                }
                row += count;
            }
        }
        BlockEnd::Done
    }
}

impl IntegerMatMul {
    unsafe fn job(&self, context: &BlockContext<'_>, tile: &Tile, panels: *const u8) -> Job<'_> {
        let (product, [type_a, type_b]) = (&self.spec.product, self.spec.factors.types);
        let [zeros_a, zeros_b] = &self.behind.zeros;
        let right = Zeros::new(context, zeros_b, type_b, false);
        let first_right = tile.plane * product.n + tile.column;
        // SAFETY: the operands have a value for every column.
        unsafe {
            let factors =
                self.behind.factors.as_ref().map(|(region, per)| {
                    (context.read_ptr(region).cast::<f32>().add(per.at(tile.column)), *per)
                });
            Job {
                dot: self.dot,
                epilogue: &self.spec.epilogue,
                depth: product.k,
                panels,
                columns: tile.columns,
                left: Zeros::new(context, zeros_a, type_a, true),
                sums_rows: right.any(first_right, tile.columns),
                right,
                first_right,
                bias: offset(pointer::<i32>(context, &self.behind.bias), tile.column),
                factors,
                shift: offset(pointer::<f32>(context, &self.behind.shift), tile.column),
                y_stride: product.c_row_stride,
                residual: None,
                scratch: Scratch::of(context),
            }
        }
    }

    /// Copies columns of b, the first of which is at `from`, into panels. False when the poll said stop.
    unsafe fn pack_panels(
        &self,
        context: &BlockContext<'_>,
        from: *const u8,
        columns: usize,
        to: *mut u8,
    ) -> bool {
        let (k, [k_stride, n_stride]) = (self.spec.product.k, self.spec.product.b_strides);
        let (bytes, steps) = (panel_bytes(k), k.div_ceil(4));
        let flip = flip(self.spec.factors.types[1], false);
        for panel in 0..columns.div_ceil(COLUMNS) {
            let inside = COLUMNS.min(columns - panel * COLUMNS);
            let mut sums = [0i32; COLUMNS];
            // SAFETY: the columns are b's, and scratch has room for all panels.
            unsafe {
                let (from, to) = (from.add(panel * COLUMNS * n_stride), to.add(panel * bytes));
                for step in 0..steps {
                    if step % STEPS == 0 && context.poll.stop() {
                        return false;
                    }
                    let to = to.add(step * COLUMNS * 4);
                    let rows = (k - step * 4).min(4);
                    if rows < 4 || inside < COLUMNS {
                        to.write_bytes(0, COLUMNS * 4);
                    }
                    for row in 0..rows {
                        let from = from.add((step * 4 + row) * k_stride);
                        for column in 0..inside {
                            let byte = *from.add(column * n_stride) ^ flip;
                            to.add(column * 4 + row).write(byte);
                            sums[column] = sums[column].wrapping_add(i32::from(byte as i8));
                        }
                    }
                }
                to.add(steps * COLUMNS * 4).cast::<[i32; COLUMNS]>().write_unaligned(sums);
            }
        }
        true
    }

    /// Copies rows of a as the micro-kernel reads them. False when the poll said stop.
    #[inline(always)]
    unsafe fn make_rows<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        from: *const u8,
        count: usize,
        to: *mut u8,
    ) -> bool {
        let (k, [m_stride, k_stride]) = (self.spec.product.k, self.spec.product.a_strides);
        let flip = flip(self.spec.factors.types[0], true);
        for row in 0..count {
            if context.poll.stop() {
                return false;
            }
            // SAFETY: the rows are a's, and scratch has room for them.
            unsafe {
                let to = to.add(row * row_bytes(k));
                V::enter(Bytes { from: from.add(row * m_stride), step: k_stride, count: k, flip, to });
                to.add(k).write_bytes(0, row_bytes(k) - k);
            }
        }
        true
    }
}
