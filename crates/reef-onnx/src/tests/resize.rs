//! `Resize` and `Upsample` in every mode, against the definition in double precision.

use reef_base::Rng;
use reef_compile::reference::evaluate;
use reef_graph::{DType, Graph, Op, Shape, Tensor};
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network, specialise};

const COORDINATES: [&str; 7] = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
];

/// The attributes of a resize.
#[derive(Clone, Copy, Debug)]
struct Rule {
    mode: &'static str,
    coordinates: &'static str,
    nearest: &'static str,
    antialias: bool,
    exclude: bool,
}

const EXTRAPOLATED: f64 = 4.5;
const COEFFICIENT: f64 = -0.5;
/// Beginnings, then ends, of the region of two axes.
const ROI: [f32; 4] = [0.1, -0.2, 0.8, 1.1];

impl Rule {
    fn new(mode: &'static str, coordinates: &'static str) -> Rule {
        Rule { mode, coordinates, nearest: "round_prefer_floor", antialias: false, exclude: false }
    }

    fn original(&self, at: usize, from: usize, to: usize, scale: f64, roi: (f64, f64)) -> f64 {
        let (x, n, m) = (at as f64, from as f64, to as f64);
        match self.coordinates {
            "half_pixel" => (x + 0.5) / scale - 0.5,
            "half_pixel_symmetric" => {
                let adjustment = m / (n * scale);
                n / 2.0 * (1.0 - adjustment) + (x + 0.5) / scale - 0.5
            }
            "pytorch_half_pixel" if to == 1 => 0.0,
            "pytorch_half_pixel" => (x + 0.5) / scale - 0.5,
            "align_corners" if to == 1 => 0.0,
            "align_corners" => x * (n - 1.0) / (m - 1.0),
            "asymmetric" => x / scale,
            "tf_half_pixel_for_nn" => (x + 0.5) / scale,
            _ if to == 1 => 0.5 * (roi.0 + roi.1) * (n - 1.0),
            _ => roi.0 * (n - 1.0) + x * (roi.1 - roi.0) * (n - 1.0) / (m - 1.0),
        }
    }

    /// Weights of all elements of an axis for one coordinate.
    fn weights(&self, x: f64, from: usize, scale: f64) -> Vec<f64> {
        let mut weights = vec![0.0; from];
        let clamp = |at: f64| at.clamp(0.0, from as f64 - 1.0) as usize;
        if self.mode == "nearest" {
            // Coordinates are computed in single precision: they are halves and whole numbers again here.
            let x = (x * 1e5).round() / 1e5;
            let near = match self.nearest {
                "round_prefer_floor" => (x - 0.5).ceil(),
                "round_prefer_ceil" => (x + 0.5).floor(),
                "floor" => x.floor(),
                _ => x.ceil(),
            };
            weights[clamp(near)] = 1.0;
            return weights;
        }
        let stretch = if self.antialias { scale.min(1.0) } else { 1.0 };
        let function = |s: f64| {
            let (s, a) = (s.abs(), COEFFICIENT);
            match self.mode {
                "linear" => (1.0 - s).max(0.0),
                _ if s <= 1.0 => (a + 2.0) * s.powi(3) - (a + 3.0) * s.powi(2) + 1.0,
                _ if s < 2.0 => a * s.powi(3) - 5.0 * a * s.powi(2) + 8.0 * a * s - 4.0 * a,
                _ => 0.0,
            }
        };
        let mut sum = 0.0;
        for at in -40i64..from as i64 + 40 {
            let inside = (0..from as i64).contains(&at);
            if self.exclude && !inside {
                continue;
            }
            let weight = function((at as f64 - x) * stretch);
            weights[clamp(at as f64)] += weight;
            sum += weight;
        }
        if self.antialias || self.exclude {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        weights
    }

    /// For every output element of an axis, the weights of the input's; `None` of what lies outside.
    fn axis(&self, from: usize, to: usize, scale: f64, roi: (f64, f64)) -> Vec<Option<Vec<f64>>> {
        let make = |at: usize| {
            let x = self.original(at, from, to, scale, roi);
            let outside = self.coordinates == "tf_crop_and_resize" && !(0.0..=from as f64 - 1.0).contains(&x);
            (!outside).then(|| self.weights(x, from, scale))
        };
        (0..to).map(make).collect()
    }

    fn attributes(&self) -> Vec<(&'static str, Attr<'static>)> {
        vec![
            ("mode", Attr::Text(self.mode)),
            ("coordinate_transformation_mode", Attr::Text(self.coordinates)),
            ("nearest_mode", Attr::Text(self.nearest)),
            ("antialias", Attr::Int(i64::from(self.antialias))),
            ("exclude_outside", Attr::Int(i64::from(self.exclude))),
            ("cubic_coeff_a", Attr::Float(COEFFICIENT as f32)),
            ("extrapolation_value", Attr::Float(EXTRAPOLATED as f32)),
        ]
    }
}

/// A graph without host kernels for a node with an input of these extents.
fn graph(dims: &[usize], build: impl FnOnce(&mut Network) -> String) -> Graph {
    let mut network = Network::default();
    network.opset(19);
    let text: Vec<String> = dims.iter().map(usize::to_string).collect();
    network.input("x", DataType::Float, &text.iter().map(String::as_str).collect::<Vec<_>>());
    let y = build(&mut network);
    network.output(&y, DataType::Float, &["A"]);
    let specialised = specialise(&network.model(), &[dims]);
    assert!(specialised.host_kernels.is_empty(), "it runs on the host");
    specialised.graph
}

fn random(dims: &[usize]) -> Tensor {
    let mut rng = Rng::new(3);
    let count: usize = dims.iter().product();
    Tensor::f32(Shape::new(dims), &(0..count).map(|_| rng.normal_f32()).collect::<Vec<_>>())
}

/// The last two axes, by sizes or by scales.
fn check(rule: Rule, from: [usize; 2], to: [usize; 2], by_sizes: bool) {
    let dims = [2, 3, from[0], from[1]];
    let scales = [0, 1].map(|axis| (to[axis] as f32 + if by_sizes { 0.0 } else { 0.25 }) / from[axis] as f32);
    let mut attributes = rule.attributes();
    attributes.push(("axes", Attr::Ints(&[2, -1])));
    let graph = graph(&dims, |network| {
        let roi = network.constant(&[4], &ROI);
        let operands = match by_sizes {
            true => [roi, String::new(), network.integers(&[2], &to.map(|extent| extent as i64))],
            false => [roi, network.constant(&[2], &scales), String::new()],
        };
        network.node("Resize", &["x", &operands[0], &operands[1], &operands[2]], &attributes)
    });
    let x = random(&dims);
    let made = evaluate(&graph, std::slice::from_ref(&x)).expect("it is computed").remove(0);
    assert_eq!(made.shape()[..], [2, 3, to[0], to[1]], "{rule:?}");
    let axes = [0, 1].map(|axis| {
        let roi = (f64::from(ROI[axis]), f64::from(ROI[axis + 2]));
        rule.axis(from[axis], to[axis], f64::from(scales[axis]), roi)
    });
    let given = x.values::<f32>();
    for (at, &value) in made.values::<f32>().iter().enumerate() {
        let (plane, row, column) = (at / (to[0] * to[1]), at / to[1] % to[0], at % to[1]);
        let wanted = match (&axes[0][row], &axes[1][column]) {
            (Some(rows), Some(columns)) => {
                let at = |index: usize| f64::from(given[plane * from[0] * from[1] + index]);
                let terms = (0..from[0] * from[1])
                    .map(|index| rows[index / from[1]] * columns[index % from[1]] * at(index));
                terms.sum()
            }
            _ => EXTRAPOLATED,
        };
        let close = (f64::from(value) - wanted).abs() <= 2e-4 * wanted.abs().max(1.0);
        assert!(close, "{rule:?} {from:?} to {to:?}, {by_sizes}: {value} at {at}, not {wanted}");
    }
}

#[test]
fn interpolation() {
    for coordinates in COORDINATES {
        for mode in ["linear", "cubic"] {
            for antialias in [false, true] {
                for exclude in [false, true] {
                    let rule = Rule { antialias, exclude, ..Rule::new(mode, coordinates) };
                    for (from, to) in
                        [([5, 7], [11, 9]), ([9, 8], [4, 13]), ([6, 3], [1, 6]), ([7, 9], [5, 2])]
                    {
                        // What is excluded must leave something: other coordinates lie far outside.
                        let far = matches!(coordinates, "tf_half_pixel_for_nn" | "asymmetric");
                        if !(exclude && far) {
                            check(rule, from, to, true);
                            check(rule, from, to, false);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn nearest() {
    for coordinates in COORDINATES {
        for nearest in ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] {
            let rule = Rule { nearest, ..Rule::new("nearest", coordinates) };
            for (from, to) in [([4, 6], [9, 5]), ([7, 3], [3, 10]), ([5, 8], [7, 3])] {
                check(rule, from, to, true);
            }
        }
    }
}

#[test]
fn whole_factors_are_broadcasts_and_other_copies_gathers() {
    for dtype in [DataType::Float, DataType::Int64, DataType::Uint8] {
        let mut network = Network::default();
        network.opset(13);
        network.input("x", dtype, &["1", "2", "3", "4"]);
        let scales = network.constant(&[4], &[1.0, 1.0, 3.0, 1.5]);
        let attributes = [
            ("mode", Attr::Text("nearest")),
            ("coordinate_transformation_mode", Attr::Text("asymmetric")),
            ("nearest_mode", Attr::Text("floor")),
        ];
        let y = network.node("Resize", &["x", "", &scales], &attributes);
        network.output(&y, dtype, &["A"]);
        let specialised = specialise(&network.model(), &[&[1, 2, 3, 4]]);
        assert!(specialised.host_kernels.is_empty(), "{dtype:?}");
        let graph = specialised.graph;
        let count = |op: fn(&Op) -> bool| graph.nodes.iter().filter(|node| op(&node.op)).count();
        assert_eq!((count(|op| *op == Op::Expand), count(|op| matches!(op, Op::Gather { .. }))), (1, 1));
        if graph.value(graph.inputs[0]).dtype == DType::I64 {
            let x: Vec<i64> = (0..24).collect();
            let made = evaluate(&graph, &[Tensor::i64([1, 2, 3, 4], &x)]).unwrap().remove(0);
            assert_eq!(made.shape()[..], [1, 2, 9, 6]);
            assert_eq!(made.values::<i64>()[18..24], [4, 4, 5, 6, 6, 7]);
        }
    }
}

#[test]
fn proportions_may_be_kept() {
    for (policy, output) in [("not_larger", [8, 6]), ("not_smaller", [12, 9]), ("stretch", [12, 6])] {
        let graph = graph(&[1, 1, 4, 3], |network| {
            let sizes = network.integers(&[2], &[12, 6]);
            let attributes = [
                ("mode", Attr::Text("linear")),
                ("axes", Attr::Ints(&[2, 3])),
                ("keep_aspect_ratio_policy", Attr::Text(policy)),
            ];
            network.node("Resize", &["x", "", "", &sizes], &attributes)
        });
        assert_eq!(graph.value(graph.outputs[0]).shape[2..], output, "{policy}");
    }
}

#[test]
fn upsamples() {
    for (mode, wanted) in
        [("nearest", [1.0, 1.0, 3.0, 3.0, -1.0, -1.0]), ("linear", [1.0, 2.0, 3.0, 1.0, -1.0, -1.0])]
    {
        let mut network = Network::default();
        network.opset(9);
        network.input("x", DataType::Float, &["1", "1", "1", "3"]);
        let scales = network.constant(&[4], &[1.0, 1.0, 1.0, 2.0]);
        let y = network.node("Upsample", &["x", &scales], &[("mode", Attr::Text(mode))]);
        network.output(&y, DataType::Float, &["A"]);
        let specialised = specialise(&network.model(), &[&[1, 1, 1, 3]]);
        assert!(specialised.host_kernels.is_empty());
        let x = Tensor::f32([1, 1, 1, 3], &[1.0, 3.0, -1.0]);
        let made = evaluate(&specialised.graph, &[x]).unwrap().remove(0);
        assert_eq!(made.values::<f32>(), wanted);
    }
}
