//! The workloads of DISB as `reef-load` has them, for the models that have a profile.

use reef_base::{Class, ClassName, Nanos};
use reef_load::workload::{ArrivalSpec, BUILT_IN, Client as LoadClient};

use crate::clients::Arrivals;
use crate::error::SimError;
use crate::profile::Profile;
use crate::server::Client;

/// Who asks what, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// Real-time clients first.
    pub clients: Vec<Client>,
    /// Of each client.
    pub arrivals: Vec<Arrivals>,
}

impl Workload {
    /// DISB's six, in the paper's order, over the models of these profiles.
    pub fn all(profiles: &[Profile]) -> Vec<Workload> {
        let of = |name: &&str| {
            let workload = reef_load::Workload::built_in(name).expect("it is built in");
            Workload::of(&workload, profiles).expect("the five models have profiles")
        };
        BUILT_IN.iter().map(of).collect()
    }

    /// A workload over the models of these profiles. Its clients have one request under way each.
    pub fn of(workload: &reef_load::Workload, profiles: &[Profile]) -> Result<Workload, SimError> {
        let client = |client: &LoadClient| {
            let model = profiles.iter().position(|profile| profile.name == client.model);
            let known =
                || profiles.iter().map(|profile| profile.name.as_str()).collect::<Vec<_>>().join(", ");
            let unknown = || SimError::UnknownModel { name: client.model.clone(), known: known() };
            let class = match client.class {
                ClassName::RealTime => Class::RealTime(client.level),
                ClassName::BestEffort => Class::BestEffort,
            };
            Ok((Client { model: model.ok_or_else(unknown)?, class }, arrivals(client)?))
        };
        let mut all: Vec<(Client, Arrivals)> =
            workload.clients.iter().map(client).collect::<Result<_, _>>()?;
        all.sort_by_key(|(client, _)| !client.class.is_real_time());
        let (clients, arrivals) = all.into_iter().unzip();
        Ok(Workload { name: workload.name.clone(), clients, arrivals })
    }

    /// Clients that are real-time: the first ones.
    pub fn real_time(&self) -> usize {
        self.clients.iter().filter(|client| client.class.is_real_time()).count()
    }
}

fn arrivals(client: &LoadClient) -> Result<Arrivals, SimError> {
    let period = |rate_hz: f64| Nanos((1e9 / rate_hz).round() as u64);
    Ok(match &client.arrivals {
        ArrivalSpec::Periodic { rate_hz, phase } => {
            let period = period(*rate_hz);
            Arrivals::Periodic { period, phase: Nanos((period.0 as f64 * phase).round() as u64) }
        }
        ArrivalSpec::Poisson { rate_hz } => Arrivals::Poisson { mean: period(*rate_hz) },
        ArrivalSpec::Trace { track, stretch } => {
            let stretched = |at: u64| Nanos((at as f64 * stretch).round() as u64);
            let again = track.duration.0;
            Arrivals::Trace {
                times: track.times.iter().map(|at| stretched(at.0)).collect(),
                again: stretched(again),
            }
        }
        ArrivalSpec::ClosedLoop { think } => Arrivals::Closed { think: Nanos::from(*think) },
        ArrivalSpec::After { .. } => {
            let problem = "clients that follow others are not simulated".to_string();
            return Err(SimError::Workload { client: client.name.clone(), problem });
        }
    })
}
