//! What figures and tables ask of a report again and again.

use crate::colour::{Colour, Key, Palette};
use crate::disb::results::{ConditionResult, DisbReport, SystemResult, WorkloadResult};

/// A workload and what our own system, the first one, did on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<'a> {
    pub(super) workload: &'a WorkloadResult,
    system: &'a SystemResult,
}

/// Every workload that was played by a system.
pub(super) fn ours(report: &DisbReport) -> impl Iterator<Item = Ours<'_>> {
    report.workloads.iter().filter_map(|workload| Some(Ours { workload, system: workload.systems.first()? }))
}

impl<'a> Ours<'a> {
    /// Conditions as they were played the first time, the reference first.
    pub(super) fn conditions(self) -> impl Iterator<Item = &'a ConditionResult> {
        firsts(self.system)
    }

    /// The condition of this name.
    pub(super) fn condition(self, name: &str) -> Option<&'a ConditionResult> {
        self.conditions().find(|condition| condition.name == name)
    }

    /// The reference when it was played a second time.
    pub(super) fn again(self) -> Option<&'a ConditionResult> {
        let reference = reference(self.system)?;
        self.system.conditions.iter().find(|condition| condition.again && condition.name == reference.name)
    }
}

/// A system's conditions as they were played the first time.
pub(super) fn firsts(system: &SystemResult) -> impl Iterator<Item = &ConditionResult> {
    system.conditions.iter().filter(|condition| !condition.again)
}

/// What a system's ratios refer to.
pub(super) fn reference(system: &SystemResult) -> Option<&ConditionResult> {
    firsts(system).next()
}

/// The name of our reference.
pub(super) fn reference_name(report: &DisbReport) -> &str {
    let system = report.workloads.iter().find_map(|workload| workload.systems.first());
    system.and_then(reference).map_or("the reference", |condition| &condition.name)
}

/// Names of our conditions that are compared with the reference, in the order of reports.
pub(super) fn compared(report: &DisbReport) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for ours in ours(report) {
        for condition in ours.conditions().skip(1) {
            if !names.contains(&condition.name.as_str()) {
                names.push(&condition.name);
            }
        }
    }
    names
}

/// The condition that the report is about: `reset`, or the last one where there is no such.
pub(super) fn hero(report: &DisbReport) -> Option<&str> {
    let names = compared(report);
    names.iter().copied().find(|&name| name == "reset").or(names.last().copied())
}

/// Keys to the colours of names.
pub(super) fn keys(palette: &Palette, names: &[&str]) -> Vec<Key> {
    names.iter().map(|name| Key::Colour(palette.colour(name), name.to_string())).collect()
}

/// Colours for everything in a report: one per condition of ours, and one per system beyond it.
pub(super) fn palette(report: &DisbReport) -> Palette {
    let mut palette = Palette::default();
    for (index, system) in report.workloads.iter().flat_map(|workload| workload.systems.iter().enumerate()) {
        match index {
            0 => system.conditions.iter().for_each(|condition| palette.add(&condition.name)),
            _ => palette.add(&system.name),
        }
    }
    palette
}

/// The colour of a system's condition: conditions of the first system have one each, any other system one for
/// all.
pub(super) fn colour(
    workload: &WorkloadResult,
    system: &SystemResult,
    condition: &ConditionResult,
    palette: &Palette,
) -> Colour {
    let first = workload.systems.first().is_some_and(|first| first.name == system.name);
    palette.colour(if first { &condition.name } else { &system.name })
}
