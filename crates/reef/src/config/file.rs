//! `reef.toml` as text: keys of the server with their lines, and what is wrong with it.
//!
//! Invariant: no error quotes a line of the file, which may have a token.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use toml::de::{DeTable, DeValue};

use crate::config::keys::{self, Key, Kind};

/// Tables that the file may have beside the keys.
const TABLES: [&str; 2] = ["client", "model"];

/// A file of settings.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Where it is; nowhere if there is none.
    pub path: Option<PathBuf>,
    /// Its text.
    pub text: String,
    /// The server's keys in it: values and the line.
    pub keys: BTreeMap<&'static str, (Vec<String>, usize)>,
}

impl File {
    /// Reads it; one that is not there is empty, unless it must be there.
    pub fn read(path: &Path, must_exist: bool) -> Result<File> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {
                return Ok(File::default());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let keys = read_keys(path, &text)?;
        Ok(File { path: Some(path.to_path_buf()), text, keys })
    }
}

fn read_keys(path: &Path, text: &str) -> Result<BTreeMap<&'static str, (Vec<String>, usize)>> {
    let table = DeTable::parse(text).map_err(|error| located(path, text, &error))?;
    let mut keys = BTreeMap::new();
    for (name, value) in table.get_ref() {
        let line = line(text, name.span());
        let at = || format!("{}:{line}", path.display());
        let name: &str = name.get_ref();
        if TABLES.contains(&name) {
            continue;
        }
        let Some(key) = keys::find(name) else {
            let names = keys::KEYS.iter().map(|key| key.name).chain(TABLES);
            bail!("{}: there is no key '{name}'{}", at(), hint(name, names));
        };
        let values = values(key, value.get_ref()).map_err(|why| anyhow!("{}: {name}: {why}", at()))?;
        let values = values.into_iter().map(|value| match key.kind {
            Kind::Path => path.parent().unwrap_or(Path::new("")).join(value).to_string_lossy().into_owned(),
            _ => value,
        });
        keys.insert(key.name, (values.collect(), line));
    }
    Ok(keys)
}

/// An error of TOML without the line that it quotes.
pub fn located(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let line = error.span().map(|span| format!(":{}", line(text, span))).unwrap_or_default();
    let message = without_value(error.message());
    let known = message.split("expected one of ").nth(1).unwrap_or_default();
    let known = known.split(", ").map(|name| name.trim_matches('`'));
    let wrong = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let hint = wrong.map(|wrong| hint(wrong, known)).unwrap_or_default();
    let key =
        error.span().filter(|_| message.starts_with("invalid ")).and_then(|span| key_before(text, span));
    let key = key.map(|key| format!("{key}: ")).unwrap_or_default();
    anyhow!("{}{line}: {key}{message}{hint}", path.display())
}

/// The key whose value begins here, if it is on the same line and says nothing else.
fn key_before(text: &str, span: Range<usize>) -> Option<&str> {
    let line = text.get(..span.start)?.rsplit('\n').next()?;
    let key = line.split_once('=')?.0.trim();
    let bare = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    (!key.is_empty() && key.chars().all(bare)).then_some(key)
}

/// What serde says of a value of the wrong kind, but for the value, which may be a token.
fn without_value(message: &str) -> String {
    let kind = ["invalid type", "invalid value"].into_iter().find(|kind| message.starts_with(kind));
    match (kind, message.rsplit_once(", expected ")) {
        (Some(kind), Some((_, expected))) => format!("{kind}, expected {expected}"),
        (Some(kind), None) => kind.to_string(),
        (None, _) => message.to_string(),
    }
}

fn hint<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    keys::nearest(wrong, names).map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

fn line(text: &str, span: Range<usize>) -> usize {
    let before = text.as_bytes().iter().take(span.start);
    before.filter(|&&byte| byte == b'\n').count() + 1
}

/// The values of a key as text, checked.
fn values(key: &Key, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let values: Vec<String> = match (key.list, value) {
        (true, DeValue::Array(items)) => {
            items.iter().map(|item| one(key.kind, item.get_ref())).collect::<Result<_, _>>()?
        }
        (true, _) => return Err("this takes a list".into()),
        (false, value) => vec![one(key.kind, value)?],
    };
    values.iter().try_for_each(|value| key.kind.check(value))?;
    Ok(values)
}

fn one(kind: Kind, value: &DeValue<'_>) -> Result<String, String> {
    match (kind, value) {
        (Kind::Whole { .. } | Kind::Seconds { .. }, DeValue::Integer(number)) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map(|number| number.to_string()).map_err(|_| "this number is too large".into())
        }
        (Kind::Seconds { .. }, DeValue::Float(number)) => Ok(number.as_str().to_string()),
        (Kind::PortOrOff, DeValue::Integer(number)) => Ok(number.as_str().to_string()),
        (Kind::Flag, DeValue::Boolean(yes)) => Ok(yes.to_string()),
        (Kind::Flag, _) => Err("this takes true or false".into()),
        (Kind::Whole { .. }, _) => Err("this takes a whole number".into()),
        (Kind::Seconds { .. }, _) => Err("this takes a number of seconds".into()),
        (_, DeValue::String(text)) => Ok(text.to_string()),
        _ => Err("this takes a text".into()),
    }
}
