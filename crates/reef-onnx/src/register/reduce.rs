//! Reductions, and the place of the largest and the smallest element.
//!
//! f32 and f16 are computed by native kernels, from tract's operators; the logarithm of a sum of exponentials
//! takes the largest exponent out first. Every other type, and what is reduced over no element at all, is
//! computed on the host: in double precision, or in integers that wrap once, to the type of the result.

use tract_onnx::model::{Onnx, ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::change_axes::wire_with_rank_broadcast;
use tract_onnx::tract_core::ops::math;
use tract_onnx::tract_core::ops::nn;

use super::functions;
use super::own::{Built, Kernel, Own, Reading, axis_of, facts_of, integers, own, refused};
use super::values::Values;

/// What is computed from the elements of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
    /// With the last of equal ones.
    ArgMax(bool),
    ArgMin(bool),
}

impl Kind {
    fn is_place(self) -> bool {
        matches!(self, Kind::ArgMax(_) | Kind::ArgMin(_))
    }

    fn of_reals(self, values: &[f64]) -> TractResult<f64> {
        let sum = |term: fn(f64) -> f64| values.iter().map(|&value| term(value)).sum::<f64>();
        Ok(match self {
            Kind::Sum => sum(|x| x),
            Kind::Mean => sum(|x| x) / values.len().max(1) as f64,
            Kind::Max => values.iter().copied().fold(f64::NEG_INFINITY, functions::max),
            Kind::Min => values.iter().copied().fold(f64::INFINITY, functions::min),
            Kind::Prod => values.iter().product(),
            Kind::L1 => sum(f64::abs),
            Kind::L2 => sum(|x| x * x).sqrt(),
            Kind::SumSquare => sum(|x| x * x),
            Kind::LogSum => sum(|x| x).ln(),
            Kind::LogSumExp => {
                let largest = values.iter().copied().fold(f64::NEG_INFINITY, functions::max);
                let taken = if largest.is_finite() { largest } else { 0.0 };
                values.iter().map(|value| (value - taken).exp()).sum::<f64>().ln() + taken
            }
            Kind::ArgMax(last) => place(values, last, |a, b| a > b)? as f64,
            Kind::ArgMin(last) => place(values, last, |a, b| a < b)? as f64,
        })
    }

    /// `bounds` are the least and the greatest integer of the type.
    fn of_wholes(self, values: &[i128], bounds: (i128, i128)) -> TractResult<i128> {
        let sum = |term: fn(i128) -> i128| values.iter().map(|&value| term(value)).sum::<i128>();
        Ok(match self {
            Kind::Sum => sum(|x| x),
            Kind::Mean => sum(|x| x) / values.len().max(1) as i128,
            Kind::Max => values.iter().copied().max().unwrap_or(bounds.0),
            Kind::Min => values.iter().copied().min().unwrap_or(bounds.1),
            Kind::Prod => values.iter().fold(1i128, |product, &value| product.wrapping_mul(value)),
            Kind::L1 => sum(i128::abs),
            Kind::SumSquare => sum(|x| x.wrapping_mul(x)),
            Kind::L2 | Kind::LogSum | Kind::LogSumExp => {
                let values: Vec<f64> = values.iter().map(|&value| value as f64).collect();
                let value = self.of_reals(&values)?;
                if value.is_finite() { value as i128 } else { bounds.0 }
            }
            Kind::ArgMax(last) => place(values, last, |a, b| a > b)? as i128,
            Kind::ArgMin(last) => place(values, last, |a, b| a < b)? as i128,
        })
    }
}

/// Least and greatest integer of a type.
fn bounds_of(datum: DatumType) -> (i128, i128) {
    let bits = 8 * datum.size_of() as u32;
    match datum.is_unsigned() || datum == DatumType::Bool {
        true => (0, (1 << bits) - 1),
        false => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
    }
}

/// Where the element is that nothing is `beyond`.
fn place<T: Copy + PartialEq>(values: &[T], last: bool, beyond: fn(T, T) -> bool) -> TractResult<usize> {
    ensure!(!values.is_empty(), "the place of the extreme of no elements");
    let mut found = 0;
    for (at, &value) in values.iter().enumerate() {
        if beyond(value, values[found]) || (last && value == values[found]) {
            found = at;
        }
    }
    Ok(found)
}

/// A reduction on the host; the axes stay with extent 1.
#[derive(Clone, Debug)]
struct Reduction {
    kind: Kind,
    /// Ascending.
    axes: Vec<usize>,
}

impl Reduction {
    fn datum(&self, input: DatumType) -> DatumType {
        if self.kind.is_place() || input == DatumType::TDim { DatumType::I64 } else { input }
    }
}

impl Kernel for Reduction {
    fn name(&self) -> &'static str {
        "Reduction"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        for &axis in &self.axes {
            shape[axis] = 1.to_dim();
        }
        Ok(tvec!(self.datum(inputs[0].datum_type).fact(shape)))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        let shape = inputs[0].shape();
        let made: Vec<usize> =
            (0..shape.len()).map(|axis| if self.axes.contains(&axis) { 1 } else { shape[axis] }).collect();
        let sets = self.sets(shape);
        let bounds = bounds_of(self.datum(inputs[0].datum_type()));
        let result = match Values::of(inputs[0])? {
            Values::Real(values) => {
                let reduced = sets
                    .iter()
                    .map(|set| self.kind.of_reals(&set.iter().map(|&at| values[at]).collect::<Vec<_>>()));
                Values::Real(reduced.collect::<TractResult<_>>()?)
            }
            Values::Whole(values) => {
                let reduced = sets.iter().map(|set| {
                    self.kind.of_wholes(&set.iter().map(|&at| values[at]).collect::<Vec<_>>(), bounds)
                });
                Values::Whole(reduced.collect::<TractResult<_>>()?)
            }
        };
        Ok(tvec!(result.store(self.datum(inputs[0].datum_type()), &made)?))
    }
}

impl Reduction {
    /// The positions that each element of the result comes from, in their order.
    fn sets(&self, shape: &[usize]) -> Vec<Vec<usize>> {
        let kept: Vec<usize> = (0..shape.len()).filter(|axis| !self.axes.contains(axis)).collect();
        let mut step = 1;
        let mut steps = vec![0; shape.len()];
        for &axis in kept.iter().rev() {
            steps[axis] = step;
            step *= shape[axis];
        }
        let mut sets = vec![vec![]; kept.iter().map(|&axis| shape[axis]).product()];
        let mut index = vec![0; shape.len()];
        for at in 0..shape.iter().product::<usize>() {
            let set: usize = index.iter().zip(&steps).map(|(index, step)| index * step).sum();
            sets[set].push(at);
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        sets
    }
}

/// A reduction as a model writes it.
#[derive(Clone, Debug)]
struct Reduce {
    kind: Kind,
    axes: Axes,
    keep: bool,
    /// Whether no axes are none of them, not all.
    empty_is_none: bool,
}

/// Where the axes are written.
#[derive(Clone, Debug)]
enum Axes {
    Fixed(Vec<i64>),
    /// The second input.
    Input,
}

impl Reduce {
    /// The axes in ascending order; `None` while they are not known.
    fn axes(&self, inputs: &[TypedFact]) -> TractResult<Option<Vec<usize>>> {
        let axes = match &self.axes {
            Axes::Fixed(axes) => axes.clone(),
            Axes::Input => match &inputs[1].konst {
                Some(axes) => integers(axes)?,
                None => return Ok(None),
            },
        };
        let rank = inputs[0].rank();
        if axes.is_empty() {
            return Ok(Some(if self.empty_is_none { vec![] } else { (0..rank).collect() }));
        }
        let mut found: Vec<usize> =
            axes.iter().map(|&axis| axis_of(axis, rank)).collect::<TractResult<_>>()?;
        found.sort_unstable();
        let count = found.len();
        found.dedup();
        ensure!(found.len() == count, "axes {axes:?} name one twice");
        Ok(Some(found))
    }
}

impl Reading for Reduce {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        let Some(axes) = self.axes(inputs)? else { return Ok(None) };
        let mut facts = facts_of(&Reduction { kind: self.kind, axes: axes.clone() }, &inputs[..1])?;
        if let (false, Some(facts)) = (self.keep, &mut facts) {
            let shape = inputs[0].shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
            facts[0].shape = ShapeFact::from_dims(shape.map(|(_, extent)| extent.clone()));
        }
        Ok(facts)
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| model.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        let axes = self.axes(&facts)?.context("its axes are computed by the model")?;
        let fact = &facts[0];
        let empty = axes.iter().any(|&axis| fact.shape[axis] == 0.to_dim());
        let native = matches!(fact.datum_type, DatumType::F32 | DatumType::F16) && fact.konst.is_none();
        let mut wire = match native && !empty && !self.kind.is_place() && !axes.is_empty() {
            true => self.native(name, model, inputs[0], &axes)?,
            false => {
                let reduction = Reduction { kind: self.kind, axes: axes.clone() };
                model.wire_node(name, Own(reduction), &inputs[..1])?[0]
            }
        };
        if !self.keep {
            for &axis in axes.iter().rev() {
                wire = model.wire_node(format!("{name}.without_{axis}"), AxisOp::Rm(axis), &[wire])?[0];
            }
        }
        Ok(tvec!(wire))
    }
}

impl Reduce {
    /// In operators that have native kernels.
    fn native(
        &self,
        name: &str,
        model: &mut TypedModel,
        x: OutletId,
        axes: &[usize],
    ) -> TractResult<OutletId> {
        use nn::Reducer;
        let fold = |model: &mut TypedModel, part: &str, reducer, x| -> TractResult<OutletId> {
            let op = nn::Reduce::new(axes.into(), reducer);
            Ok(model.wire_node(format!("{name}.{part}"), op, &[x])?[0])
        };
        let apply = |model: &mut TypedModel, part: &str, op, x| -> TractResult<OutletId> {
            let op: tract_onnx::tract_core::ops::element_wise::ElementWiseOp = op;
            Ok(model.wire_node(format!("{name}.{part}"), op, &[x])?[0])
        };
        Ok(match self.kind {
            Kind::Sum => fold(model, "sum", Reducer::Sum, x)?,
            Kind::Max => fold(model, "max", Reducer::Max, x)?,
            Kind::Min => fold(model, "min", Reducer::Min, x)?,
            Kind::Prod => fold(model, "product", Reducer::Prod, x)?,
            Kind::Mean => {
                let sum = fold(model, "sum", Reducer::Sum, x)?;
                let fact = model.outlet_fact(x)?;
                let count: TDim = axes.iter().map(|&axis| fact.shape[axis].clone()).product();
                let count = tensor0(count.to_i64()? as f32).cast_to_dt(fact.datum_type)?.into_owned();
                let count = count.broadcast_into_rank(fact.rank())?;
                let count = model.add_const(format!("{name}.count"), count)?;
                model.wire_node(format!("{name}.mean"), math::div(), &[sum, count])?[0]
            }
            Kind::L1 => {
                let size = apply(model, "abs", math::abs(), x)?;
                fold(model, "sum", Reducer::Sum, size)?
            }
            Kind::L2 | Kind::SumSquare => {
                let square = apply(model, "square", math::square(), x)?;
                let sum = fold(model, "sum", Reducer::Sum, square)?;
                if self.kind == Kind::L2 { apply(model, "root", math::sqrt(), sum)? } else { sum }
            }
            Kind::LogSum => {
                let sum = fold(model, "sum", Reducer::Sum, x)?;
                apply(model, "log", math::ln(), sum)?
            }
            Kind::LogSumExp => {
                let largest = fold(model, "max", Reducer::Max, x)?;
                // Infinities are not subtracted from themselves.
                let largest = self.finite(name, model, largest)?;
                let rest = model.wire_node(format!("{name}.rest"), math::sub(), &[x, largest])?[0];
                let power = apply(model, "exp", math::exp(), rest)?;
                let sum = fold(model, "sum", Reducer::Sum, power)?;
                let log = apply(model, "log", math::ln(), sum)?;
                model.wire_node(format!("{name}.all"), math::add(), &[log, largest])?[0]
            }
            Kind::ArgMax(_) | Kind::ArgMin(_) => bail!("places have no native kernel"),
        })
    }

    /// `x` clipped to finite numbers.
    fn finite(&self, name: &str, model: &mut TypedModel, x: OutletId) -> TractResult<OutletId> {
        let datum = model.outlet_fact(x)?.datum_type;
        let limit = if datum == DatumType::F16 { f16::MAX.to_f32() } else { f32::MAX };
        let bound = |value: f32| tensor0(value).cast_to_dt(datum).map(|tensor| tensor.into_owned());
        let low = model.add_const(format!("{name}.low"), bound(-limit)?)?;
        let high = model.add_const(format!("{name}.high"), bound(limit)?)?;
        let x = wire_with_rank_broadcast(format!("{name}.above"), model, math::max(), &[x, low])?[0];
        Ok(wire_with_rank_broadcast(format!("{name}.below"), model, math::min(), &[x, high])?[0])
    }
}

/// Registers every operator of this file.
pub(super) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("ReduceSum", |context, node| reduce(context, node, Kind::Sum));
    onnx.op_register.insert("ReduceMean", |context, node| reduce(context, node, Kind::Mean));
    onnx.op_register.insert("ReduceMax", |context, node| reduce(context, node, Kind::Max));
    onnx.op_register.insert("ReduceMin", |context, node| reduce(context, node, Kind::Min));
    onnx.op_register.insert("ReduceProd", |context, node| reduce(context, node, Kind::Prod));
    onnx.op_register.insert("ReduceL1", |context, node| reduce(context, node, Kind::L1));
    onnx.op_register.insert("ReduceL2", |context, node| reduce(context, node, Kind::L2));
    onnx.op_register.insert("ReduceSumSquare", |context, node| reduce(context, node, Kind::SumSquare));
    onnx.op_register.insert("ReduceLogSum", |context, node| reduce(context, node, Kind::LogSum));
    onnx.op_register.insert("ReduceLogSumExp", |context, node| reduce(context, node, Kind::LogSumExp));
    onnx.op_register.insert("ArgMax", |_, node| place_of(node, Kind::ArgMax));
    onnx.op_register.insert("ArgMin", |_, node| place_of(node, Kind::ArgMin));
}

fn reduce(context: &ParsingContext, node: &NodeProto, kind: Kind) -> Built {
    let by_input = context.onnx_operator_set_version >= if kind == Kind::Sum { 13 } else { 18 };
    let keep = node.get_attr_opt::<i64>("keepdims")?.unwrap_or(1) != 0;
    if !by_input {
        let axes = node.get_attr_opt_vec::<i64>("axes")?.unwrap_or_default();
        return own(node, Reduce { kind, axes: Axes::Fixed(axes), keep, empty_is_none: false });
    }
    if node.attribute.iter().any(|attribute| attribute.name == "axes") {
        return refused(node, "its axes are an attribute, which this operator set does not have");
    }
    let given = optional_inputs(node).nth(1).flatten().is_some();
    let axes = if given { Axes::Input } else { Axes::Fixed(vec![]) };
    let empty_is_none = node.get_attr_opt::<i64>("noop_with_empty_axes")?.unwrap_or(0) != 0;
    own(node, Reduce { kind, axes, keep, empty_is_none })
}

fn place_of(node: &NodeProto, kind: fn(bool) -> Kind) -> Built {
    let kind = kind(node.get_attr_opt::<i64>("select_last_index")?.unwrap_or(0) != 0);
    let axis = node.get_attr_opt::<i64>("axis")?.unwrap_or(0);
    let keep = node.get_attr_opt::<i64>("keepdims")?.unwrap_or(1) != 0;
    own(node, Reduce { kind, axes: Axes::Fixed(vec![axis]), keep, empty_is_none: false })
}
