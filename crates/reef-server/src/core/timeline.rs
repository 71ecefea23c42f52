//! The trace settings: a timeline of the whole engine, started and stopped by clients.
//!
//! | state | setting | next |
//! |---|---|---|
//! | off | `trace_file` | off, with that name |
//! | off | `trace_level` TIMESTAMPS | on: the engine records |
//! | on | `trace_level` OFF | off: the file is written |
//! | on | another `trace_file` | on, and an error |
//!
//! Files are in the folder that the operator names; without one nothing can be traced this way. Invariant:
//! what is said together is done together, or not at all.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use reef_engine::{Engine, TraceOptions};

use crate::core::parameter::quoted;
use crate::core::problem::Problem;

/// Characters of a file's name at most.
const NAME_LEN_MAX: usize = 128;

/// What is the same for every trace: all requests, one file, written at the end.
const FIXED: [(&str, &str); 4] =
    [("trace_rate", "1"), ("trace_count", "-1"), ("log_frequency", "0"), ("trace_mode", "perfetto")];

/// A setting and its values; none for the default.
pub(crate) type Change = (String, Vec<String>);

/// The timeline that clients control.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    folder: Option<PathBuf>,
    now: Mutex<Now>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Now {
    file: String,
    on: bool,
}

impl Timeline {
    /// Writes into `folder`.
    pub(crate) fn new(folder: Option<PathBuf>) -> Timeline {
        Timeline { folder, now: Mutex::default() }
    }

    /// Whether clients may trace.
    pub(crate) fn is_allowed(&self) -> bool {
        self.folder.is_some()
    }

    /// Each setting with its values.
    pub(crate) fn settings(&self) -> Vec<(&'static str, Vec<String>)> {
        let now = self.lock().clone();
        let level = if now.on { "TIMESTAMPS" } else { "OFF" };
        let fixed = FIXED.map(|(name, value)| (name, vec![value.to_string()]));
        [("trace_level", vec![level.to_string()]), ("trace_file", vec![now.file])]
            .into_iter()
            .chain(fixed)
            .collect()
    }

    /// Does what `changes` say. Blocks while a file is written.
    pub(crate) fn update(&self, engine: &Engine, changes: &[Change]) -> Result<(), Problem> {
        if changes.is_empty() {
            return Ok(());
        }
        let Some(folder) = &self.folder else {
            return Err(Problem::unsupported(
                "clients may not trace: the server was started without a folder for traces",
            ));
        };
        let mut now = self.lock();
        let mut wanted = now.clone();
        changes.iter().try_for_each(|(name, values)| wanted.change(name, values))?;
        if now.on && wanted.on && wanted.file != now.file {
            let file = &now.file;
            return Err(Problem::invalid(format!(
                "trace setting 'trace_file': '{file}' is being recorded; set trace_level to OFF first"
            )));
        }
        if wanted.on && wanted.file.is_empty() {
            return Err(Problem::invalid("trace setting 'trace_level': there is no trace_file to write"));
        }
        if now.on && !wanted.on {
            // Whatever comes of it, nothing is recorded any more.
            now.on = false;
            engine.stop_trace().map_err(|error| Problem::internal(error.to_string()))?;
        }
        if wanted.on && !now.on {
            let options = TraceOptions::new(folder.join(&wanted.file));
            engine.start_trace(options).map_err(|error| Problem::unavailable(error.to_string()))?;
        }
        *now = wanted;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    fn change(&mut self, name: &str, values: &[String]) -> Result<(), Problem> {
        let listed = quoted(&values.join(","));
        let wrong = |why: &str| Problem::invalid(format!("trace setting '{name}': '{listed}' {why}"));
        match (name, values) {
            ("trace_level", []) => self.on = false,
            ("trace_level", [level]) if level == "OFF" => self.on = false,
            ("trace_level", levels) if levels.iter().all(|level| level == "TIMESTAMPS") => self.on = true,
            ("trace_level", _) => return Err(wrong("is neither OFF nor TIMESTAMPS")),
            ("trace_file", []) => self.file.clear(),
            ("trace_file", [file]) if is_file_name(file) => self.file = file.clone(),
            ("trace_file", _) => {
                return Err(wrong("is not the name of a file in the server's folder for traces"));
            }
            _ => {
                let fixed = FIXED.iter().find(|(fixed, _)| *fixed == name);
                let (_, only) = fixed.ok_or_else(|| {
                    Problem::invalid(format!("there is no trace setting '{}'", quoted(name)))
                })?;
                if values.iter().any(|value| value != only) {
                    return Err(wrong(&format!("is not possible, it is always {only}")));
                }
            }
        }
        Ok(())
    }
}

/// A name that stays inside its folder and hides nowhere.
fn is_file_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
    let usual = !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.starts_with('.');
    usual && name.chars().all(plain) && Path::new(name).file_name().is_some_and(|last| last == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_stays_in_its_folder() {
        let long = "x".repeat(NAME_LEN_MAX + 1);
        let outside = ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "é", &long];
        for name in outside {
            let error = Now::default().change("trace_file", &[name.into()]).unwrap_err();
            assert!(error.message.contains("not the name of a file"), "{name}: {}", error.message);
        }
        let mut now = Now::default();
        now.change("trace_file", &["run-1_a.json".into()]).unwrap();
        assert_eq!(now.file, "run-1_a.json");
    }

    #[test]
    fn what_cannot_be_set_is_said() {
        let change = |name: &str, value: &str| Now::default().change(name, &[value.into()]);
        let error = |name: &str, value: &str| change(name, value).unwrap_err().message;
        assert!(error("trace_level", "TENSORS").contains("neither OFF nor TIMESTAMPS"));
        assert!(error("trace_rate", "1000").contains("always 1"));
        assert!(error("trace_mode", "opentelemetry").contains("always perfetto"));
        assert!(error("trace_nothing", "1").contains("no trace setting 'trace_nothing'"));
        assert_eq!(change("trace_rate", "1"), Ok(()));
    }
}
