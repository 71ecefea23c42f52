//! Products of integers: exact, whatever the instruction set.

use reef_graph::{DType, Shape, Tensor, Unary};
use reef_plan::{
    ConvSpec, Dequantize, Epilogue, Factors, IntegerConvSpec, IntegerEpilogue, IntegerMatMulSpec, KernelSpec,
    MatMulSpec, Packing, Per, Requantize, Residual, Rounding, Scaled,
};

use super::{Case, check, random};
use crate::cut::integer::INTEGER_COLUMNS;
use reef_base::Rng;

/// Seeded bytes, the extremes of both types among them.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let any = |rng: &mut Rng| rng.below(256) as u8;
    (0..count)
        .map(|_| if rng.below(5) == 0 { [0, 255, 127, 128][rng.below(4) as usize] } else { any(&mut rng) })
        .collect()
}

fn value(byte: u8, dtype: DType) -> i64 {
    if dtype == DType::I8 { i64::from(byte as i8) } else { i64::from(byte) }
}

/// What follows the sums of a case.
#[derive(Clone)]
struct Behind {
    epilogue: IntegerEpilogue,
    bias: Vec<i32>,
    factors: Vec<f32>,
    shift: Vec<f32>,
    residual: Vec<f32>,
    bytes: Vec<u8>,
}

impl Behind {
    /// Nothing (0), the way to f32 (1), that with a residual (2), and back to integers (3); through rounding
    /// (4), a residual of bytes (5) or both (6) back to integers, all three ways with an activation of its
    /// own (7 to 9), and through both to f32 (10); to f32 with an activation of its own (11), and that with a
    /// residual (12).
    fn new(which: usize, columns: usize, residual: usize, stride: usize) -> Behind {
        let to = if columns.is_multiple_of(2) { DType::U8 } else { DType::I8 };
        let (low, high) = if to == DType::U8 { (0, 255) } else { (-128, 127) };
        let from = if columns.is_multiple_of(3) { DType::U8 } else { DType::I8 };
        let of = Dequantize { from, scale: 0.017, zero: 77 };
        let back = Dequantize { from: to, scale: 0.023, zero: 3 };
        let rounding = Rounding { to: Requantize { to, scale: 0.021, zero: 5, low, high }, back };
        let clip = Unary::Clip(-0.5, 0.75);
        let scaled = Scaled {
            factors: Some(if which == 1 { Per::Tensor } else { Per::Each }),
            shift: which != 1,
            rounding: matches!(which, 4 | 6 | 7 | 9 | 10).then_some(rounding),
            residual: match which {
                2 | 12 => Some(Residual { pixel_stride: stride, of: None }),
                5 | 6 | 8..=10 => Some(Residual { pixel_stride: stride, of: Some(of) }),
                _ => None,
            },
            activation: match which {
                1 => None,
                7..=9 | 11.. => Some(clip),
                _ => Some(Unary::Relu),
            },
            requantize: (3..=9).contains(&which).then_some(Requantize {
                to,
                scale: 0.03,
                zero: 90,
                low,
                high,
            }),
        };
        Behind {
            epilogue: IntegerEpilogue { bias: which != 1, scaled: (which > 0).then_some(scaled) },
            bias: (0..columns).map(|column| column as i32 * 700 - 5000).collect(),
            factors: random(5, columns).iter().map(|x| x * 1e-3).collect(),
            shift: random(6, columns),
            residual: random(7, residual),
            bytes: bytes(8, residual),
        }
    }

    fn apply(&self, sum: i64, column: usize, residual: usize) -> f64 {
        let mut sum = sum as i32;
        if self.epilogue.bias {
            sum = sum.wrapping_add(self.bias[column]);
        }
        let Some(scaled) = self.epilogue.scaled else { return f64::from(sum) };
        let mut x = sum as f32 * self.factors[scaled.factors.expect("always there").at(column)];
        if scaled.shift {
            x += self.shift[column];
        }
        if let Some(rounding) = scaled.rounding {
            x = rounding.apply(x);
        }
        x += match scaled.residual {
            None => 0.0,
            Some(Residual { of: None, .. }) => self.residual[residual],
            Some(Residual { of: Some(of), .. }) => of.apply(value(self.bytes[residual], of.from) as i32),
        };
        x = match scaled.activation {
            None => x,
            Some(Unary::Clip(low, high)) => x.clamp(low, high),
            Some(_) => x.max(0.0),
        };
        scaled.requantize.map_or(f64::from(x), |requantize| f64::from(requantize.apply(x)))
    }

    fn operands(&self, mut case: Case) -> Case {
        let scaled = self.epilogue.scaled.unwrap_or_default();
        if self.epilogue.bias {
            case = case.bytes(bytemuck::cast_slice(&self.bias));
        }
        if let Some(per) = scaled.factors {
            case = case.input(&self.factors[..per.count(self.factors.len())]);
        }
        if scaled.shift {
            case = case.input(&self.shift);
        }
        case = match scaled.residual {
            None => case,
            Some(Residual { of: None, .. }) => case.input(&self.residual),
            Some(_) => case.bytes(&self.bytes),
        };
        Case { out_dtype: self.epilogue.output(), tolerance: 0.0, ..case }
    }
}

/// Zero points of a factor: none, one, or one for each.
fn zeros(which: usize, seed: u64, each: usize) -> (Option<Per>, Vec<u8>) {
    match which % 3 {
        0 => (None, vec![]),
        1 => (Some(Per::Tensor), vec![[0, 255, 127, 128][seed as usize % 4]]),
        _ => (Some(Per::Each), bytes(seed, each)),
    }
}

fn zero((per, bytes): &(Option<Per>, Vec<u8>), dtype: DType, index: usize) -> i64 {
    per.map_or(0, |per| value(bytes[per.at(index)], dtype))
}

#[derive(Clone)]
struct Conv {
    batch: usize,
    in_hw: [usize; 2],
    in_c: usize,
    out_c: usize,
    kernel: [usize; 2],
    strides: [usize; 2],
    pad: usize,
    groups: usize,
    gap: usize,
}

const SQUARE: Conv = Conv {
    batch: 1,
    in_hw: [7, 6],
    in_c: 5,
    out_c: 37,
    kernel: [3, 3],
    strides: [1, 1],
    pad: 1,
    groups: 1,
    gap: 0,
};

impl Conv {
    fn spec(&self, tile: [usize; 2], columns_inner: bool) -> ConvSpec {
        let out =
            |axis: usize| (self.in_hw[axis] + 2 * self.pad - self.kernel[axis]) / self.strides[axis] + 1;
        ConvSpec {
            batch: self.batch,
            in_hw: self.in_hw,
            in_c: self.in_c,
            in_pixel_stride: self.in_c + self.gap,
            out_hw: [out(0), out(1)],
            out_c: self.out_c,
            out_pixel_stride: self.out_c + self.gap,
            kernel: self.kernel,
            strides: self.strides,
            pads: [self.pad; 2],
            dilations: [1, 1],
            groups: self.groups,
            panel_width: INTEGER_COLUMNS,
            normed: false,
            epilogue: Epilogue::default(),
            tile_rows: tile[0],
            tile_columns: tile[1] * INTEGER_COLUMNS,
            columns_inner,
            splits: 1,
        }
    }

    /// The sum for an output pixel and channel.
    fn sum(
        &self,
        (x, weights): (&[u8], &[u8]),
        types: [DType; 2],
        [zero_x, zero_w]: [i64; 2],
        (row, channel): (usize, usize),
    ) -> i64 {
        let spec = self.spec([1, 1], true);
        let [out_h, out_w] = spec.out_hw;
        let (image, y, column) = (row / (out_h * out_w), row / out_w % out_h, row % out_w);
        let (inputs, taps) = (self.in_c / self.groups, self.kernel[0] * self.kernel[1]);
        let group = channel / (self.out_c / self.groups);
        let mut sum = 0;
        for tap in 0..taps {
            let iy = (y * self.strides[0] + tap / self.kernel[1]).wrapping_sub(self.pad);
            let ix = (column * self.strides[1] + tap % self.kernel[1]).wrapping_sub(self.pad);
            if iy >= self.in_hw[0] || ix >= self.in_hw[1] {
                continue;
            }
            let from = ((image * self.in_hw[0] + iy) * self.in_hw[1] + ix) * spec.in_pixel_stride;
            for input in 0..inputs {
                let weight = weights[(channel * inputs + input) * taps + tap];
                let factor = value(x[from + group * inputs + input], types[0]) - zero_x;
                sum += factor * (value(weight, types[1]) - zero_w);
            }
        }
        sum
    }

    fn check(&self, name: &str) {
        for variant in 0..39 {
            let types = [[DType::U8, DType::I8], [DType::U8; 2], [DType::I8; 2], [DType::I8, DType::U8]];
            let types = types[variant % 4];
            let whole = self.spec([1, 1], true);
            let rows = whole.rows();
            let pixels = self.batch * self.in_hw[0] * self.in_hw[1];
            let (inputs, taps) = (self.in_c / self.groups, self.kernel[0] * self.kernel[1]);
            let pointwise = self.kernel == [1, 1] && self.strides == [1, 1];
            let x = bytes(1, pixels * whole.in_pixel_stride);
            let weights = bytes(2, self.out_c * inputs * taps);
            let left = zeros(if pointwise { variant } else { variant % 2 }, 3 + variant as u64, rows);
            let right = zeros(variant / 2, 4 + variant as u64, self.out_c);
            let stride = whole.out_pixel_stride;
            let behind = Behind::new(variant / 3, self.out_c, rows * stride, stride);
            let factors = Factors { types, zeros: [left.0, right.0] };
            let spec = |conv: ConvSpec| {
                let epilogue = behind.epilogue;
                move |_| KernelSpec::IntegerConv(IntegerConvSpec { conv: conv.clone(), factors, epilogue })
            };
            let groups = self.groups as u32;
            let shape = Shape::from([self.out_c, inputs, self.kernel[0], self.kernel[1]]);
            let tensor = Tensor::from_slice(types[1], shape, &weights);
            let packing = Packing::IntegerPanels { groups, width: INTEGER_COLUMNS as u32 };
            let mut case = Case::f32(format!("{name}, variant {variant}"), spec(self.spec([24, 2], true)))
                .cut(spec(self.spec([7, 1], false)))
                .cut(spec(self.spec([1000, 5], true)))
                .bytes(&x)
                .weight(tensor, move |_| packing);
            for zeros in [&left, &right] {
                if zeros.0.is_some() {
                    case = case.bytes(&zeros.1);
                }
            }
            let mut expected = vec![];
            for row in 0..rows {
                for channel in 0..self.out_c {
                    let zeros = [zero(&left, types[0], row), zero(&right, types[1], channel)];
                    let sum = self.sum((&x, &weights), types, zeros, (row, channel));
                    let at = row * stride + channel;
                    expected.push((at, behind.apply(sum, channel, at)));
                }
            }
            check(&behind.operands(case).expects((rows - 1) * stride + self.out_c, expected));
        }
    }
}

#[test]
fn convolutions_of_integers() {
    SQUARE.check("3x3");
    Conv { in_c: 3, kernel: [7, 7], strides: [2, 2], pad: 3, in_hw: [12, 14], ..SQUARE }.check("7x7/2");
    Conv { batch: 3, gap: 3, in_c: 8, out_c: 20, in_hw: [4, 5], ..SQUARE }.check("batch 3 with gaps");
    Conv { groups: 5, in_c: 10, out_c: 15, ..SQUARE }.check("5 groups");
    Conv { kernel: [1, 1], pad: 0, strides: [2, 2], ..SQUARE }.check("1x1/2");
    Conv { kernel: [1, 1], pad: 0, in_c: 72, in_hw: [5, 5], ..SQUARE }.check("1x1");
    Conv { in_hw: [2, 1], pad: 2, kernel: [5, 5], ..SQUARE }.check("a window beyond the image");
}

#[test]
fn integer_layers_of_few_rows() {
    for rows in [1, 2, 3, 4, 13] {
        let layer = Conv { in_hw: [1, rows], kernel: [1, 1], pad: 0, in_c: 531, out_c: 150, ..SQUARE };
        layer.check(&format!("{rows} rows"));
    }
}

/// More products than are summed between two polls.
#[test]
fn long_sums_of_integers() {
    Conv { in_hw: [1, 5], kernel: [1, 1], pad: 0, in_c: 4099, out_c: 18, ..SQUARE }.check("long sums");
}

#[test]
fn products_of_computed_integers() {
    for (variant, [m, n, k]) in
        [[1, 1, 1], [5, 19, 9], [13, 33, 66], [30, 16, 515], [3, 70, 2], [14, 40, 31]].into_iter().enumerate()
    {
        for types in [[DType::U8, DType::I8], [DType::U8; 2], [DType::I8; 2], [DType::I8, DType::U8]] {
            let planes = 2;
            let (a, b) = (bytes(1, planes * m * k), bytes(2, planes * n * k));
            let left = zeros(variant, 3, planes * m);
            let right = zeros(variant + 1, 4, planes * n);
            let behind = Behind::new([0, 1, 3, 4, 7, 11][variant % 6], n, 0, 0);
            let factors = Factors { types, zeros: [left.0, right.0] };
            // a is stored [k, m] in every other case, b always [n, k].
            let a_strides = if variant % 2 == 0 { [k, 1] } else { [1, m] };
            let spec = |tile_rows: usize, tile_columns: usize| {
                let (epilogue, batch) = (behind.epilogue, vec![[planes, m * k, n * k, m * n]]);
                move |_| {
                    let product = MatMulSpec {
                        batch: batch.clone(),
                        m,
                        n,
                        k,
                        a_strides,
                        b_strides: [1, k],
                        c_row_stride: n,
                        alpha: 1.0,
                        tile_rows: tile_rows.min(m),
                        tile_columns: tile_columns.min(n),
                    };
                    KernelSpec::IntegerMatMul(IntegerMatMulSpec { product, factors, epilogue })
                }
            };
            let mut case = Case::f32(format!("{m}x{n}x{k} {types:?}"), spec(24, 32))
                .cut(spec(5, 16))
                .cut(spec(1000, 1000))
                .bytes(&a)
                .bytes(&b);
            for zeros in [&left, &right] {
                if zeros.0.is_some() {
                    case = case.bytes(&zeros.1);
                }
            }
            let mut expected = vec![];
            for at in 0..planes * m * n {
                let (plane, row, column) = (at / (m * n), at / n % m, at % n);
                let zero_a = zero(&left, types[0], plane * m + row);
                let zero_b = zero(&right, types[1], plane * n + column);
                let product = |step: usize| {
                    let a = a[plane * m * k + row * a_strides[0] + step * a_strides[1]];
                    let b = b[(plane * n + column) * k + step];
                    (value(a, types[0]) - zero_a) * (value(b, types[1]) - zero_b)
                };
                expected.push((at, behind.apply((0..k).map(product).sum(), column, 0)));
            }
            check(&behind.operands(case).expects(planes * m * n, expected));
        }
    }
}
