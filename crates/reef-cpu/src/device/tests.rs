//! What submitting and starting promise: nothing outlives poison, and blocks have the default float mode.

use std::sync::Mutex;

use reef_device::{Outcome, Padding};
use reef_plan::Restart;

use super::*;
use crate::by_hand::{Hands, best_effort, real_time};
use crate::context::BlockEnd;

/// The gate is looked at when a task is submitted; this one passed it, and was slow.
#[test]
fn a_task_that_is_published_after_the_poison_ends_with_it() {
    for gate in [Gate::Poisoned, Gate::Stopping] {
        let hands = Hands::reset(1);
        let plan = hands.load(&[3]);
        let (io, executor) = (hands.device.alloc_io(plan).unwrap(), &hands.executor);
        let loaded = executor.plans.acquire(plan).unwrap();
        let slot = executor.board.take_slot(false).unwrap();
        executor.shut_gate(gate);
        executor.close_all(Reason::DeviceFault);
        let (key, token, submitted) = (best_effort(), 5, now());
        hands.device.publish(slot, Request { plan, loaded, key, io, token, submitted, route: None });
        let done = hands.device.try_complete().expect("nobody will run it, so it is over");
        assert_eq!((done.outcome, done.token), (Outcome::DeviceFault, 5));
    }
}

#[test]
fn a_shut_gate_refuses_and_gives_the_buffers_back() {
    for gate in [Gate::Quiesced, Gate::Poisoned, Gate::Stopping] {
        let hands = Hands::reset(1);
        let plan = hands.load(&[1]);
        let io = hands.device.alloc_io(plan).unwrap();
        hands.executor.shut_gate(gate);
        let rejected = hands.device.submit(plan, real_time(0), io, 0).unwrap_err();
        assert_eq!((rejected.why, rejected.io.outputs.len()), (RejectReason::Closed, 1));
    }
}

/// Such a thread may hold a block, which then never ends: nobody may go on waiting for it.
#[test]
fn a_thread_that_panics_poisons_the_device() {
    let hands = Hands::reset(1);
    let plan = hands.load(&[3]);
    let io = hands.device.alloc_io(plan).unwrap();
    hands.device.submit(plan, best_effort(), io, 7).unwrap();
    crate::thread::poison_on_panic(&hands.executor, 0, || ());
    assert_eq!(hands.device.fault(), None);
    crate::thread::poison_on_panic(&hands.executor, 0, || panic!("planted"));
    assert_eq!(hands.device.fault().as_deref(), Some("the thread of compute unit 0 panicked: planted"));
    let done = hands.device.try_complete().expect("it had no block under way");
    assert_eq!((done.outcome, done.token), (Outcome::DeviceFault, 7));
}

#[test]
fn a_refused_task_keeps_no_reference_to_its_plan() {
    let hands = Hands::new(1, Scheme::Reset, Padding::default());
    let plan = hands.load(&[1]);
    let rejected = hands.device.submit(plan, best_effort(), Io::default(), 0).unwrap_err();
    assert_eq!(rejected.why, RejectReason::WrongBuffers);
    while let Some(slot) = hands.executor.board.take_slot(true) {
        assert!(slot < hands.executor.slots.len());
    }
    let io = hands.device.alloc_io(plan).unwrap();
    assert_eq!(hands.device.submit(plan, real_time(0), io, 0).unwrap_err().why, RejectReason::BoardFull);
    let content = Arc::downgrade(&hands.executor.plans.acquire(plan).unwrap().plan);
    hands.executor.plans.release(plan);
    hands.device.unload(plan);
    assert!(content.upgrade().is_none(), "the last reference was the loader's");
}

#[test]
fn a_late_cancellation_does_not_hit_the_next_task_of_the_slot() {
    let mut hands = Hands::reset(1);
    let plan = hands.load(&[1]);
    let (slot, first) = hands.submit(plan, best_effort(), 0);
    hands.work(0);
    hands.completion();
    let (same, _) = hands.submit(plan, best_effort(), 1);
    assert_eq!(slot, same);
    hands.device.cancel(first);
    hands.work(0);
    assert_eq!(hands.completion().outcome, Outcome::Done);
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod float_mode {
    use super::*;

    /// The control bits: without the flags that computations raise.
    fn mode() -> u32 {
        let mut word = 0u32;
        // SAFETY: stores the control word to a place that is there.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut word, options(nostack)) };
        word & !0x3F
    }

    /// Rounds towards zero, and flushes denormals on both sides.
    fn spoil() {
        let word = 0x1F80u32 | 0x8000 | 0x0040 | 0x6000;
        // SAFETY: loads a valid control word, for this thread only.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &word, options(nostack, readonly)) };
    }

    /// Threads inherit the mode of who starts them, and foreign code may leave another one behind.
    #[test]
    fn blocks_have_the_default_float_mode_whoever_started_the_device() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let modes = seen.clone();
        std::thread::spawn(move || {
            spoil();
            let options = CpuOptions { cus: Some(1), nice: 0, ..CpuOptions::default() };
            let device = CpuDevice::start(options).unwrap();
            let host = crate::by_hand::foreign_plan({
                let modes = modes.clone();
                move || {
                    modes.lock().unwrap().push(mode());
                    spoil();
                }
            });
            let hosted = device.load(host).unwrap();
            let native = crate::by_hand::insert(
                &device.executor,
                &[1],
                Restart::Safe,
                Arc::new(move |_, _| {
                    modes.lock().unwrap().push(mode());
                    BlockEnd::Done
                }),
            );
            for plan in [hosted, hosted, native] {
                let io = device.alloc_io(plan).unwrap();
                device.submit(plan, real_time(0), io, 0).unwrap();
                while device.try_complete().is_none() {
                    std::thread::yield_now();
                }
            }
        })
        .join()
        .unwrap();
        assert_eq!(*seen.lock().unwrap(), [0x1F80; 3]);
    }
}

#[test]
fn more_units_than_a_board_has_bits_for_are_refused() {
    for cus in [0, 65, 256] {
        let options = CpuOptions { cus: Some(cus), nice: 0, ..CpuOptions::default() };
        let error = CpuDevice::start(options).unwrap_err().to_string();
        assert!(error.contains(&format!("{cus} compute units, a CPU device may have 1 to 64")), "{error}");
    }
}

/// Where a thread on the core `here` is to wait for a short task of a device with a unit on each of `cores`.
fn place_of(here: usize, cores: &[usize], pin: bool, took: Nanos) -> Option<Token> {
    let (cus, cores) = (Some(cores.len()), Some(cores.to_vec()));
    let device = CpuDevice::start(CpuOptions { cus, cores, pin, nice: 0, ..CpuOptions::default() }).unwrap();
    let plan = crate::by_hand::insert(&device.executor, &[1], Restart::Safe, Arc::new(|_, _| BlockEnd::Done));
    let loaded = device.executor.plans.acquire(plan).unwrap();
    loaded.note(took);
    device.executor.plans.release(plan);
    let io = device.alloc_io(plan).unwrap();
    std::thread::scope(|scope| {
        let waits = || {
            let placement = Placement { core: Some(here), nice: 0 };
            assert_eq!(crate::thread::place(0, placement), Vec::<String>::new());
            let (_, seat) = device
                .submit_helped(plan, real_time(0), io, 0, None, Nanos::MAX)
                .expect("the board has room");
            let place = seat.as_ref().map(|seat| Token(seat.0));
            // For a task that does not end it waits a while.
            seat.into_iter().for_each(|seat| device.help(seat, real_time(0), &|| false));
            while device.try_complete().is_none() {
                std::thread::yield_now();
            }
            place
        };
        scope.spawn(waits).join().unwrap()
    })
}

#[test]
fn who_waits_on_a_core_without_a_unit_looks_on_if_the_task_is_short() {
    let &[first, second, ..] = &allowed_cores()[..] else { return };
    let spin = Nanos::from(CpuOptions::default().spin);
    assert_eq!(place_of(second, &[first], true, spin), Some(BESIDE));
    assert_eq!(place_of(second, &[first], true, spin + Nanos(1)), None);
    assert_eq!(place_of(second, &[first], false, spin), None);
    assert_ne!(place_of(first, &[first], true, spin), Some(BESIDE));
    assert_ne!(place_of(second, &[first, second], true, spin), Some(BESIDE));
}
