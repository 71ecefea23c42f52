//! `Resize` and `Upsample`: per axis, which elements every output element is made of and with what weights.
//!
//! The rules are ONNX Runtime's. Coordinates are computed in the precision that it has at each step, single
//! for the most part, since rounding to the nearest element shows every difference. Resizing to the nearest
//! element becomes broadcasts and gathers, which have native kernels; interpolation is a host operator, one
//! axis after another.

use reef_base::limits::TENSOR_ELEMENTS_MAX;
use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::Gather;
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_core::ops::nn::resize::NearestUpsample;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::Expansion;

use super::expanded;

use super::resample::{AxisTaps, Coordinates, Kernel, Resample, Rounding, Rule};

/// How the requested sizes are reconciled with the input's proportions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aspect {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// Where an operand comes from.
#[derive(Clone, Debug)]
enum Scales {
    Input(usize),
    Attribute(Vec<f32>),
    Absent,
}

#[derive(Clone, Debug)]
struct Resize {
    name: &'static str,
    rule: Rule,
    aspect: Aspect,
    axes: Option<Vec<i64>>,
    scales: Scales,
    sizes: Option<usize>,
    roi: Option<usize>,
}

/// What happens to one axis.
#[derive(Clone, Copy, Debug)]
struct Change {
    axis: usize,
    scale: f32,
    output: usize,
    /// Beginning and end of the region that is resized, as shares of the axis.
    roi: (f32, f32),
}

/// The reader.
pub(super) fn resize(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    expanded(node, parse(node, context.onnx_operator_set_version))
}

/// Why the operator cannot be computed, if so.
pub(super) fn refusal(node: &NodeProto, opset: i64) -> Option<String> {
    parse(node, opset).err()
}

fn parse(node: &NodeProto, opset: i64) -> Result<Resize, String> {
    let attribute = |error: TractError| format!("{error:#}");
    let text = |name: &str, default: &'static str| -> Result<String, String> {
        Ok(node.get_attr_opt::<&str>(name).map_err(attribute)?.unwrap_or(default).to_owned())
    };
    let float = |name: &str| node.get_attr_opt::<f32>(name).map_err(attribute);
    let flag = |name: &str| Ok::<_, String>(node.get_attr_opt::<i64>(name).map_err(attribute)? == Some(1));
    let upsample = node.op_type == "Upsample";
    let name = if upsample { "Upsample" } else { "Resize" };
    let simple = upsample || opset < 11;
    if upsample && opset >= 10 {
        return Err("it is not an operator of opset 10 and later: Resize took its place".into());
    }
    if !upsample && opset < 10 {
        return Err(format!("it is not an operator of opset {opset}"));
    }
    let (coordinates, rounding) = match simple {
        true => (Coordinates::Asymmetric, Rounding::Outward),
        false => (
            Coordinates::parse(&text("coordinate_transformation_mode", "half_pixel")?)?,
            Rounding::parse(&text("nearest_mode", "round_prefer_floor")?)?,
        ),
    };
    let kernel = match text("mode", "nearest")?.as_str() {
        "nearest" => Kernel::Nearest(rounding),
        "linear" | "bilinear" => Kernel::Linear,
        "cubic" if !simple => Kernel::Cubic { a: float("cubic_coeff_a")?.unwrap_or(-0.75) },
        other => return Err(format!("mode `{other}`")),
    };
    let aspect = match text("keep_aspect_ratio_policy", "stretch")?.as_str() {
        "stretch" => Aspect::Stretch,
        "not_larger" => Aspect::NotLarger,
        "not_smaller" => Aspect::NotSmaller,
        other => return Err(format!("keep_aspect_ratio_policy `{other}`")),
    };
    let rule = Rule {
        coordinates,
        kernel,
        antialias: flag("antialias")?,
        exclude_outside: flag("exclude_outside")?,
        extrapolation_value: float("extrapolation_value")?.unwrap_or(0.0),
    };
    if rule.antialias && matches!(kernel, Kernel::Nearest(_)) {
        return Err("antialias with mode `nearest`".into());
    }
    let axes = node.get_attr_opt_vec::<i64>("axes").map_err(attribute)?;
    let (scales, sizes, roi) = operands(node, opset)?;
    Ok(Resize { name, rule, aspect, axes, scales, sizes, roi })
}

/// Scales, sizes and region.
fn operands(node: &NodeProto, opset: i64) -> Result<(Scales, Option<usize>, Option<usize>), String> {
    let attribute = |error: TractError| format!("{error:#}");
    let mut inputs = optional_inputs(node).skip(1);
    let mut input = || inputs.next().flatten();
    if node.op_type == "Resize" && opset >= 11 {
        let (roi, scales, sizes) = (input(), input(), input());
        return Ok((scales.map_or(Scales::Absent, Scales::Input), sizes, roi));
    }
    if let Some(scales) = input() {
        return Ok((Scales::Input(scales), None, None));
    }
    if let Some(scales) = node.get_attr_opt_vec::<f32>("scales").map_err(attribute)? {
        return Ok((Scales::Attribute(scales), None, None));
    }
    let part = |name: &str| node.get_attr_opt::<f32>(name).map_err(attribute);
    match (part("height_scale")?, part("width_scale")?) {
        (Some(height), Some(width)) => Ok((Scales::Attribute(vec![1.0, 1.0, height, width]), None, None)),
        _ => Err("neither scales nor sizes are given".into()),
    }
}

/// What a node does to the axes of an input, one after the other; those that stay as they are are left out.
pub(crate) struct Resized {
    /// The output's extents.
    pub shape: Vec<usize>,
    /// What every element along an axis is made of. Of none where the output is empty.
    pub taps: Vec<AxisTaps>,
    /// What lies outside of a region.
    pub extrapolation_value: f32,
}

/// The values of the operands that a node has, by slot.
pub(crate) type Values<'a, T> = &'a dyn Fn(usize) -> Result<Vec<T>, String>;

/// What a node makes of an input of this shape; `floats` and `integers` give its other operands.
pub(crate) fn resized(
    node: &NodeProto,
    opset: i64,
    shape: &[usize],
    floats: Values<'_, f32>,
    integers: Values<'_, i64>,
) -> Result<Resized, String> {
    let resize = parse(node, opset)?;
    let scales = match &resize.scales {
        Scales::Attribute(scales) => Some(scales.clone()),
        Scales::Input(slot) => Some(floats(*slot)?),
        Scales::Absent => None,
    };
    let scales = scales.filter(|scales| !scales.is_empty());
    let sizes = resize.sizes.filter(|_| scales.is_none()).map(integers).transpose()?;
    let crops = resize.rule.coordinates == Coordinates::CropAndResize;
    let roi = resize.roi.filter(|_| crops).map(floats).transpose()?;
    let changes = resize.real_changes(shape, scales.as_deref(), sizes.as_deref(), roi.as_deref());
    let changes = changes.map_err(|error| format!("{error:#}"))?;
    let mut made = shape.to_vec();
    changes.iter().for_each(|change| made[change.axis] = change.output);
    let elements = made.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    if elements.is_none_or(|elements| elements > TENSOR_ELEMENTS_MAX) {
        let most = format!("a tensor has at most {TENSOR_ELEMENTS_MAX} elements");
        return Err(format!("a result of shape {made:?}: {most}"));
    }
    if shape.contains(&0) && !made.contains(&0) {
        return Err("an axis of no elements cannot be made larger".into());
    }
    let taps = |change: &Change| {
        resize.rule.taps(change.axis, change.scale, shape[change.axis], change.output, change.roi)
    };
    let taps = if made.contains(&0) { vec![] } else { changes.iter().map(taps).collect() };
    Ok(Resized { shape: made, taps, extrapolation_value: resize.rule.extrapolation_value })
}

impl Resize {
    /// [`Resize::changes`] that change something.
    fn real_changes(
        &self,
        shape: &[usize],
        scales: Option<&[f32]>,
        sizes: Option<&[i64]>,
        roi: Option<&[f32]>,
    ) -> TractResult<Vec<Change>> {
        let crop = self.rule.coordinates == Coordinates::CropAndResize;
        let changes = self.changes(shape, scales, sizes, roi)?.into_iter();
        Ok(changes.filter(|to| crop || to.scale != 1.0 || to.output != shape[to.axis]).collect())
    }

    /// The axes that scales, sizes and region speak of.
    fn axes(&self, rank: usize) -> TractResult<Vec<usize>> {
        let Some(axes) = &self.axes else { return Ok((0..rank).collect()) };
        let resolved = axes.iter().map(|&axis| if axis < 0 { axis + rank as i64 } else { axis });
        let resolved: Vec<usize> = resolved.map(|axis| axis as usize).collect();
        let repeated = (1..resolved.len()).any(|at| resolved[..at].contains(&resolved[at]));
        if repeated || resolved.iter().any(|&axis| axis >= rank) {
            bail!("axes {axes:?} of {rank}");
        }
        Ok(resolved)
    }

    /// What happens to the axes, from scales if there are any, else from sizes.
    fn changes(
        &self,
        shape: &[usize],
        scales: Option<&[f32]>,
        sizes: Option<&[i64]>,
        roi: Option<&[f32]>,
    ) -> TractResult<Vec<Change>> {
        let axes = self.axes(shape.len())?;
        let crop = self.rule.coordinates == Coordinates::CropAndResize;
        if crop && roi.is_none_or(|roi| roi.len() != 2 * axes.len()) {
            bail!("tf_crop_and_resize needs a roi of {} numbers", 2 * axes.len());
        }
        let region = |at: usize| match roi {
            Some(roi) if crop => (roi[at], roi[at + axes.len()]),
            _ => (0.0, 1.0),
        };
        let count = scales.map(<[f32]>::len).or(sizes.map(<[i64]>::len));
        match count {
            Some(count) if count == axes.len() => {}
            Some(count) => bail!("{count} scales or sizes for {} axes", axes.len()),
            None => bail!("neither scales nor sizes are given"),
        }
        let ratios: Vec<f32> = match (scales, sizes) {
            (Some(scales), _) => scales.to_vec(),
            (None, sizes) => {
                let sizes = sizes.expect("one of both is there");
                sizes.iter().zip(&axes).map(|(&size, &axis)| size as f32 / shape[axis] as f32).collect()
            }
        };
        if let Some(bad) = ratios.iter().find(|scale| !scale.is_finite() || **scale <= 0.0) {
            bail!("the scale {bad} is not positive");
        }
        let shared = match self.aspect {
            _ if scales.is_some() => None,
            Aspect::Stretch => None,
            Aspect::NotLarger => ratios.iter().copied().reduce(f32::min),
            Aspect::NotSmaller => ratios.iter().copied().reduce(f32::max),
        };
        let change = |(at, &axis): (usize, &usize)| {
            let scale = shared.unwrap_or(ratios[at]);
            let output = match (scales, shared) {
                (Some(_), _) => (scale * shape[axis] as f32).floor() as usize,
                (None, Some(scale)) => (scale * shape[axis] as f32).round() as usize,
                (None, None) => sizes.expect("one of both is there")[at] as usize,
            };
            Change { axis, scale, output, roi: region(at) }
        };
        Ok(axes.iter().enumerate().map(change).collect())
    }

    /// Extents of the output as far as they are known when the input's may be symbols.
    fn outputs(
        &self,
        shape: &[TDim],
        scales: Option<&[f32]>,
        sizes: Option<&[i64]>,
    ) -> TractResult<Vec<Option<TDim>>> {
        let concrete: Option<Vec<usize>> = shape.iter().map(|dim| dim.to_usize().ok()).collect();
        let mut outputs: Vec<Option<TDim>> = shape.iter().cloned().map(Some).collect();
        if let Some(concrete) = concrete {
            let roi = vec![0.0; 2 * shape.len()];
            let roi = &roi[..2 * self.axes(shape.len())?.len()];
            for change in self.changes(&concrete, scales, sizes, Some(roi))? {
                outputs[change.axis] = Some(change.output.to_dim());
            }
            return Ok(outputs);
        }
        for (at, axis) in self.axes(shape.len())?.into_iter().enumerate() {
            outputs[axis] =
                match (scales.and_then(|scales| scales.get(at)), sizes.and_then(|sizes| sizes.get(at))) {
                    (Some(&scale), _) if scale.fract() == 0.0 => Some(shape[axis].clone() * scale as i64),
                    (None, Some(&size)) if self.aspect == Aspect::Stretch => Some(size.to_dim()),
                    _ => None,
                };
        }
        Ok(outputs)
    }
}

impl Expansion for Resize {
    fn name(&self) -> StaticName {
        self.name.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].rank, &outputs[0].rank)?;
        solver.given(&inputs[0].shape, move |solver, shape| {
            let apply = move |solver: &mut Solver<'r>, scales: Option<&[f32]>, sizes: Option<&[i64]>| {
                for (axis, extent) in self.outputs(&shape, scales, sizes)?.into_iter().enumerate() {
                    if let Some(extent) = extent {
                        solver.equals(&outputs[0].shape[axis], extent)?;
                    }
                }
                Ok(())
            };
            let from_sizes = apply.clone();
            match &self.scales {
                Scales::Attribute(scales) => return apply(solver, Some(scales), None),
                Scales::Input(slot) => solver.given(&inputs[*slot].value, move |solver, scales| {
                    let scales = numbers::<f32>(&scales)?;
                    if scales.is_empty() { Ok(()) } else { apply(solver, Some(&scales), None) }
                })?,
                Scales::Absent => {}
            }
            let Some(slot) = self.sizes else { return Ok(()) };
            solver.given(&inputs[slot].value, move |solver, sizes| {
                let sizes = numbers::<i64>(&sizes)?;
                if sizes.is_empty() { Ok(()) } else { from_sizes(solver, None, Some(&sizes)) }
            })
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let x = model.outlet_fact(inputs[0])?.clone();
        let shape = x.shape.as_concrete().context("the shape of its input depends on data")?.to_vec();
        let known = |slot: usize, what: &str| {
            let known = model.outlet_fact(inputs[slot])?.konst.clone();
            known.with_context(|| format!("input `{what}` depends on data, which is not supported"))
        };
        let scales = match &self.scales {
            Scales::Attribute(scales) => Some(scales.clone()),
            Scales::Input(slot) => Some(numbers::<f32>(&*known(*slot, "scales")?)?),
            Scales::Absent => None,
        };
        let scales = scales.filter(|scales| !scales.is_empty());
        let sizes = match self.sizes {
            Some(slot) if scales.is_none() => Some(numbers::<i64>(&*known(slot, "sizes")?)?),
            _ => None,
        };
        let roi = match self.roi {
            Some(slot) if self.rule.coordinates == Coordinates::CropAndResize => {
                Some(numbers::<f32>(&*known(slot, "roi")?)?)
            }
            _ => None,
        };
        let changes = self.real_changes(&shape, scales.as_deref(), sizes.as_deref(), roi.as_deref())?;
        if shape.contains(&0) || changes.iter().any(|change| change.output == 0) {
            let mut shape = shape;
            changes.iter().for_each(|change| shape[change.axis] = change.output);
            if shape.contains(&0) {
                let empty = Tensor::zero_dt(x.datum_type, &shape)?;
                return Ok(tvec!(model.add_const(prefix, empty)?));
            }
            bail!("an axis of no elements cannot be made larger");
        }
        let taps: Vec<AxisTaps> = changes
            .iter()
            .map(|change| {
                self.rule.taps(change.axis, change.scale, shape[change.axis], change.output, change.roi)
            })
            .collect();
        self.wire_taps(prefix, model, inputs[0], taps)
    }
}

impl Resize {
    fn wire_taps(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        x: OutletId,
        taps: Vec<AxisTaps>,
    ) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(x)?.clone();
        let copies: Option<Vec<Vec<usize>>> = taps.iter().map(AxisTaps::copies).collect();
        let Some(copies) = copies else {
            if !fact.datum_type.is_float() {
                bail!("mode `linear` or `cubic` of {:?} is not supported", fact.datum_type);
            }
            let op = Resample { axes: Arc::new(taps), extrapolation_value: self.rule.extrapolation_value };
            return model.wire_node(prefix, op, &[x]);
        };
        let mut factors: TVec<usize> = tvec!(1; fact.rank());
        let mut gathers = vec![];
        for (taps, copies) in taps.iter().zip(copies) {
            let extent = fact.shape[taps.axis].to_usize()?;
            let factor = copies.len() / extent;
            match copies
                .iter()
                .enumerate()
                .all(|(at, &from)| factor * extent == copies.len() && from == at / factor)
            {
                true => factors[taps.axis] = factor,
                false => gathers.push((taps.axis, copies)),
            }
        }
        let mut wire = tvec!(x);
        // What makes the tensor smaller comes first.
        gathers.sort_by_key(|(_, copies)| copies.len());
        for (axis, copies) in gathers {
            let copies: Vec<i64> = copies.into_iter().map(|at| at as i64).collect();
            let copies = model.add_const(format!("{prefix}.from.{axis}"), tensor1(&copies))?;
            wire = model.wire_node(format!("{prefix}.axis.{axis}"), Gather::new(axis), &[wire[0], copies])?;
        }
        match factors.iter().all(|&factor| factor == 1) {
            true => model.wire_node(prefix, Identity, &wire),
            false => model.wire_node(prefix, NearestUpsample { scales: factors }, &wire),
        }
    }
}

fn numbers<T: Datum + Copy>(tensor: &Tensor) -> TractResult<Vec<T>> {
    let cast = tensor.cast_to::<T>()?;
    let plain = cast.try_as_plain_ram()?;
    Ok(plain.as_slice::<T>()?.to_vec())
}
