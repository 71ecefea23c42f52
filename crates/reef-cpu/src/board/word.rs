//! The claim word: (generation, stage, remaining blocks) in one `u64`, and what is derived from it.
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 40..64 | generation | tells the tasks apart that use a slot one after the other |
//! | 24..40 | stage | the open stage; [`CLOSED_STAGE`]: the task takes no blocks any more |
//! | 0..24 | remaining | blocks of the stage that nobody has claimed; in a closed word the [`Reason`] |
//!
//! A claim is a compare-and-swap of the whole word, so it succeeds only for the generation and stage that
//! were looked at. The value that it replaced is the block's *ticket*: it names one block of one stage of one
//! task (block = total − remaining) and is never 0, so a redo entry is a ticket or 0. A generation comes
//! again after 2^24 tasks of one slot; a claimer would have to sleep exactly that long between two loads to
//! be fooled.

use reef_base::limits;

const STAGE_SHIFT: u32 = 24;
const GENERATION_SHIFT: u32 = 40;
const REMAINING_MASK: u64 = (1 << STAGE_SHIFT) - 1;

/// The stage number of a closed word; plans have fewer stages.
const CLOSED_STAGE: u64 = 0xFFFF;

const _: () = assert!(limits::STAGES_MAX - 1 <= CLOSED_STAGE as usize);
const _: () = assert!(limits::STAGE_BLOCKS_MAX - 1 <= REMAINING_MASK as usize);

/// Why a task was closed; the stronger reason wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Somebody asked for its end.
    Cancelled = 1,
    /// One of its blocks failed.
    Failed = 2,
    /// The device was poisoned.
    DeviceFault = 3,
}

/// A claim word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    /// `remaining` unclaimed blocks of `stage`.
    pub(crate) fn new(generation: u64, stage: u32, remaining: u32) -> Word {
        debug_assert!(u64::from(stage) < CLOSED_STAGE && u64::from(remaining) <= REMAINING_MASK);
        Word(generation << GENERATION_SHIFT | u64::from(stage) << STAGE_SHIFT | u64::from(remaining))
    }

    /// The low 24 bits of the task's generation.
    pub(crate) fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }

    /// The open stage; not for closed words.
    pub(crate) fn stage(self) -> u32 {
        (self.0 >> STAGE_SHIFT) as u32 & CLOSED_STAGE as u32
    }

    /// Unclaimed blocks: none in a closed word.
    pub(crate) fn remaining(self) -> u32 {
        if self.is_closed() { 0 } else { self.ticket() }
    }

    /// The low bits, when the word is a ticket: blocks that remained before the claim.
    pub(crate) fn ticket(self) -> u32 {
        (self.0 & REMAINING_MASK) as u32
    }

    /// After one claim.
    pub(crate) fn claimed(self) -> Word {
        Word(self.0 - 1)
    }

    /// Closed for `reason`.
    pub(crate) fn closed(self, reason: Reason) -> Word {
        Word(self.generation() << GENERATION_SHIFT | CLOSED_STAGE << STAGE_SHIFT | reason as u64)
    }

    /// Whether the task takes no blocks any more.
    pub(crate) fn is_closed(self) -> bool {
        u64::from(self.stage()) == CLOSED_STAGE
    }

    /// Why it was closed.
    pub(crate) fn reason(self) -> Option<Reason> {
        match (self.is_closed(), self.ticket()) {
            (false, _) => None,
            (true, 1) => Some(Reason::Cancelled),
            (true, 2) => Some(Reason::Failed),
            (true, _) => Some(Reason::DeviceFault),
        }
    }

    /// Whether `generation`, of any width, is the one in the word.
    pub(crate) fn is_of(self, generation: u64) -> bool {
        self.generation() == generation & (u64::MAX >> GENERATION_SHIFT)
    }
}

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "generation {} closed: {reason:?}", self.generation()),
            None => {
                write!(f, "generation {} stage {} left {}", self.generation(), self.stage(), self.ticket())
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_apart_at_their_limits() {
        let word = Word::new(u64::MAX, limits::STAGES_MAX as u32 - 2, limits::STAGE_BLOCKS_MAX as u32 - 1);
        assert_eq!(word.generation(), (1 << 24) - 1);
        assert_eq!(word.stage(), limits::STAGES_MAX as u32 - 2);
        assert_eq!(word.remaining(), limits::STAGE_BLOCKS_MAX as u32 - 1);
        assert!(!word.is_closed() && word.is_of(u64::MAX) && !word.is_of(7));
        assert_eq!(word.claimed().remaining(), word.remaining() - 1);
    }

    #[test]
    fn closed_words_have_nothing_to_claim() {
        let word = Word::new(9, 3, 5);
        for reason in [Reason::Cancelled, Reason::Failed, Reason::DeviceFault] {
            let closed = word.closed(reason);
            assert_eq!((closed.remaining(), closed.reason()), (0, Some(reason)));
            assert!(closed.is_of(9));
        }
        assert_eq!(word.reason(), None);
    }
}
