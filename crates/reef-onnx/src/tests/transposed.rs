//! Transposed convolutions, against their definition: every input element adds a multiple of the kernel to
//! the output.

use reef_base::Rng;
use reef_compile::reference::evaluate;
use reef_graph::Tensor;
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network, specialise};

/// Integers as floats, so that sums are exact in every order.
fn numbers(rng: &mut Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.below(15) as f32 - 7.0).collect()
}

/// A transposed convolution; lists have an entry for each spatial axis, pads two.
#[derive(Clone, Debug)]
struct Case {
    /// Batch, groups, and channels of a group that go in and come out.
    sizes: [usize; 4],
    image: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    /// What the attributes besides strides, dilations and group are, and the elements that are cut off at the
    /// beginnings because of them.
    given: Vec<(&'static str, Vec<i64>)>,
    before: Vec<usize>,
    output: Vec<usize>,
    auto_pad: Option<&'static str>,
    bias: bool,
}

impl Case {
    fn new(image: &[usize], kernel: &[usize], strides: &[usize], dilations: &[usize]) -> Case {
        let natural =
            |axis: usize| (image[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1;
        Case {
            sizes: [2, 1, 3, 2],
            image: image.to_vec(),
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            given: vec![],
            before: vec![0; image.len()],
            output: (0..image.len()).map(natural).collect(),
            auto_pad: None,
            bias: true,
        }
    }

    fn padded(mut self, pads: &[usize], added: &[usize]) -> Case {
        let rank = self.image.len();
        for axis in 0..rank {
            self.output[axis] = self.output[axis] + added[axis] - pads[axis] - pads[axis + rank];
        }
        self.before = pads[..rank].to_vec();
        let list = |values: &[usize]| values.iter().map(|&value| value as i64).collect();
        self.given = vec![("pads", list(pads)), ("output_padding", list(added))];
        self
    }

    fn sized(mut self, sizes: [usize; 4]) -> Case {
        self.sizes = sizes;
        self
    }

    /// As the definition has it; spatial axes made two.
    fn expected(&self, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
        let two = |list: &[usize], one: usize| match list {
            [a] => [one, *a],
            _ => [list[0], list[1]],
        };
        let [batch, groups, inputs, outputs] = self.sizes;
        let (image, kernel) = (two(&self.image, 1), two(&self.kernel, 1));
        let (strides, dilations) = (two(&self.strides, 1), two(&self.dilations, 1));
        let (before, output) = (two(&self.before, 0), two(&self.output, 1));
        let channels = groups * outputs;
        let mut made = vec![0.0; batch * channels * output[0] * output[1]];
        for (at, value) in made.iter_mut().enumerate() {
            *value = bias[at / (output[0] * output[1]) % channels];
        }
        for n in 0..batch {
            for c in 0..groups * inputs {
                for m in 0..outputs {
                    let place = (n * channels + c / inputs * outputs + m) * output[0] * output[1];
                    for at in 0..image[0] * image[1] * kernel[0] * kernel[1] {
                        let (pixel, tap) = (at / (kernel[0] * kernel[1]), at % (kernel[0] * kernel[1]));
                        let spot = |axis: usize, pixel: usize, tap: usize| {
                            let to =
                                (pixel * strides[axis] + tap * dilations[axis]).checked_sub(before[axis])?;
                            (to < output[axis]).then_some(to)
                        };
                        let row = spot(0, pixel / image[1], tap / kernel[1]);
                        let column = spot(1, pixel % image[1], tap % kernel[1]);
                        let (Some(row), Some(column)) = (row, column) else { continue };
                        let given = x[(n * groups * inputs + c) * image[0] * image[1] + pixel];
                        let weight = w[(c * outputs + m) * kernel[0] * kernel[1] + tap];
                        made[place + row * output[1] + column] += given * weight;
                    }
                }
            }
        }
        made
    }

    #[track_caller]
    fn check(&self) {
        let rng = &mut Rng::new(7);
        let [batch, groups, inputs, outputs] = self.sizes;
        let x_dims = [&[batch, groups * inputs], &self.image[..]].concat();
        let w_dims: Vec<i64> =
            [&[groups * inputs, outputs], &self.kernel[..]].concat().iter().map(|&dim| dim as i64).collect();
        let x = numbers(rng, x_dims.iter().product());
        let w = numbers(rng, w_dims.iter().product::<i64>() as usize);
        let bias = if self.bias { numbers(rng, groups * outputs) } else { vec![0.0; groups * outputs] };
        let mut network = Network::default();
        let text: Vec<String> = x_dims.iter().map(usize::to_string).collect();
        network.input("x", DataType::Float, &text.iter().map(String::as_str).collect::<Vec<_>>());
        let mut operands = vec!["x".to_owned(), network.constant(&w_dims, &w)];
        if self.bias {
            operands.push(network.constant(&[bias.len() as i64], &bias));
        }
        let ints = |list: &[usize]| -> Vec<i64> { list.iter().map(|&value| value as i64).collect() };
        let (strides, dilations) = (ints(&self.strides), ints(&self.dilations));
        let mut attributes = vec![
            ("strides", Attr::Ints(&strides)),
            ("dilations", Attr::Ints(&dilations)),
            ("group", Attr::Int(groups as i64)),
        ];
        attributes.extend(self.given.iter().map(|(name, list)| (*name, Attr::Ints(list))));
        attributes.extend(self.auto_pad.map(|auto| ("auto_pad", Attr::Text(auto))));
        let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
        let y = network.node("ConvTranspose", &operands, &attributes);
        network.output(&y, DataType::Float, &["A"]);
        let specialised = specialise(&network.model(), &[&x_dims]);
        assert!(specialised.host_kernels.is_empty(), "{self:?} runs on the host");
        let made = evaluate(&specialised.graph, &[Tensor::f32(reef_graph::Shape::new(&x_dims), &x)])
            .expect("it is computed")
            .remove(0);
        let wanted = [&[batch, groups * outputs], &self.output[..]].concat();
        assert_eq!(made.shape()[..], wanted[..], "{self:?}");
        assert_eq!(made.values::<f32>(), self.expected(&x, &w, &bias), "{self:?}");
    }
}

#[test]
fn strides_dilations_and_kernels() {
    for kernel in 1..=5 {
        for stride in 1..=4 {
            for dilation in 1..=3 {
                Case::new(&[3, 4], &[kernel, 2], &[stride, 1], &[dilation, 2]).check();
                Case::new(&[5], &[kernel], &[stride], &[dilation]).check();
            }
        }
    }
}

#[test]
fn padding_cuts_and_adds() {
    for (kernel, stride) in [(2, 2), (3, 2), (4, 2), (3, 1), (5, 3), (4, 4), (2, 3)] {
        for [top, left, bottom, right] in [[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1], [2, 3, 1, 2]] {
            for added in [[0, 0], [stride - 1, 0]] {
                let case = Case::new(&[4, 5], &[kernel, kernel], &[stride, stride], &[1, 1]);
                case.padded(&[top, left, bottom, right], &added).check();
            }
        }
    }
    // More is cut off than the first and last elements of the image reach.
    Case::new(&[6, 6], &[2, 3], &[1, 2], &[1, 1]).padded(&[3, 4, 2, 5], &[0, 0]).check();
}

#[test]
fn channels_in_groups_with_and_without_bias() {
    for sizes in [[1, 2, 3, 2], [2, 4, 1, 1], [1, 3, 2, 5], [3, 1, 1, 1]] {
        for bias in [true, false] {
            let case = Case::new(&[3, 3], &[3, 2], &[2, 3], &[1, 1]).padded(&[1, 0, 1, 1], &[1, 0]);
            Case { bias, ..case.sized(sizes) }.check();
        }
    }
}

#[test]
fn outputs_of_a_given_extent() {
    let case = |auto_pad, before: usize, given: Vec<(&'static str, Vec<i64>)>| {
        let case = Case::new(&[4, 3], &[3, 3], &[2, 2], &[1, 1]);
        Case { given, auto_pad: Some(auto_pad), before: vec![before; 2], output: vec![8, 6], ..case }.check();
    };
    let shape = || vec![("output_shape", vec![8, 6])];
    case("SAME_UPPER", 0, vec![]);
    case("SAME_LOWER", 1, vec![]);
    case("SAME_UPPER", 0, shape());
    case("NOTSET", 1, shape());
    let larger = Case::new(&[4, 3], &[3, 3], &[2, 2], &[1, 1]);
    Case { given: vec![("output_shape", vec![12, 9])], output: vec![12, 9], ..larger }.check();
}

#[test]
fn computed_weights_need_no_host() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["1", "1", "2", "2"]);
    network.input("w", DataType::Float, &["1", "1", "2", "2"]);
    let y = network.node("ConvTranspose", &["x", "w"], &[]);
    network.output(&y, DataType::Float, &["A"]);
    let specialised = specialise(&network.model(), &[&[1, 1, 2, 2], &[1, 1, 2, 2]]);
    assert_eq!(specialised.host_kernels.len(), 0);
}
