//! The workloads of DISB, as the REEF paper describes them (its Table 2, and the trace of section 7.1).

use reef_base::{Class, Level, Nanos};
use serde::Deserialize;

use crate::clients::Arrivals;
use crate::server::Client;

/// Who asks what, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// A to E, or REAL.
    pub name: &'static str,
    /// Real-time clients first.
    pub clients: Vec<Client>,
    /// Of each client.
    pub arrivals: Vec<Arrivals>,
}

const CLOSED: Arrivals = Arrivals::Closed { think: Nanos::ZERO };
/// Indices of the models: see [`crate::profile::Profile::all`].
const RESNET: usize = 0;
const VGG: usize = 2;
const ALL: [usize; 5] = [0, 1, 2, 3, 4];

/// Tracks of the trace, in the order of the models.
const TRACKS: [&str; 5] =
    ["resnet152-imagenet", "densenet201-imagenet", "vgg19-imagenet", "inceptionv3-imagenet", "distilbert"];
const REAL_TRACE: &str = include_str!("../../reef-bench/workloads/real-trace.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    duration_s: u64,
    #[serde(rename = "unit")]
    _unit: String,
    /// Milliseconds, by track.
    arrivals: std::collections::BTreeMap<String, Vec<u64>>,
}

impl Workload {
    /// All six, in the paper's order.
    pub fn all() -> Vec<Workload> {
        let fixed =
            |rate_hz: u64, phase: Nanos| Arrivals::Periodic { period: Nanos(1_000_000_000 / rate_hz), phase };
        let vgg = |rate_hz| vec![(VGG, fixed(rate_hz, Nanos::ZERO))];
        // Who asks as often as the others does so at other times.
        let in_turn = |model: usize| (model, fixed(20, Nanos::from_millis(10 * model as u64)));
        let at_random = |model| (model, Arrivals::Poisson { mean: Nanos::from_millis(50) });
        vec![
            Workload::new("A", vgg(100), &[RESNET]),
            Workload::new("B", vgg(220), &[RESNET]),
            Workload::new("C", vgg(100), &ALL),
            Workload::new("D", ALL.map(in_turn).into(), &ALL),
            Workload::new("E", ALL.map(at_random).into(), &ALL),
            Workload::new("REAL", traced(), &ALL),
        ]
    }

    fn new(name: &'static str, real_time: Vec<(usize, Arrivals)>, best_effort: &[usize]) -> Workload {
        let others = best_effort.iter().map(|&model| (Client { model, class: Class::BestEffort }, CLOSED));
        let urgent = |(model, arrivals)| (Client { model, class: Class::RealTime(Level::TOP) }, arrivals);
        let (clients, arrivals) = real_time.into_iter().map(urgent).chain(others).unzip();
        Workload { name, clients, arrivals }
    }

    /// Clients that are real-time: the first ones.
    pub fn real_time(&self) -> usize {
        self.clients.iter().filter(|client| client.class.is_real_time()).count()
    }
}

/// Arrivals of the trace, again and again: it is 38 s long.
fn traced() -> Vec<(usize, Arrivals)> {
    /// An hour's worth.
    const REPEATS: u64 = 95;
    let trace: Trace = serde_json::from_str(REAL_TRACE).expect("the built-in trace is right");
    let end = trace.duration_s * 1000;
    let track = |model: usize| {
        let times: Vec<u64> = trace.arrivals[TRACKS[model]].iter().copied().filter(|&at| at < end).collect();
        let again =
            (0..REPEATS).flat_map(|round| times.iter().map(move |&at| Nanos::from_millis(round * end + at)));
        (model, Arrivals::Trace(again.collect()))
    };
    ALL.map(track).into()
}
