//! Paths: which RPC they name, and what it needs.
//!
//! A new RPC is a variant of [`Method`], and the compiler asks what it needs; a test asks each of them with
//! every kind of credentials.

use strum::{EnumIter, IntoEnumIterator, IntoStaticStr};

use crate::core::access::Need;
use crate::grpc::meter::Between;

/// The inference service.
pub(crate) const SERVICE: &str = "inference.GRPCInferenceService";

/// The service of health checks.
const HEALTH: &str = "grpc.health.v1.Health";

/// An RPC of the inference service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, IntoStaticStr)]
pub(crate) enum Method {
    ServerLive,
    ServerReady,
    ServerMetadata,
    ModelReady,
    ModelMetadata,
    ModelConfig,
    ModelStatistics,
    ModelInfer,
    ModelStreamInfer,
    RepositoryIndex,
    RepositoryModelLoad,
    RepositoryModelUnload,
    /// Reads settings, or changes them: then it needs what that does.
    TraceSetting,
    /// The same.
    LogSettings,
    SystemSharedMemoryStatus,
    SystemSharedMemoryRegister,
    SystemSharedMemoryUnregister,
    CudaSharedMemoryStatus,
    CudaSharedMemoryRegister,
    CudaSharedMemoryUnregister,
}

/// Services that are not ours, with their RPCs and what those need. Health of a model needs what reading
/// does.
const OTHERS: [(&str, &str, Need); 4] = [
    (HEALTH, "Check", Need::Health),
    (HEALTH, "Watch", Need::Health),
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", Need::Read),
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", Need::Read),
];

/// An RPC, for who wants to know all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcInfo {
    /// Its path: `/SERVICE/METHOD`.
    pub path: String,
    /// What whoever asks must have.
    pub need: Need,
}

/// Every RPC of the server.
pub fn rpcs() -> Vec<RpcInfo> {
    let own = Method::iter().map(|method| {
        let name: &str = method.into();
        RpcInfo { path: format!("/{SERVICE}/{name}"), need: method.need() }
    });
    let others = OTHERS
        .iter()
        .map(|(service, name, need)| RpcInfo { path: format!("/{service}/{name}"), need: *need });
    own.chain(others).collect()
}

impl Method {
    /// The RPC of this name.
    pub(crate) fn named(name: &str) -> Option<Method> {
        Method::iter().find(|method| <&str>::from(method) == name)
    }

    /// What whoever asks must have.
    pub(crate) fn need(self) -> Need {
        match self {
            Method::ServerLive | Method::ServerReady => Need::Health,
            Method::ServerMetadata
            | Method::ModelReady
            | Method::ModelMetadata
            | Method::ModelConfig
            | Method::ModelStatistics
            | Method::RepositoryIndex
            | Method::TraceSetting
            | Method::LogSettings
            | Method::SystemSharedMemoryStatus
            | Method::CudaSharedMemoryStatus => Need::Read,
            Method::ModelInfer | Method::ModelStreamInfer => Need::Infer,
            Method::RepositoryModelLoad
            | Method::RepositoryModelUnload
            | Method::SystemSharedMemoryRegister
            | Method::SystemSharedMemoryUnregister
            | Method::CudaSharedMemoryRegister
            | Method::CudaSharedMemoryUnregister => Need::Admin,
        }
    }
}

/// How an RPC of another service takes its messages. Reflection is asked again and again.
pub(crate) fn between_of_other(service: &str) -> Between {
    if service == HEALTH { Between::Comes } else { Between::Waits }
}

/// Whether an RPC of another service lasts as long as its client likes.
pub(crate) fn is_watch(service: &str, rpc: &str) -> bool {
    (service, rpc) == (HEALTH, "Watch")
}

/// Service and name of the RPC at a path, if there is one.
pub(crate) fn known_rpc(path: &str) -> Option<(&str, &str)> {
    let (service, name) = path.trim_start_matches('/').split_once('/')?;
    let own = service == SERVICE && Method::named(name).is_some();
    let other = OTHERS.iter().any(|(known, rpc, _)| (*known, *rpc) == (service, name));
    (own || other).then_some((service, name))
}

/// What an RPC of another service needs. One that is not known there is its library's to refuse.
pub(crate) fn need_of_other(service: &str, rpc: &str) -> Need {
    let found = OTHERS.iter().find(|(known, name, _)| (*known, *name) == (service, rpc));
    found.map_or(Need::Read, |(_, _, need)| *need)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rpc_of_the_service_is_here() {
        let pool = prost_reflect::DescriptorPool::decode(crate::grpc::DESCRIPTORS).unwrap();
        let service = pool.get_service_by_name(SERVICE).unwrap();
        let declared: BTreeSet<String> =
            service.methods().map(|method| format!("/{SERVICE}/{}", method.name())).collect();
        let own = rpcs().into_iter().map(|rpc| rpc.path).filter(|path| path.contains(SERVICE));
        assert_eq!(own.collect::<BTreeSet<_>>(), declared);
        assert!(Method::named("ModelInfer").is_some() && Method::named("modelInfer").is_none());
    }
}
