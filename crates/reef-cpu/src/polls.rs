//! How long blocks go without a poll: what a more urgent task may have to wait for.

use std::cell::Cell;
use std::sync::Arc;

use reef_base::{AlignedBytes, Nanos};
use reef_device::DeviceError;
use reef_plan::{DeviceKind, Kernel, Plan};

use crate::context::{Bases, BlockContext, Demand, Poll};
use crate::cut;
use crate::kernels;
use crate::plans::Loaded;
use crate::sync::{AtomicU64, now};

/// The longest time between two polls in blocks of each of the plan's kernels, when they run alone on this
/// thread: of each block the least of `runs` runs, since what interrupts one of them is not the kernel's. The
/// begin and the end of a block count as polls. A host kernel has none.
///
/// # Errors
/// The plan is not for this device, the machine lacks its instruction set, or a host kernel has no state.
///
/// # Panics
/// The inputs are not the plan's, or a block fails.
#[allow(unsafe_code)]
pub fn poll_gaps(plan: &Arc<Plan>, inputs: &[AlignedBytes], runs: usize) -> Result<Vec<Nanos>, DeviceError> {
    let target = plan.target();
    let reason = match target.device == DeviceKind::Cpu && target.isa <= kernels::best() {
        true => cut::flaw(plan),
        false => Some("it is not for this machine's processor".into()),
    };
    if let Some(reason) = reason {
        return Err(DeviceError::Unsupported { plan: plan.name().into(), reason });
    }
    let sizes: Vec<usize> = plan.inputs().iter().map(|spec| spec.bytes()).collect();
    assert!(inputs.iter().map(AlignedBytes::len).eq(sizes), "the inputs are the plan's");
    let loaded = Loaded::new(plan.clone(), 1, 1)?;
    let mut outputs: Vec<_> = plan.outputs().iter().map(|spec| AlignedBytes::zeroed(spec.bytes())).collect();
    let (mut arena, mut scratch) =
        (AlignedBytes::zeroed(plan.arena_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
    let from: Vec<*const u8> = inputs.iter().map(|bytes| bytes.as_slice().as_ptr()).collect();
    let to: Vec<*mut u8> = outputs.iter_mut().map(|bytes| bytes.as_mut_slice().as_mut_ptr()).collect();
    let (arena, scratch) = (arena.as_mut_slice().as_mut_ptr(), scratch.as_mut_slice().as_mut_ptr());
    let blocks = |kernel: &Kernel| vec![Nanos::MAX; kernel.spec.blocks()];
    let mut longest: Vec<Vec<Nanos>> = plan.kernels().iter().map(blocks).collect();
    for _ in 0..runs.max(1) {
        for (index, prepared) in loaded.kernels.iter().enumerate() {
            let watch = Watch::default();
            let context = BlockContext {
                bases: Bases { inputs: &from, outputs: &to, arena },
                weights: &loaded.weights,
                scratch,
                poll: Poll {
                    word: &AtomicU64::new(0),
                    threshold: u64::MAX,
                    cancel: &AtomicU64::new(0),
                    demand: &watch,
                },
                host: prepared.host.map(|host| loaded.host(0, host)),
            };
            for (block, least) in longest[index].iter_mut().enumerate() {
                watch.longest.set(Nanos::ZERO);
                watch.last.set(now());
                // SAFETY: the buffers are as large as the plan says; its kernels run one after the other, in
                // the order of the stages.
                unsafe { prepared.kernel.run(&context, block as u32) };
                watch.look();
                *least = watch.longest.get().min(*least);
            }
        }
    }
    Ok(longest.into_iter().map(|blocks| blocks.into_iter().max().unwrap_or(Nanos::ZERO)).collect())
}

/// Looks at the clock at every poll, and wants nothing.
#[derive(Default)]
struct Watch {
    last: Cell<Nanos>,
    longest: Cell<Nanos>,
}

impl Watch {
    fn look(&self) {
        let now = now();
        self.longest.set(self.longest.get().max(now - self.last.get()));
        self.last.set(now);
    }
}

impl Demand for Watch {
    fn take(&self) -> bool {
        self.look();
        false
    }
}
