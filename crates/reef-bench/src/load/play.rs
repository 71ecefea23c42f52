//! Plays a run with callers: threads that ask, each for one inference at a time.
//!
//! Every client has one *feed*, which its callers share and which says when the next request is due. What a
//! feed hands out is sent, whatever the server does meanwhile, and counts from the time it was due:
//!
//! | arrivals | due | handed out | ends |
//! |---|---|---|---|
//! | open | as scheduled | in order | with the schedule |
//! | closed | after a caller's pause | to that caller | with the run |
//! | after | so long after each answer of another client | in order | with the run or that client |
//!
//! With *newest only* an open loop drops what is overdue but for the last. What has not been handed out
//! `grace` after the end is unsent.
//!
//! Best-effort closed loops go on beyond the end of the run, until the last real-time request is answered or
//! `cool_down` is over, so that none of these finishes on an empty device.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use reef_base::{MonotonicClock, Nanos};

use super::{Arrivals, BACK_OFF, ClassName, PlayedClient, Record, Run, sleep_until, wake_on_time};
use crate::callers::{Caller, Reply};
use crate::error::BenchError;

/// From the call until time zero of the run: every thread is waiting by then.
const LEAD: Duration = Duration::from_millis(30);

/// The callers of each client of a run, in its order. Clients without callers are not played.
pub type Callers = Vec<Vec<Box<dyn Caller>>>;

/// Plays `run`. `at_begin` and `at_end` are called at the begin and the end of the measured window. Returns
/// when every request has ended.
pub fn play<B, E>(
    run: &Run,
    callers: &mut Callers,
    at_begin: impl FnOnce() -> B,
    at_end: impl FnOnce() -> E,
) -> (Vec<PlayedClient>, B, E) {
    let start = MonotonicClock::read() + Nanos::from(LEAD);
    let feeds = callers.iter().map(|own| Feed::new(own.len())).collect();
    let stage = Stage { run, start, feeds, real_time_over: Mutex::new(false), rest: Condvar::new() };
    // Who waits for a client that nobody plays waits for nothing.
    let idle = (0..callers.len()).filter(|&index| callers[index].is_empty());
    idle.for_each(|index| stage.tell_end(index));
    let stage = &stage;
    thread::scope(|scope| {
        let mut real_time = Vec::new();
        let mut best_effort = Vec::new();
        for (index, callers) in callers.iter_mut().enumerate() {
            for caller in callers {
                let work = scope.spawn(move || stage.work(index, &mut **caller));
                match run.clients[index].class {
                    ClassName::RealTime => real_time.push((index, work)),
                    ClassName::BestEffort => best_effort.push((index, work)),
                }
            }
        }
        let window = run.window();
        sleep_until(start + window.start);
        let begin = at_begin();
        sleep_until(start + window.end);
        let end = at_end();
        let mut played = vec![PlayedClient::default(); run.clients.len()];
        let mut collect = |workers: Vec<(usize, thread::ScopedJoinHandle<'_, PlayedClient>)>| {
            for (index, work) in workers {
                merge(&mut played[index], work.join().expect("a caller does not panic"));
            }
        };
        collect(real_time);
        *stage.lock_over() = true;
        stage.rest.notify_all();
        collect(best_effort);
        for (played, feed) in played.iter_mut().zip(&stage.feeds) {
            played.dropped = feed.dropped.load(Ordering::Relaxed) as u64;
            played.records.sort_by_key(|record| record.done);
        }
        (played, begin, end)
    })
}

fn merge(all: &mut PlayedClient, one: PlayedClient) {
    all.records.extend(one.records);
    all.failed.extend(one.failed);
    all.unsent.extend(one.unsent);
    all.first_error = all.first_error.take().or(one.first_error);
}

/// What all callers of a run share.
struct Stage<'a> {
    run: &'a Run,
    start: Nanos,
    feeds: Vec<Feed>,
    real_time_over: Mutex<bool>,
    /// Best-effort closed loops rest here between two requests.
    rest: Condvar,
}

/// What the callers of one client share.
#[derive(Default)]
struct Feed {
    /// Open loops: the next arrival to hand out.
    next: AtomicUsize,
    dropped: AtomicUsize,
    /// Of clients that wait for another one.
    answers: Mutex<Answers>,
    answered: Condvar,
    /// Callers of this client that have not ended.
    callers: AtomicUsize,
}

/// Answers of another client that were not followed up yet.
#[derive(Default)]
struct Answers {
    due: VecDeque<Nanos>,
    over: bool,
}

impl Feed {
    fn new(callers: usize) -> Feed {
        Feed { callers: AtomicUsize::new(callers), ..Feed::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().expect("nothing panics while it holds the answers")
    }
}

/// What a caller is to do next.
enum Next {
    /// Ask at this time, or at once if it has passed.
    Ask(Nanos),
    /// Nothing any more: this arrival comes too late to be sent.
    Unsent(Nanos),
    End,
}

impl Stage<'_> {
    fn work(&self, index: usize, caller: &mut dyn Caller) -> PlayedClient {
        wake_on_time();
        let client = &self.run.clients[index];
        let scheduled = matches!(client.arrivals, Arrivals::Open { .. });
        let mut played = PlayedClient::default();
        let mut free = Nanos::ZERO;
        loop {
            let due = match self.next(index, free) {
                Next::Ask(due) => due,
                Next::Unsent(due) => {
                    played.unsent.push(due);
                    continue;
                }
                Next::End => break,
            };
            sleep_until(self.start + due);
            let sent = MonotonicClock::read();
            let answer = caller.call_at(self.start + due);
            let done = MonotonicClock::read().since(self.start);
            free = done;
            let refused = answer.is_err();
            record(&mut played, answer, [due, sent.since(self.start), done], &self.run.window());
            if !refused {
                self.tell(index, done);
            } else if !scheduled {
                thread::sleep(BACK_OFF);
                free = MonotonicClock::read().since(self.start);
            }
        }
        if self.feeds[index].callers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.tell_end(index);
        }
        played
    }

    fn next(&self, index: usize, free: Nanos) -> Next {
        let client = &self.run.clients[index];
        match &client.arrivals {
            Arrivals::Open { times, newest_only } => {
                self.next_arrival(&self.feeds[index], times, *newest_only)
            }
            Arrivals::Closed { think } => {
                let due = free + Nanos::from(*think);
                let over = match client.class {
                    ClassName::RealTime => due >= self.run.end(),
                    ClassName::BestEffort => self.rest_until(due),
                };
                if over { Next::End } else { Next::Ask(due) }
            }
            Arrivals::After { .. } => self.next_answer(&self.feeds[index]),
        }
    }

    fn next_arrival(&self, feed: &Feed, times: &[Nanos], newest_only: bool) -> Next {
        let now = MonotonicClock::read().since(self.start);
        let newest = |from: usize| match newest_only {
            true => times.partition_point(|&time| time <= now).saturating_sub(1).max(from),
            false => from,
        };
        let taken = feed.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |from| {
            (from < times.len()).then(|| newest(from) + 1)
        });
        let Ok(from) = taken else { return Next::End };
        let index = newest(from);
        let skipped = times[from..index].iter().filter(|time| self.run.window().contains(time)).count();
        feed.dropped.fetch_add(skipped, Ordering::Relaxed);
        self.ask(times[index])
    }

    /// Asks for what is due, unless it is too late for that.
    fn ask(&self, due: Nanos) -> Next {
        let now = MonotonicClock::read().since(self.start);
        match now > self.run.end() + Nanos::from(self.run.grace) {
            true => Next::Unsent(due),
            false => Next::Ask(due),
        }
    }

    fn lock_over(&self) -> MutexGuard<'_, bool> {
        self.real_time_over.lock().expect("nothing panics while it holds it")
    }

    /// Waits until a best-effort closed loop may ask again; true if it is to end instead.
    fn rest_until(&self, due: Nanos) -> bool {
        if due >= self.run.end() + Nanos::from(self.run.cool_down) {
            return true;
        }
        let mut over = self.lock_over();
        loop {
            let left = (self.start + due).since(MonotonicClock::read());
            if *over || left == Nanos::ZERO {
                return *over;
            }
            let waited = self.rest.wait_timeout(over, left.into());
            over = waited.expect("nothing panics while it holds it").0;
        }
    }

    fn next_answer(&self, feed: &Feed) -> Next {
        let mut answers = feed.lock();
        loop {
            match answers.due.pop_front() {
                Some(due) if due >= self.run.end() => return Next::End,
                Some(due) => return self.ask(due),
                None if answers.over => return Next::End,
                None => answers = feed.answered.wait(answers).expect("nothing panics while it holds them"),
            }
        }
    }

    /// Clients that wait for this one have an answer to follow up.
    fn tell(&self, index: usize, done: Nanos) {
        for (client, feed) in self.run.clients.iter().zip(&self.feeds) {
            if let Arrivals::After { client, think } = client.arrivals
                && client == index
            {
                feed.lock().due.push_back(done + Nanos::from(think));
                feed.answered.notify_one();
            }
        }
    }

    /// Clients that wait for this one will get no more of it.
    fn tell_end(&self, index: usize) {
        for (client, feed) in self.run.clients.iter().zip(&self.feeds) {
            if matches!(client.arrivals, Arrivals::After { client, .. } if client == index) {
                feed.lock().over = true;
                feed.answered.notify_all();
            }
        }
    }
}

/// `times`: due, sent, done.
fn record(
    played: &mut PlayedClient,
    answer: Result<Reply, BenchError>,
    [due, sent, done]: [Nanos; 3],
    window: &Range<Nanos>,
) {
    match answer {
        Ok(reply) => {
            let begin = reply.queue.map(|queue| sent + queue);
            let on_device = reply.compute.map(|compute| {
                let begin = begin.unwrap_or(done - compute);
                (begin, (begin + compute).min(done))
            });
            let preempt = reply.first_block.filter(|_| reply.preempted);
            played.records.push(Record { due, sent, done, on_device, preempt });
        }
        Err(error) => {
            if window.contains(&due) {
                played.failed.push(due);
            }
            played.first_error.get_or_insert(error.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
