//! `reef bench`: hands devices and servers to the benchmarks.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use reef_bench::disb::drive;
use reef_bench::disb::options::{DisbOptions, Via};
use reef_bench::disb::peer::Peer;
use reef_bench::disb::system::System;
use reef_bench::micro::{self, DeviceRequest, MicroEnvironment, MicroOptions, Serving};
use reef_bench::{EnvironmentError, Progress};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Device, Scheme};
use reef_engine::Engine;
use reef_load::Workload;
use reef_report::disb::compare;
use reef_report::disb::results::DisbReport;
use reef_server::{Running, Server, ServerOptions};

use crate::cli::{
    BenchCommand, CompareArgs, DeviceArgs, DisbArgs, MicroArgs, PlayArgs, ReportArgs, RunWorkloadArgs,
    ViaName,
};
use crate::device;
use crate::gpu::{self, Wanted};
use crate::output::say;
use crate::spec::Kind;

/// A target was missed, or something became worse.
const MISSED_STATUS: u8 = 3;
/// The result is not whole.
const INCOMPLETE_STATUS: u8 = 4;

struct Environment {
    nice: i32,
    memory_bytes: Option<u64>,
    /// The GPU that is measured, if it is one.
    gpu: Option<usize>,
}

impl Environment {
    fn new(args: &DeviceArgs) -> Environment {
        let gpu = args.device.iter().find_map(|given| match given.kind {
            Kind::Cpu(_) => None,
            Kind::Cuda(number) => Some(number),
        });
        Environment { nice: args.nice, memory_bytes: device::memory_bytes(args), gpu }
    }
}

impl MicroEnvironment for Environment {
    fn device(&self, request: DeviceRequest) -> Result<Arc<dyn Device>, EnvironmentError> {
        if let Some(number) = self.gpu {
            let DeviceRequest { scheme, padding, outstanding, .. } = request;
            let memory_bytes = self.memory_bytes;
            return Ok(gpu::start(Wanted { number, scheme, padding, memory_bytes, outstanding })?);
        }
        let cores = reef_cpu::allowed_cores();
        let options = CpuOptions {
            cus: Some(request.cus),
            cores: Some(cores.into_iter().skip(request.first_core).collect()),
            nice: self.nice,
            memory_bytes: self.memory_bytes,
            scheme: request.scheme,
            padding: request.padding,
            ..CpuOptions::default()
        };
        Ok(Arc::new(CpuDevice::start(options)?))
    }

    fn serve(&self, engine: &Engine) -> Result<Box<dyn Serving>, EnvironmentError> {
        let options =
            ServerOptions { http: ([127, 0, 0, 1], 0).into(), metrics: None, ..ServerOptions::default() };
        let running = Server::bind(options)?.start(engine.clone())?;
        Ok(Box::new(Served(running)))
    }
}

/// Dropped, it stops serving; the engine goes on.
struct Served(Running);

impl Serving for Served {
    fn address(&self) -> SocketAddr {
        self.0.http_addr()
    }
}

/// Runs what was asked for.
pub fn run(command: &BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Micro(args) => micro(args),
        BenchCommand::Disb(args) => disb(args),
        BenchCommand::Run(args) => run_files(args),
        BenchCommand::Report(args) => report(args),
        BenchCommand::Compare(args) => compare(args),
    }
}

/// Runs the micro-benchmarks.
fn micro(args: &MicroArgs) -> Result<()> {
    let options =
        MicroOptions { quick: args.quick, only: args.only.clone(), cus: compute_units(&args.device)? };
    let report = micro::run(&options, &Environment::new(&args.device), &Progress::on_stderr())?;
    let json = report.to_json();
    if let Some(path) = &args.out {
        std::fs::write(path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        say!("{json}");
    } else {
        say!("{report}");
    }
    let (met, all) = report.targets_met();
    // With few samples of tiny models numbers only show that the benchmark works.
    Verdict { missed: if args.quick { 0 } else { all - met }, missing: Vec::new() }.result()
}

/// What a benchmark that was run says beyond its numbers.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Targets missed, or metrics that became worse.
    missed: usize,
    /// What a whole result would have and this one has not.
    missing: Vec<String>,
}

impl Verdict {
    /// A miss outweighs what is missing.
    pub fn status(&self) -> u8 {
        if self.missed > 0 { MISSED_STATUS } else { INCOMPLETE_STATUS }
    }

    /// What a report says.
    pub fn of_report(report: &DisbReport) -> Verdict {
        Verdict { missed: report.checks_missed(), missing: report.missing() }
    }

    /// An error, unless there is nothing to say.
    pub fn result(self) -> Result<()> {
        if self.missed == 0 && self.missing.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missed = (self.missed > 0).then(|| format!("{} not as it has to be", self.missed));
        let lines: Vec<String> = missed.into_iter().chain(self.missing.iter().cloned()).collect();
        f.write_str(&lines.join("; "))
    }
}

impl std::error::Error for Verdict {}

fn compute_units(args: &DeviceArgs) -> Result<usize> {
    for given in &args.device {
        match given.kind {
            Kind::Cpu(None) => {}
            Kind::Cpu(Some(_)) => {
                bail!("--device {given}: benchmarks choose cores themselves; --cus says how many")
            }
            Kind::Cuda(_) if args.cus.is_some() => {
                bail!("--cus: {given} has as many compute units as it has multiprocessors")
            }
            Kind::Cuda(_) => {}
        }
    }
    match args.cus {
        Some(cus) => Ok(cus),
        None => Ok(device::start(args, Scheme::Reset)?.device.capabilities().cus),
    }
}

/// Runs DISB.
fn disb(args: &DisbArgs) -> Result<()> {
    let workloads = args.workload.iter().map(|name| Workload::built_in(name)).collect::<Result<_, _>>()?;
    play_all(workloads, &args.play, !args.no_micro)
}

/// Runs workloads from files.
fn run_files(args: &RunWorkloadArgs) -> Result<()> {
    let workloads = args.files.iter().map(|path| Workload::read(path)).collect::<Result<_, _>>()?;
    play_all(workloads, &args.play, false)
}

fn play_all(workloads: Vec<Workload>, args: &PlayArgs, micro: bool) -> Result<()> {
    let via = match (&args.url, args.via) {
        (Some(url), _) => Via::Url(url.clone()),
        (None, ViaName::Engine) => Via::Engine,
        (None, ViaName::Http) => Via::Http,
    };
    let options = DisbOptions {
        small: args.small,
        sweeps: micro && via == Via::Engine,
        via,
        answer_limit: args.answer_limit,
        models: args.models.clone(),
        peers: args.peer.clone(),
        cus: if args.url.is_some() { 0 } else { compute_units(&args.device)? },
        ..DisbOptions::of(workloads, args.run.out.clone())
    };
    let options = args.run.applied(options);
    let mut peers: Vec<Box<dyn System>> = Vec::new();
    for command in &args.peer {
        peers.push(Box::new(Peer::start(command)?));
    }
    let environment = Environment::new(&args.device);
    let report = drive::run(&options, peers, &environment, &Progress::on_stderr())?;
    show(&report, &args.run.out);
    Verdict::of_report(&report).result()
}

/// Judges earlier results again and draws their page anew.
fn report(args: &ReportArgs) -> Result<()> {
    let report = drive::redraw(&args.dir)?;
    show(&report, &args.dir);
    Verdict::of_report(&report).result()
}

/// Prints a report, and where it is.
pub fn show(report: &DisbReport, folder: &Path) {
    say!("{report}");
    say!("results    {}", folder.join("results.json").display());
    say!("report     {}", folder.join("report.html").display());
}

/// Says what changed between two runs.
fn compare(args: &CompareArgs) -> Result<()> {
    let comparison = compare::compare(&DisbReport::read(&args.before)?, &DisbReport::read(&args.after)?);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        say!("{comparison}");
    }
    let incomplete = comparison.is_incomplete().then(|| "not everything could be compared".to_string());
    Verdict { missed: comparison.worse(), missing: incomplete.into_iter().collect() }.result()
}
