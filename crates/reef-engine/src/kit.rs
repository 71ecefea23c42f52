//! What one request of a program needs to go from segment to segment on its device, without the engine: the
//! plans that it has been at, which of them followed which for what values, and buffers for each.
//!
//! A request takes a kit along and gives it back for the next one. What a kit does not know yet the engine
//! finds out when the device ends the task there ([`Kit::learn`]), and from then on the device goes that way
//! by itself ([`Kit::next`], on a compute unit: it only moves buffers, and copies small ones).
//!
//! | who | when |
//! |---|---|
//! | the engine | before it submits a task, and after the task's completion |
//! | a compute unit | in between, one at a time |
//!
//! So nobody ever waits for the lock: a unit that finds it taken ends the task, and the engine goes on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reef_base::Buffer;
use reef_base::limits::SEGMENTS_PER_REQUEST_MAX;
use reef_device::{Io, LoadedPlan, Route};

use crate::plans::PlanEntry;

/// Plans that a kit keeps.
const STOPS_MAX: usize = 64;

/// Bytes that a compute unit copies when it hands over; more are the engine's to copy.
const COPIED_MAX: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Kit(Mutex<Stops>);

#[derive(Debug)]
struct Stops {
    stops: Vec<Stop>,
    /// Where the request is.
    at: usize,
    /// Segments that it ran, the present one included.
    segments: u32,
}

/// A plan on the way.
#[derive(Debug)]
struct Stop {
    entry: Arc<PlanEntry>,
    /// Buffers for it, beside those of the request that is at it.
    spare: Option<Io>,
    edges: Vec<Edge>,
}

/// Which stop follows another one.
#[derive(Debug)]
struct Edge {
    /// The values that were taken, one after the other.
    values: Vec<u8>,
    to: usize,
}

impl Kit {
    /// A kit for requests that begin with `entry`.
    pub(crate) fn new(entry: Arc<PlanEntry>) -> Kit {
        let first = Stop { entry, spare: None, edges: vec![] };
        Kit(Mutex::new(Stops { stops: vec![first], at: 0, segments: 1 }))
    }

    /// Whether it is for requests that begin with `entry`.
    pub(crate) fn begins_with(&self, entry: &Arc<PlanEntry>) -> bool {
        Arc::ptr_eq(&self.lock().stops[0].entry, entry)
    }

    /// Calls `visit` for every plan that it knows.
    pub(crate) fn each(&self, visit: impl Fn(&PlanEntry)) {
        self.lock().stops.iter().for_each(|stop| visit(&stop.entry));
    }

    /// Makes it ready for another request; false when a device gives no buffers.
    pub(crate) fn begin(&self) -> bool {
        let mut stops = self.lock();
        (stops.at, stops.segments) = (0, 1);
        let again: Vec<bool> = (0..stops.stops.len()).map(|stop| stops.is_entered(stop)).collect();
        stops.stops.iter_mut().zip(again).all(|(stop, again)| {
            if again && stop.spare.is_none() {
                stop.spare = stop.entry.buffers().ok().map(|mut buffers| std::mem::take(&mut buffers.io));
            }
            !again || stop.spare.is_some()
        })
    }

    /// The plan that the request is at, and how many segments it ran.
    pub(crate) fn at(&self) -> (Arc<PlanEntry>, u32) {
        let stops = self.lock();
        (stops.stops[stops.at].entry.clone(), stops.segments)
    }

    /// The request, with `io` behind it, goes on with `entry`, as will later ones. The engine has handed
    /// over.
    pub(crate) fn learn(&self, io: &Io, entry: &Arc<PlanEntry>) {
        let mut stops = self.lock();
        let at = stops.at;
        let mut values = vec![];
        let from = &stops.stops[at].entry;
        let Some(next) = &from.next else { return };
        next.values(&io.inputs, &io.outputs).for_each(|value| values.extend_from_slice(value));
        let known = stops.stops.iter().position(|stop| Arc::ptr_eq(&stop.entry, entry));
        let to = match known {
            Some(to) => to,
            None if stops.stops.len() < STOPS_MAX => {
                stops.stops.push(Stop { entry: entry.clone(), spare: None, edges: vec![] });
                stops.stops.len() - 1
            }
            // A way that leads to ever new plans: it begins anew here.
            None => {
                stops.stops.truncate(1);
                stops.stops[0].edges.clear();
                stops.stops.push(Stop { entry: entry.clone(), spare: None, edges: vec![] });
                (stops.at, stops.segments) = (1, stops.segments + 1);
                return;
            }
        };
        stops.stops[at].edges.retain(|edge| edge.values != values);
        if stops.stops[at].edges.len() < STOPS_MAX {
            stops.stops[at].edges.push(Edge { values, to });
        }
        (stops.at, stops.segments) = (to, stops.segments + 1);
        if stops.stops[to].spare.is_none() {
            stops.stops[to].spare = entry.buffers().ok().map(|mut buffers| std::mem::take(&mut buffers.io));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stops> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stops {
    /// Whether some way leads to a stop.
    fn is_entered(&self, stop: usize) -> bool {
        self.stops.iter().flat_map(|stop| &stop.edges).any(|edge| edge.to == stop)
    }

    fn step(&mut self, done: LoadedPlan, io: &mut Io) -> Option<LoadedPlan> {
        let at = self.at;
        let here = &self.stops[at];
        if here.entry.loaded != done || self.segments >= SEGMENTS_PER_REQUEST_MAX {
            return None;
        }
        let next = here.entry.next.as_ref()?;
        let same = |edge: &&Edge| {
            let mut rest = &edge.values[..];
            let mut values = next.values(&io.inputs, &io.outputs);
            values.all(|value| match rest.split_at_checked(value.len()) {
                Some((head, tail)) if head == value => {
                    rest = tail;
                    true
                }
                _ => false,
            })
        };
        let to = here.edges.iter().find(same)?.to;
        let mut spare = self.stops[to].spare.take()?;
        let here = &self.stops[at];
        let next = here.entry.next.as_ref()?;
        let copied = next.copied_bytes(&io.inputs, &io.outputs, &spare.inputs);
        if copied > COPIED_MAX || !next.has_room(&io.inputs, &io.outputs) {
            self.stops[to].spare = Some(spare);
            return None;
        }
        let hidden = |_: &Buffer, _: &mut Buffer| unreachable!("only what the host sees is copied here");
        next.carry(&mut io.inputs, &mut io.outputs, &mut spare.inputs, hidden);
        self.stops[at].spare = Some(std::mem::replace(io, spare));
        (self.at, self.segments) = (to, self.segments + 1);
        Some(self.stops[to].entry.loaded)
    }
}

impl Route for Kit {
    fn next(&self, done: LoadedPlan, io: &mut Io) -> Option<LoadedPlan> {
        self.0.try_lock().ok()?.step(done, io)
    }

    fn has_host_kernels(&self) -> bool {
        self.lock().stops.iter().any(|stop| !stop.entry.plan.host_kernels().is_empty())
    }
}
