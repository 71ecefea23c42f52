//! Looks at the repository again and again, and has the models follow it.
//!
//! A change is one when two looks have seen the same: a file that is being written grows or is touched in
//! between. What was found like that is tried once; what cannot be loaded is tried again when it has changed.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use reef_repository::Snapshot;

use super::Control;

/// Follows the repository until `stop` says so, or nobody could say so any more.
pub fn run(control: &Control, mut before: Snapshot, every: Duration, stop: &Receiver<()>) {
    let mut readable = true;
    while stop.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        match control.scan() {
            Ok(now) => {
                look(control, &before, &now);
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
fn look(control: &Control, before: &Snapshot, now: &Snapshot) {
    control.note(now);
    for (name, found) in &now.models {
        if before.models.get(name) != Some(found) || control.is_settled(found) {
            continue;
        }
        match control.bring_up(found) {
            Ok(()) => tracing::debug!("model {name} is as its directory"),
            Err(failed) => {
                for (key, error) in failed {
                    tracing::warn!("model {key} is not loaded: {}", crate::message(&error));
                }
            }
        }
    }
    for name in control.known() {
        if !now.models.contains_key(&name) && !before.models.contains_key(&name) {
            control.take_down(&name);
        }
    }
}
