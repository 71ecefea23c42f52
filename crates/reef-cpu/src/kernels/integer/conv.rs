//! Convolutions of integers, and integer products with constant weights.

use reef_graph::DType;
use reef_plan::{IntegerConvSpec, IntegerPanels, Isa, Kernel, Region, Residual};

use super::super::vector::Vector;
use super::super::{BlockKernel, VectorKernel, bind};
use super::dot::Dot;
use super::finish::flip;
use super::windows::{Source, Windows};
use super::{Behind, Job, Rows, Scratch, Zeros, row_groups};
use crate::context::{BlockContext, BlockEnd};
use crate::cut::integer::{HEAD_BYTES, INTEGER_COLUMNS as COLUMNS, row_bytes};

/// Makes a convolution of integers ready.
pub(in super::super) fn prepare(spec: &IntegerConvSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    with_dot(spec, kernel, isa, Dot::best(isa))
}

/// The same on other micro-kernels than the best.
pub(super) fn with_dot(spec: &IntegerConvSpec, kernel: &Kernel, isa: Isa, dot: Dot) -> Box<dyn BlockKernel> {
    assert_eq!(spec.conv.panel_width, COLUMNS, "panels of {} for integers", kernel.name);
    assert_eq!(spec.conv.tile_columns % COLUMNS, 0, "a tile of whole panels in {}", kernel.name);
    let channels = spec.conv.in_c / spec.conv.groups;
    let conv = IntegerConv {
        windows: Windows::new(&spec.conv),
        panels: IntegerPanels { of: spec.conv.matrices(), width: COLUMNS },
        direct: spec.is_pointwise() && spec.factors.types[0] == DType::U8 && channels.is_multiple_of(4),
        x: kernel.reads[0],
        weights: kernel.reads[1],
        behind: Behind::of(kernel, &spec.factors, &spec.epilogue),
        y: kernel.writes[0],
        spec: spec.clone(),
        dot,
    };
    bind(conv, isa)
}

struct IntegerConv {
    spec: IntegerConvSpec,
    windows: Windows,
    panels: IntegerPanels,
    /// Rows lie in x as the micro-kernel reads them.
    direct: bool,
    x: Region,
    weights: Region,
    behind: Behind,
    y: Region,
    dot: Dot,
}

impl VectorKernel for IntegerConv {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let conv = &self.spec.conv;
        let tile = conv.tile(block);
        let channel = tile.plane * (conv.out_c / conv.groups) + tile.column;
        let size = self.spec.epilogue.output().bytes();
        let (residual_size, residual_stride) =
            self.residual().map_or((0, 0), |residual| (residual.dtype().bytes(), residual.pixel_stride));
        // SAFETY: the tile is one of the spec's; the validator checked the regions' sizes.
        unsafe {
            let job = self.job(context, tile.plane, tile.column, tile.columns);
            let x = context.read_ptr(&self.x).add(tile.plane * (conv.in_c / conv.groups));
            let y = context.write_ptr(&self.y);
            let residual = pointer::<u8>(context, &self.behind.residual);
            let mut row = tile.row;
            for count in row_groups(tile.rows, self.dot.rows) {
                let Some((a, a_stride)) = self.make_rows::<V>(context, &job, x, (row, count)) else {
                    return BlockEnd::Killed;
                };
                let rows = Rows {
                    a,
                    a_stride,
                    count,
                    first_left: row,
                    y: y.add((row * conv.out_pixel_stride + channel) * size),
                    residual: offset(residual, (row * residual_stride + channel) * residual_size),
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

impl IntegerConv {
    fn residual(&self) -> Option<Residual> {
        self.spec.epilogue.scaled.and_then(|scaled| scaled.residual)
    }

    unsafe fn job(&self, context: &BlockContext<'_>, group: usize, column: usize, columns: usize) -> Job<'_> {
        let (conv, [type_x, type_w]) = (&self.spec.conv, self.spec.factors.types);
        let channel = group * (conv.out_c / conv.groups) + column;
        let [zeros_x, zeros_w] = &self.behind.zeros;
        let right = Zeros::new(context, zeros_w, type_w, false);
        // SAFETY: passed on from the caller; the operands have a value for every output channel.
        unsafe {
            let factors = self
                .behind
                .factors
                .as_ref()
                .map(|(region, per)| (context.read_ptr(region).cast::<f32>().add(per.at(channel)), *per));
            Job {
                dot: self.dot,
                epilogue: &self.spec.epilogue,
                depth: conv.depth(),
                panels: context.read_ptr(&self.weights).add(self.panels.panel(group, column)),
                columns,
                left: Zeros::new(context, zeros_x, type_x, true),
                sums_rows: right.any(channel, columns),
                right,
                first_right: channel,
                bias: offset(pointer::<i32>(context, &self.behind.bias), channel),
                factors,
                shift: offset(pointer::<f32>(context, &self.behind.shift), channel),
                y_stride: conv.out_pixel_stride,
                residual: self.residual(),
                scratch: Scratch::of(context),
            }
        }
    }

    /// The windows of some rows one after the other, and how far apart they are; `None` when the poll said
    /// stop.
    #[inline(always)]
    unsafe fn make_rows<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        job: &Job<'_>,
        x: *const u8,
        (row, count): (usize, usize),
    ) -> Option<(*const u8, usize)> {
        let (conv, stride) = (&self.spec.conv, row_bytes(job.depth));
        if self.direct {
            // SAFETY: an output row is an input pixel.
            return Some((unsafe { x.add(row * conv.in_pixel_stride) }, conv.in_pixel_stride));
        }
        let flip = flip(self.spec.factors.types[0], true);
        // SAFETY: scratch has room for the rows.
        unsafe {
            let to = context.scratch.add(HEAD_BYTES);
            let source = Source { x, flip, fill: job.left.get(row) as u8 };
            let (mut pixel, mut at) = (self.windows.pixel(row), 0);
            while at < count {
                let run = self.windows.run(pixel, count - at);
                for ky in 0..conv.kernel[0] {
                    if context.poll.stop() {
                        return None;
                    }
                    let to = to.add(at * stride + ky * self.windows.line_bytes());
                    self.windows.write_line::<V>(&source, (pixel, run), ky, (to, stride));
                }
                (pixel, at) = (self.windows.next_line(pixel), at + run);
            }
            for spare in job.depth..stride {
                (0..count).for_each(|at| to.add(at * stride + spare).write(0));
            }
            Some((to.cast_const(), stride))
        }
    }
}

/// Where an operand is; null if there is none.
pub(super) fn pointer<T>(context: &BlockContext<'_>, region: &Option<Region>) -> *const T {
    region.as_ref().map_or(std::ptr::null(), |region| context.read_ptr(region).cast())
}

/// `pointer` moved by `count` elements, unless it is null.
pub(super) unsafe fn offset<T>(pointer: *const T, count: usize) -> *const T {
    // SAFETY: the caller vouches for the element.
    if pointer.is_null() { pointer } else { unsafe { pointer.add(count) } }
}
