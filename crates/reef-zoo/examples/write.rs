//! Writes every model, or those named, into a folder: `write [--tiny] [--dynamic] FOLDER [MODEL…]`.

use std::path::PathBuf;
use std::process::ExitCode;

use reef_zoo::{Model, Variant, ZooError};

fn main() -> ExitCode {
    let mut variant = Variant::full();
    let mut names = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--tiny" => variant.size = reef_zoo::Size::Tiny,
            "--dynamic" => variant = variant.dynamic(),
            _ => names.push(argument),
        }
    }
    if names.is_empty() {
        eprintln!("usage: write [--tiny] [--dynamic] FOLDER [MODEL…]");
        return ExitCode::FAILURE;
    }
    let folder = PathBuf::from(names.remove(0));
    match write_all(&variant, &folder, &names) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(variant: &Variant, folder: &std::path::Path, names: &[String]) -> Result<(), ZooError> {
    let mut models = names.iter().map(|name| name.parse()).collect::<Result<Vec<Model>, _>>()?;
    if models.is_empty() {
        models.extend(Model::ALL);
    }
    for model in models {
        let path = folder.join(format!("{model}.onnx"));
        reef_zoo::write(model, variant, &path)?;
        println!("{} ({} parameters)", path.display(), model.param_count(variant)?);
    }
    Ok(())
}
