//! Requests that are joined: each gets what it would have got alone, waits no longer than it may, and ends
//! for itself.

mod doubles;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use doubles::rows::*;
use doubles::slow::{Hooks, Slow};
use doubles::*;
use reef_base::Rng;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::RejectReason;
use reef_engine::*;
use reef_zoo::{Model, Variant};

const US: u64 = 1_000;

/// Joined up to `rows`, one task at a time.
fn joined(rows: usize, delay_us: u64, settings: ModelSettings) -> ModelSettings {
    ModelSettings {
        batch_rows_max: Some(rows),
        batching: Some(Batching { delay: Nanos::from_micros(delay_us), ..Batching::default() }),
        in_flight_max: Some(1),
        ..settings
    }
}

/// A model whose tasks take 10 µs for every two rows.
fn served(settings: ModelSettings) -> Engine {
    let engine = stepped();
    engine.load_source(key("m"), settings, Rows::new(10)).unwrap();
    engine
}

fn ended(future: &mut InferFuture) -> Option<Result<InferResponse, InferError>> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn sums(engine: &Engine) -> ClassStats {
    let stats = engine.stats().models.remove(0);
    let mut sum = stats.real_time;
    sum.merge(&stats.best_effort);
    sum
}

/// Tasks by their rows.
fn by_rows(stats: &ClassStats) -> Vec<(usize, u64)> {
    let each = stats.batches.iter().enumerate().map(|(at, batch)| (at + 1, batch.count));
    each.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn what_waits_is_joined_and_everybody_gets_its_own_rows() {
    let engine = served(joined(8, 0, ModelSettings::default()));
    let each = [filled(&[1]), filled(&[2]), filled(&[3, 4, 5]), filled(&[6, 7]), filled(&[8, 9, 10])];
    let all: Vec<InferFuture> = each.iter().map(|data| engine.submit(&ask("m", data)).unwrap()).collect();
    let totals: Vec<u64> = all
        .into_iter()
        .zip(&each)
        .map(|(future, data)| {
            let response = future.wait().unwrap();
            assert_rows(data, &response);
            response.timings.total.0
        })
        .collect();
    // The first one starts alone; the next three, of six rows, run as eight; the last did not fit.
    let (first, second) = (10 * US, 40 * US);
    assert_eq!(totals[..4], [first, first + second, first + second, first + second]);
    assert_eq!(totals[4], first + second + 20 * US);
    let stats = sums(&engine);
    assert_eq!((stats.success, stats.inferences, stats.executions), (5, 10, 3));
    assert_eq!(by_rows(&stats), [(1, 1), (3, 1), (6, 1)]);
    assert_eq!(stats.batches[5].compute, Nanos(second));
    assert_eq!((stats.queued, stats.on_board), (0, 0));
}

#[test]
fn a_request_waits_its_delay_for_others() {
    let engine = served(joined(8, 100, ModelSettings::default()));
    let data = filled(&[1]);
    let first = engine.submit(&ask("m", &data)).unwrap();
    assert_eq!(engine.next_event(), Some(Nanos(100 * US)));
    engine.run_until(Nanos(30 * US));
    let second = engine.submit(&ask("m", &data)).unwrap();
    let (first, second) = (first.wait().unwrap(), second.wait().unwrap());
    assert_eq!((first.timings.queue, second.timings.queue), (Nanos(100 * US), Nanos(70 * US)));
    assert_rows(&data, &first);
    assert_rows(&data, &second);
    assert_eq!(by_rows(&sums(&engine)), [(2, 1)]);
    // One that fills the batch does not wait.
    let wide = filled(&[3; 8]);
    assert_eq!(engine.infer(&ask("m", &wide)).unwrap().timings.queue, Nanos::ZERO);
}

#[test]
fn preferred_sizes_start_at_once() {
    let settings = joined(8, 100, ModelSettings::default());
    let batching = Some(Batching { delay: Nanos(100 * US), preferred: vec![3], optional: false });
    let engine = served(ModelSettings { batching, ..settings });
    let data = filled(&[1]);
    let all: Vec<_> = (0..3).map(|_| engine.submit(&ask("m", &data)).unwrap()).collect();
    for future in all {
        assert_eq!(future.wait().unwrap().timings.queue, Nanos::ZERO);
    }
    let names: Vec<String> = engine.models()[0].plans.iter().map(|plan| plan.name.clone()).collect();
    assert_eq!(names, ["rows [1]", "rows [3]", "rows [8]"], "made at load");
}

#[test]
fn a_deadline_bounds_the_wait_and_is_met() {
    let engine = served(joined(8, 1_000_000, real_time(1)));
    let data = filled(&[1]);
    let wide = filled(&[1; 8]);
    // A full batch, as often as it takes to learn its time: 40 µs.
    for _ in 0..8 {
        engine.infer(&ask("m", &wide)).unwrap();
    }
    let asked = |deadline: u64| InferRequest { deadline: Some(Nanos(deadline * US)), ..ask("m", &data) };
    let begin = engine.now();
    let first = engine.submit(&asked(200)).unwrap();
    let latest = 200 * US - 40 * US * 5 / 4;
    assert_eq!(engine.next_event(), Some(begin + Nanos(latest)));
    engine.run_until(begin + Nanos(50 * US));
    let second = engine.submit(&ask("m", &data)).unwrap();
    let (first, second) = (first.wait().unwrap(), second.wait().unwrap());
    assert_eq!(first.timings.queue, Nanos(latest));
    assert!(!first.late && first.timings.total < Nanos(200 * US));
    assert_eq!(second.timings.queue, Nanos(latest - 50 * US), "it came along");
    // What is too soon to wait for starts at once; what cannot be met is refused with the estimate.
    assert_eq!(engine.infer(&asked(45)).unwrap().timings.queue, Nanos::ZERO);
}

#[test]
fn a_deadline_of_which_nothing_is_known_does_not_wait() {
    let engine = served(joined(8, 1_000, real_time(2)));
    let data = filled(&[1]);
    let request = InferRequest { deadline: Some(Nanos(10_000 * US)), ..ask("m", &data) };
    assert_eq!(engine.infer(&request).unwrap().timings.queue, Nanos::ZERO);
}

#[test]
fn level_0_waits_only_if_its_settings_say_so() {
    let data = filled(&[1]);
    let engine = served(joined(8, 0, real_time(0)));
    assert_eq!(engine.infer(&ask("m", &data)).unwrap().timings.queue, Nanos::ZERO);
    let engine = served(joined(8, 50, real_time(0)));
    assert_eq!(engine.infer(&ask("m", &data)).unwrap().timings.queue, Nanos(50 * US));
}

/// Notes how many tasks the device had when it was woken.
struct Noting {
    engine: Engine,
    submitted: AtomicUsize,
}

impl std::task::Wake for Noting {
    fn wake(self: std::sync::Arc<Self>) {
        let submitted = self.engine.device().counters().submitted;
        self.submitted.store(submitted as usize, Ordering::SeqCst);
    }
}

#[test]
fn an_urgent_answer_does_not_wait_for_rows_of_lesser_work_to_be_copied() {
    let engine = served(joined(8, 100, ModelSettings::default()));
    engine.load_source(key("rt"), real_time(0), Rows::new(10)).unwrap();
    let data = filled(&[1]);
    let held: Vec<_> = (0..2).map(|_| engine.submit(&ask("m", &data)).unwrap()).collect();
    engine.run_until(Nanos(90 * US));
    // It ends in the moment in which the others start.
    let mut urgent = engine.submit(&ask("rt", &data)).unwrap();
    let noting = std::sync::Arc::new(Noting { engine: engine.clone(), submitted: AtomicUsize::new(0) });
    let waker = Waker::from(noting.clone());
    assert!(Pin::new(&mut urgent).poll(&mut Context::from_waker(&waker)).is_pending());
    engine.run_until(Nanos(100 * US));
    assert_eq!(engine.device().counters().submitted, 2, "the batch has started");
    assert_eq!(noting.submitted.load(Ordering::SeqCst), 1, "after the answer");
    held.into_iter().for_each(|future| assert_rows(&data, &future.wait().unwrap()));
}

#[test]
fn members_end_for_themselves() {
    let engine = served(joined(8, 0, ModelSettings::default()));
    let each: Vec<Vec<u8>> = (0..7).map(|fill| filled(&[fill])).collect();
    let mut all: Vec<InferFuture> = each.iter().map(|data| engine.submit(&ask("m", data)).unwrap()).collect();
    // While they wait one goes, another one's timeout passes.
    drop(all.remove(6));
    let hurried = InferRequest { timeout: Some(Nanos(5 * US)), ..ask("m", &each[6]) };
    let mut hurried = engine.submit(&hurried).unwrap();
    engine.run_until(Nanos(5 * US));
    assert_eq!(ended(&mut hurried).unwrap().unwrap_err(), InferError::Timeout);
    let late = InferRequest { deadline: Some(Nanos(20 * US)), ..ask("m", &each[6]) };
    let mut late = engine.submit(&late).unwrap();
    // Six rows run, and one with a deadline: it passes in the middle.
    engine.run_until(Nanos(15 * US));
    assert_eq!(sums(&engine).on_board, 1);
    drop(all.remove(2));
    engine.run_until(Nanos(25 * US));
    assert_eq!(ended(&mut late).unwrap().unwrap_err(), InferError::DeadlinePassed);
    for (future, data) in all.into_iter().zip([0, 1, 3, 4, 5].map(|at| &each[at])) {
        assert_rows(data, &future.wait().unwrap());
    }
    let stats = sums(&engine);
    let failed = |reason| stats.failed(reason);
    assert_eq!((stats.success, stats.executions), (5, 2));
    assert_eq!(failed(FailureReason::Cancelled), 2);
    assert_eq!((failed(FailureReason::Timeout), failed(FailureReason::Deadline)), (1, 1));
    assert_eq!(by_rows(&stats), [(1, 1), (6, 1)], "as it ran");
    assert!(engine.is_idle());
}

#[test]
fn a_batch_that_nobody_waits_for_is_stopped() {
    let engine = served(joined(4, 0, ModelSettings::default()));
    let data = filled(&[1, 2]);
    let first = engine.submit(&ask("m", &data)).unwrap();
    let others: Vec<_> = (0..2).map(|_| engine.submit(&ask("m", &data)).unwrap()).collect();
    first.wait().unwrap();
    engine.run_until(engine.now() + Nanos(3 * US));
    drop(others);
    engine.run_until(Nanos::MAX);
    let device = engine.stats().device;
    assert!(device.blocks_killed > 0, "{device:?}");
    assert_eq!(engine.now(), Nanos(13 * US), "at once");
    assert!(engine.is_idle());
    assert_eq!(sums(&engine).executions, 1);
}

#[test]
fn more_rows_than_the_settings_allow_are_refused() {
    let engine = served(joined(8, 0, ModelSettings::default()));
    let data = filled(&[0; 9]);
    let error = engine.submit(&ask("m", &data)).unwrap_err();
    assert_eq!(error, InferError::TooWide { key: key("m"), rows: 9, max: 8 });
    assert!(error.to_string().starts_with("inference request batch-size must be <= 8 for 'm'"), "{error}");
    let options = SessionOptions { shapes: vec![("x", Shape::from([9, ROW]))], ..SessionOptions::default() };
    let error = engine.session("m", &options).unwrap_err();
    assert_eq!(error, InferError::TooWide { key: key("m"), rows: 9, max: 8 });
    // Also where nothing is joined.
    let plain = ModelSettings { batch_rows_max: Some(2), ..ModelSettings::default() };
    let engine = served(plain);
    assert!(matches!(engine.submit(&ask("m", &filled(&[0; 3]))), Err(InferError::TooWide { .. })));
    let data = filled(&[0; 2]);
    assert_rows(&data, &engine.infer(&ask("m", &data)).unwrap());
    assert_eq!(by_rows(&sums(&engine)), [(2, 1)]);
    assert_eq!(sums(&engine).inferences, 2);
}

#[test]
fn models_that_cannot_be_joined_are_refused_with_the_reason() {
    let engine = cpu();
    let refused = |source, settings: ModelSettings| {
        let error = engine.load(ModelSpec { key: key("m"), source, settings }).unwrap_err();
        assert!(matches!(error, LoadError::Settings { .. }), "{error}");
        error.to_string()
    };
    let zoo = |model, variant: &Variant| ModelSource::Bytes(reef_zoo::build(model, variant).unwrap());
    let settings = || joined(8, 0, ModelSettings::default());
    let error = refused(zoo(Model::Control, &Variant::tiny()), settings());
    assert!(error.contains("the first axis of input 'input' is not symbolic"), "{error}");
    // Its first axis are steps, which follow from each other.
    let steps = || zoo(Model::Lstm, &Variant::tiny().dynamic());
    let spec = ModelSpec { key: key("plain"), source: steps(), settings: ModelSettings::default() };
    let input = engine.load(spec).unwrap().inputs.remove(0);
    engine.unload("plain", None, Queued::Finish).unwrap();
    let extents = [1, 2, input.dims[2] as usize];
    let shapes = vec![vec![(input.name, Shape::from(extents))]];
    let error = refused(steps(), ModelSettings { shapes, ..settings() });
    assert!(error.contains("combines rows with each other"), "{error}");
    let plan = plan(&engine, "m", 1, 1);
    let error = engine.load_plan(key("m"), settings(), plan).unwrap_err().to_string();
    assert!(error.contains("not known whether"), "{error}");
    let pool = dummies(2);
    let split = ModelSettings { placement: Placement::Split, ..settings() };
    let error = pool.load_source(key("m"), split, Rows::new(1)).unwrap_err().to_string();
    assert!(error.contains("split"), "{error}");
    assert!(engine.models().is_empty(), "nothing is left of them");
}

/// The same models, where batches are wished for and not needed.
#[test]
fn models_that_cannot_be_joined_are_served_without_batches_where_that_is_enough() {
    let engine = cpu();
    let wished = |preferred: Vec<usize>| {
        let batching = Some(Batching { preferred, optional: true, ..Batching::default() });
        ModelSettings { batching, ..joined(2, 0, ModelSettings::default()) }
    };
    let bytes = reef_zoo::build(Model::Control, &Variant::tiny()).unwrap();
    let spec = ModelSpec { key: key("fixed"), source: ModelSource::Bytes(bytes), settings: wished(vec![]) };
    assert!(!engine.load(spec).unwrap().joins);
    let split = ModelSettings { placement: Placement::Split, ..wished(vec![]) };
    assert!(!dummies(2).load_source(key("split"), split, Rows::new(1)).unwrap().joins);
    // As many sizes as no plan would be made for.
    let many = engine.load_source(key("many"), wished((1..=64).collect()), Rows::new(1)).unwrap();
    assert!(!many.joins);
    let data = filled(&[1, 2]);
    assert_rows(&data, &engine.infer(&ask("many", &data)).unwrap());
    let error = engine.infer(&ask("many", &filled(&[1, 2, 3]))).unwrap_err();
    assert!(matches!(error, InferError::TooWide { rows: 3, max: 2, .. }), "{error}");
    assert!(engine.load_source(key("joined"), wished(vec![]), Rows::new(1)).unwrap().joins);
}

fn zoo_inputs(info: &ModelInfo, rows: usize, seed: u64) -> Vec<(Shape, Vec<u8>)> {
    let mut rng = Rng::new(seed);
    let each = info.inputs.iter().map(|input| {
        let extents = input.dims.iter().skip(1).map(|&dim| if dim < 0 { 7 } else { dim as usize });
        let shape: Shape = std::iter::once(rows).chain(extents).collect();
        let values = 0..shape.elements();
        let data: Vec<u8> = match input.dtype {
            DType::I64 if input.name.contains("mask") => values.flat_map(|_| 1i64.to_le_bytes()).collect(),
            DType::I64 => values.flat_map(|_| (rng.below(20) as i64).to_le_bytes()).collect(),
            _ => values.flat_map(|_| rng.normal_f32().to_le_bytes()).collect(),
        };
        (shape, data)
    });
    each.collect()
}

fn zoo_request<'a>(name: &'a str, info: &'a ModelInfo, data: &'a [(Shape, Vec<u8>)]) -> InferRequest<'a> {
    let each = info.inputs.iter().zip(data).map(|(input, (shape, data))| InputTensor {
        name: &input.name,
        dtype: input.dtype,
        shape: shape.clone(),
        data,
    });
    InferRequest::new(name, each.collect())
}

fn floats(response: &InferResponse) -> Vec<f32> {
    let data = response.output_at(0).data;
    data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Networks on the CPU, joined and one by one.
#[test]
fn joined_networks_compute_what_single_ones_do() {
    let engine = cpu();
    for model in [Model::Control, Model::Resnet18, Model::Distilbert] {
        let bytes = reef_zoo::build(model, &Variant::tiny().dynamic()).unwrap();
        let load = |name: &str, settings| {
            let source = ModelSource::Bytes(bytes.clone());
            engine.load(ModelSpec { key: key(name), source, settings }).unwrap()
        };
        let info = load("single", ModelSettings::default());
        // A delay that nothing reaches: they are joined because the batch is full.
        let mut settings = joined(8, 60_000_000, ModelSettings::default());
        if model == Model::Distilbert {
            let named = |input: &TensorInfo| (input.name.clone(), Shape::from([1, 7]));
            settings.shapes = vec![info.inputs.iter().map(named).collect()];
        }
        load("joined", settings);
        let each: Vec<_> = [1, 2, 1, 4].into_iter().zip(1..).collect();
        let each: Vec<_> = each.into_iter().map(|(rows, seed)| zoo_inputs(&info, rows, seed)).collect();
        let futures: Vec<_> =
            each.iter().map(|data| engine.submit(&zoo_request("joined", &info, data)).unwrap()).collect();
        for (future, data) in futures.into_iter().zip(&each) {
            let alone = floats(&engine.infer(&zoo_request("single", &info, data)).unwrap());
            let together = floats(&future.wait().unwrap());
            assert_eq!(alone.len(), together.len());
            for (a, b) in alone.iter().zip(&together) {
                assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{model:?}: {a} {b}");
            }
        }
        let stats = engine.stats().models.into_iter().find(|stats| stats.key.name == "joined").unwrap();
        assert_eq!(by_rows(&stats.best_effort), [(8, 1)], "{model:?}");
        for name in ["single", "joined"] {
            engine.unload(name, None, Queued::Finish).unwrap();
        }
    }
}

/// Slots are shared by all models of a device: a batch may get one that came with another model.
#[test]
fn a_batch_has_a_place_whatever_was_loaded_after_its_model() {
    let engine = stepped();
    let settings = ModelSettings { queue_len: 4, ..joined(3, 0, real_time(0)) };
    engine.load_source(key("m"), settings, Rows::new(10)).unwrap();
    load(&engine, "other", ModelSettings { queue_len: 100, ..ModelSettings::default() }, 4);
    let others: Vec<_> = (0..90).map(|_| engine.submit(&request("other", &[1; 64])).unwrap()).collect();
    let each = [filled(&[1]), filled(&[2]), filled(&[3])];
    let futures: Vec<_> = each.iter().map(|data| engine.submit(&ask("m", data)).unwrap()).collect();
    for (future, data) in futures.into_iter().zip(&each) {
        assert_rows(data, &future.wait().unwrap());
    }
    others.into_iter().for_each(|other| drop(other.wait().unwrap()));
    let stats = engine.stats();
    let joined = stats.models.iter().find(|stats| stats.key == key("m")).expect("it is loaded");
    assert_eq!(by_rows(&joined.real_time), [(1, 1), (2, 1)]);
}

#[test]
fn a_batch_that_fails_costs_only_who_made_it_fail() {
    let device = CpuDevice::start(CpuOptions { cus: Some(1), ..CpuOptions::default() }).unwrap();
    let engine = Engine::new(std::sync::Arc::new(device), EngineOptions::default()).unwrap();
    engine.load_source(key("m"), joined(8, 60_000_000, ModelSettings::default()), Rows::picky()).unwrap();
    let each = [filled(&[1]), filled(&[2, BAD]), filled(&[3, 4, 5]), filled(&[6, 7])];
    let futures: Vec<_> = each.iter().map(|data| engine.submit(&ask("m", data)).unwrap()).collect();
    let ends: Vec<_> = futures.into_iter().map(InferFuture::wait).collect();
    for (at, (end, data)) in ends.iter().zip(&each).enumerate() {
        match end {
            Ok(response) => assert_rows(data, response),
            Err(InferError::Failed(fault)) => {
                assert_eq!((at, &*fault.reason), (1, "row 1 is bad"));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(ends[1].is_err());
    let stats = sums(&engine);
    assert_eq!((stats.success, stats.failed(FailureReason::Input), stats.executions), (3, 1, 3));
}

/// Who left a batch may be who made it fail: who is left in it is not told so, even if that is one alone.
#[test]
fn a_batch_that_fails_after_its_members_left_costs_nobody_else() {
    let slow = Slow::new();
    let engine = slow.engine();
    engine.load_source(key("m"), joined(4, 60_000_000, ModelSettings::default()), Rows::picky()).unwrap();
    let (reached, go) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    let barriers = std::sync::Arc::new((reached, go));
    let held = barriers.clone();
    slow.set(Hooks {
        before: std::sync::Arc::new(move || {
            held.0.wait();
            held.1.wait();
        }),
        ..Hooks::new()
    });
    let (bad, good) = (filled(&[BAD, 1, 2]), filled(&[3]));
    std::thread::scope(|scope| {
        let first = engine.submit(&ask("m", &bad)).unwrap();
        // It fills the batch, and is handed in on this thread.
        let second = scope.spawn(|| engine.submit(&ask("m", &good)).unwrap().wait());
        barriers.0.wait();
        first.cancel();
        slow.set(Hooks::new());
        barriers.1.wait();
        assert_eq!(first.wait().unwrap_err(), InferError::Cancelled);
        assert_rows(&good, &second.join().unwrap().unwrap());
    });
    let stats = sums(&engine);
    assert_eq!((stats.success, stats.failed(FailureReason::Cancelled)), (1, 1));
}

#[test]
fn a_device_without_a_place_gets_the_batch_later() {
    let slow = Slow::new();
    let engine = slow.engine();
    engine.load_source(key("m"), joined(4, 60_000_000, ModelSettings::default()), Rows::new(1)).unwrap();
    let rejections = std::sync::Arc::new(AtomicUsize::new(0));
    let count = rejections.clone();
    slow.set(Hooks {
        before: std::sync::Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }),
        rejects: Some(RejectReason::BoardFull),
        ..Hooks::new()
    });
    let each: Vec<Vec<u8>> = (1..5).map(|fill| filled(&[fill])).collect();
    let mut futures: Vec<_> = each.iter().map(|data| engine.submit(&ask("m", data)).unwrap()).collect();
    while rejections.load(Ordering::SeqCst) < 3 {
        std::thread::yield_now();
    }
    drop(futures.remove(1));
    // Three rows do not fill a batch: a fourth one comes.
    let more = filled(&[9]);
    futures.push(engine.submit(&ask("m", &more)).unwrap());
    slow.set(Hooks::new());
    for (future, data) in futures.into_iter().zip([&each[0], &each[2], &each[3], &more]) {
        assert_rows(data, &future.wait().unwrap());
    }
    assert_eq!(by_rows(&sums(&engine)), [(4, 1)]);
}

/// Rows of so many bytes that they are copied by a thread of their own.
const WIDE: usize = 128 << 10;

fn wide(fill: u8) -> Vec<u8> {
    vec![fill; WIDE]
}

fn ask_wide(data: &[u8]) -> InferRequest<'_> {
    let shape = Shape::from([data.len() / WIDE, WIDE]);
    InferRequest::new("m", vec![InputTensor { name: "x", dtype: DType::U8, shape, data }])
}

fn assert_wide(data: &[u8], response: &InferResponse) {
    assert!(response.output_at(0).data == expected_rows(data, WIDE), "rows that begin with {}", data[0]);
}

#[test]
fn nobody_waits_while_a_large_batch_is_copied() {
    let slow = Slow::new();
    let engine = slow.engine();
    engine.load_source(key("m"), joined(4, 60_000_000, ModelSettings::default()), Rows::wide(WIDE)).unwrap();
    engine.load_source(key("rt"), ModelSettings::real_time(Level::TOP), Rows::new(1)).unwrap();
    let ((copies, copying), (go, goes)) = (channel(), channel::<()>());
    let goes = std::sync::Mutex::new(goes);
    slow.set(Hooks {
        allocates: std::sync::Arc::new(move || {
            if std::thread::current().name() == Some("reef-copies") {
                copies.send(()).unwrap();
                let _ = goes.lock().unwrap().recv();
            }
        }),
        ..Hooks::new()
    });
    let each: Vec<Vec<u8>> = (1..5).map(wide).collect();
    let futures: Vec<_> = each.iter().map(|data| engine.submit(&ask_wide(data)).unwrap()).collect();
    copying.recv_timeout(Duration::from_secs(60)).expect("it is copied elsewhere");
    let urgent = filled(&[9]);
    for _ in 0..10 {
        assert_rows(&urgent, &engine.infer(&ask("rt", &urgent)).unwrap());
        assert_rows(&urgent, &engine.submit(&ask("rt", &urgent)).unwrap().wait().unwrap());
    }
    // Who leaves meanwhile is answered, and the others get their rows.
    let mut futures = futures.into_iter().zip(&each);
    let (first, _) = futures.next().unwrap();
    first.cancel();
    assert_eq!(first.wait().unwrap_err(), InferError::Cancelled);
    drop(go);
    futures.for_each(|(future, data)| assert_wide(data, &future.wait().unwrap()));
    slow.set(Hooks::new());
}

#[test]
fn large_batches_end_once_whatever_becomes_of_the_engine() {
    for round in 0..20 {
        let slow = Slow::new();
        let engine = slow.engine();
        engine.load_source(key("m"), joined(4, 0, ModelSettings::default()), Rows::wide(WIDE)).unwrap();
        let each: Vec<Vec<u8>> = (1..25).map(wide).collect();
        let futures: Vec<_> = each.iter().map(|data| engine.submit(&ask_wide(data)).unwrap()).collect();
        match round % 4 {
            0 => {}
            1 => slow.poison("planted"),
            2 => engine.shutdown(Duration::from_millis(round / 4)),
            _ => drop(engine),
        }
        let results = futures.into_iter().zip(&each).map(|(future, data)| match future.wait() {
            Ok(response) => assert_wide(data, &response),
            Err(error) => {
                let ends = [InferError::DeviceFault, InferError::ShuttingDown, InferError::Cancelled];
                assert!(round % 4 != 0 && ends.contains(&error), "{round}: {error}");
            }
        });
        assert_eq!(results.count(), 24);
    }
}

#[test]
fn a_task_that_is_refused_for_good_answers_each() {
    let slow = Slow::new();
    let engine = slow.engine();
    engine.load_source(key("m"), joined(2, 60_000_000, ModelSettings::default()), Rows::new(1)).unwrap();
    slow.set(Hooks { rejects: Some(RejectReason::SchemeRefuses), ..Hooks::new() });
    let data = filled(&[1]);
    let futures = [0, 1].map(|_| engine.submit(&ask("m", &data)).unwrap());
    for future in futures {
        assert!(matches!(future.wait().unwrap_err(), InferError::NotServed { .. }));
    }
    slow.set(Hooks::new());
    let futures = [0, 1].map(|_| engine.submit(&ask("m", &data)).unwrap());
    futures.into_iter().for_each(|future| assert_rows(&data, &future.wait().unwrap()));
    assert!(engine.is_idle());
}

#[test]
fn a_device_that_fails_answers_each_member() {
    let engine = served(joined(8, 0, ModelSettings::default()));
    let data = filled(&[1]);
    let mut all: Vec<_> = (0..6).map(|_| engine.submit(&ask("m", &data)).unwrap()).collect();
    engine.run_until(Nanos(15 * US));
    assert!(ended(&mut all[0]).unwrap().is_ok());
    engine.device().poison("planted");
    engine.run_until(Nanos(20 * US));
    for future in &mut all[1..] {
        assert_eq!(ended(future).unwrap().unwrap_err(), InferError::DeviceFault);
    }
    assert!(engine.is_idle());
}

#[test]
fn unloading_and_shutting_down_wait_for_no_company() {
    let unloaded = |queued| {
        let engine = served(joined(8, 1_000_000, ModelSettings::default()));
        let data = filled(&[1]);
        let all: Vec<_> = (0..3).map(|_| engine.submit(&ask("m", &data)).unwrap()).collect();
        engine.unload("m", None, queued).unwrap();
        let ends = all.into_iter().map(|future| future.wait().map(|_| ()));
        (ends.collect::<Vec<_>>(), engine.now().0)
    };
    assert_eq!(unloaded(Queued::Finish), (vec![Ok(()); 3], 20 * US));
    assert_eq!(unloaded(Queued::Refuse), (vec![Err(InferError::Unloading(key("m"))); 3], 0));
    let engine = served(joined(8, 1_000_000, ModelSettings::default()));
    let data = filled(&[1]);
    let all: Vec<_> = (0..3).map(|_| engine.submit(&ask("m", &data)).unwrap()).collect();
    engine.shutdown(Duration::from_secs(1));
    all.into_iter().for_each(|future| assert_rows(&data, &future.wait().unwrap()));
    assert_eq!(engine.now(), Nanos(20 * US));
}

/// Of plans whose buffers are large few are kept; those that batches run are.
#[test]
fn plans_of_large_batches_leave_those_of_small_ones() {
    let engine = stepped();
    let settings = joined(256, 0, ModelSettings::default());
    engine.load_source(key("m"), settings, Rows::wide(2 << 20)).unwrap();
    let data = vec![1; 2 << 20];
    let tensor =
        InputTensor { name: "x", dtype: DType::U8, shape: Shape::from([1, data.len()]), data: &data };
    engine.infer(&InferRequest::new("m", vec![tensor])).unwrap();
    assert_eq!(engine.models()[0].plans.len(), 9, "1, 2, 4, …, 256");
}

#[test]
fn replicas_join_each_its_own() {
    let engine = dummies(2);
    let settings =
        ModelSettings { placement: Placement::Replicate, ..joined(4, 0, ModelSettings::default()) };
    engine.load_source(key("m"), settings, Rows::new(10)).unwrap();
    let each: Vec<Vec<u8>> = (0..20).map(|fill| filled(&[fill])).collect();
    let all: Vec<_> = each.iter().map(|data| engine.submit(&ask("m", data)).unwrap()).collect();
    for (future, data) in all.into_iter().zip(&each) {
        assert_rows(data, &future.wait().unwrap());
    }
    let stats = engine.stats().models.remove(0);
    for device in &stats.devices {
        assert!(by_rows(&device.best_effort).contains(&(4, 2)), "{:?}", device.best_effort);
    }
    assert_eq!(stats.best_effort.inferences, 20);
}

/// Clients that cancel, hurry and leave, beside a model that is not joined.
#[test]
fn a_storm_of_joined_requests_loses_nothing() {
    let engine = cpu();
    let settings = ModelSettings { in_flight_max: None, ..joined(8, 200, real_time(1)) };
    engine.load_source(key("m"), settings, Rows::new(3)).unwrap();
    load(&engine, "be", ModelSettings::default(), 5);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..8u64 {
            let (engine, done) = (&engine, &done);
            scope.spawn(move || {
                let mut rng = Rng::new(client);
                for round in 0..150u64 {
                    let rows = 1 + rng.below(5) as usize;
                    let data =
                        filled(&(0..rows).map(|row| (client + round) as u8 + row as u8).collect::<Vec<_>>());
                    let mut request = ask("m", &data);
                    match rng.below(6) {
                        0 => request.deadline = Some(Nanos::from_micros(rng.below(2000))),
                        1 => request.timeout = Some(Nanos::from_micros(rng.below(500))),
                        2 => request.class = Some(ClassRequest::BestEffort),
                        _ => {}
                    }
                    let Ok(future) = engine.submit(&request) else { continue };
                    match rng.below(5) {
                        0 => drop(future),
                        1 => {
                            future.cancel();
                            if let Ok(response) = future.wait() {
                                assert_rows(&data, &response);
                            }
                        }
                        _ => match future.wait() {
                            Ok(response) => {
                                assert_rows(&data, &response);
                                done.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(
                                InferError::DeadlinePassed
                                | InferError::DeadlineUnreachable { .. }
                                | InferError::Timeout,
                            ) => {}
                            Err(error) => panic!("{error}"),
                        },
                    }
                }
            });
        }
        let bytes = [1; 64];
        for _ in 0..50 {
            engine.infer(&request("be", &bytes)).unwrap();
        }
    });
    assert!(done.load(Ordering::Relaxed) > 100);
    engine.shutdown(Duration::from_secs(60));
    assert!(engine.is_idle());
    let stats = sums(&engine);
    assert_eq!((stats.queued, stats.on_board), (0, 0));
}
