//! Elements of any type in the two kinds of numbers that host operators compute with: double precision, and
//! integers that hold every 64-bit one. What is stored wraps or rounds once, to the type it is stored in.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    /// Of a floating-point type.
    Real(Vec<f64>),
    /// Of an integer type, or booleans as 0 and 1.
    Whole(Vec<i128>),
}

/// Runs `$body` with `$t` as the element type of `$datum`: `$real` for floating-point types, `$whole` for
/// integers.
macro_rules! by_kind {
    ($datum:expr, $t:ident, real: $real:expr, whole: $whole:expr, flag: $flag:expr) => {{
        match $datum {
            DatumType::F16 => {
                type $t = f16;
                $real
            }
            DatumType::F32 => {
                type $t = f32;
                $real
            }
            DatumType::F64 => {
                type $t = f64;
                $real
            }
            DatumType::I8 => {
                type $t = i8;
                $whole
            }
            DatumType::I16 => {
                type $t = i16;
                $whole
            }
            DatumType::I32 => {
                type $t = i32;
                $whole
            }
            DatumType::I64 => {
                type $t = i64;
                $whole
            }
            DatumType::U8 => {
                type $t = u8;
                $whole
            }
            DatumType::U16 => {
                type $t = u16;
                $whole
            }
            DatumType::U32 => {
                type $t = u32;
                $whole
            }
            DatumType::U64 => {
                type $t = u64;
                $whole
            }
            DatumType::Bool => $flag,
            other => bail!("elements of type {other:?} are not supported"),
        }
    }};
}

impl Values {
    /// The elements of `tensor`.
    pub fn of(tensor: &Tensor) -> TractResult<Self> {
        if tensor.datum_type() == DatumType::TDim {
            return Self::of(&*tensor.cast_to::<i64>()?);
        }
        let plain = tensor.try_as_plain_ram()?;
        by_kind!(tensor.datum_type(), T,
            real: Ok(Self::Real(plain.as_slice::<T>()?.iter().map(|value| value.to_real()).collect())),
            whole: Ok(Self::Whole(plain.as_slice::<T>()?.iter().map(|&value| i128::from(value)).collect())),
            flag: Ok(Self::Whole(plain.as_slice::<bool>()?.iter().map(|&value| i128::from(value)).collect()))
        )
    }

    /// A tensor of these elements. Integers wrap, numbers are rounded to the nearest or towards zero.
    pub fn store(&self, datum: DatumType, shape: &[usize]) -> TractResult<Tensor> {
        let mut tensor = Tensor::zero_dt(datum, shape)?;
        ensure!(tensor.len() == self.len(), "{} elements for shape {shape:?}", self.len());
        {
            let mut plain = tensor.try_as_plain_ram_mut()?;
            by_kind!(datum, T,
                real: self.put(plain.as_slice_mut::<T>()?, <T as Real>::of_real, <T as Real>::of_whole),
                whole: self.put(plain.as_slice_mut::<T>()?, |v| integer_of(v) as T, |v| v as T),
                flag: self.put(plain.as_slice_mut::<bool>()?, |v| v != 0.0, |v| v != 0)
            );
        }
        Ok(tensor)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Real(values) => values.len(),
            Self::Whole(values) => values.len(),
        }
    }

    /// All of them as numbers.
    pub fn real(&self) -> std::borrow::Cow<'_, [f64]> {
        match self {
            Self::Real(values) => values.into(),
            Self::Whole(values) => values.iter().map(|&value| value as f64).collect(),
        }
    }

    /// All of them as integers, rounded towards zero.
    pub fn whole(&self) -> std::borrow::Cow<'_, [i128]> {
        match self {
            Self::Real(values) => values.iter().map(|&value| integer_of(value)).collect(),
            Self::Whole(values) => values.into(),
        }
    }

    fn put<T>(&self, target: &mut [T], real: impl Fn(f64) -> T, whole: impl Fn(i128) -> T) {
        match self {
            Self::Real(values) => target.iter_mut().zip(values).for_each(|(to, &v)| *to = real(v)),
            Self::Whole(values) => target.iter_mut().zip(values).for_each(|(to, &v)| *to = whole(v)),
        }
    }
}

/// `value` without its fraction. What no 64-bit integer holds, NaN among it, is the least of them, as x86
/// converts it.
fn integer_of(value: f64) -> i128 {
    let limit = 2f64.powi(63);
    if value >= -limit && value < 2.0 * limit { value as i128 } else { i128::from(i64::MIN) }
}

/// Rounding to a floating-point type.
trait Real {
    fn to_real(&self) -> f64;
    fn of_real(value: f64) -> Self;
    fn of_whole(value: i128) -> Self;
}

impl Real for f64 {
    fn to_real(&self) -> f64 {
        *self
    }
    fn of_real(value: f64) -> Self {
        value
    }
    fn of_whole(value: i128) -> Self {
        value as f64
    }
}

impl Real for f32 {
    fn to_real(&self) -> f64 {
        f64::from(*self)
    }
    fn of_real(value: f64) -> Self {
        value as f32
    }
    fn of_whole(value: i128) -> Self {
        value as f32
    }
}

impl Real for f16 {
    fn to_real(&self) -> f64 {
        f64::from(*self)
    }
    fn of_real(value: f64) -> Self {
        f16::from_f64(value)
    }
    fn of_whole(value: i128) -> Self {
        // Every integer that a half-precision number can be near is exact in double precision.
        f16::from_f64(value as f64)
    }
}

/// Walks the elements of a tensor of `shape` for tensors that broadcast into it: `visit` gets the position in
/// each.
pub(super) fn broadcast(shape: &[usize], inputs: &[&[usize]], mut visit: impl FnMut(&[usize])) {
    let strides: Vec<Vec<usize>> = inputs.iter().map(|input| strides_in(shape, input)).collect();
    let mut at = vec![0; inputs.len()];
    let mut index = vec![0; shape.len()];
    for _ in 0..shape.iter().product::<usize>() {
        visit(&at);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at.iter_mut().zip(&strides).for_each(|(at, strides)| *at += strides[axis]);
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
            at.iter_mut().zip(&strides).for_each(|(at, strides)| *at -= strides[axis] * shape[axis]);
        }
    }
}

/// Steps of a tensor of shape `input` along the axes of `shape`; 0 where it broadcasts.
fn strides_in(shape: &[usize], input: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; shape.len()];
    let mut step = 1;
    let missing = shape.len() - input.len();
    for (axis, &extent) in input.iter().enumerate().rev() {
        strides[missing + axis] = if extent == 1 { 0 } else { step };
        step *= extent;
    }
    strides
}
