//! Element-wise kernels: chains of nodes, copies, fills.

use reef_graph::{Node, Op, Unary, ValueId};
use reef_plan::{ElemInput, ElemOp, ElementwiseSpec, KernelSpec, RegisterKind, Work};

use super::Lowering;
use super::nest::nest;
use super::program::Program;
use crate::error::CompileError;
use crate::groups::Group;
use crate::layout::Need;
use crate::view::View;

impl Lowering<'_> {
    pub(super) fn elementwise(&mut self, group: &Group) -> Result<(), CompileError> {
        let root = self.node(group.root());
        let output = root.outputs[0];
        let dims = &self.graph.value(output).shape;
        let mut program = Program::new(self.graph, dims);
        for &id in &group.nodes {
            let node = self.node(id);
            if node.op == Op::ScaleShift {
                self.require_f32(node, &node.inputs)?;
            }
            program.node(node, &mut |id: ValueId| self.operand_of(node, id))?;
        }
        program.finish(output);
        let full = |view: &&View| view.is_injective() && view.is_forward() && view.rank() > 1;
        let like = program.inputs.iter().find(full).map(View::order);
        let y = self.place(output, Need::Any, like);
        self.program(self.label(), &y, &program.inputs, program.code);
        Ok(())
    }

    /// Where an operand of an element-wise node lies. Scales by block are there for every element.
    fn operand_of(&mut self, node: &Node, id: ValueId) -> View {
        let view = self.view(id);
        match &node.op {
            Op::Quantize(how) | Op::Dequantize(how) if how.block > 0 && node.inputs[1..].contains(&id) => {
                let shape = &self.graph.value(node.inputs[0]).shape;
                self.by_element(how, shape, view)
            }
            _ => view,
        }
    }

    /// Adds a kernel that runs `code` over the elements of `y`.
    pub(super) fn program(&mut self, name: String, y: &View, inputs: &[View], code: Vec<ElemOp>) {
        let views: Vec<&View> = [y].into_iter().chain(inputs).collect();
        let axes = nest(&views, &y.order());
        let mut dims: Vec<usize> = axes.iter().map(|axis| axis.extent).collect();
        let mut out_strides: Vec<usize> = axes.iter().map(|axis| axis.strides[0].unsigned_abs()).collect();
        let mut in_strides: Vec<Vec<isize>> =
            (1..views.len()).map(|input| axes.iter().map(|axis| axis.strides[input]).collect()).collect();
        if dims.is_empty() {
            (dims, out_strides) = (vec![1], vec![1]);
            in_strides.iter_mut().for_each(|strides| strides.push(0));
        }
        let inputs_spec = inputs
            .iter()
            .zip(in_strides)
            .map(|(view, strides)| ElemInput {
                dtype: view.dtype,
                offset: view.offset - view.span().0,
                strides,
            })
            .collect();
        let spec = ElementwiseSpec {
            dims,
            inputs: inputs_spec,
            program: code,
            out_dtype: y.dtype,
            out_strides,
            tile: y.elements().max(1),
        };
        let work = program_work(y, inputs, &spec);
        let reads = inputs.iter().map(|view| self.operand(view)).collect();
        let writes = vec![self.operand(y)];
        self.emit(name, work, KernelSpec::Elementwise(spec), reads, writes);
    }
}

fn program_work(y: &View, inputs: &[View], spec: &ElementwiseSpec) -> Work {
    // The validator refuses a program of which no kinds are known.
    let kinds = spec.kinds().unwrap_or_default();
    let per_element: f64 = spec.program.iter().zip(kinds).map(|(op, kind)| operations(op, kind)).sum();
    let touched = |view: &View| {
        let (first, end) = view.span();
        ((end - first).min(view.elements()) * view.dtype.bytes()) as f64
    };
    Work {
        flops: per_element * y.elements() as f64,
        bytes: touched(y) + inputs.iter().map(touched).sum::<f64>(),
        scattered: inputs.iter().any(|view| view.is_injective() && view.order() != y.order()),
    }
}

/// Simple operations that an instruction with a result of this kind takes for one element.
fn operations(op: &ElemOp, kind: RegisterKind) -> f64 {
    use reef_graph::Binary::{Div, Mod, Pow, Rem};
    let operations = match op {
        ElemOp::ConstF32(_) | ElemOp::ConstF64(_) | ElemOp::ConstI64(_) => 0.0,
        ElemOp::Unary(function, _) => match function {
            // A series, term by term.
            Unary::Erf | Unary::Gelu if kind == RegisterKind::Double => 1000.0,
            Unary::Relu
            | Unary::LeakyRelu(_)
            | Unary::Clip(..)
            | Unary::HardSigmoid(..)
            | Unary::HardSwish => 2.0,
            Unary::Abs | Unary::Neg | Unary::Square | Unary::Not | Unary::Sign => 1.0,
            Unary::Floor | Unary::Ceil | Unary::Round | Unary::Recip => 1.0,
            Unary::Sqrt | Unary::Rsqrt => 8.0,
            Unary::Sin | Unary::Cos => 20.0,
            // Element by element.
            Unary::Tan | Unary::Asin | Unary::Acos | Unary::Atan => 80.0,
            Unary::Sinh | Unary::Cosh | Unary::Asinh | Unary::Acosh | Unary::Atanh => 120.0,
            _ => 20.0,
        },
        ElemOp::Narrow(..) => 8.0,
        ElemOp::Binary(Pow, ..) => 40.0,
        ElemOp::Binary(Mod | Rem, ..) if kind.is_float() => 40.0,
        ElemOp::Binary(Div | Mod | Rem, ..) => 4.0,
        _ => 1.0,
    };
    // Doubles are computed one by one.
    if kind == RegisterKind::Double { 2.0 * operations + 8.0 } else { operations }
}
