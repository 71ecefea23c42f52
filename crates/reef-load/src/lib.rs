//! `reef-load`: workloads, and clients that ask as they would in the field.
//!
//! | module | owns |
//! |---|---|
//! | [`workload`] | which clients ask which model when: the file format, the built-in workloads of DISB |
//! | [`arrivals`] | from a workload to the times of one repetition |
//! | [`run`] | clients and their times, one record per request, the quantities that are made of records |
//! | [`script`] | what callers are to do, as a pure machine |
//! | [`virtual_time`] | plays a run in no time, with whatever has a next event |
//! | [`play`](mod@play) | plays a run in real time: threads, one for each caller |
//! | [`background`] | clients that keep a device busy while something else is measured |
//! | [`caller`] | who asks, and what an answer says |
//! | [`pace`] | threads that do something at a time |
//! | [`rate`] | how many requests per second a steady load gets |
//!
//! A [`Run`] says which clients ask when; [`play()`] plays it with callers and gives back one record per
//! request, and [`play_virtual`] does so in virtual time with whatever is [`Served`]: a simulated device, an
//! engine over such devices, or a closure that says how long requests take ([`Timed`]). What is reported of a
//! run is made of these records, so that all who play one mean the same by a latency and by a rate.
//!
//! Latency in an open loop counts from the *scheduled* arrival, so that a stalled server cannot hide requests
//! that it kept from being sent (coordinated omission); arrivals that were never sent are counted.
//!
//! Knows no engine, device or protocol, and nothing of reports: callers and whatever is served are handed in.

use std::time::Duration;

pub mod arrivals;
pub mod background;
pub mod caller;
pub mod pace;
pub mod play;
pub mod rate;
pub mod run;
pub mod script;
pub mod virtual_time;
pub mod workload;

pub use background::Background;
pub use caller::{CallError, Caller, Reply};
pub use play::{Callers, play};
pub use run::{Arrivals, PlayedClient, Record, Run, RunClient, periodic, poisson};
pub use virtual_time::{Answered, Asked, Served, Timed, play_virtual};
pub use workload::{Workload, WorkloadError};

/// How long after the end of a run late arrivals are usually still sent.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long best-effort clients usually go on after the end, while real-time requests are not answered.
pub const COOL_DOWN: Duration = Duration::from_secs(1);
/// How long after a refusal a client that does not follow a schedule asks again.
const BACK_OFF: Duration = Duration::from_millis(10);
