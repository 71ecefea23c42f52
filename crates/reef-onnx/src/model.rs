//! A parsed model and its specialisation to concrete input shapes.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use reef_base::limits::{MODEL_BYTES_MAX, TENSOR_ELEMENTS_MAX};
use reef_base::panics;
use reef_graph::{DType, Graph, Shape};
use reef_plan::HostKernel;
use tract_onnx::model::ParseResult;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{InferenceModel, InferenceModelExt, TypedModel};
use tract_onnx::tract_core::internal::DimLike;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::infer::{Factoid, InferenceFact};

use crate::consts::{ConstPool, datum_of, dtype_of};
use crate::dry::Tried;
use crate::error::ImportError;
use crate::flow::{self, Flow, Given, Rest, Step};
use crate::guard::{guarded, guarded_import};
use crate::{host, locate, passes, proto, register, walk};

/// The extent of one axis as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this.
    Fixed(usize),
    /// Given by the caller; the same wherever the name appears.
    Symbol(String),
}

/// Declared extents, for people.
struct Declared<'a>(&'a [Dim]);

impl std::fmt::Display for Declared<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims = self.0.iter().map(|dim| match dim {
            Dim::Fixed(extent) => extent.to_string(),
            Dim::Symbol(name) => name.clone(),
        });
        write!(f, "[{}]", dims.collect::<Vec<_>>().join(","))
    }
}

/// An input or output as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDecl {
    /// Name, as clients write it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extent of every axis, outermost first.
    pub dims: Vec<Dim>,
}

/// A model for concrete shapes.
#[derive(Clone, Debug)]
pub struct Specialised {
    /// What to compute, normalised.
    pub graph: Graph,
    /// What the graph's host operators index.
    pub host_kernels: Vec<Arc<dyn HostKernel>>,
}

/// A model, parsed once; cheap to specialise. It keeps a copy of the weights beside ours: drop it when no
/// further specialisation is wanted.
#[derive(Debug)]
pub struct OnnxModel {
    inputs: Vec<TensorDecl>,
    outputs: Vec<TensorDecl>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Straight(Box<Straight>),
    Program(Box<Flow>),
}

/// A model that is one plan for the shapes of its inputs.
#[derive(Debug)]
struct Straight {
    model: InferenceModel,
    /// The ONNX operator of every node, by its name.
    operators: HashMap<String, String>,
    consts: ConstPool,
    /// The host kernels that ran before.
    tried: Tried,
}

impl OnnxModel {
    /// Reads a model file; external data is looked up beside it.
    pub fn read(path: &Path) -> Result<OnnxModel, ImportError> {
        let bytes = contents(path).map_err(|source| ImportError::Io { path: path.to_owned(), source })?;
        if bytes.len() > MODEL_BYTES_MAX {
            let reason =
                format!("it has more than {MODEL_BYTES_MAX} bytes; larger weights are external data");
            return Err(ImportError::Parse { reason });
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        OnnxModel::parse(&bytes, directory.to_str())
    }

    /// Reads a model from memory; it cannot refer to external data.
    pub fn from_bytes(bytes: &[u8]) -> Result<OnnxModel, ImportError> {
        OnnxModel::parse(bytes, None)
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[TensorDecl] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[TensorDecl] {
        &self.outputs
    }

    /// The model for these input shapes, if it is one plan; every input is named once.
    pub fn specialise(&self, shapes: &[(&str, Shape)]) -> Result<Specialised, ImportError> {
        let values = vec![None; self.inputs.len()];
        let step = self.begin(shapes, &values)?;
        match step.then {
            None => Ok(step.segment),
            Some(_) => {
                Err(ImportError::Analysis { reason: "the model is a program of several segments".into() })
            }
        }
    }

    /// For every input, in the model's order, whether its value decides shapes, or which way the model goes:
    /// then [`OnnxModel::begin`] takes it.
    pub fn shape_inputs(&self) -> Vec<bool> {
        match &self.content {
            Content::Straight(_) => vec![false; self.inputs.len()],
            Content::Program(flow) => flow.shape_inputs().to_vec(),
        }
    }

    /// The first step for these input shapes, every input named once, and the values of some, in the model's
    /// order.
    pub fn begin(
        &self,
        shapes: &[(&str, Shape)],
        values: &[Option<reef_graph::Tensor>],
    ) -> Result<Step, ImportError> {
        let flow = match &self.content {
            Content::Straight(_) => {
                let segment = self.lower(shapes, Form::AsWritten)?;
                return Ok(Step { segment, then: None });
            }
            Content::Program(flow) => flow,
        };
        let bound = self.bind(shapes)?;
        let given = self.inputs.iter().zip(&bound).zip(values).map(|((decl, shape), value)| match value {
            Some(value) => Given::Both(value.clone()),
            None => Given::Tensor(decl.dtype, shape.clone()),
        });
        let given: Vec<Given> = given.collect();
        self.step(flow.start(), &given).map_err(|error| self.for_these(error, &bound))
    }

    /// The step after one that left `rest`: what its inputs are, in order.
    pub fn step(&self, rest: &Rest, given: &[Given]) -> Result<Step, ImportError> {
        let Content::Program(flow) = &self.content else {
            unreachable!("only programs leave something to do");
        };
        panics::catch(|| flow.step(rest, given)).unwrap_or_else(|caught| {
            Err(ImportError::Analysis { reason: format!("internal failure: {caught}") })
        })
    }

    pub(crate) fn lower(&self, shapes: &[(&str, Shape)], form: Form) -> Result<Specialised, ImportError> {
        let Content::Straight(straight) = &self.content else { return self.specialise(shapes) };
        let bound = self.bind(shapes)?;
        let inputs = self.inputs.iter().zip(&bound);
        let inputs: Vec<(String, DType, Shape)> =
            inputs.map(|(decl, shape)| (decl.name.clone(), decl.dtype, shape.clone())).collect();
        let outputs: Vec<String> = self.outputs.iter().map(|decl| decl.name.clone()).collect();
        let lowered = panics::catch(|| straight.lower(&inputs, &outputs, form)).unwrap_or_else(|caught| {
            Err(ImportError::Analysis { reason: format!("internal failure: {caught}") })
        });
        lowered.map_err(|error| self.for_these(error, &bound))
    }

    /// Of a model that takes various shapes, an error says for which it is: others may do.
    fn for_these(&self, error: ImportError, shapes: &[Shape]) -> ImportError {
        let described = |decl: &TensorDecl, shape: &Shape| {
            let symbolic = decl.dims.iter().any(|dim| matches!(dim, Dim::Symbol(_)));
            symbolic.then(|| format!("{} {shape} (declared {})", decl.name, Declared(&decl.dims)))
        };
        let given = self.inputs.iter().zip(shapes).filter_map(|(decl, shape)| described(decl, shape));
        let given = given.collect::<Vec<_>>().join(", ");
        let more = |reason: String| match given.is_empty() {
            true => reason,
            false => format!("{reason}; this is for {given}"),
        };
        match error {
            ImportError::Analysis { reason } => ImportError::Analysis { reason: more(reason) },
            ImportError::Unsupported { node, operator, reason } => {
                ImportError::Unsupported { node, operator, reason: more(reason) }
            }
            other => other,
        }
    }

    fn parse(bytes: &[u8], directory: Option<&str>) -> Result<OnnxModel, ImportError> {
        panics::catch(|| OnnxModel::parse_bytes(bytes, directory)).unwrap_or_else(|caught| {
            Err(ImportError::Parse { reason: format!("internal failure: {caught}") })
        })
    }

    fn parse_bytes(bytes: &[u8], directory: Option<&str>) -> Result<OnnxModel, ImportError> {
        let message = proto::decode(bytes, directory)?;
        let graph = message.graph.as_ref().expect("decoding checks that there is a graph");
        let inputs = proto::inputs(graph)?;
        if flow::is_program(graph, &inputs) {
            let outputs = proto::program_outputs(graph)?;
            let content = Content::Program(Box::new(Flow::new(message, &inputs, directory)?));
            return Ok(OnnxModel { inputs, outputs, content });
        }
        let declared = proto::outputs(graph);
        let straight = Straight::parse(&message, directory)?;
        if straight.model.inputs.len() != inputs.len() {
            return Err(ImportError::Parse { reason: "an input is declared twice".into() });
        }
        let outputs = complete(declared, &straight.model, &straight.operators)?;
        Ok(OnnxModel { inputs, outputs, content: Content::Straight(Box::new(straight)) })
    }

    /// The shape of every input in the model's order, checked against the declarations.
    fn bind(&self, shapes: &[(&str, Shape)]) -> Result<Vec<Shape>, ImportError> {
        let fail = |input: &str, reason: String| ImportError::Shape { input: input.to_owned(), reason };
        if let Some((name, _)) = shapes.iter().find(|(name, _)| self.inputs.iter().all(|i| i.name != *name)) {
            return Err(fail(name, "the model has no such input".into()));
        }
        let mut symbols: HashMap<&str, (usize, &str)> = HashMap::new();
        let mut bound = Vec::with_capacity(self.inputs.len());
        for decl in &self.inputs {
            let mut given = shapes.iter().filter(|(name, _)| *name == decl.name);
            let (Some((_, shape)), None) = (given.next(), given.next()) else {
                return Err(fail(&decl.name, "one shape is needed".into()));
            };
            if shape.rank() != decl.dims.len() {
                let reason = format!("expected {} axes, got shape {shape}", decl.dims.len());
                return Err(fail(&decl.name, reason));
            }
            let elements = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
            if elements.is_none_or(|elements| elements > TENSOR_ELEMENTS_MAX) {
                return Err(fail(
                    &decl.name,
                    format!("shape {shape} exceeds {TENSOR_ELEMENTS_MAX} elements"),
                ));
            }
            for (axis, (dim, &got)) in decl.dims.iter().zip(shape.iter()).enumerate() {
                check_dim(dim, got, axis, &decl.name, &mut symbols).map_err(|why| fail(&decl.name, why))?;
            }
            bound.push(shape.clone());
        }
        Ok(bound)
    }
}

impl Straight {
    fn parse(message: &ModelProto, directory: Option<&str>) -> Result<Straight, ImportError> {
        let operators = proto::operators(message.graph.as_ref().expect("a message has a graph"));
        let parse = || register::onnx().parse(message, directory);
        let parsed = guarded_import(parse, |reason| ImportError::Parse { reason });
        let ParseResult { model, unresolved_inputs, .. } = parsed?;
        if let Some(name) = unresolved_inputs.first() {
            return Err(ImportError::Parse { reason: format!("nothing makes the value {name}") });
        }
        if model.eval_order().is_err() {
            return Err(ImportError::Parse { reason: "its nodes wait for each other in a circle".into() });
        }
        let constants = model.nodes().iter().filter_map(|node| node.op_as::<Const>()).map(Const::val);
        let consts = ConstPool::new(constants);
        Ok(Straight { model, operators, consts, tried: Tried::default() })
    }

    fn lower(
        &self,
        inputs: &[(String, DType, Shape)],
        outputs: &[String],
        form: Form,
    ) -> Result<Specialised, ImportError> {
        self.consts.begin();
        let mut typed = self.typed(inputs)?;
        if form == Form::Decluttered {
            guarded(|| typed.declutter()).map_err(|reason| ImportError::Analysis { reason })?;
        }
        if let Some(error) = walk::data_dependent(&typed, &self.operators) {
            // Constant folding may tell what the first look did not.
            guarded(|| typed.prop_consts()).map_err(|reason| ImportError::Analysis { reason })?;
            if walk::data_dependent(&typed, &self.operators).is_some() {
                return Err(error);
            }
        }
        let inputs: Vec<String> = inputs.iter().map(|(name, ..)| name.clone()).collect();
        let walked = walk::walk(&typed, &self.consts, &self.operators, &inputs, outputs)?;
        let (graph, regions) = host::merge(&walked.graph);
        let mut graph = passes::normalise(graph, &self.consts);
        let host_kernels = host::attach(&mut graph, &typed, &walked, &regions, &self.operators, &self.tried)?;
        graph.validate().expect("passes keep graphs valid");
        Ok(Specialised { graph, host_kernels })
    }

    fn typed(&self, inputs: &[(String, DType, Shape)]) -> Result<TypedModel, ImportError> {
        let mut model = self.model.clone();
        let call = || {
            for (index, (_, dtype, shape)) in inputs.iter().enumerate() {
                let datum = datum_of(*dtype).expect("declarations have tract's types");
                model.set_input_fact(index, InferenceFact::dt_shape(datum, &shape[..]))?;
            }
            model.clone().into_typed()
        };
        let mut typed = guarded_import(call, |reason| ImportError::Analysis { reason });
        if let Err(ImportError::Analysis { reason }) = &mut typed {
            *reason = locate::locate(&model, &self.operators, std::mem::take(reason));
        }
        typed
    }
}

/// A straight model that is used once: its inputs have these types and shapes, its outputs get these names.
pub(crate) fn lower_message(
    message: &ModelProto,
    directory: Option<&str>,
    inputs: &[(String, DType, Shape)],
    outputs: &[String],
) -> Result<Specialised, ImportError> {
    Straight::parse(message, directory)?.lower(inputs, outputs, Form::AsWritten)
}

/// What is in a file, up to a byte more than a model may have.
fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(MODEL_BYTES_MAX);
    let mut bytes = Vec::with_capacity(length + 1);
    file.take(MODEL_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Which of tract's forms to start from; the normalised graph is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One typed node per ONNX operator, or a few.
    AsWritten,
    /// After tract's own rewriting.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests compare the two"))]
    Decluttered,
}

fn check_dim<'a>(
    dim: &'a Dim,
    got: usize,
    axis: usize,
    input: &'a str,
    symbols: &mut HashMap<&'a str, (usize, &'a str)>,
) -> Result<(), String> {
    match dim {
        Dim::Fixed(expected) if *expected != got => {
            Err(format!("axis {axis}: expected {expected}, got {got}"))
        }
        Dim::Fixed(_) => Ok(()),
        Dim::Symbol(symbol) => match symbols.get(symbol.as_str()) {
            Some((other, first)) if *other != got => {
                Err(format!("axis {axis}: {symbol} is {got} here but {other} in input {first}"))
            }
            Some(_) => Ok(()),
            None => {
                symbols.insert(symbol, (got, input));
                Ok(())
            }
        },
    }
}

/// Output declarations, with what the file leaves out from tract's analysis.
fn complete(
    declared: Vec<(String, Option<TensorDecl>)>,
    model: &InferenceModel,
    operators: &HashMap<String, String>,
) -> Result<Vec<TensorDecl>, ImportError> {
    if declared.iter().all(|(_, decl)| decl.is_some()) {
        return Ok(declared.into_iter().filter_map(|(_, decl)| decl).collect());
    }
    let mut analysed = model.clone();
    guarded_import(
        || analysed.analyse(true).map(|_| ()),
        |reason| ImportError::Analysis { reason: locate::locate(model, operators, reason) },
    )?;
    let complete_one = |(index, (name, decl)): (usize, (String, Option<TensorDecl>))| {
        if let Some(decl) = decl {
            return Ok(decl);
        }
        let fact = analysed.output_fact(index).ok();
        let dtype = fact.and_then(|fact| fact.datum_type.concretize()).and_then(dtype_of);
        let dims = fact.and_then(|fact| fact.shape.concretize());
        let (Some(dtype), Some(dims)) = (dtype, dims) else {
            return Err(ImportError::Parse {
                reason: format!("output {name}: type and shape are not known"),
            });
        };
        let dim = |extent: &tract_onnx::prelude::TDim| match extent.to_usize() {
            Ok(extent) => Dim::Fixed(extent),
            Err(_) => Dim::Symbol(extent.to_string()),
        };
        Ok(TensorDecl { name, dtype, dims: dims.iter().map(dim).collect() })
    };
    declared.into_iter().enumerate().map(complete_one).collect()
}
