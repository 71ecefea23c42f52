//! Plays a run in virtual time: the same decisions as with threads, from one event to the next.

use std::mem;

use reef_base::Nanos;

use super::script::{Script, Step};
use super::{PlayedClient, Run};
use crate::callers::Reply;
use crate::error::BenchError;

/// A request of a run in virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Index of the client in [`Run::clients`].
    pub client: usize,
    /// Which of the client's callers asks, of as many as it may have requests in flight.
    pub caller: usize,
    /// When it was due, from the start of the run.
    pub due: Nanos,
    /// When it is sent: as soon as it is due and a caller is free.
    pub sent: Nanos,
}

/// Plays `run` in virtual time, for simulators: no thread, no clock, and the same result each time. Each
/// client has as many callers as it may have requests in flight; one that may have none is not played.
///
/// `service` is called once for each request, in the order of sending. It says how long after sending the
/// answer comes, and what it is; a time of zero counts as a nanosecond, so that time goes on. A refusal comes
/// at once.
///
/// What happens at the same time happens in the order of the clients, but the end of the measured window
/// comes first.
pub fn play_virtual(
    run: &Run,
    service: impl FnMut(Asked) -> Result<(Nanos, Reply), BenchError>,
) -> Vec<PlayedClient> {
    play_late(run, service, || Nanos::ZERO)
}

/// As [`play_virtual`], on a machine where a caller that could go on does so only `late` afterwards.
fn play_late(
    run: &Run,
    mut service: impl FnMut(Asked) -> Result<(Nanos, Reply), BenchError>,
    mut late: impl FnMut() -> Nanos,
) -> Vec<PlayedClient> {
    let callers: Vec<usize> = run.clients.iter().map(|client| client.in_flight).collect();
    let places: Vec<(usize, usize)> = (0..callers.len())
        .flat_map(|client| (0..callers[client]).map(move |caller| (client, caller)))
        .collect();
    let mut script = Script::new(run, &callers);
    let mut pending: Vec<Pending> = places.iter().map(|_| Pending::Turn(late())).collect();
    let mut window_over = false;
    loop {
        let first = (0..pending.len()).filter_map(|seat| Some((pending[seat].time()?, seat))).min();
        let now = if !window_over && first.is_none_or(|(time, _)| time >= run.end()) {
            window_over = true;
            script.end_window();
            run.end()
        } else if let Some((now, seat)) = first {
            pending[seat] = match mem::replace(&mut pending[seat], Pending::Wake) {
                Pending::Turn(_) => match script.next(now, seat) {
                    Step::Ask(due) => Pending::Send { at: due.max(now) + late(), due },
                    Step::Wait { until: Some(until) } => Pending::Turn(until + late()),
                    Step::Wait { until: None } | Step::End => Pending::Wake,
                },
                Pending::Send { due, .. } => {
                    let (client, caller) = places[seat];
                    let served = service(Asked { client, caller, due, sent: now });
                    let lasts = served.as_ref().map_or(Nanos::ZERO, |(lasts, _)| (*lasts).max(Nanos(1)));
                    Pending::Answer { sent: now, done: now + lasts, answer: served.map(|(_, reply)| reply) }
                }
                Pending::Answer { sent, done, answer } => {
                    script.answered(seat, sent, done, answer);
                    Pending::Turn(done + late())
                }
                Pending::Wake => unreachable!("it has no time"),
            };
            now
        } else {
            return script.into_played();
        };
        for seat in script.take_woken() {
            pending[seat] = Pending::Turn(now + late());
        }
    }
}

/// What a seat does next.
enum Pending {
    /// It asks the script, at this time.
    Turn(Nanos),
    Send {
        at: Nanos,
        due: Nanos,
    },
    Answer {
        sent: Nanos,
        done: Nanos,
        answer: Result<Reply, BenchError>,
    },
    /// Nothing, unless it is woken.
    Wake,
}

impl Pending {
    fn time(&self) -> Option<Nanos> {
        match *self {
            Pending::Turn(at) | Pending::Send { at, .. } | Pending::Answer { done: at, .. } => Some(at),
            Pending::Wake => None,
        }
    }
}

#[cfg(test)]
mod tests;
