//! What a simulated device keeps: plans and memory, places on the board, counters, events, completions; and
//! what a task is, as far as it does not depend on how it comes to run.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use reef_base::{AlignedBytes, CuId, Domain, Nanos, TaskId, TaskKey};
use reef_plan::{HostFault, Interpreter, Kernel, KernelSpec, Plan, Restart};

use super::blocks::{self, Block};
use crate::contract::{
    Completion, DeviceCounters, DeviceError, Io, Outcome, RejectReason, Rejected, Route, TaskCounters,
};
use crate::event::{Event, EventKind};
use crate::ids::LoadedPlan;
use crate::memory::{Admission, Budget, MemoryUse, OverBudget};
use crate::scheme::Scheme;

/// How books begin.
#[derive(Clone, Debug)]
pub struct BooksOptions {
    /// Tasks on the board.
    pub slots: usize,
    /// Slots of them for real-time tasks only.
    pub slots_real_time: usize,
    /// The scheme at the start.
    pub scheme: Scheme,
    /// Bytes that the memory may hold; `None` for no bound.
    pub memory_bytes: Option<u64>,
    /// Who computes the blocks of real kernels; without, only synthetic ones run.
    pub interpreter: Option<Arc<dyn Interpreter>>,
}

/// The books of a device.
pub struct Books {
    /// The clock's time, which stands still while something is done.
    pub now: Nanos,
    /// The scheme in force.
    pub scheme: Scheme,
    /// Whether nothing may start.
    pub closed: bool,
    /// Why the device is out of service.
    pub fault: Option<String>,
    /// Sums so far.
    pub counters: DeviceCounters,
    /// Whether events are recorded.
    pub records: bool,
    slots: usize,
    slots_real_time: usize,
    interpreter: Option<Arc<dyn Interpreter>>,
    plans: Vec<Option<(Arc<Plan>, Admission)>>,
    budget: Arc<Budget>,
    next_task: u64,
    taken: BTreeSet<usize>,
    completions: VecDeque<Completion>,
    events: Vec<Event>,
}

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Books").field("now", &self.now).field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// What comes with the buffers of a submission.
pub struct Order {
    /// How urgent it is.
    pub key: TaskKey,
    /// For who asks.
    pub token: u64,
    /// Where it goes on.
    pub route: Option<Arc<dyn Route>>,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A task on the board.
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// Its number among those on the board.
    pub slot: usize,
    /// What it runs now.
    pub plan: Arc<Plan>,
    /// The same.
    pub loaded: LoadedPlan,
    /// How urgent it is.
    pub key: TaskKey,
    /// When it was submitted.
    pub submitted: Nanos,
    /// When its first block started.
    pub first_block: Option<Nanos>,
    /// When it first had all units that its first stage can use.
    pub all_units: Option<Nanos>,
    /// Whether something less urgent ran when it came.
    pub preempted: bool,
    /// What it has cost.
    pub counters: TaskCounters,
    token: u64,
    route: Option<Arc<dyn Route>>,
    io: Io,
    arena: AlignedBytes,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("id", &self.id).field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl Task {
    fn block(&self, stage: usize, block: u32) -> Block<'_> {
        Block { plan: &self.plan, stage, block }
    }

    /// How long a block of it takes, by its plan.
    pub fn block_time(&self, stage: usize, block: u32) -> Nanos {
        self.block(stage, block).time()
    }

    /// Counts a start of a block.
    pub fn start_meter(&self, stage: usize, block: u32) {
        self.block(stage, block).start_meter();
    }

    /// Counts the polls of a block that ran so long.
    pub fn meter(&self, stage: usize, block: u32, ran: Nanos) {
        self.block(stage, block).meter(ran);
    }
}

impl Books {
    /// Empty ones.
    pub fn new(options: BooksOptions) -> Books {
        Books {
            now: Nanos::ZERO,
            scheme: options.scheme,
            closed: false,
            fault: None,
            counters: DeviceCounters::default(),
            records: false,
            slots: options.slots,
            slots_real_time: options.slots_real_time,
            interpreter: options.interpreter,
            plans: Vec::new(),
            budget: Budget::new(Domain::Pinned, options.memory_bytes),
            next_task: 0,
            taken: BTreeSet::new(),
            completions: VecDeque::new(),
            events: Vec::new(),
        }
    }

    pub(super) fn load(&mut self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        let unsupported = |reason: String| Err(DeviceError::Unsupported { plan: plan.name().into(), reason });
        let real = |kernel: &&Kernel| !matches!(kernel.spec, KernelSpec::Synthetic(_));
        if let Some(Kernel { name, .. }) =
            plan.kernels().iter().find(real).filter(|_| self.interpreter.is_none())
        {
            return unsupported(format!("kernel {name} is not synthetic, and there is no interpreter"));
        }
        if let Some(Kernel { name, .. }) =
            plan.kernels().iter().find(|kernel| kernel.restart == Restart::Never)
        {
            let reason = format!(
                "kernel {name} must run once and to its end, and what a preemption hits here is killed or \
                 runs again"
            );
            return unsupported(reason);
        }
        if let Some(reason) = &self.fault {
            return Err(DeviceError::Poisoned(reason.clone()));
        }
        let weights: Vec<_> = plan
            .weights()
            .iter()
            .map(|weight| plan.store().get(weight.key, weight.packing).expect("the plan is valid"))
            .collect();
        let working = plan.arena_bytes() as u64;
        let admission = self.budget.admit(&weights, working, Io::bytes_for(&plan));
        let refused = |OverBudget { needed, available }| DeviceError::OutOfMemory {
            plan: plan.name().into(),
            needed,
            available,
        };
        let admission = admission.map_err(refused)?;
        self.plans.push(Some((plan, admission)));
        Ok(LoadedPlan(self.plans.len() as u32 - 1))
    }

    pub(super) fn unload(&mut self, plan: LoadedPlan) {
        if let Some(entry) = self.plans.get_mut(plan.index()) {
            *entry = None;
        }
    }

    pub(super) fn plan(&self, plan: LoadedPlan) -> Option<&Arc<Plan>> {
        self.plans.get(plan.index())?.as_ref().map(|(plan, _)| plan)
    }

    pub(super) fn memory(&self) -> MemoryUse {
        self.budget.usage()
    }

    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    pub(super) fn drain_events(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.events);
    }

    /// Whether there are ends that nobody has fetched.
    pub fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    /// A task for a submission that is right, if there is room.
    pub(super) fn take(&mut self, loaded: LoadedPlan, io: Io, order: Order) -> Result<Task, Rejected> {
        let plan = match self.admit(loaded, order.key, &io) {
            Ok(plan) => plan,
            Err(why) => return Err(Rejected { io, why }),
        };
        let id = TaskId(self.next_task);
        self.next_task += 1;
        let slot = (0..self.slots).find(|slot| !self.taken.contains(slot));
        let slot = slot.expect("who admits counts the slots");
        self.taken.insert(slot);
        self.counters.submitted += 1;
        let task = Task {
            id,
            slot,
            arena: AlignedBytes::zeroed(plan.arena_bytes()),
            plan,
            loaded,
            key: order.key,
            submitted: self.now,
            first_block: None,
            all_units: None,
            preempted: false,
            counters: TaskCounters::default(),
            token: order.token,
            route: order.route,
            io,
        };
        self.event(&task, None, (self.now, self.now), EventKind::Submitted);
        Ok(task)
    }

    fn admit(&self, plan: LoadedPlan, key: TaskKey, io: &Io) -> Result<Arc<Plan>, RejectReason> {
        let real_time = key.class().is_real_time();
        // A task whose completion was not fetched yet still holds its slot.
        let free = self.slots - (self.taken.len() + self.completions.len()).min(self.slots);
        if self.closed || self.fault.is_some() {
            return Err(RejectReason::Closed);
        }
        if !real_time && self.scheme == Scheme::RtOnly {
            return Err(RejectReason::SchemeRefuses);
        }
        if free == 0 || (!real_time && free <= self.slots_real_time) {
            return Err(RejectReason::BoardFull);
        }
        let plan = self.plan(plan).ok_or(RejectReason::UnknownPlan)?;
        if io.fits(plan) { Ok(plan.clone()) } else { Err(RejectReason::WrongBuffers) }
    }

    /// Computes a block.
    pub fn compute(&self, task: &mut Task, stage: usize, block: u32) -> Result<(), HostFault> {
        let block = Block { plan: &task.plan, stage, block };
        blocks::compute(self.interpreter.as_ref(), block, &mut task.io, &mut task.arena)
    }

    /// Leaves rubbish where a block writes that was killed.
    pub fn spoil(&self, task: &mut Task, stage: usize, block: u32) {
        let block = Block { plan: &task.plan, stage, block };
        blocks::spoil(self.interpreter.as_ref(), block, &mut task.io, &mut task.arena);
    }

    /// Goes on with the plan that follows a task's present one, if one does.
    pub fn go_on(&self, task: &mut Task) -> bool {
        let Some(next) = task.route.as_ref().and_then(|route| route.next(task.loaded, &mut task.io)) else {
            return false;
        };
        let plan = self.plan(next).expect("a route keeps its plans loaded").clone();
        task.arena = AlignedBytes::zeroed(plan.arena_bytes());
        (task.loaded, task.plan) = (next, plan);
        true
    }

    /// A task leaves the board.
    pub fn complete(&mut self, task: Task, outcome: Outcome) {
        self.event(&task, None, (self.now, self.now), EventKind::Completed);
        self.taken.remove(&task.slot);
        self.counters.completed += 1;
        self.completions.push_back(Completion {
            task: task.id,
            token: task.token,
            key: task.key,
            plan: task.loaded,
            io: task.io,
            outcome,
            submitted: task.submitted,
            first_block: task.first_block,
            all_cus: task.all_units,
            preempted: task.preempted,
            finished: self.now,
            counters: task.counters,
        });
    }

    /// Records an event, if somebody wants it.
    pub fn event(&mut self, task: &Task, cu: Option<usize>, (start, end): (Nanos, Nanos), kind: EventKind) {
        if self.records {
            let cu = cu.map(|cu| CuId(cu as u16));
            let &Task { id, key, token, loaded: plan, .. } = task;
            self.events.push(Event { at: start, span: end - start, cu, task: id, key, token, plan, kind });
        }
    }
}
