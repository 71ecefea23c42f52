//! The load against callers that answer as they are told: nothing is lost, and a stall is seen.

use std::sync::Arc;

use super::*;
use crate::callers::tests::fake;
use crate::load::RunClient;

fn at_once() -> Box<dyn Caller> {
    fake(|| Ok(Reply::default()))
}

fn client(name: &str, class: ClassName, arrivals: Arrivals) -> RunClient {
    RunClient { name: name.to_string(), ..RunClient::new("m", class, arrivals, 1) }
}

fn every_ms(count: u64, newest_only: bool) -> Arrivals {
    Arrivals::Open { times: (0..count).map(Nanos::from_millis).collect(), newest_only }
}

fn short(clients: Vec<RunClient>, ms: u64, grace: Duration) -> Run {
    let measured = Duration::from_millis(ms);
    Run { clients, warm_up: Duration::ZERO, measured, cool_down: Duration::from_secs(60), grace }
}

fn play_all(run: &Run, mut callers: Callers) -> Vec<PlayedClient> {
    play(run, &mut callers, || (), || ()).0
}

/// Holds its first answer back until `until` of the run has passed, then answers at once.
fn stalled(until: Duration) -> Box<dyn Caller> {
    let begin = MonotonicClock::read() + Nanos::from(LEAD);
    fake(move || {
        sleep_until(begin + Nanos::from(until));
        Ok(Reply::default())
    })
}

#[test]
fn a_stall_shows_in_the_latency_of_every_arrival_it_kept_back() {
    let run = short(vec![client("a", ClassName::RealTime, every_ms(20, false))], 20, Duration::from_secs(60));
    let played = play_all(&run, vec![vec![stalled(Duration::from_millis(50))]]);
    let records = &played[0].records;
    assert_eq!((records.len(), played[0].unsent.len(), played[0].dropped), (20, 0, 0));
    for record in records {
        let overdue = Nanos::from_millis(50).since(record.due);
        assert!(record.done.since(record.due) >= overdue, "{record:?}");
    }
    // Counted from sending, all but the first would look fast: that is the mistake this load does not make.
    assert!(records.iter().skip(1).all(|record| record.sent >= Nanos::from_millis(50)));
}

#[test]
fn what_is_not_sent_within_the_grace_is_counted() {
    let run =
        short(vec![client("a", ClassName::RealTime, every_ms(20, false))], 20, Duration::from_millis(10));
    let played = play_all(&run, vec![vec![stalled(Duration::from_millis(60))]]);
    assert_eq!((played[0].records.len(), played[0].unsent.len()), (1, 19));
}

#[test]
fn only_the_newest_frame_is_kept_where_a_client_says_so() {
    let run = short(vec![client("a", ClassName::RealTime, every_ms(20, true))], 20, Duration::from_secs(60));
    let played = play_all(&run, vec![vec![stalled(Duration::from_millis(50))]]);
    let due: Vec<Nanos> = played[0].records.iter().map(|record| record.due).collect();
    assert_eq!(due, [Nanos(0), Nanos::from_millis(19)]);
    assert_eq!((played[0].dropped, played[0].unsent.len()), (18, 0));
}

#[test]
fn best_effort_goes_on_until_the_last_real_time_answer() {
    let clients = vec![
        client("rt", ClassName::RealTime, every_ms(1, false)),
        client("be", ClassName::BestEffort, Arrivals::Closed { think: Duration::ZERO }),
    ];
    let run = short(clients, 5, Duration::from_secs(60));
    let played = play_all(&run, vec![vec![stalled(Duration::from_millis(40))], vec![at_once()]]);
    let last = |client: &PlayedClient| client.records.last().unwrap().done;
    assert!(last(&played[1]) >= last(&played[0]), "{:?} {:?}", last(&played[0]), last(&played[1]));
    assert!(played[1].records.is_sorted_by_key(|record| record.done));
}

#[test]
fn best_effort_ends_after_the_cool_down_and_does_not_sleep_beyond_the_end() {
    let clients = vec![
        client("rt", ClassName::RealTime, every_ms(1, false)),
        client("be", ClassName::BestEffort, Arrivals::Closed { think: Duration::ZERO }),
        client("sleepy", ClassName::BestEffort, Arrivals::Closed { think: Duration::from_secs(3600) }),
    ];
    let run = Run { cool_down: Duration::from_millis(5), ..short(clients, 5, Duration::from_secs(60)) };
    let until_40_ms = vec![stalled(Duration::from_millis(40))];
    let played = play_all(&run, vec![until_40_ms, vec![at_once()], vec![at_once()]]);
    assert!(played[1].records.iter().all(|record| record.due < Nanos::from_millis(10)));
    assert!(played[2].records.is_empty());
    // Rests for an hour, and is woken when there is nothing more to wait for.
    let forever = Run { cool_down: Duration::from_secs(7200), ..run };
    play_all(&forever, vec![vec![at_once()], vec![], vec![at_once()]]);
}

#[test]
fn who_follows_a_slow_client_gives_up_as_an_open_loop_does() {
    let after = Arrivals::After { client: 0, think: Duration::ZERO };
    let clients = vec![
        client("quick", ClassName::RealTime, every_ms(20, false)),
        client("slow", ClassName::RealTime, after),
    ];
    let run = short(clients, 500, Duration::from_millis(10));
    let played = play_all(&run, vec![vec![at_once()], vec![stalled(Duration::from_millis(560))]]);
    assert_eq!(played[0].records.len(), 20);
    assert_eq!(played[1].records.len() + played[1].unsent.len(), 20);
    assert!(!played[1].unsent.is_empty());
}

#[test]
fn a_real_time_closed_loop_ends_with_the_run_and_thinks_in_between() {
    let think = Duration::from_millis(4);
    let run = short(vec![client("a", ClassName::RealTime, Arrivals::Closed { think })], 30, Duration::ZERO);
    let played = play_all(&run, vec![vec![at_once()]]);
    let records = &played[0].records;
    assert!((2..=8).contains(&records.len()), "{}", records.len());
    for pair in records.windows(2) {
        assert_eq!(pair[1].due, pair[0].done + Nanos::from(think));
    }
}

#[test]
fn clients_follow_the_answers_of_others_down_the_chain() {
    let after = |client| Arrivals::After { client, think: Duration::from_millis(1) };
    let clients = vec![
        client("third", ClassName::RealTime, after(1)),
        client("second", ClassName::RealTime, after(2)),
        client("first", ClassName::RealTime, every_ms(5, false)),
    ];
    let run = short(clients, 1_000, Duration::from_secs(60));
    let played = play_all(&run, vec![vec![at_once()], vec![at_once()], vec![at_once()]]);
    for index in 0..2 {
        let (own, other) = (&played[index].records, &played[index + 1].records);
        assert_eq!(own.len(), 5);
        for (own, other) in own.iter().zip(other) {
            assert_eq!(own.due, other.done + Nanos::from_millis(1));
        }
    }
}

#[test]
fn a_client_that_waits_for_one_that_is_not_played_ends() {
    let clients = vec![
        client("first", ClassName::BestEffort, Arrivals::Closed { think: Duration::ZERO }),
        client("second", ClassName::RealTime, Arrivals::After { client: 0, think: Duration::ZERO }),
    ];
    let played = play_all(&short(clients, 5, Duration::ZERO), vec![vec![], vec![at_once()]]);
    assert!(played.iter().all(|client| client.records.is_empty()));
}

#[test]
fn failures_are_counted_and_do_not_end_a_client() {
    let fails = || {
        let mut number = 0;
        fake(move || {
            number += 1;
            match number % 2 {
                0 => Ok(Reply::default()),
                _ => Err(BenchError::NoSamples(format!("call {number}"))),
            }
        })
    };
    let clients = vec![
        client("a", ClassName::RealTime, every_ms(6, false)),
        client("b", ClassName::BestEffort, Arrivals::Closed { think: Duration::ZERO }),
    ];
    let run = short(clients, 6, Duration::from_secs(60));
    let played = play_all(&run, vec![vec![fails()], vec![fails()]]);
    assert_eq!((played[0].records.len(), played[0].failed.len()), (3, 3));
    assert_eq!(played[0].first_error.as_deref(), Some("call 1"));
    assert!(!played[1].failed.is_empty());
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
    let callers = fake(move || {
        // Longer than the times that it claims, as any answer is.
        let end = MonotonicClock::read() + Nanos(1_000);
        while MonotonicClock::read() < end {}
        Ok(reply)
    });
    let run = short(vec![client("a", ClassName::RealTime, every_ms(1, false))], 1, Duration::from_secs(60));
    let record = play_all(&run, vec![vec![callers]])[0].records[0];
    assert_eq!(record.on_device, Some((record.sent + Nanos(100), record.sent + Nanos(140))));
    assert_eq!(record.preempt, Some(Nanos(30)));
}

#[test]
fn the_window_is_announced_at_its_ends() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let run = Run {
        clients: vec![client("a", ClassName::RealTime, every_ms(1, false))],
        warm_up: Duration::from_millis(5),
        measured: Duration::from_millis(5),
        cool_down: Duration::ZERO,
        grace: Duration::ZERO,
    };
    let begin = MonotonicClock::read();
    let note = || seen.lock().unwrap().push(MonotonicClock::read());
    play(&run, &mut vec![vec![at_once()]], note, note);
    let seen = seen.lock().unwrap();
    let since = |index: usize| Duration::from(seen[index].since(begin));
    assert!(since(0) >= LEAD + Duration::from_millis(5) && since(1) >= LEAD + Duration::from_millis(10));
}
