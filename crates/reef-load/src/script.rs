//! What the callers of a run are to do, as a pure machine: it is told what happened and when, and decides. It
//! knows no thread, lock or clock, so that the threads of [`crate::play`](mod@crate::play) and
//! [`crate::virtual_time`] play alike, and so can another driver.
//!
//! Every client has one *feed*, which its callers share and which says when the next request is due. What a
//! feed hands out is sent, whatever the server does meanwhile, and counts from the time it was due:
//!
//! | arrivals | due | handed out | ends |
//! |---|---|---|---|
//! | open | as scheduled | in order | with the schedule |
//! | closed | after a caller's pause | to that caller | with the run |
//! | after | so long after each answer of another client | in order | with the run or that client |
//!
//! With *newest only* an open loop drops what is overdue but for the last. What has not been handed out
//! `grace` after the end is unsent.
//!
//! Best-effort closed loops go on beyond the end of the run, until the last real-time request is answered or
//! `cool_down` is over, so that none of these finishes on an empty device.
//!
//! A caller sits on a *seat*; the seats of a run are numbered client by client. Its states:
//!
//! | state | event | next state |
//! |---|---|---|
//! | free | [`Script::next`] asks | asking |
//! | free | `next` waits for an answer of another client | listening |
//! | free | `next` waits for the end of a pause of a best-effort closed loop | resting |
//! | free | `next` waits for the end of a back-off | free |
//! | asking | [`Script::answered`] | free |
//! | listening | an answer of the other client, or its end: woken | free |
//! | resting | real-time is over: woken | free |
//! | listening, resting | `next`, before it is woken | as from free |
//! | free | `next` ends | ended |
//! | any | [`Script::leave`] | ended |

use std::collections::VecDeque;
use std::iter;
use std::mem;
use std::time::Duration;

use reef_base::{ClassName, Nanos};

use crate::BACK_OFF;
use crate::caller::{CallError, Reply};
use crate::run::{Arrivals, PlayedClient, Record, Run};

/// What a caller is to do next. Times count from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask at this time, or at once if it has passed.
    Ask(Nanos),
    /// Come again at this time, if there is one, or when woken.
    Wait {
        /// When.
        until: Option<Nanos>,
    },
    /// Nothing any more.
    End,
}

/// The state of a run while it is played.
#[derive(Debug)]
pub struct Script<'a> {
    run: &'a Run,
    seats: Vec<Seat>,
    /// One for each client.
    feeds: Vec<Feed>,
    played: Vec<PlayedClient>,
    /// Real-time callers that have not ended.
    real_time: usize,
    window_over: bool,
    woken: Vec<usize>,
}

#[derive(Debug)]
struct Seat {
    client: usize,
    /// When it was last answered, and may ask again.
    free: Nanos,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// For a request that was due at this time.
    Asking(Nanos),
    Listening,
    Resting,
    Ended,
}

/// What the callers of one client share.
#[derive(Debug, Default)]
struct Feed {
    /// Open loops: the next arrival to hand out.
    next: usize,
    /// Clients that wait for another one: when its answers that were not followed up yet are to be, in order.
    answers: VecDeque<Nanos>,
    /// Whether the other client gets no more answers.
    over: bool,
    /// Callers of this client that have not ended.
    callers: usize,
}

impl<'a> Script<'a> {
    /// `callers`: how many each client has. Clients without callers are not played.
    pub fn new(run: &'a Run, callers: &[usize]) -> Script<'a> {
        assert_eq!(run.clients.len(), callers.len(), "each client has its callers");
        let follows = |&client: &usize| match run.clients[client].arrivals {
            Arrivals::After { client, .. } => Some(client),
            Arrivals::Open { .. } | Arrivals::Closed { .. } => None,
        };
        for client in 0..callers.len() {
            let chain = iter::successors(Some(client), follows).take(callers.len() + 1).count();
            assert!(chain <= callers.len(), "client {client} waits for itself");
        }
        let seats: Vec<Seat> = (0..callers.len())
            .flat_map(|client| (0..callers[client]).map(move |_| client))
            .map(|client| Seat { client, free: Nanos::ZERO, state: State::Free })
            .collect();
        let of_real_time = |seat: &&Seat| run.clients[seat.client].class == ClassName::RealTime;
        let mut script = Script {
            run,
            real_time: seats.iter().filter(of_real_time).count(),
            seats,
            feeds: callers.iter().map(|&callers| Feed { callers, ..Feed::default() }).collect(),
            played: vec![PlayedClient::default(); callers.len()],
            window_over: false,
            woken: Vec::new(),
        };
        // Who waits for a client that nobody plays waits for nothing.
        (0..callers.len()).filter(|&client| callers[client] == 0).for_each(|client| script.tell_end(client));
        script
    }

    /// How many seats there are: one for each caller, client by client.
    pub fn seat_count(&self) -> usize {
        self.seats.len()
    }

    /// What the caller on `seat` is to do, at `now`. What comes too late to be sent is counted on the way.
    pub fn next(&mut self, now: Nanos, seat: usize) -> Step {
        let state = self.seats[seat].state;
        assert!(!matches!(state, State::Asking(_) | State::Ended), "seat {seat} is {state:?}");
        self.seats[seat].state = State::Free;
        let step = match &self.run.clients[self.seats[seat].client].arrivals {
            Arrivals::Open { times, newest_only } => self.next_arrival(now, seat, times, *newest_only),
            Arrivals::Closed { think } => self.next_round(now, seat, *think),
            Arrivals::After { .. } => self.next_answer(now, seat),
        };
        match step {
            Step::Ask(due) => self.seats[seat].state = State::Asking(due),
            Step::Wait { .. } => {}
            Step::End => self.leave(seat),
        }
        step
    }

    /// The request of `seat`, which was sent at `sent`, was answered or refused at `done`.
    pub fn answered(&mut self, seat: usize, sent: Nanos, done: Nanos, answer: Result<Reply, CallError>) {
        let Seat { client, state: State::Asking(due), .. } = self.seats[seat] else {
            panic!("nothing was asked from seat {seat}, which is {:?}", self.seats[seat].state);
        };
        let scheduled = matches!(self.run.clients[client].arrivals, Arrivals::Open { .. });
        let refused = answer.is_err();
        let back_off = if refused && !scheduled { BACK_OFF } else { Duration::ZERO };
        self.seats[seat].free = done + Nanos::from(back_off);
        self.seats[seat].state = State::Free;
        let played = &mut self.played[client];
        match answer {
            Ok(reply) => played.records.push(record(reply, due, sent, done)),
            Err(error) => {
                if self.run.window().contains(&due) {
                    played.failed.push(due);
                }
                played.first_error.get_or_insert_with(|| error.to_string());
            }
        }
        if !refused {
            self.tell(client, done);
        }
    }

    /// The measured window is over, and whoever wants to know has been told.
    pub fn end_window(&mut self) {
        self.window_over = true;
        self.wake_if_over();
    }

    /// The caller on `seat` is gone, whatever it did.
    pub fn leave(&mut self, seat: usize) {
        let Seat { client, state, .. } = self.seats[seat];
        if state == State::Ended {
            return;
        }
        self.seats[seat].state = State::Ended;
        self.feeds[client].callers -= 1;
        if self.feeds[client].callers == 0 {
            self.tell_end(client);
        }
        if self.run.clients[client].class == ClassName::RealTime {
            self.real_time -= 1;
            self.wake_if_over();
        }
    }

    /// The seats that have been woken since this was last called.
    pub fn take_woken(&mut self) -> Vec<usize> {
        mem::take(&mut self.woken)
    }

    /// What came of each client.
    pub fn into_played(mut self) -> Vec<PlayedClient> {
        assert!(self.seats.iter().all(|seat| seat.state == State::Ended), "{:?} have not ended", self.seats);
        for client in &mut self.played {
            client.records.sort_by_key(|record| record.done);
        }
        self.played
    }

    fn next_arrival(&mut self, now: Nanos, seat: usize, times: &[Nanos], newest_only: bool) -> Step {
        let client = self.seats[seat].client;
        loop {
            let from = self.feeds[client].next;
            if from == times.len() {
                return Step::End;
            }
            let newest = match newest_only {
                true => times.partition_point(|&time| time <= now).saturating_sub(1).max(from),
                false => from,
            };
            let window = self.run.window();
            let skipped = times[from..newest].iter().filter(|time| window.contains(time)).count();
            self.played[client].dropped += skipped as u64;
            self.feeds[client].next = newest + 1;
            if let Some(step) = self.ask(now, client, times[newest]) {
                return step;
            }
        }
    }

    /// Of a closed loop.
    fn next_round(&mut self, now: Nanos, seat: usize, think: Duration) -> Step {
        let Seat { client, free, .. } = self.seats[seat];
        let due = free + Nanos::from(think);
        match self.run.clients[client].class {
            ClassName::RealTime if due >= self.run.end() => Step::End,
            ClassName::RealTime => Step::Ask(due),
            ClassName::BestEffort if due >= self.run.end() + Nanos::from(self.run.cool_down) => Step::End,
            ClassName::BestEffort if self.real_time_over() => Step::End,
            ClassName::BestEffort if due <= now => Step::Ask(due),
            ClassName::BestEffort => {
                self.seats[seat].state = State::Resting;
                Step::Wait { until: Some(due) }
            }
        }
    }

    fn next_answer(&mut self, now: Nanos, seat: usize) -> Step {
        let Seat { client, free, .. } = self.seats[seat];
        if now < free {
            return Step::Wait { until: Some(free) };
        }
        while let Some(due) = self.feeds[client].answers.pop_front() {
            if due >= self.run.end() {
                return Step::End;
            }
            if let Some(step) = self.ask(now, client, due) {
                return step;
            }
        }
        if self.feeds[client].over {
            return Step::End;
        }
        self.seats[seat].state = State::Listening;
        Step::Wait { until: None }
    }

    /// Asks for what is due, unless it is too late for that.
    fn ask(&mut self, now: Nanos, client: usize, due: Nanos) -> Option<Step> {
        if now > self.run.end() + Nanos::from(self.run.grace) {
            self.played[client].unsent.push(due);
            return None;
        }
        Some(Step::Ask(due))
    }

    /// Clients that wait for this one have an answer to follow up.
    fn tell(&mut self, answered: usize, done: Nanos) {
        for (index, client) in self.run.clients.iter().enumerate() {
            if let Arrivals::After { client, think } = client.arrivals
                && client == answered
            {
                let due = done + Nanos::from(think);
                let answers = &mut self.feeds[index].answers;
                let at = answers.partition_point(|&earlier| earlier <= due);
                answers.insert(at, due);
                let listens = |seat: &Seat| seat.client == index && seat.state == State::Listening;
                if let Some(seat) = self.seats.iter().position(listens) {
                    self.wake(seat);
                }
            }
        }
    }

    /// Clients that wait for this one will get no more of it.
    fn tell_end(&mut self, ended: usize) {
        for index in 0..self.run.clients.len() {
            let arrivals = &self.run.clients[index].arrivals;
            if matches!(arrivals, Arrivals::After { client, .. } if *client == ended) {
                self.feeds[index].over = true;
                self.wake_all(|seat| seat.client == index && seat.state == State::Listening);
            }
        }
    }

    fn real_time_over(&self) -> bool {
        self.window_over && self.real_time == 0
    }

    fn wake_if_over(&mut self) {
        if self.real_time_over() {
            self.wake_all(|seat| seat.state == State::Resting);
        }
    }

    fn wake_all(&mut self, whom: impl Fn(&Seat) -> bool) {
        for seat in 0..self.seats.len() {
            if whom(&self.seats[seat]) {
                self.wake(seat);
            }
        }
    }

    fn wake(&mut self, seat: usize) {
        self.seats[seat].state = State::Free;
        self.woken.push(seat);
    }
}

fn record(reply: Reply, due: Nanos, sent: Nanos, done: Nanos) -> Record {
    let begin = reply.queue.map(|queue| sent + queue);
    let on_device = reply.compute.map(|compute| {
        let begin = begin.unwrap_or(done - compute);
        (begin, (begin + compute).min(done))
    });
    let preempt = reply.first_block.filter(|_| reply.preempted);
    Record { due, sent, done, on_device, preempt }
}
