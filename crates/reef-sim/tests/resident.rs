//! The resident executor: nothing is lost but the blocks under way, real-time blocks wait a poll period at
//! most, units are never idle while there is work, and the same inputs give the same run.

use reef_base::{Class, Level, Nanos, Rng};
use reef_sim::GpuConstants;
use reef_sim::profile::{Model, Profile};
use reef_sim::resident::model::{Blocks, Stage};
use reef_sim::resident::{
    Counters, Ended, Executor, Padding, ResidentConstants, ResidentModel, Rules, Sharing, alone, calibrated,
};
use reef_sim::server::Client;

const CPU2: &str = include_str!("../data/cpu2.toml");

fn cpu2() -> ResidentConstants {
    ResidentConstants::built_in("cpu2").unwrap()
}

fn client(model: usize, class: Class) -> Client {
    Client { model, class }
}

const REAL_TIME: Class = Class::RealTime(Level::TOP);

fn model(stages: &[&[(u32, u64)]]) -> ResidentModel {
    let blocks = |&(count, us): &(u32, u64)| Blocks { count, time: Nanos::from_micros(us) };
    let stage = |kernels: &&[(u32, u64)]| Stage { kernels: kernels.iter().map(blocks).collect() };
    ResidentModel { name: "made up".into(), stages: stages.iter().map(stage).collect(), measured: None }
}

fn random_model(rng: &mut Rng) -> ResidentModel {
    let mut kernel = |_| Blocks { count: 1 + rng.below(9) as u32, time: Nanos(20_000 + rng.below(180_000)) };
    let stages = (0..12).map(|at| Stage { kernels: (0..1 + at % 2).map(&mut kernel).collect() });
    ResidentModel { name: "random".into(), stages: stages.collect(), measured: None }
}

/// Runs until nothing happens any more before `until`.
fn go_on(executor: &mut Executor, until: Nanos) -> Vec<Ended> {
    let mut ended = Vec::new();
    while let Some(next) = executor.next_event().filter(|&next| next <= until) {
        executor.advance(next, &mut ended);
    }
    if until < Nanos::MAX {
        executor.advance(until, &mut ended);
    }
    ended
}

const RULES: [Rules; 6] = [
    Rules { sharing: Sharing::Sequential, padding: Padding::None },
    Rules { sharing: Sharing::Concurrent, padding: Padding::None },
    Rules::WAIT,
    Rules { sharing: Sharing::Reset, padding: Padding::None },
    Rules { sharing: Sharing::Reset, padding: Padding::Fitting },
    Rules::RESET,
];

#[test]
fn a_model_alone_takes_what_its_profile_says() {
    let constants = cpu2();
    for built_in in ResidentModel::built_in("cpu2") {
        let measured = built_in.measured.expect("it was measured");
        let model = calibrated(&built_in, &constants, measured);
        let takes = alone(&model, &constants);
        assert!(takes.0.abs_diff(measured.0) < measured.0 / 1_000, "{}: {takes} {measured}", built_in.name);
        assert!(takes >= model.awake(&constants), "{}", built_in.name);
        // Blocks of this device are short: nothing but a wrong profile needs a factor far from 1.
        let unscaled = alone(&built_in, &constants).0 as f64 / measured.0 as f64;
        assert!((0.5..2.0).contains(&unscaled), "{}: {unscaled}", built_in.name);
    }
}

#[test]
fn alone_blocks_go_to_whichever_unit_is_free() {
    let sleepless = CPU2.replace("after_us = 50.0", "after_us = 1000000.0");
    let constants = ResidentConstants::parse("mine", &sleepless).unwrap();
    for seed in 0..100 {
        let model = random_model(&mut Rng::new(seed));
        assert_eq!(alone(&model, &constants), model.awake(&constants), "seed {seed}");
    }
}

#[test]
fn kernels_of_the_mi50_take_what_they_take_in_its_queues() {
    let gpu = GpuConstants::built_in("mi50").unwrap();
    let mut free = ResidentConstants::built_in("mi50-resident").unwrap();
    let none = ResidentConstants::parse("none", &CPU2.replace("pull_us = 0.45", "pull_us = 0.0")).unwrap();
    free.stages = none.stages;
    for profile in Profile::all() {
        let own = ResidentModel::of_gpu(&profile, &gpu).awake(&free);
        let edges = free.requests.submit_us.nanos() + free.requests.hand_over_us.nanos();
        let edges = edges + free.polling.visibility_us.nanos();
        assert_eq!(own - edges, Model::of(&profile, &gpu).alone(), "{}", profile.name);
    }
}

/// Every request is answered once, each block runs once but for those that were killed.
#[test]
fn nothing_is_lost_and_nothing_runs_twice_but_what_was_killed() {
    let constants = cpu2();
    for seed in 0..150u64 {
        let mut rng = Rng::new(seed);
        let models: Vec<ResidentModel> = (0..3).map(|_| random_model(&mut rng)).collect();
        let class = |at: usize| if at < 2 { REAL_TIME } else { Class::BestEffort };
        let clients: Vec<Client> = (0..5).map(|at| client(rng.below(3) as usize, class(at))).collect();
        let rules = RULES[seed as usize % RULES.len()];
        let mut executor = Executor::new(&constants, &models, &clients, rules);
        let (mut asked, mut blocks, mut ended) = (Vec::new(), 0, Vec::new());
        for _ in 0..60 {
            let asks = rng.below(5) as usize;
            let of = &models[clients[asks].model];
            blocks += of.stages.iter().map(|stage| u64::from(stage.blocks())).sum::<u64>();
            asked.push((asks, executor.now()));
            executor.submit(asks);
            let until = executor.now() + Nanos(rng.below(3_000_000));
            ended.extend(go_on(&mut executor, until));
        }
        ended.extend(go_on(&mut executor, Nanos::MAX));
        let mut answered: Vec<_> = ended.iter().map(|ended| (ended.client, ended.arrived)).collect();
        answered.sort();
        asked.sort();
        assert_eq!(answered, asked, "seed {seed}");
        let Counters { blocks: done, killed, wasted, .. } = executor.counters();
        assert_eq!(done, blocks, "seed {seed}: each block ends once");
        assert_eq!(executor.busy(), 0, "seed {seed}");
        let kills = rules.sharing == Sharing::Reset;
        assert!(kills || (killed == 0 && wasted == Nanos::ZERO), "seed {seed}: {rules:?} kills nothing");
        let awake = |ended: &Ended| models[clients[ended.client].model].awake(&constants);
        assert!(ended.iter().all(|one| one.at.since(one.arrived) >= awake(one)), "seed {seed}: as if alone");
    }
}

#[test]
fn a_real_time_block_waits_for_a_poll_period_and_the_flag_at_most() {
    let constants = cpu2();
    let models = [model(&[&[(2, 200)], &[(2, 100)]]), model(&[&[(4, 150)], &[(3, 200)]])];
    let clients = [client(0, REAL_TIME), client(1, Class::BestEffort)];
    let polling = constants.polling;
    let bound = constants.requests.submit_us.nanos()
        + polling.visibility_us.nanos()
        + polling.period_us.nanos()
        + polling.drop_us.nanos()
        + Nanos(2 * constants.stages.pull_us.nanos().0);
    let mut killed_most = 0;
    for seed in 0..400u64 {
        let mut rng = Rng::new(seed);
        let mut executor = Executor::new(&constants, &models, &clients, Rules::RESET);
        executor.submit(1);
        let at = Nanos(5_000 + rng.below(400_000));
        go_on(&mut executor, at);
        executor.submit(0);
        let ended = go_on(&mut executor, Nanos::MAX);
        let urgent = ended.iter().find(|ended| ended.client == 0).unwrap();
        assert!(urgent.begun - urgent.arrived <= bound, "seed {seed}: {urgent:?}, at most {bound}");
        let killed = executor.counters().killed;
        assert!(
            killed <= u64::from(constants.units),
            "seed {seed}: one block per unit at most, not {killed}"
        );
        let lost = Nanos(u64::from(constants.units) * (200_000 + bound.0));
        assert!(executor.counters().wasted <= lost, "seed {seed}");
        killed_most = killed_most.max(killed);
    }
    assert_eq!(killed_most, 2, "some of these meet two blocks under way");
}

#[test]
fn units_are_not_idle_while_there_is_best_effort_work() {
    let constants = cpu2();
    let models = [model(&[&[(40, 100)]])];
    let clients = [client(0, Class::BestEffort), client(0, Class::BestEffort)];
    let mut executor = Executor::new(&constants, &models, &clients, Rules::RESET);
    executor.submit(0);
    executor.submit(1);
    go_on(&mut executor, Nanos::from_micros(50));
    let mut ended = Vec::new();
    while let Some(next) = executor.next_event().filter(|_| ended.is_empty()) {
        executor.advance(next, &mut ended);
        assert!(executor.busy() == constants.units || executor.counters().blocks >= 79, "{next}");
    }
    assert_eq!(executor.counters().killed, 0);
}

#[test]
fn padding_uses_what_a_narrow_stage_leaves_and_costs_the_real_time_task_nothing() {
    let constants = ResidentConstants::parse("mine", &CPU2.replace("shared = 0.09", "shared = 0.0")).unwrap();
    let models = [model(&[&[(1, 500)], &[(1, 500)]]), model(&[&[(8, 600)]]), model(&[&[(8, 100)]])];
    let run = |other: usize, rules: Rules| {
        let clients = [client(0, REAL_TIME), client(other, Class::BestEffort)];
        let mut executor = Executor::new(&constants, &models, &clients, rules);
        executor.submit(0);
        go_on(&mut executor, Nanos::from_micros(10));
        executor.submit(1);
        let ended = go_on(&mut executor, Nanos::from_micros(1_010));
        let latency = ended.iter().find(|ended| ended.client == 0).map(|ended| ended.at);
        (latency, executor.counters().padding)
    };
    let expected = Some(models[0].awake(&constants));
    let fitting = Rules { padding: Padding::Fitting, ..Rules::RESET };
    let none = Rules { padding: Padding::None, ..Rules::RESET };
    for (other, rules, pads) in [
        (1, Rules::RESET, true),
        (1, fitting, false),
        (2, Rules::RESET, true),
        (2, fitting, true),
        (2, none, false),
    ] {
        let (latency, padding) = run(other, rules);
        assert_eq!(latency, expected, "{rules:?}");
        assert_eq!(padding > Nanos::ZERO, pads, "{other} {rules:?}: {padding}");
    }
}

#[test]
fn what_would_not_end_before_a_request_that_is_due_is_held_back() {
    let constants = cpu2();
    let models = [model(&[&[(2, 200)]])];
    let clients = [client(0, Class::BestEffort)];
    let mut executor = Executor::new(&constants, &models, &clients, Rules::RESET);
    executor.expect(Nanos::from_micros(150));
    executor.submit(0);
    go_on(&mut executor, Nanos::from_micros(149));
    assert_eq!(executor.busy(), 0, "it would not end before");
    assert_eq!(go_on(&mut executor, Nanos::MAX).len(), 1, "it goes on if nobody comes");
}

#[test]
fn more_units_at_work_than_were_measured_slow_blocks_down() {
    let constants = cpu2();
    assert_eq!(constants.slowdown(2, 2), 1.0);
    assert_eq!(constants.slowdown(1, 2), 1.0, "nobody is faster than measured");
    assert!((constants.slowdown(2, 1) - 1.09).abs() < 1e-9);
}

#[test]
fn the_same_inputs_give_the_same_run() {
    let constants = cpu2();
    let run = |seed: u64| {
        let mut rng = Rng::new(seed);
        let models: Vec<ResidentModel> = (0..2).map(|_| random_model(&mut rng)).collect();
        let clients = [client(0, REAL_TIME), client(1, Class::BestEffort)];
        let mut executor = Executor::new(&constants, &models, &clients, Rules::RESET);
        let mut ended = Vec::new();
        for at in 0..40 {
            executor.submit(at % 2);
            let until = executor.now() + Nanos(rng.below(2_000_000));
            ended.extend(go_on(&mut executor, until));
        }
        format!("{ended:?} {:?}", executor.counters())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn constants_that_make_no_sense_are_refused() {
    let cases = [
        ("period_us = 2.3", "period_us = 0.0", "polling.period_us is 0"),
        ("period_us = 2.3", "period_us = -2.3", "-2.3 us, allowed are 0 to 1000000"),
        ("period_us = 2.3", "periods_us = 2.3", "unknown field `periods_us`"),
        ("wake_us = 31.5", "", "missing field `wake_us`"),
        ("units = 2", "units = 0", "units is 0, allowed are 1 to 4096"),
        ("units = 2", "units = 2\ncus = 2", "unknown field `cus`"),
        ("shared = 0.09", "shared = -0.1", "bandwidth.shared is -0.1"),
        ("best_effort_tasks = 2", "best_effort_tasks = 0", "board.best_effort_tasks is 0"),
    ];
    for (from, to, expected) in cases {
        assert!(CPU2.contains(from), "{from}");
        let error = ResidentConstants::parse("mine", &CPU2.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("mine"), "{to}: {error}");
    }
    let error = ResidentConstants::built_in("cpu3").unwrap_err().to_string();
    assert_eq!(error, "no simulated device is called \"cpu3\"; there are cpu2, h100, mi50-resident");
    assert!(ResidentConstants::names().all(|name| ResidentConstants::built_in(name).is_ok()));
}

#[test]
fn profiles_that_make_no_sense_are_refused() {
    let with = |kernels: &str| format!("{{\"latency_ns\": {{\"p50\": 9}}, \"kernels\": [{kernels}]}}");
    let cases = [
        ("", "it has no kernel"),
        (r#"{"stage": 0, "blocks": 0, "block_ns": 5}"#, "kernel 0 has 0 blocks"),
        (r#"{"stage": 0, "blocks": -1, "block_ns": 5}"#, "invalid value"),
        (r#"{"stage": 0, "blocks": 1, "block_ns": 20000000000}"#, "at most 10000000000 ns"),
        (r#"{"stage": 0, "blocks": 4000000000, "block_ns": 5}"#, "it has 4000000000 blocks"),
        (r#"{"stage": 0, "blocks": 1}"#, "missing field `block_ns`"),
    ];
    for (kernels, expected) in cases {
        let error = ResidentModel::parse("mine", &with(kernels)).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("mine"), "{kernels}: {error}");
    }
    assert!(ResidentModel::parse("mine", "[]").is_err());
}
