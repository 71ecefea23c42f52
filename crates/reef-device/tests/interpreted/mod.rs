//! Cases of the conformance suite on real kernels, and dummies that can run them.

#![allow(missing_docs)]

use std::sync::Arc;

use reef_compile::{interpret, samples};
use reef_device::operators::Case;
use reef_device::{Device, DummyDevice, DummyOptions, Padding, Scheme};
use reef_plan::Cutter;

/// What the dummy cannot run.
pub const IGNORED: [(&str, &str); 1] =
    [("host kernel", "it must not be killed, and a reset kills all that runs")];

pub fn dummy(cus: usize, scheme: Scheme) -> Arc<dyn Device> {
    padded(cus, scheme, DummyOptions::default().padding)
}

pub fn padded(cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device> {
    let interpreter = Some(Arc::new(interpret::Blocks) as _);
    Arc::new(DummyDevice::new(DummyOptions { cus, scheme, padding, interpreter, ..DummyOptions::default() }))
}

pub fn cases(cutter: &dyn Cutter) -> Vec<Case> {
    let case = |sample: samples::Sample| Case {
        name: sample.name.into(),
        plan: Arc::new(sample.plan(cutter).expect("samples compile")),
        inputs: sample.inputs.iter().map(|tensor| tensor.bytes().as_slice().to_vec()).collect(),
        check: Box::new(move |outputs| sample.check(outputs)),
    };
    samples::all().into_iter().map(case).collect()
}
