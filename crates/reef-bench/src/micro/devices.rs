//! Part `devices`: two devices of one compute unit each, on the first two cores.
//!
//! *split*: a model that is cut over both against the same model on one of them, both saturated, one after
//! the other in every round; and whether the answers are the same to the bit. *replicate*: a model that is on
//! both against two engines with a device each, which serve it at the same time. *neighbours*: a real-time
//! model at a fixed rate on one device while another one is asked at the same rate on the other, against the
//! same when the other device has nothing to do. Who asks a model runs on the core of its device: as there
//! are no others, it would otherwise be the askers that disturb each other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use reef_base::{Class, ClassName, ModelKey, Rng, Samples, Summary};
use reef_device::Scheme;
use reef_engine::{
    Engine, EngineOptions, InferRequest, InputTensor, ModelSettings, ModelSource, ModelSpec, Placement,
    PoolDevice, TensorInfo,
};
use reef_load::{Arrivals, GRACE, Run, RunClient};
use reef_report::micro::{Part, Row, Stat};
use reef_zoo::{Model, Variant};

use super::rig::Rig;
use super::{Bench, DeviceRequest};
use crate::error::BenchError;
use crate::inputs;

pub(super) const NAME: &str = "devices";

const SPLIT_MIN: f64 = 1.6;
const REPLICATE_MIN: f64 = 0.95;
const NEIGHBOUR_MAX: f64 = 1.05;
/// More would measure who asks.
const NEIGHBOUR_HZ_MAX: f64 = 100.0;

/// Requests under way for each device: one that runs, one that is next, and one on its way.
const UNDER_WAY: usize = 3;

/// Requests after which the cut of a split model has been looked at, and their answers' time.
const WARM_UP: usize = 12;

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    if bench.options.cus < 2 {
        return Ok(Part::new(NAME, "nothing: it takes two compute units".into(), vec![]));
    }
    let rounds = bench.pick(7, 2);
    let mut rows = split(bench, rounds)?;
    rows.extend(replicate(bench, rounds)?);
    rows.extend(neighbours(bench, rounds)?);
    let method = format!(
        "two devices of one compute unit; {rounds} rounds, what is compared in turns in each; throughput of \
         {UNDER_WAY} requests under way for a device"
    );
    Ok(Part::new(NAME, method, rows))
}

/// An engine over so many devices of one compute unit, from core `first` on.
fn pool(bench: &Bench<'_>, first: usize, count: usize) -> Result<Rig, BenchError> {
    let device = |index: usize| {
        let request = DeviceRequest { first_core: first + index, ..DeviceRequest::new(1, Scheme::Reset) };
        Ok(PoolDevice { name: format!("cpu:{index}"), device: bench.device(request)? })
    };
    let devices = (0..count).map(device).collect::<Result<_, BenchError>>()?;
    Ok(Rig { engine: Engine::over(devices, EngineOptions::default())? })
}

/// Loads a model of the zoo under a name of ours.
fn load(
    bench: &Bench<'_>,
    rig: &Rig,
    name: &str,
    (model, variant): (Model, &Variant),
    settings: ModelSettings,
) -> Result<(), BenchError> {
    bench.progress.phase(format!("loading {model}"));
    let source = ModelSource::Bytes(reef_zoo::build(model, variant)?);
    let key = ModelKey { name: name.to_string(), version: "1".to_string() };
    rig.engine.load(ModelSpec { key, source, settings })?;
    Ok(())
}

fn on(devices: &[&str], placement: Placement, class: Class) -> ModelSettings {
    let devices = devices.iter().map(ToString::to_string).collect();
    ModelSettings { devices, placement, class, ..ModelSettings::default() }
}

/// Asks a model over and over, with several requests under way.
struct Asker<'a> {
    engine: &'a Engine,
    model: &'a str,
    inputs: Vec<TensorInfo>,
    data: Vec<Vec<u8>>,
}

impl<'a> Asker<'a> {
    fn new(rig: &'a Rig, model: &'a str) -> Result<Asker<'a>, BenchError> {
        let unknown = || BenchError::NoSamples(format!("{model} is not loaded"));
        let info = rig.engine.model(model, None).ok_or_else(unknown)?;
        let mut rng = Rng::new(7);
        let data = info.inputs.iter().map(|input| {
            let elements = input.fixed_shape().expect("models of the zoo have fixed shapes").elements();
            let mut bytes = vec![0; elements * input.dtype.bytes()];
            inputs::fill(input.dtype.protocol_name(), &mut bytes, &mut rng);
            bytes
        });
        Ok(Asker { engine: &rig.engine, model, data: data.collect(), inputs: info.inputs })
    }

    fn request(&self) -> InferRequest<'_> {
        let tensors = self.inputs.iter().zip(&self.data);
        let tensors = tensors.map(|(input, data)| InputTensor {
            name: &input.name,
            dtype: input.dtype,
            shape: input.fixed_shape().expect("models of the zoo have fixed shapes"),
            data,
        });
        InferRequest::new(self.model, tensors.collect())
    }

    /// The bytes of all outputs.
    fn answer(&self) -> Result<Vec<Vec<u8>>, BenchError> {
        let response = self.engine.infer(&self.request()).map_err(BenchError::infer(self.model))?;
        Ok(response.outputs().map(|output| output.data.to_vec()).collect())
    }

    /// Answers per second.
    fn per_s(&self, under_way: usize, time: Duration) -> Result<f64, BenchError> {
        let failed = BenchError::infer(self.model);
        let mut asked: VecDeque<_> = VecDeque::with_capacity(under_way);
        let request = self.request();
        for _ in 0..under_way {
            asked.push_back(self.engine.submit(&request).map_err(&failed)?);
        }
        // The first answers fill the pipeline.
        let (mut count, mut begin) = (0usize, Instant::now());
        while let Some(future) = asked.pop_front() {
            future.wait().map_err(&failed)?;
            count += 1;
            if count == under_way {
                begin = Instant::now();
            }
            if count < under_way || begin.elapsed() < time {
                asked.push_back(self.engine.submit(&request).map_err(&failed)?);
            } else {
                break;
            }
        }
        let elapsed = begin.elapsed().as_secs_f64();
        asked.into_iter().for_each(|future| drop(future.wait()));
        Ok((count - under_way) as f64 / elapsed)
    }
}

fn split(bench: &Bench<'_>, rounds: usize) -> Result<Vec<Row>, BenchError> {
    let rig = pool(bench, 0, 2)?;
    let model = Model::Resnet152;
    load(bench, &rig, "whole", (model, &bench.variant()), on(&["cpu:0"], Placement::One, Class::BestEffort))?;
    load(bench, &rig, "split", (model, &bench.variant()), on(&[], Placement::Split, Class::BestEffort))?;
    let (whole, split) = (Asker::new(&rig, "whole")?, Asker::new(&rig, "split")?);
    let expected = whole.answer()?;
    for _ in 0..WARM_UP {
        if split.answer()? != expected {
            return Err(BenchError::NoSamples(format!(
                "{model} split answers other bytes than on one device"
            )));
        }
    }
    let time = bench.shorter(Duration::from_secs(6));
    let (mut one, mut two, mut ratios) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..rounds {
        bench.progress.phase(format!("{model} on one device and over two, round {}", round + 1));
        let mut rates = [0.0; 2];
        for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            rates[at] = match at {
                0 => whole.per_s(UNDER_WAY, time)?,
                _ => split.per_s(2 * UNDER_WAY, time)?,
            };
        }
        one.push(rates[0]);
        two.push(rates[1]);
        ratios.push(rates[1] / rates[0]);
    }
    Ok(vec![
        Row::new(format!("{model} on one device"), "1/s", &one),
        Row::new(format!("{model} split over two"), "1/s", &two),
        Row::new("split to one device", "ratio", &ratios).at_least(Stat::P50, SPLIT_MIN),
    ])
}

fn replicate(bench: &Bench<'_>, rounds: usize) -> Result<Vec<Row>, BenchError> {
    let model = Model::Resnet18;
    let (both, first, second) = (pool(bench, 0, 2)?, pool(bench, 0, 1)?, pool(bench, 1, 1)?);
    load(bench, &both, "model", (model, &bench.variant()), on(&[], Placement::Replicate, Class::BestEffort))?;
    for rig in [&first, &second] {
        load(bench, rig, "model", (model, &bench.variant()), on(&[], Placement::One, Class::BestEffort))?;
    }
    let askers = [Asker::new(&both, "model")?, Asker::new(&first, "model")?, Asker::new(&second, "model")?];
    let time = bench.shorter(Duration::from_secs(3));
    let separate = || -> Result<f64, BenchError> {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| askers[1].per_s(UNDER_WAY, time));
            let own = askers[2].per_s(UNDER_WAY, time)?;
            Ok(own + other.join().expect("asking does not panic")?)
        })
    };
    let (mut engines, mut replicas, mut ratios) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..rounds {
        bench.progress.phase(format!("{model} in two engines and replicated in one, round {}", round + 1));
        let mut rates = [0.0; 2];
        for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            rates[at] = if at == 0 { separate()? } else { askers[0].per_s(2 * UNDER_WAY, time)? };
        }
        engines.push(rates[0]);
        replicas.push(rates[1]);
        ratios.push(rates[1] / rates[0]);
    }
    Ok(vec![
        Row::new(format!("{model} in two engines"), "1/s", &engines),
        Row::new(format!("{model} replicated"), "1/s", &replicas),
        Row::new("replicated to two engines", "ratio", &ratios).at_least(Stat::P50, REPLICATE_MIN),
    ])
}

fn neighbours(bench: &Bench<'_>, rounds: usize) -> Result<Vec<Row>, BenchError> {
    let rig = pool(bench, 0, 2)?;
    // A small one, for many samples.
    let (here, there, tiny) = ("here", "there", (Model::Resnet18, &Variant::tiny()));
    for (name, device) in [(here, "cpu:0"), (there, "cpu:1")] {
        load(bench, &rig, name, tiny, on(&[device], Placement::One, Class::real_time(0)))?;
    }
    // A third of a device.
    let alone = Asker::new(&rig, here)?.per_s(1, bench.shorter(Duration::from_secs(2)))?;
    let (rate_hz, measured) = ((alone / 3.0).min(NEIGHBOUR_HZ_MAX), bench.shorter(Duration::from_secs(8)));
    let warm_up = measured / 10;
    let client = |name: &str, phase: f64| {
        let arrivals = Arrivals::periodic(rate_hz, phase, warm_up + measured);
        let device = rig.engine.device_named(if name == here { "cpu:0" } else { "cpu:1" });
        let core = device.and_then(|device| device.capabilities().cores.first().copied());
        RunClient { core, ..RunClient::new(name, ClassName::RealTime, arrivals, 4) }
    };
    let run =
        |clients: Vec<RunClient>| Run { clients, warm_up, measured, cool_down: Duration::ZERO, grace: GRACE };
    let quiet = run(vec![client(here, 0.0)]);
    // Now together, now apart: phases meet as they would by chance.
    let shared = |round: usize| run(vec![client(here, 0.0), client(there, round as f64 / rounds as f64)]);
    let (mut before, mut after) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        bench.progress.phase(format!("a real-time model beside another device's, round {}", round + 1));
        for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let run = if at == 0 { quiet.clone() } else { shared(round) };
            let played = rig.play(bench, &run)?;
            let samples = if at == 0 { &mut before } else { &mut after };
            samples.extend(&run.latencies_us(0, &played[0]));
        }
    }
    let ratio = |of: fn(&Summary) -> f64| -> Samples {
        let both = after.summary().zip(before.summary());
        both.map(|(after, before)| of(&after) / of(&before)).into_iter().collect()
    };
    let name = |what: &str| format!("tiny {} at {rate_hz:.0} Hz, {what}", Model::Resnet18);
    Ok(vec![
        Row::new(name("the other device idle"), "µs", &before),
        Row::new(name("the other device alike"), "µs", &after),
        Row::new("median beside a neighbour", "ratio", &ratio(|summary| summary.p50)),
        Row::new("p99 beside a neighbour", "ratio", &ratio(|summary| summary.p99))
            .at_most(Stat::P50, NEIGHBOUR_MAX),
    ])
}
