//! Memory that requests are read from and written to, whoever it belongs to.
//!
//! A [`Buffer`] lies in a [`Domain`]. Most are the host's own; a device whose driver wants its memory pinned,
//! keeps it to itself, or is given that of somebody else puts a [`Memory`] of its own behind one. Who only
//! moves buffers from plan to plan need not know; who reads bytes asks whether they are to be seen.

use std::any::Any;
use std::fmt;

use crate::bytes::AlignedBytes;

/// Where memory lies, and who may use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// The host's, as the system gives it.
    #[default]
    Host,
    /// The host's, in a place that does not change, so that a device can read and write it by itself.
    Pinned,
    /// A device's: the host cannot see it.
    Device,
    /// Somebody else's, made visible to this process.
    Imported,
}

impl Domain {
    /// Its name, for people and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Domain::Host => "host",
            Domain::Pinned => "pinned",
            Domain::Device => "device",
            Domain::Imported => "imported",
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Memory that is not the host's own, freed when it is dropped.
pub trait Memory: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> usize;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes; `None` where the host cannot see them. The first one is aligned to 64 bytes, and those up
    /// to the next multiple of 64 past the last may be read.
    fn bytes(&self) -> Option<&[u8]>;

    /// Its bytes, to be written.
    fn bytes_mut(&mut self) -> Option<&mut [u8]>;

    /// Itself, for the device that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A buffer of bytes, aligned to 64 bytes.
pub struct Buffer(Held);

enum Held {
    Own(AlignedBytes),
    Of(Domain, Box<dyn Memory>),
}

impl Buffer {
    /// A buffer of `len` zero bytes of the host.
    pub fn zeroed(len: usize) -> Buffer {
        Buffer(Held::Own(AlignedBytes::zeroed(len)))
    }

    /// The same; `None` when the system has not got them.
    pub fn try_zeroed(len: usize) -> Option<Buffer> {
        AlignedBytes::try_zeroed(len).map(|bytes| Buffer(Held::Own(bytes)))
    }

    /// A copy of `bytes`, of the host.
    pub fn copy_from(bytes: &[u8]) -> Buffer {
        Buffer(Held::Own(AlignedBytes::copy_from(bytes)))
    }

    /// A buffer over memory of others.
    pub fn over(domain: Domain, memory: Box<dyn Memory>) -> Buffer {
        Buffer(Held::Of(domain, memory))
    }

    /// Where it lies.
    pub fn domain(&self) -> Domain {
        match &self.0 {
            Held::Own(_) => Domain::Host,
            Held::Of(domain, _) => *domain,
        }
    }

    /// The memory of others that it is over, if it is.
    pub fn memory(&self) -> Option<&dyn Memory> {
        match &self.0 {
            Held::Own(_) => None,
            Held::Of(_, memory) => Some(&**memory),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::Own(bytes) => bytes.len(),
            Held::Of(_, memory) => memory.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the host can see its bytes.
    pub fn is_visible(&self) -> bool {
        self.visible().is_some()
    }

    /// Its bytes; `None` where the host cannot see them.
    pub fn visible(&self) -> Option<&[u8]> {
        match &self.0 {
            Held::Own(bytes) => Some(bytes.as_slice()),
            Held::Of(_, memory) => memory.bytes(),
        }
    }

    /// Its bytes. Panics where the host cannot see them: inputs and outputs of a model can always be seen.
    pub fn as_slice(&self) -> &[u8] {
        self.visible().expect("the host sees the bytes of this buffer")
    }

    /// Its bytes as values of `T`, to be written; the length must be a multiple of `T`'s size.
    pub fn typed_mut<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.as_mut_slice())
    }

    /// Its bytes, to be written; as [`Buffer::as_slice`].
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let bytes = match &mut self.0 {
            Held::Own(bytes) => Some(bytes.as_mut_slice()),
            Held::Of(_, memory) => memory.bytes_mut(),
        };
        bytes.expect("the host sees the bytes of this buffer")
    }
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer(Held::Own(AlignedBytes::default()))
    }
}

impl From<AlignedBytes> for Buffer {
    fn from(bytes: AlignedBytes) -> Buffer {
        Buffer(Held::Own(bytes))
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes, {})", self.len(), self.domain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hidden(usize);

    impl Memory for Hidden {
        fn len(&self) -> usize {
            self.0
        }
        fn bytes(&self) -> Option<&[u8]> {
            None
        }
        fn bytes_mut(&mut self) -> Option<&mut [u8]> {
            None
        }
        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    #[test]
    fn buffers_say_where_they_lie_and_whether_they_are_seen() {
        let mut own = Buffer::zeroed(70);
        own.as_mut_slice().fill(3);
        assert_eq!((own.domain(), own.len(), own.is_visible()), (Domain::Host, 70, true));
        assert_eq!(own.as_slice(), [3; 70]);
        assert!(own.memory().is_none());
        let hidden = Buffer::over(Domain::Device, Box::new(Hidden(9)));
        assert_eq!((hidden.domain(), hidden.len(), hidden.is_visible()), (Domain::Device, 9, false));
        let memory = hidden.memory().and_then(|memory| memory.as_any().downcast_ref::<Hidden>());
        assert_eq!(memory.map(|hidden| hidden.0), Some(9));
        assert!(crate::panics::contain(|| hidden.as_slice().len()).is_err());
    }
}
