//! Random runs, on machines that let callers go on at once or late.

use reef_base::Rng;

use super::*;

/// One request, and when it was answered unless it was refused.
struct Call {
    asked: Asked,
    done: Option<Nanos>,
}

/// Times are multiples of this, so that many fall together.
const TICK: Nanos = Nanos::from_micros(500);

/// A run, everything that was asked in it, and what was made of that.
struct Played {
    run: Run,
    calls: Vec<Call>,
    clients: Vec<PlayedClient>,
    /// How much later than it could a caller went on at most.
    late: Nanos,
}

fn ticks(rng: &mut Rng, below: u64) -> Nanos {
    Nanos(rng.below(below) * TICK.0)
}

fn arrivals(rng: &mut Rng, index: usize, end: Nanos) -> Arrivals {
    match rng.below(4) {
        0 => Arrivals::Closed { think: ticks(rng, 6).into() },
        1 if index > 0 => {
            Arrivals::After { client: rng.below(index as u64) as usize, think: ticks(rng, 6).into() }
        }
        _ => {
            let count = rng.below(30);
            let mut times: Vec<Nanos> = (0..count).map(|_| ticks(rng, end.0 / TICK.0)).collect();
            times.sort();
            Arrivals::Open { times, newest_only: rng.below(2) == 0 }
        }
    }
}

fn random_run(rng: &mut Rng) -> Run {
    let [warm_up, measured, cool_down, grace] =
        [ticks(rng, 10), TICK + ticks(rng, 40), ticks(rng, 60), ticks(rng, 40)].map(Duration::from);
    let end = Nanos::from(warm_up + measured);
    let clients = (0..1 + rng.below(5) as usize)
        .map(|index| {
            let class = if rng.below(2) == 0 { RealTime } else { BestEffort };
            let in_flight = rng.below(4) as usize;
            RunClient { in_flight, ..client(class, arrivals(rng, index, end)) }
        })
        .collect();
    Run { clients, warm_up, measured, cool_down, grace }
}

/// Requests last up to 8 ms, and one in eight is refused.
fn play_random(seed: u64, late: Nanos) -> Played {
    let mut rng = Rng::new(seed);
    let run = random_run(&mut rng);
    let mut scheduler = Rng::new(rng.next_u64());
    let mut calls = Vec::new();
    let service = |asked: Asked| {
        let lasts = TICK + ticks(&mut rng, 16);
        let refused = rng.below(8) == 0;
        calls.push(Call { asked, done: (!refused).then_some(asked.sent + lasts) });
        if refused { Err("refused".into()) } else { lasting(lasts) }
    };
    let clients = play_late(&run, &mut Timed::new(service), || Nanos(scheduler.below(late.0 + 1)));
    Played { run, calls, clients, late }
}

impl Played {
    fn calls(&self, client: usize) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(move |call| call.asked.client == client)
    }

    /// The last answer to a real-time client.
    fn last_real_time(&self) -> Nanos {
        let real_time = |call: &&Call| self.run.clients[call.asked.client].class == RealTime;
        let ends = self.calls.iter().filter(real_time).map(|call| call.done.unwrap_or(call.asked.sent));
        ends.max().unwrap_or(Nanos::ZERO)
    }

    /// Nothing is sent before it is due, nor by a caller that is not there or still waits for an answer.
    fn check_order(&self) {
        for index in 0..self.run.clients.len() {
            let mut free = vec![Nanos::ZERO; self.run.clients[index].in_flight];
            for Call { asked, done } in self.calls(index) {
                assert!(asked.due <= asked.sent && free[asked.caller] <= asked.sent, "{asked:?}");
                free[asked.caller] = done.unwrap_or(asked.sent);
            }
            assert!(self.clients[index].records.is_sorted_by_key(|record| record.done));
        }
    }

    /// What was asked is recorded, and what was scheduled was asked or is known to have been left out.
    fn check_conservation(&self) {
        let window = self.run.window();
        let inside = |due: &&Nanos| window.contains(due);
        for (index, played) in self.clients.iter().enumerate() {
            let answered = self.calls(index).filter(|call| call.done.is_some()).count();
            assert_eq!(played.records.len(), answered);
            let recorded = dues(played);
            let accounted = recorded.iter().filter(inside).count()
                + played.failed.len()
                + played.unsent.iter().filter(inside).count()
                + played.dropped as usize;
            let refused = self.calls(index).filter(|call| call.done.is_none());
            assert_eq!(played.failed.len(), refused.filter(|call| window.contains(&call.asked.due)).count());
            if self.run.clients[index].in_flight == 0 {
                assert_eq!(played, &PlayedClient::default());
                continue;
            }
            match &self.run.clients[index].arrivals {
                Arrivals::Open { times, newest_only } => {
                    assert_eq!(accounted, times.iter().filter(inside).count());
                    assert!(*newest_only || played.dropped == 0);
                    // In the order of sending they may have passed each other only where callers are late.
                    let sent: Vec<Nanos> = self.calls(index).map(|call| call.asked.due).collect();
                    assert!(self.late > Nanos::ZERO || sent.is_sorted());
                }
                Arrivals::After { client, think } => {
                    let answers = self.clients[*client].records.iter();
                    let follow = answers.filter(|record| record.done + Nanos::from(*think) < self.run.end());
                    assert_eq!(self.calls(index).count() + played.unsent.len(), follow.count());
                    assert_eq!(played.dropped, 0);
                }
                Arrivals::Closed { .. } => assert!(played.unsent.is_empty() && played.dropped == 0),
            }
        }
    }

    /// Each kind of client ends when it should, and best effort no earlier than the last real-time answer.
    fn check_ends(&self) {
        let (end, late) = (self.run.end(), self.late + self.late + self.late);
        let last = self.last_real_time();
        let cooled_down = end + Nanos::from(self.run.cool_down);
        let any_after =
            self.run.clients.iter().any(|client| matches!(client.arrivals, Arrivals::After { .. }));
        for (index, client) in self.run.clients.iter().enumerate() {
            let Arrivals::Closed { think } = client.arrivals else {
                let given_up = end + Nanos::from(self.run.grace);
                assert!(self.calls(index).all(|call| call.asked.sent <= given_up + late));
                continue;
            };
            let over = if client.class == RealTime { end } else { cooled_down };
            assert!(self.calls(index).all(|call| call.asked.due < over));
            if client.class == BestEffort && !any_after {
                assert!(self.calls(index).all(|call| call.asked.sent <= end.max(last) + late));
            }
            let until = if client.class == RealTime { end } else { end.max(last).min(cooled_down) };
            for caller in 0..client.in_flight {
                let asked = self.calls(index).filter(|call| call.asked.caller == caller);
                let free = asked.last().map_or(Nanos::ZERO, |Call { asked, done }| {
                    done.unwrap_or(asked.sent + Nanos::from(crate::BACK_OFF))
                });
                assert!(free + Nanos::from(think) + late >= until, "caller {caller} of client {index} ended");
            }
        }
    }
}

#[test]
fn nothing_is_lost_sent_early_or_ended_early() {
    for seed in 0..2_000 {
        for late in [Nanos::ZERO, Nanos(TICK.0 / 2), Nanos(TICK.0 * 40)] {
            let played = play_random(seed, late);
            let checked = std::panic::catch_unwind(|| {
                played.check_order();
                played.check_conservation();
                played.check_ends();
            });
            assert!(checked.is_ok(), "seed {seed}, late {late}: {:#?}", played.run);
        }
    }
}

#[test]
fn a_run_is_played_the_same_each_time() {
    for seed in 0..50 {
        let [one, other] = [0, 1].map(|_| play_random(seed, Nanos(TICK.0 / 2)).clients);
        assert_eq!(one, other);
    }
}
