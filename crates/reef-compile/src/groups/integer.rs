//! What follows a product of integers into its epilogue.

use reef_graph::{Binary, DType, Node, NodeId, Op, Shape, Unary, ValueId};
use reef_plan::{Dequantize, Requantize, Rounding};

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
    /// It becomes an integer of 8 bits, and that is read as an f32.
    pub rounding: Option<Rounding>,
    /// A value of the output's shape that is added; integers of 8 bits if they are read like this.
    pub residual: Option<(ValueId, Option<Dequantize>)>,
    /// Applied next.
    pub activation: Option<Unary>,
    /// Applied last.
    pub requantize: Option<Requantize>,
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
                let (nodes, tail) = self.follow(id, 1, true);
                self.push(nodes, Kind::IntegerConv(tail));
            }
            Op::MatMulInteger(zeros) if zeros.flaw_of_product(&facts).is_none() => {
                let depth = facts[0].1[facts[0].1.rank() - 1];
                let linear = self.is_linear(node) && depth > 0;
                let (nodes, tail) = match depth {
                    0 => (vec![id], IntegerTail::default()),
                    _ => self.follow(id, output.rank() - 1, linear),
                };
                let kind = if linear { Kind::IntegerLinear(tail) } else { Kind::IntegerMatMul(tail) };
                self.push(nodes, kind);
            }
            _ => self.push(vec![id], Kind::Single),
        }
    }

    /// What follows `head` into its epilogue, perhaps a residual; channels are the output's `axis`.
    fn follow(&self, head: NodeId, axis: usize, residuals: bool) -> (Vec<NodeId>, IntegerTail) {
        let (mut nodes, mut tail) = (vec![head], IntegerTail::default());
        let mut value = self.output(head);
        loop {
            let ends = tail.scaled.as_ref().is_some_and(|scaled| scaled.requantize.is_some());
            let taken = match ends {
                true => self.takes_rounding(&mut tail, value, axis, residuals),
                false => self.takes_next(&mut tail, value, axis, residuals),
            };
            let Some(taken) = taken else { break };
            value = self.output(*taken.last().expect("it took a node"));
            nodes.extend(taken);
        }
        (nodes, tail)
    }

    /// Takes what alone reads `value` into the tail, if it can be there; the nodes, the last one last.
    fn takes_next(
        &self,
        tail: &mut IntegerTail,
        value: ValueId,
        axis: usize,
        residuals: bool,
    ) -> Option<Vec<NodeId>> {
        let next = self.sole_consumer(value)?;
        let node = self.node(next);
        let same_shape = self.shape(node.outputs[0]) == self.shape(value);
        if !same_shape || !self.takes(tail, (value, next), axis, residuals) {
            return None;
        }
        let of_bytes = tail.scaled.as_ref().and_then(|scaled| scaled.residual?.1);
        let adds = of_bytes.filter(|_| matches!(node.op, Op::Binary(Binary::Add)));
        let numbers = adds.and_then(|_| {
            let other = node.inputs[usize::from(node.inputs[0] == value)];
            self.sole_producer(other)
        });
        Some(numbers.into_iter().chain([next]).collect())
    }

    /// The same for the integer `value` that is read as an f32 by something that can be in the tail as well,
    /// or by what is no part of an element-wise kernel: then it is rounded on its way.
    fn takes_rounding(
        &self,
        tail: &mut IntegerTail,
        value: ValueId,
        axis: usize,
        residuals: bool,
    ) -> Option<Vec<NodeId>> {
        let scaled = tail.scaled.as_ref()?;
        let plain = scaled.rounding.is_none() && scaled.residual.is_none() && scaled.activation.is_none();
        let to = scaled.requantize.filter(|_| plain)?;
        let by = self.sole_consumer(value)?;
        let back = self.dequantize(by)?;
        let rounding = Some(Rounding { to, back });
        let scaled = Some(ScaledTail { rounding, requantize: None, ..scaled.clone() });
        let mut longer = IntegerTail { scaled, ..tail.clone() };
        let float = self.output(by);
        let joins = |reader: NodeId| super::is_elementwise(&self.node(reader).op);
        let last = !self.sole_consumer(float).is_some_and(joins);
        let taken = self.takes_next(&mut longer, float, axis, residuals).or(last.then(Vec::new))?;
        *tail = longer;
        Some([by].into_iter().chain(taken).collect())
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
        if node.inputs.len() == 2 && node.inputs[0] == node.inputs[1] {
            return false;
        }
        if matches!(node.op, Op::Quantize(_)) && node.inputs[0] == value {
            let requantize = self.requantize(next);
            if requantize.is_some() {
                tail.scaled.get_or_insert_default().requantize = requantize;
            }
            return requantize.is_some();
        }
        match &mut tail.scaled {
            None => self.takes_integer(tail, (value, node), axis),
            Some(scaled) if scaled.activation.is_some() => false,
            Some(scaled) => self.takes_float(scaled, (value, node), axis, residuals),
        }
    }

    /// The same for what an i32 is read by.
    fn takes_integer(&self, tail: &mut IntegerTail, (value, node): (ValueId, &Node), axis: usize) -> bool {
        let is = |id: ValueId, dtype: DType| self.graph.value(id).dtype == dtype;
        match &node.op {
            Op::Binary(Binary::Add) if tail.bias.is_none() => {
                let other = node.inputs[usize::from(node.inputs[0] == value)];
                let fits = is(other, DType::I32) && self.by_channel(other, self.shape(value), axis);
                tail.bias = fits.then_some(other);
                fits
            }
            Op::Cast { to: DType::F32 } => {
                tail.scaled = Some(ScaledTail::default());
                true
            }
            Op::Dequantize(how) if node.inputs.len() == 2 && node.inputs[0] == value => {
                let factors = node.inputs[1];
                let along = self.one(factors) || how.axis == axis;
                let fits = along
                    && how.block == 0
                    && self.shape(factors).rank() <= 1
                    && is(factors, DType::F32)
                    && is(node.outputs[0], DType::F32);
                if fits {
                    tail.scaled = Some(ScaledTail { factors: Some(factors), ..ScaledTail::default() });
                }
                fits
            }
            _ => false,
        }
    }

    /// The same for what an f32 is read by.
    fn takes_float(
        &self,
        scaled: &mut ScaledTail,
        (value, node): (ValueId, &Node),
        axis: usize,
        residuals: bool,
    ) -> bool {
        let shape = self.shape(value);
        if let Op::Unary(function) = node.op {
            scaled.activation = Some(function).filter(|function| *function != Unary::Not);
            return scaled.activation.is_some();
        }
        let Op::Binary(function) = node.op else { return false };
        let other = node.inputs[usize::from(node.inputs[0] == value)];
        let (one, by_channel) = (self.one(other), self.by_channel(other, shape, axis));
        if self.graph.value(other).dtype != DType::F32 {
            return false;
        }
        let plain = scaled.shift.is_none() && scaled.rounding.is_none() && scaled.residual.is_none();
        match function {
            Binary::Mul if *scaled == ScaledTail::default() => {
                let fits = by_channel || one && self.shape(other).rank() <= shape.rank();
                scaled.factors = fits.then_some(other);
                fits
            }
            Binary::Add if plain && by_channel => {
                scaled.shift = Some(other);
                true
            }
            Binary::Add if residuals && scaled.residual.is_none() && self.shape(other) == shape => {
                let bytes = self.sole_producer(other).and_then(|by| {
                    let of = self.dequantize(by)?;
                    Some((self.node(by).inputs[0], Some(of)))
                });
                scaled.residual = Some(bytes.unwrap_or((other, None)));
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

    /// Scale and zero point of a node, if they are constant and by tensor.
    fn scale(&self, node: &Node) -> Option<(f32, i32)> {
        let constant = |at: usize| {
            let tensor = self.graph.constant(*node.inputs.get(at)?)?;
            let element = reef_graph::scalar::Element::all(tensor);
            (element.len() == 1).then(|| element[0])
        };
        let scale = constant(1)?.float() as f32;
        let zero = if node.inputs.len() > 2 { constant(2)?.int() as i32 } else { 0 };
        Some((scale, zero))
    }

    /// What makes an f32 of an integer of 8 bits, if a node does that, all of it constant and by tensor.
    fn dequantize(&self, id: NodeId) -> Option<Dequantize> {
        let node = self.node(id);
        let Op::Dequantize(how) = &node.op else { return None };
        let dtype = |id: ValueId| self.graph.value(id).dtype;
        let (from, (scale, zero)) = (dtype(node.inputs[0]), self.scale(node)?);
        let of_floats = dtype(node.inputs[1]) == DType::F32 && dtype(node.outputs[0]) == DType::F32;
        let fits = matches!(from, DType::U8 | DType::I8) && of_floats && how.block == 0;
        let same = self.shape(node.inputs[0]) == self.shape(node.outputs[0]);
        (fits && same).then_some(Dequantize { from, scale, zero })
    }

    /// The requantisation that a node is, if all of it is constant and by tensor.
    fn requantize(&self, id: NodeId) -> Option<Requantize> {
        let node = self.node(id);
        let Op::Quantize(how) = &node.op else { return None };
        let to = self.graph.value(node.outputs[0]).dtype;
        let x = self.graph.value(node.inputs[0]).dtype;
        let (scale, zero) = self.scale(node)?;
        let (low, high) = how.range(to)?;
        let fits = matches!(to, DType::U8 | DType::I8)
            && matches!(x, DType::F32 | DType::I32)
            && how.block == 0
            && scale.is_finite()
            && (low..=high).contains(&zero);
        fits.then_some(Requantize { to, scale, zero, low, high })
    }
}
