//! From submission to completion the device allocates nothing, on any thread, once everything is warm. On the
//! emulated driver: `cargo xtask cuda`. One test only, because the count is of the whole process.

use std::alloc::System;
use std::sync::Arc;

use reef_base::{Level, Nanos, TaskKey};
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::{Completion, Device, Io, Outcome, Scheme};
use reef_plan::{SyntheticStage, synthetic_plan};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn next(device: &CudaDevice) -> Completion {
    loop {
        match device.try_complete() {
            Some(done) => return done,
            None => std::thread::yield_now(),
        }
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn the_hot_path_does_not_allocate() {
    for scheme in [Scheme::Reset, Scheme::Concurrent] {
        let (cancelled, preempted) = count(scheme);
        assert!(cancelled > 0, "nothing was cancelled under {scheme}");
        assert!((preempted > 0) == (scheme == Scheme::Reset), "{preempted} preempted under {scheme}");
    }
}

/// Counts under a scheme; how many tasks were cancelled and preempted.
fn count(scheme: Scheme) -> (u64, u64) {
    let options = CudaOptions { memory_bytes: Some(16 << 20), scheme, ..CudaOptions::default() };
    let device = CudaDevice::start(options).expect("the emulated driver is there");
    let stages = [SyntheticStage { blocks: 5, polls: 1, poll_ns: 1_000 }; 20];
    let plan = synthetic_plan("p", device.capabilities().target, 1, &stages).expect("a valid plan");
    let plan = device.load(Arc::new(plan)).expect("the plan loads");
    let mut ios: Vec<Io> = (0..4).map(|_| device.alloc_io(plan).expect("it is loaded")).collect();
    let mut cancelled = 0;
    let mut run = |rounds: u64| {
        for round in 0..rounds {
            let before = device.counters().blocks_done;
            for kind in 0..4 {
                while kind == 2 && device.counters().blocks_done < before + 3 {
                    // Something is in the way of those that come.
                    std::thread::yield_now();
                }
                let key = match kind {
                    0 | 1 => TaskKey::best_effort(round),
                    _ => TaskKey::real_time(Level::TOP, None, Nanos(kind)),
                };
                let io = ios.pop().expect("four are there");
                let task = device.submit(plan, key, io, kind).expect("the board has room");
                if round % 8 == 3 && kind == 1 {
                    device.cancel(task);
                }
            }
            for _ in 0..4 {
                let done = next(&device);
                assert!(matches!(done.outcome, Outcome::Done | Outcome::Cancelled));
                cancelled += u64::from(done.outcome == Outcome::Cancelled);
                ios.push(done.io);
            }
        }
    };
    run(20);
    let region = Region::new(ALLOCATOR);
    run(40);
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0), "{scheme}: {change:?}");
    assert!(ALLOCATOR.stats().allocations > 0, "the count counts");
    (cancelled, device.counters().preemptions)
}
