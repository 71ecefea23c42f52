//! DenseNet-201 (Huang et al. 2016) as torchvision has it: each dense layer concatenates all earlier ones.

use super::{CLASSES, image_size};
use crate::graph::Graph;
use crate::layers::{Bias, Feature, Norm, Window};
use crate::variant::Variant;
use crate::{Model, ZooError};

const LAYERS: [usize; 4] = [6, 12, 48, 32];
/// Width of a bottleneck, in growths.
const BOTTLENECK: usize = 4;

pub(super) fn build(variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    let pixels = image_size(Model::Densenet201, variant, (224, 64), 32)?;
    let growth = variant.pick(32, 5);
    let x = graph.image(variant, pixels);
    let x = graph.conv("features.conv0", &x, variant.pick(64, 10), Window::square(7, 2, 3), Bias::No);
    let x = norm_relu(graph, "features", "0", &x);
    let mut x = graph.max_pool("features.pool0", &x, Window::square(3, 2, 1));
    for (index, layers) in LAYERS.into_iter().enumerate() {
        let number = index + 1;
        x = dense_block(graph, &format!("features.denseblock{number}"), &x, layers, growth);
        if number < LAYERS.len() {
            x = transition(graph, &format!("features.transition{number}"), &x);
        }
    }
    let x = graph.batch_norm("features.norm5", &x, Norm::DEFAULT);
    let x = graph.relu("", &x);
    let x = graph.global_average_pool("", &x);
    let x = graph.flatten("", &x);
    let x = graph.linear("classifier", &x, variant.pick(CLASSES.0, CLASSES.1));
    graph.scores("logits", variant, &x);
    Ok(())
}

fn dense_block(graph: &mut Graph, path: &str, x: &Feature, layers: usize, growth: usize) -> Feature {
    let mut parts = vec![x.clone()];
    for number in 1..=layers {
        let path = format!("{path}.denselayer{number}");
        // The exporter writes this node for the first layer too, with its one part.
        let x = graph.concat(&path, &parts);
        let x = norm_relu(graph, &path, "1", &x);
        let x =
            graph.conv(&format!("{path}.conv1"), &x, BOTTLENECK * growth, Window::square(1, 1, 0), Bias::No);
        let x = norm_relu(graph, &path, "2", &x);
        parts.push(graph.conv(&format!("{path}.conv2"), &x, growth, Window::square(3, 1, 1), Bias::No));
    }
    graph.concat(path, &parts)
}

fn transition(graph: &mut Graph, path: &str, x: &Feature) -> Feature {
    let x = norm_relu(graph, path, "", x);
    let x = graph.conv(&format!("{path}.conv"), &x, x.channels / 2, Window::square(1, 1, 0), Bias::No);
    graph.average_pool(&format!("{path}.pool"), &x, Window::square(2, 2, 0))
}

fn norm_relu(graph: &mut Graph, path: &str, suffix: &str, x: &Feature) -> Feature {
    let x = graph.batch_norm(&format!("{path}.norm{suffix}"), x, Norm::DEFAULT);
    graph.relu(&format!("{path}.relu{suffix}"), &x)
}
