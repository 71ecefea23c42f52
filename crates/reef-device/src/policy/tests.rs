//! Properties of the policy over random boards, against rules that are written down task by task.

use reef_base::{Level, Rng};

use super::*;

/// A random board.
struct Draw {
    tasks: Vec<Seen>,
    units: Vec<SeenUnit>,
    now: Nanos,
}

const NOW: u64 = 1_000_000;

impl Draw {
    fn new(rng: &mut Rng) -> Draw {
        let slots: Vec<usize> = (0..8).filter(|_| rng.below(2) == 0).collect();
        let passes = [(); 3].map(|()| rng.below(3).wrapping_sub(1));
        let tasks: Vec<Seen> = slots.iter().map(|&slot| task(rng, slot, &passes)).collect();
        let units = (0..1 + rng.below(4)).map(|_| unit(rng, &tasks)).collect();
        Draw { tasks, units, now: Nanos(NOW) }
    }

    fn board(&self) -> Snapshot<'_> {
        Snapshot { tasks: &self.tasks, units: &self.units, holder: None, now: self.now }
    }
}

fn task(rng: &mut Rng, slot: usize, passes: &[u64]) -> Seen {
    let arrival = Nanos(rng.below(50));
    let key = match rng.below(4) {
        level @ 0..2 => TaskKey::real_time(Level::new(level as u8).unwrap(), None, arrival),
        _ => TaskKey::best_effort(arrival.0),
    };
    let closed = rng.below(6) == 0;
    let calm = [0, 1, 3, Outlook::FOR_GOOD][rng.below(4) as usize];
    let stage = Stage {
        block: Nanos([0, 10, 100, 1000][rng.below(4) as usize]),
        killable: rng.below(3) != 0,
        outlook: Outlook { width: 1 + rng.below(4) as u32, calm },
    };
    let owner = rng.below(passes.len() as u64) as usize;
    let claimable = !closed && rng.below(2) == 0;
    Seen { slot, key: key.get(), claimable, closed, stage, owner, pass: passes[owner] }
}

fn unit(rng: &mut Rng, tasks: &[Seen]) -> SeenUnit {
    let index = rng.below(tasks.len() as u64 + 1) as usize;
    let running = tasks.get(index).map(|task| {
        let end = [0, NOW - 10, NOW + 50, NOW + 500][rng.below(4) as usize];
        Running { slot: task.slot, rank: TaskKey::from_bits(task.key).rank(), end: Nanos(end) }
    });
    let since = running.filter(|_| rng.below(2) == 0).map(|_| Nanos(NOW - 100 + rng.below(100)));
    SeenUnit { running, since, asleep: running.is_none() && rng.below(2) == 0 }
}

/// The real-time tasks that wait for their own blocks.
fn waiting(draw: &Draw) -> impl Iterator<Item = &Seen> {
    draw.tasks.iter().filter(|task| is_real_time(task.key) && !task.claimable && !task.closed)
}

/// What tasks are ordered by: real-time ones by key, then the others by what their owners have used.
fn place(task: &Seen) -> (u64, i64, u64) {
    if is_real_time(task.key) { (task.key, 0, 0) } else { (NO_LIMIT, task.pass as i64, task.key) }
}

/// Whether a block of `task` may run on unit `cu`, by itself: all that is more urgent lets it.
fn may_run(draw: &Draw, rules: Rules, cu: usize, task: &Seen) -> bool {
    let kills = rules.scheme != Scheme::Wait;
    if !task.claimable || rules.scheme == Scheme::RtOnly && !is_real_time(task.key) {
        return false;
    }
    // Only the most urgent stage that waits counts: who pads it pads those behind it.
    let Some(urgent) = waiting(draw).min_by_key(|urgent| urgent.key).filter(|urgent| urgent.key < task.key)
    else {
        return true;
    };
    let equal = urgent.key >> 60 == task.key >> 60;
    let preemptible = kills && rules.padding == Padding::Preemptible;
    let own: Vec<Running> =
        draw.units.iter().filter_map(|unit| unit.running).filter(|run| run.slot == urgent.slot).collect();
    let known = !own.is_empty() && own.iter().all(|run| run.end != Nanos::ZERO);
    let mut end = if known { own.iter().map(|run| run.end.0).max() } else { None };
    if preemptible {
        let at_hand = draw.units.iter().enumerate().filter(|&(other, unit)| {
            other != cu && unit.running.map_or(!unit.asleep, |run| run.slot == urgent.slot)
        });
        let Outlook { width, calm } = urgent.stage.outlook;
        if at_hand.count() >= width as usize {
            end = match calm {
                Outlook::FOR_GOOD => Some(u64::MAX),
                stages => end.map(|end| end + u64::from(stages) * urgent.stage.block.0),
            };
        }
    }
    let Some(end) = end else { return false };
    match task.stage.block.0 {
        0 => kills && task.stage.killable && !equal || preemptible && equal,
        block => draw.now.0 + block <= end,
    }
}

const BY_KEY: [Scheme; 3] = [Scheme::RtOnly, Scheme::Wait, Scheme::Reset];

fn each_draw(mut check: impl FnMut(&Draw, Rules, usize)) {
    let mut rng = Rng::new(11);
    for _ in 0..20_000 {
        let draw = Draw::new(&mut rng);
        let rules =
            Rules { scheme: BY_KEY[rng.below(3) as usize], padding: Padding::ALL[rng.below(2) as usize] };
        let cu = rng.below(draw.units.len() as u64) as usize;
        check(&draw, rules, cu);
    }
}

fn chosen(draw: &Draw, rules: Rules, cu: usize, limit: u64) -> Option<Choice<Seen>> {
    choose(&draw.board(), rules, Ask { cu: Some(cu), limit, turn: 0 })
}

#[test]
fn what_runs_is_the_most_urgent_of_all_that_may_and_nothing_idles_while_something_may() {
    let (mut padded, mut idled) = (0, 0);
    each_draw(|draw, rules, cu| {
        let mut may: Vec<_> =
            draw.tasks.iter().filter(|task| may_run(draw, rules, cu, task)).map(place).collect();
        may.sort_unstable();
        let choice = chosen(draw, rules, cu, NO_LIMIT);
        assert_eq!(choice.map(|choice| place(&choice.task)), may.first().copied(), "{:?}", draw.tasks);
        padded += u64::from(choice.is_some_and(|choice| choice.padding));
        idled += u64::from(choice.is_none() && draw.tasks.iter().any(|task| task.claimable));
    });
    assert!(padded > 500 && idled > 500, "{padded} {idled}: the draws say something");
}

#[test]
fn padding_is_what_runs_beside_a_more_urgent_stage_and_nothing_else() {
    each_draw(|draw, rules, cu| {
        let Some(Choice { task, padding }) = chosen(draw, rules, cu, NO_LIMIT) else { return };
        assert_eq!(padding, waiting(draw).any(|urgent| urgent.key < task.key));
        let before = draw.tasks.iter().filter(|other| other.claimable && place(other) < place(&task));
        assert!(padding || before.count() == 0, "a more urgent stage has blocks for this unit");
    });
}

#[test]
fn less_urgent_tasks_change_nothing_for_more_urgent_ones() {
    each_draw(|draw, rules, cu| {
        let Some(before) = chosen(draw, rules, cu, NO_LIMIT) else { return };
        let tasks = draw.tasks.iter().copied().filter(|task| place(task) <= place(&before.task)).collect();
        let fewer = Draw { tasks, units: draw.units.clone(), now: draw.now };
        assert_eq!(chosen(&fewer, rules, cu, NO_LIMIT), Some(before));
    });
}

#[test]
fn a_limit_hides_what_is_not_below_it() {
    each_draw(|draw, rules, cu| {
        let limit = limit_of(cu as u8);
        let tasks = draw.tasks.iter().copied().filter(|task| task.key < limit).collect();
        let fewer = Draw { tasks, units: draw.units.clone(), now: draw.now };
        assert_eq!(chosen(draw, rules, cu, limit), chosen(&fewer, rules, cu, NO_LIMIT));
        for scheme in [Scheme::Concurrent, Scheme::Sequential] {
            assert_eq!(chosen(draw, Rules { scheme, ..rules }, cu, limit), None);
        }
    });
}

#[test]
fn turns_go_round_and_a_holder_is_alone() {
    each_draw(|draw, rules, cu| {
        let slots: Vec<usize> =
            draw.tasks.iter().filter(|task| task.claimable).map(|task| task.slot).collect();
        let rules = Rules { scheme: Scheme::Concurrent, ..rules };
        let mut turn = cu;
        let mut seen: Vec<usize> = Vec::new();
        for _ in &slots {
            turn = choose(&draw.board(), rules, Ask { cu: None, limit: NO_LIMIT, turn }).unwrap().task.slot;
            seen.push(turn);
        }
        seen.sort_unstable();
        assert_eq!(seen, slots, "every task has its turn");
        let rules = Rules { scheme: Scheme::Sequential, ..rules };
        let ask = Ask { cu: Some(cu), limit: NO_LIMIT, turn };
        for task in &draw.tasks {
            let board = Snapshot { holder: Some(task.slot), ..draw.board() };
            let plain = Choice { task: *task, padding: false };
            assert_eq!(choose(&board, rules, ask), task.claimable.then_some(plain));
        }
        assert_eq!(choose(&draw.board(), rules, ask), None);
        assert_eq!(elect(&draw.board()).map(|task| task.key), draw.tasks.iter().map(|task| task.key).min());
    });
}

#[test]
fn units_that_are_free_or_began_later_lose_less() {
    each_draw(|draw, _, cu| {
        let (urgent, since) = (1, Nanos(NOW - 50));
        let better = draw.units.iter().enumerate().filter(|&(other, unit)| {
            let lesser = |run: Running| run.rank > urgent && unit.since.is_some_and(|began| began > since);
            other != cu && unit.running.map_or(!unit.asleep, lesser)
        });
        assert_eq!(better_placed(&draw.board(), cu, urgent, since), better.count());
    });
}

#[test]
fn owners_with_blocks_share_by_weight_without_a_device() {
    for weights in [[1, 1], [3, 1], [1, 100]] {
        let mut used = [0u64; 2];
        let mut passes = [0u64; 2];
        for round in 0..40_000 {
            let stage = Stage::default();
            let seen = |slot: usize| {
                let (key, pass) = (TaskKey::best_effort(slot as u64).get(), passes[slot]);
                Seen { slot, key, claimable: true, closed: false, stage, owner: slot, pass }
            };
            let tasks = [seen(0), seen(1)];
            let board =
                Snapshot { tasks: &tasks, units: &[SeenUnit::default()], holder: None, now: Nanos(NOW) };
            let rules = Rules { scheme: Scheme::Reset, padding: Padding::default() };
            let slot =
                choose(&board, rules, Ask { cu: Some(0), limit: NO_LIMIT, turn: 0 }).unwrap().task.slot;
            let time = 100 + 50 * (round % 3);
            used[slot] += time;
            passes[slot] += share::cost(Nanos(time), weights[slot]);
        }
        let ratio = used[0] as f64 / used[1] as f64 * f64::from(weights[1]) / f64::from(weights[0]);
        assert!((0.99..1.01).contains(&ratio), "{weights:?}: {ratio}");
    }
}
