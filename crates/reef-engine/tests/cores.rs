//! On which cores the engine's threads run. Alone in a process: its threads are told by their names.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reef_cpu::{CpuDevice, CpuOptions, allowed_cores};
use reef_engine::{Engine, EngineOptions, PoolDevice};

/// Cores that the threads for completions may run on, in order.
fn completion_cores() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    // The system keeps 15 characters of a name.
    let own = tasks.filter(|task| read(task.join("comm")).trim() == "reef-completion");
    let allowed = |task: std::path::PathBuf| {
        let status = read(task.join("status"));
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap_or_default().trim().to_string()
    };
    let mut cores: Vec<String> = own.map(allowed).collect();
    cores.sort();
    cores
}

fn device(name: &str, core: usize) -> PoolDevice {
    let options = CpuOptions { cus: Some(1), cores: Some(vec![core]), ..CpuOptions::default() };
    PoolDevice { name: name.into(), device: Arc::new(CpuDevice::start(options).unwrap()) }
}

#[test]
fn completions_of_a_pool_stay_on_the_cores_of_their_devices() {
    let cores = allowed_cores();
    let (first, last) = (cores[0], cores[cores.len() - 1]);
    let pool = Engine::over(vec![device("a", first), device("b", last)], EngineOptions::default()).unwrap();
    let mut expected = [first, last].map(|core| core.to_string());
    expected.sort();
    // The threads name and place themselves.
    let deadline = Instant::now() + Duration::from_secs(20);
    while completion_cores() != expected {
        assert!(Instant::now() < deadline, "{:?}, not {expected:?}", completion_cores());
        std::thread::yield_now();
    }
    pool.shutdown(Duration::ZERO);
    drop(pool);
    let alone = Engine::over(vec![device("a", first)], EngineOptions::default()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let everywhere = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    assert_eq!(completion_cores(), [everywhere], "a device alone has nobody to be kept from");
    alone.shutdown(Duration::ZERO);
}
