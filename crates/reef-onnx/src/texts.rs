//! Texts (strings), which graphs do not have: a pass over a model that was decoded and checked puts a number
//! in the place of each ([`reef_graph::Texts`]), in constants, attributes and declarations.
//!
//! It finds out which values are texts, from what declares them on. What moves, picks or compares elements
//! does so with their numbers; any other operator that is given a text, or gives one, is refused by name, so
//! that no number of a text is ever computed with. Nothing after this pass knows texts.

use std::collections::HashSet;

use reef_graph::Texts;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::type_proto::Value;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

use crate::error::ImportError;
use crate::names::CLASSICAL;
use crate::scope;

const TEXT: i32 = DataType::String as i32;

/// What a value of a `LabelEncoder` is where it says nothing of what has no key.
const UNKNOWN_LABEL: &[u8] = b"_Unused";

/// The texts of a model, and which of its values are such.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbered {
    pub texts: Texts,
    names: HashSet<String>,
}

impl Numbered {
    /// Whether the value of this name is made of texts.
    pub fn is_text(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

/// Writes a graph, and those in it, without texts.
pub(crate) fn rewrite(graph: &mut GraphProto) -> Result<Numbered, ImportError> {
    let mut numbered = Numbered::default();
    if mentions(graph) {
        scope::make_unique(graph);
        // Nodes may stand in any order; every round finds another value, or it is the last.
        while find(graph, &mut numbered.names) {}
        Rewriter { numbered: &mut numbered }.graph(graph)?;
    }
    Ok(numbered)
}

/// Whether anything in a graph says that it is a text.
fn mentions(graph: &GraphProto) -> bool {
    let in_node = |node: &NodeProto| {
        node.attribute.iter().any(|given| {
            is_list(given)
                || given.t.iter().any(|tensor| tensor.data_type == TEXT)
                || given.name == "to" && given.i == i64::from(TEXT)
        }) || scope::bodies(node).any(mentions)
    };
    graph.input.iter().chain(&graph.output).any(declared)
        || graph.initializer.iter().any(|tensor| tensor.data_type == TEXT)
        || graph.node.iter().any(in_node)
}

/// Whether an attribute holds texts that are elements of tensors.
fn is_list(attribute: &AttributeProto) -> bool {
    let lists = ["keys_strings", "values_strings", "cats_strings", "classlabels_strings", "value_strings"];
    attribute.name == "value_string"
        || lists.contains(&attribute.name.as_str()) && !attribute.strings.is_empty()
}

fn declared(info: &ValueInfoProto) -> bool {
    let kind = info.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    matches!(kind, Some(Value::TensorType(tensor)) if tensor.elem_type == TEXT)
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// Whether an attribute gives texts, as a list or as a tensor.
fn gives_texts(node: &NodeProto, list: &str, tensor: &str) -> bool {
    attribute(node, list).is_some_and(|list| !list.strings.is_empty())
        || attribute(node, tensor).is_some_and(|given| given.t.iter().any(|t| t.data_type == TEXT))
}

/// Adds what is known of a graph's values; whether that is more than before.
fn find(graph: &GraphProto, names: &mut HashSet<String>) -> bool {
    let before = names.len();
    let said = graph.input.iter().chain(&graph.output).filter(|info| declared(info));
    names.extend(said.map(|info| info.name.clone()));
    let constants = graph.initializer.iter().filter(|tensor| tensor.data_type == TEXT);
    names.extend(constants.map(|tensor| tensor.name.clone()));
    for node in &graph.node {
        for (slot, output) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            if makes(node, slot, names) {
                names.insert(output.clone());
            }
        }
        for body in scope::bodies(node) {
            let entering =
                node.input.iter().zip(&body.input).skip(if node.op_type == "Loop" { 2 } else { 0 });
            for (given, info) in entering {
                if names.contains(given) {
                    names.insert(info.name.clone());
                }
            }
            while find(body, names) {}
        }
    }
    names.len() > before
}

/// Whether an output is made of texts, as far as is known.
fn makes(node: &NodeProto, slot: usize, names: &HashSet<String>) -> bool {
    let labels = || gives_texts(node, "classlabels_strings", "");
    match node.op_type.strip_prefix(CLASSICAL) {
        Some("LabelEncoder") => return gives_texts(node, "values_strings", "values_tensor"),
        Some(operator) if operator.ends_with("Classifier") => return slot == 0 && labels(),
        _ => {}
    }
    match node.op_type.as_str() {
        "Constant" | "ConstantOfShape" => {
            attribute(node, "value_string").is_some() || gives_texts(node, "value_strings", "value")
        }
        "If" | "Loop" | "Scan" => results(node, slot).any(|name| names.contains(name)),
        operator if slot == 0 || operator == "Split" => {
            moved(operator, node.input.len()).iter().any(|&at| names.contains(&node.input[at]))
        }
        _ => false,
    }
}

/// What the bodies of a node give as its output.
fn results(node: &NodeProto, slot: usize) -> impl Iterator<Item = &String> {
    let skipped = usize::from(node.op_type == "Loop");
    scope::bodies(node).filter_map(move |body| body.output.get(slot + skipped)).map(|info| &info.name)
}

/// The operands whose elements an operator gives without a look at them; none if it is not of that kind.
fn moved(operator: &str, operands: usize) -> Vec<usize> {
    let at: &[usize] = match operator {
        "Concat" | "SequenceConstruct" => return (0..operands).collect(),
        "Where" => &[1, 2],
        "ScatterElements" | "ScatterND" => &[0, 2],
        "SequenceInsert" => &[0, 1],
        "Identity"
        | "Reshape"
        | "Flatten"
        | "Squeeze"
        | "Unsqueeze"
        | "Transpose"
        | "Expand"
        | "Tile"
        | "Slice"
        | "Split"
        | "Gather"
        | "GatherElements"
        | "GatherND"
        | "Compress"
        | "ReverseSequence"
        | "ai.onnx.ml.ArrayFeatureExtractor"
        | "SplitToSequence"
        | "SequenceAt"
        | "SequenceErase"
        | "ConcatFromSequence"
        | "Optional"
        | "OptionalGetElement" => &[0],
        _ => &[],
    };
    at.iter().copied().filter(|&at| at < operands).collect()
}

struct Rewriter<'n> {
    numbered: &'n mut Numbered,
}

impl Rewriter<'_> {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<(), ImportError> {
        for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
            if declared(info)
                && let Some(Value::TensorType(tensor)) =
                    info.r#type.as_mut().and_then(|kind| kind.value.as_mut())
            {
                tensor.elem_type = DataType::Int64 as i32;
            }
        }
        for tensor in &mut graph.initializer {
            self.tensor(tensor).map_err(|reason| ImportError::Parse { reason })?;
        }
        for node in &mut graph.node {
            self.node(node).map_err(|reason| {
                let (node, operator) = (node.name.clone(), node.op_type.clone());
                ImportError::Unsupported { node, operator, reason }
            })?;
            for given in &mut node.attribute {
                given.g.iter_mut().chain(&mut given.graphs).try_for_each(|body| self.graph(body))?;
            }
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &mut TensorProto) -> Result<(), String> {
        if tensor.data_type != TEXT {
            return Ok(());
        }
        let needed = tensor
            .dims
            .iter()
            .try_fold(1usize, |product, &extent| product.checked_mul(usize::try_from(extent).ok()?));
        let texts = std::mem::take(&mut tensor.string_data);
        if needed != Some(texts.len()) {
            let (name, given, dims) = (&tensor.name, texts.len(), &tensor.dims);
            return Err(format!("tensor {name}: {given} texts given for shape {dims:?}"));
        }
        tensor.data_type = DataType::Int64 as i32;
        tensor.int64_data = texts.iter().map(|text| self.numbered.texts.number(text)).collect();
        Ok(())
    }

    /// Checks a node, and puts numbers in the place of texts in its attributes.
    fn node(&mut self, node: &mut NodeProto) -> Result<(), String> {
        self.check(node)?;
        for given in &mut node.attribute {
            given.t.iter_mut().try_for_each(|tensor| self.tensor(tensor))?;
        }
        match node.op_type.strip_prefix(CLASSICAL) {
            Some("LabelEncoder") => self.label_encoder(node),
            Some("OneHotEncoder") => self.list(node, "cats_strings", "cats_int64s"),
            Some("TreeEnsembleClassifier") => self.labels(node, "classlabels_int64s"),
            Some(operator) if operator.ends_with("Classifier") => self.labels(node, "classlabels_ints"),
            _ => self.constant(node),
        }
    }

    fn is_text(&self, name: &String) -> bool {
        self.numbered.names.contains(name)
    }

    /// An error for an operator that would compute with texts.
    fn check(&self, node: &NodeProto) -> Result<(), String> {
        let given: Vec<bool> = node.input.iter().map(|name| self.is_text(name)).collect();
        let made = node.output.iter().any(|name| self.is_text(name));
        let any = made || given.contains(&true);
        let mixed = || Err("texts and numbers are mixed".into());
        let only_first = |texts: bool| match given.first() == Some(&texts) && !given[1..].contains(&true) {
            true => Ok(()),
            false if texts => Err("it has texts for keys, and its input has none".into()),
            false => Err("its input has texts, and it has none for keys".into()),
        };
        match node.op_type.as_str() {
            "ai.onnx.ml.LabelEncoder" => only_first(gives_texts(node, "keys_strings", "keys_tensor")),
            "ai.onnx.ml.OneHotEncoder" => only_first(gives_texts(node, "cats_strings", "")),
            _ if !any => Ok(()),
            "If" | "Loop" | "Scan" => {
                let agree = |(slot, output): (usize, &String)| {
                    let text = self.is_text(output);
                    results(node, slot).all(|name| self.is_text(name) == text)
                };
                let mut outputs = node.output.iter().enumerate().filter(|(_, name)| !name.is_empty());
                if outputs.all(agree) { Ok(()) } else { mixed() }
            }
            "Constant" | "ConstantOfShape" => Ok(()),
            operator if operator.starts_with(CLASSICAL) && operator.ends_with("Classifier") => {
                if given.contains(&true) { mixed() } else { Ok(()) }
            }
            "Shape" | "Size" | "SequenceLength" | "OptionalHasElement" if !made => Ok(()),
            "Equal" if !made => {
                if given.contains(&false) {
                    mixed()
                } else {
                    Ok(())
                }
            }
            operator => {
                let moved = moved(operator, node.input.len());
                let adds = attribute(node, "reduction").is_some_and(|how| how.s != b"none");
                if moved.is_empty() || adds {
                    return Err("texts are moved, picked and compared, and not computed with".into());
                }
                let fit = |(at, &text): (usize, &bool)| text == (made && moved.contains(&at));
                if given.iter().enumerate().all(fit) { Ok(()) } else { mixed() }
            }
        }
    }

    /// The numbers of the texts of an attribute, which goes.
    fn take(&mut self, node: &mut NodeProto, name: &str) -> Option<Vec<i64>> {
        let at = node.attribute.iter().position(|given| given.name == name)?;
        let list = node.attribute.remove(at).strings;
        Some(list.iter().map(|text| self.numbered.texts.number(text)).collect())
            .filter(|list: &Vec<i64>| !list.is_empty())
    }

    /// A list of texts as one of numbers under another name.
    fn list(&mut self, node: &mut NodeProto, from: &str, to: &str) -> Result<(), String> {
        let Some(ints) = self.take(node, from) else { return Ok(()) };
        if attribute(node, to).is_some_and(|other| !other.ints.is_empty()) {
            return Err(format!("it has both `{from}` and `{to}`"));
        }
        put(
            node,
            AttributeProto {
                name: to.into(),
                r#type: AttributeType::Ints as i32,
                ints,
                ..Default::default()
            },
        );
        Ok(())
    }

    /// What classes are called: the texts stay, and say that the numbers beside them are theirs.
    fn labels(&mut self, node: &mut NodeProto, ints: &str) -> Result<(), String> {
        let Some(texts) = attribute(node, "classlabels_strings").cloned() else { return Ok(()) };
        if texts.strings.is_empty() {
            return Ok(());
        }
        node.attribute.retain(|given| given.name != ints);
        self.list(node, "classlabels_strings", ints)?;
        put(node, texts);
        Ok(())
    }

    fn label_encoder(&mut self, node: &mut NodeProto) -> Result<(), String> {
        let values = gives_texts(node, "values_strings", "");
        self.list(node, "keys_strings", "keys_int64s")?;
        self.list(node, "values_strings", "values_int64s")?;
        let default = attribute(node, "default_string").map(|given| given.s.clone());
        node.attribute.retain(|given| given.name != "default_string");
        if values {
            let i = self.numbered.texts.number(&default.unwrap_or(UNKNOWN_LABEL.into()));
            let r#type = AttributeType::Int as i32;
            put(node, AttributeProto { name: "default_int64".into(), r#type, i, ..Default::default() });
        }
        Ok(())
    }

    fn constant(&mut self, node: &mut NodeProto) -> Result<(), String> {
        if node.op_type != "Constant" {
            return Ok(());
        }
        for given in &mut node.attribute {
            let number = |text: &Vec<u8>| self.numbered.texts.number(text);
            match given.name.as_str() {
                "value_string" => {
                    (given.name, given.r#type) = ("value_int".into(), AttributeType::Int as i32);
                    given.i = self.numbered.texts.number(&given.s);
                }
                "value_strings" => {
                    (given.name, given.r#type) = ("value_ints".into(), AttributeType::Ints as i32);
                    given.ints = given.strings.iter().map(number).collect();
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Gives a node an attribute in the place of one with its name.
fn put(node: &mut NodeProto, attribute: AttributeProto) {
    node.attribute.retain(|given| given.name != attribute.name);
    node.attribute.push(attribute);
}
