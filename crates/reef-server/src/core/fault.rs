//! Panics while a request is served: they are that request's end, and nobody else's.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

pub(crate) use reef_base::panics::contain;

use crate::core::problem::Problem;

/// As [`contain`], for a future; after a panic it is not polled again.
pub(crate) async fn contained<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(|context| match contain(|| future.as_mut().poll(context)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// What a client is told whose request made the server panic.
pub(crate) fn bug(panic: &str) -> Problem {
    let _ = contain(|| tracing::error!(panic, "serving a request panicked"));
    Problem::internal(format!("an internal error, please report it: {panic}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::problem::Kind;

    #[test]
    fn a_panic_is_the_end_of_its_request() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let panics = async {
            tokio::task::yield_now().await;
            panic!("planted {}", 7)
        };
        assert_eq!(runtime.block_on(contained::<()>(panics)), Err("planted 7".into()));
        assert_eq!(runtime.block_on(contained(async { 7 })), Ok(7));
        let error = bug("planted");
        assert!(error.kind == Kind::Internal && error.message.contains("planted"));
    }
}
