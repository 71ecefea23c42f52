//! Threads of low priority for JSON that would keep a core from real-time work: one lane per class.
//!
//! Compute units run at nice 19 so that I/O gets a core at once. The price is that reading megabytes of JSON
//! there would displace real-time blocks, and hold up every connection of that thread, for up to seconds. So
//! large JSON is read and written in lanes. The best-effort lane runs at nice 19 too and takes its turn like
//! any compute unit. The real-time lane waits for no best-effort job; it goes before compute units, as the
//! request that it serves is real-time, but after I/O, so that large JSON never delays small requests.
//!
//! Invariants: jobs of a lane run in order, one at a time; the queue is bounded, and a full one makes the
//! sender wait; the job of a client that left is dropped; one that panics is an error for its client, and the
//! lane goes on.

use std::io;

use reef_engine::Class;
use tokio::sync::{mpsc, oneshot};

use crate::core::fault::{bug, contain};
use crate::core::problem::Problem;

/// Jobs that wait in one lane at most.
const QUEUE_LEN: usize = 64;

/// Priority of the real-time lane: between I/O and the compute units.
const NICE_REAL_TIME: i32 = 10;

/// Priority of the best-effort lane: that of the compute units.
const NICE_BEST_EFFORT: i32 = reef_base::limits::NICE_BACKGROUND;

type Job = Box<dyn FnOnce() + Send>;

/// A lane for each class, and one for who looks.
pub(crate) struct Lanes {
    real_time: Lane,
    best_effort: Lane,
    viewers: Lane,
}

impl Lanes {
    /// Starts the threads.
    pub(crate) fn start() -> io::Result<Lanes> {
        let real_time = Lane::start("reef-bulk-rt", NICE_REAL_TIME)?;
        let best_effort = Lane::start("reef-bulk-be", NICE_BEST_EFFORT)?;
        Ok(Lanes { real_time, best_effort, viewers: Lane::start("reef-viewers", NICE_BEST_EFFORT)? })
    }

    /// The lane of who looks at the server: its priority is low, and it waits for no request.
    pub(crate) fn viewers(&self) -> &Lane {
        &self.viewers
    }

    /// The lane of a class.
    pub(crate) fn of(&self, class: Class) -> &Lane {
        match class {
            Class::RealTime(_) => &self.real_time,
            Class::BestEffort => &self.best_effort,
        }
    }
}

/// A thread's queue. The thread ends when it is dropped.
pub(crate) struct Lane {
    jobs: mpsc::Sender<Job>,
}

impl Lane {
    fn start(name: &str, nice: i32) -> io::Result<Lane> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE_LEN);
        std::thread::Builder::new().name(name.into()).spawn(move || {
            lower_priority(nice);
            while let Some(job) = queue.blocking_recv() {
                // The job itself is contained; what it leaves behind may panic when it is dropped.
                let _ = contain(job);
            }
        })?;
        Ok(Lane { jobs })
    }

    /// Runs `work` on the thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move || {
            if !done.is_closed() {
                let _ = done.send(contain(work));
            }
        });
        let stopped = || Problem::internal("the thread for large requests has stopped");
        self.jobs.send(job).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?.map_err(|panic| bug(&panic))
    }
}

/// Never raises it: a process that was started with a lower one keeps that.
fn lower_priority(nice: i32) {
    let thread = Some(rustix::thread::gettid());
    let lowered = rustix::process::getpriority_process(thread)
        .and_then(|now| rustix::process::setpriority_process(thread, nice.max(now)));
    if let Err(error) = lowered {
        tracing::warn!(%error, "a thread for large requests keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::problem::Kind;

    #[test]
    fn work_runs_elsewhere_and_at_low_priority() {
        let lanes = Lanes::start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let priority = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let here = priority();
        for (class, nice) in [(Class::real_time(0), NICE_REAL_TIME), (Class::BestEffort, NICE_BEST_EFFORT)] {
            assert_eq!(runtime.block_on(lanes.of(class).run(priority)), Ok(nice.max(here)));
        }
        assert_eq!(priority(), here);
    }

    #[test]
    fn real_time_work_does_not_wait_for_best_effort_work() {
        let lanes = Lanes::start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let waits = lanes.of(Class::BestEffort).run(move || gate.recv());
        let urgent = async {
            let done = lanes.of(Class::real_time(0)).run(|| 7).await;
            open.send(()).unwrap();
            done
        };
        let (waited, urgent) = runtime.block_on(async { tokio::join!(waits, urgent) });
        assert!(waited.unwrap().is_ok() && urgent == Ok(7));
    }

    #[test]
    fn a_job_that_panics_is_an_error_and_the_lane_goes_on() {
        let lanes = Lanes::start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for class in [Class::real_time(0), Class::BestEffort] {
            let lane = lanes.of(class);
            let error = runtime.block_on(lane.run(|| -> u8 { panic!("planted") })).unwrap_err();
            assert!(error.kind == Kind::Internal && error.message.contains("planted"), "{error:?}");
            assert_eq!(runtime.block_on(lane.run(|| 7)), Ok(7));
        }
    }

    #[test]
    fn a_job_that_nobody_waits_for_is_dropped() {
        let lanes = Lanes::start().unwrap();
        let bulk = lanes.of(Class::BestEffort);
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
