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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use reef_base::{AlignedBytes, ModelKey, limits};
use reef_device::Device;
use reef_graph::{Shape, Tensor};
use reef_plan::Plan;
use reef_program::{Given, SegmentKey};
use reef_sched::ModelId;

use crate::error::{InferError, LoadError};
use crate::fault::{Foreign, contain};
use crate::kit::Kit;
use crate::model::{ModelInfo, ModelSettings, ModelState, PlanInfo, TensorInfo};
use crate::plans::{Made, PlanEntry, PlanFailure, PlanTable};
use crate::source::PlanSource;

/// Kits that a model keeps.
const KITS_MAX: usize = limits::BOARD_SLOTS_DEFAULT;

/// A model that is ready or unloading.
pub(crate) struct Model {
    pub(crate) key: Arc<ModelKey>,
    pub(crate) settings: ModelSettings,
    pub(crate) inputs: Vec<TensorInfo>,
    pub(crate) outputs: Vec<TensorInfo>,
    source: Foreign<Arc<dyn PlanSource>>,
    /// What it begins with, by shapes and values of its inputs.
    pub(crate) plans: PlanTable,
    /// What it goes on with.
    pub(crate) segments: PlanTable,
    /// For every input whether its value decides shapes.
    pub(crate) shape_inputs: Vec<bool>,
    /// What its requests of several segments take along, while none does.
    kits: Mutex<Vec<Arc<Kit>>>,
    id: OnceLock<ModelId>,
    unloading: AtomicBool,
}

impl Model {
    /// A model that no scheduler knows yet.
    pub(crate) fn new(key: ModelKey, settings: ModelSettings, source: Foreign<Arc<dyn PlanSource>>) -> Self {
        let (inputs, outputs) = (source.inputs().to_vec(), source.outputs().to_vec());
        let (id, unloading) = (OnceLock::new(), AtomicBool::new(false));
        let shape_inputs = source.shape_inputs();
        let (plans, segments) =
            (PlanTable::new(limits::PLANS_PER_MODEL_MAX), PlanTable::new(limits::SEGMENTS_PER_MODEL_MAX));
        let key = Arc::new(key);
        let kits = Mutex::default();
        Model { key, settings, inputs, outputs, source, plans, segments, shape_inputs, kits, id, unloading }
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

    /// The key of what it begins with for inputs of these shapes, with these data.
    pub(crate) fn beginning(&self, shapes: Vec<Shape>, data: &[&[u8]]) -> SegmentKey {
        let given = shapes.into_iter().enumerate().map(|(index, shape)| {
            let dtype = self.inputs[index].dtype;
            if !self.shape_inputs[index] || shape.elements() > limits::SHAPE_VALUES_MAX {
                return Given::Tensor(dtype, shape);
            }
            Given::Value(Tensor::new(dtype, shape, Arc::new(AlignedBytes::copy_from(data[index]))))
        });
        SegmentKey { part: None, given: given.collect() }
    }

    /// What a request takes along that begins with `entry`; nothing if that is all. `None` when the device
    /// gives no buffers.
    pub(crate) fn kit(&self, entry: &Arc<PlanEntry>) -> Option<Option<Arc<Kit>>> {
        if entry.next.is_none() {
            return Some(None);
        }
        let mut kits = self.kits();
        let kept = kits.iter().position(|kit| kit.begins_with(entry)).map(|at| kits.swap_remove(at));
        drop(kits);
        let kit = kept.unwrap_or_else(|| Arc::new(Kit::new(entry.clone())));
        kit.begin().then_some(Some(kit))
    }

    /// Keeps a kit for a later request, unless enough are kept already.
    pub(crate) fn keep(&self, kit: Arc<Kit>) {
        let mut kits = self.kits();
        if !self.is_ready() {
            drop(kits);
            return;
        }
        // The one that nobody took for the longest time goes.
        let dropped = (kits.len() >= KITS_MAX).then(|| kits.remove(0));
        kits.push(kit);
        drop(kits);
        drop(dropped);
    }

    /// Lets go of every plan.
    pub(crate) fn close(&self) {
        self.plans.close();
        self.segments.close();
        let kits = std::mem::take(&mut *self.kits());
        drop(kits);
    }

    fn kits(&self) -> MutexGuard<'_, Vec<Arc<Kit>>> {
        self.kits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan for this key, if it is there.
    pub(crate) fn find(&self, key: &SegmentKey) -> Option<Arc<PlanEntry>> {
        self.table(key).find(key)
    }

    fn table(&self, key: &SegmentKey) -> &PlanTable {
        if key.part.is_none() { &self.plans } else { &self.segments }
    }

    /// The plan for this key; compiles and loads it if there is none. `on_new` is told the number of a plan
    /// that the model begins with and that was added, if the scheduler knows the model. Slow: not for the hot
    /// path.
    pub(crate) fn plan(
        &self,
        device: &Arc<dyn Device>,
        key: &SegmentKey,
        on_new: impl FnOnce(ModelId, u16),
    ) -> Result<Arc<PlanEntry>, PlanFailure> {
        let target = device.capabilities().target;
        let compile = || {
            let compiled = contain(|| self.source.segment(key, target));
            let panicked = |panic: String| PlanFailure::Fault(format!("the compiler panicked: {panic}"));
            let (plan, next) = compiled.map_err(panicked)?.map_err(PlanFailure::Shapes)?.into_parts();
            let plan = Foreign::from(plan);
            self.check_plan(&plan, next.is_none(), key).map_err(PlanFailure::Fault)?;
            Ok(Made { plan, next })
        };
        let added = |index| {
            if let Some(&id) = self.id.get().filter(|_| key.part.is_none()) {
                on_new(id, index);
            }
        };
        self.table(key).find_or_make(key, device, compile, added)
    }

    /// Lets go of the half of its plans that were not used for longest.
    pub(crate) fn make_room(&self) {
        self.plans.make_room();
        self.segments.make_room();
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

    /// Whether a plan has the inputs that its key says and, if it is the last of a request, the model's
    /// outputs.
    fn check_plan(&self, plan: &Plan, last: bool, key: &SegmentKey) -> Result<(), String> {
        let tensors = key.given.iter().filter_map(|given| match given {
            Given::Tensor(dtype, shape) => Some((*dtype, shape)),
            // What a model begins with has all of its inputs.
            Given::Value(value) => key.part.is_none().then(|| (value.dtype(), value.shape())),
        });
        let mut same = plan.inputs().iter().map(|spec| (spec.dtype, &spec.shape)).eq(tensors);
        if key.part.is_none() {
            let names = plan.inputs().iter().map(|spec| &spec.name);
            same &= names.eq(self.inputs.iter().map(|info| &info.name));
        }
        if last {
            let outputs = plan.outputs().iter().map(|spec| (&spec.name, spec.dtype));
            same &= outputs.eq(self.outputs.iter().map(|info| (&info.name, info.dtype)));
        }
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
