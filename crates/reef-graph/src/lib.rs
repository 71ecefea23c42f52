//! `reef-graph`: see ARCHITECTURE.md.
