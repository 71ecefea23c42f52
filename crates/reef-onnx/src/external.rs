//! External data: tensors whose bytes lie in a file beside the model.
//!
//! What a model says about such a file is checked before tract opens it: the file is there, in the model's
//! directory, and holds as many bytes as the tensor's shape needs. So a broken header allocates nothing.

use std::path::{Component, Path};

use tract_onnx::pb::{StringStringEntryProto, TensorProto};

use crate::origin::{Origin, Place};

/// Checks where `tensor` says that its `bytes` bytes are, and writes their number into it if it says none.
pub(crate) fn check(tensor: &mut TensorProto, bytes: usize, origin: Option<&Origin>) -> Result<(), String> {
    let Some(origin) = origin else {
        return Err("its data is in another file: load the model by its path".into());
    };
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key);
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(entry) => match entry.value.parse::<usize>() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(format!("the {key} of its external data, `{}`, is not a number", entry.value)),
        },
    };
    let location = entry("location").map(|entry| entry.value.clone());
    let location = location.filter(|location| !location.is_empty());
    let location = location.ok_or("its external data has no location")?;
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    if length.is_some_and(|length| length != bytes) {
        let length = length.unwrap_or_default();
        return Err(format!("its external data has {length} bytes, shape {:?} needs {bytes}", tensor.dims));
    }
    let held = file_length(&origin.directory, &location)?;
    if offset.checked_add(bytes).is_none_or(|end| end > held) {
        return Err(format!("{location} has {held} bytes, its data needs {bytes} from byte {offset} on"));
    }
    origin.note(bytes);
    if length.is_none() {
        let entry = StringStringEntryProto { key: "length".into(), value: bytes.to_string() };
        tensor.external_data.push(entry);
    }
    Ok(())
}

/// Where a tensor that was checked is, beside the model.
pub(crate) fn place(tensor: &TensorProto, directory: &Path) -> Option<Place> {
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key);
    let offset = entry("offset").and_then(|offset| offset.value.parse().ok()).unwrap_or(0);
    Some(Place { beside: Some(within(directory).join(&entry("location")?.value)), offset })
}

/// The directory as a path that is not empty.
fn within(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

/// Bytes of the file at `location` in the model's directory.
fn file_length(directory: &Path, location: &str) -> Result<usize, String> {
    let path = Path::new(location);
    let inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    if !path.components().all(inside) {
        return Err(format!("its external data, {location}, is outside of the model's directory"));
    }
    let directory = within(directory);
    let cannot =
        |error: std::io::Error| format!("its external data, {}: {error}", directory.join(path).display());
    let found = directory.join(path).canonicalize().map_err(cannot)?;
    if !found.starts_with(directory.canonicalize().map_err(cannot)?) {
        return Err(format!("its external data, {location}, is a link out of the model's directory"));
    }
    let found = std::fs::metadata(found).map_err(cannot)?;
    match found.is_file() {
        true => Ok(usize::try_from(found.len()).unwrap_or(usize::MAX)),
        false => Err(format!("its external data, {location}, is not a file")),
    }
}
