//! Parts `kernels`, `length` and `clients`: how long a small real-time task waits for its first block,
//! against the number of the best-effort task's kernels, their length, and the number of best-effort
//! clients. Every scheme that takes best-effort work, on synthetic plans.
//!
//! Under `sequential` and `concurrent` nobody is preempted, so what counts is the same for all: every request
//! that finds a best-effort task on the device, from its submission to its first block. One that would find
//! none is put off by another random gap.
//!
//! A wait must not depend on what the last real-time task left behind. Under `sequential` the next
//! best-effort task begins right when that one ends, so the gap behind it is spread over a whole best-effort
//! task there; elsewhere over several kernels.

use std::thread;
use std::time::Duration;

use reef_base::{Class, Nanos, Rng, Samples};
use reef_device::Scheme;
use reef_engine::{RunInfo, Session};
use reef_load::pace::wake_on_time;
use reef_plan::SyntheticStage;
use reef_report::micro::{Part, Row};

use super::Bench;
use super::rig::{Rig, SATURATING_CALLERS, SHARING};
use crate::error::BenchError;

pub(super) const KERNELS: &str = "kernels";
pub(super) const LENGTH: &str = "length";
pub(super) const CLIENTS: &str = "clients";

/// The paper's default: 100 kernels of 100 µs.
const KERNEL_COUNT: usize = 100;
const KERNEL_US: u64 = 100;
/// Work between two polls of any block here.
const POLL_US: u64 = 5;
const URGENT: &str = "urgent";
const URGENT_BLOCK_US: u64 = 20;
const GAP_MIN: Duration = Duration::from_micros(100);
const GAP_SPREAD_MIN: Duration = Duration::from_micros(900);
/// Submissions to begin with that do not count.
const WARM_UPS: usize = 3;
/// Of a scheme's submissions at a point, as many may be put off before the rest is given up.
const PUT_OFF_MAX: usize = 20;
const ROUNDS: usize = 3;
const CLIENTS_MAX: usize = 5;

/// Against the number of kernels.
pub(super) fn kernels(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let counts = bench.pick(&[1, 10, 50, 100, 200, 400][..], &[1, 10, 40]);
    let points = counts.iter().map(|&kernels| Point {
        x: kernels as f64,
        label: counted(kernels, "kernel"),
        kernels,
        kernel_us: KERNEL_US,
        clients: SATURATING_CALLERS,
    });
    let sweep = Sweep { name: KERNELS, axis: "kernels of the best-effort task", points: points.collect() };
    sweep.run(bench, &format!("of {KERNEL_US} µs each, {SATURATING_CALLERS} best-effort clients"))
}

/// Against the length of a kernel.
pub(super) fn length(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let lengths = bench.pick(&[20, 50, 100, 200, 500, 1000, 2000][..], &[20, 100, 500]);
    let kernels = bench.pick(KERNEL_COUNT, 10);
    let points = lengths.iter().map(|&kernel_us| Point {
        x: kernel_us as f64,
        label: format!("{kernel_us} µs"),
        kernels,
        kernel_us,
        clients: SATURATING_CALLERS,
    });
    let axis = "length of the best-effort task's kernels in µs";
    let sweep = Sweep { name: LENGTH, axis, points: points.collect() };
    sweep.run(bench, &format!("{kernels} kernels, {SATURATING_CALLERS} best-effort clients"))
}

/// Against the number of best-effort clients.
pub(super) fn clients(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let kernels = bench.pick(KERNEL_COUNT, 10);
    let points = (1..=CLIENTS_MAX).map(|clients| Point {
        x: clients as f64,
        label: counted(clients, "client"),
        kernels,
        kernel_us: KERNEL_US,
        clients,
    });
    let sweep = Sweep { name: CLIENTS, axis: "best-effort clients", points: points.collect() };
    sweep.run(bench, &format!("{kernels} kernels of {KERNEL_US} µs each"))
}

struct Sweep {
    name: &'static str,
    axis: &'static str,
    points: Vec<Point>,
}

/// What the device is busy with at one place of the axis.
struct Point {
    x: f64,
    label: String,
    kernels: usize,
    kernel_us: u64,
    clients: usize,
}

/// What was seen of one scheme at one point.
#[derive(Clone, Default)]
struct Seen {
    wait_us: Samples,
    put_off: usize,
}

impl Sweep {
    fn run(&self, bench: &Bench<'_>, load: &str) -> Result<Part, BenchError> {
        wake_on_time();
        let (rig, room) = bench.wide_rig(CLIENTS_MAX)?;
        rig.load_synthetic(URGENT, Class::real_time(0), &[stage(bench, URGENT_BLOCK_US)])?;
        for point in &self.points {
            let stages = vec![stage(bench, point.kernel_us); point.kernels];
            rig.load_synthetic(&point.label, Class::BestEffort, &stages)?;
        }
        let mut prober = Prober { bench, rig: &rig, session: rig.session(URGENT)?, rng: Rng::new(1) };
        let mut seen = vec![<[Seen; SHARING.len()]>::default(); self.points.len()];
        for round in 0..ROUNDS {
            for (place, point) in self.points.iter().enumerate() {
                bench.progress.phase(format!("{}: {}, round {}", self.name, point.label, round + 1));
                for which in rotated(round + place) {
                    prober.probe(point, SHARING[which], &mut seen[place][which])?;
                }
            }
        }
        Ok(Part::new(self.name, self.method(bench, load, room, &seen), self.rows(&seen)).over(self.axis))
    }

    fn rows(&self, seen: &[[Seen; SHARING.len()]]) -> Vec<Row> {
        let row = |point: &Point, scheme: Scheme, seen: &Seen| {
            let name = format!("{}, {scheme}", point.label);
            Row::new(name, "µs", &seen.wait_us).at(scheme.name(), point.x)
        };
        let schemes = |(point, seen)| SHARING.iter().zip(seen).map(move |(&s, seen)| row(point, s, seen));
        self.points.iter().zip(seen).flat_map(schemes).collect()
    }

    fn method(&self, bench: &Bench<'_>, load: &str, room: usize, seen: &[[Seen; SHARING.len()]]) -> String {
        let put_off: usize = seen.iter().flatten().map(|seen| seen.put_off).sum();
        let counted: usize = seen.iter().flatten().map(|seen| seen.wait_us.len()).sum();
        format!(
            "submission of a real-time request to its first block on {cus} CUs, all kept busy by best-effort \
             tasks of kernels of {cus} blocks: {load}; the board takes {room} best-effort tasks, under \
             sequential one; {ROUNDS} rounds, schemes in turns; fewer submissions under sequential, where \
             each waits for a whole task; {counted} submissions at random times, {put_off} put off because \
             no best-effort task was on the device",
            cus = bench.options.cus,
        )
    }
}

/// Submits real-time requests.
struct Prober<'a> {
    bench: &'a Bench<'a>,
    rig: &'a Rig,
    session: Session,
    rng: Rng,
}

impl Prober<'_> {
    /// One round of one scheme at `point`.
    fn probe(&mut self, point: &Point, scheme: Scheme, seen: &mut Seen) -> Result<(), BenchError> {
        self.rig.engine.set_scheme(scheme);
        let load = self.rig.clients(&point.label, point.clients)?;
        self.bench.progress.sleep(Duration::from_millis(10));
        let (count, spread) = (point.submissions(self.bench, scheme), point.gap_spread(scheme));
        let (mut submitted, mut put_off) = (0, 0);
        while submitted < WARM_UPS + count && put_off < PUT_OFF_MAX * count {
            let gap = GAP_MIN + Duration::from_nanos(self.rng.below(spread.as_nanos() as u64));
            thread::sleep(gap);
            self.bench.progress.advance(gap);
            if !self.rig.is_busy() {
                put_off += 1;
                continue;
            }
            let info = self.session.run().map_err(BenchError::infer(URGENT))?;
            submitted += 1;
            if submitted > WARM_UPS {
                seen.wait_us.push_micros(first_block(&info));
            }
        }
        seen.put_off += put_off;
        load.stop()?;
        Ok(())
    }
}

impl Point {
    /// Time of one best-effort task that has the device to itself.
    fn task_time(&self) -> Duration {
        Duration::from_micros(self.kernels as u64 * self.kernel_us)
    }

    /// Submissions of one round that count.
    fn submissions(&self, bench: &Bench<'_>, scheme: Scheme) -> usize {
        let count = bench.pick(270, 8);
        if scheme != Scheme::Sequential {
            return count;
        }
        let (time, least) = bench.pick((Duration::from_millis(800), 14), (Duration::from_millis(20), 3));
        let fitting = time.as_micros() / self.task_time().as_micros();
        (fitting as usize).clamp(least, count)
    }

    fn gap_spread(&self, scheme: Scheme) -> Duration {
        let behind = match scheme {
            Scheme::Sequential => self.task_time(),
            _ => Duration::from_micros(2 * self.kernel_us),
        };
        behind.max(GAP_SPREAD_MIN)
    }
}

/// A kernel with a block of `block_us` for every compute unit.
fn stage(bench: &Bench<'_>, block_us: u64) -> SyntheticStage {
    let (polls, poll_ns) = ((block_us / POLL_US) as u32, POLL_US as u32 * 1_000);
    SyntheticStage { blocks: bench.options.cus, polls, poll_ns }
}

/// Everything before the first block: the engine's share, the wait in its queue and the wait on the board.
fn first_block(info: &RunInfo) -> Nanos {
    info.timings.compute_input + info.timings.queue
}

/// The schemes in an order that begins elsewhere every time.
fn rotated(by: usize) -> impl Iterator<Item = usize> {
    (0..SHARING.len()).map(move |turn| (turn + by) % SHARING.len())
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(kernels: usize, kernel_us: u64) -> Point {
        Point { x: kernels as f64, label: counted(kernels, "kernel"), kernels, kernel_us, clients: 2 }
    }

    #[test]
    fn every_scheme_begins_once_and_none_is_left_out() {
        let firsts: Vec<usize> = (0..SHARING.len()).map(|by| rotated(by).next().unwrap()).collect();
        assert_eq!(firsts, [0, 1, 2, 3]);
        for by in 0..10 {
            let mut order: Vec<usize> = rotated(by).collect();
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn gaps_cover_what_a_request_may_wait_for() {
        for (kernels, kernel_us) in [(1, 100), (400, 100), (100, 20), (100, 2_000)] {
            let point = point(kernels, kernel_us);
            assert!(point.gap_spread(Scheme::Sequential) >= point.task_time());
            for scheme in [Scheme::Concurrent, Scheme::Wait, Scheme::Reset] {
                assert!(point.gap_spread(scheme) >= Duration::from_micros(2 * kernel_us));
                assert!(point.gap_spread(scheme) <= Duration::from_millis(4));
            }
        }
    }

    #[test]
    fn rows_go_point_by_point_and_scheme_by_scheme() {
        let points = vec![point(1, 100), point(10, 100)];
        let sweep = Sweep { name: KERNELS, axis: "kernels", points };
        let mut seen = vec![<[Seen; SHARING.len()]>::default(); 2];
        seen[1][3].wait_us.push(2.5);
        let rows = sweep.rows(&seen);
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names[0], "1 kernel, sequential");
        assert_eq!(names[7], "10 kernels, reset");
        assert_eq!((rows.len(), rows[7].summary.p50, rows[0].summary.count), (8, 2.5, 0));
        let place = rows[7].point.as_ref().unwrap();
        assert_eq!((place.series.as_str(), place.x), ("reset", 10.0));
    }
}
