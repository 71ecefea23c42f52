//! The synthetic kernel: known output, known length, so that the executor can be tested and measured alone.
#![allow(unsafe_code)]

use reef_base::{MonotonicClock, Nanos};
use reef_plan::{Kernel, Region, SyntheticSpec};

use crate::context::{BlockContext, BlockEnd};
use crate::kernels::BlockKernel;

struct Synthetic {
    spec: SyntheticSpec,
    reads: Vec<Region>,
    write: Region,
}

/// Makes a synthetic kernel ready.
pub(crate) fn prepare(spec: &SyntheticSpec, kernel: &Kernel) -> Box<dyn BlockKernel> {
    Box::new(Synthetic { spec: spec.clone(), reads: kernel.reads.clone(), write: kernel.writes[0] })
}

impl BlockKernel for Synthetic {
    /// Polls `polls` times, `poll_ns` apart, then writes its tile; before the last poll the tile holds rubbish.
    unsafe fn run(&self, context: &BlockContext<'_>, block: u32) -> BlockEnd {
        let spec = &self.spec;
        let first = block as usize * spec.tile_bytes;
        let bytes = spec.tile_bytes.min(spec.bytes - first);
        // SAFETY: the tile lies inside the written region, and no other block touches it.
        let tile =
            unsafe { std::slice::from_raw_parts_mut(context.write_ptr(&self.write).add(first), bytes) };
        for poll in 0..spec.polls {
            spin(spec.poll_ns);
            if poll + 1 == spec.polls {
                tile.fill(0xA5);
            }
            if context.poll.stop() {
                return BlockEnd::Killed;
            }
        }
        let inputs = self.reads.iter().map(|region| {
            // SAFETY: nobody writes what a block reads while it runs.
            unsafe { std::slice::from_raw_parts(context.read_ptr(region), region.bytes) }
        });
        let digest = spec.digest(inputs);
        for (index, byte) in tile.iter_mut().enumerate() {
            *byte = SyntheticSpec::byte(digest, first + index);
        }
        BlockEnd::Done
    }
}

fn spin(ns: u32) {
    let until = MonotonicClock::read() + Nanos(u64::from(ns));
    while ns > 0 && MonotonicClock::read() < until {
        std::hint::spin_loop();
    }
}
