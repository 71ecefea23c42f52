//! A thread of low priority for JSON that would keep a core from real-time work.
//!
//! Compute units run at nice 19 so that I/O gets a core at once. The price is that reading megabytes of JSON
//! for a best-effort request would displace real-time blocks for milliseconds; this thread runs at nice 19
//! too and takes its turn like any of them.
//!
//! Invariants: jobs run in order, one at a time; the queue is bounded, and a full one makes the sender wait;
//! the job of a client that left is dropped.

use std::io;

use tokio::sync::{mpsc, oneshot};

use crate::error::ApiError;

/// Jobs that wait at most.
const QUEUE_LEN: usize = 64;

/// Priority of the thread: that of the compute units.
const NICE: i32 = 19;

type Job = Box<dyn FnOnce() + Send>;

/// The thread's queue. The thread ends when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Bulk {
    jobs: mpsc::Sender<Job>,
}

impl Bulk {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Bulk> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE_LEN);
        std::thread::Builder::new().name("reef-http-bulk".into()).spawn(move || {
            lower_priority();
            while let Some(job) = queue.blocking_recv() {
                job();
            }
        })?;
        Ok(Bulk { jobs })
    }

    /// Runs `work` on the thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move || {
            if !done.is_closed() {
                let _ = done.send(work());
            }
        });
        let stopped = || ApiError::internal("the thread for large requests has stopped");
        self.jobs.send(job).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())
    }
}

fn lower_priority() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::warn!(%error, "the thread for large requests keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_elsewhere_and_at_low_priority() {
        let bulk = Bulk::start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let priority = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        assert_eq!(runtime.block_on(bulk.run(priority)), Ok(NICE));
        assert_ne!(priority(), NICE);
    }

    #[test]
    fn a_job_that_nobody_waits_for_is_dropped() {
        let bulk = Bulk::start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let first = bulk.run(move || gate.recv());
            let mut first = std::pin::pin!(first);
            let ran = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let flag = ran.clone();
            {
                let second = bulk.run(move || flag.store(true, std::sync::atomic::Ordering::SeqCst));
                let mut second = std::pin::pin!(second);
                let poll = std::future::poll_fn(|context| {
                    use std::future::Future;
                    let both = (first.as_mut().poll(context), second.as_mut().poll(context));
                    std::task::Poll::Ready((both.0.is_ready(), both.1.is_ready()))
                });
                assert_eq!(poll.await, (false, false));
            }
            open.send(()).unwrap();
            assert!(first.await.is_ok());
            assert_eq!(bulk.run(|| 7).await, Ok(7));
            assert!(!ran.load(std::sync::atomic::Ordering::SeqCst));
        });
    }
}
