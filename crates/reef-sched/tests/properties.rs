//! Properties over random events: nothing is lost, nothing ends twice, limits hold, orders hold, shares
//! converge.

use std::collections::BTreeMap;

use proptest::prelude::*;
use reef_base::{Class, Nanos, Rng, TaskKey};
use reef_sched::{
    Action, Cancelled, Drain, ModelId, ModelOptions, Request, RequestId, SchedOptions, Scheduler, Usage,
};

#[derive(Clone, Debug)]
enum Step {
    Submit { model: usize, class: u8, deadline: Option<u64>, until: Option<u64> },
    Complete { nth: usize, service: u64 },
    Cancel { nth: usize },
    Reject,
    Pass(u64),
    Slots(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let time = || proptest::option::of(1u64..400);
    prop_oneof![
        6 => (0usize..4, 0u8..4, time(), time())
            .prop_map(|(model, class, deadline, until)| Step::Submit { model, class, deadline, until }),
        5 => (0usize..8, 1u64..200).prop_map(|(nth, service)| Step::Complete { nth, service }),
        1 => (0usize..32).prop_map(|nth| Step::Cancel { nth }),
        1 => Just(Step::Reject),
        3 => (1u64..100).prop_map(Step::Pass),
        1 => (0usize..3).prop_map(Step::Slots),
    ]
}

fn class(number: u8) -> Class {
    if number == 3 { Class::BestEffort } else { Class::real_time(number) }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum At {
    Queued,
    OnBoard,
}

/// A model of the scheduler's promises, fed with the same events.
struct World {
    sched: Scheduler,
    models: Vec<ModelId>,
    now: Nanos,
    live: BTreeMap<RequestId, (At, Request)>,
    ended: usize,
    taken: usize,
    reject_next: bool,
}

impl World {
    fn new() -> Self {
        let mut sched = Scheduler::new(SchedOptions { board_slots: 5, best_effort_slots: 2 });
        let models = (0..4)
            .map(|index| ModelOptions {
                class: class(index),
                weight: 1 + u32::from(index),
                queue_len: 4,
                in_flight_max: 3,
                batching: None,
            })
            .map(|options| sched.add_model(options).unwrap())
            .collect();
        let live = BTreeMap::new();
        World { sched, models, now: Nanos(1000), live, ended: 0, taken: 0, reject_next: false }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Submit { model, class: number, deadline, until } => {
                let after = |span: Option<u64>| span.map(|span| self.now + Nanos(span));
                let request = Request {
                    model: self.models[model],
                    plan: 0,
                    class: class(number),
                    arrival: self.now,
                    deadline: after(deadline),
                    queue_until: after(until),
                    joins: None,
                };
                if let Ok(id) = self.sched.submit(self.now, request) {
                    self.taken += 1;
                    assert!(self.live.insert(id, (At::Queued, request)).is_none(), "ids are unique");
                    assert!(id.slot() < self.sched.capacity());
                }
            }
            Step::Complete { nth, service } => self.complete(nth, service),
            Step::Cancel { nth } => {
                if let Some((&id, &(at, _))) = self.live.iter().nth(nth) {
                    let outcome = self.sched.cancel(id);
                    let expected = if at == At::Queued { Cancelled::Dropped } else { Cancelled::Stopping };
                    assert_eq!(outcome, expected);
                    if at == At::Queued {
                        self.end(id);
                    }
                }
            }
            Step::Reject => self.reject_next = true,
            Step::Pass(span) => self.now += Nanos(span),
            Step::Slots(slots) => self.sched.set_best_effort_slots(slots),
        }
        self.actions();
        self.sched.check();
    }

    fn complete(&mut self, nth: usize, service: u64) {
        let on_board = self.live.iter().filter(|(_, (at, _))| *at == At::OnBoard);
        if let Some(id) = on_board.map(|(&id, _)| id).nth(nth) {
            let usage = Usage { cu_time: Nanos(service), service: Some(Nanos(service)), ..Usage::default() };
            assert!(self.sched.on_complete(self.now, id, usage).is_some());
            assert!(self.sched.on_complete(self.now, id, usage).is_none(), "once");
            self.end(id);
        }
    }

    fn end(&mut self, id: RequestId) {
        assert!(self.live.remove(&id).is_some(), "ends once");
        self.ended += 1;
    }

    fn actions(&mut self) {
        while let Some(action) = self.sched.next_action(self.now) {
            match action {
                Action::Start { request, key } => self.start(request, key),
                Action::Refuse { request, .. } => {
                    assert_eq!(self.live[&request].0, At::Queued);
                    self.end(request);
                }
                Action::CancelRunning { request } => assert_eq!(self.live[&request].0, At::OnBoard),
                Action::StartBatch { .. } | Action::Leave { .. } => unreachable!("no model batches here"),
            }
        }
        let overdue = self.sched.next_wakeup().is_some_and(|at| at <= self.now);
        assert!(!overdue, "all that is due has happened");
    }

    fn start(&mut self, id: RequestId, key: TaskKey) {
        let (at, request) = self.live[&id];
        assert_eq!(at, At::Queued);
        assert_eq!(key.class(), request.class);
        assert!(request.deadline.is_none_or(|deadline| deadline > self.now), "not run when too late");
        assert!(request.queue_until.is_none_or(|until| until > self.now));
        self.assert_most_urgent(id, &request);
        if std::mem::take(&mut self.reject_next) {
            self.sched.on_rejected(self.now, id);
            return;
        }
        self.live.get_mut(&id).unwrap().0 = At::OnBoard;
        let count = |wanted: &dyn Fn(&Request) -> bool| {
            self.live.values().filter(|(at, request)| *at == At::OnBoard && wanted(request)).count()
        };
        assert!(count(&|_| true) <= 5);
        assert!(count(&|request| !request.class.is_real_time()) <= 2);
        assert!(count(&|request| request.class.is_real_time()) <= 3);
        // A real-time task waits for no best-effort one of its model.
        let counts = |other: &Request| other.class.is_real_time() || !request.class.is_real_time();
        assert!(count(&|other| other.model == request.model && counts(other)) <= 3);
    }

    /// No startable real-time request with a smaller key waits when one starts.
    fn assert_most_urgent(&self, id: RequestId, started: &Request) {
        let order = |request: &Request| match request.class {
            Class::RealTime(level) => TaskKey::real_time(level, request.deadline, request.arrival),
            Class::BestEffort => TaskKey::best_effort(0),
        };
        let in_flight = |model| {
            let counts = |other: &Request| other.model == model && other.class.is_real_time();
            self.live.values().filter(|(at, other)| *at == At::OnBoard && counts(other)).count()
        };
        for (other, (at, request)) in &self.live {
            let waits = *at == At::Queued && *other != id && in_flight(request.model) < 3;
            if waits && started.class.is_real_time() && request.class.is_real_time() {
                assert!(order(started) <= order(request), "{started:?} before {request:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_ends_exactly_once(steps in proptest::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.apply(step));
        world.apply(&Step::Slots(2));
        for model in world.models.clone() {
            world.sched.drain_model(model, Drain::Finish);
        }
        // Each round either completes or refuses something, or lets the retry time pass.
        for _ in 0..1000 {
            world.apply(&Step::Complete { nth: 0, service: 10 });
            world.apply(&Step::Pass(1000));
        }
        prop_assert!(world.live.is_empty(), "lost: {:?}", world.live);
        prop_assert_eq!(world.ended, world.taken);
        prop_assert!(world.sched.is_idle());
        for model in world.models.clone() {
            prop_assert!(world.sched.remove_model(model));
        }
    }

    #[test]
    fn equal_events_give_equal_actions(steps in proptest::collection::vec(step(), 1..60)) {
        let run = || {
            let mut world = World::new();
            steps.iter().for_each(|step| world.apply(step));
            format!("{:?} {:?}", world.live, world.sched.next_wakeup())
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn weights_converge_to_shares(weights in proptest::collection::vec(1u32..8, 2..5), seed in any::<u64>()) {
        let (used, _) = saturate(&weights, seed, 0, 4000);
        let total: u64 = used.iter().sum();
        let weight_sum: u32 = weights.iter().sum();
        for (used, weight) in used.iter().zip(&weights) {
            let share = *used as f64 / total as f64;
            let wanted = f64::from(*weight) / f64::from(weight_sum);
            prop_assert!((share - wanted).abs() < 0.02, "share {} wanted {}", share, wanted);
        }
    }

    #[test]
    fn best_effort_is_not_starved_below_capacity(load in 10u64..80, seed in any::<u64>()) {
        let (used, real_time) = saturate(&[1, 1], seed, load, 4000);
        let total = used.iter().sum::<u64>() + real_time;
        let left = 1.0 - load as f64 / 100.0;
        let share = used.iter().sum::<u64>() as f64 / total as f64;
        prop_assert!(share > 0.8 * left, "best-effort got {} of {}", share, left);
    }
}

/// Saturating best-effort models with random task lengths on a device that runs one task at a time, the most
/// urgent first; beside them a real-time model that asks for `load` percent. Returns the time used, by each
/// and in real time.
fn saturate(weights: &[u32], seed: u64, load: u64, tasks: usize) -> (Vec<u64>, u64) {
    let mut sched = Scheduler::new(SchedOptions { board_slots: 4, best_effort_slots: 2 });
    let mut rng = Rng::new(seed);
    let add = |sched: &mut Scheduler, class, weight| {
        sched
            .add_model(ModelOptions { class, weight, queue_len: 64, in_flight_max: 4, batching: None })
            .unwrap()
    };
    let urgent = add(&mut sched, Class::real_time(0), 1);
    let models: Vec<ModelId> =
        weights.iter().map(|&weight| add(&mut sched, Class::BestEffort, weight)).collect();
    let lengths: Vec<u64> = weights.iter().map(|_| 20_000 + rng.below(200_000)).collect();
    let (mut used, mut real_time) = (vec![0; weights.len()], 0);
    let (mut now, mut next_arrival) = (Nanos(0), 0);
    let mut board: Vec<(TaskKey, RequestId, Option<usize>)> = Vec::new();
    let mut owner = BTreeMap::new();
    for _ in 0..tasks {
        let mut submit = |sched: &mut Scheduler, model: ModelId, class, index: Option<usize>| {
            let (deadline, queue_until) = (None, None);
            let request = Request { model, plan: 0, class, arrival: now, deadline, queue_until, joins: None };
            if let Ok(id) = sched.submit(now, request) {
                owner.insert(id, index);
            }
        };
        for (index, &model) in models.iter().enumerate() {
            while sched.queued(model, Class::BestEffort) < 3 {
                submit(&mut sched, model, Class::BestEffort, Some(index));
            }
        }
        while load > 0 && next_arrival <= now.0 {
            submit(&mut sched, urgent, Class::real_time(0), None);
            next_arrival += 100 * 50_000 / load;
        }
        while let Some(action) = sched.next_action(now) {
            let Action::Start { request, key } = action else { panic!("nothing is refused here") };
            board.push((key, request, owner[&request]));
        }
        let at = (0..board.len()).min_by_key(|&at| board[at].0).expect("there is always work");
        let (_, id, index) = board.swap_remove(at);
        let length = index.map_or(50_000, |index| lengths[index] / 2 + rng.below(lengths[index]));
        now += Nanos(length);
        match index {
            Some(index) => used[index] += length,
            None => real_time += length,
        }
        let usage = Usage { cu_time: Nanos(length), service: Some(Nanos(length)), ..Usage::default() };
        sched.on_complete(now, id, usage).unwrap();
    }
    (used, real_time)
}
