//! The dummy keeps the contract, and best-effort owners share it by weight, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use reef_base::{Share, TaskKey};
use reef_plan::{SyntheticStage, synthetic_plan};

use super::*;
use crate::conformance::Harness;
use crate::contract::{Completion, Device};
use crate::ids::LoadedPlan;

struct DummyHarness;

impl Harness for DummyHarness {
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device> {
        Arc::new(DummyDevice::new(DummyOptions { cus, scheme, ..DummyOptions::default() }))
    }

    fn padded(&self, cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device> {
        Arc::new(DummyDevice::new(DummyOptions { cus, scheme, padding, ..DummyOptions::default() }))
    }
}

crate::conformance_suite!(DummyHarness);

/// A device of two units and a plan for each of some stages.
fn with(plans: &[&[SyntheticStage]]) -> (DummyDevice, Vec<LoadedPlan>) {
    let device = DummyDevice::new(DummyOptions::default());
    let target = device.capabilities().target;
    let load = |stages: &&[SyntheticStage]| {
        device.load(Arc::new(synthetic_plan("shared", target, 1, stages).unwrap())).unwrap()
    };
    let loaded = plans.iter().map(load).collect();
    (device, loaded)
}

fn submit(device: &DummyDevice, plan: LoadedPlan, order: u64, share: Share) {
    let io = device.alloc_io(plan).unwrap();
    device.submit(plan, TaskKey::best_effort(order).on(share), io, order).unwrap();
}

fn complete(device: &DummyDevice) -> Completion {
    loop {
        match device.try_complete() {
            Some(done) => return done,
            None => assert!(device.advance(), "something is left to do"),
        }
    }
}

fn stage(blocks: usize, block_us: u32) -> SyntheticStage {
    SyntheticStage { blocks, polls: block_us, poll_ns: 1000 }
}

/// Compute unit time of two owners over the time in which both have blocks, which take so long.
fn used(weights: [u32; 2], block_us: [u32; 2]) -> [f64; 2] {
    let [first, second] = block_us.map(|us| [stage(1_000_000 / us as usize, us)]);
    let (device, plans) = with(&[&first, &second]);
    for (owner, (&plan, weight)) in plans.iter().zip(weights).enumerate() {
        submit(&device, plan, owner as u64, Share { owner: owner as u16, weight });
    }
    device.record_events(true);
    while device.now() < Nanos::from_millis(500) {
        assert!(device.advance());
    }
    let mut events = Vec::new();
    device.drain_events(&mut events);
    let time =
        |token| events.iter().filter(|event| event.token == token).map(|event| event.span.0).sum::<u64>();
    [0, 1].map(|token| time(token) as f64)
}

#[test]
fn owners_use_the_units_in_the_ratio_of_their_weights() {
    for (weights, block_us) in
        [([1, 1], [100, 100]), ([3, 1], [100, 100]), ([1, 3], [100, 20]), ([1, 1], [20, 300])]
    {
        let [first, second] = used(weights, block_us);
        let wanted = f64::from(weights[0]) / f64::from(weights[1]);
        let ratio = first / second / wanted;
        assert!((0.9..1.1).contains(&ratio), "{weights:?} {block_us:?}: {ratio} of what they are due");
    }
}

#[test]
fn a_short_task_beside_a_long_one_takes_twice_its_own_time_and_not_the_tails() {
    let long = [stage(100, 100); 20];
    let short = [stage(4, 100); 5];
    let latency = |owner| {
        let (device, plans) = with(&[&long, &short]);
        submit(&device, plans[0], 0, Share::default());
        while device.now() < Nanos::from_millis(1) {
            device.advance();
        }
        submit(&device, plans[1], 1, Share { owner, weight: 1 });
        std::iter::from_fn(|| Some(complete(&device)))
            .find(|done| done.token == 1)
            .map(|done| done.finished - done.submitted)
            .unwrap()
    };
    // Alone: five stages of two rounds of 100 us.
    assert!(latency(1) <= Nanos::from_micros(2_500), "{}", latency(1));
    assert!(latency(0) > Nanos::from_millis(80), "of the same owner it waits: {}", latency(0));
}

#[test]
fn a_task_that_comes_again_and_again_gets_no_more_than_its_share() {
    let long = [stage(20_000, 50)];
    let short = [stage(2, 50); 3];
    let (device, plans) = with(&[&long, &short]);
    submit(&device, plans[0], 0, Share { owner: 0, weight: 3 });
    let (mut order, mut used) = (1, 0);
    while device.now() < Nanos::from_millis(200) {
        submit(&device, plans[1], order, Share { owner: 1, weight: 1 });
        let done = complete(&device);
        assert_eq!(done.token, order);
        (order, used) = (order + 1, used + done.counters.cu_time.0);
    }
    let share = used as f64 / (2 * device.now().0) as f64;
    assert!((0.2..0.275).contains(&share), "a quarter is its share, it had {share}");
}

#[test]
fn dummies_of_one_clock_have_one_time() {
    let options = DummyOptions::default();
    let us = Nanos::from_micros;
    let device = |block_us| {
        let device = DummyDevice::new(options.clone());
        let plan = synthetic_plan("timed", device.capabilities().target, 1, &[stage(2, block_us)]).unwrap();
        let plan = device.load(Arc::new(plan)).unwrap();
        submit(&device, plan, 0, Share::default());
        device
    };
    let (slow, fast) = (device(10), device(7));
    assert_eq!((slow.next_event(), fast.next_event()), (Some(us(10)), Some(us(7))));
    assert!(fast.advance());
    assert_eq!((fast.now(), slow.now(), slow.next_event()), (us(7), us(7), Some(us(10))));
    // Time that passes between two events changes nothing.
    options.clock.advance_to(us(9));
    assert_eq!(slow.next_event(), Some(us(10)));
    assert!(slow.advance());
    assert_eq!((fast.now(), slow.counters().busy), (us(10), us(20)));
    // The last block of the other, of a nanosecond, is overdue by now: it ends, and takes what it takes.
    assert_eq!(fast.next_event(), Some(us(7) + Nanos(1)));
    assert!(fast.advance());
    let done = fast.try_complete().unwrap();
    assert_eq!((done.finished, done.counters.cu_time, fast.now()), (us(10), us(14) + Nanos(1), us(10)));
    // It runs a block to its end, and moves the clock no further.
    assert!(slow.quiesce(Duration::ZERO));
    assert_eq!((slow.now(), slow.next_event(), slow.advance()), (us(10) + Nanos(1), None, false));
}
