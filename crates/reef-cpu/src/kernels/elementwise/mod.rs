//! Element-wise kernels: a small interpreter over registers of up to 512 elements, and plain copies.
//!
//! A block walks over its elements in pieces (whole lines, or a part of one) and runs the program once per
//! piece, an instruction at a time over the whole piece. Operands and results that lie as a register does are
//! used where they are. Polls before every instruction; a re-run writes everything again.

use std::sync::Arc;

use reef_graph::{Binary, DType, Unary};
use reef_plan::RegisterKind::{Double, Integer, Single};
use reef_plan::{ElemOp, ElementwiseSpec, Isa, Kernel, Region, RegisterKind};

use self::convert::{Halves, MoveFn, Plane};
use self::doubles::{Doubles, Singles, Wide};
use self::ops::{Choose, Floats, Integers, Narrow, Scalar, Zeros, Zip};
use self::steps::{Bytes, Dequantize, InPlace, Quantize, Requantize, Step, Sum};
use super::math::Map;
use super::nest::{Nest, Piece};
use super::vector::Vector;
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd, BlockFault};

pub(super) mod convert;
mod doubles;
mod ops;
mod steps;

/// Elements of a register.
const CHUNK: usize = 512;

/// Bytes of a register, of either kind.
const REGISTER_BYTES: usize = CHUNK * 8;

/// Elements of one step of a copy, and the lines that it takes at least, if there are so many: as many 4-byte
/// elements as share a cache line when it is the lines that are neighbours in memory.
const COPY_ELEMENTS: usize = 4096;
const COPY_LINES: usize = 16;

/// Makes an element-wise kernel ready.
pub(super) fn prepare(spec: &ElementwiseSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let mut strides: Vec<Vec<isize>> = spec.inputs.iter().map(|input| input.strides.clone()).collect();
    strides.push(spec.out_strides.iter().map(|&stride| stride as isize).collect());
    let nest = Nest::new(&spec.dims, &strides);
    let program = peephole(&spec.program);
    let kinds = kinds(spec, &program, &kernel.name);
    let last = *kinds.last().expect("a program has instructions");
    assert!(program.len() < CHUNK, "the program of {} is too long", kernel.name);
    let moves = with_vector!(isa, V => Moves {
        loads: program
            .iter()
            .zip(&kinds)
            .map(|(op, &kind)| match *op {
                ElemOp::Load(input) => Some(convert::load_fn::<V>(spec.inputs[input].dtype, kind)),
                _ => None,
            })
            .collect(),
        store: convert::store_fn::<V>(spec.out_dtype, last),
        copy: convert::copy_fn::<V>(spec.out_dtype.bytes()),
    });
    let types: Vec<DType> = spec.inputs.iter().map(|input| input.dtype).chain([spec.out_dtype]).collect();
    let dense: Vec<bool> =
        (0..types.len()).map(|operand| nest.lines() == 1 && nest.step(operand) == 1).collect();
    let single: Vec<bool> = (0..types.len()).map(|operand| nest.is_constant(operand)).collect();
    let interpreter = Elementwise {
        name: kernel.name.as_str().into(),
        elements: spec.elements(),
        tile: spec.tile,
        inputs: spec.inputs.iter().map(|input| (input.dtype, input.offset)).collect(),
        regions: kernel.reads.clone(),
        out: kernel.writes[0],
        out_dtype: spec.out_dtype,
        nest,
        steps: steps::steps(&program, &types, &dense, &single),
        chunk: chunk(&program, &kinds),
        program,
        kinds,
        copy: spec.copies(),
        moves,
    };
    bind(interpreter, isa)
}

/// Replaces what has a cheaper form of the same value.
fn peephole(program: &[ElemOp]) -> Vec<ElemOp> {
    let replace = |op: &ElemOp| match *op {
        ElemOp::Binary(Binary::Pow, a, b) if program[b] == ElemOp::ConstF32(2.0) => {
            ElemOp::Unary(Unary::Square, a)
        }
        op => op,
    };
    program.iter().map(replace).collect()
}

/// Whether all that is done to a register is to make floats of it.
fn is_read_as_float(program: &[ElemOp], register: usize) -> bool {
    let mut read = false;
    let others = |op: &ElemOp| match *op {
        ElemOp::ToF32(a) => {
            read |= a == register;
            false
        }
        op => op.operands().any(|operand| operand == register),
    };
    !program[register + 1..].iter().any(others) && read
}

/// What each register holds.
fn kinds(spec: &ElementwiseSpec, program: &[ElemOp], name: &str) -> Vec<RegisterKind> {
    let mut kinds = spec.kinds().unwrap_or_else(|flaw| panic!("{name} {flaw}"));
    for (index, op) in program.iter().enumerate() {
        if let ElemOp::Load(input) = *op
            && kinds[index] == Integer
            && spec.inputs[input].dtype.bytes() <= 4
            && is_read_as_float(program, index)
        {
            kinds[index] = Single;
        }
    }
    kinds
}

/// Nanoseconds between polls: what an instruction may take for a piece.
const PIECE_NS: usize = 8000;

/// Elements of a piece at most, so that the slowest instruction takes no longer than it may.
fn chunk(program: &[ElemOp], kinds: &[RegisterKind]) -> usize {
    let slowest = program.iter().zip(kinds).map(|(op, &kind)| element_ns(op, kind)).max().unwrap_or(1);
    (PIECE_NS / slowest).clamp(1, CHUNK)
}

/// About what an instruction takes for an element, where that is long.
fn element_ns(op: &ElemOp, kind: RegisterKind) -> usize {
    use Unary::{Acos, Acosh, Asin, Asinh, Atan, Atanh, Cosh, Erf, Gelu, Sinh, Tan};
    match (*op, kind) {
        (ElemOp::Unary(Erf | Gelu, _), Double) => 1000,
        (ElemOp::Unary(Tan | Asin | Acos | Atan | Sinh | Cosh | Asinh | Acosh | Atanh, _), _) => 40,
        (ElemOp::Unary(..), Double) => 40,
        // One step for each bit that the exponents differ by.
        (ElemOp::Binary(Binary::Mod | Binary::Rem, ..), Double) => 2000,
        (ElemOp::Binary(Binary::Mod | Binary::Rem, ..), Single) => 500,
        (ElemOp::Binary(Binary::Pow, ..), Double) => 60,
        _ => PIECE_NS / CHUNK,
    }
}

/// Whether elements of this type lie as registers do.
fn is_register(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::I64 | DType::U64)
}

/// Bytes of an element of a register.
fn register_bytes(kind: RegisterKind) -> usize {
    if kind == Single { 4 } else { 8 }
}

struct Elementwise {
    name: Arc<str>,
    elements: usize,
    tile: usize,
    /// Type and first element of every operand.
    inputs: Vec<(DType, usize)>,
    regions: Vec<Region>,
    out: Region,
    out_dtype: DType,
    /// The loop; the output is its last operand.
    nest: Nest,
    /// Elements of a piece at most.
    chunk: usize,
    program: Vec<ElemOp>,
    steps: Vec<Step>,
    kinds: Vec<RegisterKind>,
    /// The program only copies.
    copy: bool,
    moves: Moves,
}

/// The conversions of the program's loads, of the store, and of a copy.
struct Moves {
    loads: Vec<Option<MoveFn>>,
    store: MoveFn,
    copy: MoveFn,
}

impl VectorKernel for Elementwise {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let first = block * self.tile;
        let end = (first + self.tile).min(self.elements);
        let line = self.nest.line();
        let (lines, columns) = match self.copy {
            true => ((COPY_ELEMENTS / line).max(COPY_LINES), line),
            false => ((self.chunk / line).max(1), self.chunk),
        };
        let mut at = first;
        while at < end {
            let piece = Piece::next(&self.nest, at, end, lines, columns);
            // SAFETY: the piece is a part of the loop; the validator checked the regions.
            let ended = unsafe {
                match self.copy {
                    true => self.copy_piece(context, &piece),
                    false => self.run_piece::<V>(context, &piece, at == first),
                }
            };
            if let Err(end) = ended {
                return end;
            }
            at += piece.elements();
        }
        BlockEnd::Done
    }
}

/// Where an operand's elements of a piece are.
struct Source {
    address: *const u8,
    dtype: DType,
    operand: usize,
}

impl Elementwise {
    /// Calls `visit` with every plane of `piece`: lines already visited, the first line, and how many
    /// follow it in the same plane.
    #[inline(always)]
    fn planes(&self, piece: &Piece, mut visit: impl FnMut(usize, usize, usize)) {
        let mut done = 0;
        while done < piece.lines {
            let line = piece.line + done;
            let left = self.nest.plane_lines() - line % self.nest.plane_lines();
            let lines = left.min(piece.lines - done);
            visit(done, line, lines);
            done += lines;
        }
    }

    /// Offset in elements of a piece's column in `line` of `operand`.
    #[inline(always)]
    fn offset(&self, operand: usize, line: usize, piece: &Piece) -> isize {
        self.nest.line_offset(operand, line) + piece.column as isize * self.nest.step(operand)
    }

    /// Copies a piece in steps. An error is the block's end: the poll said stop.
    unsafe fn copy_piece(&self, context: &BlockContext<'_>, piece: &Piece) -> Result<(), BlockEnd> {
        for part in piece.columns_by((COPY_ELEMENTS / piece.lines).max(1)) {
            if context.poll.stop() {
                return Err(BlockEnd::Killed);
            }
            // SAFETY: the part is a part of the loop.
            unsafe { self.copy_part(context, &part) };
        }
        Ok(())
    }

    unsafe fn copy_part(&self, context: &BlockContext<'_>, piece: &Piece) {
        let (bytes, out) = (self.out_dtype.bytes() as isize, self.inputs.len());
        let from = context.read_ptr(&self.regions[0]);
        let to = context.write_ptr(&self.out);
        self.planes(piece, |_, line, lines| {
            let from_at = self.inputs[0].1 as isize + self.offset(0, line, piece);
            // SAFETY: the plane is a part of the loop.
            unsafe {
                (self.moves.copy)(Plane {
                    from: from.offset(from_at * bytes),
                    to: to.offset(self.offset(out, line, piece) * bytes),
                    lines,
                    columns: piece.columns,
                    from_strides: [self.nest.line_stride(0), self.nest.step(0)],
                    to_strides: [self.nest.line_stride(out), self.nest.step(out)],
                });
            }
        });
    }

    /// Runs the program for one piece. An error is the block's end: the poll said stop, or the piece has no
    /// result.
    unsafe fn run_piece<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        piece: &Piece,
        first: bool,
    ) -> Result<(), BlockEnd> {
        // The first register's place holds where every register is.
        let registers = context.scratch.cast::<*const u8>();
        let last = self.program.len() - 1;
        for (index, op) in self.program.iter().enumerate() {
            if self.steps[index] == Step::Nothing {
                continue;
            }
            if context.poll.stop() {
                return Err(BlockEnd::Killed);
            }
            if let ElemOp::Binary(function, _, divisor) = *op
                && function.divides()
                && self.kinds[divisor] == Integer
            {
                // SAFETY: the divisor's register is set and holds the piece.
                unsafe { self.check_divisor::<V>(registers, (function, divisor), piece.elements())? };
            }
            // SAFETY: scratch has a register for every instruction and one more; instructions read earlier
            // ones.
            unsafe {
                let mut to = context.scratch.add((index + 1) * REGISTER_BYTES);
                if index == last
                    && let Some(place) = self.result_place(context, piece)
                {
                    to = place;
                }
                let result = match *op {
                    _ if self.steps[index] != Step::Same => {
                        self.at_once::<V>(context, (index, registers), piece, to, first)
                    }
                    ElemOp::Load(input) => self.load::<V>(context, (index, input), piece, to, first),
                    // What is a float already stays where it is.
                    ElemOp::ToF32(a) if self.kinds[a] == Single && index != last => *registers.add(a),
                    ElemOp::ToF64(a) if self.kinds[a] == Double && index != last => *registers.add(a),
                    ElemOp::ToRange(a, low, high)
                        if index == last && self.is_dense(self.inputs.len(), piece) =>
                    {
                        let (from, to) = ((*registers.add(a)).cast(), self.place(context, piece));
                        let (bytes, count) = (self.out_dtype.bytes(), piece.elements());
                        V::enter(Narrow { from, to, bytes, count, low: low as f32, high: high as f32 });
                        to.cast_const()
                    }
                    _ => {
                        self.compute::<V>(*op, registers, to, piece.elements(), first);
                        to.cast_const()
                    }
                };
                registers.add(index).write(result);
                if index == last && result != self.place(context, piece).cast_const() {
                    self.store(context, piece, result);
                }
            }
        }
        Ok(())
    }

    /// Several instructions in one pass, of which this is the last; where the result is.
    unsafe fn at_once<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        (index, registers): (usize, *const *const u8),
        piece: &Piece,
        to: *mut u8,
        first: bool,
    ) -> *const u8 {
        let count = piece.elements();
        // SAFETY: passed on from the caller; the registers that are read are set.
        unsafe {
            match self.steps[index] {
                Step::Same | Step::Nothing => unreachable!("one instruction is not several"),
                Step::Dequantize { load, from: Bytes { input, signed, by } } => {
                    let to_float = to.cast::<f32>();
                    if self.is_dense(input, piece) && !self.nest.is_constant(input) {
                        let from = self.bytes_of(context, input, piece);
                        V::enter(Dequantize { from, signed, by, to: to_float, count });
                    } else if first || !self.nest.is_constant(input) {
                        self.load::<V>(context, (load, input), piece, to, first);
                        let count = if self.nest.is_constant(input) { CHUNK } else { count };
                        V::enter(InPlace { at: to_float, by, count });
                    }
                    to.cast_const()
                }
                Step::Sum { operands, more, relu, by, back } => {
                    let to = if back.is_some() { to } else { self.place(context, piece) };
                    let by = by.with(registers);
                    let from = operands.map(|operand| self.bytes_of(context, operand.input, piece));
                    V::enter(Sum { from, operands, more, relu, by, back, to, count });
                    to.cast_const()
                }
                Step::Quantize(by) => {
                    let (to, bytes) = match self.is_dense(self.inputs.len(), piece) {
                        true => (self.place(context, piece), self.out_dtype.bytes()),
                        false => (to, 8),
                    };
                    let (from, by) = ((*registers.add(by.from)).cast(), by.with(registers));
                    V::enter(Quantize { by, from, to, bytes, count });
                    to.cast_const()
                }
                Step::Requantize { by, back } => {
                    let (from, to) = ((*registers.add(by.from)).cast(), to.cast());
                    let by = by.with(registers);
                    V::enter(Requantize { by, back, from, to, count });
                    to.cast_const().cast()
                }
            }
        }
    }

    /// A piece of an operand of bytes.
    unsafe fn bytes_of(&self, context: &BlockContext<'_>, input: usize, piece: &Piece) -> *const u8 {
        // SAFETY: the piece is a part of the operand.
        unsafe {
            let from = context.read_ptr(&self.regions[input]).add(self.inputs[input].1);
            from.offset(self.offset(input, piece.line, piece))
        }
    }

    /// Integers have no quotient by 0.
    unsafe fn check_divisor<V: Vector>(
        &self,
        registers: *const *const u8,
        (function, divisor): (Binary, usize),
        count: usize,
    ) -> Result<(), BlockEnd> {
        // SAFETY: passed on from the caller.
        let zero = unsafe { V::enter(Zeros { from: (*registers.add(divisor)).cast(), count }) };
        if zero.is_none() {
            return Ok(());
        }
        let operator = if function == Binary::Div { "Div" } else { "Mod" };
        Err(BlockEnd::Failed(BlockFault::Divisor { kernel: self.name.clone(), operator }))
    }

    /// Address of the piece's first element of the output.
    unsafe fn place(&self, context: &BlockContext<'_>, piece: &Piece) -> *mut u8 {
        let offset = self.offset(self.inputs.len(), piece.line, piece);
        // SAFETY: the piece is a part of the output.
        unsafe { context.write_ptr(&self.out).offset(offset * self.out_dtype.bytes() as isize) }
    }

    /// Where the last instruction may put its result at once: the output, when it lies as a register does.
    /// Not for loads and constants, whose registers outlive the piece or are not registers at all.
    unsafe fn result_place(&self, context: &BlockContext<'_>, piece: &Piece) -> Option<*mut u8> {
        let last = self.program.len() - 1;
        let computes = self.program[last].operands().next().is_some();
        let lies = is_register(self.out_dtype) && self.is_dense(self.inputs.len(), piece);
        // SAFETY: passed on from the caller.
        (computes && lies).then(|| unsafe { self.place(context, piece) })
    }

    /// Whether the piece's elements of `operand` follow each other without gaps.
    fn is_dense(&self, operand: usize, piece: &Piece) -> bool {
        let lines = piece.lines == 1
            || (self.nest.line_stride(operand) == piece.columns as isize
                && piece.line % self.nest.plane_lines() + piece.lines <= self.nest.plane_lines());
        lines && (self.nest.step(operand) == 1 || piece.columns == 1)
    }

    unsafe fn load<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        (index, input): (usize, usize),
        piece: &Piece,
        to: *mut u8,
        first: bool,
    ) -> *const u8 {
        let (dtype, offset) = self.inputs[input];
        let bytes = dtype.bytes() as isize;
        // SAFETY: the operand's offset lies in its region.
        let address = unsafe { context.read_ptr(&self.regions[input]).offset(offset as isize * bytes) };
        let source = Source { address, dtype, operand: input };
        if self.nest.is_constant(input) {
            // One value in the whole register, kept for the block's later pieces.
            if first {
                // SAFETY: one element is read; the register has CHUNK elements.
                unsafe { self.plane(index, address, to, (1, CHUNK), [0, 0]) };
            }
            return to.cast_const();
        }
        // SAFETY: the piece is a part of the operand.
        unsafe { self.load_piece(index, &source, piece, to) }
    }

    unsafe fn load_piece(&self, index: usize, source: &Source, piece: &Piece, to: *mut u8) -> *const u8 {
        let (bytes, operand) = (source.dtype.bytes() as isize, source.operand);
        if is_register(source.dtype) && self.is_dense(operand, piece) {
            // SAFETY: the piece is a part of the operand.
            return unsafe { source.address.offset(self.offset(operand, piece.line, piece) * bytes) };
        }
        let register_bytes = register_bytes(self.kinds[index]);
        let strides = [self.nest.line_stride(operand), self.nest.step(operand)];
        self.planes(piece, |done, line, lines| {
            // SAFETY: the plane is a part of the operand; the register has room for the piece.
            unsafe {
                let from = source.address.offset(self.offset(operand, line, piece) * bytes);
                let to = to.add(done * piece.columns * register_bytes);
                self.plane(index, from, to, (lines, piece.columns), strides);
            }
        });
        to.cast_const()
    }

    /// Loads a plane into a register.
    unsafe fn plane(
        &self,
        index: usize,
        from: *const u8,
        to: *mut u8,
        (lines, columns): (usize, usize),
        from_strides: [isize; 2],
    ) {
        let load = self.moves.loads[index].expect("the instruction is a load");
        let to_strides = [columns as isize, 1];
        // SAFETY: passed on from the caller.
        unsafe { load(Plane { from, to, lines, columns, from_strides, to_strides }) }
    }

    /// Stores a register to the output.
    unsafe fn store(&self, context: &BlockContext<'_>, piece: &Piece, register: *const u8) {
        let (bytes, out) = (self.out_dtype.bytes() as isize, self.inputs.len());
        let register_bytes = register_bytes(self.kinds[self.program.len() - 1]);
        let base = context.write_ptr(&self.out);
        self.planes(piece, |done, line, lines| {
            // SAFETY: the plane is a part of the output, and the register holds the piece.
            unsafe {
                (self.moves.store)(Plane {
                    from: register.add(done * piece.columns * register_bytes),
                    to: base.offset(self.offset(out, line, piece) * bytes),
                    lines,
                    columns: piece.columns,
                    from_strides: [piece.columns as isize, 1],
                    to_strides: [self.nest.line_stride(out), self.nest.step(out)],
                });
            }
        });
    }

    /// Runs an instruction other than a load on registers of `count` elements.
    unsafe fn compute<V: Vector>(
        &self,
        op: ElemOp,
        registers: *const *const u8,
        to: *mut u8,
        count: usize,
        first: bool,
    ) {
        // SAFETY: registers before this instruction's are set and hold `count` elements of their kind; `to`
        // has room for as many.
        unsafe {
            let register = |index: usize| *registers.add(index);
            let float = |index: usize| register(index).cast::<f32>();
            let double = |index: usize| register(index).cast::<f64>();
            let int = |index: usize| register(index).cast::<i64>();
            let (to_float, to_int) = (to.cast::<f32>(), to.cast::<i64>());
            let integers = |what: Scalar| V::enter(Integers { what, to: to_int, count });
            let doubles = |what: Wide| V::enter(Doubles { what, to: to.cast(), count });
            let kind = |index: usize| self.kinds[index];
            match op {
                ElemOp::Load(_) => unreachable!("loads are not computed"),
                ElemOp::ConstF32(_) | ElemOp::ConstF64(_) | ElemOp::ConstI64(_) => {
                    if first {
                        fill(op, to);
                    }
                }
                ElemOp::Unary(function, a) => match kind(a) {
                    Single => V::enter(Map { function, from: float(a), to: to_float, count }),
                    Double => doubles(Wide::Unary(function, double(a))),
                    Integer => integers(Scalar::Unary(function, int(a))),
                },
                ElemOp::Binary(op, a, b) => match (kind(a), op.is_comparison()) {
                    (Single, true) => integers(Scalar::Compare(op, float(a), float(b))),
                    (Single, false) => V::enter(Zip { op, a: float(a), b: float(b), to: to_float, count }),
                    (Double, true) => integers(Scalar::CompareDoubles(op, double(a), double(b))),
                    (Double, false) => doubles(Wide::Binary(op, double(a), double(b))),
                    (Integer, _) => integers(Scalar::Binary(op, int(a), int(b))),
                },
                ElemOp::Where(condition, a, b) if kind(a) == Single => {
                    let condition = int(condition);
                    V::enter(Choose { condition, a: float(a), b: float(b), to: to_float, count });
                }
                // Doubles by their bits.
                ElemOp::Where(condition, a, b) => {
                    integers(Scalar::Where(int(condition), int(a), int(b)));
                }
                ElemOp::ToF32(a) => match kind(a) {
                    Single => std::ptr::copy_nonoverlapping(float(a), to_float, count),
                    Double => V::enter(Singles { from: double(a), to: to_float, count }),
                    Integer => V::enter(Floats { from: int(a), to: to_float, count }),
                },
                ElemOp::ToF64(a) => match kind(a) {
                    Single => doubles(Wide::OfSingles(float(a))),
                    Double => std::ptr::copy_nonoverlapping(double(a), to.cast(), count),
                    Integer => doubles(Wide::OfIntegers(int(a))),
                },
                ElemOp::ToRange(a, low, high) => integers(Scalar::ToRange(float(a), low, high)),
                ElemOp::Narrow(a, dtype) => V::enter(Halves { from: float(a), dtype, to: to_float, count }),
                ElemOp::ToInt(a, dtype) => integers(match kind(a) {
                    Single => Scalar::ToInt(float(a), dtype),
                    Double => Scalar::DoubleToInt(double(a), dtype),
                    Integer => Scalar::Wrap(int(a), dtype),
                }),
            }
        }
    }
}

/// Fills a register with a constant.
unsafe fn fill(constant: ElemOp, to: *mut u8) {
    // SAFETY: the caller vouches for a register.
    unsafe {
        match constant {
            ElemOp::ConstF32(value) => (0..CHUNK).for_each(|at| to.cast::<f32>().add(at).write(value)),
            ElemOp::ConstF64(value) => (0..CHUNK).for_each(|at| to.cast::<f64>().add(at).write(value)),
            ElemOp::ConstI64(value) => (0..CHUNK).for_each(|at| to.cast::<i64>().add(at).write(value)),
            _ => unreachable!("no constant"),
        }
    }
}
