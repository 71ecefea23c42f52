//! The place where one request's end is put and waited for.
//!
//! | field | written by | read by |
//! |---|---|---|
//! | `finished` | whoever ends the request, once per use | the caller that waits, once |
//! | `request` | the submission, under the core's lock | a cancellation, under the core's lock |
//! | `cancelled` | the caller | the submission, under the core's lock |

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use reef_base::{Class, Nanos};
use reef_device::TaskCounters;
use reef_sched::RequestId;

use crate::error::InferError;
use crate::plans::Buffers;
use crate::request::Timings;

const NO_REQUEST: u64 = u64::MAX;

/// What is known about a request that got its outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) class: Class,
    pub(crate) timings: Timings,
    pub(crate) first_block: Nanos,
    pub(crate) all_cus: Option<Nanos>,
    pub(crate) preempted: bool,
    pub(crate) late: bool,
    pub(crate) counters: TaskCounters,
}

/// The end of a request, with its buffers if it had any yet.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) buffers: Option<Buffers>,
    pub(crate) result: Result<Record, InferError>,
}

#[derive(Debug)]
pub(crate) struct Ticket {
    state: Mutex<State>,
    ready: Condvar,
    request: AtomicU64,
    cancelled: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    finished: Option<Finished>,
    waker: Option<Waker>,
}

impl Ticket {
    pub(crate) fn new() -> Self {
        Ticket {
            state: Mutex::default(),
            ready: Condvar::new(),
            request: AtomicU64::new(NO_REQUEST),
            cancelled: AtomicBool::new(false),
        }
    }

    /// Makes a ticket whose end was taken ready for its next request.
    pub(crate) fn reset(&self) {
        self.request.store(NO_REQUEST, Ordering::Release);
        self.cancelled.store(false, Ordering::Release);
    }

    pub(crate) fn set_request(&self, id: RequestId) {
        self.request.store(id.0, Ordering::Release);
    }

    /// The scheduler's request, once there is one.
    pub(crate) fn request(&self) -> Option<RequestId> {
        let id = self.request.load(Ordering::Acquire);
        (id != NO_REQUEST).then_some(RequestId(id))
    }

    pub(crate) fn set_cancelled(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Puts the end and wakes who waits. Must not be called under the core's lock: wakers are foreign code.
    pub(crate) fn finish(&self, finished: Finished) {
        let mut state = self.lock();
        assert!(state.finished.is_none(), "a request ends once");
        state.finished = Some(finished);
        let waker = state.waker.take();
        drop(state);
        self.ready.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn try_take(&self) -> Option<Finished> {
        self.lock().finished.take()
    }

    /// Blocks until the end is there.
    pub(crate) fn take(&self) -> Finished {
        let mut state = self.lock();
        loop {
            match state.finished.take() {
                Some(finished) => return finished,
                None => state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    pub(crate) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Finished> {
        let mut state = self.lock();
        match state.finished.take() {
            Some(finished) => Poll::Ready(finished),
            None => {
                match &mut state.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
