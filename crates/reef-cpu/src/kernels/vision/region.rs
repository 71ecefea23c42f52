//! Regions in bins. What the samples of a bin count is put together by lines and columns of the image first:
//! a sample between four elements counts them by a product of its weights along both axes. Then vectors of
//! channels are summed, an element of the image after the other.

use std::sync::Arc;

use reef_graph::vision::{RoiAlign, Samples, between};
use reef_plan::{Kernel, Region, VisionSpec};

use super::{Make, Pace, STEPS, Stopped};
use crate::context::{BlockContext, BlockEnd, BlockFault};
use crate::kernels::vector::Vector;

/// An element along an axis, and what samples say of it.
#[derive(Clone, Copy)]
pub(crate) struct Tap {
    at: usize,
    /// The sum of their weights, the largest and the least.
    sum: f32,
    most: f32,
    least: f32,
}

pub(super) struct Regions {
    align: RoiAlign,
    counts: (usize, usize),
    images: usize,
    channels: usize,
    /// Height and width.
    extents: [usize; 2],
    name: Arc<str>,
    x: Region,
    regions: Region,
    batch: Region,
    y: Region,
}

/// Vectors of channels that are summed before the next poll may be due.
const SLAB: usize = 16;

impl Regions {
    pub(super) fn new(align: RoiAlign, spec: &VisionSpec, kernel: &Kernel) -> Regions {
        let &[images, channels, height, width] = &spec.inputs[0][..] else {
            unreachable!("the validator checks shapes")
        };
        Regions {
            align,
            counts: (spec.tile, spec.units()),
            images,
            channels,
            extents: [height, width],
            name: kernel.name.as_str().into(),
            x: kernel.reads[0],
            regions: kernel.reads[1],
            batch: kernel.reads[2],
            y: kernel.writes[0],
        }
    }

    /// The entry of the batch that a region is of.
    unsafe fn image(&self, context: &BlockContext<'_>, region: usize) -> Result<usize, Stopped> {
        // SAFETY: there is one for every region.
        let entry = unsafe { *context.read_ptr(&self.batch).cast::<i64>().add(region) };
        match usize::try_from(entry).ok().filter(|&image| image < self.images) {
            Some(image) => Ok(image),
            None => {
                let (kernel, images) = (self.name.clone(), self.images);
                Err(BlockEnd::Failed(BlockFault::Entry { kernel, region, entry, images }))
            }
        }
    }
}

/// What the samples of a bin count along an axis.
struct Bin<'a> {
    taps: &'a [Tap],
    /// Whether one of them lies outside.
    outside: bool,
}

impl<'a> Bin<'a> {
    /// Puts together bin `bin`, in `list`, which has room for every element of the axis.
    #[inline(always)]
    fn new(
        samples: &Samples,
        bin: usize,
        list: &'a mut [Tap],
        pace: &mut Pace<'_>,
    ) -> Result<Bin<'a>, Stopped> {
        let (extent, mut count) = (list.len(), 0);
        let inside = samples.inside(bin, extent);
        let mut outside = inside.len() < samples.count;
        for at in inside {
            pace.steps(8)?;
            let Some(taps) = between(samples.place(bin, at), extent) else {
                outside = true;
                continue;
            };
            for (place, weight) in taps {
                // Samples go one way: an element that has been met is one of the last.
                let mut found = count;
                for back in 1..=count.min(3) {
                    if list[count - back].at == place {
                        found = count - back;
                    }
                }
                if found == count {
                    list[count] = Tap { at: place, sum: 0.0, most: weight, least: weight };
                    count += 1;
                }
                let tap = &mut list[found];
                tap.sum += weight;
                tap.most = tap.most.max(weight);
                tap.least = tap.least.min(weight);
            }
        }
        Ok(Bin { taps: &list[..count], outside })
    }
}

impl Make for Regions {
    fn counts(&self) -> (usize, usize) {
        self.counts
    }

    #[inline(always)]
    unsafe fn make<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        range: (usize, usize),
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let [height, width] = self.extents;
        let ([lines, columns], channels) = (self.align.bins, self.channels);
        for unit in range.0..range.1 {
            let (region, line) = (unit / lines, unit % lines);
            // SAFETY: the regions are the kernel's; scratch holds a tap for every line and column of the
            // image.
            unsafe {
                let image = self.image(context, region)?;
                let corners = context.read_ptr(&self.regions).cast::<[f32; 4]>().add(region);
                let [x_first, y_first, x_last, y_last] = corners.read_unaligned();
                let down = self.align.samples(0, y_first, y_last);
                let across = self.align.samples(1, x_first, x_last);
                let taps = context.scratch.cast::<Tap>();
                let for_lines = std::slice::from_raw_parts_mut(taps, height);
                let for_columns = std::slice::from_raw_parts_mut(taps.add(height), width);
                let down_bin = Bin::new(&down, line, for_lines, pace)?;
                let x = context.read_ptr(&self.x).cast::<f32>().add(image * height * width * channels);
                let y = context.write_ptr(&self.y).cast::<f32>().add(unit * columns * channels);
                let count = down.count as f32 * across.count as f32;
                for column in 0..columns {
                    let across_bin = Bin::new(&across, column, for_columns, pace)?;
                    let cell = Cell {
                        down: &down_bin,
                        across: &across_bin,
                        width,
                        channels,
                        count,
                        largest: self.align.largest,
                    };
                    cell.make::<V>(x, y.add(column * channels), pace)?;
                }
            }
        }
        Ok(())
    }
}

/// One bin of a region.
struct Cell<'a> {
    down: &'a Bin<'a>,
    across: &'a Bin<'a>,
    width: usize,
    channels: usize,
    /// Samples.
    count: f32,
    largest: bool,
}

impl Cell<'_> {
    #[inline(always)]
    unsafe fn make<V: Vector>(&self, x: *const f32, y: *mut f32, pace: &mut Pace<'_>) -> Result<(), Stopped> {
        let slab = SLAB * V::LANES;
        for begin in (0..self.channels).step_by(slab) {
            for channel in (begin..self.channels.min(begin + slab)).step_by(V::LANES) {
                let count = (self.channels - channel).min(V::LANES);
                // SAFETY: the caller vouches for the image and the bin; the channels are theirs.
                unsafe {
                    let made = match self.largest {
                        true => self.most::<V>(x.add(channel), count, pace)?,
                        false => self.mean::<V>(x.add(channel), count, pace)?,
                    };
                    made.store_part(y.add(channel), count);
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    unsafe fn mean<V: Vector>(&self, x: *const f32, count: usize, pace: &mut Pace<'_>) -> Result<V, Stopped> {
        // SAFETY: taps are elements of the image.
        unsafe {
            let mut sum = V::splat(0.0);
            for down in self.down.taps {
                for part in self.across.taps.chunks(STEPS / 4) {
                    pace.steps(2 + part.len())?;
                    let line = x.add(down.at * self.width * self.channels);
                    for across in part {
                        let value = load::<V>(line.add(across.at * self.channels), count);
                        sum = value.mul_add(V::splat(down.sum * across.sum), sum);
                    }
                }
            }
            Ok(sum / V::splat(self.count.max(1.0)))
        }
    }

    #[inline(always)]
    unsafe fn most<V: Vector>(&self, x: *const f32, count: usize, pace: &mut Pace<'_>) -> Result<V, Stopped> {
        // SAFETY: taps are elements of the image.
        unsafe {
            let zero = V::splat(0.0);
            let outside = self.count == 0.0 || self.down.outside || self.across.outside;
            let mut most = if outside { zero } else { V::splat(f32::NEG_INFINITY) };
            for down in self.down.taps {
                for part in self.across.taps.chunks(STEPS / 4) {
                    pace.steps(2 + 2 * part.len())?;
                    let line = x.add(down.at * self.width * self.channels);
                    for across in part {
                        let value = load::<V>(line.add(across.at * self.channels), count);
                        let (up, low) = (down.most * across.most, down.least * across.least);
                        let weight = V::select(value.less(zero), V::splat(low), V::splat(up));
                        most = most.max(value * weight);
                    }
                }
            }
            Ok(most)
        }
    }
}

#[inline(always)]
unsafe fn load<V: Vector>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller vouches for so many elements.
    unsafe { if count == V::LANES { V::load(from) } else { V::load_part(from, count) } }
}
