#![allow(dead_code, unused_imports, missing_docs)]
use reef_onnx::{Dim, OnnxModel, Specialised};
#[path = "../src/decl.rs"]
mod decl;
#[path = "../src/rows.rs"]
mod rows;
mod tests {
    #[path = "/work/w/wt-review/crates/reef-onnx/src/tests/network.rs"]
    pub(super) mod network;
    #[path = "/work/w/wt-review/crates/reef-onnx/src/tests/rows.rs"]
    mod rows;
}
