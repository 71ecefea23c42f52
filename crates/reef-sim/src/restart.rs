//! Which buffers kernels read and write, and what becomes of a request that is restarted some kernels back:
//! the REEF paper's rule (section 4.3), though its models use buffers again for other values.
//!
//! Profiles name the buffers of a kernel's arguments, not which of them it writes. That follows from how TVM
//! orders arguments, by their first use in the code: kernels that sum (products, convolutions, pools) read
//! before they write, element-wise ones name what they write first ([`output_of`]). It is checked by what
//! it means: no kernel may read a buffer before some kernel has written it, but for weights and inputs,
//! which none writes.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::SimError;
use crate::profile::{MeasuredKernel, Profile};

/// What a kernel reads and writes, by the numbers of buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Buffers that it reads.
    pub reads: Vec<u32>,
    /// The one that it writes.
    pub writes: u32,
}

/// The position of what it writes among a kernel's arguments, by what it is.
const OUTPUTS: [(&str, usize); 12] = [
    ("winograd_without_weight_transform_add_nn_relu_kernel0", 1),
    ("winograd_without_weight_transform_add_nn_relu_kernel1", 2),
    ("winograd_without_weight_transform_add_nn_relu_kernel2", 1),
    ("nn_conv2d", 2),
    ("nn_dense", 2),
    ("nn_batch_matmul", 2),
    ("pool2d", 1),
    ("fused_mean_kernel0", 1),
    ("fused_mean_kernel1", 0),
    ("fused_variance_kernel0", 2),
    ("fused_variance_kernel1", 0),
    // A softmax of one kernel reads first; one of four is element-wise and reductions that name their sums
    // first.
    ("nn_softmax_kernel0", 1),
];

/// A kernel's name without the numbers that TVM gives to kernels of one kind, as in nn_conv2d_add_3_kernel0.
fn kind(kernel: &MeasuredKernel) -> String {
    let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let words: Vec<&str> = kernel.name.split('_').filter(|word| !is_number(word)).collect();
    words.join("_")
}

/// The position of what it writes among a kernel's arguments.
fn output_of(kernel: &MeasuredKernel, in_parts: bool) -> usize {
    let name = kind(kernel);
    if in_parts && name.contains("softmax") {
        return 0;
    }
    OUTPUTS.iter().find(|(part, _)| name.contains(part)).map_or(0, |&(_, position)| position)
}

/// What each kernel of a model reads and writes. An error if a buffer would be read before it is written.
pub fn accesses(profile: &Profile) -> Result<Vec<Access>, SimError> {
    let in_parts = profile.kernels.iter().any(|kernel| kind(kernel).contains("softmax_kernel1"));
    let access = |(at, kernel): (usize, &MeasuredKernel)| {
        let output = output_of(kernel, in_parts);
        let writes = *kernel.storages.get(output).ok_or_else(|| SimError::Profile {
            name: profile.name.clone(),
            problem: format!(
                "kernel {at}: it has {} buffers, and would write number {output}",
                kernel.storages.len()
            ),
        })?;
        let others = kernel.storages.iter().enumerate().filter(|&(position, _)| position != output);
        Ok(Access { reads: others.map(|(_, &storage)| storage).collect(), writes })
    };
    let all: Vec<Access> = profile.kernels.iter().enumerate().map(access).collect::<Result<_, SimError>>()?;
    let ever: BTreeSet<u32> = all.iter().map(|access| access.writes).collect();
    let mut written = BTreeSet::new();
    for (at, access) in all.iter().enumerate() {
        let early = |read: &&u32| ever.contains(read) && !written.contains(*read);
        if let Some(storage) = access.reads.iter().find(early) {
            let problem = format!("kernel {at}: it would read buffer {storage} before anybody writes it");
            return Err(SimError::Profile { name: profile.name.clone(), problem });
        }
        written.insert(access.writes);
    }
    Ok(all)
}

/// Whether a request may be restarted at kernel `from` when any part of the kernels up to `last` has run:
/// none of them then reads what one of them has overwritten since.
pub fn is_safe(accesses: &[Access], from: usize, last: usize) -> bool {
    (from..=last).all(|reader| {
        accesses[reader].reads.iter().all(|&read| {
            let again = accesses[from..reader].iter().any(|access| access.writes == read);
            again || accesses[reader..=last].iter().all(|access| access.writes != read)
        })
    })
}

/// The share of places where a request may be stopped from which it cannot be restarted so many kernels back.
pub fn unsafe_share(accesses: &[Access], back: usize) -> f64 {
    let unsafe_count =
        (0..accesses.len()).filter(|&last| !is_safe(accesses, last.saturating_sub(back), last)).count();
    unsafe_count as f64 / accesses.len() as f64
}

/// Buffers that kernels' results need: each is kept until its last reader has run, and `back` kernels more.
pub fn buffers(accesses: &[Access], back: usize) -> usize {
    // Each kernel's result, and the last kernel that reads it before the buffer has another one.
    let mut of_buffer: BTreeMap<u32, usize> = BTreeMap::new();
    let mut last_reader: Vec<usize> = (0..accesses.len()).collect();
    for (at, access) in accesses.iter().enumerate() {
        for read in &access.reads {
            if let Some(&writer) = of_buffer.get(read) {
                last_reader[writer] = at;
            }
        }
        of_buffer.insert(access.writes, at);
    }
    // As many as there are at once: results are intervals, so no more are needed.
    let live = |at: usize| (0..=at).filter(|&writer| last_reader[writer] + back >= at).count();
    (0..accesses.len()).map(live).max().unwrap_or(0)
}

/// What lies in the buffers of a request, in the place of numbers: a value for each kernel on what it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values<'a> {
    accesses: &'a [Access],
    values: BTreeMap<u32, u64>,
}

impl<'a> Values<'a> {
    /// What a killed kernel leaves.
    const HALF_WRITTEN: u64 = 0xBAD;

    /// Nothing has run: weights and inputs are what they are called.
    pub fn new(accesses: &'a [Access]) -> Values<'a> {
        Values { accesses, values: BTreeMap::new() }
    }

    /// A kernel runs to its end.
    pub fn run(&mut self, kernel: usize) {
        let access = &self.accesses[kernel];
        let read = |read: &u32| *self.values.get(read).unwrap_or(&u64::from(*read));
        let mix = |hash: u64, value: u64| (hash ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        let value = access.reads.iter().map(read).fold(kernel as u64 + 1, mix);
        self.values.insert(access.writes, value);
    }

    /// A kernel is killed somewhere.
    pub fn kill(&mut self, kernel: usize) {
        self.values.insert(self.accesses[kernel].writes, Self::HALF_WRITTEN);
    }

    /// What the last kernel has written.
    pub fn output(&self) -> Option<u64> {
        self.values.get(&self.accesses.last()?.writes).copied()
    }
}

/// What the last kernel writes when nobody disturbs the request.
pub fn undisturbed(accesses: &[Access]) -> Option<u64> {
    let mut values = Values::new(accesses);
    (0..accesses.len()).for_each(|kernel| values.run(kernel));
    values.output()
}
