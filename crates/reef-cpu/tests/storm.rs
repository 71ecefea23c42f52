//! Thousands of preemptions by two real-time levels, with cancellations: every output stays exact.

mod rig;

use std::sync::Arc;

use reef_base::{Rng, TaskKey};
use reef_device::{Device, Outcome, Scheme};
use rig::KernelShape;

/// Preemptions that the storm goes on for.
const KILLS: u64 = 2_000;

#[test]
fn outputs_stay_exact_in_a_storm_of_preemptions() {
    let device = rig::device(2, Scheme::Reset);
    let shape = |polls, poll_ns| KernelShape {
        bytes: 600,
        tile_bytes: 64,
        polls,
        poll_ns,
        restart: true,
        host: false,
    };
    let host = |polls| KernelShape { host: true, ..shape(polls, 1_000) };
    let mut long = vec![vec![shape(40, 1_000); 2]; 6];
    long.insert(3, vec![host(100), host(60)]);
    let stages =
        [long, vec![vec![shape(8, 1_000)], vec![host(30), shape(8, 1_000)]], vec![vec![shape(1, 500)]]];
    let mut plans = Vec::new();
    for (index, stages) in stages.iter().enumerate() {
        let plan = Arc::new(rig::plan(index as u64 * 500, stages));
        plans.push((device.load(plan.clone()).expect("the plan loads"), plan));
    }
    let submit = |kind: usize, token: u64| {
        let key = [TaskKey::best_effort(token), rig::real_time(1, token), rig::real_time(0, token)][kind];
        let io = rig::filled(&device, plans[kind].0, token as u8);
        device.submit(plans[kind].0, key, io, token << 2 | kind as u64).ok()
    };
    let mut rng = Rng::new(42);
    let (mut accepted, mut ended, mut killed, mut best_effort_killed, mut cancelled) = (0, 0, 0, 0, 0);
    let mut token = 0;
    while killed < KILLS {
        token += 1;
        // Two best-effort tasks are kept on the board, and real-time ones come in bursts of one to three.
        let kinds: &[usize] = match rng.below(8) {
            0..3 => &[0],
            3..5 => &[1],
            5 => &[1, 2],
            6 => &[2],
            _ => &[1, 2, 2],
        };
        for &kind in kinds {
            if let Some(task) = submit(kind, token) {
                accepted += 1;
                if rng.below(20) == 0 {
                    device.cancel(task);
                }
            }
        }
        while accepted - ended > rng.below(4) {
            let done = rig::wait(&device);
            ended += 1;
            let kind = (done.token & 3) as usize;
            killed += done.counters.blocks_killed;
            best_effort_killed += if kind == 0 { done.counters.blocks_killed } else { 0 };
            match done.outcome {
                Outcome::Done => {
                    let expected = rig::evaluate(&plans[kind].1, done.io.inputs[0].as_slice());
                    assert_eq!(done.io.outputs[0].as_slice(), expected);
                    assert_eq!(done.counters.blocks_done, plans[kind].1.blocks());
                }
                Outcome::Cancelled => cancelled += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    let counters = device.counters();
    assert!(best_effort_killed > 0 && cancelled > 0, "{best_effort_killed} kills, {cancelled} cancelled");
    assert!(counters.blocks_killed >= KILLS && counters.wasted.0 > 0, "blocks are killed in the middle");
    assert!(counters.preemptions > 0);
}
