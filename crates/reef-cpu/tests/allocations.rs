//! From submission to completion nothing is allocated, on any thread, once everything is warm.

mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use reef_base::TaskKey;
use reef_device::{Device, Outcome, Scheme, Wake};
use rig::KernelShape;

struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if COUNTS.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Count(AtomicU64);

impl Wake for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_hot_path_does_not_allocate() {
    let device = rig::device(2, Scheme::Reset);
    let waker = Arc::new(Count(AtomicU64::new(0)));
    device.set_waker(waker.clone());
    device.record_events(true);
    let shape =
        KernelShape { bytes: 500, tile_bytes: 64, polls: 4, poll_ns: 500, restart: true, host: false };
    let plan = Arc::new(rig::plan(1, &[vec![shape; 2], vec![shape; 2], vec![shape; 2]]));
    let loaded = device.load(plan).expect("the plan loads");
    let mut ios: Vec<_> = (0..4).map(|fill| rig::filled(&device, loaded, fill)).collect();
    let mut round = |rounds: u64| {
        for round in 0..rounds {
            for kind in 0..4 {
                let key =
                    if kind < 2 { TaskKey::best_effort(round) } else { rig::real_time(kind as u8, round) };
                let io = ios.pop().expect("four are there");
                let task = device.submit(loaded, key, io, kind).expect("the board has room");
                if round % 16 == 7 && kind == 1 {
                    device.cancel(task);
                }
            }
            for _ in 0..4 {
                let done = rig::wait(&device);
                assert!(matches!(done.outcome, Outcome::Done | Outcome::Cancelled));
                ios.push(done.io);
            }
        }
    };
    round(50);
    COUNTS.store(true, Ordering::SeqCst);
    round(200);
    COUNTS.store(false, Ordering::SeqCst);
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), 0);
    assert_eq!(waker.0.load(Ordering::SeqCst), 1000, "the waker is called for every task");
    let _ = std::hint::black_box(vec![0u8; 100]);
    COUNTS.store(true, Ordering::SeqCst);
    drop(std::hint::black_box(vec![0u8; 100]));
    COUNTS.store(false, Ordering::SeqCst);
    assert!(ALLOCATIONS.load(Ordering::SeqCst) > 0, "the counter counts");
}
