//! Elements or slices taken from places that indices name.

use std::marker::PhantomData;

use reef_graph::{BadIndex, Indexing};
use reef_plan::{Kernel, Region, TakeSpec};

use super::super::BlockKernel;
use super::super::pace::{Pace, SCATTERED, Stopped};
use super::{CHUNK, Indices, place};
use crate::context::{BlockContext, BlockEnd};

/// Makes a kernel ready.
pub(in super::super) fn prepare(spec: &TakeSpec, kernel: &Kernel) -> Box<dyn BlockKernel> {
    match spec.dtype.bytes() {
        8 => Box::new(Take::<u64>::new(spec, kernel)),
        4 => Box::new(Take::<u32>::new(spec, kernel)),
        2 => Box::new(Take::<u16>::new(spec, kernel)),
        _ => Box::new(Take::<u8>::new(spec, kernel)),
    }
}

/// Of elements of the size of a `T`.
struct Take<T> {
    spec: TakeSpec,
    data: Region,
    indices: Indices,
    y: Region,
    size: PhantomData<fn() -> T>,
}

impl<T: Copy + 'static> Take<T> {
    fn new(spec: &TakeSpec, kernel: &Kernel) -> Take<T> {
        let indices = Indices {
            region: kernel.reads[1],
            dtype: spec.index_dtype,
            kernel: kernel.name.as_str().into(),
            operator: spec.operator(),
        };
        Take { spec: spec.clone(), data: kernel.reads[0], indices, y: kernel.writes[0], size: PhantomData }
    }

    /// Makes the elements `at .. end` of y, each of which has an index of its own.
    ///
    /// # Safety
    /// As [`BlockKernel::run`]; y has them.
    unsafe fn elements(
        &self,
        context: &BlockContext<'_>,
        mut at: usize,
        end: usize,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let Indexing { rows, inner, ref extents, .. } = self.spec.indexing;
        let extent = extents[0];
        let data = context.read_ptr(&self.data).cast::<T>();
        let y = context.write_ptr(&self.y).cast::<T>();
        let mut indices = [0; CHUNK];
        while at < end {
            // Neighbours in a row; where rows have one element, in a plane.
            let (row, column) = (at / inner, at % inner);
            let left = if inner == 1 { rows - row % rows } else { inner - column };
            let (step, count) = (usize::from(inner > 1), left.min(end - at).min(CHUNK));
            let indices = &mut indices[..count];
            pace.steps(SCATTERED * count)?;
            // SAFETY: there is an index for every element.
            unsafe { self.indices.load(context, at, indices) };
            let base = row / rows * extent * inner + column;
            for (next, &index) in indices.iter().enumerate() {
                let inside = place(index, extent);
                if inside >= extent as u64 {
                    return Err(self.indices.fault(BadIndex { pick: at + next, index, extent }));
                }
                // SAFETY: the place is one of the plane, and the caller vouches for y.
                unsafe { *y.add(at + next) = *data.add(base + inside as usize * inner + next * step) };
            }
            at += count;
        }
        Ok(())
    }

    /// Makes the elements `at .. end` of y, which are slices, the first and last of which may be cut.
    ///
    /// # Safety
    /// As [`BlockKernel::run`]; y has them.
    unsafe fn slices(
        &self,
        context: &BlockContext<'_>,
        mut at: usize,
        end: usize,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let Indexing { rows, inner, ref extents, .. } = self.spec.indexing;
        let places = self.spec.indexing.places();
        let data = context.read_ptr(&self.data).cast::<T>();
        let y = context.write_ptr(&self.y).cast::<T>();
        while at < end {
            let (row, column) = (at / inner, at % inner);
            let count = (inner - column).min(end - at);
            pace.steps(SCATTERED + extents.len())?;
            // SAFETY: the row is one of the indices', the place one of the plane; the caller vouches for y.
            unsafe {
                let named = self.indices.row(context, row, extents)?;
                let from = data.add((row / rows * places + named) * inner + column);
                if count == 1 {
                    *y.add(at) = *from;
                } else {
                    pace.copy(from.cast(), y.add(at).cast(), count * size_of::<T>())?;
                }
            }
            at += count;
        }
        Ok(())
    }
}

impl<T: Copy + 'static> BlockKernel for Take<T> {
    unsafe fn run(&self, context: &BlockContext<'_>, block: u32) -> BlockEnd {
        let begin = block as usize * self.spec.tile;
        let end = (begin + self.spec.tile).min(self.spec.indexing.moved());
        let mut pace = Pace::new(&context.poll);
        // SAFETY: passed on from the caller; the elements are the block's.
        let made = unsafe {
            match self.spec.indexing.by_element {
                true => self.elements(context, begin, end, &mut pace),
                false => self.slices(context, begin, end, &mut pace),
            }
        };
        made.err().unwrap_or(BlockEnd::Done)
    }
}
