//! What a load is, and what came of it: clients and when they ask, one record per request, and the
//! quantities that are made of records.

use std::ops::Range;
use std::time::Duration;

use reef_base::{ClassName, Nanos, Rng, Samples};

use crate::rate::{Window, rate_per_s};

/// One client of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunClient {
    /// Its name; unique in the run.
    pub name: String,
    /// The model it asks.
    pub model: String,
    /// Its class.
    pub class: ClassName,
    /// Its real-time level, 0 the most urgent; 0 for best-effort.
    pub level: u8,
    /// When it asks.
    pub arrivals: Arrivals,
    /// Requests of it that may be under way at once; more wait in the client.
    pub in_flight: usize,
    /// Sent with each request, so that the server may refuse what would be late; `None` sends none.
    pub enforced_deadline: Option<Duration>,
    /// The core that its callers run on; `None` for any. Where a run takes no time, nobody runs.
    pub core: Option<usize>,
}

impl RunClient {
    /// A client named after its model, at the most urgent level, whose requests carry no deadline.
    pub fn new(model: &str, class: ClassName, arrivals: Arrivals, in_flight: usize) -> RunClient {
        let (name, model) = (model.to_string(), model.to_string());
        RunClient { name, model, class, level: 0, arrivals, in_flight, enforced_deadline: None, core: None }
    }

    /// Its level as requests say it, in the parameter `priority`: 1 is the most urgent, 0 none.
    pub fn priority(&self) -> u32 {
        match self.class {
            ClassName::RealTime => u32::from(self.level) + 1,
            ClassName::BestEffort => 0,
        }
    }
}

/// When a client asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// At these times from the start of the run, in rising order, whatever the server does.
    Open {
        /// The times.
        times: Vec<Nanos>,
        /// Whether an arrival that finds all callers busy replaces the one that waits, which is counted as
        /// dropped.
        newest_only: bool,
    },
    /// Again, this long after each answer, until the run ends.
    Closed {
        /// From the answer to the next request.
        think: Duration,
    },
    /// This long after each answer that the client of this index got.
    After {
        /// Index of the other client in [`Run::clients`].
        client: usize,
        /// From its answer to the request.
        think: Duration,
    },
}

impl Arrivals {
    /// An open loop: [`periodic()`] times before `length`, none of them dropped.
    pub fn periodic(rate_hz: f64, phase: f64, length: Duration) -> Arrivals {
        Arrivals::Open { times: periodic(rate_hz, phase, length.into()), newest_only: false }
    }

    /// A closed loop without a pause.
    pub const BACK_TO_BACK: Arrivals = Arrivals::Closed { think: Duration::ZERO };
}

/// A set of clients to play for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The clients.
    pub clients: Vec<RunClient>,
    /// Played, but not recorded.
    pub warm_up: Duration,
    /// Recorded: arrivals of open loops and answers of closed ones inside of it.
    pub measured: Duration,
    /// How long after the end best-effort closed loops go on, so that the last real-time requests are not
    /// answered on an empty device; less, if all of these have been answered.
    pub cool_down: Duration,
    /// How long after the end late arrivals are still asked for; what is left then is counted as unsent.
    pub grace: Duration,
}

/// One request: times from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// When it was scheduled; for closed loops when it was asked for.
    pub due: Nanos,
    /// When it was sent.
    pub sent: Nanos,
    /// When it was answered.
    pub done: Nanos,
    /// When it was on the device, first block to last, where the answer says so.
    pub on_device: Option<(Nanos, Nanos)>,
    /// From the task's submission to its first block, where it displaced less urgent work.
    pub preempt: Option<Nanos>,
}

impl Record {
    /// First block to last, where the answer says so.
    pub fn compute(&self) -> Option<Nanos> {
        self.on_device.map(|(begin, end)| end.since(begin))
    }
}

/// What came of one client: everything from the start of the run, warm-up included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlayedClient {
    /// Requests that were answered, in the order of their answers.
    pub records: Vec<Record>,
    /// Scheduled times of requests inside the window that failed or were refused.
    pub failed: Vec<Nanos>,
    /// Scheduled times of arrivals that were never sent, because too many were under way.
    pub unsent: Vec<Nanos>,
    /// Arrivals inside the window that a newer one replaced.
    pub dropped: u64,
    /// The first failure.
    pub first_error: Option<String>,
}

impl PlayedClient {
    /// Why requests in the measured window failed, if some did: the first failure of the run.
    pub fn failure(&self) -> Option<&str> {
        self.first_error.as_deref().filter(|_| !self.failed.is_empty())
    }
}

impl Run {
    /// The measured window, from the start of the run.
    pub fn window(&self) -> Range<Nanos> {
        Nanos::from(self.warm_up)..Nanos::from(self.warm_up + self.measured)
    }

    /// When arrivals end, from the start of the run.
    pub fn end(&self) -> Nanos {
        self.window().end
    }

    /// Whether a record of the client of this index belongs to the measured window: of closed loops by
    /// answer, of all others by scheduled arrival.
    pub fn is_measured(&self, client: usize, record: &Record) -> bool {
        let closed = matches!(self.clients[client].arrivals, Arrivals::Closed { .. });
        self.window().contains(if closed { &record.done } else { &record.due })
    }

    /// The records of a client that belong to the measured window; `played` is what came of it.
    pub fn records<'a>(
        &'a self,
        client: usize,
        played: &'a PlayedClient,
    ) -> impl Iterator<Item = &'a Record> {
        played.records.iter().filter(move |record| self.is_measured(client, record))
    }

    /// Scheduled times of a client's arrivals inside the measured window that were never sent.
    pub fn unsent<'a>(&self, played: &'a PlayedClient) -> impl Iterator<Item = &'a Nanos> {
        let window = self.window();
        played.unsent.iter().filter(move |due| window.contains(due))
    }

    /// Latencies of a client in microseconds. What was never sent took at least as long as it was waited for.
    pub fn latencies_us(&self, client: usize, played: &PlayedClient) -> Samples {
        let given_up = self.end() + Nanos::from(self.grace);
        let answered = self.records(client, played).map(|record| record.done.since(record.due));
        let unsent = self.unsent(played).map(|due| given_up.since(*due));
        answered.chain(unsent).map(Nanos::as_micros_f64).collect()
    }

    /// Answers per second that a client got in the measured window.
    pub fn per_s(&self, client: usize, played: &PlayedClient) -> f64 {
        let window = self.window();
        let done = played.records.iter().map(|record| record.done);
        let inside: Vec<Nanos> = done.clone().filter(|done| window.contains(done)).collect();
        match self.clients[client].arrivals {
            Arrivals::Closed { .. } => {
                // The loop began with the run, at zero.
                let before = done.filter(|&done| done < window.start).max().unwrap_or(Nanos::ZERO);
                let window = Window { before, from: window.start, to: window.end };
                rate_per_s(&inside, window)
            }
            _ => inside.len() as f64 / self.measured.as_secs_f64(),
        }
    }
}

/// `rate_hz` times per second, which is above zero and finite, from the fraction `phase` of a period on, as
/// long as they lie before `length`. Each time is computed from its index, so that rounding does not add up.
pub fn periodic(rate_hz: f64, phase: f64, length: Nanos) -> Vec<Nanos> {
    assert!(rate_hz.is_finite() && rate_hz > 0.0, "{rate_hz} is no rate");
    let time = |index: u64| Nanos(((index as f64 + phase) * 1e9 / rate_hz) as u64);
    (0..).map(time).take_while(|&time| time < length).collect()
}

/// Times of a Poisson process of `rate_hz` per second, which is above zero, as long as they lie before
/// `length`.
pub fn poisson(rate_hz: f64, rng: &mut Rng, length: Nanos) -> Vec<Nanos> {
    let mut times = Vec::new();
    let mut at_s = 0.0;
    loop {
        at_s -= (1.0 - rng.unit_f64()).ln() / rate_hz;
        let time = Nanos((at_s * 1e9) as u64);
        if time >= length {
            return times;
        }
        times.push(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_arrivals_do_not_drift() {
        let times = periodic(3.0, 0.5, Nanos::from_millis(100_000));
        assert_eq!(times.len(), 300);
        assert_eq!((times[0].0, times[299].0), (166_666_666, 99_833_333_333));
    }

    #[test]
    fn the_end_is_exclusive_and_a_late_phase_leaves_nothing() {
        let count = |phase, length| periodic(1e8, phase, Nanos(length)).len();
        assert_eq!((count(0.0, 20), count(0.0, 21), count(2.0, 20)), (2, 3, 0));
    }
}
