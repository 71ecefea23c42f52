//! Load generators: an open loop, whose arrivals are decided beforehand, and a closed loop, which asks again
//! as soon as it is answered.
//!
//! Open loop: a set of callers takes arrivals off one counter; each waits for its arrival's time and calls.
//! When all callers are busy, arrivals wait here, and their latency still counts from the scheduled time.
//! After `grace` beyond the last arrival no call is started any more; what was not called is counted as
//! `unsent`, never dropped silently.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use reef_base::{MonotonicClock, Nanos};

use crate::callers::{Caller, Reply};
use crate::error::BenchError;
use crate::recorder::{Samples, Window, rate_per_s};
use crate::schedule::Schedule;

/// How long after a refusal a closed-loop client asks again.
const BACK_OFF: Duration = Duration::from_millis(10);

/// What came of one load.
#[derive(Debug, Default)]
pub struct LoadResult {
    /// Latencies in microseconds: open loop from the scheduled arrival, closed loop from the call.
    pub latency_us: Samples,
    /// Time from the call to the first block, of calls that said so and preempted, in microseconds.
    pub preempt_us: Samples,
    /// Time on the device in microseconds, of calls that said so.
    pub compute_us: Samples,
    /// When calls were answered, in rising order.
    pub completed: Vec<Nanos>,
    /// The time that a closed loop was measured; `None` for an open loop, whose rate is its schedule's.
    pub window: Option<Window>,
    /// Calls that failed.
    pub failed: u64,
    /// Arrivals that were never called: the callers were too busy until long after their time.
    pub unsent: u64,
    /// The first failure.
    pub first_error: Option<BenchError>,
}

impl LoadResult {
    /// Answers per second of a closed loop; see [`rate_per_s`].
    pub fn rate_per_s(&self) -> Option<f64> {
        self.window.map(|window| rate_per_s(&self.completed, window))
    }

    /// The first failure as an error, if there was one.
    pub fn into_ok(mut self) -> Result<LoadResult, BenchError> {
        match self.first_error.take() {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    /// Adds what another caller of the same open loop measured.
    fn merge(&mut self, other: LoadResult) {
        self.latency_us.extend(&other.latency_us);
        self.preempt_us.extend(&other.preempt_us);
        self.compute_us.extend(&other.compute_us);
        self.completed.extend(other.completed);
        self.completed.sort_unstable();
        self.failed += other.failed;
        self.unsent += other.unsent;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn record(&mut self, from: Nanos, answer: Result<Reply, BenchError>) {
        match answer {
            Ok(reply) => {
                let now = MonotonicClock::read();
                self.latency_us.push_micros(now.since(from));
                self.completed.push(now);
                if let Some(first_block) = reply.first_block.filter(|_| reply.preempted) {
                    self.preempt_us.push_micros(first_block);
                }
                if let Some(compute) = reply.compute {
                    self.compute_us.push_micros(compute);
                }
            }
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }
}

/// An open loop over a schedule.
#[derive(Clone, Debug)]
pub struct OpenLoop {
    /// When requests arrive, from the start.
    pub schedule: Schedule,
    /// Arrivals outside are called but not recorded.
    pub measured: Range<Nanos>,
    /// How long after the schedule's end late arrivals are still called.
    pub grace: Duration,
}

impl OpenLoop {
    /// Runs the schedule on `callers`, time zero at `start`; returns when all its calls are answered.
    pub fn run(&self, start: Nanos, callers: &mut [Box<dyn Caller>]) -> LoadResult {
        let next = AtomicUsize::new(0);
        let workers: Vec<LoadResult> = thread::scope(|scope| {
            let spawn = |caller| scope.spawn(|| self.work(start, &next, caller));
            let handles: Vec<_> = callers.iter_mut().map(spawn).collect();
            handles.into_iter().map(|worker| worker.join().expect("a caller does not panic")).collect()
        });
        let mut all = LoadResult::default();
        workers.into_iter().for_each(|worker| all.merge(worker));
        all
    }

    fn work(&self, start: Nanos, next: &AtomicUsize, caller: &mut Box<dyn Caller>) -> LoadResult {
        wake_on_time();
        let mut result = LoadResult::default();
        let give_up = start + self.schedule.duration + Nanos::from(self.grace);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.schedule.count() {
                return result;
            }
            let arrival = self.schedule.arrival(index);
            let due = start + arrival;
            sleep_until(due);
            if MonotonicClock::read() > give_up {
                result.unsent += 1;
                continue;
            }
            let answer = caller.call();
            if self.measured.contains(&arrival) {
                result.record(due, answer);
            }
        }
    }
}

/// Clients that ask again as soon as they are answered, until they are stopped.
#[derive(Debug)]
pub struct ClosedLoop {
    shared: std::sync::Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    measured: Mutex<Measured>,
}

/// What was measured since `from`.
#[derive(Debug)]
struct Measured {
    result: LoadResult,
    from: Nanos,
    /// The last answer before that.
    before: Option<Nanos>,
}

impl Measured {
    fn new(before: Option<Nanos>) -> Measured {
        Measured { result: LoadResult::default(), from: MonotonicClock::read(), before }
    }

    /// Ends the window here and begins the next one.
    fn take(&mut self) -> LoadResult {
        let last = self.result.completed.last().copied().or(self.before);
        let ended = std::mem::replace(self, Measured::new(last));
        let window = Window { before: ended.before, from: ended.from, to: self.from };
        LoadResult { window: Some(window), ..ended.result }
    }
}

impl ClosedLoop {
    /// One client thread per caller.
    pub fn start(callers: Vec<Box<dyn Caller>>) -> ClosedLoop {
        let measured = Mutex::new(Measured::new(None));
        let shared = std::sync::Arc::new(Shared { stop: AtomicBool::new(false), measured });
        let spawn = |mut caller: Box<dyn Caller>| {
            let shared = shared.clone();
            thread::spawn(move || shared.work(&mut *caller))
        };
        let threads = callers.into_iter().map(spawn).collect();
        ClosedLoop { shared, threads }
    }

    /// Forgets what was measured so far; a new window begins.
    pub fn restart(&self) {
        self.take();
    }

    /// What was measured since the last call of this or of [`ClosedLoop::restart`]; measuring goes on from
    /// zero.
    pub fn take(&self) -> LoadResult {
        self.shared.lock().take()
    }

    /// Lets the clients finish their calls and ends them.
    pub fn stop(mut self) -> LoadResult {
        self.end();
        self.take()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a caller does not panic");
        }
    }
}

impl Drop for ClosedLoop {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Measured> {
        self.measured.lock().expect("recording does not panic")
    }

    fn work(&self, caller: &mut dyn Caller) {
        while !self.stop.load(Ordering::Relaxed) {
            let begin = MonotonicClock::read();
            let answer = caller.call();
            let refused = answer.is_err();
            self.lock().result.record(begin, answer);
            if refused {
                thread::sleep(BACK_OFF);
            }
        }
    }
}

/// Sleeps until `due`; returns at once when it has passed.
pub(crate) fn sleep_until(due: Nanos) {
    let left = due.since(MonotonicClock::read());
    if left > Nanos::ZERO {
        thread::sleep(left.into());
    }
}

/// Asks the system to wake the calling thread when it said, not up to 50 µs later. Best effort.
pub(crate) fn wake_on_time() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::callers::HttpCaller;
    use crate::http::tests::{fake_server, infer_answer};
    use crate::http::{Client, InferParameters, Prepared};

    fn callers(address: std::net::SocketAddr, count: usize) -> Vec<Box<dyn Caller>> {
        let request = Arc::new(Prepared::infer("m", &[], InferParameters::default()));
        (0..count)
            .map(|_| Box::new(HttpCaller::new(Client::new(address), request.clone())) as Box<dyn Caller>)
            .collect()
    }

    /// The server stalls its first answer until every arrival is overdue, then answers at once. A client that
    /// counted from sending would see one slow request; counted from the schedule, all are.
    #[test]
    fn an_open_loop_counts_the_delay_of_requests_that_a_stall_kept_back() {
        let schedule = Schedule { period: Nanos(1_000_000), phase: Nanos::ZERO, duration: Nanos(20_000_000) };
        let released = Arc::new(Mutex::new(None));
        let seen = released.clone();
        let address = fake_server(move |number, _| {
            if number == 0 {
                let end = MonotonicClock::read() + schedule.duration;
                while MonotonicClock::read() < end {
                    thread::yield_now();
                }
                *seen.lock().unwrap() = Some(end);
            }
            Some(infer_answer(&[1], json!({})))
        });
        let start = MonotonicClock::read();
        let open = OpenLoop { schedule, measured: Nanos::ZERO..Nanos::MAX, grace: Duration::from_secs(60) };
        let result = open.run(start, &mut callers(address, 1)).into_ok().unwrap();
        let end = released.lock().unwrap().unwrap();
        assert_eq!((result.latency_us.len(), result.unsent), (20, 0));
        for (index, &latency_us) in result.latency_us.as_slice().iter().enumerate() {
            let overdue = end.since(start + schedule.arrival(index));
            assert!(
                overdue > Nanos::ZERO && latency_us >= overdue.as_micros_f64(),
                "{index}: {latency_us} µs"
            );
        }
    }

    #[test]
    fn arrivals_that_cannot_be_sent_are_counted() {
        let schedule = Schedule { period: Nanos(1), phase: Nanos::ZERO, duration: Nanos(50) };
        let address = fake_server(move |_, _| Some(infer_answer(&[1], json!({}))));
        let open = OpenLoop { schedule, measured: Nanos::ZERO..Nanos::MAX, grace: Duration::ZERO };
        let start = MonotonicClock::read();
        sleep_until(start + Nanos(1_000));
        let result = open.run(start, &mut callers(address, 1));
        assert_eq!((result.unsent, result.failed, result.latency_us.len()), (50, 0, 0));
    }

    #[test]
    fn preemptions_and_failures_are_told_apart() {
        let address = fake_server(move |number, _| match number {
            0 => Some(infer_answer(&[1], json!({"preempt_us": 7, "compute_us": 3}))),
            1 => Some(infer_answer(&[1], json!({"queue_us": 90}))),
            _ => Some(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_vec()),
        });
        let schedule = Schedule { period: Nanos(1), phase: Nanos::ZERO, duration: Nanos(3) };
        let open = OpenLoop { schedule, measured: Nanos::ZERO..Nanos::MAX, grace: Duration::from_secs(60) };
        let result = open.run(MonotonicClock::read(), &mut callers(address, 1));
        assert_eq!(result.preempt_us.as_slice(), [7.0]);
        assert_eq!(result.compute_us.as_slice(), [3.0]);
        assert_eq!((result.latency_us.len(), result.failed), (2, 1));
        assert!(result.into_ok().is_err());
    }

    #[test]
    fn a_closed_loop_asks_until_it_is_stopped() {
        let address = fake_server(move |_, _| Some(infer_answer(&[1], json!({}))));
        let load = ClosedLoop::start(callers(address, 1));
        let mut seen = 0;
        while seen < 3 {
            seen += load.take().completed.len();
            thread::yield_now();
        }
        let rest = load.stop().into_ok().unwrap();
        assert!(rest.completed.is_sorted());
    }

    #[test]
    fn each_window_of_a_closed_loop_begins_where_the_last_one_ended() {
        let address = fake_server(move |_, _| Some(infer_answer(&[1], json!({}))));
        let load = ClosedLoop::start(callers(address, 1));
        let answered = || loop {
            let result = load.take();
            if !result.completed.is_empty() {
                return result;
            }
            thread::yield_now();
        };
        let first = answered();
        let second = answered();
        let (one, two) = (first.window.unwrap(), second.window.unwrap());
        assert!(
            one.to <= two.from
                && two.from <= second.completed[0]
                && *second.completed.last().unwrap() <= two.to
        );
        assert!(two.before >= first.completed.last().copied() && two.before <= Some(two.from));
        assert!(second.rate_per_s().unwrap() > 0.0);
    }
}
