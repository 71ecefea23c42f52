//! How models come and go while others run. Their states stand in `pool`.

use std::sync::Arc;

use reef_base::{ModelKey, Nanos, limits};
use reef_graph::Shape;
use reef_sched::{Drain, ModelOptions};

use crate::cold::ColdJob;
use crate::error::{InferError, LoadError};
use crate::fault::{Foreign, contain, log};
use crate::model::{InputShapes, ModelInfo, ModelSettings, Queued, TensorInfo};
use crate::plans::PlanFailure;
use crate::pool::{Model, named};
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
    shared.registry.reserve(&key, &settings)?;
    let reserved = Reserved { shared, key: key.clone(), published: false };
    // Importers and plan sources are foreign code.
    let make = || -> Result<Model, LoadError> {
        let source = Foreign::from(open()?);
        let model = Model::new(key.clone(), settings, source);
        compile_ahead(shared, &model)?;
        Ok(model)
    };
    let model = contain(make).map_err(|what| LoadError::Panicked { key: key.clone(), what })??;
    reserved.publish(model)
}

/// Takes a model out of service and waits for its last request.
pub(crate) fn unload(
    shared: &Shared,
    name: &str,
    version: Option<&str>,
    queued: Queued,
) -> Result<(), LoadError> {
    let unknown = || LoadError::UnknownModel(named(name, version));
    let model = shared.registry.find(name, version).map_err(|_| unknown())?;
    if !model.begin_unload() {
        return Err(unknown());
    }
    let drain = match queued {
        Queued::Finish => Drain::Finish,
        Queued::Refuse => Drain::Refuse,
    };
    let own = |job: &ColdJob| Arc::ptr_eq(&job.model, &model) && job.begins();
    shared.end_cold(|job| own(job).then(|| InferError::Unloading((*model.key).clone())));
    let id = model.id();
    shared.enter(|core, now, out| core.drain_model(now, id, drain, out));
    shared.wait_until(Nanos::MAX, |core| core.sched.is_model_idle(id));
    let removed = shared.core().remove_model(id);
    if !removed {
        let key = &model.key;
        log(|| tracing::error!(model = %key, "unloaded with requests left: virtual time stands still"));
    }
    model.close();
    shared.registry.remove(&model.key);
    Ok(())
}

/// A name that is taken until it is published or dropped.
struct Reserved<'a> {
    shared: &'a Shared,
    key: ModelKey,
    published: bool,
}

impl Reserved<'_> {
    fn publish(mut self, model: Model) -> Result<ModelInfo, LoadError> {
        let settings = &model.settings;
        let options = ModelOptions {
            class: settings.class,
            weight: settings.weight,
            queue_len: settings.queue_len,
            in_flight_max: settings.in_flight_max.unwrap_or(limits::BOARD_SLOTS_MAX),
        };
        let mut core = self.shared.core();
        if self.shared.is_closed() {
            return Err(LoadError::ShuttingDown);
        }
        if let Some(fault) = core.fault() {
            return Err(LoadError::Failed(fault.clone()));
        }
        let id = core.add_model(model.key.clone(), options);
        drop(core);
        let id = id.ok_or(LoadError::TooManyModels(limits::MODELS_MAX))?;
        model.set_id(id);
        let info = model.info();
        self.shared.registry.publish(Arc::new(model));
        self.published = true;
        Ok(info)
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
    if settings.in_flight_max == Some(0) {
        return fail("at least one task must be allowed in flight".into());
    }
    if settings.shapes.len() > limits::PLANS_PER_MODEL_MAX {
        return fail(format!("at most {} sets of shapes", limits::PLANS_PER_MODEL_MAX));
    }
    Ok(())
}

/// Compiles what is known at load: the only shapes of a model without symbolic dimensions, or those of its
/// settings.
fn compile_ahead(shared: &Shared, model: &Model) -> Result<(), LoadError> {
    let inputs = &model.inputs;
    let fixed: Option<Vec<Shape>> = inputs.iter().map(|info| info.fixed_shape()).collect();
    // Checked for a model without symbolic dimensions too: a shape that it cannot take is a mistake.
    let named = model.settings.shapes.iter().map(|shapes| concrete(model, shapes));
    let named = named.collect::<Result<Vec<_>, _>>()?;
    for shapes in fixed.map_or(named, |shapes| vec![shapes]) {
        if model.shape_inputs.contains(&true) {
            // What it begins with depends on values, too.
            continue;
        }
        shared.plan(model, &model.beginning(shapes.clone(), &[])).map_err(|failure| match failure {
            PlanFailure::Shapes(reason) | PlanFailure::Fault(reason) => {
                let shapes = shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(" ");
                LoadError::Compile { key: (*model.key).clone(), shapes, reason }
            }
            PlanFailure::Unloaded => unreachable!("a model is unloaded only after it was published"),
            PlanFailure::Device(source) => LoadError::Device { key: (*model.key).clone(), source },
        })?;
    }
    Ok(())
}

/// One shape per input from the settings' named ones.
fn concrete(model: &Model, shapes: &InputShapes) -> Result<Vec<Shape>, LoadError> {
    let fail = |reason: String| LoadError::Settings { key: (*model.key).clone(), reason };
    let inputs = &model.inputs;
    if let Some((name, _)) = shapes.iter().find(|(name, _)| inputs.iter().all(|info| info.name != *name)) {
        return Err(fail(format!("shapes: the model has no input '{name}'")));
    }
    let shape_of = |info: &TensorInfo| {
        let given = shapes.iter().find(|(name, _)| *name == info.name).map(|(_, shape)| shape.clone());
        let shape = given.or_else(|| info.fixed_shape());
        let shape = shape.ok_or_else(|| fail(format!("shapes: input '{}' needs one", info.name)))?;
        if info.takes(&shape) {
            Ok(shape)
        } else {
            Err(fail(format!("shapes: input '{}' takes {:?}, not {shape}", info.name, info.dims)))
        }
    };
    inputs.iter().map(shape_of).collect()
}
