//! How models come and go while others run. Their states stand in `pool`.
//!
//! A model takes the place of another one of the same name and version without a gap:
//!
//! | step | the old one | the new one |
//! |---|---|---|
//! | [`prepare`] | serves | is compiled and loaded; schedulers know it, nobody finds it; it may run |
//! | that fails | goes on serving | is dropped |
//! | [`publish`] | is closed to visitors; its counts are the new one's | has the name: one write |
//! | [`retire`] | waits for its visitors, then for its queue and the device; its memory is free | serves |
//!
//! A request is with the one that it found, from its check to its answer: who found the old one is a visitor
//! (`visit`) until the scheduler has the request, and the scheduler refuses nothing before the last visitor
//! has left. So nothing is refused, run twice or answered by both. Only one new one is made for a place at a
//! time; old ones may be many.

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
use crate::pool::{Group, Model, Reservation, named};
use crate::shared::Shared;
use crate::source::PlanSource;

/// Loads a model whose source is made by `open`, on the caller's thread: devices and schedulers know it then,
/// and nobody finds it. With `replace` it may take the place of one that there is.
pub(crate) fn prepare(
    shared: &Shared,
    key: ModelKey,
    settings: ModelSettings,
    replace: bool,
    open: impl FnOnce() -> Result<Arc<dyn PlanSource>, LoadError>,
) -> Result<(Arc<Group>, Option<Arc<Group>>), LoadError> {
    check_settings(&key, &settings)?;
    if shared.is_closed() {
        return Err(LoadError::ShuttingDown);
    }
    if let Some(fault) = shared.fault() {
        return Err(LoadError::Failed(fault));
    }
    let sites = shared.sites();
    let reservation = shared.registry.reserve(&key, &settings, sites.len(), replace, |occupied| {
        choose(&sites, occupied, &settings).map_err(|why| no_place(&key, why))
    })?;
    let Reservation { lanes, old } = reservation;
    let reserved = Reserved { shared, key: key.clone(), old, kept: false };
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
    reserved.schedule(&group)?;
    Ok((group, reserved.keep()))
}

/// A model that was prepared takes requests from now on. What had its name until now is not found any more,
/// and is to be [ended](end), unless somebody does that already.
pub(crate) fn publish(
    shared: &Shared,
    group: &Arc<Group>,
) -> Result<(ModelInfo, Option<Arc<Group>>), LoadError> {
    if shared.is_closed() {
        return Err(LoadError::ShuttingDown);
    }
    if let Some(fault) = shared.fault() {
        return Err(LoadError::Failed(fault));
    }
    let info = group.info(&shared.names);
    for model in &group.replicas {
        shared.lanes[model.lane].core().begin_counting(model.id());
    }
    // Whoever counts finds the sums of both with the one or the other.
    let succeed = |old: &Arc<Group>| {
        for (number, lane) in shared.lanes.iter().enumerate() {
            let (old, new) = (old.on(number), group.on(number));
            match (old, new) {
                (Some(old), Some(new)) => lane.core().succeed(old.id(), &old.key, new.id()),
                (Some(old), None) => lane.core().leave_device(old.id(), &old.key),
                (None, Some(new)) => lane.core().come_back(&new.key, new.id()),
                (None, None) => {}
            }
        }
    };
    let old = shared.registry.publish(group.clone(), succeed);
    let old = old.filter(|old| old.begin_unload());
    Ok((info, old))
}

/// Waits for the requests of a model whose place another one has, those that wait for a plan among them, and
/// frees it.
pub(crate) fn retire(shared: &Shared, group: &Arc<Group>) {
    shared.wait_for_visitors(group);
    end(shared, group, Drain::Finish);
}

/// Gives up a model that was prepared and not published.
pub(crate) fn abandon(shared: &Shared, group: &Arc<Group>, old: Option<&Arc<Group>>) {
    group.begin_unload();
    end(shared, group, Drain::Refuse);
    match old {
        Some(old) => old.end_replace(),
        None => shared.registry.release(&group.key),
    }
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
    if queued == Queued::Finish {
        shared.wait_for_visitors(&group);
    }
    end(shared, &group, drain);
    shared.lanes.iter().for_each(|lane| lane.core().forget_departed(&group.key));
    shared.registry.remove(&group);
    Ok(())
}

/// Drains a model that nobody enters any more, waits for its last request and frees what it has.
fn end(shared: &Shared, group: &Group, drain: Drain) {
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
}

/// A name, or the place of another model, that is taken until it is kept or dropped.
struct Reserved<'a> {
    shared: &'a Shared,
    key: ModelKey,
    old: Option<Arc<Group>>,
    kept: bool,
}

impl Reserved<'_> {
    /// Tells every scheduler that is to serve the model.
    fn schedule(&self, group: &Group) -> Result<(), LoadError> {
        let mut added = Added { shared: self.shared, models: Vec::new() };
        for model in &group.replicas {
            let id = self.add(model)?;
            model.set_id(id);
            added.models.push((model.lane, id));
        }
        added.models.clear();
        Ok(())
    }

    /// It is the caller's from now on.
    fn keep(mut self) -> Option<Arc<Group>> {
        self.kept = true;
        self.old.take()
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
        match (&self.old, self.kept) {
            (_, true) => {}
            (Some(old), false) => old.end_replace(),
            (None, false) => self.shared.registry.release(&self.key),
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
