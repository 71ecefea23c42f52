//! Scenarios: a fleet described by a TOML file. docs/SIMULATION.md has the format.
//!
//! Knows no file: whoever reads a scenario hands in what reads the files that it names. Everything that the
//! format does not have is refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reef_base::{Class, ClassName, Nanos, limits};
use reef_load::Workload;
use serde::Deserialize;

use crate::error::SimError;
use crate::fleet::{Client, Constants, Device, Fleet, Model, Quantiles, Service};

/// Devices of an engine, as of one that serves.
const DEVICES_MAX: usize = limits::DEVICES_MAX;
const ENGINES_MAX: usize = 100_000;
/// A day.
const LENGTH_MAX_S: f64 = 86_400.0;
/// A microsecond: less is a mistake, and so is more than an hour.
const MILLIS_MIN: f64 = 1e-3;
const MILLIS_MAX: f64 = 3.6e6;
const MICROS_MAX: f64 = 1e6;
const MEBIBYTES_MAX: f64 = 1e9;

/// What sharing a device costs, by kind. `ideal` costs nothing.
///
/// `mi50`, all from the REEF paper: preemption takes 35 to 38 µs, restoring a task 70 to 245 µs. Padding is
/// what makes the throughput of workload B 1.14 times that of VGG-19 alone at 220/s: 0.14 × 220/s
/// ResNet-152 of 13.6 ms are 0.42 of a device, of which 0.03 were free and 0.39 padded what was in use for
/// 0.97. The slowdown is that of the same workload, 1 %.
const KINDS: [(&str, Sharing); 2] = [
    ("ideal", Sharing { preempt_us: 0.0, resume_us: 0.0, padding: 0.0, slowdown: 0.0 }),
    ("mi50", Sharing { preempt_us: 38.0, resume_us: 158.0, padding: 0.40, slowdown: 0.01 }),
];

#[derive(Clone, Copy)]
struct Sharing {
    preempt_us: f64,
    resume_us: f64,
    padding: f64,
    slowdown: f64,
}

/// Gives the text of a file, or says why not.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<String, String>;

/// A fleet, and how long it is played.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it is, in a line.
    pub title: String,
    /// How long it is.
    pub length: Nanos,
    /// What is simulated.
    pub fleet: Fleet,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    name: String,
    #[serde(default)]
    title: String,
    length_s: f64,
    #[serde(default = "one")]
    engines: usize,
    device: Vec<RawDevice>,
    model: BTreeMap<String, RawModel>,
    load: Option<PathBuf>,
    client: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    kind: String,
    #[serde(default = "one")]
    count: usize,
    memory_mib: Option<f64>,
    models: Option<Vec<String>>,
    #[serde(default = "same")]
    scale: f64,
    preempt_us: Option<f64>,
    resume_us: Option<f64>,
    padding: Option<f64>,
    slowdown: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    profile: Option<PathBuf>,
    time_ms: Option<f64>,
    times_ms: Option<RawTimes>,
    memory_mib: Option<f64>,
    #[serde(default = "one_u32")]
    weight: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTimes {
    min: f64,
    p50: f64,
    p90: Option<f64>,
    p99: Option<f64>,
    max: f64,
}

fn one() -> usize {
    1
}

fn one_u32() -> u32 {
    1
}

fn same() -> f64 {
    1.0
}

impl Scenario {
    /// Reads a scenario; `name` is for errors.
    pub fn parse(text: &str, name: &str, file: ReadFile<'_>) -> Result<Scenario, SimError> {
        let wrong = |problem: String| SimError::Scenario { name: name.into(), problem };
        let raw: RawScenario = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        raw.check(file).map_err(wrong)
    }
}

impl RawScenario {
    fn check(self, file: ReadFile<'_>) -> Result<Scenario, String> {
        within("length_s", self.length_s, 1e-3, LENGTH_MAX_S)?;
        counted("engines", self.engines, ENGINES_MAX)?;
        if self.model.len() > limits::MODELS_MAX {
            return Err(format!(
                "it has {} models, at most {} are allowed",
                self.model.len(),
                limits::MODELS_MAX
            ));
        }
        let workload = self.workload(file)?;
        let mut models = Vec::new();
        for (name, raw) in &self.model {
            let model = raw.check(name, file);
            models.push(model.map_err(|problem| format!("model.{name}: {problem}"))?);
        }
        let clients = clients(&workload, &models)?;
        if let Some(model) = (0..models.len()).find(|&at| clients.iter().all(|client| client.model != at)) {
            return Err(format!("model.{}: no client asks it", models[model].name));
        }
        let mut devices = Vec::new();
        for (at, raw) in self.device.iter().enumerate() {
            let wrong = |problem| format!("device {} ({}): {problem}", at + 1, raw.kind);
            counted("count", raw.count, DEVICES_MAX).map_err(wrong)?;
            let device = raw.check(&models).map_err(wrong)?;
            for _ in 0..raw.count {
                let name = format!("{}:{}", raw.kind, devices.len());
                devices.push(Device { name, ..device.clone() });
            }
        }
        counted("the number of devices of an engine", devices.len(), DEVICES_MAX)?;
        if let Some(client) =
            clients.iter().find(|client| !devices.iter().any(|device| device.models.contains(&client.model)))
        {
            let model = &models[client.model].name;
            return Err(format!("client '{}': its model '{model}' is on no device", client.name));
        }
        let fleet = Fleet { engines: self.engines, devices, models, clients };
        let length = Nanos((self.length_s * 1e9) as u64);
        Ok(Scenario { name: self.name, title: self.title, length, fleet })
    }

    /// The load: clients of its own, a built-in workload, or a workload's file.
    fn workload(&self, file: ReadFile<'_>) -> Result<Workload, String> {
        let told = |error: reef_load::WorkloadError| error.to_string();
        match (&self.load, &self.client) {
            (Some(_), Some(_)) => Err("it has both 'load' and clients".into()),
            (None, None) => Err("it has neither 'load' nor clients".into()),
            (Some(path), None) => {
                if let Some(built_in) = path.to_str().and_then(|name| Workload::built_in(name).ok()) {
                    return Ok(built_in);
                }
                let text = file(path).map_err(|problem| format!("load: {problem}"))?;
                let beside = |other: &Path| file(&path.parent().unwrap_or(Path::new("")).join(other));
                Workload::parse(&text, &path.display().to_string(), &beside).map_err(told)
            }
            (None, Some(clients)) => {
                let mut table = toml::Table::new();
                table.insert("name".into(), self.name.clone().into());
                table.insert("client".into(), clients.clone());
                Workload::parse(&table.to_string(), &self.name, file).map_err(told)
            }
        }
    }
}

impl RawDevice {
    fn check(&self, models: &[Model]) -> Result<Device, String> {
        let constants = self.constants()?;
        let find = |name: &String| {
            let known = || models.iter().map(|model| &model.name[..]).collect::<Vec<_>>().join(", ");
            let found = models.iter().position(|model| model.name == *name);
            found.ok_or_else(|| format!("models: there is no model '{name}'; there are {}", known()))
        };
        let mut on_it: Vec<usize> = match &self.models {
            Some(names) => names.iter().map(find).collect::<Result<_, _>>()?,
            None => (0..models.len()).collect(),
        };
        on_it.sort_unstable();
        on_it.dedup();
        if let Some(memory) = self.memory_mib {
            let memory = mebibytes("memory_mib", memory)?;
            let needed: u64 = on_it.iter().map(|&model| models[model].memory_bytes).sum();
            if needed > memory {
                let (needed, memory) = (needed >> 20, memory >> 20);
                return Err(format!("its models need {needed} MiB, and memory_mib is {memory}"));
            }
        }
        Ok(Device { name: String::new(), constants, models: on_it })
    }

    fn constants(&self) -> Result<Constants, String> {
        let built_in = KINDS.iter().find(|(name, _)| *name == self.kind).map(|(_, sharing)| *sharing);
        let own = [self.preempt_us, self.resume_us, self.padding, self.slowdown];
        let known = KINDS.map(|(name, _)| name).join(", ");
        let [Some(preempt_us), Some(resume_us), Some(padding), Some(slowdown)] = (match built_in {
            Some(sharing) => [
                own[0].or(Some(sharing.preempt_us)),
                own[1].or(Some(sharing.resume_us)),
                own[2].or(Some(sharing.padding)),
                own[3].or(Some(sharing.slowdown)),
            ],
            None => own,
        }) else {
            return Err(format!(
                "kind is none of {known}, so it needs preempt_us, resume_us, padding and slowdown"
            ));
        };
        let micros = |us: f64| Nanos((us * 1e3) as u64);
        within("preempt_us", preempt_us, 0.0, MICROS_MAX)?;
        within("resume_us", resume_us, 0.0, MICROS_MAX)?;
        within("padding", padding, 0.0, 0.99)?;
        within("slowdown", slowdown, 0.0, 10.0)?;
        within("scale", self.scale, 1e-3, 1e3)?;
        let (preempt, resume) = (micros(preempt_us), micros(resume_us));
        Ok(Constants { preempt, resume, padding, slowdown, scale: self.scale })
    }
}

/// What sharing a device of a built-in kind costs.
pub fn constants(kind: &str) -> Result<Constants, SimError> {
    let raw = RawDevice {
        kind: kind.into(),
        count: 1,
        memory_mib: None,
        models: None,
        scale: 1.0,
        preempt_us: None,
        resume_us: None,
        padding: None,
        slowdown: None,
    };
    let known = || KINDS.map(|(name, _)| name).join(", ");
    raw.constants().map_err(|_| SimError::UnknownDevice { name: kind.into(), known: known() })
}

impl RawModel {
    fn check(&self, name: &str, file: ReadFile<'_>) -> Result<Model, String> {
        let given = [self.profile.is_some(), self.time_ms.is_some(), self.times_ms.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err("it needs one of profile, time_ms and times_ms".into());
        }
        if !(1..=65_535).contains(&self.weight) {
            return Err(format!("weight is {}, not 1 to 65535", self.weight));
        }
        let (service, profiled) = match (&self.profile, self.time_ms, &self.times_ms) {
            (Some(path), ..) => {
                let text = file(path).map_err(|problem| format!("profile: {problem}"))?;
                let profile =
                    profile(&text).map_err(|problem| format!("profile {}: {problem}", path.display()))?;
                (profile.0, profile.1)
            }
            (_, Some(ms), _) => (Service::fixed(millis("time_ms", ms)?), None),
            (.., Some(times)) => (times.check()?, None),
            (None, None, None) => unreachable!("one is given"),
        };
        let own = self.memory_mib.map(|mib| mebibytes("memory_mib", mib)).transpose()?;
        let memory_bytes = own.or(profiled).unwrap_or(0);
        Ok(Model { name: name.into(), service, memory_bytes, weight: self.weight })
    }
}

impl RawTimes {
    fn check(&self) -> Result<Service, String> {
        let all = [
            ("min", 0, Some(self.min)),
            ("p50", 500, Some(self.p50)),
            ("p90", 900, self.p90),
            ("p99", 990, self.p99),
            ("max", 1000, Some(self.max)),
        ];
        let mut knots = Vec::new();
        for (key, share, ms) in all {
            if let Some(ms) = ms {
                knots.push((share, millis(&format!("times_ms.{key}"), ms)?));
            }
        }
        let quantiles = Quantiles::new(&knots).ok_or("times_ms: a percentile is below one before it")?;
        Ok(Service::Quantiles(quantiles))
    }
}

#[derive(Deserialize)]
struct RawProfile {
    latency_ns: RawLatency,
    memory_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct RawLatency {
    min: u64,
    p50: u64,
    p90: Option<u64>,
    p99: Option<u64>,
    max: u64,
}

/// What `reef profile --json` wrote: times alone, and memory if it says so. Without p90 and p99, as of
/// older files, times rise in a line from the median to the largest, which is more than they do.
pub fn profile(text: &str) -> Result<(Service, Option<u64>), String> {
    let raw: RawProfile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let RawLatency { min, p50, p90, p99, max } = raw.latency_ns;
    let most = (MILLIS_MAX * 1e6) as u64;
    if !(1000..=most).contains(&max) {
        return Err(format!("latency_ns.max is {max}, not 1000 to {most}"));
    }
    let memory_max = (MEBIBYTES_MAX * 1048576.0) as u64;
    if let Some(memory) = raw.memory_bytes.filter(|memory| *memory > memory_max) {
        return Err(format!("memory_bytes is {memory}, at most {memory_max} are allowed"));
    }
    let all = [(0, Some(min)), (500, Some(p50)), (900, p90), (990, p99), (1000, Some(max))];
    let knots: Vec<_> = all.iter().filter_map(|(share, time)| Some((*share, Nanos((*time)?)))).collect();
    let quantiles = Quantiles::new(&knots).ok_or("latency_ns: a percentile is below one before it")?;
    Ok((Service::Quantiles(quantiles), raw.memory_bytes))
}

/// Clients of a workload over these models.
pub(crate) fn clients(workload: &Workload, models: &[Model]) -> Result<Vec<Client>, String> {
    let client = |client: &reef_load::workload::Client| {
        let known = || models.iter().map(|model| &model.name[..]).collect::<Vec<_>>().join(", ");
        let found = models.iter().position(|model| model.name == client.model);
        let unknown = || {
            let (name, model) = (&client.name, &client.model);
            format!("client '{name}': there are no times of its model '{model}'; there are {}", known())
        };
        let deadline = client.deadline.map(Nanos::from);
        Ok(Client {
            name: client.name.clone(),
            model: found.ok_or_else(unknown)?,
            class: match client.class {
                ClassName::RealTime => Class::RealTime(client.level),
                ClassName::BestEffort => Class::BestEffort,
            },
            arrivals: client.arrivals.clone(),
            in_flight: client.in_flight,
            deadline,
            enforced_deadline: deadline.filter(|_| client.enforce_deadline),
            newest_only: client.newest_only,
        })
    };
    workload.clients.iter().map(client).collect()
}

fn within(key: &str, value: f64, least: f64, most: f64) -> Result<(), String> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(format!("{key} is {value}, not {least} to {most}")),
    }
}

fn counted(key: &str, value: usize, most: usize) -> Result<(), String> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(format!("{key} is {value}, not 1 to {most}")),
    }
}

fn millis(key: &str, ms: f64) -> Result<Nanos, String> {
    within(key, ms, MILLIS_MIN, MILLIS_MAX)?;
    Ok(Nanos((ms * 1e6) as u64))
}

fn mebibytes(key: &str, mib: f64) -> Result<u64, String> {
    within(key, mib, 0.0, MEBIBYTES_MAX)?;
    Ok((mib * 1048576.0) as u64)
}
