//! Brings a repository and an engine together: what is loaded, reloaded and unloaded, when, and what is said
//! about it.
//!
//! | mode | at the start | later |
//! |---|---|---|
//! | none | every model | nothing changes |
//! | poll | every model | what changed in the directory, once it was the same in two looks ([`poll`]) |
//! | explicit | those that are named | what clients ask for |
//!
//! A model of several versions changes in this order, so that requests always find one: what is new is
//! compiled, checked, warmed up and published, one version after the other; where one of the same number is
//! served it takes its place. Only when all that are wanted are served do the others go. What cannot be
//! loaded leaves what is served as it is, and says so: in the log, the index, and the answers to requests for
//! it.
//!
//! One thread at a time changes a model, holding the lock of its name; the books have a lock of their own,
//! which is never held while anything is loaded or waited for.

mod books;
mod inline;
pub mod poll;
mod warm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use anyhow::{Context, Result, anyhow, bail};
use reef_base::{Class, ModelKey};
use reef_engine::{Engine, LoadError, ModelSource, ModelSpec, Prepared, Published, Queued};
use reef_repository::{Found, FoundVersion, ModelConfig, ScanError, Snapshot, names};
use reef_server::{ControlError, LoadRequest, ModelControl};
use serde_json::Value;

use crate::repository;
use books::{Books, Served};
use inline::Inline;

/// Who says which models are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Whatever is in the directory at the start.
    None,
    /// Whatever is in the directory.
    Poll,
    /// Clients.
    Explicit,
}

/// The models of a repository in an engine.
#[derive(Debug)]
pub struct Control {
    engine: Engine,
    dir: PathBuf,
    /// The file of settings, if it is not the directory's.
    settings: Option<PathBuf>,
    mode: Mode,
    books: Mutex<Books>,
    /// Held by who looks at the directory for the index.
    looking: Mutex<()>,
    /// By name: held by who changes the model.
    names: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
}

impl Control {
    /// Of a repository of which nothing is loaded yet.
    pub fn new(engine: Engine, dir: &Path, settings: Option<&Path>, mode: Mode) -> Control {
        let (books, looking, names) = Default::default();
        let settings = settings.map(Path::to_path_buf);
        Control { engine, dir: dir.to_path_buf(), settings, mode, books, looking, names }
    }

    /// What there is in the repository now.
    fn scan(&self) -> Result<Snapshot, ScanError> {
        repository::scan(&self.dir, self.settings.as_deref())
    }

    /// Loads what was found of a model, as far as it is not served as it is; an error is of every version
    /// that could not be loaded.
    pub fn bring_up(&self, found: &Found) -> Result<(), Vec<(ModelKey, anyhow::Error)>> {
        let name = self.name(&found.name);
        let _one = name.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(found, None)
    }

    /// Takes every version of a model out of service.
    pub fn take_down(&self, name: &str) {
        let lock = self.name(name);
        let _one = lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_down_but(name, &[]);
        self.books().forget(name);
    }

    /// What is in the repository now, for the index.
    pub fn note(&self, snapshot: &Snapshot) {
        self.books().note(snapshot);
    }

    /// Whether a model is served as it was found, or was tried like that in vain.
    pub fn is_settled(&self, found: &Found) -> bool {
        self.books().is_settled(found)
    }

    /// Names of the models that are served, or could not be.
    pub fn known(&self) -> Vec<String> {
        self.books().names()
    }

    /// Versions that are served.
    pub fn served(&self) -> usize {
        self.books().served().count()
    }

    fn name(&self, name: &str) -> Arc<Mutex<()>> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a name that nobody changes and that is not known nothing is to be kept: clients make names up.
        let known = self.books().names();
        names.retain(|name, lock| Arc::strong_count(lock) > 1 || known.contains(name));
        names.entry(name.into()).or_default().clone()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rest of [`Control::bring_up`], for who holds the name.
    fn change(
        &self,
        found: &Found,
        inline: Option<Arc<Inline>>,
    ) -> Result<(), Vec<(ModelKey, anyhow::Error)>> {
        self.books().begin(found);
        for notice in found.notices.iter().cloned().chain(repository::notices(found)) {
            tracing::warn!("model {}: {notice}", found.name);
        }
        let mut failed: Vec<(ModelKey, anyhow::Error)> = Vec::new();
        if let Some(fault) = &found.fault {
            failed.push((self.faulty_key(found), anyhow!("{fault}")));
        } else {
            for version in &found.missing {
                let key = ModelKey { name: found.name.clone(), version: version.clone() };
                failed.push((key, anyhow!("config.pbtxt names version {version}, which is not there")));
            }
            for version in &found.versions {
                if self.books().serves(found, version) {
                    continue;
                }
                let load = || self.load_version(found, version, inline.clone());
                if let Err(error) = crate::guarded(&version.path, load) {
                    failed.push((version.key.clone(), error));
                }
            }
        }
        self.books().end(found, failed.iter().map(|(key, error)| (key, crate::message(error))));
        if failed.is_empty() {
            let wanted: Vec<&str> = found.versions.iter().map(|version| &*version.key.version).collect();
            self.take_down_but(&found.name, &wanted);
            return Ok(());
        }
        Err(failed)
    }

    /// The version that a fault of the whole model is told of.
    fn faulty_key(&self, found: &Found) -> ModelKey {
        let first = found.versions.first().map(|version| version.key.version.clone());
        let version = first.unwrap_or_else(|| "1".into());
        ModelKey { name: found.name.clone(), version }
    }

    /// Takes every version out of service that is not wanted; who has asked for one gets its answer.
    fn take_down_but(&self, name: &str, wanted: &[&str]) {
        let going = self.books().others(name, wanted);
        for version in going {
            match self.engine.unload(name, Some(&version), Queued::Finish) {
                Ok(()) => tracing::info!("unloaded {name}/{version}"),
                Err(LoadError::UnknownModel(_)) => {}
                Err(error) => tracing::warn!("model {name}/{version} is not unloaded: {error}"),
            }
            // With what it was served from.
            let gone = self.books().remove(name, &version);
            drop(gone);
            crate::give_free_memory_back();
        }
    }

    /// Compiles, checks and warms up a version, and publishes it.
    fn load_version(&self, found: &Found, version: &FoundVersion, inline: Option<Arc<Inline>>) -> Result<()> {
        let settings = repository::settings(found)?;
        if !found.has_settings() {
            tracing::info!("model {} has no settings: best-effort", version.key);
        }
        let started = std::time::Instant::now();
        let source = ModelSource::Path(version.path.clone());
        let class = settings.class;
        let spec = ModelSpec { key: version.key.clone(), source, settings };
        let load = || -> Result<Prepared> {
            let prepared = self.engine.prepare(spec).map_err(|error| named(found, error))?;
            let info = prepared.info();
            if let Some(config) = &found.config {
                let (inputs, outputs) = (warm::declared(&info.inputs), warm::declared(&info.outputs));
                let checked = config.check(&inputs, &outputs);
                let notices = checked.map_err(|fault| anyhow!("config.pbtxt: {fault}"))?;
                notices.iter().for_each(|notice| tracing::warn!("model {}: {notice}", found.name));
            }
            warm::warm(&prepared, found)?;
            Ok(prepared)
        };
        let cannot = || format!("cannot load the model {} ({})", version.key, version.path.display());
        let prepared = load().with_context(cannot)?;
        let served = Served::new(found, version, &prepared.info(), inline)?;
        let replaces = prepared.replaces();
        let Published { retired, .. } = prepared.publish().with_context(cannot)?;
        let info = self.engine.model(&version.key.name, Some(&version.key.version));
        let before = self.books().publish(&version.key, served);
        let plans = info.map(|info| info.plans).unwrap_or_default();
        let devices: Vec<&str> = plans.iter().map(|plan| &*plan.device).collect();
        let weights: usize = plans.iter().map(|plan| plan.weight_bytes).max().unwrap_or(0);
        tracing::info!(
            class = describe(class),
            device = distinct(&devices).join(" "),
            plans = plans.len(),
            weights_mib = weights >> 20,
            seconds = format!("{:.1}", started.elapsed().as_secs_f64()),
            "{} {}",
            if replaces { "reloaded" } else { "loaded" },
            version.key
        );
        // Its last requests may take long; nobody is to wait for them. Its files go after it.
        let end = move || {
            drop(retired);
            drop(before);
            crate::give_free_memory_back();
        };
        if let Err(error) = std::thread::Builder::new().name("reef-retire".into()).spawn(end) {
            tracing::debug!(%error, "a model was ended on the thread that loads");
        }
        Ok(())
    }

    /// What a client's request to load means.
    fn requested(
        &self,
        name: &str,
        request: &LoadRequest,
    ) -> Result<(Found, Option<Arc<Inline>>), ControlError> {
        let invalid = |error: anyhow::Error| ControlError::Invalid(crate::message(&error));
        let config = request.config.as_deref().map(ModelConfig::of_json).transpose();
        let config = config.map_err(|fault| ControlError::Invalid(format!("config: {fault}")))?;
        let failed = |error: ScanError| ControlError::Failed(error.to_string());
        let mut snapshot = self.scan().map_err(failed)?;
        self.note(&snapshot);
        let stored = snapshot.models.remove(name);
        if request.files.is_empty() {
            let found = stored.ok_or_else(|| unknown(name))?;
            return Ok((config.map_or(found.clone(), |config| found.with_config(config)), None));
        }
        let inline = Arc::new(Inline::write(&request.files).map_err(invalid)?);
        let own = stored.map(|found| found.own).unwrap_or_default();
        Ok((reef_repository::inline(name, inline.dir(), config, own), Some(inline)))
    }

    fn check_mode(&self) -> Result<(), ControlError> {
        let mode = match self.mode {
            Mode::Explicit => return Ok(()),
            Mode::Poll => "poll",
            Mode::None => "none",
        };
        let why = format!("explicit model control is off: the server runs with --model-control-mode {mode}");
        Err(ControlError::Off(why))
    }
}

impl ModelControl for Control {
    fn load(&self, name: &str, request: LoadRequest) -> Result<(), ControlError> {
        self.check_mode()?;
        if !names::is_file_name(name) {
            return Err(ControlError::Invalid(format!("'{}' is no model's name", name.escape_debug())));
        }
        let lock = self.name(name);
        let _one = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, inline) = self.requested(name, &request)?;
        drop(request);
        self.change(&found, inline).map_err(|failed| {
            let reasons: Vec<String> = failed.iter().map(|(_, error)| crate::message(error)).collect();
            for ((key, _), reason) in failed.iter().zip(&reasons) {
                tracing::warn!("model {key} is not loaded: {reason}");
            }
            // Clients may make up names as they like.
            self.books().forget_stranger(name);
            ControlError::Invalid(format!("failed to load '{name}': {}", reasons.join("; ")))
        })
    }

    fn unload(&self, name: &str, _dependents: bool) -> Result<(), ControlError> {
        self.check_mode()?;
        if !self.books().knows(name) {
            return Err(unknown(name));
        }
        self.take_down(name);
        Ok(())
    }

    fn look(&self) {
        // In the other modes the index is of what was there when it was looked at. One look at a time,
        // however many clients ask: the others are told of the last one.
        let looking = self.looking.try_lock();
        if self.mode == Mode::Explicit && !matches!(looking, Err(TryLockError::WouldBlock)) {
            match self.scan() {
                Ok(snapshot) => self.note(&snapshot),
                Err(error) => tracing::warn!("the index is of an earlier look: {error}"),
            }
        }
    }

    fn index(&self) -> Vec<(ModelKey, String, String)> {
        self.books().index(&self.engine.models())
    }

    fn config(&self, name: &str, version: Option<&str>) -> Option<Value> {
        let key = self.engine.model(name, version)?.key;
        self.books().get(&key).map(|served| served.config.clone())
    }

    fn labels(&self, name: &str, version: Option<&str>, output: &str) -> Option<Arc<[String]>> {
        let key = self.engine.model(name, version)?.key;
        self.books().get(&key)?.labels.get(output).cloned()
    }
}

fn unknown(name: &str) -> ControlError {
    ControlError::Unknown(format!("there is no model '{}' in the repository", name.escape_debug()))
}

/// With where the settings stand, if those are what is wrong.
fn named(found: &Found, error: LoadError) -> anyhow::Error {
    let settings = matches!(error, LoadError::Settings { .. } | LoadError::Compile { .. });
    let error = anyhow::Error::new(error);
    if settings && found.has_settings() { error.context(found.settings_named()) } else { error }
}

fn describe(class: Class) -> String {
    match class {
        Class::RealTime(level) => format!("real-time level {}", level.get()),
        Class::BestEffort => "best-effort".into(),
    }
}

fn distinct<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut distinct: Vec<&str> = Vec::new();
    for name in names {
        if !distinct.contains(name) {
            distinct.push(name);
        }
    }
    distinct
}

/// Models of a directory by the names that the command line gives; all without any, or with `*`.
pub fn chosen(snapshot: &Snapshot, mode: Mode, names: &[String]) -> Result<Vec<Found>> {
    if mode != Mode::Explicit && !names.is_empty() {
        bail!("--load-model needs --model-control-mode explicit");
    }
    if mode != Mode::Explicit || names.iter().any(|name| name == "*") {
        return Ok(snapshot.models.values().cloned().collect());
    }
    let find = |name: &String| {
        let found = snapshot.models.get(name).cloned();
        found.unwrap_or_else(|| {
            let fault = Some("there is no such model in the repository".into());
            Found { name: name.clone(), fault, ..Found::default() }
        })
    };
    Ok(names.iter().map(find).collect())
}
