//! Models that a client has opened: what it asked for, checked against the model, and where its tensors lie.

use reef_base::limits::{MODEL_TENSORS_MAX, TENSOR_RANK_MAX};
use reef_client::OpenModel;
use reef_client::protocol::{OpenedOutput, SlotLayout, Tensor};
use reef_engine::{DType, ModelInfo, Shape, TensorInfo};

use crate::core::problem::Problem;
use crate::core::question;

/// An open model.
#[derive(Debug)]
pub(crate) struct OpenedModel {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) inputs: Vec<Input>,
    /// The outputs wanted.
    pub(super) outputs: Vec<Output>,
    pub(crate) layout: SlotLayout,
}

/// An input, of which every request has the same shape.
#[derive(Debug)]
pub(crate) struct Input {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Shape,
}

/// An output as its client knows it.
#[derive(Debug)]
pub(crate) struct Output {
    pub(super) name: String,
    pub(super) dtype: DType,
}

impl OpenedModel {
    /// What `wanted` asks of `model`.
    pub(crate) fn new(model: &ModelInfo, wanted: OpenModel) -> Result<(Self, Vec<OpenedOutput>), Problem> {
        for (count, what) in [(wanted.inputs.len(), "inputs"), (wanted.outputs.len(), "outputs")] {
            if count > MODEL_TENSORS_MAX {
                return Err(Problem::invalid(format!(
                    "{count} {what}, at most {MODEL_TENSORS_MAX} are allowed"
                )));
            }
        }
        let inputs =
            wanted.inputs.iter().map(|tensor| input(model, tensor)).collect::<Result<Vec<_>, _>>()?;
        check_names("input", &wanted.inputs, |tensor| &tensor.name)?;
        check_names("output", &wanted.outputs, |output| &output.name)?;
        let given = |info: &&TensorInfo| inputs.iter().any(|(input, _)| input.name == info.name);
        if let Some(missing) = model.inputs.iter().find(|info| !given(info)) {
            return Err(Problem::invalid(format!("input '{}' is missing", missing.name)));
        }
        let outputs = outputs(model, &wanted)?;
        let input_bytes: Vec<usize> = inputs.iter().map(|(_, bytes)| *bytes).collect();
        let output_bytes: Vec<usize> = outputs.iter().map(|(_, bytes)| *bytes).collect();
        let layout = SlotLayout::new(&input_bytes, &output_bytes)
            .ok_or_else(|| Problem::invalid("the tensors are larger than any memory"))?;
        let opened = outputs
            .iter()
            .map(|(info, _)| OpenedOutput { name: info.name.clone(), datatype: info.datatype().into() });
        let opened = opened.collect();
        let outputs = outputs.iter().map(|(info, _)| Output { name: info.name.clone(), dtype: info.dtype });
        let model = OpenedModel {
            name: wanted.model,
            version: wanted.version,
            inputs: inputs.into_iter().map(|(input, _)| input).collect(),
            outputs: outputs.collect(),
            layout,
        };
        Ok((model, opened))
    }
}

/// An input and its bytes.
fn input(model: &ModelInfo, tensor: &Tensor) -> Result<(Input, usize), Problem> {
    let place = |problem: String| Problem::invalid(format!("input '{}': {problem}", tensor.name));
    let info = model.inputs.iter().find(|info| info.name == tensor.name);
    let info = info.ok_or_else(|| place("the model has no such input".into()))?;
    let dtype = question::dtype(&tensor.name, &tensor.datatype)?;
    let Some(dtype) = dtype.filter(|&dtype| !info.texts && dtype == info.dtype) else {
        let expected = info.datatype();
        return Err(place(match info.texts {
            true => "texts are not carried over shared memory; HTTP and gRPC have them".into(),
            false => format!("expected {expected}, got {}", tensor.datatype),
        }));
    };
    let fits =
        |(&dim, &extent): (&i64, &usize)| usize::try_from(dim).is_ok_and(|dim| dim == extent) || dim < 0;
    let same_rank = info.dims.len() == tensor.shape.len() && tensor.shape.len() <= TENSOR_RANK_MAX;
    if !same_rank || !info.dims.iter().zip(&tensor.shape).all(fits) {
        return Err(place(format!("expected shape {:?}, got {:?}", info.dims, tensor.shape)));
    }
    let elements = question::elements(&tensor.name, &tensor.shape)?;
    let shape = Shape::new(&tensor.shape);
    Ok((Input { name: tensor.name.clone(), dtype, shape }, elements.saturating_mul(dtype.bytes())))
}

/// The outputs wanted, each with its room in bytes.
fn outputs<'m>(model: &'m ModelInfo, wanted: &OpenModel) -> Result<Vec<(&'m TensorInfo, usize)>, Problem> {
    if wanted.outputs.is_empty() {
        return model.outputs.iter().map(|info| Ok((info, room(info, None)?))).collect();
    }
    let find = |output: &reef_client::WantedOutput| {
        let info = model.outputs.iter().find(|info| info.name == output.name);
        let unknown = || Problem::invalid(format!("output '{}': the model has no such output", output.name));
        let info = info.ok_or_else(unknown)?;
        Ok((info, room(info, output.bytes)?))
    };
    wanted.outputs.iter().map(find).collect()
}

/// Bytes of an output: the model's, or those the client says where it leaves them open.
fn room(info: &TensorInfo, said: Option<usize>) -> Result<usize, Problem> {
    if info.texts {
        let name = &info.name;
        return Err(Problem::invalid(format!(
            "output '{name}': texts are not carried over shared memory; HTTP and gRPC have them"
        )));
    }
    let extents: Option<Vec<usize>> = info.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    match (extents, said) {
        (Some(extents), _) => {
            Ok(question::elements(&info.name, &extents)?.saturating_mul(info.dtype.bytes()))
        }
        (None, Some(bytes)) => Ok(bytes),
        (None, None) => {
            let (name, dims) = (&info.name, &info.dims);
            let problem =
                format!("output '{name}' has the open shape {dims:?}: say how many bytes it may have");
            Err(Problem::invalid(problem))
        }
    }
}

fn check_names<T>(what: &str, tensors: &[T], name: impl Fn(&T) -> &String) -> Result<(), Problem> {
    let mut names: Vec<&String> = tensors.iter().map(&name).collect();
    names.sort();
    match names.windows(2).find(|two| two[0] == two[1]) {
        Some(twice) => Err(Problem::invalid(format!("{what} '{}' is there twice", twice[0]))),
        None => Ok(()),
    }
}
