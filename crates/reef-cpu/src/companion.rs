//! Companions: threads that run a compute unit's host kernels, on its core, while it lends that to them.
//!
//! A host kernel is foreign code that neither polls nor ends soon. On a thread of its own it can be stopped
//! wherever it is: a signal's handler waits until the unit lends the core again (`lease` has the protocol).
//! The system's scheduling classes do not do that: beside a busy unit, SCHED_IDLE leaves a companion a sixth
//! of the core at the lowest nice value, and a thread cannot be demoted and promoted again without
//! privileges.
//!
//! Code that is stopped may hold locks: the allocator's, the other library's. Nothing of this crate waits for
//! a companion while it is stopped, but other threads may, and even a more urgent companion of the same unit.
//! So a unit lets companions that it stopped go on for [`GRACE`] every [`GRACE_EVERY`], whatever else there
//! is to do: nobody waits for ever, and urgent work loses a five-hundredth. (The unit ends that time by a
//! timer. Companions ask for long slices, so that the system lets the unit have the core at once, since Linux
//! 6.12. On older kernels it may have to wait for the end of a slice of some milliseconds.)
//!
//! So a unit neither allocates nor frees memory while it has companions that are stopped, and starts no
//! thread: it could wait for what one of them holds, and only the unit lets that go on.
//!
//! A unit has one companion per rank at most: it takes only more urgent work while a block of its is with a
//! companion. Companions are started when a plan with host kernels is loaded (two, for a real-time model
//! beside best-effort ones) and by who submits the first task of one more rank, and stay.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::{JoinHandle, Thread};

use reef_base::Nanos;
use reef_base::limits::REAL_TIME_LEVELS;
use reef_base::panics::contain;
use reef_plan::{HostFault, HostState};
use rustix::time::{ClockId, clock_gettime};

use crate::board::Claim;
use crate::context::{Bases, BlockContext, BlockEnd, BlockFault, Demand, HostCell, Poll};
use crate::executor::Executor;
use crate::lease::Hold;
use crate::plans::{Prepared, contain_drop, locate};
use crate::slot::Task;
use crate::stop;
use crate::sync::AtomicU64;
use crate::thread::{Placement, ask_for_long_slices, default_float_mode, place, poison_on_panic};

/// How long a stopped companion may go on beside more urgent work, and how often.
pub(crate) const GRACE: Nanos = Nanos(100_000);
/// See [`GRACE`].
pub(crate) const GRACE_EVERY: Nanos = Nanos(50_000_000);

/// Companions of one unit: one per rank.
const COMPANIONS_MAX: usize = REAL_TIME_LEVELS as usize + 1;

/// Companions that a unit has as soon as there are host kernels.
const COMPANIONS_MIN: usize = 2;

const IDLE: u8 = 0;
const GIVEN: u8 = 1;
const DONE: u8 = 2;
const LEAVE: u8 = 3;

/// How a block ended on a companion.
#[derive(Debug)]
pub(crate) struct Report {
    /// Its end.
    pub(crate) end: BlockEnd,
    /// Processor time that it took.
    pub(crate) time: Nanos,
}

/// What a companion and its unit share. `state` says whose turn it is: the unit writes `claim` and then
/// `GIVEN`, the companion `report` and then `DONE`; so neither ever waits for the other's lock.
#[derive(Debug, Default)]
struct Duty {
    state: AtomicU8,
    claim: Mutex<Option<Claim>>,
    report: Mutex<Option<Report>>,
    hold: Hold,
}

/// A companion, as its unit sees it.
#[derive(Debug)]
pub(crate) struct Companion {
    duty: Arc<Duty>,
    thread: Thread,
    target: stop::Target,
}

impl Companion {
    /// Gives it a block to run; for its unit, which then lends the core.
    pub(crate) fn give(&self, claim: Claim) {
        *lock(&self.duty.claim) = Some(claim);
        self.duty.state.store(GIVEN, Ordering::Release);
    }

    /// Lets it run; for its unit, which has lent it the core.
    pub(crate) fn go(&self, executor: &Executor, cu: usize) {
        self.thread.unpark();
        executor.leases.let_go(cu, &self.duty.hold);
    }

    /// Whether its block has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.duty.state.load(Ordering::Acquire) == DONE
    }

    /// How its block ended, once it is done.
    pub(crate) fn take(&self) -> Report {
        debug_assert!(self.is_done());
        self.duty.state.store(IDLE, Ordering::Relaxed);
        lock(&self.duty.report).take().expect("the report is there before the block is done")
    }

    /// Leaves a report with it, which frees that; for its unit, once it has no block.
    pub(crate) fn keep(&self, report: Report) {
        *lock(&self.duty.report) = Some(report);
    }

    /// Stops it, if it still runs; for its unit, which took the core back.
    pub(crate) fn stop(&self) {
        if !self.is_done() && !self.duty.hold.is_held() {
            self.knock();
        }
    }

    /// Makes it look at its unit's word.
    pub(crate) fn knock(&self) {
        self.target.knock();
    }
}

/// The companions of all units.
#[derive(Debug)]
pub(crate) struct Crew {
    units: Box<[[OnceLock<Companion>; COMPANIONS_MAX]]>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    placements: Box<[Placement]>,
    /// Ranks of the tasks with host kernels that there have been, as a set.
    ranks: AtomicU32,
}

impl Crew {
    /// Nobody yet; companions of a unit will be placed like the unit.
    pub(crate) fn new(placements: Box<[Placement]>) -> Crew {
        let units = placements.iter().map(|_| std::array::from_fn(|_| OnceLock::new())).collect();
        Crew { units, threads: Mutex::default(), placements, ranks: AtomicU32::new(0) }
    }

    /// Companion `index` of `cu`, which is there.
    pub(crate) fn get(&self, cu: usize, index: usize) -> &Companion {
        self.find(cu, index).expect("a companion that has a block was started")
    }

    /// Companion `index` of `cu`, if it could be started.
    pub(crate) fn find(&self, cu: usize, index: usize) -> Option<&Companion> {
        self.units[cu][index].get()
    }

    /// Starts the companions that there are in any case.
    pub(crate) fn muster(executor: &Arc<Executor>) -> std::io::Result<()> {
        executor.crew.start_all(executor, COMPANIONS_MIN)
    }

    /// Starts what a task of `rank` with host kernels may need: a companion of each unit for every rank. Who
    /// submits the task calls it before.
    pub(crate) fn muster_for(executor: &Arc<Executor>, rank: u8) -> std::io::Result<()> {
        let (crew, own) = (&executor.crew, 1 << rank);
        let ranks = crew.ranks.load(Ordering::Acquire);
        if ranks & own != 0 {
            return Ok(());
        }
        let mut ranks = ranks | own;
        loop {
            crew.start_all(executor, ranks.count_ones() as usize)?;
            // Another rank may have come meanwhile: then there must be one more companion.
            let known = crew.ranks.fetch_or(own, Ordering::AcqRel) | own;
            if known & !ranks == 0 {
                return Ok(());
            }
            ranks |= known;
        }
    }

    fn start_all(&self, executor: &Arc<Executor>, count: usize) -> std::io::Result<()> {
        (0..self.units.len())
            .try_for_each(|cu| (0..count).try_for_each(|index| Crew::start(executor, cu, index).map(drop)))
    }

    /// Companion `index` of `cu`; started if it is not there yet.
    pub(crate) fn start(executor: &Arc<Executor>, cu: usize, index: usize) -> std::io::Result<&Companion> {
        let crew = &executor.crew;
        // Held while a thread starts, so that each is started once. A companion never takes it.
        let mut threads = lock(&crew.threads);
        let seat = &crew.units[cu][index];
        if seat.get().is_none() {
            stop::install()?;
            let duty = Arc::new(Duty::default());
            let (report, started) = mpsc::channel();
            let (own, shared, placement) = (duty.clone(), executor.clone(), crew.placements[cu]);
            let builder = std::thread::Builder::new().name(format!("reef-cu{cu}-host{index}"));
            let handle = builder.spawn(move || {
                // On the wrong core or at the wrong nice value it only runs worse, as its unit said of
                // itself.
                let _ = place(cu, placement);
                ask_for_long_slices();
                let _ = report.send(stop::Target::here());
                drop(report);
                poison_on_panic(&shared, cu, || serve(&shared, cu, index, &own));
            })?;
            let target = started.recv().map_err(|_| std::io::Error::other("the thread did not start"))?;
            let thread = handle.thread().clone();
            threads.push(handle);
            seat.set(Companion { duty, thread, target }).expect("one caller at a time");
        }
        drop(threads);
        Ok(crew.get(cu, index))
    }

    /// Ends all companions. Their units are gone, so none of them has a block.
    pub(crate) fn leave(&self, executor: &Executor) {
        for (cu, unit) in self.units.iter().enumerate() {
            executor.leases.release(cu);
            for companion in unit.iter().filter_map(OnceLock::get) {
                companion.duty.state.store(LEAVE, Ordering::Release);
                companion.thread.unpark();
            }
        }
        for thread in lock(&self.threads).drain(..) {
            // Panics of host kernels are caught; one of its own was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Runs blocks until it is told to leave.
fn serve(executor: &Executor, cu: usize, index: usize, duty: &Duty) {
    // Stopped where it is, whatever it does; a knock that comes while it has no block is answered, too.
    let wait = || executor.leases.wait(cu, index, &duty.hold);
    stop::with_handler(&wait, || {
        loop {
            match duty.state.load(Ordering::Acquire) {
                LEAVE => return,
                GIVEN => {}
                _ => {
                    std::thread::park();
                    continue;
                }
            }
            let claim = lock(&duty.claim).take().expect("a block is given with its claim");
            wait();
            default_float_mode();
            let begin = processor_time();
            let end = run(executor, claim);
            let time = processor_time().since(begin);
            *lock(&duty.report) = Some(Report { end, time });
            duty.state.store(DONE, Ordering::Release);
            executor.ring(cu);
        }
    });
}

/// Processor time of the calling thread: what it was stopped for does not count.
fn processor_time() -> Nanos {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Foreign code sees no demand.
struct Deaf;

impl Demand for Deaf {
    fn take(&self) -> bool {
        false
    }
}

/// Runs the block of a host kernel. A panic of the kernel is its task's fault, and costs it its state.
#[allow(unsafe_code)]
fn run(executor: &Executor, claim: Claim) -> BlockEnd {
    // SAFETY: the unit holds the block, and gives it up only after this has ended.
    unsafe { executor.slots[claim.slot].task(|task| run_of(executor, task, claim)) }
}

#[allow(unsafe_code)]
fn run_of(executor: &Executor, task: &Task, claim: Claim) -> BlockEnd {
    let loaded = executor.loaded(claim.slot);
    let located = locate(loaded, claim);
    let Prepared { kernel, host, .. } = located.prepared;
    let host = host.expect("only host kernels run on companions");
    let foreign = &loaded.plan.host_kernels()[host];
    let fault = |reason: String| HostFault::of_kernel(foreign.name(), reason);
    let cell = loaded.host(claim.slot, host);
    if let Err(end) = make_state(cell, || foreign.new_state(), fault) {
        return end;
    }
    let never = AtomicU64::new(0);
    let context = BlockContext {
        bases: Bases { inputs: &task.inputs, outputs: &task.outputs, arena: task.arena },
        weights: &loaded.weights,
        scratch: std::ptr::null_mut(),
        poll: Poll { word: &executor.board.poll, threshold: 0, cancel: &never, demand: &Deaf },
        host: Some(cell),
    };
    // SAFETY: the submitter checked the buffers against the plan; a host kernel uses no scratch.
    let result = contain(|| unsafe { kernel.run(&context, located.block) });
    result.unwrap_or_else(|panic| {
        drop_state(cell);
        BlockEnd::Failed(BlockFault::Host(fault(format!("it panicked: {panic}"))))
    })
}

/// Makes the state anew that a panic cost.
#[allow(unsafe_code)]
fn make_state(
    cell: &HostCell,
    make: impl FnOnce() -> Result<Box<dyn HostState>, HostFault>,
    fault: impl Fn(String) -> HostFault,
) -> Result<(), BlockEnd> {
    // SAFETY: the cell is the task's, and its stage runs the one block that uses it here.
    let state = unsafe { &mut *cell.get() };
    if state.is_none() {
        let made = contain(make).unwrap_or_else(|panic| Err(fault(format!("it panicked: {panic}"))));
        *state = Some(made.map_err(|fault| BlockEnd::Failed(BlockFault::Host(fault)))?);
    }
    Ok(())
}

/// Drops a state that a panic may have left half changed.
#[allow(unsafe_code)]
fn drop_state(cell: &HostCell) {
    // SAFETY: as in `make_state`.
    let state = unsafe { (*cell.get()).take() };
    contain_drop(state);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
