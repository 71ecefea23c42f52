//! Whether a host kernel computes at all. tract takes types that its operators then refuse when they run;
//! one run with plain numbers tells, so that such a model is refused when it is loaded and not by its first
//! request.
//!
//! A kernel is tried once for its operators and the types and ranks of its inputs, whatever the shapes, and
//! that costs what one request costs. Faults of data (an index that does not exist, a division by zero) are
//! none of a kernel: they end the trial well, and for other errors other numbers are tried.

use std::collections::HashSet;
use std::sync::Mutex;

use reef_plan::TensorSpec;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::logic::IfThenElse;

use crate::consts::datum_of;
use crate::guard::guarded;
use crate::host::{Plan, fault_of_data};

/// Numbers for floating-point and for integer inputs. An index is 0, a divisor is not.
const NUMBERS: [(f32, f32); 4] = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)];

/// Bodies of operators within bodies that are tried.
const NESTING_MAX: usize = 8;

/// The kernels that were tried and ran.
#[derive(Debug, Default)]
pub(crate) struct Tried(Mutex<HashSet<String>>);

impl Tried {
    /// Whether `operators` ran with inputs like these.
    pub fn knows(&self, operators: &str, inputs: &[TensorSpec]) -> bool {
        self.0.lock().expect("no panic holds this lock").contains(&key(operators, inputs))
    }

    /// Notes that they did.
    pub fn note(&self, operators: &str, inputs: &[TensorSpec]) {
        self.0.lock().expect("no panic holds this lock").insert(key(operators, inputs));
    }
}

fn key(operators: &str, inputs: &[TensorSpec]) -> String {
    let inputs: Vec<String> =
        inputs.iter().map(|spec| format!("{}{}", spec.dtype, spec.shape.rank())).collect();
    format!("{operators}: {}", inputs.join(" "))
}

/// Why `plan` does not run, if it does not.
pub(crate) fn check(plan: &Arc<Plan>, inputs: &[TensorSpec]) -> Result<(), String> {
    let facts = inputs.iter().map(|spec| {
        let datum = datum_of(spec.dtype).ok_or("a type that tract lacks")?;
        Ok((datum, spec.shape.to_vec()))
    });
    tried(&facts.collect::<Result<Vec<_>, &str>>()?, |values| plan.run(values).map(|_| ()))?;
    branches(plan.model(), 0)
}

/// Branches that no plain number leads into are tried by themselves.
fn branches(model: &TypedModel, depth: usize) -> Result<(), String> {
    if depth > NESTING_MAX {
        return Err(format!("graphs nested deeper than {NESTING_MAX}"));
    }
    for node in model.nodes() {
        let Some(choice) = node.op_as::<IfThenElse>() else { continue };
        for body in [&choice.then_body, &choice.else_body] {
            // What is not known before it runs cannot be tried.
            let Some(facts) = inputs_of(body) else { continue };
            let plan = guarded(|| TypedSimplePlan::new(body.clone()))?;
            tried(&facts, |values| plan.run(values).map(|_| ()))?;
            branches(body, depth + 1)?;
        }
    }
    Ok(())
}

/// Types and shapes of a body's inputs.
fn inputs_of(body: &TypedModel) -> Option<Vec<(DatumType, Vec<usize>)>> {
    let outlets = body.input_outlets().ok()?.iter();
    let facts = outlets.map(|&outlet| {
        let fact = body.outlet_fact(outlet).ok()?;
        Some((fact.datum_type, fact.shape.as_concrete()?.to_vec()))
    });
    facts.collect()
}

fn tried(
    facts: &[(DatumType, Vec<usize>)],
    run: impl Fn(TVec<TValue>) -> TractResult<()>,
) -> Result<(), String> {
    let mut refusal = None;
    for (real, whole) in NUMBERS {
        let mut data_fault = false;
        let result = guarded(|| {
            let values = facts.iter().map(|(datum, shape)| {
                let number =
                    tensor0(if datum.is_float() { real } else { whole }).cast_to_dt(*datum)?.into_owned();
                Ok(number.broadcast_scalar_to_shape(shape)?.into_tvalue())
            });
            run(values.collect::<TractResult<_>>()?)
                .inspect_err(|error| data_fault = fault_of_data(error).is_some())
        });
        match result {
            Ok(()) => return Ok(()),
            Err(_) if data_fault => return Ok(()),
            Err(reason) => refusal.get_or_insert(reason),
        };
    }
    Err(refusal.unwrap_or_default())
}
