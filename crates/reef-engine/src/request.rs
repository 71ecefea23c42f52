//! Requests and responses of the in-process API. Requests borrow: inputs are copied once, straight into the
//! buffers that the device uses. Responses own those buffers and give them back for reuse when dropped.

use std::sync::Arc;

use reef_base::{Class, ModelKey, Nanos};
use reef_device::TaskCounters;
use reef_graph::{DType, Shape};

use crate::plans::Buffers;
use crate::texts::Lexicon;

/// One input of a request.
#[derive(Clone, Debug)]
pub struct InputTensor<'a> {
    /// Name as the model declares it.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Concrete shape.
    pub shape: Shape,
    /// Dense row-major little-endian bytes, of any alignment.
    pub data: &'a [u8],
}

/// One input of a request that is made of texts.
#[derive(Clone, Debug)]
pub struct TextTensor<'a> {
    /// Name as the model declares it.
    pub name: &'a str,
    /// Concrete shape.
    pub shape: Shape,
    /// The texts in row-major order, each after its length in bytes, which takes four, little endian.
    pub data: &'a [u8],
}

/// The class that a request asks for; the level comes from its priority or the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassRequest {
    /// Real-time; only for models that are configured so.
    RealTime,
    /// Best-effort; always allowed.
    BestEffort,
}

/// One inference to do. Build it with [`InferRequest::new`] and set what differs from the model's settings.
#[derive(Clone, Debug)]
pub struct InferRequest<'a> {
    /// The model's name.
    pub model: &'a str,
    /// Its version; `None` for the newest that is ready.
    pub version: Option<&'a str>,
    /// Echoed in the response.
    pub id: Option<String>,
    /// Every input of the model once, in any order; but for those of texts.
    pub inputs: Vec<InputTensor<'a>>,
    /// Every input of the model that is of texts once, in any order.
    pub texts: Vec<TextTensor<'a>>,
    /// Names of the outputs wanted, in the order wanted; `None` for all.
    pub outputs: Option<Vec<&'a str>>,
    /// Class; `None` for the model's.
    pub class: Option<ClassRequest>,
    /// 0: the model's level. n > 0: level n - 1, which must not be more urgent than the model's. Best-effort
    /// requests may only say 0.
    pub priority: u32,
    /// Longest time in the queue; `None` for the model's setting.
    pub timeout: Option<Nanos>,
    /// Time from arrival until the answer is worthless: covers queue and execution. `None`: the model's
    /// setting.
    pub deadline: Option<Nanos>,
    /// When the request arrived, on the engine's clock; `None` for now. Deadline and total time count from
    /// here.
    pub arrival: Option<Nanos>,
}

impl<'a> InferRequest<'a> {
    /// A request for the newest version of `model`, as its settings say.
    pub fn new(model: &'a str, inputs: Vec<InputTensor<'a>>) -> Self {
        InferRequest {
            model,
            version: None,
            id: None,
            inputs,
            texts: Vec::new(),
            outputs: None,
            class: None,
            priority: 0,
            timeout: None,
            deadline: None,
            arrival: None,
        }
    }
}

/// How urgent a request is: its class, and its moments on the engine's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Urgency {
    pub(crate) class: Class,
    pub(crate) arrival: Nanos,
    pub(crate) deadline: Option<Nanos>,
    /// It must have left the queue by then.
    pub(crate) queue_until: Option<Nanos>,
}

/// Where the time of a request went. The first four add up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// When it arrived, on the engine's clock.
    pub arrival: Nanos,
    /// Checking and copying the inputs.
    pub compute_input: Nanos,
    /// From there to its first block: waiting for its plan to be compiled, in the scheduler's queue and on
    /// the device's board.
    pub queue: Nanos,
    /// From its first block to its last.
    pub compute: Nanos,
    /// From its last block until the engine had taken note of it.
    pub compute_output: Nanos,
    /// From arrival to the end.
    pub total: Nanos,
}

/// One output, borrowed from the response.
#[derive(Clone, Copy, Debug)]
pub struct OutputTensor<'a> {
    /// Name as the model declares it.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: &'a Shape,
    /// Dense row-major little-endian bytes, 64-byte aligned.
    pub data: &'a [u8],
}

/// The outputs of a request and what it took to make them.
#[derive(Debug)]
pub struct InferResponse {
    /// The request's id.
    pub id: Option<String>,
    /// The model and version that answered.
    pub model: Arc<ModelKey>,
    /// The name of the device that it ran on.
    pub device: Arc<str>,
    /// Class and level that it ran with.
    pub class: Class,
    /// Where the time went.
    pub timings: Timings,
    /// From the task's submission to its first block.
    pub first_block: Nanos,
    /// Whether it displaced less urgent work.
    pub preempted: bool,
    /// Whether it ended after its deadline (it was too late to stop it).
    pub late: bool,
    /// What it cost.
    pub counters: TaskCounters,
    pub(crate) buffers: Buffers,
    /// Indices of the outputs wanted; `None` for all.
    pub(crate) wanted: Option<Vec<usize>>,
    /// What numbers stand for; `None` if the model has no texts.
    pub(crate) lexicon: Option<Lexicon>,
}

impl InferResponse {
    /// Number of outputs.
    pub fn output_count(&self) -> usize {
        self.wanted.as_ref().map_or(self.buffers.pool.outputs.len(), Vec::len)
    }

    /// The texts of output `index` in the order asked for, row-major; `None` if it is of numbers.
    pub fn texts_at(&self, index: usize) -> Option<impl Iterator<Item = &[u8]>> {
        let index = self.wanted.as_ref().map_or(index, |wanted| wanted[index]);
        self.lexicon.as_ref()?.texts(index, self.buffers.io.outputs[index].as_slice())
    }

    /// Output `index` in the order asked for; panics when there is none. Of texts it gives their numbers:
    /// [`InferResponse::texts_at`] has what they stand for.
    pub fn output_at(&self, index: usize) -> OutputTensor<'_> {
        let index = self.wanted.as_ref().map_or(index, |wanted| wanted[index]);
        let spec = &self.buffers.pool.outputs[index];
        OutputTensor {
            name: &spec.name,
            dtype: spec.dtype,
            shape: &spec.shape,
            data: self.buffers.io.outputs[index].as_slice(),
        }
    }

    /// The outputs in the order asked for.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = OutputTensor<'_>> {
        (0..self.output_count()).map(|index| self.output_at(index))
    }

    /// The output with this name.
    pub fn output(&self, name: &str) -> Option<OutputTensor<'_>> {
        self.outputs().find(|output| output.name == name)
    }
}
