//! Groups become kernels over numbered buffers; where the buffers lie is decided later.
//!
//! A kernel is made in one piece; the device's cutter cuts it when it is added.
//!
//! Every value gets a view. A kernel that cannot read a view's strides reads a copy, which is made once per
//! view and layout.

mod along;
mod contract;
mod elementwise;
mod indexed;
mod integer;
mod movement;
mod nest;
mod packed;
mod program;
mod recurrent;
mod rows;
pub(crate) mod selection;
mod trees;
mod vision;

use std::collections::HashMap;
use std::sync::Arc;

use reef_graph::{DType, Graph, Node, NodeId, Op, Tensor, ValueId, ValueKind};
use reef_plan::{
    Cost, Cutter, HostKernel, KernelSpec, Packing, RegisterKind, Restart, WeightRef, WeightStore, Weights,
    Work,
};

use crate::error::CompileError;
use crate::groups::{Group, Kind};
use crate::layout::{Layouts, Need};
use crate::view::{BufId, Operand, View};

/// What a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BufKind {
    /// The request's input with this index.
    Input(usize),
    /// The request's output with this index.
    Output(usize),
    /// A part of the task's arena.
    Arena,
    /// The plan's packed constant with this index.
    Weight(usize),
}

/// A buffer of the plan that is being made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    /// What it is.
    pub kind: BufKind,
    /// Its length.
    pub bytes: usize,
    /// Elements from one row of columns to the next, when kernels write columns of it.
    pub pitch: Option<usize>,
}

/// A kernel whose operands have no address yet.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// Name for people.
    pub name: String,
    /// The nodes of the model that it computes.
    pub nodes: Vec<String>,
    /// What it computes.
    pub spec: KernelSpec,
    /// What it reads.
    pub reads: Vec<Operand>,
    /// What it writes.
    pub writes: Vec<Operand>,
    /// Whether its blocks may be killed.
    pub restart: Restart,
    /// Its work.
    pub cost: Cost,
    /// Estimated nanoseconds on one compute unit.
    pub ns: f64,
}

/// Kernels in an order in which they may run one by one, and what they work on.
#[derive(Debug, Default)]
pub(crate) struct Lowered {
    /// The kernels.
    pub drafts: Vec<Draft>,
    /// The buffers.
    pub buffers: Vec<Buffer>,
    /// Packed constants.
    pub weights: Vec<WeightRef>,
}

/// Lowers `groups` of `graph`, in order.
pub(crate) fn lower(
    graph: &Graph,
    groups: &[Group],
    layouts: Layouts,
    host_kernels: &[Arc<dyn HostKernel>],
    store: &Arc<WeightStore>,
    cutter: &dyn Cutter,
) -> Result<Lowered, CompileError> {
    let mut lowering = Lowering {
        graph,
        layouts,
        host_kernels,
        store,
        cutter,
        lowered: Lowered::default(),
        views: vec![None; graph.values.len()],
        weight_buffers: HashMap::new(),
        copies: HashMap::new(),
        root_views: HashMap::new(),
        copied_leaves: HashMap::new(),
        members: Vec::new(),
    };
    lowering.add_inputs();
    for group in groups {
        lowering.group(group)?;
    }
    lowering.add_outputs();
    lowering.ensure_work();
    Ok(lowering.lowered)
}

struct Lowering<'a> {
    graph: &'a Graph,
    layouts: Layouts,
    host_kernels: &'a [Arc<dyn HostKernel>],
    store: &'a Arc<WeightStore>,
    cutter: &'a dyn Cutter,
    lowered: Lowered,
    views: Vec<Option<View>>,
    weight_buffers: HashMap<(reef_graph::ConstKey, Packing), BufId>,
    /// Copies of views in other layouts.
    copies: HashMap<(View, Vec<usize>), View>,
    /// For every root, the view of its buffer once there is one.
    root_views: HashMap<usize, View>,
    /// Parts of roots that were copied.
    copied_leaves: HashMap<(usize, usize), ()>,
    /// Nodes of the group that is being lowered.
    members: Vec<NodeId>,
}

impl<'a> Lowering<'a> {
    fn add_inputs(&mut self) {
        for (index, &id) in self.graph.inputs.iter().enumerate() {
            let value = self.graph.value(id);
            let bytes = value.shape.elements() * value.dtype.bytes();
            let buf = self.buffer(BufKind::Input(index), bytes);
            self.views[id.index()] = Some(View::dense(buf, value.dtype, &value.shape));
        }
    }

    /// Copies to the request's outputs what was not made there.
    fn add_outputs(&mut self) {
        for (index, &id) in self.graph.outputs.iter().enumerate() {
            let source = self.view(id);
            if self.lowered.buffers[source.buf].kind == BufKind::Output(index) && source.is_dense() {
                continue;
            }
            let bytes = source.elements() * source.dtype.bytes();
            let buf = self.buffer(BufKind::Output(index), bytes);
            let target = View::dense(buf, source.dtype, &source.dims);
            self.members.clear();
            self.copy(&source, &target, format!("output {}", self.graph.output_names[index]));
        }
    }

    /// A kernel of one element that nothing reads, when there is nothing to compute: every output is empty. A
    /// plan always has a stage, so devices, with their hot paths, need not know of tasks without one.
    fn ensure_work(&mut self) {
        if self.lowered.drafts.is_empty() {
            self.members.clear();
            let buf = self.buffer(BufKind::Arena, DType::F32.bytes());
            self.fill(&View::dense(buf, DType::F32, &[1]), DType::F32, 0.0, "nothing to compute".into());
        }
    }

    fn group(&mut self, group: &Group) -> Result<(), CompileError> {
        self.members = group.nodes.clone();
        let root = self.node(group.root());
        let empty = |id: &ValueId| self.graph.value(*id).shape.elements() == 0;
        if root.outputs.iter().all(empty) {
            root.outputs.iter().for_each(|&id| drop(self.place(id, Need::Dense, None)));
            return Ok(());
        }
        match &group.kind {
            Kind::Conv(norm, tail) => self.conv(group, *norm, tail),
            Kind::Linear(tail) => self.linear(group, tail),
            Kind::IntegerConv(tail) => self.integer_conv(group, tail),
            Kind::IntegerLinear(tail) => self.integer_linear(group, tail),
            Kind::IntegerMatMul(tail) => self.integer_matmul(group, tail),
            Kind::MatMul(alpha) => self.matmul(group, *alpha),
            Kind::Attention(alpha, mask) => self.attention(group, *alpha, *mask),
            Kind::Alias(source) => {
                self.views[root.outputs[0].index()] = Some(self.view(*source));
                Ok(())
            }
            Kind::Elementwise => self.elementwise(group),
            Kind::LayerNorm(sum) => self.layer_norm(root, *sum),
            Kind::Single => self.single(root),
        }
    }

    fn single(&mut self, node: &Node) -> Result<(), CompileError> {
        match &node.op {
            Op::Pool(attrs) => self.pool(node, attrs),
            Op::Reduce { reduce, axes, .. }
                if RegisterKind::of(self.graph.value(node.inputs[0]).dtype) != RegisterKind::Single =>
            {
                self.fold(node, *reduce, axes)
            }
            Op::Reduce { reduce, axes, .. } => self.reduce(node, *reduce, axes),
            Op::Softmax { axis } => self.softmax(node, *axis, false),
            Op::LogSoftmax { axis } => self.softmax(node, *axis, true),
            Op::Concat { .. } => {
                self.concat(node);
                Ok(())
            }
            Op::Gather { axis } => self.gather(node, *axis),
            Op::Take(picks) => self.take(node, *picks),
            Op::Put(picks, putting) => self.put(node, *picks, *putting),
            Op::MaxPool(windows) => self.max_pool(node, windows),
            Op::Resample { axis, taps } => self.resample(node, *axis, taps),
            Op::Pad { pads, value } => {
                self.pad(node, pads, *value);
                Ok(())
            }
            Op::Recurrent(attrs) => self.recurrent(node, attrs),
            Op::Along { along, axis } => self.along(node, *along, *axis),
            Op::Selection(selection) => self.selection(node, selection),
            Op::MatMulPacked(weights) => self.packed_product(node, *weights),
            Op::TreeEnsemble(aggregate) => self.trees(node, *aggregate),
            Op::Vision(vision) => self.vision(node, vision),
            Op::Host(host) => self.host(node, host.index),
            Op::Slice { .. } | Op::Transpose { .. } | Op::Reshape | Op::Expand | Op::BitCast { .. } => {
                self.make_view(node);
                Ok(())
            }
            Op::ConvInteger(..) | Op::MatMulInteger(_) => {
                Err(CompileError::unsupported(node, self.flaw_of_integers(node)))
            }
            _ => Err(CompileError::unsupported(node, "no kernel computes it")),
        }
    }

    fn node(&self, id: NodeId) -> &'a Node {
        &self.graph.nodes[id.index()]
    }

    fn buffer(&mut self, kind: BufKind, bytes: usize) -> BufId {
        self.lowered.buffers.push(Buffer { kind, bytes, pitch: None });
        self.lowered.buffers.len() - 1
    }

    /// The buffer of a packed constant.
    fn weight(&mut self, tensor: &Tensor, packing: Packing) -> (BufId, Operand) {
        let buf = match self.weight_buffers.get(&(tensor.key(), packing)) {
            Some(&buf) => buf,
            None => {
                let weight = self.store.insert(tensor, packing);
                let buf = self.buffer(BufKind::Weight(self.lowered.weights.len()), weight.bytes);
                self.lowered.weights.push(weight);
                self.weight_buffers.insert((tensor.key(), packing), buf);
                buf
            }
        };
        let bytes = self.lowered.buffers[buf].bytes;
        (buf, Operand { buf, offset: 0, bytes, lane: None })
    }

    /// Weights, packed as the device wants them.
    fn packed(&mut self, tensor: &Tensor, weights: Weights<'_>) -> Operand {
        self.weight(tensor, self.cutter.packing(weights)).1
    }

    /// Where a value lies.
    fn view(&mut self, id: ValueId) -> View {
        if let ValueKind::Const(tensor) = &self.graph.value(id).kind {
            let (buf, _) = self.weight(tensor, Packing::Raw);
            return View::dense(buf, tensor.dtype(), tensor.shape());
        }
        self.views[id.index()].clone().expect("groups are lowered in an order in which operands are ready")
    }

    /// A new view for a value that a kernel with this demand is going to write; `like` breaks ties.
    fn place(&mut self, id: ValueId, need: Need, like: Option<Vec<usize>>) -> View {
        if let Some(&(root, part)) = self.layouts.homes.get(&id) {
            let view = self.leaf_view(root, part);
            self.views[id.index()] = Some(view.clone());
            return view;
        }
        let value = self.graph.value(id);
        let natural = || (0..value.shape.rank()).collect();
        let wanted = self.layouts.orders[id.index()].clone().or(like).unwrap_or_else(natural);
        let order = need.order(wanted, &value.shape);
        let view = self.allocate(id, &order);
        self.views[id.index()] = Some(view.clone());
        view
    }

    /// A buffer for all of a value: the request's output when that has the same bytes.
    fn allocate(&mut self, id: ValueId, order: &[usize]) -> View {
        let value = self.graph.value(id);
        let mut view = View::ordered(0, value.dtype, &value.shape, order);
        let kind = match self.layouts.output_of[id.index()] {
            Some(index) if view.is_dense() => BufKind::Output(index),
            _ => BufKind::Arena,
        };
        view.buf = self.buffer(kind, value.shape.elements() * value.dtype.bytes());
        view
    }

    /// The view of a part of a root's buffer.
    fn leaf_view(&mut self, root: usize, part: usize) -> View {
        let whole = self.root_view(root);
        let decided = &self.layouts.roots[root];
        let extent = self.graph.value(decided.leaves[part]).shape[decided.axis];
        whole.slice(decided.axis, decided.begins[part], extent, 1)
    }

    /// The view of a root's buffer, made when it is first needed.
    fn root_view(&mut self, root: usize) -> View {
        if let Some(view) = self.root_views.get(&root) {
            return view.clone();
        }
        let decided = self.layouts.roots[root].clone();
        let order = self.layouts.root_order(self.graph, &decided);
        let view = self.allocate(decided.value, &order);
        let pitch = view.strides[decided.axis].unsigned_abs() * view.dims[decided.axis];
        self.lowered.buffers[view.buf].pitch = Some(pitch);
        self.root_views.insert(root, view.clone());
        view
    }

    fn operand(&self, view: &View) -> Operand {
        view.operand(self.lowered.buffers[view.buf].pitch)
    }

    /// The view itself when it will do, else a dense copy with its axes in `order`.
    fn with_layout(&mut self, view: View, order: &[usize], will_do: impl Fn(&View) -> bool) -> View {
        if will_do(&view) || view.elements() == 0 {
            return view;
        }
        if let Some(copy) = self.copies.get(&(view.clone(), order.to_vec())) {
            return copy.clone();
        }
        let mut copy = View::ordered(0, view.dtype, &view.dims, order);
        copy.buf = self.buffer(BufKind::Arena, view.elements() * view.dtype.bytes());
        self.copy(&view, &copy, format!("{}: layout", self.label()));
        self.copies.insert((view, order.to_vec()), copy.clone());
        copy
    }

    /// The view as dense row-major elements.
    fn dense(&mut self, view: View) -> View {
        let order: Vec<usize> = (0..view.rank()).collect();
        self.with_layout(view, &order, View::is_dense)
    }

    /// Name of the group that is being lowered: its first node and what was fused to it.
    fn label(&self) -> String {
        let mut names = self.members.iter().map(|&id| self.node(id));
        let Some(first) = names.next() else { return "output".into() };
        names.fold(first.name.clone(), |label, node| format!("{label}+{}", short_name(&node.op)))
    }

    /// Adds a kernel that computes the current group, unless it has nothing to do. `spec` is in one piece.
    fn emit(
        &mut self,
        name: String,
        work: Work,
        spec: KernelSpec,
        reads: Vec<Operand>,
        writes: Vec<Operand>,
    ) {
        if spec.blocks() == 0 {
            return;
        }
        // As text: a NaN is not equal to itself.
        let meaning = format!("{spec:?}");
        let spec = self.cutter.cut(spec, &work);
        assert_eq!(format!("{:?}", spec.clone().whole()), meaning, "a cut of {name} means what it meant");
        let ns = self.cutter.kernel_ns(&spec, &work);
        let restart = if matches!(spec, KernelSpec::Host(_)) { Restart::Never } else { Restart::Safe };
        let bytes: usize = reads.iter().chain(&writes).map(touched_bytes).sum();
        let cost = Cost { flops: work.flops as u64, bytes: bytes as u64 };
        let nodes = self.members.iter().map(|&id| self.node(id).name.clone()).collect();
        self.lowered.drafts.push(Draft { name, nodes, spec, reads, writes, restart, cost, ns });
    }

    fn require_f32(&self, node: &Node, ids: &[ValueId]) -> Result<(), CompileError> {
        for &id in ids {
            let value = self.graph.value(id);
            if value.dtype != DType::F32 {
                let reason = format!("computes in f32, operand {} is {}", value.name, value.dtype);
                return Err(CompileError::unsupported(node, reason));
            }
        }
        Ok(())
    }
}

/// Work of a kernel that reads and writes its operands in order.
fn streams(flops: f64, bytes: f64) -> Work {
    Work { flops, bytes, scattered: false }
}

/// Bytes of so many elements of four bytes.
fn words(elements: usize) -> f64 {
    elements as f64 * 4.0
}

/// Bytes that belong to an operand.
fn touched_bytes(operand: &Operand) -> usize {
    match operand.lane {
        Some(lane) => operand.bytes.div_ceil(lane.stride) * lane.width,
        None => operand.bytes,
    }
}

fn short_name(op: &Op) -> String {
    let name = match op {
        Op::Unary(function) => format!("{function:?}"),
        Op::Binary(function) => format!("{function:?}"),
        _ => op.name().to_string(),
    };
    name.split('(').next().unwrap_or_default().to_lowercase()
}
