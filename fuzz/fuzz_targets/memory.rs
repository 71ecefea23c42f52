//! What a target may take: few bytes of a client must not become many here.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that any input may take, however short it is.
const FREE: usize = 256 << 10;

/// Runs a target on an input; panics if that took more memory than `factor` times its length, and some.
pub fn within(factor: usize, input: &[u8], target: impl FnOnce(&[u8])) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    target(input);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken <= FREE + factor * input.len(), "{taken} bytes of memory for {} of input", input.len());
}
