//! Element-wise kernels: a small interpreter over registers of up to 512 elements, and plain copies.
//!
//! A block walks over its elements in pieces (whole lines, or a part of one) and runs the program once per
//! piece, an instruction at a time over the whole piece. Operands and results that lie as a register does are
//! used where they are. Polls before every instruction; a re-run writes everything again.

use std::sync::Arc;

use reef_graph::{Binary, DType, Unary};
use reef_plan::{ElemOp, ElementwiseSpec, Isa, Kernel, Region};

use self::convert::{MoveFn, Plane};
use self::ops::{Choose, Floats, Integers, Narrow, Scalar, Zeros, Zip};
use self::steps::{Affine, Dequantize, Quantize, Requantize, Step};
use super::math::Map;
use super::nest::{Nest, Piece};
use super::vector::Vector;
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd, BlockFault};

pub(super) mod convert;
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
    let floats = kinds(spec, &program, &kernel.name);
    let out_float = *floats.last().expect("a program has instructions");
    let copy = matches!(program[..], [ElemOp::Load(0)] if spec.inputs[0].dtype == spec.out_dtype);
    assert!(program.len() < CHUNK, "the program of {} is too long", kernel.name);
    let moves = with_vector!(isa, V => Moves {
        loads: program
            .iter()
            .zip(&floats)
            .map(|(op, &float)| match *op {
                ElemOp::Load(input) => Some(convert::load_fn::<V>(spec.inputs[input].dtype, float)),
                _ => None,
            })
            .collect(),
        store: convert::store_fn::<V>(spec.out_dtype, out_float),
        copy: convert::copy_fn::<V>(spec.out_dtype.bytes()),
    });
    let interpreter = Elementwise {
        name: kernel.name.as_str().into(),
        elements: spec.elements(),
        tile: spec.tile,
        inputs: spec.inputs.iter().map(|input| (input.dtype, input.offset)).collect(),
        regions: kernel.reads.clone(),
        out: kernel.writes[0],
        out_dtype: spec.out_dtype,
        nest,
        steps: steps::steps(&program, &spec.inputs.iter().map(|input| input.dtype).collect::<Vec<_>>()),
        program,
        floats,
        copy,
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
        ElemOp::Load(_) | ElemOp::ConstF32(_) | ElemOp::ConstI64(_) => false,
        ElemOp::ToF32(a) => {
            read |= a == register;
            false
        }
        ElemOp::Unary(_, a) | ElemOp::ToInt(a, _) | ElemOp::ToRange(a, ..) => a == register,
        ElemOp::Binary(_, a, b) => a == register || b == register,
        ElemOp::Where(a, b, c) => [a, b, c].contains(&register),
    };
    !program[register + 1..].iter().any(others) && read
}

/// Whether each register holds floats.
fn kinds(spec: &ElementwiseSpec, program: &[ElemOp], name: &str) -> Vec<bool> {
    let mut floats: Vec<bool> = Vec::with_capacity(program.len());
    for (index, op) in program.iter().enumerate() {
        let float = match *op {
            ElemOp::Load(input) => {
                let dtype = spec.inputs[input].dtype;
                dtype.is_float() || dtype.bytes() <= 4 && is_read_as_float(program, index)
            }
            ElemOp::ConstF32(_) | ElemOp::ToF32(_) => true,
            ElemOp::ConstI64(_) | ElemOp::ToInt(..) => false,
            ElemOp::ToRange(a, ..) => {
                assert!(floats[a], "{name}: instruction {index} keeps integers in a range");
                false
            }
            ElemOp::Unary(function, a) => {
                let known = floats[a] || ops::has_integer_form(function);
                assert!(known, "{name}: instruction {index}, {function:?} of integers");
                floats[a]
            }
            ElemOp::Binary(op, a, b) => {
                assert_eq!(floats[a], floats[b], "{name}: instruction {index} mixes kinds");
                let logical = matches!(op, Binary::And | Binary::Or | Binary::Xor);
                assert!(!(logical && floats[a]), "{name}: instruction {index}, {op:?} of floats");
                floats[a] && !op.is_comparison()
            }
            ElemOp::Where(condition, a, b) => {
                assert!(!floats[condition], "{name}: instruction {index}, a condition of floats");
                assert_eq!(floats[a], floats[b], "{name}: instruction {index} mixes kinds");
                floats[a]
            }
        };
        floats.push(float);
    }
    floats
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
    program: Vec<ElemOp>,
    steps: Vec<Step>,
    floats: Vec<bool>,
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
            false => ((CHUNK / line).max(1), CHUNK),
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
            if let ElemOp::Binary(Binary::Div, _, divisor) = *op
                && !self.floats[divisor]
            {
                // SAFETY: the divisor's register is set and holds the piece.
                unsafe { self.check_divisor::<V>(registers, divisor, piece.elements())? };
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
                    ElemOp::ToF32(a) if self.floats[a] && index != last => *registers.add(a),
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
                Step::Dequantize { load, input, zero, scale } => {
                    let (dtype, offset) = self.inputs[input];
                    let to_float = to.cast::<f32>();
                    if self.is_dense(input, piece) && !self.nest.is_constant(input) {
                        let from = context.read_ptr(&self.regions[input]).add(offset);
                        let from = from.offset(self.offset(input, piece.line, piece));
                        let signed = dtype == DType::I8;
                        V::enter(Dequantize { from, signed, zero, scale, to: to_float, count });
                    } else if first || !self.nest.is_constant(input) {
                        self.load::<V>(context, (load, input), piece, to, first);
                        let count = if self.nest.is_constant(input) { CHUNK } else { count };
                        V::enter(Affine { at: to_float, zero, scale, count });
                    }
                    to.cast_const()
                }
                Step::Quantize(by) => {
                    let (to, bytes) = match self.is_dense(self.inputs.len(), piece) {
                        true => (self.place(context, piece), self.out_dtype.bytes()),
                        false => (to, 8),
                    };
                    let from = (*registers.add(by.from)).cast();
                    V::enter(Quantize { by, from, to, bytes, count });
                    to.cast_const()
                }
                Step::Requantize { by, zero, scale } => {
                    let (from, to) = ((*registers.add(by.from)).cast(), to.cast());
                    V::enter(Requantize { by, zero, scale, from, to, count });
                    to.cast_const().cast()
                }
            }
        }
    }

    /// Integers have no quotient by 0.
    unsafe fn check_divisor<V: Vector>(
        &self,
        registers: *const *const u8,
        divisor: usize,
        count: usize,
    ) -> Result<(), BlockEnd> {
        // SAFETY: passed on from the caller.
        let zero = unsafe { V::enter(Zeros { from: (*registers.add(divisor)).cast(), count }) };
        if zero.is_none() {
            return Ok(());
        }
        Err(BlockEnd::Failed(BlockFault::Divisor { kernel: self.name.clone() }))
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
        let register = if self.floats[last] { DType::F32 } else { DType::I64 };
        let op = self.program[last];
        let computes = !matches!(op, ElemOp::Load(_) | ElemOp::ConstF32(_) | ElemOp::ConstI64(_));
        let lies = register == self.out_dtype && self.is_dense(self.inputs.len(), piece);
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
        let as_register = matches!(source.dtype, DType::F32 | DType::I64);
        if as_register && self.is_dense(operand, piece) {
            // SAFETY: the piece is a part of the operand.
            return unsafe { source.address.offset(self.offset(operand, piece.line, piece) * bytes) };
        }
        let register_bytes = if self.floats[index] { 4 } else { 8 };
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
        let register_bytes = if self.floats[self.program.len() - 1] { 4 } else { 8 };
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
            let int = |index: usize| register(index).cast::<i64>();
            let (to_float, to_int) = (to.cast::<f32>(), to.cast::<i64>());
            let integers = |what: Scalar| V::enter(Integers { what, to: to_int, count });
            match op {
                ElemOp::Load(_) => unreachable!("loads are not computed"),
                ElemOp::ConstF32(value) if first => (0..CHUNK).for_each(|at| to_float.add(at).write(value)),
                ElemOp::ConstI64(value) if first => (0..CHUNK).for_each(|at| to_int.add(at).write(value)),
                ElemOp::ConstF32(_) | ElemOp::ConstI64(_) => {}
                ElemOp::Unary(function, a) if self.floats[a] => {
                    V::enter(Map { function, from: float(a), to: to_float, count });
                }
                ElemOp::Unary(function, a) => integers(Scalar::Unary(function, int(a))),
                ElemOp::Binary(op, a, b) if self.floats[a] && op.is_comparison() => {
                    integers(Scalar::Compare(op, float(a), float(b)));
                }
                ElemOp::Binary(op, a, b) if self.floats[a] => {
                    V::enter(Zip { op, a: float(a), b: float(b), to: to_float, count });
                }
                ElemOp::Binary(op, a, b) => integers(Scalar::Binary(op, int(a), int(b))),
                ElemOp::Where(condition, a, b) if self.floats[a] => {
                    let condition = int(condition);
                    V::enter(Choose { condition, a: float(a), b: float(b), to: to_float, count });
                }
                ElemOp::Where(condition, a, b) => {
                    integers(Scalar::Where(int(condition), int(a), int(b)));
                }
                ElemOp::ToF32(a) if self.floats[a] => {
                    std::ptr::copy_nonoverlapping(float(a), to_float, count);
                }
                ElemOp::ToF32(a) => V::enter(Floats { from: int(a), to: to_float, count }),
                ElemOp::ToRange(a, low, high) => integers(Scalar::ToRange(float(a), low, high)),
                ElemOp::ToInt(a, dtype) if self.floats[a] => integers(Scalar::ToInt(float(a), dtype)),
                ElemOp::ToInt(a, dtype) => integers(Scalar::Wrap(int(a), dtype)),
            }
        }
    }
}
