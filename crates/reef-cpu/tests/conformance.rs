//! The CPU device keeps the executor contract.

use std::sync::Arc;

use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::conformance::Harness;
use reef_device::{Device, Padding, Scheme};

struct Cpu;

impl Harness for Cpu {
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device> {
        self.padded(cus, scheme, Padding::default())
    }

    fn padded(&self, cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device> {
        let options = CpuOptions { cus: Some(cus), scheme, padding, ..CpuOptions::default() };
        Arc::new(CpuDevice::start(options).expect("the threads start"))
    }
}

reef_device::conformance_suite!(Cpu);
