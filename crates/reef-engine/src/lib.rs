//! `reef-engine`: real-time DNN inference to embed.
//!
//! Owns the model pool, the life of every request, statistics and the timeline; joins task-level schedulers
//! with devices. Does not know which devices exist (they are handed to it), how anything is served, nor any
//! async runtime: its futures are written by hand.
//!
//! A request is checked and its inputs copied on the caller's thread ([`Engine::submit`]); the scheduler's
//! state machine, behind one short mutex, says when it becomes a task; one thread takes completions and
//! timers. Compute units never take that mutex, and nobody calls a device with it.
//!
//! Over several devices ([`Engine::over`]) all of that is there once per device: a *lane* is a device, its
//! scheduler and its thread. What there is of models, of requests without a plan and of the timeline they
//! share. A model is on one device or, replicated, on several ([`ModelSettings::placement`]); then a router
//! sends each request to the device where it is expected to end first. A request stays on its lane, unless
//! its model is split: then it passes from lane to lane, one part of its plan on each.
//!
//! Files are layers; none knows one of a row below its own:
//!
//! | files | what they hold |
//! |---|---|
//! | `error`, `fault`, `model`, `distribution`, `stats` | words: what is said to and by the engine |
//! | `source`, `divided`, `plans`, `request`, `ticket`, `trace` | plans, a request, its end, the timeline |
//! | `family`, `gathering` | what batches run, and their bytes |
//! | `place`, `passage`, `visit`, `pool`, `effect`, `cold`, `core` | where models and requests are |
//! | `lane`, `split` | a device with its core, and who waits there; the parts of a split model |
//! | `shared` | all of that behind its locks, and the one way into the cores |
//! | `time` | how callers wait, and how virtual time passes meanwhile |
//! | `compile`, `load`, `check`, `snapshot` | plans made, models come and go, requests judged, sums |
//! | `threads`, `future`, `session`, `prepared`, `engine` | threads of the engine and of its users |
//!
//! # When something panics
//!
//! The engine calls code that is not its own, on its threads and on its callers': importers and
//! [`PlanSource`]s, host kernels and their states (made when a plan is loaded, dropped when it goes), wakers,
//! whatever the log goes to. And it may have bugs. One rule for all of it:
//!
//! - **Foreign code that panics** costs what it was called for, and nothing else. A model is not loaded
//!   ([`LoadError::Panicked`]), a request ends with an error ([`InferError::NoPlan`],
//!   [`InferError::Failed`]), a waker is not called again, a trace has no file ([`TraceError::Failed`]). The
//!   thread goes on.
//! - **A bug of our own**, which is any other panic on a thread of the engine or inside its books, fails the
//!   engine visibly: [`Engine::fault`] says why and [`Engine::wait_for_fault`] returns,
//!   [`Engine::is_ready`] is false, everybody who waits is answered with [`InferError::EngineFailed`], later
//!   requests are refused with it, the devices are poisoned, unloading and shutting down return at once.
//! - **A device that was poisoned by a fault of its own** takes its lane along: the requests that it had end
//!   with [`InferError::DeviceFault`], as do those for models that are nowhere else. What had not begun goes
//!   to another device of its model. The last device ends the engine in the way of a bug.
//!
//! Foreign code that blocks for ever blocks what waits for it: a plan source the plans of all new shapes, a
//! waker all completions, a host kernel its own task, and with it a shutdown. Callers of that task are
//! answered when they cancel it or its deadline passes.
//!
//! ```
//! use std::sync::Arc;
//!
//! use reef_cpu::{CpuDevice, CpuOptions};
//! use reef_engine::{
//!     Engine, EngineOptions, InferRequest, InputTensor, Level, ModelKey, ModelSettings, ModelSource,
//!     ModelSpec,
//! };
//! use reef_zoo::{Model, Variant};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = CpuDevice::start(CpuOptions { cus: Some(2), ..CpuOptions::default() })?;
//! let engine = Engine::new(Arc::new(device), EngineOptions::default())?;
//!
//! // Any ONNX model; this one is a robot's controller, made here.
//! let onnx = reef_zoo::build(Model::Control, &Variant::tiny())?;
//! let model = engine.load(ModelSpec {
//!     key: ModelKey { name: "control".into(), version: "1".into() },
//!     source: ModelSource::Bytes(onnx),
//!     settings: ModelSettings::real_time(Level::TOP),
//! })?;
//!
//! let input = &model.inputs[0];
//! let shape = input.fixed_shape().expect("no extent is symbolic");
//! let data = vec![0; shape.elements() * input.dtype.bytes()];
//! let tensor = InputTensor { name: &input.name, dtype: input.dtype, shape, data: &data };
//! let response = engine.infer(&InferRequest::new("control", vec![tensor]))?;
//! for output in response.outputs() {
//!     println!("{} {}{}: {} bytes", output.name, output.dtype, output.shape, output.data.len());
//! }
//! println!("computed in {}", response.timings.compute);
//! # Ok(())
//! # }
//! ```

mod ahead;
mod check;
mod cold;
mod compile;
mod copies;
mod core;
pub mod distribution;
mod divided;
mod effect;
pub mod engine;
pub mod error;
mod family;
mod fault;
pub mod future;
mod gathering;
mod help;
mod kit;
mod lane;
mod load;
pub mod model;
mod passage;
mod place;
mod plans;
mod pool;
pub mod prepared;
pub mod request;
pub mod session;
mod shared;
mod snapshot;
pub mod source;
mod split;
pub mod stats;
mod texts;
mod threads;
mod ticket;
mod time;
pub mod trace;
mod visit;

pub use distribution::{ClassDistributions, Distribution};
pub use engine::{DeviceInfo, Engine, EngineOptions, PoolDevice};
pub use error::{EngineError, InferError, LoadError, WrongInput};
pub use future::InferFuture;
pub use model::{
    Batching, InputShapes, InputValues, ModelInfo, ModelSettings, ModelSource, ModelSpec, ModelState, Number,
    Placement, PlanInfo, Queued, TensorInfo,
};
pub use prepared::{Prepared, Published, Retired};
pub use reef_base::{Class, Level, ModelKey, Nanos};
pub use reef_device::{Capabilities, Device, DeviceCounters, DeviceError, MemoryUse, Scheme, TaskCounters};
pub use reef_graph::{DType, Shape};
pub use reef_plan::{FaultKind, HostFault, IoSpec, Plan};
pub use reef_program::{Given, HandOver, Part, Passed, ProgramError, Row, Segment, SegmentKey, Source, Take};
pub use request::{
    ClassRequest, InferRequest, InferResponse, InputTensor, OutputTensor, TextTensor, Timings,
};
pub use session::{RunInfo, Session, SessionOptions};
pub use source::PlanSource;
pub use stats::{
    BatchStats, ClassStats, DeviceStats, EngineStats, FailureReason, HISTOGRAM_BOUNDS_NS, Histogram,
    ModelDistributions, ModelOnDevice, ModelStats,
};
pub use trace::{DeviceTimeline, Stretch, Timeline, TraceError, TraceOptions, TraceSummary, Work};
