//! Whole systems under a seed, in virtual time: router, schedulers, engine core, programs and batches as they
//! are, over simulated devices that answer late, out of order, or not at all. Models come, go and take each
//! other's place; requests of all kinds are sent, cancelled, late; schemes change; devices are lost.
//!
//! At every step ([`play::Play`]): each request has one end, with the outputs of an undisturbed run or a
//! reason that there is; a real-time task that is alone gets its first block within a reset; memory keeps
//! its limit; the engine's counts are what happened. When nothing new comes everything ends within a bound.
//!
//! ```sh
//! cargo test --release --workspace --test system              # 1,000 seeds
//! REEF_SEEDS=100000 cargo test --release --workspace --test system
//! REEF_SEED=17 cargo test --release --workspace --test system -- --nocapture    # one, with what happens
//! ```
//!
//! A seed that fails is made as short as it still fails, and printed.

#[macro_use]
#[path = "doubles/mod.rs"]
mod doubles;
#[path = "system/chaotic.rs"]
mod chaotic;
#[path = "system/ledger.rs"]
mod ledger;
#[path = "system/play.rs"]
mod play;
#[path = "system/script.rs"]
mod script;
#[path = "system/watch.rs"]
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};

use play::Play;
use script::Script;

const SEEDS: u64 = 1_000;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value}: a number")))
}

/// What went wrong with a script, if anything did.
fn failure(script: &Script, trace: bool) -> Option<String> {
    let run = catch_unwind(AssertUnwindSafe(|| drop(Play::run(script, trace))));
    let payload = run.err()?;
    let text = payload.downcast_ref::<String>().cloned();
    Some(text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default())
}

#[test]
fn every_request_has_its_end_whatever_happens() {
    if let Some(seed) = variable("REEF_SEED") {
        let script = Script::new(seed);
        println!("{:?}", script.devices);
        Play::run(&script, true);
        return;
    }
    // What fails is told once, by name of its seed, and not for every try to make it shorter.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let failed = (0..variable("REEF_SEEDS").unwrap_or(SEEDS))
        .map(Script::new)
        .find(|script| failure(script, false).is_some());
    let shrunk = failed.map(|script| script.shrunk(|shorter| failure(shorter, false).is_some()));
    std::panic::set_hook(hook);
    if let Some(script) = shrunk {
        let why = failure(&script, true).expect("it still fails");
        let steps: String = script.steps.iter().map(|step| format!("{step:?}\n")).collect();
        panic!(
            "seed {seed}: {why}\nas short as it fails, on {:?}:\n{steps}\nall of it: REEF_SEED={seed} \
             cargo test --release --workspace --test system -- --nocapture",
            script.devices,
            seed = script.seed
        );
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in 0..50 {
        let script = Script::new(seed);
        let (first, second) = (Play::run(&script, false), Play::run(&script, false));
        assert!(first.ends == second.ends, "seed {seed}");
    }
}
