//! Operators of vision models, alone and among convolutions, whose images lie otherwise.

mod harness;

use harness::{Builder, target};
use reef_graph::vision::{Col2Im, Coordinates, GridSample, Interpolation, Outside, RoiAlign};
use reef_graph::{DType, Op, Shape, Tensor, Unary, ValueId, Vision};
use reef_plan::{Isa, KernelSpec, Restart};

fn sample(interpolation: Interpolation) -> Vision {
    let coordinates = Coordinates::Unit { align_corners: false };
    Vision::GridSample(GridSample { interpolation, outside: Outside::Border, coordinates })
}

fn align() -> Vision {
    Vision::RoiAlign(RoiAlign { bins: [3, 2], samples: 2, scale: 0.5, half_pixel: true, largest: false })
}

fn add(b: &mut Builder, vision: Vision, inputs: &[ValueId]) -> ValueId {
    let shapes: Vec<Shape> = inputs.iter().map(|&id| b.graph.value(id).shape.clone()).collect();
    let shape = vision.shape(&shapes).unwrap();
    b.typed_node(Op::Vision(vision), inputs, DType::F32, &shape)
}

#[test]
fn images_at_points() {
    for channels in [1, 3, 8, 21] {
        for interpolation in [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic] {
            let mut b = Builder::new();
            let (x, grid) = (b.input(&[2, channels, 6, 7]), b.input(&[2, 5, 4, 2]));
            let alone = add(&mut b, sample(interpolation), &[x, grid]);
            let image = b.conv(x, channels, harness::conv_attrs(3, 1));
            let before = add(&mut b, sample(interpolation), &[image, grid]);
            let between = add(&mut b, sample(interpolation), &[image, grid]);
            let between = b.conv(between, 4, harness::conv_attrs(1, 1));
            let after = add(&mut b, sample(interpolation), &[x, grid]);
            let after = b.same(Op::Unary(Unary::Relu), &[after]);
            let after = b.conv(after, 4, harness::conv_attrs(3, 1));
            let what = format!("{interpolation:?} of {channels} channels");
            b.check(&what, &[alone, before, between, after]);
        }
    }
    let mut b = Builder::new();
    let (x, grid) = (b.input(&[1, 9, 3, 4, 5]), b.input(&[1, 2, 3, 4, 3]));
    let turned = b.same(Op::Unary(Unary::Abs), &[grid]);
    let y = add(&mut b, sample(Interpolation::Linear), &[x, turned]);
    b.check("a volume", &[y]);
}

#[test]
fn regions_of_images() {
    let mut b = Builder::new();
    let (x, regions) = (b.input(&[1, 5, 8, 9]), b.input(&[4, 4]));
    let batch = b.graph.add_const("batch", Tensor::i64([4], &[0; 4]));
    let alone = add(&mut b, align(), &[x, regions, batch]);
    let image = b.conv(x, 12, harness::conv_attrs(3, 1));
    let crops = add(&mut b, align(), &[image, regions, batch]);
    let flat = b.node(Op::Reshape, &[crops], &[4, 72]);
    let again = b.conv(crops, 6, harness::conv_attrs(1, 1));
    b.check("regions", &[alone, flat, again]);
}

#[test]
fn entries_outside_of_the_batch_are_errors() {
    let mut b = Builder::new();
    let (x, regions) = (b.input(&[2, 3, 8, 9]), b.input(&[2, 4]));
    let batch = b.typed_input(DType::I64, &[2]);
    let y = add(&mut b, align(), &[x, regions, batch]);
    b.output(y);
    let plan = harness::plan(&b.graph);
    let mut inputs = harness::inputs(&b.graph, 3);
    inputs[2] = Tensor::i64([2], &[1, 2]);
    let error = reef_compile::interpret::run(&plan, &inputs).unwrap_err();
    assert_eq!(error.reason, "RoiAlign: batch_indices[1] is 2, allowed are 0 to 1");
}

#[test]
fn windows_and_matrices() {
    let fold = Col2Im {
        image: vec![5, 7],
        block: vec![2, 3],
        windows: vec![4, 3],
        strides: vec![1, 2],
        dilations: vec![1, 1],
        before: vec![0, 1],
    };
    let mut b = Builder::new();
    let x = b.input(&[2, 18, 12]);
    let turned = b.input(&[2, 12, 18]);
    let turned = b.node(Op::Transpose { perm: vec![0, 2, 1] }, &[turned], &[2, 18, 12]);
    let y = add(&mut b, Vision::Col2Im(fold.clone()), &[x]);
    let z = add(&mut b, Vision::Col2Im(fold), &[turned]);
    let z = b.conv(z, 4, harness::conv_attrs(3, 1));
    let matrices = b.input(&[3, 2, 4, 4]);
    let determinants = add(&mut b, Vision::Det, &[matrices]);
    let relu = b.same(Op::Unary(Unary::Relu), &[determinants]);
    b.check("windows and matrices", &[y, z, relu]);
}

#[test]
fn blocks_take_points_and_may_be_killed() {
    let mut b = Builder::new();
    let (x, grid) = (b.input(&[1, 32, 64, 64]), b.input(&[1, 128, 128, 2]));
    let y = add(&mut b, sample(Interpolation::Linear), &[x, grid]);
    b.output(y);
    let compiled = harness::compiled(&b.graph, target(Isa::Avx2, 2, 0));
    let [group] = &compiled.report.groups[..] else { panic!("{}", compiled.report) };
    assert_eq!((group.kind, group.restart), ("grid-sample", Restart::Safe));
    assert!(group.blocks > 2, "{}", group.blocks);
    let KernelSpec::Vision(spec) = &compiled.plan.kernels()[0].spec else { panic!("{}", compiled.report) };
    assert!(!spec.channels_last, "what lies dense is not turned round");
}

#[test]
fn images_of_convolutions_are_not_turned_round() {
    let mut b = Builder::new();
    let (x, grid) = (b.input(&[1, 3, 16, 16]), b.input(&[1, 16, 16, 2]));
    let image = b.conv(x, 16, harness::conv_attrs(3, 1));
    let moved = add(&mut b, sample(Interpolation::Linear), &[image, grid]);
    let y = b.conv(moved, 4, harness::conv_attrs(3, 1));
    b.output(y);
    let compiled = harness::compiled(&b.graph, target(Isa::Avx2, 2, 0));
    let kinds: Vec<&str> = compiled.plan.kernels().iter().map(|kernel| kernel.spec.name()).collect();
    let movers = kinds.iter().filter(|kind| **kind == "elementwise").count();
    // The input and the output of the model.
    assert_eq!(movers, 2, "{kinds:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |vision: Vision, shapes: &[&[usize]], output: &[usize]| {
        let mut b = Builder::new();
        let inputs: Vec<ValueId> = shapes.iter().map(|shape| b.input(shape)).collect();
        let y = b.typed_node(Op::Vision(vision), &inputs, DType::F32, output);
        b.output(y);
        b.graph.validate().unwrap_err().to_string()
    };
    let points = refused(sample(Interpolation::Linear), &[&[1, 2, 3, 4], &[2, 5, 6, 2]], &[1, 2, 5, 6]);
    assert!(points.contains("points [2,5,6,2] do not fit an image of shape [1,2,3,4]"), "{points}");
    let types = refused(align(), &[&[1, 2, 3, 4], &[2, 4], &[2]], &[2, 2, 3, 2]);
    assert!(types.contains("its inputs are"), "{types}");
    assert!(refused(Vision::Det, &[&[2, 3, 4]], &[2]).contains("no list of square matrices"));
    assert!(refused(Vision::Det, &[&[2, 3, 3]], &[3]).contains("it makes"));
}
