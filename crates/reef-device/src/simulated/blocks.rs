//! What blocks of simulated devices do: synthetic ones are computed here, real ones by the interpreter that
//! the device was given.

use std::sync::Arc;

use reef_base::{AlignedBytes, Nanos};
use reef_plan::{HostFault, Interpreter, Kernel, KernelSpec, Place, Plan, Region, SyntheticSpec, TaskMemory};

use crate::contract::Io;

/// Virtual time of a block beside its work.
const BLOCK_NS: u64 = 1_000;
/// Operations, and bytes, that a compute unit gets done in a virtual nanosecond.
const PER_NS: u64 = 10;

/// A block of a plan: its stage, and its number there.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) plan: &'a Plan,
    pub(super) stage: usize,
    pub(super) block: u32,
}

impl<'a> Block<'a> {
    /// The kernel, its index, and the block inside it.
    fn locate(&self) -> (&'a Kernel, usize, u32) {
        let (kernel, block) = self.plan.stages()[self.stage].locate(self.block);
        (&self.plan.kernels()[kernel], kernel, block)
    }

    /// How long it takes.
    pub(super) fn time(&self) -> Nanos {
        block_time(self.locate().0)
    }
}

impl Block<'_> {
    /// Counts a start of it.
    pub(super) fn start_meter(&self) {
        if let KernelSpec::Synthetic(spec) = &self.locate().0.spec {
            spec.meter.iter().for_each(|meter| meter.start());
        }
    }

    /// Counts the polls of a run of it that took so long.
    pub(super) fn meter(&self, ran: Nanos) {
        let KernelSpec::Synthetic(spec) = &self.locate().0.spec else { return };
        let polls = ran.0.checked_div(u64::from(spec.poll_ns)).unwrap_or_default();
        spec.meter.iter().for_each(|meter| meter.poll(polls.min(u64::from(spec.polls))));
    }
}

/// Virtual time of one block of a kernel, by its plan: what a synthetic one says, and else by its work.
pub fn block_time(kernel: &Kernel) -> Nanos {
    match &kernel.spec {
        KernelSpec::Synthetic(spec) => Nanos(u64::from(spec.polls) * u64::from(spec.poll_ns)),
        spec => {
            let work = (kernel.cost.flops + kernel.cost.bytes) / PER_NS;
            Nanos(BLOCK_NS + work / (spec.blocks() as u64).max(1))
        }
    }
}

/// Whoever computes blocks of real kernels, if anybody.
type Hands<'a> = Option<&'a Arc<dyn Interpreter>>;

/// Computes a block.
pub(super) fn compute(
    hands: Hands<'_>,
    block: Block<'_>,
    io: &mut Io,
    arena: &mut AlignedBytes,
) -> Result<(), HostFault> {
    let (kernel, index, inside) = block.locate();
    let KernelSpec::Synthetic(spec) = &kernel.spec else {
        let hands = hands.expect("plans that nobody can run are refused");
        return hands.run_block(block.plan, index, inside, memory(io, arena));
    };
    let digest = spec.digest(kernel.reads.iter().map(|region| bytes(io, arena, region)));
    let out = bytes_mut(io, arena, &kernel.writes[0]);
    for index in tile(spec, inside) {
        out[index] = SyntheticSpec::byte(digest, index);
    }
    Ok(())
}

/// Leaves rubbish where a block writes that was killed.
pub(super) fn spoil(hands: Hands<'_>, block: Block<'_>, io: &mut Io, arena: &mut AlignedBytes) {
    let (kernel, index, inside) = block.locate();
    match &kernel.spec {
        KernelSpec::Synthetic(spec) => {
            bytes_mut(io, arena, &kernel.writes[0])[tile(spec, inside)].fill(0xAA);
        }
        _ => {
            let hands = hands.expect("plans that nobody can run are refused");
            hands.spoil_block(block.plan, index, inside, memory(io, arena));
        }
    }
}

fn memory<'a>(io: &'a mut Io, arena: &'a mut AlignedBytes) -> TaskMemory<'a> {
    TaskMemory { inputs: &io.inputs, outputs: &mut io.outputs, arena }
}

fn tile(spec: &SyntheticSpec, block: u32) -> std::ops::Range<usize> {
    let start = block as usize * spec.tile_bytes;
    start..(start + spec.tile_bytes).min(spec.bytes)
}

fn bytes<'a>(io: &'a Io, arena: &'a AlignedBytes, region: &Region) -> &'a [u8] {
    let place = match region.place {
        Place::Input(index) => io.inputs[index as usize].as_slice(),
        Place::Output(index) => io.outputs[index as usize].as_slice(),
        Place::Arena => arena.as_slice(),
        Place::Weight(_) => unreachable!("synthetic plans have no weights"),
    };
    &place[region.offset..region.end()]
}

fn bytes_mut<'a>(io: &'a mut Io, arena: &'a mut AlignedBytes, region: &Region) -> &'a mut [u8] {
    let place = match region.place {
        Place::Output(index) => io.outputs[index as usize].as_mut_slice(),
        Place::Arena => arena.as_mut_slice(),
        Place::Input(_) | Place::Weight(_) => unreachable!("the validator admits only outputs and the arena"),
    };
    &mut place[region.offset..region.end()]
}
