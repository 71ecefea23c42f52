//! Shapes and constant tensors.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytemuck::Pod;
use reef_base::AlignedBytes;
use reef_base::limits::STORED_BYTES_MIN;
use smallvec::SmallVec;

use crate::dtype::DType;

/// The extent of every axis of a tensor, outermost first. A scalar has no axis.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Shape(SmallVec<[usize; 6]>);

impl Shape {
    /// A shape with these extents.
    pub fn new(dims: &[usize]) -> Self {
        Shape(SmallVec::from_slice(dims))
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Elements between neighbours along each axis of a dense row-major tensor.
    pub fn strides(&self) -> SmallVec<[usize; 6]> {
        let mut strides: SmallVec<[usize; 6]> = SmallVec::from_elem(1, self.rank());
        for axis in (1..self.rank()).rev() {
            strides[axis - 1] = strides[axis] * self.0[axis];
        }
        strides
    }

    /// The shape that `self` and `other` broadcast to by NumPy's rules, if they do.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let extent = |shape: &Shape, axis: usize| {
            (axis + shape.rank()).checked_sub(rank).map_or(1, |own| shape.0[own])
        };
        let mut dims = SmallVec::new();
        for axis in 0..rank {
            match (extent(self, axis), extent(other, axis)) {
                (a, b) if a == b => dims.push(a),
                (1, b) => dims.push(b),
                (a, 1) => dims.push(a),
                _ => return None,
            }
        }
        Some(Shape(dims))
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape::new(&dims)
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Shape::new(&dims)
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(dims: I) -> Self {
        Shape(dims.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(usize::to_string).collect();
        write!(f, "[{}]", dims.join(","))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names the content of a constant: equal tensors have equal keys, whichever graph they are in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConstKey(pub u128);

impl fmt::Debug for ConstKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:08x}", self.0 >> 96)
    }
}

/// Bytes of a constant that are not in memory: read, or made of others, whenever somebody looks at them.
pub trait Stored: Send + Sync {
    /// The bytes, the same ones each time. A source that fails notes why for who made it, and gives zeros.
    fn bytes(&self) -> Arc<AlignedBytes>;
}

/// A constant tensor: dense, row-major, little endian, shared and immutable.
///
/// Its bytes are in memory, or [`Stored`]: then the first look at a tensor reads them, and they stay for as
/// long as it does. A clone has not been looked at. So who needs a large constant for a moment looks at a
/// clone of it.
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: OnceLock<Arc<AlignedBytes>>,
    stored: Option<Arc<dyn Stored>>,
    key: ConstKey,
}

impl Clone for Tensor {
    fn clone(&self) -> Self {
        let data = if self.is_stored() { OnceLock::new() } else { self.data.clone() };
        Tensor {
            data,
            dtype: self.dtype,
            shape: self.shape.clone(),
            stored: self.stored.clone(),
            key: self.key,
        }
    }
}

impl Tensor {
    /// A tensor over `data`; panics unless the bytes are exactly those that type and shape need.
    pub fn new(dtype: DType, shape: Shape, data: Arc<AlignedBytes>) -> Self {
        assert_eq!(data.len(), shape.elements() * dtype.bytes(), "bytes of a {dtype}{shape} tensor");
        let mut hasher = KeyHasher::new(dtype, &shape);
        hasher.update(data.as_slice());
        Tensor { dtype, shape, data: data.into(), stored: None, key: hasher.key() }
    }

    /// A tensor of the content that `key` names, whose bytes are read when somebody looks at them.
    pub fn stored(dtype: DType, shape: Shape, key: ConstKey, stored: Arc<dyn Stored>) -> Self {
        Tensor { dtype, shape, data: OnceLock::new(), stored: Some(stored), key }
    }

    /// What `make` makes of `parts`, always the same. If some of these are stored and it is large, it is made
    /// again whenever somebody looks at it.
    pub fn made<E>(
        parts: &[&Tensor],
        make: impl Fn(&[&Tensor]) -> Result<Tensor, E> + Send + Sync + 'static,
    ) -> Result<Tensor, E> {
        // Clones: what has to be read for this goes with them.
        let looked_at: Vec<Tensor> = parts.iter().copied().cloned().collect();
        let made = make(&looked_at.iter().collect::<Vec<_>>())?;
        let bytes = made.bytes().len();
        if bytes < STORED_BYTES_MIN || !looked_at.iter().any(Tensor::is_stored) {
            return Ok(made);
        }
        let make = move |parts: &[&Tensor]| make(parts).ok();
        let made_of = MadeOf { parts: looked_at.clone(), make, bytes };
        Ok(Tensor::stored(made.dtype, made.shape.clone(), made.key, Arc::new(made_of)))
    }

    /// Whether its bytes are read when somebody looks at them.
    pub fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// A tensor with a copy of `values`, whose Rust type must have `dtype`'s size.
    pub fn from_slice<T: Pod>(dtype: DType, shape: Shape, values: &[T]) -> Self {
        assert_eq!(size_of::<T>(), dtype.bytes(), "element size of {dtype}");
        Tensor::new(dtype, shape, Arc::new(AlignedBytes::copy_from(bytemuck::cast_slice(values))))
    }

    /// An f32 tensor with a copy of `values`.
    pub fn f32(shape: impl Into<Shape>, values: &[f32]) -> Self {
        Tensor::from_slice(DType::F32, shape.into(), values)
    }

    /// An i64 tensor with a copy of `values`.
    pub fn i64(shape: impl Into<Shape>, values: &[i64]) -> Self {
        Tensor::from_slice(DType::I64, shape.into(), values)
    }

    /// An f32 scalar.
    pub fn scalar_f32(value: f32) -> Self {
        Tensor::f32([], &[value])
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The bytes.
    pub fn bytes(&self) -> &Arc<AlignedBytes> {
        self.data.get_or_init(|| {
            let stored = self.stored.as_ref().expect("what is not in memory is stored");
            let bytes = stored.bytes();
            let needed = self.shape.elements() * self.dtype.bytes();
            assert_eq!(bytes.len(), needed, "bytes of a {}{} tensor", self.dtype, self.shape);
            bytes
        })
    }

    /// The key of the content.
    pub fn key(&self) -> ConstKey {
        self.key
    }

    /// The elements; panics unless `T` has the size of the element type.
    pub fn values<T: Pod>(&self) -> &[T] {
        assert_eq!(size_of::<T>(), self.dtype.bytes(), "element size of {}", self.dtype);
        self.bytes().typed()
    }

    /// The same elements in another shape of as many elements.
    pub fn reshaped(&self, shape: Shape) -> Tensor {
        Tensor::new(self.dtype, shape, self.bytes().clone())
    }
}

/// A constant that is made of others whenever somebody looks at it.
struct MadeOf<F> {
    parts: Vec<Tensor>,
    make: F,
    bytes: usize,
}

impl<F: Fn(&[&Tensor]) -> Option<Tensor> + Send + Sync> Stored for MadeOf<F> {
    fn bytes(&self) -> Arc<AlignedBytes> {
        let parts = self.parts.clone();
        match (self.make)(&parts.iter().collect::<Vec<_>>()) {
            Some(made) => made.bytes().clone(),
            // The parts are not what they were, which is noted where they are read.
            None => Arc::new(AlignedBytes::zeroed(self.bytes)),
        }
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}#{:?}", self.dtype, self.shape, self.key)
    }
}

/// Makes the key of a tensor whose bytes come in pieces.
#[derive(Clone)]
pub struct KeyHasher(blake3::Hasher);

impl KeyHasher {
    /// For a tensor of this type and shape.
    pub fn new(dtype: DType, shape: &Shape) -> KeyHasher {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{dtype}{shape}").as_bytes());
        KeyHasher(hasher)
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The key of a tensor with these bytes.
    pub fn key(&self) -> ConstKey {
        let digest = self.0.finalize();
        ConstKey(u128::from_be_bytes(digest.as_bytes()[..16].try_into().expect("a digest has 32 bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_broadcast_as_numpy_does() {
        let shape = |dims: &[usize]| Shape::new(dims);
        assert_eq!(shape(&[3, 1, 5]).broadcast(&shape(&[4, 1])), Some(shape(&[3, 4, 5])));
        assert_eq!(shape(&[]).broadcast(&shape(&[2])), Some(shape(&[2])));
        assert_eq!(shape(&[2]).broadcast(&shape(&[3])), None);
    }

    #[test]
    fn strides_are_row_major() {
        assert_eq!(Shape::from([2, 3, 4]).strides()[..], [12, 4, 1]);
        assert_eq!(Shape::from([2, 3, 4]).elements(), 24);
        assert_eq!(Shape::from([]).elements(), 1);
    }

    #[test]
    fn keys_name_type_shape_and_content() {
        let a = Tensor::f32([2], &[1.0, 2.0]);
        assert_eq!(a.key(), Tensor::f32([2], &[1.0, 2.0]).key());
        assert_ne!(a.key(), Tensor::f32([2, 1], &[1.0, 2.0]).key());
        assert_ne!(a.key(), Tensor::f32([2], &[1.0, 3.0]).key());
        assert_eq!(a.reshaped(Shape::from([1, 2])).values::<f32>(), [1.0, 2.0]);
    }

    /// Counts how often it is read.
    struct Counted(std::sync::atomic::AtomicUsize);

    impl Stored for Counted {
        fn bytes(&self) -> Arc<AlignedBytes> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Arc::new(AlignedBytes::copy_from(bytemuck::cast_slice(&[1.0f32, 2.0])))
        }
    }

    #[test]
    fn a_stored_tensor_is_read_once_for_each_clone_that_is_looked_at() {
        let held = Tensor::f32([2], &[1.0, 2.0]);
        let source = Arc::new(Counted(0.into()));
        let reads = || source.0.load(std::sync::atomic::Ordering::Relaxed);
        let stored = Tensor::stored(DType::F32, [2].into(), held.key(), source.clone());
        let clone = stored.clone();
        assert!(stored.is_stored() && !held.is_stored() && stored == held);
        assert_eq!(reads(), 0);
        assert_eq!((stored.values::<f32>(), stored.values::<f32>()), (held.values(), held.values()));
        assert_eq!(reads(), 1);
        assert_eq!(clone.reshaped([1, 2].into()).key(), held.reshaped([1, 2].into()).key());
        assert_eq!(reads(), 2);
        assert!(Arc::ptr_eq(held.bytes(), held.clone().bytes()), "what is in memory is shared");
    }

    #[test]
    fn what_is_made_of_a_stored_tensor_is_stored_when_it_is_large() {
        let count = STORED_BYTES_MIN / 4;
        let source = Arc::new(Counted(0.into()));
        let reads = || source.0.load(std::sync::atomic::Ordering::Relaxed);
        let few = Tensor::f32([2], &[1.0, 2.0]);
        let stored = Tensor::stored(DType::F32, [2].into(), few.key(), source.clone());
        let repeated = move |times: usize| {
            move |of: &[&Tensor]| Ok::<_, ()>(Tensor::f32([2 * times], &of[0].values::<f32>().repeat(times)))
        };
        let large = Tensor::made(&[&stored], repeated(count / 2)).unwrap();
        assert!(large.is_stored());
        assert_eq!(large, Tensor::made(&[&few], repeated(count / 2)).unwrap());
        assert_eq!((large.values::<f32>().len(), large.values::<f32>()[3], reads()), (count, 2.0, 2));
        let small = Tensor::made(&[&stored], repeated(1)).unwrap();
        assert!(!small.is_stored() && !Tensor::made(&[&few], repeated(count / 2)).unwrap().is_stored());
        assert_eq!(Tensor::made(&[&stored], |_| Err::<Tensor, _>("no")).unwrap_err(), "no");
    }

    #[test]
    fn a_key_does_not_depend_on_the_pieces() {
        let whole = Tensor::f32([2], &[1.0, 2.0]);
        let mut hasher = KeyHasher::new(DType::F32, whole.shape());
        whole.bytes().as_slice().chunks(3).for_each(|piece| hasher.update(piece));
        assert_eq!(hasher.key(), whole.key());
    }
}
