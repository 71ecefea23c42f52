//! Copies of best-effort batches that take long: rows put together before a batch starts, and taken apart
//! when it has ended. A thread of the lowest priority makes them, so that nobody who waits for something more
//! urgent waits for them, be it on the thread that takes completions or on its core.
//!
//! | who | does |
//! |---|---|
//! | who carries out the effects of a step | hands a long copy in; if there is no room, makes it |
//! | the copying thread | makes it, leaves it at its lane as `copied`, calls the lane's signal |
//! | who takes the lane's completions | takes up what is left there: hands in the task, tells the ends |
//! | the copying thread, at the engine's end | makes what is still to be made, takes up what nobody took |
//! | who finds that the engine has failed | takes it up, and so does the copying thread from then on |
//!
//! So foreign wakers are called where they always are, but at the engine's end. A copy is in one place, and
//! who takes it from there goes on with it: each request is answered once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use reef_base::limits::LONG_COPIES_MAX;

use crate::effect::{EndBatch, Submit};
use crate::error::InferError;

/// A copy that is to be made.
pub(crate) enum Copy {
    /// Before a batch starts.
    Gather(Submit),
    /// After it has ended.
    Part(EndBatch),
}

/// One that was made.
pub(crate) enum Copied {
    Gathered(Submit),
    /// There are no buffers for it.
    Failed(Submit, InferError),
    Parted(EndBatch),
}

impl Copy {
    /// Bytes to be copied.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Copy::Gather(submit) => submit.gathering.as_ref().map_or(0, |gathering| gathering.bytes()),
            Copy::Part(batch) => batch.bytes(),
        }
    }

    /// Makes it.
    pub(crate) fn make(self) -> Copied {
        match self {
            Copy::Gather(mut submit) => match submit.gather() {
                Ok(()) => Copied::Gathered(submit),
                Err(error) => Copied::Failed(submit, error),
            },
            Copy::Part(mut batch) => {
                batch.part();
                Copied::Parted(batch)
            }
        }
    }

    /// Of which device.
    pub(crate) fn lane(&self) -> usize {
        match self {
            Copy::Gather(submit) => submit.model.lane,
            Copy::Part(batch) => batch.lane,
        }
    }
}

/// What waits for the copying thread.
#[derive(Default)]
pub(crate) struct Copies {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Copy>,
    /// Whether it takes more.
    open: bool,
    thread: Option<ThreadId>,
}

impl Copies {
    /// It takes copies from now on, for a thread that is to be started.
    pub(crate) fn open(&self) {
        self.inner().open = true;
    }

    /// Hands one in; gives it back if there is no room, or no thread.
    #[allow(clippy::result_large_err, reason = "the copy comes back as it was")]
    pub(crate) fn push(&self, copy: Copy) -> Result<(), Copy> {
        let mut inner = self.inner();
        if !inner.open || inner.waiting.len() >= LONG_COPIES_MAX {
            return Err(copy);
        }
        inner.waiting.push_back(copy);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// The caller is the thread.
    pub(crate) fn attach(&self) {
        self.inner().thread = Some(std::thread::current().id());
    }

    /// It takes no more, and ends with what it has.
    pub(crate) fn close(&self) {
        self.inner().open = false;
        self.changed.notify_one();
    }

    /// Whether the caller is the copying thread.
    pub(crate) fn is_here(&self) -> bool {
        self.inner().thread == Some(std::thread::current().id())
    }

    /// The next one, once there is one; `None` at the end.
    pub(crate) fn next(&self) -> Option<Copy> {
        let idle = |inner: &mut Inner| inner.open && inner.waiting.is_empty();
        let mut inner = self.changed.wait_while(self.inner(), idle).unwrap_or_else(PoisonError::into_inner);
        inner.waiting.pop_front()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
