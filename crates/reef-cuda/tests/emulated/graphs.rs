//! Kernels that are launched together, as graphs: what the scheme `concurrent` does.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use reef_base::TaskKey;
use reef_compile::{CompileOptions, compile, samples};
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::conformance::Harness;
use reef_device::{Device, DeviceError, LoadedPlan, Outcome, Padding, Scheme};
use reef_graph::{DType, Graph, Op, Shape, Tensor, Unary};
use reef_plan::{Plan, Precision, SyntheticStage, synthetic_output, synthetic_plan};

use super::hosting::{filled, real_time};
use super::{next_completion, start, started};

/// GPUs that are `concurrent` whatever is asked for.
struct Together;

impl Harness for Together {
    fn device(&self, cus: usize, _scheme: Scheme) -> Arc<dyn Device> {
        Arc::new(started(cus, CudaOptions { scheme: Scheme::Concurrent, ..CudaOptions::default() }))
    }

    fn padded(&self, cus: usize, scheme: Scheme, _padding: Padding) -> Arc<dyn Device> {
        self.device(cus, scheme)
    }

    fn not_promised(&self) -> &[(&str, &str)] {
        const URGENT: &str = "nobody is more urgent than another";
        const WHOLE: &str = "blocks of a graph are told of together";
        &[
            ("urgent_tasks_end_first", URGENT),
            ("reset_kills_and_wait_does_not", URGENT),
            ("a_narrow_stage_disturbs_few_units", URGENT),
            ("finished_blocks_are_not_run_again", URGENT),
            ("sequential_runs_to_the_end", URGENT),
            ("rt_only_refuses_best_effort", URGENT),
            ("units_that_a_stage_leaves_are_padded_and_nothing_is_lost", URGENT),
            ("fitting_padding_ends_before_the_stage_does", URGENT),
            ("whose_blocks_are_killed_does_not_go_first_for_ever", URGENT),
            ("owners_share_units_and_one_owner_goes_in_order", URGENT),
            ("owners_share_units_by_weight_however_long_their_blocks_are", URGENT),
            ("events_tell_every_block", WHOLE),
            ("what_is_in_the_way_starts_and_polls_once_more_at_most", WHOLE),
        ]
    }
}

reef_device::conformance_suite!(
    Together,
    #[ignore = "needs the emulated driver: cargo xtask cuda"]
);

fn concurrent(cus: usize) -> CudaDevice {
    *start(cus, Scheme::Concurrent)
}

/// How far results of tf32 may be off, as a share of the largest value.
const TOLERANCE: f64 = 2e-3;
/// Names the file in which the emulated driver notes launches.
const LAUNCHES: &str = "REEF_EMULATOR_LAUNCHES";

/// Runs this test once more, in a process whose driver notes launches; the file, where that is this process.
fn noting(test: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(LAUNCHES) {
        return Some(path.into());
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("launches-{}", std::process::id()));
    let mut again = Command::new(std::env::current_exe().expect("this program has a file"));
    let again = again.args(["--exact", test, "--include-ignored"]).env(LAUNCHES, &path);
    let output = again.output().expect("it starts again");
    assert!(path.exists(), "the driver noted nothing: {}", String::from_utf8_lossy(&output.stdout));
    std::fs::remove_file(&path).expect("it is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    None
}

/// Kernels of the device in each graph of a plan, and its host steps.
fn parts(plan: &Plan) -> (Vec<usize>, usize) {
    let graphs = plan.kernels().split(reef_cuda::runs_on_host).map(<[_]>::len).filter(|&kernels| kernels > 0);
    (graphs.collect(), plan.kernels().iter().filter(|kernel| reef_cuda::runs_on_host(kernel)).count())
}

/// Each task is as many graphs as its host steps part it in, and marks behind copies; no kernel of a plan is
/// launched by itself.
#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_task_is_a_graph_and_no_launches_of_kernels() {
    let Some(file) = noting("graphs::a_task_is_a_graph_and_no_launches_of_kernels") else { return };
    let device = concurrent(3);
    let cutter = device.cutter(Some(Precision::Tf32));
    let stages = [SyntheticStage { blocks: 3, polls: 1, poll_ns: 1_000 }; 40];
    let synthetic = synthetic_plan("synthetic", device.capabilities().target, 1, &stages).unwrap();
    let samples = samples::all();
    let compiled = samples.iter().map(|sample| Arc::new(sample.plan(&*cutter).expect("samples compile")));
    let (mut seen, mut parted, mut shared) = (0, 0, 0);
    let of = samples.iter().map(Some).chain([None]);
    for (plan, sample) in compiled.chain([Arc::new(synthetic)]).zip(of) {
        let inputs: &[Tensor] = sample.map_or(&[], |sample| &sample.inputs);
        let loaded = match device.load(plan.clone()) {
            Err(DeviceError::Unsupported { .. }) => continue,
            loaded => loaded.expect("there is memory"),
        };
        for _ in 0..2 {
            let mut io = device.alloc_io(loaded).expect("the plan is loaded");
            for (buffer, tensor) in io.inputs.iter_mut().zip(inputs) {
                buffer.as_mut_slice().copy_from_slice(tensor.bytes().as_slice());
            }
            let before = std::fs::read_to_string(&file).unwrap_or_default();
            device.submit(loaded, real_time(), io, 0).expect("the board has room");
            let done = next_completion(&device);
            assert_eq!(done.outcome, Outcome::Done, "{}", plan.name());
            // Also the second time: what blocks share is as good as new.
            let checked = sample.map_or(Ok(()), |sample| sample.check_within(&done.io.outputs, TOLERANCE));
            assert_eq!(checked, Ok(()), "{}", plan.name());
            let noted = std::fs::read_to_string(&file).expect("the driver notes launches");
            let noted: Vec<&str> = noted[before.len()..].lines().collect();
            let (graphs, hosted) = parts(&plan);
            let launched = noted.iter().filter_map(|line| line.strip_prefix("graph "));
            let launched: Vec<usize> = launched.map(|nodes| nodes.parse().unwrap()).collect();
            // One node tells the host; one may clear what blocks share.
            let more: Vec<usize> = launched.iter().zip(&graphs).map(|(nodes, own)| nodes - own).collect();
            assert_eq!(launched.len(), graphs.len(), "{}: {noted:?}", plan.name());
            assert!(more.iter().all(|more| [1, 2].contains(more)), "{}: {noted:?}", plan.name());
            let marks = noted.iter().filter(|&&line| line == "kernel reef_queue_mark").count();
            assert_eq!((marks, marks + launched.len()), (1 + 2 * hosted, noted.len()), "{noted:?}");
            seen += 1;
            parted += usize::from(graphs.len() > 1);
            shared += usize::from(more.contains(&2));
        }
        device.unload(loaded);
    }
    assert!(seen > 20 && parted > 0 && shared > 0, "{seen}, {parted}, {shared}");
}

/// A row of each of two tables, for two indices.
fn two_rows(device: &CudaDevice) -> (LoadedPlan, Vec<String>) {
    let mut graph = Graph::default();
    for name in ["one", "other"] {
        let table = graph.add_const(name, Tensor::f32(Shape::from([9, 2]), &[1.5; 18]));
        let pick = graph.add_input(format!("{name} pick"), DType::I64, Shape::from([1]));
        let shape = Shape::from([1, 2]);
        let row = graph.add_node(name, Op::Gather { axis: 0 }, &[table, pick], DType::F32, shape);
        graph.add_output(format!("{name} row"), row);
    }
    let plan = compile(&graph, &[], &Arc::default(), &*device.cutter(None), &CompileOptions::default());
    let plan = Arc::new(plan.expect("it compiles"));
    let names = plan.kernels().iter().map(|kernel| kernel.name.to_string()).collect();
    (device.load(plan).expect("the plan loads"), names)
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn the_first_kernel_of_a_graph_that_fails_is_named_with_its_value() {
    let device = concurrent(2);
    let (plan, names) = two_rows(&device);
    assert_eq!(names.len(), 2);
    for (picks, fails) in [([3, 4], None), ([3, 90], Some(1)), ([70, 4], Some(0)), ([71, 91], Some(0))]
        .into_iter()
        .cycle()
        .take(20)
    {
        let mut io = device.alloc_io(plan).expect("the plan is loaded");
        for (input, pick) in io.inputs.iter_mut().zip(picks) {
            input.as_mut_slice().copy_from_slice(&i64::to_le_bytes(pick));
        }
        device.submit(plan, real_time(), io, 0).expect("the board has room");
        match (next_completion(&device).outcome, fails) {
            (Outcome::Done, None) => {}
            (Outcome::Failed(fault), Some(at)) => {
                let value: i64 = picks[at];
                assert_eq!(fault.kernel, names[at]);
                assert!(fault.reason.contains(&format!("index {value},")), "{}", fault.reason);
            }
            (outcome, _) => panic!("{picks:?}: {outcome:?}"),
        }
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_cancelled_task_leaves_its_graph_early_and_the_next_one_runs_whole() {
    let device = concurrent(1);
    let stages = [SyntheticStage { blocks: 2, polls: 1, poll_ns: 1_000_000 }; 400];
    let long = synthetic_plan("long", device.capabilities().target, 1, &stages).unwrap();
    let long = device.load(Arc::new(long)).expect("the plan loads");
    let short = Arc::new(synthetic_plan("short", device.capabilities().target, 2, &stages[..3]).unwrap());
    let loaded = device.load(short.clone()).expect("the plan loads");
    for round in 0..3 {
        let task = device.submit(long, TaskKey::best_effort(0), filled(&device, long, 1), 1).unwrap();
        std::thread::sleep(Duration::from_millis(5 * round));
        device.cancel(task);
        let done = next_completion(&device);
        assert_eq!((done.token, done.outcome), (1, Outcome::Cancelled));
        assert!(done.counters.blocks_done < 800, "{}", done.counters.blocks_done);
        // In the same slot.
        let input = filled(&device, loaded, round as u8);
        let expected = synthetic_output(&short, input.inputs[0].as_slice());
        device.submit(loaded, TaskKey::best_effort(0), input, 2).unwrap();
        let done = next_completion(&device);
        assert_eq!((done.outcome, done.counters.blocks_done), (Outcome::Done, short.blocks()));
        assert_eq!(done.io.outputs[0].as_slice(), expected);
    }
}

/// A plan that negates so many numbers.
fn negation(device: &CudaDevice, count: usize) -> LoadedPlan {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DType::F32, Shape::from([count]));
    let y = graph.add_node("y", Op::Unary(Unary::Neg), &[x], DType::F32, Shape::from([count]));
    graph.add_output("y", y);
    let plan = compile(&graph, &[], &Arc::default(), &*device.cutter(None), &CompileOptions::default());
    device.load(Arc::new(plan.expect("it compiles"))).expect("the plan loads")
}

/// The memory of slots moves when a plan comes that needs more, and graphs go with it; those that are there
/// before the scheme comes to need them are made then.
#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn graphs_follow_the_memory_of_their_slots() {
    for scheme in [Scheme::Concurrent, Scheme::Reset] {
        let device = start(2, scheme);
        let mut plans: Vec<(LoadedPlan, usize)> = Vec::new();
        for count in [100, 10_000, 70_000] {
            plans.push((negation(&device, count), count));
            device.set_scheme(Scheme::Concurrent);
            for round in 0..2 {
                for &(plan, _) in &plans {
                    // In several slots at a time.
                    for token in 0..3 {
                        let mut io = device.alloc_io(plan).unwrap();
                        io.inputs[0].typed_mut::<f32>().fill((round + token) as f32);
                        device.submit(plan, TaskKey::best_effort(0), io, token).unwrap();
                    }
                    for _ in 0..3 {
                        let mut done = next_completion(&device);
                        let y = -((round + done.token) as f32);
                        assert_eq!(done.outcome, Outcome::Done);
                        assert!(done.io.outputs[0].typed_mut::<f32>().iter().all(|&value| value == y));
                    }
                }
            }
            device.set_scheme(scheme);
        }
    }
}
