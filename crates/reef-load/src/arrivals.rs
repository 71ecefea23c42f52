//! From a client's specification to the times at which it asks, in one repetition.
//!
//! Invariant: the times are a function of the workload, the seed, the repetition and the length alone, so
//! every condition of a repetition sees the same ones. Repetitions differ: of a trace each plays another
//! piece, and the pieces begin at places evenly spread over it; so do the phases of periodic clients, since
//! few periods fit in a repetition.

use std::time::Duration;

use reef_base::{ClassName, Nanos, Rng};

use crate::run::{Arrivals, Run, RunClient, periodic, poisson};
use crate::workload::{ArrivalSpec, Client, Track, Workload};

/// One repetition of a workload.
#[derive(Clone, Copy, Debug)]
pub struct Repetition {
    /// Chooses random arrivals.
    pub seed: u64,
    /// Which one, from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
    /// Played before the measured window.
    pub warm_up: Duration,
    /// The measured window.
    pub measured: Duration,
    /// How long best-effort closed loops go on after it.
    pub cool_down: Duration,
    /// How long after the end late arrivals are still sent.
    pub grace: Duration,
}

/// The run that a repetition of a workload plays.
pub fn run(workload: &Workload, repetition: &Repetition) -> Run {
    let clients = workload.clients.iter().enumerate();
    Run {
        clients: clients.map(|(index, client)| run_client(workload, index, client, repetition)).collect(),
        warm_up: repetition.warm_up,
        measured: repetition.measured,
        cool_down: repetition.cool_down,
        grace: repetition.grace,
    }
}

fn run_client(workload: &Workload, index: usize, client: &Client, repetition: &Repetition) -> RunClient {
    let seed = client_seed(repetition, &workload.name, index);
    RunClient {
        name: client.name.clone(),
        model: client.model.clone(),
        class: client.class,
        level: if client.class == ClassName::RealTime { client.level.get() } else { 0 },
        arrivals: arrivals(client, seed, repetition),
        in_flight: client.in_flight,
        enforced_deadline: client.deadline.filter(|_| client.enforce_deadline),
        core: None,
    }
}

fn arrivals(client: &Client, seed: u64, repetition: &Repetition) -> Arrivals {
    let length = Nanos::from(repetition.warm_up + repetition.measured);
    let begin = repetition.index as f64 / repetition.count as f64;
    let times = match &client.arrivals {
        ArrivalSpec::Periodic { rate_hz, phase } => periodic(*rate_hz, (phase + begin) % 1.0, length),
        ArrivalSpec::Poisson { rate_hz } => poisson(*rate_hz, &mut Rng::new(seed), length),
        ArrivalSpec::Trace { track, stretch } => piece(track, *stretch, begin, length),
        ArrivalSpec::ClosedLoop { think } => return Arrivals::Closed { think: *think },
        ArrivalSpec::After { client, think } => {
            return Arrivals::After { client: *client, think: *think };
        }
    };
    Arrivals::Open { times, newest_only: client.newest_only }
}

/// Different for each workload, repetition and client, so that no two of them share random numbers.
fn client_seed(repetition: &Repetition, workload: &str, client: usize) -> u64 {
    let words = workload.bytes().map(u64::from).chain([repetition.index as u64, client as u64]);
    words.fold(repetition.seed, |seed, word| Rng::new(seed ^ word.wrapping_mul(0x0100_0000_01B3)).next_u64())
}

/// A piece of a stretched recording that repeats for ever, from the fraction `begin` of it on.
fn piece(track: &Track, stretch: f64, begin: f64, length: Nanos) -> Vec<Nanos> {
    let period_ns = track.duration.0 as f64 * stretch;
    let begin_ns = (begin * period_ns).round();
    let mut times = Vec::new();
    let mut round = 0.0;
    loop {
        for time in &track.times {
            let at_ns = round * period_ns + time.0 as f64 * stretch - begin_ns;
            if at_ns >= length.0 as f64 {
                return times;
            }
            if at_ns >= 0.0 {
                times.push(Nanos(at_ns as u64));
            }
        }
        round += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repetition(index: usize) -> Repetition {
        let (warm_up, measured) = (Duration::from_secs(1), Duration::from_secs(9));
        let (cool_down, grace) = (Duration::ZERO, Duration::ZERO);
        Repetition { seed: 7, index, count: 10, warm_up, measured, cool_down, grace }
    }

    fn times(run: &Run) -> Vec<&[Nanos]> {
        let open = |client: &'_ RunClient| matches!(client.arrivals, Arrivals::Open { .. });
        let clients = run.clients.iter().filter(|client| open(client));
        clients
            .map(|client| match &client.arrivals {
                Arrivals::Open { times, .. } => &times[..],
                _ => &[],
            })
            .collect()
    }

    #[test]
    fn a_thousand_random_arrivals_come_again_with_the_seed_and_only_with_it() {
        let workload = Workload::built_in("E").unwrap();
        let one = run(&workload, &repetition(0));
        assert_eq!(one, run(&workload, &repetition(0)));
        let all = times(&one);
        assert!(all.iter().map(|times| times.len()).sum::<usize>() > 900, "5 clients, 20/s, 10 s");
        // What an implementation of the generator in another language gives.
        assert_eq!(all[0][..3], EXPECTED);
        let other_seed = Repetition { seed: 8, ..repetition(0) };
        for other in [run(&workload, &repetition(1)), run(&workload, &other_seed)] {
            for (index, times) in times(&other).iter().enumerate() {
                assert!(times[0] != all[index][0], "client {index}");
            }
        }
        assert!((1..5).all(|index| all[index][0] != all[0][0]), "clients share their arrivals");
    }

    const EXPECTED: [Nanos; 3] = [Nanos(98_801_793), Nanos(111_439_536), Nanos(128_328_377)];

    #[test]
    fn poisson_arrivals_are_rising_and_have_their_rate_and_variance() {
        let length = Nanos::from_millis(1_000_000);
        let times = poisson(20.0, &mut Rng::new(3), length);
        assert!(times.is_sorted());
        let count = times.len() as f64;
        // 20,000 expected, standard deviation 141.
        assert!((count - 20_000.0).abs() < 600.0, "{count}");
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1].since(pair[0]).as_millis_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{mean} {variance}");
    }

    #[test]
    fn a_trace_begins_where_it_is_told_and_again_at_its_end() {
        let at = |ms: &[u64]| ms.iter().copied().map(Nanos::from_millis).collect::<Vec<_>>();
        let track = Track { times: at(&[0, 300, 900]), duration: Nanos::from_millis(1_000), beyond: 0 };
        let length = Nanos::from_millis(800);
        assert_eq!(piece(&track, 1.0, 0.0, length), at(&[0, 300]));
        assert_eq!(piece(&track, 1.0, 0.8, length), at(&[100, 200, 500]));
        assert_eq!(piece(&track, 2.0, 0.0, length), at(&[0, 600]));
        assert_eq!(piece(&track, 2.0, 0.4, length), at(&[]));
        assert_eq!(piece(&track, 0.5, 0.0, length), at(&[0, 150, 450, 500, 650]));
    }

    #[test]
    fn every_arrival_of_the_trace_is_played_once() {
        let workload = Workload::built_in("REAL").unwrap();
        // Ten pieces of 3.8 s are the 38 s.
        let (warm_up, measured) = (Duration::from_millis(800), Duration::from_secs(3));
        let piece = |index| Repetition { warm_up, measured, ..repetition(index) };
        let count: usize = (0..10)
            .map(|index| times(&run(&workload, &piece(index))).iter().map(|times| times.len()).sum::<usize>())
            .sum();
        assert_eq!(count, 1660);
    }
}
