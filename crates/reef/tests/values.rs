//! Models that select plans by the value of an input, through the engine: values named in the settings are
//! compiled at load, and ever new values leave nothing behind. One test, because the count of what is
//! allocated is of the whole process.

#[path = "programs/make.rs"]
mod make;

use std::alloc::System;
use std::sync::Arc;

use reef_base::limits;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_engine::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Elements of the models' input.
const LENGTH: i64 = 12_000;

/// Bytes that may be allocated more after thousands of plans than before: some 30 each. A plan has thousands.
const ALLOCATED_MORE_MAX: isize = 256 << 10;

/// The same of the process's memory, which has what the allocator could not put together again.
const RESIDENT_MORE_MAX: i64 = 16 << 20;

fn engine() -> Engine {
    let device = CpuDevice::start(CpuOptions { cus: Some(1), nice: 0, ..CpuOptions::default() });
    Engine::new(Arc::new(device.expect("the device starts")), EngineOptions::default()).expect("an engine")
}

fn load(engine: &Engine, program: &make::Program, values: Vec<InputValues>) -> ModelInfo {
    let key = ModelKey { name: program.name.clone(), version: "1".into() };
    let source = ModelSource::Bytes(program.onnx.clone());
    let settings = ModelSettings { values, ..ModelSettings::default() };
    engine.load(ModelSpec { key, source, settings }).expect("the model loads")
}

/// Bytes that are allocated, and bytes of memory of the process that no file is behind.
fn held() -> (isize, i64) {
    let stats = ALLOCATOR.stats();
    let allocated = stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated) as isize;
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("it says so");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<i64>().ok()).expect("a number");
    (allocated, kib << 10)
}

/// `x[from .. from + 4]` for many values of `from`.
struct Windows<'a> {
    engine: &'a Engine,
    model: &'a str,
    x: Vec<u8>,
}

impl Windows<'_> {
    /// Asks for the window at `from`, and checks the answer: every tenth time by a request, whose plans the
    /// thread for that makes, otherwise by a session, whose first plan is made here.
    fn ask(&self, from: i64) {
        let expected: Vec<u8> = (from..from + 4).flat_map(|at| (at as f32).to_le_bytes()).collect();
        let start = from.to_le_bytes();
        if from % 10 == 0 {
            let x = InputTensor {
                name: "x",
                dtype: DType::F32,
                shape: Shape::from([LENGTH as usize]),
                data: &self.x,
            };
            let from = InputTensor { name: "from", dtype: DType::I64, shape: Shape::from([1]), data: &start };
            let response = self.engine.infer(&InferRequest::new(self.model, vec![x, from]));
            let response = response.expect("it is answered");
            assert_eq!(response.output("y").expect("it has one").data, expected);
            return;
        }
        let options = SessionOptions { values: vec![("from", &start)], ..SessionOptions::default() };
        let mut session = self.engine.session(self.model, &options).expect("it opens");
        session.input_mut(0).copy_from_slice(&self.x);
        session.input_mut(1).copy_from_slice(&start);
        session.run().expect("it is answered");
        assert_eq!(session.output(0).data, expected, "from {from}");
    }

    /// Asks for all these; what is held more after the last than after the first `fill`.
    fn leave_nothing(&self, fill: i64, all: i64) {
        (0..fill).for_each(|from| self.ask(from));
        let (allocated, resident) = held();
        (fill..all).for_each(|from| self.ask(from));
        let (more, resident_more) = (held().0 - allocated, held().1 - resident);
        let model = self.model;
        println!(
            "{model}: {allocated} bytes, then {more} more; resident {resident}, then {resident_more} more"
        );
        assert!(more < ALLOCATED_MORE_MAX, "{model}: {more} bytes more than {allocated}");
        assert!(resident_more < RESIDENT_MORE_MAX, "{model}: {resident_more} bytes more than {resident}");
        let info = self.engine.model(model, None).expect("it is loaded");
        assert_eq!(info.plans.len(), limits::PLANS_PER_MODEL_MAX, "{model}");
    }
}

#[test]
fn values_are_compiled_ahead_and_ten_thousand_leave_nothing_behind() {
    let engine = engine();
    let ahead = [5, 7].map(|from| vec![("from".to_string(), vec![Number::Int(from)])]);
    let windows = |model| Windows {
        engine: &engine,
        model,
        x: (0..LENGTH).flat_map(|at| (at as f32).to_le_bytes()).collect(),
    };
    let compiled = |index: usize| engine.stats().models[index].plans_compiled;

    assert_eq!(load(&engine, &make::window(LENGTH), ahead.to_vec()).plans.len(), 2);
    let window = windows("window");
    window.ask(7);
    window.ask(5);
    assert_eq!(compiled(0), 2, "the plans were there");
    window.leave_nothing(2_000, 10_000);
    assert_eq!(compiled(0), 10_000, "each value has its plan");
    engine.unload("window", None, Queued::Finish).expect("it is loaded");

    // Its values select a second segment as well.
    assert_eq!(load(&engine, &make::forked_window(LENGTH), ahead.to_vec()).plans.len(), 2);
    let fill = limits::SEGMENTS_PER_MODEL_MAX as i64 + 100;
    windows("forked").leave_nothing(fill, fill + 400);
    assert!(compiled(0) >= fill as u64);
}
