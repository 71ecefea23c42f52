//! `QuantizeLinear`, `DequantizeLinear` and `DynamicQuantizeLinear`: by tensor, by axis and by block, to and
//! from integers of 8 and 16 bits.
//!
//! Arithmetic is that of single precision, quotients are rounded half to even, and what does not fit is the
//! nearest that does.

use tract_onnx::model::{Onnx, ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::own::{Built, Kernel, Own, Reading, axis_of, facts_of, own, refused};

/// Which scale belongs to which element.
#[derive(Clone, Copy, Debug)]
struct Granularity {
    axis: i64,
    /// Elements in a row that share a scale; 0: all along the other axes.
    block: usize,
}

impl Granularity {
    fn of(node: &NodeProto) -> TractResult<Self> {
        let block = node.get_attr_opt::<i64>("block_size")?.unwrap_or(0);
        ensure!(block >= 0, "block_size {block}");
        Ok(Granularity { axis: node.get_attr_opt("axis")?.unwrap_or(1), block: block as usize })
    }

    /// Checks that `scale` (a shape) fits `x`.
    fn check(&self, x: &[usize], scale: &[usize]) -> TractResult<()> {
        if scale.iter().product::<usize>() == 1 && self.block == 0 {
            return Ok(());
        }
        let axis = axis_of(self.axis, x.len())?;
        let expected: Vec<usize> = match self.block {
            0 => vec![x[axis]],
            block => (0..x.len()).map(|at| if at == axis { x[at].div_ceil(block) } else { x[at] }).collect(),
        };
        ensure!(scale == expected, "scales of shape {scale:?}, not {expected:?}");
        Ok(())
    }

    /// The position of the scale for the element at `at` of `x`.
    fn place(&self, x: &[usize], scales: usize, at: usize) -> usize {
        if scales == 1 {
            return 0;
        }
        let axis = if self.axis < 0 { self.axis + x.len() as i64 } else { self.axis } as usize;
        let inner: usize = x[axis + 1..].iter().product();
        let along = at / inner % x[axis];
        match self.block {
            0 => along,
            block => {
                let blocks = x[axis].div_ceil(block);
                (at / (inner * x[axis]) * blocks + along / block) * inner + at % inner
            }
        }
    }
}

/// Least and greatest integer of a quantised type.
fn bounds(datum: DatumType) -> TractResult<(i32, i32)> {
    Ok(match datum {
        DatumType::U8 => (0, 255),
        DatumType::I8 => (-128, 127),
        DatumType::U16 => (0, 65535),
        DatumType::I16 => (-32768, 32767),
        other => bail!("quantised values of type {other:?} are not supported"),
    })
}

fn floats(tensor: &Tensor) -> TractResult<Vec<f32>> {
    Ok(tensor.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
}

fn integers(tensor: &Tensor) -> TractResult<Vec<i32>> {
    Ok(tensor.cast_to::<i32>()?.try_as_plain_ram()?.as_slice::<i32>()?.to_vec())
}

/// `saturate(round(x / scale) + zero)`; the inputs are x, scale and perhaps zero.
#[derive(Clone, Debug)]
struct Quantize {
    granularity: Granularity,
    /// Without a zero point.
    to: DatumType,
}

impl Kernel for Quantize {
    fn name(&self) -> &'static str {
        "QuantizeLinear"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let from = inputs[0].datum_type;
        ensure!(
            matches!(from, DatumType::F32 | DatumType::F16 | DatumType::I32),
            "{from:?} is not quantised"
        );
        let to = inputs.get(2).map_or(self.to, |zero| zero.datum_type);
        bounds(to)?;
        if let (Some(x), Some(scale)) = (inputs[0].shape.as_concrete(), inputs[1].shape.as_concrete()) {
            self.granularity.check(x, scale)?;
        }
        Ok(tvec!(to.fact(inputs[0].shape.clone())))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        let (shape, x, scale) = (inputs[0].shape(), floats(inputs[0])?, floats(inputs[1])?);
        let zero =
            inputs.get(2).map(|zero| integers(zero)).transpose()?.unwrap_or_else(|| vec![0; scale.len()]);
        ensure!(zero.len() == scale.len(), "{} zero points for {} scales", zero.len(), scale.len());
        let to = inputs.get(2).map_or(self.to, |zero| zero.datum_type());
        let (low, high) = bounds(to)?;
        let quantised = x.iter().enumerate().map(|(at, x)| {
            let place = self.granularity.place(shape, scale.len(), at);
            saturated(x / scale[place], zero[place], low, high)
        });
        let made = Tensor::from_shape(shape, &quantised.collect::<Vec<i32>>())?;
        Ok(tvec!(made.cast_to_dt(to)?.into_owned()))
    }
}

/// `value` rounded half to even, moved by `zero`, and kept within `low` and `high`; what is no number is the
/// least.
fn saturated(value: f32, zero: i32, low: i32, high: i32) -> i32 {
    if value.is_nan() {
        return low;
    }
    (f64::from(value.round_ties_even()) + f64::from(zero)).clamp(f64::from(low), f64::from(high)) as i32
}

/// `(x − zero)·scale`; the inputs are x, scale and perhaps zero.
#[derive(Clone, Debug)]
struct Dequantize {
    granularity: Granularity,
}

impl Kernel for Dequantize {
    fn name(&self) -> &'static str {
        "DequantizeLinear"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let (from, to) = (inputs[0].datum_type, inputs[1].datum_type);
        ensure!(from == DatumType::I32 || bounds(from).is_ok(), "{from:?} is not dequantised");
        ensure!(matches!(to, DatumType::F32 | DatumType::F16), "scales of type {to:?} are not supported");
        ensure!(
            inputs.get(2).is_none_or(|zero| zero.datum_type == from),
            "its zero point is of another type"
        );
        if let (Some(x), Some(scale)) = (inputs[0].shape.as_concrete(), inputs[1].shape.as_concrete()) {
            self.granularity.check(x, scale)?;
        }
        Ok(tvec!(to.fact(inputs[0].shape.clone())))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        let (shape, x, scale) = (inputs[0].shape(), integers(inputs[0])?, floats(inputs[1])?);
        let zero =
            inputs.get(2).map(|zero| integers(zero)).transpose()?.unwrap_or_else(|| vec![0; scale.len()]);
        ensure!(zero.len() == scale.len(), "{} zero points for {} scales", zero.len(), scale.len());
        let numbers = x.iter().enumerate().map(|(at, &x)| {
            let place = self.granularity.place(shape, scale.len(), at);
            x.wrapping_sub(zero[place]) as f32 * scale[place]
        });
        let made = Tensor::from_shape(shape, &numbers.collect::<Vec<f32>>())?;
        Ok(tvec!(made.cast_to_dt(inputs[1].datum_type())?.into_owned()))
    }
}

/// Scale and zero point from the smallest and the largest number, and then [`Quantize`] to u8.
#[derive(Clone, Debug)]
struct DynamicQuantize;

impl Kernel for DynamicQuantize {
    fn name(&self) -> &'static str {
        "DynamicQuantizeLinear"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let from = inputs[0].datum_type;
        ensure!(from == DatumType::F32, "{from:?} is not quantised");
        Ok(tvec!(u8::fact(inputs[0].shape.clone()), f32::fact::<&[usize]>(&[]), u8::fact::<&[usize]>(&[]),))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        let x = floats(inputs[0])?;
        let low = x.iter().copied().fold(0f32, f32::min);
        let high = x.iter().copied().fold(0f32, f32::max);
        let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
        let zero = (0.0 - low / scale).clamp(0.0, 255.0).round_ties_even();
        let quantised = x.iter().map(|x| saturated(x / scale, zero as i32, 0, 255) as u8);
        let quantised = Tensor::from_shape(inputs[0].shape(), &quantised.collect::<Vec<u8>>())?;
        Ok(tvec!(quantised, tensor0(scale), tensor0(zero as u8)))
    }
}

/// A host operator as it is written.
#[derive(Clone, Debug)]
struct AsWritten<K>(K);

impl<K: Kernel> Reading for AsWritten<K> {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        facts_of(&self.0, inputs)
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(name, Own(self.0.clone()), inputs)
    }
}

/// Registers every operator of this file.
pub(super) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("QuantizeLinear", quantize);
    onnx.op_register.insert("DequantizeLinear", dequantize);
    onnx.op_register.insert("DynamicQuantizeLinear", |_, node| own(node, AsWritten(DynamicQuantize)));
}

/// The type that an attribute names, if it names one.
fn named_type(node: &NodeProto, attribute: &str) -> TractResult<Option<DatumType>> {
    match node.get_attr_opt::<i64>(attribute)?.unwrap_or(0) {
        0 => Ok(None),
        _ => node.get_attr_opt::<DatumType>(attribute),
    }
}

fn quantize(_: &ParsingContext, node: &NodeProto) -> Built {
    let named = named_type(node, "output_dtype")?;
    if let Some(precision) = named_type(node, "precision")?
        && precision != DatumType::F32
    {
        return refused(node, format!("precision {precision:?}"));
    }
    if named.is_some() && optional_inputs(node).nth(2).flatten().is_some() {
        return refused(node, "both a zero point and output_dtype");
    }
    let to = named.unwrap_or(DatumType::U8);
    own(node, AsWritten(Quantize { granularity: Granularity::of(node)?, to }))
}

fn dequantize(_: &ParsingContext, node: &NodeProto) -> Built {
    if let Some(to) = named_type(node, "output_dtype")? {
        return refused(node, format!("output_dtype {to:?}"));
    }
    own(node, AsWritten(Dequantize { granularity: Granularity::of(node)? }))
}
