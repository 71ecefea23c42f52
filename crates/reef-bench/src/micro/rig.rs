//! An engine on a fresh device with benchmark models, and the loads that parts put on it.

use std::sync::Arc;
use std::time::Duration;

use reef_base::{Class, Level, ModelKey};
use reef_device::Scheme;
use reef_engine::{Engine, EngineOptions, ModelSettings, ModelSource, ModelSpec};
use reef_plan::{SyntheticStage, synthetic_plan};
use reef_zoo::{Model, Variant};

use super::{Bench, DeviceRequest};
use crate::callers::SessionCaller;
use crate::error::BenchError;
use crate::load::ClosedLoop;

/// Callers of a saturating load: with two, the device has the next inference before the last one's caller
/// wakes.
const SATURATING_CALLERS: usize = 2;

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
        let device = self.device(DeviceRequest { cus, first_core, scheme: Scheme::Reset })?;
        Ok(Rig { engine: Engine::new(device, EngineOptions::default())? })
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
    /// Loads a real-time model of synthetic stages.
    pub(super) fn load_synthetic(&self, name: &str, stages: &[SyntheticStage]) -> Result<(), BenchError> {
        let plan = synthetic_plan(name, self.engine.capabilities().target, 1, stages)?;
        let settings = ModelSettings::real_time(Level::TOP);
        self.engine.load_plan(key(name), settings, Arc::new(plan))?;
        Ok(())
    }

    /// Keeps the device busy with `model` until the answer is stopped or dropped.
    pub(super) fn saturate(&self, model: Model) -> Result<ClosedLoop, BenchError> {
        Ok(ClosedLoop::start(SessionCaller::several(&self.engine, model.name(), SATURATING_CALLERS)?))
    }
}

fn key(name: &str) -> ModelKey {
    ModelKey { name: name.to_string(), version: "1".to_string() }
}
