//! What is served, from what, and what could not be: the books of a repository's models.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use reef_base::{Class, ModelKey};
use reef_engine::{ModelInfo, ModelState};
use reef_repository::config::Extra;
use reef_repository::{Found, FoundVersion, Snapshot, Stamp};
use reef_server::UNLOADED;
use serde_json::Value;

use super::inline::Inline;
use super::warm::declared;

/// Labels of one output at most.
const LABELS_BYTES_MAX: u64 = 16 << 20;

/// A version that is served.
#[derive(Debug)]
pub struct Served {
    /// What it was found as.
    found: Found,
    path: PathBuf,
    stamp: Stamp,
    /// Its configuration, as clients see it.
    pub config: Value,
    /// Labels of outputs.
    pub labels: BTreeMap<String, Arc<[String]>>,
    /// The files that a client sent; they stay as long as it is served.
    _inline: Option<Arc<Inline>>,
}

impl Served {
    pub fn new(
        found: &Found,
        version: &FoundVersion,
        info: &ModelInfo,
        inline: Option<Arc<Inline>>,
    ) -> Result<Served> {
        let config = found.config.clone().unwrap_or_default();
        let extra = Extra {
            name: found.name.clone(),
            inputs: declared(&info.inputs),
            outputs: declared(&info.outputs),
            parameters: in_force(info),
            joins: info.joins,
        };
        let (path, stamp) = (version.path.clone(), version.stamp.clone());
        let (config, labels) = (config.answer(&extra), labels(found)?);
        Ok(Served { found: found.clone(), path, stamp, config, labels, _inline: inline })
    }

    fn is(&self, found: &Found, version: &FoundVersion) -> bool {
        self.path == version.path && self.stamp == version.stamp && self.found.same_terms(found)
    }
}

/// The settings that hold, as parameters.
fn in_force(info: &ModelInfo) -> Vec<(String, String)> {
    let settings = &info.settings;
    let mut parameters = vec![("class".to_string(), settings.class.name().to_string())];
    let mut push = |key: &str, value: String| parameters.push((key.into(), value));
    if let Class::RealTime(level) = settings.class {
        push("level", level.get().to_string());
    }
    push("weight", settings.weight.to_string());
    push("queue_len", settings.queue_len.to_string());
    if let Some(deadline) = settings.deadline {
        push("deadline_ms", (deadline.0 as f64 / 1e6).to_string());
    }
    push("devices", info.devices.join(","));
    push("placement", settings.placement.name().into());
    if let Some(precision) = settings.precision {
        push("precision", precision.to_string());
    }
    parameters
}

fn labels(found: &Found) -> Result<BTreeMap<String, Arc<[String]>>> {
    let mut all = BTreeMap::new();
    let (Some(config), Some(dir)) = (&found.config, &found.dir) else { return Ok(all) };
    for output in &config.outputs {
        let Some(file) = &output.label_file else { continue };
        let path = dir.join(file);
        let read = || -> Result<String> {
            let len = std::fs::metadata(&path)?.len();
            anyhow::ensure!(len <= LABELS_BYTES_MAX, "{len} bytes, at most {LABELS_BYTES_MAX} are read");
            Ok(std::fs::read_to_string(&path)?)
        };
        let text =
            read().with_context(|| format!("labels of output '{}' ({})", output.name, path.display()))?;
        let lines = text.lines().map(|line| line.trim_end().to_string());
        all.insert(output.name.clone(), lines.collect::<Vec<_>>().into());
    }
    Ok(all)
}

/// All models that there are, or that somebody asked for.
#[derive(Debug, Default)]
pub struct Books {
    models: BTreeMap<String, Entry>,
    /// Models in the repository: the versions that would be served.
    stored: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// By version.
    served: BTreeMap<String, Served>,
    /// Versions that could not be loaded, and why.
    failed: BTreeMap<String, String>,
    /// What was tried last.
    tried: Option<Found>,
    /// Versions that are being loaded.
    loading: Vec<String>,
}

impl Books {
    /// What is in the repository.
    pub fn note(&mut self, snapshot: &Snapshot) {
        let versions =
            |found: &Found| found.versions.iter().map(|version| version.key.version.clone()).collect();
        self.stored = snapshot.models.iter().map(|(name, found)| (name.clone(), versions(found))).collect();
    }

    /// It is being loaded.
    pub fn begin(&mut self, found: &Found) {
        let entry = self.models.entry(found.name.clone()).or_default();
        entry.loading = found.versions.iter().map(|version| version.key.version.clone()).collect();
    }

    /// What came of it.
    pub fn end<'a>(&mut self, found: &Found, failed: impl Iterator<Item = (&'a ModelKey, String)>) {
        let entry = self.models.entry(found.name.clone()).or_default();
        entry.loading.clear();
        entry.failed = failed.map(|(key, why)| (key.version.clone(), why)).collect();
        entry.tried = Some(found.clone());
    }

    /// A version is served; what was until now comes back.
    pub fn publish(&mut self, key: &ModelKey, served: Served) -> Option<Served> {
        let entry = self.models.entry(key.name.clone()).or_default();
        entry.served.insert(key.version.clone(), served)
    }

    /// A version is not served any more.
    pub fn remove(&mut self, name: &str, version: &str) -> Option<Served> {
        self.models.get_mut(name)?.served.remove(version)
    }

    /// Nothing of a model is served, and nobody wants it.
    pub fn forget(&mut self, name: &str) {
        self.models.remove(name);
    }

    /// The same of one that neither is in the repository nor served.
    pub fn forget_stranger(&mut self, name: &str) {
        let served = self.models.get(name).is_some_and(|entry| !entry.served.is_empty());
        if !served && !self.stored.contains_key(name) {
            self.models.remove(name);
        }
    }

    pub fn get(&self, key: &ModelKey) -> Option<&Served> {
        self.models.get(&key.name)?.served.get(&key.version)
    }

    /// Whether a version is served as it was found.
    pub fn serves(&self, found: &Found, version: &FoundVersion) -> bool {
        self.get(&version.key).is_some_and(|served| served.is(found, version))
    }

    /// Whether this was tried already, whatever came of it.
    pub fn is_settled(&self, found: &Found) -> bool {
        let tried = self.models.get(&found.name).and_then(|entry| entry.tried.as_ref());
        tried.is_some_and(|tried| tried == found)
    }

    /// Versions of a model that are served and not among these.
    pub fn others(&self, name: &str, wanted: &[&str]) -> Vec<String> {
        let served = self.models.get(name).into_iter().flat_map(|entry| entry.served.keys());
        served.filter(|version| !wanted.contains(&&***version)).cloned().collect()
    }

    pub fn served(&self) -> impl Iterator<Item = &Served> {
        self.models.values().flat_map(|entry| entry.served.values())
    }

    pub fn names(&self) -> Vec<String> {
        self.models.keys().cloned().collect()
    }

    /// Whether it is in the repository, served or tried.
    pub fn knows(&self, name: &str) -> bool {
        self.stored.contains_key(name) || self.models.contains_key(name)
    }

    /// Every model with its state and the reason: those of the engine first.
    pub fn index(&self, engine: &[ModelInfo]) -> Vec<(ModelKey, String, String)> {
        let failed = |key: &ModelKey| self.models.get(&key.name)?.failed.get(&key.version).cloned();
        let state = |info: &ModelInfo| match info.state {
            ModelState::Loading => "LOADING",
            ModelState::Ready => "READY",
            ModelState::Unloading => "UNLOADING",
        };
        let mut index: Vec<(ModelKey, String, String)> = Vec::new();
        for info in engine {
            // One that was to be reloaded and could not is served as it was before.
            let reason = failed(&info.key).map(|why| format!("not reloaded: {why}")).unwrap_or_default();
            index.push((info.key.clone(), state(info).into(), reason));
        }
        let mut push = |name: &str, version: &str, state: &str, reason: &str| {
            let key = ModelKey { name: name.into(), version: version.into() };
            if index.iter().all(|(known, ..)| *known != key) {
                index.push((key, state.into(), reason.into()));
            }
        };
        for (name, entry) in &self.models {
            entry.failed.iter().for_each(|(version, why)| push(name, version, "UNAVAILABLE", why));
            entry.loading.iter().for_each(|version| push(name, version, "LOADING", ""));
        }
        for (name, versions) in &self.stored {
            if self.models.get(name).is_none_or(|entry| entry.served.is_empty()) {
                versions.iter().for_each(|version| push(name, version, "UNAVAILABLE", UNLOADED));
            }
        }
        index
    }
}
