//! A simulated device as a system: a condition per scheme, in virtual time.

use reef_device::Scheme;
use reef_load::Run;
use reef_sim::Rig;
use reef_sim::rig::Condition as SimCondition;

use super::system::{Condition, DeviceUse, ModelFile, Played, System};
use crate::error::BenchError;

/// A simulated device.
pub struct RigSystem {
    name: String,
    rig: Rig,
    own: Vec<SimCondition>,
    conditions: Vec<Condition>,
}

impl RigSystem {
    /// `rig` under `schemes`, of which `rt-only` comes first whether it is named or not.
    pub fn new(name: &str, rig: Rig, schemes: &[Scheme]) -> RigSystem {
        let wanted =
            |own: &SimCondition| !own.best_effort || schemes.iter().any(|scheme| scheme.name() == own.name);
        let own: Vec<SimCondition> = rig.conditions().into_iter().filter(wanted).collect();
        let condition = |own: &SimCondition| Condition {
            name: own.name.to_string(),
            title: own.title.to_string(),
            best_effort: own.best_effort,
        };
        let conditions = own.iter().map(condition).collect();
        RigSystem { name: name.to_string(), rig, own, conditions }
    }
}

impl System for RigSystem {
    fn name(&self) -> &str {
        &self.name
    }

    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn is_simulated(&self) -> bool {
        true
    }

    fn load(&mut self, models: &[ModelFile]) -> Result<(), BenchError> {
        models.iter().try_for_each(|model| Ok(self.rig.check_model(&model.name)?))
    }

    fn play(&mut self, condition: usize, run: &Run) -> Result<Played, BenchError> {
        let outcome = self.rig.play(&self.own[condition], run)?;
        let cus = self.rig.units() as usize;
        let device = outcome.counters.map(|counters| DeviceUse {
            cus,
            preemptions: counters.preemptions,
            blocks_killed: counters.killed,
            // Each is run again once.
            blocks_rerun: counters.killed,
            wasted: counters.wasted,
            padding: counters.padding,
            busy: counters.busy + counters.wasted,
        });
        Ok(Played { clients: outcome.clients, device, cpu: None, memory_bytes: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(device: &str, schemes: &[Scheme]) -> Vec<String> {
        let system = RigSystem::new(device, Rig::built_in(device).unwrap(), schemes);
        system.conditions().iter().map(|condition| condition.name.clone()).collect()
    }

    #[test]
    fn devices_have_all_schemes_and_the_reference_takes_part_in_any_case() {
        let every: Vec<&str> = Scheme::ALL.iter().map(|scheme| scheme.name()).collect();
        for device in Rig::names() {
            assert_eq!(names(device, &Scheme::ALL), every, "{device}");
        }
        assert_eq!(names("mi50", &[Scheme::Reset]), ["rt-only", "reset"]);
    }

    #[test]
    fn models_that_were_not_measured_are_refused() {
        let mut system = RigSystem::new("cpu2", Rig::built_in("cpu2").unwrap(), &[]);
        let file = |name: &str| ModelFile {
            name: name.to_string(),
            path: std::path::PathBuf::new(),
            real_time: true,
            zoo: false,
        };
        assert!(system.load(&[file("vgg19")]).is_ok());
        let error = system.load(&[file("vgg19"), file("yolo")]).unwrap_err().to_string();
        assert!(error.contains("yolo") && error.contains("distilbert"), "{error}");
    }
}
