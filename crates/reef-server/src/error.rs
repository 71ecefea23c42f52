//! Errors: what a client is told, and what the operator is told when the server cannot start.
//!
//! The only place of HTTP status codes. Invariant: every error body is `{"error": "<message>"}`, and the
//! message names what was wrong and where.

use std::net::SocketAddr;

use hyper::StatusCode;
use reef_engine::{FaultKind, InferError, WrongInput};

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on: in use, not ours, not permitted.
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What would have been served there.
        purpose: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The threads that serve connections could not be started.
    #[error("cannot start the server's threads: {0}")]
    Threads(std::io::Error),
}

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError { status, message: message.into() }
    }

    /// The request is wrong: 400.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// No such model, version or path: 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The path exists, the method does not: 405.
    pub(crate) fn method(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
    }

    /// The client did not send its body in time: 408.
    pub(crate) fn too_slow(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, message)
    }

    /// The body is larger than the operator allows: 413.
    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// The protocol has it, this server does not: 501.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// What may work later: 503.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// The server's fault: 500.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The body that goes with the status.
    pub(crate) fn body(&self) -> Vec<u8> {
        serde_json::json!({ "error": self.message }).to_string().into_bytes()
    }
}

impl From<InferError> for ApiError {
    /// Statuses: 404 unknown model; 503 what may work later (queue full, queue timeout, loading, unloading,
    /// shutting down, class not served); 504 a deadline that passed or cannot be met; 500 faults; else 400.
    fn from(error: InferError) -> Self {
        let message = match &error {
            InferError::WrongInput { name, problem: WrongInput::DType { expected, got } } => {
                let (expected, got) = (expected.protocol_name(), got.protocol_name());
                format!("input '{name}': expected {expected}, got {got}")
            }
            other => other.to_string(),
        };
        Self::new(status(&error), message)
    }
}

fn status(error: &InferError) -> StatusCode {
    match error {
        InferError::UnknownModel(_) => StatusCode::NOT_FOUND,
        InferError::WrongInput { .. }
        | InferError::UnknownOutput { .. }
        | InferError::NotAllowed { .. }
        | InferError::Shapes(_) => StatusCode::BAD_REQUEST,
        InferError::NotReady(_)
        | InferError::QueueFull { .. }
        | InferError::Timeout
        | InferError::Cancelled
        | InferError::NotServed { .. }
        | InferError::CompileQueueFull
        | InferError::Unloading(_)
        | InferError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        InferError::DeadlinePassed | InferError::DeadlineUnreachable { .. } => StatusCode::GATEWAY_TIMEOUT,
        InferError::Failed(fault) if fault.kind == FaultKind::Input => StatusCode::BAD_REQUEST,
        InferError::Failed(_)
        | InferError::DeviceFault
        | InferError::EngineFailed(_)
        | InferError::NoPlan(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use reef_engine::HostFault;

    use super::*;

    #[test]
    fn a_kernel_that_failed_says_whose_fault_it_was() {
        let status = |fault| ApiError::from(InferError::Failed(fault)).status;
        assert_eq!(status(HostFault::of_input("y", "Gather: indices[0] is 9")), StatusCode::BAD_REQUEST);
        assert_eq!(status(HostFault::of_kernel("y", "it panicked")), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
