//! Buffers that grow while their owner works: arenas of task slots, scratch of compute units.
//!
//! Who needs more *offers* a larger buffer; the owner takes it before the next use that needs it. The owner
//! frees nothing: what it had goes to [`Retired`], which offerers empty.

use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use reef_base::AlignedBytes;

#[derive(Debug)]
struct Node {
    bytes: AlignedBytes,
    next: *mut Node,
}

/// A buffer with one owner at a time.
#[derive(Debug, Default)]
pub(crate) struct Grown {
    current: UnsafeCell<AlignedBytes>,
    offered: AtomicPtr<Node>,
}

// SAFETY: `current` is touched by the owner only (the contract of `ensure`), and owners hand over with a
// happens-before edge; `offered` is an atomic.
#[allow(unsafe_code)]
unsafe impl Sync for Grown {}
// SAFETY: a `Grown` owns plain buffers.
#[allow(unsafe_code)]
unsafe impl Send for Grown {}

impl Grown {
    /// Offers a buffer; replaces an earlier offer that was not taken. A later offer must not be smaller.
    pub(crate) fn offer(&self, bytes: AlignedBytes) {
        let node = Box::new(Node { bytes, next: ptr::null_mut() });
        let before = self.offered.swap(Box::into_raw(node), Ordering::AcqRel);
        drop_list(before);
    }

    /// The buffer, of at least `len` bytes, if as many were offered before.
    ///
    /// # Safety
    /// The caller is the owner: no other thread is in `ensure` or uses the buffer.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn ensure(&self, len: usize, retired: &Retired) -> *mut u8 {
        // SAFETY: the caller is the only one who touches `current`.
        let current = unsafe { &mut *self.current.get() };
        if current.len() < len {
            let offered = self.offered.swap(ptr::null_mut(), Ordering::AcqRel);
            assert!(!offered.is_null(), "a larger buffer is offered before it is needed");
            // SAFETY: the pointer came from `Box::into_raw` in `offer`, and the swap made it ours alone.
            let node = unsafe { &mut *offered };
            std::mem::swap(&mut node.bytes, current);
            retired.push(offered);
            assert!(current.len() >= len, "offers only grow");
        }
        current.as_mut_ptr()
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        drop_list(*self.offered.get_mut());
    }
}

/// Buffers that nobody uses any more.
#[derive(Debug, Default)]
pub(crate) struct Retired(AtomicPtr<Node>);

impl Retired {
    /// Frees them.
    pub(crate) fn collect(&self) {
        drop_list(self.0.swap(ptr::null_mut(), Ordering::AcqRel));
    }

    #[allow(unsafe_code)]
    fn push(&self, node: *mut Node) {
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller owns the node until the exchange below succeeds.
            unsafe { (*node).next = head };
            match self.0.compare_exchange_weak(head, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        self.collect();
    }
}

#[allow(unsafe_code)]
fn drop_list(mut node: *mut Node) {
    while !node.is_null() {
        // SAFETY: nodes come from `Box::into_raw`, and the caller took this list out of its atomic.
        let owned = unsafe { Box::from_raw(node) };
        node = owned.next;
    }
}

#[cfg(all(test, not(loom)))]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_taken_when_it_is_needed() {
        let (grown, retired) = (Grown::default(), Retired::default());
        grown.offer(AlignedBytes::zeroed(64));
        grown.offer(AlignedBytes::zeroed(128));
        // SAFETY: one thread.
        let first = unsafe { grown.ensure(100, &retired) };
        grown.offer(AlignedBytes::zeroed(256));
        // SAFETY: one thread.
        let (same, larger) = unsafe { (grown.ensure(128, &retired), grown.ensure(200, &retired)) };
        assert_eq!(first, same);
        assert_ne!(first, larger);
        retired.collect();
    }
}
