//! How callers wait, and how virtual time passes meanwhile.
//!
//! Real time passes by itself; threads of the engine see to what happens. With virtual time there are none:
//! the devices have one clock, and whoever waits, or asks for it, takes that from one event to the next,
//! whichever is the first of all: of a device, of the timers of a lane, or of those without a plan. Nothing
//! else moves the clock, so everything happens at its time. In which order, where times are the same, is said
//! at [`crate::Engine::run_until`]; it follows from [`Shared::pass`] and [`Shared::advance`].

use std::sync::PoisonError;
use std::task::{Context, Poll};
use std::time::Duration;

use reef_base::{Class, Clock, Nanos, VirtualClock};
use reef_device::Leader;

use crate::core::Core;
use crate::effect::Effects;
use crate::error::InferError;
use crate::fault;
use crate::help::Helping;
use crate::pool::Group;
use crate::shared::Shared;
use crate::ticket::{Finished, Ticket};

impl Shared {
    /// With virtual time: when the next event is, of whatever kind; at once if it is due. `None` if nothing
    /// is left to do.
    pub(crate) fn next_event(&self) -> Option<Nanos> {
        let now = self.virtual_clock.as_ref()?.now();
        let devices = self.lanes.iter().filter_map(|lane| lane.device.next_event());
        let timers = self.lanes.iter().map(|lane| lane.core().next_wakeup());
        let timers = timers.chain([self.cold.next_expiry()]).filter(|&at| at < Nanos::MAX);
        Some(devices.chain(timers).min()?.max(now))
    }

    /// With virtual time: does what happens until `until`, and leaves the clock there.
    pub(crate) fn run_until(&self, until: Nanos) {
        while self.elapse(until) {}
    }

    /// Does what is due, or else lets virtual time pass to the next event, at most to `until`. False if
    /// nothing happened up to then; time is at `until` then, or, where that is the end of time, where it was.
    /// Always false with real time. Does what the threads do elsewhere, so a panic here is a bug of ours.
    pub(crate) fn elapse(&self, until: Nanos) -> bool {
        let Some(clock) = &self.virtual_clock else { return false };
        let happened = fault::contain(|| {
            let mut out = std::mem::take(&mut *self.step_out());
            // What is due comes first: it may start something, and end what the caller waits for.
            let mut happened = self.advance_all(&mut out);
            if !happened {
                happened = self.pass(clock, until) | self.advance_all(&mut out);
            }
            *self.step_out() = out;
            self.tracing.collect();
            happened
        });
        happened.unwrap_or_else(|panic| {
            self.break_down(panic);
            false
        })
    }

    /// Lets time pass to the first event of all, and does what is due then on the devices; to `until` if that
    /// is before it, and false then.
    fn pass(&self, clock: &VirtualClock, until: Nanos) -> bool {
        let _one = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = self.next_event().filter(|&at| at <= until) else {
            if until < Nanos::MAX {
                clock.advance_to(until);
            }
            return false;
        };
        for lane in &self.lanes {
            if lane.device.next_event().is_some_and(|event| event <= at) {
                lane.device.advance();
            }
        }
        clock.advance_to(at);
        true
    }

    fn advance_all(&self, out: &mut Effects) -> bool {
        let mut progress = false;
        for lane in 0..self.lanes.len() {
            progress |= self.advance(lane, out);
        }
        progress
    }

    /// Blocks until the ticket's request has ended; meanwhile does what the device wants from who waits, and
    /// takes its completions if the request is real-time.
    pub(crate) fn wait(&self, ticket: &Ticket, class: Class, helping: Option<Helping<'_>>) -> Finished {
        if !self.is_stepped() {
            if let Some(own) = self.lane_of_thread() {
                return self.wait_here(own, ticket, helping);
            }
            let leads = class.is_real_time() && is_as_urgent_as_completions();
            return match leads {
                true => self.lead(ticket, helping),
                false => {
                    if let Some(helping) = helping {
                        helping.work(&|| ticket.has_ended());
                    }
                    ticket.take()
                }
            };
        }
        loop {
            if let Some(finished) = ticket.try_take() {
                return finished;
            }
            if !self.elapse(Nanos::MAX) {
                // Time stands still, so the end can only be asked for.
                self.cancel(ticket);
                let stuck = || Finished { buffers: None, result: Err(InferError::Cancelled) };
                return ticket.try_take().unwrap_or_else(stuck);
            }
        }
    }

    /// Does what the device wants from a thread that has submitted a request and does not wait for it, and
    /// takes what ends meanwhile.
    pub(crate) fn assist(&self, ticket: &Ticket, helping: Helping<'_>) {
        let index = ticket.lane();
        let lane = &self.lanes[index];
        let leader = if is_as_urgent_as_completions() { lane.signal.lead() } else { None };
        let called = || leader.as_ref().is_some_and(Leader::is_called);
        helping.work(&|| called() || ticket.has_ended());
        let Some(leader) = leader else { return };
        // From here on the completion thread is woken for what comes.
        let pending = lane.signal.take();
        leader.resign();
        if pending {
            self.advance(index, &mut Effects::default());
        }
    }

    /// Waits in a foreign waker on a completion thread, which nobody stands in for: who leads may end at any
    /// time, whoever is less urgent leads nowhere, and best-effort requests have no leader.
    fn wait_here(&self, own: usize, ticket: &Ticket, helping: Option<Helping<'_>>) -> Finished {
        // Ends that others see to are looked for so often.
        const PAUSE: Duration = Duration::from_micros(200);
        if let Some(helping) = helping {
            helping.work(&|| self.lanes[own].signal.is_pending() || ticket.has_ended());
        }
        loop {
            if let Some(finished) = ticket.try_take() {
                return finished;
            }
            self.advance_here(own, PAUSE);
        }
    }

    /// Waits for the ticket's end as the leader of its lane, while nobody else is that.
    fn lead(&self, ticket: &Ticket, mut helping: Option<Helping<'_>>) -> Finished {
        let index = ticket.lane();
        let lane = &self.lanes[index];
        let mut context = Context::from_waker(&lane.waker);
        let mut out = Effects::default();
        loop {
            let leader = lane.signal.lead();
            if let Some(helping) = helping.take() {
                let called = || leader.as_ref().is_some_and(Leader::is_called);
                helping.work(&|| called() || ticket.has_ended());
            }
            let Some(leader) = leader else { return ticket.take() };
            if !lane.signal.is_pending() {
                if let Poll::Ready(finished) = ticket.poll_take(&mut context) {
                    return finished;
                }
                leader.sleep();
            }
            // From here on the completion thread is woken for what comes.
            let pending = lane.signal.take();
            leader.resign();
            if pending {
                self.advance(index, &mut out);
            }
            if let Some(finished) = ticket.try_take() {
                return finished;
            }
        }
    }

    /// Blocks until `done` says so of every lane, one after the other, and no request that `passing` means is
    /// on its way from one to another, at most for `patience` on the engine's clock; says whether it is.
    pub(crate) fn wait_for_all(
        &self,
        patience: Nanos,
        done: impl Fn(&Core) -> bool,
        passing: impl Fn(&Group) -> bool,
    ) -> bool {
        let end = self.clock.now() + patience;
        loop {
            let mut all = true;
            for lane in 0..self.lanes.len() {
                all &= self.wait_until(lane, end.since(self.clock.now()), &done);
            }
            // Between two devices nobody's books have a request of a split model.
            let passing = self.fault().is_none() && self.registry.live().iter().any(|group| passing(group));
            if !passing || end <= self.clock.now() {
                return all && !passing;
            }
            if !self.pause(end) {
                return false;
            }
        }
    }

    /// Lets a moment pass in which requests get on, at most until `end`; false if nothing happens until then.
    fn pause(&self, end: Nanos) -> bool {
        const PAUSE: Duration = Duration::from_micros(200);
        match self.lane_of_thread() {
            _ if self.is_stepped() => return self.elapse(end),
            Some(own) => self.advance_here(own, PAUSE),
            None => std::thread::sleep(PAUSE),
        }
        true
    }

    /// Blocks until `done` says so of a lane, at most for `patience` on the engine's clock; says whether it
    /// is. One that has failed is done with everything.
    pub(crate) fn wait_until(&self, lane: usize, patience: Nanos, done: impl Fn(&Core) -> bool) -> bool {
        let lane = &self.lanes[lane];
        let done = |core: &Core| core.fault().is_some() || done(core);
        let end = self.clock.now() + patience;
        loop {
            let core = lane.core();
            if done(&core) {
                return true;
            }
            let left = end.since(self.clock.now());
            if left == Nanos::ZERO {
                return false;
            }
            // The bound is for ends that nobody tells of, such as a request dropped while it was queued.
            let pause = Duration::from(left).min(Duration::from_millis(20));
            if self.is_stepped() {
                drop(core);
                if !self.elapse(end) {
                    return done(&lane.core());
                }
            } else if let Some(own) = self.lane_of_thread() {
                drop(core);
                self.advance_here(own, pause);
            } else {
                lane.wait(core, pause);
            }
        }
    }

    /// Blocks until nobody is about to hand a request to a model that is closed.
    pub(crate) fn wait_for_visitors(&self, group: &Group) {
        const PAUSE: Duration = Duration::from_millis(20);
        while !group.visitors.is_empty() && self.fault().is_none() {
            match self.lane_of_thread() {
                // Visitors of other threads get on while this one waits.
                None => group.visitors.wait(PAUSE),
                Some(own) => self.advance_here(own, PAUSE),
            }
        }
    }

    /// The lane whose completion thread the caller is on.
    pub(crate) fn lane_of_thread(&self) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.signal.is_attached_here())
    }

    /// Whether a foreign waker was called on a thread of the engine.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.lane_of_thread().is_some() || self.copies.is_here()
    }

    /// A foreign waker waits on a completion thread: nobody else fetches what it may wait for.
    fn advance_here(&self, own: usize, pause: Duration) {
        let signal = &self.lanes[own].signal;
        signal.take();
        if !self.advance(own, &mut Effects::default()) && !signal.is_pending() {
            std::thread::park_timeout(pause);
        }
    }
}

/// Whether the system gives the calling thread a core as soon as it does a completion thread.
fn is_as_urgent_as_completions() -> bool {
    rustix::process::getpriority_process(None).is_ok_and(|nice| nice <= 0)
}
