//! A parsed model and its specialisation to concrete input shapes.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use reef_base::limits::{MODEL_BYTES_MAX, TENSOR_ELEMENTS_MAX};
use reef_base::panics;
use reef_graph::{DType, Shape, Texts};
use tract_onnx::pb::ModelProto;

use crate::decl::{Dim, TensorDecl};
use crate::error::ImportError;
use crate::flow::{self, Flow, Given, Rest, Step};
use crate::origin::Origin;
use crate::rows;
use crate::straight::{Specialised, Straight};
use crate::{proto, skim};

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

/// A model, parsed once; cheap to specialise. Of a file with many weights it holds where they are: they are
/// read when somebody looks at them, and must be then what they were when the model was parsed
/// ([`OnnxModel::intact`]). The file stays open.
#[derive(Debug)]
pub struct OnnxModel {
    inputs: Vec<TensorDecl>,
    outputs: Vec<TensorDecl>,
    content: Content,
    origin: Option<Arc<Origin>>,
    texts: Arc<Texts>,
}

#[derive(Debug)]
enum Content {
    Straight(Box<Straight>),
    Program(Box<Flow>),
}

impl OnnxModel {
    /// Reads a model file; external data is looked up beside it.
    pub fn read(path: &Path) -> Result<OnnxModel, ImportError> {
        let io = |source| ImportError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        let most = MODEL_BYTES_MAX as u64;
        let (mut bytes, mut length) = (vec![], about.len());
        if !about.is_file() {
            // A pipe, which cannot be read twice.
            length = (&file).take(most + 1).read_to_end(&mut bytes).map_err(io)? as u64;
        }
        if length > most {
            let reason = format!("it has more than {most} bytes; larger weights are external data");
            return Err(ImportError::Parse { reason });
        }
        if !about.is_file() {
            return OnnxModel::from_bytes(&bytes);
        }
        let message = skim::skim(&file, length)
            .map_err(|why| ImportError::Parse { reason: format!("its message cannot be read: {why}") })?;
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        OnnxModel::parse(&message, Some(Arc::new(Origin::new(file, directory))))
    }

    /// Reads a model from memory; it cannot refer to external data.
    pub fn from_bytes(bytes: &[u8]) -> Result<OnnxModel, ImportError> {
        OnnxModel::parse(bytes, None)
    }

    /// Whether what was read of the model's files since it was parsed is what was there then. Who used
    /// constants of it (compiling reads them) asks before he uses what he made.
    pub fn intact(&self) -> Result<(), ImportError> {
        match self.origin.as_ref().and_then(|origin| origin.fault()) {
            None => Ok(()),
            Some(fault) => {
                Err(ImportError::Analysis { reason: format!("reading its weights again: {fault}") })
            }
        }
    }

    /// Lets constants go that are kept for further shapes, where the model is large.
    pub fn release(&self) {
        if self.origin.as_ref().is_none_or(|origin| !origin.is_large()) {
            return;
        }
        match &self.content {
            Content::Straight(straight) => straight.release(),
            Content::Program(flow) => flow.release(),
        }
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[TensorDecl] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[TensorDecl] {
        &self.outputs
    }

    /// Its texts, by their numbers.
    pub fn texts(&self) -> &Arc<Texts> {
        &self.texts
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

    /// Whether inputs and outputs are rows, each computed for itself, where inputs have one of these sets of
    /// shapes but for their first extent; the error says why not. See the module `rows`.
    pub fn rows(&self, shapes: &[Vec<Shape>]) -> Result<(), String> {
        let Content::Straight(straight) = &self.content else {
            return Err("it is a program, whose values decide what runs".into());
        };
        rows::check(&self.inputs, &self.outputs)?;
        for (shapes, rows) in shapes.iter().flat_map(|shapes| rows::TRIED_ROWS.map(|rows| (shapes, rows))) {
            let tried = |shape: &Shape| -> Shape {
                std::iter::once(rows).chain(shape.iter().skip(1).copied()).collect()
            };
            let named: Vec<(&str, Shape)> = self
                .inputs
                .iter()
                .zip(shapes)
                .map(|(decl, shape)| (decl.name.as_str(), tried(shape)))
                .collect();
            let special = self.lower(straight, &named).map_err(|error| error.to_string())?;
            rows::follow(&special.graph, rows)?;
        }
        Ok(())
    }

    /// The first step for these input shapes, every input named once, and the values of some, in the model's
    /// order.
    pub fn begin(
        &self,
        shapes: &[(&str, Shape)],
        values: &[Option<reef_graph::Tensor>],
    ) -> Result<Step, ImportError> {
        let flow = match &self.content {
            Content::Straight(straight) => {
                let segment = self.lower(straight, shapes)?;
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
        let step = panics::catch(|| flow.step(rest, given)).unwrap_or_else(|caught| {
            Err(ImportError::Analysis { reason: format!("internal failure: {caught}") })
        });
        self.intact()?;
        step
    }

    fn lower(&self, straight: &Straight, shapes: &[(&str, Shape)]) -> Result<Specialised, ImportError> {
        let bound = self.bind(shapes)?;
        let inputs = self.inputs.iter().zip(&bound);
        let inputs: Vec<(String, DType, Shape)> =
            inputs.map(|(decl, shape)| (decl.name.clone(), decl.dtype, shape.clone())).collect();
        let lowered = panics::catch(|| straight.lower(&inputs)).unwrap_or_else(|caught| {
            Err(ImportError::Analysis { reason: format!("internal failure: {caught}") })
        });
        self.intact()?;
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

    fn parse(bytes: &[u8], origin: Option<Arc<Origin>>) -> Result<OnnxModel, ImportError> {
        panics::catch(|| OnnxModel::parse_bytes(bytes, origin)).unwrap_or_else(|caught| {
            Err(ImportError::Parse { reason: format!("internal failure: {caught}") })
        })
    }

    fn parse_bytes(bytes: &[u8], origin: Option<Arc<Origin>>) -> Result<OnnxModel, ImportError> {
        let (message, numbered) = proto::decode(bytes, origin.as_deref())?;
        let mut model = OnnxModel::of_message(message, origin)?;
        for decl in model.inputs.iter_mut().chain(&mut model.outputs) {
            decl.texts = numbered.is_text(&decl.name);
        }
        model.texts = Arc::new(numbered.texts);
        Ok(model)
    }

    fn of_message(message: ModelProto, origin: Option<Arc<Origin>>) -> Result<OnnxModel, ImportError> {
        let graph = message.graph.as_ref().expect("decoding checks that there is a graph");
        let inputs = proto::inputs(graph)?;
        let names: HashSet<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        if names.len() != inputs.len() {
            return Err(ImportError::Parse { reason: "an input is declared twice".into() });
        }
        if flow::is_program(graph, &inputs) {
            let outputs = proto::program_outputs(graph)?;
            let content = Content::Program(Box::new(Flow::new(message, &inputs, origin.as_ref())?));
            return Ok(OnnxModel { inputs, outputs, content, origin, texts: Arc::default() });
        }
        let declared = proto::outputs(graph);
        let straight = Straight::parse(message, &inputs, origin.as_ref())?;
        let outputs = straight.complete(&inputs, declared)?;
        let content = Content::Straight(Box::new(straight));
        Ok(OnnxModel { inputs, outputs, content, origin, texts: Arc::default() })
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
