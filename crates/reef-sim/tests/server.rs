//! The schemes: each request is answered once, real-time ones first, and the same seed gives the same run.

use reef_base::{Class, Level, Nanos};
use reef_sim::GpuConstants;
use reef_sim::clients::{Arrivals, Played, play};
use reef_sim::profile::{Model, Profile};
use reef_sim::restart::accesses;
use reef_sim::server::{Client, Reset, Scheme, Server};
use reef_sim::workload::Workload;

const SCHEMES: [Scheme; 8] = [
    Scheme::RtOnly,
    Scheme::Sequential,
    Scheme::Streams,
    Scheme::Wait,
    Scheme::Reset(Reset::REEF),
    Scheme::Reset(Reset::REEF_N),
    Scheme::Reset(Reset { padding: false, ..Reset::REEF }),
    Scheme::Reset(Reset { asynchronous: false, restricted: false, ..Reset::REEF }),
];

struct Fixture {
    gpu: GpuConstants,
    models: Vec<Model>,
}

fn fixture() -> Fixture {
    let gpu = GpuConstants::built_in("mi50").unwrap();
    let models = Profile::all().iter().map(|profile| Model::of(profile, &gpu)).collect();
    Fixture { gpu, models }
}

impl Fixture {
    fn play(&self, workload: &Workload, scheme: Scheme, ms: u64, seed: u64) -> Played {
        let server = Server::new(&self.gpu, &self.models, &workload.clients, scheme);
        play(server, &workload.arrivals, Nanos::from_millis(ms), seed)
    }
}

/// Requests that come once and are then left to end: all are answered, whatever the scheme does with them.
#[test]
fn every_request_is_answered_once() {
    let fixture = fixture();
    for seed in 0..40u64 {
        let mut rng = reef_base::Rng::new(seed);
        let clients: Vec<Client> = (0..2 + rng.below(8))
            .map(|_| Client {
                model: rng.below(5) as usize,
                class: if rng.below(2) == 0 { Class::BestEffort } else { Class::RealTime(Level::TOP) },
            })
            .collect();
        let times = |_: &Client| {
            let mut times: Vec<Nanos> = (0..rng.below(12)).map(|_| Nanos(rng.below(100_000_000))).collect();
            times.sort();
            Arrivals::Trace { times, again: Nanos::MAX }
        };
        let arrivals: Vec<Arrivals> = clients.iter().map(times).collect();
        let asked = |client: usize| match &arrivals[client] {
            Arrivals::Trace { times, .. } => times.len(),
            _ => 0,
        };
        for scheme in SCHEMES {
            let server = Server::new(&fixture.gpu, &fixture.models, &clients, scheme);
            let played = play(server, &arrivals, Nanos::from_millis(60_000), seed);
            for (client, latencies) in played.latencies.iter().enumerate() {
                let served = scheme != Scheme::RtOnly || clients[client].class.is_real_time();
                // A client whose request nobody serves waits for ever.
                let expected = if served { asked(client) } else { 0 };
                assert_eq!(latencies.len(), expected, "seed {seed}, {scheme:?}, client {client}");
                let alone = fixture.models[clients[client].model].alone();
                assert!(latencies.iter().all(|&latency| latency >= alone), "nobody is faster than alone");
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let fixture = fixture();
    let workload = Workload::all(&Profile::all()).into_iter().find(|workload| workload.name == "E").unwrap();
    let run = |seed| fixture.play(&workload, Scheme::Reset(Reset::REEF), 2_000, seed);
    let (first, second, other) = (run(1), run(1), run(2));
    assert_eq!(first.latencies, second.latencies);
    assert_eq!(first.seen.preemptions, second.seen.preemptions);
    assert_ne!(first.latencies, other.latencies);
}

#[test]
fn real_time_requests_hardly_notice_the_others() {
    let fixture = fixture();
    for workload in Workload::all(&Profile::all()) {
        let mean = |scheme| {
            let played = fixture.play(&workload, scheme, 5_000, 1);
            let all = played.latencies[..workload.real_time()].concat();
            all.iter().map(|latency| latency.0 as f64).sum::<f64>() / all.len() as f64
        };
        let ratio = mean(Scheme::Reset(Reset::REEF)) / mean(Scheme::RtOnly);
        assert!(ratio < 1.03, "{}: {ratio}", workload.name);
    }
}

#[test]
fn without_kills_preemption_takes_longer_and_without_padding_there_is_none() {
    let fixture = fixture();
    let workload = &Workload::all(&Profile::all())[0];
    let latency = |scheme| {
        let seen = fixture.play(workload, scheme, 2_000, 1).seen;
        seen.preemptions.iter().map(|one| one.latency().0).sum::<u64>() / seen.preemptions.len() as u64
    };
    assert!(latency(Scheme::Reset(Reset::REEF_N)) > latency(Scheme::Reset(Reset::REEF)));
    assert!(latency(Scheme::Wait) > 10 * latency(Scheme::Reset(Reset::REEF)));
    let seen =
        |padding| fixture.play(workload, Scheme::Reset(Reset { padding, ..Reset::REEF }), 2_000, 1).seen;
    assert_eq!(seen(false).padded, 0);
    assert!(seen(true).padded > 0);
}

/// The paper's rule restarts requests where that changes what they give; without preemptions nothing does.
#[test]
fn outputs_are_wrong_after_the_papers_restarts_and_right_without() {
    let fixture = fixture();
    let accesses: Vec<_> = Profile::all().iter().map(|profile| accesses(profile).unwrap()).collect();
    let closed = Arrivals::Closed { think: Nanos::ZERO };
    let run = |scheme, model, arrivals: Arrivals| {
        let clients = [
            Client { model: 2, class: Class::RealTime(Level::TOP) },
            Client { model, class: Class::BestEffort },
        ];
        let mut server = Server::new(&fixture.gpu, &fixture.models, &clients, scheme);
        server.watch_outputs(&accesses);
        play(server, &[arrivals, closed.clone()], Nanos::from_millis(5_000), 3).seen
    };
    let often = || Arrivals::Poisson { mean: Nanos::from_millis(20) };
    for model in 0..5 {
        let seen =
            run(Scheme::Reset(Reset::REEF), model, Arrivals::Trace { times: Vec::new(), again: Nanos::MAX });
        assert!(seen.compared > 100 && seen.wrong == 0, "model {model}, undisturbed: {seen:?}");
        // Nothing is killed, and kernels that did not run are known.
        let seen = run(Scheme::Wait, model, often());
        assert!(seen.compared > 50 && seen.wrong == 0, "model {model}, wait");
    }
    let seen = run(Scheme::Reset(Reset::REEF), 0, often());
    assert!(seen.wrong > 0 && seen.wrong < seen.compared, "ResNet-152: {} of {}", seen.wrong, seen.compared);
}
