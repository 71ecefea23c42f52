//! A table of things in use, such as plans, that are looked up and given back without a lock.
//!
//! An entry is used by loaders, one at a time, and read by holders of references:
//!
//! | state word | meaning |
//! |---|---|
//! | generation, open, references n ≥ 1 | there; the loader holds one reference, every user one |
//! | generation, closed, n ≥ 1 | taken out, users are left |
//! | generation, closed, 0 | empty; whoever took the last reference away freed the thing |
//!
//! What orders accesses to the thing: putting it in releases the state word and taking a reference acquires
//! it; giving a reference back releases it, and both who frees the thing and who puts the next one in acquire
//! it. All other steps are relaxed: as read-modify-writes they keep what was released before them.

use reef_device::LoadedPlan;

use crate::sync::{AtomicU64, Ordering, UnsafeCell};

const INDEX_BITS: u32 = 12;
/// Entries of a table at most.
pub(crate) const ENTRIES_MAX: usize = 1 << INDEX_BITS;
const OPEN: u64 = 1 << 32;
const GENERATION_SHIFT: u32 = 33;

struct Entry<T> {
    state: AtomicU64,
    thing: UnsafeCell<Option<Box<T>>>,
}

impl<T> Default for Entry<T> {
    fn default() -> Entry<T> {
        Entry { state: AtomicU64::new(0), thing: UnsafeCell::default() }
    }
}

/// The table.
pub(crate) struct Table<T> {
    entries: Box<[Entry<T>]>,
}

// SAFETY: an entry's thing is written by the loader while the entry is empty (nobody holds a reference and
// new ones are refused), read by holders of references, and dropped by whoever gave the last one back.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync> Sync for Table<T> {}
// SAFETY: the table owns its things.
#[allow(unsafe_code)]
unsafe impl<T: Send> Send for Table<T> {}

impl<T> Table<T> {
    /// An empty table of `count` entries.
    pub(crate) fn new(count: usize) -> Table<T> {
        assert!(count <= ENTRIES_MAX, "an id has {INDEX_BITS} bits for the entry");
        Table { entries: (0..count).map(|_| Entry::default()).collect() }
    }

    /// Puts a thing in. One caller at a time. Gives it back when the table is full.
    #[allow(unsafe_code)]
    pub(crate) fn insert(&self, thing: Box<T>) -> Result<LoadedPlan, Box<T>> {
        let empty = |state: u64| state as u32 == 0 && state & OPEN == 0;
        let spent = |state: u64| state >> GENERATION_SHIFT == (1 << (32 - INDEX_BITS)) - 1;
        let found = self.entries.iter().enumerate().find_map(|(index, entry)| {
            let state = entry.state.load(Ordering::Acquire);
            (empty(state) && !spent(state)).then_some((index, entry, (state >> GENERATION_SHIFT) + 1))
        });
        let Some((index, entry, generation)) = found else { return Err(thing) };
        // SAFETY: the entry is empty, so nobody holds a reference, and there is one loader at a time.
        entry.thing.with_mut(|place| unsafe { *place = Some(thing) });
        entry.state.store(generation << GENERATION_SHIFT | OPEN | 1, Ordering::Release);
        Ok(LoadedPlan((generation as u32) << INDEX_BITS | index as u32))
    }

    /// A reference to a thing; give it back with [`Table::release`].
    #[allow(unsafe_code)]
    pub(crate) fn acquire(&self, id: LoadedPlan) -> Option<&T> {
        let (entry, generation) = self.entry(id)?;
        let mut state = entry.state.load(Ordering::Relaxed);
        loop {
            if state >> GENERATION_SHIFT != generation || state & OPEN == 0 {
                return None;
            }
            match entry.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        // SAFETY: the reference taken above keeps the thing in place until it is given back.
        entry.thing.with(|place| unsafe { (*place).as_deref() })
    }

    /// Gives a reference back; frees the thing with the last one.
    #[allow(unsafe_code)]
    pub(crate) fn release(&self, id: LoadedPlan) {
        let (entry, _) = self.entry(id).expect("who has a reference has an id of this table");
        let mut state = entry.state.load(Ordering::Relaxed);
        loop {
            debug_assert!(state as u32 > 0, "references are given back once");
            if state as u32 == 1 {
                // The last one: nobody can take another, because the entry is closed. A load, not a fence:
                // thread sanitizers do not know fences.
                entry.state.load(Ordering::Acquire);
                // SAFETY: this caller holds the only reference, and the loader leaves the entry alone until
                // the count is 0.
                drop(entry.thing.with_mut(|place| unsafe { (*place).take() }));
            }
            match entry.state.compare_exchange_weak(state, state - 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }

    /// Refuses new references and gives the loader's back.
    pub(crate) fn close(&self, id: LoadedPlan) {
        let Some((entry, generation)) = self.entry(id) else { return };
        let mut state = entry.state.load(Ordering::Relaxed);
        loop {
            if state >> GENERATION_SHIFT != generation || state & OPEN == 0 {
                return;
            }
            match entry.state.compare_exchange_weak(
                state,
                state & !OPEN,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return self.release(id),
                Err(now) => state = now,
            }
        }
    }

    /// Whether a thing was taken out and its last user has left: nobody will ever use it again.
    pub(crate) fn is_gone(&self, id: LoadedPlan) -> bool {
        let Some((entry, generation)) = self.entry(id) else { return true };
        let state = entry.state.load(Ordering::Acquire);
        state >> GENERATION_SHIFT != generation || (state & OPEN == 0 && state as u32 == 0)
    }

    fn entry(&self, id: LoadedPlan) -> Option<(&Entry<T>, u64)> {
        Some((self.entries.get(id.index() % ENTRIES_MAX)?, u64::from(id.0 >> INDEX_BITS)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_thing_stays_until_its_last_user_and_its_id_is_not_used_again() {
        let table = Table::new(1);
        let thing = Arc::new(());
        let id = table.insert(Box::new(thing.clone())).unwrap();
        assert!(table.insert(Box::default()).is_err(), "the table is full");
        assert!(table.acquire(id).is_some());
        table.close(id);
        table.close(id);
        assert!(table.acquire(id).is_none(), "it was taken out");
        assert!(!table.is_gone(id), "but it is in use");
        assert_eq!(Arc::strong_count(&thing), 2, "its user has it still");
        assert!(table.insert(Box::default()).is_err(), "the entry is in use");
        table.release(id);
        assert!(table.is_gone(id));
        assert_eq!(Arc::strong_count(&thing), 1);
        let next = table.insert(Box::default()).unwrap();
        assert_ne!(id, next);
        assert!(table.acquire(id).is_none() && table.acquire(next).is_some());
        assert!(table.is_gone(id) && !table.is_gone(next));
        table.close(id);
        assert!(table.acquire(next).is_some(), "an old id closes nothing");
    }

    #[test]
    fn ids_that_the_table_does_not_have_are_unknown() {
        let table = Table::<()>::new(2);
        for id in [0, 1, 5, u32::MAX] {
            assert!(table.acquire(LoadedPlan(id)).is_none());
            table.close(LoadedPlan(id));
        }
    }

    #[test]
    fn an_entry_whose_generations_are_spent_stays_empty() {
        let table = Table::new(1);
        let last = (1 << (32 - INDEX_BITS)) - 2;
        table.entries[0].state.store(last << GENERATION_SHIFT, Ordering::Relaxed);
        let id = table.insert(Box::new(())).unwrap();
        table.close(id);
        assert!(table.insert(Box::new(())).is_err(), "its next id would be one of long ago");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Written when it is made and when it goes, read by its users.
    struct Thing(UnsafeCell<u64>);

    impl Thing {
        #[allow(unsafe_code)]
        fn new(value: u64) -> Box<Thing> {
            let thing = Box::new(Thing(UnsafeCell::new(0)));
            // SAFETY: nobody else has it.
            thing.0.with_mut(|place| unsafe { *place = value });
            thing
        }

        #[allow(unsafe_code)]
        fn read(&self) -> u64 {
            // SAFETY: loom reports a race.
            self.0.with(|place| unsafe { *place })
        }
    }

    impl Drop for Thing {
        #[allow(unsafe_code)]
        fn drop(&mut self) {
            // SAFETY: loom reports a race.
            self.0.with_mut(|place| unsafe { *place = u64::MAX });
        }
    }

    #[test]
    fn loom_a_user_sees_the_thing_that_was_put_in() {
        loom::model(|| {
            let table = Arc::new(Table::<Thing>::new(1));
            let other = table.clone();
            // Its id is known before it is there, as an id that comes back is.
            let id = LoadedPlan(1 << INDEX_BITS);
            let thread = thread::spawn(move || {
                if let Some(thing) = other.acquire(id) {
                    assert_eq!(thing.read(), 7);
                    other.release(id);
                }
            });
            assert_eq!(table.insert(Thing::new(7)).ok(), Some(id));
            thread.join().unwrap();
        });
    }

    #[test]
    fn loom_nobody_uses_a_thing_that_is_gone() {
        loom::model(|| {
            let table = Arc::new(Table::<Thing>::new(1));
            let id = table.insert(Thing::new(7)).ok().unwrap();
            let other = table.clone();
            let thread = thread::spawn(move || {
                if let Some(thing) = other.acquire(id) {
                    assert_eq!(thing.read(), 7);
                    other.release(id);
                }
            });
            table.close(id);
            thread.join().unwrap();
            assert!(table.acquire(id).is_none());
        });
    }

    #[test]
    fn loom_the_next_thing_comes_when_the_last_one_is_gone() {
        loom::model(|| {
            let table = Arc::new(Table::<Thing>::new(1));
            let id = table.insert(Thing::new(7)).ok().unwrap();
            assert_eq!(table.acquire(id).map(Thing::read), Some(7));
            table.close(id);
            let other = table.clone();
            let releaser = thread::spawn(move || other.release(id));
            let mut next = Thing::new(8);
            let next = loop {
                match table.insert(next) {
                    Ok(id) => break id,
                    Err(again) => next = again,
                }
                thread::yield_now();
            };
            assert_eq!(table.acquire(next).map(Thing::read), Some(8));
            releaser.join().unwrap();
        });
    }
}
