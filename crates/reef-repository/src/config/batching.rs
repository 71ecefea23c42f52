//! `dynamic_batching`: how requests are put together, and how long they wait for that.

use std::collections::BTreeMap;

use super::Notice;
use super::read::once;
use crate::text::{Fault, Field, Value};

/// Priorities that a configuration may have.
const PRIORITIES_MAX: u64 = 1 << 16;

/// Sizes that it may prefer.
const PREFERRED_MAX: usize = 256;

/// How requests are put together. Each field as it was said, 0 or empty where it was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batching {
    /// Sizes at which a batch starts at once, ascending.
    pub preferred_batch_sizes: Vec<u32>,
    /// Microseconds that a request may wait for others.
    pub max_queue_delay_us: u64,
    /// Whether answers leave in the order of their requests.
    pub preserve_ordering: bool,
    /// Priorities that a request may have: 1, the most urgent, to this.
    pub priority_levels: u64,
    /// That of requests that bring none.
    pub default_priority_level: u64,
    /// How requests wait whose priority has no policy of its own.
    pub default_queue_policy: Option<QueuePolicy>,
    /// How requests of a priority wait.
    pub priority_queue_policy: BTreeMap<u64, QueuePolicy>,
}

/// How requests wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuePolicy {
    /// What becomes of a request that has waited too long.
    pub timeout_action: TimeoutAction,
    /// Microseconds that a request waits, 0 for any number.
    pub default_timeout_us: u64,
    /// Whether a request may bring another, shorter one.
    pub allow_timeout_override: bool,
    /// Requests that wait, 0 for any number.
    pub max_queue_size: u32,
}

/// What becomes of a request that has waited too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeoutAction {
    /// It is refused.
    #[default]
    Reject,
    /// It runs when all others have.
    Delay,
}

impl Batching {
    pub(super) fn read(field: &Field, notices: &mut Vec<Notice>) -> Result<Batching, Fault> {
        let mut batching = Batching::default();
        let (mut delay, mut levels, mut default) = (None, None, None);
        for part in &field.message()?.fields {
            match &*part.name {
                "preferred_batch_size" => {
                    if batching.preferred_batch_sizes.len() >= PREFERRED_MAX {
                        return Err(part.fault(format!("more than {PREFERRED_MAX} sizes")));
                    }
                    batching.preferred_batch_sizes.push(part.whole(1, i32::MAX)? as u32);
                }
                "max_queue_delay_microseconds" => once(&mut delay, part, part.whole(0, i64::MAX as u64)?)?,
                "preserve_ordering" => {
                    batching.preserve_ordering = part.boolean()?;
                    if batching.preserve_ordering {
                        let what = "preserve_ordering: ignored: each request is answered when it is done";
                        notices.push(Notice { at: part.at, what: what.into() });
                    }
                }
                "priority_levels" => once(&mut levels, part, part.whole(0, PRIORITIES_MAX)?)?,
                "default_priority_level" => once(&mut default, part, part.whole(0, PRIORITIES_MAX)?)?,
                "default_queue_policy" => {
                    once(&mut batching.default_queue_policy, part, QueuePolicy::read(part)?)?;
                }
                "priority_queue_policy" => {
                    let (level, policy) = entry(part)?;
                    if batching.priority_queue_policy.insert(level, policy).is_some() {
                        return Err(part.fault(format!("priority {level} is there twice")));
                    }
                }
                _ => {
                    let what = format!("{}: there is no such field; ignored", part.name);
                    notices.push(Notice { at: part.at, what });
                }
            }
        }
        batching.max_queue_delay_us = delay.unwrap_or(0);
        batching.priority_levels = levels.unwrap_or(0);
        batching.default_priority_level = default.unwrap_or(0);
        batching.preferred_batch_sizes.sort_unstable();
        batching.preferred_batch_sizes.dedup();
        Ok(batching)
    }

    /// What contradicts itself.
    pub(super) fn check(&self, max_batch_size: u32) -> Result<(), Fault> {
        let fail = |what: String| Err(Fault::new(None, format!("dynamic_batching: {what}")));
        if let Some(size) = self.preferred_batch_sizes.iter().find(|&&size| size > max_batch_size) {
            return fail(format!("preferred_batch_size {size} is more than max_batch_size {max_batch_size}"));
        }
        let (levels, default) = (self.priority_levels, self.default_priority_level);
        if levels > 0 && !(1..=levels).contains(&default) {
            return fail(format!("default_priority_level {default} is none of 1 to {levels}"));
        }
        if levels == 0 && default > 0 {
            return fail(format!("default_priority_level {default} without priority_levels"));
        }
        match self.priority_queue_policy.keys().find(|&&level| !(1..=levels).contains(&level)) {
            Some(level) => fail(format!("priority_queue_policy {level} is none of 1 to {levels}")),
            None => Ok(()),
        }
    }
}

impl QueuePolicy {
    fn read(field: &Field) -> Result<QueuePolicy, Fault> {
        let mut policy = QueuePolicy::default();
        for part in &field.message()?.fields {
            match &*part.name {
                "timeout_action" => {
                    policy.timeout_action = match part.word()? {
                        "REJECT" => TimeoutAction::Reject,
                        "DELAY" => TimeoutAction::Delay,
                        other => return Err(part.fault(format!("there are REJECT and DELAY, no {other}"))),
                    }
                }
                "default_timeout_microseconds" => {
                    policy.default_timeout_us = part.whole(0, i64::MAX as u64)?
                }
                "allow_timeout_override" => policy.allow_timeout_override = part.boolean()?,
                "max_queue_size" => policy.max_queue_size = part.whole(0, i32::MAX)? as u32,
                _ => return Err(part.fault("a queue's policy has no such field")),
            }
        }
        Ok(policy)
    }
}

/// An entry of the map from priorities to policies.
fn entry(field: &Field) -> Result<(u64, QueuePolicy), Fault> {
    let (mut level, mut policy) = (None, None);
    for part in &field.message()?.fields {
        match &*part.name {
            // JSON has it as a string.
            "key" => once(&mut level, part, part.whole(0, PRIORITIES_MAX)?)?,
            "value" if matches!(part.value, Value::Message(_)) => {
                once(&mut policy, part, QueuePolicy::read(part)?)?;
            }
            _ => return Err(part.fault("an entry has a key and a value")),
        }
    }
    let level = level.ok_or_else(|| field.fault("an entry has no key"))?;
    Ok((level, policy.unwrap_or_default()))
}
