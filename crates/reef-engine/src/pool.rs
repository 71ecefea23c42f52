//! The model pool: which models there are, in which state, and how they come and go while others run.
//!
//! | state | event | next |
//! |---|---|---|
//! | – | load | loading: the name is taken, nothing else is known |
//! | loading | compiled and loaded | ready |
//! | loading | error | – |
//! | ready | unload | unloading: no new requests |
//! | unloading | last request ended | –; its memory is freed with the last plan reference |

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use reef_base::{ModelKey, Nanos, limits};
use reef_graph::Shape;
use reef_plan::Plan;
use reef_sched::{Drain, ModelId, ModelOptions};

use crate::error::{InferError, LoadError};
use crate::fault::{Foreign, contain, log};
use crate::model::{InputShapes, ModelInfo, ModelSettings, ModelState, PlanInfo, Queued, TensorInfo};
use crate::plans::{PlanEntry, PlanFailure, PlanTable};
use crate::shared::Shared;
use crate::source::PlanSource;

/// A model that is ready or unloading.
pub(crate) struct Model {
    pub(crate) key: Arc<ModelKey>,
    pub(crate) settings: ModelSettings,
    pub(crate) inputs: Vec<TensorInfo>,
    pub(crate) outputs: Vec<TensorInfo>,
    source: Foreign<Arc<dyn PlanSource>>,
    pub(crate) plans: PlanTable,
    id: OnceLock<ModelId>,
    unloading: AtomicBool,
}

impl Model {
    /// Its id in the scheduler.
    pub(crate) fn id(&self) -> ModelId {
        *self.id.get().expect("a registered model is scheduled")
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.unloading.load(Ordering::Acquire)
    }

    /// The plan for these shapes; compiles and loads it if there is none. Slow: not for the hot path.
    pub(crate) fn plan(&self, shared: &Shared, shapes: &[Shape]) -> Result<Arc<PlanEntry>, PlanFailure> {
        let target = shared.device.capabilities().target;
        let compile = || {
            let compiled = contain(|| self.source.compile(shapes, target));
            let panicked = |panic: String| PlanFailure::Fault(format!("the compiler panicked: {panic}"));
            let plan = Foreign::from(compiled.map_err(panicked)?.map_err(PlanFailure::Shapes)?);
            self.check_plan(&plan, shapes).map_err(PlanFailure::Fault)?;
            Ok(plan)
        };
        let on_new = |index| {
            if let Some(&id) = self.id.get() {
                shared.core().reset_plan(id, &self.key, index);
            }
        };
        self.plans.find_or_make(shapes, &shared.device, compile, on_new)
    }

    /// What is there to say about the model.
    pub(crate) fn info(&self) -> ModelInfo {
        let plan_info = |entry: Arc<PlanEntry>| PlanInfo {
            name: entry.plan.name().to_string(),
            hash: entry.plan.hash().to_string(),
            weight_bytes: entry.plan.weight_bytes(),
            arena_bytes: entry.plan.arena_bytes(),
        };
        ModelInfo {
            key: (*self.key).clone(),
            state: if self.is_ready() { ModelState::Ready } else { ModelState::Unloading },
            settings: self.settings.clone(),
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            plans: self.plans.entries().into_iter().map(plan_info).collect(),
        }
    }

    fn check_plan(&self, plan: &Plan, shapes: &[Shape]) -> Result<(), String> {
        let declared = self.inputs.iter().zip(shapes);
        let inputs = plan.inputs().iter().map(|spec| (&spec.name, spec.dtype, &spec.shape));
        let same = inputs.eq(declared.map(|(info, shape)| (&info.name, info.dtype, shape)));
        let outputs = plan.outputs().iter().map(|spec| (&spec.name, spec.dtype));
        let same = same && outputs.eq(self.outputs.iter().map(|info| (&info.name, info.dtype)));
        if same { Ok(()) } else { Err("the plan's inputs or outputs are not the model's".into()) }
    }
}

enum Entry {
    Loading(ModelSettings),
    Live(Arc<Model>),
}

/// Every model by name, then version.
#[derive(Default)]
pub(crate) struct Registry {
    models: RwLock<BTreeMap<String, Versions>>,
}

type Versions = BTreeMap<Version, Entry>;

/// Versions in their order, newest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(Rank, String);

/// Numbers, the greatest first, come before all other words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Number(std::cmp::Reverse<u64>),
    Word,
}

impl Version {
    fn new(version: &str) -> Self {
        let number = version.parse().map(|number| Rank::Number(std::cmp::Reverse(number)));
        Version(number.unwrap_or(Rank::Word), version.to_string())
    }
}

impl Registry {
    /// The model that a request means.
    pub(crate) fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<Model>, InferError> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let unknown = || InferError::UnknownModel(named(name, version));
        let versions = models.get(name).ok_or_else(unknown)?;
        let live = |entry: &Entry| match entry {
            Entry::Live(model) if model.is_ready() => Some(model.clone()),
            Entry::Live(_) | Entry::Loading(_) => None,
        };
        let wanted = |key: &Version| version.is_none_or(|version| key.1 == version);
        let mut matching = versions.iter().filter(|(key, _)| wanted(key)).peekable();
        let Some(&(first, _)) = matching.peek() else { return Err(unknown()) };
        let not_ready = || InferError::NotReady(ModelKey { name: name.into(), version: first.1.clone() });
        matching.find_map(|(_, entry)| live(entry)).ok_or_else(not_ready)
    }

    /// A model, whatever its state; without a version the newest.
    pub(crate) fn info(&self, name: &str, version: Option<&str>) -> Option<ModelInfo> {
        if let Ok(model) = self.find(name, version) {
            return Some(model.info());
        }
        let wanted =
            |key: &ModelKey| key.name == name && version.is_none_or(|version| key.version == version);
        self.infos().into_iter().find(|info| wanted(&info.key))
    }

    /// Every model.
    pub(crate) fn infos(&self) -> Vec<ModelInfo> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let each = models.iter().flat_map(|(name, versions)| versions.iter().map(move |entry| (name, entry)));
        each.map(|(name, (version, entry))| match entry {
            Entry::Live(model) => model.info(),
            Entry::Loading(settings) => ModelInfo {
                key: ModelKey { name: name.clone(), version: version.1.clone() },
                state: ModelState::Loading,
                settings: settings.clone(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                plans: Vec::new(),
            },
        })
        .collect()
    }

    /// Every model that is not loading.
    pub(crate) fn live(&self) -> Vec<Arc<Model>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let entries = models.values().flat_map(BTreeMap::values);
        entries
            .filter_map(|entry| match entry {
                Entry::Live(model) => Some(model.clone()),
                Entry::Loading(_) => None,
            })
            .collect()
    }

    fn reserve(&self, key: &ModelKey, settings: &ModelSettings) -> Result<(), LoadError> {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if models.values().map(BTreeMap::len).sum::<usize>() >= limits::MODELS_MAX {
            return Err(LoadError::TooManyModels(limits::MODELS_MAX));
        }
        let versions = models.entry(key.name.clone()).or_default();
        let version = Version::new(&key.version);
        if versions.contains_key(&version) {
            return Err(LoadError::AlreadyLoaded(key.clone()));
        }
        versions.insert(version, Entry::Loading(settings.clone()));
        Ok(())
    }

    fn publish(&self, model: Arc<Model>) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let versions = models.entry(model.key.name.clone()).or_default();
        versions.insert(Version::new(&model.key.version), Entry::Live(model));
    }

    fn remove(&self, key: &ModelKey) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let gone = models.get_mut(&key.name).and_then(|versions| {
            let gone = versions.remove(&Version::new(&key.version));
            gone.map(|gone| (gone, versions.is_empty()))
        });
        if matches!(gone, Some((_, true))) {
            models.remove(&key.name);
        }
        drop(models);
        drop(gone);
    }
}

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
        let (inputs, outputs) = (source.inputs().to_vec(), source.outputs().to_vec());
        let (id, unloading) = (OnceLock::new(), AtomicBool::new(false));
        let (key, plans) = (Arc::new(key.clone()), PlanTable::new());
        let model = Model { key, settings, inputs, outputs, source, plans, id, unloading };
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
    if model.unloading.swap(true, Ordering::AcqRel) {
        return Err(unknown());
    }
    let drain = match queued {
        Queued::Finish => Drain::Finish,
        Queued::Refuse => Drain::Refuse,
    };
    shared.compile.refuse(shared, &model);
    let id = model.id();
    shared.enter(|core, now, out| core.drain_model(now, id, drain, out));
    shared.wait_until(Nanos::MAX, |core| core.sched.is_model_idle(id));
    let removed = shared.core().remove_model(id);
    if !removed {
        let key = &model.key;
        log(|| tracing::error!(model = %key, "unloaded with requests left: virtual time stands still"));
    }
    model.plans.close();
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
        model.id.set(id).expect("a model is published once");
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
        model.plan(shared, &shapes).map_err(|failure| match failure {
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

fn named(name: &str, version: Option<&str>) -> String {
    version.map_or(name.to_string(), |version| format!("{name}/{version}"))
}
