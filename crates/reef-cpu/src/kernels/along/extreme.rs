//! Places of extremes.
//!
//! Rows that are neighbours keep an extreme each; a single row is dealt out to lanes, which are joined at
//! the end. The first element is where every lane begins, so a NaN is the extreme only if it is the first.

use std::marker::PhantomData;

use super::number::Number;
use super::{OfPiece, Piece, SIDE_BY_SIDE, Walk};
use crate::context::BlockContext;
use crate::kernels::pace::{Pace, Stopped};

pub(super) struct Extreme<N, const LARGEST: bool, const LAST: bool>(PhantomData<fn() -> N>);

/// Lanes of a single row.
const LANES: usize = 64;
/// Steps along the axis between counts of steps.
const RUN: usize = 32;

impl<N: Number, const LARGEST: bool, const LAST: bool> Extreme<N, LARGEST, LAST> {
    pub(super) fn new() -> Self {
        Extreme(PhantomData)
    }

    /// Whether `x` takes the place of the extreme so far, behind which it comes.
    #[inline(always)]
    fn beyond(x: N::Wide, best: N::Wide) -> bool {
        match (LARGEST, LAST) {
            (true, false) => x > best,
            (true, true) => x >= best,
            (false, false) => x < best,
            (false, true) => x <= best,
        }
    }

    /// Takes `lanes` columns from `step` on along `steps` of them, `stride` elements apart.
    #[inline(always)]
    unsafe fn sweep(
        from: *const N,
        stride: usize,
        steps: std::ops::Range<usize>,
        best: &mut [N::Wide],
        place: &mut [u32],
    ) {
        for step in steps {
            // SAFETY: the caller vouches for the columns of every step.
            let line = unsafe { std::slice::from_raw_parts(from.add(step * stride), best.len()) };
            for ((best, place), x) in best.iter_mut().zip(place.iter_mut()).zip(line) {
                let x = x.wide();
                let beyond = Self::beyond(x, *best);
                *best = if beyond { x } else { *best };
                *place = if beyond { step as u32 } else { *place };
            }
        }
    }

    /// The place of the extreme of a row without gaps.
    #[inline(always)]
    unsafe fn of_row(x: *const N, extent: usize, pace: &mut Pace<'_>) -> Result<usize, Stopped> {
        // SAFETY: the caller vouches for the row, which has a first element.
        let (row, first) = unsafe { (std::slice::from_raw_parts(x, extent), (*x).wide()) };
        let (mut best, mut place) = ([first; LANES], [u32::MAX; LANES]);
        let steps = extent / LANES;
        for begin in (0..steps).step_by(RUN) {
            pace.steps(8 + RUN * LANES / 8)?;
            // SAFETY: so many steps have all lanes.
            unsafe { Self::sweep(x, LANES, begin..(begin + RUN).min(steps), &mut best, &mut place) };
        }
        // A lane that took nothing has the first element.
        let mut found = (first, 0);
        for lane in (0..LANES).filter(|&lane| place[lane] != u32::MAX) {
            let at = place[lane] as usize * LANES + lane;
            let equal = best[lane] == found.0;
            let before = if LAST { at > found.1 } else { at < found.1 };
            if Self::beyond(best[lane], found.0) && !equal || equal && before {
                found = (best[lane], at);
            }
        }
        pace.steps(LANES)?;
        for (at, x) in row.iter().enumerate().skip(steps * LANES) {
            if Self::beyond(x.wide(), found.0) {
                found = (x.wide(), at);
            }
        }
        Ok(found.1)
    }
}

impl<N: Number, const LARGEST: bool, const LAST: bool> OfPiece for Extreme<N, LARGEST, LAST> {
    const COLUMNS: usize = SIDE_BY_SIDE;

    #[inline(always)]
    unsafe fn run(
        &self,
        walk: &Walk,
        context: &BlockContext<'_>,
        piece: Piece,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let (extent, inner) = (walk.spec.extent, walk.spec.inner);
        // SAFETY: the piece is a part of the operands; there is a first element.
        unsafe {
            let (x, y) = (walk.x::<N>(context, piece), walk.y::<i64>(context, 0, piece, 1));
            if inner == 1 {
                y.write(Self::of_row(x, extent, pace)? as i64);
                return Ok(());
            }
            let mut best = [(*x).wide(); SIDE_BY_SIDE];
            let mut place = [0; SIDE_BY_SIDE];
            let (best, place) = (&mut best[..piece.columns], &mut place[..piece.columns]);
            (0..piece.columns).for_each(|column| best[column] = (*x.add(column)).wide());
            for begin in (1..extent).step_by(RUN) {
                let end = (begin + RUN).min(extent);
                pace.steps((end - begin) * (8 + piece.columns / 2))?;
                Self::sweep(x, inner, begin..end, best, place);
            }
            pace.steps(piece.columns)?;
            (0..piece.columns).for_each(|column| y.add(column).write(i64::from(place[column])));
        }
        Ok(())
    }
}
