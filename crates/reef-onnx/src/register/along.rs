//! Operators along axes: running sums, and rows normalised to probabilities or to their largest element.

use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};

use super::functions;
use super::own::{Built, Kernel, Own, Reading, axis_of, facts_of, integers, own};
use super::values::Values;

/// A tensor as `[outer, length, inner]`, for what goes along one axis, or several that follow each other.
struct Rows {
    outer: usize,
    length: usize,
    inner: usize,
}

impl Rows {
    fn of(shape: &[usize], axes: std::ops::Range<usize>) -> Self {
        let product = |extents: &[usize]| extents.iter().product();
        Rows {
            outer: product(&shape[..axes.start]),
            length: product(&shape[axes.clone()]),
            inner: product(&shape[axes.end..]),
        }
    }

    /// The positions of every row.
    fn each(&self) -> impl Iterator<Item = impl DoubleEndedIterator<Item = usize> + Clone + use<>> + use<> {
        let (length, inner) = (self.length, self.inner);
        (0..self.outer * inner).map(move |row| {
            let first = row / inner * length * inner + row % inner;
            (0..length).map(move |at| first + at * inner)
        })
    }
}

/// Running sums along an axis.
#[derive(Clone, Debug)]
struct CumSum {
    axis: usize,
    exclusive: bool,
    reverse: bool,
}

impl CumSum {
    fn sums<T: Copy>(&self, values: &[T], shape: &[usize], zero: T, add: fn(T, T) -> T) -> Vec<T> {
        let mut made = vec![zero; values.len()];
        for row in Rows::of(shape, self.axis..self.axis + 1).each() {
            let mut sum = zero;
            let mut step = |at: usize| {
                let before = sum;
                sum = add(sum, values[at]);
                made[at] = if self.exclusive { before } else { sum };
            };
            match self.reverse {
                true => row.rev().for_each(&mut step),
                false => row.for_each(&mut step),
            }
        }
        made
    }
}

impl Kernel for CumSum {
    fn name(&self) -> &'static str {
        "CumSum"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs[0].datum_type != DatumType::Bool, "booleans are not added");
        Ok(tvec!(inputs[0].without_value()))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        let shape = inputs[0].shape();
        let made = match Values::of(inputs[0])? {
            Values::Real(values) => Values::Real(self.sums(&values, shape, 0.0, |a, b| a + b)),
            Values::Whole(values) => Values::Whole(self.sums(&values, shape, 0, i128::wrapping_add)),
        };
        Ok(tvec!(made.store(inputs[0].datum_type(), shape)?))
    }
}

/// `CumSum` as it is written: its axis is an input.
#[derive(Clone, Debug)]
struct CumSumAlong {
    exclusive: bool,
    reverse: bool,
}

impl Reading for CumSumAlong {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        let CumSumAlong { exclusive, reverse } = *self;
        facts_of(&CumSum { axis: 0, exclusive, reverse }, &inputs[..1])
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let axis =
            model.outlet_fact(inputs[1])?.konst.clone().context("its axis is computed by the model")?;
        let [axis] = integers(&axis)?[..] else { bail!("its axis is not one number") };
        let axis = axis_of(axis, model.outlet_fact(inputs[0])?.rank())?;
        let CumSumAlong { exclusive, reverse } = *self;
        model.wire_node(name, Own(CumSum { axis, exclusive, reverse }), &inputs[..1])
    }
}

/// What a row becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Norm {
    Softmax,
    LogSoftmax,
    /// 1 at the first of the largest elements, 0 elsewhere; beside a NaN there is none.
    Hardmax,
}

/// A normalisation of rows on the host.
#[derive(Clone, Debug)]
struct Normalise {
    norm: Norm,
    axes: std::ops::Range<usize>,
}

impl Normalise {
    fn row(&self, values: &mut [f64]) {
        let largest = values.iter().copied().fold(f64::NEG_INFINITY, functions::max);
        match self.norm {
            Norm::Hardmax => {
                let first = values.iter().position(|&value| value == largest);
                values.iter_mut().enumerate().for_each(|(at, value)| *value = f64::from(Some(at) == first));
            }
            Norm::Softmax => {
                values.iter_mut().for_each(|value| *value = (*value - largest).exp());
                let sum: f64 = values.iter().sum();
                values.iter_mut().for_each(|value| *value /= sum);
            }
            Norm::LogSoftmax => {
                let log = values.iter().map(|value| (value - largest).exp()).sum::<f64>().ln();
                values.iter_mut().for_each(|value| *value = *value - largest - log);
            }
        }
    }
}

impl Kernel for Normalise {
    fn name(&self) -> &'static str {
        "Normalise"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs[0].datum_type.is_float(), "elements of type {:?}", inputs[0].datum_type);
        Ok(tvec!(inputs[0].without_value()))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        let shape = inputs[0].shape();
        let mut values = Values::of(inputs[0])?.real().into_owned();
        let rows = Rows::of(shape, self.axes.clone());
        let mut row = vec![0.0; rows.length];
        for places in rows.each() {
            row.iter_mut().zip(places.clone()).for_each(|(to, at)| *to = values[at]);
            self.row(&mut row);
            row.iter().zip(places).for_each(|(from, at)| values[at] = *from);
        }
        Ok(tvec!(Values::Real(values).store(inputs[0].datum_type(), shape)?))
    }
}

/// A normalisation as it is written.
#[derive(Clone, Debug)]
struct NormaliseAlong {
    norm: Norm,
    axis: i64,
    /// Along all axes from `axis` on, as before operator set 13.
    to_the_end: bool,
}

impl NormaliseAlong {
    fn kernel(&self, rank: usize) -> TractResult<Normalise> {
        // An axis behind the last was allowed for what goes to the end: rows of one element.
        let behind = self.to_the_end && self.axis == rank as i64;
        let axis = if behind { rank } else { axis_of(self.axis, rank)? };
        let end = if self.to_the_end { rank } else { axis + 1 };
        Ok(Normalise { norm: self.norm, axes: axis..end })
    }
}

impl Reading for NormaliseAlong {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        facts_of(&self.kernel(inputs[0].rank())?, inputs)
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?.clone();
        let kernel = self.kernel(fact.rank())?;
        let some = fact.shape.iter().all(|extent| *extent != 0.to_dim()) && !kernel.axes.is_empty();
        let native = matches!(fact.datum_type, DatumType::F32 | DatumType::F16) && fact.konst.is_none();
        let kind = match self.norm {
            Norm::Softmax => SoftmaxKind::Softmax,
            Norm::LogSoftmax => SoftmaxKind::LogSoftmax,
            Norm::Hardmax => return model.wire_node(name, Own(kernel), inputs),
        };
        if !native || !some {
            return model.wire_node(name, Own(kernel), inputs);
        }
        let op = Softmax { axes: kernel.axes.collect(), quant_output_dt: None, kind };
        model.wire_node(name, op, inputs)
    }
}

/// Registers every operator of this file.
pub(super) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("CumSum", |_, node| {
        let flag = |name| -> TractResult<bool> { Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0) };
        own(node, CumSumAlong { exclusive: flag("exclusive")?, reverse: flag("reverse")? })
    });
    onnx.op_register.insert("Softmax", |context, node| normalise(context, node, Norm::Softmax));
    onnx.op_register.insert("LogSoftmax", |context, node| normalise(context, node, Norm::LogSoftmax));
    onnx.op_register.insert("Hardmax", |context, node| normalise(context, node, Norm::Hardmax));
}

fn normalise(context: &ParsingContext, node: &NodeProto, norm: Norm) -> Built {
    let to_the_end = context.onnx_operator_set_version < 13;
    let axis = node.get_attr_opt::<i64>("axis")?.unwrap_or(if to_the_end { 1 } else { -1 });
    own(node, NormaliseAlong { norm, axis, to_the_end })
}
