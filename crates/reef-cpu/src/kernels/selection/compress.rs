//! Slices for which a condition holds; neighbours are copied as one.

use reef_plan::{CompressSpec, Kernel, Region};

use super::{Pace, STEPS, Select, Stopped, store_count};
use crate::context::BlockContext;

pub(super) struct Compress {
    spec: CompressSpec,
    x: Region,
    conditions: Region,
    y: Region,
    count: Region,
}

impl Compress {
    pub(super) fn new(spec: &CompressSpec, kernel: &Kernel) -> Compress {
        let ([x, conditions], [y, count]) = (&kernel.reads[..], &kernel.writes[..]) else {
            unreachable!("the validator counts operands")
        };
        Compress { spec: spec.clone(), x: *x, conditions: *conditions, y: *y, count: *count }
    }
}

impl Select for Compress {
    unsafe fn select(&self, context: &BlockContext<'_>, pace: &mut Pace<'_>) -> Result<(), Stopped> {
        let spec = &self.spec;
        let slice = spec.inner * spec.dtype.bytes();
        let (x, y) = (context.read_ptr(&self.x), context.write_ptr(&self.y));
        // SAFETY: the regions are the kernel's, and slices are those of the spec: no more than all of them
        // are written.
        unsafe {
            let held = std::slice::from_raw_parts(context.read_ptr(&self.conditions), spec.conditions);
            let count = holding(pace, held)?;
            let mut made = 0;
            // Where slices have no elements, there is nothing to look for.
            for plane in (0..spec.outer).take_while(|_| slice > 0 && count > 0) {
                let mut end = 0;
                while end < spec.conditions {
                    let first = skip(pace, held, end, false)?;
                    end = skip(pace, held, first, true)?;
                    let bytes = (end - first) * slice;
                    pace.copy(x.add((plane * spec.extent + first) * slice), y.add(made), bytes)?;
                    made += bytes;
                }
            }
            store_count(context, &self.count, count);
            pace.zero(context, &self.y, made)
        }
    }
}

/// How many conditions hold.
fn holding(pace: &mut Pace<'_>, conditions: &[u8]) -> Result<usize, Stopped> {
    let mut held = 0;
    for part in conditions.chunks(STEPS) {
        pace.steps(part.len())?;
        held += part.iter().filter(|&&condition| condition != 0).count();
    }
    Ok(held)
}

/// The first place from `from` on where the condition is not `held`, or the end.
fn skip(pace: &mut Pace<'_>, conditions: &[u8], from: usize, held: bool) -> Result<usize, Stopped> {
    let mut at = from;
    for part in conditions[from..].chunks(STEPS / 4) {
        let other = part.iter().position(|&condition| (condition != 0) != held);
        at += other.unwrap_or(part.len());
        pace.steps(4 + 2 * other.unwrap_or(part.len()))?;
        if other.is_some() {
            break;
        }
    }
    Ok(at)
}
