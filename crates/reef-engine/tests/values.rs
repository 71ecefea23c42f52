//! Values of shape inputs in a model's settings: what is made for them at load, and what is refused.

mod doubles;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use doubles::{key, live};
use reef_base::limits;
use reef_engine::*;
use reef_plan::{Cost, Cutter, Kernel, KernelSpec, Place, PlanParts, Region, Restart, SyntheticSpec, Target};

/// A model whose plan depends on the value of `n`, which must not be negative, and on those of `sizes`,
/// `flag` and `scale`; `x` is data of any length.
#[derive(Debug)]
struct Chosen {
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    made: AtomicUsize,
}

impl Chosen {
    fn new() -> Arc<Chosen> {
        let info = |name: &str, dtype, dims: &[i64]| TensorInfo {
            name: name.into(),
            dtype,
            dims: dims.to_vec(),
            texts: false,
        };
        let inputs = vec![
            info("x", DType::U8, &[-1]),
            info("n", DType::I64, &[]),
            info("sizes", DType::I8, &[-1]),
            info("flag", DType::Bool, &[1]),
            info("scale", DType::F32, &[2]),
        ];
        Arc::new(Chosen { inputs, outputs: vec![info("y", DType::U8, &[-1])], made: AtomicUsize::new(0) })
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

fn plan(key: &SegmentKey, target: Target) -> Result<Plan, String> {
    let shape = |given: &Given| match given {
        Given::Tensor(_, shape) => shape.clone(),
        Given::Value(value) => value.shape().clone(),
    };
    let value = |index: usize| match &key.given[index] {
        Given::Value(value) => value.bytes().as_slice().to_vec(),
        Given::Tensor(..) => vec![],
    };
    let n = i64::from_le_bytes(value(1).try_into().map_err(|_| "n is not known")?);
    let seed = u64::try_from(n).map_err(|_| format!("{n} is negative"))?;
    let bytes = shape(&key.given[0]).elements();
    let spec = SyntheticSpec { seed, bytes, tile_bytes: 64, polls: 2, poll_ns: 1000, meter: None };
    let kernel = Kernel {
        name: "chosen".into(),
        spec: KernelSpec::Synthetic(spec),
        reads: vec![Region::dense(Place::Input(0), 0, bytes)],
        writes: vec![Region::dense(Place::Output(0), 0, bytes)],
        restart: Restart::Safe,
        cost: Cost::default(),
    };
    let io = |name: &str, dtype, shape| IoSpec { name: name.into(), dtype, shape };
    let dtypes = [DType::U8, DType::I64, DType::I8, DType::Bool, DType::F32];
    let inputs = ["x", "n", "sizes", "flag", "scale"].into_iter().zip(dtypes).zip(&key.given);
    let parts = PlanParts {
        name: format!("chosen {key}"),
        target,
        inputs: inputs.map(|((name, dtype), given)| io(name, dtype, shape(given))).collect(),
        outputs: vec![io("y", DType::U8, Shape::from([bytes]))],
        weights: vec![],
        store: Arc::default(),
        host_kernels: vec![],
        stages: vec![vec![kernel]],
        arena_bytes: 0,
    };
    Plan::new(parts).map_err(|error| error.to_string())
}

impl PlanSource for Chosen {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }
    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }
    fn compile(&self, _: &[Shape], _: &dyn Cutter) -> Result<Arc<Plan>, String> {
        Err("it depends on values".into())
    }
    fn shape_inputs(&self) -> Vec<bool> {
        vec![false, true, true, true, true]
    }
    fn segment(&self, key: &SegmentKey, cutter: &dyn Cutter) -> Result<Segment, String> {
        let target = cutter.target();
        self.made.fetch_add(1, Ordering::SeqCst);
        plan(key, target).map(|plan| Segment::last(Arc::new(plan)))
    }
}

fn shapes(x: usize) -> Vec<(String, Shape)> {
    vec![("x".into(), Shape::from([x]))]
}

/// A good set, with `name` set to `value`, or left out.
fn values(name: &str, value: Option<&[Number]>) -> Vec<(String, Vec<Number>)> {
    let good: [(&str, &[Number]); 4] = [
        ("n", &[Number::Int(7)]),
        ("sizes", &[Number::Int(-2), Number::Int(3), Number::Int(4)]),
        ("flag", &[Number::Bool(true)]),
        ("scale", &[Number::Float(0.5), Number::Int(2)]),
    ];
    let others = good.into_iter().filter(|(other, _)| *other != name);
    others
        .chain(value.map(|value| (name, value)))
        .map(|(name, value)| (name.into(), value.to_vec()))
        .collect()
}

#[test]
fn values_that_no_request_could_have_are_refused_by_name() {
    use Number::{Bool, Float, Int};
    let (engine, _device) = live();
    let many = vec![Int(1); limits::SHAPE_VALUES_MAX + 1];
    let cases: &[(&str, Option<&[Number]>, &str)] = &[
        ("q", Some(&[Int(1)]), "no input 'q'; inputs whose values decide: n, sizes, flag, scale"),
        ("x", Some(&[Int(1)]), "'x' decides nothing; inputs whose values decide: n, sizes"),
        ("n", None, "input 'n' needs one"),
        ("n", Some(&[]), "'n' has 1 elements, not 0"),
        ("n", Some(&[Int(1), Int(2)]), "'n' has 1 elements, not 2"),
        ("n", Some(&[Bool(true)]), "'n' is INT64, and cannot be true"),
        ("n", Some(&[Float(2.0)]), "'n' is INT64, and cannot be 2.0"),
        ("n", Some(&[Int(-1)]), "n []=-1"),
        ("n", Some(&[Int(-1)]), "-1 is negative"),
        ("sizes", Some(&[Int(1), Int(128)]), "'sizes' is INT8, and cannot be 1, 128"),
        ("sizes", Some(&[Int(-129)]), "'sizes' is INT8, and cannot be -129"),
        ("sizes", Some(&many), "'sizes' has 65 elements; those of 64 at most decide"),
        ("flag", Some(&[Int(1)]), "'flag' is BOOL, and cannot be 1"),
        ("scale", Some(&[Bool(true), Int(1)]), "'scale' is FP32, and cannot be true, 1"),
    ];
    for (name, value, expected) in cases {
        let settings = ModelSettings {
            shapes: vec![shapes(64)],
            values: vec![values(name, *value)],
            ..Default::default()
        };
        let error = engine.load_source(key("m"), settings, Chosen::new()).unwrap_err().to_string();
        assert!(error.contains("model m/1") && error.contains(expected), "{name} {value:?}: {error}");
        assert!(engine.models().is_empty(), "nothing stays of a failed load");
    }
    let good = || values("", None);
    let three = ModelSettings { shapes: vec![shapes(64); 2], values: vec![good(); 3], ..Default::default() };
    let error = engine.load_source(key("m"), three, Chosen::new()).unwrap_err().to_string();
    assert!(error.contains("3 sets of values for 2 sets of shapes"), "{error}");
    let open = ModelSettings { values: vec![good()], ..Default::default() };
    let error = engine.load_source(key("m"), open, Chosen::new()).unwrap_err().to_string();
    assert!(error.contains("shapes: input 'x' needs one"), "{error}");
    let many = ModelSettings { values: vec![good(); limits::PLANS_PER_MODEL_MAX + 1], ..Default::default() };
    let error = engine.load_source(key("m"), many, Chosen::new()).unwrap_err().to_string();
    assert!(error.contains("at most 64 sets"), "{error}");
    let plain = ModelSettings { shapes: vec![shapes(64)], values: vec![good()], ..Default::default() };
    let error = engine.load_source(key("m"), plain, doubles::AnyLength::new()).unwrap_err().to_string();
    assert!(error.contains("no input 'n'; inputs whose values decide: none"), "{error}");
}

#[test]
fn the_first_request_for_a_value_finds_its_plan() {
    let (engine, _device) = live();
    let source = Chosen::new();
    let other = values("n", Some(&[Number::Int(9)]));
    let settings = ModelSettings {
        shapes: vec![shapes(64), shapes(128)],
        values: vec![values("", None), other],
        ..Default::default()
    };
    let info = engine.load_source(key("m"), settings, source.clone()).unwrap();
    assert_eq!((source.made(), info.plans.len()), (2, 2), "each set of shapes with its values");
    let scale: Vec<u8> = [0.5f32, 2.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let ask = |bytes: usize, n: i64| {
        let (x, n) = (vec![3; bytes], n.to_le_bytes());
        let tensor = |name, dtype, shape: &[usize], data| {
            let shape = Shape::from(shape.to_vec());
            InputTensor { name, dtype, shape, data }
        };
        let tensors = vec![
            tensor("x", DType::U8, &[bytes], &x),
            tensor("n", DType::I64, &[], &n),
            tensor("sizes", DType::I8, &[3], &[254, 3, 4]),
            tensor("flag", DType::Bool, &[1], &[1]),
            tensor("scale", DType::F32, &[2], &scale),
        ];
        let response = engine.infer(&InferRequest::new("m", tensors)).unwrap();
        response.output("y").unwrap().data.to_vec()
    };
    let answers = [ask(64, 7), ask(128, 9)];
    assert_eq!(source.made(), 2, "both were there");
    assert_ne!(answers[0], ask(64, 9), "another value is another plan");
    assert_eq!(source.made(), 3);
}

#[test]
fn one_set_goes_with_each_of_the_others() {
    let (engine, _device) = live();
    let load = |name: &str, shape_sets: Vec<InputShapes>, value_sets: Vec<InputValues>| {
        let settings = ModelSettings { shapes: shape_sets, values: value_sets, ..Default::default() };
        engine.load_source(key(name), settings, Chosen::new()).unwrap().plans.len()
    };
    let at = |n| values("n", Some(&[Number::Int(n)]));
    assert_eq!(load("values", vec![shapes(64)], vec![at(1), at(2), at(3)]), 3);
    assert_eq!(load("shapes", vec![shapes(64), shapes(128)], vec![at(1)]), 2);
    let sizes = ("sizes".to_string(), Shape::from([3]));
    let alone = vec![[shapes(64), vec![sizes]].concat()];
    assert_eq!(load("shapes alone", alone, vec![]), 0, "values are needed to make a plan");
}
