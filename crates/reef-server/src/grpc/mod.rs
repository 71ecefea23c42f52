//! The Open Inference Protocol v2 over gRPC, with health checks and reflection.
//!
//! Translates to `core` and back; only framing is its own. An RPC goes through [`serve`] (connections),
//! [`method`] (which RPC a path names and what it needs), [`rpc`], [`receive`] with [`meter`] and [`scan`]
//! (bounded messages), [`infer`], [`stream`] or [`answers`], and [`reply`]; [`note`] says what there is to
//! say of it afterwards. Status codes stand in [`status`] alone.

pub(crate) mod answers;
pub(crate) mod contents;
pub(crate) mod health;
pub(crate) mod infer;
pub(crate) mod meter;
pub(crate) mod method;
pub(crate) mod note;
pub(crate) mod question;
pub(crate) mod receive;
pub(crate) mod regions;
pub(crate) mod reply;
pub(crate) mod rpc;
pub(crate) mod scan;
pub(crate) mod serve;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod stream;

/// The messages, made from `proto/inference.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

/// The descriptors of all messages and of the service.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.bin"));
