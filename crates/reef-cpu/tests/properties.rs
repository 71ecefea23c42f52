//! Random plans, keys, schemes and cancellations: outputs are exact, every task ends once, nothing is lost.

mod rig;

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use reef_base::TaskKey;
use reef_device::{Device, Outcome, Scheme};
use rig::KernelShape;

#[derive(Clone, Debug)]
struct Step {
    plan: usize,
    /// Below 3 a real-time level, else best-effort.
    class: u8,
    /// Which earlier task to cancel afterwards.
    cancel: Option<usize>,
    /// Change to this scheme afterwards.
    scheme: Option<usize>,
}

fn kernel_shape() -> impl Strategy<Value = KernelShape> {
    let (often, rarely) = (prop::bool::weighted(0.9), prop::bool::weighted(0.15));
    (1usize..400, 16usize..200, 1u32..6, 0u32..3000, often, rarely).prop_map(
        |(bytes, tile_bytes, polls, poll_ns, restart, host)| KernelShape {
            bytes,
            tile_bytes,
            polls,
            poll_ns,
            restart,
            host,
        },
    )
}

fn stages() -> impl Strategy<Value = Vec<Vec<KernelShape>>> {
    prop::collection::vec(prop::collection::vec(kernel_shape(), 1..4), 1..6)
}

fn step() -> impl Strategy<Value = Step> {
    let scheme = prop::option::weighted(0.1, 1..Scheme::ALL.len());
    (0usize..3, 0u8..6, prop::option::weighted(0.2, 0usize..8), scheme)
        .prop_map(|(plan, class, cancel, scheme)| Step { plan, class, cancel, scheme })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn outputs_are_exact_and_every_task_ends_once(
        plans in prop::collection::vec(stages(), 3),
        steps in prop::collection::vec(step(), 1..60),
        cus in 1usize..=4,
        scheme in 1..Scheme::ALL.len(),
    ) {
        check(&plans, &steps, cus, Scheme::ALL[scheme]);
    }
}

fn check(plans: &[Vec<Vec<KernelShape>>], steps: &[Step], cus: usize, scheme: Scheme) {
    let device = rig::device(cus, scheme);
    let plans: Vec<_> = plans
        .iter()
        .enumerate()
        .map(|(index, stages)| {
            let plan = Arc::new(rig::plan(1000 * index as u64, stages));
            let loaded = device.load(plan.clone()).expect("the plan loads");
            (plan, loaded)
        })
        .collect();
    let mut expected = HashMap::new();
    let mut tasks = Vec::new();
    let mut cancelled = Vec::new();
    for (token, step) in steps.iter().enumerate() {
        let loaded = &plans[step.plan].1;
        let key = match step.class {
            level @ 0..3 => rig::real_time(level, token as u64),
            _ => TaskKey::best_effort(token as u64),
        };
        let mut io = rig::filled(&device, *loaded, token as u8);
        let task = loop {
            match device.submit(*loaded, key, io, token as u64) {
                Ok(task) => break task,
                Err(rejected) => {
                    io = rejected.io;
                    finish(&device, &mut expected, &cancelled, &plans, steps);
                }
            }
        };
        expected.insert(task, token);
        tasks.push(task);
        if let Some(back) = step.cancel
            && back < tasks.len()
        {
            let victim = tasks[tasks.len() - 1 - back];
            cancelled.push(victim);
            device.cancel(victim);
        }
        if let Some(scheme) = step.scheme {
            device.set_scheme(Scheme::ALL[scheme]);
        }
    }
    while !expected.is_empty() {
        finish(&device, &mut expected, &cancelled, &plans, steps);
    }
    assert!(device.try_complete().is_none(), "a task ended twice");
    let counters = device.counters();
    assert_eq!((counters.submitted, counters.completed), (steps.len() as u64, steps.len() as u64));
}

type Plans = [(Arc<reef_plan::Plan>, reef_device::LoadedPlan)];

fn finish(
    device: &reef_cpu::CpuDevice,
    expected: &mut HashMap<reef_base::TaskId, usize>,
    cancelled: &[reef_base::TaskId],
    plans: &Plans,
    steps: &[Step],
) {
    let done = rig::wait(device);
    let token = expected.remove(&done.task).expect("every task ends once");
    assert_eq!(done.token, token as u64);
    let plan = &plans[steps[token].plan].0;
    match done.outcome {
        Outcome::Done => {
            assert_eq!(done.io.outputs[0].as_slice(), rig::evaluate(plan, done.io.inputs[0].as_slice()));
            assert_eq!(done.counters.blocks_done, plan.blocks());
            let first = done.first_block.expect("blocks ran");
            assert!(done.submitted <= first && first <= done.finished);
        }
        Outcome::Cancelled => assert!(cancelled.contains(&done.task), "nobody cancelled task {}", done.task),
        other => panic!("task {} ended as {other:?}", done.task),
    }
}
