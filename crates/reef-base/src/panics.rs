//! Panics of code that is not trusted, as values: caught, and not printed.
//!
//! A panic's hook runs before anything can catch it, and the standard one writes to standard error. The first
//! call here puts a hook before the one that is in force; while a thread is inside [`catch`], its panics are
//! noted instead of printed. Panics of other threads, and of the same one outside, go to the hook before, as
//! ever.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

/// A panic that was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaughtPanic {
    /// What it said.
    pub message: String,
    /// File and line, if the hook that notes them was in force.
    pub location: Option<String>,
}

impl std::fmt::Display for CaughtPanic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.location {
            Some(location) => write!(f, "{} ({location})", self.message),
            None => write!(f, "{}", self.message),
        }
    }
}

impl std::error::Error for CaughtPanic {}

thread_local! {
    /// Calls of [`catch`] that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Where the last panic inside was.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `call`; its panic is a value, and nothing is printed. Unwind safety is the caller's: what `call` was
/// working on when it panicked must not be seen again, nor dropped outside of `catch` if its code is not
/// trusted.
pub fn catch<T>(call: impl FnOnce() -> T) -> Result<T, CaughtPanic> {
    install();
    let inside = Inside::enter();
    let result = contain(call).map_err(|message| CaughtPanic { message, location: LOCATION.take() });
    drop(inside);
    result
}

/// Runs `call`; its panic is printed as ever, and its message is a value. Unwind safety as for [`catch`].
pub fn contain<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(message_of)
}

/// What a panic said. A payload of a foreign type may panic when it is dropped, so it is not.
pub fn message_of(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&str>() {
            Ok(text) => text.to_string(),
            Err(panic) => {
                std::mem::forget(panic);
                "without a message".into()
            }
        },
    }
}

/// Counts the thread in, and out again however the call ends.
struct Inside;

impl Inside {
    fn enter() -> Inside {
        DEPTH.set(DEPTH.get() + 1);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !note(info) {
                before(info);
            }
        }));
    });
}

/// Notes a panic inside of [`catch`]; false for one outside. A thread that is ending has no such memory any
/// more, and is outside.
fn note(info: &PanicHookInfo<'_>) -> bool {
    if DEPTH.try_with(Cell::get).unwrap_or(0) == 0 {
        return false;
    }
    let location = info.location().map(|at| {
        let file = at.file().rsplit('/').next().unwrap_or(at.file());
        format!("{file}:{}", at.line())
    });
    let _ = LOCATION.try_with(|last| *last.borrow_mut() = location);
    true
}
