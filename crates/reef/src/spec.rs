//! What a user says about devices: a kind and, of the CPU, a list of cores, of GPUs, a number. Knows neither
//! the machine nor how a device is started; what the machine has is handed in.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// Cores that a list may name.
const CORES_MAX: usize = 1 << 16;

/// Which device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// These cores of the CPU, in the order listed; `None` for every one that there is.
    Cpu(Option<Vec<usize>>),
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

/// A device as the command line or `reef.toml` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// As it was written.
    text: String,
    /// Which it is.
    pub kind: Kind,
}

/// A device that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What it is called from now on.
    pub name: String,
    /// Which it is.
    pub kind: Kind,
}

impl DeviceSpec {
    /// Every core.
    pub fn whole_cpu() -> DeviceSpec {
        DeviceSpec { text: "cpu".into(), kind: Kind::Cpu(None) }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceSpec, String> {
        let (kind, which) = match text.split_once(':') {
            Some((kind, which)) => (kind, Some(which)),
            None => (text, None),
        };
        let kind = match kind {
            "cpu" => which.map(core_list).transpose().map(Kind::Cpu),
            "cuda" => which.map_or(Ok(0), gpu_number).map(Kind::Cuda),
            _ => {
                return Err(format!(
                    "there is no device '{kind}'; there is cpu, cpu:CORES such as cpu:0-3, and cuda:NUMBER"
                ));
            }
        };
        let kind = kind.map_err(|why| format!("device '{text}': {why}"))?;
        Ok(DeviceSpec { text: text.into(), kind })
    }
}

fn gpu_number(text: &str) -> Result<usize, String> {
    match text.parse::<u16>() {
        Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(usize::from(number)),
        _ => Err(format!("'{text}' is not the number of a GPU, as in cuda:0")),
    }
}

/// `0-3,6` as numbers, in the order given.
fn core_list(text: &str) -> Result<Vec<usize>, String> {
    let number = |text: &str| match text.parse::<usize>() {
        Ok(core) if core < CORES_MAX && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(core),
        _ => Err(format!("'{text}' is not a core; cores are listed as in 0-3 or 0,2")),
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("the range {part} is empty"));
        }
        for core in first..=last {
            if cores.contains(&core) {
                return Err(format!("core {core} is listed twice"));
            }
            cores.push(core);
        }
    }
    Ok(cores)
}

/// Names for the devices of a pool, which share no core, of those that this process may use, and no GPU.
pub fn pool(specs: &[DeviceSpec], allowed: &[usize]) -> Result<Vec<Planned>> {
    let mut cores = Cores { allowed, taken: Vec::new() };
    let mut planned: Vec<Planned> = Vec::with_capacity(specs.len());
    for spec in specs {
        let cpus = planned.iter().filter(|planned| matches!(planned.kind, Kind::Cpu(_))).count();
        let name = match &spec.kind {
            Kind::Cpu(own) => {
                let name = format!("cpu:{cpus}");
                cores.take(own.as_deref().unwrap_or(allowed), &name, spec)?;
                name
            }
            Kind::Cuda(number) => format!("cuda:{number}"),
        };
        if planned.iter().any(|planned| planned.name == name) {
            bail!("device '{spec}' is named twice");
        }
        planned.push(Planned { name, kind: spec.kind.clone() });
    }
    Ok(planned)
}

/// Cores, and whose they are.
struct Cores<'a> {
    allowed: &'a [usize],
    taken: Vec<(usize, String)>,
}

impl Cores<'_> {
    fn take(&mut self, own: &[usize], name: &str, spec: &DeviceSpec) -> Result<()> {
        if let Some(core) = own.iter().find(|core| !self.allowed.contains(core)) {
            let allowed = listed(self.allowed);
            bail!("device '{spec}': core {core} is none that this process may use: {allowed}");
        }
        let own_name = format!("{name} ('{spec}')");
        for &core in own {
            if let Some((_, other)) = self.taken.iter().find(|(taken, _)| *taken == core) {
                bail!("core {core} is in two devices: {other} and {own_name}");
            }
            self.taken.push((core, own_name.clone()));
        }
        Ok(())
    }
}

/// Numbers as a list of cores, ascending: `0-3,6`.
pub fn listed(cores: &[usize]) -> String {
    let mut cores = cores.to_vec();
    cores.sort_unstable();
    let runs = cores.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[usize]| match run {
        [only] => only.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(texts: &[&str]) -> Vec<DeviceSpec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_no_device_is_an_error() {
        let cases = [
            ("gpu", "there is no device 'gpu'"),
            ("", "there is no device ''"),
            ("CPU:0", "there is no device 'CPU'"),
            ("cpu:", "'' is not a core"),
            ("cpu:x", "'x' is not a core"),
            ("cpu:+1", "'+1' is not a core"),
            ("cpu:0-", "'' is not a core"),
            ("cpu:0,,1", "'' is not a core"),
            ("cpu:3-1", "the range 3-1 is empty"),
            ("cpu:0-2,1", "core 1 is listed twice"),
            ("cpu:0-99999999999", "'99999999999' is not a core"),
            ("cpu:0-1-2", "'1-2' is not a core"),
            ("cuda:", "'' is not the number of a GPU"),
            ("cuda:+1", "'+1' is not the number of a GPU"),
            ("cuda:0-1", "'0-1' is not the number of a GPU"),
            ("cuda:99999", "'99999' is not the number of a GPU"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<DeviceSpec>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn cores_are_known_and_shared_by_nobody() {
        let refused = |texts: &[&str]| pool(&specs(texts), &[0, 1, 2, 3]).unwrap_err().to_string();
        let unknown = "device 'cpu:2-4': core 4 is none that this process may use: 0-3";
        assert_eq!(refused(&["cpu:0", "cpu:2-4"]), unknown);
        let shared = "core 2 is in two devices: cpu:0 ('cpu:0-2') and cpu:1 ('cpu:2,3')";
        assert_eq!(refused(&["cpu:0-2", "cpu:2,3"]), shared);
        let whole = "core 0 is in two devices: cpu:0 ('cpu') and cpu:1 ('cpu')";
        assert_eq!(refused(&["cpu", "cpu"]), whole);
        assert_eq!(refused(&["cuda:0", "cuda"]), "device 'cuda' is named twice");
    }

    #[test]
    fn devices_are_called_by_their_order() {
        let planned = pool(&specs(&["cpu:2-3", "cuda:1", "cpu:0,1", "cuda"]), &[0, 1, 2, 3]).unwrap();
        let names: Vec<&str> = planned.iter().map(|planned| &*planned.name).collect();
        assert_eq!(names, ["cpu:0", "cuda:1", "cpu:1", "cuda:0"]);
        assert_eq!(planned[0].kind, Kind::Cpu(Some(vec![2, 3])));
        assert_eq!(planned[3].kind, Kind::Cuda(0));
        let whole = pool(&[DeviceSpec::whole_cpu()], &[5]).unwrap();
        assert_eq!((whole.len(), &whole[0].kind), (1, &Kind::Cpu(None)));
        assert_eq!(listed(&[3, 0, 1, 7]), "0-1,3,7");
        assert_eq!(listed(&[]), "");
    }
}
