//! Which attributes, optional inputs and optional outputs of every operator are honoured. A node with
//! anything else is refused by name: nothing that a file says is ignored.
//!
//! The list is `operators.txt`, a form of an operator after the other with the operator set that brought it:
//!
//! ```text
//! Resize 11: X roi scales sizes? -> Y
//!     mode:string=nearest{nearest|linear} axes:ints? antialias:int=0{0}
//! ```
//!
//! A parameter's `?` says that it may be left out, `*` that any number may follow, and a `!` before it
//! that it is not honoured: it must be left out. An attribute has a type, and then nothing if it must be
//! given, `?` if it need not and has no default, or `=` and its default; braces hold the values that are
//! honoured where not all are. An operator, or a form of it, that is not in the list does not load.

use std::collections::HashMap;
use std::sync::LazyLock;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};

/// The newest operator set whose operators have been compared with the list.
pub(crate) const OPERATOR_SET_MAX: i64 = 28;

static FORMS: LazyLock<HashMap<&str, Vec<Form>>> = LazyLock::new(|| parse(include_str!("operators.txt")));

/// An operator from one operator set on.
struct Form {
    since: i64,
    inputs: Vec<Parameter>,
    outputs: Vec<Parameter>,
    attributes: Vec<Attribute>,
}

struct Parameter {
    name: &'static str,
    count: Count,
    honoured: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    One,
    Optional,
    Any,
}

struct Attribute {
    name: &'static str,
    kind: AttributeType,
    required: bool,
    /// The values that are honoured, as [`text`] writes them; all of them where there is no list.
    honoured: Option<Vec<String>>,
}

/// Why a node of an operator set is not read as its file means it; `None` if it is.
pub(crate) fn refusal(node: &NodeProto, operator_set: i64) -> Option<String> {
    if operator_set == 0 {
        return Some("the model does not say of which operator set its operators are".into());
    }
    if operator_set > OPERATOR_SET_MAX {
        return Some(format!(
            "operator set {operator_set} is newer than {OPERATOR_SET_MAX}, the newest known"
        ));
    }
    let Some(forms) = FORMS.get(node.op_type.as_str()) else {
        return Some("this operator is not known".into());
    };
    let Some(form) = forms.iter().rev().find(|form| form.since <= operator_set) else {
        let since = forms[0].since;
        return Some(format!(
            "of operator set {operator_set}, it is not supported: {since} or a newer one is needed"
        ));
    };
    // What an attribute asks for may be why there are more outputs.
    parameters(&node.input, &form.inputs, "input")
        .or_else(|| attributes(node, form, operator_set))
        .or_else(|| parameters(&node.output, &form.outputs, "output"))
        .or_else(|| contradiction(node))
}

/// Two attributes of a node that may not be given at once. Poolings do not look at the one.
fn contradiction(node: &NodeProto) -> Option<String> {
    let given = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    let auto = given("auto_pad").filter(|auto| auto.s != b"NOTSET" && !node.op_type.ends_with("Pool"))?;
    given("pads")?;
    Some(format!("attribute `pads` is given beside `auto_pad` `{}`", text(auto)))
}

fn attributes(node: &NodeProto, form: &Form, operator_set: i64) -> Option<String> {
    for (index, given) in node.attribute.iter().enumerate() {
        let name = &given.name;
        if node.attribute[..index].iter().any(|other| other.name == *name) {
            return Some(format!("attribute `{name}` is given twice"));
        }
        let Some(known) = form.attributes.iter().find(|known| known.name == name) else {
            return Some(format!(
                "attribute `{name}` is not one of this operator's in operator set {operator_set}"
            ));
        };
        if let Some(reason) = misfit(given, known) {
            return Some(reason);
        }
    }
    let given = |known: &&Attribute| node.attribute.iter().any(|given| given.name == known.name);
    let missing = form.attributes.iter().filter(|known| known.required).find(|known| !given(known))?;
    Some(format!("attribute `{}` is missing", missing.name))
}

fn misfit(given: &AttributeProto, known: &Attribute) -> Option<String> {
    let name = known.name;
    if !given.ref_attr_name.is_empty() {
        return Some(format!("attribute `{name}` stands for one of a function, which there is none of here"));
    }
    if AttributeType::try_from(given.r#type) != Ok(known.kind) {
        let kind = AttributeType::try_from(given.r#type).unwrap_or(AttributeType::Undefined);
        return Some(format!(
            "attribute `{name}` is of type {}, it has to be {}",
            kind.as_str_name(),
            known.kind.as_str_name()
        ));
    }
    let honoured = known.honoured.as_ref()?;
    let value = text(given);
    if honoured.contains(&value) {
        return None;
    }
    let supported = match &honoured[..] {
        [] => "it is not supported".into(),
        [only] => format!("only `{only}` is supported"),
        [first @ .., last] => format!("only `{}` and `{last}` are supported", first.join("`, `")),
    };
    Some(format!("attribute `{name}` is `{value}`: {supported}"))
}

/// The value of an attribute, as the list writes it; of tensors and graphs nothing.
fn text(attribute: &AttributeProto) -> String {
    let bytes = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let join = |parts: Vec<String>| parts.join(",");
    match AttributeType::try_from(attribute.r#type) {
        Ok(AttributeType::Int) => attribute.i.to_string(),
        Ok(AttributeType::Float) => attribute.f.to_string(),
        Ok(AttributeType::String) => bytes(&attribute.s),
        Ok(AttributeType::Ints) => join(attribute.ints.iter().map(i64::to_string).collect()),
        Ok(AttributeType::Floats) => join(attribute.floats.iter().map(f32::to_string).collect()),
        Ok(AttributeType::Strings) => join(attribute.strings.iter().map(bytes).collect()),
        _ => String::new(),
    }
}

/// What does not fit the names that a node gives as its inputs or outputs.
fn parameters(given: &[String], known: &[Parameter], what: &str) -> Option<String> {
    let any = known.last().is_some_and(|last| last.count == Count::Any);
    if given.len() > known.len() && !any {
        return Some(format!("it has {} {what}s, and not more than {} are known", given.len(), known.len()));
    }
    for (index, parameter) in known.iter().enumerate() {
        let name = parameter.name;
        let present = given.get(index).is_some_and(|value| !value.is_empty());
        if present && !parameter.honoured {
            return Some(format!("{what} `{name}` is not supported"));
        }
        // An output that nobody reads may be without a name.
        if !present && parameter.count == Count::One && (what == "input" || index >= given.len()) {
            return Some(format!("{what} `{name}` is missing"));
        }
    }
    let rest = given.get(known.len().saturating_sub(1)..).filter(|_| any && what == "input")?;
    rest.iter().any(String::is_empty).then(|| format!("one of its {what}s is missing"))
}

fn parse(list: &'static str) -> HashMap<&'static str, Vec<Form>> {
    let mut forms: HashMap<&str, Vec<Form>> = HashMap::new();
    let mut operator = "";
    for line in list.lines() {
        if line.starts_with(' ') {
            let form = forms.get_mut(operator).and_then(|forms| forms.last_mut());
            form.expect("attributes follow a form").attributes.extend(line.split_whitespace().map(attribute));
            continue;
        }
        let (head, rest) = line.split_once(": ").expect("`OPERATOR SINCE: ...`");
        let (name, since) = head.split_once(' ').expect("`OPERATOR SINCE`");
        let (inputs, outputs) = rest.split_once("-> ").expect("`INPUTS -> OUTPUTS`");
        let since = since.parse().expect("a number of an operator set");
        operator = name;
        let side = |side: &'static str| side.split_whitespace().map(parameter).collect();
        let form = Form { since, inputs: side(inputs), outputs: side(outputs), attributes: vec![] };
        forms.entry(name).or_default().push(form);
    }
    forms
}

fn parameter(word: &'static str) -> Parameter {
    let (honoured, word) = word.strip_prefix('!').map_or((true, word), |word| (false, word));
    let (name, count) = match (word.strip_suffix('?'), word.strip_suffix('*')) {
        (Some(name), _) => (name, Count::Optional),
        (_, Some(name)) => (name, Count::Any),
        _ => (word, Count::One),
    };
    Parameter { name, count, honoured }
}

fn attribute(word: &'static str) -> Attribute {
    let (word, honoured) = match word.strip_suffix('}').and_then(|word| word.split_once('{')) {
        Some((word, values)) => (word, Some(values.split('|').filter(|value| !value.is_empty()))),
        None => (word, None),
    };
    let honoured = honoured.map(|values| values.map(str::to_owned).collect());
    let (name, kind) = word.split_once(':').expect("`NAME:TYPE`");
    let end = kind.find(['?', '=']).unwrap_or(kind.len());
    Attribute { name, kind: kind_of(&kind[..end]), required: end == kind.len(), honoured }
}

fn kind_of(word: &str) -> AttributeType {
    use AttributeType::*;
    let kinds = [Float, Int, String, Tensor, Graph, SparseTensor, Floats, Ints, Strings, TypeProto];
    let named = kinds.into_iter().find(|kind| kind.as_str_name().eq_ignore_ascii_case(word));
    named.expect("a type of attributes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow, import};

    fn node(operator: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        NodeProto {
            op_type: operator.into(),
            input: names(inputs),
            output: names(outputs),
            attribute,
            ..NodeProto::default()
        }
    }

    fn int(name: &str, i: i64) -> AttributeProto {
        AttributeProto {
            name: name.into(),
            r#type: AttributeType::Int as i32,
            i,
            ..AttributeProto::default()
        }
    }

    fn string(name: &str, s: &str) -> AttributeProto {
        let r#type = AttributeType::String as i32;
        AttributeProto { name: name.into(), r#type, s: s.into(), ..AttributeProto::default() }
    }

    #[test]
    fn every_operator_of_the_list_can_be_read() {
        let onnx = super::super::onnx();
        for (operator, forms) in FORMS.iter() {
            let read = onnx.op_register.0.contains_key(*operator);
            let known = read || flow::is_of_programs(operator) || import::reads(operator);
            // What is told more about than that it is not known.
            let told = super::super::refusal(&node(operator, &["x"], &["y"], vec![]), 24).is_some();
            assert!(known || told, "{operator}");
            assert!(forms.is_sorted_by_key(|form| form.since), "{operator}: forms out of order");
        }
        assert!(FORMS.len() > 100);
    }

    #[test]
    fn attributes_are_honoured_or_refused() {
        let concat = |attributes| refusal(&node("Concat", &["a", "b"], &["c"], attributes), 17);
        assert_eq!(concat(vec![int("axis", 1)]), None);
        let refused = [
            (vec![], "attribute `axis` is missing"),
            (vec![int("axis", 1), int("axis", 0)], "attribute `axis` is given twice"),
            (
                vec![int("axis", 1), int("axes", 0)],
                "attribute `axes` is not one of this operator's in operator set 17",
            ),
            (vec![string("axis", "1")], "attribute `axis` is of type STRING, it has to be INT"),
            (
                vec![AttributeProto { r#type: 0, ..int("axis", 1) }],
                "attribute `axis` is of type UNDEFINED, it has to be INT",
            ),
        ];
        for (attributes, reason) in refused {
            assert_eq!(concat(attributes).as_deref(), Some(reason));
        }
        let function = AttributeProto { ref_attr_name: "other".into(), ..int("axis", 0) };
        assert!(concat(vec![function]).is_some());
    }

    #[test]
    fn padding_is_said_once() {
        let r#type = AttributeType::Ints as i32;
        let pads = AttributeProto { name: "pads".into(), r#type, ints: vec![0; 4], ..Default::default() };
        let conv = |auto: &str| {
            let attributes = vec![string("auto_pad", auto), pads.clone()];
            refusal(&node("Conv", &["x", "w"], &["y"], attributes), 17)
        };
        assert_eq!(conv("NOTSET"), None);
        let reason = "attribute `pads` is given beside `auto_pad` `SAME_UPPER`";
        assert_eq!(conv("SAME_UPPER").as_deref(), Some(reason));
    }

    #[test]
    fn the_operator_set_decides_on_the_form() {
        let reshape = |operator_set| {
            refusal(&node("Reshape", &["x", "shape"], &["y"], vec![int("allowzero", 1)]), operator_set)
        };
        assert_eq!(reshape(14), None);
        let unknown = "attribute `allowzero` is not one of this operator's in operator set 13";
        assert_eq!(reshape(13).as_deref(), Some(unknown));
        let old = "of operator set 4, it is not supported: 5 or a newer one is needed";
        assert_eq!(reshape(4).as_deref(), Some(old));
        assert!(reshape(OPERATOR_SET_MAX + 1).is_some_and(|reason| reason.contains("newer")));
    }

    #[test]
    fn inputs_and_outputs_are_counted() {
        let clip = |inputs: &[&str]| refusal(&node("Clip", inputs, &["y"], vec![]), 17);
        assert_eq!(clip(&["x", "", "high"]), None);
        assert_eq!(clip(&["", "low"]).as_deref(), Some("input `input` is missing"));
        let many = "it has 4 inputs, and not more than 3 are known";
        assert_eq!(clip(&["x", "low", "high", "more"]).as_deref(), Some(many));
        let sum = |inputs: &[&str]| refusal(&node("Sum", inputs, &["y"], vec![]), 17);
        assert_eq!(sum(&["a", "b", "c"]), None);
        assert!(sum(&["a", "", "c"]).is_some());
        let top = |outputs: &[&str]| refusal(&node("TopK", &["x", "k"], outputs, vec![]), 17);
        assert_eq!(top(&["", "indices"]), None);
        assert_eq!(top(&["values"]).as_deref(), Some("output `Indices` is missing"));
    }
}
