//! Devices and models for the engine's tests: the virtual-time dummy as it is, and behind a thread that lets
//! its time pass, so that the engine's own threads are exercised too. Outputs are known without a device.
#![allow(dead_code, reason = "every test crate uses its own part")]

#[macro_use]
mod forward;
pub mod faulty;
pub mod foreign;
pub mod rows;
pub mod slow;
pub mod wheel;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use reef_base::{Clock, TaskId, VirtualClock};
use reef_cpu::{CpuDevice, CpuOptions, allowed_cores};
use reef_device::dummy::{DummyDevice, DummyOptions};
use reef_device::{Io, LoadedPlan};
use reef_engine::*;
use reef_plan::{Cutter, SyntheticStage, Target, synthetic_output, synthetic_plan};

/// A dummy whose time passes by itself while it is not held: to the engine it is a real device.
pub struct LiveDummy {
    inner: Arc<DummyDevice>,
    clock: VirtualClock,
    /// Whether the engine is to know that its time is virtual, and to let it pass.
    virtual_time: bool,
    held: Arc<(Mutex<bool>, Condvar)>,
    stop: Arc<AtomicBool>,
    /// Buffers that it still gives out.
    ios: AtomicUsize,
    /// Plans that it still takes.
    places: AtomicUsize,
    /// Whether it stops tasks that are cancelled.
    stops: bool,
}

impl LiveDummy {
    pub fn new(options: DummyOptions) -> Arc<LiveDummy> {
        LiveDummy::with(options, false, usize::MAX)
    }

    /// Its time stands still, nothing stops what it does, and it has buffers for one request only.
    pub fn stuck() -> Arc<LiveDummy> {
        let stuck = LiveDummy::with(DummyOptions::default(), true, 1);
        stuck.hold(true);
        stuck
    }

    fn with(options: DummyOptions, virtual_time: bool, ios: usize) -> Arc<LiveDummy> {
        let clock = options.clock.clone();
        let inner = Arc::new(DummyDevice::new(options));
        let (held, stop) = (Arc::new((Mutex::new(false), Condvar::new())), Arc::new(AtomicBool::new(false)));
        let live = (inner.clone(), held.clone(), stop.clone());
        std::thread::spawn(move || {
            let (inner, held, stop) = live;
            while !stop.load(Ordering::SeqCst) {
                let mut wait = held.0.lock().unwrap_or_else(PoisonError::into_inner);
                while *wait && !stop.load(Ordering::SeqCst) {
                    wait = held.1.wait(wait).unwrap_or_else(PoisonError::into_inner);
                }
                drop(wait);
                if !inner.advance() {
                    std::thread::yield_now();
                }
            }
        });
        let (ios, places, stops) = (ios.into(), usize::MAX.into(), !virtual_time);
        Arc::new(LiveDummy { inner, clock, virtual_time, held, stop, ios, places, stops })
    }

    /// From now on it takes so many more plans.
    pub fn set_places(&self, places: usize) {
        self.places.store(places, Ordering::SeqCst);
    }

    /// Stops time, or lets it go on.
    pub fn hold(&self, hold: bool) {
        *self.held.0.lock().unwrap_or_else(PoisonError::into_inner) = hold;
        self.held.1.notify_all();
    }

    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }
}

impl Drop for LiveDummy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.hold(false);
    }
}

impl fmt::Debug for LiveDummy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveDummy")
    }
}

impl Device for LiveDummy {
    forward!(
        capabilities,
        cutter,
        scheme,
        set_scheme,
        submit,
        try_complete,
        set_waker,
        quiesce,
        resume,
        poison,
        fault,
        memory,
        counters,
        block_times,
        record_events,
        drain_events
    );

    fn virtual_clock(&self) -> Option<&VirtualClock> {
        self.virtual_time.then_some(&self.clock)
    }
    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        let take = |left: usize| left.checked_sub(1);
        let taken = self.places.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        taken.map_err(|_| DeviceError::TooManyPlans { max: 0 })?;
        self.inner.load(plan)
    }
    fn unload(&self, plan: LoadedPlan) {
        self.inner.unload(plan);
        self.places.fetch_add(1, Ordering::SeqCst);
    }
    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        let take = |left: usize| left.checked_sub(1);
        self.ios.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()?;
        self.inner.alloc_io(plan)
    }
    fn cancel(&self, task: TaskId) {
        if self.stops {
            self.inner.cancel(task);
        }
    }
}

/// An engine whose time passes in steps.
pub fn stepped() -> Engine {
    stepped_with(EngineOptions::default())
}

/// The same, with options.
pub fn stepped_with(options: EngineOptions) -> Engine {
    Engine::new(Arc::new(DummyDevice::new(DummyOptions::default())), options).unwrap()
}

/// An engine over so many dummies of one clock, whose time passes in steps.
pub fn dummies(count: usize) -> Engine {
    let options = DummyOptions::default();
    let dummy = |_| Arc::new(DummyDevice::new(options.clone())) as Arc<dyn Device>;
    Engine::over(named((0..count).map(dummy).collect()), EngineOptions::default()).unwrap()
}

/// An engine with its threads.
pub fn live() -> (Engine, Arc<LiveDummy>) {
    let device = LiveDummy::new(DummyOptions::default());
    let options = EngineOptions { clock: device.clock(), ..EngineOptions::default() };
    (Engine::new(device.clone(), options).unwrap(), device)
}

/// An engine on two threads of this machine.
pub fn cpu() -> Engine {
    let device = CpuDevice::start(CpuOptions { cus: Some(2), ..CpuOptions::default() }).unwrap();
    Engine::new(Arc::new(device), EngineOptions::default()).unwrap()
}

/// Devices with names: `d:0` and so on.
pub fn named(devices: Vec<Arc<dyn Device>>) -> Vec<PoolDevice> {
    let name = |(index, device)| PoolDevice { name: format!("d:{index}"), device };
    devices.into_iter().enumerate().map(name).collect()
}

/// An engine over so many CPU devices of one compute unit each, on cores of their own as far as there are.
pub fn cpus(count: usize) -> Engine {
    let cores = allowed_cores();
    let device = |index: usize| -> Arc<dyn Device> {
        let cores = Some(vec![cores[index % cores.len()]]);
        Arc::new(CpuDevice::start(CpuOptions { cus: Some(1), cores, ..CpuOptions::default() }).unwrap())
    };
    Engine::over(named((0..count).map(device).collect()), EngineOptions::default()).unwrap()
}

/// On this device.
pub fn on(device: &str, settings: ModelSettings) -> ModelSettings {
    ModelSettings { devices: vec![device.into()], ..settings }
}

/// Poisons a device and waits until the engine knows.
pub fn poison(engine: &Engine, device: &str) {
    engine.device_named(device).unwrap().poison("planted");
    while engine.stats().devices.iter().all(|stats| stats.fault.is_none()) {
        std::thread::yield_now();
    }
}

pub fn key(name: &str) -> ModelKey {
    ModelKey { name: name.into(), version: "1".into() }
}

/// A plan of `stages` stages of 4 blocks of 10 µs each.
pub fn plan(engine: &Engine, name: &str, seed: u64, stages: usize) -> Arc<Plan> {
    plan_for(engine.capabilities().target, name, seed, stages)
}

pub fn plan_for(target: Target, name: &str, seed: u64, stages: usize) -> Arc<Plan> {
    let stage = SyntheticStage { blocks: 4, polls: 10, poll_ns: 1000 };
    Arc::new(synthetic_plan(name, target, seed, &vec![stage; stages]).unwrap())
}

/// Loads a synthetic model and returns its plan.
pub fn load(engine: &Engine, name: &str, settings: ModelSettings, stages: usize) -> Arc<Plan> {
    let plan = plan(engine, name, name.len() as u64, stages);
    engine.load_plan(key(name), settings, plan.clone()).unwrap();
    plan
}

pub fn real_time(level: u8) -> ModelSettings {
    ModelSettings::real_time(Level::new(level).unwrap())
}

/// A request with the one input that synthetic plans have.
pub fn request<'a>(model: &'a str, data: &'a [u8]) -> InferRequest<'a> {
    let shape = Shape::from([data.len()]);
    InferRequest::new(model, vec![InputTensor { name: "x", dtype: DType::U8, shape, data }])
}

/// Checks an answer bit for bit.
pub fn assert_exact(plan: &Plan, input: &[u8], response: &InferResponse) {
    assert_eq!(response.output("y").unwrap().data, synthetic_output(plan, input));
}

/// A model of one symbolic dimension: any multiple of 64 bytes in, as many out. Counts its compilations.
#[derive(Debug)]
pub struct AnyLength {
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    pub compiled: std::sync::atomic::AtomicUsize,
}

impl AnyLength {
    pub fn new() -> Arc<AnyLength> {
        let info = |name: &str| {
            vec![TensorInfo { name: name.into(), dtype: DType::U8, dims: vec![-1], texts: false }]
        };
        Arc::new(AnyLength { inputs: info("x"), outputs: info("y"), compiled: Default::default() })
    }

    pub fn plan(bytes: usize, target: Target) -> Result<Plan, String> {
        use reef_plan::{Cost, Kernel, KernelSpec, Place, PlanParts, Region, Restart, SyntheticSpec};
        if !bytes.is_multiple_of(64) {
            return Err(format!("{bytes} is not a multiple of 64"));
        }
        let spec = SyntheticSpec { seed: 5, bytes, tile_bytes: 64, polls: 2, poll_ns: 1000, meter: None };
        let kernel = Kernel {
            name: "any".into(),
            spec: KernelSpec::Synthetic(spec),
            reads: vec![Region::dense(Place::Input(0), 0, bytes)],
            writes: vec![Region::dense(Place::Output(0), 0, bytes)],
            restart: Restart::Safe,
            cost: Cost::default(),
        };
        let io = |name: &str| IoSpec { name: name.into(), dtype: DType::U8, shape: Shape::from([bytes]) };
        let parts = PlanParts {
            name: format!("any [{bytes}]"),
            target,
            inputs: vec![io("x")],
            outputs: vec![io("y")],
            weights: vec![],
            store: Arc::default(),
            host_kernels: vec![],
            stages: vec![vec![kernel]],
            arena_bytes: 0,
        };
        Plan::new(parts).map_err(|error| error.to_string())
    }
}

impl PlanSource for AnyLength {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }
    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }
    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        self.compiled.fetch_add(1, Ordering::SeqCst);
        AnyLength::plan(shapes[0][0], cutter.target()).map(Arc::new)
    }
}
