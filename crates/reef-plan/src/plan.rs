//! The plan: stages of kernels over one arena, immutable and named by a hash.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use reef_graph::{DType, Shape};

use crate::host::HostKernel;
use crate::region::Region;
use crate::spec::KernelSpec;
use crate::target::Target;
use crate::weights::{WeightRef, WeightStore};

/// Whether a block of a kernel may be killed and run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Restart {
    /// At any poll point.
    Safe,
    /// It runs to its end once started.
    Never,
}

/// The work of a kernel, for estimates before anything is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

/// One operator or fused group of a plan.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name for people: the nodes of the model that it computes.
    pub name: String,
    /// What it computes.
    pub spec: KernelSpec,
    /// What it reads, in the order that the spec says.
    pub reads: Vec<Region>,
    /// What it writes, in the order that the spec says.
    pub writes: Vec<Region>,
    /// Whether its blocks may be killed.
    pub restart: Restart,
    /// Work of all its blocks.
    pub cost: Cost,
}

/// Kernels that may run at the same time. The next stage starts when all their blocks are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Indices of the kernels.
    pub kernels: Range<u32>,
    /// First block of every kernel inside the stage, then the total.
    pub first_blocks: Vec<u32>,
}

impl Stage {
    /// Blocks of all kernels.
    pub fn blocks(&self) -> u32 {
        *self.first_blocks.last().expect("a stage has the total at its end")
    }

    /// The kernel (index in the plan) and the block inside it that block `block` of the stage is.
    #[inline]
    pub fn locate(&self, block: u32) -> (usize, u32) {
        // Stages of one kernel are the rule.
        if self.first_blocks.len() == 2 {
            return (self.kernels.start as usize, block);
        }
        let kernel = self.first_blocks.partition_point(|&first| first <= block) - 1;
        (self.kernels.start as usize + kernel, block - self.first_blocks[kernel])
    }
}

/// An input or output of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoSpec {
    /// Name as clients write it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dense row-major shape, as the model has it.
    pub shape: Shape,
}

impl IoSpec {
    /// Bytes of the dense tensor.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes() * self.shape.elements()
    }
}

/// Names the content of a plan: equal plans have equal hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanHash(pub [u8; 16]);

impl fmt::Display for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A graph compiled for one target. Made by [`Plan::new`], which validates it; immutable since.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) inputs: Vec<IoSpec>,
    pub(crate) outputs: Vec<IoSpec>,
    pub(crate) weights: Vec<WeightRef>,
    pub(crate) store: Arc<WeightStore>,
    pub(crate) host_kernels: Vec<Arc<dyn HostKernel>>,
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) arena_bytes: usize,
    pub(crate) scratch_bytes: usize,
    pub(crate) hash: PlanHash,
}

/// Everything that a plan is made of, before it is validated.
#[derive(Clone, Debug)]
pub struct PlanParts {
    /// Name for people: the model and its input shapes.
    pub name: String,
    /// What it was compiled for.
    pub target: Target,
    /// The model's inputs.
    pub inputs: Vec<IoSpec>,
    /// The model's outputs.
    pub outputs: Vec<IoSpec>,
    /// Packed constants that kernels read as [`crate::Place::Weight`].
    pub weights: Vec<WeightRef>,
    /// Where their bytes are.
    pub store: Arc<WeightStore>,
    /// Host kernels.
    pub host_kernels: Vec<Arc<dyn HostKernel>>,
    /// Kernels, stage by stage.
    pub stages: Vec<Vec<Kernel>>,
    /// Bytes of the ephemeral arena of one task.
    pub arena_bytes: usize,
}

impl Plan {
    /// Name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the plan was compiled for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The model's inputs, in its order.
    pub fn inputs(&self) -> &[IoSpec] {
        &self.inputs
    }

    /// The model's outputs, in its order.
    pub fn outputs(&self) -> &[IoSpec] {
        &self.outputs
    }

    /// Packed constants.
    pub fn weights(&self) -> &[WeightRef] {
        &self.weights
    }

    /// Where the packed constants are.
    pub fn store(&self) -> &Arc<WeightStore> {
        &self.store
    }

    /// Host kernels.
    pub fn host_kernels(&self) -> &[Arc<dyn HostKernel>] {
        &self.host_kernels
    }

    /// Every kernel, in stage order.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// The stages, in execution order; at least one.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Bytes of the ephemeral arena of one task.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// Bytes of scratch that a compute unit needs for the plan's largest block, as the cutter said.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    /// Bytes of packed constants.
    pub fn weight_bytes(&self) -> usize {
        self.weights.iter().map(|weight| weight.bytes).sum()
    }

    /// Blocks of all stages.
    pub fn blocks(&self) -> u64 {
        self.stages.iter().map(|stage| u64::from(stage.blocks())).sum()
    }

    /// Work of all kernels.
    pub fn cost(&self) -> Cost {
        self.kernels.iter().fold(Cost::default(), |sum, kernel| Cost {
            flops: sum.flops + kernel.cost.flops,
            bytes: sum.bytes + kernel.cost.bytes,
        })
    }

    /// The hash of the content.
    pub fn hash(&self) -> PlanHash {
        self.hash
    }
}

/// A readable dump. Equal dumps mean equal plans, but for what host kernels do inside: it names them only.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan {} for {}", self.name, self.target)?;
        for (kind, specs) in [("in", &self.inputs), ("out", &self.outputs)] {
            for (index, spec) in specs.iter().enumerate() {
                writeln!(f, "{kind}{index} {} {}{}", spec.name, spec.dtype, spec.shape)?;
            }
        }
        for (index, weight) in self.weights.iter().enumerate() {
            writeln!(f, "w{index} {:032x} {:?} {} bytes", weight.key.0, weight.packing, weight.bytes)?;
        }
        writeln!(f, "arena {} bytes, scratch {} bytes", self.arena_bytes, self.scratch_bytes)?;
        for (index, stage) in self.stages.iter().enumerate() {
            writeln!(f, "stage {index}")?;
            for kernel in &self.kernels[stage.kernels.start as usize..stage.kernels.end as usize] {
                let join =
                    |regions: &[Region]| regions.iter().map(Region::to_string).collect::<Vec<_>>().join(" ");
                let (reads, writes) = (join(&kernel.reads), join(&kernel.writes));
                writeln!(f, "  {} {} blocks: {writes} <- {reads}", kernel.spec.name(), kernel.spec.blocks())?;
                writeln!(f, "    {:?} restart {:?}", kernel.spec, kernel.restart)?;
            }
        }
        Ok(())
    }
}
