//! `reef-base`: what every other crate of reef may know.
//!
//! Owns ids, units, the clock, task keys, buffers and aligned memory, seeded random numbers, samples and
//! their percentiles, caught panics and every limit. Knows nothing of graphs, plans, devices, threads or
//! files.

pub mod bytes;
pub mod clock;
pub mod key;
pub mod limits;
pub mod memory;
pub mod panics;
pub mod rng;
pub mod samples;

pub use bytes::AlignedBytes;
pub use clock::{Clock, MonotonicClock, Nanos, VirtualClock};
pub use key::{Class, ClassName, Level, Share, TaskKey};
pub use memory::{Buffer, Domain, Memory};
pub use rng::Rng;
pub use samples::{Samples, Summary};

/// Declares a newtype over an unsigned integer: an id that cannot be mixed with another id.
#[macro_export]
macro_rules! id {
    ($(#[$meta:meta])* $name:ident($repr:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            /// The id as an index into the table it names.
            #[inline]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id! {
    /// A compute unit of one device, counted from 0.
    CuId(u16)
}

id! {
    /// One execution of a plan on one device; unique for the life of the device.
    TaskId(u64)
}

/// Names a loaded model: its name and its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelKey {
    /// The model's name, as clients write it.
    pub name: String,
    /// The model's version, a decimal number in Triton's layout.
    pub version: String,
}

impl std::fmt::Display for ModelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.version)
    }
}
