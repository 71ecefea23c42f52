//! What vision models sample and fold.

use reef_graph::vision::{Col2Im, Coordinates, GridSample, Interpolation, Outside, RoiAlign};
use reef_graph::{DType, Op, Shape, Tensor, ValueId, Vision};

use super::Sketch;

fn vision(s: &mut Sketch, vision: Vision, inputs: &[ValueId]) -> ValueId {
    let shapes: Vec<Shape> = inputs.iter().map(|&id| Shape::new(&s.dims(id))).collect();
    let shape = vision.shape(&shapes).expect("they fit");
    s.graph.add_node(vision.name(), Op::Vision(vision), inputs, DType::F32, shape)
}

pub(super) fn image_at_points(s: &mut Sketch) {
    let (x, grid) = (s.input(&[2, 9, 6, 7]), s.input(&[2, 5, 8, 2]));
    let sample = GridSample {
        interpolation: Interpolation::Linear,
        outside: Outside::Reflection,
        coordinates: Coordinates::Unit { align_corners: true },
    };
    let y = vision(s, Vision::GridSample(sample), &[x, grid]);
    s.output(y);
}

pub(super) fn regions(s: &mut Sketch) {
    let x = s.input(&[2, 9, 6, 7]);
    let regions =
        s.fixed(Tensor::f32([3, 4], &[0.0, 1.0, 5.0, 4.5, 2.0, -1.0, 7.5, 9.0, 3.0, 3.0, 3.5, 3.25]));
    let batch = s.fixed(Tensor::i64([3], &[1, 0, 1]));
    let align = RoiAlign { bins: [3, 2], samples: 0, scale: 1.0, half_pixel: false, largest: false };
    let y = vision(s, Vision::RoiAlign(align), &[x, regions, batch]);
    s.output(y);
}

/// Windows put back where they came from, and the determinants of what comes out.
pub(super) fn windows_and_matrices(s: &mut Sketch) {
    let x = s.input(&[2, 27, 16]);
    let fold = Col2Im {
        image: vec![4; 2],
        block: vec![3; 2],
        windows: vec![4; 2],
        strides: vec![1; 2],
        dilations: vec![1; 2],
        before: vec![1; 2],
    };
    let y = vision(s, Vision::Col2Im(fold), &[x]);
    let z = vision(s, Vision::Det, &[y]);
    s.output(y);
    s.output(z);
}
