//! The layers of image networks, written as an exporter writes them in evaluation mode.
//!
//! Every layer follows the shape and the moments of its feature map: shapes for the layers after it, moments
//! for the scale of the weights. Knows no network.

use crate::graph::{Graph, float, int, ints};
use crate::moments::{Moments, on_grid};
use crate::variant::{Dim, Shapes, TensorSpec, Variant};
use crate::weights::{Fill, Role};

/// A feature map `[N, channels, height, width]`, or `[N, channels]` after [`Graph::flatten`].
#[derive(Clone, Debug)]
pub(crate) struct Feature {
    pub(crate) value: String,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) moments: Moments,
}

/// A sliding window: `(vertical, horizontal)` each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) kernel: (usize, usize),
    pub(crate) stride: usize,
    pub(crate) pad: (usize, usize),
}

/// Whether a convolution has a bias of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    Yes,
    No,
}

/// What a batch norm does beside normalising.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    /// Centre of the scales; below 1 for the last norm of a residual branch.
    pub(crate) gain: f32,
    pub(crate) epsilon: f32,
}

impl Norm {
    /// torch's defaults.
    pub(crate) const DEFAULT: Norm = Norm { gain: 1.0, epsilon: 1e-5 };
}

/// Share of a filter's mean that is taken away. Without it all inputs drift to one output through many
/// rectified layers; with all of it small differences (rounding) grow from layer to layer.
const CENTRING: f64 = 0.45;

impl Window {
    /// A square window.
    pub(crate) const fn square(kernel: usize, stride: usize, pad: usize) -> Self {
        Window { kernel: (kernel, kernel), stride, pad: (pad, pad) }
    }

    fn output(self, x: &Feature) -> (usize, usize) {
        let extent = |size: usize, kernel: usize, pad: usize| (size + 2 * pad - kernel) / self.stride + 1;
        (extent(x.height, self.kernel.0, self.pad.0), extent(x.width, self.kernel.1, self.pad.1))
    }

    /// Mean number of taps that fall inside the image.
    fn taps(self, x: &Feature) -> f64 {
        let mean = |size: usize, kernel: usize, pad: usize, outputs: usize| {
            let inside = |at: usize| {
                let first = at * self.stride;
                (first..first + kernel).filter(|tap| (pad..size + pad).contains(tap)).count()
            };
            (0..outputs).map(inside).sum::<usize>() as f64 / outputs as f64
        };
        let (height, width) = self.output(x);
        mean(x.height, self.kernel.0, self.pad.0, height) * mean(x.width, self.kernel.1, self.pad.1, width)
    }
}

impl Graph {
    /// The input of an image network: `input`, f32 `[N, 3, pixels, pixels]`.
    pub(crate) fn image(&mut self, variant: &Variant, pixels: usize) -> Feature {
        let dims = vec![variant.batch_dim(), Dim::Fixed(3), Dim::Fixed(pixels), Dim::Fixed(pixels)];
        let value = self.input(TensorSpec::floats("input", dims));
        Feature { value, channels: 3, height: pixels, width: pixels, moments: Moments::STANDARD }
    }

    /// Declares `x` as the output `name`, f32 `[N, channels]`.
    pub(crate) fn scores(&mut self, name: &'static str, variant: &Variant, x: &Feature) {
        let dims = vec![variant.batch_dim(), Dim::Fixed(x.channels)];
        self.output(&x.value, TensorSpec::floats(name, dims));
    }

    /// A convolution with weights `[channels, x.channels, kernel]`.
    pub(crate) fn conv(
        &mut self,
        path: &str,
        x: &Feature,
        channels: usize,
        window: Window,
        bias: Bias,
    ) -> Feature {
        let (kernel, stride, pad) = (window.kernel, window.stride, window.pad);
        let fan_in = (x.channels * kernel.0 * kernel.1) as f64;
        // A norm behind it corrects any scale, so take the usual one (He et al.); otherwise aim at variance
        // 1.
        let taps = x.channels as f64 * window.taps(x);
        let std = match bias {
            Bias::No => (2.0 / fan_in).sqrt(),
            Bias::Yes => (1.0 / x.moments.weighted_sum(taps, 1.0, CENTRING)).sqrt(),
        };
        let dims = [channels, x.channels, kernel.0, kernel.1];
        let fill = Fill::Filters { std: on_grid(std), centring: CENTRING as f32 };
        let weight = self.weight(format!("{path}.weight"), &dims, fill, Role::Parameter);
        let mut inputs = vec![x.value.clone(), weight];
        let mut moments = Moments { mean: 0.0, var: x.moments.weighted_sum(taps, std, CENTRING) };
        if bias == Bias::Yes {
            inputs.push(self.bias(path, channels));
            moments.var += BIAS_STD.powi(2);
        }
        let attributes = vec![
            ints("dilations", &[1, 1]),
            int("group", 1),
            ints("kernel_shape", &[kernel.0, kernel.1]),
            ints("pads", &[pad.0, pad.1, pad.0, pad.1]),
            ints("strides", &[stride, stride]),
        ];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let value = self.node("Conv", path, &inputs, attributes);
        let (height, width) = window.output(x);
        Feature { value, channels, height, width, moments }
    }

    /// Batch normalisation with running statistics near what the moments predict.
    pub(crate) fn batch_norm(&mut self, path: &str, x: &Feature, norm: Norm) -> Feature {
        let var = x.moments.var;
        let around = |centre: f64, low: f64, high: f64| Fill::Uniform {
            low: on_grid(centre * low),
            high: on_grid(centre * high),
        };
        let shift = Fill::Bell { mean: 0.0, std: on_grid(0.1 * f64::from(norm.gain)) };
        let mean = Fill::Bell { mean: on_grid(x.moments.mean), std: on_grid(0.1 * var.sqrt()) };
        let parts = [
            ("weight", around(f64::from(norm.gain), 0.8, 1.2), Role::Parameter),
            ("bias", shift, Role::Parameter),
            ("running_mean", mean, Role::Buffer),
            ("running_var", around(var, 0.8, 1.25), Role::Buffer),
        ];
        let mut inputs = vec![x.value.clone()];
        for (name, fill, role) in parts {
            inputs.push(self.weight(format!("{path}.{name}"), &[x.channels], fill, role));
        }
        let attributes =
            vec![float("epsilon", norm.epsilon), float("momentum", 0.9), int("training_mode", 0)];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let value = self.node("BatchNormalization", path, &inputs, attributes);
        let var = 1.04 * f64::from(norm.gain).powi(2);
        Feature { value, moments: Moments { mean: 0.0, var }, ..x.clone() }
    }

    /// `max(x, 0)`.
    pub(crate) fn relu(&mut self, path: &str, x: &Feature) -> Feature {
        let value = self.node("Relu", path, &[&x.value], Vec::new());
        Feature { value, moments: x.moments.relu(), ..x.clone() }
    }

    /// The sum of two maps of one shape.
    pub(crate) fn add(&mut self, path: &str, a: &Feature, b: &Feature) -> Feature {
        let value = self.node("Add", path, &[&a.value, &b.value], Vec::new());
        Feature { value, moments: a.moments.add(b.moments), ..a.clone() }
    }

    /// Maps side by side along the channels.
    pub(crate) fn concat(&mut self, path: &str, parts: &[Feature]) -> Feature {
        let values: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
        let value = self.node("Concat", path, &values, vec![int("axis", 1)]);
        let moments: Vec<_> = parts.iter().map(|part| (part.channels, part.moments)).collect();
        let channels = parts.iter().map(|part| part.channels).sum();
        Feature { value, channels, moments: Moments::concat(&moments), ..parts[0].clone() }
    }

    /// The maximum in each window; what lies outside the image does not count.
    pub(crate) fn max_pool(&mut self, path: &str, x: &Feature, window: Window) -> Feature {
        let mut attributes = vec![int("ceil_mode", 0)];
        attributes.extend(pool_attributes(window));
        let value = self.node("MaxPool", path, &[&x.value], attributes);
        let (height, width) = window.output(x);
        Feature { value, height, width, moments: x.moments.max_pool(window.kernel.0), ..x.clone() }
    }

    /// The mean in each window; what lies outside the image counts as 0.
    pub(crate) fn average_pool(&mut self, path: &str, x: &Feature, window: Window) -> Feature {
        let mut attributes = vec![int("ceil_mode", 0), int("count_include_pad", 1)];
        attributes.extend(pool_attributes(window));
        let value = self.node("AveragePool", path, &[&x.value], attributes);
        let (height, width) = window.output(x);
        let moments = x.moments.average_pool(window.kernel.0 * window.kernel.1);
        Feature { value, height, width, moments, ..x.clone() }
    }

    /// The mean of each channel.
    pub(crate) fn global_average_pool(&mut self, path: &str, x: &Feature) -> Feature {
        let value = self.node("GlobalAveragePool", path, &[&x.value], Vec::new());
        let moments = x.moments.average_pool(x.height * x.width);
        Feature { value, height: 1, width: 1, moments, ..x.clone() }
    }

    /// `[N, C, H, W]` to `[N, C × H × W]`, as `torch.flatten(x, 1)` is exported.
    pub(crate) fn flatten(&mut self, path: &str, x: &Feature) -> Feature {
        let value = self.node("Flatten", path, &[&x.value], vec![int("axis", 1)]);
        flat(value, x)
    }

    /// The same, as `x.view(x.size(0), -1)` is exported: with a symbolic batch it computes the shape.
    pub(crate) fn view_flat(&mut self, path: &str, x: &Feature) -> Feature {
        let shape = match self.shapes {
            Shapes::Static { batch } => self.ints(path, &[batch as i64, -1]),
            Shapes::Dynamic => {
                let shape = self.node("Shape", path, &[&x.value], Vec::new());
                let first = self.int(path, 0);
                let batch = self.node("Gather", path, &[&shape, &first], vec![int("axis", 0)]);
                let axes = self.ints(path, &[0]);
                let batch = self.node("Unsqueeze", path, &[&batch, &axes], Vec::new());
                let rest = self.ints(path, &[-1]);
                self.node("Concat", path, &[&batch, &rest], vec![int("axis", 0)])
            }
        };
        let value = self.node("Reshape", path, &[&x.value, &shape], Vec::new());
        flat(value, x)
    }

    /// `x Wᵀ + b` with weights `[outputs, x.channels]`.
    pub(crate) fn linear(&mut self, path: &str, x: &Feature, outputs: usize) -> Feature {
        let fan_in = x.channels as f64;
        let std = (1.0 / x.moments.weighted_sum(fan_in, 1.0, CENTRING)).sqrt();
        let fill = Fill::Filters { std: on_grid(std), centring: CENTRING as f32 };
        let weight = self.weight(format!("{path}.weight"), &[outputs, x.channels], fill, Role::Parameter);
        let bias = self.bias(path, outputs);
        let attributes = vec![float("alpha", 1.0), float("beta", 1.0), int("transB", 1)];
        let value = self.node("Gemm", path, &[&x.value, &weight, &bias], attributes);
        let moments = Moments { mean: 0.0, var: 1.0 + BIAS_STD.powi(2) };
        Feature { value, channels: outputs, height: 1, width: 1, moments }
    }

    fn bias(&mut self, path: &str, channels: usize) -> String {
        let fill = Fill::Bell { mean: 0.0, std: BIAS_STD as f32 };
        self.weight(format!("{path}.bias"), &[channels], fill, Role::Parameter)
    }
}

/// Deviation of biases, beside activations of order 1.
const BIAS_STD: f64 = 0.1;

fn flat(value: String, x: &Feature) -> Feature {
    let channels = x.channels * x.height * x.width;
    Feature { value, channels, height: 1, width: 1, moments: x.moments }
}

fn pool_attributes(window: Window) -> Vec<crate::proto::AttributeProto> {
    let (kernel, stride, pad) = (window.kernel, window.stride, window.pad);
    vec![
        ints("kernel_shape", &[kernel.0, kernel.1]),
        ints("pads", &[pad.0, pad.1, pad.0, pad.1]),
        ints("strides", &[stride, stride]),
    ]
}
