//! Plans: cases that can be computed by hand, and what cannot be.

use std::time::Duration;

use reef_base::{Class, Nanos};
use reef_load::workload::ArrivalSpec;
use reef_sim::fleet::{Client, Model, Service};
use reef_sim::plan::{Binding, Question, Target, clients, devices, target};
use reef_sim::scenario::constants;

const MS: u64 = 1_000_000;

fn model(name: &str, ms: u64, mib: u64) -> Model {
    Model { name: name.into(), service: Service::fixed(Nanos(ms * MS)), memory_bytes: mib << 20, weight: 1 }
}

fn client(model: usize, arrivals: ArrivalSpec) -> Client {
    Client {
        name: format!("client {model}"),
        model,
        class: Class::real_time(0),
        arrivals,
        in_flight: 1000,
        deadline: None,
        enforced_deadline: None,
        newest_only: false,
    }
}

fn periodic(model: usize, rate_hz: f64) -> Client {
    client(model, ArrivalSpec::Periodic { rate_hz, phase: 0.0 })
}

fn question(models: Vec<Model>, clients: Vec<Client>, ms: u64) -> Question {
    Question {
        models,
        clients,
        constants: constants("ideal").unwrap(),
        memory_bytes: None,
        target: Target { per_mille: 990, at_most: Nanos(ms * MS) },
        devices: 1..=8,
        length: Nanos(10_000 * MS),
        seed: 1,
    }
}

#[test]
fn three_frames_at_once_need_three_devices_and_two_make_the_third_wait() {
    // Three models of 10 ms, each asked every 40 ms at the same moment: of two on one device one takes 20 ms.
    let models = || ["a", "b", "c"].map(|name| model(name, 10, 100)).to_vec();
    let all = (0..3).map(|model| periodic(model, 25.0)).collect();
    let mut question = question(models(), all, 10);
    let answer = question.answer().unwrap();
    assert_eq!(answer.found.devices, 3);
    assert_eq!(answer.found.placement, [[0], [1], [2]]);
    let report = answer.found.report.as_ref().unwrap();
    assert!(report.clients.iter().all(|came| came.latency.max() == Nanos(10 * MS) && came.completed == 250));
    assert!(report.used.iter().all(|used| used.real_time == Nanos(2500 * MS)), "a quarter each");
    let less = answer.minus_one.unwrap();
    assert_eq!((less.devices, less.meets(), less.failing.len()), (2, false, 1));
    assert_eq!(less.report.unwrap().clients[less.failing[0]].latency.max(), Nanos(20 * MS));
    assert_eq!(answer.binding, Binding::OwnTime(["a", "b", "c"][less.failing[0]].into()));

    // With twice the time two will do, with three times one.
    for (ms, expected) in [(20, 2), (29, 2), (30, 1)] {
        question.target.at_most = Nanos(ms * MS);
        assert_eq!(question.answer().unwrap().found.devices, expected, "{ms} ms");
    }
    assert_eq!(question.answer().unwrap().binding, Binding::Nothing);
    // A deadline counts as the target does.
    question.clients[1].deadline = Some(Nanos(10 * MS));
    let answer = question.answer().unwrap();
    assert_eq!(answer.found.devices, 2);
    assert_eq!(answer.found.report.unwrap().clients[1].missed, 0);
}

#[test]
fn a_model_that_needs_more_than_a_device_has_replicas() {
    // 250/s of 10 ms are two and a half devices.
    let poisson = ArrivalSpec::Poisson { rate_hz: 250.0 };
    let answer = question(vec![model("a", 10, 0)], vec![client(0, poisson)], 40).answer().unwrap();
    assert_eq!(answer.found.devices, 4);
    assert!(answer.found.placement.iter().all(|models| models == &[0]));
    let used = answer.found.report.unwrap().used;
    assert!(used.iter().all(|used| used.utilisation(Nanos(10_000 * MS)) > 0.5), "{used:?}");
    let less = answer.minus_one.unwrap();
    assert_eq!((less.devices, less.failing), (3, vec![0]));
    assert_eq!(answer.binding, Binding::Burst, "three have the time, on average");
    let poisson = ArrivalSpec::Poisson { rate_hz: 390.0 };
    let answer = question(vec![model("a", 10, 0)], vec![client(0, poisson)], 500).answer().unwrap();
    assert_eq!((answer.found.devices, answer.binding), (4, Binding::DeviceTime));
}

#[test]
fn memory_binds_where_time_does_not() {
    let models = vec![model("a", 1, 600), model("b", 1, 500), model("c", 1, 400), model("d", 1, 500)];
    let mut question = question(models, (0..4).map(|model| periodic(model, 10.0)).collect(), 50);
    assert_eq!(question.answer().unwrap().found.devices, 1);
    question.memory_bytes = Some(1000 << 20);
    let answer = question.answer().unwrap();
    assert_eq!((answer.found.devices, &answer.binding), (2, &Binding::Memory));
    let less = answer.minus_one.unwrap();
    assert!(less.report.is_none() && !less.meets());
    for models in &answer.found.placement {
        assert!(models.iter().map(|&model| question.models[model].memory_bytes).sum::<u64>() <= 1000 << 20);
    }
    question.devices = 1..=1;
    assert!(question.answer().unwrap_err().to_string().contains("one device is too little: the memory"));
}

#[test]
fn memory_binds_where_there_is_none_for_a_replica() {
    // Of two frames at once the second waits, unless the model is on both devices, where "b" leaves no room.
    let models = vec![model("a", 10, 600), model("b", 1, 600)];
    let twice = |phase| client(0, ArrivalSpec::Periodic { rate_hz: 25.0, phase });
    let other = Client { class: Class::real_time(1), ..client(1, ArrivalSpec::Poisson { rate_hz: 1.0 }) };
    let mut question = question(models, vec![twice(0.0), twice(0.0), other], 12);
    question.clients[1].name = "again".into();
    assert_eq!(question.answer().unwrap().found.devices, 2);
    question.memory_bytes = Some(1000 << 20);
    let answer = question.answer().unwrap();
    assert_eq!((answer.found.devices, &answer.binding), (3, &Binding::Memory));
    question.devices = 1..=2;
    assert!(question.answer().unwrap_err().to_string().contains("no memory for replicas"));
}

#[test]
fn best_effort_work_counts_where_it_has_a_rate() {
    let best_effort = |arrivals| Client { class: Class::BestEffort, ..client(1, arrivals) };
    let models = || vec![model("a", 10, 0), model("b", 10, 0)];
    let closed = best_effort(ArrivalSpec::ClosedLoop { think: Duration::ZERO });
    let one = question(models(), vec![periodic(0, 50.0), closed], 11).answer().unwrap();
    assert_eq!(one.found.devices, 1);
    let rated = best_effort(ArrivalSpec::Poisson { rate_hz: 80.0 });
    let two = question(models(), vec![periodic(0, 50.0), rated], 11).answer().unwrap();
    assert_eq!((two.found.devices, two.binding), (2, Binding::DeviceTime));
}

#[test]
fn what_is_impossible_is_said_with_the_model_and_the_reason() {
    let models = || vec![model("small", 1, 10), model("large", 30, 2000)];
    let all = || vec![periodic(0, 10.0), periodic(1, 1.0)];
    let refused = |question: &Question, expected: &[&str]| {
        let error = question.answer().unwrap_err().to_string();
        expected.iter().for_each(|text| assert!(error.contains(text), "'{text}' is not in: {error}"));
    };
    refused(&question(models(), all(), 29), &["model large", "time alone", "30.0 ms", "target", "29.0 ms"]);
    let mut late = question(models(), all(), 40);
    late.clients[0].deadline = Some(Nanos(MS / 2));
    refused(&late, &["model small", "time alone", "deadline", "'client 0'"]);
    let mut full = question(models(), all(), 40);
    full.memory_bytes = Some(1999 << 20);
    refused(&full, &["model large", "memory", "2000.0 MiB", "1999 MiB"]);
    let mut much = question(models(), vec![periodic(0, 10.0), periodic(1, 400.0)], 40);
    much.devices = 1..=3;
    refused(&much, &["3 devices are too few", "device time", "model large", "'client 1'", "p99"]);
    let mut short = question(models(), all(), 40);
    short.length = Nanos(MS);
    refused(&short, &["'client 0'", "too short"]);
}

#[test]
fn targets_and_ranges_are_read_or_refused() {
    assert_eq!(target("p99<=20").unwrap(), Target { per_mille: 990, at_most: Nanos(20 * MS) });
    assert_eq!(target("p99.9 <= 0.5").unwrap(), Target { per_mille: 999, at_most: Nanos(MS / 2) });
    for wrong in [
        "",
        "99<=20",
        "p99",
        "p99<20",
        "p0<=1",
        "p101<=1",
        "p99.99<=1",
        "p99<=-1",
        "p99<=0",
        "p99<=nan",
        "p<=1",
    ] {
        let error = target(wrong).unwrap_err().to_string();
        assert!(error.contains(&format!("target '{wrong}'")), "{error}");
    }
    assert_eq!((devices("2..8").unwrap(), devices("4").unwrap()), (2..=8, 4..=4));
    for wrong in ["", "0..3", "5..4", "1..17", "a..b", "-1..2", "1..", "1...2"] {
        let error = devices(wrong).unwrap_err().to_string();
        assert!(error.contains(&format!("devices '{wrong}'")), "{error}");
    }
    let workload = reef_load::Workload::built_in("A").unwrap();
    let error = clients(&workload, &[model("vgg19", 1, 1)]).unwrap_err().to_string();
    assert!(error.contains("'resnet152'") && error.contains("there are vgg19"), "{error}");
}
