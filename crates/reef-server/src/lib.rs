//! `reef-server`: the Open Inference Protocol v2 over HTTP and gRPC, in the superset that Triton speaks, and
//! KServe's v1.
//!
//! Owns ports, connections, the protocol's JSON, messages and binary tensors, statuses, the metrics text and
//! the dashboard. Knows the engine's API and nothing behind it: no plan, device or scheduler.
//!
//! Clients of the same host may have a faster way: [`RingOptions`], and the crate `reef-client`.
//!
//! Clients and what each may do are options ([`AccessOptions`]); what routes and RPCs need is listed
//! ([`routes`], [`rpcs`]). Requests over the ring are of the client whose token is shown, or that
//! [`RingOptions`] names.
//!
//! Four layers: `net` accepts connections and looks after them; `core` holds what is asked, what is answered
//! and what the problem is, whichever protocol carries it, and who may do what; `http`, `grpc` and `ring`
//! translate to it and back, and differ in nothing but framing; `server` listens for all protocols and ends
//! them.
//!
//! What requests may say beyond the protocol, in `parameters`:
//! - `class`: `"real-time"` or `"best-effort"`; the model's settings are the most urgent allowed;
//! - `priority`: 1 is level 0, the most urgent; 0 is the model's default;
//! - `timeout`: microseconds in the queue, at most;
//! - `deadline_us`: microseconds from the arrival of the request's head to the end of execution; 0 is a
//!   deadline that has passed.
//!
//! A number may be the text of its digits. Over gRPC the RPC's own deadline (`grpc-timeout`) is the request's
//! where it is sooner, and ends the RPC in any case. A cancelled RPC, one whose time is over and one whose
//! connection is gone cancel their requests, which stop at their next poll points.
//!
//! A requested output may have the parameter `classification`, a number: then it is the texts
//! `VALUE:INDEX` or `VALUE:INDEX:LABEL` of so many largest elements, in a tensor of BYTES.
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
//! KServe's first protocol is another form of the same requests: `POST v1/models/M:predict` takes
//! `{"instances": [ROW, …]}`, or `{"inputs": …}` with whole tensors, and answers
//! `{"predictions": [ROW, …]}`. A row is an object with a value for each input, or the value of the only one;
//! nesting is the shape, and the element types are the model's. `parameters` are those above. It has no
//! versions, outputs cannot be chosen, and what has no JSON form, or no rows, is refused. `GET v1/models` and
//! `v1/models/M` tell names and readiness; `:explain` is 501.
//!
//! Bodies may be compressed with gzip or deflate, and answers are where the client takes them so and they
//! have a kibibyte; `Inference-Header-Content-Length` counts what it counted before. Errors are never
//! compressed.
//!
//! Tensors may lie in system shared memory that clients have registered, where the operator allows it
//! ([`ServerOptions::allow_client_shm`]). What stands there counts in the limits of bodies.
//!
//! A model that could not be loaded ([`Running::set_unavailable`]) is answered for with 503 and the reason:
//! its metadata, readiness, configuration, statistics and inference; the repository's index lists it as
//! `UNAVAILABLE`. The server is ready without it, unless [`ServerOptions::strict_readiness`] says otherwise;
//! `v2/health/ready` names it either way.
//!
//! Models come and go by a [`ModelControl`] ([`Running::set_control`]): `v2/repository/models/M/load` and
//! `…/unload`, on threads that may block. Without one they answer 503.
//!
//! A panic while a request is served is that request's end (500, with what the panic said) and harms no
//! other. An engine that has failed is not ready; its requests end with 500.
//!
//! Every answer has an id: over HTTP in the header `x-request-id`, over gRPC in metadata of that name: that
//! of the request, or the `id` of its message, or a new one; through the ring it is made of the connection's
//! number and the request's tag. With `debug` the log has a line per request. `traceparent` names the span
//! that asks, where traces are sent to a collector ([`ServerOptions::otlp_endpoint`]).
//!
//! Errors over gRPC are statuses with a message: NOT_FOUND, INVALID_ARGUMENT, UNIMPLEMENTED, UNAVAILABLE,
//! DEADLINE_EXCEEDED, INTERNAL, UNAUTHENTICATED, PERMISSION_DENIED for what is below 404, 400, 501, 503, 504,
//! 500, 401 and 403, RESOURCE_EXHAUSTED for 413 and 429.
//!
//! Errors over HTTP are `{"error": "…"}`: 404 unknown model or path, 413 body too large,
//! 415 an unknown `Content-Encoding`, 501 what the protocol has and
//! this server does not, 503 what may work later, 504 a deadline that passed or cannot be met, 500 faults,
//! 401 credentials that are missing or unknown, 403 what they do not allow, 429 with `Retry-After` a client's
//! limits, 405, 408 and 431 as HTTP has them, and 400 for everything else that is wrong with a request.

mod core;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod http;
mod net;
mod ring;
mod server;
mod signals;
mod telemetry;

pub use core::access::{AccessOptions, ClientOptions, Need, Right};
pub use core::control::{ControlError, LoadRequest, ModelControl, UNLOADED};
pub use core::logging::LogControl;
pub use core::tokens::{TOKEN_LEN_MIN, TokenDigest, TokenFile};
pub use grpc::method::{RpcInfo, rpcs};
pub use http::route::{RouteInfo, routes};
pub use net::connection::ConnectionLimits;
pub use net::tls::{ClientCertificates, TlsError, TlsOptions};
pub use ring::RingOptions;
pub use server::{Addresses, Running, Server, ServerError, ServerOptions};
pub use signals::Signals;
