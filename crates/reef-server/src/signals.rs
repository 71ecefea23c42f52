//! Signals that ask the process to end, or to read its files again.
//!
//! Invariant: none is lost between [`Signals::install`] and the end of the process; signals that come faster
//! than they are waited for count as one, as the operating system has it.

use std::fmt;
use std::io;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP, which do nothing by themselves from now on.
pub struct Signals {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them over.
    pub fn install() -> io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (interrupt, terminate, hangup) = {
            let _entered = runtime.enter();
            let hangup = signal(SignalKind::hangup())?;
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, hangup)
        };
        Ok(Signals { runtime, interrupt, terminate, hangup })
    }

    /// Blocks until one comes; its number.
    pub fn wait(&mut self) -> i32 {
        let Signals { runtime, interrupt, terminate, hangup } = self;
        let kind = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
                _ = hangup.recv() => SignalKind::hangup(),
            }
        });
        kind.as_raw_value()
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn signals_are_kept_until_they_are_waited_for() {
        let mut signals = Signals::install().unwrap();
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::TERM] {
            kill_process(getpid(), signal).unwrap();
            assert_eq!(signals.wait(), signal.as_raw());
        }
    }
}
