//! `reef-zoo`: the benchmark models as ONNX files, with seeded weights and without Python.
//!
//! | [`Model`] | name | parameters | input | differs from its origin in |
//! |---|---|---|---|---|
//! | ResNet-152 | `resnet152` | 60,192,808 | 3×224×224 | torchvision's v1.5: stride in the 3×3 |
//! | DenseNet-201 | `densenet201` | 20,013,928 | 3×224×224 | – |
//! | VGG-19 | `vgg19` | 143,667,240 | 3×224×224 | below 224 pixels the classifier shrinks |
//! | Inception v3 | `inceptionv3` | 23,834,568 | 3×299×299 | no auxiliary head, input not rescaled |
//! | DistilBERT | `distilbert` | 66,362,880 | 128 tokens | no task head |
//! | ResNet-18 | `resnet18` | 11,689,512 | 3×224×224 | – |
//! | Control | `control` | 629,704 | 3×64×64 | our own policy network: 8 layers, 27 MFLOP |
//! | LSTM | `lstm` | 2,101,248 | 400×512 | one recurrent layer |
//! | Upscale | `upscale` | 0 | 32×256×256 | one cubic Resize by two |
//!
//! The last two are probes, for workloads: one operator in one long piece that nothing can interrupt from
//! inside. They are asked for by name. LSTM reads `input` f32 `[S,N,512]` and gives `output` f32
//! `[S,1,N,512]`, Upscale reads `[N,32,256,256]` and gives `[N,32,512,512]`.
//!
//! Image networks read `input` f32 `[N,3,H,W]` and give `logits` f32 `[N,1000]`, Control `action` f32 `[N,8]`
//! in −1..1. DistilBERT reads `input_ids` and `attention_mask`, i64 `[N,S]`, and gives `last_hidden_state`
//! f32 `[N,S,768]`.
//!
//! Parameters are counted as torch counts them: weights and biases, scale and shift of the norms, not the
//! running statistics. Files are opset 17, IR version 8, one file each.
//!
//! The files look like a torch export in evaluation mode before any optimisation: batch norms stand apart
//! from convolutions, a layer of DenseNet concatenates all earlier ones in one node. [`Shapes::Static`] files
//! hold folded shapes, `LayerNormalization` and an additive mask; [`Shapes::Dynamic`] files compute shapes
//! with `Shape`, `Gather` and `Concat`, mask with `Equal`, `Expand` and `Where`, and spell layer norm out.
//! Both have the same weights.
//!
//! Weights are random but well scaled: activations stay of order 1 to the last layer, different inputs give
//! clearly different outputs, and there is no NaN, infinity or denormal. The models classify nothing.
//!
//! [`Size::Tiny`] keeps depth and structure and cuts width and resolution; its channel counts are odd on
//! purpose.
//!
//! Knows nothing of how the files are read, compiled or run.

mod encode;
mod graph;
mod layers;
mod moments;
mod nets;
mod proto;
#[cfg(test)]
mod tests;
mod variant;
mod weights;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use graph::Graph;
pub use variant::{Dim, ElemType, Shapes, Size, TensorSpec, Values, Variant};

/// A network of the zoo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    /// He et al. 2015, 152 layers, torchvision's form.
    Resnet152,
    /// Huang et al. 2016, 201 layers, growth 32.
    Densenet201,
    /// Simonyan and Zisserman 2014, 19 layers, without batch norm.
    Vgg19,
    /// Szegedy et al. 2015, without the auxiliary head.
    InceptionV3,
    /// Sanh et al. 2019, six transformer layers, without a task head.
    Distilbert,
    /// He et al. 2015, 18 layers, torchvision's form.
    Resnet18,
    /// A small policy network for control loops: five convolutions, three dense layers.
    Control,
    /// A probe: one recurrent layer.
    Lstm,
    /// A probe: one cubic Resize.
    Upscale,
}

/// Why a model was not built or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZooError {
    /// No model has this name.
    #[error("there is no model `{name}`: choose one of {}", Model::names())]
    UnknownModel {
        /// The name asked for.
        name: String,
    },
    /// The model cannot be built this way.
    #[error("{model} cannot be built with {why}")]
    Variant {
        /// The model asked for.
        model: Model,
        /// What of the variant does not fit, and what would.
        why: String,
    },
    /// The file could not be written; nothing is left at its path that was not there before.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The ONNX file of `model` in memory. VGG-19 takes 575 MB: prefer [`write()`] for full models.
pub fn build(model: Model, variant: &Variant) -> Result<Vec<u8>, ZooError> {
    let graph = model.graph(variant)?;
    let mut bytes = Vec::new();
    encode::encode(&graph, variant.seed, &mut bytes).expect("a vector takes every byte");
    Ok(bytes)
}

/// Writes the ONNX file of `model` to `path`, whole or not at all: into a file beside it that takes its place
/// at the end. The folder must exist.
pub fn write(model: Model, variant: &Variant, path: &Path) -> Result<(), ZooError> {
    let graph = model.graph(variant)?;
    replace(path, |file| encode::encode(&graph, variant.seed, file))
        .map_err(|source| ZooError::Write { path: path.to_path_buf(), source })
}

impl Model {
    /// All networks.
    pub const ALL: [Model; 7] = [
        Model::Resnet152,
        Model::Densenet201,
        Model::Vgg19,
        Model::InceptionV3,
        Model::Distilbert,
        Model::Resnet18,
        Model::Control,
    ];

    /// The probes: models of one operator.
    pub const PROBES: [Model; 2] = [Model::Lstm, Model::Upscale];

    /// The name on a command line and of a file.
    pub const fn name(self) -> &'static str {
        match self {
            Model::Resnet152 => "resnet152",
            Model::Densenet201 => "densenet201",
            Model::Vgg19 => "vgg19",
            Model::InceptionV3 => "inceptionv3",
            Model::Distilbert => "distilbert",
            Model::Resnet18 => "resnet18",
            Model::Control => "control",
            Model::Lstm => "lstm",
            Model::Upscale => "upscale",
        }
    }

    /// Trained parameters, counted as torch counts them. Makes no weights.
    pub fn param_count(self, variant: &Variant) -> Result<u64, ZooError> {
        Ok(self.graph(variant)?.param_count())
    }

    /// Bytes of the weights in the file. Makes none.
    pub fn weights_bytes(self, variant: &Variant) -> Result<u64, ZooError> {
        let graph = self.graph(variant)?;
        Ok(graph.weights.iter().map(|weight| weight.data_bytes() as u64).sum())
    }

    /// The inputs, in the file's order.
    pub fn inputs(self, variant: &Variant) -> Result<Vec<TensorSpec>, ZooError> {
        Ok(self.graph(variant)?.inputs)
    }

    /// The outputs, in the file's order.
    pub fn outputs(self, variant: &Variant) -> Result<Vec<TensorSpec>, ZooError> {
        Ok(self.graph(variant)?.outputs)
    }

    fn names() -> String {
        [Self::ALL.map(Model::name).join(", "), Self::PROBES.map(Model::name).join(", ")].join(", ")
    }

    fn graph(self, variant: &Variant) -> Result<Graph, ZooError> {
        variant.check(self)?;
        let mut graph = Graph::new(self.name(), variant.shapes);
        nets::build(self, variant, &mut graph)?;
        Ok(graph)
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Model {
    type Err = ZooError;

    fn from_str(name: &str) -> Result<Self, ZooError> {
        let found = Self::ALL.into_iter().chain(Self::PROBES).find(|model| model.name() == name);
        found.ok_or_else(|| ZooError::UnknownModel { name: name.to_string() })
    }
}

/// Puts what `content` writes at `path` in one step, so that no reader ever sees half a file.
fn replace(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let partial = path.with_file_name(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
    let written = write_to(&partial, content).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // Nothing more can be done about a file that cannot be removed either.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn write_to(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    content(&mut file)?;
    file.flush()
}
