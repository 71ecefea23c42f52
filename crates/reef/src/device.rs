//! Picks and starts devices: the only place that knows which ones exist.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use reef_base::Domain;
use reef_cpu::{CpuDevice, CpuOptions, allowed_cores, granted_memory};
use reef_device::{Budget, Device, Scheme};
use reef_engine::PoolDevice;

use crate::cli::DeviceArgs;
use crate::gpu::{self, Wanted};
use crate::spec::{self, DeviceSpec, Kind, Planned};

/// Starts the one device that the command line names, for a command that uses no more.
pub fn start(args: &DeviceArgs, scheme: Scheme) -> Result<PoolDevice> {
    if args.device.len() > 1 {
        let given: Vec<String> = args.device.iter().map(ToString::to_string).collect();
        bail!("--device {}: this command uses one device", given.join(" --device "));
    }
    Ok(start_pool(args, &args.device, scheme)?.remove(0))
}

/// Starts the devices of a pool; without any, one of every core.
pub fn start_pool(args: &DeviceArgs, specs: &[DeviceSpec], scheme: Scheme) -> Result<Vec<PoolDevice>> {
    let whole = [DeviceSpec::whole_cpu()];
    let specs = if specs.is_empty() { &whole[..] } else { specs };
    if let Some(cus) = args.cus
        && let Some(listed) = specs.iter().find(|spec| matches!(spec.kind, Kind::Cpu(Some(_))))
    {
        bail!("--cus {cus} and device '{listed}': a list of cores says how many compute units there are");
    }
    if let Some(cus) = args.cus
        && specs.iter().all(|spec| matches!(spec.kind, Kind::Cuda(_)))
    {
        bail!("--cus {cus}: a GPU has as many compute units as it has multiprocessors");
    }
    let planned = spec::pool(specs, &allowed_cores())?;
    // All CPU devices are in the memory of this machine, and have one budget.
    let limit = memory_bytes(args).or_else(|| granted_memory().map(|bytes| bytes / 2));
    let budget = Budget::new(Domain::Host, limit);
    let start = |Planned { name, kind }| {
        let device: Result<Arc<dyn Device>> = match kind {
            Kind::Cpu(cores) => start_cpu(args, &name, cores, &budget, scheme),
            Kind::Cuda(number) => start_gpu(args, number, scheme),
        };
        let device = device.with_context(|| format!("cannot start the device {name}"))?;
        Ok(PoolDevice { name, device })
    };
    planned.into_iter().map(start).collect()
}

fn start_cpu(
    args: &DeviceArgs,
    name: &str,
    cores: Option<Vec<usize>>,
    budget: &Arc<Budget>,
    scheme: Scheme,
) -> Result<Arc<dyn Device>> {
    let (nice, padding) = (args.nice, args.padding);
    let cus = cores.as_ref().map(Vec::len).or(args.cus);
    let budget = Some(budget.clone());
    let options = CpuOptions { cus, cores, nice, scheme, padding, budget, ..CpuOptions::default() };
    let device = CpuDevice::start(options)?;
    for warning in device.warnings() {
        tracing::warn!("{name}: {warning}");
    }
    Ok(Arc::new(device))
}

fn start_gpu(args: &DeviceArgs, number: usize, scheme: Scheme) -> Result<Arc<dyn Device>> {
    let (padding, memory_bytes) = (args.padding, memory_bytes(args));
    gpu::start(Wanted { number, scheme, padding, memory_bytes, outstanding: None })
}

/// Memory for models and their tasks, where the command line says how much.
pub fn memory_bytes(args: &DeviceArgs) -> Option<u64> {
    args.memory.map(|mib| mib.saturating_mul(1 << 20))
}

/// What a device is, for people: what it is called and what it says of itself.
pub fn described(name: &str, device: &dyn Device) -> String {
    format!("{name} ({})", device.capabilities().name)
}
