//! `Einsum`, every form of its equation: several operands, repeated letters (diagonals), an ellipsis, an
//! implicit result, spaces, both cases, and results without axes.
//!
//! f32 and f16 become tract's sums of products of two operands at a time, which have native kernels; other
//! types are summed up on the host.

use std::collections::BTreeMap;

use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::einsum::EinSum;

use super::own::{Built, Kernel, Own, Reading, beside, facts_of, own, refused};
use super::values::Values;

/// An axis: a letter of the equation, or a place in the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// What a term of the equation says: letters before and after an ellipsis, if there is one.
#[derive(Clone, Debug, Default)]
struct Term {
    before: Vec<char>,
    /// What follows an ellipsis.
    after: Option<Vec<char>>,
}

/// A parsed equation.
#[derive(Clone, Debug)]
struct Einsum {
    terms: Vec<Term>,
    /// `None`: what appears once.
    result: Option<Term>,
}

impl Term {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split("...");
        let mut letters = || -> Result<Option<Vec<char>>, String> {
            let Some(part) = parts.next() else { return Ok(None) };
            match part.chars().find(|letter| !letter.is_ascii_alphabetic()) {
                Some(other) => Err(format!("`{other}` in its equation")),
                None => Ok(Some(part.chars().collect())),
            }
        };
        let (before, after, more) = (letters()?.unwrap_or_default(), letters()?, letters()?);
        match more {
            Some(_) => Err("two ellipses in a term of its equation".into()),
            None => Ok(Term { before, after }),
        }
    }

    /// The axes of a tensor of this rank.
    fn labels(&self, rank: usize) -> TractResult<Vec<Label>> {
        let after = self.after.as_deref().unwrap_or_default();
        let named = self.before.len() + after.len();
        let fits = if self.after.is_some() { named <= rank } else { named == rank };
        ensure!(fits, "a term with {named} letters for a tensor of rank {rank}");
        Ok(self.placed(rank - named))
    }

    /// The axes with `hidden` of them in the ellipsis.
    fn placed(&self, hidden: usize) -> Vec<Label> {
        let ellipsis = if self.after.is_some() { hidden } else { 0 };
        let before = self.before.iter().copied().map(Label::Letter);
        let after = self.after.iter().flatten().copied().map(Label::Letter);
        before.chain((0..ellipsis).rev().map(Label::Ellipsis)).chain(after).collect()
    }
}

/// An equation for tensors of known shapes.
#[derive(Clone, Debug)]
struct Resolved {
    operands: Vec<Vec<Label>>,
    result: Vec<Label>,
    extents: BTreeMap<Label, TDim>,
}

impl Einsum {
    fn parse(equation: &str) -> Result<Self, String> {
        let equation: String = equation.chars().filter(|letter| !letter.is_whitespace()).collect();
        let (left, right) = match equation.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (equation.as_str(), None),
        };
        let terms = left.split(',').map(Term::parse).collect::<Result<_, _>>()?;
        Ok(Einsum { terms, result: right.map(Term::parse).transpose()? })
    }

    fn resolve(&self, inputs: &[TypedFact]) -> TractResult<Resolved> {
        ensure!(inputs.len() == self.terms.len(), "{} operands for {} terms", inputs.len(), self.terms.len());
        let mut operands = vec![];
        let mut extents: BTreeMap<Label, TDim> = BTreeMap::new();
        for (term, input) in self.terms.iter().zip(inputs) {
            let labels = term.labels(input.rank())?;
            for (label, extent) in labels.iter().zip(input.shape.iter()) {
                match extents.get(label) {
                    Some(known) if known != extent && *known != 1.to_dim() => {
                        ensure!(*extent == 1.to_dim(), "an axis has extents {known} and {extent}");
                    }
                    _ => drop(extents.insert(*label, extent.clone())),
                }
            }
            operands.push(labels);
        }
        let result = self.result(&operands)?;
        Ok(Resolved { operands, result, extents })
    }

    fn result(&self, operands: &[Vec<Label>]) -> TractResult<Vec<Label>> {
        let all = || operands.iter().flatten();
        let hidden = all().filter_map(|label| match label {
            Label::Ellipsis(at) => Some(at + 1),
            Label::Letter(_) => None,
        });
        let hidden = hidden.max().unwrap_or(0);
        let Some(term) = &self.result else {
            let mut once: Vec<Label> =
                all().copied().filter(|label| all().filter(|l| *l == label).count() == 1).collect();
            once.retain(|label| matches!(label, Label::Letter(_)));
            once.sort_unstable();
            return Ok((0..hidden).rev().map(Label::Ellipsis).chain(once).collect());
        };
        let result = term.placed(hidden);
        for (at, label) in result.iter().enumerate() {
            ensure!(all().any(|known| known == label), "an axis of the result is in no operand");
            ensure!(!result[..at].contains(label), "an axis is twice in the result");
        }
        Ok(result)
    }
}

impl Reading for Einsum {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        facts_of(&SumOfProducts(self.resolve(inputs)?), inputs)
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| model.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        let resolved = self.resolve(&facts)?;
        let float = matches!(facts[0].datum_type, DatumType::F32 | DatumType::F16);
        let some = resolved.extents.values().all(|extent| *extent != 0.to_dim());
        if !float || !some || facts.iter().all(|fact| fact.konst.is_some()) {
            return model.wire_node(name, Own(SumOfProducts(resolved)), inputs);
        }
        let mut wiring = Wiring { name, model, resolved: &resolved, parts: 0 };
        let mut operands = vec![];
        for (&input, labels) in inputs.iter().zip(&resolved.operands) {
            operands.push(wiring.operand(input, labels)?);
        }
        Ok(tvec!(wiring.contract(operands)?))
    }
}

/// A sum of products on the host, element by element.
#[derive(Clone, Debug)]
struct SumOfProducts(Resolved);

impl Kernel for SumOfProducts {
    fn name(&self) -> &'static str {
        "Einsum"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let datum = inputs[0].datum_type;
        ensure!(inputs.iter().all(|fact| fact.datum_type == datum), "operands of different types");
        ensure!(datum != DatumType::Bool, "booleans are not multiplied");
        let shape = self.0.result.iter().map(|label| self.0.extents[label].clone());
        Ok(tvec!(datum.fact(shape.collect::<TVec<TDim>>())))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        let mut extents: BTreeMap<Label, usize> = BTreeMap::new();
        for (labels, input) in self.0.operands.iter().zip(inputs) {
            for (label, &extent) in labels.iter().zip(input.shape()) {
                let known = extents.entry(*label).or_insert(extent);
                *known = if *known == 1 { extent } else { *known };
            }
        }
        let inner = extents.keys().filter(|label| !self.0.result.contains(label));
        let order: Vec<Label> = self.0.result.iter().chain(inner).copied().collect();
        let bounds: Vec<usize> = order.iter().map(|label| extents[label]).collect();
        let shape = &bounds[..self.0.result.len()];
        let steps: Vec<Vec<usize>> =
            self.0.operands.iter().zip(inputs).map(|(labels, input)| steps(&order, labels, input)).collect();
        let values: Vec<Values> = inputs.iter().map(|input| Values::of(input)).collect::<TractResult<_>>()?;
        let sums: usize = shape.iter().product();
        let terms: usize = bounds[shape.len()..].iter().product();
        let made = match &values[0] {
            Values::Real(_) => {
                let values: Vec<_> = values.iter().map(Values::real).collect();
                let mut made = vec![0.0; sums];
                positions(&bounds, &steps, |count, at| {
                    made[count / terms] += values.iter().zip(at).map(|(v, &at)| v[at]).product::<f64>();
                });
                Values::Real(made)
            }
            Values::Whole(_) => {
                let values: Vec<_> = values.iter().map(Values::whole).collect();
                let mut made = vec![0i128; sums];
                positions(&bounds, &steps, |count, at| {
                    let factors = values.iter().zip(at).map(|(v, &at)| v[at]);
                    let product = factors.fold(1i128, i128::wrapping_mul);
                    let sum: &mut i128 = &mut made[count / terms];
                    *sum = sum.wrapping_add(product);
                });
                Values::Whole(made)
            }
        };
        Ok(tvec!(made.store(inputs[0].datum_type(), shape)?))
    }
}

/// The step of `input` along each of the axes `order`; 0 where it broadcasts.
fn steps(order: &[Label], labels: &[Label], input: &Tensor) -> Vec<usize> {
    let strides = input.strides();
    let along = |label: &Label| {
        let axes = labels.iter().enumerate().filter(|(_, other)| *other == label);
        axes.map(|(axis, _)| if input.shape()[axis] == 1 { 0 } else { strides[axis] as usize }).sum()
    };
    order.iter().map(along).collect()
}

/// Visits every index below `bounds`, with its number and the position in each operand.
fn positions(bounds: &[usize], steps: &[Vec<usize>], mut visit: impl FnMut(usize, &[usize])) {
    let mut index = vec![0; bounds.len()];
    let mut at = vec![0; steps.len()];
    for count in 0..bounds.iter().product::<usize>() {
        visit(count, &at);
        for axis in (0..bounds.len()).rev() {
            index[axis] += 1;
            at.iter_mut().zip(steps).for_each(|(at, steps)| *at += steps[axis]);
            if index[axis] < bounds[axis] {
                break;
            }
            index[axis] = 0;
            at.iter_mut().zip(steps).for_each(|(at, steps)| *at -= steps[axis] * bounds[axis]);
        }
    }
}

/// A tensor in the typed model whose axes are all different.
struct Operand {
    wire: OutletId,
    labels: Vec<Label>,
}

/// An equation on its way into the typed model.
struct Wiring<'a> {
    name: &'a str,
    model: &'a mut TypedModel,
    resolved: &'a Resolved,
    parts: usize,
}

impl Wiring<'_> {
    fn node(&mut self, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> TractResult<OutletId> {
        self.parts += 1;
        Ok(self.model.wire_node(format!("{}.{}", self.name, self.parts), op, inputs)?[0])
    }

    /// `input` with every letter once, and without the axes along which it broadcasts.
    fn operand(&mut self, input: OutletId, labels: &[Label]) -> TractResult<Operand> {
        let (mut wire, mut labels) = (input, labels.to_vec());
        let mut once: Vec<Label> = vec![];
        labels.iter().for_each(|label| {
            if !once.contains(label) {
                once.push(*label)
            }
        });
        if once.len() < labels.len() {
            let extents = self.resolved.extents.clone();
            let diagonal = Resolved { operands: vec![labels], result: once.clone(), extents };
            wire = self.node(Own(SumOfProducts(diagonal)), &[wire])?;
            labels = once;
        }
        for axis in (0..labels.len()).rev() {
            let extent = self.model.outlet_fact(wire)?.shape[axis].clone();
            if extent == 1.to_dim() && self.resolved.extents[&labels[axis]] != 1.to_dim() {
                wire = self.node(AxisOp::Rm(axis), &[wire])?;
                labels.remove(axis);
            }
        }
        Ok(Operand { wire, labels })
    }

    /// Two operands at a time, from the left.
    fn contract(&mut self, mut operands: Vec<Operand>) -> TractResult<OutletId> {
        while operands.len() > 2 {
            let rest = operands.split_off(2);
            let wanted = |label: &Label| {
                self.resolved.result.contains(label) || rest.iter().any(|other| other.labels.contains(label))
            };
            let mut kept: Vec<Label> = vec![];
            for label in operands.iter().flat_map(|operand| &operand.labels) {
                if wanted(label) && !kept.contains(label) {
                    kept.push(*label);
                }
            }
            let wire = self.sum(operands, &kept)?;
            operands = vec![Operand { wire, labels: kept }];
            operands.extend(rest);
        }
        let result = self.resolved.result.clone();
        self.sum(operands, &result)
    }

    /// One or two operands summed up to the axes `result`.
    fn sum(&mut self, mut operands: Vec<Operand>, result: &[Label]) -> TractResult<OutletId> {
        // tract takes an equation without axes in its result for one that changes nothing.
        let scalar = result.is_empty();
        if scalar {
            operands[0].wire = self.node(AxisOp::Add(0), &[operands[0].wire])?;
        }
        let mut names: Vec<Label> = vec![];
        operands.iter().flat_map(|operand| &operand.labels).for_each(|label| {
            if !names.contains(label) {
                names.push(*label);
            }
        });
        let letter = |label: &Label| {
            let at = names.iter().position(|name| name == label)?;
            ('a'..='z').chain('A'..='Y').nth(at)
        };
        let term = |labels: &[Label], first: bool| -> Option<String> {
            let unit = (scalar && first).then_some('Z');
            unit.map(Some).into_iter().chain(labels.iter().map(letter)).collect()
        };
        let terms: Option<Vec<String>> =
            operands.iter().enumerate().map(|(at, operand)| term(&operand.labels, at == 0)).collect();
        let (Some(terms), Some(made)) = (terms, term(result, true)) else {
            bail!("more axes than its equation can name");
        };
        let axes: AxesMapping = format!("{}->{made}", terms.join(",")).parse()?;
        let datum = self.model.outlet_fact(operands[0].wire)?.datum_type;
        let wires: Vec<OutletId> = operands.iter().map(|operand| operand.wire).collect();
        let sum = self.node(EinSum::new(axes, datum), &wires)?;
        if scalar { self.node(AxisOp::Rm(0), &[sum]) } else { Ok(sum) }
    }
}

/// A product of matrices, in the types that tract's product does not have or computes at 32 bits.
#[derive(Clone, Debug)]
struct MatMul;

impl MatMul {
    fn sum(&self, inputs: &[TypedFact]) -> TractResult<SumOfProducts> {
        let equation = match inputs {
            [a, b] => match (a.rank(), b.rank()) {
                (1, 1) => "i,i->",
                (1, _) => "i,...ij->...j",
                (_, 1) => "...ji,i->...j",
                _ => "...ik,...kj->...ij",
            },
            _ => bail!("{} operands", inputs.len()),
        };
        let equation = Einsum::parse(equation).map_err(TractError::msg)?;
        Ok(SumOfProducts(equation.resolve(inputs)?))
    }
}

impl Reading for MatMul {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        facts_of(&self.sum(inputs)?, inputs)
    }

    fn left_to_tract(&self, inputs: &[TypedFact]) -> bool {
        let some = inputs.iter().all(|fact| fact.shape.iter().all(|extent| *extent != 0.to_dim()));
        let matrix = inputs.iter().any(|fact| fact.rank() > 1);
        some && matrix && matches!(inputs[0].datum_type, DatumType::F32 | DatumType::F16 | DatumType::I32)
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| model.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        let constant = facts.iter().all(|fact| fact.konst.is_some());
        let some = facts.iter().all(|fact| fact.shape.iter().all(|extent| *extent != 0.to_dim()));
        if some && !constant && matches!(facts[0].datum_type, DatumType::F32 | DatumType::F16) {
            // Two vectors: for tract no product, but a sum of products.
            return Einsum::parse("i,i->").map_err(TractError::msg)?.wire(name, model, inputs);
        }
        let sum = self.sum(&facts)?;
        model.wire_node(name, Own(sum), inputs)
    }
}

/// Registers every operator of this file.
pub(super) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("Einsum", einsum);
    onnx.op_register
        .insert("MatMul", |context, node| beside(context, node, super::tracts_readers()["MatMul"], MatMul));
}

fn einsum(_: &ParsingContext, node: &NodeProto) -> Built {
    match Einsum::parse(&node.get_attr::<String>("equation")?) {
        Ok(reading) => own(node, reading),
        Err(reason) => refused(node, reason),
    }
}
