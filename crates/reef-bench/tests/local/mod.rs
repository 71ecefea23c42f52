//! The CPU device and the server, as the benchmarks ask for them.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::sync::Arc;

use reef_bench::EnvironmentError;
use reef_bench::micro::{DeviceRequest, MicroEnvironment, Serving};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::Device;
use reef_engine::Engine;
use reef_server::{Running, Server, ServerOptions};

pub struct Local;

struct LocalServer(Running);

impl Serving for LocalServer {
    fn address(&self) -> SocketAddr {
        self.0.http_addr()
    }
}

impl MicroEnvironment for Local {
    fn device(&self, request: DeviceRequest) -> Result<Arc<dyn Device>, EnvironmentError> {
        // Not pinned: machines that run tests may have one core.
        let options = CpuOptions {
            cus: Some(request.cus),
            scheme: request.scheme,
            pin: false,
            ..CpuOptions::default()
        };
        Ok(Arc::new(CpuDevice::start(options)?))
    }

    fn serve(&self, engine: &Engine) -> Result<Box<dyn Serving>, EnvironmentError> {
        Ok(Box::new(LocalServer(serve(engine)?)))
    }
}

pub fn serve(engine: &Engine) -> Result<Running, EnvironmentError> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = ServerOptions { http: any, metrics: None, ..ServerOptions::default() };
    Ok(Server::bind(options)?.start(engine.clone())?)
}
