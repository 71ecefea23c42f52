//! Where an analysis failed: node, operator and shapes, in words of the model.
//!
//! tract's errors speak of its own nodes and rules, its panics of nothing. After a failure the analysis is
//! done again node by node, each guarded, until one fails. Only failures pay for that.

use std::collections::HashMap;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{EvalContext, SpecialOps};
use tract_onnx::tract_hir::infer::{Factoid, InferenceFact};

use crate::guard::{attempt, guarded, text};

type Node = tract_onnx::tract_hir::internal::InferenceNode;

/// Says what `reason` (why the analysis of `model`, whose inputs have their shapes, failed) is about.
pub(crate) fn locate(model: &InferenceModel, operators: &HashMap<String, String>, reason: String) -> String {
    let mut model = model.clone();
    let found = guarded(|| Ok(first_failure(&mut model))).ok().flatten();
    // What only fails when later nodes speak of earlier ones: tract says which node it was at.
    let found = found.or_else(|| Some((named(&model, &reason)?, reason.clone())));
    let Some((id, reason)) = found else { return plain(&reason) };
    let node = model.node(id);
    let operator = operators.get(&node.name).cloned().unwrap_or_else(|| node.op.name().into_owned());
    let inputs: Vec<String> = node.inputs.iter().map(|&input| described(&model, input)).collect();
    let inputs = if inputs.is_empty() { String::new() } else { format!(" of {}", inputs.join(", ")) };
    format!("node {} ({operator}){inputs}: {}", node.name, with_names(&model, node, plain(&reason)))
}

/// The node that tract's message names, as `node #7 "name"`.
fn named(model: &InferenceModel, reason: &str) -> Option<usize> {
    let name = reason.split_once("node #")?.1.split('"').nth(1)?;
    model.nodes().iter().position(|node| node.name == name)
}

/// The first node that fails, in execution order, and why.
fn first_failure(model: &mut InferenceModel) -> Option<(usize, String)> {
    let order = model.eval_order().ok()?;
    for &id in &order {
        if let Err(error) = attempt(|| infer(model, id)) {
            return Some((id, text(&error)));
        }
    }
    translate(model, &order)
}

/// One node's rules: what they say of its outputs is noted.
fn infer(model: &mut InferenceModel, id: usize) -> TractResult<()> {
    let observed = model.node(id).op.observe_outlets(model, model.node(id))?;
    let facts = |outlets: &[OutletId]| -> TractResult<Vec<InferenceFact>> {
        outlets.iter().map(|&outlet| model.outlet_fact(outlet).cloned()).collect()
    };
    let (inputs, observed) = (facts(&model.node(id).inputs)?, facts(&observed)?);
    let outputs: Vec<InferenceFact> = model.node(id).outputs.iter().map(|out| out.fact.clone()).collect();
    let node = model.node_mut(id);
    let (_, made, _) =
        node.op.infer(inputs.iter().collect(), outputs.iter().collect(), observed.iter().collect())?;
    for (slot, fact) in made.iter().enumerate() {
        let outlet = OutletId::new(id, slot);
        let unified = model.outlet_fact(outlet)?.unify(fact)?;
        model.set_outlet_fact(outlet, unified)?;
    }
    Ok(())
}

/// The first node that has no typed form.
fn translate(model: &InferenceModel, order: &[usize]) -> Option<(usize, String)> {
    let mut typed = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
    let mut mapping: HashMap<OutletId, OutletId> = HashMap::new();
    for &id in order {
        let node = model.node(id);
        let known: Option<Vec<_>> = node.outputs.iter().map(|out| out.fact.value.concretize()).collect();
        let stateless = matches!(attempt(|| node.op.state(&EvalContext::out_of_plan())), Ok(None));
        let made = attempt(|| match known {
            Some(values) if stateless && !InferenceModel::is_source(&node.op) => {
                let constant = |(slot, value)| typed.add_const(format!("{}.{slot}", node.name), value);
                values.into_iter().enumerate().map(constant).collect()
            }
            _ => node.op.to_typed(model, node, &mut typed, &mapping),
        });
        match made {
            Ok(made) => mapping.extend((0..).map(|slot| OutletId::new(id, slot)).zip(made)),
            Err(error) => return Some((id, text(&error))),
        }
    }
    None
}

/// A value's name, type and shape, as far as they are known.
fn described(model: &InferenceModel, outlet: OutletId) -> String {
    let name = name_of(model, outlet);
    let Ok(fact) = model.outlet_fact(outlet) else { return name };
    let dtype = fact.datum_type.concretize().and_then(crate::consts::dtype_of);
    let dtype = dtype.map_or_else(|| "?".into(), |dtype| dtype.to_string());
    let dims: Vec<String> = fact
        .shape
        .dims()
        .map(|dim| dim.concretize().map_or_else(|| "?".into(), |dim| dim.to_string()))
        .collect();
    match fact.shape.is_open() {
        true => format!("{name} {dtype}"),
        false => format!("{name} {dtype}[{}]", dims.join(",")),
    }
}

fn name_of(model: &InferenceModel, outlet: OutletId) -> String {
    model.outlet_label(outlet).map_or_else(|| model.node(outlet.node).name.clone(), str::to_owned)
}

/// tract's rules speak of `inputs[0]`; people know its name.
fn with_names(model: &InferenceModel, node: &Node, mut reason: String) -> String {
    for (index, &input) in node.inputs.iter().enumerate() {
        reason = reason.replace(&format!("inputs[{index}]"), &name_of(model, input));
    }
    for slot in 0..node.outputs.len() {
        let name = name_of(model, OutletId::new(node.id, slot));
        reason = reason.replace(&format!("outputs[{slot}]"), &name);
    }
    reason
}

/// The last causes of an error of tract's, in plain words.
fn plain(reason: &str) -> String {
    let last = |mark: &str| reason.rfind(mark).map(|at| &reason[at + mark.len()..]);
    let reason = last("Infering facts: ").or_else(|| last("ToTypedTranslator: ")).unwrap_or(reason);
    let reason = reason.strip_prefix("Eager eval during inference: ").unwrap_or(reason);
    let numbers = bare_numbers(reason);
    let Some(rule) = numbers.strip_prefix("Applying rule ") else { return numbers };
    match rule.split_once(": Impossible to unify ") {
        Some((rule, sides)) => {
            let (left, right) =
                sides.trim_end_matches('.').split_once(" with ").unwrap_or((sides, "another"));
            format!("it needs {rule}, but {left} is not {right}")
        }
        // The rule itself is a dump of tract's.
        None => rule.split_once(" }: ").map_or(rule, |(_, why)| why).to_owned(),
    }
}

/// `Val(7)` is 7.
fn bare_numbers(text: &str) -> String {
    let mut parts = text.split("Val(");
    let mut bare = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'-').count();
        match part[digits..].strip_prefix(')') {
            Some(rest) if digits > 0 => {
                bare.push_str(&part[..digits]);
                bare.push_str(rest);
            }
            _ => {
                bare.push_str("Val(");
                bare.push_str(part);
            }
        }
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_put_plainly() {
        let rule = "Failed analyse for node #3 \"r\" Add: Infering facts: \
                    Applying rule inputs[0].shape[1] == inputs[1].shape[0]: \
                    Impossible to unify Val(2) with Val(1).";
        assert_eq!(plain(rule), "it needs inputs[0].shape[1] == inputs[1].shape[0], but 2 is not 1");
        let dump =
            "Infering facts: Applying rule GivenRule { (inputs[0].shape, inputs[1]) }: no { a: [1] }, 7";
        assert_eq!(plain(dump), "no { a: [1] }, 7");
        assert_eq!(plain("Translating node #3 \"q\" If ToTypedTranslator: no"), "no");
        assert_eq!(bare_numbers("Val(3), Interval(1), Val(-2) Val(x)"), "3, Interval(1), -2 Val(x)");
    }
}
