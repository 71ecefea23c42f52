//! Probes: models of one long operator. Workloads put them beside real-time requests.

use super::image_size;
use crate::graph::{Graph, float, int, text};
use crate::moments::on_grid;
use crate::variant::{Dim, Shapes, TensorSpec, Variant};
use crate::weights::{Fill, Role};
use crate::{Model, ZooError};

/// Channels of the image that is scaled up.
const CHANNELS: (usize, usize) = (32, 4);

/// One LSTM over a sequence, as large as its input.
pub(super) fn lstm(variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    let width = variant.pick(512, 32);
    let sequence = match variant.shapes {
        Shapes::Dynamic => Dim::Symbol("sequence"),
        Shapes::Static { .. } => Dim::Fixed(variant.sequence.unwrap_or(variant.pick(400, 20))),
    };
    if sequence == Dim::Fixed(0) {
        return Err(ZooError::Variant { model: Model::Lstm, why: "sequences of 0 steps".into() });
    }
    let dims = vec![sequence, variant.batch_dim(), Dim::Fixed(width)];
    let x = graph.input(TensorSpec::floats("input", dims));
    let fill = || Fill::Bell { mean: 0.0, std: on_grid((1.0 / width as f64).sqrt()) };
    let weights = ["weight_ih", "weight_hh"]
        .map(|name| graph.weight(format!("lstm.{name}"), &[1, 4 * width, width], fill(), Role::Parameter));
    let bias = graph.weight("lstm.bias".into(), &[1, 8 * width], fill(), Role::Parameter);
    let attributes = vec![int("hidden_size", width as i64)];
    let y = graph.node("LSTM", "lstm", &[&x, &weights[0], &weights[1], &bias], attributes);
    let dims = vec![sequence, Dim::Fixed(1), variant.batch_dim(), Dim::Fixed(width)];
    graph.output(&y, TensorSpec::floats("output", dims));
    Ok(())
}

/// A feature map scaled up by two with cubic interpolation.
pub(super) fn upscale(variant: &Variant, graph: &mut Graph) -> Result<(), ZooError> {
    let pixels = image_size(Model::Upscale, variant, (256, 24), 4)?;
    let map = |side| vec![variant.batch_dim(), Dim::Fixed(variant.pick(CHANNELS.0, CHANNELS.1)), side, side];
    let x = graph.input(TensorSpec::floats("input", map(Dim::Fixed(pixels))));
    let scales = Fill::F32(vec![1.0, 1.0, 2.0, 2.0]);
    let scales = graph.weight("upscale.scales".into(), &[4], scales, Role::Constant);
    let attributes = vec![
        text("coordinate_transformation_mode", "half_pixel"),
        float("cubic_coeff_a", -0.75),
        text("mode", "cubic"),
    ];
    let y = graph.node("Resize", "upscale", &[&x, "", &scales], attributes);
    graph.output(&y, TensorSpec::floats("output", map(Dim::Fixed(2 * pixels))));
    Ok(())
}
