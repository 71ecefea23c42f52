//! Names that may come from clients: none of them leads out of the place that it is used in.

use std::path::{Component, Path};

/// Bytes of a name at most: what file systems take.
const NAME_BYTES_MAX: usize = 255;

/// Parts of a path at most.
const DEPTH_MAX: usize = 16;

/// Whether this is one name of a file: no path, nothing that is special or hidden, nothing that a log or a
/// terminal would take for more.
pub fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control)
}

/// Whether a path leads to a file below where it begins: relative, every part of it a plain name.
pub fn is_inner_path(path: &str) -> bool {
    let mut parts = path.split('/');
    let normal = |part: Component| matches!(part, Component::Normal(_));
    parts.clone().count() <= DEPTH_MAX && parts.all(is_file_name) && Path::new(path).components().all(normal)
}

/// Whether this is the name of a version: a number from 1 on, written as numbers are.
pub fn version(name: &str) -> Option<u32> {
    let plain = !name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit());
    if plain { name.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_elsewhere() {
        for name in ["model.onnx", "a b", "größe", "1"] {
            assert!(is_file_name(name) && is_inner_path(name), "{name}");
        }
        let long = "x".repeat(256);
        for name in ["", ".", "..", ".hidden", "a/b", "/a", "a\\b", "a\0b", "a\nb", "\u{1b}[0m", &long] {
            assert!(!is_file_name(name), "{name:?}");
        }
        assert!(is_inner_path("1/model.onnx") && is_inner_path("1/data/w.bin"));
        let deep = "a/".repeat(20) + "a";
        for path in ["", "/", "/etc/x", "1/../x", "../x", "1//x", "1/", "./x", "1/.x", "1/a\0", "1\\x", &deep]
        {
            assert!(!is_inner_path(path), "{path:?}");
        }
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version("1"), Some(1));
        assert_eq!(version("10"), Some(10));
        for name in ["", "0", "01", "+1", "-1", "1a", "4294967296", "１"] {
            assert_eq!(version(name), None, "{name}");
        }
    }
}
