//! What comes after a segment, and how values get there.

use std::sync::Arc;

use reef_base::limits::{MODEL_TENSORS_MAX, SHAPE_VALUES_MAX};
use reef_base::{AlignedBytes, Buffer};
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
    pub fn has_room(&self, inputs: &[Buffer], outputs: &[Buffer]) -> bool {
        self.rows.iter().all(|store| store.place(inputs, outputs).is_ok())
    }

    /// What the next segment is made for, after a run with these inputs and outputs.
    pub fn key(&self, inputs: &[Buffer], outputs: &[Buffer]) -> Result<SegmentKey, ProgramError> {
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
        inputs: &'b [Buffer],
        outputs: &'b [Buffer],
    ) -> impl Iterator<Item = &'b [u8]> {
        let values = self.passed.iter().filter(|passed| passed.take == Take::Value);
        values.map(|passed| bytes(passed.source, inputs, outputs))
    }

    /// Bytes that [`HandOver::carry`] would copy, those of rows included; `usize::MAX` if the host does not
    /// see all of them.
    pub fn copied_bytes(&self, inputs: &[Buffer], outputs: &[Buffer], next: &[Buffer]) -> usize {
        let mut copied: usize = self.rows.iter().map(|store| store.row_bytes).sum();
        self.each(next, |source, to, last| {
            let from = buffer(source, inputs, outputs);
            if !last || !are_alike(from, to) {
                let seen = from.is_visible() && to.is_visible();
                copied = copied.saturating_add(if seen { from.len().min(to.len()) } else { usize::MAX });
            }
        });
        copied
    }

    /// Calls `visit` for every tensor that is handed over: where it is, where it goes, and whether it goes
    /// nowhere else afterwards.
    fn each<T>(&self, next: impl IntoIterator<Item = T>, visit: impl FnMut(Source, T, bool)) {
        each(self.tensors(), next, visit);
    }

    fn tensors(&self) -> impl Iterator<Item = Source> + Clone {
        let tensors = self.passed.iter().filter(|passed| passed.take != Take::Value);
        tensors.map(|passed| passed.source)
    }

    /// Hands the tensors over: from the buffers of the run to the inputs of the next, which have their sizes.
    /// Rows are written first, if they have room. Buffers of one size and domain are exchanged, others
    /// copied: by `copy` where the host does not see them. Allocates nothing.
    pub fn carry(
        &self,
        inputs: &mut [Buffer],
        outputs: &mut [Buffer],
        next: &mut [Buffer],
        copy: impl FnMut(&Buffer, &mut Buffer),
    ) {
        for store in &self.rows {
            store.write(inputs, outputs);
        }
        carry(self.tensors(), inputs, outputs, next, copy);
    }

    /// Every value that it reads.
    pub fn sources(&self) -> impl Iterator<Item = Source> {
        let rows = self.rows.iter().flat_map(|store| [store.row, store.at]);
        self.passed.iter().map(|passed| passed.source).chain(rows)
    }

    /// The same, after another plan, in which `place` says where each of the values lies.
    pub fn after(&self, plan: &Plan, place: impl Fn(Source) -> Source) -> Result<HandOver, ProgramError> {
        let passed = self.passed.iter().map(|passed| Passed { source: place(passed.source), ..*passed });
        let passed: Vec<Passed> = passed.collect();
        let row = |store: &Store| {
            let to = self.passed.iter().position(|passed| passed.source == store.buffer);
            Row { passed: to.unwrap_or(usize::MAX), source: place(store.row), at: place(store.at) }
        };
        let rows: Vec<Row> = self.rows.iter().map(row).collect();
        let specs = HandOver::specs(plan, &passed)?;
        let rows = HandOver::stores(plan, &passed, &rows)?;
        Ok(HandOver { part: self.part.clone(), passed, specs, rows })
    }
}

/// From one plan to the next of a segment that is cut into several, one behind the other on devices of their
/// own.
#[derive(Clone, Debug)]
pub struct Transfer {
    sources: Vec<Source>,
}

impl Transfer {
    /// The inputs of `to` are these values of `from`.
    pub fn new(from: &Plan, to: &Plan, sources: Vec<Source>) -> Result<Transfer, ProgramError> {
        let fail = |index: usize, reason: &str| ProgramError::Passed { index, reason: reason.into() };
        if sources.len() != to.inputs().len() {
            return Err(fail(sources.len().min(to.inputs().len()), "not one value for every input"));
        }
        for (index, (&source, input)) in sources.iter().zip(to.inputs()).enumerate() {
            let value = spec(from, source).ok_or_else(|| fail(index, "it is no value of the plan"))?;
            if value.bytes() != input.bytes() {
                return Err(fail(index, "it has another size than the input"));
            }
        }
        Ok(Transfer { sources })
    }

    /// Hands the values over, as [`HandOver::carry`] does.
    pub fn carry(
        &self,
        inputs: &mut [Buffer],
        outputs: &mut [Buffer],
        next: &mut [Buffer],
        copy: impl FnMut(&Buffer, &mut Buffer),
    ) {
        carry(self.sources.iter().copied(), inputs, outputs, next, copy);
    }
}

/// Calls `visit` for every source: where it goes, and whether it goes nowhere else afterwards.
fn each<T>(
    sources: impl Iterator<Item = Source> + Clone,
    next: impl IntoIterator<Item = T>,
    mut visit: impl FnMut(Source, T, bool),
) {
    for (index, (source, to)) in sources.clone().zip(next).enumerate() {
        let last = sources.clone().skip(index + 1).all(|later| later != source);
        visit(source, to, last);
    }
}

/// Moves every source into its place.
fn carry(
    sources: impl Iterator<Item = Source> + Clone,
    inputs: &mut [Buffer],
    outputs: &mut [Buffer],
    next: &mut [Buffer],
    mut copy: impl FnMut(&Buffer, &mut Buffer),
) {
    each(sources, next, |source, to, last| {
        let from = buffer_mut(source, inputs, outputs);
        if last && are_alike(from, to) {
            std::mem::swap(from, to);
        } else if !from.is_visible() || !to.is_visible() {
            copy(from, to);
        } else {
            let length = from.len().min(to.len());
            to.as_mut_slice()[..length].copy_from_slice(&from.as_slice()[..length]);
        }
    });
}

impl Store {
    /// Where the row is written.
    fn place(&self, inputs: &[Buffer], outputs: &[Buffer]) -> Result<std::ops::Range<usize>, ProgramError> {
        let at = bytes(self.at, inputs, outputs).first_chunk().map_or(-1, |at| i64::from_le_bytes(*at));
        let fits = usize::try_from(at).ok().filter(|&at| at < self.room);
        let index = fits.ok_or(ProgramError::Row { at, room: self.room })?;
        Ok(index * self.row_bytes..(index + 1) * self.row_bytes)
    }

    fn write(&self, inputs: &mut [Buffer], outputs: &mut [Buffer]) {
        let Ok(place) = self.place(inputs, outputs) else { return };
        // Out of the way while another one of them is read.
        let mut buffer = std::mem::take(buffer_mut(self.buffer, inputs, outputs));
        let row = bytes(self.row, inputs, outputs);
        buffer.as_mut_slice()[place].copy_from_slice(&row[..self.row_bytes]);
        *buffer_mut(self.buffer, inputs, outputs) = buffer;
    }
}

fn spec(plan: &Plan, source: Source) -> Option<&IoSpec> {
    match source {
        Source::Output(index) => plan.outputs().get(index),
        Source::Input(index) => plan.inputs().get(index),
    }
}

/// Whether one may be taken for the other.
fn are_alike(a: &Buffer, b: &Buffer) -> bool {
    a.len() == b.len() && a.domain() == b.domain()
}

fn buffer<'b>(source: Source, inputs: &'b [Buffer], outputs: &'b [Buffer]) -> &'b Buffer {
    match source {
        Source::Output(index) => &outputs[index],
        Source::Input(index) => &inputs[index],
    }
}

fn bytes<'b>(source: Source, inputs: &'b [Buffer], outputs: &'b [Buffer]) -> &'b [u8] {
    buffer(source, inputs, outputs).as_slice()
}

fn buffer_mut<'b>(source: Source, inputs: &'b mut [Buffer], outputs: &'b mut [Buffer]) -> &'b mut Buffer {
    match source {
        Source::Output(index) => &mut outputs[index],
        Source::Input(index) => &mut inputs[index],
    }
}
