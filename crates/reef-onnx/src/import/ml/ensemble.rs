//! Ensembles of decision trees. Where ONNX leaves something open, it is as ONNX Runtime has it.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use reef_graph::trees::{LEAF, NODE_WORDS};
use reef_graph::{Aggregate, Binary, DType, Op, Reduce, Shape, Tensor, Unary, ValueId};

use super::super::attributes::Node;
use super::super::{Builder, Reject, wrong};
use super::forest::{self, Arrays, Steps};
use super::scores::{self, Transform};
use super::{grid, table};

/// The constants of a node's trees: nodes, roots, targets, weights.
fn constants(
    b: &mut Builder,
    name: &str,
    read: impl Fn() -> Result<Arrays, Reject>,
) -> Result<[Tensor; 4], Reject> {
    let made: OnceCell<[Tensor; 4]> = OnceCell::new();
    let part = |part: usize| match made.get() {
        Some(tensors) => Ok::<Tensor, Reject>(tensors[part].clone()),
        None => {
            let tensors = read()?.tensors();
            Ok(made.get_or_init(|| tensors)[part].clone())
        }
    };
    let mut all = vec![];
    for (at, what) in ["nodes", "roots", "targets", "weights"].iter().enumerate() {
        all.push(b.shared(format!("trees {name} {what}"), || part(at))?);
    }
    Ok(all.try_into().expect("there are four"))
}

/// Rows through trees; the scores of so many targets.
fn trees(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    tensors: &[Tensor; 4],
    (aggregate, targets): (Aggregate, usize),
) -> Result<ValueId, Reject> {
    let shape = b.shape(x);
    let forest = reef_graph::Forest {
        nodes: tensors[0].values(),
        roots: tensors[1].values(),
        targets: tensors[2].values(),
        weights: tensors[3].values(),
    };
    if let Some(flaw) = forest.flaw(shape[1], targets) {
        return wrong(format!("{flaw}: rows have {} features, there are {targets} targets", shape[1]));
    }
    let mut operands = vec![x];
    operands.extend(tensors.iter().map(|tensor| b.constant("", tensor.clone())));
    b.add(name, Op::TreeEnsemble(aggregate), &operands, DType::F32, Shape::from([shape[0], targets]))
}

/// Elements that are compared at once to make codes of features in double precision.
const COMPARED_MAX: usize = 1 << 24;

/// The rows of a node, or, in double precision, codes of their features and what these are made of.
fn rows(b: &mut Builder, node: &Node) -> Result<(ValueId, Option<Steps>), Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    if b.dtype(x) != DType::F64 {
        return Ok((table(b, name, x)?, None));
    }
    let x = grid(b, name, x)?;
    let (rows, features) = (b.shape(x)[0], b.shape(x)[1]);
    let steps = Steps::of_lists(node, features)?;
    let values = steps.table();
    if rows.saturating_mul(values.shape().elements()) > COMPARED_MAX {
        return wrong(format!(
            "{rows} rows by trees with {} values in double precision: fewer rows are needed, or floats",
            values.shape().elements()
        ));
    }
    let values = b.constant("", values);
    let apart = b.reshape(name, x, Shape::from([rows, features, 1]))?;
    let below = b.binary(name, Binary::Less, values, apart)?;
    let reached = b.binary(name, Binary::LessEqual, values, apart)?;
    let (below, reached) = (b.cast(name, below, DType::I32)?, b.cast(name, reached, DType::I32)?);
    let both = b.binary(name, Binary::Add, below, reached)?;
    let codes = b.reduce(name, Reduce::Sum, &[2], both)?;
    let codes = b.reshape(name, codes, Shape::from([rows, features]))?;
    let codes = b.cast(name, codes, DType::F32)?;
    // No number stays none.
    let (number, none) = (b.binary(name, Binary::Equal, x, x)?, b.scalar(DType::F32, f64::NAN));
    Ok((b.choose(name, number, codes, none)?, Some(steps)))
}

fn targets_of(node: &Node) -> Result<usize, Reject> {
    let targets = node.int("n_targets", 1);
    usize::try_from(targets)
        .ok()
        .filter(|&targets| targets > 0)
        .map_or_else(|| wrong(format!("n_targets is {targets}")), Ok)
}

fn finished(b: &mut Builder, node: &Node, scores: ValueId, base: &[f32]) -> Result<ValueId, Reject> {
    let (name, targets) = (node.name(), b.shape(scores)[1]);
    let scores = match base.len() {
        0 => scores,
        count if count == targets => {
            let base = scores::row(b, base);
            b.binary(name, Binary::Add, scores, base)?
        }
        count => return wrong(format!("base_values has {count} entries for {targets} targets")),
    };
    Transform::of(node)?.apply(b, name, scores)
}

pub(super) fn regressor(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let aggregate = match node.text("aggregate_function").unwrap_or("SUM") {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return wrong(format!("aggregate_function `{other}` is not known")),
    };
    let (name, (x, steps), targets) = (node.name(), rows(b, node)?, targets_of(node)?);
    let tensors = constants(b, name, || Arrays::of_lists(node, "target", steps.as_ref()))?;
    let scores = trees(b, name, x, &tensors, (aggregate, targets))?;
    finished(b, node, scores, &forest::floats(node, "base_values", steps.is_some())?)
}

pub(super) fn ensemble(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let aggregate = match node.int("aggregate_function", 1) {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        other => return wrong(format!("aggregate_function {other} is not known")),
    };
    let (name, x, targets) = (node.name(), node.input(0)?, targets_of(node)?);
    if b.dtype(x) == DType::F64 {
        return wrong("votes are not added in double precision: export the model for floats");
    }
    let x = table(b, name, x)?;
    let tensors = constants(b, name, || Arrays::of_tensors(node))?;
    let scores = trees(b, name, x, &tensors, (aggregate, targets))?;
    finished(b, node, scores, &[])
}

/// Whether a class has a vote.
#[derive(Clone, Copy)]
enum Voted {
    Always,
    Never,
    /// A boolean of every row, `[rows, 1]`.
    Maybe(ValueId),
}

pub(super) fn classifier(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (name, (x, steps)) = (node.name(), rows(b, node)?);
    let labels = scores::labels(node, "classlabels_int64s")?;
    let classes = labels.len();
    let tensors = constants(b, name, || Arrays::of_lists(node, "class", steps.as_ref()))?;
    let raw = trees(b, name, x, &tensors, (Aggregate::Sum, classes))?;
    let base = forest::floats(node, "base_values", steps.is_some())?;
    if base.len() > classes {
        return wrong(format!("base_values has {} entries for {classes} classes", base.len()));
    }
    match classes {
        1 => wrong("it has one class"),
        2 => Binary2 { node, labels: [labels[0], labels[1]], tensors: &tensors, x }.classify(b, raw, &base),
        _ => {
            let mut padded = base.clone();
            padded.resize(classes, 0.0);
            let padded = scores::row(b, &padded);
            let sums = if base.is_empty() { raw } else { b.binary(name, Binary::Add, raw, padded)? };
            let compared = with_votes(b, name, x, &tensors, sums, base.len())?;
            let places = scores::first_largest(b, name, compared)?;
            let label = scores::label(b, name, places, labels)?;
            Ok(vec![label, Transform::of(node)?.apply(b, name, sums)?])
        }
    }
}

/// Scores in which a class without votes is behind all others; the first `based` classes have one.
fn with_votes(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    tensors: &[Tensor; 4],
    scores: ValueId,
    based: usize,
) -> Result<ValueId, Reject> {
    let classes = b.shape(scores)[1];
    let always = always_voted(tensors);
    if (based..classes).all(|class| always.contains(&(class as i32))) {
        return Ok(scores);
    }
    let counts = counts(b, name, x, tensors, classes)?;
    let base: Vec<f32> = (0..classes).map(|class| if class < based { 1.0 } else { 0.0 }).collect();
    let (base, zero) = (scores::row(b, &base), b.scalar(DType::F32, 0.0));
    let counts = b.binary(name, Binary::Add, counts, base)?;
    let voted = b.binary(name, Binary::Greater, counts, zero)?;
    let behind = b.scalar(DType::F32, f64::NEG_INFINITY);
    b.choose(name, voted, scores, behind)
}

/// How many votes every class has.
fn counts(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    tensors: &[Tensor; 4],
    classes: usize,
) -> Result<ValueId, Reject> {
    let ones = Tensor::f32(tensors[3].shape().clone(), &vec![1.0; tensors[3].shape().elements()]);
    let [nodes, roots, targets, _] = tensors.clone();
    trees(b, name, x, &[nodes, roots, targets, ones], (Aggregate::Sum, classes))
}

/// Classes that every leaf of some tree votes for.
fn always_voted(tensors: &[Tensor; 4]) -> HashSet<i32> {
    let (nodes, roots, targets) =
        (tensors[0].values::<i32>(), tensors[1].values::<i32>(), tensors[2].values::<i32>());
    let mut always = HashSet::new();
    for (tree, &root) in roots.iter().enumerate() {
        // The nodes of a tree lie one after the other.
        let end = roots.get(tree + 1).map_or(nodes.len(), |&next| next as usize * NODE_WORDS);
        let leaves = nodes[root as usize * NODE_WORDS..end].chunks_exact(NODE_WORDS).filter(|n| n[0] == LEAF);
        let (mut of, mut count) = (HashMap::new(), 0usize);
        for leaf in leaves {
            let own: HashSet<i32> = targets[leaf[3] as usize..][..leaf[4] as usize].iter().copied().collect();
            own.into_iter().for_each(|class| *of.entry(class).or_insert(0) += 1);
            count += 1;
        }
        always.extend(of.into_iter().filter(|&(_, leaves)| leaves == count).map(|(class, _)| class));
    }
    always
}

/// Classes that some leaf votes for, and whether no vote is negative.
fn voted(tensors: &[Tensor; 4]) -> (HashSet<i32>, bool) {
    let (nodes, targets, weights) =
        (tensors[0].values::<i32>(), tensors[2].values::<i32>(), tensors[3].values::<f32>());
    let (mut classes, mut positive) = (HashSet::new(), true);
    for leaf in nodes.chunks_exact(NODE_WORDS).filter(|node| node[0] == LEAF) {
        for vote in leaf[3] as usize..leaf[3] as usize + leaf[4] as usize {
            classes.insert(targets[vote]);
            positive &= weights[vote] >= 0.0;
        }
    }
    (classes, positive)
}

/// A classifier of two classes, whose votes may all be for one of them.
struct Binary2<'a, 'n> {
    node: &'a Node<'n>,
    labels: [i64; 2],
    tensors: &'a [Tensor; 4],
    x: ValueId,
}

impl Binary2<'_, '_> {
    /// Labels and scores.
    fn classify(&self, b: &mut Builder, raw: ValueId, base: &[f32]) -> Result<Vec<ValueId>, Reject> {
        let name = self.node.name();
        let (classes, positive) = voted(self.tensors);
        let [of_first, voted] = self.voted(b, &classes)?;
        let columns = [b.slice(name, raw, 1, 0..1)?, b.slice(name, raw, 1, 1..2)?];
        let one_sided = classes.len() == 1;
        let of = |b: &mut Builder, second: bool| {
            self.of(b, columns, of_first, base, second, (one_sided, positive))
        };
        match voted {
            Voted::Always => of(b, true),
            Voted::Never => of(b, false),
            Voted::Maybe(second) => {
                let (with, without) = (of(b, true)?, of(b, false)?);
                let rows = b.shape(second)[0];
                let flat = b.reshape(name, second, Shape::from([rows]))?;
                let label = b.choose(name, flat, with[0], without[0])?;
                Ok(vec![label, b.choose(name, second, with[1], without[1])?])
            }
        }
    }

    /// Whether either class has votes.
    fn voted(&self, b: &mut Builder, classes: &HashSet<i32>) -> Result<[Voted; 2], Reject> {
        let (name, always) = (self.node.name(), always_voted(self.tensors));
        let mut voted = vec![];
        for class in 0..2usize {
            let id = class as i32;
            voted.push(match (classes.contains(&id), always.contains(&id)) {
                (false, _) => Voted::Never,
                (_, true) => Voted::Always,
                _ => {
                    let counts = counts(b, name, self.x, self.tensors, 2)?;
                    let own = b.slice(name, counts, 1, class..class + 1)?;
                    let zero = b.scalar(DType::F32, 0.0);
                    Voted::Maybe(b.binary(name, Binary::Greater, own, zero)?)
                }
            });
        }
        Ok([voted[0], voted[1]])
    }

    /// A score, or 0 where its class has no votes.
    fn if_voted(&self, b: &mut Builder, voted: Voted, score: ValueId) -> Result<ValueId, Reject> {
        let (name, zero) = (self.node.name(), b.scalar(DType::F32, 0.0));
        match voted {
            Voted::Always => Ok(score),
            Voted::Never => b.expand(name, zero, b.shape(score)),
            Voted::Maybe(voted) => b.choose(name, voted, score, zero),
        }
    }

    /// Labels and scores of rows in which the second class has votes, or has none.
    fn of(
        &self,
        b: &mut Builder,
        [first, second]: [ValueId; 2],
        of_first: Voted,
        base: &[f32],
        has_second: bool,
        (one_sided, positive): (bool, bool),
    ) -> Result<Vec<ValueId>, Reject> {
        let (name, transform) = (self.node.name(), Transform::of(self.node)?);
        let plus = |b: &mut Builder, x: ValueId, base: f32| {
            let base = b.scalar(DType::F32, base.into());
            b.binary(name, Binary::Add, x, base)
        };
        let (decides, scores) = match (base, has_second) {
            (&[_, base], true) => {
                let second = plus(b, first, base)?;
                let other = b.unary(name, Unary::Neg, second)?;
                (second, Some([self.if_voted(b, of_first, other)?, second]))
            }
            (&[base, _], false) => {
                let first = plus(b, first, base)?;
                let first = self.if_voted(b, of_first, first)?;
                // The second has no votes: its base does not count.
                (first, Some([first, second]))
            }
            (base, _) => {
                let first = if let [base] = *base { plus(b, first, base)? } else { first };
                let first = self.if_voted(b, of_first, first)?;
                if has_second { (second, Some([first, second])) } else { (first, None) }
            }
        };
        let limit = b.scalar(DType::F32, if one_sided && positive { 0.5 } else { 0.0 });
        let above = b.binary(name, Binary::Greater, decides, limit)?;
        // Of votes for both classes it is said whether the second wins, whatever numbers the classes are
        // called by.
        let called = one_sided || scores::has_texts(self.node);
        let label = scores::either(b, name, above, if called { self.labels } else { [0, 1] })?;
        let scores = match scores {
            Some(columns) => {
                let scores = b.concat(name, &columns, 1)?;
                transform.apply(b, name, scores)?
            }
            None => self.of_one(b, decides, transform, (one_sided, positive))?,
        };
        Ok(vec![label, scores])
    }

    /// Both scores from one.
    fn of_one(
        &self,
        b: &mut Builder,
        score: ValueId,
        transform: Transform,
        (one_sided, positive): (bool, bool),
    ) -> Result<ValueId, Reject> {
        let name = self.node.name();
        let columns = if transform == Transform::Probit {
            return wrong("post_transform PROBIT of two classes with votes for one has no second score");
        } else if transform == Transform::Logistic {
            let down = b.unary(name, Unary::Neg, score)?;
            [b.unary(name, Unary::Sigmoid, down)?, b.unary(name, Unary::Sigmoid, score)?]
        } else if one_sided && positive {
            let one = b.scalar(DType::F32, 1.0);
            [b.binary(name, Binary::Sub, one, score)?, score]
        } else {
            [b.unary(name, Unary::Neg, score)?, score]
        };
        b.concat(name, &columns, 1)
    }
}
