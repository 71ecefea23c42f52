//! The windows of a convolution's output pixels as rows of bytes.

use reef_plan::ConvSpec;

use super::super::vector::Vector;
use super::finish::{Bytes, copy_few, fill_few};

/// Bytes from which on a call of their own copies them faster.
const FEW_BYTES: usize = 256;

/// What finding the inputs of a window needs of a convolution, in signed numbers.
#[derive(Debug)]
pub(super) struct Windows {
    in_hw: [isize; 2],
    out_hw: [usize; 2],
    kernel: [usize; 2],
    strides: [isize; 2],
    pads: [isize; 2],
    dilations: [isize; 2],
    pixel_stride: isize,
    /// Channels of one group.
    channels: usize,
    /// The pixels of a window's line follow each other without a gap.
    dense: bool,
}

/// An output pixel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pixel {
    image: usize,
    y: usize,
    x: usize,
}

/// What bytes of a row are made of.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// The first image's first pixel, at the first channel of the group.
    pub x: *const u8,
    /// What is turned around in every byte: 0 or 128.
    pub flip: u8,
    /// What stands for padding.
    pub fill: u8,
}

impl Windows {
    pub(super) fn new(spec: &ConvSpec) -> Windows {
        let signed = |pair: [usize; 2]| pair.map(|x| x as isize);
        Windows {
            in_hw: signed(spec.in_hw),
            out_hw: spec.out_hw,
            kernel: spec.kernel,
            strides: signed(spec.strides),
            pads: signed(spec.pads),
            dilations: signed(spec.dilations),
            pixel_stride: spec.in_pixel_stride as isize,
            channels: spec.in_c / spec.groups,
            dense: spec.groups == 1 && spec.in_pixel_stride == spec.in_c && spec.dilations[1] == 1,
        }
    }

    /// The pixel of an output row.
    #[inline(always)]
    pub(super) fn pixel(&self, row: usize) -> Pixel {
        let [height, width] = self.out_hw;
        let (image, inside) = (row / (height * width), row % (height * width));
        Pixel { image, y: inside / width, x: inside % width }
    }

    /// How many of `count` pixels from `pixel` on are in its line.
    #[inline(always)]
    pub(super) fn run(&self, pixel: Pixel, count: usize) -> usize {
        count.min(self.out_hw[1] - pixel.x)
    }

    /// The first pixel of the line after that of `pixel`.
    #[inline(always)]
    pub(super) fn next_line(&self, pixel: Pixel) -> Pixel {
        match pixel.y + 1 < self.out_hw[0] {
            true => Pixel { y: pixel.y + 1, x: 0, ..pixel },
            false => Pixel { image: pixel.image + 1, y: 0, x: 0 },
        }
    }

    /// Writes one line of the windows of `count` pixels of an output line to `to`, `stride` bytes apart:
    /// taps, channels.
    ///
    /// # Safety
    /// Inside [`Vector::enter`]; the pixels are some of the output, `source.x` points at the input, `to` has
    /// room.
    #[inline(always)]
    pub(super) unsafe fn write_line<V: Vector>(
        &self,
        source: &Source,
        (pixel, count): (Pixel, usize),
        ky: usize,
        (to, stride): (*mut u8, usize),
    ) {
        let len = self.line_bytes();
        let y = pixel.y as isize * self.strides[0] - self.pads[0] + ky as isize * self.dilations[0];
        let row = (pixel.image as isize * self.in_hw[0] + y) * self.in_hw[1];
        let left = pixel.x as isize * self.strides[1] - self.pads[1];
        // SAFETY: lines and taps inside the image are inside the input.
        unsafe {
            if y < 0 || y >= self.in_hw[0] {
                for at in 0..count {
                    fill_few(to.add(at * stride), len, source.fill);
                }
            } else if self.dense {
                // Those in the middle have all their taps inside.
                let taps = self.kernel[1] as isize;
                let begin = ((-left).max(0) as usize).div_ceil(self.strides[1] as usize).min(count);
                let most = self.in_hw[1] - taps - left;
                let inside = if most < 0 { 0 } else { (most / self.strides[1]) as usize + 1 };
                let end = inside.clamp(begin, count);
                for at in (0..begin).chain(end..count) {
                    self.line::<V>(source, row, left + at as isize * self.strides[1], to.add(at * stride));
                }
                let from = source.x.wrapping_offset((row + left) * self.pixel_stride);
                let step = (self.strides[1] * self.pixel_stride) as usize;
                for at in begin..end {
                    copy::<V>(from.wrapping_add(at * step), len, source.flip, to.add(at * stride));
                }
            } else {
                for at in 0..count {
                    self.taps::<V>(source, row, left + at as isize * self.strides[1], to.add(at * stride));
                }
            }
        }
    }

    /// Bytes of a window's line.
    #[inline(always)]
    pub(super) fn line_bytes(&self) -> usize {
        self.kernel[1] * self.channels
    }

    /// A line whose pixels follow each other, from input pixel `row + left` on.
    #[inline(always)]
    unsafe fn line<V: Vector>(&self, source: &Source, row: isize, left: isize, to: *mut u8) {
        let taps = self.kernel[1] as isize;
        let begin = (-left).clamp(0, taps);
        let end = (self.in_hw[1] - left).clamp(begin, taps);
        let [begin_at, end_at] = [begin, end].map(|taps| taps as usize * self.channels);
        // SAFETY: taps from `begin` to `end` are inside the line.
        unsafe {
            if begin < end {
                let from = source.x.offset((row + left + begin) * self.pixel_stride);
                copy::<V>(from, end_at - begin_at, source.flip, to.add(begin_at));
            }
            fill_few(to, begin_at, source.fill);
            fill_few(to.add(end_at), taps as usize * self.channels - end_at, source.fill);
        }
    }

    /// A line tap by tap.
    #[inline(always)]
    unsafe fn taps<V: Vector>(&self, source: &Source, row: isize, left: isize, to: *mut u8) {
        for kx in 0..self.kernel[1] {
            let column = left + kx as isize * self.dilations[1];
            // SAFETY: a tap inside the line is inside the input.
            unsafe {
                let to = to.add(kx * self.channels);
                if column < 0 || column >= self.in_hw[1] {
                    fill_few(to, self.channels, source.fill);
                } else {
                    let from = source.x.offset((row + column) * self.pixel_stride);
                    copy::<V>(from, self.channels, source.flip, to);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn copy<V: Vector>(from: *const u8, count: usize, flip: u8, to: *mut u8) {
    // SAFETY: passed on from the caller.
    unsafe {
        match count < FEW_BYTES {
            true => copy_few(from, count, flip, to),
            false => V::enter(Bytes { from, step: 1, count, flip, to }),
        }
    }
}
