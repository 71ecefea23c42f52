//! Decision trees as files have them, as the arrays of [`Forest`](reef_graph::Forest): every tree's nodes
//! one after the other, those below a node behind it.

use std::collections::{HashMap, HashSet};

use reef_graph::trees::{LEAF, MISSING, NODE_WORDS};
use reef_graph::{DType, Shape, Tensor};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, TensorProto};

use super::super::attributes::Node;
use super::super::{Reject, wrong};

/// The number of [`reef_graph::trees::Test::Equal`].
const EQUAL: i32 = 4;

/// A node as a file has it.
#[derive(Clone, Debug)]
enum Source {
    /// Passes if the test holds of one of the values; the nodes on either side.
    Branch { test: i32, feature: i32, values: Vec<f32>, sides: [usize; 2] },
    /// Votes, by their places.
    Leaf(std::ops::Range<usize>),
}

/// Trees in arrays.
#[derive(Debug, Default)]
pub(super) struct Arrays {
    nodes: Vec<i32>,
    roots: Vec<i32>,
    targets: Vec<i32>,
    weights: Vec<f32>,
}

impl Arrays {
    /// Nodes, roots, targets and weights.
    pub fn tensors(&self) -> [Tensor; 4] {
        let words = |words: &[i32]| Tensor::from_slice(DType::I32, Shape::from([words.len()]), words);
        let weights = Tensor::f32([self.weights.len()], &self.weights);
        [words(&self.nodes), words(&self.roots), words(&self.targets), weights]
    }

    /// Lays out the trees that begin at `roots`.
    fn lay(
        sources: &[Source],
        roots: &[usize],
        targets: Vec<i32>,
        weights: Vec<f32>,
    ) -> Result<Arrays, Reject> {
        let mut made = Arrays { targets, weights, ..Arrays::default() };
        if made.weights.is_empty() {
            // No array is empty; nobody reads this.
            (made.targets, made.weights) = (vec![0], vec![0.0]);
        }
        let mut seen = vec![false; sources.len()];
        for &root in roots {
            made.roots.push((made.nodes.len() / NODE_WORDS) as i32);
            // A node, and the words that are to be its place: one, or one for each node of a chain.
            let mut open = vec![(root, 0, 0)];
            while let Some((at, word, times)) = open.pop() {
                let place = (made.nodes.len() / NODE_WORDS) as i32;
                (0..times).for_each(|turn| made.nodes[word + turn * NODE_WORDS] = place);
                let Some(source) = sources.get(at) else {
                    return wrong(format!("a node of its trees is number {at} of {}", sources.len()));
                };
                match source {
                    Source::Leaf(votes) => {
                        made.nodes.extend([LEAF, 0, 0, votes.start as i32, votes.len() as i32]);
                    }
                    Source::Branch { test, feature, values, sides: [yes, no] } => {
                        if std::mem::replace(&mut seen[at], true) {
                            return wrong("two ways lead to one node of its trees");
                        }
                        let first = made.nodes.len();
                        for (turn, value) in values.iter().enumerate() {
                            let next = place + turn as i32 + 1;
                            made.nodes.extend([*test, *feature, value.to_bits() as i32, 0, next]);
                        }
                        open.push((*yes, first + 3, values.len()));
                        open.push((*no, made.nodes.len() - 1, 1));
                    }
                }
                if made.nodes.len() > i32::MAX as usize {
                    return wrong("its trees have more nodes than 32 bits can count");
                }
            }
        }
        let lost = |(source, seen): (&Source, &bool)| matches!(source, Source::Branch { .. }) && !seen;
        if sources.iter().zip(&seen).any(lost) {
            return wrong("some nodes of its trees are on no way from a first node");
        }
        match made.roots.is_empty() {
            true => wrong("it has no trees"),
            false => Ok(made),
        }
    }

    /// Of the votes of a `TreeEnsembleRegressor` or `TreeEnsembleClassifier`, whose names begin with `vote`.
    /// With `steps`, what is compared with are codes of them.
    pub fn of_lists(node: &Node, vote: &str, steps: Option<&Steps>) -> Result<Arrays, Reject> {
        let ids = node.ints("nodes_nodeids").unwrap_or(&[]);
        let list = |name: &str| -> Result<&[i64], Reject> {
            let list = node.ints(name).unwrap_or(&[]);
            same(name, list.len(), ids.len()).map(|()| list)
        };
        let (trees, features) = (list("nodes_treeids")?, list("nodes_featureids")?);
        let sides = [list("nodes_truenodeids")?, list("nodes_falsenodeids")?];
        let missing: &[i64] = match node.ints("nodes_missing_value_tracks_true").unwrap_or(&[]) {
            [] => &[],
            _ => list("nodes_missing_value_tracks_true")?,
        };
        let values = doubles(node, "nodes_values", steps.is_some())?;
        same("nodes_values", values.len(), ids.len())?;
        let modes: &[Vec<u8>] = node.attribute("nodes_modes").map_or(&[][..], |modes| &modes.strings);
        same("nodes_modes", modes.len(), ids.len())?;
        let mut places = HashMap::with_capacity(ids.len());
        for (at, (&tree, &id)) in trees.iter().zip(ids).enumerate() {
            if places.insert((tree, id), at).is_some() {
                return wrong(format!("node {id} of tree {tree} is given twice"));
            }
        }
        let place = |tree: i64, id: i64| {
            let lost = || Reject::Wrong(format!("tree {tree} has no node {id}"));
            places.get(&(tree, id)).copied().ok_or_else(lost)
        };
        let votes = Votes::of(node, vote, steps.is_some(), &place)?;
        let mut is_root = vec![true; ids.len()];
        let mut sources = Vec::with_capacity(ids.len());
        for at in 0..ids.len() {
            let Some(test) = test_of(&modes[at])? else {
                sources.push(Source::Leaf(votes.of_node(at)));
                continue;
            };
            let below = [place(trees[at], sides[0][at])?, place(trees[at], sides[1][at])?];
            below.iter().for_each(|&below| is_root[below] = false);
            let test = test + if missing.get(at).is_some_and(|&missing| missing != 0) { MISSING } else { 0 };
            let feature = feature(features[at])?;
            let value = steps.map_or(values[at] as f32, |steps| steps.code(feature as usize, values[at]));
            sources.push(Source::Branch { test, feature, values: vec![value], sides: below });
        }
        let roots: Vec<usize> = (0..ids.len()).filter(|&at| is_root[at]).collect();
        let mut begun = HashSet::new();
        if let Some(&twice) = roots.iter().find(|&&root| !begun.insert(trees[root])) {
            return wrong(format!("tree {} has two first nodes", trees[twice]));
        }
        Arrays::lay(&sources, &roots, votes.targets, votes.weights)
    }

    /// Of a `TreeEnsemble`.
    pub fn of_tensors(node: &Node) -> Result<Arrays, Reject> {
        let features = node.ints("nodes_featureids").unwrap_or(&[]);
        let list = |name: &str| -> Result<&[i64], Reject> {
            let list = node.ints(name).unwrap_or(&[]);
            same(name, list.len(), features.len()).map(|()| list)
        };
        let sides = [list("nodes_truenodeids")?, list("nodes_falsenodeids")?];
        let leaves = [list("nodes_trueleafs")?, list("nodes_falseleafs")?];
        let missing: &[i64] = match node.ints("nodes_missing_value_tracks_true").unwrap_or(&[]) {
            [] => &[],
            _ => list("nodes_missing_value_tracks_true")?,
        };
        let values = floats_of(node.attribute("nodes_splits"), "nodes_splits")?;
        same("nodes_splits", values.len(), features.len())?;
        let modes = modes(node)?;
        same("nodes_modes", modes.len(), features.len())?;
        let members = floats_of(node.attribute("membership_values"), "membership_values")?;
        let mut sets = members.split(|value| value.is_nan());
        let weights = floats_of(node.attribute("leaf_weights"), "leaf_weights")?;
        let targets = node.ints("leaf_targetids").unwrap_or(&[]);
        same("leaf_targetids", targets.len(), weights.len())?;
        let mut sources = vec![];
        for at in 0..features.len() {
            let side = |side: usize| {
                let (place, leaf) = (sides[side][at], leaves[side][at] != 0);
                let count = if leaf { weights.len() } else { features.len() };
                let inside = usize::try_from(place).ok().filter(|&place| place < count);
                let lost = || Reject::Wrong(format!("there is no {place} below node {at} of its trees"));
                inside.map(|place| if leaf { features.len() + place } else { place }).ok_or_else(lost)
            };
            let (test, values) = match modes[at] {
                6 => match sets.next().unwrap_or(&[]) {
                    [] => (EQUAL, vec![f32::NAN]),
                    set => (EQUAL, set.to_vec()),
                },
                test @ 0..6 => (i32::from(test), vec![values[at]]),
                other => return wrong(format!("the mode {other} of a node is not known")),
            };
            let test = test + if missing.get(at).is_some_and(|&missing| missing != 0) { MISSING } else { 0 };
            let feature = feature(features[at])?;
            sources.push(Source::Branch { test, feature, values, sides: [side(0)?, side(1)?] });
        }
        sources.extend((0..weights.len()).map(|vote| Source::Leaf(vote..vote + 1)));
        let roots: Option<Vec<usize>> = node
            .ints("tree_roots")
            .unwrap_or(&[])
            .iter()
            .map(|&root| usize::try_from(root).ok().filter(|&root| root < features.len()))
            .collect();
        let roots = roots.ok_or_else(|| Reject::Wrong("a root of its trees is no node".into()))?;
        Arrays::lay(&sources, &roots, targets.iter().map(|&target| word(target)).collect(), weights)
    }
}

/// What trees compare features in double precision with: the values of every feature, ascending. A feature
/// becomes a code, twice the number of values below it and one more if it is the next one; a value is the
/// code of what equals it. So codes compare as what they stand for does, and trees of floats do.
#[derive(Debug)]
pub(super) struct Steps(Vec<Vec<f64>>);

impl Steps {
    /// Of rows of so many features.
    pub fn of_lists(node: &Node, features: usize) -> Result<Steps, Reject> {
        let (values, ids) =
            (doubles(node, "nodes_values", true)?, node.ints("nodes_featureids").unwrap_or(&[]));
        same("nodes_featureids", ids.len(), values.len())?;
        let modes: &[Vec<u8>] = node.attribute("nodes_modes").map_or(&[][..], |modes| &modes.strings);
        same("nodes_modes", modes.len(), values.len())?;
        let mut steps = vec![vec![]; features];
        for ((&value, &id), mode) in values.iter().zip(ids).zip(modes) {
            if test_of(mode)?.is_none() || value.is_nan() {
                continue;
            }
            let place = feature(id)? as usize;
            let own = steps.get_mut(place);
            own.ok_or_else(|| Reject::Wrong(format!("feature {place} of rows of {features}")))?.push(value);
        }
        for own in &mut steps {
            own.sort_by(f64::total_cmp);
            own.dedup_by(|a, b| a == b);
        }
        Ok(Steps(steps))
    }

    fn code(&self, feature: usize, value: f64) -> f32 {
        match value.is_nan() {
            true => f32::NAN,
            false => (2 * self.0[feature].partition_point(|&step| step < value) + 1) as f32,
        }
    }

    /// The values, `[features, …]`; behind those of a feature there are NaNs, which compare with nothing.
    pub fn table(&self) -> Tensor {
        let most = self.0.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let row = |own: &Vec<f64>| [&own[..], &vec![f64::NAN; most - own.len()]].concat();
        let all: Vec<f64> = self.0.iter().flat_map(row).collect();
        Tensor::from_slice(DType::F64, Shape::from([self.0.len(), most]), &all)
    }
}

/// Votes, those of a leaf one after the other.
struct Votes {
    targets: Vec<i32>,
    weights: Vec<f32>,
    /// The node of every vote, ascending.
    owners: Vec<usize>,
}

impl Votes {
    fn of(
        node: &Node,
        vote: &str,
        wide: bool,
        place: &dyn Fn(i64, i64) -> Result<usize, Reject>,
    ) -> Result<Votes, Reject> {
        let list = |what: &str| node.ints(&format!("{vote}_{what}")).unwrap_or(&[]);
        let (ids, nodes, trees) = (list("ids"), list("nodeids"), list("treeids"));
        let weights = floats(node, &format!("{vote}_weights"), wide)?;
        for (what, count) in [("ids", ids.len()), ("nodeids", nodes.len()), ("treeids", trees.len())] {
            same(&format!("{vote}_{what}"), count, weights.len())?;
        }
        let mut order = vec![];
        for (at, (&tree, &id)) in trees.iter().zip(nodes).enumerate() {
            order.push((place(tree, id)?, at));
        }
        order.sort_unstable();
        Ok(Votes {
            targets: order.iter().map(|&(_, at)| word(ids[at])).collect(),
            weights: order.iter().map(|&(_, at)| weights[at]).collect(),
            owners: order.iter().map(|&(owner, _)| owner).collect(),
        })
    }

    fn of_node(&self, node: usize) -> std::ops::Range<usize> {
        self.owners.partition_point(|&owner| owner < node)
            ..self.owners.partition_point(|&owner| owner <= node)
    }
}

/// A number of a target; one that no array has if it is out of range.
fn word(target: i64) -> i32 {
    i32::try_from(target).unwrap_or(-1)
}

fn feature(feature: i64) -> Result<i32, Reject> {
    let word = i32::try_from(feature).ok().filter(|&feature| feature >= 0);
    word.ok_or_else(|| Reject::Wrong(format!("a node asks for feature {feature}")))
}

fn same(what: &str, count: usize, needed: usize) -> Result<(), Reject> {
    match count == needed {
        true => Ok(()),
        false => wrong(format!("{what} has {count} entries, {needed} are needed")),
    }
}

/// The number of a branch's test; none of a leaf.
fn test_of(mode: &[u8]) -> Result<Option<i32>, Reject> {
    let modes: [&[u8]; 6] =
        [b"BRANCH_LEQ", b"BRANCH_LT", b"BRANCH_GTE", b"BRANCH_GT", b"BRANCH_EQ", b"BRANCH_NEQ"];
    match modes.iter().position(|&known| known == mode) {
        Some(test) => Ok(Some(test as i32)),
        None if mode == b"LEAF" => Ok(None),
        None => wrong(format!("the mode `{}` of a node is not known", String::from_utf8_lossy(mode))),
    }
}

fn modes(node: &Node) -> Result<Vec<u8>, Reject> {
    let tensor = node.attribute("nodes_modes").and_then(|attribute| attribute.t.as_ref());
    match tensor {
        Some(tensor) if tensor.data_type == DataType::Uint8 as i32 => Ok(match &tensor.raw_data[..] {
            [] => tensor.int32_data.iter().map(|&mode| mode as u8).collect(),
            raw => raw.to_vec(),
        }),
        _ => wrong("nodes_modes is no tensor of bytes"),
    }
}

/// Numbers that are a list, or a tensor under the name with `_as_tensor`, which may be in double precision if
/// it is `wide`.
pub(super) fn floats(node: &Node, name: &str, wide: bool) -> Result<Vec<f32>, Reject> {
    Ok(doubles(node, name, wide)?.into_iter().map(|value| value as f32).collect())
}

/// The same as they are.
fn doubles(node: &Node, name: &str, wide: bool) -> Result<Vec<f64>, Reject> {
    match node.attribute(name) {
        Some(list) if !list.floats.is_empty() => Ok(list.floats.iter().map(|&value| value.into()).collect()),
        _ => doubles_of(node.attribute(&format!("{name}_as_tensor")), name, wide),
    }
}

/// The elements of an attribute that is a tensor of single precision; none if it is left out.
fn floats_of(attribute: Option<&AttributeProto>, name: &str) -> Result<Vec<f32>, Reject> {
    Ok(doubles_of(attribute, name, false)?.into_iter().map(|value| value as f32).collect())
}

fn doubles_of(attribute: Option<&AttributeProto>, name: &str, wide: bool) -> Result<Vec<f64>, Reject> {
    let Some(tensor) = attribute.and_then(|attribute| attribute.t.as_ref()) else { return Ok(vec![]) };
    let TensorProto { raw_data, float_data, double_data, data_type, .. } = tensor;
    let single = |bytes: &[u8]| f64::from(f32::from_le_bytes(bytes.try_into().expect("an element's bytes")));
    let double = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("an element's bytes"));
    match (*data_type, raw_data.is_empty()) {
        (kind, empty) if kind == DataType::Double as i32 && wide => {
            Ok(if empty { double_data.clone() } else { raw_data.chunks_exact(8).map(double).collect() })
        }
        (kind, _) if kind == DataType::Double as i32 => {
            wrong(format!("{name} is in double precision, and its input is not"))
        }
        (kind, true) if kind == DataType::Float as i32 => {
            Ok(float_data.iter().map(|&value| value.into()).collect())
        }
        (kind, false) if kind == DataType::Float as i32 => Ok(raw_data.chunks_exact(4).map(single).collect()),
        _ => wrong(format!("{name} is no tensor of floats")),
    }
}
