//! The command line of the demo and of benchmarks, which a build may leave out.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use reef_bench::disb::options::{DisbOptions, Rate};
use reef_device::Scheme;
use reef_load::workload::{RATE_MAX_HZ, RATE_MIN_HZ};

use super::{DeviceArgs, seconds, some_seconds};

/// Arrivals per second of a benchmark's client.
const RATES_HZ: std::ops::RangeInclusive<f64> = RATE_MIN_HZ..=RATE_MAX_HZ;

/// An hour.
const DEADLINE_MAX_MS: f64 = 3.6e6;

/// `reef demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Tiny models and short runs.
    #[arg(long)]
    pub quick: bool,
    /// Where to write models, trace and results.
    #[arg(long, value_name = "DIR", default_value = "demo-out")]
    pub out: PathBuf,
    /// Seconds per scheme.
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = some_seconds)]
    pub seconds: Option<Duration>,
}

/// `reef bench`
///
/// The exit status is the same for all of them, so that scripts can go by it.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Preemption latency and what it depends on, restore and stage costs, real-time latency beside load,
    /// server overhead.
    Micro(MicroArgs),
    /// DISB, the benchmark of the REEF paper: every scheme side by side on real-time and best-effort
    /// clients, with a report.
    Disb(DisbArgs),
    /// The same for a workload of your own.
    Run(RunWorkloadArgs),
    /// Judge the results.json of an earlier run as this version does, and draw its page anew.
    Report(ReportArgs),
    /// Say what changed from one results.json to another, beyond the noise of both.
    Compare(CompareArgs),
}

/// `reef bench disb`
#[derive(Debug, Args)]
pub struct DisbArgs {
    /// Workloads: A to E, REAL.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "A,B,C,D,E,REAL")]
    pub workload: Vec<String>,
    #[command(flatten)]
    pub play: PlayArgs,
    /// Leave out the micro-benchmarks of preemption that the report shows too.
    #[arg(long)]
    pub no_micro: bool,
}

/// `reef bench run`
#[derive(Debug, Args)]
pub struct RunWorkloadArgs {
    /// Files of workloads; the format is described in docs/WORKLOADS.md.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub play: PlayArgs,
}

/// How workloads are played.
#[derive(Debug, Args)]
pub struct PlayArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub run: RunArgs,
    /// Whether the engine is asked in-process or over HTTP.
    #[arg(long, value_enum, default_value_t = ViaName::Engine)]
    pub via: ViaName,
    /// Ask a running server of the Open Inference Protocol instead; its scheme is its own.
    #[arg(long, value_name = "URL", conflicts_with_all = ["via", "schemes"])]
    pub url: Option<String>,
    /// Seconds that a server at --url may take for an answer; a request that takes longer has failed.
    #[arg(long, value_name = "S", default_value = "60", allow_negative_numbers = true, requires = "url",
          value_parser = some_seconds)]
    pub answer_limit: Duration,
    /// Directory with the models: NAME.onnx or NAME/1/model.onnx. By default the zoo's are written to
    /// OUT/models.
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Low-resolution variants of the zoo's models: thousands of samples on two cores.
    #[arg(long, conflicts_with = "models")]
    pub small: bool,
    /// Also play workloads A, D, REAL and files on a peer behind this adapter, such as
    /// 'python3 scripts/peers/ort.py'.
    #[arg(long, value_name = "COMMAND")]
    pub peer: Vec<String>,
}

/// What is played, whatever plays it.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Schemes; rt-only, the reference, always takes part.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "rt-only,sequential,concurrent,wait,reset"
    )]
    pub schemes: Vec<Scheme>,
    /// Seconds measured per scheme and repetition; by default 5, with --small of `reef bench` as many as it
    /// takes for 2,000 requests of each real-time client where a scheme is played twice (rt-only and reset)
    /// and half as many elsewhere.
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = some_seconds)]
    pub duration: Option<Duration>,
    /// Seconds played before that; by default 1, with --small 0.5.
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = seconds)]
    pub warmup: Option<Duration>,
    /// How often each scheme is played; by default 8 times, with --small 16.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub repeat: Option<u64>,
    /// Seed of random arrivals and of inputs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Arrival rates: `scaled` keeps the utilisation of the machine for which they were chosen, `paper` takes
    /// them as they are, NAME=HZ sets those of a client or of a model's clients.
    #[arg(long, value_name = "scaled|paper|NAME=HZ", value_parser = rate)]
    pub rate: Vec<Rate>,
    /// Deadline of a real-time client or of a model's clients, from the scheduled arrival.
    #[arg(long, value_name = "NAME=MS", value_parser = name_and_deadline)]
    pub deadline: Vec<(String, Duration)>,
    /// Write every request to OUT/samples.csv too.
    #[arg(long)]
    pub samples: bool,
    /// Directory for results.json and report.html.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

impl RunArgs {
    /// `options` with what was said here.
    pub fn applied(&self, options: DisbOptions) -> DisbOptions {
        DisbOptions {
            schemes: self.schemes.clone(),
            duration: self.duration,
            warm_up: self.warmup,
            repeats: self.repeat.map(|repeats| repeats as usize),
            seed: self.seed,
            rates: self.rate.clone(),
            deadlines: self.deadline.clone(),
            samples: self.samples,
            ..options
        }
    }
}

/// How our engine is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ViaName {
    /// In-process.
    Engine,
    /// Over HTTP on a loopback port.
    Http,
}

/// `reef bench report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Directory with results.json; that and report.html are written again.
    pub dir: PathBuf,
}

/// `reef bench compare`
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The results.json before.
    pub before: PathBuf,
    /// The results.json after.
    pub after: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `reef bench micro`
#[derive(Debug, Args)]
pub struct MicroArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Fewer samples and tiny models.
    #[arg(long)]
    pub quick: bool,
    /// Only these parts.
    #[arg(long, value_name = "PART", num_args = 1..)]
    pub only: Vec<String>,
    /// Write the JSON to this file too.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "scaled" => return Ok(Rate::Scaled),
        "paper" => return Ok(Rate::Paper),
        _ => {}
    }
    let (name, hz) = text.split_once('=').ok_or("expected scaled, paper or NAME=HZ")?;
    let hz: f64 = hz.parse().map_err(|_| format!("'{hz}' is not a rate"))?;
    match RATES_HZ.contains(&hz) {
        true => Ok(Rate::Of { name: name.to_string(), hz }),
        false => Err(format!("a rate of {RATE_MIN_HZ} to {RATE_MAX_HZ} per second")),
    }
}

fn name_and_deadline(text: &str) -> Result<(String, Duration), String> {
    let (name, ms) = text.split_once('=').ok_or("expected NAME=MS")?;
    let ms: f64 = ms.parse().map_err(|_| format!("'{ms}' is not a time in milliseconds"))?;
    match ms > 0.0 && ms <= DEADLINE_MAX_MS {
        true => Ok((name.to_string(), Duration::from_secs_f64(ms / 1e3))),
        false => Err(format!("milliseconds above 0 and at most {DEADLINE_MAX_MS}")),
    }
}
