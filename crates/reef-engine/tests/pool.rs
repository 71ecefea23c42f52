//! Several devices in one engine: where models and requests go, what a fault of one device takes along, and
//! that every request ends once wherever it was.

mod doubles;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doubles::foreign::*;
use doubles::*;
use reef_base::Domain;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::Budget;
use reef_device::dummy::{DummyDevice, DummyOptions};
use reef_engine::*;
use reef_plan::synthetic_output;

fn replicated() -> ModelSettings {
    ModelSettings { placement: Placement::Replicate, ..ModelSettings::default() }
}

#[test]
fn wrong_pools_are_refused() {
    let refused = |devices: Vec<PoolDevice>| match Engine::over(devices, EngineOptions::default()) {
        Err(EngineError::Options(why)) => why,
        other => panic!("{other:?}"),
    };
    let dummy = || Arc::new(DummyDevice::new(DummyOptions::default())) as Arc<dyn Device>;
    assert_eq!(refused(vec![]), "0 devices, 1 to 16 are possible");
    let twice = || PoolDevice { name: "a".into(), device: dummy() };
    assert_eq!(refused(vec![twice(), twice()]), "device 1 needs a name that no other has, not 'a'");
    let nameless = PoolDevice { name: String::new(), device: dummy() };
    assert_eq!(refused(vec![nameless]), "device 0 needs a name that no other has, not ''");
    let live = LiveDummy::new(DummyOptions::default());
    let mixed = refused(named(vec![dummy(), live]));
    assert_eq!(mixed, "d:0 and d:1: one has virtual time, the other has not");
    let apart = refused(named(vec![dummy(), dummy()]));
    assert_eq!(apart, "d:0 and d:1: their virtual time is not of one clock");
}

#[test]
fn wrong_placements_are_refused() {
    let engine = dummies(2);
    let plan = plan(&engine, "m", 1, 2);
    let refused = |settings| engine.load_plan(key("m"), settings, plan.clone()).unwrap_err().to_string();
    let unknown = refused(on("d:2", ModelSettings::default()));
    assert_eq!(unknown, "settings of model m/1: there is no device 'd:2'; there are d:0, d:1");
    let twice = ModelSettings { devices: vec!["d:1".into(), "d:1".into()], ..replicated() };
    assert_eq!(refused(twice), "settings of model m/1: device 'd:1' is named twice");
    assert!(engine.models().is_empty());
}

#[test]
fn one_model_is_on_one_device_and_the_next_on_the_other() {
    let engine = dummies(2);
    let plans: Vec<_> =
        ["a", "b", "c"].map(|name| (name, load(&engine, name, ModelSettings::default(), 2))).into();
    load(&engine, "d", on("d:0", ModelSettings::default()), 2);
    let devices = |name| engine.model(name, None).unwrap().devices;
    assert_eq!(["a", "b", "c", "d"].map(|name| devices(name).concat()), ["d:0", "d:1", "d:0", "d:0"]);
    for (name, plan) in plans {
        let response = engine.infer(&request(name, &[9; 64])).unwrap();
        assert_exact(&plan, &[9; 64], &response);
        assert_eq!(*response.device, *devices(name)[0]);
        assert_eq!(engine.session(name, &SessionOptions::default()).unwrap().device(), devices(name)[0]);
    }
}

#[test]
fn a_burst_on_replicas_takes_half_the_time() {
    let burst = |engine: &Engine| {
        let plan = load(engine, "m", replicated(), 10);
        let begin = engine.now();
        let asked: Vec<_> = (0..16u8).map(|n| engine.submit(&request("m", &[n; 64])).unwrap()).collect();
        let mut devices = Vec::new();
        for (n, future) in asked.into_iter().enumerate() {
            let response = future.wait().unwrap();
            assert_exact(&plan, &[n as u8; 64], &response);
            devices.push(response.device.to_string());
        }
        (engine.now() - begin, devices)
    };
    let (alone, _) = burst(&dummies(1));
    let engine = dummies(2);
    let (both, devices) = burst(&engine);
    assert_eq!(devices.iter().filter(|device| *device == "d:0").count(), 8, "{devices:?}");
    assert!(both.0 * 2 <= alone.0 + alone.0 / 20, "{both} on two, {alone} on one");
    let stats = engine.stats();
    assert_eq!(stats.models[0].best_effort.success, 16);
    let each: Vec<u64> = stats.models[0].devices.iter().map(|device| device.best_effort.success).collect();
    assert_eq!((each, stats.device.completed), (vec![8, 8], 16));
    assert!(stats.devices.iter().all(|device| device.counters.completed == 8));
}

/// What is less urgent is displaced: it sends a real-time request nowhere else.
#[test]
fn a_real_time_request_goes_where_no_urgent_work_is() {
    let engine = dummies(2);
    load(&engine, "be", on("d:0", ModelSettings::default()), 60);
    load(&engine, "busy", on("d:1", real_time(0)), 60);
    let settings = ModelSettings { placement: Placement::Replicate, ..real_time(1) };
    load(&engine, "rt", settings, 2);
    for _ in 0..2 * reef_sched_samples() {
        engine.infer(&request("rt", &[1; 64])).unwrap();
    }
    let _be = engine.submit(&request("be", &[1; 64])).unwrap();
    let busy = engine.submit(&request("busy", &[1; 64])).unwrap();
    engine.step();
    let response = engine.infer(&request("rt", &[1; 64])).unwrap();
    assert_eq!((&*response.device, response.preempted), ("d:0", true));
    busy.wait().unwrap();
}

/// Measurements that an estimate needs.
fn reef_sched_samples() -> usize {
    8
}

#[test]
fn replicas_of_one_target_share_their_plans() {
    let engine = cpus(2);
    let source = AnyLength::new();
    engine.load_source(key("any"), replicated(), source.clone()).unwrap();
    let mut devices = HashSet::new();
    for _ in 0..20 {
        let response = engine.infer(&request("any", &[3; 128])).unwrap();
        assert_eq!(response.output("y").unwrap().data.len(), 128);
        devices.insert(response.device.to_string());
        if devices.len() == 2 {
            break;
        }
    }
    assert_eq!(devices.len(), 2, "both serve a shape that came later");
    assert_eq!(source.compiled.load(Ordering::SeqCst), 1, "it was compiled for once");
    assert_eq!(engine.stats().models[0].plans_compiled, 1);
}

#[test]
fn weights_of_replicas_are_in_memory_once() {
    let onnx = reef_zoo::build(reef_zoo::Model::Resnet18, &reef_zoo::Variant::tiny()).unwrap();
    let load = |engine: &Engine, settings| {
        let source = ModelSource::Bytes(onnx.clone());
        engine.load(ModelSpec { key: key("m"), source, settings }).unwrap();
        let sessions: Vec<_> =
            (0..4).map(|_| engine.session("m", &SessionOptions::default()).unwrap()).collect();
        let devices: HashSet<String> = sessions.iter().map(|session| session.device().into()).collect();
        // Packed constants by their address: those that plans share count once.
        let packed: HashMap<usize, usize> =
            sessions.iter().flat_map(|session| buffers(session.plan())).collect();
        let bytes: usize = packed.values().sum();
        let plans: HashSet<_> = sessions.iter().map(|session| Arc::as_ptr(session.plan())).collect();
        (devices.len(), plans.len(), bytes)
    };
    let (_, _, alone) = load(&cpus(1), ModelSettings::default());
    let engine = cpus(2);
    assert_eq!(load(&engine, replicated()), (2, 1, alone), "one plan, not a byte more");
    let info = engine.model("m", None).unwrap();
    assert_eq!((info.devices, info.plans.len()), (vec!["d:0".into(), "d:1".into()], 2));
    // Devices of different targets have plans of their own, with the same constants.
    let wide = CpuDevice::start(CpuOptions { cus: Some(2), ..CpuOptions::default() }).unwrap();
    let narrow = CpuDevice::start(CpuOptions { cus: Some(1), ..CpuOptions::default() }).unwrap();
    let uneven = Engine::over(named(vec![Arc::new(wide), Arc::new(narrow)]), EngineOptions::default());
    let (devices, plans, bytes) = load(&uneven.unwrap(), replicated());
    assert_eq!((devices, plans), (2, 2));
    assert_eq!(bytes, alone, "the packings are the same");
}

/// Devices of one memory have one budget: replicas' weights are in it once, and leave it with the model.
#[test]
fn weights_are_in_the_books_once() {
    let onnx = reef_zoo::build(reef_zoo::Model::Resnet18, &reef_zoo::Variant::tiny()).unwrap();
    let engine = |limit| {
        let budget = Budget::new(Domain::Host, limit);
        let device = || -> Arc<dyn Device> {
            let budget = Some(budget.clone());
            let options = CpuOptions { cus: Some(1), budget, ..CpuOptions::default() };
            Arc::new(CpuDevice::start(options).unwrap())
        };
        Engine::over(named(vec![device(), device()]), EngineOptions::default()).unwrap()
    };
    let load = |engine: &Engine, name: &str| {
        let source = ModelSource::Bytes(onnx.clone());
        engine.load(ModelSpec { key: key(name), source, settings: replicated() })
    };
    let used =
        |engine: &Engine| engine.stats().devices.iter().map(|device| device.memory[0]).collect::<Vec<_>>();
    let unbounded = engine(None);
    let info = load(&unbounded, "m").unwrap();
    let memory = used(&unbounded);
    assert_eq!(memory[0].weights, info.plans[0].weight_bytes as u64);
    assert_eq!(memory[0], memory[1], "it is one memory");
    unbounded.unload("m", None, Queued::Finish).unwrap();
    assert_eq!(used(&unbounded)[0].weights, 0);
    // One byte short of the weights of another model.
    let all = memory[0].weights + memory[0].working;
    let bounded = engine(Some(all + memory[0].weights - 1));
    load(&bounded, "m").unwrap();
    let refused = load(&bounded, "n").unwrap_err();
    assert!(refused.to_string().contains("weights, arenas, scratch and buffers"), "{refused}");
    assert_eq!(used(&bounded)[0].weights, memory[0].weights, "nothing of it stays");
    bounded.infer(&image(&bounded)).unwrap();
}

/// A request for the model `m` with zeros.
fn image(engine: &Engine) -> InferRequest<'static> {
    let input = engine.model("m", None).unwrap().inputs[0].clone();
    let shape = input.fixed_shape().unwrap();
    let data: &'static [u8] = vec![0; shape.elements() * input.dtype.bytes()].leak();
    let name: &'static str = input.name.leak();
    InferRequest::new("m", vec![InputTensor { name, dtype: input.dtype, shape, data }])
}

/// Address and bytes of every packed constant of a plan.
fn buffers(plan: &Plan) -> Vec<(usize, usize)> {
    let store = plan.store();
    let buffer = |weight: &reef_plan::WeightRef| {
        let bytes = store.get(weight.key, weight.packing).expect("the plan keeps it");
        (bytes.as_ptr() as usize, bytes.len())
    };
    plan.weights().iter().map(buffer).collect()
}

#[test]
fn a_poisoned_device_takes_its_own_requests_and_no_others() {
    let engine = cpus(2);
    let gate = Gate::shut();
    let foreign = Foreign { run: gate.hook(), ..Foreign::new() };
    let held = foreign.plan(engine.capabilities().target, 64);
    engine.load_plan(key("held"), on("d:1", ModelSettings::default()), held).unwrap();
    let there = load(&engine, "there", on("d:0", real_time(0)), 4);
    let both = load(&engine, "both", replicated(), 4);
    let lost: Vec<_> = (0..5).map(|_| engine.submit(&request("held", &[1; 64])).unwrap()).collect();
    gate.wait_for_one();
    poison(&engine, "d:1");
    for future in lost {
        assert_eq!(future.wait().unwrap_err(), InferError::DeviceFault);
    }
    assert!(engine.is_ready() && engine.fault().is_none());
    for _ in 0..10 {
        assert_exact(&there, &[2; 64], &engine.infer(&request("there", &[2; 64])).unwrap());
        let response = engine.infer(&request("both", &[3; 64])).unwrap();
        assert_exact(&both, &[3; 64], &response);
        assert_eq!(&*response.device, "d:0");
        assert_eq!(engine.infer(&request("held", &[1; 64])).unwrap_err(), InferError::DeviceFault);
    }
    let mut session = engine.session("both", &SessionOptions::default()).unwrap();
    assert_eq!(session.device(), "d:0");
    session.run().unwrap();
    // What is loaded from now on is placed where there is service.
    load(&engine, "late", ModelSettings::default(), 2);
    assert_eq!(engine.infer(&request("late", &[1; 64])).unwrap().device, "d:0".into());
    let nowhere = engine.load_plan(key("nowhere"), on("d:1", ModelSettings::default()), there);
    assert!(matches!(nowhere, Err(LoadError::Device { source: DeviceError::Poisoned(_), .. })));
    let devices = engine.devices();
    assert_eq!((devices[0].fault.as_deref(), devices[1].fault.as_deref()), (None, Some("planted")));
    for model in ["held", "both"] {
        engine.unload(model, None, Queued::Finish).unwrap();
    }
    gate.open();
    // The last device takes the engine along.
    poison(&engine, "d:0");
    assert_eq!(engine.wait_for_fault(), Some(InferError::DeviceFault));
    assert!(!engine.is_ready());
    engine.shutdown(Duration::from_secs(1));
}

/// Requests that wait for a plan on a device that fails are run elsewhere.
#[test]
fn what_had_not_begun_on_a_poisoned_device_goes_elsewhere() {
    let engine = cpus(2);
    let (gate, compiling) = (Gate::shut(), AnyLength::new());
    let hook = gate.hook();
    let slow = Scripted::new(move |bytes, cutter| {
        hook();
        compiling.compile(&[Shape::from([bytes])], cutter)
    });
    engine.load_source(key("any"), replicated(), slow).unwrap();
    let asked: Vec<_> =
        (0..12).map(|n| engine.submit(&request("any", &vec![1; 64 * (1 + n % 3)])).unwrap()).collect();
    gate.wait_for_one();
    let waiting: Vec<u64> =
        engine.stats().models[0].devices.iter().map(|device| device.best_effort.queued).collect();
    assert!(waiting.iter().all(|&queued| queued > 0), "they were shared: {waiting:?}");
    poison(&engine, "d:0");
    gate.open();
    for future in asked {
        assert_eq!(&*future.wait().unwrap().device, "d:1");
    }
    let stats = engine.stats();
    assert_eq!(stats.models[0].best_effort.success, 12);
    assert_eq!(stats.models[0].best_effort.failures, [0; 6], "and none was counted as failed");
}

#[test]
fn requests_are_cancelled_on_whichever_device_they_are() {
    let engine = cpus(2);
    let gate = Gate::shut();
    let foreign = Foreign { run: gate.hook(), ..Foreign::new() };
    let plan = foreign.plan(engine.capabilities().target, 64);
    engine.load_plan(key("m"), replicated(), plan).unwrap();
    let asked: Vec<_> = (0..20).map(|_| engine.submit(&request("m", &[1; 64])).unwrap()).collect();
    gate.wait_for_one();
    let per_device = || -> Vec<u64> {
        engine.stats().models[0].devices.iter().map(|device| device.best_effort.pending()).collect()
    };
    assert_eq!(per_device(), [10, 10]);
    for future in asked {
        future.cancel();
        assert_eq!(future.wait().unwrap_err(), InferError::Cancelled);
    }
    gate.open();
    while per_device().iter().sum::<u64>() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(engine.stats().models[0].best_effort.failed(FailureReason::Cancelled), 20);
}

#[test]
fn an_unload_and_a_shutdown_wait_for_every_device() {
    for queued in [Queued::Finish, Queued::Refuse] {
        let engine = cpus(2);
        let (m, n) = (load(&engine, "m", replicated(), 30), load(&engine, "n", replicated(), 30));
        let alive = Arc::downgrade(&m);
        let ask =
            |name| (0..30).map(|_| engine.submit(&request(name, &[5; 64])).unwrap()).collect::<Vec<_>>();
        let (ms, ns) = (ask("m"), ask("n"));
        let expected = synthetic_output(&m, &[5; 64]);
        drop(m);
        engine.unload("m", None, queued).unwrap();
        let mut done = 0;
        for future in ms {
            match future.wait() {
                Ok(response) => {
                    assert_eq!(response.output("y").unwrap().data, expected);
                    done += 1;
                }
                Err(error) => assert_eq!((error, queued), (InferError::Unloading(key("m")), Queued::Refuse)),
            }
        }
        assert!(queued == Queued::Refuse || done == 30);
        assert!(alive.upgrade().is_none(), "no device keeps a plan of it");
        engine.shutdown(Duration::from_secs(100));
        assert!(engine.is_idle());
        for future in ns {
            assert_exact(&n, &[5; 64], &future.wait().unwrap());
        }
        assert!(engine.wait_for_fault().is_none());
    }
}

#[test]
fn a_bug_takes_every_device_along() {
    let engine = cpus(2);
    let faulty = doubles::faulty::Faulty::new(|device, waker| device.set_waker(waker));
    drop(engine);
    let other = CpuDevice::start(CpuOptions { cus: Some(1), ..CpuOptions::default() }).unwrap();
    let devices = named(vec![faulty.clone(), Arc::new(other)]);
    let engine = Engine::over(devices, EngineOptions::default()).unwrap();
    let plan = plan_for(engine.device_named("d:1").unwrap().capabilities().target, "m", 1, 2);
    engine.load_plan(key("m"), on("d:1", ModelSettings::default()), plan).unwrap();
    engine.infer(&request("m", &[1; 64])).unwrap();
    faulty.plant(doubles::faulty::Place::SetScheme);
    let change = std::panic::AssertUnwindSafe(|| engine.set_scheme(Scheme::Wait));
    assert!(std::panic::catch_unwind(change).is_err());
    let fault = engine.wait_for_fault().unwrap();
    assert!(matches!(fault, InferError::EngineFailed(_)));
    assert_eq!(engine.infer(&request("m", &[1; 64])).unwrap_err(), fault);
    assert!(engine.devices().iter().all(|device| device.fault.is_some()));
}

#[test]
fn the_timeline_has_a_process_per_device() {
    let path = std::env::temp_dir().join(format!("reef-pool-{}.json", std::process::id()));
    let engine = dummies(2);
    load(&engine, "m", replicated(), 3);
    engine.start_trace(TraceOptions::new(&path)).unwrap();
    let asked: Vec<_> = (0..4).map(|_| engine.submit(&request("m", &[1; 64])).unwrap()).collect();
    asked.into_iter().for_each(|future| drop(future.wait().unwrap()));
    engine.stop_trace().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let names: Vec<_> = events.iter().filter(|event| event["name"] == "process_name").collect();
    let name = |process: u32| {
        let named = names.iter().find(|event| event["pid"] == process).expect("the process is named");
        named["args"]["name"].as_str().unwrap()
    };
    assert_eq!((name(1), name(2), name(3)), ("d:0: queued dummy", "requests", "d:1: queued dummy"));
    let blocks = |process: u32| events.iter().filter(|e| e["ph"] == "X" && e["pid"] == process).count();
    assert_eq!((blocks(1), blocks(3)), (2 * 13, 2 * 13));
    let unnamed = events.iter().filter(|event| event["args"]["model"] == "?").count();
    assert_eq!(unnamed, 0, "every block has its names");
    let spans: HashSet<String> =
        events.iter().filter(|event| event["ph"] == "b").map(|event| event["id"].to_string()).collect();
    assert_eq!(spans.len(), 4, "requests of different devices are told apart");
}
