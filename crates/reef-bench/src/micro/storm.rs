//! Part `storm`: whether outputs stay what they are alone. Real-time models at random times and best-effort
//! ones without a break, while the scheme changes at random: every answer has to be, bit by bit, that of its
//! model on the idle device. One that is not is an error.

use std::thread;
use std::time::{Duration, Instant};

use reef_base::{Class, MonotonicClock, Rng, Samples};
use reef_device::Scheme;
use reef_engine::{RunInfo, Session};
use reef_report::micro::{Part, Row};
use reef_zoo::Model;

use super::Bench;
use super::rig::{Rig, SHARING};
use crate::error::BenchError;
use crate::inputs;

pub(super) const NAME: &str = "storm";

/// Models, their classes (a real-time level or none), and how many clients each has.
const CLIENTS: [(Model, Option<u8>, usize); 4] = [
    (Model::Control, Some(0), 1),
    (Model::Resnet18, Some(1), 1),
    (Model::Resnet152, None, 2),
    (Model::Distilbert, None, 1),
];
/// Pauses of a real-time client, microseconds, uniform.
const GAP_US: u64 = 4_000;
/// How long a scheme stays, milliseconds, uniform.
const SCHEME_MS: (u64, u64) = (5, 60);

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let time = bench.pick(Duration::from_secs(15), Duration::from_millis(1_500));
    let rig = bench.rig(bench.options.cus, 0)?;
    let mut clients = Vec::new();
    for (model, level, count) in CLIENTS {
        bench.load(&rig, model, level.map_or(Class::BestEffort, Class::real_time))?;
        for seed in 0..count as u64 {
            clients.push(Client::new(&rig, model, level.is_some(), seed)?);
        }
    }
    bench.progress.phase("a storm");
    let begin = rig.engine.device().counters();
    let seen = thread::scope(|scope| {
        let until = Instant::now() + time;
        let play = |mut client: Client| scope.spawn(move || client.play(until).map(|seen| (client, seen)));
        let playing: Vec<_> = clients.into_iter().map(play).collect();
        change_schemes(bench, &rig, until);
        let join = |client: thread::ScopedJoinHandle<'_, _>| client.join().expect("a client does not panic");
        // All of them, also behind one that failed.
        let ended: Vec<Result<(Client, Seen), BenchError>> = playing.into_iter().map(join).collect();
        ended.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    let end = rig.engine.device().counters();
    let preemptions: Samples = [(end.preemptions - begin.preemptions) as f64].into_iter().collect();
    let again: Samples =
        [(end.blocks_rerun - begin.blocks_rerun + end.blocks_killed - begin.blocks_killed) as f64]
            .into_iter()
            .collect();
    let mut rows: Vec<Row> = Vec::new();
    for (client, seen) in &seen {
        let name = format!("{}, client {}: the whole call", client.model, client.seed + 1);
        rows.push(Row::new(name, "µs", &seen.call_us));
    }
    rows.push(Row::new("preemptions", "", &preemptions));
    rows.push(Row::new("blocks run again", "", &again));
    let answers: usize = seen.iter().map(|(_, seen)| seen.call_us.len()).sum();
    let method = format!(
        "{} clients for {time:?}, scheme changed at random among {}: all {answers} answers are bit by bit \
         those of the idle device",
        seen.len(),
        SHARING.map(Scheme::name).join(", ")
    );
    Ok(Part::new(NAME, method, rows))
}

fn change_schemes(bench: &Bench<'_>, rig: &Rig, until: Instant) {
    let mut rng = Rng::new(1);
    while Instant::now() < until {
        rig.engine.set_scheme(SHARING[rng.below(SHARING.len() as u64) as usize]);
        bench.progress.sleep(Duration::from_millis(SCHEME_MS.0 + rng.below(SCHEME_MS.1 - SCHEME_MS.0)));
    }
    rig.engine.set_scheme(Scheme::Reset);
}

struct Client {
    model: Model,
    real_time: bool,
    seed: u64,
    session: Session,
    /// What the idle device answers.
    expected: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Seen {
    call_us: Samples,
}

impl Client {
    fn new(rig: &Rig, model: Model, real_time: bool, seed: u64) -> Result<Client, BenchError> {
        let mut session = rig.session(model.name())?;
        let mut rng = Rng::new(seed);
        for index in 0..session.inputs().len() {
            let datatype = session.inputs()[index].dtype.protocol_name();
            inputs::fill(datatype, session.input_mut(index), &mut rng);
        }
        let mut client = Client { model, real_time, seed, session, expected: Vec::new() };
        client.run()?;
        client.expected = client.outputs().map(<[u8]>::to_vec).collect();
        Ok(client)
    }

    fn run(&mut self) -> Result<RunInfo, BenchError> {
        self.session.run().map_err(BenchError::infer(self.model.name()))
    }

    fn outputs(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.session.output_count()).map(|index| self.session.output(index).data)
    }

    fn play(&mut self, until: Instant) -> Result<Seen, BenchError> {
        let mut rng = Rng::new(self.seed);
        let mut seen = Seen::default();
        while Instant::now() < until {
            if self.real_time {
                thread::sleep(Duration::from_micros(rng.below(GAP_US)));
            }
            let called = MonotonicClock::read();
            self.run()?;
            seen.call_us.push_micros(MonotonicClock::read().since(called));
            if !self.outputs().eq(self.expected.iter().map(Vec::as_slice)) {
                return Err(BenchError::Differs(self.model.name().to_string()));
            }
        }
        Ok(seen)
    }
}
