//! The zoo: no host operator, and the same graph from a static file and a dynamic one.

use reef_graph::{Graph, Shape};
use reef_zoo::{Model, Variant};

use crate::{Dim, OnnxModel};

const ALL: [Model; 7] = [
    Model::Resnet152,
    Model::Densenet201,
    Model::Vgg19,
    Model::InceptionV3,
    Model::Distilbert,
    Model::Resnet18,
    Model::Control,
];

const TOKENS: usize = 7;

fn import(model: Model, variant: &Variant, batch: usize) -> Graph {
    let bytes = reef_zoo::build(model, variant).expect("the zoo builds its tiny models");
    let parsed = OnnxModel::from_bytes(&bytes).expect("the zoo's models are valid");
    let extent = |dim: &Dim| match dim {
        Dim::Fixed(extent) => *extent,
        Dim::Symbol(symbol) if symbol == "batch" => batch,
        Dim::Symbol(_) => TOKENS,
    };
    let inputs = parsed.inputs().iter();
    let shapes: Vec<(&str, Shape)> =
        inputs.map(|input| (input.name.as_str(), input.dims.iter().map(extent).collect())).collect();
    let specialised = parsed.specialise(&shapes).expect("the zoo's models are supported");
    assert!(specialised.host_kernels.is_empty(), "{model:?} needs no host kernel");
    specialised.graph
}

fn fixed(model: Model, batch: usize) -> Variant {
    match model {
        Model::Distilbert => Variant::tiny().batch(batch).sequence(TOKENS),
        _ => Variant::tiny().batch(batch),
    }
}

#[test]
fn dynamic_files_give_the_graphs_of_static_ones() {
    for model in ALL {
        if model == Model::Distilbert {
            continue; // Its two files mask attention in different ways.
        }
        for batch in [1, 3] {
            let from_static = import(model, &fixed(model, batch), batch);
            let from_dynamic = import(model, &Variant::tiny().dynamic(), batch);
            assert_eq!(from_static.to_string(), from_dynamic.to_string(), "{model:?} batch {batch}");
        }
    }
}

#[test]
fn layer_norms_are_found_in_both_spellings() {
    let count = |graph: &Graph, name: &str| graph.nodes.iter().filter(|node| node.op.name() == name).count();
    let spelt = import(Model::Distilbert, &Variant::tiny().dynamic(), 2);
    let named = import(Model::Distilbert, &fixed(Model::Distilbert, 2), 2);
    for operator in ["LayerNorm", "MatMul", "Softmax", "Transpose", "Reshape", "Gather"] {
        assert_eq!(count(&spelt, operator), count(&named, operator), "{operator}");
    }
}

#[test]
fn constants_are_shared_between_specialisations() {
    let bytes = reef_zoo::build(Model::Control, &Variant::tiny().dynamic()).expect("the zoo builds control");
    let model = OnnxModel::from_bytes(&bytes).expect("the zoo's models are valid");
    let constants = |batch: usize| {
        let graph = super::network::specialise(&model, &[&[batch, 3, 24, 24]]).graph;
        let tensors = graph.values.iter().filter_map(|value| match &value.kind {
            reef_graph::ValueKind::Const(tensor) if tensor.shape().elements() > 16 => {
                Some(tensor.bytes().clone())
            }
            _ => None,
        });
        tensors.collect::<Vec<_>>()
    };
    let (one, four) = (constants(1), constants(4));
    assert!(!one.is_empty() && one.len() == four.len());
    assert!(one.iter().zip(&four).all(|(a, b)| std::sync::Arc::ptr_eq(a, b)));
}
