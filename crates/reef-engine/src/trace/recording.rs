//! The newest events and spans of a trace, with what is needed to name them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use reef_base::ModelKey;
use reef_device::{Device, Event, EventKind};
use reef_plan::{Plan, Stage};

use super::{Ring, Span, push_bounded};

/// Tasks whose plan is known; far more than can be live. Bounds what a lost event would leave behind.
const TASKS_MAX: usize = 1 << 16;

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
    tasks: HashMap<u64, u32>,
    fresh: Vec<Event>,
    spare: Ring,
    events_max: usize,
    dropped: u64,
}

impl Recording {
    pub(super) fn new(events_max: usize) -> Self {
        Recording {
            events: VecDeque::new(),
            spans: VecDeque::new(),
            names: Vec::new(),
            tasks: HashMap::new(),
            fresh: Vec::new(),
            spare: Ring::new(),
            events_max,
            dropped: 0,
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What `event` is named by.
    pub(super) fn name(&self, index: Option<u32>) -> Option<&Named> {
        index.map(|index| &self.names[index as usize])
    }

    pub(super) fn take_events(&mut self, device: &dyn Device) {
        self.dropped += device.drain_events(&mut self.fresh);
    }

    /// Takes what the core's ring holds and leaves an empty one.
    pub(super) fn swap(&mut self, ring: &mut Ring) {
        std::mem::swap(&mut self.spare, ring);
    }

    /// Names the events taken, and keeps the newest of everything.
    pub(super) fn resolve(&mut self) {
        self.dropped += std::mem::take(&mut self.spare.dropped);
        while let Some(label) = self.spare.labels.pop_front() {
            let name = self.name_index(label.model, label.plan);
            if self.tasks.len() >= TASKS_MAX {
                self.tasks.clear();
            }
            self.tasks.insert(label.token, name);
        }
        for event in self.fresh.drain(..) {
            let name = match event.kind {
                EventKind::Completed => self.tasks.remove(&event.token),
                _ => self.tasks.get(&event.token).copied(),
            };
            self.dropped += u64::from(push_bounded(&mut self.events, (event, name), self.events_max));
        }
        while let Some(span) = self.spare.spans.pop_front() {
            self.dropped += u64::from(push_bounded(&mut self.spans, span, self.events_max));
        }
    }

    fn name_index(&mut self, model: Arc<ModelKey>, plan: Arc<Plan>) -> u32 {
        let known = self.names.iter().rposition(|named| named.plan.as_ptr() == Arc::as_ptr(&plan));
        let index = known.unwrap_or_else(|| {
            self.names.push(Named::new(model, &plan));
            self.names.len() - 1
        });
        index as u32
    }
}
