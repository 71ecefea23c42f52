//! Images at points. Of a run of points the elements that each is made of, and their weights, are found
//! first, axis by axis, and put together; then they are summed for all channels: by vectors of points where
//! a channel's elements are neighbours, else by vectors of channels.

use reef_graph::vision::{Coordinates, GridSample, Interpolation, Outside};
use reef_plan::{Kernel, Region, VisionSpec};

use super::{Make, Pace, Stopped};
use crate::context::BlockContext;
use crate::cut::run_of;
use crate::kernels::vector::Vector;

/// What the points of a run are a multiple of: lanes of the widest vector.
const GRAIN: usize = 16;

pub(super) struct Sampling {
    sample: GridSample,
    channels_last: bool,
    counts: (usize, usize),
    channels: usize,
    /// Spatial extents, outermost first.
    extents: Vec<usize>,
    /// Elements of a channel, and points of an image.
    plane: usize,
    points: usize,
    x: Region,
    grid: Region,
    y: Region,
}

/// Where the taps of a run of points are in scratch: `[taps, run]` each.
#[derive(Clone, Copy)]
struct Taps {
    places: *mut i32,
    weights: *mut f32,
    count: usize,
    run: usize,
}

impl Sampling {
    pub(super) fn new(sample: GridSample, spec: &VisionSpec, kernel: &Kernel) -> Sampling {
        let (x, grid) = (&spec.inputs[0], &spec.inputs[1]);
        Sampling {
            sample,
            channels_last: spec.channels_last,
            counts: (spec.tile, spec.units()),
            channels: x[1],
            extents: x[2..].to_vec(),
            plane: x[2..].iter().product(),
            points: grid[1..grid.rank() - 1].iter().product(),
            x: kernel.reads[0],
            grid: kernel.reads[1],
            y: kernel.writes[0],
        }
    }
}

impl Make for Sampling {
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
        let (axes, per_axis) = (self.extents.len(), self.sample.interpolation.taps());
        let count = per_axis.pow(axes as u32);
        let run = run_of(count);
        // SAFETY: scratch holds all of these, and the regions are the kernel's.
        unsafe {
            let places = context.scratch.cast::<i32>();
            let taps = Taps { places, weights: places.add(run * count).cast(), count, run };
            let behind = places.add(2 * run * count);
            let alone = Taps {
                places: behind,
                weights: behind.add(run * per_axis * axes).cast(),
                count: per_axis,
                run,
            };
            let x = context.read_ptr(&self.x).cast::<f32>();
            let grid = context.read_ptr(&self.grid).cast::<f32>();
            let y = context.write_ptr(&self.y).cast::<f32>();
            let mut at = range.0;
            while at < range.1 {
                let (image, point) = (at / self.points, at % self.points);
                let count = run.min(range.1 - at).min(self.points - point);
                self.find(grid.add(at * axes), count, alone, pace)?;
                self.combine(alone, taps, count, pace)?;
                let x = x.add(image * self.channels * self.plane);
                let y = y.add(image * self.channels * self.points);
                match self.channels_last {
                    true => self.pixels::<V>(x, y.add(point * self.channels), taps, count, pace)?,
                    false => self.planes::<V>(x, y.add(point), taps, count, pace)?,
                }
                at += count;
            }
        }
        Ok(())
    }
}

impl Sampling {
    /// The taps of all axes, one after the other.
    #[inline(always)]
    unsafe fn find(
        &self,
        grid: *const f32,
        count: usize,
        alone: Taps,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let axes = self.extents.len();
        for axis in 0..axes {
            let offset = axis * alone.count * alone.run;
            // SAFETY: every axis has taps of its own; there are coordinates for all points.
            unsafe {
                let taps =
                    Taps { places: alone.places.add(offset), weights: alone.weights.add(offset), ..alone };
                let of = self.sample.coordinates.of_axis(axis, axes);
                let line = Line::new(self.sample.coordinates, self.extents[axis]);
                for begin in (0..count.next_multiple_of(GRAIN)).step_by(GRAIN) {
                    pace.steps(GRAIN * (4 + 6 * alone.count))?;
                    let mut places = [0.0; GRAIN];
                    // Behind the last point there are some at 0, so that vectors are whole.
                    let own = GRAIN.min(count.saturating_sub(begin));
                    for (at, place) in places[..own].iter_mut().enumerate() {
                        *place = *grid.add((begin + at) * axes + of);
                    }
                    line.fill(self.sample.interpolation, self.sample.outside, &places, taps, begin);
                }
            }
        }
        Ok(())
    }

    /// Puts the axes' taps together: places in a channel, and products of weights.
    #[inline(always)]
    unsafe fn combine(
        &self,
        alone: Taps,
        taps: Taps,
        count: usize,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let (axes, points) = (self.extents.len(), count.next_multiple_of(GRAIN));
        for tap in 0..taps.count {
            pace.steps(8 + axes * points / 4)?;
            let mut rest = tap;
            let mut divisor = taps.count;
            for axis in 0..axes {
                divisor /= alone.count;
                let own = rest / divisor;
                rest %= divisor;
                let from = (axis * alone.count + own) * alone.run;
                // SAFETY: as many places and weights as a run has points are at every tap.
                unsafe {
                    let places = std::slice::from_raw_parts(alone.places.add(from), points);
                    let weights = std::slice::from_raw_parts(alone.weights.add(from), points);
                    let to = tap * taps.run;
                    let to_places = std::slice::from_raw_parts_mut(taps.places.add(to), points);
                    let to_weights = std::slice::from_raw_parts_mut(taps.weights.add(to), points);
                    if axis == 0 {
                        to_places.copy_from_slice(places);
                        to_weights.copy_from_slice(weights);
                        continue;
                    }
                    let extent = self.extents[axis] as i32;
                    for (to, &from) in to_places.iter_mut().zip(places) {
                        *to = to.wrapping_mul(extent).wrapping_add(from);
                    }
                    for (to, &from) in to_weights.iter_mut().zip(weights) {
                        *to *= from;
                    }
                }
            }
        }
        Ok(())
    }

    /// A channel after the other, by vectors of points.
    #[inline(always)]
    unsafe fn planes<V: Vector>(
        &self,
        x: *const f32,
        y: *mut f32,
        taps: Taps,
        count: usize,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        for channel in 0..self.channels {
            pace.steps(8 + count * taps.count)?;
            // SAFETY: places are those of elements of a channel; there is room for all points.
            unsafe {
                let (x, y) = (x.add(channel * self.plane), y.add(channel * self.points));
                let zero = V::splat(0.0);
                for at in (0..count).step_by(V::LANES) {
                    let mut sum = zero;
                    for tap in 0..taps.count {
                        let own = tap * taps.run + at;
                        let weight = V::load(taps.weights.add(own));
                        let value = V::gather(x, taps.places.add(own));
                        // What does not count may be anything.
                        let value = V::select(weight.equal(zero), zero, value);
                        sum = value.mul_add(weight, sum);
                    }
                    sum.store_part(y.add(at), (count - at).min(V::LANES));
                }
            }
        }
        Ok(())
    }

    /// A point after the other, by vectors of channels.
    #[inline(always)]
    unsafe fn pixels<V: Vector>(
        &self,
        x: *const f32,
        y: *mut f32,
        taps: Taps,
        count: usize,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let channels = self.channels;
        for point in 0..count {
            for channel in (0..channels).step_by(V::LANES) {
                pace.steps(2 + 2 * taps.count)?;
                let lanes = (channels - channel).min(V::LANES);
                // SAFETY: places are those of pixels; the channels are theirs.
                unsafe {
                    let mut sum = V::splat(0.0);
                    for tap in 0..taps.count {
                        let own = tap * taps.run + point;
                        let weight = *taps.weights.add(own);
                        if weight == 0.0 {
                            continue;
                        }
                        let from = x.add(*taps.places.add(own) as usize * channels + channel);
                        let value = if lanes == V::LANES { V::load(from) } else { V::load_part(from, lanes) };
                        sum = value.mul_add(V::splat(weight), sum);
                    }
                    sum.store_part(y.add(point * channels + channel), lanes);
                }
            }
        }
        Ok(())
    }
}

/// An axis.
struct Line {
    coordinates: Coordinates,
    extent: f32,
    last: f32,
    low: f32,
    high: f32,
}

const ZEROS: u8 = 0;
const BORDER: u8 = 1;
const REFLECTION: u8 = 2;

impl Line {
    #[inline(always)]
    fn new(coordinates: Coordinates, extent: usize) -> Line {
        let extent = extent as f32;
        let (low, high) = coordinates.bounds(extent);
        Line { coordinates, extent, last: extent - 1.0, low, high }
    }

    #[inline(always)]
    unsafe fn fill(
        &self,
        interpolation: Interpolation,
        outside: Outside,
        points: &[f32; GRAIN],
        taps: Taps,
        begin: usize,
    ) {
        use Interpolation::{Cubic, Linear, Nearest};
        // SAFETY: passed on from the caller.
        unsafe {
            match (interpolation, outside) {
                (Nearest, Outside::Zeros) => self.fill_as::<1, ZEROS>(points, taps, begin),
                (Nearest, Outside::Border) => self.fill_as::<1, BORDER>(points, taps, begin),
                (Nearest, Outside::Reflection) => self.fill_as::<1, REFLECTION>(points, taps, begin),
                (Linear, Outside::Zeros) => self.fill_as::<2, ZEROS>(points, taps, begin),
                (Linear, Outside::Border) => self.fill_as::<2, BORDER>(points, taps, begin),
                (Linear, Outside::Reflection) => self.fill_as::<2, REFLECTION>(points, taps, begin),
                (Cubic, Outside::Zeros) => self.fill_as::<4, ZEROS>(points, taps, begin),
                (Cubic, Outside::Border) => self.fill_as::<4, BORDER>(points, taps, begin),
                (Cubic, Outside::Reflection) => self.fill_as::<4, REFLECTION>(points, taps, begin),
            }
        }
    }

    /// The taps of some points.
    #[inline(always)]
    unsafe fn fill_as<const COUNT: usize, const OUTSIDE: u8>(
        &self,
        points: &[f32; GRAIN],
        taps: Taps,
        begin: usize,
    ) {
        let mut floors = [0.0f32; GRAIN];
        let mut shares = [0.0f32; GRAIN];
        for at in 0..GRAIN {
            let mut place = self.coordinates.place(points[at], self.extent);
            if COUNT == 1 {
                place = place.round_ties_even();
            }
            if OUTSIDE == BORDER && COUNT != 4 {
                // Elements are clamped one by one in the cubic form: the curve goes on beyond the last.
                place = if place < 0.0 { 0.0 } else { place };
                place = if place > self.last { self.last } else { place };
            }
            if OUTSIDE == REFLECTION {
                place = self.reflected(place);
            }
            floors[at] = if COUNT == 1 { place } else { place.floor() };
            shares[at] = place - floors[at];
        }
        for tap in 0..COUNT {
            let offset = tap as f32 - if COUNT == 4 { 1.0 } else { 0.0 };
            for at in 0..GRAIN {
                let weight = match COUNT {
                    1 => 1.0,
                    2 if tap == 0 => 1.0 - shares[at],
                    2 => shares[at],
                    _ => cubic(offset - shares[at]),
                };
                let (place, weight) = self.element::<OUTSIDE>(floors[at] + offset, weight);
                let to = tap * taps.run + begin + at;
                // SAFETY: the caller vouches for the points of the run.
                unsafe {
                    taps.places.add(to).write(place);
                    taps.weights.add(to).write(weight);
                }
            }
        }
    }

    /// The element at `place`, and with which weight it counts.
    #[inline(always)]
    fn element<const OUTSIDE: u8>(&self, place: f32, weight: f32) -> (i32, f32) {
        let (mut place, mut weight) = (place, weight);
        if OUTSIDE == ZEROS {
            let inside = place >= 0.0 && place <= self.last;
            weight = if inside { weight } else { 0.0 };
        }
        if OUTSIDE == REFLECTION {
            place = self.reflected(place);
        }
        // What is no number becomes the first.
        place = if place > 0.0 { place } else { 0.0 };
        place = if place < self.last { place } else { self.last };
        // SAFETY: it lies between the first and the last element, of which there are at most 2²⁴.
        (unsafe { place.to_int_unchecked::<i32>() }, weight)
    }

    /// `place` mirrored at both bounds until it lies between them.
    #[inline(always)]
    fn reflected(&self, place: f32) -> f32 {
        let twice = 2.0 * (self.high - self.low);
        let along = (place - self.low).abs();
        let along = along - (along / twice).floor() * twice;
        let back = twice - along;
        let mirrored = self.low + if along < back { along } else { back };
        let inside = place >= self.low && place <= self.high;
        let made = if inside { place } else { mirrored };
        if twice > 0.0 { made } else { self.low.max(0.0) }
    }
}

/// The cubic convolution function.
#[inline(always)]
fn cubic(s: f32) -> f32 {
    const A: f32 = -0.75;
    let s = s.abs();
    let near = ((A + 2.0) * s - (A + 3.0)) * s * s + 1.0;
    let far = ((A * s - 5.0 * A) * s + 8.0 * A) * s - 4.0 * A;
    if s <= 1.0 {
        near
    } else if s < 2.0 {
        far
    } else {
        0.0
    }
}
