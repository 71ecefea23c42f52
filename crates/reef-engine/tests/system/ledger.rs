//! Who is on which device's board, as the devices themselves saw it: tasks are known by the marks in their
//! rows. Against it stands what the scheduler has promised each request.
//!
//! - A task has the key that its requests' class, deadlines and arrivals say: of a batch, the most urgent.
//! - No more tasks are on a board than its lane has slots, or the model has in flight.
//! - Who is joined is of one model and class, and has room; nobody who may not join is joined.
//! - Nobody goes before who is more urgent, or of the same model and class and came first.
//! - Nobody waits for a place that is free: see [`Ledger::starved`].
//! - While best-effort requests of two models wait, what both use for their weights differs by at most twice
//!   the sum of what a full board of tasks costs each.

use std::collections::{BTreeMap, BTreeSet};

use reef_base::{Class, Nanos, TaskId, TaskKey};
use reef_device::Scheme;
use reef_engine::{ModelSettings, Placement};

use super::chaotic::Note;

/// What a task is charged at least.
const CHARGE_MIN: Nanos = Nanos::from_micros(10);

/// After a device had no place, the scheduler tries again no later.
pub const RETRY_AFTER: Nanos = Nanos::from_micros(200);

/// On what terms a request was sent.
#[derive(Clone, Debug)]
pub struct Terms {
    pub class: Class,
    pub arrival: Nanos,
    /// When it was submitted.
    pub sent: Nanos,
    /// On the clock.
    pub deadline: Option<Nanos>,
    pub load: usize,
    pub rows: usize,
    pub settings: ModelSettings,
    /// Its requests are one task each, on one device, and as many as there is a place for.
    pub is_plain: bool,
}

impl Terms {
    fn shares(&self) -> bool {
        self.is_plain && !self.class.is_real_time() && self.settings.in_flight_max.is_none()
    }
}

struct OnBoard {
    class: Class,
    load: Option<usize>,
    numbers: Vec<u32>,
}

struct Board {
    /// Places for tasks of both classes, and of those for best-effort ones.
    slots: usize,
    best_effort_slots: usize,
    tasks: BTreeMap<TaskId, OnBoard>,
    refused_at: Option<Nanos>,
    /// What tasks of loads used that ended since this was looked at last.
    used: Vec<(usize, Nanos)>,
    /// By load, what a task used at most.
    used_max: BTreeMap<usize, Nanos>,
    /// What both of two loads used while requests of both waited.
    both: BTreeMap<[usize; 2], [u64; 2]>,
}

pub struct Ledger {
    boards: Vec<Board>,
    /// By their numbers, from one.
    terms: Vec<Terms>,
}

impl Ledger {
    /// Of devices with so many places each, and so many of them for best-effort tasks.
    pub fn new(slots: impl Iterator<Item = (usize, usize)>) -> Ledger {
        let board = |(slots, best_effort_slots)| Board {
            slots,
            best_effort_slots,
            tasks: BTreeMap::new(),
            refused_at: None,
            used: Vec::new(),
            used_max: BTreeMap::new(),
            both: BTreeMap::new(),
        };
        Ledger { boards: slots.map(board).collect(), terms: Vec::new() }
    }

    /// The next request is sent.
    pub fn sent(&mut self, terms: Terms) {
        self.terms.push(terms);
    }

    fn terms(&self, number: u32) -> &Terms {
        &self.terms[number as usize - 1]
    }

    /// What passed between a device and the engine, while requests with these numbers waited for it alone.
    pub fn note(&mut self, device: usize, at: Nanos, note: Note, waiting: &[usize]) {
        match note {
            Note::Taken { task, key, marks } => {
                self.taken(device, task, key, &marks);
                self.check_order(device, at, task, key, waiting);
            }
            Note::Refused => self.boards[device].refused_at = Some(at),
            Note::Ended { task, used } => self.ended(device, task, used),
        }
    }

    fn ended(&mut self, device: usize, task: TaskId, used: Nanos) {
        let board = &mut self.boards[device];
        let OnBoard { class, load, .. } = board.tasks.remove(&task).expect("what ends was there");
        let Some(load) = load.filter(|_| !class.is_real_time()) else { return };
        let used = used.max(CHARGE_MIN);
        board.used.push((load, used));
        let most = board.used_max.entry(load).or_default();
        *most = used.max(*most);
    }

    /// Nothing more happens now; requests with these numbers wait on this device.
    pub fn check_shares(&mut self, device: usize, waiting: &[usize]) {
        let queued = waiting.iter().map(|number| *number as u32).filter(|number| {
            let is_here = |task: &OnBoard| task.numbers.contains(number);
            self.terms(*number).shares() && !self.boards[device].tasks.values().any(is_here)
        });
        let weights = queued.map(|number| self.terms(number));
        let weights: BTreeMap<usize, u64> =
            weights.map(|terms| (terms.load, terms.settings.weight.into())).collect();
        let board = &mut self.boards[device];
        let used = std::mem::take(&mut board.used);
        let loads: BTreeSet<usize> = weights.keys().copied().collect();
        board.both.retain(|pair, _| pair.iter().all(|load| loads.contains(load)));
        for (pair, sums) in &mut board.both {
            for (load, used) in &used {
                pair.iter()
                    .zip(&mut *sums)
                    .filter(|(own, _)| *own == load)
                    .for_each(|(_, sum)| *sum += used.0);
            }
            let [one, other] = pair.map(|load| weights[&load]);
            let cost = pair.map(|load| board.used_max.get(&load).map_or(CHARGE_MIN.0, |most| most.0));
            let apart = (sums[0] * other).abs_diff(sums[1] * one);
            let bound = 2 * board.best_effort_slots as u64 * (cost[0] * other + cost[1] * one);
            assert!(apart <= bound, "loads {pair:?} of weights {:?} used {sums:?}", [one, other]);
        }
        for &one in &loads {
            for &other in loads.range(one + 1..) {
                board.both.entry([one, other]).or_default();
            }
        }
    }

    fn taken(&mut self, device: usize, task: TaskId, key: TaskKey, marks: &[(u32, usize)]) {
        let board = &self.boards[device];
        let (class, tasks) = (key.class(), &board.tasks);
        let of_lane = |other: &&OnBoard| other.class.is_real_time() == class.is_real_time();
        let places = match class.is_real_time() {
            true => board.slots - board.best_effort_slots,
            false => board.best_effort_slots,
        };
        let others = tasks.values().filter(of_lane).count();
        assert!(others < places, "{task} is one too many on a board with {places} places for {class:?}");
        let load = marks.first().map(|(number, _)| self.terms(*number).load);
        if let [(first, _), ..] = marks {
            self.check_members(task, key, marks);
            let first = self.terms(*first);
            let of_model = tasks.values().filter(|other| other.load == load);
            let before = of_model.filter(|other| !class.is_real_time() || of_lane(other)).count();
            let most = first.settings.in_flight_max.unwrap_or(usize::MAX);
            assert!(before < most, "{task} is one too many of load {load:?}, {most} may be in flight");
        }
        let numbers = marks.iter().map(|(number, _)| *number).collect();
        self.boards[device].tasks.insert(task, OnBoard { class, load, numbers });
    }

    fn check_order(&self, device: usize, at: Nanos, task: TaskId, key: TaskKey, waiting: &[usize]) {
        let board = &self.boards[device];
        let taken = &board.tasks[&task];
        // What came back from the device lets pass what was on its way there with it; and who has a place
        // already goes on.
        if board.refused_at == Some(at) || taken.numbers.is_empty() {
            return;
        }
        for &number in waiting {
            let terms = self.terms(number as u32);
            let is_here = |task: &OnBoard| task.numbers.contains(&(number as u32));
            if !terms.is_plain || !self.may_start(terms, board) || board.tasks.values().any(is_here) {
                continue;
            }
            let before = match (terms.class, key.class()) {
                (Class::RealTime(level), Class::RealTime(_)) => {
                    TaskKey::real_time(level, terms.deadline, terms.arrival).get() < key.get()
                }
                (Class::BestEffort, Class::BestEffort) => {
                    taken.load == Some(terms.load) && taken.numbers.iter().all(|own| *own > number as u32)
                }
                _ => false,
            };
            assert!(!before, "{task} with {:?} goes before request {number}", taken.numbers);
        }
    }

    /// Whether a request's model has fewer tasks on a board than it may.
    fn may_start(&self, terms: &Terms, board: &Board) -> bool {
        let of_model = board.tasks.values().filter(|task| task.load == Some(terms.load));
        let in_way = of_model.filter(|task| !terms.class.is_real_time() || task.class.is_real_time()).count();
        terms.settings.in_flight_max.is_none_or(|most| in_way < most)
    }

    fn check_members(&self, task: TaskId, key: TaskKey, marks: &[(u32, usize)]) {
        let members: Vec<&Terms> = marks.iter().map(|(number, _)| self.terms(*number)).collect();
        let first = members[0];
        for (index, (terms, (number, rows))) in members.iter().zip(marks).enumerate() {
            assert_eq!((terms.load, terms.class), (first.load, first.class), "{number} is joined in {task}");
            // The last row is repeated where there are fewer than the plan has.
            let whole = if index + 1 == members.len() { *rows >= terms.rows } else { *rows == terms.rows };
            assert!(whole, "{rows} of {} rows of {number} are in {task}", terms.rows);
        }
        let rows: usize = members.iter().map(|terms| terms.rows).sum();
        let most = first.settings.batch_rows_max.filter(|_| first.settings.batching.is_some());
        let may = members.len() == 1 || most.is_some_and(|most| rows <= most);
        assert!(may, "{} requests of {rows} rows are joined in {task}", members.len());
        let deadline = members.iter().filter_map(|terms| terms.deadline).min();
        let arrival = members.iter().map(|terms| terms.arrival).min().expect("it has a member");
        let expected = match first.class {
            Class::RealTime(level) => TaskKey::real_time(level, deadline, arrival).get(),
            Class::BestEffort => {
                assert_eq!(key.class(), Class::BestEffort, "{task} has {marks:?}");
                assert_eq!(key.share().weight, first.settings.weight, "the weight of {task}");
                return;
            }
        };
        assert_eq!(key.get(), expected, "the key of {task}, with {marks:?}");
    }

    /// Whether a request of a model on this device alone waits, although nothing says so: there is a place
    /// on the board for its class and level, its model has not all in flight that it may, nobody is to join
    /// it any more, and the device has refused nothing for a while.
    pub fn starved(&self, number: usize, device: usize, now: Nanos, scheme: Scheme) -> bool {
        let (terms, board) = (self.terms(number as u32), &self.boards[device]);
        let is_here = |task: &OnBoard| task.numbers.contains(&(number as u32));
        if terms.settings.placement == Placement::Split || board.tasks.values().any(is_here) {
            return false;
        }
        let refused = board.refused_at.is_some_and(|at| now <= at + RETRY_AFTER);
        let delay = terms.settings.batching.as_ref().map_or(Nanos::ZERO, |batching| batching.delay);
        let real_time = board.tasks.values().filter(|task| task.class.is_real_time()).count();
        let best_effort = board.tasks.len() - real_time;
        let place = match terms.class {
            // One for each more urgent level is kept free, as long as there are as many.
            Class::RealTime(level) => {
                let places = board.slots - board.best_effort_slots;
                real_time + usize::from(level.get()).min(places - 1) < places
            }
            Class::BestEffort => {
                best_effort
                    < match scheme {
                        Scheme::RtOnly => 0,
                        Scheme::Sequential => 1,
                        _ => board.best_effort_slots,
                    }
            }
        };
        place && self.may_start(terms, board) && !refused && terms.sent + delay < now
    }

    /// Tasks that are on boards.
    pub fn on_boards(&self) -> usize {
        self.boards.iter().map(|board| board.tasks.len()).sum()
    }
}
