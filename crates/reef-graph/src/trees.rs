//! Ensembles of decision trees: nodes in one array, votes of the leaves in another.

use crate::dtype::DType;
use crate::tensor::Shape;

/// Words (i32) of a node. A branch has its test (with [`MISSING`] where what is no number goes to the true
/// side), the feature, the bits of the f32 that it is compared with, and the places of the nodes on the true
/// and on the false side. A leaf has [`LEAF`], two words that mean nothing, its first vote and their number.
pub const NODE_WORDS: usize = 5;
/// The test of a leaf.
pub const LEAF: i32 = 6;
/// Added to the test of a branch: what is no number passes.
pub const MISSING: i32 = 8;

/// What a branch asks of a feature: it goes to the true side if so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// At most the node's value.
    AtMost,
    /// Less.
    Less,
    /// At least.
    AtLeast,
    /// More.
    More,
    /// Equal.
    Equal,
    /// Another number, or none.
    Differs,
}

impl Test {
    /// All of them, each at its number.
    pub const ALL: [Test; 6] =
        [Test::AtMost, Test::Less, Test::AtLeast, Test::More, Test::Equal, Test::Differs];

    /// Whether `x` passes beside `value`.
    #[inline(always)]
    pub fn passes(self, x: f32, value: f32) -> bool {
        match self {
            Test::AtMost => x <= value,
            Test::Less => x < value,
            Test::AtLeast => x >= value,
            Test::More => x > value,
            Test::Equal => x == value,
            Test::Differs => x != value,
        }
    }
}

/// What becomes of the votes for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// Their sum, in single precision and the order of the trees.
    Sum,
    /// That divided by the number of trees.
    Average,
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

impl Aggregate {
    /// What a target has before the first vote.
    #[inline(always)]
    pub fn start(self) -> f32 {
        match self {
            Aggregate::Sum | Aggregate::Average => 0.0,
            Aggregate::Min | Aggregate::Max => f32::NAN,
        }
    }

    /// With one more vote.
    #[inline(always)]
    pub fn with(self, before: f32, vote: f32) -> f32 {
        match self {
            Aggregate::Sum | Aggregate::Average => before + vote,
            Aggregate::Min => before.min(vote),
            Aggregate::Max => before.max(vote),
        }
    }

    /// After the last; a target without votes has 0.
    #[inline(always)]
    pub fn end(self, all: f32, trees: usize) -> f32 {
        match self {
            Aggregate::Sum => all,
            Aggregate::Average => all / trees as f32,
            Aggregate::Min | Aggregate::Max => {
                if all.is_nan() {
                    0.0
                } else {
                    all
                }
            }
        }
    }
}

/// Trees, as the constants of a [`crate::Op::TreeEnsemble`] have them.
#[derive(Clone, Copy, Debug)]
pub struct Forest<'a> {
    /// [`NODE_WORDS`] each.
    pub nodes: &'a [i32],
    /// The place of every tree's first node.
    pub roots: &'a [i32],
    /// The target of every vote.
    pub targets: &'a [i32],
    /// Its weight.
    pub weights: &'a [f32],
}

impl Forest<'_> {
    /// Why rows of so many features cannot be taken through the trees to so many targets; `None` if they can:
    /// then no place is outside its array, and as the nodes below a node lie behind it, every way ends.
    pub fn flaw(&self, features: usize, targets: usize) -> Option<&'static str> {
        let inside = |place: i32, count: usize| usize::try_from(place).is_ok_and(|place| place < count);
        let count = self.nodes.len() / NODE_WORDS;
        if !self.nodes.len().is_multiple_of(NODE_WORDS) || self.targets.len() != self.weights.len() {
            return Some("the arrays of the trees do not fit each other");
        }
        if !self.roots.iter().all(|&root| inside(root, count)) {
            return Some("a tree has no first node");
        }
        if !self.targets.iter().all(|&target| inside(target, targets)) {
            return Some("a leaf votes for a target that there is not");
        }
        self.nodes.chunks_exact(NODE_WORDS).enumerate().find_map(|(at, node)| {
            let [test, feature, _, yes, no] = *node else { unreachable!("a node has so many words") };
            if test == LEAF {
                let end = usize::try_from(yes).ok().zip(usize::try_from(no).ok()).map(|(first, n)| first + n);
                return end
                    .is_none_or(|end| end > self.targets.len())
                    .then_some("a leaf has votes that there are not");
            }
            if !inside(test & !MISSING, Test::ALL.len()) {
                return Some("a branch has a test that is not known");
            }
            if !inside(feature, features) {
                return Some("a branch asks for a feature that there is not");
            }
            let below = |place: i32| inside(place, count) && place as usize > at;
            (!(below(yes) && below(no))).then_some("the nodes below a branch do not lie behind it")
        })
    }

    /// The votes of the leaf that a row comes to in a tree.
    pub fn votes(&self, tree: usize, row: &[f32]) -> impl Iterator<Item = (usize, f32)> + '_ {
        let mut at = self.roots[tree] as usize;
        let (first, count) = loop {
            let [test, feature, value, yes, no] = self.nodes[at * NODE_WORDS..][..NODE_WORDS] else {
                unreachable!("a node has so many words")
            };
            if test == LEAF {
                break (yes as usize, no as usize);
            }
            let (x, value) = (row[feature as usize], f32::from_bits(value as u32));
            let missing = test & MISSING != 0 && x.is_nan();
            let passes = missing || Test::ALL[(test & !MISSING) as usize].passes(x, value);
            at = if passes { yes } else { no } as usize;
        };
        let votes = first..first + count;
        votes.map(|vote| (self.targets[vote] as usize, self.weights[vote]))
    }

    /// The targets of a row.
    pub fn of_row(&self, aggregate: Aggregate, row: &[f32], targets: &mut [f32]) {
        targets.fill(aggregate.start());
        for tree in 0..self.roots.len() {
            for (target, vote) in self.votes(tree, row) {
                targets[target] = aggregate.with(targets[target], vote);
            }
        }
        for target in targets {
            *target = aggregate.end(*target, self.roots.len());
        }
    }
}

/// What is wrong with the operands of a [`crate::Op::TreeEnsemble`] that makes `output`, if something is.
pub fn flaw_of(inputs: &[(DType, Shape)], output: &(DType, Shape)) -> Option<String> {
    let [x, nodes, roots, targets, weights] = inputs else {
        return Some(format!("it has {} inputs", inputs.len()));
    };
    let row = |operand: &(DType, Shape), dtype: DType| operand.0 == dtype && operand.1.rank() == 1;
    let rows = matches!(
        (x.0, &x.1[..], output.0, &output.1[..]),
        (DType::F32, &[rows, _], DType::F32, &[made, _]) if rows == made
    );
    let arrays = row(nodes, DType::I32) && row(roots, DType::I32) && row(targets, DType::I32);
    let fine = rows && arrays && row(weights, DType::F32) && targets.1 == weights.1;
    (!fine).then(|| format!("its operands are {inputs:?}, its output is {output:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feature 1 below 0.5: 2 for target 0; else -1 for target 1 and 4 for target 0.
    fn forest(nodes: &[i32]) -> Forest<'_> {
        Forest { nodes, roots: &[0], targets: &[0, 1, 0], weights: &[2.0, -1.0, 4.0] }
    }

    fn stump() -> Vec<i32> {
        [[1 + MISSING, 1, 0.5f32.to_bits() as i32, 1, 2], [LEAF, 0, 0, 0, 1], [LEAF, 0, 0, 1, 2]].concat()
    }

    #[test]
    fn rows_go_to_their_leaves() {
        let nodes = stump();
        let forest = forest(&nodes);
        assert_eq!(forest.flaw(2, 2), None);
        let of = |aggregate: Aggregate, x: f32| {
            let mut made = [9.0; 2];
            forest.of_row(aggregate, &[7.0, x], &mut made);
            made
        };
        for aggregate in [Aggregate::Sum, Aggregate::Average, Aggregate::Min, Aggregate::Max] {
            assert_eq!(of(aggregate, 0.4), [2.0, 0.0]);
            assert_eq!(of(aggregate, f32::NAN), [2.0, 0.0]);
            assert_eq!(of(aggregate, 0.5), [4.0, -1.0]);
        }
        let twice = Forest { roots: &[0, 0], ..forest };
        let mut made = [9.0; 2];
        twice.of_row(Aggregate::Sum, &[0.0, 1.0], &mut made);
        assert_eq!(made, [8.0, -2.0]);
        twice.of_row(Aggregate::Average, &[0.0, 1.0], &mut made);
        assert_eq!(made, [4.0, -1.0]);
    }

    #[test]
    fn what_lies_outside_is_named() {
        let changed = |at: usize, word: i32| {
            let mut nodes = stump();
            nodes[at] = word;
            forest(&nodes).flaw(2, 2)
        };
        assert_eq!(changed(0, 7), Some("a branch has a test that is not known"));
        assert_eq!(changed(1, 2), Some("a branch asks for a feature that there is not"));
        for place in [0, 3, -1] {
            assert_eq!(changed(3, place), Some("the nodes below a branch do not lie behind it"));
        }
        assert_eq!(changed(14, 3), Some("a leaf has votes that there are not"));
        let nodes = stump();
        assert_eq!(forest(&nodes).flaw(2, 1), Some("a leaf votes for a target that there is not"));
        let rootless = Forest { roots: &[3], ..forest(&nodes) };
        assert_eq!(rootless.flaw(2, 2), Some("a tree has no first node"));
        let torn = Forest { nodes: &nodes[1..], ..forest(&nodes) };
        assert_eq!(torn.flaw(2, 2), Some("the arrays of the trees do not fit each other"));
    }
}
