//! The only place of gRPC status codes.

use tonic::{Code, Status};

use crate::core::problem::{Kind, Problem};

/// Characters of a message at most: it is a header, which clients take only so long.
const MESSAGE_LEN_MAX: usize = 1000;

/// The status for a problem.
pub(crate) fn status(problem: Problem) -> Status {
    let code = match problem.kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Unavailable => Code::Unavailable,
        Kind::Late => Code::DeadlineExceeded,
        Kind::Internal => Code::Internal,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::Limited { .. } => Code::ResourceExhausted,
    };
    Status::new(code, shortened(problem.message))
}

fn shortened(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_LEN_MAX) {
        message.truncate(end);
        message.push('…');
    }
    message
}

/// There is no such RPC.
pub(crate) fn unknown(path: &str) -> Status {
    Status::unimplemented(shortened(format!("there is no RPC {path}")))
}

/// A message is larger than the operator allows.
pub(crate) fn too_large(bytes: usize, bytes_max: usize) -> Status {
    Status::resource_exhausted(format!("the message has {bytes} bytes, at most {bytes_max} are allowed"))
}

/// The client took too long to send its message.
pub(crate) fn too_slow(message: String) -> Status {
    Status::deadline_exceeded(message)
}

/// The time that the client gave the RPC is over.
pub(crate) fn timed_out() -> Status {
    Status::deadline_exceeded("the deadline passed")
}

/// The server ends the RPC because it ends.
pub(crate) fn closing() -> Status {
    Status::unavailable("the server is shutting down")
}

/// What reading a message ended with: whatever is wrong with its bytes is the client's fault.
pub(crate) fn received(error: Status) -> Status {
    match error.code() {
        Code::Internal | Code::Unknown => Status::invalid_argument(error.message()),
        Code::OutOfRange => Status::resource_exhausted(error.message()),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_fit_a_header() {
        let long = status(Problem::not_found("é".repeat(100_000)));
        assert_eq!((long.code(), long.message().chars().count()), (Code::NotFound, MESSAGE_LEN_MAX + 1));
        assert_eq!(status(Problem::invalid("short")).message(), "short");
    }
}
