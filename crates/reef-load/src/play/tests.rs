//! The threads. What is due when is tested in virtual time; here are order and counts, which no busy machine
//! changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reef_base::ClassName;

use super::*;
use crate::caller::Reply;
use crate::caller::tests::fake;
use crate::run::{Arrivals, RunClient};

const MINUTE: Duration = Duration::from_secs(60);

fn at_once() -> Box<dyn Caller> {
    fake(|| Ok(Reply::default()))
}

fn client(class: ClassName, arrivals: Arrivals) -> RunClient {
    RunClient::new("m", class, arrivals, 1)
}

fn every_ms(count: u64) -> Arrivals {
    Arrivals::Open { times: (0..count).map(Nanos::from_millis).collect(), newest_only: false }
}

fn short(clients: Vec<RunClient>, measured: Duration) -> Run {
    Run { clients, warm_up: Duration::ZERO, measured, cool_down: MINUTE, grace: MINUTE }
}

fn play_all(run: &Run, mut callers: Callers) -> Vec<PlayedClient> {
    play(run, &mut callers, || (), || ()).0
}

#[test]
fn every_arrival_is_sent_when_it_is_due_or_later_and_every_answer_followed_up() {
    let think = Duration::from_micros(100);
    let clients = vec![
        client(ClassName::RealTime, every_ms(20)),
        client(ClassName::BestEffort, Arrivals::After { client: 0, think }),
        client(ClassName::RealTime, Arrivals::Closed { think }),
    ];
    let run = short(clients, Duration::from_millis(200));
    let two = || vec![at_once(), at_once()];
    let played = play_all(&run, vec![vec![at_once()], two(), two()]);
    let due = |index: usize| -> Vec<Nanos> {
        let mut due: Vec<Nanos> = played[index].records.iter().map(|record| record.due).collect();
        due.sort();
        due
    };
    assert_eq!(due(0), (0..20).map(Nanos::from_millis).collect::<Vec<_>>());
    // On a very busy machine some answers come after the end; who follows has no turn any more.
    let followed = played[0].records.iter().map(|record| record.done + Nanos::from(think));
    assert_eq!(due(1), followed.filter(|&due| due < run.end()).collect::<Vec<_>>());
    for record in played.iter().flat_map(|client| &client.records) {
        assert!(record.due <= record.sent && record.sent <= record.done, "{record:?}");
    }
    for client in &played {
        assert!(client.records.is_sorted_by_key(|record| record.done));
        assert!(client.unsent.is_empty() && client.failed.is_empty() && client.dropped == 0);
    }
}

#[test]
fn best_effort_is_asked_beyond_the_end_while_a_real_time_request_lasts() {
    let run = short(
        vec![
            client(ClassName::RealTime, every_ms(1)),
            client(ClassName::BestEffort, Arrivals::Closed { think: Duration::from_micros(100) }),
        ],
        Duration::from_millis(5),
    );
    let end = MonotonicClock::read() + Nanos::from(LEAD + 2 * run.measured);
    let beyond = Arc::new(AtomicUsize::new(0));
    let count = beyond.clone();
    let best_effort = fake(move || {
        count.fetch_add(usize::from(MonotonicClock::read() > end), Ordering::Relaxed);
        Ok(Reply::default())
    });
    let asked = beyond.clone();
    // Best effort would end after the cool-down; until then the answer waits for it.
    let real_time = fake(move || {
        while asked.load(Ordering::Relaxed) < 3 && MonotonicClock::read() < end + Nanos::from(2 * MINUTE) {
            thread::yield_now();
        }
        Ok(Reply::default())
    });
    let played = play_all(&run, vec![vec![real_time], vec![best_effort]]);
    assert_eq!(played[0].records.len(), 1);
    assert!(beyond.load(Ordering::Relaxed) >= 3);
}

#[test]
fn who_rests_for_an_hour_is_woken_when_there_is_nothing_more_to_wait_for() {
    let hour = Duration::from_secs(3600);
    let clients = vec![
        client(ClassName::RealTime, every_ms(1)),
        client(ClassName::BestEffort, Arrivals::Closed { think: hour }),
    ];
    let run = Run { cool_down: 2 * hour, ..short(clients, Duration::from_millis(5)) };
    let played = play_all(&run, vec![vec![at_once()], vec![at_once()]]);
    assert_eq!((played[0].records.len(), played[1].records.len()), (1, 0));
}

#[test]
#[should_panic(expected = "a scoped thread panicked")]
fn a_caller_that_panics_leaves_nobody_waiting() {
    let clients = vec![
        client(ClassName::RealTime, every_ms(1)),
        client(ClassName::RealTime, Arrivals::After { client: 0, think: Duration::ZERO }),
    ];
    let run = short(clients, Duration::from_millis(1));
    play_all(&run, vec![vec![fake(|| panic!("a test"))], vec![at_once()]]);
}

#[test]
fn the_window_is_announced_at_its_ends() {
    let milliseconds = Duration::from_millis(5);
    let clients = vec![client(ClassName::RealTime, every_ms(1))];
    let run = Run { warm_up: milliseconds, ..short(clients, milliseconds) };
    let called = MonotonicClock::read();
    let since = || Duration::from(MonotonicClock::read().since(called));
    let (_, begin, end) = play(&run, &mut vec![vec![at_once()]], since, since);
    assert!(begin >= LEAD + milliseconds && end >= LEAD + 2 * milliseconds && begin <= end);
}
