//! Looks at the repository again and again, and has the models follow it.
//!
//! A change is one when two looks have seen the same: a file that is being written grows or is touched in
//! between. What was found like that is tried once; what cannot be loaded is tried again when it has changed.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use reef_repository::{Found, Snapshot};

use super::Control;

/// Models that are changed at once: one that takes long to compile or to end holds up no other.
const CHANGES_MAX: usize = 8;

/// Stack of a thread that loads a model: what a main thread has.
const STACK_BYTES: usize = 8 << 20;

/// Follows the repository until `stop` says so, or nobody could say so any more. What is being changed then
/// goes on.
pub fn run(control: &Arc<Control>, mut before: Snapshot, every: Duration, stop: &Receiver<()>) {
    let mut readable = true;
    let mut changes = Changes { control: control.clone(), running: BTreeMap::new() };
    while stop.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        match control.scan() {
            Ok(now) => {
                look(&mut changes, &before, &now);
                (before, readable) = (now, true);
            }
            Err(error) => {
                if readable {
                    tracing::warn!("the models stay as they are: {error}");
                }
                readable = false;
            }
        }
    }
}

/// Has the models follow what two looks have seen alike.
fn look(changes: &mut Changes, before: &Snapshot, now: &Snapshot) {
    let control = changes.control.clone();
    control.note(now);
    for (name, found) in &now.models {
        if before.models.get(name) == Some(found) && !control.is_settled(found) {
            let found = found.clone();
            changes.start(name, move |control| bring_up(control, &found));
        }
    }
    for name in control.known() {
        if !now.models.contains_key(&name) && !before.models.contains_key(&name) {
            let gone = name.clone();
            changes.start(&name, move |control| control.take_down(&gone));
        }
    }
}

fn bring_up(control: &Control, found: &Found) {
    match control.bring_up(found) {
        Ok(()) => tracing::debug!("model {} is as its directory", found.name),
        Err(failed) => {
            for (key, error) in failed {
                tracing::warn!("model {key} is not loaded: {}", crate::message(&error));
            }
        }
    }
}

/// What is being changed, each on a thread of its own.
struct Changes {
    control: Arc<Control>,
    /// By the model's name.
    running: BTreeMap<String, JoinHandle<()>>,
}

impl Changes {
    /// Has a model changed, unless it is being changed, or too many are: then a later look starts it.
    fn start(&mut self, name: &str, change: impl FnOnce(&Control) + Send + 'static) {
        let ended: Vec<String> = self
            .running
            .iter()
            .filter(|(_, thread)| thread.is_finished())
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            // A panic is told as one of the thread that looks.
            let thread = self.running.remove(&name).map(JoinHandle::join);
            thread.unwrap_or(Ok(())).unwrap_or_else(|panic| resume_unwind(panic));
        }
        if self.running.len() >= CHANGES_MAX || self.running.contains_key(name) {
            return;
        }
        let control = self.control.clone();
        let builder = std::thread::Builder::new().name("reef-change".into()).stack_size(STACK_BYTES);
        match builder.spawn(move || change(&control)) {
            Ok(thread) => drop(self.running.insert(name.into(), thread)),
            Err(error) => tracing::warn!(%error, "model {name} is changed later"),
        }
    }
}
