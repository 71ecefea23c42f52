//! Sessions: repeated inference without allocation, for callers that cannot afford it. A session's buffers
//! are on one device, the one that a request would have gone to when it was opened, and it stays there. It is
//! of the model that it was opened on: when that is unloaded, or replaced, runs are refused.

use std::fmt;
use std::sync::Arc;

use reef_base::{Buffer, Nanos};
use reef_device::{Io, TaskCounters};
use reef_graph::Shape;
use reef_plan::{IoSpec, Plan};

use crate::check::{self, Terms, Wishes};
use crate::core::{Job, Refused};
use crate::effect::Sofar;
use crate::error::{InferError, WrongInput};
use crate::model::TensorInfo;
use crate::plans::{Buffers, PlanEntry};
use crate::pool::{Group, Model};
use crate::request::{ClassRequest, OutputTensor, Timings};
use crate::shared::Shared;
use crate::ticket::{Promise, Record, Ticket};

/// What a session asks for; the fields mean what they mean in [`crate::InferRequest`].
#[derive(Clone, Debug, Default)]
pub struct SessionOptions<'a> {
    /// Version of the model; `None` for the newest that is ready.
    pub version: Option<&'a str>,
    /// Concrete shapes of inputs with symbolic dimensions.
    pub shapes: Vec<(&'a str, Shape)>,
    /// Values of inputs that decide shapes, or which way the model goes; a run may change them.
    pub values: Vec<(&'a str, &'a [u8])>,
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
    /// What it cost.
    pub counters: TaskCounters,
}

/// One caller's buffers for one plan, reused by every run; a run allocates nothing.
pub struct Session {
    shared: Arc<Shared>,
    model: Arc<Model>,
    plan: Arc<PlanEntry>,
    ticket: Arc<Ticket>,
    terms: Terms,
    /// Away while a run is under way; lost when a run failed and the device gave no new ones. Of a model of
    /// several segments they hold the inputs alone.
    buffers: Option<Buffers>,
    /// The outputs of a model of several segments.
    results: Option<Buffers>,
    /// What the caller sees then.
    lost: Io,
}

impl Session {
    /// Opens a session; compiles the plan on this thread if there is none yet.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        name: &str,
        options: &SessionOptions<'_>,
    ) -> Result<Session, InferError> {
        if let Some(fault) = shared.verdict.fault() {
            return Err(fault);
        }
        // No visitor: the plan may take its time, and no request waits for it.
        let group = shared.registry.find(name, options.version)?;
        Session::open_on(shared, &group, options)
    }

    /// As [`Session::open`], of a model that may not be served yet.
    pub(crate) fn open_on(
        shared: &Arc<Shared>,
        group: &Group,
        options: &SessionOptions<'_>,
    ) -> Result<Session, InferError> {
        let model = group.model();
        let wishes = Wishes {
            class: options.class,
            priority: options.priority,
            timeout: options.timeout,
            deadline: options.deadline,
        };
        let terms = check::terms(model, wishes)?;
        let shapes = concrete_shapes(&model.inputs, &options.shapes)?;
        check::check_rows(model, &shapes)?;
        let data = concrete_values(model, &shapes, &options.values)?;
        let key = model.beginning(shapes, &data);
        let urgency = terms.urgency(shared.clock.now());
        let model = shared.route(group, &key, &urgency).ok_or(InferError::DeviceFault)?;
        let plan = shared.plan(&model, &key);
        let plan = plan.map_err(|failure| failure.into_error(&model.key))?;
        let buffers = Some(plan.buffers()?);
        let ticket = Arc::new(Ticket::new());
        let lost = Io::default();
        let (shared, results) = (shared.clone(), None);
        Ok(Session { shared, model, plan, ticket, terms, buffers, results, lost })
    }

    /// The model's inputs, in its order.
    pub fn inputs(&self) -> &[IoSpec] {
        &self.plan.pool.inputs
    }

    /// The buffer of input `index`, to be written before a run: dense, row-major, little endian. It keeps
    /// what was written.
    pub fn input_mut(&mut self, index: usize) -> &mut [u8] {
        let io = self.buffers.as_mut().map_or(&mut self.lost, |buffers| &mut buffers.io);
        io.inputs[index].as_mut_slice()
    }

    /// Number of outputs.
    pub fn output_count(&self) -> usize {
        self.model.outputs.len()
    }

    /// Output `index` of the last run, in the model's order; rubbish before the first or after a failed one.
    pub fn output(&self, index: usize) -> OutputTensor<'_> {
        let made = self.results.as_ref().or(self.buffers.as_ref());
        let spec = &made.map_or(&self.plan.pool, |buffers| &buffers.pool).outputs[index];
        let io = made.map_or(&self.lost, |buffers| &buffers.io);
        let data = io.outputs[index].as_slice();
        OutputTensor { name: &spec.name, dtype: spec.dtype, shape: &spec.shape, data }
    }

    /// The name of the device that the session is on.
    pub fn device(&self) -> &str {
        &self.shared.names[self.model.lane]
    }

    /// The plan that the session runs.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan.plan
    }

    /// Runs the model once on the inputs, and blocks until it is done. After a fault that took the buffers
    /// every later run fails too.
    pub fn run(&mut self) -> Result<RunInfo, InferError> {
        self.run_from(self.shared.clock.now())
    }

    /// As [`Session::run`], for a request that arrived earlier: deadline, timeout and total time count from
    /// `arrival`.
    pub fn run_from(&mut self, arrival: Nanos) -> Result<RunInfo, InferError> {
        let before = self.buffers.take();
        let mut buffers = before.map_or_else(|| self.plan.buffers(), Ok)?;
        let copies = self.copies();
        if copies {
            buffers = self.copied(buffers)?;
        }
        self.ticket.reset();
        let job = Job {
            model: self.model.clone(),
            plan: self.plan.clone(),
            promise: Promise::new(&self.ticket),
            buffers,
            kit: self.model.kit(&self.plan).ok_or_else(|| self.plan.no_buffers())?,
            urgency: self.terms.urgency(arrival),
            waited_since: None,
            before: Sofar::default(),
            passage: None,
            joins: None,
        };
        let class = job.urgency.class;
        let helping = match self.shared.submit_helped(job, Nanos::MAX) {
            Ok(helping) => helping,
            Err(Refused { error, buffers, promise }) => {
                promise.release();
                self.buffers.get_or_insert(buffers);
                return Err(error);
            }
        };
        let finished = self.shared.wait(&self.ticket, class, helping);
        if copies {
            self.results = finished.buffers.filter(|_| finished.result.is_ok());
            return finished.result.map(RunInfo::of);
        }
        self.buffers = finished.buffers.or_else(|| self.plan.buffers().ok());
        if self.buffers.is_none() {
            self.lost = Io::for_plan(&self.plan.plan);
        }
        finished.result.map(RunInfo::of)
    }

    /// Whether the model's inputs are kept apart from the buffers of a run: it runs several plans, or one
    /// that their values decide.
    fn copies(&self) -> bool {
        self.plan.goes_on() || self.model.shape_inputs.contains(&true)
    }

    /// Other buffers with the same inputs; these are kept.
    fn copied(&mut self, buffers: Buffers) -> Result<Buffers, InferError> {
        self.results = None;
        let buffers = self.buffers.insert(buffers);
        if self.model.shape_inputs.contains(&true) {
            let shapes = self.plan.pool.inputs.iter().map(|spec| spec.shape.clone()).collect();
            let data: Vec<&[u8]> = buffers.io.inputs.iter().map(Buffer::as_slice).collect();
            let plan = self.shared.plan(&self.model, &self.model.beginning(shapes, &data));
            self.plan = plan.map_err(|failure| failure.into_error(&self.model.key))?;
        }
        if self.model.is_split()
            && let Some(plan) = self.model.find(self.plan.key())
        {
            // It may be cut anew.
            self.plan = plan;
        }
        let mut others = self.plan.buffers()?;
        for (to, from) in others.io.inputs.iter_mut().zip(&buffers.io.inputs) {
            to.as_mut_slice().copy_from_slice(from.as_slice());
        }
        Ok(others)
    }
}

impl RunInfo {
    fn of(record: Record) -> RunInfo {
        RunInfo {
            timings: record.timings,
            first_block: record.first_block,
            all_cus: record.all_cus,
            preempted: record.preempted,
            late: record.late,
            counters: record.counters,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("plan", &self.plan)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

/// One shape per input: the given one, or the declared one where nothing is symbolic.
fn concrete_shapes(inputs: &[TensorInfo], given: &[(&str, Shape)]) -> Result<Vec<Shape>, InferError> {
    let wrong = |name: &str, problem| InferError::WrongInput { name: name.to_string(), problem };
    if let Some((name, _)) = given.iter().find(|(name, _)| inputs.iter().all(|info| info.name != *name)) {
        let known = inputs.iter().map(|info| info.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(wrong(name, WrongInput::Unknown { known }));
    }
    let shape_of = |info: &TensorInfo| {
        let given = given.iter().find(|(name, _)| *name == info.name).map(|(_, shape)| shape.clone());
        let shape =
            given.or_else(|| info.fixed_shape()).ok_or_else(|| wrong(&info.name, WrongInput::Missing))?;
        check::check_shape(info, &shape).map_err(|problem| wrong(&info.name, problem))?;
        Ok(shape)
    };
    inputs.iter().map(shape_of).collect()
}

/// For every input its value, if it has to be known; nothing for the others.
fn concrete_values<'a>(
    model: &Model,
    shapes: &[Shape],
    given: &[(&str, &'a [u8])],
) -> Result<Vec<&'a [u8]>, InferError> {
    let value_of = |(index, info): (usize, &TensorInfo)| {
        let value = given.iter().find(|(name, _)| *name == info.name).map(|(_, value)| *value);
        if !model.shape_inputs[index] {
            return Ok(&[][..]);
        }
        let expected = shapes[index].elements() * info.dtype.bytes();
        let wrong = |problem| InferError::WrongInput { name: info.name.clone(), problem };
        let value = value.ok_or_else(|| wrong(WrongInput::Missing))?;
        match value.len() == expected {
            true => Ok(value),
            false => Err(wrong(WrongInput::Bytes { expected, got: value.len() })),
        }
    };
    model.inputs.iter().enumerate().map(value_of).collect()
}
