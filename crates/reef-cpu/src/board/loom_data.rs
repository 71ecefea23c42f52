//! What the board's orderings are for: data that tasks and blocks write, in cells that loom watches. An
//! ordering that is missing is a reported race.

use loom::sync::Arc;
use loom::thread;

use reef_base::TaskKey;

use super::*;
use crate::sync::UnsafeCell;

/// A board of one slot for two units, and what belongs to the slot.
struct Rig {
    board: Board,
    /// Written by the submitter, read by holders of blocks.
    task: UnsafeCell<u64>,
    /// Written by blocks of the first stage, read by those of the second.
    tiles: [UnsafeCell<u64>; 2],
}

impl Rig {
    fn new() -> Arc<Rig> {
        let cell = || UnsafeCell::new(0);
        Arc::new(Rig { board: Board::new(1, 0, 2), task: cell(), tiles: [cell(), cell()] })
    }

    /// Submits a task whose data are its generation.
    fn publish(&self, generation: u64, blocks: u32) {
        write(&self.task, generation);
        self.board.publish(0, generation, TaskKey::best_effort(1).get(), opening(blocks));
    }

    /// A claim by who finds the slot without looking at the set of active ones.
    fn claim(&self, cu: usize) -> Option<Claim> {
        self.board.view(0).filter(|view| view.claimable).and_then(|view| self.board.claim(cu, view))
    }

    /// Claims and runs blocks of a task of two stages, the first of two blocks.
    fn work(&self, cu: usize, count: usize) {
        for _ in 0..count {
            let Some(claim) = self.claim(cu) else { continue };
            if claim.word.stage() == 0 {
                write(&self.tiles[claim.word.ticket() as usize - 1], 1);
                if self.board.settle(0, 1, 2, false) {
                    let opened = self.board.open(0, claim.word, opening(2), false);
                    assert_eq!(opened, Ok(None));
                }
            } else {
                assert_eq!([read(&self.tiles[0]), read(&self.tiles[1])], [1, 1]);
            }
        }
    }
}

#[allow(unsafe_code)]
fn read(cell: &UnsafeCell<u64>) -> u64 {
    // SAFETY: loom reports a race.
    cell.with(|value| unsafe { *value })
}

#[allow(unsafe_code)]
fn write(cell: &UnsafeCell<u64>, new: u64) {
    // SAFETY: loom reports a race.
    cell.with_mut(|value| unsafe { *value = new });
}

fn opening(blocks: u32) -> Opening {
    Opening { blocks, estimate: 0, outlook: Outlook::default() }
}

#[test]
fn loom_who_claims_a_block_sees_its_task() {
    loom::model(|| {
        let rig = Rig::new();
        let other = rig.clone();
        let thread = thread::spawn(move || {
            if let Some(claim) = other.claim(1) {
                assert_eq!(read(&other.task), claim.word.generation());
            }
        });
        rig.publish(1, 1);
        thread.join().unwrap();
    });
}

#[test]
fn loom_who_closes_a_task_sees_it() {
    loom::model(|| {
        let rig = Rig::new();
        let other = rig.clone();
        let thread = thread::spawn(move || {
            if other.board.close(0, 1, Reason::Cancelled).blocks > 0 {
                assert_eq!(read(&other.task), 1);
            }
        });
        rig.publish(1, 1);
        thread.join().unwrap();
    });
}

#[test]
fn loom_a_stage_sees_what_the_one_before_it_wrote() {
    loom::model(|| {
        let rig = Rig::new();
        rig.publish(1, 2);
        let other = rig.clone();
        let thread = thread::spawn(move || other.work(1, 2));
        rig.work(0, 2);
        thread.join().unwrap();
    });
}

#[test]
fn loom_a_claim_that_fails_first_sees_the_stage_that_it_gets() {
    loom::model(|| {
        let rig = Rig::new();
        rig.publish(1, 2);
        // An old look at the board; the stage has changed when the claim is tried again.
        let seen = rig.board.view(0).unwrap();
        let other = rig.clone();
        let thread = thread::spawn(move || other.work(1, 2));
        if let Some(claim) = rig.board.claim(0, seen)
            && claim.word.stage() == 1
        {
            assert_eq!([read(&rig.tiles[0]), read(&rig.tiles[1])], [1, 1]);
        }
        thread.join().unwrap();
    });
}

#[test]
fn loom_a_killed_block_is_over_when_it_runs_again() {
    loom::model(|| {
        let rig = Rig::new();
        rig.publish(1, 1);
        let claim = rig.claim(0).unwrap();
        let other = rig.clone();
        let thread = thread::spawn(move || {
            if other.claim(1).is_some() {
                write(&other.tiles[0], 2);
            }
        });
        write(&rig.tiles[0], 1);
        assert_eq!(rig.board.give_back(0, claim), None);
        thread.join().unwrap();
    });
}

#[test]
fn loom_the_completion_has_what_blocks_wrote() {
    loom::model(|| {
        let rig = Rig::new();
        rig.publish(1, 1);
        let other = rig.clone();
        let thread = thread::spawn(move || {
            if other.board.take_finished(|_| 0).is_some() {
                assert_eq!(read(&other.tiles[0]), 1);
                write(&other.task, 0);
            }
        });
        assert!(rig.claim(0).is_some());
        write(&rig.tiles[0], 1);
        assert!(rig.board.settle(0, 1, 1, false));
        rig.board.retire(0);
        rig.board.finish(0);
        thread.join().unwrap();
    });
}

/// Who fetches completions looks at them, and then takes one: of the slot's next task, if others were faster.
#[test]
fn loom_the_completion_is_the_one_that_was_taken() {
    loom::model(|| {
        let rig = Rig::new();
        write(&rig.task, 1);
        rig.board.finish(0);
        let other = rig.clone();
        let thread = thread::spawn(move || {
            if other.board.take_finished(|_| 0).is_some() {
                read(&other.task);
            }
        });
        if rig.board.take_finished(|_| 0).is_some() {
            write(&rig.task, 2);
            rig.board.finish(0);
        }
        thread.join().unwrap();
    });
}

#[test]
fn loom_a_slot_that_is_free_has_no_user() {
    loom::model(|| {
        let rig = Rig::new();
        assert_eq!(rig.board.take_slot(true), Some(0));
        let other = rig.clone();
        let thread = thread::spawn(move || {
            if other.board.take_slot(false).is_some() {
                other.publish(2, 1);
            }
        });
        assert_eq!(read(&rig.task), 0);
        rig.board.free_slot(0);
        thread.join().unwrap();
    });
}
