//! Calls into tract, whose parser and operators may panic on malformed models.
//!
//! A panic becomes an error here. Unwind safety: callers drop whatever the call was working on when it fails,
//! so that no half-changed value is seen again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tract_onnx::prelude::TractResult;

/// Runs `call`; a panic or an error becomes its message, with all causes.
pub(crate) fn guarded<T>(call: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(panic) => Err(format!("internal failure: {}", message_of(&*panic))),
    }
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_errors_become_messages() {
        assert_eq!(guarded(|| Ok(1)), Ok(1));
        assert_eq!(guarded::<()>(|| panic!("at {}", 7)), Err("internal failure: at 7".into()));
    }
}
