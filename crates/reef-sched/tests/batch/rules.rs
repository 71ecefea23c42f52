//! Any events, in any order: the rules of batches hold, and each request ends once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use reef_base::{Class, Nanos, TaskKey};
use reef_sched::{Cancelled, Drain, Joins, ModelOptions, Request, RequestId, Usage};

use super::{Out, World, options};

#[derive(Clone, Debug)]
enum Step {
    Submit { family: u16, rows: u32, class: u8, deadline: Option<u64>, until: Option<u64> },
    End { nth: usize, service: u64 },
    Cancel(usize),
    Reject(usize),
    Fail(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let time = || proptest::option::weighted(0.3, 1u64..4000);
    prop_oneof![
        8 => (0u16..3, 1u32..9, 0u8..3, time(), time()).prop_map(|(family, rows, class, deadline, until)| {
            Step::Submit { family, rows, class, deadline, until }
        }),
        4 => (0usize..4, 1u64..1500).prop_map(|(nth, service)| Step::End { nth, service }),
        2 => (0usize..24).prop_map(Step::Cancel),
        1 => (0usize..4).prop_map(Step::Reject),
        1 => (0usize..4).prop_map(Step::Fail),
        6 => (1u64..600).prop_map(Step::Pass),
    ]
}

/// Plays steps, and checks at each start who is in the batch, and how long anybody waited with the board
/// empty.
struct Checked {
    world: World,
    delay: Nanos,
    preferred: Vec<u32>,
    requests: BTreeMap<u64, (Request, Nanos)>,
    waiting: BTreeSet<u64>,
    /// Tasks on the board: a request or a batch, and who is in it.
    board: Vec<(RequestId, Vec<u64>)>,
    /// Those among them whose end was asked for.
    stopped: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    /// Those whose batch has failed.
    alone: BTreeSet<u64>,
    /// The device took nothing lately: until when nothing need start.
    retry: Nanos,
}

impl Checked {
    fn new(delay: Nanos, preferred: &[u32]) -> Checked {
        let options = ModelOptions { in_flight_max: 4, ..options(Class::real_time(0), delay) };
        Checked {
            world: World::new(options, preferred),
            delay,
            preferred: preferred.to_vec(),
            requests: BTreeMap::new(),
            waiting: BTreeSet::new(),
            board: Vec::new(),
            stopped: BTreeSet::new(),
            ended: BTreeSet::new(),
            alone: BTreeSet::new(),
            retry: Nanos::ZERO,
        }
    }

    fn end(&mut self, number: u64) {
        assert!(self.ended.insert(number), "{number} ends once");
        self.waiting.remove(&number);
        self.stopped.remove(&number);
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Submit { family, rows, class, deadline, until } => {
                self.submit(family, rows, class, [deadline, until]);
            }
            Step::End { nth, service } if !self.board.is_empty() => {
                let (id, members) = self.board.remove(nth % self.board.len());
                for (number, cancel) in self.world.members_end(id) {
                    assert_eq!(cancel.is_some(), self.stopped.contains(&number), "{number}");
                    assert!(members.contains(&number));
                }
                let usage = Usage { service: Some(Nanos(service)), ..Usage::default() };
                self.world.sched.on_complete(self.world.now, id, usage).unwrap();
                members.into_iter().for_each(|number| self.end(number));
                self.retry = Nanos::ZERO;
                self.see();
            }
            Step::Reject(nth) if !self.board.is_empty() => {
                let at = nth % self.board.len();
                self.reject(at);
            }
            Step::Fail(nth) if !self.board.is_empty() => {
                let at = nth % self.board.len();
                self.fail(at);
            }
            Step::Cancel(nth) => {
                let number = self.world.next.saturating_sub(1 + nth as u64);
                let Some(&id) = self.world.ids.get(&number) else { return };
                match self.world.sched.cancel(id) {
                    Cancelled::Dropped => self.end(number),
                    Cancelled::Stopping => {
                        self.stopped.insert(number);
                    }
                    Cancelled::Unknown => assert!(self.ended.contains(&number)),
                }
                self.see();
            }
            Step::Pass(span) => {
                let end = self.world.now + Nanos(span);
                while let Some(at) = self.world.sched.next_wakeup().filter(|&at| at <= end) {
                    self.world.now = at;
                    self.see();
                }
                self.world.now = end;
                self.see();
            }
            Step::End { .. } | Step::Reject(_) | Step::Fail(_) => {}
        }
        self.world.sched.check();
    }

    fn submit(&mut self, family: u16, rows: u32, class: u8, [deadline, until]: [Option<u64>; 2]) {
        let now = self.world.now;
        let after = |span: Option<u64>| span.map(|span| now + Nanos(span));
        let request = Request {
            class: if class == 2 { Class::BestEffort } else { Class::real_time(class) },
            deadline: after(deadline),
            queue_until: after(until),
            joins: (family < 2).then_some(Joins { family, rows }),
            ..self.world.request(rows)
        };
        let number = self.world.next;
        self.requests.insert(number, (request, now));
        self.waiting.insert(number);
        let out = self.world.submit(request);
        self.look(out);
    }

    /// The device does not take what was started. The engine tells of it before anything else.
    fn reject(&mut self, at: usize) {
        let (id, members) = self.board.remove(at);
        let whole = members.iter().all(|number| self.stopped.contains(number));
        while let Some((member, _)) = self.world.sched.take_stopped_member(self.world.now, id) {
            let number = self.world.number(member).unwrap();
            assert!(self.stopped.contains(&number));
            self.end(number);
        }
        if whole {
            self.world.sched.on_complete(self.world.now, id, Usage::default()).unwrap();
            members.iter().for_each(|&number| {
                if !self.ended.contains(&number) {
                    self.end(number)
                }
            });
        } else {
            self.world.sched.on_rejected(self.world.now, id);
            let left = members.into_iter().filter(|number| !self.ended.contains(number));
            self.waiting.extend(left);
        }
        self.retry = self.world.now + Nanos::from_millis(1);
        self.see();
    }

    /// A task fails. Those of a batch who are still in it run again, alone.
    fn fail(&mut self, at: usize) {
        let (id, members) = self.board.remove(at);
        while let Some((member, _)) = self.world.sched.take_stopped_member(self.world.now, id) {
            let number = self.world.number(member).unwrap();
            assert!(self.stopped.contains(&number));
            self.end(number);
        }
        let left: Vec<u64> = self.world.sched.members(id).map(|id| self.world.number(id).unwrap()).collect();
        match left.is_empty() {
            false => self.world.sched.separate(self.world.now, id, Usage::default()),
            true => {
                self.world.sched.on_complete(self.world.now, id, Usage::default()).unwrap();
                members.into_iter().for_each(|number| {
                    if !self.ended.contains(&number) {
                        self.end(number)
                    }
                });
            }
        }
        self.alone.extend(&left);
        self.waiting.extend(left);
        self.retry = Nanos::ZERO;
        self.see();
    }

    fn see(&mut self) {
        let out = self.world.actions();
        self.look(out);
    }

    fn look(&mut self, out: Vec<Out>) {
        for out in out {
            match out {
                Out::One(number) => {
                    assert!(self.waiting.remove(&number));
                    self.board.push((self.world.ids[&number], vec![number]));
                }
                Out::Batch(members, plan) => {
                    self.check_batch(&members, plan);
                    members.iter().for_each(|number| assert!(self.waiting.remove(number)));
                    self.board.push((self.world.batches.remove(0), members));
                }
                Out::Refused(number, _) => self.end(number),
                Out::Leave(number) => {
                    self.stopped.insert(number);
                }
                Out::Stop(Some(number)) => {
                    self.stopped.insert(number);
                }
                Out::Stop(None) => {}
            }
        }
        if self.board.is_empty() && self.retry <= self.world.now {
            for number in &self.waiting {
                let (_, submitted) = self.requests[number];
                assert!(submitted + self.delay > self.world.now, "{number} waits longer than its delay");
            }
        }
    }

    fn order(&self, number: u64) -> (u64, u64) {
        let request = self.requests[&number].0;
        let key = match request.class {
            Class::RealTime(level) => TaskKey::real_time(level, request.deadline, request.arrival).get(),
            Class::BestEffort => 0,
        };
        (key, number)
    }

    fn check_batch(&self, members: &[u64], plan: u16) {
        let request = |number: &u64| self.requests[number].0;
        let head = request(&members[0]);
        let rows = |number: &u64| request(number).joins.unwrap().rows;
        let total: u32 = members.iter().map(rows).sum();
        assert!(total <= 8, "{total} rows");
        assert!(members.len() == 1 || members.iter().all(|number| !self.alone.contains(number)));
        assert_eq!([1, 2, 4, 8].into_iter().position(|size| size >= total), Some(usize::from(plan)));
        for number in members {
            let own = request(number);
            assert_eq!((own.class, own.joins.unwrap().family), (head.class, head.joins.unwrap().family));
            assert!(own.deadline.is_none_or(|deadline| deadline > self.world.now));
        }
        let last = self.order(*members.last().unwrap());
        let passed = |number: &&u64| {
            let own = request(number);
            let same_queue = own.class.is_real_time() == head.class.is_real_time();
            same_queue && !members.contains(number) && self.order(**number) < last
        };
        assert_eq!(self.waiting.iter().find(passed), None, "nobody is passed over");
        if !self.preferred.contains(&total) {
            let mut sum = 0;
            for number in members {
                sum += rows(number);
                assert!(!self.preferred.contains(&sum), "a preferred size was there");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 999, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches_keep_their_rules(
        steps in proptest::collection::vec(step(), 1..150),
        delay in prop_oneof![Just(0u64), 1u64..2000],
        preferred in prop_oneof![Just(vec![]), Just(vec![4]), Just(vec![2, 8])],
    ) {
        let mut checked = Checked::new(Nanos(delay), &preferred);
        steps.iter().for_each(|step| checked.play(step));
        checked.world.sched.drain_model(checked.world.model, Drain::Finish);
        for _ in 0..400 {
            checked.play(&Step::Pass(300_000));
            checked.play(&Step::End { nth: 0, service: 10 });
        }
        let all: BTreeSet<u64> = (0..checked.world.next).collect();
        prop_assert_eq!(&checked.ended, &all);
        prop_assert!(checked.world.sched.is_idle());
        prop_assert!(checked.world.sched.remove_model(checked.world.model));
    }
}
