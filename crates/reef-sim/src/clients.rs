//! Clients of a simulated server, as DISB has them: each has one request under way, and asks when it is due
//! or when the one before is answered, whichever is later.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use reef_base::{Nanos, Rng};

use crate::server::{Finished, Seen, Server};

/// When a client asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// At fixed distances, the first after a part of one.
    Periodic {
        /// Between two.
        period: Nanos,
        /// Of the first.
        phase: Nanos,
    },
    /// At random: exponential distances.
    Poisson {
        /// Between two, on average.
        mean: Nanos,
    },
    /// At these times, in rising order.
    Trace {
        /// Of one round.
        times: Vec<Nanos>,
        /// After so long the times begin again; [`Nanos::MAX`] for one round.
        again: Nanos,
    },
    /// After each answer, so long.
    Closed {
        /// From the answer to the request.
        think: Nanos,
    },
    /// Once.
    Once(Nanos),
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Played {
    /// Of each client, how long its requests took, in the order of their ends.
    pub latencies: Vec<Vec<Nanos>>,
    /// What the server saw.
    pub seen: Seen,
    /// Kernels that ended, however.
    pub kernels: u64,
    /// How long it was.
    pub length: Nanos,
}

impl Played {
    /// Requests of all clients.
    pub fn requests(&self) -> usize {
        self.latencies.iter().map(Vec::len).sum()
    }
}

/// When one client's requests are due.
#[derive(Debug)]
struct Source {
    arrivals: Arrivals,
    /// The last time that was due.
    due: Nanos,
    next: usize,
    rng: Rng,
}

impl Source {
    /// The next time that is due, when the last answer came at `free`.
    fn next(&mut self, free: Nanos) -> Option<Nanos> {
        let first = self.next == 0;
        self.next += 1;
        self.due = match &self.arrivals {
            Arrivals::Periodic { phase, .. } if first => *phase,
            Arrivals::Periodic { period, .. } => self.due + *period,
            Arrivals::Poisson { mean } => {
                let distance = -libm::log(1.0 - self.rng.unit_f64()) * mean.0 as f64;
                self.due + Nanos(distance.round() as u64)
            }
            Arrivals::Trace { times, again } => {
                let (round, at) = ((self.next - 1).checked_div(times.len())?, (self.next - 1) % times.len());
                if round > 0 && *again == Nanos::MAX {
                    return None;
                }
                times[at] + Nanos(again.0.saturating_mul(round as u64))
            }
            Arrivals::Closed { .. } if first => Nanos::ZERO,
            Arrivals::Closed { think } => free + *think,
            Arrivals::Once(at) if first => *at,
            Arrivals::Once(_) => return None,
        };
        Some(self.due.max(free))
    }
}

/// Plays clients against a server until `until`; requests that are not answered by then do not count.
pub fn play(mut server: Server<'_>, arrivals: &[Arrivals], until: Nanos, seed: u64) -> Played {
    let source = |(at, arrivals): (usize, &Arrivals)| Source {
        arrivals: arrivals.clone(),
        due: Nanos::ZERO,
        next: 0,
        rng: Rng::new(seed ^ (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
    };
    let mut sources: Vec<Source> = arrivals.iter().enumerate().map(source).collect();
    let mut due = BinaryHeap::new();
    for (client, source) in sources.iter_mut().enumerate() {
        due.extend(source.next(Nanos::ZERO).map(|at| Reverse((at, client))));
    }
    let mut latencies = vec![Vec::new(); arrivals.len()];
    let mut finished: Vec<Finished> = Vec::new();
    loop {
        let request = due.peek().map(|&Reverse((at, _))| at);
        let event = server.next_event();
        let Some(next) = request.into_iter().chain(event).min().filter(|&next| next < until) else { break };
        server.advance(next, &mut finished);
        for Finished { client, arrived, at, .. } in finished.drain(..) {
            latencies[client].push(at.since(arrived));
            due.extend(sources[client].next(at).map(|at| Reverse((at, client))));
        }
        while let Some(&Reverse((at, client))) = due.peek().filter(|Reverse((at, _))| *at <= next) {
            debug_assert!(at <= next);
            due.pop();
            server.submit(client);
        }
        server.go_on();
    }
    Played { latencies, seen: server.seen().clone(), kernels: server.kernels_ended(), length: until }
}
