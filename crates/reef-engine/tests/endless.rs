//! Requests of several segments: loops that do not end, and many plans.

mod doubles;

use std::sync::Arc;

use doubles::*;
use reef_base::limits;
use reef_engine::*;
use reef_plan::{Cutter, Plan};
use reef_program::{Part, Passed, Segment, SegmentKey, Source, Take};

/// A model that goes on with itself for ever.
#[derive(Debug)]
struct Endless {
    of: Arc<AnyLength>,
    part: Part,
}

impl Endless {
    fn new() -> Arc<Endless> {
        Arc::new(Endless { of: AnyLength::new(), part: Part::new(Arc::new(())) })
    }
}

impl PlanSource for Endless {
    fn inputs(&self) -> &[TensorInfo] {
        self.of.inputs()
    }
    fn outputs(&self) -> &[TensorInfo] {
        self.of.outputs()
    }
    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        self.of.compile(shapes, cutter)
    }
    fn segment(&self, _: &SegmentKey, cutter: &dyn Cutter) -> Result<Segment, String> {
        let plan = self.compile(&[Shape::from([64])], cutter)?;
        let passed = vec![Passed { source: Source::Output(0), take: Take::Tensor }];
        Segment::new(plan, self.part.clone(), passed).map_err(|error| error.to_string())
    }
}

#[test]
fn a_loop_that_does_not_end_meets_a_bound() {
    let engine = stepped();
    engine.load_source(key("endless"), ModelSettings::default(), Endless::new()).unwrap();
    let input = [1u8; 64];
    let error = engine.infer(&request("endless", &input)).unwrap_err();
    let expected = format!("more than {} segments: a loop does not end", limits::SEGMENTS_PER_REQUEST_MAX);
    assert!(error.to_string().contains(&expected), "{error}");
    let deadline = Some(Nanos::from_millis(50));
    let error = engine.infer(&InferRequest { deadline, ..request("endless", &input) }).unwrap_err();
    assert!(matches!(error, InferError::DeadlinePassed | InferError::DeadlineUnreachable { .. }), "{error}");
    assert!(engine.is_idle());
}

#[test]
fn a_deadline_a_cancellation_and_an_unload_end_a_loop() {
    let (engine, _device) = live();
    engine.load_source(key("endless"), ModelSettings::default(), Endless::new()).unwrap();
    let input = [1u8; 64];
    let deadline = Some(Nanos::from_millis(5));
    let late = engine.submit(&InferRequest { deadline, ..request("endless", &input) }).unwrap();
    assert_eq!(late.wait().unwrap_err(), InferError::DeadlinePassed);
    let left = engine.submit(&request("endless", &input)).unwrap();
    drop(left);
    let unloaded = engine.submit(&request("endless", &input)).unwrap();
    engine.shutdown(std::time::Duration::ZERO);
    assert_eq!(unloaded.wait().unwrap_err(), InferError::ShuttingDown);
    assert!(engine.is_idle());
}

#[test]
fn models_make_room_for_each_other_on_the_device() {
    let (engine, device) = live();
    device.set_places(8);
    for name in ["a", "b", "c"] {
        engine.load_source(key(name), ModelSettings::default(), AnyLength::new()).unwrap();
        for n in 1..=6 {
            let input = vec![1u8; 64 * n];
            let response = engine.infer(&request(name, &input)).unwrap();
            assert_eq!(response.output("y").unwrap().shape, &Shape::from([64 * n]));
        }
    }
    let plans: usize = ["a", "b", "c"].map(|name| engine.model(name, None).unwrap().plans.len()).iter().sum();
    assert!(plans <= 8, "{plans}");
}
