//! Operators of vision models that read elements at places that data decide, sum overlapping windows, or take
//! determinants.
//!
//! The work of each is counted in *units*, which are independent of each other: points of a grid, lines of
//! bins of a region, segments of lines of an image, matrices.

use crate::dtype::DType;
use crate::tensor::Shape;

/// How an element between others is made of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// The nearest one; of two the one with an even place.
    Nearest,
    /// Two along every axis, by their distance.
    Linear,
    /// Four along every axis, by the cubic convolution function with the coefficient −0.75.
    Cubic,
}

impl Interpolation {
    /// Elements along an axis.
    pub fn taps(self) -> usize {
        match self {
            Interpolation::Nearest => 1,
            Interpolation::Linear => 2,
            Interpolation::Cubic => 4,
        }
    }
}

/// What lies outside of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Zeros.
    Zeros,
    /// Its nearest element.
    Border,
    /// Its mirror image, as often as it takes.
    Reflection,
}

/// What the coordinates of a point mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates {
    /// From −1 to 1, the last axis first: the outer edges of an image, or the centres of its outer elements.
    Unit {
        /// The centres.
        align_corners: bool,
    },
    /// Elements are 1 apart, the first is at 0; the first axis comes first.
    Elements,
}

impl Coordinates {
    /// Where coordinate `x` lies on an axis, in elements. In single precision, so that the nearest element of
    /// a point in the middle is that of ONNX Runtime.
    #[inline(always)]
    pub fn place(self, x: f32, extent: f32) -> f32 {
        match self {
            Coordinates::Unit { align_corners: true } => (x + 1.0) / 2.0 * (extent - 1.0),
            Coordinates::Unit { align_corners: false } => ((x + 1.0) * extent - 1.0) / 2.0,
            Coordinates::Elements => x,
        }
    }

    /// The first and the last coordinate of an axis, where images are mirrored.
    pub fn bounds(self, extent: f32) -> (f32, f32) {
        match self {
            Coordinates::Unit { align_corners: false } => (-0.5, extent - 0.5),
            _ => (0.0, extent - 1.0),
        }
    }

    /// Which coordinate of a point is of an axis.
    pub fn of_axis(self, axis: usize, axes: usize) -> usize {
        match self {
            Coordinates::Unit { .. } => axes - 1 - axis,
            Coordinates::Elements => axis,
        }
    }
}

/// See [`Vision::GridSample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridSample {
    /// What lies between elements.
    pub interpolation: Interpolation,
    /// What lies outside.
    pub outside: Outside,
    /// What a point's coordinates mean.
    pub coordinates: Coordinates,
}

/// See [`Vision::RoiAlign`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiAlign {
    /// Bins of a region along its height and width.
    pub bins: [usize; 2],
    /// Samples of a bin along an axis; 0: as many as it has elements, rounded up.
    pub samples: usize,
    /// Elements of x per unit of a region's coordinates.
    pub scale: f32,
    /// Coordinates are those of edges: elements have their centres half of their extent behind them. Else
    /// regions are at least one element wide and high.
    pub half_pixel: bool,
    /// The largest instead of the mean.
    pub largest: bool,
}

/// See [`Vision::Col2Im`]; a number for every spatial axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Col2Im {
    /// Extents of the image.
    pub image: Vec<usize>,
    /// Extents of a window.
    pub block: Vec<usize>,
    /// Windows along an axis.
    pub windows: Vec<usize>,
    /// From a window to the next.
    pub strides: Vec<usize>,
    /// From an element of a window to the next.
    pub dilations: Vec<usize>,
    /// Elements of the first window that lie before the image.
    pub before: Vec<usize>,
}

/// What is computed. Semantics are ONNX's, where ONNX Runtime does not depart from them.
#[derive(Clone, Debug, PartialEq)]
pub enum Vision {
    /// Inputs x `[N,C,…]` with 1 to 3 spatial axes, points `[N,…,axes]`; output `[N,C,…]`: x at these points.
    /// What would count with a weight of 0 is not looked at.
    GridSample(GridSample),
    /// Inputs x `[N,C,H,W]`, regions `[R,4]` (first x and y, last x and y), the entry of the batch that
    /// each is of (`[R]`, i64); output `[R,C,bins]`: of every bin the mean of linear interpolations, or as
    /// ONNX Runtime does it, the largest product of a weight and an element.
    RoiAlign(RoiAlign),
    /// Input `[N,C·block,windows]`; output `[N,C,image]`: sums of the windows' elements that fall on a
    /// place, in the order of the elements of a window.
    Col2Im(Col2Im),
    /// Input `[…,n,n]`, output `[…]`: determinants.
    Det,
}

/// Elements of a line of an image that are summed as one unit.
pub const SEGMENT: usize = 512;
/// Largest extent of an axis that is sampled: places are exact in single precision.
const EXTENT_MAX: usize = 1 << 24;

impl Vision {
    /// The operator's name in ONNX.
    pub fn name(&self) -> &'static str {
        match self {
            Vision::GridSample(_) => "GridSample",
            Vision::RoiAlign(_) => "RoiAlign",
            Vision::Col2Im(_) => "Col2Im",
            Vision::Det => "Det",
        }
    }

    /// Types of the inputs.
    pub fn dtypes(&self) -> &'static [DType] {
        match self {
            Vision::GridSample(_) => &[DType::F32; 2],
            Vision::RoiAlign(_) => &[DType::F32, DType::F32, DType::I64],
            Vision::Col2Im(_) | Vision::Det => &[DType::F32],
        }
    }

    /// Type and shape of the output, or what is wrong with the inputs.
    pub fn outputs(&self, inputs: &[(DType, Shape)]) -> Result<Vec<(DType, Shape)>, String> {
        let shapes: Vec<Shape> = inputs.iter().map(|(_, shape)| shape.clone()).collect();
        if !inputs.iter().map(|input| input.0).eq(self.dtypes().iter().copied()) {
            let given: Vec<String> = inputs.iter().map(|(dtype, shape)| format!("{dtype}{shape}")).collect();
            return Err(format!("its inputs are {}", given.join(", ")));
        }
        self.shape(&shapes).map(|shape| vec![(DType::F32, shape)])
    }

    /// Shape of the output for inputs of these shapes, as many as there have to be.
    pub fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs.len() != self.dtypes().len() {
            return Err(format!("it has {} inputs", inputs.len()));
        }
        let x = &inputs[0];
        match self {
            Vision::GridSample(_) => sampled(x, &inputs[1]),
            Vision::RoiAlign(align) => align.shape(x, &inputs[1], &inputs[2]),
            Vision::Col2Im(fold) => fold.shape(x),
            Vision::Det => match x[..] {
                [.., rows, columns] if rows == columns && rows > 0 => Ok(Shape::new(&x[..x.rank() - 2])),
                _ => Err(format!("{x} is no list of square matrices")),
            },
        }
    }

    /// Units of work for inputs of these shapes, which fit.
    pub fn units(&self, inputs: &[Shape]) -> usize {
        match self {
            Vision::GridSample(_) => inputs[1][..inputs[1].rank() - 1].iter().product(),
            Vision::RoiAlign(align) => inputs[1][0] * align.bins[0],
            Vision::Col2Im(fold) => fold.planes(&inputs[0]) * fold.lines() * fold.segments(),
            Vision::Det => inputs[0][..inputs[0].rank() - 2].iter().product(),
        }
    }
}

fn sampled(x: &Shape, points: &Shape) -> Result<Shape, String> {
    let axes = x.rank().checked_sub(2).filter(|axes| (1..=3).contains(axes));
    let fits = |axes: usize| points.rank() == axes + 2 && points[0] == x[0] && points[axes + 1] == axes;
    let Some(axes) = axes.filter(|&axes| fits(axes)) else {
        return Err(format!("points {points} do not fit an image of shape {x}"));
    };
    let extents = &x[2..];
    if extents.iter().any(|extent| !(1..=EXTENT_MAX).contains(extent))
        || i32::try_from(extents.iter().product::<usize>()).is_err()
    {
        return Err(format!("an image of shape {x}"));
    }
    Ok([&x[..2], &points[1..=axes]].concat().into())
}

/// The samples of a region along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Samples {
    start: f32,
    bin: f32,
    /// Samples of a bin.
    pub count: usize,
}

impl Samples {
    /// Where sample `at` of bin `bin` lies.
    #[inline(always)]
    pub fn place(&self, bin: usize, at: usize) -> f32 {
        self.start + bin as f32 * self.bin + (at as f32 + 0.5) * self.bin / self.count as f32
    }

    /// The samples of bin `bin`, without many that lie outside of an axis of `extent`. What is left out lies
    /// outside for sure.
    pub fn inside(&self, bin: usize, extent: usize) -> std::ops::Range<usize> {
        let step = f64::from(self.bin) / self.count.max(1) as f64;
        if step <= 0.0 {
            return 0..self.count;
        }
        let first = f64::from(self.start) + bin as f64 * f64::from(self.bin);
        // What single precision may be off by, in samples, and a few more.
        let spare = 4.0 + (first.abs() + f64::from(self.bin) + f64::from(self.start).abs()) * 1e-6 / step;
        let at = |place: f64| (place - first) / step;
        let (begin, end) = (at(-1.0) - spare, at(extent as f64) + spare);
        let begin = (begin.max(0.0) as usize).min(self.count);
        begin..(end.max(0.0) as usize).clamp(begin, self.count)
    }
}

/// The two elements that a sample at `place` lies between, and their weights; `None` outside of an axis.
#[inline(always)]
pub fn between(place: f32, extent: usize) -> Option<[(usize, f32); 2]> {
    if !(place >= -1.0 && place <= extent as f32) {
        return None;
    }
    let place = if place <= 0.0 { 0.0 } else { place };
    let low = place as usize;
    if low >= extent - 1 {
        return Some([(extent - 1, 1.0), (extent - 1, 0.0)]);
    }
    let share = place - low as f32;
    Some([(low, 1.0 - share), (low + 1, share)])
}

impl RoiAlign {
    fn shape(&self, x: &Shape, regions: &Shape, batch: &Shape) -> Result<Shape, String> {
        let ([images, channels, height, width], [count, 4], [also]) = (&x[..], &regions[..], &batch[..])
        else {
            return Err(format!("regions {regions} of {batch} entries in an image of shape {x}"));
        };
        if count != also || [*images, *height, *width].iter().any(|extent| !(1..=EXTENT_MAX).contains(extent))
        {
            return Err(format!("regions {regions} of {batch} entries in an image of shape {x}"));
        }
        Ok(Shape::from([*count, *channels, self.bins[0], self.bins[1]]))
    }

    /// Samples along an axis (0: of the height) of a region between two of its coordinates.
    pub fn samples(&self, axis: usize, first: f32, last: f32) -> Samples {
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let (start, end) = (first * self.scale - offset, last * self.scale - offset);
        let extent = if self.half_pixel { end - start } else { (end - start).max(1.0) };
        let bin = extent / self.bins[axis] as f32;
        let count = match self.samples {
            0 => bin.ceil().max(0.0) as usize,
            count => count,
        };
        let finite = start.is_finite() && bin.is_finite();
        Samples { start, bin, count: if finite { count } else { 0 } }
    }

    /// The entry of a batch of `images` that number `region` of the regions is of.
    pub fn entry(region: usize, entry: i64, images: usize) -> Result<usize, String> {
        match usize::try_from(entry).ok().filter(|&entry| entry < images) {
            Some(entry) => Ok(entry),
            None => Err(Self::wrong_entry(region, entry, images)),
        }
    }

    /// What to say of an entry that is not one of a batch.
    pub fn wrong_entry(region: usize, entry: i64, images: usize) -> String {
        format!("RoiAlign: batch_indices[{region}] is {entry}, allowed are 0 to {}", images.saturating_sub(1))
    }
}

impl Col2Im {
    fn shape(&self, x: &Shape) -> Result<Shape, String> {
        let axes = self.image.len();
        let lists = [&self.block, &self.windows, &self.strides, &self.dilations, &self.before];
        let (block, windows) = (self.block_elements(), self.windows.iter().product::<usize>());
        let fits = x.rank() == 3 && block > 0 && x[1].is_multiple_of(block) && x[2] == windows;
        let whole = self.strides.iter().chain(&self.dilations).chain(&self.image).all(|&value| value > 0);
        if axes == 0 || lists.iter().any(|list| list.len() != axes) || !whole || !fits {
            return Err(format!("windows {x} do not fit {self:?}"));
        }
        Ok([&[x[0], x[1] / block], &self.image[..]].concat().into())
    }

    /// Elements of a window.
    pub fn block_elements(&self) -> usize {
        self.block.iter().product()
    }

    /// Images and channels.
    pub fn planes(&self, x: &Shape) -> usize {
        x[0] * x[1] / self.block_elements().max(1)
    }

    /// Lines of an image along its last axis.
    pub fn lines(&self) -> usize {
        self.image[..self.image.len() - 1].iter().product()
    }

    /// Units of a line.
    pub fn segments(&self) -> usize {
        self.image[self.image.len() - 1].div_ceil(SEGMENT)
    }

    /// The window along an axis whose element `tap` falls on `place`, if one does.
    #[inline(always)]
    pub fn window(&self, axis: usize, place: usize, tap: usize) -> Option<usize> {
        let from = (place + self.before[axis]).checked_sub(tap * self.dilations[axis])?;
        let window = from / self.strides[axis];
        (from.is_multiple_of(self.strides[axis]) && window < self.windows[axis]).then_some(window)
    }
}
