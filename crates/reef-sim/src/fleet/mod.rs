//! Fleets of devices at the level of tasks, in virtual time: many engines, each with the router and the
//! schedulers that serve requests in the field, and clients of its own.
//!
//! | module | owns |
//! |---|---|
//! | `clients` | what a client asks when |
//! | `device` | who has a device, for how long; the scheduler is driven as an engine drives it |
//! | `engine` | arrivals, routing and answers of one engine |
//! | `histogram` | percentiles in fixed room |
//! | `service` | how long a model takes alone |
//!
//! Requests do not pass from one engine to another, so engines are played one after the other, and what
//! is kept of each is a few sums per device. Everything is a function of the fleet, the length and the
//! seed; service times depend on neither placement nor scheduling.
//!
//! What is simplified: a task's work is one number (no kernels, blocks or copies), the devices of an
//! engine know nothing of each other, and what sharing costs is four constants ([`Constants`]).

mod clients;
mod device;
mod engine;
mod histogram;
mod service;

use reef_base::{Class, Nanos, Rng};
use reef_load::workload::ArrivalSpec;

pub use device::{Constants, Used};
pub use histogram::Histogram;
pub use service::{Quantiles, Service};

use device::Outcome;
use engine::Engine;

/// Engines but the first join the schedules of their clients (traces and periods, all at one time, so
/// that what comes at once does so everywhere) at random, at most so late: else all would do the same.
const BEGIN_MAX: Nanos = Nanos(3_600_000_000_000);

/// What is simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// Copies of all below, each with random numbers of its own, and at another place of traces.
    pub engines: usize,
    /// Devices of an engine.
    pub devices: Vec<Device>,
    /// Models of an engine.
    pub models: Vec<Model>,
    /// Clients of an engine.
    pub clients: Vec<Client>,
}

/// A device of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name in reports.
    pub name: String,
    /// What it costs to share it.
    pub constants: Constants,
    /// Indices of the models that it has.
    pub models: Vec<usize>,
}

/// A model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// How long it takes alone.
    pub service: Service,
    /// Its memory on a device.
    pub memory_bytes: u64,
    /// Its share among best-effort models.
    pub weight: u32,
}

/// A client of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Its name.
    pub name: String,
    /// Index of its model, which is on a device.
    pub model: usize,
    /// Its class and level.
    pub class: Class,
    /// When it asks; a client that follows another one names it by index.
    pub arrivals: ArrivalSpec,
    /// Requests under way at once.
    pub in_flight: usize,
    /// By which a request is late, from its scheduled arrival.
    pub deadline: Option<Nanos>,
    /// The same, if the scheduler is told of it.
    pub enforced_deadline: Option<Nanos>,
    /// Whether a waiting arrival is dropped when the next one comes.
    pub newest_only: bool,
}

/// What came of a simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// By client, over all engines.
    pub clients: Vec<ClientReport>,
    /// By engine, then by device.
    pub used: Vec<Used>,
    /// How long it was.
    pub length: Nanos,
}

/// What came of a client's requests. `arrived` is the sum of what follows it, but for `missed`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientReport {
    /// From the scheduled arrival to the answer, of completed requests.
    pub latency: Histogram,
    /// Requests that were due.
    pub arrived: u64,
    /// Answered.
    pub completed: u64,
    /// Refused by a scheduler: a full queue, or a deadline that cannot be met.
    pub refused: u64,
    /// Stopped at their deadlines.
    pub stopped: u64,
    /// Never sent, since a newer one came.
    pub dropped: u64,
    /// Never sent, since too many waited.
    pub unsent: u64,
    /// Waiting or running at the end.
    pub unfinished: u64,
    /// Of a client with a deadline: answered late, refused or stopped.
    pub missed: u64,
}

impl ClientReport {
    fn count(&mut self, outcome: Outcome, latency: Nanos, deadline: Option<Nanos>) {
        let late = deadline.is_some_and(|deadline| outcome != Outcome::Completed || latency > deadline);
        self.missed += u64::from(late);
        match outcome {
            Outcome::Completed => {
                self.completed += 1;
                self.latency.record(latency);
            }
            Outcome::Refused => self.refused += 1,
            Outcome::Stopped => self.stopped += 1,
        }
    }

    /// Requests that ended, however.
    pub fn ended(&self) -> u64 {
        self.completed + self.refused + self.stopped + self.dropped + self.unsent
    }
}

impl Used {
    /// The share of `length` in which the device was not idle.
    pub fn utilisation(&self, length: Nanos) -> f64 {
        let busy = self.real_time + self.best_effort + self.switching;
        busy.0 as f64 / length.0.max(1) as f64
    }
}

impl Report {
    /// Requests that ended, of all clients.
    pub fn ended(&self) -> u64 {
        self.clients.iter().map(ClientReport::ended).sum()
    }
}

/// Plays a fleet for so long. Panics where a client's model is on no device.
pub fn simulate(fleet: &Fleet, length: Nanos, seed: u64) -> Report {
    let mut rng = Rng::new(seed);
    let mut clients = vec![ClientReport::default(); fleet.clients.len()];
    let mut used = Vec::with_capacity(fleet.engines * fleet.devices.len());
    for index in 0..fleet.engines {
        let begin = if index == 0 { 0 } else { rng.below(BEGIN_MAX.0) };
        let engine = Engine::new(fleet, rng.next_u64(), Nanos(begin));
        used.extend(engine.play(length, &mut clients));
    }
    Report { clients, used, length }
}
