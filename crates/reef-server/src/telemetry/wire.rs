//! Spans as OTLP's JSON has them: ids in hexadecimal digits, 64-bit numbers as texts.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::telemetry::Ended;

/// OTLP's numbers for kinds of spans and for a status.
const KIND_INTERNAL: u8 = 1;
const KIND_SERVER: u8 = 2;
const STATUS_ERROR: u8 = 2;

/// The body of a request to a collector. `id` gives a new number each time.
pub(super) fn request(batch: &[Ended], id: &mut impl FnMut() -> u64) -> Value {
    let spans: Vec<Value> = batch.iter().flat_map(|ended| spans(ended, id)).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            attribute("service.name", &json!("reef")),
            attribute("service.version", &json!(env!("CARGO_PKG_VERSION"))),
        ] },
        "scopeSpans": [{ "scope": { "name": "reef-server" }, "spans": spans }],
    }] })
}

/// The span of a request, and those of its parts.
fn spans(ended: &Ended, id: &mut impl FnMut() -> u64) -> Vec<Value> {
    let parent = ended.parent.as_ref();
    let trace = format!("{:032x}", parent.map_or(1, |parent| parent.trace));
    let own = format!("{:016x}", id().max(1));
    let mut span = span(&trace, &own, &ended.name, KIND_SERVER, (ended.start, ended.end));
    let attributes = ended.attributes.iter().map(|(name, value)| attribute(name, value));
    span["attributes"] = attributes.collect();
    if let Some(asked) = parent.and_then(|parent| parent.span) {
        span["parentSpanId"] = format!("{asked:016x}").into();
    }
    if let Some(parent) = parent.filter(|parent| !parent.state.is_empty()) {
        span["traceState"] = parent.state.clone().into();
    }
    if let Some(fault) = &ended.fault {
        span["status"] = json!({ "code": STATUS_ERROR, "message": fault });
    }
    let mut spans = vec![span];
    for (name, start, end) in &ended.parts {
        let part = format!("{:016x}", id().max(1));
        let mut part = self::span(&trace, &part, name, KIND_INTERNAL, (*start, *end));
        part["parentSpanId"] = own.clone().into();
        spans.push(part);
    }
    spans
}

fn span(trace: &str, id: &str, name: &str, kind: u8, (start, end): (SystemTime, SystemTime)) -> Value {
    json!({
        "traceId": trace,
        "spanId": id,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": nanos(start),
        "endTimeUnixNano": nanos(end),
    })
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

fn attribute(name: &str, value: &Value) -> Value {
    let value = match value {
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        Value::Bool(flag) => json!({ "boolValue": flag }),
        other => json!({ "stringValue": other }),
    };
    json!({ "key": name, "value": value })
}
