//! Rules that hold for many fields: text, paths, numbers, enums.

use std::path::{Component, Path, PathBuf};

use super::Refusal;

/// Longest name of an object of Kubernetes (RFC 1123 subdomain).
const NAME_MAX: usize = 253;

/// Not empty, and fit to be handed to the kernel or to a plugin.
pub(super) fn name(field: &str, value: &str) -> Result<String, Refusal> {
    if value.is_empty() {
        return Err(Refusal::missing(field, "give it a value"));
    }
    if value.len() > NAME_MAX {
        return Err(Refusal::new(field, value, "give at most 253 characters"));
    }
    // ';' and '=' separate CNI_ARGS; a '/' or a control character has no place in a name.
    if value.chars().any(|c| c.is_control() || matches!(c, '/' | ';' | '=')) {
        return Err(Refusal::new(field, value, "leave out '/', ';', '=' and control characters"));
    }
    Ok(value.to_owned())
}

/// Text that can be passed to the kernel: without NUL.
pub(super) fn text(field: &str, value: &str) -> Result<String, Refusal> {
    if value.contains('\0') {
        return Err(Refusal::new(field, value, "leave out the NUL character"));
    }
    Ok(value.to_owned())
}

/// One word on a line of a configuration file.
pub(super) fn word(field: &str, value: &str) -> Result<String, Refusal> {
    if value.is_empty() || value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Refusal::new(field, value, "give one word without white space"));
    }
    Ok(value.to_owned())
}

/// An absolute path of the host. `..` stays: the kernel resolves it, as it does for everybody.
pub(super) fn absolute(field: &str, value: &str) -> Result<PathBuf, Refusal> {
    text(field, value)?;
    if !value.starts_with('/') {
        return Err(Refusal::new(field, value, "give an absolute path"));
    }
    Ok(PathBuf::from(value))
}

/// An absolute path in a container, with `.`, `..` and doubled slashes resolved by name.
pub(super) fn in_container(field: &str, value: &str) -> Result<PathBuf, Refusal> {
    let mut clean = PathBuf::from("/");
    for part in absolute(field, value)?.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::Normal(part) => clean.push(part),
            _ => {}
        }
    }
    Ok(clean)
}

/// A relative path of plain names: nothing in it leads out of where it is joined.
pub(super) fn beneath(field: &str, value: &str) -> Result<PathBuf, Refusal> {
    text(field, value)?;
    let path = Path::new(value);
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !path.components().all(plain) || value.ends_with('/') {
        let advice = "give a relative path to a file, without '..'";
        return Err(Refusal::new(field, value, advice));
    }
    Ok(path.components().filter(|part| *part != Component::CurDir).collect())
}

/// A known value of an enum.
pub(super) fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, Refusal> {
    E::try_from(value).map_err(|_| Refusal::new(field, value, "use a value that CRI v1 defines"))
}

/// A user or group id; the kernel keeps the last one for "none".
pub(super) fn id(field: &str, value: i64) -> Result<u32, Refusal> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Refusal::new(field, value, "give an id from 0 to 4294967294")),
    }
}

/// A number within bounds.
pub(super) fn within(
    field: &str,
    value: i64,
    bounds: std::ops::RangeInclusive<i64>,
) -> Result<i64, Refusal> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let advice = format!("give a value from {} to {}", bounds.start(), bounds.end());
    Err(Refusal::new(field, value, advice))
}
