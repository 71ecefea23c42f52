//! Ensembles of decision trees.
//!
//! A row goes through all trees before the next; votes are added up in the output, which every run of a block
//! begins with. Polls after so many nodes, and so many votes.

use reef_graph::trees::{Aggregate, LEAF, MISSING, NODE_WORDS, Test};
use reef_plan::{Kernel, Region, TreesSpec};

use super::BlockKernel;
use crate::context::{BlockContext, BlockEnd, Poll};

/// Nodes, or votes, between polls. One takes a few nanoseconds, and some hundred when it comes from memory.
const STEPS: usize = 48;
/// Targets that are filled between polls.
const TARGETS: usize = 8192;

pub(super) struct Trees {
    spec: TreesSpec,
    reads: [Region; 5],
    y: Region,
}

impl Trees {
    pub(super) fn new(spec: &TreesSpec, kernel: &Kernel) -> Trees {
        let reads = std::array::from_fn(|operand| kernel.reads[operand]);
        Trees { spec: spec.clone(), reads, y: kernel.writes[0] }
    }

    /// Makes the targets `y` of the row `x`; false when a poll said stop.
    ///
    /// # Safety
    /// Both are a row of the spec, and the arrays those of trees without a flaw.
    unsafe fn row(
        &self,
        context: &BlockContext<'_>,
        pace: &mut Pace<'_>,
        x: *const f32,
        y: *mut f32,
    ) -> bool {
        let TreesSpec { aggregate, trees, targets: count, .. } = self.spec;
        let array = |operand: usize| context.read_ptr(&self.reads[operand]).cast::<i32>();
        let (nodes, roots, targets, weights) = (array(1), array(2), array(3), array(4).cast::<f32>());
        // SAFETY: the caller vouches for the row.
        let fill = |make: &dyn Fn(f32) -> f32| unsafe { each(context, y, count, make) };
        if !fill(&|_| aggregate.start()) {
            return false;
        }
        for tree in 0..trees {
            // SAFETY: every place that roots, nodes and votes name lies inside its array.
            unsafe {
                let mut node = nodes.add(*roots.add(tree) as usize * NODE_WORDS);
                while *node != LEAF {
                    if pace.stops() {
                        return false;
                    }
                    let value = *x.add(*node.add(1) as usize);
                    let next = if passes(*node, value, *node.add(2)) { node.add(3) } else { node.add(4) };
                    node = nodes.add(*next as usize * NODE_WORDS);
                }
                let first = *node.add(3) as usize;
                for vote in first..first + *node.add(4) as usize {
                    if pace.stops() {
                        return false;
                    }
                    let target = y.add(*targets.add(vote) as usize);
                    *target = aggregate.with(*target, *weights.add(vote));
                }
            }
        }
        aggregate == Aggregate::Sum || fill(&|all| aggregate.end(all, trees))
    }
}

/// Replaces every target by what `make` makes of it; false when a poll said stop.
///
/// # Safety
/// There are so many.
unsafe fn each(context: &BlockContext<'_>, y: *mut f32, count: usize, make: &dyn Fn(f32) -> f32) -> bool {
    for begin in (0..count).step_by(TARGETS) {
        if context.poll.stop() {
            return false;
        }
        for at in begin..count.min(begin + TARGETS) {
            // SAFETY: the caller vouches for the targets.
            unsafe { *y.add(at) = make(*y.add(at)) };
        }
    }
    true
}

/// Whether a feature passes the test of a branch beside its value.
#[inline(always)]
fn passes(test: i32, x: f32, value: i32) -> bool {
    let value = f32::from_bits(value as u32);
    // Nearly all branches are these.
    if test == Test::AtMost as i32 {
        return x <= value;
    }
    let missing = test & MISSING != 0 && x.is_nan();
    missing || Test::ALL[(test & !MISSING) as usize].passes(x, value)
}

/// When to poll.
struct Pace<'a> {
    poll: &'a Poll<'a>,
    left: usize,
}

impl Pace<'_> {
    /// Counts a step that is to be taken; true when a poll said stop.
    #[inline(always)]
    fn stops(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        self.left = STEPS;
        self.poll.stop()
    }
}

impl BlockKernel for Trees {
    unsafe fn run(&self, context: &BlockContext<'_>, block: u32) -> BlockEnd {
        let TreesSpec { rows, features, targets, tile, .. } = self.spec;
        let first = block as usize * tile;
        let x = context.read_ptr(&self.reads[0]).cast::<f32>();
        let y = context.write_ptr(&self.y).cast::<f32>();
        let mut pace = Pace { poll: &context.poll, left: 0 };
        for row in first..rows.min(first + tile) {
            // SAFETY: the rows are those of the spec; that the trees have no flaw was found when the plan was
            // loaded.
            let went = unsafe { self.row(context, &mut pace, x.add(row * features), y.add(row * targets)) };
            if !went {
                return BlockEnd::Killed;
            }
        }
        BlockEnd::Done
    }
}
