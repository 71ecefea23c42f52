//! `reef zoo`: writes the benchmark models.

use anyhow::{Context, Result, anyhow, bail};
use reef_zoo::{Model, Variant, ZooError};

use crate::cli::ZooArgs;
use crate::output::say;

/// Writes the models that were asked for, and says where.
pub fn run(args: &ZooArgs) -> Result<()> {
    if args.batch == 0 {
        bail!("--batch 0: at least one image");
    }
    let models = chosen(&args.model)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the directory {}", args.out.display()))?;
    let size = if args.tiny { Variant::tiny() } else { Variant::full() };
    let variant = size.seed(args.seed);
    let variant = if args.dynamic { variant.dynamic() } else { variant.batch(args.batch) };
    for model in models {
        let path = args.out.join(format!("{}.onnx", model.name()));
        reef_zoo::write(model, &variant, &path)?;
        let parameters = model.param_count(&variant)?;
        say!("{}  {parameters} parameters", path.display());
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Model>> {
    if names.is_empty() {
        return Ok(Model::ALL.to_vec());
    }
    names.iter().map(|name| name.parse().map_err(|error: ZooError| anyhow!(error))).collect()
}
