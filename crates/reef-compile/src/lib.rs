//! `reef-compile`: see ARCHITECTURE.md.
