//! A model that is one plan for the shapes of its inputs: through tract's analysis to our graph.

use std::collections::HashMap;
use std::sync::Arc;

use reef_graph::{DType, Graph, Shape};
use reef_plan::HostKernel;
use tract_onnx::model::ParseResult;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{InferenceModel, InferenceModelExt, TypedModel};
use tract_onnx::tract_core::internal::DimLike;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::infer::{Factoid, InferenceFact};

use crate::consts::{ConstPool, datum_of, dtype_of};
use crate::decl::{Dim, TensorDecl};
use crate::dry::Tried;
use crate::error::ImportError;
use crate::guard::{guarded, guarded_import};
use crate::{host, locate, passes, proto, register, walk};

/// A model for concrete shapes.
#[derive(Clone, Debug)]
pub struct Specialised {
    /// What to compute, normalised.
    pub graph: Graph,
    /// What the graph's host operators index.
    pub host_kernels: Vec<Arc<dyn HostKernel>>,
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

/// A model that is one plan for the shapes of its inputs.
#[derive(Debug)]
pub(crate) struct Straight {
    pub model: InferenceModel,
    /// The ONNX operator of every node, by its name.
    pub operators: HashMap<String, String>,
    consts: ConstPool,
    /// The host kernels that ran before.
    tried: Tried,
}

impl Straight {
    pub fn parse(message: &ModelProto, directory: Option<&str>) -> Result<Straight, ImportError> {
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

    /// The model for inputs of these types and shapes.
    pub fn lower(
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

/// Output declarations, with what the file leaves out from tract's analysis.
pub(crate) fn complete(
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
