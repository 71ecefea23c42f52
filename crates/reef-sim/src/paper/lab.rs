//! What the experiments share: the device, the models, the workloads, and how a run is made.

use reef_base::{Class, Level, Nanos};

use crate::clients::{Arrivals, Played, play};
use crate::constants::GpuConstants;
use crate::error::SimError;
use crate::profile::{Model, Profile};
use crate::restart::accesses;
use crate::server::{Client, Scheme, Server};
use crate::workload::Workload;

/// A simulated device with the paper's five models.
#[derive(Debug)]
pub struct Lab {
    pub(super) gpu: GpuConstants,
    /// In the order of Table 1.
    pub(super) models: Vec<Model>,
    pub(super) profiles: Vec<Profile>,
    /// How long runs are.
    pub(super) length: Nanos,
    pub(super) seed: u64,
}

/// Indices of the models in [`Lab::models`].
pub(super) const RESNET: usize = 0;
pub(super) const DENSENET: usize = 1;
pub(super) const VGG: usize = 2;
pub(super) const INCEPTION: usize = 3;
pub(super) const BERT: usize = 4;
/// Their names in tables.
pub(super) const NAMES: [&str; 5] = ["ResNet", "DenseNet", "VGG", "Inception", "Bert"];

/// After each answer at once.
pub(super) const CLOSED: Arrivals = Arrivals::Closed { think: Nanos::ZERO };

impl Lab {
    /// A device of that name; runs of workloads are `length` long.
    pub fn new(device: &str, length: Nanos, seed: u64) -> Result<Lab, SimError> {
        let gpu = GpuConstants::built_in(device)?;
        let profiles = Profile::all();
        let models = profiles.iter().map(|profile| Model::of(profile, &gpu)).collect();
        Ok(Lab { gpu, models, profiles, length, seed })
    }

    /// The same models on another device.
    pub(super) fn on(&self, gpu: GpuConstants) -> Lab {
        let models = self.profiles.iter().map(|profile| Model::of(profile, &gpu)).collect();
        Lab { gpu, models, profiles: self.profiles.clone(), length: self.length, seed: self.seed }
    }

    pub(super) fn real_time(&self, model: usize) -> Client {
        Client { model, class: Class::RealTime(Level::TOP) }
    }

    pub(super) fn best_effort(&self, model: usize) -> Client {
        Client { model, class: Class::BestEffort }
    }

    pub(super) fn play(&self, clients: &[Client], arrivals: &[Arrivals], scheme: Scheme) -> Played {
        play(Server::new(&self.gpu, &self.models, clients, scheme), arrivals, self.length, self.seed)
    }

    /// The same, looking at the outputs of best-effort requests.
    pub(super) fn watch(&self, clients: &[Client], arrivals: &[Arrivals], scheme: Scheme) -> Played {
        let of = |profile: &Profile| accesses(profile).expect("built-in profiles say what is written");
        let accesses: Vec<_> = self.profiles.iter().map(of).collect();
        let mut server = Server::new(&self.gpu, &self.models, clients, scheme);
        server.watch_outputs(&accesses);
        play(server, arrivals, self.length, self.seed)
    }

    pub(super) fn play_workload(&self, workload: &Workload, scheme: Scheme) -> Played {
        self.play(&workload.clients, &workload.arrivals, scheme)
    }

    /// Milliseconds of a request alone on the device.
    pub(super) fn alone_ms(&self, model: usize) -> f64 {
        let played = self.play(&[self.real_time(model)], &[CLOSED], Scheme::RtOnly);
        mean_ms(&played.latencies[0])
    }
}

pub(super) fn mean_ms(latencies: &[Nanos]) -> f64 {
    mean(latencies.iter().map(|latency| latency.as_millis_f64()))
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    sum / f64::from(count.max(1))
}

/// The value below which a share of all lies.
pub(super) fn quantile_ms(latencies: &[Nanos], share: f64) -> f64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).map_or(0.0, |latency| latency.as_millis_f64())
}

/// Mean microseconds of all preemptions.
pub(super) fn preemption_us(played: &Played) -> f64 {
    mean(played.seen.preemptions.iter().map(|preempted| preempted.latency().as_micros_f64()))
}
