//! Plays a run in virtual time: the same decisions as with threads, from one event to the next, whichever is
//! the first: of the callers, or of what they ask.

use std::mem;

use reef_base::Nanos;

use crate::caller::{CallError, Reply};
use crate::run::{PlayedClient, Run};
use crate::script::{Script, Step};

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

/// The answer to a caller's request, of which it has one at a time.
#[derive(Debug)]
pub struct Answered {
    /// Index of the client in [`Run::clients`].
    pub client: usize,
    /// Which of the client's callers asked.
    pub caller: usize,
    /// When it came, from the start of the run.
    pub at: Nanos,
    /// What it is.
    pub answer: Result<Reply, CallError>,
}

/// What a run in virtual time asks. It has a clock, which counts from the start of the run and moves only
/// when it is told to; what is asked later may change when earlier requests are answered.
pub trait Served {
    /// A request is sent, at the time to which it was run. The answer comes from [`Served::run_until`], also
    /// if it is there at once.
    fn send(&mut self, asked: Asked);

    /// When something happens next, if nothing more is sent: an answer, or what leads to one. Not before the
    /// time to which it was run. `None` if there is nothing to wait for.
    fn next_event(&mut self) -> Option<Nanos>;

    /// Does what happens until `until`, that moment included, and leaves the clock there. Returns the answers
    /// that came meanwhile, in the order of their times.
    fn run_until(&mut self, until: Nanos) -> Vec<Answered>;
}

/// What is known beforehand: a closure says of each request, when it is sent, how long after that the answer
/// comes, and what it is. A time of zero counts as a nanosecond, so that time goes on. A refusal comes at
/// once.
#[derive(Debug)]
pub struct Timed<F> {
    service: F,
    /// In the order of sending.
    coming: Vec<Answered>,
}

impl<F: FnMut(Asked) -> Result<(Nanos, Reply), CallError>> Timed<F> {
    /// Answers as `service` says, which is called once for each request, in the order of sending.
    pub fn new(service: F) -> Timed<F> {
        Timed { service, coming: Vec::new() }
    }
}

impl<F: FnMut(Asked) -> Result<(Nanos, Reply), CallError>> Served for Timed<F> {
    fn send(&mut self, asked: Asked) {
        let served = (self.service)(asked);
        let lasts = served.as_ref().map_or(Nanos::ZERO, |(lasts, _)| (*lasts).max(Nanos(1)));
        let (Asked { client, caller, sent, .. }, answer) = (asked, served.map(|(_, reply)| reply));
        self.coming.push(Answered { client, caller, at: sent + lasts, answer });
    }

    fn next_event(&mut self) -> Option<Nanos> {
        self.coming.iter().map(|answered| answered.at).min()
    }

    fn run_until(&mut self, until: Nanos) -> Vec<Answered> {
        let mut came: Vec<Answered> = self.coming.extract_if(.., |answered| answered.at <= until).collect();
        came.sort_by_key(|answered| answered.at);
        came
    }
}

/// Plays `run` in virtual time, for simulators: no thread, no clock but that of `served`, and the same result
/// each time if that is so of `served`. Each client has as many callers as it may have requests in flight;
/// one that may have none is not played.
///
/// What happens at the same time happens in this order: the end of the measured window, what is due in
/// `served`, the callers in the order of the clients. Where `served` has no event any more, requests without
/// an answer have failed.
pub fn play_virtual(run: &Run, served: &mut dyn Served) -> Vec<PlayedClient> {
    play_late(run, served, || Nanos::ZERO)
}

/// As [`play_virtual`], on a machine where a caller that could go on does so only `late` afterwards.
fn play_late(run: &Run, served: &mut dyn Served, late: impl FnMut() -> Nanos) -> Vec<PlayedClient> {
    let callers: Vec<usize> = run.clients.iter().map(|client| client.in_flight).collect();
    let places: Vec<(usize, usize)> = (0..callers.len())
        .flat_map(|client| (0..callers[client]).map(move |caller| (client, caller)))
        .collect();
    let script = Script::new(run, &callers);
    let mut play = Play { script, served, pending: Vec::new(), places, late, now: Nanos::ZERO };
    play.pending = play.places.iter().map(|_| Pending::Turn((play.late)())).collect();
    let mut window_over = false;
    loop {
        let turn = play.first_turn();
        let event = play.awaited_event();
        let first = turn.map(|(time, _)| time).into_iter().chain(event).min();
        if !window_over && first.is_none_or(|time| time >= run.end()) {
            window_over = true;
            play.now = run.end();
            play.script.end_window();
        } else {
            match (event, turn) {
                (Some(event), turn) if turn.is_none_or(|(time, _)| event <= time) => play.serve(event),
                (_, Some((time, seat))) => play.go_on(time, seat),
                (_, None) if play.give_up() => {}
                (_, None) => return play.script.into_played(),
            }
        }
        for seat in play.script.take_woken() {
            play.pending[seat] = Pending::Turn(play.now + (play.late)());
        }
    }
}

/// A run while it is played.
struct Play<'a, L> {
    script: Script<'a>,
    served: &'a mut dyn Served,
    /// Client and caller of each seat.
    places: Vec<(usize, usize)>,
    pending: Vec<Pending>,
    late: L,
    now: Nanos,
}

/// What a seat does next.
enum Pending {
    /// It asks the script, at this time.
    Turn(Nanos),
    Send {
        at: Nanos,
        due: Nanos,
    },
    /// It waits for its answer.
    Asking {
        sent: Nanos,
    },
    Answer {
        sent: Nanos,
        done: Nanos,
        answer: Result<Reply, CallError>,
    },
    /// Nothing, unless it is woken.
    Wake,
}

impl Pending {
    fn time(&self) -> Option<Nanos> {
        match *self {
            Pending::Turn(at) | Pending::Send { at, .. } | Pending::Answer { done: at, .. } => Some(at),
            Pending::Asking { .. } | Pending::Wake => None,
        }
    }
}

impl<L: FnMut() -> Nanos> Play<'_, L> {
    /// The seat that goes on first, and when.
    fn first_turn(&self) -> Option<(Nanos, usize)> {
        (0..self.pending.len()).filter_map(|seat| Some((self.pending[seat].time()?, seat))).min()
    }

    /// The next event of what is asked, while somebody waits for an answer.
    fn awaited_event(&mut self) -> Option<Nanos> {
        let waits = self.pending.iter().any(|pending| matches!(pending, Pending::Asking { .. }));
        if waits { self.served.next_event() } else { None }
    }

    /// Lets time pass in what is asked.
    fn serve(&mut self, until: Nanos) {
        self.now = until;
        for Answered { client, caller, at: done, answer } in self.served.run_until(until) {
            let asks = self.places.iter().position(|&place| place == (client, caller));
            let seat = asks.expect("it was sent from one of the seats");
            let Pending::Asking { sent } = self.pending[seat] else {
                panic!("caller {caller} of client {client} was answered and had not asked");
            };
            self.pending[seat] = Pending::Answer { sent, done, answer };
        }
    }

    /// Does what is next on a seat.
    fn go_on(&mut self, now: Nanos, seat: usize) {
        self.now = now;
        self.pending[seat] = match mem::replace(&mut self.pending[seat], Pending::Wake) {
            Pending::Turn(_) => match self.script.next(now, seat) {
                Step::Ask(due) => Pending::Send { at: due.max(now) + (self.late)(), due },
                Step::Wait { until: Some(until) } => Pending::Turn(until + (self.late)()),
                Step::Wait { until: None } | Step::End => Pending::Wake,
            },
            Pending::Send { due, .. } => {
                // Its clock may be behind: there was no event.
                self.serve(now);
                let (client, caller) = self.places[seat];
                self.served.send(Asked { client, caller, due, sent: now });
                Pending::Asking { sent: now }
            }
            Pending::Answer { sent, done, answer } => {
                self.script.answered(seat, sent, done, answer);
                Pending::Turn(done + (self.late)())
            }
            Pending::Asking { .. } | Pending::Wake => unreachable!("it has no time"),
        };
    }

    /// Fails the requests that no answer comes to; false if there are none.
    fn give_up(&mut self) -> bool {
        let mut any = false;
        for pending in &mut self.pending {
            if let Pending::Asking { sent } = *pending {
                let answer = Err("no answer comes any more".into());
                *pending = Pending::Answer { sent, done: self.now, answer };
                any = true;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests;
