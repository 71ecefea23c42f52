//! Memory of the device and pinned memory of the host, taken in large pieces and handed out in parts.
//!
//! The driver's calls that allocate and free may wait for the device. So they are made when the device
//! starts, and what is loaded, unloaded and served takes parts of what is there: freeing a part is
//! bookkeeping. Pinned memory grows by another piece where there is not enough, which is when a plan is
//! loaded that needs more than its share (see [`PinnedPool::claim`]), and else only if somebody keeps the
//! buffers of more requests than the device has places.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offset_allocator::{Allocation, Allocator};

use crate::driver::{Context, DeviceBytes, PinnedBytes};
use crate::error::CudaError;

/// What parts of the device's memory are aligned to, and the unit that they are counted in.
const DEVICE_GRAIN: usize = 256;
/// The same of pinned memory; what buffers promise.
const PINNED_GRAIN: usize = 64;
/// Pinned memory that a device starts with.
const PINNED_BYTES: usize = 32 << 20;
/// By how much it grows at least.
const PINNED_MORE: usize = 16 << 20;
/// The share of free memory that is left to the driver: one in so many.
const LESS: u64 = 16;
/// How often so much less is asked for where the driver has less in one piece than it says.
const RETRIES: usize = 6;

/// Memory of the device that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// Bytes of the part.
    pub(crate) needed: u64,
    /// Bytes of all free parts.
    pub(crate) free: u64,
    /// Bytes of the largest part that could be had.
    pub(crate) largest: u64,
    /// Bytes of the pool.
    pub(crate) all: u64,
}

/// Why there is no memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemoryError {
    NoRoom(NoRoom),
    Driver(CudaError),
}

impl From<CudaError> for MemoryError {
    fn from(error: CudaError) -> MemoryError {
        MemoryError::Driver(error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Parts of so many bytes, counted in grains.
struct Parts {
    allocator: Allocator,
    grain: usize,
    free: u64,
}

impl Parts {
    fn new(bytes: u64, grain: usize) -> Parts {
        let grains = u32::try_from(bytes / grain as u64).unwrap_or(u32::MAX - 1);
        let free = u64::from(grains) * grain as u64;
        Parts { allocator: Allocator::new(grains), grain, free }
    }

    fn size(&self, bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(self.grain)
    }

    /// The part and the byte that it begins at.
    fn take(&mut self, bytes: usize) -> Option<(Allocation, usize)> {
        let size = self.size(bytes);
        let part = self.allocator.allocate(u32::try_from(size / self.grain).ok()?)?;
        self.free -= size as u64;
        Some((part, part.offset as usize * self.grain))
    }

    fn give_back(&mut self, part: Allocation, bytes: usize) {
        self.allocator.free(part);
        self.free += self.size(bytes) as u64;
    }

    fn largest(&self) -> u64 {
        u64::from(self.allocator.storage_report().largest_free_region) * self.grain as u64
    }
}

/// The memory of a device that plans and tasks use.
pub(crate) struct DevicePool {
    context: Arc<Context>,
    /// All of it; `None` where every part is an allocation of its own.
    whole: Option<DeviceBytes>,
    bytes: u64,
    parts: Mutex<Parts>,
}

impl DevicePool {
    /// Takes `limit` bytes, or what is free but for a little that the driver may need. `separate` takes
    /// nothing, and has the driver allocate each part, so that who watches the driver's memory sees what goes
    /// past the end of one.
    pub(crate) fn take(
        context: &Arc<Context>,
        limit: u64,
        separate: bool,
    ) -> Result<Arc<DevicePool>, CudaError> {
        let free = context.free_bytes()?;
        let most = limit.min(free - free / LESS).max(DEVICE_GRAIN as u64);
        let (whole, bytes) = if separate { (None, most) } else { Self::take_whole(context, most)? };
        let parts = Mutex::new(Parts::new(bytes, DEVICE_GRAIN));
        Ok(Arc::new(DevicePool { context: context.clone(), whole, bytes, parts }))
    }

    fn take_whole(context: &Arc<Context>, most: u64) -> Result<(Option<DeviceBytes>, u64), CudaError> {
        let mut bytes = most.next_multiple_of(DEVICE_GRAIN as u64);
        for _ in 0..RETRIES {
            match DeviceBytes::new(context, bytes as usize) {
                Err(error) if error.is_out_of_memory() => {}
                taken => return Ok((Some(taken?), bytes)),
            }
            bytes = (bytes - bytes / LESS).next_multiple_of(DEVICE_GRAIN as u64);
        }
        Ok((Some(DeviceBytes::new(context, bytes as usize)?), bytes))
    }

    /// Bytes of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A part, of any content.
    pub(crate) fn part(self: &Arc<Self>, len: usize) -> Result<DevicePart, MemoryError> {
        let Some(whole) = &self.whole else {
            let (needed, all) = (len as u64, self.bytes);
            let bytes =
                DeviceBytes::new(&self.context, len).map_err(|error| match error.is_out_of_memory() {
                    true => MemoryError::NoRoom(NoRoom { needed, free: 0, largest: 0, all }),
                    false => error.into(),
                })?;
            return Ok(DevicePart { address: bytes.address(), of: Of::Driver(bytes) });
        };
        let mut parts = lock(&self.parts);
        let Some((part, at)) = parts.take(len) else {
            let needed = parts.size(len) as u64;
            let (free, largest) = (parts.free, parts.largest());
            return Err(MemoryError::NoRoom(NoRoom { needed, free, largest, all: self.bytes }));
        };
        let address = whole.address() + at as u64;
        Ok(DevicePart { address, of: Of::Pool { pool: self.clone(), part, len } })
    }
}

/// A part of the device's memory; free again when it is dropped.
pub(crate) struct DevicePart {
    address: u64,
    of: Of,
}

enum Of {
    Driver(#[allow(dead_code, reason = "kept to be dropped")] DeviceBytes),
    Pool { pool: Arc<DevicePool>, part: Allocation, len: usize },
}

impl DevicePart {
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl std::fmt::Debug for DevicePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DevicePart({:#x})", self.address)
    }
}

impl Drop for DevicePart {
    fn drop(&mut self) {
        if let Of::Pool { pool, part, len } = &self.of {
            lock(&pool.parts).give_back(*part, *len);
        }
    }
}

/// Pinned memory for requests and host steps.
pub(crate) struct PinnedPool {
    context: Arc<Context>,
    pieces: Mutex<Pieces>,
}

#[derive(Default)]
struct Pieces {
    pieces: Vec<(PinnedBytes, Parts)>,
    /// Bytes of all.
    bytes: usize,
    /// Bytes that plans have claimed.
    claimed: usize,
}

impl Pieces {
    fn take(&mut self, len: usize) -> Option<Taken> {
        let take = |(piece, (bytes, parts)): (usize, &mut (PinnedBytes, Parts))| {
            let (part, at) = parts.take(len)?;
            Some(Taken { piece, part, at: bytes.as_ptr().wrapping_add(at) })
        };
        self.pieces.iter_mut().enumerate().find_map(take)
    }
}

struct Taken {
    piece: usize,
    part: Allocation,
    at: *mut u8,
}

/// Pinned memory that the requests of a plan may come to need.
pub(crate) struct Claim {
    pool: Arc<PinnedPool>,
    bytes: usize,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Claim({})", self.bytes)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.pool.pieces).claimed -= self.bytes;
    }
}

impl PinnedPool {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Arc<PinnedPool>, CudaError> {
        let pool = PinnedPool { context: context.clone(), pieces: Mutex::default() };
        pool.grow(PINNED_BYTES)?;
        Ok(Arc::new(pool))
    }

    fn grow(&self, bytes: usize) -> Result<(), CudaError> {
        // Without the lock: who frees buffers does not wait for the driver.
        let piece = PinnedBytes::zeroed(&self.context, bytes.next_multiple_of(PINNED_GRAIN))?;
        let parts = Parts::new(piece.len() as u64, PINNED_GRAIN);
        let mut pieces = lock(&self.pieces);
        pieces.bytes += piece.len();
        pieces.pieces.push((piece, parts));
        Ok(())
    }

    /// Has so many bytes beside what was claimed before.
    pub(crate) fn claim(self: &Arc<Self>, bytes: usize) -> Result<Claim, CudaError> {
        let mut pieces = lock(&self.pieces);
        pieces.claimed += bytes;
        let missing = pieces.claimed.saturating_sub(pieces.bytes);
        drop(pieces);
        let claim = Claim { pool: self.clone(), bytes };
        if missing > 0 {
            self.grow(missing.max(PINNED_MORE))?;
        }
        Ok(claim)
    }

    /// Bytes that nobody has claimed.
    pub(crate) fn unclaimed(&self) -> usize {
        let pieces = lock(&self.pieces);
        pieces.bytes.saturating_sub(pieces.claimed)
    }

    /// A part of zeros.
    pub(crate) fn zeroed(self: &Arc<Self>, len: usize) -> Result<PinnedPart, CudaError> {
        let mut taken = lock(&self.pieces).take(len);
        while taken.is_none() {
            // A part as large as its piece may not be found: sizes are looked for in steps of an eighth.
            self.grow((len + len / 4).max(PINNED_MORE))?;
            taken = lock(&self.pieces).take(len);
        }
        let taken = taken.expect("it was taken above");
        let mut part = PinnedPart { pool: self.clone(), taken, len };
        part.as_mut_slice().fill(0);
        Ok(part)
    }
}

/// A part of the pinned memory; free again when it is dropped. Aligned to 64 bytes, and its own up to the
/// next multiple of that.
pub(crate) struct PinnedPart {
    pool: Arc<PinnedPool>,
    taken: Taken,
    len: usize,
}

// SAFETY: it is memory like any other; who writes it has it for itself.
#[allow(unsafe_code)]
unsafe impl Send for PinnedPart {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for PinnedPart {}

impl PinnedPart {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.taken.at
    }

    #[allow(unsafe_code)]
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the part has so many bytes, of a piece that stays as long as the pool, and they are this
        // one's; nobody writes them while they are read: see `Sync`.
        unsafe { std::slice::from_raw_parts(self.taken.at, self.len) }
    }

    #[allow(unsafe_code)]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.taken.at, self.len) }
    }
}

impl Drop for PinnedPart {
    fn drop(&mut self) {
        let mut pieces = lock(&self.pool.pieces);
        pieces.pieces[self.taken.piece].1.give_back(self.taken.part, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_free_again() {
        let mut parts = Parts::new(1 << 20, 256);
        let all = parts.free;
        let made: Vec<_> = [1, 256, 257, 0, 100_000].map(|bytes| (parts.take(bytes).unwrap(), bytes)).into();
        assert!(made.iter().all(|((_, at), _)| at % 256 == 0));
        assert_eq!(all - parts.free, 256 * (1 + 1 + 2 + 1 + 391));
        let mut ranges: Vec<_> = made.iter().map(|((_, at), bytes)| (*at, at + bytes)).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:?}");
        made.into_iter().for_each(|((part, _), bytes)| parts.give_back(part, bytes));
        assert_eq!((parts.free, parts.largest()), (all, all));
        assert!(parts.take(1 << 20).is_some());
    }

    #[test]
    fn free_memory_may_lie_in_pieces() {
        let mut parts = Parts::new(64 * 256, 256);
        let mut made: Vec<_> = (0..64).map(|_| parts.take(256).unwrap().0).collect();
        assert!(parts.take(1).is_none());
        for at in (0..32).rev() {
            parts.give_back(made.swap_remove(2 * at), 256);
        }
        let free = parts.free;
        assert_eq!((free, parts.take(512).is_none()), (32 * 256, true));
        assert!(parts.largest() < 512);
    }
}
