//! Models read and compiled outside an engine, for `inspect`, and what `run` and `profile` know of a file.

use std::path::Path;

use anyhow::{Context, Result, bail};
use reef_base::ModelKey;
use reef_engine::{
    Engine, EngineOptions, ModelInfo, ModelSettings, ModelSource, ModelSpec, PoolDevice, TensorInfo,
};
use reef_graph::Shape;
use reef_onnx::{Dim, OnnxModel, TensorDecl};

/// What an ONNX file declares, without compiling it.
#[derive(Debug)]
pub struct Declared {
    /// The parsed file.
    pub model: OnnxModel,
    /// Its inputs.
    pub inputs: Vec<TensorInfo>,
    /// For every input, the names of its symbolic dimensions.
    pub symbols: Vec<Vec<Option<String>>>,
}

/// Reads what a file declares.
pub fn read(path: &Path) -> Result<Declared> {
    let model = OnnxModel::read(path).with_context(|| format!("cannot read the model {}", path.display()))?;
    let inputs = model.inputs().iter().map(info).collect();
    let symbols = model.inputs().iter().map(symbols).collect();
    Ok(Declared { model, inputs, symbols })
}

impl Declared {
    /// Refuses extents for symbolic dimensions that the model does not have.
    pub fn check_dims(&self, dims: &[(String, usize)]) -> Result<()> {
        let known = |name: &String| self.symbols.iter().flatten().flatten().any(|symbol| symbol == name);
        match dims.iter().find(|(name, _)| !known(name)) {
            Some((name, _)) => {
                let mut names: Vec<&str> =
                    self.symbols.iter().flatten().flatten().map(String::as_str).collect();
                names.sort_unstable();
                names.dedup();
                let names = if names.is_empty() { "none".into() } else { names.join(", ") };
                bail!("the model has no symbolic dimension '{name}'; it has {names}")
            }
            None => Ok(()),
        }
    }

    /// What to give for the symbolic dimensions that `dims` leaves out, for who got an error because each of
    /// them was taken as 1; empty if there are none.
    pub fn advice(&self, dims: &[(String, usize)]) -> String {
        let mut open: Vec<&str> = Vec::new();
        for symbol in self.symbols.iter().flatten().flatten() {
            if dims.iter().all(|(name, _)| name != symbol) && !open.contains(&symbol.as_str()) {
                open.push(symbol);
            }
        }
        if open.is_empty() {
            return String::new();
        }
        let flags: Vec<String> =
            open.iter().map(|name| format!("--dim {}", quoted(&format!("{name}=N")))).collect();
        let names = open.join(", ");
        format!(" (without --dim, {names} was taken as 1; to try other extents, give {})", flags.join(" "))
    }

    /// `failed` with the advice on dimensions.
    pub fn advise<T>(&self, dims: &[(String, usize)], result: Result<T>) -> Result<T> {
        result.map_err(|error| match self.advice(dims) {
            advice if advice.is_empty() => error,
            advice => anyhow::anyhow!("{}{advice}", crate::message(&error)),
        })
    }

    /// Concrete shapes for every input; symbolic dimensions from `dims`, 1 where not given.
    pub fn shapes(&self, dims: &[(String, usize)]) -> Result<Vec<(String, Shape)>> {
        self.check_dims(dims)?;
        let shape = |(input, symbols)| -> Result<(String, Shape)> {
            let input: &TensorInfo = input;
            Ok((input.name.clone(), crate::inputs::concrete_shape(input, symbols, dims)?))
        };
        self.inputs.iter().zip(self.symbols.iter().map(Vec::as_slice)).map(shape).collect()
    }
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-=:/@%+,".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn info(decl: &TensorDecl) -> TensorInfo {
    let dims = decl.dims.iter().map(|dim| match dim {
        Dim::Fixed(extent) => *extent as i64,
        Dim::Symbol(_) => -1,
    });
    let dims = dims.collect();
    TensorInfo { name: decl.name.clone(), dtype: decl.dtype, dims, texts: decl.texts }
}

fn symbols(decl: &TensorDecl) -> Vec<Option<String>> {
    let name = |dim: &Dim| match dim {
        Dim::Fixed(_) => None,
        Dim::Symbol(name) => Some(name.clone()),
    };
    decl.dims.iter().map(name).collect()
}

/// An engine on `device` that serves just `path`, with these settings.
pub fn engine_with(device: PoolDevice, path: &Path, settings: ModelSettings) -> Result<(Engine, ModelInfo)> {
    let engine = Engine::over(vec![device], EngineOptions::default())?;
    let name = path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned());
    let key = ModelKey { name, version: "1".into() };
    let source = ModelSource::Path(path.to_path_buf());
    let info = engine
        .load(ModelSpec { key, source, settings })
        .with_context(|| format!("cannot load the model {}", path.display()))?;
    Ok((engine, info))
}
