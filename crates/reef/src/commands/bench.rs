//! `reef bench`: hands devices and servers to the benchmarks.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use reef_bench::micro::{self, DeviceRequest, MicroEnvironment, MicroOptions, Serving};
use reef_bench::{EnvironmentError, Progress};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Device, Scheme};
use reef_engine::Engine;
use reef_server::{Running, Server, ServerOptions};

use crate::cli::{DeviceArgs, MicroArgs};
use crate::device;
use crate::output::say;

struct Environment {
    nice: i32,
}

impl MicroEnvironment for Environment {
    fn device(&self, request: DeviceRequest) -> Result<Arc<dyn Device>, EnvironmentError> {
        let cores = reef_cpu::allowed_cores();
        let options = CpuOptions {
            cus: Some(request.cus),
            cores: Some(cores.into_iter().skip(request.first_core).collect()),
            nice: self.nice,
            scheme: request.scheme,
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

/// Runs the micro-benchmarks.
pub fn micro(args: &MicroArgs) -> Result<()> {
    let options =
        MicroOptions { quick: args.quick, only: args.only.clone(), cus: compute_units(&args.device)? };
    let report = micro::run(&options, &Environment { nice: args.device.nice }, &Progress::on_stderr())?;
    let json = report.to_json();
    if let Some(path) = &args.out {
        std::fs::write(path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        say!("{json}");
    } else {
        say!("{report}");
    }
    Ok(())
}

fn compute_units(args: &DeviceArgs) -> Result<usize> {
    match args.cus {
        Some(cus) => Ok(cus),
        None => Ok(device::start(args, Scheme::Reset)?.capabilities().cus),
    }
}
