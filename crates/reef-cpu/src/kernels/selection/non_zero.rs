//! The indices of elements other than 0: counted first, since the rows of indices lie behind each other.

use std::marker::PhantomData;

use reef_base::limits::TENSOR_RANK_MAX;
use reef_plan::{Kernel, NonZeroSpec, Region};

use super::{BlockKernel, Pace, Select, Stopped, Whole, store_count};
use crate::context::BlockContext;

/// Makes the kernel ready: elements are looked at as unsigned numbers of their size.
pub(super) fn prepare(spec: &NonZeroSpec, kernel: &Kernel) -> Box<dyn BlockKernel> {
    match spec.dtype.bytes() {
        1 => Box::new(Whole(NonZero::<u8>::new(spec, kernel))),
        2 => Box::new(Whole(NonZero::<u16>::new(spec, kernel))),
        4 => Box::new(Whole(NonZero::<u32>::new(spec, kernel))),
        _ => Box::new(Whole(NonZero::<u64>::new(spec, kernel))),
    }
}

struct NonZero<T> {
    dims: Vec<usize>,
    /// The bits that make an element other than 0: not the sign of a float.
    mask: u64,
    x: Region,
    indices: Region,
    count: Region,
    bits: PhantomData<fn() -> T>,
}

/// Elements between polls; each may be written once per axis.
const ELEMENTS: usize = 512;

impl<T> NonZero<T> {
    fn new(spec: &NonZeroSpec, kernel: &Kernel) -> NonZero<T> {
        let bits = 8 * spec.dtype.bytes() as u32 - u32::from(spec.dtype.is_float());
        NonZero {
            dims: spec.dims.clone(),
            mask: u64::MAX >> (64 - bits),
            x: kernel.reads[0],
            indices: kernel.writes[0],
            count: kernel.writes[1],
            bits: PhantomData,
        }
    }
}

impl<T: Copy + Into<u64>> NonZero<T> {
    /// Walks over x and says where elements other than 0 are.
    unsafe fn each(
        &self,
        context: &BlockContext<'_>,
        pace: &mut Pace<'_>,
        mut visit: impl FnMut(usize),
    ) -> Result<(), Stopped> {
        let elements: usize = self.dims.iter().product();
        let x = context.read_ptr(&self.x).cast::<T>();
        for first in (0..elements).step_by(ELEMENTS) {
            pace.steps(ELEMENTS * (1 + self.dims.len()))?;
            for at in first..(first + ELEMENTS).min(elements) {
                // SAFETY: the element is x's.
                let bits: u64 = unsafe { *x.add(at) }.into();
                if bits & self.mask != 0 {
                    visit(at);
                }
            }
        }
        Ok(())
    }
}

impl<T: Copy + Into<u64>> Select for NonZero<T> {
    unsafe fn select(&self, context: &BlockContext<'_>, pace: &mut Pace<'_>) -> Result<(), Stopped> {
        // SAFETY: the regions are the kernel's; rows of `count` indices fit, as there are no more elements.
        unsafe {
            let mut count = 0;
            self.each(context, pace, |_| count += 1)?;
            let indices = context.write_ptr(&self.indices).cast::<i64>();
            let mut place = Place::new(&self.dims);
            let mut made = 0;
            self.each(context, pace, |at| {
                place.advance(at);
                for (axis, &index) in place.index[..self.dims.len()].iter().enumerate() {
                    indices.add(axis * count + made).write(index as i64);
                }
                made += 1;
            })?;
            store_count(context, &self.count, count);
            pace.zero(context, &self.indices, self.dims.len() * count * size_of::<i64>())
        }
    }
}

/// The index of an element, which only grows.
struct Place<'a> {
    dims: &'a [usize],
    flat: usize,
    index: [usize; TENSOR_RANK_MAX],
}

impl Place<'_> {
    fn new(dims: &[usize]) -> Place<'_> {
        Place { dims, flat: 0, index: [0; TENSOR_RANK_MAX] }
    }

    fn advance(&mut self, to: usize) {
        let mut carry = to - self.flat;
        self.flat = to;
        for (index, &extent) in self.index.iter_mut().zip(self.dims).rev().take(self.dims.len()) {
            *index += carry;
            if *index < extent {
                return;
            }
            carry = *index / extent;
            *index %= extent;
        }
    }
}
