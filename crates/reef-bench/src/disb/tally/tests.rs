//! Results against numbers that were worked out by hand.

use reef_load::RunClient;

use super::*;

const MS: u64 = 1_000_000;

fn workload() -> Workload {
    let text = r#"
        name = "w"
        [[client]]
        name = "rt"
        model = "m"
        class = "real-time"
        arrivals = { kind = "periodic", rate_hz = 10 }
        deadline_ms = 15
        [[client]]
        name = "be"
        model = "n"
        class = "best-effort"
        arrivals = { kind = "closed-loop" }
    "#;
    Workload::parse(text, "w", &|_| Err("none".to_string())).unwrap()
}

/// A window of 1 s behind a warm-up of 0.2 s.
fn run() -> Run {
    let client = |name: &str, class, arrivals| RunClient {
        name: name.to_string(),
        model: if name == "rt" { "m" } else { "n" }.to_string(),
        class,
        level: 0,
        arrivals,
        in_flight: 1,
        enforced_deadline: None,
        core: None,
    };
    Run {
        clients: vec![
            client("rt", ClassName::RealTime, Arrivals::Open { times: Vec::new(), newest_only: false }),
            client("be", ClassName::BestEffort, Arrivals::Closed { think: Duration::ZERO }),
        ],
        warm_up: Duration::from_millis(200),
        measured: Duration::from_secs(1),
        cool_down: Duration::ZERO,
        grace: Duration::from_secs(5),
    }
}

fn record(due_ms: u64, latency_ms: u64) -> Record {
    let (due, done) = (Nanos(due_ms * MS), Nanos((due_ms + latency_ms) * MS));
    Record { due, sent: due, done, on_device: None, preempt: None }
}

/// Real-time requests every 100 ms of `latency_ms`, best-effort answers every `gap_ms`.
fn repeated(latency_ms: u64, gap_ms: Option<u64>) -> Repeated {
    let real_time = (0..12).map(|index| record(index * 100, latency_ms)).collect();
    let best_effort =
        gap_ms.map_or(Vec::new(), |gap| (0..1400 / gap).map(|i| record(i * gap, gap)).collect());
    let client = |records| PlayedClient { records, ..PlayedClient::default() };
    let alone = |latency_us, per_s| AloneTime { latency_us, per_s };
    Repeated {
        run: Arc::new(run()),
        played: Played { clients: vec![client(real_time), client(best_effort)], ..Played::default() },
        alone: [("m".to_string(), alone(10_000.0, 100.0)), ("n".to_string(), alone(20_000.0, 50.0))].into(),
    }
}

fn condition(best_effort: bool) -> Condition {
    Condition { name: "c".to_string(), title: String::new(), best_effort }
}

fn tally(own: &[Repeated], reference: &[Repeated]) -> ConditionResult {
    let workload = workload();
    let is_reference = std::ptr::eq(own, reference);
    let condition = &condition(!is_reference);
    let (own, reference): (Vec<&Repeated>, Vec<&Repeated>) =
        (own.iter().collect(), reference.iter().collect());
    let dedicated = &reference[..];
    let own = if is_reference { dedicated } else { &own[..] };
    Tally { workload: &workload, condition, again: false, own, reference: dedicated, dedicated }.result()
}

#[test]
fn latencies_ratios_and_shares_are_what_arithmetic_says() {
    let reference = [repeated(10, None), repeated(10, None)];
    let own = [repeated(11, Some(25)), repeated(13, Some(25))];
    let result = tally(&own, &reference);
    let client = &result.clients[0];
    let latency = client.latency_us.unwrap();
    // Arrivals at 200, 300, … 1100 ms lie in the window, those of the warm-up do not.
    assert_eq!((latency.count, latency.min, latency.max, latency.mean), (20, 11_000.0, 13_000.0, 12_000.0));
    assert!((client.slowdown.unwrap().mean - 1.2).abs() < 1e-9);
    let mean = client.to_reference.unwrap().mean;
    // The centre of 1.1 and 1.3 on a logarithmic scale; t(1) = 12.7.
    let centre = (1.1f64 * 1.3).sqrt();
    assert!((mean.value - centre).abs() < 1e-9, "{mean:?}");
    let expected = centre * 12.706 * ((1.3f64 / 1.1).ln() / 2.0);
    assert!((mean.half_width.unwrap() - expected).abs() < 1e-9, "{mean:?} {expected}");
    let best_effort = result.best_effort.unwrap();
    // Real-time requests take 10 ms of each 100 ms under the reference; 40/s × 20 ms is 0.8 of the device.
    assert!((best_effort.bound - 0.9).abs() < 1e-9, "{best_effort:?}");
    assert!((best_effort.device_share.value - 0.8).abs() < 1e-6);
    assert!((best_effort.of_bound.unwrap().value - 0.8 / 0.9).abs() < 1e-6);
    let overall = &result.overall;
    assert!((overall.to_reference.unwrap().value - 5.0).abs() < 1e-6, "{overall:?}");
    // (10 + 45) / 10 at the bound; normalised: 40/s of 20 ms count as 80/s of 10 ms.
    assert!((overall.to_reference_bound.unwrap() - 5.5).abs() < 1e-6);
    assert!((overall.normalised_to_reference.unwrap().value - 9.0).abs() < 1e-6);
    assert!(!result.saturated);
}

#[test]
fn the_reference_has_no_ratio_and_no_best_effort() {
    let reference = [repeated(10, None)];
    let result = tally(&reference, &reference);
    assert!(result.real_time.to_reference.is_none() && result.best_effort.is_none());
    assert!(result.clients[0].to_reference.is_none() && result.clients[1].latency_us.is_none());
    assert_eq!(result.real_time.per_s, Estimate { value: 10.0, half_width: None });
    assert!((result.real_time.busy.value - 0.1).abs() < 1e-9);
}

#[test]
fn what_was_never_sent_counts_as_long_as_it_was_waited_for() {
    let mut one = repeated(10, None);
    one.played.clients[0].unsent = vec![Nanos(100 * MS), Nanos(700 * MS)];
    let own = [one];
    let result = tally(&own, &own);
    let client = &result.clients[0];
    // The window ends at 1200 ms, the grace 5 s later: 5.5 s. The one of the warm-up does not count.
    assert_eq!((client.unsent, client.latency_us.unwrap().max), (1, 5_500_000.0));
    assert!(client.saturated && result.saturated);
    assert_eq!(client.misses, 1);
}

/// Requests every 10 ms for 1.2 s on a server that takes `service_ms` for each.
fn queue(service_us: u64) -> Repeated {
    let mut one = repeated(10, None);
    let mut free = Nanos::ZERO;
    let request = |index: u64| {
        let due = Nanos(index * 10 * MS);
        free = free.max(due) + Nanos::from_micros(service_us);
        Record { done: free, ..record(index * 10, 0) }
    };
    one.played.clients[0].records = (0..120).map(request).collect();
    one
}

#[test]
fn a_backlog_that_grows_is_saturation_and_a_late_answer_is_not() {
    // Each answer is 150 ms late, but the backlog does not grow.
    let steady = [repeated(150, None)];
    assert!(!tally(&steady, &steady).saturated);
    let saturated = |service_us| {
        let own = [queue(service_us), queue(service_us)];
        tally(&own, &own).saturated
    };
    assert!(!saturated(9_900), "99 % of what it can hold");
    assert!(saturated(10_500), "5 % more than it can hold");
    assert!(saturated(20_000));
}

#[test]
fn who_starves_among_best_effort_clients_saturates_nobody() {
    let mut one = repeated(10, Some(20));
    one.played.clients[1].unsent = vec![Nanos(700 * MS)];
    let reference = [repeated(10, None)];
    let result = tally(&[one], &reference);
    assert!(result.clients[1].saturated && !result.saturated);
}

#[test]
fn a_closed_loop_slower_than_the_warm_up_has_its_rate() {
    // Answers at 350, 700, 1050 ms; the window is 200 to 1200 ms.
    let own = [repeated(10, Some(350))];
    let rate = tally(&own, &[repeated(10, None)]).best_effort.unwrap().per_s.value;
    assert!((rate - 1e3 / 350.0).abs() < 1e-6, "{rate}");
}

#[test]
fn the_time_on_the_device_is_that_of_the_union() {
    let mut one = repeated(10, None);
    let spans = [(0, 300), (250, 400), (300, 350), (600, 700), (1100, 1900)];
    one.played.clients[0].records = spans
        .iter()
        .map(|&(begin, end)| Record {
            on_device: Some((Nanos(begin * MS), Nanos(end * MS))),
            ..record(begin, 1)
        })
        .collect();
    // From 200 to 400, 600 to 700 and 1100 to 1200 of the window 200 to 1200.
    assert!((busy(&one, &[0]) - 0.4).abs() < 1e-9);
}

#[test]
fn the_device_is_summed_over_repetitions() {
    let mut one = repeated(10, Some(20));
    one.played.clients[0].records[5].preempt = Some(Nanos(4_000));
    one.played.device = Some(DeviceUse {
        cus: 2,
        preemptions: 2,
        blocks_killed: 4,
        blocks_rerun: 0,
        wasted: Nanos(MS),
        padding: Nanos(20 * MS),
        busy: Nanos(1_000 * MS),
    });
    one.played.cpu = Some(Duration::from_millis(1500));
    one.played.memory_bytes = Some(7);
    let own = [one.clone(), one];
    let reference = [repeated(10, None), repeated(10, None)];
    let result = tally(&own, &reference);
    let device = result.device.unwrap();
    assert_eq!((device.preemptions, device.blocks_killed), (4, 8));
    assert_eq!(device.preempt_us.unwrap().count, 2);
    assert_eq!(device.wasted_us_per_preemption, Some(500.0));
    assert_eq!((device.wasted_share, device.padding_share, device.cu_utilisation), (0.0005, 0.01, 0.5));
    assert_eq!((result.cpus_busy, result.memory_bytes), (Some(1.5), Some(7)));
}

#[test]
fn quantiles_are_known_values() {
    let samples: Samples = (0..=200).map(|us| f64::from(us) * 1e3).collect();
    let quantiles = quantiles_ms(&samples);
    assert_eq!((quantiles.len(), quantiles[0], quantiles[50], quantiles[100]), (101, 0.0, 100.0, 200.0));
    assert!(quantiles_ms(&Samples::default()).is_empty());
}

#[test]
fn the_interval_of_a_pooled_percentile_knows_an_odd_repetition() {
    let p95 = |summary: &Summary| summary.p95;
    let like = |scale: f64| (1..=11).map(|rank| scale * f64::from(rank)).collect::<Samples>();
    let mut samples = vec![(like(1.0), like(1.0)); 8];
    assert_eq!(resampled(&samples[..1], p95), None);
    assert_eq!(resampled(&samples, p95), Some(0.0));
    // One of eight repetitions has as many slow requests as make the percentile over all of them, or not.
    samples[0].0 = like(10.0);
    let half_width = resampled(&samples, p95).unwrap();
    assert!((0.5..10.0).contains(&half_width), "{half_width}");
}
