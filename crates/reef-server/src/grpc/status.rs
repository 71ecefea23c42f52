//! The only place of gRPC status codes.

use tonic::{Code, Status};

use crate::core::problem::{Kind, Problem};
use crate::core::requests::Outcome;

/// Characters of a message at most: it is a header, which clients take only so long.
const MESSAGE_LEN_MAX: usize = 1000;

/// The header with the code of an answer.
pub(crate) const STATUS: &str = "grpc-status";

/// The status for a problem.
pub(crate) fn status(problem: Problem) -> Status {
    Status::new(code(problem.kind), shortened(problem.message))
}

/// The code for a kind of problem.
pub(crate) fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Unavailable => Code::Unavailable,
        Kind::Late => Code::DeadlineExceeded,
        Kind::Internal => Code::Internal,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::Limited { .. } => Code::ResourceExhausted,
    }
}

/// How a request ended that was answered with this code.
pub(crate) fn outcome(code: Code) -> Outcome {
    match code {
        Code::Ok => Outcome::Success,
        Code::NotFound => Outcome::NotFound,
        Code::Unimplemented => Outcome::Unsupported,
        Code::Unavailable => Outcome::Unavailable,
        Code::DeadlineExceeded => Outcome::Late,
        Code::Cancelled => Outcome::Cancelled,
        Code::Unauthenticated => Outcome::Unauthenticated,
        Code::PermissionDenied => Outcome::Forbidden,
        Code::ResourceExhausted => Outcome::Limited,
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => Outcome::Invalid,
        Code::AlreadyExists | Code::Aborted | Code::Internal | Code::DataLoss | Code::Unknown => {
            Outcome::Internal
        }
    }
}

/// Whether a code says that the server is at fault, or cannot serve now.
pub(crate) fn is_fault(code: Code) -> bool {
    matches!(outcome(code), Outcome::Internal | Outcome::Unavailable | Outcome::Unsupported | Outcome::Late)
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

    #[test]
    fn a_code_tells_how_its_request_ended() {
        for problem in Problem::of_each_kind() {
            assert_eq!(outcome(code(problem.kind)), Outcome::of(&problem), "{problem:?}");
        }
        assert_eq!(outcome(Code::Ok), Outcome::Success);
    }
}
