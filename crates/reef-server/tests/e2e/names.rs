//! The names of the metrics: what the server says, what the documentation lists and what Grafana asks for.

use std::collections::{BTreeMap, BTreeSet};

use reef_engine::{Level, ModelSettings};
use serde_json::Value;

use crate::fixture::{Fixture, x, y};

/// A family: its kind and the names of its labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

fn read(path: &str) -> String {
    let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rows of the tables: name, kind, labels, meaning.
fn documented() -> Families {
    let page = read("docs/METRICS.md");
    let mut families = Families::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {row}") };
        assert!(!meaning.is_empty(), "{row}");
        let labels =
            labels.split(',').map(|label| label.trim().to_string()).filter(|label| !label.is_empty());
        let name = name.trim_matches('`').to_string();
        let before = families.insert(name, (kind.to_string(), labels.collect()));
        assert_eq!(before, None, "{row} stands there twice");
    }
    families
}

/// What a server with models of both classes says; families without a sample have no labels.
fn told() -> Families {
    let fixture = Fixture::with_m();
    fixture.model("rt", &[x()], &[y()], ModelSettings::real_time(Level::TOP));
    let mut client = fixture.client();
    client.infer(r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#);
    let answer = client.get("/metrics");
    let mut families = Families::new();
    let mut family = String::new();
    for line in answer.text().lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            family = name.to_string();
            families.insert(family.clone(), (kind.to_string(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.rsplit_once('}').unwrap().0.split("\",");
            let names = labels.map(|label| label.split_once('=').unwrap().0.to_string());
            let known = &mut families.get_mut(&family).unwrap().1;
            known.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

#[test]
fn the_documentation_lists_what_the_server_says() {
    let (documented, mut told) = (documented(), told());
    // Memory of the device under test has no limit, so there is no sample that would show its labels.
    let unbounded = "reef_device_memory_limit_bytes";
    assert!(told[unbounded].1.is_empty());
    told.insert(unbounded.into(), documented[unbounded].clone());
    assert_eq!(documented, told);
}

/// Every text under a key of this name, wherever it is.
fn texts<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                found.extend(value.as_str().filter(|_| keys.contains(&key.as_str())));
                texts(value, keys, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, keys, found)),
        _ => {}
    }
}

#[test]
fn grafanas_dashboard_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/reef.json")).unwrap();
    let documented = documented();
    let mut queries = Vec::new();
    texts(&dashboard, &["expr", "query"], &mut queries);
    let mut used = BTreeSet::new();
    for query in queries {
        let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let mut of_models = false;
        for word in words.filter(|word| ["reef_", "nv_", "process_"].iter().any(|p| word.starts_with(p))) {
            let parts = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
            let family = match parts.filter(|family| documented.contains_key(*family)) {
                Some(family) => {
                    assert_eq!(documented[family].0, "histogram", "{query}");
                    family
                }
                None => word,
            };
            let (kind, labels) = documented.get(family).unwrap_or_else(|| panic!("no {word}: {query}"));
            assert!(kind != "histogram" || parts.is_some(), "{word} is a histogram: {query}");
            of_models |= labels.contains("model");
            if kind == "counter" || kind == "histogram" {
                assert!(query.contains("rate("), "{word} only rises: {query}");
            }
            used.insert(family.to_string());
        }
        assert!(of_models || !query.contains("by (model"), "nothing here has a model: {query}");
    }
    assert!(used.len() >= 15, "{used:?}");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
}
