//! Why a question gets no answer. Every message names what was wrong and where.

use reef_engine::{FaultKind, InferError, WrongInput};

/// What can be done about a problem; each protocol has a status for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request is wrong.
    Invalid,
    /// There is no such model or version.
    NotFound,
    /// The protocol has it, this server does not.
    Unsupported,
    /// It may work later.
    Unavailable,
    /// The deadline passed or cannot be met.
    Late,
    /// The server's fault.
    Internal,
    /// Nobody is known by what was shown, or nothing was.
    Unauthenticated,
    /// Who asks may not.
    Forbidden,
    /// Who asks has had as much as it may have; there is more after so many seconds.
    Limited { retry_after_s: u32 },
}

/// Why a question gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Problem {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Problem { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    pub(crate) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(Kind::Unauthenticated, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, message)
    }

    pub(crate) fn limited(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self::new(Kind::Limited { retry_after_s }, message)
    }

    /// One of each kind: what every protocol has an answer for.
    #[cfg(test)]
    pub(crate) fn of_each_kind() -> [Problem; 8] {
        [
            Problem::invalid(""),
            Problem::not_found(""),
            Problem::unsupported(""),
            Problem::unavailable(""),
            Problem::internal(""),
            Problem::unauthenticated(""),
            Problem::forbidden(""),
            Problem::limited("", 1),
        ]
    }
}

impl From<InferError> for Problem {
    fn from(error: InferError) -> Self {
        let message = match &error {
            InferError::WrongInput { name, problem: WrongInput::DType { expected, got } } => {
                let (expected, got) = (expected.protocol_name(), got.protocol_name());
                format!("input '{name}': expected {expected}, got {got}")
            }
            InferError::WrongInput { name, problem: WrongInput::NeedsTexts { got } } => {
                format!("input '{name}': expected BYTES, got {}", got.protocol_name())
            }
            InferError::WrongInput { name, problem: WrongInput::TakesNoTexts { expected } } => {
                format!("input '{name}': expected {}, got BYTES", expected.protocol_name())
            }
            other => other.to_string(),
        };
        Self::new(kind(&error), message)
    }
}

fn kind(error: &InferError) -> Kind {
    match error {
        InferError::UnknownModel(_) => Kind::NotFound,
        InferError::WrongInput { .. }
        | InferError::UnknownOutput { .. }
        | InferError::TooWide { .. }
        | InferError::NotAllowed { .. }
        | InferError::Shapes(_) => Kind::Invalid,
        InferError::NotReady(_)
        | InferError::QueueFull { .. }
        | InferError::Timeout
        | InferError::Cancelled
        | InferError::NoMemory
        | InferError::NotServed { .. }
        | InferError::CompileQueueFull
        | InferError::Unloading(_)
        | InferError::ShuttingDown => Kind::Unavailable,
        InferError::DeadlinePassed | InferError::DeadlineUnreachable { .. } => Kind::Late,
        InferError::Failed(fault) if fault.kind == FaultKind::Input => Kind::Invalid,
        InferError::Failed(_)
        | InferError::DeviceFault
        | InferError::EngineFailed(_)
        | InferError::NoPlan(_) => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use reef_engine::HostFault;

    use super::*;

    #[test]
    fn a_kernel_that_failed_says_whose_fault_it_was() {
        let kind = |fault| Problem::from(InferError::Failed(fault)).kind;
        assert_eq!(kind(HostFault::of_input("y", "Gather: indices[0] is 9")), Kind::Invalid);
        assert_eq!(kind(HostFault::of_kernel("y", "it panicked")), Kind::Internal);
    }
}
