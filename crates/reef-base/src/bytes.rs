//! Aligned byte buffers without unsafe code: cache lines viewed as bytes.
//!
//! Invariant: the first byte is aligned to 64 bytes and the bytes past the length up to the next
//! multiple of 64 exist and are initialised, so vector loads may run over the end.

use bytemuck::{Pod, Zeroable};

/// Alignment of every buffer that a kernel reads or writes, in bytes.
pub const ALIGN_BYTES: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ALIGN_BYTES]);

// SAFETY: `Line` is 64 plain bytes with size 64 and alignment 64, so it has no padding; every bit
// pattern, all zeros among them, is a value.
#[allow(unsafe_code)]
unsafe impl Zeroable for Line {}
// SAFETY: as above; `Line` is `Copy`, `'static` and has no padding.
#[allow(unsafe_code)]
unsafe impl Pod for Line {}

/// A heap buffer of bytes aligned to [`ALIGN_BYTES`], zeroed when made.
#[derive(Clone, Default)]
pub struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBytes {
    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Self { lines: vec![Line::zeroed(); len.div_ceil(ALIGN_BYTES)], len }
    }

    /// A buffer of `len` zero bytes; `None` when the system has not got them.
    pub fn try_zeroed(len: usize) -> Option<Self> {
        let count = len.div_ceil(ALIGN_BYTES);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).ok()?;
        lines.resize(count, Line::zeroed());
        Some(Self { lines, len })
    }

    /// A copy of `bytes`.
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.as_mut_slice().copy_from_slice(bytes);
        buffer
    }

    /// Length in bytes, as asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    /// The bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }

    /// The bytes as values of `T`; the length must be a multiple of `T`'s size.
    pub fn typed<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self.as_slice())
    }

    /// The bytes as writable values of `T`; the length must be a multiple of `T`'s size.
    pub fn typed_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.as_mut_slice())
    }

    /// Address of the first byte, aligned to [`ALIGN_BYTES`].
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    /// Address of the first byte, aligned to [`ALIGN_BYTES`].
    pub fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_keep_their_length() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let mut buffer = AlignedBytes::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % ALIGN_BYTES, 0);
            assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
            buffer.as_mut_slice().fill(7);
            assert_eq!(AlignedBytes::copy_from(buffer.as_slice()).as_slice(), buffer.as_slice());
        }
    }

    #[test]
    fn typed_views_alias_the_bytes() {
        let mut buffer = AlignedBytes::zeroed(12);
        buffer.typed_mut::<f32>()[1] = 1.0;
        assert_eq!(buffer.as_slice()[4..8], 1.0f32.to_le_bytes());
        assert_eq!(buffer.typed::<f32>(), [0.0, 1.0, 0.0]);
    }
}
