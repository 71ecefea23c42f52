//! What a user says about devices: a kind and, of the CPU, a list of cores. Knows neither the machine nor how
//! a device is started; what the machine has is handed in.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// Cores that a list may name.
const CORES_MAX: usize = 1 << 16;

/// A device as the command line or `reef.toml` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// As it was written.
    text: String,
    /// Its cores, as listed; `None` for every one that there is.
    pub cores: Option<Vec<usize>>,
}

/// A device that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What it is called from now on.
    pub name: String,
    /// Its cores; `None` for every one that there is.
    pub cores: Option<Vec<usize>>,
}

impl DeviceSpec {
    /// Every core.
    pub fn whole_cpu() -> DeviceSpec {
        DeviceSpec { text: "cpu".into(), cores: None }
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
        let (kind, cores) = match text.split_once(':') {
            Some((kind, cores)) => (kind, Some(cores)),
            None => (text, None),
        };
        if kind != "cpu" {
            return Err(format!("there is no device '{kind}'; there is cpu, and cpu:CORES such as cpu:0-3"));
        }
        let cores = cores.map(core_list).transpose().map_err(|why| format!("device '{text}': {why}"))?;
        Ok(DeviceSpec { text: text.into(), cores })
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

/// Names for the devices of a pool, which share no core, of those that this process may use.
pub fn pool(specs: &[DeviceSpec], allowed: &[usize]) -> Result<Vec<Planned>> {
    let mut taken: Vec<(usize, usize)> = Vec::new();
    let mut planned = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let own = spec.cores.as_deref().unwrap_or(allowed);
        if let Some(core) = own.iter().find(|core| !allowed.contains(core)) {
            bail!("device '{spec}': core {core} is none that this process may use: {}", listed(allowed));
        }
        for &core in own {
            if let Some((_, other)) = taken.iter().find(|(taken, _)| *taken == core) {
                let (first, second) = (&specs[*other], spec);
                bail!("core {core} is in two devices: cpu:{other} ('{first}') and cpu:{index} ('{second}')");
            }
            taken.push((core, index));
        }
        planned.push(Planned { name: format!("cpu:{index}"), cores: spec.cores.clone() });
    }
    Ok(planned)
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
    }

    #[test]
    fn devices_are_called_by_their_order() {
        let planned = pool(&specs(&["cpu:2-3", "cpu:0,1"]), &[0, 1, 2, 3]).unwrap();
        let names: Vec<&str> = planned.iter().map(|planned| &*planned.name).collect();
        assert_eq!(names, ["cpu:0", "cpu:1"]);
        assert_eq!(planned[0].cores.as_deref(), Some(&[2, 3][..]));
        let whole = pool(&[DeviceSpec::whole_cpu()], &[5]).unwrap();
        assert_eq!((whole.len(), &whole[0].cores), (1, &None));
        assert_eq!(listed(&[3, 0, 1, 7]), "0-1,3,7");
        assert_eq!(listed(&[]), "");
    }
}
