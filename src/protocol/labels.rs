//! The limits of labels: names and values that a client gives to a sandbox, to find it in the
//! server's list.

use std::collections::BTreeMap;

/// Maximum number of labels of a sandbox.
pub const MAX_LABELS: usize = 64;

/// Maximum length of the key of a label, in bytes. The minimum is 1.
pub const MAX_KEY_BYTES: usize = 63;

/// Maximum length of the value of a label, in bytes.
pub const MAX_VALUE_BYTES: usize = 255;

/// Checks labels. The error says what is wrong with them, after the name of the option.
pub fn check(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > MAX_LABELS {
        let count = labels.len();
        return Err(format!(
            "contains {count} labels; at most {MAX_LABELS} are allowed"
        ));
    }
    labels
        .iter()
        .try_for_each(|(key, value)| check_label(key, value))
}

/// Checks one label, or a filter for one. The error is as for several labels.
pub fn check_label(key: &str, value: &str) -> Result<(), String> {
    let (key_bytes, value_bytes) = (key.len(), value.len());
    if key.is_empty() {
        return Err("contains an empty key".to_owned());
    }
    if key_bytes > MAX_KEY_BYTES {
        return Err(format!(
            "contains a key of {key_bytes} bytes; at most {MAX_KEY_BYTES} are allowed"
        ));
    }
    if key.contains(|it: char| it == '=' || it.is_control()) {
        return Err(format!(
            "contains the key {key:?}, which contains '=' or a control character"
        ));
    }
    if value_bytes > MAX_VALUE_BYTES {
        return Err(format!(
            "contains a value of {value_bytes} bytes; at most {MAX_VALUE_BYTES} are allowed"
        ));
    }
    Ok(())
}
