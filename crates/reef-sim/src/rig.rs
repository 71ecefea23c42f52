//! A simulated device with models, as what `reef-load`'s clients ask: a run in virtual time.
//!
//! Which work goes first is the device's own affair, as it is under the schemes of [`crate::server`] and the
//! rules of [`crate::resident`]. Nothing is refused: clients whose deadlines the server enforces cannot be
//! played here.

use std::collections::VecDeque;

use reef_base::{Class, ClassName, Level, Nanos};
use reef_load::{Answered, Asked, PlayedClient, Reply, Run, RunClient, Served, play_virtual};

use crate::constants::GpuConstants;
use crate::error::SimError;
use crate::profile::{Model, Profile};
use crate::resident::{
    Counters, Ended, Executor, Padding, ResidentConstants, ResidentModel, Rules, Sharing, calibrated,
};
use crate::server::{Client, Finished, Reset, Scheme, Server};

/// A simulated device and the models that it has.
#[derive(Clone, Debug)]
pub struct Rig {
    device: Device,
}

#[derive(Clone, Debug)]
enum Device {
    Queued { constants: GpuConstants, models: Vec<Model> },
    Resident { constants: ResidentConstants, models: Vec<ResidentModel> },
}

/// How a device is shared among the clients of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its name.
    pub name: &'static str,
    /// What it means, in a line.
    pub title: &'static str,
    /// Whether best-effort clients take part.
    pub best_effort: bool,
    sharing: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Queued(Scheme),
    Resident { rules: Rules, anticipates: bool },
}

const fn queued(name: &'static str, title: &'static str, scheme: Scheme) -> Condition {
    let best_effort = !matches!(scheme, Scheme::RtOnly);
    Condition { name, title, best_effort, sharing: How::Queued(scheme) }
}

const fn resident(name: &'static str, title: &'static str, sharing: Sharing, padding: Padding) -> Condition {
    let sharing = How::Resident { rules: Rules { sharing, padding }, anticipates: false };
    Condition { name, title, best_effort: true, sharing }
}

const QUEUED: [Condition; 4] = [
    queued("rt-only", "the device dedicated to real-time clients", Scheme::RtOnly),
    queued("sequential", "one request at a time, to its end", Scheme::Sequential),
    queued("concurrent", "a stream per client, all at once", Scheme::Streams),
    queued("wait", "kernels that are queued are evicted, the one that runs is waited for", Scheme::Wait),
];

const KILLS: Condition =
    queued("reset", "kernels that run are killed; best-effort ones pad", Scheme::Reset(Reset::REEF));
/// Where nothing that runs can be killed.
const EVICTS: Condition = queued(
    "reset",
    "as REEF-N: host queues are emptied, what runs is waited for, nothing pads",
    Scheme::Reset(Reset::REEF_N),
);

const RESIDENT: [Condition; 5] = [
    Condition {
        best_effort: false,
        ..resident("rt-only", "the device dedicated to real-time clients", Sharing::Reset, Padding::None)
    },
    resident("sequential", "one task at a time, to its end", Sharing::Sequential, Padding::None),
    resident(
        "concurrent",
        "all tasks at once, units take turns among them",
        Sharing::Concurrent,
        Padding::None,
    ),
    resident("wait", "the most urgent first at every block's end", Sharing::Wait, Padding::Fitting),
    resident(
        "reset",
        "blocks are left at poll points and run again later",
        Sharing::Reset,
        Padding::Preemptible,
    ),
];

/// What our own ideas make of the paper's GPU, one after the other: see [`crate::ideas`].
pub(crate) mod own {
    use super::*;

    pub(crate) const EXACT: Condition = queued(
        "reset, exact",
        "REEF that goes on with the first kernel that was not done",
        Scheme::Reset(Reset { exact: true, ..Reset::REEF }),
    );
    pub(crate) const ALONE: Condition =
        resident("resident", "units pull blocks, nothing pads", Sharing::Reset, Padding::None);
    pub(crate) const FITTING: Condition =
        resident("resident, rule 1", "padding that ends in time", Sharing::Reset, Padding::Fitting);
    pub(crate) const KILL: Condition = resident(
        "resident, kill",
        "padding that is left when its unit is wanted",
        Sharing::Reset,
        Padding::Preemptible,
    );
    pub(crate) const ANTICIPATES: Condition = Condition {
        sharing: How::Resident { rules: Rules::RESET, anticipates: true },
        ..resident(
            "resident, anticipating",
            "and best-effort blocks keep off when a request is expected",
            Sharing::Reset,
            Padding::Preemptible,
        )
    };
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// In the order of the run's clients.
    pub clients: Vec<PlayedClient>,
    /// What a device whose units pull blocks did in the measured window.
    pub counters: Option<Counters>,
}

impl Rig {
    /// A built-in device, with the models that were measured on it.
    pub fn built_in(name: &str) -> Result<Rig, SimError> {
        let known = || Rig::names().collect::<Vec<_>>().join(", ");
        let device = if GpuConstants::names().any(|gpu| gpu == name) {
            let constants = GpuConstants::built_in(name)?;
            let models = Profile::all().iter().map(|profile| Model::of(profile, &constants)).collect();
            Device::Queued { constants, models }
        } else if ResidentConstants::names().any(|resident| resident == name) {
            let constants = ResidentConstants::built_in(name)?;
            let models = resident_models(name, &constants)?;
            Device::Resident { constants, models }
        } else {
            return Err(SimError::UnknownDevice { name: name.into(), known: known() });
        };
        Ok(Rig { device })
    }

    /// The names of the devices that are built in.
    pub fn names() -> impl Iterator<Item = &'static str> {
        GpuConstants::names().chain(ResidentConstants::names())
    }

    /// Whether models can be added: `reef profile` measures what units that pull blocks take.
    pub fn takes_profiles(&self) -> bool {
        matches!(self.device, Device::Resident { .. })
    }

    /// Adds a model from what `reef profile --json` printed, in the place of one of the same name.
    pub fn add(&mut self, name: &str, printed: &str) -> Result<(), SimError> {
        let Device::Resident { constants, models } = &mut self.device else {
            let problem = "this device has kernels in queues, which reef profile does not measure".into();
            return Err(SimError::Profile { name: name.into(), problem });
        };
        let model = as_measured(ResidentModel::parse(name, printed)?, constants);
        models.retain(|known| known.name != name);
        models.push(model);
        Ok(())
    }

    /// For people.
    pub fn description(&self) -> &str {
        match &self.device {
            Device::Queued { constants, .. } => &constants.name,
            Device::Resident { constants, .. } => &constants.name,
        }
    }

    /// Compute units.
    pub fn units(&self) -> u32 {
        match &self.device {
            Device::Queued { constants, .. } => constants.cus,
            Device::Resident { constants, .. } => constants.units,
        }
    }

    /// The names of its models.
    pub fn models(&self) -> Vec<&str> {
        match &self.device {
            Device::Queued { models, .. } => models.iter().map(|model| &model.name[..]).collect(),
            Device::Resident { models, .. } => models.iter().map(|model| &model.name[..]).collect(),
        }
    }

    /// Refuses a model that it has not got.
    pub fn check_model(&self, name: &str) -> Result<(), SimError> {
        let models = self.models();
        if models.contains(&name) {
            return Ok(());
        }
        let known = if models.is_empty() { "none before some are given".into() } else { models.join(", ") };
        Err(SimError::UnknownModel { name: name.into(), known })
    }

    /// How it may be shared: the first is the device dedicated to real-time clients, the last is what it is
    /// for.
    pub fn conditions(&self) -> Vec<Condition> {
        match &self.device {
            Device::Queued { constants, .. } => {
                let kills = constants.preemption.kill_us.is_some();
                QUEUED.into_iter().chain([if kills { KILLS } else { EVICTS }]).collect()
            }
            Device::Resident { .. } => RESIDENT.to_vec(),
        }
    }

    /// Plays a run from the first event to the last.
    ///
    /// Panics if the condition is another device's.
    pub fn play(&self, condition: &Condition, run: &Run) -> Result<Outcome, SimError> {
        let mut run = run.clone();
        let clients: Vec<Client> =
            run.clients.iter().map(|client| self.client(client)).collect::<Result<_, _>>()?;
        for client in &mut run.clients {
            let plays = condition.best_effort || client.class == ClassName::RealTime;
            client.in_flight = if plays { client.in_flight } else { 0 };
        }
        let machine: Box<dyn Machine + '_> = match (&self.device, condition.sharing) {
            (Device::Queued { constants, models }, How::Queued(scheme)) => {
                Box::new(Queued(Server::new(constants, models, &clients, scheme)))
            }
            (Device::Resident { constants, models }, How::Resident { rules, anticipates }) => {
                Box::new(Resident {
                    executor: Executor::new(constants, models, &clients, rules),
                    ended: Vec::new(),
                    expected: anticipates.then(|| vec![Rhythm::default(); clients.len()]),
                    clients: &clients,
                })
            }
            _ => panic!("{} is no condition of {}", condition.name, self.description()),
        };
        let mut asked = Playing::new(machine, &clients, &run);
        let played = play_virtual(&run, &mut asked);
        Ok(Outcome { clients: played, counters: asked.counters() })
    }

    fn client(&self, client: &RunClient) -> Result<Client, SimError> {
        if client.enforced_deadline.is_some() {
            let problem = "its deadline is enforced by the server, which is not simulated".into();
            return Err(SimError::Workload { client: client.name.clone(), problem });
        }
        self.check_model(&client.model)?;
        let models = self.models();
        let model = models.iter().position(|model| *model == client.model).expect("it was looked for");
        let class = match client.class {
            ClassName::RealTime => Class::RealTime(Level::new(client.level).expect("a run has valid levels")),
            ClassName::BestEffort => Class::BestEffort,
        };
        Ok(Client { model, class })
    }
}

/// Models of a device whose units pull blocks.
fn resident_models(name: &str, constants: &ResidentConstants) -> Result<Vec<ResidentModel>, SimError> {
    if name != "mi50-resident" {
        let models = ResidentModel::built_in(name);
        return Ok(models.into_iter().map(|model| as_measured(model, constants)).collect());
    }
    let gpu = GpuConstants::built_in("mi50")?;
    Ok(Profile::all().iter().map(|profile| ResidentModel::of_gpu(profile, &gpu)).collect())
}

fn as_measured(model: ResidentModel, constants: &ResidentConstants) -> ResidentModel {
    match model.measured {
        Some(time) => calibrated(&model, constants, time),
        None => model,
    }
}

/// A request is answered.
struct Done {
    client: usize,
    arrived: Nanos,
    at: Nanos,
    /// From the first block to the last, where that is known.
    on_device: Option<(Nanos, Nanos)>,
    preempted: bool,
}

/// A device that clients ask.
trait Machine {
    fn now(&self) -> Nanos;
    /// Whether a client's requests are to come one after the other.
    fn takes_one_of(&self, client: usize) -> bool;
    fn submit(&mut self, client: usize);
    /// Starts what can start, after requests came.
    fn go_on(&mut self);
    fn next_event(&self) -> Option<Nanos>;
    fn advance(&mut self, to: Nanos, done: &mut Vec<Done>);
    fn counters(&self) -> Option<Counters>;
}

struct Queued<'a>(Server<'a>);

impl Machine for Queued<'_> {
    fn now(&self) -> Nanos {
        self.0.now()
    }

    fn takes_one_of(&self, client: usize) -> bool {
        self.0.takes_one_of(client)
    }

    fn submit(&mut self, client: usize) {
        self.0.submit(client);
    }

    fn go_on(&mut self) {
        self.0.go_on();
    }

    fn next_event(&self) -> Option<Nanos> {
        self.0.next_event()
    }

    fn advance(&mut self, to: Nanos, done: &mut Vec<Done>) {
        let mut finished = Vec::new();
        self.0.advance(to, &mut finished);
        done.extend(finished.into_iter().map(|Finished { client, arrived, begun, at, preempted }| {
            let on_device = begun.map(|begun| (begun, at));
            Done { client, arrived, at, on_device, preempted }
        }));
    }

    fn counters(&self) -> Option<Counters> {
        None
    }
}

struct Resident<'a> {
    executor: Executor<'a>,
    ended: Vec<Ended>,
    /// By client, where best-effort blocks keep off when a request is expected.
    expected: Option<Vec<Rhythm>>,
    clients: &'a [Client],
}

impl Machine for Resident<'_> {
    fn now(&self) -> Nanos {
        self.executor.now()
    }

    fn takes_one_of(&self, _client: usize) -> bool {
        false
    }

    fn submit(&mut self, client: usize) {
        let now = self.executor.now();
        if let Some(rhythms) = &mut self.expected
            && self.clients[client].class.is_real_time()
        {
            rhythms[client].hear(now);
            let next = rhythms.iter().filter_map(|rhythm| rhythm.next()).filter(|&at| at > now).min();
            self.executor.expect(next.unwrap_or(Nanos::ZERO));
        }
        self.executor.submit(client);
    }

    fn go_on(&mut self) {}

    fn next_event(&self) -> Option<Nanos> {
        self.executor.next_event()
    }

    fn advance(&mut self, to: Nanos, done: &mut Vec<Done>) {
        self.executor.advance(to, &mut self.ended);
        done.extend(self.ended.drain(..).map(|ended| {
            let Ended { client, arrived, begun, done, at, preempted } = ended;
            Done { client, arrived, at, on_device: Some((begun, done)), preempted }
        }));
    }

    fn counters(&self) -> Option<Counters> {
        Some(self.executor.counters())
    }
}

/// When a client asks next, if it keeps a rhythm.
#[derive(Clone, Copy, Debug, Default)]
struct Rhythm {
    last: Option<Nanos>,
    gap: Option<Nanos>,
    steady: bool,
}

impl Rhythm {
    /// Two gaps are the same if they differ by less than this part of them.
    const PART: u64 = 50;

    fn hear(&mut self, at: Nanos) {
        let gap = self.last.map(|last| at.since(last));
        self.steady =
            gap.zip(self.gap).is_some_and(|(gap, before)| gap.0.abs_diff(before.0) <= gap.0 / Self::PART);
        (self.last, self.gap) = (Some(at), gap);
    }

    fn next(&self) -> Option<Nanos> {
        let (last, gap) = self.last.zip(self.gap).filter(|_| self.steady)?;
        Some(last + gap)
    }
}

/// A machine while it is asked.
struct Playing<'a> {
    machine: Box<dyn Machine + 'a>,
    clients: Vec<Asking>,
    answers: Vec<Answered>,
    /// Requests have come since it went on.
    came: bool,
    /// The measured window, and what the device had done when it began and when it ended.
    window: std::ops::Range<Nanos>,
    begin: Option<Option<Counters>>,
    end: Option<Option<Counters>>,
}

/// Requests of a client: caller and when it asked.
#[derive(Default)]
struct Asking {
    one_by_one: bool,
    under_way: Vec<(usize, Nanos, Nanos)>,
    waiting: VecDeque<(usize, Nanos)>,
}

impl<'a> Playing<'a> {
    fn new(machine: Box<dyn Machine + 'a>, clients: &[Client], run: &Run) -> Playing<'a> {
        let asking = |client| Asking { one_by_one: machine.takes_one_of(client), ..Asking::default() };
        Playing {
            clients: (0..clients.len()).map(asking).collect(),
            machine,
            answers: Vec::new(),
            came: false,
            window: run.window(),
            begin: None,
            end: None,
        }
    }

    /// What the device did in the measured window.
    fn counters(&self) -> Option<Counters> {
        let now = self.machine.counters();
        let (begin, end) = (self.begin.unwrap_or(now)?, self.end.unwrap_or(now)?);
        Some(end - begin)
    }

    fn submit(&mut self, client: usize, caller: usize, sent: Nanos) {
        let now = self.machine.now();
        self.clients[client].under_way.push((caller, now, sent));
        self.machine.submit(client);
        self.came = true;
    }

    fn settle(&mut self) {
        if std::mem::take(&mut self.came) {
            self.machine.go_on();
        }
    }

    /// Everything before `to` has happened: takes note of what was done by the edges of the window.
    fn pass(&mut self, to: Nanos) {
        let counters = self.machine.counters();
        if to >= self.window.start {
            self.begin.get_or_insert(counters);
        }
        if to >= self.window.end {
            self.end.get_or_insert(counters);
        }
    }

    fn answer(&mut self, done: Done) {
        let Done { client, arrived, at, on_device, preempted } = done;
        let asking = &mut self.clients[client];
        let from = asking.under_way.iter().position(|(_, submitted, _)| *submitted == arrived);
        let (caller, _, sent) = asking.under_way.remove(from.expect("what is done was under way"));
        let reply = Reply {
            queue: on_device.map(|(begin, _)| begin.since(sent)),
            compute: on_device.map(|(begin, end)| end.since(begin)),
            first_block: on_device.map(|(begin, _)| begin.since(arrived)),
            preempted,
            ..Reply::default()
        };
        self.answers.push(Answered { client, caller, at, answer: Ok(reply) });
        if let Some((caller, sent)) = self.clients[client].waiting.pop_front() {
            self.submit(client, caller, sent);
        }
    }
}

impl Served for Playing<'_> {
    fn send(&mut self, asked: Asked) {
        let Asked { client, caller, sent, .. } = asked;
        let asking = &mut self.clients[client];
        if asking.one_by_one && !asking.under_way.is_empty() {
            asking.waiting.push_back((caller, sent));
        } else {
            self.submit(client, caller, sent);
        }
    }

    fn next_event(&mut self) -> Option<Nanos> {
        self.settle();
        self.machine.next_event()
    }

    fn run_until(&mut self, until: Nanos) -> Vec<Answered> {
        let mut done = Vec::new();
        while let Some(at) = self.next_event().filter(|&at| at <= until) {
            self.pass(at);
            self.machine.advance(at, &mut done);
            done.drain(..).for_each(|done| self.answer(done));
            self.machine.go_on();
        }
        self.pass(until);
        self.machine.advance(until, &mut done);
        done.into_iter().for_each(|done| self.answer(done));
        std::mem::take(&mut self.answers)
    }
}
