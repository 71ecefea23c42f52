//! `reef inspect`: how a model is compiled.

use anyhow::Result;
use reef_device::Scheme;
use reef_engine::PoolDevice;
use reef_graph::Shape;
use reef_plan::Cutter;
use serde_json::json;

use super::compiled::{self, Compiled};
use super::program::Program;
use crate::cli::InspectArgs;
use crate::device;
use crate::loader::{self, Declared};
use crate::output::say;

/// Compiles a declared model for concrete shapes.
pub fn compile(declared: &Declared, shapes: &[(String, Shape)], cutter: &dyn Cutter) -> Result<Compiled> {
    let named: Vec<(&str, Shape)> =
        shapes.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect();
    let compiled = compiled::segment(&declared.model.specialise(&named)?, shapes, cutter);
    declared.model.intact()?;
    compiled
}

/// Prints what the compiler made of the model.
pub fn run(args: &InspectArgs) -> Result<()> {
    let declared = loader::read(&args.model)?;
    let shapes = declared.shapes(&args.dims)?;
    let PoolDevice { name, device } = device::start(&args.device, Scheme::Reset)?;
    let (capabilities, cutter) = (device.capabilities(), device.cutter(args.precision.precision));
    if let Some(program) =
        declared.advise(&args.dims, Program::of(&declared, &shapes, &args.values, cutter.as_ref()))?
    {
        return program.show(args, capabilities.never_max);
    }
    let compiled = declared.advise(&args.dims, compile(&declared, &shapes, cutter.as_ref()))?;
    if args.json {
        let mut json = compiled::to_json(&compiled);
        json["device"] = json!({ "name": name, "description": capabilities.name });
        say!("{json:#}");
        return Ok(());
    }
    if args.graph {
        say!("{}", compiled.graph.to_string().trim_end());
    }
    if args.plan {
        say!("{}", compiled.plan.to_string().trim_end());
    }
    if !args.graph && !args.plan {
        say!("device  {}", device::described(&name, device.as_ref()));
        compiled::print(&compiled, capabilities.never_max);
    }
    Ok(())
}
