//! The engine's threads: one per device for completions and timers, one that compiles plans on first use, one
//! that makes long copies.
//!
//! A compilation takes seconds of a core, which real-time blocks may need, and a copy milliseconds: those
//! threads have the lowest priority, so that they take no more than their turn from compute units that have
//! the same.
//!
//! What these threads call of others is contained where it is called. A panic that gets here is a bug of our
//! own: the engine fails, visibly, and the thread ends.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use reef_base::Nanos;
use reef_base::limits::NICE_BACKGROUND;

use crate::compile;
use crate::effect::Effects;
use crate::error::{EngineError, InferError};
use crate::fault;
use crate::shared::{COLD_TIMERS, Shared};

/// Threads to be joined at shutdown.
#[derive(Debug, Default)]
pub(crate) struct Threads(Vec<(&'static str, JoinHandle<()>)>);

/// The thread that compiles.
const COMPILE: &str = "compile";

impl Threads {
    /// Starts the threads. They end after [`Threads::stop`].
    pub(crate) fn start(shared: &Arc<Shared>, spin: Nanos) -> Result<Threads, EngineError> {
        let mut threads = Threads::default();
        let stop = |_: &EngineError| {
            shared.lanes.iter().for_each(|lane| lane.signal.stop());
            shared.copies.close();
        };
        for lane in 0..shared.lanes.len() {
            let own = shared.clone();
            threads.spawn(shared, "completions", move || completions(&own, lane, spin)).inspect_err(stop)?;
        }
        shared.copies.open();
        let own = shared.clone();
        threads.spawn(shared, "copies", move || copies(&own)).inspect_err(stop)?;
        let own = shared.clone();
        let compiling = move || {
            lower_priority();
            compile::run(&own);
        };
        threads.spawn(shared, COMPILE, compiling).inspect_err(stop)?;
        Ok(threads)
    }

    /// Ends the threads and waits for them; not for those of an engine that has failed, which may be stuck,
    /// and for a plan that is being made only as long as `patience`.
    pub(crate) fn stop(self, shared: &Shared, patience: Duration) {
        shared.lanes.iter().for_each(|lane| lane.signal.stop());
        shared.close_cold(InferError::ShuttingDown);
        shared.copies.close();
        if shared.fault().is_some() {
            return;
        }
        for (name, thread) in self.0 {
            // A foreign waker may drop the last handle on one of these threads.
            let here = thread.thread().id() == std::thread::current().id();
            if !here && (name != COMPILE || shared.cold.wait_until_idle(patience)) {
                let _ = thread.join();
            }
        }
    }

    fn spawn(
        &mut self,
        shared: &Arc<Shared>,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), EngineError> {
        let builder = std::thread::Builder::new().name(format!("reef-{name}"));
        let shared = shared.clone();
        let run = move || {
            if let Err(panic) = fault::contain(run) {
                shared.break_down(format!("its {name} thread panicked: {panic}"));
            }
        };
        let thread = builder.spawn(run).map_err(|source| EngineError::Thread { thread: name, source })?;
        self.0.push((name, thread));
        Ok(())
    }
}

/// Keeps this thread on its device's cores, so that it is in the way of no other device.
fn keep_to_cores(shared: &Shared, lane: usize) {
    let cores = &shared.lanes[lane].device.capabilities().cores;
    if shared.lanes.len() == 1 || cores.is_empty() {
        return;
    }
    let mut set = rustix::thread::CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        fault::log(|| tracing::warn!(%error, "a completion thread runs on any core"));
    }
}

fn lower_priority() {
    // On Linux a nice value belongs to a thread.
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE_BACKGROUND) {
        fault::log(|| tracing::warn!(%error, "a thread in the background keeps its priority"));
    }
}

/// Takes a lane's completions and fires its timers until told to stop.
fn completions(shared: &Shared, lane: usize, spin: Nanos) {
    let signal = &shared.lanes[lane].signal;
    signal.attach();
    keep_to_cores(shared, lane);
    let mut out = Effects::default();
    let mut spin_until = Nanos::ZERO;
    while !signal.is_stopped() {
        signal.take();
        if shared.advance(lane, &mut out) {
            spin_until = shared.clock.now() + spin;
        }
        let wakeup = arm(shared, lane);
        let now = shared.clock.now();
        if signal.is_pending() || wakeup <= now {
            continue;
        }
        if now < spin_until {
            std::hint::spin_loop();
        } else if wakeup == Nanos::MAX {
            std::thread::park();
        } else {
            std::thread::park_timeout(Duration::from(wakeup - now));
        }
    }
}

/// Announces how long this thread sleeps: an earlier timer wakes it.
fn arm(shared: &Shared, lane: usize) -> Nanos {
    let mut core = shared.lanes[lane].core();
    let cold = if lane == COLD_TIMERS { shared.cold.next_expiry() } else { Nanos::MAX };
    core.armed = core.next_wakeup().min(cold);
    core.armed
}

/// Makes long copies until the engine ends.
fn copies(shared: &Shared) {
    lower_priority();
    shared.copies.attach();
    while let Some(copy) = shared.copies.next() {
        let lane = copy.lane();
        match fault::contain(|| copy.make()) {
            Ok(copied) => {
                shared.lanes[lane].leave(copied);
                // Of an engine that has failed nobody may take completions any more.
                if shared.verdict.fault().is_some() {
                    shared.take_up(lane);
                }
            }
            Err(panic) => shared.break_down(panic),
        }
    }
    // Those who take completions may have ended before.
    (0..shared.lanes.len()).for_each(|lane| _ = shared.take_up(lane));
}
