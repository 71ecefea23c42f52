//! The executor under loom: the real device, its submitters' and its units' steps, on one or two slots and
//! units. Only its threads are the model's, its kernels write cells that loom watches, and time stands still.

use loom::thread;

use reef_device::{Device, Io, LoadedPlan, RejectReason, Route, Scheme};
use reef_plan::Restart;

use super::*;
use crate::by_hand::{HOUR, Hands, best_effort, insert_kernels, real_time};
use crate::context::{BlockContext, BlockEnd};
use crate::kernels::BlockKernel;
use crate::seat::Seat;
use crate::sync::UnsafeCell;
use crate::worker::Worker;

/// What the blocks of a task write, by stage and block: 1 once a block has ended.
struct Tiles([[UnsafeCell<u64>; 2]; 2]);

// SAFETY: loom reports a race.
#[allow(unsafe_code)]
unsafe impl Sync for Tiles {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Send for Tiles {}

impl Tiles {
    fn new() -> Arc<Tiles> {
        let stage = || [UnsafeCell::new(0), UnsafeCell::new(0)];
        Arc::new(Tiles([stage(), stage()]))
    }

    #[allow(unsafe_code)]
    fn read(&self, stage: usize, block: usize) -> u64 {
        // SAFETY: loom reports a race.
        self.0[stage][block].with(|tile| unsafe { *tile })
    }

    #[allow(unsafe_code)]
    fn write(&self, stage: usize, block: usize, value: u64) {
        // SAFETY: loom reports a race.
        self.0[stage][block].with_mut(|tile| unsafe { *tile = value });
    }

    /// How many blocks have ended since the last time.
    fn take(&self) -> u64 {
        let mut sum = 0;
        for stage in 0..2 {
            for block in 0..2 {
                sum += self.read(stage, block);
                self.write(stage, block, 0);
            }
        }
        sum
    }
}

/// Reads what the stage before wrote, polls, and writes its tile.
struct Watched {
    tiles: Arc<Tiles>,
    stage: usize,
    /// Blocks of the stage before.
    before: u32,
}

#[allow(unsafe_code)]
impl BlockKernel for Watched {
    unsafe fn run(&self, context: &BlockContext<'_>, block: u32) -> BlockEnd {
        for before in 0..self.before as usize {
            assert_eq!(self.tiles.read(self.stage - 1, before), 1, "its inputs are there");
        }
        self.tiles.write(self.stage, block as usize, 2);
        if context.poll.stop() {
            return BlockEnd::Killed;
        }
        self.tiles.write(self.stage, block as usize, 1);
        BlockEnd::Done
    }
}

fn load(hands: &Hands, stages: &[u32], tiles: &Arc<Tiles>) -> LoadedPlan {
    insert_kernels(&hands.executor, stages, Restart::Safe, |stage| {
        let before = if stage == 0 { 0 } else { stages[stage - 1] };
        Box::new(Watched { tiles: tiles.clone(), stage, before })
    })
}

fn check(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.max_branches = 20_000;
    model.check(test);
}

/// Runs at most `count` blocks.
fn work(worker: &mut Worker, count: usize) {
    for _ in 0..count {
        worker.work_once();
    }
}

/// The task's completion, which is the only one; the task ran all of its `blocks` or was ended early.
fn ended(hands: &Hands, task: TaskId, tiles: &Tiles, blocks: u64) -> Completion {
    let completion = hands.completion();
    assert_eq!(completion.task, task);
    let ran = tiles.take();
    if completion.outcome == Outcome::Done {
        assert_eq!((completion.counters.blocks_done, ran), (blocks, blocks));
    }
    completion
}

/// The slot, and all that a task leaves in it, is as if there had been none before.
fn runs_as_if_alone(hands: &mut Hands, cu: usize, plan: LoadedPlan, tiles: &Tiles, blocks: u64) {
    let (_, task) = hands.submit(plan, best_effort(), 9);
    hands.work(cu);
    let completion = ended(hands, task, tiles, blocks);
    assert_eq!((completion.outcome, completion.token), (Outcome::Done, 9));
    let counters = completion.counters;
    assert_eq!((counters.blocks_done, counters.blocks_killed, counters.kills_caused), (blocks, 0, 0));
    assert!(hands.device.try_complete().is_none() && hands.executor.board.active() == 0);
}

#[test]
fn loom_a_task_that_is_cancelled_while_it_comes_and_runs_ends_once() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 2, Scheme::Reset), Tiles::new());
        let plan = load(&hands, &[1, 1], &tiles);
        let mut worker = hands.workers.pop().expect("there are two");
        let thread = thread::spawn(move || {
            work(&mut worker, 2);
            worker
        });
        let (_, task) = hands.submit(plan, best_effort(), 1);
        hands.device.cancel(task);
        thread.join().unwrap();
        hands.work(0);
        ended(&hands, task, &tiles, 2);
        runs_as_if_alone(&mut hands, 0, plan, &tiles, 2);
    });
}

/// Runs a unit, until it finds nothing, in a thread of the model.
fn spawn(hands: &mut Hands, count: usize) -> thread::JoinHandle<Worker> {
    let mut worker = hands.workers.pop().expect("there is one left");
    thread::spawn(move || {
        work(&mut worker, count);
        worker
    })
}

#[test]
fn loom_a_task_that_is_killed_for_another_goes_on_behind_it() {
    check(|| {
        let (mut hands, lesser, urgent) = (Hands::small(2, 1, Scheme::Reset), Tiles::new(), Tiles::new());
        let plan = load(&hands, &[1, 1], &lesser);
        let (_, first) = hands.submit(plan, best_effort(), 1);
        let plan = load(&hands, &[1], &urgent);
        let thread = spawn(&mut hands, 2);
        let (_, second) = hands.submit(plan, real_time(0), 2);
        hands.workers.push(thread.join().unwrap());
        hands.work(0);
        let (ends, mut killed) = ([hands.completion(), hands.completion()], [0; 2]);
        for end in &ends {
            assert_eq!(end.outcome, Outcome::Done);
            match end.task == first {
                true => killed[0] += end.counters.blocks_killed,
                false => killed[1] += end.counters.kills_caused,
            }
        }
        assert!(ends.iter().any(|end| end.task == second));
        assert_eq!(killed[0], killed[1], "a kill is told to both");
        assert_eq!((lesser.take(), urgent.take()), (2, 1));
        runs_as_if_alone(&mut hands, 0, plan, &urgent, 1);
    });
}

/// With a real-time key, who opens a stage keeps its block.
#[test]
fn loom_two_units_and_a_canceller_settle_a_task_once() {
    for key in [best_effort(), real_time(0)] {
        check(move || {
            let (mut hands, tiles) = (Hands::small(1, 2, Scheme::Reset), Tiles::new());
            let plan = load(&hands, &[2, 1], &tiles);
            let (_, task) = hands.submit(plan, key, 1);
            let thread = spawn(&mut hands, 2);
            work(&mut hands.workers[0], 1);
            hands.device.cancel(task);
            hands.workers.push(thread.join().unwrap());
            hands.work(0);
            hands.work(1);
            ended(&hands, task, &tiles, 3);
            runs_as_if_alone(&mut hands, 0, plan, &tiles, 3);
        });
    }
}

/// From the first plan to the second.
struct To(LoadedPlan, LoadedPlan);

impl Route for To {
    fn next(&self, done: LoadedPlan, _: &mut Io) -> Option<LoadedPlan> {
        (done == self.0).then_some(self.1)
    }
}

/// Submits a task that goes from one plan to the other.
fn submit_along(hands: &Hands, plans: [LoadedPlan; 2], key: TaskKey) -> TaskId {
    let io = hands.device.alloc_io(plans[0]).unwrap();
    let route = Arc::new(To(plans[0], plans[1]));
    hands.device.submit_along(plans[0], key, io, 1, route).unwrap()
}

#[test]
fn loom_a_cancel_is_not_lost_where_a_task_goes_on_with_another_plan() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 2, Scheme::Reset), Tiles::new());
        let plans = [load(&hands, &[1], &tiles), load(&hands, &[1], &tiles)];
        let task = submit_along(&hands, plans, best_effort());
        let thread = spawn(&mut hands, 1);
        hands.device.cancel(task);
        thread.join().unwrap();
        // Nobody runs the second plan: the cancellation came before its end.
        let completion = hands.completion();
        assert_eq!((completion.task, completion.outcome), (task, Outcome::Cancelled));
        tiles.take();
        runs_as_if_alone(&mut hands, 0, plans[1], &tiles, 1);
        plans.into_iter().for_each(|plan| hands.device.unload(plan));
        assert_eq!(Arc::strong_count(&tiles), 1, "no reference to a plan is left");
    });
}

#[test]
fn loom_a_task_on_its_way_along_a_route_does_not_outlive_poison() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 2, Scheme::Reset), Tiles::new());
        let plans = [load(&hands, &[1], &tiles), load(&hands, &[1], &tiles)];
        submit_along(&hands, plans, best_effort());
        let thread = spawn(&mut hands, 1);
        hands.device.poison("planted");
        thread.join().unwrap();
        assert_eq!(hands.completion().outcome, Outcome::DeviceFault);
        assert_eq!(hands.executor.board.active(), 0);
    });
}

#[test]
fn loom_a_task_that_comes_while_the_device_is_poisoned_ends() {
    check(|| {
        let (hands, tiles) = (Hands::small(1, 1, Scheme::Reset), Tiles::new());
        let plan = load(&hands, &[1], &tiles);
        let io = hands.device.alloc_io(plan).unwrap();
        let executor = hands.executor.clone();
        let thread = thread::spawn(move || executor.poison("planted"));
        let submitted = hands.device.submit(plan, best_effort(), io, 1);
        thread.join().unwrap();
        match submitted {
            Ok(task) => {
                let completion = hands.completion();
                assert_eq!((completion.task, completion.outcome), (task, Outcome::DeviceFault));
            }
            Err(rejected) => assert_eq!(rejected.why, RejectReason::Closed),
        }
        assert_eq!(hands.executor.board.active(), 0);
    });
}

/// The plan goes with the unloading, or with the last completion, and nobody is at it then.
#[test]
fn loom_a_plan_that_is_unloaded_stays_until_the_last_completion() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 1, Scheme::Reset), Tiles::new());
        let plan = load(&hands, &[1], &tiles);
        hands.submit(plan, best_effort(), 1);
        let mut worker = hands.workers.pop().unwrap();
        let executor = hands.executor.clone();
        let thread = thread::spawn(move || {
            worker.work_once();
            drop(executor.pop_completion().expect("the task has ended"));
        });
        hands.device.unload(plan);
        assert!(hands.device.alloc_io(plan).is_none());
        thread.join().unwrap();
        assert_eq!(Arc::strong_count(&tiles), 1, "the plan's kernels are gone");
        assert_eq!(tiles.take(), 1);
    });
}

/// Who fetches a completion is done with its slot when somebody else has a task in it.
#[test]
fn loom_a_slot_is_empty_before_it_is_free() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 1, Scheme::Reset), Tiles::new());
        let plan = load(&hands, &[1], &tiles);
        let (_, task) = hands.submit(plan, best_effort(), 1);
        hands.work(0);
        tiles.take();
        let mut worker = hands.workers.pop().unwrap();
        let hands = Arc::new(hands);
        let other = hands.clone();
        let thread = thread::spawn(move || {
            let io = other.device.alloc_io(plan).unwrap();
            other.device.submit(plan, best_effort(), io, 2)
        });
        let completion = hands.completion();
        assert_eq!((completion.task, completion.token), (task, 1));
        match thread.join().unwrap() {
            Ok(next) => {
                worker.work_once();
                let completion = ended(&hands, next, &tiles, 1);
                assert_eq!((completion.outcome, completion.token), (Outcome::Done, 2));
            }
            Err(rejected) => assert_eq!(rejected.why, RejectReason::BoardFull),
        }
    });
}

/// A slot's next task is another one to who cancels the last one late.
#[test]
fn loom_a_late_cancel_spares_the_next_task_of_the_slot() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 1, Scheme::Reset), Tiles::new());
        let plan = load(&hands, &[1], &tiles);
        let (_, task) = hands.submit(plan, best_effort(), 1);
        hands.work(0);
        let executor = hands.executor.clone();
        let thread = thread::spawn(move || executor.cancel(task));
        ended(&hands, task, &tiles, 1);
        let (_, next) = hands.submit(plan, best_effort(), 2);
        hands.work(0);
        let completion = ended(&hands, next, &tiles, 1);
        assert_eq!((completion.outcome, completion.counters.blocks_done), (Outcome::Done, 1));
        thread.join().unwrap();
    });
}

/// Nor does it hide that the next one is cancelled, too, which goes on with another plan meanwhile.
#[test]
fn loom_a_late_cancel_does_not_hide_the_next_one() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 1, Scheme::Reset), Tiles::new());
        let plans = [load(&hands, &[1], &tiles), load(&hands, &[1], &tiles)];
        let (_, task) = hands.submit(plans[1], best_effort(), 1);
        hands.work(0);
        let executor = hands.executor.clone();
        let canceller = thread::spawn(move || executor.cancel(task));
        ended(&hands, task, &tiles, 1);
        let next = submit_along(&hands, plans, best_effort());
        let unit = spawn(&mut hands, 1);
        hands.device.cancel(next);
        unit.join().unwrap();
        canceller.join().unwrap();
        let completion = hands.completion();
        assert_eq!((completion.task, completion.outcome), (next, Outcome::Cancelled));
    });
}

/// Always fails.
struct Failing;

#[allow(unsafe_code)]
impl BlockKernel for Failing {
    unsafe fn run(&self, _: &BlockContext<'_>, _block: u32) -> BlockEnd {
        BlockEnd::Failed(BlockFault::Divisor { kernel: "planted".into(), operator: "Div" })
    }
}

/// Two blocks fail, while the task is cancelled: the first reason stays unless a graver one comes, and no
/// fault is left for the slot's next task.
#[test]
fn loom_a_fault_is_told_once_and_does_not_stay() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 2, Scheme::Reset), Tiles::new());
        let failing = insert_kernels(&hands.executor, &[2], Restart::Safe, |_| Box::new(Failing));
        let (_, task) = hands.submit(failing, best_effort(), 1);
        let thread = spawn(&mut hands, 1);
        work(&mut hands.workers[0], 1);
        hands.device.cancel(task);
        thread.join().unwrap();
        hands.work(0);
        let completion = hands.completion();
        let told =
            matches!(&completion.outcome, Outcome::Failed(fault) if fault.to_string().contains("planted"));
        assert!(told || completion.outcome == Outcome::Cancelled, "{:?}", completion.outcome);
        assert!(hands.executor.slots[0].fault.lock().unwrap().is_none());
        let plan = load(&hands, &[1], &tiles);
        runs_as_if_alone(&mut hands, 0, plan, &tiles, 1);
    });
}

/// A task at a time: who elects the next one and who ends the last one, or has it go on with another plan,
/// leave no dead one elected.
#[test]
fn loom_no_dead_task_stays_elected() {
    for along in [false, true] {
        check(move || {
            let (mut hands, tiles) = (Hands::small(2, 2, Scheme::Sequential), Tiles::new());
            let plans = [load(&hands, &[1], &tiles), load(&hands, &[1], &tiles)];
            match along {
                true => submit_along(&hands, plans, best_effort()),
                false => hands.submit(plans[0], best_effort(), 1).1,
            };
            let thread = spawn(&mut hands, 2);
            work(&mut hands.workers[0], 2);
            hands.workers.push(thread.join().unwrap());
            hands.work(0);
            assert_eq!(hands.completion().outcome, Outcome::Done);
            assert_eq!(hands.executor.current.load(Ordering::SeqCst), 0);
            tiles.take();
            runs_as_if_alone(&mut hands, 0, plans[0], &tiles, 1);
        });
    }
}

/// Who cancels a task that was never elected has not looked at who is, and a unit may be electing it.
#[test]
fn loom_a_task_that_is_cancelled_does_not_stay_elected() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 1, Scheme::Sequential), Tiles::new());
        let plan = load(&hands, &[1], &tiles);
        let (_, task) = hands.submit(plan, best_effort(), 1);
        let thread = spawn(&mut hands, 1);
        hands.device.cancel(task);
        hands.workers.push(thread.join().unwrap());
        ended(&hands, task, &tiles, 1);
        assert_eq!(hands.executor.current.load(Ordering::SeqCst), 0);
        runs_as_if_alone(&mut hands, 0, plan, &tiles, 1);
    });
}

/// A waker that was made somewhere, and how often it was called and how often that ended well: the executor
/// survives its panics, also those that loom reports races with.
struct Bell(UnsafeCell<u64>, Plain, Plain);

// SAFETY: loom reports a race.
#[allow(unsafe_code)]
unsafe impl Sync for Bell {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Send for Bell {}

impl Wake for Bell {
    #[allow(unsafe_code)]
    fn wake(&self) {
        self.1.fetch_add(1, Ordering::Relaxed);
        // SAFETY: loom reports a race.
        assert_eq!(self.0.with(|value| unsafe { *value }), 7);
        self.2.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
#[allow(unsafe_code)]
fn loom_who_calls_the_waker_sees_it() {
    check(|| {
        let hands = Hands::small(1, 1, Scheme::Reset);
        let executor = hands.executor.clone();
        let thread = thread::spawn(move || executor.call_waker());
        let bell = Arc::new(Bell(UnsafeCell::new(0), Plain::new(0), Plain::new(0)));
        // SAFETY: nobody else has it.
        bell.0.with_mut(|value| unsafe { *value = 7 });
        hands.device.set_waker(bell.clone());
        thread.join().unwrap();
        assert_eq!(bell.1.load(Ordering::Relaxed), bell.2.load(Ordering::Relaxed));
    });
}

/// Has the units run in threads of the model, as a device that was started has them.
fn start(hands: &mut Hands) {
    for worker in hands.workers.drain(..) {
        hands.device.threads.push(thread::spawn(move || Seat::new(worker).occupy()));
    }
}

/// Unparks the thread that waits for completions.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

/// Waits until a task is over; loom reports it if nobody is left to wake this thread.
fn wait(hands: &Hands) -> Completion {
    loop {
        match hands.device.try_complete() {
            Some(completion) => return completion,
            None => thread::park(),
        }
    }
}

#[test]
fn loom_a_task_wakes_its_unit_and_its_end_who_waits_and_the_unit_leaves() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 1, Scheme::Reset), Tiles::new());
        hands.device.set_waker(Arc::new(Unpark(thread::current())));
        let plan = load(&hands, &[1], &tiles);
        start(&mut hands);
        let (_, task) = hands.submit(plan, best_effort(), 1);
        let completion = wait(&hands);
        assert_eq!((completion.task, completion.outcome), (task, Outcome::Done));
        assert_eq!(tiles.take(), 1);
        drop(hands);
        assert_eq!(Arc::strong_count(&tiles), 1, "everything is gone");
    });
}

/// A guest comes to the seat of a unit whose thread is there, too, beside work that is none of the guest's.
#[test]
fn loom_beside_a_guest_no_work_waits_for_ever() {
    check(|| {
        let (mut hands, lesser, own) = (Hands::small(2, 1, Scheme::Reset), Tiles::new(), Tiles::new());
        hands.device.set_waker(Arc::new(Unpark(thread::current())));
        let plans = [load(&hands, &[1], &lesser), load(&hands, &[1], &own)];
        let executor = hands.executor.clone();
        let seat = Seat::new(hands.workers.pop().expect("there is one"));
        let unit = seat.clone();
        hands.device.threads.push(thread::spawn(move || unit.occupy()));
        let guest = executor.board.take_parked_one(0);
        hands.submit(plans[1], real_time(0), 2);
        hands.submit(plans[0], best_effort(), 1);
        if guest {
            seat.visit(&executor, 0, 0, &|| false);
        }
        let ends = [wait(&hands), wait(&hands)];
        assert!(ends.iter().all(|end| end.outcome == Outcome::Done));
        drop(hands);
        assert_eq!((lesser.take(), own.take()), (1, 1));
    });
}

/// A unit that expects a guest parks first and then says that the task is over: that is not lost, nor the
/// work that whoever hears of it brings.
#[test]
fn loom_who_expects_a_guest_says_what_is_over_and_finds_what_comes() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 1, Scheme::Reset), Tiles::new());
        hands.device.set_waker(Arc::new(Unpark(thread::current())));
        let plan = load(&hands, &[1], &tiles);
        let executor = hands.executor.clone();
        let seat = Seat::new(hands.workers.pop().expect("there is one"));
        let unit = seat.clone();
        executor.cus[0].expect_guest();
        hands.submit(plan, real_time(0), 1);
        hands.device.threads.push(thread::spawn(move || unit.occupy()));
        assert_eq!(wait(&hands).outcome, Outcome::Done);
        assert_eq!(tiles.take(), 1);
        let guest = executor.board.take_parked_one(0);
        hands.submit(plan, real_time(0), 2);
        if guest {
            seat.visit(&executor, 0, 0, &|| false);
        }
        assert_eq!(wait(&hands).outcome, Outcome::Done);
        drop(hands);
        assert_eq!(tiles.take(), 1);
    });
}

/// Work that comes while a guest leaves is found by it or by the unit.
#[test]
fn loom_work_that_comes_while_a_guest_leaves_is_found() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 1, Scheme::Reset), Tiles::new());
        hands.device.set_waker(Arc::new(Unpark(thread::current())));
        let plan = load(&hands, &[1], &tiles);
        let executor = hands.executor.clone();
        let seat = Seat::new(hands.workers.pop().expect("there is one"));
        executor.board.announce_park(0);
        assert!(executor.board.take_parked_one(0));
        let (visited, own) = (seat.clone(), executor.clone());
        let guest = thread::spawn(move || visited.visit(&own, 0, 0, &|| true));
        hands.submit(plan, best_effort(), 1);
        guest.join().unwrap();
        // The unit's thread, from where it sleeps.
        if executor.board.is_parked(0) {
            panic!("nobody woke it");
        }
        hands.device.threads.push(thread::spawn(move || seat.occupy()));
        assert_eq!(wait(&hands).outcome, Outcome::Done);
        drop(hands);
        assert_eq!(tiles.take(), 1);
    });
}

/// Says how many blocks run: in an atomic, as cells alone give loom no reason to stop a thread.
struct Busy(Arc<AtomicU64>);

#[allow(unsafe_code)]
impl BlockKernel for Busy {
    unsafe fn run(&self, _: &BlockContext<'_>, _block: u32) -> BlockEnd {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.0.fetch_sub(1, Ordering::Relaxed);
        BlockEnd::Done
    }
}

#[test]
fn loom_in_a_quiesced_device_no_block_runs_and_none_is_lost() {
    check(|| {
        let (mut hands, busy) = (Hands::small(1, 1, Scheme::Reset), Arc::new(AtomicU64::new(0)));
        hands.device.set_waker(Arc::new(Unpark(thread::current())));
        let kernel = |_| Box::new(Busy(busy.clone())) as Box<dyn BlockKernel>;
        let plan = insert_kernels(&hands.executor, &[1, 1], Restart::Safe, kernel);
        start(&mut hands);
        hands.submit(plan, best_effort(), 1);
        assert!(hands.device.quiesce(HOUR.into()));
        assert_eq!(busy.load(Ordering::Relaxed), 0);
        hands.device.resume();
        let completion = wait(&hands);
        assert_eq!((completion.outcome, completion.counters.blocks_done), (Outcome::Done, 2));
    });
}

/// What was killed on one unit is done by another, beside what is urgent.
#[test]
fn loom_two_units_run_what_is_urgent_and_what_was_killed() {
    check(|| {
        let (mut hands, lesser, urgent) = (Hands::small(2, 2, Scheme::Reset), Tiles::new(), Tiles::new());
        let plan = load(&hands, &[2], &lesser);
        hands.submit(plan, best_effort(), 1);
        let plan = load(&hands, &[2], &urgent);
        let thread = spawn(&mut hands, 2);
        hands.submit(plan, real_time(0), 2);
        work(&mut hands.workers[0], 1);
        hands.workers.push(thread.join().unwrap());
        hands.work(0);
        hands.work(1);
        let ends = [hands.completion(), hands.completion()];
        assert!(ends.iter().all(|end| end.outcome == Outcome::Done && end.counters.blocks_done == 2));
        let sum = |of: fn(&Completion) -> u64| ends.iter().map(of).sum::<u64>();
        assert_eq!(sum(|end| end.counters.blocks_killed), sum(|end| end.counters.kills_caused));
        assert_eq!((lesser.take(), urgent.take()), (2, 2));
    });
}

/// Another unit runs a killed block again, and the task is gone, before the one that gave it back goes on.
#[test]
fn loom_who_gives_a_block_back_is_done_with_its_task() {
    check(|| {
        let (mut hands, tiles) = (Hands::small(1, 2, Scheme::Reset), Tiles::new());
        let plan = load(&hands, &[1], &tiles);
        let (_, task) = hands.submit(plan, best_effort(), 1);
        // As a late canceller of the slot's last task leaves it.
        hands.executor.board.slots[0].cancel.store(1, Ordering::Relaxed);
        let thread = spawn(&mut hands, 1);
        work(&mut hands.workers[0], 1);
        let early = hands.device.try_complete();
        hands.workers.push(thread.join().unwrap());
        hands.work(0);
        let completion = early.unwrap_or_else(|| hands.completion());
        assert_eq!((completion.task, completion.outcome, tiles.take()), (task, Outcome::Done, 1));
        assert_eq!(completion.counters.blocks_killed, 1);
        runs_as_if_alone(&mut hands, 0, plan, &tiles, 1);
    });
}
