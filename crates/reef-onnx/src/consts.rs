//! Constants: from tract's tensors to ours, and each folded once for all specialisations of a model. What the
//! last few of them did not use is let go: some constants are made for the shapes of one request, and there
//! is no end of shapes. A large constant that is made of one that is not in memory is not kept there either:
//! it is made again whenever somebody looks at it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use reef_base::AlignedBytes;
use reef_graph::scalar::Element;
use reef_graph::{ConstKey, DType, Shape, Tensor};
use tract_onnx::prelude::{DatumType, Tensor as TractTensor};

/// Specialisations for which a folded constant is kept after its last use.
const KEPT_FOR: u64 = 4;

/// Constants already folded; lives as long as the model.
#[derive(Debug, Default)]
pub(crate) struct ConstPool {
    folded: Mutex<Folded>,
}

#[derive(Debug, Default)]
struct Folded {
    /// With the number of the specialisation that used it last.
    tensors: HashMap<(String, Vec<ConstKey>), (Tensor, u64)>,
    specialisation: u64,
}

impl ConstPool {
    /// A specialisation begins.
    pub fn begin(&self) {
        let mut folded = self.folded.lock().expect("no panic holds this lock");
        folded.specialisation += 1;
        let now = folded.specialisation;
        folded.tensors.retain(|_, (_, used)| *used + KEPT_FOR >= now);
    }

    /// Lets everything go that is in memory.
    pub fn clear(&self) {
        let mut folded = self.folded.lock().expect("no panic holds this lock");
        folded.tensors.retain(|_, (tensor, _)| tensor.is_stored());
    }

    /// `make()`, or what it gave earlier for the same `what` and `parts`.
    pub fn folded(&self, what: String, parts: &[&Tensor], make: impl FnOnce() -> Tensor) -> Tensor {
        match self.try_folded(what, parts, || Ok::<_, std::convert::Infallible>(make())) {
            Ok(made) => made,
        }
    }

    /// `make()`, or what it gave earlier for the same `what` and `parts`; an error is not kept.
    pub fn try_folded<E>(
        &self,
        what: String,
        parts: &[&Tensor],
        make: impl FnOnce() -> Result<Tensor, E>,
    ) -> Result<Tensor, E> {
        let key = (what, parts.iter().map(|part| part.key()).collect::<Vec<_>>());
        let mut folded = self.folded.lock().expect("no panic holds this lock");
        let now = folded.specialisation;
        if let Some((known, used)) = folded.tensors.get_mut(&key) {
            *used = now;
            return Ok(known.clone());
        }
        drop(folded);
        let made = make()?;
        let mut folded = self.folded.lock().expect("no panic holds this lock");
        folded.tensors.insert(key, (made.clone(), now));
        Ok(made)
    }

    /// What `make` makes of `parts`, always the same, or what it gave earlier for the same `what` and
    /// `parts`; an error is not kept.
    pub fn try_made<E>(
        &self,
        what: String,
        parts: &[&Tensor],
        make: impl Fn(&[&Tensor]) -> Result<Tensor, E> + Send + Sync + 'static,
    ) -> Result<Tensor, E> {
        self.try_folded(what, parts, || Tensor::made(parts, make))
    }

    /// [`ConstPool::try_made`] of what cannot fail.
    pub fn made(
        &self,
        what: String,
        parts: &[&Tensor],
        make: impl Fn(&[&Tensor]) -> Tensor + Send + Sync + 'static,
    ) -> Tensor {
        match self.try_made(what, parts, move |parts| Ok::<_, std::convert::Infallible>(make(parts))) {
            Ok(made) => made,
        }
    }

    /// `tensor` with another shape.
    pub fn reshaped(&self, tensor: &Tensor, shape: &Shape) -> Tensor {
        let to = shape.clone();
        self.made(format!("reshape {shape}"), &[tensor], move |of| of[0].reshaped(to.clone()))
    }

    /// `tensor` with its axes permuted.
    pub fn transposed(&self, tensor: &Tensor, perm: &[usize]) -> Tensor {
        let by = perm.to_vec();
        self.made(format!("transpose {perm:?}"), &[tensor], move |of| transposed(of[0], &by))
    }
}

/// Our name of tract's type. Symbolic integers are i64 once they are concrete.
pub(crate) fn dtype_of(datum: DatumType) -> Option<DType> {
    Some(match datum {
        DatumType::F32 => DType::F32,
        DatumType::F16 => DType::F16,
        DatumType::F64 => DType::F64,
        DatumType::I64 | DatumType::TDim => DType::I64,
        DatumType::I32 => DType::I32,
        DatumType::I16 => DType::I16,
        DatumType::I8 => DType::I8,
        DatumType::U64 => DType::U64,
        DatumType::U32 => DType::U32,
        DatumType::U16 => DType::U16,
        DatumType::U8 => DType::U8,
        DatumType::Bool => DType::Bool,
        _ => return None,
    })
}

/// tract's name of our type, where it has one.
pub(crate) fn datum_of(dtype: DType) -> Option<DatumType> {
    Some(match dtype {
        DType::F32 => DatumType::F32,
        DType::F16 => DatumType::F16,
        DType::F64 => DatumType::F64,
        DType::I64 => DatumType::I64,
        DType::I32 => DatumType::I32,
        DType::I16 => DatumType::I16,
        DType::I8 => DatumType::I8,
        DType::U64 => DatumType::U64,
        DType::U32 => DatumType::U32,
        DType::U16 => DatumType::U16,
        DType::U8 => DatumType::U8,
        DType::Bool => DatumType::Bool,
        DType::BF16 => return None,
    })
}

/// Our copy of `tensor`; `None` when it has a type that graphs do not have.
pub(crate) fn convert(tensor: &TractTensor) -> Option<Tensor> {
    let dtype = dtype_of(tensor.datum_type())?;
    let concrete = match tensor.datum_type() {
        DatumType::TDim => tensor.cast_to::<i64>().ok()?,
        _ => std::borrow::Cow::Borrowed(tensor),
    };
    let plain = concrete.try_as_plain_ram().ok()?;
    let bytes = AlignedBytes::copy_from(plain.as_bytes());
    Some(Tensor::new(dtype, Shape::new(concrete.shape()), Arc::new(bytes)))
}

/// The elements of a floating-point tensor in double precision.
pub(crate) fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    Some(match tensor.dtype() {
        DType::F32 => tensor.values::<f32>().iter().map(|&v| f64::from(v)).collect(),
        DType::F64 => tensor.values::<f64>().to_vec(),
        DType::F16 => tensor.values::<half::f16>().iter().map(|v| v.to_f64()).collect(),
        DType::BF16 => tensor.values::<half::bf16>().iter().map(|v| v.to_f64()).collect(),
        _ => return None,
    })
}

/// The elements as whole numbers, fractions cut off; booleans are 0 and 1. `None` of half precision.
pub(crate) fn whole_numbers(tensor: &Tensor) -> Option<Vec<i64>> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => None,
        _ => Some(Element::all(tensor).into_iter().map(Element::int).collect()),
    }
}

/// The elements of an integer tensor.
pub(crate) fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    Some(match tensor.dtype() {
        DType::I64 => tensor.values::<i64>().to_vec(),
        DType::I32 => tensor.values::<i32>().iter().map(|&v| i64::from(v)).collect(),
        _ => return None,
    })
}

/// The value of every element, when they are all equal floating-point numbers.
pub(crate) fn uniform(tensor: &Tensor) -> Option<f64> {
    const LONGEST: usize = 1 << 16;
    if tensor.shape().elements() > LONGEST {
        return None;
    }
    let values = floats(tensor)?;
    let first = *values.first()?;
    values.iter().all(|&value| value == first).then_some(first)
}

/// An f32 tensor of rounded values.
pub(crate) fn rounded(shape: Shape, values: &[f64]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Tensor::f32(shape, &values)
}

fn transposed(tensor: &Tensor, perm: &[usize]) -> Tensor {
    let shape: Shape = perm.iter().map(|&axis| tensor.shape()[axis]).collect();
    let strides = tensor.shape().strides();
    let size = tensor.dtype().bytes();
    let source = tensor.bytes().as_slice();
    let mut target = AlignedBytes::zeroed(source.len());
    let mut index = vec![0usize; perm.len()];
    for element in target.as_mut_slice().chunks_exact_mut(size) {
        let at: usize = index.iter().zip(perm).map(|(&i, &axis)| i * strides[axis]).sum();
        element.copy_from_slice(&source[at * size..(at + 1) * size]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Tensor::new(tensor.dtype(), shape, Arc::new(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposition_follows_the_permutation() {
        let tensor = Tensor::f32([2, 3], &[0., 1., 2., 3., 4., 5.]);
        let turned = transposed(&tensor, &[1, 0]);
        assert_eq!(turned.values::<f32>(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(turned.shape()[..], [3, 2]);
    }

    #[test]
    fn folded_constants_that_are_not_used_any_more_are_let_go() {
        let pool = ConstPool::default();
        let (weights, made) = (Tensor::f32([2], &[1.0, 2.0]), std::cell::Cell::new(0));
        let fold = |what: String| {
            pool.folded(what, &[&weights], || {
                made.set(made.get() + 1);
                weights.clone()
            })
        };
        for shape in 0..20 {
            pool.begin();
            fold("always".into());
            fold(format!("for shape {shape}"));
            assert!(pool.folded.lock().unwrap().tensors.len() <= 2 + KEPT_FOR as usize);
        }
        assert_eq!(made.get(), 21);
        pool.begin();
        fold("for shape 19".into());
        assert_eq!(made.get(), 21, "kept for a while");
    }
}
