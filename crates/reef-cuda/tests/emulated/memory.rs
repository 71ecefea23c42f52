//! The device's memory: what is loaded and unloaded while others are served, and what does not fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reef_base::{Domain, TaskKey};
use reef_compile::{CompileOptions, compile};
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::{Device, DeviceError, LoadedPlan, MemoryUse, Outcome, Scheme};
use reef_graph::{DType, Graph, Op, Shape, Tensor};
use reef_plan::Plan;

use super::hosting::{filled, gated, native, real_time};
use super::{has_separate_allocations, next_completion, start, started};

/// Numbers of a row of a table.
const WIDTH: usize = 64;
/// Rows of a mebibyte.
const ROWS: usize = (1 << 20) / (4 * WIDTH);

/// A device with so many mebibytes.
fn with_memory(mebibytes: u64) -> CudaDevice {
    started(2, CudaOptions { memory_bytes: Some(mebibytes << 20), ..CudaOptions::default() })
}

/// A plan that picks a row of a constant table: number `at` of it is `first + at`.
fn table(device: &CudaDevice, rows: usize, first: f32) -> Arc<Plan> {
    let mut graph = Graph::default();
    let values: Vec<f32> = (0..rows * WIDTH).map(|at| first + at as f32).collect();
    let table = graph.add_const("table", Tensor::f32(Shape::from([rows, WIDTH]), &values));
    let pick = graph.add_input("pick", DType::I64, Shape::from([1]));
    let shape = Shape::from([1, WIDTH]);
    let row = graph.add_node("row", Op::Gather { axis: 0 }, &[table, pick], DType::F32, shape);
    graph.add_output("y", row);
    let options = CompileOptions { name: format!("a table of {rows} rows") };
    let plan = compile(&graph, &[], &Arc::default(), &*device.cutter(None), &options);
    Arc::new(plan.expect("it compiles"))
}

/// Picks a row.
fn pick(device: &CudaDevice, plan: LoadedPlan, row: usize) -> Vec<f32> {
    let mut io = device.alloc_io(plan).expect("the plan is loaded");
    io.inputs[0].as_mut_slice().copy_from_slice(&(row as i64).to_le_bytes());
    device.submit(plan, real_time(), io, 1).expect("the board has room");
    let mut done = next_completion(device);
    assert_eq!(done.outcome, Outcome::Done);
    done.io.outputs[0].typed_mut::<f32>().to_vec()
}

fn row(first: f32, row: usize) -> Vec<f32> {
    (0..WIDTH).map(|at| first + (row * WIDTH + at) as f32).collect()
}

fn books(device: &CudaDevice) -> MemoryUse {
    device.memory()[0]
}

/// Loads tables of so many mebibytes until there is no room: the tables, and why there are no more.
fn fill(device: &CudaDevice, mebibytes: usize) -> (Vec<LoadedPlan>, DeviceError) {
    let mut loaded = Vec::new();
    loop {
        match device.load(table(device, mebibytes * ROWS, loaded.len() as f32)) {
            Ok(plan) => loaded.push(plan),
            Err(error) => return (loaded, error),
        }
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn what_is_unloaded_leaves_no_trace() {
    let device = with_memory(24);
    assert_eq!(books(&device).limit, Some(24 << 20));
    device.unload(device.load(table(&device, 1, 0.0)).unwrap());
    // The slots stay as they are.
    let empty = books(&device);
    let mut counts = Vec::new();
    for _ in 0..3 {
        let (loaded, error) = fill(&device, 3);
        let DeviceError::OutOfMemory { needed, available, .. } = error else { panic!("{error}") };
        assert!(needed > available && available == 24 << 20, "{needed} of {available}");
        let full = books(&device);
        assert!(full.weights >= (loaded.len() as u64 * 3) << 20);
        for (number, &plan) in loaded.iter().enumerate() {
            assert_eq!(pick(&device, plan, 3 * ROWS - 1), row(number as f32, 3 * ROWS - 1));
        }
        // Nothing that did not fit is left behind.
        assert!(device.load(table(&device, 3 * ROWS, 9.0)).unwrap_err().is_out_of_memory());
        assert_eq!(books(&device), full);
        counts.push(loaded.len());
        loaded.into_iter().for_each(|plan| device.unload(plan));
        while books(&device) != empty {
            // The feeder still hands back the last one.
            std::thread::yield_now();
        }
    }
    assert_eq!(counts, [7; 3]);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn memory_in_pieces_is_told_from_memory_that_is_not_there() {
    if has_separate_allocations() {
        // The driver's pieces are the driver's.
        return;
    }
    let device = with_memory(16);
    let (loaded, error) = fill(&device, 1);
    assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
    loaded.iter().step_by(2).for_each(|&plan| device.unload(plan));
    let before = books(&device);
    let large = table(&device, 3 * ROWS, 0.5);
    let error = device.load(large.clone()).unwrap_err();
    let DeviceError::Fragmented { needed, free, largest, .. } = error else { panic!("{error}") };
    assert!(needed >= 3 << 20 && free >= needed && largest < needed, "{needed}, {free}, {largest}");
    assert_eq!(books(&device), before);
    let kept: Vec<LoadedPlan> = loaded.iter().skip(1).step_by(2).copied().collect();
    for (number, &plan) in kept.iter().enumerate() {
        assert_eq!(pick(&device, plan, 5), row((2 * number + 1) as f32, 5));
    }
    kept.into_iter().for_each(|plan| device.unload(plan));
    let plan = device.load(large).expect("pieces become one again");
    assert_eq!(pick(&device, plan, 3 * ROWS - 1), row(0.5, 3 * ROWS - 1));
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn real_time_tasks_go_on_while_a_large_plan_is_loaded() {
    /// Of those that begin after a load has begun, and end before it has ended.
    const ENOUGH: u64 = 20;
    let device = with_memory(140);
    let native = native(&device);
    let large = table(&device, 100 * ROWS, 1.0);
    let mut beside = 0;
    for load in 1.. {
        assert!(load < 50, "{beside} tasks beside {load} loads");
        let over = AtomicBool::new(false);
        let plan = std::thread::scope(|scope| {
            let loads = scope.spawn(|| {
                let plan = device.load(large.clone());
                over.store(true, Ordering::Release);
                plan.expect("there is room")
            });
            while !over.load(Ordering::Acquire) {
                let io = device.alloc_io(native).expect("the plan is loaded");
                device.submit(native, real_time(), io, 1).expect("the board has room");
                assert_eq!(next_completion(&device).outcome, Outcome::Done);
                beside += u64::from(!over.load(Ordering::Acquire));
            }
            loads.join().expect("it loads")
        });
        assert_eq!(pick(&device, plan, 100 * ROWS - 1), row(1.0, 100 * ROWS - 1));
        device.unload(plan);
        if beside >= ENOUGH {
            break;
        }
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn slots_grow_while_tasks_have_them() {
    let device = start(1, Scheme::Reset);
    let (hosted, gate) = gated(&device);
    device.submit(hosted, TaskKey::best_effort(0), filled(&device, hosted, 9), 7).unwrap();
    gate.until_running();
    let before = books(&device).working;
    let mut graph = Graph::default();
    let x = graph.add_input("x", DType::F32, Shape::from([70_000]));
    let op = Op::Unary(reef_graph::Unary::Neg);
    let y = graph.add_node("y", op, &[x], DType::F32, Shape::from([70_000]));
    graph.add_output("y", y);
    let plan = compile(&graph, &[], &Arc::default(), &*device.cutter(None), &CompileOptions::default());
    let larger = device.load(Arc::new(plan.unwrap())).unwrap();
    assert!(books(&device).working >= before + 2 * 280_000);
    // In every slot, that of the first task included.
    for round in 0..20u8 {
        let mut io = device.alloc_io(larger).unwrap();
        io.inputs[0].typed_mut::<f32>().fill(f32::from(round));
        device.submit(larger, TaskKey::best_effort(1), io, 1).unwrap();
        if round == 10 {
            gate.open();
        }
        let mut done = next_completion(&device);
        if done.token == 7 {
            assert_eq!(done.io.outputs[0].as_slice(), [9; 100]);
            done = next_completion(&device);
        }
        assert!(done.io.outputs[0].typed_mut::<f32>().iter().all(|&y| y == -f32::from(round)));
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn buffers_are_pinned_zero_and_as_many_as_are_asked_for() {
    let device = start(1, Scheme::Reset);
    let mut graph = Graph::default();
    let x = graph.add_input("x", DType::F32, Shape::from([1 << 18]));
    let y = graph.add_node("y", Op::Unary(reef_graph::Unary::Abs), &[x], DType::F32, Shape::from([1 << 18]));
    graph.add_output("y", y);
    let plan = compile(&graph, &[], &Arc::default(), &*device.cutter(None), &CompileOptions::default());
    let plan = device.load(Arc::new(plan.unwrap())).unwrap();
    for _ in 0..3 {
        // Twice a mebibyte each: more than the device starts with.
        let mut all: Vec<_> = (0..40).map(|_| device.alloc_io(plan).unwrap()).collect();
        for buffer in all.iter_mut().flat_map(|io| io.inputs.iter_mut().chain(&mut io.outputs)) {
            assert_eq!(
                (buffer.domain(), buffer.len(), buffer.as_slice().as_ptr().addr() % 64),
                (Domain::Pinned, 1 << 20, 0)
            );
            assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
            buffer.as_mut_slice().fill(7);
        }
    }
}
