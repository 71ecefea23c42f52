//! Measured models: what each kernel takes of a GPU, alone and with its compute units shared.

use reef_base::Nanos;
use serde::Deserialize;

use crate::constants::GpuConstants;
use crate::error::SimError;

/// A kernel as it was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredKernel {
    /// As its compiler called it.
    pub name: String,
    /// Blocks of its grid.
    pub blocks: u32,
    /// Microseconds alone on the device.
    pub solo_us: u32,
    /// Microseconds when 1, 2, 3 … blocks share a compute unit; as many as fit one.
    pub us_by_blocks_per_cu: Vec<u32>,
    /// Buffers that its arguments name.
    pub storages: Vec<u32>,
}

/// A model as it was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// In the order of launches.
    pub kernels: Vec<MeasuredKernel>,
}

/// The models of DISB on an MI50, in the order of the paper's tables.
const BUILT_IN: [(&str, &str); 5] = [
    ("resnet152", include_str!("../data/mi50/resnet152.csv")),
    ("densenet201", include_str!("../data/mi50/densenet201.csv")),
    ("vgg19", include_str!("../data/mi50/vgg19.csv")),
    ("inceptionv3", include_str!("../data/mi50/inceptionv3.csv")),
    ("distilbert", include_str!("../data/mi50/distilbert.csv")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    index: usize,
    kernel: String,
    blocks: u32,
    #[serde(rename = "threads_per_block")]
    _threads_per_block: u32,
    solo_us: u32,
    us_by_blocks_per_cu: String,
    storage_ids: String,
}

impl Profile {
    /// The models that are built in, in the order of the paper's tables.
    pub fn all() -> Vec<Profile> {
        let parse =
            |(name, text): &(&str, &str)| Profile::parse(name, text).expect("built-in profiles are right");
        BUILT_IN.iter().map(parse).collect()
    }

    /// A model that is built in, by name.
    pub fn built_in(name: &str) -> Result<Profile, SimError> {
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Profile::parse(name, text),
            None => {
                let known = BUILT_IN.map(|(known, _)| known).join(", ");
                Err(SimError::UnknownModel { name: name.into(), known })
            }
        }
    }

    /// Reads a profile as `data/README.md` describes it.
    pub fn parse(name: &str, text: &str) -> Result<Profile, SimError> {
        let wrong = |problem: String| SimError::Profile { name: name.into(), problem };
        let mut kernels = Vec::new();
        for (at, row) in csv::Reader::from_reader(text.as_bytes()).deserialize::<Row>().enumerate() {
            let row = row.map_err(|error| wrong(error.to_string()))?;
            kernels.push(kernel(row, at).map_err(|problem| wrong(format!("kernel {at}: {problem}")))?);
        }
        if kernels.is_empty() {
            return Err(wrong("it has no kernel".into()));
        }
        Ok(Profile { name: name.into(), kernels })
    }
}

fn kernel(row: Row, at: usize) -> Result<MeasuredKernel, String> {
    /// Microseconds of a kernel: more is a mistake.
    const US_MAX: u32 = 10_000_000;
    let numbers = |column: &str, text: &str| -> Result<Vec<u32>, String> {
        let number = |word: &str| word.parse().map_err(|_| format!("{column}: {word:?} is no number"));
        text.split_whitespace().map(number).collect()
    };
    if row.index != at {
        return Err(format!("its index is {}", row.index));
    }
    let us_by_blocks_per_cu = numbers("us_by_blocks_per_cu", &row.us_by_blocks_per_cu)?;
    if row.blocks == 0 || us_by_blocks_per_cu.is_empty() {
        return Err("it has no blocks".into());
    }
    if us_by_blocks_per_cu.iter().chain([&row.solo_us]).any(|&us| us > US_MAX) {
        return Err(format!("it takes more than {US_MAX} us"));
    }
    let storages = numbers("storage_ids", &row.storage_ids)?;
    Ok(MeasuredKernel {
        name: row.kernel,
        blocks: row.blocks,
        solo_us: row.solo_us,
        us_by_blocks_per_cu,
        storages,
    })
}

/// What a kernel takes of a simulated GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Alone, between others of its stream.
    pub alone: Nanos,
    /// Blocks of its grid.
    pub blocks: u32,
    /// Compute units that its blocks lie on, as evenly as they can.
    pub cus: u32,
    /// Blocks of it on each of these.
    pub per_cu: u32,
    /// Blocks of it that fit a compute unit.
    pub occupancy: u32,
    /// The share of the device's room for blocks of its kind that it takes.
    pub room: f64,
    /// Nanoseconds of a block with 1, 2, 3 … of its kind on the compute unit; never falls.
    times: Vec<u64>,
}

impl Kernel {
    /// The least that a kernel takes: times are measured in steps of 2 µs.
    const LEAST: u64 = 500;

    /// The kernel on a GPU: its measured times without the edges of the measurement, and in waves, where its
    /// blocks do not fit the device together.
    pub fn of(measured: &MeasuredKernel, gpu: &GpuConstants) -> Kernel {
        let edge = gpu.measurement.edge_us.nanos();
        let mut slowest = Self::LEAST;
        let net = |&us: &u32| {
            slowest = slowest.max(Nanos::from_micros(u64::from(us)).since(edge).0);
            slowest
        };
        let times: Vec<u64> = measured.us_by_blocks_per_cu.iter().map(net).collect();
        let occupancy = times.len() as u32;
        let each = measured.blocks.div_ceil(gpu.cus);
        let (waves, rest) = (each / occupancy, each % occupancy);
        let last = if rest == 0 { 0 } else { times[rest as usize - 1] };
        let alone = Nanos(u64::from(waves) * times[times.len() - 1] + last);
        let per_cu = each.min(occupancy);
        let cus = measured.blocks.div_ceil(per_cu).min(gpu.cus);
        let room = f64::from(measured.blocks) / f64::from(gpu.cus * occupancy);
        Kernel { alone, blocks: measured.blocks, cus, per_cu, occupancy, room: room.min(1.0), times }
    }

    /// A kernel that is not measured: so many blocks, of which a compute unit runs one at once, take so long.
    pub fn made_up(blocks: u32, block: Nanos, alone: Nanos, cus: u32) -> Kernel {
        let room = (f64::from(blocks) / f64::from(cus)).min(1.0);
        let times = vec![block.0.max(1)];
        Kernel {
            alone: alone.max(Nanos(1)),
            blocks,
            cus: blocks.min(cus),
            per_cu: 1,
            occupancy: 1,
            room,
            times,
        }
    }

    /// How long a block takes with so many of its kind on the compute unit, of those that fit.
    pub fn block(&self, per_cu: u32) -> Nanos {
        Nanos(self.times[per_cu as usize - 1])
    }

    /// The most blocks of its kind that a compute unit runs within `time`, at once; 0 if there is none.
    pub fn within(&self, time: Nanos) -> u32 {
        self.times.partition_point(|&block| block <= time.0) as u32
    }

    /// How many times as long it takes where kernels together fill so much of the device: as long as with so
    /// many blocks of its own kind. Above 1 blocks wait for each other.
    pub fn slowdown(&self, filled: f64) -> f64 {
        let like = (filled.min(1.0) * f64::from(self.occupancy)).max(f64::from(self.per_cu));
        let (below, part) = (like as usize, like.fract());
        let at = |blocks: usize| self.times[blocks.clamp(1, self.times.len()) - 1] as f64;
        let time = at(below) + (at(below + 1) - at(below)) * part;
        time / at(self.per_cu as usize) * filled.max(1.0)
    }
}

/// A model on a simulated GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// In the order of launches.
    pub kernels: Vec<Kernel>,
}

impl Model {
    /// The model on a GPU.
    pub fn of(profile: &Profile, gpu: &GpuConstants) -> Model {
        let kernels = profile.kernels.iter().map(|kernel| Kernel::of(kernel, gpu)).collect();
        Model { name: profile.name.clone(), kernels }
    }

    /// A made-up model: equal kernels of one block per compute unit.
    pub fn made_up(gpu: &GpuConstants, kernels: u32, each: Nanos) -> Model {
        let kernel = Kernel::made_up(gpu.cus, each, each, gpu.cus);
        Model { name: format!("{kernels} kernels of {each}"), kernels: vec![kernel; kernels as usize] }
    }

    /// Its kernels one after the other.
    pub fn alone(&self) -> Nanos {
        Nanos(self.kernels.iter().map(|kernel| kernel.alone.0).sum())
    }
}
