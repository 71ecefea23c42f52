//! Statistics: what a snapshot of the engine contains. Plain sums since the start, so that a scraper can
//! difference them; no averages.

use reef_base::{ModelKey, Nanos};
use reef_device::{DeviceCounters, MemoryUse, Scheme};

use crate::distribution::ClassDistributions;

/// Upper bounds of the histogram's buckets in nanoseconds; one more bucket holds the rest.
pub const HISTOGRAM_BOUNDS_NS: [u64; 22] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Counts of times by bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Times at most the bound of the same index (and above the one before); the last entry counts the rest.
    pub buckets: [u64; HISTOGRAM_BOUNDS_NS.len() + 1],
    /// Sum of all times.
    pub sum: Nanos,
    /// Number of times.
    pub count: u64,
}

impl Histogram {
    /// Counts `time`.
    pub fn record(&mut self, time: Nanos) {
        let bucket = HISTOGRAM_BOUNDS_NS.partition_point(|&bound| bound < time.0);
        self.buckets[bucket] += 1;
        self.sum += time;
        self.count += 1;
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Histogram) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(own, other)| *own += other);
        self.sum += other.sum;
        self.count += other.count;
    }
}

/// Why a request got no outputs, as statistics group it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// Queue full, model unloading, class not served, engine shutting down.
    Rejected,
    /// The deadline had passed or could not be met any more.
    Deadline,
    /// It waited in the queue longer than its timeout.
    Timeout,
    /// The client cancelled it or left.
    Cancelled,
    /// A kernel or the device failed, or a plan could not be compiled.
    Backend,
    /// A value of an input meant nothing to a kernel: an index that its axis does not have, a divisor of 0.
    Input,
}

impl FailureReason {
    /// Every reason, in the order of [`ClassStats::failures`].
    pub const ALL: [FailureReason; 6] = [
        FailureReason::Rejected,
        FailureReason::Deadline,
        FailureReason::Timeout,
        FailureReason::Cancelled,
        FailureReason::Backend,
        FailureReason::Input,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            FailureReason::Rejected => "REJECTED",
            FailureReason::Deadline => "DEADLINE",
            FailureReason::Timeout => "TIMEOUT",
            FailureReason::Cancelled => "CANCELED",
            FailureReason::Backend => "BACKEND",
            FailureReason::Input => "INPUT",
        }
    }
}

/// Sums over the requests of one model in one class. Requests that failed validation (wrong inputs, class not
/// allowed) never were the model's, and are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// Requests that got outputs.
    pub success: u64,
    /// Requests that got none, by [`FailureReason::ALL`].
    pub failures: [u64; FailureReason::ALL.len()],
    /// Rows of requests that got outputs: each counts as many inferences as its inputs have rows, where the
    /// model's settings bound them ([`crate::ModelSettings::batch_rows_max`]), otherwise one.
    pub inferences: u64,
    /// Tasks that ran to their end on the device.
    pub executions: u64,
    /// Those by their rows, where these are bounded: of tasks of n rows at n - 1. Rows that a task was filled
    /// up with do not count.
    pub batches: Vec<BatchStats>,
    /// Of successful requests: checking and copying inputs.
    pub compute_input: Nanos,
    /// Of successful requests: waiting for a plan and for the first block.
    pub queue: Nanos,
    /// Of successful requests: first block to last.
    pub compute: Nanos,
    /// Of successful requests: last block to delivery.
    pub compute_output: Nanos,
    /// Of successful requests: what their plans take from first block to last with nothing in the way, as the
    /// scheduler has learned it (its estimate, which leans low); what a request took itself while nothing is
    /// learned of its plan. Divided by `success`, the *time alone*.
    pub alone: Nanos,
    /// Of requests that got no outputs: arrival to answer.
    pub failed_time: Nanos,
    /// When the last successful request ended, on the engine's clock; zero if none has.
    pub last_success: Nanos,
    /// Of successful requests: arrival to delivery, with its distribution.
    pub total: Histogram,
    /// Requests that wait in the queue or for a plan now.
    pub queued: u64,
    /// Tasks on the device's board now.
    pub on_board: u64,
    /// Tasks that displaced less urgent work, and how long each took from submission to its first block.
    pub preempt_latency: Histogram,
    /// Blocks of less urgent tasks killed for this class's tasks.
    pub kills_caused: u64,
    /// Blocks of this class's tasks killed.
    pub blocks_killed: u64,
    /// Compute-unit time of the killed executions.
    pub wasted: Nanos,
    /// Compute-unit time of finished blocks.
    pub cu_time: Nanos,
    /// Compute-unit time as padding beside more urgent stages, part of `cu_time`.
    pub padding: Nanos,
    /// Requests that did not get their outputs by their deadline: refused, stopped or late.
    pub deadline_misses: u64,
}

/// Sums over tasks of the same number of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// Tasks that ran to their end.
    pub count: u64,
    /// Checking and copying inputs, of the first request of each.
    pub compute_input: Nanos,
    /// First block to last.
    pub compute: Nanos,
    /// Last block until the engine had taken note of it.
    pub compute_output: Nanos,
}

impl BatchStats {
    /// Adds the sums of `other`.
    pub fn merge(&mut self, other: &BatchStats) {
        self.count += other.count;
        self.compute_input += other.compute_input;
        self.compute += other.compute;
        self.compute_output += other.compute_output;
    }
}

impl ClassStats {
    /// Nothing yet, of a model whose tasks have so many rows at most; zero where nothing bounds them.
    pub(crate) fn of(rows_max: usize) -> ClassStats {
        ClassStats { batches: vec![BatchStats::default(); rows_max], ..ClassStats::default() }
    }

    /// Failures for `reason`.
    pub fn failed(&self, reason: FailureReason) -> u64 {
        self.failures[reason as usize]
    }

    /// Requests waiting or running now.
    pub fn pending(&self) -> u64 {
        self.queued + self.on_board
    }

    /// Adds the sums of `other`.
    pub fn merge(&mut self, other: &ClassStats) {
        self.success += other.success;
        self.failures.iter_mut().zip(other.failures).for_each(|(own, other)| *own += other);
        self.inferences += other.inferences;
        self.executions += other.executions;
        if self.batches.len() < other.batches.len() {
            self.batches.resize(other.batches.len(), BatchStats::default());
        }
        self.batches.iter_mut().zip(&other.batches).for_each(|(own, other)| own.merge(other));
        self.compute_input += other.compute_input;
        self.queue += other.queue;
        self.compute += other.compute;
        self.compute_output += other.compute_output;
        self.alone += other.alone;
        self.failed_time += other.failed_time;
        self.last_success = self.last_success.max(other.last_success);
        self.total.merge(&other.total);
        self.queued += other.queued;
        self.on_board += other.on_board;
        self.preempt_latency.merge(&other.preempt_latency);
        self.kills_caused += other.kills_caused;
        self.blocks_killed += other.blocks_killed;
        self.wasted += other.wasted;
        self.cu_time += other.cu_time;
        self.padding += other.padding;
        self.deadline_misses += other.deadline_misses;
    }

    /// Tasks that displaced less urgent work.
    pub fn preemptions(&self) -> u64 {
        self.preempt_latency.count
    }
}

/// Sums over the requests of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStats {
    /// The model.
    pub key: ModelKey,
    /// Its real-time requests.
    pub real_time: ClassStats,
    /// Its best-effort requests.
    pub best_effort: ClassStats,
    /// Plans compiled since the model was loaded; those that its devices share count once.
    pub plans_compiled: u64,
    /// The same sums by device, in the order of the devices; of those that the model is on, or was before
    /// another load of it took its place.
    pub devices: Vec<ModelOnDevice>,
}

/// Sums over the requests of one model on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOnDevice {
    /// The device's name.
    pub device: String,
    /// The model's real-time requests there.
    pub real_time: ClassStats,
    /// Its best-effort requests there.
    pub best_effort: ClassStats,
}

/// One device's own sums.
#[derive(Clone, Debug)]
pub struct DeviceStats {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Its compute units.
    pub cus: usize,
    /// Its sums.
    pub counters: DeviceCounters,
    /// What its memories hold. Devices of one memory say the same of it.
    pub memory: Vec<MemoryUse>,
    /// Why it is out of service, if it is.
    pub fault: Option<String>,
}

/// How the times of one model's requests are spread, on all its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDistributions {
    /// The model.
    pub key: ModelKey,
    /// Its real-time requests.
    pub real_time: ClassDistributions,
    /// Its best-effort requests.
    pub best_effort: ClassDistributions,
}

/// A snapshot of the engine.
#[derive(Clone, Debug)]
pub struct EngineStats {
    /// When it was taken, on the engine's clock.
    pub at: Nanos,
    /// The scheme in force.
    pub scheme: Scheme,
    /// Every model that is loaded now.
    pub models: Vec<ModelStats>,
    /// The devices' own sums, added up.
    pub device: DeviceCounters,
    /// The same by device, in their order.
    pub devices: Vec<DeviceStats>,
}
