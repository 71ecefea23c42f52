//! Part `select`: what a compute unit (CU) does between two blocks, with one to several best-effort tasks on
//! the board: account for the one that ended, choose the next, claim it.
//!
//! The device says how long its blocks ran ([`DeviceCounters::busy`]) and how many there were. While it is
//! saturated with short blocks, the rest of its compute units' time, over the blocks, is what lies between
//! two of them. Clock reads around a block are a part of it. Tasks are so long that their ends do not count.
//!
//! Beside a real-time stage of one block the other CUs *pad*: they must also find that there is time for a
//! block until the stage ends. There the same is computed from padding alone, over one real-time task at a
//! time, during which every CU but one does nothing but pad.
//!
//! A stretch of time in which somebody else had a core says nothing and is left out: its blocks took half
//! as long again as they should, or were fewer than half of what fits. So a device that needed longer
//! between two blocks than for a block would show nothing; how many stretches were left out is told.
//!
//! [`DeviceCounters::busy`]: reef_device::DeviceCounters::busy

use std::thread;
use std::time::Duration;

use reef_base::{Class, MonotonicClock, Nanos, Samples};
use reef_device::Scheme;
use reef_engine::Session;
use reef_plan::SyntheticStage;
use reef_report::micro::{Part, Row};

use super::Bench;
use super::rig::{Rig, SHARING};
use crate::error::BenchError;

pub(super) const NAME: &str = "select";

const CLIENTS_MAX: usize = 5;
const SHORT: &str = "short";
/// One stage of blocks of 2 µs.
const SHORT_BLOCKS: SyntheticStage = SyntheticStage { blocks: 50_000, polls: 2, poll_ns: 1_000 };
const NARROW: &str = "narrow";
/// Stages of one block of 1 ms.
const NARROW_STAGES: [SyntheticStage; 5] = [SyntheticStage { blocks: 1, polls: 200, poll_ns: 5_000 }; 5];
const WINDOW: Duration = Duration::from_millis(5);
/// Many short ones: how fast cores hand cache lines to each other changes with the machine's other guests.
const ROUNDS: usize = 4;

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let (windows, tasks) = bench.pick((30, 20), (3, 1));
    let (rig, room) = bench.wide_rig(CLIENTS_MAX)?;
    let blocks = SyntheticStage { blocks: bench.pick(SHORT_BLOCKS.blocks, 2_000), ..SHORT_BLOCKS };
    rig.load_synthetic(SHORT, Class::BestEffort, &[blocks])?;
    rig.load_synthetic(NARROW, Class::real_time(0), &NARROW_STAGES)?;
    let mut narrow = rig.session(NARROW)?;
    let mut seen = vec![<[Seen; SHARING.len()]>::default(); CLIENTS_MAX];
    for round in 0..ROUNDS {
        for (place, seen) in seen.iter_mut().enumerate() {
            let clients = place + 1;
            bench.progress.phase(format!("choosing among {clients}, round {}", round + 1));
            for turn in 0..SHARING.len() {
                let which = (turn + round + place) % SHARING.len();
                rig.engine.set_scheme(SHARING[which]);
                let load = rig.clients(SHORT, clients)?;
                bench.progress.sleep(Duration::from_millis(10));
                seen[which].between(bench, &rig, windows);
                if pads(bench, SHARING[which]) {
                    seen[which].padding(bench, &rig, &mut narrow, tasks)?;
                }
                load.stop()?;
            }
        }
    }
    let points = seen.iter().enumerate();
    let rows = points.flat_map(|(place, seen)| rows(bench, place + 1, seen)).collect();
    let left_out: usize = seen.iter().flatten().map(|seen| seen.left_out).sum();
    let method = format!(
        "time between two blocks of {} µs on {} saturated CUs, from the device's counters: compute-unit \
         time less the blocks' own, over the blocks, per window of {WINDOW:?}; padding: the same of the CUs \
         beside a real-time stage of one block, per real-time task of {} ms; the board takes {room} \
         best-effort tasks, under sequential one; {ROUNDS} rounds; {left_out} windows and tasks left out \
         because somebody else had a core",
        micros(&SHORT_BLOCKS),
        bench.options.cus,
        NARROW_STAGES.len() as u64 * micros(&NARROW_STAGES[0]) / 1_000,
    );
    Ok(Part::new(NAME, method, rows).over("best-effort clients"))
}

/// Only with a CU beside the real-time one, and where classes are told apart.
fn pads(bench: &Bench<'_>, scheme: Scheme) -> bool {
    bench.options.cus > 1 && scheme.is_prioritised()
}

fn rows(bench: &Bench<'_>, clients: usize, seen: &[Seen; SHARING.len()]) -> Vec<Row> {
    let x = clients as f64;
    let of = if clients == 1 { "1 client".to_string() } else { format!("{clients} clients") };
    let mut rows = Vec::new();
    for (scheme, seen) in SHARING.iter().zip(seen) {
        rows.push(Row::new(format!("{of}, {scheme}"), "ns", &seen.between_ns).at(scheme.name(), x));
    }
    for (scheme, seen) in SHARING.iter().zip(seen).filter(|(scheme, _)| pads(bench, **scheme)) {
        let series = format!("{scheme}, padding");
        rows.push(Row::new(format!("{of}, {series}"), "ns", &seen.padding_ns).at(series, x));
    }
    rows
}

fn micros(stage: &SyntheticStage) -> u64 {
    u64::from(stage.polls) * u64::from(stage.poll_ns) / 1_000
}

/// One scheme with one number of clients.
#[derive(Clone, Default)]
struct Seen {
    between_ns: Samples,
    padding_ns: Samples,
    left_out: usize,
}

impl Seen {
    /// Adds windows in which nothing but short blocks runs.
    fn between(&mut self, bench: &Bench<'_>, rig: &Rig, windows: usize) {
        let device = rig.engine.device();
        let (mut last_at, mut last) = (MonotonicClock::read(), device.counters());
        for _ in 0..windows {
            thread::sleep(WINDOW);
            bench.progress.advance(WINDOW);
            let (at, now) = (MonotonicClock::read(), device.counters());
            let stretch = Stretch {
                time: cu_time(at.since(last_at), bench.options.cus),
                blocks: now.blocks_done - last.blocks_done,
                ran: (now.busy + now.wasted).since(last.busy + last.wasted),
            };
            self.left_out += usize::from(!stretch.add_to(&mut self.between_ns));
            (last_at, last) = (at, now);
        }
    }

    /// Adds narrow real-time tasks. The first one, of unknown length, does not count.
    fn padding(
        &mut self,
        bench: &Bench<'_>,
        rig: &Rig,
        narrow: &mut Session,
        tasks: usize,
    ) -> Result<(), BenchError> {
        for index in 0..=tasks {
            let begin = rig.engine.device().counters();
            let info = narrow.run().map_err(BenchError::infer(NARROW))?;
            let end = rig.engine.device().counters();
            bench.progress.advance(info.timings.compute.into());
            let stretch = Stretch {
                time: cu_time(info.timings.compute, bench.options.cus - 1),
                blocks: end.blocks_padding - begin.blocks_padding,
                ran: end.padding.since(begin.padding),
            };
            if index > 0 {
                self.left_out += usize::from(!stretch.add_to(&mut self.padding_ns));
            }
        }
        Ok(())
    }
}

fn cu_time(time: Nanos, cus: usize) -> Nanos {
    Nanos(time.0 * cus as u64)
}

/// What some compute units did with their time while there were short blocks for all of it.
#[derive(Clone, Copy)]
struct Stretch {
    /// Of all those units.
    time: Nanos,
    /// Short blocks that ended.
    blocks: u64,
    /// Time of those blocks, and of killed ones.
    ran: Nanos,
}

impl Stretch {
    /// Adds the time between two blocks in nanoseconds; false if somebody else had a core.
    fn add_to(self, between_ns: &mut Samples) -> bool {
        let undisturbed = self.is_undisturbed();
        if undisturbed {
            between_ns.push((self.time.0 as f64 - self.ran.0 as f64) / self.blocks as f64);
        }
        undisturbed
    }

    fn is_undisturbed(self) -> bool {
        let nominal = self.blocks * micros(&SHORT_BLOCKS) * 1_000;
        self.blocks > 0 && nominal * 2 >= self.time.0 && self.ran.0 * 2 <= nominal * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(time: u64, blocks: u64, ran: u64) -> Option<f64> {
        let mut samples = Samples::default();
        Stretch { time: Nanos(time), blocks, ran: Nanos(ran) }.add_to(&mut samples);
        samples.as_slice().first().copied()
    }

    #[test]
    fn what_the_blocks_did_not_take_lies_between_them() {
        assert_eq!(stretch(24_000, 10, 21_000), Some(300.0));
        // Slow to choose, but nobody else's doing.
        assert_eq!(stretch(39_000, 10, 21_000), Some(1_800.0));
    }

    #[test]
    fn stretches_without_a_core_are_left_out() {
        assert_eq!(stretch(24_000, 0, 0), None);
        // A core was away between blocks, or inside one that began long before.
        assert_eq!(stretch(48_000, 10, 21_000), None);
        assert_eq!(stretch(24_000, 10, 40_000), None);
    }
}
