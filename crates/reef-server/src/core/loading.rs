//! Models loaded and unloaded for a client, on threads that may block.

use std::sync::Arc;

use crate::core::control::{ControlError, LoadRequest, ModelControl};
use crate::core::problem::Problem;
use crate::core::state::State;

/// Loads a model. `request` is made where threads may block, too: it may have to be decoded.
pub(crate) async fn load(
    state: &Arc<State>,
    name: String,
    request: impl FnOnce() -> Result<LoadRequest, Problem> + Send + 'static,
) -> Result<(), Problem> {
    blocking(state, move |control| Ok(control.load(&name, request()?)?)).await
}

/// Unloads a model.
pub(crate) async fn unload(state: &Arc<State>, name: String, dependents: bool) -> Result<(), Problem> {
    blocking(state, move |control| Ok(control.unload(&name, dependents)?)).await
}

async fn blocking(
    state: &Arc<State>,
    work: impl FnOnce(&dyn ModelControl) -> Result<(), Problem> + Send + 'static,
) -> Result<(), Problem> {
    let Some(control) = state.control().cloned() else {
        return Err(ControlError::Off("explicit model control is off".into()).into());
    };
    state.check_loaded()?;
    let caught = move || reef_base::panics::catch(|| work(control.as_ref()));
    match tokio::task::spawn_blocking(caught).await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => Err(Problem::internal(format!("an internal error, please report it: {panic}"))),
        Err(_) => Err(Problem::unavailable("the server is shutting down")),
    }
}
