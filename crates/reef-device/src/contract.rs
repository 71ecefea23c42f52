//! The contract between an engine and a device: capabilities, submission, completion, counters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reef_base::{Buffer, Nanos, TaskId, TaskKey, VirtualClock};
use reef_plan::{Cutter, HostFault, Plan, Precision, Target};

use crate::event::Event;
use crate::ids::LoadedPlan;
use crate::memory::MemoryUse;
use crate::scheme::Scheme;

/// What a device can kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// Running blocks, at their next poll point.
    AtPollPoints,
    /// Running waves, by the hardware, at any time.
    RunningWaves,
    /// Nothing that runs; only what is queued.
    None,
}

/// What a device can do; the conformance suite takes its expectations from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Name for people: model, instruction set.
    pub name: String,
    /// What plans must be compiled for.
    pub target: Target,
    /// Compute units.
    pub cus: usize,
    /// Cores of this machine that its threads are pinned to: beside other devices, who works for it keeps to
    /// them. Empty where it has none of its own.
    pub cores: Vec<usize>,
    /// What can be killed.
    pub kill: Kill,
    /// Work between two polls of a block, at most.
    pub poll_period: Nanos,
    /// The longest time that a running block of a kernel with [`reef_plan::Restart::Never`] keeps a compute
    /// unit from more urgent work under a scheme that kills. A device that can state none refuses plans with
    /// such kernels, but for host kernels that keep none of its units.
    pub never_max: Nanos,
    /// From `submit` until no less urgent block starts where a more urgent stage needs the compute unit.
    pub propagation: Nanos,
    /// Tasks on the board at most.
    pub slots: usize,
    /// Slots among them that only real-time tasks may take.
    pub slots_real_time: usize,
}

/// The buffers of one request, allocated by the device where it uses them: one per input and output of the
/// plan, dense and row-major, 64-byte aligned. Inputs are written before submission; outputs are read after.
/// The host sees those of a plan that a request begins or ends with, and those of at most
/// [`reef_base::limits::SHAPE_VALUES_MAX`] elements; others may lie where it does not.
#[derive(Debug, Default)]
pub struct Io {
    /// One buffer per input.
    pub inputs: Vec<Buffer>,
    /// One buffer per output.
    pub outputs: Vec<Buffer>,
}

impl Io {
    /// Host buffers for `plan`, zeroed.
    pub fn for_plan(plan: &Plan) -> Io {
        Io {
            inputs: plan.inputs().iter().map(|spec| Buffer::zeroed(spec.bytes())).collect(),
            outputs: plan.outputs().iter().map(|spec| Buffer::zeroed(spec.bytes())).collect(),
        }
    }

    /// The same; `None` when the system has not got the memory.
    pub fn try_for_plan(plan: &Plan) -> Option<Io> {
        let buffers = |specs: &[reef_plan::IoSpec]| {
            specs.iter().map(|spec| Buffer::try_zeroed(spec.bytes())).collect::<Option<Vec<_>>>()
        };
        Some(Io { inputs: buffers(plan.inputs())?, outputs: buffers(plan.outputs())? })
    }

    /// Bytes of the buffers of one request for `plan`.
    pub fn bytes_for(plan: &Plan) -> u64 {
        plan.inputs().iter().chain(plan.outputs()).map(|spec| spec.bytes() as u64).sum()
    }

    /// Whether the host sees all of them.
    pub fn is_visible(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).all(Buffer::is_visible)
    }

    /// Whether the buffers have the sizes that `plan` needs.
    pub fn fits(&self, plan: &Plan) -> bool {
        let same = |buffers: &[Buffer], specs: &[reef_plan::IoSpec]| {
            buffers.len() == specs.len() && buffers.iter().zip(specs).all(|(b, s)| b.len() == s.bytes())
        };
        same(&self.inputs, plan.inputs()) && same(&self.outputs, plan.outputs())
    }
}

/// Why a submission was not accepted. None of these is a fault: try again later, or elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// No free slot for this class.
    #[error("the device's board is full")]
    BoardFull,
    /// The scheme `rt-only` takes no best-effort tasks.
    #[error("the scheme takes no best-effort tasks")]
    SchemeRefuses,
    /// The plan is not loaded, or being unloaded.
    #[error("the plan is not loaded")]
    UnknownPlan,
    /// The buffers do not have the plan's sizes.
    #[error("the buffers do not fit the plan")]
    WrongBuffers,
    /// The device is quiesced, poisoned or shutting down.
    #[error("the device does not take tasks now")]
    Closed,
}

/// Where a task goes on when its plan is done: from plan to plan, without whoever submitted it.
pub trait Route: Send + Sync {
    /// The plan that follows `done`, whose run left its outputs in `io`: `io` becomes the buffers of the plan
    /// that is returned, with its inputs in them. `None`, with `io` as it was, ends the task. Called by the
    /// compute unit that ended the last block, so it neither blocks, nor allocates or frees memory, nor takes
    /// long. The plan stays loaded as long as the task is on the board.
    fn next(&self, done: LoadedPlan, io: &mut Io) -> Option<LoadedPlan>;

    /// Whether a plan on the way has host kernels.
    fn has_host_kernels(&self) -> bool {
        false
    }
}

/// A submission that was not accepted, with its buffers.
#[derive(Debug)]
pub struct Rejected {
    /// The buffers, as given.
    pub io: Io,
    /// Why.
    pub why: RejectReason,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All outputs are written.
    Done,
    /// Cancelled; the outputs hold rubbish.
    Cancelled,
    /// A host kernel failed; the outputs hold rubbish.
    Failed(HostFault),
    /// The device was poisoned.
    DeviceFault,
}

/// What one task cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounters {
    /// Blocks that ran to their end; exactly the plan's when the task is done (plus `blocks_rerun`).
    pub blocks_done: u64,
    /// Blocks killed at poll points, and run again later (unless the task was cancelled).
    pub blocks_killed: u64,
    /// Finished blocks that a queued executor ran again inside its restart window.
    pub blocks_rerun: u64,
    /// Blocks that this task ran as padding beside a more urgent stage.
    pub blocks_padding: u64,
    /// Compute-unit time of blocks that ran to their end.
    pub cu_time: Nanos,
    /// Compute-unit time of executions that were killed or failed.
    pub wasted_time: Nanos,
    /// Compute-unit time as padding, part of `cu_time`.
    pub padding_time: Nanos,
    /// Blocks of less urgent tasks that were killed for this task.
    pub kills_caused: u64,
}

impl std::ops::AddAssign for TaskCounters {
    fn add_assign(&mut self, other: TaskCounters) {
        self.blocks_done += other.blocks_done;
        self.blocks_killed += other.blocks_killed;
        self.blocks_rerun += other.blocks_rerun;
        self.blocks_padding += other.blocks_padding;
        self.cu_time += other.cu_time;
        self.wasted_time += other.wasted_time;
        self.padding_time += other.padding_time;
        self.kills_caused += other.kills_caused;
    }
}

/// A task's end, delivered exactly once per accepted task.
#[derive(Debug)]
pub struct Completion {
    /// The task.
    pub task: TaskId,
    /// The token given at submission.
    pub token: u64,
    /// Its key.
    pub key: TaskKey,
    /// The plan that it ended with: the one that was submitted, unless the task had a [`Route`].
    pub plan: LoadedPlan,
    /// The buffers.
    pub io: Io,
    /// How it ended.
    pub outcome: Outcome,
    /// When `submit` was called.
    pub submitted: Nanos,
    /// When its first block started; `None` if none did.
    pub first_block: Option<Nanos>,
    /// When a block of it first ran on the last compute unit that its first stage could use (of as many as
    /// that stage has blocks and the device has units); `None` if that never came to be.
    pub all_cus: Option<Nanos>,
    /// Whether a less urgent block was killed, or waited for, at submission: the task preempted.
    pub preempted: bool,
    /// When its last block ended.
    pub finished: Nanos,
    /// What it cost.
    pub counters: TaskCounters,
}

/// Sums over all tasks since the device was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Tasks accepted.
    pub submitted: u64,
    /// Tasks completed, however.
    pub completed: u64,
    /// Tasks that preempted less urgent ones.
    pub preemptions: u64,
    /// Blocks that ran to their end.
    pub blocks_done: u64,
    /// Blocks killed.
    pub blocks_killed: u64,
    /// Finished blocks run again (queued executors).
    pub blocks_rerun: u64,
    /// Blocks run as padding.
    pub blocks_padding: u64,
    /// Compute-unit time of blocks that ran to their end, all compute units added up.
    pub busy: Nanos,
    /// Compute-unit time of executions that were killed or failed.
    pub wasted: Nanos,
    /// Compute-unit time as padding, part of `busy`.
    pub padding: Nanos,
}

impl std::ops::Add for DeviceCounters {
    type Output = DeviceCounters;

    fn add(self, other: DeviceCounters) -> DeviceCounters {
        DeviceCounters {
            submitted: self.submitted + other.submitted,
            completed: self.completed + other.completed,
            preemptions: self.preemptions + other.preemptions,
            blocks_done: self.blocks_done + other.blocks_done,
            blocks_killed: self.blocks_killed + other.blocks_killed,
            blocks_rerun: self.blocks_rerun + other.blocks_rerun,
            blocks_padding: self.blocks_padding + other.blocks_padding,
            busy: self.busy + other.busy,
            wasted: self.wasted + other.wasted,
            padding: self.padding + other.padding,
        }
    }
}

/// A fault of a device, or a plan that it cannot take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The plan was compiled for something else.
    #[error("plan {plan} is for {plan_target}, the device is {device_target}")]
    WrongTarget {
        /// The plan's name.
        plan: String,
        /// What it was compiled for.
        plan_target: Target,
        /// What the device is.
        device_target: Target,
    },
    /// Not enough memory for weights, arenas, scratch and the buffers of one request.
    #[error("plan {plan}: weights, arenas, scratch and buffers take {needed} bytes, {available} may be used")]
    OutOfMemory {
        /// The plan's name.
        plan: String,
        /// Bytes that they would have with this plan.
        needed: u64,
        /// Bytes that they may have.
        available: u64,
    },
    /// There is as much memory as the plan needs, but not in one piece.
    #[error(
        "plan {plan}: it needs {needed} bytes in one piece; {free} are free, in pieces of {largest} at most"
    )]
    Fragmented {
        /// The plan's name.
        plan: String,
        /// Bytes of the piece.
        needed: u64,
        /// Bytes of all free pieces.
        free: u64,
        /// Bytes of the largest one that can be had.
        largest: u64,
    },
    /// The device has no code for a kernel of the plan.
    #[error("plan {plan}: {reason}")]
    Unsupported {
        /// The plan's name.
        plan: String,
        /// What cannot run.
        reason: String,
    },
    /// The device holds as many plans as it can.
    #[error("the device holds {max} plans, its most")]
    TooManyPlans {
        /// Plans that it can hold.
        max: usize,
    },
    /// A host kernel could not make its state.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// The device could not be brought up (threads, affinity).
    #[error("cannot start the device: {0}")]
    Start(String),
    /// The device was poisoned by a fault.
    #[error("the device is poisoned: {0}")]
    Poisoned(String),
}

impl DeviceError {
    /// Whether the plan is too large for what memory is left.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, DeviceError::OutOfMemory { .. } | DeviceError::Fragmented { .. })
    }
}

/// Woken when a completion is ready. Called by compute units: it must not block, allocate or take a lock.
pub trait Wake: Send + Sync {
    /// A completion is ready, or the device's state changed.
    fn wake(&self);
}

/// Where a thread that waits for a task is to be meanwhile: the place of a compute unit, at which it may
/// work, or one beside them, where it looks on. See [`Device::submit_helped`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "nobody else works there until it is given back by Device::help"]
pub struct Seat(pub u32);

/// One accelerator. All methods may be called from any thread.
pub trait Device: Send + Sync + fmt::Debug {
    /// What it can do.
    fn capabilities(&self) -> &Capabilities;

    /// How plans for it are cut and their constants packed, and in which precision they multiply: this one,
    /// or f32 where the device does not have it; for `None` the device's default. The same as that of every
    /// device with its target.
    fn cutter(&self, precision: Option<Precision>) -> Arc<dyn Cutter>;

    /// The scheme in force.
    fn scheme(&self) -> Scheme;

    /// Changes the scheme; in force for every later decision. Best-effort tasks already on the board under a
    /// new `rt-only` wait until the scheme changes again. A device that has not got it keeps the one that it
    /// has: [`Device::scheme`] says which.
    fn set_scheme(&self, scheme: Scheme);

    /// Makes `plan` ready to run: arenas, scratch, weights, host state. May take long and runs on the
    /// caller's thread; it disturbs neither submitters nor compute units.
    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError>;

    /// No new tasks of `plan` from now on; it is freed after its last task. Arenas and scratch, which plans
    /// share, may become as small as the others need; what is in use now, at a later [`Device::trim`].
    fn unload(&self, plan: LoadedPlan);

    /// Gives back memory that no plan needs any more and that could not be given back before. Called now and
    /// then; takes no lock that a submitter waits for.
    fn trim(&self) {}

    /// Buffers for one request of `plan`; `None` when it is not loaded.
    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io>;

    /// Publishes a task. Neither blocks nor allocates; a full board gives the buffers back.
    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected>;

    /// [`Device::submit`], for a task that goes on along `route`. A device that cannot do that ends the task
    /// after its first plan.
    fn submit_along(
        &self,
        plan: LoadedPlan,
        key: TaskKey,
        io: Io,
        token: u64,
        route: Arc<dyn Route>,
    ) -> Result<TaskId, Rejected> {
        drop(route);
        self.submit(plan, key, io, token)
    }

    /// [`Device::submit`], with a `route` [`Device::submit_along`], for a thread that would work on a task
    /// that takes no longer than `patience`. If it gets a seat it must work there at once
    /// ([`Device::help`]): what it is to do nobody else is woken for.
    fn submit_helped(
        &self,
        plan: LoadedPlan,
        key: TaskKey,
        io: Io,
        token: u64,
        route: Option<Arc<dyn Route>>,
        patience: Nanos,
    ) -> Result<(TaskId, Option<Seat>), Rejected> {
        let _ = patience;
        let submitted = match route {
            None => self.submit(plan, key, io, token),
            Some(route) => self.submit_along(plan, key, io, token, route),
        };
        submitted.map(|task| (task, None))
    }

    /// Works as a compute unit on what is as urgent as `key`, or looks on beside them, until `done` says so,
    /// or there is nothing to do for a while, or it takes long; then gives the seat back. `done` is asked
    /// between blocks.
    fn help(&self, seat: Seat, key: TaskKey, done: &dyn Fn() -> bool) {
        let _ = (seat, key, done);
    }

    /// Asks for a task's end; it completes as cancelled unless it is done first. Unknown ids are ignored.
    fn cancel(&self, task: TaskId);

    /// The next completion, if one is ready. Neither blocks nor allocates.
    fn try_complete(&self) -> Option<Completion>;

    /// Who to wake when completions are ready.
    fn set_waker(&self, waker: Arc<dyn Wake>);

    /// Stops taking tasks and returns once no block runs, at block boundaries; tasks stay where they are.
    /// False if that did not come about within `timeout`: then the device takes tasks again, unless it had
    /// been quiesced before. With virtual time the blocks that run end first: the clock moves as in
    /// [`Device::advance`], whatever `timeout` is.
    fn quiesce(&self, timeout: Duration) -> bool;

    /// Goes on after [`Device::quiesce`]; wakes who waits, because tasks that were refused may be submitted.
    fn resume(&self);

    /// Declares a fault: every task on the board ends with [`Outcome::DeviceFault`], later ones are refused.
    fn poison(&self, reason: &str);

    /// Why the device is out of service, if it is: somebody poisoned it, or it did so itself. Whoever waits
    /// for completions is woken when that happens. Cheap while there is nothing to tell.
    fn fault(&self) -> Option<String>;

    /// What each of its memories holds. Devices of one memory say the same of it.
    fn memory(&self) -> Vec<MemoryUse>;

    /// Copies bytes from one buffer to the other, as many as the shorter has. It has made one of them at
    /// least.
    fn copy(&self, from: &Buffer, to: &mut Buffer) {
        let length = from.len().min(to.len());
        to.as_mut_slice()[..length].copy_from_slice(&from.as_slice()[..length]);
    }

    /// Sums since the start.
    fn counters(&self) -> DeviceCounters;

    /// Measured time of one block of every kernel of `plan` in nanoseconds, `None` where nothing was measured
    /// yet.
    fn block_times(&self, plan: LoadedPlan) -> Vec<Option<u64>>;

    /// Turns recording of events on or off. Off, it costs a predictable branch per block.
    fn record_events(&self, on: bool);

    /// Moves recorded events into `events`; returns how many were lost to a full ring since the last call.
    fn drain_events(&self, events: &mut Vec<Event>) -> u64;

    /// The clock of a simulated device, whose time is virtual: it passes only as [`Device::next_event`] and
    /// [`Device::advance`] say. `None` for a real one. Devices that are simulated together have one clock.
    fn virtual_clock(&self) -> Option<&VirtualClock> {
        None
    }

    /// With virtual time: starts what can start now, and says when the next event is, if there is one. It
    /// stays so until that time, or until something is done to the device.
    fn next_event(&self) -> Option<Nanos> {
        None
    }

    /// With virtual time: moves the clock to its next event and does all that is due then. False when nothing
    /// is left to do, and on real devices.
    ///
    /// Whoever has several devices on one clock, or timers of its own, advances the one whose event is the
    /// first: an event that the clock has passed already happens late, at the clock's time.
    fn advance(&self) -> bool {
        false
    }
}
