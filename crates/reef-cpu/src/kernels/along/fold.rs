//! Integers folded. Sums and products wrap, so their order does not matter.

use std::marker::PhantomData;

use super::number::Whole;
use super::{OfPiece, Piece, SIDE_BY_SIDE, Walk};
use crate::context::BlockContext;
use crate::kernels::pace::{Pace, Stopped};

/// How to fold.
pub(super) trait How: Send + Sync + 'static {
    /// The result of folding nothing.
    const START: i64;
    /// Whether integers are ordered, not added or multiplied.
    const ORDERS: bool = false;
    fn fold(value: i64, x: i64) -> i64;
    /// The result of so many partial results folded by [`How::join`].
    fn join(value: i64, other: i64) -> i64 {
        Self::fold(value, other)
    }
    /// Of so many elements; `wraps` where the sum is that of a u64.
    fn finish(value: i64, _count: usize, _wraps: bool) -> i64 {
        value
    }
}

macro_rules! ways {
    ($($name:ident: $start:expr, $orders:expr, $value:ident $x:ident => $fold:expr;)*) => {$(
        pub(super) struct $name;

        impl How for $name {
            const START: i64 = $start;
            const ORDERS: bool = $orders;
            #[inline(always)]
            fn fold($value: i64, $x: i64) -> i64 { $fold }
        }
    )*};
}

ways! {
    Sum: 0, false, value x => value.wrapping_add(x);
    Product: 1, false, value x => value.wrapping_mul(x);
    Largest: i64::MIN, true, value x => value.max(x);
    Smallest: i64::MAX, true, value x => value.min(x);
}

pub(super) struct Square;

impl How for Square {
    const START: i64 = 0;
    #[inline(always)]
    fn fold(value: i64, x: i64) -> i64 {
        value.wrapping_add(x.wrapping_mul(x))
    }
    #[inline(always)]
    fn join(value: i64, other: i64) -> i64 {
        value.wrapping_add(other)
    }
}

pub(super) struct Mean;

impl How for Mean {
    const START: i64 = 0;
    #[inline(always)]
    fn fold(value: i64, x: i64) -> i64 {
        value.wrapping_add(x)
    }
    #[inline(always)]
    fn finish(value: i64, count: usize, wraps: bool) -> i64 {
        if wraps { (value as u64 / count as u64) as i64 } else { value / count as i64 }
    }
}

pub(super) struct Fold<N, H>(PhantomData<fn() -> (N, H)>);

/// Partial results of a single row.
const LANES: usize = 32;
/// Steps along the axis between counts of steps.
const RUN: usize = 32;

impl<N: Whole, H: How> Fold<N, H> {
    pub(super) fn new() -> Self {
        Fold(PhantomData)
    }

    /// Turns the order of unsigned integers into that of signed ones, and back.
    #[inline(always)]
    fn turned(x: i64) -> i64 {
        if H::ORDERS && N::WRAPS { x ^ i64::MIN } else { x }
    }

    #[inline(always)]
    unsafe fn sweep(from: *const N, stride: usize, steps: usize, values: &mut [i64]) {
        for step in 0..steps {
            // SAFETY: the caller vouches for the columns of every step.
            let line = unsafe { std::slice::from_raw_parts(from.add(step * stride), values.len()) };
            for (value, x) in values.iter_mut().zip(line) {
                *value = H::fold(*value, Self::turned(x.whole()));
            }
        }
    }

    #[inline(always)]
    fn result(value: i64, count: usize) -> N {
        N::wrapped(H::finish(Self::turned(value), count, N::WRAPS))
    }
}

impl<N: Whole, H: How> OfPiece for Fold<N, H> {
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
        let mut values = [H::START; SIDE_BY_SIDE];
        // SAFETY: the piece is a part of the operands.
        unsafe {
            let (x, y) = (walk.x::<N>(context, piece), walk.y::<N>(context, 0, piece, 1));
            let alone = inner == 1;
            let (columns, stride) = if alone { (LANES, LANES) } else { (piece.columns, inner) };
            let steps = if alone { extent / LANES } else { extent };
            for begin in (0..steps).step_by(RUN) {
                let count = RUN.min(steps - begin);
                pace.steps(count * (4 + columns / 2))?;
                Self::sweep(x.add(begin * stride), stride, count, &mut values[..columns]);
            }
            pace.steps(columns)?;
            if !alone {
                (0..columns).for_each(|at| y.add(at).write(Self::result(values[at], extent)));
                return Ok(());
            }
            let mut value = values[..LANES].iter().fold(H::START, |value, &other| H::join(value, other));
            for at in steps * LANES..extent {
                value = H::fold(value, Self::turned((*x.add(at)).whole()));
            }
            y.write(Self::result(value, extent));
        }
        Ok(())
    }
}
