//! A server on loopback with synthetic models on the virtual-time dummy device.
//!
//! Time stands still until a test lets it pass, so "while the request runs" is a state and not a race. So is
//! "while the model loads".

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reef_engine::{
    ClassStats, DType, Engine, EngineOptions, IoSpec, ModelKey, ModelSettings, Plan, PlanSource, Shape,
    TensorInfo,
};
use reef_plan::{
    Cost, Cutter, Kernel, KernelSpec, Place, PlanParts, Region, Restart, SyntheticSpec, WeightStore,
};
use reef_server::{Running, Server, ServerOptions};
use tempfile::TempDir;

use crate::client::Client;
use crate::gate::{Gate, PATIENCE};
use crate::grpc::client::Grpc;

/// The server under test, its engine, and the thread that lets virtual time pass.
pub struct Fixture {
    pub engine: Engine,
    pub gate: Arc<Gate>,
    /// Where clients may have timelines written.
    pub traces: TempDir,
    running: Option<Running>,
    driver: Option<JoinHandle<()>>,
}

impl Fixture {
    /// Bodies of one mebibyte, free ports.
    pub fn new() -> Fixture {
        Self::with_bodies(ServerOptions::default().bodies_bytes_max)
    }

    /// With a budget for all bodies together.
    pub fn with_bodies(bodies_bytes_max: usize) -> Fixture {
        Self::with(|options| options.bodies_bytes_max = bodies_bytes_max)
    }

    /// With the model `m`, as [`Fixture::with_m`], and clients that may register shared memory.
    pub fn with_client_shm() -> Fixture {
        let fixture = Self::with(|options| options.allow_client_shm = true);
        fixture.model("m", &[x()], &[y()], ModelSettings::default());
        fixture
    }

    /// With the model `m`, as [`Fixture::with_m`], and the ring at this path.
    pub fn with_ring(path: &std::path::Path) -> Fixture {
        let fixture = Self::with(|options| options.ring = Some(reef_server::RingOptions::new(path)));
        fixture.model("m", &[x()], &[y()], ModelSettings::default());
        fixture
    }

    /// With other options than the usual ones.
    pub fn with(change: impl FnOnce(&mut ServerOptions)) -> Fixture {
        let gate = Gate::new();
        let engine = Engine::new(gate.clone(), EngineOptions::default()).unwrap();
        let traces = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let mut options = ServerOptions {
            http: any,
            grpc: Some(any),
            metrics: Some(any),
            body_bytes_max: 1 << 20,
            trace_folder: Some(traces.path().into()),
            ..Default::default()
        };
        change(&mut options);
        let running = Server::bind(options).unwrap().start(engine.clone()).unwrap();
        let driver = {
            let (engine, gate) = (engine.clone(), gate.clone());
            std::thread::spawn(move || gate.drive(|| engine.step()))
        };
        Fixture { engine, gate, traces, running: Some(running), driver: Some(driver) }
    }

    /// Adds the model `name` with these tensors.
    pub fn model(&self, name: &str, inputs: &[Tensor], outputs: &[Tensor], settings: ModelSettings) {
        let source = Arc::new(Synthetic::new(inputs, outputs));
        self.engine.load_source(key(name), settings, source).unwrap();
    }

    /// Begins to load the model `name`; it is loading until the answer is used.
    pub fn loading(&self, name: &str) -> Loading {
        let ((begun, begin), (finish, finished)) = (channel(), channel());
        let source = Slow { model: Synthetic::new(&[x()], &[y()]), begun, finished: Mutex::new(finished) };
        let (engine, key) = (self.engine.clone(), key(name));
        let load = move || drop(engine.load_source(key, ModelSettings::default(), Arc::new(source)).unwrap());
        let thread = std::thread::spawn(load);
        begin.recv().unwrap();
        Loading { finish, thread }
    }

    /// A fixture with the best-effort model `m`: FP32 `x` of shape [2, 2] in, FP32 `y` of shape [2, 2] out.
    pub fn with_m() -> Fixture {
        let fixture = Fixture::new();
        fixture.model("m", &[x()], &[y()], ModelSettings::default());
        fixture
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("not shut down yet")
    }

    pub fn client(&self) -> Client {
        Client::connect(self.running().http_addr())
    }

    /// A client over gRPC.
    pub fn grpc(&self) -> Grpc {
        Grpc::connect(self.running().grpc_addr().expect("the fixture serves gRPC"))
    }

    /// Waits until the statistics of `model`, both classes added up by `what`, are `wanted`.
    pub fn wait_for(&self, model: &str, what: impl Fn(&ClassStats) -> u64, wanted: u64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let stats = self.engine.stats();
            let model = stats.models.iter().find(|stats| stats.key.name == model).unwrap();
            let number = what(&model.real_time) + what(&model.best_effort);
            if number == wanted {
                return;
            }
            assert!(Instant::now() < end, "{number} instead of {wanted}: {model:?}");
            std::thread::yield_now();
        }
    }

    /// Drops the server without a shutdown.
    pub fn cut_off(&mut self) {
        self.running = None;
    }

    /// Shuts the server down on another thread.
    pub fn shut_down(&mut self, drain: Duration) -> JoinHandle<bool> {
        let running = self.running.take().expect("not shut down yet");
        std::thread::spawn(move || running.shutdown(drain))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.gate.end();
        if let Some(driver) = self.driver.take() {
            let _ = driver.join();
        }
    }
}

/// Asks again and again until it is so, which must come.
#[track_caller]
pub fn until(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "it never is");
        std::thread::yield_now();
    }
}

/// Set when it is dropped: what others wait for has an end, also where a test fails.
#[derive(Default)]
pub struct Ends(AtomicBool);

/// Sets it.
pub struct End<'a>(&'a Ends);

impl Ends {
    /// Has it set when this goes.
    pub fn at_drop(&self) -> End<'_> {
        End(self)
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// A model that is loading.
pub struct Loading {
    finish: Sender<()>,
    thread: JoinHandle<()>,
}

impl Loading {
    /// Lets it become ready.
    pub fn finish(self) {
        self.finish.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// Name, type and extents (-1 open) of a tensor.
pub type Tensor = (&'static str, DType, &'static [i64]);

pub fn x() -> Tensor {
    ("x", DType::F32, &[2, 2])
}

pub fn y() -> Tensor {
    ("y", DType::F32, &[2, 2])
}

pub fn key(name: &str) -> ModelKey {
    ModelKey { name: name.into(), version: "1".into() }
}

/// A model of one synthetic kernel per output, each of which reads all inputs.
#[derive(Debug)]
struct Synthetic {
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
}

impl Synthetic {
    fn new(inputs: &[Tensor], outputs: &[Tensor]) -> Synthetic {
        let infos = |tensors: &[Tensor]| {
            let info = |&(name, dtype, dims): &Tensor| TensorInfo {
                name: name.to_string(),
                dtype,
                dims: dims.to_vec(),
                texts: false,
            };
            tensors.iter().map(info).collect()
        };
        Synthetic { inputs: infos(inputs), outputs: infos(outputs) }
    }
}

impl PlanSource for Synthetic {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        let spec =
            |info: &TensorInfo, shape: Shape| IoSpec { name: info.name.clone(), dtype: info.dtype, shape };
        let inputs: Vec<IoSpec> =
            self.inputs.iter().zip(shapes).map(|(info, shape)| spec(info, shape.clone())).collect();
        // An open extent of an output is the first extent of the first input.
        let open = shapes[0].first().copied().unwrap_or(1);
        let shape = |info: &TensorInfo| -> Shape {
            info.dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(open)).collect()
        };
        let outputs: Vec<IoSpec> = self.outputs.iter().map(|info| spec(info, shape(info))).collect();
        let stage = |(index, output)| vec![kernel(index, &inputs, output)];
        let stages = outputs.iter().enumerate().map(stage).collect();
        let parts = PlanParts {
            name: "synthetic".into(),
            target: cutter.target(),
            stages,
            inputs,
            outputs,
            weights: vec![],
            store: Arc::new(WeightStore::new()),
            host_kernels: vec![],
            arena_bytes: 0,
        };
        Plan::new(parts).map(Arc::new).map_err(|error| error.to_string())
    }
}

/// A model whose compilation takes until somebody says so.
#[derive(Debug)]
struct Slow {
    model: Synthetic,
    begun: Sender<()>,
    finished: Mutex<Receiver<()>>,
}

impl PlanSource for Slow {
    fn inputs(&self) -> &[TensorInfo] {
        self.model.inputs()
    }

    fn outputs(&self) -> &[TensorInfo] {
        self.model.outputs()
    }

    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        self.begun.send(()).unwrap();
        self.finished.lock().unwrap().recv().unwrap();
        self.model.compile(shapes, cutter)
    }
}

fn kernel(index: usize, inputs: &[IoSpec], output: &IoSpec) -> Kernel {
    let place = |index: usize| u16::try_from(index).unwrap();
    let reads = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| Region::dense(Place::Input(place(index)), 0, input.bytes()));
    Kernel {
        name: format!("make {}", output.name),
        spec: KernelSpec::Synthetic(synthetic(index, output.bytes())),
        reads: reads.collect(),
        writes: vec![Region::dense(Place::Output(place(index)), 0, output.bytes())],
        restart: Restart::Safe,
        cost: Cost::default(),
    }
}

fn synthetic(index: usize, bytes: usize) -> SyntheticSpec {
    SyntheticSpec { seed: index as u64, bytes, tile_bytes: 64, polls: 4, poll_ns: 1_000, meter: None }
}

/// The bytes of output `index` for these inputs.
pub fn expected(index: usize, inputs: &[&[u8]], bytes: usize) -> Vec<u8> {
    let digest = synthetic(index, bytes).digest(inputs.iter().copied());
    (0..bytes).map(|index| SyntheticSpec::byte(digest, index)).collect()
}
