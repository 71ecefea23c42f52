//! Kernels that are launched together.

use super::*;

#[test]
fn under_concurrent_what_is_between_host_steps_is_one_launch() {
    let mut rig = Rig::new(Scheme::Concurrent);
    rig.graphs = true;
    rig.submit(TaskKey::best_effort(0), &[4, 2, HOST, 1, 3, 1], 1);
    rig.act();
    assert_eq!(rig.log, [Action::Graph { slot: 0, kernel: 0, number: 1, first: true }]);
    rig.run(0, 6);
    assert_eq!(rig.board.counters.blocks_done, 6);
    rig.act();
    rig.run(0, 1);
    rig.act();
    rig.host_ends(0, None);
    rig.act();
    rig.run(0, 1);
    rig.log.clear();
    rig.act();
    // The copies of its outputs follow at once.
    let graph = Action::Graph { slot: 0, kernel: 3, number: 5, first: false };
    assert_eq!(rig.log, [graph, Action::Finish { slot: 0, number: 6 }]);
    (0..2).for_each(|_| rig.run(0, 5));
    let (token, outcome, counters) = rig.done().expect("it ended");
    assert_eq!((token, outcome, counters.blocks_done), (1, Outcome::Done, 12));
    // Ten each time: kernels of three blocks on average on two units, of two blocks on two.
    assert_eq!(counters.cu_time, Nanos(40));
    // Other schemes, and plans without graphs, go kernel by kernel.
    for (scheme, graphs) in [(Scheme::Wait, true), (Scheme::Reset, true), (Scheme::Concurrent, false)] {
        let mut rig = Rig::new(scheme);
        rig.graphs = graphs;
        rig.submit(TaskKey::best_effort(0), &[4, 2], 1);
        rig.act();
        assert_eq!(rig.log[..2], [launched(0, 0, 1, true), launched(0, 1, 2, false)]);
    }
}

#[test]
fn a_graph_is_evicted_with_its_task_only() {
    let mut rig = Rig::new(Scheme::Concurrent);
    rig.graphs = true;
    let task = rig.submit(TaskKey::best_effort(0), &[4, 2, HOST, 3], 1);
    rig.act();
    // Another scheme comes while it runs: that goes for what is queued from now on.
    rig.board.scheme = Scheme::Reset;
    rig.submit(real_time(0), &[2], 2);
    rig.log.clear();
    rig.act();
    assert_eq!(rig.log, [launched(1, 0, 2, true), Action::Finish { slot: 1, number: 3 }]);
    (0..2).for_each(|_| rig.run(1, 2));
    assert_eq!(rig.done().map(|done| done.0), Some(2));
    rig.board.cancel(task, Nanos::ZERO);
    rig.log.clear();
    rig.act();
    assert_eq!((rig.done(), &rig.log[..]), (None, &[Action::Evict(0)][..]));
    // Five of its blocks had started.
    rig.run(0, 5);
    let (token, outcome, counters) = rig.done().expect("it ended");
    assert_eq!((token, outcome, counters.blocks_done), (1, Outcome::Cancelled, 5));
}

#[test]
fn a_kernel_that_fails_in_a_graph_fails_its_task() {
    let mut rig = Rig::new(Scheme::Concurrent);
    rig.graphs = true;
    rig.submit(TaskKey::best_effort(0), &[1, 1], 1);
    rig.act();
    let ended = Ended { skipped: 0, fault: None, begun: Nanos(1), ended: Nanos(2) };
    let fault = HostFault::of_input("gather", "index 9");
    assert_eq!(rig.board.ended(0, Ended { fault: Some(fault.clone()), ..ended.clone() }, Nanos(2)), None);
    assert_eq!(rig.done(), None);
    rig.board.ended(0, ended, Nanos(3));
    assert_eq!(rig.done().map(|done| done.1), Some(Outcome::Failed(fault)));
}
