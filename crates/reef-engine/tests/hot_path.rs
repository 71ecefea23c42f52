//! The hot path on the CPU device: no allocation on any thread after warm-up, beside best-effort work that is
//! preempted all the time. One test only, because the count is of the whole process.

mod doubles;

use std::alloc::System;
use std::sync::atomic::{AtomicU64, Ordering};

use doubles::*;
use reef_engine::*;
use reef_plan::synthetic_output;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RUNS: u64 = 500;

#[test]
fn sessions_allocate_nothing_after_warm_up() {
    let engine = cpu();
    let urgent = load(&engine, "rt", real_time(0), 3);
    let filler = load(&engine, "be", ModelSettings::default(), 20);
    let (rounds, ready) = (AtomicU64::new(0), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = engine.session("be", &SessionOptions::default()).unwrap();
            session.input_mut(0).fill(1);
            let expected = synthetic_output(&filler, &[1; 64]);
            for _ in 0..20 {
                session.run().unwrap();
            }
            ready.wait();
            while rounds.load(Ordering::Relaxed) < RUNS {
                session.run().unwrap();
                assert_eq!(session.output(0).data, expected);
            }
            ready.wait();
        });
        let mut session = engine.session("rt", &SessionOptions::default()).unwrap();
        session.input_mut(0).fill(2);
        let expected = synthetic_output(&urgent, &[2; 64]);
        for _ in 0..20 {
            session.run().unwrap();
        }
        ready.wait();
        let region = Region::new(ALLOCATOR);
        for _ in 0..RUNS {
            session.run().unwrap();
            assert_eq!(session.output(0).data, expected);
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        let change = region.change();
        ready.wait();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "{change:?}");
    });
    let stats = engine.stats();
    assert!(ALLOCATOR.stats().allocations > 0, "the count counts");
    let sum: u64 = stats.models.iter().map(|model| model.real_time.preemptions()).sum();
    assert!(sum > 0, "the best-effort work was in the way: {stats:?}");
}
