//! The driver: what is played in which order.
//!
//! 1. Every model alone on our system, which sets the rates.
//! 2. Workload by workload, repetition by repetition: on each system every model of the workload alone, then
//!    every condition once, in an order that changes with the repetition; the reference and the last
//!    condition (`reset`) come a second time, as A against A.
//! 3. A short stretch with the trace on, that no number comes from, and the micro-benchmarks of preemption.
//!
//! `results.json` is written after every workload, so that a run that is stopped loses little.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use reef_device::Scheme;
use reef_engine::{Engine, EngineOptions};

use super::arrivals::{self, Repetition};
use super::checks;
use super::engine::{EngineSystem, UrlSystem};
use super::options::{DisbOptions, Via, make_folder};
use super::play::{Arrivals, Condition, ModelFile, Played, Run, RunClient, System};
use super::report::{
    Alone, ClientFacts, DisbReport, FORMAT, ModelFacts, Setup, SystemResult, WorkloadResult,
};
use super::tally::{AloneTime, Repeated, Tally};
use super::timeline;
use super::workload::{BUILT_IN, ClassName, Workload};
use crate::error::BenchError;
use crate::machine::{Machine, Others, Watch};
use crate::micro::{self, DeviceRequest, MicroEnvironment, MicroOptions};
use crate::progress::Progress;
use crate::recorder::{Samples, Window, rate_per_s};

/// Built-in workloads that peers play; they play every workload of a file.
const PEERS_PLAY: [&str; 3] = ["A", "D", "REAL"];
/// How long after the end of the run late arrivals are still sent.
const GRACE: Duration = Duration::from_secs(5);
/// A closed loop of a model alone before it is measured, and how long it is.
const ALONE_WARM_UP: Duration = Duration::from_millis(300);
const ALONE_FULL: Duration = Duration::from_millis(2_200);
const ALONE_SMALL: Duration = Duration::from_millis(700);
/// Fewer answers than this say nothing about a model alone; it is then asked for longer, up to so often.
const ALONE_ANSWERS_MIN: usize = 5;
const ALONE_ATTEMPTS: u32 = 6;
/// The parts of the micro-benchmarks that belong to the report.
const SWEEPS: [&str; 5] = ["kernels", "length", "clients", "restore", "select"];

/// Runs the benchmark. `results.json` (and `samples.csv`) are written to the options' folder; the report is
/// given back too.
pub fn run(
    options: &DisbOptions,
    peers: Vec<Box<dyn System>>,
    environment: &dyn MicroEnvironment,
    progress: &Progress,
) -> Result<DisbReport, BenchError> {
    make_folder(&options.out)?;
    let results = options.out.join("results.json");
    // Better now than after an hour.
    let writable = File::options().create(true).append(true).open(&results).map(|_| ());
    writable.map_err(|source| BenchError::Write { path: results.clone(), source })?;
    options.workloads_at(&BTreeMap::new())?;
    let models = options.model_files(progress)?;
    let (ours, device) = our_system(options, environment)?;
    let engine = ours.1;
    let mut systems = vec![ours.0];
    systems.extend(peers);
    let mut driver = Driver {
        options,
        progress,
        models: &models,
        alone: vec![BTreeMap::new(); systems.len()],
        samples: samples_file(options)?,
        disturbance: Vec::new(),
        systems,
        results,
    };
    let mut report = driver.report(&device);
    driver.play_all(&mut report)?;
    if let Some(engine) = &engine {
        progress.phase("a timeline");
        let workloads = driver.workloads(&report)?;
        report.timeline = timeline::record(engine, &report, &mut *driver.systems[0], &workloads)?;
    }
    drop(driver);
    if let Some(engine) = engine {
        engine.shutdown(Duration::ZERO);
    }
    if options.sweeps {
        let only = SWEEPS.map(str::to_string).to_vec();
        let options = MicroOptions { quick: options.small, only, cus: options.cus };
        report.sweeps = micro::run(&options, environment, progress)?.parts;
    }
    write(&report, &options.out.join("results.json"))?;
    progress.finish();
    Ok(report)
}

type Ours = (Box<dyn System>, Option<Engine>);

/// The system under test, and what it runs on.
fn our_system(
    options: &DisbOptions,
    environment: &dyn MicroEnvironment,
) -> Result<(Ours, String), BenchError> {
    let failed = |what| move |source| BenchError::Environment { what, source };
    if let Via::Url(url) = &options.via {
        let system = UrlSystem::connect(url, options.seed)?;
        return Ok(((Box::new(system), None), url.clone()));
    }
    let request = DeviceRequest { cus: options.cus, first_core: 0, scheme: Scheme::RtOnly };
    let device = environment.device(request).map_err(failed("the device"))?;
    let engine = Engine::new(device, EngineOptions::default())?;
    let server = match options.via {
        Via::Http => Some(environment.serve(&engine).map_err(failed("the server"))?),
        _ => None,
    };
    let name = engine.capabilities().name.clone();
    let system = EngineSystem::new(engine.clone(), &options.schemes, server, options.seed);
    Ok(((Box::new(system), Some(engine)), name))
}

struct Driver<'a> {
    options: &'a DisbOptions,
    progress: &'a Progress,
    models: &'a [ModelFile],
    systems: Vec<Box<dyn System>>,
    /// Per system and model: latencies alone, all of the run.
    alone: Vec<BTreeMap<String, Samples>>,
    samples: Option<BufWriter<File>>,
    /// What others took of the machine during each play of our own system, and how long that was.
    disturbance: Vec<(f64, f64)>,
    results: PathBuf,
}

/// One condition of one system in the order of a repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    condition: usize,
    again: bool,
}

impl Driver<'_> {
    fn report(&self, device: &str) -> DisbReport {
        let ours = !matches!(self.options.via, Via::Url(_));
        let rates = &self.options.rates;
        DisbReport {
            format: FORMAT.to_string(),
            machine: Machine::now(device),
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
        }
    }

    fn play_all(&mut self, report: &mut DisbReport) -> Result<(), BenchError> {
        self.load()?;
        self.calibrate()?;
        report.models = self.model_facts();
        let workloads = self.workloads(report)?;
        self.progress.expect(self.expected(&workloads));
        for workload in &workloads {
            let result = self.workload(workload, report)?;
            report.checks.extend(checks::of_workload(&result, self.options.small));
            report.workloads.push(result);
            report.others_cpu = self.others();
            report.models = self.model_facts();
            write(report, &self.results)?;
        }
        Ok(())
    }

    fn others(&self) -> Others {
        let time: f64 = self.disturbance.iter().map(|(_, seconds)| seconds).sum();
        let taken: f64 = self.disturbance.iter().map(|(share, seconds)| share * seconds).sum();
        Others((time > 0.0).then(|| taken / time))
    }

    fn load(&mut self) -> Result<(), BenchError> {
        for system in &mut self.systems {
            self.progress.phase(format!("loading models: {}", system.name()));
            system.load(self.models)?;
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
        for index in 0..self.models.len() {
            let model = self.models[index].name.clone();
            self.progress.phase(format!("{model} alone"));
            self.alone_on(0, &model)?;
        }
        Ok(())
    }

    /// One model alone on one system, in a closed loop under the reference condition.
    fn alone_on(&mut self, system: usize, model: &str) -> Result<AloneTime, BenchError> {
        let usual = if self.options.small { ALONE_SMALL } else { ALONE_FULL };
        for attempt in 0..ALONE_ATTEMPTS {
            let run = alone_run(model, ALONE_WARM_UP, usual * 3u32.pow(attempt));
            let played = self.systems[system].play(0, &run)?;
            let client = &played.clients[0];
            if let Some(error) = &client.first_error {
                let name = self.systems[system].name();
                return Err(BenchError::NoSamples(format!("{model} alone on {name}: {error}")));
            }
            let window = run.window();
            let inside = || client.records.iter().filter(|record| window.contains(&record.done));
            let latency: Samples =
                inside().map(|record| record.done.since(record.sent).as_micros_f64()).collect();
            if latency.len() < ALONE_ANSWERS_MIN {
                continue;
            }
            let summary = latency.summary().expect("there are answers");
            self.alone[system].entry(model.to_string()).or_default().extend(&latency);
            let before = client.records.iter().map(|r| r.done).filter(|&done| done < window.start).max();
            let done: Vec<_> = inside().map(|record| record.done).collect();
            let per_s = rate_per_s(&done, Window { before, from: window.start, to: window.end });
            return Ok(AloneTime { latency_us: summary.p50, per_s });
        }
        Err(BenchError::NoSamples(format!("{model} alone gave hardly any answer")))
    }

    fn model_facts(&self) -> Vec<ModelFacts> {
        let facts = |model: &ModelFile| {
            let alone = self.systems.iter().zip(&self.alone).filter_map(|(system, alone)| {
                let latency_us = alone.get(&model.name)?.summary()?;
                Some(Alone { system: system.name().to_string(), latency_us })
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
        let built_in = BUILT_IN.contains(&workload.name.as_str());
        system == 0 || !built_in || PEERS_PLAY.contains(&workload.name.as_str())
    }

    fn expected(&self, workloads: &[Workload]) -> Duration {
        let alone = if self.options.small { ALONE_SMALL } else { ALONE_FULL } + ALONE_WARM_UP;
        let mut total = Duration::ZERO;
        for workload in workloads {
            let one = self.options.warm_up() + self.options.duration_of(workload);
            for index in (0..self.systems.len()).filter(|&index| self.plays(index, workload)) {
                let turns = turns(self.systems[index].conditions(), 0).len() as u32;
                total += one * turns + alone * workload.models_asked().len() as u32;
            }
        }
        total * self.options.repeats() as u32
    }

    fn workload(&mut self, workload: &Workload, report: &DisbReport) -> Result<WorkloadResult, BenchError> {
        let players: Vec<usize> =
            (0..self.systems.len()).filter(|&system| self.plays(system, workload)).collect();
        let mut repeated: BTreeMap<(usize, usize, bool), Vec<Repeated>> = BTreeMap::new();
        for index in 0..self.options.repeats() {
            let repetition = Repetition {
                seed: self.options.seed,
                index,
                warm_up: self.options.warm_up(),
                measured: self.options.duration_of(workload),
                grace: GRACE,
            };
            let run = arrivals::run(workload, &repetition);
            for &system in &players {
                let alone = self.alone_all(system, workload)?;
                for turn in turns(self.systems[system].conditions(), index) {
                    let played = self.play(system, turn, workload, index, &run)?;
                    let one = Repeated { run: run.clone(), played, alone: alone.clone() };
                    repeated.entry((system, turn.condition, turn.again)).or_default().push(one);
                }
            }
        }
        Ok(self.result(workload, report, &players, &repeated))
    }

    fn alone_all(
        &mut self,
        system: usize,
        workload: &Workload,
    ) -> Result<BTreeMap<String, AloneTime>, BenchError> {
        let mut all = BTreeMap::new();
        for model in workload.models_asked() {
            self.progress.phase(format!(
                "{}: {model} alone on {}",
                workload.name,
                self.systems[system].name()
            ));
            all.insert(model.to_string(), self.alone_on(system, model)?);
            self.progress.advance(if self.options.small { ALONE_SMALL } else { ALONE_FULL } + ALONE_WARM_UP);
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
        let name = self.systems[system].conditions()[turn.condition].name.clone();
        let again = if turn.again { ", again" } else { "" };
        let (round, rounds) = (repetition + 1, self.options.repeats());
        self.progress.phase(format!(
            "{} {round}/{rounds}: {}, {name}{again}",
            workload.name,
            self.systems[system].name()
        ));
        let watch = Watch::start();
        let played = self.systems[system].play(turn.condition, run)?;
        // What a peer or a server takes is not ours, and no disturbance either.
        if played.device.is_some() {
            self.disturbance.extend(watch.others().0.map(|share| (share, run.measured.as_secs_f64())));
        }
        self.progress.advance(run.warm_up + run.measured);
        if let Some(file) = &mut self.samples {
            let condition = format!("{name}{}", if turn.again { " (again)" } else { "" });
            let labels = [&workload.name, self.systems[system].name(), &condition].map(quoted);
            let written = write_samples(file, &labels, repetition, run, &played);
            let path = self.options.out.join("samples.csv");
            written.map_err(|source| BenchError::Write { path, source })?;
        }
        Ok(played)
    }

    fn result(
        &self,
        workload: &Workload,
        report: &DisbReport,
        players: &[usize],
        repeated: &BTreeMap<(usize, usize, bool), Vec<Repeated>>,
    ) -> WorkloadResult {
        let systems = players.iter().map(|&system| {
            let conditions = self.systems[system].conditions();
            let dedicated = &repeated[&(system, 0, false)];
            let all = turns(conditions, 0);
            let tally = |turn: &Turn| {
                let own = &repeated[&(system, turn.condition, turn.again)];
                let reference =
                    if turn.again { &repeated[&(system, turn.condition, false)] } else { dedicated };
                let condition = &conditions[turn.condition];
                Tally { workload, condition, again: turn.again, own, reference, dedicated }.result()
            };
            let name = self.systems[system].name().to_string();
            SystemResult { name, conditions: all.iter().map(tally).collect() }
        });
        let alone_ms = |model: &str| {
            let facts = report.models.iter().find(|facts| facts.name == model)?;
            Some(facts.alone.first()?.latency_us.p50 / 1e3)
        };
        let real_time = workload.clients.iter().filter(|client| client.class == ClassName::RealTime);
        WorkloadResult {
            name: workload.name.clone(),
            title: workload.title.clone(),
            seconds: self.options.duration_of(workload).as_secs_f64(),
            offered: real_time.map(|c| Some(c.arrivals.rate_hz()? * alone_ms(&c.model)? / 1e3)).sum(),
            clients: workload.clients.iter().map(client_facts).collect(),
            systems: systems.collect(),
        }
    }
}

fn client_facts(client: &super::workload::Client) -> ClientFacts {
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

/// The conditions in the order of a repetition: each once, the first and the last one twice. In the first
/// repetition the second times come last.
fn turns(conditions: &[Condition], repetition: usize) -> Vec<Turn> {
    let mut turns: Vec<Turn> =
        (0..conditions.len()).map(|condition| Turn { condition, again: false }).collect();
    turns.push(Turn { condition: 0, again: true });
    if conditions.len() > 1 {
        turns.push(Turn { condition: conditions.len() - 1, again: true });
    }
    // Three of them further each time, so that no condition always comes first or behind the same one.
    let length = turns.len();
    turns.rotate_left(repetition * 3 % length);
    turns
}

/// A run of one closed-loop client that asks `model` alone.
fn alone_run(model: &str, warm_up: Duration, measured: Duration) -> Run {
    let client = RunClient {
        name: model.to_string(),
        model: model.to_string(),
        class: ClassName::RealTime,
        level: 0,
        arrivals: Arrivals::Closed { think: Duration::ZERO },
        in_flight: 1,
        enforced_deadline: None,
    };
    Run { clients: vec![client], warm_up, measured, grace: Duration::ZERO }
}

fn write(report: &DisbReport, path: &std::path::Path) -> Result<(), BenchError> {
    std::fs::write(path, report.to_json())
        .map_err(|source| BenchError::Write { path: path.to_path_buf(), source })
}

fn samples_file(options: &DisbOptions) -> Result<Option<BufWriter<File>>, BenchError> {
    if !options.samples {
        return Ok(None);
    }
    let path = options.out.join("samples.csv");
    let header = "workload,system,condition,repetition,client,outcome,due_us,sent_us,done_us,measured\n";
    let file = File::create(&path).and_then(|file| {
        let mut file = BufWriter::new(file);
        file.write_all(header.as_bytes()).map(|()| file)
    });
    file.map(Some).map_err(|source| BenchError::Write { path, source })
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
    for (client, played) in run.clients.iter().zip(&played.clients) {
        let name = quoted(&client.name);
        let begin = format!("{workload},{system},{condition},{repetition},{name}");
        for record in &played.records {
            let [due, sent, done] = [record.due, record.sent, record.done].map(|time| time.as_micros_f64());
            let inside = window.contains(&record.due);
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
    fn every_condition_is_played_once_and_the_ends_twice_in_changing_order() {
        let conditions: Vec<Condition> = ["rt-only", "wait", "reset"]
            .map(|name| Condition { name: name.to_string(), title: String::new(), best_effort: true })
            .into();
        let first = turns(&conditions, 0);
        assert_eq!(first.len(), 5);
        for again in [false, true] {
            for condition in 0..3 {
                let count = first.iter().filter(|turn| **turn == Turn { condition, again }).count();
                assert_eq!(count, usize::from(!again || condition != 1), "{condition} {again}");
            }
        }
        let begins: Vec<Turn> = (0..5).map(|repetition| turns(&conditions, repetition)[0]).collect();
        assert!((1..5).all(|index| !begins[..index].contains(&begins[index])), "{begins:?}");
        assert_eq!(turns(&conditions[..1], 0).len(), 2);
    }

    #[test]
    fn fields_that_would_break_a_line_are_quoted() {
        assert_eq!([quoted("a"), quoted("a,b"), quoted("a\"b")], ["a", "\"a,b\"", "\"a\"\"b\""]);
    }
}
