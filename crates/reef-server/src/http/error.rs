//! The only place of HTTP status codes. Invariant: every error body is `{"error": "<message>"}`.

use hyper::StatusCode;

use crate::core::problem::{Kind, Problem};
use crate::core::requests::Outcome;

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// After how many seconds it may work.
    pub(crate) retry_after_s: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError { status, message: message.into(), retry_after_s: None }
    }

    /// There is nothing at this path: 404.
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

    /// The body is in a form that is not known: 415.
    pub(crate) fn encoding(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }

    /// The head of the request is larger than anybody needs: 431.
    pub(crate) fn head_too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message)
    }

    /// The body that goes with the status.
    pub(crate) fn body(&self) -> Vec<u8> {
        serde_json::json!({ "error": self.message }).to_string().into_bytes()
    }
}

/// How a request ended that was answered with this status.
pub(crate) fn outcome(status: StatusCode) -> Outcome {
    match status {
        StatusCode::OK => Outcome::Success,
        StatusCode::NOT_FOUND => Outcome::NotFound,
        StatusCode::NOT_IMPLEMENTED => Outcome::Unsupported,
        StatusCode::SERVICE_UNAVAILABLE => Outcome::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Outcome::Late,
        StatusCode::INTERNAL_SERVER_ERROR => Outcome::Internal,
        StatusCode::UNAUTHORIZED => Outcome::Unauthenticated,
        StatusCode::FORBIDDEN => Outcome::Forbidden,
        StatusCode::TOO_MANY_REQUESTS => Outcome::Limited,
        _ => Outcome::Invalid,
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        let status = match problem.kind {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Late => StatusCode::GATEWAY_TIMEOUT,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
        };
        let retry_after_s = match problem.kind {
            Kind::Limited { retry_after_s } => Some(retry_after_s),
            _ => None,
        };
        ApiError { status, message: problem.message, retry_after_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_how_its_request_ended() {
        for problem in Problem::of_each_kind() {
            let wanted = Outcome::of(&problem);
            assert_eq!(outcome(ApiError::from(problem).status), wanted, "{wanted:?}");
        }
        assert_eq!(outcome(StatusCode::OK), Outcome::Success);
        assert_eq!(outcome(ApiError::too_large("").status), Outcome::Invalid);
    }
}
