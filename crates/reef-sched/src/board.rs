//! What is on the board, and how much of it is left to do as far as measured.
//!
//! The device is taken to do one task at a time, the most urgent first, each for as long as its estimate
//! says: time that passes is taken off the most urgent task that has something left, then off the next. A
//! task that runs for longer than expected has nothing left, and one of which nothing is known has not from
//! the start, so the sums lean low, as estimates do.

use reef_base::{Nanos, TaskKey};

use crate::types::ModelId;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) key: TaskKey,
    pub(crate) slot: u32,
    pub(crate) model: ModelId,
    /// Expected time, less what it has had.
    pub(crate) left: Nanos,
}

#[derive(Debug)]
pub(crate) struct Board {
    /// By key, then in the order of their start.
    tasks: Vec<Task>,
    /// Until when time was taken off.
    now: Nanos,
}

impl Board {
    pub(crate) fn with_capacity(slots: usize) -> Board {
        Board { tasks: Vec::with_capacity(slots), now: Nanos::ZERO }
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn add(&mut self, now: Nanos, task: Task) {
        self.pass(now);
        let at = self.tasks.partition_point(|other| other.key <= task.key);
        self.tasks.insert(at, task);
    }

    pub(crate) fn remove(&mut self, now: Nanos, slot: u32) {
        self.pass(now);
        let at = self.tasks.iter().position(|task| task.slot == slot).expect("it is on the board");
        self.tasks.remove(at);
    }

    /// The key of the first task to end among some.
    pub(crate) fn first(&self, which: impl Fn(&Task) -> bool) -> Option<TaskKey> {
        self.tasks.iter().find(|task| which(task)).map(|task| task.key)
    }

    /// Time that the tasks take that are at least as urgent as `key`.
    pub(crate) fn left(&mut self, now: Nanos, key: TaskKey) -> u128 {
        self.pass(now);
        self.tasks.iter().take_while(|task| task.key <= key).map(|task| u128::from(task.left.0)).sum()
    }

    /// Time that the tasks take; those that share take no more together, model by model, than `due` says of
    /// one of them.
    pub(crate) fn left_beside(&mut self, now: Nanos, due: impl Fn(&Task) -> Option<u128>) -> u128 {
        self.pass(now);
        let mut sum = 0;
        for (at, task) in self.tasks.iter().enumerate() {
            let Some(due) = due(task) else {
                sum += u128::from(task.left.0);
                continue;
            };
            let shares = |other: &&Task| other.model == task.model && !other.key.class().is_real_time();
            if !self.tasks[..at].iter().any(|other| shares(&other)) {
                let left = self.tasks[at..].iter().filter(shares).map(|task| u128::from(task.left.0));
                sum += left.sum::<u128>().min(due);
            }
        }
        sum
    }

    /// Slots of the tasks, the most urgent first, with their keys.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = (TaskKey, u32)> {
        self.tasks.iter().map(|task| (task.key, task.slot))
    }

    fn pass(&mut self, now: Nanos) {
        let mut span = now.since(self.now);
        self.now = self.now.max(now);
        for task in &mut self.tasks {
            let had = task.left.min(span);
            task.left = task.left - had;
            span = span - had;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reef_base::Level;

    #[test]
    fn time_is_taken_off_the_most_urgent_first() {
        let mut board = Board::with_capacity(4);
        let key = |deadline| TaskKey::real_time(Level::TOP, Some(Nanos(deadline)), Nanos::ZERO);
        let task = |deadline, left| Task {
            key: key(deadline),
            slot: deadline as u32,
            model: ModelId(deadline as u32 % 2),
            left: Nanos(left),
        };
        board.add(Nanos(10), task(5, 100));
        board.add(Nanos(30), task(3, 50));
        assert_eq!(board.left(Nanos(30), key(3)), 50);
        assert_eq!(board.left(Nanos(30), key(4)), 50);
        assert_eq!(board.left(Nanos(30), key(5)), 130);
        // 50 for the one, 20 for the other.
        assert_eq!(board.left(Nanos(100), key(9)), 60);
        assert_eq!(board.left(Nanos(90), key(9)), 60, "time does not go back");
        board.add(Nanos(100), task(4, u64::MAX));
        assert_eq!(board.left(Nanos(100), key(9)), u128::from(u64::MAX) + 60);
        board.remove(Nanos(110), 4);
        // What 4 had of it is not counted twice.
        assert_eq!(board.left(Nanos(110), key(9)), 60);
        assert_eq!(board.left_beside(Nanos(110), |_| None), 60);
        assert_eq!(board.first(|task| task.model == ModelId(1)), Some(key(3)));
        assert_eq!(board.first(|task| task.model == ModelId(7)), None);
        assert_eq!(board.left(Nanos(1000), key(9)), 0);
        assert_eq!(board.len(), 2);
    }
}
