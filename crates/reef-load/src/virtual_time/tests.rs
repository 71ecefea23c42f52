//! Whole runs in virtual time: what is due, sent, dropped and given up, to the nanosecond; and what holds for
//! all of them.

use std::time::Duration;

use reef_base::ClassName;

use super::*;
use crate::run::{Arrivals, Record, RunClient};

mod random;

use ClassName::{BestEffort, RealTime};

const MINUTE: Duration = Duration::from_secs(60);

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

fn client(class: ClassName, arrivals: Arrivals) -> RunClient {
    RunClient::new("m", class, arrivals, 1)
}

fn every_ms(count: u64) -> Arrivals {
    Arrivals::Open { times: (0..count).map(ms).collect(), newest_only: false }
}

fn newest_every_ms(count: u64) -> Arrivals {
    Arrivals::Open { times: (0..count).map(ms).collect(), newest_only: true }
}

fn closed(think_ms: u64) -> Arrivals {
    Arrivals::Closed { think: Duration::from_millis(think_ms) }
}

fn after(client: usize, think_ms: u64) -> Arrivals {
    Arrivals::After { client, think: Duration::from_millis(think_ms) }
}

/// Without warm-up; a minute each for the cool-down and the grace.
fn short(clients: Vec<RunClient>, measured_ms: u64) -> Run {
    let measured = Duration::from_millis(measured_ms);
    Run { clients, warm_up: Duration::ZERO, measured, cool_down: MINUTE, grace: MINUTE }
}

type Answer = Result<(Nanos, Reply), CallError>;

/// What comes of a run whose answers take as long as `service` says.
fn timed(run: &Run, service: impl FnMut(Asked) -> Answer) -> Vec<PlayedClient> {
    play_virtual(run, &mut Timed::new(service))
}

/// Answers after so long.
fn lasting(time: Nanos) -> Answer {
    Ok((time, Reply::default()))
}

/// Answers at `until`, or after a microsecond once that has passed.
fn stalled(until: Nanos, asked: Asked) -> Answer {
    lasting(until.since(asked.sent).max(Nanos(1_000)))
}

fn times(played: &PlayedClient, time: impl Fn(&Record) -> Nanos) -> Vec<Nanos> {
    played.records.iter().map(time).collect()
}

fn dues(played: &PlayedClient) -> Vec<Nanos> {
    times(played, |record| record.due)
}

fn dones(played: &PlayedClient) -> Vec<Nanos> {
    times(played, |record| record.done)
}

fn all_ms(times: impl IntoIterator<Item = u64>) -> Vec<Nanos> {
    times.into_iter().map(ms).collect()
}

#[test]
fn a_stall_shows_in_the_latency_of_every_arrival_it_kept_back() {
    let run = short(vec![client(RealTime, every_ms(20))], 20);
    let played = &timed(&run, |asked| stalled(ms(50), asked))[0];
    assert_eq!((played.records.len(), played.unsent.len(), played.dropped), (20, 0, 0));
    // Counted from sending, all but the first would look fast: that is the mistake this load does not make.
    for (index, record) in (0..20).zip(&played.records) {
        let sent = if index == 0 { Nanos::ZERO } else { ms(50) + Nanos::from_micros(index - 1) };
        let done = ms(50) + Nanos::from_micros(index);
        assert_eq!((record.due, record.sent, record.done), (ms(index), sent, done));
    }
}

#[test]
fn several_callers_share_the_arrivals_of_a_client() {
    let two = RunClient { in_flight: 2, ..client(RealTime, every_ms(4)) };
    let mut callers = Vec::new();
    let played = &timed(&short(vec![two], 20), |asked| {
        callers.push(asked.caller);
        lasting(ms(3))
    })[0];
    assert_eq!(times(played, |record| record.sent), all_ms([0, 1, 3, 4]));
    assert_eq!((dues(played), dones(played)), (all_ms([0, 1, 2, 3]), all_ms([3, 4, 6, 7])));
    assert_eq!(callers, [0, 1, 0, 1]);
}

#[test]
fn what_is_not_handed_out_within_the_grace_is_unsent() {
    let grace = Duration::from_millis(10);
    let run = Run { grace, ..short(vec![client(RealTime, every_ms(20))], 20) };
    let played = &timed(&run, |asked| stalled(ms(60), asked))[0];
    assert_eq!((dues(played), &played.unsent), (vec![ms(0)], &all_ms(1..20)));
    // At its very end, one more.
    let played = &timed(&run, |asked| stalled(ms(30), asked))[0];
    assert_eq!((dues(played), &played.unsent), (all_ms([0, 1]), &all_ms(2..20)));
}

#[test]
fn only_the_newest_frame_is_kept_where_a_client_says_so() {
    let run = short(vec![client(RealTime, newest_every_ms(20))], 20);
    let played = &timed(&run, |asked| stalled(ms(50), asked))[0];
    assert_eq!(dues(played), all_ms([0, 19]));
    assert_eq!((played.dropped, played.unsent.len()), (18, 0));
    // Slower than the frames come: every answer takes the one that came last, even at that moment.
    let played = &timed(&run, |_| lasting(Nanos::from_micros(2_500)))[0];
    assert_eq!(dues(played), all_ms([0, 2, 5, 7, 10, 12, 15, 17, 19]));
    assert_eq!((played.dropped, played.unsent.len()), (11, 0));
    // Faster: nobody waits, nothing is dropped.
    let played = &timed(&run, |_| lasting(Nanos(1)))[0];
    assert_eq!((dues(played), played.dropped), (all_ms(0..20), 0));
}

#[test]
fn frames_dropped_before_the_window_are_not_counted() {
    let warm_up = Duration::from_millis(10);
    let run = Run { warm_up, ..short(vec![client(RealTime, newest_every_ms(20))], 10) };
    let played = &timed(&run, |asked| stalled(ms(50), asked))[0];
    assert_eq!((dues(played), played.dropped), (all_ms([0, 19]), 9));
}

#[test]
fn best_effort_goes_on_until_the_last_real_time_answer() {
    let clients = vec![client(RealTime, every_ms(1)), client(BestEffort, closed(0))];
    let played = timed(&short(clients, 5), |asked| match asked.client {
        0 => stalled(ms(40), asked),
        _ => lasting(ms(3)),
    });
    assert_eq!(dones(&played[0]), all_ms([40]));
    assert_eq!(dones(&played[1]), all_ms((3..=42).step_by(3)));
}

#[test]
fn best_effort_ends_with_the_run_where_no_real_time_request_is_left() {
    let clients = vec![client(RealTime, every_ms(2)), client(BestEffort, closed(0))];
    let run = short(clients, 20);
    let played = timed(&run, |_| lasting(ms(2)));
    assert_eq!(dones(&played[1]), all_ms((2..=20).step_by(2)));
    // The same without any real-time client.
    let alone = Run { clients: run.clients[1..].to_vec(), ..run };
    assert_eq!(dones(&timed(&alone, |_| lasting(ms(3)))[0]), all_ms((3..=21).step_by(3)));
}

#[test]
fn best_effort_ends_after_the_cool_down_and_does_not_sleep_beyond_the_end() {
    let clients = vec![
        client(RealTime, every_ms(1)),
        client(BestEffort, closed(0)),
        client(BestEffort, closed(3_600_000)),
    ];
    let run = Run { cool_down: Duration::from_millis(5), ..short(clients, 5) };
    let service = |asked: Asked| match asked.client {
        0 => stalled(ms(40), asked),
        _ => lasting(ms(3)),
    };
    let played = timed(&run, service);
    assert_eq!((dues(&played[1]), dues(&played[2])), (all_ms([0, 3, 6, 9]), vec![]));
    // Its cool-down is long enough for it to ask, but there is nothing more to wait for.
    let forever = Run { cool_down: Duration::from_secs(7200), ..run };
    assert_eq!(dues(&timed(&forever, service)[2]), vec![]);
}

#[test]
fn who_follows_a_slow_client_gives_up_as_an_open_loop_does() {
    let clients = vec![client(RealTime, every_ms(20)), client(RealTime, after(0, 0))];
    let run = Run { grace: Duration::from_millis(10), ..short(clients, 500) };
    let played = timed(&run, |asked| match asked.client {
        0 => lasting(Nanos(1)),
        _ => stalled(ms(560), asked),
    });
    let all: Vec<Nanos> = (0..20).map(|index| ms(index) + Nanos(1)).collect();
    assert_eq!(dones(&played[0]), all);
    assert_eq!((&dues(&played[1])[..], &played[1].unsent[..]), all.split_at(1));
}

#[test]
fn what_is_to_follow_after_the_end_is_not_asked() {
    let clients = vec![client(RealTime, every_ms(10)), client(RealTime, after(0, 4))];
    let played = timed(&short(clients, 10), |_| lasting(ms(1)));
    assert_eq!(dues(&played[1]), all_ms(5..10));
    assert!(played[1].unsent.is_empty());
}

#[test]
fn a_real_time_closed_loop_ends_with_the_run_and_thinks_in_between() {
    let run = Run { grace: Duration::ZERO, ..short(vec![client(RealTime, closed(4))], 29) };
    let played = &timed(&run, |_| lasting(ms(1)))[0];
    assert_eq!((dues(played), dones(played)), (all_ms([4, 9, 14, 19, 24]), all_ms([5, 10, 15, 20, 25])));
}

#[test]
fn clients_follow_the_answers_of_others_down_the_chain() {
    let clients =
        vec![client(RealTime, after(1, 1)), client(RealTime, after(2, 1)), client(RealTime, every_ms(5))];
    let played = timed(&short(clients, 1_000), |_| lasting(ms(2)));
    // One caller each, busy for two milliseconds: the requests queue up in the first client of the chain.
    assert_eq!(dones(&played[2]), all_ms([2, 4, 6, 8, 10]));
    assert_eq!((dues(&played[1]), dones(&played[1])), (all_ms([3, 5, 7, 9, 11]), all_ms([5, 7, 9, 11, 13])));
    assert_eq!(
        (dues(&played[0]), dones(&played[0])),
        (all_ms([6, 8, 10, 12, 14]), all_ms([8, 10, 12, 14, 16]))
    );
}

#[test]
fn a_client_that_waits_for_one_that_is_not_played_ends() {
    let unplayed = RunClient { in_flight: 0, ..client(BestEffort, closed(0)) };
    let run = short(vec![unplayed, client(RealTime, after(0, 0))], 5);
    let played = timed(&run, |asked| panic!("{asked:?}"));
    assert_eq!(played, vec![PlayedClient::default(); 2]);
}

#[test]
#[should_panic(expected = "client 0 waits for itself")]
fn clients_that_wait_for_each_other_are_not_played() {
    let run = short(vec![client(RealTime, after(1, 0)), client(RealTime, after(0, 0))], 5);
    timed(&run, |_| lasting(ms(1)));
}

#[test]
fn failures_are_counted_and_do_not_end_a_client() {
    let clients =
        vec![client(RealTime, every_ms(6)), client(BestEffort, closed(1)), client(RealTime, after(0, 1))];
    let mut counts = [0; 3];
    let played = timed(&short(clients, 36), |asked| {
        let count = &mut counts[asked.client];
        *count += 1;
        match *count % 2 {
            0 => lasting(Nanos::from_micros(500)),
            _ => Err(format!("call {count} of {}", asked.client).into()),
        }
    });
    let us = |times: &[u64]| times.iter().copied().map(Nanos::from_micros).collect::<Vec<_>>();
    let came = |index: usize| (dues(&played[index]), played[index].failed.clone());
    assert_eq!(came(0), (all_ms([1, 3, 5]), all_ms([0, 2, 4])));
    // Refused, a closed loop asks again ten milliseconds and its pause later; at 37 ms the run is over.
    assert_eq!(came(1), (us(&[12_000, 24_500]), us(&[1_000, 13_500, 26_000])));
    // Who follows another client's answers waits as long, but what was due remains due.
    assert_eq!(came(2), (us(&[4_500]), us(&[2_500, 6_500])));
    assert_eq!(times(&played[2], |record| record.sent), us(&[12_500]));
    assert_eq!(played[0].first_error.as_deref(), Some("call 1 of 0"));
}

/// Answers a request when the next one is sent; nothing happens by itself.
#[derive(Default)]
struct Lagging {
    now: Nanos,
    last: Option<Asked>,
    answers: Vec<Answered>,
}

impl Served for Lagging {
    fn send(&mut self, asked: Asked) {
        assert_eq!(self.now, asked.sent, "its clock is where the request is sent");
        if let Some(Asked { client, caller, .. }) = self.last.replace(asked) {
            self.answers.push(Answered { client, caller, at: self.now, answer: Ok(Reply::default()) });
        }
    }

    fn next_event(&mut self) -> Option<Nanos> {
        (!self.answers.is_empty()).then_some(self.now)
    }

    fn run_until(&mut self, until: Nanos) -> Vec<Answered> {
        assert!(self.now <= until, "time goes on");
        self.now = until;
        mem::take(&mut self.answers)
    }
}

#[test]
fn later_requests_decide_when_earlier_ones_are_answered_and_the_last_has_failed() {
    let two = RunClient { in_flight: 2, ..client(RealTime, every_ms(4)) };
    let played = play_virtual(&short(vec![two], 20), &mut Lagging::default());
    assert_eq!((dues(&played[0]), dones(&played[0])), (all_ms([0, 1, 2]), all_ms([1, 2, 3])));
    assert_eq!(played[0].failed, all_ms([3]));
    assert_eq!(played[0].first_error.as_deref(), Some("no answer comes any more"));
}

#[test]
fn times_on_the_device_and_preemptions_come_from_the_answers() {
    let reply = Reply {
        queue: Some(Nanos(100)),
        compute: Some(Nanos(40)),
        first_block: Some(Nanos(30)),
        preempted: true,
        ..Reply::default()
    };
    let record = |lasts, reply| {
        let run = short(vec![client(RealTime, every_ms(2))], 2);
        timed(&run, |_| Ok((Nanos(lasts), reply)))[0].records[1]
    };
    let at = |begin, end| Some((ms(1) + Nanos(begin), ms(1) + Nanos(end)));
    let whole = record(1_000, reply);
    assert_eq!((whole.on_device, whole.preempt), (at(100, 140), Some(Nanos(30))));
    // An answer cannot have been on the device after it was there, and was so last without a queue.
    assert_eq!(record(120, reply).on_device, at(100, 120));
    assert_eq!(record(1_000, Reply { queue: None, ..reply }).on_device, at(960, 1_000));
    assert_eq!(record(1_000, Reply { compute: None, preempted: false, ..reply }).on_device, None);
    assert_eq!(record(1_000, Reply { preempted: false, ..reply }).preempt, None);
}
