//! Part `call`: what `Engine::infer` adds to the blocks of a small real-time model on an idle device, called
//! back to back and 30 times a second, as a stream of speech or video does. The device has one compute unit,
//! so that what the blocks took is the time that nobody could do without.

use std::time::{Duration, Instant};

use reef_base::{Class, MonotonicClock, Rng, Samples};
use reef_engine::{InferRequest, InputTensor};
use reef_load::pace::wake_on_time;
use reef_report::micro::{Part, Row, Stat};
use reef_zoo::{Model, Variant};

use super::Bench;
use crate::error::BenchError;
use crate::inputs;

pub(super) const NAME: &str = "call";

const BACK_TO_BACK_US: f64 = 15.0;
const SPACED_US: f64 = 80.0;

/// Of a stream with 30 steps a second.
const EVERY: Duration = Duration::from_millis(33);

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    bench.progress.phase("calls of a small model");
    let rig = bench.rig(1, 0)?;
    bench.load_variant(&rig, Model::Control, &Variant::tiny(), Class::real_time(0))?;
    let (many, few) = bench.pick((10_000, 600), (100, 20));
    wake_on_time();
    let (mut close, mut spaced) = (Calls::default(), Calls::default());
    let model = rig.engine.model(Model::Control.name(), None).expect("it was loaded");
    let mut rng = Rng::new(1);
    let shapes = model.inputs.iter().map(|info| info.fixed_shape().expect("the zoo's shapes are fixed"));
    let shapes: Vec<_> = shapes.collect();
    let mut data: Vec<Vec<u8>> = Vec::new();
    for (info, shape) in model.inputs.iter().zip(&shapes) {
        let mut bytes = vec![0; shape.elements() * info.dtype.bytes()];
        inputs::fill(info.dtype.protocol_name(), &mut bytes, &mut rng);
        data.push(bytes);
    }
    let tensors = model.inputs.iter().zip(&shapes).zip(&data).map(|((info, shape), data)| InputTensor {
        name: &info.name,
        dtype: info.dtype,
        shape: shape.clone(),
        data,
    });
    let request = InferRequest::new(Model::Control.name(), tensors.collect());
    let call = |calls: &mut Calls| -> Result<(), BenchError> {
        let begin = MonotonicClock::read();
        let answer = rig.engine.infer(&request).map_err(BenchError::infer(Model::Control.name()))?;
        let took = MonotonicClock::read().since(begin);
        calls.took_us.push_micros(took);
        calls.added_us.push_micros(took - answer.counters.cu_time);
        Ok(())
    };
    for _ in 0..20 {
        call(&mut Calls::default())?;
    }
    for _ in 0..many {
        call(&mut close)?;
    }
    let mut due = Instant::now();
    for _ in 0..few {
        due += EVERY;
        bench.progress.sleep(due.saturating_duration_since(Instant::now()));
        call(&mut spaced)?;
    }
    let rows = vec![
        Row::new("back to back: call", "µs", &close.took_us),
        Row::new("back to back: added", "µs", &close.added_us).at_most(Stat::P50, BACK_TO_BACK_US),
        Row::new("every 33 ms: call", "µs", &spaced.took_us),
        Row::new("every 33 ms: added", "µs", &spaced.added_us).at_most(Stat::P50, SPACED_US),
    ];
    let method = format!(
        "{many} calls of tiny {} back to back, then {few} every {} ms by a thread that sleeps meanwhile, \
         1 CU; added = the call less the time of its blocks",
        Model::Control,
        EVERY.as_millis()
    );
    Ok(Part::new(NAME, method, rows))
}

#[derive(Default)]
struct Calls {
    took_us: Samples,
    added_us: Samples,
}
