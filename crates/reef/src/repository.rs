//! A directory of models: which files are models, and the settings beside them.
//!
//! Layouts: `DIR/NAME/VERSION/model.onnx` (Triton's) and `DIR/NAME.onnx`. Settings: `DIR/reef.toml` with a
//! table `[model.NAME]` per model beside the server's keys (module `config`), or another file in its place;
//! and `DIR/NAME/reef.toml` (or `DIR/NAME.toml` beside `NAME.onnx`) with a model's keys at the top. A key
//! beside the model wins over the directory's. Unknown keys are errors.
//! `reef.onnx` has its settings in the directory's `reef.toml` only, as `[model.reef]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use reef_base::{Class, Level, ModelKey, Nanos};
use reef_engine::{InputValues, Number, Placement};
use reef_plan::Precision;
use serde::Deserialize;

/// A model file found in a directory, with its settings.
#[derive(Clone, Debug)]
pub struct FoundModel {
    /// Name and version.
    pub key: ModelKey,
    /// The ONNX file.
    pub path: PathBuf,
    /// What was said about it; `None` when nothing was.
    pub settings: Option<Settings>,
    /// The files that said it, for errors; beside the model first.
    pub said_in: Vec<PathBuf>,
}

/// Settings of one model as written by its owner.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `real-time` or `best-effort`.
    pub class: Option<String>,
    /// Real-time level, 0 the most urgent.
    pub level: Option<u8>,
    /// Share among best-effort models.
    pub weight: Option<u32>,
    /// Deadline of a request from its arrival, milliseconds.
    pub deadline_ms: Option<f64>,
    /// Requests that may wait.
    pub queue_len: Option<usize>,
    /// Input shapes to compile ahead, for models with symbolic dimensions.
    pub shapes: Option<Vec<BTreeMap<String, Vec<usize>>>>,
    /// Values of shape inputs to compile ahead; the first set with the first of `shapes`, and so on.
    pub values: Option<Vec<BTreeMap<String, Value>>>,
    /// Names of the devices that it may be on: `cpu:0`, `cpu:1` in the server's order. All, unless said.
    pub devices: Option<Vec<String>>,
    /// `one` of them, or `replicate` for each.
    pub placement: Option<String>,
    /// What convolutions and matrix products multiply: `f32`, `tf32`, `f16`, `bf16`. The device's default,
    /// unless said.
    pub precision: Option<String>,
}

/// The value of an input: a number or boolean, or a list of them, row-major.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a value is a number, a boolean, or a list of them")]
pub enum Value {
    /// The only element.
    One(Element),
    /// All elements.
    List(Vec<Element>),
}

/// An element of a value.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Element {
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any number.
    Float(f64),
}

#[derive(Debug, Default, Deserialize)]
struct DirectorySettings {
    #[serde(default)]
    model: BTreeMap<String, Settings>,
}

impl FoundModel {
    /// Its settings and where they stand, for errors.
    pub fn settings_named(&self) -> String {
        let files: Vec<String> = self.said_in.iter().map(|path| path.display().to_string()).collect();
        format!("settings of model {} ({})", self.key.name, files.join(", "))
    }
}

impl Settings {
    /// The class that these settings give the model.
    pub fn class(&self) -> Result<Class> {
        let level = self.level.unwrap_or(0);
        match self.class.as_deref() {
            Some("real-time") => match Level::new(level) {
                Some(level) => Ok(Class::RealTime(level)),
                None => bail!("level = {level}: levels are 0 to {}", reef_base::limits::REAL_TIME_LEVELS - 1),
            },
            Some("best-effort") | None if self.level.is_some() => {
                bail!("level = {level} needs class = \"real-time\"")
            }
            Some("best-effort") | None => Ok(Class::BestEffort),
            Some(other) => bail!("class = \"{other}\": there are \"real-time\" and \"best-effort\""),
        }
    }

    /// The deadline of a request, from its arrival.
    pub fn deadline(&self) -> Result<Option<Nanos>> {
        match self.deadline_ms {
            Some(ms) if ms.is_finite() && ms > 0.0 => Ok(Some(Nanos((ms * 1e6) as u64))),
            Some(ms) => bail!("deadline_ms = {ms}: a positive number of milliseconds"),
            None => Ok(None),
        }
    }

    /// The sets of values to compile ahead.
    pub fn values(&self) -> Vec<InputValues> {
        let number = |element: &Element| match *element {
            Element::Bool(value) => Number::Bool(value),
            Element::Int(value) => Number::Int(value),
            Element::Float(value) => Number::Float(value),
        };
        let elements = |value: &Value| match value {
            Value::One(element) => vec![number(element)],
            Value::List(list) => list.iter().map(number).collect(),
        };
        let sets = self.values.iter().flatten();
        sets.map(|set| set.iter().map(|(name, value)| (name.clone(), elements(value))).collect()).collect()
    }

    /// How the model is on its devices.
    pub fn placement(&self) -> Result<Placement> {
        let Some(name) = self.placement.as_deref() else { return Ok(Placement::default()) };
        let known = Placement::ALL.into_iter().find(|placement| placement.name() == name);
        known.with_context(|| {
            let names = Placement::ALL.map(|placement| format!("\"{}\"", placement.name()));
            format!("placement = \"{name}\": there are {}", names.join(", "))
        })
    }

    /// The precision of its products.
    pub fn precision(&self) -> Result<Option<Precision>> {
        let parsed = self.precision.as_deref().map(str::parse).transpose();
        parsed.map_err(|why: String| anyhow!("precision: {why}"))
    }

    /// Refuses names that none of these devices has.
    pub fn check_devices(&self, known: &[&str]) -> Result<()> {
        let named = self.devices.iter().flatten();
        for name in named {
            if !known.contains(&&**name) {
                bail!("devices: there is no device '{name}'; there are {}", known.join(", "));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.class()?;
        self.placement()?;
        self.precision()?;
        if self.devices.as_ref().is_some_and(Vec::is_empty) {
            bail!("devices = []: name one at least, or leave it out for all");
        }
        self.deadline()?;
        if self.weight == Some(0) {
            bail!("weight = 0: at least 1");
        }
        if let Some(len) = self.queue_len
            && !(1..=reef_base::limits::QUEUE_LEN_MAX).contains(&len)
        {
            bail!("queue_len = {len}: 1 to {}", reef_base::limits::QUEUE_LEN_MAX);
        }
        Ok(())
    }

    fn or(self, fallback: Settings) -> Settings {
        // A class beside the model does not take over a level that was meant for another class.
        let level = if self.class.is_some() { self.level } else { self.level.or(fallback.level) };
        Settings {
            class: self.class.or(fallback.class),
            level,
            weight: self.weight.or(fallback.weight),
            deadline_ms: self.deadline_ms.or(fallback.deadline_ms),
            queue_len: self.queue_len.or(fallback.queue_len),
            shapes: self.shapes.or(fallback.shapes),
            values: self.values.or(fallback.values),
            devices: self.devices.or(fallback.devices),
            placement: self.placement.or(fallback.placement),
            precision: self.precision.or(fallback.precision),
        }
    }
}

/// Every model under `dir`, by name, with the settings of a file or, without one, of the directory's.
pub fn scan(dir: &Path, shared: Option<&Path>) -> Result<Vec<FoundModel>> {
    let shared_path = shared.map_or_else(|| dir.join("reef.toml"), Path::to_path_buf);
    let mut shared: DirectorySettings = read_toml(&shared_path)?.unwrap_or_default();
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read the directory {}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(scan_versions(&path)?);
            if let Some(misplaced) = misplaced(&path) {
                tracing::warn!("{misplaced}");
            }
        } else if path.extension().is_some_and(|extension| extension == "onnx") {
            let beside = path.with_extension("toml");
            let settings = if beside == shared_path { None } else { read_toml(&beside)? };
            let said_in = settings.iter().map(|_| beside.clone()).collect();
            found.push(FoundModel { key: key(&path, "1")?, path, settings, said_in });
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    if let Some(pair) = found.windows(2).find(|pair| pair[0].key == pair[1].key) {
        bail!("{} and {} are the same model {}", pair[0].path.display(), pair[1].path.display(), pair[0].key);
    }
    for model in &mut found {
        let beside = model.settings.take();
        let general = shared.model.get(&model.key.name).cloned();
        model.said_in.extend(general.is_some().then(|| shared_path.clone()));
        model.settings = match (beside, general) {
            (Some(beside), Some(general)) => Some(beside.or(general)),
            (beside, general) => beside.or(general),
        };
        if let Some(settings) = &model.settings {
            settings.check().with_context(|| model.settings_named())?;
        }
    }
    shared.model.retain(|name, _| !found.iter().any(|model| &model.key.name == name));
    if let Some(name) = shared.model.keys().next() {
        bail!("{}: settings for '{name}', but there is no such model", shared_path.display());
    }
    Ok(found)
}

fn scan_versions(dir: &Path) -> Result<Vec<FoundModel>> {
    if dir.join("config.pbtxt").exists() {
        tracing::warn!("{}: config.pbtxt is not read yet", dir.display());
    }
    let beside = dir.join("reef.toml");
    let settings: Option<Settings> = read_toml(&beside)?;
    let said_in: Vec<PathBuf> = settings.iter().map(|_| beside.clone()).collect();
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // Not the others' loss: this model cannot be loaded, and who asks for it is told so.
        Err(error) => {
            tracing::warn!(%error, "cannot read {}", dir.display());
            let path = dir.join("1").join("model.onnx");
            return Ok(vec![FoundModel { key: key(dir, "1")?, path, settings, said_in }]);
        }
    };
    for entry in entries {
        let path = entry?.path().join("model.onnx");
        let version = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        if let Some(version) = version.filter(|name| is_version(name))
            && path.is_file()
        {
            let (settings, said_in) = (settings.clone(), said_in.clone());
            found.push(FoundModel { key: key(dir, &version)?, path, settings, said_in });
        }
    }
    Ok(found)
}

/// A number without a sign, which `parse` would take.
fn is_version(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit()) && name.parse::<u32>().is_ok()
}

/// Says that a model lies where none is looked for.
fn misplaced(dir: &Path) -> Option<String> {
    let model = dir.join("model.onnx");
    let say = || {
        let expected = dir.join("1").join("model.onnx");
        format!("{} is not served: {} is where it would be", model.display(), expected.display())
    };
    model.is_file().then(say)
}

fn key(path: &Path, version: &str) -> Result<ModelKey> {
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let Some(name) = stem.and_then(|name| name.to_str()) else {
        bail!("{}: a model's name must be valid UTF-8", path.display());
    };
    Ok(ModelKey { name: name.to_string(), version: version.to_string() })
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    toml::from_str(&text).map(Some).map_err(|error| crate::config::file::located(path, &text, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("reef-repository-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        for (path, text) in files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn both_layouts_and_both_places_of_settings_are_found() {
        let dir = directory(
            "layouts",
            &[
                ("a/1/model.onnx", ""),
                ("a/2/model.onnx", ""),
                ("a/reef.toml", "level = 2\nqueue_len = 5"),
                ("b.onnx", ""),
                ("c.onnx", ""),
                ("notes.txt", ""),
                ("reef.toml", "[model.a]\nclass = \"real-time\"\nqueue_len = 9\n[model.b]\nweight = 2"),
            ],
        );
        let found = scan(&dir, None).unwrap();
        let keys: Vec<String> = found.iter().map(|model| model.key.to_string()).collect();
        assert_eq!(keys, ["a/1", "a/2", "b/1", "c/1"]);
        let a = found[0].settings.as_ref().unwrap();
        assert_eq!((a.class().unwrap(), a.queue_len), (Class::real_time(2), Some(5)));
        assert_eq!(found[2].settings.as_ref().unwrap().weight, Some(2));
        assert!(found[3].settings.is_none());
    }

    #[test]
    fn a_model_without_a_version_directory_is_not_skipped_in_silence() {
        let dir = directory("misplaced", &[("a/model.onnx", ""), ("b/1/model.onnx", "")]);
        let found = scan(&dir, None).unwrap();
        assert_eq!(found.iter().map(|model| model.key.to_string()).collect::<Vec<_>>(), ["b/1"]);
        let said = misplaced(&dir.join("a")).unwrap();
        assert!(said.contains("a/model.onnx") && said.contains("a/1/model.onnx"), "{said}");
        assert_eq!(misplaced(&dir.join("b")), None);
    }

    #[test]
    fn versions_are_digits() {
        let dir = directory(
            "versions",
            &[("a/+1/model.onnx", ""), ("a/-1/model.onnx", ""), ("a/2/model.onnx", "")],
        );
        let found = scan(&dir, None).unwrap();
        assert_eq!(found.iter().map(|model| model.key.to_string()).collect::<Vec<_>>(), ["a/2"]);
        assert!(!is_version("") && !is_version("4294967296") && !is_version("1a") && is_version("10"));
    }

    #[test]
    fn a_model_called_reef_has_its_settings_in_the_table_of_its_name() {
        let dir = directory("reef", &[("reef.onnx", ""), ("reef.toml", "[model.reef]\nweight = 3")]);
        assert_eq!(scan(&dir, None).unwrap()[0].settings.as_ref().unwrap().weight, Some(3));
    }

    /// Whatever a file of settings became, it is read or refused.
    #[test]
    fn damaged_settings_never_panic() {
        let good = "[model.a]\nclass = \"real-time\"\nlevel = 1\ndeadline_ms = 12.5\n\
                    [model.b]\nweight = 2\nqueue_len = 8\nshapes = [{ x = [1, 4] }, { x = [2, 7] }]\n\
                    values = [{ n = 3 }, { n = [1, 2], on = true }]\n";
        let dir = directory("damaged", &[("a.onnx", ""), ("b.onnx", ""), ("reef.toml", good)]);
        scan(&dir, None).unwrap();
        let (mut read, mut refused) = (0, 0);
        let mut try_it = |bytes: &[u8]| {
            std::fs::write(dir.join("reef.toml"), bytes).unwrap();
            // What is done with them later.
            let used = scan(&dir, None).and_then(|found| {
                found.iter().try_for_each(|model| crate::commands::serve::settings(model).map(|_| ()))
            });
            *(if used.is_ok() { &mut read } else { &mut refused }) += 1;
        };
        for len in 0..good.len() {
            try_it(&good.as_bytes()[..len]);
        }
        for at in 0..good.len() {
            for byte in [b' ', b'\n', b'"', b'9', 0xFF] {
                let mut bytes = good.as_bytes().to_vec();
                bytes[at] = byte;
                try_it(&bytes);
            }
        }
        assert!(read > 20 && refused > 100, "{read} read, {refused} refused");
    }

    #[test]
    fn wrong_settings_are_errors_that_name_the_file_or_model() {
        let cases = [
            ("[model.a]\ncolour = 1", "colour"),
            ("[model.z]\nweight = 1", "no such model"),
            ("[model.a]\nclass = \"urgent\"", "urgent"),
            ("[model.a]\nlevel = 3", "real-time"),
            ("[model.a]\nclass = \"real-time\"\nlevel = 99", "99"),
            ("[model.a]\nweight = 0", "weight"),
            ("[model.a]\nqueue_len = 0", "queue_len"),
            ("[model.a]\ndeadline_ms = 0", "deadline_ms"),
            ("[model.a]\nvalues = [{ n = \"many\" }]", "a value is a number"),
            ("[model.a]\nvalues = [{ n = [[1]] }]", "a value is a number"),
            ("[model.a]\nvalues = { n = 1 }", "values"),
            ("[model.a]\nprecision = \"f64\"", "there is no precision \"f64\"; there are \"f32\", \"tf32\""),
            ("[model.a]\nplacement = \"all\"", "there are \"one\", \"replicate\", \"split\""),
            ("[model.a]\ndevices = []", "devices"),
            ("[model.a]\ndevices = \"cpu:0\"", "devices"),
            ("not toml", "reef.toml"),
        ];
        for (text, expected) in cases {
            let dir = directory("wrong", &[("a.onnx", ""), ("reef.toml", text)]);
            let message = format!("{:#}", scan(&dir, None).unwrap_err());
            assert!(message.contains(expected), "{text}: {message}");
        }
        assert!(scan(Path::new("/nonexistent"), None).is_err());
        let twice = directory("twice", &[("a.onnx", ""), ("a/1/model.onnx", "")]);
        assert!(format!("{:#}", scan(&twice, None).unwrap_err()).contains("same model"));
    }
}
