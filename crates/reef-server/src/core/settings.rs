//! What clients read and change of the process: the timeline and the log.

use crate::core::logging::{self, Setting};
use crate::core::parameter::Value;
use crate::core::problem::Problem;
use crate::core::state::State;
use crate::core::timeline::Change;

/// The trace settings, for one model or all, once `changes` are made. Blocks while a timeline is written.
pub(crate) fn trace(
    state: &State,
    model: Option<&str>,
    changes: &[Change],
) -> Result<Vec<(&'static str, Vec<String>)>, Problem> {
    if let Some(name) = model {
        state.find(name, None)?;
        if !changes.is_empty() {
            return Err(Problem::unsupported(format!(
                "model '{name}' has no trace of its own: a trace has all models, set it without a model"
            )));
        }
    }
    state.timeline.update(&state.engine, changes)?;
    Ok(state.timeline.settings())
}

/// The log settings, once `changes` are made.
pub(crate) fn log(state: &State, changes: &[(String, Value)]) -> Result<Vec<Setting>, Problem> {
    let absent = || Problem::unsupported("the log of this process cannot be changed by clients");
    logging::update(state.log().ok_or_else(absent)?.as_ref(), changes)
}
