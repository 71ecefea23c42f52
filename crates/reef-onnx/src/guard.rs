//! Calls into tract, whose parser and operators may panic on malformed models.
//!
//! A panic becomes an error here, and is not printed: what the caller says of it is all that a user sees.
//! Unwind safety: callers drop whatever the call was working on when it fails, so that no half-changed value
//! is seen again.

use reef_base::panics;
use tract_onnx::prelude::{TractError, TractResult};

/// Runs `call`; a panic or an error becomes its message, with all causes.
pub(crate) fn guarded<T>(call: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    attempt(call).map_err(|error| text(&error))
}

/// Runs `call`; a panic becomes an error of tract's kind.
pub(crate) fn attempt<T>(call: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    panics::catch(call).unwrap_or_else(|caught| Err(TractError::msg(format!("internal failure: {caught}"))))
}

/// An error with all causes, on one line.
pub(crate) fn text(error: &TractError) -> String {
    let text = format!("{error:#}");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_errors_become_messages() {
        assert_eq!(guarded(|| Ok(1)), Ok(1));
        let message = guarded::<()>(|| panic!("at {}", 7)).unwrap_err();
        assert!(message.starts_with("internal failure: at 7 (guard.rs:"), "{message}");
        let error = guarded::<()>(|| Err(TractError::msg("two\n  lines").context("why")));
        assert_eq!(error, Err("why: two lines".into()));
    }
}
