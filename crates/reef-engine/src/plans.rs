//! The plans of a model: one per concrete set of input shapes, and of values that decide shapes, each with
//! the buffers that its requests reuse. The plans that a model begins with are in one table, those that other
//! parts of it go on with in another.
//!
//! A plan is compiled once however many callers ask for it at the same time, never while a lock is held. Only
//! so many are kept, and only so many bytes of buffers and of weights beside the first plan's; the least
//! recently used goes first and leaves the device after its last request, because every request holds its
//! [`PlanEntry`]. What batches run stays. What nobody used for long goes as well, unless settings name it.
//!
//! | place | event | next |
//! |---|---|---|
//! | free | a plan is made | reserved: loading happens without the lock |
//! | reserved | loaded | ready |
//! | reserved | the device has no memory | half of the plans go, and it is tried again |
//! | reserved | the device refuses, or loading panics | free |
//! | ready | another plan needs the place | reserved |
//! | any | the model goes | closed for good: what is being made then is let go when it is there |

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use reef_base::{Buffer, ModelKey, Nanos, limits};
use reef_device::{Device, DeviceError, Io, LoadedPlan};
use reef_plan::{IoSpec, Plan};
use reef_program::{HandOver, SegmentKey, Transfer};

use crate::divided::Divided;
use crate::error::InferError;
use crate::fault::{Foreign, contain, log};

/// Keys that could not be compiled for and are remembered, so that asking again costs nothing.
const FAILURES_MAX: usize = 16;

/// Parts of the longest idle time in which uses are told apart.
const MARKS: u64 = 4;

/// Buffers of one plan that wait for their next request, and the specifications that describe them.
#[derive(Debug)]
pub(crate) struct IoPool {
    pub(crate) inputs: Vec<IoSpec>,
    pub(crate) outputs: Vec<IoSpec>,
    free: Mutex<Vec<Io>>,
    idle_max: usize,
    /// Bytes of the buffers of one request.
    bytes: u64,
    /// What it shares with others, if it does.
    room: Option<Arc<IdleRoom>>,
}

/// How many bytes of buffers several pools keep together.
#[derive(Debug)]
pub(crate) struct IdleRoom {
    left: AtomicU64,
}

impl IdleRoom {
    /// Of so many bytes.
    pub(crate) fn new(bytes: u64) -> Arc<IdleRoom> {
        Arc::new(IdleRoom { left: AtomicU64::new(bytes) })
    }

    fn take(&self, bytes: u64) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl IoPool {
    fn new(plan: &Plan) -> Self {
        IoPool::of(plan.inputs().to_vec(), plan.outputs().to_vec(), None)
    }

    /// For buffers that these describe, of which no more are kept than there is `room` for.
    pub(crate) fn of(inputs: Vec<IoSpec>, outputs: Vec<IoSpec>, room: Option<Arc<IdleRoom>>) -> Self {
        let bytes: u64 = inputs.iter().chain(&outputs).map(|spec| spec.bytes() as u64).sum();
        let idle_max = match bytes <= limits::LARGE_BUFFERS_BYTES as u64 {
            true => limits::IDLE_BUFFERS_MAX,
            false => limits::IDLE_LARGE_BUFFERS_MAX,
        };
        let free = Mutex::new(Vec::with_capacity(idle_max));
        IoPool { inputs, outputs, free, idle_max, bytes, room }
    }

    /// Buffers of the host; `None` when the system has not got the memory.
    pub(crate) fn host_buffers(self: &Arc<Self>) -> Option<Buffers> {
        let zeroed = |specs: &[IoSpec]| {
            specs.iter().map(|spec| Buffer::try_zeroed(spec.bytes())).collect::<Option<Vec<_>>>()
        };
        let fresh = || Some(Io { inputs: zeroed(&self.inputs)?, outputs: zeroed(&self.outputs)? });
        Some(Buffers { io: self.take().or_else(fresh)?, pool: self.clone() })
    }

    /// Keeps `io` for a later request, unless enough are kept already or it is elsewhere.
    fn give_back(&self, io: Io) {
        if io.inputs.len() != self.inputs.len() || io.outputs.len() != self.outputs.len() {
            return;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.idle_max && self.room.as_ref().is_none_or(|room| room.take(self.bytes)) {
            free.push(io);
        }
    }

    fn take(&self) -> Option<Io> {
        let io = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        if let Some(room) = &self.room {
            room.give_back(self.bytes);
        }
        Some(io)
    }
}

/// The buffers of one request; they go back to their plan's pool when dropped.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// Empty while the device has them.
    pub(crate) io: Io,
    pub(crate) pool: Arc<IoPool>,
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.io));
    }
}

/// A plan on the device. Dropping the last reference unloads it.
pub(crate) struct PlanEntry {
    pub(crate) plan: Foreign<Arc<Plan>>,
    pub(crate) loaded: LoadedPlan,
    pub(crate) pool: Arc<IoPool>,
    /// Its number among the model's plans, for the scheduler.
    pub(crate) index: u16,
    /// What it was made for.
    key: SegmentKey,
    /// What comes after it.
    pub(crate) next: Option<HandOver>,
    /// Where the rest of its segment is, if this is not the last part of it.
    pub(crate) onward: Option<Onward>,
    device: Arc<dyn Device>,
    used: AtomicU64,
    /// Whether it stays as long as the model.
    stays: AtomicBool,
    /// Whether settings name what it is for: it stays also while nobody uses it.
    named: AtomicBool,
}

/// A plan that is to be loaded, and what comes after it.
pub(crate) struct Made {
    pub(crate) plan: Foreign<Arc<Plan>>,
    pub(crate) next: Option<HandOver>,
    pub(crate) onward: Option<Onward>,
}

/// The next part of a segment that is cut over several devices.
pub(crate) struct Onward {
    pub(crate) transfer: Transfer,
    pub(crate) entry: Arc<PlanEntry>,
    /// Which part it is.
    pub(crate) part: usize,
    /// How the segment is cut; the first part knows.
    pub(crate) divided: Option<Arc<Divided>>,
}

impl PlanEntry {
    /// Of what is loaded on the device.
    fn new(
        device: &Arc<dyn Device>,
        loaded: LoadedPlan,
        made: Made,
        key: SegmentKey,
        index: u16,
    ) -> PlanEntry {
        let Made { plan, next, onward } = made;
        let pool = Arc::new(IoPool::new(&plan));
        let (device, used) = (device.clone(), AtomicU64::new(0));
        let (stays, named) = Default::default();
        PlanEntry { plan, loaded, pool, index, key, next, onward, device, used, stays, named }
    }

    /// It stays in its table as long as the model is there.
    pub(crate) fn keep(&self) {
        self.stays.store(true, Ordering::Release);
    }

    /// It stays in its table while there is room.
    pub(crate) fn keep_unused(&self) {
        self.named.store(true, Ordering::Release);
    }

    fn may_go(&self) -> bool {
        !self.stays.load(Ordering::Acquire)
    }

    /// Whether requests begin with it.
    pub(crate) fn begins(&self) -> bool {
        self.key.part.is_none()
    }

    /// What it was made for.
    pub(crate) fn key(&self) -> &SegmentKey {
        &self.key
    }

    /// Whether a request goes on after it.
    pub(crate) fn goes_on(&self) -> bool {
        self.next.is_some() || self.onward.is_some()
    }

    /// Bytes of the buffers that it may keep.
    fn idle_bytes(&self) -> u64 {
        Io::bytes_for(&self.plan).saturating_mul(self.pool.idle_max as u64)
    }

    /// Buffers for one request; an error if the device gives none.
    pub(crate) fn buffers(&self) -> Result<Buffers, InferError> {
        let io = self.pool.take().or_else(|| self.device.alloc_io(self.loaded));
        Ok(Buffers { io: io.ok_or_else(|| self.no_buffers())?, pool: self.pool.clone() })
    }

    /// What a request is told that gets none.
    pub(crate) fn no_buffers(&self) -> InferError {
        match self.device.fault() {
            Some(_) => InferError::DeviceFault,
            None => InferError::NoMemory,
        }
    }
}

impl Drop for PlanEntry {
    fn drop(&mut self) {
        // The states of host kernels go with it: foreign code.
        if let Err(panic) = contain(|| self.device.unload(self.loaded)) {
            let plan = self.plan.name();
            log(|| tracing::error!(plan, %panic, "unloading a plan panicked"));
        }
    }
}

impl fmt::Debug for PlanEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanEntry").field("plan", &self.plan.name()).finish_non_exhaustive()
    }
}

/// Why there is no plan for a key.
#[derive(Clone, Debug)]
pub(crate) enum PlanFailure {
    /// The model does not take them.
    Shapes(String),
    /// The engine could not make a plan, whatever the shapes.
    Fault(String),
    /// The device could not take the plan.
    Device(DeviceError),
    /// The model went while the plan was made.
    Unloaded,
}

impl PlanFailure {
    /// What a request is told when its shapes get no plan.
    pub(crate) fn into_error(self, model: &ModelKey) -> InferError {
        match self {
            PlanFailure::Unloaded => InferError::Unloading(model.clone()),
            PlanFailure::Shapes(reason) => InferError::Shapes(reason),
            PlanFailure::Fault(reason) => InferError::NoPlan(reason),
            PlanFailure::Device(DeviceError::Poisoned(_)) => InferError::DeviceFault,
            // Arenas are shared by all plans, so it is these shapes alone that are too large.
            PlanFailure::Device(error) if error.is_out_of_memory() => InferError::Shapes(error.to_string()),
            PlanFailure::Device(error) => InferError::NoPlan(error.to_string()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct PlanTable {
    /// Plans that it keeps.
    len_max: usize,
    inner: Mutex<Inner>,
    compiled: Condvar,
    clock: AtomicU64,
}

/// One of the model's plan numbers.
#[derive(Debug)]
enum Place {
    Free,
    /// A plan for it is being loaded.
    Reserved,
    Ready(Arc<PlanEntry>),
}

#[derive(Debug)]
struct Inner {
    places: Vec<Place>,
    /// Where the plans that are ready are.
    by_key: HashMap<SegmentKey, u16>,
    compiling: Vec<SegmentKey>,
    failures: Vec<(SegmentKey, PlanFailure)>,
    compiled: u64,
    /// The model goes: no plan comes in any more.
    closed: bool,
    /// What the clock of uses showed at some moments, the last [`MARKS`] quarters of the longest idle time.
    marks: VecDeque<(Nanos, u64)>,
}

impl PlanTable {
    /// A table of at most `len_max` plans.
    pub(crate) fn new(len_max: usize) -> Self {
        let inner = Inner {
            places: Vec::new(),
            by_key: HashMap::new(),
            compiling: Vec::new(),
            failures: Vec::new(),
            compiled: 0,
            closed: false,
            marks: VecDeque::new(),
        };
        let (inner, compiled) = (Mutex::new(inner), Condvar::new());
        PlanTable { len_max, inner, compiled, clock: AtomicU64::new(0) }
    }

    /// The plan for this key, if it is there. Allocates nothing.
    pub(crate) fn find(&self, key: &SegmentKey) -> Option<Arc<PlanEntry>> {
        let inner = self.lock();
        let entry = inner.find(key)?;
        self.touch(entry);
        Some(entry.clone())
    }

    /// The plan with this number, if it is there.
    pub(crate) fn at(&self, index: u16) -> Option<Arc<PlanEntry>> {
        let inner = self.lock();
        match inner.places.get(usize::from(index))? {
            Place::Ready(entry) => {
                self.touch(entry);
                Some(entry.clone())
            }
            Place::Free | Place::Reserved => None,
        }
    }

    /// The plan for this key; compiles and loads it, or waits for who does. `on_new` is told the number
    /// of a plan that was added.
    pub(crate) fn find_or_make(
        &self,
        key: &SegmentKey,
        device: &Arc<dyn Device>,
        compile: impl FnOnce() -> Result<Made, PlanFailure>,
        on_new: impl FnOnce(u16),
    ) -> Result<Arc<PlanEntry>, PlanFailure> {
        let mut inner = self.lock();
        loop {
            if let Some(entry) = inner.find(key) {
                self.touch(entry);
                return Ok(entry.clone());
            }
            if inner.closed {
                return Err(PlanFailure::Unloaded);
            }
            if let Some((_, failure)) = inner.failures.iter().find(|(failed, _)| failed == key) {
                return Err(failure.clone());
            }
            if !inner.compiling.contains(key) {
                break;
            }
            inner = self.compiled.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.compiling.push(key.clone());
        drop(inner);
        let _unmark = Unmark { table: self, key };
        let made = compile().inspect_err(|failure| self.remember_failure(key, failure))?;
        self.insert(made, key, device, on_new)
    }

    /// Loads a plan for this key in the place of the one that is there, if one is: requests that have that go
    /// on with it. `on_new` as above.
    pub(crate) fn put(
        &self,
        key: &SegmentKey,
        device: &Arc<dyn Device>,
        made: Made,
        on_new: impl FnOnce(u16),
    ) -> Result<Arc<PlanEntry>, PlanFailure> {
        self.insert(made, key, device, on_new)
    }

    /// Every plan that is there.
    pub(crate) fn entries(&self) -> Vec<Arc<PlanEntry>> {
        self.lock().entries().cloned().collect()
    }

    /// Plans compiled so far.
    pub(crate) fn compiled(&self) -> u64 {
        self.lock().compiled
    }

    /// Lets go of the half of the plans that were not used for longest; of one, of none. Says whether any
    /// went.
    pub(crate) fn make_room(&self) -> bool {
        let mut inner = self.lock();
        let stay = inner.entries().count().div_ceil(2);
        let evicted = inner.evict_until(None, |inner| inner.entries().count() <= stay);
        drop(inner);
        !evicted.is_empty()
    }

    /// Takes out the plans that were not used for as long as `idle` and that `is_free` says nobody has, but
    /// for those that settings name and the one that was used last. To be called several times in that time.
    pub(crate) fn take_idle(
        &self,
        now: Nanos,
        idle: Nanos,
        is_free: impl Fn(&Arc<PlanEntry>) -> bool,
    ) -> Vec<Arc<PlanEntry>> {
        let mut inner = self.lock();
        let Some(used_until) = inner.mark(now, idle, self.clock.load(Ordering::Relaxed)) else {
            return vec![];
        };
        let used = |entry: &Arc<PlanEntry>| entry.used.load(Ordering::Relaxed);
        let last = inner.entries().map(used).max();
        let goes = |entry: &&Arc<PlanEntry>| {
            let stays = entry.named.load(Ordering::Acquire) || !entry.may_go() || Some(used(entry)) == last;
            !stays && used(entry) <= used_until && is_free(entry)
        };
        let idle: Vec<_> = inner.entries().filter(goes).cloned().collect();
        idle.iter().for_each(|entry| inner.take_out(entry));
        idle
    }

    /// Lets go of every plan, and of those that are being made once they are there.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let gone = std::mem::take(&mut inner.places);
        inner.by_key.clear();
        drop(inner);
        drop(gone);
    }

    fn insert(
        &self,
        made: Made,
        key: &SegmentKey,
        device: &Arc<dyn Device>,
        on_new: impl FnOnce(u16),
    ) -> Result<Arc<PlanEntry>, PlanFailure> {
        let (index, evicted) = self.lock().reserve(self.len_max)?;
        drop(evicted);
        let loaded = match load(device, &made.plan) {
            // The memory is full: what of the model was not used for longest goes for it.
            Err(PlanFailure::Device(error)) if error.is_out_of_memory() && self.make_room() => {
                load(device, &made.plan)
            }
            loaded => loaded,
        };
        let loaded = loaded.map(|loaded| Arc::new(PlanEntry::new(device, loaded, made, key.clone(), index)));
        let mut inner = self.lock();
        if inner.closed {
            drop(inner);
            return Err(PlanFailure::Unloaded);
        }
        let place = &mut inner.places[usize::from(index)];
        match loaded {
            Ok(entry) => {
                self.touch(&entry);
                *place = Place::Ready(entry.clone());
                let before = inner.by_key.insert(key.clone(), index);
                inner.compiled += u64::from(before.is_none());
                let replaced = before
                    .map(|before| std::mem::replace(&mut inner.places[usize::from(before)], Place::Free));
                let evicted = inner.evict_until(Some(index), Inner::fits);
                drop(inner);
                drop((replaced, evicted));
                on_new(index);
                Ok(entry)
            }
            Err(failure) => {
                *place = Place::Free;
                Err(failure)
            }
        }
    }

    fn remember_failure(&self, key: &SegmentKey, failure: &PlanFailure) {
        let mut inner = self.lock();
        if inner.failures.len() >= FAILURES_MAX {
            inner.failures.remove(0);
        }
        inner.failures.push((key.clone(), failure.clone()));
    }

    fn touch(&self, entry: &PlanEntry) {
        entry.used.store(self.clock.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads a plan on the device, which makes the states of host kernels: foreign code.
fn load(device: &Arc<dyn Device>, plan: &Arc<Plan>) -> Result<LoadedPlan, PlanFailure> {
    let loaded = contain(|| device.load(plan.clone()));
    loaded
        .map_err(|panic| PlanFailure::Fault(format!("loading it on the device panicked: {panic}")))?
        .map_err(PlanFailure::Device)
}

impl Inner {
    fn entries(&self) -> impl Iterator<Item = &Arc<PlanEntry>> {
        self.places.iter().filter_map(|place| match place {
            Place::Ready(entry) => Some(entry),
            Place::Free | Place::Reserved => None,
        })
    }

    fn find(&self, key: &SegmentKey) -> Option<&Arc<PlanEntry>> {
        match &self.places[usize::from(*self.by_key.get(key)?)] {
            Place::Ready(entry) => Some(entry),
            Place::Free | Place::Reserved => None,
        }
    }

    /// Whether the buffers that the plans may keep are few enough for one model, and so are the weights that
    /// they have beside those of the plan with the most.
    fn fits(&self) -> bool {
        self.entries().map(|entry| entry.idle_bytes()).sum::<u64>() <= limits::IDLE_BYTES_PER_MODEL_MAX as u64
            && self.further_weight_bytes() <= limits::FURTHER_WEIGHTS_PER_MODEL_MAX
    }

    /// Bytes of packed weights, each counted once, beside those of the plan with the most: what shapes make
    /// the model hold more than once, packed in other ways or made for them alone.
    fn further_weight_bytes(&self) -> usize {
        let most = self.entries().map(|entry| entry.plan.weight_bytes()).max().unwrap_or(0);
        let mut seen = HashSet::new();
        let all = self.entries().flat_map(|entry| entry.plan.weights());
        let all: usize =
            all.filter(|weight| seen.insert((weight.key, weight.packing))).map(|weight| weight.bytes).sum();
        all.saturating_sub(most)
    }

    /// Takes plans out, the least recently used first, until it is `enough`; `newest` stays.
    fn evict_until(&mut self, newest: Option<u16>, enough: impl Fn(&Inner) -> bool) -> Vec<Arc<PlanEntry>> {
        let mut evicted = vec![];
        while !enough(self) {
            let others = self.entries().filter(|entry| Some(entry.index) != newest && entry.may_go());
            let Some(oldest) = others.min_by_key(|entry| entry.used.load(Ordering::Relaxed)).cloned() else {
                break;
            };
            self.take_out(&oldest);
            evicted.push(oldest);
        }
        evicted
    }

    fn take_out(&mut self, entry: &PlanEntry) {
        self.by_key.remove(&entry.key);
        self.places[usize::from(entry.index)] = Place::Free;
    }

    /// Notes what the clock of uses shows; says what it showed as long ago as `idle`, if that is known.
    fn mark(&mut self, now: Nanos, idle: Nanos, uses: u64) -> Option<u64> {
        let due = |(last, _): &(Nanos, u64)| now.since(*last) >= Nanos(idle.0 / MARKS);
        if self.marks.back().is_none_or(due) {
            self.marks.push_back((now, uses));
        }
        let old = |(at, _): &(Nanos, u64)| now.since(*at) >= idle;
        while self.marks.get(1).is_some_and(old) {
            self.marks.pop_front();
        }
        self.marks.front().filter(|mark| old(mark)).map(|&(_, uses)| uses)
    }

    /// Reserves a number, and hands out the plan that had to go for it.
    fn reserve(&mut self, len_max: usize) -> Result<(u16, Option<Arc<PlanEntry>>), PlanFailure> {
        if self.closed {
            return Err(PlanFailure::Unloaded);
        }
        let free = self.places.iter().position(|place| matches!(place, Place::Free));
        let index = match free {
            Some(index) => index,
            None if self.places.len() < len_max => {
                self.places.push(Place::Free);
                self.places.len() - 1
            }
            None => {
                let may_go = self.entries().filter(|entry| entry.may_go());
                let oldest = may_go.min_by_key(|entry| entry.used.load(Ordering::Relaxed));
                let none = || PlanFailure::Fault("too many plans are being made at once, or stay".into());
                usize::from(oldest.ok_or_else(none)?.index)
            }
        };
        let evicted = match std::mem::replace(&mut self.places[index], Place::Reserved) {
            Place::Ready(entry) => Some(entry),
            Place::Free | Place::Reserved => None,
        };
        if let Some(entry) = &evicted {
            self.by_key.remove(&entry.key);
        }
        Ok((index as u16, evicted))
    }
}

/// Takes a key off the list of those being compiled, whatever came of it, also when compiling panics.
struct Unmark<'a> {
    table: &'a PlanTable,
    key: &'a SegmentKey,
}

impl Drop for Unmark<'_> {
    fn drop(&mut self) {
        self.table.lock().compiling.retain(|other| other != self.key);
        self.table.compiled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reef_graph::{DType, Shape};

    #[test]
    fn pools_that_share_room_keep_no_more_than_fits() {
        let room = IdleRoom::new(100);
        let pool = |rows: usize| {
            let spec = IoSpec { name: "x".into(), dtype: DType::U8, shape: Shape::from([rows]) };
            Arc::new(IoPool::of(vec![spec.clone()], vec![spec], Some(room.clone())))
        };
        let (small, large) = (pool(10), pool(30));
        let kept = |pool: &IoPool| pool.free.lock().unwrap().len();
        let held: Vec<_> = [&small, &small, &large, &large].map(|pool| pool.host_buffers().unwrap()).into();
        drop(held);
        assert_eq!((kept(&small), kept(&large)), (2, 1), "20, 20 and 60; another 60 do not fit");
        let again = small.host_buffers().unwrap();
        assert_eq!(kept(&small), 1, "one of those");
        drop(again);
        assert_eq!((kept(&small), room.left.load(Ordering::Relaxed)), (2, 0));
    }
}
