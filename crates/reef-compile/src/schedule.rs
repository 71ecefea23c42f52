//! Kernels become stages.
//!
//! A list schedule in the order of the model: the first kernel whose operands are ready opens a stage; others
//! that are ready join it as long as its blocks are too few to keep every compute unit busy to the end (the
//! device's cutter says how many that takes). A kernel waits for every earlier one that writes what it uses
//! or uses what it writes.

use reef_base::limits::STAGE_KERNELS_MAX;

use crate::lower::Draft;
use crate::view::Operand;

/// How far behind the first kernel of a stage its companions may be, in kernels: values made early live long.
const LOOK_AHEAD: usize = 24;

/// Indices of the kernels of every stage; `full` blocks fill one.
pub(crate) fn schedule(drafts: &[Draft], full: usize) -> Vec<Vec<usize>> {
    let waits_for = dependencies(drafts);
    let mut done = vec![false; drafts.len()];
    let mut stages = Vec::new();
    let mut first = 0;
    while first < drafts.len() {
        if done[first] {
            first += 1;
            continue;
        }
        let mut stage: Vec<usize> = Vec::new();
        let mut blocks = 0;
        // The first kernel that is not done is always ready: it waits for earlier ones only.
        for index in first..drafts.len().min(first + LOOK_AHEAD) {
            if blocks >= full || stage.len() == STAGE_KERNELS_MAX {
                break;
            }
            if !done[index] && waits_for[index].iter().all(|&other| done[other]) {
                blocks += drafts[index].spec.blocks();
                stage.push(index);
            }
        }
        stage.iter().for_each(|&index| done[index] = true);
        stages.push(stage);
    }
    stages
}

/// For every kernel, the earlier ones that it waits for.
fn dependencies(drafts: &[Draft]) -> Vec<Vec<usize>> {
    let buffers = drafts.iter().flat_map(operands).map(|operand| operand.buf + 1).max().unwrap_or(0);
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); buffers];
    let mut waits_for = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.iter().enumerate() {
        let mut own: Vec<usize> = operands(draft).flat_map(|operand| &users[operand.buf]).copied().collect();
        own.sort_unstable();
        own.dedup();
        own.retain(|&other| conflict(&drafts[other], draft));
        waits_for.push(own);
        for operand in operands(draft) {
            if users[operand.buf].last() != Some(&index) {
                users[operand.buf].push(index);
            }
        }
    }
    waits_for
}

fn operands(draft: &Draft) -> impl Iterator<Item = &Operand> {
    draft.reads.iter().chain(&draft.writes)
}

/// Whether one of the two writes what the other uses.
fn conflict(a: &Draft, b: &Draft) -> bool {
    let clash = |writes: &[Operand], other: &Draft| {
        writes.iter().any(|write| operands(other).any(|operand| operand.overlaps(write)))
    };
    clash(&a.writes, b) || clash(&b.writes, a)
}
