//! The driver: what is played in which order.
//!
//! 1. Every model alone on our system, which sets the rates.
//! 2. Workload by workload, repetition by repetition: on each system every model of the workload alone, then
//!    every condition once, in a seeded order that differs from repetition to repetition; the reference and
//!    the last condition (`reset`) come a second time, as A against A. Which system comes first changes too.
//! 3. A short stretch with the trace on, that no number comes from, and the micro-benchmarks of preemption.
//!
//! `results.json` and `report.html` are written after every workload, each in one step, so that a run that is
//! stopped leaves what it had; [`redraw`] makes them anew from the results. A peer that fails is left out
//! from there on, and the report says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reef_base::{ClassName, Rng, Samples};
use reef_device::Scheme;
use reef_engine::{Engine, EngineOptions};
use reef_load::arrivals::{self, Repetition};
use reef_load::{Arrivals, COOL_DOWN, GRACE, Run, RunClient, Workload};
use reef_plan::DeviceKind;
use reef_report::disb;
use reef_report::disb::results::{
    Alone, ClientFacts, ConditionResult, DisbReport, FORMAT, ModelFacts, Setup, SystemResult, WorkloadResult,
};
use reef_report::{Machine, Others};

use super::checks;
use super::engine::{EngineSystem, UrlSystem};
use super::options::{DisbOptions, Via, make_folder};
use super::rig::RigSystem;
use super::system::{ModelFile, Played, System};
use super::tally::{AloneTime, Repeated, Tally};
use super::timeline;
use crate::error::BenchError;
use crate::machine::{self, Watch};
use crate::micro::{self, DeviceRequest, MicroEnvironment, MicroOptions};
use crate::progress::Progress;

/// Built-in workloads that peers play; they play every workload of a file.
const PEERS_PLAY: [&str; 3] = ["A", "D", "REAL"];
/// A closed loop of a model alone before it is measured, and how long it is.
const ALONE_WARM_UP: Duration = Duration::from_millis(250);
const ALONE_FULL: Duration = Duration::from_millis(1_500);
const ALONE_SMALL: Duration = Duration::from_millis(500);
/// How often every model is asked alone before rates are set.
const CALIBRATIONS: usize = 3;
/// Fewer answers than this say nothing about a model alone; it is then asked for longer, up to so often.
const ALONE_ANSWERS_MIN: usize = 5;
const ALONE_ATTEMPTS: u32 = 6;
const RESULTS: &str = "results.json";
const PAGE: &str = "report.html";
const SAMPLES: &str = "samples.csv";
/// The parts of the micro-benchmarks that belong to the report, where the device has them.
const SWEEPS: [&str; 5] = ["kernels", "length", "clients", "restore", "select"];

/// Runs the benchmark. `results.json` (and `samples.csv`) are written to the options' folder; the report is
/// given back too.
pub fn run(
    options: &DisbOptions,
    peers: Vec<Box<dyn System>>,
    environment: &dyn MicroEnvironment,
    progress: &Progress,
) -> Result<DisbReport, BenchError> {
    let models = begin(options, progress)?;
    let (ours, device) = our_system(options, environment, progress)?;
    let (ours, engine, absent) = ours;
    let kind = engine.as_ref().map(|engine| engine.capabilities().target.device);
    set_aside(&options.out)?;
    let mut systems = vec![ours];
    systems.extend(peers);
    let mut driver = Driver::new(options, progress, &models, systems, &absent)?;
    let mut report = driver.report(machine::here(&device));
    driver.play_all(&mut report)?;
    if let Some(engine) = &engine {
        progress.phase("a timeline");
        let workloads = driver.workloads(&report)?;
        let timeline = timeline::record(engine, &report, &mut *driver.systems[0], &workloads);
        report.timeline = noted(&mut report.notes, "the timeline", timeline).flatten();
    }
    drop(driver);
    if let Some(engine) = engine {
        engine.shutdown(Duration::ZERO);
    }
    if options.sweeps {
        let only = kind.map(sweeps_of).unwrap_or_default();
        let options = MicroOptions { quick: options.small, only, cus: options.cus };
        let parts = micro::run(&options, environment, progress).map(|report| report.parts);
        report.sweeps = noted(&mut report.notes, "the micro-benchmarks", parts).unwrap_or_default();
    }
    report.finished = true;
    write(&report, &options.out)?;
    progress.finish();
    Ok(report)
}

/// Runs the benchmark on a simulated device; `device` says which. Same options, same results: to the byte.
pub fn simulate(
    options: &DisbOptions,
    system: RigSystem,
    device: &str,
    progress: &Progress,
) -> Result<DisbReport, BenchError> {
    let models = begin(options, progress)?;
    set_aside(&options.out)?;
    let mut driver = Driver::new(options, progress, &models, vec![Box::new(system)], &[])?;
    let mut report = driver.report(machine::simulated(device));
    driver.play_all(&mut report)?;
    report.finished = true;
    write(&report, &options.out)?;
    progress.finish();
    Ok(report)
}

/// Refuses what cannot be played, and finds the models.
fn begin(options: &DisbOptions, progress: &Progress) -> Result<Vec<ModelFile>, BenchError> {
    make_folder(&options.out)?;
    probe(&options.out)?;
    options.check(&options.workloads_at(&BTreeMap::new())?)?;
    options.model_files(progress)
}

/// The parts of the micro-benchmarks that a report on such a device has.
fn sweeps_of(kind: DeviceKind) -> Vec<String> {
    let has = |name: &&str| micro::part_names(kind).any(|part| part == *name);
    SWEEPS.into_iter().filter(has).map(str::to_string).collect()
}

fn left_out(options: &DisbOptions, absent: &[Scheme]) -> Vec<String> {
    let scheme = |scheme| format!("the device has no scheme {scheme}: it is left out");
    let traces = options.workloads.iter().flat_map(Workload::left_out);
    absent.iter().map(scheme).chain(traces).collect()
}

/// Finds out now, not after an hour, whether results can be written.
fn probe(folder: &Path) -> Result<(), BenchError> {
    let path = folder.join(".reef-bench");
    replace(&path, "").and_then(|()| std::fs::remove_file(&path)).map_err(write_error(&path))?;
    match [RESULTS, PAGE, SAMPLES].map(|name| folder.join(name)).into_iter().find(|path| path.is_dir()) {
        Some(path) => Err(write_error(&path)(std::io::ErrorKind::IsADirectory.into())),
        None => Ok(()),
    }
}

/// What an earlier run left in the folder must not pass for this one's, and must not be lost either: it gets
/// the ending `.old`.
fn set_aside(folder: &Path) -> Result<(), BenchError> {
    for path in [RESULTS, PAGE, SAMPLES].map(|name| folder.join(name)).iter().filter(|path| path.exists()) {
        let mut old = path.as_os_str().to_os_string();
        old.push(".old");
        std::fs::rename(path, old).map_err(write_error(path))?;
    }
    Ok(())
}

/// Reads the results in a folder back, judges them as this version does, and writes both files anew. Fields
/// that this version does not know are lost.
pub fn redraw(folder: &Path) -> Result<DisbReport, BenchError> {
    let mut report = DisbReport::read(&folder.join(RESULTS))?;
    report.checks = checks::of_report(&report);
    write(&report, folder)?;
    Ok(report)
}

/// What went well; what did not becomes a note: it must not cost the rest.
fn noted<T>(notes: &mut Vec<String>, what: &str, result: Result<T, BenchError>) -> Option<T> {
    result.map_err(|error| notes.push(format!("{what} failed and is left out: {error}"))).ok()
}

/// The systems' names, told apart.
fn names(systems: &[Box<dyn System>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for system in systems {
        let name = |number: usize| match number {
            1 => system.name().to_string(),
            _ => format!("{} ({number})", system.name()),
        };
        let free = (1..).map(name).find(|name| !names.contains(name));
        names.push(free.expect("there is always a further number"));
    }
    names
}

/// The system, its engine, and the schemes that this has not got.
type Ours = (Box<dyn System>, Option<Engine>, Vec<Scheme>);

/// The system under test, and what it runs on.
fn our_system(
    options: &DisbOptions,
    environment: &dyn MicroEnvironment,
    progress: &Progress,
) -> Result<(Ours, String), BenchError> {
    let failed = |what| move |source| BenchError::Environment { what, source };
    if let Via::Url(url) = &options.via {
        let system = UrlSystem::connect(url, options.answer_limit, options.seed, progress)?;
        return Ok(((Box::new(system), None, Vec::new()), url.clone()));
    }
    let request = DeviceRequest::new(options.cus, Scheme::RtOnly);
    let device = environment.device(request).map_err(failed("the device"))?;
    let engine = Engine::new(device, EngineOptions::default())?;
    let server = match options.via {
        Via::Http => Some(environment.serve(&engine).map_err(failed("the server"))?),
        _ => None,
    };
    let name = engine.capabilities().name.clone();
    let system = EngineSystem::new(engine.clone(), &options.schemes, server, options.seed);
    let absent = system.absent().to_vec();
    Ok(((Box::new(system), Some(engine), absent), name))
}

struct Driver<'a> {
    options: &'a DisbOptions,
    progress: &'a Progress,
    models: &'a [ModelFile],
    systems: Vec<Box<dyn System>>,
    /// Their names, no two alike.
    names: Vec<String>,
    /// Peers that failed, and why.
    gone: BTreeMap<usize, String>,
    /// A line for each scheme that was asked for and that our device has not got, and for each trace of which
    /// something is not played.
    left_out: Vec<String>,
    /// Per system and model: latencies alone, all of the run.
    alone: Vec<BTreeMap<String, Samples>>,
    samples: Option<BufWriter<File>>,
    /// What others took of the machine during each play of our own system, as a share, and how long it was.
    disturbance: Vec<(f64, f64)>,
}

/// One condition of one system in the order of a repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    condition: usize,
    again: bool,
}

impl<'a> Driver<'a> {
    fn new(
        options: &'a DisbOptions,
        progress: &'a Progress,
        models: &'a [ModelFile],
        systems: Vec<Box<dyn System>>,
        absent: &[Scheme],
    ) -> Result<Driver<'a>, BenchError> {
        Ok(Driver {
            options,
            progress,
            models,
            alone: vec![BTreeMap::new(); systems.len()],
            names: names(&systems),
            gone: BTreeMap::new(),
            left_out: left_out(options, absent),
            samples: samples_file(options)?,
            disturbance: Vec::new(),
            systems,
        })
    }

    fn report(&self, machine: Machine) -> DisbReport {
        let ours = !matches!(self.options.via, Via::Url(_));
        let rates = &self.options.rates;
        DisbReport {
            format: FORMAT.to_string(),
            machine,
            setup: Setup {
                small: self.options.small,
                via: self.options.via.to_string(),
                seed: self.options.seed,
                repeats: self.options.repeats(),
                warm_up_s: self.options.warm_up().as_secs_f64(),
                rate: match rates.is_empty() {
                    true => vec!["scaled".to_string()],
                    false => rates.iter().map(ToString::to_string).collect(),
                },
                cus: if ours { self.options.cus } else { 0 },
            },
            models: Vec::new(),
            workloads: Vec::new(),
            timeline: None,
            sweeps: Vec::new(),
            others_cpu: Others(None),
            checks: Vec::new(),
            notes: Vec::new(),
            failed_systems: Vec::new(),
            finished: false,
        }
    }

    fn play_all(&mut self, report: &mut DisbReport) -> Result<(), BenchError> {
        self.load()?;
        self.calibrate()?;
        report.models = self.model_facts();
        let workloads = self.workloads(report)?;
        self.options.check(&workloads)?;
        self.progress.expect(self.expected(&workloads));
        for workload in &workloads {
            let result = self.workload(workload, report)?;
            report.checks.extend(checks::of_workload(&result, workload.built_in, self.options.small));
            report.workloads.push(result);
            report.others_cpu = self.others();
            report.models = self.model_facts();
            let gone = |(index, why): (&usize, &String)| {
                format!("{} failed and is left out from there on: {why}", self.names[*index])
            };
            report.notes = self.left_out.iter().cloned().chain(self.gone.iter().map(gone)).collect();
            report.failed_systems = self.gone.keys().map(|&index| self.names[index].clone()).collect();
            write(report, &self.options.out)?;
        }
        Ok(())
    }

    fn others(&self) -> Others {
        let time: f64 = self.disturbance.iter().map(|(_, seconds)| seconds).sum();
        let taken: f64 = self.disturbance.iter().map(|(share, seconds)| share * seconds).sum();
        Others((time > 0.0).then(|| taken / time))
    }

    fn load(&mut self) -> Result<(), BenchError> {
        for (index, system) in self.systems.iter_mut().enumerate() {
            self.progress.phase(format!("loading models: {}", system.name()));
            match system.load(self.models) {
                Err(error) if index > 0 => drop(self.gone.insert(index, error.to_string())),
                other => other?,
            }
        }
        Ok(())
    }

    /// The workloads as they are played: with the rates that the models' times alone give.
    fn workloads(&self, report: &DisbReport) -> Result<Vec<Workload>, BenchError> {
        let alone =
            |model: &ModelFacts| Some((model.name.clone(), model.alone.first()?.latency_us.p50 / 1e3));
        self.options.workloads_at(&report.models.iter().filter_map(alone).collect())
    }

    /// Every model alone on the first system: rates depend on it.
    fn calibrate(&mut self) -> Result<(), BenchError> {
        for index in 0..self.models.len() * CALIBRATIONS {
            let model = self.models[index % self.models.len()].name.clone();
            self.progress.phase(format!("{model} alone"));
            self.alone_on(0, &model)?;
        }
        Ok(())
    }

    /// How long a model is asked alone.
    fn alone_time(&self) -> Duration {
        let usual = if self.options.small { ALONE_SMALL } else { ALONE_FULL };
        self.options.duration.map_or(usual, |duration| duration.min(usual))
    }

    /// One model alone on one system, in a closed loop.
    fn alone_on(&mut self, system: usize, model: &str) -> Result<AloneTime, BenchError> {
        let real_time = self.models.iter().any(|facts| facts.name == model && facts.real_time);
        let (condition, class) = self.systems[system].alone(real_time);
        let mut first_error = None;
        for attempt in 0..ALONE_ATTEMPTS {
            let longer = 3u32.pow(attempt);
            let run = alone_run(model, class, ALONE_WARM_UP * longer, self.alone_time() * longer);
            let played = self.systems[system].play(condition, &run)?;
            first_error = first_error.or(played.clients[0].first_error.clone());
            let latency = run.latencies_us(0, &played.clients[0]);
            if latency.len() >= ALONE_ANSWERS_MIN
                && let Some(summary) = latency.summary()
            {
                self.alone[system].entry(model.to_string()).or_default().extend(&latency);
                return Ok(AloneTime { latency_us: summary.p50, per_s: run.per_s(0, &played.clients[0]) });
            }
            // It does not answer slowly, it does not answer.
            if latency.is_empty() && first_error.is_some() {
                break;
            }
        }
        let why = first_error.unwrap_or("hardly any answer".to_string());
        Err(BenchError::NoSamples(format!("{model} alone on {}: {why}", self.names[system])))
    }

    fn model_facts(&self) -> Vec<ModelFacts> {
        let facts = |model: &ModelFile| {
            let alone = self.names.iter().zip(&self.alone).filter_map(|(system, alone)| {
                let latency_us = alone.get(&model.name)?.summary()?;
                Some(Alone { system: system.clone(), latency_us })
            });
            let mut references =
                self.options.workloads.iter().filter_map(|workload| workload.reference_ms.get(&model.name));
            ModelFacts {
                name: model.name.clone(),
                source: self.options.source(model),
                alone: alone.collect(),
                reference_ms: references.next().copied(),
            }
        };
        self.models.iter().map(facts).collect()
    }

    fn plays(&self, system: usize, workload: &Workload) -> bool {
        let wanted = !workload.built_in || PEERS_PLAY.contains(&workload.name.as_str());
        system == 0 || (wanted && !self.gone.contains_key(&system))
    }

    fn players(&self, workload: &Workload) -> Vec<usize> {
        (0..self.systems.len()).filter(|&system| self.plays(system, workload)).collect()
    }

    fn expected(&self, workloads: &[Workload]) -> Duration {
        let alone = self.alone_time() + ALONE_WARM_UP;
        let mut total = Duration::ZERO;
        for workload in workloads {
            let one = self.options.warm_up() + self.options.duration_of(workload);
            for system in self.players(workload) {
                let turns = turns(self.systems[system].conditions().len()).len() as u32;
                total += one * turns + alone * workload.models_asked().len() as u32;
            }
        }
        total * self.options.repeats() as u32
    }

    fn workload(&mut self, workload: &Workload, report: &DisbReport) -> Result<WorkloadResult, BenchError> {
        let mut repeated: Repetitions = BTreeMap::new();
        for index in 0..self.options.repeats() {
            let repetition = Repetition {
                seed: self.options.seed,
                index,
                count: self.options.repeats(),
                warm_up: self.options.warm_up(),
                measured: self.options.duration_of(workload),
                cool_down: COOL_DOWN,
                grace: GRACE,
            };
            let run = Arc::new(arrivals::run(workload, &repetition));
            let mut players = self.players(workload);
            let length = players.len();
            players.rotate_left(index % length);
            for system in players {
                match self.repetition(system, workload, index, &run, &mut repeated) {
                    Err(error) if system > 0 => {
                        repeated.retain(|&(player, ..), _| player != system);
                        self.gone.insert(system, error.to_string());
                    }
                    other => other?,
                }
            }
        }
        Ok(self.result(workload, report, &repeated))
    }

    /// One repetition of a workload on one system.
    fn repetition(
        &mut self,
        system: usize,
        workload: &Workload,
        index: usize,
        run: &Arc<Run>,
        repeated: &mut Repetitions,
    ) -> Result<(), BenchError> {
        let alone = self.alone_all(system, workload)?;
        let mut rng = Rng::new(self.options.seed ^ (index as u64) << 32 ^ system as u64);
        for turn in shuffled(turns(self.systems[system].conditions().len()), &mut rng) {
            let played = self.play(system, turn, workload, index, run)?;
            let one = Repeated { run: run.clone(), played, alone: alone.clone() };
            repeated.entry((system, turn.condition, turn.again)).or_default().push(one);
        }
        Ok(())
    }

    fn alone_all(
        &mut self,
        system: usize,
        workload: &Workload,
    ) -> Result<BTreeMap<String, AloneTime>, BenchError> {
        let mut all = BTreeMap::new();
        for model in workload.models_asked() {
            self.progress.phase(format!("{}: {model} alone on {}", workload.name, self.names[system]));
            all.insert(model.to_string(), self.alone_on(system, model)?);
            self.progress.advance(self.alone_time() + ALONE_WARM_UP);
        }
        Ok(all)
    }

    fn play(
        &mut self,
        system: usize,
        turn: Turn,
        workload: &Workload,
        repetition: usize,
        run: &Run,
    ) -> Result<Played, BenchError> {
        let condition = self.systems[system].conditions()[turn.condition].name.clone();
        let condition = format!("{condition}{}", if turn.again { " (again)" } else { "" });
        let (round, rounds) = (repetition + 1, self.options.repeats());
        let name = &self.names[system];
        self.progress.phase(format!("{} {round}/{rounds}: {name}, {condition}", workload.name));
        let watch = Watch::start();
        let played = self.systems[system].play(turn.condition, run)?;
        // What a peer or a server takes is no disturbance, and cannot be told from one.
        if played.device.is_some() && !self.systems[system].is_simulated() {
            self.disturbance.extend(watch.others().0.map(|share| (share, run.measured.as_secs_f64())));
        }
        self.progress.advance(run.warm_up + run.measured);
        if let Some(file) = &mut self.samples {
            let labels = [&workload.name, &self.names[system], &condition].map(|label| quoted(label));
            let written = write_samples(file, &labels, repetition, run, &played);
            written.map_err(write_error(&self.options.out.join(SAMPLES)))?;
        }
        Ok(played)
    }

    fn result(&self, workload: &Workload, report: &DisbReport, repeated: &Repetitions) -> WorkloadResult {
        let mut systems: Vec<usize> = repeated.keys().map(|&(system, ..)| system).collect();
        systems.dedup();
        WorkloadResult {
            name: workload.name.clone(),
            title: workload.title.clone(),
            seconds: self.options.duration_of(workload).as_secs_f64(),
            clients: workload.clients.iter().map(client_facts).collect(),
            systems: systems
                .into_iter()
                .map(|system| SystemResult {
                    name: self.names[system].clone(),
                    offered: offered(report, &self.names[system], &repeated[&(system, 0, false)]),
                    conditions: self.conditions(workload, system, repeated),
                })
                .collect(),
        }
    }

    /// What each condition of a system gave. One that is played twice counts both times, and the second time
    /// is compared with the first.
    fn conditions(&self, workload: &Workload, system: usize, repeated: &Repetitions) -> Vec<ConditionResult> {
        let of = |condition: usize, again: bool| repeated.get(&(system, condition, again));
        let first = |condition: usize| of(condition, false).into_iter().flatten();
        let second = |condition: usize| of(condition, true).into_iter().flatten();
        let both = |condition: usize| first(condition).chain(second(condition)).collect::<Vec<&Repeated>>();
        let conditions = self.systems[system].conditions();
        let result = |turn: Turn| {
            let condition = &conditions[turn.condition];
            let (once, twice) = (first(0).collect::<Vec<_>>(), both(0));
            let dedicated = if of(turn.condition, true).is_some() { &twice[..] } else { &once[..] };
            let (own, compared) = match turn.again {
                true => (second(turn.condition).collect(), first(turn.condition).collect()),
                false => (both(turn.condition), Vec::new()),
            };
            let own = if turn.condition == 0 && !turn.again { dedicated } else { &own[..] };
            let reference = if turn.again { &compared[..] } else { dedicated };
            Tally { workload, condition, again: turn.again, own, reference, dedicated }.result()
        };
        turns(conditions.len()).into_iter().map(result).collect()
    }
}

/// Every repetition, by system, condition and whether it is the second time.
type Repetitions = BTreeMap<(usize, usize, bool), Vec<Repeated>>;

/// Real-time arrivals × time alone on a system, as a share of the time.
fn offered(report: &DisbReport, system: &str, repeated: &[Repeated]) -> Option<f64> {
    let alone_s = |model: &str| {
        let facts = report.models.iter().find(|facts| facts.name == model)?;
        let alone = facts.alone.iter().find(|alone| alone.system == system)?;
        Some(alone.latency_us.p50 / 1e6)
    };
    let mut work_s = 0.0;
    for one in repeated {
        let window = one.run.window();
        for client in one.run.clients.iter().filter(|client| client.class == ClassName::RealTime) {
            let Arrivals::Open { times, .. } = &client.arrivals else { return None };
            let count = times.iter().filter(|time| window.contains(time)).count();
            work_s += count as f64 * alone_s(&client.model)?;
        }
    }
    let time_s: f64 = repeated.iter().map(|one| one.run.measured.as_secs_f64()).sum();
    Some(work_s / time_s)
}

fn client_facts(client: &reef_load::workload::Client) -> ClientFacts {
    ClientFacts {
        name: client.name.clone(),
        model: client.model.clone(),
        class: client.class,
        level: client.level.get(),
        arrivals: client.arrivals.to_string(),
        rate_hz: client.arrivals.rate_hz(),
        deadline_ms: client.deadline.map(|deadline| deadline.as_secs_f64() * 1e3),
    }
}

/// The turns of a repetition: each condition once, the first and the last one twice.
fn turns(conditions: usize) -> Vec<Turn> {
    let mut turns: Vec<Turn> = (0..conditions).map(|condition| Turn { condition, again: false }).collect();
    turns.push(Turn { condition: 0, again: true });
    if conditions > 1 {
        turns.push(Turn { condition: conditions - 1, again: true });
    }
    turns
}

/// In random order (Fisher and Yates), so that no condition comes more often first or behind the same one.
fn shuffled(mut turns: Vec<Turn>, rng: &mut Rng) -> Vec<Turn> {
    for index in (1..turns.len()).rev() {
        turns.swap(index, rng.below(index as u64 + 1) as usize);
    }
    turns
}

/// A run of one closed-loop client that asks `model` alone.
fn alone_run(model: &str, class: ClassName, warm_up: Duration, measured: Duration) -> Run {
    let client = RunClient::new(model, class, Arrivals::BACK_TO_BACK, 1);
    let (cool_down, grace) = (Duration::ZERO, Duration::ZERO);
    Run { clients: vec![client], warm_up, measured, cool_down, grace }
}

/// Writes the results and the page, each in one step.
fn write(report: &DisbReport, folder: &Path) -> Result<(), BenchError> {
    for (name, content) in [(RESULTS, report.to_json()), (PAGE, disb::page(report).html())] {
        let path = folder.join(name);
        replace(&path, &content).map_err(write_error(&path))?;
    }
    Ok(())
}

/// Puts `content` at `path`; nobody ever sees half of it.
fn replace(path: &Path, content: &str) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_os_string();
    partial.push(".part");
    std::fs::write(&partial, content).and_then(|()| std::fs::rename(&partial, path))
}

fn write_error(path: &Path) -> impl Fn(std::io::Error) -> BenchError {
    let path = path.to_path_buf();
    move |source| BenchError::Write { path: path.clone(), source }
}

fn samples_file(options: &DisbOptions) -> Result<Option<BufWriter<File>>, BenchError> {
    if !options.samples {
        return Ok(None);
    }
    let path = options.out.join(SAMPLES);
    let header = "workload,system,condition,repetition,client,outcome,due_us,sent_us,done_us,measured\n";
    let file = File::create(&path).and_then(|file| {
        let mut file = BufWriter::new(file);
        file.write_all(header.as_bytes()).map(|()| file)
    });
    file.map(Some).map_err(write_error(&path))
}

/// One line per request; times from the start of the run.
fn write_samples(
    file: &mut BufWriter<File>,
    labels: &[String; 3],
    repetition: usize,
    run: &Run,
    played: &Played,
) -> std::io::Result<()> {
    let [workload, system, condition] = labels;
    let window = run.window();
    for (index, (client, played)) in run.clients.iter().zip(&played.clients).enumerate() {
        let name = quoted(&client.name);
        let begin = format!("{workload},{system},{condition},{repetition},{name}");
        for record in &played.records {
            let [due, sent, done] = [record.due, record.sent, record.done].map(|time| time.as_micros_f64());
            let inside = run.is_measured(index, record);
            writeln!(file, "{begin},answered,{due:.1},{sent:.1},{done:.1},{inside}")?;
        }
        for (outcome, times) in [("failed", &played.failed), ("unsent", &played.unsent)] {
            for due in times {
                let inside = window.contains(due);
                writeln!(file, "{begin},{outcome},{:.1},,,{inside}", due.as_micros_f64())?;
            }
        }
    }
    file.flush()
}

/// A field of a CSV line.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_parts_that_its_device_has() {
        assert_eq!(sweeps_of(DeviceKind::Cpu), SWEEPS);
        assert_eq!(sweeps_of(DeviceKind::Cuda), ["kernels", "length", "clients", "restore"]);
    }

    #[test]
    fn every_condition_is_played_once_and_the_ends_twice_in_changing_order() {
        let all = turns(3);
        assert_eq!(all.len(), 5);
        for again in [false, true] {
            for condition in 0..3 {
                let count = all.iter().filter(|turn| **turn == Turn { condition, again }).count();
                assert_eq!(count, usize::from(!again || condition != 1), "{condition} {again}");
            }
        }
        assert_eq!(turns(1).len(), 2);
        let orders: Vec<Vec<Turn>> = (0..40).map(|seed| shuffled(all.clone(), &mut Rng::new(seed))).collect();
        for turn in &all {
            let behind = |other: &Turn| {
                let pairs = orders.iter().flat_map(|order| order.windows(2));
                pairs.filter(|pair| pair[0] == *other && pair[1] == *turn).count()
            };
            // 40 orders of five: each pair eight times on average.
            assert!(all.iter().filter(|other| *other != turn).all(|other| (1..24).contains(&behind(other))));
            assert!(orders.iter().filter(|order| order[0] == *turn).count() < 20);
        }
        assert_eq!(orders[7], shuffled(all.clone(), &mut Rng::new(7)));
    }

    #[test]
    fn fields_that_would_break_a_line_are_quoted() {
        assert_eq!([quoted("a"), quoted("a,b"), quoted("a\"b")], ["a", "\"a,b\"", "\"a\"\"b\""]);
    }
}
