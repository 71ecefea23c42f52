//! The memory that client and server share.
//!
//! A segment is a `memfd`, sealed so that nobody can change its length: no access to a mapping of it can
//! fail for want of a file behind it, which would be SIGBUS. The other process writes to it whenever it
//! likes, so here it is words of atomics, and everything is read and written by relaxed loads and stores of
//! them; that costs what a copy costs. Only the client looks at tensors through slices, of which it must
//! own the slot ([`Segment::bytes`]).
//!
//! Invariants: a segment is only ever mapped whole, with its seals checked, and stays mapped as long as the
//! value lives; every access is checked against its length.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Bytes of a word.
const WORD: usize = size_of::<AtomicU64>();

/// A mapped segment.
#[derive(Debug)]
pub struct Segment {
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the pointer is to a mapping that this value alone unmaps; what is reached through it are atomics,
// or slices under the rules of `bytes` and `bytes_mut`.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A new one of at least `bytes`, all zero, and the descriptor to hand over.
    pub fn create(bytes: usize) -> io::Result<(Segment, OwnedFd)> {
        let bytes = bytes.max(1).checked_next_multiple_of(4096).ok_or(io::ErrorKind::InvalidInput)?;
        let file = rustix::fs::memfd_create(c"reef-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Segment::map(&file)?, file))
    }

    /// Maps one that somebody else made; refused if its length could change.
    pub fn map(file: impl AsFd) -> io::Result<Segment> {
        let wrong = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_string());
        let seals =
            rustix::fs::fcntl_get_seals(&file).map_err(|_| wrong("the segment is not sealed memory"))?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(wrong("the segment's length is not sealed"));
        }
        let bytes = usize::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        if bytes == 0 || !bytes.is_multiple_of(WORD) {
            return Err(wrong("the segment's length is not one of words"));
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address that the kernel chooses; its file has `bytes` for ever.
        let address = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, &file, 0)? };
        let words = NonNull::new(address.cast::<AtomicU64>()).expect("a mapping is not at address 0");
        Ok(Segment { words, count: bytes / WORD })
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.count * WORD
    }

    /// Whether it has no bytes: never.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, has `count` words, lives as long as `self`, and any bytes are
        // words. Other processes change it at any time, as atomics allow.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }

    /// Copies the bytes from `offset` on, a multiple of 8. Panics if they are not within the segment.
    pub fn read(&self, offset: usize, target: &mut [u8]) {
        let words = self.words_at(offset, target.len());
        let mut chunks = target.chunks_exact_mut(WORD);
        let (whole, last) = words.split_at(chunks.len());
        for (chunk, word) in chunks.by_ref().zip(whole) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        let rest = chunks.into_remainder();
        if let Some(word) = last.first() {
            rest.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes()[..rest.len()]);
        }
    }

    /// Copies `source` to `offset`, a multiple of 8; the rest of the last word becomes zero. Panics if it
    /// does not fit.
    pub fn write(&self, offset: usize, source: &[u8]) {
        let words = self.words_at(offset, source.len());
        for (word, chunk) in words.iter().zip(source.chunks(WORD)) {
            let mut bytes = [0; WORD];
            bytes[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
    }

    /// The bytes of a range.
    ///
    /// # Safety
    /// Nobody may write to them while the slice lives: neither this process nor, by the protocol, the other.
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let words = self.words_at(offset, len);
        // SAFETY: the words are there and initialised; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), len) }
    }

    /// The bytes of a range, to be written.
    ///
    /// # Safety
    /// Nobody else may read or write them while the slice lives: neither this process nor, by the protocol,
    /// the other.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn bytes_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        let words = self.words_at(offset, len);
        // SAFETY: atomics may be written through a shared pointer; that nobody else does is the caller's
        // promise.
        unsafe { std::slice::from_raw_parts_mut(words.as_ptr().cast::<u8>().cast_mut(), len) }
    }

    /// The words that hold `len` bytes from `offset` on.
    fn words_at(&self, offset: usize, len: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(WORD), "offset {offset} is not one of words");
        let start = offset / WORD;
        let end = start.checked_add(len.div_ceil(WORD)).filter(|&end| end <= self.count);
        let end = end.unwrap_or_else(|| panic!("{len} bytes at {offset} of a segment of {}", self.len()));
        &self.words()[start..end]
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no reference outlives it.
        let unmapped = unsafe { rustix::mm::munmap(self.words.as_ptr().cast(), self.len()) };
        debug_assert!(unmapped.is_ok(), "a mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_are_one_memory() {
        let (one, file) = Segment::create(5000).unwrap();
        let two = Segment::map(&file).unwrap();
        assert_eq!((one.len(), two.len(), one.is_empty()), (8192, 8192, false));
        for len in [0usize, 1, 7, 8, 9, 4095] {
            let bytes: Vec<u8> = (0..len).map(|index| index as u8 | 1).collect();
            one.write(64, &bytes);
            let mut back = vec![0; len];
            two.read(64, &mut back);
            assert_eq!(back, bytes);
        }
        let mut all = vec![0; 8192];
        two.read(0, &mut all);
        assert!(all[..64].iter().chain(&all[64 + 4096..]).all(|&byte| byte == 0), "nothing around it");
    }

    #[test]
    fn nobody_can_change_the_length() {
        let (segment, file) = Segment::create(4096).unwrap();
        for len in [0, 100, 8192] {
            assert!(rustix::fs::ftruncate(&file, len).is_err(), "{len}");
        }
        assert!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE).is_err());
        assert_eq!(segment.words().len(), 512);
    }

    #[test]
    fn memory_whose_length_may_change_is_refused() {
        let file =
            rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        assert!(Segment::map(&file).unwrap_err().to_string().contains("not sealed"));
        rustix::fs::fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        assert!(Segment::map(&file).is_err());
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        assert!(Segment::map(&file).is_ok());
        let other = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(Segment::map(&other).is_err());
        assert!(Segment::create(usize::MAX).is_err());
    }

    #[test]
    #[should_panic(expected = "8 bytes at 4096")]
    fn what_is_not_within_it_is_a_bug() {
        let (segment, _file) = Segment::create(4096).unwrap();
        segment.write(4096, &[0; 8]);
    }
}
