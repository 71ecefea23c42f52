//! Sessions: repeated inference without allocation, for callers that cannot afford it.

use reef_base::Nanos;
use reef_graph::Shape;
use reef_plan::IoSpec;

use crate::error::InferError;
use crate::request::{ClassRequest, OutputTensor, Timings};

/// What a session asks for; the fields mean what they mean in [`crate::InferRequest`].
#[derive(Clone, Debug, Default)]
pub struct SessionOptions<'a> {
    /// Version of the model; `None` for the newest that is ready.
    pub version: Option<&'a str>,
    /// Concrete shapes of inputs with symbolic dimensions.
    pub shapes: Vec<(&'a str, Shape)>,
    /// Class; `None` for the model's.
    pub class: Option<ClassRequest>,
    /// 0: the model's level. n > 0: level n - 1.
    pub priority: u32,
    /// Longest time in the queue; `None` for the model's setting.
    pub timeout: Option<Nanos>,
    /// Time from the call of [`Session::run`] until the answer is worthless. `None`: the model's setting.
    pub deadline: Option<Nanos>,
}

/// What one [`Session::run`] took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunInfo {
    /// Where the time went.
    pub timings: Timings,
    /// From the task's submission to its first block.
    pub first_block: Nanos,
    /// From the task's submission until it had run on all compute units that its first stage can use.
    pub all_cus: Option<Nanos>,
    /// Whether it displaced less urgent work.
    pub preempted: bool,
    /// Whether it ended after its deadline.
    pub late: bool,
}

/// One caller's buffers for one plan, reused by every run; a run allocates nothing.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// The model's inputs, in its order.
    pub fn inputs(&self) -> &[IoSpec] {
        &[]
    }

    /// The buffer of input `index`, to be written before a run: dense, row-major, little endian. It keeps what was
    /// written.
    pub fn input_mut(&mut self, _index: usize) -> &mut [u8] {
        &mut []
    }

    /// Number of outputs.
    pub fn output_count(&self) -> usize {
        0
    }

    /// Output `index` of the last run; rubbish before the first or after a failed one.
    pub fn output(&self, index: usize) -> OutputTensor<'_> {
        panic!("no output {index}")
    }

    /// Runs the model once on the inputs, and blocks until it is done.
    pub fn run(&mut self) -> Result<RunInfo, InferError> {
        Err(InferError::ShuttingDown)
    }
}
