//! The board against a device that does what it is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use reef_base::{Class, Level, Rng};

use super::*;

const PLAN: LoadedPlan = LoadedPlan(0);

fn real_time(level: u8) -> TaskKey {
    match Class::real_time(level) {
        Class::RealTime(level) => TaskKey::real_time(level, None, Nanos::ZERO),
        Class::BestEffort => TaskKey::real_time(Level::TOP, None, Nanos::ZERO),
    }
}

/// A device of streams: launches run in order, and blocks of what is evicted do not start.
#[derive(Default)]
struct Streams {
    queued: BTreeMap<usize, VecDeque<(Option<usize>, u32)>>,
    /// Whose blocks may not start, and whether one of them did not.
    evicted: BTreeMap<usize, bool>,
    now: Nanos,
}

struct Rig {
    board: Board<()>,
    streams: Streams,
    /// What was done.
    log: Vec<Action>,
    /// Kernels that ran whole, by slot.
    ran: Vec<(usize, usize)>,
}

impl Rig {
    fn new(scheme: Scheme) -> Rig {
        let board = Board::new(scheme, Padding::default(), 2);
        Rig { board, streams: Streams::default(), log: Vec::new(), ran: Vec::new() }
    }

    fn submit(&mut self, key: TaskKey, blocks: &[u32], token: u64) -> TaskId {
        assert_eq!(self.board.refusal(key), None);
        let (io, blocks) = (Io::default(), Arc::from(blocks));
        self.board.submit(Submission { plan: PLAN, payload: (), blocks, key, io, token }, self.streams.now)
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
                Action::Launch { slot, kernel, number, first } => {
                    if first {
                        assert!(self.is_clear(slot), "its memory is nobody's");
                        self.streams.evicted.remove(&slot);
                    }
                    self.queue(slot, Some(kernel), number);
                }
                Action::Finish { slot, number } => self.queue(slot, None, number),
            }
        }
    }

    fn is_clear(&self, slot: usize) -> bool {
        self.streams.queued.get(&slot).is_none_or(VecDeque::is_empty)
    }

    fn queue(&mut self, slot: usize, kernel: Option<usize>, number: u32) {
        self.streams.queued.entry(slot).or_default().push_back((kernel, number));
    }

    /// The next launch of a slot ends. Of a kernel of `blocks` blocks `started` begin, if they may not: the
    /// others, and all behind them, do not.
    fn run(&mut self, slot: usize, blocks: u32, started: u32) {
        let (kernel, number) = self.streams.queued.get_mut(&slot).unwrap().pop_front().unwrap();
        assert!(self.board.awaited().any(|awaited| awaited == (slot, number)));
        let begun = self.streams.now;
        self.streams.now = begun + Nanos(10);
        let blocks = if kernel.is_some() { blocks } else { 1 };
        let skipped = self.streams.evicted.get_mut(&slot).map_or(0, |skips| {
            let skipped = if *skips { blocks } else { blocks - started.min(blocks) };
            *skips |= skipped > 0;
            skipped
        });
        let ended = Ended { skipped, fault: None, begun, ended: self.streams.now };
        let before = self.board.counters.completed;
        let whole = self.board.ended(slot, ended, self.streams.now);
        assert_eq!(whole.is_some(), kernel.is_some() && skipped == 0);
        self.ran.extend(whole.map(|kernel| (slot, kernel)));
        if self.board.counters.completed > before {
            assert!(self.is_clear(slot), "nothing is queued of what is over");
        }
    }

    fn done(&mut self) -> Option<(u64, Outcome, TaskCounters)> {
        self.board.take_completion().map(|done| (done.token, done.outcome, done.counters))
    }
}

#[test]
fn a_task_is_queued_in_order_and_not_further_ahead_than_it_may() {
    let mut rig = Rig::new(Scheme::Reset);
    rig.submit(TaskKey::best_effort(0), &[3; 6], 7);
    rig.act();
    let queued = |rig: &Rig| rig.streams.queued[&0].iter().map(|launch| launch.0).collect::<Vec<_>>();
    assert_eq!(rig.log[0], Action::Launch { slot: 0, kernel: 0, number: 1, first: true });
    assert_eq!(rig.log[1], Action::Launch { slot: 0, kernel: 1, number: 2, first: false });
    assert_eq!(queued(&rig), [Some(0), Some(1), Some(2), Some(3)]);
    rig.run(0, 3, 3);
    rig.act();
    assert_eq!(queued(&rig), [Some(1), Some(2), Some(3), Some(4)]);
    for _ in 0..5 {
        rig.run(0, 3, 3);
        rig.act();
    }
    assert_eq!((queued(&rig), rig.done()), (vec![None], None));
    rig.run(0, 3, 3);
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
    let launch = Action::Launch { slot: 1, kernel: 0, number: 5, first: true };
    assert_eq!(rig.log, [Action::Evict(0), launch, Action::Finish { slot: 1, number: 6 }]);
    // One block of the first kernel had started, nothing behind it, not even the mark.
    rig.run(0, 4, 1);
    for _ in 0..3 {
        rig.run(0, 4, 0);
        rig.act();
    }
    assert_eq!(
        (rig.log.len(), rig.done().is_none()),
        (3, true),
        "it does not come back beside an urgent task"
    );
    rig.run(1, 2, 2);
    rig.run(1, 2, 2);
    assert_eq!(rig.done().map(|done| done.0), Some(2));
    rig.act();
    assert_eq!(rig.log[3], Action::Allow(0));
    assert_eq!(rig.log[4], Action::Launch { slot: 0, kernel: 0, number: 7, first: false });
    (0..4).for_each(|_| rig.run(0, 4, 4));
    let (token, outcome, counters) = rig.done().expect("it ended");
    assert_eq!((token, outcome), (1, Outcome::Done));
    assert_eq!((counters.blocks_done, counters.blocks_rerun), (13, 1));
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
        rig.run(0, 1, 0);
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
        assert_eq!(rig.done().map(|done| done.1), Some(Outcome::Failed(fault)));
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
fn whatever_comes_each_kernel_of_a_task_runs_whole_once_and_in_order() {
    let mut rng = Rng::new(3);
    for _ in 0..300 {
        let scheme =
            [Scheme::Reset, Scheme::Wait, Scheme::Concurrent, Scheme::Sequential][rng.below(4) as usize];
        let mut rig = Rig::new(scheme);
        let (mut sent, mut ended, mut ids) = (0, 0, Vec::new());
        while ended < 30 {
            let key = match rng.below(2) {
                0 => TaskKey::best_effort(sent).on(Share { owner: rng.below(3) as u16, weight: 1 }),
                _ => real_time(rng.below(3) as u8),
            };
            if sent < 30 && rng.below(3) == 0 && rig.board.refusal(key).is_none() {
                ids.push(rig.submit(key, &[3, 1, 2], sent));
                sent += 1;
            }
            if rng.below(12) == 0 && !ids.is_empty() {
                rig.board.cancel(ids[rng.below(ids.len() as u64) as usize], rig.streams.now);
            }
            rig.act();
            let busy: Vec<usize> = rig.board.awaited().map(|awaited| awaited.0).collect();
            if !busy.is_empty() {
                let slot = busy[rng.below(busy.len() as u64) as usize];
                let kernel = rig.streams.queued[&slot].front().unwrap().0;
                let blocks = kernel.map_or(0, |kernel| [3, 1, 2][kernel]);
                rig.run(slot, blocks, rng.below(4) as u32);
            }
            while let Some((_, outcome, counters)) = rig.done() {
                ended += 1;
                if outcome == Outcome::Done {
                    assert_eq!(counters.blocks_done, 6 + counters.blocks_rerun);
                }
            }
            // A slot's kernels come in order, from the first one again for the next task.
            for slot in 0..SLOTS {
                let order: Vec<usize> = rig.ran.iter().filter(|ran| ran.0 == slot).map(|ran| ran.1).collect();
                assert!(order.windows(2).all(|pair| pair[1] == pair[0] + 1 || pair[1] == 0), "{order:?}");
            }
        }
    }
}
