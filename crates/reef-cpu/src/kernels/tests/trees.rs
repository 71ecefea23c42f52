//! Decision trees: random ones with every test, also in blocks of a few rows, and plans with trees that lead
//! outside.

use std::sync::Arc;

use reef_base::Rng;
use reef_graph::trees::{LEAF, MISSING, NODE_WORDS};
use reef_graph::{Aggregate, DType, Forest, Shape, Tensor};
use reef_plan::{
    Cost, IoSpec, Kernel, KernelSpec, Packing, Place, Plan, PlanParts, Region, Restart, Target, TreesSpec,
    WeightStore,
};

use super::{Case, CpuCutter, check};
use reef_plan::Isa;

/// Trees as flat arrays.
#[derive(Clone, Default)]
struct Made {
    nodes: Vec<i32>,
    roots: Vec<i32>,
    targets: Vec<i32>,
    weights: Vec<f32>,
}

impl Made {
    /// Random trees of this depth at most; values are few, so that equal ones occur.
    fn new(trees: usize, depth: usize, features: usize, targets: usize) -> Made {
        let (mut made, mut rng) = (Made::default(), Rng::new(11));
        for _ in 0..trees {
            let root = made.node(depth, features, targets, &mut rng);
            made.roots.push(root);
        }
        made
    }

    fn node(&mut self, depth: usize, features: usize, targets: usize, rng: &mut Rng) -> i32 {
        let at = self.nodes.len();
        self.nodes.extend([0; NODE_WORDS]);
        let words = if depth == 0 || rng.below(8) == 0 {
            let (first, count) = (self.weights.len() as i32, rng.below(4) as i32);
            for _ in 0..count {
                self.targets.push(rng.below(targets as u64) as i32);
                self.weights.push(rng.normal_f32());
            }
            [LEAF, 0, 0, first, count]
        } else {
            let test = rng.below(6) as i32 + if rng.below(2) == 0 { MISSING } else { 0 };
            let value = (rng.below(5) as f32 - 2.0) / 2.0;
            let feature = rng.below(features as u64) as i32;
            let no = self.node(depth - 1, features, targets, rng);
            let yes = self.node(depth - 1, features, targets, rng);
            [test, feature, value.to_bits() as i32, yes, no]
        };
        self.nodes[at..at + NODE_WORDS].copy_from_slice(&words);
        (at / NODE_WORDS) as i32
    }

    fn forest(&self) -> Forest<'_> {
        Forest { nodes: &self.nodes, roots: &self.roots, targets: &self.targets, weights: &self.weights }
    }

    fn tensors(&self) -> [Tensor; 4] {
        let words = |words: &[i32]| Tensor::from_slice(DType::I32, Shape::from([words.len()]), words);
        let weights = Tensor::f32([self.weights.len()], &self.weights);
        [words(&self.nodes), words(&self.roots), words(&self.targets), weights]
    }

    fn spec(&self, aggregate: Aggregate, [rows, features, targets]: [usize; 3]) -> TreesSpec {
        TreesSpec {
            aggregate,
            rows,
            features,
            targets,
            nodes: self.nodes.len() / NODE_WORDS,
            trees: self.roots.len(),
            votes: self.weights.len(),
            tile: rows,
        }
    }
}

#[test]
fn rows_go_through_trees() {
    for aggregate in [Aggregate::Sum, Aggregate::Average, Aggregate::Min, Aggregate::Max] {
        for [rows, features, targets, trees, depth] in
            [[1, 1, 1, 1, 0], [13, 5, 3, 7, 5], [3, 40, 1, 60, 9], [2, 3, 20_000, 2, 3], [5, 2, 2, 0, 0]]
        {
            let made = Made::new(trees, depth, features, targets);
            if made.weights.is_empty() || trees == 0 {
                continue;
            }
            let mut rng = Rng::new(5);
            let mut feature = || match rng.below(9) {
                0 => f32::NAN,
                _ => (rng.below(5) as f32 - 2.0) / 2.0,
            };
            let x: Vec<f32> = (0..rows * features).map(|_| feature()).collect();
            let mut expected = vec![0.0; rows * targets];
            for (row, own) in x.chunks_exact(features).enumerate() {
                made.forest().of_row(aggregate, own, &mut expected[row * targets..][..targets]);
            }
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            let whole = made.spec(aggregate, [rows, features, targets]);
            let name = format!("{aggregate:?} of {trees} trees, {rows} rows, {targets} targets");
            let cut = |tile: usize| {
                let spec = TreesSpec { tile, ..whole.clone() };
                move |_: Isa| KernelSpec::Trees(spec.clone())
            };
            let mut case = Case::f32(name, cut(rows)).cut(cut(1)).cut(cut(2)).input(&x);
            case.tolerance = 0.0;
            for tensor in made.tensors() {
                case = case.weight(tensor, |_| Packing::Raw);
            }
            check(&case.expects(rows * targets, expected.into_iter().enumerate().collect()));
        }
    }
}

/// A plan of these trees; what the device says of it.
fn flaw(made: &Made, packing: Packing, constant: bool) -> Option<String> {
    let store = Arc::new(WeightStore::new());
    let spec = made.spec(Aggregate::Sum, [2, 3, 2]);
    let weights: Vec<_> = made.tensors().iter().map(|tensor| store.insert(tensor, packing)).collect();
    let io = |elements: usize| IoSpec { name: "t".into(), dtype: DType::F32, shape: Shape::from([elements]) };
    let mut reads = vec![Region::dense(Place::Input(0), 0, 24)];
    for (index, weight) in weights.iter().enumerate() {
        reads.push(Region::dense(Place::Weight(index as u32), 0, weight.bytes));
    }
    if !constant {
        reads[1] = Region::dense(Place::Input(1), 0, weights[0].bytes);
    }
    let kernel = Kernel {
        name: "trees".into(),
        spec: KernelSpec::Trees(spec.clone()),
        reads,
        writes: vec![Region::dense(Place::Output(0), 0, 16)],
        restart: Restart::Safe,
        cost: Cost::default(),
    };
    let parts = PlanParts {
        name: "trees".into(),
        target: Target::cpu(Isa::Portable, 1),
        inputs: vec![io(6), io(spec.nodes * NODE_WORDS)],
        outputs: vec![io(4)],
        weights,
        store,
        host_kernels: vec![],
        stages: vec![vec![kernel]],
        arena_bytes: 0,
    };
    crate::cut::flaw(&Plan::cut_by(&CpuCutter::new(parts.target), parts).unwrap())
}

#[test]
fn trees_that_lead_outside_do_not_load() {
    let made = Made::new(3, 4, 3, 2);
    assert_eq!(flaw(&made, Packing::Raw, true), None);
    assert_eq!(flaw(&made, Packing::Raw, false).unwrap(), "kernel trees: its trees are no constants");
    let mut lost = made.clone();
    lost.roots[2] = (made.nodes.len() / NODE_WORDS) as i32;
    assert_eq!(flaw(&lost, Packing::Raw, true).unwrap(), "kernel trees: a tree has no first node");
    let mut lost = made.clone();
    lost.targets[0] = 2;
    let reason = "kernel trees: a leaf votes for a target that there is not";
    assert_eq!(flaw(&lost, Packing::Raw, true).unwrap(), reason);
    let mut lost = made;
    lost.nodes[3] = 0;
    let reason = "kernel trees: the nodes below a branch do not lie behind it";
    assert_eq!(flaw(&lost, Packing::Raw, true).unwrap(), reason);
}
