//! Building a plan, and the proof that it may be preempted by killing blocks.
//!
//! Checked on byte ranges of the arena and of the request's buffers:
//! 1. inside a stage, no kernel writes a byte that another kernel of the stage (or another operand of its
//!    own) reads or writes, so blocks may run in any order and any number of times until the stage is done;
//! 2. across a restart window of `w` stages, nothing that a stage reads is overwritten by the next `w`
//!    stages, so a queued executor may go back that far;
//! 3. every region lies inside its place, only outputs and the arena are written, and by its specification
//!    no kernel reaches beyond its regions.

use crate::cut::Cutter;
use crate::plan::{Kernel, Plan, PlanHash, PlanParts, Stage};
use crate::reach::{packing_of, reaches};
use crate::region::{Place, Region};
use crate::spec::KernelSpec;
use reef_base::limits;

/// Why a plan was rejected. Names are kernels' names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A kernel writes what it reads, or the same byte through two operands.
    #[error("kernel {kernel} updates {region} in place: a killed block could not run again")]
    InPlace {
        /// The kernel.
        kernel: String,
        /// The region.
        region: String,
    },
    /// Two kernels of a stage touch the same byte and one writes it.
    #[error("stage {stage}: {writer} writes {region}, which {other} uses in the same stage")]
    StageOverlap {
        /// The stage.
        stage: usize,
        /// The kernel that writes.
        writer: String,
        /// The other kernel.
        other: String,
        /// What is written.
        region: String,
    },
    /// A stage inside the restart window overwrites an input.
    #[error(
        "stage {writer_stage} ({writer}) overwrites {region}, read {distance} stages earlier by {reader}"
    )]
    RestartWindow {
        /// The stage that writes.
        writer_stage: usize,
        /// The kernel that writes.
        writer: String,
        /// The kernel that would have to read again.
        reader: String,
        /// Stages between the two.
        distance: usize,
        /// What is written.
        region: String,
    },
    /// A region is outside its place, or a place that cannot be written is.
    #[error("kernel {kernel}: {region} {reason}")]
    Region {
        /// The kernel.
        kernel: String,
        /// The region.
        region: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A limit of reef is exceeded, or a part is missing.
    #[error("{what}: {count}, at most {max}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: usize,
        /// How much there may be.
        max: usize,
    },
    /// A kernel without blocks, a plan without stages, an unknown host kernel, a weight that was not packed.
    #[error("{what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

impl Plan {
    /// Validates `parts`, whose blocks need no scratch, and makes a plan of them.
    pub fn new(parts: PlanParts) -> Result<Plan, PlanError> {
        Self::with_scratch(parts, |_| 0)
    }

    /// Validates `parts`, whose kernels `cutter` has cut, and makes a plan of them.
    pub fn cut_by(cutter: &dyn Cutter, parts: PlanParts) -> Result<Plan, PlanError> {
        if parts.target != cutter.target() {
            let what = format!("plan {}: cut for {}, not {}", parts.name, cutter.target(), parts.target);
            return Err(PlanError::Malformed { what });
        }
        Self::with_scratch(parts, |kernel| cutter.scratch_bytes(&kernel.spec))
    }

    fn with_scratch(parts: PlanParts, scratch: impl Fn(&Kernel) -> usize) -> Result<Plan, PlanError> {
        check_counts(&parts)?;
        for (index, stage) in parts.stages.iter().enumerate() {
            for kernel in stage {
                check_kernel(&parts, kernel)?;
            }
            check_stage(index, stage)?;
        }
        check_window(&parts)?;
        let scratch_bytes = parts.stages.iter().flatten().map(scratch).max().unwrap_or(0);
        Ok(assemble(parts, scratch_bytes))
    }
}

fn check_counts(parts: &PlanParts) -> Result<(), PlanError> {
    let limit = |what, count, max| {
        if count > max { Err(PlanError::Limit { what, count, max }) } else { Ok(()) }
    };
    limit("stages", parts.stages.len(), limits::STAGES_MAX - 1)?;
    limit("inputs", parts.inputs.len(), limits::MODEL_TENSORS_MAX)?;
    limit("outputs", parts.outputs.len(), limits::MODEL_TENSORS_MAX)?;
    if parts.stages.is_empty() || parts.stages.iter().any(Vec::is_empty) {
        return Err(PlanError::Malformed { what: format!("plan {}: a stage without kernels", parts.name) });
    }
    for stage in &parts.stages {
        limit("kernels of a stage", stage.len(), limits::STAGE_KERNELS_MAX)?;
        if let Some(kernel) = stage.iter().find(|kernel| !kernel.spec.is_cut()) {
            let what = format!("kernel {} ({}): a tile or groups of 0", kernel.name, kernel.spec.name());
            return Err(PlanError::Malformed { what });
        }
        let blocks = stage.iter().map(|kernel| kernel.spec.blocks()).sum();
        limit("blocks of a stage", blocks, limits::STAGE_BLOCKS_MAX - 1)?;
    }
    for weight in &parts.weights {
        if parts.store.get(weight.key, weight.packing).is_none_or(|bytes| bytes.len() != weight.bytes) {
            return Err(PlanError::Malformed { what: format!("weight {:?} is not packed", weight.key) });
        }
    }
    Ok(())
}

fn check_kernel(parts: &PlanParts, kernel: &Kernel) -> Result<(), PlanError> {
    if kernel.spec.blocks() == 0 {
        return Err(PlanError::Malformed { what: format!("kernel {} has no blocks", kernel.name) });
    }
    check_reach(parts, kernel)?;
    let fail = |region: &Region, reason| {
        Err(PlanError::Region { kernel: kernel.name.clone(), region: region.to_string(), reason })
    };
    for region in kernel.reads.iter().chain(&kernel.writes) {
        let size = match region.place {
            Place::Input(index) => parts.inputs.get(index as usize).map(|spec| spec.bytes()),
            Place::Output(index) => parts.outputs.get(index as usize).map(|spec| spec.bytes()),
            Place::Arena => Some(parts.arena_bytes),
            Place::Weight(index) => parts.weights.get(index as usize).map(|weight| weight.bytes),
        };
        match size {
            None => return fail(region, "names a place that the plan does not have"),
            Some(size) if region.end() > size => return fail(region, "runs past the end of its place"),
            Some(_) => {}
        }
    }
    for (index, write) in kernel.writes.iter().enumerate() {
        if !matches!(write.place, Place::Arena | Place::Output(_)) {
            return fail(write, "may not be written");
        }
        let others = kernel.writes[..index].iter().chain(&kernel.reads);
        if let Some(region) = others.into_iter().find(|other| other.overlaps(write)) {
            return Err(PlanError::InPlace { kernel: kernel.name.clone(), region: region.to_string() });
        }
    }
    Ok(())
}

/// The kernel has the operands that its specification lists, and stays inside them.
fn check_reach(parts: &PlanParts, kernel: &Kernel) -> Result<(), PlanError> {
    let malformed = |what: &str| {
        Err(PlanError::Malformed { what: format!("kernel {} ({}) {what}", kernel.name, kernel.spec.name()) })
    };
    let packing = packing_of(kernel, &parts.weights);
    let (reads, writes) = match reaches(&kernel.spec, &parts.host_kernels, packing) {
        Ok(reaches) => reaches,
        Err(what) => return malformed(what),
    };
    let counted = !matches!(kernel.spec, KernelSpec::Synthetic(_));
    if writes.len() != kernel.writes.len() || counted && reads.len() != kernel.reads.len() {
        return malformed("has too many or too few operands");
    }
    let read = reads.iter().zip(&kernel.reads).map(|(reach, region)| (reach, region, false));
    let written = writes.iter().zip(&kernel.writes).map(|(reach, region)| (reach, region, true));
    for (reach, region, writes) in read.chain(written) {
        if let Some(reason) = reach.leaves(region, writes) {
            let (kernel, region) = (kernel.name.clone(), region.to_string());
            return Err(PlanError::Region { kernel, region, reason });
        }
    }
    Ok(())
}

fn check_stage(index: usize, stage: &[Kernel]) -> Result<(), PlanError> {
    for (at, writer) in stage.iter().enumerate() {
        for (_, other) in stage.iter().enumerate().filter(|(other, _)| *other != at) {
            if let Some(region) = first_clobbered(writer, other.reads.iter().chain(&other.writes)) {
                return Err(PlanError::StageOverlap {
                    stage: index,
                    writer: writer.name.clone(),
                    other: other.name.clone(),
                    region: region.to_string(),
                });
            }
        }
    }
    Ok(())
}

fn check_window(parts: &PlanParts) -> Result<(), PlanError> {
    for (reader_stage, readers) in parts.stages.iter().enumerate() {
        let window = parts.stages.iter().enumerate().skip(reader_stage + 1).take(parts.target.window);
        for (writer_stage, writers) in window {
            for (reader, writer) in readers.iter().flat_map(|r| writers.iter().map(move |w| (r, w))) {
                if let Some(region) = first_clobbered(writer, reader.reads.iter()) {
                    return Err(PlanError::RestartWindow {
                        writer_stage,
                        writer: writer.name.clone(),
                        reader: reader.name.clone(),
                        distance: writer_stage - reader_stage,
                        region: region.to_string(),
                    });
                }
            }
        }
    }
    Ok(())
}

/// The first region that `writer` writes and that overlaps one of `used`.
fn first_clobbered<'a>(
    writer: &'a Kernel,
    used: impl Iterator<Item = &'a Region> + Clone,
) -> Option<&'a Region> {
    writer.writes.iter().find(|write| used.clone().any(|region| region.overlaps(write)))
}

fn assemble(parts: PlanParts, scratch_bytes: usize) -> Plan {
    let mut kernels = Vec::new();
    let mut stages = Vec::with_capacity(parts.stages.len());
    for stage in parts.stages {
        let first = kernels.len() as u32;
        let mut first_blocks = vec![0u32];
        for kernel in &stage {
            let blocks = kernel.spec.blocks() as u32;
            first_blocks.push(first_blocks.last().expect("starts with 0") + blocks);
        }
        kernels.extend(stage);
        stages.push(Stage { kernels: first..kernels.len() as u32, first_blocks });
    }
    let mut plan = Plan {
        name: parts.name,
        target: parts.target,
        inputs: parts.inputs,
        outputs: parts.outputs,
        weights: parts.weights,
        store: parts.store,
        host_kernels: parts.host_kernels,
        kernels,
        stages,
        arena_bytes: parts.arena_bytes,
        scratch_bytes,
        hash: PlanHash([0; 16]),
    };
    let digest = blake3::hash(plan.to_string().as_bytes());
    plan.hash = PlanHash(digest.as_bytes()[..16].try_into().expect("a digest has 32 bytes"));
    plan
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use reef_graph::{DType, Shape};

    use super::*;
    use crate::plan::{Cost, IoSpec, Restart};
    use crate::spec::{ElemInput, ElemOp, ElementwiseSpec, LoopDim, SoftmaxSpec, SyntheticSpec};
    use crate::target::{DeviceKind, Isa, Precision, Target};
    use crate::weights::WeightStore;

    fn kernel(name: &str, reads: &[Region], writes: &[Region]) -> Kernel {
        let spec = SyntheticSpec {
            seed: 1,
            bytes: writes[0].bytes,
            tile_bytes: 16,
            polls: 1,
            poll_ns: 1,
            meter: None,
        };
        Kernel {
            name: name.into(),
            spec: KernelSpec::Synthetic(spec),
            reads: reads.to_vec(),
            writes: writes.to_vec(),
            restart: Restart::Safe,
            cost: Cost::default(),
        }
    }

    fn arena(offset: usize, bytes: usize) -> Region {
        Region::dense(Place::Arena, offset, bytes)
    }

    fn parts(stages: Vec<Vec<Kernel>>, window: usize) -> PlanParts {
        let io = |name: &str| IoSpec { name: name.into(), dtype: DType::U8, shape: Shape::from([64]) };
        PlanParts {
            name: "test".into(),
            target: Target {
                device: DeviceKind::Dummy,
                isa: Isa::Portable,
                cus: 2,
                window,
                precision: Precision::F32,
            },
            inputs: vec![io("x")],
            outputs: vec![io("y")],
            weights: vec![],
            store: Arc::new(WeightStore::new()),
            host_kernels: vec![],
            stages,
            arena_bytes: 256,
        }
    }

    #[test]
    fn a_good_plan_is_accepted_and_its_hash_names_its_content() {
        let input = Region::dense(Place::Input(0), 0, 64);
        let output = Region::dense(Place::Output(0), 0, 64);
        let stages = |offset| {
            vec![
                vec![kernel("a", &[input], &[arena(0, 64)]), kernel("b", &[input], &[arena(64, 32)])],
                vec![kernel("c", &[arena(offset, 64)], &[output])],
            ]
        };
        let plan = Plan::new(parts(stages(0), 1)).unwrap();
        assert_eq!(plan.stages()[0].blocks(), 6);
        assert_eq!(plan.stages()[0].locate(5), (1, 1));
        assert_eq!(plan.stages()[0].locate(3), (0, 3));
        assert_eq!(plan.stages()[1].locate(2), (2, 2));
        assert_eq!(plan.hash(), Plan::new(parts(stages(0), 1)).unwrap().hash());
        assert_ne!(plan.hash(), Plan::new(parts(stages(32), 1)).unwrap().hash());
    }

    #[test]
    fn an_in_place_kernel_is_rejected() {
        let stages = vec![vec![kernel("relu", &[arena(0, 64)], &[arena(32, 64)])]];
        assert!(matches!(Plan::new(parts(stages, 0)), Err(PlanError::InPlace { .. })));
    }

    #[test]
    fn an_overlap_inside_a_stage_is_rejected() {
        let write_write = vec![vec![kernel("a", &[], &[arena(0, 64)]), kernel("b", &[], &[arena(48, 64)])]];
        let read_write =
            vec![vec![kernel("a", &[arena(128, 32)], &[arena(0, 64)]), kernel("b", &[], &[arena(96, 64)])]];
        for stages in [write_write, read_write] {
            assert!(matches!(Plan::new(parts(stages, 0)), Err(PlanError::StageOverlap { stage: 0, .. })));
        }
    }

    #[test]
    fn a_broken_restart_window_is_rejected() {
        let stages = || {
            vec![
                vec![kernel("a", &[arena(0, 64)], &[arena(64, 64)])],
                vec![kernel("b", &[arena(64, 64)], &[arena(128, 64)])],
                vec![kernel("c", &[arena(128, 64)], &[arena(0, 64)])],
            ]
        };
        assert!(Plan::new(parts(stages(), 1)).is_ok());
        let error = Plan::new(parts(stages(), 2)).unwrap_err();
        assert!(matches!(error, PlanError::RestartWindow { writer_stage: 2, distance: 2, .. }), "{error}");
    }

    #[test]
    fn a_kernel_must_stay_inside_its_operands() {
        let axis = |extent, in_stride, out_stride| LoopDim { extent, in_stride, out_stride };
        let softmax = |rows: LoopDim, axis: LoopDim, x: Region, y: Region| {
            let spec = KernelSpec::Softmax(SoftmaxSpec { rows: vec![rows], axis, log: false, tile: 1 });
            Plan::new(parts(vec![vec![Kernel { spec, ..kernel("s", &[x], &[y]) }]], 0))
        };
        let (x, y) = (arena(0, 64), arena(64, 64));
        assert!(softmax(axis(4, 4, 4), axis(4, 1, 1), x, y).is_ok());
        for (rows, along) in [
            (axis(4, 4, 6), axis(4, 1, 1)),
            (axis(4, 6, 4), axis(4, 1, 1)),
            (axis(4, 1, 1), axis(5, 4, 3)),
            (axis(4, usize::MAX / 2, 4), axis(4, 1, 1)),
        ] {
            let error = softmax(rows, along, x, y).unwrap_err();
            assert!(
                matches!(&error, PlanError::Region { reason, .. } if reason.contains("smaller")),
                "{error}"
            );
        }
        // Two of four columns are the kernel's: it may walk down them, not across.
        let column = Region::column(Place::Arena, 64, 4, 8, 16);
        assert!(softmax(axis(4, 2, 4), axis(2, 1, 1), x, column).is_ok());
        let error = softmax(axis(4, 2, 4), axis(3, 1, 1), x, column).unwrap_err();
        assert!(matches!(error, PlanError::Region { .. }), "{error}");
        let error = softmax(axis(3, 2, 4), axis(2, 1, 2), x, column).unwrap_err();
        assert!(matches!(&error, PlanError::Region { reason, .. } if reason.contains("narrower")), "{error}");
    }

    #[test]
    fn a_kernel_needs_its_operands_and_a_program_its_registers() {
        let copy = |reads: &[Region], program: Vec<ElemOp>, stride: isize| {
            let input = ElemInput { dtype: DType::F32, offset: 3, strides: vec![stride] };
            let spec = KernelSpec::Elementwise(ElementwiseSpec {
                dims: vec![4],
                inputs: vec![input],
                program,
                out_dtype: DType::F32,
                out_strides: vec![1],
                tile: 4,
            });
            Plan::new(parts(vec![vec![Kernel { spec, ..kernel("e", reads, &[arena(64, 16)]) }]], 0))
        };
        let x = arena(0, 28);
        assert!(copy(&[x], vec![ElemOp::Load(0)], 1).is_ok());
        assert!(copy(&[x], vec![ElemOp::Load(0)], -1).is_ok());
        assert!(matches!(copy(&[x], vec![ElemOp::Load(0)], -2), Err(PlanError::Region { .. })));
        assert!(matches!(copy(&[x], vec![ElemOp::Load(0)], 2), Err(PlanError::Region { .. })));
        for (reads, program) in [
            (&[][..], vec![ElemOp::Load(0)]),
            (&[x, x], vec![ElemOp::Load(0)]),
            (&[x], vec![ElemOp::Load(1)]),
            (&[x], vec![ElemOp::Load(0), ElemOp::ToF32(1)]),
            (&[x], vec![]),
        ] {
            assert!(matches!(copy(reads, program, 1), Err(PlanError::Malformed { .. })));
        }
    }

    #[test]
    fn regions_must_lie_inside_places_that_may_be_written() {
        let outside = vec![vec![kernel("a", &[], &[arena(250, 64)])]];
        let input = vec![vec![kernel("a", &[], &[Region::dense(Place::Input(0), 0, 8)])]];
        let unknown = vec![vec![kernel("a", &[Region::dense(Place::Weight(3), 0, 8)], &[arena(0, 8)])]];
        for stages in [outside, input, unknown] {
            assert!(matches!(Plan::new(parts(stages, 0)), Err(PlanError::Region { .. })));
        }
        assert!(matches!(Plan::new(parts(vec![], 0)), Err(PlanError::Malformed { .. })));
    }
}
