//! Host kernels: nodes without a native form, each a tract model optimised once.

use std::sync::Arc;

use reef_plan::{HostFault, HostKernel, HostState, TensorSpec};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{SimplePlan, SimpleState, TypedOp};

use crate::consts::datum_of;
use crate::guard::{attempt, guarded, text};
use crate::indices::BadValue;
use crate::register::DataFault;

/// A model in tract's terms, ready to run.
pub(crate) type Plan = SimplePlan<TypedFact, Box<dyn TypedOp>>;
type State = SimpleState<TypedFact, Box<dyn TypedOp>>;

/// A tract model that computes one node.
#[derive(Debug)]
pub(crate) struct TractKernel {
    operators: String,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    /// None if all outputs are without elements: then there is nothing to compute.
    plan: Option<Arc<Plan>>,
}

impl TractKernel {
    /// A kernel that computes `operators`; without a plan there is nothing to compute.
    pub fn new(
        operators: &str,
        inputs: Vec<TensorSpec>,
        outputs: Vec<TensorSpec>,
        plan: Option<Arc<Plan>>,
    ) -> TractKernel {
        TractKernel { operators: operators.to_owned(), inputs, outputs, plan }
    }
}

impl HostKernel for TractKernel {
    fn name(&self) -> &str {
        &self.operators
    }

    fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(TractState {
            kernel: self.operators.clone(),
            inputs: self.inputs.clone(),
            plan: self.plan.clone(),
            state: None,
        }))
    }
}

struct TractState {
    kernel: String,
    inputs: Vec<TensorSpec>,
    plan: Option<Arc<Plan>>,
    /// Kept from call to call only when no operator carries anything over.
    state: Option<State>,
}

impl HostState for TractState {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let fault = |reason: String| HostFault::of_kernel(&*self.kernel, reason);
        let mut state = match self.state.take() {
            Some(state) => state,
            None => guarded(|| plan.spawn()).map_err(fault)?,
        };
        let specs = &self.inputs;
        let results = attempt(|| {
            let mut values = tvec!();
            for (spec, bytes) in specs.iter().zip(inputs) {
                let datum = datum_of(spec.dtype).expect("kernels have tract's types");
                let mut tensor = Tensor::zero_dt(datum, &spec.shape)?;
                tensor.try_as_plain_ram_mut()?.as_bytes_mut().copy_from_slice(bytes);
                values.push(tensor.into_tvalue());
            }
            state.run(values)
        });
        let results = results.map_err(|error| match fault_of_data(&error) {
            Some(bad) => HostFault::of_input(&*self.kernel, bad),
            None => fault(text(&error)),
        });
        for (result, bytes) in results?.iter().zip(outputs.iter_mut()) {
            let plain = result.try_as_plain_ram().map_err(|error| fault(format!("{error:#}")))?;
            let made = plain.as_bytes();
            if made.len() != bytes.len() {
                return Err(fault(format!("made {} bytes, not {}", made.len(), bytes.len())));
            }
            bytes.copy_from_slice(made);
        }
        if state.op_states.iter().all(Option::is_none) {
            self.state = Some(state);
        }
        Ok(())
    }
}

/// What `error` says of a request's data, if they are at fault.
pub(crate) fn fault_of_data(error: &TractError) -> Option<String> {
    let data = || error.chain().find_map(|cause| cause.downcast_ref::<DataFault>()).map(ToString::to_string);
    BadValue::of(error).map(ToString::to_string).or_else(data)
}
