//! `reef-repository`: a directory of models as people have it.
//!
//! Owns what a repository looks like: which files are models, in which versions, and what their
//! configurations say (`config.pbtxt` and its JSON, `reef.toml`). [`scan`] gives the whole of it as a value;
//! two of them say what changed. Knows no engine and no protocol; loads nothing, and changes no file.
//!
//! What is wrong with one model is that model's fault ([`Found::fault`]) and nobody else's. Names that may
//! come from clients lead nowhere but into the model's own directory ([`names`]).

pub mod config;
mod json;
pub mod names;
mod scan;
mod settings;
pub mod text;

pub use config::{Declared, ModelConfig, VersionPolicy};
pub use scan::{Found, FoundVersion, ScanError, Snapshot, Stamp, inline, scan, scan_with};
pub use settings::{Element, Settings, Value};
pub use text::Fault;
