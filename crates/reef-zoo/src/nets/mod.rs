//! The networks, one file each. They say what is connected to what; layers and weights are elsewhere.

mod control;
mod densenet;
mod distilbert;
mod inception;
mod probes;
mod resnet;
mod vgg;

use crate::graph::Graph;
use crate::variant::Variant;
use crate::{Model, ZooError};

/// Adds the network of `model` to `graph`.
pub(crate) fn build(model: Model, variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    match model {
        Model::Resnet152 => resnet::build_152(variant, graph),
        Model::Resnet18 => resnet::build_18(variant, graph),
        Model::Densenet201 => densenet::build(variant, graph),
        Model::Vgg19 => vgg::build(variant, graph),
        Model::InceptionV3 => inception::build(variant, graph),
        Model::Distilbert => distilbert::build(variant, graph),
        Model::Control => control::build(variant, graph),
        Model::Lstm => probes::lstm(variant, graph),
        Model::Upscale => probes::upscale(variant, graph),
    }
}

/// Classes of a full and of a tiny image network.
const CLASSES: (usize, usize) = (1000, 100);

/// The side of the images: the default of the variant's size or the one asked for, if the network takes it.
fn image_size(
    model: Model,
    variant: &Variant,
    defaults: (usize, usize),
    min: usize,
) -> Result<usize, ZooError> {
    let pixels = variant.image_size.unwrap_or(variant.pick(defaults.0, defaults.1));
    if pixels < min {
        let why = format!("images of {pixels} pixels: it needs {min} or more");
        return Err(ZooError::Variant { model, why });
    }
    Ok(pixels)
}
