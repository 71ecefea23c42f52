//! How best-effort owners share compute unit time on the board: stride scheduling, block by block.
//!
//! An owner's *pass* is the compute unit time of its blocks over its weight; the owner with the least pass
//! goes next. Blocks that were killed or failed count as well: whose blocks are killed again and again, or
//! always fail, would otherwise go first for ever. Nothing is banked: an owner that comes
//! begins at the least pass of those that are there, or at its own if that is later, so that it pays what it
//! owes. Whose share a task is on, and its weight, stand in its key ([`reef_base::Share`]), so both levels
//! divide by the same weights, and several tasks of one owner get no more than one.
//!
//! Passes wrap. Those of owners that are there at once are near each other, so the difference tells.

use reef_base::{Nanos, Share, limits};

/// Units of pass per nanosecond at weight 1, as a shift.
const SCALE: u32 = 16;

/// What an owner owes at most when it comes. More would be a pass from before the numbers went round, or from
/// a time in which nobody else's blocks could run.
const OWED_MAX: i64 = 1_000_000_000 << SCALE;

/// How far `time` on a compute unit moves a pass.
pub fn cost(time: Nanos, weight: u32) -> u64 {
    ((time.0 << SCALE) / u64::from(weight.max(1))).max(1)
}

/// Where an owner's pass is kept.
pub fn index_of(share: Share) -> usize {
    usize::from(share.owner) % limits::MODELS_MAX
}

/// Whether one pass is less than another.
pub fn is_before(pass: u64, other: u64) -> bool {
    (pass.wrapping_sub(other) as i64) < 0
}

/// The lesser of two passes.
pub fn least(pass: u64, other: u64) -> u64 {
    if is_before(other, pass) { other } else { pass }
}

/// The pass of an owner that comes to others whose least pass is `floor`, or to nobody, where the last one
/// left at `floor`.
pub fn joined(own: u64, floor: u64) -> u64 {
    let owed = own.wrapping_sub(floor) as i64;
    floor.wrapping_add(owed.clamp(0, OWED_MAX) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_banks_nothing_and_pays_what_it_owes() {
        assert_eq!(joined(3, 10), 10);
        assert_eq!(joined(13, 10), 13);
        assert_eq!(joined(u64::MAX, 10), 10, "numbers go round");
        assert_eq!(joined(5, u64::MAX - 1), 5);
        assert_eq!(joined(1 << 62, 10), 10 + OWED_MAX as u64);
    }

    #[test]
    fn time_costs_by_weight_and_never_nothing() {
        assert_eq!(cost(Nanos(3000), 1), 3 * cost(Nanos(3000), 3));
        assert_eq!(cost(Nanos(1), 0), cost(Nanos(1), 1));
        assert_eq!(cost(Nanos(0), u32::MAX), 1);
        assert!(is_before(u64::MAX, 0) && !is_before(0, 0));
        assert_eq!((least(u64::MAX, 2), least(3, 2)), (u64::MAX, 2));
    }
}
