//! `reef-onnx`: see ARCHITECTURE.md.
