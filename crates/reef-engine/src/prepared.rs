//! A model that is loaded and not served yet: to be run once or twice before anybody finds it, and to take
//! the place of another one in one step. The protocol stands in `load`.

use std::fmt;
use std::sync::Arc;

use reef_base::ModelKey;

use crate::error::{InferError, LoadError};
use crate::load;
use crate::model::{ModelInfo, ModelSettings};
use crate::pool::Group;
use crate::session::{Session, SessionOptions};
use crate::shared::Shared;
use crate::source::PlanSource;

/// A model that nobody finds yet. Dropped without being published, it is gone, and what it was to replace
/// goes on.
pub struct Prepared {
    shared: Arc<Shared>,
    group: Arc<Group>,
    /// What it is to replace.
    old: Option<Arc<Group>>,
    published: bool,
}

/// What came of publishing a model.
#[derive(Debug)]
pub struct Published {
    /// The model that is served now.
    pub info: ModelInfo,
    /// The one that was served until now, if there was one: it has requests to end.
    pub retired: Option<Retired>,
}

/// A model whose place another one has. It ends the requests that it has, and is freed then: dropping this
/// waits for that.
pub struct Retired {
    shared: Arc<Shared>,
    group: Arc<Group>,
}

impl Prepared {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        key: ModelKey,
        settings: ModelSettings,
        replace: bool,
        open: impl FnOnce() -> Result<Arc<dyn PlanSource>, LoadError>,
    ) -> Result<Prepared, LoadError> {
        let (group, old) = load::prepare(shared, key, settings, replace, open)?;
        Ok(Prepared { shared: shared.clone(), group, old, published: false })
    }

    /// What there is to say about it.
    pub fn info(&self) -> ModelInfo {
        self.group.info(&self.shared.names)
    }

    /// Whether it is to take the place of another one.
    pub fn replaces(&self) -> bool {
        self.old.is_some()
    }

    /// Buffers to run it with before it is published: what it reads for the first time, and what the
    /// scheduler learns of it, is not the first request's loss.
    pub fn session(&self, options: &SessionOptions<'_>) -> Result<Session, InferError> {
        Session::open_on(&self.shared, &self.group, options)
    }

    /// Requests find it from now on; those that the old one has stay there.
    pub fn publish(mut self) -> Result<Published, LoadError> {
        let (info, old) = load::publish(&self.shared, &self.group)?;
        self.published = true;
        let retired = old.map(|group| Retired { shared: self.shared.clone(), group });
        Ok(Published { info, retired })
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.published {
            load::abandon(&self.shared, &self.group, self.old.as_ref());
        }
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("model", &self.group.key).finish_non_exhaustive()
    }
}

impl Retired {
    /// Waits until its last request has ended and its memory is free, except for what open sessions hold.
    pub fn wait(self) {}
}

impl Drop for Retired {
    fn drop(&mut self) {
        load::retire(&self.shared, &self.group);
    }
}

impl fmt::Debug for Retired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retired").field("model", &self.group.key).finish_non_exhaustive()
    }
}
