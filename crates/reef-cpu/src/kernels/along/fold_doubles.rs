//! Doubles folded, in the order in which they lie along the axis: the same to the bit for any cut.

use reef_graph::Reduce;
use reef_graph::scalar::{larger, smaller};
use reef_plan::RowFunction;

use super::{OfPiece, Piece, SIDE_BY_SIDE, Walk};
use crate::context::BlockContext;
use crate::kernels::pace::{Pace, Stopped};

/// Steps along the axis between counts of steps.
const RUN: usize = 16;

pub(super) struct FoldDoubles;

fn fold(reduce: Reduce, value: f64, x: f64) -> f64 {
    match reduce {
        Reduce::Sum | Reduce::Mean => value + x,
        Reduce::SumSquare => value + x * x,
        Reduce::Prod => value * x,
        Reduce::Max => larger(value, x),
        Reduce::Min => smaller(value, x),
    }
}

impl OfPiece for FoldDoubles {
    const COLUMNS: usize = SIDE_BY_SIDE;

    #[inline(always)]
    unsafe fn run(
        &self,
        walk: &Walk,
        context: &BlockContext<'_>,
        piece: Piece,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let RowFunction::Fold(reduce) = walk.spec.function else { unreachable!("it folds") };
        let (extent, inner, columns) = (walk.spec.extent, walk.spec.inner, piece.columns);
        let start = match reduce {
            Reduce::Sum | Reduce::Mean | Reduce::SumSquare => 0.0,
            Reduce::Prod => 1.0,
            Reduce::Max => f64::NEG_INFINITY,
            Reduce::Min => f64::INFINITY,
        };
        let mut values = [start; SIDE_BY_SIDE];
        // SAFETY: the piece is a part of the operands.
        unsafe {
            let (x, y) = (walk.x::<f64>(context, piece), walk.y::<f64>(context, 0, piece, 1));
            for begin in (0..extent).step_by(RUN) {
                let end = (begin + RUN).min(extent);
                pace.steps((end - begin) * (4 + columns))?;
                for place in begin..end {
                    for (column, value) in values[..columns].iter_mut().enumerate() {
                        *value = fold(reduce, *value, *x.add(place * inner + column));
                    }
                }
            }
            pace.steps(columns)?;
            for (column, value) in values[..columns].iter().enumerate() {
                let mean = reduce == Reduce::Mean;
                y.add(column).write(if mean { *value / extent as f64 } else { *value });
            }
        }
        Ok(())
    }
}
