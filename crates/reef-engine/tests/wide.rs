//! Engines over devices with as many compute units as an accelerator has.

mod doubles;

use std::sync::Arc;

use doubles::{assert_exact, key, real_time, request};
use reef_base::limits::CUS_MAX;
use reef_device::{DummyDevice, DummyOptions};
use reef_engine::{Engine, EngineError, EngineOptions, ModelSettings};
use reef_plan::{SyntheticStage, synthetic_plan};

fn engine(cus: usize) -> Result<Engine, EngineError> {
    let device = Arc::new(DummyDevice::new(DummyOptions { cus, ..DummyOptions::default() }));
    Engine::new(device, EngineOptions::default())
}

#[test]
fn a_device_of_256_units_serves() {
    let engine = engine(256).unwrap();
    assert_eq!(engine.devices()[0].cus, 256);
    let stage = SyntheticStage { blocks: 300, polls: 10, poll_ns: 1_000 };
    let target = engine.capabilities().target;
    let plan = |seed| Arc::new(synthetic_plan("wide", target, seed, &[stage; 3]).unwrap());
    let (urgent, rest) = (plan(1), plan(2));
    engine.load_plan(key("urgent"), real_time(0), urgent.clone()).unwrap();
    engine.load_plan(key("rest"), ModelSettings::default(), rest.clone()).unwrap();
    let waiting: Vec<_> = (0..6).map(|_| engine.submit(&request("rest", &[3; 64])).unwrap()).collect();
    for _ in 0..4 {
        let response = engine.infer(&request("urgent", &[7; 64])).unwrap();
        assert_exact(&urgent, &[7; 64], &response);
    }
    for future in waiting {
        assert_exact(&rest, &[3; 64], &future.wait().unwrap());
    }
}

#[test]
fn more_units_than_any_device_may_have_are_an_error() {
    let error = engine(CUS_MAX + 1).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("257 compute units, 1 to 256 are possible"), "{error}");
}
