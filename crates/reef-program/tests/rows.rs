//! Rows that are written into a tensor on its way to the next segment.

use std::sync::Arc;

use reef_base::Buffer;
use reef_graph::{DType, Shape};
use reef_plan::{Cost, Kernel, KernelSpec, Place, Plan, PlanParts, Region, Restart, SyntheticSpec, Target};
use reef_program::{HandOver, Part, Passed, ProgramError, Row, Segment, Source, Take};

/// Inputs: a buffer of 4 rows of 8 bytes, and a number. Outputs: a row, and another number.
fn plan() -> Arc<Plan> {
    let io = |name: &str, dtype, shape: &[usize]| reef_plan::IoSpec {
        name: name.into(),
        dtype,
        shape: Shape::new(shape),
    };
    let kernel = |from, to| Kernel {
        name: "copy".into(),
        spec: KernelSpec::Synthetic(SyntheticSpec {
            seed: 1,
            bytes: 8,
            tile_bytes: 8,
            polls: 1,
            poll_ns: 1,
            meter: None,
        }),
        reads: vec![Region::dense(from, 0, 8)],
        writes: vec![Region::dense(to, 0, 8)],
        restart: Restart::Safe,
        cost: Cost::default(),
    };
    let parts = PlanParts {
        name: "round".into(),
        target: Target::cpu(reef_plan::Isa::Portable, 1),
        inputs: vec![io("buffer", DType::U8, &[4, 8]), io("at", DType::I64, &[])],
        outputs: vec![io("row", DType::U8, &[8]), io("more", DType::I64, &[])],
        weights: vec![],
        store: Arc::default(),
        host_kernels: vec![],
        stages: vec![vec![
            kernel(Place::Input(0), Place::Output(0)),
            kernel(Place::Input(1), Place::Output(1)),
        ]],
        arena_bytes: 0,
    };
    Arc::new(Plan::new(parts).expect("it is valid"))
}

const BUFFER: Source = Source::Input(0);
const AT: Source = Source::Input(1);
const ROW: Source = Source::Output(0);
const MORE: Source = Source::Output(1);

fn tensor(source: Source) -> Passed {
    Passed { source, take: Take::Tensor }
}

fn hand_over(passed: Vec<Passed>, rows: &[Row]) -> Result<HandOver, ProgramError> {
    let segment = Segment::with_rows(plan(), Part::new(Arc::new(())), passed, rows)?;
    Ok(segment.next().expect("it goes on").clone())
}

/// Inputs and outputs of a run: the row and its number as given, the buffer full of nines.
fn run(at: i64, row: u8) -> (Vec<Buffer>, Vec<Buffer>) {
    let bytes = |bytes: &[u8]| Buffer::copy_from(bytes);
    let inputs = vec![bytes(&[9; 32]), bytes(&at.to_le_bytes())];
    (inputs, vec![bytes(&[row; 8]), bytes(&7i64.to_le_bytes())])
}

/// The host sees all buffers here.
fn hidden(_: &Buffer, _: &mut Buffer) {
    unreachable!("a buffer that the host does not see");
}

#[test]
fn a_row_is_written_in_its_place_before_anything_is_handed_over() {
    // The row goes on by itself, too, and earlier: what is written is what it was.
    let row = Row { passed: 2, source: ROW, at: AT };
    let next = hand_over(vec![tensor(ROW), tensor(MORE), tensor(BUFFER)], &[row]).expect("it is valid");
    for at in 0..4 {
        let (mut inputs, mut outputs) = run(at, 3);
        let mut to = [8, 8, 32].map(Buffer::zeroed);
        assert!(next.has_room(&inputs, &outputs));
        assert_eq!(next.copied_bytes(&inputs, &outputs, &to), 8, "the row alone");
        let buffer = inputs[0].as_slice().as_ptr();
        next.carry(&mut inputs, &mut outputs, &mut to, hidden);
        let mut expected = [9; 32];
        expected[at as usize * 8..][..8].fill(3);
        assert_eq!(to[2].as_slice(), expected, "row {at}");
        assert_eq!(to[2].as_slice().as_ptr(), buffer, "it was not copied");
        assert_eq!((to[0].as_slice(), to[1].as_slice()), (&[3; 8][..], &7i64.to_le_bytes()[..]));
    }
}

#[test]
fn a_row_without_a_place_is_an_error_and_written_nowhere() {
    let row = Row { passed: 0, source: ROW, at: AT };
    let next = hand_over(vec![tensor(BUFFER)], &[row]).expect("it is valid");
    for at in [-1, 4, i64::MAX, i64::MIN] {
        let (mut inputs, mut outputs) = run(at, 3);
        assert!(!next.has_room(&inputs, &outputs), "{at}");
        let error = next.key(&inputs, &outputs).unwrap_err();
        assert_eq!(error, ProgramError::Row { at, room: 4 });
        let mut to = [Buffer::zeroed(32)];
        next.carry(&mut inputs, &mut outputs, &mut to, hidden);
        assert_eq!(to[0].as_slice(), [9; 32]);
    }
    let (inputs, outputs) = run(3, 3);
    assert!(next.key(&inputs, &outputs).is_ok());
}

#[test]
fn rows_that_cannot_be_written_are_refused() {
    let row = |source, at| Row { passed: 0, source, at };
    let buffer = || vec![tensor(BUFFER)];
    let by_value = Passed { source: AT, take: Take::Value };
    let cases = [
        (buffer(), vec![Row { passed: 1, ..row(ROW, AT) }], "no tensor to write a row into"),
        (vec![by_value], vec![row(ROW, AT)], "no tensor to write a row into"),
        (buffer(), vec![row(Source::Output(5), AT)], "no value of the plan"),
        (buffer(), vec![row(ROW, Source::Input(2))], "no value of the plan"),
        (vec![tensor(MORE)], vec![row(ROW, AT)], "its rows are others"),
        (buffer(), vec![row(MORE, AT)], "its rows are others"),
        (buffer(), vec![row(BUFFER, AT)], "its rows are others"),
        (buffer(), vec![row(ROW, ROW)], "the number of its row is none"),
        (vec![tensor(BUFFER), tensor(BUFFER)], vec![row(ROW, AT)], "written where others read it"),
    ];
    for (passed, rows, expected) in cases {
        let error = hand_over(passed, &rows).unwrap_err().to_string();
        assert!(error.contains(expected), "{rows:?}: {error}");
    }
}
