//! Element-wise programs: what their registers hold, what instructions mean, and the whole of a program on a
//! host.

use reef_graph::DType;
use reef_graph::scalar::{self, Element, wrap};

use crate::spec::{ElemOp, ElementwiseSpec};

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterKind {
    /// An f32.
    Single,
    /// An f64.
    Double,
    /// An i64.
    Integer,
}

impl RegisterKind {
    /// What an element of this type becomes.
    pub fn of(dtype: DType) -> RegisterKind {
        match dtype {
            DType::F64 => RegisterKind::Double,
            dtype if dtype.is_float() => RegisterKind::Single,
            _ => RegisterKind::Integer,
        }
    }

    /// Whether it holds a float.
    pub fn is_float(self) -> bool {
        self != RegisterKind::Integer
    }
}

impl ElemOp {
    /// The registers that it reads.
    pub fn operands(&self) -> impl Iterator<Item = usize> {
        let [a, b, c] = match *self {
            ElemOp::Load(_) | ElemOp::ConstF32(_) | ElemOp::ConstF64(_) | ElemOp::ConstI64(_) => [None; 3],
            ElemOp::Unary(_, a)
            | ElemOp::ToF32(a)
            | ElemOp::ToF64(a)
            | ElemOp::ToInt(a, _)
            | ElemOp::ToRange(a, ..)
            | ElemOp::Narrow(a, _) => [Some(a), None, None],
            ElemOp::Binary(_, a, b) => [Some(a), Some(b), None],
            ElemOp::Where(a, b, c) => [Some(a), Some(b), Some(c)],
        };
        [a, b, c].into_iter().flatten()
    }
}

impl ElementwiseSpec {
    /// What every register of the program holds, or what is wrong with it.
    pub fn kinds(&self) -> Result<Vec<RegisterKind>, &'static str> {
        use RegisterKind::{Double, Integer, Single};
        let mut kinds: Vec<RegisterKind> = Vec::with_capacity(self.program.len());
        for op in &self.program {
            if op.operands().any(|operand| operand >= kinds.len()) {
                return Err("has a program that uses what it has not made");
            }
            let kind = match *op {
                ElemOp::Load(input) => match self.inputs.get(input) {
                    Some(input) => RegisterKind::of(input.dtype),
                    None => return Err("has a program that uses what it has not made"),
                },
                ElemOp::ConstF32(_) | ElemOp::ToF32(_) => Single,
                ElemOp::ConstF64(_) | ElemOp::ToF64(_) => Double,
                ElemOp::ConstI64(_) | ElemOp::ToInt(..) => Integer,
                ElemOp::ToRange(a, ..) if kinds[a] == Single => Integer,
                ElemOp::ToRange(..) => return Err("keeps in a range what is no f32"),
                ElemOp::Narrow(a, DType::F16 | DType::BF16) if kinds[a] == Single => Single,
                ElemOp::Narrow(..) => return Err("rounds what is no f32, or to what is no float of 16 bits"),
                ElemOp::Unary(function, a) => match (kinds[a], scalar::unary_int(function, 0)) {
                    (Integer, None) => return Err("has a function of integers that only floats have"),
                    (kind, _) => kind,
                },
                ElemOp::Binary(_, a, b) if kinds[a] != kinds[b] => {
                    return Err("has a function of registers that differ in kind");
                }
                ElemOp::Binary(function, a, _) => {
                    use reef_graph::Binary::{And, Or, Xor};
                    let whole = function.is_bitwise() || matches!(function, And | Or | Xor);
                    if whole && kinds[a].is_float() {
                        return Err("has a function of floats that only integers have");
                    }
                    if function.is_comparison() { Integer } else { kinds[a] }
                }
                ElemOp::Where(condition, a, b) => match kinds[condition] {
                    Integer if kinds[a] == kinds[b] => kinds[a],
                    _ => return Err("chooses by floats, or among registers that differ in kind"),
                },
            };
            kinds.push(kind);
        }
        match kinds.last() {
            None => Err("has no program, or not one stride for every axis"),
            Some(&last) if last != RegisterKind::of(self.out_dtype) => Err("stores what is of another kind"),
            Some(_) => Ok(kinds),
        }
    }

    /// Whether the program only copies.
    pub fn copies(&self) -> bool {
        let same = self.inputs.first().is_some_and(|input| input.dtype == self.out_dtype);
        same && matches!(self.program[..], [ElemOp::Load(0)])
    }

    /// Whether some register holds an f64, other than in a copy.
    pub fn has_doubles(&self) -> bool {
        let made = |op: &ElemOp| matches!(op, ElemOp::ConstF64(_) | ElemOp::ToF64(_));
        let read = self.inputs.iter().any(|input| input.dtype == DType::F64);
        !self.copies() && (read || self.program.iter().any(made))
    }

    /// Computes all elements: for devices that have no code of their own for them. Operands begin where their
    /// regions do; what is wrong with their elements is the error.
    pub fn compute(&self, inputs: &[&[u8]], y: &mut [u8]) -> Result<(), String> {
        let kinds = self.kinds()?;
        let mut registers = Vec::with_capacity(kinds.len());
        for flat in 0..self.elements() {
            let (mut index, mut rest) = (vec![0; self.dims.len()], flat);
            for (at, &extent) in index.iter_mut().zip(&self.dims).rev() {
                (*at, rest) = (rest % extent, rest / extent);
            }
            registers.clear();
            for (op, &kind) in self.program.iter().zip(&kinds) {
                let value = match *op {
                    ElemOp::Load(operand) => {
                        let input = &self.inputs[operand];
                        let steps = index.iter().zip(&input.strides);
                        let at = steps.fold(input.offset as isize, |at, (&index, &stride)| {
                            at + index as isize * stride
                        });
                        let size = input.dtype.bytes();
                        Element::read(input.dtype, &inputs[operand][at as usize * size..][..size])
                    }
                    op => run(op, kind, &registers)?,
                };
                registers.push(value);
            }
            let at: usize = index.iter().zip(&self.out_strides).map(|(index, stride)| index * stride).sum();
            let size = self.out_dtype.bytes();
            let last = registers.last().expect("a program has instructions");
            last.write(self.out_dtype, &mut y[at * size..][..size]);
        }
        Ok(())
    }
}

/// The result of an instruction other than a load, which is of this kind.
pub fn run(op: ElemOp, kind: RegisterKind, registers: &[Element]) -> Result<Element, String> {
    let round = |value: f64| match kind {
        RegisterKind::Single => Element::Float(f64::from(value as f32)),
        _ => Element::Float(value),
    };
    let bad = || format!("{op:?} of {registers:?}");
    Ok(match op {
        ElemOp::Load(_) => return Err(bad()),
        ElemOp::ConstF32(value) => Element::Float(f64::from(value)),
        ElemOp::ConstF64(value) => Element::Float(value),
        ElemOp::ConstI64(value) => Element::Int(value),
        ElemOp::Unary(function, x) => match registers[x] {
            Element::Float(x) => round(scalar::unary(function, x)),
            Element::Int(x) => Element::Int(scalar::unary_int(function, x).ok_or_else(bad)?),
        },
        ElemOp::Binary(function, a, b) => match (registers[a], registers[b]) {
            (Element::Int(a), Element::Int(b)) => {
                let made = scalar::binary_int(function, a, b);
                Element::Int(made.ok_or_else(|| format!("{a} is divided by 0"))?)
            }
            (Element::Float(a), Element::Float(b)) => {
                let value = scalar::binary(function, a, b);
                if function.is_comparison() { Element::Int(value as i64) } else { round(value) }
            }
            _ => return Err(bad()),
        },
        ElemOp::Where(condition, a, b) => match registers[condition] {
            Element::Int(0) => registers[b],
            Element::Int(_) => registers[a],
            Element::Float(_) => return Err(bad()),
        },
        ElemOp::ToF32(x) => match registers[x] {
            // Rounded once.
            Element::Int(x) => Element::Float(f64::from(x as f32)),
            Element::Float(x) => round(x),
        },
        ElemOp::ToF64(x) => round(registers[x].float()),
        ElemOp::ToRange(x, low, high) => match registers[x] {
            Element::Float(x) if x.is_nan() => Element::Int(i64::from(low)),
            Element::Float(x) => {
                Element::Int(x.round_ties_even().clamp(f64::from(low), f64::from(high)) as i64)
            }
            Element::Int(_) => return Err(bad()),
        },
        ElemOp::Narrow(x, dtype) => {
            let mut stored = [0; 2];
            registers[x].write(dtype, &mut stored);
            Element::read(dtype, &stored)
        }
        ElemOp::ToInt(x, DType::Bool) => Element::Int(i64::from(registers[x].float() != 0.0)),
        ElemOp::ToInt(x, dtype) => Element::Int(wrap(registers[x].int(), dtype)),
    })
}

#[cfg(test)]
mod tests {
    use reef_graph::{Binary, Unary};

    use super::*;
    use crate::spec::ElemInput;

    fn spec(dtype: DType, program: Vec<ElemOp>, out_dtype: DType) -> ElementwiseSpec {
        let input = ElemInput { dtype, offset: 0, strides: vec![1] };
        ElementwiseSpec {
            dims: vec![3],
            inputs: vec![input],
            program,
            out_dtype,
            out_strides: vec![1],
            tile: 3,
        }
    }

    #[test]
    fn kinds_are_told_apart() {
        let flaw = |dtype, program, to| spec(dtype, program, to).kinds().unwrap_err();
        let load = ElemOp::Load(0);
        assert!(flaw(DType::F64, vec![load], DType::F32).contains("another kind"));
        assert!(
            flaw(
                DType::F32,
                vec![load, ElemOp::ConstF64(1.0), ElemOp::Binary(Binary::Add, 0, 1)],
                DType::F64
            )
            .contains("differ in kind")
        );
        assert!(
            flaw(DType::F32, vec![load, ElemOp::Binary(Binary::BitAnd, 0, 0)], DType::F32)
                .contains("only integers")
        );
        assert!(
            flaw(DType::I32, vec![load, ElemOp::Unary(Unary::Exp, 0)], DType::I32).contains("only floats")
        );
        assert!(flaw(DType::F64, vec![load, ElemOp::ToRange(0, 0, 9)], DType::I32).contains("no f32"));
        assert!(flaw(DType::F64, vec![load, ElemOp::Narrow(0, DType::F16)], DType::F32).contains("no f32"));
        assert!(flaw(DType::F32, vec![load, ElemOp::Narrow(0, DType::I16)], DType::F32).contains("16 bits"));
        assert!(flaw(DType::F32, vec![load, ElemOp::Where(0, 0, 0)], DType::F32).contains("by floats"));
        let narrow = spec(DType::F64, vec![load, ElemOp::ToF32(0)], DType::F32);
        assert_eq!(narrow.kinds().unwrap(), [RegisterKind::Double, RegisterKind::Single]);
        assert!(narrow.has_doubles());
        assert!(!spec(DType::F64, vec![load], DType::F64).has_doubles(), "a copy moves bits");
    }

    #[test]
    fn programs_on_a_host() {
        let third = vec![ElemOp::Load(0), ElemOp::ConstF64(3.0), ElemOp::Binary(Binary::Div, 0, 1)];
        let x: Vec<u8> = [1.0f64, -2.0, f64::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut y = vec![0; 24];
        spec(DType::F64, third, DType::F64).compute(&[&x], &mut y).unwrap();
        let y: Vec<f64> = y.chunks(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(y[..2], [1.0 / 3.0, -2.0 / 3.0]);
        assert!(y[2].is_nan());
        let rest = vec![ElemOp::Load(0), ElemOp::ConstI64(0), ElemOp::Binary(Binary::Mod, 1, 0)];
        let fault = spec(DType::U8, rest, DType::U8).compute(&[&[7, 0, 1]], &mut [0; 3]).unwrap_err();
        assert!(fault.contains("divided by 0"), "{fault}");
    }
}
