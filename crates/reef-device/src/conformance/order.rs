//! Which block goes next, on any device: what is in the way of urgent work, padding, and shares. In counts of
//! blocks and polls, never by a clock.

use reef_base::{Clock, Nanos, Share, TaskKey};
use reef_plan::{Kernel, KernelSpec, Meter, SyntheticSpec, SyntheticStage, synthetic_plan};

use super::{Harness, PATIENCE, Rig, best_effort, pass, real_time, rebuilt};
use crate::contract::Kill;
use crate::event::{Event, EventKind};
use crate::scheme::{Padding, Scheme};

impl Rig {
    fn padded(harness: &dyn Harness, cus: usize, scheme: Scheme, padding: Padding) -> Rig {
        Rig { device: harness.padded(cus, scheme, padding), plans: Vec::new() }
    }

    /// Loads a plan, the blocks of whose first stage are counted.
    fn load_metered(&mut self, seed: u64, stages: &[SyntheticStage], meter: &Meter) -> usize {
        let target = self.device.capabilities().target;
        let plan = synthetic_plan("metered", target, seed, stages).expect("a valid plan");
        let metered = |kernel: &Kernel| {
            let KernelSpec::Synthetic(spec) = &kernel.spec else { unreachable!("the plan is synthetic") };
            let first = spec.seed == seed;
            let spec = SyntheticSpec { meter: first.then(|| meter.clone()), ..spec.clone() };
            Kernel { spec: KernelSpec::Synthetic(spec), ..kernel.clone() }
        };
        self.take(rebuilt(&plan, metered))
    }

    /// Lets time pass until `done`.
    fn until(&self, done: impl Fn() -> bool) {
        let started = std::time::Instant::now();
        while !done() {
            pass(&*self.device, started);
        }
    }

    /// Lets so much time pass.
    fn spend(&self, time: Nanos) {
        match self.device.virtual_clock() {
            Some(clock) => clock.advance_to(clock.now() + time),
            None => std::thread::sleep(time.into()),
        }
    }

    /// Runs a plan alone, so that its blocks' times are known.
    fn measure(&self, plan: usize) {
        self.submit(plan, best_effort(0), 0);
        self.check_output(plan, &self.complete(1)[0]);
    }
}

/// Promise 1, where the urgent stage needs every unit: after `submit`, no more less urgent blocks start on a
/// unit than the stated `propagation` is long, beside one that was being started; under `reset` the block
/// that runs polls once more at most, where polls are as far apart as the device allows.
pub fn what_is_in_the_way_starts_and_polls_once_more_at_most(harness: &dyn Harness) {
    for scheme in [Scheme::Wait, Scheme::Reset] {
        let mut rig = Rig::new(harness, 1, scheme);
        let capabilities = rig.device.capabilities().clone();
        let poll_ns = capabilities.poll_period.max(Nanos::from_micros(1)).0 as u32;
        const POLLS: u32 = 100;
        let (lesser, units) = (Meter::default(), rig.units());
        let stage = SyntheticStage { blocks: 2000.max(200 * units), polls: POLLS, poll_ns };
        let long = rig.load_metered(1, &[stage], &lesser);
        let urgent = Meter::watching(&lesser);
        let stage = SyntheticStage { blocks: units, polls: 1, poll_ns: 0 };
        let short = rig.load_metered(2, &[stage], &urgent);
        let units = units as u64;
        let (task, mut kills) = (rig.submit(long, best_effort(0), 0), 0);
        for round in 1..=20 {
            let (starts, _) = lesser.read();
            rig.until(|| lesser.read().0 > starts + round % 3);
            rig.submit(short, real_time(0), round);
            let before = lesser.read();
            let done = rig.complete(1).pop().expect("one completion");
            assert_eq!(done.token, round, "the long task has far more to do");
            let after = urgent.seen();
            let propagated = capabilities.propagation.0 / (u64::from(POLLS) * u64::from(poll_ns));
            assert!(after.0 <= before.0 + units * (1 + propagated), "{scheme}: {before:?} {after:?}");
            if scheme.kills() && capabilities.kill != Kill::None {
                assert!(after.1 <= before.1 + units, "{scheme}: {before:?} {after:?}");
                kills += done.counters.kills_caused;
            }
        }
        assert!(!scheme.kills() || capabilities.kill == Kill::None || kills > 0, "something was killed");
        rig.device.cancel(task);
        rig.complete(1);
    }
}

/// Promise 2: units that a narrow stage leaves run less urgent blocks, which is counted, and outputs stay
/// what they are; also where a wider stage comes that wants the units.
pub fn units_that_a_stage_leaves_are_padded_and_nothing_is_lost(harness: &dyn Harness) {
    for (scheme, padding) in [
        (Scheme::Reset, Padding::Preemptible),
        (Scheme::Reset, Padding::Fitting),
        (Scheme::Wait, Padding::Fitting),
    ] {
        let mut rig = Rig::padded(harness, 3, scheme, padding);
        let narrow = SyntheticStage { blocks: 1, polls: 20, poll_ns: 10_000 };
        let wide = SyntheticStage { blocks: 3, polls: 4, poll_ns: 5_000 };
        // More than a device of queues has queued before what it pads with is free.
        let urgent = rig.load(1, &[narrow, wide].repeat(20));
        let filler = rig.load(2, &[SyntheticStage { blocks: 64, polls: 4, poll_ns: 5_000 }; 3]);
        [urgent, filler].into_iter().for_each(|plan| rig.measure(plan));
        let started = std::time::Instant::now();
        let (mut padded, mut rounds) = (0, 0);
        while padded == 0 {
            assert!(started.elapsed() < PATIENCE, "{scheme}, {padding}: nothing ever pads");
            // What was measured while the machine did something else makes nothing fit.
            rounds += 1;
            if rounds % 16 == 0 {
                [urgent, filler].into_iter().for_each(|plan| rig.measure(plan));
            }
            rig.submit(filler, best_effort(1), 1);
            rig.until_blocks(rig.device.counters().blocks_done + 2);
            rig.submit(urgent, real_time(0), 2);
            for done in rig.complete(2) {
                rig.check_output(if done.token == 1 { filler } else { urgent }, &done);
                assert!(done.token == 1 || done.counters.blocks_padding == 0, "urgent work pads nothing");
                assert!(done.counters.padding_time <= done.counters.cu_time);
                padded += done.counters.blocks_padding;
            }
        }
        assert_eq!(rig.device.counters().blocks_padding, padded);
        assert!(rig.device.counters().padding > Nanos::ZERO);
    }
}

/// The rule `fitting`, which `wait` always keeps: a block that takes longer than the stage never pads it.
pub fn fitting_padding_ends_before_the_stage_does(harness: &dyn Harness) {
    for (scheme, padding) in [(Scheme::Reset, Padding::Fitting), (Scheme::Wait, Padding::Preemptible)] {
        let mut rig = Rig::padded(harness, 2, scheme, padding);
        let urgent = rig.load(1, &[SyntheticStage { blocks: 1, polls: 10, poll_ns: 5_000 }; 4]);
        // Forty times the time of an urgent block.
        let long = rig.load(2, &[SyntheticStage { blocks: 8, polls: 400, poll_ns: 5_000 }]);
        [urgent, long].into_iter().for_each(|plan| rig.measure(plan));
        rig.device.record_events(true);
        rig.submit(long, best_effort(1), 1);
        for round in 0..4 {
            rig.submit(urgent, real_time(0), 2 + round);
            rig.until_blocks(rig.device.counters().blocks_done + 6);
        }
        rig.complete(5);
        let mut events = Vec::new();
        rig.device.drain_events(&mut events);
        // Its last stage is one block of no length.
        let padded = |kind| matches!(kind, EventKind::Block { stage: 0, padding: true, .. });
        assert!(events.iter().all(|event| event.token != 1 || !padded(event.kind)), "{scheme}, {padding}");
    }
}

/// Two owners take turns block by block, so that a short task beside a long one ends while that one still has
/// blocks; two tasks of one owner go one after the other. On one unit: beside another one, a unit that the
/// system stops for a while decides which task ends first.
pub fn owners_share_units_and_one_owner_goes_in_order(harness: &dyn Harness) {
    for (owner, first) in [(1, 1), (0, 0)] {
        let mut rig = Rig::new(harness, 1, Scheme::Reset);
        let long = rig.load(1, &[SyntheticStage { blocks: 10_000, polls: 4, poll_ns: 5_000 }]);
        let short = rig.load(2, &[SyntheticStage { blocks: 8, polls: 4, poll_ns: 5_000 }]);
        rig.submit(long, best_effort(0), 0);
        rig.until_blocks(4);
        rig.submit(short, TaskKey::best_effort(1).on(Share { owner, weight: 1 }), 1);
        let done = rig.complete(2);
        assert_eq!(done[0].token, first);
        done.iter().for_each(|done| rig.check_output(if done.token == 0 { long } else { short }, done));
    }
}

/// A long task and many short ones, one after the other in one slot, share the units' time as the weights of
/// their owners say: nobody is ahead by more than a few blocks on each. The time is what the device says that
/// blocks took, and so is the length of a block: a unit that the system stops for a while makes both longer.
pub fn owners_share_units_by_weight_however_long_their_blocks_are(harness: &dyn Harness) {
    /// Blocks on each unit.
    const AHEAD_MAX: u64 = 4;
    for weights in [[1, 1], [3, 1], [1, 3]] {
        let mut rig = Rig::new(harness, 2, Scheme::Reset);
        let units = rig.units();
        let long = rig.load(1, &[SyntheticStage { blocks: 125 * units, polls: 40, poll_ns: 5_000 }; 2]);
        let stage = SyntheticStage { blocks: 12 * units, polls: 10, poll_ns: 5_000 };
        let short = [2, 3].map(|seed| rig.load(seed, &[stage]));
        let key = |owner: usize| {
            let share = Share { owner: owner as u16, weight: weights[owner] };
            TaskKey::best_effort(owner as u64).on(share)
        };
        rig.device.record_events(true);
        let task = rig.submit(long, key(0), 0);
        rig.until_blocks(4);
        let expected = rig.output_around(&short, 25, 1);
        rig.submit_around(&short, 25, key(1), 1);
        let (mut events, mut ended) = (Vec::new(), 0);
        while ended != 1 {
            let done = rig.complete(1).pop().expect("one completion");
            ended = done.token;
            assert!(ended == 0 || done.io.outputs[0].as_slice() == expected);
            rig.device.drain_events(&mut events);
        }
        rig.device.cancel(task);
        let [first, second] = used(&events);
        let [first, second] = [(first, weights[0]), (second, weights[1])]
            .map(|((time, block), weight)| (time / u64::from(weight), block));
        let bound = AHEAD_MAX * units as u64 * (first.1 + second.1) / u64::from(weights[0].min(weights[1]));
        assert!(first.0.abs_diff(second.0) <= bound, "{weights:?}: {first:?}, {second:?}, {bound}");
    }
}

/// What the blocks of the two tokens took, and the longest of each, while both had some: from the first block
/// of the second one to the last of the one that ended first.
fn used(events: &[Event]) -> [(u64, u64); 2] {
    let blocks = |token: u64| {
        let of = move |event: &&Event| event.token == token && matches!(event.kind, EventKind::Block { .. });
        events.iter().filter(of).map(|event| (event.at.0, event.at.0 + event.span.0))
    };
    let begin = blocks(1).map(|(start, _)| start).min().expect("it had blocks");
    let last = |token| blocks(token).map(|(_, end)| end).max().expect("it had blocks");
    let end = last(0).min(last(1));
    [0, 1].map(|token| {
        let inside = blocks(token).filter(|&(start, stop)| begin <= start && stop <= end);
        let spans = inside.map(|(start, stop)| stop - start);
        spans.fold((0, 0), |(sum, longest), span| (sum + span, longest.max(span)))
    })
}

/// Blocks that are killed count as well: an owner whose block is killed before it ends leaves the next turn
/// to another.
pub fn whose_blocks_are_killed_does_not_go_first_for_ever(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 1, Scheme::Reset);
    if rig.device.capabilities().kill == Kill::None {
        return;
    }
    let meter = Meter::default();
    let endless =
        rig.load_metered(1, &[SyntheticStage { blocks: 2, polls: 1_000_000, poll_ns: 10_000 }], &meter);
    let next = Meter::watching(&meter);
    let short = rig.load_metered(2, &[SyntheticStage { blocks: 1, polls: 2, poll_ns: 5_000 }], &next);
    let urgent = rig.load(3, &[SyntheticStage { blocks: 1, polls: 2, poll_ns: 5_000 }]);
    let share = |owner| Share { owner, weight: 1 };
    let task = rig.submit(endless, best_effort(0).on(share(0)), 0);
    rig.until(|| meter.read().0 > 0);
    // More than the short task takes.
    rig.spend(Nanos::from_millis(2));
    rig.submit(short, best_effort(1).on(share(1)), 1);
    rig.submit(urgent, real_time(0), 2);
    let ended: Vec<u64> = rig.complete(2).iter().map(|done| done.token).collect();
    assert_eq!(ended, [2, 1]);
    assert!(rig.units() > 1 || next.seen().0 == 1, "the killed block went first once more");
    rig.device.cancel(task);
    rig.complete(1);
}
