//! Writes every model, or those named, into a folder:
//! `write [--tiny] [--dynamic] [--image-size=PIXELS] FOLDER [MODEL…]`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use reef_zoo::{Model, Size, Variant, ZooError};

fn main() -> ExitCode {
    let mut variant = Variant::full();
    let mut names = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--tiny" => variant.size = Size::Tiny,
            "--dynamic" => variant = variant.dynamic(),
            _ => match argument.strip_prefix("--image-size=").map(str::parse) {
                Some(Ok(pixels)) => variant = variant.image_size(pixels),
                Some(Err(_)) => return usage(),
                None => names.push(argument),
            },
        }
    }
    if names.is_empty() {
        return usage();
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

fn usage() -> ExitCode {
    eprintln!("usage: write [--tiny] [--dynamic] [--image-size=PIXELS] FOLDER [MODEL…]");
    ExitCode::FAILURE
}

fn write_all(variant: &Variant, folder: &Path, names: &[String]) -> Result<(), ZooError> {
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
