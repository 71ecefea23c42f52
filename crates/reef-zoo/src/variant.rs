//! What of a model may vary: width, shapes, seed, resolution.

use crate::{Model, ZooError};

/// How wide and how large a model is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// The published widths and resolution.
    Full,
    /// The same depth and structure, about an eighth of the width, small images or sequences.
    Tiny,
}

/// Which extents the file fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shapes {
    /// All of them.
    Static {
        /// Extent of the first axis of every input and output.
        batch: usize,
    },
    /// The batch is the symbol `batch`; for models of sequences the length is the symbol `sequence`.
    Dynamic,
}

/// One way to build a model. Variants that differ in `shapes` only have the same weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Width and default resolution.
    pub size: Size,
    /// Static or symbolic extents.
    pub shapes: Shapes,
    /// Chooses the weights.
    pub seed: u64,
    /// Height and width of the images, in pixels, where not the default of `size`. The first dense layer of
    /// Control, and of VGG-19 below 224, is as large as it makes the features; the other networks keep their
    /// parameters.
    pub image_size: Option<usize>,
    /// Tokens or steps in a sequence, where not the default of `size`. Only for static shapes.
    pub sequence: Option<usize>,
}

impl Variant {
    /// The published model at batch 1, seed 0.
    pub fn full() -> Self {
        let shapes = Shapes::Static { batch: 1 };
        Variant { size: Size::Full, shapes, seed: 0, image_size: None, sequence: None }
    }

    /// The narrow model at batch 1, seed 0.
    pub fn tiny() -> Self {
        Variant { size: Size::Tiny, ..Self::full() }
    }

    /// The same with a symbolic batch (and sequence).
    pub fn dynamic(self) -> Self {
        Variant { shapes: Shapes::Dynamic, ..self }
    }

    /// The same with a fixed batch.
    pub fn batch(self, batch: usize) -> Self {
        Variant { shapes: Shapes::Static { batch }, ..self }
    }

    /// The same with other weights.
    pub fn seed(self, seed: u64) -> Self {
        Variant { seed, ..self }
    }

    /// The same for images of `pixels` × `pixels`.
    pub fn image_size(self, pixels: usize) -> Self {
        Variant { image_size: Some(pixels), ..self }
    }

    /// The same for sequences of `tokens`.
    pub fn sequence(self, tokens: usize) -> Self {
        Variant { sequence: Some(tokens), ..self }
    }

    /// The value for this variant's size.
    pub(crate) fn pick<T>(&self, full: T, tiny: T) -> T {
        match self.size {
            Size::Full => full,
            Size::Tiny => tiny,
        }
    }

    /// The first axis of every input and output.
    pub(crate) fn batch_dim(&self) -> Dim {
        match self.shapes {
            Shapes::Static { batch } => Dim::Fixed(batch),
            Shapes::Dynamic => Dim::Symbol("batch"),
        }
    }

    /// Refuses what no model can be built with; each network checks its own resolution.
    pub(crate) fn check(&self, model: Model) -> Result<(), ZooError> {
        let refuse = |why: &str| Err(ZooError::Variant { model, why: why.to_string() });
        let text = matches!(model, Model::Distilbert | Model::Lstm);
        match self {
            Variant { shapes: Shapes::Static { batch: 0 }, .. } => refuse("a batch of 0"),
            Variant { image_size: Some(_), .. } if text => refuse("an image size for a model of sequences"),
            Variant { sequence: Some(_), .. } if !text => refuse("a sequence length for an image model"),
            Variant { sequence: Some(_), shapes: Shapes::Dynamic, .. } => {
                refuse("a sequence length beside a symbolic one")
            }
            _ => Ok(()),
        }
    }
}

/// Element type of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElemType {
    /// 32-bit float.
    F32,
    /// 64-bit signed integer.
    I64,
}

/// One extent of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known.
    Fixed(usize),
    /// Chosen by each request; equal symbols are equal extents.
    Symbol(&'static str),
}

/// Which values an input takes, or an output has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Values {
    /// Floats of mean 0 and variance about 1.
    Normal,
    /// Integers in `0..below`.
    Below(u64),
    /// 1 where there is a token, then 0 to the end of the row; at least one 1 in a row.
    Mask,
}

/// One input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: &'static str,
    /// Its element type.
    pub elem: ElemType,
    /// Its extents, outermost first.
    pub dims: Vec<Dim>,
    /// What to feed.
    pub values: Values,
}

impl TensorSpec {
    pub(crate) fn floats(name: &'static str, dims: Vec<Dim>) -> Self {
        TensorSpec { name, elem: ElemType::F32, dims, values: Values::Normal }
    }

    pub(crate) fn integers(name: &'static str, dims: Vec<Dim>, values: Values) -> Self {
        TensorSpec { name, elem: ElemType::I64, dims, values }
    }
}
