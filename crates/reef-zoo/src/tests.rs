//! Every model in every variant: built small, decoded again and looked at.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use prost::Message;

use crate::proto::{GraphProto, ModelProto, TensorProto, data_type};
use crate::{Dim, Model, Values, Variant, ZooError, build, write};

fn decode(model: Model, variant: &Variant) -> GraphProto {
    let bytes = build(model, variant).unwrap();
    ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap()
}

fn op_types(model: Model, variant: &Variant) -> Vec<String> {
    model.graph(variant).unwrap().nodes.into_iter().map(|node| node.op_type).collect()
}

fn count(ops: &[String], op: &str) -> usize {
    ops.iter().filter(|other| *other == op).count()
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
}

/// A folder of this test alone, empty.
fn folder(test: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("reef-zoo-{}-{test}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn full_models_have_the_published_parameter_counts() {
    let published = [
        (Model::Resnet152, 60_192_808),
        (Model::Densenet201, 20_013_928),
        (Model::Vgg19, 143_667_240),
        (Model::InceptionV3, 23_834_568),
        (Model::Distilbert, 66_362_880),
        (Model::Resnet18, 11_689_512),
        (Model::Control, 629_704),
    ];
    for (model, params) in published {
        assert_eq!(model.param_count(&Variant::full()).unwrap(), params, "{model}");
        assert_eq!(model.param_count(&Variant::full().dynamic()).unwrap(), params, "{model}");
    }
    assert_eq!(published.map(|(model, _)| model), Model::ALL);
    for (model, params) in Model::PROBES.into_iter().zip([2 * 4 * 512 * 512 + 8 * 512, 0]) {
        assert_eq!(model.param_count(&Variant::full()).unwrap(), params, "{model}");
    }
}

#[test]
fn full_models_have_the_published_layers() {
    let layers = |model| {
        let ops = op_types(model, &Variant::full());
        ["Conv", "Gemm", "MatMul", "BatchNormalization"].map(|op| count(&ops, op))
    };
    assert_eq!(layers(Model::Resnet152), [151 + 4, 1, 0, 151 + 4]);
    assert_eq!(layers(Model::Resnet18), [17 + 3, 1, 0, 17 + 3]);
    assert_eq!(layers(Model::Densenet201), [200, 1, 0, 201]);
    assert_eq!(layers(Model::Vgg19), [16, 3, 0, 0]);
    assert_eq!(layers(Model::InceptionV3), [94, 1, 0, 94]);
    assert_eq!(layers(Model::Distilbert), [0, 0, 6 * 8, 0]);
    assert_eq!(layers(Model::Control), [5, 3, 0, 0]);
}

#[test]
fn a_dense_layer_concatenates_all_earlier_ones_in_one_node() {
    let graph = Model::Densenet201.graph(&Variant::full()).unwrap();
    let concat = graph.nodes.iter().find(|node| node.name == "/features/denseblock3/denselayer48/Concat");
    assert_eq!(concat.unwrap().input.len(), 48);
}

#[test]
fn tiny_models_keep_the_structure() {
    for model in Model::ALL {
        for (full, tiny) in
            [(Variant::full(), Variant::tiny()), (Variant::full().dynamic(), Variant::tiny().dynamic())]
        {
            assert_eq!(op_types(model, &full), op_types(model, &tiny), "{model}");
        }
    }
}

#[test]
fn dynamic_models_compute_what_static_ones_hold() {
    let ops = op_types(Model::Distilbert, &Variant::full().dynamic());
    for op in ["Shape", "Gather", "Concat", "Unsqueeze", "Slice", "Equal", "Expand", "Where", "Erf", "Pow"] {
        assert!(count(&ops, op) > 0, "{op}");
    }
    assert_eq!(count(&ops, "LayerNormalization"), 0);
    let ops = op_types(Model::Distilbert, &Variant::full());
    assert_eq!(count(&ops, "LayerNormalization"), 13);
    assert!(["Shape", "Constant", "Expand"].iter().all(|op| count(&ops, op) == 0));
}

#[test]
fn every_tiny_file_is_well_formed() {
    for model in Model::ALL.into_iter().chain(Model::PROBES) {
        for variant in [Variant::tiny(), Variant::tiny().batch(3), Variant::tiny().dynamic()] {
            check_graph(model, &variant, &decode(model, &variant));
        }
    }
}

fn check_graph(model: Model, variant: &Variant, graph: &GraphProto) {
    let mut known: HashSet<&str> = HashSet::new();
    let weights = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    for name in weights.chain(graph.input.iter().map(|input| input.name.as_str())) {
        assert!(known.insert(name), "{model}: two values named {name}");
    }
    let mut names = HashSet::new();
    for node in &graph.node {
        assert!(names.insert(&node.name), "{model}: two nodes named {}", node.name);
        for input in &node.input {
            assert!(
                input.is_empty() || known.contains(input.as_str()),
                "{model}: {} reads {input} before it is there",
                node.name
            );
        }
        for output in &node.output {
            assert!(known.insert(output), "{model}: two values named {output}");
        }
    }
    let read: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
    for tensor in &graph.initializer {
        assert!(read.contains(&tensor.name), "{model}: nothing reads {}", tensor.name);
        check_tensor(model, tensor);
    }
    let outputs: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    assert!(outputs.iter().all(|output| known.contains(output)));
    let specs = model.outputs(variant).unwrap();
    assert_eq!(outputs, specs.iter().map(|spec| spec.name).collect::<Vec<_>>());
}

fn check_tensor(model: Model, tensor: &TensorProto) {
    let raw = tensor.raw_data.as_ref().unwrap();
    let elements = tensor.dims.iter().product::<i64>() as usize;
    let elem_bytes = if tensor.data_type == data_type::FLOAT { 4 } else { 8 };
    assert_eq!(raw.len(), elements * elem_bytes, "{model}: {}", tensor.name);
    if tensor.data_type == data_type::FLOAT {
        for bytes in raw.chunks_exact(4) {
            let value = f32::from_le_bytes(bytes.try_into().unwrap());
            assert!(value.is_normal() || value == 0.0, "{model}: {} has {value}", tensor.name);
        }
    }
}

#[test]
fn a_file_decodes_to_what_encodes_to_the_same_again() {
    for variant in [Variant::tiny(), Variant::tiny().dynamic()] {
        let bytes = build(Model::Distilbert, &variant).unwrap();
        let file = ModelProto::decode(bytes.as_slice()).unwrap();
        let again = ModelProto::decode(file.encode_to_vec().as_slice()).unwrap();
        assert!(file == again);
        assert_eq!(file.encoded_len(), bytes.len());
    }
}

#[test]
fn files_are_the_same_on_every_machine() {
    let models = Model::ALL.into_iter().chain(Model::PROBES);
    let hashes: Vec<_> =
        models.map(|model| (model.name(), fnv(&build(model, &Variant::tiny()).unwrap()))).collect();
    let expected = [
        ("resnet152", 0x7320_DBC3_8126_4D59),
        ("densenet201", 0xF68E_FD04_28E3_8011),
        ("vgg19", 0x25B9_0C20_071A_DF17),
        ("inceptionv3", 0x63FF_1F95_3C35_50CA),
        ("distilbert", 0xEE89_A8B7_A181_960D),
        ("resnet18", 0x0143_42C3_00F9_662D),
        ("control", 0x98D3_4ADF_5F27_A38C),
        ("lstm", 0xC2D7_14EE_73AD_D194),
        ("upscale", 0x8D25_7A0C_88E4_E82A),
    ];
    assert_eq!(hashes, expected, "changed files make earlier measurements another model's");
}

#[test]
fn static_and_dynamic_files_have_the_same_weights() {
    for model in Model::ALL {
        let [fixed, symbolic] = [Variant::tiny(), Variant::tiny().dynamic()].map(|variant| {
            let weights = decode(model, &variant).initializer.into_iter();
            weights.map(|tensor| (tensor.name.clone(), tensor)).collect::<HashMap<_, _>>()
        });
        let graph = model.graph(&Variant::tiny().dynamic()).unwrap();
        let saved = graph.weights.iter().filter(|weight| weight.name != "embeddings.position_ids");
        for weight in saved {
            assert!(fixed[&weight.name] == symbolic[&weight.name], "{model}: {}", weight.name);
        }
    }
}

#[test]
fn a_seed_changes_every_trained_weight() {
    let [a, b] = [1, 2].map(|seed| decode(Model::Resnet18, &Variant::tiny().seed(seed)).initializer);
    assert!(a.iter().zip(&b).all(|(a, b)| a.name == b.name && a.raw_data != b.raw_data));
}

#[test]
fn inputs_say_what_to_feed() {
    let inputs = Model::Distilbert.inputs(&Variant::full().dynamic()).unwrap();
    assert_eq!(inputs[0].values, Values::Below(30_522));
    assert_eq!(inputs[1].dims, [Dim::Symbol("batch"), Dim::Symbol("sequence")]);
    let inputs = Model::InceptionV3.inputs(&Variant::full().batch(2).image_size(107)).unwrap();
    assert_eq!(inputs[0].dims, [2, 3, 107, 107].map(Dim::Fixed));
    let outputs = Model::Distilbert.outputs(&Variant::full().sequence(32)).unwrap();
    assert_eq!(outputs[0].dims, [1, 32, 768].map(Dim::Fixed));
}

#[test]
fn low_resolutions_build() {
    for (model, pixels) in [
        (Model::Resnet152, 32),
        (Model::Densenet201, 32),
        (Model::Vgg19, 448),
        (Model::Vgg19, 32),
        (Model::InceptionV3, 75),
        (Model::Control, 8),
    ] {
        let variant = Variant::tiny().image_size(pixels);
        check_graph(model, &variant, &decode(model, &variant));
    }
    let params = |pixels| Model::Vgg19.param_count(&Variant::full().image_size(pixels)).unwrap();
    assert_eq!(params(448), params(224));
}

#[test]
fn what_cannot_be_built_is_refused_with_the_reason() {
    let refused = |model: Model, variant: Variant| match build(model, &variant) {
        Err(error @ ZooError::Variant { .. }) => error.to_string(),
        other => panic!("{model} gave {:?}", other.map(|bytes| bytes.len())),
    };
    let cases = [
        refused(Model::InceptionV3, Variant::tiny().image_size(74)),
        refused(Model::Vgg19, Variant::tiny().image_size(256)),
        refused(Model::Vgg19, Variant::tiny().sequence(8)),
        refused(Model::Distilbert, Variant::tiny().image_size(64)),
        refused(Model::Distilbert, Variant::tiny().sequence(65)),
        refused(Model::Distilbert, Variant::tiny().dynamic().sequence(8)),
        refused(Model::Control, Variant::tiny().batch(0)),
    ];
    assert_eq!(
        cases,
        [
            "inceptionv3 cannot be built with images of 74 pixels: it needs 75 or more",
            "vgg19 cannot be built with images of 256 pixels: above 224 it needs multiples of 224",
            "vgg19 cannot be built with a sequence length for an image model",
            "distilbert cannot be built with an image size for a model of sequences",
            "distilbert cannot be built with sequences of 65 tokens: it takes 1 to 64",
            "distilbert cannot be built with a sequence length beside a symbolic one",
            "control cannot be built with a batch of 0",
        ]
    );
}

#[test]
fn names_parse_and_unknown_ones_list_the_known() {
    for model in Model::ALL.into_iter().chain(Model::PROBES) {
        assert_eq!(model.name().parse::<Model>().unwrap(), model);
    }
    let error = "resnet50".parse::<Model>().unwrap_err().to_string();
    assert!(error.contains("`resnet50`") && error.contains("resnet152, densenet201"), "{error}");
}

#[test]
fn a_written_file_is_the_built_one_and_nothing_else_is_left() {
    let folder = folder("written");
    let path = folder.join("control.onnx");
    for seed in [1, 2] {
        let variant = Variant::tiny().seed(seed);
        write(Model::Control, &variant, &path).unwrap();
        assert!(std::fs::read(&path).unwrap() == build(Model::Control, &variant).unwrap());
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_unwritable_path_is_named() {
    let folder = folder("unwritable");
    let taken = folder.join("taken.onnx");
    std::fs::create_dir_all(taken.join("inside")).unwrap();
    for path in [folder.join("missing/control.onnx"), taken] {
        let error = write(Model::Control, &Variant::tiny(), &path).unwrap_err();
        assert!(matches!(&error, ZooError::Write { path: at, .. } if *at == path));
        assert!(error.to_string().starts_with(&format!("cannot write {}: ", path.display())), "{error}");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "a partial file is left");
    std::fs::remove_dir_all(&folder).unwrap();
}
