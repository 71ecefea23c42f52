//! Host steps: kernels that the device has no code for, foreign ones and selections, as threads of the host
//! run them.
//!
//! Each slot has a thread, started when the first plan with a host step is loaded. So no task waits for
//! another one's step. Operands lie in pinned memory of the slot, first all that are read, then all that are
//! written; weights lie where they are.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use reef_base::{MonotonicClock, panics};
use reef_plan::{HostFault, HostKernel, HostState, Kernel, KernelSpec, Place, Plan, Region, select};

use crate::board::Ended;
use crate::loaded::Loaded;
use crate::memory::PinnedPart;

/// What every operand is aligned to.
const GRAIN: usize = 64;

/// Whether a kernel runs on the host.
pub(crate) fn is_hosted(kernel: &Kernel) -> bool {
    matches!(kernel.spec, KernelSpec::Host(_) | KernelSpec::Selection(_))
}

/// An operand of a host step and its place in the slot's pinned memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) region: Region,
    pub(crate) at: usize,
}

/// A kernel that the host runs.
#[derive(Clone, Debug)]
pub(crate) struct HostStep {
    /// What is read, but for weights.
    pub(crate) reads: Vec<Staged>,
    pub(crate) writes: Vec<Staged>,
    /// Of pinned memory, what it reads and all of it.
    read_bytes: usize,
    pub(crate) bytes: usize,
}

impl HostStep {
    pub(crate) fn of(kernel: &Kernel) -> HostStep {
        let mut bytes = 0;
        let mut stage = |region: &Region| {
            let at = bytes;
            bytes = (at + region.bytes).next_multiple_of(GRAIN);
            Staged { region: *region, at }
        };
        let moved = |region: &&Region| !matches!(region.place, Place::Weight(_));
        let reads = kernel.reads.iter().filter(moved).map(&mut stage).collect();
        let writes: Vec<Staged> = kernel.writes.iter().map(stage).collect();
        let read_bytes = writes.first().map_or(bytes, |first| first.at);
        HostStep { reads, writes, read_bytes, bytes }
    }

    /// Pinned memory that a slot needs for the host steps of a plan.
    pub(crate) fn bytes_for(plan: &Plan) -> usize {
        let hosted = plan.kernels().iter().filter(|kernel| is_hosted(kernel));
        hosted.map(|kernel| HostStep::of(kernel).bytes).max().unwrap_or(0)
    }

    /// Runs `code` on the operands of `kernel` in `staging`.
    fn run<T>(
        &self,
        kernel: &Kernel,
        loaded: &Loaded,
        staging: &mut [u8],
        code: impl FnOnce(&[&[u8]], &mut [&mut [u8]]) -> Result<T, HostFault>,
    ) -> Result<T, HostFault> {
        let (read, mut rest) = staging.split_at_mut(self.read_bytes);
        let mut moved = self.reads.iter();
        let input = |region: &Region| match region.place {
            Place::Weight(index) => &loaded.packed(index)[region.offset..region.end()],
            _ => {
                let staged = moved.next().expect("all but weights are staged");
                &read[staged.at..][..region.bytes]
            }
        };
        let inputs: Vec<&[u8]> = kernel.reads.iter().map(input).collect();
        let mut outputs: Vec<&mut [u8]> = Vec::with_capacity(self.writes.len());
        for Staged { region, .. } in &self.writes {
            let padded = region.bytes.next_multiple_of(GRAIN);
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(padded);
            outputs.push(&mut own[..region.bytes]);
            rest = behind;
        }
        code(&inputs, &mut outputs)
    }
}

/// States of a plan's foreign kernels, for each slot; one that panicked has none until it runs again.
pub(crate) struct States {
    kernels: usize,
    states: Vec<Mutex<Option<Box<dyn HostState>>>>,
}

impl std::fmt::Debug for States {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "States({})", self.states.len())
    }
}

impl States {
    pub(crate) fn of(plan: &Plan, slots: usize) -> Result<States, HostFault> {
        let kernels = plan.host_kernels();
        // From now on they are dropped with care, also if one cannot be made.
        let mut made = States { kernels: kernels.len(), states: Vec::new() };
        for _ in 0..slots {
            for kernel in kernels {
                made.states.push(Mutex::new(Some(new_state(&**kernel)?)));
            }
        }
        Ok(made)
    }

    fn of_slot(&self, slot: usize, kernel: usize) -> MutexGuard<'_, Option<Box<dyn HostState>>> {
        lock(&self.states[slot * self.kernels + kernel])
    }
}

impl Drop for States {
    fn drop(&mut self) {
        for state in self.states.drain(..) {
            let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
            drop_state(state);
        }
    }
}

/// Drops foreign state; what it panics with is nobody's loss.
fn drop_state(state: Option<Box<dyn HostState>>) {
    let _ = panics::catch(|| drop(state));
}

fn panicked(kernel: &dyn HostKernel, panic: String) -> HostFault {
    HostFault::of_kernel(kernel.name(), format!("it panicked: {panic}"))
}

fn new_state(kernel: &dyn HostKernel) -> Result<Box<dyn HostState>, HostFault> {
    panics::contain(|| kernel.new_state()).unwrap_or_else(|panic| Err(panicked(kernel, panic)))
}

/// Runs a host step of a task in `slot`. A panic of the kernel is its task's fault, and costs it its state.
fn run(loaded: &Loaded, kernel: usize, slot: usize, staging: &mut [u8]) -> Result<(), HostFault> {
    let step = loaded.host_step(kernel).expect("the host runs host steps");
    let kernel = &loaded.plan.kernels()[kernel];
    let index = match &kernel.spec {
        KernelSpec::Host(index) => *index,
        KernelSpec::Selection(spec) => {
            let fault = |reason: String| HostFault::of_input(kernel.name.as_str(), reason);
            return step.run(kernel, loaded, staging, |inputs, outputs| {
                select(spec, inputs, outputs).map_err(fault)
            });
        }
        _ => unreachable!("no other kernel is a host step"),
    };
    let foreign = &*loaded.plan.host_kernels()[index];
    let mut state = loaded.states.of_slot(slot, index);
    if state.is_none() {
        *state = Some(new_state(foreign)?);
    }
    let ran = step.run(kernel, loaded, staging, |inputs, outputs| {
        let state = state.as_mut().expect("it was made");
        Ok(panics::contain(|| state.run(inputs, outputs)))
    })?;
    ran.unwrap_or_else(|panic| {
        drop_state(state.take());
        Err(panicked(foreign, panic))
    })
}

/// A host step to run.
pub(crate) struct Job {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) kernel: usize,
    /// The slot's.
    pub(crate) staging: Arc<Mutex<PinnedPart>>,
}

/// Who is told that a step has ended; it may have failed.
pub(crate) type Told = dyn Fn(usize, Ended) + Send + Sync;

/// The threads.
pub(crate) struct Hosts {
    posts: Vec<Arc<Post>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What a thread waits for.
#[derive(Default)]
struct Post {
    given: Mutex<Given>,
    changed: Condvar,
}

#[derive(Default)]
struct Given {
    job: Option<Job>,
    over: bool,
}

impl Hosts {
    /// A thread for each of `slots` slots.
    pub(crate) fn start(name: &str, slots: usize, told: &Arc<Told>) -> std::io::Result<Hosts> {
        let mut hosts = Hosts { posts: Vec::new(), threads: Mutex::default() };
        for slot in 0..slots {
            let (post, told) = (Arc::new(Post::default()), told.clone());
            hosts.posts.push(post.clone());
            let thread = std::thread::Builder::new().name(format!("{name}-host{slot}"));
            let thread = thread.spawn(move || work(&post, slot, &*told))?;
            lock(&hosts.threads).push(thread);
        }
        Ok(hosts)
    }

    /// Gives the thread of a slot its next job; it has none.
    pub(crate) fn give(&self, slot: usize, job: Job) {
        let post = &self.posts[slot];
        let before = lock(&post.given).job.replace(job);
        assert!(before.is_none(), "a slot has one host step at a time");
        post.changed.notify_one();
    }

    /// Ends the threads when the steps that they have are over.
    pub(crate) fn stop(&self) {
        for post in &self.posts {
            lock(&post.given).over = true;
            post.changed.notify_one();
        }
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(post: &Post, slot: usize, told: &Told) {
    loop {
        let idle = |given: &mut Given| given.job.is_none() && !given.over;
        let given = post.changed.wait_while(lock(&post.given), idle);
        let Some(Job { loaded, kernel, staging }) = given.unwrap_or_else(PoisonError::into_inner).job.take()
        else {
            return;
        };
        let begun = MonotonicClock::read();
        let fault = run(&loaded, kernel, slot, lock(&staging).as_mut_slice()).err();
        let ended = MonotonicClock::read();
        if fault.is_none() {
            loaded.measured(kernel, ended - begun);
        }
        // Who is told may let the next task have the slot's memory, and free the plan.
        drop((staging, loaded));
        told(slot, Ended { skipped: 0, fault, begun, ended });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
