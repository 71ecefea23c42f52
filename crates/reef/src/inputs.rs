//! Inputs of one inference: from files or a seed, with concrete shapes for symbolic dimensions.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use reef_base::{AlignedBytes, Rng};
use reef_engine::{InferRequest, InputTensor, TensorInfo, TextTensor};
use reef_graph::{DType, Shape};

use crate::npy;

/// One input, ready to be copied.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Name as the model declares it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Concrete shape.
    pub shape: Shape,
    /// Dense row-major bytes; texts each after its length.
    pub data: AlignedBytes,
    /// Whether it is made of texts.
    pub texts: bool,
}

/// A request with these inputs.
pub fn request<'a>(model: &'a str, tensors: &'a [NamedTensor]) -> InferRequest<'a> {
    let mut request = InferRequest::new(model, vec![]);
    for tensor in tensors {
        let (name, shape, data) = (tensor.name.as_str(), tensor.shape.clone(), tensor.data.as_slice());
        match tensor.texts {
            true => request.texts.push(TextTensor { name, shape, data }),
            false => request.inputs.push(InputTensor { name, dtype: tensor.dtype, shape, data }),
        }
    }
    request
}

/// Where inputs come from.
#[derive(Debug)]
pub struct InputSource<'a> {
    /// Files by input name.
    pub files: &'a [(String, PathBuf)],
    /// Seed for inputs without a file.
    pub seed: Option<u64>,
    /// Extents of symbolic dimensions, by name.
    pub dims: &'a [(String, usize)],
}

/// Reads or makes every input that the model declares. `symbols` names the symbolic dimensions of each input.
pub fn gather(
    declared: &[TensorInfo],
    symbols: &[Vec<Option<String>>],
    source: &InputSource,
) -> Result<Vec<NamedTensor>> {
    let names: Vec<&str> = declared.iter().map(|input| input.name.as_str()).collect();
    if let Some((name, _)) = source.files.iter().find(|(name, _)| !names.contains(&name.as_str())) {
        bail!("the model has no input '{name}'; it has {}", names.join(", "));
    }
    let mut tensors = Vec::new();
    for (index, input) in declared.iter().enumerate() {
        let file = source.files.iter().find(|(name, _)| *name == input.name);
        tensors.push(match (file, source.seed) {
            (Some((_, path)), _) => {
                let tensor = npy::read(path)?;
                // As outputs of that type are written.
                let bits = tensor.dtype == DType::U16 && input.dtype == DType::BF16;
                NamedTensor {
                    name: input.name.clone(),
                    dtype: if bits { DType::BF16 } else { tensor.dtype },
                    shape: tensor.shape,
                    data: tensor.data,
                    texts: tensor.texts,
                }
            }
            (None, Some(seed)) => {
                let shape = concrete_shape(input, &symbols[index], source.dims)?;
                random(input, shape, seed.wrapping_add(index as u64))
            }
            (None, None) => {
                bail!(
                    "input '{}' is missing: give --input {}=FILE.npy, or --random SEED",
                    input.name,
                    input.name
                )
            }
        });
    }
    Ok(tensors)
}

/// The shape of an input with symbolic dimensions set from `dims`; 1 for those that are not named there.
pub fn concrete_shape(
    input: &TensorInfo,
    symbols: &[Option<String>],
    dims: &[(String, usize)],
) -> Result<Shape> {
    let extents = input.dims.iter().zip(symbols).map(|(&dim, symbol)| match symbol {
        None => usize::try_from(dim).map_err(|_| anyhow!("input '{}' has an unnamed dimension", input.name)),
        Some(symbol) => Ok(dims.iter().find(|(name, _)| name == symbol).map_or(1, |&(_, extent)| extent)),
    });
    let extents = extents.collect::<Result<Vec<usize>>>().context("shapes of random inputs")?;
    if npy::tensor_bytes(&extents, input.dtype).is_none() {
        bail!("input '{}': shape {extents:?} is larger than a tensor may be", input.name);
    }
    Ok(Shape::from(extents))
}

/// Normal numbers for floats; 0 and 1 for integers and booleans, valid as token ids and as masks, and for
/// texts.
pub fn random(input: &TensorInfo, shape: Shape, seed: u64) -> NamedTensor {
    let mut rng = Rng::new(seed);
    if input.texts {
        let texts = (0..shape.elements()).flat_map(|_| [1, 0, 0, 0, b'0' + (rng.next_u64() & 1) as u8]);
        let data = AlignedBytes::copy_from(&texts.collect::<Vec<u8>>());
        return NamedTensor { name: input.name.clone(), dtype: input.dtype, shape, data, texts: true };
    }
    let mut data = AlignedBytes::zeroed(shape.elements() * input.dtype.bytes());
    match input.dtype {
        DType::F32 => data.typed_mut::<f32>().iter_mut().for_each(|value| *value = rng.normal_f32()),
        DType::F64 => {
            data.typed_mut::<f64>().iter_mut().for_each(|value| *value = f64::from(rng.normal_f32()))
        }
        DType::F16 => data
            .typed_mut::<half::f16>()
            .iter_mut()
            .for_each(|value| *value = half::f16::from_f32(rng.normal_f32())),
        DType::BF16 => data
            .typed_mut::<half::bf16>()
            .iter_mut()
            .for_each(|value| *value = half::bf16::from_f32(rng.normal_f32())),
        integer => data
            .as_mut_slice()
            .chunks_exact_mut(integer.bytes())
            .for_each(|element| element[0] = (rng.next_u64() & 1) as u8),
    }
    NamedTensor { name: input.name.clone(), dtype: input.dtype, shape, data, texts: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> (Vec<TensorInfo>, Vec<Vec<Option<String>>>) {
        let input = TensorInfo { name: "x".into(), dtype: DType::F32, dims: vec![-1, 3], texts: false };
        (vec![input], vec![vec![Some("batch".into()), None]])
    }

    #[test]
    fn random_inputs_take_the_extents_given_and_are_seeded() {
        let (inputs, symbols) = declared();
        let dims = [("batch".to_string(), 4)];
        let source = InputSource { files: &[], seed: Some(7), dims: &dims };
        let first = gather(&inputs, &symbols, &source).unwrap();
        assert_eq!(first[0].shape[..], [4, 3]);
        assert_eq!(first[0].data.as_slice(), gather(&inputs, &symbols, &source).unwrap()[0].data.as_slice());
    }

    #[test]
    fn extents_beyond_any_tensor_are_refused() {
        let (inputs, symbols) = declared();
        for extent in [usize::MAX, usize::MAX / 2, 1 << 31] {
            let dims = [("batch".to_string(), extent)];
            let error = concrete_shape(&inputs[0], &symbols[0], &dims).unwrap_err().to_string();
            assert!(error.contains("'x'") && error.contains("larger"), "{error}");
        }
    }

    #[test]
    fn missing_and_unknown_inputs_are_named() {
        let (inputs, symbols) = declared();
        let nothing = InputSource { files: &[], seed: None, dims: &[] };
        assert!(gather(&inputs, &symbols, &nothing).unwrap_err().to_string().contains("'x'"));
        let files = [("y".to_string(), PathBuf::from("y.npy"))];
        let unknown = InputSource { files: &files, seed: Some(1), dims: &[] };
        assert!(gather(&inputs, &symbols, &unknown).unwrap_err().to_string().contains("'y'"));
    }
}
