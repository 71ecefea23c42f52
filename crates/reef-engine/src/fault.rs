//! Panics: what is done about those of foreign code, and about our own. The rule stands in the crate's
//! documentation.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(crate) use reef_base::panics::{contain, message_of};

use crate::error::InferError;

/// Writes to the log. Where that goes is foreign code, too.
pub(crate) fn log(event: impl FnOnce()) {
    let _ = contain(event);
}

/// A value that is foreign, or holds what is: when it is dropped that may panic, which ends here.
pub(crate) struct Foreign<T>(Option<T>);

impl<T> From<T> for Foreign<T> {
    fn from(value: T) -> Self {
        Foreign(Some(value))
    }
}

impl<T> Deref for Foreign<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> Drop for Foreign<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        if let Err(panic) = contain(|| drop(value)) {
            log(|| tracing::error!(%panic, "foreign code panicked when it was let go"));
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Foreign<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How an engine ended, and who waits to hear of it.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    end: Mutex<Option<End>>,
    told: Condvar,
    /// Whether it has failed, to be seen without the lock.
    failed: AtomicBool,
}

#[derive(Clone, Debug)]
enum End {
    ShutDown,
    Failed(InferError),
}

impl Verdict {
    /// It was shut down, if it has not failed.
    pub(crate) fn shut_down(&self) {
        self.lock().get_or_insert(End::ShutDown);
        self.told.notify_all();
    }

    /// It has failed.
    pub(crate) fn fail(&self, fault: InferError) {
        *self.lock() = Some(End::Failed(fault));
        self.failed.store(true, Ordering::Release);
        self.told.notify_all();
    }

    /// Why it has failed, if it has.
    pub(crate) fn fault(&self) -> Option<InferError> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        match &*self.lock() {
            Some(End::Failed(fault)) => Some(fault.clone()),
            Some(End::ShutDown) | None => None,
        }
    }

    /// Blocks until it has ended; why, if it has failed.
    pub(crate) fn wait(&self) -> Option<InferError> {
        let end = self.told.wait_while(self.lock(), |end| end.is_none());
        match end.unwrap_or_else(PoisonError::into_inner).clone() {
            Some(End::Failed(fault)) => Some(fault),
            Some(End::ShutDown) | None => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<End>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_panics_becomes_a_message() {
        struct Spiteful;
        impl Drop for Spiteful {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(contain(|| 7), Ok(7));
        assert_eq!(contain::<()>(|| panic!("plain")), Err("plain".into()));
        assert_eq!(contain::<()>(|| panic!("at {}", 7)), Err("at 7".into()));
        let strange = contain::<()>(|| std::panic::panic_any(Spiteful));
        assert_eq!(strange, Err("without a message".into()));
        drop(Foreign::from(Spiteful));
    }
}
