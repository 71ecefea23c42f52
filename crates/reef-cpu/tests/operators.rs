//! Real kernels of every instruction set keep the executor contract, and give what their graphs mean.

use std::sync::Arc;

use reef_compile::samples;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::conformance::Harness;
use reef_device::operators::{Case, Operators};
use reef_device::{Device, Padding, Scheme};
use reef_plan::{Cutter, Isa};

/// CPU devices with an instruction set, or the best one.
struct Cpu(Option<Isa>);

impl Harness for Cpu {
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device> {
        self.padded(cus, scheme, Padding::default())
    }

    fn padded(&self, cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device> {
        let (cus, isa) = (Some(cus), self.0);
        let options = CpuOptions { cus, scheme, padding, isa, nice: 0, ..CpuOptions::default() };
        Arc::new(CpuDevice::start(options).expect("the threads start"))
    }
}

impl Operators for Cpu {
    fn cases(&self, cutter: &dyn Cutter) -> Vec<Case> {
        let case = |sample: samples::Sample| Case {
            name: sample.name.into(),
            plan: Arc::new(sample.plan(cutter).expect("samples compile")),
            inputs: sample.inputs.iter().map(|tensor| tensor.bytes().as_slice().to_vec()).collect(),
            check: Box::new(move |outputs| sample.check(outputs)),
        };
        samples::all().into_iter().map(case).collect()
    }
}

reef_device::operator_suite!(Cpu(None));

mod portable {
    use super::*;

    reef_device::operator_suite!(Cpu(Some(Isa::Portable)));
}
