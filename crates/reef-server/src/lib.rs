//! `reef-server`: see ARCHITECTURE.md.
