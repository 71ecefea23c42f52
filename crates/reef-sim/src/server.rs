//! The schemes that the REEF paper compares, over a simulated GPU: which kernels are launched when, and what
//! happens to them when a real-time request comes (its sections 2.2, 3.2, 4 and 5.2).
//!
//! | scheme | real-time requests | best-effort requests |
//! |---|---|---|
//! | rt-only | one after the other | never |
//! | sequential | one after the other, first once the device is free | one after the other |
//! | streams | on each client's stream | on each client's stream |
//! | wait | one after the other, once other kernels have run or left | on each client's stream, between |
//! | reset | the same, once other kernels are killed or have left | the same, and as padding |
//!
//! | mode | event | next |
//! |---|---|---|
//! | normal | a real-time request; best-effort kernels are launched | preempting |
//! | normal | a real-time request; there are none | real-time |
//! | preempting | nothing of best-effort requests is queued or runs | real-time |
//! | real-time | the last real-time request is done | normal |

use std::collections::VecDeque;

use reef_base::{Class, Nanos};

use crate::constants::GpuConstants;
use crate::profile::Model;
use crate::queued::{End, Ended, Gpu, Launch, Pad, StreamId, StreamSpec};
use crate::restart::{Access, Values, undisturbed};

/// What happens to best-effort work when a real-time request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// There is none: best-effort requests are not served.
    RtOnly,
    /// The request that runs goes on to its end.
    Sequential,
    /// Nothing: everything runs at once.
    Streams,
    /// Kernels that are queued are evicted, the one that runs is waited for.
    Wait,
    /// The paper's.
    Reset(Reset),
}

/// The paper's scheme, and it without parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Kernels that run are killed, where the hardware can.
    pub kill: bool,
    /// Memory of host queues is freed by a thread of its own.
    pub asynchronous: bool,
    /// Device queues are short.
    pub restricted: bool,
    /// Real-time kernels are padded with best-effort ones.
    pub padding: bool,
    /// Best-effort requests go on with the first kernel that was not done. The paper's go on as many kernels
    /// back as a device queue holds, since it does not learn which were.
    pub exact: bool,
}

impl Reset {
    /// All of it.
    pub const REEF: Reset =
        Reset { kill: true, asynchronous: true, restricted: true, padding: true, exact: false };
    /// Without changes to the driver: nothing that runs is killed, nothing padded.
    pub const REEF_N: Reset = Reset { kill: false, padding: false, ..Reset::REEF };
}

/// A client: the model that it asks, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Index of the model.
    pub model: usize,
    /// Best-effort clients have one request under way at most.
    pub class: Class,
}

/// A request is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Whose.
    pub client: usize,
    /// When it came.
    pub arrived: Nanos,
    /// When its first kernel was launched, where requests run one after the other.
    pub begun: Option<Nanos>,
    /// When it was done.
    pub at: Nanos,
    /// Whether the device was taken from best-effort requests for it.
    pub preempted: bool,
}

/// What a run has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// From a real-time request until nothing of others was left, each time that there was something.
    pub preemptions: Vec<Preempted>,
    /// Times that padding was chosen, and how often there was any.
    pub choices: u64,
    /// See above.
    pub padded: u64,
    /// Compute units that real-time kernels and their padding took, in unit-nanoseconds.
    pub cu_real_time: f64,
    /// See above.
    pub cu_padding: f64,
    /// Time of real-time kernels.
    pub real_time: Nanos,
    /// From the beginning of preemptions until best-effort requests went on.
    pub taken: Nanos,
    /// Best-effort requests whose outputs were compared with those of undisturbed ones: see
    /// [`Server::watch_outputs`].
    pub compared: u64,
    /// How many of them were others.
    pub wrong: u64,
}

/// A preemption, part by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preempted {
    /// When it began.
    pub begun: Nanos,
    /// Resetting host queues.
    pub host: Nanos,
    /// From then until no kernel was queued or ran, but for the next.
    pub device: Nanos,
    /// Killing what ran.
    pub kill: Nanos,
}

impl Preempted {
    /// All of it.
    pub fn latency(&self) -> Nanos {
        self.host + self.device + self.kill
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Normal,
    Preempting { begun: Nanos, host: Nanos, kill: Nanos },
    RealTime,
}

/// A request of a best-effort client.
#[derive(Clone, Copy, Debug)]
struct Task {
    arrived: Nanos,
    /// The next kernel to launch, or to pad with, in real-time mode.
    next: usize,
    /// The first kernel that is not done.
    left: usize,
    /// Blocks of it that have padded others.
    blocks_done: u32,
}

/// A server of one scheme.
#[derive(Debug)]
pub struct Server<'a> {
    constants: &'a GpuConstants,
    models: &'a [Model],
    clients: &'a [Client],
    scheme: Scheme,
    gpu: Gpu<&'a [Model]>,
    mode: Mode,
    /// When it was last taken from best-effort requests.
    taken_since: Nanos,
    /// Real-time requests that wait; the one that runs.
    waiting: VecDeque<(usize, Nanos)>,
    running: Option<Finished>,
    /// The device was taken for the next one.
    was_taken: bool,
    /// Under `streams`: requests under way, by client, in order.
    under_way: Vec<VecDeque<Nanos>>,
    /// Best-effort requests that wait under `sequential`, in order.
    queued: VecDeque<(usize, Nanos)>,
    padder: Padder<'a>,
    ended: Vec<Ended>,
    /// By model, where outputs are watched; and what lies in the buffers of each client's request.
    accesses: &'a [Vec<Access>],
    values: Vec<Option<Values<'a>>>,
}

/// Chooses what pads real-time kernels (section 5.2).
#[derive(Debug)]
struct Padder<'a> {
    constants: &'a GpuConstants,
    models: &'a [Model],
    clients: &'a [Client],
    /// Requests of best-effort clients, by client.
    tasks: Vec<Option<Task>>,
    /// Whose blocks pad each launch that has left the host and not ended, and the kernel that they go on
    /// with.
    padding: VecDeque<Vec<(usize, usize, bool)>>,
    /// Who is asked first, so that all get their turn.
    first: usize,
    is_on: bool,
    seen: Seen,
}

impl Pad for Padder<'_> {
    fn pad(&mut self, launch: Launch) -> (Nanos, Nanos) {
        let kernel = &self.models[launch.model].kernels[launch.kernel];
        let mut free = self.constants.cus - kernel.cus;
        let (mut chosen, mut candidates) = (Vec::new(), 0);
        let count = self.tasks.len();
        for client in (0..count).map(|at| (self.first + at) % count).filter(|_| self.is_on) {
            let Some(task) = &mut self.tasks[client] else { continue };
            let Some(other) = self.models[self.clients[client].model].kernels.get(task.next) else {
                continue;
            };
            candidates += 1;
            // Rule 2: a unit that has room for as many blocks of it as it shall run of the kernel that is
            // padded. (As printed it asks for the room that units have, needed or not.)
            if other.occupancy < kernel.per_cu {
                continue;
            }
            // Rule 1: its blocks end before the kernel does.
            let per_cu = other.within(kernel.alone);
            let blocks = (free * per_cu).min(other.blocks - task.blocks_done);
            if blocks > 0 {
                let cus = blocks.div_ceil(per_cu);
                free -= cus;
                task.blocks_done += blocks;
                let is_whole = task.blocks_done == other.blocks;
                if is_whole {
                    (task.next, task.left, task.blocks_done) = (task.next + 1, task.next + 1, 0);
                }
                self.seen.cu_padding += other.block(per_cu).0 as f64 * f64::from(cus);
                chosen.push((client, task.next, is_whole));
            }
        }
        self.first = (self.first + 1) % count;
        self.seen.choices += 1;
        self.seen.padded += u64::from(!chosen.is_empty());
        let padding = self.constants.padding;
        let mut takes = kernel.alone;
        let mut choosing = Nanos::ZERO;
        if self.is_on {
            choosing = padding.select_us.nanos() + Nanos(padding.select_candidate_us.nanos().0 * candidates);
        }
        if !chosen.is_empty() {
            takes += Nanos((takes.0 as f64 * padding.proxy_overhead).round() as u64);
        }
        self.seen.cu_real_time += kernel.alone.0 as f64 * f64::from(kernel.cus);
        self.seen.real_time += takes;
        self.padding.push_back(chosen);
        (choosing, takes)
    }
}

impl<'a> Server<'a> {
    /// A server for these clients at time 0, with nothing to do.
    pub fn new(
        constants: &'a GpuConstants,
        models: &'a [Model],
        clients: &'a [Client],
        scheme: Scheme,
    ) -> Server<'a> {
        let queues = constants.queues;
        let restricted = matches!(scheme, Scheme::Reset(reset) if reset.restricted);
        let capacity = if restricted { queues.capacity } else { queues.capacity_unrestricted };
        let evictable = matches!(scheme, Scheme::Wait | Scheme::Reset(_));
        let of_client = StreamSpec { capacity, evictable, padded: false };
        let own = StreamSpec { capacity, evictable: false, padded: evictable };
        // The last one is for requests that run one after the other.
        let mut streams = vec![of_client; clients.len()];
        streams.push(own);
        let padder = Padder {
            constants,
            models,
            clients,
            tasks: vec![None; clients.len()],
            padding: VecDeque::new(),
            first: 0,
            is_on: matches!(scheme, Scheme::Reset(Reset { padding: true, .. })),
            seen: Seen::default(),
        };
        Server {
            constants,
            models,
            clients,
            scheme,
            gpu: Gpu::new(constants, models, &streams),
            mode: Mode::Normal,
            taken_since: Nanos::ZERO,
            waiting: VecDeque::new(),
            running: None,
            was_taken: false,
            under_way: vec![VecDeque::new(); clients.len()],
            queued: VecDeque::new(),
            padder,
            ended: Vec::new(),
            accesses: &[],
            values: vec![None; clients.len()],
        }
    }

    /// Computes with values in the place of numbers what best-effort requests give, kernel by kernel as they
    /// run, are killed and run again, and compares it with what they give undisturbed. `accesses` are those
    /// of each model. Not for streams, where requests of a client may meet.
    pub fn watch_outputs(&mut self, accesses: &'a [Vec<Access>]) {
        assert!(self.scheme != Scheme::Streams, "requests of one client may meet");
        self.accesses = accesses;
    }

    /// What time it is.
    pub fn now(&self) -> Nanos {
        self.gpu.now()
    }

    /// What has been seen so far.
    pub fn seen(&self) -> &Seen {
        &self.padder.seen
    }

    /// Kernels that have ended, however.
    pub fn kernels_ended(&self) -> u64 {
        self.gpu.kernels_ended()
    }

    /// Whether requests of a client are to come one after the other.
    pub fn takes_one_of(&self, client: usize) -> bool {
        let shares = matches!(self.scheme, Scheme::Wait | Scheme::Reset(_));
        shares && self.clients[client].class == Class::BestEffort
    }

    /// A request comes, now.
    pub fn submit(&mut self, client: usize) {
        let now = self.now();
        let Client { model, class } = self.clients[client];
        match (self.scheme, class) {
            (Scheme::RtOnly, Class::BestEffort) => {}
            (Scheme::Streams, _) => {
                self.under_way[client].push_back(now);
                self.gpu.launch(StreamId(client), model, 0, Nanos::ZERO, &mut self.padder);
            }
            (Scheme::Sequential, Class::BestEffort) => self.queued.push_back((client, now)),
            (_, Class::BestEffort) => {
                assert!(self.padder.tasks[client].is_none(), "a best-effort client has one request");
                self.padder.tasks[client] = Some(Task { arrived: now, next: 0, left: 0, blocks_done: 0 });
                if self.mode == Mode::Normal {
                    self.gpu.launch(StreamId(client), model, 0, Nanos::ZERO, &mut self.padder);
                }
            }
            (_, Class::RealTime(_)) => {
                self.waiting.push_back((client, now));
                if self.mode == Mode::Normal && matches!(self.scheme, Scheme::Wait | Scheme::Reset(_)) {
                    self.preempt();
                }
            }
        }
    }

    /// When something happens next, if anything does.
    pub fn next_event(&self) -> Option<Nanos> {
        self.gpu.next_event()
    }

    /// Moves the clock to `to`, which is no later than the next event, and does what is due then.
    pub fn advance(&mut self, to: Nanos, finished: &mut Vec<Finished>) {
        let mut ended = std::mem::take(&mut self.ended);
        self.gpu.advance(to, &mut self.padder, &mut ended);
        for ended in ended.drain(..) {
            self.has_ended(ended, finished);
        }
        self.ended = ended;
    }

    fn own_stream(&self) -> StreamId {
        StreamId(self.clients.len())
    }

    fn is_last(&self, launch: Launch) -> bool {
        launch.kernel + 1 == self.models[launch.model].kernels.len()
    }

    fn has_ended(&mut self, Ended { stream, launch, end }: Ended, finished: &mut Vec<Finished>) {
        let at = self.now();
        if stream == self.own_stream() {
            if matches!(self.scheme, Scheme::Wait | Scheme::Reset(_)) {
                self.padding_ended(finished);
            }
            if self.is_last(launch) {
                let running = self.running.take().expect("what has ended was running");
                finished.push(Finished { at, ..running });
            }
            return;
        }
        let client = stream.0;
        match end {
            End::Done => self.values_of(client).into_iter().for_each(|values| values.run(launch.kernel)),
            End::Killed => self.values_of(client).into_iter().for_each(|values| values.kill(launch.kernel)),
            End::Evicted => {}
        }
        match end {
            End::Done if self.is_last(launch) => {
                let arrived = match self.scheme {
                    Scheme::Streams => self.under_way[client].pop_front().expect("it was under way"),
                    _ => {
                        self.compare(client);
                        self.padder.tasks[client].take().expect("it was under way").arrived
                    }
                };
                finished.push(Finished { client, arrived, begun: None, at, preempted: false });
            }
            End::Done => {
                if let Some(task) = &mut self.padder.tasks[client] {
                    task.left = launch.kernel + 1;
                }
            }
            // Where nothing is killed the first kernel that was not run is known.
            End::Evicted if self.scheme == Scheme::Wait => {
                let task = self.padder.tasks[client].as_mut().expect("its task is not done");
                task.next = task.next.min(launch.kernel);
            }
            End::Evicted | End::Killed => {}
        }
    }

    /// What lies in the buffers of a client's request, where that is watched.
    fn values_of(&mut self, client: usize) -> Option<&mut Values<'a>> {
        let accesses = self.accesses.get(self.clients[client].model)?;
        Some(self.values[client].get_or_insert_with(|| Values::new(accesses)))
    }

    /// A client's request is done: whether it gives what it should.
    fn compare(&mut self, client: usize) {
        if let Some(values) = self.values[client].take() {
            let expected = undisturbed(&self.accesses[self.clients[client].model]);
            self.padder.seen.compared += 1;
            self.padder.seen.wrong += u64::from(values.output() != expected);
        }
    }

    /// The kernels that padded a real-time one are done with it.
    fn padding_ended(&mut self, finished: &mut Vec<Finished>) {
        let at = self.now();
        for (client, next, is_whole) in self.padder.padding.pop_front().expect("each launch has its padding")
        {
            if is_whole {
                self.values_of(client).into_iter().for_each(|values| values.run(next - 1));
            }
            if next == self.models[self.clients[client].model].kernels.len() {
                self.compare(client);
                let Task { arrived, .. } = self.padder.tasks[client].take().expect("its task is not done");
                finished.push(Finished { client, arrived, begun: None, at, preempted: false });
            }
        }
    }

    /// Begins to take the device from best-effort requests.
    fn preempt(&mut self) {
        let begun = self.now();
        self.taken_since = begun;
        let busy: Vec<usize> =
            (0..self.clients.len()).filter(|&client| !self.gpu.is_empty(StreamId(client))).collect();
        if busy.is_empty() {
            self.mode = Mode::RealTime;
            return;
        }
        self.was_taken = true;
        let costs = self.constants.preemption;
        let (mut host, mut kill) = (Nanos::ZERO, Nanos::ZERO);
        match self.scheme {
            Scheme::Reset(reset) => {
                for &client in &busy {
                    host += self.reset(client, reset);
                }
                if let Some(takes) = costs.kill_us.filter(|_| reset.kill) {
                    kill = takes.nanos();
                    self.gpu.kill(begun + host + kill);
                }
            }
            _ => {
                let tasks = &mut self.padder.tasks;
                busy.iter()
                    .for_each(|&client| tasks[client].iter_mut().for_each(|task| task.next = usize::MAX));
            }
        }
        self.gpu.set_flag(begun + host + costs.flag_us.nanos());
        self.mode = Mode::Preempting { begun, host, kill };
    }

    /// Empties a host queue: what that takes. Its request is to go on as many kernels back as a device queue
    /// holds (section 4.3).
    fn reset(&mut self, client: usize, reset: Reset) -> Nanos {
        let (costs, queues) = (self.constants.preemption, self.constants.queues);
        let stream = StreamId(client);
        let kernels = self.models[self.clients[client].model].kernels.len();
        let in_host = self.gpu.reset_host(stream);
        let back = if reset.restricted { queues.capacity } else { queues.capacity_unrestricted } as usize;
        let task = self.padder.tasks[client].as_mut().expect("who has kernels has a task");
        // All before what was on the host has left it.
        let left = kernels - in_host;
        task.next = left.saturating_sub(1 + back).max(task.next);
        let mut takes = costs.reset_host_us.nanos();
        if !reset.asynchronous {
            takes += Nanos(costs.reclaim_us.nanos().0 * in_host as u64);
        }
        takes
    }

    /// Starts what can start now: after all requests of this moment have come.
    pub fn go_on(&mut self) {
        if let Mode::Preempting { begun, host, kill } = self.mode {
            let over = self.now() >= begun + host + kill;
            if over && (0..self.clients.len()).all(|client| self.gpu.is_empty(StreamId(client))) {
                let device = self.now().since(begun + host + kill);
                self.padder.seen.preemptions.push(Preempted { begun, host, device, kill });
                self.gpu.clear_flag();
                self.mode = Mode::RealTime;
                if matches!(self.scheme, Scheme::Reset(Reset { exact: true, .. })) {
                    self.padder.tasks.iter_mut().flatten().for_each(|task| task.next = task.left);
                }
            }
        }
        let may_start = match self.scheme {
            Scheme::Streams => false,
            Scheme::RtOnly | Scheme::Sequential => true,
            Scheme::Wait | Scheme::Reset(_) => self.mode == Mode::RealTime,
        };
        if !may_start || self.running.is_some() {
            return;
        }
        if let Some((client, arrived)) = self.waiting.pop_front().or_else(|| self.queued.pop_front()) {
            let (now, preempted) = (self.now(), std::mem::take(&mut self.was_taken));
            self.running = Some(Finished { client, arrived, begun: Some(now), at: now, preempted });
            let (stream, model) = (self.own_stream(), self.clients[client].model);
            self.gpu.launch(stream, model, 0, Nanos::ZERO, &mut self.padder);
        } else if self.mode == Mode::RealTime {
            self.mode = Mode::Normal;
            self.padder.seen.taken += self.now().since(self.taken_since);
            self.restore();
        }
    }

    /// Best-effort requests go on where they were.
    fn restore(&mut self) {
        for client in 0..self.clients.len() {
            let Some(task) = &mut self.padder.tasks[client] else { continue };
            let from = task.next;
            // A kernel that has padded others in part runs again.
            if std::mem::take(&mut task.blocks_done) > 0 {
                self.values_of(client).into_iter().for_each(|values| values.kill(from));
            }
            let takes = if from > 0 { self.constants.preemption.relaunch_us.nanos() } else { Nanos::ZERO };
            self.gpu.launch(StreamId(client), self.clients[client].model, from, takes, &mut self.padder);
        }
    }
}
