//! Tests: every kernel of every sample, and of many random ones, by itself, with each of its operands in
//! memory of its own, as large as the plan says that it is.
//!
//! Tasks have all their operands in one piece of memory, where a kernel that leaves one finds another.
//! Here it finds nothing, and a driver that watches for that says so (`crates/reef-cuda/emulator`). Bytes
//! of a strided operand that are not its own must stay as they are.

mod random;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reef_base::{Buffer, Rng};
use reef_compile::samples::{self, Sample};
use reef_plan::{DeviceKind, Isa, Kernel, Place, Plan, Precision, Region, Target};

use crate::code::Code;
use crate::cut::{CudaCutter, SPLIT_BLOCKS};
use crate::descriptor::{self, Launch, PART_OWN, Placing, Report};
use crate::driver::{Context, DeviceBytes, Driver, PinnedBytes, Properties, Stream};
use crate::host_step::is_hosted;
use crate::loaded::unsupported;

/// Numbers of multiprocessors that plans are cut for.
const CUTS: [usize; 4] = [1, 2, 5, 64];
/// How far results may be off in each precision, as a share of the largest value: what is off by more is
/// wrong for other reasons than rounding.
const TOLERANCES: [f64; 4] = [2e-4, 2e-2, 2e-2, 1e-1];
/// Random samples.
const RANDOM: u64 = 100;
/// What memory holds before a kernel writes it.
const STALE: u8 = 0x5A;

/// A device without an executor.
struct Bench {
    context: Arc<Context>,
    code: Code,
    stream: Stream,
    isa: Isa,
    arrivals: DeviceBytes,
    /// A report, then a word that is zero: nothing is evicted.
    pinned: PinnedBytes,
    /// The next launch's number, of all.
    runs: AtomicU64,
}

/// The memory of a task, on the host.
struct Task {
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    arena: Vec<u8>,
}

/// Operands where they lie: those of a kernel of [`apart`].
struct Apart<'a> {
    reads: &'a [DeviceBytes],
    writes: &'a [DeviceBytes],
    parts: &'a DeviceBytes,
}

impl Placing for Apart<'_> {
    /// From nothing on: launches have no memory of a task.
    fn offset(&self, place: Place) -> Option<u64> {
        match place {
            Place::Input(index) => Some(self.reads[usize::from(index)].address()),
            Place::Output(index) => Some(self.writes[usize::from(index)].address()),
            Place::Arena | Place::Weight(_) => unreachable!("operands are in memory of their own"),
        }
    }

    fn weight(&self, _index: u32) -> u64 {
        unreachable!("as above")
    }

    fn parts(&self) -> u64 {
        self.parts.address()
    }
}

/// The kernel, with its operands as inputs and outputs of their own.
fn apart(kernel: &Kernel) -> Kernel {
    let own = |region: &Region, place| Region { place, offset: 0, ..*region };
    let reads =
        kernel.reads.iter().enumerate().map(|(index, region)| own(region, Place::Input(index as u16)));
    let writes =
        kernel.writes.iter().enumerate().map(|(index, region)| own(region, Place::Output(index as u16)));
    Kernel { reads: reads.collect(), writes: writes.collect(), ..kernel.clone() }
}

impl Task {
    fn place<'a>(&'a self, plan: &Plan, region: &Region) -> Vec<u8> {
        let bytes = |of: &'a [u8]| of[region.offset..region.end()].to_vec();
        match region.place {
            Place::Input(index) => bytes(&self.inputs[usize::from(index)]),
            Place::Output(index) => bytes(&self.outputs[usize::from(index)]),
            Place::Arena => bytes(&self.arena),
            Place::Weight(index) => {
                let weight = &plan.weights()[index as usize];
                let packed = plan.store().get(weight.key, weight.packing).expect("the plan packed it");
                packed.as_slice()[region.offset..region.end()].to_vec()
            }
        }
    }

    /// Takes in what a kernel made of an operand of it.
    fn take(&mut self, region: &Region, made: &[u8], what: &str) {
        let place = match region.place {
            Place::Output(index) => &mut self.outputs[usize::from(index)],
            Place::Arena => &mut self.arena,
            place => unreachable!("nobody writes {place:?}"),
        };
        let place = &mut place[region.offset..region.end()];
        if let Some(lane) = region.lane {
            for (at, (before, after)) in place.iter().zip(made).enumerate() {
                let is_own = at % lane.stride < lane.width;
                assert!(is_own || before == after, "{what}: byte {at} of an operand is another's");
            }
        }
        place.copy_from_slice(made);
    }
}

impl Bench {
    fn new() -> Bench {
        let driver = Driver::load().expect("the emulated driver is there");
        let properties = Properties::of(driver, 0).expect("it has a device");
        let context = Context::of(0).expect("which can be used");
        let code = Code::load(&context, &properties).expect("there are kernels for it");
        let stream = Stream::new(&context, 0).expect("there is a stream");
        let words = 1 + SPLIT_BLOCKS;
        let arrivals = DeviceBytes::new(&context, words * size_of::<u64>()).expect("there is memory");
        stream.clear(&arrivals).expect("it can be cleared");
        let pinned = PinnedBytes::zeroed(&context, size_of::<Report>() + 64).expect("there is memory");
        let isa = Isa::Sm(properties.arch as u16);
        Bench { context, code, stream, isa, arrivals, pinned, runs: AtomicU64::new(1) }
    }

    /// Memory with these bytes, and no more.
    #[allow(unsafe_code)]
    fn upload(&self, bytes: &[u8]) -> DeviceBytes {
        let memory = DeviceBytes::new(&self.context, bytes.len()).expect("there is memory");
        // SAFETY: both have so many bytes, and live until the copy is done, which is waited for.
        unsafe { self.stream.upload(memory.address(), bytes.as_ptr(), bytes.len()) }.expect("it is copied");
        self.stream.synchronize().expect("as above");
        memory
    }

    #[allow(unsafe_code)]
    fn download(&self, memory: &DeviceBytes, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: as in `upload`.
        unsafe { self.stream.download(bytes.as_mut_ptr(), memory.address(), len) }.expect("it is copied");
        self.stream.synchronize().expect("as above");
        bytes
    }

    /// Runs a kernel of a task by itself.
    #[allow(unsafe_code)]
    fn run(&self, plan: &Plan, kernel: &Kernel, number: u32, task: &mut Task) {
        let upload = |regions: &[Region]| -> Vec<DeviceBytes> {
            regions.iter().map(|region| self.upload(&task.place(plan, region))).collect()
        };
        let (reads, writes) = (upload(&kernel.reads), upload(&kernel.writes));
        let what = format!("{}, kernel {}", plan.name(), kernel.name);
        let parts = self.upload(&vec![STALE; descriptor::parts_bytes(&kernel.spec)]);
        let places = Apart { reads: &reads, writes: &writes, parts: &parts };
        let described = descriptor::describe(&apart(kernel), plan.target().precision, &places);
        let described = described.unwrap_or_else(|why| panic!("{what}: {why}"));
        let descriptor = self.upload(&described.descriptor);
        let grid = described.grid(kernel.spec.blocks() as u32);
        let pinned = self.pinned.device_address().expect("the device sees it");
        let tile = self.code.tile(described.function);
        let launch = Launch {
            descriptor: descriptor.address(),
            base: 0,
            evicted: pinned + size_of::<Report>() as u64,
            arrivals: self.arrivals.address(),
            report: pinned,
            number,
            first: 0,
            blocks: grid.blocks,
            function: tile.number,
            // Nothing is evicted.
            epoch: 1,
            kernel: 0,
            part: PART_OWN,
            reserved: 0,
            run: self.runs.fetch_add(1, Ordering::Relaxed),
        };
        // SAFETY: the function takes a launch, and all that this one names lives until it has ended.
        unsafe { self.stream.launch(tile.function, grid, &launch) }.expect("it is launched");
        self.stream.synchronize().unwrap_or_else(|error| panic!("{what}: {error}"));
        // SAFETY: the memory is so large and aligned, and the launch that wrote there has ended.
        let report: Report = unsafe { std::ptr::read_volatile(self.pinned.as_ptr().cast()) };
        assert_eq!((report.number, report.skipped, report.failed), (number, 0, 0), "{what}");
        for (region, memory) in kernel.writes.iter().zip(&writes) {
            task.take(region, &self.download(memory, region.bytes), &what);
        }
    }

    /// Runs a sample kernel by kernel; false if the device cannot.
    fn sample(&self, sample: &Sample, cus: usize, precision: Precision) -> bool {
        let target = Target { device: DeviceKind::Cuda, isa: self.isa, cus, window: 0, precision };
        let plan = sample.plan(&CudaCutter::new(target)).expect("samples compile");
        if unsupported(&plan).is_some() || plan.kernels().iter().any(is_hosted) {
            return false;
        }
        let mut task = Task {
            inputs: sample.inputs.iter().map(|tensor| tensor.bytes().as_slice().to_vec()).collect(),
            outputs: plan.outputs().iter().map(|spec| vec![STALE; spec.bytes()]).collect(),
            arena: vec![STALE; plan.arena_bytes()],
        };
        for (index, kernel) in plan.kernels().iter().enumerate() {
            self.run(&plan, kernel, index as u32 + 1, &mut task);
        }
        let outputs: Vec<Buffer> = task.outputs.iter().map(|bytes| Buffer::copy_from(bytes)).collect();
        sample.check_within(&outputs, TOLERANCES[precision as usize]).unwrap_or_else(|what| panic!("{what}"));
        true
    }
}

/// Samples with a kernel that the host runs.
const HOSTED: [&str; 12] = [
    "elements taken by indices",
    "slices put by indices",
    "largest of windows",
    "non-zero",
    "compress",
    "LSTM of integers",
    "decision trees",
    "image at points",
    "regions of an image",
    "windows and matrices",
    "product with packed weights",
    "host kernel",
];

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn kernels_keep_to_their_operands() {
    let bench = Bench::new();
    let samples = samples::all();
    for (cus, precision) in CUTS.into_iter().zip(Precision::ALL) {
        let left_out = samples.iter().filter(|sample| !bench.sample(sample, cus, precision));
        let left_out: Vec<&str> = left_out.map(|sample| sample.name).collect();
        assert_eq!(left_out, HOSTED, "the host runs these, and no others");
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn kernels_of_random_shapes_keep_to_their_operands() {
    let bench = Bench::new();
    for seed in 0..RANDOM {
        let sample = random::sample(&mut Rng::new(seed));
        println!("seed {seed}: {}", sample.name);
        let (cus, precision) = (CUTS[seed as usize / 4 % 4], Precision::ALL[seed as usize % 4]);
        assert!(bench.sample(&sample, cus, precision), "{} cannot run", sample.name);
    }
}
