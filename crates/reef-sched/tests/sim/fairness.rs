//! How best-effort models share: a model of what each is owed, and ways to get more.

use std::collections::BTreeMap;

use proptest::prelude::*;
use reef_base::{Class, Nanos, Rng};
use reef_sched::{
    Account, Action, Cancelled, ModelId, ModelOptions, Request, RequestId, SchedOptions, Scheduler,
    TASK_CHARGE_MIN, Usage,
};

const MS: u64 = 1_000_000;

/// How a task ends on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Stopped,
    Failed,
}

/// Best-effort models under a scheduler whose board is worked off by hand.
struct Share {
    sched: Scheduler,
    models: Vec<ModelId>,
    board: Vec<(RequestId, usize)>,
    owner: BTreeMap<RequestId, usize>,
    /// What each was charged, by our own account.
    charged: Vec<u64>,
    starts: Vec<usize>,
    reject_next: bool,
    now: Nanos,
}

impl Share {
    fn new(slots: usize, weights: &[u32]) -> Share {
        let mut sched = Scheduler::new(SchedOptions { board_slots: slots + 1, best_effort_slots: slots });
        let options = |&weight: &u32| ModelOptions { weight, ..ModelOptions::default() };
        let models = weights.iter().map(|weight| sched.add_model(options(weight)).unwrap()).collect();
        let (charged, starts) = (vec![0; weights.len()], vec![0; weights.len()]);
        let (board, owner, now) = (Vec::new(), BTreeMap::new(), Nanos(1));
        Share { sched, models, board, owner, charged, starts, reject_next: false, now }
    }

    fn submit(&mut self, model: usize, class: Class) -> RequestId {
        let (deadline, queue_until, arrival) = (None, None, self.now);
        let request = Request {
            model: self.models[model],
            plan: 0,
            class,
            arrival,
            deadline,
            queue_until,
            joins: None,
        };
        let id = self.sched.submit(self.now, request).unwrap();
        self.owner.insert(id, model);
        id
    }

    fn queued(&self, model: usize) -> usize {
        self.sched.queued(self.models[model], Class::BestEffort)
    }

    /// Best-effort requests until `count` wait.
    fn fill(&mut self, model: usize, count: usize) {
        while self.queued(model) < count {
            self.submit(model, Class::BestEffort);
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.sched.next_action(self.now) {
            match action {
                Action::Start { request, .. } if std::mem::take(&mut self.reject_next) => {
                    self.sched.on_rejected(self.now, request);
                }
                Action::Start { request, .. } => {
                    let model = self.owner[&request];
                    self.starts[model] += 1;
                    self.board.push((request, model));
                }
                Action::CancelRunning { .. } => {}
                Action::Refuse { .. } => panic!("nothing is refused here"),
                Action::StartBatch { .. } | Action::Leave { .. } => unreachable!("no model batches here"),
            }
        }
    }

    /// Ends the task at a place of the board after it has used `used`; returns whose it was.
    fn end(&mut self, at: usize, used: u64, end: End) -> usize {
        let (id, model) = self.board.remove(at);
        if end == End::Stopped {
            assert_eq!(self.sched.cancel(id), Cancelled::Stopping);
        }
        let service = (end == End::Done).then_some(Nanos(used));
        let usage = Usage { cu_time: Nanos(used), service, stopped_after: None };
        assert!(self.sched.on_complete(self.now, id, usage).is_some());
        self.now += Nanos(1);
        self.charged[model] += used.max(TASK_CHARGE_MIN.0);
        model
    }

    /// Keeps all models backlogged for `rounds` tasks of the given lengths.
    fn saturate(&mut self, rounds: usize, lengths: &[u64]) {
        for _ in 0..rounds {
            (0..lengths.len()).for_each(|model| self.fill(model, 2));
            self.act();
            let model = self.board[0].1;
            self.end(0, lengths[model], End::Done);
        }
    }

    /// Ends whatever is left.
    fn finish(&mut self) {
        self.act();
        while !self.board.is_empty() {
            self.end(0, 1, End::Done);
            self.act();
        }
    }

    /// Starts of each model from here on while the given lengths are worked off.
    fn starts_of(&mut self, rounds: usize, lengths: &[u64]) -> Vec<usize> {
        let before = self.starts.clone();
        self.saturate(rounds, lengths);
        self.starts.iter().zip(before).map(|(now, before)| now - before).collect()
    }
}

#[test]
fn tasks_without_work_do_not_hold_the_board() {
    for slots in [1, 2] {
        let mut share = Share::new(slots, &[1, 1]);
        share.saturate(1010, &[0, MS]);
        assert!((9..=12).contains(&share.starts[1]), "{:?}", share.starts);
    }
}

#[test]
fn a_model_whose_tasks_all_fail_at_their_start_does_not_hold_the_board() {
    let mut share = Share::new(1, &[1, 1]);
    for _ in 0..1010 {
        (0..2).for_each(|model| share.fill(model, 2));
        share.act();
        match share.board[0].1 {
            0 => share.end(0, 0, End::Failed),
            _ => share.end(0, MS, End::Done),
        };
    }
    assert!((9..=12).contains(&share.starts[1]), "{:?}", share.starts);
}

/// What a model is charged in advance and gets back does not move the time at which others begin.
#[test]
fn large_tasks_started_and_cancelled_push_nobody_back() {
    let mut share = Share::new(2, &[1, 1]);
    // Model 0 is known for large tasks.
    share.fill(0, 3);
    share.act();
    share.end(0, 1000 * MS, End::Done);
    share.act();
    // All that waits or runs is cancelled at once, but for one small task.
    share.fill(0, 2);
    for _ in 0..2 {
        share.end(0, 0, End::Stopped);
        share.act();
    }
    let before = share.starts.clone();
    share.saturate(22, &[MS, MS]);
    assert!(share.starts[1] - before[1] >= 9, "{:?} then {:?}", before, share.starts);
}

/// What its stopped tasks used is what its next ones are charged in advance.
#[test]
fn a_model_whose_tasks_are_all_stopped_does_not_fill_the_board() {
    let mut share = Share::new(2, &[1, 1]);
    (0..2).for_each(|model| share.fill(model, 1));
    share.act();
    (0..2).for_each(|model| share.fill(model, 2));
    share.board.sort_by_key(|&(_, model)| model);
    share.end(1, 15 * MS, End::Done);
    share.end(0, 10 * MS, End::Stopped);
    share.act();
    assert_eq!(share.board.iter().map(|&(_, model)| model).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_task_that_the_device_gives_back_costs_its_model_nothing() {
    let run = |rejections: bool| {
        let mut share = Share::new(1, &[1, 1]);
        // Model 1 is owed something: it used less than model 0.
        share.fill(0, 1);
        share.act();
        share.fill(1, 1);
        share.end(0, 10 * MS, End::Done);
        share.fill(0, 1);
        for _ in 0..5 {
            share.reject_next = rejections;
            share.act();
            share.now += Nanos(MS);
        }
        share.act();
        (share.board[0].1, share.starts_of(30, &[MS, MS]))
    };
    assert_eq!(run(true), run(false));
    assert_eq!(run(true).0, 1);
}

#[test]
fn removal_and_return_pay_no_debts_but_idleness_does() {
    for idle in [false, true] {
        let mut share = Share::new(2, &[2, 2]);
        // Model 0 uses much while model 1 has work on the board.
        share.fill(0, 1);
        share.fill(1, 1);
        share.act();
        assert_eq!(share.end(0, 100 * MS, End::Done), 0);
        if idle {
            share.end(0, MS, End::Done);
        }
        let old = share.models[0];
        let account = share.sched.account(old);
        assert_eq!(share.sched.is_settled(&account), idle);
        assert!(share.sched.remove_model(old));
        // It comes back with another weight, so that it is owed in time, not in virtual time.
        let options = ModelOptions { weight: 4, ..ModelOptions::default() };
        share.models[0] = share.sched.add_model_again(options, account).unwrap();
        let starts = share.starts_of(60, &[MS, MS]);
        // 100 ms at weight 4 are 50 ms of weight 2; afterwards two starts for each one.
        let expected = if idle { 40 } else { 7 };
        assert!(starts[0].abs_diff(expected) <= 2, "{starts:?}");
    }
    assert!(Share::new(1, &[1]).sched.is_settled(&Account::default()));
}

#[test]
fn a_model_that_may_not_start_banks_nothing() {
    let mut share = Share::new(2, &[1, 1]);
    let options = ModelOptions { class: Class::real_time(0), in_flight_max: 1, ..ModelOptions::default() };
    let limited = share.sched.add_model(options).unwrap();
    share.models.push(limited);
    share.charged.push(0);
    share.starts.push(0);
    // Its best-effort requests wait for a real-time one of its own, which takes long.
    let urgent = share.submit(2, Class::real_time(0));
    share.act();
    share.fill(2, 1);
    share.board.clear();
    share.saturate(400, &[MS, MS]);
    let usage = Usage::default();
    assert!(share.sched.on_complete(share.now, urgent, usage).is_some());
    let starts = share.starts_of(60, &[MS, MS, MS]);
    assert!((19..=22).contains(&starts[2]), "{starts:?}");
}

#[test]
fn weights_of_any_size_are_kept() {
    let shares = |weights: &[u32], rounds| {
        let mut share = Share::new(1, weights);
        share.saturate(rounds, &vec![TASK_CHARGE_MIN.0; weights.len()]);
        share.starts
    };
    assert_eq!(shares(&[u32::MAX, u32::MAX], 1000), [500, 500]);
    assert_eq!(shares(&[1, 1], 1000), [500, 500]);
    assert_eq!(shares(&[u32::MAX / 2, u32::MAX], 900), [300, 600]);
    assert_eq!(shares(&[1, 1000], 2002), [2, 2000]);
    // The light one has its turn once, as who woke first, and then waits for 2^32 others.
    assert_eq!(shares(&[1, u32::MAX], 1000), [1, 999]);
    // None, which the engine refuses, counts as 1.
    assert_eq!(shares(&[0, 1], 1000), [500, 500]);
}

#[test]
fn no_use_is_too_large_for_the_books() {
    let mut share = Share::new(2, &[1, 1, u32::MAX]);
    for round in 0..1000 {
        (0..3).for_each(|model| share.fill(model, 2));
        share.act();
        let end = if round % 2 == 0 { End::Done } else { End::Failed };
        let (id, _) = share.board.remove(0);
        let service = (end == End::Done).then_some(Nanos::MAX);
        let usage = Usage { cu_time: Nanos::MAX, service, stopped_after: Some(Nanos::MAX) };
        assert!(share.sched.on_complete(share.now, id, usage).is_some());
    }
    share.finish();
    assert!(share.sched.is_idle());
}

/// Two models, and from when on both had something waiting.
struct Pair {
    lead_min: f64,
    lead_max: f64,
}

/// What two models were charged per weight must not drift apart while both have something waiting.
fn check_pairs(share: &Share, weights: &[u32], costs: &[u64], slots: usize, pairs: &mut [Option<Pair>]) {
    let per_weight = |model: usize, time: u64| time as f64 / f64::from(weights[model]);
    let count = weights.len();
    for (first, second) in (0..count).flat_map(|first| (0..first).map(move |second| (first, second))) {
        let pair = &mut pairs[first * count + second];
        if share.queued(first) == 0 || share.queued(second) == 0 {
            *pair = None;
            continue;
        }
        let lead = per_weight(first, share.charged[first]) - per_weight(second, share.charged[second]);
        let pair = pair.get_or_insert(Pair { lead_min: lead, lead_max: lead });
        pair.lead_min = pair.lead_min.min(lead);
        pair.lead_max = pair.lead_max.max(lead);
        let board = |model: usize| per_weight(model, slots as u64 * costs[model].max(TASK_CHARGE_MIN.0));
        let bound = 2.0 * (board(first) + board(second)) * 1.000_001;
        let drift = pair.lead_max - pair.lead_min;
        assert!(drift <= bound, "models {first} and {second} drift by {drift}, allowed {bound}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Models with tasks of random length and end that come and go, on a device that ends tasks in any order
    /// and sometimes takes none.
    #[test]
    fn backlogged_models_do_not_drift_apart(
        models in proptest::collection::vec((1u32..20, 1u64..50 * MS, 0u64..100), 2..5),
        slots in 1usize..4,
        seed in any::<u64>(),
    ) {
        let weights: Vec<u32> = models.iter().map(|model| model.0).collect();
        let costs: Vec<u64> = models.iter().map(|model| model.1).collect();
        let mut share = Share::new(slots, &weights);
        let mut rng = Rng::new(seed);
        let mut wants = vec![true; models.len()];
        let mut pairs: Vec<Option<Pair>> = (0..models.len() * models.len()).map(|_| None).collect();
        for _ in 0..1500 {
            if rng.below(40) == 0 {
                let model = rng.below(models.len() as u64) as usize;
                wants[model] ^= true;
            }
            (0..models.len()).filter(|&model| wants[model]).for_each(|model| share.fill(model, 2));
            share.reject_next = rng.below(20) == 0;
            share.act();
            check_pairs(&share, &weights, &costs, slots, &mut pairs);
            share.now += Nanos::from_micros(rng.below(300));
            if share.board.is_empty() {
                continue;
            }
            let at = rng.below(share.board.len() as u64) as usize;
            let (_, cost, badly) = models[share.board[at].1];
            let end = match rng.below(100) {
                chance if chance >= badly => End::Done,
                chance if chance % 2 == 0 => End::Failed,
                _ => End::Stopped,
            };
            // Mostly small ones, so that what is usual says little.
            let used = if rng.below(4) == 0 { cost } else { rng.below(1 + cost / 10) };
            share.end(at, used, end);
        }
    }
}
