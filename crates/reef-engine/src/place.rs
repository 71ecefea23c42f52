//! On which devices a model is placed when it is loaded. Pure: knows names and sums, no device and no lock.

use std::sync::Arc;

use crate::model::{ModelSettings, Placement};

/// What a placement must know about a device.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) name: Arc<str>,
    pub(crate) cus: usize,
    /// It is out of service.
    pub(crate) out: bool,
}

/// What is on a device already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occupancy {
    pub(crate) weight_bytes: usize,
    /// Models, those that are being loaded among them.
    pub(crate) models: usize,
}

/// Why a model has no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Its settings ask for what there is not.
    Settings(String),
    /// The devices that it may be on are out of service.
    Out,
}

/// Checks what the settings say about devices, and gives the numbers of those that the model may be on.
pub(crate) fn candidates(sites: &[Site], settings: &ModelSettings) -> Result<Vec<usize>, String> {
    if settings.devices.is_empty() {
        return Ok((0..sites.len()).collect());
    }
    let mut found = Vec::with_capacity(settings.devices.len());
    for name in &settings.devices {
        let unknown = || {
            let known: Vec<&str> = sites.iter().map(|site| &*site.name).collect();
            format!("there is no device '{name}'; there are {}", known.join(", "))
        };
        let index = sites.iter().position(|site| *site.name == **name).ok_or_else(unknown)?;
        if found.contains(&index) {
            return Err(format!("device '{name}' is named twice"));
        }
        found.push(index);
    }
    Ok(found)
}

/// The devices that a model with these settings gets.
pub(crate) fn choose(
    sites: &[Site],
    occupied: &[Occupancy],
    settings: &ModelSettings,
) -> Result<Vec<usize>, NoPlace> {
    let mut serving = candidates(sites, settings).map_err(NoPlace::Settings)?;
    serving.retain(|&index| !sites[index].out);
    if settings.placement == Placement::One {
        let fill = |&index: &usize| {
            let per_unit = |amount: usize| amount.saturating_mul(1 << 10) / sites[index].cus.max(1);
            (per_unit(occupied[index].weight_bytes), per_unit(occupied[index].models), index)
        };
        serving = serving.into_iter().min_by_key(fill).into_iter().collect();
    }
    if serving.is_empty() { Err(NoPlace::Out) } else { Ok(serving) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(cus: &[usize]) -> Vec<Site> {
        let site =
            |(index, &cus): (usize, &usize)| Site { name: format!("d:{index}").into(), cus, out: false };
        cus.iter().enumerate().map(site).collect()
    }

    fn settings(placement: Placement, devices: &[&str]) -> ModelSettings {
        let devices = devices.iter().map(ToString::to_string).collect();
        ModelSettings { placement, devices, ..ModelSettings::default() }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let sites = sites(&[1, 1]);
        let refused = |placement, devices: &[&str]| {
            choose(&sites, &[Occupancy::default(); 2], &settings(placement, devices)).unwrap_err()
        };
        let said = |text: &str| NoPlace::Settings(text.into());
        let expected = said("there is no device 'd:2'; there are d:0, d:1");
        assert_eq!(refused(Placement::One, &["d:0", "d:2"]), expected);
        assert_eq!(refused(Placement::Replicate, &["d:1", "d:1"]), said("device 'd:1' is named twice"));
        assert_eq!(refused(Placement::Split, &["d:2"]), expected);
    }

    #[test]
    fn one_goes_where_least_is_for_the_compute_units() {
        let sites = sites(&[1, 4, 1]);
        let held = |weight_bytes, models| Occupancy { weight_bytes, models };
        let one = settings(Placement::One, &[]);
        assert_eq!(choose(&sites, &[held(0, 0); 3], &one), Ok(vec![0]));
        assert_eq!(choose(&sites, &[held(100, 1), held(300, 3), held(90, 1)], &one), Ok(vec![1]));
        assert_eq!(choose(&sites, &[held(0, 1), held(0, 1), held(0, 0)], &one), Ok(vec![2]));
        let named = settings(Placement::One, &["d:2", "d:0"]);
        assert_eq!(choose(&sites, &[held(5, 1), held(0, 0), held(9, 1)], &named), Ok(vec![0]));
    }

    #[test]
    fn replicas_go_wherever_there_is_service() {
        let mut sites = sites(&[1, 1, 1]);
        sites[1].out = true;
        let held = [Occupancy::default(); 3];
        assert_eq!(choose(&sites, &held, &settings(Placement::Replicate, &[])), Ok(vec![0, 2]));
        assert_eq!(choose(&sites, &held, &settings(Placement::Replicate, &["d:2"])), Ok(vec![2]));
        let split = settings(Placement::Split, &["d:2", "d:1", "d:0"]);
        assert_eq!(choose(&sites, &held, &split), Ok(vec![2, 0]), "in the order of the settings");
        assert_eq!(choose(&sites, &held, &settings(Placement::One, &["d:1"])), Err(NoPlace::Out));
    }
}
