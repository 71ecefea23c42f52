//! Depthwise convolutions: vectors of channels, a few pixels at a time.
//!
//! Taps outside the image are left out. The others are summed line by line of the window, in one chain of
//! multiply-adds per element. A block polls before every group of pixels' slab of channels.

use reef_plan::{DepthwiseSpec, Isa, Kernel, Region};

use super::epilogue::{self, Store};
use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd};

/// Makes a depthwise convolution ready.
pub(super) fn prepare(spec: &DepthwiseSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let mut optional = kernel.reads[2..].iter().copied();
    let mut next = |present: bool| present.then(|| optional.next().expect("the spec counts the operands"));
    let bias = next(spec.epilogue.bias);
    let residual = next(spec.epilogue.residual_pixel_stride.is_some());
    let [x, weights] = [kernel.reads[0], kernel.reads[1]];
    bind(Depthwise { spec: spec.clone(), x, weights, bias, residual, y: kernel.writes[0] }, isa)
}

struct Depthwise {
    spec: DepthwiseSpec,
    x: Region,
    weights: Region,
    bias: Option<Region>,
    residual: Option<Region>,
    y: Region,
}

/// Most pixels that are summed together: they share the loads of the weights, and their chains of
/// multiply-adds overlap.
const PIXELS: usize = 8;
/// As many near the end of a line.
const FEW_PIXELS: usize = 4;

/// Multiply-adds between polls, roughly.
const WORK_MAX: usize = 32 << 10;

impl VectorKernel for Depthwise {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let spec = &self.spec;
        let first = block * spec.tile_rows;
        let last = (first + spec.tile_rows).min(spec.batch * spec.out_hw[0]);
        let taps = spec.kernel[0] * spec.kernel[1];
        let slab = (WORK_MAX / (taps * PIXELS)).next_multiple_of(V::LANES).max(V::LANES);
        for line in first..last {
            let mut x = 0;
            while x < spec.out_hw[1] {
                let pixels = match () {
                    () if self.inside(x, PIXELS) => PIXELS,
                    () if self.inside(x, FEW_PIXELS) => FEW_PIXELS,
                    () => 1,
                };
                for channel in (0..spec.channels).step_by(slab) {
                    if context.poll.stop() {
                        return BlockEnd::Killed;
                    }
                    let channels = slab.min(spec.channels - channel);
                    // SAFETY: the pixels and channels are the kernel's; scratch holds PIXELS rows of
                    // channels.
                    unsafe { self.pixels::<V>(context, [line, x], pixels, (channel, channels)) };
                }
                x += pixels;
            }
        }
        BlockEnd::Done
    }
}

impl Depthwise {
    /// Whether `pixels` pixels from `x` on exist and have windows inside the image from left to right.
    fn inside(&self, x: usize, pixels: usize) -> bool {
        let spec = &self.spec;
        let right = (x + pixels - 1) * spec.strides[1] + (spec.kernel[1] - 1) * spec.dilations[1];
        x + pixels <= spec.out_hw[1]
            && x * spec.strides[1] >= spec.pads[1]
            && right < spec.in_hw[1] + spec.pads[1]
    }

    /// Makes some pixels of an output line, some channels of them.
    unsafe fn pixels<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        [line, x]: [usize; 2],
        pixels: usize,
        (channel, channels): (usize, usize),
    ) {
        let spec = &self.spec;
        // SAFETY: passed on from the caller.
        let window = unsafe { self.window::<V>(context, [line, x], (channel, channels)) };
        let at = |region: &Option<Region>, offset: usize| {
            region.as_ref().map_or(std::ptr::null(), |region| {
                context.read_ptr(region).cast::<f32>().wrapping_add(offset)
            })
        };
        let pixel = line * spec.out_hw[1] + x;
        let residual_stride = spec.epilogue.residual_pixel_stride.unwrap_or(0);
        let to = context.write_ptr(&self.y).cast::<f32>();
        // SAFETY: the taps are those inside the image; pixels and channels are the kernel's.
        unsafe {
            match pixels {
                PIXELS => V::enter(Sums::<PIXELS>(&window)),
                FEW_PIXELS => V::enter(Sums::<FEW_PIXELS>(&window)),
                _ => V::enter(Sums::<1>(&window)),
            }
            epilogue::store::<V>(&Store {
                acc: window.acc,
                acc_stride: window.acc_stride,
                rows: pixels,
                columns: channels,
                bias: at(&self.bias, channel),
                residual: at(&self.residual, pixel * residual_stride + channel),
                residual_stride,
                to: to.add(pixel * spec.out_pixel_stride + channel),
                to_stride: spec.out_pixel_stride,
                alpha: 1.0,
                activation: spec.epilogue.activation,
            });
        }
    }

    /// The windows of the pixels from `x` on in an output line, all of which have the same taps.
    unsafe fn window<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        [line, x]: [usize; 2],
        (channel, channels): (usize, usize),
    ) -> Window {
        let spec = &self.spec;
        let (image, y) = (line / spec.out_hw[0], line % spec.out_hw[0]);
        let [down, across] = [(0, y), (1, x)].map(|(axis, at)| {
            let (pad, taps) = (spec.pads[axis], spec.kernel[axis]);
            window_taps(at * spec.strides[axis], pad, taps, spec.dilations[axis], spec.in_hw[axis])
        });
        let in_y = y * spec.strides[0] + down.0 * spec.dilations[0];
        let in_x = x * spec.strides[1] + across.0 * spec.dilations[1];
        // A window without a tap inside the image reads nothing; its corner may lie outside.
        let corner = (image * spec.in_hw[0] + in_y)
            .wrapping_sub(spec.pads[0])
            .wrapping_mul(spec.in_hw[1])
            .wrapping_add(in_x)
            .wrapping_sub(spec.pads[1]);
        let first_weight = (down.0 * spec.kernel[1] + across.0) * spec.channels + channel;
        Window {
            x: context
                .read_ptr(&self.x)
                .cast::<f32>()
                .wrapping_add(corner.wrapping_mul(spec.in_pixel_stride))
                .wrapping_add(channel),
            weights: context.read_ptr(&self.weights).cast::<f32>().wrapping_add(first_weight),
            taps: [down.1 - down.0, across.1 - across.0],
            x_strides: [
                spec.dilations[0] * spec.in_hw[1] * spec.in_pixel_stride,
                spec.dilations[1] * spec.in_pixel_stride,
                spec.strides[1] * spec.in_pixel_stride,
            ],
            weight_strides: [spec.kernel[1] * spec.channels, spec.channels],
            channels,
            acc: context.scratch.cast(),
            acc_stride: channels.next_multiple_of(V::LANES),
        }
    }
}

/// First tap, and past the last tap, of a window that lies inside an image of `extent` pixels, when the
/// window starts `start − pad` pixels into it.
pub(super) fn window_taps(
    start: usize,
    pad: usize,
    taps: usize,
    dilation: usize,
    extent: usize,
) -> (usize, usize) {
    let first = pad.saturating_sub(start).div_ceil(dilation).min(taps);
    let past = (extent + pad).saturating_sub(start).div_ceil(dilation).min(taps);
    (first, past.max(first))
}

/// What a few pixels' windows read.
struct Window {
    /// The first pixel's first tap inside the image.
    x: *const f32,
    /// The weights of that tap.
    weights: *const f32,
    /// Lines and columns of the window inside the image.
    taps: [usize; 2],
    /// Floats from tap to tap down, to the right, and from pixel to pixel.
    x_strides: [usize; 3],
    /// Floats from tap to tap down and to the right.
    weight_strides: [usize; 2],
    channels: usize,
    acc: *mut f32,
    acc_stride: usize,
}

struct Sums<'a, const PIXELS: usize>(&'a Window);

impl<const PIXELS: usize> Leaf for Sums<'_, PIXELS> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let window = self.0;
        for channel in (0..window.channels).step_by(V::LANES) {
            let count = (window.channels - channel).min(V::LANES);
            // SAFETY: the caller vouches for the window's taps and channels.
            unsafe {
                let mut sums = [V::splat(0.0); PIXELS];
                for ky in 0..window.taps[0] {
                    let x = window.x.add(ky * window.x_strides[0] + channel);
                    let weights = window.weights.add(ky * window.weight_strides[0] + channel);
                    for kx in 0..window.taps[1] {
                        let x = x.add(kx * window.x_strides[1]);
                        let weights = weights.add(kx * window.weight_strides[1]);
                        if count == V::LANES {
                            let factor = V::load(weights);
                            for pixel in 0..PIXELS {
                                let value = V::load(x.add(pixel * window.x_strides[2]));
                                sums[pixel] = value.mul_add(factor, sums[pixel]);
                            }
                        } else {
                            let factor = V::load_part(weights, count);
                            for pixel in 0..PIXELS {
                                let value = V::load_part(x.add(pixel * window.x_strides[2]), count);
                                sums[pixel] = value.mul_add(factor, sums[pixel]);
                            }
                        }
                    }
                }
                for pixel in 0..PIXELS {
                    sums[pixel].store(window.acc.add(pixel * window.acc_stride + channel));
                }
            }
        }
    }
}
