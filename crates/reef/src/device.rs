//! Picks and starts devices: the only place that knows which ones exist.

use std::sync::Arc;

use anyhow::{Context, Result};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Device, Scheme};

use crate::cli::{DeviceArgs, DeviceName};

/// Starts the device that the command line names.
pub fn start(args: &DeviceArgs, scheme: Scheme) -> Result<Arc<dyn Device>> {
    match args.device {
        DeviceName::Cpu => {
            let memory_bytes = memory_bytes(args);
            let (cus, nice, padding) = (args.cus, args.nice, args.padding);
            let options = CpuOptions { cus, nice, scheme, padding, memory_bytes, ..CpuOptions::default() };
            let device = CpuDevice::start(options).context("cannot start the CPU device")?;
            for warning in device.warnings() {
                tracing::warn!("{warning}");
            }
            Ok(Arc::new(device))
        }
    }
}

/// Memory for arenas, where the command line says how much.
pub fn memory_bytes(args: &DeviceArgs) -> Option<u64> {
    args.memory.map(|mib| mib.saturating_mul(1 << 20))
}
