//! Runs cases in every precision: alone, again, evicted, and beside a task that they evict.

use std::sync::Arc;
use std::time::Duration;

use reef_base::{Class, Nanos, TaskKey};
use reef_cuda::CudaDevice;
use reef_device::{Completion, Device, LoadedPlan, Outcome};
use reef_graph::Tensor;
use reef_plan::{Plan, Precision, SyntheticStage, synthetic_output, synthetic_plan};

use crate::cases::{Case, Entry, Expected, Tolerance};

/// Times that each case has fresh inputs, and a tiny one.
const ROUNDS: u64 = 3;
const ROUNDS_TINY: u64 = 1;
/// What a byte of an output holds before a task writes it: floats of such bytes are no numbers.
const STALE: u8 = 0xFF;
/// Tokens of tasks.
const CASE: u64 = 0;
const OTHER: u64 = 9;
/// Columns of the lines.
const NAME: usize = 42;

/// The device, and what disturbs cases.
pub(crate) struct Bench {
    device: CudaDevice,
    tiny: bool,
    /// Best-effort work that cases evict.
    long: (Arc<Plan>, LoadedPlan),
    /// Urgent work that evicts them.
    short: LoadedPlan,
    /// Tasks that preempted cases, and cases that preempted the long task.
    pub(crate) preempted: [u64; 2],
    /// Blocks of both that ran again.
    pub(crate) again: [u64; 2],
}

/// What a case was in one precision.
struct Row {
    precision: Precision,
    plan: Arc<Plan>,
    loaded: LoadedPlan,
    worst: Tolerance,
    wrong: Option<String>,
}

impl Row {
    fn note(&mut self, wrong: impl Into<String>) {
        self.wrong.get_or_insert(wrong.into());
    }
}

type Outputs = Vec<Vec<u8>>;

impl Bench {
    pub(crate) fn new(device: CudaDevice, tiny: bool) -> Result<Bench, String> {
        let target = device.capabilities().target;
        let synthetic = |stages: &[SyntheticStage]| {
            let plan = synthetic_plan("other", target, 1, stages).map_err(|error| error.to_string())?;
            let plan = Arc::new(plan);
            let loaded = device.load(plan.clone()).map_err(|error| error.to_string())?;
            Ok::<_, String>((plan, loaded))
        };
        // More than run at once, where a unit has room for several.
        let blocks = if tiny { 2 } else { 40 } * target.cus;
        let stage = SyntheticStage { blocks, polls: 10, poll_ns: 5_000 };
        let long = synthetic(&[stage; 12])?;
        let short = synthetic(&[SyntheticStage { blocks: target.cus, polls: 2, poll_ns: 2_000 }; 2])?.1;
        Ok(Bench { device, tiny, long, short, preempted: [0; 2], again: [0; 2] })
    }

    /// Prints what the columns are.
    pub(crate) fn head(&self) {
        println!("{}", self.device.capabilities().name);
        println!(
            "{:NAME$} {:4} {:>8} {:>8}  {:>8} {:>8} {:>9}",
            "operator", "", "norm", "at most", "largest", "at most", "us"
        );
    }

    /// Runs a case in every precision and prints a line for each. Whether all of them are right.
    pub(crate) fn run(&mut self, entry: Entry, seed: u64) -> Result<bool, String> {
        let Entry { name, make } = entry;
        let case = make();
        let mut rows = Vec::new();
        // What multiplies nothing is the same in each.
        let alike = self.tiny && !case.multiplies();
        for precision in Precision::ALL.into_iter().take(if alike { 1 } else { 4 }) {
            let plan = case.plan(self.device.cutter(Some(precision)).as_ref(), &name);
            let plan = Arc::new(plan.map_err(|error| error.to_string())?);
            let loaded = self.device.load(plan.clone()).map_err(|error| error.to_string())?;
            let worst = Tolerance { norm: 0.0, share: 0.0 };
            rows.push(Row { precision, plan, loaded, worst, wrong: None });
        }
        for round in 0..if self.tiny { ROUNDS_TINY } else { ROUNDS } {
            let inputs = case.fresh(seed * ROUNDS + round);
            let expected = case.expected(&inputs)?;
            for row in &mut rows {
                self.round(row, &inputs, &expected, round)?;
            }
        }
        let mut right = true;
        for row in &rows {
            right &= self.print(&name, &case, row);
            self.device.unload(row.loaded);
        }
        Ok(right)
    }

    /// One round in one precision: what comes out must be near enough, and the same to the bit each time.
    fn round(
        &mut self,
        row: &mut Row,
        inputs: &[Tensor],
        expected: &[Expected],
        round: u64,
    ) -> Result<(), String> {
        let first = self.alone(row.loaded, inputs)?;
        for (made, expected) in first.iter().zip(expected) {
            match expected.compare(made) {
                Some(off) => {
                    row.worst.norm = row.worst.norm.max(off.norm);
                    row.worst.share = row.worst.share.max(off.share);
                }
                None => row.note("not numbers, or other whole numbers"),
            }
        }
        if self.alone(row.loaded, inputs)? != first {
            row.note("other bits when repeated");
        }
        if self.evicted(row.loaded, inputs, round)?.iter().any(|made| *made != first) {
            row.note("other bits when evicted");
        }
        if self.beside(row.loaded, inputs)? != first {
            row.note("other bits beside a task that it evicts");
        }
        Ok(())
    }

    fn print(&self, name: &str, case: &Case, row: &Row) -> bool {
        let most = case.tolerance(row.precision);
        let Tolerance { norm, share } = row.worst;
        let far = (norm > most.norm || share > most.share).then(|| "too far off".to_string());
        let wrong = row.wrong.clone().or(far);
        let verdict = wrong.as_ref().map_or("ok".into(), |what| format!("WRONG: {what}"));
        let time = self.time(&row.plan, row.loaded);
        let time = time.map_or("-".into(), |time| format!("{:.1}", time.0 as f64 / 1e3));
        println!(
            "{name:NAME$} {:4} {norm:8.1e} {:8.1e}  {share:8.1e} {:8.1e} {time:>9} {verdict}",
            row.precision.name(),
            most.norm,
            most.share
        );
        wrong.is_none()
    }

    /// Time of the plan's kernels on the device, if all of them were measured.
    fn time(&self, plan: &Plan, loaded: LoadedPlan) -> Option<Nanos> {
        let cus = self.device.capabilities().cus as u64;
        let times = self.device.block_times(loaded);
        let blocks = plan.kernels().iter().map(|kernel| kernel.spec.blocks() as u64);
        let all: Option<Vec<u64>> =
            times.into_iter().zip(blocks).map(|(time, blocks)| Some(time? * blocks.div_ceil(cus))).collect();
        all.filter(|all| !all.is_empty()).map(|all| Nanos(all.iter().sum()))
    }

    fn submit(&self, plan: LoadedPlan, inputs: &[Tensor], key: TaskKey, token: u64) -> Result<(), String> {
        let mut io = self.device.alloc_io(plan).ok_or("there is no memory for a request")?;
        for (buffer, input) in io.inputs.iter_mut().zip(inputs) {
            buffer.as_mut_slice().copy_from_slice(input.bytes().as_slice());
        }
        io.outputs.iter_mut().for_each(|buffer| buffer.as_mut_slice().fill(STALE));
        let submitted = self.device.submit(plan, key, io, token);
        submitted.map(|_| ()).map_err(|rejected| format!("refused: {}", rejected.why))
    }

    /// Fetches `count` completions, those of cases first. Whoever started this program stops a wait without
    /// end.
    fn complete(&self, count: usize) -> Result<Vec<Completion>, String> {
        let mut completions = Vec::new();
        while completions.len() < count {
            match self.device.try_complete() {
                Some(done) if done.outcome == Outcome::Done => completions.push(done),
                Some(done) => {
                    return Err(format!("{:?}: {}", done.outcome, self.device.fault().unwrap_or_default()));
                }
                None => std::thread::sleep(Duration::from_micros(20)),
            }
        }
        completions.sort_by_key(|done| done.token);
        Ok(completions)
    }

    /// Waits until so many more blocks have ended, or all tasks.
    fn until_blocks(&self, more: u64) {
        let from = self.device.counters().blocks_done;
        loop {
            let now = self.device.counters();
            if now.blocks_done >= from + more || now.completed == now.submitted {
                break;
            }
            std::thread::yield_now();
        }
    }

    fn alone(&self, plan: LoadedPlan, inputs: &[Tensor]) -> Result<Outputs, String> {
        self.submit(plan, inputs, TaskKey::best_effort(0), CASE)?;
        Ok(outputs(&self.complete(1)?[0]))
    }

    /// Twice as best-effort work, which an urgent task evicts early or later.
    fn evicted(&mut self, plan: LoadedPlan, inputs: &[Tensor], round: u64) -> Result<[Outputs; 2], String> {
        for order in 0..2 {
            self.submit(plan, inputs, TaskKey::best_effort(order), CASE)?;
        }
        self.until_blocks(round);
        self.submit(self.short, &[], urgent(), OTHER)?;
        let done = self.complete(3)?;
        self.preempted[0] += u64::from(done[2].preempted);
        self.again[0] += done[..2].iter().map(|done| done.counters.blocks_rerun).sum::<u64>();
        Ok([outputs(&done[0]), outputs(&done[1])])
    }

    /// As urgent work beside a long task, which must give what it gives alone.
    fn beside(&mut self, plan: LoadedPlan, inputs: &[Tensor]) -> Result<Outputs, String> {
        let (long, loaded) = self.long.clone();
        self.submit(loaded, &[], TaskKey::best_effort(0), OTHER)?;
        self.until_blocks(1);
        self.submit(plan, inputs, urgent(), CASE)?;
        let done = self.complete(2)?;
        self.preempted[1] += u64::from(done[0].preempted);
        self.again[1] += done[1].counters.blocks_rerun;
        let io = &done[1].io;
        if io.outputs[0].as_slice() != synthetic_output(&long, io.inputs[0].as_slice()) {
            return Err("the task that was evicted gives something else".into());
        }
        Ok(outputs(&done[0]))
    }
}

fn outputs(done: &Completion) -> Outputs {
    done.io.outputs.iter().map(|buffer| buffer.as_slice().to_vec()).collect()
}

fn urgent() -> TaskKey {
    match Class::real_time(0) {
        Class::RealTime(level) => TaskKey::real_time(level, None, Nanos::ZERO),
        Class::BestEffort => unreachable!("a level is real-time"),
    }
}
