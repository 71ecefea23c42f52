//! Extents as values, and tensors made of them: `Shape`, `Size`, `ConstantOfShape`, `Range`.
//!
//! Known extents are 64-bit integers here, as ONNX has them; tract's symbolic integers, which are converted
//! by way of 32 bits, are left for extents that are not known yet.

use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::own::{Built, Reading, beside, own, refused};
use super::values::Values;

/// Some of the extents, or their product.
#[derive(Clone, Debug)]
enum Extents {
    Between(i64, Option<i64>),
    Product,
}

impl Extents {
    fn of(&self, shape: &ShapeFact) -> TractResult<Tensor> {
        let rank = shape.rank() as i64;
        let bound = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
        let known = shape.as_concrete();
        Ok(match self {
            Extents::Product => match known {
                Some(shape) => tensor0(shape.iter().product::<usize>() as i64),
                None => tensor0(shape.iter().cloned().product::<TDim>()),
            },
            Extents::Between(start, end) => {
                let (start, end) = (bound(*start), end.map_or(rank as usize, bound));
                let range = start..end.max(start);
                match known {
                    Some(shape) => tensor1(&shape[range].iter().map(|&n| n as i64).collect::<Vec<_>>()),
                    None => tensor1(&shape.to_tvec()[range]),
                }
            }
        })
    }
}

impl Reading for Extents {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        Ok(Some(tvec!(TypedFact::try_from(self.of(&inputs[0].shape)?)?)))
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.clone();
        Ok(tvec!(model.add_const(name, self.of(&shape)?)?))
    }
}

/// Numbers at equal distances, from constants.
#[derive(Clone, Debug)]
struct Range;

impl Range {
    /// The numbers, once start, limit and step are known.
    fn of(&self, inputs: &[TypedFact]) -> TractResult<Option<Tensor>> {
        let known: Option<Vec<&Arc<Tensor>>> = inputs.iter().map(|fact| fact.konst.as_ref()).collect();
        let Some(known) = known else { return Ok(None) };
        ensure!(
            known.len() == 3 && known.iter().all(|tensor| tensor.len() == 1),
            "start, limit and step are numbers"
        );
        let datum = match known[0].datum_type() {
            DatumType::TDim => DatumType::I64,
            datum => datum,
        };
        let values: Vec<Values> =
            known.iter().map(|tensor| Values::of(tensor)).collect::<TractResult<_>>()?;
        let too_many = "more elements than a tensor may have";
        // A part at a time: numbers on their way take four times the place of the narrowest.
        let parts = |count: usize, part: &dyn Fn(std::ops::Range<usize>) -> Values| -> TractResult<Tensor> {
            let mut made = Tensor::zero_dt(datum, &[count])?;
            for begin in (0..count).step_by(PART) {
                let end = (begin + PART).min(count);
                made.assign_slice(
                    begin..end,
                    &part(begin..end).store(datum, &[end - begin])?,
                    0..end - begin,
                    0,
                )?;
            }
            Ok(made)
        };
        let made = match &values[0] {
            Values::Real(_) => {
                let [start, limit, step] = [0, 1, 2].map(|at: usize| values[at].real()[0]);
                let count = ((limit - start) / step).ceil();
                ensure!(!count.is_nan(), "from {start} to {limit} by {step} is no range");
                let count = count.max(0.0);
                ensure!(count.is_finite() && count <= ELEMENTS_MAX as f64, too_many);
                parts(count as usize, &|part| {
                    Values::Real(part.map(|at| start + at as f64 * step).collect())
                })?
            }
            Values::Whole(_) => {
                let [start, limit, step] = [0, 1, 2].map(|at: usize| values[at].whole()[0]);
                ensure!(step != 0, "its step is 0");
                let (span, step_size) = if step > 0 { (limit - start, step) } else { (start - limit, -step) };
                let count = if span <= 0 { 0 } else { (span + step_size - 1) / step_size };
                ensure!(count <= ELEMENTS_MAX as i128, too_many);
                parts(count as usize, &|part| {
                    Values::Whole(part.map(|at| start + at as i128 * step).collect())
                })?
            }
        };
        Ok(Some(made))
    }
}

/// Elements that are made at a time.
const PART: usize = 1 << 16;

/// Elements of a range.
const ELEMENTS_MAX: usize = reef_base::limits::FOLDED_ELEMENTS_MAX;

impl Reading for Range {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        self.of(inputs)?.map(|tensor| Ok(tvec!(TypedFact::try_from(tensor)?))).transpose()
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| model.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        let made = self.of(&facts)?.context("the shape of its output depends on data")?;
        Ok(tvec!(model.add_const(name, made)?))
    }
}

/// Registers every operator of this file.
pub(super) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("Shape", shape);
    onnx.op_register.insert("Size", |_, node| own(node, Extents::Product));
    onnx.op_register.insert("ConstantOfShape", constant_of_shape);
    onnx.op_register
        .insert("Range", |context, node| beside(context, node, super::tracts_readers()["Range"], Range));
}

fn shape(_: &ParsingContext, node: &NodeProto) -> Built {
    let start = node.get_attr_opt::<i64>("start")?.unwrap_or(0);
    own(node, Extents::Between(start, node.get_attr_opt("end")?))
}

/// Without a value, zeros of f32.
fn constant_of_shape(context: &ParsingContext, node: &NodeProto) -> Built {
    if node.input.len() != 1 {
        return refused(node, "it has one input");
    }
    let value = match node.get_attr_opt("value")? {
        Some(value) => context.load_tensor(value)?,
        None => tensor0(0f32),
    };
    if value.len() != 1 {
        return refused(node, format!("{} values", value.len()));
    }
    let value = value.into_shape(&[])?.into_arc_tensor();
    let op = tract_onnx::tract_hir::ops::array::ConstantOfShape::new(value);
    Ok((tract_onnx::tract_hir::ops::expandable::expand(op), vec![]))
}
