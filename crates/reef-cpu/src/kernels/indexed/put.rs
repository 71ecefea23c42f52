//! Elements or slices put on places that indices name.
//!
//! A block copies what it owns of the data, looks at all indices of its planes and columns and puts on what
//! it owns: it begins anew whenever it runs.

use std::marker::PhantomData;
use std::ops::Range;

use reef_graph::{BadIndex, DType, Indexing, Putting};
use reef_plan::{Isa, Kernel, PutSpec, Region};

use super::super::along::number::{Number, Wide};
use super::super::along::{of_numbers, of_wholes};
use super::super::elementwise::convert::{Bf16, F16};
use super::super::pace::{Pace, SCATTERED, Stopped};
use super::super::vector::Vector;
use super::super::{BlockKernel, VectorKernel, bind, bind_plain};
use super::{CHUNK, Indices, place};
use crate::context::{BlockContext, BlockEnd};

/// Steps of looking at a row of indices, and of joining two elements.
const LOOK: usize = 4;
const JOIN: usize = 4;
/// Elements that are joined between polls.
const JOINED: usize = 256;

/// Makes a kernel ready.
pub(in super::super) fn prepare(spec: &PutSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    match (spec.putting, spec.dtype.bytes()) {
        (Putting::Replace, 8) => bind(Put::new(spec, kernel, Replace::<u64>(PhantomData)), isa),
        (Putting::Replace, 4) => bind(Put::new(spec, kernel, Replace::<u32>(PhantomData)), isa),
        (Putting::Replace, 2) => bind(Put::new(spec, kernel, Replace::<u16>(PhantomData)), isa),
        (Putting::Replace, _) => bind(Put::new(spec, kernel, Replace::<u8>(PhantomData)), isa),
        _ => of_numbers!(spec.dtype, computing((spec, kernel), isa)),
    }
}

/// A kernel that computes with elements.
fn computing<N: Number, const MUCH: bool>(
    (spec, kernel): (&PutSpec, &Kernel),
    isa: Isa,
) -> Box<dyn BlockKernel> {
    let put = Put::new(spec, kernel, Compute::<N>(spec.putting, PhantomData));
    if MUCH { bind(put, isa) } else { bind_plain(put) }
}

/// What becomes of an element.
trait Join: Send + Sync + 'static {
    type Element: Copy + 'static;
    /// Whether what was there does not matter.
    const REPLACES: bool;

    fn join(&self, there: Self::Element, put: Self::Element) -> Self::Element;
}

struct Replace<T>(PhantomData<fn() -> T>);

impl<T: Copy + 'static> Join for Replace<T> {
    type Element = T;
    const REPLACES: bool = true;

    #[inline(always)]
    fn join(&self, _there: T, put: T) -> T {
        put
    }
}

struct Compute<N>(Putting, PhantomData<fn() -> N>);

impl<N: Number> Join for Compute<N> {
    type Element = N;
    const REPLACES: bool = false;

    #[inline(always)]
    fn join(&self, there: N, put: N) -> N {
        let (a, b) = (there.wide(), put.wide());
        let nan = b.partial_cmp(&b).is_none();
        match self.0 {
            Putting::Replace => put,
            Putting::Add => N::narrow(a.plus(b)),
            Putting::Multiply => N::narrow(a.times(b)),
            Putting::Smaller if b < a || nan => put,
            Putting::Larger if b > a || nan => put,
            Putting::Smaller | Putting::Larger => there,
        }
    }
}

struct Put<J> {
    spec: PutSpec,
    data: Region,
    indices: Indices,
    updates: Region,
    y: Region,
    join: J,
}

/// What a block owns of a plane.
#[derive(Clone, Copy)]
struct Part<'a> {
    plane: usize,
    places: &'a Range<usize>,
    columns: &'a Range<usize>,
}

impl<J: Join> Put<J> {
    fn new(spec: &PutSpec, kernel: &Kernel, join: J) -> Put<J> {
        let indices = Indices {
            region: kernel.reads[1],
            dtype: spec.index_dtype,
            kernel: kernel.name.as_str().into(),
            operator: spec.operator(),
        };
        let (data, updates, y) = (kernel.reads[0], kernel.reads[2], kernel.writes[0]);
        Put { spec: spec.clone(), data, indices, updates, y, join }
    }

    /// The element of y at a place of a part, in its first column.
    #[inline(always)]
    fn at(&self, part: Part<'_>, place: usize) -> usize {
        let [_, places, inner] = self.spec.extents();
        (part.plane * places + place) * inner + part.columns.start
    }

    /// Copies the part.
    ///
    /// # Safety
    /// As [`BlockKernel::run`]; the part is one of the block's.
    unsafe fn copy(
        &self,
        context: &BlockContext<'_>,
        part: Part<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let data = context.read_ptr(&self.data).cast::<J::Element>();
        let y = context.write_ptr(&self.y).cast::<J::Element>();
        let inner = self.spec.indexing.inner;
        // Places of whole rows are neighbours.
        let (runs, places) = match part.columns.len() == inner {
            true => (part.places.start..part.places.start + 1, part.places.len()),
            false => (part.places.clone(), 1),
        };
        let bytes = places * part.columns.len() * size_of::<J::Element>();
        for run in runs {
            let at = self.at(part, run);
            // SAFETY: the part is inside of both.
            unsafe { pace.copy(data.add(at).cast(), y.add(at).cast(), bytes)? };
        }
        Ok(())
    }

    /// Puts updates, each of which has an index of its own, on the part.
    ///
    /// # Safety
    /// As [`BlockKernel::run`]; the part is one of the block's.
    #[inline(always)]
    unsafe fn elements(
        &self,
        context: &BlockContext<'_>,
        part: Part<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let Indexing { rows, inner, .. } = self.spec.indexing;
        let [_, extent, _] = self.spec.extents();
        let (mut buffer, step) = ([0; CHUNK], usize::from(inner > 1));
        // Neighbours in a row; where rows have one element, in a plane.
        let (runs, length) = if inner == 1 { (1, rows) } else { (rows, part.columns.len()) };
        for run in 0..runs {
            let first = (part.plane * rows + run) * inner + part.columns.start;
            for begin in (0..length).step_by(CHUNK) {
                let indices = &mut buffer[..CHUNK.min(length - begin)];
                pace.steps(LOOK + indices.len())?;
                // SAFETY: there is an index for every element.
                unsafe { self.indices.load(context, first + begin, indices) };
                if part.places.len() < extent && !concerns(indices, extent, part.places) {
                    continue;
                }
                let at = self.at(part, 0) + begin * step;
                // SAFETY: passed on from the caller.
                let put = unsafe { self.some(context, indices, first + begin, (at, step), part.places)? };
                pace.steps(SCATTERED * put)?;
            }
        }
        Ok(())
    }

    /// Puts the updates from number `first` on, whose indices these are, on what is owned of the plane; `at`
    /// is the element at place 0 for the first of them, then one `step` further for each. How many were put.
    ///
    /// # Safety
    /// As [`BlockKernel::run`]; the places are the block's.
    #[inline(always)]
    unsafe fn some(
        &self,
        context: &BlockContext<'_>,
        indices: &[i64],
        first: usize,
        (at, step): (usize, usize),
        places: &Range<usize>,
    ) -> Result<usize, Stopped> {
        let [_, extent, inner] = self.spec.extents();
        let updates = context.read_ptr(&self.updates).cast::<J::Element>();
        let y = context.write_ptr(&self.y).cast::<J::Element>();
        let mut put = 0;
        for (next, &index) in indices.iter().enumerate() {
            let inside = place(index, extent);
            if inside >= extent as u64 {
                return Err(self.indices.fault(BadIndex { pick: first + next, index, extent }));
            }
            if !places.contains(&(inside as usize)) {
                continue;
            }
            // SAFETY: the place is one of the block's, and there is an update for every index.
            unsafe {
                let to = y.add(at + inside as usize * inner + next * step);
                *to = self.join.join(*to, *updates.add(first + next));
            }
            put += 1;
        }
        Ok(put)
    }

    /// Puts updates that are slices on the part.
    ///
    /// # Safety
    /// As [`BlockKernel::run`]; the part is one of the block's.
    #[inline(always)]
    unsafe fn slices(
        &self,
        context: &BlockContext<'_>,
        part: Part<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let Indexing { rows, inner, ref extents, .. } = self.spec.indexing;
        let (updates, y) = (context.read_ptr(&self.updates), context.write_ptr(&self.y));
        let (updates, y) = (updates.cast::<J::Element>(), y.cast::<J::Element>());
        let count = part.columns.len();
        for row in part.plane * rows..(part.plane + 1) * rows {
            pace.steps(LOOK + extents.len())?;
            // SAFETY: the row is one of the indices'.
            let named = unsafe { self.indices.row(context, row, extents)? };
            if !part.places.contains(&named) {
                continue;
            }
            pace.steps(SCATTERED)?;
            // SAFETY: the slice is one of the updates', and the place is the block's.
            let (from, to) =
                unsafe { (updates.add(row * inner + part.columns.start), y.add(self.at(part, named))) };
            if J::REPLACES && count > 1 {
                // SAFETY: as above.
                unsafe { pace.copy(from.cast(), to.cast(), count * size_of::<J::Element>())? };
                continue;
            }
            for begin in (0..count).step_by(JOINED) {
                let end = count.min(begin + JOINED);
                pace.steps(JOIN * (end - begin))?;
                for at in begin..end {
                    // SAFETY: as above.
                    unsafe { *to.add(at) = self.join.join(*to.add(at), *from.add(at)) };
                }
            }
        }
        Ok(())
    }

    /// Makes the block's part of a plane.
    ///
    /// # Safety
    /// As [`BlockKernel::run`]; the part is one of the block's.
    #[inline(always)]
    unsafe fn part(
        &self,
        context: &BlockContext<'_>,
        part: Part<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        // SAFETY: passed on from the caller.
        unsafe {
            self.copy(context, part, pace)?;
            match self.spec.indexing.by_element {
                true => self.elements(context, part, pace),
                false => self.slices(context, part, pace),
            }
        }
    }
}

impl<J: Join> VectorKernel for Put<J> {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let [planes, places, columns] = self.spec.part(block);
        let mut pace = Pace::new(&context.poll);
        for plane in planes {
            let part = Part { plane, places: &places, columns: &columns };
            // SAFETY: passed on from the caller.
            if let Err(stopped) = unsafe { self.part(context, part, &mut pace) } {
                return stopped;
            }
        }
        BlockEnd::Done
    }
}

/// Whether one of the indices names a place that is owned, or none that there is.
#[inline(always)]
fn concerns(indices: &[i64], extent: usize, places: &Range<usize>) -> bool {
    let (begin, count) = (places.start as u64, places.len() as u64);
    let mut found = false;
    for &index in indices {
        let inside = place(index, extent);
        found |= (inside.wrapping_sub(begin) < count) | (inside >= extent as u64);
    }
    found
}
