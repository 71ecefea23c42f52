//! The validator from outside: every kind of kernel keeps to its operands, every limit is a limit.

use std::sync::Arc;

use reef_base::limits;
use reef_graph::vision::RoiAlign;
use reef_graph::{Binary, DType, PoolKind, Reduce, Shape, Taps, Tensor, Vision};
use reef_plan::{
    At, CompressSpec, ConvSpec, Cost, DepthwiseSpec, ElemInput, ElemOp, ElementwiseSpec, Epilogue,
    GatherSpec, HostFault, HostKernel, HostState, IoSpec, Isa, Kernel, KernelSpec, LayerNormSpec, Layout,
    LoopDim, MatMulSpec, Matrices, NonMaxSuppressionSpec, NonZeroSpec, OwnLayout, Packing, Place, Plan,
    PlanError, PlanParts, PoolSpec, RecurrentSpec, ReduceSpec, Region, ResampleSpec, Restart, SelectionSpec,
    SyntheticSpec, Target, TensorSpec, UniqueSpec, VisionSpec, WeightStore,
};

fn parts(stages: Vec<Vec<Kernel>>) -> PlanParts {
    let io = |name: &str| IoSpec { name: name.into(), dtype: DType::U8, shape: Shape::from([64]) };
    PlanParts {
        name: "test".into(),
        target: Target::cpu(Isa::Portable, 1),
        inputs: vec![io("x")],
        outputs: vec![io("y")],
        weights: vec![],
        store: Arc::new(WeightStore::new()),
        host_kernels: vec![Arc::new(Foreign::new())],
        stages,
        arena_bytes: 1 << 20,
    }
}

/// A kernel whose operands have so many bytes, one after the other in the arena; the last one is written.
fn kernel(spec: KernelSpec, operands: &[usize]) -> Kernel {
    kernel_writing(1, spec, operands)
}

/// The same, with so many operands at the end that are written.
fn kernel_writing(written: usize, spec: KernelSpec, operands: &[usize]) -> Kernel {
    let mut offset = 0;
    let mut regions: Vec<_> = operands
        .iter()
        .map(|&bytes| {
            offset += bytes;
            Region::dense(Place::Arena, offset - bytes, bytes)
        })
        .collect();
    let writes = regions.split_off(regions.len() - written);
    let (name, cost) = ("k".into(), Cost::default());
    Kernel { name, spec, reads: regions, writes, restart: Restart::Safe, cost }
}

fn synthetic(bytes: usize, tile_bytes: usize) -> KernelSpec {
    KernelSpec::Synthetic(SyntheticSpec { seed: 1, bytes, tile_bytes, polls: 1, poll_ns: 0, meter: None })
}

/// Such operands are enough, and each of them is with `element` bytes less too small.
fn needs(spec: KernelSpec, operands: &[(usize, usize)]) {
    needs_writing(1, spec, operands);
}

fn needs_writing(written: usize, spec: KernelSpec, operands: &[(usize, usize)]) {
    let plan = |bytes: &[usize]| Plan::new(parts(vec![vec![kernel_writing(written, spec.clone(), bytes)]]));
    let enough: Vec<_> = operands.iter().map(|&(count, size)| count * size).collect();
    if let Err(error) = plan(&enough) {
        panic!("{}: {error}", spec.name());
    }
    for (index, &(_, size)) in operands.iter().enumerate() {
        let mut less = enough.clone();
        less[index] -= size;
        let error = plan(&less).expect_err("it reaches beyond its operand");
        let small = matches!(&error, PlanError::Region { reason, .. } if reason.contains("smaller"));
        assert!(small, "{}, operand {index}: {error}", spec.name());
    }
    let fewer = plan(&enough[1..]).expect_err("an operand is missing");
    assert!(matches!(fewer, PlanError::Malformed { .. }), "{}: {fewer}", spec.name());
}

const F32: usize = 4;

fn conv(epilogue: Epilogue) -> ConvSpec {
    ConvSpec {
        batch: 2,
        in_hw: [5, 4],
        in_c: 6,
        in_pixel_stride: 8,
        out_hw: [3, 2],
        out_c: 10,
        out_pixel_stride: 11,
        kernel: [3, 3],
        strides: [1, 1],
        pads: [0, 0],
        dilations: [1, 1],
        groups: 2,
        panel_width: 4,
        normed: false,
        epilogue,
        tile_rows: 4,
        tile_columns: 4,
        columns_inner: true,
        splits: 1,
    }
}

/// A 1×1 convolution that norms its input.
fn normed(epilogue: Epilogue) -> ConvSpec {
    ConvSpec { kernel: [1, 1], strides: [2, 3], groups: 1, normed: true, ..conv(epilogue) }
}

fn all() -> Epilogue {
    Epilogue { bias: true, residual_pixel_stride: Some(12), activation: None }
}

#[test]
fn convolutions_keep_to_their_operands() {
    // 40 pixels of 8, the last of 6; 2 groups of 2 panels of 4 by 27; 12 pixels of 11, the last of 10.
    let (x, w, y) = ((39 * 8 + 6, F32), (2 * 2 * 4 * 27, F32), (11 * 11 + 10, F32));
    needs(KernelSpec::Conv(conv(Epilogue::default())), &[x, w, y]);
    needs(KernelSpec::Conv(conv(all())), &[x, w, (10, F32), (11 * 12 + 10, F32), y]);
    // 3 panels of 4 by 6.
    let (w, by_channel) = ((3 * 4 * 6, F32), (6, F32));
    needs(KernelSpec::Conv(normed(Epilogue::default())), &[x, w, by_channel, by_channel, y]);
    let behind = [(10, F32), (11 * 12 + 10, F32), by_channel, by_channel];
    needs(KernelSpec::Conv(normed(all())), &[&[x, w][..], &behind, &[y]].concat());
    for broken in [
        ConvSpec { groups: 4, ..conv(all()) },
        ConvSpec { out_c: 9, ..conv(all()) },
        ConvSpec { in_c: 0, ..conv(all()) },
    ] {
        let sizes = [x.0 * F32, w.0 * F32, 10 * F32, (11 * 12 + 10) * F32, y.0 * F32];
        let error = Plan::new(parts(vec![vec![kernel(KernelSpec::Conv(broken), &sizes)]])).unwrap_err();
        assert!(matches!(&error, PlanError::Malformed { what } if what.contains("groups")), "{error}");
    }
}

/// What norms its input makes zeros of padding something else.
#[test]
fn inputs_are_normed_without_padding_and_windows_only() {
    let normed = || normed(Epilogue::default());
    for broken in [
        ConvSpec { kernel: [1, 2], ..normed() },
        ConvSpec { groups: 2, ..normed() },
        ConvSpec { pads: [0, 1], ..normed() },
        // The last line of pixels would be below the image.
        ConvSpec { strides: [3, 3], ..normed() },
    ] {
        let sizes = [39 * 8 + 6, 1000, 6, 6, 11 * 11 + 10].map(|count| count * F32);
        let error = Plan::new(parts(vec![vec![kernel(KernelSpec::Conv(broken), &sizes)]])).unwrap_err();
        assert!(matches!(&error, PlanError::Malformed { what } if what.contains("norms")), "{error}");
    }
}

/// Counting blocks would divide by them.
#[test]
fn tiles_and_groups_of_nothing_are_refused() {
    for broken in [
        KernelSpec::Conv(ConvSpec { groups: 0, ..conv(all()) }),
        KernelSpec::Conv(ConvSpec { tile_rows: 0, ..conv(all()) }),
        KernelSpec::Conv(ConvSpec { tile_columns: 0, ..conv(all()) }),
        synthetic(64, 0),
    ] {
        let error = Plan::new(parts(vec![vec![kernel(broken, &[4; 5])]])).unwrap_err();
        assert!(matches!(&error, PlanError::Malformed { what } if what.contains("of 0")), "{error}");
    }
}

#[test]
fn depthwise_convolutions_and_pools_keep_to_their_operands() {
    let spec = DepthwiseSpec {
        batch: 2,
        channels: 6,
        in_hw: [5, 4],
        in_pixel_stride: 8,
        out_hw: [3, 2],
        out_pixel_stride: 7,
        kernel: [3, 2],
        strides: [1, 1],
        pads: [0, 0],
        dilations: [1, 1],
        epilogue: all(),
        tile_rows: 2,
    };
    let (x, y) = ((39 * 8 + 6, F32), (11 * 7 + 6, F32));
    needs(KernelSpec::Depthwise(spec), &[x, (36, F32), (6, F32), (11 * 12 + 6, F32), y]);
    let spec = PoolSpec {
        kind: PoolKind::Max,
        dtype: DType::F32,
        batch: 2,
        channels: 6,
        in_hw: [5, 4],
        in_pixel_stride: 8,
        out_hw: [3, 2],
        out_pixel_stride: 7,
        kernel: [3, 3],
        strides: [1, 1],
        pads: [0; 4],
        dilations: [1, 1],
        tile_rows: 2,
    };
    needs(KernelSpec::Pool(spec), &[x, y]);
}

#[test]
fn matrix_products_keep_to_their_operands() {
    let spec = MatMulSpec {
        batch: vec![[2, 100, 0, 60]],
        m: 4,
        n: 5,
        k: 6,
        a_strides: [7, 1],
        b_strides: [8, 1],
        c_row_stride: 9,
        alpha: 1.0,
        tile_rows: 2,
        tile_columns: 2,
    };
    let (a, b, c) = (100 + 3 * 7 + 6, 5 * 8 + 5, 60 + 3 * 9 + 5);
    needs(KernelSpec::MatMul(spec), &[(a, F32), (b, F32), (c, F32)]);
}

#[test]
fn reductions_norms_and_gathers_keep_to_their_operands() {
    let dim = |extent, in_stride, out_stride| LoopDim { extent, in_stride, out_stride };
    let (kept, reduced) = (vec![dim(3, 10, 2)], vec![dim(4, 2, 0)]);
    let reduce = ReduceSpec { reduce: Reduce::Sum, kept, reduced, tile: 2 };
    needs(KernelSpec::Reduce(reduce), &[(2 * 10 + 3 * 2 + 1, F32), (5, F32)]);
    let norm = LayerNormSpec { rows: 3, len: 5, epsilon: 1e-5, shift: true, residual: true, tile: 2 };
    let (all, len) = ((15, F32), (5, F32));
    needs(KernelSpec::LayerNorm(norm), &[all, len, len, all, all]);
    let (dtype, index_dtype) = (DType::F32, DType::I64);
    let gather = GatherSpec { dtype, index_dtype, outer: 2, extent: 7, inner: 3, picks: 5, tile: 2 };
    needs(KernelSpec::Gather(gather), &[(42, 4), (5, 8), (30, 4)]);
    let taps = Taps::new(7, 0.0, &[vec![(Some(6), 1.0)], vec![(None, 1.0)]]).unwrap();
    let resample = ResampleSpec { taps, outer: 2, inner: 3, tile_rows: 2, tile_columns: 2 };
    needs(KernelSpec::Resample(resample), &[(42, F32), (12, F32)]);
    let inputs = vec![Shape::from([2, 3, 5, 4]), Shape::from([6, 4]), Shape::from([6])];
    let align = RoiAlign { bins: [2, 3], samples: 2, scale: 1.0, half_pixel: true, largest: false };
    let vision = VisionSpec { vision: Vision::RoiAlign(align), inputs, channels_last: true, tile: 1 };
    needs(KernelSpec::Vision(vision), &[(120, F32), (24, F32), (6, 8), (108, F32)]);
}

#[test]
fn recurrent_networks_keep_to_their_operands() {
    use reef_graph::{Cell, GateFunction};
    let spec = RecurrentSpec {
        cell: Cell::Lstm { input_forget: false },
        functions: vec![GateFunction::Tanh; 3],
        clip: None,
        reverse: false,
        steps: 3,
        first: 1,
        all_steps: 4,
        batch: 2,
        hidden: 5,
        integers: None,
        computed: false,
        sums_row_stride: 25,
        y_step_stride: 13,
        bias: false,
        reset_bias: false,
        peepholes: true,
        lengths: true,
        h_before: true,
        c_before: true,
        y: true,
        h_after: true,
        c_after: true,
        panel_width: 4,
        tile_rows: 2,
    };
    // 6 rows of 25, the last of 20; 4 gates of 2 panels of 4 by 5.
    let (sums, r, y, state) = ((5 * 25 + 20, F32), (4 * 2 * 4 * 5, F32), (2 * 13 + 10, F32), (10, F32));
    let operands = [sums, r, (15, F32), (2, 4), state, state, y, state, state];
    needs_writing(3, KernelSpec::Recurrent(spec.clone()), &operands);
    let gru = RecurrentSpec {
        cell: Cell::Gru { linear_before_reset: true },
        functions: vec![GateFunction::Tanh; 2],
        reset_bias: true,
        peepholes: false,
        c_before: false,
        c_after: false,
        panel_width: 0,
        ..spec.clone()
    };
    let sums = (5 * 25 + 15, F32);
    needs_writing(2, KernelSpec::Recurrent(gru), &[sums, (75, F32), (5, F32), (2, 4), state, y, state]);
    let broken = KernelSpec::Recurrent(RecurrentSpec { first: 2, ..spec });
    let error = Plan::new(parts(vec![vec![kernel_writing(3, broken, &[800; 9])]])).unwrap_err();
    assert!(matches!(&error, PlanError::Malformed { what } if what.contains("more steps")), "{error}");
}

#[test]
fn selections_keep_to_their_operands() {
    let needs = |written, spec, operands: &[(usize, usize)]| {
        needs_writing(written, KernelSpec::Selection(spec), operands);
    };
    let non_zero = NonZeroSpec { dtype: DType::U8, dims: vec![3, 5] };
    needs(2, SelectionSpec::NonZero(non_zero), &[(15, 1), (30, 8), (1, 8)]);
    let compress = CompressSpec { dtype: DType::F16, outer: 2, extent: 5, inner: 3, conditions: 4 };
    needs(2, SelectionSpec::Compress(compress), &[(30, 2), (4, 1), (30, 2), (1, 8)]);
    let unique = UniqueSpec { dtype: DType::F32, outer: 2, extent: 5, inner: 3, sorted: true };
    let list = (5, 8);
    needs(5, SelectionSpec::Unique(unique), &[(30, 4), (30, 4), list, list, list, (1, 8)]);
    let boxes = suppression();
    let one = (1, 8);
    let operands = [(56, 4), (42, 4), one, (1, 4), (1, 4), (72, 8), one];
    needs(2, SelectionSpec::NonMaxSuppression(boxes), &operands);
}

fn suppression() -> NonMaxSuppressionSpec {
    NonMaxSuppressionSpec {
        batches: 2,
        classes: 3,
        boxes: 7,
        per_class: 4,
        center_point_box: false,
        score_threshold: true,
    }
}

#[test]
fn selections_select_among_what_there_is() {
    let compress = CompressSpec { dtype: DType::U8, outer: 1, extent: 5, inner: 0, conditions: 6 };
    let unique = UniqueSpec { dtype: DType::U8, outer: 0, extent: 1 << 32, inner: 1, sorted: true };
    for (spec, what) in [
        (SelectionSpec::NonZero(NonZeroSpec { dtype: DType::U8, dims: vec![] }), "has no axis"),
        (SelectionSpec::Compress(compress), "more than there is"),
        (SelectionSpec::NonMaxSuppression(NonMaxSuppressionSpec { per_class: 8, ..suppression() }), "more"),
        (SelectionSpec::Unique(unique), "32 bits"),
    ] {
        let error = Plan::new(parts(vec![vec![kernel(KernelSpec::Selection(spec), &[8; 8])]])).unwrap_err();
        assert!(matches!(&error, PlanError::Malformed { what: said } if said.contains(what)), "{error}");
    }
}

#[test]
fn a_program_uses_only_what_it_has_made() {
    let plan = |program: Vec<ElemOp>| {
        let spec = ElementwiseSpec {
            dims: vec![4],
            inputs: vec![ElemInput { dtype: DType::F32, offset: 0, strides: vec![1] }],
            program,
            out_dtype: DType::F32,
            out_strides: vec![1],
            tile: 4,
        };
        Plan::new(parts(vec![vec![kernel(KernelSpec::Elementwise(spec), &[16, 16])]]))
    };
    let (load, add, choose) = (ElemOp::Load(0), |a, b| ElemOp::Binary(Binary::Add, a, b), ElemOp::Where);
    let whole = ElemOp::ToInt(0, DType::Bool);
    assert!(plan(vec![load, add(0, 0), whole, choose(2, 0, 1)]).is_ok());
    let error = plan(vec![load, add(0, 0), choose(1, 0, 1)]).unwrap_err();
    assert!(matches!(&error, PlanError::Malformed { what } if what.contains("chooses by floats")), "{error}");
    for op in [add(1, 0), add(0, 1), choose(1, 0, 0), choose(0, 1, 0), choose(0, 0, 1), ElemOp::ToF32(1)] {
        let error = plan(vec![load, op]).unwrap_err();
        let said = matches!(&error, PlanError::Malformed { what } if what.contains("has not made"));
        assert!(said, "{op:?}: {error}");
    }
}

#[test]
fn the_blocks_of_a_stage_are_those_of_its_kernels_in_order() {
    let at = |offset, bytes| {
        let region = Region::dense(Place::Arena, offset, bytes);
        Kernel { writes: vec![region], ..kernel(synthetic(bytes, 16), &[bytes]) }
    };
    let plan = Plan::new(parts(vec![vec![at(0, 16)], vec![at(0, 64), at(64, 30), at(128, 1)]])).unwrap();
    let (narrow, wide) = (&plan.stages()[0], &plan.stages()[1]);
    assert_eq!((narrow.blocks(), narrow.locate(0)), (1, (0, 0)));
    let blocks: Vec<_> = (0..wide.blocks()).map(|block| wide.locate(block)).collect();
    assert_eq!(blocks, [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (3, 0)]);
}

#[test]
fn a_walk_backwards_begins_far_enough_behind() {
    let reversed = |offset: usize, stride: isize| {
        let spec = ElementwiseSpec {
            dims: vec![4],
            inputs: vec![ElemInput { dtype: DType::F32, offset, strides: vec![stride] }],
            program: vec![ElemOp::Load(0)],
            out_dtype: DType::F32,
            out_strides: vec![1],
            tile: 4,
        };
        Plan::new(parts(vec![vec![kernel(KernelSpec::Elementwise(spec), &[64, 16])]]))
    };
    assert!(reversed(3, -1).is_ok() && reversed(9, -3).is_ok());
    for (offset, stride) in [(2, -1), (8, -3)] {
        let error = reversed(offset, stride).unwrap_err();
        assert!(matches!(&error, PlanError::Region { reason, .. } if reason.contains("behind")), "{error}");
    }
}

/// A host kernel of one input of 5 and one output of 3 numbers.
#[derive(Clone, Debug)]
struct Foreign([TensorSpec; 2]);

impl Foreign {
    fn new() -> Foreign {
        Foreign([5, 3].map(|count| TensorSpec { dtype: DType::I64, shape: Shape::from([count]) }))
    }
}

impl HostKernel for Foreign {
    fn name(&self) -> &str {
        "foreign"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &self.0[..1]
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.0[1..]
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        unreachable!("a plan is not run here")
    }
}

#[test]
fn host_kernels_keep_to_their_operands() {
    needs(KernelSpec::Host(0), &[(5, 8), (3, 8)]);
    let unknown = Plan::new(parts(vec![vec![kernel(KernelSpec::Host(1), &[40, 24])]])).unwrap_err();
    assert!(matches!(&unknown, PlanError::Malformed { what } if what.contains("does not have")), "{unknown}");
}

#[test]
fn every_limit_is_the_last_that_passes() {
    let tiny = |count: usize| -> Vec<Kernel> {
        let place = |at| Region::dense(Place::Arena, at, 1);
        (0..count).map(|at| Kernel { writes: vec![place(at)], ..kernel(synthetic(1, 1), &[1]) }).collect()
    };
    let check = |parts: PlanParts, limit: Option<(&str, usize)>| match (Plan::new(parts), limit) {
        (Ok(_), None) => {}
        (Err(PlanError::Limit { what, count, max }), Some((wanted, most))) => {
            assert_eq!((what, count, max), (wanted, most + 1, most));
        }
        (result, limit) => panic!("{:?} where {limit:?} should be", result.map(|plan| plan.hash())),
    };
    let most = limits::STAGE_KERNELS_MAX;
    check(parts(vec![tiny(most)]), None);
    check(parts(vec![tiny(most + 1)]), Some(("kernels of a stage", most)));
    let most = limits::STAGES_MAX - 1;
    check(parts(vec![tiny(1); most + 1]), Some(("stages", most)));
    let most = limits::STAGE_BLOCKS_MAX - 1;
    let wide = |blocks: usize| {
        let big = PlanParts { arena_bytes: blocks, ..parts(vec![]) };
        PlanParts { stages: vec![vec![kernel(synthetic(blocks, 1), &[blocks])]], ..big }
    };
    check(wide(most), None);
    check(wide(most + 1), Some(("blocks of a stage", most)));
    let most = limits::MODEL_TENSORS_MAX;
    let io = || IoSpec { name: "t".into(), dtype: DType::U8, shape: Shape::from([1]) };
    let ios = |inputs: usize, outputs: usize| PlanParts {
        inputs: vec![io(); inputs],
        outputs: vec![io(); outputs],
        ..parts(vec![tiny(1)])
    };
    check(ios(most, most), None);
    check(ios(most + 1, 1), Some(("inputs", most)));
    check(ios(1, most + 1), Some(("outputs", most)));
}

#[test]
fn what_is_missing_is_said() {
    let malformed = |parts: PlanParts, what: &str| match Plan::new(parts) {
        Err(PlanError::Malformed { what: said }) => assert!(said.contains(what), "{said}"),
        other => panic!("{:?} where '{what}' should be", other.map(|plan| plan.hash())),
    };
    malformed(parts(vec![]), "without kernels");
    malformed(parts(vec![vec![kernel(synthetic(1, 1), &[1])], vec![]]), "without kernels");
    malformed(parts(vec![vec![kernel(synthetic(0, 1), &[0])]]), "no blocks");
    let store = Arc::new(WeightStore::new());
    let tensor = Tensor::f32([3], &[1.0, 2.0, 3.0]);
    let packed = store.insert(&tensor, Packing::Raw);
    let with = |weight| PlanParts {
        weights: vec![weight],
        store: store.clone(),
        ..parts(vec![vec![kernel(synthetic(1, 1), &[1])]])
    };
    assert!(Plan::new(with(packed.clone())).is_ok());
    malformed(with(reef_plan::WeightRef { bytes: packed.bytes - 1, ..packed.clone() }), "not packed");
    let other = Arc::new(WeightStore::new());
    malformed(PlanParts { store: other, ..with(packed) }, "not packed");
}

#[test]
fn a_kernel_must_not_write_a_byte_twice_or_what_it_reads() {
    let two = |first: Region, second: Region| {
        let spec = KernelSpec::Host(0);
        let host: Arc<dyn HostKernel> = Arc::new(Pair(
            [5, 3, 3].map(|count| TensorSpec { dtype: DType::I64, shape: Shape::from([count]) }),
        ));
        let writes = vec![first, second];
        let kernel = Kernel { writes, ..kernel(spec, &[40, 24]) };
        Plan::new(PlanParts { host_kernels: vec![host], ..parts(vec![vec![kernel]]) })
    };
    let arena = |offset| Region::dense(Place::Arena, offset, 24);
    assert!(two(arena(40), arena(64)).is_ok());
    for (first, second) in [(40, 63), (63, 40), (39, 64), (40, 16)] {
        let error = two(arena(first), arena(second)).unwrap_err();
        assert!(matches!(error, PlanError::InPlace { .. }), "{first} {second}: {error}");
    }
}

/// A host kernel with two outputs.
#[derive(Clone, Debug)]
struct Pair([TensorSpec; 3]);

impl HostKernel for Pair {
    fn name(&self) -> &str {
        "pair"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &self.0[..1]
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.0[1..]
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        unreachable!("a plan is not run here")
    }
}

#[test]
fn a_window_reaches_as_far_as_the_target_says_and_no_further() {
    let copy = |from: usize, to: usize| {
        let region = |offset| Region::dense(Place::Arena, offset, 16);
        let spec = synthetic(16, 16);
        vec![Kernel { reads: vec![region(from)], writes: vec![region(to)], ..kernel(spec, &[16]) }]
    };
    // The third stage behind the first overwrites what the first reads.
    let stages = || vec![copy(0, 16), copy(16, 32), copy(32, 48), copy(48, 0)];
    for (window, fine) in [(0, true), (2, true), (3, false), (9, false)] {
        let target = Target { window, ..Target::cpu(Isa::Portable, 1) };
        let plan = Plan::new(PlanParts { target, ..parts(stages()) });
        match plan {
            Ok(_) => assert!(fine, "window {window}"),
            Err(PlanError::RestartWindow { writer_stage: 3, distance: 3, .. }) => assert!(!fine),
            Err(other) => panic!("{other}"),
        }
    }
}

/// A layout of one byte per weight.
struct Bytes;

impl Layout for Bytes {
    fn name(&self) -> &'static str {
        "bytes"
    }

    fn bytes(&self, of: Matrices) -> usize {
        of.groups * of.outputs * of.depth
    }

    fn pack(&self, _: Matrices, _: &dyn Fn(At) -> f32, _: &mut [u8]) {}

    fn read(&self, _: Matrices, _: &[u8], _: At) -> f32 {
        0.0
    }
}

/// Weights are as large as their layout says, and in one that the kernel can read.
#[test]
fn weights_are_packed_for_the_kernel_that_reads_them() {
    let own = Packing::Own { layout: OwnLayout(&Bytes), groups: 2, transposed: false };
    let plan = |packing: Packing, panel_width: usize, less: usize| {
        let store = Arc::new(WeightStore::new());
        let weights = Tensor::f32([10, 3, 3, 3], &[0.5; 270]);
        let weight = store.insert(&weights, packing);
        let spec = KernelSpec::Conv(ConvSpec { panel_width, ..conv(Epilogue::default()) });
        let sizes = [(39 * 8 + 6) * F32, 0, (11 * 11 + 10) * F32];
        let mut kernel = kernel(spec, &sizes);
        kernel.reads[1] = Region::dense(Place::Weight(0), 0, weight.bytes - less);
        Plan::new(PlanParts { weights: vec![weight], store, ..parts(vec![vec![kernel]]) })
    };
    let panels = |width| Packing::ConvPanels { groups: 2, width };
    for (packing, width) in [(panels(4), 4), (own, 0)] {
        plan(packing, width, 0).unwrap();
        assert!(matches!(plan(packing, width, 1), Err(PlanError::Region { .. })));
    }
    for (packing, width) in [(panels(4), 8), (Packing::Raw, 4), (Packing::Raw, 0)] {
        assert!(matches!(plan(packing, width, 0), Err(PlanError::Malformed { .. })));
    }
}

/// Of a kernel only the cut is lost in one piece.
#[test]
fn kernels_in_one_piece_are_what_they_mean() {
    let whole = |spec: ConvSpec| KernelSpec::Conv(spec).whole();
    let one = conv(all());
    let cut = ConvSpec { tile_rows: 5, tile_columns: 8, columns_inner: false, panel_width: 8, ..one.clone() };
    assert_ne!(KernelSpec::Conv(one.clone()), KernelSpec::Conv(cut.clone()));
    assert_eq!(whole(one.clone()), whole(cut));
    assert_eq!(whole(one.clone()).blocks(), 2, "a block for each group");
    assert_ne!(whole(one.clone()), whole(ConvSpec { strides: [2, 1], ..one }));
}
