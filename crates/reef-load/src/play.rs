//! Plays a run in real time with callers: threads that ask, each for one inference at a time.
//!
//! What they are to do is decided by a [`Script`], which they share under one mutex. It is held for a
//! decision, never while a caller waits for its turn, sleeps until a request is due or asks.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use reef_base::{MonotonicClock, Nanos};

use crate::caller::Caller;
use crate::pace::{keep_to_core, sleep_until, wake_on_time};
use crate::run::{PlayedClient, Run};
use crate::script::{Script, Step};

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
    let counts: Vec<usize> = callers.iter().map(Vec::len).collect();
    let script = Script::new(run, &counts);
    let turns = (0..script.seat_count()).map(|_| Condvar::new()).collect();
    let stage = Stage { start, script: Mutex::new(script), turns };
    let (begin, end) = thread::scope(|scope| {
        let cores = run.clients.iter().zip(&counts).flat_map(|(client, &count)| vec![client.core; count]);
        for ((seat, caller), core) in callers.iter_mut().flatten().enumerate().zip(cores) {
            let stage = &stage;
            scope.spawn(move || {
                core.into_iter().for_each(keep_to_core);
                Seated { stage, seat }.work(&mut **caller);
            });
        }
        let window = run.window();
        sleep_until(start + window.start);
        let begin = at_begin();
        sleep_until(start + window.end);
        let end = at_end();
        stage.tell(Script::end_window);
        (begin, end)
    });
    let script = stage.script.into_inner().expect("a panic would have ended the scope");
    (script.into_played(), begin, end)
}

/// What all callers of a run share.
struct Stage<'a> {
    start: Nanos,
    script: Mutex<Script<'a>>,
    /// One for each seat: whoever sits there waits until it is woken.
    turns: Vec<Condvar>,
}

impl<'a> Stage<'a> {
    /// From the start of the run.
    fn now(&self) -> Nanos {
        MonotonicClock::read().since(self.start)
    }

    /// Also after a panic: whoever waits goes on and ends, and `play` panics then.
    fn lock(&self) -> MutexGuard<'_, Script<'a>> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the script know of an event and wakes whom it concerns.
    fn tell(&self, event: impl FnOnce(&mut Script<'a>)) {
        let mut script = self.lock();
        event(&mut script);
        let woken = script.take_woken();
        drop(script);
        woken.iter().for_each(|&seat| self.turns[seat].notify_one());
    }
}

/// A caller's place on the stage. Who leaves it ends, even by a panic: nobody waits for it any longer.
struct Seated<'s, 'a> {
    stage: &'s Stage<'a>,
    seat: usize,
}

impl Seated<'_, '_> {
    fn work(self, caller: &mut dyn Caller) {
        wake_on_time();
        let (stage, seat) = (self.stage, self.seat);
        while let Some(due) = self.next() {
            sleep_until(stage.start + due);
            let sent = stage.now();
            let answer = caller.call_at(stage.start + due);
            let done = stage.now();
            stage.tell(|script| script.answered(seat, sent, done, answer));
        }
    }

    /// When the next request is due; waits until that is known. `None` if there is none.
    fn next(&self) -> Option<Nanos> {
        let stage = self.stage;
        let mut script = stage.lock();
        loop {
            let now = stage.now();
            let until = match script.next(now, self.seat) {
                Step::Ask(due) => return Some(due),
                Step::Wait { until } => until,
                Step::End => return None,
            };
            // Whatever it is woken by, the script is asked again.
            let turn = &stage.turns[self.seat];
            script = match until {
                None => turn.wait(script).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let waited = turn.wait_timeout(script, until.since(now).into());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Drop for Seated<'_, '_> {
    fn drop(&mut self) {
        self.stage.tell(|script| script.leave(self.seat));
    }
}

#[cfg(test)]
mod tests;
