//! Recurrent networks on a host, against the operator's meaning; and what their kernels may reach.

use reef_base::Rng;
use reef_graph::reference::recurrent::recurrent;
use reef_graph::{Cell, DType, Direction, GateFunction, RecurrentAttrs, Shape, Tensor};
use reef_plan::{At, Packing, RecurrentSpec, WeightStore, recur};

const CELLS: [Cell; 5] = [
    Cell::Lstm { input_forget: false },
    Cell::Lstm { input_forget: true },
    Cell::Gru { linear_before_reset: false },
    Cell::Gru { linear_before_reset: true },
    Cell::Rnn,
];

const STEPS: usize = 4;
const BATCH: usize = 3;
const HIDDEN: usize = 19;

fn random(rng: &mut Rng, dims: &[usize]) -> Tensor {
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|_| 0.4 * rng.normal_f32()).collect();
    Tensor::f32(Shape::new(dims), &values)
}

/// A network of one direction with everything that its cell can have.
fn attrs(cell: Cell, reverse: bool, clip: Option<f32>) -> RecurrentAttrs {
    use GateFunction::{Sigmoid, Softsign, Tanh};
    let functions = [Sigmoid, Tanh, Softsign][..cell.functions()].to_vec();
    RecurrentAttrs {
        cell,
        directions: vec![Direction { reverse, functions }],
        hidden: HIDDEN,
        clip,
        bias: true,
        lengths: true,
        initial_h: true,
        initial_c: cell.has_memory(),
        peepholes: cell.has_memory(),
        integers: false,
    }
}

/// What the operator's inputs are when the sums are the kernel's: W is the identity, and of the biases there
/// is the one that the kernel adds.
struct Inputs {
    x: Tensor,
    r: Tensor,
    bias: Tensor,
    lengths: Tensor,
    states: [Tensor; 2],
    peepholes: Tensor,
}

fn inputs(cell: Cell, lengths: &[i32]) -> Inputs {
    let (rng, all) = (&mut Rng::new(3), cell.gates() * HIDDEN);
    let mut bias = vec![0.0; 2 * all];
    if cell == (Cell::Gru { linear_before_reset: true }) {
        bias[2 * all - HIDDEN..].copy_from_slice(random(rng, &[HIDDEN]).values());
    }
    Inputs {
        x: random(rng, &[STEPS, BATCH, all]),
        r: random(rng, &[1, all, HIDDEN]),
        bias: Tensor::f32([1, 2 * all], &bias),
        lengths: Tensor::from_slice(DType::I32, [BATCH].into(), lengths),
        states: [random(rng, &[1, BATCH, HIDDEN]), random(rng, &[1, BATCH, HIDDEN])],
        peepholes: random(rng, &[1, 3 * HIDDEN]),
    }
}

fn spec(attrs: &RecurrentAttrs) -> RecurrentSpec {
    let (cell, memory) = (attrs.cell, attrs.cell.has_memory());
    RecurrentSpec {
        cell,
        functions: attrs.directions[0].functions.clone(),
        clip: attrs.clip,
        reverse: attrs.directions[0].reverse,
        steps: STEPS,
        first: 0,
        all_steps: STEPS,
        batch: BATCH,
        hidden: HIDDEN,
        integers: None,
        computed: false,
        sums_row_stride: cell.gates() * HIDDEN,
        y_step_stride: BATCH * HIDDEN,
        bias: false,
        reset_bias: cell == (Cell::Gru { linear_before_reset: true }),
        peepholes: memory,
        lengths: true,
        h_before: true,
        c_before: memory,
        y: true,
        h_after: true,
        c_after: memory,
        panel_width: 0,
        tile_rows: BATCH,
    }
}

/// The kernel's outputs, all bytes of which were something else before.
fn run(spec: &RecurrentSpec, given: &Inputs) -> Result<Vec<Vec<f32>>, String> {
    let bias = &given.bias.values::<f32>()[given.bias.shape().elements() - HIDDEN..];
    let bias: Vec<u8> = bias.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut operands = vec![given.x.bytes().as_slice(), given.r.bytes().as_slice()];
    operands.extend(spec.reset_bias.then_some(&bias[..]));
    operands.extend(spec.peepholes.then_some(given.peepholes.bytes().as_slice()));
    operands.push(given.lengths.bytes().as_slice());
    operands.push(given.states[0].bytes().as_slice());
    operands.extend(spec.c_before.then_some(given.states[1].bytes().as_slice()));
    let state = BATCH * HIDDEN * 4;
    let mut made = [STEPS * state, state, state][..2 + usize::from(spec.c_after)]
        .iter()
        .map(|&bytes| vec![0xFFu8; bytes])
        .collect::<Vec<_>>();
    let mut slices: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
    recur(spec, &operands, &mut slices)?;
    let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    Ok(made.iter().map(|bytes| bytes.chunks_exact(4).map(float).collect()).collect())
}

#[test]
fn a_host_computes_what_the_operator_means() {
    for cell in CELLS {
        for (reverse, clip) in [(false, None), (true, Some(0.5))] {
            let (attrs, given) = (attrs(cell, reverse, clip), inputs(cell, &[4, 0, 2]));
            let all = cell.gates() * HIDDEN;
            let identity: Vec<f32> = (0..all * all).map(|at| f32::from(at / all == at % all)).collect();
            let identity = Tensor::f32([1, all, all], &identity);
            let Inputs { x, r, bias, lengths, states: [h, c], peepholes } = &given;
            let mut operands = vec![x, &identity, r, bias, lengths, h];
            if cell.has_memory() {
                operands.extend([c, peepholes]);
            }
            let expected = recurrent(&attrs, &operands).unwrap();
            let made = run(&spec(&attrs), &given).unwrap();
            assert_eq!(made.len(), expected.len());
            for (made, expected) in made.iter().zip(&expected) {
                for (at, (a, b)) in made.iter().zip(expected.values::<f32>()).enumerate() {
                    assert!((a - b).abs() < 1e-5, "{cell:?} {reverse}: {a} at {at}, not {b}");
                }
            }
        }
    }
}

/// In panels of several widths, the last one filled up with what no sum may see.
#[test]
fn a_host_takes_computed_weights_in_panels() {
    for cell in CELLS {
        let given = inputs(cell, &[4, 0, 2]);
        let expected = run(&spec(&attrs(cell, false, None)), &given).unwrap();
        for panel_width in [1, 4, HIDDEN, HIDDEN + 3] {
            let spec = RecurrentSpec { computed: true, panel_width, ..spec(&attrs(cell, false, None)) };
            let r = given.r.values::<f32>();
            let mut packed = vec![f32::NAN; cell.gates() * HIDDEN * HIDDEN.next_multiple_of(panel_width)];
            for (at, &weight) in r.iter().enumerate() {
                let (row, k) = (at / HIDDEN, at % HIDDEN);
                packed[spec.place(At { group: row / HIDDEN, output: row % HIDDEN, k })] = weight;
            }
            let given = Inputs { r: Tensor::f32([packed.len()], &packed), ..inputs(cell, &[4, 0, 2]) };
            let made = run(&spec, &given).unwrap();
            for (a, b) in made.concat().iter().zip(expected.concat()) {
                assert!((a - b).abs() < 1e-5, "{cell:?} by {panel_width}: {a}, not {b}");
            }
        }
    }
}

/// Weights of both types, in both directions.
#[test]
fn a_host_multiplies_integers_as_the_operator_means() {
    let (cell, all, rng) = (CELLS[0], 4 * HIDDEN, &mut Rng::new(7));
    let packing = Packing::IntegerPanels { groups: 4, width: 16 };
    for (dtype, reverse) in [(DType::I8, false), (DType::U8, true)] {
        let attrs =
            RecurrentAttrs { bias: false, lengths: false, integers: true, ..attrs(cell, reverse, None) };
        let mut bytes = |dims: &[usize]| {
            let bytes: Vec<u8> = (0..dims.iter().product()).map(|_| rng.below(256) as u8).collect();
            Tensor::from_slice(dtype, Shape::new(dims), &bytes)
        };
        let (r, zeros) = (bytes(&[1, all, HIDDEN]), bytes(&[1, all]));
        let scales: Vec<f32> = (0..all).map(|at| 0.0004 + 0.0001 * (at % 5) as f32).collect();
        let scales = Tensor::f32([1, all], &scales);
        let Inputs { x, states: [h, c], peepholes, .. } = &inputs(cell, &[STEPS as i32; BATCH]);
        let expected = recurrent(&attrs, &[x, &r, &scales, &zeros, h, c, peepholes]).unwrap();
        let store = WeightStore::new();
        let weight = store.insert(&r.reshaped(Shape::from([all, HIDDEN, 1, 1])), packing);
        let packed = store.get(weight.key, packing).unwrap();
        let spec = RecurrentSpec { integers: Some(dtype), lengths: false, panel_width: 16, ..spec(&attrs) };
        let given = [&scales, &zeros, peepholes, h, c].map(|tensor| tensor.bytes().as_slice());
        let operands = [&[x.bytes().as_slice(), packed.as_slice()][..], &given].concat();
        let state = BATCH * HIDDEN * 4;
        let mut made = [STEPS * state, state, state].map(|bytes| vec![0xFFu8; bytes]);
        let mut slices: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
        recur(&spec, &operands, &mut slices).unwrap();
        for (made, expected) in made.iter().zip(&expected) {
            assert_eq!(made, expected.bytes().as_slice(), "{dtype} {reverse}");
        }
    }
}

#[test]
fn lengths_outside_the_sequence_are_errors() {
    let cell = CELLS[0];
    for length in [-1, 5] {
        let error = run(&spec(&attrs(cell, false, None)), &inputs(cell, &[4, 4, length])).unwrap_err();
        assert_eq!(error, format!("LSTM: sequence_lens[2] is {length}, allowed are 0 to 4"));
    }
}

#[test]
fn specifications_that_mean_nothing_have_a_flaw() {
    let lstm = || spec(&attrs(CELLS[0], false, None));
    let rnn = || spec(&attrs(Cell::Rnn, false, None));
    assert_eq!((lstm().flaw(), rnn().flaw()), (None, None));
    let functions = lstm().functions[..2].to_vec();
    for (broken, what) in [
        (RecurrentSpec { functions, ..lstm() }, "functions"),
        (RecurrentSpec { hidden: 0, ..lstm() }, "without elements"),
        (RecurrentSpec { reset_bias: true, ..lstm() }, "does not know"),
        (RecurrentSpec { peepholes: true, ..rnn() }, "does not know"),
        (RecurrentSpec { c_after: true, ..rnn() }, "does not know"),
        (RecurrentSpec { clip: Some(-0.5), ..lstm() }, "clips"),
        (RecurrentSpec { clip: Some(f32::NAN), ..lstm() }, "clips"),
        (RecurrentSpec { y: false, h_after: false, ..rnn() }, "writes nothing"),
        (RecurrentSpec { y_step_stride: BATCH * HIDDEN - 1, ..lstm() }, "write over"),
        (RecurrentSpec { first: 1, ..lstm() }, "more steps"),
        (RecurrentSpec { first: usize::MAX, ..lstm() }, "more steps"),
    ] {
        assert!(broken.flaw().is_some_and(|flaw| flaw.contains(what)), "{what}: {:?}", broken.flaw());
    }
}
