//! Whole systems under a seed, in virtual time: router, schedulers, engine core, programs and batches as they
//! are, over simulated devices that answer late, out of order, or not at all. Models come, go and take each
//! other's place; requests of all kinds are sent, alone or many at once, and cancelled; some ask for another
//! class or level, or come after their deadline; rows are bad and fail the tasks that they are in; schemes
//! change; devices are lost; the clock jumps, and nobody was there to do what was due meanwhile.
//!
//! What must hold, of each moment:
//!
//! | what | where |
//! |---|---|
//! | each request has one end, with the outputs of an undisturbed run or a reason that there is | `play` |
//! | who is joined with bad rows is not hurt by them, who brings them is | `play` |
//! | memory keeps its limit, the engine's and the devices' counts are what happened | `play`, `watch` |
//! | nothing less urgent runs or starts while a stage of a real-time task wants a unit | `watch` |
//! | no unit is idle while a task wants one, but for the time of a reset | `watch` |
//! | tasks have their requests' urgency; boards and models no more of them than they may | `ledger` |
//! | nobody waits for a place that is free, or goes before who is more urgent; weights are kept | `ledger` |
//! | when nothing new comes everything ends, within what its work and its mishaps can take | `play` |
//!
//! ```sh
//! cargo test --release --workspace --test system              # 1,000 seeds
//! REEF_SEEDS=100000 cargo test --release --workspace --test system
//! REEF_SEED=17 cargo test --release --workspace --test system -- --nocapture    # one, with what happens
//! ```
//!
//! A seed that fails is made as short as it still fails, and printed with what happens in it.

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
