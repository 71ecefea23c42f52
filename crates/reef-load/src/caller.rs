//! Who asks, and what an answer says. What a caller does to get one (a session of an engine, a connection) is
//! its own affair.

use reef_base::Nanos;

/// Why a request failed or was refused, in words; loads count it and keep the first.
pub type CallError = Box<dyn std::error::Error + Send + Sync>;

/// What an answer says about how it came about; absent where the answer does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The call to the first block: input, queues.
    pub queue: Option<Nanos>,
    /// First block to last.
    pub compute: Option<Nanos>,
    /// The task's submission to its first block.
    pub first_block: Option<Nanos>,
    /// The task's submission until it had run on every compute unit that its first stage could use.
    pub all_cus: Option<Nanos>,
    /// Whether it displaced less urgent work.
    pub preempted: bool,
}

/// A client that can ask for one inference at a time.
pub trait Caller: Send {
    /// Asks once and waits for the answer.
    fn call(&mut self) -> Result<Reply, CallError>;

    /// As [`Caller::call`], for a request that was due at `due` on the monotonic clock: deadlines count from
    /// there, where the caller can say so.
    fn call_at(&mut self, due: Nanos) -> Result<Reply, CallError> {
        let _ = due;
        self.call()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Answers as a closure says.
    struct Fake<F>(F);

    impl<F: FnMut() -> Result<Reply, CallError> + Send> Caller for Fake<F> {
        fn call(&mut self) -> Result<Reply, CallError> {
            (self.0)()
        }
    }

    /// A caller that answers as `answer` says.
    pub(crate) fn fake(answer: impl FnMut() -> Result<Reply, CallError> + Send + 'static) -> Box<dyn Caller> {
        Box::new(Fake(answer))
    }
}
