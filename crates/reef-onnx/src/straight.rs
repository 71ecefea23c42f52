//! A model that is one plan for the shapes of its inputs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use reef_graph::{DType, Graph, Shape};
use reef_plan::HostKernel;
use tract_onnx::pb::{ModelProto, NodeProto};

use crate::consts::ConstPool;
use crate::decl::{Dim, TensorDecl};
use crate::dry::Tried;
use crate::error::ImportError;
use crate::import::{self, Import, Shared};
use crate::names::STANDARD;
use crate::origin::Origin;
use crate::passes;
use crate::tensors::Weights;

/// A model for concrete shapes.
#[derive(Clone, Debug)]
pub struct Specialised {
    /// What to compute, normalised.
    pub graph: Graph,
    /// What the graph's host operators index.
    pub host_kernels: Vec<Arc<dyn HostKernel>>,
}

/// Extents that are tried, one after the other, for axes whose extents a caller gives.
const TRIED_EXTENTS: [usize; 10] = [2, 3, 1, 4, 8, 16, 32, 64, 128, 224];

/// A model that is one plan for the shapes of its inputs.
#[derive(Debug)]
pub(crate) struct Straight {
    /// Those that an output needs, in an order in which values are made before they are read.
    nodes: Vec<NodeProto>,
    weights: Weights,
    /// Names of the outputs.
    outputs: Vec<String>,
    opset: i64,
    pool: ConstPool,
    /// The host kernels that ran before.
    tried: Tried,
}

impl Straight {
    /// A model of `message`, which was decoded and checked; `inputs` are the names that callers give.
    pub fn parse(
        message: ModelProto,
        inputs: &[TensorDecl],
        origin: Option<&Arc<Origin>>,
    ) -> Result<Straight, ImportError> {
        let standard = |domain: &str| STANDARD.contains(&domain);
        let opset = message.opset_import.iter().find(|import| standard(&import.domain));
        let opset = opset.map_or(0, |import| import.version);
        let mut graph = message.graph.expect("decoding checks that there is a graph");
        let weights = Weights::hoist(&mut graph, origin);
        let outputs: Vec<String> = graph.output.iter().map(|output| output.name.clone()).collect();
        let given = inputs.iter().map(|input| input.name.as_str()).collect();
        let nodes = ordered(graph.node, given, &weights, &outputs)?;
        Ok(Straight { nodes, weights, outputs, opset, pool: ConstPool::default(), tried: Tried::default() })
    }

    /// The model for inputs of these types and shapes.
    pub fn lower(&self, inputs: &[(String, DType, Shape)]) -> Result<Specialised, ImportError> {
        self.pool.begin();
        let shared = Shared { opset: self.opset, pool: &self.pool, tried: &self.tried };
        let mut import = Import::new(shared);
        for (name, dtype, shape) in inputs {
            import.input(name, *dtype, shape.clone());
        }
        let read = self.nodes.iter().flat_map(|node| &node.input).chain(&self.outputs);
        for name in read {
            if !import.knows(name)
                && let Some(tensor) = self.weights.get(name)
            {
                import.constant(name, tensor?);
            }
        }
        self.nodes.iter().for_each(|node| import.node(node));
        let outputs: Vec<(String, String)> =
            self.outputs.iter().map(|name| (name.clone(), name.clone())).collect();
        finish(import, &outputs, &self.pool)
    }

    /// Lets constants go that were made of others, until they are needed again.
    pub fn release(&self) {
        self.pool.clear();
    }

    /// Output declarations, with what the file leaves out found by trying shapes of inputs.
    pub fn complete(
        &self,
        inputs: &[TensorDecl],
        declared: Vec<(String, Option<TensorDecl>)>,
    ) -> Result<Vec<TensorDecl>, ImportError> {
        if declared.iter().all(|(_, decl)| decl.is_some()) {
            return Ok(declared.into_iter().filter_map(|(_, decl)| decl).collect());
        }
        let fixed = inputs.iter().flat_map(|decl| &decl.dims).all(|dim| matches!(dim, Dim::Fixed(_)));
        let (mut found, mut refusal): (Vec<Vec<(DType, Shape)>>, Option<ImportError>) = (vec![], None);
        for extent in TRIED_EXTENTS.into_iter().take(if fixed { 1 } else { TRIED_EXTENTS.len() }) {
            let bound = |dim: &Dim| match dim {
                Dim::Fixed(extent) => *extent,
                Dim::Symbol(_) => extent,
            };
            let shapes = inputs
                .iter()
                .map(|decl| (decl.name.clone(), decl.dtype, decl.dims.iter().map(bound).collect::<Shape>()));
            match self.lower(&shapes.collect::<Vec<_>>()) {
                Ok(special) => {
                    let graph = &special.graph;
                    let made = graph.outputs.iter().map(|&id| graph.value(id));
                    found.push(made.map(|value| (value.dtype, value.shape.clone())).collect());
                }
                Err(error) => drop(refusal.get_or_insert(error)),
            }
            if found.len() == 2 {
                break;
            }
        }
        let Some(first) = found.first() else {
            return Err(refusal.expect("what was not found was refused"));
        };
        let other = found.last().expect("there is one");
        let complete_one = |(index, (name, decl)): (usize, (String, Option<TensorDecl>))| {
            if let Some(decl) = decl {
                return Ok(decl);
            }
            let ((dtype, shape), (_, second)) = (&first[index], &other[index]);
            if shape.rank() != second.rank() {
                let reason = format!("output {name}: how many axes it has depends on the inputs' shapes");
                return Err(ImportError::Parse { reason });
            }
            let dim = |axis: usize| match shape[axis] == second[axis] {
                true => Dim::Fixed(shape[axis]),
                false => Dim::Symbol(format!("{name}.{axis}")),
            };
            Ok(TensorDecl { dims: (0..shape.rank()).map(dim).collect(), dtype: *dtype, name, texts: false })
        };
        declared.into_iter().enumerate().map(complete_one).collect()
    }
}

/// The graph that computes `outputs`, which get these names, normalised.
pub(crate) fn finish(
    import: Import,
    outputs: &[(String, String)],
    pool: &ConstPool,
) -> Result<Specialised, ImportError> {
    let (graph, kernels) = import.finish(outputs)?;
    let mut graph = passes::normalise(graph, pool);
    let host_kernels = import::renumber(&mut graph, &kernels);
    graph.validate().expect("passes keep graphs valid");
    Ok(Specialised { graph, host_kernels })
}

/// The nodes that `outputs` need, each after those that make what it reads.
fn ordered(
    nodes: Vec<NodeProto>,
    given: HashSet<&str>,
    weights: &Weights,
    outputs: &[String],
) -> Result<Vec<NodeProto>, ImportError> {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        makers.extend(node.output.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), index)));
    }
    /// How far a node is.
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut states = vec![State::New; nodes.len()];
    let mut order = vec![];
    let maker = |name: &str| -> Result<Option<usize>, ImportError> {
        match makers.get(name) {
            Some(&maker) => Ok(Some(maker)),
            None if name.is_empty() || given.contains(name) || weights.contains(name) => Ok(None),
            None => Err(ImportError::Parse { reason: format!("nothing makes the value {name}") }),
        }
    };
    // Depth first, without recursion.
    let mut pending = vec![];
    for output in outputs.iter().rev() {
        pending.extend(maker(output)?);
    }
    while let Some(&index) = pending.last() {
        let mut waits = vec![];
        for name in nodes[index].input.iter().rev() {
            if let Some(other) = maker(name)? {
                match states[other] {
                    State::New => waits.push(other),
                    State::Open => {
                        let reason = "its nodes wait for each other in a circle".into();
                        return Err(ImportError::Parse { reason });
                    }
                    State::Done => {}
                }
            }
        }
        if states[index] == State::Done || waits.is_empty() {
            pending.pop();
            if states[index] != State::Done {
                states[index] = State::Done;
                order.push(index);
            }
            continue;
        }
        states[index] = State::Open;
        pending.extend(waits);
    }
    let mut nodes: Vec<Option<NodeProto>> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|index| nodes[index].take()).collect())
}
