//! A binary min-heap whose items know their place, so that any of them can be removed in O(log n).
//!
//! Invariant: `moved(slot, position)` was last called for every item with its present position, and with
//! [`ABSENT`] when it left. Never grows beyond the capacity it was made with unless `reserve` is called.

/// The position of an item that is in no heap.
pub(crate) const ABSENT: u32 = u32::MAX;

/// What items are compared by: a key, then the order of arrival.
pub(crate) type Order = (u64, u64);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) order: Order,
    pub(crate) slot: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Heap {
    items: Vec<Item>,
}

impl Heap {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Heap { items: Vec::with_capacity(capacity) }
    }

    pub(crate) fn reserve(&mut self, additional: usize) {
        self.items.reserve(additional);
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn peek(&self) -> Option<Item> {
        self.items.first().copied()
    }

    /// All items, the heap's root first, otherwise in no order.
    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    pub(crate) fn push(&mut self, item: Item, moved: &mut impl FnMut(u32, u32)) {
        self.items.push(item);
        self.sift_up(self.items.len() - 1, moved);
    }

    pub(crate) fn remove(&mut self, position: u32, moved: &mut impl FnMut(u32, u32)) -> Item {
        let position = position as usize;
        let item = self.items.swap_remove(position);
        moved(item.slot, ABSENT);
        if position < self.items.len() {
            self.sift_down(position, moved);
            self.sift_up(position, moved);
        }
        item
    }

    fn sift_up(&mut self, mut at: usize, moved: &mut impl FnMut(u32, u32)) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.items[parent].order <= self.items[at].order {
                break;
            }
            self.items.swap(at, parent);
            moved(self.items[at].slot, at as u32);
            at = parent;
        }
        moved(self.items[at].slot, at as u32);
    }

    fn sift_down(&mut self, mut at: usize, moved: &mut impl FnMut(u32, u32)) {
        loop {
            let children = [2 * at + 1, 2 * at + 2].into_iter().filter(|&child| child < self.items.len());
            let Some(least) = children.min_by_key(|&child| self.items[child].order) else { break };
            if self.items[at].order <= self.items[least].order {
                break;
            }
            self.items.swap(at, least);
            moved(self.items[at].slot, at as u32);
            at = least;
        }
        moved(self.items[at].slot, at as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reef_base::Rng;

    #[test]
    fn pops_in_order_and_items_know_their_place() {
        let mut rng = Rng::new(1);
        let mut places = vec![ABSENT; 64];
        let mut heap = Heap::with_capacity(64);
        for round in 0..200 {
            for slot in 0..64u32 {
                if places[slot as usize] == ABSENT && rng.below(2) == 0 {
                    let item = Item { order: (rng.below(20), u64::from(slot)), slot };
                    heap.push(item, &mut |slot, at| places[slot as usize] = at);
                }
            }
            let victim = rng.below(64) as usize;
            if places[victim] != ABSENT {
                let gone = heap.remove(places[victim], &mut |slot, at| places[slot as usize] = at);
                assert_eq!(gone.slot as usize, victim);
            }
            for (at, item) in heap.items().iter().enumerate() {
                assert_eq!(places[item.slot as usize], at as u32, "round {round}");
            }
            let least = heap.items().iter().map(|item| item.order).min();
            assert_eq!(heap.peek().map(|item| item.order), least);
        }
    }
}
