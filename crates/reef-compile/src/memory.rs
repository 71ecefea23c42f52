//! The arena: an offset for every buffer such that buffers that live at the same time do not overlap.
//!
//! A buffer lives from the stage that first writes it to the last one that uses it, and `window` stages
//! longer when a queued executor may go back to its readers. Large buffers are placed first, each in the
//! tightest gap between those that live at the same time; a second try places them in order of time. The
//! smaller arena wins.

use std::cmp::Reverse;

use reef_base::bytes::ALIGN_BYTES;

/// A buffer's length and the stages that it lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Its length, rounded up to whole cache lines.
    pub bytes: usize,
    /// The stage that first uses it.
    pub first: usize,
    /// The last stage in which it must not be overwritten.
    pub last: usize,
}

impl Lifetime {
    /// A buffer of `bytes` that lives from stage `first` to stage `last`.
    pub fn new(bytes: usize, first: usize, last: usize) -> Lifetime {
        Lifetime { bytes: bytes.next_multiple_of(ALIGN_BYTES), first, last }
    }

    fn meets(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Offsets of the buffers and the length of the arena.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arena {
    /// Offset of every buffer, a multiple of 64.
    pub offsets: Vec<usize>,
    /// Length of the arena.
    pub bytes: usize,
}

/// Places the buffers.
pub(crate) fn place(buffers: &[Lifetime]) -> Arena {
    let mut by_size: Vec<usize> = (0..buffers.len()).collect();
    let mut by_time = by_size.clone();
    by_size.sort_by_key(|&index| (Reverse(buffers[index].bytes), buffers[index].first, index));
    by_time.sort_by_key(|&index| (buffers[index].first, Reverse(buffers[index].last), index));
    let by_length: Vec<usize> = {
        let mut order = by_size.clone();
        order.sort_by_key(|&index| Reverse(buffers[index].last - buffers[index].first));
        order
    };
    let tries = [by_size, by_time, by_length].map(|order| place_in_order(buffers, &order));
    tries.into_iter().min_by_key(|arena| arena.bytes).expect("three tries")
}

/// The largest number of bytes alive in one stage: no arena is smaller.
pub(crate) fn largest_live_set(buffers: &[Lifetime]) -> usize {
    // Sets only grow at the first stage of a buffer.
    let live_at = |stage: usize| -> usize {
        let alive = buffers.iter().filter(|other| other.first <= stage && stage <= other.last);
        alive.map(|other| other.bytes).sum()
    };
    buffers.iter().map(|buffer| live_at(buffer.first)).max().unwrap_or(0)
}

fn place_in_order(buffers: &[Lifetime], order: &[usize]) -> Arena {
    let mut arena = Arena { offsets: vec![0; buffers.len()], bytes: 0 };
    // Placed buffers, ascending by offset.
    let mut placed: Vec<usize> = Vec::with_capacity(buffers.len());
    for &index in order {
        let own = buffers[index];
        let offset = tightest_gap(buffers, &arena.offsets, &placed, own);
        arena.offsets[index] = offset;
        arena.bytes = arena.bytes.max(offset + own.bytes);
        let at = placed.partition_point(|&other| arena.offsets[other] <= offset);
        placed.insert(at, index);
    }
    arena
}

fn tightest_gap(buffers: &[Lifetime], offsets: &[usize], placed: &[usize], own: Lifetime) -> usize {
    let mut end = 0;
    let mut best: Option<(usize, usize)> = None;
    for &other in placed.iter().filter(|&&other| buffers[other].meets(&own)) {
        let gap = offsets[other].saturating_sub(end);
        if gap >= own.bytes && best.is_none_or(|(size, _)| gap < size) {
            best = Some((gap, end));
        }
        end = end.max(offsets[other] + buffers[other].bytes);
    }
    best.map_or(end, |(_, offset)| offset)
}

#[cfg(test)]
mod tests {
    use reef_base::Rng;

    use super::*;

    fn check(buffers: &[Lifetime], factor: f64) {
        let arena = place(buffers);
        for (i, a) in buffers.iter().enumerate() {
            assert_eq!(arena.offsets[i] % 64, 0);
            assert!(arena.offsets[i] + a.bytes <= arena.bytes);
            for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                let apart = arena.offsets[i] + a.bytes <= arena.offsets[j]
                    || arena.offsets[j] + b.bytes <= arena.offsets[i];
                assert!(apart || !a.meets(b), "{i} {a:?} and {j} {b:?} overlap");
            }
        }
        let least = largest_live_set(buffers);
        assert!(arena.bytes as f64 <= least as f64 * factor, "{} for {least}", arena.bytes);
    }

    #[test]
    fn live_buffers_never_overlap() {
        let mut rng = Rng::new(11);
        for _ in 0..50 {
            let buffers: Vec<Lifetime> = (0..60)
                .map(|_| {
                    let first = rng.below(40) as usize;
                    let bytes = 64 << rng.below(10);
                    Lifetime::new(bytes - rng.below(63) as usize, first, first + rng.below(8) as usize)
                })
                .collect();
            check(&buffers, 1.6);
        }
    }

    #[test]
    fn a_chain_of_layers_needs_little_more_than_its_largest_pair() {
        let sizes =
            [3211264, 3211264, 802816, 1605632, 1605632, 401408, 802816, 802816, 200704, 401408, 25088];
        for window in [0, 4] {
            let buffers: Vec<Lifetime> = sizes
                .iter()
                .enumerate()
                .map(|(stage, &elements)| Lifetime::new(elements * 4, stage, stage + 1 + window))
                .collect();
            check(&buffers, 1.3);
        }
    }

    #[test]
    fn nothing_needs_nothing() {
        assert_eq!(place(&[]), Arena::default());
        assert_eq!(largest_live_set(&[]), 0);
    }
}
