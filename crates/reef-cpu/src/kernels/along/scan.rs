//! Running sums and products, each row's in its order.

use std::marker::PhantomData;

use super::number::{Number, Wide};
use super::{OfPiece, Piece, SIDE_BY_SIDE, Walk};
use crate::context::BlockContext;
use crate::kernels::pace::{Pace, Stopped};

pub(super) struct Scan<N, const PRODUCT: bool> {
    exclusive: bool,
    reverse: bool,
    of: PhantomData<fn() -> N>,
}

/// Steps of a single row between counts of steps.
const RUN: usize = 512;

impl<N: Number, const PRODUCT: bool> Scan<N, PRODUCT> {
    pub(super) fn new(exclusive: bool, reverse: bool) -> Self {
        Scan { exclusive, reverse, of: PhantomData }
    }

    const START: N::Wide = if PRODUCT { N::Wide::ONE } else { N::Wide::ZERO };

    #[inline(always)]
    fn joined(sum: N::Wide, x: N) -> N::Wide {
        if PRODUCT { sum.times(x.wide()) } else { sum.plus(x.wide()) }
    }

    /// The place that is taken in this turn.
    #[inline(always)]
    fn place(&self, turn: usize, extent: usize) -> usize {
        if self.reverse { extent - 1 - turn } else { turn }
    }

    #[inline(always)]
    unsafe fn row(
        &self,
        x: *const N,
        y: *mut N,
        extent: usize,
        stride: usize,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let mut sum = Self::START;
        for begin in (0..extent).step_by(RUN) {
            let end = (begin + RUN).min(extent);
            pace.steps(8 + 2 * (end - begin))?;
            for turn in begin..end {
                let at = self.place(turn, extent) * stride;
                let before = sum;
                // SAFETY: the caller vouches for the row.
                unsafe {
                    sum = Self::joined(sum, *x.add(at));
                    y.add(at).write(N::narrow(if self.exclusive { before } else { sum }));
                }
            }
        }
        Ok(())
    }

    /// One step of rows that are neighbours.
    #[inline(always)]
    fn line(&self, sums: &mut [N::Wide], x: &[N], y: &mut [N]) {
        let exclusive = self.exclusive;
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            let before = *sum;
            *sum = Self::joined(before, *x);
            *y = N::narrow(if exclusive { before } else { *sum });
        }
    }
}

impl<N: Number, const PRODUCT: bool> OfPiece for Scan<N, PRODUCT> {
    const COLUMNS: usize = SIDE_BY_SIDE;

    #[inline(always)]
    unsafe fn run(
        &self,
        walk: &Walk,
        context: &BlockContext<'_>,
        piece: Piece,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let (extent, inner, columns) = (walk.spec.extent, walk.spec.inner, piece.columns);
        // SAFETY: the piece is a part of the operands.
        unsafe {
            let (x, y) = (walk.x::<N>(context, piece), walk.y::<N>(context, 0, piece, extent));
            if columns == 1 {
                return self.row(x, y, extent, inner, pace);
            }
            let mut sums = [Self::START; SIDE_BY_SIDE];
            let sums = &mut sums[..columns];
            for turn in 0..extent {
                pace.steps(8 + columns / 2)?;
                let at = self.place(turn, extent) * inner;
                let from = std::slice::from_raw_parts(x.add(at), columns);
                self.line(sums, from, std::slice::from_raw_parts_mut(y.add(at), columns));
            }
        }
        Ok(())
    }
}
