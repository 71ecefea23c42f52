//! `reef-server`: the Open Inference Protocol v2 over HTTP, in the superset that Triton speaks.
//!
//! Owns ports, connections, the protocol's JSON and binary tensors, HTTP statuses and the metrics text. Knows
//! the engine's API and nothing behind it: no plan, device or scheduler.
//!
//! Clients and what each may do are options ([`AccessOptions`]); what a route needs is listed ([`routes`]).
//!
//! Four layers: `net` accepts connections and looks after them; `core` holds what is asked, what is answered
//! and what the problem is, whichever protocol carries it; `http` translates HTTP to it and back; `server`
//! listens for all protocols and ends them.
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
//! Elements of FP32 and FP64 that JSON has no number for are the strings `"NaN"`, `"Infinity"` and
//! `"-Infinity"` in answers and requests alike, as in protobuf's JSON mapping: every JSON parser takes them,
//! and Python's `float()`, NumPy (`np.array(data, dtype=…)`) and JavaScript's `Number()` make the value of
//! them. Without quotes, as Python's `json` writes them by default, they are not JSON and refused with that
//! advice. Which NaN it was is kept by binary tensors only. FP16 and BF16 have no JSON form, as the protocol
//! says: binary tensors only.
//!
//! A model that could not be loaded ([`Running::set_unavailable`]) is answered for with 503 and the reason:
//! its metadata, readiness, configuration, statistics and inference; the repository's index lists it as
//! `UNAVAILABLE`. The server is ready without it.
//!
//! A panic while a request is served is that request's end (500, with what the panic said) and harms no
//! other. An engine that has failed is not ready; its requests end with 500.
//!
//! Every answer over HTTP has the header `x-request-id`: that of the request, or the `id` of its JSON, or a
//! new one. With `debug` the log has a line per request. `traceparent` names the span that asks,
//! where traces are sent to a collector ([`ServerOptions::otlp_endpoint`]).
//!
//! Errors are `{"error": "…"}`: 404 unknown model or path, 413 body too large, 501 what the protocol has and
//! this server does not, 503 what may work later, 504 a deadline that passed or cannot be met, 500 faults,
//! 401 credentials that are missing or unknown, 403 what they do not allow, 429 with `Retry-After` a client's
//! limits, 405, 408 and 431 as HTTP has them, and 400 for everything else that is wrong with a request.

mod core;
mod http;
mod net;
mod server;
mod signals;
mod telemetry;

pub use core::access::{AccessOptions, ClientOptions, Need, Right, TOKEN_LEN_MIN, TokenDigest};
pub use http::route::{RouteInfo, routes};
pub use net::connection::ConnectionLimits;
pub use net::tls::{ClientCertificates, TlsError, TlsOptions};
pub use server::{Running, Server, ServerError, ServerOptions};
pub use signals::Signals;
