//! The command line of simulations, which a build may leave out.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::bench::RunArgs;

/// What is simulated.
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// The REEF paper's figures on its simulated GPU, each number beside the paper's.
    ///
    /// The exit status is 1 for an unknown device.
    Paper(SimPaperArgs),
    /// A fleet of devices under a load, request by request: latencies, deadlines, utilisation.
    Run(SimRunArgs),
    /// DISB on a simulated device: the workloads, schemes and page of `reef bench disb`, in virtual time.
    ///
    /// The exit status is that of `reef bench disb`.
    Disb(SimDisbArgs),
    /// What our own ideas are worth on the paper's GPU: exact resumption, units that pull blocks, padding
    /// that is killed, anticipation, beside REEF.
    Ideas(SimIdeasArgs),
    /// How many devices a load needs, and which models go where.
    ///
    /// The exit status is 1 if no number of devices in the range will do; the message says why.
    Plan(SimPlanArgs),
}

/// `reef sim run`.
#[derive(Debug, Args)]
pub struct SimRunArgs {
    /// The scenario; docs/SIMULATION.md has the format.
    #[arg(value_name = "SCENARIO.toml")]
    pub scenario: PathBuf,
    /// Of random arrivals and service times.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Write a page, too.
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
}

/// `reef sim plan`.
#[derive(Debug, Args)]
pub struct SimPlanArgs {
    /// Where MODEL.json is for each model, as `reef profile --json` prints it.
    #[arg(long, value_name = "DIR")]
    pub profiles: PathBuf,
    /// The load: a workload's file, or A to E and REAL.
    #[arg(long, value_name = "FILE")]
    pub load: PathBuf,
    /// What each real-time client must see, such as 'p99<=20': milliseconds.
    #[arg(long, value_name = "p99<=MS")]
    pub target: String,
    /// How many devices there may be.
    #[arg(long, value_name = "N..M", default_value = "1..16")]
    pub devices: String,
    /// What the devices are: `mi50` or `ideal`.
    #[arg(long, value_name = "KIND", default_value = "mi50")]
    pub kind: String,
    /// Memory of a device for models, in MiB; without it memory does not count.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub memory: Option<u64>,
    /// How long each simulation is, in virtual seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = virtual_seconds())]
    pub length: u64,
    /// Of random arrivals and service times.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn virtual_seconds() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=3600)
}

/// `reef sim paper`.
#[derive(Debug, Args)]
pub struct SimPaperArgs {
    /// The device that figures are made on: a built-in name.
    #[arg(long, value_name = "NAME", default_value = "mi50")]
    pub device: String,
    /// How long each run is, in virtual seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = virtual_seconds())]
    pub length: u64,
    /// Of random arrivals.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `reef sim disb`.
#[derive(Debug, Args)]
pub struct SimDisbArgs {
    /// The device: `mi50` and `v100` have kernels in queues, the units of `cpu2`, `h100` and
    /// `mi50-resident` pull blocks.
    #[arg(long, value_name = "NAME", default_value = "mi50")]
    pub device: String,
    /// Workloads: A to E, REAL, or files as docs/WORKLOADS.md describes them.
    #[arg(long, value_name = "NAME|FILE", value_delimiter = ',', default_value = "A,B,C,D,E,REAL")]
    pub workload: Vec<PathBuf>,
    /// Where MODEL.json is, as `reef profile --json` prints it, for models beyond those that were measured
    /// on the device; not for devices with queues.
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,
    #[command(flatten)]
    pub run: RunArgs,
}

/// `reef sim ideas`.
#[derive(Debug, Args)]
pub struct SimIdeasArgs {
    /// How long each run is, in virtual seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = virtual_seconds())]
    pub length: u64,
    /// Of random arrivals.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
