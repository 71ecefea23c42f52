//! Control: a policy network of the size that runs inside a control loop, from a 64×64 image to eight
//! actions.

use super::image_size;
use crate::graph::Graph;
use crate::layers::{Bias, Window};
use crate::variant::Variant;
use crate::{Model, ZooError};

/// Stride of each 3×3 convolution.
const STRIDES: [usize; 5] = [2, 2, 1, 2, 1];
const ACTIONS: usize = 8;

pub(super) fn build(variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    let pixels = image_size(Model::Control, variant, (64, 24), 8)?;
    let widths = variant.pick([24, 48, 48, 64, 64], [5, 9, 9, 12, 12]);
    let mut x = graph.image(variant, pixels);
    for (index, (stride, width)) in STRIDES.into_iter().zip(widths).enumerate() {
        x = graph.conv(&format!("trunk.{}", 2 * index), &x, width, Window::square(3, stride, 1), Bias::Yes);
        x = graph.relu(&format!("trunk.{}", 2 * index + 1), &x);
    }
    x = graph.view_flat("", &x);
    for (index, width) in variant.pick([128, 64], [20, 12]).into_iter().enumerate() {
        x = graph.linear(&format!("policy.{}", 2 * index), &x, width);
        x = graph.relu(&format!("policy.{}", 2 * index + 1), &x);
    }
    x = graph.linear("policy.4", &x, ACTIONS);
    x.value = graph.node("Tanh", "policy.5", &[&x.value], Vec::new());
    graph.scores("action", variant, &x);
    Ok(())
}
