//! `reef sim disb`: DISB on a simulated device.

use std::path::Path;

use anyhow::{Context, Result};
use reef_bench::Progress;
use reef_bench::disb::drive;
use reef_bench::disb::options::{DisbOptions, Via};
use reef_bench::disb::rig::RigSystem;
use reef_load::Workload;
use reef_sim::Rig;

use super::{read, workload};
use crate::cli::SimDisbArgs;
use crate::commands::bench::{Verdict, show};

/// Plays the workloads and writes what came of them.
pub fn run(args: &SimDisbArgs) -> Result<()> {
    let mut rig = Rig::built_in(&args.device)?;
    let workloads: Vec<Workload> = args.workload.iter().map(workload).collect::<Result<_>>()?;
    if let Some(folder) = &args.profiles {
        add_profiles(&mut rig, folder, &workloads)?;
    }
    let options = DisbOptions {
        via: Via::Simulated,
        cus: rig.units() as usize,
        ..DisbOptions::of(workloads, args.run.out.clone())
    };
    let options = args.run.applied(options);
    let description = rig.description().to_string();
    let system = RigSystem::new(&args.device, rig, &options.schemes);
    let report = drive::simulate(&options, system, &description, &Progress::on_stderr())?;
    show(&report, &args.run.out);
    Verdict::of_report(&report).result()
}

fn add_profiles(rig: &mut Rig, folder: &Path, workloads: &[Workload]) -> Result<()> {
    let description = rig.description();
    anyhow::ensure!(
        rig.takes_profiles(),
        "--profiles: {description} has queues, which reef profile does not measure"
    );
    for name in workloads.iter().flat_map(Workload::models_asked) {
        let path = folder.join(format!("{name}.json"));
        // Those that were measured on the device need none.
        if path.exists() || !rig.models().contains(&name) {
            let text = read(&path).map_err(anyhow::Error::msg);
            let text = text.with_context(|| format!("model {name} has no profile"))?;
            rig.add(name, &text)?;
        }
    }
    Ok(())
}
