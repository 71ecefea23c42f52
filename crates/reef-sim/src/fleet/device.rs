//! A device at the level of tasks, with the scheduler that serves it.
//!
//! The most urgent real-time task on the board has the device. Best-effort tasks have it when there is
//! none, in parts by their weights, and beside one what padding gives them. What takes the device from
//! less urgent work waits for the preemption delay, in which nobody gets on; what goes on afterwards pays
//! to resume.

use reef_base::{Nanos, TaskKey};
use reef_sched::{Action, Forecast, Refusal, Request, RequestId, SchedOptions, Scheduler, Usage};

/// Units of a share.
const ONE: u64 = 1 << 16;

/// What of a device counts at this level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// From an urgent task's submission until it has the device, where less urgent work is on it.
    pub preempt: Nanos,
    /// What a preempted task does again, or waits for, before it goes on.
    pub resume: Nanos,
    /// Speed of best-effort work beside a real-time task, as a share of its speed alone; below 1.
    pub padding: f64,
    /// How much longer a real-time task takes beside best-effort work, as a share of its time.
    pub slowdown: f64,
    /// Times of models here, as a multiple of their profiles'.
    pub scale: f64,
}

/// How the time of a device was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// A real-time task had it.
    pub real_time: Nanos,
    /// Best-effort tasks had it.
    pub best_effort: Nanos,
    /// It was taken from one task for another.
    pub switching: Nanos,
    /// How often.
    pub preemptions: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Completed,
    /// Refused, in the queue or on arrival.
    Refused,
    /// Stopped at its deadline.
    Stopped,
}

/// An end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub client: u32,
    pub scheduled: Nanos,
    pub outcome: Outcome,
}

/// What is known of a request besides what the scheduler keeps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Info {
    pub client: u32,
    pub scheduled: Nanos,
    pub work: Nanos,
}

#[derive(Debug)]
struct Task {
    id: RequestId,
    key: TaskKey,
    left: u64,
    work: u64,
    begun: Option<Nanos>,
    /// It had the device and lost it.
    preempted: bool,
}

/// Who has the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    RealTime(RequestId, TaskKey),
    BestEffort,
}

pub(super) struct Device {
    pub sched: Scheduler,
    scale: u64,
    slowdown: u64,
    padding: u64,
    constants: Constants,
    infos: Vec<Info>,
    tasks: Vec<Task>,
    holder: Holder,
    /// From when the holder gets on.
    ready: Nanos,
    now: Nanos,
    /// When something happens next.
    next: Nanos,
    pub used: Used,
}

fn units(share: f64) -> u64 {
    (share * ONE as f64) as u64
}

impl Device {
    pub fn new(constants: Constants, options: SchedOptions) -> Device {
        Device {
            sched: Scheduler::new(options),
            scale: units(constants.scale),
            slowdown: units(1.0 + constants.slowdown),
            padding: units(constants.padding),
            constants,
            infos: Vec::new(),
            tasks: Vec::with_capacity(options.board_slots),
            holder: Holder::Nobody,
            ready: Nanos::ZERO,
            now: Nanos::ZERO,
            next: Nanos::MAX,
            used: Used::default(),
        }
    }

    pub fn next_event(&self) -> Nanos {
        self.next
    }

    pub fn forecast(&mut self, now: Nanos, request: &Request) -> Forecast {
        self.sched.forecast(now, request, true)
    }

    /// Hands a request in; its end comes out of this or a later call.
    pub fn submit(&mut self, now: Nanos, request: Request, info: Info, answers: &mut Vec<Answer>) {
        match self.sched.submit(now, request) {
            Ok(id) => {
                let room = self.infos.len().max(id.slot() + 1);
                self.infos.resize(room, Info::default());
                self.infos[id.slot()] = info;
                self.advance(now, answers);
            }
            Err(refusal) => {
                assert_ne!(refusal, Refusal::ShuttingDown, "nobody closes a simulated scheduler");
                answers.push(Answer {
                    client: info.client,
                    scheduled: info.scheduled,
                    outcome: Outcome::Refused,
                });
            }
        }
    }

    /// Moves time on, to no later than the next event, and does what is due.
    pub fn advance(&mut self, now: Nanos, answers: &mut Vec<Answer>) {
        self.pass(now);
        self.complete(now, answers);
        while let Some(action) = self.sched.next_action(now) {
            match action {
                Action::Start { request, key } => self.start(request, key),
                Action::Refuse { request, .. } => self.answer(request, Outcome::Refused, answers),
                Action::CancelRunning { request } => self.stop(now, request, answers),
                Action::StartBatch { .. } | Action::Leave { .. } => unreachable!("no model has batches"),
            }
        }
        self.hand_over(now);
        self.next = self.find_next();
    }

    fn answer(&self, id: RequestId, outcome: Outcome, answers: &mut Vec<Answer>) {
        let info = self.infos[id.slot()];
        answers.push(Answer { client: info.client, scheduled: info.scheduled, outcome });
    }

    fn start(&mut self, id: RequestId, key: TaskKey) {
        let mut work = self.infos[id.slot()].work.0.saturating_mul(self.scale) / ONE;
        if key.class().is_real_time() {
            work = work.saturating_mul(self.slowdown) / ONE;
        }
        // What takes no time could come again at the same time for ever.
        let work = work.max(1);
        self.tasks.push(Task { id, key, left: work, work, begun: None, preempted: false });
    }

    /// Progress since the last event.
    fn pass(&mut self, now: Nanos) {
        let (from, span) = (self.now, now.since(self.now.max(self.ready)).0);
        self.now = now;
        let switching = now.min(self.ready).since(from.min(self.ready));
        let (holder, beside) = (self.holder, self.beside());
        match holder {
            Holder::Nobody => return,
            Holder::RealTime(..) => self.used.real_time += Nanos(span),
            Holder::BestEffort => self.used.best_effort += Nanos(span),
        }
        self.used.switching += switching;
        let (weights, begin) = (self.weights(), self.ready.max(from));
        if span == 0 && now < self.ready {
            return;
        }
        for task in &mut self.tasks {
            let had = match holder {
                Holder::RealTime(id, _) if id == task.id => span,
                _ if task.key.class().is_real_time() || beside == 0 => continue,
                _ => part(span, beside, task.key.share().weight, weights),
            };
            task.begun = task.begun.or(Some(begin));
            task.left = task.left.saturating_sub(had);
        }
    }

    /// Speed of best-effort work now.
    fn beside(&self) -> u64 {
        match self.holder {
            Holder::RealTime(..) => self.padding,
            _ => ONE,
        }
    }

    fn weights(&self) -> u64 {
        let best_effort = self.tasks.iter().filter(|task| !task.key.class().is_real_time());
        best_effort.map(|task| u64::from(task.key.share().weight)).sum()
    }

    fn complete(&mut self, now: Nanos, answers: &mut Vec<Answer>) {
        while let Some(at) = self.tasks.iter().position(|task| task.left == 0 && task.begun.is_some()) {
            let task = self.tasks.remove(at);
            let service = Some(now.since(task.begun.expect("just seen")));
            let usage = Usage { cu_time: Nanos(task.work), service, stopped_after: None };
            self.sched.on_complete(now, task.id, usage).expect("it is on the board");
            self.answer(task.id, Outcome::Completed, answers);
        }
    }

    fn stop(&mut self, now: Nanos, id: RequestId, answers: &mut Vec<Answer>) {
        let at = self.tasks.iter().position(|task| task.id == id).expect("it is on the board");
        let task = self.tasks.remove(at);
        let stopped_after = task.begun.map(|begun| now.since(begun));
        let usage =
            Usage { cu_time: Nanos(task.work - task.left.min(task.work)), service: None, stopped_after };
        self.sched.on_complete(now, id, usage).expect("it is on the board");
        self.answer(id, Outcome::Stopped, answers);
    }

    /// Gives the device to whoever is the most urgent now.
    fn hand_over(&mut self, now: Nanos) {
        let urgent = self.tasks.iter().filter(|task| task.key.class().is_real_time());
        let next = match urgent.min_by_key(|task| task.key.get()) {
            Some(task) => Holder::RealTime(task.id, task.key),
            None if self.tasks.is_empty() => Holder::Nobody,
            None => Holder::BestEffort,
        };
        if next == self.holder {
            return;
        }
        let Holder::RealTime(_, key) = next else {
            self.holder = next;
            self.ready = now;
            self.resume();
            return;
        };
        let taken = match self.holder {
            Holder::Nobody => false,
            // Its end is what brought this about, if it is not there any more.
            Holder::RealTime(id, old) => key.preempts(old) && self.tasks.iter().any(|task| task.id == id),
            Holder::BestEffort => {
                self.tasks.iter().any(|task| !task.key.class().is_real_time() && task.begun.is_some())
            }
        };
        if taken {
            self.take(now, key);
        } else {
            // Who comes while the device is being taken waits for no more than that.
            self.ready = self.ready.max(now);
        }
        self.holder = next;
        self.resume();
    }

    fn take(&mut self, now: Nanos, key: TaskKey) {
        // What pads goes on beside the task that takes the device.
        let padded = self.padding > 0;
        for task in &mut self.tasks {
            let goes_on = padded && !task.key.class().is_real_time();
            task.preempted |= task.begun.is_some() && key.preempts(task.key) && !goes_on;
        }
        self.used.preemptions += 1;
        self.ready = now + self.constants.preempt;
    }

    /// Whoever has the device again after a preemption pays for it.
    fn resume(&mut self) {
        let holder = self.holder;
        for task in self.tasks.iter_mut().filter(|task| task.preempted) {
            let has = match holder {
                Holder::RealTime(id, _) => id == task.id,
                Holder::BestEffort => !task.key.class().is_real_time(),
                Holder::Nobody => false,
            };
            if has {
                task.preempted = false;
                task.left += self.constants.resume.0;
            }
        }
    }

    fn find_next(&self) -> Nanos {
        let begin = self.now.max(self.ready);
        let (beside, weights) = (self.beside(), self.weights());
        let end = |task: &Task| match self.holder {
            Holder::RealTime(id, _) if id == task.id => Some(begin + Nanos(task.left)),
            _ if task.key.class().is_real_time() || beside == 0 => None,
            _ => Some(begin + Nanos(needed(task.left, beside, task.key.share().weight, weights))),
        };
        self.tasks.iter().filter_map(end).chain(self.sched.next_wakeup()).min().unwrap_or(Nanos::MAX)
    }
}

/// What a task gets of a span.
fn part(span: u64, speed: u64, weight: u32, weights: u64) -> u64 {
    let got =
        if speed == ONE { span } else { (u128::from(span) * u128::from(speed) / u128::from(ONE)) as u64 };
    if u64::from(weight) == weights {
        return got;
    }
    (u128::from(got) * u128::from(weight) / u128::from(weights)) as u64
}

/// The least span of which a task gets `left`.
fn needed(left: u64, speed: u64, weight: u32, weights: u64) -> u64 {
    let whole = (u128::from(left) * u128::from(weights)).div_ceil(u128::from(weight));
    let span = if speed == ONE { whole } else { (whole * u128::from(ONE)).div_ceil(u128::from(speed)) };
    u64::try_from(span).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_got_and_no_nanosecond_less_will_do() {
        for (left, speed, weight, weights) in
            [(1, ONE, 1, 1), (1000, 26_214, 3, 7), (99_999, 1, 65_535, 65_536)]
        {
            let span = needed(left, speed, weight, weights);
            assert!(part(span, speed, weight, weights) >= left);
            assert!(part(span - 1, speed, weight, weights) < left);
        }
    }
}
