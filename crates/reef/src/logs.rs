//! The log of the process: lines for people, or JSON for machines, on standard error. A server's clients may
//! change its level.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::{Context, Result};
use reef_server::LogControl;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

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

/// With this filter, until a client changes the level.
pub fn start(filter: &str, format: Format) -> Result<Arc<dyn LogControl>> {
    Ok(start_with(self::filter(filter)?, format))
}

/// An error if it is none.
pub fn filter(text: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(text).with_context(|| format!("log: '{text}' is not a filter"))
}

fn start_with(filter: EnvFilter, format: Format) -> Arc<dyn LogControl> {
    let (filter, handle) = reload::Layer::new(filter);
    // Colours are for people; a log that is kept or parsed has none.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        // A log whose reader has gone must not end who writes to it.
        .log_internal_errors(false);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Arc::new(Level(handle))
}

/// Which messages are logged.
#[derive(Debug)]
struct Level(reload::Handle<EnvFilter, Registry>);

impl LogControl for Level {
    fn level(&self) -> LevelFilter {
        let level = self.0.with_current(|filter| filter.max_level_hint());
        // Without a hint it depends on the message: all of them may be logged.
        level.ok().flatten().unwrap_or(LevelFilter::TRACE)
    }

    fn set_level(&self, level: LevelFilter) -> Result<(), String> {
        let filter = EnvFilter::new(level.to_string());
        self.0.reload(filter).map_err(|error| format!("the log cannot be changed: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_changed_and_told() {
        let (_filter, handle) = reload::Layer::<EnvFilter, Registry>::new(EnvFilter::new("warn"));
        let log = Level(handle);
        assert_eq!(log.level(), LevelFilter::WARN);
        for level in [LevelFilter::OFF, LevelFilter::ERROR, LevelFilter::INFO, LevelFilter::TRACE] {
            log.set_level(level).unwrap();
            assert_eq!(log.level(), level);
        }
        drop(_filter);
        assert!(log.set_level(LevelFilter::INFO).unwrap_err().contains("cannot be changed"));
    }
}
