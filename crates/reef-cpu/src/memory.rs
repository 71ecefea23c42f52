//! Buffers that grow while their owner works: arenas of task slots, scratch of compute units. An arena whose
//! slot nobody has can be made smaller, by who takes the slot for that, and the scratch of a unit that is
//! parked by who takes its seat.
//!
//! Who needs more *offers* a larger buffer; the owner takes it before the next use that needs it. The owner
//! frees nothing: what it had goes to [`Retired`], which offerers empty. Owners come one after the other: who
//! hands a buffer over says so by an edge of its own, as the board does for a slot.
//!
//! A buffer that nobody owns yet, or any more, is in a *node*, which belongs to who took its address out of
//! an atomic. These edges carry it, and each has a test under loom that fails without it:
//!
//! | from | to | carries |
//! |---|---|---|
//! | `offer`: release of `offered` | `ensure`, the next `offer`: acquire | the buffer that is offered |
//! | `ensure`: release of the list | `collect`: acquire | that the owner is done with what it had |
//!
//! The list of what is retired only changes by read-modify-writes, so a node that is put on others keeps what
//! those released.

use std::ptr;

use reef_base::AlignedBytes;

use crate::sync::{AtomicPtr, Ordering, UnsafeCell};

/// A buffer on its way.
#[derive(Debug)]
struct Node {
    bytes: AlignedBytes,
    next: *mut Link,
}

/// A node, in a cell so that loom sees who touches it.
type Link = UnsafeCell<Node>;

/// A buffer with one owner at a time.
#[derive(Debug, Default)]
pub(crate) struct Grown {
    current: UnsafeCell<AlignedBytes>,
    offered: AtomicPtr<Link>,
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
        let node = Box::new(Link::new(Node { bytes, next: ptr::null_mut() }));
        let before = self.offered.swap(Box::into_raw(node), Ordering::AcqRel);
        drop_list(before);
    }

    /// The buffer, of at least `len` bytes, if as many were offered before.
    ///
    /// # Safety
    /// The caller is the owner: no other thread is in `ensure` or uses the buffer.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn ensure(&self, len: usize, retired: &Retired) -> *mut u8 {
        self.current.with_mut(|current| {
            // SAFETY: the caller is the only one who touches `current`.
            let current = unsafe { &mut *current };
            if current.len() < len {
                let offered = self.offered.swap(ptr::null_mut(), Ordering::Acquire);
                assert!(!offered.is_null(), "a larger buffer is offered before it is needed");
                // SAFETY: the pointer came from `Box::into_raw` in `offer`, and the swap made it ours alone.
                let node = unsafe { &*offered };
                // SAFETY: as above.
                node.with_mut(|node| unsafe { std::mem::swap(&mut (*node).bytes, current) });
                retired.push(offered);
                assert!(current.len() >= len, "offers only grow");
            }
            current.as_mut_ptr()
        })
    }

    /// Puts `bytes` in the place of what is there and of what is offered, and frees both.
    ///
    /// # Safety
    /// As for [`Grown::ensure`]; and whoever needs more than this is offered it before.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn replace(&self, bytes: AlignedBytes) {
        drop_list(self.offered.swap(ptr::null_mut(), Ordering::Acquire));
        // SAFETY: the caller is the only one who touches `current`.
        self.current.with_mut(|current| unsafe { *current = bytes });
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        drop_list(self.offered.swap(ptr::null_mut(), Ordering::Acquire));
    }
}

/// Buffers that nobody uses any more.
#[derive(Debug, Default)]
pub(crate) struct Retired(AtomicPtr<Link>);

impl Retired {
    /// Frees them.
    pub(crate) fn collect(&self) {
        drop_list(self.0.swap(ptr::null_mut(), Ordering::Acquire));
    }

    #[allow(unsafe_code)]
    fn push(&self, link: *mut Link) {
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller owns the node until the exchange below succeeds.
            unsafe { (*link).with_mut(|node| (*node).next = head) };
            match self.0.compare_exchange_weak(head, link, Ordering::Release, Ordering::Relaxed) {
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
fn drop_list(mut link: *mut Link) {
    while !link.is_null() {
        // SAFETY: nodes come from `Box::into_raw`, and the caller took this list out of its atomic.
        let owned = unsafe { Box::from_raw(link) };
        // For loom a write, as the buffer goes with it.
        // SAFETY: the node is the caller's alone.
        link = owned.with_mut(|node| unsafe { (*node).next });
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

    #[test]
    fn what_is_replaced_can_grow_again() {
        let (grown, retired) = (Grown::default(), Retired::default());
        grown.offer(AlignedBytes::zeroed(256));
        // SAFETY: one thread.
        unsafe { grown.ensure(200, &retired) };
        grown.offer(AlignedBytes::zeroed(512));
        // SAFETY: one thread.
        unsafe { grown.replace(AlignedBytes::zeroed(64)) };
        // SAFETY: one thread.
        let small = unsafe { grown.ensure(64, &retired) };
        grown.offer(AlignedBytes::zeroed(128));
        // SAFETY: one thread.
        let (same, larger) = unsafe { (grown.ensure(64, &retired), grown.ensure(100, &retired)) };
        assert_eq!(small, same, "what was offered before is gone");
        assert_ne!(small, larger);
    }
}

#[cfg(all(test, loom))]
#[allow(unsafe_code)]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// A buffer, and where its owners leave what they had.
    #[derive(Default)]
    struct Rig {
        grown: Grown,
        retired: Retired,
    }

    impl Rig {
        /// With an offer of 64 bytes.
        fn new() -> Arc<Rig> {
            let rig = Arc::new(Rig::default());
            rig.offer(64);
            rig
        }

        fn offer(&self, len: usize) {
            self.grown.offer(AlignedBytes::zeroed(len));
        }

        /// Needs so many bytes, and writes to them.
        fn own(&self, len: usize) {
            // SAFETY: the tests have one owner at a time; loom reports a race.
            unsafe { self.grown.ensure(len, &self.retired).add(len - 1).write(1) };
        }
    }

    /// The owner needs what was offered last while an offer replaces it, and what was retired is freed.
    #[test]
    fn loom_an_offer_is_taken_or_replaced() {
        loom::model(|| {
            let rig = Rig::new();
            rig.own(64);
            rig.offer(128);
            let other = rig.clone();
            let thread = thread::spawn(move || {
                other.offer(256);
                other.retired.collect();
            });
            rig.own(128);
            thread.join().unwrap();
            rig.own(256);
        });
    }

    /// Who replaces an offer that another thread made frees it.
    #[test]
    fn loom_an_offer_that_is_replaced_is_over() {
        loom::model(|| {
            let rig = Rig::new();
            let other = rig.clone();
            let thread = thread::spawn(move || other.offer(128));
            rig.offer(128);
            thread.join().unwrap();
            rig.own(128);
        });
    }

    /// Who takes the slot to make its arena smaller comes after one owner and before the next, by the edges
    /// with which slots are handed over; an offer may come at any time.
    #[test]
    fn loom_a_smaller_buffer_comes_between_two_owners() {
        use crate::sync::AtomicU64;
        loom::model(|| {
            let (rig, free) = (Rig::new(), Arc::new(AtomicU64::new(0)));
            let (other, given) = (rig.clone(), free.clone());
            let owner = thread::spawn(move || {
                other.own(64);
                given.store(1, Ordering::Release);
            });
            if free.swap(0, Ordering::Acquire) == 1 {
                // SAFETY: whoever had it has given it back.
                unsafe { rig.grown.replace(AlignedBytes::zeroed(32)) };
                rig.offer(128);
                rig.own(100);
            }
            owner.join().unwrap();
        });
    }

    /// Two owners leave what they had on one list, while somebody frees it.
    #[test]
    fn loom_what_owners_leave_is_freed_once() {
        loom::model(|| {
            let rig = Rig::new();
            let second = Grown::default();
            second.offer(AlignedBytes::zeroed(64));
            let (other, collector) = (rig.clone(), rig.clone());
            let owner = thread::spawn(move || {
                // SAFETY: it is this thread's own.
                unsafe { second.ensure(64, &other.retired) };
            });
            let collector = thread::spawn(move || collector.retired.collect());
            rig.own(64);
            owner.join().unwrap();
            collector.join().unwrap();
        });
    }
}
