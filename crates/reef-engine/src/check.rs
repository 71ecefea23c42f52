//! What a request may say: inputs against the model's declarations, outputs by name, class and level against
//! the model's settings. Pure; every error names what was expected and what came.

use reef_base::{Class, Level, Nanos, limits};
use reef_graph::{DType, Shape};

use crate::error::{InferError, WrongInput};
use crate::model::TensorInfo;
use crate::pool::Model;
use crate::request::{ClassRequest, InferRequest, InputTensor, TextTensor, Urgency};

/// The scheduling wishes of a request or session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) class: Option<ClassRequest>,
    pub(crate) priority: u32,
    pub(crate) timeout: Option<Nanos>,
    pub(crate) deadline: Option<Nanos>,
}

/// What came of them: class and level, and spans from arrival.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) class: Class,
    pub(crate) timeout: Option<Nanos>,
    pub(crate) deadline: Option<Nanos>,
}

impl Terms {
    /// Of a request that arrived at `arrival`.
    pub(crate) fn urgency(self, arrival: Nanos) -> Urgency {
        let after = |span: Option<Nanos>| span.map(|span| arrival + span);
        let (deadline, queue_until) = (after(self.deadline), after(self.timeout));
        Urgency { class: self.class, arrival, deadline, queue_until }
    }
}

/// A request that its model takes.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    pub(crate) terms: Terms,
    /// Shapes and data of the inputs, in the model's order.
    pub(crate) shapes: Vec<Shape>,
    pub(crate) data: Vec<&'a [u8]>,
    /// Indices of the outputs wanted; `None` for all.
    pub(crate) wanted: Option<Vec<usize>>,
}

/// A request against its model; `numbers` are those of its texts.
pub(crate) fn request<'a>(
    model: &Model,
    request: &'a InferRequest<'_>,
    numbers: &'a [Vec<u8>],
) -> Result<Checked<'a>, InferError> {
    let wishes = Wishes {
        class: request.class,
        priority: request.priority,
        timeout: request.timeout,
        deadline: request.deadline,
    };
    let terms = terms(model, wishes)?;
    let given = given(request, numbers);
    let order = match_inputs(&model.inputs, &given)?;
    let wanted = match_outputs(&model.outputs, request.outputs.as_deref())?;
    let shapes: Vec<Shape> = order.iter().map(|&index| given[index].shape.clone()).collect();
    check_rows(model, &shapes)?;
    let data = order.iter().map(|&index| given[index].data).collect();
    Ok(Checked { terms, shapes, data, wanted })
}

/// An input of a request.
struct Given<'a> {
    name: &'a str,
    /// `None` for texts, whose numbers the data are.
    dtype: Option<DType>,
    shape: &'a Shape,
    data: &'a [u8],
}

fn given<'a>(request: &'a InferRequest<'_>, numbers: &'a [Vec<u8>]) -> Vec<Given<'a>> {
    let InferRequest { inputs, texts, .. } = request;
    let inputs = inputs.iter().map(|InputTensor { name, dtype, shape, data }| Given {
        name,
        dtype: Some(*dtype),
        shape,
        data,
    });
    let texts = texts.iter().zip(numbers).map(|(TextTensor { name, shape, .. }, data)| Given {
        name,
        dtype: None,
        shape,
        data,
    });
    inputs.chain(texts).collect()
}

/// Whether inputs have no more rows than the model's settings allow.
pub(crate) fn check_rows(model: &Model, shapes: &[Shape]) -> Result<(), InferError> {
    let Some(max) = model.settings.batch_rows_max else { return Ok(()) };
    let rows = shapes.iter().filter_map(|shape| shape.iter().next()).max().copied().unwrap_or(0);
    if rows > max {
        return Err(InferError::TooWide { key: (*model.key).clone(), rows, max });
    }
    Ok(())
}

/// The terms on which a model serves these wishes.
pub(crate) fn terms(model: &Model, wishes: Wishes) -> Result<Terms, InferError> {
    let class = effective_class(model.settings.class, wishes.class, wishes.priority);
    let class = class.ok_or_else(|| InferError::NotAllowed {
        key: (*model.key).clone(),
        configured: describe(model.settings.class),
        asked: match wishes.class {
            Some(ClassRequest::RealTime) => format!("real-time, priority {}", wishes.priority),
            Some(ClassRequest::BestEffort) => format!("best-effort, priority {}", wishes.priority),
            None => format!("priority {}", wishes.priority),
        },
    })?;
    let timeout = wishes.timeout.or(model.settings.timeout);
    let deadline = wishes.deadline.or(model.settings.deadline);
    Ok(Terms { class, timeout, deadline })
}

/// The class that a request gets, `None` if it may not have what it asks for.
fn effective_class(configured: Class, asked: Option<ClassRequest>, priority: u32) -> Option<Class> {
    let own = match configured {
        Class::RealTime(level) => Some(level),
        Class::BestEffort => None,
    };
    let level = match priority {
        0 => None,
        n => Some(Level::new(u8::try_from(n - 1).ok()?)?),
    };
    match (asked, level) {
        (None, None) => Some(configured),
        (Some(ClassRequest::BestEffort), None) => Some(Class::BestEffort),
        (Some(ClassRequest::BestEffort), Some(_)) => None,
        (Some(ClassRequest::RealTime), None) => own.map(Class::RealTime),
        (_, Some(level)) => own.filter(|&own| own <= level).map(|_| Class::RealTime(level)),
    }
}

fn describe(class: Class) -> String {
    match class {
        Class::RealTime(level) => format!("real-time level {} (priority {})", level.get(), level.get() + 1),
        Class::BestEffort => "best-effort".into(),
    }
}

/// For every input of the model in its order, the index of the request's tensor.
fn match_inputs(declared: &[TensorInfo], given: &[Given<'_>]) -> Result<Vec<usize>, InferError> {
    let wrong = |name: &str, problem| InferError::WrongInput { name: name.to_string(), problem };
    for (index, tensor) in given.iter().enumerate() {
        if declared.iter().all(|info| info.name != tensor.name) {
            return Err(wrong(tensor.name, WrongInput::Unknown { known: names(declared) }));
        }
        if given[..index].iter().any(|other| other.name == tensor.name) {
            return Err(wrong(tensor.name, WrongInput::Duplicate));
        }
    }
    let find = |info: &TensorInfo| {
        let found = given.iter().position(|tensor| tensor.name == info.name);
        let index = found.ok_or_else(|| wrong(&info.name, WrongInput::Missing))?;
        check_input(info, &given[index]).map_err(|problem| wrong(&info.name, problem))?;
        Ok(index)
    };
    declared.iter().map(find).collect()
}

/// For every requested output, its index in the model; `None` when all are wanted.
fn match_outputs(declared: &[TensorInfo], wanted: Option<&[&str]>) -> Result<Option<Vec<usize>>, InferError> {
    let find = |name: &&str| {
        let found = declared.iter().position(|info| info.name == **name);
        let unknown = || InferError::UnknownOutput { name: name.to_string(), known: names(declared) };
        found.ok_or_else(unknown)
    };
    // An empty list means all, as in the protocol.
    let wanted = wanted.filter(|wanted| !wanted.is_empty());
    wanted.map(|wanted| wanted.iter().map(find).collect()).transpose()
}

/// Whether `shape` is one that input `info` takes.
pub(crate) fn check_shape(info: &TensorInfo, shape: &Shape) -> Result<(), WrongInput> {
    let elements = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    let bounded = elements.is_some_and(|elements| elements <= limits::TENSOR_ELEMENTS_MAX);
    if info.takes(shape) && bounded {
        return Ok(());
    }
    let dims: Vec<String> = info.dims.iter().map(i64::to_string).collect();
    Err(WrongInput::Shape { expected: format!("[{}]", dims.join(",")), got: shape.clone() })
}

fn check_input(info: &TensorInfo, tensor: &Given<'_>) -> Result<(), WrongInput> {
    let expected = info.dtype;
    match tensor.dtype {
        Some(got) if info.texts => return Err(WrongInput::NeedsTexts { got }),
        Some(got) if got != expected => return Err(WrongInput::DType { expected, got }),
        None if !info.texts => return Err(WrongInput::TakesNoTexts { expected }),
        _ => {}
    }
    check_shape(info, tensor.shape)?;
    let (elements, got) = (tensor.shape.elements(), tensor.data.len());
    match got == elements * expected.bytes() {
        true => Ok(()),
        false if info.texts => Err(WrongInput::Texts { expected: elements, got: got / expected.bytes() }),
        false => Err(WrongInput::Bytes { expected: elements * expected.bytes(), got }),
    }
}

fn names(declared: &[TensorInfo]) -> String {
    let names: Vec<&str> = declared.iter().map(|info| info.name.as_str()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_ask_for_what_is_configured_or_less() {
        use ClassRequest::{BestEffort, RealTime};
        let rt = |level| Some(Class::real_time(level));
        let be = Some(Class::BestEffort);
        let table = [
            (Class::real_time(1), None, 0, rt(1)),
            (Class::real_time(1), Some(RealTime), 0, rt(1)),
            (Class::real_time(1), None, 2, rt(1)),
            (Class::real_time(1), None, 4, rt(3)),
            (Class::real_time(1), Some(RealTime), 1, None),
            (Class::real_time(1), None, 1, None),
            (Class::real_time(1), None, 16, None),
            (Class::real_time(1), None, u32::MAX, None),
            (Class::real_time(1), Some(BestEffort), 0, be),
            (Class::real_time(1), Some(BestEffort), 3, None),
            (Class::BestEffort, None, 0, be),
            (Class::BestEffort, Some(BestEffort), 0, be),
            (Class::BestEffort, Some(RealTime), 0, None),
            (Class::BestEffort, None, 1, None),
        ];
        for (configured, asked, priority, expected) in table {
            let got = effective_class(configured, asked, priority);
            assert_eq!(got, expected, "{configured:?} {asked:?} {priority}");
        }
    }
}
