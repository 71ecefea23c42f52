//! The files that a model's constants are in: its own, and those beside it. Large constants stay there, and
//! are read when somebody looks at them.
//!
//! Reading is by position, never through a mapping: a file that shrinks under one ends the process. What is
//! read must be what was there when the model was loaded, or it is a fault, which stays: whoever made
//! something of the model looks whether there is one before he uses it ([`Origin::fault`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use reef_base::AlignedBytes;
use reef_base::limits::{STORED_BYTES_MIN, WEIGHTS_KEPT_BYTES};
use reef_graph::{ConstKey, DType, KeyHasher, Shape, Stored, Tensor};

/// Bytes that are read at a time to look through a constant.
const PIECE: usize = 256 << 10;

/// Where a model was read from.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Open since, so that it stays the same when another file takes its name.
    file: File,
    /// Where external data is.
    pub directory: PathBuf,
    /// Bytes of constants that are not in the message.
    outside: AtomicU64,
    fault: OnceLock<String>,
}

/// Where the bytes of a constant are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Another file than the model's own.
    pub beside: Option<PathBuf>,
    pub offset: u64,
}

impl Origin {
    pub fn new(file: File, directory: PathBuf) -> Origin {
        Origin { file, directory, outside: AtomicU64::new(0), fault: OnceLock::new() }
    }

    /// Notes that so many bytes of constants are not in the message.
    pub fn note(&self, bytes: usize) {
        self.outside.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether its large constants stay where they are.
    pub fn is_large(&self) -> bool {
        self.outside.load(Ordering::Relaxed) > WEIGHTS_KEPT_BYTES as u64
    }

    /// Why something that was read of it since it was loaded is not what it was.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// The constant `name` at `place`: in memory, or where it is.
    pub fn tensor(
        self: &Arc<Self>,
        name: &str,
        dtype: DType,
        shape: Shape,
        place: Place,
    ) -> io::Result<Tensor> {
        let bytes = shape.elements() * dtype.bytes();
        if !self.is_large() || bytes < STORED_BYTES_MIN {
            let mut data = AlignedBytes::zeroed(bytes);
            self.read(&place, data.as_mut_slice())?;
            return Ok(Tensor::new(dtype, shape, Arc::new(data)));
        }
        let mut hasher = KeyHasher::new(dtype, &shape);
        self.pieces(&place, bytes, |piece| hasher.update(piece))?;
        let key = hasher.key();
        let stored =
            InFile { origin: self.clone(), place, name: name.into(), dtype, shape: shape.clone(), key };
        Ok(Tensor::stored(dtype, shape, key, Arc::new(stored)))
    }

    /// Goes through the bytes of a constant.
    fn pieces(&self, place: &Place, bytes: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let (mut buffer, mut at) = (vec![0; bytes.min(PIECE)], 0);
        let opened = self.open(place)?;
        let file = opened.as_ref().unwrap_or(&self.file);
        while at < bytes {
            let piece = &mut buffer[..PIECE.min(bytes - at)];
            file.read_exact_at(piece, place.offset.saturating_add(at as u64))?;
            each(piece);
            at += piece.len();
        }
        Ok(())
    }

    /// Reads the bytes at `place`.
    pub fn read(&self, place: &Place, into: &mut [u8]) -> io::Result<()> {
        let opened = self.open(place)?;
        opened.as_ref().unwrap_or(&self.file).read_exact_at(into, place.offset)
    }

    /// The file, if it is not the model's own. It is opened for each look: there may be thousands.
    fn open(&self, place: &Place) -> io::Result<Option<File>> {
        let Some(path) = &place.beside else { return Ok(None) };
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        File::open(path).map(Some)
    }
}

/// A constant that is in a file.
struct InFile {
    origin: Arc<Origin>,
    place: Place,
    name: String,
    dtype: DType,
    shape: Shape,
    /// Of what was there when the model was loaded.
    key: ConstKey,
}

impl Stored for InFile {
    fn bytes(&self) -> Arc<AlignedBytes> {
        let mut data = AlignedBytes::zeroed(self.shape.elements() * self.dtype.bytes());
        let mut hasher = KeyHasher::new(self.dtype, &self.shape);
        let why = match self.origin.read(&self.place, data.as_mut_slice()) {
            Ok(()) => {
                hasher.update(data.as_slice());
                if hasher.key() == self.key {
                    return Arc::new(data);
                }
                String::new()
            }
            Err(error) => format!(" ({error})"),
        };
        // Part of it may have been read.
        data.as_mut_slice().fill(0);
        let name = &self.name;
        let _ = self
            .origin
            .fault
            .set(format!("{name} has changed since the model was loaded{why}: load it again"));
        Arc::new(data)
    }
}
