//! A device of one compute unit under the scheduler, in virtual time: it runs one task at a time, the most
//! urgent on its board, and takes the time that each task is said to need.

use std::collections::BTreeMap;

use reef_base::{Nanos, TaskKey};
use reef_sched::{Action, Refusal, Request, RequestId, SchedOptions, Scheduler, Usage};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// Stopped on the device.
    Stopped,
    /// Refused after it was queued.
    Refused(Refusal),
}

/// What there is to say of a request that was taken.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub request: Request,
    /// What it needs of the device.
    pub needs: Nanos,
    pub started: Option<Nanos>,
    pub end: Option<(Nanos, End)>,
    /// Device time that it has had.
    pub had: Nanos,
}

struct Task {
    key: TaskKey,
    id: RequestId,
    first: Option<Nanos>,
}

pub struct Sim {
    pub sched: Scheduler,
    pub now: Nanos,
    pub known: BTreeMap<RequestId, Known>,
    /// Measure what tasks had of the device, not from their first block to their last, and nothing of those
    /// that were stopped: so estimates are exact.
    pub exact: bool,
    board: Vec<Task>,
    /// Bounds every test: events that may still happen.
    events_left: usize,
}

impl Sim {
    pub fn new(options: SchedOptions, events_max: usize) -> Sim {
        let (known, board) = (BTreeMap::new(), Vec::new());
        Sim {
            sched: Scheduler::new(options),
            now: Nanos::ZERO,
            known,
            exact: false,
            board,
            events_left: events_max,
        }
    }

    /// Submits a request that needs `needs` of the device.
    pub fn submit(&mut self, request: Request, needs: Nanos) -> Result<RequestId, Refusal> {
        let taken = self.sched.submit(self.now, request);
        if let Ok(id) = taken {
            let known = Known { request, needs, started: None, end: None, had: Nanos::ZERO };
            assert!(self.known.insert(id, known).is_none());
        }
        self.act();
        taken
    }

    pub fn cancel(&mut self, id: RequestId) {
        self.sched.cancel(id);
        self.act();
    }

    /// Lets time pass until `until`, or until nothing is left to happen.
    pub fn run_until(&mut self, until: Nanos) {
        while self.step(until) {}
    }

    /// To the next event, at most to `until`; false when that is reached.
    pub fn step(&mut self, until: Nanos) -> bool {
        self.events_left = self.events_left.checked_sub(1).expect("a bounded number of events");
        let first = (0..self.board.len()).min_by_key(|&at| self.board[at].key);
        let done_at = first.map(|at| {
            let known = &self.known[&self.board[at].id];
            self.now + (known.needs - known.had)
        });
        let next = [done_at, self.sched.next_wakeup(), Some(until)].into_iter().flatten().min().unwrap();
        let next = next.max(self.now);
        if let Some(at) = first {
            let task = &mut self.board[at];
            task.first.get_or_insert(self.now);
            self.known.get_mut(&task.id).unwrap().had += next - self.now;
        }
        self.now = next;
        if done_at.is_some_and(|done| done <= next) {
            self.complete(first.unwrap(), End::Done);
        }
        self.act();
        next < until
    }

    fn act(&mut self) {
        while let Some(action) = self.sched.next_action(self.now) {
            self.events_left = self.events_left.checked_sub(1).expect("a bounded number of events");
            match action {
                Action::Start { request, key } => {
                    let known = self.known.get_mut(&request).unwrap();
                    known.started = Some(self.now);
                    let possible = known.request.deadline.is_none_or(|at| self.now + known.needs <= at);
                    assert!(possible || !self.exact, "starts what cannot be in time: {known:?}");
                    self.board.push(Task { key, id: request, first: None });
                }
                Action::Refuse { request, why } => self.end(request, End::Refused(why)),
                Action::StartBatch { .. } | Action::Leave { .. } => unreachable!("no model batches here"),
                Action::CancelRunning { request } => {
                    let at = self.board.iter().position(|task| task.id == request).unwrap();
                    self.complete(at, End::Stopped);
                }
            }
        }
    }

    fn complete(&mut self, at: usize, end: End) {
        let Task { id, first, .. } = self.board.swap_remove(at);
        let had = self.known[&id].had;
        let ran = if self.exact { Some(had) } else { first.map(|first| self.now - first) };
        let usage = Usage {
            cu_time: had,
            service: ran.filter(|_| end == End::Done),
            stopped_after: ran.filter(|_| end == End::Stopped && !self.exact),
        };
        self.sched.on_complete(self.now, id, usage).expect("it is on the board");
        self.end(id, end);
    }

    fn end(&mut self, id: RequestId, end: End) {
        let known = self.known.get_mut(&id).unwrap();
        assert_eq!(known.end, None, "a request ends once");
        known.end = Some((self.now, end));
    }
}
