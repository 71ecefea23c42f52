//! The model pool: which models there are and in which state. How they come and go stands in `load`.
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

use reef_base::{ModelKey, limits};
use reef_device::Device;
use reef_graph::Shape;
use reef_plan::Plan;
use reef_sched::ModelId;

use crate::error::{InferError, LoadError};
use crate::fault::{Foreign, contain};
use crate::model::{ModelInfo, ModelSettings, ModelState, PlanInfo, TensorInfo};
use crate::plans::{PlanEntry, PlanFailure, PlanTable};
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
    /// A model that no scheduler knows yet.
    pub(crate) fn new(key: ModelKey, settings: ModelSettings, source: Foreign<Arc<dyn PlanSource>>) -> Self {
        let (inputs, outputs) = (source.inputs().to_vec(), source.outputs().to_vec());
        let (id, unloading) = (OnceLock::new(), AtomicBool::new(false));
        let (key, plans) = (Arc::new(key), PlanTable::new());
        Model { key, settings, inputs, outputs, source, plans, id, unloading }
    }

    /// The scheduler knows it now.
    pub(crate) fn set_id(&self, id: ModelId) {
        self.id.set(id).expect("a model is published once");
    }

    /// From now on it is not ready; false when that was so before.
    pub(crate) fn begin_unload(&self) -> bool {
        !self.unloading.swap(true, Ordering::AcqRel)
    }

    /// Its id in the scheduler.
    pub(crate) fn id(&self) -> ModelId {
        *self.id.get().expect("a registered model is scheduled")
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.unloading.load(Ordering::Acquire)
    }

    /// The plan for these shapes; compiles and loads it if there is none. `on_new` is told the number of a
    /// plan that was added, if the scheduler knows the model. Slow: not for the hot path.
    pub(crate) fn plan(
        &self,
        device: &Arc<dyn Device>,
        shapes: &[Shape],
        on_new: impl FnOnce(ModelId, u16),
    ) -> Result<Arc<PlanEntry>, PlanFailure> {
        let target = device.capabilities().target;
        let compile = || {
            let compiled = contain(|| self.source.compile(shapes, target));
            let panicked = |panic: String| PlanFailure::Fault(format!("the compiler panicked: {panic}"));
            let plan = Foreign::from(compiled.map_err(panicked)?.map_err(PlanFailure::Shapes)?);
            self.check_plan(&plan, shapes).map_err(PlanFailure::Fault)?;
            Ok(plan)
        };
        let added = |index| {
            if let Some(&id) = self.id.get() {
                on_new(id, index);
            }
        };
        self.plans.find_or_make(shapes, device, compile, added)
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

    /// Takes a name for a model that is being loaded.
    pub(crate) fn reserve(&self, key: &ModelKey, settings: &ModelSettings) -> Result<(), LoadError> {
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

    /// A model whose name was reserved takes requests from now on.
    pub(crate) fn publish(&self, model: Arc<Model>) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let versions = models.entry(model.key.name.clone()).or_default();
        versions.insert(Version::new(&model.key.version), Entry::Live(model));
    }

    /// A name is free again.
    pub(crate) fn remove(&self, key: &ModelKey) {
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

/// A model as a request names it, for people.
pub(crate) fn named(name: &str, version: Option<&str>) -> String {
    version.map_or(name.to_string(), |version| format!("{name}/{version}"))
}
