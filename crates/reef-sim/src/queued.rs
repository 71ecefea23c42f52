//! A GPU behind queues, in virtual time: what the REEF paper's GPUs are like (its section 4, figure 7).
//!
//! Kernels of a stream are launched into its *host queue*. A thread moves them to the stream's *device
//! queue*, which holds a few with the one that runs; it learns some time after a kernel has ended that
//! there is room. They run in order, each once the one before has ended. Kernels of several streams run at
//! once and share compute units ([`Kernel::slowdown`]).
//!
//! | state of a queue's first kernel | event | next |
//! |---|---|---|
//! | – | it comes first | starting |
//! | starting | it is dispatched | running |
//! | running | its time is over | – (done) |
//! | starting | the flag is seen, and the stream is evictable | leaving |
//! | running | a kill, and the stream is evictable | – (killed) |
//! | leaving | it has been fetched and has ended | – (evicted) |
//!
//! It knows no request, class or policy: who launches what, and what is taken back when, is its caller's.

use std::collections::VecDeque;

use reef_base::Nanos;

use crate::constants::GpuConstants;
use crate::profile::{Kernel, Model};

/// One of a GPU's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(pub usize);

/// A kernel that is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Index of its model.
    pub model: usize,
    /// Index in its model.
    pub kernel: usize,
}

/// How a kernel came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It ran.
    Done,
    /// It saw the flag, and did nothing.
    Evicted,
    /// It was killed while it ran.
    Killed,
}

/// A kernel has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// On this stream.
    pub stream: StreamId,
    /// Which one.
    pub launch: Launch,
    /// How.
    pub end: End,
}

/// Says how long kernels take that are padded, when they leave the host.
pub trait Pad {
    /// What the host takes to choose, and what the kernel takes then.
    fn pad(&mut self, launch: Launch) -> (Nanos, Nanos);
}

/// Nobody pads.
#[derive(Debug)]
pub struct NoPadding;

impl Pad for NoPadding {
    fn pad(&mut self, _launch: Launch) -> (Nanos, Nanos) {
        unreachable!("no stream is padded")
    }
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Kernels in its device queue, at most.
    pub capacity: u32,
    /// Whether its kernels look at the flag, and may be killed.
    pub evictable: bool,
    /// Whether its kernels are padded.
    pub padded: bool,
}

/// What kernels there are, by model.
pub trait Kernels {
    /// Those of a model, in the order of launches.
    fn of(&self, model: usize) -> &[Kernel];
}

impl Kernels for &[Model] {
    fn of(&self, model: usize) -> &[Kernel] {
        &self[model].kernels
    }
}

/// A kernel that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which one.
    pub launch: Launch,
    /// Since when.
    pub since: Nanos,
    /// What it takes alone.
    pub takes: Nanos,
}

/// A GPU, for kernels of these models.
#[derive(Debug)]
pub struct Gpu<M> {
    constants: GpuConstants,
    models: M,
    now: Nanos,
    streams: Vec<Stream>,
    /// When each pipe has done with what it evicts.
    pipes: Vec<Nanos>,
    kernels_ended: u64,
}

#[derive(Debug)]
struct Stream {
    spec: StreamSpec,
    /// Kernels that have not left the host: of one model, in order.
    host: VecDeque<Launch>,
    /// Before this nothing leaves it.
    ready: Nanos,
    /// When the first of these reaches the device queue, once it is on its way; how long it takes there.
    arriving: Option<(Nanos, Nanos)>,
    /// When the host learns of room.
    notices: VecDeque<Nanos>,
    device: VecDeque<(Launch, Nanos)>,
    front: Front,
    /// From when on its kernels see the flag, and when what runs is killed.
    flag_from: Nanos,
    kill_at: Nanos,
    last_transmitted: Option<Launch>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Front {
    None,
    Starting(Nanos),
    /// Nanoseconds left of the time that it takes alone, and how many of them pass in one.
    Running {
        since: Nanos,
        left: f64,
        rate: f64,
    },
    Leaving(Nanos),
}

impl<'a> Gpu<&'a [Model]> {
    /// A GPU with these streams, at time 0.
    pub fn new(constants: &GpuConstants, models: &'a [Model], streams: &[StreamSpec]) -> Gpu<&'a [Model]> {
        Gpu::over(constants, models, streams)
    }
}

impl<M: Kernels> Gpu<M> {
    /// The same, whatever says what kernels there are.
    pub fn over(constants: &GpuConstants, models: M, streams: &[StreamSpec]) -> Gpu<M> {
        let stream = |&spec: &StreamSpec| Stream {
            spec,
            host: VecDeque::new(),
            ready: Nanos::ZERO,
            arriving: None,
            notices: VecDeque::new(),
            device: VecDeque::new(),
            front: Front::None,
            flag_from: Nanos::MAX,
            kill_at: Nanos::MAX,
            last_transmitted: None,
        };
        Gpu {
            constants: constants.clone(),
            models,
            now: Nanos::ZERO,
            streams: streams.iter().map(stream).collect(),
            pipes: vec![Nanos::ZERO; constants.queues.pipes as usize],
            kernels_ended: 0,
        }
    }

    /// What time it is.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Kernels that have ended, however.
    pub fn kernels_ended(&self) -> u64 {
        self.kernels_ended
    }

    /// Launches the kernels of a model from one of them to its last, behind what the stream has. The host
    /// needs
    /// `takes` for that, before the first one can leave it.
    pub fn launch(&mut self, stream: StreamId, model: usize, from: usize, takes: Nanos, pad: &mut impl Pad) {
        let kernels = from..self.models.of(model).len();
        let of = &mut self.streams[stream.0];
        of.ready = self.now + takes;
        of.host.extend(kernels.map(|kernel| Launch { model, kernel }));
        self.transmit(stream.0, pad);
    }

    /// Empties the host queue of a stream; how many kernels were in it.
    pub fn reset_host(&mut self, stream: StreamId) -> usize {
        let of = &mut self.streams[stream.0];
        of.arriving = None;
        std::mem::take(&mut of.host).len()
    }

    /// The kernel that left the host last.
    pub fn last_transmitted(&self, stream: StreamId) -> Option<Launch> {
        self.streams[stream.0].last_transmitted
    }

    /// From `from` on kernels of evictable streams that have not begun end at once.
    pub fn set_flag(&mut self, from: Nanos) {
        let evictable = self.streams.iter_mut().filter(|stream| stream.spec.evictable);
        evictable.for_each(|stream| stream.flag_from = from);
        self.see_flag();
    }

    /// Kernels run again.
    pub fn clear_flag(&mut self) {
        self.streams.iter_mut().for_each(|stream| stream.flag_from = Nanos::MAX);
    }

    /// Kills what runs on evictable streams at a time.
    pub fn kill(&mut self, at: Nanos) {
        let evictable = self.streams.iter_mut().filter(|stream| stream.spec.evictable);
        evictable.for_each(|stream| stream.kill_at = at);
    }

    /// From `flag` on kernels of this stream that have not begun end at once; what runs is killed at `kill`.
    /// Neither comes later than an earlier call said.
    pub fn evict(&mut self, stream: StreamId, flag: Nanos, kill: Option<Nanos>) {
        let of = &mut self.streams[stream.0];
        of.flag_from = of.flag_from.min(flag);
        of.kill_at = of.kill_at.min(kill.unwrap_or(Nanos::MAX));
        self.see_flag();
    }

    /// Kernels of this stream run again.
    pub fn readmit(&mut self, stream: StreamId) {
        let of = &mut self.streams[stream.0];
        (of.flag_from, of.kill_at) = (Nanos::MAX, Nanos::MAX);
    }

    /// What a stream runs.
    pub fn running(&self, stream: StreamId) -> Option<Running> {
        let of = &self.streams[stream.0];
        let Front::Running { since, .. } = of.front else { return None };
        let (launch, takes) = of.device[0];
        Some(Running { launch, since, takes })
    }

    /// All that was queued or ran is gone.
    pub fn clear(&mut self) {
        for of in &mut self.streams {
            (of.arriving, of.front) = (None, Front::None);
            of.host.clear();
            of.device.clear();
            of.notices.clear();
            (of.flag_from, of.kill_at) = (Nanos::MAX, Nanos::MAX);
        }
    }

    /// Moves the clock to `to` where nothing is to happen before that.
    pub fn idle_until(&mut self, to: Nanos) {
        debug_assert!(self.next_event().is_none_or(|next| next >= to), "something happens before");
        self.pass(to);
    }

    /// To change what kernels there are: not those of models with kernels on the way.
    pub fn kernels_mut(&mut self) -> &mut M {
        &mut self.models
    }

    /// Whether a stream has nothing at all.
    pub fn is_empty(&self, stream: StreamId) -> bool {
        let of = &self.streams[stream.0];
        of.host.is_empty() && of.device.is_empty()
    }

    /// When something happens next, if anything does.
    pub fn next_event(&self) -> Option<Nanos> {
        let mut next = Nanos::MAX;
        for stream in &self.streams {
            next = next.min(stream.kill_at).min(self.next_of(stream));
            if stream.flag_from > self.now {
                next = next.min(stream.flag_from);
            }
        }
        (next < Nanos::MAX).then_some(next.max(self.now))
    }

    fn next_of(&self, stream: &Stream) -> Nanos {
        let front = match stream.front {
            Front::None => Nanos::MAX,
            Front::Starting(at) | Front::Leaving(at) => at,
            Front::Running { left, rate, .. } => self.now + Nanos((left / rate).ceil() as u64),
        };
        let feeder = match (stream.arriving, stream.notices.front()) {
            (Some((at, _)), _) => at,
            (None, Some(&at)) if !stream.host.is_empty() => at,
            _ => Nanos::MAX,
        };
        front.min(feeder)
    }

    /// Moves the clock to `to`, which is no later than the next event, and does what is due then.
    pub fn advance(&mut self, to: Nanos, pad: &mut impl Pad, ended: &mut Vec<Ended>) {
        self.pass(to);
        let mut changed = self.kill_running(ended);
        self.see_flag();
        for at in 0..self.streams.len() {
            changed |= self.step(at, pad, ended);
        }
        if changed {
            self.share();
        }
    }

    fn pass(&mut self, to: Nanos) {
        let passed = to.since(self.now).0 as f64;
        self.now = to;
        for stream in &mut self.streams {
            if let Front::Running { left, rate, .. } = &mut stream.front {
                *left -= passed * *rate;
            }
        }
    }

    /// What is due on one stream; whether what runs has changed.
    fn step(&mut self, at: usize, pad: &mut impl Pad, ended: &mut Vec<Ended>) -> bool {
        let now = self.now;
        let stream = &mut self.streams[at];
        if stream.notices.front().is_some_and(|&notice| notice <= now) {
            while stream.notices.front().is_some_and(|&notice| notice <= now) {
                stream.notices.pop_front();
            }
            self.transmit(at, pad);
        }
        let stream = &mut self.streams[at];
        if let Some((_, takes)) = stream.arriving.filter(|&(arrival, _)| arrival <= now) {
            let launch = stream.host.pop_front().expect("what arrives was on the host");
            stream.arriving = None;
            stream.device.push_back((launch, takes));
            stream.last_transmitted = Some(launch);
            if stream.device.len() == 1 {
                self.come_first(at);
            }
            self.transmit(at, pad);
        }
        match self.streams[at].front {
            Front::Starting(begin) if begin <= now => {
                let left = self.streams[at].device[0].1.0 as f64;
                self.streams[at].front = Front::Running { since: now, left, rate: 1.0 };
                true
            }
            Front::Running { left, .. } if left < 0.5 => {
                self.leave(at, End::Done, ended);
                true
            }
            Front::Leaving(end) if end <= now => {
                self.leave(at, End::Evicted, ended);
                false
            }
            _ => false,
        }
    }

    /// Sends the first kernel of a host queue on its way, if there is room that the host knows of.
    fn transmit(&mut self, at: usize, pad: &mut impl Pad) {
        let stream = &mut self.streams[at];
        let Some(&launch) = stream.host.front() else { return };
        let seen = stream.device.len() + stream.notices.len();
        if stream.arriving.is_some() || seen >= stream.spec.capacity as usize {
            return;
        }
        let (chosen, takes) = if stream.spec.padded {
            pad.pad(launch)
        } else {
            (Nanos::ZERO, self.models.of(launch.model)[launch.kernel].alone)
        };
        let leaves = self.now.max(stream.ready);
        stream.arriving = Some((leaves + self.constants.queues.transmit_us.nanos() + chosen, takes));
    }

    /// The first kernel of a device queue has none before it any more.
    fn come_first(&mut self, at: usize) {
        if self.streams[at].device.is_empty() {
            self.streams[at].front = Front::None;
        } else if self.is_evicted(at) {
            self.begin_to_leave(at);
        } else {
            let runs = |stream: &Stream| matches!(stream.front, Front::Running { .. });
            let beside = (0..self.streams.len()).any(|other| other != at && runs(&self.streams[other]));
            let delay = if beside { self.constants.sharing.dispatch_us.nanos() } else { Nanos::ZERO };
            self.streams[at].front = Front::Starting(self.now + delay);
        }
    }

    fn is_evicted(&self, at: usize) -> bool {
        self.streams[at].flag_from <= self.now
    }

    fn begin_to_leave(&mut self, at: usize) {
        let pipes = self.pipes.len();
        let costs = self.constants.preemption;
        let pipe = &mut self.pipes[at % pipes];
        // A pipe that has nothing under way takes longer.
        let begin = if *pipe < self.now { self.now + costs.evict_first_us.nanos() } else { *pipe };
        *pipe = begin + costs.evict_us.nanos();
        self.streams[at].front = Front::Leaving(*pipe);
    }

    /// Kernels that have not begun see the flag.
    fn see_flag(&mut self) {
        for at in 0..self.streams.len() {
            if self.is_evicted(at) && matches!(self.streams[at].front, Front::Starting(_)) {
                self.begin_to_leave(at);
            }
        }
    }

    fn kill_running(&mut self, ended: &mut Vec<Ended>) -> bool {
        let mut killed = false;
        for at in 0..self.streams.len() {
            let stream = &mut self.streams[at];
            if stream.kill_at > self.now {
                continue;
            }
            stream.kill_at = Nanos::MAX;
            if matches!(stream.front, Front::Running { .. }) {
                self.leave(at, End::Killed, ended);
                killed = true;
            }
        }
        killed
    }

    /// The first kernel of a device queue is over.
    fn leave(&mut self, at: usize, end: End, ended: &mut Vec<Ended>) {
        let notice = self.now + self.constants.queues.notice_us.nanos();
        let stream = &mut self.streams[at];
        stream.notices.push_back(notice);
        let (launch, _) = stream.device.pop_front().expect("there is a first kernel");
        self.kernels_ended += 1;
        ended.push(Ended { stream: StreamId(at), launch, end });
        self.come_first(at);
    }

    /// How fast each kernel runs beside the others: compute units are shared evenly.
    fn share(&mut self) {
        let models = &self.models;
        let kernel = |stream: &Stream| -> Option<&Kernel> {
            let Front::Running { .. } = stream.front else { return None };
            let launch = stream.device[0].0;
            Some(&models.of(launch.model)[launch.kernel])
        };
        let running = self.streams.iter().filter_map(kernel);
        let (count, filled) = running.fold((0u32, 0.0), |(n, room), kernel| (n + 1, room + kernel.room));
        let others = f64::from(count.saturating_sub(1));
        let contention = 1.0 + self.constants.sharing.contention * others;
        for stream in &mut self.streams {
            let Some(kernel) = kernel(stream) else { continue };
            let slower = if count > 1 { kernel.slowdown(filled) } else { 1.0 };
            if let Front::Running { rate, .. } = &mut stream.front {
                *rate = 1.0 / (slower * contention);
            }
        }
    }
}
