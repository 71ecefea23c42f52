//! What is compiled when a model is loaded: plans for the shapes, and the values of shape inputs, that its
//! settings name, checked against what the model declares.

use std::sync::Arc;

use reef_base::limits;
use reef_graph::{DType, Shape};
use reef_program::SegmentKey;

use crate::check;
use crate::error::LoadError;
use crate::family::{self, Family};
use crate::fault::log;
use crate::model::{Batching, InputShapes, InputValues, Number, TensorInfo};
use crate::plans::{IdleRoom, PlanEntry, PlanFailure};
use crate::pool::Model;
use crate::shared::Shared;

/// Compiles what is known at load: the only shapes of a model without symbolic dimensions, or those of its
/// settings; of a model with shape inputs those for which the settings have values, too.
pub(crate) fn compile_ahead(shared: &Shared, model: &Model) -> Result<(), LoadError> {
    let settings = |reason| LoadError::Settings { key: (*model.key).clone(), reason };
    let sets = sets(model).map_err(settings)?;
    for Set { shapes, data } in sets {
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        compile(shared, model, &model.beginning(shapes, &data))?.keep_unused();
    }
    Ok(())
}

/// Compiles what batches run, of a model whose requests are joined; an error if they have to be and cannot.
pub(crate) fn compile_families(shared: &Shared, model: &Model) -> Result<(), LoadError> {
    let key = &model.key;
    let Some(rows_max) = model.settings.batch_rows_max else { return Ok(()) };
    if !model.inputs.iter().any(TensorInfo::has_open_rows) {
        log(|| tracing::warn!(model = %key, "max_batch_size: no input has a first axis that is open"));
    }
    let Some(batching) = &model.settings.batching else { return Ok(()) };
    match families(shared, model, batching, rows_max) {
        Ok(families) => model.set_families(families),
        Err(error) if batching.optional => {
            let why = match error {
                LoadError::Settings { reason, .. } => reason,
                error => error.to_string(),
            };
            log(|| tracing::warn!(model = %key, "dynamic_batching: requests run alone: {why}"));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// What can be joined, with its plans.
fn families(
    shared: &Shared,
    model: &Model,
    batching: &Batching,
    rows_max: usize,
) -> Result<Vec<Family>, LoadError> {
    let settings = |reason: String| LoadError::Settings { key: (*model.key).clone(), reason };
    let wrong = |reason: String| settings(format!("its requests cannot be joined: {reason}"));
    family::check_batching(&model.settings, batching, rows_max).map_err(settings)?;
    if model.shape_inputs.contains(&true) {
        return Err(wrong("values of its inputs decide what runs".into()));
    }
    let (families, sizes) =
        (family::shapes(&model.settings, &model.inputs), family::sizes(batching, rows_max));
    model.rows(&families).map_err(wrong)?;
    if families.is_empty() {
        let key = &model.key;
        log(|| tracing::warn!(model = %key, "no requests are joined: name the shapes of its inputs"));
    }
    let plans = families.len() * sizes.len();
    if plans > limits::BATCH_PLANS_MAX {
        let most = limits::BATCH_PLANS_MAX;
        return Err(settings(format!("batches need {plans} plans (shapes × sizes), {most} are possible")));
    }
    // Beside those of its plans: there may be a thousand numbers of rows.
    let room = IdleRoom::new(limits::IDLE_BYTES_PER_MODEL_MAX as u64 / 4);
    let made = families.into_iter().map(|shapes| {
        let each = sizes.iter().map(|&rows| {
            let plan = compile(shared, model, &family::key(&shapes, &model.inputs, rows))?;
            check_rows(&plan, rows).map_err(wrong)?;
            // From now on: plans that are made after it may need much room.
            plan.keep();
            Ok(plan)
        });
        let plans: Vec<Arc<PlanEntry>> = each.collect::<Result<_, LoadError>>()?;
        Ok(Family::new(shapes, &plans, room.clone()))
    });
    made.collect()
}

/// Whether a plan for so many rows has as many in each input and output, and is all that runs.
fn check_rows(plan: &PlanEntry, rows: usize) -> Result<(), String> {
    if plan.goes_on() {
        return Err("it runs in several segments, which its values decide".into());
    }
    let all = plan.pool.inputs.iter().chain(&plan.pool.outputs);
    match all.into_iter().find(|spec| spec.shape.iter().next() != Some(&rows)) {
        Some(spec) => Err(format!("for {rows} rows, '{}' is {}", spec.name, spec.shape)),
        None => Ok(()),
    }
}

fn compile(shared: &Shared, model: &Model, key: &SegmentKey) -> Result<Arc<PlanEntry>, LoadError> {
    let refused = |reason| {
        let named = model.inputs.iter().zip(&key.given);
        let shapes: Vec<String> = named.map(|(info, given)| format!("{} {given}", info.name)).collect();
        LoadError::Compile { key: (*model.key).clone(), shapes: shapes.join(", "), reason }
    };
    shared.plan(model, key).map_err(|failure| match failure {
        PlanFailure::Shapes(reason) | PlanFailure::Fault(reason) => refused(reason),
        PlanFailure::Device(error) if error.is_out_of_memory() => refused(error.to_string()),
        PlanFailure::Unloaded => unreachable!("a model is unloaded only after it was published"),
        PlanFailure::Device(source) => LoadError::Device { key: (*model.key).clone(), source },
    })
}

/// What one plan is made for.
struct Set {
    /// One per input.
    shapes: Vec<Shape>,
    /// One per input: the value, if it decides.
    data: Vec<Vec<u8>>,
}

/// What the settings name, completed with what the model declares. Shapes are checked where nothing is made
/// for them, too: one that the model cannot take is a mistake.
fn sets(model: &Model) -> Result<Vec<Set>, String> {
    let (shapes, values) = (&model.settings.shapes, &model.settings.values);
    if values.is_empty() {
        let concrete = shapes.iter().map(|shapes| concrete(model, shapes, &vec![]));
        let named = concrete.collect::<Result<Vec<_>, _>>()?;
        if model.shape_inputs.contains(&true) {
            return Ok(vec![]);
        }
        let fixed: Option<Vec<Shape>> = model.inputs.iter().map(TensorInfo::fixed_shape).collect();
        let each = fixed.map_or(named, |shapes| vec![shapes]);
        let set = |shapes: Vec<Shape>| Set { data: vec![vec![]; shapes.len()], shapes };
        return Ok(each.into_iter().map(set).collect());
    }
    let (none, count) = (vec![], shapes.len().max(values.len()));
    if ![1, count].contains(&values.len()) || ![0, 1, count].contains(&shapes.len()) {
        return Err(format!("{} sets of values for {} sets of shapes", values.len(), shapes.len()));
    }
    let set = |index: usize| {
        let shapes = shapes.get(index).or(shapes.first()).unwrap_or(&none);
        let values = values.get(index).unwrap_or(&values[0]);
        let shapes = concrete(model, shapes, values)?;
        let data = data(model, &shapes, values)?;
        Ok(Set { shapes, data })
    };
    (0..count).map(set).collect()
}

/// One shape per input: as named, as declared, or as the number of its values says.
fn concrete(model: &Model, shapes: &InputShapes, values: &InputValues) -> Result<Vec<Shape>, String> {
    let inputs = &model.inputs;
    if let Some((name, _)) = shapes.iter().find(|(name, _)| inputs.iter().all(|info| info.name != *name)) {
        return Err(format!("shapes: the model has no input '{name}'"));
    }
    let shape_of = |info: &TensorInfo| {
        let given = shapes.iter().find(|(name, _)| *name == info.name).map(|(_, shape)| shape.clone());
        let counted = || {
            let (_, value) = values.iter().find(|(name, _)| *name == info.name)?;
            matches!(info.dims[..], [-1]).then(|| Shape::from([value.len()]))
        };
        let shape = given.or_else(|| info.fixed_shape()).or_else(counted);
        let shape = shape.ok_or_else(|| format!("shapes: input '{}' needs one", info.name))?;
        match check::check_shape(info, &shape) {
            Ok(()) => Ok(shape),
            Err(_) => Err(format!("shapes: input '{}' takes {:?}, not {shape}", info.name, info.dims)),
        }
    };
    inputs.iter().map(shape_of).collect()
}

/// For every input its value, if it decides; nothing for the others.
fn data(model: &Model, shapes: &[Shape], values: &InputValues) -> Result<Vec<Vec<u8>>, String> {
    let decides = |index: usize| model.shape_inputs[index];
    let index_of = |name: &str| model.inputs.iter().position(|info| info.name == *name);
    if let Some((name, _)) = values.iter().find(|(name, _)| !index_of(name).is_some_and(decides)) {
        let deciding = model.inputs.iter().enumerate().filter(|&(index, _)| decides(index));
        let known: Vec<&str> = deciding.map(|(_, info)| info.name.as_str()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        let what = match index_of(name) {
            Some(_) => format!("the value of '{name}' decides nothing"),
            None => format!("the model has no input '{name}'"),
        };
        return Err(format!("values: {what}; inputs whose values decide: {known}"));
    }
    let data_of = |(index, info): (usize, &TensorInfo)| {
        let elements = shapes[index].elements();
        let value = values.iter().find(|(name, _)| *name == info.name).map(|(_, value)| value);
        let fail = |what: String| Err(format!("values: input '{}' {what}", info.name));
        match value {
            None if decides(index) && elements <= limits::SHAPE_VALUES_MAX => fail("needs one".into()),
            None => Ok(vec![]),
            Some(_) if elements > limits::SHAPE_VALUES_MAX => {
                fail(format!("has {elements} elements; those of {} at most decide", limits::SHAPE_VALUES_MAX))
            }
            Some(value) if value.len() != elements => {
                fail(format!("has {elements} elements, not {}", value.len()))
            }
            Some(value) => {
                match value.iter().map(|number| number.bytes(info.dtype)).collect::<Option<Vec<_>>>() {
                    Some(bytes) => Ok(bytes.concat()),
                    None => {
                        fail(format!("is {}, and cannot be {}", info.dtype.protocol_name(), listed(value)))
                    }
                }
            }
        }
    };
    model.inputs.iter().enumerate().map(data_of).collect()
}

fn listed(value: &[Number]) -> String {
    let each: Vec<String> = value.iter().map(Number::to_string).collect();
    each.join(", ")
}

impl Number {
    /// The bytes of an element of this type; `None` if it is none.
    fn bytes(&self, dtype: DType) -> Option<Vec<u8>> {
        let signed = |value: i64, bits: u32| {
            let fits = bits == 64 || (-(1 << (bits - 1))..1 << (bits - 1)).contains(&value);
            fits.then_some(value)
        };
        let unsigned =
            |value: i64, bits: u32| (value >= 0 && (bits == 64 || value < 1 << bits)).then_some(value);
        let whole = match (*self, dtype) {
            (Number::Bool(value), DType::Bool) => Some(value.into()),
            (Number::Int(value), DType::I64 | DType::I32 | DType::I16 | DType::I8) => {
                signed(value, 8 * dtype.bytes() as u32)
            }
            (Number::Int(value), DType::U64 | DType::U32 | DType::U16 | DType::U8) => {
                unsigned(value, 8 * dtype.bytes() as u32)
            }
            _ => None,
        };
        let fraction = match *self {
            Number::Bool(_) => None,
            Number::Int(value) => Some(value as f64),
            Number::Float(value) => Some(value),
        };
        match dtype {
            DType::F32 => Some((fraction? as f32).to_le_bytes().to_vec()),
            DType::F64 => Some(fraction?.to_le_bytes().to_vec()),
            // No exporter lets these decide, and nobody writes them.
            DType::F16 | DType::BF16 => None,
            _ => Some(whole?.to_le_bytes()[..dtype.bytes()].to_vec()),
        }
    }
}
