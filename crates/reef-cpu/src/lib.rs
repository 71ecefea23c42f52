//! `reef-cpu`: see ARCHITECTURE.md.
