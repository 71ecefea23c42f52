//! Does what a script says, and looks at every step whether what must hold does.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use reef_base::{Class, Clock, Level, Nanos, VirtualClock};
use reef_device::dummy::DummyOptions;
use reef_device::{Device, Scheme};
use reef_engine::*;
use reef_plan::{Target, synthetic_output};

use super::chaotic::{Chaotic, mark};
use super::doubles::wheel::Wheel;
use super::doubles::{self, AnyLength, rows};
use super::ledger::{Ledger, RETRY_AFTER, Terms};
use super::script::{Action, Ask, DeviceSpec, Kind, NAMES, Script};

/// What the longest block takes.
const BLOCK: Nanos = Nanos::from_micros(10);
/// How often it is looked at who waits.
const TICK: Nanos = Nanos::from_micros(100);
/// What a reset takes.
const RESET: Nanos = Nanos::from_micros(35);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    Refused(String),
    /// Its client left before it had an answer.
    Left,
}

/// A request: what it asked, and what became of it.
struct Asked {
    number: usize,
    model: Loaded,
    input: Vec<u8>,
    /// When it arrived.
    at: Nanos,
    /// When it must have ended.
    end_by: Option<Nanos>,
    deadline: Option<Nanos>,
    timeout: bool,
    future: Option<InferFuture>,
}

/// A model as it was when somebody asked it: each load is another one.
#[derive(Clone)]
struct Loaded {
    load: usize,
    /// Its first load: counts go on when another one takes its place.
    line: usize,
    kind: Kind,
    settings: ModelSettings,
    /// Numbers of the devices that it is on.
    devices: Vec<usize>,
}

/// What has happened that explains refusals.
#[derive(Default)]
struct Happened {
    /// How many requests there had been when a device was lost, by device.
    lost: BTreeMap<usize, usize>,
    rt_only: bool,
    unloaded: bool,
}

/// A run of a script.
pub struct Play<'a> {
    script: &'a Script,
    trace: bool,
    clock: VirtualClock,
    engine: Engine,
    devices: Vec<Arc<Chaotic>>,
    ledger: Ledger,
    /// The last time that nobody could do anything.
    jump: (Nanos, Nanos),
    models: BTreeMap<usize, Loaded>,
    loads: usize,
    waiting: Vec<Asked>,
    happened: Happened,
    /// Time passes event by event, so that ends are heard of at their time.
    is_exact: bool,
    /// When which request ended how: the whole outcome.
    pub ends: Vec<(Nanos, usize, End)>,
    asked: usize,
    /// Of each line, requests that became the model's, and how many of them got outputs, or had left.
    counts: BTreeMap<usize, [u64; 3]>,
}

impl<'a> Play<'a> {
    /// Plays a script to its end. Panics where something does not hold.
    pub fn run(script: &'a Script, trace: bool) -> Play<'a> {
        let mut play = Play::new(script, trace);
        for (number, step) in script.steps.iter().enumerate() {
            play.pass(play.engine.now() + step.after);
            if trace {
                println!("{:>12} step {number}: {:?}", play.engine.now().0, step.action);
            }
            play.act(&step.action);
            play.look();
        }
        play.finish();
        play
    }

    fn new(script: &'a Script, trace: bool) -> Play<'a> {
        let clock = VirtualClock::default();
        let device = |(index, spec): (usize, &DeviceSpec)| {
            let options = DummyOptions {
                clock: clock.clone(),
                cus: spec.cus,
                slots: spec.slots,
                slots_real_time: spec.slots_real_time,
                memory_bytes: spec.memory_bytes,
                ..DummyOptions::default()
            };
            Arc::new(Chaotic::new(options, spec.chaos, script.seed ^ index as u64))
        };
        let devices: Vec<Arc<Chaotic>> = script.devices.iter().enumerate().map(device).collect();
        let pool = devices.iter().map(|device| device.clone() as Arc<dyn Device>).collect();
        let least = script.devices.iter().map(|spec| spec.slots).min().expect("there is a device");
        let best_effort_slots = script.best_effort_slots.min(least);
        let places = script.devices.iter().map(|spec| {
            let shared = spec.slots - spec.slots_real_time;
            (least, best_effort_slots.min(shared).min(least - 1))
        });
        let options = EngineOptions {
            board_slots: least,
            best_effort_slots,
            compile_queue_len: script.compile_queue_len,
            ..EngineOptions::default()
        };
        Play {
            script,
            trace,
            clock,
            engine: Engine::over(doubles::named(pool), options).expect("the options are right"),
            ledger: Ledger::new(places),
            devices,
            jump: (Nanos::ZERO, Nanos::ZERO),
            models: BTreeMap::new(),
            loads: 0,
            waiting: Vec::new(),
            happened: Happened::default(),
            is_exact: false,
            ends: Vec::new(),
            asked: 0,
            counts: BTreeMap::new(),
        }
    }

    /// Lets time pass, and hears of every end at its time.
    fn pass(&mut self, until: Nanos) {
        self.is_exact = true;
        loop {
            // While somebody waits it is looked at what there is between events, too: one may be missing.
            let tick = self.engine.now() + TICK;
            let tick = Some(tick).filter(|&tick| tick < until && !self.waiting.is_empty());
            let event = self.engine.next_event().filter(|&next| next <= until);
            let next = [event, tick].into_iter().flatten().min();
            self.engine.run_until(next.unwrap_or(until));
            self.hear();
            self.check_boards();
            if next.is_none() {
                self.is_exact = false;
                return;
            }
        }
    }

    /// Answers that are there.
    fn hear(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain_mut(|asked| {
            let future = asked.future.as_mut().expect("it has not ended");
            let Poll::Ready(answer) = Pin::new(future).poll(&mut context) else { return true };
            asked.future = None;
            self.ended(asked, answer);
            false
        });
        self.waiting.extend(waiting);
    }

    fn ended(&mut self, asked: &Asked, answer: Result<InferResponse, InferError>) {
        let number = asked.number;
        if let Some(end_by) = asked.end_by.filter(|_| self.is_exact) {
            let (from, to) = self.jump;
            let end_by = if from <= end_by && end_by < to { to } else { end_by };
            assert!(
                self.engine.now() <= end_by,
                "request {number} ends at {}, not by {}",
                self.engine.now().0,
                end_by.0
            );
        }
        let end = match answer {
            Ok(response) => {
                self.check_answer(asked, &response);
                self.counts.entry(asked.model.line).or_default()[1] += 1;
                End::Done
            }
            Err(error) => {
                self.check_refusal(asked, &error);
                if matches!(error, InferError::Shapes(_)) {
                    // Too large for the device: it never was the model's.
                    self.counts.entry(asked.model.line).or_default()[0] -= 1;
                }
                End::Refused(error.to_string())
            }
        };
        if self.trace {
            println!("{:>12} request {number}: {end:?}", self.engine.now().0);
        }
        self.ends.push((self.engine.now(), number, end));
    }

    /// The outputs are what the model gives undisturbed, and in time.
    fn check_answer(&self, asked: &Asked, response: &InferResponse) {
        let number = asked.number;
        assert!(!asked.is_bad(), "request {number}: its rows are bad, and it is done");
        let expected = expected(&asked.model, &asked.input, self.engine.capabilities().target);
        assert!(
            response.output("y").expect("it has one").data == expected,
            "request {number}: other outputs"
        );
        let took = response.timings.total;
        // Time passes within an unload, before anybody hears.
        assert!(took <= self.engine.now().since(asked.at), "request {number}: it took {took}");
        self.check_blocks(asked, response);
        if let Some(deadline) = asked.deadline {
            assert!(took <= deadline || response.late, "request {number}: late, and does not say so");
        }
    }

    /// All blocks of the model ran, those that were done once, where no other request was in the same task.
    fn check_blocks(&self, asked: &Asked, response: &InferResponse) {
        let target = self.engine.capabilities().target;
        let expected = match asked.model.kind {
            Kind::Plan { stages } => doubles::plan_for(target, "plan", 0, stages).blocks(),
            Kind::AnyLength => (asked.input.len() / 64) as u64,
            Kind::Wheel { ends } => Wheel::new(target, ends).answer(&asked.input).1,
            Kind::Rows { .. } if asked.model.settings.batching.is_none() => {
                (asked.input.len() / rows::ROW) as u64
            }
            Kind::Rows { .. } => return,
        };
        let counters = response.counters;
        let done = counters.blocks_done - counters.blocks_rerun;
        assert_eq!(done, expected, "request {}: blocks", asked.number);
    }

    /// Whether the loss of a device explains a request's end: it was with that device then, or every device
    /// of its model is lost.
    fn is_lost(&self, asked: &Asked) -> bool {
        let lost = &self.happened.lost;
        let model = &asked.model;
        let all = model.devices.iter().all(|device| lost.contains_key(device));
        let then =
            model.devices.iter().any(|device| lost.get(device).is_some_and(|&had| asked.number <= had));
        let apart = model.settings.placement == Placement::Split;
        all || then || apart && model.devices.iter().any(|device| lost.contains_key(device))
    }

    /// What was refused has a reason that there is.
    fn check_refusal(&self, asked: &Asked, error: &InferError) {
        let has_memory_limit = self.script.devices.iter().any(|spec| spec.memory_bytes.is_some());
        let Happened { rt_only, unloaded, .. } = self.happened;
        let lost = self.is_lost(asked);
        let explained = match error {
            InferError::DeadlinePassed | InferError::DeadlineUnreachable { .. } => asked.deadline.is_some(),
            InferError::Timeout => asked.timeout,
            InferError::QueueFull { .. } => true,
            InferError::NotServed { .. } => rt_only,
            InferError::DeviceFault => lost,
            InferError::Unloading(_) => unloaded,
            InferError::NoPlan(_) => has_memory_limit || lost || unloaded,
            InferError::NoMemory | InferError::Shapes(_) => has_memory_limit,
            InferError::Failed(_) => asked.is_bad(),
            InferError::CompileQueueFull => asked.model.kind == Kind::AnyLength,
            _ => false,
        };
        assert!(explained, "request {}: {error}", asked.number);
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Load { name, kind, settings, replace } => self.load(*name, *kind, settings, *replace),
            Action::Unload { name, finish } => self.unload(*name, *finish),
            Action::Submit { name, count, ask } => (0..*count).for_each(|_| self.submit(*name, *ask)),
            Action::Flood { count, ask } => {
                (0..*count * NAMES.len()).for_each(|each| self.submit(each % NAMES.len(), *ask));
            }
            Action::Jump(by) => {
                let from = self.clock.now();
                self.clock.advance_to(from + *by);
                self.jump = (from, self.clock.now());
                self.devices.iter().for_each(|device| device.jumped(from));
            }
            Action::Cancel { which } if !self.waiting.is_empty() => {
                let asked = self.waiting.remove(which % self.waiting.len());
                self.counts.entry(asked.model.line).or_default()[2] += 1;
                self.ends.push((self.engine.now(), asked.number, End::Left));
            }
            Action::Scheme(scheme) => {
                self.happened.rt_only |= *scheme == Scheme::RtOnly;
                self.engine.set_scheme(*scheme);
            }
            Action::Poison { device } => {
                self.happened.lost.entry(*device).or_insert(self.asked);
                self.devices[*device].poison("planted");
            }
            Action::Cancel { .. } | Action::Wait => {}
        }
    }

    fn load(&mut self, name: usize, kind: Kind, settings: &ModelSettings, replace: bool) {
        self.loads += 1;
        let target = self.engine.capabilities().target;
        let source = source(kind, self.loads, target);
        let key = doubles::key(NAMES[name]);
        let loaded = if replace {
            let prepared = self.engine.prepare_source(key, settings.clone(), source);
            prepared.and_then(Prepared::publish).map(|published| published.info)
        } else {
            self.engine.load_source(key, settings.clone(), source)
        };
        self.hear();
        if self.trace {
            let outcome = loaded.as_ref().map(|info| &info.devices);
            println!("{:>12} load {}: {outcome:?}", self.engine.now().0, self.loads);
        }
        if let Ok(info) = loaded {
            let line = self.models.get(&name).map_or(self.loads, |old| old.line);
            let number = |name: &String| name.strip_prefix("d:").and_then(|number| number.parse().ok());
            let devices =
                info.devices.iter().map(|name| number(name).expect("devices have numbers")).collect();
            let settings = settings.clone();
            self.models.insert(name, Loaded { load: self.loads, line, kind, settings, devices });
        }
    }

    fn unload(&mut self, name: usize, finish: bool) {
        self.happened.unloaded = true;
        let queued = if finish { Queued::Finish } else { Queued::Refuse };
        let unloaded = self.engine.unload(NAMES[name], None, queued);
        self.hear();
        assert_eq!(unloaded.is_ok(), self.models.remove(&name).is_some(), "{unloaded:?}");
    }

    fn submit(&mut self, name: usize, ask: Ask) {
        let Some(model) = self.models.get(&name).cloned() else {
            let error = self.engine.submit(&doubles::request(NAMES[name], &[0; 64])).unwrap_err();
            assert!(matches!(error, InferError::UnknownModel(_)), "{error}");
            return;
        };
        let mut input = input(model.kind, &model.settings, ask.fill, ask.size);
        mark(&mut input, self.asked as u32 + 1);
        let request = match model.kind {
            Kind::Rows { .. } => rows::ask(NAMES[name], &input),
            _ => doubles::request(NAMES[name], &input),
        };
        let Ask { class, priority, deadline, timeout, .. } = ask;
        let now = self.engine.now();
        let at = Nanos(now.0.saturating_sub(ask.ago.0));
        let request = InferRequest { class, priority, deadline, timeout, arrival: Some(at), ..request };
        let Some(class) = class_of(model.settings.class, &ask) else {
            let error = self.engine.submit(&request).unwrap_err();
            assert!(matches!(error, InferError::NotAllowed { .. }), "{ask:?}: {error}");
            return;
        };
        self.asked += 1;
        let deadline = deadline.or(model.settings.deadline);
        self.ledger.sent(Terms {
            class,
            arrival: at,
            sent: now,
            deadline: deadline.map(|deadline| at + deadline),
            load: model.load,
            rows: input.len() / rows::ROW,
            settings: model.settings.clone(),
            is_plain: model.is_plain(),
        });
        let mut asked = Asked {
            number: self.asked,
            input: input.clone(),
            at,
            end_by: deadline.map(|deadline| (at + deadline).max(now)),
            deadline,
            timeout: timeout.or(model.settings.timeout).is_some(),
            future: None,
            model,
        };
        self.counts.entry(asked.model.line).or_default()[0] += 1;
        match self.engine.submit(&request) {
            Ok(future) => {
                let (number, passed) = (asked.number, asked.end_by.is_some_and(|end_by| end_by <= now));
                asked.future = Some(future);
                self.waiting.push(asked);
                if passed {
                    self.hear();
                    assert!(!self.left().contains(&number), "request {number} came late, and waits");
                }
            }
            Err(error) => self.ended(&asked, Err(error)),
        }
        self.book();
    }

    /// What holds at every moment.
    fn look(&mut self) {
        self.hear();
        for (device, spec) in self.devices.iter().zip(&self.script.devices) {
            for memory in device.memory() {
                let used = memory.weights + memory.working;
                assert!(spec.memory_bytes.is_none_or(|limit| used <= limit), "{used} bytes");
            }
            let counters = device.counters();
            assert!(counters.completed <= counters.submitted);
        }
        self.count();
        self.check_boards();
    }

    /// Hears of what passed between the engine and its devices.
    fn book(&mut self) {
        for (index, device) in self.devices.iter().enumerate() {
            let here = self.waiting.iter().filter(|asked| asked.model.devices[..] == [index]);
            let waiting: Vec<usize> = here.map(|asked| asked.number).collect();
            for (at, note) in device.notes() {
                self.ledger.note(index, at, note, &waiting);
            }
            self.ledger.check_shares(index, &waiting);
        }
    }

    /// Who is on the boards is there rightly, and nobody waits for a place that is free.
    fn check_boards(&mut self) {
        self.book();
        // What is due after a jump has not been done yet.
        if self.jump.1 == self.engine.now() {
            return;
        }
        for asked in &self.waiting {
            let settled = matches!(asked.model.kind, Kind::Plan { .. } | Kind::Rows { .. });
            let [device] = asked.model.devices[..] else { continue };
            if settled && self.devices[device].fault().is_none() {
                let (now, scheme) = (self.engine.now(), self.devices[device].scheme());
                let starved = self.ledger.starved(asked.number, device, now, scheme);
                assert!(!starved, "request {} waits, and there is a place for it", asked.number);
            }
        }
    }

    /// What the engine counts of each model is what happened to it.
    fn count(&self) {
        let stats = self.engine.stats();
        for (&name, model) in &self.models {
            let key = doubles::key(NAMES[name]);
            let counted = stats.models.iter().find(|stats| stats.key == key).expect("it is loaded");
            let mut sums = counted.real_time.clone();
            sums.merge(&counted.best_effort);
            let failures: u64 = sums.failures.iter().sum();
            let [asked, done, left] = self.counts.get(&model.line).copied().unwrap_or_default();
            let name = NAMES[name];
            // A task stays on the board for a while when its request has been answered.
            let all = sums.success + failures + sums.queued;
            // A request that passes from part to part waits nowhere on its way; whose client has left may be
            // done, and what was done may not have been heard of.
            assert!(all <= asked, "{name}: {all} of {asked} requests");
            assert!(sums.success >= done, "{name}: {} of {done} answers", sums.success);
            let unheard =
                self.waiting.iter().filter(|waiting| waiting.model.line == model.line).count() as u64;
            assert!(sums.success <= done + left + unheard, "{name}: {} of {done} answers", sums.success);
        }
    }

    /// Nothing new comes: everything ends, and in time.
    fn finish(&mut self) {
        self.engine.set_scheme(Scheme::Reset);
        self.look();
        self.pass(self.engine.now() + self.patience());
        self.look();
        assert!(self.waiting.is_empty(), "requests without an end: {:?}", self.left());
        assert!(self.engine.is_idle() || !self.happened.lost.is_empty(), "the engine is not idle");
        assert_eq!(self.engine.next_event(), None, "something is left to happen");
        assert_eq!(self.ends.len(), self.asked, "each request ends once");
        let mut numbers: Vec<usize> = self.ends.iter().map(|(_, number, _)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=self.asked).collect::<Vec<_>>(), "each request ends once");
        for device in &self.devices {
            let counters = device.counters();
            assert_eq!(counters.completed, counters.submitted);
            assert_eq!(device.complaints(), [""; 0], "of a device");
        }
        let stats = self.engine.stats();
        for model in &stats.models {
            let mut sums = model.real_time.clone();
            sums.merge(&model.best_effort);
            let failures: u64 = sums.failures.iter().sum();
            let name = NAMES.iter().position(|name| *name == model.key.name).expect("it is ours");
            let [asked, ..] = self.counts.get(&self.models[&name].line).copied().unwrap_or_default();
            assert_eq!((sums.pending(), sums.success + failures), (0, asked), "{}", model.key);
        }
    }

    /// How long everything may take when nothing new comes: as if each request had a device to itself one
    /// after the other, with all that may go wrong with it on the way.
    fn patience(&self) -> Nanos {
        let chaos = self.script.devices.iter().map(|spec| spec.chaos);
        let late = chaos.clone().map(|chaos| chaos.late_max.0).max().unwrap_or_default();
        // Refused by one of two, it is not so twenty times in a row.
        let refused = if chaos.clone().any(|chaos| chaos.refuses > 0) { 20 * RETRY_AFTER.0 } else { 0 };
        let target = self.engine.capabilities().target;
        let alone = |asked: &Asked| match asked.model.kind {
            Kind::Plan { stages } => doubles::plan_for(target, "plan", 0, stages).blocks() * BLOCK.0,
            Kind::AnyLength | Kind::Rows { .. } => 8 * BLOCK.0,
            Kind::Wheel { ends } => Wheel::new(target, ends).answer(&asked.input).1 * BLOCK.0,
        };
        let parts = |asked: &Asked| match asked.model.kind {
            Kind::Wheel { ends } => Wheel::new(target, ends).answer(&asked.input).1 / 8,
            _ => self.devices.len() as u64,
        };
        // Each that is urgent may throw away what a window holds, of all that are on its board.
        let thrown_away = 8 * 4 * 4 * BLOCK.0;
        let each = |asked: &Asked| alone(asked) + thrown_away + parts(asked) * (RESET.0 + late + refused);
        let held = Nanos::from_micros(500).0 + refused;
        let left = self.ledger.on_boards() as u64 * (12 * 4 * BLOCK.0 + late);
        Nanos(self.waiting.iter().map(|asked| each(asked) + held).sum::<u64>() + left + late + held)
    }

    fn left(&self) -> Vec<usize> {
        self.waiting.iter().map(|asked| asked.number).collect()
    }
}

impl Loaded {
    /// Whether each request is one task, on one device.
    fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plan { .. }) && self.devices.len() == 1
    }
}

impl Asked {
    /// Whether a row of it makes the task fail that it is in.
    fn is_bad(&self) -> bool {
        let bad = |row: &[u8]| row[0] == rows::BAD;
        self.model.kind == Kind::Rows { picky: true } && self.input.chunks(rows::ROW).any(bad)
    }
}

/// The class that a request has: what it asks for, if its model is as urgent; `None` where that is refused.
fn class_of(configured: Class, ask: &Ask) -> Option<Class> {
    let asked = ask.priority.checked_sub(1).map(|level| Level::new(level as u8).expect("a small one"));
    match (ask.class, asked) {
        (None, None) => Some(configured),
        (Some(ClassRequest::RealTime), None) => Some(configured).filter(|class| class.is_real_time()),
        (Some(ClassRequest::BestEffort), level) => level.is_none().then_some(Class::BestEffort),
        (_, Some(level)) => Some(Class::RealTime(level)).filter(|class| configured <= *class),
    }
}

fn source(kind: Kind, load: usize, target: Target) -> Arc<dyn PlanSource> {
    match kind {
        Kind::Plan { stages } => Arc::new(Fixed::new(load as u64, stages)),
        Kind::AnyLength => AnyLength::new(),
        Kind::Rows { picky: false } => rows::Rows::new(5),
        Kind::Rows { picky: true } => rows::Rows::tasted(5),
        Kind::Wheel { ends } => Arc::new(Wheel::new(target, ends)),
    }
}

/// A source of one plan for each device.
#[derive(Debug)]
struct Fixed {
    seed: u64,
    stages: usize,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
}

impl Fixed {
    fn new(seed: u64, stages: usize) -> Fixed {
        let info = |name: &str| {
            vec![TensorInfo { name: name.into(), dtype: DType::U8, texts: false, dims: vec![64] }]
        };
        Fixed { seed, stages, inputs: info("x"), outputs: info("y") }
    }
}

impl PlanSource for Fixed {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }
    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }
    fn compile(&self, _: &[Shape], cutter: &dyn reef_plan::Cutter) -> Result<Arc<Plan>, String> {
        Ok(doubles::plan_for(cutter.target(), "plan", self.seed, self.stages))
    }
}

fn input(kind: Kind, settings: &ModelSettings, fill: u8, size: usize) -> Vec<u8> {
    match kind {
        Kind::Plan { .. } | Kind::Wheel { .. } => vec![fill; 64],
        Kind::AnyLength => vec![fill; 64 * size],
        Kind::Rows { .. } => {
            let rows = size.min(settings.batch_rows_max.unwrap_or(size));
            rows::filled(&(0..rows).map(|row| fill.wrapping_add(row as u8)).collect::<Vec<_>>())
        }
    }
}

/// What the model gives when nobody disturbs it.
fn expected(model: &Loaded, input: &[u8], target: Target) -> Vec<u8> {
    match model.kind {
        Kind::Plan { stages } => {
            synthetic_output(&doubles::plan_for(target, "plan", model.load as u64, stages), input)
        }
        Kind::AnyLength => {
            synthetic_output(&AnyLength::plan(input.len(), target).expect("it was made"), input)
        }
        Kind::Rows { .. } => rows::expected(input),
        Kind::Wheel { ends } => Wheel::new(target, ends).answer(input).0,
    }
}
