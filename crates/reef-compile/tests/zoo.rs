//! The models of the zoo, small: imported, compiled, and compared with their graphs.

mod harness;

use reef_base::Rng;
use reef_compile::reference;
use reef_graph::{DType, Shape, Tensor};
use reef_onnx::OnnxModel;
use reef_zoo::{Model, Variant};

/// Inputs that the model can take: token numbers and masks are small.
fn inputs(graph: &reef_graph::Graph) -> Vec<Tensor> {
    let mut rng = Rng::new(3);
    let value = |id: &reef_graph::ValueId| graph.value(*id).clone();
    let tensor = |value: reef_graph::Value| match value.dtype {
        DType::I64 => {
            let tokens: Vec<i64> = (0..value.shape.elements()).map(|_| rng.below(2) as i64).collect();
            Tensor::i64(value.shape, &tokens)
        }
        dtype => harness::random(dtype, &value.shape, &mut rng),
    };
    graph.inputs.iter().map(value).map(tensor).collect()
}

fn check(model: Model) {
    let bytes = reef_zoo::build(model, &Variant::tiny()).unwrap();
    let onnx = OnnxModel::from_bytes(&bytes).unwrap();
    let shapes: Vec<(&str, Shape)> =
        onnx.inputs().iter().map(|decl| (decl.name.as_str(), decl_shape(decl))).collect();
    let special = onnx.specialise(&shapes).unwrap();
    let inputs = inputs(&special.graph);
    let expected = reference::evaluate(&special.graph, &inputs).unwrap();
    harness::check_targets(&model.to_string(), &special.graph, &special.host_kernels, &inputs, &expected);
}

fn decl_shape(decl: &reef_onnx::TensorDecl) -> Shape {
    let extent = |dim: &reef_onnx::Dim| match dim {
        reef_onnx::Dim::Fixed(extent) => *extent,
        reef_onnx::Dim::Symbol(_) => 1,
    };
    decl.dims.iter().map(extent).collect()
}

#[test]
fn resnet18() {
    check(Model::Resnet18);
}

#[test]
fn resnet152() {
    check(Model::Resnet152);
}

#[test]
fn densenet201() {
    check(Model::Densenet201);
}

#[test]
fn vgg19() {
    check(Model::Vgg19);
}

#[test]
fn inception_v3() {
    check(Model::InceptionV3);
}

#[test]
fn distilbert() {
    check(Model::Distilbert);
}

#[test]
fn control() {
    check(Model::Control);
}
