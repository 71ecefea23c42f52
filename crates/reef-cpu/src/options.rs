//! What a CPU device is started with, and what this machine offers.

use std::sync::Arc;
use std::time::Duration;

use reef_base::limits::{BOARD_SLOTS_DEFAULT, NICE_BACKGROUND, REAL_TIME_SLOTS_RESERVED};
use reef_device::{Budget, Padding, Scheme};
use reef_plan::Isa;

/// Settings of a CPU device.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// Compute units; `None`: one per core that the affinity mask and the cgroup quota allow.
    pub cus: Option<usize>,
    /// Cores for the compute units, one after the other; `None`: those that the affinity mask allows.
    pub cores: Option<Vec<usize>>,
    /// Instruction set; `None`: the best that the machine has.
    pub isa: Option<Isa>,
    /// Nice value of the compute units' threads.
    pub nice: i32,
    /// Whether each compute unit stays on one core.
    pub pin: bool,
    /// Tasks on the board at most.
    pub slots: usize,
    /// Slots among them that only real-time tasks may take.
    pub slots_real_time: usize,
    /// The scheme to start with.
    pub scheme: Scheme,
    /// Which blocks may pad a more urgent stage.
    pub padding: Padding,
    /// How long a compute unit without work spins before it parks, four times that while a real-time task is
    /// on the board. 0 when there are more units than cores.
    pub spin: Duration,
    /// Events that a compute unit can hold between two drains.
    pub events: usize,
    /// Bytes for weights, the arenas of all slots and the scratch of all compute units; `None`: half of what
    /// the machine and the cgroup grant. Plans that need more are refused.
    pub memory_bytes: Option<u64>,
    /// The books of the memory, where other devices are in it, too; `memory_bytes` says nothing then.
    pub budget: Option<Arc<Budget>>,
}

impl Default for CpuOptions {
    fn default() -> Self {
        CpuOptions {
            cus: None,
            cores: None,
            isa: None,
            nice: NICE_BACKGROUND,
            pin: true,
            slots: BOARD_SLOTS_DEFAULT,
            slots_real_time: REAL_TIME_SLOTS_RESERVED,
            scheme: Scheme::default(),
            padding: Padding::default(),
            spin: Duration::from_micros(50),
            events: 1 << 13,
            memory_bytes: None,
            budget: None,
        }
    }
}

/// Cores that this process may run on.
pub fn allowed_cores() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect(),
        Err(_) => (0..std::thread::available_parallelism().map_or(1, |count| count.get())).collect(),
    }
}

/// Cores' worth of time that the cgroup grants, rounded up; `None` when it sets no quota.
pub(crate) fn quota_cores() -> Option<usize> {
    let v2 = cgroup_files("cpu.max").filter_map(|text| parse_quota(&text));
    let v1 = || {
        let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/cpu/{name}")).ok();
        parse_quota(&format!("{} {}", read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim()))
    };
    v2.min().or_else(v1)
}

/// Bytes of memory that the machine and the cgroup grant; `None` when neither says.
pub fn granted_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_memory(&text));
    let v1 = std::fs::read_to_string("/sys/fs/cgroup/memory/memory.limit_in_bytes").ok();
    let groups = cgroup_files("memory.max").chain(v1).filter_map(|text| text.trim().parse().ok());
    groups.chain(machine).min()
}

/// The contents of a control file of this process's cgroup (version 2) and of those around it.
fn cgroup_files(name: &'static str) -> impl Iterator<Item = String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let own = std::path::PathBuf::from(unified.trim_start_matches('/'));
    let all: Vec<_> = own.ancestors().map(|group| group.join(name)).collect();
    all.into_iter()
        .filter_map(|file| std::fs::read_to_string(std::path::Path::new("/sys/fs/cgroup").join(file)).ok())
}

/// Reads `MemTotal` of `/proc/meminfo`.
fn parse_memory(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads `<quota> <period>`; a quota of `max` or below 0 is none.
fn parse_quota(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    (period > 0).then(|| quota.div_ceil(period).max(1) as usize)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn quotas_round_up_and_may_be_absent() {
        assert_eq!(parse_quota("max 100000\n"), None);
        assert_eq!(parse_quota("-1 100000"), None);
        assert_eq!(parse_quota("150000 100000\n"), Some(2));
        assert_eq!(parse_quota("1000 100000"), Some(1));
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(parse_memory("MemTotal:        8000 kB\nMemFree:     12 kB\n"), Some(8_192_000));
        assert_eq!(parse_memory("MemFree: 12 kB"), None);
    }

    #[test]
    fn there_is_a_core() {
        assert!(!allowed_cores().is_empty());
    }
}
