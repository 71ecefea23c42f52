//! Plans in the memory of the device: weights, and what each kernel is given.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use reef_base::{AlignedBytes, Nanos};
use reef_device::{Admission, DeviceError};
use reef_graph::AllowedIndices;
use reef_plan::{HostFault, Kernel, KernelSpec, Place, Plan, Region, Restart};

use crate::board::{Fit, Kernels, Step};
use crate::code::{Code, Tile};
use crate::descriptor::{self, ALIGNMENT, Described, Placing};
use crate::driver::Grid;
use crate::error::CudaError;
use crate::graphs::{GraphMaker, Graphs, Member};
use crate::host_step::{HostStep, States, is_hosted};
use crate::memory::{Claim, DevicePart, DevicePool, MemoryError};
use crate::upload::Uploader;

/// Where inputs, outputs and arena of a plan lie in the memory of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
    pub(crate) arena: usize,
    /// Parts of tiles that blocks share.
    pub(crate) parts: usize,
    /// All of it.
    pub(crate) bytes: usize,
}

/// What every place in a task's memory is aligned to.
const GRAIN: usize = 256;

impl Layout {
    pub(crate) fn of(plan: &Plan) -> Layout {
        let mut bytes = 0usize;
        let mut place = |size: usize| {
            let at = bytes;
            bytes = (bytes + size).next_multiple_of(GRAIN);
            at
        };
        let inputs = plan.inputs().iter().map(|spec| place(spec.bytes())).collect();
        let outputs = plan.outputs().iter().map(|spec| place(spec.bytes())).collect();
        let arena = place(plan.arena_bytes());
        let parts = plan.kernels().iter().map(|kernel| descriptor::parts_bytes(&kernel.spec)).max();
        let parts = place(parts.unwrap_or(0));
        Layout { inputs, outputs, arena, parts, bytes }
    }
}

/// Packed weights on the device: those that several plans use are there once.
#[derive(Debug, Default)]
pub(crate) struct DeviceWeights(Mutex<HashMap<usize, Weak<DeviceWeight>>>);

/// A packed weight on the device, and the host's bytes, whose address names it.
#[derive(Debug)]
pub(crate) struct DeviceWeight {
    bytes: DevicePart,
    packed: Arc<AlignedBytes>,
}

impl DeviceWeights {
    /// The weight on the device, and whether it is new: then its bytes are still to be copied.
    fn get(
        &self,
        packed: &Arc<AlignedBytes>,
        pool: &Arc<DevicePool>,
    ) -> Result<(Arc<DeviceWeight>, bool), MemoryError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, weight| weight.strong_count() > 0);
        let address = Arc::as_ptr(packed).addr();
        if let Some(weight) = held.get(&address).and_then(Weak::upgrade) {
            return Ok((weight, false));
        }
        let weight = Arc::new(DeviceWeight { bytes: pool.part(packed.len())?, packed: packed.clone() });
        held.insert(address, Arc::downgrade(&weight));
        Ok((weight, true))
    }
}

/// A kernel that can be launched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launchable {
    pub(crate) tile: Tile,
    /// Blocks of it that fit a multiprocessor.
    pub(crate) together: u32,
    pub(crate) grid: Grid,
    /// Address of its descriptor.
    pub(crate) descriptor: u64,
}

/// A kernel that is ready to run.
#[derive(Clone, Debug)]
pub(crate) enum Prepared {
    Device(Launchable),
    Host(HostStep),
}

/// A plan on the device.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) plan: Arc<Plan>,
    pub(crate) layout: Layout,
    pub(crate) kernels: Vec<Prepared>,
    /// The same, as the board sees them.
    pub(crate) steps: Arc<[Step]>,
    pub(crate) states: States,
    /// Nanoseconds of each kernel as it ran whole; 0 before it has.
    times: Vec<AtomicU64>,
    /// Once the scheme is one that launches graphs. Before what they use, so that they go first.
    graphs: OnceLock<Graphs>,
    /// Keep what the descriptors point to.
    _descriptors: DevicePart,
    weights: Vec<Arc<DeviceWeight>>,
    _admission: Admission,
    _claim: Claim,
}

impl Loaded {
    /// A kernel that the device runs.
    pub(crate) fn launchable(&self, kernel: usize) -> Option<Launchable> {
        match self.kernels[kernel] {
            Prepared::Device(launchable) => Some(launchable),
            Prepared::Host(_) => None,
        }
    }

    /// A kernel that the host runs.
    pub(crate) fn host_step(&self, kernel: usize) -> Option<&HostStep> {
        match &self.kernels[kernel] {
            Prepared::Device(_) => None,
            Prepared::Host(step) => Some(step),
        }
    }

    /// Makes graphs of its kernels, unless they are there.
    pub(crate) fn make_graphs(&self, maker: &GraphMaker) -> Result<(), CudaError> {
        if self.graphs.get().is_some() {
            return Ok(());
        }
        let member = |(kernel, prepared): (usize, &Prepared)| match prepared {
            Prepared::Device(launchable) => Some(Member {
                kernel,
                function: launchable.tile.function,
                number: launchable.tile.number,
                grid: launchable.grid,
                descriptor: launchable.descriptor,
                shares: self.splits(kernel) > 1,
            }),
            Prepared::Host(_) => None,
        };
        let members: Vec<Option<Member>> = self.kernels.iter().enumerate().map(member).collect();
        let parts = members.split(Option::is_none).filter(|part| !part.is_empty());
        let parts: Vec<Vec<Member>> = parts.map(|part| part.iter().copied().flatten().collect()).collect();
        // Who else made them meanwhile made the same.
        let _ = self.graphs.set(maker.graphs(&parts)?);
        Ok(())
    }

    /// Its graphs, if they are made.
    pub(crate) fn graphs(&self) -> Option<&Graphs> {
        self.graphs.get()
    }

    /// Blocks of a kernel that share a tile.
    fn splits(&self, kernel: usize) -> u32 {
        match &self.plan.kernels()[kernel].spec {
            KernelSpec::Conv(spec) => spec.splits as u32,
            _ => 1,
        }
    }

    /// The host's bytes of a packed weight.
    pub(crate) fn packed(&self, weight: u32) -> &[u8] {
        self.weights[weight as usize].packed.as_slice()
    }

    /// Bytes from the start of a task's memory to a region of it.
    pub(crate) fn offset(&self, region: &Region) -> u64 {
        let places = Places { layout: &self.layout, weights: &self.weights };
        let place = places.offset(region.place).expect("the region is in the task's memory");
        place + region.offset as u64
    }

    /// A kernel ran whole and took so long. One that had the device for itself is the truth; who is slower
    /// for others' sake moves it a little.
    pub(crate) fn measured(&self, kernel: usize, took: Nanos) {
        let (before, took) = (self.times[kernel].load(Ordering::Relaxed), took.0.max(1));
        let now = if before == 0 || took < before { took } else { before + (took - before) / 16 };
        self.times[kernel].store(now, Ordering::Relaxed);
    }

    /// A kernel could do nothing with a value.
    pub(crate) fn fault(&self, kernel: usize, value: i64) -> HostFault {
        let kernel = &self.plan.kernels()[kernel];
        let reason = match &kernel.spec {
            KernelSpec::Gather(spec) => format!("index {value}, {}", AllowedIndices(spec.extent)),
            KernelSpec::Recurrent(spec) => {
                let (name, most) = (spec.cell.name(), spec.all_steps);
                format!("{name}: one of sequence_lens is {value}, allowed are 0 to {most}")
            }
            other => format!("{} of {value}", other.name()),
        };
        HostFault::of_input(kernel.name.as_str(), reason)
    }

    /// How long a kernel took, where it has run.
    fn time(&self, kernel: usize) -> Option<Nanos> {
        Some(self.times[kernel].load(Ordering::Relaxed)).filter(|&took| took > 0).map(Nanos)
    }

    /// Time of a block of each kernel on a device of so many units, where it has run.
    pub(crate) fn block_times(&self, units: usize) -> Vec<Option<u64>> {
        let time = |(time, step): (&AtomicU64, &Step)| {
            let rounds = u64::from(step.blocks()).div_ceil(units as u64).max(1);
            match time.load(Ordering::Relaxed) {
                0 => None,
                took => Some((took / rounds).max(1)),
            }
        };
        self.times.iter().zip(&*self.steps).map(time).collect()
    }
}

impl Kernels for Arc<Loaded> {
    fn fit(&self, kernel: usize, units: usize) -> Fit {
        let Some(Launchable { together, grid, .. }) = self.launchable(kernel) else {
            return Fit { together: 1, wave: None, whole: None, grain: 1 };
        };
        let waves = u64::from(grid.blocks).div_ceil(units as u64 * u64::from(together)).max(1);
        let whole = self.time(kernel);
        Fit { together, wave: whole.map(|took| Nanos(took.0 / waves)), whole, grain: self.splits(kernel) }
    }

    fn graph_end(&self, kernel: usize) -> Option<usize> {
        self.graphs.get()?.end_of(kernel)
    }
}

/// Where the places of a plan are.
struct Places<'a> {
    layout: &'a Layout,
    weights: &'a [Arc<DeviceWeight>],
}

impl Placing for Places<'_> {
    fn offset(&self, place: Place) -> Option<u64> {
        match place {
            Place::Input(index) => Some(self.layout.inputs[usize::from(index)] as u64),
            Place::Output(index) => Some(self.layout.outputs[usize::from(index)] as u64),
            Place::Arena => Some(self.layout.arena as u64),
            Place::Weight(_) => None,
        }
    }

    fn weight(&self, index: u32) -> u64 {
        self.weights[index as usize].bytes.address()
    }

    fn parts(&self) -> u64 {
        self.layout.parts as u64
    }
}

/// What [`load`] works with.
pub(crate) struct Loader<'a> {
    pub(crate) pool: &'a Arc<DevicePool>,
    pub(crate) uploader: &'a mut Uploader,
    pub(crate) weights: &'a DeviceWeights,
    pub(crate) code: &'a Code,
}

/// What a plan's descriptors refuse, before anything is taken for it.
pub(crate) fn unsupported(plan: &Plan) -> Option<DeviceError> {
    struct Nowhere;
    impl Placing for Nowhere {
        fn offset(&self, place: Place) -> Option<u64> {
            (!matches!(place, Place::Weight(_))).then_some(0)
        }
        fn weight(&self, _index: u32) -> u64 {
            0
        }
        fn parts(&self) -> u64 {
            0
        }
    }
    let precision = plan.target().precision;
    let refused = |kernel: &Kernel| match kernel.restart {
        _ if is_hosted(kernel) => None,
        Restart::Safe => descriptor::describe(kernel, precision, &Nowhere).err(),
        Restart::Never => Some("it may run once only, and what is evicted is queued again".to_string()),
    };
    plan.kernels().iter().find_map(|kernel| {
        let reason = refused(kernel)?;
        let reason = format!("kernel {}: {reason}", kernel.name);
        Some(DeviceError::Unsupported { plan: plan.name().into(), reason })
    })
}

/// The kernels of a plan that the device has code for, by index.
fn describe(plan: &Plan, places: &Places<'_>) -> Vec<(usize, Described)> {
    let (precision, has_code) = (plan.target().precision, "the device has code for the plan");
    let of_device = plan.kernels().iter().enumerate().filter(|(_, kernel)| !is_hosted(kernel));
    of_device
        .map(|(index, kernel)| (index, descriptor::describe(kernel, precision, places).expect(has_code)))
        .collect()
}

impl Loader<'_> {
    /// Uploads a plan that the device has code for; all of it is there when this returns.
    pub(crate) fn load(
        &mut self,
        plan: Arc<Plan>,
        packed: &[Arc<AlignedBytes>],
        states: States,
        (admission, claim): (Admission, Claim),
    ) -> Result<Loaded, MemoryError> {
        let found = packed.iter().map(|bytes| self.weights.get(bytes, self.pool));
        let (weights, new): (Vec<_>, Vec<_>) = found.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let layout = Layout::of(&plan);
        let places = Places { layout: &layout, weights: &weights };
        let described = describe(&plan, &places);
        let mut bytes = Vec::new();
        for (_, one) in &described {
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            bytes.extend_from_slice(&one.descriptor);
        }
        let descriptors = self.pool.part(bytes.len())?;
        // All memory is there: from here on only the device can fail.
        let fresh = weights.iter().zip(new).filter(|(_, new)| *new).map(|(weight, _)| weight);
        self.upload(fresh, (&descriptors, &bytes))?;
        let mut next = 0usize;
        let mut described = described.into_iter().peekable();
        let mut prepare = |(index, kernel): (usize, &Kernel)| {
            let Some((_, one)) = described.next_if(|(at, _)| *at == index) else {
                return Prepared::Host(HostStep::of(kernel));
            };
            let at = next.next_multiple_of(ALIGNMENT);
            next = at + one.descriptor.len();
            Prepared::Device(Launchable {
                tile: self.code.tile(one.function),
                together: self.code.together(self.code.tile(one.function), one.shared_bytes),
                grid: one.grid(kernel.spec.blocks() as u32),
                descriptor: descriptors.address() + at as u64,
            })
        };
        let kernels: Vec<Prepared> = plan.kernels().iter().enumerate().map(&mut prepare).collect();
        let step = |kernel: &Prepared| match kernel {
            Prepared::Device(kernel) => Step::Device(kernel.grid.blocks),
            Prepared::Host(_) => Step::Host,
        };
        Ok(Loaded {
            steps: kernels.iter().map(step).collect(),
            states,
            times: kernels.iter().map(|_| AtomicU64::new(0)).collect(),
            kernels,
            layout,
            graphs: OnceLock::new(),
            _descriptors: descriptors,
            weights,
            _admission: admission,
            _claim: claim,
            plan,
        })
    }

    /// Copies weights and descriptors, and waits until they are there.
    fn upload<'w>(
        &mut self,
        mut weights: impl Iterator<Item = &'w Arc<DeviceWeight>>,
        (descriptors, bytes): (&DevicePart, &[u8]),
    ) -> Result<(), CudaError> {
        let begun = weights
            .try_for_each(|weight| self.uploader.upload(&weight.bytes, weight.packed.as_slice()))
            .and_then(|()| self.uploader.upload(descriptors, bytes));
        // Also where one has failed: nothing is copied any more to what is then dropped.
        self.uploader.finish().and(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reef_plan::{DeviceKind, Isa, Precision, SyntheticStage, Target, synthetic_plan};

    #[test]
    fn places_do_not_overlap() {
        let target = Target {
            device: DeviceKind::Cuda,
            isa: Isa::Sm(90),
            cus: 2,
            window: 0,
            precision: Precision::Tf32,
        };
        let stage = SyntheticStage { blocks: 10, polls: 1, poll_ns: 1 };
        let plan = synthetic_plan("p", target, 1, &[stage; 2]).unwrap();
        let layout = Layout::of(&plan);
        assert_eq!((&layout.inputs[..], &layout.outputs[..], layout.arena), (&[0][..], &[256][..], 512));
        assert!(layout.bytes >= 512 + plan.arena_bytes());
        assert_eq!(unsupported(&plan), None);
    }
}
