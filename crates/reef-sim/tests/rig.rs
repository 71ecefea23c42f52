//! Simulated devices under the clients of a run: every request is answered, the same each time, and the
//! schemes are to each other as they must be.

use std::time::Duration;

use reef_base::{ClassName, Nanos};
use reef_load::arrivals::{self, Repetition};
use reef_load::workload::BUILT_IN;
use reef_load::{Arrivals, Run, RunClient, Workload};
use reef_sim::Rig;
use reef_sim::rig::{Condition, Outcome};

fn run(name: &str, rig: &Rig, seconds: u64) -> Run {
    let workload = Workload::built_in(name).unwrap();
    let alone = |model: &str| (model.to_string(), alone(rig, model).as_millis_f64());
    let workload = workload.scaled(&workload.models_asked().into_iter().map(alone).collect());
    let repetition = Repetition {
        seed: 1,
        index: 0,
        count: 1,
        warm_up: Duration::from_millis(200),
        measured: Duration::from_secs(seconds),
        cool_down: Duration::from_millis(100),
        grace: Duration::from_secs(30),
    };
    arrivals::run(&workload, &repetition)
}

fn alone(rig: &Rig, model: &str) -> Nanos {
    let run = Run {
        clients: vec![RunClient::new(model, ClassName::RealTime, Arrivals::BACK_TO_BACK, 1)],
        warm_up: Duration::ZERO,
        measured: Duration::from_secs(1),
        cool_down: Duration::ZERO,
        grace: Duration::ZERO,
    };
    let outcome = rig.play(&rig.conditions()[0], &run).unwrap();
    let records = &outcome.clients[0].records;
    records[records.len() / 2].done.since(records[records.len() / 2].sent)
}

fn real_time_mean(run: &Run, outcome: &Outcome) -> f64 {
    let clients = run.clients.iter().enumerate().filter(|(_, client)| client.class == ClassName::RealTime);
    let records = clients.flat_map(|(at, _)| run.records(at, &outcome.clients[at]));
    let all: Vec<f64> = records.map(|record| record.done.since(record.due).as_micros_f64()).collect();
    all.iter().sum::<f64>() / all.len() as f64
}

fn best_effort(run: &Run, outcome: &Outcome) -> usize {
    let clients = run.clients.iter().enumerate().filter(|(_, client)| client.class == ClassName::BestEffort);
    clients.map(|(at, _)| run.records(at, &outcome.clients[at]).count()).sum()
}

fn condition(rig: &Rig, name: &str) -> Condition {
    rig.conditions().into_iter().find(|condition| condition.name == name).unwrap()
}

#[test]
fn every_request_is_answered_and_the_same_run_comes_again() {
    for (device, names) in
        [("mi50", &BUILT_IN[..]), ("v100", &["A", "D"]), ("cpu2", &BUILT_IN), ("mi50-resident", &["REAL"])]
    {
        let rig = Rig::built_in(device).unwrap();
        for name in names {
            let run = run(name, &rig, 1);
            for condition in rig.conditions() {
                let outcome = rig.play(&condition, &run).unwrap();
                let what = format!("{device}, {name}, {}", condition.name);
                assert!(outcome.clients.iter().all(|client| client.failed.is_empty()), "{what}");
                for (client, played) in run.clients.iter().zip(&outcome.clients) {
                    let plays = condition.best_effort || client.class == ClassName::RealTime;
                    assert!(plays || played.records.is_empty(), "{what}: {}", client.name);
                    if let Arrivals::Open { times, .. } = &client.arrivals {
                        let ended = played.records.len() + played.unsent.len() + played.dropped as usize;
                        assert!(!plays || ended == times.len(), "{what}: {}", client.name);
                    } else if plays {
                        assert!(!played.records.is_empty(), "{what}: {}", client.name);
                    }
                    assert!(played.records.iter().all(|record| record.sent >= record.due
                        && record.done > record.sent
                        && record.on_device.is_none_or(|(begin, end)| record.sent <= begin
                            && begin < end
                            && end <= record.done)));
                }
                assert_eq!(outcome, rig.play(&condition, &run).unwrap(), "{what}");
            }
        }
    }
}

#[test]
fn schemes_are_to_each_other_as_they_must_be() {
    // The paper has 1.0 to 1.02 on the first; units that pull blocks pay for them there.
    for (device, most) in [("mi50", 1.03), ("cpu2", 1.01), ("mi50-resident", 1.1)] {
        let rig = Rig::built_in(device).unwrap();
        for name in ["A", "C", "REAL"] {
            let run = run(name, &rig, 2);
            let play = |scheme: &str| rig.play(&condition(&rig, scheme), &run).unwrap();
            let [only, sequential, wait, reset] = ["rt-only", "sequential", "wait", "reset"].map(play);
            let mean = |outcome: &Outcome| real_time_mean(&run, outcome) / real_time_mean(&run, &only);
            let what = format!("{device}, {name}: {} {} {}", mean(&sequential), mean(&wait), mean(&reset));
            assert!(mean(&reset) < most, "{what}");
            assert!(mean(&reset) < mean(&sequential) && mean(&wait) < mean(&sequential), "{what}");
            assert_eq!(best_effort(&run, &only), 0);
            assert!(best_effort(&run, &reset) > 0 && best_effort(&run, &wait) > 0, "{what}");
        }
    }
}

#[test]
fn clients_that_cannot_be_played_are_refused() {
    let rig = Rig::built_in("mi50").unwrap();
    let mut run = run("A", &rig, 1);
    run.clients[0].model = "yolo".into();
    let error = rig.play(&rig.conditions()[4], &run).unwrap_err().to_string();
    assert!(error.contains("yolo") && error.contains("vgg19"), "{error}");
    run.clients[0].model = "vgg19".into();
    run.clients[0].enforced_deadline = Some(Duration::from_millis(1));
    let error = rig.play(&rig.conditions()[4], &run).unwrap_err().to_string();
    assert!(error.contains("enforced") && error.contains(&run.clients[0].name), "{error}");
    let error = Rig::built_in("mi60").unwrap_err().to_string();
    assert!(error.contains("mi60") && error.contains("v100") && error.contains("cpu2"), "{error}");
    let error = Rig::built_in("mi50").unwrap().add("mine", "{}").unwrap_err().to_string();
    assert!(error.contains("mine") && error.contains("queues"), "{error}");
    assert!(Rig::built_in("cpu2").unwrap().add("mine", "{}").is_err());
}

#[test]
fn profiles_of_ones_own_can_be_played() {
    let printed = r#"{"latency_ns": {"p50": 400000}, "kernels": [
        {"stage": 0, "blocks": 4, "block_ns": 60000}, {"stage": 1, "blocks": 2, "block_ns": 100000}]}"#;
    let mut rig = Rig::built_in("cpu2").unwrap();
    rig.add("mine", printed).unwrap();
    let takes = alone(&rig, "mine");
    assert!(takes.0.abs_diff(400_000) < 400, "{takes}");
}

#[test]
fn exact_resumption_loses_no_kernel_and_every_idea_keeps_real_time_requests_in_time() {
    let rows = reef_sim::ideas::ideas(Duration::from_secs(1), 1).unwrap();
    let of = |workload: &str, name: &str| {
        rows.iter().find(|row| row.workload == workload && row.name == name).unwrap()
    };
    for workload in BUILT_IN {
        let (reef, exact) = (of(workload, "reset"), of(workload, "reset, exact"));
        assert_eq!(reef.best_effort, 1.0);
        assert!(exact.best_effort > 0.995, "{workload}: {}", exact.best_effort);
        for row in rows.iter().filter(|row| row.workload == workload) {
            assert!(row.latency < 1.1, "{workload}, {}: {}", row.name, row.latency);
        }
        let kill = of(workload, "resident, kill");
        assert!(kill.best_effort_per_s >= of(workload, "resident").best_effort_per_s, "{workload}");
    }
}
