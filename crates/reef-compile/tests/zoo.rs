//! The models of the zoo, small: imported, compiled, and compared with their graphs.

mod harness;

use std::sync::Arc;

use reef_base::Rng;
use reef_compile::{CompileOptions, compile, reference};
use reef_device::{Device, DummyDevice, DummyOptions};
use reef_graph::{DType, Shape, Tensor};
use reef_onnx::{OnnxModel, Specialised};
use reef_plan::KernelSpec;
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

fn special(model: Model) -> Specialised {
    let bytes = reef_zoo::build(model, &Variant::tiny()).unwrap();
    let onnx = OnnxModel::from_bytes(&bytes).unwrap();
    let shapes: Vec<(&str, Shape)> =
        onnx.inputs().iter().map(|decl| (decl.name.as_str(), decl_shape(decl))).collect();
    onnx.specialise(&shapes).unwrap()
}

fn check(model: Model) {
    let special = special(model);
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

/// Where convolutions norm their input, all do that read a concatenation: 98 layers, and the ways to the next
/// block. Only what the last block gives is normed by a kernel of its own.
#[test]
fn convolutions_of_densenet201_norm_their_input() {
    let special = special(Model::Densenet201);
    let (device, options) = (DummyDevice::new(DummyOptions::default()), CompileOptions::default());
    let cutter = device.cutter(None);
    let plan = compile(&special.graph, &[], &Arc::default(), cutter.as_ref(), &options).unwrap();
    let count = |is: &dyn Fn(&KernelSpec) -> bool| plan.kernels().iter().filter(|one| is(&one.spec)).count();
    assert_eq!(count(&|spec| matches!(spec, KernelSpec::Conv(spec) if spec.normed)), 98 + 3);
    let names = |is: &dyn Fn(&KernelSpec) -> bool| -> Vec<&str> {
        plan.kernels().iter().filter(|one| is(&one.spec)).map(|one| one.name.as_str()).collect()
    };
    let others = names(&|spec| matches!(spec, KernelSpec::Elementwise(_)));
    assert_eq!(others, ["/features/conv0/Conv+relu: layout", "/features/norm5/BatchNormalization+relu"]);
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
