//! The thread that does what the board says, and tells it what has ended.
//!
//! It alone queues anything for tasks. What the device writes for the host lies in pinned memory: a report
//! for each launch, the number last, so that whoever sees it sees all of it. What the host writes for the
//! device, the epochs that are evicted, is written by a stream of its own into the device's memory.
//!
//! Nobody waits in the driver: while launches are under way the thread looks for reports, closely at first
//! and as long as one is a real-time task's, else every [`NAP`] or when it is called; a device that has
//! failed says so when it is asked, every [`ASK`].

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reef_base::{MonotonicClock, Nanos};
use reef_device::Wake;

use crate::board::{AHEAD_MIN, Action, Board, Ended, Pads, REPORTS, SLOTS};
use crate::clock::DeviceClock;
use crate::code::Code;
use crate::descriptor::{Launch, PART_OWN, Padded, Report};
use crate::driver::{Context, DeviceBytes, Grid, PinnedBytes, Stream};
use crate::error::CudaError;
use crate::host_step::Staged;
use crate::hosting::{Hosts, Job};
use crate::loaded::{Launchable, Loaded};
use crate::memory::{DevicePart, PinnedPart};
use crate::slots::{ARRIVALS_AT, EPOCH_AT, EVICTED_AT, NUMBER_AT, SLOT_BYTES, SlotPlaces};

/// Times that the way to the device and back is measured at the start.
const ROUND_TRIPS: u32 = 9;
/// Round trips that a task's queue reaches beyond what runs: this thread has others to look after as well.
const AHEAD_ROUND_TRIPS: u64 = 2;
/// How long it looks closely after something happened, and how long it sleeps afterwards.
const CLOSE_LOOK: Duration = Duration::from_micros(200);
/// See above.
const NAP: Duration = Duration::from_micros(50);
/// How long nothing happens before the device is asked whether it has failed.
const ASK: Duration = Duration::from_millis(20);

/// What the thread shares with the device's callers.
pub(crate) struct Shared {
    pub(crate) context: Arc<Context>,
    board: Mutex<Board<Arc<Loaded>>>,
    /// Something is there to do for the thread.
    work: Condvar,
    /// Something has ended.
    settled: Condvar,
    waker: Mutex<Option<Arc<dyn Wake>>>,
    stopping: AtomicBool,
    /// Whether the board has a fault.
    faulty: AtomicBool,
    /// Memory for the tasks of each slot, not taken yet: never smaller than what the slot has.
    offered: Mutex<Vec<SlotMemory>>,
    /// Whether there is some.
    has_offers: AtomicBool,
    /// Threads for host steps, once a plan has one.
    pub(crate) hosts: OnceLock<Hosts>,
    /// Plans that nothing uses any more, to be dropped by who has time: foreign code may be among them.
    retired: Mutex<Vec<Arc<Loaded>>>,
}

/// Memory of a slot, for its tasks one after the other.
#[derive(Default)]
pub(crate) struct SlotMemory {
    pub(crate) device: Option<DevicePart>,
    /// For host steps.
    pub(crate) staging: Option<Arc<Mutex<PinnedPart>>>,
}

impl SlotMemory {
    /// Takes what is there of `other` in place of its own, which is free then.
    fn replace(&mut self, other: SlotMemory) {
        if other.device.is_some() {
            self.device = other.device;
        }
        if other.staging.is_some() {
            self.staging = other.staging;
        }
    }
}

impl Shared {
    pub(crate) fn new(context: Arc<Context>, board: Board<Arc<Loaded>>) -> Shared {
        Shared {
            context,
            board: Mutex::new(board),
            work: Condvar::new(),
            settled: Condvar::new(),
            waker: Mutex::default(),
            stopping: AtomicBool::new(false),
            faulty: AtomicBool::new(false),
            offered: Mutex::new((0..SLOTS).map(|_| SlotMemory::default()).collect()),
            has_offers: AtomicBool::new(false),
            hosts: OnceLock::new(),
            retired: Mutex::default(),
        }
    }

    pub(crate) fn board(&self) -> MutexGuard<'_, Board<Arc<Loaded>>> {
        lock(&self.board)
    }

    /// There is something to do.
    pub(crate) fn call(&self) {
        self.work.notify_one();
    }

    /// Completions may be there, or a fault.
    pub(crate) fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn set_waker(&self, waker: Arc<dyn Wake>) {
        *lock(&self.waker) = Some(waker);
    }

    /// Ends every task, and the feeder when the device has nothing to do any more.
    pub(crate) fn stop(&self) {
        let mut board = self.board();
        board.poison("it is shut down", MonotonicClock::read());
        self.stopping.store(true, Ordering::Release);
        drop(board);
        self.work.notify_all();
    }

    /// Every task ends with a fault.
    pub(crate) fn poison(&self, reason: &str) {
        self.board().poison(reason, MonotonicClock::read());
        self.faulty.store(true, Ordering::Release);
        self.call();
        self.wake();
    }

    /// Why the device is out of service.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.faulty.load(Ordering::Acquire) { self.board().fault.clone() } else { None }
    }

    /// Waits until nothing is queued; false if that takes longer than `timeout`.
    pub(crate) fn settle(&self, timeout: Duration) -> bool {
        let board = self.board();
        let waited = self.settled.wait_timeout_while(board, timeout, |board| board.is_busy());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Memory for tasks that need more than the slots have, by slot. A slot takes it when it has no task.
    pub(crate) fn offer(&self, memory: Vec<SlotMemory>) {
        lock(&self.offered).iter_mut().zip(memory).for_each(|(offered, memory)| offered.replace(memory));
        // With the lock that the feeder looks under before it waits.
        let board = self.board();
        self.has_offers.store(true, Ordering::Release);
        drop(board);
        self.call();
    }

    /// What the host ran of a task has ended.
    pub(crate) fn host_ended(&self, slot: usize, ended: Ended) {
        let mut board = self.board();
        let before = board.has_completions();
        board.ended(slot, ended, MonotonicClock::read());
        let completed = !before && board.has_completions();
        drop(board);
        self.settled.notify_all();
        self.call();
        if completed {
            self.wake();
        }
    }

    /// Drops what nothing uses any more.
    pub(crate) fn collect(&self) {
        let retired = std::mem::take(&mut *lock(&self.retired));
        drop(retired);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The streams of a slot's tasks: best-effort, real-time.
type Streams = [Stream; 2];

/// The thread's own things.
pub(crate) struct Feeder {
    shared: Arc<Shared>,
    code: Arc<Code>,
    streams: Vec<Streams>,
    /// By slot.
    memory: Vec<SlotMemory>,
    /// What the device keeps of each slot: see [`crate::slots`].
    slots: DeviceBytes,
    /// Of what is queued next for each slot.
    epochs: [u32; SLOTS],
    /// For what must not wait behind kernels.
    control: Stream,
    /// Reports.
    pinned: PinnedBytes,
    pinned_address: u64,
    clock: DeviceClock,
    /// Launches so far.
    runs: u64,
}

impl Feeder {
    pub(crate) fn new(shared: Arc<Shared>, code: Arc<Code>) -> Result<Feeder, CudaError> {
        let context = shared.context.clone();
        let (least, greatest) = context.priorities()?;
        // The first one: if the driver has fewer queues than streams, it shares one with a late slot.
        let control = Stream::new(&context, greatest)?;
        let streams = (0..SLOTS)
            .map(|_| Ok([Stream::new(&context, least)?, Stream::new(&context, greatest)?]))
            .collect::<Result<Vec<Streams>, CudaError>>()?;
        let slots = DeviceBytes::new(&context, SLOTS * SLOT_BYTES)?;
        streams[0][0].clear(&slots)?;
        streams[0][0].synchronize()?;
        let pinned = PinnedBytes::zeroed(&context, REPORTS * size_of::<Report>())?;
        let pinned_address = pinned.device_address()?;
        let mut feeder = Feeder {
            shared,
            code,
            streams,
            memory: (0..SLOTS).map(|_| SlotMemory::default()).collect(),
            slots,
            epochs: [1; SLOTS],
            control,
            pinned,
            pinned_address,
            clock: DeviceClock::new(Nanos::ZERO, 0),
            runs: 0,
        };
        let (clock, round_trip) = feeder.read_clock()?;
        feeder.clock = clock;
        feeder.shared.board().ahead = Nanos(round_trip.0 * AHEAD_ROUND_TRIPS).max(AHEAD_MIN);
        Ok(feeder)
    }

    /// Where graphs find what they share with it.
    pub(crate) fn places(&self) -> SlotPlaces {
        SlotPlaces { slots: self.slots.address(), reports: self.pinned_address }
    }

    /// Compares the clocks; and how long it takes until what is queued on the
    /// idle device was told of.
    fn read_clock(&self) -> Result<(DeviceClock, Nanos), CudaError> {
        // The first time the code comes to the device.
        let mut best = (self.clock, Nanos(u64::MAX));
        for number in 1..=ROUND_TRIPS {
            let before = MonotonicClock::read();
            self.queue_mark(0, 0, number)?;
            while !self.has_ended(number) && !self.streams[0][0].is_done()? {
                std::hint::spin_loop();
            }
            let took = MonotonicClock::read() - before;
            self.until_done()?;
            if number > 1 && took < best.1 {
                let middle = Nanos(before.0 + took.0 / 2);
                best = (DeviceClock::new(middle, self.report(number).begun_ns), took);
            }
            self.forget(number);
        }
        Ok(best)
    }

    /// Waits until no stream has anything to do, without waiting in the driver.
    fn until_done(&self) -> Result<(), CudaError> {
        for stream in self.streams.iter().flatten() {
            while !stream.is_done()? {
                std::thread::sleep(NAP);
            }
        }
        Ok(())
    }

    /// Feeds the device until it is told to stop and nothing is queued any more, or the device fails.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.feed() {
            let reason = format!("the GPU failed: {error}");
            self.shared.board().abandon(&reason, MonotonicClock::read());
            self.shared.faulty.store(true, Ordering::Release);
            self.shared.settled.notify_all();
            self.shared.wake();
        }
    }

    fn feed(&mut self) -> Result<(), CudaError> {
        let mut last = Instant::now();
        loop {
            if self.step()? {
                last = Instant::now();
                continue;
            }
            let mut board = self.shared.board();
            // Asked again with the lock that is held until the wait begins: who changed the board meanwhile
            // may have called before anybody waited.
            if let Some(action) = board.next() {
                drop(board);
                self.act(action)?;
                continue;
            }
            if board.awaited().next().is_none() {
                if self.shared.stopping.load(Ordering::Acquire) {
                    break;
                }
                if self.shared.has_offers.load(Ordering::Acquire) {
                    continue;
                }
                let quiet = Duration::from_millis(100);
                drop(self.shared.work.wait_timeout(board, quiet).unwrap_or_else(PoisonError::into_inner));
                last = Instant::now();
                continue;
            }
            let since = last.elapsed();
            if since < CLOSE_LOOK || board.has_real_time() {
                drop(board);
                std::thread::yield_now();
            } else {
                // Who has something to do wakes it.
                drop(self.shared.work.wait_timeout(board, NAP).unwrap_or_else(PoisonError::into_inner));
            }
            if since >= ASK {
                self.streams.iter().flatten().try_for_each(|stream| stream.is_done().map(drop))?;
                last = Instant::now();
            }
        }
        // What has told of its end may not quite be over.
        self.until_done()
    }

    /// Tells of what has ended and does what there is to do; whether there was anything.
    fn step(&mut self) -> Result<bool, CudaError> {
        if self.shared.has_offers.swap(false, Ordering::AcqRel) {
            self.grow_idle();
        }
        let mut progress = self.tell();
        loop {
            let action = self.shared.board().next();
            let Some(action) = action else { break };
            progress = true;
            self.act(action)?;
        }
        Ok(progress)
    }

    fn tell(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut board = shared.board();
        let (before, mut progress) = (board.has_completions(), false);
        loop {
            let ended = |&(_, number): &(usize, u32)| self.has_ended(number);
            let Some((slot, number)) = board.awaited().find(ended) else { break };
            let report = self.report(number);
            self.clock.seen(report.ended_ns, MonotonicClock::read());
            let (begun, end) = (self.clock.host(report.begun_ns), self.clock.host(report.ended_ns));
            let loaded = board.at_work(slot).0.clone();
            let fault = self.take_fault(number, &report).map(|(kernel, value)| loaded.fault(kernel, value));
            let told = Ended { skipped: report.skipped, fault, begun, ended: end };
            if let Some(kernel) = board.ended(slot, told, MonotonicClock::read()) {
                loaded.measured(kernel, end - begun);
            }
            progress = true;
        }
        let completed = !before && board.has_completions();
        for plan in board.take_retired() {
            // Who has a plan for itself frees it, which takes time.
            if Arc::strong_count(&plan) == 1 {
                lock(&self.shared.retired).push(plan);
            }
        }
        drop(board);
        if progress {
            self.shared.settled.notify_all();
        }
        if completed {
            self.shared.wake();
        }
        progress
    }

    fn act(&mut self, action: Action) -> Result<(), CudaError> {
        match action {
            Action::Evict(slot) => {
                let (epoch, at) = (self.epochs[slot], slot * SLOT_BYTES + EVICTED_AT);
                self.control.write(&self.slots, at, epoch)?;
            }
            Action::Allow(slot) => self.next_epoch(slot),
            Action::Launch { slot, kernel, from, number, first, padding } => {
                if first {
                    self.begin(slot)?;
                }
                self.launch((slot, kernel, number), from, padding)?;
            }
            Action::Graph { slot, kernel, number, first } => {
                if first {
                    self.begin(slot)?;
                }
                self.launch_graph(slot, kernel, number)?;
            }
            Action::Fetch { slot, kernel, number, first } => {
                if first {
                    self.begin(slot)?;
                }
                self.fetch(slot, kernel, number)?;
            }
            Action::Run { slot, kernel } => self.run_on_host(slot, kernel),
            Action::Store { slot, kernel, number } => self.store(slot, kernel, number)?,
            Action::Finish { slot, number } => self.finish(slot, number)?,
        }
        Ok(())
    }

    /// Has slots without a task take what they are offered, so that what they had is free.
    fn grow_idle(&mut self) {
        let board = self.shared.board();
        let idle: Vec<usize> = (0..SLOTS).filter(|&slot| !board.has_begun(slot)).collect();
        drop(board);
        // Only this thread begins tasks.
        idle.into_iter().for_each(|slot| self.grow(slot));
    }

    fn grow(&mut self, slot: usize) {
        let offered = std::mem::take(&mut lock(&self.shared.offered)[slot]);
        self.memory[slot].replace(offered);
    }

    /// Readies the slot's memory for its task.
    #[allow(unsafe_code)]
    fn begin(&mut self, slot: usize) -> Result<(), CudaError> {
        self.next_epoch(slot);
        self.grow(slot);
        let base = self.base(slot);
        let mut board = self.shared.board();
        let real_time = board.is_real_time(slot);
        let (loaded, io) = board.at_work(slot);
        for (input, &at) in io.inputs.iter().zip(&loaded.layout.inputs) {
            let bytes = input.as_slice();
            // SAFETY: the task keeps its buffers until the launch behind this copy has ended, and the slot's
            // memory has room for each input at its place.
            unsafe {
                let stream = &self.streams[slot][usize::from(real_time)];
                stream.upload(base + at as u64, bytes.as_ptr(), bytes.len())?;
            }
        }
        Ok(())
    }

    /// What was evicted of a slot stays so; what is queued from now on starts.
    fn next_epoch(&mut self, slot: usize) {
        self.epochs[slot] = self.epochs[slot].wrapping_add(1);
    }

    /// Queues the blocks of a kernel from `from` on, and what pads them.
    #[allow(unsafe_code)]
    fn launch(
        &mut self,
        (slot, kernel, number): (usize, usize, u32),
        from: u32,
        padding: Option<Pads>,
    ) -> Result<(), CudaError> {
        let shared = self.shared.clone();
        let mut board = shared.board();
        let class = usize::from(board.is_real_time(slot));
        let mut launchable =
            |slot, kernel| board.at_work(slot).0.launchable(kernel).expect("the board knows host steps");
        let index = kernel;
        let kernel = launchable(slot, kernel);
        let pads = padding.map(|pads| (pads, launchable(pads.slot, pads.kernel)));
        drop(board);
        let launch = self.launch_of(slot, number, (index, kernel), from..kernel.grid.blocks);
        let Some((pads, padding)) = pads else {
            let grid = Grid { blocks: launch.blocks, ..kernel.grid };
            // SAFETY: the function takes a launch; its plan, and with it descriptor and weights, stays until
            // the task is over, which is not before this launch is told of.
            return unsafe { self.streams[slot][class].launch(kernel.tile.function, grid, &launch) };
        };
        let grid = Grid {
            blocks: launch.blocks + pads.blocks,
            shared_bytes: kernel.grid.shared_bytes.max(padding.grid.shared_bytes),
            ..kernel.grid
        };
        let blocks = pads.from..pads.from + pads.blocks;
        let padded = self.launch_of(pads.slot, pads.number, (pads.kernel, padding), blocks);
        let both = Padded { kernel: launch, padding: padded };
        let function = self.code.proxy(kernel.tile, padding.tile);
        // SAFETY: as above; a proxy takes two launches.
        unsafe { self.streams[slot][class].launch(function, grid, &both) }
    }

    /// Queues the graph that begins with a kernel.
    #[allow(unsafe_code)]
    fn launch_graph(&self, slot: usize, kernel: usize, number: u32) -> Result<(), CudaError> {
        let mut board = self.shared.board();
        let class = usize::from(board.is_real_time(slot));
        let loaded = board.at_work(slot).0.clone();
        drop(board);
        let stream = &self.streams[slot][class];
        stream.write(&self.slots, slot * SLOT_BYTES + EPOCH_AT, self.epochs[slot])?;
        stream.write(&self.slots, slot * SLOT_BYTES + NUMBER_AT, number)?;
        let graphs = loaded.graphs().expect("the board knows which plans have graphs");
        let own = graphs.of(slot, kernel, self.base(slot))?;
        // SAFETY: the functions take launches; the plan, and with it descriptors, weights and the graph,
        // stays until the task is over, which is not before this launch is told of.
        unsafe { stream.launch_graph(&own.graph) }
    }

    /// Queues the copies of a host step's operands to the slot's pinned memory.
    #[allow(unsafe_code)]
    fn fetch(&self, slot: usize, kernel: usize, number: u32) -> Result<(), CudaError> {
        let (base, staging) = (self.base(slot), lock(self.staging(slot)).as_ptr());
        let mut board = self.shared.board();
        let class = usize::from(board.is_real_time(slot));
        let loaded = board.at_work(slot).0;
        for Staged { region, at } in &loaded.host_step(kernel).expect("it is one").reads {
            let to = staging.wrapping_add(*at);
            // SAFETY: the slot's memory and its pinned memory have room for each operand at its place, and
            // stay until the task is over; nobody looks there before the mark is told of.
            unsafe { self.streams[slot][class].download(to, base + loaded.offset(region), region.bytes) }?;
        }
        drop(board);
        self.queue_mark(slot, class, number)
    }

    fn run_on_host(&self, slot: usize, kernel: usize) {
        let loaded = self.shared.board().at_work(slot).0.clone();
        let job = Job { loaded, kernel, staging: self.staging(slot).clone() };
        self.shared.hosts.get().expect("threads start before such a plan is loaded").give(slot, job);
    }

    /// Queues the copies of a host step's results to the device.
    #[allow(unsafe_code)]
    fn store(&self, slot: usize, kernel: usize, number: u32) -> Result<(), CudaError> {
        let (base, staging) = (self.base(slot), lock(self.staging(slot)).as_ptr());
        let mut board = self.shared.board();
        let class = usize::from(board.is_real_time(slot));
        let loaded = board.at_work(slot).0;
        for Staged { region, at } in &loaded.host_step(kernel).expect("it is one").writes {
            let from = staging.wrapping_add(*at);
            // SAFETY: as in `fetch`; the host is through with it.
            unsafe { self.streams[slot][class].upload(base + loaded.offset(region), from, region.bytes) }?;
        }
        drop(board);
        self.queue_mark(slot, class, number)
    }

    #[allow(unsafe_code)]
    fn finish(&self, slot: usize, number: u32) -> Result<(), CudaError> {
        let base = self.base(slot);
        let mut board = self.shared.board();
        let real_time = board.is_real_time(slot);
        let (loaded, io) = board.at_work(slot);
        for (output, &at) in io.outputs.iter_mut().zip(&loaded.layout.outputs) {
            let bytes = output.as_mut_slice();
            // SAFETY: as in `begin`; nobody reads the outputs before the mark is told of.
            unsafe {
                let stream = &self.streams[slot][usize::from(real_time)];
                stream.download(bytes.as_mut_ptr(), base + at as u64, bytes.len())?;
            }
        }
        drop(board);
        self.queue_mark(slot, usize::from(real_time), number)
    }

    #[allow(unsafe_code)]
    fn queue_mark(&self, slot: usize, class: usize, number: u32) -> Result<(), CudaError> {
        let grid = Grid { blocks: 1, threads: 1, shared_bytes: 0 };
        // SAFETY: the mark takes a launch, and all that it uses of it lives as long as `self`.
        unsafe { self.streams[slot][class].launch(self.code.mark, grid, &self.mark_of(slot, number)) }
    }

    fn launch_of(
        &mut self,
        slot: usize,
        number: u32,
        (index, kernel): (usize, Launchable),
        blocks: std::ops::Range<u32>,
    ) -> Launch {
        self.runs += 1;
        Launch {
            descriptor: kernel.descriptor,
            first: blocks.start,
            blocks: blocks.end - blocks.start,
            function: kernel.tile.number,
            kernel: index as u32,
            run: self.runs,
            ..self.mark_of(slot, number)
        }
    }

    /// A launch of one block that has no descriptor.
    fn mark_of(&self, slot: usize, number: u32) -> Launch {
        let places = self.places();
        Launch {
            descriptor: 0,
            base: self.memory[slot].device.as_ref().map_or(0, DevicePart::address),
            evicted: places.of(slot, EVICTED_AT),
            arrivals: places.of(slot, ARRIVALS_AT),
            report: self.pinned_address + Self::report_at(number) as u64,
            number,
            first: 0,
            blocks: 1,
            function: 0,
            epoch: self.epochs[slot],
            kernel: 0,
            part: PART_OWN,
            reserved: 0,
            run: 0,
        }
    }

    fn base(&self, slot: usize) -> u64 {
        let memory = self.memory[slot].device.as_ref();
        memory.expect("memory is offered before a plan that needs it is loaded").address()
    }

    fn staging(&self, slot: usize) -> &Arc<Mutex<PinnedPart>> {
        self.memory[slot].staging.as_ref().expect("it is offered before a plan that needs it is loaded")
    }

    fn report_at(number: u32) -> usize {
        number as usize % REPORTS * size_of::<Report>()
    }

    /// A word that the device reads or writes as well.
    #[allow(unsafe_code)]
    fn shared_word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: the place is inside the memory and aligned, and all who use it do so atomically.
        unsafe { AtomicU32::from_ptr(self.pinned.as_ptr().add(at).cast()) }
    }

    fn has_ended(&self, number: u32) -> bool {
        let at = Self::report_at(number) + std::mem::offset_of!(Report, number);
        self.shared_word(at).load(Ordering::Acquire) == number
    }

    /// No launch has written a report.
    fn forget(&self, number: u32) {
        let at = Self::report_at(number) + std::mem::offset_of!(Report, number);
        self.shared_word(at).store(0, Ordering::Relaxed);
    }

    /// The kernel that failed, if one did, and the value; the place is as good as new afterwards.
    fn take_fault(&self, number: u32, report: &Report) -> Option<(usize, i64)> {
        let at = Self::report_at(number) + std::mem::offset_of!(Report, failed);
        (report.failed != 0).then(|| {
            self.shared_word(at).store(0, Ordering::Relaxed);
            (report.failed as usize - 1, report.failed_value)
        })
    }

    /// The report of a launch that has ended.
    #[allow(unsafe_code)]
    fn report(&self, number: u32) -> Report {
        // SAFETY: the place is inside the memory and aligned; the device has written all of it, and the next
        // launch that writes there is queued after this one was told of.
        unsafe { std::ptr::read_volatile(self.pinned.as_ptr().add(Self::report_at(number)).cast()) }
    }
}
