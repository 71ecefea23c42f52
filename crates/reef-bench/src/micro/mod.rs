//! `bench micro`: what preemption costs and what it leaves to the others, in parts that run one after the
//! other. `kernels`, `length`, `clients`, `restore` and `select` repeat what the paper's sections 7.3 and 7.4
//! measure (figures 13, 14(a), 15(b) and 19(a)).
//!
//! Every part starts the devices that it needs through [`MicroEnvironment`] and ends them before the next
//! part. Models come from the zoo, with seeded weights and inputs; `quick` takes the tiny ones and few
//! samples.
//!
//! A device that queues kernels (a GPU) has parts of its own beside those that fit it as well.

mod ahead;
mod beside;
mod call;
mod devices;
mod hand_over;
mod latency;
mod launch;
mod narrow;
mod overhead;
mod preempt;
mod restore;
mod rig;
mod select;
mod stage;
mod storm;
mod sweep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reef_device::{Device, Padding, Scheme};
use reef_engine::Engine;
use reef_plan::DeviceKind;
use reef_report::micro::{MicroReport, Part};

use crate::error::{BenchError, EnvironmentError};
use crate::machine::{self, Watch};
use crate::progress::Progress;

/// What the binary provides: devices and a server.
pub trait MicroEnvironment {
    /// A fresh device. Dropping the last reference must end its threads.
    fn device(&self, request: DeviceRequest) -> Result<Arc<dyn Device>, EnvironmentError>;

    /// Serves `engine` over HTTP on a free loopback port until the answer is dropped; the engine lives on.
    fn serve(&self, engine: &Engine) -> Result<Box<dyn Serving>, EnvironmentError>;
}

/// A server that runs until it is dropped.
pub trait Serving {
    /// Where the Open Inference Protocol is spoken.
    fn address(&self) -> SocketAddr;
}

/// The device that a part needs. A GPU has all its compute units, and no cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    /// Compute units, each pinned to a core of its own.
    pub cus: usize,
    /// The first compute unit's core, as an index into the cores that this process may use, in rising order.
    /// Cores below it are left free.
    pub first_core: usize,
    /// The scheme to begin with.
    pub scheme: Scheme,
    /// Which blocks may pad a more urgent stage.
    pub padding: Padding,
    /// Of a device that queues kernels: launches of a best-effort task that may be queued at a time; `None`
    /// for the device's own choice.
    pub outstanding: Option<usize>,
}

impl DeviceRequest {
    /// Compute units from the first core on, with the usual padding.
    pub fn new(cus: usize, scheme: Scheme) -> DeviceRequest {
        DeviceRequest { cus, first_core: 0, scheme, padding: Padding::default(), outstanding: None }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct MicroOptions {
    /// Tiny models and few samples.
    pub quick: bool,
    /// Names of the parts to run, in any order; empty for all.
    pub only: Vec<String>,
    /// Compute units where a part wants one on every core.
    pub cus: usize,
}

/// A part: name, about how many seconds it takes, what it does.
type PartOf = (&'static str, u64, fn(&Bench<'_>) -> Result<Part, BenchError>);

/// The parts of devices whose units pull blocks.
const PULLED: [PartOf; 14] = [
    (preempt::NAME, 40, preempt::run),
    (sweep::KERNELS, 40, sweep::kernels),
    (sweep::LENGTH, 50, sweep::length),
    (sweep::CLIENTS, 30, sweep::clients),
    (restore::NAME, 80, restore::run),
    (select::NAME, 30, select::run),
    (stage::NAME, 5, stage::run),
    (call::NAME, 21, call::run),
    (hand_over::NAME, 5, hand_over::run),
    (narrow::NAME, 500, narrow::run),
    (beside::NAME, 320, beside::run),
    (overhead::NAME, 30, overhead::run),
    (latency::NAME, 60, latency::run),
    (devices::NAME, 280, devices::run),
];

/// The parts of devices that queue kernels.
const QUEUED: [PartOf; 8] = [
    (launch::NAME, 10, launch::run),
    (ahead::NAME, 30, ahead::run),
    (storm::NAME, 40, storm::run),
    (restore::NAME, 80, restore::run),
    (sweep::KERNELS, 40, sweep::kernels),
    (sweep::LENGTH, 50, sweep::length),
    (sweep::CLIENTS, 30, sweep::clients),
    (latency::NAME, 60, latency::run),
];

/// The parts for a kind of device.
fn parts_of(kind: DeviceKind) -> &'static [PartOf] {
    match kind {
        DeviceKind::Cpu | DeviceKind::Dummy => &PULLED,
        DeviceKind::Cuda => &QUEUED,
    }
}

/// The names of the parts for a kind of device, in the order in which they run.
pub fn part_names(kind: DeviceKind) -> impl Iterator<Item = &'static str> {
    parts_of(kind).iter().map(|(name, ..)| *name)
}

/// Runs the parts that `options` asks for.
pub fn run(
    options: &MicroOptions,
    environment: &dyn MicroEnvironment,
    progress: &Progress,
) -> Result<MicroReport, BenchError> {
    let bench = Bench { options, environment, progress };
    let (device, kind) = bench.device_name()?;
    if let Some(name) = options.only.iter().find(|name| !part_names(kind).any(|part| part == name.as_str())) {
        let known = part_names(kind).collect::<Vec<_>>().join(", ");
        return Err(BenchError::UnknownPart { name: name.clone(), known });
    }
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let parts = || parts_of(kind).iter().filter(|(name, ..)| wanted(name));
    progress.expect(parts().map(|&(_, seconds, _)| bench.shorter(Duration::from_secs(seconds))).sum());
    let machine = machine::here(&device);
    let mut report = MicroReport { machine, quick: options.quick, parts: Vec::new() };
    for &(_, _, run) in parts() {
        let watch = Watch::start();
        let part = run(&bench)?;
        report.parts.push(Part { others_cpu: watch.others(), ..part });
    }
    progress.finish();
    Ok(report)
}

/// What every part is given.
struct Bench<'a> {
    options: &'a MicroOptions,
    environment: &'a dyn MicroEnvironment,
    progress: &'a Progress,
}

impl Bench<'_> {
    /// `full`, or `quick` where little time is wanted.
    fn pick<T>(&self, full: T, quick: T) -> T {
        if self.options.quick { quick } else { full }
    }

    /// `time`, or a tenth where little time is wanted.
    fn shorter(&self, time: Duration) -> Duration {
        self.pick(time, time / 10)
    }

    /// What the device is, for people, and its kind.
    fn device_name(&self) -> Result<(String, DeviceKind), BenchError> {
        let device = self.device(DeviceRequest::new(self.options.cus, Scheme::Reset))?;
        let capabilities = device.capabilities();
        Ok((capabilities.name.clone(), capabilities.target.device))
    }

    fn device(&self, request: DeviceRequest) -> Result<Arc<dyn Device>, BenchError> {
        let device = self.environment.device(request);
        device.map_err(|source| BenchError::Environment { what: "the device", source })
    }
}
