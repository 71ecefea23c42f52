//! What a kernel trusts without looking: constants of a plan that lead it from place to place.

use reef_graph::Forest;

use crate::plan::{Kernel, Plan};
use crate::region::Place;
use crate::trees::{TreesSpec, floats, words};
use crate::weights::Packing;

/// Why a kernel cannot trust the trees that a plan gives it: they are no constants, or lead outside.
pub fn trees_flaw(plan: &Plan, kernel: &Kernel, spec: &TreesSpec) -> Option<&'static str> {
    let mut arrays = vec![];
    for region in kernel.reads.get(1..5)? {
        let Place::Weight(index) = region.place else { return Some("its trees are no constants") };
        let weight = plan.weights().get(index as usize)?;
        let Some(bytes) =
            plan.store().get(weight.key, Packing::Raw).filter(|_| weight.packing == Packing::Raw)
        else {
            return Some("its trees are packed");
        };
        arrays.push((bytes, region.offset..region.end()));
    }
    let bytes = |array: usize| &arrays[array].0.as_slice()[arrays[array].1.clone()];
    let counts = spec.reads();
    let words = |array: usize| words(bytes(array), counts[array + 1]);
    let weights = floats(bytes(3), spec.votes);
    let forest = Forest { nodes: &words(0), roots: &words(1), targets: &words(2), weights: &weights };
    forest.flaw(spec.features, spec.targets)
}
