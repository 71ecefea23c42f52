//! An engine over the simulated GPU, in virtual time: real-time requests beside a best-effort model whose
//! kernels take as long as they were measured. What preempting costs is what the model of the queues says,
//! nothing that was computed is lost, and a seed gives one run.

mod doubles;

use std::sync::Arc;

use doubles::*;
use reef_base::Rng;
use reef_engine::*;
use reef_sim::clients::{Arrivals, play};
use reef_sim::device::{Measured, gpu, plan_of};
use reef_sim::profile::{Model, Profile};
use reef_sim::server::{self, Client, Reset, Server};
use reef_sim::{GpuConstants, GpuOptions};

/// Real-time requests of a run, and best-effort ones, which are there all the time.
const REAL_TIME: usize = 150;
const BEST_EFFORT: usize = 64;
/// From one real-time request to the next: this, and on average half of it again.
const BETWEEN: u64 = 4_000_000;

/// A GPU with two models: ResNet-152 as it was measured, and one short kernel.
struct Testbed {
    constants: GpuConstants,
    models: Vec<Model>,
}

impl Testbed {
    fn new(name: &str) -> Testbed {
        let constants = GpuConstants::built_in(name).unwrap();
        let resnet = Model::of(&Profile::built_in("resnet152").unwrap(), &constants);
        let short = Model { name: "short".into(), ..Model::made_up(&constants, 1, Nanos::from_micros(10)) };
        Testbed { constants, models: vec![resnet, short] }
    }

    /// An engine over the GPU, whose kernels take up to a tenth longer or shorter if there is a seed.
    fn engine(&self, scheme: Scheme, seed: Option<u64>) -> Engine {
        let options = GpuOptions {
            scheme,
            costs: Arc::new(Measured(self.models.clone())),
            jitter: if seed.is_some() { 0.1 } else { 0.0 },
            seed: seed.unwrap_or_default(),
            ..GpuOptions::new(self.constants.clone())
        };
        let engine = Engine::new(Arc::new(gpu(options).unwrap()), EngineOptions::default()).unwrap();
        for (model, settings) in self.models.iter().zip([best_effort(), real_time(0)]) {
            let plan = plan_of(model, engine.capabilities().target).unwrap();
            engine.load_plan(key(&model.name), settings, Arc::new(plan)).unwrap();
        }
        engine
    }

    /// Preemption latencies of the queued model under the same load, in microseconds.
    fn predicted(&self, scheme: server::Scheme) -> Vec<f64> {
        let best_effort = Client { model: 0, class: Class::BestEffort };
        let clients = [Client { model: 1, class: Class::real_time(0) }, best_effort];
        let mean = Nanos(BETWEEN * 3 / 2);
        let arrivals = [Arrivals::Poisson { mean }, Arrivals::Closed { think: Nanos::ZERO }];
        let server = Server::new(&self.constants, &self.models, &clients, scheme);
        let played = play(server, &arrivals, Nanos::from_millis(2_000), 1);
        played.seen.preemptions.iter().map(|preempted| preempted.latency().as_micros_f64()).collect()
    }
}

fn best_effort() -> ModelSettings {
    ModelSettings { queue_len: BEST_EFFORT, ..ModelSettings::default() }
}

/// What came of a request.
#[derive(Debug, PartialEq)]
struct Answer {
    ended: Nanos,
    /// From submission to its first block.
    first_block: Nanos,
    preempted: bool,
    counters: TaskCounters,
    output: Vec<u8>,
}

fn answer(future: InferFuture) -> Answer {
    let response = future.wait().unwrap();
    Answer {
        ended: response.timings.arrival + response.timings.total,
        first_block: response.first_block,
        preempted: response.preempted,
        counters: response.counters,
        output: response.output("y").unwrap().data.to_vec(),
    }
}

/// The answers of best-effort requests, and of as many real-time ones among them, at times that are random by
/// their seed.
fn run(engine: &Engine, real_time: usize, seed: u64) -> (Vec<Answer>, Vec<Answer>) {
    let submit = |model: &str, number: usize| engine.submit(&request(model, &[number as u8; 64])).unwrap();
    let lesser: Vec<InferFuture> = (0..BEST_EFFORT).map(|number| submit("resnet152", number)).collect();
    let mut rng = Rng::new(seed);
    let mut urgent = Vec::new();
    for number in 0..real_time {
        engine.run_until(engine.now() + Nanos(BETWEEN + rng.below(BETWEEN)));
        urgent.push(submit("short", number));
    }
    (lesser.into_iter().map(answer).collect(), urgent.into_iter().map(answer).collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// How long preempting takes on a device of that name: in an engine, and as the queued model says.
fn preemptions(name: &str, scheme: Scheme, of_model: server::Scheme) -> [Vec<f64>; 2] {
    let testbed = Testbed::new(name);
    let (_, urgent) = run(&testbed.engine(scheme, None), REAL_TIME, 1);
    // The model's end when the device is free; the first kernel has to get there yet.
    let transmit = testbed.constants.queues.transmit_us.nanos();
    let preempted = urgent.iter().filter(|answer| answer.preempted);
    let seen: Vec<f64> = preempted.map(|answer| (answer.first_block - transmit).as_micros_f64()).collect();
    let predicted = testbed.predicted(of_model);
    assert!(seen.len() > REAL_TIME / 2, "{name}: {} of {REAL_TIME} preempted something", seen.len());
    assert!(predicted.len() > REAL_TIME / 2);
    println!("{name}, {scheme}: {} us in the engine, {} by the model", mean(&seen), mean(&predicted));
    [seen, predicted]
}

#[test]
fn preempting_by_a_reset_takes_35_to_40_us_on_an_mi50() {
    let without_padding = Reset { padding: false, ..Reset::REEF };
    let [seen, predicted] = preemptions("mi50", Scheme::Reset, server::Scheme::Reset(without_padding));
    for latencies in [&seen, &predicted] {
        assert!((35.0..=40.0).contains(&mean(latencies)), "{latencies:?}");
        assert!(latencies.iter().all(|&latency| latency <= 40.0), "{latencies:?}");
    }
    assert!((mean(&seen) - mean(&predicted)).abs() < 1.0);
}

#[test]
fn where_nothing_is_killed_or_reset_it_takes_as_long_as_the_queued_model_says() {
    let cases = [
        ("v100", Scheme::Reset, server::Scheme::Reset(Reset::REEF_N)),
        ("mi50", Scheme::Wait, server::Scheme::Wait),
    ];
    for (name, scheme, of_model) in cases {
        let [seen, predicted] = preemptions(name, scheme, of_model);
        let ratio = mean(&seen) / mean(&predicted);
        assert!((0.9..1.1).contains(&ratio), "{name}, {scheme}: {ratio}");
        assert!(mean(&seen) > 60.0, "what runs is waited for");
    }
}

#[test]
fn outputs_are_those_of_an_undisturbed_run() {
    let testbed = Testbed::new("mi50");
    let (undisturbed, _) = run(&testbed.engine(Scheme::Reset, None), 0, 1);
    assert!(undisturbed.iter().all(|answer| answer.counters.blocks_killed == 0));
    let plan = plan_of(&testbed.models[0], GpuOptions::new(testbed.constants.clone()).target()).unwrap();
    for scheme in [Scheme::Reset, Scheme::Wait, Scheme::Concurrent, Scheme::Sequential] {
        let (lesser, urgent) = run(&testbed.engine(scheme, None), REAL_TIME, 2);
        for (disturbed, alone) in lesser.iter().zip(&undisturbed) {
            assert_eq!(disturbed.output, alone.output, "{scheme}");
            let counters = disturbed.counters;
            assert_eq!(counters.blocks_done, plan.blocks() + counters.blocks_rerun, "{scheme}");
        }
        let killed: u64 = lesser.iter().map(|answer| answer.counters.blocks_killed).sum();
        let rerun: u64 = lesser.iter().map(|answer| answer.counters.blocks_rerun).sum();
        assert_eq!((killed > 0, rerun > 0), (scheme.kills(), scheme.kills()), "{scheme}");
        assert_eq!(killed, urgent.iter().map(|answer| answer.counters.kills_caused).sum::<u64>());
    }
}

#[test]
fn a_seed_gives_one_run_and_another_seed_another_one() {
    let testbed = Testbed::new("mi50");
    let played = |seed| run(&testbed.engine(Scheme::Reset, Some(seed)), REAL_TIME, seed);
    assert_eq!(played(1), played(1));
    let ends = |(lesser, urgent): (Vec<Answer>, Vec<Answer>)| -> Vec<Nanos> {
        lesser.iter().chain(&urgent).map(|answer| answer.ended).collect()
    };
    assert_ne!(ends(played(1)), ends(played(2)));
}
