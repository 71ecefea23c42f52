//! Pooling of bytes: the largest of every window, a few channels at once. Polls before every span of pixels,
//! and in very large windows before every line of taps.

use reef_graph::DType;
use reef_plan::{Isa, Kernel, PoolSpec, Region};

use super::depthwise::window_taps;
use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd, Poll};

/// Makes a pooling of bytes ready.
pub(super) fn prepare(spec: &PoolSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    bind(BytePool { spec: spec.clone(), x: kernel.reads[0], y: kernel.writes[0] }, isa)
}

struct BytePool {
    spec: PoolSpec,
    x: Region,
    y: Region,
}

/// Groups of channels that are read between polls, roughly.
const WORK_MAX: usize = 1536;

/// Channels of a group, and of the rest.
const GROUP: usize = 64;
const REST: usize = 16;

impl VectorKernel for BytePool {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let spec = &self.spec;
        let first = block * spec.tile_rows;
        let last = (first + spec.tile_rows).min(spec.batch * spec.out_hw[0]);
        let taps = spec.kernel[0] * spec.kernel[1];
        let slab = ((WORK_MAX / taps).max(1) * REST).min(spec.channels);
        let span = (WORK_MAX / taps / slab.div_ceil(REST)).max(1);
        let (x, y) = (context.read_ptr(&self.x), context.write_ptr(&self.y));
        let flip = if spec.dtype == DType::I8 { 128 } else { 0 };
        for line in first..last {
            for column in (0..spec.out_hw[1]).step_by(span) {
                for channel in (0..spec.channels).step_by(slab) {
                    if context.poll.stop() {
                        return BlockEnd::Killed;
                    }
                    let columns = (column, (column + span).min(spec.out_hw[1]));
                    let channels = (channel, (channel + slab).min(spec.channels));
                    let poll = (taps > WORK_MAX).then_some(&context.poll);
                    // SAFETY: pixels and channels are the kernel's; the validator checked the regions.
                    let done = unsafe { V::enter(Span { spec, x, y, flip, line, columns, channels, poll }) };
                    if !done {
                        return BlockEnd::Killed;
                    }
                }
            }
        }
        BlockEnd::Done
    }
}

/// Some pixels of an output line, some channels.
struct Span<'a> {
    spec: &'a PoolSpec,
    x: *const u8,
    y: *mut u8,
    /// What turns a byte into a u8 of the same order: 0 or 128.
    flip: u8,
    line: usize,
    columns: (usize, usize),
    channels: (usize, usize),
    /// Asked inside windows, if they are very large.
    poll: Option<&'a Poll<'a>>,
}

/// A window's taps inside the image: the first tap's place there, and lines and columns of taps.
struct Window {
    top: usize,
    left: usize,
    taps: [usize; 2],
}

impl Leaf for Span<'_> {
    /// False when the poll said stop.
    type Out = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let spec = self.spec;
        let (image, row) = (self.line / spec.out_hw[0], self.line % spec.out_hw[0]);
        let inside = |axis: usize, at: usize| {
            let (start, extent) = (at * spec.strides[axis], spec.in_hw[axis]);
            let (first, past) =
                window_taps(start, spec.pads[axis], spec.kernel[axis], spec.dilations[axis], extent);
            // Without a tap inside nothing is read.
            ((start + first * spec.dilations[axis]).saturating_sub(spec.pads[axis]), past - first)
        };
        let (top, lines) = inside(0, row);
        for column in self.columns.0..self.columns.1 {
            let (left, across) = inside(1, column);
            let window = Window { top: image * spec.in_hw[0] + top, left, taps: [lines, across] };
            let y = (self.line * spec.out_hw[1] + column) * spec.out_pixel_stride;
            let mut channel = self.channels.0;
            while channel < self.channels.1 {
                let left = self.channels.1 - channel;
                // SAFETY: the taps are inside the image, the channels the kernel's.
                let done = unsafe {
                    match left {
                        GROUP.. => self.largest::<GROUP>(&window, channel, GROUP, y),
                        _ => self.largest::<REST>(&window, channel, left.min(REST), y),
                    }
                };
                if !done {
                    return false;
                }
                channel += if left >= GROUP { GROUP } else { REST };
            }
        }
        true
    }
}

impl Span<'_> {
    /// Stores the largest of a window for `count` channels from `channel` on, `N` at most. False when the
    /// poll said stop.
    #[inline(always)]
    unsafe fn largest<const N: usize>(
        &self,
        window: &Window,
        channel: usize,
        count: usize,
        y: usize,
    ) -> bool {
        let spec = self.spec;
        let mut largest = [0u8; N];
        for ky in 0..window.taps[0] {
            let line = (window.top + ky * spec.dilations[0]) * spec.in_hw[1] + window.left;
            for part in (0..window.taps[1]).step_by(WORK_MAX) {
                if self.poll.is_some_and(Poll::stop) {
                    return false;
                }
                for kx in part..window.taps[1].min(part + WORK_MAX) {
                    let pixel = (line + kx * spec.dilations[1]) * spec.in_pixel_stride;
                    // SAFETY: the tap is inside the image, the channels the kernel's.
                    unsafe {
                        let from = self.x.add(pixel + channel);
                        if count == N {
                            let bytes = from.cast::<[u8; N]>().read_unaligned();
                            for at in 0..N {
                                largest[at] = largest[at].max(bytes[at] ^ self.flip);
                            }
                        } else {
                            for (at, largest) in largest[..count].iter_mut().enumerate() {
                                *largest = (*largest).max(*from.add(at) ^ self.flip);
                            }
                        }
                    }
                }
            }
        }
        largest.iter_mut().for_each(|byte| *byte ^= self.flip);
        // SAFETY: the pixel is one of the kernel's.
        unsafe { std::ptr::copy_nonoverlapping(largest.as_ptr(), self.y.add(y + channel), count) };
        true
    }
}
