//! The largest or smallest elements: a heap of the best so far, whose worst is a threshold that others are
//! held against many at a time; or all elements sorted, where most are wanted.
//!
//! An entry is an element's rank with its place behind it, so entries are never equal and what comes out is
//! in order, equal elements by place.

use std::marker::PhantomData;

use super::number::Number;
use super::{OfPiece, Piece, Walk};
use crate::context::BlockContext;
use crate::cut::sorts;
use crate::kernels::pace::{Pace, SCATTERED, Stopped};

pub(super) struct Top<N, const LARGEST: bool> {
    k: usize,
    of: PhantomData<fn() -> N>,
}

/// Elements that are held against the threshold at once.
const GLANCE: usize = 128;
/// Elements that are sorted between polls.
const SORTED: usize = 128;

impl<N: Number, const LARGEST: bool> Top<N, LARGEST> {
    pub(super) fn new(k: usize) -> Self {
        Top { k, of: PhantomData }
    }

    /// Whether one of the elements may be better than `worst`: it is, or one of them is a NaN.
    #[inline(always)]
    fn any_beyond(elements: &[N], worst: N::Wide) -> bool {
        let mut within = true;
        for x in elements {
            let x = x.wide();
            within &= if LARGEST { x <= worst } else { x >= worst };
        }
        !within
    }

    /// Leaves the best of a row in `heap`, the worst of them first.
    #[inline(always)]
    unsafe fn select(
        x: *const N,
        stride: usize,
        extent: usize,
        heap: &mut [N::Entry],
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        // SAFETY: the caller vouches for the row.
        let element = |place: usize| unsafe { *x.add(place * stride) };
        let depth = heap.len().ilog2() as usize + 1;
        for (place, entry) in heap.iter_mut().enumerate() {
            pace.steps(4)?;
            *entry = element(place).entry(LARGEST, place as u32);
        }
        for at in (0..heap.len() / 2).rev() {
            pace.steps(2 * depth)?;
            sink(heap, at);
        }
        let mut worst = element(N::place(heap[0]) as usize).wide();
        for begin in (heap.len()..extent).step_by(GLANCE) {
            let end = (begin + GLANCE).min(extent);
            pace.steps(if stride == 1 { GLANCE / 4 } else { 4 * GLANCE })?;
            if stride == 1 {
                // SAFETY: without gaps the row is a slice.
                let glance = unsafe { std::slice::from_raw_parts(x.add(begin), end - begin) };
                if !Self::any_beyond(glance, worst) {
                    continue;
                }
            }
            pace.steps(2 * GLANCE)?;
            for place in begin..end {
                let entry = element(place).entry(LARGEST, place as u32);
                if entry < heap[0] {
                    pace.steps(4 * depth)?;
                    heap[0] = entry;
                    sink(heap, 0);
                }
            }
            worst = element(N::place(heap[0]) as usize).wide();
        }
        // The worst goes behind the others, again and again.
        for len in (1..heap.len()).rev() {
            pace.steps(4 * depth)?;
            heap.swap(0, len);
            sink(&mut heap[..len], 0);
        }
        Ok(())
    }

    /// All of a row sorted, in `entries` or in `spare`.
    #[inline(always)]
    unsafe fn sort<'s>(
        x: *const N,
        stride: usize,
        mut entries: &'s mut [N::Entry],
        mut spare: &'s mut [N::Entry],
        pace: &mut Pace<'_>,
    ) -> Result<&'s [N::Entry], Stopped> {
        for (run, part) in entries.chunks_mut(SORTED).enumerate() {
            pace.steps(16 * SORTED)?;
            for (at, entry) in part.iter_mut().enumerate() {
                let place = run * SORTED + at;
                // SAFETY: the caller vouches for the row.
                *entry = unsafe { *x.add(place * stride) }.entry(LARGEST, place as u32);
            }
            part.sort_unstable();
        }
        let mut run = SORTED;
        while run < entries.len() {
            for (from, to) in entries.chunks(2 * run).zip(spare.chunks_mut(2 * run)) {
                merge(from, run, to, pace)?;
            }
            std::mem::swap(&mut entries, &mut spare);
            run *= 2;
        }
        Ok(entries)
    }
}

/// Puts the first entry in its place: no child is worse than its parent.
#[inline(always)]
fn sink<E: Ord + Copy>(heap: &mut [E], mut at: usize) {
    let entry = heap[at];
    loop {
        let mut child = 2 * at + 1;
        if child >= heap.len() {
            break;
        }
        if child + 1 < heap.len() && heap[child + 1] > heap[child] {
            child += 1;
        }
        if heap[child] <= entry {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = entry;
}

/// Merges the first `run` entries, which are in order, with the others, which are, too.
#[inline(always)]
fn merge<E: Ord + Copy>(from: &[E], run: usize, to: &mut [E], pace: &mut Pace<'_>) -> Result<(), Stopped> {
    let (a, b) = from.split_at(run.min(from.len()));
    let (mut left, mut right) = (0, 0);
    for out in to {
        pace.steps(3)?;
        let take_left = right == b.len() || left < a.len() && a[left] < b[right];
        *out = if take_left { a[left] } else { b[right] };
        left += usize::from(take_left);
        right += usize::from(!take_left);
    }
    Ok(())
}

impl<N: Number, const LARGEST: bool> OfPiece for Top<N, LARGEST> {
    const COLUMNS: usize = 1;

    #[inline(always)]
    unsafe fn run(
        &self,
        walk: &Walk,
        context: &BlockContext<'_>,
        piece: Piece,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let (extent, inner, k) = (walk.spec.extent, walk.spec.inner, self.k);
        if k == 0 {
            return Ok(());
        }
        // SAFETY: the piece is a part of the operands; scratch has room for the entries, of any alignment.
        unsafe {
            let x = walk.x::<N>(context, piece);
            let (values, places) = (walk.y::<N>(context, 0, piece, k), walk.y::<i64>(context, 1, piece, k));
            let entries = context.scratch.cast::<N::Entry>();
            let best: &[N::Entry] = if sorts(k, extent) {
                let (all, spare) = std::slice::from_raw_parts_mut(entries, 2 * extent).split_at_mut(extent);
                Self::sort(x, inner, all, spare, pace)?
            } else {
                let heap = std::slice::from_raw_parts_mut(entries, k);
                Self::select(x, inner, extent, heap, pace)?;
                heap
            };
            for (at, &entry) in best[..k].iter().enumerate() {
                pace.steps(SCATTERED)?;
                let place = N::place(entry) as usize;
                values.add(at * inner).write(*x.add(place * inner));
                places.add(at * inner).write(place as i64);
            }
        }
        Ok(())
    }
}
