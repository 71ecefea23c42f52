//! Looks at the items of a heap in their order without taking them out, as far as one wants to look.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::heap::{Heap, Item, Order};

/// Room to gather in.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// Slots of those who join, in the queue's order.
    pub(crate) slots: Vec<u32>,
    /// Places in the queue's heap that come next.
    next: BinaryHeap<Reverse<(Order, u32)>>,
}

impl Gathering {
    /// Makes room for so many.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.slots.reserve(rows);
        self.next.reserve(2 * rows + 2);
    }

    /// Begins with the head of a queue.
    pub(crate) fn begin(&mut self, heap: &Heap) {
        self.slots.clear();
        self.next.clear();
        self.next.extend(heap.peek().map(|item| Reverse((item.order, 0))));
    }

    /// The next of the heap's items in their order.
    pub(crate) fn pop(&mut self, heap: &Heap) -> Option<Item> {
        let Reverse((_, at)) = self.next.pop()?;
        for child in [2 * at + 1, 2 * at + 2] {
            if let Some(item) = heap.items().get(child as usize) {
                self.next.push(Reverse((item.order, child)));
            }
        }
        Some(heap.items()[at as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reef_base::Rng;

    #[test]
    fn items_come_in_their_order_and_stay() {
        let mut rng = Rng::new(1);
        let (mut heap, mut gathering) = (Heap::with_capacity(50), Gathering::default());
        for slot in 0..50 {
            heap.push(Item { order: (rng.below(9), u64::from(slot)), slot }, &mut |_, _| ());
        }
        let mut orders: Vec<Order> = heap.items().iter().map(|item| item.order).collect();
        orders.sort();
        for _ in 0..2 {
            gathering.begin(&heap);
            let seen: Vec<Order> =
                std::iter::from_fn(|| gathering.pop(&heap)).map(|item| item.order).collect();
            assert_eq!(seen, orders);
        }
        gathering.begin(&Heap::default());
        assert!(gathering.pop(&Heap::default()).is_none());
    }
}
