//! Convolutions, products and pools.

use reef_graph::{ConvAttrs, DType, Node, NodeId, Op, PoolAttrs, PoolKind, Shape, ValueId};
use reef_plan::{
    AttentionSpec, ConvSpec, DepthwiseSpec, Epilogue, KernelSpec, Masking, MatMulSpec, PoolSpec, Weights,
    Work,
};

use super::nest::nest;
use super::{Lowering, streams, words};
use crate::error::CompileError;
use crate::groups::{Group, Tail};
use crate::layout::{NHWC, Need};
use crate::view::{Operand, View};

impl Lowering<'_> {
    /// `norm` is the scale and shift of the input, if the convolution takes care of it and its relu.
    pub(super) fn conv(
        &mut self,
        group: &Group,
        norm: Option<NodeId>,
        tail: &Tail,
    ) -> Result<(), CompileError> {
        let mut nodes = group.nodes.iter().map(|&id| self.node(id));
        let is_conv = |node: &&Node| matches!(node.op, Op::Conv(_));
        let node = nodes.find(is_conv).expect("the group has a convolution");
        let Op::Conv(attrs) = &node.op else { unreachable!("found as a convolution") };
        let norm = norm.map(|norm| self.node(norm));
        let output = self.node(group.root()).outputs[0];
        self.require_f32(node, &node.inputs)?;
        let Some(weights) = self.graph.constant(node.inputs[1]).cloned() else {
            return Err(CompileError::unsupported(node, "the weights are computed, not constant"));
        };
        let x = self.view(norm.unwrap_or(node).inputs[0]);
        let x = self.with_layout(x, &NHWC, |view| view.image().is_some());
        let depthwise =
            attrs.groups > 1 && attrs.groups == x.dims[1] && weights.shape()[..2] == [attrs.groups, 1];
        let mut reads = vec![self.operand(&x)];
        let shape = weights.shape();
        let kind = if depthwise {
            Weights::Depthwise { shape }
        } else {
            Weights::Conv { groups: attrs.groups, shape }
        };
        reads.push(self.packed(&weights, kind));
        let bias = node.inputs.get(2).copied().or(tail.bias);
        let y = self.place(output, Need::Image, None);
        let epilogue = self.epilogue(bias, tail, &mut reads, &y, View::image, &NHWC);
        for &by_channel in norm.iter().flat_map(|norm| &norm.inputs[1..]) {
            let view = self.view(by_channel);
            let view = self.dense(view);
            reads.push(self.operand(&view));
        }
        let (spec, work) = if depthwise {
            self.depthwise_spec(attrs, &x, &y, epilogue)
        } else {
            self.conv_spec(attrs, &x, &y, norm.is_some(), epilogue)
        };
        let writes = vec![self.operand(&y)];
        self.emit(self.contraction_label(norm, tail, bias.is_some()), work, spec, reads, writes);
        Ok(())
    }

    /// Adds the epilogue's operands to `reads`.
    fn epilogue(
        &mut self,
        bias: Option<ValueId>,
        tail: &Tail,
        reads: &mut Vec<Operand>,
        y: &View,
        pixel_stride: impl Fn(&View) -> Option<usize>,
        order: &[usize],
    ) -> Epilogue {
        if let Some(bias) = bias {
            let bias = self.view(bias);
            let bias = self.dense(bias);
            reads.push(self.operand(&bias));
        }
        let residual_pixel_stride = tail.residual.and_then(|residual| {
            // A value of the same shape but another rank cannot be: shapes were compared.
            let view = self.view(residual);
            debug_assert_eq!(view.dims, y.dims, "a residual has the output's shape");
            let view = self.with_layout(view, order, |view| pixel_stride(view).is_some());
            reads.push(self.operand(&view));
            pixel_stride(&view)
        });
        Epilogue { bias: bias.is_some(), residual_pixel_stride, activation: tail.activation }
    }

    fn conv_spec(
        &self,
        attrs: &ConvAttrs,
        x: &View,
        y: &View,
        normed: bool,
        epilogue: Epilogue,
    ) -> (KernelSpec, Work) {
        let stride = |view: &View| view.image().unwrap_or(view.dims[1]);
        let (in_c, out_c) = (x.dims[1], y.dims[1]);
        let spec = ConvSpec {
            batch: x.dims[0],
            in_hw: [x.dims[2], x.dims[3]],
            in_c,
            in_pixel_stride: stride(x),
            out_hw: [y.dims[2], y.dims[3]],
            out_c,
            out_pixel_stride: stride(y),
            kernel: attrs.kernel,
            strides: attrs.strides,
            pads: [attrs.pads[0], attrs.pads[1]],
            dilations: attrs.dilations,
            groups: attrs.groups,
            panel_width: 0,
            normed,
            epilogue,
            tile_rows: 1,
            tile_columns: 1,
            columns_inner: true,
            splits: 1,
        };
        conv_work(spec)
    }

    fn depthwise_spec(
        &self,
        attrs: &ConvAttrs,
        x: &View,
        y: &View,
        epilogue: Epilogue,
    ) -> (KernelSpec, Work) {
        let stride = |view: &View| view.image().unwrap_or(view.dims[1]);
        let lines = y.dims[0] * y.dims[2];
        let flops = 2.0 * (y.elements() * attrs.kernel[0] * attrs.kernel[1]) as f64;
        let spec = DepthwiseSpec {
            batch: x.dims[0],
            channels: x.dims[1],
            in_hw: [x.dims[2], x.dims[3]],
            in_pixel_stride: stride(x),
            out_hw: [y.dims[2], y.dims[3]],
            out_pixel_stride: stride(y),
            kernel: attrs.kernel,
            strides: attrs.strides,
            pads: [attrs.pads[0], attrs.pads[1]],
            dilations: attrs.dilations,
            epilogue,
            tile_rows: lines.max(1),
        };
        (KernelSpec::Depthwise(spec), streams(flops, words(x.elements() + y.elements())))
    }

    pub(super) fn linear(&mut self, group: &Group, tail: &Tail) -> Result<(), CompileError> {
        let node = self.node(group.nodes[0]);
        let Op::MatMul { trans_a, trans_b } = node.op else {
            unreachable!("the group starts with a product")
        };
        let output = self.node(group.root()).outputs[0];
        self.require_f32(node, &node.inputs)?;
        let weights =
            self.graph.constant(node.inputs[1]).expect("linear groups have constant weights").clone();
        let dims = weights.shape().clone();
        let matrix = Shape::new(&dims[dims.rank() - 2..]);
        let weights = if dims.rank() == 2 { weights } else { weights.reshaped(matrix) };
        let x = self.view(node.inputs[0]);
        let x = if trans_a { swap_last(&x) } else { x };
        let rows_order: Vec<usize> = (0..x.rank()).collect();
        let x = self.with_layout(x, &rows_order, |view| view.rows().is_some());
        let y = self.place(output, Need::Rows, None);
        let order: Vec<usize> = (0..y.rank()).collect();
        let kind = Weights::Matrix { transposed: trans_b, shape: weights.shape() };
        let mut reads = vec![self.operand(&x), self.packed(&weights, kind)];
        let epilogue = self.epilogue(tail.bias, tail, &mut reads, &y, View::rows, &order);
        let (in_c, out_c) = (x.dims[x.rank() - 1], y.dims[y.rank() - 1]);
        let rows = y.elements() / out_c.max(1);
        let spec = ConvSpec {
            batch: 1,
            in_hw: [1, rows],
            in_c,
            in_pixel_stride: x.rows().unwrap_or(in_c),
            out_hw: [1, rows],
            out_c,
            out_pixel_stride: y.rows().unwrap_or(out_c),
            kernel: [1, 1],
            strides: [1, 1],
            pads: [0, 0],
            dilations: [1, 1],
            groups: 1,
            panel_width: 0,
            normed: false,
            epilogue,
            tile_rows: 1,
            tile_columns: 1,
            columns_inner: true,
            splits: 1,
        };
        let (spec, work) = conv_work(spec);
        let writes = vec![self.operand(&y)];
        self.emit(self.contraction_label(None, tail, tail.bias.is_some()), work, spec, reads, writes);
        Ok(())
    }

    /// Name of a kernel with an epilogue, and perhaps a norm before it.
    fn contraction_label(&self, norm: Option<&Node>, tail: &Tail, bias: bool) -> String {
        let mut label = self.node(self.members[0]).name.clone();
        if norm.is_some() {
            label.push_str("+relu+conv");
        }
        if bias {
            label.push_str("+bias");
        }
        if tail.residual.is_some() {
            label.push_str("+residual");
        }
        if let Some(activation) = tail.activation {
            label.push('+');
            label.push_str(&super::short_name(&Op::Unary(activation)));
        }
        label
    }

    pub(super) fn matmul(&mut self, group: &Group, alpha: f32) -> Result<(), CompileError> {
        let mut nodes = group.nodes.iter().map(|&id| self.node(id));
        let node = nodes.find(|node| matches!(node.op, Op::MatMul { .. })).expect("the group has a product");
        let Op::MatMul { trans_a, trans_b } = node.op else { unreachable!("found as a product") };
        self.require_f32(node, &node.inputs)?;
        let output = self.node(group.root()).outputs[0];
        let (a, b) = (self.forward(node.inputs[0]), self.forward(node.inputs[1]));
        let a = if trans_a { swap_last(&a) } else { a };
        let b = if trans_b { swap_last(&b) } else { b };
        let y = self.place(output, Need::Inner, None);
        let rank = y.rank();
        let (m, n, k) = (y.dims[rank - 2], y.dims[rank - 1], a.dims[a.rank() - 1]);
        if k == 0 {
            self.fill(&y, DType::F32, 0.0, self.label());
            return Ok(());
        }
        let batched =
            |view: &View, last: [usize; 2]| view.broadcast(&[&y.dims[..rank - 2], &last[..]].concat());
        let (wide_a, wide_b) = (batched(&a, [m, k]), batched(&b, [k, n]));
        let order: Vec<usize> = y.order().into_iter().filter(|&axis| axis < rank - 2).collect();
        let stride = |stride: isize| stride.unsigned_abs();
        let batch: Vec<[usize; 4]> = nest(&[&y, &wide_a, &wide_b], &order)
            .into_iter()
            .map(|axis| {
                [axis.extent, stride(axis.strides[1]), stride(axis.strides[2]), stride(axis.strides[0])]
            })
            .collect();
        let planes: usize = batch.iter().map(|axis| axis[0]).product();
        let flops = 2.0 * (planes * m * n) as f64 * k as f64;
        let bytes = (planes * (m * k + k * n + m * n)) as f64 * 4.0;
        let pair = |view: &View| [rank - 2, rank - 1].map(|axis| stride(view.strides[axis]));
        let spec = MatMulSpec {
            batch,
            m,
            n,
            k,
            a_strides: pair(&wide_a),
            b_strides: pair(&wide_b),
            c_row_stride: if m == 1 { n } else { pair(&y)[0] },
            alpha,
            tile_rows: m.max(1),
            tile_columns: n.max(1),
        };
        let (reads, writes) = (vec![self.operand(&a), self.operand(&b)], vec![self.operand(&y)]);
        self.emit(self.label(), streams(flops, bytes), KernelSpec::MatMul(spec), reads, writes);
        Ok(())
    }

    pub(super) fn attention(
        &mut self,
        group: &Group,
        alpha: f32,
        mask: Option<(ValueId, Masking)>,
    ) -> Result<(), CompileError> {
        let is_product = |node: &&Node| matches!(node.op, Op::MatMul { .. });
        let products: Vec<&Node> = group.nodes.iter().map(|&id| self.node(id)).filter(is_product).collect();
        let [first, last] = products[..] else { unreachable!("attention has two products") };
        let view = |lowering: &mut Self, node: &Node, operand: usize| {
            let Op::MatMul { trans_a, trans_b } = node.op else { unreachable!("found as a product") };
            let view = lowering.forward(node.inputs[operand]);
            if [trans_a, trans_b][operand] { swap_last(&view) } else { view }
        };
        let (q, k, v) = (view(self, first, 0), view(self, first, 1), view(self, last, 1));
        let masking = mask.map(|mask| mask.1);
        let mask = mask.map(|mask| self.forward(mask.0));
        let y = self.place(last.outputs[0], Need::Inner, None);
        let rank = y.rank();
        let (m, width) = (y.dims[rank - 2], y.dims[rank - 1]);
        let (depth, n) = (q.dims[q.rank() - 1], k.dims[k.rank() - 1]);
        let wide = |view: &View, last: [usize; 2]| view.broadcast(&[&y.dims[..rank - 2], &last[..]].concat());
        let (wide_q, wide_k, wide_v) = (wide(&q, [m, depth]), wide(&k, [depth, n]), wide(&v, [n, width]));
        let wide_mask = mask.as_ref().map(|mask| wide(mask, [m, n]));
        let order: Vec<usize> = y.order().into_iter().filter(|&axis| axis < rank - 2).collect();
        let stride = |stride: isize| stride.unsigned_abs();
        let views = [&y, &wide_q, &wide_k, &wide_v, wide_mask.as_ref().unwrap_or(&wide_v)];
        let axis = |axis: super::nest::Axis| {
            let [y, q, k, v, mask] = [0, 1, 2, 3, 4].map(|view| stride(axis.strides[view]));
            [axis.extent, q, k, v, if wide_mask.is_some() { mask } else { 0 }, y]
        };
        let batch: Vec<[usize; 6]> = nest(&views, &order).into_iter().map(axis).collect();
        let planes: usize = batch.iter().map(|axis| axis[0]).product();
        let flops = 2.0 * (planes * m * n) as f64 * (depth + width) as f64;
        let bytes = (planes * (m * depth + n * (depth + width) + m * width)) as f64 * 4.0;
        let pair = |view: &View| [rank - 2, rank - 1].map(|axis| stride(view.strides[axis]));
        let spec = AttentionSpec {
            batch,
            m,
            n,
            depth,
            width,
            q_strides: pair(&wide_q),
            k_strides: pair(&wide_k),
            v_strides: pair(&wide_v),
            mask: masking.zip(wide_mask.as_ref().map(pair)),
            y_row_stride: if m == 1 { width } else { pair(&y)[0] },
            alpha,
            tile_rows: m.max(1),
        };
        let operands = [Some(&q), Some(&k), Some(&v), mask.as_ref()];
        let reads = operands.into_iter().flatten().map(|view| self.operand(view)).collect();
        let writes = vec![self.operand(&y)];
        self.emit(self.label(), streams(flops, bytes), KernelSpec::Attention(spec), reads, writes);
        Ok(())
    }

    /// A value's view, or a copy when an axis runs backwards.
    pub(super) fn forward(&mut self, id: ValueId) -> View {
        let view = self.view(id);
        let order: Vec<usize> = (0..view.rank()).collect();
        self.with_layout(view, &order, View::is_forward)
    }

    pub(super) fn pool(&mut self, node: &Node, attrs: &PoolAttrs) -> Result<(), CompileError> {
        let dtype = self.graph.value(node.inputs[0]).dtype;
        let of_bytes = matches!(dtype, DType::U8 | DType::I8) && self.cutter.has_integer_pools();
        if !of_bytes || attrs.kind != PoolKind::Max {
            self.require_f32(node, &node.inputs)?;
        }
        let x = self.view(node.inputs[0]);
        let x = self.with_layout(x, &NHWC, |view| view.image().is_some());
        let y = self.place(node.outputs[0], Need::Image, None);
        let flops = (y.elements() * attrs.kernel[0] * attrs.kernel[1]) as f64;
        let work = streams(flops, ((x.elements() + y.elements()) * dtype.bytes()) as f64);
        let spec = PoolSpec {
            kind: attrs.kind,
            dtype,
            batch: x.dims[0],
            channels: x.dims[1],
            in_hw: [x.dims[2], x.dims[3]],
            in_pixel_stride: x.image().unwrap_or(x.dims[1]),
            out_hw: [y.dims[2], y.dims[3]],
            out_pixel_stride: y.image().unwrap_or(y.dims[1]),
            kernel: attrs.kernel,
            strides: attrs.strides,
            pads: attrs.pads,
            dilations: attrs.dilations,
            tile_rows: (y.dims[0] * y.dims[2]).max(1),
        };
        let (reads, writes) = (vec![self.operand(&x)], vec![self.operand(&y)]);
        self.emit(self.label(), work, KernelSpec::Pool(spec), reads, writes);
        Ok(())
    }
}

/// A convolution in one piece, and its work.
pub(super) fn conv_work(spec: ConvSpec) -> (KernelSpec, Work) {
    let inputs = spec.batch * spec.in_hw[0] * spec.in_hw[1] * spec.in_c;
    let norms = if spec.normed { 3.0 * inputs as f64 } else { 0.0 };
    let flops = 2.0 * (spec.rows() * spec.out_c) as f64 * spec.depth() as f64 + norms;
    let elements = inputs + spec.out_c * spec.depth() + spec.rows() * spec.out_c;
    (KernelSpec::Conv(spec).whole(), streams(flops, words(elements)))
}

/// The view with its last two axes swapped.
fn swap_last(view: &View) -> View {
    let rank = view.rank();
    let perm: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
    view.permute(&perm)
}
