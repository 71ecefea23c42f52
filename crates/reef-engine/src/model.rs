//! What a user says about a model (specification, settings) and what the engine says back (information).

use std::fmt;
use std::path::PathBuf;

use reef_base::{Class, Level, ModelKey, Nanos, limits};
use reef_graph::{DType, Shape};
use reef_plan::Precision;

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// An ONNX file. External data is looked up beside it.
    Path(PathBuf),
    /// The bytes of an ONNX file.
    Bytes(Vec<u8>),
}

/// A model to load.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// Its name and version.
    pub key: ModelKey,
    /// Where it comes from.
    pub source: ModelSource,
    /// How it is served.
    pub settings: ModelSettings,
}

/// One concrete shape per named input. Inputs without symbolic dimensions may be left out.
pub type InputShapes = Vec<(String, Shape)>;

/// Values of named shape inputs: the elements of each, row-major.
pub type InputValues = Vec<(String, Vec<Number>)>;

/// An element of a value that is written in settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// For booleans.
    Bool(bool),
    /// For integers and floating-point numbers.
    Int(i64),
    /// For floating-point numbers.
    Float(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Bool(value) => write!(f, "{value}"),
            Number::Int(value) => write!(f, "{value}"),
            Number::Float(value) => write!(f, "{value:?}"),
        }
    }
}

/// How a model is served.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// The class (and level) of its requests, and the most urgent that a request may ask for.
    pub class: Class,
    /// Share of the device among best-effort models, relative to their weights. At least 1.
    pub weight: u32,
    /// Deadline of requests that bring none, counted from arrival; it covers queueing and execution.
    pub deadline: Option<Nanos>,
    /// Longest time in the queue for requests that bring no timeout.
    pub timeout: Option<Nanos>,
    /// Requests that may wait, at most [`limits::QUEUE_LEN_MAX`].
    pub queue_len: usize,
    /// Tasks of this model on the device's board at most; `None` for the board's own limit.
    pub in_flight_max: Option<usize>,
    /// Rows (extent of the first axis) that the inputs of a request have at most, and a batch; `None` for any
    /// number.
    pub batch_rows_max: Option<usize>,
    /// Whether requests run together, as one task over all their rows; needs
    /// [`ModelSettings::batch_rows_max`]. Only for models whose inputs and outputs all have the same symbolic
    /// first axis. What is joined are requests of the model's only shape but for that axis, or of those named
    /// in [`ModelSettings::shapes`].
    pub batching: Option<Batching>,
    /// Input shapes to compile plans for at load; the rest is compiled on first use. A model without symbolic
    /// dimensions is always compiled at load.
    pub shapes: Vec<InputShapes>,
    /// Values of shape inputs (whose values are part of what a plan is made for, like shapes) to compile
    /// plans for at load, every shape input in each set. The first set goes with the first set of `shapes`,
    /// and so on; a single set of the one goes with every set of the other. Of a model of several segments
    /// the first is made. Without values nothing is made at load of a model that has shape inputs.
    pub values: Vec<InputValues>,
    /// Names of the devices that it may be placed on; empty for all.
    pub devices: Vec<String>,
    /// On how many of them it is.
    pub placement: Placement,
    /// What its convolutions and matrix products multiply, on devices that have the precision; others take
    /// f32. `None` for each device's default.
    pub precision: Option<Precision>,
}

/// How requests are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batching {
    /// How long a request waits at most for others to join it. Zero: nobody waits, and what is queued anyway
    /// is joined. One with a deadline waits no longer than that allows, by measured times.
    pub delay: Nanos,
    /// Numbers of rows at which a batch starts at once. Plans are made for these, for one row and for the
    /// most; for powers of two where there are none. A batch of another size is filled up to the next one,
    /// and what is computed for the filling is thrown away.
    pub preferred: Vec<usize>,
    /// Where requests cannot be joined, they run alone, and the log says why; otherwise the model is not
    /// loaded then.
    pub optional: bool,
}

/// On how many devices a model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// On one: of those that it may be on the one that has the least, by weights, for its compute units.
    #[default]
    One,
    /// On each. Every request goes to the device where it is expected to end first; devices of one target
    /// share plans, all of them the weights in memory.
    Replicate,
    /// Cut over all of them, in their order, at stage boundaries: each request passes from device to device,
    /// while others follow. Outputs are those of one device of that kind, to the bit. The parts take about as
    /// long as each other, by what was measured once some requests have passed.
    Split,
}

impl Placement {
    /// Every placement.
    pub const ALL: [Placement; 3] = [Placement::One, Placement::Replicate, Placement::Split];

    /// Its name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Placement::One => "one",
            Placement::Replicate => "replicate",
            Placement::Split => "split",
        }
    }
}

impl Default for ModelSettings {
    /// Best-effort with weight 1, no deadline, no timeout.
    fn default() -> Self {
        ModelSettings {
            class: Class::BestEffort,
            weight: 1,
            deadline: None,
            timeout: None,
            queue_len: limits::QUEUE_LEN_DEFAULT,
            in_flight_max: None,
            batch_rows_max: None,
            batching: None,
            shapes: Vec::new(),
            values: Vec::new(),
            devices: Vec::new(),
            placement: Placement::One,
            precision: None,
        }
    }
}

impl ModelSettings {
    /// Real-time at `level`, otherwise the defaults.
    pub fn real_time(level: Level) -> Self {
        ModelSettings { class: Class::RealTime(level), ..Self::default() }
    }
}

/// An input or output as the model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name as clients write it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, -1 for a symbolic one.
    pub dims: Vec<i64>,
    /// Whether it is made of texts: the element type is that of their numbers, then.
    pub texts: bool,
}

impl TensorInfo {
    /// The element type in the Open Inference Protocol: `BYTES` for texts.
    pub fn datatype(&self) -> &'static str {
        if self.texts { "BYTES" } else { self.dtype.protocol_name() }
    }

    /// Whether `shape` agrees with the declared extents.
    pub fn takes(&self, shape: &Shape) -> bool {
        let same = |(&dim, &extent): (&i64, &usize)| dim < 0 || dim as usize == extent;
        self.dims.len() == shape.rank() && self.dims.iter().zip(shape.iter()).all(same)
    }

    /// Whether requests may have any number of rows in it.
    pub fn has_open_rows(&self) -> bool {
        self.dims.first().is_some_and(|&extent| extent < 0)
    }

    /// The shape, if no extent is symbolic.
    pub fn fixed_shape(&self) -> Option<Shape> {
        self.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect()
    }
}

/// Whether a model takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Being read and compiled.
    Loading,
    /// Takes requests.
    Ready,
    /// Takes no more requests; its last tasks are ending.
    Unloading,
}

/// What the engine knows about a model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Its name and version.
    pub key: ModelKey,
    /// Whether it takes requests.
    pub state: ModelState,
    /// How it is served.
    pub settings: ModelSettings,
    /// Its inputs, in the model's order. Empty while it is loading.
    pub inputs: Vec<TensorInfo>,
    /// Its outputs, in the model's order. Empty while it is loading.
    pub outputs: Vec<TensorInfo>,
    /// Names of the devices that it is on. Empty while it is loading.
    pub devices: Vec<String>,
    /// Plans compiled and loaded, one per concrete set of input shapes and device.
    pub plans: Vec<PlanInfo>,
    /// Whether requests are joined, those at least that can be.
    pub joins: bool,
}

/// A plan of a model that is loaded on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanInfo {
    /// The device that it is loaded on.
    pub device: String,
    /// The plan's name: the model and its input shapes.
    pub name: String,
    /// The plan's hash in hexadecimal.
    pub hash: String,
    /// Bytes of its packed weights; plans of one model share what they can.
    pub weight_bytes: usize,
    /// Bytes that one task needs while it runs.
    pub arena_bytes: usize,
}

/// What happens at an unload to requests that still wait. Running ones finish in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// They are run first, unless they still wait for a plan to be compiled: those are refused.
    Finish,
    /// They are refused.
    Refuse,
}
