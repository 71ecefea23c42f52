//! Files that a client sends with a model: in a directory of their own that nobody else may read, gone with
//! the last model that is served from it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use reef_repository::names;

/// A directory with a client's files.
#[derive(Debug)]
pub struct Inline {
    dir: PathBuf,
}

impl Inline {
    /// Writes them; nothing is left of them if that fails.
    pub fn write(files: &[(String, Bytes)]) -> Result<Inline> {
        if let Some((path, _)) = files.iter().find(|(path, _)| !names::is_inner_path(path)) {
            bail!("file '{}' is not in the model's directory", path.escape_debug());
        }
        let inline = Inline { dir: new_directory()? };
        for (path, bytes) in files {
            let path = inline.dir.join(path);
            let write = || {
                std::fs::create_dir_all(path.parent().unwrap_or(&inline.dir))?;
                std::fs::OpenOptions::new().write(true).create_new(true).open(&path)
            };
            let write_all = |mut file: std::fs::File| std::io::Write::write_all(&mut file, bytes);
            write().and_then(write_all).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(inline)
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Inline {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(%error, "cannot remove {}", self.dir.display());
        }
    }
}

/// A directory that was not there before, for this user alone.
fn new_directory() -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    const TRIES_MAX: usize = 100;
    let base = std::env::temp_dir();
    for _ in 0..TRIES_MAX {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = base.join(format!("reef-inline-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            // Of an earlier process of this number, or somebody's trick.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", dir.display())),
        }
    }
    bail!("cannot make a directory in {}", base.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<(String, Bytes)> {
        paths.iter().map(|path| (path.to_string(), Bytes::from_static(b"x"))).collect()
    }

    #[test]
    fn files_stay_where_they_belong_and_go() {
        let inline = Inline::write(&files(&["1/model.onnx", "1/data/w.bin", "labels.txt"])).unwrap();
        let dir = inline.dir().to_path_buf();
        assert_eq!(std::fs::read(dir.join("1/data/w.bin")).unwrap(), b"x");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&dir).unwrap());
        assert_eq!(mode & 0o777, 0o700);
        drop(inline);
        assert!(!dir.exists());
        for path in ["../x", "/etc/x", "1/../../x", "", "1/", "a\0b"] {
            let error = Inline::write(&files(&[path])).unwrap_err().to_string();
            assert!(error.contains("is not in the model's directory"), "{path:?}: {error}");
        }
        // The same path twice, and a file where another needs a directory.
        assert!(Inline::write(&files(&["1/m", "1/m"])).is_err());
        assert!(Inline::write(&files(&["1", "1/m"])).is_err());
    }
}
