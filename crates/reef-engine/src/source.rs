//! Where plans come from: the one place that joins the importer and the compiler.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use reef_base::ModelKey;
use reef_compile::CompileOptions;
use reef_graph::Shape;
use reef_onnx::{Dim, ImportError, OnnxModel, TensorDecl};
use reef_plan::{IoSpec, Plan, Target, WeightStore};

use crate::error::LoadError;
use crate::model::{ModelSource, TensorInfo};

/// Makes plans of one model. The engine calls it off the hot path, never while it holds a lock of its own.
pub trait PlanSource: Send + Sync + fmt::Debug {
    /// The model's inputs, -1 for symbolic extents.
    fn inputs(&self) -> &[TensorInfo];

    /// The model's outputs, -1 for symbolic extents.
    fn outputs(&self) -> &[TensorInfo];

    /// A plan for these concrete shapes, one per input in order. The error says why the model does not take
    /// them, for people: it is what a client is told.
    fn compile(&self, shapes: &[Shape], target: Target) -> Result<Arc<Plan>, String>;
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
    Ok(Arc::new(OnnxSource { name: key.to_string(), model, inputs, outputs, store: Arc::default() }))
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

    fn compile(&self, _shapes: &[Shape], _target: Target) -> Result<Arc<Plan>, String> {
        Ok(self.plan.clone())
    }
}

#[derive(Debug)]
struct OnnxSource {
    name: String,
    model: OnnxModel,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    /// Packed weights, shared by all plans of the model.
    store: Arc<WeightStore>,
}

impl PlanSource for OnnxSource {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn compile(&self, shapes: &[Shape], target: Target) -> Result<Arc<Plan>, String> {
        let names = self.inputs.iter().map(|info| info.name.as_str());
        let named: Vec<(&str, Shape)> = names.zip(shapes.iter().cloned()).collect();
        let special = self.model.specialise(&named).map_err(|error| error.to_string())?;
        let shapes = shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(" ");
        let options = CompileOptions { name: format!("{} {shapes}", self.name) };
        let (graph, host_kernels) = (&special.graph, &special.host_kernels);
        let plan = reef_compile::compile(graph, host_kernels, &self.store, target, &options);
        plan.map(Arc::new).map_err(|error| error.to_string())
    }
}

fn tensor_info(decl: &TensorDecl) -> TensorInfo {
    let extent = |dim: &Dim| match dim {
        Dim::Fixed(extent) => i64::try_from(*extent).unwrap_or(i64::MAX),
        Dim::Symbol(_) => -1,
    };
    TensorInfo { name: decl.name.clone(), dtype: decl.dtype, dims: decl.dims.iter().map(extent).collect() }
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
