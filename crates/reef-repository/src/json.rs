//! A configuration in JSON, as protocol buffers write it: into the same form as the text.
//!
//! Names are taken in both spellings (`maxBatchSize`, `max_batch_size`), and numbers as strings too, as
//! 64-bit integers are written there. Which fields are maps is the only thing known of the schema.

use serde_json::{Map, Value as Json};

use crate::text::{At, DEPTH_MAX, Fault, Field, Message, TEXT_BYTES_MAX, Value};

/// Fields that are maps: in JSON objects, in text messages of `key` and `value`.
const MAPS: [&str; 5] =
    ["parameters", "inputs", "priority_queue_policy", "metric_tags", "cc_model_filenames"];

/// Reads a configuration.
pub fn parse(text: &str) -> Result<Message, Fault> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Fault::new(None, format!("{} bytes, at most {TEXT_BYTES_MAX} are read", text.len())));
    }
    let json: Json = serde_json::from_str(text).map_err(|error| {
        let place = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let at = At { line: place(error.line()), column: place(error.column()) };
        Fault::new(Some(at), error.to_string())
    })?;
    match &json {
        Json::Object(object) => message(object, 0),
        _ => Err(Fault::new(None, "a configuration is an object")),
    }
}

fn message(object: &Map<String, Json>, depth: usize) -> Result<Message, Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::new(None, format!("messages are nested more than {DEPTH_MAX} deep")));
    }
    let mut fields = Vec::new();
    for (name, json) in object {
        let name = snake(name);
        match json {
            Json::Object(entries) if MAPS.contains(&&*name) => {
                for (key, json) in entries {
                    let mut entry =
                        vec![Field { name: "key".into(), at: None, value: Value::Text(key.clone()) }];
                    push(&mut entry, "value", json, depth + 1)?;
                    let value = Value::Message(Message { fields: entry });
                    fields.push(Field { name: name.clone(), at: None, value });
                }
            }
            Json::Array(elements) => {
                for element in elements {
                    if element.is_array() {
                        return Err(Fault::new(None, format!("{name}: a list in a list")));
                    }
                    push(&mut fields, &name, element, depth)?;
                }
            }
            json => push(&mut fields, &name, json, depth)?,
        }
    }
    Ok(Message { fields })
}

/// A field that is not null.
fn push(fields: &mut Vec<Field>, name: &str, json: &Json, depth: usize) -> Result<(), Fault> {
    let value = match json {
        Json::Null => return Ok(()),
        Json::Bool(value) => Value::Word(value.to_string()),
        Json::Number(number) => Value::Number(number.to_string()),
        Json::String(text) => Value::Text(text.clone()),
        Json::Object(object) => Value::Message(message(object, depth + 1)?),
        Json::Array(_) => {
            return Err(Fault::new(None, format!("{name}: a list where one value is expected")));
        }
    };
    fields.push(Field { name: name.into(), at: None, value });
    Ok(())
}

/// `maxBatchSize` as `max_batch_size`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_configuration_is_refused() {
        let cases = [
            ("", "1:0: EOF while parsing a value at line 1 column 0"),
            ("[]", "a configuration is an object"),
            ("{\"input\": [[1]]}", "input: a list in a list"),
            ("{\"a\":", "1:5: EOF while parsing a value at line 1 column 5"),
        ];
        for (json, expected) in cases {
            assert_eq!(parse(json).unwrap_err().to_string(), expected, "{json}");
        }
        let nested = format!("{}1{}", "{\"a\":".repeat(60), "}".repeat(60));
        assert!(parse(&nested).unwrap_err().what.contains("nested"));
        assert!(parse(&"{\"a\":".repeat(100_000)).is_err());
    }
}
