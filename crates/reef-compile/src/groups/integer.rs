//! What follows a product of integers into its epilogue.

use reef_graph::{Binary, DType, NodeId, Op, Shape, Unary, ValueId};
use reef_plan::Requantize;

use super::{Grouper, Kind};

/// What follows an integer product before the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct IntegerTail {
    /// An i32 added by output channel.
    pub bias: Option<ValueId>,
    /// What happens to it as an f32.
    pub scaled: Option<ScaledTail>,
}

/// What happens to an integer as an f32.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ScaledTail {
    /// An f32 that it is multiplied with: one, or one by output channel.
    pub factors: Option<ValueId>,
    /// An f32 added by output channel.
    pub shift: Option<ValueId>,
    /// A value of the output's shape that is added.
    pub residual: Option<ValueId>,
    /// Applied next.
    pub activation: Option<Unary>,
    /// Applied last.
    pub requantize: Option<Requantize>,
}

impl ScaledTail {
    /// Whether it has a factor at most.
    fn may_scale(&self) -> bool {
        *self == ScaledTail::default()
    }

    /// Whether nothing but a requantisation can follow.
    fn is_active(&self) -> bool {
        self.activation.is_some()
    }
}

impl Grouper<'_> {
    /// An integer product, if its operands are such that there is one.
    pub(super) fn take_integers(&mut self, id: NodeId) {
        let node = self.node(id);
        let facts: Vec<(DType, Shape)> =
            node.inputs.iter().map(|&id| (self.graph.value(id).dtype, self.shape(id).clone())).collect();
        let output = self.shape(node.outputs[0]);
        match &node.op {
            Op::ConvInteger(attrs, zeros) if zeros.flaw_of_conv(&facts, attrs.groups).is_none() => {
                let (nodes, tail) = self.integer_tail(id, 1);
                self.push(nodes, Kind::IntegerConv(tail));
            }
            Op::MatMulInteger(zeros) if zeros.flaw_of_product(&facts).is_none() => {
                let depth = facts[0].1[facts[0].1.rank() - 1];
                let linear = self.is_linear(node) && depth > 0;
                let (nodes, mut tail) = match depth {
                    0 => (vec![id], IntegerTail::default()),
                    _ => self.integer_tail(id, output.rank() - 1),
                };
                if linear {
                    self.push(nodes, Kind::IntegerLinear(tail));
                    return;
                }
                let mut nodes = nodes;
                if tail.scaled.as_ref().is_some_and(|scaled| scaled.residual.is_some()) {
                    (nodes, tail) = self.integer_tail_without_residual(id, output.rank() - 1);
                }
                self.push(nodes, Kind::IntegerMatMul(tail));
            }
            _ => self.push(vec![id], Kind::Single),
        }
    }

    /// What follows `head` into its epilogue; channels are the output's `axis`.
    fn integer_tail(&self, head: NodeId, axis: usize) -> (Vec<NodeId>, IntegerTail) {
        self.follow(head, axis, true)
    }

    fn integer_tail_without_residual(&self, head: NodeId, axis: usize) -> (Vec<NodeId>, IntegerTail) {
        self.follow(head, axis, false)
    }

    fn follow(&self, head: NodeId, axis: usize, residuals: bool) -> (Vec<NodeId>, IntegerTail) {
        let (mut nodes, mut tail) = (vec![head], IntegerTail::default());
        let mut value = self.output(head);
        while let Some(next) = self.sole_consumer(value) {
            let node = self.node(next);
            let same_shape = self.shape(node.outputs[0]) == self.shape(value);
            if !same_shape || !self.takes(&mut tail, (value, next), axis, residuals) {
                break;
            }
            nodes.push(next);
            value = node.outputs[0];
            if tail.scaled.as_ref().is_some_and(|scaled| scaled.requantize.is_some()) {
                break;
            }
        }
        (nodes, tail)
    }

    /// Takes node `next`, which alone reads `value`, into the tail, if it can be there.
    fn takes(
        &self,
        tail: &mut IntegerTail,
        (value, next): (ValueId, NodeId),
        axis: usize,
        residuals: bool,
    ) -> bool {
        let node = self.node(next);
        let shape = self.shape(value);
        let other = || node.inputs[usize::from(node.inputs[0] == value)];
        let is = |id: ValueId, dtype: DType| self.graph.value(id).dtype == dtype;
        let twice = node.inputs.len() == 2 && node.inputs[0] == node.inputs[1];
        match (&node.op, &mut tail.scaled) {
            _ if twice => false,
            (Op::Binary(Binary::Add), None) => {
                let fits =
                    tail.bias.is_none() && is(other(), DType::I32) && self.by_channel(other(), shape, axis);
                tail.bias = tail.bias.or(fits.then(other));
                fits
            }
            (Op::Cast { to: DType::F32 }, None) => {
                tail.scaled = Some(ScaledTail::default());
                true
            }
            (Op::Dequantize(how), None) if node.inputs.len() == 2 => {
                let factors = node.inputs[1];
                let along = self.one(factors) || (how.axis == axis && how.block == 0);
                let fits = along
                    && is(factors, DType::F32)
                    && is(node.outputs[0], DType::F32)
                    && self.shape(factors).rank() <= 1
                    && how.block == 0;
                if fits {
                    tail.scaled = Some(ScaledTail { factors: Some(factors), ..ScaledTail::default() });
                }
                fits
            }
            (Op::Quantize(_), scaled) if node.inputs[0] == value => {
                let requantize = self.requantize(next);
                if requantize.is_some() {
                    scaled.get_or_insert_default().requantize = requantize;
                }
                requantize.is_some()
            }
            (_, Some(scaled)) if scaled.is_active() => false,
            (Op::Binary(Binary::Mul), Some(scaled)) => {
                let one = self.one(other()) && self.shape(other()).rank() <= shape.rank();
                let fits = scaled.may_scale()
                    && is(other(), DType::F32)
                    && (one || self.by_channel(other(), shape, axis));
                scaled.factors = scaled.factors.or(fits.then(other));
                fits
            }
            (Op::Binary(Binary::Add), Some(scaled)) if is(other(), DType::F32) => {
                let plain = scaled.shift.is_none() && scaled.residual.is_none();
                if plain && self.by_channel(other(), shape, axis) {
                    scaled.shift = Some(other());
                    true
                } else if residuals && scaled.residual.is_none() && self.shape(other()) == shape {
                    scaled.residual = Some(other());
                    true
                } else {
                    false
                }
            }
            (Op::Unary(function), Some(scaled)) if *function != Unary::Not => {
                scaled.activation = Some(*function);
                true
            }
            _ => false,
        }
    }

    /// Whether a value has one element.
    fn one(&self, value: ValueId) -> bool {
        self.shape(value).elements() == 1
    }

    /// Whether `value` has one element for each index of `axis` of `shape`.
    fn by_channel(&self, value: ValueId, shape: &Shape, axis: usize) -> bool {
        let dims = self.shape(value);
        let Some(own) = (axis + dims.rank()).checked_sub(shape.rank()) else { return false };
        let alone = dims.elements() == shape[axis] && dims.get(own) == Some(&shape[axis]);
        alone && dims.rank() <= shape.rank()
    }

    /// The requantisation that a node is, if all of it is constant and by tensor.
    fn requantize(&self, id: NodeId) -> Option<Requantize> {
        let node = self.node(id);
        let Op::Quantize(how) = &node.op else { return None };
        let to = self.graph.value(node.outputs[0]).dtype;
        let x = self.graph.value(node.inputs[0]).dtype;
        let constant = |at: usize| {
            let tensor = self.graph.constant(*node.inputs.get(at)?)?;
            let element = reef_graph::scalar::Element::all(tensor);
            (element.len() == 1).then(|| element[0])
        };
        let scale = constant(1)?.float() as f32;
        let zero = if node.inputs.len() > 2 { constant(2)?.int() as i32 } else { 0 };
        let (low, high) = how.range(to)?;
        let fits = matches!(to, DType::U8 | DType::I8)
            && matches!(x, DType::F32 | DType::I32)
            && how.block == 0
            && scale.is_finite()
            && (low..=high).contains(&zero);
        fits.then_some(Requantize { to, scale, zero, low, high })
    }
}
