//! Part `http`: what the server adds to a call, with binary tensors and a tiny real-time model. In-process
//! and HTTP calls alternate one by one. The overhead of an HTTP call is its latency less the median
//! in-process latency of the same round: the device's own tail counts against the server, so that a bad
//! in-process tail cannot hide a bad HTTP one, as it would if percentiles were subtracted.

use std::sync::Arc;
use std::time::Duration;

use reef_base::{Class, MonotonicClock, Nanos, Rng, Samples};
use reef_device::Scheme;
use reef_load::Caller;
use reef_load::pace::wake_on_time;
use reef_report::micro::{Part, Row, Stat};
use reef_zoo::{Model, Variant};

use super::Bench;
use crate::callers::{HttpCaller, SessionCaller, random_request};
use crate::error::BenchError;
use crate::http::{Client, InferParameters};

pub(super) const NAME: &str = "http";

const P50_IDLE_US: f64 = 250.0;
const P99_LOADED_US: f64 = 1_000.0;

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let rig = bench.rig(bench.options.cus, 0)?;
    bench.load_variant(&rig, Model::Control, &Variant::tiny(), Class::real_time(0))?;
    bench.load(&rig, Model::Resnet152, Class::BestEffort)?;
    rig.engine.set_scheme(Scheme::Reset);
    let served = bench.environment.serve(&rig.engine);
    let server = served.map_err(|source| BenchError::Environment { what: "the server", source })?;
    let metadata = Client::new(server.address()).metadata(Model::Control.name())?;
    let request = random_request(&metadata, InferParameters::default(), 1)?;
    let mut pair = Pair {
        session: SessionCaller::new(&rig.engine, Model::Control.name(), 1)?,
        http: HttpCaller::new(Client::new(server.address()), Arc::new(request)),
        rng: Rng::new(1),
    };
    let (rounds, calls) = bench.pick((5, 500), (3, 60));
    let (mut idle, mut loaded) = (Condition::default(), Condition::default());
    wake_on_time();
    pair.calls(20, bench)?;
    for round in 1..=rounds {
        bench.progress.phase(format!("server overhead, round {round}"));
        idle.push(pair.calls(calls, bench)?);
        let load = rig.saturate(Model::Resnet152)?;
        bench.progress.sleep(bench.shorter(Duration::from_millis(500)));
        loaded.push(pair.calls(calls, bench)?);
        load.stop()?;
    }
    let method = format!(
        "{rounds} rounds of {calls} in-process and {calls} HTTP calls in turns, tiny {}; overhead = HTTP \
         call less the round's median in-process",
        Model::Control
    );
    Ok(Part::new(NAME, method, rows(&idle, &loaded)))
}

fn rows(idle: &Condition, loaded: &Condition) -> Vec<Row> {
    vec![
        Row::new("idle: in-process", "µs", &idle.session_us),
        Row::new("idle: HTTP", "µs", &idle.http_us),
        Row::new("idle: overhead", "µs", &idle.overhead_us).at_most(Stat::P50, P50_IDLE_US),
        Row::new("beside load: in-process", "µs", &loaded.session_us),
        Row::new("beside load: HTTP", "µs", &loaded.http_us),
        Row::new("beside load: overhead", "µs", &loaded.overhead_us).at_most(Stat::P99, P99_LOADED_US),
    ]
}

/// Idle, or beside best-effort load: all calls.
#[derive(Default)]
struct Condition {
    session_us: Samples,
    http_us: Samples,
    overhead_us: Samples,
}

impl Condition {
    /// Adds a round.
    fn push(&mut self, (session_us, http_us): (Samples, Samples)) {
        let session_p50 = session_us.summary().map_or(0.0, |session| session.p50);
        http_us.as_slice().iter().for_each(|http| self.overhead_us.push(http - session_p50));
        self.session_us.extend(&session_us);
        self.http_us.extend(&http_us);
    }
}

struct Pair {
    session: SessionCaller,
    http: HttpCaller,
    rng: Rng,
}

impl Pair {
    /// `count` calls of each kind in turns, at random gaps.
    fn calls(&mut self, count: usize, bench: &Bench<'_>) -> Result<(Samples, Samples), BenchError> {
        let (mut session_us, mut http_us) = (Samples::default(), Samples::default());
        for _ in 0..count {
            session_us.push_micros(timed(&mut self.session)?);
            self.gap(bench);
            http_us.push_micros(timed(&mut self.http)?);
            self.gap(bench);
        }
        Ok((session_us, http_us))
    }

    fn gap(&mut self, bench: &Bench<'_>) {
        let gap = Duration::from_micros(500 + self.rng.below(2_000));
        std::thread::sleep(gap);
        bench.progress.advance(gap);
    }
}

fn timed(caller: &mut dyn Caller) -> Result<Nanos, BenchError> {
    let begin = MonotonicClock::read();
    caller.call()?;
    Ok(MonotonicClock::read().since(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overheads_refer_to_the_median_of_their_round() {
        let samples = |values: &[f64]| values.iter().copied().collect::<Samples>();
        let mut condition = Condition::default();
        condition.push((samples(&[10.0, 11.0, 900.0]), samples(&[111.0, 211.0, 5.0])));
        condition.push((samples(&[20.0]), samples(&[80.0])));
        assert_eq!(condition.overhead_us.as_slice(), [100.0, 200.0, -6.0, 60.0]);
        assert_eq!((condition.session_us.len(), condition.http_us.len()), (4, 4));
    }
}
