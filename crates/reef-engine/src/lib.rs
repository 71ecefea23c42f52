//! `reef-engine`: see ARCHITECTURE.md.
