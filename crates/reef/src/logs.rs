//! The log of the process: lines for people, or JSON for machines, on standard error.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people; in colours on a terminal.
    Text,
    /// An object per line.
    Json,
}

/// Of a command that is no server: the filter of `REEF_LOG`, or what matters.
pub fn start_plain() {
    let filter = EnvFilter::try_from_env("REEF_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    start_with(filter, Format::Text);
}

/// With this filter.
pub fn start(filter: &str, format: Format) -> Result<()> {
    start_with(self::filter(filter)?, format);
    Ok(())
}

/// An error if it is none.
pub fn filter(text: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(text).with_context(|| format!("log: '{text}' is not a filter"))
}

fn start_with(filter: EnvFilter, format: Format) {
    // Colours are for people; a log that is kept or parsed has none.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        // A log whose reader has gone must not end who writes to it.
        .log_internal_errors(false);
    match format {
        Format::Text => builder.init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
}
