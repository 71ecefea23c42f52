//! The thread of a compute unit: where it runs, how urgent it is, and its floating-point mode.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use reef_base::panics::contain;
use rustix::thread::CpuSet;

use crate::executor::Executor;
use crate::sync::{Builder, JoinHandle};

/// Where a thread runs and how urgent it is to the operating system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    /// The core it is pinned to.
    pub(crate) core: Option<usize>,
    /// Its nice value.
    pub(crate) nice: i32,
}

/// Starts the thread of compute unit `cu`, which does `work`. It reports once, with what did not work.
pub(crate) fn spawn(
    executor: Arc<Executor>,
    cu: usize,
    placement: Placement,
    report: Sender<Vec<String>>,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(format!("reef-cu{cu}")).spawn(move || {
        let warnings = place(cu, placement);
        default_float_mode();
        let _ = report.send(warnings);
        drop(report);
        poison_on_panic(&executor, cu, work);
    })
}

/// Runs a thread's work. What it calls of others is contained where it is called, so a panic that gets here
/// is a bug of our own: the block in its hands never ends, and nobody may wait for it.
pub(crate) fn poison_on_panic(executor: &Executor, cu: usize, work: impl FnOnce()) {
    if let Err(panic) = contain(work) {
        executor.poison(&format!("the thread of compute unit {cu} panicked: {panic}"));
    }
}

pub(crate) fn place(cu: usize, placement: Placement) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(core) = placement.core {
        let mut set = CpuSet::new();
        set.set(core);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            warnings.push(format!("compute unit {cu} is not pinned to core {core}: {error}"));
        }
    }
    // On Linux a nice value belongs to a thread, and `None` means the calling one.
    if placement.nice != 0
        && let Err(error) = rustix::process::setpriority_process(None, placement.nice)
    {
        warnings.push(format!("compute unit {cu} does not run at nice {}: {error}", placement.nice));
    }
    warnings
}

/// All exceptions masked, round to nearest, denormals stay: the architecture's default.
#[cfg(target_arch = "x86_64")]
const DEFAULT_MODE: u32 = 0x1F80;

/// Threads inherit the floating-point mode of who starts them; outputs must not depend on it.
pub(crate) fn default_float_mode() {
    #[cfg(target_arch = "x86_64")]
    set_float_mode(DEFAULT_MODE);
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub(crate) fn set_float_mode(mode: u32) {
    // SAFETY: loads a control word that is the default one or was stored before.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &mode, options(nostack, readonly)) };
}

/// A thread's own floating-point mode while it has the default one.
pub(crate) struct FloatMode(#[cfg(target_arch = "x86_64")] u32);

impl FloatMode {
    /// From now on the calling thread has the default mode.
    #[allow(unsafe_code)]
    pub(crate) fn replace() -> FloatMode {
        #[cfg(target_arch = "x86_64")]
        {
            let mut own = 0u32;
            // SAFETY: stores the control word.
            unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut own, options(nostack)) };
            default_float_mode();
            FloatMode(own)
        }
        #[cfg(not(target_arch = "x86_64"))]
        FloatMode()
    }
}

impl Drop for FloatMode {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        set_float_mode(self.0);
    }
}

/// Asks the system to let other threads of the same urgency have the core as soon as they wake: its next turn
/// may be late, but is long then. Linux takes the wish since 6.12, and earlier ones ignore it.
#[allow(unsafe_code)]
pub(crate) fn ask_for_long_slices() {
    /// The longest that is granted.
    const SLICE_NS: u64 = 100_000_000;
    // SAFETY: the structure may be zero, is filled by the first call, and both calls are told its size. An
    // error leaves things as they are.
    unsafe {
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        let size = size_of::<libc::sched_attr>() as u32;
        if libc::syscall(libc::SYS_sched_getattr, 0, &mut attributes, size, 0) == 0 {
            attributes.sched_runtime = SLICE_NS;
            libc::syscall(libc::SYS_sched_setattr, 0, &attributes, 0);
        }
    }
}
