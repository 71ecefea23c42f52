//! The threads that run host steps.
//!
//! Each slot has one, started when the first plan with a host step is loaded. So no task waits for another
//! one's step.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use reef_base::{MonotonicClock, panics};
use reef_plan::{HostFault, KernelSpec, recur, select, trees};

use crate::board::Ended;
use crate::host_step::{drop_state, new_state, panicked};
use crate::loaded::Loaded;
use crate::memory::PinnedPart;

/// Runs a host step of a task in `slot`. A panic of the kernel is its task's fault, and costs it its state.
fn run(loaded: &Loaded, kernel: usize, slot: usize, staging: &mut [u8]) -> Result<(), HostFault> {
    let step = loaded.host_step(kernel).expect("the host runs host steps");
    let kernel = &loaded.plan.kernels()[kernel];
    let packed = |weight| loaded.packed(weight);
    let fault = |reason: String| HostFault::of_input(kernel.name.as_str(), reason);
    let KernelSpec::Host(index) = kernel.spec else {
        return step.run(kernel, packed, staging, |inputs, outputs| {
            compute(&kernel.spec, inputs, outputs).map_err(fault)
        });
    };
    let foreign = &*loaded.plan.host_kernels()[index];
    let mut state = loaded.states.of_slot(slot, index);
    if state.is_none() {
        *state = Some(new_state(foreign)?);
    }
    let ran = step.run(kernel, packed, staging, |inputs, outputs| {
        let state = state.as_mut().expect("it was made");
        Ok(panics::contain(|| state.run(inputs, outputs)))
    })?;
    ran.unwrap_or_else(|panic| {
        drop_state(state.take());
        Err(panicked(foreign, panic))
    })
}

/// What a kernel makes that the device has no code for; the error is the inputs' fault.
fn compute(spec: &KernelSpec, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), String> {
    match spec {
        KernelSpec::Selection(spec) => return select(spec, inputs, outputs),
        KernelSpec::Recurrent(spec) => return recur(spec, inputs, outputs),
        KernelSpec::Trees(spec) => return trees(spec, inputs, outputs),
        KernelSpec::Elementwise(spec) => return spec.compute(inputs, outputs[0]),
        KernelSpec::Take(spec) => return spec.compute(inputs, outputs[0]),
        KernelSpec::Put(spec) => return spec.compute(inputs, outputs[0]),
        KernelSpec::Vision(spec) => return spec.compute(inputs, outputs[0]),
        KernelSpec::Along(spec) => spec.compute(inputs[0], outputs),
        KernelSpec::MaxPool(spec) => spec.compute(inputs[0], outputs),
        KernelSpec::Packed(spec) => reef_plan::packed(spec, inputs, outputs),
        _ => unreachable!("no other kernel is a host step"),
    }
    Ok(())
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
