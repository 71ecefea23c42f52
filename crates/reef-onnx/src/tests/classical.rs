//! Classical models (`ai.onnx.ml`): what their graphs make, against plain evaluations. `tests/oracle`
//! compares more with ONNX Runtime itself.

use reef_graph::{Op, Shape, Tensor};
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network};
use crate::{ImportError, OnnxModel, Specialised};

/// A model of one operator of the domain over a table.
fn network(operator: &str, columns: &str, attributes: &[(&str, Attr)], outputs: usize) -> Network {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["n", columns]);
    let made = network.nodes(operator, &["x"], attributes, outputs);
    network.domain("ai.onnx.ml");
    if outputs == 2 {
        network.output(&made[0], DataType::Int64, &["n"]);
    }
    network.output(&made[outputs - 1], DataType::Float, &["n", "m"]);
    network
}

fn specialise(model: &OnnxModel, dims: [usize; 2]) -> Result<Specialised, ImportError> {
    model.specialise(&[("x", Shape::from(dims))])
}

/// What an operator makes of rows.
fn outputs(operator: &str, attributes: &[(&str, Attr)], count: usize, x: &Tensor) -> Vec<Tensor> {
    let columns = x.shape()[1].to_string();
    let model = network(operator, &columns, attributes, count).model();
    let special = specialise(&model, [x.shape()[0], x.shape()[1]]).expect("it is read");
    let hosted = special.graph.nodes.iter().any(|node| matches!(node.op, Op::Host(_)));
    assert!(!hosted, "{operator}: on the host");
    reef_compile::reference::evaluate(&special.graph, std::slice::from_ref(x)).expect("it has a meaning")
}

fn floats(operator: &str, attributes: &[(&str, Attr)], x: &Tensor) -> Vec<f32> {
    outputs(operator, attributes, 1, x)[0].values::<f32>().to_vec()
}

fn close(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (a, b) in got.iter().zip(expected) {
        let fine = (a - b).abs() <= 2e-6 * b.abs().max(1.0) || a.is_nan() && b.is_nan();
        assert!(fine, "{what}: {got:?} instead of {expected:?}");
    }
}

/// Two trees over two features: a stump, and one with a branch below its root. Their votes, which begin with
/// `vote`, are for targets 0, 1 and 0, 1, 1 unless all are for `only`.
fn trees<'a>(
    vote: &'static [&'static str; 4],
    weights: &'a [f32],
    ids: &'a [i64],
) -> Vec<(&'static str, Attr<'a>)> {
    vec![
        ("nodes_treeids", Attr::Ints(&[0, 0, 0, 1, 1, 1, 1, 1])),
        ("nodes_nodeids", Attr::Ints(&[0, 1, 2, 0, 1, 2, 3, 4])),
        ("nodes_featureids", Attr::Ints(&[0, 0, 0, 1, 0, 0, 0, 0])),
        ("nodes_values", Attr::Floats(&[0.5, 0.0, 0.0, 2.0, -1.0, 0.0, 0.0, 0.0])),
        ("nodes_truenodeids", Attr::Ints(&[1, 0, 0, 4, 2, 0, 0, 0])),
        ("nodes_falsenodeids", Attr::Ints(&[2, 0, 0, 1, 3, 0, 0, 0])),
        (
            "nodes_modes",
            Attr::Texts(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_GT", "BRANCH_LT", "LEAF", "LEAF", "LEAF"]),
        ),
        (vote[0], Attr::Ints(&[0, 0, 1, 1, 1])),
        (vote[1], Attr::Ints(&[1, 2, 2, 3, 4])),
        (vote[2], Attr::Ints(ids)),
        (vote[3], Attr::Floats(weights)),
    ]
}

const TARGETS: &[&str; 4] = &["target_treeids", "target_nodeids", "target_ids", "target_weights"];
const CLASSES: &[&str; 4] = &["class_treeids", "class_nodeids", "class_ids", "class_weights"];

/// Attributes with their names.
type Attributes<'a> = Vec<(&'static str, Attr<'a>)>;

/// The places of the votes that a row gets, as [`trees`] means.
fn votes(row: &[f32]) -> [usize; 2] {
    let first = if row[0] <= 0.5 { 0 } else { 1 };
    let second = match row[1] > 2.0 {
        true => 4,
        false if row[0] < -1.0 => 2,
        false => 3,
    };
    [first, second]
}

fn rows() -> Tensor {
    Tensor::f32([6, 2], &[0.5, 2.0, 0.75, 2.5, -3.0, 0.0, -1.0, f32::NAN, f32::NAN, 9.0, 7.0, -7.0])
}

const WEIGHTS: [f32; 5] = [0.5, -1.25, 2.0, 0.125, -0.75];
const IDS: [i64; 5] = [0, 1, 0, 1, 1];

#[test]
fn trees_add_up_average_and_choose() {
    let x = rows();
    for (how, base) in
        [("SUM", &[][..]), ("SUM", &[1.0, -2.0]), ("AVERAGE", &[1.0, 0.5]), ("MIN", &[]), ("MAX", &[])]
    {
        let mut attributes = trees(TARGETS, &WEIGHTS, &IDS);
        attributes.extend([("n_targets", Attr::Int(2)), ("aggregate_function", Attr::Text(how))]);
        attributes.push(("base_values", Attr::Floats(base)));
        let mut expected = vec![];
        for row in x.values::<f32>().chunks_exact(2) {
            for target in 0..2 {
                let own = votes(row).into_iter().filter(|&vote| IDS[vote] == target as i64);
                let own: Vec<f32> = own.map(|vote| WEIGHTS[vote]).collect();
                let all = match how {
                    "SUM" => own.iter().sum::<f32>(),
                    "AVERAGE" => own.iter().sum::<f32>() / 2.0,
                    "MIN" => own.iter().copied().reduce(f32::min).unwrap_or(0.0),
                    _ => own.iter().copied().reduce(f32::max).unwrap_or(0.0),
                };
                expected.push(all + base.get(target).copied().unwrap_or(0.0));
            }
        }
        close(&floats("TreeEnsembleRegressor", &attributes, &x), &expected, how);
    }
}

#[test]
fn every_test_of_a_branch() {
    let x = Tensor::f32([4, 1], &[0.5, 1.0, 1.5, f32::NAN]);
    type Test = fn(f32) -> bool;
    let tests: [(&str, Test); 6] = [
        ("BRANCH_LEQ", |x| x <= 1.0),
        ("BRANCH_LT", |x| x < 1.0),
        ("BRANCH_GTE", |x| x >= 1.0),
        ("BRANCH_GT", |x| x > 1.0),
        ("BRANCH_EQ", |x| x == 1.0),
        ("BRANCH_NEQ", |x| x != 1.0),
    ];
    for (mode, passes) in tests {
        for missing in [0, 1] {
            let modes = [mode, "LEAF", "LEAF"];
            let attributes = [
                ("nodes_treeids", Attr::Ints(&[0; 3])),
                ("nodes_nodeids", Attr::Ints(&[0, 1, 2])),
                ("nodes_featureids", Attr::Ints(&[0; 3])),
                ("nodes_values", Attr::Floats(&[1.0, 0.0, 0.0])),
                ("nodes_truenodeids", Attr::Ints(&[1, 0, 0])),
                ("nodes_falsenodeids", Attr::Ints(&[2, 0, 0])),
                ("nodes_missing_value_tracks_true", Attr::Ints(&[missing, 0, 0])),
                ("nodes_modes", Attr::Texts(&modes)),
                ("target_treeids", Attr::Ints(&[0, 0])),
                ("target_nodeids", Attr::Ints(&[2, 1])),
                ("target_ids", Attr::Ints(&[0, 0])),
                ("target_weights", Attr::Floats(&[20.0, 10.0])),
            ];
            let expected: Vec<f32> = x
                .values::<f32>()
                .iter()
                .map(|&x| if passes(x) || missing == 1 && x.is_nan() { 10.0 } else { 20.0 })
                .collect();
            assert_eq!(floats("TreeEnsembleRegressor", &attributes, &x), expected, "{mode} {missing}");
        }
    }
}

/// A function of a row of scores, plainly.
fn transformed(how: &str, row: &[f32]) -> Vec<f32> {
    let largest = row.iter().copied().fold(f32::MIN, f32::max);
    match how {
        "LOGISTIC" => row.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        "SOFTMAX" => {
            let sum: f32 = row.iter().map(|x| (x - largest).exp()).sum();
            row.iter().map(|x| (x - largest).exp() / sum).collect()
        }
        "SOFTMAX_ZERO" => {
            let counts = |x: f32| x.abs() > 1e-7;
            let sum: f32 = row.iter().filter(|x| counts(**x)).map(|x| (x - largest).exp()).sum();
            let one = |x: f32| if counts(x) { (x - largest).exp() } else { x * (-largest).exp() };
            row.iter().map(|&x| one(x) / sum).collect()
        }
        "PROBIT" => row.iter().map(|&x| probit(x)).collect(),
        _ => row.to_vec(),
    }
}

fn probit(x: f32) -> f32 {
    let x = 2.0 * x - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let v = 4.330_750_5 + 0.5 * log;
    let root = ((v * v - log / 0.147).sqrt() - v).sqrt();
    std::f32::consts::SQRT_2 * if x < 0.0 { -root } else { root }
}

#[test]
fn scores_of_several_classes() {
    let x = Tensor::f32([3, 2], &[0.4, 0.2, -0.3, 0.1, 0.0, 0.0]);
    // The third class is always 0.25; the first two are the features, of which zeros are left alone by one.
    let weights = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];
    for how in ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"] {
        let attributes = [
            ("coefficients", Attr::Floats(&weights)),
            ("intercepts", Attr::Floats(&[0.0, 0.0, 0.25])),
            ("classlabels_ints", Attr::Ints(&[7, -5, 9])),
            ("post_transform", Attr::Text(how)),
        ];
        let made = outputs("LinearClassifier", &attributes, 2, &x);
        assert_eq!(made[0].values::<i64>(), [7, 9, 9]);
        let scores: Vec<f32> = x.values::<f32>().chunks_exact(2).flat_map(|x| [x[0], x[1], 0.25]).collect();
        let expected: Vec<f32> = scores.chunks_exact(3).flat_map(|row| transformed(how, row)).collect();
        let tolerance = if how == "PROBIT" { 1e-4 } else { 2e-6 };
        for (a, b) in made[1].values::<f32>().iter().zip(&expected) {
            let fine = a == b || (a - b).abs() <= tolerance || a.is_nan() && b.is_nan();
            assert!(fine, "{how}: {:?} instead of {expected:?}", made[1].values::<f32>());
        }
    }
}

#[test]
fn two_classes_with_votes_for_one() {
    let x = rows();
    let sums = |weights: &[f32]| -> Vec<f32> {
        x.values::<f32>().chunks_exact(2).map(|row| votes(row).iter().map(|&v| weights[v]).sum()).collect()
    };
    let (mixed, positive) = (WEIGHTS, [0.1f32, 0.3, 0.0, 0.25, 0.4]);
    for (weights, how) in [(mixed, "NONE"), (mixed, "LOGISTIC"), (positive, "NONE"), (positive, "SOFTMAX")] {
        let mut attributes = trees(CLASSES, &weights, &[0; 5]);
        attributes.extend([("classlabels_int64s", Attr::Ints(&[3, 4])), ("post_transform", Attr::Text(how))]);
        let made = outputs("TreeEnsembleClassifier", &attributes, 2, &x);
        let is_positive = weights == positive;
        let (mut labels, mut scores) = (vec![], vec![]);
        for s in sums(&weights) {
            labels.push(if s > if is_positive { 0.5 } else { 0.0 } { 4 } else { 3 });
            let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
            scores.extend(match how {
                "LOGISTIC" => [sigmoid(-s), sigmoid(s)],
                _ if is_positive => [1.0 - s, s],
                _ => [-s, s],
            });
        }
        assert_eq!(made[0].values::<i64>(), labels, "{how}");
        close(made[1].values::<f32>(), &scores, how);
    }
}

#[test]
fn the_class_with_the_most_votes() {
    let x = rows();
    let weights = [0.5, -1.25, -2.0, 0.125, -0.75];
    let ids = [0, 1, 2, 1, 2];
    let mut attributes = trees(CLASSES, &weights, &ids);
    attributes.push(("classlabels_int64s", Attr::Ints(&[10, 20, 30])));
    let made = outputs("TreeEnsembleClassifier", &attributes, 2, &x);
    let (mut labels, mut scores) = (vec![], vec![]);
    for row in x.values::<f32>().chunks_exact(2) {
        let mut own = [None; 3];
        for vote in votes(row) {
            let class: &mut Option<f32> = &mut own[ids[vote] as usize];
            *class = Some(class.unwrap_or(0.0) + weights[vote]);
        }
        // A class without votes is not chosen, though others have less than nothing.
        let best =
            (0..3).filter(|&class| own[class].is_some()).fold(
                None,
                |best: Option<usize>, class| match best {
                    Some(best) if own[best] >= own[class] => Some(best),
                    _ => Some(class),
                },
            );
        labels.push([10, 20, 30][best.unwrap()]);
        scores.extend(own.map(|score| score.unwrap_or(0.0)));
    }
    assert_eq!(made[0].values::<i64>(), labels);
    close(made[1].values::<f32>(), &scores, "votes");
}

#[test]
fn tables_are_prepared() {
    let x = Tensor::f32([2, 3], &[3.0, -4.0, 0.0, f32::NAN, 2.0, 0.5]);
    let y = |operator: &str, attributes: &[(&str, Attr)]| floats(operator, attributes, &x);
    let scaler = [("offset", Attr::Floats(&[1.0, 2.0, 3.0])), ("scale", Attr::Floats(&[2.0]))];
    close(&y("Scaler", &scaler), &[4.0, -12.0, -6.0, f32::NAN, 0.0, -5.0], "Scaler");
    let imputer = |gone: f32| {
        let fills = Attr::Floats(&[10.0, 20.0, 30.0]);
        y("Imputer", &[("imputed_value_floats", fills), ("replaced_value_float", Attr::Float(gone))])
    };
    close(&imputer(f32::NAN), &[3.0, -4.0, 0.0, 10.0, 2.0, 0.5], "Imputer");
    close(&imputer(0.0), &[3.0, -4.0, 30.0, f32::NAN, 2.0, 0.5], "Imputer");
    close(&y("Binarizer", &[("threshold", Attr::Float(0.5))]), &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "Binarizer");
    let keys = [
        ("keys_floats", Attr::Floats(&[2.0, f32::NAN, 2.0])),
        ("values_floats", Attr::Floats(&[7.0, 8.0, 9.0])),
    ];
    close(&y("LabelEncoder", &keys), &[0.0, 0.0, 0.0, 8.0, 7.0, 0.0], "LabelEncoder");
    let x = Tensor::f32([3, 2], &[3.0, -4.0, 0.0, 0.0, -2.0, 1.0]);
    let norm = |norm: &str| floats("Normalizer", &[("norm", Attr::Text(norm))], &x);
    close(&norm("MAX"), &[1.0, -4.0 / 3.0, 0.0, 0.0, -2.0, 1.0], "MAX");
    close(&norm("L1"), &[3.0 / 7.0, -4.0 / 7.0, 0.0, 0.0, -2.0 / 3.0, 1.0 / 3.0], "L1");
    let fifth = 5f32.sqrt();
    close(&norm("L2"), &[0.6, -0.8, 0.0, 0.0, -2.0 / fifth, 1.0 / fifth], "L2");
}

#[test]
fn what_is_not_computed_is_named() {
    let refusal = |network: Network| {
        let model = OnnxModel::from_bytes(&network.bytes());
        match model.and_then(|model| specialise(&model, [3, 2])) {
            Ok(_) => panic!("it is taken"),
            Err(error) => error.to_string(),
        }
    };
    let contains = |network: Network, what: &str| {
        let reason = refusal(network);
        assert!(reason.contains(what), "{reason}");
    };
    let classes = [("classlabels_int64s", Attr::Ints(&[0, 1, 2]))];
    contains(network("ZipMap", "2", &classes, 1), "2 columns for 3 classes");
    contains(network("LabelEncoder", "2", &[("classes_strings", Attr::Texts(&["a"]))], 1), "classes_strings");
    let regressor = |change: &dyn Fn(&mut Attributes)| {
        let mut attributes = trees(TARGETS, &WEIGHTS, &IDS);
        attributes.push(("n_targets", Attr::Int(2)));
        change(&mut attributes);
        network("TreeEnsembleRegressor", "2", &attributes, 1)
    };
    contains(
        regressor(&|list| list[2].1 = Attr::Ints(&[0, 0, 0, 2, 0, 0, 0, 0])),
        "a feature that there is not",
    );
    contains(
        regressor(&|list| list[4].1 = Attr::Ints(&[1, 0, 0, 2, 2, 0, 0, 0])),
        "tree 1 has two first nodes",
    );
    contains(regressor(&|list| list[4].1 = Attr::Ints(&[9, 0, 0, 4, 2, 0, 0, 0])), "tree 0 has no node 9");
    contains(regressor(&|list| list[1].1 = Attr::Ints(&[0, 1, 1, 0, 1, 2, 3, 4])), "given twice");
    contains(regressor(&|list| list[4].1 = Attr::Ints(&[1, 0, 0, 4, 0, 0, 0, 0])), "on no way from a first");
    contains(regressor(&|list| list[5].1 = Attr::Ints(&[2, 0, 0, 1, 1, 0, 0, 0])), "two first nodes");
    contains(regressor(&|list| list[9].1 = Attr::Ints(&[0, 1, 0, 1, 2])), "a target that there is not");
}

#[test]
fn trees_are_read_once_for_all_shapes() {
    let mut attributes = trees(TARGETS, &WEIGHTS, &IDS);
    attributes.push(("n_targets", Attr::Int(2)));
    let model = network("TreeEnsembleRegressor", "2", &attributes, 1).model();
    let nodes = |rows: usize| {
        let special = specialise(&model, [rows, 2]).expect("it is read");
        let trees = special.graph.nodes.iter().find(|node| matches!(node.op, Op::TreeEnsemble(_))).unwrap();
        assert_eq!(special.graph.value(trees.outputs[0]).shape, Shape::from([rows, 2]));
        special.graph.constant(trees.inputs[1]).unwrap().key()
    };
    assert_eq!(nodes(1), nodes(5));
}

/// Machines of three classes over two columns, with a vector for each of two classes and two for the third.
const VECTORS: [f32; 8] = [1.0, 0.0, 0.0, 1.0, -1.0, 0.5, 0.25, -1.0];
const DUALS: [f32; 8] = [0.5, -1.0, 0.75, -0.25, 1.5, 0.5, -0.5, -1.0];

fn machine(kernel: &'static str) -> Attributes<'static> {
    vec![
        ("kernel_type", Attr::Text(kernel)),
        ("kernel_params", Attr::Floats(&[0.5, 0.25, 2.0])),
        ("support_vectors", Attr::Floats(&VECTORS)),
        ("coefficients", Attr::Floats(&DUALS)),
        ("vectors_per_class", Attr::Ints(&[1, 1, 2])),
        ("rho", Attr::Floats(&[0.1, -0.2, 0.05])),
    ]
}

/// Scores of the pairs of classes of [`machine`].
fn pair_scores(kernel: &str, row: &[f32]) -> Vec<f32> {
    let like = |vector: &[f32]| {
        let product: f32 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
        let away: f32 = row.iter().zip(vector).map(|(a, b)| (a - b) * (a - b)).sum();
        match kernel {
            "LINEAR" => product,
            "POLY" => (0.5 * product + 0.25).powi(2),
            "RBF" => (-0.5 * away).exp(),
            _ => (0.5 * product + 0.25).tanh(),
        }
    };
    let likeness: Vec<f32> = VECTORS.chunks_exact(2).map(like).collect();
    let ranges = [0..1, 1..2, 2..4];
    let of = |own: usize, against: usize| -> f32 {
        let at = if against > own { against - 1 } else { against };
        ranges[own].clone().map(|vector| DUALS[at * 4 + vector] * likeness[vector]).sum()
    };
    let pairs = [(0, 1), (0, 2), (1, 2)];
    let shift = [0.1, -0.2, 0.05];
    pairs.iter().zip(shift).map(|(&(i, j), shift)| of(i, j) + of(j, i) + shift).collect()
}

#[test]
fn support_vectors_vote() {
    let x = Tensor::f32([4, 2], &[1.0, 2.0, -0.5, 0.75, 0.0, 0.0, -3.0, 1.5]);
    for kernel in ["LINEAR", "POLY", "RBF", "SIGMOID"] {
        let mut attributes = machine(kernel);
        attributes.push(("classlabels_ints", Attr::Ints(&[5, 7, 9])));
        let made = outputs("SVMClassifier", &attributes, 2, &x);
        let rows: Vec<Vec<f32>> =
            x.values::<f32>().chunks_exact(2).map(|row| pair_scores(kernel, row)).collect();
        let label = |scores: &Vec<f32>| {
            let mut votes = [0; 3];
            for (score, (first, second)) in scores.iter().zip([(0, 1), (0, 2), (1, 2)]) {
                votes[if *score > 0.0 { first } else { second }] += 1;
            }
            let most = votes.iter().max().unwrap();
            [5, 7, 9][votes.iter().position(|vote| vote == most).unwrap()]
        };
        assert_eq!(made[0].values::<i64>(), rows.iter().map(label).collect::<Vec<_>>(), "{kernel}");
        close(made[1].values::<f32>(), &rows.concat(), kernel);
    }
}

#[test]
fn machines_that_do_not_fit_are_refused() {
    let refused = |change: &dyn Fn(&mut Attributes), reason: &str| {
        let mut attributes = machine("RBF");
        attributes.push(("classlabels_ints", Attr::Ints(&[5, 7, 9])));
        change(&mut attributes);
        let model = network("SVMClassifier", "2", &attributes, 2).model();
        let error = specialise(&model, [3, 2]).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    };
    refused(&|list| list[4].1 = Attr::Ints(&[1, 1, 3]), "8 numbers for 5 vectors");
    refused(&|list| list[4].1 = Attr::Ints(&[1, -1, 4]), "are no counts");
    refused(&|list| list[4].1 = Attr::Ints(&[i64::MAX, i64::MAX, i64::MAX]), "are no counts");
    refused(&|list| list[4].1 = Attr::Ints(&[2, 2]), "vectors of 2 classes, and 3 labels");
    refused(&|list| list[5].1 = Attr::Floats(&[0.0]), "rho has 1 numbers for 3 pairs");
    refused(&|list| list[3].1 = Attr::Floats(&[0.0; 4]), "4 coefficients for 4 vectors");
    refused(&|list| list.push(("prob_a", Attr::Floats(&[1.0]))), "1 and 0 numbers for 3 pairs");
    refused(&|list| list[6].1 = Attr::Ints(&[]), "names no classes");
}

#[test]
fn maps_are_given_as_their_table() {
    let x = Tensor::f32([2, 2], &[0.25, 0.75, 1.0, 0.0]);
    let made = floats("ZipMap", &[("classlabels_strings", Attr::Texts(&["no", "yes"]))], &x);
    assert_eq!(made, [0.25, 0.75, 1.0, 0.0]);
}
