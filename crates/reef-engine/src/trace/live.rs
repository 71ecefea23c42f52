//! What each compute unit ran of late, for who looks at it now: blocks of one model that follow each other
//! are one stretch. Bounded in time and in number; the newest stay.

use std::collections::VecDeque;
use std::sync::Arc;

use reef_base::{Class, ModelKey, Nanos};
use reef_device::{Event, EventKind};

/// The longest time that can be looked back.
pub const WINDOW_MAX: Nanos = Nanos::from_millis(2_000);

/// Blocks of one model with less between them are one stretch.
const GAP: Nanos = Nanos::from_micros(20);

/// Stretches that are kept per compute unit.
const KEPT_MAX: usize = 1 << 13;

/// Stretches of one device in an answer. Where there are more, longer gaps are passed over.
const TOLD_MAX: usize = 6_000;

/// Newest stretches of a compute unit that a block may go on with: those of as many models, by turns.
const OPEN: usize = 4;

/// What a compute unit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Blocks that ran to their end, or a part of one that was stopped and goes on.
    Block,
    /// Blocks beside more urgent stages that did not need the unit.
    Padding,
    /// Blocks that were killed.
    Killed,
}

/// A time for which a compute unit worked for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The compute unit, counted from 0.
    pub cu: u16,
    /// From when, on the engine's clock.
    pub from: Nanos,
    /// Until when.
    pub until: Nanos,
    /// The model; `None` if its task began before the recording.
    pub model: Option<Arc<ModelKey>>,
    /// The class of the task.
    pub class: Class,
    /// What it did.
    pub work: Work,
}

impl Stretch {
    fn of(event: &Event, model: Option<&Arc<ModelKey>>) -> Option<Stretch> {
        let work = match event.kind {
            EventKind::Block { padding: false, .. } | EventKind::Part { .. } => Work::Block,
            EventKind::Block { padding: true, .. } => Work::Padding,
            EventKind::Killed { .. } => Work::Killed,
            EventKind::Submitted | EventKind::Completed => return None,
        };
        let (from, until, model) = (event.at, event.at + event.span, model.cloned());
        Some(Stretch { cu: event.cu?.0, from, until, model, class: event.key.class(), work })
    }

    fn is_same_work(&self, other: &Stretch) -> bool {
        self.work == other.work && self.class == other.class && self.model == other.model
    }

    /// Takes in what follows, if no more than `gap` lies between.
    fn absorb(&mut self, next: &Stretch, gap: Nanos) -> bool {
        let follows = self.is_same_work(next) && next.from.since(self.until) <= gap;
        if follows {
            self.from = self.from.min(next.from);
            self.until = self.until.max(next.until);
        }
        follows
    }
}

/// The newest stretches of one device.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// By compute unit, in the order in which they began.
    units: Vec<VecDeque<Stretch>>,
    /// What was lost began before this.
    lost_before: Nanos,
}

impl Live {
    pub(super) fn add(&mut self, event: &Event, model: Option<&Arc<ModelKey>>) {
        let Some(stretch) = Stretch::of(event, model) else { return };
        let unit = usize::from(stretch.cu);
        if self.units.len() <= unit {
            self.units.resize_with(unit + 1, VecDeque::new);
        }
        let kept = &mut self.units[unit];
        if kept.iter_mut().rev().take(OPEN).any(|open| open.absorb(&stretch, GAP)) {
            return;
        }
        if kept.len() >= KEPT_MAX
            && let Some(oldest) = kept.pop_front()
        {
            self.lost_before = self.lost_before.max(oldest.until);
        }
        kept.push_back(stretch);
    }

    /// Events up to `now` were lost before they came here.
    pub(super) fn lost(&mut self, now: Nanos) {
        self.lost_before = now;
    }

    /// Forgets what nobody can ask for at `now` any more.
    pub(super) fn forget(&mut self, now: Nanos) {
        let past = |stretch: &Stretch| now.since(stretch.until) > WINDOW_MAX;
        for kept in &mut self.units {
            while kept.front().is_some_and(past) {
                kept.pop_front();
            }
        }
    }

    /// From when on nothing is missing.
    pub(super) fn complete_from(&self) -> Nanos {
        self.lost_before
    }

    /// What ended after `from`, by compute unit and time, and the longest gap that was passed over in it.
    pub(super) fn since(&self, from: Nanos) -> (Vec<Stretch>, Nanos) {
        let units = self.units.iter().map(|kept| kept.iter().filter(|stretch| stretch.until > from));
        let mut gap = GAP;
        let mut told = coalesce(units.clone().flatten(), gap);
        while told.len() > TOLD_MAX && gap < WINDOW_MAX {
            gap = Nanos(gap.0 * 4);
            told = coalesce(units.clone().flatten(), gap);
        }
        // So many models that each has a stretch of its own: the newest.
        if told.len() > TOLD_MAX {
            told.sort_by_key(|stretch| std::cmp::Reverse(stretch.until));
            told.truncate(TOLD_MAX);
            told.sort_by_key(|stretch| (stretch.cu, stretch.from));
        }
        (told, gap)
    }
}

/// The same with gaps of up to `gap` closed, whatever else ran in them.
fn coalesce<'a>(stretches: impl Iterator<Item = &'a Stretch>, gap: Nanos) -> Vec<Stretch> {
    let mut told: Vec<Stretch> = Vec::new();
    // Of the compute unit at hand: the newest of each kind of work.
    let mut newest: Vec<usize> = Vec::new();
    for stretch in stretches {
        if told.last().is_some_and(|last| last.cu != stretch.cu) {
            newest.clear();
        }
        let same = newest.iter_mut().find(|index| told[**index].is_same_work(stretch));
        match same {
            Some(index) if told[*index].absorb(stretch, gap) => {}
            same => {
                let index = told.len();
                match same {
                    Some(newest) => *newest = index,
                    None => newest.push(index),
                }
                told.push(stretch.clone());
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use reef_base::{CuId, TaskId, TaskKey};
    use reef_device::LoadedPlan;

    use super::*;

    fn model(name: &str) -> Arc<ModelKey> {
        Arc::new(ModelKey { name: name.into(), version: "1".into() })
    }

    fn block(cu: u16, at: u64, span: u64) -> Event {
        let kind = EventKind::Block { stage: 0, block: 0, padding: false };
        let (at, span, cu) = (Nanos::from_micros(at), Nanos::from_micros(span), Some(CuId(cu)));
        let (task, key, plan) = (TaskId(0), TaskKey::best_effort(0), LoadedPlan(0));
        Event { at, span, cu, task, key, token: 0, plan, kind }
    }

    fn micros(stretch: &Stretch) -> (u16, u64, u64) {
        (stretch.cu, stretch.from.0 / 1_000, stretch.until.0 / 1_000)
    }

    #[test]
    fn blocks_that_follow_each_other_are_one_stretch() {
        let (a, b) = (model("a"), model("b"));
        let mut live = Live::default();
        for (cu, at, model) in [(0, 0, &a), (1, 0, &a), (0, 110, &a), (0, 215, &b), (0, 330, &a)] {
            live.add(&block(cu, at, 100), Some(model));
        }
        let (told, gap) = live.since(Nanos::ZERO);
        let told: Vec<_> = told.iter().map(micros).collect();
        assert_eq!(told, [(0, 0, 210), (0, 215, 315), (0, 330, 430), (1, 0, 100)]);
        assert_eq!(gap, GAP);
        assert_eq!(live.since(Nanos::from_micros(320)).0.len(), 1, "what ended before is left out");
    }

    #[test]
    fn what_was_killed_or_has_no_name_stands_apart() {
        let (mut live, a) = (Live::default(), model("a"));
        live.add(&block(0, 0, 10), Some(&a));
        live.add(&block(0, 10, 10), None);
        live.add(&Event { kind: EventKind::Killed { stage: 0, block: 0 }, ..block(0, 20, 10) }, Some(&a));
        live.add(&Event { cu: None, kind: EventKind::Completed, ..block(0, 30, 0) }, Some(&a));
        let works: Vec<_> = live.since(Nanos::ZERO).0.iter().map(|s| (s.model.is_some(), s.work)).collect();
        assert_eq!(works, [(true, Work::Block), (false, Work::Block), (true, Work::Killed)]);
    }

    #[test]
    fn many_short_stretches_are_bounded_and_say_how_coarse_they_are() {
        let (mut live, a) = (Live::default(), model("a"));
        for index in 0..KEPT_MAX as u64 + 10 {
            live.add(&block(0, index * 100, 10), Some(&a));
        }
        assert_eq!(live.units[0].len(), KEPT_MAX);
        assert_eq!(live.complete_from(), Nanos::from_micros(9 * 100 + 10));
        let (told, gap) = live.since(Nanos::ZERO);
        assert!(told.len() <= TOLD_MAX && gap > GAP, "{} at {gap:?}", told.len());
        live.forget(Nanos::from_millis(1_000_000));
        assert!(live.units[0].is_empty());
    }

    #[test]
    fn as_many_models_as_there_may_be_are_bounded_too() {
        let mut live = Live::default();
        for index in 0..TOLD_MAX as u64 + 500 {
            live.add(&block(0, index * 100, 10), Some(&model(&index.to_string())));
        }
        let (told, _) = live.since(Nanos::ZERO);
        assert_eq!(told.len(), TOLD_MAX);
        assert_eq!(told.last().unwrap().from, Nanos::from_micros((TOLD_MAX as u64 + 499) * 100));
    }
}
