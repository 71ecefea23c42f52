//! The table of live requests: slots with generations, so that an old id is known to be old.

use reef_base::Nanos;

use crate::heap::{ABSENT, Order};
use crate::types::{CancelReason, Request, RequestId};

/// Where a request is. `Free` holds the next free slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free(u32),
    Queued,
    OnBoard,
    /// Part of a batch, which is on the board.
    Joined,
}

/// On what terms a request is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// The service time to count for it.
    pub(crate) expected: Nanos,
    pub(crate) probe: bool,
    pub(crate) epoch: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) generation: u32,
    pub(crate) state: State,
    pub(crate) request: Request,
    /// Order in its model's queue.
    pub(crate) order: Order,
    /// Position in its model's queue and in the heap of timers.
    pub(crate) queue_at: u32,
    pub(crate) timer_at: u32,
    /// The service time counted for it in the backlog.
    pub(crate) expected: u64,
    /// The epoch of its plan's number.
    pub(crate) epoch: u32,
    /// Whether its plan's estimate refuses it and it runs to see.
    pub(crate) probe: bool,
    /// When it started.
    pub(crate) started: Nanos,
    /// Compute-unit time charged in advance.
    pub(crate) charged: u64,
    pub(crate) cancel: Option<CancelReason>,
    /// When it came.
    pub(crate) queued: Nanos,
    /// Of a member its batch, otherwise [`ABSENT`].
    pub(crate) batch: u32,
    /// The next member of its batch; of a batch the first one.
    pub(crate) next: u32,
    /// Whether it is a batch, and no request.
    pub(crate) is_batch: bool,
    /// Nobody joins it: its batch failed, perhaps because of it.
    pub(crate) alone: bool,
}

impl Entry {
    /// Whether nobody is to join it: it runs to be measured, or because a batch with it failed.
    pub(crate) fn runs_alone(&self) -> bool {
        self.probe || self.alone
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    free: Option<u32>,
    live: usize,
}

impl Table {
    /// Makes room for `additional` more requests than are live or free now.
    pub(crate) fn reserve(&mut self, additional: usize) {
        self.entries.reserve(additional);
    }

    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn insert(&mut self, now: Nanos, request: Request, order: Order, admitted: Admitted) -> u32 {
        let slot = match self.free {
            Some(slot) => slot,
            None => self.push_free(),
        };
        let entry = &mut self.entries[slot as usize];
        let State::Free(next) = entry.state else { unreachable!("the free list holds free slots") };
        self.free = (next != ABSENT).then_some(next);
        self.live += 1;
        let Admitted { expected, probe, epoch } = admitted;
        let expected = expected.0;
        let (queued, blank) = (now, blank(entry.generation, State::Queued));
        *entry = Entry { request, order, expected, epoch, probe, queued, ..blank };
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Entry {
        let entry = &mut self.entries[slot as usize];
        let gone = *entry;
        assert!(!matches!(gone.state, State::Free(_)), "a request ends once");
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Free(self.free.unwrap_or(ABSENT));
        self.free = Some(slot);
        self.live -= 1;
        gone
    }

    /// The slot of a live request.
    pub(crate) fn find(&self, id: RequestId) -> Option<u32> {
        let entry = self.entries.get(id.slot())?;
        let live = entry.generation == id.generation() && !matches!(entry.state, State::Free(_));
        live.then_some(id.slot() as u32)
    }

    pub(crate) fn id(&self, slot: u32) -> RequestId {
        RequestId::new(slot, self.entries[slot as usize].generation)
    }

    pub(crate) fn get(&self, slot: u32) -> &Entry {
        &self.entries[slot as usize]
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.entries[slot as usize]
    }

    /// Slots of the requests on the board.
    pub(crate) fn on_board(&self) -> impl Iterator<Item = u32> {
        let entries = self.entries.iter().enumerate();
        entries.filter(|(_, entry)| entry.state == State::OnBoard).map(|(slot, _)| slot as u32)
    }

    /// Slots of a batch's members.
    pub(crate) fn members(&self, batch: u32) -> impl Iterator<Item = u32> {
        let there = |slot: u32| (slot != ABSENT).then_some(slot);
        let first = there(self.entries[batch as usize].next);
        std::iter::successors(first, move |&slot| there(self.entries[slot as usize].next))
    }

    /// Takes a member off its batch; `before` is the member before it, or the batch.
    pub(crate) fn unlink(&mut self, before: u32, member: u32) {
        let after = self.entries[member as usize].next;
        self.entries[before as usize].next = after;
        let entry = &mut self.entries[member as usize];
        (entry.batch, entry.next) = (ABSENT, ABSENT);
    }

    fn push_free(&mut self) -> u32 {
        self.entries.push(blank(0, State::Free(ABSENT)));
        self.entries.len() as u32 - 1
    }
}

fn blank(generation: u32, state: State) -> Entry {
    let request = Request {
        model: crate::ModelId(0),
        plan: 0,
        class: reef_base::Class::BestEffort,
        arrival: Nanos::ZERO,
        deadline: None,
        queue_until: None,
        joins: None,
    };
    Entry {
        generation,
        state,
        request,
        order: (0, 0),
        queue_at: ABSENT,
        timer_at: ABSENT,
        expected: 0,
        epoch: 0,
        probe: false,
        started: Nanos::ZERO,
        charged: 0,
        cancel: None,
        queued: Nanos::ZERO,
        batch: ABSENT,
        next: ABSENT,
        is_batch: false,
        alone: false,
    }
}
