//! Plans that somebody else has cut do not get near the kernels.

use std::sync::Arc;

use reef_graph::{Cell, DType, GateFunction, Tensor};
use reef_plan::{
    At, ConvSpec, Cost, Epilogue, IoSpec, Isa, Kernel, KernelSpec, Layout, Matrices, OwnLayout, Packing,
    Place, Plan, PlanParts, RecurrentSpec, Region, Restart, Target, WeightStore,
};

use super::*;

/// Nobody's layout: a byte for each weight, so it is far too small for panels.
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

const TARGET: Target = Target::cpu(Isa::Portable, 1);

/// A product of 3 rows of 4 with a matrix of 4 by 8.
fn parts(packing: Packing, panel_width: usize, tile_columns: usize) -> PlanParts {
    let store = Arc::new(WeightStore::new());
    let weight = store.insert(&Tensor::f32([4, 8], &[1.0; 32]), packing);
    let spec = ConvSpec {
        batch: 1,
        in_hw: [1, 3],
        in_c: 4,
        in_pixel_stride: 4,
        out_hw: [1, 3],
        out_c: 8,
        out_pixel_stride: 8,
        kernel: [1, 1],
        strides: [1, 1],
        pads: [0, 0],
        dilations: [1, 1],
        groups: 1,
        panel_width,
        normed: false,
        epilogue: Epilogue::default(),
        tile_rows: 3,
        tile_columns,
        columns_inner: true,
        splits: 1,
    };
    let kernel = Kernel {
        name: "product".into(),
        spec: KernelSpec::Conv(spec),
        reads: vec![
            Region::dense(Place::Input(0), 0, 3 * 4 * 4),
            Region::dense(Place::Weight(0), 0, weight.bytes),
        ],
        writes: vec![Region::dense(Place::Output(0), 0, 3 * 8 * 4)],
        restart: Restart::Safe,
        cost: Cost::default(),
    };
    let io = |name: &str, columns: usize| IoSpec {
        name: name.into(),
        dtype: DType::F32,
        shape: [3, columns].into(),
    };
    PlanParts {
        name: "product".into(),
        target: TARGET,
        inputs: vec![io("x", 4)],
        outputs: vec![io("y", 8)],
        weights: vec![weight],
        store,
        host_kernels: vec![],
        stages: vec![vec![kernel]],
        arena_bytes: 0,
    }
}

fn panels(width: u32) -> Packing {
    Packing::MatrixPanels { width, transposed: false }
}

#[test]
fn plans_that_were_cut_for_other_kernels_are_refused() {
    let cutter = CpuCutter::new(TARGET);
    let cut = |parts| Plan::cut_by(&cutter, parts).unwrap();
    assert_eq!(flaw(&cut(parts(panels(8), 8, 8))), None);
    let scratchless = Plan::new(parts(panels(8), 8, 8)).unwrap();
    assert!(flaw(&scratchless).unwrap().contains("0 bytes of scratch"));
    let own = Packing::Own { layout: OwnLayout(&Bytes), groups: 1, transposed: false };
    for other in [parts(panels(16), 16, 16), parts(panels(8), 8, 4), parts(own, 0, 8), parts(own, 8, 8)] {
        assert!(flaw(&cut(other)).unwrap().contains("layout"));
    }
}

/// The weights of a recurrent network lie in panels, gate by gate, or the plan is for another device.
#[test]
fn recurrent_networks_that_were_cut_for_other_kernels_are_refused() {
    let recurrent = |packing: Packing, panel_width: usize| {
        let mut parts = parts(panels(8), 8, 8);
        let weight = parts.store.insert(&Tensor::f32([4, 4, 1, 1], &[1.0; 16]), packing);
        let kernel = &mut parts.stages[0][0];
        kernel.reads[1].bytes = weight.bytes;
        kernel.spec = KernelSpec::Recurrent(RecurrentSpec {
            cell: Cell::Rnn,
            functions: vec![GateFunction::Tanh],
            clip: None,
            reverse: false,
            steps: 3,
            first: 0,
            all_steps: 3,
            batch: 1,
            hidden: 4,
            integers: None,
            computed: false,
            sums_row_stride: 4,
            y_step_stride: 4,
            bias: false,
            reset_bias: false,
            peepholes: false,
            lengths: false,
            h_before: false,
            c_before: false,
            y: true,
            h_after: false,
            c_after: false,
            panel_width,
            tile_rows: 1,
        });
        parts.weights = vec![weight];
        Plan::cut_by(&CpuCutter::new(TARGET), parts)
    };
    let grouped = |width| Packing::ConvPanels { groups: 1, width };
    assert_eq!(flaw(&recurrent(grouped(8), 8).unwrap()), None);
    let own = Packing::Own { layout: OwnLayout(&Bytes), groups: 1, transposed: false };
    for (packing, width) in [(grouped(16), 16), (Packing::Raw, 0), (own, 0), (own, 8)] {
        assert!(flaw(&recurrent(packing, width).unwrap()).unwrap().contains("layout"));
    }
    // Other numbers of groups, and panels of another width than the kernel says, are no plan at all.
    for (packing, width) in [(grouped(8), 16), (Packing::Raw, 8), (panels(8), 8)] {
        recurrent(packing, width).unwrap_err();
    }
}

#[test]
fn convolutions_that_norm_their_input_are_refused() {
    let mut parts = parts(panels(8), 8, 8);
    let kernel = &mut parts.stages[0][0];
    let KernelSpec::Conv(spec) = &mut kernel.spec else { panic!("a convolution") };
    spec.normed = true;
    kernel.reads.extend([kernel.reads[0]; 2]);
    let plan = Plan::cut_by(&CpuCutter::new(TARGET), parts).unwrap();
    assert!(flaw(&plan).unwrap().contains("norm their input"));
}

#[test]
fn a_device_refuses_them_when_they_are_loaded() {
    use reef_device::{Device, DeviceError};
    let options = crate::CpuOptions { cus: Some(1), nice: 0, pin: false, ..Default::default() };
    let device = crate::CpuDevice::start(options).unwrap();
    let plan = |parts| Arc::new(Plan::cut_by(&CpuCutter::new(TARGET), parts).unwrap());
    device.load(plan(parts(panels(8), 8, 8))).unwrap();
    let refused = device.load(plan(parts(panels(16), 16, 16))).unwrap_err();
    assert!(
        matches!(&refused, DeviceError::Unsupported { reason, .. } if reason.contains("layout")),
        "{refused}"
    );
}
