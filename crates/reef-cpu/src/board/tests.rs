//! The board on one thread: what each step does.

use reef_base::{Level, Nanos, TaskKey};

use super::*;

const STAGE: Opening = opening(3);

const fn opening(blocks: u32) -> Opening {
    Opening { blocks, estimate: 0, outlook: Outlook { width: 0, calm: 0 } }
}

fn best_effort() -> u64 {
    TaskKey::best_effort(1).get()
}

fn real_time(level: u8) -> u64 {
    TaskKey::real_time(Level::new(level).unwrap(), None, Nanos(1)).get()
}

fn claim(board: &Board, cu: usize) -> Option<Claim> {
    board.most_urgent(NONE).and_then(|view| board.claim(cu, view))
}

#[test]
fn blocks_are_claimed_once_and_the_last_settler_opens_the_next_stage() {
    let board = Board::new(2, 1, 2);
    let slot = board.take_slot(false).unwrap();
    board.publish(slot, 7, best_effort(), STAGE);
    let claims: Vec<_> = std::iter::from_fn(|| claim(&board, 0)).collect();
    assert_eq!(claims.iter().map(|claim| claim.word.ticket()).collect::<Vec<_>>(), [3, 2, 1]);
    let last: Vec<_> = claims.iter().map(|_| board.settle(slot, 1, 3, false)).collect();
    assert_eq!(last, [false, false, true]);
    assert_eq!(board.open(slot, claims[0].word, opening(1), false), Ok(None));
    let next = claim(&board, 1).unwrap();
    assert_eq!((next.word.stage(), next.word.ticket()), (1, 1));
    assert!(board.settle(slot, 1, 1, false));
    board.retire(slot);
    assert_eq!(board.active(), 0);
    assert!(board.view(slot).is_none());
}

#[test]
fn reserved_slots_are_for_real_time() {
    let board = Board::new(3, 2, 1);
    assert_eq!(board.take_slot(true), Some(1));
    assert_eq!(board.take_slot(false), Some(0));
    assert_eq!(board.take_slot(false), None);
    assert_eq!(board.take_slot(true), Some(2));
    assert_eq!(board.take_slot(true), None);
    board.free_slot(2);
    assert_eq!(board.take_slot(false), None);
    board.free_slot(0);
    assert_eq!((board.take_slot(true), board.take_slot(true)), (Some(2), Some(0)), "then the others");
}

#[test]
fn a_stale_claimer_fails() {
    let board = Board::new(1, 0, 1);
    let slot = board.take_slot(false).unwrap();
    board.publish(slot, 1, best_effort(), opening(1));
    let stale = board.view(slot).unwrap();
    let first = claim(&board, 0).unwrap();
    assert!(board.settle(slot, 1, 1, false));
    assert_eq!(board.claim(0, stale), None, "nothing is left");
    board.retire(slot);
    board.publish(slot, 2, best_effort(), STAGE);
    assert_eq!(board.claim(0, stale), None, "another task is in the slot");
    assert_eq!(board.close(slot, 1, Reason::Cancelled), Closed::default(), "the other task is not closed");
    assert_eq!((first.slot, board.reason(slot)), (slot, None));
}

#[test]
fn redo_comes_before_new_blocks_and_the_own_entry_first() {
    let board = Board::new(1, 0, 2);
    let slot = board.take_slot(false).unwrap();
    board.publish(slot, 1, best_effort(), STAGE);
    let (a, b) = (claim(&board, 0).unwrap(), claim(&board, 1).unwrap());
    assert_eq!(board.give_back(0, a), None);
    assert_eq!(board.give_back(1, b), None);
    assert_eq!(claim(&board, 1), Some(b));
    assert_eq!(claim(&board, 1), Some(a));
    assert_eq!(claim(&board, 1).unwrap().word.ticket(), 1);
    assert_eq!(claim(&board, 1), None);
}

#[test]
fn the_poll_word_follows_the_most_urgent_claimable_work() {
    let board = Board::new(3, 0, 1);
    for (slot, key) in [(0, best_effort()), (1, real_time(2)), (2, real_time(0))] {
        board.take_slot(true);
        board.publish(slot, 1, key, opening(1));
    }
    assert_eq!(board.poll.load(Ordering::Relaxed), 0);
    let urgent = board.claim_urgent(0, 15).unwrap();
    assert_eq!(urgent.slot, 2);
    assert_eq!(board.poll.load(Ordering::Relaxed), limit_of(2));
    assert_eq!(board.claim_urgent(0, 2), None);
    let second = board.claim_urgent(0, 15).unwrap();
    assert_eq!(board.poll.load(Ordering::Relaxed), NONE);
    board.give_back(0, second);
    assert_eq!(board.poll.load(Ordering::Relaxed), limit_of(2));
    assert_eq!(board.claim_urgent(0, 15), Some(second));
    assert_eq!(board.claim_urgent(0, 15), None, "best-effort work is not urgent");
}

#[test]
fn closing_takes_what_nobody_runs() {
    let board = Board::new(1, 0, 2);
    let slot = board.take_slot(false).unwrap();
    board.publish(slot, 5, best_effort(), opening(4));
    let (running, killed) = (claim(&board, 0).unwrap(), claim(&board, 1).unwrap());
    board.give_back(1, killed);
    assert_eq!(board.close(slot, 5, Reason::Cancelled), Closed { blocks: 3, stage: 0 });
    assert_eq!(board.close(slot, 5, Reason::Cancelled), Closed::default());
    assert!(!board.settle(slot, 3, 4, true));
    assert_eq!(claim(&board, 1), None);
    assert_eq!(board.reason(slot), Some(Reason::Cancelled));
    assert_eq!(board.give_back(0, running), Some(running), "its holder must drop it");
    assert!(board.settle(slot, 1, 4, true) && board.any_dropped(slot));
    assert_eq!(board.close(slot, 5, Reason::DeviceFault).blocks, 0);
    assert_eq!(board.reason(slot), Some(Reason::DeviceFault));
}

#[test]
fn a_cancel_word_of_an_earlier_task_is_cleared() {
    let board = Board::new(1, 0, 1);
    board.publish(0, 1, best_effort(), STAGE);
    let claim = claim(&board, 0).unwrap();
    board.slots[0].cancel.store(1, Ordering::Relaxed);
    board.clear_stale_cancel(claim);
    assert_eq!(board.slots[0].cancel.load(Ordering::Relaxed), 0);
    board.close(0, 1, Reason::Cancelled);
    board.clear_stale_cancel(claim);
    assert_eq!(board.slots[0].cancel.load(Ordering::Relaxed), 1, "its own stays");
}

#[test]
fn finished_slots_are_taken_once_in_the_order_that_is_asked_for() {
    let board = Board::new(3, 0, 1);
    assert_eq!(board.take_finished(|_| 0), None);
    (0..3).for_each(|slot| board.finish(slot));
    let order = [5, 3, 9];
    let taken: Vec<_> = std::iter::from_fn(|| board.take_finished(|slot| order[slot])).collect();
    assert_eq!(taken, [1, 0, 2]);
}

#[test]
fn parked_units_are_woken_for_what_the_others_cannot_take() {
    let board = Board::new(1, 0, 4);
    for cu in 1..4 {
        board.announce_park(cu);
    }
    let missing = |blocks, busy: bool| board.missing(blocks, |_| busy);
    // Unit 0 is awake: idle, it takes a block.
    assert_eq!((missing(1, false), missing(3, false), missing(9, false)), (0, 2, 3));
    assert_eq!((missing(0, true), missing(1, true), missing(9, true)), (0, 1, 4));
    assert_eq!(board.pass_on(|| false, |_| true), None, "nothing to do");
    assert_eq!(board.pass_on(|| true, |_| false), None, "an idle unit is about to find it");
    assert_eq!(board.pass_on(|| true, |_| true), Some(1));
    assert!(!board.is_parked(1) && board.is_parked(2));
    board.withdraw_park(2);
    assert_eq!((board.take_parked(), board.take_parked()), (Some(3), None));
}

#[test]
fn work_is_counted_up_to_a_limit() {
    let board = Board::new(3, 0, 2);
    for (slot, blocks) in [(0, 2), (1, 1), (2, 3)] {
        board.publish(slot, 1, best_effort(), opening(blocks));
    }
    assert_eq!((board.claimable_blocks(2), board.claimable_blocks(64)), (2, 6));
    let killed = board.claim(0, board.view(1).unwrap()).unwrap();
    assert_eq!(board.claimable_blocks(64), 5);
    board.give_back(0, killed);
    assert_eq!(board.claimable_blocks(64), 6, "a block to redo counts");
}

#[test]
fn an_opener_keeps_the_first_block_and_a_closed_task_opens_nothing() {
    let board = Board::new(1, 0, 1);
    board.publish(0, 1, real_time(3), opening(1));
    let first = board.claim_urgent(0, 15).unwrap();
    board.settle(0, 1, 1, false);
    let kept = board.open(0, first.word, opening(1), true).unwrap().unwrap();
    assert_eq!((kept.word.stage(), kept.word.ticket(), board.view(0).unwrap().claimable), (1, 1, false));
    assert_eq!(board.poll.load(Ordering::Relaxed), NONE, "it concerns nobody else");
    board.settle(0, 1, 1, false);
    let kept = board.open(0, kept.word, opening(2), true).unwrap().unwrap();
    assert_eq!((kept.word.ticket(), board.view(0).unwrap().word.remaining()), (2, 1));
    assert_eq!(board.poll.load(Ordering::Relaxed), limit_of(3), "the other one is for all");
    board.close(0, 1, Reason::Failed);
    assert_eq!(board.open(0, kept.word, opening(1), false), Err(Reason::Failed));
}

#[test]
fn a_closed_task_makes_no_demand_and_a_weaker_reason_changes_nothing() {
    let board = Board::new(1, 0, 1);
    board.publish(0, 1, real_time(3), opening(2));
    assert_eq!(board.close(0, 1, Reason::Failed), Closed { blocks: 2, stage: 0 });
    assert_eq!(board.poll.load(Ordering::Relaxed), NONE);
    assert_eq!(board.close(0, 1, Reason::Cancelled), Closed::default());
    assert_eq!(board.reason(0), Some(Reason::Failed));
}
