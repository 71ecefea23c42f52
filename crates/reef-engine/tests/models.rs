//! Models that come and go while others run, plans for new shapes, shutdown: on an engine with its threads.

mod doubles;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{Thread, scope};
use std::time::Duration;

use doubles::*;
use reef_base::limits;
use reef_engine::*;

/// The smallest runtime: polls on this thread and parks in between.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn many_clients_of_many_models_all_get_exact_answers_and_the_sums_add_up() {
    for scheme in [Scheme::Sequential, Scheme::Concurrent, Scheme::Wait] {
        let (engine, _device) = live();
        engine.set_scheme(scheme);
        serve_many(&engine);
    }
    for scheme in [Scheme::Sequential, Scheme::Concurrent, Scheme::Wait, Scheme::Reset] {
        let engine = cpu();
        engine.set_scheme(scheme);
        serve_many(&engine);
    }
}

fn serve_many(engine: &Engine) {
    let plans = [
        load(engine, "rt", real_time(0), 2),
        load(engine, "rt-low", real_time(3), 4),
        load(engine, "be", ModelSettings::default(), 8),
    ];
    scope(|scope| {
        for client in 0..6u8 {
            let (engine, plans) = (engine.clone(), &plans);
            scope.spawn(move || {
                for round in 0..40u8 {
                    let input = [client.wrapping_mul(40).wrapping_add(round); 64];
                    let which = usize::from((client + round) % 3);
                    let name = ["rt", "rt-low", "be"][which];
                    let future = engine.submit(&request(name, &input)).unwrap();
                    let response = if round % 2 == 0 { future.wait() } else { block_on(future) };
                    assert_exact(&plans[which], &input, &response.unwrap());
                }
            });
        }
    });
    let stats = engine.stats();
    let sum = |of: &dyn Fn(&ClassStats) -> u64| -> u64 {
        stats.models.iter().map(|model| of(&model.real_time) + of(&model.best_effort)).sum()
    };
    assert_eq!((sum(&|c| c.success), sum(&|c| c.executions), sum(&|c| c.pending())), (240, 240, 0));
    assert_eq!(sum(&|c| c.total.count), 240);
    assert_eq!(sum(&|c| c.cu_time.0), stats.device.busy.0);
    assert_eq!(sum(&|c| c.preemptions()), stats.device.preemptions);
    assert_eq!(sum(&|c| c.blocks_killed), stats.device.blocks_killed);
    for class in stats.models.iter().flat_map(|model| [&model.real_time, &model.best_effort]) {
        let parts = class.compute_input + class.queue + class.compute + class.compute_output;
        assert_eq!(parts, class.total.sum);
    }
}

#[test]
fn unloading_finishes_or_refuses_what_waits() {
    for (queued, finished) in [(Queued::Finish, 6), (Queued::Refuse, 2)] {
        let (engine, device) = live();
        let plan = load(&engine, "m", ModelSettings::default(), 5);
        load(&engine, "other", real_time(0), 1);
        device.hold(true);
        let input = [3u8; 64];
        let futures: Vec<_> = (0..6).map(|_| engine.submit(&request("m", &input)).unwrap()).collect();
        scope(|scope| {
            let unloading = scope.spawn(|| engine.unload("m", None, queued));
            while engine.model("m", None).is_some_and(|info| info.state == ModelState::Ready) {
                std::thread::yield_now();
            }
            let refused = engine.submit(&request("m", &input)).unwrap_err();
            assert_eq!(refused, InferError::NotReady(key("m")));
            device.hold(false);
            engine.infer(&request("other", &input)).unwrap();
            unloading.join().unwrap().unwrap();
        });
        let mut done = 0;
        for future in futures {
            match future.wait() {
                Ok(response) => {
                    assert_exact(&plan, &input, &response);
                    done += 1;
                }
                Err(error) => assert_eq!(error, InferError::Unloading(key("m"))),
            }
        }
        assert_eq!(done, finished);
        assert!(engine.model("m", None).is_none());
        assert!(matches!(engine.unload("m", None, queued), Err(LoadError::UnknownModel(_))));
        load(&engine, "m", ModelSettings::default(), 1);
        engine.infer(&request("m", &input)).unwrap();
    }
}

#[test]
fn unloading_under_rt_only_ends_what_is_not_served() {
    let (engine, device) = live();
    load(&engine, "be", ModelSettings::default(), 50);
    device.hold(true);
    let input = [3u8; 64];
    // Two on the board, two in the queue.
    let futures: Vec<_> = (0..4).map(|_| engine.submit(&request("be", &input)).unwrap()).collect();
    engine.set_scheme(Scheme::RtOnly);
    device.hold(false);
    engine.unload("be", None, Queued::Finish).unwrap();
    let refused = InferError::NotServed { scheme: Scheme::RtOnly, class: Class::BestEffort };
    for future in futures {
        assert_eq!(future.wait().unwrap_err(), refused);
    }
    assert!(engine.model("be", None).is_none());
}

#[test]
fn one_of_many_concurrent_loads_of_a_name_wins_while_others_run() {
    let (engine, _device) = live();
    let plan = load(&engine, "busy", ModelSettings::default(), 3);
    let input = [9u8; 64];
    let won = scope(|scope| {
        let loads: Vec<_> = (0..8)
            .map(|_| {
                let engine = engine.clone();
                scope.spawn(move || {
                    let plan = doubles::plan(&engine, "new", 1, 2);
                    engine.load_plan(key("new"), ModelSettings::default(), plan).is_ok()
                })
            })
            .collect();
        for _ in 0..20 {
            assert_exact(&plan, &input, &engine.infer(&request("busy", &input)).unwrap());
        }
        loads.into_iter().map(|load| load.join().unwrap()).filter(|&won| won).count()
    });
    assert_eq!(won, 1);
    engine.infer(&request("new", &input)).unwrap();
}

#[test]
fn new_shapes_are_compiled_once_and_old_ones_make_room() {
    let (engine, _device) = live();
    let source = AnyLength::new();
    engine.load_source(key("any"), ModelSettings::default(), source.clone()).unwrap();
    assert_eq!(source.compiled.load(Ordering::SeqCst), 0, "nothing is known at load");
    let exact = |bytes: usize, response: &InferResponse| {
        let plan = AnyLength::plan(bytes, engine.capabilities().target).unwrap();
        assert_eq!(response.output("y").unwrap().shape, &Shape::from([bytes]));
        assert_exact(&plan, &vec![1; bytes], response);
    };
    let input = vec![1u8; 128];
    let futures: Vec<_> = (0..16).map(|_| engine.submit(&request("any", &input)).unwrap()).collect();
    futures.into_iter().for_each(|future| exact(128, &future.wait().unwrap()));
    assert_eq!(source.compiled.load(Ordering::SeqCst), 1);
    for n in 1..=limits::PLANS_PER_MODEL_MAX + 6 {
        let input = vec![1u8; 64 * n];
        exact(64 * n, &engine.infer(&request("any", &input)).unwrap());
    }
    let info = engine.model("any", None).unwrap();
    assert_eq!(info.plans.len(), limits::PLANS_PER_MODEL_MAX);
    assert_eq!(info.inputs[0].dims, [-1]);
    assert_eq!(engine.stats().models[0].plans_compiled as usize, source.compiled.load(Ordering::SeqCst));
}

#[test]
fn shapes_that_cannot_be_compiled_are_refused_and_remembered() {
    let (engine, _device) = live();
    let source = AnyLength::new();
    let shapes = vec![vec![("x".to_string(), Shape::from([64]))]];
    let settings = ModelSettings { shapes, ..ModelSettings::default() };
    let info = engine.load_source(key("any"), settings.clone(), source.clone()).unwrap();
    assert_eq!(info.plans.len(), 1, "compiled ahead");
    for _ in 0..3 {
        let error = engine.infer(&request("any", &[0; 13])).unwrap_err();
        assert_eq!(error, InferError::Shapes("13 is not a multiple of 64".into()));
    }
    assert_eq!(source.compiled.load(Ordering::SeqCst), 2);
    let shapes = vec![vec![("x".to_string(), Shape::from([13]))]];
    let bad = engine.load_source(key("bad"), ModelSettings { shapes, ..settings }, AnyLength::new());
    assert!(matches!(bad, Err(LoadError::Compile { .. })));
    assert!(engine.model("bad", None).is_none());
}

#[test]
fn settings_and_files_that_are_wrong_are_named() {
    let (engine, _device) = live();
    let load = |settings| engine.load_source(key("m"), settings, AnyLength::new()).unwrap_err().to_string();
    let defaults = ModelSettings::default;
    assert!(load(ModelSettings { weight: 0, ..defaults() }).contains("weight"));
    assert!(load(ModelSettings { queue_len: 0, ..defaults() }).contains("queue length"));
    let shapes = |name: &str, shape: Shape| vec![vec![(name.to_string(), shape)]];
    let unknown = ModelSettings { shapes: shapes("q", Shape::from([64])), ..defaults() };
    assert!(load(unknown).contains("no input 'q'"));
    let rank = ModelSettings { shapes: shapes("x", Shape::from([6, 4])), ..defaults() };
    assert!(load(rank).contains("[6,4]"));
    let spec = |source| ModelSpec { key: key("m"), source, settings: defaults() };
    let missing = engine.load(spec(ModelSource::Path("/no/such/model.onnx".into())));
    assert!(matches!(missing, Err(LoadError::Read { .. })), "{missing:?}");
    let broken = engine.load(spec(ModelSource::Bytes(b"not a model".to_vec())));
    assert!(matches!(broken, Err(LoadError::Import { .. })), "{broken:?}");
    assert!(engine.models().is_empty(), "nothing stays of a failed load");
}

#[test]
fn shutdown_finishes_real_time_work_and_gives_up_the_rest() {
    let engine = stepped();
    let urgent = load(&engine, "rt", ModelSettings { in_flight_max: Some(1), ..real_time(0) }, 5);
    load(&engine, "be", ModelSettings::default(), 5000);
    let input = [5u8; 64];
    let best_effort: Vec<_> = (0..4).map(|_| engine.submit(&request("be", &input)).unwrap()).collect();
    engine.step();
    let real_time: Vec<_> = (0..4).map(|_| engine.submit(&request("rt", &input)).unwrap()).collect();
    engine.shutdown(Duration::ZERO);
    for future in real_time {
        assert_exact(&urgent, &input, &future.wait().unwrap());
    }
    for future in best_effort {
        assert_eq!(future.wait().unwrap_err(), InferError::ShuttingDown);
    }
    assert_eq!(engine.infer(&request("rt", &input)).unwrap_err(), InferError::ShuttingDown);
    let late = engine.load_source(key("late"), ModelSettings::default(), AnyLength::new());
    assert!(matches!(late, Err(LoadError::ShuttingDown)));
    assert!(!engine.is_ready());
    engine.shutdown(Duration::ZERO);
}

#[test]
fn shutdown_ends_every_request_while_clients_go_on_asking() {
    let (engine, _device) = live();
    let plan = load(&engine, "rt", real_time(0), 5);
    load(&engine, "be", ModelSettings::default(), 20);
    scope(|scope| {
        for client in 0..4u8 {
            let (engine, plan) = (engine.clone(), &plan);
            scope.spawn(move || {
                let (name, input) = (["rt", "be"][usize::from(client % 2)], [client; 64]);
                loop {
                    match engine.infer(&request(name, &input)) {
                        Ok(response) if name == "rt" => assert_exact(plan, &input, &response),
                        Ok(_) => {}
                        Err(error) => return assert_eq!(error, InferError::ShuttingDown),
                    }
                }
            });
        }
        while engine.stats().models.iter().any(|m| m.real_time.success + m.best_effort.success == 0) {
            std::thread::yield_now();
        }
        engine.shutdown(Duration::ZERO);
    });
    let stats = engine.stats();
    assert!(stats.models.iter().all(|model| model.real_time.pending() + model.best_effort.pending() == 0));
    let rejected = stats.models.iter().find(|model| model.key.name == "rt").unwrap();
    assert_eq!(rejected.real_time.executions, rejected.real_time.success, "real-time work was finished");
}

#[test]
fn shutdown_gives_best_effort_work_the_time_it_was_promised() {
    let engine = stepped();
    load(&engine, "be", ModelSettings::default(), 20);
    let futures: Vec<_> = (0..3).map(|_| engine.submit(&request("be", &[0; 64])).unwrap()).collect();
    engine.shutdown(Duration::from_secs(1));
    futures.into_iter().for_each(|future| assert!(future.wait().is_ok()));
}

/// The completion thread calls wakers; the shutdown inside waits for completions that only it fetches.
#[test]
fn the_last_engine_may_go_in_a_waker() {
    struct Last(Mutex<Option<Engine>>, Mutex<mpsc::Sender<()>>);
    impl Wake for Last {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
            self.1.lock().unwrap().send(()).unwrap();
        }
    }
    let (engine, device) = live();
    load(&engine, "short", real_time(0), 1);
    let long = load(&engine, "long", real_time(0), 100);
    device.hold(true);
    let input = [8u8; 64];
    let mut short = engine.submit(&request("short", &input)).unwrap();
    let other = engine.submit(&request("long", &input)).unwrap();
    let (sender, receiver) = mpsc::channel();
    let waker = Waker::from(Arc::new(Last(Mutex::new(Some(engine)), Mutex::new(sender))));
    assert!(pin!(&mut short).poll(&mut Context::from_waker(&waker)).is_pending());
    device.hold(false);
    receiver.recv_timeout(Duration::from_secs(60)).expect("the shutdown ends");
    assert_exact(&long, &input, &other.wait().unwrap());
    short.wait().unwrap();
}

#[test]
fn dropping_the_engine_ends_what_is_left() {
    let (engine, device) = live();
    load(&engine, "be", ModelSettings::default(), 20);
    device.hold(true);
    let waiting = engine.submit(&request("be", &[0; 64])).unwrap();
    let dropped: Vec<_> = (0..3).map(|_| engine.submit(&request("be", &[0; 64])).unwrap()).collect();
    drop(dropped);
    scope(|scope| {
        scope.spawn(|| drop(engine));
        device.hold(false);
        let ended = waiting.wait();
        assert!(matches!(ended, Ok(_) | Err(InferError::ShuttingDown)), "{ended:?}");
    });
}
