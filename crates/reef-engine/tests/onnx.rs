//! ONNX models through the whole path: read, compiled at load or on first use, run beside each other.

mod doubles;

use doubles::*;
use reef_base::Rng;
use reef_engine::*;
use reef_zoo::{Model, Variant};

fn load_zoo(engine: &Engine, model: Model, variant: &Variant, settings: ModelSettings) -> ModelInfo {
    let source = ModelSource::Bytes(reef_zoo::build(model, variant).unwrap());
    engine.load(ModelSpec { key: key("m"), source, settings }).unwrap()
}

fn floats(output: &OutputTensor<'_>) -> Vec<f32> {
    assert_eq!(output.dtype, DType::F32);
    output.data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Random inputs of these shapes: small ids, ones as masks, normal numbers elsewhere.
fn inputs(info: &ModelInfo, shapes: &[Shape]) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(1);
    let each = info.inputs.iter().zip(shapes);
    each.map(|(input, shape)| {
        let values = 0..shape.elements();
        match input.dtype {
            DType::I64 if input.name.contains("mask") => values.flat_map(|_| 1i64.to_le_bytes()).collect(),
            DType::I64 => values.flat_map(|_| (rng.below(20) as i64).to_le_bytes()).collect(),
            _ => values.flat_map(|_| rng.normal_f32().to_le_bytes()).collect(),
        }
    })
    .collect()
}

fn tensors<'a>(info: &'a ModelInfo, shapes: &[Shape], data: &'a [Vec<u8>]) -> Vec<InputTensor<'a>> {
    let each = info.inputs.iter().zip(shapes).zip(data);
    each.map(|((input, shape), data)| InputTensor {
        name: &input.name,
        dtype: input.dtype,
        shape: shape.clone(),
        data,
    })
    .collect()
}

#[test]
fn a_model_with_symbolic_dimensions_serves_every_shape() {
    let engine = cpu();
    let variant = Variant::tiny().dynamic();
    let info = load_zoo(&engine, Model::Distilbert, &variant, ModelSettings::default());
    assert!(info.plans.is_empty());
    assert!(info.inputs.iter().all(|input| input.dims == [-1, -1]));
    for (batch, sequence) in [(1, 8), (3, 8), (2, 5), (1, 8)] {
        let shapes = vec![Shape::from([batch, sequence]); info.inputs.len()];
        let data = inputs(&info, &shapes);
        let response = engine.infer(&InferRequest::new("m", tensors(&info, &shapes, &data))).unwrap();
        let output = response.output_at(0);
        assert_eq!(output.shape[..2], [batch, sequence]);
        assert!(floats(&output).iter().all(|value| value.is_finite()));
    }
    assert_eq!(engine.model("m", None).unwrap().plans.len(), 3);
    let uneven = [Shape::from([1, 8]), Shape::from([1, 9])];
    let data = inputs(&info, &uneven);
    let error = engine.infer(&InferRequest::new("m", tensors(&info, &uneven, &data))).unwrap_err();
    assert!(matches!(error, InferError::Shapes(_)), "{error}");
}

#[test]
fn schemes_and_preemption_do_not_change_a_bit_of_the_outputs() {
    let engine = cpu();
    let info = load_zoo(&engine, Model::Resnet18, &Variant::tiny(), ModelSettings::default());
    load(&engine, "rt", real_time(0), 2);
    let shapes: Vec<Shape> = info.inputs.iter().map(|input| input.fixed_shape().unwrap()).collect();
    let data = inputs(&info, &shapes);
    let infer = || engine.infer(&InferRequest::new("m", tensors(&info, &shapes, &data))).unwrap();
    let expected = infer().output_at(0).data.to_vec();
    std::thread::scope(|scope| {
        let best_effort = scope.spawn(|| {
            for _ in 0..30 {
                assert_eq!(infer().output_at(0).data, expected);
            }
        });
        while !best_effort.is_finished() {
            engine.infer(&request("rt", &[1; 64])).unwrap();
        }
    });
    for scheme in [Scheme::Sequential, Scheme::Concurrent, Scheme::Wait] {
        engine.set_scheme(scheme);
        assert_eq!(infer().output_at(0).data, expected, "{scheme}");
    }
}

#[test]
fn nan_passes_through() {
    let engine = cpu();
    let info = load_zoo(&engine, Model::Control, &Variant::tiny(), ModelSettings::default());
    let shapes: Vec<Shape> = info.inputs.iter().map(|input| input.fixed_shape().unwrap()).collect();
    let data: Vec<Vec<u8>> =
        shapes.iter().map(|shape| f32::NAN.to_le_bytes().repeat(shape.elements())).collect();
    engine.infer(&InferRequest::new("m", tensors(&info, &shapes, &data))).unwrap();
}
