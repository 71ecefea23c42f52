//! How models come and go while others run. Their states stand in `pool`.

use std::sync::Arc;

use reef_base::{ModelKey, Nanos, limits};
use reef_device::DeviceError;
use reef_sched::{Drain, ModelId};

use crate::ahead::{compile_ahead, compile_families};
use crate::cold::{ColdJob, ColdWork};
use crate::core::Core;
use crate::error::{InferError, LoadError};
use crate::family;
use crate::fault::{Foreign, contain, log};
use crate::model::{ModelInfo, ModelSettings, Queued};
use crate::place::{NoPlace, choose};
use crate::pool::{Group, Model, named};
use crate::shared::Shared;
use crate::source::PlanSource;

/// Loads a model whose source is made by `open`, on the caller's thread.
pub(crate) fn load(
    shared: &Shared,
    key: ModelKey,
    settings: ModelSettings,
    open: impl FnOnce() -> Result<Arc<dyn PlanSource>, LoadError>,
) -> Result<ModelInfo, LoadError> {
    check_settings(&key, &settings)?;
    if shared.is_closed() {
        return Err(LoadError::ShuttingDown);
    }
    if let Some(fault) = shared.fault() {
        return Err(LoadError::Failed(fault));
    }
    let sites = shared.sites();
    let lanes = shared.registry.reserve(&key, &settings, sites.len(), |occupied| {
        choose(&sites, occupied, &settings).map_err(|why| no_place(&key, why))
    })?;
    let reserved = Reserved { shared, key: key.clone(), published: false };
    // Importers and plan sources are foreign code.
    let make = || -> Result<Arc<Group>, LoadError> {
        let source = Foreign::from(open()?);
        let group = Group::new(key.clone(), settings, source, &lanes);
        // The first part of a split model brings the others along.
        let whole = if group.passages.is_some() { 1 } else { group.replicas.len() };
        group.replicas[..whole].iter().try_for_each(|model| {
            compile_ahead(shared, model)?;
            compile_families(shared, model)
        })?;
        Ok(group)
    };
    let group = contain(make).map_err(|what| LoadError::Panicked { key: key.clone(), what })??;
    reserved.publish(group)
}

fn no_place(key: &ModelKey, why: NoPlace) -> LoadError {
    match why {
        NoPlace::Settings(reason) => LoadError::Settings { key: key.clone(), reason },
        NoPlace::Out => {
            let source = DeviceError::Poisoned("every device that the model may be on".into());
            LoadError::Device { key: key.clone(), source }
        }
    }
}

/// Takes a model out of service and waits for its last request.
pub(crate) fn unload(
    shared: &Shared,
    name: &str,
    version: Option<&str>,
    queued: Queued,
) -> Result<(), LoadError> {
    let unknown = || LoadError::UnknownModel(named(name, version));
    let group = shared.registry.find(name, version).map_err(|_| unknown())?;
    if !group.begin_unload() {
        return Err(unknown());
    }
    let drain = match queued {
        Queued::Finish => Drain::Finish,
        Queued::Refuse => Drain::Refuse,
    };
    let ends = |job: &ColdJob| job.begins() || matches!(job.work, ColdWork::LookAgain);
    let own = |job: &ColdJob| Arc::ptr_eq(&job.model.key, &group.key) && ends(job);
    shared.end_cold(|job| own(job).then(|| InferError::Unloading((*group.key).clone())));
    for model in &group.replicas {
        shared.enter(model.lane, |core, now, out| match model.is_split() && model.part > 0 {
            false => core.drain_model(now, model.id(), drain, out),
            // What has begun comes here and ends.
            true => core.end_unserved_of(now, model.id(), out),
        });
    }
    let passed = || group.is_passed_by(None);
    for model in &group.replicas {
        let idle = |core: &Core| !passed() && core.sched.is_model_idle(model.id());
        shared.wait_until(model.lane, Nanos::MAX, idle);
    }
    for model in &group.replicas {
        let removed = shared.lanes[model.lane].core().remove_model(model.id());
        if !removed {
            let key = &group.key;
            log(|| tracing::error!(model = %key, "unloaded with requests left: virtual time stands still"));
        }
        model.close();
    }
    shared.registry.remove(&group.key);
    Ok(())
}

/// A name that is taken until it is published or dropped.
struct Reserved<'a> {
    shared: &'a Shared,
    key: ModelKey,
    published: bool,
}

impl Reserved<'_> {
    fn publish(mut self, group: Arc<Group>) -> Result<ModelInfo, LoadError> {
        let mut added = Added { shared: self.shared, models: Vec::new() };
        for model in &group.replicas {
            let id = self.add(model)?;
            model.set_id(id);
            added.models.push((model.lane, id));
        }
        added.models.clear();
        let info = group.info(&self.shared.names);
        self.shared.registry.publish(group);
        self.published = true;
        Ok(info)
    }

    /// Tells the scheduler of the model's device.
    fn add(&self, model: &Model) -> Result<ModelId, LoadError> {
        let mut core = self.shared.lanes[model.lane].core();
        if self.shared.is_closed() {
            return Err(LoadError::ShuttingDown);
        }
        // A replica whose device has failed meanwhile takes no requests; the others do.
        if let Some(fault) =
            core.fault().filter(|fault| !model.is_replicated() || **fault != InferError::DeviceFault)
        {
            return Err(LoadError::Failed(fault.clone()));
        }
        let rows_max = model.settings.batch_rows_max.unwrap_or(0);
        let added = core.add_model(model.key.clone(), model.options(), rows_max);
        let id = added.ok_or(LoadError::TooManyModels(limits::MODELS_MAX))?;
        if let Some(batching) = &model.settings.batching {
            for (number, family) in model.families().iter().enumerate() {
                core.sched.set_family(id, number as u16, &family.sizes(batching));
            }
        }
        Ok(id)
    }
}

/// Replicas that schedulers know; they forget them unless all do.
struct Added<'a> {
    shared: &'a Shared,
    models: Vec<(usize, ModelId)>,
}

impl Drop for Added<'_> {
    fn drop(&mut self) {
        for &(lane, id) in &self.models {
            self.shared.lanes[lane].core().remove_model(id);
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.published {
            self.shared.registry.remove(&self.key);
        }
    }
}

fn check_settings(key: &ModelKey, settings: &ModelSettings) -> Result<(), LoadError> {
    let fail = |reason: String| Err(LoadError::Settings { key: key.clone(), reason });
    if settings.weight == 0 {
        return fail("the weight must be at least 1".into());
    }
    if !(1..=limits::QUEUE_LEN_MAX).contains(&settings.queue_len) {
        return fail(format!("the queue length must be 1 to {}", limits::QUEUE_LEN_MAX));
    }
    if let Err(reason) = family::check_settings(settings) {
        return fail(reason);
    }
    if settings.in_flight_max == Some(0) {
        return fail("at least one task must be allowed in flight".into());
    }
    if settings.shapes.len().max(settings.values.len()) > limits::PLANS_PER_MODEL_MAX {
        return fail(format!("at most {} sets of shapes or values", limits::PLANS_PER_MODEL_MAX));
    }
    Ok(())
}
