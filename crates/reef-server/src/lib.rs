//! `reef-server`: the Open Inference Protocol v2 over HTTP, in the superset that Triton speaks.
//!
//! Owns ports, connections, the protocol's JSON and binary tensors, HTTP statuses and the metrics text. Knows
//! the engine's API and nothing behind it: no plan, device or scheduler.
//!
//! What requests may say beyond the protocol, in `parameters`:
//! - `class`: `"real-time"` or `"best-effort"`; the model's settings are the most urgent allowed;
//! - `priority`: 1 is level 0, the most urgent; 0 is the model's default;
//! - `timeout`: microseconds in the queue, at most;
//! - `deadline_us`: microseconds from the arrival of the request's head to the end of execution.
//!
//! What answers say in `parameters`: the effective `class`, with its `level` and `priority` if real-time;
//! `queue_us` and `compute_us`; `preempted`, the number of the request's blocks that were killed for more
//! urgent work; `preempt_us`, with a fraction, from the task's submission to its first block, if it displaced
//! less urgent work itself; `late` if it ended after its deadline.
//!
//! Errors are `{"error": "…"}`: 404 unknown model or path, 413 body too large, 501 what the protocol has and
//! this server does not, 503 what may work later, 504 a deadline that passed or cannot be met, 500 faults,
//! 405 and 408 as HTTP has them, and 400 for everything else that is wrong with a request.

mod answers;
mod budget;
mod bulk;
mod error;
mod exposition;
mod infer;
mod metrics;
mod protocol;
mod receive;
mod reply;
mod route;
mod server;
mod signals;

pub use error::ServerError;
pub use server::{Running, Server, ServerOptions};
pub use signals::Signals;
