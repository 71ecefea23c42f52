//! ResNet-18 and ResNet-152 (He et al. 2015) as torchvision has them: the stride of a bottleneck is in its
//! 3×3.

use super::{CLASSES, image_size};
use crate::graph::Graph;
use crate::layers::{Bias, Feature, Norm, Window};
use crate::variant::Variant;
use crate::{Model, ZooError};

/// The two kinds of residual block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Two 3×3.
    Basic,
    /// 1×1, 3×3, 1×1 to four times the width.
    Bottleneck,
}

pub(super) fn build_18(variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    let pixels = image_size(Model::Resnet18, variant, (224, 72), 32)?;
    build(variant, graph, pixels, Block::Basic, [2, 2, 2, 2], variant.pick(64, 10));
    Ok(())
}

pub(super) fn build_152(variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    let pixels = image_size(Model::Resnet152, variant, (224, 64), 32)?;
    build(variant, graph, pixels, Block::Bottleneck, [3, 8, 36, 3], variant.pick(64, 9));
    Ok(())
}

fn build(
    variant: &Variant,
    graph: &mut Graph,
    pixels: usize,
    block: Block,
    blocks: [usize; 4],
    width: usize,
) {
    let x = graph.image(variant, pixels);
    let x = graph.conv("conv1", &x, width, Window::square(7, 2, 3), Bias::No);
    let x = graph.batch_norm("bn1", &x, Norm::DEFAULT);
    let x = graph.relu("relu", &x);
    let mut x = graph.max_pool("maxpool", &x, Window::square(3, 2, 1));
    for (stage, count) in blocks.into_iter().enumerate() {
        // What the branches of a stage add together is of the order of what they add to.
        let gain = 1.0 / (count as f32).sqrt();
        for index in 0..count {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let place = Place { path: format!("layer{}.{index}", stage + 1), stride, gain };
            x = residual(graph, &x, block, width << stage, &place);
        }
    }
    let x = graph.global_average_pool("avgpool", &x);
    let x = graph.flatten("", &x);
    let x = graph.linear("fc", &x, variant.pick(CLASSES.0, CLASSES.1));
    graph.scores("logits", variant, &x);
}

/// Where a block stands.
struct Place {
    path: String,
    stride: usize,
    gain: f32,
}

fn residual(graph: &mut Graph, x: &Feature, block: Block, width: usize, place: &Place) -> Feature {
    let Place { path, stride, gain } = place;
    let (windows, channels) = match block {
        Block::Basic => (vec![Window::square(3, *stride, 1), Window::square(3, 1, 1)], width),
        Block::Bottleneck => {
            let middle = Window::square(3, *stride, 1);
            (vec![Window::square(1, 1, 0), middle, Window::square(1, 1, 0)], 4 * width)
        }
    };
    let mut branch = x.clone();
    for (index, window) in windows.iter().enumerate() {
        let (last, number) = (index + 1 == windows.len(), index + 1);
        let out = if last { channels } else { width };
        branch = graph.conv(&format!("{path}.conv{number}"), &branch, out, *window, Bias::No);
        let norm = if last { Norm { gain: *gain, ..Norm::DEFAULT } } else { Norm::DEFAULT };
        branch = graph.batch_norm(&format!("{path}.bn{number}"), &branch, norm);
        if !last {
            branch = graph.relu(&format!("{path}.relu"), &branch);
        }
    }
    let identity = if *stride != 1 || x.channels != channels {
        let window = Window::square(1, *stride, 0);
        let short = graph.conv(&format!("{path}.downsample.0"), x, channels, window, Bias::No);
        graph.batch_norm(&format!("{path}.downsample.1"), &short, Norm::DEFAULT)
    } else {
        x.clone()
    };
    let sum = graph.add(path, &branch, &identity);
    graph.relu(&format!("{path}.relu"), &sum)
}
