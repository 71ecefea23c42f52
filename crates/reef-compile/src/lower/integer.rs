//! Products of integers, and scales of quantised values.

use reef_graph::scalar::Element;
use reef_graph::{DType, Node, Op, Quantization, Shape, Tensor, ValueId};
use reef_plan::{
    ConvSpec, Epilogue, Factors, IntegerConvSpec, IntegerEpilogue, IntegerMatMulSpec, KernelSpec, MatMulSpec,
    Per, Residual, Scaled, Weights,
};

use super::nest::nest;
use super::{Lowering, streams};
use crate::error::CompileError;
use crate::groups::{Group, IntegerTail};
use crate::layout::{NHWC, Need};
use crate::view::{Operand, View};

impl<'a> Lowering<'a> {
    fn facts(&self, node: &Node) -> Vec<(DType, Shape)> {
        let fact = |&id: &ValueId| (self.graph.value(id).dtype, self.graph.value(id).shape.clone());
        node.inputs.iter().map(fact).collect()
    }

    /// Why a product of integers has no kernel.
    pub(super) fn flaw_of_integers(&self, node: &Node) -> String {
        let facts = self.facts(node);
        let flaw = match &node.op {
            Op::ConvInteger(attrs, zeros) => zeros.flaw_of_conv(&facts, attrs.groups),
            Op::MatMulInteger(zeros) => zeros.flaw_of_product(&facts),
            _ => None,
        };
        flaw.unwrap_or_else(|| "no kernel computes it".into())
    }

    /// The product of integers of a group. What makes numbers of a residual's bytes may come before it.
    fn product(&self, group: &Group) -> &'a Node {
        let mut nodes = group.nodes.iter().map(|&id| self.node(id));
        let is_product = |node: &&Node| matches!(node.op, Op::ConvInteger(..) | Op::MatMulInteger(_));
        nodes.find(is_product).expect("a group of integers has a product")
    }

    pub(super) fn integer_conv(&mut self, group: &Group, tail: &IntegerTail) -> Result<(), CompileError> {
        let node = self.product(group);
        let Op::ConvInteger(attrs, zeros) = &node.op else { unreachable!("the group has one") };
        let Some(weights) = self.graph.constant(node.inputs[1]).cloned() else {
            return Err(CompileError::unsupported(node, "the weights are computed, not constant"));
        };
        let output = self.node(group.root()).outputs[0];
        let x = self.view(node.inputs[0]);
        let x = self.with_layout(x, &NHWC, |view| view.image().is_some());
        let kind = Weights::Integers { groups: attrs.groups, shape: weights.shape() };
        let mut reads = vec![self.operand(&x), self.packed(&weights, kind)];
        let places = zeros.places().map(|at| at.map(|at| node.inputs[at]));
        let zeros =
            [self.zero(places[0], 1, &mut reads), self.zero(places[1], y_channels(&weights), &mut reads)];
        let y = self.place(output, Need::Image, None);
        let epilogue = self.integer_epilogue(tail, &mut reads, &y, View::image, &NHWC);
        let stride = |view: &View| view.image().unwrap_or(view.dims[1]);
        let conv = ConvSpec {
            batch: x.dims[0],
            in_hw: [x.dims[2], x.dims[3]],
            in_c: x.dims[1],
            in_pixel_stride: stride(&x),
            out_hw: [y.dims[2], y.dims[3]],
            out_c: y.dims[1],
            out_pixel_stride: stride(&y),
            kernel: attrs.kernel,
            strides: attrs.strides,
            pads: [attrs.pads[0], attrs.pads[1]],
            dilations: attrs.dilations,
            groups: attrs.groups,
            ..rows_of(0, 0, 0)
        };
        let factors = Factors { types: [x.dtype, weights.dtype()], zeros };
        let writes = vec![self.operand(&y)];
        self.emit_integers(tail, IntegerConvSpec { conv, factors, epilogue }, reads, writes);
        Ok(())
    }

    pub(super) fn integer_linear(&mut self, group: &Group, tail: &IntegerTail) -> Result<(), CompileError> {
        let node = self.product(group);
        let Op::MatMulInteger(zeros) = &node.op else { unreachable!("the group has one") };
        let output = self.node(group.root()).outputs[0];
        let weights =
            self.graph.constant(node.inputs[1]).expect("linear groups have constant weights").clone();
        let dims = weights.shape().clone();
        let matrix = Shape::new(&dims[dims.rank() - 2..]);
        let weights = if dims.rank() == 2 { weights } else { weights.reshaped(matrix) };
        let x = self.view(node.inputs[0]);
        let order: Vec<usize> = (0..x.rank()).collect();
        let x = self.with_layout(x, &order, |view| view.rows().is_some());
        let y = self.place(output, Need::Rows, None);
        let (in_c, out_c) = (x.dims[x.rank() - 1], y.dims[y.rank() - 1]);
        let rows = y.elements() / out_c.max(1);
        let kind = Weights::Integers { groups: 1, shape: weights.shape() };
        let mut reads = vec![self.operand(&x), self.packed(&weights, kind)];
        let [left, right] = zeros.places().map(|at| at.map(|at| node.inputs[at]));
        let by_row = [&x.dims[..x.rank() - 1], &[1]].concat();
        let zeros = [self.wide_zero(left, &by_row, &mut reads), self.wide_zero(right, &[out_c], &mut reads)];
        let order: Vec<usize> = (0..y.rank()).collect();
        let epilogue = self.integer_epilogue(tail, &mut reads, &y, View::rows, &order);
        let conv = ConvSpec {
            in_pixel_stride: x.rows().unwrap_or(in_c),
            out_pixel_stride: y.rows().unwrap_or(out_c),
            ..rows_of(rows, in_c, out_c)
        };
        let factors = Factors { types: [x.dtype, weights.dtype()], zeros };
        let writes = vec![self.operand(&y)];
        self.emit_integers(tail, IntegerConvSpec { conv, factors, epilogue }, reads, writes);
        Ok(())
    }

    fn emit_integers(
        &mut self,
        tail: &IntegerTail,
        spec: IntegerConvSpec,
        reads: Vec<Operand>,
        writes: Vec<Operand>,
    ) {
        let conv = &spec.conv;
        let flops = 2.0 * (conv.rows() * conv.out_c) as f64 * conv.depth() as f64;
        let inputs = conv.batch * conv.in_hw[0] * conv.in_hw[1] * conv.in_c;
        let outputs = conv.rows() * conv.out_c * spec.epilogue.output().bytes();
        let work = streams(flops, (inputs + conv.out_c * conv.depth() + outputs) as f64);
        self.emit(self.integer_label(tail), work, KernelSpec::IntegerConv(spec).whole(), reads, writes);
    }

    pub(super) fn integer_matmul(&mut self, group: &Group, tail: &IntegerTail) -> Result<(), CompileError> {
        let node = self.product(group);
        let Op::MatMulInteger(zeros) = &node.op else { unreachable!("the group has one") };
        let output = self.node(group.root()).outputs[0];
        let (a, b) = (self.forward(node.inputs[0]), self.forward(node.inputs[1]));
        let y = self.place(output, Need::Inner, None);
        let rank = y.rank();
        let (m, n, k) = (y.dims[rank - 2], y.dims[rank - 1], a.dims[a.rank() - 1]);
        if k == 0 {
            self.fill(&y, DType::I32, 0.0, self.label());
            return Ok(());
        }
        let lead = y.dims[..rank - 2].to_vec();
        let wide = |view: &View, last: [usize; 2]| view.broadcast(&[&lead[..], &last[..]].concat());
        let (wide_a, wide_b) = (wide(&a, [m, k]), wide(&b, [k, n]));
        let order: Vec<usize> = y.order().into_iter().filter(|&axis| axis < rank - 2).collect();
        let stride = |stride: isize| stride.unsigned_abs();
        let batch: Vec<[usize; 4]> = nest(&[&y, &wide_a, &wide_b], &order)
            .into_iter()
            .map(|axis| {
                [axis.extent, stride(axis.strides[1]), stride(axis.strides[2]), stride(axis.strides[0])]
            })
            .collect();
        let planes: usize = batch.iter().map(|axis| axis[0]).product();
        let pair = |view: &View| [rank - 2, rank - 1].map(|axis| stride(view.strides[axis]));
        let product = MatMulSpec {
            batch,
            m,
            n,
            k,
            a_strides: pair(&wide_a),
            b_strides: pair(&wide_b),
            c_row_stride: if m == 1 { n } else { pair(&y)[0] },
            alpha: 1.0,
            tile_rows: m.max(1),
            tile_columns: n.max(1),
        };
        let mut reads = vec![self.operand(&a), self.operand(&b)];
        let [left, right] = zeros.places().map(|at| at.map(|at| node.inputs[at]));
        // One by one, in the order of the planes.
        let in_order = |last: [usize; 2]| (order.clone(), [&lead[..], &last[..]].concat());
        let zeros = [
            self.zero_by_plane(left, in_order([m, 1]), &mut reads),
            self.zero_by_plane(right, in_order([1, n]), &mut reads),
        ];
        let none = |_: &View| None;
        let epilogue = self.integer_epilogue(tail, &mut reads, &y, none, &[]);
        let factors = Factors { types: [a.dtype, b.dtype], zeros };
        let flops = 2.0 * (planes * m * n) as f64 * k as f64;
        let bytes = planes * (m * k + k * n + m * n * epilogue.output().bytes());
        let spec = KernelSpec::IntegerMatMul(IntegerMatMulSpec { product, factors, epilogue });
        let writes = vec![self.operand(&y)];
        self.emit(self.integer_label(tail), streams(flops, bytes as f64), spec, reads, writes);
        Ok(())
    }

    /// Adds zero points to `reads` unless there are none or all are 0. `each` are there if not one.
    fn zero(&mut self, id: Option<ValueId>, each: usize, reads: &mut Vec<Operand>) -> Option<Per> {
        self.wide_zero(id, &[each], reads)
    }

    /// The same for zero points that are broadcast to `dims`.
    fn wide_zero(&mut self, id: Option<ValueId>, dims: &[usize], reads: &mut Vec<Operand>) -> Option<Per> {
        let order = (0..dims.len().saturating_sub(2)).collect();
        self.zero_by_plane(id, (order, dims.to_vec()), reads)
    }

    /// The same, all but the last two axes in the order given.
    fn zero_by_plane(
        &mut self,
        id: Option<ValueId>,
        (order, dims): (Vec<usize>, Vec<usize>),
        reads: &mut Vec<Operand>,
    ) -> Option<Per> {
        let id = id?;
        let none = |tensor: &Tensor| Element::all(tensor).iter().all(|element| element.int() == 0);
        if self.graph.constant(id).is_some_and(none) {
            return None;
        }
        let view = self.view(id);
        if view.elements() == 1 {
            reads.push(self.operand(&view));
            return Some(Per::Tensor);
        }
        let view = view.broadcast(&dims);
        let order: Vec<usize> = order.into_iter().chain(dims.len().saturating_sub(2)..dims.len()).collect();
        let view = self.with_layout(view, &order, |view| view.is_ordered(&order));
        reads.push(self.operand(&view));
        Some(Per::Each)
    }

    /// Adds the epilogue's operands to `reads`.
    fn integer_epilogue(
        &mut self,
        tail: &IntegerTail,
        reads: &mut Vec<Operand>,
        y: &View,
        pixel_stride: impl Fn(&View) -> Option<usize>,
        order: &[usize],
    ) -> IntegerEpilogue {
        let mut dense = |lowering: &mut Self, id: Option<ValueId>| {
            let id = id?;
            let view = lowering.view(id);
            let view = lowering.dense(view);
            reads.push(lowering.operand(&view));
            Some(if view.elements() == 1 { Per::Tensor } else { Per::Each })
        };
        let bias = dense(self, tail.bias).is_some();
        let Some(scaled) = &tail.scaled else { return IntegerEpilogue { bias, scaled: None } };
        let factors = dense(self, scaled.factors);
        let shift = dense(self, scaled.shift).is_some();
        let residual = scaled.residual.and_then(|(residual, of)| {
            let view = self.view(residual);
            debug_assert_eq!(view.dims, y.dims, "a residual has the output's shape");
            let view = self.with_layout(view, order, |view| pixel_stride(view).is_some());
            reads.push(self.operand(&view));
            Some(Residual { pixel_stride: pixel_stride(&view)?, of })
        });
        let (rounding, activation, requantize) = (scaled.rounding, scaled.activation, scaled.requantize);
        let scaled = Scaled { factors, shift, rounding, residual, activation, requantize };
        IntegerEpilogue { bias, scaled: Some(scaled) }
    }

    /// Name of a kernel with an integer epilogue.
    fn integer_label(&self, tail: &IntegerTail) -> String {
        let mut parts = vec![self.node(self.members[0]).name.clone()];
        parts.extend(tail.bias.map(|_| "bias".into()));
        if let Some(scaled) = &tail.scaled {
            parts.extend(scaled.factors.map(|_| "scale".into()));
            parts.extend(scaled.shift.map(|_| "bias".into()));
            parts.extend(scaled.rounding.map(|_| "round".into()));
            parts.extend(scaled.residual.map(|_| "residual".into()));
            parts.extend(scaled.activation.map(|function| super::short_name(&Op::Unary(function))));
            parts.extend(scaled.requantize.map(|_| "quantize".into()));
        }
        parts.join("+")
    }

    /// Scales or zero points of x by block, as many as x has elements: a copy.
    pub(super) fn by_element(&mut self, how: &Quantization, x: &[usize], view: View) -> View {
        let (axis, order) = (how.axis, (0..=x.len()).collect::<Vec<usize>>());
        let mut wide = view;
        wide.dims.insert(axis + 1, how.block);
        wide.strides.insert(axis + 1, 0);
        let copy = self.with_layout(wide, &order, View::is_dense);
        let mut dims = x.to_vec();
        dims[axis] = copy.dims[axis] * how.block;
        let joined = copy.reshape(&dims).expect("it is dense");
        joined.slice(axis, 0, x[axis], 1)
    }
}

/// Output channels of weights `[O, I, kh, kw]`.
fn y_channels(weights: &Tensor) -> usize {
    weights.shape()[0]
}

/// A product over rows as a convolution in one piece, not cut yet.
fn rows_of(rows: usize, in_c: usize, out_c: usize) -> ConvSpec {
    ConvSpec {
        batch: 1,
        in_hw: [1, rows],
        in_c,
        in_pixel_stride: in_c,
        out_hw: [1, rows],
        out_c,
        out_pixel_stride: out_c,
        kernel: [1, 1],
        strides: [1, 1],
        pads: [0, 0],
        dilations: [1, 1],
        groups: 1,
        panel_width: 0,
        normed: false,
        epilogue: Epilogue::default(),
        tile_rows: 1,
        tile_columns: 1,
        columns_inner: true,
        splits: 1,
    }
}
