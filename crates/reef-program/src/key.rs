//! What a segment is made for.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use reef_graph::{DType, Shape, Tensor};

/// A part of a model, in the terms of whoever makes segments of it. Two are the same when they are one
/// object.
#[derive(Clone)]
pub struct Part(Arc<dyn Any + Send + Sync>);

impl Part {
    /// The part that `what` is.
    pub fn new<T: Any + Send + Sync>(what: Arc<T>) -> Part {
        Part(what)
    }

    /// What it is, in the terms of its maker.
    pub fn downcast<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.clone().downcast().ok()
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.0).cast::<()>() as usize
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Part) -> bool {
        self.address() == other.address()
    }
}

impl Eq for Part {}

impl Hash for Part {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({:#x})", self.address())
    }
}

/// What is known of one input of a part when its segment is made.
#[derive(Clone, Debug)]
pub enum Given {
    /// Type and shape of a tensor.
    Tensor(DType, Shape),
    /// A value.
    Value(Tensor),
}

impl PartialEq for Given {
    fn eq(&self, other: &Given) -> bool {
        match (self, other) {
            (Given::Tensor(dtype, shape), Given::Tensor(other, others)) => dtype == other && shape == others,
            (Given::Value(value), Given::Value(other)) => {
                let same = value.dtype() == other.dtype() && value.shape() == other.shape();
                same && value.bytes().as_slice() == other.bytes().as_slice()
            }
            _ => false,
        }
    }
}

impl Eq for Given {}

impl Hash for Given {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Given::Tensor(dtype, shape) => (0, dtype, shape).hash(state),
            Given::Value(value) => {
                (1, value.dtype(), value.shape(), value.bytes().as_slice()).hash(state);
            }
        }
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Tensor(_, shape) => write!(f, "{shape}"),
            Given::Value(value) => {
                let dtype = value.dtype();
                let numbers = value.bytes().as_slice().chunks_exact(dtype.bytes().max(1)).map(|bytes| {
                    let mut wide = [0; 8];
                    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
                    if negative && matches!(dtype, DType::I64 | DType::I32 | DType::I16 | DType::I8) {
                        wide = [0xff; 8];
                    }
                    wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
                    match (dtype, bytes.len()) {
                        (DType::F32, 4) => {
                            f32::from_le_bytes(bytes.try_into().expect("four bytes")).to_string()
                        }
                        _ => i64::from_le_bytes(wide).to_string(),
                    }
                });
                write!(f, "{}={}", value.shape(), numbers.collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// What a segment is made for: a part of a model, `None` for its beginning, and what is known of its inputs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SegmentKey {
    /// Which part.
    pub part: Option<Part>,
    /// One per input of the part, in order.
    pub given: Vec<Given>,
}

impl fmt::Display for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given: Vec<String> = self.given.iter().map(Given::to_string).collect();
        write!(f, "{}", given.join(" "))
    }
}
