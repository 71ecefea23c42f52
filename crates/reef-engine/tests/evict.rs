//! Plans that clients' shapes made come and go with the memory that there is; what they held is given back.

mod doubles;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use doubles::*;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_engine::*;
use reef_graph::Tensor;
use reef_plan::{
    Cost, Cutter, Kernel, KernelSpec, Packing, Place, PlanParts, Region, Restart, SyntheticSpec, Target,
    WeightStore,
};

const MIB: usize = 1 << 20;

/// As many bytes out as in, whatever their number; each shape has a mebibyte of weights of its own.
#[derive(Debug)]
struct Heavy {
    io: [Vec<TensorInfo>; 2],
    made: AtomicUsize,
}

impl Heavy {
    fn new() -> Arc<Heavy> {
        let info = |name: &str| {
            vec![TensorInfo { name: name.into(), dtype: DType::U8, dims: vec![-1], texts: false }]
        };
        Arc::new(Heavy { io: [info("x"), info("y")], made: AtomicUsize::new(0) })
    }

    fn plan(bytes: usize, target: Target) -> Result<Plan, String> {
        let spec = SyntheticSpec { seed: 5, bytes, tile_bytes: 64, polls: 1, poll_ns: 100, meter: None };
        let kernel = Kernel {
            name: "heavy".into(),
            spec: KernelSpec::Synthetic(spec),
            reads: vec![Region::dense(Place::Input(0), 0, bytes)],
            writes: vec![Region::dense(Place::Output(0), 0, bytes)],
            restart: Restart::Safe,
            cost: Cost::default(),
        };
        let store = WeightStore::new();
        let values: Vec<f32> = (0..MIB / 4).map(|index| (index + bytes) as f32).collect();
        let weight = store.insert(&Tensor::f32(vec![MIB / 4], &values), Packing::Raw);
        let io = |name: &str| IoSpec { name: name.into(), dtype: DType::U8, shape: Shape::from([bytes]) };
        let parts = PlanParts {
            name: format!("heavy [{bytes}]"),
            target,
            inputs: vec![io("x")],
            outputs: vec![io("y")],
            weights: vec![weight],
            store: Arc::new(store),
            host_kernels: vec![],
            stages: vec![vec![kernel]],
            arena_bytes: 0,
        };
        Plan::new(parts).map_err(|error| error.to_string())
    }
}

impl PlanSource for Heavy {
    fn inputs(&self) -> &[TensorInfo] {
        &self.io[0]
    }
    fn outputs(&self) -> &[TensorInfo] {
        &self.io[1]
    }
    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        self.made.fetch_add(1, Ordering::SeqCst);
        Heavy::plan(shapes[0][0], cutter.target()).map(Arc::new)
    }
}

fn limited(mebibytes: usize) -> Engine {
    let memory_bytes = Some((mebibytes * MIB) as u64);
    let device = CpuDevice::start(CpuOptions { cus: Some(1), memory_bytes, ..CpuOptions::default() });
    Engine::new(Arc::new(device.unwrap()), EngineOptions::default()).unwrap()
}

fn weights(engine: &Engine) -> u64 {
    engine.stats().devices[0].memory[0].weights
}

#[test]
fn shapes_that_were_not_used_for_longest_make_room() {
    let engine = limited(5);
    let source = Heavy::new();
    engine.load_source(key("m"), ModelSettings::default(), source.clone()).unwrap();
    let first = [1; 64];
    for shape in 1..=12 {
        let data = vec![shape as u8; 64 * shape];
        engine.infer(&request("m", &data)).unwrap();
        // Asked for again and again, so it stays.
        engine.infer(&request("m", &first)).unwrap();
        assert!(weights(&engine) <= (5 * MIB) as u64);
    }
    assert_eq!(source.made.load(Ordering::SeqCst), 12, "the one that is used was made once");
    assert!(weights(&engine) >= MIB as u64, "the books count");
    // One that went is made again.
    engine.infer(&request("m", &[2; 128])).unwrap();
    assert_eq!(source.made.load(Ordering::SeqCst), 13);
    engine.unload("m", None, Queued::Finish).unwrap();
    assert_eq!(weights(&engine), 0);
}

#[test]
fn a_model_makes_room_for_itself_and_not_at_the_cost_of_others() {
    let engine = limited(5);
    let (own, other) = (Heavy::new(), Heavy::new());
    engine.load_source(key("other"), ModelSettings::default(), other.clone()).unwrap();
    engine.load_source(key("own"), ModelSettings::default(), own.clone()).unwrap();
    for shape in [1, 2] {
        engine.infer(&request("other", &vec![1; 64 * shape])).unwrap();
    }
    for shape in 3..10 {
        engine.infer(&request("own", &vec![1; 64 * shape])).unwrap();
    }
    for shape in [1, 2] {
        engine.infer(&request("other", &vec![1; 64 * shape])).unwrap();
    }
    assert_eq!(other.made.load(Ordering::SeqCst), 2, "nothing of it went");
}

/// Until it is so: somebody looks now and then.
fn until(what: &str, done: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !done() {
        assert!(begin.elapsed() < std::time::Duration::from_secs(120), "{what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// What settings name stays; sessions keep what they have.
#[test]
fn shapes_that_nobody_asks_for_go() {
    let device = CpuDevice::start(CpuOptions { cus: Some(1), ..CpuOptions::default() }).unwrap();
    let options = EngineOptions { plan_idle: Nanos::from_millis(40), ..EngineOptions::default() };
    let engine = Engine::new(Arc::new(device), options).unwrap();
    let source = Heavy::new();
    let named = vec![vec![("x".to_string(), Shape::from([64]))]];
    let settings = ModelSettings { shapes: named, ..ModelSettings::default() };
    engine.load_source(key("m"), settings, source.clone()).unwrap();
    let with_one = engine.stats().devices[0].memory[0];
    for shape in 2..=6 {
        engine.infer(&request("m", &vec![1; 64 * shape])).unwrap();
    }
    let session = SessionOptions { shapes: vec![("x", Shape::from([64 * 3]))], ..SessionOptions::default() };
    let mut session = engine.session("m", &session).unwrap();
    let count = || engine.model("m", None).unwrap().plans.len();
    let made = source.made.load(Ordering::SeqCst);
    until("only that stays beside the one that is named", || count() == 2);
    until("the others' weights are gone", || weights(&engine) == 2 * MIB as u64);
    session.run().unwrap();
    engine.infer(&request("m", &[1; 64])).unwrap();
    engine.infer(&request("m", &[1; 64 * 3])).unwrap();
    assert_eq!(source.made.load(Ordering::SeqCst), made, "they were there");
    drop(session);
    engine.infer(&request("m", &[1; 64])).unwrap();
    until("only what is named stays", || count() == 1);
    until("all else is gone", || engine.stats().devices[0].memory[0] == with_one);
    engine.infer(&request("m", &[1; 64])).unwrap();
    engine.infer(&request("m", &[1; 64 * 2])).unwrap();
    assert_eq!(source.made.load(Ordering::SeqCst), made + 1, "what went is made again");
}

#[test]
fn plans_of_batches_stay() {
    let (engine, device) = live();
    let settings = ModelSettings {
        batch_rows_max: Some(4),
        batching: Some(Batching::default()),
        ..ModelSettings::default()
    };
    engine.load_source(key("m"), settings, rows::Rows::new(1)).unwrap();
    engine.load_source(key("any"), ModelSettings::default(), AnyLength::new()).unwrap();
    for shape in 1..=4 {
        engine.infer(&request("any", &vec![1; 64 * shape])).unwrap();
    }
    let count = |name: &str| engine.model(name, None).unwrap().plans.len();
    assert_eq!((count("m"), count("any")), (3, 4));
    // The device has no more places: every model gives up half of what may go.
    device.set_places(0);
    engine.infer(&request("any", &vec![1; 64 * 5])).unwrap();
    assert_eq!((count("m"), count("any")), (3, 3));
    let data = rows::filled(&[1, 2, 3]);
    rows::assert_rows(&data, &engine.infer(&rows::ask("m", &data)).unwrap());
}
