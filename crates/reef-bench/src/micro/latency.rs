//! Part `latency`: every benchmark model alone on the device, one inference after the other.

use std::time::{Duration, Instant};

use reef_base::{Class, MonotonicClock, Samples};
use reef_device::Scheme;
use reef_engine::Queued;
use reef_load::Caller;
use reef_report::micro::{Part, Row};
use reef_zoo::Model;

use super::Bench;
use crate::callers::SessionCaller;
use crate::error::BenchError;

pub(super) const NAME: &str = "latency";

const WARM_UP_CALLS: usize = 3;
const CALLS_MIN: usize = 10;

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let rig = bench.rig(bench.options.cus, 0)?;
    rig.engine.set_scheme(Scheme::RtOnly);
    let time = bench.pick(Duration::from_secs(4), Duration::from_millis(300));
    let mut rows = Vec::new();
    for model in Model::ALL {
        bench.load(&rig, model, Class::real_time(0))?;
        bench.progress.phase(format!("latency of {model}"));
        let mut caller = SessionCaller::new(&rig.engine, model.name(), 1)?;
        rows.push(Row::new(model.name(), "ms", &measure(&mut caller, time)?));
        bench.progress.advance(time);
        drop(caller);
        rig.engine.unload(model.name(), None, Queued::Finish)?;
    }
    let method = format!("closed loop under rt-only on {} CUs, {time:?} each", bench.options.cus);
    Ok(Part::new(NAME, method, rows))
}

fn measure(caller: &mut dyn Caller, time: Duration) -> Result<Samples, BenchError> {
    for _ in 0..WARM_UP_CALLS {
        caller.call()?;
    }
    let mut latency_ms = Samples::default();
    let begin = Instant::now();
    while begin.elapsed() < time || latency_ms.len() < CALLS_MIN {
        let called = MonotonicClock::read();
        caller.call()?;
        latency_ms.push(MonotonicClock::read().since(called).as_millis_f64());
    }
    Ok(latency_ms)
}
