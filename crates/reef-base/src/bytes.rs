//! Aligned byte buffers.
//!
//! Invariant: the first byte is aligned to 64 bytes and the bytes past the length up to the next
//! multiple of 64 exist and are initialised, so vector loads may run over the end.

use std::alloc::{Layout, alloc_zeroed};
use std::hint::black_box;

use bytemuck::Pod;

/// Alignment of every buffer that a kernel reads or writes, in bytes.
pub const ALIGN_BYTES: usize = 64;

/// Bytes between two that are written so that the system gives the memory now.
const PAGE_BYTES: usize = 4096;

/// A heap buffer of bytes aligned to [`ALIGN_BYTES`], zeroed when made.
#[derive(Default)]
pub struct AlignedBytes {
    /// What is used begins at `start`, at most [`ALIGN_BYTES`] - 1.
    all: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        match Self::try_zeroed(len) {
            Some(bytes) => bytes,
            None => std::alloc::handle_alloc_error(layout(len).unwrap_or(Layout::new::<u8>())),
        }
    }

    /// A buffer of `len` zero bytes; `None` when the system has not got them.
    pub fn try_zeroed(len: usize) -> Option<Self> {
        let mut bytes = Self::try_untouched(len)?;
        for at in (0..bytes.all.len()).step_by(PAGE_BYTES) {
            *black_box(&mut bytes.all[at]) = 0;
        }
        Some(bytes)
    }

    /// A buffer of `len` zero bytes that takes memory, where the system works like that, only as it is
    /// written to; `None` when the system has not got the place.
    pub fn try_untouched(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self::default());
        }
        let layout = layout(len)?;
        // SAFETY: the layout has at least one byte.
        #[allow(unsafe_code)]
        let first = unsafe { alloc_zeroed(layout) };
        if first.is_null() {
            return None;
        }
        // SAFETY: `first` came from the global allocator for this layout, of so many bytes, all 0.
        #[allow(unsafe_code)]
        let all = unsafe { Vec::from_raw_parts(first, layout.size(), layout.size()) };
        let start = (all.as_ptr() as usize).wrapping_neg() % ALIGN_BYTES;
        Some(Self { all, start, len })
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
        if self.len == 0 {
            // Aligned as well, for who wants values of more bytes.
            return bytemuck::cast_slice::<u128, u8>(&[]);
        }
        &self.all[self.start..][..self.len]
    }

    /// The bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        if self.len == 0 {
            return bytemuck::cast_slice_mut::<u128, u8>(&mut []);
        }
        &mut self.all[self.start..][..self.len]
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
        match self.len {
            0 => std::ptr::without_provenance_mut(ALIGN_BYTES),
            _ => self.all[self.start..].as_mut_ptr(),
        }
    }

    /// Address of the first byte, aligned to [`ALIGN_BYTES`].
    pub fn as_ptr(&self) -> *const u8 {
        match self.len {
            0 => std::ptr::without_provenance(ALIGN_BYTES),
            _ => self.all[self.start..].as_ptr(),
        }
    }
}

impl Clone for AlignedBytes {
    fn clone(&self) -> Self {
        // The copy begins elsewhere in its memory.
        Self::copy_from(self.as_slice())
    }
}

/// The memory of a buffer: its lines, and what it takes to begin with one.
fn layout(len: usize) -> Option<Layout> {
    let lines = len.checked_next_multiple_of(ALIGN_BYTES)?;
    Layout::array::<u8>(lines.checked_add(ALIGN_BYTES - 1)?).ok()
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
            let copy = buffer.clone();
            assert_eq!((copy.as_slice(), copy.as_ptr() as usize % ALIGN_BYTES), (buffer.as_slice(), 0));
            let untouched = AlignedBytes::try_untouched(len).expect("it is little");
            assert_eq!((untouched.len(), untouched.as_ptr() as usize % ALIGN_BYTES), (len, 0));
            assert!(untouched.as_slice().iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn what_no_memory_has_is_refused() {
        assert!(AlignedBytes::try_zeroed(usize::MAX).is_none());
        assert!(AlignedBytes::try_untouched(usize::MAX / 2 - 10).is_none());
    }

    #[test]
    fn typed_views_alias_the_bytes() {
        assert_eq!(AlignedBytes::default().typed::<f64>(), [0.0; 0]);
        assert_eq!(AlignedBytes::zeroed(0).typed_mut::<f64>(), [0.0; 0]);
        let mut buffer = AlignedBytes::zeroed(12);
        buffer.typed_mut::<f32>()[1] = 1.0;
        assert_eq!(buffer.as_slice()[4..8], 1.0f32.to_le_bytes());
        assert_eq!(buffer.typed::<f32>(), [0.0, 1.0, 0.0]);
    }
}
