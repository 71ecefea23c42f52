//! Resampling axis by axis: where output elements lie on the input axis, which input elements they are made
//! of, and the host operator that computes them.

use tract_onnx::tract_core::internal::*;

/// `coordinate_transformation_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNn,
    CropAndResize,
}

/// `nearest_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
    /// The only way before opset 11: down when the axis grows, up when it shrinks.
    Outward,
}

/// `mode`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kernel {
    Nearest(Rounding),
    Linear,
    Cubic { a: f32 },
}

/// Everything that decides about coordinates and weights.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub coordinates: Coordinates,
    pub kernel: Kernel,
    pub antialias: bool,
    pub exclude_outside: bool,
    pub extrapolation_value: f32,
}

/// What every output element of one axis is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AxisTaps {
    pub axis: usize,
    /// Input elements per output element.
    window: usize,
    /// `[outputs, window]`.
    from: Vec<usize>,
    /// `[outputs, window]`.
    weights: Vec<f32>,
    /// `[outputs]`: made of nothing, but the extrapolation value.
    outside: Vec<bool>,
}

impl AxisTaps {
    /// For every output element, those that it is made of and their weights; `None` is what lies outside.
    pub fn listed(&self) -> Vec<Vec<(Option<usize>, f32)>> {
        let taps = |at: usize| {
            let window = at * self.window..(at + 1) * self.window;
            let taps = self.from[window.clone()].iter().zip(&self.weights[window]);
            let inside =
                taps.filter(|(_, weight)| **weight != 0.0).map(|(&from, &weight)| (Some(from), weight));
            match self.outside[at] {
                true => vec![(None, 1.0)],
                false => inside.collect(),
            }
        };
        (0..self.outside.len()).map(taps).collect()
    }

    /// Elements of the resampled axis.
    pub fn outputs(&self) -> usize {
        self.outside.len()
    }
}

impl Coordinates {
    pub fn parse(name: &str) -> Result<Coordinates, String> {
        Ok(match name {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
            "tf_crop_and_resize" => Coordinates::CropAndResize,
            other => return Err(format!("coordinate_transformation_mode `{other}`")),
        })
    }

    /// Where output element `at` of `output` lies on an axis of `input` elements.
    fn original(self, at: usize, scale: f32, input: usize, output: usize, roi: (f32, f32)) -> f32 {
        let (at, extent, resized) = (at as f32, input as f32, output as f32);
        match self {
            Coordinates::HalfPixel => (at + 0.5) / scale - 0.5,
            Coordinates::PytorchHalfPixel if output > 1 => (at + 0.5) / scale - 0.5,
            Coordinates::PytorchHalfPixel => 0.0,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = resized / (scale * extent);
                let offset = extent / 2.0 * (1.0 - adjustment);
                (f64::from(offset) + (f64::from(at) + 0.5) / f64::from(scale) - 0.5) as f32
            }
            Coordinates::AlignCorners if output == 1 => 0.0,
            Coordinates::AlignCorners => at * (extent - 1.0) / (resized - 1.0),
            Coordinates::Asymmetric => at / scale,
            Coordinates::TfHalfPixelForNn => (at + 0.5) / scale,
            Coordinates::CropAndResize if output > 1 => {
                roi.0 * (extent - 1.0) + (at * (roi.1 - roi.0) * (extent - 1.0)) / (resized - 1.0)
            }
            Coordinates::CropAndResize => (0.5 * f64::from(roi.0 + roi.1) * f64::from(extent - 1.0)) as f32,
        }
    }
}

impl Rounding {
    pub fn parse(name: &str) -> Result<Rounding, String> {
        Ok(match name {
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            other => return Err(format!("nearest_mode `{other}`")),
        })
    }

    fn round(self, x: f32, shrinks: bool) -> f32 {
        // Rounding errors of the coordinate do not decide between two elements that are as near.
        let tie = (x - x.floor() - 0.5).abs() < 1e-6;
        match self {
            Rounding::PreferFloor if tie => x.floor(),
            Rounding::PreferCeil if tie => x.ceil(),
            Rounding::PreferFloor | Rounding::PreferCeil => x.round(),
            Rounding::Floor => x.floor(),
            Rounding::Ceil => x.ceil(),
            Rounding::Outward if shrinks => x.ceil(),
            Rounding::Outward => x.trunc(),
        }
    }
}

impl Rule {
    /// The taps of one axis.
    pub fn taps(&self, axis: usize, scale: f32, input: usize, output: usize, roi: (f32, f32)) -> AxisTaps {
        let mut taps: Vec<Vec<(usize, f32)>> = vec![];
        let mut outside = vec![];
        let last = input as f32 - 1.0;
        for at in 0..output {
            let x = match scale == 1.0 && input == output {
                true => at as f32,
                false => self.coordinates.original(at, scale, input, output, roi),
            };
            let cropped = self.coordinates == Coordinates::CropAndResize && !(0.0..=last).contains(&x);
            outside.push(cropped);
            taps.push(if cropped { vec![] } else { self.taps_at(x, scale, input) });
        }
        let window = taps.iter().map(Vec::len).max().unwrap_or(1).max(1);
        let (mut from, mut weights) = (vec![], vec![]);
        for mut taps in taps {
            taps.resize(window, (0, 0.0));
            for (element, weight) in taps {
                from.push(element);
                weights.push(weight);
            }
        }
        AxisTaps { axis, window, from, weights, outside }
    }

    /// The elements that make up the one at coordinate `x`, with their weights.
    fn taps_at(&self, x: f32, scale: f32, input: usize) -> Vec<(usize, f32)> {
        let last = input as i64 - 1;
        match self.kernel {
            Kernel::Nearest(rounding) => {
                let element = rounding.round(x, scale < 1.0) as i64;
                vec![(element.clamp(0, last) as usize, 1.0)]
            }
            Kernel::Linear if !self.antialias => {
                let x = x.clamp(0.0, last as f32);
                let first = x as usize;
                let share = x - first as f32;
                match share == 0.0 {
                    true => vec![(first, 1.0)],
                    false => vec![(first, 1.0 - share), (first + 1, share)],
                }
            }
            Kernel::Linear => self.windowed(x, scale, last, 1.0, |s| 1.0 - s.abs().min(1.0)),
            Kernel::Cubic { a } => self.windowed(x, scale, last, 2.0, |s| cubic(s, a)),
        }
    }

    /// Taps of a function that vanishes beyond `support`, which antialiasing widens where the axis shrinks.
    fn windowed(
        &self,
        x: f32,
        scale: f32,
        last: i64,
        support: f32,
        weight: impl Fn(f32) -> f32,
    ) -> Vec<(usize, f32)> {
        let stretch = if self.antialias { scale.min(1.0) } else { 1.0 };
        let reach = support / stretch;
        let (first, end) = ((x - reach).floor() as i64, (x + reach).ceil() as i64);
        let mut taps: Vec<(usize, f32)> = vec![];
        for element in first..=end {
            if self.exclude_outside && !(0..=last).contains(&element) {
                continue;
            }
            let weight = weight((element as f32 - x) * stretch);
            if weight == 0.0 {
                continue;
            }
            let element = element.clamp(0, last) as usize;
            match taps.last_mut().filter(|(other, _)| *other == element) {
                Some((_, sum)) => *sum += weight,
                None => taps.push((element, weight)),
            }
        }
        if self.antialias || self.exclude_outside {
            let sum: f32 = taps.iter().map(|(_, weight)| weight).sum();
            taps.iter_mut().for_each(|(_, weight)| *weight /= sum);
        }
        taps
    }
}

/// The cubic convolution function with coefficient `a`.
fn cubic(s: f32, a: f32) -> f32 {
    let s = s.abs();
    if s <= 1.0 {
        ((a + 2.0) * s - (a + 3.0)) * s * s + 1.0
    } else if s < 2.0 {
        ((a * s - 5.0 * a) * s + 8.0 * a) * s - 4.0 * a
    } else {
        0.0
    }
}

impl AxisTaps {
    /// The element that every output element is a copy of, if all are.
    pub fn copies(&self) -> Option<Vec<usize>> {
        let copied = self.window == 1 && !self.outside.contains(&true);
        (copied && self.weights.iter().all(|&weight| weight == 1.0)).then(|| self.from.clone())
    }

    fn resample<T: Real>(&self, input: &[T], shape: &[usize], value: T) -> Vec<T> {
        let extent = shape[self.axis];
        let inner: usize = shape[self.axis + 1..].iter().product();
        let outputs = self.outside.len();
        let mut output = vec![T::from(0.0); input.len() / extent * outputs];
        let images = input.chunks_exact(extent * inner).zip(output.chunks_exact_mut(outputs * inner));
        for (source, target) in images {
            for (at, target) in target.chunks_exact_mut(inner).enumerate() {
                if self.outside[at] {
                    target.fill(value);
                    continue;
                }
                let window = at * self.window..(at + 1) * self.window;
                for (&from, &weight) in self.from[window.clone()].iter().zip(&self.weights[window]) {
                    if weight != 0.0 {
                        accumulate(target, &source[from * inner..(from + 1) * inner], T::from(weight));
                    }
                }
            }
        }
        output
    }
}

fn accumulate<T: Real>(target: &mut [T], source: &[T], weight: T) {
    for (sum, &value) in target.iter_mut().zip(source) {
        *sum += value * weight;
    }
}

/// The types that are interpolated.
trait Real: Datum + Copy + From<f32> + std::ops::AddAssign + std::ops::Mul<Output = Self> {}

impl Real for f32 {}
impl Real for f64 {}

/// Interpolation along some axes, one after another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resample {
    pub axes: Arc<Vec<AxisTaps>>,
    pub extrapolation_value: f32,
}

impl Eq for Resample {}

impl Resample {
    fn output_shape<D: DimLike>(&self, input: &[D]) -> TVec<D> {
        let mut shape: TVec<D> = input.into();
        for taps in self.axes.iter() {
            shape[taps.axis] = taps.outside.len().into();
        }
        shape
    }

    fn run<T: Real>(&self, input: &Tensor) -> TractResult<Tensor> {
        let mut shape = input.shape().to_vec();
        let mut values = input.try_as_plain_ram()?.as_slice::<T>()?.to_vec();
        for taps in self.axes.iter() {
            values = taps.resample(&values, &shape, T::from(self.extrapolation_value));
            shape[taps.axis] = taps.outside.len();
        }
        tensor1(&values).into_shape(&shape)
    }
}

impl Op for Resample {
    fn name(&self) -> StaticName {
        "Resize".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Resample {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let output = match input.datum_type() {
            DatumType::F64 => self.run::<f64>(&input)?,
            datum => self.run::<f32>(&*input.cast_to::<f32>()?)?.cast_to_dt(datum)?.into_owned(),
        };
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Resample {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact(self.output_shape(&inputs[0].shape))))
    }

    as_op!();
}
