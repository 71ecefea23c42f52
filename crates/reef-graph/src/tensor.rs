//! Shapes and constant tensors.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytemuck::Pod;
use reef_base::AlignedBytes;
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

/// A constant tensor: dense, row-major, little endian, shared and immutable.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Arc<AlignedBytes>,
    key: ConstKey,
}

impl Tensor {
    /// A tensor over `data`; panics unless the bytes are exactly those that type and shape need.
    pub fn new(dtype: DType, shape: Shape, data: Arc<AlignedBytes>) -> Self {
        assert_eq!(data.len(), shape.elements() * dtype.bytes(), "bytes of a {dtype}{shape} tensor");
        let key = content_key(dtype, &shape, data.as_slice());
        Tensor { dtype, shape, data, key }
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
        &self.data
    }

    /// The key of the content.
    pub fn key(&self) -> ConstKey {
        self.key
    }

    /// The elements; panics unless `T` has the size of the element type.
    pub fn values<T: Pod>(&self) -> &[T] {
        assert_eq!(size_of::<T>(), self.dtype.bytes(), "element size of {}", self.dtype);
        self.data.typed()
    }

    /// The same elements in another shape of as many elements.
    pub fn reshaped(&self, shape: Shape) -> Tensor {
        Tensor::new(self.dtype, shape, self.data.clone())
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

fn content_key(dtype: DType, shape: &Shape, bytes: &[u8]) -> ConstKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{dtype}{shape}").as_bytes());
    hasher.update(bytes);
    let digest = hasher.finalize();
    ConstKey(u128::from_be_bytes(digest.as_bytes()[..16].try_into().expect("a digest has 32 bytes")))
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
}
