//! What comes after a segment, and how values get there.

use std::sync::Arc;

use reef_base::AlignedBytes;
use reef_base::limits::{MODEL_TENSORS_MAX, SHAPE_VALUES_MAX};
use reef_graph::{DType, Shape, Tensor};
use reef_plan::{IoSpec, Plan};

use crate::key::{Given, Part, SegmentKey};

/// Where a value that is handed over lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An output of the segment's plan.
    Output(usize),
    /// An input of the segment's plan, which was not changed.
    Input(usize),
}

/// How the next part takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Take {
    /// As a tensor of the shape that it has in the plan.
    Tensor,
    /// By its value: it is part of the next segment's key and goes nowhere else.
    Value,
    /// As a tensor that is shorter than the plan's along `axis`: the value with index `count` among those
    /// that are passed says how long it is. Its elements are dense.
    Counted {
        /// Which axis.
        axis: usize,
        /// Index of the count among the values that are passed.
        count: usize,
    },
}

/// A value that is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Passed {
    /// Where it lies.
    pub source: Source,
    /// How it is taken.
    pub take: Take,
}

/// A row that is written into a tensor when it is handed over, in its place: the tensor itself is not copied.
/// Nothing else may be handed over from where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Index of the tensor among the values that are passed; its first axis counts rows.
    pub passed: usize,
    /// Where the row lies.
    pub source: Source,
    /// Where its number lies: one i64.
    pub at: Source,
}

/// Why a segment is none, or why it cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// A value that is handed over is not there, or not what it is taken for.
    #[error("value {index} that is handed over: {reason}")]
    Passed {
        /// Its index.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// A row has no place.
    #[error("row {at} of {room}")]
    Row {
        /// Its number.
        at: i64,
        /// Rows that there are.
        room: usize,
    },
    /// A count that was computed is none.
    #[error("{count} elements were counted, there is room for {room}")]
    Count {
        /// The count.
        count: i64,
        /// How many there can be.
        room: usize,
    },
}

/// A plan, and what comes after it.
#[derive(Clone, Debug)]
pub struct Segment {
    plan: Arc<Plan>,
    next: Option<HandOver>,
}

impl Segment {
    /// A segment after which the plan's outputs are the model's.
    pub fn last(plan: Arc<Plan>) -> Segment {
        Segment { plan, next: None }
    }

    /// A segment after which `part` goes on with the values `passed`, one per input of it.
    pub fn new(plan: Arc<Plan>, part: Part, passed: Vec<Passed>) -> Result<Segment, ProgramError> {
        Segment::with_rows(plan, part, passed, &[])
    }

    /// The same, with rows that are written into some of the values.
    pub fn with_rows(
        plan: Arc<Plan>,
        part: Part,
        passed: Vec<Passed>,
        rows: &[Row],
    ) -> Result<Segment, ProgramError> {
        let specs = HandOver::specs(&plan, &passed)?;
        let rows = HandOver::stores(&plan, &passed, rows)?;
        Ok(Segment { plan, next: Some(HandOver { part, passed, specs, rows }) })
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What comes after it; `None` when the model has ended.
    pub fn next(&self) -> Option<&HandOver> {
        self.next.as_ref()
    }

    /// Its plan and what comes after it.
    pub fn into_parts(self) -> (Arc<Plan>, Option<HandOver>) {
        (self.plan, self.next)
    }
}

/// From one segment to the next.
#[derive(Clone, Debug)]
pub struct HandOver {
    part: Part,
    passed: Vec<Passed>,
    /// Type and shape of every value in the plan.
    specs: Vec<(DType, Shape)>,
    /// Rows that are written before that.
    rows: Vec<Store>,
}

/// A row and where it is written.
#[derive(Clone, Debug)]
struct Store {
    buffer: Source,
    row: Source,
    at: Source,
    room: usize,
    row_bytes: usize,
}

impl HandOver {
    /// The part that goes on.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// What it is given, in the order of its inputs.
    pub fn passed(&self) -> &[Passed] {
        &self.passed
    }

    fn specs(plan: &Plan, passed: &[Passed]) -> Result<Vec<(DType, Shape)>, ProgramError> {
        let fail = |index: usize, reason: String| ProgramError::Passed { index, reason };
        if passed.len() > MODEL_TENSORS_MAX {
            return Err(fail(MODEL_TENSORS_MAX, format!("there are at most {MODEL_TENSORS_MAX}")));
        }
        let mut specs = Vec::with_capacity(passed.len());
        for (index, value) in passed.iter().enumerate() {
            let spec =
                spec(plan, value.source).ok_or_else(|| fail(index, "it is no value of the plan".into()))?;
            match value.take {
                Take::Tensor => {}
                Take::Value if spec.shape.elements() <= SHAPE_VALUES_MAX => {}
                Take::Value => {
                    let reason = format!("{} elements are too many for a value", spec.shape.elements());
                    return Err(fail(index, reason));
                }
                Take::Counted { axis, count } => {
                    let counts = passed.get(count).filter(|count| count.take == Take::Value);
                    let counts = counts.and_then(|count| self::spec(plan, count.source));
                    let one =
                        counts.is_some_and(|spec| spec.dtype == DType::I64 && spec.shape.elements() == 1);
                    if !one || axis >= spec.shape.rank() {
                        return Err(fail(index, "nothing counts its elements".into()));
                    }
                }
            }
            specs.push((spec.dtype, spec.shape.clone()));
        }
        Ok(specs)
    }

    fn stores(plan: &Plan, passed: &[Passed], rows: &[Row]) -> Result<Vec<Store>, ProgramError> {
        let store = |row: &Row| {
            let fail = |reason: &str| ProgramError::Passed { index: row.passed, reason: reason.into() };
            let buffer = passed.get(row.passed).filter(|buffer| buffer.take == Take::Tensor);
            let buffer = buffer.ok_or_else(|| fail("it is no tensor to write a row into"))?.source;
            let specs = [buffer, row.source, row.at].map(|source| spec(plan, source));
            let [Some(to), Some(from), Some(at)] = specs else {
                return Err(fail("its row is no value of the plan"));
            };
            if to.shape.rank() == 0 || to.dtype != from.dtype || to.shape[1..] != from.shape[..] {
                return Err(fail("its rows are others"));
            }
            if at.dtype != DType::I64 || at.shape.elements() != 1 {
                return Err(fail("the number of its row is none"));
            }
            let readers = passed.iter().map(|passed| passed.source);
            let readers = readers.chain(rows.iter().flat_map(|other| [other.source, other.at]));
            if readers.filter(|&source| source == buffer).count() != 1 {
                return Err(fail("it is written where others read it"));
            }
            let row_bytes = from.shape.elements() * from.dtype.bytes();
            Ok(Store { buffer, row: row.source, at: row.at, room: to.shape[0], row_bytes })
        };
        rows.iter().map(store).collect()
    }

    /// Whether every row that is to be written has its place, after a run with these inputs and outputs.
    pub fn has_room(&self, inputs: &[AlignedBytes], outputs: &[AlignedBytes]) -> bool {
        self.rows.iter().all(|store| store.place(inputs, outputs).is_ok())
    }

    /// What the next segment is made for, after a run with these inputs and outputs.
    pub fn key(&self, inputs: &[AlignedBytes], outputs: &[AlignedBytes]) -> Result<SegmentKey, ProgramError> {
        self.rows.iter().try_for_each(|store| store.place(inputs, outputs).map(drop))?;
        let given = self.passed.iter().zip(&self.specs).map(|(passed, (dtype, shape))| {
            Ok(match passed.take {
                Take::Tensor => Given::Tensor(*dtype, shape.clone()),
                Take::Value => {
                    let bytes = AlignedBytes::copy_from(bytes(passed.source, inputs, outputs));
                    Given::Value(Tensor::new(*dtype, shape.clone(), Arc::new(bytes)))
                }
                Take::Counted { axis, count } => {
                    let counted = bytes(self.passed[count].source, inputs, outputs);
                    let counted = counted.first_chunk().map_or(-1, |bytes| i64::from_le_bytes(*bytes));
                    let room = shape[axis];
                    let fits = usize::try_from(counted).ok().filter(|&counted| counted <= room);
                    let counted = fits.ok_or(ProgramError::Count { count: counted, room })?;
                    let mut dims = shape.to_vec();
                    dims[axis] = counted;
                    Given::Tensor(*dtype, dims.into())
                }
            })
        });
        let given = given.collect::<Result<_, _>>()?;
        Ok(SegmentKey { part: Some(self.part.clone()), given })
    }

    /// The values that the next segment is chosen by, in their order: with the plan they are all that its key
    /// depends on.
    pub fn values<'b>(
        &'b self,
        inputs: &'b [AlignedBytes],
        outputs: &'b [AlignedBytes],
    ) -> impl Iterator<Item = &'b [u8]> {
        let values = self.passed.iter().filter(|passed| passed.take == Take::Value);
        values.map(|passed| bytes(passed.source, inputs, outputs))
    }

    /// Bytes that [`HandOver::carry`] would copy, those of rows included.
    pub fn copied_bytes(
        &self,
        inputs: &[AlignedBytes],
        outputs: &[AlignedBytes],
        next: &[AlignedBytes],
    ) -> usize {
        let mut copied = self.rows.iter().map(|store| store.row_bytes).sum();
        self.each(next, |source, to, last| {
            let from = bytes(source, inputs, outputs);
            if !last || from.len() != to.len() {
                copied += from.len().min(to.len());
            }
        });
        copied
    }

    /// Calls `visit` for every tensor that is handed over: where it is, where it goes, and whether it goes
    /// nowhere else afterwards.
    fn each<T>(&self, next: impl IntoIterator<Item = T>, mut visit: impl FnMut(Source, T, bool)) {
        let tensors = || self.passed.iter().filter(|passed| passed.take != Take::Value);
        for (index, (passed, to)) in tensors().zip(next).enumerate() {
            let last = tensors().skip(index + 1).all(|later| later.source != passed.source);
            visit(passed.source, to, last);
        }
    }

    /// Hands the tensors over: from the buffers of the run to the inputs of the next, which have their sizes.
    /// Rows are written first, if they have room. Buffers of one size are exchanged, others copied.
    /// Allocates nothing.
    pub fn carry(
        &self,
        inputs: &mut [AlignedBytes],
        outputs: &mut [AlignedBytes],
        next: &mut [AlignedBytes],
    ) {
        for store in &self.rows {
            store.write(inputs, outputs);
        }
        self.each(next, |source, to, last| {
            let from = bytes_mut(source, inputs, outputs);
            if last && from.len() == to.len() {
                std::mem::swap(from, to);
            } else {
                let length = from.len().min(to.len());
                to.as_mut_slice()[..length].copy_from_slice(&from.as_slice()[..length]);
            }
        });
    }
}

impl Store {
    /// Where the row is written.
    fn place(
        &self,
        inputs: &[AlignedBytes],
        outputs: &[AlignedBytes],
    ) -> Result<std::ops::Range<usize>, ProgramError> {
        let at = bytes(self.at, inputs, outputs).first_chunk().map_or(-1, |at| i64::from_le_bytes(*at));
        let fits = usize::try_from(at).ok().filter(|&at| at < self.room);
        let index = fits.ok_or(ProgramError::Row { at, room: self.room })?;
        Ok(index * self.row_bytes..(index + 1) * self.row_bytes)
    }

    fn write(&self, inputs: &mut [AlignedBytes], outputs: &mut [AlignedBytes]) {
        let Ok(place) = self.place(inputs, outputs) else { return };
        // Out of the way while another one of them is read.
        let mut buffer = std::mem::take(bytes_mut(self.buffer, inputs, outputs));
        let row = bytes(self.row, inputs, outputs);
        buffer.as_mut_slice()[place].copy_from_slice(&row[..self.row_bytes]);
        *bytes_mut(self.buffer, inputs, outputs) = buffer;
    }
}

fn spec(plan: &Plan, source: Source) -> Option<&IoSpec> {
    match source {
        Source::Output(index) => plan.outputs().get(index),
        Source::Input(index) => plan.inputs().get(index),
    }
}

fn bytes<'b>(source: Source, inputs: &'b [AlignedBytes], outputs: &'b [AlignedBytes]) -> &'b [u8] {
    match source {
        Source::Output(index) => outputs[index].as_slice(),
        Source::Input(index) => inputs[index].as_slice(),
    }
}

fn bytes_mut<'b>(
    source: Source,
    inputs: &'b mut [AlignedBytes],
    outputs: &'b mut [AlignedBytes],
) -> &'b mut AlignedBytes {
    match source {
        Source::Output(index) => &mut outputs[index],
        Source::Input(index) => &mut inputs[index],
    }
}
