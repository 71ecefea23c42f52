//! `grpc.health.v1`: of the server (an empty name, or that of the inference service) and of each model (its
//! name, or `NAME/VERSION`).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::core::answer;
use crate::core::problem::{Kind, Problem};
use crate::core::state::State;
use crate::grpc::status::status;

/// The inference service.
pub(crate) const SERVICE: &str = "inference.GRPCInferenceService";

/// How often a watched service is looked at: models have no event for it.
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct HealthChecks(pub(crate) Arc<State>);

impl HealthChecks {
    fn look(&self, service: &str) -> Result<ServingStatus, Problem> {
        let serving = match service {
            "" | SERVICE => self.0.readiness().0,
            model => match answer::model_ready(&self.0, model, None) {
                Err(missing) if missing.kind == Kind::NotFound => {
                    let (name, version) = model.rsplit_once('/').ok_or(missing)?;
                    answer::model_ready(&self.0, name, Some(version))?.ready
                }
                // While models are loaded, what is not there may still come.
                Err(other) if other.kind == Kind::Unavailable => false,
                known => known?.ready,
            },
        };
        Ok(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

#[tonic::async_trait]
impl Health for HealthChecks {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let serving = self.look(&request.get_ref().service).map_err(status)?;
        Ok(Response::new(HealthCheckResponse { status: serving.into() }))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let watch = (self.clone(), service, None);
        let changes = stream::unfold(watch, |(checks, service, told)| async move {
            loop {
                let now = checks.look(&service).unwrap_or(ServingStatus::ServiceUnknown);
                if told != Some(now) {
                    let answer = HealthCheckResponse { status: now.into() };
                    return Some((Ok(answer), (checks, service, Some(now))));
                }
                tokio::time::sleep(WATCH_EVERY).await;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
