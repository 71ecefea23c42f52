//! `ConvTranspose`: padding as ONNX Runtime distributes it, then tract's deconvolution with explicit padding.
//!
//! With `output_shape` the padding follows from it; with `SAME_UPPER` or `SAME_LOWER` from an output of
//! `input · stride`. What the natural output (all windows side by side) has too much is cut off: the larger
//! half at the end for `SAME_UPPER`, at the beginning otherwise. What it lacks is added at the end, where
//! there is only the bias.

use reef_base::limits::TENSOR_ELEMENTS_MAX;
use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::{Deconv, KernelFormat, PaddingSpec, PoolSpec};
use tract_onnx::tract_core::ops::nn::DataFormat;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, IntoExp, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::Expansion;

use super::expanded;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AutoPad {
    /// The attribute `pads`.
    Explicit,
    Valid,
    SameUpper,
    SameLower,
}

#[derive(Clone, Debug)]
struct ConvTranspose {
    auto_pad: AutoPad,
    kernel_shape: Option<Vec<usize>>,
    strides: Option<Vec<usize>>,
    dilations: Option<Vec<usize>>,
    /// First those at the beginning of every axis, then those at the end.
    pads: Option<Vec<usize>>,
    output_padding: Option<Vec<usize>>,
    output_shape: Option<Vec<usize>>,
    group: usize,
    bias: Option<usize>,
}

/// One spatial axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    output: usize,
    /// Cut off at the beginning of the natural output, which has `extra` elements added at its end.
    before: usize,
    after: usize,
    extra: usize,
}

/// The reader.
pub(super) fn conv_transpose(
    _: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    expanded(node, parse(node))
}

/// Why the operator cannot be computed, if so.
pub(super) fn refusal(node: &NodeProto) -> Option<String> {
    parse(node).err()
}

/// What a node does along a spatial axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransposedAxis {
    pub stride: usize,
    pub dilation: usize,
    /// Elements that are cut off at the beginning of all windows side by side.
    pub before: usize,
    /// Extent of the result.
    pub output: usize,
}

/// What a node does along the axes of an image, under these windows.
pub(crate) fn transposed_axes(
    node: &NodeProto,
    image: &[usize],
    kernel: &[usize],
) -> Result<Vec<TransposedAxis>, String> {
    let parsed = parse(node)?;
    let at = |list: &Option<Vec<usize>>, index: usize| list.as_ref().map_or(1, |list| list[index]);
    let axes = parsed.axes(image, kernel)?.into_iter().enumerate();
    let axes = axes.map(|(index, Axis { output, before, .. })| TransposedAxis {
        stride: at(&parsed.strides, index),
        dilation: at(&parsed.dilations, index),
        before,
        output,
    });
    Ok(axes.collect())
}

fn parse(node: &NodeProto) -> Result<ConvTranspose, String> {
    let lengths = |name: &str, least: i64| -> Result<Option<Vec<usize>>, String> {
        let given = node.get_attr_opt_vec::<i64>(name).map_err(|error| format!("{error:#}"))?;
        let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(None) };
        let parsed = given.iter().map(|&value| usize::try_from(value).ok().filter(|_| value >= least));
        let parsed: Option<Vec<usize>> = parsed.collect();
        parsed.map(Some).ok_or_else(|| format!("{name} {given:?} holds a value below {least}"))
    };
    let auto_pad = node.get_attr_opt::<&str>("auto_pad").map_err(|error| format!("{error:#}"))?;
    let auto_pad = match auto_pad.unwrap_or("NOTSET") {
        "NOTSET" | "" => AutoPad::Explicit,
        "VALID" => AutoPad::Valid,
        "SAME_UPPER" => AutoPad::SameUpper,
        "SAME_LOWER" => AutoPad::SameLower,
        other => return Err(format!("auto_pad `{other}`")),
    };
    let group = node.get_attr_opt::<i64>("group").map_err(|error| format!("{error:#}"))?.unwrap_or(1);
    let group = usize::try_from(group).ok().filter(|&group| group > 0).ok_or("group is not positive")?;
    Ok(ConvTranspose {
        auto_pad,
        kernel_shape: lengths("kernel_shape", 1)?,
        strides: lengths("strides", 1)?,
        dilations: lengths("dilations", 1)?,
        pads: lengths("pads", 0)?.filter(|_| auto_pad == AutoPad::Explicit),
        output_padding: lengths("output_padding", 0)?,
        output_shape: lengths("output_shape", 0)?,
        group,
        bias: optional_inputs(node).nth(2).flatten(),
    })
}

impl ConvTranspose {
    /// All spatial axes of an image under these windows.
    fn axes(&self, image: &[usize], kernel: &[usize]) -> Result<Vec<Axis>, String> {
        let rank = image.len();
        let per_axis = [
            ("kernel_shape", &self.kernel_shape, 1),
            ("strides", &self.strides, 1),
            ("dilations", &self.dilations, 1),
            ("output_padding", &self.output_padding, 1),
            ("output_shape", &self.output_shape, 1),
            ("pads", &self.pads, 2),
        ];
        for (name, given, factor) in per_axis {
            if given.as_ref().is_some_and(|given| given.len() != factor * rank) {
                return Err(format!("{name} {given:?} for {rank} spatial axes"));
            }
        }
        if self.kernel_shape.as_ref().is_some_and(|declared| declared != kernel) {
            return Err(format!("kernel_shape {:?}, weights of {kernel:?}", self.kernel_shape));
        }
        let at = |list: &Option<Vec<usize>>, index: usize, default| {
            list.as_ref().map_or(default, |list| list[index])
        };
        let axis = |index: usize| {
            let stride = at(&self.strides, index, 1);
            let field = kernel[index].saturating_sub(1).saturating_mul(at(&self.dilations, index, 1)) + 1;
            let extra = at(&self.output_padding, index, 0);
            let natural = image[index].saturating_sub(1).saturating_mul(stride);
            let natural = natural.saturating_add(field).saturating_add(extra);
            if natural > TENSOR_ELEMENTS_MAX {
                return Err(format!("its result has at most {TENSOR_ELEMENTS_MAX} elements"));
            }
            let same = matches!(self.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
            let wanted = self.output_shape.as_ref().map(|wanted| wanted[index]);
            let fitted = wanted.or(same.then_some(image[index].saturating_mul(stride)));
            let pads = [at(&self.pads, index, 0), at(&self.pads, index + rank, 0)];
            self.axis(natural, extra, fitted, wanted.is_some(), pads)
        };
        (0..rank).map(axis).collect()
    }

    /// `natural` includes the `extra` that `output_padding` adds. The output is `fitted` to a length, which
    /// is what it must be if it is `exact`.
    fn axis(
        &self,
        natural: usize,
        extra: usize,
        fitted: Option<usize>,
        exact: bool,
        pads: [usize; 2],
    ) -> Result<Axis, String> {
        let [before, after] = match fitted {
            None => pads,
            Some(fitted) => {
                let total = natural.saturating_sub(fitted);
                match self.auto_pad {
                    AutoPad::SameUpper => [total / 2, total - total / 2],
                    _ => [total - total / 2, total / 2],
                }
            }
        };
        let Some(output) = natural.checked_sub(before.saturating_add(after)) else {
            return Err(format!("pads {pads:?} are more than the {natural} elements there are"));
        };
        match fitted.filter(|&fitted| exact && fitted > output) {
            Some(fitted) => Ok(Axis { output: fitted, before, after, extra: extra + fitted - output }),
            None => Ok(Axis { output, before, after, extra }),
        }
    }
}

impl Expansion for ConvTranspose {
    fn name(&self) -> StaticName {
        "ConvTranspose".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let (x, w, y) = (&inputs[0], &inputs[1], &outputs[0]);
        solver.equals(&x.datum_type, &y.datum_type)?;
        solver.equals(&x.datum_type, &w.datum_type)?;
        solver.equals(&x.rank, &w.rank)?;
        solver.equals(&x.rank, &y.rank)?;
        solver.equals(&x.shape[0], &y.shape[0])?;
        solver.equals(&x.shape[1], &w.shape[0])?;
        solver.equals(&y.shape[1], (self.group as i64) * w.shape[1].bex())?;
        if let Some(bias) = self.bias {
            solver.equals(&inputs[bias].datum_type, &x.datum_type)?;
            solver.equals(&inputs[bias].rank, 1)?;
            solver.equals(&inputs[bias].shape[0], &y.shape[1])?;
        }
        solver.given_2(&x.shape, &w.shape, move |solver, image, kernel| {
            let concrete = |dims: &[TDim]| dims.iter().map(|dim| dim.to_usize().ok()).collect();
            let image: Option<Vec<usize>> = concrete(&image[2..]);
            let kernel: Option<Vec<usize>> = concrete(&kernel[2..]);
            let Some((image, kernel)) = image.zip(kernel) else { return Ok(()) };
            for (index, axis) in self.axes(&image, &kernel).map_err(TractError::msg)?.into_iter().enumerate()
            {
                solver.equals(&outputs[0].shape[2 + index], axis.output.to_dim())?;
            }
            Ok(())
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let x = model.outlet_fact(inputs[0])?.clone();
        let image = x.shape.as_concrete().context("the shape of its input depends on data")?.to_vec();
        // From [inputs, outputs / group, ...] to [outputs, inputs / group, ...] as tract has them.
        let name = |part: &str| format!("{prefix}.kernel.{part}");
        let split = AxisOp::wire_split_axis(model, name("split"), inputs[1], 0, self.group)?;
        let turned = model.wire_node(name("turn"), AxisOp::Move(1, 2), &split)?;
        let kernel = AxisOp::wire_collapse_axis(model, name("join"), turned[0], 0)?[0];
        let shape = model.outlet_fact(kernel)?.shape.clone();
        let shape = shape.as_concrete().context("the shape of its weights depends on data")?;
        let axes = self.axes(&image[2..], &shape[2..]).map_err(TractError::msg)?;
        let list = |list: &Option<Vec<usize>>| list.as_ref().map(|list| list.iter().copied().collect());
        let pool = PoolSpec::new(
            DataFormat::NCHW,
            shape[2..].into(),
            PaddingSpec::Explicit(
                axes.iter().map(|axis| axis.before).collect(),
                axes.iter().map(|axis| axis.after).collect(),
            ),
            list(&self.dilations),
            list(&self.strides),
            KernelFormat::OIHW.input_channels(shape, self.group).into_owned(),
            KernelFormat::OIHW.output_channels(shape, self.group).into_owned(),
        );
        let bias = match self.bias {
            Some(bias) => inputs[bias],
            None => model.add_const(format!("{prefix}.bias"), Tensor::zero_scalar_dt(x.datum_type)?)?,
        };
        let extra = axes.iter().map(|axis| axis.extra).collect();
        let op = Deconv::new(pool, KernelFormat::OIHW, extra, self.group);
        model.wire_node(prefix, op, &[inputs[0], kernel, bias])
    }
}
