//! Batches: requests of one model that run as one task, and how long they wait for each other.
//!
//! A batch is gathered when its model could start something, from the head of the model's queue in the
//! queue's order: requests of the same family and level, as long as their rows fit. Nobody is passed over,
//! so the order within a class is kept. What cannot start yet stays queued, each request with its own
//! timeout and deadline, and may be gathered with what comes meanwhile.
//!
//! | what was gathered | what happens |
//! |---|---|
//! | has, up to some member, just as many rows as a preferred size | the largest such batch starts |
//! | has as many rows as fit, or the next in the queue cannot join | it starts: it will not grow |
//! | has a member that waits no longer | it starts |
//! | anything else | it is held until a member waits no longer |
//!
//! A request waits no longer when the model's delay has passed since it was queued; when half of its timeout
//! has; and, if it has a deadline, when what is left is what it needs by measured times: the work that goes
//! before it, and a batch as large as it may become, by the estimate that leans high and a quarter more. A
//! request with a deadline of whose model nothing was measured does not wait. Nor does a request with a
//! deadline take in another one if the larger batch would be late for it. When the model or the scheduler
//! takes no more requests, or its queue is full, nobody waits.
//!
//! A batch is an entry of the table like a task. Its deadline is that of its earliest member for its key
//! alone: when a member's deadline passes or its end is asked for, it leaves, and the batch is stopped when
//! nobody waits for it any more. One that fails is taken apart ([`Scheduler::separate`]), so that nobody's
//! inputs spoil what others get. A batch of one whose rows are just those of its plan is a task like any.

use reef_base::Nanos;

use crate::heap::{ABSENT, Item};
use crate::model::{Hold, Model};
use crate::scheduler::{Scheduler, rank};
use crate::table::{Admitted, State};
use crate::types::{Action, Batching, Ended, Joins, ModelId, Refusal, Request, RequestId, Size, Usage};

/// Of the time that a batch is expected to take, the part that is kept free beside it: one over this.
const MARGIN: u64 = 4;

/// What may start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Turn {
    /// A request.
    One(u32),
    /// What was gathered.
    Batch,
    /// Nothing yet: a request is too late.
    Refuse(u32, Refusal),
}

/// What has been gathered so far.
#[derive(Clone, Copy, Debug)]
struct Gathered {
    rows: u32,
    /// When the first member waits no longer.
    until: Nanos,
    /// The earliest deadline.
    deadline: Option<Nanos>,
    /// Members, of whom the last completes a preferred size.
    preferred: usize,
}

impl Scheduler {
    /// Tells the sizes that a model's family has plans for; none, and nobody of it joins. The plans keep
    /// their numbers as long as the model is there.
    pub fn set_family(&mut self, id: ModelId, family: u16, sizes: &[Size]) {
        let model = self.model_mut(id);
        let index = usize::from(family);
        if model.families.len() <= index {
            model.families.resize(index + 1, Vec::new());
        }
        let mut sizes = sizes.to_vec();
        sizes.sort_by_key(|size| size.rows);
        model.families[index] = sizes;
        model.hold = [None; 2];
    }

    /// The requests of a batch that are still in it, in their order.
    pub fn members(&self, batch: RequestId) -> impl Iterator<Item = RequestId> {
        let slots = self.table.find(batch).map(|slot| self.table.members(slot));
        slots.into_iter().flatten().map(|slot| self.table.id(slot))
    }

    /// Takes the first member off a batch that has ended, or that the device does not take: this is its end.
    pub fn take_member(&mut self, now: Nanos, batch: RequestId) -> Option<(RequestId, Ended)> {
        let slot = self.table.find(batch)?;
        let first = self.table.members(slot).next()?;
        Some(self.take_off(now, slot, slot, first))
    }

    /// As [`Scheduler::take_member`], of those only whose end was asked for.
    pub fn take_stopped_member(&mut self, now: Nanos, batch: RequestId) -> Option<(RequestId, Ended)> {
        let slot = self.table.find(batch)?;
        let mut before = slot;
        loop {
            let member = self.table.get(before).next;
            if member == ABSENT {
                return None;
            }
            if self.cancel_of(member).is_some() {
                return Some(self.take_off(now, slot, before, member));
            }
            before = member;
        }
    }

    /// A batch has failed, and whose fault it was nobody knows: each of its members is queued again, at its
    /// old place, and runs alone. The batch ends, `usage` is what it used.
    pub fn separate(&mut self, now: Nanos, batch: RequestId, usage: Usage) {
        let Some(slot) = self.table.find(batch) else { return };
        loop {
            let member = self.table.get(slot).next;
            if member == ABSENT {
                break;
            }
            self.table.unlink(slot, member);
            let entry = self.table.get_mut(member);
            // It has started before: its time in the queue is over.
            (entry.alone, entry.request.queue_until) = (true, None);
            self.queue_again(member);
        }
        self.on_complete(now, batch, usage);
    }

    fn take_off(&mut self, now: Nanos, batch: u32, before: u32, member: u32) -> (RequestId, Ended) {
        let (id, cancel) = (self.table.id(member), self.cancel_of(member));
        self.table.unlink(before, member);
        self.stopping.retain(|&other| other != member);
        self.set_timer(member, None);
        let started = self.table.get(batch).started;
        let entry = self.table.remove(member);
        let request = entry.request;
        if entry.probe {
            let measured = self.model_mut(request.model).service_mut(request.plan);
            if measured.epoch() == entry.epoch {
                measured.probe_ends(now, request.deadline.unwrap_or(Nanos::MAX).since(started));
            }
        }
        self.ended(request.class);
        (id, Ended { request, cancel })
    }

    /// Until when something is held.
    pub(crate) fn next_hold(&self) -> Option<Nanos> {
        if self.batching == 0 {
            return None;
        }
        let holds = self.models.iter().flatten().flat_map(|model| model.hold).flatten();
        holds.map(|hold| hold.until).min()
    }

    /// What is held is looked at again where it may be over.
    pub(crate) fn clear_holds(&mut self, now: Nanos) {
        if self.batching > 0 {
            let over = |hold: &Hold| hold.hurries || hold.until <= now;
            let holds = self.models.iter_mut().flatten().flat_map(|model| &mut model.hold);
            holds.for_each(|hold| *hold = hold.filter(|hold| !over(hold)));
        }
    }

    /// What of a model's queue may start, `first` being its head; `None` if it is held.
    pub(crate) fn turn(&mut self, now: Nanos, index: usize, lane: usize, first: Item) -> Option<Turn> {
        let model = self.models[index].as_ref().expect("it has a queue");
        let joins = self.table.get(first.slot).request.joins;
        let (Some(batching), Some(joins)) = (model.options.batching, joins) else {
            return Some(Turn::One(first.slot));
        };
        if model.families.get(usize::from(joins.family)).is_none_or(Vec::is_empty) {
            return Some(Turn::One(first.slot));
        }
        match self.gather(now, index, batching, joins, first) {
            Ok(None) => {}
            Ok(hold @ Some(_)) => {
                self.models[index].as_mut().expect("it has a queue").hold[lane] = hold;
                return None;
            }
            Err((slot, why)) => return Some(Turn::Refuse(slot, why)),
        }
        let sizes = &self.model(ModelId(index as u32)).families[usize::from(joins.family)];
        match self.gathering.slots[..] {
            [only] if sizes.iter().any(|size| size.rows == joins.rows) => Some(Turn::One(only)),
            _ => Some(Turn::Batch),
        }
    }

    /// Gathers a batch, unless it is held. An error is a request that is too late.
    fn gather(
        &mut self,
        now: Nanos,
        index: usize,
        batching: Batching,
        joins: Joins,
        first: Item,
    ) -> Result<Option<Hold>, (u32, Refusal)> {
        let head = self.table.get(first.slot).request;
        let before = self.before_batch(now, &head);
        let mut gathering = std::mem::take(&mut self.gathering);
        gathering.begin(self.models[index].as_ref().expect("it has a queue").queue(head.class));
        let mut gathered = Gathered { rows: 0, until: Nanos::MAX, deadline: None, preferred: 0 };
        let mut grows = true;
        let mut refused = None;
        while gathered.rows < batching.rows_max {
            let queue = self.models[index].as_ref().expect("it has a queue").queue(head.class);
            let Some(item) = gathering.pop(queue) else { break };
            if let Some(why) = self.too_late(now, item.slot) {
                refused = Some((item.slot, why));
                break;
            }
            let Some(more) = self.joined(now, gathered, batching, joins, &head, item.slot, before) else {
                grows = false;
                break;
            };
            gathered = more;
            gathering.slots.push(item.slot);
            let sizes = &self.model(head.model).families[usize::from(joins.family)];
            if sizes.iter().any(|size| size.preferred && size.rows == gathered.rows) {
                gathered.preferred = gathering.slots.len();
            }
            if self.table.get(item.slot).runs_alone() {
                grows = false;
                break;
            }
        }
        if gathered.preferred > 0 {
            gathering.slots.truncate(gathered.preferred);
        }
        self.gathering = gathering;
        if let Some(refused) = refused {
            return Err(refused);
        }
        // Nobody comes any more.
        let model = self.model(head.model);
        let full = model.queue(head.class).len() >= model.options.queue_len;
        let leaves = self.closed || model.drain.is_some() || full;
        let starts = leaves
            || gathered.preferred > 0
            || !grows
            || gathered.rows >= batching.rows_max
            || gathered.until <= now;
        let hold = Hold { until: gathered.until, hurries: gathered.deadline.is_some() };
        Ok(if starts { None } else { Some(hold) })
    }

    /// What was gathered with one more member; `None` if that one does not join.
    #[allow(clippy::too_many_arguments, reason = "the state of one loop")]
    fn joined(
        &self,
        now: Nanos,
        so_far: Gathered,
        batching: Batching,
        joins: Joins,
        head: &Request,
        slot: u32,
        before: Nanos,
    ) -> Option<Gathered> {
        let entry = self.table.get(slot);
        let own = entry.request.joins.filter(|own| own.family == joins.family)?;
        let rows = so_far.rows.saturating_add(own.rows);
        let alone = so_far.rows == 0;
        if !alone
            && (rows > batching.rows_max
                || rank(entry.request.class) != rank(head.class)
                || entry.runs_alone())
        {
            return None;
        }
        let model = self.model(head.model);
        let sizes = &model.families[usize::from(joins.family)];
        let deadline = [so_far.deadline, entry.request.deadline].into_iter().flatten().min();
        if let Some(deadline) = deadline
            && !alone
            && model.high(sizes, rows).is_some_and(|high| now + high > deadline)
        {
            return None;
        }
        let mut until = entry.queued + batching.delay;
        if let Some(end) = entry.request.queue_until {
            until = until.min(entry.queued + Nanos(end.since(entry.queued).0 / 2));
        }
        if let Some(deadline) = entry.request.deadline {
            let needed = model.high(sizes, batching.rows_max).map(|high| high + Nanos(high.0 / MARGIN));
            until =
                until.min(needed.map_or(now, |needed| Nanos(deadline.0.saturating_sub((before + needed).0))));
        }
        let until = so_far.until.min(until);
        Some(Gathered { rows, until, deadline, ..so_far })
    }

    /// The work that goes before a batch that begins with `head`, without what may join it.
    fn before_batch(&mut self, now: Nanos, head: &Request) -> Nanos {
        if head.deadline.is_none() && !head.class.is_real_time() {
            return Nanos::ZERO;
        }
        let own = rank(head.class);
        let queue = self.model(head.model).queue(head.class);
        let entries = queue.items().iter().map(|item| self.table.get(item.slot));
        let of_own = entries.filter(|entry| rank(entry.request.class) <= own);
        let joins: u128 = of_own.map(|entry| u128::from(entry.expected)).sum();
        let queued: u128 = self.queued_ns[..=own].iter().sum::<u128>().saturating_sub(joins);
        let on_board = self.left_on_board(now, head);
        Nanos(u64::try_from(queued + on_board).unwrap_or(u64::MAX))
    }

    /// What was gathered becomes a task.
    pub(crate) fn start_batch(&mut self, now: Nanos) -> Action {
        let gathering = std::mem::take(&mut self.gathering);
        let members = &gathering.slots[..];
        let head = self.table.get(members[0]);
        let (request, order) = (head.request, head.order);
        let joins = request.joins.expect("only those that join are gathered");
        let rows = |slot: &u32| self.table.get(*slot).request.joins.map_or(0, |joins| joins.rows);
        let rows: u32 = members.iter().map(rows).sum();
        let size = self.model(request.model).size_for(joins.family, rows);
        let each = || members.iter().map(|&slot| &self.table.get(slot).request);
        let request = Request {
            plan: size.plan,
            arrival: each().map(|request| request.arrival).min().unwrap_or(request.arrival),
            deadline: each().filter_map(|request| request.deadline).min(),
            queue_until: None,
            joins: None,
            ..request
        };
        let measured = self.model(request.model).service(size.plan);
        let admitted = Admitted { expected: measured.get(), probe: false, epoch: measured.epoch() };
        let batch = self.table.insert(now, request, order, admitted);
        self.table.get_mut(batch).is_batch = true;
        let mut before = batch;
        for &slot in members {
            self.dequeue(slot);
            self.table.get_mut(before).next = slot;
            let entry = self.table.get_mut(slot);
            (entry.state, entry.batch, entry.started) = (State::Joined, batch, now);
            let deadline = entry.request.deadline;
            self.set_timer(slot, deadline);
            before = slot;
        }
        self.gathering = gathering;
        let key = self.put_on_board(now, batch);
        Action::StartBatch { batch: self.table.id(batch), plan: size.plan, key }
    }

    /// For tests: whether what is on the board agrees with its members; how many it has.
    pub(crate) fn check_members(&self, slot: u32) -> usize {
        let batch = self.table.get(slot);
        let mut count = 0;
        for member in self.table.members(slot) {
            let entry = self.table.get(member);
            assert_eq!((entry.state, entry.batch), (State::Joined, slot));
            assert_eq!(entry.request.model, batch.request.model);
            count += 1;
        }
        assert!(batch.is_batch || count == 0, "only batches have members");
        count
    }
}

impl Model {
    /// The smallest size that has room for so many rows.
    fn size_for(&self, family: u16, rows: u32) -> Size {
        let sizes = &self.families[usize::from(family)];
        *sizes.iter().find(|size| size.rows >= rows).unwrap_or_else(|| sizes.last().expect("it has sizes"))
    }

    /// How long so many rows take, by the estimate that leans high: that of their size, of a larger one, or
    /// in proportion to the largest that was measured.
    fn high(&self, sizes: &[Size], rows: u32) -> Option<Nanos> {
        let at = sizes.partition_point(|size| size.rows < rows);
        let measured = |size: &Size| self.service(size.plan).high();
        if let Some(high) = sizes[at.min(sizes.len())..].iter().find_map(measured) {
            return Some(high);
        }
        let rows = sizes.get(at).map_or(rows, |size| size.rows);
        let (size, high) =
            sizes[..at].iter().rev().find_map(|size| measured(size).map(|high| (size, high)))?;
        Some(Nanos(high.0.saturating_mul(u64::from(rows)) / u64::from(size.rows.max(1))))
    }

    /// What a request is expected to take of the device: its part of a batch of the size that is cheapest for
    /// each row, as far as measured.
    pub(crate) fn share(&self, request: &Request) -> Nanos {
        let alone = self.service(request.plan).get();
        let Some(joins) = request.joins else { return alone };
        let sizes = self.families.get(usize::from(joins.family)).map_or(&[][..], Vec::as_slice);
        let part = |size: &Size| {
            let service = self.service(size.plan).get();
            let part = service.0.saturating_mul(u64::from(joins.rows)) / u64::from(size.rows.max(1));
            (service > Nanos::ZERO).then_some(Nanos(part))
        };
        sizes.iter().filter_map(part).chain((alone > Nanos::ZERO).then_some(alone)).min().unwrap_or(alone)
    }
}
