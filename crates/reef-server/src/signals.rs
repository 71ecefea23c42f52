//! Signals that ask the process to end.
//!
//! Invariant: none is lost between [`Signals::install`] and the end of the process; signals that come faster
//! than they are waited for count as one, as the operating system has it.

use std::fmt;
use std::io;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM, which do nothing by themselves from now on.
pub struct Signals {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes both over.
    pub fn install() -> io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (interrupt, terminate) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        Ok(Signals { runtime, interrupt, terminate })
    }

    /// Blocks until one comes; its number.
    pub fn wait(&mut self) -> i32 {
        let (interrupt, terminate) = (&mut self.interrupt, &mut self.terminate);
        let kind = self.runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
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
        for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
            kill_process(getpid(), signal).unwrap();
            assert_eq!(signals.wait(), signal.as_raw());
        }
    }
}
