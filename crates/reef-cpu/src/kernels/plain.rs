//! Kernels without arithmetic: gather, host kernels, synthetic kernels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reef_graph::{BadIndex, DType, axis_index};
use reef_plan::{GatherSpec, Kernel, Region, SyntheticSpec};

use super::BlockKernel;
use crate::context::{BlockContext, BlockEnd, BlockFault};

/// Slices picked by index. Polls before every slice, and inside long ones.
pub(super) struct Gather {
    spec: GatherSpec,
    data: Region,
    indices: Region,
    y: Region,
    name: Arc<str>,
}

/// Bytes copied between polls.
const COPY_BYTES: usize = 32 << 10;

impl Gather {
    pub(super) fn new(spec: &GatherSpec, kernel: &Kernel) -> Gather {
        let (data, indices, y) = (kernel.reads[0], kernel.reads[1], kernel.writes[0]);
        Gather { spec: spec.clone(), data, indices, y, name: kernel.name.as_str().into() }
    }

    /// The slice of its plane that pick `pick` means.
    unsafe fn index(&self, context: &BlockContext<'_>, pick: usize) -> Result<usize, BlockFault> {
        let indices = context.read_ptr(&self.indices);
        // SAFETY: there are `picks` indices of the spec's type.
        let index = unsafe {
            match self.spec.index_dtype {
                DType::I64 => indices.cast::<i64>().add(pick).read(),
                DType::I32 => i64::from(indices.cast::<i32>().add(pick).read()),
                other => unreachable!("indices of type {other}"),
            }
        };
        let extent = self.spec.extent;
        axis_index(index, extent).ok_or_else(|| {
            let (kernel, bad) = (self.name.clone(), BadIndex { pick, index, extent });
            BlockFault::Index { kernel, operator: "Gather", bad }
        })
    }
}

impl BlockKernel for Gather {
    unsafe fn run(&self, context: &BlockContext<'_>, block: u32) -> BlockEnd {
        let spec = &self.spec;
        let bytes = spec.inner * spec.dtype.bytes();
        let first = block as usize * spec.tile;
        let last = (first + spec.tile).min(spec.outer * spec.picks);
        let (data, y) = (context.read_ptr(&self.data), context.write_ptr(&self.y));
        for slice in first..last {
            let (plane, pick) = (slice / spec.picks, slice % spec.picks);
            // SAFETY: there is such a pick.
            let index = match unsafe { self.index(context, pick) } {
                Ok(index) => index,
                Err(fault) => return BlockEnd::Failed(fault),
            };
            // SAFETY: the index is inside the extent; slices are those of the spec.
            unsafe {
                let from = data.add((plane * spec.extent + index) * bytes);
                let to = y.add(slice * bytes);
                for at in (0..bytes).step_by(COPY_BYTES) {
                    if context.poll.stop() {
                        return BlockEnd::Killed;
                    }
                    std::ptr::copy_nonoverlapping(from.add(at), to.add(at), COPY_BYTES.min(bytes - at));
                }
            }
        }
        BlockEnd::Done
    }
}

/// A region of the graph that another library computes. Never polls; may allocate.
pub(super) struct Host {
    reads: Vec<Region>,
    writes: Vec<Region>,
}

impl Host {
    pub(super) fn new(kernel: &Kernel) -> Host {
        Host { reads: kernel.reads.clone(), writes: kernel.writes.clone() }
    }
}

impl BlockKernel for Host {
    unsafe fn run(&self, context: &BlockContext<'_>, _block: u32) -> BlockEnd {
        let state = context.host.expect("the executor gives host kernels their state");
        // SAFETY: the regions are dense and valid; writes are disjoint from each other and from the reads
        // (the validator checked), and a host kernel has one block, so nobody else uses them or the state.
        let result = unsafe {
            let inputs: Vec<&[u8]> = self
                .reads
                .iter()
                .map(|region| std::slice::from_raw_parts(context.read_ptr(region), region.bytes))
                .collect();
            let mut outputs: Vec<&mut [u8]> = self
                .writes
                .iter()
                .map(|region| std::slice::from_raw_parts_mut(context.write_ptr(region), region.bytes))
                .collect();
            let state = (*state.get()).as_mut().expect("the companion made the state");
            state.run(&inputs, &mut outputs)
        };
        match result {
            Ok(()) => BlockEnd::Done,
            Err(fault) => BlockEnd::Failed(BlockFault::Host(fault)),
        }
    }
}

/// Spins and polls as often as the spec says.
pub(super) struct Synthetic {
    spec: SyntheticSpec,
    reads: Vec<Region>,
    y: Region,
}

impl Synthetic {
    pub(super) fn new(spec: &SyntheticSpec, kernel: &Kernel) -> Synthetic {
        Synthetic { spec: spec.clone(), reads: kernel.reads.clone(), y: kernel.writes[0] }
    }
}

impl BlockKernel for Synthetic {
    unsafe fn run(&self, context: &BlockContext<'_>, block: u32) -> BlockEnd {
        let spec = &self.spec;
        let first = block as usize * spec.tile_bytes;
        let bytes = spec.tile_bytes.min(spec.bytes - first);
        // SAFETY: the tile is inside the output, which only this block uses; the inputs are valid.
        let tile = unsafe { std::slice::from_raw_parts_mut(context.write_ptr(&self.y).add(first), bytes) };
        spec.meter.iter().for_each(|meter| meter.start());
        for poll in 0..spec.polls {
            let start = Instant::now();
            while start.elapsed() < Duration::from_nanos(u64::from(spec.poll_ns)) {
                std::hint::spin_loop();
            }
            if poll + 1 == spec.polls {
                // What is lost when a killed block does not run again.
                for (at, byte) in tile.iter_mut().enumerate() {
                    *byte = 0xDB ^ at as u8;
                }
            }
            spec.meter.iter().for_each(|meter| meter.poll(1));
            if context.poll.stop() {
                return BlockEnd::Killed;
            }
        }
        let inputs = self.reads.iter().map(|region| {
            // SAFETY: as above.
            unsafe { std::slice::from_raw_parts(context.read_ptr(region), region.bytes) }
        });
        let digest = spec.digest(inputs);
        for (at, byte) in tile.iter_mut().enumerate() {
            *byte = SyntheticSpec::byte(digest, first + at);
        }
        BlockEnd::Done
    }
}
