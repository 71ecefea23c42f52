//! The model pool: which models there are, on which devices and in which state. How they come and go stands
//! in `load`.
//!
//! A [`Model`] is a model on one device: its plans there and its number in that device's scheduler. What a
//! request names is a [`Group`], the same model on each of its devices. They share what does not depend on a
//! device and, where the targets are the same, the plans themselves ([`Shelf`]). Of a model that is split
//! each device has a part of every plan, and requests begin with the first one.
//!
//! | state | event | next |
//! |---|---|---|
//! | – | load | loading: the name is taken, nothing else is known |
//! | loading | compiled and loaded | ready |
//! | loading | error | – |
//! | ready | unload | unloading: no new requests |
//! | ready | a model that was prepared takes its place | superseded: the name is the other's, see `load` |
//! | unloading, superseded | last request ended | –; its memory is freed with the last plan reference |

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use reef_base::{AlignedBytes, Class, ModelKey, Nanos, limits};
use reef_device::Device;
use reef_graph::{Shape, Tensor, Texts};
use reef_plan::{Cutter, Plan, Target};
use reef_program::{Given, HandOver, SegmentKey};
use reef_sched::{ModelId, ModelOptions};

use crate::error::{InferError, LoadError};
use crate::family::Family;
use crate::fault::{Foreign, contain};
use crate::kit::Kit;
use crate::model::{ModelInfo, ModelSettings, ModelState, Placement, PlanInfo, TensorInfo};
use crate::passage::Passages;
use crate::place::Occupancy;
use crate::plans::{Made, PlanEntry, PlanFailure, PlanTable};
use crate::source::PlanSource;
use crate::visit::Visitors;

/// Kits that a model keeps.
const KITS_MAX: usize = limits::BOARD_SLOTS_DEFAULT;

/// A model that is ready or unloading, with all its replicas.
pub(crate) struct Group {
    pub(crate) key: Arc<ModelKey>,
    /// One per device that it is on, at least one; each the whole model, or if it is split a part of it.
    pub(crate) replicas: Vec<Arc<Model>>,
    /// Of a model that is split.
    pub(crate) passages: Option<Arc<Passages>>,
    /// Who is about to hand it a request; closed when it takes no more.
    pub(crate) visitors: Visitors,
    /// Another model is being made for its place.
    being_replaced: AtomicBool,
}

/// A model on one device.
pub(crate) struct Model {
    pub(crate) key: Arc<ModelKey>,
    pub(crate) settings: Arc<ModelSettings>,
    pub(crate) inputs: Arc<[TensorInfo]>,
    pub(crate) outputs: Arc<[TensorInfo]>,
    source: Arc<Foreign<Arc<dyn PlanSource>>>,
    /// The number of its device.
    pub(crate) lane: usize,
    /// Which of its group it is.
    pub(crate) part: usize,
    /// Its requests, if it is split.
    pub(crate) passages: Option<Arc<Passages>>,
    /// What it begins with, by shapes and values of its inputs.
    pub(crate) plans: PlanTable,
    /// What it goes on with.
    pub(crate) segments: PlanTable,
    /// What its batches run; set once, when it is loaded.
    families: OnceLock<Box<[Family]>>,
    /// For every input whether its value decides shapes.
    pub(crate) shape_inputs: Arc<[bool]>,
    /// What its requests of several segments take along, while none does.
    kits: Mutex<Vec<Arc<Kit>>>,
    id: OnceLock<ModelId>,
    shelf: Arc<Shelf>,
    group: Weak<Group>,
}

impl Group {
    /// The replica on a device, by its number.
    pub(crate) fn on(&self, lane: usize) -> Option<&Arc<Model>> {
        self.replicas.iter().find(|model| model.lane == lane)
    }

    /// A model for devices of these numbers, that no scheduler knows yet.
    pub(crate) fn new(
        key: ModelKey,
        settings: ModelSettings,
        source: Foreign<Arc<dyn PlanSource>>,
        lanes: &[usize],
    ) -> Arc<Group> {
        let (inputs, outputs): (Arc<[_]>, Arc<[_]>) = (source.inputs().into(), source.outputs().into());
        let shape_inputs: Arc<[bool]> = source.shape_inputs().into();
        let (key, settings, source) = (Arc::new(key), Arc::new(settings), Arc::new(source));
        let split = lanes.len() > 1 && settings.placement == Placement::Split;
        let shelf = Arc::new(Shelf { shared: lanes.len() > 1 && !split, plans: Mutex::default() });
        let passages = split.then(|| Arc::new(Passages::new(passages_max(&settings))));
        let replica = |part: usize, lane: usize, group: &Weak<Group>| Model {
            key: key.clone(),
            settings: settings.clone(),
            inputs: inputs.clone(),
            outputs: outputs.clone(),
            source: source.clone(),
            lane,
            part,
            passages: passages.clone(),
            plans: PlanTable::new(limits::PLANS_PER_MODEL_MAX),
            segments: PlanTable::new(limits::SEGMENTS_PER_MODEL_MAX),
            families: OnceLock::new(),
            shape_inputs: shape_inputs.clone(),
            kits: Mutex::default(),
            id: OnceLock::new(),
            shelf: shelf.clone(),
            group: group.clone(),
        };
        Arc::new_cyclic(|group| Group {
            key: key.clone(),
            replicas: lanes
                .iter()
                .enumerate()
                .map(|(at, &lane)| Arc::new(replica(at, lane, group)))
                .collect(),
            passages: passages.clone(),
            visitors: Visitors::default(),
            being_replaced: AtomicBool::new(false),
        })
    }

    /// Any of the replicas: for what they share.
    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.replicas[0]
    }

    /// From now on it is not ready; false when that was so before.
    pub(crate) fn begin_unload(&self) -> bool {
        self.visitors.close()
    }

    /// Another model is made for its place from now on; false when that is so already.
    fn begin_replace(&self) -> bool {
        !self.being_replaced.swap(true, Ordering::AcqRel)
    }

    /// Nothing takes its place.
    pub(crate) fn end_replace(&self) {
        self.being_replaced.store(false, Ordering::Release);
    }

    /// Whether requests of a class, or any, are on their way through its parts.
    pub(crate) fn is_passed_by(&self, class: Option<Class>) -> bool {
        let count = |passages: &Arc<Passages>| class.map_or(passages.total(), |class| passages.len(class));
        self.passages.as_ref().is_some_and(|passages| count(passages) > 0)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.visitors.is_open()
    }

    /// What is there to say about the model; `names` are those of all devices.
    pub(crate) fn info(&self, names: &[Arc<str>]) -> ModelInfo {
        let model = self.model();
        ModelInfo {
            key: (*self.key).clone(),
            state: if self.is_ready() { ModelState::Ready } else { ModelState::Unloading },
            settings: (*model.settings).clone(),
            inputs: model.inputs.to_vec(),
            outputs: model.outputs.to_vec(),
            devices: self.replicas.iter().map(|model| names[model.lane].to_string()).collect(),
            plans: self.replicas.iter().flat_map(|model| model.plan_infos(&names[model.lane])).collect(),
            joins: !model.families().is_empty(),
        }
    }
}

/// A model that was open when it was found, and waits for who has this.
pub(crate) struct Visit(Arc<Group>);

impl Visit {
    /// Enters, if the model is open.
    pub(crate) fn begin(group: &Arc<Group>) -> Option<Visit> {
        group.visitors.enter();
        // Its drop counts it out again.
        let visit = Visit(group.clone());
        visit.visitors.is_open().then_some(visit)
    }

    /// Another visit, whether the model is closed by now or not: this one is still there.
    pub(crate) fn again(&self) -> Visit {
        self.visitors.enter();
        Visit(self.0.clone())
    }
}

impl Deref for Visit {
    type Target = Arc<Group>;

    fn deref(&self) -> &Arc<Group> {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.visitors.leave();
    }
}

/// Requests of a class that may be on their way through a split model with these settings.
fn passages_max(settings: &ModelSettings) -> usize {
    settings.queue_len + limits::BOARD_SLOTS_MAX
}

/// Plans that replicas share: what one of them made, the others only load. Keeps no plan alive.
struct Shelf {
    /// Whether there is somebody to share with.
    shared: bool,
    plans: Mutex<HashMap<(SegmentKey, Target), Shelved>>,
}

/// A plan and what comes after it.
type Shelved = (Weak<Plan>, Option<HandOver>);

impl Shelf {
    fn find(&self, key: &SegmentKey, target: Target) -> Option<Made> {
        if !self.shared {
            return None;
        }
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let (plan, next) = plans.get(&(key.clone(), target))?;
        Some(Made { plan: Foreign::from(plan.upgrade()?), next: next.clone(), onward: None })
    }

    fn put(&self, key: &SegmentKey, target: Target, made: &Made) {
        if self.shared {
            let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
            plans.retain(|_, (plan, _)| plan.strong_count() > 0);
            plans.insert((key.clone(), target), (Arc::downgrade(&made.plan), made.next.clone()));
        }
    }
}

impl Model {
    /// The scheduler knows it now.
    pub(crate) fn set_id(&self, id: ModelId) {
        self.id.set(id).expect("a model is published once");
    }

    /// The same model on its other devices.
    pub(crate) fn siblings(&self) -> Vec<Arc<Model>> {
        let group = self.group.upgrade();
        let all = group.iter().flat_map(|group| &group.replicas);
        all.filter(|model| model.lane != self.lane).cloned().collect()
    }

    /// Whether it is on other devices, too.
    pub(crate) fn is_replicated(&self) -> bool {
        self.shelf.shared
    }

    /// Whether it is one of the parts that a model is cut into.
    pub(crate) fn is_split(&self) -> bool {
        self.passages.is_some()
    }

    /// What it is one of; `None` when that is gone.
    pub(crate) fn group(&self) -> Option<Arc<Group>> {
        self.group.upgrade()
    }

    /// Another part of the model; `None` when the model is gone.
    pub(crate) fn part(&self, part: usize) -> Option<Arc<Model>> {
        self.group.upgrade()?.replicas.get(part).cloned()
    }

    /// How the scheduler of its device is to serve it.
    pub(crate) fn options(&self) -> ModelOptions {
        let settings = &self.settings;
        ModelOptions {
            class: settings.class,
            weight: settings.weight,
            // What was admitted to the first part is not refused by another one.
            queue_len: if self.part == 0 { settings.queue_len } else { passages_max(settings) },
            in_flight_max: settings.in_flight_max.unwrap_or(limits::BOARD_SLOTS_MAX),
            batching: settings.batching.as_ref().map(|batching| reef_sched::Batching {
                rows_max: settings.batch_rows_max.unwrap_or(1) as u32,
                delay: batching.delay,
            }),
        }
    }

    /// What its batches run; nothing if requests are not joined.
    pub(crate) fn families(&self) -> &[Family] {
        self.families.get().map_or(&[], |families| families)
    }

    pub(crate) fn set_families(&self, families: Vec<Family>) {
        assert!(self.families.set(families.into()).is_ok(), "a model is loaded once");
    }

    /// Its texts by their numbers, if it has any.
    pub(crate) fn texts(&self) -> Option<Arc<Texts>> {
        self.source.texts().cloned()
    }

    /// What its source says of its rows.
    pub(crate) fn rows(&self, shapes: &[Vec<Shape>]) -> Result<(), String> {
        self.source.rows(shapes)
    }

    /// Rows that a plan is made for; one where nothing bounds them.
    pub(crate) fn rows_of(&self, plan: &PlanEntry) -> u32 {
        let first = || plan.pool.inputs.first()?.shape.iter().next().copied();
        let bounded = self.settings.batch_rows_max.and_then(|max| Some(first()?.min(max)));
        bounded.map_or(1, |rows| rows as u32)
    }

    /// The number by which the scheduler knows a plan of it.
    pub(crate) fn number(&self, plan: &PlanEntry) -> u16 {
        // Of the plans that it goes on with nothing is measured.
        if plan.begins() { plan.index } else { limits::PLANS_PER_MODEL_MAX as u16 }
    }

    /// Its id in the scheduler of its device.
    pub(crate) fn id(&self) -> ModelId {
        *self.id.get().expect("a registered model is scheduled")
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
        // A kit is for one device.
        if entry.next.is_none() || self.is_split() {
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
        if !self.group.upgrade().is_some_and(|group| group.is_ready()) {
            drop(kits);
            return;
        }
        // The one that nobody took for the longest time goes.
        let dropped = (kits.len() >= KITS_MAX).then(|| kits.remove(0));
        kits.push(kit);
        drop(kits);
        drop(dropped);
    }

    /// Lets go of plans that nobody used for as long as `idle`.
    pub(crate) fn evict_idle(&self, now: Nanos, idle: Nanos) {
        // A part of a split model has those that the part before it has.
        if self.is_split() {
            return;
        }
        let kits = self.kits().clone();
        let begins = |entry: &Arc<PlanEntry>| kits.iter().filter(|kit| kit.begins_with(entry)).count();
        // Sessions and requests that run have it, too.
        let is_free = |entry: &Arc<PlanEntry>| Arc::strong_count(entry) == 1 + begins(entry);
        let gone = self.plans.take_idle(now, idle, is_free);
        drop(kits);
        // What requests go on with, kits know: those of plans that have gone are of no use.
        let mut kits = self.kits();
        let (useless, kept) =
            kits.drain(..).partition::<Vec<_>, _>(|kit| gone.iter().any(|entry| kit.begins_with(entry)));
        *kits = kept;
        drop(kits);
        drop((useless, gone));
        drop(self.segments.take_idle(now, idle, |entry| Arc::strong_count(entry) == 1));
    }

    /// Lets go of every plan.
    pub(crate) fn close(&self) {
        self.plans.close();
        self.segments.close();
        self.families().iter().for_each(Family::close);
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
        let make = || self.make(device.cutter(self.settings.precision).as_ref(), key);
        self.plan_by(device, key, make, on_new)
    }

    /// As [`Model::plan`], where `make` makes it.
    pub(crate) fn plan_by(
        &self,
        device: &Arc<dyn Device>,
        key: &SegmentKey,
        make: impl FnOnce() -> Result<Made, PlanFailure>,
        on_new: impl FnOnce(ModelId, u16),
    ) -> Result<Arc<PlanEntry>, PlanFailure> {
        self.table(key).find_or_make(key, device, make, |index| self.added(key, index, on_new))
    }

    /// Loads a plan for this key in the place of the one that there is, if there is one.
    pub(crate) fn put(
        &self,
        device: &Arc<dyn Device>,
        key: &SegmentKey,
        made: Made,
        on_new: impl FnOnce(ModelId, u16),
    ) -> Result<Arc<PlanEntry>, PlanFailure> {
        self.table(key).put(key, device, made, |index| self.added(key, index, on_new))
    }

    fn added(&self, key: &SegmentKey, index: u16, on_new: impl FnOnce(ModelId, u16)) {
        if let Some(&id) = self.id.get().filter(|_| key.part.is_none()) {
            on_new(id, index);
        }
    }

    /// Makes the whole plan for this key and devices of this cutter, or takes what a replica made.
    pub(crate) fn make(&self, cutter: &dyn Cutter, key: &SegmentKey) -> Result<Made, PlanFailure> {
        let target = cutter.target();
        if let Some(made) = self.shelf.find(key, target) {
            return Ok(made);
        }
        let compiled = contain(|| self.source.segment(key, cutter));
        let panicked = |panic: String| PlanFailure::Fault(format!("the compiler panicked: {panic}"));
        let (plan, next) = compiled.map_err(panicked)?.map_err(PlanFailure::Shapes)?.into_parts();
        let made = Made { plan: Foreign::from(plan), next, onward: None };
        self.check_plan(&made.plan, made.next.is_none(), key).map_err(PlanFailure::Fault)?;
        self.shelf.put(key, target, &made);
        Ok(made)
    }

    /// Lets go of the half of its plans that were not used for longest.
    pub(crate) fn make_room(&self) {
        self.plans.make_room();
        self.segments.make_room();
    }

    /// Its plans on `device`, which is its own.
    fn plan_infos(&self, device: &str) -> Vec<PlanInfo> {
        let plan_info = |entry: Arc<PlanEntry>| PlanInfo {
            device: device.to_string(),
            name: entry.plan.name().to_string(),
            hash: entry.plan.hash().to_string(),
            weight_bytes: entry.plan.weight_bytes(),
            arena_bytes: entry.plan.arena_bytes(),
        };
        self.plans.entries().into_iter().map(plan_info).collect()
    }

    /// Bytes of its weights, as far as a plan tells: plans of one model share them.
    fn weight_bytes(&self) -> usize {
        self.plans.entries().iter().map(|entry| entry.plan.weight_bytes()).max().unwrap_or(0)
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
    /// With the numbers of its devices.
    Loading(Box<ModelSettings>, Vec<usize>),
    Live(Arc<Group>),
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
    /// The model that a request means; it waits for who has the answer.
    pub(crate) fn enter(&self, name: &str, version: Option<&str>) -> Result<Visit, InferError> {
        self.find_by(name, version, Visit::begin)
    }

    /// The model that is meant, if it is ready.
    pub(crate) fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<Group>, InferError> {
        self.find_by(name, version, |group| group.is_ready().then(|| group.clone()))
    }

    fn find_by<T>(
        &self,
        name: &str,
        version: Option<&str>,
        ready: impl Fn(&Arc<Group>) -> Option<T>,
    ) -> Result<T, InferError> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let unknown = || InferError::UnknownModel(named(name, version));
        let versions = models.get(name).ok_or_else(unknown)?;
        let live = |entry: &Entry| match entry {
            Entry::Live(model) => ready(model),
            Entry::Loading(..) => None,
        };
        let wanted = |key: &Version| version.is_none_or(|version| key.1 == version);
        let mut matching = versions.iter().filter(|(key, _)| wanted(key)).peekable();
        let Some(&(first, _)) = matching.peek() else { return Err(unknown()) };
        let not_ready = || InferError::NotReady(ModelKey { name: name.into(), version: first.1.clone() });
        matching.find_map(|(_, entry)| live(entry)).ok_or_else(not_ready)
    }

    /// A model, whatever its state; without a version the newest. `names` are those of all devices.
    pub(crate) fn info(&self, name: &str, version: Option<&str>, names: &[Arc<str>]) -> Option<ModelInfo> {
        if let Ok(model) = self.find(name, version) {
            return Some(model.info(names));
        }
        let wanted =
            |key: &ModelKey| key.name == name && version.is_none_or(|version| key.version == version);
        self.infos(names).into_iter().find(|info| wanted(&info.key))
    }

    /// Every model. `names` are those of all devices.
    pub(crate) fn infos(&self, names: &[Arc<str>]) -> Vec<ModelInfo> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let each = models.iter().flat_map(|(name, versions)| versions.iter().map(move |entry| (name, entry)));
        each.map(|(name, (version, entry))| match entry {
            Entry::Live(model) => model.info(names),
            Entry::Loading(settings, _) => ModelInfo {
                key: ModelKey { name: name.clone(), version: version.1.clone() },
                state: ModelState::Loading,
                settings: (**settings).clone(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                devices: Vec::new(),
                plans: Vec::new(),
                joins: false,
            },
        })
        .collect()
    }

    /// Every model that is not loading.
    pub(crate) fn live(&self) -> Vec<Arc<Group>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let entries = models.values().flat_map(BTreeMap::values);
        entries
            .filter_map(|entry| match entry {
                Entry::Live(model) => Some(model.clone()),
                Entry::Loading(..) => None,
            })
            .collect()
    }

    /// Takes a name for a model that is being loaded, or with `replace` the place of the one that has it.
    /// `choose` says on which devices it will be, of so many as there are, from what else is on them.
    pub(crate) fn reserve(
        &self,
        key: &ModelKey,
        settings: &ModelSettings,
        devices: usize,
        replace: bool,
        choose: impl FnOnce(&[Occupancy]) -> Result<Vec<usize>, LoadError>,
    ) -> Result<Reservation, LoadError> {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let version = Version::new(&key.version);
        let old = match models.get(&key.name).and_then(|versions| versions.get(&version)) {
            None => None,
            Some(Entry::Live(group)) if replace && group.is_ready() => Some(group.clone()),
            Some(_) if replace => return Err(LoadError::Busy(key.clone())),
            Some(_) => return Err(LoadError::AlreadyLoaded(key.clone())),
        };
        if old.is_none() && models.values().map(BTreeMap::len).sum::<usize>() >= limits::MODELS_MAX {
            return Err(LoadError::TooManyModels(limits::MODELS_MAX));
        }
        let lanes = choose(&occupancy(&models, devices, old.as_ref()))?;
        match &old {
            Some(old) if !old.begin_replace() => return Err(LoadError::Busy(key.clone())),
            Some(_) => {}
            None => {
                let entry = Entry::Loading(Box::new(settings.clone()), lanes.clone());
                models.entry(key.name.clone()).or_default().insert(version, entry);
            }
        }
        Ok(Reservation { lanes, old })
    }

    /// A model whose name or place was reserved takes requests from now on. What had the name until now comes
    /// back: nobody finds it any more. `succeed` is told of it just before that.
    pub(crate) fn publish(&self, model: Arc<Group>, succeed: impl FnOnce(&Arc<Group>)) -> Option<Arc<Group>> {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let versions = models.entry(model.key.name.clone()).or_default();
        if let Some(Entry::Live(old)) = versions.get(&Version::new(&model.key.version)) {
            succeed(old);
        }
        match versions.insert(Version::new(&model.key.version), Entry::Live(model)) {
            Some(Entry::Live(old)) => Some(old),
            Some(Entry::Loading(..)) | None => None,
        }
    }

    /// The name of a model that was not loaded is free again.
    pub(crate) fn release(&self, key: &ModelKey) {
        self.remove_if(key, |entry| matches!(entry, Entry::Loading(..)));
    }

    /// The name of a model is free again, unless another one has it by now.
    pub(crate) fn remove(&self, group: &Arc<Group>) {
        let own = |entry: &Entry| matches!(entry, Entry::Live(other) if Arc::ptr_eq(other, group));
        self.remove_if(&group.key, own);
    }

    fn remove_if(&self, key: &ModelKey, wanted: impl Fn(&Entry) -> bool) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let Some(versions) = models.get_mut(&key.name) else { return };
        let version = Version::new(&key.version);
        let gone = match versions.get(&version) {
            Some(entry) if wanted(entry) => versions.remove(&version),
            _ => None,
        };
        if versions.is_empty() {
            models.remove(&key.name);
        }
        drop(models);
        drop(gone);
    }
}

/// What was reserved for a model.
pub(crate) struct Reservation {
    /// The numbers of its devices.
    pub(crate) lanes: Vec<usize>,
    /// The model whose place it takes.
    pub(crate) old: Option<Arc<Group>>,
}

/// What is on each device, without a model that is about to go.
fn occupancy(
    models: &BTreeMap<String, Versions>,
    devices: usize,
    going: Option<&Arc<Group>>,
) -> Vec<Occupancy> {
    let mut occupied = vec![Occupancy::default(); devices];
    for entry in models.values().flat_map(BTreeMap::values) {
        match entry {
            Entry::Live(group) if going.is_some_and(|going| Arc::ptr_eq(going, group)) => {}
            Entry::Loading(_, lanes) => lanes.iter().for_each(|&lane| occupied[lane].models += 1),
            Entry::Live(group) => group.replicas.iter().for_each(|model| {
                occupied[model.lane].models += 1;
                occupied[model.lane].weight_bytes += model.weight_bytes();
            }),
        }
    }
    occupied
}

/// A model as a request names it, for people.
pub(crate) fn named(name: &str, version: Option<&str>) -> String {
    version.map_or(name.to_string(), |version| format!("{name}/{version}"))
}
