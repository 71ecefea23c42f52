//! How many devices a load needs, and which models go where.
//!
//! The answer is found by trying: for each number of devices from the least on, models are placed by load
//! and memory, the placement is simulated, and while a client misses what it must have, its model is put
//! on one more device. The first number with a placement under which everybody has it is the answer; the
//! best that one device less came to stands beside it. So the answer is the least that this search finds,
//! under the seed.
//!
//! | a client has what it must have when | |
//! |---|---|
//! | real-time | its percentile is within the target; no deadline is missed, no request refused or unsent |
//! | best-effort, of its own rate | all but a twentieth of its requests are answered |
//! | best-effort, closed loop | always: it takes what is left |

use std::ops::RangeInclusive;

use reef_base::{Class, Nanos, limits};
use reef_load::workload::ArrivalSpec;

use crate::error::SimError;
use crate::fleet::{Client, ClientReport, Constants, Device, Fleet, Model, Report, simulate};
use crate::scenario;

/// A device whose real-time share is above this has no time left.
const FULL: f64 = 0.95;
/// A model that takes more than this share of a bound alone leaves too little for any wait.
const OWN_TIME: f64 = 0.8;

/// What every real-time client must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which percentile, in thousandths.
    pub per_mille: u64,
    /// What it must not exceed.
    pub at_most: Nanos,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Models and how long they take.
    pub models: Vec<Model>,
    /// Who asks them.
    pub clients: Vec<Client>,
    /// What sharing a device costs.
    pub constants: Constants,
    /// Memory of a device for models, where it counts.
    pub memory_bytes: Option<u64>,
    /// What must be met.
    pub target: Target,
    /// How many devices there may be.
    pub devices: RangeInclusive<usize>,
    /// How long each simulation is.
    pub length: Nanos,
    /// Of each simulation.
    pub seed: u64,
}

/// What so many devices came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// How many.
    pub devices: usize,
    /// By device, its models; empty where their memory does not fit.
    pub placement: Vec<Vec<usize>>,
    /// What came of them; `None` where their memory does not fit.
    pub report: Option<Report>,
    /// Whether a model would have been put on one more device, had there been memory.
    pub no_room: bool,
    /// Indices of the clients that do not have what they must have, the worst first.
    pub failing: Vec<usize>,
}

/// Why one device less will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// There is no less, or less will do, too.
    Nothing,
    /// Models do not fit into the memory, or replicas of them that would help.
    Memory,
    /// Requests need more time than the devices have.
    DeviceTime,
    /// This model takes most of what its client may wait.
    OwnTime(String),
    /// Requests that come at once wait for each other too long.
    Burst,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What meets everything.
    pub found: Attempt,
    /// The same with one device less.
    pub minus_one: Option<Attempt>,
    /// What that one is needed for.
    pub binding: Binding,
}

impl Attempt {
    /// Whether everybody has what they must have.
    pub fn meets(&self) -> bool {
        self.report.is_some() && self.failing.is_empty()
    }
}

impl std::fmt::Display for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Binding::Nothing => f.write_str("nothing: there is no less, or less would do"),
            Binding::Memory => {
                f.write_str("memory: with one device less there is none for the models, or for replicas")
            }
            Binding::DeviceTime => f.write_str("device time: one device less has too little"),
            Binding::OwnTime(model) => {
                write!(f, "time of one model: {model} alone takes most of what its client may wait")
            }
            Binding::Burst => f.write_str("bursts: requests that come at once wait for each other too long"),
        }
    }
}

/// Reads a target, such as `p99<=20` (milliseconds).
pub fn target(text: &str) -> Result<Target, SimError> {
    let wrong = |problem: &str| SimError::Plan(format!("target '{text}': {problem}"));
    let (percentile, ms) = text.split_once("<=").ok_or_else(|| wrong("it is not like p99<=20"))?;
    let share = percentile.trim().strip_prefix('p').and_then(|percent| percent.parse::<f64>().ok());
    let tenths = share.map(|percent| percent * 10.0).filter(|share| (share - share.round()).abs() < 1e-6);
    let per_mille = tenths.map(f64::round).filter(|share| (1.0..=1000.0).contains(share));
    let per_mille = per_mille.ok_or_else(|| wrong("its percentile is not p0.1 to p100, in tenths"))? as u64;
    let ms = ms.trim().parse::<f64>().ok().filter(|ms| *ms > 0.0 && *ms <= 3.6e6);
    let ms = ms.ok_or_else(|| wrong("its milliseconds are not above 0 and at most 3600000"))?;
    Ok(Target { per_mille, at_most: Nanos((ms * 1e6) as u64) })
}

/// Reads a range of devices, such as `2..8` or `4`.
pub fn devices(text: &str) -> Result<RangeInclusive<usize>, SimError> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let most_of_all = limits::DEVICES_MAX;
    match (number(least), number(most)) {
        (Some(least), Some(most)) if (1..=most).contains(&least) && most <= most_of_all => Ok(least..=most),
        _ => Err(SimError::Plan(format!("devices '{text}': not N..M with 1 <= N <= M <= {most_of_all}"))),
    }
}

/// Clients of a workload over these models.
pub fn clients(workload: &reef_load::Workload, models: &[Model]) -> Result<Vec<Client>, SimError> {
    let wrong = |problem| SimError::Scenario { name: workload.name.clone(), problem };
    scenario::clients(workload, models).map_err(wrong)
}

impl Question {
    /// The least number of devices. An error says what cannot be met, and why.
    pub fn answer(&self) -> Result<Answer, SimError> {
        self.check()?;
        let (least, most) = (*self.devices.start(), *self.devices.end());
        let mut before = (least > 1).then(|| self.attempt(least - 1));
        for count in least..=most {
            let attempt = self.attempt(count);
            if attempt.meets() {
                let binding = before.as_ref().map_or(Binding::Nothing, |less| self.binding(less));
                return Ok(Answer { found: attempt, minus_one: before, binding });
            }
            before = Some(attempt);
        }
        let last = before.expect("a range has a number");
        Err(SimError::Plan(self.too_few(&last)))
    }

    /// What no number of devices changes.
    fn check(&self) -> Result<(), SimError> {
        let (models, most) = (self.models.len(), limits::MODELS_MAX);
        if models > most {
            return Err(SimError::Plan(format!("the load asks {models} models, at most {most} are allowed")));
        }
        if let Some(memory) = self.memory_bytes
            && let Some(model) = self.models.iter().find(|model| model.memory_bytes > memory)
        {
            let (name, needs) = (&model.name, model.memory_bytes as f64 / 1048576.0);
            let has = memory >> 20;
            let problem = format!("model {name}: its memory, {needs:.1} MiB, exceeds a device's, {has} MiB");
            return Err(SimError::Plan(problem));
        }
        for client in self.clients.iter().filter(|client| client.class.is_real_time()) {
            self.check_alone(client)?;
            let asks = client.arrivals.rate_hz().is_none_or(|hz| hz * self.length.0 as f64 >= 2e9);
            if !asks {
                let (name, length) = (&client.name, self.length);
                let problem = format!("client '{name}' asks less than twice in {length}: that is too short");
                return Err(SimError::Plan(problem));
            }
        }
        Ok(())
    }

    fn check_alone(&self, client: &Client) -> Result<(), SimError> {
        let model = &self.models[client.model];
        let target = ("target", self.target.per_mille, self.target.at_most);
        let deadline = client.deadline.map(|deadline| ("deadline", 1000, deadline));
        for (what, share, bound) in [Some(target), deadline].into_iter().flatten() {
            let alone = self.alone(client, share);
            if alone > bound {
                let (name, client, percent) = (&model.name, &client.name, share as f64 / 10.0);
                let problem = format!(
                    "model {name}: its time alone, {alone} (p{percent}), exceeds the {what} of client \
                     '{client}', {bound}"
                );
                return Err(SimError::Plan(problem));
            }
        }
        Ok(())
    }

    /// What a request takes with nothing in the way.
    fn alone(&self, client: &Client, per_mille: u64) -> Nanos {
        let time = self.models[client.model].service.per_mille(per_mille);
        Nanos((time.0 as f64 * self.constants.scale) as u64)
    }

    /// Devices that the requests of a model need, those that take what is left not counted.
    fn load(&self, model: usize) -> f64 {
        let asks = self.clients.iter().filter(|client| client.model == model);
        asks.map(|client| {
            let real_time = client.class.is_real_time();
            let slowdown = if real_time { self.constants.slowdown } else { 0.0 };
            let mean = self.models[model].service.mean().0 as f64 / 1e9;
            let seconds = mean * self.constants.scale * (1.0 + slowdown);
            self.rate(client, seconds) * seconds
        })
        .sum()
    }

    /// Requests per second of a client, the answer to each of which takes so long.
    fn rate(&self, client: &Client, seconds: f64) -> f64 {
        match &client.arrivals {
            ArrivalSpec::ClosedLoop { .. } if client.class == Class::BestEffort => 0.0,
            ArrivalSpec::ClosedLoop { think } => client.in_flight as f64 / (seconds + think.as_secs_f64()),
            ArrivalSpec::After { client: other, .. } => self.rate(&self.clients[*other], seconds),
            arrivals => arrivals.rate_hz().unwrap_or_default(),
        }
    }

    /// The best that so many devices come to.
    fn attempt(&self, count: usize) -> Attempt {
        let needed = |model| (self.load(model).ceil() as usize).clamp(1, count);
        let mut replicas: Vec<usize> = (0..self.models.len()).map(needed).collect();
        let Some(mut placement) = self.place(count, &replicas) else {
            return Attempt {
                devices: count,
                placement: Vec::new(),
                report: None,
                no_room: true,
                failing: Vec::new(),
            };
        };
        let mut best: Option<Attempt> = None;
        loop {
            let attempt = self.simulate(count, placement);
            let failing = attempt.failing.clone();
            if best.as_ref().is_none_or(|best| failing.len() < best.failing.len()) {
                best = Some(attempt);
            }
            let mut no_room = false;
            let more = failing.iter().find_map(|&client| {
                let mut more = replicas.clone();
                more[self.clients[client].model] += 1;
                if more[self.clients[client].model] > count {
                    return None;
                }
                let placed = self.place(count, &more);
                no_room |= placed.is_none();
                Some((more, placed?))
            });
            match more {
                Some(more) => (replicas, placement) = more,
                None => return Attempt { no_room, ..best.expect("one was simulated") },
            }
        }
    }

    /// Models on devices: the heaviest first, each on the least loaded ones that have room; where that
    /// does not fit, the largest first, each on the fullest ones that have room.
    fn place(&self, count: usize, replicas: &[usize]) -> Option<Vec<Vec<usize>>> {
        let loads: Vec<f64> = (0..self.models.len()).map(|model| self.load(model)).collect();
        let memory = |model: usize| self.models[model].memory_bytes;
        let mut order: Vec<usize> = (0..loads.len()).collect();
        order.sort_by(|&a, &b| loads[b].total_cmp(&loads[a]).then(memory(b).cmp(&memory(a))));
        let spread = self.fill(count, replicas, &order, &loads, false);
        order.sort_by_key(|&model| std::cmp::Reverse(memory(model)));
        spread.or_else(|| self.fill(count, replicas, &order, &loads, true))
    }

    fn fill(
        &self,
        count: usize,
        replicas: &[usize],
        order: &[usize],
        loads: &[f64],
        fullest: bool,
    ) -> Option<Vec<Vec<usize>>> {
        let mut placement = vec![Vec::new(); count];
        let (mut load, mut used) = (vec![0.0f64; count], vec![0u64; count]);
        for &model in order {
            let bytes = self.models[model].memory_bytes;
            let fits = |used: u64| self.memory_bytes.is_none_or(|memory| used + bytes <= memory);
            let mut room: Vec<usize> = (0..count).filter(|&device| fits(used[device])).collect();
            match fullest {
                true => room.sort_by_key(|&device| std::cmp::Reverse(used[device])),
                false => room.sort_by(|&a, &b| load[a].total_cmp(&load[b]).then(used[a].cmp(&used[b]))),
            }
            for &device in room.get(..replicas[model])? {
                placement[device].push(model);
                load[device] += loads[model] / replicas[model] as f64;
                used[device] += bytes;
            }
        }
        placement.iter_mut().for_each(|models| models.sort_unstable());
        Some(placement)
    }

    fn simulate(&self, count: usize, placement: Vec<Vec<usize>>) -> Attempt {
        let device = |(at, models): (usize, &Vec<usize>)| Device {
            name: at.to_string(),
            constants: self.constants,
            models: models.clone(),
        };
        let fleet = Fleet {
            engines: 1,
            devices: placement.iter().enumerate().map(device).collect(),
            models: self.models.clone(),
            clients: self.clients.clone(),
        };
        let report = simulate(&fleet, self.length, self.seed);
        let clients = self.clients.iter().zip(&report.clients).enumerate();
        let mut failing: Vec<(f64, usize)> = clients
            .filter_map(|(index, (client, came))| Some((self.failure(client, came)?, index)))
            .collect();
        failing.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let failing = failing.into_iter().map(|(_, client)| client).collect();
        Attempt { devices: count, placement, report: Some(report), no_room: false, failing }
    }

    /// How far a client is from what it must have; `None` if it has it.
    fn failure(&self, client: &Client, came: &ClientReport) -> Option<f64> {
        let arrived = came.arrived.max(1) as f64;
        if !client.class.is_real_time() {
            let open = client.arrivals.rate_hz().is_some();
            let answered = (came.completed + came.dropped) as f64 / arrived;
            return (open && answered < 0.95).then_some(1.0 - answered);
        }
        let seen = came.latency.per_mille(self.target.per_mille);
        let late = seen.0 as f64 / self.target.at_most.0 as f64;
        let lost = (came.missed + came.refused + came.unsent) as f64 / arrived;
        (late > 1.0 || lost > 0.0 || came.completed == 0).then_some(late + lost)
    }

    /// Why an attempt does not do.
    fn binding(&self, attempt: &Attempt) -> Binding {
        let Some(report) = &attempt.report else { return Binding::Memory };
        let Some(&worst) = attempt.failing.first() else { return Binding::Nothing };
        let client = &self.clients[worst];
        let load: f64 = (0..self.models.len()).map(|model| self.load(model)).sum();
        let of_it = attempt.placement.iter().zip(&report.used);
        let full = of_it.filter(|(models, _)| models.contains(&client.model)).any(|(_, used)| {
            let urgent =
                if client.class.is_real_time() { used.real_time } else { used.real_time + used.best_effort };
            urgent.0 as f64 > FULL * report.length.0 as f64
        });
        if load > attempt.devices as f64 {
            return Binding::DeviceTime;
        }
        if attempt.no_room {
            return Binding::Memory;
        }
        if full {
            return Binding::DeviceTime;
        }
        let bound = client.deadline.unwrap_or(Nanos::MAX).min(self.target.at_most);
        match self.alone(client, self.target.per_mille).0 as f64 > OWN_TIME * bound.0 as f64 {
            true => Binding::OwnTime(self.models[client.model].name.clone()),
            false => Binding::Burst,
        }
    }

    fn too_few(&self, last: &Attempt) -> String {
        let too_few = match last.devices {
            1 => "one device is too little".to_string(),
            count => format!("{count} devices are too few"),
        };
        let (Some(report), Some(&worst)) = (&last.report, last.failing.first()) else {
            return format!("{too_few}: the memory of the models does not fit");
        };
        let (client, came) = (&self.clients[worst], &report.clients[worst]);
        let why = match self.binding(last) {
            Binding::DeviceTime => "there is too little device time".to_string(),
            Binding::Memory => "there is no memory for replicas that would help".to_string(),
            Binding::OwnTime(model) => format!("{model} alone takes most of what its client may wait"),
            _ => "requests that come at once wait for each other too long".to_string(),
        };
        let percent = self.target.per_mille as f64 / 10.0;
        let (model, name, seen) =
            (&self.models[client.model].name, &client.name, came.latency.per_mille(self.target.per_mille));
        let (missed, lost) = (came.missed, came.refused + came.unsent);
        format!(
            "{too_few}: {why}; model {model}, client '{name}': p{percent} is {seen}, {missed} \
             deadlines missed, {lost} refused or never sent"
        )
    }
}
