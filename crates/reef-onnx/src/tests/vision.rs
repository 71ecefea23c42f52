//! Operators of vision models, and convolutions whose weights are computed: none runs on the host.

use reef_graph::Op;

use super::network::{Attr, Network, specialise};
use super::numeric::{close, computed, f32s, f32s_of, i64s};
use tract_onnx::pb::tensor_proto::DataType;

/// Numbers without an order, between −1 and 1.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A node's result with weights that are an input, and with the same as constants.
fn both_ways(operator: &str, x: &[usize], weights: &[usize], attributes: &[(&str, Attr)]) {
    let (elements, count) = (noise(x.iter().product(), 1), noise(weights.iter().product(), 2));
    let (x, weights) = (|| f32s(x, &elements), || f32s(weights, &count));
    let want = f32s_of(computed(operator, 11, &[x()], &[weights()], attributes));
    let made = f32s_of(computed(operator, 11, &[x(), weights()], &[], attributes));
    close(&made, &want);
}

#[test]
fn weights_that_are_computed_mean_the_same() {
    let (strides, pads) = (("strides", Attr::Ints(&[2, 1])), ("pads", Attr::Ints(&[1, 0, 2, 1])));
    let steps = ("dilations", Attr::Ints(&[1, 2]));
    both_ways("Conv", &[2, 3, 7, 6], &[4, 3, 3, 2], &[]);
    both_ways("Conv", &[1, 4, 7, 6], &[4, 2, 3, 2], &[strides, pads, ("group", Attr::Int(2))]);
    both_ways("Conv", &[2, 3, 9], &[5, 3, 4], &[("auto_pad", Attr::Text("SAME_UPPER"))]);
    both_ways("Conv", &[2, 6, 5, 5], &[6, 1, 2, 2], &[steps, ("group", Attr::Int(6))]);
    both_ways("Conv", &[2, 3, 4, 5], &[4, 3, 1, 1], &[]);
    both_ways("ConvTranspose", &[2, 3, 4, 5], &[3, 4, 3, 2], &[]);
    both_ways("ConvTranspose", &[1, 4, 4, 5], &[4, 2, 3, 2], &[strides, pads, ("group", Attr::Int(2))]);
    both_ways("ConvTranspose", &[2, 3, 4, 5], &[3, 4, 3, 2], &[steps, ("output_shape", Attr::Ints(&[7, 8]))]);
    both_ways("ConvTranspose", &[2, 3, 9], &[3, 5, 4], &[("strides", Attr::Ints(&[3]))]);
}

#[test]
fn a_window_over_volumes_is_one_over_planes_when_it_is_flat() {
    let (x, weights) = (noise(2 * 3 * 2 * 5 * 4, 1), noise(4 * 3 * 3 * 2, 2));
    let made = computed("Conv", 11, &[f32s(&[2, 3, 2, 5, 4], &x)], &[f32s(&[4, 3, 1, 3, 2], &weights)], &[]);
    let joined = f32s(&[2, 3, 10, 4], &x);
    let plain = f32s_of(computed("Conv", 11, &[joined], &[f32s(&[4, 3, 3, 2], &weights)], &[]));
    // Lines 0 to 2 of the joined planes are those of the first, 5 to 7 of the second.
    let line = |plane: usize, line: usize| plain[(plane * 8 + line) * 3..][..3].to_vec();
    let want: Vec<f32> =
        (0..8).flat_map(|plane| [0, 1, 2, 5, 6, 7].map(|at| line(plane, at)).concat()).collect();
    close(&f32s_of(made), &want);
}

#[test]
fn pools_over_volumes() {
    let x: Vec<f32> = (0..27).map(|at| at as f32).collect();
    let pooled = |operator: &str, opset: i64, more: &[(&str, Attr)]| {
        let window = [("kernel_shape", Attr::Ints(&[2, 2, 2])), ("strides", Attr::Ints(&[2, 2, 2]))];
        let attributes = [&window[..], more].concat();
        f32s_of(computed(operator, opset, &[f32s(&[1, 1, 3, 3, 3], &x)], &[], &attributes))
    };
    assert_eq!(pooled("MaxPool", 12, &[]), [13.0]);
    assert_eq!(pooled("AveragePool", 11, &[]), [6.5]);
    let squares: f32 = [0., 1., 3., 4., 9., 10., 12., 13.].iter().map(|x| x * x).sum();
    close(&pooled("LpPool", 18, &[]), &[squares.sqrt()]);
    assert_eq!(pooled("LpPool", 18, &[("p", Attr::Int(1))]), [52.0]);
    let up = [("ceil_mode", Attr::Int(1))];
    assert_eq!(pooled("MaxPool", 12, &up), [13., 14., 16., 17., 22., 23., 25., 26.]);
    assert_eq!(pooled("AveragePool", 11, &up), [6.5, 8.0, 11.0, 12.5, 20.0, 21.5, 24.5, 26.0]);
    let pads = [("pads", Attr::Ints(&[1, 0, 0, 0, 1, 1])), ("count_include_pad", Attr::Int(1))];
    let around = pooled("AveragePool", 11, &pads);
    close(&around[..2], &[(0. + 1. + 3. + 4.) / 8.0, (2. + 5.) / 8.0]);
}

#[test]
fn a_deformable_convolution_without_offsets_is_one() {
    let (x, weights, bias) = (noise(2 * 4 * 6 * 5, 1), noise(4 * 2 * 3 * 2, 2), noise(4, 3));
    let attributes = [
        ("group", Attr::Int(2)),
        ("pads", Attr::Ints(&[1, 0, 1, 1])),
        ("strides", Attr::Ints(&[2, 1])),
        ("dilations", Attr::Ints(&[1, 2])),
    ];
    let (x, weights, bias) =
        (|| f32s(&[2, 4, 6, 5], &x), || f32s(&[4, 2, 3, 2], &weights), || f32s(&[4], &bias));
    let want = f32s_of(computed("Conv", 11, &[x()], &[weights(), bias()], &attributes));
    let still = vec![0.0; 2 * 24 * 3 * 4];
    let of_two = [&attributes[..], &[("offset_group", Attr::Int(2))]].concat();
    let moves = || f32s(&[2, 24, 3, 4], &still);
    close(&f32s_of(computed("DeformConv", 19, &[x(), weights(), moves(), bias()], &[], &of_two)), &want);
    // A mask of halves, and one element down.
    let half = vec![0.5; 6 * 12];
    let moves: Vec<f32> = (0..12).flat_map(|at| [if at % 2 == 0 { 1.0 } else { 0.0 }; 12]).collect();
    let inputs = [
        f32s(&[1, 1, 5, 5], &noise(25, 4)),
        f32s(&[1, 1, 3, 2], &noise(6, 5)),
        f32s(&[1, 12, 3, 4], &moves),
        f32s(&[1], &[0.25]),
        f32s(&[1, 6, 3, 4], &half),
    ];
    let made = f32s_of(computed("DeformConv", 19, &inputs, &[], &[]));
    let plain = f32s_of(computed(
        "Conv",
        11,
        &[f32s(&[1, 1, 5, 5], &noise(25, 4))],
        &[f32s(&[1, 1, 3, 2], &noise(6, 5))],
        &[("pads", Attr::Ints(&[0, 0, 1, 0]))],
    ));
    let want: Vec<f32> = plain[4..].iter().map(|x| x / 2.0 + 0.25).collect();
    close(&made, &want);
}

#[test]
fn none_of_them_runs_on_the_host() {
    let half =
        [("mode", Attr::Text("max")), ("sampling_ratio", Attr::Int(2)), ("output_width", Attr::Int(3))];
    type Row<'a> = (&'a str, i64, Vec<&'a [usize]>, &'a [(&'a str, Attr<'a>)]);
    let table: [Row<'_>; 5] = [
        ("GridSample", 20, vec![&[1, 2, 3, 4], &[1, 5, 6, 2]], &[]),
        ("Det", 22, vec![&[2, 3, 3]], &[]),
        ("Conv", 22, vec![&[1, 2, 3, 4], &[3, 2, 2, 2]], &[]),
        ("ConvTranspose", 22, vec![&[1, 2, 3, 4, 5], &[2, 3, 2, 2, 2]], &[]),
        ("RoiAlign", 22, vec![&[2, 3, 8, 8], &[2, 4]], &half),
    ];
    for (operator, opset, shapes, attributes) in table {
        let mut network = Network::default();
        network.opset(opset);
        let mut names = vec![];
        for (at, dims) in shapes.iter().enumerate() {
            let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
            let name = format!("x{at}");
            network.input(&name, DataType::Float, &dims.iter().map(String::as_str).collect::<Vec<_>>());
            names.push(name);
        }
        if operator == "RoiAlign" {
            names.push(network.integers(&[2], &[1, 0]));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let y = network.node(operator, &names, attributes);
        network.output(&y, DataType::Float, &["K"]);
        let graph = specialise(&network.model(), &shapes).graph;
        let hosted = graph.nodes.iter().any(|node| matches!(node.op, Op::Host(_)));
        assert!(!hosted, "{operator}: {graph}");
    }
}

#[test]
fn windows_are_put_back() {
    let x: Vec<f32> = (1..=8).map(|at| at as f32).collect();
    let made = computed("Col2Im", 18, &[f32s(&[1, 2, 4], &x)], &[i64s(&[1], &[5]), i64s(&[1], &[2])], &[]);
    close(&f32s_of(made), &[1., 2. + 5., 3. + 6., 4. + 7., 8.]);
}
