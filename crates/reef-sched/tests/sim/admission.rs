//! Admission by measured times: what is refused, what is run to see, and how a wrong estimate is put right.

use proptest::prelude::*;
use reef_base::{Class, Nanos, Rng, TaskKey};
use reef_sched::{
    ModelId, ModelOptions, PROBE_AFTER, PROBE_RARITY, Refusal, Request, RequestId, SAMPLES_MIN, SchedOptions,
};

use crate::device::{End, Known, Sim};

const EVENTS_MAX: usize = 200_000;

fn ms(millis: u64) -> Nanos {
    Nanos::from_millis(millis)
}

/// One real-time model whose plan needs `needs`.
struct One {
    sim: Sim,
    model: ModelId,
    plan: u16,
    needs: Nanos,
}

impl One {
    /// With an estimate that was measured when the plan needed `measured`.
    fn measured(measured: Nanos) -> One {
        let mut one = One::new(measured);
        for _ in 0..SAMPLES_MIN {
            one.submit(None).unwrap();
            one.pass(measured);
        }
        one
    }

    fn new(needs: Nanos) -> One {
        let mut sim = Sim::new(SchedOptions { board_slots: 4, best_effort_slots: 2 }, EVENTS_MAX);
        let options = ModelOptions { class: Class::real_time(0), ..ModelOptions::default() };
        let model = sim.sched.add_model(options).unwrap();
        One { sim, model, plan: 0, needs }
    }

    fn submit(&mut self, left: Option<Nanos>) -> Result<RequestId, Refusal> {
        let (now, model, plan) = (self.sim.now, self.model, self.plan);
        let class = Class::real_time(0);
        let deadline = left.map(|left| now + left);
        let request = Request { model, plan, class, arrival: now, deadline, queue_until: None, joins: None };
        self.sim.submit(request, self.needs)
    }

    /// Fills the board with tasks of another plan, of which nothing is known and that take long.
    fn block(&mut self) -> Vec<RequestId> {
        let needs = std::mem::replace(&mut self.needs, ms(1000));
        self.plan = 1;
        let blockers = (0..2).map(|_| self.submit(None).unwrap()).collect();
        (self.plan, self.needs) = (0, needs);
        blockers
    }

    fn pass(&mut self, span: Nanos) {
        self.sim.run_until(self.sim.now + span);
    }

    fn end(&self, id: RequestId) -> End {
        self.sim.known[&id].end.expect("it has ended").1
    }

    /// Requests that started, how many of them were done, and the device time of the others.
    fn started(&self) -> (usize, usize, Nanos) {
        let started = self.sim.known.values().filter(|known| known.started.is_some());
        let done = |known: &&Known| known.end.is_some_and(|(_, end)| end == End::Done);
        let lost = started.clone().filter(|known| !done(known)).map(|known| known.had.0).sum();
        (started.clone().count(), started.filter(done).count(), Nanos(lost))
    }
}

#[test]
fn requests_with_impossible_deadlines_are_refused_however_many_there_are() {
    for (needs, pause) in [(ms(10), ms(1)), (ms(10), ms(20)), (ms(100), ms(30))] {
        let mut one = One::measured(needs);
        let (begin, learned) = (one.sim.now, one.started().0);
        let mut refused = 0;
        for _ in 0..1000 {
            refused += usize::from(one.submit(Some(Nanos(needs.0 / 2))).is_err());
            one.pass(pause);
        }
        let span = one.sim.now - begin;
        let probes_max = span.0 / PROBE_AFTER.max(Nanos(needs.0 * PROBE_RARITY)).0;
        let (started, done, lost) = one.started();
        assert_eq!(refused + started - learned, 1000);
        assert!((started - learned) as u64 <= probes_max, "{} of {probes_max}", started - learned);
        assert_eq!(done, learned);
        assert!(lost.0 <= span.0 / PROBE_RARITY, "{lost} of {span}");
    }
}

#[test]
fn a_plan_that_became_faster_is_found_out_by_one_request() {
    let mut one = One::measured(ms(100));
    one.needs = ms(1);
    let begin = one.sim.now;
    let mut first = None;
    for _ in 0..600 {
        if one.submit(Some(ms(5))).is_ok() {
            first.get_or_insert(one.sim.now);
        }
        one.pass(ms(10));
    }
    // 50 times the estimate after the last measurement, and from then on all.
    let first = first.unwrap();
    assert!((ms(5000)..ms(5011)).contains(&(first - begin)), "{}", first - begin);
    let (started, done, _) = one.started();
    assert_eq!(started, done);
    assert!(one.submit(Some(ms(2))).is_ok());
    assert_eq!(started as u64, 8 + 600 - (first - begin).0 / ms(10).0);
}

/// 99 of 100 have no chance and take the probes; the one that has one gets its turn.
#[test]
fn hopeless_requests_do_not_keep_an_estimate_from_those_that_have_a_chance() {
    let mut one = One::measured(ms(100));
    one.needs = ms(20);
    let begin = one.sim.now;
    let mut patient_done = None;
    for round in 0..4000 {
        let patient = round % 100 == 99;
        let taken = one.submit(Some(if patient { ms(50) } else { ms(5) }));
        one.pass(ms(5));
        if let Ok(id) = taken
            && patient
        {
            one.pass(ms(45));
            assert_eq!(one.end(id), End::Done);
            patient_done = Some(one.sim.now);
            break;
        }
    }
    let after = patient_done.unwrap() - begin;
    assert!(after <= ms(11_000), "two intervals of 5 s: {after}");
    assert!(one.submit(Some(ms(21))).is_ok());
}

#[test]
fn after_a_plan_became_slower_a_bounded_number_starts_for_nothing() {
    let mut one = One::measured(ms(1));
    one.needs = ms(10);
    let learned = one.started().0;
    for _ in 0..1000 {
        let _ = one.submit(Some(ms(5)));
        one.pass(ms(6));
    }
    let (started, done, _) = one.started();
    assert_eq!(done, learned);
    // 22 until the estimate passes 5 ms, then a probe in a second.
    assert!((22..=22 + 6).contains(&(started - learned)), "{}", started - learned);
    // Those that have the time are served all along, and teach it.
    let patient = one.submit(Some(ms(12))).unwrap();
    one.pass(ms(10));
    assert_eq!(one.end(patient), End::Done);
}

#[test]
fn a_plan_that_is_always_stopped_is_refused_too() {
    let mut one = One::new(ms(10));
    for _ in 0..1000 {
        let _ = one.submit(Some(ms(5)));
        one.pass(ms(6));
    }
    let (started, done, _) = one.started();
    assert_eq!(done, 0);
    assert!((8..=8 + 6).contains(&started), "{started}");
}

#[test]
fn a_probe_that_never_ran_is_made_up_for() {
    let mut one = One::measured(ms(10));
    one.pass(ms(2000));
    let blockers = one.block();
    let probe = one.submit(Some(ms(9))).unwrap();
    assert!(one.submit(Some(ms(9))).is_err(), "one at a time");
    one.pass(ms(9));
    assert_eq!(one.end(probe), End::Refused(Refusal::DeadlinePassed));
    let second = one.submit(Some(ms(9))).unwrap();
    one.sim.cancel(second);
    let third = one.submit(Some(ms(9))).unwrap();
    one.sim.cancel(blockers[0]);
    one.sim.cancel(blockers[1]);
    one.pass(ms(9));
    assert_eq!(one.end(third), End::Stopped);
    assert!(one.submit(Some(ms(9))).is_err());
}

/// Delayed past the point from which they could be in time, all would be refused at their turn, too.
#[test]
fn what_came_too_late_to_start_is_refused_or_run_to_see() {
    let mut one = One::measured(ms(10));
    let late = |one: &mut One| {
        let blockers = one.block();
        let late = one.submit(Some(ms(35))).unwrap();
        one.pass(ms(26));
        blockers.iter().for_each(|&id| one.sim.cancel(id));
        one.pass(ms(15));
        one.end(late)
    };
    let refused = End::Refused(Refusal::DeadlineUnreachable { needed: ms(10), left: ms(9) });
    assert_eq!(late(&mut one), refused);
    one.pass(ms(1000));
    assert_eq!(late(&mut one), End::Stopped);
    assert_eq!(late(&mut one), refused);
}

#[test]
fn requests_of_the_plan_that_had_the_number_before_measure_nothing() {
    let mut one = One::measured(ms(100));
    let old: Vec<_> = (0..10).map(|_| one.submit(None).unwrap()).collect();
    let far = one.submit(Some(ms(1150))).unwrap();
    one.sim.sched.reset_plan(one.model, 0);
    one.needs = ms(1);
    let fresh = one.submit(Some(ms(150))).unwrap();
    one.pass(ms(2000));
    assert!(old.iter().all(|&id| one.end(id) == End::Done));
    assert_eq!(one.end(far), End::Done);
    assert_eq!(one.end(fresh), End::Done, "by its deadline it goes before those that wait");
    assert!(one.submit(Some(Nanos(500_000))).is_ok(), "nothing is known of the new plan yet");
}

/// Models of three real-time levels and best-effort ones, the times of all of which are known exactly.
struct Known4 {
    sim: Sim,
    models: Vec<(ModelId, Class, Nanos)>,
}

impl Known4 {
    fn new(slots: SchedOptions, in_flight_max: usize, rng: &mut Rng) -> Known4 {
        let mut sim = Sim::new(slots, EVENTS_MAX);
        sim.exact = true;
        let classes = [Class::real_time(0), Class::real_time(1), Class::real_time(2), Class::BestEffort];
        let mut models = Vec::new();
        for class in classes {
            let options = ModelOptions { class, in_flight_max, ..ModelOptions::default() };
            let needs = Nanos(1000 + rng.below(200_000));
            models.push((sim.sched.add_model(options).unwrap(), class, needs));
        }
        let mut known = Known4 { sim, models };
        for which in 0..known.models.len() {
            for _ in 0..SAMPLES_MIN {
                known.submit(which, None).unwrap();
                known.sim.run_until(known.sim.now + known.models[which].2);
            }
        }
        known
    }

    fn request(&self, which: usize, left: Option<Nanos>) -> Request {
        let (now, (model, class, _)) = (self.sim.now, self.models[which]);
        let deadline = left.map(|left| now + left);
        Request { model, plan: 0, class, arrival: now, deadline, queue_until: None, joins: None }
    }

    fn submit(&mut self, which: usize, left: Option<Nanos>) -> Result<RequestId, Refusal> {
        let request = self.request(which, left);
        self.sim.submit(request, self.models[which].2)
    }

    /// When a request would be done at the earliest if nothing else came: after what goes before it. The
    /// order of best-effort requests is the scheduler's, so that only those that run count.
    fn done_at(&self, request: &Request, needs: Nanos) -> Nanos {
        let live = self.sim.known.values().filter(|known| known.end.is_none());
        let before = |known: &&Known| match known.request.class.is_real_time() {
            true => order(&known.request) <= order(request),
            false => !request.class.is_real_time() && known.started.is_some(),
        };
        live.filter(before).fold(self.sim.now + needs, |at, known| at + (known.needs - known.had))
    }
}

fn order(request: &Request) -> TaskKey {
    match request.class {
        Class::RealTime(level) => TaskKey::real_time(level, request.deadline, request.arrival),
        Class::BestEffort => TaskKey::best_effort(0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// With places for all on the board, a request is refused exactly if it cannot be in time, and one that
    /// was taken and that nothing more urgent came before is in time.
    #[test]
    fn refused_exactly_if_it_cannot_be_in_time(seed in any::<u64>()) {
        let mut rng = Rng::new(seed);
        let slots = SchedOptions { board_slots: 64, best_effort_slots: 2 };
        let mut known = Known4::new(slots, 64, &mut rng);
        let mut promised: Vec<(RequestId, TaskKey)> = Vec::new();
        for _ in 0..120 {
            let which = rng.below(4) as usize;
            let left = (rng.below(8) > 0).then(|| Nanos(1 + rng.below(1_000_000)));
            let request = known.request(which, left);
            let done_at = known.done_at(&request, known.models[which].2);
            let taken = known.submit(which, left);
            let possible = request.deadline.is_none_or(|deadline| done_at <= deadline);
            prop_assert_eq!(taken.is_ok(), possible, "{:?}: {:?}, done at {}", request, taken, done_at);
            if let Ok(id) = taken {
                let key = order(&request);
                promised.retain(|(_, other)| *other <= key);
                if request.class.is_real_time() {
                    promised.push((id, key));
                }
            } else {
                let left = left.unwrap();
                let needed = done_at - known.sim.now;
                prop_assert_eq!(taken, Err(Refusal::DeadlineUnreachable { needed, left }));
            }
            known.sim.run_until(known.sim.now + Nanos(rng.below(150_000)));
            let ended = |id: &RequestId| known.sim.known[id].end;
            for (id, _) in &promised {
                prop_assert!(ended(id).is_none_or(|(_, end)| end == End::Done), "{:?}", ended(id));
            }
            promised.retain(|(id, _)| ended(id).is_none());
        }
    }

    /// With few places a request may be later than what goes before it says, and never earlier: what is
    /// refused cannot be in time, and what starts can.
    #[test]
    fn with_few_places_what_is_refused_cannot_be_in_time(seed in any::<u64>(), in_flight in 1usize..4) {
        let mut rng = Rng::new(seed);
        let slots = SchedOptions { board_slots: 5, best_effort_slots: 2 };
        let mut known = Known4::new(slots, in_flight, &mut rng);
        for _ in 0..120 {
            let which = rng.below(4) as usize;
            let left = Nanos(1 + rng.below(1_000_000));
            let request = known.request(which, Some(left));
            let done_at = known.done_at(&request, known.models[which].2);
            match known.submit(which, Some(left)) {
                Ok(_) => prop_assert!(done_at <= request.deadline.unwrap(), "{request:?}, done at {done_at}"),
                Err(Refusal::DeadlineUnreachable { needed, .. }) => {
                    // Behind everything that is there.
                    let live = known.sim.known.values().filter(|known| known.end.is_none());
                    let all: u64 = live.map(|known| (known.needs - known.had).0).sum();
                    prop_assert!(needed.0 <= all + known.models[which].2.0);
                    prop_assert!(needed > left);
                }
                Err(other) => prop_assert_eq!(other, Refusal::QueueFull),
            }
            known.sim.run_until(known.sim.now + Nanos(rng.below(150_000)));
        }
    }
}

#[test]
fn work_on_the_board_that_goes_after_a_request_does_not_refuse_it() {
    let mut one = One::measured(ms(100));
    let far = one.submit(Some(ms(1000))).unwrap();
    one.pass(ms(10));
    let near = one.submit(Some(ms(101))).unwrap();
    // The other place is taken, too: whichever is done first, that is the more urgent one.
    assert!(one.submit(Some(ms(150))).is_err());
    let third = one.submit(Some(ms(201))).unwrap();
    one.pass(ms(400));
    assert!([far, near, third].iter().all(|&id| one.end(id) == End::Done));
}

/// A task that runs for much longer than expected says nothing of those that wait.
#[test]
fn an_overdue_task_does_not_work_off_the_queue() {
    let mut one = One::measured(ms(10));
    let blockers = one.block();
    let waiting: Vec<_> = (0..5).map(|_| one.submit(Some(ms(900))).unwrap()).collect();
    one.pass(ms(860));
    let refused = Refusal::DeadlineUnreachable { needed: ms(60), left: ms(45) };
    assert_eq!(one.submit(Some(ms(45))), Err(refused));
    blockers.iter().chain(&waiting).for_each(|&id| one.sim.cancel(id));
}
