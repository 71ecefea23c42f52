//! Where plans come from: the one place that joins the importer and the compiler.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use reef_base::ModelKey;
use reef_compile::CompileOptions;
use reef_graph::{Shape, Texts};
use reef_onnx::{Dim, ImportError, OnnxModel, Rest, Step, TensorDecl};
use reef_plan::{Cutter, IoSpec, ModelWeights, Plan};
use reef_program::{Given, Part, Passed, Row, Segment, SegmentKey, Source, Take};

use crate::error::LoadError;
use crate::model::{ModelSource, TensorInfo};

/// Makes plans of one model. The engine calls it off the hot path, never while it holds a lock of its own.
pub trait PlanSource: Send + Sync + fmt::Debug {
    /// The model's inputs, -1 for symbolic extents.
    fn inputs(&self) -> &[TensorInfo];

    /// The model's outputs, -1 for symbolic extents.
    fn outputs(&self) -> &[TensorInfo];

    /// The model's texts, by the numbers that stand for them in its tensors; `None` if it has none.
    fn texts(&self) -> Option<&Arc<Texts>> {
        None
    }

    /// A plan for these concrete shapes, one per input in order, for the device with this cutter. The error
    /// says why the model does not take them, for people: it is what a client is told.
    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String>;

    /// Whether inputs and outputs are rows, each computed for itself: the same symbolic first axis on all of
    /// them, of which nothing else depends. Requests may be joined along it then; those that will be have one
    /// of these sets of shapes, but for their rows. The error says why not.
    fn rows(&self, _shapes: &[Vec<Shape>]) -> Result<(), String> {
        Err("it is not known whether the model computes each row of its inputs for itself".into())
    }

    /// For every input, in order, whether its value decides shapes or which way the model goes: it is part of
    /// what a segment is made for, then.
    fn shape_inputs(&self) -> Vec<bool> {
        vec![false; self.inputs().len()]
    }

    /// A segment of the model: its first for a key without a part. Sources whose models are one plan for the
    /// shapes of their inputs need not say more than [`PlanSource::compile`].
    fn segment(&self, key: &SegmentKey, cutter: &dyn Cutter) -> Result<Segment, String> {
        let shape = |given: &Given| match given {
            Given::Tensor(_, shape) => shape.clone(),
            Given::Value(value) => value.shape().clone(),
        };
        let shapes: Vec<Shape> = key.given.iter().map(shape).collect();
        self.compile(&shapes, cutter).map(Segment::last)
    }
}

/// Opens an ONNX model.
pub(crate) fn open_onnx(key: &ModelKey, source: &ModelSource) -> Result<Arc<dyn PlanSource>, LoadError> {
    let opened = match source {
        ModelSource::Path(path) => OnnxModel::read(path),
        ModelSource::Bytes(bytes) => OnnxModel::from_bytes(bytes),
    };
    let model = opened.map_err(|error| load_error(key, source, error))?;
    let inputs = model.inputs().iter().map(tensor_info).collect();
    let outputs = model.outputs().iter().map(tensor_info).collect();
    Ok(Arc::new(OnnxSource { name: key.to_string(), model, inputs, outputs, weights: Arc::default() }))
}

/// One plan that is there already, served as a model.
#[derive(Debug)]
pub(crate) struct OnePlan {
    plan: Arc<Plan>,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
}

impl OnePlan {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        let info = |spec: &IoSpec| TensorInfo {
            name: spec.name.clone(),
            dtype: spec.dtype,
            dims: spec.shape.iter().map(|&extent| extent as i64).collect(),
            texts: false,
        };
        let inputs = plan.inputs().iter().map(info).collect();
        let outputs = plan.outputs().iter().map(info).collect();
        OnePlan { plan, inputs, outputs }
    }
}

impl PlanSource for OnePlan {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn compile(&self, _shapes: &[Shape], _cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        Ok(self.plan.clone())
    }
}

#[derive(Debug)]
struct OnnxSource {
    name: String,
    model: OnnxModel,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    /// Packed weights, shared by the plans of the model.
    weights: Arc<ModelWeights>,
}

impl PlanSource for OnnxSource {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        let given = self.inputs.iter().zip(shapes);
        let given = given.map(|(info, shape)| Given::Tensor(info.dtype, shape.clone())).collect();
        let segment = self.segment(&SegmentKey { part: None, given }, cutter)?;
        match segment.into_parts() {
            (plan, None) => Ok(plan),
            (_, Some(_)) => Err("the model is a program of several segments".into()),
        }
    }

    fn texts(&self) -> Option<&Arc<Texts>> {
        Some(self.model.texts())
    }

    fn rows(&self, shapes: &[Vec<Shape>]) -> Result<(), String> {
        let rows = self.model.rows(shapes);
        self.model.release();
        rows
    }

    fn shape_inputs(&self) -> Vec<bool> {
        self.model.shape_inputs()
    }

    fn segment(&self, key: &SegmentKey, cutter: &dyn Cutter) -> Result<Segment, String> {
        let segment = self.compiled(key, cutter);
        self.model.release();
        // Weights were read while it was compiled.
        self.model.intact().map_err(|error| error.to_string())?;
        segment
    }
}

impl OnnxSource {
    fn compiled(&self, key: &SegmentKey, cutter: &dyn Cutter) -> Result<Segment, String> {
        let step = match &key.part {
            None => self.begin(key),
            Some(part) => {
                let rest = part.downcast::<Rest>().ok_or("the part is none of this model's")?;
                self.model.step(&rest, &key.given.iter().map(given).collect::<Vec<_>>())
            }
        };
        let Step { segment, then } = step.map_err(|error| error.to_string())?;
        let options = CompileOptions { name: format!("{} {key}", self.name) };
        let (graph, host_kernels) = (&segment.graph, &segment.host_kernels);
        let store = Arc::new(self.weights.store());
        let plan = reef_compile::compile(graph, host_kernels, &store, cutter, &options);
        let plan = plan.map(Arc::new).map_err(|error| error.to_string())?;
        let Some(then) = then else { return Ok(Segment::last(plan)) };
        let passed =
            then.passed.iter().zip(then.rest.takes()).map(|(&from, take)| passed(from, take)).collect();
        let row =
            |row: &reef_onnx::Row| Row { passed: row.passed, source: source(row.source), at: source(row.at) };
        let rows: Vec<Row> = then.rows.iter().map(row).collect();
        let part = Part::new(then.rest.clone());
        Segment::with_rows(plan, part, passed, &rows).map_err(|error| error.to_string())
    }

    fn begin(&self, key: &SegmentKey) -> Result<Step, ImportError> {
        let names = self.inputs.iter().map(|info| info.name.as_str());
        let shape = |given: &Given| match given {
            Given::Tensor(_, shape) => shape.clone(),
            Given::Value(value) => value.shape().clone(),
        };
        let named: Vec<(&str, Shape)> = names.zip(key.given.iter().map(shape)).collect();
        let value = |given: &Given| match given {
            Given::Tensor(..) => None,
            Given::Value(value) => Some(value.clone()),
        };
        self.model.begin(&named, &key.given.iter().map(value).collect::<Vec<_>>())
    }
}

fn given(given: &Given) -> reef_onnx::Given {
    match given {
        Given::Tensor(dtype, shape) => reef_onnx::Given::Tensor(*dtype, shape.clone()),
        Given::Value(value) => reef_onnx::Given::Value(value.clone()),
    }
}

fn passed(from: reef_onnx::Source, take: reef_onnx::Take) -> Passed {
    let take = match take {
        reef_onnx::Take::Tensor => Take::Tensor,
        reef_onnx::Take::Value => Take::Value,
        reef_onnx::Take::Counted { axis, count } => Take::Counted { axis, count },
    };
    Passed { source: source(from), take }
}

fn source(from: reef_onnx::Source) -> Source {
    match from {
        reef_onnx::Source::Output(index) => Source::Output(index),
        reef_onnx::Source::Input(index) => Source::Input(index),
    }
}

fn tensor_info(decl: &TensorDecl) -> TensorInfo {
    let extent = |dim: &Dim| match dim {
        Dim::Fixed(extent) => i64::try_from(*extent).unwrap_or(i64::MAX),
        Dim::Symbol(_) => -1,
    };
    let dims = decl.dims.iter().map(extent).collect();
    TensorInfo { name: decl.name.clone(), dtype: decl.dtype, dims, texts: decl.texts }
}

fn load_error(key: &ModelKey, source: &ModelSource, error: ImportError) -> LoadError {
    let path = |source: &ModelSource| match source {
        ModelSource::Path(path) => path.clone(),
        ModelSource::Bytes(_) => Path::new("the model's bytes").to_owned(),
    };
    match error {
        ImportError::Io { path, source } => LoadError::Read { path, reason: source.to_string() },
        ImportError::Parse { .. } => {
            LoadError::Import { key: key.clone(), reason: format!("{}: {error}", path(source).display()) }
        }
        ImportError::Unsupported { .. } | ImportError::Shape { .. } | ImportError::Analysis { .. } => {
            LoadError::Import { key: key.clone(), reason: error.to_string() }
        }
    }
}
