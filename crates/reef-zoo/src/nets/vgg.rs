//! VGG-19 without batch norm (Simonyan and Zisserman 2014) as torchvision has it.
//!
//! Its adaptive pool to 7×7 is exported as an `AveragePool` whose kernel is the ratio, 1×1 at 224 pixels.
//! Below 7×7 features an exporter has no form for it: the pool is then the identity and the first dense layer
//! is narrower.

use super::{CLASSES, image_size};
use crate::graph::Graph;
use crate::layers::{Bias, Window};
use crate::variant::Variant;
use crate::{Model, ZooError};

const CONVS: [usize; 5] = [2, 2, 4, 4, 4];
const POOLED: usize = 7;

pub(super) fn build(variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    let pixels = image_size(Model::Vgg19, variant, (224, 64), 32)?;
    let features = pixels >> CONVS.len();
    if features > POOLED && !features.is_multiple_of(POOLED) {
        let why = format!("images of {pixels} pixels: above 224 it needs multiples of 224");
        return Err(ZooError::Variant { model: Model::Vgg19, why });
    }
    let widths = variant.pick([64, 128, 256, 512, 512], [10, 20, 36, 60, 60]);
    let mut x = graph.image(variant, pixels);
    let mut index = 0;
    for (convs, width) in CONVS.into_iter().zip(widths) {
        for _ in 0..convs {
            x = graph.conv(&format!("features.{index}"), &x, width, Window::square(3, 1, 1), Bias::Yes);
            x = graph.relu(&format!("features.{}", index + 1), &x);
            index += 2;
        }
        x = graph.max_pool(&format!("features.{index}"), &x, Window::square(2, 2, 0));
        index += 1;
    }
    let ratio = (features / POOLED).max(1);
    x = graph.average_pool("avgpool", &x, Window::square(ratio, ratio, 0));
    x = graph.view_flat("", &x);
    let hidden = variant.pick(4096, 100);
    for index in [0, 3] {
        x = graph.linear(&format!("classifier.{index}"), &x, hidden);
        x = graph.relu(&format!("classifier.{}", index + 1), &x);
    }
    x = graph.linear("classifier.6", &x, variant.pick(CLASSES.0, CLASSES.1));
    graph.scores("logits", variant, &x);
    Ok(())
}
