//! The place where one request's end is put and waited for, and the promise to put it there.
//!
//! Invariant: whoever has a request on its way holds its [`Promise`], and a promise that is lost on that way,
//! because of a panic, ends the request with an error. So nobody waits for what nobody will say.
//!
//! | field | written by | read by |
//! |---|---|---|
//! | `finished` | whoever ends the request, once per use | the caller that waits, once |
//! | `lane` | the submission, before it takes the core's lock | a cancellation, before it takes the lock |
//! | `request` | the submission, under the core's lock | a cancellation, under the core's lock |
//! | `cancelled` | the caller | the submission, under the core's lock |
//! | `ended` | whoever ends the request, afterwards | the caller, while it works for the device |

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use reef_base::{Class, Nanos};
use reef_device::TaskCounters;
use reef_sched::RequestId;

use crate::error::InferError;
use crate::fault;
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
    lane: AtomicUsize,
    request: AtomicU64,
    cancelled: AtomicBool,
    ended: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    finished: Option<Finished>,
    waker: Option<Waker>,
    /// Threads that wait for `ready`.
    waiting: usize,
}

impl Ticket {
    pub(crate) fn new() -> Self {
        Ticket {
            state: Mutex::default(),
            ready: Condvar::new(),
            lane: AtomicUsize::new(0),
            request: AtomicU64::new(NO_REQUEST),
            cancelled: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Makes a ticket whose end was taken ready for its next request.
    pub(crate) fn reset(&self) {
        self.request.store(NO_REQUEST, Ordering::Release);
        self.cancelled.store(false, Ordering::Release);
        self.ended.store(false, Ordering::Release);
    }

    /// The request goes to this lane. Either the submission sees a cancellation or that sees this.
    pub(crate) fn set_lane(&self, lane: usize) {
        self.lane.store(lane, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Where the request is, or was last.
    pub(crate) fn lane(&self) -> usize {
        self.lane.load(Ordering::Acquire)
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
        fence(Ordering::SeqCst);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Puts the end and wakes who waits. A waker that panics harms nobody else.
    fn finish(&self, finished: Finished) {
        let mut state = self.lock();
        assert!(state.finished.is_none(), "a request ends once");
        state.finished = Some(finished);
        let (waker, waiting) = (state.waker.take(), state.waiting);
        drop(state);
        self.ended.store(true, Ordering::Release);
        if waiting > 0 {
            self.ready.notify_all();
        }
        if let Some(waker) = waker
            && let Err(panic) = fault::contain(|| waker.wake())
        {
            fault::log(|| tracing::error!(%panic, "the waker of a request panicked"));
        }
    }

    /// Whether the end is there, or was taken; a hint.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
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
                None => {
                    state.waiting += 1;
                    state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.waiting -= 1;
                }
            }
        }
    }

    /// Wakers are foreign code: none is cloned or dropped under the lock.
    pub(crate) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Finished> {
        let mut state = self.lock();
        if let Some(finished) = state.finished.take() {
            return Poll::Ready(finished);
        }
        if state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        drop(state);
        let waker = context.waker().clone();
        let mut state = self.lock();
        if let Some(finished) = state.finished.take() {
            return Poll::Ready(finished);
        }
        let before = state.waker.replace(waker);
        drop(state);
        drop(before);
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to end a request, held by whoever has the request on its way.
#[derive(Debug)]
pub(crate) struct Promise(Option<Arc<Ticket>>);

impl Promise {
    /// Of a ticket's next end.
    pub(crate) fn new(ticket: &Arc<Ticket>) -> Promise {
        Promise(Some(ticket.clone()))
    }

    /// The ticket.
    pub(crate) fn ticket(&self) -> &Ticket {
        self.0.as_ref().expect("a promise is kept once")
    }

    /// Ends the request. Must not be called under the core's lock: wakers are foreign code.
    pub(crate) fn keep(mut self, finished: Finished) {
        let ticket = self.0.take().expect("a promise is kept once");
        ticket.finish(finished);
    }

    /// Ends the request without outputs; as [`Promise::keep`].
    pub(crate) fn refuse(self, error: InferError) {
        self.keep(Finished { buffers: None, result: Err(error) });
    }

    /// Whoever made the ticket says by other means how the request ended, and nobody waits for it yet.
    pub(crate) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let Some(ticket) = self.0.take() else { return };
        // Who unwinds here may hold the core's lock, and wakers are foreign code: another thread calls them.
        let end = move || {
            let lost = InferError::EngineFailed("the request was lost by a bug".into());
            ticket.finish(Finished { buffers: None, result: Err(lost) });
        };
        if let Err(error) = std::thread::Builder::new().name("reef-lost".into()).spawn(end) {
            fault::log(|| tracing::error!(%error, "a request was lost, and nobody can be told"));
        }
    }
}
