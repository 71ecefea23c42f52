//! `reef-program`: what a request runs, segment after segment.
//!
//! A **segment** is a plan and what comes after it: the end, or a [`HandOver`] to another **part** of the
//! model. Which segment that is depends on what was computed: the parts' inputs have shapes, and some are
//! taken by their value (a condition, a count, an extent), and shapes and values together are the next
//! segment's [`SegmentKey`]. So a branch is a hand-over with a condition among its values, a loop one that
//! leads back to the part that it came from, and a result whose shape depends on data one that takes the
//! count by its value. A model without any of that is one segment.
//!
//! A segment may be cut into several plans, for devices that run them one after the other: a [`Transfer`]
//! leads from each to the next.
//!
//! Segments are immutable and validated when they are made ([`Segment::new`]): sources are values of the
//! plan, values are small, counts count an axis that there is. Does not know how parts are turned into
//! segments, nor devices, queues or threads.

mod hand_over;
mod key;

pub use hand_over::{HandOver, Passed, ProgramError, Row, Segment, Source, Take, Transfer};
pub use key::{Given, Part, SegmentKey};
