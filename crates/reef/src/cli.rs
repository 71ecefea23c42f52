//! The command line: what a user may say, and nothing of what it does.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use reef_bench::disb::options::Rate;
use reef_device::{Padding, Scheme};
use reef_load::workload::{RATE_MAX_HZ, RATE_MIN_HZ};
use reef_plan::Precision;

use crate::config::Given;
use crate::spec::DeviceSpec;

/// Every run's latency is kept: this many take 800 MB.
const REPEAT_MAX: u64 = 100_000_000;

/// Waits are at most this long; sums of a few of them do not overflow.
const SECONDS_MAX: f64 = 1e6;

/// Arrivals per second of a benchmark's client.
const RATES_HZ: std::ops::RangeInclusive<f64> = RATE_MIN_HZ..=RATE_MAX_HZ;

/// An hour.
const DEADLINE_MAX_MS: f64 = 3.6e6;

/// What scripts may rely on.
const EXIT_STATUS: &str = "\
Exit status:
  0    done
  1    failed, as standard error says; a running server that refused, too
  2    a wrong command line
  3    a benchmark missed a target, or became worse
  4    a benchmark is incomplete
  69   a running server cannot be reached
  70   serving ended after a fault of the engine or a device: a restart may help
  77   a running server does not know or allow these credentials
  128+ ended at once by a second signal of that number";

/// Serves neural networks on one device or several to real-time and best-effort clients at once.
#[derive(Debug, Parser)]
#[command(name = "reef", version, about, max_term_width = 100, after_help = EXIT_STATUS)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show real-time preemption on this machine: every scheme side by side, driven over HTTP.
    Demo(DemoArgs),
    /// Serve every model of a directory over the Open Inference Protocol.
    ///
    /// Every option is a key of reef.toml and a variable REEF_… too (docs/CONFIGURATION.md); the command line
    /// wins over variables, these over the file.
    ///
    /// A model that cannot be loaded is reported, in the log and to its clients; the others are served. The
    /// exit status is 0 after a signal to stop, 1 if nothing can be served (no port, no model that could be
    /// loaded and none that could come later; with --exit-on-error any that could not be loaded), 2 for a
    /// wrong command line, 70 after a fault of the engine or the device, 128 and the
    /// signal's number after a second signal.
    Serve(ServeArgs),
    /// Run one model once (or `--repeat` times) and write its outputs.
    Run(RunArgs),
    /// Show how a model is compiled.
    Inspect(InspectArgs),
    /// Measure every kernel of a model on this device.
    Profile(ProfileArgs),
    /// List what this machine has for devices.
    Devices(DevicesArgs),
    /// Write the benchmark models as ONNX files.
    Zoo(ZooArgs),
    /// Benchmarks.
    ///
    /// The exit status is 0 if everything was measured and is as it has to be, 1 if nothing could be
    /// measured, 2 for a wrong command line, 3 if a target was missed or, comparing, something became worse,
    /// and 4 if the result is incomplete: a peer failed, every request of a client failed, the noise is too
    /// much or not known, or a part is in one of two results alone. Short runs (`bench micro --quick`) miss
    /// no targets.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// List the models of a running server and whether they are ready.
    Models(ModelsArgs),
    /// Statistics of a running server's models.
    Stats(StatsArgs),
    /// Have a running server load a model, or load it again.
    Load(LoadArgs),
    /// Have a running server unload a model.
    Unload(UnloadArgs),
    /// Watch a running server.
    Top(TopArgs),
}

/// A running server and how to speak to it.
#[derive(Clone, Debug, Args)]
pub struct RemoteArgs {
    /// Where it is; by default the variable REEF_URL, else http://localhost:8000.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Token to show; by default the variable REEF_TOKEN, which other users of this machine do not see.
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Roots of the server's certificate, PEM, in the place of those that browsers know.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Certificate to show, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Seconds to wait for an answer.
    #[arg(long, value_name = "S", default_value = "30", value_parser = some_seconds)]
    pub timeout: Duration,
}

/// `reef models`
#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// As JSON, as the server answers.
    #[arg(long)]
    pub json: bool,
}

/// `reef stats`
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only this model.
    pub model: Option<String>,
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// As JSON, as the server answers.
    #[arg(long)]
    pub json: bool,
}

/// `reef load`
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Its name.
    pub model: String,
    /// A file with the model's configuration in JSON, in the place of the repository's.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// `reef unload`
#[derive(Debug, Args)]
pub struct UnloadArgs {
    /// Its name.
    pub model: String,
    /// Also the models that only it uses.
    #[arg(long)]
    pub dependents: bool,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// `reef top`
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Seconds between two looks.
    #[arg(long, value_name = "S", default_value = "1", value_parser = some_seconds)]
    pub interval: Duration,
    /// Print one look as text and end.
    #[arg(long)]
    pub once: bool,
}

/// The device and how it is driven.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// A device: `cpu`, every core that this process may use; `cpu:CORES` with those alone, such as `cpu:0-3`
    /// or `cpu:0,2`; or `cuda:NUMBER`, an NVIDIA GPU. `reef serve` takes it more than once; CPU devices are
    /// then called cpu:0, cpu:1 in their order. By default cpu.
    #[arg(long, value_name = "cpu[:CORES]|cuda[:NUMBER]")]
    pub device: Vec<DeviceSpec>,
    /// Compute units (worker threads) of a device without a list of cores; by default one per core.
    #[arg(long, value_name = "N")]
    pub cus: Option<usize>,
    /// Nice value of the compute units' threads.
    #[arg(long, default_value_t = reef_base::limits::NICE_BACKGROUND, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub nice: i32,
    /// Which blocks may run on compute units that a more urgent stage leaves idle.
    #[arg(long, value_name = "preemptible|fitting", default_value_t = Padding::default())]
    pub padding: Padding,
    /// Memory for weights and the arenas of running tasks on all devices, in MiB; by default half of the
    /// machine's. A model or shape that needs more is refused.
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u64>,
}

/// What products are made of.
#[derive(Clone, Copy, Debug, Args)]
pub struct PrecisionArgs {
    /// What convolutions and matrix products multiply: f32 elements, rounded to this. By default tf32 on a
    /// GPU; a CPU multiplies f32 whatever is asked for.
    #[arg(long, value_name = "f32|tf32|f16|bf16")]
    pub precision: Option<Precision>,
}

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

/// `reef serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub given: Given,
    /// Say with what the server would be started, and what is wrong with it; the exit status is 1 if anything
    /// is.
    #[arg(long)]
    pub check: bool,
}

/// `reef run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The model.
    pub model: PathBuf,
    /// An input: `NAME=FILE.npy`.
    #[arg(long = "input", value_name = "NAME=FILE.npy", value_parser = name_and_path)]
    pub inputs: Vec<(String, PathBuf)>,
    /// An input that is another one in each run: `NAME=FILE.npy`, whose first axis counts the runs. Outputs
    /// are then written with such an axis.
    #[arg(long, value_name = "NAME=FILE.npy", value_parser = name_and_path, conflicts_with = "repeat")]
    pub each: Vec<(String, PathBuf)>,
    /// An output that is an input of the next run, such as the state of a recurrent model: `stateN=state`.
    #[arg(long, value_name = "OUT=IN", value_parser = name_and_name)]
    pub carry: Vec<(String, String)>,
    /// Random inputs from this seed where no `--input` is given.
    #[arg(long, value_name = "SEED")]
    pub random: Option<u64>,
    /// Extents for symbolic dimensions of random inputs: `batch=3`.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = name_and_extent)]
    pub dims: Vec<(String, usize)>,
    /// Where to write outputs, one `.npy` file each.
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Run so many times and print latency percentiles.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = runs())]
    pub repeat: u64,
    /// Seconds that one run may take: for loops that may not end.
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = some_seconds)]
    pub deadline: Option<Duration>,
    /// Print the latency as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub precision: PrecisionArgs,
}

/// `reef inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The model.
    pub model: PathBuf,
    /// Extents for symbolic dimensions: `batch=3`.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = name_and_extent)]
    pub dims: Vec<(String, usize)>,
    /// Values of inputs that decide shapes, or which way the model goes: `sr=16000`. Without one, it is taken
    /// as 1.
    #[arg(long = "value", value_name = "NAME=N[,N…]", value_parser = name_and_numbers)]
    pub values: Vec<(String, Vec<i64>)>,
    /// The device to compile for.
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the normalised graph.
    #[arg(long)]
    pub graph: bool,
    /// Print the whole plan.
    #[arg(long)]
    pub plan: bool,
}

/// `reef profile`
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// The model.
    pub model: PathBuf,
    /// Extents for symbolic dimensions: `batch=3`.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = name_and_extent)]
    pub dims: Vec<(String, usize)>,
    /// Runs to measure.
    #[arg(long, default_value_t = 20, value_parser = runs())]
    pub repeat: u64,
    /// Kernels to list.
    #[arg(long, default_value_t = 25)]
    pub top: usize,
    /// Also measure the longest time between two polls in blocks of each kernel, on a CPU: what an urgent
    /// request may have to wait for.
    #[arg(long)]
    pub polls: bool,
    /// As JSON, every kernel.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub precision: PrecisionArgs,
}

/// `reef devices`
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `reef zoo`
#[derive(Debug, Args)]
pub struct ZooArgs {
    /// Directory to write to; `NAME.onnx` each.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Only these models.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub model: Vec<String>,
    /// The same topologies with little width and resolution.
    #[arg(long)]
    pub tiny: bool,
    /// Leave batch and sequence symbolic.
    #[arg(long)]
    pub dynamic: bool,
    /// Images of a static model.
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Seed of the weights.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
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
    /// Schemes; rt-only, the reference, always takes part.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "rt-only,sequential,concurrent,wait,reset"
    )]
    pub schemes: Vec<Scheme>,
    /// Seconds measured per scheme and repetition; by default 5, with --small as many as it
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
    /// Write every request to OUT/samples.csv too.
    #[arg(long)]
    pub samples: bool,
    /// Directory for results.json and report.html.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
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

fn runs() -> RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=REPEAT_MAX)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| format!("'{text}' is not a number of seconds"))?;
    if !(0.0..=SECONDS_MAX).contains(&value) {
        return Err(format!("0 to {SECONDS_MAX} seconds"));
    }
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

/// Enough for something to happen.
fn some_seconds(text: &str) -> Result<Duration, String> {
    let time = seconds(text)?;
    if time < Duration::from_millis(1) { Err("at least 0.001 seconds".into()) } else { Ok(time) }
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

fn name_and_path(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=FILE.npy")?;
    Ok((name.to_string(), PathBuf::from(path)))
}

/// `OUT=IN`
fn name_and_name(text: &str) -> Result<(String, String), String> {
    let (output, input) = text.split_once('=').ok_or("expected OUT=IN")?;
    Ok((output.to_string(), input.to_string()))
}

/// `NAME=1,2,3`
fn name_and_numbers(text: &str) -> Result<(String, Vec<i64>), String> {
    let (name, numbers) = text.split_once('=').ok_or("it has to be NAME=NUMBERS")?;
    let number =
        |number: &str| number.trim().parse().map_err(|_| format!("`{number}` is not a whole number"));
    Ok((name.to_owned(), numbers.split(',').map(number).collect::<Result<_, _>>()?))
}

fn name_and_extent(text: &str) -> Result<(String, usize), String> {
    let (name, extent) = text.split_once('=').ok_or("expected NAME=N")?;
    let extent = extent.parse().map_err(|_| format!("'{extent}' is not an extent"))?;
    Ok((name.to_string(), extent))
}
