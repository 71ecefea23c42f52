//! The newest events and spans of a trace, with what is needed to name them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use reef_base::{ModelKey, Nanos};
use reef_device::{Device, Event, EventKind, LoadedPlan};
use reef_plan::{Plan, Stage};

use super::live::Live;
use super::notes::{Notes, Ring, Span, push_bounded};
use crate::fault::Foreign;

/// Tasks whose plan is known; far more than can be live. Bounds what a lost event would leave behind.
const TASKS_MAX: usize = 1 << 16;

/// Plans whose kernels have names, if no file keeps events that want them.
const NAMES_MAX: usize = 1 << 10;

/// A model and the names of the kernels of a plan of it that ran. The plan with its weights is let go.
pub(super) struct Named {
    pub(super) model: Arc<ModelKey>,
    /// Tells the plan from others; keeps none of what it holds.
    plan: Weak<Plan>,
    stages: Vec<Stage>,
    kernels: Vec<String>,
}

impl Named {
    fn new(model: Arc<ModelKey>, plan: &Arc<Plan>) -> Self {
        let kernels = plan.kernels().iter().map(|kernel| kernel.name.clone()).collect();
        Named { model, plan: Arc::downgrade(plan), stages: plan.stages().to_vec(), kernels }
    }

    /// The name of the kernel that block `block` of stage `stage` is part of.
    pub(super) fn kernel(&self, stage: u32, block: u32) -> Option<&str> {
        let (kernel, _) = self.stages.get(stage as usize)?.locate(block);
        self.kernels.get(kernel).map(String::as_str)
    }
}

pub(super) struct Recording {
    /// Events with the index of what they are named by.
    pub(super) events: VecDeque<(Event, Option<u32>)>,
    pub(super) spans: VecDeque<Span>,
    pub(super) names: Vec<Named>,
    /// By token the names of the plans that the task runs.
    tasks: HashMap<u64, Vec<(LoadedPlan, u32)>>,
    /// Tasks that had completed by the last collection.
    completed: Vec<u64>,
    fresh: Vec<Event>,
    /// Events that were lost before the last collection.
    lost: u64,
    spare: Ring,
    live: Live,
    /// Events that are kept for a file; zero without one.
    events_max: usize,
    dropped: u64,
}

impl Recording {
    /// One that begins now, without a file.
    pub(super) fn new(now: Nanos) -> Self {
        let mut live = Live::default();
        live.lost(now);
        Recording {
            events: VecDeque::new(),
            spans: VecDeque::new(),
            names: Vec::new(),
            tasks: HashMap::new(),
            completed: Vec::new(),
            fresh: Vec::new(),
            lost: 0,
            spare: Ring::new(),
            live,
            events_max: 0,
            dropped: 0,
        }
    }

    /// What compute units did of late.
    pub(super) fn live(&self) -> &Live {
        &self.live
    }

    /// Keeps up to `events_max` events for a file from now on.
    pub(super) fn keep(&mut self, events_max: usize) {
        self.let_go();
        self.events_max = events_max;
    }

    /// The file is written: keeps nothing for it any more. How many events it did not get.
    pub(super) fn let_go(&mut self) -> u64 {
        self.events_max = 0;
        (self.events, self.spans) = Default::default();
        std::mem::take(&mut self.dropped)
    }

    /// What `event` is named by.
    pub(super) fn name(&self, index: Option<u32>) -> Option<&Named> {
        index.map(|index| &self.names[index as usize])
    }

    pub(super) fn take_events(&mut self, device: &dyn Device) {
        self.lost += device.drain_events(&mut self.fresh);
    }

    pub(super) fn take_notes(&mut self, notes: &Notes) {
        notes.swap(&mut self.spare);
    }

    /// Names the events taken, and keeps the newest of everything.
    pub(super) fn resolve(&mut self, now: Nanos) {
        self.live.forget(now);
        if self.lost > 0 {
            self.live.lost(now);
        }
        self.dropped += std::mem::take(&mut self.spare.dropped) + std::mem::take(&mut self.lost);
        if self.events_max == 0 && self.names.len() > NAMES_MAX {
            self.names.clear();
            self.tasks.clear();
        }
        while let Some(label) = self.spare.labels.pop_front() {
            let name = self.name_index(label.model, label.plan);
            if self.tasks.len() >= TASKS_MAX {
                self.tasks.clear();
            }
            self.tasks.entry(label.token).or_default().push((label.loaded, name));
        }
        // A task's blocks may come after its completion, since every compute unit has a buffer of its own,
        // but no later than in the collection after that one.
        let completed = std::mem::take(&mut self.completed);
        for event in self.fresh.drain(..) {
            if event.kind == EventKind::Completed {
                self.completed.push(event.token);
            }
            let plans = self.tasks.get(&event.token).map_or(&[][..], Vec::as_slice);
            let name = plans.iter().rev().find(|(plan, _)| *plan == event.plan).map(|(_, name)| *name);
            self.live.add(&event, name.map(|name| &self.names[name as usize].model));
            if self.events_max > 0 {
                self.dropped += u64::from(push_bounded(&mut self.events, (event, name), self.events_max));
            }
        }
        for token in completed {
            self.tasks.remove(&token);
        }
        while let Some(span) = self.spare.spans.pop_front() {
            if self.events_max > 0 {
                self.dropped += u64::from(push_bounded(&mut self.spans, span, self.events_max));
            }
        }
    }

    fn name_index(&mut self, model: Arc<ModelKey>, plan: Foreign<Arc<Plan>>) -> u32 {
        let known = self.names.iter().rposition(|named| named.plan.as_ptr() == Arc::as_ptr(&plan));
        let index = known.unwrap_or_else(|| {
            self.names.push(Named::new(model, &plan));
            self.names.len() - 1
        });
        index as u32
    }
}

#[cfg(test)]
mod tests {
    use reef_base::{CuId, Nanos, TaskId, TaskKey};
    use reef_plan::{Isa, SyntheticStage, Target, synthetic_plan};

    use super::super::notes::Label;
    use super::*;

    fn event(token: u64, kind: EventKind) -> Event {
        let (at, span, key) = (Nanos(token), Nanos(1), TaskKey::best_effort(0));
        {
            let (cu, plan) = (Some(CuId(0)), LoadedPlan(0));
            Event { at, span, cu, task: TaskId(token), key, token, plan, kind }
        }
    }

    /// Completions have a buffer of their own, which may be emptied before those of the compute units.
    #[test]
    fn blocks_that_come_after_their_tasks_completion_have_names() {
        let stage = SyntheticStage { blocks: 2, polls: 1, poll_ns: 0 };
        let plan = Arc::new(synthetic_plan("p", Target::cpu(Isa::Portable, 2), 1, &[stage]).unwrap());
        let model = Arc::new(ModelKey { name: "m".into(), version: "1".into() });
        let mut recording = Recording::new(Nanos::ZERO);
        recording.keep(100);
        let block = |block| event(7, EventKind::Block { stage: 0, block, padding: false });
        recording.spare.labels.push_back(Label { token: 7, loaded: LoadedPlan(0), model, plan: plan.into() });
        recording.fresh.extend([event(7, EventKind::Completed), block(0)]);
        recording.resolve(Nanos(9));
        recording.fresh.push(block(1));
        recording.resolve(Nanos(9));
        let named = |(_, name): &(Event, Option<u32>)| recording.name(*name).map(|named| &*named.model.name);
        assert!(recording.events.iter().all(|event| named(event) == Some("m")), "a block has lost its name");
        assert!(recording.tasks.is_empty(), "tasks are forgotten");
    }
}
