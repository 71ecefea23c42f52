//! Recurrent networks: every cell with and without what may be absent, in rows of several blocks.

use reef_base::AlignedBytes;
use reef_graph::reference::recurrent::{Unit, integer_products};
use reef_graph::{Cell, DType, GateFunction, Tensor};
use reef_plan::{HostFault, Isa, KernelSpec, Packing, RecurrentSpec};

use super::{Bench, BlockEnd, Case, Operand, check, isas, pixels, random};
use crate::cut::integer::INTEGER_COLUMNS;
use crate::cut::panel_width;

const LSTM: Cell = Cell::Lstm { input_forget: false };
const CELLS: [Cell; 5] = [
    LSTM,
    Cell::Lstm { input_forget: true },
    Cell::Gru { linear_before_reset: false },
    Cell::Gru { linear_before_reset: true },
    Cell::Rnn,
];

/// Without anything optional; y alone is written.
fn plain(cell: Cell, steps: usize, batch: usize, hidden: usize) -> RecurrentSpec {
    use GateFunction::{Sigmoid, Tanh};
    let functions = match cell {
        Cell::Lstm { .. } => vec![Sigmoid, Tanh, Tanh],
        Cell::Gru { .. } => vec![Sigmoid, Tanh],
        Cell::Rnn => vec![Tanh],
    };
    RecurrentSpec {
        cell,
        functions,
        clip: None,
        reverse: false,
        steps,
        first: 0,
        all_steps: steps,
        batch,
        hidden,
        integers: None,
        computed: false,
        sums_row_stride: cell.gates() * hidden,
        y_step_stride: batch * hidden,
        bias: false,
        reset_bias: false,
        peepholes: false,
        lengths: false,
        h_before: false,
        c_before: false,
        y: true,
        h_after: false,
        c_after: false,
        panel_width: 0,
        tile_rows: batch,
    }
}

/// With everything, in the middle of a longer sequence, backwards.
fn full(cell: Cell, steps: usize, batch: usize, hidden: usize) -> RecurrentSpec {
    let memory = cell.has_memory();
    RecurrentSpec {
        reverse: true,
        first: 1,
        all_steps: steps + 2,
        sums_row_stride: cell.gates() * hidden + 3,
        y_step_stride: 2 * batch * hidden,
        reset_bias: cell == (Cell::Gru { linear_before_reset: true }),
        peepholes: memory,
        lengths: true,
        h_before: true,
        c_before: memory,
        h_after: true,
        c_after: memory,
        ..plain(cell, steps, batch, hidden)
    }
}

/// The operands, drawn.
struct Drawn {
    sums: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    reset_bias: Vec<f32>,
    peepholes: Vec<f32>,
    lengths: Vec<i32>,
    before: [Vec<f32>; 2],
}

fn drawn(spec: &RecurrentSpec) -> Drawn {
    let (hidden, all) = (spec.hidden, spec.cell.gates() * spec.hidden);
    // The larger a state, the smaller its weights, or functions do nothing but saturate.
    let scale = 2.0 / (hidden as f32).sqrt();
    Drawn {
        sums: pixels(1, spec.steps * spec.batch, all, spec.sums_row_stride),
        weights: random(2, all * hidden).iter().map(|weight| weight * scale).collect(),
        bias: random(10, all),
        reset_bias: random(3, hidden),
        peepholes: random(4, 3 * hidden),
        lengths: (0..spec.batch).map(|row| (spec.all_steps - row % (spec.all_steps + 1)) as i32).collect(),
        before: [random(5, spec.batch * hidden), random(6, spec.batch * hidden)],
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// What is written, in the order of the outputs: elements of each. `product` multiplies a gate's weights with
/// a state.
fn meant(
    spec: &RecurrentSpec,
    drawn: &Drawn,
    product: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
) -> [Vec<(usize, f64)>; 3] {
    let (hidden, all) = (spec.hidden, spec.cell.gates() * spec.hidden);
    let (peepholes, reset_bias) = (wide(&drawn.peepholes), wide(&drawn.reset_bias));
    let unit = Unit {
        cell: spec.cell,
        functions: &spec.functions,
        clip: spec.clip,
        peepholes: spec.peepholes.then_some(&peepholes[..]),
        reset_bias: spec.reset_bias.then_some(&reset_bias[..]),
    };
    let mut made = [vec![], vec![], vec![]];
    for row in 0..spec.batch {
        let state = |there: bool, values: &[f32]| match there {
            true => wide(&values[row * hidden..][..hidden]),
            false => vec![0.0; hidden],
        };
        let mut h = state(spec.h_before, &drawn.before[0]);
        let mut c = state(spec.c_before, &drawn.before[1]);
        for turn in 0..spec.steps {
            let step = if spec.reverse { spec.steps - 1 - turn } else { turn };
            let inside = !spec.lengths || ((spec.first + step) as i32) < drawn.lengths[row];
            if inside {
                let from = (step * spec.batch + row) * spec.sums_row_stride;
                let bias = |at: usize| if spec.bias { f64::from(drawn.bias[at]) } else { 0.0 };
                let sums: Vec<f64> = (0..all).map(|at| f64::from(drawn.sums[from + at]) + bias(at)).collect();
                unit.step(&sums, product, &mut h, &mut c);
            }
            let to = step * spec.y_step_stride + row * hidden;
            made[0].extend((0..hidden).map(|at| (to + at, if inside { h[at] } else { 0.0 })));
        }
        for (made, state) in made[1..].iter_mut().zip([&h, &c]) {
            made.extend(state.iter().enumerate().map(|(at, &value)| (row * hidden + at, value)));
        }
    }
    made
}

fn case(spec: &RecurrentSpec) -> Case {
    let drawn = drawn(spec);
    let (hidden, gates) = (spec.hidden, spec.cell.gates());
    let cut = |tile_rows| {
        let spec = spec.clone();
        move |isa| {
            KernelSpec::Recurrent(RecurrentSpec { tile_rows, panel_width: panel_width(isa), ..spec.clone() })
        }
    };
    let name = format!("{:?}, {}x{}x{hidden}", spec.cell, spec.batch, spec.steps);
    let weights = Tensor::f32([gates * hidden, hidden, 1, 1], &drawn.weights);
    let mut case = Case::f32(name, cut(1)).cut(cut(3)).cut(cut(100)).input(&drawn.sums);
    case = case.weight(weights, move |isa| Packing::ConvPanels {
        groups: gates as u32,
        width: panel_width(isa) as u32,
    });
    let rest = [(spec.reset_bias, &drawn.reset_bias), (spec.peepholes, &drawn.peepholes)];
    for (_, values) in rest.into_iter().filter(|(there, _)| *there) {
        case = case.input(values);
    }
    if spec.lengths {
        let lengths = AlignedBytes::copy_from(bytemuck::cast_slice(&drawn.lengths));
        case.operands.push(Operand::Input(lengths));
    }
    for (there, values) in [spec.h_before, spec.c_before].into_iter().zip(&drawn.before) {
        if there {
            case = case.input(values);
        }
    }
    let weights = wide(&drawn.weights);
    let mut product = |gate: usize, state: &[f64]| -> Vec<f64> {
        let rows = weights[gate * hidden * hidden..].chunks_exact(hidden).take(hidden);
        rows.map(|row| row.iter().zip(state).map(|(a, b)| a * b).sum()).collect()
    };
    let made = meant(spec, &drawn, &mut product);
    expects(case, spec, made)
}

/// The case with its outputs.
fn expects(mut case: Case, spec: &RecurrentSpec, made: [Vec<(usize, f64)>; 3]) -> Case {
    let hidden = spec.hidden;
    let state = spec.batch * hidden * 4;
    let y = ((spec.steps - 1) * spec.y_step_stride + spec.batch * hidden) * 4;
    let written = [(spec.y, y), (spec.h_after, state), (spec.c_after, state)];
    let mut bytes = written.into_iter().filter(|output| output.0).map(|output| output.1);
    case.out_bytes = bytes.next().expect("something is written");
    case.more_bytes = bytes.collect();
    let chosen = made.into_iter().zip(written).filter(|(_, output)| output.0);
    for ((elements, _), region) in chosen.zip(case.regions()) {
        let begin = (region.offset - super::LEAD) / 4;
        case.expected.extend(elements.into_iter().map(|(at, value)| (begin + at, value)));
    }
    case
}

#[test]
fn every_cell() {
    for cell in CELLS {
        for (steps, batch, hidden) in [(3, 1, 9), (2, 3, 33), (2, 14, 20), (1, 1, 1), (2, 2, 150)] {
            check(&case(&plain(cell, steps, batch, hidden)));
            check(&case(&full(cell, steps, batch, hidden)));
        }
    }
}

#[test]
fn outputs_alone() {
    for cell in CELLS {
        let spec = full(cell, 3, 2, 7);
        check(&case(&RecurrentSpec { y: false, ..spec.clone() }));
        check(&case(&RecurrentSpec { y: false, c_after: false, ..spec.clone() }));
        if cell.has_memory() {
            check(&case(&RecurrentSpec { y: false, h_after: false, ..spec }));
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
            let functions =
                (0..cell.functions()).map(|place| functions[(at + 4 * place) % functions.len()]).collect();
            let clip = [None, Some(0.6), Some(0.0)][at % 3];
            check(&case(&RecurrentSpec { functions, clip, ..full(cell, 2, 2, 21) }));
        }
        check(&case(&RecurrentSpec { clip: Some(0.4), ..plain(cell, 3, 1, 5) }));
    }
}

/// Sums so long that they are added up in parts.
#[test]
fn long_states() {
    let case = case(&plain(Cell::Rnn, 2, 2, 2100));
    check(&Case { tolerance: 1e-4, ..case });
}

#[test]
fn what_is_no_number_stays_none() {
    for cell in CELLS {
        let spec = plain(cell, 1, 1, 20);
        let mut case = case(&spec);
        let nan = vec![f32::NAN; cell.gates() * 20];
        case.operands[0] = Operand::Input(AlignedBytes::copy_from(bytemuck::cast_slice(&nan)));
        case.expected.iter_mut().for_each(|(_, value)| *value = f64::NAN);
        check(&case);
    }
}

#[test]
fn lengths_outside_the_sequence_are_the_inputs_fault() {
    for length in [-1i32, 5, i32::MAX, i32::MIN] {
        let spec = RecurrentSpec { lengths: true, ..plain(LSTM, 4, 2, 3) };
        let mut case = case(&spec);
        let lengths = AlignedBytes::copy_from(bytemuck::cast_slice(&[4, length]));
        *case.operands.last_mut().unwrap() = Operand::Input(lengths);
        for isa in isas() {
            let mut bench = Bench::new(&case, case.specs[0](isa), isa);
            assert_eq!(bench.run(0, None).0, BlockEnd::Done, "another sequence is fine");
            let BlockEnd::Failed(fault) = bench.run(1, None).0 else { panic!("a block with such a length") };
            let reason = format!("LSTM: sequence_lens[1] is {length}, allowed are 0 to 4");
            assert_eq!(fault.told(), HostFault::of_input(&*case.name, reason));
        }
    }
}

/// Weights that are integers.
struct Weights {
    values: Vec<u8>,
    zeros: Vec<u8>,
    scales: Vec<f32>,
}

fn drawn_weights(spec: &RecurrentSpec) -> Weights {
    let all = spec.cell.gates() * spec.hidden;
    let byte = |value: &f32| (value * 60.0) as i32 as u8;
    Weights {
        values: random(7, all * spec.hidden).iter().map(byte).collect(),
        zeros: random(8, all).iter().map(|value| byte(&(value / 8.0))).collect(),
        scales: random(9, all).iter().map(|x| (0.3 + x.abs()) * 0.02).collect(),
    }
}

/// An LSTM whose weights are integers of this type, with everything that it may have.
fn integer_case(spec: &RecurrentSpec, dtype: DType) -> Case {
    integer_case_of(spec, dtype, &drawn(spec), &drawn_weights(spec))
}

fn integer_case_of(spec: &RecurrentSpec, dtype: DType, drawn: &Drawn, weights: &Weights) -> Case {
    let Weights { values, zeros, scales } = weights;
    let (hidden, gates) = (spec.hidden, spec.cell.gates());
    let all = gates * hidden;
    let cut = |tile_rows| {
        let spec = spec.clone();
        move |_| {
            let panel_width = INTEGER_COLUMNS;
            KernelSpec::Recurrent(RecurrentSpec {
                tile_rows,
                panel_width,
                integers: Some(dtype),
                ..spec.clone()
            })
        }
    };
    let name = format!("{dtype}, {}x{}x{hidden}", spec.batch, spec.steps);
    let weights = Tensor::from_slice(dtype, [all, hidden, 1, 1].into(), values);
    let packing = Packing::IntegerPanels { groups: gates as u32, width: INTEGER_COLUMNS as u32 };
    let mut case = Case::f32(name, cut(1)).cut(cut(3)).cut(cut(100)).input(&drawn.sums);
    case = case.weight(weights, move |_| packing).input(scales).bytes(zeros);
    if spec.bias {
        case = case.input(&drawn.bias);
    }
    if spec.peepholes {
        case = case.input(&drawn.peepholes);
    }
    for (there, values) in [spec.h_before, spec.c_before].into_iter().zip(&drawn.before) {
        if there {
            case = case.input(values);
        }
    }
    let number = |byte: u8| if dtype == DType::I8 { i64::from(byte as i8) } else { i64::from(byte) };
    let weight = |output: usize, k: usize| number(values[output * hidden + k]) - number(zeros[output]);
    let mut product = |gate: usize, state: &[f64]| {
        integer_products(state, gate * hidden..(gate + 1) * hidden, weight, |output| scales[output])
    };
    let made = meant(spec, drawn, &mut product);
    expects(case, spec, made)
}

#[test]
fn states_as_integers() {
    for dtype in [DType::I8, DType::U8] {
        for (steps, batch, hidden) in
            [(3, 1, 9), (2, 3, 33), (2, 14, 20), (1, 1, 1), (2, 2, 150), (4, 1, 256)]
        {
            check(&integer_case(&plain(LSTM, steps, batch, hidden), dtype));
            let spec = RecurrentSpec { lengths: false, bias: true, ..full(LSTM, steps, batch, hidden) };
            check(&integer_case(&spec, dtype));
            let functions = vec![GateFunction::Sigmoid, GateFunction::Softsign, GateFunction::Tanh];
            let cell = Cell::Lstm { input_forget: true };
            check(&integer_case(&RecurrentSpec { functions, cell, ..spec.clone() }, dtype));
            check(&integer_case(&RecurrentSpec { clip: Some(0.7), ..spec }, dtype));
        }
    }
}

/// What ONNX Runtime 1.31 made of this with a thread for each sequence, on a machine with fused products.
#[test]
fn states_are_onnx_runtimes_to_the_bit() {
    const LAST_Y: [u32; 10] = [
        0xbd1bc17d, 0xbe86ee36, 0xbdb8ae37, 0x3e349697, 0xbe86b2fe, 0x3ccb49ec, 0xbe5299a3, 0xbd4a3c23,
        0x3e4bda9a, 0xbe483218,
    ];
    const C: [u32; 10] = [
        0xbdfbbbaa, 0xbf1fbca6, 0xbebbe6ae, 0x3f05ea44, 0xbedf8292, 0x3dafefc8, 0xbee6a68e, 0xbe470a30,
        0x3f19a808, 0xbe9cc57a,
    ];
    let (steps, batch, hidden) = (3, 2, 5);
    let all = 4 * hidden;
    let usual = plain(LSTM, steps, batch, hidden);
    let spec =
        RecurrentSpec { bias: true, peepholes: true, h_before: true, c_before: true, c_after: true, ..usual };
    let list = |len: usize, of: &dyn Fn(usize) -> f32| -> Vec<f32> { (0..len).map(of).collect() };
    let state = |of: &dyn Fn(usize) -> f32| list(batch * hidden, of);
    let drawn = Drawn {
        sums: vec![0.0; steps * batch * all],
        bias: list(all, &|at| (at * 7 % 16) as f32 / 8.0 - 1.0),
        peepholes: list(3 * hidden, &|at| (at * 5 % 8) as f32 / 8.0 - 0.5),
        before: [
            state(&|at| (at * 3 % 10) as f32 / 8.0 - 0.5),
            state(&|at| (at * 7 % 12) as f32 / 4.0 - 1.25),
        ],
        ..drawn(&spec)
    };
    let weight = |output: usize, k: usize| ((k * all + output) * 5 % 251) as i32 - 125;
    let weights = Weights {
        values: (0..all * hidden).map(|at| weight(at / hidden, at % hidden) as u8).collect(),
        zeros: vec![0; all],
        scales: list(all, &|at| 0.0078125 + 0.0009765625 * (at % 3) as f32),
    };
    let case = integer_case_of(&spec, DType::I8, &drawn, &weights);
    check(&case);
    let regions = case.regions();
    for isa in isas().filter(|&isa| isa != Isa::Portable) {
        for cut in &case.specs {
            let output = Bench::new(&case, cut(isa), isa).run_all(1);
            let bits = |begin: usize| -> Vec<u32> {
                let bytes = output[begin..begin + 4 * batch * hidden].chunks_exact(4);
                bytes.map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect()
            };
            assert_eq!(bits(regions[0].offset + 4 * (steps - 1) * batch * hidden), LAST_Y, "{isa}");
            assert_eq!(bits(regions[1].offset), C, "{isa}");
        }
    }
}
