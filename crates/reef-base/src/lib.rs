//! `reef-base`: see ARCHITECTURE.md.
