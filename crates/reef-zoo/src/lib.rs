//! `reef-zoo`: see ARCHITECTURE.md.
