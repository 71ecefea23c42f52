//! The Open Inference Protocol v2 over HTTP: connections, paths, JSON and binary tensors, statuses, and the
//! text of the metrics. Translates to `core` and back; a request goes through [`serve`], [`route`], [`infer`]
//! and [`reply`].

pub(crate) mod answers;
pub(crate) mod control;
pub(crate) mod dashboard;
pub(crate) mod encoding;
pub(crate) mod error;
pub(crate) mod exposition;
pub(crate) mod infer;
pub(crate) mod metrics;
pub(crate) mod note;
pub(crate) mod protocol;
pub(crate) mod receive;
pub(crate) mod regions;
pub(crate) mod reply;
pub(crate) mod route;
pub(crate) mod serve;
