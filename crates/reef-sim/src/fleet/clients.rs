//! Clients of an engine, as a stream: what each asks next, and what waits until it may.

use std::collections::VecDeque;

use reef_base::{Nanos, Rng};
use reef_load::workload::ArrivalSpec;

use super::Client;
use super::service::exponential;

/// Arrivals of one client that may wait at most; those beyond are never sent.
const BACKLOG_MAX: usize = 4096;
/// After a refusal a client that does not follow a schedule asks again so much later.
const BACK_OFF: Nanos = Nanos::from_millis(10);

/// A client's state in one engine.
pub(super) struct Source<'a> {
    pub client: &'a Client,
    /// Of its arrivals, and of its requests' service times.
    rng: Rng,
    services: Rng,
    begin: Nanos,
    /// Of an open loop, the next arrival.
    asked: u64,
    /// Of an open loop, in the past.
    last: Nanos,
    under_way: usize,
    backlog: VecDeque<Nanos>,
}

/// What becomes of an arrival.
pub(super) enum Arrived {
    /// It is sent.
    Ask,
    /// It waits for a place among those under way.
    Waits,
    /// It waits in the place of an older one, which is never sent.
    Replaces,
    /// Too many wait: it is never sent.
    Unsent,
}

impl<'a> Source<'a> {
    /// Its schedule, if it has one, is joined at `begin`.
    pub fn new(client: &'a Client, seed: u64, begin: Nanos) -> Source<'a> {
        let mut rng = Rng::new(seed);
        let services = Rng::new(rng.next_u64());
        let asked = match &client.arrivals {
            ArrivalSpec::Periodic { rate_hz, phase } => {
                (begin.0 as f64 / 1e9 * rate_hz - phase).max(0.0) as u64
            }
            ArrivalSpec::Trace { track, stretch } => {
                let round = (begin.0 as f64 / (track.duration.0 as f64 * stretch)) as u64;
                round.saturating_sub(1) * track.times.len() as u64
            }
            _ => 0,
        };
        let (last, backlog) = (Nanos::ZERO, VecDeque::new());
        Source { client, rng, services, begin, asked, last, under_way: 0, backlog }
    }

    /// The times at which it asks before any answer.
    pub fn first(&mut self) -> Vec<Nanos> {
        match self.client.arrivals {
            ArrivalSpec::ClosedLoop { .. } => vec![Nanos::ZERO; self.client.in_flight],
            ArrivalSpec::After { .. } => Vec::new(),
            _ => self.following().into_iter().collect(),
        }
    }

    /// Of an open loop, the next scheduled arrival.
    pub fn following(&mut self) -> Option<Nanos> {
        if let ArrivalSpec::Poisson { rate_hz } = &self.client.arrivals {
            self.last += exponential(Nanos((1e9 / rate_hz) as u64), &mut self.rng);
            return Some(self.last);
        }
        // What lies before the begin is at most what is left of a round.
        loop {
            let at = self.scheduled(self.asked)?;
            self.asked += 1;
            if at >= self.begin {
                return Some(at.since(self.begin));
            }
        }
    }

    /// When an arrival of a fixed schedule is due.
    fn scheduled(&self, index: u64) -> Option<Nanos> {
        match &self.client.arrivals {
            ArrivalSpec::Periodic { rate_hz, phase } => {
                Some(Nanos(((index as f64 + phase) / rate_hz * 1e9) as u64))
            }
            ArrivalSpec::Trace { track, stretch } => {
                let (round, at) = (index / track.times.len() as u64, index as usize % track.times.len());
                let recorded = round * track.duration.0 + track.times[at].0;
                Some(Nanos((recorded as f64 * stretch) as u64))
            }
            _ => None,
        }
    }

    /// A request is due.
    pub fn arrive(&mut self, scheduled: Nanos) -> Arrived {
        if self.under_way < self.client.in_flight {
            self.under_way += 1;
            return Arrived::Ask;
        }
        if self.client.newest_only && !self.backlog.is_empty() {
            self.backlog[0] = scheduled;
            return Arrived::Replaces;
        }
        if self.backlog.len() == BACKLOG_MAX {
            return Arrived::Unsent;
        }
        self.backlog.push_back(scheduled);
        Arrived::Waits
    }

    /// One of its requests has ended; the scheduled time of one that waited and is sent now.
    pub fn answered(&mut self) -> Option<Nanos> {
        let next = self.backlog.pop_front();
        self.under_way -= usize::from(next.is_none());
        next
    }

    /// When a closed loop asks again.
    pub fn again(&self, now: Nanos, completed: bool) -> Option<Nanos> {
        let ArrivalSpec::ClosedLoop { think } = self.client.arrivals else { return None };
        Some(now + if completed { Nanos::from(think) } else { BACK_OFF.max(think.into()) })
    }

    /// What its next request takes.
    pub fn work(&mut self, service: &super::Service) -> Nanos {
        service.sample(&mut self.services)
    }

    /// Requests that have arrived and not ended.
    pub fn open(&self) -> u64 {
        (self.under_way + self.backlog.len()) as u64
    }
}
