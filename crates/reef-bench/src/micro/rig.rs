//! An engine on a fresh device with benchmark models, and the loads that parts put on it.

use std::sync::Arc;
use std::time::Duration;

use reef_base::{Class, ModelKey};
use reef_device::{Padding, Scheme};
use reef_engine::{Engine, EngineOptions, ModelSettings, ModelSource, ModelSpec, Session, SessionOptions};
use reef_load::{Background, Callers, PlayedClient, Run, RunClient};
use reef_plan::{SyntheticStage, synthetic_plan};
use reef_zoo::{Model, Variant};

use super::{Bench, DeviceRequest};
use crate::callers::SessionCaller;
use crate::error::BenchError;

/// Callers of a saturating load: with two, the device has the next inference before the last one's caller
/// wakes.
pub(super) const SATURATING_CALLERS: usize = 2;

/// The schemes that take best-effort work.
pub(super) const SHARING: [Scheme; 4] = [Scheme::Sequential, Scheme::Concurrent, Scheme::Wait, Scheme::Reset];

/// An engine of its own; shut down at once when dropped.
pub(super) struct Rig {
    pub(super) engine: Engine,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.engine.shutdown(Duration::ZERO);
    }
}

impl Bench<'_> {
    /// An engine on `cus` compute units from core `first_core` on, under `reset`.
    pub(super) fn rig(&self, cus: usize, first_core: usize) -> Result<Rig, BenchError> {
        let request = DeviceRequest { first_core, ..DeviceRequest::new(cus, Scheme::Reset) };
        self.rig_with(request, EngineOptions::default())
    }

    /// An engine with its compute units on all cores and as many best-effort tasks on its board as there is
    /// room for, `tasks` at most; and how many that is.
    pub(super) fn wide_rig(&self, tasks: usize) -> Result<(Rig, usize), BenchError> {
        let request = DeviceRequest::new(self.options.cus, Scheme::Reset);
        let rig = self.rig_with(request, EngineOptions { best_effort_slots: tasks, ..Default::default() })?;
        let device = rig.engine.capabilities();
        let room = device.slots.saturating_sub(device.slots_real_time).min(tasks);
        Ok((rig, room))
    }

    /// An engine with its compute units on all cores and this rule of padding.
    pub(super) fn padded_rig(&self, padding: Padding) -> Result<Rig, BenchError> {
        let request = DeviceRequest { padding, ..DeviceRequest::new(self.options.cus, Scheme::Reset) };
        self.rig_with(request, EngineOptions::default())
    }

    /// An engine on a device of which a best-effort task has so many launches queued at a time.
    pub(super) fn queued_rig(&self, outstanding: usize) -> Result<Rig, BenchError> {
        let outstanding = Some(outstanding);
        let request = DeviceRequest { outstanding, ..DeviceRequest::new(self.options.cus, Scheme::Reset) };
        self.rig_with(request, EngineOptions::default())
    }

    fn rig_with(&self, request: DeviceRequest, options: EngineOptions) -> Result<Rig, BenchError> {
        Ok(Rig { engine: Engine::new(self.device(request)?, options)? })
    }

    /// The variant of a model that this run measures.
    pub(super) fn variant(&self) -> Variant {
        self.pick(Variant::full(), Variant::tiny())
    }

    /// Loads a model of the zoo under its name.
    pub(super) fn load(&self, rig: &Rig, model: Model, class: Class) -> Result<(), BenchError> {
        self.load_variant(rig, model, &self.variant(), class)
    }

    /// Loads a variant of a model of the zoo under the model's name.
    pub(super) fn load_variant(
        &self,
        rig: &Rig,
        model: Model,
        variant: &Variant,
        class: Class,
    ) -> Result<(), BenchError> {
        self.progress.phase(format!("building {model}"));
        let source = ModelSource::Bytes(reef_zoo::build(model, variant)?);
        self.progress.phase(format!("loading {model}"));
        let settings = ModelSettings { class, ..ModelSettings::default() };
        rig.engine.load(ModelSpec { key: key(model.name()), source, settings })?;
        Ok(())
    }
}

impl Rig {
    /// Loads a model of synthetic stages.
    pub(super) fn load_synthetic(
        &self,
        name: &str,
        class: Class,
        stages: &[SyntheticStage],
    ) -> Result<(), BenchError> {
        let plan = synthetic_plan(name, self.engine.capabilities().target, 1, stages)?;
        let settings = ModelSettings { class, ..ModelSettings::default() };
        self.engine.load_plan(key(name), settings, Arc::new(plan))?;
        Ok(())
    }

    /// Plays `run` with sessions of the clients' models, of the class and level that these were loaded with.
    /// An error if a request in the measured window fails.
    pub(super) fn play(&self, bench: &Bench<'_>, run: &Run) -> Result<Vec<PlayedClient>, BenchError> {
        let several =
            |client: &RunClient| SessionCaller::several(&self.engine, &client.model, client.in_flight);
        let mut callers: Callers = run.clients.iter().map(several).collect::<Result<_, _>>()?;
        let play = || reef_load::play(run, &mut callers, || (), || ()).0;
        let played = bench.progress.during(run.warm_up + run.measured, play);
        for (client, played) in run.clients.iter().zip(&played) {
            if let Some(why) = played.failure() {
                return Err(BenchError::NoSamples(format!("{}: {why}", client.name)));
            }
        }
        Ok(played)
    }

    /// Keeps the device busy with `model` until the answer is stopped or dropped.
    pub(super) fn saturate(&self, model: Model) -> Result<Background, BenchError> {
        self.clients(model.name(), SATURATING_CALLERS)
    }

    /// `count` clients that call `model` without a break until the answer is stopped or dropped.
    pub(super) fn clients(&self, model: &str, count: usize) -> Result<Background, BenchError> {
        Ok(Background::start(SessionCaller::several(&self.engine, model, count)?))
    }

    /// A session of `model` with its own settings, for who has to know more than a caller says.
    pub(super) fn session(&self, model: &str) -> Result<Session, BenchError> {
        self.engine.session(model, &SessionOptions::default()).map_err(BenchError::infer(model))
    }

    /// Whether there is a task on the device.
    pub(super) fn is_busy(&self) -> bool {
        let counters = self.engine.device().counters();
        counters.submitted > counters.completed
    }
}

fn key(name: &str) -> ModelKey {
    ModelKey { name: name.to_string(), version: "1".to_string() }
}
