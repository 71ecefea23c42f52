//! Shared memory over HTTP: clients register regions, ask for them and take them away. Which tensors are in
//! them, inference requests say.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::core::problem::Problem;
use crate::core::regions::Region;
use crate::core::state::State;
use crate::http::protocol::json::{object, wrong};
use crate::http::reply::{Reply, json};
use crate::http::route::Memory;

/// What a client registers.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a region, an object")]
struct RegisterRequest {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

/// The regions that are registered: one, or all.
pub(crate) fn status(state: &State, memory: Memory, name: Option<&str>) -> Result<Reply, Problem> {
    if memory == Memory::Cuda {
        return match name {
            None => Ok(json(StatusCode::OK, &json!([]))),
            Some(name) => Err(Problem::not_found(format!("there is no CUDA shared memory region '{name}'"))),
        };
    }
    let row = |region: Region| {
        json!({
            "name": region.name,
            "key": region.key,
            "offset": region.offset,
            "byte_size": region.byte_size,
        })
    };
    let regions: Vec<Value> = state.regions()?.status(name)?.into_iter().map(row).collect();
    Ok(json(StatusCode::OK, &regions))
}

/// Registers the region that `body` describes.
pub(crate) fn register(state: &State, memory: Memory, name: &str, body: &[u8]) -> Result<Reply, Problem> {
    if memory == Memory::Cuda {
        return Err(Problem::unsupported("CUDA shared memory is not supported, system shared memory is"));
    }
    let regions = state.regions()?;
    let wanted: RegisterRequest = object(body).map_err(|error| wrong(&error.to_string()))?;
    regions.register(name, &wanted.key, wanted.offset, wanted.byte_size)?;
    Ok(done())
}

/// Takes one region away, or all. Of CUDA there is none, so there is none afterwards: clients that clean up
/// before they begin need no exception for this server.
pub(crate) fn unregister(state: &State, memory: Memory, name: Option<&str>) -> Result<Reply, Problem> {
    if memory == Memory::System {
        state.regions()?.unregister(name);
    }
    Ok(done())
}

fn done() -> Reply {
    json(StatusCode::OK, &json!({}))
}
