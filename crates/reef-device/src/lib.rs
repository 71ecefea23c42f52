//! `reef-device`: see ARCHITECTURE.md.
