//! The thread that does what the board says, and tells it what has ended.
//!
//! It alone queues anything for tasks. What the device writes for the host lies in pinned memory: a report
//! for each launch, the number last, so that whoever sees it sees all of it. What the host writes for the
//! device lies there too: a word for each slot that keeps its blocks from starting.
//!
//! Nobody waits in the driver: while launches are under way the thread looks for reports, closely at first,
//! then every [`NAP`]; a device that has failed says so when it is asked, every [`ASK`].

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reef_base::{MonotonicClock, Nanos};
use reef_device::Wake;

use crate::board::{Action, Board, Ended, OUTSTANDING_MAX, SLOTS};
use crate::clock::DeviceClock;
use crate::descriptor::{Launch, Report};
use crate::driver::{Context, DeviceBytes, Function, Grid, PinnedBytes, Stream};
use crate::error::CudaError;
use crate::loaded::Loaded;

/// Reports at a time: more than launches that are under way.
const REPORTS: usize = (SLOTS * (OUTSTANDING_MAX + 1)).next_power_of_two();
/// Bytes between the words of two slots.
const WORD_PITCH: usize = 64;
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
    offered: Mutex<Vec<Option<DeviceBytes>>>,
    /// What is to be dropped by who has time.
    retired: Mutex<Vec<Retired>>,
}

/// Memory of the device that nothing uses any more. Freeing it may wait for the device.
enum Retired {
    Plan(#[allow(dead_code, reason = "kept to be dropped")] Arc<Loaded>),
    Memory(#[allow(dead_code, reason = "kept to be dropped")] DeviceBytes),
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
            offered: Mutex::new((0..SLOTS).map(|_| None).collect()),
            retired: Mutex::default(),
        }
    }

    pub(crate) fn board(&self) -> MutexGuard<'_, Board<Arc<Loaded>>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to do.
    pub(crate) fn call(&self) {
        self.work.notify_one();
    }

    /// Completions may be there, or a fault.
    pub(crate) fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn set_waker(&self, waker: Arc<dyn Wake>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
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

    /// Memory for tasks of a slot that need more than they have.
    pub(crate) fn offer(&self, slot: usize, bytes: DeviceBytes) {
        let before = self.offered.lock().unwrap_or_else(PoisonError::into_inner)[slot].replace(bytes);
        drop(before);
    }

    /// Frees what nothing uses any more; may wait for the device.
    pub(crate) fn collect(&self) {
        let retired = std::mem::take(&mut *self.retired.lock().unwrap_or_else(PoisonError::into_inner));
        drop(retired);
    }

    fn retire(&self, one: Retired) {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(one);
    }
}

/// The streams of a slot's tasks: best-effort, real-time.
type Streams = [Stream; 2];

/// The thread's own things.
pub(crate) struct Feeder {
    shared: Arc<Shared>,
    mark: Function,
    streams: Vec<Streams>,
    /// By slot.
    memory: Vec<Option<DeviceBytes>>,
    /// A count of blocks for each slot.
    arrivals: DeviceBytes,
    /// Reports, then words.
    pinned: PinnedBytes,
    pinned_address: u64,
    clock: DeviceClock,
}

impl Feeder {
    pub(crate) fn new(shared: Arc<Shared>, mark: Function) -> Result<Feeder, CudaError> {
        let context = shared.context.clone();
        let (least, greatest) = context.priorities()?;
        let streams = (0..SLOTS)
            .map(|_| Ok([Stream::new(&context, least)?, Stream::new(&context, greatest)?]))
            .collect::<Result<Vec<Streams>, CudaError>>()?;
        let arrivals = DeviceBytes::new(&context, SLOTS * size_of::<u64>())?;
        streams[0][0].clear(&arrivals)?;
        streams[0][0].synchronize()?;
        let pinned = PinnedBytes::zeroed(&context, REPORTS * size_of::<Report>() + SLOTS * WORD_PITCH)?;
        let pinned_address = pinned.device_address()?;
        let memory = (0..SLOTS).map(|_| None).collect();
        let clock = DeviceClock::new(Nanos::ZERO, 0);
        let mut feeder = Feeder { shared, mark, streams, memory, arrivals, pinned, pinned_address, clock };
        feeder.clock = feeder.read_clock()?;
        Ok(feeder)
    }

    /// Compares the clocks.
    fn read_clock(&self) -> Result<DeviceClock, CudaError> {
        // The second time the code is there already.
        let mut clock = self.clock;
        for _ in 0..2 {
            let before = MonotonicClock::read();
            self.queue_mark(0, 0, 0)?;
            self.streams[0][0].synchronize()?;
            let middle = before.0 + (MonotonicClock::read() - before).0 / 2;
            clock = DeviceClock::new(Nanos(middle), self.report(0).begun_ns);
        }
        Ok(clock)
    }

    /// Feeds the device until it is told to stop, or the device fails.
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
        self.shared.context.enter()?;
        let mut last = Instant::now();
        while !self.shared.stopping.load(Ordering::Acquire) {
            if self.step()? {
                last = Instant::now();
                continue;
            }
            let board = self.shared.board();
            if !board.is_busy() {
                let quiet = Duration::from_millis(100);
                drop(self.shared.work.wait_timeout(board, quiet).unwrap_or_else(PoisonError::into_inner));
                last = Instant::now();
                continue;
            }
            drop(board);
            match last.elapsed() {
                since if since < CLOSE_LOOK => std::thread::yield_now(),
                since if since < ASK => std::thread::sleep(NAP),
                _ => {
                    self.streams.iter().flatten().try_for_each(|stream| stream.is_done().map(drop))?;
                    std::thread::sleep(NAP);
                }
            }
        }
        Ok(())
    }

    /// Tells of what has ended and does what there is to do; whether there was anything.
    fn step(&mut self) -> Result<bool, CudaError> {
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
            let fault = self.take_fault(number, &report).map(|value| (board.awaited_kernel(slot), value));
            let fault = fault.and_then(|(kernel, value)| Some(loaded.fault(kernel?, value)));
            let told = Ended { skipped: report.skipped, fault, begun, ended: end };
            if let Some(kernel) = board.ended(slot, told, MonotonicClock::read()) {
                loaded.measured(kernel, end - begun);
            }
            progress = true;
        }
        let completed = !before && board.has_completions();
        // Who has a plan for itself frees it, which takes time.
        let retired: Vec<Arc<Loaded>> = board.take_retired().collect();
        drop(board);
        for plan in retired {
            if Arc::strong_count(&plan) == 1 {
                self.shared.retire(Retired::Plan(plan));
            }
        }
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
            Action::Evict(slot) => self.word(slot).store(1, Ordering::Relaxed),
            Action::Allow(slot) => self.word(slot).store(0, Ordering::Relaxed),
            Action::Launch { slot, kernel, number, first } => {
                if first {
                    self.begin(slot)?;
                }
                self.launch(slot, kernel, number)?;
            }
            Action::Finish { slot, number } => self.finish(slot, number)?,
        }
        Ok(())
    }

    /// Readies the slot's memory for its task.
    #[allow(unsafe_code)]
    fn begin(&mut self, slot: usize) -> Result<(), CudaError> {
        self.word(slot).store(0, Ordering::Relaxed);
        let offered = self.shared.offered.lock().unwrap_or_else(PoisonError::into_inner)[slot].take();
        if let Some(larger) = offered
            && let Some(before) = self.memory[slot].replace(larger)
        {
            self.shared.retire(Retired::Memory(before));
        }
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

    #[allow(unsafe_code)]
    fn launch(&self, slot: usize, kernel: usize, number: u32) -> Result<(), CudaError> {
        let mut board = self.shared.board();
        let real_time = board.is_real_time(slot);
        let kernel = board.at_work(slot).0.kernels[kernel];
        drop(board);
        let launch =
            Launch { descriptor: kernel.descriptor, ..self.launch_of(slot, number, kernel.grid.blocks) };
        // SAFETY: the function takes a launch; its plan, and with it descriptor and weights, stays until the
        // task is over, which is not before this launch is told of.
        unsafe { self.streams[slot][usize::from(real_time)].launch(kernel.function, kernel.grid, &launch) }
    }

    #[allow(unsafe_code)]
    fn finish(&self, slot: usize, number: u32) -> Result<(), CudaError> {
        let base = self.base(slot);
        let mut board = self.shared.board();
        let real_time = board.is_real_time(slot);
        let (loaded, io) = board.at_work(slot);
        let outputs = loaded.layout.outputs.clone();
        for (output, at) in io.outputs.iter_mut().zip(outputs) {
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
        unsafe { self.streams[slot][class].launch(self.mark, grid, &self.launch_of(slot, number, 1)) }
    }

    fn launch_of(&self, slot: usize, number: u32, blocks: u32) -> Launch {
        Launch {
            descriptor: 0,
            base: self.memory[slot].as_ref().map_or(0, DeviceBytes::address),
            evicted: self.pinned_address + Self::word_at(slot) as u64,
            arrivals: self.arrivals.address() + (slot * size_of::<u64>()) as u64,
            report: self.pinned_address + Self::report_at(number) as u64,
            number,
            blocks,
        }
    }

    fn base(&self, slot: usize) -> u64 {
        self.memory[slot].as_ref().expect("memory is offered before a plan that needs it is loaded").address()
    }

    fn report_at(number: u32) -> usize {
        number as usize % REPORTS * size_of::<Report>()
    }

    fn word_at(slot: usize) -> usize {
        REPORTS * size_of::<Report>() + slot * WORD_PITCH
    }

    /// A word that the device reads or writes as well.
    #[allow(unsafe_code)]
    fn shared_word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: the place is inside the memory and aligned, and all who use it do so atomically.
        unsafe { AtomicU32::from_ptr(self.pinned.as_ptr().add(at).cast()) }
    }

    fn word(&self, slot: usize) -> &AtomicU32 {
        self.shared_word(Self::word_at(slot))
    }

    fn has_ended(&self, number: u32) -> bool {
        let at = Self::report_at(number) + std::mem::offset_of!(Report, number);
        self.shared_word(at).load(Ordering::Acquire) == number
    }

    /// The value that a kernel failed by, if it did; the place is as good as new afterwards.
    fn take_fault(&self, number: u32, report: &Report) -> Option<i64> {
        let at = Self::report_at(number) + std::mem::offset_of!(Report, failed);
        (report.failed != 0).then(|| {
            self.shared_word(at).store(0, Ordering::Relaxed);
            report.failed_value
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
