//! System shared memory: files below `/dev/shm` that clients register by name, for tensors that requests then
//! name instead of carrying them.
//!
//! Nothing is mapped: a region is a file descriptor, read with `pread` and written with `pwrite`. A file that
//! its owner truncates meanwhile then gives a short read, which is an error for that request; in a mapping it
//! would be SIGBUS, which ends the process. The price is one copy by the kernel, of the same length as the
//! copy into the device's buffers.
//!
//! Invariants: a key is the name of a regular file directly below the folder, and no link is followed; every
//! read and write lies within its region, whatever the request says, and no sum overflows; number, names and
//! bytes of all regions are bounded. Registering is a matter between the operator and all clients: each may
//! use and take away what another one registered, as in Triton.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use reef_base::limits::{REGION_NAME_BYTES_MAX, REGIONS_BYTES_MAX, REGIONS_MAX};
use rustix::fs::OFlags;

use crate::core::problem::Problem;

/// Where POSIX shared memory objects are files.
const FOLDER: &str = "/dev/shm";

/// What POSIX semaphores begin with, which lie in the same folder.
const SEMAPHORE: &str = "sem.";

/// The regions that clients have registered.
#[derive(Debug)]
pub(crate) struct Regions {
    folder: PathBuf,
    regions: RwLock<BTreeMap<String, Region>>,
}

/// A part of a file that requests may name.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    pub(crate) name: String,
    /// The file's name, as the client gave it.
    pub(crate) key: String,
    /// Where the region begins in the file.
    pub(crate) offset: u64,
    pub(crate) byte_size: u64,
    file: Arc<File>,
}

/// Where a tensor is: bytes of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shared {
    pub(crate) region: String,
    /// From the region's beginning.
    pub(crate) offset: u64,
    pub(crate) byte_size: u64,
}

impl Regions {
    /// None yet.
    pub(crate) fn new() -> Regions {
        Self::below(FOLDER.into())
    }

    fn below(folder: PathBuf) -> Regions {
        Regions { folder, regions: RwLock::default() }
    }

    /// Registers `byte_size` bytes from `offset` on of the file `key`, which must be there already.
    pub(crate) fn register(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<(), Problem> {
        let place = |problem: String| Problem::invalid(format!("shared memory region '{name}': {problem}"));
        if name.is_empty() || name.len() > REGION_NAME_BYTES_MAX {
            let len = name.len();
            return Err(Problem::invalid(format!(
                "the name of a shared memory region has 1 to {REGION_NAME_BYTES_MAX} bytes, not {len}"
            )));
        }
        let end = offset.checked_add(byte_size).filter(|_| byte_size > 0);
        let end = end.ok_or_else(|| place(format!("{byte_size} bytes from {offset} are no region")))?;
        let file = self.open(key).map_err(place)?;
        let len = file.metadata().map_err(|error| place(format!("key '{key}': {error}")))?.len();
        if end > len {
            return Err(place(format!("it ends at byte {end} of '{key}', which has {len}")));
        }
        let region = Region { name: name.into(), key: key.into(), offset, byte_size, file: Arc::new(file) };
        self.insert(region).map_err(place)
    }

    fn insert(&self, region: Region) -> Result<(), String> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        if regions.contains_key(&region.name) {
            return Err("it is registered already, unregister it first".into());
        }
        if regions.len() >= REGIONS_MAX {
            return Err(format!("there are {REGIONS_MAX} regions, no more are allowed"));
        }
        let sum = regions.values().try_fold(region.byte_size, |sum, other| sum.checked_add(other.byte_size));
        if sum.is_none_or(|sum| sum > REGIONS_BYTES_MAX) {
            return Err(format!("all regions together would have more than {REGIONS_BYTES_MAX} bytes"));
        }
        regions.insert(region.name.clone(), region);
        Ok(())
    }

    /// Forgets one region, or all. That it was not there is no error, as in Triton.
    pub(crate) fn unregister(&self, name: Option<&str>) {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        match name {
            Some(name) => drop(regions.remove(name)),
            None => regions.clear(),
        }
    }

    /// One region, or all by name.
    pub(crate) fn status(&self, name: Option<&str>) -> Result<Vec<Region>, Problem> {
        match name {
            Some(name) => Ok(vec![self.find(name)?]),
            None => {
                let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
                Ok(regions.values().cloned().collect())
            }
        }
    }

    /// Whether `shared` lies within its region.
    pub(crate) fn check(&self, shared: &Shared) -> Result<(), Problem> {
        let region = self.find(&shared.region)?;
        region.within(shared.offset, shared.byte_size).map(drop)
    }

    /// `len` bytes from `offset` of the region on, as they are now.
    pub(crate) fn read(&self, name: &str, offset: u64, len: u64) -> Result<Bytes, Problem> {
        let region = self.find(name)?;
        let start = region.within(offset, len)?;
        let len = usize::try_from(len).map_err(|_| region.outside(offset, len))?;
        // Nothing is allocated for bytes that are not there any more.
        region.check_file(start, len as u64)?;
        let mut bytes = vec![0; len];
        region.file.read_exact_at(&mut bytes, start).map_err(|error| region.failed("read", &error))?;
        Ok(bytes.into())
    }

    /// Writes `bytes` at `offset` of the region.
    pub(crate) fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), Problem> {
        let region = self.find(name)?;
        let start = region.within(offset, bytes.len() as u64)?;
        // A write behind the end would make the file longer again.
        region.check_file(start, bytes.len() as u64)?;
        region.file.write_all_at(bytes, start).map_err(|error| region.failed("write", &error))
    }

    fn find(&self, name: &str) -> Result<Region, Problem> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let region = regions.get(name).cloned();
        region.ok_or_else(|| Problem::not_found(format!("there is no shared memory region '{name}'")))
    }

    /// Opens what `key` names, if that is a regular file of the folder and no other.
    fn open(&self, key: &str) -> Result<File, String> {
        // As shm_open has it.
        let name = key.trim_start_matches('/');
        let is_name = !name.is_empty() && name.len() <= REGION_NAME_BYTES_MAX && ![".", ".."].contains(&name);
        if !is_name || name.contains(['/', '\0']) || name.starts_with(SEMAPHORE) {
            let folder = self.folder.display();
            return Err(format!("key '{}' is not the name of a file in {folder}", key.escape_debug()));
        }
        // A pipe with nobody at its other end would block the open; it is refused below.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(self.folder.join(name));
        let file = opened.map_err(|error| format!("key '{key}': {}", open_error(&error)))?;
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(file),
            Ok(_) => Err(format!("key '{key}' is not a regular file")),
            Err(error) => Err(format!("key '{key}': {error}")),
        }
    }
}

fn open_error(error: &io::Error) -> String {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::LOOP) => "a symbolic link, which is not followed".into(),
        Some(rustix::io::Errno::NXIO) => "not a regular file".into(),
        _ => error.to_string(),
    }
}

impl Region {
    /// Where `len` bytes from `offset` of the region on begin in the file.
    fn within(&self, offset: u64, len: u64) -> Result<u64, Problem> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.byte_size);
        let start = self.offset.checked_add(offset).filter(|_| inside);
        start.ok_or_else(|| self.outside(offset, len))
    }

    fn outside(&self, offset: u64, len: u64) -> Problem {
        let (name, byte_size) = (&self.name, self.byte_size);
        Problem::invalid(format!(
            "shared memory region '{name}' has {byte_size} bytes; {len} from {offset} are not within it"
        ))
    }

    /// Whether the file still has `len` bytes from `start` on.
    fn check_file(&self, start: u64, len: u64) -> Result<(), Problem> {
        let now = self.file.metadata().map_err(|error| self.failed("look at", &error))?.len();
        match start.checked_add(len).is_some_and(|end| end <= now) {
            true => Ok(()),
            false => Err(self.shrank()),
        }
    }

    fn shrank(&self) -> Problem {
        let (name, key) = (&self.name, &self.key);
        Problem::invalid(format!(
            "shared memory region '{name}': its file '{key}' has shrunk since it was registered"
        ))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Problem {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.shrank();
        }
        let (name, key) = (&self.name, &self.key);
        Problem::invalid(format!("shared memory region '{name}': cannot {what} '{key}': {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::problem::Kind;

    /// A folder of its own for a test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("reef-regions-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir(&folder).unwrap();
            Folder(folder)
        }

        fn regions(&self, file: &str, bytes: &[u8]) -> Regions {
            std::fs::write(self.0.join(file), bytes).unwrap();
            Regions::below(self.0.clone())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn message(result: Result<(), Problem>) -> String {
        let problem = result.unwrap_err();
        assert_eq!(problem.kind, Kind::Invalid, "{problem:?}");
        problem.message
    }

    #[test]
    fn a_region_is_read_and_written_within_its_bounds() {
        let folder = Folder::new("bounds");
        let regions = folder.regions("f", b"0123456789");
        regions.register("r", "/f", 2, 6).unwrap();
        assert_eq!(regions.read("r", 0, 6).unwrap(), "234567");
        assert_eq!(regions.read("r", 6, 0).unwrap(), "");
        regions.write("r", 4, b"ab").unwrap();
        assert_eq!(std::fs::read(folder.0.join("f")).unwrap(), b"012345ab89");
        let table =
            [(0, 7), (6, 1), (7, 0), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX), (1 << 63, 8)];
        for (offset, len) in table {
            let error = regions.read("r", offset, len).unwrap_err();
            assert!(error.message.contains("are not within it"), "{offset} {len}: {error:?}");
            let shared = Shared { region: "r".into(), offset, byte_size: len };
            assert_eq!(regions.check(&shared), Err(error));
        }
        assert!(message(regions.write("r", 5, b"xy")).contains("2 from 5 are not within it"));
        assert_eq!(regions.read("s", 0, 1).unwrap_err().kind, Kind::NotFound);
        assert_eq!(regions.status(Some("s")).unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn a_file_that_shrank_is_an_error_and_stays_as_it_is() {
        let folder = Folder::new("shrunk");
        let regions = folder.regions("f", &[7; 8192]);
        regions.register("r", "f", 0, 8192).unwrap();
        OpenOptions::new().write(true).open(folder.0.join("f")).unwrap().set_len(4096).unwrap();
        assert!(regions.read("r", 0, 8192).unwrap_err().message.contains("has shrunk"));
        assert!(message(regions.write("r", 4090, &[1; 8])).contains("has shrunk"));
        assert_eq!(std::fs::metadata(folder.0.join("f")).unwrap().len(), 4096);
        assert_eq!(regions.read("r", 0, 4096).unwrap(), [7; 4096][..]);
        std::fs::remove_file(folder.0.join("f")).unwrap();
        assert_eq!(regions.read("r", 0, 4).unwrap(), [7; 4][..], "a file without a name is still there");
    }

    #[test]
    fn keys_name_regular_files_of_the_folder_and_nothing_else() {
        let folder = Folder::new("keys");
        let regions = folder.regions("f", &[0; 8]);
        std::fs::create_dir(folder.0.join("folder")).unwrap();
        std::fs::write(folder.0.join("folder/f"), [0; 8]).unwrap();
        std::fs::write(folder.0.join("sem.f"), [0; 32]).unwrap();
        std::os::unix::fs::symlink(folder.0.join("f"), folder.0.join("link")).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, folder.0.join("pipe"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        let long = "x".repeat(300);
        let keys = ["", "/", ".", "..", "/..", "//", "folder/f", "../f", "f/", "f\0g", "sem.f", &long];
        for key in keys {
            let error = message(regions.register("r", key, 0, 8));
            assert!(error.contains("is not the name of a file in"), "{key:?}: {error}");
        }
        for key in ["link", "pipe", "folder", "none"] {
            let error = message(regions.register("r", key, 0, 8));
            assert!(error.contains(&format!("key '{key}'")), "{key}: {error}");
        }
        regions.register("slashes", "//f", 0, 8).unwrap();
        regions.unregister(None);
        assert!(message(regions.register("r", "link", 0, 8)).contains("symbolic link"));
        assert!(message(regions.register("r", "pipe", 0, 8)).contains("not a regular file"));
        assert!(regions.status(None).unwrap().is_empty());
    }

    #[test]
    fn what_is_registered_is_bounded() {
        let folder = Folder::new("bounded");
        let regions = folder.regions("f", &[0; 8]);
        let table = [(0, 0), (9, 1), (0, 9), (u64::MAX, 1), (1, u64::MAX)];
        for (offset, byte_size) in table {
            message(regions.register("r", "f", offset, byte_size));
        }
        message(regions.register("", "f", 0, 8));
        message(regions.register(&"r".repeat(REGION_NAME_BYTES_MAX + 1), "f", 0, 8));
        for index in 0..REGIONS_MAX {
            regions.register(&format!("r{index}"), "f", 0, 8).unwrap();
        }
        assert!(message(regions.register("r", "f", 0, 8)).contains("no more are allowed"));
        assert!(message(regions.register("r0", "f", 0, 8)).contains("registered already"));
        regions.unregister(Some("none"));
        regions.unregister(Some("r0"));
        regions.register("r", "f", 0, 4).unwrap();
        let status = regions.status(Some("r")).unwrap();
        let [region] = &status[..] else { panic!() };
        assert_eq!((&*region.name, &*region.key, region.offset, region.byte_size), ("r", "f", 0, 4));
        regions.unregister(None);
        assert!(regions.status(None).unwrap().is_empty());
        let large = OpenOptions::new().write(true).open(folder.0.join("f")).unwrap();
        large.set_len(REGIONS_BYTES_MAX).unwrap();
        regions.register("all", "f", 0, REGIONS_BYTES_MAX).unwrap();
        assert!(message(regions.register("more", "f", 0, 1)).contains("all regions together"));
    }
}
