//! Where the window of an output pixel finds its inputs: the address table of a convolution's micro-tile.

use reef_plan::ConvSpec;

/// How the addresses of a micro-tile are laid out, `[segment][row]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segments {
    /// Runs of contiguous floats that a row's window consists of, in the order of the packed weights.
    pub(super) count: usize,
    /// Floats of a run.
    pub(super) len: usize,
}

/// What finding the inputs of a window needs of a convolution, in signed numbers.
#[derive(Debug)]
pub(super) struct Taps {
    in_hw: [isize; 2],
    out_hw: [usize; 2],
    kernel: [usize; 2],
    strides: [isize; 2],
    pads: [isize; 2],
    dilations: [isize; 2],
    pixel_stride: usize,
    /// Channels of one group.
    channels: usize,
    /// Output rows are input pixels, `pixel_stride` apart.
    pointwise: bool,
    /// The pixels of a window line follow each other without a gap.
    lines: bool,
    /// What padding reads: as many zeros as the longest run.
    zeros: Vec<f32>,
}

/// Longest run that is worth joining: beyond it, runs are long enough as they are.
const LINE_MAX: usize = 512;

impl Taps {
    pub(super) fn new(spec: &ConvSpec) -> Taps {
        let signed = |pair: [usize; 2]| pair.map(|x| x as isize);
        let channels = spec.in_c / spec.groups;
        let line = spec.kernel[1] * channels;
        let dense = spec.groups == 1 && spec.in_pixel_stride == spec.in_c && spec.dilations[1] == 1;
        let pointwise = spec.kernel == [1, 1]
            && spec.strides == [1, 1]
            && spec.pads == [0, 0]
            && spec.in_hw == spec.out_hw;
        Taps {
            in_hw: signed(spec.in_hw),
            out_hw: spec.out_hw,
            kernel: spec.kernel,
            strides: signed(spec.strides),
            pads: signed(spec.pads),
            dilations: signed(spec.dilations),
            pixel_stride: spec.in_pixel_stride,
            channels,
            pointwise,
            lines: dense && spec.kernel[1] > 1 && line <= LINE_MAX,
            zeros: vec![0.0; line.max(channels)],
        }
    }

    /// Writes the addresses of rows `row .. row + rows` to `table`; `x` is the first image's first pixel,
    /// at the first channel of the group.
    ///
    /// # Safety
    /// The rows are rows of the convolution, `x` points at its input, and `table` holds `rows` addresses for
    /// every tap of the window.
    #[inline(always)]
    pub(super) unsafe fn fill(
        &self,
        x: *const f32,
        row: usize,
        rows: usize,
        table: *mut *const f32,
    ) -> Segments {
        if self.pointwise {
            for at in 0..rows {
                // SAFETY: an output row is an input pixel.
                unsafe { table.add(at).write(x.add((row + at) * self.pixel_stride)) };
            }
            return Segments { count: 1, len: self.channels };
        }
        // SAFETY: passed on from the caller.
        unsafe { self.fill_windows(x, row, rows, table) }
    }

    #[inline(never)]
    unsafe fn fill_windows(
        &self,
        x: *const f32,
        row: usize,
        rows: usize,
        table: *mut *const f32,
    ) -> Segments {
        let (image_pixels, width) = (self.out_hw[0] * self.out_hw[1], self.out_hw[1]);
        let (mut image, inside) = (row / image_pixels, row % image_pixels);
        let (mut y, mut column) = (inside / width, inside % width);
        let lines = self.lines && self.lines_fit(column, rows);
        for at in 0..rows {
            let image_at = image as isize * self.in_hw[0] * self.in_hw[1];
            let top = y as isize * self.strides[0] - self.pads[0];
            let left = column as isize * self.strides[1] - self.pads[1];
            // SAFETY: passed on from the caller; `at` is one of the rows.
            unsafe {
                if lines {
                    self.fill_lines(x, image_at, [top, left], rows, table.add(at));
                } else {
                    self.fill_taps(x, image_at, [top, left], rows, table.add(at));
                }
            }
            column += 1;
            if column == width {
                (column, y) = (0, y + 1);
                if y == self.out_hw[0] {
                    (y, image) = (0, image + 1);
                }
            }
        }
        if lines {
            Segments { count: self.kernel[0], len: self.kernel[1] * self.channels }
        } else {
            Segments { count: self.kernel[0] * self.kernel[1], len: self.channels }
        }
    }

    /// Whether the windows of `rows` pixels from `column` on lie inside the image from left to right.
    fn lines_fit(&self, column: usize, rows: usize) -> bool {
        let inside = |column: usize| {
            let left = column as isize * self.strides[1] - self.pads[1];
            left >= 0 && left + self.kernel[1] as isize <= self.in_hw[1]
        };
        // Pixels of several lines include a line's first and last one.
        if column + rows > self.out_hw[1] {
            inside(0) && inside(self.out_hw[1] - 1)
        } else {
            inside(column) && inside(column + rows - 1)
        }
    }

    /// One address per window line of the pixel whose window starts at `corner` (y, x).
    #[inline(always)]
    unsafe fn fill_lines(
        &self,
        x: *const f32,
        image_at: isize,
        corner: [isize; 2],
        rows: usize,
        table: *mut *const f32,
    ) {
        for ky in 0..self.kernel[0] {
            let y = corner[0] + ky as isize * self.dilations[0];
            let pixel = image_at + y * self.in_hw[1] + corner[1];
            let outside = y < 0 || y >= self.in_hw[0];
            // SAFETY: the table has a row for every line; a pixel inside the image is inside the input.
            unsafe { table.add(ky * rows).write(self.address(x, pixel, outside)) };
        }
    }

    /// One address per tap of the pixel whose window starts at `corner` (y, x).
    #[inline(always)]
    unsafe fn fill_taps(
        &self,
        x: *const f32,
        image_at: isize,
        corner: [isize; 2],
        rows: usize,
        table: *mut *const f32,
    ) {
        let mut tap = 0;
        for ky in 0..self.kernel[0] {
            let y = corner[0] + ky as isize * self.dilations[0];
            let line_outside = y < 0 || y >= self.in_hw[0];
            for kx in 0..self.kernel[1] {
                let column = corner[1] + kx as isize * self.dilations[1];
                let outside = line_outside || column < 0 || column >= self.in_hw[1];
                let pixel = image_at + y * self.in_hw[1] + column;
                // SAFETY: as in `fill_lines`.
                unsafe { table.add(tap * rows).write(self.address(x, pixel, outside)) };
                tap += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn address(&self, x: *const f32, pixel: isize, outside: bool) -> *const f32 {
        if outside {
            self.zeros.as_ptr()
        } else {
            // SAFETY: the caller vouches that the pixel is inside the input.
            unsafe { x.offset(pixel * self.pixel_stride as isize) }
        }
    }
}
