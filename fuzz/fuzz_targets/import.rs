//! Any bytes as a model: reading them, lowering them and compiling what comes out must end in a plan or an
//! error.
//!
//! `cargo +nightly fuzz run -s none import fuzz/corpus/import`, from the repository's root.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use reef_compile::CompileOptions;
use reef_cpu::CpuCutter;
use reef_graph::Shape;
use reef_onnx::{Dim, ImportError, OnnxModel};
use reef_plan::{Isa, Target, WeightStore};

/// Extent of every axis that is open: small, so that what is computed is.
const EXTENT: usize = 2;

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = checked(OnnxModel::from_bytes(bytes)) else { return };
    let extent = |dim: &Dim| match dim {
        Dim::Fixed(extent) => *extent,
        Dim::Symbol(_) => EXTENT,
    };
    let shapes: Vec<(&str, Shape)> = model
        .inputs()
        .iter()
        .map(|decl| (decl.name.as_str(), decl.dims.iter().map(extent).collect()))
        .collect();
    let values = vec![None; shapes.len()];
    let Ok(step) = checked(model.begin(&shapes, &values)) else { return };
    let cutter = CpuCutter::new(Target::cpu(Isa::Portable, 2));
    let options = CompileOptions { name: "fuzzed".into() };
    let segment = step.segment;
    let _ = reef_compile::compile(
        &segment.graph,
        &segment.host_kernels,
        &Arc::new(WeightStore::default()),
        &cutter,
        &options,
    );
});

/// An error is fine, unless a panic was caught behind it.
fn checked<T>(result: Result<T, ImportError>) -> Result<T, ImportError> {
    if let Err(error) = &result {
        let text = error.to_string();
        assert!(!text.contains("internal failure"), "{text}");
    }
    result
}
