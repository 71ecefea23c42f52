//! Recurrent networks: every cell and attribute, interpreted and on the CPU, against the graph's meaning.

mod harness;

use std::sync::Arc;

use harness::Builder;
use reef_compile::{CompileError, CompileOptions, compile};
use reef_graph::{Binary, Cell, DType, Direction, GateFunction, Op, RecurrentAttrs, Shape, Tensor, ValueId};
use reef_plan::{Cutter, KernelSpec, Packing, RecurrentSpec, Target, WeightStore, Weights, Work};

const LSTM: Cell = Cell::Lstm { input_forget: false };
const CELLS: [Cell; 5] = [
    LSTM,
    Cell::Lstm { input_forget: true },
    Cell::Gru { linear_before_reset: false },
    Cell::Gru { linear_before_reset: true },
    Cell::Rnn,
];

/// The functions that a cell has when none are named.
fn usual(cell: Cell) -> Vec<GateFunction> {
    use GateFunction::{Sigmoid, Tanh};
    match cell {
        Cell::Lstm { .. } => vec![Sigmoid, Tanh, Tanh],
        Cell::Gru { .. } => vec![Sigmoid, Tanh],
        Cell::Rnn => vec![Tanh],
    }
}

/// A network without anything optional.
fn plain(cell: Cell, hidden: usize, reverse: &[bool]) -> RecurrentAttrs {
    let direction = |&reverse: &bool| Direction { reverse, functions: usual(cell) };
    RecurrentAttrs {
        cell,
        directions: reverse.iter().map(direction).collect(),
        hidden,
        clip: None,
        bias: false,
        lengths: false,
        initial_h: false,
        initial_c: false,
        peepholes: false,
        integers: false,
    }
}

/// With everything optional that the cell can have.
fn full(cell: Cell, hidden: usize, reverse: &[bool]) -> RecurrentAttrs {
    let memory = cell.has_memory();
    RecurrentAttrs {
        bias: true,
        lengths: true,
        initial_h: true,
        initial_c: memory,
        peepholes: memory,
        ..plain(cell, hidden, reverse)
    }
}

/// A constant of moderate numbers, so that states neither explode nor are all the same.
fn moderate(b: &mut Builder, dims: &[usize]) -> ValueId {
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|_| 0.4 * b.rng.normal_f32()).collect();
    b.graph.add_const(format!("c{}", b.graph.values.len()), Tensor::f32(Shape::new(dims), &values))
}

/// Adds the network over an input `[steps, batch, width]`; lengths are constants that fall from `steps` to 0.
fn add(b: &mut Builder, attrs: &RecurrentAttrs, [steps, batch, width]: [usize; 3]) -> Vec<ValueId> {
    let x = b.input(&[steps, batch, width]);
    add_to(b, attrs, x)
}

fn add_to(b: &mut Builder, attrs: &RecurrentAttrs, x: ValueId) -> Vec<ValueId> {
    add_with(b, attrs, x, 0)
}

/// The same with those of the parameters (W, R, biases, peepholes) computed whose bit is set.
fn add_with(b: &mut Builder, attrs: &RecurrentAttrs, x: ValueId, computed: u32) -> Vec<ValueId> {
    let [steps, batch, width] = b.shape(x)[..] else { panic!("three axes") };
    let (count, hidden, rows) = (attrs.directions.len(), attrs.hidden, attrs.cell.gates() * attrs.hidden);
    let parameter = |b: &mut Builder, at: u32, dims: &[usize]| match computed >> at & 1 == 1 {
        false => moderate(b, dims),
        true => {
            let (given, factor) = (b.input(dims), b.scalar(0.4));
            b.node(Op::Binary(Binary::Mul), &[given, factor], dims)
        }
    };
    let w = parameter(b, 0, &[count, rows, width]);
    let mut inputs = vec![x, w, parameter(b, 1, &[count, rows, hidden])];
    if attrs.bias {
        inputs.push(parameter(b, 2, &[count, 2 * rows]));
    }
    if attrs.lengths {
        let length = |row: usize| (steps - (row * steps.div_ceil(2)).min(steps)) as i32;
        let lengths: Vec<i32> = (0..batch).map(length).collect();
        let lengths = Tensor::from_slice(DType::I32, [batch].into(), &lengths);
        inputs.push(b.graph.add_const("lengths", lengths));
    }
    for there in [attrs.initial_h, attrs.initial_c] {
        if there {
            inputs.push(b.input(&[count, batch, hidden]));
        }
    }
    if attrs.peepholes {
        inputs.push(parameter(b, 3, &[count, 3 * hidden]));
    }
    connect(b, attrs, &inputs)
}

fn connect(b: &mut Builder, attrs: &RecurrentAttrs, inputs: &[ValueId]) -> Vec<ValueId> {
    let fact = |id: &ValueId| (b.graph.value(*id).dtype, b.graph.value(*id).shape.clone());
    let outputs = attrs.outputs(&inputs.iter().map(fact).collect::<Vec<_>>()).unwrap();
    let name = format!("{}{}", attrs.cell.name().to_lowercase(), b.graph.nodes.len());
    b.graph.add_node_multi(name, Op::Recurrent(attrs.clone()), inputs, outputs)
}

fn check(what: &str, attrs: &RecurrentAttrs, dims: [usize; 3]) {
    let mut b = Builder::new();
    let outputs = add(&mut b, attrs, dims);
    b.check(&format!("{what}: {attrs:?} over {dims:?}"), &outputs);
}

#[test]
fn every_cell_in_every_direction_of_odd_sizes() {
    for cell in CELLS {
        for reverse in [&[false][..], &[true], &[false, true], &[true, true]] {
            for [steps, batch, width, hidden] in [[5, 3, 7, 9], [3, 1, 4, 40], [1, 2, 1, 1], [2, 13, 5, 33]] {
                check("plain", &plain(cell, hidden, reverse), [steps, batch, width]);
                check("full", &full(cell, hidden, reverse), [steps, batch, width]);
            }
        }
    }
}

#[test]
fn parameters_that_are_computed() {
    for cell in CELLS {
        for reverse in [&[false][..], &[true, false]] {
            for [steps, batch, width, hidden] in [[5, 3, 7, 9], [1, 2, 1, 1], [2, 5, 6, 33], [2, 1, 3, 32]] {
                let all = |attrs: RecurrentAttrs, computed: u32| {
                    let mut b = Builder::new();
                    let x = b.input(&[steps, batch, width]);
                    let outputs = add_with(&mut b, &attrs, x, computed);
                    b.check(&format!("computed {computed:b}: {attrs:?} of {width} by {batch}"), &outputs);
                };
                all(plain(cell, hidden, reverse), 0b11);
                all(full(cell, hidden, reverse), 0b1111);
            }
            for computed in 1..15 {
                let mut b = Builder::new();
                let x = b.input(&[3, 2, 4]);
                let outputs = add_with(&mut b, &full(cell, 5, reverse), x, computed);
                b.check(&format!("computed {computed:b} of {cell:?}"), &outputs);
            }
        }
    }
}

/// Adds an LSTM whose weights are integers over sums that are an input.
fn add_integers(
    b: &mut Builder,
    attrs: &RecurrentAttrs,
    dtype: DType,
    [steps, batch]: [usize; 2],
) -> Vec<ValueId> {
    let (count, hidden) = (attrs.directions.len(), attrs.hidden);
    let rows = attrs.cell.gates() * hidden;
    let sums = b.input(&[steps, batch, count * rows]);
    let bytes = |b: &mut Builder, dims: &[usize], spread: f32| {
        let count: usize = dims.iter().product();
        let values: Vec<u8> = (0..count).map(|_| (spread * b.rng.normal_f32()) as i32 as u8).collect();
        let tensor = Tensor::from_slice(dtype, Shape::new(dims), &values);
        b.graph.add_const(format!("c{}", b.graph.values.len()), tensor)
    };
    let mut inputs = vec![sums, bytes(b, &[count, rows, hidden], 30.0)];
    let scales: Vec<f32> = (0..count * rows).map(|at| 0.002 + 0.0001 * (at % 7) as f32).collect();
    inputs.push(b.graph.add_const("scales", Tensor::f32([count, rows], &scales)));
    inputs.push(bytes(b, &[count, rows], 5.0));
    if attrs.bias {
        inputs.push(moderate(b, &[count, 2 * rows]));
    }
    for there in [attrs.initial_h, attrs.initial_c] {
        if there {
            inputs.push(b.input(&[count, batch, hidden]));
        }
    }
    if attrs.peepholes {
        inputs.push(moderate(b, &[count, 3 * hidden]));
    }
    connect(b, attrs, &inputs)
}

#[test]
fn weights_of_integers() {
    for reverse in [&[false][..], &[true], &[false, true]] {
        for dtype in [DType::I8, DType::U8] {
            for [steps, batch, hidden] in [[5, 3, 9], [3, 1, 40], [1, 2, 1], [2, 13, 33], [0, 2, 5]] {
                let plain = RecurrentAttrs { integers: true, ..plain(LSTM, hidden, reverse) };
                let full = RecurrentAttrs { integers: true, ..full(LSTM, hidden, reverse) };
                let full = RecurrentAttrs { lengths: false, ..full };
                for attrs in [plain, full] {
                    let mut b = Builder::new();
                    let outputs = add_integers(&mut b, &attrs, dtype, [steps, batch]);
                    b.check(&format!("{dtype}: {attrs:?} over {steps} steps of {batch}"), &outputs);
                }
            }
        }
    }
}

#[test]
fn every_operand_that_may_be_absent() {
    for cell in CELLS {
        for there in 0..1u32 << 5 {
            let is = |bit: u32| there >> bit & 1 == 1;
            let (initial_c, peepholes) = (is(3), is(4));
            if !cell.has_memory() && (initial_c || peepholes) {
                continue;
            }
            let (bias, lengths, initial_h) = (is(0), is(1), is(2));
            let some = plain(cell, 6, &[false, true]);
            let attrs = RecurrentAttrs { bias, lengths, initial_h, initial_c, peepholes, ..some };
            check("some", &attrs, [4, 3, 5]);
        }
    }
}

#[test]
fn every_function_and_clip() {
    use GateFunction::*;
    let functions = [
        Sigmoid,
        Tanh,
        Relu,
        Affine { alpha: 0.7, beta: -0.2 },
        LeakyRelu { alpha: 0.1 },
        ThresholdedRelu { alpha: 0.3 },
        ScaledTanh { alpha: 1.2, beta: 0.6 },
        HardSigmoid { alpha: 0.2, beta: 0.5 },
        Elu { alpha: 0.8 },
        Softsign,
        Softplus,
    ];
    for cell in CELLS {
        for at in 0..functions.len() {
            let own = |shift: usize| {
                (0..cell.functions()).map(move |place| functions[(at + shift + 3 * place) % functions.len()])
            };
            for clip in [None, Some(0.5), Some(0.0)] {
                let direction = |reverse, shift| Direction { reverse, functions: own(shift).collect() };
                let directions = vec![direction(false, 0), direction(true, 5)];
                let attrs = RecurrentAttrs { directions, clip, ..full(cell, 11, &[]) };
                check("functions", &attrs, [3, 2, 4]);
            }
        }
        // The usual ones, clipped.
        check("clip", &RecurrentAttrs { clip: Some(0.3), ..full(cell, 11, &[true]) }, [3, 2, 4]);
    }
}

#[test]
fn outputs_that_nobody_reads_are_not_made() {
    for cell in CELLS {
        let count = if cell.has_memory() { 3 } else { 2 };
        for chosen in 1..1u32 << count {
            let mut b = Builder::new();
            let outputs = add(&mut b, &full(cell, 7, &[false, true]), [3, 2, 4]);
            let chosen: Vec<ValueId> =
                (0..count).filter(|at| chosen >> at & 1 == 1).map(|at| outputs[at]).collect();
            chosen.iter().for_each(|&id| b.output(id));
            let plan = harness::plan(&b.graph);
            let written = |kernel: &reef_plan::Kernel| match &kernel.spec {
                KernelSpec::Recurrent(_) => Some(kernel.writes.len()),
                _ => None,
            };
            let written: Vec<usize> = plan.kernels().iter().filter_map(written).collect();
            assert_eq!(written, [chosen.len(); 2], "{plan}");
            harness::check(&format!("{} of {cell:?}", chosen.len()), &b.graph);
        }
    }
}

/// As models have them: a network over the result of another one, turned about and sliced.
#[test]
fn networks_behind_networks() {
    let mut b = Builder::new();
    let first = add(&mut b, &full(LSTM, 10, &[false, true]), [4, 3, 6]);
    let turned = b.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[first[0]], &[4, 3, 2, 10]);
    let flat = b.node(Op::Reshape, &[turned], &[4, 3, 20]);
    let second = add_to(&mut b, &plain(CELLS[3], 5, &[false, true]), flat);
    let last = b.node(Op::Slice { axis: 1, begin: 1, end: 2, step: 1 }, &[second[0]], &[4, 1, 3, 5]);
    let joined = b.node(Op::Concat { axis: 0 }, &[second[1], second[1]], &[4, 3, 5]);
    b.check("two networks", &[last, joined, first[2]]);
}

#[test]
fn sequences_without_steps_and_batches_without_sequences() {
    for cell in CELLS {
        check("no steps", &plain(cell, 5, &[false, true]), [0, 3, 4]);
        let attrs = RecurrentAttrs { lengths: false, ..full(cell, 5, &[false, true]) };
        check("no steps, states given", &attrs, [0, 3, 4]);
        check("no sequences", &attrs, [4, 0, 3]);
    }
}

/// The CPU's cutter, but for how many steps are one kernel and who runs it.
#[derive(Debug)]
struct Runs<C>(C, usize, bool);

impl<C: Cutter> Cutter for Runs<C> {
    fn target(&self) -> Target {
        self.0.target()
    }

    fn packing(&self, weights: Weights<'_>) -> Packing {
        self.0.packing(weights)
    }

    fn cut(&self, kernel: KernelSpec, work: &Work) -> KernelSpec {
        self.0.cut(kernel, work)
    }

    fn kernel_ns(&self, kernel: &KernelSpec, work: &Work) -> f64 {
        self.0.kernel_ns(kernel, work)
    }

    fn scratch_bytes(&self, kernel: &KernelSpec) -> usize {
        self.0.scratch_bytes(kernel)
    }

    fn recurrent_steps(&self, _: &RecurrentSpec, _: &Work) -> usize {
        self.1
    }

    fn hosts_recurrent(&self, _hidden: usize, _integers: bool) -> bool {
        self.2
    }

    fn stage_blocks(&self) -> usize {
        self.0.stage_blocks()
    }
}

/// A host gets back what it wrote in one piece.
#[test]
fn operands_of_hosts_are_dense() {
    let mut b = Builder::new();
    let outputs = add(&mut b, &full(LSTM, 9, &[false, true]), [5, 3, 4]);
    outputs.iter().for_each(|&id| b.output(id));
    let inputs = harness::inputs(&b.graph, 5);
    let expected = reef_compile::reference::evaluate(&b.graph, &inputs).unwrap();
    let cutter = Runs(harness::cutter(reef_plan::Isa::Portable, 2), 5, true);
    let options = CompileOptions { name: "test".into() };
    let plan = compile(&b.graph, &[], &Arc::new(WeightStore::new()), &cutter, &options).unwrap();
    let recurrent = plan.kernels().iter().filter(|kernel| kernel.spec.name() == "recurrent");
    let bytes: Vec<usize> = recurrent.flat_map(|kernel| &kernel.writes).map(|region| region.bytes).collect();
    let (y, state) = (5 * 3 * 9 * 4, 3 * 9 * 4);
    assert_eq!(bytes, [y, state, state, y, state, state], "{plan}");
    let got = reef_compile::interpret::run(&plan, &inputs).unwrap();
    harness::assert_close(&got, &expected, "for a host, interpreted");
    if let Some(got) = harness::machine::run(plan, &inputs) {
        harness::assert_close(&got, &expected, "for a host");
    }
}

#[test]
fn results_do_not_depend_on_how_many_steps_are_one_kernel() {
    for cell in CELLS {
        let mut b = Builder::new();
        let outputs = add(&mut b, &full(cell, 9, &[false, true]), [7, 3, 4]);
        outputs.iter().for_each(|&id| b.output(id));
        let inputs = harness::inputs(&b.graph, 5);
        let expected = reef_compile::reference::evaluate(&b.graph, &inputs).unwrap();
        let mut whole = None;
        for steps in [7, 1, 2, 3, 100] {
            let cutter = Runs(harness::cutter(reef_plan::Isa::Portable, 2), steps, false);
            let options = CompileOptions { name: "test".into() };
            let plan = compile(&b.graph, &[], &Arc::new(WeightStore::new()), &cutter, &options).unwrap();
            let kernels = plan.kernels().iter().filter(|kernel| kernel.spec.name() == "recurrent").count();
            assert_eq!(kernels, 2 * 7usize.div_ceil(steps));
            let stages = plan.stages().len();
            assert_eq!(stages, 1 + 7usize.div_ceil(steps), "both directions share stages: {plan}");
            let got = reef_compile::interpret::run(&plan, &inputs).unwrap();
            harness::assert_close(&got, &expected, &format!("{cell:?} by {steps}, interpreted"));
            let Some(got) = harness::machine::run(plan, &inputs) else { continue };
            harness::assert_close(&got, &expected, &format!("{cell:?} by {steps}"));
            let whole = whole.get_or_insert_with(|| got.clone());
            assert_eq!(*whole, got, "{cell:?} by {steps}: other bits");
        }
    }
}

/// Long sequences are cut, so that a kernel is no longer than a block should be.
#[test]
fn long_sequences_are_several_kernels() {
    let kernels = |steps: usize, hidden: usize| {
        let mut b = Builder::new();
        let outputs = add(&mut b, &plain(LSTM, hidden, &[false]), [steps, 1, 8]);
        b.output(outputs[0]);
        let plan = harness::compiled(&b.graph, harness::target(reef_plan::Isa::Avx2, 2, 0)).plan;
        plan.kernels().iter().filter(|kernel| kernel.spec.name() == "recurrent").count()
    };
    assert_eq!(kernels(4, 64), 1);
    let many = kernels(2000, 128);
    assert!((10..400).contains(&many), "{many} kernels");
}

#[test]
fn lengths_outside_the_sequence_are_errors() {
    for length in [-1, 5, i32::MIN, i32::MAX] {
        let mut b = Builder::new();
        let attrs = RecurrentAttrs { lengths: true, ..plain(LSTM, 3, &[true]) };
        let x = b.input(&[4, 2, 2]);
        let (w, r) = (b.constant(&[1, 12, 2]), b.constant(&[1, 12, 3]));
        let lengths = b.typed_input(DType::I32, &[2]);
        let outputs = connect(&mut b, &attrs, &[x, w, r, lengths]);
        b.output(outputs[1]);
        let mut inputs = harness::inputs(&b.graph, 5);
        inputs[1] = Tensor::from_slice(DType::I32, [2].into(), &[4, length]);
        let said = format!("sequence_lens[1] is {length}, allowed are 0 to 4");
        let error = reef_compile::reference::evaluate(&b.graph, &inputs).unwrap_err();
        assert!(error.to_string().contains(&said), "{error}");
        let error = reef_compile::interpret::run(&harness::plan(&b.graph), &inputs).unwrap_err();
        assert!(error.to_string().contains(&said), "{error}");
    }
}

#[test]
fn what_no_kernel_computes_is_refused() {
    let refused = |attrs: &RecurrentAttrs, change: &dyn Fn(&mut Builder, &mut Vec<ValueId>)| {
        let mut b = Builder::new();
        let x = b.input(&[4, 2, 2]);
        let mut inputs = vec![x, b.constant(&[1, 12, 2]), b.constant(&[1, 12, 3])];
        change(&mut b, &mut inputs);
        let outputs = vec![(DType::F32, Shape::from([4, 1, 2, 3])), (DType::F32, Shape::from([1, 2, 3]))];
        let outputs = [outputs.clone(), outputs[1..].to_vec()].concat();
        let outputs = b.graph.add_node_multi("n", Op::Recurrent(attrs.clone()), &inputs, outputs);
        b.output(outputs[0]);
        let cutter = harness::cutter(reef_plan::Isa::Portable, 2);
        let options = CompileOptions { name: "test".into() };
        let error: CompileError =
            compile(&b.graph, &[], &Arc::new(WeightStore::new()), &cutter, &options).unwrap_err();
        error.to_string()
    };
    let attrs = plain(LSTM, 3, &[false]);
    let computed = refused(&RecurrentAttrs { integers: true, ..attrs.clone() }, &|b, inputs| {
        let (sums, r) = (b.input(&[4, 2, 12]), b.typed_input(DType::I8, &[1, 12, 3]));
        let zeros = b.graph.add_const("zeros", Tensor::from_slice(DType::I8, [1, 12].into(), &[0i8; 12]));
        *inputs = vec![sums, r, b.constant(&[1, 12]), zeros];
    });
    assert!(computed.contains("R is computed, not constant"), "{computed}");
    let missing = refused(&RecurrentAttrs { bias: true, ..attrs.clone() }, &|_, _| {});
    assert!(missing.contains("it has 3 inputs, its attributes tell of 4"), "{missing}");
    let other = refused(&plain(Cell::Rnn, 12, &[false]), &|_, _| {});
    assert!(other.contains("R is f32[1,12,3], not f32[1,12,12]"), "{other}");
    let wide = refused(&attrs, &|b, inputs| inputs[0] = b.typed_input(DType::F16, &[4, 2, 2]));
    assert!(wide.contains("W is f32[1,12,2], not f16[1,12,2]"), "{wide}");
}
