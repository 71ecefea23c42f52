//! `reef-bench`: see ARCHITECTURE.md.
