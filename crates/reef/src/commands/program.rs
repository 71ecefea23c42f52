//! `reef inspect` of a model that is a program: its segments, and what is handed from one to the next.
//!
//! Which segment follows depends on values that are computed. Those that say yes or no, or whether a loop
//! goes on, are tried out; a segment that others decide is made when their values are known.

use anyhow::{Result, bail};
use reef_base::{AlignedBytes, Nanos};
use reef_graph::{DType, Shape, Tensor};
use reef_onnx::{Given, Rest, Source, Step, Take, Then};
use reef_plan::{Cutter, IoSpec};
use serde_json::{Value, json};
use std::sync::Arc;

use super::compiled::{self, Compiled};
use crate::cli::InspectArgs;
use crate::loader::Declared;
use crate::output::say;

/// Segments that are tried out.
const SEGMENTS_MAX: usize = 16;

/// The segments of a program, as far as they can be told without running it.
pub struct Program {
    /// Inputs whose values decide, and the values taken.
    values: Vec<(String, Vec<i64>)>,
    segments: Vec<Segment>,
}

struct Segment {
    /// Which segment leads here, and with which values.
    from: Option<(usize, String)>,
    compiled: Compiled,
    next: Option<Then>,
    /// Segments that follow for values that were tried.
    following: Vec<(String, usize)>,
}

impl Program {
    /// `None` for a model that is one plan for the shapes of its inputs.
    pub fn of(
        declared: &Declared,
        shapes: &[(String, Shape)],
        given: &[(String, Vec<i64>)],
        cutter: &dyn Cutter,
    ) -> Result<Option<Program>> {
        let decide = declared.model.shape_inputs();
        let deciding = || declared.inputs.iter().zip(shapes).zip(&decide).filter(|(_, decides)| **decides);
        if let Some((name, _)) = given.iter().find(|(name, _)| deciding().all(|((i, _), _)| i.name != *name))
        {
            bail!(
                "the value of '{name}' decides nothing; those that do: {}",
                names(deciding().map(|((i, _), _)| &*i.name))
            );
        }
        let (mut values, mut tensors) = (vec![], vec![]);
        for ((input, (_, shape)), &decides) in declared.inputs.iter().zip(shapes).zip(&decide) {
            if !decides {
                tensors.push(None);
                continue;
            }
            let value = given.iter().find(|(name, _)| *name == input.name).map(|(_, value)| value.clone());
            let value = value.unwrap_or_else(|| vec![1; shape.elements()]);
            if value.len() != shape.elements() {
                bail!("input '{}' has {} values, not {}", input.name, shape.elements(), value.len());
            }
            tensors.push(Some(tensor(input.dtype, shape, &value)));
            values.push((input.name.clone(), value));
        }
        let named: Vec<(&str, Shape)> =
            shapes.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect();
        let first = declared.model.begin(&named, &tensors)?;
        if values.is_empty() && first.then.is_none() {
            return Ok(None);
        }
        let mut program = Program { values, segments: vec![] };
        program.add(declared, first, None, cutter)?;
        Ok(Some(program))
    }

    fn add(
        &mut self,
        declared: &Declared,
        step: Step,
        from: Option<(usize, String)>,
        cutter: &dyn Cutter,
    ) -> Result<()> {
        let mut pending = vec![(step, from)];
        let mut known: Vec<(Arc<Rest>, String, usize)> = vec![];
        while let Some((step, from)) = pending.pop() {
            let index = self.segments.len();
            let compiled = compiled::segment(&step.segment, &[], cutter);
            declared.model.intact()?;
            let compiled = compiled?;
            let next = step.then;
            self.segments.push(Segment { from, compiled, next, following: vec![] });
            let Some(then) = self.segments[index].next.clone() else { continue };
            for (label, given) in self.trials(index, &then) {
                let key: Vec<String> = given.iter().map(described).collect();
                let key = key.join(" ");
                let same = |(rest, other, _): &&(Arc<Rest>, String, usize)| {
                    Arc::ptr_eq(rest, &then.rest) && *other == key
                };
                let reached = known.iter().find(same).map(|(.., index)| *index);
                let reached = match reached {
                    Some(reached) => reached,
                    None if self.segments.len() + pending.len() >= SEGMENTS_MAX => continue,
                    None => {
                        let Ok(step) = declared.model.step(&then.rest, &given) else { continue };
                        let place = self.segments.len() + pending.len();
                        known.push((then.rest.clone(), key, place));
                        pending.insert(0, (step, Some((index, label.clone()))));
                        place
                    }
                };
                self.segments[index].following.push((label, reached));
            }
        }
        Ok(())
    }

    /// What can be told of the inputs of the part behind segment `index`, for every way that its values can
    /// go, if they say yes or no or whether a loop goes on.
    fn trials(&self, index: usize, then: &Then) -> Vec<(String, Vec<Given>)> {
        let plan = &self.segments[index].compiled.plan;
        let spec = |source: &Source| match source {
            Source::Output(index) => &plan.outputs()[*index],
            Source::Input(index) => &plan.inputs()[*index],
        };
        let mut trials = vec![(String::new(), vec![])];
        for ((source, take), label) in then.passed.iter().zip(then.rest.takes()).zip(&then.labels) {
            let IoSpec { dtype, shape, .. } = spec(source);
            match take {
                Take::Tensor => {
                    let given = || Given::Tensor(*dtype, shape.clone());
                    trials.iter_mut().for_each(|(_, known)| known.push(given()));
                }
                Take::Counted { .. } => return vec![],
                Take::Value => {
                    let tried: &[i64] = match dtype {
                        DType::Bool => &[1, 0],
                        DType::I64 if label.ends_with(".goes on") => &[-1, 0],
                        _ => return vec![],
                    };
                    if shape.elements() != 1 {
                        return vec![];
                    }
                    trials = trials
                        .iter()
                        .flat_map(|(text, known)| tried.iter().map(move |&value| (text, known, value)))
                        .map(|(text, known, value)| {
                            let mut known: Vec<Given> = known.clone();
                            known.push(Given::Value(tensor(*dtype, shape, &[value])));
                            let comma = if text.is_empty() { "" } else { ", " };
                            (format!("{text}{comma}{label} = {value}"), known)
                        })
                        .collect();
                }
            }
        }
        trials
    }

    /// Prints it.
    pub fn show(&self, args: &InspectArgs, never_max: Nanos) -> Result<()> {
        if args.json {
            say!("{:#}", self.to_json());
            return Ok(());
        }
        for (name, value) in &self.values {
            let value: Vec<String> = value.iter().map(i64::to_string).collect();
            say!("value of {name} selects the plan; here it is {}", value.join(","));
        }
        for (index, segment) in self.segments.iter().enumerate() {
            match &segment.from {
                None => say!("segment {index}"),
                Some((from, values)) => say!("\nsegment {index}, after segment {from} when {values}"),
            }
            match () {
                () if args.graph => say!("{}", segment.compiled.graph.to_string().trim_end()),
                () if args.plan => say!("{}", segment.compiled.plan.to_string().trim_end()),
                () => compiled::print(&segment.compiled, never_max),
            }
            let Some(then) = &segment.next else {
                say!("then the model ends");
                continue;
            };
            say!("then, for {}, it hands over", then.waiting.join(", "));
            for line in handed(segment, then) {
                say!("  {line}");
            }
            for (values, to) in &segment.following {
                say!("  when {values}: segment {to}");
            }
            if segment.following.is_empty() {
                say!("  the plan that follows is made when these values are known");
            }
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let segment = |segment: &Segment| {
            let mut value = compiled::to_json(&segment.compiled);
            value["after"] =
                json!(segment.from.as_ref().map(|(from, values)| json!({ "segment": from, "when": values })));
            value["hands_over"] = json!(segment.next.as_ref().map(|then| {
                let following = segment.following.iter();
                json!({
                    "waiting": then.waiting,
                    "values": handed(segment, then),
                    "left": then.rest.operators(),
                    "following": following
                        .map(|(when, to)| json!({ "when": when, "segment": to }))
                        .collect::<Vec<_>>(),
                })
            }));
            value
        };
        let values = self.values.iter().map(|(name, value)| (name.clone(), json!(value)));
        json!({
            "values": values.collect::<serde_json::Map<_, _>>(),
            "segments": self.segments.iter().map(segment).collect::<Vec<_>>(),
        })
    }
}

/// A line for every value that is handed over.
fn handed(segment: &Segment, then: &Then) -> Vec<String> {
    let plan = &segment.compiled.plan;
    let line = |(index, ((source, take), label)): (usize, ((&Source, Take), &String))| {
        let (spec, from) = match source {
            Source::Output(index) => (&plan.outputs()[*index], "computed"),
            Source::Input(index) => (&plan.inputs()[*index], "as it came"),
        };
        let IoSpec { dtype, shape, .. } = spec;
        match take {
            Take::Tensor if then.rows.iter().any(|row| row.passed == index) => {
                format!("{label} {dtype}{shape}, {from}, with a new row")
            }
            Take::Tensor => format!("{label} {dtype}{shape}, {from}"),
            Take::Value => format!("{label} {dtype}{shape} by its value, {from}"),
            Take::Counted { axis, count } => {
                format!(
                    "{label} {dtype}{shape} at most, {from}; {} says how long axis {axis} is",
                    then.labels[count]
                )
            }
        }
    };
    then.passed.iter().zip(then.rest.takes()).zip(&then.labels).enumerate().map(line).collect()
}

/// Tells what is given from anything else.
fn described(given: &Given) -> String {
    match given {
        Given::Tensor(dtype, shape) => format!("{dtype}{shape}"),
        Given::Value(value) | Given::Both(value) => format!("{:?}", value.bytes().as_slice()),
    }
}

/// A small tensor of whole numbers.
fn tensor(dtype: DType, shape: &Shape, values: &[i64]) -> Tensor {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|&value| match dtype {
            DType::F32 => (value as f32).to_le_bytes().to_vec(),
            DType::F64 => (value as f64).to_le_bytes().to_vec(),
            DType::F16 => half::f16::from_f32(value as f32).to_le_bytes().to_vec(),
            _ => value.to_le_bytes()[..dtype.bytes()].to_vec(),
        })
        .collect();
    Tensor::new(dtype, shape.clone(), Arc::new(AlignedBytes::copy_from(&bytes)))
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
