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

    /// The pixel after `pixel`.
    #[inline(always)]
    pub(super) fn next(&self, pixel: &mut Pixel) {
        pixel.x += 1;
        if pixel.x == self.out_hw[1] {
            (pixel.x, pixel.y) = (0, pixel.y + 1);
        }
        if pixel.y == self.out_hw[0] {
            (pixel.y, pixel.image) = (0, pixel.image + 1);
        }
    }

    /// Writes the window of `pixel` to `to`: lines, taps, channels.
    ///
    /// # Safety
    /// Inside [`Vector::enter`]; the pixel is one of the output, `source.x` points at the input, `to` has room.
    #[inline(always)]
    pub(super) unsafe fn write<V: Vector>(&self, source: &Source, pixel: Pixel, to: *mut u8) {
        let line = self.kernel[1] * self.channels;
        let left = pixel.x as isize * self.strides[1] - self.pads[1];
        let image = pixel.image as isize * self.in_hw[0];
        for ky in 0..self.kernel[0] {
            let y = pixel.y as isize * self.strides[0] - self.pads[0] + ky as isize * self.dilations[0];
            // SAFETY: lines and taps inside the image are inside the input.
            unsafe {
                let to = to.add(ky * line);
                let row = (image + y) * self.in_hw[1];
                if y < 0 || y >= self.in_hw[0] {
                    fill_few(to, line, source.fill);
                } else if self.dense {
                    self.line::<V>(source, row, left, to);
                } else {
                    self.taps::<V>(source, row, left, to);
                }
            }
        }
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
