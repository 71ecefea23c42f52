//! The board against a device that does what it is told.

use std::collections::BTreeMap;

use reef_base::{Class, Level, Rng};

use super::*;

mod graphs;

const PLAN: LoadedPlan = LoadedPlan(0);

fn real_time(level: u8) -> TaskKey {
    match Class::real_time(level) {
        Class::RealTime(level) => TaskKey::real_time(level, None, Nanos::ZERO),
        Class::BestEffort => TaskKey::real_time(Level::TOP, None, Nanos::ZERO),
    }
}

/// What is queued on a stream.
#[derive(Clone, Copy, Debug)]
struct Queued {
    /// Whose it is: it may pad another task's stream.
    slot: usize,
    /// The kernel, the first of its blocks, and how many; none of copies and marks.
    blocks: Option<(usize, u32, u32)>,
    /// Kernels behind that one in the same launch.
    more: usize,
    /// It is all of the kernel, without padding.
    alone: bool,
    number: u32,
}

/// A device of streams: launches run in order, and blocks of what is evicted do not start.
#[derive(Default)]
struct Streams {
    queued: BTreeMap<usize, VecDeque<Queued>>,
    /// Whose blocks may not start, and whether one of them did not.
    evicted: BTreeMap<usize, bool>,
    now: Nanos,
}

/// How long a wave of each kernel of a task takes, where that is known; blocks that share a tile, and blocks
/// that fit a multiprocessor; the kernels behind those that graphs begin with.
struct Waves(Option<u64>, u32, u32, Vec<Option<usize>>);

impl Kernels for Waves {
    fn fit(&self, _kernel: usize, _units: usize) -> Fit {
        Fit { together: self.2, wave: self.0.map(Nanos), whole: self.0.map(Nanos), grain: self.1 }
    }

    fn graph_end(&self, kernel: usize) -> Option<usize> {
        *self.3.get(kernel)?
    }
}

struct Rig {
    board: Board<Waves>,
    /// Blocks of each kernel, by slot.
    steps: BTreeMap<usize, Vec<u32>>,
    /// How far the task in a slot has come: a kernel, and its blocks that have run.
    come: BTreeMap<usize, (usize, u32)>,
    streams: Streams,
    /// What was done.
    log: Vec<Action>,
    /// Kernels that ran whole, by slot.
    ran: Vec<(usize, usize)>,
    /// What the host runs, by slot.
    hosted: BTreeMap<usize, usize>,
    /// Blocks that share a tile, of tasks that are submitted.
    grain: u32,
    /// Blocks of theirs that fit a multiprocessor.
    together: u32,
    /// Whether they have graphs.
    graphs: bool,
}

/// Of a task's kernels, one that the host runs.
const HOST: u32 = 0;

impl Rig {
    fn new(scheme: Scheme) -> Rig {
        let board = Board::new(scheme, Padding::default(), 2);
        Rig {
            board,
            steps: BTreeMap::new(),
            come: BTreeMap::new(),
            streams: Streams::default(),
            log: Vec::new(),
            ran: Vec::new(),
            hosted: BTreeMap::new(),
            grain: 1,
            together: 2,
            graphs: false,
        }
    }

    fn submit(&mut self, key: TaskKey, blocks: &[u32], token: u64) -> TaskId {
        self.submit_timed(key, blocks, token, None)
    }

    fn submit_timed(&mut self, key: TaskKey, blocks: &[u32], token: u64, wave: Option<u64>) -> TaskId {
        assert_eq!(self.board.refusal(key), None);
        let step = |&blocks: &u32| if blocks == HOST { Step::Host } else { Step::Device(blocks) };
        let (io, steps) = (Io::default(), blocks.iter().map(step).collect());
        let part = |kernel: usize| {
            let begins = blocks[kernel] != HOST && (kernel == 0 || blocks[kernel - 1] == HOST);
            let end = blocks[kernel..].iter().position(|&blocks| blocks == HOST);
            begins.then(|| end.map_or(blocks.len(), |count| kernel + count))
        };
        let graphs = if self.graphs { (0..blocks.len()).map(part).collect() } else { Vec::new() };
        let payload = Waves(wave, self.grain, self.together, graphs);
        let submission = Submission { plan: PLAN, payload, steps, key, io, token };
        let task = self.board.submit(submission, self.streams.now);
        let slot = (task.0 & ((1 << SLOT_BITS) - 1)) as usize;
        self.steps.insert(slot, blocks.to_vec());
        self.come.insert(slot, (0, 0));
        task
    }

    fn act(&mut self) {
        while let Some(action) = self.board.next() {
            self.log.push(action);
            match action {
                Action::Evict(slot) => assert_eq!(self.streams.evicted.insert(slot, false), None),
                Action::Allow(slot) => {
                    assert!(self.is_clear(slot), "what was evicted is told of first");
                    assert!(self.streams.evicted.remove(&slot).is_some());
                }
                Action::Launch { slot, kernel, from, number, first, padding } => {
                    self.begin(slot, first);
                    let all = self.steps[&slot][kernel];
                    if let Some(Pads { slot: own, kernel, from, blocks, number }) = padding {
                        let elsewhere = |(&on, queued): (&usize, &VecDeque<Queued>)| {
                            on != slot && queued.iter().any(|queued| queued.slot == own)
                        };
                        assert!(!self.streams.queued.iter().any(elsewhere), "it waits for nothing else");
                        assert!(!self.streams.evicted.contains_key(&own), "its blocks start");
                        let blocks = Some((kernel, from, blocks));
                        self.queue(slot, Queued { slot: own, blocks, more: 0, alone: false, number });
                    }
                    let blocks = Some((kernel, from, all - from));
                    let alone = from == 0 && padding.is_none();
                    self.queue(slot, Queued { slot, blocks, more: 0, alone, number });
                }
                Action::Graph { slot, kernel, number, first } => {
                    self.begin(slot, first);
                    assert!(self.is_clear(slot), "a slot has one graph at a time");
                    let own = &self.steps[&slot][kernel..];
                    let count = own.iter().take_while(|&&blocks| blocks != HOST).count();
                    let blocks = Some((kernel, 0, own[..count].iter().sum()));
                    self.queue(slot, Queued { slot, blocks, more: count - 1, alone: false, number });
                }
                Action::Fetch { slot, number, first, .. } => {
                    self.begin(slot, first);
                    assert!(self.is_clear(slot), "what makes its operands is told of");
                    self.queue_copies(slot, number);
                }
                Action::Run { slot, kernel } => {
                    assert!(self.is_clear(slot), "its operands are there");
                    assert_eq!(self.hosted.insert(slot, kernel), None);
                }
                Action::Store { slot, kernel, number } => {
                    let last = self.ran.iter().rev().find(|ran| ran.0 == slot);
                    assert_eq!(last, Some(&(slot, kernel)), "the host is through with it");
                    assert!(self.is_clear(slot), "nothing uses what it overwrites");
                    self.queue_copies(slot, number);
                }
                Action::Finish { slot, number } => self.queue_copies(slot, number),
            }
        }
    }

    fn begin(&mut self, slot: usize, first: bool) {
        if first {
            assert!(self.is_clear(slot) && !self.hosted.contains_key(&slot), "its memory is nobody's");
            self.streams.evicted.remove(&slot);
        }
    }

    /// The host is through with what it runs of a slot.
    fn host_ends(&mut self, slot: usize, fault: Option<HostFault>) {
        let kernel = self.hosted.remove(&slot).expect("the host runs something of it");
        assert_eq!(self.come[&slot], (kernel, 0), "what is before it has run");
        self.come.insert(slot, (kernel + 1, 0));
        self.ran.push((slot, kernel));
        let begun = self.streams.now;
        self.streams.now = begun + Nanos(10);
        let ended = Ended { skipped: 0, fault, begun, ended: self.streams.now };
        assert_eq!(self.board.ended(slot, ended, self.streams.now), None);
    }

    fn is_clear(&self, slot: usize) -> bool {
        !self.streams.queued.values().flatten().any(|queued| queued.slot == slot)
    }

    fn queue(&mut self, stream: usize, queued: Queued) {
        self.streams.queued.entry(stream).or_default().push_back(queued);
    }

    fn queue_copies(&mut self, slot: usize, number: u32) {
        self.queue(slot, Queued { slot, blocks: None, more: 0, alone: false, number });
    }

    /// The next launch of a stream ends. If its blocks may not start `started` of them have begun before: the
    /// others, and all of that task behind them, do not.
    fn run(&mut self, stream: usize, started: u32) {
        let queued = self.streams.queued.get_mut(&stream).unwrap().pop_front().unwrap();
        let Queued { slot, blocks, more, alone, number } = queued;
        assert!(self.board.awaited().any(|awaited| awaited == (slot, number)));
        let begun = self.streams.now;
        self.streams.now = begun + Nanos(10);
        let count = blocks.map_or(1, |(_, _, count)| count);
        let skipped = self.streams.evicted.get_mut(&slot).map_or(0, |skips| {
            let skipped = if *skips { count } else { count - started.min(count) };
            *skips |= skipped > 0;
            skipped
        });
        let ended = Ended { skipped, fault: None, begun, ended: self.streams.now };
        let before = self.board.counters.completed;
        let whole = self.board.ended(slot, ended, self.streams.now);
        assert_eq!(whole, blocks.map(|(kernel, ..)| kernel).filter(|_| alone && skipped == 0));
        if let Some((kernel, from, count)) = blocks.filter(|_| skipped == 0) {
            assert_eq!(self.come[&slot], (kernel, from), "blocks run in order, each once");
            let all: u32 = self.steps[&slot][kernel..=kernel + more].iter().sum();
            let over = from + count == all;
            self.come.insert(slot, if over { (kernel + more + 1, 0) } else { (kernel, from + count) });
            self.ran.extend((kernel..=kernel + more).filter(|_| over).map(|kernel| (slot, kernel)));
        }
        if self.board.counters.completed > before {
            assert!(self.is_clear(slot), "nothing is queued of what is over");
            assert!(!self.hosted.contains_key(&slot), "nor run by the host");
        }
    }

    fn done(&mut self) -> Option<(u64, Outcome, TaskCounters)> {
        self.board.take_completion().map(|done| (done.token, done.outcome, done.counters))
    }
}

/// The launch of a whole kernel, without padding.
fn launched(slot: usize, kernel: usize, number: u32, first: bool) -> Action {
    Action::Launch { slot, kernel, from: 0, number, first, padding: None }
}

#[test]
fn a_task_is_queued_in_order_and_not_further_ahead_than_it_may() {
    let mut rig = Rig::new(Scheme::Reset);
    rig.submit(TaskKey::best_effort(0), &[3; 6], 7);
    rig.act();
    let queued = |rig: &Rig| {
        rig.streams.queued[&0].iter().map(|queued| queued.blocks.map(|blocks| blocks.0)).collect::<Vec<_>>()
    };
    assert_eq!(rig.log[0], launched(0, 0, 1, true));
    assert_eq!(rig.log[1], launched(0, 1, 2, false));
    assert_eq!(queued(&rig), [Some(0), Some(1), Some(2), Some(3)]);
    rig.run(0, 3);
    rig.act();
    assert_eq!(queued(&rig), [Some(1), Some(2), Some(3), Some(4)]);
    for _ in 0..5 {
        rig.run(0, 3);
        rig.act();
    }
    assert_eq!((queued(&rig), rig.done()), (vec![None], None));
    rig.run(0, 3);
    let (token, outcome, counters) = rig.done().expect("it ended");
    assert_eq!((token, outcome), (7, Outcome::Done));
    assert_eq!((counters.blocks_done, counters.blocks_rerun, counters.cu_time), (18, 0, Nanos(120)));
    assert!(!rig.board.is_busy());
}

#[test]
fn an_urgent_task_evicts_and_what_was_skipped_runs_again() {
    let mut rig = Rig::new(Scheme::Reset);
    rig.submit(TaskKey::best_effort(0), &[4; 3], 1);
    rig.act();
    rig.submit(real_time(0), &[2], 2);
    rig.log.clear();
    rig.act();
    let launch = launched(1, 0, 5, true);
    assert_eq!(rig.log, [Action::Evict(0), launch, Action::Finish { slot: 1, number: 6 }]);
    // One block of the first kernel had started, nothing behind it, not even the mark.
    rig.run(0, 1);
    for _ in 0..3 {
        rig.run(0, 0);
        rig.act();
    }
    assert_eq!(
        (rig.log.len(), rig.done().is_none()),
        (3, true),
        "it does not come back beside an urgent task"
    );
    rig.run(1, 2);
    rig.run(1, 2);
    assert_eq!(rig.done().map(|done| done.0), Some(2));
    rig.act();
    assert_eq!(rig.log[3], Action::Allow(0));
    assert_eq!(rig.log[4], launched(0, 0, 7, false));
    (0..4).for_each(|_| rig.run(0, 4));
    let (token, outcome, counters) = rig.done().expect("it ended");
    assert_eq!((token, outcome), (1, Outcome::Done));
    assert_eq!((counters.blocks_done, counters.blocks_rerun), (13, 1));
}

#[test]
fn a_launch_that_waits_long_keeps_the_place_of_its_report() {
    let mut rig = Rig::new(Scheme::Concurrent);
    rig.submit(TaskKey::best_effort(0), &[1], 1);
    rig.act();
    let place = |number: u32| number as usize % REPORTS;
    let kept: Vec<usize> = rig.streams.queued[&0].iter().map(|queued| place(queued.number)).collect();
    assert!(!kept.is_empty());
    rig.log.clear();
    for token in 0..REPORTS as u64 {
        rig.submit(real_time(0), &[1; 2], token);
        rig.act();
        while !rig.is_clear(1) {
            rig.run(1, 1);
            rig.act();
        }
        assert_eq!(rig.done().map(|done| done.0), Some(token));
    }
    let number = |action: &Action| match action {
        Action::Launch { number, .. } | Action::Finish { number, .. } => Some(place(*number)),
        _ => None,
    };
    let used: Vec<usize> = rig.log.iter().filter_map(number).collect();
    assert!(used.len() > 2 * REPORTS && used.iter().all(|place| !kept.contains(place)));
}

#[test]
fn what_is_cancelled_ends_when_nothing_of_it_is_queued() {
    let mut rig = Rig::new(Scheme::Reset);
    let waiting = rig.submit(TaskKey::best_effort(0), &[1; 2], 1);
    rig.board.cancel(waiting, Nanos::ZERO);
    assert_eq!(rig.done().map(|done| (done.0, done.1)), Some((1, Outcome::Cancelled)));
    let running = rig.submit(TaskKey::best_effort(1), &[1; 9], 2);
    rig.act();
    rig.board.cancel(running, Nanos::ZERO);
    rig.board.cancel(waiting, Nanos::ZERO);
    rig.act();
    assert_eq!((rig.log.last(), rig.board.has_completions()), (Some(&Action::Evict(0)), false));
    for left in (0..4).rev() {
        rig.run(0, 0);
        assert_eq!(rig.board.has_completions(), left == 0);
    }
    assert_eq!(rig.done().map(|done| done.1), Some(Outcome::Cancelled));
}

/// The mark may run before anyone sees that a kernel before it failed, and whoever cancels may come between.
#[test]
fn what_failed_is_not_done_though_its_mark_ran() {
    for cancels in [false, true] {
        let mut rig = Rig::new(Scheme::Reset);
        let task = rig.submit(TaskKey::best_effort(0), &[1], 1);
        rig.act();
        if cancels {
            rig.board.cancel(task, Nanos(1));
        }
        let ended = Ended { skipped: 0, fault: None, begun: Nanos(1), ended: Nanos(2) };
        let fault = HostFault::of_input("gather", "index 9");
        rig.board.ended(0, Ended { fault: Some(fault.clone()), ..ended.clone() }, Nanos(2));
        rig.board.ended(0, ended, Nanos(3));
        let meant = if cancels { Outcome::Cancelled } else { Outcome::Failed(fault) };
        assert_eq!(rig.done().map(|done| done.1), Some(meant));
    }
}

#[test]
fn schemes_say_who_queues() {
    let first = |scheme, keys: [TaskKey; 2]| -> Vec<usize> {
        let mut rig = Rig::new(scheme);
        for (token, &key) in keys.iter().enumerate() {
            rig.submit(key, &[1; 2], token as u64);
        }
        rig.act();
        let slot = |action: &Action| match action {
            Action::Launch { slot, .. } => Some(*slot),
            _ => None,
        };
        rig.log.iter().filter_map(slot).collect()
    };
    let mixed = [TaskKey::best_effort(0), real_time(1)];
    assert_eq!(first(Scheme::Reset, mixed), [1, 1]);
    assert_eq!(first(Scheme::Wait, mixed), [1, 1]);
    assert_eq!(first(Scheme::Sequential, mixed), [1, 1]);
    assert_eq!(first(Scheme::Concurrent, mixed), [1, 0, 1, 0]);
    assert_eq!(first(Scheme::Reset, [real_time(2), real_time(1)]), [1, 1]);
}

#[test]
fn a_board_takes_so_many_and_a_poisoned_one_none() {
    let mut rig = Rig::new(Scheme::Reset);
    for token in 0..SLOTS - SLOTS_REAL_TIME {
        rig.submit(TaskKey::best_effort(token as u64), &[1], token as u64);
    }
    assert_eq!(rig.board.refusal(TaskKey::best_effort(9)), Some(RejectReason::BoardFull));
    rig.act();
    rig.board.poison("why", Nanos::ZERO);
    assert_eq!(rig.board.refusal(real_time(0)), Some(RejectReason::Closed));
    rig.act();
    rig.board.abandon("why", Nanos::ZERO);
    let ended: Vec<_> = std::iter::from_fn(|| rig.done()).map(|done| done.1).collect();
    assert_eq!(ended, vec![Outcome::DeviceFault; SLOTS - SLOTS_REAL_TIME]);
}

#[test]
fn the_host_runs_a_step_when_all_before_it_is_told_of() {
    let mut rig = Rig::new(Scheme::Reset);
    rig.submit(TaskKey::best_effort(0), &[2, HOST, 3], 1);
    rig.act();
    assert_eq!(rig.log, [launched(0, 0, 1, true)]);
    rig.run(0, 2);
    rig.act();
    rig.run(0, 1);
    rig.act();
    let rest =
        [Action::Fetch { slot: 0, kernel: 1, number: 2, first: false }, Action::Run { slot: 0, kernel: 1 }];
    assert_eq!(rig.log[1..], rest);
    assert_eq!((rig.board.awaited().count(), rig.board.is_busy()), (0, true));
    rig.host_ends(0, None);
    rig.act();
    assert_eq!(rig.log.last(), Some(&Action::Store { slot: 0, kernel: 1, number: 4 }));
    (0..3).for_each(|_| {
        rig.run(0, 3);
        rig.act();
    });
    let (token, outcome, counters) = rig.done().expect("it ended");
    assert_eq!((token, outcome, counters.blocks_done), (1, Outcome::Done, 6));
    assert_eq!(rig.ran, [(0, 0), (0, 1), (0, 2)]);
    // The host's time is none of the device's units.
    assert_eq!(counters.cu_time, Nanos(40));
}

#[test]
fn what_the_host_runs_is_neither_evicted_nor_in_the_way() {
    let mut rig = Rig::new(Scheme::Reset);
    rig.submit(TaskKey::best_effort(0), &[HOST], 1);
    rig.act();
    assert_eq!(rig.log, [Action::Fetch { slot: 0, kernel: 0, number: 1, first: true }]);
    rig.submit(real_time(0), &[HOST, 5], 2);
    rig.submit(TaskKey::best_effort(1), &[4], 3);
    rig.act();
    // The copies that are queued go through.
    assert_eq!(rig.log[1..], [Action::Fetch { slot: 1, kernel: 0, number: 2, first: true }]);
    rig.run(0, 1);
    rig.run(1, 1);
    rig.act();
    // While the host runs the urgent one, the others go on.
    assert_eq!(rig.log[2], Action::Run { slot: 1, kernel: 0 });
    assert_eq!(rig.hosted.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(rig.streams.queued[&2].len(), 2);
    rig.host_ends(0, None);
    rig.host_ends(1, None);
    rig.log.clear();
    rig.act();
    // Then it has the device; the step of the less urgent one waits, and what that has queued goes.
    assert_eq!(rig.log, [Action::Evict(2), Action::Store { slot: 1, kernel: 0, number: 7 }]);
}

#[test]
fn under_sequential_the_host_holds_the_device() {
    let mut rig = Rig::new(Scheme::Sequential);
    rig.submit(TaskKey::best_effort(0), &[HOST], 1);
    rig.submit(TaskKey::best_effort(1), &[1], 2);
    rig.act();
    rig.run(0, 1);
    rig.act();
    assert_eq!((rig.hosted.len(), rig.log.len()), (1, 2));
    rig.host_ends(0, None);
    for _ in 0..2 {
        rig.act();
        rig.run(0, 1);
    }
    assert_eq!(rig.done().map(|done| done.0), Some(1));
    rig.act();
    assert_eq!(rig.streams.queued[&1].len(), 2);
}

#[test]
fn whatever_ends_a_task_waits_for_the_host() {
    let on_host = || {
        let mut rig = Rig::new(Scheme::Reset);
        let id = rig.submit(real_time(1), &[HOST, 1], 1);
        rig.act();
        rig.run(0, 1);
        rig.act();
        assert_eq!(rig.hosted.get(&0), Some(&0));
        (rig, id)
    };
    let ends_with = |mut rig: Rig, fault: Option<HostFault>, meant: Outcome| {
        rig.act();
        assert!(!rig.board.has_completions() && !rig.log.contains(&Action::Evict(0)));
        rig.host_ends(0, fault);
        rig.act();
        assert_eq!(rig.done().map(|done| done.1), Some(meant));
        assert!(!rig.board.is_busy());
    };
    let (mut rig, id) = on_host();
    rig.board.cancel(id, Nanos::ZERO);
    ends_with(rig, None, Outcome::Cancelled);
    let (mut rig, _) = on_host();
    rig.board.poison("why", Nanos::ZERO);
    ends_with(rig, None, Outcome::DeviceFault);
    let (mut rig, _) = on_host();
    rig.board.abandon("why", Nanos::ZERO);
    ends_with(rig, None, Outcome::DeviceFault);
    let fault = HostFault::of_kernel("k", "why");
    ends_with(on_host().0, Some(fault.clone()), Outcome::Failed(fault.clone()));
    // Cancelled first: that is how it ended.
    let (mut rig, id) = on_host();
    rig.board.cancel(id, Nanos::ZERO);
    ends_with(rig, Some(fault), Outcome::Cancelled);
    // Between the parts there is nothing to wait for.
    let (mut rig, id) = on_host();
    rig.host_ends(0, None);
    rig.board.cancel(id, Nanos::ZERO);
    assert_eq!(rig.done().map(|done| done.1), Some(Outcome::Cancelled));
}

#[test]
fn a_quiet_board_lets_the_host_end_its_step() {
    let mut rig = Rig::new(Scheme::Reset);
    rig.submit(TaskKey::best_effort(0), &[HOST], 1);
    rig.act();
    rig.board.paused = true;
    rig.run(0, 1);
    rig.act();
    // Its operands are fetched, and that is as far as it goes.
    assert_eq!((rig.hosted.len(), rig.board.is_busy()), (0, false));
    rig.board.paused = false;
    rig.act();
    rig.board.paused = true;
    assert!(rig.board.is_busy());
    rig.host_ends(0, None);
    rig.act();
    assert!(!rig.board.is_busy());
    rig.board.paused = false;
    (0..2).for_each(|_| {
        rig.act();
        rig.run(0, 1);
    });
    assert_eq!(rig.done().map(|done| done.1), Some(Outcome::Done));
}

/// Two multiprocessors with room for two blocks each: a kernel of five leaves three.
#[test]
fn what_an_urgent_kernel_leaves_is_padded_by_the_rules() {
    let padding = |scheme, urgent: Option<u64>, lesser: Option<u64>, begins: bool| {
        let mut rig = Rig::new(scheme);
        rig.submit_timed(TaskKey::best_effort(0), &[2, 7], 1, lesser);
        if begins {
            rig.act();
        }
        rig.submit_timed(real_time(0), &[5], 2, urgent);
        rig.act();
        while begins && rig.streams.queued.get(&0).is_some_and(|queued| !queued.is_empty()) {
            rig.run(0, 0);
        }
        rig.submit_timed(real_time(0), &[5], 3, urgent);
        rig.log.clear();
        rig.act();
        rig.log.iter().find_map(|action| match action {
            Action::Launch { padding, .. } => Some(*padding),
            _ => None,
        })
    };
    let pads = Pads { slot: 0, kernel: 0, from: 0, blocks: 2, number: 0 };
    let padded = |found: Option<Option<Pads>>| found.flatten().map(|found| Pads { number: 0, ..found });
    assert_eq!(padded(padding(Scheme::Reset, Some(10), Some(10), true)), Some(pads));
    // One that takes longer, one whose time nobody knows, one beside a kernel whose time nobody knows.
    assert_eq!(padding(Scheme::Reset, Some(10), Some(11), true), Some(None));
    assert_eq!(padding(Scheme::Reset, Some(10), None, true), Some(None));
    assert_eq!(padding(Scheme::Reset, None, Some(10), true), Some(None));
    // One whose inputs are not there.
    assert_eq!(padding(Scheme::Reset, Some(10), Some(10), false), Some(None));
    assert_eq!(padded(padding(Scheme::Concurrent, Some(10), Some(10), true)), None);
}

#[test]
fn copies_of_outputs_are_in_nobodys_way() {
    let mut rig = Rig::new(Scheme::Reset);
    rig.submit(TaskKey::best_effort(0), &[1], 1);
    rig.act();
    rig.run(0, 1);
    rig.submit(real_time(0), &[1], 2);
    rig.log.clear();
    rig.act();
    assert!(!rig.log.contains(&Action::Evict(0)), "{:?}", rig.log);
    rig.run(0, 1);
    assert_eq!(rig.done().map(|done| (done.0, done.1)), Some((1, Outcome::Done)));
}

#[test]
fn what_would_crowd_the_urgent_blocks_out_pads_nothing() {
    let pads = |own: u32, urgent: u32| {
        let mut rig = Rig::new(Scheme::Reset);
        rig.together = own;
        rig.submit_timed(TaskKey::best_effort(0), &[7], 1, Some(10));
        rig.act();
        rig.submit_timed(real_time(0), &[1], 2, Some(10));
        rig.act();
        (0..2).for_each(|_| rig.run(0, 0));
        rig.together = urgent;
        rig.submit_timed(real_time(0), &[1], 3, Some(10));
        rig.log.clear();
        rig.act();
        rig.log.iter().find_map(|action| match action {
            Action::Launch { padding: Some(pads), .. } => Some(pads.blocks),
            _ => None,
        })
    };
    assert_eq!((pads(2, 2), pads(3, 2), pads(2, 1)), (Some(3), Some(3), Some(1)));
    assert_eq!(pads(1, 2), None);
}

/// Blocks that share a tile find each other's parts only if they are of one launch.
#[test]
fn padding_does_not_part_blocks_that_share_a_tile() {
    let padded = |grain, blocks: u32| {
        let mut rig = Rig::new(Scheme::Reset);
        rig.grain = grain;
        rig.submit_timed(TaskKey::best_effort(0), &[blocks], 1, Some(10));
        rig.act();
        rig.submit_timed(real_time(1), &[4], 2, Some(10));
        rig.act();
        (0..2).for_each(|_| rig.run(0, 0));
        // It leaves three.
        rig.grain = 1;
        rig.submit_timed(real_time(1), &[1], 3, Some(10));
        rig.act();
        rig.log.iter().find_map(|action| match action {
            Action::Launch { padding: Some(pads), .. } => Some((pads.from, pads.blocks)),
            _ => None,
        })
    };
    assert_eq!(padded(1, 4), Some((0, 3)));
    assert_eq!(padded(2, 4), Some((0, 2)));
    assert_eq!(padded(3, 3), Some((0, 3)));
    assert_eq!(padded(4, 4), None);
}

#[test]
fn padding_follows_what_it_pads_and_ends_its_task() {
    let mut rig = Rig::new(Scheme::Reset);
    rig.submit_timed(TaskKey::best_effort(0), &[2, 4], 1, Some(10));
    rig.act();
    rig.submit_timed(real_time(1), &[1], 2, Some(10));
    rig.act();
    // Nothing of it ran; then it pads the next one, kernel after kernel, and has no more to pad with.
    (0..3).for_each(|_| rig.run(0, 0));
    rig.submit_timed(real_time(1), &[3, 2, 1, 1], 3, Some(10));
    rig.act();
    let padding = |action: &Action| match action {
        Action::Launch { slot: 2, padding, .. } => {
            Some(padding.map(|pads| (pads.kernel, pads.from, pads.blocks)))
        }
        _ => None,
    };
    let padded: Vec<_> = rig.log.iter().filter_map(padding).collect();
    assert_eq!(padded, [Some((0, 0, 1)), Some((0, 1, 1)), Some((1, 0, 3)), Some((1, 3, 1))]);
    // A more urgent one evicts both; what had ended of either stays so.
    rig.run(2, 4);
    rig.run(2, 4);
    rig.submit_timed(real_time(0), &[4], 4, None);
    rig.log.clear();
    rig.act();
    let evicted = [Action::Evict(0), Action::Evict(2)];
    assert!(evicted.iter().all(|evict| rig.log.contains(evict)), "{:?}", rig.log);
    while rig.streams.queued.values().any(|queued| !queued.is_empty()) {
        let streams = rig.streams.queued.iter().filter(|(_, queued)| !queued.is_empty());
        let streams: Vec<usize> = streams.map(|(&stream, _)| stream).collect();
        streams.into_iter().for_each(|stream| rig.run(stream, 0));
        rig.act();
    }
    let mut done: Vec<_> = std::iter::from_fn(|| rig.done()).map(|done| (done.0, done.1)).collect();
    done.sort_by_key(|done| done.0);
    assert_eq!(done, [1, 2, 3, 4].map(|token| (token, Outcome::Done)));
}

/// Blocks of each kernel of a random task.
const RANDOM: [u32; 5] = [3, HOST, 1, 5, HOST];

#[test]
fn whatever_comes_each_block_of_a_task_runs_whole_once_and_in_order() {
    let mut rng = Rng::new(3);
    let (mut padded, mut graphs) = (0, 0);
    for _ in 0..400 {
        let scheme =
            [Scheme::Reset, Scheme::Wait, Scheme::Concurrent, Scheme::Sequential][rng.below(4) as usize];
        let mut rig = Rig::new(scheme);
        rig.graphs = rng.below(2) == 0;
        let (mut sent, mut ended, mut ids) = (0, 0, Vec::new());
        while ended < 30 {
            let key = match rng.below(2) {
                0 => TaskKey::best_effort(sent).on(Share { owner: rng.below(3) as u16, weight: 1 }),
                _ => real_time(rng.below(3) as u8),
            };
            if sent < 30 && rng.below(3) == 0 && rig.board.refusal(key).is_none() {
                let wave = Some(rng.below(4)).filter(|&wave| wave > 0);
                ids.push(rig.submit_timed(key, &RANDOM, sent, wave));
                sent += 1;
            }
            if rng.below(12) == 0 && !ids.is_empty() {
                rig.board.cancel(ids[rng.below(ids.len() as u64) as usize], rig.streams.now);
            }
            if rng.below(20) == 0 {
                rig.board.scheme = [Scheme::Reset, Scheme::Concurrent, scheme][rng.below(3) as usize];
            }
            rig.act();
            let graph = |action: Action| matches!(action, Action::Graph { .. });
            graphs += rig.log.drain(..).filter(|&action| graph(action)).count();
            let hosted: Vec<usize> = rig.hosted.keys().copied().collect();
            if !hosted.is_empty() && rng.below(3) == 0 {
                rig.host_ends(hosted[rng.below(hosted.len() as u64) as usize], None);
            }
            let streams = rig.streams.queued.iter().filter(|(_, queued)| !queued.is_empty());
            let busy: Vec<usize> = streams.map(|(&stream, _)| stream).collect();
            if !busy.is_empty() {
                rig.run(busy[rng.below(busy.len() as u64) as usize], rng.below(4) as u32);
            }
            while let Some((_, outcome, counters)) = rig.done() {
                ended += 1;
                padded += counters.blocks_padding;
                if outcome == Outcome::Done {
                    assert_eq!(counters.blocks_done, 11 + counters.blocks_rerun);
                }
            }
        }
    }
    assert!(padded > 100 && graphs > 100, "{padded}, {graphs}");
}
