//! Which messages are logged, as clients read and change it.

use std::fmt::Debug;

use tracing::level_filters::LevelFilter;

use crate::core::parameter::{Value, flag, unsigned};
use crate::core::problem::Problem;

/// What decides which messages are logged: whoever has set up the log of the process.
pub trait LogControl: Send + Sync + Debug {
    /// The least urgent messages that are logged.
    fn level(&self) -> LevelFilter;

    /// Changes it, until it is changed again; an error says why it cannot be.
    fn set_level(&self, level: LevelFilter) -> Result<(), String>;
}

/// The name of a setting and its value.
pub(crate) type Setting = (&'static str, Value);

/// The settings as they are, in Triton's words.
pub(crate) fn settings(log: &dyn LogControl) -> Vec<Setting> {
    let level = log.level();
    let verbose = match level {
        LevelFilter::TRACE => 2,
        LevelFilter::DEBUG => 1,
        _ => 0,
    };
    vec![
        ("log_file", Value::Text(String::new())),
        ("log_info", Value::Flag(level >= LevelFilter::INFO)),
        ("log_warning", Value::Flag(level >= LevelFilter::WARN)),
        ("log_error", Value::Flag(level >= LevelFilter::ERROR)),
        ("log_verbose_level", Value::Whole(verbose)),
        ("log_format", Value::Text("default".into())),
    ]
}

/// Changes what `changes` say, all of it or nothing, and gives the settings as they are then.
pub(crate) fn update(log: &dyn LogControl, changes: &[(String, Value)]) -> Result<Vec<Setting>, Problem> {
    let mut levels = Levels::of(log.level());
    for (name, value) in changes {
        levels.change(name, value)?;
    }
    if !changes.is_empty() {
        log.set_level(levels.filter()?).map_err(Problem::unavailable)?;
    }
    Ok(settings(log))
}

/// What is logged, by urgency.
#[derive(Clone, Copy, Debug)]
struct Levels {
    error: bool,
    warning: bool,
    info: bool,
    verbose: u64,
}

impl Levels {
    fn of(level: LevelFilter) -> Levels {
        let verbose = u64::from(level >= LevelFilter::DEBUG) + u64::from(level >= LevelFilter::TRACE);
        let at_least = |least| level >= least;
        Levels {
            error: at_least(LevelFilter::ERROR),
            warning: at_least(LevelFilter::WARN),
            info: at_least(LevelFilter::INFO),
            verbose,
        }
    }

    fn change(&mut self, name: &str, value: &Value) -> Result<(), Problem> {
        const PLACE: &str = "the log settings";
        let switch = || flag(Some(value.clone()), name, PLACE).map(|on| on.unwrap_or_default());
        let fixed = |only: &str, why: &str| match value {
            Value::Text(text) if text == only => Ok(()),
            other => {
                Err(Problem::unsupported(format!("log setting '{name}': {other} is not possible, {why}")))
            }
        };
        match name {
            "log_error" => self.error = switch()?,
            "log_warning" => self.warning = switch()?,
            "log_info" => self.info = switch()?,
            "log_verbose_level" => {
                self.verbose = unsigned(Some(value.clone()), name, PLACE)?.unwrap_or_default();
            }
            "log_file" => fixed("", "the log goes to standard error")?,
            "log_format" => fixed("default", "the format is given when the server starts")?,
            other => {
                let other = crate::core::parameter::quoted(other);
                return Err(Problem::invalid(format!("there is no log setting '{other}'")));
            }
        }
        Ok(())
    }

    /// The level that logs this and nothing else.
    fn filter(self) -> Result<LevelFilter, Problem> {
        let Levels { error, warning, info, verbose } = self;
        match (error, warning, info, verbose) {
            (true, true, true, 2..) => Ok(LevelFilter::TRACE),
            (true, true, true, 1) => Ok(LevelFilter::DEBUG),
            (true, true, true, 0) => Ok(LevelFilter::INFO),
            (true, true, false, 0) => Ok(LevelFilter::WARN),
            (true, false, false, 0) => Ok(LevelFilter::ERROR),
            (false, false, false, 0) => Ok(LevelFilter::OFF),
            _ => Err(Problem::unsupported(
                "the log settings: what is more urgent cannot be left out of what is logged \
                 (log_error, log_warning, log_info, log_verbose_level, in this order)",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_what_its_settings_say() {
        let all = [
            LevelFilter::OFF,
            LevelFilter::ERROR,
            LevelFilter::WARN,
            LevelFilter::INFO,
            LevelFilter::DEBUG,
            LevelFilter::TRACE,
        ];
        for level in all {
            assert_eq!(Levels::of(level).filter(), Ok(level));
        }
    }

    #[test]
    fn what_cannot_be_set_is_said() {
        let change =
            |name: &str, value| Levels::of(LevelFilter::INFO).change(name, &value).unwrap_err().message;
        let text = |text: &str| Value::Text(text.into());
        assert!(change("log_file", text("/etc/passwd")).contains("goes to standard error"));
        assert!(change("log_format", text("ISO8601")).contains("when the server starts"));
        assert!(change("log_info", text("yes")).contains("\"yes\" is not a boolean"));
        assert!(change("log_verbose_level", Value::Whole(-1)).contains("-1 is not an unsigned integer"));
        assert!(change("log_nothing", Value::Flag(true)).contains("no log setting 'log_nothing'"));
        let mut levels = Levels::of(LevelFilter::INFO);
        levels.change("log_warning", &Value::Flag(false)).unwrap();
        assert!(levels.filter().unwrap_err().message.contains("more urgent"));
    }
}
