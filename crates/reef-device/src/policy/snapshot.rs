//! A board as plain values: for devices that hold it still, and for tests.

use reef_base::Nanos;

use super::{Board, Running, Stage, Task};

/// A task with all that a policy may ask about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where it is.
    pub slot: usize,
    /// Its key's bits.
    pub key: u64,
    /// Whether it has blocks to claim.
    pub claimable: bool,
    /// Whether it takes no blocks any more.
    pub closed: bool,
    /// Its open stage.
    pub stage: Stage,
    /// Whose share it is on, if it is a best-effort task.
    pub owner: usize,
    /// What that owner has used.
    pub pass: u64,
}

/// A compute unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenUnit {
    /// What it runs.
    pub running: Option<Running>,
    /// Since when, if the block can be killed.
    pub since: Option<Nanos>,
    /// Whether it sleeps.
    pub asleep: bool,
}

/// A board that does not change.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// The tasks on it, by slot.
    pub tasks: &'a [Seen],
    /// The compute units.
    pub units: &'a [SeenUnit],
    /// Under `sequential`, the slot of the task that has the device.
    pub holder: Option<usize>,
    /// The time.
    pub now: Nanos,
}

impl Task for Seen {
    fn slot(&self) -> usize {
        self.slot
    }
    fn key(&self) -> u64 {
        self.key
    }
    fn is_claimable(&self) -> bool {
        self.claimable
    }
    fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Snapshot<'_> {
    fn task(&self, slot: usize) -> Option<Seen> {
        self.tasks.iter().copied().find(|task| task.slot == slot)
    }
}

impl Board for Snapshot<'_> {
    type Task = Seen;

    fn tasks(&self) -> impl Iterator<Item = Seen> {
        self.tasks.iter().copied()
    }
    fn holder(&self) -> Option<Seen> {
        self.task(self.holder?)
    }
    fn stage(&self, slot: usize) -> Stage {
        self.task(slot).expect("a policy asks about tasks that it was shown").stage
    }
    fn owner(&self, slot: usize) -> usize {
        self.task(slot).expect("a policy asks about tasks that it was shown").owner
    }
    fn pass(&self, owner: usize) -> u64 {
        let mut owners = self.tasks.iter().filter(|task| task.owner == owner);
        owners.next().expect("a policy asks about owners of tasks that it was shown").pass
    }
    fn units(&self) -> usize {
        self.units.len()
    }
    fn running(&self, cu: usize) -> Option<Running> {
        self.units[cu].running
    }
    fn since(&self, cu: usize) -> Option<Nanos> {
        self.units[cu].since
    }
    fn is_asleep(&self, cu: usize) -> bool {
        self.units[cu].asleep
    }
    fn now(&self) -> Nanos {
        self.now
    }
}
