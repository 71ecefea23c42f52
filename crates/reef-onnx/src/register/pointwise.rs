//! Operators that compute every element by itself, in the types for which there are no native kernels, and
//! for constants: functions of one and two elements, sums and extremes of several, comparisons, choices,
//! shifts and conversions.

use tract_onnx::model::{Onnx, ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::change_axes::wire_with_rank_broadcast;
use tract_onnx::tract_core::ops::math::{add, div};

use super::functions as math;
use super::own::{Builder, Built, DataFault, Kernel, Own, Reading, beside, facts_of, own, refused};
use super::values::{Values, broadcast};

/// A function of the elements at one position, with the operator's parameters.
type RealFunction = fn(&[f64], &[f64; 2]) -> f64;
/// The same of integers; `None` where there is no result.
type WholeFunction = fn(&[i128], &[f64; 2]) -> Option<i128>;

/// What is computed from the elements at one position.
#[derive(Clone, Copy, Debug)]
struct Function {
    real: Option<RealFunction>,
    whole: Option<WholeFunction>,
    parameters: [f64; 2],
}

/// The element type of a result.
#[derive(Clone, Copy, Debug)]
enum Output {
    /// That of this input.
    Like(usize),
    /// This one.
    Of(DatumType),
}

/// Which types a native kernel computes.
type Native = fn(DatumType) -> bool;

/// An operator on the elements at one position.
#[derive(Clone, Debug)]
struct Pointwise {
    function: Function,
    output: Output,
    native: Native,
    /// Whether native kernels compute half-precision numbers in single precision: the functions that are put
    /// together from several would round after each.
    widened: bool,
}

fn floats(datum: DatumType) -> bool {
    matches!(datum, DatumType::F32 | DatumType::F16)
}

fn numbers(datum: DatumType) -> bool {
    floats(datum) || matches!(datum, DatumType::I32 | DatumType::I64)
}

fn copied(datum: DatumType) -> bool {
    datum != DatumType::F64
}

fn nothing(_: DatumType) -> bool {
    false
}

impl Kernel for Pointwise {
    fn name(&self) -> &'static str {
        "Pointwise"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let datum = match self.output {
            Output::Like(input) => inputs[input].datum_type,
            Output::Of(datum) => datum,
        };
        let real = inputs.iter().any(|fact| fact.datum_type.is_float());
        let known = if real { self.function.real.is_some() } else { self.function.whole.is_some() };
        ensure!(known, "elements of type {:?} are not supported", inputs[0].datum_type);
        let shapes: Vec<_> = inputs.iter().map(|fact| fact.shape.to_tvec()).collect();
        Ok(tvec!(datum.fact(multi_broadcast(&shapes)?)))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|tensor| tensor.shape()).collect();
        let shape = multi_broadcast(&shapes)?;
        let values: Vec<Values> =
            inputs.iter().map(|tensor| Values::of(tensor)).collect::<TractResult<_>>()?;
        let parameters = &self.function.parameters;
        let result = if values.iter().any(|values| matches!(values, Values::Real(_))) {
            let function = self.function.real.context("no function of numbers")?;
            let reals: Vec<_> = values.iter().map(Values::real).collect();
            let mut elements = vec![0.0; inputs.len()];
            let mut made = vec![];
            broadcast(&shape, &shapes, |at| {
                elements.iter_mut().zip(&reals).zip(at).for_each(|((to, from), &at)| *to = from[at]);
                made.push(function(&elements, parameters));
            });
            Values::Real(made)
        } else {
            let function = self.function.whole.context("no function of integers")?;
            let wholes: Vec<_> = values.iter().map(Values::whole).collect();
            let mut elements = vec![0; inputs.len()];
            let mut made = vec![];
            broadcast(&shape, &shapes, |at| {
                elements.iter_mut().zip(&wholes).zip(at).for_each(|((to, from), &at)| *to = from[at]);
                made.push(function(&elements, parameters));
            });
            let made: Option<Vec<i128>> = made.into_iter().collect();
            Values::Whole(made.ok_or(DataFault("an integer is divided by zero"))?)
        };
        let datum = match self.output {
            Output::Like(input) => inputs[input].datum_type(),
            Output::Of(datum) => datum,
        };
        Ok(tvec!(result.store(datum, &shape)?))
    }
}

impl Reading for Pointwise {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        facts_of(self, inputs)
    }

    fn left_to_tract(&self, inputs: &[TypedFact]) -> bool {
        let first = match self.output {
            Output::Like(input) => input,
            Output::Of(_) => 0,
        };
        let same = inputs[first..].iter().all(|fact| fact.datum_type == inputs[first].datum_type);
        same && (self.native)(inputs[first].datum_type)
    }

    fn widened_for_tract(&self, inputs: &[TypedFact]) -> bool {
        self.widened && inputs[0].datum_type == DatumType::F16
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(name, Own(self.clone()), inputs)
    }
}

/// A function of one number.
fn of_one(function: RealFunction, native: Native) -> Pointwise {
    let function = Function { real: Some(function), whole: None, parameters: [0.0; 2] };
    Pointwise { function, output: Output::Like(0), native, widened: false }
}

/// The same, in single precision where native kernels compute half-precision numbers.
fn in_f32(function: Pointwise) -> Pointwise {
    Pointwise { widened: true, ..function }
}

/// A function of numbers and integers.
fn of_all(real: RealFunction, whole: WholeFunction, native: Native) -> Pointwise {
    let function = Function { real: Some(real), whole: Some(whole), parameters: [0.0; 2] };
    Pointwise { function, output: Output::Like(0), native, widened: false }
}

/// A function of integers.
fn of_whole(whole: WholeFunction) -> Pointwise {
    let function = Function { real: None, whole: Some(whole), parameters: [0.0; 2] };
    Pointwise { function, output: Output::Like(0), native: nothing, widened: false }
}

fn test(real: RealFunction, whole: WholeFunction, native: Native) -> Pointwise {
    Pointwise { output: Output::Of(DatumType::Bool), ..of_all(real, whole, native) }
}

/// The operators without attributes.
fn plain(operator: &str) -> Option<Pointwise> {
    Some(match operator {
        "Abs" => of_all(|x, _| x[0].abs(), |x, _| Some(x[0].abs()), floats),
        "Neg" => of_all(|x, _| -x[0], |x, _| Some(-x[0]), floats),
        "Sign" => of_all(|x, _| math::sign(x[0]), |x, _| Some(x[0].signum()), floats),
        "Relu" => of_all(|x, _| math::max(x[0], 0.0), |x, _| Some(x[0].max(0)), numbers),
        "Ceil" => of_one(|x, _| x[0].ceil(), floats),
        "Floor" => of_one(|x, _| x[0].floor(), floats),
        "Round" => of_one(|x, _| x[0].round_ties_even(), floats),
        "Cos" => of_one(|x, _| x[0].cos(), floats),
        "Sin" => of_one(|x, _| x[0].sin(), floats),
        "Tan" => of_one(|x, _| x[0].tan(), nothing),
        "Acos" => of_one(|x, _| x[0].acos(), nothing),
        "Asin" => of_one(|x, _| x[0].asin(), nothing),
        "Atan" => of_one(|x, _| x[0].atan(), nothing),
        "Cosh" => of_one(|x, _| x[0].cosh(), nothing),
        "Sinh" => of_one(|x, _| x[0].sinh(), nothing),
        "Tanh" => of_one(|x, _| x[0].tanh(), floats),
        "Acosh" => of_one(|x, _| x[0].acosh(), nothing),
        "Asinh" => of_one(|x, _| x[0].asinh(), nothing),
        "Atanh" => of_one(|x, _| x[0].atanh(), nothing),
        "Erf" => of_one(|x, _| math::erf(x[0]), floats),
        "Exp" => of_one(|x, _| x[0].exp(), floats),
        "Log" => of_one(|x, _| x[0].ln(), floats),
        "Sqrt" => of_one(|x, _| x[0].sqrt(), floats),
        "Reciprocal" => of_one(|x, _| x[0].recip(), floats),
        "Sigmoid" => of_one(|x, _| math::sigmoid(x[0]), floats),
        "HardSwish" => of_one(|x, _| x[0] * (x[0] / 6.0 + 0.5).clamp(0.0, 1.0), floats),
        "Mish" => in_f32(of_one(|x, _| x[0] * math::softplus(x[0]).tanh(), floats)),
        "Softplus" => in_f32(of_one(|x, _| math::softplus(x[0]), floats)),
        "Softsign" => of_one(|x, _| x[0] / (1.0 + x[0].abs()), floats),
        "PRelu" => of_all(
            |x, _| if x[0] < 0.0 { x[0] * x[1] } else { x[0] },
            |x, _| Some(if x[0] < 0 { x[0] * x[1] } else { x[0] }),
            floats,
        ),
        "Add" => of_all(|x, _| x[0] + x[1], |x, _| Some(x[0] + x[1]), numbers),
        "Sub" => of_all(|x, _| x[0] - x[1], |x, _| Some(x[0] - x[1]), numbers),
        "Mul" => of_all(|x, _| x[0] * x[1], |x, _| Some(x[0].wrapping_mul(x[1])), numbers),
        "Div" => of_all(|x, _| x[0] / x[1], |x, _| x[0].checked_div(x[1]), numbers),
        "Pow" => of_all(|x, _| x[0].powf(x[1]), |x, _| math::power_whole(x[0], x[1]), floats),
        "BitwiseAnd" => of_whole(|x, _| Some(x[0] & x[1])),
        "BitwiseOr" => of_whole(|x, _| Some(x[0] | x[1])),
        "BitwiseXor" => of_whole(|x, _| Some(x[0] ^ x[1])),
        "BitwiseNot" => of_whole(|x, _| Some(!x[0])),
        "Where" => {
            let choice = of_all(
                |x, _| if x[0] != 0.0 { x[1] } else { x[2] },
                |x, _| Some(if x[0] != 0 { x[1] } else { x[2] }),
                copied,
            );
            Pointwise { output: Output::Like(1), ..choice }
        }
        _ => return several(operator).or_else(|| tests(operator)),
    })
}

/// Operators on any number of tensors.
fn several(operator: &str) -> Option<Pointwise> {
    Some(match operator {
        "Sum" => of_all(|x, _| x.iter().sum(), |x, _| Some(x.iter().sum()), numbers),
        "Max" => of_all(
            |x, _| x.iter().copied().reduce(math::max).unwrap_or(f64::NAN),
            |x, _| x.iter().copied().max(),
            numbers,
        ),
        "Min" => of_all(
            |x, _| x.iter().copied().reduce(math::min).unwrap_or(f64::NAN),
            |x, _| x.iter().copied().min(),
            numbers,
        ),
        _ => return None,
    })
}

/// Operators whose results are booleans.
fn tests(operator: &str) -> Option<Pointwise> {
    let flags: Native = |datum| numbers(datum) || datum == DatumType::Bool;
    Some(match operator {
        "Equal" => test(|x, _| f64::from(x[0] == x[1]), |x, _| Some((x[0] == x[1]).into()), flags),
        "Less" => test(|x, _| f64::from(x[0] < x[1]), |x, _| Some((x[0] < x[1]).into()), numbers),
        "Greater" => test(|x, _| f64::from(x[0] > x[1]), |x, _| Some((x[0] > x[1]).into()), numbers),
        "LessOrEqual" => test(|x, _| f64::from(x[0] <= x[1]), |x, _| Some((x[0] <= x[1]).into()), numbers),
        "GreaterOrEqual" => test(|x, _| f64::from(x[0] >= x[1]), |x, _| Some((x[0] >= x[1]).into()), numbers),
        "IsNaN" => test(|x, _| f64::from(x[0].is_nan()), |_, _| Some(0), nothing),
        _ => return None,
    })
}

/// The operators with numbers as attributes: names and defaults, and the function.
fn parametric(operator: &str) -> Option<([(&'static str, f32); 2], Pointwise)> {
    let none = ("", 0.0);
    Some(match operator {
        "Elu" => (
            [("alpha", 1.0), none],
            of_one(|x, p| if x[0] < 0.0 { p[0] * x[0].exp_m1() } else { x[0] }, floats),
        ),
        "Selu" => (
            [("alpha", 1.673_263_2), ("gamma", 1.050_701)],
            of_one(|x, p| p[1] * if x[0] < 0.0 { p[0] * x[0].exp_m1() } else { x[0] }, floats),
        ),
        "Celu" => (
            [("alpha", 1.0), none],
            of_one(|x, p| if x[0] < 0.0 { p[0] * (x[0] / p[0]).exp_m1() } else { x[0] }, floats),
        ),
        "HardSigmoid" => {
            ([("alpha", 0.2), ("beta", 0.5)], of_one(|x, p| (x[0] * p[0] + p[1]).clamp(0.0, 1.0), floats))
        }
        "LeakyRelu" => {
            ([("alpha", 0.01), none], of_one(|x, p| if x[0] < 0.0 { p[0] * x[0] } else { x[0] }, floats))
        }
        "Swish" => ([("alpha", 1.0), none], of_one(|x, p| x[0] * math::sigmoid(p[0] * x[0]), floats)),
        "ThresholdedRelu" => {
            ([("alpha", 1.0), none], of_one(|x, p| if x[0] > p[0] { x[0] } else { 0.0 }, floats))
        }
        "Shrink" => (
            [("bias", 0.0), ("lambd", 0.5)],
            of_all(
                |x, p| match x[0] {
                    x if x < -p[1] => x + p[0],
                    x if x > p[1] => x - p[0],
                    _ => 0.0,
                },
                |x, p| {
                    let shrunk = match x[0] as f64 {
                        x if x < -p[1] => x + p[0],
                        x if x > p[1] => x - p[0],
                        _ => 0.0,
                    };
                    Some(shrunk as i128)
                },
                floats,
            ),
        ),
        _ => return None,
    })
}

/// Registers every operator of this file.
pub(super) fn register(onnx: &mut Onnx) {
    const PLAIN: &[&str] = &[
        "Abs",
        "Neg",
        "Sign",
        "Relu",
        "Ceil",
        "Floor",
        "Round",
        "Cos",
        "Sin",
        "Tan",
        "Acos",
        "Asin",
        "Atan",
        "Cosh",
        "Sinh",
        "Tanh",
        "Acosh",
        "Asinh",
        "Atanh",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Sigmoid",
        "HardSwish",
        "Mish",
        "Softplus",
        "Softsign",
        "PRelu",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "BitwiseNot",
        "Where",
        "Sum",
        "Max",
        "Min",
        "Equal",
        "Less",
        "Greater",
        "LessOrEqual",
        "GreaterOrEqual",
        "IsNaN",
    ];
    for operator in PLAIN {
        onnx.op_register.insert(operator, read_plain);
    }
    for operator in ["Elu", "Selu", "Celu", "HardSigmoid", "LeakyRelu", "Swish", "ThresholdedRelu", "Shrink"]
    {
        onnx.op_register.insert(operator, read_parametric);
    }
    onnx.op_register.insert("Mean", read_mean);
    onnx.op_register.insert("Gelu", gelu);
    onnx.op_register.insert("IsInf", is_inf);
    onnx.op_register.insert("Mod", modulo);
    onnx.op_register.insert("BitShift", bit_shift);
    onnx.op_register.insert("Clip", clip);
    onnx.op_register.insert("Cast", convert);
    onnx.op_register.insert("CastLike", convert_like);
}

/// tract's reader of the operator.
fn tracts(node: &NodeProto) -> TractResult<Builder> {
    let original = super::tracts_readers().get(&node.op_type).copied();
    original.with_context(|| format!("{} is not known", node.op_type))
}

fn read_plain(context: &ParsingContext, node: &NodeProto) -> Built {
    beside(context, node, tracts(node)?, plain(&node.op_type).context("it is registered")?)
}

fn read_parametric(context: &ParsingContext, node: &NodeProto) -> Built {
    let (attributes, mut reading) = parametric(&node.op_type).context("it is registered")?;
    for ((name, default), parameter) in attributes.into_iter().zip(&mut reading.function.parameters) {
        *parameter = match name {
            "" => 0.0,
            name => f64::from(node.get_attr_opt::<f32>(name)?.unwrap_or(default)),
        };
    }
    // tract leaves out Celu's factor before the exponential function, and Swish's.
    if matches!(node.op_type.as_str(), "Celu" | "Swish") && reading.function.parameters[0] != 1.0 {
        reading.native = nothing;
    }
    beside(context, node, tracts(node)?, reading)
}

/// `Mean`; tract's cannot divide where the first tensor has not the result's rank.
#[derive(Clone, Debug)]
struct Mean(Pointwise);

impl Reading for Mean {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        facts_of(&self.0, inputs)
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| model.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        if facts.iter().all(|fact| fact.konst.is_some()) || !self.0.left_to_tract(&facts) {
            return self.0.wire(name, model, inputs);
        }
        let mut sum = inputs[0];
        for (at, &input) in inputs.iter().enumerate().skip(1) {
            sum = wire_with_rank_broadcast(format!("{name}.{at}"), model, add(), &[sum, input])?[0];
        }
        let count = tensor0(inputs.len() as f32).cast_to_dt(facts[0].datum_type)?.into_owned();
        let count = model.add_const(format!("{name}.count"), count)?;
        wire_with_rank_broadcast(name, model, div(), &[sum, count])
    }
}

fn read_mean(_: &ParsingContext, node: &NodeProto) -> Built {
    own(node, Mean(of_one(|x, _| x.iter().sum::<f64>() / x.len() as f64, floats)))
}

fn gelu(context: &ParsingContext, node: &NodeProto) -> Built {
    let approximate: String = node.get_attr_opt("approximate")?.unwrap_or_else(|| "none".into());
    let function: RealFunction = match approximate.as_str() {
        "none" => |x, _| math::gelu(x[0]),
        "tanh" => |x, _| math::gelu_tanh(x[0]),
        other => return refused(node, format!("approximate `{other}`")),
    };
    beside(context, node, tracts(node)?, in_f32(of_one(function, floats)))
}

fn is_inf(_: &ParsingContext, node: &NodeProto) -> Built {
    let detect = |name| -> TractResult<f64> { Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(1) as f64) };
    let mut reading = test(
        |x, p| {
            f64::from((x[0] == f64::INFINITY && p[0] != 0.0) || (x[0] == f64::NEG_INFINITY && p[1] != 0.0))
        },
        |_, _| Some(0),
        nothing,
    );
    reading.function.parameters = [detect("detect_positive")?, detect("detect_negative")?];
    own(node, reading)
}

fn modulo(context: &ParsingContext, node: &NodeProto) -> Built {
    let reading = match node.get_attr_opt::<i64>("fmod")?.unwrap_or(0) {
        0 => of_all(|x, _| math::modulo(x[0], x[1]), |x, _| math::modulo_whole(x[0], x[1]), nothing),
        _ => of_all(|x, _| x[0] % x[1], |x, _| x[0].checked_rem(x[1]), nothing),
    };
    beside(context, node, tracts(node)?, reading)
}

/// A shift by the width of the type or more, or by a negative number, leaves nothing but the sign.
fn bit_shift(_: &ParsingContext, node: &NodeProto) -> Built {
    let direction: String = node.get_attr("direction")?;
    own(
        node,
        match direction.as_str() {
            "LEFT" => of_whole(|x, _| Some(if (0..64).contains(&x[1]) { x[0] << x[1] } else { 0 })),
            "RIGHT" => of_whole(|x, _| {
                let places = if (0..64).contains(&x[1]) { x[1] } else { 127 };
                Some(x[0] >> places)
            }),
            other => return refused(node, format!("direction `{other}`")),
        },
    )
}

/// `Clip` with its bounds as inputs: which of them are there.
#[derive(Clone, Debug)]
struct Clip {
    low: Option<usize>,
    high: Option<usize>,
}

impl Clip {
    /// The function of the value and the bounds that are there, in order.
    fn pointwise(&self) -> Pointwise {
        match (self.low.is_some(), self.high.is_some()) {
            (true, true) => of_all(
                |x, _| math::min(math::max(x[0], x[1]), x[2]),
                |x, _| Some(x[0].max(x[1]).min(x[2])),
                numbers,
            ),
            (true, false) => of_all(|x, _| math::max(x[0], x[1]), |x, _| Some(x[0].max(x[1])), numbers),
            (false, true) => of_all(|x, _| math::min(x[0], x[1]), |x, _| Some(x[0].min(x[1])), numbers),
            (false, false) => of_all(|x, _| x[0], |x, _| Some(x[0]), |_| true),
        }
    }
}

fn clip(context: &ParsingContext, node: &NodeProto) -> Built {
    if context.onnx_operator_set_version >= 11 {
        let bounds: Vec<_> = optional_inputs(node).skip(1).take(2).collect();
        return beside(context, node, tracts(node)?, Clip { low: bounds[0], high: bounds[1] }.pointwise());
    }
    let bound = |name, default| -> TractResult<f64> {
        Ok(f64::from(node.get_attr_opt::<f32>(name)?.unwrap_or(default)))
    };
    let mut reading = of_one(|x, p| math::min(math::max(x[0], p[0]), p[1]), floats);
    reading.function.parameters = [bound("min", f32::NEG_INFINITY)?, bound("max", f32::INFINITY)?];
    beside(context, node, tracts(node)?, reading)
}

/// A conversion, on the host.
#[derive(Clone, Debug)]
struct Convert {
    to: DatumType,
}

impl Kernel for Convert {
    fn name(&self) -> &'static str {
        "Cast"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.to.fact(inputs[0].shape.clone())))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        Ok(tvec!(Values::of(inputs[0])?.store(self.to, inputs[0].shape())?))
    }
}

/// A conversion to a type, or to that of the second input.
#[derive(Clone, Debug)]
struct Conversion {
    to: Option<DatumType>,
}

impl Conversion {
    fn target(&self, inputs: &[TypedFact]) -> DatumType {
        self.to.unwrap_or_else(|| inputs[1].datum_type)
    }
}

impl Reading for Conversion {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        facts_of(&Convert { to: self.target(inputs) }, &inputs[..1])
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| model.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        let (from, to) = (facts[0].datum_type, self.target(&facts));
        let wide = |datum| matches!(datum, DatumType::F64 | DatumType::U64);
        let native = (!wide(from) && !wide(to)) || !(from.is_float() || to.is_float());
        match native && facts[0].konst.is_none() {
            true => model.wire_node(name, cast(to), &inputs[..1]),
            false => model.wire_node(name, Own(Convert { to }), &inputs[..1]),
        }
    }
}

fn convert(context: &ParsingContext, node: &NodeProto) -> Built {
    let to = node.get_attr::<DatumType>("to")?;
    if to == DatumType::String {
        return refused(node, "conversion to text");
    }
    beside(context, node, tracts(node)?, Conversion { to: Some(to) })
}

fn convert_like(context: &ParsingContext, node: &NodeProto) -> Built {
    beside(context, node, tracts(node)?, Conversion { to: None })
}
