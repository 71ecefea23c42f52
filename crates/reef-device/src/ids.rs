//! What a device calls its things.

reef_base::id! {
    /// A plan loaded on one device; never reused.
    LoadedPlan(u32)
}
