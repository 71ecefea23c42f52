//! `reef devices`: what this machine has for devices.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use reef_cpu::{CpuDevice, allowed_cores, granted_memory};
use serde_json::{Value, json};

use crate::cli::DevicesArgs;
use crate::gpu;
use crate::output::say;
use crate::spec::listed;

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

/// The CPU, as far as the system tells.
struct Cpu {
    model: String,
    isa: String,
    /// Cores that this process may use.
    cores: Vec<usize>,
    memory_bytes: Option<u64>,
    /// Of the cores above, by node; empty where the system does not tell.
    nodes: Vec<(usize, Vec<usize>)>,
    caches: Vec<Cache>,
}

/// A kind of cache, and which of the cores above share one.
struct Cache {
    level: u32,
    kind: String,
    size: String,
    shared: Vec<Vec<usize>>,
}

/// Lists them.
pub fn run(args: &DevicesArgs) -> Result<()> {
    let cpu = Cpu::here()?;
    if args.json {
        let (gpus, needs) = gpu::to_json();
        let listed: Vec<Value> = [cpu.to_json()].into_iter().chain(gpus).collect();
        say!("{:#}", json!({ "devices": listed, "cuda": needs }));
    } else {
        cpu.print();
        gpu::print();
    }
    Ok(())
}

impl Cpu {
    fn here() -> Result<Cpu> {
        let cores = allowed_cores();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Ok(Cpu {
            model: model_name(&cpuinfo).unwrap_or_else(|| "unknown".into()),
            isa: CpuDevice::best_isa()?.to_string(),
            memory_bytes: granted_memory(),
            nodes: nodes(Path::new(NODES), &cores),
            caches: caches(Path::new(CPUS), &cores),
            cores,
        })
    }

    fn print(&self) {
        say!("cpu      {}", self.model);
        say!("         instruction set {}", self.isa);
        say!("         cores {} ({})", listed(&self.cores), self.cores.len());
        if let Some(bytes) = self.memory_bytes {
            say!("         memory {:.1} GiB", bytes as f64 / f64::from(1 << 30));
        }
        for (node, cores) in &self.nodes {
            say!("         node {node}: cores {}", listed(cores));
        }
        for cache in &self.caches {
            let shared: Vec<String> = cache.shared.iter().map(|cores| listed(cores)).collect();
            say!("         L{} {} {}: cores {}", cache.level, cache.kind, cache.size, shared.join(" | "));
        }
        say!("use      --device cpu for all of it, --device cpu:{} for some", self.cores[0]);
    }

    fn to_json(&self) -> Value {
        let nodes: Vec<Value> =
            self.nodes.iter().map(|(node, cores)| json!({ "node": node, "cores": cores })).collect();
        let cache = |cache: &Cache| {
            let Cache { level, kind, size, shared } = cache;
            json!({ "level": level, "type": kind, "size": size, "shared_by": shared })
        };
        json!({
            "kind": "cpu",
            "device": "cpu",
            "model": self.model,
            "instruction_set": self.isa,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "nodes": nodes,
            "caches": self.caches.iter().map(cache).collect::<Vec<_>>(),
        })
    }
}

fn model_name(cpuinfo: &str) -> Option<String> {
    let names = ["model name", "Hardware", "Processor"];
    names.iter().find_map(|name| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_string())
    })
}

/// `0-3,8` as the kernel writes it; nothing for what is not such a list.
fn cores_of(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_string())
}

fn nodes(root: &Path, cores: &[usize]) -> Vec<(usize, Vec<usize>)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let node = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let mut own = cores_of(&read(&entry.path().join("cpulist"))?);
        own.retain(|core| cores.contains(core));
        (!own.is_empty()).then_some((number, own))
    };
    let mut nodes: Vec<_> = entries.filter_map(node).collect();
    nodes.sort_unstable();
    nodes
}

fn caches(root: &Path, cores: &[usize]) -> Vec<Cache> {
    let mut found: BTreeMap<(u32, String, String), Vec<Vec<usize>>> = BTreeMap::new();
    for core in cores {
        let folder = root.join(format!("cpu{core}/cache"));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let of = |name: &str| read(&entry.path().join(name));
            let level = of("level").and_then(|level| level.parse().ok());
            let (Some(level), Some(kind), Some(size)) = (level, of("type"), of("size")) else { continue };
            let mut shared = cores_of(&of("shared_cpu_list").unwrap_or_default());
            shared.retain(|core| cores.contains(core));
            let all = found.entry((level, kind.to_lowercase(), size)).or_default();
            if !shared.is_empty() && !all.contains(&shared) {
                all.push(shared);
            }
        }
    }
    found.into_iter().map(|((level, kind, size), shared)| Cache { level, kind, size, shared }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read_or_left_out() {
        assert_eq!(cores_of("0-2,5\n"), [0, 1, 2, 5]);
        assert!(cores_of("").is_empty() && cores_of("x,-").is_empty());
        assert_eq!(model_name("processor : 0\nmodel name\t: Some CPU\n").as_deref(), Some("Some CPU"));
        assert_eq!(model_name(""), None);
        let nowhere = Path::new("/no/such/folder");
        assert!(nodes(nowhere, &[0]).is_empty() && caches(nowhere, &[0]).is_empty());
        let cpu = Cpu::here().unwrap();
        assert!(!cpu.cores.is_empty() && cpu.to_json()["cores"].is_array());
    }
}
