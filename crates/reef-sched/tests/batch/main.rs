//! Batches: who is gathered, how long anybody waits for company, and what becomes of members that leave.

mod rules;

use std::collections::BTreeMap;

use reef_base::{Class, Nanos};
use reef_sched::{
    Action, Batching, CancelReason, Cancelled, Drain, Ended, Joins, ModelId, ModelOptions, Refusal, Request,
    RequestId, SchedOptions, Scheduler, Size, Usage,
};

const DELAY: Nanos = Nanos(1000);

/// What came out, in words.
#[derive(Clone, Debug, PartialEq)]
enum Out {
    One(u64),
    /// Members, and the plan.
    Batch(Vec<u64>, u16),
    Refused(u64, Refusal),
    Leave(u64),
    Stop(Option<u64>),
}

/// A scheduler with one batching model, and requests that have numbers.
struct World {
    sched: Scheduler,
    model: ModelId,
    now: Nanos,
    ids: BTreeMap<u64, RequestId>,
    batches: Vec<RequestId>,
    next: u64,
}

fn sizes(of: &[u32], preferred: &[u32]) -> Vec<Size> {
    let size =
        |(plan, &rows): (usize, &u32)| Size { rows, plan: plan as u16, preferred: preferred.contains(&rows) };
    of.iter().enumerate().map(size).collect()
}

impl World {
    fn new(options: ModelOptions, preferred: &[u32]) -> World {
        let mut sched = Scheduler::new(SchedOptions { board_slots: 4, best_effort_slots: 1 });
        let model = sched.add_model(options).unwrap();
        sched.set_family(model, 0, &sizes(&[1, 2, 4, 8], preferred));
        sched.set_family(model, 1, &sizes(&[1, 2, 4, 8], preferred));
        World { sched, model, now: Nanos(0), ids: BTreeMap::new(), batches: Vec::new(), next: 0 }
    }

    fn best_effort(delay: Nanos, preferred: &[u32]) -> World {
        World::new(options(Class::BestEffort, delay), preferred)
    }

    fn request(&self, rows: u32) -> Request {
        let plan = [1, 2, 4, 8].iter().position(|&size| size >= rows).unwrap_or(3) as u16;
        Request {
            model: self.model,
            plan,
            class: Class::BestEffort,
            arrival: self.now,
            deadline: None,
            queue_until: None,
            joins: Some(Joins { family: 0, rows }),
        }
    }

    /// Submits a request, numbered from 0, and says what happens.
    fn submit(&mut self, request: Request) -> Vec<Out> {
        let number = self.next;
        self.next += 1;
        match self.sched.submit(self.now, request) {
            Ok(id) => assert!(self.ids.insert(number, id).is_none()),
            Err(why) => return vec![Out::Refused(number, why)],
        }
        self.actions()
    }

    fn rows(&mut self, rows: u32) -> Vec<Out> {
        let request = self.request(rows);
        self.submit(request)
    }

    fn number(&self, id: RequestId) -> Option<u64> {
        self.ids.iter().find(|(_, other)| **other == id).map(|(number, _)| *number)
    }

    fn actions(&mut self) -> Vec<Out> {
        let mut out = Vec::new();
        while let Some(action) = self.sched.next_action(self.now) {
            out.push(match action {
                Action::Start { request, .. } => Out::One(self.number(request).unwrap()),
                Action::StartBatch { batch, plan, .. } => {
                    self.batches.push(batch);
                    let members: Vec<_> = self.sched.members(batch).collect();
                    Out::Batch(members.iter().map(|id| self.number(*id).unwrap()).collect(), plan)
                }
                Action::Refuse { request, why } => Out::Refused(self.number(request).unwrap(), why),
                Action::Leave { request } => Out::Leave(self.number(request).unwrap()),
                Action::CancelRunning { request } => Out::Stop(self.number(request)),
            });
            self.sched.check();
        }
        let overdue = self.sched.next_wakeup().is_some_and(|at| at <= self.now);
        assert!(!overdue, "all that is due has happened");
        out
    }

    fn at(&mut self, now: u64) -> Vec<Out> {
        self.now = Nanos(now);
        self.actions()
    }

    fn members_end(&mut self, batch: RequestId) -> Vec<(u64, Option<CancelReason>)> {
        let mut ended = Vec::new();
        while let Some((id, Ended { cancel, .. })) = self.sched.take_member(self.now, batch) {
            ended.push((self.number(id).unwrap(), cancel));
        }
        ended
    }

    /// The oldest batch on the board ends after `service`.
    fn batch_ends(&mut self, service: u64) -> Vec<(u64, Option<CancelReason>)> {
        let batch = self.batches.remove(0);
        let ended = self.members_end(batch);
        let usage = Usage { cu_time: Nanos(service), service: Some(Nanos(service)), ..Usage::default() };
        assert!(self.sched.on_complete(self.now, batch, usage).is_some());
        self.sched.check();
        ended
    }

    fn one_ends(&mut self, number: u64, service: u64) {
        let usage = Usage { cu_time: Nanos(service), service: Some(Nanos(service)), ..Usage::default() };
        assert!(self.sched.on_complete(self.now, self.ids[&number], usage).is_some());
    }

    /// Measures plans of every size: `fixed` and `each` for every row.
    fn measure(&mut self, fixed: u64, each: u64) {
        for (plan, rows) in [1, 2, 4, 8].into_iter().enumerate() {
            for _ in 0..reef_sched::SAMPLES_MIN {
                let request = Request { plan: plan as u16, joins: None, ..self.request(1) };
                let id = self.sched.submit(self.now, request).unwrap();
                while self.sched.next_action(self.now).is_some() {}
                let service = Some(Nanos(fixed + each * rows));
                let usage = Usage { cu_time: Nanos(1), service, ..Usage::default() };
                self.sched.on_complete(self.now, id, usage).unwrap();
            }
        }
    }
}

fn options(class: Class, delay: Nanos) -> ModelOptions {
    ModelOptions {
        class,
        queue_len: 64,
        in_flight_max: 1,
        batching: Some(Batching { rows_max: 8, delay }),
        ..ModelOptions::default()
    }
}

#[test]
fn without_a_delay_what_waits_anyway_is_joined() {
    let mut world = World::best_effort(Nanos::ZERO, &[]);
    assert_eq!(world.rows(1), [Out::One(0)]);
    for _ in 0..10 {
        assert_eq!(world.rows(1), []);
    }
    assert_eq!(world.sched.queued(world.model, Class::BestEffort), 10);
    world.one_ends(0, 10);
    assert_eq!(world.actions(), [Out::Batch((1..9).collect(), 3)]);
    assert_eq!(world.batch_ends(10).len(), 8);
    assert_eq!(world.actions(), [Out::Batch(vec![9, 10], 1)]);
    world.batch_ends(10);
    assert!(world.sched.is_idle());
}

#[test]
fn a_request_waits_for_its_delay_and_no_longer() {
    let mut world = World::best_effort(DELAY, &[]);
    assert_eq!(world.rows(1), []);
    assert_eq!(world.sched.next_wakeup(), Some(DELAY));
    world.now = Nanos(600);
    assert_eq!(world.rows(2), []);
    assert_eq!(world.sched.next_wakeup(), Some(DELAY), "the first one's");
    assert_eq!(world.at(999), []);
    assert_eq!(world.at(1000), [Out::Batch(vec![0, 1], 2)], "three rows in a plan of four");
    // Alone and just as large as a plan is: a task like any.
    world.batch_ends(5);
    world.rows(1);
    assert_eq!(world.at(2000), [Out::One(2)]);
    world.one_ends(2, 5);
    world.rows(3);
    assert_eq!(world.at(3000), [Out::Batch(vec![3], 2)], "filled up");
}

#[test]
fn a_full_batch_starts_at_once_and_is_never_wider_than_the_model() {
    let mut world = World::best_effort(DELAY, &[]);
    world.rows(3);
    world.rows(3);
    assert_eq!(world.rows(2), [Out::Batch(vec![0, 1, 2], 3)]);
    world.batch_ends(5);
    world.rows(5);
    assert_eq!(world.rows(4), [Out::Batch(vec![3], 3)], "the next one does not fit: it will not grow");
    world.batch_ends(5);
    assert_eq!(world.actions(), [], "the other one waits for its own delay");
}

#[test]
fn preferred_sizes_start_at_once_the_largest_first() {
    let mut world = World::best_effort(DELAY, &[2, 4]);
    world.rows(1);
    assert_eq!(world.rows(1), [Out::Batch(vec![0, 1], 1)]);
    for _ in 0..7 {
        world.rows(1);
    }
    world.batch_ends(1);
    assert_eq!(world.actions(), [Out::Batch(vec![2, 3, 4, 5], 2)]);
    world.batch_ends(1);
    assert_eq!(world.actions(), [Out::Batch(vec![6, 7], 1)]);
    world.batch_ends(1);
    assert_eq!(world.at(1000), [Out::One(8)], "no size is reached: it waits for its delay");
}

#[test]
fn families_and_those_that_do_not_join_keep_their_place() {
    let mut world = World::best_effort(Nanos::ZERO, &[]);
    let of = |world: &World, family| Request { joins: Some(Joins { family, rows: 1 }), ..world.request(1) };
    world.rows(1);
    for family in [0, 0, 1, 1, 0] {
        let request = of(&world, family);
        world.submit(request);
    }
    let alone = Request { joins: None, ..world.request(1) };
    world.submit(alone);
    world.rows(1);
    world.one_ends(0, 1);
    let mut order = Vec::new();
    loop {
        match &world.actions()[..] {
            [] => break,
            [Out::One(number)] => {
                order.push(vec![*number]);
                world.one_ends(*number, 1);
            }
            [Out::Batch(members, _)] => {
                order.push(members.clone());
                world.batch_ends(1);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order, [vec![1, 2], vec![3, 4], vec![5], vec![6], vec![7]]);
}

#[test]
fn members_leave_alone_and_the_last_one_stops_the_batch() {
    let mut world = World::best_effort(Nanos::ZERO, &[]);
    world.rows(8);
    world.rows(1);
    let hurried = Request { deadline: Some(Nanos(500)), ..world.request(1) };
    world.submit(hurried);
    world.rows(1);
    world.one_ends(0, 1);
    world.ids =
        world.ids.iter().filter(|(number, _)| **number > 0).map(|(number, id)| (number - 1, *id)).collect();
    assert_eq!(world.actions(), [Out::Batch(vec![0, 1, 2], 2)]);
    assert_eq!(world.sched.cancel(world.ids[&0]), Cancelled::Stopping);
    assert_eq!(world.actions(), [Out::Leave(0)]);
    assert_eq!(world.sched.cancel(world.ids[&0]), Cancelled::Stopping);
    assert_eq!(world.actions(), [], "once");
    assert_eq!(world.at(500), [Out::Leave(1)]);
    assert_eq!(world.sched.stop_reason(world.ids[&1]), Some(CancelReason::Deadline));
    assert_eq!(world.sched.cancel(world.ids[&2]), Cancelled::Stopping);
    let mut out = world.actions();
    out.sort_by_key(|out| format!("{out:?}"));
    assert_eq!(out, [Out::Leave(2), Out::Stop(None)]);
    let requested = Some(CancelReason::Requested);
    assert_eq!(world.batch_ends(1), [(0, requested), (1, Some(CancelReason::Deadline)), (2, requested)]);
    assert!(world.sched.is_idle());
}

#[test]
fn a_rejected_batch_is_queued_again_but_for_those_who_left() {
    let mut world = World::best_effort(Nanos::ZERO, &[]);
    world.rows(1);
    (0..4).for_each(|_| drop(world.rows(1)));
    world.one_ends(0, 1);
    assert_eq!(world.actions(), [Out::Batch(vec![1, 2, 3, 4], 2)]);
    world.sched.cancel(world.ids[&2]);
    let batch = world.batches.remove(0);
    let (id, ended) = world.sched.take_stopped_member(world.now, batch).unwrap();
    assert_eq!((world.number(id), ended.cancel), (Some(2), Some(CancelReason::Requested)));
    assert!(world.sched.take_stopped_member(world.now, batch).is_none());
    world.sched.on_rejected(world.now, batch);
    world.sched.check();
    assert_eq!(world.actions(), []);
    world.rows(1);
    assert_eq!(world.at(1_000_000), [Out::Batch(vec![1, 3, 4, 5], 2)], "in their old order");
    // All leave, then it is rejected: nothing is left of it.
    for number in [1, 3, 4, 5] {
        world.sched.cancel(world.ids[&number]);
    }
    let batch = world.batches.remove(0);
    while world.sched.take_stopped_member(world.now, batch).is_some() {}
    world.sched.on_rejected(world.now, batch);
    assert_eq!(world.actions(), []);
    assert!(world.sched.is_idle());
}

#[test]
fn giving_up_best_effort_work_stops_batches_whole() {
    let mut world = World::best_effort(Nanos::ZERO, &[]);
    world.rows(1);
    (0..3).for_each(|_| drop(world.rows(1)));
    world.one_ends(0, 1);
    assert_eq!(world.actions(), [Out::Batch(vec![1, 2, 3], 2)]);
    world.sched.abandon_best_effort();
    assert_eq!(world.actions(), [Out::Stop(None)]);
    let down = Some(CancelReason::ShuttingDown);
    assert_eq!(world.batch_ends(1), [(1, down), (2, down), (3, down)]);
}

#[test]
fn a_timeout_leaves_half_of_itself_for_company() {
    let mut world = World::best_effort(DELAY, &[]);
    let hurried = Request { queue_until: Some(Nanos(300)), ..world.request(1) };
    assert_eq!(world.submit(hurried), []);
    assert_eq!(world.at(149), []);
    assert_eq!(world.at(150), [Out::One(0)]);
}

#[test]
fn nobody_waits_for_those_who_cannot_come_any_more() {
    let mut world = World::best_effort(DELAY, &[]);
    assert_eq!(world.rows(1), []);
    world.sched.drain_model(world.model, Drain::Finish);
    assert_eq!(world.actions(), [Out::One(0)]);
    let mut world = World::best_effort(DELAY, &[]);
    assert_eq!(world.rows(1), []);
    assert_eq!(world.rows(2), []);
    world.sched.close();
    assert_eq!(world.actions(), [Out::Batch(vec![0, 1], 2)]);
}

#[test]
fn a_batch_that_fails_is_taken_apart() {
    let mut world = World::best_effort(Nanos::ZERO, &[]);
    world.rows(1);
    [1, 3, 1].into_iter().for_each(|rows| drop(world.rows(rows)));
    world.one_ends(0, 1);
    assert_eq!(world.actions(), [Out::Batch(vec![1, 2, 3], 3)]);
    let batch = world.batches.remove(0);
    world.sched.separate(world.now, batch, Usage::default());
    world.sched.check();
    assert_eq!(world.rows(1), [Out::One(1)], "at their old places, one by one");
    world.one_ends(1, 1);
    assert_eq!(world.actions(), [Out::Batch(vec![2], 2)]);
    world.batch_ends(1);
    assert_eq!(world.actions(), [Out::One(3)]);
    world.one_ends(3, 1);
    assert_eq!(world.actions(), [Out::One(4)]);
}

#[test]
fn who_runs_again_has_its_time_in_the_queue_behind_it() {
    let mut world = World::best_effort(Nanos::ZERO, &[]);
    world.rows(1);
    let patient =
        |world: &World, deadline| Request { queue_until: Some(Nanos(500)), deadline, ..world.request(1) };
    for deadline in [None, Some(Nanos(900))] {
        let request = patient(&world, deadline);
        world.submit(request);
    }
    world.one_ends(0, 1);
    assert_eq!(world.actions(), [Out::Batch(vec![1, 2], 1)]);
    let batch = world.batches.remove(0);
    world.now = Nanos(800);
    world.sched.separate(world.now, batch, Usage::default());
    assert_eq!(world.actions(), [Out::One(1)]);
    assert_eq!(world.at(900), [Out::Refused(2, Refusal::DeadlinePassed)]);
}

#[test]
fn behind_a_full_queue_nobody_waits() {
    let mut world = World::new(ModelOptions { queue_len: 3, ..options(Class::BestEffort, DELAY) }, &[]);
    assert_eq!((world.rows(1), world.rows(1)), (vec![], vec![]));
    assert_eq!(world.rows(1), [Out::Batch(vec![0, 1, 2], 2)], "nobody else can come");
}

/// The engine has a place for each slot up to the capacity: there must be no request beyond, whatever comes
/// back from the device, of however many models.
#[test]
fn what_comes_back_from_the_device_does_not_exceed_the_capacity() {
    let mut sched = Scheduler::new(SchedOptions { board_slots: 4, best_effort_slots: 1 });
    let options =
        ModelOptions { queue_len: 4, in_flight_max: 4, ..options(Class::real_time(0), Nanos::ZERO) };
    let models: Vec<ModelId> = (0..20)
        .map(|_| {
            let model = sched.add_model(options).unwrap();
            sched.set_family(model, 0, &sizes(&[1, 2, 4, 8], &[]));
            model
        })
        .collect();
    let (mut full, mut slots) = (0, 0);
    // Each is more urgent than those before, and has three batches on the board and a full queue; then all
    // of it fails.
    for (turn, &model) in models.iter().enumerate() {
        let mut board = Vec::new();
        for _ in 0..50 {
            let request = Request {
                model,
                plan: 0,
                class: Class::real_time(0),
                arrival: Nanos(0),
                deadline: Some(Nanos(1_000_000 - turn as u64)),
                queue_until: None,
                joins: Some(Joins { family: 0, rows: 1 }),
            };
            match sched.submit(Nanos(0), request) {
                Ok(id) => slots = slots.max(id.slot()),
                Err(Refusal::QueueFull) => {
                    full += 1;
                    // What is alone ends, and a batch takes its place.
                    let Some(at) = board.iter().position(|(_, batch)| !batch) else { break };
                    let (id, _): (RequestId, bool) = board.remove(at);
                    sched.on_complete(Nanos(0), id, Usage::default());
                }
                Err(other) => panic!("{other}"),
            }
            while let Some(action) = sched.next_action(Nanos(0)) {
                board.push(match action {
                    Action::Start { request, .. } => (request, false),
                    Action::StartBatch { batch, .. } => (batch, true),
                    other => panic!("{other:?}"),
                });
            }
        }
        for (id, is_batch) in board {
            slots = slots.max(id.slot());
            match is_batch {
                true => sched.separate(Nanos(0), id, Usage::default()),
                false => drop(sched.on_complete(Nanos(0), id, Usage::default())),
            }
        }
        sched.check();
        assert!(slots < sched.capacity(), "{slots} of {}", sched.capacity());
    }
    assert!(full > 0);
}

fn real_time(delay: Nanos) -> World {
    World::new(options(Class::real_time(1), delay), &[])
}

fn urgent(world: &World, level: u8, deadline: Option<u64>) -> Request {
    let deadline = deadline.map(|after| world.now + Nanos(after));
    Request { class: Class::real_time(level), deadline, ..world.request(1) }
}

#[test]
fn a_deadline_of_which_nothing_is_known_waits_for_nobody() {
    let mut world = real_time(DELAY);
    let request = urgent(&world, 1, Some(100_000));
    assert_eq!(world.submit(request), [Out::One(0)]);
    let mut world = real_time(DELAY);
    let request = urgent(&world, 1, None);
    assert_eq!(world.submit(request), [], "without a deadline the delay counts");
}

#[test]
fn a_deadline_bounds_the_wait_by_what_a_full_batch_takes() {
    let mut world = real_time(Nanos(100_000));
    // A batch of 8 takes 1000.
    world.measure(200, 100);
    let request = urgent(&world, 1, Some(3000));
    assert_eq!(world.submit(request), []);
    assert_eq!(world.sched.next_wakeup(), Some(Nanos(3000 - 1250)), "a quarter more than it takes");
    world.now = Nanos(1000);
    let request = urgent(&world, 1, None);
    assert_eq!(world.submit(request), []);
    assert_eq!(world.at(1749), []);
    assert_eq!(world.at(1750), [Out::Batch(vec![0, 1], 1)]);
    world.batch_ends(400);
    // One that cannot wait at all.
    let request = urgent(&world, 1, Some(1100));
    assert_eq!(world.submit(request), [Out::One(2)]);
}

#[test]
fn nobody_joins_who_would_make_the_batch_late() {
    let mut world = real_time(Nanos::ZERO);
    world.measure(0, 1000);
    let first = urgent(&world, 0, None);
    world.submit(first);
    // Behind it four wait; the first has time for two rows.
    let first = urgent(&world, 1, Some(2500));
    world.submit(first);
    (0..3).for_each(|_| {
        let request = urgent(&world, 1, Some(50_000));
        world.submit(request);
    });
    world.one_ends(0, 10);
    assert_eq!(world.actions(), [Out::Batch(vec![1, 2], 1)]);
    world.batch_ends(2000);
    assert_eq!(world.actions(), [Out::Batch(vec![3, 4], 1)]);
}

#[test]
fn levels_do_not_mix_and_the_most_urgent_goes_first() {
    let mut world = real_time(Nanos::ZERO);
    let first = urgent(&world, 0, None);
    world.submit(first);
    for level in [2, 1, 2, 1] {
        let request = urgent(&world, level, None);
        world.submit(request);
    }
    world.one_ends(0, 1);
    assert_eq!(world.actions(), [Out::Batch(vec![2, 4], 1)]);
    world.batch_ends(1);
    assert_eq!(world.actions(), [Out::Batch(vec![1, 3], 1)]);
}

#[test]
fn who_is_held_does_not_hold_up_others() {
    let mut world = World::best_effort(DELAY, &[]);
    let plain = ModelOptions { queue_len: 4, ..ModelOptions::default() };
    let other = world.sched.add_model(plain).unwrap();
    assert_eq!(world.rows(1), []);
    let request = Request { model: other, joins: None, ..world.request(1) };
    assert_eq!(world.submit(request), [Out::One(1)]);
    // The only slot is taken: the delay passes without a timer that goes off again and again.
    assert_eq!(world.at(1000), []);
    assert_eq!(world.sched.next_wakeup(), None);
    world.one_ends(1, 1);
    assert_eq!(world.actions(), [Out::One(0)]);
}

#[test]
fn waiting_requests_count_for_their_part_of_a_batch() {
    let mut world = real_time(Nanos::ZERO);
    // One row takes 1100, eight take 1800: 225 each.
    world.measure(1000, 100);
    let first = urgent(&world, 0, None);
    world.submit(first);
    (0..8).for_each(|_| {
        let request = urgent(&world, 1, None);
        assert_eq!(world.submit(request), []);
    });
    // Behind eight rows, one by one, it could not be met: 8 × 1100.
    let request = urgent(&world, 1, Some(4000));
    assert_eq!(world.submit(request), []);
    let hopeless = urgent(&world, 1, Some(1000));
    assert!(matches!(world.submit(hopeless)[..], [Out::Refused(10, Refusal::DeadlineUnreachable { .. })]));
}

#[test]
fn an_urgent_request_waits_for_no_lesser_batch_of_its_model() {
    let mut world = real_time(Nanos::ZERO);
    assert_eq!(world.rows(1), [Out::One(0)]);
    assert_eq!(world.rows(1), [], "one task at a time");
    let request = urgent(&world, 1, None);
    assert_eq!(world.submit(request), [Out::One(2)]);
    let request = urgent(&world, 1, None);
    assert_eq!(world.submit(request), [], "one of each class");
    world.one_ends(0, 1);
    assert_eq!(world.actions(), [], "a lesser one waits for it");
    world.one_ends(2, 1);
    assert_eq!(world.actions(), [Out::One(3)]);
    world.one_ends(3, 1);
    assert_eq!(world.actions(), [Out::One(1)]);
}
