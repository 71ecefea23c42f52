//! A model whose rows are computed each for itself, whatever they are joined with.

use std::sync::Arc;

use reef_engine::*;
use reef_plan::{
    Cost, Cutter, FaultKind, HostFault, HostKernel, HostState, Kernel, KernelSpec, Place, PlanParts, Region,
    Restart, SyntheticSpec, Target, TensorSpec,
};

/// Bytes of a row.
pub const ROW: usize = 64;

/// Bytes `[-1, 64]` to as many. Each row is a block of `polls` microseconds.
#[derive(Debug)]
pub struct Rows {
    io: [Vec<TensorInfo>; 2],
    polls: u32,
    /// Bytes of a row.
    row: usize,
    /// The rows go through a host kernel, too, which fails where one begins with [`BAD`].
    picky: bool,
    /// What its plans' names begin with.
    name: &'static str,
}

/// What a picky model does not like.
pub const BAD: u8 = 255;

/// What the plans' names of a model begin with whose tasks a device fails where a row begins with [`BAD`].
pub const PICKY: &str = "picky rows";

impl Rows {
    pub fn new(polls: u32) -> Arc<Rows> {
        Rows::with(polls, ROW, false, "rows")
    }

    /// Picky without a host kernel, on a device that is picky itself.
    pub fn tasted(polls: u32) -> Arc<Rows> {
        Rows::with(polls, ROW, false, PICKY)
    }

    /// Whose rows have so many bytes.
    pub fn wide(row: usize) -> Arc<Rows> {
        Rows::with(1, row, false, "rows")
    }

    pub fn picky() -> Arc<Rows> {
        Rows::with(1, ROW, true, "rows")
    }

    fn with(polls: u32, row: usize, picky: bool, name: &'static str) -> Arc<Rows> {
        let info = |name: &str| {
            vec![TensorInfo { name: name.into(), dtype: DType::U8, dims: vec![-1, row as i64], texts: false }]
        };
        Arc::new(Rows { io: [info("x"), info("y")], polls, row, picky, name })
    }

    fn plan(&self, rows: usize, target: Target) -> Result<Plan, String> {
        let bytes = self.row;
        let between = if self.picky { Place::Arena } else { Place::Output(0) };
        let kernel = |row: usize| Kernel {
            name: "row".into(),
            spec: KernelSpec::Synthetic(SyntheticSpec {
                seed: 7,
                bytes,
                tile_bytes: bytes,
                polls: self.polls,
                poll_ns: 1000,
                meter: None,
            }),
            reads: vec![Region::dense(Place::Input(0), row * bytes, bytes)],
            writes: vec![Region::dense(between, row * bytes, bytes)],
            restart: Restart::Safe,
            cost: Cost::default(),
        };
        let shape = Shape::from([rows, bytes]);
        let io = |name: &str| IoSpec { name: name.into(), dtype: DType::U8, shape: shape.clone() };
        let spec = TensorSpec { dtype: DType::U8, shape: shape.clone() };
        let host = Kernel {
            name: "host".into(),
            spec: KernelSpec::Host(0),
            reads: vec![
                Region::dense(Place::Arena, 0, rows * bytes),
                Region::dense(Place::Input(0), 0, rows * bytes),
            ],
            writes: vec![Region::dense(Place::Output(0), 0, rows * bytes)],
            restart: Restart::Never,
            cost: Cost::default(),
        };
        let mut stages = vec![(0..rows).map(kernel).collect()];
        stages.extend(self.picky.then(|| vec![host]));
        let picky = || Arc::new(Picky([spec.clone(), spec.clone()])) as Arc<dyn HostKernel>;
        let parts = PlanParts {
            name: format!("{} [{rows}]", self.name),
            target,
            inputs: vec![io("x")],
            outputs: vec![io("y")],
            weights: vec![],
            store: Arc::default(),
            host_kernels: if self.picky { vec![picky()] } else { vec![] },
            stages,
            arena_bytes: if self.picky { rows * bytes } else { 0 },
        };
        Plan::new(parts).map_err(|error| error.to_string())
    }
}

impl PlanSource for Rows {
    fn inputs(&self) -> &[TensorInfo] {
        &self.io[0]
    }
    fn outputs(&self) -> &[TensorInfo] {
        &self.io[1]
    }
    fn rows(&self, _: &[Vec<Shape>]) -> Result<(), String> {
        Ok(())
    }
    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        self.plan(shapes[0][0], cutter.target()).map(Arc::new)
    }
}

#[derive(Debug)]
struct Picky([TensorSpec; 2]);

impl HostKernel for Picky {
    fn name(&self) -> &str {
        "picky"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &self.0
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.0[..1]
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(Tasting))
    }
}

struct Tasting;

impl HostState for Tasting {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        if let Some(row) = inputs[1].chunks(ROW).position(|row| row[0] == BAD) {
            let (kernel, reason) = ("picky".into(), format!("row {row} is bad"));
            return Err(HostFault { kind: FaultKind::Input, kernel, reason });
        }
        outputs[0].copy_from_slice(inputs[0]);
        Ok(())
    }
}

/// Rows of these bytes.
pub fn filled(rows: &[u8]) -> Vec<u8> {
    rows.iter().flat_map(|&fill| [fill; ROW]).collect()
}

/// A request with them.
pub fn ask<'a>(model: &'a str, data: &'a [u8]) -> InferRequest<'a> {
    let shape = Shape::from([data.len() / ROW, ROW]);
    InferRequest::new(model, vec![InputTensor { name: "x", dtype: DType::U8, shape, data }])
}

/// What the model makes of them.
pub fn expected(data: &[u8]) -> Vec<u8> {
    expected_rows(data, ROW)
}

/// The same, of rows with so many bytes.
pub fn expected_rows(data: &[u8], bytes: usize) -> Vec<u8> {
    let spec = SyntheticSpec { seed: 7, bytes, tile_bytes: bytes, polls: 1, poll_ns: 1, meter: None };
    let row = |row: &[u8]| {
        let digest = spec.digest([row].into_iter());
        (0..bytes).map(move |index| SyntheticSpec::byte(digest, index))
    };
    data.chunks(bytes).flat_map(row).collect()
}

/// Checks an answer bit for bit.
pub fn assert_rows(data: &[u8], response: &InferResponse) {
    let output = response.output("y").unwrap();
    assert_eq!(*output.shape, Shape::from([data.len() / ROW, ROW]));
    assert_eq!(output.data, expected(data));
}
