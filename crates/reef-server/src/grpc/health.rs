//! `grpc.health.v1`: of the server (an empty name, or that of the inference service) and of each model (its
//! name, or `NAME/VERSION`).
//!
//! Invariant: who watches takes no place from others. The number of watches is bounded, those of clients that
//! show no credentials apart from the others; a watch is no work that keeps its connection open.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::core::access::Client;
use crate::core::answer;
use crate::core::problem::{Kind, Problem};
use crate::core::state::State;
use crate::grpc::method::SERVICE;
use crate::grpc::status::status;
use crate::net::connection::{Connection, Watching};

/// How often a watched service is looked at: models have no event for it.
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// Who asks, if it may read about models: then it may ask for a model's health too. Part of a request.
#[derive(Clone, Debug)]
pub(crate) struct Reader(pub(crate) Result<Client, Problem>);

impl Reader {
    fn of<T>(request: &Request<T>) -> Reader {
        let none = || Reader(Err(Problem::unauthenticated("nobody is known to ask this")));
        request.extensions().get().cloned().unwrap_or_else(none)
    }

    /// An error if it may not ask for this model.
    fn check(&self, model: &str) -> Result<(), Problem> {
        self.0.as_ref().map_err(Problem::clone)?.check_model(model)
    }
}

/// How many watches there may be: those without credentials, and the others.
#[derive(Debug)]
pub(crate) struct Watches {
    /// Of one connection.
    own_max: usize,
    /// Of each kind, in all.
    all_max: usize,
    open: [AtomicUsize; 2],
}

/// A watch; there may be another one when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    watches: Arc<Watches>,
    kind: usize,
    _connection: Watching,
}

impl Watches {
    /// A quarter of the connections that there may be, and a sixteenth of that on one of them.
    pub(crate) fn new(connections_max: usize) -> Watches {
        let all_max = (connections_max / 4).max(1);
        Watches { own_max: (all_max / 16).max(1), all_max, open: Default::default() }
    }

    /// Leave for another one, of somebody who is known or not.
    pub(crate) fn enter(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        known: bool,
    ) -> Result<Watch, Problem> {
        let full = |of, max| Problem::limited(format!("{of} has {max} watches, and may have no more"), 1);
        let own = connection.watch(self.own_max).ok_or_else(|| full("the connection", self.own_max))?;
        let kind = usize::from(known);
        let more = |open| (open < self.all_max).then_some(open + 1);
        match self.open[kind].fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Watch { watches: self.clone(), kind, _connection: own }),
            Err(_) => Err(full("the server", self.all_max)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.open[self.kind].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct HealthChecks(pub(crate) Arc<State>);

impl HealthChecks {
    fn look(&self, service: &str, reader: &Reader) -> Result<ServingStatus, Problem> {
        let serving = match service {
            "" | SERVICE => self.0.readiness().0,
            model => self.is_model_ready(model, reader)?,
        };
        Ok(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }

    /// Of `NAME` or `NAME/VERSION`; either may be what is meant.
    fn is_model_ready(&self, asked: &str, reader: &Reader) -> Result<bool, Problem> {
        let whole = reader.check(asked).and_then(|()| answer::model_ready(&self.0, asked, None));
        let problem = match whole {
            Ok(model) => return Ok(model.ready),
            // While models are loaded, what is not there may still come.
            Err(problem) if problem.kind == Kind::Unavailable => return Ok(false),
            Err(problem) => problem,
        };
        let parts = asked.rsplit_once('/').filter(|(name, _)| reader.check(name).is_ok());
        match (problem.kind, parts) {
            (Kind::NotFound | Kind::Forbidden, Some((name, version))) => {
                Ok(answer::model_ready(&self.0, name, Some(version))?.ready)
            }
            _ => Err(problem),
        }
    }
}

#[tonic::async_trait]
impl Health for HealthChecks {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let serving = self.look(&request.get_ref().service, &Reader::of(&request)).map_err(status)?;
        Ok(Response::new(HealthCheckResponse { status: serving.into() }))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let reader = Reader::of(&request);
        let service = request.into_inner().service;
        if let Err(problem) = self.look(&service, &reader)
            && matches!(problem.kind, Kind::Unauthenticated | Kind::Forbidden)
        {
            return Err(status(problem));
        }
        let watch = (self.clone(), service, None);
        let changes = stream::unfold((watch, reader), |((checks, service, told), reader)| async move {
            loop {
                let now = checks.look(&service, &reader).unwrap_or(ServingStatus::ServiceUnknown);
                if told != Some(now) {
                    let answer = HealthCheckResponse { status: now.into() };
                    return Some((Ok(answer), ((checks, service, Some(now)), reader)));
                }
                tokio::time::sleep(WATCH_EVERY).await;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
