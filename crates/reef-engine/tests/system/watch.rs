//! What must hold of who has a device when, seen from its events alone, whatever the policy inside.
//!
//! A task *wants* a unit while its open stage has blocks that no unit has taken, and *fills* the device while
//! all of them are taken and some still run. At every moment, with r the time that a reset takes:
//!
//! - with a scheme that kills, nothing less urgent by rank runs while a real-time task wants a unit, and with
//!   any that has priorities nothing is started that a more urgent task would have wanted the unit for;
//! - no unit is idle while a task wants one, but for r after a kill.
//!
//! All but for units that a more urgent task, which fills the device, will want for its next stage: the task
//! has none of those, and what ends before that stage does may have them.
//!
//! So whoever waits on the board waits for what goes before it, and for r: nobody else is in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use reef_base::{Nanos, TaskId, TaskKey};
use reef_device::{DeviceCounters, Event, EventKind, Scheme};
use reef_plan::Plan;

/// All that a device did.
pub struct History {
    pub cus: usize,
    pub reset_latency: Nanos,
    pub events: Vec<Event>,
    /// By their numbers.
    pub plans: Vec<Arc<Plan>>,
    /// Since when which scheme is in force.
    pub schemes: Vec<(Nanos, Scheme)>,
    /// From when to when nobody could do anything: the clock jumped.
    pub jumps: Vec<(Nanos, Nanos)>,
}

/// A task while it is on the board.
struct Life {
    key: TaskKey,
    since: Nanos,
    until: Nanos,
    runs: Vec<Run>,
}

/// A block on a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    start: Nanos,
    end: Nanos,
    block: u32,
    stage: u32,
    plan: usize,
    killed: bool,
}

/// Something that begins or ends at a moment.
#[derive(Clone, Copy, Debug)]
enum Change {
    Runs(TaskId, bool),
    Wants(TaskId, bool),
    Fills(TaskId, bool),
    Resets(bool),
    Jumps(bool),
    Scheme(Scheme),
}

impl History {
    /// What did not hold.
    pub fn complaints(&self, counters: DeviceCounters) -> Vec<String> {
        let mut complaints: Vec<String> = self.counted_wrong(counters).into_iter().collect();
        let lives = self.lives();
        let mut changes = self.changes(&lives);
        changes.sort_by_key(|(at, _)| *at);
        let mut sweep = Sweep::new(self, &lives);
        for same in changes.chunk_by(|(at, _), (next, _)| at == next) {
            complaints.extend(sweep.step(same[0].0, same));
        }
        complaints
    }

    /// The device's own counts are the sums of what it did.
    fn counted_wrong(&self, counters: DeviceCounters) -> Option<String> {
        let count = |is: fn(&EventKind) -> bool| self.events.iter().filter(move |event| is(&event.kind));
        let done = |kind: &EventKind| matches!(kind, EventKind::Block { .. });
        let killed = |kind: &EventKind| matches!(kind, EventKind::Killed { .. });
        let time = |is: fn(&EventKind) -> bool| Nanos(count(is).map(|event| event.span.0).sum());
        let own = (
            count(|kind| *kind == EventKind::Submitted).count() as u64,
            count(|kind| *kind == EventKind::Completed).count() as u64,
            count(done).count() as u64,
            count(killed).count() as u64,
            (time(done), time(killed)),
        );
        let DeviceCounters { submitted, completed, blocks_done, blocks_killed, busy, wasted, .. } = counters;
        let said = (submitted, completed, blocks_done, blocks_killed, (busy, wasted));
        (own != said).then(|| format!("the device counts {said:?}, and did {own:?}"))
    }

    fn lives(&self) -> BTreeMap<TaskId, Life> {
        let mut lives: BTreeMap<TaskId, Life> = BTreeMap::new();
        for event in &self.events {
            let Event { at, key, task, .. } = *event;
            let life = || Life { key, since: at, until: at, runs: Vec::new() };
            let life = lives.entry(task).or_insert_with(life);
            let (stage, block, killed) = match event.kind {
                EventKind::Block { stage, block, .. } => (stage, block, false),
                EventKind::Killed { stage, block } => (stage, block, true),
                EventKind::Completed => {
                    life.until = at;
                    continue;
                }
                EventKind::Submitted | EventKind::Part { .. } => continue,
            };
            let (end, plan) = (at + event.span, event.plan.index());
            life.runs.push(Run { start: at, end, block, stage, plan, killed });
        }
        lives.values_mut().for_each(|life| life.runs.sort());
        lives
    }

    fn changes(&self, lives: &BTreeMap<TaskId, Life>) -> Vec<(Nanos, Change)> {
        let mut changes = Vec::new();
        let mut between = |from: Nanos, to: Nanos, change: &dyn Fn(bool) -> Change| {
            if from < to {
                changes.extend([(from, change(true)), (to, change(false))]);
            }
        };
        for (&task, life) in lives {
            for run in &life.runs {
                between(run.start, run.end, &|on| Change::Runs(task, on));
                if run.killed {
                    between(run.end, run.end + self.reset_latency, &Change::Resets);
                }
            }
            let mut from = life.since;
            for (taken, until) in self.filled(life) {
                between(from, taken, &|on| Change::Wants(task, on));
                between(taken, until, &|on| Change::Fills(task, on));
                from = until;
            }
            between(from, life.until, &|on| Change::Wants(task, on));
        }
        self.jumps.iter().for_each(|&(from, to)| between(from, to, &Change::Jumps));
        changes.extend(self.schemes.iter().map(|&(at, scheme)| (at, Change::Scheme(scheme))));
        changes
    }

    /// From when to when all blocks of the task's open stage are taken. A stage, or the same stage again,
    /// begins with its first block.
    fn filled(&self, life: &Life) -> Vec<(Nanos, Nanos)> {
        let stages = life.runs.chunk_by(|_, next| next.block > 0);
        let filled = stages.filter_map(|runs| {
            let (first, last) = (runs[0], runs[runs.len() - 1]);
            let all = self.plans[first.plan].stages()[first.stage as usize].blocks() as usize;
            let killed = runs.iter().filter(|run| run.killed).map(|run| run.end).min();
            let end = runs.iter().map(|run| run.end).max().expect("it has a run");
            (runs.len() == all).then_some((last.start, killed.unwrap_or(end)))
        });
        filled.collect()
    }
}

/// How things stand at a moment.
struct Sweep<'a> {
    history: &'a History,
    lives: &'a BTreeMap<TaskId, Life>,
    at: Nanos,
    scheme: Scheme,
    scheme_since: Nanos,
    running: Vec<TaskId>,
    wants: BTreeSet<TaskId>,
    fills: BTreeSet<TaskId>,
    resets: usize,
    jumps: usize,
}

impl<'a> Sweep<'a> {
    fn new(history: &'a History, lives: &'a BTreeMap<TaskId, Life>) -> Sweep<'a> {
        let (scheme, at) = (Scheme::Reset, Nanos::ZERO);
        let (running, wants, fills) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let (scheme_since, resets, jumps) = (at, 0, 0);
        Sweep { history, lives, at, scheme, scheme_since, running, wants, fills, resets, jumps }
    }

    /// Time passes up to `at`, when these changes happen.
    fn step(&mut self, at: Nanos, changes: &[(Nanos, Change)]) -> Vec<String> {
        let mut complaints: Vec<String> = [self.inversion(), self.idleness()].into_iter().flatten().collect();
        let before = self.wants.clone();
        self.at = at;
        for (_, change) in changes {
            self.apply(*change);
        }
        let started = changes.iter().filter_map(|(_, change)| match change {
            Change::Runs(task, true) => Some(*task),
            _ => None,
        });
        let passed_over = |task: TaskId| {
            let waited = before.intersection(&self.wants).map(|other| (*other, self.key(*other)));
            let key = self.key(task);
            let comes_first =
                |other: TaskKey| other.class().is_real_time() && other < key && self.is_next(other);
            let first = waited.into_iter().find(|(_, other)| comes_first(*other));
            first.map(|(other, _)| format!("{}: a block of {task} starts, and {other} waits", at.0))
        };
        if self.scheme.is_prioritised() && self.scheme_since < at {
            complaints.extend(started.filter_map(passed_over));
        }
        complaints
    }

    fn apply(&mut self, change: Change) {
        fn set(tasks: &mut BTreeSet<TaskId>, task: TaskId, on: bool) {
            if on {
                tasks.insert(task)
            } else {
                tasks.remove(&task)
            };
        }
        let count = |of: &mut usize, on: bool| *of = if on { *of + 1 } else { *of - 1 };
        match change {
            Change::Runs(task, true) => self.running.push(task),
            Change::Runs(task, false) => {
                let place = self.running.iter().position(|&other| other == task);
                self.running.swap_remove(place.expect("what ends has begun"));
            }
            Change::Wants(task, on) => set(&mut self.wants, task, on),
            Change::Fills(task, on) => set(&mut self.fills, task, on),
            Change::Resets(on) => count(&mut self.resets, on),
            Change::Jumps(on) => count(&mut self.jumps, on),
            Change::Scheme(scheme) => (self.scheme, self.scheme_since) = (scheme, self.at),
        }
    }

    fn key(&self, task: TaskId) -> TaskKey {
        self.lives[&task].key
    }

    /// Something runs that a real-time task would have had killed.
    fn inversion(&self) -> Option<String> {
        if !self.scheme.kills() || self.jumps > 0 {
            return None;
        }
        // One that came with another scheme has killed nothing when it came.
        let came_since = |task: &&TaskId| self.lives[*task].since > self.scheme_since;
        let urgent = self.wants.iter().filter(came_since).min_by_key(|task| self.key(**task))?;
        if !self.is_next(self.key(*urgent)) {
            return None;
        }
        let lesser = self.running.iter().find(|other| self.key(*urgent).preempts(self.key(**other)))?;
        Some(format!("{}: {lesser} runs, and {urgent}, which is more urgent, wants its unit", self.at.0))
    }

    /// A unit is idle that somebody wants.
    fn idleness(&self) -> Option<String> {
        let idle = self.running.len() < self.history.cus;
        if !idle || self.resets > 0 || self.jumps > 0 || self.scheme == Scheme::Sequential {
            return None;
        }
        let serves =
            |task: &&TaskId| self.scheme != Scheme::RtOnly || self.key(**task).class().is_real_time();
        let first = self.wants.iter().filter(serves).min_by_key(|task| self.key(**task))?;
        let is_next = !self.scheme.is_prioritised() || self.is_next(self.key(*first));
        is_next.then(|| format!("{}: a unit is idle, and {first} wants one", self.at.0))
    }

    /// Whether no more urgent task fills the device, whose next stage comes before what has this key.
    fn is_next(&self, key: TaskKey) -> bool {
        let mut others = self.fills.iter().map(|other| self.key(*other));
        !others.any(|other| other.class().is_real_time() && other < key)
    }
}
