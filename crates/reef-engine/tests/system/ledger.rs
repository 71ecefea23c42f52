//! Who is on which device's board, as the devices themselves saw it: tasks are known by the marks in their
//! rows. Against it stands what the scheduler has promised each request.
//!
//! - A task has the key that its requests' class, deadlines and arrivals say; a batch that of its most urgent.
//! - No more tasks are on a board than its lane has slots, or the model has in flight.
//! - Who is joined is of one model and class, and has room; nobody who may not join is joined.
//! - Nobody waits for a place that is free: see [`Ledger::starved`].

use std::collections::BTreeMap;

use reef_base::{Class, Nanos, TaskId, TaskKey};
use reef_device::Scheme;
use reef_engine::{ModelSettings, Placement};

use super::chaotic::Note;

/// After a device had no place, the scheduler tries again no later.
pub const RETRY_AFTER: Nanos = Nanos::from_micros(200);

/// On what terms a request was sent.
#[derive(Clone, Debug)]
pub struct Terms {
    pub class: Class,
    pub arrival: Nanos,
    /// On the clock.
    pub deadline: Option<Nanos>,
    pub load: usize,
    pub rows: usize,
    pub settings: ModelSettings,
}

struct OnBoard {
    class: Class,
    load: Option<usize>,
    numbers: Vec<u32>,
}

#[derive(Default)]
struct Board {
    tasks: BTreeMap<TaskId, OnBoard>,
    refused_at: Option<Nanos>,
}

pub struct Ledger {
    boards: Vec<Board>,
    /// By their numbers, from one.
    terms: Vec<Terms>,
    slots: usize,
    best_effort_slots: usize,
}

impl Ledger {
    pub fn new(devices: usize, slots: usize, best_effort_slots: usize) -> Ledger {
        let boards = (0..devices).map(|_| Board::default()).collect();
        Ledger { boards, terms: Vec::new(), slots, best_effort_slots }
    }

    /// The next request is sent.
    pub fn sent(&mut self, terms: Terms) {
        self.terms.push(terms);
    }

    fn terms(&self, number: u32) -> &Terms {
        &self.terms[number as usize - 1]
    }

    pub fn note(&mut self, device: usize, at: Nanos, note: Note) {
        match note {
            Note::Taken { task, key, marks } => self.taken(device, task, key, &marks),
            Note::Refused => self.boards[device].refused_at = Some(at),
            Note::Ended(task) => {
                self.boards[device].tasks.remove(&task);
            }
        }
    }

    fn taken(&mut self, device: usize, task: TaskId, key: TaskKey, marks: &[(u32, usize)]) {
        let (class, tasks) = (key.class(), &self.boards[device].tasks);
        let of_lane = |other: &&OnBoard| other.class.is_real_time() == class.is_real_time();
        let places = match class.is_real_time() {
            true => self.slots - self.best_effort_slots,
            false => self.best_effort_slots,
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
                let places = self.slots - self.best_effort_slots;
                real_time + usize::from(level.get()).min(places - 1) < places
            }
            Class::BestEffort => {
                best_effort
                    < match scheme {
                        Scheme::RtOnly => 0,
                        Scheme::Sequential => 1,
                        _ => self.best_effort_slots,
                    }
            }
        };
        let of_model = board.tasks.values().filter(|task| task.load == Some(terms.load));
        let in_way = of_model.filter(|task| !terms.class.is_real_time() || task.class.is_real_time()).count();
        let may_start = terms.settings.in_flight_max.is_none_or(|most| in_way < most);
        place && may_start && !refused && terms.arrival + delay < now
    }

    /// Tasks that are on boards.
    pub fn on_boards(&self) -> usize {
        self.boards.iter().map(|board| board.tasks.len()).sum()
    }
}
