//! Shared memory: clients register regions, ask for them and take them away. Which tensors are in them,
//! inference requests say.

use crate::core::problem::Problem;
use crate::core::regions::Region;
use crate::core::state::State;
use crate::grpc::answers::given;
use crate::grpc::pb::system_shared_memory_status_response::RegionStatus;
use crate::grpc::pb::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse, CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse, CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse,
    SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse, SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse,
};

/// The regions that are registered: one, or all.
pub(crate) fn status(
    state: &State,
    request: &SystemSharedMemoryStatusRequest,
) -> Result<SystemSharedMemoryStatusResponse, Problem> {
    let region = |region: Region| {
        let Region { name, key, offset, byte_size, .. } = region;
        (name.clone(), RegionStatus { name, key, offset, byte_size })
    };
    let regions = state.regions()?.status(given(&request.name))?;
    Ok(SystemSharedMemoryStatusResponse { regions: regions.into_iter().map(region).collect() })
}

/// Registers a region.
pub(crate) fn register(
    state: &State,
    request: &SystemSharedMemoryRegisterRequest,
) -> Result<SystemSharedMemoryRegisterResponse, Problem> {
    let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request;
    state.regions()?.register(name, key, *offset, *byte_size)?;
    Ok(SystemSharedMemoryRegisterResponse {})
}

/// Takes one region away, or all.
pub(crate) fn unregister(
    state: &State,
    request: &SystemSharedMemoryUnregisterRequest,
) -> Result<SystemSharedMemoryUnregisterResponse, Problem> {
    state.regions()?.unregister(given(&request.name));
    Ok(SystemSharedMemoryUnregisterResponse {})
}

/// Of CUDA there are no regions.
pub(crate) fn cuda_status(
    request: &CudaSharedMemoryStatusRequest,
) -> Result<CudaSharedMemoryStatusResponse, Problem> {
    match given(&request.name) {
        None => Ok(CudaSharedMemoryStatusResponse::default()),
        Some(name) => Err(Problem::not_found(format!("there is no CUDA shared memory region '{name}'"))),
    }
}

/// Nor can there be any.
pub(crate) fn cuda_register(
    _request: &CudaSharedMemoryRegisterRequest,
) -> Result<CudaSharedMemoryRegisterResponse, Problem> {
    Err(Problem::unsupported("CUDA shared memory is not supported, system shared memory is"))
}

/// So there is none afterwards: clients that clean up before they begin need no exception for this server.
pub(crate) fn cuda_unregister(
    _request: &CudaSharedMemoryUnregisterRequest,
) -> Result<CudaSharedMemoryUnregisterResponse, Problem> {
    Ok(CudaSharedMemoryUnregisterResponse {})
}
