//! `reef-device`: the executor contract.
//!
//! Owns what every device promises (DESIGN: outputs exact, real-time latency as if alone, no best-effort work
//! lost) as types and a trait, the schemes, block-level events, the conformance suite that checks the
//! promises, the policy by which a free compute unit gets its next block, who is woken for completions
//! ([`Signal`]), what devices in virtual time share ([`simulated`]), and one with queues, the dummy. Knows
//! nothing of models, requests or any real device.
//!
//! What every device promises:
//! 1. Within `Capabilities::propagation` after [`Device::submit`], no less urgent block *starts* on a compute
//!    unit (CU) that an open stage of a more urgent task needs (schemes `wait`, `reset`); under `reset`, less
//!    urgent blocks that run on the CUs it needs are abandoned at their next poll point, unless they would
//!    end sooner. A stage of three blocks disturbs three CUs, not all of them.
//! 2. A CU that the urgent stage does not need may pad with less urgent blocks, by the rule in force
//!    ([`Padding`]). Best-effort tasks of different owners share CUs by weight ([`policy::share`]).
//! 3. For one plan, outputs do not depend on scheme, preemptions, number of CUs or timing, to the bit.
//! 4. A resident executor never runs a finished block again, and a killed one until it finishes; a queued one
//!    re-runs at most its window, and counts it. A cancelled task stops within the bound and completes as
//!    cancelled.
//! 5. Every accepted task completes exactly once, after its writes are visible.
//! 6. Times are monotonic nanoseconds of `reef_base::MonotonicClock` (or the virtual clock of a virtual
//!    device).

pub mod conformance;
pub mod contract;
pub mod dummy;
pub mod event;
mod ids;
pub mod memory;
pub mod operators;
pub mod policy;
pub mod scheme;
mod signal;
pub mod simulated;
mod sync;

pub use contract::{
    Capabilities, Completion, Device, DeviceCounters, DeviceError, Io, Kill, Outcome, RejectReason, Rejected,
    Route, Seat, TaskCounters, Wake,
};
pub use dummy::{DummyDevice, DummyOptions};
pub use event::{Event, EventKind};
pub use ids::LoadedPlan;
pub use memory::{Admission, Budget, MemoryUse, OverBudget};
pub use scheme::{Padding, Scheme};
pub use signal::{Leader, Signal};
