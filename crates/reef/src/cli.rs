//! The command line: what a user may say, and nothing of what it does.

#[cfg(feature = "bench")]
mod bench;
#[cfg(feature = "bench")]
mod sim;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use reef_device::Padding;
use reef_plan::Precision;

#[cfg(feature = "bench")]
pub use bench::{
    BenchCommand, CompareArgs, DemoArgs, DisbArgs, MicroArgs, PlayArgs, ReportArgs, RunWorkloadArgs, ViaName,
};
#[cfg(feature = "bench")]
pub use sim::{SimCommand, SimDisbArgs, SimIdeasArgs, SimPaperArgs, SimPlanArgs, SimRunArgs};

use crate::config::Given;
use crate::spec::DeviceSpec;

/// Every run's latency is kept: this many take 800 MB.
const REPEAT_MAX: u64 = 100_000_000;

/// Waits are at most this long; sums of a few of them do not overflow.
const SECONDS_MAX: f64 = 1e6;

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
    #[cfg(feature = "bench")]
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
    #[cfg(feature = "bench")]
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Simulated devices, in virtual time.
    #[cfg(feature = "bench")]
    #[command(subcommand)]
    Sim(SimCommand),
    /// Says that benchmarks and simulations are not part of this build.
    #[cfg(not(feature = "bench"))]
    #[command(hide = true, aliases = ["demo", "sim"])]
    Bench(LeftOutArgs),
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

/// `reef bench` where there is none.
#[cfg(not(feature = "bench"))]
#[derive(Debug, Args)]
pub struct LeftOutArgs {
    /// Whatever was asked for.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub asked: Vec<std::ffi::OsString>,
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
