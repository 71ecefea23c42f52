//! `reef-plan`: see ARCHITECTURE.md.
