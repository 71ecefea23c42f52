//! Convolutions, depthwise convolutions and matrix products.

use crate::cut::panel_width;
use reef_graph::{Tensor, Unary};
use reef_plan::{ConvSpec, DepthwiseSpec, Epilogue, KernelSpec, MatMulSpec, Packing};

use super::math::reference;
use super::{Case, check, pixels, random};

/// A convolution to test; the output size follows.
#[derive(Clone)]
struct Shape {
    batch: usize,
    in_hw: [usize; 2],
    in_c: usize,
    out_c: usize,
    kernel: [usize; 2],
    strides: [usize; 2],
    /// Top, left, bottom, right.
    pads: [usize; 4],
    dilations: [usize; 2],
    groups: usize,
    /// Added to the pixel strides of input, output and residual.
    gap: usize,
    residual: bool,
    activation: Option<Unary>,
}

const SQUARE: Shape = Shape {
    batch: 1,
    in_hw: [9, 9],
    in_c: 5,
    out_c: 40,
    kernel: [3, 3],
    strides: [1, 1],
    pads: [1, 1, 1, 1],
    dilations: [1, 1],
    groups: 1,
    gap: 0,
    residual: false,
    activation: None,
};

impl Shape {
    fn out_hw(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = self.in_hw[axis] + self.pads[axis] + self.pads[axis + 2];
            (padded - (self.kernel[axis] - 1) * self.dilations[axis] - 1) / self.strides[axis] + 1
        })
    }

    fn epilogue(&self) -> Epilogue {
        let residual_pixel_stride = self.residual.then_some(self.out_c + self.gap);
        Epilogue { bias: true, residual_pixel_stride, activation: self.activation }
    }

    fn spec(&self, panel_width: usize, tile: [usize; 2], columns_inner: bool) -> ConvSpec {
        ConvSpec {
            batch: self.batch,
            in_hw: self.in_hw,
            in_c: self.in_c,
            in_pixel_stride: self.in_c + self.gap,
            out_hw: self.out_hw(),
            out_c: self.out_c,
            out_pixel_stride: self.out_c + self.gap,
            kernel: self.kernel,
            strides: self.strides,
            pads: [self.pads[0], self.pads[1]],
            dilations: self.dilations,
            groups: self.groups,
            panel_width,
            normed: false,
            epilogue: self.epilogue(),
            tile_rows: tile[0],
            tile_columns: tile[1] * panel_width,
            columns_inner,
            splits: 1,
        }
    }

    /// What the convolution computes, with weights `[O, I, kh, kw]`, in f64.
    fn expected(&self, x: &[f32], weights: &[f32], bias: &[f32], residual: &[f32]) -> Vec<(usize, f64)> {
        let [out_h, out_w] = self.out_hw();
        let (inputs, outputs) = (self.in_c / self.groups, self.out_c / self.groups);
        let (in_stride, out_stride) = (self.in_c + self.gap, self.out_c + self.gap);
        let mut expected = vec![];
        for row in 0..self.batch * out_h * out_w {
            let (image, y, column) = (row / (out_h * out_w), row / out_w % out_h, row % out_w);
            for channel in 0..self.out_c {
                let mut sum = f64::from(bias[channel]);
                for tap in 0..self.kernel[0] * self.kernel[1] {
                    let (ky, kx) = (tap / self.kernel[1], tap % self.kernel[1]);
                    let iy = (y * self.strides[0] + ky * self.dilations[0]).wrapping_sub(self.pads[0]);
                    let ix = (column * self.strides[1] + kx * self.dilations[1]).wrapping_sub(self.pads[1]);
                    if iy >= self.in_hw[0] || ix >= self.in_hw[1] {
                        continue;
                    }
                    let pixel = (image * self.in_hw[0] + iy) * self.in_hw[1] + ix;
                    let from = pixel * in_stride + channel / outputs * inputs;
                    for input in 0..inputs {
                        let weight =
                            weights[(channel * inputs + input) * self.kernel[0] * self.kernel[1] + tap];
                        sum += f64::from(x[from + input]) * f64::from(weight);
                    }
                }
                let at = row * out_stride + channel;
                let sum = if self.residual { sum + f64::from(residual[at]) } else { sum };
                expected.push((at, self.activation.map_or(sum, |function| reference(function, sum))));
            }
        }
        expected
    }

    fn check(&self, name: &str) {
        let [out_h, out_w] = self.out_hw();
        let (rows, inputs) = (self.batch * out_h * out_w, self.in_c / self.groups);
        let in_pixels = self.batch * self.in_hw[0] * self.in_hw[1];
        let x = pixels(1, in_pixels, self.in_c, self.in_c + self.gap);
        let residual = pixels(2, rows, self.out_c, self.out_c + self.gap);
        let weights = random(3, self.out_c * inputs * self.kernel[0] * self.kernel[1]);
        let bias = random(4, self.out_c);
        let expected = self.expected(&x, &weights, &bias, &residual);
        let tensor = Tensor::f32([self.out_c, inputs, self.kernel[0], self.kernel[1]], &weights);
        let matrix = self.kernel == [1, 1] && self.groups == 1;
        let tensor = if matrix { tensor.reshaped([self.out_c, inputs].into()) } else { tensor };
        let groups = self.groups as u32;
        let spec = |shape: &Shape, tile, inner| {
            let shape = shape.clone();
            move |isa: reef_plan::Isa| KernelSpec::Conv(shape.spec(panel_width(isa), tile, inner))
        };
        let case = Case::f32(name, spec(self, [24, 2], true))
            .cut(spec(self, [7, 1], false))
            .cut(spec(self, [1000, 5], true))
            .cut(spec(self, [1, 3], false))
            .input(&x)
            .weight(tensor, move |isa| {
                let width = panel_width(isa) as u32;
                match matrix {
                    true => Packing::MatrixPanels { width, transposed: true },
                    false => Packing::ConvPanels { groups, width },
                }
            })
            .weight(Tensor::f32([self.out_c], &bias), |_| Packing::Raw);
        let case = if self.residual { case.input(&residual) } else { case };
        let stride = self.out_c + self.gap;
        // The rounding of a long sum.
        let depth = (inputs * self.kernel[0] * self.kernel[1]) as f64;
        let case = Case { tolerance: 2e-6 + 1e-6 * depth.sqrt(), ..case };
        check(&case.expects((rows - 1) * stride + self.out_c, expected));
    }
}

#[test]
fn convolutions_of_all_shapes() {
    SQUARE.check("3x3");
    Shape { in_c: 3, kernel: [7, 7], strides: [2, 2], pads: [3, 3, 3, 3], in_hw: [20, 22], ..SQUARE }
        .check("7x7/2 of 3 channels");
    Shape { kernel: [1, 1], pads: [0; 4], in_c: 600, out_c: 70, in_hw: [5, 5], ..SQUARE }
        .check("1x1 in chunks");
    Shape { kernel: [1, 1], pads: [0; 4], strides: [2, 2], out_c: 8, ..SQUARE }.check("1x1/2");
    Shape { batch: 3, gap: 3, residual: true, activation: Some(Unary::Relu), in_hw: [6, 5], ..SQUARE }
        .check("batch 3 with gaps, residual and relu");
    Shape { groups: 5, in_c: 10, out_c: 15, activation: Some(Unary::Clip(-0.25, 0.5)), ..SQUARE }
        .check("5 groups and clip");
    Shape { dilations: [2, 3], pads: [2, 0, 1, 5], strides: [1, 2], ..SQUARE }
        .check("dilated, padded unevenly");
    Shape { kernel: [1, 5], pads: [0, 2, 0, 2], in_c: 128, out_c: 33, in_hw: [3, 12], ..SQUARE }
        .check("1x5 with long lines");
    Shape { kernel: [3, 3], in_c: 260, out_c: 20, in_hw: [4, 4], ..SQUARE }.check("3x3 with long taps");
    Shape { in_hw: [2, 1], pads: [2, 2, 2, 2], kernel: [5, 5], ..SQUARE }.check("a window beyond the image");
}

#[test]
fn activations_before_the_store() {
    let functions = [
        Unary::LeakyRelu(0.1),
        Unary::Sigmoid,
        Unary::Silu,
        Unary::HardSigmoid(0.2, 0.5),
        Unary::HardSwish,
        Unary::Gelu,
        Unary::Tanh,
    ];
    for function in functions {
        let layer = Shape { out_c: 37, gap: 1, residual: true, in_hw: [5, 4], ..SQUARE };
        Shape { activation: Some(function), ..layer }.check(&format!("{function:?}"));
    }
}

#[test]
fn linear_layers_of_few_rows() {
    for batch in [1, 2, 3, 4, 13] {
        Shape {
            batch,
            in_hw: [1, 1],
            kernel: [1, 1],
            pads: [0; 4],
            in_c: 530,
            out_c: 300,
            activation: Some(Unary::Gelu),
            residual: batch == 2,
            ..SQUARE
        }
        .check(&format!("{batch} rows"));
    }
}

#[test]
fn depthwise_convolutions() {
    let shapes = [
        SQUARE,
        Shape { strides: [2, 2], in_hw: [10, 15], in_c: 37, batch: 3, gap: 4, residual: true, ..SQUARE },
        Shape { kernel: [5, 5], dilations: [1, 2], pads: [2, 4, 0, 1], in_c: 16, ..SQUARE },
        Shape { in_hw: [2, 2], kernel: [5, 5], pads: [4, 4, 4, 4], activation: Some(Unary::Silu), ..SQUARE },
        Shape { activation: Some(Unary::Clip(0.0, 0.5)), in_c: 2500, in_hw: [4, 4], ..SQUARE },
    ];
    for (index, shape) in shapes.into_iter().enumerate() {
        let shape = Shape { out_c: shape.in_c, groups: shape.in_c, ..shape };
        let [out_h, out_w] = shape.out_hw();
        let (channels, stride) = (shape.in_c, shape.in_c + shape.gap);
        let x = pixels(1, shape.batch * shape.in_hw[0] * shape.in_hw[1], channels, stride);
        let residual = pixels(2, shape.batch * out_h * out_w, channels, stride);
        let (weights, bias) = (random(3, channels * shape.kernel[0] * shape.kernel[1]), random(4, channels));
        let expected = shape.expected(&x, &weights, &bias, &residual);
        let tensor = Tensor::f32([channels, 1, shape.kernel[0], shape.kernel[1]], &weights);
        let spec = |shape: &Shape, tile_rows: usize| {
            let spec = DepthwiseSpec {
                batch: shape.batch,
                channels,
                in_hw: shape.in_hw,
                in_pixel_stride: stride,
                out_hw: shape.out_hw(),
                out_pixel_stride: stride,
                kernel: shape.kernel,
                strides: shape.strides,
                pads: [shape.pads[0], shape.pads[1]],
                dilations: shape.dilations,
                epilogue: shape.epilogue(),
                tile_rows,
            };
            move |_| KernelSpec::Depthwise(spec.clone())
        };
        let case = Case::f32(format!("depthwise {index}"), spec(&shape, 3))
            .cut(spec(&shape, 1))
            .cut(spec(&shape, 100))
            .input(&x)
            .weight(tensor, |_| Packing::Depthwise)
            .weight(Tensor::f32([channels], &bias), |_| Packing::Raw);
        let case = if shape.residual { case.input(&residual) } else { case };
        check(&case.expects((shape.batch * out_h * out_w - 1) * stride + channels, expected));
    }
}

#[test]
fn matrix_products_of_computed_operands() {
    // m, n, k, a transposed, b transposed, batch.
    let shapes = [
        (5, 7, 9, false, false, 1),
        (40, 33, 64, false, true, 6),
        (13, 100, 300, true, false, 2),
        (1, 50, 17, true, true, 3),
        (64, 64, 1, false, false, 1),
        (3, 200, 700, false, true, 1),
    ];
    for (m, n, k, trans_a, trans_b, batch) in shapes {
        // Batch entries lie behind each other in a and c; b is the same for pairs of them.
        let (a, b) = (random(1, batch * m * k), random(2, batch.div_ceil(2) * k * n));
        let a_strides = if trans_a { [1, m] } else { [k, 1] };
        let b_strides = if trans_b { [1, k] } else { [n, 1] };
        let c_row = n + 3;
        let axes = match batch {
            1 => vec![],
            _ => vec![
                [batch.div_ceil(2), 2 * m * k, k * n, 2 * m * c_row],
                [2.min(batch), m * k, 0, m * c_row],
            ],
        };
        let batch = axes.iter().map(|axis: &[usize; 4]| axis[0]).product::<usize>();
        let a = if a.len() < batch * m * k { random(1, batch * m * k) } else { a };
        let mut expected = vec![];
        for plane in 0..batch {
            for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
                let sum: f64 = (0..k)
                    .map(|step| {
                        let x = a[plane * m * k + row * a_strides[0] + step * a_strides[1]];
                        let y = b[plane / 2 * k * n + step * b_strides[0] + column * b_strides[1]];
                        f64::from(x) * f64::from(y)
                    })
                    .sum();
                expected.push((plane * m * c_row + row * c_row + column, sum * 0.125));
            }
        }
        let spec = |tile: [usize; 2]| {
            let spec = MatMulSpec {
                batch: axes.clone(),
                m,
                n,
                k,
                a_strides,
                b_strides,
                c_row_stride: c_row,
                alpha: 0.125,
                tile_rows: tile[0],
                tile_columns: tile[1],
            };
            move |_| KernelSpec::MatMul(spec.clone())
        };
        let case = Case::f32(format!("matmul {m}x{n}x{k}"), spec([12, 32]))
            .cut(spec([5, 64]))
            .cut(spec([100, 7]))
            .input(&a)
            .input(&b);
        check(&case.expects(batch * m * c_row, expected));
    }
}
