//! `reef-sched`: see ARCHITECTURE.md.
