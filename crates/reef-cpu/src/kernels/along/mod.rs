//! What goes along an axis: places of extremes, the largest elements, running sums, integers folded.
//!
//! A block walks its rows in pieces: rows that are neighbours in memory side by side, so that every step
//! along the axis is a vector. Element types are generic, and what is written here in loops is compiled for
//! each instruction set, because it is inlined into [`super::bind`]'s entry. Polls by [`Pace`].

mod extreme;
mod fold;
mod fold_doubles;
pub(super) mod number;
mod scan;
mod top;

use reef_graph::{Along, DType, Reduce};
use reef_plan::{AlongSpec, Isa, Kernel, Region, RowFunction};

use super::elementwise::convert::{Bf16, F16};
use super::pace::{Pace, Stopped};
use super::vector::Vector;
use super::{BlockKernel, VectorKernel, bind, bind_plain};
use crate::context::{BlockContext, BlockEnd};
use number::{Number, Whole};

/// Makes a kernel for an element type: `$make::<N>(walk, isa)`, with the instruction set where networks use
/// the type much; others make do with what every machine has.
macro_rules! of_wholes {
    ($dtype:expr, $make:ident($walk:expr, $isa:expr)) => {
        match $dtype {
            DType::I64 => $make::<i64, true>($walk, $isa),
            DType::I32 => $make::<i32, true>($walk, $isa),
            DType::U8 | DType::Bool => $make::<u8, true>($walk, $isa),
            DType::I16 => $make::<i16, false>($walk, $isa),
            DType::I8 => $make::<i8, false>($walk, $isa),
            DType::U64 => $make::<u64, false>($walk, $isa),
            DType::U32 => $make::<u32, false>($walk, $isa),
            DType::U16 => $make::<u16, false>($walk, $isa),
            float => unreachable!("the validator refuses {float}"),
        }
    };
}

/// The same with floats.
macro_rules! of_numbers {
    ($dtype:expr, $make:ident($walk:expr, $isa:expr)) => {
        match $dtype {
            DType::F32 => $make::<f32, true>($walk, $isa),
            DType::F16 => $make::<F16, true>($walk, $isa),
            DType::F64 => $make::<f64, false>($walk, $isa),
            DType::BF16 => $make::<Bf16, false>($walk, $isa),
            whole => of_wholes!(whole, $make($walk, $isa)),
        }
    };
}

pub(super) use {of_numbers, of_wholes};

/// Makes a kernel ready.
pub(super) fn prepare(spec: &AlongSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let walk = Walk { spec: spec.clone(), x: kernel.reads[0], writes: kernel.writes.clone() };
    match spec.function {
        RowFunction::Along(Along::ArgExtreme { .. }) => of_numbers!(spec.dtype, extremes(walk, isa)),
        RowFunction::Along(Along::TopK { .. }) => of_numbers!(spec.dtype, tops(walk, isa)),
        RowFunction::Along(Along::Scan { .. }) => of_numbers!(spec.dtype, scans(walk, isa)),
        RowFunction::Fold(_) if spec.dtype == DType::F64 => bind_plain(Rows(walk, fold_doubles::FoldDoubles)),
        RowFunction::Fold(_) => of_wholes!(spec.dtype, folds(walk, isa)),
    }
}

/// Compiles for `isa`, or for every machine at once.
fn make<F: OfPiece, const MUCH: bool>(walk: Walk, function: F, isa: Isa) -> Box<dyn BlockKernel> {
    if MUCH { bind(Rows(walk, function), isa) } else { bind_plain(Rows(walk, function)) }
}

fn extremes<N: Number, const MUCH: bool>(walk: Walk, isa: Isa) -> Box<dyn BlockKernel> {
    let RowFunction::Along(Along::ArgExtreme { largest, last }) = walk.spec.function else {
        unreachable!("it looks for extremes")
    };
    match (largest, last) {
        (true, false) => make::<_, MUCH>(walk, extreme::Extreme::<N, true, false>::new(), isa),
        (true, true) => make::<_, MUCH>(walk, extreme::Extreme::<N, true, true>::new(), isa),
        (false, false) => make::<_, MUCH>(walk, extreme::Extreme::<N, false, false>::new(), isa),
        (false, true) => make::<_, MUCH>(walk, extreme::Extreme::<N, false, true>::new(), isa),
    }
}

fn tops<N: Number, const MUCH: bool>(walk: Walk, isa: Isa) -> Box<dyn BlockKernel> {
    let RowFunction::Along(Along::TopK { k, largest }) = walk.spec.function else {
        unreachable!("it looks for the largest")
    };
    match largest {
        true => make::<_, MUCH>(walk, top::Top::<N, true>::new(k), isa),
        false => make::<_, MUCH>(walk, top::Top::<N, false>::new(k), isa),
    }
}

fn scans<N: Number, const MUCH: bool>(walk: Walk, isa: Isa) -> Box<dyn BlockKernel> {
    let RowFunction::Along(Along::Scan { product, exclusive, reverse }) = walk.spec.function else {
        unreachable!("it adds up")
    };
    match product {
        true => make::<_, MUCH>(walk, scan::Scan::<N, true>::new(exclusive, reverse), isa),
        false => make::<_, MUCH>(walk, scan::Scan::<N, false>::new(exclusive, reverse), isa),
    }
}

fn folds<N: Whole, const MUCH: bool>(walk: Walk, isa: Isa) -> Box<dyn BlockKernel> {
    let RowFunction::Fold(reduce) = walk.spec.function else { unreachable!("it folds") };
    match reduce {
        Reduce::Sum => make::<_, MUCH>(walk, fold::Fold::<N, fold::Sum>::new(), isa),
        Reduce::Mean => make::<_, MUCH>(walk, fold::Fold::<N, fold::Mean>::new(), isa),
        Reduce::SumSquare => make::<_, MUCH>(walk, fold::Fold::<N, fold::Square>::new(), isa),
        Reduce::Prod => make::<_, MUCH>(walk, fold::Fold::<N, fold::Product>::new(), isa),
        Reduce::Max => make::<_, MUCH>(walk, fold::Fold::<N, fold::Largest>::new(), isa),
        Reduce::Min => make::<_, MUCH>(walk, fold::Fold::<N, fold::Smallest>::new(), isa),
    }
}

/// Rows of a piece at most.
const SIDE_BY_SIDE: usize = 128;

/// Where the operands are.
struct Walk {
    spec: AlongSpec,
    x: Region,
    writes: Vec<Region>,
}

/// Rows of one plane that are neighbours.
#[derive(Clone, Copy)]
struct Piece {
    /// The first one.
    row: usize,
    columns: usize,
}

impl Walk {
    /// The first element of a piece's first row in x, and how far it is to the next of the row.
    ///
    /// # Safety
    /// As [`BlockKernel::run`].
    #[inline(always)]
    unsafe fn x<T>(&self, context: &BlockContext<'_>, piece: Piece) -> *const T {
        // SAFETY: the validator checked that x has all rows.
        unsafe {
            context.read_ptr(&self.x).cast::<T>().add(self.spec.position(piece.row, self.spec.extent, 0))
        }
    }

    /// The same of an output with rows of `extent`.
    ///
    /// # Safety
    /// As [`BlockKernel::run`].
    #[inline(always)]
    unsafe fn y<T>(&self, context: &BlockContext<'_>, output: usize, piece: Piece, extent: usize) -> *mut T {
        // SAFETY: as above.
        unsafe {
            context.write_ptr(&self.writes[output]).cast::<T>().add(self.spec.position(piece.row, extent, 0))
        }
    }
}

/// What is done with a piece.
trait OfPiece: Send + Sync + 'static {
    /// Rows of a piece at most.
    const COLUMNS: usize;

    /// Writes the results of the piece; to be marked `inline(always)`.
    ///
    /// # Safety
    /// As [`BlockKernel::run`].
    unsafe fn run(
        &self,
        walk: &Walk,
        context: &BlockContext<'_>,
        piece: Piece,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped>;
}

/// A kernel.
struct Rows<F>(Walk, F);

impl<F: OfPiece> VectorKernel for Rows<F> {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let Rows(walk, function) = self;
        let spec = &walk.spec;
        let end = ((block + 1) * spec.tile).min(spec.rows());
        let mut pace = Pace::new(&context.poll);
        let mut row = block * spec.tile;
        while row < end {
            let columns = (end - row).min(spec.inner - row % spec.inner).min(F::COLUMNS);
            // SAFETY: passed on from the caller; the piece is a part of the block's rows.
            if let Err(stopped) = unsafe { function.run(walk, context, Piece { row, columns }, &mut pace) } {
                return stopped;
            }
            row += columns;
        }
        BlockEnd::Done
    }
}
