//! The dummy's memory: its buffers are not the host's own, and what it holds is bounded and in the books.

use std::sync::Arc;

use reef_base::Domain;
use reef_device::{Device, DeviceError, DummyDevice, DummyOptions};
use reef_plan::{SyntheticStage, synthetic_plan};

#[test]
fn plans_are_admitted_as_far_as_memory_goes() {
    let stages = [SyntheticStage { blocks: 4, polls: 1, poll_ns: 10 }; 3];
    let target = DummyDevice::new(DummyOptions::default()).capabilities().target;
    let plan = Arc::new(synthetic_plan("p", target, 1, &stages).unwrap());
    let (arena, io) = (plan.arena_bytes() as u64, 128);
    let device = DummyDevice::new(DummyOptions { memory_bytes: Some(2 * arena + io), ..Default::default() });
    let first = device.load(plan.clone()).unwrap();
    let second = device.load(plan.clone()).unwrap();
    let memory = device.memory();
    assert_eq!((memory.len(), memory[0].domain, memory[0].working), (1, Domain::Pinned, 2 * arena));
    let error = device.load(plan.clone()).unwrap_err();
    let (needed, available) = (3 * arena + io, 2 * arena + io);
    assert_eq!(error, DeviceError::OutOfMemory { plan: "p".into(), needed, available });
    device.unload(first);
    let third = device.load(plan).unwrap();
    for loaded in [second, third] {
        let io = device.alloc_io(loaded).unwrap();
        assert!(io.inputs.iter().chain(&io.outputs).all(|buffer| buffer.domain() == Domain::Pinned));
        device.unload(loaded);
    }
    assert_eq!(device.memory()[0].working, 0);
}
