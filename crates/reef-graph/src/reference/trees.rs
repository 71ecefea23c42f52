//! Ensembles of decision trees, row by row. Sums are in single precision, as the operator says.

use crate::scalar::Element;
use crate::trees::{Aggregate, Forest};
use crate::{Shape, Tensor};

pub(super) fn ensemble(
    aggregate: Aggregate,
    inputs: &[&Tensor],
    shape: &Shape,
) -> Result<Vec<Element>, String> {
    let [x, nodes, roots, targets, weights] = inputs else { return Err("trees without their arrays".into()) };
    let forest = Forest {
        nodes: nodes.values(),
        roots: roots.values(),
        targets: targets.values(),
        weights: weights.values(),
    };
    let (features, targets) = (x.shape()[1], shape[1]);
    if let Some(flaw) = forest.flaw(features, targets) {
        return Err(flaw.into());
    }
    let mut made = vec![0.0; shape.elements()];
    for row in 0..shape[0] {
        let own = &x.values::<f32>()[row * features..][..features];
        forest.of_row(aggregate, own, &mut made[row * targets..][..targets]);
    }
    Ok(made.into_iter().map(|value| Element::Float(value.into())).collect())
}
