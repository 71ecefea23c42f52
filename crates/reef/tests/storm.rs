//! Every tiny model on the board at once as best-effort work, preempted at random moments thousands of times
//! by real-time tasks of two levels, and cancelled now and then: each output is the undisturbed run's, to the
//! bit, no finished block runs again, and every task ends once. `REEF_STORM_SECONDS` makes it last longer;
//! `--nocapture` shows the counters. Time decides only when to stop.

#[path = "storm/fleet.rs"]
mod fleet;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fleet::{CUS_MOST, INPUTS, PATIENCE, Subject};
use reef_base::{Level, Nanos, Rng, TaskId, TaskKey};
use reef_cpu::CpuDevice;
use reef_device::{Completion, Device, DeviceCounters, Io, LoadedPlan, Outcome, Scheme};
use reef_zoo::Model;

/// Preemptions with kills on every number of compute units, at least.
const KILLING_PREEMPTIONS: u64 = 300;
/// Best-effort tasks of every model that end well in each part, at least.
const DONE_PER_MODEL: u64 = 2;
/// Longest random gap before real-time tasks come, in nanoseconds.
const GAP_NS: u64 = 1_000_000;

#[test]
fn outputs_survive_a_storm_of_preemptions() {
    let seconds = std::env::var("REEF_STORM_SECONDS").ok().map(|text| text.parse().expect("whole seconds"));
    let total = Duration::from_secs(seconds.unwrap_or(20));
    let subjects = fleet::subjects();
    let (mut sum, mut seed) = (Tally::default(), 1);
    for cus in 1..=CUS_MOST {
        undisturbed(&subjects, cus);
        sum.add(&storm(&subjects, cus, Scheme::Reset, total / 5, seed));
        seed += 1;
    }
    for (cus, scheme) in [(2, Scheme::Wait), (3, Scheme::Concurrent), (1, Scheme::Sequential)] {
        storm(&subjects, cus, scheme, total / 15, seed);
        seed += 1;
    }
    println!("reset, all: {sum}");
    assert!(sum.killing_preemptions >= CUS_MOST as u64 * KILLING_PREEMPTIONS && sum.wasted > Nanos::ZERO);
    assert!(sum.cancelled > 0 && sum.real_time_killed > 0, "{sum}");
}

/// Alone, a plan gives the same bits on any number of compute units.
fn undisturbed(subjects: &[Subject], cus: usize) {
    let device = fleet::device(cus, Scheme::Reset);
    for subject in subjects {
        let loaded = device.load(subject.plan.clone()).expect("the plan loads");
        for input in 0..INPUTS {
            let outputs = fleet::alone(&device, subject, loaded, input);
            subject.check(&outputs, input, &format!("{cus} CUs, alone"));
        }
        device.unload(loaded);
    }
}

fn storm(subjects: &[Subject], cus: usize, scheme: Scheme, time: Duration, seed: u64) -> Tally {
    let mut storm = Storm::new(subjects, cus, scheme, seed);
    let started = Instant::now();
    while started.elapsed() < time || !storm.has_seen_enough() {
        assert!(started.elapsed() < time + PATIENCE, "{}: {}", storm.place, storm.tally);
        storm.round();
    }
    storm.finish()
}

/// What was seen at completions.
#[derive(Clone, Debug, Default)]
struct Tally {
    done: u64,
    cancelled: u64,
    preemptions: u64,
    /// Preemptions for which a block was killed before its end.
    killing_preemptions: u64,
    kills: u64,
    /// Kills of real-time tasks, for more urgent ones or at cancellation.
    real_time_killed: u64,
    blocks_done: u64,
    wasted: Nanos,
    busy: Nanos,
    done_per_model: [u64; Model::ALL.len()],
}

/// Who a task is submitted as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    BestEffort,
    RealTime(Level),
}

struct Flight {
    task: TaskId,
    subject: usize,
    input: usize,
    role: Role,
}

/// One device under load. Every model has one best-effort task on the board, resubmitted when it ends.
struct Storm<'a> {
    subjects: &'a [Subject],
    device: CpuDevice,
    loaded: Vec<LoadedPlan>,
    scheme: Scheme,
    place: String,
    rng: Rng,
    token: u64,
    flights: HashMap<u64, Flight>,
    /// Buffers of ended tasks, by model.
    spare: Vec<Vec<Io>>,
    tally: Tally,
}

impl<'a> Storm<'a> {
    fn new(subjects: &'a [Subject], cus: usize, scheme: Scheme, seed: u64) -> Self {
        let device = fleet::device(cus, scheme);
        let load = |subject: &Subject| device.load(subject.plan.clone()).expect("the plan loads");
        let loaded = subjects.iter().map(load).collect();
        let mut storm = Storm {
            subjects,
            device,
            loaded,
            scheme,
            place: format!("{scheme}, {cus} CUs"),
            rng: Rng::new(seed),
            token: 0,
            flights: HashMap::new(),
            spare: subjects.iter().map(|_| Vec::new()).collect(),
            tally: Tally::default(),
        };
        (0..subjects.len()).for_each(|subject| storm.submit(subject, Role::BestEffort));
        storm
    }

    fn has_seen_enough(&self) -> bool {
        let kills = self.scheme != Scheme::Reset || self.tally.killing_preemptions >= KILLING_PREEMPTIONS;
        kills && self.tally.done_per_model.iter().all(|&done| done >= DONE_PER_MODEL)
    }

    /// Best-effort work for a random while, then real-time tasks of one level or both, then their ends.
    fn round(&mut self) {
        self.gap(GAP_NS);
        let (control, resnet) = (self.subject(Model::Control), self.subject(Model::Resnet18));
        let level = |level| Role::RealTime(Level::new(level).expect("a level"));
        match self.rng.below(4) {
            0 => self.submit(control, level(0)),
            1 => self.submit(resnet, level(1)),
            2 => {
                self.submit(resnet, level(1));
                self.gap(GAP_NS / 2);
                self.submit(control, level(0));
            }
            _ => {
                self.submit(resnet, level(1));
                self.submit(control, level(0));
            }
        }
        if self.rng.below(16) == 0 {
            self.cancel_one();
        }
        while self.flights.values().any(|flight| flight.role != Role::BestEffort) {
            let completion = fleet::next(&self.device);
            self.end(completion, true);
        }
    }

    /// Spins for a random time below `below_ns`.
    fn gap(&mut self, below_ns: u64) {
        let (gap, started) = (Duration::from_nanos(self.rng.below(below_ns)), Instant::now());
        while started.elapsed() < gap {
            match self.device.try_complete() {
                Some(completion) => self.end(completion, true),
                None => std::hint::spin_loop(),
            }
        }
    }

    fn subject(&self, model: Model) -> usize {
        self.subjects.iter().position(|subject| subject.model == model).expect("every model is there")
    }

    fn submit(&mut self, subject: usize, role: Role) {
        self.token += 1;
        let (token, input, loaded) =
            (self.token, self.rng.below(INPUTS as u64) as usize, self.loaded[subject]);
        let spare = self.spare[subject].pop();
        let mut io = spare.unwrap_or_else(|| self.device.alloc_io(loaded).expect("the plan is loaded"));
        self.subjects[subject].fill(&mut io, input);
        let key = match role {
            Role::BestEffort => TaskKey::best_effort(token),
            Role::RealTime(level) => TaskKey::real_time(level, None, Nanos(token)),
        };
        let task = self.device.submit(loaded, key, io, token).expect("the board has room for every task");
        let old = self.flights.insert(token, Flight { task, subject, input, role });
        assert!(old.is_none());
    }

    /// Cancels a random task; mostly a best-effort one, as most are.
    fn cancel_one(&mut self) {
        let mut tokens: Vec<u64> = self.flights.keys().copied().collect();
        tokens.sort_unstable();
        let token = tokens[self.rng.below(tokens.len() as u64) as usize];
        self.device.cancel(self.flights[&token].task);
    }

    /// Checks a completion; a best-effort task is followed by the next of its model.
    fn end(&mut self, completion: Completion, follow: bool) {
        let flight = self.flights.remove(&completion.token).expect("a token that has not ended yet");
        assert_eq!(flight.task, completion.task, "{}", self.place);
        let subject = &self.subjects[flight.subject];
        let (blocks, counters) = (subject.plan.blocks(), completion.counters);
        assert_eq!(counters.blocks_rerun, 0, "{}: a finished block ran again", self.place);
        match completion.outcome {
            Outcome::Done => {
                subject.check(&self.outputs(&completion), flight.input, &self.place);
                assert_eq!(counters.blocks_done, blocks, "{}, {}", subject.model, self.place);
                let may_be_killed = self.scheme == Scheme::Reset;
                assert!(may_be_killed || counters.blocks_killed == 0, "{}: {counters:?}", self.place);
            }
            Outcome::Cancelled => assert!(counters.blocks_done <= blocks, "{}: {counters:?}", self.place),
            other => panic!("{}, {}: {other:?}", subject.model, self.place),
        }
        let wasted = counters.wasted_time > Nanos::ZERO;
        assert!(counters.blocks_killed > 0 || !wasted, "{}: {counters:?}", self.place);
        self.tally.count(&completion, &flight);
        self.spare[flight.subject].push(completion.io);
        if follow && flight.role == Role::BestEffort {
            self.submit(flight.subject, Role::BestEffort);
        }
    }

    fn outputs<'c>(&self, completion: &'c Completion) -> Vec<&'c [u8]> {
        completion.io.outputs.iter().map(|bytes| bytes.as_slice()).collect()
    }

    /// Lets every task end; the device's sums are the tasks'.
    fn finish(mut self) -> Tally {
        while !self.flights.is_empty() {
            let completion = fleet::next(&self.device);
            self.end(completion, false);
        }
        assert!(self.device.try_complete().is_none(), "{}: a task ended twice", self.place);
        let (tally, counters) = (&self.tally, self.device.counters());
        println!("{}: {tally}", self.place);
        let expected = DeviceCounters {
            submitted: self.token,
            completed: tally.done + tally.cancelled,
            preemptions: tally.preemptions,
            blocks_done: tally.blocks_done,
            blocks_killed: tally.kills,
            blocks_rerun: 0,
            busy: tally.busy,
            wasted: tally.wasted,
            ..counters
        };
        assert_eq!(counters, expected, "{}", self.place);
        assert_eq!(counters.submitted, counters.completed, "{}", self.place);
        self.tally
    }
}

impl Tally {
    fn count(&mut self, completion: &Completion, flight: &Flight) {
        let counters = completion.counters;
        let done = u64::from(completion.outcome == Outcome::Done);
        self.done += done;
        self.cancelled += 1 - done;
        self.preemptions += u64::from(completion.preempted);
        self.killing_preemptions += u64::from(counters.kills_caused > 0);
        self.kills += counters.blocks_killed;
        self.blocks_done += counters.blocks_done;
        self.wasted = Nanos(self.wasted.0 + counters.wasted_time.0);
        self.busy = Nanos(self.busy.0 + counters.cu_time.0);
        match flight.role {
            Role::BestEffort => self.done_per_model[flight.subject] += done,
            Role::RealTime(_) => self.real_time_killed += counters.blocks_killed,
        }
    }

    fn add(&mut self, other: &Tally) {
        self.done += other.done;
        self.cancelled += other.cancelled;
        self.preemptions += other.preemptions;
        self.killing_preemptions += other.killing_preemptions;
        self.kills += other.kills;
        self.real_time_killed += other.real_time_killed;
        self.blocks_done += other.blocks_done;
        self.wasted = Nanos(self.wasted.0 + other.wasted.0);
        self.busy = Nanos(self.busy.0 + other.busy.0);
        self.done_per_model.iter_mut().zip(other.done_per_model).for_each(|(sum, done)| *sum += done);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { preemptions, killing_preemptions, kills, real_time_killed, .. } = self;
        write!(f, "{preemptions} preemptions ({killing_preemptions} with kills), ")?;
        write!(f, "{kills} blocks killed ({real_time_killed} of real-time tasks), ")?;
        write!(f, "{:.1} ms wasted of {:.1} busy, ", self.wasted.0 as f64 / 1e6, self.busy.0 as f64 / 1e6)?;
        write!(
            f,
            "{} blocks done, {} cancelled, {} completed; ",
            self.blocks_done, self.cancelled, self.done
        )?;
        write!(f, "best-effort per model {:?}", self.done_per_model)
    }
}
