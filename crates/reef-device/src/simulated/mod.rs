//! Devices in virtual time: what they share, whatever queues they have.
//!
//! A [`Machine`] is a state machine that says when its next event is. [`Simulated`] is the device around it:
//! one mutex, a clock that it may share with others, buffers that are not the host's own. [`Books`] hold what
//! every one keeps: plans, memory, the places on the board, counters, events and completions; bytes are
//! computed for real ([`Books::compute`]). How tasks get to compute units, and what is taken back when, is
//! the machine's.
//!
//! The clock moves to events of the machine, in [`Device::advance`] and [`Device::quiesce`], and else never.

mod blocks;
mod books;
mod cut;

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reef_base::{AlignedBytes, Buffer, Clock, Domain, Memory, Nanos, TaskId, TaskKey, VirtualClock};
use reef_plan::{Cutter, IoSpec, Plan, Precision};

use crate::contract::{
    Capabilities, Completion, Device, DeviceCounters, DeviceError, Io, Rejected, Route, Wake,
};
use crate::event::Event;
use crate::ids::LoadedPlan;
use crate::memory::MemoryUse;
use crate::scheme::Scheme;

pub use blocks::block_time;
pub use books::{Books, BooksOptions, Order, Task};
pub use cut::RowCutter;

/// What a simulated device does with the tasks that it has taken.
pub trait Machine: Send {
    /// What it keeps.
    fn books(&self) -> &Books;

    /// See above.
    fn books_mut(&mut self) -> &mut Books;

    /// Whether it can do this.
    fn has(&self, scheme: Scheme) -> bool;

    /// The clock says that it is `now`, maybe past events of it.
    fn reach(&mut self, now: Nanos);

    /// Virtual time of one block of each kernel of a plan.
    fn block_times(&self, plan: &Plan) -> Vec<u64>;

    /// A task is on the board.
    fn submit(&mut self, task: Task);

    /// A task is to end early, if it is there.
    fn cancel(&mut self, task: TaskId);

    /// Every task ends now.
    fn poison(&mut self);

    /// A plan is gone; tasks of it may be there.
    fn unloaded(&mut self, plan: LoadedPlan);

    /// The scheme is another one, or the device was closed or opened.
    fn changed(&mut self);

    /// Whether any block runs, or is where nobody can take it back.
    fn runs_anything(&self) -> bool;

    /// Starts what can start, and says when the next event is.
    fn next_event(&mut self) -> Option<Nanos>;

    /// Moves the clock to the next event and does what is due then. False when there is none.
    fn step(&mut self) -> bool;
}

/// A buffer of a simulated device. The bytes are the host's, but who uses them cannot know.
struct Pinned(AlignedBytes);

impl Memory for Pinned {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self.0.as_slice())
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Some(self.0.as_mut_slice())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn pinned(specs: &[IoSpec]) -> Vec<Buffer> {
    let buffer = |spec: &IoSpec| Box::new(Pinned(AlignedBytes::zeroed(spec.bytes())));
    specs.iter().map(|spec| Buffer::over(Domain::Pinned, buffer(spec))).collect()
}

/// A device in virtual time. One mutex guards everything: this is a model, not a fast device.
pub struct Simulated<M> {
    capabilities: Capabilities,
    clock: VirtualClock,
    machine: Mutex<M>,
    waker: Mutex<Option<Arc<dyn Wake>>>,
}

impl<M> fmt::Debug for Simulated<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

impl<M: Machine> Simulated<M> {
    /// An idle device, whose machine moves this clock.
    pub fn over(capabilities: Capabilities, clock: VirtualClock, machine: M) -> Simulated<M> {
        Simulated { capabilities, clock, machine: Mutex::new(machine), waker: Mutex::new(None) }
    }

    /// The virtual time.
    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    fn machine(&self) -> MutexGuard<'_, M> {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.reach(self.clock.now());
        machine
    }

    fn submit_by(&self, plan: LoadedPlan, io: Io, order: Order) -> Result<TaskId, Rejected> {
        let mut machine = self.machine();
        let task = machine.books_mut().take(plan, io, order)?;
        let id = task.id;
        machine.submit(task);
        Ok(id)
    }

    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<M: Machine> Device for Simulated<M> {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn cutter(&self, _precision: Option<Precision>) -> Arc<dyn Cutter> {
        Arc::new(RowCutter::new(self.capabilities.target))
    }

    fn scheme(&self) -> Scheme {
        self.machine().books().scheme
    }

    fn set_scheme(&self, scheme: Scheme) {
        let mut machine = self.machine();
        if machine.has(scheme) {
            machine.books_mut().scheme = scheme;
            machine.changed();
        }
    }

    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        if plan.target() != self.capabilities.target {
            return Err(DeviceError::WrongTarget {
                plan: plan.name().into(),
                plan_target: plan.target(),
                device_target: self.capabilities.target,
            });
        }
        self.machine().books_mut().load(plan)
    }

    fn unload(&self, plan: LoadedPlan) {
        let mut machine = self.machine();
        machine.books_mut().unload(plan);
        machine.unloaded(plan);
    }

    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        let machine = self.machine();
        let plan = machine.books().plan(plan)?;
        Some(Io { inputs: pinned(plan.inputs()), outputs: pinned(plan.outputs()) })
    }

    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected> {
        self.submit_by(plan, io, Order { key, token, route: None })
    }

    fn submit_along(
        &self,
        plan: LoadedPlan,
        key: TaskKey,
        io: Io,
        token: u64,
        route: Arc<dyn Route>,
    ) -> Result<TaskId, Rejected> {
        self.submit_by(plan, io, Order { key, token, route: Some(route) })
    }

    fn cancel(&self, task: TaskId) {
        self.machine().cancel(task);
        self.wake();
    }

    fn try_complete(&self) -> Option<Completion> {
        self.machine().books_mut().next_completion()
    }

    fn set_waker(&self, waker: Arc<dyn Wake>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    fn quiesce(&self, _timeout: Duration) -> bool {
        let mut machine = self.machine();
        machine.books_mut().closed = true;
        machine.changed();
        while machine.runs_anything() && machine.step() {}
        !machine.runs_anything()
    }

    fn resume(&self) {
        let mut machine = self.machine();
        machine.books_mut().closed = false;
        machine.changed();
        drop(machine);
        self.wake();
    }

    fn poison(&self, reason: &str) {
        let mut machine = self.machine();
        machine.books_mut().fault = Some(reason.to_string());
        machine.poison();
        drop(machine);
        self.wake();
    }

    fn fault(&self) -> Option<String> {
        self.machine().books().fault.clone()
    }

    fn memory(&self) -> Vec<MemoryUse> {
        vec![self.machine().books().memory()]
    }

    fn counters(&self) -> DeviceCounters {
        self.machine().books().counters
    }

    fn block_times(&self, plan: LoadedPlan) -> Vec<Option<u64>> {
        let machine = self.machine();
        let plan = machine.books().plan(plan);
        plan.map_or_else(Vec::new, |plan| machine.block_times(plan).into_iter().map(Some).collect())
    }

    fn record_events(&self, on: bool) {
        self.machine().books_mut().records = on;
    }

    fn drain_events(&self, events: &mut Vec<Event>) -> u64 {
        self.machine().books_mut().drain_events(events);
        0
    }

    fn virtual_clock(&self) -> Option<&VirtualClock> {
        Some(&self.clock)
    }

    fn next_event(&self) -> Option<Nanos> {
        self.machine().next_event()
    }

    fn advance(&self) -> bool {
        let progress = self.machine().step();
        self.wake();
        progress
    }
}
