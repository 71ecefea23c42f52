//! Operators that select, with outputs as large as they can become and the count of what was selected.
//!
//! They are not ONNX's: a rewriting of graphs that have been checked puts them where the shape of a result
//! depends on data, under names that no model can use (the check refuses them). Inputs and attributes are
//! those of ONNX's operators, and so are outputs, then the count; all outputs are named.
//!
//! | operator | attributes | outputs |
//! |---|---|---|
//! | `reef.NonZero` | | `[max(rank, 1), elements]`, count |
//! | `reef.Compress` | `axis` | like x or, without an axis, `[elements]`; count |
//! | `reef.Unique` | `axis`, `sorted` (1) | Y, indices, inverse_indices, counts; count |
//! | `reef.NonMaxSuppression` | `center_point_box` (0), `per_class` | `[rows, 3]`, count |
//!
//! `per_class` is the most boxes of a class that there is room for; without it, all. They have native kernels
//! for every type, so constants are not folded here.

use reef_graph::{DType, Selection, Shape};
use tract_onnx::model::{Onnx, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::tract_data::TooEarly;

use super::own::{Built, Reading, axis_of, own, refused};
use crate::consts::dtype_of;

/// Registers the operators.
pub(super) fn register(onnx: &mut Onnx) {
    let register = &mut onnx.op_register;
    register.insert("reef.NonZero", |_, node| read(node, Kind::NonZero, 1, 2));
    register.insert("reef.Compress", |_, node| {
        read(node, Kind::Compress { axis: node.get_attr_opt("axis")? }, 2, 2)
    });
    register.insert("reef.Unique", |_, node| {
        let sorted = node.get_attr_opt::<i64>("sorted")?.unwrap_or(1) != 0;
        read(node, Kind::Unique { axis: node.get_attr_opt("axis")?, sorted }, 1, 5)
    });
    register.insert("reef.NonMaxSuppression", |_, node| {
        let mut optional = optional_inputs(node).skip(2);
        let limits = [(); 3].map(|()| optional.next().flatten());
        let per_class = node.get_attr_opt("per_class")?.unwrap_or(usize::MAX);
        let center_point_box = node.get_attr_opt::<i64>("center_point_box")?.unwrap_or(0) != 0;
        let given = 2 + limits.iter().flatten().count();
        read(node, Kind::NonMaxSuppression { center_point_box, per_class, limits }, given, 2)
    });
}

fn read(node: &NodeProto, kind: Kind, inputs: usize, outputs: usize) -> Built {
    let given = node.input.iter().filter(|name| !name.is_empty()).count();
    if (given, node.output.len()) != (inputs, outputs) {
        return refused(node, format!("it has {given} inputs and {} outputs", node.output.len()));
    }
    own(node, kind)
}

/// A selection as a node writes it.
#[derive(Clone, Debug)]
enum Kind {
    NonZero,
    Compress {
        axis: Option<i64>,
    },
    Unique {
        axis: Option<i64>,
        sorted: bool,
    },
    NonMaxSuppression {
        center_point_box: bool,
        per_class: usize,
        /// The inputs that are the most boxes of a class, the threshold of overlap and that of scores.
        limits: [Option<usize>; 3],
    },
}

impl Kind {
    /// The selection from an x of this rank.
    fn selection(&self, rank: usize) -> TractResult<Selection> {
        let counted = |axis: Option<i64>| axis.map(|axis| axis_of(axis, rank)).transpose();
        Ok(match *self {
            Kind::NonZero => Selection::NonZero,
            Kind::Compress { axis } => Selection::Compress { axis: counted(axis)? },
            Kind::Unique { axis, sorted } => Selection::Unique { axis: counted(axis)?, sorted },
            Kind::NonMaxSuppression { center_point_box, per_class, .. } => {
                Selection::NonMaxSuppression { center_point_box, per_class }
            }
        })
    }

    /// All inputs of the selection: limits that are left out are 0, but for a threshold of scores.
    fn inputs<T: Clone>(
        &self,
        given: &[T],
        mut constant: impl FnMut(usize, Tensor) -> TractResult<T>,
    ) -> TractResult<TVec<T>> {
        let Kind::NonMaxSuppression { limits, .. } = self else { return Ok(given.into()) };
        let mut inputs: TVec<T> = given[..2].into();
        for (index, default) in [tensor1(&[0i64]), tensor1(&[0f32])].into_iter().enumerate() {
            inputs.push(match limits[index] {
                Some(input) => given[input].clone(),
                None => constant(index, default)?,
            });
        }
        inputs.extend(limits[2].map(|input| given[input].clone()));
        Ok(inputs)
    }
}

impl Reading for Kind {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        let select = Select(self.selection(inputs[0].rank())?);
        let inputs = self.inputs(inputs, |_, tensor| TypedFact::try_from(tensor.into_arc_tensor()))?;
        select.output_facts(&inputs.iter().collect::<TVec<_>>()).map(Some)
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let select = Select(self.selection(model.outlet_fact(inputs[0])?.rank())?);
        let constant = |index, tensor| model.add_const(format!("{name}.limit.{index}"), tensor);
        let inputs = self.inputs(inputs, constant)?;
        model.wire_node(name, select, &inputs)
    }
}

/// The typed operator. Only a kernel computes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Select(pub Selection);

impl Op for Select {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    op_as_typed_op!();
}

impl EvalOp for Select {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext, _: TVec<TValue>) -> TractResult<TVec<TValue>> {
        // Of constants, too: this says that they are not known while the model is analysed.
        Err(TractError::new(TooEarly::Other(format!("only a kernel computes {}", self.0.name()))))
    }
}

impl TypedOp for Select {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.check(inputs)?;
        let x = &inputs[0].shape;
        let datum =
            if inputs[0].datum_type == DatumType::TDim { i64::datum_type() } else { inputs[0].datum_type };
        let all: TDim = x.iter().product();
        let along = |axis: Option<usize>| match axis {
            None => (tvec!(all.clone()), all.clone()),
            Some(axis) => (x.to_tvec(), x[axis].clone()),
        };
        let mut facts = match self.0 {
            Selection::NonZero => tvec!(i64::fact([x.rank().max(1).to_dim(), all])),
            Selection::Compress { axis } => tvec!(datum.fact(along(axis).0)),
            Selection::Unique { axis, .. } => {
                let (shape, extent) = along(axis);
                let list = || i64::fact([extent.clone()]);
                tvec!(datum.fact(shape), list(), list(), list())
            }
            Selection::NonMaxSuppression { per_class, .. } => {
                // A symbol is not less than it will be.
                let boxes = x[1].to_usize().map_or(x[1].clone(), |boxes| boxes.min(per_class).to_dim());
                let rows = x[0].clone() * &inputs[1].shape[1] * boxes;
                tvec!(i64::fact([rows, 3.to_dim()]))
            }
        };
        facts.push(i64::fact([1]));
        Ok(facts)
    }

    as_op!();
}

impl Select {
    /// Whether the inputs fit, once their shapes are known.
    fn check(&self, inputs: &[&TypedFact]) -> TractResult<()> {
        let fact = |fact: &&TypedFact| -> Option<(DType, Shape)> {
            Some((dtype_of(fact.datum_type)?, Shape::new(fact.shape.as_concrete()?)))
        };
        match inputs.iter().map(fact).collect::<Option<Vec<_>>>() {
            Some(facts) => self.0.outputs(&facts).map(|_| ()).map_err(TractError::msg),
            None => Ok(()),
        }
    }
}
