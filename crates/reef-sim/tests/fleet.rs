//! Fleets: every request has one end, real-time work waits for no best-effort work, queues are as long as
//! theory says, and a seed gives the same result again.

use std::time::Duration;

use reef_base::{Class, Nanos, Rng};
use reef_load::workload::ArrivalSpec;
use reef_sim::fleet::{Client, Constants, Device, Fleet, Model, Report, Service, simulate};

const MS: u64 = 1_000_000;
const HOUR: Nanos = Nanos(3_600_000 * MS);

fn constants() -> Constants {
    let (preempt, resume) = (Nanos::from_micros(40), Nanos::from_micros(150));
    Constants { preempt, resume, padding: 0.0, slowdown: 0.0, scale: 1.0 }
}

fn model(name: &str, service: Service) -> Model {
    Model { name: name.into(), service, memory_bytes: 0, weight: 1 }
}

fn client(model: usize, class: Class, arrivals: ArrivalSpec) -> Client {
    Client {
        name: format!("{model} {class:?}"),
        model,
        class,
        arrivals,
        in_flight: 1000,
        deadline: None,
        enforced_deadline: None,
        newest_only: false,
    }
}

fn fleet(models: Vec<Model>, clients: Vec<Client>) -> Fleet {
    let all = (0..models.len()).collect();
    let device = Device { name: "d".into(), constants: constants(), models: all };
    Fleet { engines: 1, devices: vec![device], models, clients }
}

fn closed(model: usize, in_flight: usize) -> Client {
    let think = Duration::ZERO;
    Client { in_flight, ..client(model, Class::BestEffort, ArrivalSpec::ClosedLoop { think }) }
}

/// The mean latency, as a multiple of the mean service time, of requests that arrive at random.
fn queue(service: Service, load: f64) -> f64 {
    let mean = service.mean();
    let arrivals = ArrivalSpec::Poisson { rate_hz: load / mean.0 as f64 * 1e9 };
    let one = fleet(vec![model("m", service)], vec![client(0, Class::real_time(0), arrivals)]);
    let report = simulate(&one, HOUR, 1);
    report.clients[0].latency.mean().0 as f64 / mean.0 as f64
}

#[test]
fn queues_are_as_long_as_theory_says() {
    for load in [0.3, 0.5, 0.7] {
        let deterministic = 1.0 + load / (2.0 * (1.0 - load));
        let ours = queue(Service::fixed(Nanos(2 * MS)), load);
        assert!((ours / deterministic - 1.0).abs() < 0.02, "M/D/1 at {load}: {ours} {deterministic}");
        let ours = queue(Service::Exponential(Nanos(2 * MS)), load);
        assert!((ours * (1.0 - load) - 1.0).abs() < 0.03, "M/M/1 at {load}: {ours}");
    }
}

#[test]
fn real_time_requests_wait_for_best_effort_ones_no_longer_than_the_preemption_delay() {
    let models =
        || vec![model("urgent", Service::fixed(Nanos(MS))), model("bulk", Service::fixed(Nanos(9 * MS)))];
    let periodic = ArrivalSpec::Periodic { rate_hz: 37.0, phase: 0.3 };
    let clients = vec![client(0, Class::real_time(0), periodic), closed(1, 4)];
    let report = simulate(&fleet(models(), clients.clone()), Nanos(60_000 * MS), 1);
    let urgent = &report.clients[0];
    assert_eq!(urgent.completed, 60 * 37);
    assert_eq!(urgent.latency.max(), Nanos(MS) + constants().preempt);
    // What is left goes to the others, but for the delays and what preemptions cost both on the board.
    let lost = report.used[0].preemptions * (constants().preempt.0 + 2 * constants().resume.0);
    let left = (60_000 * MS - 60 * 37 * MS - lost) / (9 * MS);
    assert!(report.clients[1].completed.abs_diff(left) <= 4, "{} {left}", report.clients[1].completed);

    // Padding gives them more, and takes from nobody but by the slowdown.
    let mut padded = fleet(models(), clients);
    padded.devices[0].constants.padding = 0.5;
    padded.devices[0].constants.slowdown = 0.25;
    let report = simulate(&padded, Nanos(60_000 * MS), 1);
    assert_eq!(report.clients[0].latency.max(), Nanos(5 * MS / 4) + constants().preempt);
    assert!(report.clients[1].completed > left);
}

#[test]
fn more_urgent_levels_go_first_and_weights_share_what_is_left() {
    let service = || Service::fixed(Nanos(10 * MS));
    let models: Vec<Model> = ["a", "b", "c", "d"].map(|name| model(name, service())).into();
    let slow = |phase| ArrivalSpec::Periodic { rate_hz: 20.0, phase };
    let clients = vec![
        client(0, Class::real_time(0), slow(0.1)),
        client(1, Class::real_time(1), slow(0.0)),
        closed(2, 4),
        closed(3, 4),
    ];
    let mut fleet = fleet(models, clients);
    fleet.models[3].weight = 3;
    let report = simulate(&fleet, Nanos(100_000 * MS), 1);
    assert_eq!(report.clients[0].latency.max(), Nanos(10 * MS) + constants().preempt);
    // 5 ms before the urgent one comes, 10 ms of it, its own rest, two delays and what it pays to resume.
    let stopped = Nanos(20 * MS) + constants().preempt + constants().preempt + constants().resume;
    assert_eq!(report.clients[1].latency.max(), stopped);
    let share = report.clients[3].completed as f64 / report.clients[2].completed as f64;
    assert!((2.8..3.2).contains(&share), "{share}");
}

#[test]
fn replicas_share_the_load_by_the_router() {
    let arrivals = ArrivalSpec::Poisson { rate_hz: 150.0 };
    let mut two = fleet(
        vec![model("m", Service::fixed(Nanos(10 * MS)))],
        vec![client(0, Class::real_time(0), arrivals)],
    );
    two.devices.push(two.devices[0].clone());
    let report = simulate(&two, Nanos(600_000 * MS), 1);
    let used: Vec<f64> = report.used.iter().map(|used| used.utilisation(report.length)).collect();
    assert!(used.iter().all(|used| (used - 0.75).abs() < 0.02), "{used:?}");
    // M/D/2 at 0.75 waits for about 0.29 × its time alone where one server would wait for 1.5.
    let mean = report.clients[0].latency.mean().0 as f64 / (10 * MS) as f64;
    assert!((1.4..1.75).contains(&mean), "{mean}");
}

/// A random fleet: levels, deadlines, floods, frames that replace each other, chains, several devices.
fn random(seed: u64) -> Fleet {
    let mut rng = Rng::new(seed);
    let models: Vec<Model> = (0..1 + rng.below(5))
        .map(|at| model(&at.to_string(), Service::Exponential(Nanos(MS / 10 + rng.below(8 * MS)))))
        .collect();
    let mut clients = Vec::new();
    for at in 0..1 + rng.below(6) {
        let rate_hz = (1 + rng.below(400)) as f64;
        let arrivals = match rng.below(4) {
            0 => ArrivalSpec::Periodic { rate_hz, phase: rng.unit_f64() },
            1 => ArrivalSpec::Poisson { rate_hz },
            2 if at > 0 => ArrivalSpec::After {
                client: rng.below(at) as usize,
                think: Duration::from_micros(rng.below(900)),
            },
            _ => ArrivalSpec::ClosedLoop { think: Duration::from_micros(rng.below(900)) },
        };
        let class = if rng.below(2) == 0 { Class::BestEffort } else { Class::real_time(rng.below(3) as u8) };
        let mut client = client(rng.below(models.len() as u64) as usize, class, arrivals);
        client.in_flight = 1 + rng.below(300) as usize;
        client.newest_only = rng.below(3) == 0 && client.arrivals.rate_hz().is_some();
        if class.is_real_time() && rng.below(2) == 0 {
            client.deadline = Some(Nanos(1 + rng.below(20 * MS)));
            client.enforced_deadline = client.deadline.filter(|_| rng.below(2) == 0);
        }
        clients.push(client);
    }
    let mut fleet = fleet(models, clients);
    let mut shared = fleet.devices[0].clone();
    shared.constants.padding = 0.4;
    shared.constants.scale = 1.5;
    fleet.devices.extend((0..rng.below(3)).map(|_| shared.clone()));
    fleet.engines = 1 + rng.below(2) as usize;
    fleet
}

fn check(report: &Report, fleet: &Fleet, seed: u64) {
    for client in &report.clients {
        assert_eq!(client.arrived, client.ended() + client.unfinished, "seed {seed}: {client:?}");
        assert_eq!(client.latency.count(), client.completed, "seed {seed}");
    }
    for (client, spec) in report.clients.iter().zip(&fleet.clients) {
        assert!(client.unfinished <= (fleet.engines * (spec.in_flight + 4096)) as u64);
        assert!(spec.enforced_deadline.is_some() || client.stopped == 0, "seed {seed}");
        // What is stopped at its deadline has none that is later.
        if let Some(deadline) = spec.enforced_deadline {
            assert!(client.latency.max() <= deadline, "seed {seed}: {}", client.latency.max());
        }
    }
    assert_eq!(report.used.len(), fleet.engines * fleet.devices.len());
    for used in &report.used {
        assert!(used.real_time + used.best_effort + used.switching <= report.length, "seed {seed}: {used:?}");
    }
}

#[test]
fn every_request_has_one_end_under_a_hundred_seeds() {
    let mut ended = 0;
    for seed in 0..100 {
        let fleet = random(seed);
        let report = simulate(&fleet, Nanos(5_000 * MS), seed);
        check(&report, &fleet, seed);
        assert_eq!(report, simulate(&fleet, Nanos(5_000 * MS), seed), "seed {seed}");
        ended += report.ended();
    }
    assert!(ended > 50_000, "{ended}");
}

#[test]
fn another_seed_gives_another_result_and_the_same_one_that_of_any_machine() {
    let arrivals = ArrivalSpec::Poisson { rate_hz: 300.0 };
    let fleet = fleet(
        vec![model("m", Service::Exponential(Nanos(2 * MS)))],
        vec![client(0, Class::real_time(0), arrivals)],
    );
    let mean = |seed| simulate(&fleet, Nanos(10_000 * MS), seed).clients[0].latency.mean();
    assert_ne!(mean(1), mean(2));
    assert_eq!(mean(1), Nanos(4_595_480));
}

#[test]
fn engines_join_a_schedule_at_different_places_with_its_clients_together() {
    let at = |phase| ArrivalSpec::Periodic { rate_hz: 1.0, phase };
    let models = vec![model("m", Service::fixed(Nanos(10 * MS)))];
    // The second asks while the first one's request runs, wherever that is.
    let clients = vec![client(0, Class::real_time(0), at(0.2)), client(0, Class::real_time(0), at(0.205))];
    let mut fleet = fleet(models, clients);
    let one = simulate(&fleet, Nanos(100_500 * MS), 1);
    fleet.engines = 40;
    let all = simulate(&fleet, Nanos(100_500 * MS), 1);
    assert_eq!(one.clients[0].arrived, 101);
    // Of half a second more some see another one.
    assert!((40 * 100 + 5..40 * 101 - 5).contains(&all.clients[0].arrived), "{}", all.clients[0].arrived);
    for report in [one, all] {
        // Times are rounded to nanoseconds.
        let waits = report.clients[1].latency.max();
        assert!(waits.0.abs_diff(15 * MS) <= 2, "{waits}");
        assert!(report.clients[1].latency.mean().0 > 15 * MS - MS / 2);
    }
}
