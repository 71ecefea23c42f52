//! A configuration against the model that it describes.

use super::{ModelConfig, TensorConfig};
use crate::text::Fault;

/// An input or output as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// Its element type, in the protocol's words.
    pub datatype: String,
    /// Its extents, -1 for any.
    pub dims: Vec<i64>,
}

impl ModelConfig {
    /// Whether a model of these inputs and outputs is what is described; what of that has no effect comes
    /// back.
    pub fn check(&self, inputs: &[Declared], outputs: &[Declared]) -> Result<Vec<String>, Fault> {
        for (kind, described, declared) in
            [("input", &self.inputs, inputs), ("output", &self.outputs, outputs)]
        {
            for tensor in described {
                let found = declared.iter().find(|found| found.name == tensor.name);
                let found = found.ok_or_else(|| {
                    let known: Vec<&str> = declared.iter().map(|found| &*found.name).collect();
                    let known = known.join(", ");
                    fault(tensor, kind, &format!("the model has none of that name; it has {known}"))
                })?;
                self.check_one(kind, tensor, found)?;
            }
        }
        match self.max_batch_size {
            0 => Ok(Vec::new()),
            most => rows(most, inputs, outputs),
        }
    }

    fn check_one(&self, kind: &str, tensor: &TensorConfig, found: &Declared) -> Result<(), Fault> {
        if let Some(datatype) = tensor.datatype.filter(|datatype| *datatype != found.datatype) {
            let what = format!("data_type is {datatype}, the model has {}", found.datatype);
            return Err(fault(tensor, kind, &what));
        }
        if tensor.reshape.as_ref().is_some_and(|shape| *shape != tensor.dims) {
            return Err(fault(tensor, kind, "reshape is not served: requests have the model's shape"));
        }
        if tensor.dims.is_empty() {
            return Ok(());
        }
        let own = self.dims_of(found);
        let fits = |(&said, &has): (&i64, &i64)| said == has || has == -1;
        // A scalar is described as one element.
        let scalar = own.is_empty() && tensor.dims == [1];
        if !scalar && (own.len() != tensor.dims.len() || !tensor.dims.iter().zip(own).all(fits)) {
            let batched = if own.len() < found.dims.len() { " after the axis of the batch" } else { "" };
            let what = format!("dims are {:?}, the model has {own:?}{batched}", tensor.dims);
            return Err(fault(tensor, kind, &what));
        }
        Ok(())
    }

    /// Extents in the words of a configuration: without the axis of the batch, where there may be one.
    pub(super) fn dims_of<'a>(&self, declared: &'a Declared) -> &'a [i64] {
        &declared.dims[usize::from(self.has_rows(declared))..]
    }

    /// Whether the first axis of a tensor is one that `dims` do not have.
    fn has_rows(&self, declared: &Declared) -> bool {
        self.max_batch_size > 0 && matches!(declared.dims.first(), Some(-1 | 1))
    }

    /// Shapes of all inputs, where the configuration gives the extents that the model leaves open: one set
    /// for a request of one row, and one for a full batch. Empty where it does not, or where the model leaves
    /// nothing open.
    pub fn shapes(&self, inputs: &[Declared]) -> Vec<Vec<(String, Vec<usize>)>> {
        if inputs.iter().all(|input| input.dims.iter().all(|&extent| extent >= 0)) {
            return Vec::new();
        }
        let rows = if self.max_batch_size > 1 { vec![1, self.max_batch_size as usize] } else { vec![1] };
        let mut sets: Vec<_> = rows.into_iter().filter_map(|rows| self.shapes_of(rows, inputs)).collect();
        sets.dedup();
        sets
    }

    fn shapes_of(&self, rows: usize, inputs: &[Declared]) -> Option<Vec<(String, Vec<usize>)>> {
        let shape = |input: &Declared| {
            let said = self.inputs.iter().find(|said| said.name == input.name).map(|said| &said.dims[..]);
            let batch = usize::from(self.has_rows(input));
            let extent = |(axis, &extent): (usize, &i64)| match axis.checked_sub(batch) {
                _ if extent >= 0 => usize::try_from(extent).ok(),
                None => Some(rows),
                Some(axis) => usize::try_from(*said?.get(axis)?).ok(),
            };
            let extents: Option<Vec<usize>> = input.dims.iter().enumerate().map(extent).collect();
            Some((input.name.clone(), extents?))
        };
        inputs.iter().map(shape).collect()
    }
}

/// What a bound on rows means for a model: requests of more are refused, where inputs have any number.
fn rows(most: u32, inputs: &[Declared], outputs: &[Declared]) -> Result<Vec<String>, Fault> {
    let open = |tensor: &Declared| tensor.dims.first() == Some(&-1);
    if let Some(wide) = inputs.iter().find(|it| it.dims.first().is_some_and(|&rows| rows > i64::from(most))) {
        let what = format!(
            "max_batch_size {most}: input '{}' always has {} rows; max_batch_size 0 serves it as it is",
            wide.name, wide.dims[0]
        );
        return Err(Fault::new(None, what));
    }
    let kinds = [("input", inputs), ("output", outputs)];
    let mut all = kinds.into_iter().flat_map(|(kind, tensors)| tensors.iter().map(move |it| (kind, it)));
    let Some((kind, tensor)) = all.find(|(_, tensor)| !open(tensor)) else { return Ok(Vec::new()) };
    let alone = "requests run alone, since batches need a first axis that is open";
    Ok(vec![format!("max_batch_size {most}: {alone}, and {kind} '{}' has {:?}", tensor.name, tensor.dims)])
}

fn fault(tensor: &TensorConfig, kind: &str, what: &str) -> Fault {
    Fault::new(tensor.at, format!("{kind} '{}': {what}", tensor.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, datatype: &str, dims: &[i64]) -> Declared {
        Declared { name: name.into(), datatype: datatype.into(), dims: dims.to_vec() }
    }

    fn checked(text: &str, inputs: &[Declared]) -> Result<Vec<String>, String> {
        let config = ModelConfig::of_text(text).unwrap();
        config.check(inputs, &[declared("y", "FP32", &[-1, 8])]).map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_a_model_does_not_have_is_named() {
        let x = [declared("x", "FP32", &[-1, 3, 24])];
        let cases = [
            ("input { name: 'x' data_type: TYPE_FP32 dims: [-1, 3, 24] }", None),
            ("max_batch_size: 4 input { name: 'x' dims: [3, 24] } output { name: 'y' dims: 8 }", None),
            ("input { name: 'x' dims: [5, 3, 24] }", None),
            ("input { name: 'x' dims: [-1, 3, 24] reshape { shape: [-1, 3, 24] } }", None),
            ("input { name: 'z' }", Some("1:1: input 'z': the model has none of that name; it has x")),
            (
                "input { name: 'x' data_type: TYPE_INT64 }",
                Some("1:1: input 'x': data_type is INT64, the model has FP32"),
            ),
            (
                "input { name: 'x' dims: [-1, 3, 25] }",
                Some("1:1: input 'x': dims are [-1, 3, 25], the model has [-1, 3, 24]"),
            ),
            (
                "max_batch_size: 4 input { name: 'x' dims: [-1, 3, 24] }",
                Some(
                    "1:19: input 'x': dims are [-1, 3, 24], the model has [3, 24] after the axis of the \
                     batch",
                ),
            ),
            (
                "input { name: 'x' dims: [-1] reshape { shape: [-1, 3, 24] } }",
                Some("1:1: input 'x': reshape is not served: requests have the model's shape"),
            ),
            (
                "output { name: 'y' data_type: TYPE_STRING }",
                Some("1:1: output 'y': data_type is BYTES, the model has FP32"),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(checked(text, &x).err().as_deref(), expected, "{text}");
        }
        assert_eq!(checked("input { name: 'x' dims: 1 }", &[declared("x", "FP32", &[])]), Ok(vec![]));
    }

    /// Triton's configurations have a bound on rows also where a model has none: it is served as it is.
    #[test]
    fn rows_that_are_not_open_are_told() {
        let told = |text: &str, dims: &[i64]| checked(text, &[declared("x", "FP32", dims)]);
        let notice = told("max_batch_size: 4 input { name: 'x' dims: [3] }", &[1, 3]).unwrap().remove(0);
        assert!(notice.starts_with("max_batch_size 4: requests run alone"), "{notice}");
        assert!(notice.ends_with("input 'x' has [1, 3]"), "{notice}");
        for (dims, described) in [(&[2, 3][..], "dims: [2, 3]"), (&[], "dims: 1"), (&[4], "dims: 4")] {
            let text = format!("max_batch_size: 4 input {{ name: 'x' {described} }}");
            assert_eq!(told(&text, dims).unwrap().len(), 1, "{text}");
        }
        let wide = told("max_batch_size: 4", &[5, 3]).unwrap_err();
        assert!(wide.starts_with("max_batch_size 4: input 'x' always has 5 rows"), "{wide}");
        assert_eq!(told("max_batch_size: 4", &[-1, 3]), Ok(vec![]));
    }

    #[test]
    fn extents_that_only_the_configuration_knows_are_compiled_ahead() {
        let x = [declared("x", "FP32", &[-1, 3, -1])];
        let shapes = |text: &str| {
            let sets = ModelConfig::of_text(text).unwrap().shapes(&x);
            sets.into_iter().map(|mut set| set.remove(0).1).collect::<Vec<_>>()
        };
        assert_eq!(shapes("max_batch_size: 8 input { name: 'x' dims: [3, 24] }"), [[1, 3, 24], [8, 3, 24]]);
        assert_eq!(shapes("input { name: 'x' dims: [2, 3, 24] }"), [[2, 3, 24]]);
        let one = [declared("x", "FP32", &[1, -1])];
        let fixed = ModelConfig::of_text("max_batch_size: 8 input { name: 'x' dims: [24] }").unwrap();
        assert_eq!(fixed.shapes(&one), [[("x".to_string(), vec![1, 24])]], "its rows are not open");
        assert!(shapes("max_batch_size: 8 input { name: 'x' dims: [3, -1] }").is_empty());
        assert!(shapes("max_batch_size: 8").is_empty());
    }
}
