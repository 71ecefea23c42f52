//! What is in a repository: models, their versions, what is said about them, and the stamps of their files.
//!
//! Layouts: `DIR/NAME.onnx`, `DIR/NAME/model.onnx` (KServe's, version 1) and `DIR/NAME/VERSION/model.onnx`
//! (Triton's); in the latter two `DIR/NAME/config.pbtxt` may name the file otherwise, and says which versions
//! are served. In the place of the file there may be a directory of that name that has `model.onnx` and its
//! data. Names that begin with a dot are not looked at, links are followed.
//!
//! Settings: `DIR/reef.toml` with a table `[model.NAME]` per model (other keys are not this crate's), and
//! `DIR/NAME/reef.toml` (or `DIR/NAME.toml` beside `NAME.onnx`) with the keys of a model at the top. A key
//! beside the model wins over the directory's, and that over a parameter of `config.pbtxt`. Unknown keys are
//! errors. `reef.onnx` has its settings in the directory's `reef.toml` only, as `[model.reef]`.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use reef_base::ModelKey;

use crate::config::{DEFAULT_FILE, ModelConfig, VersionPolicy};
use crate::names;
use crate::settings::Settings;
use crate::text::TEXT_BYTES_MAX;

/// Files of one version that are looked at.
const FILES_MAX: usize = 4096;

/// Directories within a version's that are looked into.
const DEPTH_MAX: usize = 4;

/// A repository as it was when somebody looked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The models, by name.
    pub models: BTreeMap<String, Found>,
    /// Settings in the directory's `reef.toml` for models that are not there.
    pub strangers: Vec<String>,
    /// What else was noticed.
    pub notices: Vec<String>,
}

/// A model in a repository.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// The versions that its policy chooses, newest first.
    pub versions: Vec<FoundVersion>,
    /// Versions that its policy names and that are not there.
    pub missing: Vec<String>,
    /// How it is served, from wherever that is said.
    pub settings: Settings,
    /// What of that the operator's `reef.toml` says.
    pub own: Settings,
    /// Its configuration, if there is one.
    pub config: Option<ModelConfig>,
    /// Its directory; `None` of a single file.
    pub dir: Option<PathBuf>,
    /// The files that said something about it, for errors; beside the model first.
    pub said_in: Vec<PathBuf>,
    /// What was said without effect.
    pub notices: Vec<String>,
    /// Why it cannot be served.
    pub fault: Option<String>,
    /// Of the files that are not a version's.
    pub stamp: Stamp,
}

/// A version of a model in a repository.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundVersion {
    /// Name and version.
    pub key: ModelKey,
    /// The ONNX file.
    pub path: PathBuf,
    /// Of its files.
    pub stamp: Stamp,
}

/// Which files there were, how long, and when they were changed: equal while nobody touches them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, u64, Option<SystemTime>, u64)>);

/// A repository could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The directory.
    #[error("cannot read the directory {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its `reef.toml`.
    #[error("{}: {what}", path.display())]
    Settings {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

impl Stamp {
    fn add(&mut self, path: &Path, metadata: &Metadata) {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        self.0.push((path.to_path_buf(), metadata.len(), metadata.modified().ok(), inode));
    }

    /// A file, if it is there.
    fn add_file(&mut self, path: &Path) {
        if let Ok(metadata) = std::fs::metadata(path) {
            self.add(path, &metadata);
        }
    }

    fn add_all(&mut self, dir: &Path, depth: usize) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if self.0.len() >= FILES_MAX {
                return;
            }
            if metadata.is_dir() && depth < DEPTH_MAX {
                self.add_all(&path, depth + 1);
            } else {
                self.add(&path, &metadata);
            }
        }
        self.0.sort();
    }
}

impl Found {
    /// Its settings and where they stand, for errors.
    pub fn settings_named(&self) -> String {
        let files: Vec<String> = self.said_in.iter().map(|path| path.display().to_string()).collect();
        format!("settings of model {} ({})", self.name, files.join(", "))
    }

    /// Whether anybody said anything about it.
    pub fn has_settings(&self) -> bool {
        !self.said_in.is_empty()
    }

    /// Everything that decides how a version is served is the same.
    pub fn same_terms(&self, other: &Found) -> bool {
        let config = |found: &Found| found.config.as_ref().map(ModelConfig::without_places);
        self.settings == other.settings && config(self) == config(other) && self.fault == other.fault
    }

    /// The same files with another configuration, in the place of what the file says.
    pub fn with_config(self, config: ModelConfig) -> Found {
        match &self.dir {
            Some(dir) => inline(&self.name, dir, Some(config), self.own),
            None => {
                let (settings, own) = (self.own.clone(), self.own.clone());
                let mut found = Found { settings, own, config: None, fault: None, notices: vec![], ..self };
                found.configure(config);
                finish(&mut found);
                found
            }
        }
    }

    fn fail(&mut self, why: impl Into<String>) {
        // The first one is what is to be mended first.
        self.fault.get_or_insert(why.into());
    }

    /// Takes in what `config` says.
    fn configure(&mut self, config: ModelConfig) {
        if config.name.as_ref().is_some_and(|name| !name.is_empty() && *name != self.name) {
            let name = config.name.as_deref().unwrap_or_default();
            self.fail(format!(
                "config.pbtxt is of the model '{name}', the directory is called '{}'",
                self.name
            ));
        }
        self.notices.extend(config.notices.iter().map(|notice| format!("config.pbtxt, {notice}")));
        self.config = Some(config);
    }
}

/// Every model under `dir`. What is wrong with one of them stands there.
pub fn scan(dir: &Path) -> Result<Snapshot, ScanError> {
    scan_with(dir, &dir.join("reef.toml"))
}

/// The same, with a file of settings in the place of the directory's `reef.toml`.
pub fn scan_with(dir: &Path, shared_path: &Path) -> Result<Snapshot, ScanError> {
    let failed = |source| ScanError::Directory { path: dir.to_path_buf(), source };
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    let mut shared = shared_settings(shared_path)?;
    let mut snapshot = Snapshot::default();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let Some(mut found) = look_at(&path, shared_path, &mut snapshot.notices) else { continue };
        if let Some(table) = shared.remove(&found.name) {
            found.said_in.push(shared_path.to_path_buf());
            match table.try_into::<Settings>() {
                Ok(settings) => found.settings = std::mem::take(&mut found.settings).or(settings),
                Err(why) => found.fail(format!("{}: {}", shared_path.display(), why.message())),
            }
        }
        finish(&mut found);
        match snapshot.models.entry(found.name.clone()) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(found);
            }
            std::collections::btree_map::Entry::Occupied(mut other) => {
                let why = format!("{} and {} are the same model", name_of(other.get()), name_of(&found));
                other.get_mut().fault = Some(why);
            }
        }
    }
    snapshot.strangers = shared.into_keys().collect();
    Ok(snapshot)
}

/// A model whose directory a client laid down, with this configuration in the place of any file's.
pub fn inline(name: &str, dir: &Path, config: Option<ModelConfig>, base: Settings) -> Found {
    let mut found =
        Found { name: name.into(), dir: Some(dir.to_path_buf()), settings: base, ..Found::default() };
    match config {
        Some(config) => found.configure(config),
        None => read_config(&mut found, dir),
    }
    find_versions(&mut found, dir);
    finish(&mut found);
    found
}

fn name_of(found: &Found) -> String {
    let path = found.versions.first().map(|version| &version.path).or(found.dir.as_ref());
    path.map_or_else(|| found.name.clone(), |path| path.display().to_string())
}

/// The tables of the directory's `reef.toml`, by model.
fn shared_settings(path: &Path) -> Result<BTreeMap<String, toml::Value>, ScanError> {
    let wrong = |what: String| ScanError::Settings { path: path.to_path_buf(), what };
    let mut table: toml::Table = read_toml(path).map_err(wrong)?.unwrap_or_default();
    match table.remove("model") {
        None => Ok(BTreeMap::new()),
        Some(toml::Value::Table(models)) => Ok(models.into_iter().collect()),
        Some(_) => Err(wrong("model is a table, as in [model.NAME]".into())),
    }
}

/// The model at `path`, if there is one.
fn look_at(path: &Path, shared: &Path, notices: &mut Vec<String>) -> Option<Found> {
    let is_dir = path.is_dir();
    if !is_dir && path.extension().is_none_or(|extension| extension != "onnx") {
        return None;
    }
    let stem = if is_dir { path.file_name() } else { path.file_stem() };
    let Some(name) = stem.and_then(|name| name.to_str()) else {
        notices.push(format!("{}: a model's name must be valid UTF-8", path.display()));
        return None;
    };
    if name.starts_with('.') {
        return None;
    }
    let mut found = Found { name: name.into(), ..Found::default() };
    match is_dir {
        true => directory(&mut found, path).then_some(found),
        false => {
            single(&mut found, path, shared);
            Some(found)
        }
    }
}

/// `NAME.onnx`, with `NAME.toml` beside it.
fn single(found: &mut Found, path: &Path, shared: &Path) {
    let beside = path.with_extension("toml");
    if beside != shared {
        own_settings(found, &beside);
    }
    let mut stamp = Stamp::default();
    stamp.add_file(path);
    let key = ModelKey { name: found.name.clone(), version: "1".into() };
    found.versions = vec![FoundVersion { key, path: path.to_path_buf(), stamp }];
}

/// Whether a directory is meant as a model.
fn directory(found: &mut Found, dir: &Path) -> bool {
    found.dir = Some(dir.to_path_buf());
    own_settings(found, &dir.join("reef.toml"));
    read_config(found, dir);
    find_versions(found, dir);
    let numbered = |entry: std::fs::DirEntry| entry.file_name().to_str().and_then(names::version).is_some();
    let numbered = std::fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(numbered));
    let meant = found.config.is_some() || found.fault.is_some() || numbered;
    if found.versions.is_empty() && found.missing.is_empty() {
        let file = found.config.as_ref().map_or(DEFAULT_FILE, ModelConfig::file_name);
        found.fail(format!("there is no model: 1/{file} or {file} in {}", dir.display()));
        // A directory of something else.
        return meant;
    }
    true
}

fn own_settings(found: &mut Found, path: &Path) {
    found.stamp.add_file(path);
    match read_toml::<Settings>(path) {
        Ok(None) => {}
        Ok(Some(settings)) => {
            found.said_in.push(path.to_path_buf());
            found.settings = settings;
        }
        Err(why) => {
            found.said_in.push(path.to_path_buf());
            found.fail(format!("{}: {why}", path.display()));
        }
    }
}

fn read_config(found: &mut Found, dir: &Path) {
    let path = dir.join("config.pbtxt");
    found.stamp.add_file(&path);
    let text = match read_bounded(&path) {
        Ok(None) => return,
        Ok(Some(text)) => text,
        Err(why) => return found.fail(format!("{}: {why}", path.display())),
    };
    found.said_in.push(path.clone());
    match ModelConfig::of_text(&text) {
        Ok(config) => found.configure(config),
        Err(fault) if fault.at.is_some() => found.fail(format!("{}:{fault}", path.display())),
        Err(fault) => found.fail(format!("{}: {fault}", path.display())),
    }
}

/// The versions that are there and that the policy chooses.
fn find_versions(found: &mut Found, dir: &Path) {
    let file = found.config.as_ref().map_or(DEFAULT_FILE, ModelConfig::file_name).to_string();
    let policy = found.config.as_ref().and_then(|config| config.versions.clone()).unwrap_or_default();
    let mut there = BTreeMap::new();
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            for version in names.filter_map(|name| names::version(&name)) {
                if let Some(path) = model_file(dir.join(version.to_string()).join(&file)) {
                    there.insert(version, path);
                }
            }
        }
        Err(error) => found.fail(format!("cannot read {}: {error}", dir.display())),
    }
    match model_file(dir.join(&file)) {
        Some(flat) if there.is_empty() => {
            there.insert(1, flat);
        }
        Some(flat) => {
            found.notices.push(format!("{} is not served: there are versions beside it", flat.display()))
        }
        None => {}
    }
    let versions: Vec<u32> = there.keys().copied().collect();
    for version in policy.chosen(&versions) {
        let path = there[&version].clone();
        let mut stamp = Stamp::default();
        stamp.add_all(path.parent().unwrap_or(dir), 0);
        let key = ModelKey { name: found.name.clone(), version: version.to_string() };
        found.versions.push(FoundVersion { key, path, stamp });
    }
    if let VersionPolicy::Specific(named) = &policy {
        let gone = named.iter().filter(|version| !there.contains_key(version));
        found.missing = gone.map(ToString::to_string).collect();
    }
}

/// The model at this path, which may be a directory that has it with its external data.
fn model_file(path: PathBuf) -> Option<PathBuf> {
    let inner = path.join(DEFAULT_FILE);
    if inner.is_file() { Some(inner) } else { path.is_file().then_some(path) }
}

/// What can be judged once everything is known.
fn finish(found: &mut Found) {
    found.own = found.settings.clone();
    match found.config.as_ref().map(|config| Settings::of_parameters(&config.parameters)) {
        Some(Ok(settings)) => found.settings = found.own.clone().or(settings),
        Some(Err(why)) => found.fail(format!("config.pbtxt: {why}")),
        None => {}
    }
    if let Err(why) = found.settings.check() {
        let named = found.settings_named();
        found.fail(format!("{named}: {why}"));
    }
    let Some((dir, config)) = found.dir.clone().zip(found.config.clone()) else { return };
    for label in config.outputs.iter().filter_map(|output| output.label_file.as_ref()) {
        let path = dir.join(label);
        found.stamp.add_file(&path);
        if !path.is_file() {
            found.fail(format!("config.pbtxt: label_filename: there is no file {}", path.display()));
        }
    }
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let Some(text) = read_bounded(path)? else { return Ok(None) };
    toml::from_str(&text).map(Some).map_err(|error| error.to_string())
}

/// A text that is there, unless it is far longer than any configuration.
fn read_bounded(path: &Path) -> Result<Option<String>, String> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read it: {error}")),
    };
    if !metadata.is_file() {
        return Err("it is not a file".into());
    }
    if metadata.len() > TEXT_BYTES_MAX as u64 {
        return Err(format!("{} bytes, at most {TEXT_BYTES_MAX} are read", metadata.len()));
    }
    std::fs::read_to_string(path).map(Some).map_err(|error| format!("cannot read it: {error}"))
}

#[cfg(test)]
mod tests;
